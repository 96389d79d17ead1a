//! `outliers`: numbers that lie far from the others.

use arrow::array::{Array, Float64Array, RecordBatch};
use millstream_engine::Result;
use millstream_engine::batch::Lane;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step, Transform};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::judged::{Action, Judged, Then};
use self::spread::{Medians, Spread, Window};
use super::moments::Moments;
use super::running::numbers_by;

mod judged;
mod spread;
#[cfg(test)]
mod tests;

pub(super) static KIND: StepKind = Kind {
    name: "outliers",
    about: "Finds numbers that lie far from those before, and removes, bounds or marks them.\n\n\
            Each column and key is judged by itself, a row by the rows before it. Nothing is an outlier during the warm-up, nor while the \
            spread is 0 (with the median absolute deviation: while half of the values are the same). \
            Missing values are no outliers.\n\n\
            After `relearn_after` outliers in a row (missing values aside), the level has shifted: what was known is forgotten, and warming up begins \
            with the last of them. So a shift never locks a column out for ever.\n\n\
            Median and median absolute deviation are exact for 16 values, and then known to 4 % of the distance from the middle of those; \
            from 64 values on they are renewed when there are a 64th more. Those of `hampel` are exact. The deviation is multiplied by 1.4826, which makes it the standard deviation of normal values. \
            See F. R. Hampel, *The influence curve and its role in robust estimation*, Journal of the American Statistical Association 69, 1974.",
    schema: schema_of::<Config>,
    example: "columns: [temperature, humidity]\nmethod: {mad: {limit: 3.5}}\nthen: clip\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// What makes an outlier.
    method: Method,
    /// What happens to it.
    #[serde(default)]
    then: Then,
    /// Columns that make a key: each key is judged by its own values.
    by: Option<Vec<String>>,
    /// As long as fewer values are known than this, none is an outlier. 10 if it is left out, or a smaller window.
    warm_up: Option<u64>,
    /// Which values become known: an outlier widens the standard deviation, and so hides others. `inliers` if it is left out with
    /// `z_score`; `all` with the medians, which bear outliers.
    learns: Option<Learns>,
    /// After so many outliers in a row, what is known is forgotten. 20 if it is left out.
    relearn_after: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Method {
    /// Below `min` or above `max`, of which at least one is given. This needs nothing of the rows before.
    Range {
        /// The least value that is none.
        min: Option<f64>,
        /// The greatest value that is none.
        max: Option<f64>,
    },
    /// More than `limit` standard deviations off the mean.
    ZScore {
        /// The greatest distance.
        limit: f64,
    },
    /// More than `limit` median absolute deviations off the median.
    Mad {
        /// The greatest distance.
        limit: f64,
    },
    /// The same, of the last `window` values (the Hampel filter, looking back).
    Hampel {
        /// How many values; 3 to 1000.
        window: u32,
        /// The greatest distance.
        limit: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Learns {
    /// Outliers too.
    All,
    /// Only the others.
    Inliers,
}

const WARM_UP: u64 = 10;
const RELEARN_AFTER: u32 = 20;
const WINDOWS: std::ops::RangeInclusive<u32> = 3..=1000;

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let keys = config.by.as_deref().unwrap_or_default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, keys);
    check_method(&config, &mut problems);
    let action = Action::new(config.then, input.schema, columns, &mut problems);
    problems.finish()?;
    let schema = action.schema.clone();
    let power = match config.method {
        Method::Range { min, max } => {
            let (min, max) = (min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY));
            Power::transform(Range { min, max, action })
        }
        Method::ZScore { limit } => Power::keyed(config.running::<Moments>(limit, WARM_UP, by, action)),
        Method::Mad { limit } => Power::keyed(config.running::<Medians>(limit, WARM_UP, by, action)),
        Method::Hampel { window, limit } => {
            let warm_up = WARM_UP.min(u64::from(window));
            Power::keyed(Running { window: window as usize, ..config.running::<Window>(limit, warm_up, by, action) })
        }
    };
    Ok(Step { schema, others: Vec::new(), power })
}

