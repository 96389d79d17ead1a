//! Reading a file of which nothing is known but its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connectors::broker::Broker;
use millstream_connectors::broker::simulated::Simulated;
use millstream_connectors::formats;
use millstream_connectors::sources::{KINDS, World};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Position, Source};
use millstream_engine::{Fault, Result};
use millstream_operators::profile::Profile;
use serde_json::{Value, json};

use super::decide::Decided;
use super::json_list;
use crate::run::assemble::RECORD_BYTES_MAX;

/// So many bytes are read at a time.
const READ_BYTES: usize = 1 << 20;
/// More keys of JSON objects than this are left out.
const KEYS_MAX: usize = 500;

/// What may separate the values of CSV.
const DELIMITERS: [char; 4] = [',', ';', '\t', '|'];

/// A source and where to begin.
pub(super) struct Opened {
    source: Arc<dyn Source>,
    from: Vec<Position>,
    /// What its bytes are, if it says so.
    format: Option<&'static str>,
}

impl Opened {
    pub(super) fn of(source: Arc<dyn Source>, from: Option<Vec<Position>>) -> Result<Self> {
        let start = |partition| Position { partition, offset: 0 };
        let from = match from {
            Some(from) => from,
            None => source.partitions()?.into_iter().map(start).collect(),
        };
        Ok(Self { source, from, format: None })
    }

    /// A file; CSV of type `csv` has a line of names, which is skipped, and other CSV is read from its first line.
    pub(super) fn file(path: &Path, kind: Option<&str>) -> Result<Self> {
        let file = KINDS.iter().find(|kind| kind.name == "file").expect("there are files");
        let mut config = json!({"path": pattern_of(&absolute(path)?), "header": kind.is_some()});
        if let Some(kind) = kind {
            config["type"] = json!(kind);
        }
        let planned = (file.plan)(&config).map_err(|problems| {
            let help = problems[0].help.clone().map_or_else(String::new, |help| format!("; {help}"));
            Fault::definition(format!("{}{help}", problems[0].message))
        })?;
        // Nothing is read from it.
        let broker: Arc<dyn Broker> = Arc::new(Simulated::new());
        let world = World { broker, folder: PathBuf::from("/"), max_record_bytes: RECORD_BYTES_MAX };
        Ok(Self { format: planned.format, ..Self::of((planned.open)(&world)?, None)? })
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    /// All records that there are.
    pub(super) fn each(&self, mut take: impl FnMut(RawBatch) -> Result<()>) -> Result<()> {
        let mut reader = self.source.open(&self.from)?;
        while let Some(raw) = reader.read(READ_BYTES, Duration::from_millis(500))? {
            take(raw)?;
        }
        Ok(())
    }

    fn first(&self) -> Result<Option<RawBatch>> {
        self.source.open(&self.from)?.read(READ_BYTES, Duration::from_millis(500))
    }

    /// What the file holds, by its first records.
    pub(super) fn content(&self) -> Result<Content> {
        let Some(raw) = self.first()? else { return Err(Fault::definition("the file is empty")) };
        match &raw.payload {
            Payload::Rows(rows) => Ok(Content::Rows(rows.schema())),
            Payload::Bytes(values) => {
                if self.format == Some("json") {
                    return Ok(Content::Json);
                }
                let line = String::from_utf8_lossy(values.value(0)).into_owned();
                let count = |delimiter: &char| line.matches(*delimiter).count();
                let delimiter = DELIMITERS.into_iter().rev().max_by_key(count).unwrap_or(',');
                Ok(Content::Csv { delimiter, names: split(line.trim_end(), delimiter) })
            }
        }
    }
}

/// What a file holds.
pub(super) enum Content {
    Csv { delimiter: char, names: Vec<String> },
    Json,
    Rows(SchemaRef),
}

/// How many values of a JSON key are not text, as which they are profiled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    pub(super) texts: u64,
    pub(super) others: u64,
}

