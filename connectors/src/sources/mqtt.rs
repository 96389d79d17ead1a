//! `mqtt`: what an MQTT server passes on.
//!
//! ```text
//! server ── PUBLISH ─► poll ─► intake ─► durable in the topic ── PUBACK ─► server
//!    └── repeats after a new connection what was not acknowledged ──┘
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS,
    StateError, SubAck, SubscribeFilter, SubscribeReasonCode,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::intake::{self, Inlet, Intake, Outcome, RECORD_BYTES, Receiver, Repeats};
use super::{PlannedReceiver, PlannedSource, SourceKind, check_kept, topic, within};
use crate::broker::Message;

/// The largest record that may be configured: larger ones are never read.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// Of a packet: its record, its topic and a header.
const PACKET_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10) + 16;
/// Acknowledgements that wait to be sent: as many as a server may wait for.
const ACKS_MAX: usize = 1 << 16;
/// How long is waited before another connection: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// How long what was taken last may take to be kept and acknowledged in the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Topics of an MQTT server.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server and its port; plain TCP.
    pub server: String,
    /// The topics to subscribe to; `+` stands for one level, `#` at the end for all below.
    pub topics: Vec<String>,
    /// Whose session it is. The server keeps what comes while nobody is connected under this name, and lets only one
    /// client at a time have it. Default: `PIPELINE.SOURCE`.
    pub client_id: Option<String>,
    /// Who logs in.
    pub user: Option<String>,
    /// Its password, written as a reference to a secret.
    pub password: Option<String>,
    /// How long the connection may be silent before it is tested.
    #[serde(default = "keep_alive_seconds")]
    #[schemars(range(min = 1, max = 65_535))]
    pub keep_alive_seconds: u16,
    /// The largest record, in bytes; larger ones are acknowledged, dropped and told. The default is just below what a
    /// Kafka server takes: a record that the broker refuses ends the run.
    #[serde(default = "record_bytes")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_record_bytes: usize,
    /// The topic that keeps the records. Default: `PIPELINE.SOURCE`.
    pub topic: Option<String>,
    /// How many partitions that topic gets where it has to be created.
    #[serde(default = "topic::one")]
    pub partitions: u32,
}

fn keep_alive_seconds() -> u16 {
    30
}

fn record_bytes() -> usize {
    1_000_000
}

/// The entry of `mqtt`.
pub static KIND: SourceKind = Kind {
    name: "mqtt",
    about: "What an MQTT server passes on, kept in a topic before anything else sees it.\n\n\
        A record's value is the payload, its key the MQTT topic. It is acknowledged (QoS 1) once it is durable, and the \
        server repeats what was not acknowledged, so nothing is lost, but a record may come twice: a `deduplicate` step \
        removes the second. What sensors publish with QoS 0 the server does not repeat. With `--until-idle` nothing \
        connects: what the topic holds is worked through.",
    schema: schema_of::<Config>,
    example: "{server: \"localhost:1883\", topics: [\"sensors/+/temperature\"]}",
    plan,
};

fn plan(value: &Value) -> Planned<PlannedSource> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let server = problems.take(address(&config.server));
    if config.topics.is_empty() {
        problems.push(Problem::new("topics", "bad-value", "there is nothing to subscribe to"));
    }
    for (at, filter) in config.topics.iter().enumerate() {
        if !rumqttc::valid_filter(filter) || filter.contains('\0') || filter.len() > usize::from(u16::MAX) {
            let problem =
                Problem::new(&format!("topics.{at}"), "bad-filter", format!("`{filter}` is no filter of topics"));
            problems.push(
                problem.help("`+` stands for a whole level, `#` for all levels at the end: `sensors/+/temperature`"),
            );
        }
    }
    for (key, text) in [("client_id", &config.client_id), ("user", &config.user), ("password", &config.password)] {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > usize::from(u16::MAX)) {
            problems.push(Problem::new(key, "bad-value", format!("`{key}` has 1 to 65,535 bytes")));
        }
    }
    if config.password.is_some() && config.user.is_none() {
        problems.push(Problem::new("password", "no-user", "a password needs a `user`"));
    }
    problems.take_all(check_kept(config.topic.as_deref(), config.partitions));
    problems.take(within("keep_alive_seconds", f64::from(config.keep_alive_seconds), 1.0, 65_535.0));
    problems.take(within("max_record_bytes", config.max_record_bytes as f64, 1.0, RECORD_BYTES_MAX as f64));
    problems.finish()?;
    let receiver_topic = config.topic.clone();
    let partitions = config.partitions;
    let server = server.expect("it is no problem");
    Ok(PlannedSource::received(PlannedReceiver {
        topic: receiver_topic,
        partitions,
        start: Box::new(move |inlet| start(&config, &server, &inlet)),
    }))
}

