//! `detect_drift`: a column whose values are distributed otherwise than they were.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::numbers;
use super::running::{added, numbers_by};

pub(super) static KIND: StepKind = Kind {
    name: "detect_drift",
    about: "Tells how far a column's distribution is from what it was.\n\n\
            Values are taken in windows of `window`, and each whole window is compared with a reference: the first window, or the one before. \
            `NAME_drift`, a new column for each, is the newest distance, as it was before the row; null before there is one. \
            `NAME_drifted` says whether it is above `threshold`. Distances:\n\n\
            * `population_stability`: the population stability index, the sum of (q - p) ln(q / p) over the reference's ten deciles, where p and q are \
            the shares of reference and window in each. Below 0.1 is usual, above 0.2 a change. \n\
            * `jensen_shannon`: the Jensen-Shannon divergence of the same shares, in bits: from 0 to 1.\n\
            * `wasserstein`: by how much values moved on average (the earth mover's distance), in standard deviations of the reference.\n\n\
            Half a value is added to each decile, so that empty ones say no more than they can. Missing values count for nothing. \
            This is about all that a model is fed with: a shape that changes slowly, over many rows. `flag_drift` is about the readings of a sensor: it marks the \
            row in which their mean leaves its level, with no window to wait for, and sees no other change. To act on it, let an `expect` step stand after this one.",
    schema: schema_of::<Config>,
    example: "columns: [temperature]\nmethod: wasserstein\nwindow: 20\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// Columns that make a key: each key has its own windows.
    #[serde(default)]
    by: Vec<String>,
    /// How many values a window has; from 2 to 10,000. They are kept.
    #[serde(default = "window")]
    window: u32,
    /// With what windows are compared.
    #[serde(default)]
    reference: Reference,
    /// How their distance is measured.
    #[serde(default)]
    method: Method,
    /// Above which distance it has drifted; at least 0. Without it 0.2 (population stability), 0.1 (Jensen-Shannon), or 0.25 (Wasserstein).
    threshold: Option<f64>,
}

fn window() -> u32 {
    500
}

/// With what a window is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Reference {
    /// The first window: how far it is from the beginning.
    #[default]
    First,
    /// The window before: how fast it changes.
    Previous,
}

/// A distance of distributions.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// The population stability index.
    #[default]
    PopulationStability,
    /// The Jensen-Shannon divergence.
    JensenShannon,
    /// The Wasserstein distance of order 1.
    Wasserstein,
}

impl Method {
    fn threshold(self) -> f64 {
        match self {
            Self::PopulationStability => 0.2,
            Self::JensenShannon => 0.1,
            Self::Wasserstein => 0.25,
        }
    }

    /// The distance of two samples of one size, each in order.
    fn distance(self, reference: &[f64], window: &[f64]) -> f64 {
        let terms = |term: fn(f64, f64) -> f64| {
            shares(reference, window).into_iter().map(|(p, q)| term(p, q)).sum::<f64>().max(0.0)
        };
        match self {
            Self::PopulationStability => terms(|p, q| (q - p) * libm::log(q / p)),
            Self::JensenShannon => terms(|p, q| {
                let middle = f64::midpoint(p, q);
                f64::midpoint(p * libm::log2(p / middle), q * libm::log2(q / middle))
            }),
            Self::Wasserstein => {
                let count = reference.len() as f64;
                let moved = reference.iter().zip(window).map(|(a, b)| (a - b).abs()).sum::<f64>() / count;
                let mean = reference.iter().sum::<f64>() / count;
                let deviation = (reference.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count).sqrt();
                // Where all values were the same, one deviation is as good as any.
                if deviation > 0.0 { moved / deviation } else { moved }
            }
        }
    }
}

/// The largest magnitude of a value: squares need room.
const VALUE_MAX: f64 = 1e100;

/// How many parts the reference is cut into, where it has so many different values.
const PARTS: usize = 10;

/// Where the reference is cut: below each of its deciles, and where several of them are one value, also above that.
fn cuts(reference: &[f64]) -> Vec<(f64, bool)> {
    let mut cuts: Vec<(f64, bool)> = Vec::with_capacity(PARTS);
    for part in 1..PARTS {
        let value = reference[part * reference.len() / PARTS];
        match cuts.last() {
            Some((last, true)) if *last == value => {}
            last => cuts.push((value, last.is_some_and(|(last, _)| *last == value))),
        }
    }
    cuts
}

