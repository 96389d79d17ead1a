//! Compares what became visible with what has to be there.

use std::collections::{BTreeMap, BTreeSet};

use millstream_connectors::broker::Broker;
use millstream_engine::batch::Origin;
use millstream_engine::digest::AnswersDigest;
use millstream_pipelines::plan::{Delivery, Pipeline};
use millstream_pipelines::run::assemble::Topics;
use serde_json::Value;

use super::oracle::{Letter, Oracle};
use crate::{DeadLetter, Record, records};

/// What is wrong.
pub type Checked<T> = Result<T, String>;

macro_rules! ensure {
    ($held:expr, $($why:tt)+) => {
        if !$held {
            return Err(format!($($why)+));
        }
    };
}

/// Everything that a committed reader finds.
struct Found {
    readings: Vec<Record>,
    questions: Vec<Record>,
    answers: Vec<Record>,
    rows: Vec<Record>,
    dead: Vec<DeadLetter>,
    progress: Vec<Value>,
}

/// An epoch, as far as questions care: how many examples the model before it had learned from, and whether everything
/// had been taken by then.
struct Asked {
    revision: usize,
    ended: bool,
}

/// All input is used up: everything is there, once (at least once, where that was asked for), and right.
pub fn check(pipeline: &Pipeline, broker: &dyn Broker, delivery: Delivery) -> Checked<()> {
    let topics = Topics::of(&pipeline.name);
    let found = Found {
        readings: records(broker, "readings"),
        questions: records(broker, "questions"),
        answers: records(broker, "answers"),
        rows: records(broker, "rows"),
        dead: records(broker, &topics.dead).into_iter().map(DeadLetter::from).collect(),
        progress: crate::progress(broker, &pipeline.name),
    };
    let oracle = Oracle::new(pipeline, &found.readings);
    let once = delivery == Delivery::ExactlyOnce;
    found.check_rows(&oracle, once)?;
    found.check_dead(&oracle, once)?;
    let asked = found.check_progress(&oracle)?;
    found.check_answers(&oracle, &asked, once)?;
    if once { found.check_tallies() } else { Ok(()) }
}

impl Found {
    fn check_rows(&self, oracle: &Oracle, once: bool) -> Checked<()> {
        let rows: Vec<Value> = self.rows.iter().map(Record::json).collect();
        if once {
            let differs = rows.iter().zip(&oracle.rows).position(|(found, expected)| found != expected);
            if let Some(at) = differs {
                return Err(format!("row {at} of the sink is {}, not {}", rows[at], oracle.rows[at]));
            }
            ensure!(rows.len() == oracle.rows.len(), "{} rows in the sink, not {}", rows.len(), oracle.rows.len());
            return Ok(());
        }
        let all = |rows: &[Value]| rows.iter().map(Value::to_string).collect::<BTreeSet<_>>();
        let (found, expected) = (all(&rows), all(&oracle.rows));
        let wrong: Vec<_> = found.symmetric_difference(&expected).collect();
        ensure!(wrong.is_empty(), "rows of the sink are missing or wrong: {wrong:?}");
        Ok(())
    }

    fn check_dead(&self, oracle: &Oracle, once: bool) -> Checked<()> {
        let mut expected = oracle.dead.clone();
        for question in &self.questions {
            if let Err(step @ ("questions" | "known/1/require")) = oracle.answer(question, 0) {
                let (partition, offset) = (question.partition, question.offset);
                expected.insert(("questions".to_owned(), partition, offset, step.to_owned(), question.value.clone()));
            }
        }
        let letter = |letter: &DeadLetter| -> Letter {
            let DeadLetter { source, partition, offset, step, raw, .. } = letter.clone();
            (source, partition, offset, step, raw)
        };
        let found: BTreeSet<Letter> = self.dead.iter().map(letter).collect();
        let wrong: Vec<_> = found.symmetric_difference(&expected).collect();
        ensure!(wrong.is_empty(), "dead letters are missing or wrong: {wrong:?}");
        ensure!(!once || self.dead.len() == expected.len(), "{} dead letters, not {}", self.dead.len(), expected.len());
        Ok(())
    }