/// The host, in brackets if it is an IPv6 address, and the port.
fn address(server: &str) -> Result<(String, u16), Problem> {
    let parts = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() && (host.starts_with('[') || !host.contains([':', '/', ' '])) => {
            Ok((host.to_owned(), port))
        }
        _ => {
            let message = format!("`{server}` is no host with a port");
            Err(Problem::new("server", "bad-address", message).help("write it as `localhost:1883`"))
        }
    }
}

fn start(config: &Config, (host, port): &(String, u16), inlet: &Inlet) -> Result<Receiver> {
    let mut options = MqttOptions::new(config.client_id.as_ref().unwrap_or(&inlet.id), host, *port);
    options
        .set_keep_alive(Duration::from_secs(config.keep_alive_seconds.into()))
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some(user) = &config.user {
        options.set_credentials(user, config.password.as_deref().unwrap_or_default());
    }
    let runtime = intake::runtime()?;
    let (intake, writing) = Intake::start(inlet, Repeats::Intake)?;
    let (client, events) = AsyncClient::new(options, ACKS_MAX);
    let (stop, stopping) = watch::channel(false);
    let subscriber = Subscriber {
        id: inlet.id.clone(),
        server: config.server.clone(),
        filters: config.topics.clone(),
        max_record_bytes: config.max_record_bytes,
        clock: inlet.clock.clone(),
        intake,
        client,
        stopping,
        pending: Arc::default(),
        subscribed: false,
        refused: 0,
    };
    Ok(Receiver::spawn(runtime, vec![writing], stop, inlet, subscriber.work(events)))
}

struct Subscriber {
    id: String,
    server: String,
    filters: Vec<String>,
    max_record_bytes: usize,
    clock: Arc<dyn Clock>,
    intake: Intake,
    client: AsyncClient,
    stopping: watch::Receiver<bool>,
    pending: Arc<Pending>,
    /// Whether the server has taken the subscription since the start.
    subscribed: bool,
    /// How many records were refused.
    refused: u64,
}

/// What was handed over and has no outcome yet.
#[derive(Default)]
struct Pending {
    records: AtomicUsize,
    none: Notify,
    /// The number of the connection. A server numbers the records of each anew, so what came on one connection must not
    /// be acknowledged on the next: the lock is held from the comparison until the acknowledgement is queued.
    connection: Mutex<u64>,
}

impl Pending {
    fn connection(&self) -> MutexGuard<'_, u64> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acknowledges a record if it is durable, and if the connection that it came on is still there.
    fn finish(&self, client: &AsyncClient, publish: &Publish, connection: u64, outcome: Outcome) {
        if outcome == Outcome::Durable {
            let current = self.connection();
            if *current == connection {
                // Where it cannot be queued, the server repeats the record.
                drop(client.try_ack(publish));
            }
        }
        if self.records.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_one();
        }
    }

    async fn is_empty(&self) {
        while self.records.load(Ordering::SeqCst) > 0 {
            self.none.notified().await;
        }
    }
}

impl Subscriber {
    /// Receives until it is told to stop; then waits a while for what was taken to be acknowledged.
    async fn work(self, events: EventLoop) -> Result<()> {
        let (pending, client, mut stopping) = (self.pending.clone(), self.client.clone(), self.stopping.clone());
        let goodbye = async {
            // Its sender outlives this.
            drop(stopping.wait_for(|stopping| *stopping).await);
            let leave = async {
                pending.is_empty().await;
                drop(client.try_disconnect());
                std::future::pending::<()>().await;
            };
            drop(timeout(GOODBYE, leave).await);
        };
        tokio::select! {
            outcome = self.receive(events) => outcome,
            () = goodbye => Ok(()),
        }
    }

