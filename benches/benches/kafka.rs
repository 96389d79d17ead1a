//! What a Kafka server's transactions cost, and how long it takes to go on after it was away or slow.
//!
//!     .ci/with-kafka cargo bench -p millstream-benches --bench kafka [-- AWAY_SECONDS]
//!
//! Needs `KAFKA_BOOTSTRAP`. Going away and being slow is done by a proxy in front of the server.

#[path = "../../connectors/tests/proxy/mod.rs"]
mod proxy;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_benches::quantile;
use millstream_benches::table::Table;
use millstream_connectors::broker::kafka::Kafka;
use millstream_connectors::broker::{Append, Broker, Message, Producer};
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};

use self::proxy::Proxy;

const APPENDS: usize = 1000;
const SLOW: Duration = Duration::from_secs(2);
const AWAY_SECONDS: u64 = 20;

fn main() {
    let Ok(server) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    let away = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(AWAY_SECONDS);
    latency(&connect(&server));
    let proxy = Proxy::start(&server);
    let broker = connect(&proxy.address());
    slow(&proxy, &broker);
    gone(&proxy, &broker, Duration::from_secs(away));
}

fn connect(servers: &str) -> Kafka {
    Kafka::connect(&BTreeMap::from([("bootstrap.servers".to_owned(), servers.to_owned())])).expect("a server answers")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn topic(broker: &Kafka, what: &str) -> String {
    let name = format!("bench-{what}-{}", now().as_nanos());
    broker.create(&name, 1).expect("a topic can be created");
    name
}

/// An answer and a progress record, about.
fn small(topic: &str) -> [Append; 1] {
    let message = |bytes| Message {
        value: Some(vec![b'x'; bytes]),
        timestamp_ms: now().as_millis() as i64,
        ..Message::default()
    };
    [Append { topic: topic.to_owned(), messages: vec![message(300), message(700)] }]
}

fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

fn timed<T>(act: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = act();
    (start.elapsed(), done)
}

fn latency(broker: &Kafka) {
    let topic = topic(broker, "latency");
    let mut producer = broker.producer(&topic).expect("a producer can start");
    let appends = small(&topic);
    let mut table = Table::new(&["", "p50", "p90", "p99", "max"]);
    let mut measure = |what: &str, act: &mut dyn FnMut() -> Result<()>| {
        act().expect("it works");
        let mut samples: Vec<f64> =
            (0..APPENDS).map(|_| timed(|| act().expect("it works")).0.as_secs_f64() * 1e3).collect();
        let cells = [0.5, 0.9, 0.99, 1.0].map(|share| format!("{:.2}", quantile(&mut samples, share)));
        table.row([what.to_owned()].into_iter().chain(cells));
    };
    measure("append, a transaction", &mut || producer.append(&appends));
    measure("send, without one", &mut || producer.send(&appends));
    table.print(&format!("milliseconds of {APPENDS} calls with two small messages"));
}

fn slow(proxy: &Proxy, broker: &Kafka) {
    let topic = topic(broker, "slow");
    proxy.round_trip(SLOW);
    let mut table = Table::new(&["", "ms", "outcome"]);
    let mut row = |what: &str, (time, outcome): (Duration, Result<()>)| {
        let told = outcome.err().map_or("done".to_owned(), |fault| fault.message);
        table.row([what.to_owned(), ms(time), told]);
    };
    row("ask for a topic", timed(|| broker.topic(&topic).map(drop)));
    let (time, producer) = timed(|| broker.producer(&topic));
    let mut producer = producer.map_err(|fault| println!("{fault}")).ok();
    row("start a producer", (time, Ok(())));
    for what in ["first append", "second append", "third append"] {
        if let Some(producer) = &mut producer {
            row(what, timed(|| producer.append(&small(&topic))));
        }
    }
    let (time, reader) = timed(|| broker.open(&topic, &[Position { partition: 0, offset: 0 }]));
    let mut reader = reader.expect("a topic can be read");
    row("open a reader", (time, Ok(())));
    let read = timed(|| match reader.read(1 << 20, Duration::from_secs(30)) {
        Ok(None) => Err(Fault::world("nothing came")),
        other => other.map(drop),
    });
    row("first read", read);
    row("ask for its end", timed(|| reader.ends().map(drop)));
    proxy.round_trip(Duration::ZERO);
    table.print(&format!("a server whose round trip takes {} ms", SLOW.as_millis()));
}

/// Appends again and again, as a run does: a new producer after whatever does not pass.
fn append(broker: &Kafka, producer: &mut Box<dyn Producer>, topic: &str, faults: &AtomicU64) {
    while let Err(fault) = producer.append(&small(topic)) {
        faults.fetch_add(1, Ordering::Relaxed);
        if !fault.retry {
            loop {
                match broker.producer(topic) {
                    Ok(next) => break *producer = next,
                    Err(fault) => assert!(fault.retry, "{fault}"),
                }
            }
        }
    }
}

fn gone(proxy: &Proxy, broker: &Kafka, away: Duration) {
    let topic = topic(broker, "away");
    let (appended, read, faults) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let ends = AtomicBool::new(false);
    let mut table = Table::new(&["", "appends", "reads"]);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut producer = broker.producer(&topic).expect("a producer can start");
            while !ends.load(Ordering::Relaxed) {
                append(broker, &mut producer, &topic, &faults);
                appended.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut reader = broker.open(&topic, &[Position { partition: 0, offset: 0 }]).expect("it can be read");
            while !ends.load(Ordering::Relaxed) {
                match reader.read(1 << 20, Duration::from_millis(100)) {
                    Ok(fetched) => {
                        read.fetch_add(fetched.map_or(0, |fetched| fetched.records.len() as u64), Ordering::Relaxed)
                    }
                    Err(fault) => {
                        assert!(fault.retry, "{fault}");
                        faults.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        });
        let more = |counter: &AtomicU64, than: u64| {
            let start = Instant::now();
            while counter.load(Ordering::Relaxed) <= than {
                thread::sleep(Duration::from_millis(1));
            }
            start.elapsed()
        };
        more(&appended, 100);
        more(&read, 100);
        let before = resident_kib();
        proxy.go_away();
        thread::sleep(away);
        let during = resident_kib();
        let (then_appended, then_read) = (appended.load(Ordering::Relaxed), read.load(Ordering::Relaxed));
        let back = Instant::now();
        proxy.come_back();
        more(&appended, then_appended);
        let appends_again = back.elapsed();
        more(&read, then_read);
        table.row(["ms after it came back".to_owned(), ms(appends_again), ms(back.elapsed())]);
        table.print(&format!("a server that was away for {} s", away.as_secs()));
        println!(
            "  faults: {}; memory: {before} KiB before, {during} KiB when it came back, {} KiB after",
            faults.load(Ordering::Relaxed),
            resident_kib()
        );
        ends.store(true, Ordering::Relaxed);
    });
}

/// What `/proc` tells; zero where it does not.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}
