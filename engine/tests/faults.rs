//! Whatever fails, the run ends with that as its fault, or goes on as if nothing had happened; it never hangs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{BinaryArray, RecordBatch};
use millstream_engine::batch::Lane;
use millstream_engine::binder::Limits;
use millstream_engine::book::Book;
use millstream_engine::graph::Graph;
use millstream_engine::operator::{Answer, Fold, Keyed, Measure, Power, Rejects, Snapshot, Transform};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Decoded, Decoder, Position, Reader, Source};
use millstream_engine::state::States;
use millstream_engine::{Fault, Result};

use crate::pieces::{Case, Memory, Run, record, request};

fn case() -> Case {
    Case {
        left: Memory::new(vec![(0..300).map(|at| record(at * 10, ["a", "b", "c"][at as usize % 3], at)).collect()]),
        right: Memory::new(vec![(0..30).map(|at| record(at * 100, "a", at)).collect()]),
        asks: Memory::new(vec![vec![request(5_000, "a", 1)]]),
        lateness_ms: 0,
    }
}

/// How a part fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Fault,
    Panic,
}

impl How {
    fn fail<T>(self) -> Result<T> {
        match self {
            How::Fault => Err(Fault::world("it broke")),
            How::Panic => panic!("it broke"),
        }
    }
}

/// An operator, source or decoder that fails.
#[derive(Clone)]
struct Broken(How);

impl Transform for Broken {
    fn apply(&self, _: Lane, _: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        self.0.fail()
    }
}

impl Keyed for Broken {
    type State = ();
    fn key(&self, _: usize) -> &[usize] {
        &[millstream_engine::batch::META + 1]
    }
    fn apply(&self, _: usize, _: &RecordBatch, _: &mut States<'_, ()>, _: &mut Rejects) -> Result<Option<RecordBatch>> {
        self.0.fail()
    }
    fn expired(&self, (): &(), _: i64) -> bool {
        false
    }
}

impl Fold for Broken {
    fn learn(&mut self, _: usize, _: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        self.0.fail()
    }
    fn examples(&self) -> u64 {
        0
    }
    fn revision(&self) -> Arc<dyn Answer> {
        unreachable!("it learns nothing")
    }
    fn measures(&self) -> Vec<Measure> {
        vec![]
    }
    fn measure_anew(&mut self) {}
    fn copy(&self) -> Snapshot {
        Box::new(Vec::new)
    }
    fn restore(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Decoder for Broken {
    fn decode(&mut self, _: &RawBatch) -> Result<Decoded> {
        self.0.fail()
    }
}

impl Source for Broken {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(vec![0])
    }
    fn open(&self, _: &[Position]) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.clone()))
    }
    fn is_finite(&self) -> bool {
        true
    }
}

impl Reader for Broken {
    fn read(&mut self, _: usize, _: Duration) -> Result<Option<RawBatch>> {
        self.0.fail()
    }
    fn ends(&mut self) -> Result<Vec<Position>> {
        Ok(vec![])
    }
}

type Shape = fn(&mut Graph, How);

#[test]
fn a_fault_anywhere_ends_the_run() {
    let shapes: [(&str, Shape); 5] = [
        ("step join", |graph, how| graph.nodes[0].step.power = Power::keyed(Broken(how))),
        ("step sum", |graph, how| graph.nodes[1].step.power = Power::fold(move || Broken(how))),
        ("step left", |graph, how| graph.sources[0].decoder = Arc::new(move || Box::new(Broken(how)))),
        ("step asks", |graph, how| graph.sources[2].decoder = Arc::new(move || Box::new(Broken(how)))),
        ("source right", |graph, how| graph.sources[1].source = Arc::new(Broken(how))),
    ];
    for (part, shape) in shapes {
        for (workers, how) in [(1, How::Fault), (2, How::Fault), (1, How::Panic), (2, How::Panic)] {
            let run = Run { workers, shape: Arc::new(move |graph| shape(graph, how)), ..Run::new(case()) };
            let message = run.try_go().err().unwrap_or_else(|| panic!("{part} fails: {how:?}")).message;
            let told = how == How::Panic || message.starts_with(part);
            assert!(told && message.contains("it broke"), "{part}, {workers} workers, {how:?}: {message}");
        }
    }
}

