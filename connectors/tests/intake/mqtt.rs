//! Subscribing: a server that the tests play, byte by byte, and a real one where there is one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use millstream_connectors::broker::Broker;
use millstream_connectors::broker::simulated::{Injected, Operation};
use millstream_connectors::sources::intake::Receiver;
use millstream_engine::source::Position;
use rumqttc::{Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use super::{Place, TOPIC, narrow, problems};

const CONNECT: u8 = 0x10;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const PINGREQ: u8 = 0xc0;
const DISCONNECT: u8 = 0xe0;

/// A server that does as it is told.
struct Server(TcpListener);

/// Its end of a connection.
struct Connection(TcpStream);

impl Server {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    fn config(&self) -> Value {
        json!({"server": self.0.local_addr().expect("it listens").to_string(), "topics": ["sensors/+/heat", "$share/g/all/#"]})
    }

    /// The next client's connection, and its CONNECT.
    fn accept(&self) -> (Connection, Vec<u8>) {
        let mut connection = Connection(self.0.accept().expect("it listens").0);
        let connect = connection.expect(CONNECT);
        (connection, connect)
    }

    /// A client that has connected and subscribed.
    fn subscribed(&self) -> Connection {
        let (mut connection, _) = self.accept();
        connection.send(&[0x20, 2, 0, 0]);
        connection.subscribe([1, 1]);
        connection
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the client is there");
    }

    /// The next packet: its first byte and what is in it. `None` at the end.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        self.0.read_exact(&mut first).ok()?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).ok()?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        Some((first[0], body))
    }

    /// What is in the next packet, which must be of this kind; pings are answered.
    fn expect(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (first, body) = self.packet().expect("the client goes on");
            if first == PINGREQ {
                self.send(&[0xd0, 0]);
                continue;
            }
            assert_eq!(first, kind, "{body:?}");
            return body;
        }
    }

    fn subscribe(&mut self, codes: [u8; 2]) {
        let body = self.expect(SUBSCRIBE);
        let filters = [&[0, 14][..], b"sensors/+/heat", &[1, 0, 14], b"$share/g/all/#", &[1]].concat();
        assert_eq!(body[2..], filters, "both with QoS 1");
        self.send(&[0x90, 4, body[0], body[1], codes[0], codes[1]]);
    }

    /// Sends a record that asks to be acknowledged.
    fn publish(&mut self, packet: u16, topic: &str, payload: &[u8]) {
        self.publish_with(Some(packet), topic, payload);
    }

    fn publish_with(&mut self, packet: Option<u16>, topic: &str, payload: &[u8]) {
        let body = [
            &(topic.len() as u16).to_be_bytes()[..],
            topic.as_bytes(),
            &packet.map_or(Vec::new(), |packet| packet.to_be_bytes().to_vec()),
            payload,
        ];
        let body = body.concat();
        let mut bytes = vec![if packet.is_some() { 0x32 } else { 0x30 }];
        let mut rest = body.len();
        while rest > 0x7f {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        self.send(&[bytes, body].concat());
    }

    /// Which packet the next one acknowledges.
    fn acknowledged(&mut self) -> u16 {
        let body = self.expect(PUBACK);
        u16::from_be_bytes([body[0], body[1]])
    }

    /// Whether something has arrived.
    fn has_more(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket");
        let arrived = self.0.peek(&mut [0]).is_ok();
        self.0.set_nonblocking(false).expect("a socket");
        arrived
    }
}

