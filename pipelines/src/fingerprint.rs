//! Fingerprints of the parts of a pipeline: what a part's state is made of, without what it is called.
//!
//! ```text
//! source: index, configuration ─► step: kind, configuration, what it reads ─► model: configuration, what it reads
//! ```
//! A part's fingerprint covers its whole *cone*: itself and everything that it reads, down to the sources. Since a part's
//! state depends on nothing else but the records, two parts with one fingerprint have one state.

use std::collections::BTreeMap;

use blake3::Hasher;
use millstream_engine::operator::Power;

use crate::definition::{Data, Entry, Node, Span, digest_of};
use crate::origin::Named;
use crate::plan::{Input, Pipeline};

/// Fingerprints by the names of parts: `source/NAME`, `request/NAME`, a node's label.
pub type Fingerprints = BTreeMap<String, String>;

/// A part of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `source/NAME`, `request/NAME`, or a node's label.
    pub name: String,
    /// What its state is made of.
    pub fingerprint: String,
    /// The parts that it reads.
    pub reads: Vec<String>,
    /// Whether it keeps state. Sources do: the rows that wait for the watermark; so do requests: how far they are answered.
    pub stateful: bool,
}

impl Pipeline {
    /// Its parts, each after those that it reads; what its models begin with counts as it is written.
    pub fn parts(&self) -> Vec<Part> {
        self.parts_with(&Named::new())
    }

    /// The same, where what they begin with counts by its content.
    pub fn parts_with(&self, origins: &Named) -> Vec<Part> {
        let mut parts = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            // Rows of one moment come in the order of their sources.
            let fingerprint = cone(&source.configuration, &[&index.to_string()]);
            parts.push(Part {
                name: self.name_of(Input::Source(index)),
                fingerprint,
                reads: Vec::new(),
                stateful: true,
            });
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let at = |input: &Input| match input {
                Input::Source(index) => *index,
                Input::Node(index) => self.sources.len() + index,
            };
            let read: Vec<&str> = node.inputs.iter().map(|input| parts[at(input)].fingerprint.as_str()).collect();
            parts.push(Part {
                fingerprint: cone(&self.configuration(index, origins), &read),
                name: node.label.clone(),
                reads: node.inputs.iter().map(|input| self.name_of(*input)).collect(),
                stateful: !matches!(node.step.power, Power::Transform(_)),
            });
        }
        for request in &self.requests {
            // Questions change no state, so all that is kept of them is how far they are answered.
            let fingerprint = cone(&request.source.configuration, &[]);
            let name = format!("request/{}", request.name);
            parts.push(Part { name, fingerprint, reads: Vec::new(), stateful: true });
        }
        parts
    }

    /// What a node's own state is made of.
    fn configuration(&self, node: usize, origins: &Named) -> String {
        let configuration = &self.nodes[node].configuration;
        let model = self.models.iter().find(|model| model.node == node);
        let Some(begins) = model.and_then(|model| model.begins.as_ref()) else { return configuration.clone() };
        let words = begins.words();
        cone(configuration, &[origins.get(&words).map_or(words.as_str(), |origin| &origin.digest)])
    }

    /// The fingerprints of its parts.
    pub fn fingerprints(&self) -> Fingerprints {
        of_parts(self.parts())
    }

    fn name_of(&self, input: Input) -> String {
        match input {
            Input::Source(index) => format!("source/{}", self.sources[index].name),
            Input::Node(index) => self.nodes[index].label.clone(),
        }
    }
}

/// The fingerprints of parts.
pub fn of_parts(parts: Vec<Part>) -> Fingerprints {
    parts.into_iter().map(|part| (part.name, part.fingerprint)).collect()
}

fn cone(configuration: &str, reads: &[&str]) -> String {
    let mut hasher = Hasher::new();
    hasher.update(b"millstream cone 1");
    for text in [configuration].iter().chain(reads) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The digest of a source's or a model's own configuration: of all its keys but those in `without`, in whatever order.
pub(crate) fn of_keys(what: &str, node: &Node, without: &[&str]) -> String {
    let counts = |entry: &&Entry| !without.contains(&entry.key.as_str()) && entry.value.data != Data::Null;
    let mut entries: Vec<Entry> = node.entries().iter().filter(counts).cloned().collect();
    entries.sort_by(|left, right| left.key.cmp(&right.key));
    digest_of(what, &Node::new(node.span, Data::Map(entries)))
}

/// The digest of a topic's configuration.
pub(crate) fn of_topic(topic: &str, partitions: u32) -> String {
    let text = |text: String| Node::new(Span::default(), Data::Text(text));
    digest_of(
        "topic",
        &Node::new(Span::default(), Data::List(vec![text(topic.to_owned()), text(partitions.to_string())])),
    )
}

/// The digest of a step's own configuration. `others` are the streams that it names besides its own: what they are made
/// of counts with the cone, what they are called does not count.
pub(crate) fn of_step(kind: &str, config: &Node, others: &[String]) -> String {
    let mut config = config.clone();
    for (port, other) in others.iter().enumerate() {
        // One place at most, so that nothing else that happens to have the name is made unknown.
        replace_first(&mut config, other, &format!("#{port}"));
    }
    digest_of(kind, &config)
}

fn replace_first(node: &mut Node, text: &str, by: &str) -> bool {
    match &mut node.data {
        Data::Text(found) if found == text => {
            by.clone_into(found);
            true
        }
        Data::List(items) => items.iter_mut().any(|item| replace_first(item, text, by)),
        Data::Map(entries) => entries.iter_mut().any(|entry| replace_first(&mut entry.value, text, by)),
        _ => false,
    }
}
