use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::Array;
use millstream_engine::raw::Payload;

use super::*;
use crate::broker::{Failure, Message};

fn broker() -> Simulated {
    let broker = Simulated::new();
    broker.create("t", 1).unwrap();
    broker
}

fn append(text: &str) -> [Append; 1] {
    let message = Message { value: Some(text.as_bytes().to_vec()), ..Message::default() };
    [Append { topic: "t".to_owned(), messages: vec![message] }]
}

/// What a new reader sees now.
fn visible(broker: &Simulated) -> Vec<String> {
    let mut reader = broker.open("t", &[Position { partition: 0, offset: 0 }]).unwrap();
    let mut all = Vec::new();
    while let Some(fetched) = reader.read(usize::MAX, Duration::ZERO).unwrap() {
        let Payload::Bytes(values) = fetched.records.payload else { panic!("a broker's payload is bytes") };
        assert_eq!(values.null_count(), 0);
        all.extend(values.iter().flatten().map(|value| String::from_utf8_lossy(value).into_owned()));
    }
    all
}

/// Lets the next `operation` become `what`.
fn once(broker: &Simulated, operation: Operation, what: Injected) {
    let mut left = Some(what);
    broker.inject(
        move |call| if call.operation == operation { left.take().unwrap_or_default() } else { Injected::Nothing },
    );
}

/// Each fault at each step: what the caller may do next, and what readers see after a restart.
#[test]
fn faults_leave_what_they_say() {
    use Injected::{FailAfter, FailBefore, Hang, Late};
    use Operation::{Begin, Commit, Send};
    let cases: [(Operation, Injected, bool, &[&str]); 10] = [
        (Begin, FailBefore, true, &["before", "after"]),
        (Begin, Hang, false, &["before", "after"]),
        (Send, FailBefore, true, &["before", "after"]),
        (Send, FailAfter, false, &["before", "after"]),
        (Send, Hang, false, &["before", "after"]),
        (Commit, FailBefore, true, &["before", "after"]),
        (Commit, FailAfter, false, &["before", "lost?", "after"]),
        (Commit, Hang, false, &["before", "after"]),
        (Commit, Late(1000), false, &["before", "after"]),
        (Commit, Late(0), false, &["before", "lost?", "after"]),
    ];
    for (operation, what, retry, expected) in cases {
        let broker = broker();
        let mut producer = broker.producer("p").unwrap();
        producer.append(&append("before")).unwrap();
        once(&broker, operation, what);
        let error = producer.append(&append("lost?")).unwrap_err();
        assert_eq!(error.retry, retry, "{operation:?} {what:?}: {error}");
        if !retry {
            let error = producer.append(&append("never")).unwrap_err();
            assert!(error.message.contains("make a new producer"), "{operation:?} {what:?}: {error}");
            producer = broker.producer("p").unwrap();
        }
        producer.append(&append("after")).unwrap();
        assert_eq!(visible(&broker), expected, "{operation:?} {what:?}");
    }
}

/// Messages on their own: what each fault leaves, and that the producer can go on.
#[test]
fn messages_on_their_own_are_there_at_once() {
    let cases: [(Injected, Option<Failure>, &[&str]); 4] = [
        (Injected::Nothing, None, &["alone", "after"]),
        (Injected::FailBefore, Some(Failure::Again), &["after"]),
        (Injected::FailAfter, Some(Failure::Open), &["alone", "after"]),
        (Injected::Hang, Some(Failure::Open), &["after"]),
    ];
    for (what, failure, expected) in cases {
        let broker = broker();
        let mut producer = broker.producer("p").unwrap();
        once(&broker, Operation::Send, what);
        let found = producer.send(&append("alone")).err().map(|fault| Failure::of(&fault));
        assert_eq!(found, failure, "{what:?}");
        producer.send(&append("after")).unwrap();
        assert_eq!(visible(&broker), expected, "{what:?}");
    }
    let broker = broker();
    let mut zombie = broker.producer("p").unwrap();
    broker.producer("p").unwrap();
    zombie.send(&append("alone")).unwrap();
    assert_eq!(visible(&broker), ["alone"], "they are not fenced");
    assert_eq!(broker.topic("t").unwrap().unwrap().partitions, [(0, 1)], "they leave no mark");
    let fault = zombie.append(&append("fenced")).unwrap_err();
    assert_eq!(Failure::of(&fault), Failure::Fenced);
}

