//! Streams: chains of steps, planned in an order in which inputs come first.
//!
//! What a step needs is only known once it is planned. So streams are tried until no more of them succeed; then one that
//! fails for a reason of its own is taken as it is, with its findings, and the others are tried again. When all that
//! are left wait for one another, they form a cycle.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use millstream_engine::batch::{is_changing, schema_of};
use millstream_engine::catalogue::{Problem, StepInput};
use millstream_engine::operator::Step;

use super::doubt::Doubt;
use super::sources::Tried;
use super::{Checker, Known, component, config, section_of};
use crate::definition::{Entry, Node};
use crate::fingerprint;
use crate::plan::{self, Input};
use crate::report::Finding;

/// The plan as far as it has grown.
pub(super) struct Graph {
    /// Sources, streams and models that have been planned, or given up.
    pub(super) known: BTreeMap<String, Known>,
    pub(super) nodes: Vec<plan::Node>,
    pub(super) streams: Vec<plan::Stream>,
}

/// A stream that was tried.
struct Chain {
    known: Known,
    nodes: Vec<plan::Node>,
    /// Problems, each with the configuration that it lies in.
    problems: Vec<(Entry, Problem)>,
}

impl Graph {
    pub(super) fn new(sources: &[Tried], root: &Node) -> Self {
        let known =
            section_of(root, "sources").iter().zip(sources).enumerate().map(|(index, (entry, (_, columns)))| {
                let (schema, doubt) = (schema_of(&columns.schema), columns.doubt.clone());
                (entry.key.clone(), Known { schema, doubt, output: Input::Source(index), head: Some(index) })
            });
        Self { known: known.collect(), nodes: Vec::new(), streams: Vec::new() }
    }

    /// Something of which nothing is known.
    pub(super) fn unknown() -> Known {
        Known { schema: schema_of(&Schema::empty()), doubt: Doubt::of_all(), output: Input::Source(0), head: None }
    }

    /// What steps may name besides their own stream.
    fn schemas(&self) -> BTreeMap<String, arrow::datatypes::SchemaRef> {
        self.known.iter().map(|(name, known)| (name.clone(), known.schema.clone())).collect()
    }

    /// What the stream or model at `entry` continues.
    pub(super) fn input(&self, entry: &Entry) -> Option<Known> {
        self.known.get(entry.value.get("input")?.text()?).cloned()
    }

    fn take(&mut self, name: &str, tried: Chain) -> Vec<(Entry, Problem)> {
        let output = tried.known.output;
        self.streams.push(plan::Stream { name: name.to_owned(), output });
        self.nodes.extend(tried.nodes);
        self.known.insert(name.to_owned(), tried.known);
        tried.problems
    }
}

