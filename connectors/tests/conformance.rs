//! What every broker does, whichever it is. Kafka takes part where `KAFKA_BOOTSTRAP` names a server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, BinaryArray};
use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::broker::kafka::Kafka;
use millstream_connectors::broker::simulated::Simulated;
use millstream_connectors::broker::{Append, Broker, Fetched, Headers, Message, TopicReader};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;

const T0: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    partition: u32,
    offset: u64,
    message: Message,
}

fn message(value: &str) -> Message {
    Message { value: Some(value.as_bytes().to_vec()), timestamp_ms: T0, ..Message::default() }
}

fn to(topic: &str, messages: Vec<Message>) -> Append {
    Append { topic: topic.to_owned(), messages }
}

fn start(partitions: u32) -> Vec<Position> {
    (0..partitions).map(|partition| Position { partition, offset: 0 }).collect()
}

fn rows(Fetched { records, headers }: &Fetched) -> Vec<Seen> {
    let Payload::Bytes(values) = &records.payload else { panic!("a broker's payload is bytes") };
    assert!(headers.is_empty() || headers.len() == records.len(), "headers for each record, or none");
    let cell = |column: &BinaryArray, row| column.is_valid(row).then(|| column.value(row).to_vec());
    let message = |row| Message {
        key: records.keys.as_ref().and_then(|keys| cell(keys, row)),
        value: cell(values, row),
        headers: headers.get(row).cloned().unwrap_or_default(),
        timestamp_ms: records.timestamps[row],
        partition: None,
    };
    (0..records.len())
        .map(|row| Seen { partition: records.partition, offset: records.offsets[row], message: message(row) })
        .collect()
}

/// Reads until there are `count` records.
fn read(reader: &mut dyn TopicReader, count: usize, max_bytes: usize) -> Vec<Seen> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut seen = Vec::new();
    while seen.len() < count {
        assert!(Instant::now() < deadline, "only {} of {count} records came", seen.len());
        if let Some(fetched) = reader.read(max_bytes, Duration::from_secs(5)).unwrap() {
            seen.extend(rows(&fetched));
        }
    }
    assert_eq!(seen.len(), count, "more came than were appended");
    seen
}

fn values(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| String::from_utf8(seen.message.value.clone().unwrap()).unwrap()).collect()
}

fn topics_are_created_and_listed(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let (a, b) = (name("list-a"), name("list-b"));
    assert_eq!(broker.topic(&a).unwrap(), None);
    broker.create(&b, 3).unwrap();
    broker.create(&a, 1).unwrap();
    broker.create(&a, 1).unwrap();
    let error = broker.create(&a, 2).unwrap_err().message;
    assert_eq!(error, format!("topic `{a}` exists with 1 partitions, not 2"));
    assert!(broker.create("no topic", 1).is_err() && broker.create(&name("none"), 0).is_err());
    let topics = broker.topics().unwrap();
    let listed: Vec<_> = topics.iter().filter(|topic| [&a, &b].contains(&&topic.name)).collect();
    assert_eq!(listed.iter().map(|topic| &topic.name).collect::<Vec<_>>(), [&a, &b]);
    assert_eq!(listed[1].partitions, [(0, 0); 3]);
    assert_eq!(broker.topic(&b).unwrap().as_ref(), Some(listed[1]));
}

fn records_come_back_as_they_were(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let topic = name("records");
    broker.create(&topic, 1).unwrap();
    let headers: Headers = vec![("a".into(), b"1".to_vec()), ("a".into(), vec![]), ("b".into(), vec![0, 255])];
    let messages = vec![
        message("plain"),
        Message { key: Some(b"key".to_vec()), timestamp_ms: T0 + 1, ..message("keyed") },
        Message { key: Some(b"key".to_vec()), value: None, timestamp_ms: T0 + 2, ..Message::default() },
        Message { value: Some(vec![]), key: Some(vec![]), timestamp_ms: T0 - 5, ..Message::default() },
        Message { headers, ..message("with headers") },
        message("last"),
    ];
    let mut producer = broker.producer(&name("records")).unwrap();
    producer.append(&[to(&topic, messages[..4].to_vec())]).unwrap();
    producer.append(&[to(&topic, messages[4..].to_vec())]).unwrap();
    producer.append(&[]).unwrap();
    let mut reader = broker.open(&topic, &start(1)).unwrap();
    let seen = read(&mut *reader, 6, MIB);
    assert!(seen.windows(2).all(|pair| pair[0].offset < pair[1].offset), "offsets increase");
    assert_eq!(seen.iter().map(|seen| seen.message.clone()).collect::<Vec<_>>(), messages);
    assert!(reader.read(MIB, Duration::from_millis(300)).unwrap().is_none(), "nothing else is there");
    let end = Position { partition: 0, offset: seen[5].offset + 1 };
    assert_eq!(reader.ends().unwrap(), [end], "a reader at the end knows it");

    let mut from_middle = broker.open(&topic, &[Position { partition: 0, offset: seen[4].offset }]).unwrap();
    assert_eq!(read(&mut *from_middle, 2, MIB), seen[4..]);
    let mut from_end = broker.open(&topic, &[end]).unwrap();
    assert!(from_end.read(MIB, Duration::from_millis(200)).unwrap().is_none());
    producer.append(&[to(&topic, vec![message("more")])]).unwrap();
    assert_eq!(values(&read(&mut *from_end, 1, MIB)), ["more"]);
}

