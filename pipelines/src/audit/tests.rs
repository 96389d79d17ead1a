//! A log as a run leaves it, made by hand, and what becomes of it when it is damaged.

use std::sync::Arc;
use std::time::Duration;

use millstream_connectors::broker::simulated::Simulated;
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::digest::RecordsDigest;
use millstream_engine::raw::RawBatch;
use millstream_engine::source::Position;
use serde_json::{Value, json};

use super::*;
use crate::catalogue::Catalogue;
use crate::check;
use crate::definition::{Definition, Secrets};
use crate::run::assemble;

const DEFINITION: &str = "
millstream: 1
name: small
sources:
  rows: {from: {topic: {name: rows, partitions: 2}}, format: json, columns: {x: float, y: float}}
models:
  line: {input: rows, label: y, features: [x], learner: {linear_regression: {}}}
requests:
  asked: {topic: questions, partitions: 3, enters: rows, model: line, answers: {topic: answers, partitions: 2}}
";

/// Numbers that only look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a run has left.
struct Site {
    pipeline: Pipeline,
    broker: Arc<Simulated>,
    journal: Vec<Value>,
    /// The answers in the order in which they were committed, each with its partition.
    answers: Vec<(u32, Value)>,
}

fn planned(delivery: &str) -> Pipeline {
    let definition = Definition::parse("small.yaml", &format!("{DEFINITION}delivery: {delivery}\n"));
    check(&definition, &Catalogue::shipped(), Secrets::default()).0.expect("it is good")
}

fn append(broker: &Simulated, topic: &str, messages: Vec<Message>) {
    let appends = [Append { topic: topic.to_owned(), messages }];
    broker.producer(topic).and_then(|mut producer| producer.append(&appends)).expect("it takes them");
}

fn message(partition: u32, value: &Value) -> Message {
    let value = serde_json::to_vec(value).expect("it is JSON");
    Message { partition: Some(partition), value: Some(value), timestamp_ms: 7, ..Message::default() }
}

/// All of a partition's records in order.
fn read(broker: &Simulated, topic: &str, partition: u32) -> Vec<RawBatch> {
    let mut reader = broker.open(topic, &[Position { partition, offset: 0 }]).expect("it opens");
    let next = || reader.read(1 << 20, Duration::ZERO).expect("it reads").map(|fetched| fetched.records);
    std::iter::from_fn(next).collect()
}

/// The record of a range of the records at `rows` of a partition.
fn range(
    broker: &Simulated,
    source: &str,
    topic: &str,
    partition: u32,
    rows: std::ops::Range<usize>,
) -> (Value, Vec<u64>) {
    let (mut digest, mut offsets, mut at) = (RecordsDigest::default(), Vec::new(), 0);
    for batch in read(broker, topic, partition) {
        for row in 0..batch.len() {
            if rows.contains(&at) {
                digest.update(&batch.slice(row, 1));
                offsets.push(batch.offsets[row]);
            }
            at += 1;
        }
    }
    let (lo, hi) = (offsets[0], offsets[offsets.len() - 1] + 1);
    let count = offsets.len();
    let digest = digest.finish();
    (json!({"source": source, "partition": partition, "lo": lo, "hi": hi, "count": count, "digest": digest}), offsets)
}

fn answer(partition: u32, offset: u64, epoch: u64) -> Value {
    json!({"request": {"topic": "questions", "partition": partition, "offset": offset, "key": null},
           "answer": {"prediction": offset}, "model": "line", "revision": epoch})
}

impl Site {
    /// Rows and questions, appended in small transactions, so that offsets have gaps; and the epochs made of them.
    fn new(seed: u64, delivery: &str) -> Self {
        Self::build(seed, delivery, None)
    }

