//! Input that nobody would send: each bad record is one dead letter, which holds all that was known of it, and everything
//! else goes on as if it had not been there.

use millstream_connectors::broker::Message;
use millstream_pipelines::run::{Options, Summary};
use millstream_tests::{DeadLetter, NOW_MS, Site, message, one_answer_each};

/// A pipeline whose state shows any difference in what it was given.
fn definition(from: &str, format: &str) -> String {
    DEFINITION.replace("FROM", from).replace("FORMAT", format)
}

const DEFINITION: &str = r"
millstream: 1
name: hostile
broker: {embedded: {max_record_bytes: 120000000}}
sources:
  readings:
    from: FROM
    format: FORMAT
    columns: {at: timestamp, x: float, name: text, good: bool}
    event_time: {column: at}
    idle_seconds: 1000000
streams:
  known:
    input: readings
    steps:
      - standardise: {columns: [x], warm_up: 2}
      - hash_category: {columns: [name], buckets: 8}
models:
  good:
    input: known
    label: good
    features: [x, name]
    learner: logistic_regression
requests:
  questions: {topic: questions, enters: readings, model: good, answers: {topic: answers}}
sinks:
  rows: {from: known, to: {topic: {name: rows}}}
";
const TOPIC: &str = "{topic: {name: readings}}";
const GOOD: u64 = 12;

fn json(number: u64) -> Vec<u8> {
    let at = NOW_MS as u64 + number * 1000;
    format!(r#"{{"at":{at},"x":{},"name":"n{}","good":{}}}"#, number * 7 % 5, number % 3, number.is_multiple_of(2))
        .into_bytes()
}

fn csv(number: u64) -> Vec<u8> {
    let at = NOW_MS as u64 + number * 1000;
    format!("{at},{},n{},{}", number * 7 % 5, number % 3, number.is_multiple_of(2)).into_bytes()
}

/// Good records with bad ones among them: each at its offset, with the beginning of the reason.
fn among(good: fn(u64) -> Vec<u8>, bad: &[(Vec<u8>, &str)]) -> (Vec<Vec<u8>>, Vec<(u64, String)>) {
    let (mut records, mut reasons) = (Vec::new(), Vec::new());
    let mut bad = bad.iter();
    for number in 0..GOOD {
        records.push(good(number));
        let rest = if number == GOOD - 1 { bad.len() } else { 1 };
        for (record, reason) in bad.by_ref().take(rest) {
            reasons.push((records.len() as u64, (*reason).to_owned()));
            records.push(record.clone());
        }
    }
    (records, reasons)
}

/// What the good records taught.
fn taught(site: &Site, summary: &Summary) -> (u64, String, Vec<Vec<u8>>) {
    let model = &summary.models["good"];
    (model.revision, model.digest.clone(), site.records("rows").into_iter().map(|record| record.value).collect())
}

fn append(site: &Site, records: &[Vec<u8>]) {
    let messages: Vec<Message> = records.iter().map(|record| message(None, record.clone())).collect();
    site.append("readings", &messages);
}

/// The bad records become dead letters of the source, and nothing else changes.
fn check(format: &str, good: fn(u64) -> Vec<u8>, bad: &[(Vec<u8>, &str)]) {
    let clean = Site::new(&definition(TOPIC, format), &[]);
    append(&clean, &(0..GOOD).map(good).collect::<Vec<_>>());
    let expected = clean.run();
    assert_eq!(
        (expected.models["good"].revision, clean.dead_letters()),
        (GOOD, vec![]),
        "{format}: the good ones are good"
    );

    let (records, reasons) = among(good, bad);
    let site = Site::new(&definition(TOPIC, format), &[]);
    append(&site, &records);
    let found = site.run_with(&Options { max_records: Some(5), ..site.options() });
    assert_eq!(taught(&site, &found), taught(&clean, &expected), "{format}: the good ones are unharmed");
    check_dead_letters(&site.dead_letters(), &records, &reasons);
}

fn check_dead_letters(letters: &[DeadLetter], records: &[Vec<u8>], reasons: &[(u64, String)]) {
    let found: Vec<_> = letters.iter().map(|letter| (letter.offset, letter.reason.as_str())).collect();
    assert_eq!(found.len(), reasons.len(), "one dead letter for each bad record: {found:?}");
    for (letter, (offset, reason)) in letters.iter().zip(reasons) {
        let place =
            (letter.source.as_str(), letter.partition, letter.offset, letter.lane.as_str(), letter.step.as_str());
        assert_eq!(place, ("readings", 0, *offset, "learn", "readings"));
        assert!(letter.reason.contains(reason.as_str()), "offset {offset}: {} does not say {reason}", letter.reason);
        assert!(letter.raw == records[*offset as usize], "offset {offset}: the raw bytes differ");
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn json_records() {
    let deep = ["{\"else\":", &"[".repeat(200_000)].concat();
    let deep_object = "{\"else\":".repeat(50_000);
    check(
        "{json: {unknown: ignore}}",
        json,
        &[
            (bytes("{\"at\":1767225600000,\"x\":"), "column `x`"),
            (bytes(""), ""),
            (b"{\"name\":\"\xff\xfe\"}".to_vec(), "not UTF-8"),
            (b"\x00\x00\x00".to_vec(), ""),
            (bytes("{\"x\":NaN}"), "column `x`"),
            (bytes("{\"x\":1e999}"), "column `x`"),
            (bytes("{\"x\":-Infinity}"), "column `x`"),
            (bytes("{\"x\":\"5\"}"), "column `x`"),
            (bytes("{\"good\":1}"), "column `good`"),
            (bytes("{\"at\":\"2026-02-30T00:00:00Z\"}"), "column `at`"),
            (bytes("{}{}"), ""),
            (bytes("[1,2]"), ""),
            (bytes("null"), ""),
            (bytes("{\"name\":\"\\ud800\"}"), ""),
            (bytes(&deep), ""),
            (bytes(&deep_object), ""),
        ],
    );
    check("{json: {unknown: reject}}", json, &[(bytes("{\"at\":1767225600000,\"y\":1}"), "`y`")]);
}

#[test]
fn csv_records() {
    check(
        "csv",
        csv,
        &[
            (bytes("1767225600000,inf,n1,true"), "column `x`"),
            (bytes("1767225600000,NaN,n1,true"), "column `x`"),
            (bytes("1767225600000,1e999,n1,true"), "column `x`"),
            (bytes("1767225600000,1,n1"), "expected 4 values, found 3"),
            (bytes("1767225600000,1,n1,true,5"), "expected 4 values, found 5"),
            (bytes("1767225600000,1,\"n1,true"), ""),
            (b"1767225600000,1,\xc3\x28,true".to_vec(), "not UTF-8"),
            (bytes("soon,1,n1,true"), "column `at`"),
            (bytes("1767225600000,1,n1,perhaps"), "column `good`"),
        ],
    );
}

#[test]
fn a_tombstone_is_a_dead_letter() {
    let site = Site::new(&definition(TOPIC, "json"), &[]);
    site.append(
        "readings",
        &[message(None, json(0)), Message { value: None, ..message(Some("k"), "") }, message(None, json(1))],
    );
    assert_eq!(site.run().models["good"].revision, 2);
    let letters = site.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].offset, letters[0].reason.as_str()), (1, "a tombstone: the record has no value"));
}

