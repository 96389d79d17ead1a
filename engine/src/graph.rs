//! The graph that a run mounts: sources, operators, outputs. Plain data; nothing is open yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::Result;
use crate::batch::Lane;
use crate::operator::{Choosing, Step};
use crate::source::{MakeDecoder, Source};

/// Everything that a run needs to know.
#[derive(Default)]
pub struct Graph {
    /// The sources; a row's `_source` is its source's index here.
    pub sources: Vec<SourceNode>,
    /// The operators, each after those that it reads.
    pub nodes: Vec<Node>,
    /// The streams that leave.
    pub outputs: Vec<Output>,
    /// Who looks at a lane's rows of a source (as decoded) or of a node.
    pub observers: BTreeMap<(Input, Lane), MakeObserver>,
}

/// Looks at rows as they come by. It cannot change them, nor anything that follows from them.
pub trait Observe {
    /// Some rows, on the worker that has them.
    fn see(&mut self, rows: &RecordBatch) -> Result<()>;
}

/// Makes an observer for each worker.
pub type MakeObserver = Arc<dyn Fn() -> Box<dyn Observe> + Send + Sync>;

/// A source and how its records become rows in order.
pub struct SourceNode {
    /// As in the definition; a metric label.
    pub name: String,
    /// Where its records come from.
    pub source: Arc<dyn Source>,
    /// Its rows' schema, the engine's columns first.
    pub schema: SchemaRef,
    /// Makes its rows.
    pub decoder: MakeDecoder,
    /// What its event time is.
    pub time: EventTime,
    /// After how long without records it no longer holds back the others, milliseconds.
    pub idle_ms: i64,
    /// For a source of requests: where they go.
    pub asks: Option<Asks>,
}

/// What a source's event time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTime {
    /// The record's own timestamp, raised to the largest before it in its partition; so no record is late.
    Arrival,
    /// A column. A row that is more than `lateness_ms` older than the newest before it in its partition is late: a
    /// correction, whose `_time` says when it became known, or a dead letter.
    Column {
        /// The column's index, of type `Timestamp(ms)`.
        column: usize,
        /// How far rows may be out of order.
        lateness_ms: i64,
        /// How far beyond that a late row is still taken, as a correction.
        corrections_ms: i64,
        /// How far a row may be ahead of its record's own timestamp, where that has one: the clock of one that is further is
        /// wrong, and would move time for all.
        ahead_ms: Option<i64>,
    },
}

/// Where requests go.
#[derive(Clone)]
pub struct Asks {
    /// The source whose way through the operators they share.
    pub enters: usize,
    /// The folds that answer them, at least one.
    pub folds: Vec<usize>,
    /// Whose answer is given where there are several; without it the first one's that has one.
    pub choose: Option<Choosing>,
    /// Whether a request's header [`VERSION`](crate::publish::VERSION) may name the fold whose answer it gets.
    pub by_name: bool,
}

/// An operator in its place.
pub struct Node {
    /// As in the definition; a metric label: `flights_known/2/join_as_of`.
    pub name: String,
    /// What its ports read.
    pub inputs: Vec<Input>,
    /// What runs, and its output's schema.
    pub step: Step,
}

/// What a port or an output reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// A source's rows.
    Source(usize),
    /// A node's rows.
    Node(usize),
}

/// A stream that leaves: its learn-lane rows are published with their epoch.
pub struct Output {
    /// As in the definition.
    pub name: String,
    /// Whose rows.
    pub from: Input,
}

impl Graph {
    /// The schema of a port's rows.
    pub fn schema(&self, input: Input) -> &SchemaRef {
        match input {
            Input::Source(source) => &self.sources[source].schema,
            Input::Node(node) => &self.nodes[node].step.schema,
        }
    }

    /// Whether a source asks.
    pub fn is_serving(&self, source: usize) -> bool {
        self.sources[source].asks.is_some()
    }

    /// For each node, the request sources whose rows pass through it on their way to their folds' answers.
    /// A fold itself is not passed: its input is answered from.
    pub fn serve_paths(&self) -> Vec<BTreeSet<u32>> {
        let mut paths = vec![BTreeSet::new(); self.nodes.len()];
        for (source, node) in self.sources.iter().enumerate() {
            for fold in node.asks.iter().flat_map(|asks| &asks.folds) {
                let mut next = self.nodes[*fold].inputs[0];
                while let Input::Node(at) = next {
                    paths[at].insert(source as u32);
                    next = self.nodes[at].inputs[0];
                }
            }
        }
        paths
    }

    /// The folds that are asked, by node index; one twice where several sources ask it.
    pub fn asked(&self) -> impl Iterator<Item = usize> + '_ {
        self.sources.iter().filter_map(|source| source.asks.as_ref()).flat_map(|asks| asks.folds.iter().copied())
    }
}
