//! Conditions on versions, and their order, as SQL expressions: `log_loss < 0.5 and examples > 10000`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices};
use arrow::datatypes::{Field, Schema};
use millstream_engine::catalogue::Problem;
use millstream_engine::operator::Rejects;
use millstream_engine::{Fault, Result};

use super::changes::Entry;
use super::measures::column;
use super::version::{Metadata, Version};
use crate::expression::Expression;

/// The entries that meet a condition, in an order: an expression, with ` desc` after it for the largest first. Damaged
/// versions meet no condition, and come last in any order.
pub fn select(entries: Vec<Entry>, condition: Option<&str>, sort: Option<&str>) -> Result<Vec<Entry>> {
    if condition.is_none() && sort.is_none() {
        return Ok(entries);
    }
    let (sound, damaged): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.version.is_ok());
    if sound.is_empty() {
        return Ok(if condition.is_some() { Vec::new() } else { damaged });
    }
    let table = Table::of(&sound)?;
    let met = condition.map(|condition| table.test(condition)).transpose()?;
    let order = sort.map_or_else(|| Ok((0..sound.len()).collect()), |sort| table.order(sort))?;
    let mut sound: Vec<Option<Entry>> = sound.into_iter().map(Some).collect();
    let is_met = |at: &usize| met.as_ref().is_none_or(|met| met[*at]);
    let mut selected: Vec<Entry> = order.into_iter().filter(is_met).filter_map(|at| sound[at].take()).collect();
    if condition.is_none() {
        selected.extend(damaged);
    }
    Ok(selected)
}

fn refused(problems: Vec<Problem>) -> Fault {
    let told = problems.into_iter().map(|problem| {
        let choices = problem.choices.map(|(_, choices)| format!("there are: {}", choices.join(", ")));
        [Some(problem.message), problem.help, choices].into_iter().flatten().collect::<Vec<_>>().join("; ")
    });
    Fault::definition(told.collect::<Vec<_>>().join("\n"))
}

/// A row for each version.
struct Table {
    batch: RecordBatch,
    names: Vec<String>,
}

