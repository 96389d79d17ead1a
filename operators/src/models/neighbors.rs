//! The last examples, and those of them that are most like a row: what the learners by nearest neighbours share.
//!
//! The window is a ring, column after column, so that distances to all of its rows are computed column by column in
//! loops that the compiler vectorises. A difference of numbers counts in standard deviations of its column within the window,
//! which are measured anew whenever an eighth of the window is new.

use std::ops::Range;

use millstream_engine::catalogue::{Planned, configuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::onnx::{self, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, counted};
use super::{Example, Names, Row, Shape, Tensor};

/// Settings of nearest neighbours.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many of the most similar examples are asked; from 1 to 1000.
    neighbors: u32,
    /// How many examples are kept, the last ones; from 1 to 1000000. Each costs time at every row.
    window: u32,
    /// Whether an example counts the more the nearer it is, by the reciprocal of its distance; or else all count alike.
    weighted: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { neighbors: 5, window: 1000, weighted: true }
    }
}

impl Config {
    pub(super) fn checked(value: &Value) -> Planned<Self> {
        let config: Self = configuration(value)?;
        let ranges = Ranges::default().within("neighbors", config.neighbors.into(), 1.0, 1000.0);
        ranges.within("window", config.window.into(), 1.0, 1e6).finish()?;
        Ok(config)
    }
}

/// The squared distance of two rows in different categories of a column: on average that of two numbers of one column, too.
const MISMATCH: f64 = 2.0;
/// Squared distances do not grow beyond this.
const FAR: f64 = 1e300;
/// A distance is at least this, so that its reciprocal is a number.
const NEAR: f64 = 1e-9;
/// A column that varies by less than this share of its mean's square varies by rounding only.
const CONSTANT: f64 = 1e-29;

/// The last examples.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Window {
    config: Config,
    /// How many examples came.
    seen: u64,
    /// How many had come when the scales were measured.
    measured: u64,
    /// Of each column of numbers, one over its standard deviation; 0 where it does not vary.
    factors: Vec<f64>,
    /// Column after column, one number for each place of the ring.
    dense: Vec<f64>,
    active: Vec<u32>,
    targets: Vec<f64>,
    weights: Vec<f64>,
}

impl Window {
    pub(super) fn new(shape: Shape, config: Config) -> Self {
        let places = config.window as usize;
        Self {
            config,
            seen: 0,
            measured: 0,
            factors: vec![0.0; shape.dense],
            dense: vec![0.0; shape.dense * places],
            active: vec![0; shape.active * places],
            targets: vec![0.0; places],
            weights: vec![0.0; places],
        }
    }

    fn places(&self) -> usize {
        self.targets.len()
    }

    /// How many examples are in it.
    pub(super) fn len(&self) -> usize {
        self.seen.min(self.places() as u64) as usize
    }

    /// Calls `vote` with the target of each of the nearest examples, and how much it counts.
    #[inline]
    pub(super) fn ask(&self, row: Row<'_>, scratch: &mut Vec<f64>, mut vote: impl FnMut(f64, f64)) {
        let count = self.len();
        let most = count.min(self.config.neighbors as usize);
        scratch.clear();
        scratch.resize(count + 2 * most, 0.0);
        let (squares, nearest) = scratch.split_at_mut(count);
        self.distances(row, squares);
        let (distances, places) = nearest.split_at_mut(most);
        let found = self.select(squares, distances, places);
        for (square, place) in distances[..found].iter().zip(places) {
            let place = *place as usize;
            let nearness = if self.config.weighted { 1.0 / square.sqrt().max(NEAR) } else { 1.0 };
            vote(self.targets[place], self.weights[place] * nearness);
        }
    }

    /// The squared distance of each example from a row.
    #[inline]
    fn distances(&self, row: Row<'_>, squares: &mut [f64]) {
        let places = self.places();
        for (at, x) in row.dense.iter().enumerate() {
            let (x, factor) = (counted(*x), self.factors[at]);
            if factor > 0.0 {
                for (square, other) in squares.iter_mut().zip(&self.dense[at * places..][..places]) {
                    let apart = (other - x) * factor;
                    *square += apart * apart;
                }
            }
        }
        for (at, category) in row.active.iter().enumerate() {
            for (square, other) in squares.iter_mut().zip(&self.active[at * places..][..places]) {
                *square += if other == category { 0.0 } else { MISMATCH };
            }
        }
    }

    /// The least squares in ascending order, and their places; of equal ones the newest. Gives how many.
    #[inline]
    fn select(&self, squares: &[f64], least: &mut [f64], places: &mut [f64]) -> usize {
        let mut found = 0;
        let newest_end = if squares.len() < self.places() { squares.len() } else { self.next() };
        let mut look = |range: Range<usize>| {
            for place in range.rev() {
                let square = squares[place].min(FAR);
                if found == least.len() && square >= least[found - 1] {
                    continue;
                }
                found = (found + 1).min(least.len());
                let mut at = found - 1;
                while at > 0 && least[at - 1] > square {
                    (least[at], places[at]) = (least[at - 1], places[at - 1]);
                    at -= 1;
                }
                (least[at], places[at]) = (square, place as f64);
            }
        };
        look(0..newest_end);
        look(newest_end..squares.len());
        found
    }

