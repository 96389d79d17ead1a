//! From a definition to a plan, with everything that is wrong found at once, and nothing touched.
//!
//! ```text
//! tree ─ sweep ─► form (keys, types, kinds) ─► sources ─► streams ─► models ─► requests, sinks, feeds ─► Pipeline
//! ```
//!
//! A part that cannot be planned does not hide what is wrong with others: what stands after it is still checked, against
//! the columns that are known. Only what may be a consequence (an unknown column after a step that failed) is not said.

mod doubt;
mod models;
mod outputs;
mod places;
mod policies;
mod sources;
mod streams;
mod sweep;
mod sweeps;
mod testing;

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use millstream_connectors::broker::config::BrokerConfig;
use millstream_engine::catalogue::Problem;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::doubt::Doubt;
use crate::catalogue::Catalogue;
use crate::definition::{Data, Definition, Entry, Node, Secrets, Span};
use crate::plan::{Input, Pipeline};
use crate::report::Finding;
use crate::{plan, schema, shape};

/// The version of the file format.
const VERSION: u64 = 1;

/// Checks `definition` and plans it; the plan is there if no finding is an error.
pub fn check(definition: &Definition, catalogue: &Catalogue, secrets: Secrets) -> (Option<Pipeline>, Vec<Finding>) {
    let mut findings = definition.findings.clone();
    if definition.root.data == Data::Null && !findings.is_empty() {
        // Nothing could be read.
        return (None, findings);
    }
    if let Some(finding) = wrong_version(&definition.root) {
        findings.push(finding);
        return (None, findings);
    }
    let (root, swept) = sweep::sweep(&definition.root, &schema::compose(catalogue));
    findings.extend(swept);
    let mut checker =
        Checker { catalogue, secrets, findings, names: BTreeMap::new(), topics: BTreeMap::new(), blind: false };
    let pipeline = checker.pipeline(definition, &root);
    let Checker { secrets, findings, topics, blind, .. } = checker;
    let sound = !blind && !findings.iter().any(|finding| finding.is_error);
    let pipeline = pipeline.filter(|_| sound).map(|pipeline| Pipeline {
        secrets,
        topics: topics.into_iter().map(|(name, (partitions, _))| (name, partitions)).collect(),
        ..pipeline
    });
    (pipeline, findings)
}

/// Another version of the format would only give findings that mislead.
fn wrong_version(root: &Node) -> Option<Finding> {
    let Data::Number(version) = &root.get("millstream")?.data else { return None };
    if version.as_u64() == Some(VERSION) {
        return None;
    }
    let message = format!("version {version} of the file format is not known");
    Some(
        Finding::error(root.get("millstream")?.span, "unknown-version", message)
            .help(format!("write `millstream: {VERSION}`")),
    )
}

struct Checker<'a> {
    catalogue: &'a Catalogue,
    secrets: Secrets,
    findings: Vec<Finding>,
    /// What sources, streams and models are called, and where.
    names: BTreeMap<String, Span>,
    topics: BTreeMap<String, (u32, Span)>,
    /// Whether something could not be planned because a secret is not known: then there is no plan, but no fault either.
    blind: bool,
}

/// What is known of a source, stream or model.
#[derive(Clone)]
struct Known {
    /// Its rows; a guess where something failed.
    schema: SchemaRef,
    /// What is not known of its rows because something failed.
    doubt: Doubt,
    /// Where the rows come from in the plan; without meaning where something failed.
    output: Input,
    /// The source at the head of its chain; `None` where the chain is broken.
    head: Option<usize>,
}

