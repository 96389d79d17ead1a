//! `file`: rows in a file.

use std::fs::{File, OpenOptions, create_dir_all, read_dir, rename};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use millstream_engine::{Fault, Result};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::compute_leaves;
use parquet::basic::Compression;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::stdout::{LineFormat, lines};
use super::{PlannedSink, Sink, SinkKind, Written};
use crate::broker::Append;
use crate::formats::{Encoder, csv};

/// A file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it is, relative to the definition's folder; folders on the way are made.
    pub path: String,
    /// What it holds. Default: by its extension.
    #[serde(default, rename = "type")]
    pub kind: Type,
    /// Whether each row's origin and event time are written, too. Default: false.
    #[serde(default)]
    pub meta: bool,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// By extension: `.json`, `.jsonl`, `.ndjson`; `.csv`; `.parquet`.
    #[default]
    Auto,
    /// One JSON object on each line.
    Json,
    /// Comma-separated values, after a line with the columns' names.
    Csv,
    /// Parquet.
    Parquet,
}

/// The entry of `file`.
pub static KIND: SinkKind = Kind {
    name: "file",
    about: "Rows are appended to a file once their epoch is committed. After a crash those of the last epoch may come \
        again, and after a power failure those of the last seconds may be missing: write to a topic where each must be \
        there exactly once.\n\n\
        A Parquet file cannot be appended to, so a Parquet path becomes a folder of parts, `part-00000.parquet` and so \
        on, each whole at any time: the newest is replaced until it has 16384 rows.",
    schema: schema_of::<Config>,
    example: "{path: out/predictions.jsonl}",
    plan,
};

fn plan(value: &Value, schema: &SchemaRef) -> Planned<PlannedSink> {
    let Config { path, kind, meta } = configuration(value)?;
    let kind = kind.of(&path).ok_or_else(|| vec![unknown_type(&path)])?;
    let written = Written::new(schema, meta);
    let format = match kind {
        Type::Parquet => None,
        Type::Csv => Some(LineFormat::Csv.plan(&written)?),
        Type::Json | Type::Auto => Some(LineFormat::Json.plan(&written)?),
    };
    let header = (kind == Type::Csv).then(|| csv::header_line(&written.schema, b','));
    Ok(PlannedSink {
        topic: None,
        open: Box::new(move |folder: &PathBuf| {
            let path = folder.join(&path);
            let written = written.clone();
            Ok(match &format {
                Some(format) => Box::new(Lines {
                    file: append_to(&path, header.as_deref())?,
                    path,
                    written,
                    encoder: (format.encoder)(),
                }) as Box<dyn Sink>,
                None => Box::new(Parts::open(path, written)?),
            })
        }),
    })
}

impl Type {
    /// What a path says by its extension, where the type is not given.
    fn of(self, path: &str) -> Option<Self> {
        match (self, Path::new(path).extension().and_then(|extension| extension.to_str())) {
            (Self::Auto, Some("json" | "jsonl" | "ndjson")) => Some(Self::Json),
            (Self::Auto, Some("csv")) => Some(Self::Csv),
            (Self::Auto, Some("parquet")) => Some(Self::Parquet),
            (Self::Auto, _) => None,
            (given, _) => Some(given),
        }
    }
}

fn unknown_type(path: &str) -> Problem {
    Problem::new("type", "unknown-type", format!("the extension of `{path}` does not say what to write"))
        .help("add `type: json`, `csv` or `parquet`")
}

/// Appends lines.
struct Lines {
    path: PathBuf,
    file: File,
    written: Written,
    encoder: Box<dyn Encoder>,
}

impl Sink for Lines {
    fn prepare(&mut self, _: &RecordBatch) -> Result<Option<Append>> {
        Ok(None)
    }

    fn committed(&mut self, rows: &RecordBatch) -> Result<()> {
        let lines = lines(&self.encoder.encode(&self.written.of(rows)?)?);
        self.file.write_all(&lines).map_err(|error| unwritable(&self.path, error))
    }
}

/// Opens a file for appending. A new one starts with the header; a last line that was cut off gets an end, so that it
/// spoils no other.
fn append_to(path: &Path, header: Option<&[u8]>) -> Result<File> {
    let open = || {
        if let Some(folder) = path.parent() {
            create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        } else if let Some(header) = header {
            file.write_all(&[header, b"\n"].concat())?;
        }
        Ok(file)
    };
    open().map_err(|error: std::io::Error| unwritable(path, error))
}

/// Rows of a part.
const PART_ROWS: usize = 16_384;
/// So many rows make a row group that stays as it is: when its part is written anew, its bytes are copied. Fewer are kept, and
/// encoded again with those that follow.
const GROUP_ROWS: usize = 2048;

