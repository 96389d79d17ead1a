//! `stdout`: rows as lines on the standard output.

use std::io::{self, Write};
use std::path::PathBuf;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PlannedSink, Sink, SinkKind, Written};
use crate::broker::Append;
use crate::formats::{self, Encoder};

/// The standard output.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How rows are written. Default: `json`.
    pub format: LineFormat,
    /// Whether each row's origin and event time are written, too. Default: false.
    pub meta: bool,
}

/// The formats that make lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// One JSON object on each line.
    #[default]
    Json,
    /// Comma-separated values; those with line breaks are quoted.
    Csv,
}

impl LineFormat {
    pub(super) fn plan(self, written: &Written) -> Planned<formats::Format> {
        let name = match self {
            Self::Json => "json",
            Self::Csv => "csv",
        };
        formats::plan(&json!(name), &written.schema)
    }
}

/// The entry of `stdout`.
pub static KIND: SinkKind = Kind {
    name: "stdout",
    about: "One line for each row on the standard output, once its epoch is committed. After a crash, the rows of the \
        last epoch may be missing or come again.",
    schema: schema_of::<Config>,
    example: "{format: csv}",
    plan,
};

fn plan(value: &Value, schema: &SchemaRef) -> Planned<PlannedSink> {
    let config: Config = configuration(value)?;
    let written = Written::new(schema, config.meta);
    let format = config.format.plan(&written)?;
    Ok(PlannedSink {
        topic: None,
        open: Box::new(move |_: &PathBuf| {
            Ok(Box::new(Lines { written: written.clone(), encoder: (format.encoder)() }) as Box<dyn Sink>)
        }),
    })
}

struct Lines {
    written: Written,
    encoder: Box<dyn Encoder>,
}

impl Sink for Lines {
    fn prepare(&mut self, _: &RecordBatch) -> Result<Option<Append>> {
        Ok(None)
    }

    fn committed(&mut self, rows: &RecordBatch) -> Result<()> {
        let lines = lines(&self.encoder.encode(&self.written.of(rows)?)?);
        let mut out = io::stdout().lock();
        let done = out.write_all(&lines).and_then(|()| out.flush());
        done.map_err(|error| Fault::world("cannot write to the standard output").because(error))
    }
}

/// Records with line feeds behind them.
pub(super) fn lines(records: &BinaryArray) -> Vec<u8> {
    let mut lines = Vec::with_capacity(records.value_data().len() + records.iter().len());
    for record in records.iter().flatten() {
        lines.extend_from_slice(record);
        lines.push(b'\n');
    }
    lines
}