    async fn receive(mut self, mut events: EventLoop) -> Result<()> {
        let mut pause = PAUSE[0];
        let mut lost = false;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(answer))) => {
                    if std::mem::take(&mut lost) {
                        eprintln!("{}: connected to {} again", self.id, self.server);
                    }
                    // Each subscription brings the retained records again.
                    if !(self.subscribed && answer.session_present) {
                        let filter = |path: &String| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
                        // Only acknowledgements are queued besides, and they have left room for it.
                        drop(self.client.try_subscribe_many(self.filters.iter().map(filter)));
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(answer))) => self.check_subscription(&answer)?,
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    pause = PAUSE[0];
                    self.take(publish).await;
                }
                Ok(Event::Incoming(Packet::PingResp)) => pause = PAUSE[0],
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    if *self.stopping.borrow() {
                        return Ok(());
                    }
                    self.check_login(&error)?;
                    self.disconnected(&mut events);
                    if !std::mem::replace(&mut lost, true) {
                        eprintln!("{}: no connection to {}: {}; trying again", self.id, self.server, told(&error));
                    }
                    sleep(pause).await;
                    pause = (2 * pause).min(PAUSE[1]);
                }
            }
        }
    }

    /// Nothing that came on the lost connection is acknowledged any more.
    fn disconnected(&self, events: &mut EventLoop) {
        let mut connection = self.pending.connection();
        *connection += 1;
        // Drops the acknowledgements that were queued in the meantime, and what came and was not looked at.
        events.clean();
        events.state.events.clear();
    }

    async fn take(&mut self, publish: Publish) {
        if *self.stopping.borrow() {
            return;
        }
        if !self.is_wanted(&publish) {
            drop(self.client.try_ack(&publish));
            return;
        }
        let message = Message {
            key: Some(publish.topic.as_bytes().to_vec()),
            value: Some(publish.payload.to_vec()),
            timestamp_ms: self.clock.now_ms(),
            ..Message::default()
        };
        // While there is no room, nothing is read, and the server has to wait.
        let Some(room) = self.intake.room(message.bytes() + RECORD_BYTES).await else { return };
        // Only what an acknowledgement takes.
        let publish = Publish { topic: String::new(), payload: Vec::new().into(), ..publish };
        let (pending, client, connection) = (self.pending.clone(), self.client.clone(), *self.pending.connection());
        pending.records.fetch_add(1, Ordering::SeqCst);
        let finish = move |outcome| pending.finish(&client, &publish, connection, outcome);
        self.intake.hand_over(vec![message], room, finish);
    }

    /// Whether a record is to be kept; tells the first ones that are not, and then ever fewer.
    fn is_wanted(&mut self, publish: &Publish) -> bool {
        let bytes = publish.payload.len();
        let why = if bytes > self.max_record_bytes {
            format!("it has {bytes} bytes, more than the {} of `max_record_bytes`", self.max_record_bytes)
        } else if !self.filters.iter().any(|filter| matches(&publish.topic, filter)) {
            "an earlier subscription of this `client_id` asked for it, which now has other topics".to_owned()
        } else {
            return true;
        };
        self.refused += 1;
        if self.refused.is_power_of_two() {
            eprintln!("{}: dropped a record of `{}`: {why} ({} so far)", self.id, publish.topic, self.refused);
        }
        false
    }

    fn check_subscription(&mut self, answer: &SubAck) -> Result<()> {
        for (filter, code) in self.filters.iter().zip(&answer.return_codes) {
            if *code == SubscribeReasonCode::Failure {
                let what =
                    format!("{}: the MQTT server {} refuses the subscription to `{filter}`", self.id, self.server);
                return Err(Fault::world(format!("{what}; it has to allow it")));
            }
            if *code == SubscribeReasonCode::Success(QoS::AtMostOnce) {
                eprintln!("{}: the server does not repeat what is lost of `{filter}`: it grants only QoS 0", self.id);
            }
        }
        self.subscribed = true;
        Ok(())
    }

    /// A refused login halts: it would be refused again.
    fn check_login(&self, error: &ConnectionError) -> Result<()> {
        use ConnectReturnCode as Code;
        let ConnectionError::ConnectionRefused(code) = error else { return Ok(()) };
        let why = match code {
            Code::BadUserNamePassword => "user or password is wrong",
            Code::NotAuthorized => "the client is not allowed to connect; it may need a `user` and a `password`",
            Code::BadClientId => "it does not take the `client_id`",
            Code::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
            Code::ServiceUnavailable | Code::Success => return Ok(()),
        };
        Err(Fault::world(format!("{}: the MQTT server {} refuses the login: {why}", self.id, self.server)))
    }
}

fn told(error: &ConnectionError) -> String {
    match error {
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            format!("what it sends cannot be taken ({error}); records have {RECORD_BYTES_MAX} bytes at most")
        }
        error => error.to_string(),
    }
}

/// Whether a filter covers a topic; shared subscriptions (`$share/GROUP/FILTER`) have theirs behind the group.
fn matches(topic: &str, filter: &str) -> bool {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rumqttc::matches(topic, shared.map_or(filter, |(_, filter)| filter))
}