#[test]
fn a_stateless_step_that_fails_ends_the_run() {
    for (workers, how) in [(1, How::Fault), (2, How::Panic)] {
        let shape = move |graph: &mut Graph| {
            graph.nodes[0].step.power = Power::transform(Broken(how));
            graph.nodes[0].inputs.truncate(1);
        };
        let fault = Run { workers, shape: Arc::new(shape), ..Run::new(case()) }.try_go().err().expect("a fault");
        assert!(fault.message.contains("it broke"), "{fault}");
    }
}

#[test]
fn a_commit_that_fails_ends_the_run() {
    for how in [How::Fault, How::Panic] {
        let run = Run { before_commit: Box::new(move |_| how.fail()), ..Run::new(case()) };
        let fault = run.try_go().err().expect("a fault");
        assert!(fault.message.contains("it broke"), "{fault}");
    }
}

#[test]
fn a_commit_that_succeeds_later_loses_nothing() {
    let mut tries = 0;
    let flaky = move |_: &[_]| {
        tries += 1;
        if tries % 2 == 1 { Err(Fault::retry("not now")) } else { Ok(()) }
    };
    let small = Limits { max_records: 100, ..Limits::default() };
    let run = Run { limits: small, before_commit: Box::new(flaky), ..Run::new(case()) }.go();
    assert_eq!(run.outputs(), Run::new(case()).go().outputs());
}

#[test]
fn a_run_that_is_stopped_does_not_wait_for_a_commit_that_fails() {
    let book = Arc::new(Book::default());
    let stop = book.clone();
    let away = move |_: &[_]| {
        stop.stop();
        Err(Fault::retry("the broker is away"))
    };
    let run = Run { book, finish: false, before_commit: Box::new(away), ..Run::new(case()) };
    assert_eq!(run.try_go().err().expect("not committed").message, "the broker is away");
}

#[test]
fn a_run_that_is_stopped_publishes_what_is_open() {
    for workers in [1, 2] {
        let book = Arc::new(Book::default());
        let stop = book.clone();
        let limits = Limits { max_records: 10, ..Limits::default() };
        let before_commit = Box::new(move |_: &[_]| {
            stop.stop();
            Ok(())
        });
        let run = Run { workers, limits, before_commit, book: book.clone(), finish: false, ..Run::new(case()) }.go();
        assert!(book.minted() > 0);
        assert_eq!((book.published(), run.published.len() as u64), (book.minted(), book.minted()));
        assert_eq!(book.unpublished_bytes(), 0);
    }
}

#[test]
fn a_run_that_is_stopped_in_its_replay_ends_well() {
    let limits = Limits { max_records: 10, ..Limits::default() };
    let committed = Run { limits, ..Run::new(case()) }.go().progress();
    assert!(committed.len() > 2);
    let book = Arc::new(Book::default());
    book.stop();
    let run = Run { committed, book, ..Run::new(case()) }.go();
    assert!(run.published.is_empty());
}

/// A source whose reads fail now and then.
struct Flaky {
    source: Memory,
    reads: Arc<AtomicUsize>,
}

impl Source for Flaky {
    fn partitions(&self) -> Result<Vec<u32>> {
        self.source.partitions()
    }
    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        Ok(Box::new(FlakyReader(self.source.open(from)?, self.reads.clone())))
    }
    fn is_finite(&self) -> bool {
        true
    }
}

struct FlakyReader(Box<dyn Reader>, Arc<AtomicUsize>);

impl Reader for FlakyReader {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<RawBatch>> {
        if self.1.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            return Err(Fault::retry("not now"));
        }
        self.0.read(max_bytes, wait)
    }
    fn ends(&mut self) -> Result<Vec<Position>> {
        self.0.ends()
    }
}

#[test]
fn a_reader_that_fails_now_and_then_goes_on_where_it_was() {
    let shape = |graph: &mut Graph| {
        let source = case().left;
        graph.sources[0].source = Arc::new(Flaky { source, reads: Arc::default() });
    };
    let run = Run { shape: Arc::new(shape), ..Run::new(case()) }.go();
    assert_eq!(run.outputs(), Run::new(case()).go().outputs());
}

/// A topic that holds nothing but records without an event time, and never ends.
#[derive(Clone)]
struct Rubbish(u64);