fn partitions_follow_keys(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let topic = name("partitions");
    broker.create(&topic, 3).unwrap();
    let mut producer = broker.producer(&name("partitions")).unwrap();
    let keyed = |key: &str| Message { key: Some(key.as_bytes().to_vec()), ..message(key) };
    // As Kafka's own default partitioner places them among three.
    let keys = ["21", "foobar", "a-little-bit-long-string", "abc"];
    let expected: Vec<u32> = [-973_932_308_i32, -790_332_482, -985_981_536, 479_470_107]
        .map(|hash| (hash & 0x7fff_ffff) as u32 % 3)
        .to_vec();
    producer.append(&[to(&topic, keys.map(keyed).to_vec())]).unwrap();
    let given = |at| Message { partition: Some(2), ..message(&format!("given {at}")) };
    producer.append(&[to(&topic, (0..3).map(given).collect())]).unwrap();
    producer.append(&[to(&topic, (0..6).map(|at| message(&format!("turn {at}"))).collect())]).unwrap();
    let beyond = Message { partition: Some(3), ..message("beyond") };
    let error = producer.append(&[to(&topic, vec![beyond])]).unwrap_err();
    assert_eq!(error.message, format!("topic `{topic}` has no partition 3: it has 3"));

    let seen = read(&mut *broker.open(&topic, &start(3)).unwrap(), 13, MIB);
    let place = |value: &str| seen.iter().find(|seen| seen.message.value.as_deref() == Some(value.as_bytes()));
    assert_eq!(keys.map(|key| place(key).unwrap().partition).to_vec(), expected);
    let of = |wanted: u32, prefix: &str| -> Vec<String> {
        let here: Vec<Seen> = seen.iter().filter(|seen| seen.partition == wanted).cloned().collect();
        values(&here).into_iter().filter(|value| value.starts_with(prefix)).collect()
    };
    assert_eq!(of(2, "given"), ["given 0", "given 1", "given 2"], "order within a partition");
    assert_eq!([of(0, "turn"), of(1, "turn"), of(2, "turn")].map(|values| values.len()), [2, 2, 2]);
    let only = read(&mut *broker.open(&topic, &[Position { partition: 1, offset: 0 }]).unwrap(), of(1, "").len(), MIB);
    assert!(only.iter().all(|seen| seen.partition == 1), "a partition without a position is not read");
}

fn appends_are_atomic_and_old_producers_are_fenced(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let (a, b) = (name("atomic-a"), name("atomic-b"));
    broker.create(&a, 2).unwrap();
    broker.create(&b, 1).unwrap();
    let id = name("atomic");
    let mut old = broker.producer(&id).unwrap();
    let both = |text: &str| [to(&a, vec![message(text), message(text)]), to(&b, vec![message(text)])];
    old.append(&both("one")).unwrap();
    let missing = name("missing");
    let error = old.append(&[to(&a, vec![message("half")]), to(&missing, vec![message("half")])]).unwrap_err();
    assert_eq!(error.message, format!("there is no topic `{missing}`"));
    let mut other = broker.producer(&name("other")).unwrap();
    let mut new = broker.producer(&id).unwrap();
    new.append(&both("two")).unwrap();
    let error = old.append(&both("zombie")).unwrap_err();
    assert!(!error.retry && error.message.contains("fenced"), "{error}");
    assert!(!old.append(&both("zombie")).unwrap_err().retry, "it stays fenced");
    new.append(&both("three")).unwrap();
    other.append(&[to(&b, vec![message("other")])]).unwrap();
    let mut in_a = values(&read(&mut *broker.open(&a, &start(2)).unwrap(), 6, MIB));
    in_a.sort();
    assert_eq!(in_a, ["one", "one", "three", "three", "two", "two"]);
    assert_eq!(values(&read(&mut *broker.open(&b, &start(1)).unwrap(), 4, MIB)), ["one", "two", "three", "other"]);
}

