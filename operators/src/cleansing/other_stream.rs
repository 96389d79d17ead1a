//! What steps share that add the columns of another stream.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, SchemaRef};
use millstream_engine::batch::DIFF;
use millstream_engine::catalogue::{Planned, Problem, Problems, StepInput};
use schemars::JsonSchema;
use serde::Deserialize;

use super::columns::{own_names, readable};

/// The columns that must be equal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns, or a map from this stream's columns to the other's")]
pub(super) enum By {
    /// They have the same names.
    Same(Vec<String>),
    /// From this stream's to the other's.
    Pairs(BTreeMap<String, String>),
}

impl By {
    /// This stream's columns, and the other's.
    pub(super) fn names(&self) -> (Vec<String>, Vec<String>) {
        match self {
            Self::Same(names) => (names.clone(), names.clone()),
            Self::Pairs(pairs) => pairs.iter().map(|(ours, theirs)| (ours.clone(), theirs.clone())).unzip(),
        }
    }
}

/// The schema of the stream called `name`.
pub(super) fn other<'a>(input: &StepInput<'a>, path: &str, name: &str) -> Planned<&'a SchemaRef> {
    input.streams.get(name).ok_or_else(|| {
        let message = format!("there is no stream `{name}`");
        vec![Problem::new(path, "unknown-stream", message).choices(name, input.streams.keys())]
    })
}

/// The key columns of both ports.
pub(super) fn keys(
    left: &SchemaRef,
    right: &SchemaRef,
    ours: &[String],
    theirs: &[String],
    problems: &mut Problems,
) -> [Vec<usize>; 2] {
    let before = problems.0.len();
    let keys = [readable(left, problems, "by", ours), readable(right, problems, "by", theirs)];
    // With the same names on both sides, a mistake that is none of the columns' would be told twice.
    problems.0.dedup_by(|later, first| later == first);
    if problems.0.len() == before {
        for (&ours, &theirs) in keys[0].iter().zip(&keys[1]) {
            let (ours, theirs) = (left.field(ours), right.field(theirs));
            if ours.data_type() != theirs.data_type() {
                let message = format!(
                    "`{}` is {} here, but `{}` is {} in the other stream",
                    ours.name(),
                    ours.data_type(),
                    theirs.name(),
                    theirs.data_type()
                );
                problems.push(Problem::new("by", "wrong-type", message).help("`derive` can cast one of them"));
            }
        }
    }
    keys
}

/// The other stream's columns that are added (those named, or all but its key), and the fields that they become.
pub(super) fn added(
    left: &SchemaRef,
    right: &SchemaRef,
    (names, keys, prefix): (Option<&[String]>, &[String], &str),
    problems: &mut Problems,
) -> (Vec<usize>, Vec<Field>) {
    let all = || own_names(right).filter(|name| !keys.contains(name) && *name != DIFF).cloned().collect();
    let names = names.map_or_else(all, <[String]>::to_vec);
    let columns = readable(right, problems, "columns", &names);
    let mut fields: Vec<Field> = Vec::new();
    for &at in &columns {
        let name = format!("{prefix}{}", right.field(at).name());
        if left.index_of(&name).is_ok() {
            let message = format!("there is a column `{name}` already");
            problems
                .push(Problem::new("columns", "duplicate-name", message).help("set a `prefix` for the added columns"));
        }
        // What is the event time there is not so here.
        fields.push(Field::new(name, right.field(at).data_type().clone(), true));
    }
    (columns, fields)
}

/// Which rows have no null in these columns, their key: a null matches nothing.
pub(super) fn complete_keys(key: &[usize], rows: &RecordBatch) -> Option<NullBuffer> {
    let nulls = key.iter().map(|&at| rows.column(at).logical_nulls());
    nulls.fold(None, |all, nulls| NullBuffer::union(all.as_ref(), nulls.as_ref()))
}
