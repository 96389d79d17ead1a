//! The engine under schedules that a seed chooses: whatever the order of turns, and wherever the run is killed, what
//! becomes durable is the same.
//!
//! `MILLSTREAM_SEEDS` says how many seeds each test tries, `MILLSTREAM_SEED` with which it begins.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use millstream_engine::batch::META;
use millstream_engine::binder::Limits;
use millstream_engine::checkpoint::Checkpoint;
use millstream_engine::graph::Graph;
use millstream_engine::publish::{Given, Outcome, Progress, Published};
use millstream_engine::run::{Actor, Simulation, Turn};
use millstream_engine::{Fault, digest};

use crate::pieces::store::{Failure, MemoryStore, checkpoints, usable};
use crate::pieces::{Case, Durable, Memory, Random, Run, record, request};

/// A run that takes so many turns hangs: these take some thousand.
const TURNS_MAX: usize = 1_000_000;

/// Says which seed failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed: MILLSTREAM_SEED={0} MILLSTREAM_SEEDS=1 tries it alone", self.0);
        }
    }
}

fn for_seeds(count: u64, check: impl Fn(u64)) {
    let variable =
        |name, default| std::env::var(name).map_or(default, |value| u64::from_str(&value).expect("a number"));
    let first = variable("MILLSTREAM_SEED", 0);
    for seed in first..first + variable("MILLSTREAM_SEEDS", count) {
        let _told = Told(seed);
        check(seed);
    }
}

/// Two sources in disorder across each other, poison, and requests.
fn case() -> Case {
    let key = |at: i64| if at % 37 == 11 { "poison" } else { ["a", "b", "c"][at as usize % 3] };
    let left = (0..120).map(|at| record(at * 10, key(at), at));
    let right = (0..20).map(|at| record(at * 61 + 3, ["a", "b"][at as usize % 2], 1000 + at));
    let asks = (0..15).map(|at| request(at * 90, key(at * 5 + 1), at));
    let (even, odd): (Vec<_>, Vec<_>) = left.partition(|record| record.value % 4 < 2);
    Case {
        left: Memory::new(vec![even, odd]),
        right: Memory::new(vec![right.collect()]),
        asks: Memory::new(vec![asks.collect()]),
        lateness_ms: 0,
    }
}

/// What a run without faults gives.
struct Oracle {
    outputs: String,
    /// After so many examples: the sum of squares.
    sums: Vec<i64>,
}

fn values(rows: &RecordBatch) -> &[i64] {
    rows.column(META + 2).as_primitive::<Int64Type>().values()
}

impl Oracle {
    fn new() -> Self {
        let ran = Run::new(case()).go();
        let mut sums = vec![0_i64];
        for value in ran.published.iter().flat_map(|epoch| epoch.outputs.values()).flat_map(values) {
            sums.push(sums[sums.len() - 1].wrapping_mul(31).wrapping_add(value.wrapping_mul(*value)));
        }
        assert_eq!(sums.len(), 118, "all of the left but the poison teaches");
        Self { outputs: ran.outputs(), sums }
    }

    /// What became durable, over all runs.
    fn check(&self, published: &[Published]) {
        let mut ends: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        let mut replied = Vec::new();
        let mut dead = Vec::new();
        let mut newest = 0;
        for epoch in published {
            for range in &epoch.progress.binding.ranges {
                let end = ends.entry((range.source, range.partition)).or_default();
                assert_eq!((*end, range.hi - range.lo), (range.lo, range.count), "ranges follow each other");
                *end = range.hi;
            }
            for mark in epoch.progress.revisions.values() {
                let state = [self.sums[mark.revision as usize].to_le_bytes(), mark.revision.to_le_bytes()].concat();
                assert_eq!(mark.digest, digest::of(&state), "revision {}", mark.revision);
            }
            for reply in &epoch.replies {
                replied.push(reply.request.origin.offset);
                match &reply.outcome {
                    Outcome::Answered { given, row, .. } => {
                        let Given { columns, revision, .. } = &**given;
                        let sum = columns.column(0).as_primitive::<Int64Type>().value(*row);
                        assert_eq!(revision.revision, newest, "the newest revision before the epoch answers");
                        assert_eq!(sum, self.sums[newest as usize], "of revision {newest}");
                        assert!(revision.learned_through.offsets.contains_key("left/0"));
                    }
                    Outcome::Refused { reason, .. } => assert_eq!(reason, "poison"),
                }
            }
            newest = epoch.progress.revisions.get("sum").map_or(0, |mark| mark.revision);
            dead.extend(epoch.dead_letters.iter().map(|letter| letter.origin));
        }
        let all = [((0, 0), 60), ((0, 1), 60), ((1, 0), 20), ((2, 0), 15)];
        assert_eq!(ends, BTreeMap::from(all), "everything is bound");
        assert_eq!(replied, (0..15).collect::<Vec<_>>(), "each request has one reply");
        assert_eq!(published[published.len() - 1].progress.revisions["sum"].revision, 117);
        dead.sort();
        dead.dedup();
        assert_eq!(dead.len(), 3 + poisoned_requests(), "each poison is one dead letter");
        assert_eq!(dead.len(), published.iter().map(|epoch| epoch.dead_letters.len()).sum::<usize>());
        let outputs = crate::pieces::outputs(published);
        let differs = outputs.lines().zip(self.outputs.lines()).find(|(found, expected)| found != expected);
        assert_eq!(differs, None, "the outputs differ");
        assert_eq!(outputs.len(), self.outputs.len());
    }
}