/// The shares of both samples in each part of the reference.
fn shares(reference: &[f64], window: &[f64]) -> Vec<(f64, f64)> {
    let cuts = cuts(reference);
    let parts = cuts.len() as f64 + 1.0;
    let shares = |sample: &[f64]| {
        let through = cuts.iter().map(|(at, with)| sample.partition_point(|x| x < at || *with && x == at));
        let all = through.chain([sample.len()]).scan(0, |below, through| {
            let count = through - std::mem::replace(below, through);
            Some((count as f64 + 0.5) / (sample.len() as f64 + 0.5 * parts))
        });
        all.collect::<Vec<f64>>()
    };
    shares(reference).into_iter().zip(shares(window)).collect()
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    if !(2..=10_000).contains(&config.window) {
        problems.push(Problem::new("window", "bad-value", "a window has from 2 to 10,000 values"));
    }
    let threshold = config.threshold.unwrap_or(config.method.threshold());
    if !(threshold >= 0.0 && threshold.is_finite()) {
        problems.push(Problem::new("threshold", "bad-value", "a threshold is at least 0"));
    }
    let distances = added(input.schema, &mut problems, &columns, "drift");
    let flags = added(input.schema, &mut problems, &columns, "drifted");
    problems.finish()?;
    let fields = distances.iter().map(|name| Field::new(name, DataType::Float64, true));
    let schema =
        with_fields(input.schema, fields.chain(flags.iter().map(|name| Field::new(name, DataType::Boolean, false))));
    let (window, reference, method) = (config.window as usize, config.reference, config.method);
    let operator =
        DetectDrift { columns, by, distances, flags, window, reference, method, threshold, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct DetectDrift {
    columns: Vec<usize>,
    by: Vec<usize>,
    distances: Vec<String>,
    flags: Vec<String>,
    window: usize,
    reference: Reference,
    method: Method,
    threshold: f64,
    schema: SchemaRef,
}

/// What is known of a column.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Watch {
    /// In order; empty until the first window is whole.
    reference: Vec<f64>,
    /// The values of the present window, as they came.
    present: Vec<f64>,
    /// How far the newest whole window was from the reference.
    distance: Option<f64>,
}

impl Keyed for DetectDrift {
    /// Of each column; nothing before the key's first row.
    type State = Vec<Watch>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<Watch>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let mut distances: Vec<Vec<Option<f64>>> = vec![vec![None; rows.num_rows()]; inputs.len()];
        for row in 0..rows.num_rows() {
            for (distances, known) in distances.iter_mut().zip(states.get(row).iter()) {
                distances[row] = known.distance;
            }
            states.update(row, |known| self.learn(known, &inputs, row));
        }
        let drifted = |distances: &Vec<Option<f64>>| {
            let above =
                distances.iter().map(|distance| Some(distance.is_some_and(|distance| distance > self.threshold)));
            Arc::new(above.collect::<BooleanArray>()) as ArrayRef
        };
        let flags: Vec<ArrayRef> = distances.iter().map(drifted).collect();
        let distances = distances.into_iter().map(|distances| Arc::new(Float64Array::from(distances)) as ArrayRef);
        let distances = self.distances.iter().map(String::as_str).zip(distances);
        let columns = distances.chain(self.flags.iter().map(String::as_str).zip(flags)).collect();
        Ok(Some(with_columns(&self.schema, rows, columns)?))
    }

    fn expired(&self, _: &Vec<Watch>, _: i64) -> bool {
        false
    }
}

impl DetectDrift {
    fn learn(&self, known: &mut Vec<Watch>, inputs: &[Float64Array], row: usize) {
        known.resize_with(inputs.len(), Watch::default);
        for (known, input) in known.iter_mut().zip(inputs).filter(|(_, input)| input.is_valid(row)) {
            self.add(known, input.value(row).clamp(-VALUE_MAX, VALUE_MAX));
        }
    }

    fn add(&self, known: &mut Watch, value: f64) {
        known.present.push(value);
        if known.present.len() < self.window {
            return;
        }
        known.present.sort_unstable_by(f64::total_cmp);
        let first = known.reference.is_empty();
        if !first {
            known.distance = Some(self.method.distance(&known.reference, &known.present));
        }
        if first || self.reference == Reference::Previous {
            std::mem::swap(&mut known.reference, &mut known.present);
        }
        known.present.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Random, check, own_columns, problems};
    use super::Method;

