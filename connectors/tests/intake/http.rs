//! Posting.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use millstream_connectors::broker::simulated::Injected;
use millstream_connectors::broker::{Broker, Failure};
use millstream_engine::Fault;
use serde_json::{Value, json};

use super::{Place, narrow, problems};

const MIB: usize = 1 << 20;

fn config() -> Value {
    json!({"listen": "127.0.0.1:0", "path": "/readings"})
}

/// A connection to a receiver.
struct Client(TcpStream);

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    /// The status with what it is about, for comparison.
    fn shown(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).expect("the body is JSON");
        match (body["records"].as_u64(), body["error"].as_str()) {
            (Some(records), None) => format!("{} {records}", self.status),
            (None, Some(error)) => format!("{} {error}", self.status),
            _ => panic!("{self:?}"),
        }
    }
}

impl Client {
    fn new(address: Option<SocketAddr>) -> Self {
        Self(TcpStream::connect(address.expect("it listens")).expect("it listens"))
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the connection is open");
    }

    fn post(&mut self, headers: &str, body: &str) {
        self.send(&head(headers, body.len()));
        self.send(body);
    }

    /// The next answer; `None` if the connection is closed instead.
    fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) => return None,
                Ok(_) => head.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
        let head = String::from_utf8(head).expect("headers are text").to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        self.0.read_exact(&mut body).expect("as long as it says");
        Some(Answer { status, headers: head, body: String::from_utf8(body).expect("text") })
    }

    fn shown(&mut self) -> String {
        self.answer().map_or("closed".to_owned(), |answer| answer.shown())
    }

    /// Whether something has arrived.
    fn has_answer(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket");
        let arrived = self.0.peek(&mut [0]).is_ok();
        self.0.set_nonblocking(false).expect("a socket");
        arrived
    }
}

fn head(headers: &str, length: usize) -> String {
    let content_type = if headers.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
    format!("POST /readings HTTP/1.1\r\nHost: localhost\r\n{content_type}{headers}Content-Length: {length}\r\n\r\n")
}

#[test]
fn finds_all_problems() {
    let config = json!({
        "listen": "everywhere", "path": "readings", "token": "", "topic": "a/b", "max_body_bytes": 0,
        "max_connections": 0, "header_seconds": -1, "timeout_seconds": 1e300,
    });
    let expected = [
        "listen: bad-address",
        "token: bad-token",
        "max_body_bytes: bad-value",
        "max_connections: bad-value",
        "header_seconds: bad-value",
        "timeout_seconds: bad-value",
        "path: bad-path",
        "topic: bad-topic-name",
    ];
    assert_eq!(problems("http", &config), expected);
    assert_eq!(problems("http", &json!({"listen": "127.0.0.1:1", "partitions": 0})), ["partitions: bad-value"]);
    assert_eq!(problems("http", &json!({"listen": "0.0.0.0:8080"})), ["listen: no-token"]);
    assert!(problems("http", &json!({"listen": "0.0.0.0:8080", "token": "s3cret"})).is_empty());
}

#[test]
fn answers_what_was_kept_and_why_something_was_not() {
    let place = Place::new();
    let receiver = place.start("http", &config());
    let lines = "Content-Type: application/x-ndjson\r\n";
    let typed = |name: &str| format!("Content-Type: {name}\r\n");
    let cases = [
        (head("", 2) + "{}", "202 1"),
        (head("X-Key: k\r\n", 9) + "{\n\"a\": 1}", "202 1"),
        (head(&typed("text/csv; charset=utf-8"), 3) + "1,2", "202 1"),
        (head(lines, 12) + "1\r\n\n  \n2\n3\n\n", "202 3"),
        (head("", 0), "400 the body holds no record"),
        (head(lines, 4) + "\n\n \n", "400 the body holds no record"),
        (head(lines, 20_002) + &"1\n".repeat(10_001), "413 a body holds 10000 records at most"),
        (head(&format!("X-Key: {}\r\n", "k".repeat(1025)), 1) + "1", "400 a key has 1024 bytes at most"),
        (head("", 1_000_001), "413 a body has 1000000 bytes at most"),
        (head("", 1).replace("/readings", "/other") + "1", "404 post to /readings"),
        (head("", 0).replace("POST", "GET"), "405 records are posted"),
        (head("", 0).replace("POST", "OPTIONS"), "405 records are posted"),
        (head(&typed("application/x-www-form-urlencoded"), 1) + "1", "415 say what the body is"),
        (head(&typed("Text/Plain"), 1) + "1", "415 say what the body is"),
        (head(&typed(""), 1) + "1", "415 say what the body is"),
    ];
    for (request, expected) in cases {
        let mut client = Client::new(receiver.address);
        client.send(&request);
        let shown = client.shown();
        assert!(shown.starts_with(expected), "{request:.300} gives {shown}");
    }
    let kept: Vec<_> = place.kept().into_iter().map(|(key, value)| format!("{key} {value}")).collect();
    assert_eq!(kept, ["- {}", "k {\n\"a\": 1}", "- 1,2", "- 1", "- 2", "- 3"]);
}