fn start(place: &Place, server: &Server) -> Receiver {
    place.start("mqtt", &server.config())
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn finds_all_problems() {
    let config = json!({
        "server": "host", "topics": ["a/#/b", "ok", ""], "client_id": "", "password": "", "keep_alive_seconds": 0,
        "max_record_bytes": 0, "topic": "a/b", "partitions": 0,
    });
    let expected = [
        "server: bad-address",
        "topics.0: bad-filter",
        "topics.2: bad-filter",
        "client_id: bad-value",
        "password: bad-value",
        "password: no-user",
        "topic: bad-topic-name",
        "partitions: bad-value",
        "keep_alive_seconds: bad-value",
        "max_record_bytes: bad-value",
    ];
    assert_eq!(problems("mqtt", &config), expected);
    assert_eq!(problems("mqtt", &json!({"server": "host:1883", "topics": []})), ["topics: bad-value"]);
    for server in ["", ":1883", "a b:1", "::1:1883", "mqtt://host:1883", "host:70000"] {
        assert_eq!(problems("mqtt", &json!({"server": server, "topics": ["#"]})), ["server: bad-address"], "{server}");
    }
    for server in ["host:1883", "127.0.0.1:1", "[::1]:1883"] {
        assert!(problems("mqtt", &json!({"server": server, "topics": ["#"]})).is_empty(), "{server}");
    }
}

#[test]
fn it_logs_in_with_a_session_that_stays() {
    let (place, server) = (Place::new(), Server::new());
    let mut config = server.config();
    (config["user"], config["password"], config["keep_alive_seconds"]) = (json!("u"), json!("s3cret"), json!(7));
    let _receiver = place.start("mqtt", &config);
    let (_connection, connect) = server.accept();
    // MQTT 3.1.1; user, password, no clean session; the time; who, and with what.
    let expected =
        [&[0, 4][..], b"MQTT", &[4, 0xc0, 0, 7, 0, 13], TOPIC.as_bytes(), &[0, 1], b"u", &[0, 6], b"s3cret"].concat();
    assert_eq!(connect, expected);
}

#[test]
fn a_record_is_acknowledged_once_it_is_durable() {
    let (place, server) = (Place::new(), Server::new());
    let held = place.hold_commits();
    let _receiver = start(&place, &server);
    let mut connection = server.subscribed();
    connection.publish(5, "sensors/1/heat", b"21.5");
    held.reached();
    assert!(place.kept().is_empty() && !connection.has_more());
    held.decide(Injected::Nothing);
    assert_eq!(connection.acknowledged(), 5);
    assert_eq!(place.kept(), [pair("sensors/1/heat", "21.5")]);
    drop(held);
    // Many, and one that needs no acknowledgement, keep their order.
    connection.publish_with(None, "all/x/y", b"");
    (6..206).for_each(|number| connection.publish(number, "sensors/2/heat", number.to_string().as_bytes()));
    assert!((6..206).all(|number| connection.acknowledged() == number));
    let expected = [pair("sensors/1/heat", "21.5"), pair("all/x/y", "")].into_iter();
    let expected: Vec<_> = expected.chain((6..206).map(|number| pair("sensors/2/heat", &number.to_string()))).collect();
    assert_eq!(place.kept(), expected);
}

#[test]
fn nothing_is_acknowledged_while_appends_fail() {
    let (place, server) = (Place::new(), Server::new());
    let held = place.hold_commits();
    let _receiver = start(&place, &server);
    let mut connection = server.subscribed();
    connection.publish(1, "all/a", b"first");
    // Definitely undone, then an open outcome, then a lost acknowledgement: the record is there, but nobody knows.
    for what in [Injected::FailBefore, Injected::Hang, Injected::FailAfter] {
        held.reached();
        assert!(!connection.has_more());
        held.decide(what);
    }
    held.reached();
    assert!(!connection.has_more());
    assert_eq!(place.kept(), [pair("all/a", "first")]);
    held.decide(Injected::Nothing);
    assert_eq!(connection.acknowledged(), 1);
    drop(held);
    connection.publish(2, "all/a", b"second");
    assert_eq!(connection.acknowledged(), 2);
    let values: Vec<_> = place.kept().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["first", "first", "second"], "at least once, and in order");
}

