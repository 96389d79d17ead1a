//! `file`: records of files.

mod lines;
mod parquet;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Position, Reader, Source};
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Content, PlannedSource, SourceKind, World};

/// Files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where they are: a path, relative to the definition's folder, that may hold `*`, `?`, `[...]` and `**`.
    pub path: String,
    /// What is in them. Default: by the path's extension, before `.gz` or `.zst`.
    #[serde(default, rename = "type")]
    pub kind: Type,
    /// Whether CSV files start with a line of names. It tells the order of each file's columns, if it names any declared
    /// one; else it is skipped. Default: true.
    #[serde(default = "yes")]
    pub header: bool,
}

fn yes() -> bool {
    true
}

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// By extension: `.json`, `.jsonl`, `.ndjson`; `.csv`, `.tsv`; `.parquet`.
    #[default]
    Auto,
    /// One JSON object, or any other text, on each line.
    Json,
    /// Comma-separated values; quoted ones may hold line breaks.
    Csv,
    /// Parquet.
    Parquet,
}

impl Type {
    /// What a path says by its extension; the compression's comes after it.
    fn of(self, path: &str) -> Option<Self> {
        if self != Self::Auto {
            return Some(self);
        }
        let path = Path::new(path);
        let inner = if Compression::of(path) == Compression::None { path } else { Path::new(path.file_stem()?) };
        match inner.extension()?.to_str()? {
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "csv" | "tsv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// The problem of a path whose extension does not tell its type.
fn unknown_type(path: &str) -> Problem {
    Problem::new("type", "unknown-type", format!("the extension of `{path}` does not say what the file holds"))
        .help("add `type: json`, `csv` or `parquet`")
}

/// How a file is compressed: by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The entry of `file`.
pub static KIND: SourceKind = Kind {
    name: "file",
    about: "The records of files: lines of JSON or CSV, or rows of Parquet.\n\n\
        Each file is a partition, numbered in the order of their paths, which are looked up once, at the start: to a \
        run that goes on later, add only files that come after the others. They are read one after the other, so name \
        them in the order of time. Offsets count the lines (or CSV records, or rows) from 0, without the header. Blank \
        lines are skipped, and so are a byte order mark and the CR of CRLF. Of a line beyond the largest record that \
        is taken only the beginning is kept, and it becomes a dead letter; an unclosed quote in CSV swallows no more than \
        that, either. `.gz` and `.zst` are unpacked as they are read.\n\n\
        Records from files carry the timestamp 0: name a column as `event_time`.",
    schema: schema_of::<Config>,
    example: "{path: data/flights-*.csv.gz}",
    plan,
};

fn plan(value: &Value) -> Planned<PlannedSource> {
    let mut config: Config = configuration(value)?;
    if let Err(error) = glob::Pattern::new(&config.path) {
        return Err(vec![Problem::new("path", "bad-pattern", format!("`{}`: {}", config.path, error.msg))]);
    }
    config.kind = config.kind.of(&config.path).ok_or_else(|| vec![unknown_type(&config.path)])?;
    let content = if config.kind == Type::Parquet { Content::Rows } else { Content::Bytes };
    let format = match config.kind {
        Type::Json => Some("json"),
        Type::Csv => Some("csv"),
        Type::Auto | Type::Parquet => None,
    };
    Ok(PlannedSource {
        content,
        format,
        topic: None,
        receiver: None,
        open: Box::new(move |world: &World| Ok(Arc::new(Files::find(&config, world)?) as Arc<dyn Source>)),
    })
}

/// Files that were found.
struct Files {
    paths: Vec<PathBuf>,
    kind: Type,
    header: bool,
    max_record_bytes: usize,
}

impl Files {
    fn find(config: &Config, world: &World) -> Result<Self> {
        // Only the part from the definition is a pattern; the folder may hold any characters.
        let folder = glob::Pattern::escape(&world.folder.to_string_lossy());
        let pattern = Path::new(&folder).join(&config.path).to_string_lossy().into_owned();
        let found = glob::glob(&pattern).map_err(|error| Fault::definition(format!("`{pattern}`")).because(error))?;
        let mut paths = found
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Fault::world(format!("cannot look for {pattern}")).because(error))?;
        paths.retain(|path| path.is_file());
        paths.sort();
        if paths.is_empty() {
            return Err(Fault::world(format!("there is no file {}", world.folder.join(&config.path).display())));
        }
        let Config { kind, header, .. } = *config;
        Ok(Self { paths, kind, header, max_record_bytes: world.max_record_bytes })
    }
}

impl Source for Files {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok((0..self.paths.len() as u32).collect())
    }

    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        let mut files = Vec::with_capacity(from.len());
        for position in from {
            let path = self.paths.get(position.partition as usize);
            let path = path.ok_or_else(|| Fault::world(format!("file {} is no longer there", position.partition)))?;
            files.push((*position, path.clone()));
        }
        // The last one is read first.
        files.sort_by_key(|(position, _)| std::cmp::Reverse(*position));
        let Self { kind, header, max_record_bytes, .. } = *self;
        Ok(Box::new(FilesReader { ahead: files, current: None, done: Vec::new(), kind, header, max_record_bytes }))
    }