fn check_method(config: &Config, problems: &mut Problems) {
    match config.method {
        Method::Range { min, max } => {
            check_range(min, max, problems);
            let given = [
                ("by", config.by.is_some()),
                ("warm_up", config.warm_up.is_some()),
                ("learns", config.learns.is_some()),
                ("relearn_after", config.relearn_after.is_some()),
            ];
            for (path, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = "a fixed range learns nothing";
                problems.push(Problem::new(path, "bad-value", message).help(format!("leave out `{path}`")));
            }
        }
        Method::ZScore { limit } => check_limit("method.z_score.limit", limit, problems),
        Method::Mad { limit } => check_limit("method.mad.limit", limit, problems),
        Method::Hampel { window, limit } => {
            check_limit("method.hampel.limit", limit, problems);
            if !WINDOWS.contains(&window) {
                let message = format!("a window has {} to {} values", WINDOWS.start(), WINDOWS.end());
                problems.push(Problem::new("method.hampel.window", "bad-value", message));
            } else if config.warm_up.is_some_and(|warm_up| warm_up > u64::from(window)) {
                problems.push(Problem::new("warm_up", "bad-value", "so many values are never in the window"));
            }
        }
    }
    if config.relearn_after == Some(0) {
        problems.push(Problem::new("relearn_after", "bad-value", "1 is the least"));
    }
}

fn check_range(min: Option<f64>, max: Option<f64>, problems: &mut Problems) {
    let message = match (min, max) {
        (None, None) => "at least one of `min` and `max` is needed here".to_owned(),
        (Some(min), Some(max)) if min > max => format!("`min` ({min}) is above `max` ({max})"),
        _ => return,
    };
    problems.push(Problem::new("method.range", "bad-value", message));
}

fn check_limit(path: &str, limit: f64, problems: &mut Problems) {
    if !(limit > 0.0 && limit.is_finite()) {
        problems.push(Problem::new(path, "bad-value", "a limit is greater than 0"));
    }
}

impl Config {
    fn running<S: Spread>(&self, limit: f64, warm_up: u64, by: Vec<usize>, action: Action) -> Running<S> {
        Running {
            limit,
            by,
            action,
            warm_up: self.warm_up.unwrap_or(warm_up),
            learns_outliers: self.learns.unwrap_or(S::LEARNS) == Learns::All,
            relearn_after: self.relearn_after.unwrap_or(RELEARN_AFTER),
            window: 0,
            spread: std::marker::PhantomData,
        }
    }
}

/// Judges by a fixed range.
struct Range {
    min: f64,
    max: f64,
    action: Action,
}

impl Transform for Range {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let inputs = self.action.inputs(rows)?;
        let mut judged = Judged::new(&inputs, rows.num_rows());
        for (place, input) in inputs.iter().enumerate() {
            for row in (0..rows.num_rows()).filter(|&row| input.is_valid(row)) {
                judged.see(place, row, input.value(row), Some((self.min, self.max)));
            }
        }
        self.action.take(rows, &judged, rejects)
    }
}

/// Judges by what is known of the rows before.
struct Running<S> {
    limit: f64,
    by: Vec<usize>,
    action: Action,
    warm_up: u64,
    learns_outliers: bool,
    relearn_after: u32,
    /// How many values a window has.
    window: usize,
    spread: std::marker::PhantomData<fn() -> S>,
}

/// What is known of a column.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known<S> {
    spread: S,
    /// How many outliers came in a row.
    outliers: u32,
}

impl<S: Spread> Keyed for Running<S> {
    /// What is known of each column; nothing before the key's first row.
    type State = Vec<Known<S>>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Self::State>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.action.inputs(rows)?;
        let mut judged = Judged::new(&inputs, rows.num_rows());
        for row in 0..rows.num_rows() {
            let known = states.get(row);
            for (place, input) in inputs.iter().enumerate().filter(|(_, input)| input.is_valid(row)) {
                let spread = known.get(place).map(|known| &known.spread).filter(|known| known.count() >= self.warm_up);
                judged.see(place, row, input.value(row), spread.and_then(|spread| spread.bounds(self.limit)));
            }
            states.update(row, |known| self.learn(known, &inputs, row, &judged));
        }
        self.action.take(rows, &judged, rejects).map(Some)
    }

    fn expired(&self, _: &Self::State, _: i64) -> bool {
        false
    }
}

impl<S: Spread> Running<S> {
    fn learn(&self, known: &mut Vec<Known<S>>, inputs: &[Float64Array], row: usize, judged: &Judged) {
        known.resize_with(inputs.len(), Known::default);
        for (place, (known, input)) in known.iter_mut().zip(inputs).enumerate() {
            if input.is_null(row) {
                continue;
            }
            let outlier = judged.is_outlier(place, row);
            known.outliers = if outlier { known.outliers + 1 } else { 0 };
            let shifted = known.outliers >= self.relearn_after;
            if shifted {
                *known = Known::default();
            }
            if !outlier || shifted || self.learns_outliers {
                known.spread.learn(input.value(row), self.window);
            }
        }
    }
}
