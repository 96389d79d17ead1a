//! The same input gives the same results, however it is cut into epochs, on any number of workers, live or replayed.

use std::sync::Arc;

use arrow::array::{AsArray, UInt32Array};
use arrow::compute::take_record_batch;
use millstream_engine::Result;
use millstream_engine::batch::Meta;
use millstream_engine::graph::Graph;
use millstream_engine::publish::{Outcome, Progress};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Decoded, Decoder};

use crate::pieces::{Case, Memory, Run, limits, record, request, two_sources};

fn case() -> Case {
    two_sources(&["a", "b", "c"])
}

#[test]
fn results_do_not_depend_on_cuts_and_workers() {
    let expected = Run::new(case()).go().outputs();
    assert_eq!(expected.lines().count(), 500, "every left record comes out");
    for workers in [1, 2, 4] {
        for max_records in [1, 7, 100, usize::MAX] {
            let run = Run { workers, limits: limits(max_records), ..Run::new(case()) }.go();
            let found = run.outputs();
            let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
            assert_eq!(differs, None, "{workers} workers, epochs of {max_records}");
            assert_eq!(found.len(), expected.len());
            let mark = |published: &[millstream_engine::publish::Published]| {
                published.last().expect("epochs").progress.revisions["sum"].clone()
            };
            assert_eq!(mark(&run.published).revision, 500);
            assert_eq!(mark(&run.published), mark(&Run::new(case()).go().published));
        }
    }
}

#[test]
fn every_request_gets_one_answer_of_the_state_before_it() {
    let mut case = case();
    case.asks = Memory::new(vec![vec![request(9_000, "a", 1), request(9_001, "poison", 2), request(9_002, "b", 3)]]);
    for workers in [1, 2] {
        let learned = Run { workers, ..Run::new(self::case()) }.go();
        // What was learned is replayed, then the requests come.
        let committed: Vec<Progress> = learned.published.iter().map(|epoch| epoch.progress.clone()).collect();
        let run = Run { workers, committed, ..Run::new(case.clone()) }.go();
        let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
        assert_eq!(replies.len(), 3);
        assert!(matches!(&replies[0].outcome, Outcome::Answered { given, .. } if given.revision.revision == 500));
        assert!(matches!(&replies[1].outcome, Outcome::Refused { reason, .. } if reason == "poison"));
        assert!(matches!(&replies[2].outcome, Outcome::Answered { staleness_ms: Some(_), .. }));
        assert_eq!(run.published.iter().map(|epoch| epoch.dead_letters.len()).sum::<usize>(), 1);
    }
}

#[test]
fn an_answer_says_all_that_its_model_has_seen() {
    // The last records teach nothing; whatever the cut, they have been seen all the same.
    let taught = (0..100).map(|at| record(at * 10, "a", at));
    let mut case = case();
    case.left = Memory::new(vec![taught.chain((100..105).map(|at| record(at * 10, "poison", at))).collect()]);
    for max_records in [1, 7, usize::MAX] {
        let learned = Run { limits: limits(max_records), ..Run::new(case.clone()) }.go();
        let committed = learned.published.iter().map(|epoch| epoch.progress.clone()).collect();
        let asks = Memory::new(vec![vec![request(9_000, "a", 1)]]);
        let run = Run { committed, ..Run::new(Case { asks, ..case.clone() }) }.go();
        let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
        let Outcome::Answered { given, .. } = &replies[0].outcome else { panic!("refused") };
        let revision = &given.revision;
        assert_eq!((revision.revision, revision.learned_through.offsets["left/0"]), (100, 105), "{max_records}");
    }
}

#[test]
fn requests_wait_for_rows_that_are_held() {
    // Nothing comes from the right, so that all of the left is held until the end of the input.
    let mut case = Case { right: Memory::new(vec![vec![]]), ..case() };
    case.asks = Memory::new(vec![vec![request(1, "a", 1)]]);
    for memory in [&mut case.left, &mut case.right, &mut case.asks] {
        memory.unending = true;
    }
    let run = Run::new(case).go();
    let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
    assert!(
        matches!(&replies[..], [reply] if matches!(&reply.outcome, Outcome::Answered { given, .. } if given.revision.revision == 500))
    );
}

#[test]
fn a_request_before_anything_is_learned_is_refused() {
    let mut case = Case { left: Memory::new(vec![vec![]]), right: Memory::new(vec![vec![]]), ..case() };
    case.asks = Memory::new(vec![vec![request(1, "a", 1)]]);
    let run = Run::new(case).go();
    let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
    assert!(
        matches!(&replies[..], [reply] if matches!(&reply.outcome, Outcome::Refused { reason, .. } if reason.contains("nothing")))
    );
}

#[test]
fn poison_is_one_dead_letter_and_harms_nothing_else() {
    let mut records: Vec<_> = (0..100).map(|at| record(at, "a", at)).collect();
    records[41].key = "poison".into();
    let case = Case { left: Memory::new(vec![records]), ..case() };
    let run = Run::new(case).go();
    let dead: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.dead_letters).collect();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].origin.offset, dead[0].reason.as_str(), &*dead[0].step), (41, "poison", "join"));
    assert!(dead[0].raw.is_some());
    assert_eq!(run.outputs().lines().count(), 99);
}