    /// The third record of the topic `altered` differs.
    fn build(seed: u64, delivery: &str, altered: Option<&str>) -> Self {
        let (pipeline, broker) = (planned(delivery), Arc::new(Simulated::new()));
        assemble::create_topics(&pipeline, &*broker).expect("they can be created");
        let mut random = Random(seed);
        for number in 0..30 {
            for (topic, partitions) in [("rows", 2), ("questions", 3)] {
                let count = 1 + random.below(3);
                let partition = random.below(partitions) as u32;
                append(
                    &broker,
                    topic,
                    (0..count)
                        .map(|at| {
                            let x = if number == 2 && at == 0 && altered == Some(topic) {
                                -5
                            } else {
                                (number * 3 + at) as i64
                            };
                            message(partition, &json!({"x": x}))
                        })
                        .collect(),
                );
            }
        }
        let mut site = Self {
            pipeline,
            broker,
            journal: vec![
                json!({"kind": "start", "run": "a", "number": 1, "definition": "", "fingerprints": {}, "sources": ["rows", "asked"]}),
            ],
            answers: Vec::new(),
        };
        let mut at = std::collections::BTreeMap::new();
        for epoch in 0.. {
            let (source, topic, partitions) =
                if epoch % 3 == 2 { ("asked", "questions", 3) } else { ("rows", "rows", 2) };
            let mut progress = Vec::new();
            for partition in 0..partitions {
                let next: &mut usize = at.entry((topic, partition)).or_default();
                let all: usize = read(&site.broker, topic, partition).iter().map(RawBatch::len).sum();
                let end = all.min(*next + random.below(5) as usize);
                if *next < end {
                    progress.push(range(&site.broker, source, topic, partition, *next..end));
                    *next = end;
                }
            }
            site.commit(epoch, progress);
            let done = |(topic, partition): (&'static str, u32)| {
                let all: usize = read(&site.broker, topic, partition).iter().map(RawBatch::len).sum();
                at.get(&(topic, partition)).is_some_and(|at| *at == all) || all == 0
            };
            if (0..2).all(|partition| done(("rows", partition)))
                && (0..3).all(|partition| done(("questions", partition)))
            {
                return site;
            }
        }
        unreachable!("epochs go on until all is bound")
    }

    fn commit(&mut self, epoch: u64, ranges: Vec<(Value, Vec<u64>)>) {
        let mut digest = AnswersDigest::default();
        for (range, offsets) in ranges.iter().filter(|(range, _)| range["source"] == "asked") {
            let partition = range["partition"].as_u64().expect("a number") as u32;
            for offset in offsets {
                let value = answer(partition, *offset, epoch);
                let bytes = serde_json::to_vec(&value).expect("it is JSON");
                digest.update(Origin { source: 1, partition, offset: *offset, index: 0 }, &bytes);
                self.answers.push((partition % 2, value));
            }
        }
        let ranges: Vec<Value> = ranges.into_iter().map(|(range, _)| range).collect();
        self.journal.push(json!({
            "kind": "progress", "incarnation": 0, "revisions": {}, "answers": digest.finish(),
            "binding": {"epoch": epoch, "ranges": ranges, "now_ms": 7, "seed": 1},
        }));
    }

    fn audit(&self) -> Report {
        for (partition, answer) in &self.answers {
            append(&self.broker, "answers", vec![message(*partition, answer)]);
        }
        for record in &self.journal {
            append(&self.broker, "small.progress", vec![message(0, record)]);
        }
        audit(&self.pipeline, &assemble::world(&self.pipeline, self.broker.clone())).expect("it can be audited")
    }

    /// The audit finds this, and nothing else; gives the only place.
    fn finds(&self, what: &str) -> String {
        let report = self.audit();
        let wrong: Vec<&Wrong> = report.wrong().collect();
        assert!(!report.sound && wrong.len() == 1 && wrong[0].message.contains(what), "{}", report.text());
        wrong[0].place.clone()
    }

    fn progress(&self) -> Vec<usize> {
        (0..self.journal.len()).filter(|at| self.journal[*at]["kind"] == "progress").collect()
    }
}

const EXACTLY: &str = "exactly_once";

/// The answer in the middle: its place in the list, its partition, and its request.
fn middle(site: &Site) -> (usize, u32, String) {
    let at = site.answers.len() / 2;
    let request = &site.answers[at].1["request"];
    (at, site.answers[at].0, format!("questions/{} offset {}", request["partition"], request["offset"]))
}

#[test]
fn an_undamaged_log_is_sound() {
    for seed in 0..8 {
        let site = Site::new(seed, EXACTLY);
        let report = site.audit();
        assert!(report.sound, "seed {seed}:\n{}", report.text());
        let total = |topic: &str, partitions| -> u64 {
            (0..partitions)
                .flat_map(|partition| read(&site.broker, topic, partition))
                .map(|batch| batch.len() as u64)
                .sum()
        };
        assert_eq!(report.progress.checked as usize, site.progress().len());
        assert_eq!(report.records.checked, total("rows", 2) + total("questions", 3), "seed {seed}");
        assert_eq!(report.answers.checked, total("questions", 3));
        assert!(report.checks().iter().all(|(_, check)| check.unproven == 0), "seed {seed}:\n{}", report.text());
    }
}

#[test]
fn an_answer_that_is_missing_is_named() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let (at, _, request) = middle(&site);
        site.answers.remove(at);
        assert_eq!(site.finds("has no answer in answers/"), request, "seed {seed}");
    }
}

