//! A Kafka server that is lost in the middle of things, behind a proxy. Needs a server with transactions: see
//! `.ci/with-kafka`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::BinaryArray;
use millstream_connectors::broker::kafka::Kafka;
use millstream_connectors::broker::{Append, Broker, Failure, Message, Producer};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;

use crate::proxy::{Lost, Proxy};

/// A broker behind a proxy, and a name that nothing on the server has.
fn start() -> Option<(Proxy, Kafka, String)> {
    let Ok(server) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return None;
    };
    let proxy = Proxy::start(&server);
    let broker = Kafka::connect(&BTreeMap::from([("bootstrap.servers".to_owned(), proxy.address())])).unwrap();
    Some((proxy, broker, format!("faults-{}", now().as_nanos())))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// One message for each of the two partitions.
fn pair(topic: &str, value: &str) -> [Append; 1] {
    let message = |partition| Message {
        value: Some(value.as_bytes().to_vec()),
        // Servers throw away what is old.
        timestamp_ms: now().as_millis() as i64,
        partition: Some(partition),
        ..Message::default()
    };
    [Append { topic: topic.to_owned(), messages: vec![message(0), message(1)] }]
}

/// All that can be read, through a mark that is appended behind it: for each partition, in order.
fn read_all(broker: &Kafka, producer: &mut dyn Producer, topic: &str) -> [Vec<String>; 2] {
    const MARK: &str = "mark";
    producer.append(&pair(topic, MARK)).unwrap();
    let ends: Vec<u64> = broker.topic(topic).unwrap().unwrap().partitions.iter().map(|range| range.1).collect();
    let start = [0, 1].map(|partition| Position { partition, offset: 0 });
    let mut reader = broker.open(topic, &start).unwrap();
    let mut seen = [vec![], vec![]];
    let mut reached = [0, 0];
    // The mark that was appended just now is the last record; behind it is at most its transaction's own mark.
    while (0..2).any(|partition| reached[partition] + 2 <= ends[partition]) {
        let Some(fetched) = reader.read(1 << 20, Duration::from_secs(10)).unwrap() else { continue };
        let Payload::Bytes(values) = &fetched.records.payload else { panic!("a broker's payload is bytes") };
        let partition = fetched.records.partition as usize;
        reached[partition] = fetched.records.offsets.last().unwrap() + 1;
        seen[partition].extend(texts(values).filter(|value| value != MARK));
    }
    seen
}

fn texts(values: &BinaryArray) -> impl Iterator<Item = String> {
    values.iter().map(|value| String::from_utf8(value.unwrap().to_vec()).unwrap())
}

/// Appends as a run does: the same call again after a fault that passes, and after any other a new producer, which
/// looks what is there first.
fn append(broker: &Kafka, producer: &mut Box<dyn Producer>, id: &str, topic: &str, value: &str) {
    while let Err(fault) = producer.append(&pair(topic, value)) {
        println!("  {value}: {fault}");
        if !fault.retry {
            *producer = broker.producer(id).unwrap();
            if read_all(broker, &mut **producer, topic)[0].iter().any(|seen| seen == value) {
                return;
            }
        }
    }
}

#[test]
fn whatever_is_lost_of_an_append_it_is_there_once() {
    let Some((proxy, broker, name)) = start() else { return };
    broker.create(&name, 2).unwrap();
    let mut producer = broker.producer(&name).unwrap();
    let mut appended: Vec<String> = vec![];
    // Produce, AddPartitionsToTxn, EndTxn.
    for api in [0, 24, 26] {
        for lost in [Lost::Request, Lost::Answer] {
            let value = format!("{api} {lost:?}");
            proxy.lose(api, lost);
            append(&broker, &mut producer, &name, &name, &value);
            assert!(proxy.has_lost(), "{value}");
            let next = format!("after {value}");
            append(&broker, &mut producer, &name, &name, &next);
            appended.extend([value, next]);
        }
    }
    // FindCoordinator, InitProducerId.
    for api in [10, 22] {
        for lost in [Lost::Request, Lost::Answer] {
            let value = format!("{api} {lost:?}");
            proxy.lose(api, lost);
            producer = broker.producer(&name).unwrap();
            assert!(proxy.has_lost(), "{value}");
            append(&broker, &mut producer, &name, &name, &value);
            appended.push(value);
        }
    }
    let seen = read_all(&broker, &mut *producer, &name);
    assert_eq!(seen[0], appended);
    assert_eq!(seen[1], appended);
}

