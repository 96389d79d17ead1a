//! Dead letters: found by kind and from which offset on, and given to their sources again once that is mended.

use std::collections::BTreeMap;

use millstream_connectors::broker::simulated::{Injected, Operation, Simulated};
use millstream_connectors::broker::{Broker, Message};
use millstream_engine::Fault;
use millstream_pipelines::dead::{self, Filter, Groups, Letter, Replay, Replayed};
use millstream_pipelines::run::assemble;
use millstream_tests::{NOW_MS, Record, Site, append, message, records, unique};

/// Orders and questions from topics, a list from a file; `AMOUNT` is what amounts are declared as.
const DEFINITION: &str = r#"
millstream: 1
name: NAMEshop
broker: BROKER
sources:
  orders:
    from: {topic: {name: NAMEorders, partitions: 2}}
    format: json
    columns: {at: timestamp, customer: text, amount: AMOUNT}
    event_time: {column: at, lateness_seconds: 1000000}
    idle_seconds: 1000000
  list:
    from: {file: {path: list.csv}}
    format: csv
    columns: {customer: text, limit: float}
streams:
  clean:
    input: orders
    steps:
      - require: {that: "customer is not null"}
      - derive: {rich: "amount > 50"}
models:
  rich:
    input: clean
    label: rich
    features: [amount]
    learner: logistic_regression
requests:
  questions: {topic: NAMEquestions, enters: orders, model: rich, answers: {topic: NAMEanswers}}
sinks:
  rows: {from: clean, to: {topic: {name: NAMErows}}}
"#;

fn definition(name: &str, broker: &str, amount: &str) -> String {
    DEFINITION.replace("NAME", name).replace("BROKER", broker).replace("AMOUNT", amount)
}

fn site(name: &str, broker: &str) -> Site {
    Site::new(&definition(name, broker, "int"), &[("list.csv", b"customer,limit\nc,5\nd,high\n")])
}