#[test]
fn an_answer_that_comes_again_is_named() {
    for seed in 0..8 {
        for (later, what) in
            [(0, "is answered again, with the same answer"), (9, "is answered again, with another answer")]
        {
            let mut site = Site::new(seed, EXACTLY);
            let (at, partition, request) = middle(&site);
            let mut again = site.answers[at].clone();
            if later > 0 {
                again.1["revision"] = json!(99);
            }
            site.answers.insert((at + 1 + later).min(site.answers.len()), again);
            let place = site.finds(&format!("{request} {what}"));
            assert!(place.starts_with(&format!("answers/{partition} offset ")), "seed {seed}: {place}");
        }
    }
}

#[test]
fn an_answer_that_was_altered_is_named_with_its_epoch() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let (at, partition, _) = middle(&site);
        let epoch = site.answers[at].1["revision"].clone();
        site.answers[at].1["answer"] = json!({"prediction": -1});
        let report = site.audit();
        let [wrong] = report.digests.list.as_slice() else { panic!("seed {seed}:\n{}", report.text()) };
        assert!(!report.sound && report.wrong().count() == 1);
        assert!(wrong.message.contains(&format!("answers of epoch {epoch} are not")), "seed {seed}: {wrong:?}");
        assert!(wrong.message.contains(&format!("answers/{partition} offsets")), "seed {seed}: {wrong:?}");
    }
}

#[test]
fn an_answer_to_no_request_is_named() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let (at, partition, _) = middle(&site);
        let mut unasked = site.answers[at].clone();
        unasked.1["request"]["offset"] = json!(1_000_000);
        site.answers.insert(at, unasked);
        let place = site.finds("offset 1000000, which no epoch has bound");
        assert!(place.starts_with(&format!("answers/{partition} offset ")), "seed {seed}: {place}");
        let mut site = Site::new(seed, EXACTLY);
        site.answers.insert(at, (0, json!("nonsense")));
        site.finds("this is no answer");
        let mut site = Site::new(seed, EXACTLY);
        let (partition, moved) = site.answers.remove(at);
        site.answers.insert(at, (1 - partition, moved));
        let report = site.audit();
        assert_eq!((report.answers.wrong, report.strays.wrong), (1, 1), "seed {seed}:\n{}", report.text());
    }
}

/// The log of one run with the topics of another, in which the third row or question differs.
fn altered(seed: u64, topic: &str) -> Site {
    let other = Site::build(seed, EXACTLY, Some(topic));
    Site { broker: other.broker, ..Site::new(seed, EXACTLY) }
}

#[test]
fn an_input_record_that_was_altered_is_named_with_its_range() {
    for seed in 0..8 {
        for topic in ["rows", "questions"] {
            let place = altered(seed, topic).finds("the records are not those that epoch ");
            assert!(place.starts_with(&format!("{topic}/")) && place.contains(" offsets "), "seed {seed}: {place}");
        }
    }
}

#[test]
fn progress_that_is_missing_is_named() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let progress = site.progress();
        let at = progress[progress.len() / 2];
        let epoch = site.journal.remove(at)["binding"]["epoch"].clone();
        let place = site.finds(&format!("the record of epoch {epoch} is missing"));
        assert!(place.starts_with("small.progress/0 offset "), "seed {seed}: {place}");
        // Twice, and rubbish.
        let mut site = Site::new(seed, EXACTLY);
        site.journal.insert(at, site.journal[at].clone());
        site.finds(&format!("epoch {epoch} is recorded again"));
        let mut site = Site::new(seed, EXACTLY);
        site.journal.insert(at, json!({"kind": "nonsense"}));
        site.finds("this is no record of a journal");
    }
}

#[test]
fn the_last_progress_record_is_missed_by_its_answers() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let asks = |site: &Site, at: usize| site.journal[at]["answers"]["count"].as_u64().expect("a number");
        while asks(&site, site.journal.len() - 1) == 0 {
            site.journal.pop();
        }
        let expected = asks(&site, site.journal.len() - 1);
        site.journal.pop();
        let report = site.audit();
        assert_eq!((report.strays.wrong, report.wrong().count() as u64), (expected, expected), "{}", report.text());
        // With the weaker promise, that is what a crash may leave.
        let site = Site { pipeline: planned("at_least_once"), broker: Site::new(seed, EXACTLY).broker, ..site };
        let report = site.audit();
        assert!(report.sound && report.early == expected, "{}", report.text());
    }
}