    /// The journal holds consecutive epochs, whose ranges take each record once, and reaches the oracle's models. Gives for
    /// each question the epoch that it was asked in.
    fn check_progress(&self, oracle: &Oracle) -> Checked<BTreeMap<(u32, u64), Asked>> {
        let mut taken: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        let mut asked = BTreeMap::new();
        let mut revision = 0;
        for (epoch, progress) in self.progress.iter().enumerate() {
            let binding = &progress["binding"];
            ensure!(binding["epoch"] == epoch, "epoch {} where {epoch} should be", binding["epoch"]);
            for range in binding["ranges"].as_array().into_iter().flatten() {
                let (source, partition) = (text(&range["source"]), number(&range["partition"]) as u32);
                let (lo, hi, count) = (number(&range["lo"]), number(&range["hi"]), number(&range["count"]));
                let before = taken.insert((source, partition), hi).unwrap_or_default();
                let all = self.of(source).iter().filter(|record| record.partition == partition);
                let between: Vec<u64> =
                    all.map(|record| record.offset).filter(|offset| (before..hi).contains(offset)).collect();
                ensure!(
                    between.first() == Some(&lo) && between.len() as u64 == count,
                    "epoch {epoch} takes {source}/{partition} from {lo} to {hi}, {count} records, after {before}: \
                     there are {between:?}"
                );
                *counted.entry(source).or_default() += count;
                if source == "questions" {
                    let ended = counted.get("readings").copied().unwrap_or_default() == self.readings.len() as u64;
                    asked.extend(between.iter().map(|offset| ((partition, *offset), Asked { revision, ended })));
                }
            }
            let mark = &progress["revisions"]["y"];
            if !mark.is_null() {
                let reached = number(&mark["revision"]) as usize;
                ensure!(reached >= revision, "epoch {epoch} goes back from revision {revision} to {reached}");
                revision = reached;
                let expected = oracle.digest(revision);
                ensure!(mark["digest"].as_str() == expected, "revision {revision} is {mark}, not {expected:?}");
            }
        }
        for (source, all) in [("readings", self.readings.len()), ("questions", self.questions.len())] {
            let count = counted.get(source).copied().unwrap_or_default();
            ensure!(count == all as u64, "{count} of {all} records of {source} were taken");
        }
        ensure!(revision == oracle.examples(), "the last revision is {revision}, not {}", oracle.examples());
        Ok(asked)
    }

    fn of(&self, source: &str) -> &[Record] {
        if source == "questions" { &self.questions } else { &self.readings }
    }

    fn check_answers(&self, oracle: &Oracle, asked: &BTreeMap<(u32, u64), Asked>, once: bool) -> Checked<()> {
        let mut answers: BTreeMap<(u32, u64), Vec<(&Record, Value)>> = BTreeMap::new();
        for record in &self.answers {
            let value = record.json();
            let place = (number(&value["request"]["partition"]) as u32, number(&value["request"]["offset"]));
            ensure!(asked.contains_key(&place), "nobody asked for {value}");
            answers.entry(place).or_default().push((record, value));
        }
        for question in &self.questions {
            let place = (question.partition, question.offset);
            let epoch = &asked[&place];
            let given = answers.get(&place).map_or(&[][..], Vec::as_slice);
            ensure!(given.len() == 1 || !once && !given.is_empty(), "{place:?} has {} answers: {given:?}", given.len());
            let mut is_there = false;
            for (record, value) in given {
                let key = value["request"]["key"].as_str();
                ensure!(key == question.key.as_deref() && record.key == question.key, "the key is another: {value}");
                let revision = value["revision"].as_u64().unwrap_or_default() as usize;
                is_there |= revision == epoch.revision || value.get("error").is_some();
                check_answer(oracle, question, revision, value, epoch.ended || !once)?;
            }
            ensure!(is_there, "{place:?} was asked in an epoch after revision {}: {given:?}", epoch.revision);
        }
        Ok(())
    }

    /// The answers of each epoch are those that its record speaks of.
    fn check_tallies(&self) -> Checked<()> {
        for progress in &self.progress {
            let mut digest = AnswersDigest::default();
            for range in progress["binding"]["ranges"].as_array().into_iter().flatten() {
                if range["source"] != "questions" {
                    continue;
                }
                let partition = number(&range["partition"]) as u32;
                let mut given: BTreeMap<u64, &Record> = BTreeMap::new();
                for record in self.answers.iter().filter(|record| record.partition == partition) {
                    given.insert(number(&record.json()["request"]["offset"]), record);
                }
                for (offset, record) in given.range(number(&range["lo"])..number(&range["hi"])) {
                    digest.update(Origin { source: 1, partition, offset: *offset, index: 0 }, &record.value);
                }
            }
            let tally = serde_json::to_value(digest.finish()).map_err(|error| error.to_string())?;
            let epoch = &progress["binding"]["epoch"];
            ensure!(tally == progress["answers"], "epoch {epoch} speaks of {}, not {tally}", progress["answers"]);
        }
        Ok(())
    }
}

/// An answer is what its revision says, and that is what was complete when it was made.
fn check_answer(oracle: &Oracle, question: &Record, revision: usize, value: &Value, may_end: bool) -> Checked<()> {
    match oracle.answer(question, revision) {
        Err(step) => {
            ensure!(value["error"]["step"] == step, "refused by {step}, but the answer is {value}");
            Ok(())
        }
        Ok(prediction) => {
            let given = value["answer"]["prediction"].as_f64();
            ensure!(given == Some(prediction), "revision {revision} says {prediction}: {value}");
            let learned = &value["learned_through"];
            let offsets: BTreeMap<String, u64> =
                serde_json::from_value(learned["offsets"].clone()).map_err(|error| error.to_string())?;
            let fits = |ended: bool| {
                let (time, examples) = oracle.complete(&offsets, ended);
                let staleness =
                    Oracle::asked_at(question).zip(time).map(|(at, time)| (at - time).max(0) as f64 / 1000.0);
                let stamped = time.map(millstream_pipelines::run::time);
                examples == revision
                    && learned["time"].as_str() == stamped.as_deref()
                    && value["staleness_seconds"].as_f64() == staleness
            };
            ensure!(
                fits(false) || may_end && fits(true),
                "through {offsets:?} there are {:?}, or {:?} at the end: {value}",
                oracle.complete(&offsets, false),
                oracle.complete(&offsets, true)
            );
            Ok(())
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