/// Without a bound it brings time forward, and what follows is late; with one, it is as if it had not been there.
#[test]
fn a_clock_that_is_wrong_is_one_dead_letter() {
    let definition = |time: &str| definition(TOPIC, "json").replace("{column: at}", time);
    let wrong = json(0).into_iter().map(|byte| if byte == b'1' { b'4' } else { byte }).collect::<Vec<u8>>();
    let good: Vec<Vec<u8>> = (0..GOOD).map(json).collect();
    let with_wrong = [&good[..3], std::slice::from_ref(&wrong), &good[3..]].concat();
    let run = |time: &str, records: &[Vec<u8>]| {
        let site = Site::new(&definition(time), &[]);
        append(&site, records);
        let summary = site.run_with(&Options { max_records: Some(5), ..site.options() });
        (taught(&site, &summary), site.dead_letters())
    };
    let bounded = "{column: at, ahead_seconds: 60}";
    let (expected, none) = run(bounded, &good);
    assert_eq!((expected.0, none), (GOOD, vec![]));
    let (found, letters) = run(bounded, &with_wrong);
    assert_eq!(found, expected);
    assert_eq!((letters.len(), letters[0].offset, &letters[0].raw), (1, 3, &wrong));
    assert!(letters[0].reason.starts_with("ahead of its record's timestamp by "), "{}", letters[0].reason);
    let (found, letters) = run("{column: at}", &with_wrong);
    assert_eq!((found.0, letters.len()), (4, GOOD as usize - 3), "all that follow are late");
}

#[test]
fn nothing_but_poison() {
    let site = Site::new(&definition(TOPIC, "json"), &[]);
    append(&site, &vec![bytes("poison"); 300]);
    site.append("questions", &[message(Some("k"), json(1)), message(None, "poison")]);
    let summary = site.run_with(&Options { max_records: Some(64), ..site.options() });
    assert_eq!((summary.models["good"].revision, summary.answers, summary.refused), (0, 2, 2));
    assert_eq!(summary.dead_letters.values().sum::<u64>(), 301);
    let letters = site.dead_letters();
    let offsets = letters.iter().filter(|letter| letter.source == "readings").map(|letter| letter.offset);
    assert!(offsets.eq(0..300), "each once, in order");
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert_eq!(answers[0]["error"]["reason"], "the model has learned nothing yet");
}

