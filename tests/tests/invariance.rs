//! What was learned and answered depends on the records alone: not on the number of workers, on how the records were cut
//! into epochs and runs, nor on the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use millstream_engine::time::{Clock, StepClock};
use millstream_pipelines::run::{Options, Summary};
use millstream_tests::small::{self, Input, Random};
use millstream_tests::{DeadLetter, NOW_MS, Record, Site, one_answer_each};

const SEED: u64 = 7;
const SECONDS: u64 = 240;
const QUESTIONS: u64 = 30;

/// Everything that a pipeline gave.
#[derive(Debug, PartialEq)]
struct Given {
    digests: BTreeMap<String, (u64, String)>,
    versions: BTreeMap<String, Vec<String>>,
    answers: Vec<Record>,
    dead_letters: Vec<DeadLetter>,
    rows: [Vec<Record>; small::SINKS.len()],
}

/// After how many epochs there was another revision.
fn revisions(site: &Site) -> usize {
    let mut revisions: Vec<String> =
        site.progress().iter().map(|epoch| epoch["revisions"]["hot"].to_string()).collect();
    revisions.dedup();
    revisions.len()
}

/// How a case is run.
#[derive(Clone, Copy, Debug)]
struct How {
    workers: usize,
    max_records: usize,
    /// Makes the clock of a run.
    clock: fn() -> Arc<dyn Clock>,
}

const HOUR_MS: i64 = 3_600_000;

/// A clock that is set anew at each reading, by up to an hour.
struct JumpingClock(AtomicI64);

impl Clock for JumpingClock {
    fn now_ms(&self) -> i64 {
        let reading = self.0.fetch_add(1, Ordering::Relaxed);
        NOW_MS + Random::new(reading as u64).below(2 * HOUR_MS as u64 + 1) as i64 - HOUR_MS
    }
}

/// A clock that goes on from where the last one was, or seems to.
fn jumping() -> Arc<dyn Clock> {
    static RUNS: AtomicI64 = AtomicI64::new(0);
    Arc::new(JumpingClock(AtomicI64::new(RUNS.fetch_add(1, Ordering::Relaxed) << 32)))
}

impl How {
    fn run(self, site: &Site) -> Summary {
        site.run_with(&Options {
            workers: Some(self.workers),
            max_records: Some(self.max_records),
            clock: (self.clock)(),
            ..site.options()
        })
    }
}

const PLAIN: How = How { workers: 1, max_records: 1_000_000, clock: || Arc::new(StepClock::new(NOW_MS, 1)) };

/// Learns the parts, one run after the other, then answers in a run of its own.
fn given(how: How, parts: &[Input]) -> Given {
    given_by(&small::definition("embedded", ""), how, parts)
}

/// The same, by a definition.
fn given_by(definition: &str, how: How, parts: &[Input]) -> Given {
    let site = Site::new(definition, &[]);
    for part in parts {
        site.append("weather", &part.weather);
        site.append("readings", &part.readings);
        how.run(&site);
    }
    // Requests see what was complete before their epoch; so they come when all is learned.
    site.append("questions", &small::questions(SEED, SECONDS, QUESTIONS));
    let summary = how.run(&site);
    let answers = site.answers();
    one_answer_each(&site.records("questions"), &answers);
    // Were all rows held back until the end, no cut could be seen.
    assert!(how.max_records > 100 || revisions(&site) > (50 / how.max_records).max(2), "{how:?}: few revisions");
    for topic in ["weather", "readings", "questions"] {
        assert!(site.broker().topic(topic).expect("listed").expect("there").partitions.iter().all(|(_, end)| *end > 5));
    }
    let mut dead_letters = site.dead_letters();
    dead_letters.sort();
    Given {
        digests: summary
            .models
            .iter()
            .map(|(name, model)| (name.clone(), (model.revision, model.digest.clone())))
            .collect(),
        versions: summary.models.into_iter().map(|(name, model)| (name, model.versions)).collect(),
        answers: untimed(answers),
        dead_letters,
        rows: small::SINKS.map(|sink| untimed(site.records(sink))),
    }
}