/// The client repeats what is lost by itself. What was lost may arrive after that, and the server would take it for
/// part of what this producer does then.
#[test]
fn a_producer_that_lost_a_request_is_used_no_more() {
    let Some((proxy, broker, name)) = start() else { return };
    broker.create(&name, 2).unwrap();
    let mut producer = broker.producer(&name).unwrap();
    proxy.lose(26, Lost::Answer);
    producer.append(&pair(&name, "once")).unwrap();
    assert!(proxy.has_lost());
    let error = producer.append(&pair(&name, "more")).unwrap_err();
    assert!(Failure::of(&error) == Failure::Open && error.message.contains("make a new producer"), "{error}");
    let mut next = broker.producer(&name).unwrap();
    assert_eq!(read_all(&broker, &mut *next, &name), [["once"], ["once"]]);
}

/// Servers that are newer than the client have codes that it has no name for.
#[test]
fn an_unknown_code_leaves_the_outcome_open_and_is_named() {
    let Some((proxy, broker, name)) = start() else { return };
    broker.create(&name, 2).unwrap();
    let mut producer = broker.producer(&name).unwrap();
    proxy.lose(26, Lost::Code(125));
    let error = producer.append(&pair(&name, "once")).unwrap_err();
    assert!(Failure::of(&error) == Failure::Open && error.message.contains("unknown ERR_125?"), "{error}");
    assert!(producer.append(&pair(&name, "once")).unwrap_err().message.contains("make a new producer"));
    let mut next = broker.producer(&name).unwrap();
    assert_eq!(read_all(&broker, &mut *next, &name), [["once"], ["once"]]);
}

#[test]
fn what_is_sent_without_a_transaction_is_visible_at_once_and_lost_never() {
    let Some((proxy, broker, name)) = start() else { return };
    broker.create(&name, 2).unwrap();
    let mut producer = broker.producer(&name).unwrap();
    producer.send(&pair(&name, "plain")).unwrap();
    let mut expected = vec!["plain".to_owned()];
    for lost in [Lost::Request, Lost::Answer] {
        let value = format!("{lost:?}");
        proxy.lose(0, lost);
        while let Err(fault) = producer.send(&pair(&name, &value)) {
            assert!(fault.retry, "{fault}");
        }
        assert!(proxy.has_lost(), "{value}");
        expected.push(value);
    }
    // A newer producer fences appends, not these.
    let mut newer = broker.producer(&name).unwrap();
    producer.send(&pair(&name, "old")).unwrap();
    expected.push("old".to_owned());
    let error = producer.append(&pair(&name, "fenced")).unwrap_err();
    assert_eq!(Failure::of(&error), Failure::Fenced, "{error}");
    let seen = read_all(&broker, &mut *newer, &name).map(|mut values| {
        values.dedup();
        values
    });
    assert_eq!(seen, [expected.clone(), expected]);
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let Some((proxy, broker, name)) = start() else { return };
    broker.create(&name, 2).unwrap();
    let mut producer = broker.producer(&name).unwrap();
    append(&broker, &mut producer, &name, &name, "before");
    let start = [0, 1].map(|partition| Position { partition, offset: 0 });
    let mut reader = broker.open(&name, &start).unwrap();
    let mut read = 0;
    while read < 2 {
        read += reader.read(1, Duration::from_secs(10)).unwrap().map_or(0, |fetched| fetched.records.len());
    }
    proxy.go_away();
    let error = broker.topic(&name).unwrap_err();
    assert!(error.retry, "{error}");
    let again = std::thread::scope(|scope| {
        // Waits for the server, or fails and is made again.
        let waiting = scope.spawn(|| append(&broker, &mut producer, &name, &name, "while away"));
        let told = reader.read(1, Duration::from_secs(1));
        assert!(told.as_ref().map_or_else(|fault| fault.retry, Option::is_none), "{told:?}");
        proxy.come_back();
        waiting.join()
    });
    again.unwrap();
    while read < 4 {
        match reader.read(1, Duration::from_secs(10)) {
            Ok(fetched) => read += fetched.map_or(0, |fetched| fetched.records.len()),
            Err(fault) => assert!(fault.retry, "{fault}"),
        }
    }
    let mut next = broker.producer(&name).unwrap();
    let expected = ["before", "while away"];
    assert_eq!(read_all(&broker, &mut *next, &name), [expected, expected]);
}