impl Content {
    /// As the source `file` calls it.
    pub(super) fn file_type(&self) -> &'static str {
        match self {
            Self::Csv { .. } => "csv",
            Self::Json => "json",
            Self::Rows(_) => "parquet",
        }
    }

    /// The format that reads these columns; rows need none.
    pub(super) fn format(&self, columns: &[Decided]) -> Option<Value> {
        let in_seconds = columns.iter().any(|column| column.in_seconds);
        let mut config = serde_json::Map::new();
        if in_seconds {
            config.insert("timestamps".to_owned(), json!("s"));
        }
        match self {
            Self::Rows(_) => None,
            Self::Json => Some(json!({"json": config})),
            Self::Csv { delimiter, names } => {
                if *delimiter != ',' {
                    config.insert("delimiter".to_owned(), json!(delimiter));
                }
                let words: BTreeSet<String> = columns.iter().flat_map(|column| column.missing_words.clone()).collect();
                let mut missing = ["", "NA"].map(str::to_owned).to_vec();
                missing.extend(words.into_iter().filter(|word| word != "NA"));
                config.insert("missing".to_owned(), json_list(&missing));
                if names.len() != columns.len() {
                    config.insert("header".to_owned(), json_list(&distinct_names(names)));
                }
                Some(json!({"csv": config}))
            }
        }
    }

    /// A profile of all columns as text, and for JSON how many values were none.
    pub(super) fn as_text(&self, opened: &Opened) -> Result<(Profile, BTreeMap<String, Kinds>)> {
        match self {
            Self::Rows(schema) => Ok((Profile::new(schema), BTreeMap::new())),
            Self::Json => json_as_text(opened),
            Self::Csv { delimiter, names } => {
                let names = distinct_names(names);
                let usable = names.iter().filter(|name| is_usable(name));
                let fields: Vec<Field> = usable.map(|name| Field::new(name, DataType::Utf8, true)).collect();
                if fields.is_empty() {
                    return Err(Fault::definition("the first line has no names of columns"));
                }
                let schema: SchemaRef = Arc::new(Schema::new(fields));
                let config = json!({"csv": {"delimiter": delimiter, "missing": [], "header": json_list(&names)}});
                let format = formats::plan(&config, &schema)
                    .map_err(|problems| Fault::definition(format!("the first line: {}", problems[0].message)))?;
                let (mut decoder, mut profile) = ((format.decoder)(), Profile::new(&schema));
                // The first record is the line of names.
                let mut skip = 1;
                opened.each(|raw| {
                    let from = std::mem::take(&mut skip).min(raw.len());
                    let raw = raw.slice(from, raw.len() - from);
                    profile.add_all(&decoder.decode(&raw)?.rows)
                })?;
                Ok((profile, BTreeMap::new()))
            }
        }
    }
}

/// Whether a definition can name such a column.
pub(super) fn is_usable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('_')
}

/// The names, where those that come again or are empty get others.
fn distinct_names(names: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let distinct = |(at, name): (usize, &String)| {
        let mut distinct = if name.is_empty() { format!("_{at}") } else { name.clone() };
        while !seen.insert(distinct.clone()) {
            distinct = format!("_{distinct}_{at}");
        }
        distinct
    };
    names.iter().enumerate().map(distinct).collect()
}

/// A line's values; quoted ones may hold delimiters and, doubled, quotes.
fn split(line: &str, delimiter: char) -> Vec<String> {
    let (mut values, mut value, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                value.push('"');
            }
            '"' => quoted = !quoted,
            c if c == delimiter && !quoted => values.push(std::mem::take(&mut value).trim().to_owned()),
            c => value.push(c),
        }
    }
    values.push(value.trim().to_owned());
    values
}

fn objects(values: &BinaryArray) -> impl Iterator<Item = serde_json::Map<String, Value>> + '_ {
    values.iter().flatten().filter_map(|value| serde_json::from_slice(value).ok())
}

/// Two passes: for the keys, and for the values.
fn json_as_text(opened: &Opened) -> Result<(Profile, BTreeMap<String, Kinds>)> {
    let mut kinds: BTreeMap<String, Kinds> = BTreeMap::new();
    opened.each(|raw| {
        let Payload::Bytes(values) = &raw.payload else { return Ok(()) };
        for object in objects(values) {
            for (name, value) in object.into_iter().filter(|(name, value)| is_usable(name) && !value.is_null()) {
                if kinds.len() == KEYS_MAX && !kinds.contains_key(&name) {
                    continue;
                }
                let of = kinds.entry(name).or_default();
                let is_text = matches!(value, Value::String(_) | Value::Array(_) | Value::Object(_));
                *(if is_text { &mut of.texts } else { &mut of.others }) += 1;
            }
        }
        Ok(())
    })?;
    if kinds.is_empty() {
        return Err(Fault::definition("there is no JSON object with a value"));
    }
    let fields: Vec<Field> = kinds.keys().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut profile = Profile::new(&schema);
    opened.each(|raw| {
        let Payload::Bytes(values) = &raw.payload else { return Ok(()) };
        let mut columns: Vec<StringBuilder> = kinds.keys().map(|_| StringBuilder::new()).collect();
        for object in objects(values) {
            for (name, column) in kinds.keys().zip(&mut columns) {
                match object.get(name) {
                    None | Some(Value::Null) => column.append_null(),
                    Some(Value::String(text)) => column.append_value(text),
                    Some(other) => column.append_value(other.to_string()),
                }
            }
        }
        let columns: Vec<ArrayRef> = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        profile.add_all(&RecordBatch::try_new(schema.clone(), columns)?)
    })?;
    Ok((profile, kinds))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Fault::world(format!("{}", path.display())).because(error))
}

/// A path in which nothing is a pattern.
pub(super) fn pattern_of(path: &Path) -> String {
    let mut pattern = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            '*' | '?' | '[' | ']' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split() {
        assert_eq!(split("\u{feff}a; \"b;c\" ;\"d\"\"e\";", ';'), ["a", "b;c", "d\"e", ""]);
        let names = ["a", "", "a", "b"].map(str::to_owned);
        assert_eq!(distinct_names(&names), ["a", "_1", "_a_2", "b"]);
    }
}
