//! Tests: what is given and expected must be there to be given and expected.

use arrow::datatypes::{DataType, SchemaRef};
use millstream_connectors::formats::timestamp;
use serde_json::Value;

use super::doubt::Doubt;
use super::sources::{Columns, Tried};
use super::streams::Graph;
use super::{Checker, section_of};
use crate::definition::{Data, Entry, Node, Secrets};
use crate::pattern;
use crate::plan::{self, Expected, Given, GivenContent, Input, Place, Row};
use crate::report::Finding;

/// What a record says of itself besides its columns.
const OF_RECORD: [&str; 3] = ["_time", "_key", "_partition"];

/// A place where rows can be expected.
struct Found {
    place: Place,
    schema: SchemaRef,
    doubt: Doubt,
}

impl Checker<'_> {
    pub(super) fn tests(&mut self, root: &Node, graph: &Graph, sources: &[Tried]) -> Vec<plan::Test> {
        section_of(root, "tests").iter().map(|entry| self.test(root, entry, graph, sources)).collect()
    }

    fn test(&mut self, root: &Node, entry: &Entry, graph: &Graph, sources: &[Tried]) -> plan::Test {
        let names = names_of(root, "sources");
        let mut given = Vec::new();
        for records in section_of(&entry.value, "given") {
            if let Some(at) = self.named(records, "source", &names) {
                given.push((at, self.records(records, &sources[at])));
            }
        }
        let requests = names_of(root, "requests");
        for records in section_of(&entry.value, "ask") {
            let Some(at) = self.named(records, "request", &requests) else { continue };
            let enters = section_of(root, "requests")[at].value.get("enters").and_then(Node::text);
            let Some(source) = names.iter().position(|name| Some(*name) == enters) else { continue };
            given.push((names.len() + at, self.records(records, &sources[source])));
        }
        let expected = self.expected(root, entry, graph);
        let expects = ["expect", "dead", "answers"].iter().any(|key| entry.value.entry(key).is_some());
        if !expects && matches!(entry.value.data, Data::Map(_)) {
            let finding = Finding::error(entry.key_span, "nothing-expected", "this test expects nothing");
            self.find(finding.help("add `expect`, `dead` or `answers`"));
        }
        plan::Test { name: entry.key.clone(), given, expected }
    }

    fn named(&mut self, entry: &Entry, what: &str, names: &[&str]) -> Option<usize> {
        let found = names.iter().position(|name| *name == entry.key);
        if found.is_none() {
            let code = if what == "source" { "unknown-source" } else { "unknown-request" };
            let finding = Finding::error(entry.key_span, code, format!("there is no {what} `{}`", entry.key));
            self.find(finding.choices(&entry.key, names));
        }
        found
    }

    fn records(&mut self, entry: &Entry, (source, columns): &Tried) -> Vec<Given> {
        let is_bytes = source.as_ref().is_none_or(|source| source.format.is_some());
        entry.value.items().iter().map(|item| self.record(item, columns, is_bytes)).collect()
    }

    fn record(&mut self, item: &Node, columns: &Columns, is_bytes: bool) -> Given {
        if let Some(text) = item.text() {
            if !is_bytes {
                let finding = Finding::error(item.span, "needless-text", "this source gives rows, not texts");
                self.find(finding.help("write the record as a map of columns"));
            }
            return Given { content: GivenContent::Text(text.to_owned()), ..Given::default() };
        }
        let (mut given, mut row) = (Given::default(), Row::new());
        for entry in item.entries() {
            if entry.key.starts_with('_') {
                self.of_record(entry, &mut given);
            } else if columns.schema.index_of(&entry.key).is_ok() || columns.doubt.covers(&entry.key) {
                row.push((entry.key.clone(), value_of(entry)));
            } else {
                let names = columns.schema.fields().iter().map(|field| field.name().as_str());
                self.no_column(entry, names.chain(OF_RECORD));
            }
        }
        Given { content: GivenContent::Columns(row), ..given }
    }

    fn no_column<'a>(&mut self, entry: &Entry, names: impl Iterator<Item = &'a str>) {
        let message = format!("there is no column `{}` here", entry.key);
        self.find(Finding::error(entry.key_span, "unknown-column", message).choices(&entry.key, names));
    }

    fn of_record(&mut self, entry: &Entry, given: &mut Given) {
        let value = value_of(entry);
        let wanted = match entry.key.as_str() {
            "_time" => match value.as_str().and_then(|text| timestamp::parse(text.as_bytes())) {
                Some(ms) => return given.timestamp_ms = ms,
                None => "a timestamp like 2026-01-31T12:30:00Z",
            },
            "_key" => match value {
                Value::String(key) => return given.key = Some(key),
                _ => "text",
            },
            "_partition" => match value.as_u64().and_then(|partition| u32::try_from(partition).ok()) {
                Some(partition) if partition < 10_000 => return given.partition = partition,
                _ => "a whole number below 10000",
            },
            _ => return self.no_column(entry, OF_RECORD.into_iter()),
        };
        let message = format!("`{}` takes {wanted}, and this is {}", entry.key, entry.value.kind());
        self.find(Finding::error(entry.mark(), "wrong-type", message));
    }

    fn expected(&mut self, root: &Node, test: &Entry, graph: &Graph) -> Vec<Expected> {
        let mut expected = Vec::new();
        for entry in section_of(&test.value, "expect") {
            if let Some(found) = self.place(root, entry, graph) {
                let rows = entry.value.items().iter().map(|row| self.row(row, &found)).collect();
                expected.push(Expected { name: entry.key.clone(), place: found.place, rows });
            }
        }
        if let Some(dead) = test.value.get("dead") {
            let rows = dead.items().iter().map(|letter| self.letter(root, letter, graph)).collect();
            expected.push(Expected { name: "dead letters".to_owned(), place: Place::Dead, rows });
        }
        let requests = names_of(root, "requests");
        for entry in section_of(&test.value, "answers") {
            if let Some(at) = self.named(entry, "request", &requests) {
                let rows = entry.value.items().iter().map(row_of).collect();
                let name = format!("answers to {}", entry.key);
                expected.push(Expected { name, place: Place::Answers(at), rows });
            }
        }
        expected
    }

    /// What `clean`, or `clean/2`, stands for.
    fn place(&mut self, root: &Node, entry: &Entry, graph: &Graph) -> Option<Found> {
        if let Some(known) = graph.known.get(&entry.key) {
            let (schema, doubt) = (known.schema.clone(), known.doubt.clone());
            return Some(Found { place: Place::Rows(known.output), schema, doubt });
        }
        let streams = section_of(root, "streams");
        let step = entry.key.rsplit_once('/').and_then(|(stream, step)| {
            let stream = streams.iter().find(|other| other.key == stream)?;
            Some((stream, step, stream.value.get("steps").map_or(0, |steps| steps.items().len())))
        });
        let Some((stream, step, steps)) = step else {
            let message = format!("there is no source, stream, step or model `{}`", entry.key);
            let finding = Finding::error(entry.key_span, "unknown-place", message);
            self.find(finding.choices(&entry.key, graph.known.keys()));
            return None;
        };
        let Some(step) = step.parse::<usize>().ok().filter(|step| *step < steps) else {
            let message = format!("the stream `{}` has no step `{step}`", stream.key);
            let help = match steps {
                0 => format!("it has no steps: expect its rows under `{}`", stream.key),
                1 => format!("it has one step: `{}/0`", stream.key),
                _ => format!("its steps are `{0}/0` to `{0}/{1}`", stream.key, steps - 1),
            };
            self.find(Finding::error(entry.key_span, "unknown-step", message).help(help));
            return None;
        };
        // One that could not be planned is not there.
        let label = format!("{}/{step}/", stream.key);
        let node = graph.nodes.iter().position(|node| node.of == stream.key && node.label.starts_with(&label))?;
        let doubt = graph.known.get(&stream.key).map(|known| known.doubt.clone()).unwrap_or_default();
        let schema = graph.nodes[node].step.schema.clone();
        Some(Found { place: Place::Rows(Input::Node(node)), schema, doubt })
    }

    fn row(&mut self, row: &Node, found: &Found) -> Row {
        for entry in row.entries() {
            match found.schema.field_with_name(&entry.key) {
                Ok(field) if !fits(&entry.value, field.data_type()) && !found.doubt.covers(&entry.key) => {
                    let wanted = wanted(field.data_type());
                    let message = format!("the column `{}` holds {wanted}, and this is {}", entry.key, of(entry));
                    self.find(Finding::error(entry.mark(), "wrong-type", message));
                }
                Err(_) if !found.doubt.covers(&entry.key) => {
                    let names = found.schema.fields().iter().map(|field| field.name().as_str());
                    // The engine's columns can be expected, but are seldom what was meant.
                    self.no_column(entry, names.filter(|name| !name.starts_with('_')));
                }
                _ => {}
            }
        }
        row_of(row)
    }

    fn letter(&mut self, root: &Node, letter: &Node, graph: &Graph) -> Row {
        let (sources, requests) = (names_of(root, "sources"), names_of(root, "requests"));
        let asked = sources.iter().chain(&requests).map(|name| (*name).to_owned());
        let steps = graph.nodes.iter().map(|node| node.label.clone());
        let orders = sources.iter().flat_map(|name| ["order", "hold"].map(|part| format!("{name}/{part}")));
        let answers = names_of(root, "models").into_iter().map(|name| format!("{name}/answer"));
        let all_planned = graph.known.values().all(|known| known.doubt.is_none());
        let asked: Vec<String> = asked.collect();
        let steps: Vec<String> = asked.iter().cloned().chain(orders).chain(steps).chain(answers).collect();
        for (key, choices, is_known) in [("source", &asked, true), ("step", &steps, all_planned)] {
            let Some(node) = letter.get(key).filter(|_| is_known) else { continue };
            let Some(text) = node.text() else { continue };
            if !choices.iter().any(|choice| pattern::matches(text, choice)) {
                let message = format!("no dead letter can have the {key} `{text}`");
                self.find(Finding::error(node.span, "never-dead", message).choices(text, choices));
            }
        }
        row_of(letter)
    }
}