#[test]
fn ranges_with_gaps_and_overlaps_are_named() {
    for seed in 0..8 {
        let site = Site::new(seed, EXACTLY);
        // An epoch that learns from partition 0, after another one.
        let learns = |at: &usize| site.journal[*at]["binding"]["ranges"][0]["source"] == "rows";
        let zero = |at: &usize| site.journal[*at]["binding"]["ranges"][0]["partition"] == 0;
        let found: Vec<usize> = site.progress().into_iter().filter(|at| learns(at) && zero(at)).collect();
        let at = found[1];
        let mut gap = Site::new(seed, EXACTLY);
        gap.journal[at]["binding"]["ranges"].as_array_mut().expect("a list").remove(0);
        if found.len() > 2 {
            let place = gap.finds("no epoch binds these records");
            assert!(place.starts_with("rows/0 offsets "), "seed {seed}: {place}");
        }
        let mut overlap = Site::new(seed, EXACTLY);
        overlap.journal[at]["binding"]["ranges"][0] = overlap.journal[found[0]]["binding"]["ranges"][0].clone();
        let report = overlap.audit();
        assert!(report.ranges.list[0].message.contains("binds records again"), "seed {seed}:\n{}", report.text());
    }
}

#[test]
fn answers_that_come_twice_are_counted_where_that_is_promised() {
    for seed in 0..8 {
        let mut site = Site::new(seed, "at_least_once");
        // A run ended after the answers of an epoch had gone out, so the next one sent them once more.
        let at = site.answers.len() / 2;
        let again = site.answers[..at].to_vec();
        site.answers.splice(at..at, again);
        let report = site.audit();
        assert!(report.sound && report.doubled as usize == at, "seed {seed}:\n{}", report.text());
        let mut site = Site::new(seed, "at_least_once");
        let (at, partition, request) = middle(&site);
        let mut again = site.answers[at].clone();
        again.1["revision"] = json!(99);
        site.answers.push(again);
        let place = site.finds(&format!("{request} is answered again, with another answer"));
        assert!(place.starts_with(&format!("answers/{partition} offset ")), "seed {seed}: {place}");
    }
}

#[test]
fn what_retention_took_is_unproven_and_not_wrong() {
    for seed in 0..8 {
        let site = Site::new(seed, EXACTLY);
        let place = |partition, offset| Position { partition, offset };
        site.broker.discard("rows", &[place(0, 3)]).expect("there are more");
        let report = site.audit();
        assert!(report.sound && report.records.unproven > 0, "seed {seed}:\n{}", report.text());
    }
    // A topic that was made anew is shorter.
    let site = Site { broker: Arc::new(Simulated::new()), ..Site::new(1, EXACTLY) };
    assemble::create_topics(&site.pipeline, &*site.broker).expect("they can be created");
    let report = site.audit();
    assert!(!report.sound && report.records.list[0].message.contains("the log ends at offset 0"), "{}", report.text());
}

/// What was learned after an epoch is learned again, but for what is skipped; requests stay answered.
#[test]
fn a_rollback_binds_again() {
    for seed in 0..8 {
        let mut site = Site::new(seed, EXACTLY);
        let progress = site.progress();
        let to = progress.len() / 3;
        let later: Vec<Value> = progress[to + 1..].iter().map(|at| site.journal[*at]["binding"].clone()).collect();
        let ranges = later.iter().flat_map(|binding| binding["ranges"].as_array().expect("a list").clone());
        let mut ranges: Vec<Value> = ranges.filter(|range| range["source"] == "rows").collect();
        let skipped = ranges.remove(0);
        let skip =
            json!({"source": "rows", "partition": skipped["partition"], "lo": skipped["lo"], "hi": skipped["hi"]});
        site.journal.push(json!({"kind": "rollback", "to": to, "version": "v", "skip": [skip]}));
        for (epoch, range) in (progress.len() as u64..).zip(ranges) {
            site.commit(epoch, vec![(range, Vec::new())]);
        }
        let report = site.audit();
        assert!(report.sound && report.ranges.wrong == 0, "seed {seed}:\n{}", report.text());
        // Without the skip, what it names is missed.
        let at = site.journal.iter().position(|record| record["kind"] == "rollback").expect("it is there");
        site.journal[at]["skip"] = json!([]);
        let fresh = Site { broker: Site::new(seed, EXACTLY).broker, ..site };
        let report = fresh.audit();
        let learned_on = fresh.journal[at..]
            .iter()
            .any(|record| record["binding"]["ranges"][0]["partition"] == skipped["partition"]);
        assert_eq!(report.sound, !learned_on, "seed {seed}:\n{}", report.text());
    }
}
