//! Rows that wait for their labels: what was predicted when they came is judged when the label comes, and learned then.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use millstream_engine::Result;
use millstream_engine::catalogue::{Planned, Problem, Problems, StepInput, column};
use millstream_engine::digest::{self, Digest};
use millstream_engine::operator::Snapshot;
use millstream_engine::part::Part;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::models::{Example, Matrix, Row, Shape};

/// A label that comes later, in another stream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaterLabel {
    /// The stream that labels come in.
    pub from: String,
    /// The column there that says what the model is to tell.
    pub column: String,
    /// The columns, of the same names and types in both streams, by which a label finds the rows that wait for it.
    pub by: Vec<String>,
    /// How long a row waits for its label, seconds of event time.
    pub within_seconds: u64,
    /// The label of rows for which none has come by then, such as `false` for what was never clicked. Without it, they
    /// teach nothing.
    pub otherwise: Option<Value>,
    /// How many rows may wait; beyond that, the oldest has waited long enough.
    #[serde(default = "waiting_max")]
    pub waiting_max: usize,
}

fn waiting_max() -> usize {
    100_000
}

/// A checked [`LaterLabel`].
#[derive(Clone, Debug)]
pub(super) struct WaitingPlan {
    within_ms: i64,
    waiting_max: usize,
    otherwise: Option<f64>,
    /// By port: the schema, and the columns that make keys.
    keys: [(SchemaRef, Vec<usize>); 2],
}

impl WaitingPlan {
    /// Checks the keys and the bounds, problems below `label`; `number` reads a label as the model's target.
    pub(super) fn plan(
        config: &LaterLabel,
        input: &StepInput<'_>,
        number: impl Fn(&Value) -> Result<f64, Problem>,
    ) -> Planned<Self> {
        let mut problems = Problems::default();
        let labels = problems.take(input.streams.get(&config.from).ok_or_else(|| {
            Problem::new("label.from", "unknown-input", format!("there is no stream `{}`", config.from))
                .choices(&config.from, input.streams.keys().cloned())
        }));
        if config.by.is_empty() {
            let help = "name the columns by which a label finds its rows, such as an id";
            problems.push(Problem::new("label.by", "out-of-range", "no columns are named").help(help));
        }
        let mut keys = [Vec::new(), Vec::new()];
        for (at, name) in config.by.iter().enumerate() {
            let path = format!("label.by.{at}");
            let own = problems.take(column(input.schema, &path, name));
            let other = labels.and_then(|labels| problems.take(column(labels, &path, name)));
            let (Some(own), Some(labels), Some(other)) = (own, labels, other) else { continue };
            let (one, two) = (input.schema.field(own).data_type(), labels.field(other).data_type());
            if one != two {
                let message = format!("`{name}` is {one} here, and {two} in `{}`", config.from);
                problems.push(Problem::new(&path, "type-mismatch", message));
            }
            keys[0].push(own);
            keys[1].push(other);
        }
        if !(1..=1 << 32).contains(&config.within_seconds) {
            problems.push(Problem::new(
                "label.within_seconds",
                "out-of-range",
                "a label may come for at least 1 second",
            ));
        }
        if !(1..=10_000_000).contains(&config.waiting_max) {
            problems.push(Problem::new("label.waiting_max", "out-of-range", "1 to 10000000 rows may wait"));
        }
        let otherwise = config
            .otherwise
            .as_ref()
            .and_then(|value| problems.take(number(value).map_err(|problem| problem.under("label.otherwise"))));
        problems.finish()?;
        let Some(labels) = labels else { unreachable!("what is missing has left a problem") };
        let [own, others] = keys;
        Ok(Self {
            within_ms: config.within_seconds as i64 * 1000,
            waiting_max: config.waiting_max,
            otherwise,
            keys: [(input.schema.clone(), own), (labels.clone(), others)],
        })
    }
}

/// A row that waits.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Waiter {
    key: Vec<u8>,
    pub(super) time_ms: i64,
    dense: Vec<f64>,
    active: Vec<u32>,
    pub(super) weight: f64,
    pub(super) action: u32,
    pub(super) propensity: f64,
    /// What was predicted when it came.
    pub(super) outputs: Vec<f64>,
    /// Its values in the columns by which rows are judged apart.
    pub(super) slices: Vec<String>,
}

