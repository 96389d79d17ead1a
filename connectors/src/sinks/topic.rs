//! `topic`: rows as records of a topic, in the transaction that commits their epoch.

use std::path::PathBuf;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::Meta;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, column, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedSink, Sink, SinkKind, Written};
use crate::broker::{Append, Message, check_partitions, check_topic_name};
use crate::formats::{self, Encoder};

/// A topic.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// How many partitions it gets where it has to be created. Default: 1.
    #[serde(default = "one")]
    pub partitions: u32,
    /// How rows are written: `json`, or `{json: {...}}`. Default: `json`.
    #[serde(default = "json")]
    pub format: Value,
    /// The column whose value, as text, is the record's key, which decides its partition. Default: none.
    pub key: Option<String>,
    /// Whether each row's origin and event time are written, too. Default: false.
    #[serde(default)]
    pub meta: bool,
}

fn one() -> u32 {
    1
}

fn json() -> Value {
    "json".into()
}

/// The entry of `topic`.
pub static KIND: SinkKind = Kind {
    name: "topic",
    about: "One record for each row, exactly once: in the transaction that commits the row's epoch. The record's \
        timestamp is the row's event time.",
    schema: schema_of::<Config>,
    example: "{name: scores, partitions: 4, format: {json: {nulls: omit}}}",
    plan,
};

fn plan(value: &Value, schema: &SchemaRef) -> Planned<PlannedSink> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    problems.take(check_topic_name(&config.name).map_err(|message| Problem::new("name", "bad-topic-name", message)));
    problems
        .take(check_partitions(config.partitions).map_err(|message| Problem::new("partitions", "bad-value", message)));
    let key = config.key.as_deref().and_then(|name| problems.take(key(schema, name)));
    let written = Written::new(schema, config.meta);
    let format = problems.take_all(
        formats::plan(&config.format, &written.schema)
            .map_err(|problems| problems.into_iter().map(|problem| problem.under("format")).collect()),
    );
    problems.finish()?;
    let Some(format) = format else { return Err(Vec::new()) };
    let topic = config.name.clone();
    Ok(PlannedSink {
        topic: Some((config.name, config.partitions)),
        open: Box::new(move |_: &PathBuf| {
            let (topic, written, encoder) = (topic.clone(), written.clone(), (format.encoder)());
            Ok(Box::new(TopicSink { topic, written, key, encoder }) as Box<dyn Sink>)
        }),
    })
}

/// The key's column, if it can be written as text.
fn key(schema: &SchemaRef, name: &str) -> Result<usize, Problem> {
    let at = column(schema, "key", name)?;
    let kind = schema.field(at).data_type();
    if arrow::compute::can_cast_types(kind, &DataType::Utf8) && !kind.is_nested() {
        return Ok(at);
    }
    Err(Problem::new("key", "bad-column", format!("column `{name}` of type {kind} cannot be a key")))
}

struct TopicSink {
    topic: String,
    written: Written,
    key: Option<usize>,
    encoder: Box<dyn Encoder>,
}

impl Sink for TopicSink {
    fn prepare(&mut self, rows: &RecordBatch) -> Result<Option<Append>> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let values = self.encoder.encode(&self.written.of(rows)?)?;
        let keys = self.key.map(|at| cast(rows.column(at), &DataType::Utf8)).transpose()?;
        let keys = keys.as_ref().map(AsArray::as_string::<i32>);
        let time = Meta::of(rows).time;
        let message = |row: usize| Message {
            key: keys.filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row).as_bytes().to_vec()),
            value: value(&values, row),
            timestamp_ms: time[row],
            ..Message::default()
        };
        Ok(Some(Append { topic: self.topic.clone(), messages: (0..rows.num_rows()).map(message).collect() }))
    }

    fn committed(&mut self, _: &RecordBatch) -> Result<()> {
        Ok(())
    }
}

fn value(values: &BinaryArray, row: usize) -> Option<Vec<u8>> {
    values.is_valid(row).then(|| values.value(row).to_vec())
}