fn poisoned_requests() -> usize {
    case().asks.partitions[0].iter().filter(|request| request.key == "poison").count()
}

/// A world of this seed: how many workers, how small the reads and epochs, how often commits fail at first.
fn run_of(random: &mut Random, committed: Vec<Progress>) -> Run {
    let mut case = case();
    let unending = random.index(2) == 0;
    let read_records = 1 + random.index(40);
    for memory in [&mut case.left, &mut case.right, &mut case.asks] {
        (memory.unending, memory.read_records) = (unending, read_records);
    }
    let limits = Limits {
        max_records: 1 + random.index(50),
        in_flight_bytes: 50 + random.index(1000),
        held_rows: 5 + random.index(200),
        ..Limits::default()
    };
    let mut failures = Random(random.next());
    let fails_of_8 = random.index(4);
    let before_commit = move |_: &[Published]| {
        if failures.index(8) < fails_of_8 { Err(Fault::retry("the broker is away")) } else { Ok(()) }
    };
    let workers = 1 + random.index(3);
    Run { workers, limits, committed, before_commit: Box::new(before_commit), ..Run::new(case) }
}

/// A turn, and what the run had come to after it: epochs minted, passed and published.
type Step = (Actor, Turn, [u64; 3]);

/// Picks who is next; some are picked more often than others.
struct Schedule {
    random: Random,
    weights: BTreeMap<Actor, usize>,
}

impl Schedule {
    fn new(random: &mut Random) -> Self {
        Self { random: Random(random.next()), weights: BTreeMap::new() }
    }

