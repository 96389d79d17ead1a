//! The whole pipeline under schedules and faults that a seed chooses, against a plain oracle.
//!
//! `MILLSTREAM_SEEDS` says how many seeds are tried, `MILLSTREAM_SEED` with which it begins.

use std::str::FromStr;

use millstream_pipelines::run::sabotage::Sabotage;
use millstream_tests::simulation::Lab;

/// A planted bug shows within so many seeds.
const FOUND_WITHIN: u64 = 1000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| u64::from_str(&value).expect("a number"))
}

#[test]
fn whatever_happens_each_answer_is_given_once_and_right() {
    let lab = Lab::new();
    let first = number("MILLSTREAM_SEED", 0);
    let mut failed = Vec::new();
    let (mut turns, mut tried) = (0, 0);
    for seed in first..first + number("MILLSTREAM_SEEDS", 100) {
        let ran = lab.run(seed);
        turns += ran.trace.len();
        tried += 1;
        if let Err(why) = ran.outcome {
            println!("seed {seed} (MILLSTREAM_SEED={seed} MILLSTREAM_SEEDS=1 tries it alone): {why}");
            failed.push(seed);
        }
    }
    println!("{tried} seeds, {turns} turns");
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn a_seed_replays_identically() {
    let lab = Lab::new();
    for seed in 0..4 {
        let first = lab.run(seed);
        for _ in 0..9 {
            let again = lab.run(seed);
            assert_eq!(again.trace.len(), first.trace.len(), "seed {seed}");
            let differs = again.trace.iter().zip(&first.trace).position(|(again, first)| again != first);
            assert_eq!(differs, None, "seed {seed} takes another turn");
            assert_eq!(again.outcome, first.outcome, "seed {seed}");
        }
    }
}

/// The first seed that shows the bug.
fn find(bug: Sabotage) {
    let lab = Lab::new();
    let first = number("MILLSTREAM_SEED", 0);
    let found =
        (first..first + FOUND_WITHIN).find_map(|seed| Some((seed, lab.run_with(seed, Some(bug)).outcome.err()?)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{bug:?} was not found within {FOUND_WITHIN} seeds"));
    println!("{bug:?} was found at seed {seed}: {why}");
}

#[test]
fn a_journal_that_is_read_before_fencing_is_found() {
    find(Sabotage::ProgressReadBeforeFencing);
}

#[test]
fn epochs_that_are_bound_anew_are_found() {
    find(Sabotage::RebindOnReplay);
}

#[test]
fn a_careless_producer_is_found() {
    find(Sabotage::RetryInSameProducerEpoch);
}

#[test]
fn a_checkpoint_that_is_ahead_is_found() {
    find(Sabotage::CheckpointAheadOfCommit);
}