fn names_of<'a>(root: &'a Node, section: &str) -> Vec<&'a str> {
    section_of(root, section).iter().map(|entry| entry.key.as_str()).collect()
}

fn value_of(entry: &Entry) -> Value {
    entry.value.to_value(&Secrets::default())
}

fn row_of(row: &Node) -> Row {
    row.entries().iter().map(|entry| (entry.key.clone(), value_of(entry))).collect()
}

fn of(entry: &Entry) -> String {
    match &entry.value.data {
        Data::Text(text) => format!("`{text}`"),
        _ => entry.value.kind().to_owned(),
    }
}

/// Whether a column of this type can hold the value.
fn fits(value: &Node, kind: &DataType) -> bool {
    match &value.data {
        Data::Null => true,
        Data::Bool(_) => *kind == DataType::Boolean,
        Data::Number(_) => kind.is_numeric(),
        Data::Text(text) if kind.is_temporal() => timestamp::parse(text.as_bytes()).is_some(),
        Data::Text(_) => *kind != DataType::Boolean && !kind.is_numeric(),
        Data::Reference(_) | Data::List(_) | Data::Map(_) => false,
    }
}

fn wanted(kind: &DataType) -> &'static str {
    match kind {
        DataType::Boolean => "true or false",
        kind if kind.is_numeric() => "numbers",
        kind if kind.is_temporal() => "timestamps like 2026-01-31T12:30:00Z",
        _ => "text",
    }
}