    #[test]
    fn each_window_is_compared_with_the_first() {
        check(
            &super::KIND,
            &json!({"columns": ["count"], "window": 2, "method": "wasserstein", "threshold": 2}),
            "t count
             1 10
             2 12
             3 null
             4 14
             5 10
             6 11
             7 15
             8 16
             9 12",
            "t count count_drift count_drifted
             1 10 null false
             2 12 null false
             3 null null false
             4 14 null false
             5 10 null false
             6 11 1 false
             7 15 1 false
             8 16 2 false
             9 12 2 false",
        );
    }

    #[test]
    fn or_with_the_one_before() {
        check(
            &super::KIND,
            &json!({"columns": ["count"], "window": 2, "method": "wasserstein", "threshold": 2, "reference": "previous"}),
            "t count\n1 10\n2 12\n3 20\n4 22\n5 21\n6 21\n7 1",
            "t count count_drift count_drifted
             1 10 null false\n2 12 null false\n3 20 null false\n4 22 null false\n5 21 10 true\n6 21 10 true\n7 1 1 false",
        );
    }

    #[test]
    fn distances_are_the_textbooks() {
        let reference: Vec<f64> = (0..100).map(f64::from).collect();
        let moved: Vec<f64> = (0..100).map(|at| f64::from(at) + 10.0).collect();
        for method in [Method::PopulationStability, Method::JensenShannon, Method::Wasserstein] {
            assert!(method.distance(&reference, &reference).abs() < 1e-12, "{method:?}");
        }
        // Ten in each decile; moved by one decile: none in the first, twenty in the last.
        let share = |count: f64| (count + 0.5) / 105.0;
        let terms = |term: fn(f64, f64) -> f64| term(share(10.0), share(0.0)) + term(share(10.0), share(20.0));
        let index = terms(|p, q| (q - p) * (q / p).ln());
        assert!((Method::PopulationStability.distance(&reference, &moved) - index).abs() < 1e-12);
        let divergence = terms(|p, q| 0.5 * (p * (2.0 * p / (p + q)).log2() + q * (2.0 * q / (p + q)).log2()));
        assert!((Method::JensenShannon.distance(&reference, &moved) - divergence).abs() < 1e-12);
        let deviation = (9999.0_f64 / 12.0).sqrt();
        assert!((Method::Wasserstein.distance(&reference, &moved) - 10.0 / deviation).abs() < 1e-12);
        // All the same, then something else; and what is as large as can be.
        for method in [Method::PopulationStability, Method::JensenShannon, Method::Wasserstein] {
            assert!(method.distance(&[5.0; 50], &[6.0; 50]) > method.threshold(), "{method:?}");
            assert!(method.distance(&[-1e100, 1e100], &[1e100, 1e100]).is_finite(), "{method:?}");
        }
    }

    #[test]
    fn usual_windows_are_below_the_thresholds_and_changed_ones_above() {
        for method in [Method::PopulationStability, Method::JensenShannon, Method::Wasserstein] {
            for seed in 0..20 {
                let mut random = Random::new(seed);
                let mut sample = |scale: f64| {
                    let unit = |random: &mut Random| random.below(1_000_000) as f64 / 1e6;
                    let sum = |random: &mut Random| (0..12).map(|_| unit(random)).sum::<f64>() - 6.0;
                    let mut values: Vec<f64> = (0..500).map(|_| scale * sum(&mut random)).collect();
                    values.sort_unstable_by(f64::total_cmp);
                    values
                };
                let (reference, same, wider) = (sample(1.0), sample(1.0), sample(2.5));
                let threshold = method.threshold();
                assert!(method.distance(&reference, &same) < threshold, "{method:?}, seed {seed}");
                assert!(method.distance(&reference, &wider) > threshold, "{method:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn columns_are_added() {
        let added = "count_drift humidity_drift count_drifted humidity_drifted";
        let expected = format!("sensor room temperature humidity count at ok {added}");
        assert_eq!(own_columns(&super::KIND, &json!({"columns": ["count", "humidity"]})), expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room"], "by": ["x"], "window": 1, "threshold": -1});
        let expected = "columns wrong-type; by.0 unknown-column; window bad-value; threshold bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
