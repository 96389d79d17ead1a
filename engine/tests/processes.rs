//! With workers in several processes a run gives what it gives in one; and if a process goes, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_engine::processes::{Helper, MakeHelper};
use millstream_engine::publish::{Outcome, Published};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Decoded, Decoder};
use millstream_engine::{Blame, Fault, Result};

use crate::pieces::{Case, Members, Memory, Run, Shape, limits, outputs, progress, request, two_sources};

fn case() -> Case {
    two_sources(&["a", "b", "c", "d", "poison"])
}

#[test]
fn results_are_those_of_one_process() {
    let expected = Run::new(case()).go();
    let mark = |published: &[Published]| published.last().expect("epochs").progress.revisions["sum"].clone();
    let letters = |published: &[Published]| published.iter().map(|epoch| epoch.dead_letters.len()).sum::<usize>();
    assert_eq!((expected.outputs().lines().count(), letters(&expected.published)), (400, 100));
    for members in [1, 2, 3] {
        for (workers, max_records) in [(1, 7), (1, usize::MAX), (2, 50)] {
            let what = format!("{members} members, {workers} workers each, epochs of {max_records}");
            let members = Members::new(members);
            let helped = members.helped.clone();
            let run = Run { workers, limits: limits(max_records), members: Some(members), ..Run::new(case()) };
            let metrics = run.metrics.clone();
            let run = run.go();
            assert_eq!(run.outputs(), expected.outputs(), "{what}");
            assert_eq!(mark(&run.published), mark(&expected.published), "{what}");
            assert_eq!(letters(&run.published), 100, "{what}");
            let counted = metrics.sum("rows_in_total", &[("step", "join"), ("lane", "learn")]);
            assert_eq!(counted, 540.0, "{what}: what members count is told");
            assert_eq!(metrics.sum("state_keys", &[("step", "join")]), 4.0, "{what}");
            assert!(helped.load(Ordering::SeqCst) > 0, "{what}: the fold is helped");
        }
    }
}

#[test]
fn requests_are_answered_in_the_first_process_wherever_they_went() {
    let asks = (0..60).map(|at| request(9_000 + at, ["a", "b", "c", "poison"][at as usize % 4], at));
    let asked = Case { asks: Memory::new(vec![asks.collect()]), ..case() };
    let learned = progress(&Run::new(case()).go().published);
    let answers = |members: Option<usize>| {
        let members = members.map(Members::new);
        let run = Run { workers: 2, members, committed: learned.clone(), ..Run::new(asked.clone()) }.go();
        let replies: Vec<Vec<u8>> =
            run.published.iter().flat_map(|epoch| &epoch.replies).map(|reply| reply.value.clone()).collect();
        let answered = run.published.iter().flat_map(|epoch| &epoch.replies);
        assert_eq!(answered.filter(|reply| matches!(reply.outcome, Outcome::Answered { .. })).count(), 45);
        replies
    };
    let expected = answers(None);
    assert_eq!(expected.len(), 60);
    assert_eq!(answers(Some(1)), expected);
    assert_eq!(answers(Some(2)), expected);
}

#[test]
fn when_a_member_goes_the_run_ends_and_the_next_goes_on() {
    let whole = Run::new(case()).go();
    for gone in [0, 1] {
        let members = Members::new(2);
        let until = members.until[gone].clone();
        let before_commit = Box::new(move |group: &[Published]| {
            if group.iter().any(|epoch| epoch.progress.binding.epoch >= 5) {
                until.stop();
                // Until the run has noticed.
                return Err(Fault::retry("not now"));
            }
            Ok(())
        });
        let run = Run { members: Some(members), limits: limits(9), before_commit, ..Run::new(case()) };
        let ran = run.until_its_end();
        let fault = ran.outcome.expect_err("a process is gone");
        assert_eq!(fault.blame, Blame::World, "{fault}");
        assert!(fault.message.contains(&format!("process {}", gone + 1)), "{fault}");
        let committed = progress(&ran.published);
        let rest = Run { members: Some(Members::new(1)), committed, ..Run::new(case()) }.go();
        assert_eq!(outputs(&ran.published) + &rest.outputs(), whole.outputs());
    }
}

#[test]
fn a_fault_of_a_members_step_is_the_runs() {
    let bug: [(Shape, Blame, &str); 2] = [
        (Arc::new(|graph| graph.sources[1].decoder = Arc::new(|| panic!("a bug"))), Blame::Ours, "a bug"),
        (
            Arc::new(|graph| graph.sources.iter_mut().for_each(|source| source.decoder = Arc::new(|| Box::new(Away)))),
            Blame::World,
            "disk",
        ),
    ];
    for (shape, blame, why) in bug {
        let members = Members { shape, ..Members::new(2) };
        let fault = Run { members: Some(members), ..Run::new(case()) }.try_go().err().expect("a fault");
        assert_eq!(fault.blame, blame, "{fault}");
        assert!(fault.message.starts_with("process ") && fault.message.contains(why), "{fault}");
    }
}

#[test]
fn a_fault_of_who_helps_is_the_runs() {
    let helpers: [(MakeHelper, &str); 2] = [
        (Arc::new(|| Box::new(Helpless)), "it cannot be read"),
        (Arc::new(|| panic!("a bug in a helper")), "a bug in a helper"),
    ];
    for (helper, why) in helpers {
        let members = Members { helper, ..Members::new(2) };
        let fault = Run { members: Some(members), ..Run::new(case()) }.try_go().err().expect("a fault");
        assert_eq!(fault.blame, Blame::Ours, "{fault}");
        assert!(fault.message.starts_with("process ") && fault.message.contains(why), "{fault}");
    }
}

struct Helpless;

impl Helper for Helpless {
    fn help(&mut self, _: &[u8]) -> Result<Vec<u8>> {
        Err(Fault::ours("it cannot be read"))
    }
}

struct Away;

impl Decoder for Away {
    fn decode(&mut self, _: &RawBatch) -> Result<Decoded> {
        Err(Fault::world("the disk is gone"))
    }
}

#[test]
fn a_run_that_waits_for_members_can_be_ended() {
    let members = Members::new(1);
    // Nobody is there: the thread that would be is ended before it calls.
    members.until[0].stop();
    let run = Run { members: Some(members), ..Run::new(case()) };
    run.book.stop();
    assert_eq!(run.go().published.len(), 0);
}