    fn is_finite(&self) -> bool {
        true
    }

    fn fingerprint(&self) -> Result<String> {
        let one = |path: &PathBuf| {
            let known = path.metadata().and_then(|known| Ok((known.len(), known.modified()?)));
            let (bytes, changed) =
                known.map_err(|error| Fault::world(format!("cannot read {}", path.display())).because(error))?;
            Ok(format!("{} {bytes} {changed:?}\n", path.display()))
        };
        self.paths.iter().map(one).collect()
    }

    fn header(&self, partition: u32) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.paths.get(partition as usize).filter(|_| self.kind == Type::Csv && self.header) else {
            return Ok(None);
        };
        let start = Position { partition, offset: 0 };
        let header = lines::open(path, start, lines::Csv::new(true), self.max_record_bytes)?.into_header();
        Ok(Some(header).filter(|header| !header.is_empty()))
    }
}

/// Reads one file.
trait FileReader: Send {
    /// The next records, about `max_bytes` of them; `None` at the end.
    fn read(&mut self, max_bytes: usize) -> Result<Option<RawBatch>>;

    /// The offset after the last record, as far as known.
    fn end(&self) -> u64;
}

/// Reads files one after the other, so that only one is open.
struct FilesReader {
    ahead: Vec<(Position, PathBuf)>,
    current: Option<(u32, Box<dyn FileReader>)>,
    done: Vec<Position>,
    kind: Type,
    header: bool,
    max_record_bytes: usize,
}

impl FilesReader {
    fn start(&self, position: Position, path: &Path) -> Result<Box<dyn FileReader>> {
        Ok(match self.kind {
            Type::Parquet => Box::new(parquet::RowsReader::open(path, position)?),
            Type::Csv => Box::new(lines::open(path, position, lines::Csv::new(self.header), self.max_record_bytes)?),
            Type::Json | Type::Auto => Box::new(lines::open(path, position, lines::Plain, self.max_record_bytes)?),
        })
    }
}

impl Reader for FilesReader {
    fn read(&mut self, max_bytes: usize, _wait: Duration) -> Result<Option<RawBatch>> {
        loop {
            if let Some((partition, file)) = &mut self.current {
                if let Some(records) = file.read(max_bytes)? {
                    return Ok(Some(records));
                }
                self.done.push(Position { partition: *partition, offset: file.end() });
                self.current = None;
            }
            let Some((position, path)) = self.ahead.pop() else { return Ok(None) };
            self.current = Some((position.partition, self.start(position, &path)?));
        }
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        let mut ends = self.done.clone();
        ends.extend(
            self.current.iter().map(|(partition, file)| Position { partition: *partition, offset: file.end() }),
        );
        ends.extend(self.ahead.iter().map(|(position, _)| *position));
        ends.sort();
        Ok(ends)
    }
}

/// The outside world's fault, at a file.
fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::world(format!("cannot read {}", path.display())).because(error)
}
