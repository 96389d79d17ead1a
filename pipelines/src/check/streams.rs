//! Streams: chains of steps, planned in an order in which inputs come first.
//!
//! What a step needs is only known once it is planned. So streams are tried until no more of them succeed; then one that
//! fails for a reason of its own is taken as it is, with its findings, and the others are tried again. When all that
//! are left wait for one another, they form a cycle.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use millstream_engine::batch::schema_of;
use millstream_engine::catalogue::{Problem, StepInput};
use millstream_engine::operator::Step;

use super::sources::Tried;
use super::{CONSEQUENCES, Checker, Known, component, config, section_of};
use crate::definition::{Entry, Node};
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
        let known = section_of(root, "sources").iter().zip(sources).enumerate().map(|(index, (entry, (source, columns)))| {
            let (schema, certain) = (schema_of(&columns.schema), columns.certain);
            let known = Known { schema, certain, output: Input::Source(index), head: Some(index) };
            (entry.key.clone(), Known { certain: certain && (source.is_some() || columns.certain), ..known })
        });
        Self { known: known.collect(), nodes: Vec::new(), streams: Vec::new() }
    }

    /// Something of which nothing is known.
    pub(super) fn unknown() -> Known {
        Known { schema: schema_of(&Schema::empty()), certain: false, output: Input::Source(0), head: None }
    }

    /// What steps may name besides their own stream.
    fn schemas(&self) -> BTreeMap<String, arrow::datatypes::SchemaRef> {
        self.known.iter().map(|(name, known)| (name.clone(), known.schema.clone())).collect()
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
        let Some(input) = self.input(entry, graph) else { return false };
        let tried = self.stream(entry, &input, graph);
        if !tried.problems.is_empty() {
            return false;
        }
        graph.take(&entry.key, tried);
        true
    }

    /// Takes a stream that has problems.
    fn fails(&mut self, entry: &Entry, graph: &mut Graph) {
        let input = self.input(entry, graph).unwrap_or_else(|| {
            self.unknown_input(entry.value.entry("input"), graph);
            Graph::unknown()
        });
        let tried = self.stream(entry, &input, graph);
        let problems = graph.take(&entry.key, tried);
        for (entry, problem) in problems {
            self.problem(&entry, problem);
        }
    }

    pub(super) fn input(&self, entry: &Entry, graph: &Graph) -> Option<Known> {
        graph.known.get(entry.value.get("input")?.text()?).cloned()
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
        let Some(input) = self.input(entry, graph) else { return find(entry.value.get("input")?.text()?) };
        let problems = self.stream(entry, &input, graph).problems;
        problems.iter().filter(|(_, problem)| problem.code != "unknown-column").find_map(|(_, problem)| {
            problem.choices.as_ref().and_then(|(wanted, _)| find(wanted))
        })
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
        let first = members.iter().enumerate().min_by_key(|(_, member)| pending[**member].key_span.start).map_or(0, |(at, _)| at);
        members.rotate_left(first);
        let mut names: Vec<&str> = members.iter().map(|member| pending[*member].key.as_str()).collect();
        names.push(names[0]);
        let message = format!("these streams need one another: {}", names.join(" ← "));
        let help = "a stream cannot depend on its own rows; break the circle at one of them";
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
            let at = Entry { key: entry.key.clone(), key_span: item.span, value: item.clone() };
            let step = component(&at).filter(|_| item.is_sound());
            let Some((kind, config_at)) = step else {
                chain.known.certain = false;
                continue;
            };
            let Some(kind) = self.catalogue.steps.iter().find(|known| known.name == kind) else { continue };
            // What is joined may lack columns as well.
            item.visit(&mut |node| {
                let other = node.text().and_then(|name| graph.known.get(name));
                chain.known.certain &= other.is_none_or(|other| other.certain);
            });
            let planned = (kind.plan)(
                &config(&config_at, &self.secrets),
                &StepInput { schema: &chain.known.schema, streams: &schemas },
            );
            match planned {
                Ok(step) => {
                    let label = format!("{}/{index}/{}", entry.key, kind.name);
                    chain.add(plan_node(label, &entry.key, kind.name, step, &chain.known, graph), graph);
                }
                Err(problems) => chain.fail(&config_at, problems),
            }
        }
        chain
    }
}

impl Chain {
    fn add(&mut self, node: plan::Node, graph: &Graph) {
        let others = &node.step.others;
        self.known.certain &= others.iter().all(|other| graph.known.get(other).is_some_and(|known| known.certain));
        self.known.schema = node.step.schema.clone();
        self.known.output = Input::Node(graph.nodes.len() + self.nodes.len());
        self.nodes.push(node);
    }

    fn fail(&mut self, config: &Entry, problems: Vec<Problem>) {
        let certain = self.known.certain;
        let own = problems.into_iter().filter(|problem| certain || !CONSEQUENCES.contains(&problem.code));
        self.problems.extend(own.map(|problem| (config.clone(), problem)));
        self.known.certain = false;
    }
}

/// A node whose inputs are known.
pub(super) fn plan_node(label: String, of: &str, kind: &'static str, step: Step, input: &Known, graph: &Graph) -> plan::Node {
    let others = step.others.iter().filter_map(|other| graph.known.get(other)).map(|known| known.output);
    plan::Node { label, of: of.to_owned(), kind, inputs: [input.output].into_iter().chain(others).collect(), step }
}