fn positions_out_of_range_are_errors(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let topic = name("range");
    broker.create(&topic, 2).unwrap();
    broker.producer(&name("range")).unwrap().append(&[to(&topic, vec![message("x")])]).unwrap();
    let end = broker.topic(&topic).unwrap().unwrap().partitions[0].1;
    let from = |partition, offset| broker.open(&topic, &[Position { partition, offset }]).map(|_| ());
    from(0, end).unwrap();
    let error = from(0, end + 1).unwrap_err();
    let place =
        format!("cannot read topic `{topic}` partition 0 from offset {}: the log ends at offset {end}", end + 1);
    assert!(error.message.starts_with(&place) && !error.retry, "{error}");
    assert!(from(0, 1_000_000).is_err() && from(1, 1).is_err());
    assert_eq!(from(2, 0).unwrap_err().message, format!("topic `{topic}` has no partition 2: it has 2"));
    assert!(broker.open(&name("nothing"), &start(1)).is_err());
}

fn large_records_and_small_budgets(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let topic = name("sizes");
    broker.create(&topic, 1).unwrap();
    let mut producer = broker.producer(&name("sizes")).unwrap();
    let large: String = (0..5 * MIB).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    let small = |range: std::ops::Range<usize>| range.map(|at| message(&format!("{at:0100}"))).collect::<Vec<_>>();
    producer.append(&[to(&topic, small(0..50))]).unwrap();
    producer.append(&[to(&topic, vec![message(&large)])]).unwrap();
    producer.append(&[to(&topic, small(50..100))]).unwrap();
    let mut reader = broker.open(&topic, &start(1)).unwrap();
    let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    while seen.len() < 101 && Instant::now() < deadline {
        if let Some(fetched) = reader.read(1000, Duration::from_secs(5)).unwrap() {
            let fits = fetched.records.bytes() <= 1000 || fetched.records.len() == 1;
            assert!(fits, "{} records of {} bytes", fetched.records.len(), fetched.records.bytes());
            seen.extend(rows(&fetched));
        }
    }
    let mut expected =
        values(&small(0..50).into_iter().map(|message| Seen { partition: 0, offset: 0, message }).collect::<Vec<_>>());
    expected.push(large);
    expected.extend((50..100).map(|at| format!("{at:0100}")));
    assert!(values(&seen) == expected, "all records, in order ({} of 101)", seen.len());
}

fn reads_while_others_append(broker: &dyn Broker, name: &dyn Fn(&str) -> String) {
    let topic = name("live");
    broker.create(&topic, 2).unwrap();
    let mut reader = broker.open(&topic, &start(2)).unwrap();
    assert!(reader.read(MIB, Duration::ZERO).unwrap().is_none());
    let mut producer = broker.producer(&name("live")).unwrap();
    let seen = std::thread::scope(|scope| {
        let append = scope.spawn(|| {
            for round in 0..20 {
                let messages = (0..10).map(|at| message(&format!("{:03}", round * 10 + at))).collect();
                producer.append(&[to(&topic, messages)]).unwrap();
            }
        });
        let seen = read(&mut *reader, 200, 200);
        append.join().unwrap();
        seen
    });
    let mut all = values(&seen);
    for partition in 0..2 {
        let here: Vec<Seen> = seen.iter().filter(|seen| seen.partition == partition).cloned().collect();
        assert!(values(&here).is_sorted() && here.is_sorted_by_key(|seen| seen.offset), "order in {partition}");
        assert_eq!(here.len(), 100);
    }
    all.sort();
    assert_eq!(all, (0..200).map(|at| format!("{at:03}")).collect::<Vec<_>>());
}

/// Runs the whole suite; `run` keeps the topics of several runs on one server apart.
fn conformance(broker: &dyn Broker, run: &str) {
    let name = |topic: &str| format!("{run}-{topic}");
    topics_are_created_and_listed(broker, &name);
    records_come_back_as_they_were(broker, &name);
    partitions_follow_keys(broker, &name);
    appends_are_atomic_and_old_producers_are_fenced(broker, &name);
    positions_out_of_range_are_errors(broker, &name);
    large_records_and_small_budgets(broker, &name);
    reads_while_others_append(broker, &name);
}

#[test]
fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    conformance(&Embedded::open(folder.path()).unwrap(), "e");
}

#[test]
fn simulated() {
    conformance(&Simulated::new(), "s");
}

#[test]
fn kafka() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    // Servers take 1 MB by default; topics that are created here take as much as the client may send.
    let options = [("bootstrap.servers", servers.as_str()), ("message.max.bytes", "16777216")];
    let options: BTreeMap<String, String> = options.map(|(option, value)| (option.into(), value.into())).into();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    conformance(&Kafka::connect(&options).unwrap(), &format!("t{}", now.as_millis()));
}