    /// The place of the next example.
    fn next(&self) -> usize {
        (self.seen % self.places() as u64) as usize
    }

    /// Takes an example in, for the oldest one.
    pub(super) fn push(&mut self, row: Row<'_>, example: Example) {
        let (places, place) = (self.places(), self.next());
        for (at, x) in row.dense.iter().enumerate() {
            self.dense[at * places + place] = counted(*x);
        }
        for (at, category) in row.active.iter().enumerate() {
            self.active[at * places + place] = *category;
        }
        self.targets[place] = example.target;
        self.weights[place] = example.weight.clamp(1e-100, 1e100);
        self.seen += 1;
        if self.seen >= self.measured.saturating_add((self.len() as u64 / 8).max(1)) {
            self.measure();
        }
    }

    /// Measures how much the columns vary.
    fn measure(&mut self) {
        self.measured = self.seen;
        let (places, count) = (self.places(), self.len());
        for (at, factor) in self.factors.iter_mut().enumerate() {
            let column = &self.dense[at * places..][..count];
            let mean = column.iter().sum::<f64>() / count as f64;
            let variance = column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count as f64;
            *factor = if variance > mean * mean * CONSTANT { 1.0 / variance.sqrt() } else { 0.0 };
        }
    }

    /// The same for an ONNX graph: how much each of the nearest examples counts, `[rows, nearest]`, and which ones they are, the newest of
    /// all being 0. There must be examples.
    pub(super) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> (onnx::Edge, onnx::Edge) {
        let (places, newest) = (self.places(), self.newest_first());
        let row = |place: usize| (0..self.factors.len()).map(move |at| self.dense[at * places + place]);
        let centres: Vec<f64> = newest.iter().copied().flat_map(row).collect();
        let mut squares = rows.repeat(graph, &vec![0.0; newest.len()]);
        if let Some(apart) = rows.apart(graph, COUNTED_MAX, &centres) {
            let apart = rows.times(graph, apart, &self.factors);
            let of_numbers = graph.reduce("ReduceSumSquare", apart, 2, false);
            squares = graph.add(squares, of_numbers);
        }
        if let Some(active) = rows.active {
            let codes: Vec<i64> = (newest.iter())
                .flat_map(|place| (0..rows.shape.active).map(|at| i64::from(self.active[at * places + *place])))
                .collect();
            let (own, codes) = (graph.widen(active, 1), graph.integers(&codes));
            let shape = graph.integers(&[newest.len() as i64, rows.shape.active as i64]);
            let codes = graph.apply("Reshape", &[codes, shape]);
            let same = graph.apply("Equal", &[own, codes]);
            let differs = graph.apply("Not", &[same]);
            let differs = graph.as_doubles(differs);
            let mismatches = graph.sum(differs, 2);
            let of_categories = graph.scale(mismatches, MISMATCH);
            squares = graph.add(squares, of_categories);
        }
        let squares = graph.at_most(squares, FAR);
        let (least, nearest) = graph.least(squares, newest.len().min(self.config.neighbors as usize));
        let weights: Vec<f64> = newest.iter().map(|place| self.weights[*place]).collect();
        let weights = graph.doubles(&[weights.len()], &weights);
        let mut votes = graph.gather(weights, nearest);
        if self.config.weighted {
            let distances = graph.apply("Sqrt", &[least]);
            let distances = graph.at_least(distances, NEAR);
            votes = graph.divide(votes, distances);
        }
        (votes, nearest)
    }

    /// The places of the examples, the newest first.
    fn newest_first(&self) -> Vec<usize> {
        let newest_end = if self.len() < self.places() { self.len() } else { self.next() };
        (0..newest_end).rev().chain((newest_end..self.len()).rev()).collect()
    }

    /// The targets of the examples, the newest first.
    pub(super) fn targets_newest_first(&self) -> impl Iterator<Item = f64> {
        self.newest_first().into_iter().map(|place| self.targets[place])
    }

    /// The targets of the examples in it.
    pub(super) fn targets(&self) -> &[f64] {
        &self.targets[..self.len()]
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        vec![
            Tensor::table("rows", self.factors.len(), self.dense.clone()),
            Tensor::row("categories", self.active.iter().map(|category| f64::from(*category)).collect()),
            Tensor::row("targets", self.targets.clone()),
            Tensor::row("weights", self.weights.clone()),
            Tensor::row("factors", self.factors.clone()),
            Tensor::row("seen", vec![self.seen as f64]),
        ]
    }

