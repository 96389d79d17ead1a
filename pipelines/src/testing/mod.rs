//! Tests that a definition holds: the real graph on the real engine, in memory, under one schedule.
//!
//! ```text
//! given ─► sources in memory ─► graph (the places asked for as outputs) ─► collected ─► compared
//!                 ask ──────────────────────▲ once all that is given has been learned
//! ```
//! Each test starts with no state but what its models begin with. No clock, topic, file or network has a part in it, so a test always gives the same.

mod compare;
mod given;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use millstream_engine::binder::Limits;
use millstream_engine::book::{Book, Request};
use millstream_engine::graph::Output;
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::{Commit, DeadLetter, Outcome, Published, Reply};
use millstream_engine::run::{Actor, Settings, Simulation, Turn};
use millstream_engine::source::{MakeDecoder, Source};
use millstream_engine::time::StepClock;
use millstream_engine::{Fault, Result};

pub use compare::{Compared, Line};
pub use show::{Report, Tested};

use crate::origin::Origins;
use crate::plan::{Expected, Given, Pipeline, Place, Test};
use crate::run::assemble;
use crate::run::reply;

/// More turns than any test takes.
const ROUNDS_MAX: usize = 1_000_000;

/// What a run gave.
#[derive(Default)]
struct Collected {
    /// By output, in canonical order.
    rows: Vec<Vec<RecordBatch>>,
    dead: Vec<DeadLetter>,
    replies: Vec<Reply>,
}

/// A source that has no records.
pub(crate) fn without_records(source: &crate::plan::Source) -> Result<(Arc<dyn Source>, MakeDecoder)> {
    given::source(source, &[])
}

/// Runs a test of models that begin with `origins`: what was compared, place by place.
pub fn run(pipeline: &Pipeline, origins: &Origins, test: &Test) -> Result<Vec<Compared>> {
    let collected = collect(pipeline, origins, test)?;
    let mut outputs = collected.rows.into_iter();
    let compare = |expected: &Expected| {
        let found = match expected.place {
            Place::Rows(_) => compare::rows(&outputs.next().unwrap_or_default(), expected)?,
            Place::Dead => compare::dead_letters(&collected.dead, pipeline),
            Place::Answers(request) => compare::answers(&collected.replies, pipeline.sources.len() + request)?,
        };
        Ok(Compared::new(expected, &found))
    };
    test.expected.iter().map(compare).collect()
}

/// Runs what is given through the whole pipeline.
fn collect(pipeline: &Pipeline, origins: &Origins, test: &Test) -> Result<Collected> {
    let given: BTreeMap<usize, &[Given]> =
        test.given.iter().map(|(source, records)| (*source, records.as_slice())).collect();
    let mut graph = assemble::graph_of(pipeline, assemble::RECORD_BYTES_MAX, |at, source| {
        given::source(source, given.get(&at).copied().unwrap_or_default())
    })?;
    origins.begin(pipeline, &mut graph)?;
    let output = |expected: &Expected| match expected.place {
        Place::Rows(from) => Some(Output { name: expected.name.clone(), from: assemble::input(from) }),
        Place::Dead | Place::Answers(_) => None,
    };
    graph.outputs = test.expected.iter().filter_map(output).collect();
    let rows = graph.outputs.iter().map(|_| Vec::new()).collect();
    let collected = Arc::new(Mutex::new(Collected { rows, ..Collected::default() }));
    let commit = Collect { into: collected.clone(), answers: crate::run::answers(pipeline) };
    let simulation = Simulation::new(graph, settings(pipeline), Box::new(commit))?;
    let asking = (pipeline.sources.len()..pipeline.sources.len() + pipeline.requests.len()).map(Actor::Reader);
    drive(simulation, &asking.collect())?;
    let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut collected))
}

fn settings(pipeline: &Pipeline) -> Settings {
    Settings {
        workers: 1,
        processes: None,
        limits: Limits::default(),
        // As in a run of the pipeline.
        seed: crate::run::seed(pipeline),
        clock: Arc::new(StepClock::new(0, 0)),
        metrics: Arc::new(Metrics::default()),
        book: Arc::new(Book::default()),
        finish: Some(Arc::new(AtomicBool::new(true))),
        checkpoints: None,
        from: None,
        recorded: Vec::new(),
        skip: Vec::new(),
        live: true,
    }
}

/// Gives turns until all is done. Those who ask get none until everything given is learned.
fn drive(mut simulation: Simulation, asking: &BTreeSet<Actor>) -> Result<()> {
    let mut may_ask = false;
    for _ in 0..ROUNDS_MAX {
        if simulation.is_done() {
            return simulation.outcome();
        }
        let actors: Vec<Actor> = simulation.actors().filter(|actor| may_ask || !asking.contains(actor)).collect();
        let mut is_quiet = true;
        for actor in actors {
            let turn = simulation.step(actor);
            // Workers have always something to look at.
            is_quiet &= turn == Turn::Waits || matches!(actor, Actor::Worker(_));
        }
        let book = simulation.book();
        may_ask |= is_quiet && book.minted() == book.published() && book.held_rows() == 0;
    }
    Err(Fault::ours("the run of a test does not come to its end"))
}

/// Keeps what is published.
struct Collect {
    into: Arc<Mutex<Collected>>,
    answers: BTreeMap<u32, crate::run::Answers>,
}

impl Commit for Collect {
    fn encode(&self, request: &Request, outcome: &Outcome, _: i64) -> Result<Vec<u8>> {
        reply::encode(request, outcome, &self.answers[&request.origin.source])
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        let mut into = self.into.lock().unwrap_or_else(PoisonError::into_inner);
        for epoch in epochs {
            for (output, rows) in &epoch.outputs {
                into.rows[*output].push(rows.clone());
            }
            into.dead.extend(epoch.dead_letters.iter().cloned());
            into.replies.extend(epoch.replies.iter().cloned());
        }
        Ok(())
    }
}