impl Table {
    fn of(entries: &[Entry]) -> Result<Self> {
        let sound = entries.iter().filter_map(|entry| Some((entry, entry.version.as_ref().ok()?))).collect::<Vec<_>>();
        let names = sound.iter().map(|(entry, _)| format!("{}/{}", entry.model, entry.id)).collect();
        let mut columns = fixed(&sound);
        for (name, column) in named(&sound) {
            if columns.iter().all(|(known, _)| *known != name) {
                columns.push((name, column));
            }
        }
        let field = |(name, column): &(String, ArrayRef)| Field::new(name, column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Ok(Self { batch: RecordBatch::try_new(Arc::new(schema), columns)?, names })
    }

    /// Which rows meet a condition.
    fn test(&self, condition: &str) -> Result<Vec<bool>> {
        let expression = Expression::predicate(condition, &self.batch.schema(), "").map_err(refused)?;
        let mut rejects = Rejects::default();
        let met = expression.test(&self.batch, &mut rejects)?;
        self.check(&mut rejects)?;
        Ok(met.iter().map(|met| met == Some(true)).collect())
    }

    /// The rows in an order.
    fn order(&self, sort: &str) -> Result<Vec<usize>> {
        let sort = sort.trim();
        let (sql, descending) = match sort.to_ascii_lowercase() {
            lower if lower.ends_with(" desc") => (&sort[..sort.len() - " desc".len()], true),
            lower if lower.ends_with(" asc") => (&sort[..sort.len() - " asc".len()], false),
            _ => (sort, false),
        };
        let expression = Expression::compile(sql, &self.batch.schema(), "").map_err(refused)?;
        let mut rejects = Rejects::default();
        let keys = expression.evaluate(&self.batch, &mut rejects)?;
        self.check(&mut rejects)?;
        // Equal ones stay in the order of their promotion.
        let place: ArrayRef = Arc::new((0..self.names.len() as i64).collect::<Int64Array>());
        let keys = SortColumn { values: keys, options: Some(SortOptions { descending, nulls_first: false }) };
        let order = lexsort_to_indices(&[keys, SortColumn { values: place, options: None }], None)?;
        Ok(order.values().iter().map(|at| *at as usize).collect())
    }

    /// A value that cannot be computed is told, with the version's name.
    fn check(&self, rejects: &mut Rejects) -> Result<()> {
        match rejects.take().into_iter().next() {
            None => Ok(()),
            Some((row, why)) => Err(Fault::definition(format!("version {}: {why}", self.names[row]))),
        }
    }
}

type Sound<'a> = [(&'a Entry, &'a Version)];

/// What each version has.
fn fixed(of: &Sound<'_>) -> Vec<(String, ArrayRef)> {
    let text = |value: fn(&Entry, &Metadata) -> Option<String>| -> ArrayRef {
        Arc::new(of.iter().map(|(entry, version)| value(entry, &version.metadata)).collect::<StringArray>())
    };
    let number = |value: fn(&Entry, &Metadata) -> Option<u64>| -> ArrayRef {
        let value = |(entry, version): &(&Entry, &Version)| value(entry, &version.metadata).map(|value| value as i64);
        Arc::new(of.iter().map(value).collect::<Int64Array>())
    };
    let time = |value: fn(&Metadata) -> Option<i64>| -> ArrayRef {
        Arc::new(of.iter().map(|(_, version)| value(&version.metadata)).collect::<TimestampMillisecondArray>())
    };
    let baseline = of.iter().map(|(_, version)| {
        let (name, _) = version.metadata.decisive()?;
        Some(version.metadata.best_baseline(name)?.value)
    });
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("model", text(|entry, _| Some(entry.model.clone()))),
        ("id", text(|entry, _| Some(entry.id.clone()))),
        ("number", number(|entry, _| entry.number)),
        ("aliases", text(|entry, _| Some(entry.aliases.join(",")))),
        ("description", text(|entry, _| Some(entry.description.clone()))),
        ("pipeline", text(|_, metadata| Some(metadata.pipeline.clone()))),
        ("definition_digest", text(|_, metadata| Some(metadata.definition_digest.clone()))),
        ("revision", number(|_, metadata| Some(metadata.revision))),
        ("epoch", number(|_, metadata| Some(metadata.epoch))),
        ("examples", number(|_, metadata| Some(metadata.examples))),
        ("drift_changes", number(|_, metadata| metadata.drift_changes())),
        ("learned_through", time(|metadata| metadata.frontier.time_ms)),
        ("started", time(|metadata| Some(metadata.started_ms))),
        ("promoted", time(|metadata| Some(metadata.promoted_ms))),
        ("promoted_by", text(|_, metadata| metadata.promoted_by.clone())),
        ("reason", text(|_, metadata| Some(metadata.reason.clone()))),
        ("parent", text(|_, metadata| metadata.parent.clone())),
        ("began_with", text(|_, metadata| metadata.began_with.clone())),
        ("device", text(|_, metadata| metadata.device.clone())),
        ("baseline", Arc::new(baseline.collect::<Float64Array>())),
    ];
    columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect()
}

/// What some versions have: measures (`log_loss`, `majority_log_loss`, `"log_loss carrier=AA"`), durations
/// (`"seconds.since_start"`), tags (`"tag.stage"`).
fn named(of: &Sound<'_>) -> Vec<(String, ArrayRef)> {
    let mut numbers: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut put = |name: String, row: usize, value: f64| {
        numbers.entry(name).or_insert_with(|| vec![None; of.len()])[row] = Some(value);
    };
    for (row, (_, version)) in of.iter().enumerate() {
        for score in &version.metadata.measures {
            put(column(score), row, score.value);
        }
        for (what, seconds) in &version.metadata.durations_seconds {
            put(format!("seconds.{what}"), row, *seconds);
        }
    }
    let numbers = numbers.into_iter().map(|(name, values)| (name, Arc::new(Float64Array::from(values)) as ArrayRef));
    let keys: BTreeSet<&String> = of.iter().flat_map(|(entry, _)| entry.tags.keys()).collect();
    let tag = |key: &String| -> ArrayRef {
        Arc::new(of.iter().map(|(entry, _)| entry.tags.get(key).cloned()).collect::<StringArray>())
    };
    numbers.chain(keys.into_iter().map(|key| (format!("tag.{key}"), tag(key)))).collect()
}