impl Source for Rubbish {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(vec![0])
    }
    fn open(&self, _: &[Position]) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.clone()))
    }
    fn is_finite(&self) -> bool {
        false
    }
}

impl Reader for Rubbish {
    fn read(&mut self, _: usize, _: Duration) -> Result<Option<RawBatch>> {
        let first = self.0;
        self.0 += 1000;
        Ok(Some(RawBatch {
            partition: 0,
            offsets: (first..self.0).collect(),
            timestamps: vec![0; 1000].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Bytes(BinaryArray::from_iter_values(["never a 1"; 1000])),
        }))
    }
    fn ends(&mut self) -> Result<Vec<Position>> {
        Ok(vec![Position { partition: 0, offset: u64::MAX }])
    }
}

#[test]
fn a_partition_that_gives_only_rubbish_does_not_hold_back_the_others() {
    let book = Arc::new(Book::default());
    let (stop, mut rows) = (book.clone(), 0);
    let all = Run::new(case()).go().outputs().lines().count();
    let before_commit = Box::new(move |epochs: &[millstream_engine::publish::Published]| {
        rows += epochs.iter().flat_map(|epoch| epoch.outputs.values()).map(RecordBatch::num_rows).sum::<usize>();
        if rows == all {
            stop.stop();
        }
        Ok(())
    });
    let shape = |graph: &mut Graph| {
        graph.sources[1].source = Arc::new(Rubbish(0));
        graph.sources[1].idle_ms = 1;
    };
    let limits = Limits { max_records: 100, ..Limits::default() };
    Run { limits, book, before_commit, shape: Arc::new(shape), ..Run::new(case()) }.go();
}

#[test]
fn what_is_bound_stays_within_the_budget() {
    let (max_records, in_flight_bytes) = (5, 300);
    let book = Arc::new(Book::default());
    let (watched, most) = (book.clone(), Arc::new(Mutex::new((0, 0))));
    let seen = most.clone();
    let before_commit = Box::new(move |epochs: &[millstream_engine::publish::Published]| {
        let mut seen = seen.lock().expect("one thread");
        *seen = (seen.0.max(watched.unpublished_bytes()), seen.1.max(epochs.len()));
        Ok(())
    });
    let limits = Limits { max_records, in_flight_bytes, ..Limits::default() };
    Run { limits, book, before_commit, ..Run::new(case()) }.go();
    let (bytes, epochs) = *most.lock().expect("the run has ended");
    let line_bytes = "2990 c 299".len();
    assert!(bytes > 0 && bytes <= in_flight_bytes + max_records * line_bytes, "{bytes} bytes");
    assert!(epochs <= 8, "{epochs} epochs");
}

/// Records of 100 kB, so that a few fill a reader's room.
fn large(times: std::ops::Range<i64>) -> Vec<crate::pieces::Record> {
    times.map(|time| record(time, &"x".repeat(100_000), time)).collect()
}

/// Room for 8 MiB in each source's queues.
fn small_room(held_rows: usize) -> Limits {
    Limits { max_records: 20, max_bytes: 1 << 20, held_rows, ..Limits::default() }
}

#[test]
fn a_replay_gets_past_a_partition_that_came_later() {
    let before = Case { left: Memory::new(vec![vec![], large(0..50)]), ..case() };
    let limits = small_room(usize::MAX);
    let committed = Run { limits, ..Run::new(before) }.go().progress();
    // The reader meets the new partition first, and it alone is more than fits.
    let after = Case { left: Memory::new(vec![large(100_000..100_150), large(0..50)]), ..case() };
    let run = Run { limits, committed, ..Run::new(after) }.go();
    assert_eq!(run.outputs().lines().count(), 150);
}

#[test]
fn held_rows_do_not_shut_out_the_partition_that_they_wait_for() {
    let case = Case { left: Memory::new(vec![large(0..150), large(0..150)]), ..case() };
    let run = Run { limits: small_room(10), ..Run::new(case) }.go();
    assert_eq!(run.outputs().lines().count(), 300);
}

#[test]
fn held_rows_do_not_wait_for_a_source_that_is_over() {
    let case = Case { right: Memory::new(vec![vec![]]), ..case() };
    let limits = Limits { max_records: 20, held_rows: 50, ..Limits::default() };
    let run = Run { limits, ..Run::new(case) }.go();
    assert_eq!(run.outputs().lines().count(), 300);
}
