//! The embedded broker when things go wrong: killed processes, other processes, damaged files.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::broker::{Append, Broker, Fetched, Message};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;

/// Names the folder to a child process.
const CHILD: &str = "MILLSTREAM_TEST_CHILD";
const TOPICS: [&str; 2] = ["a", "b"];

/// The messages of append `round`: of changing number and size, some larger than a chunk.
fn appends(round: u64) -> [Append; 2] {
    let messages = |salt: u64| {
        (0..=(round * 7 + salt) % 40)
            .map(|at| {
                let padding = if round % 50 == 49 && at == 0 { 2_000_000 } else { 200 };
                Message {
                    value: Some(format!("{round}/{at}/{}", "x".repeat(padding)).into_bytes()),
                    ..Message::default()
                }
            })
            .collect()
    };
    [0, 1].map(|at| Append { topic: TOPICS[at].to_owned(), messages: messages(at as u64) })
}

/// Appends until it is killed; says after each append that it is durable.
fn child(folder: &Path) -> ! {
    let broker = Embedded::open(folder).unwrap();
    let mut producer = broker.producer("child").unwrap();
    let first = whole_rounds(&broker);
    for round in first.. {
        producer.append(&appends(round)).unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "ack {round}").and_then(|()| out.flush()).unwrap();
    }
    unreachable!("the rounds do not end")
}

/// From the environment, else a new one; printed, so that a failure can be repeated.
fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    seed
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let lengths: &[usize] = if self.below(10) == 0 { &[400_000, 1_200_000] } else { &[0, 1, 10, 1000] };
        let length = lengths[self.below(lengths.len() as u64) as usize];
        (self.below(4) > 0).then(|| vec![self.below(256) as u8; length])
    }

    fn message(&mut self) -> Message {
        let headers = if self.below(5) == 0 { vec![("h".into(), vec![1]), (String::new(), vec![])] } else { vec![] };
        let timestamp_ms = self.below(1000) as i64 - 500;
        Message {
            key: self.bytes().filter(|key| key.len() < 100),
            value: self.bytes(),
            headers,
            timestamp_ms,
            partition: None,
        }
    }
}

fn create(broker: &Embedded) {
    for topic in TOPICS {
        broker.create(topic, 1).unwrap();
    }
}

fn read_all(broker: &Embedded, topic: &str) -> Vec<Vec<u8>> {
    let mut reader = broker.open(topic, &[Position { partition: 0, offset: 0 }]).unwrap();
    let mut all = Vec::new();
    while let Some(fetched) = reader.read(1 << 20, Duration::ZERO).unwrap() {
        assert_eq!(fetched.records.offsets[0], all.len() as u64, "no offset is missing");
        let Payload::Bytes(values) = fetched.records.payload else { panic!("a broker's payload is bytes") };
        all.extend(values.iter().map(|value| value.unwrap().to_vec()));
    }
    all
}

/// Checks that there are only whole appends, the same number in each topic; returns how many.
fn whole_rounds(broker: &Embedded) -> u64 {
    let [a, b] = TOPICS.map(|topic| read_all(broker, topic));
    let (mut at, mut round) = ([0, 0], 0);
    while at != [a.len(), b.len()] {
        let expected = appends(round);
        for (topic, found) in [&a, &b].into_iter().enumerate() {
            for message in &expected[topic].messages {
                assert_eq!(found.get(at[topic]), message.value.as_ref(), "append {round} is whole");
                at[topic] += 1;
            }
        }
        round += 1;
    }
    round
}

/// Run by `acknowledged_appends_survive_a_kill` in a process of its own.
#[test]
fn child_process() {
    if let Some(folder) = std::env::var_os(CHILD) {
        child(Path::new(&folder));
    }
}

#[test]
fn acknowledged_appends_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Embedded::open(folder.path()).unwrap();
    create(&broker);
    let seed = seed();
    let mut random = Random(seed);
    for kill in 0..12 {
        let acknowledged = run_and_kill(folder.path(), 1 + random.below(60), Duration::from_micros(random.below(5000)));
        let durable = whole_rounds(&broker);
        assert!(durable >= acknowledged, "seed {seed}, kill {kill}: {acknowledged} acknowledged, {durable} there");
    }
    assert!(whole_rounds(&broker) >= 12, "each child appended something");
}

