//! What is in a file or a source, and a first draft of a definition for it.
//!
//! ```text
//! file ─► names ─► all as text ─► what it might be ─► typed ─► profile, order in time, what repeats ─► draft
//! ```
//! A file is read twice: once to see what its columns are, and once as those.

mod decide;
mod propose;
mod read;
mod repeats;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMillisecondType};
use millstream_connectors::broker::Broker;
use millstream_connectors::formats;
use millstream_engine::source::{Decoder, Position, Source};
use millstream_engine::{Fault, Result};
use millstream_operators::profile::{Profile, Report};
use serde::Serialize;
use serde_json::Value;

use crate::plan::Pipeline;
use crate::run::assemble;
use decide::Decided;
use read::{Content, Opened};
use repeats::Repeats;

/// What was found.
#[derive(Serialize)]
pub struct Profiled {
    /// The columns.
    #[serde(flatten)]
    pub report: Report,
    /// Records that could not be read, and why the first could not.
    pub unread: u64,
    /// Why the first of them could not be read.
    pub unread_because: Option<String>,
    /// For each column of timestamps: by how many seconds a row is older than one before it in its partition, at most.
    pub lateness_seconds: Vec<(String, f64)>,
    /// The share of rows that are equal in every column to one before them, estimated.
    pub repeated_share: f64,
    /// Columns that together tell rows apart, as far as repeated rows are left out; none if no few do.
    pub key: Vec<String>,
    #[serde(skip)]
    draft: Option<Draft>,
}

/// What a draft is made of besides.
struct Draft {
    content: Content,
    columns: Vec<Decided>,
    path: std::path::PathBuf,
}

impl Profiled {
    /// The table, and what else there is to say.
    pub fn text(&self) -> String {
        let mut text = self.report.table();
        let mut say = |line: String| text.push_str(&(line + "\n"));
        say(String::new());
        if let Some(why) = &self.unread_because {
            say(format!("{} records cannot be read; the first: {why}", self.unread));
        }
        for (name, seconds) in &self.lateness_seconds {
            say(match seconds {
                0.0 => format!("`{name}` never goes back in time"),
                seconds => format!("`{name}` goes back in time by {seconds} seconds at most"),
            });
        }
        if self.repeated_share > 0.0 {
            say(format!("{:.2} % of the rows repeat an earlier one", self.repeated_share * 100.0));
        }
        text
    }

    /// A definition to begin with, for a file; `folder` is where it will lie.
    pub fn draft(&self, folder: &Path) -> Option<String> {
        self.draft.as_ref().map(|draft| propose::definition(self, draft, folder))
    }
}

/// Profiles a file, of the kind that its name says.
pub fn file(path: &Path) -> Result<Profiled> {
    let first = Opened::file(path, None)?;
    let content = first.content()?;
    let (as_text, broken) = content.as_text(&first)?;
    let columns = decide::columns(&content, &as_text.report(), &broken);
    let declared = decide::schema(&columns);
    let decoder = match content.format(&columns) {
        Some(format) => {
            formats::plan(&format, &declared)
                .map_err(|problems| Fault::ours(format!("the format that was found is none: {}", problems[0].message)))?
                .decoder
        }
        None => formats::rows_decoder(declared.clone()),
    };
    let decoder = formats::limited(decoder, assemble::RECORD_BYTES_MAX)();
    let mut profiled = typed(&Opened::file(path, Some(content.file_type()))?, decoder, &declared)?;
    profiled.draft = Some(Draft { content, columns, path: path.to_owned() });
    Ok(profiled)
}

/// What a file's records are, if they are not rows.
pub(crate) enum FileFormat {
    /// Lines below one of names, and what separates the values.
    Csv(char),
    /// JSON, one object a record.
    Json,
}

/// A file as a source: its records are rows, or of this format.
pub(crate) fn source_of_file(path: &Path) -> Result<(Arc<dyn Source>, Option<FileFormat>)> {
    let content = Opened::file(path, None)?.content()?;
    let source = Opened::file(path, Some(content.file_type()))?.source();
    let format = match content {
        Content::Csv { delimiter, .. } => Some(FileFormat::Csv(delimiter)),
        Content::Json => Some(FileFormat::Json),
        Content::Rows(_) => None,
    };
    Ok((source, format))
}

