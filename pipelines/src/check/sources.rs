//! Sources: what is read, and how it becomes columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use millstream_connectors::formats::Format;
use millstream_connectors::sources::{Content, PlannedSource};
use millstream_engine::batch::{as_event_time, schema_of};
use millstream_engine::time::milliseconds;
use serde_json::json;

use super::doubt::Doubt;
use super::{Checker, component, config, section_of};
use crate::definition::{Entry, Node, Span};
use crate::fingerprint;
use crate::plan;
use crate::report::Finding;
use crate::run::assemble::Topics;
use crate::run::receive::own_topic;
use crate::shape::{self, ColumnType};

/// A source that may have failed, and its columns as far as they are known.
pub(super) type Tried = (Option<plan::Source>, Columns);

/// What was wrong has been said.
pub(super) struct Failed;

/// Columns, as far as they are known.
#[derive(Clone)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    pub(super) doubt: Doubt,
}

impl Columns {
    /// Steps are told which of them is the event time.
    fn with_event_time(mut self, column: Option<usize>) -> Self {
        let marked = |(at, field): (usize, &FieldRef)| match column {
            Some(column) if column == at => Arc::new(as_event_time(field)),
            _ => field.clone(),
        };
        let fields: Vec<FieldRef> = self.schema.fields().iter().enumerate().map(marked).collect();
        self.schema = Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()));
        self
    }

    fn unknown() -> Self {
        Self { schema: Arc::new(Schema::empty()), doubt: Doubt::of_all() }
    }
}