impl Waiter {
    pub(super) fn row(&self) -> Row<'_> {
        Row { dense: &self.dense, active: &self.active }
    }

    pub(super) fn example(&self, target: f64) -> Example {
        Example { target, weight: self.weight, action: self.action, propensity: self.propensity }
    }
}

/// Rows that wait by their numbers, which grow with each that comes. They lie in parts of the state, and many of these in larger ones:
/// so what a row or a label costs does not depend on how many wait.
#[derive(Clone, Default, Deserialize, Serialize)]
struct Waiters(BTreeMap<u64, Part<BTreeMap<u64, Few>>>);

/// Those whose numbers, divided by [`PART`], are the same.
type Few = Part<BTreeMap<u64, Waiter>>;

/// How many numbers are in a part.
const PART: u64 = 16;
/// And in one of the larger ones.
const GROUP: u64 = 64 * PART;

impl Waiters {
    fn insert(&mut self, number: u64, waiter: Waiter) {
        let parts = self.0.entry(number / GROUP).or_default().edit();
        parts.entry(number / PART).or_default().edit().insert(number, waiter);
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Waiter> {
        let parts = self.0.get_mut(&(number / GROUP))?.edit();
        parts.get_mut(&(number / PART))?.edit().get_mut(&number)
    }

    fn remove(&mut self, number: u64) -> Option<Waiter> {
        let parts = self.0.get_mut(&(number / GROUP))?.edit();
        let part = parts.get_mut(&(number / PART))?;
        let waiter = part.edit().remove(&number);
        if part.is_empty() {
            parts.remove(&(number / PART));
        }
        if parts.is_empty() {
            self.0.remove(&(number / GROUP));
        }
        waiter
    }

    /// The one that came first.
    fn first(&self) -> Option<(u64, &Waiter)> {
        let (_, parts) = self.0.first_key_value()?;
        let (_, part) = parts.first_key_value()?;
        part.first_key_value().map(|(number, waiter)| (*number, waiter))
    }

    /// In the order in which they came.
    fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        let parts = self.0.values().flat_map(|group| group.values());
        parts.flat_map(|part| part.iter()).map(|(number, waiter)| (*number, waiter))
    }

    /// Whether each is where it belongs.
    fn is_sound(&self) -> bool {
        self.0.iter().all(|(group, parts)| {
            let is_part = |(part, waiters): (&u64, &Few)| {
                !waiters.is_empty() && waiters.keys().all(|number| (number / GROUP, number / PART) == (*group, *part))
            };
            !parts.is_empty() && parts.iter().all(is_part)
        })
    }
}

/// All rows that wait.
pub(super) struct Waiting {
    plan: WaitingPlan,
    converters: Option<[RowConverter; 2]>,
    state: State,
    /// How many rows wait.
    len: usize,
    /// By key: which of them.
    by_key: BTreeMap<Vec<u8>, Vec<u64>>,
}

/// What is stored of [`Waiting`]; the rest is made anew of it.
#[derive(Clone, Default, Deserialize, Serialize)]
struct State {
    waiters: Waiters,
    next: u64,
    /// How many rows waited in vain.
    unlabelled: u64,
}

impl Waiting {
    pub(super) fn new(plan: WaitingPlan) -> Self {
        let converter = |(schema, columns): &(SchemaRef, Vec<usize>)| {
            RowConverter::new(columns.iter().map(|at| SortField::new(schema.field(*at).data_type().clone())).collect())
        };
        let converters = match (converter(&plan.keys[0]), converter(&plan.keys[1])) {
            (Ok(own), Ok(others)) => Some([own, others]),
            // Told when a key is asked for.
            _ => None,
        };
        Self { plan, converters, state: State::default(), len: 0, by_key: BTreeMap::new() }
    }

    /// The keys of rows of a port.
    pub(super) fn keys(&self, port: usize, rows: &RecordBatch) -> Result<Rows> {
        let columns: Vec<_> = self.plan.keys[port].1.iter().map(|at| rows.column(*at).clone()).collect();
        let converters = self.converters.as_ref();
        let converters =
            converters.ok_or_else(|| millstream_engine::Fault::ours("a label's key cannot be compared"))?;
        Ok(converters[port].convert_columns(&columns)?)
    }