/// Packets are numbered anew on each connection. What came on one that is lost must not be acknowledged on the next,
/// where its number may be another record's.
#[test]
fn a_lost_connection_is_not_acknowledged_for() {
    let (place, server) = (Place::new(), Server::new());
    let held = place.hold_commits();
    let _receiver = start(&place, &server);
    let mut first = server.subscribed();
    first.publish(7, "all/a", b"old");
    held.reached();
    drop(first);
    let (mut second, _) = server.accept();
    // The session is still there, so nothing is subscribed to again.
    second.send(&[0x20, 2, 1, 0]);
    second.publish(7, "all/a", b"new");
    held.decide(Injected::Nothing);
    held.reached();
    assert_eq!(place.kept(), [pair("all/a", "old")]);
    held.decide(Injected::Nothing);
    assert_eq!(second.acknowledged(), 7);
    drop(held);
    second.publish(8, "all/a", b"next");
    assert_eq!(second.acknowledged(), 8, "7 was acknowledged once");
    assert_eq!(place.kept(), ["old", "new", "next"].map(|value| pair("all/a", value)));
}

#[test]
fn a_lost_session_is_subscribed_to_again() {
    let (place, server) = (Place::new(), Server::new());
    let _receiver = start(&place, &server);
    let (mut away, _) = server.accept();
    away.send(&[0x20, 2, 0, 3]);
    drop(away);
    drop(server.accept());
    drop(server.subscribed());
    let mut connection = server.subscribed();
    connection.publish(1, "all/a", b"x");
    assert_eq!(connection.acknowledged(), 1);
    assert!(place.faults.try_recv().is_err());
}

#[test]
fn a_refused_login_halts() {
    let cases = [
        (2, "it does not take the `client_id`"),
        (4, "user or password is wrong"),
        (5, "the client is not allowed to connect; it may need a `user` and a `password`"),
    ];
    for (code, why) in cases {
        let (place, server) = (Place::new(), Server::new());
        let _receiver = start(&place, &server);
        let (mut connection, _) = server.accept();
        connection.send(&[0x20, 2, 0, code]);
        let fault = place.faults.recv().expect("it halts");
        let address = server.0.local_addr().expect("it listens");
        assert_eq!(fault.message, format!("{TOPIC}: the MQTT server {address} refuses the login: {why}"));
    }
}

#[test]
fn a_refused_subscription_halts() {
    let (place, server) = (Place::new(), Server::new());
    let _receiver = start(&place, &server);
    let (mut connection, _) = server.accept();
    connection.send(&[0x20, 2, 0, 0]);
    connection.subscribe([1, 0x80]);
    let fault = place.faults.recv().expect("it halts");
    assert!(fault.message.ends_with("refuses the subscription to `$share/g/all/#`; it has to allow it"), "{fault}");
}

#[test]
fn what_is_not_wanted_is_acknowledged_and_dropped() {
    let (place, server) = (Place::new(), Server::new());
    let mut config = server.config();
    config["max_record_bytes"] = json!(1000);
    let _receiver = place.start("mqtt", &config);
    let mut connection = server.subscribed();
    connection.publish(1, "sensors/1/heat", &[b'x'; 1001]);
    assert_eq!(connection.acknowledged(), 1);
    connection.publish(2, "sensors/1/wind", b"from a subscription of earlier times");
    assert_eq!(connection.acknowledged(), 2);
    connection.publish(3, "sensors/1/heat", &[b'x'; 1000]);
    assert_eq!(connection.acknowledged(), 3);
    assert_eq!(place.kept(), [pair("sensors/1/heat", &"x".repeat(1000))]);
}

#[test]
fn a_record_that_the_broker_refuses_halts() {
    let (place, server) = (Place::new(), Server::new());
    let (broker, _folder) = narrow(20);
    let receiver = place.start_on(broker, "mqtt", &server.config()).expect("it starts");
    let mut connection = server.subscribed();
    connection.publish(1, "all/a", &[b'x'; 15]);
    assert_eq!(connection.acknowledged(), 1);
    connection.publish(2, "all/a", &[b'x'; 16]);
    let fault = place.faults.recv().expect("it halts");
    let expected = "message 0 for topic `shop.readings` has 21 bytes, more than the 20 allowed";
    assert_eq!(fault.message, format!("{TOPIC} cannot keep its records: {expected}"));
    drop(receiver);
    connection.expect(DISCONNECT);
}