#[test]
fn an_empty_topic_teaches_nothing_and_ends() {
    let site = Site::new(&definition(TOPIC, "json"), &[]);
    let summary = site.run();
    assert_eq!((summary.epochs, summary.records, summary.answers), (0, 0, 0));
    assert_eq!(site.run().epochs_replayed, 0);
    site.append("questions", &[message(Some("k"), json(1))]);
    assert_eq!((site.run().refused, site.answers().len()), (1, 1));
    append(&site, &[json(0), json(1)]);
    assert_eq!(site.run().models["good"].revision, 2, "what comes later is learned");
}

#[test]
fn empty_files_teach_nothing_and_end() {
    for (name, content) in
        [("a.jsonl", ""), ("a.jsonl", "\n\n \r\n"), ("a.csv", ""), ("a.csv", "at,x,name,good\n"), ("a.csv", "\u{feff}")]
    {
        let format = if name == "a.csv" { "csv" } else { "json" };
        let site =
            Site::new(&definition(&format!("{{file: {{path: {name}}}}}"), format), &[(name, content.as_bytes())]);
        let summary = site.run();
        assert_eq!(
            (summary.records, summary.models["good"].revision, site.dead_letters().len()),
            (0, 0, 0),
            "{content:?}"
        );
    }
}

#[test]
fn a_poisonous_request_is_one_dead_letter_and_one_error_answer() {
    let site = Site::new(&definition(TOPIC, "json"), &[]);
    append(&site, &(0..GOOD).map(json).collect::<Vec<_>>());
    let learned = site.run();
    let questions: [(&str, &str); 6] = [
        (r#"{"at":1767225700000,"x":3,"name":"n1"}"#, ""),
        ("what?", "readings-like"),
        (r#"{"x":1e999}"#, "column `x`"),
        (r#"{"at":1767225700000,"name":"n1"}"#, "feature `x` is null"),
        ("", ""),
        (r#"{"x":4,"name":null}"#, ""),
    ];
    let good = [0, 5];
    let messages: Vec<Message> = questions.iter().map(|(question, _)| message(Some("asker"), *question)).collect();
    site.append("questions", &messages);
    let asked = site.run();
    assert_eq!((asked.answers, asked.refused), (6, 4));
    assert_eq!(asked.models["good"].digest, learned.models["good"].digest, "questions teach nothing");
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let letters = site.dead_letters();
    assert!(letters.iter().map(|letter| letter.offset).eq([1, 2, 3, 4]), "{letters:?}");
    for (at, answer) in answers.iter().enumerate() {
        if good.contains(&at) {
            assert!(answer["answer"]["probability"].is_f64() && answer["revision"] == GOOD, "{answer}");
            continue;
        }
        let letter = letters.iter().find(|letter| letter.offset == at as u64).expect("seen above");
        assert_eq!((letter.source.as_str(), letter.lane.as_str()), ("questions", "serve"));
        assert_eq!(
            (&answer["error"]["step"], &answer["error"]["reason"]),
            (&letter.step.as_str().into(), &letter.reason.as_str().into())
        );
        assert_eq!(letter.raw, questions[at].0.as_bytes());
        assert!(at == 1 || letter.reason.contains(questions[at].1), "{}", letter.reason);
    }
}

const HUGE: usize = 100_000_000;

/// A record of 100 MB that would be good if it were shorter.
fn huge() -> Vec<u8> {
    let mut record = b"{\"x\":1,\"name\":\"".to_vec();
    record.resize(HUGE - 2, b'n');
    record.extend_from_slice(b"\"}");
    record
}

#[test]
fn a_record_of_100_mb_in_a_topic() {
    let site = Site::new(&definition(TOPIC, "json"), &[]);
    append(&site, &[json(0), huge(), json(1)]);
    assert_eq!(site.run().models["good"].revision, 2);
    let letters = site.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].offset, letters[0].reason.as_str()), (1, "larger than the limit of 16777216 bytes"));
    assert!(letters[0].raw == huge(), "all of it is there");
    assert_eq!(site.run().epochs, 0, "and it replays");
}

#[test]
fn a_line_of_100_mb_in_a_file() {
    let content = [json(0), huge(), json(1)].join(&b'\n');
    let site = Site::new(&definition("{file: {path: a.jsonl}}", "json"), &[("a.jsonl", &content)]);
    drop(content);
    assert_eq!(site.run().models["good"].revision, 2);
    let letters = site.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].offset, letters[0].reason.as_str()), (1, "larger than the limit of 16777216 bytes"));
    assert_eq!(letters[0].raw.len(), (16 << 20) + 1, "the file has the rest");
    assert!(huge().starts_with(&letters[0].raw));
    assert_eq!(site.run().epochs, 0, "and it replays");
}