#[test]
fn late_rows_are_dead_letters_whatever_the_cut() {
    let mut records: Vec<_> = (0..50).map(|at| record(at * 10, "a", at)).collect();
    records[30].time = 100;
    records[40].time = 395;
    let case = Case { left: Memory::new(vec![records]), lateness_ms: 10, ..case() };
    for max_records in [1, 13, usize::MAX] {
        let run = Run { limits: limits(max_records), ..Run::new(case.clone()) }.go();
        let dead: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.dead_letters).collect();
        assert_eq!(dead.iter().map(|letter| letter.origin.offset).collect::<Vec<_>>(), [30], "epochs of {max_records}");
        assert_eq!(run.outputs().lines().count(), 49);
    }
}

#[test]
fn a_replay_that_differs_halts() {
    let learned = Run::new(case()).go();
    let mut committed: Vec<Progress> = learned.published.iter().map(|epoch| epoch.progress.clone()).collect();
    let last = committed.len() - 1;
    let replay = |committed| Run { committed, ..Run::new(case()) }.try_go();
    assert!(replay(committed.clone()).is_ok());

    committed[last].revisions.get_mut("sum").expect("a mark").digest = "another".to_owned();
    let fault = replay(committed.clone()).err().expect("another digest").message;
    assert!(fault.contains("did not reach what was recorded: model sum was revision "), "{fault}");
    assert!(fault.contains(", and is revision "), "{fault}");

    committed[last].revisions.clear();
    committed[last].answers.digest = "another".to_owned();
    let fault = replay(committed).err().expect("other answers").message;
    let epoch = format!("replaying epoch {last} did not reach what was recorded: it gave 0 answers with digest af13");
    assert!(fault.starts_with(&epoch) && fault.contains("; recorded were 0 answers with digest another"), "{fault}");

    let committed = learned.published.iter().map(|epoch| epoch.progress.clone()).collect();
    let mut changed = case();
    Arc::make_mut(&mut changed.left.partitions)[0][3].value += 1;
    let fault = Run { committed, ..Run::new(changed) }.try_go().err().expect("another log").message;
    // Which epoch that was depends on which source was fetched first.
    assert!(fault.contains("the log no longer holds what epoch"), "{fault}");
    assert!(fault.contains("was made of: left/0 offsets"), "{fault}");
}

/// A key `twice` makes two rows of a record, `none` none.
struct Several;

impl Decoder for Several {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let one = crate::pieces::lines().decode(raw)?;
        let keys = one.rows.column(1).as_string::<i32>();
        let copies = |row: u32| match keys.value(row as usize) {
            "twice" => vec![row; 2],
            "none" => vec![],
            _ => vec![row],
        };
        let record: Vec<u32> = (0..raw.len() as u32).flat_map(copies).collect();
        let rows = take_record_batch(&one.rows, &UInt32Array::from(record.clone()))?;
        Ok(Decoded { rows, record, rejects: vec![] })
    }
}

#[test]
fn a_record_holds_any_number_of_rows() {
    // As many rows as records, but not one of each.
    let records = vec![record(1, "twice", 7), record(2, "none", 8), record(3, "a", 9)];
    let case = Case { left: Memory::new(vec![records]), asks: Memory::new(vec![vec![]]), ..case() };
    let shape = |graph: &mut Graph| graph.sources[0].decoder = Arc::new(|| Box::new(Several));
    let run = Run { shape: Arc::new(shape), ..Run::new(case) }.go();
    let origins: Vec<_> = run
        .published
        .iter()
        .flat_map(|epoch| epoch.outputs.values())
        .flat_map(|rows| {
            let meta = Meta::of(rows);
            (0..rows.num_rows()).map(|row| (meta.offset[row], meta.index[row])).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(origins, [(0, 0), (0, 1), (2, 0)]);
}

#[test]
fn a_request_without_a_time_of_its_own_is_refused_where_its_record_has_none() {
    let asks = Memory::new(vec![vec![request(i64::MAX, "a", 1), request(2, "a", 2), request(i64::MIN, "a", 3)]]);
    let run = Run::new(Case { asks, ..case() }).go();
    let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
    let refused = replies.iter().map(|reply| match &reply.outcome {
        Outcome::Refused { reason, .. } => reason.as_str(),
        Outcome::Answered { .. } => "",
    });
    let reason = |ms: i64| format!("the record's timestamp, {ms} ms after 1970, is not within the years 1 to 9999");
    assert_eq!(refused.collect::<Vec<_>>(), [&reason(i64::MAX), "", &reason(i64::MIN)]);
}

#[test]
fn a_request_holds_one_row() {
    let asks = Memory::new(vec![vec![request(1, "a", 1), request(2, "twice", 2), request(3, "none", 3)]]);
    let shape = |graph: &mut Graph| graph.sources[2].decoder = Arc::new(|| Box::new(Several));
    let run = Run { shape: Arc::new(shape), ..Run::new(Case { asks, ..case() }) }.go();
    let replies: Vec<_> = run.published.iter().flat_map(|epoch| &epoch.replies).collect();
    let refused = |at: usize| match &replies[at].outcome {
        Outcome::Refused { reason, .. } => reason.as_str(),
        Outcome::Answered { .. } => "",
    };
    assert_eq!(replies.len(), 3);
    assert_eq!(
        [0, 1, 2].map(refused),
        ["", "a request holds exactly one row", "no step answered or refused the request"]
    );
}