    /// What there is to compare with, for people.
    pub(super) fn lines(&self, names: &Names) -> Vec<String> {
        let Config { neighbors, window, weighted } = self.config;
        let votes = if weighted { ", each by the reciprocal of its distance" } else { "" };
        let mut lines = vec![
            format!("the {neighbors} nearest of the last {} examples (at most {window}){votes}", self.len()),
            format!(
                "distance: numbers in standard deviations; two categories of a column are {:.3} apart",
                MISMATCH.sqrt()
            ),
        ];
        lines.extend(self.factors.iter().enumerate().map(|(at, factor)| {
            let name = names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}"));
            if *factor > 0.0 {
                format!("{name}: standard deviation {:.6}", 1.0 / factor)
            } else {
                format!("{name}: does not vary")
            }
        }));
        lines
    }

    /// How much of each column's variance goes with that of a function of the target, the most first.
    pub(super) fn importances(&self, names: &Names) -> Vec<(String, f64)> {
        let (places, count) = (self.places(), self.len());
        let mut importances: Vec<(String, f64)> = (0..self.factors.len())
            .map(|at| {
                let name = names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}"));
                (name, squared_correlation(&self.dense[at * places..][..count], self.targets()))
            })
            .collect();
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        importances
    }

    pub(super) fn fits(&self, shape: Shape) -> bool {
        let places = self.config.window as usize;
        let finite = |numbers: &[f64]| numbers.iter().all(|number| number.is_finite());
        places > 0
            && self.config.neighbors > 0
            && self.targets.len() == places
            && self.weights.len() == places
            && self.factors.len() == shape.dense
            && shape.dense.checked_mul(places) == Some(self.dense.len())
            && shape.active.checked_mul(places) == Some(self.active.len())
            && [&self.targets, &self.weights, &self.factors, &self.dense].into_iter().all(|numbers| finite(numbers))
            && self.seen < u64::MAX / 2
    }
}

/// The squared correlation of two columns; 0 where one does not vary.
fn squared_correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len().max(1) as f64;
    let centred = |xs: &[f64]| -> Vec<f64> {
        let mean = mean(xs);
        let length = xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>().sqrt();
        xs.iter().map(|x| if length > 0.0 { (x - mean) / length } else { 0.0 }).collect()
    };
    let product: f64 = centred(a).iter().zip(centred(b)).map(|(a, b)| a * b).sum();
    (product * product).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// Sorts all examples of the window by distance.
    fn naive(window: &[([f64; 2], u32, f64)], (x, category): ([f64; 2], u32), deviations: [f64; 2]) -> f64 {
        let mut all: Vec<(f64, f64)> = window
            .iter()
            .map(|(other, c, target)| {
                let numbers: f64 = (0..2).map(|at| ((other[at] - x[at]) / deviations[at]).powi(2)).sum();
                (numbers + if *c == category { 0.0 } else { 2.0 }, *target)
            })
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let votes = || all.iter().take(3).map(|(square, target)| (1.0 / square.sqrt(), target));
        votes().map(|(vote, target)| vote * target).sum::<f64>() / votes().map(|(vote, _)| vote).sum::<f64>()
    }

    #[test]
    fn the_nearest_of_the_window_are_asked() {
        let mut random = Random::seeded(9);
        let shape = Shape { dense: 2, active: 1, categories: 3, classes: 0 };
        // In a window of less than 16, deviations are measured at each example.
        let settings = json!({"nearest_neighbors_regression": {"neighbors": 3, "window": 15}});
        let mut pupil = Pupil::new(&settings, shape);
        let mut seen = Vec::new();
        for row in 0..200 {
            let (x, category) = ([1e5 + 1e3 * random.normal(), 1e-3 * random.normal()], random.below(3) as u32);
            let target = random.normal();
            let got = pupil.learn(&x, &[category], target);
            let window: &[([f64; 2], u32, f64)] = &seen[seen.len().saturating_sub(15)..];
            if row > 1 {
                let deviation = |at: usize| {
                    let mean = window.iter().map(|(x, ..)| x[at]).sum::<f64>() / window.len() as f64;
                    (window.iter().map(|(x, ..)| (x[at] - mean).powi(2)).sum::<f64>() / window.len() as f64).sqrt()
                };
                let want = naive(window, (x, category), [deviation(0), deviation(1)]);
                assert!((got - want).abs() < 1e-9, "row {row}: {got}, naively {want}");
            }
            seen.push((x, category, target));
        }
    }

    #[test]
    fn old_examples_leave_the_window() {
        let shape = Shape { dense: 1, active: 0, categories: 0, classes: 2 };
        let settings = json!({"nearest_neighbors": {"neighbors": 3, "window": 20}});
        let mut pupil = Pupil::new(&settings, shape);
        (0..50).for_each(|row| {
            pupil.learn(&[f64::from(row % 5)], &[], 1.0);
        });
        assert_eq!(pupil.predict(&[2.0], &[]), 1.0);
        (0..20).for_each(|row| {
            pupil.learn(&[f64::from(row % 5)], &[], 0.0);
        });
        assert_eq!(pupil.predict(&[2.0], &[]), 0.0);
    }
}