/// Profiles what the topic or the file of a pipeline's source holds now.
pub fn source(pipeline: &Pipeline, name: &str, broker: Arc<dyn Broker>) -> Result<Profiled> {
    let source = pipeline.sources.iter().find(|source| source.name == name).ok_or_else(|| {
        let names: Vec<&str> = pipeline.sources.iter().map(|source| source.name.as_str()).collect();
        Fault::definition(format!("there is no source `{name}`; there are {}", names.join(", ")))
    })?;
    let mut first: Option<Vec<Position>> = None;
    if let Some((topic, _)) = &source.source.topic {
        let found = broker.topic(topic)?;
        let found = found.ok_or_else(|| {
            Fault::definition(format!("the topic `{topic}` is not there yet: run the pipeline first"))
        })?;
        let position = |(partition, (offset, _)): (u32, &(u64, u64))| Position { partition, offset: *offset };
        first = Some((0..).zip(&found.partitions).map(position).collect());
    }
    let world = assemble::world(pipeline, broker);
    let opened = Opened::of((source.source.open)(&world)?, first)?;
    let decoder = formats::limited(assemble::decoder(source), world.max_record_bytes)();
    typed(&opened, decoder, &source.columns)
}

/// Reads everything as declared.
fn typed(opened: &Opened, mut decoder: Box<dyn Decoder>, schema: &SchemaRef) -> Result<Profiled> {
    let mut profile = Profile::new(schema);
    let mut repeats = Repeats::new(schema);
    let mut lateness = Lateness::new(schema);
    let (mut unread, mut because) = (0, None);
    opened.each(|raw| {
        let found = decoder.decode(&raw)?;
        unread += found.rejects.len() as u64;
        if because.is_none() {
            because = found.rejects.into_iter().next().map(|(record, why)| {
                format!("at {} of partition {}: {why}", raw.offsets[record as usize], raw.partition)
            });
        }
        profile.add_all(&found.rows)?;
        repeats.add(&found.rows)?;
        lateness.add(raw.partition, &found.rows);
        Ok(())
    })?;
    let (key, repeated_share) = repeats.found();
    Ok(Profiled {
        report: profile.report(),
        unread,
        unread_because: because,
        lateness_seconds: lateness.seconds(schema),
        repeated_share,
        key,
        draft: None,
    })
}

/// How far columns of timestamps go back.
struct Lateness {
    /// Of each such column: its place, the newest in the partition, and the furthest that one was behind.
    columns: Vec<(usize, i64, i64)>,
    partition: Option<u32>,
}

impl Lateness {
    fn new(schema: &Schema) -> Self {
        let is_time = |at: &usize| matches!(schema.field(*at).data_type(), DataType::Timestamp(..));
        let columns = (0..schema.fields().len()).filter(is_time).map(|at| (at, i64::MIN, 0)).collect();
        Self { columns, partition: None }
    }

    fn add(&mut self, partition: u32, rows: &RecordBatch) {
        let is_new = self.partition.replace(partition) != Some(partition);
        for (at, newest, behind) in &mut self.columns {
            if is_new {
                *newest = i64::MIN;
            }
            for time in rows.column(*at).as_primitive::<TimestampMillisecondType>().iter().flatten() {
                *newest = time.max(*newest);
                *behind = newest.saturating_sub(time).max(*behind);
            }
        }
    }

    fn seconds(&self, schema: &Schema) -> Vec<(String, f64)> {
        let name = |(at, _, behind): &(usize, i64, i64)| (schema.field(*at).name().clone(), *behind as f64 / 1000.0);
        self.columns.iter().map(name).collect()
    }
}

/// A column's value of a configuration.
fn json_list(items: &[String]) -> Value {
    items.iter().cloned().map(Value::String).collect()
}