/// When a record was written is the one thing that a clock decides.
fn untimed(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().map(|record| Record { timestamp_ms: 0, ..record }).collect()
}

fn backlog() -> Vec<Input> {
    vec![small::input(SEED, 0, SECONDS)]
}

#[test]
fn the_input_has_something_of_everything() {
    let given = given(PLAIN, &backlog());
    let reasons: Vec<&str> = given.dead_letters.iter().map(|letter| letter.reason.as_str()).collect();
    for reason in ["not UTF-8", "`tempreature`", "late by", "the event time is missing", "`sensor is not null`"] {
        assert!(reasons.iter().any(|found| found.contains(reason)), "no dead letter says {reason}: {reasons:#?}");
    }
    let (learned, _) = given.digests["hot"];
    assert!((100..given.rows[0].len() as u64 + 1).contains(&learned), "{learned} examples");
    assert!(given.rows.iter().all(|rows| rows.len() > 20), "{:?}", given.rows.each_ref().map(Vec::len));
    assert!(!given.versions["hot"].is_empty());
    let refused = given.answers.iter().filter(|answer| answer.json().get("error").is_some()).count();
    assert!((1..10).contains(&refused), "{refused} refused");
}

#[test]
fn workers_and_cuts_do_not_matter() {
    let expected = given(PLAIN, &backlog());
    for workers in [1, 2, 4] {
        for max_records in [1, 100, 1_000_000] {
            let how = How { workers, max_records, ..PLAIN };
            let mut found = given(how, &backlog());
            // An epoch that reaches a version's count has learned more, or less, beyond it.
            if max_records != PLAIN.max_records {
                found.versions.clone_from(&expected.versions);
            }
            assert_eq!(found, expected, "{how:?}");
        }
    }
}

/// Not even where it is another in each run, one of which replays what the others made, or jumps while one is going on.
#[test]
fn the_clock_does_not_matter() {
    let parts = || -> Vec<Input> { (0..3).map(|part| small::input(SEED, part * 80, 70)).collect() };
    let clocks: [fn() -> Arc<dyn Clock>; 3] =
        [|| Arc::new(StepClock::new(NOW_MS - HOUR_MS, 1)), || Arc::new(StepClock::new(NOW_MS + HOUR_MS, 1)), jumping];
    // An idle time that a jump of the clock exceeds.
    let given = |how: How| {
        let text = small::definition("embedded", "").replace("idle_seconds: 1000000", "idle_seconds: 1800");
        // Where epochs are cut, and so versions, is decided by what has arrived.
        Given { versions: BTreeMap::new(), ..given_by(&text, how, &parts()) }
    };
    let how = How { max_records: 50, ..PLAIN };
    let expected = given(how);
    for (at, clock) in clocks.into_iter().enumerate() {
        assert!(given(How { clock, ..how }) == expected, "clock {at}");
    }
}

#[test]
fn live_or_backlog_does_not_matter() {
    let parts = || -> Vec<Input> { (0..4).map(|part| small::input(SEED, part * 100, 60)).collect() };
    let whole = parts().into_iter().reduce(|mut whole, part| {
        whole.weather.extend(part.weather);
        whole.readings.extend(part.readings);
        whole
    });
    // The end of a run releases what waits; so a correction to what was read before can come too late only in the parts.
    let text =
        small::definition("embedded", "").replace("lateness_seconds: 5, corrections_seconds: 5", "lateness_seconds: 5");
    let expected = given_by(&text, PLAIN, &[whole.expect("four parts")]);
    let live = given_by(&text, How { workers: 2, max_records: 20, ..PLAIN }, &parts());
    assert_eq!(Given { versions: BTreeMap::new(), ..live }, Given { versions: BTreeMap::new(), ..expected });
}