/// Writes Parquet parts.
struct Parts {
    folder: PathBuf,
    written: Written,
    properties: WriterProperties,
    /// Number of the newest part.
    number: u64,
    /// Its first row groups, as far as they stay.
    groups: Option<Groups>,
    /// Its other rows.
    rows: RecordBatch,
}

/// The first row groups of a part that was written.
struct Groups {
    file: File,
    metadata: ParquetMetaData,
    count: usize,
    rows: usize,
}

impl Parts {
    fn open(folder: PathBuf, written: Written) -> Result<Self> {
        let newest = || {
            create_dir_all(&folder)?;
            let mut newest = None;
            for entry in read_dir(&folder)? {
                newest = newest.max(part_number(&entry?.file_name().to_string_lossy()));
            }
            Ok(newest)
        };
        let newest: Option<u64> = newest().map_err(|error: std::io::Error| unwritable(&folder, error))?;
        let rows = RecordBatch::new_empty(written.schema.clone());
        let (number, properties) = (newest.map_or(0, |number| number + 1), properties(&written.schema));
        Ok(Self { number, folder, written, properties, groups: None, rows })
    }

    fn write(&mut self) -> Result<()> {
        let part = self.folder.join(format!("part-{:05}.parquet", self.number));
        let unfinished = part.with_extension("unfinished");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&unfinished);
        let file = file.map_err(|error| unwritable(&unfinished, error))?;
        let metadata = self.encode(&file).map_err(|error| unwritable(&unfinished, error))?;
        rename(&unfinished, &part).map_err(|error| unwritable(&part, error))?;
        let (count, before) = self.groups.as_ref().map_or((0, 0), |groups| (groups.count, groups.rows));
        let rows = before + self.rows.num_rows();
        if rows >= PART_ROWS {
            self.number += 1;
            self.groups = None;
        } else if self.rows.num_rows() >= GROUP_ROWS {
            self.groups = Some(Groups { file, metadata, count: count + 1, rows });
        } else {
            return Ok(());
        }
        self.rows = RecordBatch::new_empty(self.written.schema.clone());
        Ok(())
    }

    /// The row groups that stay, and one of the other rows.
    fn encode(&self, file: &File) -> Result<ParquetMetaData, ParquetError> {
        let writer = ArrowWriter::try_new(file.try_clone()?, self.rows.schema(), Some(self.properties.clone()))?;
        let (mut writer, encoders) = writer.into_serialized_writer()?;
        let count = self.groups.as_ref().map_or(0, |groups| groups.count);
        for (groups, group) in self
            .groups
            .iter()
            .flat_map(|groups| groups.metadata.row_groups()[..groups.count].iter().map(move |group| (groups, group)))
        {
            let mut copy = writer.next_row_group()?;
            for column in group.columns() {
                copy.append_column(&groups.file, as_written(column, group.num_rows()))?;
            }
            copy.close()?;
        }
        let mut encoders = encoders.create_column_writers(count)?;
        let schema = self.rows.schema();
        for ((encoder, field), column) in encoders.iter_mut().zip(schema.fields()).zip(self.rows.columns()) {
            for leaf in compute_leaves(field, column)? {
                encoder.write(&leaf)?;
            }
        }
        let mut group = writer.next_row_group()?;
        for encoder in encoders {
            encoder.close()?.append_to_row_group(&mut group)?;
        }
        group.close()?;
        writer.close()
    }
}

/// What there is to know of a column's bytes to write them once more.
fn as_written(column: &ColumnChunkMetaData, rows: i64) -> ColumnCloseResult {
    ColumnCloseResult {
        bytes_written: column.compressed_size() as u64,
        rows_written: rows as u64,
        metadata: column.clone(),
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    }
}

/// Floats hardly ever repeat: no dictionary of them pays.
fn properties(schema: &SchemaRef) -> WriterProperties {
    let floats = schema.fields().iter().filter(|field| field.data_type().is_floating());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    floats
        .fold(properties, |properties, field| {
            properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false)
        })
        .build()
}

fn part_number(name: &str) -> Option<u64> {
    name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()
}

impl Sink for Parts {
    fn prepare(&mut self, _: &RecordBatch) -> Result<Option<Append>> {
        Ok(None)
    }

    fn committed(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = self.written.of(rows)?;
        self.rows =
            if self.rows.num_rows() == 0 { rows } else { concat_batches(&self.written.schema, [&self.rows, &rows])? };
        self.write()
    }
}

fn unwritable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::world(format!("cannot write {}", path.display())).because(error)
}
