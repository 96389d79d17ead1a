//! Sources: what is read, and how it becomes columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_connectors::formats::Format;
use millstream_connectors::sources::{Content, PlannedSource};
use millstream_engine::batch::schema_of;

use super::{Checker, component, config, section_of};
use crate::definition::{Entry, Node, Span};
use crate::plan;
use crate::report::Finding;
use crate::shape::{self, ColumnType};

/// A source that may have failed, and its columns as far as they are known.
pub(super) type Tried = (Option<plan::Source>, Columns);

/// Columns and whether they are all that there are.
#[derive(Clone)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    pub(super) certain: bool,
}

impl Columns {
    fn unknown() -> Self {
        Self { schema: Arc::new(Schema::empty()), certain: false }
    }
}

impl Checker<'_> {
    pub(super) fn sources(&mut self, root: &Node) -> Vec<Tried> {
        section_of(root, "sources").iter().map(|entry| self.source(entry)).collect()
    }

    fn source(&mut self, entry: &Entry) -> Tried {
        let node = &entry.value;
        let planned = self.planned_source(node);
        let declared = self.declared(node);
        let columns = self.columns(entry, planned.as_ref(), declared);
        let format = self.format(entry, planned.as_ref(), node.entry("format"), &columns);
        let event_time = node.get("event_time").and_then(|event_time| {
            let column = event_time.entry("column")?;
            self.timestamp(column, &columns)
        });
        if let Some((topic, partitions)) = planned.as_ref().and_then(|planned| planned.topic.as_ref()) {
            self.topic(topic, *partitions, node.entry("from").map_or(entry.key_span, Entry::mark));
        }
        let shape: Option<shape::Source> = self.read(Some(node));
        let source = planned.zip(format).zip(shape).filter(|_| columns.certain).map(|((source, format), shape)| plan::Source {
            name: entry.key.clone(),
            source,
            columns: columns.schema.clone(),
            schema: schema_of(&columns.schema),
            format,
            event_time,
            lateness_ms: shape.event_time.map_or(0, |event_time| milliseconds(event_time.lateness_seconds)),
            idle_ms: milliseconds(shape.idle_seconds),
        });
        (source, columns)
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
        let mut fields = Vec::new();
        for entry in columns.entries() {
            if entry.key.starts_with('_') || entry.key.is_empty() {
                let message = format!("`{}` cannot be the name of a column", entry.key);
                self.find(Finding::error(entry.key_span, "reserved-name", message).help("names that start with `_` are the engine's"));
            }
            // A type that could not be read is some type: the name is still known.
            let kind = self.read(Some(&entry.value)).unwrap_or(ColumnType::Text);
            fields.push(Field::new(&entry.key, data_type(kind), true));
        }
        Some(Columns { schema: Arc::new(Schema::new(fields)), certain: columns.is_sound() })
    }

    /// The columns that a source has: its own, or those that are declared.
    pub(super) fn columns(&mut self, entry: &Entry, planned: Option<&PlannedSource>, declared: Option<Columns>) -> Columns {
        let at = |key: &str| entry.value.entry(key).map_or(entry.key_span, |entry| entry.key_span);
        let Some(planned) = planned else { return declared.map_or_else(Columns::unknown, |columns| Columns { certain: false, ..columns }) };
        match (&planned.content, declared) {
            (Content::Known(schema), None) => Columns { schema: schema.clone(), certain: true },
            (Content::Known(schema), Some(_)) => {
                let finding = Finding::error(at("columns"), "needless-columns", "this source knows its columns");
                self.find(finding.help("leave `columns` out"));
                Columns { schema: schema.clone(), certain: true }
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

    /// The format, where the source gives bytes. The outer option says whether all is well.
    pub(super) fn format(
        &mut self,
        entry: &Entry,
        planned: Option<&PlannedSource>,
        format: Option<&Entry>,
        columns: &Columns,
    ) -> Option<Option<Format>> {
        let bytes = match planned {
            Some(planned) => planned.content == Content::Bytes,
            None => format.is_some(),
        };
        match format {
            Some(format) if !bytes => {
                let finding = Finding::error(format.key_span, "needless-format", "this source gives rows, not bytes");
                self.find(finding.help("leave `format` out"));
                None
            }
            Some(format) => self.planned_format(format, columns).map(Some),
            None if bytes && planned.is_some() => {
                let span = entry.value.entry("from").map_or(entry.key_span, |from| from.key_span);
                let message = format!("`{}` needs the key `format`", entry.key);
                let names: Vec<&str> = self.catalogue.formats.iter().map(|kind| kind.name).collect();
                self.find(Finding::error(span, "missing-format", message).choices("", names));
                None
            }
            None => Some(None),
        }
    }

    pub(super) fn planned_format(&mut self, format: &Entry, columns: &Columns) -> Option<Format> {
        let (name, entry) = component(Some(format).filter(|format| format.value.is_sound())?)?;
        let kind = self.catalogue.formats.iter().find(|kind| kind.name == name)?;
        match (kind.plan)(&config(&entry, &self.secrets), &columns.schema) {
            Ok(format) => Some(format),
            Err(problems) => {
                let certain = columns.certain;
                let problems = problems.into_iter().filter(|problem| certain || !super::CONSEQUENCES.contains(&problem.code));
                self.problems(&entry, problems.collect());
                None
            }
        }
    }

    /// Looks up a timestamp column that `entry` names.
    pub(super) fn timestamp(&mut self, entry: &Entry, columns: &Columns) -> Option<usize> {
        let at = self.column(entry, columns)?;
        let field = columns.schema.field(at);
        if *field.data_type() != DataType::Timestamp(TimeUnit::Millisecond, None) {
            if columns.certain {
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
        if found.is_none() && columns.certain {
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

fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}
