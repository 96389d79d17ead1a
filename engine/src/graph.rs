//! The graph that a run mounts: sources, operators, outputs. Plain data; nothing is open yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::Result;
use crate::batch::Lane;
use crate::operator::{Choosing, Power, Step};
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

    /// For each node with state by key, the columns by which its keys are spread over bins, and so over workers, as their places
    /// in the key; none for all. Where a step after it has a part of the key as its own, that part: then its rows are where they
    /// belong there already. So keys that differ only in the rest share a bin.
    pub fn spread(&self) -> Vec<Vec<usize>> {
        let mut spread = vec![Vec::new(); self.nodes.len()];
        // By node: the names of the columns by which each step after it has its rows spread, the nearest step last.
        let mut wanted: Vec<Vec<Vec<&str>>> = vec![Vec::new(); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let after = std::mem::take(&mut wanted[at]);
            match (&node.step.power, node.inputs[0]) {
                (Power::Transform(_), Input::Node(before)) => wanted[before].extend(after),
                (Power::Keyed(operator), _) => {
                    let names = |port: usize| -> Vec<&str> {
                        let schema = self.schema(node.inputs[port]);
                        operator.key(port).iter().map(|column| schema.field(*column).name().as_str()).collect()
                    };
                    let own = names(0);
                    let place = |name: &&str| own.iter().position(|own| own == name);
                    let places = |after: &Vec<&str>| after.iter().map(place).collect::<Option<Vec<_>>>();
                    let places = after.iter().rev().find_map(places).unwrap_or_else(|| (0..own.len()).collect());
                    for (port, input) in node.inputs.iter().enumerate().filter(|_| !places.is_empty()) {
                        if let Input::Node(before) = input {
                            let names = names(port);
                            wanted[*before].push(places.iter().map(|place| names[*place]).collect());
                        }
                    }
                    if !places.iter().copied().eq(0..own.len()) {
                        spread[at] = places;
                    }
                }
                _ => {}
            }
        }
        spread
    }

    /// The folds that are asked, by node index; one twice where several sources ask it.
    pub fn asked(&self) -> impl Iterator<Item = usize> + '_ {
        self.sources.iter().filter_map(|source| source.asks.as_ref()).flat_map(|asks| asks.folds.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::operator::{Keyed, Rejects, Transform};
    use crate::state::States;

    /// A step by these columns.
    struct By(Vec<usize>);

    impl Keyed for By {
        type State = ();
        fn key(&self, _: usize) -> &[usize] {
            &self.0
        }
        fn apply(
            &self,
            _: usize,
            rows: &RecordBatch,
            _: &mut States<'_, ()>,
            _: &mut Rejects,
        ) -> Result<Option<RecordBatch>> {
            Ok(Some(rows.clone()))
        }
        fn expired(&self, (): &(), _: i64) -> bool {
            true
        }
    }

    struct Same;

    impl Transform for Same {
        fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
            Ok(rows.clone())
        }
    }

    /// Steps by columns of `abc`, or without a state where they are `-`, each after the others that it names.
    fn spread(steps: &[(&str, &[usize])]) -> String {
        let schema: SchemaRef =
            Arc::new(Schema::new(["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true)).to_vec()));
        let node = |(key, after): &(&str, &[usize])| {
            let power = match *key {
                "-" => Power::transform(Same),
                key => Power::keyed(By(key.chars().filter_map(|name| "abc".find(name)).collect())),
            };
            let inputs = after.iter().map(|node| Input::Node(*node)).collect();
            Node { name: String::new(), inputs, step: Step { schema: schema.clone(), others: Vec::new(), power } }
        };
        let mut nodes: Vec<Node> = steps.iter().map(node).collect();
        nodes[0].inputs = vec![Input::Source(0)];
        let source = SourceNode {
            name: String::new(),
            source: Arc::new(Nothing),
            schema: schema.clone(),
            decoder: Arc::new(|| unreachable!("nothing runs")),
            time: EventTime::Arrival,
            idle_ms: 0,
            asks: None,
        };
        let graph = Graph { sources: vec![source], nodes, ..Graph::default() };
        let name = |(step, place): (usize, &usize)| steps[step].0.chars().nth(*place).expect("a place in its key");
        let of = |(step, places): (usize, &Vec<usize>)| places.iter().map(|place| name((step, place))).collect();
        graph.spread().iter().enumerate().map(of).collect::<Vec<String>>().join(" ")
    }

    struct Nothing;

    impl Source for Nothing {
        fn is_finite(&self) -> bool {
            true
        }
        fn partitions(&self) -> Result<Vec<u32>> {
            Ok(Vec::new())
        }
        fn open(&self, _: &[crate::source::Position]) -> Result<Box<dyn crate::source::Reader>> {
            unreachable!("nothing runs")
        }
    }

    #[test]
    fn keys_are_spread_by_what_later_steps_share() {
        assert_eq!(spread(&[("ab", &[])]), "", "all of the only key");
        assert_eq!(spread(&[("ab", &[]), ("b", &[0])]), "b ");
        assert_eq!(spread(&[("abc", &[]), ("bc", &[0]), ("c", &[1])]), "c c ", "through all");
        assert_eq!(spread(&[("ab", &[]), ("-", &[0]), ("a", &[1])]), "a  ", "past what has no state");
        assert_eq!(spread(&[("ab", &[]), ("ba", &[0])]), "ba ", "in one order");
        assert_eq!(spread(&[("ab", &[]), ("c", &[0]), ("a", &[1])]), "  ", "rows go elsewhere in between");
        assert_eq!(spread(&[("ab", &[]), ("", &[0]), ("a", &[0])]), "a  ", "not by nothing");
        assert_eq!(spread(&[("ab", &[]), ("b", &[0]), ("a", &[0])]), "b  ", "the first of two");
        assert_eq!(spread(&[("ab", &[]), ("c", &[0]), ("a", &[0])]), "a  ", "that fits");
        assert_eq!(spread(&[("a", &[]), ("bc", &[0]), ("abc", &[0]), ("c", &[2, 1])]), " c c ", "both ports");
    }
}