#[test]
fn it_says_goodbye_once_all_is_acknowledged() {
    let (place, server) = (Place::new(), Server::new());
    let held = place.hold_commits();
    let receiver = start(&place, &server);
    let mut connection = server.subscribed();
    connection.publish(1, "all/a", b"x");
    held.reached();
    thread::scope(|scope| {
        scope.spawn(|| drop(receiver));
        held.decide(Injected::Nothing);
        assert_eq!(connection.acknowledged(), 1);
        connection.expect(DISCONNECT);
    });
    assert_eq!(place.kept().len(), 1);
}

/// A broker that never comes back does not keep a run from ending; the server still has the record.
#[test]
fn it_ends_without_what_cannot_be_kept() {
    let (place, server) = (Place::new(), Server::new());
    let (reach, reached) = std::sync::mpsc::channel();
    let receiver = start(&place, &server);
    place.broker.inject(move |call| {
        let _ = reach.send(call.operation);
        if call.operation == Operation::Read { Injected::Nothing } else { Injected::FailBefore }
    });
    let mut connection = server.subscribed();
    connection.publish(1, "all/a", b"x");
    reached.recv().expect("it tries");
    drop(receiver);
    assert_eq!(connection.packet(), None, "no acknowledgement");
    assert!(place.kept().is_empty());
}

/// Eclipse Mosquitto (Debian: `apt-get install mosquitto`), for as long as a test takes.
struct Mosquitto {
    process: Child,
    port: u16,
}

impl Mosquitto {
    /// `None` where it is not installed.
    fn start(folder: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let config = folder.join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).expect("a new folder");
        let program = ["/usr/sbin/mosquitto", "mosquitto"].into_iter().find_map(|program| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        });
        Some(Self { process: program?, port })
    }

    /// Publishes, and waits until the server has all.
    fn publish(&self, client: &str, payloads: &[String]) {
        let mut options = MqttOptions::new(client, "127.0.0.1", self.port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = rumqttc::Client::new(options, payloads.len() + 1);
        for payload in payloads {
            client.try_publish("all/a", QoS::AtLeastOnce, false, payload.as_str()).expect("there is room");
        }
        let acknowledged = connection.iter().filter(|event| matches!(event, Ok(Event::Incoming(Packet::PubAck(_)))));
        assert_eq!(acknowledged.take(payloads.len()).count(), payloads.len());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn a_real_server_keeps_what_comes_while_nobody_listens() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let Some(server) = Mosquitto::start(folder.path()) else {
        return println!("skipped: mosquitto is not installed");
    };
    let place = Place::new();
    let config = json!({"server": format!("127.0.0.1:{}", server.port), "topics": ["all/#"]});
    // Not a count: some of the greetings below may come late.
    let wait_for = |last: &str| {
        let mut reader = place.broker.open(TOPIC, &[Position { partition: 0, offset: 0 }]).expect("it exists");
        while place.kept().iter().all(|(_, value)| value != last) {
            reader.read(1 << 20, Duration::from_secs(10)).expect("it can be read").expect("more records come");
        }
    };
    let numbers = |from: u32, to: u32| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
    let receiver = place.start("mqtt", &config);
    // Published again and again until the subscription is there: what comes before it is nobody's.
    let mut asked = 0;
    while place.kept().is_empty() {
        asked += 1;
        server.publish("asks", &["hello".to_owned()]);
        assert!(asked < 10_000, "no subscription");
    }
    drop(receiver);
    let before = place.kept().len();
    server.publish("sensor", &numbers(0, 500));
    assert_eq!(place.kept().len(), before);
    let receiver = place.start("mqtt", &config);
    wait_for("499");
    server.publish("sensor", &numbers(500, 600));
    wait_for("599");
    drop(receiver);
    let kept = place.kept();
    let values: Vec<_> = kept.iter().map(|(_, value)| value.clone()).filter(|value| value != "hello").collect();
    assert_eq!(values, numbers(0, 600), "each once, in order");
}
