//! What may be a consequence of a failure further up, and is therefore not said.

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;
use millstream_engine::catalogue::Problem;

use crate::definition::Node;

/// The columns that a stream may have besides those that are known, or with another type.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    any: bool,
    names: BTreeSet<String>,
}

impl Doubt {
    /// Nothing is known of the columns.
    pub(super) fn of_all() -> Self {
        Self { any: true, names: BTreeSet::new() }
    }

    /// One column is in doubt.
    pub(super) fn add(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    /// A step that failed may have made or changed any column that it names, but not those that it missed itself.
    pub(super) fn add_step(&mut self, step: &Node, problems: &[Problem]) {
        let mut named = BTreeSet::new();
        step.visit(&mut |node| {
            named.extend(node.text().map(str::to_owned));
            named.extend(node.entries().iter().map(|entry| entry.key.clone()));
        });
        for (missed, _) in problems.iter().filter_map(|problem| problem.choices.as_ref()) {
            named.remove(missed);
        }
        self.names.append(&mut named);
    }

    /// What was joined, or is read, brings its own doubts.
    pub(super) fn merge(&mut self, other: &Self) {
        self.any |= other.any;
        self.names.extend(other.names.iter().cloned());
    }

    /// A join that failed may have brought any column of the other stream.
    pub(super) fn add_columns(&mut self, schema: &SchemaRef) {
        self.names.extend(schema.fields().iter().map(|field| field.name().clone()));
    }

    /// Whether nothing is in doubt.
    pub(super) fn is_none(&self) -> bool {
        !self.any && self.names.is_empty()
    }

    /// Whether the column `name` may exist, or be another, once the failure is mended.
    pub(super) fn covers(&self, name: &str) -> bool {
        // Steps make names from names: `room=kitchen`, `wind_speed` with a prefix.
        self.any || self.names.iter().any(|part| !part.is_empty() && name.contains(part.as_str()))
    }

    /// Whether a problem may go away once the failure is mended.
    pub(super) fn hides(&self, problem: &Problem) -> bool {
        match (problem.code, &problem.choices) {
            ("unknown-column", Some((wanted, _))) => self.covers(wanted),
            ("unknown-column" | "wrong-type" | "not-a-number" | "name-clash" | "bad-columns", _) => {
                self.any || self.names.iter().any(|name| problem.message.contains(&format!("`{name}`")))
            }
            ("empty-list", _) => self.any,
            _ => false,
        }
    }
}