    fn step(&mut self, simulation: &mut Simulation) -> Step {
        let random = &mut self.random;
        let mut weights = Vec::new();
        for actor in simulation.actors() {
            weights.push((actor, *self.weights.entry(actor).or_insert_with(|| [1, 4, 16][random.index(3)])));
        }
        let mut at = random.index(weights.iter().map(|(_, weight)| weight).sum());
        let picked = weights.into_iter().find(|(_, weight)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        let (actor, _) = picked.expect("below the sum of the weights");
        let turn = simulation.step(actor);
        let book = simulation.book();
        (actor, turn, [book.minted(), book.passed(), book.published()])
    }
}

/// Steps until the run is done, or has taken so many turns; whether it is done.
fn drive(simulation: &mut Simulation, schedule: &mut Schedule, turns: usize, trace: &mut Vec<Step>) -> bool {
    for _ in 0..turns {
        if simulation.is_done() {
            return true;
        }
        trace.push(schedule.step(simulation));
    }
    assert!(turns < TURNS_MAX, "the run hangs: it ended with {:?}", &trace[trace.len() - 50..]);
    simulation.is_done()
}

/// Everything that became durable, and the trace of all runs, the last of which was not killed.
fn survive(seed: u64) -> (Vec<Published>, Vec<Step>) {
    let mut random = Random(seed);
    let (mut durable, mut trace): (Vec<Published>, _) = (Vec::new(), Vec::new());
    let kills = random.index(4);
    // Outlives all runs, and fails once in some of them.
    let store = Arc::new(MemoryStore::default());
    for run in 0..=kills {
        let mut kept = usable(&store);
        let from = (!kept.is_empty() && random.index(4) > 0).then(|| kept.swap_remove(random.index(kept.len())));
        let start = from.as_ref().map_or(0, Checkpoint::epoch) as usize;
        let committed = durable[start..].iter().map(|epoch| epoch.progress.clone()).collect();
        let call = random.index(60);
        let failure = [None, None, Some(Failure::Before(call)), Some(Failure::After(call)), Some(Failure::From(call))];
        store.fail(failure[random.index(failure.len())]);
        let checkpoints = Some(checkpoints(&store, [1, 200, u64::MAX][random.index(3)], 3));
        let run_of = Run { checkpoints, from, ..run_of(&mut random, committed) };
        let (mut simulation, published) = run_of.simulate();
        let turns = if run < kills { random.index(1500) } else { TURNS_MAX };
        let mut schedule = Schedule::new(&mut random);
        if drive(&mut simulation, &mut schedule, turns, &mut trace) {
            simulation.outcome().expect("the run ends well");
        } else {
            drop(simulation);
        }
        durable.append(&mut published.lock().expect("the run is gone"));
        store.fail(None);
    }
    for checkpoint in usable(&store) {
        assert!(checkpoint.epoch() <= durable.len() as u64, "a checkpoint is never ahead");
    }
    (durable, trace)
}

#[test]
fn whatever_the_schedule_and_the_kills_the_results_are_the_same() {
    let oracle = Oracle::new();
    for_seeds(40, |seed| oracle.check(&survive(seed).0));
}

#[test]
fn a_seed_replays_identically() {
    for_seeds(8, |seed| {
        let (first, second) = (survive(seed), survive(seed));
        assert_eq!(first.1.len(), second.1.len());
        let differs = first.1.iter().zip(&second.1).position(|(first, second)| first != second);
        assert_eq!(differs, None, "turns differ");
        let records =
            |published: &[Published]| published.iter().map(|epoch| epoch.progress.clone()).collect::<Vec<_>>();
        assert_eq!(records(&first.0), records(&second.0));
    });
}

#[test]
fn a_frozen_run_goes_on_where_it_was_and_a_killed_one_never() {
    for_seeds(4, |seed| {
        let run = || {
            let mut random = Random(seed);
            let (simulation, published) = run_of(&mut random, vec![]).simulate();
            (simulation, published, Schedule::new(&mut random))
        };
        let (mut alone, expected, mut schedule) = run();
        let mut trace = Vec::new();
        assert!(drive(&mut alone, &mut schedule, TURNS_MAX, &mut trace));

        let (mut frozen, published, mut schedule) = run();
        let half = trace.len() / 2;
        let mut again = Vec::new();
        drive(&mut frozen, &mut schedule, half, &mut again);
        let (mut killed, nothing_more, mut other) = run();
        drive(&mut killed, &mut other, half, &mut Vec::new());
        let before = nothing_more.lock().expect("one thread").len();
        drop(killed);
        assert_eq!(nothing_more.lock().expect("one thread").len(), before);
        assert_eq!(Arc::strong_count(&nothing_more), 1, "the commit is gone");
        assert!(drive(&mut frozen, &mut schedule, TURNS_MAX, &mut again));
        assert!(again == trace, "the traces differ");
        let epochs = |published: &Durable| published.lock().expect("one thread").len();
        assert_eq!(epochs(&published), epochs(&expected));
    });
}

#[test]
fn a_fault_ends_a_simulated_run() {
    for panics in [false, true] {
        let break_right = move |graph: &mut Graph| {
            graph.sources[1].decoder = Arc::new(move || {
                assert!(!panics, "it broke");
                Box::new(crate::pieces::lines())
            });
        };
        let before_commit = Box::new(|_: &[Published]| Err(Fault::world("it broke")));
        let run = Run { workers: 2, shape: Arc::new(break_right), before_commit, ..Run::new(case()) };
        let (mut simulation, _) = run.simulate();
        let mut schedule = Schedule::new(&mut Random(1));
        assert!(drive(&mut simulation, &mut schedule, TURNS_MAX, &mut Vec::new()));
        let fault = simulation.outcome().expect_err("a fault");
        assert!(fault.message.contains("it broke"), "{fault}");
    }
    let (simulation, _) = Run::new(case()).simulate();
    assert!(simulation.outcome().expect_err("not done").message.contains("has not ended"));
}