impl Checker<'_> {
    fn pipeline(&mut self, definition: &Definition, root: &Node) -> Option<Pipeline> {
        self.name(root.entry("name"));
        self.names(root);
        let broker = self.broker(root);
        let sources = self.sources(root);
        let mut graph = streams::Graph::new(&sources, root);
        self.streams(root, &mut graph);
        let models = self.models(root, &mut graph);
        let requests = self.requests(root, &graph, &sources, &models);
        let sinks = self.sinks(root, &graph);
        let feeds = self.feeds(root, &sources);
        let sweeps = self.sweeps(root, &graph, &models);
        let tests = self.tests(root, &graph, &sources);
        let metrics = self.metrics(root);
        let front = self.front(root);
        let lineage = self.lineage(root);
        let processes = self.processes(root);
        let epochs = self.epochs(root);
        let checkpoints = self.checkpoints(root);
        let registry = self.registry(root);
        if matches!(root.data, Data::Map(_))
            && root.get("sources").is_none_or(|sources| sources.entries().is_empty())
            && root.get("feeds").is_none()
        {
            let top = Span { end: root.span.start, ..root.span };
            self.find(
                Finding::error(top, "nothing-to-do", "the definition has no `sources`")
                    .help("a pipeline needs one at least"),
            );
        }
        Some(Pipeline {
            name: root.get("name")?.text()?.to_owned(),
            digest: definition.digest.clone(),
            folder: definition.folder(),
            broker: broker?,
            epochs,
            checkpoints,
            registry,
            delivery: self.read(root.get("delivery")).unwrap_or_default(),
            workers: self.read(root.get("workers")).unwrap_or_else(cores),
            processes,
            feeds,
            sources: sources.into_iter().filter_map(|(source, _)| source).collect(),
            nodes: graph.nodes,
            streams: graph.streams,
            models,
            sweeps,
            requests,
            sinks,
            front,
            lineage,
            metrics,
            tests,
            topics: Vec::new(),
            secrets: Secrets::default(),
        })
    }

    fn find(&mut self, mut finding: Finding) {
        // A component may quote its configuration.
        finding.message = self.secrets.redact(&finding.message).into_owned();
        finding.help = finding.help.map(|help| self.secrets.redact(&help).into_owned());
        self.findings.push(finding);
    }

    /// Places a component's problem, whose path starts at `entry`'s value.
    fn problem(&mut self, entry: &Entry, problem: Problem) {
        let (parent, last) = problem.path.split_at(problem.path.len().saturating_sub(1));
        let (mut span, node) = entry.value.locate(&problem.path);
        if let Some(key) = last.first().and_then(|last| entry.value.locate(parent).1.entry(last))
            && problem.message.contains(&format!("`{}`", key.key))
        {
            // It is about the key, not the value.
            span = key.key_span;
        }
        if let Data::Reference(reference) = &node.data
            && !self.secrets.knows(reference)
        {
            // Nothing can be said of a value that is not known yet.
            self.blind = true;
            return;
        }
        if span == entry.value.span {
            span = entry.mark();
        }
        let mut finding = Finding::error(span, problem.code, problem.message);
        finding.help = problem.help;
        self.find(match &problem.choices {
            // The engine's columns can be read, but are seldom what was meant.
            Some((wanted, choices)) => finding.choices(wanted, choices.iter().filter(|name| !name.starts_with('_'))),
            None => finding,
        });
    }

    fn problems(&mut self, entry: &Entry, problems: Vec<Problem>) {
        for problem in problems {
            self.problem(entry, problem);
        }
    }

    /// The problems that are no consequence of what is in doubt.
    fn own_problems(&mut self, entry: &Entry, doubt: &Doubt, problems: Vec<Problem>) {
        self.problems(entry, problems.into_iter().filter(|problem| !doubt.hides(problem)).collect());
    }

    /// Reads a part whose form is sound.
    fn read<T: DeserializeOwned>(&self, node: Option<&Node>) -> Option<T> {
        let node = node.filter(|node| node.is_sound())?;
        serde_json::from_value(node.to_value(&self.secrets)).ok()
    }

    fn name(&mut self, entry: Option<&Entry>) {
        if let Some(entry) = entry
            && let Some(name) = entry.value.text()
        {
            self.check_name(name, entry.value.span);
        }
    }

    fn check_name(&mut self, name: &str, span: Span) {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.len() > 64 || !name.bytes().all(legal) {
            let finding = Finding::error(span, "bad-name", format!("`{name}` cannot be used as a name"));
            self.find(finding.help("use 1 to 64 lower-case letters, digits, `_` and `-`, and start with a letter"));
        }
    }

    /// Checks the names in all sections. Sources, streams and models can stand for one another, so they share theirs.
    fn names(&mut self, root: &Node) {
        for section in ["sources", "streams", "models", "feeds", "requests", "sinks", "sweeps"] {
            for entry in section_of(root, section) {
                self.check_name(&entry.key, entry.key_span);
                if section == "requests"
                    && let Some(first) = root.get("sources").and_then(|sources| sources.entry(&entry.key))
                {
                    let message = format!("the name `{}` is taken", entry.key);
                    let help = format!(
                        "the journal tells sources and requests apart by their names; it is also in line {}",
                        first.key_span.line
                    );
                    self.find(Finding::error(entry.key_span, "name-taken", message).help(help));
                }
                if !matches!(section, "sources" | "streams" | "models") {
                    continue;
                }
                if let Some(first) = self.names.get(&entry.key) {
                    let line = first.line;
                    let message = format!("the name `{}` is taken", entry.key);
                    self.find(
                        Finding::error(entry.key_span, "name-taken", message).help(format!(
                            "sources, streams and models need different names; it is also in line {line}"
                        )),
                    );
                } else {
                    self.names.insert(entry.key.clone(), entry.key_span);
                }
            }
        }
    }

    fn broker(&mut self, root: &Node) -> Option<BrokerConfig> {
        let Some(entry) = root.entry("broker").filter(|entry| entry.value.data != Data::Null) else {
            return Some(BrokerConfig::default());
        };
        if !entry.value.is_sound() {
            return None;
        }
        let planned = (self.catalogue.broker.plan)(&entry.value.to_value(&self.secrets));
        planned.map_err(|problems| self.problems(entry, problems)).ok()
    }

    fn epochs(&mut self, root: &Node) -> plan::Epochs {
        let epochs: shape::Epochs = self.read(root.get("epochs")).unwrap_or_default();
        if epochs.in_flight_bytes < epochs.max_bytes
            && let Some(entry) = root.entry("epochs")
        {
            let span = entry
                .value
                .entry("in_flight_bytes")
                .or(entry.value.entry("max_bytes"))
                .map_or(entry.key_span, Entry::mark);
            let message = format!(
                "an epoch of {} bytes (`max_bytes`) would not fit into `in_flight_bytes`, {}",
                epochs.max_bytes, epochs.in_flight_bytes
            );
            self.find(
                Finding::error(span, "budget-too-small", message)
                    .help("give `in_flight_bytes` several times `max_bytes`"),
            );
        }
        epochs
    }

    /// Notes a topic; all that name it must agree on its partitions.
    fn topic(&mut self, name: &str, partitions: u32, span: Span) {
        match self.topics.get(name).copied() {
            None => drop(self.topics.insert(name.to_owned(), (partitions, span))),
            Some((others, first)) if others != partitions => {
                let message =
                    format!("the topic `{name}` has {partitions} partitions here and {others} in line {}", first.line);
                self.find(
                    Finding::error(span, "partitions-differ", message)
                        .help("give `partitions` the same number everywhere"),
                );
            }
            Some(_) => {}
        }
    }
}

/// The entries of a section; none where it is absent.
fn section_of<'a>(root: &'a Node, section: &str) -> &'a [Entry] {
    root.get(section).map_or(&[], Node::entries)
}

/// A component's kind and its configuration: `{kind: {…}}`, or `kind`.
fn component(entry: &Entry) -> Option<(String, Entry)> {
    match &entry.value.data {
        Data::Text(kind) => {
            let empty = Node::new(entry.value.span, Data::Map(Vec::new()));
            Some((kind.clone(), Entry { key: kind.clone(), key_span: entry.value.span, value: empty }))
        }
        Data::Map(entries) => entries.first().map(|entry| (entry.key.clone(), entry.clone())),
        _ => None,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A configuration for a component.
fn config(entry: &Entry, secrets: &Secrets) -> Value {
    entry.value.to_value(secrets)
}