/// Kills the child `later` after its `count`-th acknowledgement; returns how many appends it knew to be durable.
fn run_and_kill(folder: &Path, count: u64, later: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::child_process", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acks = lines.by_ref().filter_map(|line| line.split("ack ").nth(1)?.trim().parse::<u64>().ok());
    let seen: Vec<u64> = acks.by_ref().take(count as usize).collect();
    assert_eq!(seen.len() as u64, count, "the child goes on until it is killed");
    let until = Instant::now() + later;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said between the last line that was read and its death counts, too.
    acks.last().or(seen.last().copied()).map_or(0, |round| round + 1)
}

/// Small, large and empty messages in appends of any size come back the same from any offset, for any budget.
#[test]
fn any_read_agrees_with_what_was_appended() {
    let seed = seed();
    let mut random = Random(seed);
    for case in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let broker = Embedded::open(folder.path()).unwrap();
        broker.create("a", 1).unwrap();
        let mut producer = broker.producer("p").unwrap();
        let mut expected = Vec::new();
        for _ in 0..random.below(8) {
            let messages: Vec<Message> = (0..random.below(20)).map(|_| random.message()).collect();
            expected.extend(messages.iter().cloned());
            producer.append(&[Append { topic: "a".into(), messages }]).unwrap();
        }
        for _ in 0..6 {
            let from = random.below(expected.len() as u64 + 1);
            let max_bytes = 1 << random.below(24);
            let mut reader = broker.open("a", &[Position { partition: 0, offset: from }]).unwrap();
            let mut next = from as usize;
            while let Some(Fetched { records, headers }) = reader.read(max_bytes, Duration::ZERO).unwrap() {
                assert!(records.len() == 1 || records.bytes() <= max_bytes, "seed {seed}, case {case}");
                let Payload::Bytes(values) = &records.payload else { panic!("a broker's payload is bytes") };
                for row in 0..records.len() {
                    let found = Message {
                        key: records.keys.as_ref().and_then(|keys| keys.iter().nth(row)?).map(<[u8]>::to_vec),
                        value: values.iter().nth(row).unwrap().map(<[u8]>::to_vec),
                        headers: headers.get(row).cloned().unwrap_or_default(),
                        timestamp_ms: records.timestamps[row],
                        partition: None,
                    };
                    assert!(expected[next] == found, "seed {seed}, case {case}, offset {next}");
                    assert_eq!(records.offsets[row], next as u64);
                    next += 1;
                }
            }
            assert_eq!(next, expected.len(), "seed {seed}, case {case}");
        }
    }
}

#[test]
fn two_handles_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|_| Embedded::open(folder.path()).unwrap());
    one.create("a", 1).unwrap();
    two.create("b", 1).unwrap();
    assert_eq!(one.topics().unwrap(), two.topics().unwrap());
    let mut reader = one.open("a", &[Position { partition: 0, offset: 0 }]).unwrap();
    assert!(reader.read(1 << 20, Duration::ZERO).unwrap().is_none());
    let mut old = one.producer("p").unwrap();
    old.append(&appends(0)).unwrap();
    let mut new = two.producer("p").unwrap();
    new.append(&appends(1)).unwrap();
    assert!(old.append(&appends(2)).unwrap_err().message.contains("fenced"));
    let mut found = 0;
    while let Some(fetched) = reader.read(1 << 20, Duration::from_millis(200)).unwrap() {
        found += fetched.records.len();
    }
    assert_eq!(found, appends(0)[0].messages.len() + appends(1)[0].messages.len());
    assert_eq!(whole_rounds(&two), 2);
}

#[test]
fn many_may_create_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Embedded::open(folder.path()).unwrap().create("a", 1).unwrap());
        }
    });
    assert_eq!(Embedded::open(folder.path()).unwrap().topics().unwrap().len(), 1);
}

#[test]
fn damage_is_found_and_named() {
    let cases = [
        ("UPDATE chunks SET data = zeroblob(length(data)) WHERE topic = 1", "the checksum does not match"),
        ("UPDATE chunks SET base = 5 WHERE topic = 1", "offsets 0 to 4 are missing"),
        ("UPDATE chunks SET data = (SELECT data FROM chunks WHERE topic = 2)", "the checksum does not match"),
        ("DELETE FROM chunks WHERE topic = 1 AND base = 0", "offsets 0 to 0 are missing"),
    ];
    for (damage, why) in cases {
        let folder = tempfile::tempdir().unwrap();
        let broker = Embedded::open(folder.path()).unwrap();
        create(&broker);
        let mut producer = broker.producer("p").unwrap();
        (0..2).for_each(|round| producer.append(&appends(round)).unwrap());
        if why != "offsets 0 to 0 are missing" {
            // One chunk only, so that moving it leaves a gap.
            let sql = rusqlite::Connection::open(folder.path().join("broker.sqlite")).unwrap();
            sql.execute("DELETE FROM chunks WHERE base > 0", []).unwrap();
        }
        let sql = rusqlite::Connection::open(folder.path().join("broker.sqlite")).unwrap();
        sql.execute(damage, []).unwrap();
        let mut reader = broker.open("a", &[Position { partition: 0, offset: 0 }]).unwrap();
        let error = reader.read(1 << 20, Duration::ZERO).unwrap_err();
        assert!(error.message.contains("broker.sqlite is corrupt: topic `a` partition 0"), "{damage}: {error}");
        assert!(error.message.contains(why) && !error.retry, "{damage}: {error}");
    }
}