/// 20 orders, two of them without a customer; from the tenth on amounts have fractions; two questions that are refused.
fn fill(broker: &dyn Broker, name: &str) {
    let order = |number: i64| {
        let customer = if number == 3 || number == 5 { "null" } else { "\"c\"" };
        let amount = if number < 10 { format!("{number}") } else { format!("{number}.5") };
        let value = format!(r#"{{"at": {}, "customer": {customer}, "amount": {amount}}}"#, NOW_MS + number * 1000);
        Message { timestamp_ms: NOW_MS - number, partition: Some((number % 2) as u32), ..message(Some("k"), value) }
    };
    append(broker, &format!("{name}orders"), &(0..20).map(order).collect::<Vec<_>>());
    append(broker, &format!("{name}questions"), &[message(Some("q"), "what?"), message(None, "{\"amount\": 5}")]);
}

fn letters(broker: &dyn Broker, pipeline: &str, filter: &Filter) -> Vec<Letter> {
    let mut letters = Vec::new();
    let strange = dead::read(broker, pipeline, filter, |letter| {
        letters.push(letter);
        Ok(true)
    });
    assert_eq!(strange.expect("it can be read"), 0);
    letters
}

#[expect(clippy::unnecessary_wraps, reason = "filters take options")]
fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The letters of orders that could not be read.
fn unread() -> Replay {
    let filter = Filter { source: some("orders"), step: some("orders"), ..Filter::default() };
    Replay { filter, ..Replay::default() }
}

/// Everything on one broker, whichever it is.
fn everything(name: &str, kind: &str) {
    let site = site(name, kind);
    let broker = &*site.broker();
    let (pipeline, orders) = (format!("{name}shop"), format!("{name}orders"));
    fill(broker, name);
    assert_eq!(site.run().models["rich"].revision, 8);
    check_groups(broker, &pipeline);
    check_filters(broker, &pipeline);

    let replay = |wanted: Replay| dead::replay(&site.pipeline, broker, &wanted, NOW_MS);
    let dry = replay(Replay { dry_run: true, ..unread() }).expect("it can be read");
    assert_eq!(dry.records, BTreeMap::from([(orders.clone(), 10)]));
    assert_eq!(records(broker, &orders).len(), 20, "nothing was done");
    let done = replay(unread()).expect("it can be replayed");
    assert_eq!(done, Replayed { dry_run: false, ..dry });
    check_replayed(broker, &orders);
    let again = replay(unread()).expect("it can be read");
    assert_eq!((again.records.len(), again.already), (0, 10), "none twice");
    let groups = Groups::read(broker, &pipeline, &unread().filter).expect("it can be read").groups;
    assert!(groups.iter().map(|group| (group.records, group.replayed)).eq([(5, 5), (5, 5)]), "{groups:?}");
    let once_more = replay(Replay { again: true, ..unread() }).expect("on purpose");
    assert_eq!((once_more.records[&orders], once_more.already), (10, 0));

    let rest = replay(Replay { requests: true, ..Replay::default() }).expect("it can be replayed");
    let given: Vec<(&str, u64)> = rest.records.iter().map(|(topic, count)| (&topic[name.len()..], *count)).collect();
    assert_eq!(given, [("orders", 2), ("questions", 2)]);
    assert_eq!((rest.beyond_source, rest.requests, rest.already, rest.without_original), (3, 0, 10, 0));
    let why: Vec<&String> = rest.impossible.keys().collect();
    assert!(matches!(why.as_slice(), [why] if why.starts_with("`list` reads no topic")), "{why:?}");

    // They are refused as before, and each is a letter of its own.
    site.run();
    let origins: Vec<String> = letters(broker, &pipeline, &unread().filter).iter().map(Letter::origin).collect();
    assert_eq!(origins.len(), 30, "{origins:?}");
}

fn check_groups(broker: &dyn Broker, pipeline: &str) {
    let found = Groups::read(broker, pipeline, &Filter::default()).expect("it can be read");
    let mut shown: Vec<_> = found
        .groups
        .iter()
        .map(|group| {
            let place = (group.source.as_str(), group.partition, group.step.as_str());
            (place, (group.first_offset, group.last_offset), group.records)
        })
        .collect();
    shown.sort_unstable();
    // Of each partition's ten orders, those from the sixth on; the orders 3 and 5 are its second and third.
    let expected = [
        (("list", 0, "list"), (1, 1), 1),
        (("orders", 0, "orders"), (5, 9), 5),
        (("orders", 1, "clean/0/require"), (1, 2), 2),
        (("orders", 1, "orders"), (5, 9), 5),
        (("questions", 0, "clean/0/require"), (1, 1), 1),
        (("questions", 0, "questions"), (0, 0), 1),
    ];
    assert_eq!(shown, expected, "{}", found.text());
    assert!(found.text().contains("clean/0/require (asked)"), "{}", found.text());
}

fn check_filters(broker: &dyn Broker, pipeline: &str) {
    let count = |filter: Filter| letters(broker, pipeline, &filter).len();
    assert_eq!(count(Filter::default()), 15);
    assert_eq!(count(Filter { step: some("clean/*"), ..Filter::default() }), 3);
    assert_eq!(count(Filter { source: some("questions"), step: some("clean/*"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { reason: some("*`amount`*"), ..Filter::default() }), 10);
    assert_eq!(count(Filter { since_ms: Some(NOW_MS + 86_400_000), ..Filter::default() }), 0);
    assert_eq!(count(Filter { since_ms: Some(NOW_MS), ..Filter::default() }), 15);
    let step = some("questions");
    let letter = &letters(broker, pipeline, &Filter { step, ..Filter::default() })[0];
    assert_eq!(letter.content(), ("text", "what?".to_owned()));
    assert_eq!(letter.to_json()["raw"], serde_json::json!({"text": "what?"}));
    assert!(letter.text().contains("questions/0:0, a request\n"), "{}", letter.text());
    let hex = Letter { raw: Some(vec![0xff, 0x0a]), ..letter.clone() };
    assert_eq!(hex.content(), ("hex", "ff0a".to_owned()));
}

/// Ten orders came again as they were.
fn check_replayed(broker: &dyn Broker, topic: &str) {
    let all = records(broker, topic);
    let (old, new): (Vec<&Record>, Vec<&Record>) = all.iter().partition(|record| record.headers.is_empty());
    assert_eq!((old.len(), new.len()), (20, 10));
    for record in new {
        let origin = &record.headers["replayed"];
        let was = old.iter().find(|old| *origin == format!("orders/{}:{}", old.partition, old.offset));
        let was = was.expect("the header names the record that it was");
        assert_eq!((&record.value, &record.key, record.partition), (&was.value, &was.key, was.partition));
        assert_eq!(record.timestamp_ms, was.timestamp_ms);
    }
}

#[test]
fn on_the_embedded_broker() {
    everything("", "embedded");
}

#[test]
fn on_kafka() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    everything(&unique(), &format!("{{kafka: {{bootstrap.servers: \"{servers}\"}}}}"));
}

/// The new definition makes the model anew from the log, and takes the records then: a replay would be a second time.
#[test]
fn what_a_changed_definition_takes_from_the_log_is_not_replayed() {
    let mut site = site("", "embedded");
    fill(&*site.broker(), "");
    site.run();
    site.redefine(&definition("", "embedded", "float"));
    let wanted = |rebuilt| Replay { rebuilt, dry_run: true, ..unread() };
    let replay = |site: &Site, rebuilt| dead::replay(&site.pipeline, &*site.broker(), &wanted(rebuilt), NOW_MS);
    for revision in [None, Some(18)] {
        let found = replay(&site, false).expect("it can be read");
        assert_eq!((found.records.len(), found.rebuilt), (0, 10), "{}", found.text());
        assert_eq!(replay(&site, true).expect("it can be read").records["orders"], 10);
        if let Some(revision) = revision {
            assert_eq!(site.run().models["rich"].revision, revision, "and so it is");
        } else {
            site.run();
        }
    }
}

/// What a step makes of several records has no bytes of its own: the record that it came from goes back, not the row.
#[test]
fn a_row_that_a_step_made_goes_back_as_its_record() {
    let steps = "      - latest: {by: [customer]}\n      - require: {that: \"amount < 5\"}\n      - as_stream: {}\n";
    let text =
        definition("", "embedded", "float").replace("      - require: {that: \"customer is not null\"}\n", steps);
    let site = Site::new(&text, &[("list.csv", b"customer,limit\nc,5\n")]);
    fill(&*site.broker(), "");
    site.run();
    let filter = Filter { step: some("clean/1/require"), source: some("orders"), ..Filter::default() };
    let letters = letters(&*site.broker(), "shop", &filter);
    assert!(letters.len() > 10 && letters.iter().all(|letter| letter.is_row), "{letters:?}");
    assert!(letters[0].content().1.contains("amount="), "{:?}", letters[0]);
    let wanted = Replay { filter, ..Replay::default() };
    let done = dead::replay(&site.pipeline, &*site.broker(), &wanted, NOW_MS).expect("it can be replayed");
    assert_eq!((done.without_original, done.impossible.len()), (0, 0), "{}", done.text());
    let all = site.records("orders");
    let (old, new): (Vec<&Record>, Vec<&Record>) = all.iter().partition(|record| record.headers.is_empty());
    assert_eq!(done.records["orders"], new.len() as u64);
    assert!(new.len() > 10 && new.iter().all(|record| old.iter().any(|old| old.value == record.value)), "{new:?}");
}

#[test]
fn a_record_that_its_topic_no_longer_holds_goes_without_a_key() {
    let (site, broker) = simulated();
    broker.discard("orders", &[millstream_engine::source::Position { partition: 0, offset: 10 }]).expect("it exists");
    let done = dead::replay(&site.pipeline, &broker, &unread(), NOW_MS).expect("it can be replayed");
    assert_eq!((done.records["orders"], done.without_original), (10, 5));
    let new: Vec<Record> = records(&broker, "orders").into_iter().filter(|record| !record.headers.is_empty()).collect();
    assert!(new.iter().all(|record| record.key.is_some() == (record.partition == 1)), "{new:?}");
}

/// Letters as a run leaves them, on a broker in memory.
fn simulated() -> (Site, Simulated) {
    let site = site("", "embedded");
    let broker = Simulated::new();
    assemble::create_topics(&site.pipeline, &broker).expect("new topics");
    fill(&broker, "");
    for letter in [(0, 5), (0, 6), (0, 7), (0, 8), (0, 9), (1, 5), (1, 6), (1, 7), (1, 8), (1, 9)] {
        let (partition, offset) = letter;
        let all = records(&broker, "orders");
        let was = all.iter().find(|record| (record.partition, record.offset) == letter).expect("it was appended");
        let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
        let headers = vec![
            header("source", "orders".to_owned()),
            header("partition", partition.to_string()),
            header("offset", offset.to_string()),
            header("lane", "learn".to_owned()),
            header("step", "orders".to_owned()),
            header("reason", "column `amount`: expected an int, found the number 1.5".to_owned()),
        ];
        let message = Message { headers, value: Some(was.value.clone()), timestamp_ms: NOW_MS, ..Message::default() };
        append(&broker, "shop.dead", &[message]);
    }
    (site, broker)
}

/// Whatever fails on the way, in the end each record was replayed once.
#[test]
fn a_replay_that_is_broken_off_goes_on() {
    for operation in [Operation::Start, Operation::Begin, Operation::Send, Operation::Commit] {
        for fault in [Injected::FailBefore, Injected::FailAfter, Injected::Hang] {
            let (site, broker) = simulated();
            let mut left = 2;
            broker.inject(move |call| {
                let hit = call.operation == operation && call.who == "shop.replayed" && left > 0;
                left -= u32::from(hit);
                if hit { fault } else { Injected::Nothing }
            });
            let once = || dead::replay(&site.pipeline, &broker, &unread(), NOW_MS);
            let outcomes: Vec<Result<Replayed, Fault>> = (0..4).map(|_| once()).collect();
            assert!(outcomes.last().is_some_and(Result::is_ok), "{operation:?} {fault:?}: {outcomes:?}");
            let new = records(&broker, "orders").into_iter().filter(|record| !record.headers.is_empty());
            let mut origins: Vec<String> = new.map(|record| record.headers["replayed"].clone()).collect();
            origins.sort();
            let expected: Vec<String> = (0..2)
                .flat_map(|partition| (5..10).map(move |offset| format!("orders/{partition}:{offset}")))
                .collect();
            assert_eq!(origins, expected, "{operation:?} {fault:?}");
        }
    }
}