#[test]
fn a_body_of_unknown_length_is_measured() {
    let place = Place::new();
    let receiver = place.start("http", &json!({"listen": "127.0.0.1:0", "path": "/readings", "max_body_bytes": 4}));
    let chunked =
        "POST /readings HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Client::new(receiver.address);
    client.send(&format!("{chunked}4\r\n1234\r\n0\r\n\r\n"));
    assert_eq!(client.shown(), "202 1");
    client.send(&format!("{chunked}5\r\n12345\r\n"));
    assert_eq!(client.shown(), "413 a body has 4 bytes at most");
}

#[test]
fn only_who_knows_the_token_may_post() {
    let place = Place::new();
    let mut config = config();
    config["token"] = json!("s3cret");
    let receiver = place.start("http", &config);
    let refused = "401 the token is missing or wrong";
    let cases = [
        ("", refused),
        ("Authorization: Bearer other\r\n", refused),
        ("Authorization: Bearer s3cret2\r\n", refused),
        ("Authorization: Basic s3cret\r\n", refused),
        ("Authorization: Bearer s3cret\r\n", "202 1"),
        ("Authorization: bearer s3cret\r\n", "202 1"),
    ];
    for (header, expected) in cases {
        let mut client = Client::new(receiver.address);
        client.post(header, "1");
        assert_eq!(client.shown(), expected, "{header}");
    }
    assert_eq!(place.kept().len(), 2);
}

#[test]
fn the_answer_waits_until_the_record_is_durable() {
    let place = Place::new();
    let held = place.hold_commits();
    let receiver = place.start("http", &config());
    let mut client = Client::new(receiver.address);
    client.post("", "1");
    held.reached();
    assert!(place.kept().is_empty() && !client.has_answer());
    held.decide(Injected::Nothing);
    assert_eq!(client.shown(), "202 1");
    assert_eq!(place.kept().len(), 1);
}

/// What fails is answered so, and what comes after is kept, whether it is known what became of the append or not.
#[test]
fn a_failing_broker_makes_the_client_repeat() {
    for (what, kept) in [(Injected::FailBefore, 1), (Injected::FailAfter, 2), (Injected::Hang, 1)] {
        let place = Place::new();
        let held = place.hold_commits();
        let receiver = place.start("http", &config());
        let mut client = Client::new(receiver.address);
        client.post("", "1");
        held.reached();
        held.decide(what);
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.shown(), "503 the records are not known to be kept; post them again");
        assert!(answer.headers.contains("retry-after: 1\r\n"), "{}", answer.headers);
        drop(held);
        client.post("", "1");
        assert_eq!(client.shown(), "202 1");
        assert_eq!(place.kept().len(), kept, "{what:?}");
        assert!(place.faults.try_recv().is_err(), "the run goes on");
    }
}

#[test]
fn a_newer_run_takes_over() {
    let place = Place::new();
    let older = place.start("http", &config());
    let newer = place.start("http", &config());
    let mut client = Client::new(older.address);
    client.post("", "1");
    assert_eq!(client.shown(), "503 the records are not known to be kept; post them again");
    assert_eq!(Failure::of(&place.faults.recv().expect("it halts")), Failure::Fenced);
    let mut client = Client::new(newer.address);
    client.post("", "2");
    assert_eq!(client.shown(), "202 1");
    assert_eq!(place.kept().len(), 1);
}

/// The new producer that an open outcome asks for would fence the run that goes on.
#[test]
fn a_run_that_was_replaced_while_it_slept_takes_nothing_back() {
    let mut place = Place::new();
    place.is_ours = Arc::new(|| Err(Fault::world("another run has taken over")));
    let held = place.hold_commits();
    let receiver = place.start("http", &config());
    let mut client = Client::new(receiver.address);
    for first in [true, false] {
        client.post("", "1");
        if first {
            held.reached();
            held.decide(Injected::Hang);
        }
        assert_eq!(client.shown(), "503 the records are not known to be kept; post them again");
    }
    let fault = place.faults.recv().expect("it halts");
    assert_eq!(fault.message, "shop.readings cannot keep its records: another run has taken over");
    assert!(place.kept().is_empty());
}

#[test]
fn what_the_broker_refuses_is_refused_for_good() {
    let place = Place::new();
    let (broker, _folder) = narrow(10);
    let receiver = place.start_on(broker, "http", &config()).expect("it starts");
    let mut client = Client::new(receiver.address);
    client.post("", "12345678901");
    assert_eq!(client.shown(), "422 the broker does not take these records; they may be too large for it");
    client.post("", "1234567890");
    assert_eq!(client.shown(), "202 1");
    assert!(place.faults.try_recv().is_err(), "the run goes on");
}

#[test]
fn a_port_that_is_taken_halts() {
    let place = Place::new();
    let first = place.start("http", &config());
    let address = first.address.expect("it listens");
    let fault = place.try_start("http", &json!({"listen": address.to_string()})).err().expect("it is taken");
    let expected = format!("`shop.readings` cannot listen at {address}; choose another `listen`: ");
    assert!(fault.message.starts_with(&expected), "{}", fault.message);
}