#[test]
fn what_was_discarded_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Embedded::open(folder.path()).unwrap();
    create(&broker);
    let mut producer = broker.producer("p").unwrap();
    (0..3).for_each(|round| producer.append(&appends(round)).unwrap());
    let start = [Position { partition: 0, offset: 0 }];
    let mut reader = broker.open("a", &start).unwrap();
    broker.discard("a", &[Position { partition: 0, offset: 9 }]).unwrap();
    let expected =
        "cannot read topic `a` partition 0 from offset 0: the first offset that is kept is 9 (the end is 24)";
    assert_eq!(reader.read(1 << 20, Duration::ZERO).unwrap_err().message, expected);
    assert_eq!(broker.open("a", &start).map(|_| ()).unwrap_err().message, expected);
    let mut rest = broker.open("a", &[Position { partition: 0, offset: 9 }]).unwrap();
    assert_eq!(rest.read(1 << 20, Duration::ZERO).unwrap().unwrap().records.offsets[..], (9..24).collect::<Vec<_>>());
    assert!(broker.discard("a", &[Position { partition: 0, offset: 25 }]).is_err());
}

#[test]
fn records_above_the_cap_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Embedded::open(folder.path()).unwrap().with_max_record_bytes(100);
    create(&broker);
    let error = broker.producer("p").unwrap().append(&appends(0)).unwrap_err();
    assert_eq!(error.message, "message 0 for topic `a` has 204 bytes, more than the 100 allowed");
    assert_eq!(read_all(&broker, "a").len(), 0);

    let other = tempfile::tempdir().unwrap();
    let sql = rusqlite::Connection::open(other.path().join("broker.sqlite")).unwrap();
    sql.execute_batch("CREATE TABLE other (x)").unwrap();
    let error = Embedded::open(other.path()).map(|_| ()).unwrap_err();
    assert!(error.message.ends_with("is no topic log that this version can read"), "{error}");
}

/// Not a test: run it with `--ignored --nocapture` to measure.
#[test]
#[ignore = "measures"]
fn throughput() {
    const BATCHES: usize = 2000;
    let folder = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
    let broker = Embedded::open(folder.path()).unwrap();
    broker.create("a", 1).unwrap();
    let messages = vec![Message { value: Some(vec![7; 200]), key: Some(vec![1; 8]), ..Message::default() }; 1000];
    let append = [Append { topic: "a".into(), messages }];
    let mut producer = broker.producer("p").unwrap();
    let rate = |what: &str, batches: usize, start: Instant| {
        let seconds = start.elapsed().as_secs_f64();
        let records = (batches * 1000) as f64;
        println!("{what}: {:.2} M records/s, {:.0} MB/s", records / seconds / 1e6, records * 208.0 / seconds / 1e6);
    };
    let start = Instant::now();
    (0..BATCHES).for_each(|_| producer.append(&append).unwrap());
    rate("append, 1000 a time, each durable", BATCHES, start);
    let start = Instant::now();
    let mut reader = broker.open("a", &[Position { partition: 0, offset: 0 }]).unwrap();
    let mut read = 0;
    while let Some(fetched) = reader.read(1 << 20, Duration::ZERO).unwrap() {
        read += fetched.records.len();
    }
    assert_eq!(read, BATCHES * 1000);
    rate("read", BATCHES, start);
    let large = [Append { topic: "a".into(), messages: vec![append[0].messages[0].clone(); 20_000] }];
    let start = Instant::now();
    (0..BATCHES / 20).for_each(|_| producer.append(&large).unwrap());
    rate("append, 20,000 a time", BATCHES, start);
    let start = Instant::now();
    let one = [Append { topic: "a".into(), messages: append[0].messages[..1].to_vec() }];
    (0..1000).for_each(|_| producer.append(&one).unwrap());
    println!("append, one at a time: {:.3} ms each", start.elapsed().as_secs_f64());
}