impl Checker<'_> {
    pub(super) fn streams(&mut self, root: &Node, graph: &mut Graph) {
        let mut pending: Vec<&Entry> = section_of(root, "streams").iter().collect();
        while !pending.is_empty() {
            let before = pending.len();
            pending.retain(|entry| !self.succeeds(entry, graph));
            if pending.len() < before {
                continue;
            }
            let names: Vec<&str> = pending.iter().map(|entry| entry.key.as_str()).collect();
            let waits: Vec<Option<usize>> = pending.iter().map(|entry| self.waits_for(entry, graph, &names)).collect();
            match waits.iter().position(Option::is_none) {
                Some(own_fault) => self.fails(pending.remove(own_fault), graph),
                None => self.cycle(&mut pending, &waits, graph),
            }
        }
    }

    /// Plans a stream, if all is well with it.
    fn succeeds(&mut self, entry: &Entry, graph: &mut Graph) -> bool {
        let Some(input) = graph.input(entry) else { return false };
        let tried = self.stream(entry, &input, graph);
        if !tried.problems.is_empty() {
            return false;
        }
        graph.take(&entry.key, tried);
        true
    }

    /// Takes a stream that has problems.
    fn fails(&mut self, entry: &Entry, graph: &mut Graph) {
        let input = graph.input(entry).unwrap_or_else(|| {
            self.unknown_input(entry.value.entry("input"), graph);
            Graph::unknown()
        });
        let tried = self.stream(entry, &input, graph);
        let problems = graph.take(&entry.key, tried);
        for (entry, problem) in problems {
            self.problem(&entry, problem);
        }
    }

    /// Says that an input names nothing.
    pub(super) fn unknown_input(&mut self, entry: Option<&Entry>, graph: &Graph) {
        let Some((entry, name)) = entry.and_then(|entry| Some((entry, entry.value.text()?))) else { return };
        let finding = if self.names.contains_key(name) {
            // It exists, but is no source or stream.
            Finding::error(entry.value.span, "unknown-input", format!("the model `{name}` cannot be an input"))
                .help("name the source or stream that the model reads")
        } else {
            let message = format!("there is no source or stream `{name}`");
            Finding::error(entry.value.span, "unknown-input", message).choices(name, graph.known.keys())
        };
        self.find(finding);
    }

    /// The pending stream that `entry` needs first, if there is one.
    fn waits_for(&self, entry: &Entry, graph: &Graph, pending: &[&str]) -> Option<usize> {
        let find = |name: &str| pending.iter().position(|other| *other == name);
        let Some(input) = graph.input(entry) else { return find(entry.value.get("input")?.text()?) };
        let problems = self.stream(entry, &input, graph).problems;
        problems
            .iter()
            .filter(|(_, problem)| problem.code != "unknown-column")
            .find_map(|(_, problem)| problem.choices.as_ref().and_then(|(wanted, _)| find(wanted)))
    }

    /// All of `pending` wait for another: spells out one cycle, and takes the streams in it as they are.
    fn cycle(&mut self, pending: &mut Vec<&Entry>, waits: &[Option<usize>], graph: &mut Graph) {
        // After as many steps as there are streams, the walk is inside of a cycle.
        let next = |at: usize| waits[at].unwrap_or(at);
        let start = (0..waits.len()).fold(0, |at, _| next(at));
        let mut members = vec![start];
        while next(members[members.len() - 1]) != start {
            members.push(next(members[members.len() - 1]));
        }
        // Begin where the text begins.
        let first = members
            .iter()
            .enumerate()
            .min_by_key(|(_, member)| pending[**member].key_span.start)
            .map_or(0, |(at, _)| at);
        members.rotate_left(first);
        let names: Vec<&str> = members.iter().map(|member| pending[*member].key.as_str()).collect();
        let message = match names.as_slice() {
            [one] => format!("the stream `{one}` needs itself"),
            _ => format!("these streams need one another: `{}` needs `{}`", names.join("` needs `"), names[0]),
        };
        let help = "a stream cannot depend on its own rows; break the circle at one point";
        self.find(Finding::error(pending[members[0]].key_span, "cycle", message).help(help));
        for member in &members {
            graph.known.insert(pending[*member].key.clone(), Graph::unknown());
        }
        members.sort_unstable();
        for member in members.into_iter().rev() {
            self.fails(pending.remove(member), graph);
        }
    }

    /// Plans the steps of a stream one after the other; a step that fails is passed over.
    fn stream(&self, entry: &Entry, input: &Known, graph: &Graph) -> Chain {
        let schemas = graph.schemas();
        let mut chain = Chain { known: input.clone(), nodes: Vec::new(), problems: Vec::new() };
        let Some(steps) = entry.value.entry("steps") else { return chain };
        for (index, item) in steps.value.items().iter().enumerate() {
            // What is joined may lack columns as well.
            let others: Vec<&Known> = others_of(item, graph);
            for other in &others {
                chain.known.doubt.merge(&other.doubt);
            }
            let at = Entry { key: entry.key.clone(), key_span: item.span, value: item.clone() };
            let kind = component(&at)
                .filter(|_| item.is_sound())
                .and_then(|(name, config)| Some((self.catalogue.steps.iter().find(|kind| kind.name == name)?, config)));
            let Some((kind, configured)) = kind else {
                chain.fail(&at, &others, Vec::new());
                continue;
            };
            let input = StepInput { schema: &chain.known.schema, streams: &schemas };
            match (kind.plan)(&config(&configured, &self.secrets), &input) {
                Ok(step) if !step.power.takes_changes() && changes(&step, &input) => {
                    chain.fail(&configured, &others, vec![takes_no_changes(kind.name)]);
                }
                Ok(step) => {
                    let label = format!("{}/{index}/{}", entry.key, kind.name);
                    let own = fingerprint::of_step(kind.name, &configured.value, &step.others);
                    chain.add(plan_node((label, &entry.key), (kind.name, own), step, &chain.known, graph), graph);
                }
                Err(problems) => chain.fail(&configured, &others, problems),
            }
        }
        chain
    }
}

/// Whether a stream that the step reads takes back rows.
fn changes(step: &Step, input: &StepInput<'_>) -> bool {
    let others = step.others.iter().filter_map(|other| input.streams.get(other));
    std::iter::once(input.schema).chain(others).any(|schema| is_changing(schema))
}

/// The problem of something that reads a stream which takes back rows, and cannot take its word back.
pub(super) fn takes_no_changes(who: &str) -> Problem {
    let message = format!("`{who}` cannot take back what it has learned from a row, and this stream takes rows back");
    Problem::new("", "takes-no-changes", message)
        .help("put the step `as_stream` before it: that makes plain rows of changes")
}

/// The streams that a step seems to name.
fn others_of<'a>(step: &Node, graph: &'a Graph) -> Vec<&'a Known> {
    let mut others = Vec::new();
    step.visit(&mut |node| others.extend(node.text().and_then(|name| graph.known.get(name))));
    others
}

impl Chain {
    fn add(&mut self, node: plan::Node, graph: &Graph) {
        self.known.schema = node.step.schema.clone();
        self.known.output = Input::Node(graph.nodes.len() + self.nodes.len());
        self.nodes.push(node);
    }

    fn fail(&mut self, step: &Entry, others: &[&Known], problems: Vec<Problem>) {
        let before = self.known.doubt.clone();
        self.known.doubt.add_step(&step.value, &problems);
        for other in others {
            self.known.doubt.add_columns(&other.schema);
        }
        let own = problems.into_iter().filter(|problem| !before.hides(problem));
        self.problems.extend(own.map(|problem| (step.clone(), problem)));
    }
}

/// A node whose inputs are known.
pub(super) fn plan_node(
    (label, of): (String, &str),
    (kind, configuration): (&'static str, String),
    step: Step,
    input: &Known,
    graph: &Graph,
) -> plan::Node {
    let others = step.others.iter().filter_map(|other| graph.known.get(other)).map(|known| known.output);
    let inputs = [input.output].into_iter().chain(others).collect();
    plan::Node { label, of: of.to_owned(), kind, inputs, configuration, step }
}