/// Bodies find room before they are read: what waits is bounded, whatever is announced.
#[test]
fn what_waits_is_bounded() {
    let place = Place::new();
    let mut config = config();
    config["max_body_bytes"] = json!(16 * MIB);
    let receiver = place.start("http", &config);
    let large = head("Expect: 100-continue\r\n", 16 * MIB);
    let mut waiting: Vec<Client> = (0..3).map(|_| Client::new(receiver.address)).collect();
    for client in &mut waiting {
        client.send(&large);
        assert_eq!(client.answer().expect("it is asked to go on").status, 100);
    }
    let mut last = Client::new(receiver.address);
    last.send(&large);
    let answer = last.answer().expect("an answer");
    assert_eq!(answer.shown(), "503 too much waits to be kept; post again later");
    assert!(answer.headers.contains("retry-after: 1\r\n"), "{}", answer.headers);
    // There is room for less, and what is kept gives its room back.
    let mut small = Client::new(receiver.address);
    small.post("", "1");
    assert_eq!(small.shown(), "202 1");
    waiting[0].send(&"1".repeat(16 * MIB));
    assert_eq!(waiting[0].shown(), "202 1");
    let mut last = Client::new(receiver.address);
    last.send(&large);
    assert_eq!(last.answer().expect("it is asked to go on").status, 100);
    assert_eq!(place.kept().len(), 2);
}

#[test]
fn the_slow_are_cut_off() {
    let place = Place::new();
    let mut config = config();
    config["header_seconds"] = json!(0.05);
    config["timeout_seconds"] = json!(0.05);
    let receiver = place.start("http", &config);
    let mut client = Client::new(receiver.address);
    client.send("POST /readings HTTP/1.1\r\nHost: ");
    assert_eq!(client.answer(), None);
    let mut client = Client::new(receiver.address);
    assert_eq!(client.answer(), None, "one that says nothing");
    let mut client = Client::new(receiver.address);
    client.send(&(head("", 2) + "{"));
    assert_eq!(client.shown(), "408 the body took too long to arrive");
    let held = place.hold_commits();
    let mut client = Client::new(receiver.address);
    client.post("", "1");
    assert_eq!(client.shown(), "503 the records are not known to be kept; post them again");
    drop(held);
}

#[test]
fn connections_are_bounded() {
    let place = Place::new();
    let mut config = config();
    config["max_connections"] = json!(1);
    let receiver = place.start("http", &config);
    let mut first = Client::new(receiver.address);
    first.post("", "1");
    assert_eq!(first.shown(), "202 1");
    let mut second = Client::new(receiver.address);
    second.post("", "2");
    first.post("", "3");
    assert_eq!(first.shown(), "202 1");
    assert!(!second.has_answer(), "the only connection is taken");
    drop(first);
    assert_eq!(second.shown(), "202 1");
    let values: Vec<_> = place.kept().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["1", "3", "2"]);
}

#[test]
fn many_clients_at_once_lose_nothing() {
    let place = Place::new();
    let receiver = place.start("http", &config());
    let address = receiver.address;
    thread::scope(|scope| {
        for client in 0..16 {
            scope.spawn(move || {
                let mut connection = Client::new(address);
                for post in 0..20 {
                    connection.post(
                        "Content-Type: application/x-ndjson\r\n",
                        &format!("{client}.{post}.a\n{client}.{post}.b\n"),
                    );
                    assert_eq!(connection.shown(), "202 2");
                }
            });
        }
    });
    let kept: Vec<_> = place.kept().into_iter().map(|(_, value)| value).collect();
    for client in 0..16 {
        let own: Vec<_> = kept.iter().filter(|value| value.starts_with(&format!("{client}."))).collect();
        let sent = (0..20).flat_map(|post| ["a", "b"].map(|half| format!("{client}.{post}.{half}")));
        assert!(own.into_iter().eq(&sent.collect::<Vec<_>>()), "client {client}'s order is kept");
    }
    assert_eq!(kept.len(), 16 * 20 * 2);
}

#[test]
fn what_was_begun_is_finished_in_the_end() {
    let place = Place::new();
    let held = place.hold_commits();
    let receiver = place.start("http", &config());
    let address = receiver.address.expect("it listens");
    let mut client = Client::new(Some(address));
    client.post("", "1");
    held.reached();
    thread::scope(|scope| {
        scope.spawn(|| drop(receiver));
        // Nobody else is taken from here on.
        while TcpStream::connect(address).is_ok() {}
        held.decide(Injected::Nothing);
        assert_eq!(client.shown(), "202 1");
        assert_eq!(client.answer(), None);
    });
    assert_eq!(place.kept().len(), 1);
}

#[test]
fn a_broker_that_is_away_at_the_start_is_told() {
    let place = Place::new();
    place.broker.inject(|_| Injected::FailBefore);
    let fault = place.try_start("http", &config()).err().expect("there is no producer");
    assert!(fault.message.contains("could not start"), "{}", fault.message);
    place.broker.heal();
    assert!(place.broker.topic(super::TOPIC).expect("it is back").is_some());
}