#[test]
fn what_can_never_be_appended_is_refused() {
    let broker = broker();
    let mut producer = broker.producer("p").unwrap();
    let [mut nowhere] = append("x");
    nowhere.topic = "none".to_owned();
    let [mut beyond] = append("x");
    beyond.messages[0].partition = Some(7);
    for append in [nowhere, beyond] {
        let fault = producer.append(std::slice::from_ref(&append)).unwrap_err();
        assert_eq!(Failure::of(&fault), Failure::Refused, "{fault}");
    }
    producer.append(&append("x")).unwrap();
}

#[test]
fn an_open_transaction_hides_what_is_behind_it() {
    let broker = broker();
    let mut producer = broker.producer("p").unwrap();
    once(&broker, Operation::Commit, Injected::Hang);
    producer.append(&append("open")).unwrap_err();
    broker.producer("q").unwrap().append(&append("behind")).unwrap();
    assert_eq!(visible(&broker), [""; 0]);
    assert_eq!(broker.topic("t").unwrap().unwrap().partitions, [(0, 0)], "the end is the last stable offset");
    broker.producer("p").unwrap();
    assert_eq!(visible(&broker), ["behind"], "a new producer aborts what its predecessor left open");
    let end = broker.topic("t").unwrap().unwrap().partitions[0].1;
    assert_eq!(end, 4, "transactions leave marks");
    let mut reader = broker.open("t", &[Position { partition: 0, offset: 0 }]).unwrap();
    assert_eq!(reader.read(100, Duration::ZERO).unwrap().unwrap().records.offsets[..], [1]);
    assert_eq!(reader.ends().unwrap()[0].offset, 2);
}

#[test]
fn commits_become_visible_late() {
    for what in [Injected::Hide(3), Injected::Late(3)] {
        let broker = broker();
        let mut producer = broker.producer("p").unwrap();
        once(&broker, Operation::Commit, what);
        assert_eq!(producer.append(&append("x")).is_ok(), what == Injected::Hide(3));
        let mut reader = broker.open("t", &[Position { partition: 0, offset: 0 }]).unwrap();
        let mut next = || reader.read(100, Duration::ZERO).unwrap().is_some();
        assert_eq!([next(), next(), next(), next()], [false, false, true, false], "{what:?}");
    }
}

#[test]
fn a_zombie_in_mid_transaction_is_fenced() {
    let broker = broker();
    let mut old = broker.producer("p").unwrap();
    let inner = broker.clone();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    broker.inject(move |call| {
        if call.operation == Operation::Commit && count.fetch_add(1, Ordering::Relaxed) == 0 {
            inner.producer("p").unwrap().append(&append("new")).unwrap();
        }
        Injected::Nothing
    });
    let error = old.append(&append("old")).unwrap_err();
    assert!(error.message.contains("fenced") && !error.retry, "{error}");
    assert_eq!(visible(&broker), ["new"]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn readers_meet_faults_and_retention() {
    let broker = broker();
    let mut producer = broker.producer("p").unwrap();
    (0..3).for_each(|_| producer.append(&append("x")).unwrap());
    let mut reader = broker.open("t", &[Position { partition: 0, offset: 0 }]).unwrap();
    once(&broker, Operation::Read, Injected::FailBefore);
    assert!(reader.read(100, Duration::ZERO).map(|_| ()).unwrap_err().retry);
    broker.heal();
    broker.discard("t", &[Position { partition: 0, offset: 2 }]).unwrap();
    let error = reader.read(100, Duration::ZERO).map(|_| ()).unwrap_err();
    let expected = "cannot read topic `t` partition 0 from offset 0: the first offset that is kept is 2 (the end is 6)";
    assert_eq!(error.message, expected);
    assert_eq!(broker.open("t", &[Position { partition: 0, offset: 0 }]).map(|_| ()).unwrap_err().message, expected);
}
