//! What must hold of a model before it becomes a version, or passes `millstream ci`: SQL conditions on what it has measured.
//!
//! `log_loss < 0.5 and log_loss < majority_log_loss`: measures are called as in `millstream models list`; `examples` is how many it has learned.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema};
use millstream_engine::Result;
use millstream_engine::catalogue::Planned;
use millstream_engine::operator::Rejects;
use serde::Serialize;

use super::Score;
use super::measures::column;
use crate::expression::Expression;

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate(String);

/// What became of a gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The condition.
    pub gate: String,
    /// Whether it holds. What cannot be told does not.
    pub holds: bool,
    /// What was measured of what it names: `log_loss 0.4631, majority_log_loss 0.5214`; or why it cannot be told.
    pub because: String,
}

impl Gate {
    /// Checks the form of a condition; problems are at `path`. Which measures there are is known once there are some.
    pub fn plan(sql: &str, path: &str) -> Planned<Self> {
        Expression::columns_of(sql, path)?;
        Ok(Self(sql.to_owned()))
    }

    /// The condition as it was written.
    pub fn sql(&self) -> &str {
        &self.0
    }

    /// Whether it holds of these measures, after so many examples.
    pub fn judge(&self, examples: u64, measures: &[Score]) -> Result<Judged> {
        let row = row(examples, measures)?;
        let (holds, because) = match Expression::predicate(&self.0, row.schema_ref(), "") {
            Err(problems) => {
                let problem = &problems[0];
                let choices = problem.choices.as_ref().map(|(_, names)| format!("; there are {}", names.join(", ")));
                (false, problem.message.clone() + &choices.unwrap_or_default())
            }
            Ok(condition) => {
                let mut rejects = Rejects::default();
                let outcome = condition.test(&row, &mut rejects)?;
                match rejects.take().pop() {
                    Some((_, reason)) => (false, reason),
                    None => (outcome.is_valid(0) && outcome.value(0), self.named(&row)),
                }
            }
        };
        Ok(Judged { gate: self.0.clone(), holds, because })
    }

    /// The values of what it names.
    fn named(&self, row: &RecordBatch) -> String {
        let names = Expression::columns_of(&self.0, "").unwrap_or_default();
        let shown = |name: &String| {
            let value = arrow::util::display::array_value_to_string(row.column_by_name(name)?, 0).ok()?;
            Some(format!("{name} {}", if value.is_empty() { "unknown" } else { &value }))
        };
        names.iter().filter_map(shown).collect::<Vec<_>>().join(", ")
    }
}

/// One row of all measures.
fn row(examples: u64, measures: &[Score]) -> Result<RecordBatch> {
    let mut fields = vec![("examples".to_owned(), Arc::new(Int64Array::from(vec![examples as i64])) as ArrayRef)];
    for score in measures {
        let name = column(score);
        // What is not a number is not known.
        let value = Some(score.value).filter(|value| !value.is_nan());
        if fields.iter().all(|(other, _)| *other != name) {
            fields.push((name, Arc::new(Float64Array::from(vec![value]))));
        }
    }
    let field = |(name, column): &(String, ArrayRef)| Field::new(name, column.data_type().clone(), true);
    let schema = Schema::new(fields.iter().map(field).collect::<Vec<_>>());
    Ok(RecordBatch::try_new(Arc::new(schema), fields.into_iter().map(|(_, column)| column).collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_hold_or_say_why_not() {
        let score = |who: &str, name: &str, over: &str, value| Score {
            name: name.to_owned(),
            who: who.to_owned(),
            over: over.to_owned(),
            value,
        };
        let measures = [
            score("model", "log_loss", "all", 0.25),
            score("majority", "log_loss", "all", 0.5),
            score("model", "accuracy", "carrier=AA", 0.75),
            score("model", "auc", "all", f64::NAN),
        ];
        for (sql, holds, because) in [
            ("log_loss < majority_log_loss", true, "log_loss 0.25, majority_log_loss 0.5"),
            ("log_loss < 0.2", false, "log_loss 0.25"),
            ("\"accuracy carrier=AA\" >= 0.75 and examples > 99", true, "accuracy carrier=AA 0.75, examples 100"),
            ("auc > 0.5", false, "auc unknown"),
            ("loss < 1", false, "there is no column `loss` here; there are examples, log_loss"),
            ("log_loss", false, "`log_loss` gives Float64, not true or false"),
        ] {
            let judged = Gate::plan(sql, "").expect("it can be read").judge(100, &measures).expect("it can be judged");
            assert_eq!(judged.holds, holds, "{judged:?}");
            assert!(judged.because.starts_with(because), "{judged:?}");
        }
        assert!(Gate::plan("log_loss <", "gates.0").is_err());
    }
}