impl Checker<'_> {
    pub(super) fn sources(&mut self, root: &Node) -> Vec<Tried> {
        let pipeline = root.get("name").and_then(Node::text).unwrap_or_default();
        section_of(root, "sources").iter().map(|entry| self.source(pipeline, entry)).collect()
    }

    fn source(&mut self, pipeline: &str, entry: &Entry) -> Tried {
        let node = &entry.value;
        let planned = self.planned_source(node).map(|planned| planned.in_topic(&own_topic(pipeline, &entry.key)));
        if let Some(planned) = &planned {
            self.received(pipeline, entry, planned);
        }
        let declared = self.declared(node);
        let columns = self.columns(entry, planned.as_ref(), declared);
        let format = self.format(entry, planned.as_ref(), node.entry("format"), &columns);
        let event_time = node.get("event_time").and_then(|event_time| {
            self.ahead(event_time, planned.as_ref());
            let column = event_time.entry("column")?;
            self.timestamp(column, &columns)
        });
        let required = self.required(node, &columns);
        let columns = columns.with_event_time(event_time);
        if let Some((topic, partitions)) = planned.as_ref().and_then(|planned| planned.topic.as_ref()) {
            self.topic(topic, *partitions, node.entry("from").map_or(entry.key_span, Entry::mark));
        }
        let shape: Option<shape::Source> = self.read(Some(node));
        let source =
            planned.zip(format.ok()).zip(shape).filter(|_| columns.doubt.is_none()).map(|((source, format), shape)| {
                // Whether a partition is idle is decided as records come, and recorded.
                let mut configuration = fingerprint::of_keys("source", node, &["idle_seconds"]);
                if let (Some(_), Some((topic, partitions))) = (&source.receiver, &source.topic) {
                    // How records come there is no matter; which topic it is, is, also where its name is the source's.
                    configuration = fingerprint::of_keys("received", node, &["idle_seconds", "from"])
                        + &fingerprint::of_topic(topic, *partitions);
                }
                let written = node.entry("format").and_then(component);
                plan::Source {
                    name: entry.key.clone(),
                    source,
                    columns: columns.schema.clone(),
                    schema: schema_of(&columns.schema),
                    format,
                    written_format: written.map(|(kind, entry)| json!({kind: config(&entry, &self.secrets)})),
                    required,
                    event_time,
                    lateness_ms: shape.event_time.as_ref().map_or(0, |time| milliseconds(time.lateness_seconds)),
                    corrections_ms: shape.event_time.as_ref().map_or(0, |time| milliseconds(time.corrections_seconds)),
                    ahead_ms: shape.event_time.as_ref().and_then(|time| time.ahead_seconds).map(milliseconds),
                    idle_ms: milliseconds(shape.idle_seconds),
                    configuration,
                }
            });
        (source, columns)
    }

    /// Only records of topics say when they came.
    fn ahead(&mut self, event_time: &Node, planned: Option<&PlannedSource>) {
        if let Some(entry) = event_time.entry("ahead_seconds")
            && planned.is_some_and(|planned| planned.topic.is_none())
        {
            let message = "the records of this source do not say when they came";
            let finding = Finding::error(entry.key_span, "no-timestamps", message);
            self.find(finding.help("leave `ahead_seconds` out: only what comes to a topic has a timestamp of its own"));
        }
    }

    /// What is received must not get among what the pipeline keeps for itself.
    fn received(&mut self, pipeline: &str, entry: &Entry, planned: &PlannedSource) {
        let own = Topics::of(pipeline);
        if let (Some(_), Some((topic, _))) = (&planned.receiver, &planned.topic)
            && own.of_runs().into_iter().chain([&own.replayed]).any(|own| own == topic)
        {
            let message = format!("the topic `{topic}` is the pipeline's own");
            let finding = Finding::error(entry.key_span, "own-topic", message);
            self.find(finding.help("give the source another name, or name its `topic`"));
        }
    }

    pub(super) fn planned_source(&mut self, node: &Node) -> Option<PlannedSource> {
        let (name, entry) = component(node.entry("from").filter(|from| from.value.is_sound())?)?;
        let kind = self.catalogue.sources.iter().find(|kind| kind.name == name)?;
        let planned = (kind.plan)(&config(&entry, &self.secrets));
        planned.map_err(|problems| self.problems(&entry, problems)).ok()
    }

    /// The columns that the definition declares, in its order; the flag says whether all could be read.
    pub(super) fn declared(&mut self, node: &Node) -> Option<Columns> {
        let columns = node.get("columns")?;
        let (mut fields, mut doubt) = (Vec::new(), Doubt::default());
        for entry in columns.entries() {
            if entry.key.starts_with('_') || entry.key.is_empty() {
                let message = format!("`{}` cannot be the name of a column", entry.key);
                self.find(
                    Finding::error(entry.key_span, "reserved-name", message)
                        .help("names that start with `_` are the engine's"),
                );
            }
            let kind = self.read(Some(&entry.value)).unwrap_or_else(|| {
                doubt.add(&entry.key);
                ColumnType::Text
            });
            fields.push(Field::new(&entry.key, data_type(kind), true));
        }
        if !columns.sound {
            doubt = Doubt::of_all();
        }
        Some(Columns { schema: Arc::new(Schema::new(fields)), doubt })
    }

    /// The columns that a source has: its own, or those that are declared.
    pub(super) fn columns(
        &mut self,
        entry: &Entry,
        planned: Option<&PlannedSource>,
        declared: Option<Columns>,
    ) -> Columns {
        let at = |key: &str| entry.value.entry(key).map_or(entry.key_span, |entry| entry.key_span);
        let Some(planned) = planned else {
            // The source may have columns of its own.
            return declared.unwrap_or_else(Columns::unknown);
        };
        match (&planned.content, declared) {
            (Content::Known(schema), None) => Columns { schema: schema.clone(), doubt: Doubt::default() },
            (Content::Known(schema), Some(_)) => {
                let finding = Finding::error(at("columns"), "needless-columns", "this source knows its columns");
                self.find(finding.help("leave `columns` out"));
                Columns { schema: schema.clone(), doubt: Doubt::default() }
            }
            (_, Some(columns)) if columns.schema.fields().is_empty() => {
                self.find(Finding::error(at("columns"), "missing-columns", "a source needs one column at least"));
                Columns::unknown()
            }
            (_, Some(columns)) => columns,
            (_, None) => {
                if entry.value.entry("columns").is_none() {
                    let message = format!("`{}` needs the key `columns`", entry.key);
                    let finding = Finding::error(at("from"), "missing-columns", message);
                    self.find(finding.help("declare what is read: `columns: {name: text, size: int, price: float, new: bool, at: timestamp}`"));
                }
                Columns::unknown()
            }
        }
    }

    /// The format, where the source gives bytes.
    pub(super) fn format(
        &mut self,
        entry: &Entry,
        planned: Option<&PlannedSource>,
        format: Option<&Entry>,
        columns: &Columns,
    ) -> Result<Option<Format>, Failed> {
        let Some(planned) = planned else {
            // Whether it is needed is not known; whether it is right is.
            return format.and_then(|format| self.planned_format(format, columns)).map(Some).ok_or(Failed);
        };
        match (format, planned.format, planned.content == Content::Bytes) {
            (Some(format), _, true) => self.planned_format(format, columns).map(Some).ok_or(Failed),
            (Some(format), _, false) => {
                let finding = Finding::error(format.key_span, "needless-format", "this source gives rows, not bytes");
                self.find(finding.help("leave `format` out"));
                Err(Failed)
            }
            (None, _, false) => Ok(None),
            (None, Some(name), true) => {
                // The source knows what its bytes are.
                let kind = self.catalogue.formats.iter().find(|kind| kind.name == name).ok_or(Failed)?;
                let planned = (kind.plan)(&json!({}), &columns.schema);
                planned.map(Some).map_err(|problems| {
                    self.own_problems(entry, &columns.doubt, problems);
                    Failed
                })
            }
            (None, None, true) => {
                let span = entry.value.entry("from").map_or(entry.key_span, |from| from.key_span);
                let message = format!("`{}` needs the key `format`", entry.key);
                let names: Vec<&str> = self.catalogue.formats.iter().map(|kind| kind.name).collect();
                self.find(Finding::error(span, "missing-format", message).choices("", names));
                Err(Failed)
            }
        }
    }

    pub(super) fn planned_format(&mut self, format: &Entry, columns: &Columns) -> Option<Format> {
        let (name, entry) = component(Some(format).filter(|format| format.value.is_sound())?)?;
        let kind = self.catalogue.formats.iter().find(|kind| kind.name == name)?;
        match (kind.plan)(&config(&entry, &self.secrets), &columns.schema) {
            Ok(format) => Some(format),
            Err(problems) => {
                self.own_problems(&entry, &columns.doubt, problems);
                None
            }
        }
    }

    /// The columns that every record must have.
    fn required(&mut self, node: &Node, columns: &Columns) -> Vec<usize> {
        let mut found = Vec::new();
        for item in node.get("required").map_or(&[][..], Node::items) {
            let Some(name) = item.text() else { continue };
            match columns.schema.index_of(name) {
                Ok(column) => found.push(column),
                Err(_) if !columns.doubt.covers(name) => self.unknown_column(item.span, name, columns),
                Err(_) => {}
            }
        }
        found
    }

    /// Looks up a timestamp column that `entry` names.
    pub(super) fn timestamp(&mut self, entry: &Entry, columns: &Columns) -> Option<usize> {
        let at = self.column(entry, columns)?;
        let field = columns.schema.field(at);
        if *field.data_type() != DataType::Timestamp(TimeUnit::Millisecond, None) {
            if !columns.doubt.covers(field.name()) {
                let message = format!("the column `{}` is no timestamp", field.name());
                let finding = Finding::error(entry.value.span, "not-a-timestamp", message);
                self.find(finding.help(format!("declare it as one: `{}: timestamp`", field.name())));
            }
            return None;
        }
        Some(at)
    }

    /// Looks up the column that `entry` names.
    pub(super) fn column(&mut self, entry: &Entry, columns: &Columns) -> Option<usize> {
        let name = entry.value.text()?;
        let found = columns.schema.index_of(name).ok();
        if found.is_none() && !columns.doubt.covers(name) {
            self.unknown_column(entry.value.span, name, columns);
        }
        found
    }

    fn unknown_column(&mut self, span: Span, name: &str, columns: &Columns) {
        let names: Vec<&String> = columns.schema.fields().iter().map(|field| field.name()).collect();
        let message = format!("there is no column `{name}` here");
        self.find(Finding::error(span, "unknown-column", message).choices(name, names));
    }
}

fn data_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Text => DataType::Utf8,
        ColumnType::Int => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
    }
}
