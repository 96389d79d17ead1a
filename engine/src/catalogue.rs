//! The catalogue: what a definition file may name, with its documentation, its schema and its example.
//!
//! Each kind is one entry in its folder's `mod.rs`; `check`, `list`, `schema` and the contract tests all
//! read it from there.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::operator::Step;

/// One thing that a definition file may name.
///
/// `P` is the function that plans it: it checks the configuration without touching network or disk,
/// and returns what can be started, or all problems.
pub struct Kind<P> {
    /// As written in definition files, in file names and in metric labels.
    pub name: &'static str,
    /// One line, then details; Markdown.
    pub about: &'static str,
    /// The configuration's schema; field documentation comes from its doc comments.
    pub schema: fn() -> Schema,
    /// A valid configuration in YAML, without the kind's name.
    pub example: &'static str,
    /// Checks and plans.
    pub plan: P,
}

/// Something wrong with a definition, found before anything starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Where, below the configuration that was planned: `["columns", "2"]`.
    pub path: Vec<String>,
    /// Stable, for searching: `unknown-column`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// A name that was not found, and those that there are, for "did you mean".
    pub choices: Option<(String, Vec<String>)>,
}

impl Problem {
    /// A problem at `path`, segments joined by dots (`columns.2`; empty for the whole configuration).
    pub fn new(path: &str, code: &'static str, message: impl Into<String>) -> Self {
        let path = path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { path, code, message: message.into(), help: None, choices: None }
    }

    /// Says how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names what was looked for and what there is.
    #[must_use]
    pub fn choices(mut self, wanted: &str, choices: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.choices = Some((wanted.to_owned(), choices.into_iter().map(Into::into).collect()));
        self
    }

    /// Prefixes the path.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        let mut path: Vec<String> = prefix.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        path.append(&mut self.path);
        self.path = path;
        self
    }
}

/// Plans that fail have at least one problem.
pub type Planned<T> = Result<T, Vec<Problem>>;

/// What a step is planned against.
pub struct StepInput<'a> {
    /// The schema of the stream that the step stands in, the engine's columns first.
    pub schema: &'a SchemaRef,
    /// The schemas of the other streams that it may name.
    pub streams: &'a BTreeMap<String, SchemaRef>,
}

impl StepInput<'_> {
    /// A column's index, or the problem at `path` with the names that there are.
    pub fn column(&self, path: &str, name: &str) -> Result<usize, Problem> {
        column(self.schema, path, name)
    }
}

/// A column's index in `schema`, or the problem at `path` with the names that there are.
pub fn column(schema: &SchemaRef, path: &str, name: &str) -> Result<usize, Problem> {
    schema.index_of(name).map_err(|_| {
        let names = schema.fields().iter().map(|field| field.name().clone());
        Problem::new(path, "unknown-column", format!("there is no column `{name}` here")).choices(name, names)
    })
}

/// A cleansing step's entry.
pub type StepKind = Kind<fn(&Value, &StepInput<'_>) -> Planned<Step>>;

/// Reads a configuration; what serde refuses becomes a problem at its path.
pub fn configuration<T: DeserializeOwned>(value: &Value) -> Planned<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path: Vec<String> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
                serde_path_to_error::Segment::Unknown => None,
            })
            .collect();
        let mut problem = Problem::new("", "bad-value", error.inner().to_string());
        problem.path = path;
        vec![problem]
    })
}

/// The schema of a configuration type.
pub fn schema_of<T: JsonSchema>() -> Schema {
    schemars::schema_for!(T)
}

/// Collects the problems of several checks, so that all are found at once.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The value, or `None` after noting the problem.
    pub fn take<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }

    /// The value, or `None` after noting all problems.
    pub fn take_all<T>(&mut self, result: Planned<T>) -> Option<T> {
        result.map_err(|problems| self.0.extend(problems)).ok()
    }

    /// Notes a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Fails if any problem was noted.
    pub fn finish(self) -> Planned<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}