    /// Lets a row wait.
    pub(super) fn push(
        &mut self,
        (key, time_ms): (&[u8], i64),
        row: Row<'_>,
        example: Example,
        slices: (&[StringArray], usize),
    ) {
        let waiter = Waiter {
            key: key.to_vec(),
            time_ms,
            dense: row.dense.to_vec(),
            active: row.active.to_vec(),
            weight: example.weight,
            action: example.action,
            propensity: example.propensity,
            outputs: Vec::new(),
            slices: slices.0.iter().map(|texts| texts.value(slices.1).to_owned()).collect(),
        };
        self.by_key.entry(waiter.key.clone()).or_default().push(self.state.next);
        self.state.waiters.insert(self.state.next, waiter);
        self.state.next += 1;
        self.len += 1;
    }

    /// Says what was predicted of the last `count` rows.
    pub(super) fn predicted(&mut self, outputs: &[f64], count: usize) {
        let width = outputs.len() / count.max(1);
        let last = self.state.next - count as u64..self.state.next;
        for (number, outputs) in last.zip(outputs.chunks_exact(width.max(1))) {
            if let Some(waiter) = self.state.waiters.get_mut(number) {
                waiter.outputs = outputs.to_vec();
            }
        }
    }

    /// Takes out the rows that wait for a label of this key, oldest first.
    pub(super) fn take(&mut self, key: &[u8]) -> Vec<Waiter> {
        let numbers = self.by_key.remove(key).unwrap_or_default();
        let waiters: Vec<Waiter> = numbers.iter().filter_map(|number| self.state.waiters.remove(*number)).collect();
        self.len -= waiters.len();
        waiters
    }

    /// Whether a row has waited long enough when it is `now_ms`.
    pub(super) fn is_over(&self, now_ms: i64) -> bool {
        let is_old = |waiter: &Waiter| now_ms.saturating_sub(waiter.time_ms) > self.plan.within_ms;
        self.len > self.plan.waiting_max || self.state.waiters.first().is_some_and(|(_, first)| is_old(first))
    }

    /// Takes out the row that has waited longest, with the label that it gets now, if any.
    pub(super) fn give_up(&mut self) -> Option<(Waiter, Option<f64>)> {
        let (number, _) = self.state.waiters.first()?;
        let waiter = self.state.waiters.remove(number)?;
        self.len -= 1;
        if let Some(numbers) = self.by_key.get_mut(&waiter.key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_key.remove(&waiter.key);
            }
        }
        self.state.unlabelled += 1;
        Some((waiter, self.plan.otherwise))
    }

    /// How many rows wait, and how many waited in vain.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.len as u64, self.state.unlabelled)
    }

    pub(super) fn digest(&self) -> Digest {
        digest::of_value(&self.state)
    }

    /// See [`millstream_engine::operator::Fold::copy`].
    pub(super) fn copy(&self) -> Snapshot {
        let state = self.state.clone();
        Box::new(move || postcard::to_stdvec(&state).expect("numbers and texts can be written to memory"))
    }

    /// Takes over a state for rows of this shape, or says why it cannot.
    pub(super) fn restore(
        &mut self,
        snapshot: &[u8],
        shape: Shape,
        outputs: usize,
        slices: usize,
    ) -> Result<(), String> {
        let state: State = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        let fits = |(number, waiter): (u64, &Waiter)| {
            number < state.next
                && (waiter.dense.len(), waiter.active.len()) == (shape.dense, shape.active)
                && waiter.active.iter().all(|category| (*category as usize) < shape.categories)
                && (waiter.outputs.len(), waiter.slices.len()) == (outputs, slices)
                && (waiter.action as usize) < shape.classes.max(1)
        };
        if !state.waiters.is_sound() || !state.waiters.iter().all(fits) {
            return Err("rows that wait are not of this model".to_owned());
        }
        self.by_key.clear();
        self.len = 0;
        for (number, waiter) in state.waiters.iter() {
            self.by_key.entry(waiter.key.clone()).or_default().push(number);
            self.len += 1;
        }
        self.state = state;
        Ok(())
    }
}

/// Rows that wait, as a matrix.
pub(super) fn matrix(shape: Shape, waiters: &[Waiter]) -> Matrix {
    let mut matrix = Matrix::new(shape);
    waiters.iter().for_each(|waiter| matrix.push(waiter.row()));
    matrix
}
