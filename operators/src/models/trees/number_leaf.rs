//! A leaf of a tree of numbers: what it saw, how it predicts, and where it would split.

use serde::{Deserialize, Serialize};

use super::super::{Row, Shape, Tensor};
use super::arena::Test;
use super::categories::Categories;
use super::gather;
use super::number_tree::{Growth, Predicting};

/// How many rows a leaf keeps before it lays bins by them.
const SAMPLE: usize = 64;

/// How many bins a column has, and how many edges are between them.
const BINS: usize = 16;
const EDGES: usize = BINS - 1;

/// How much of the past errors of both ways to predict is forgotten with each example.
const FADE: f64 = 0.95;

/// Both sides of a split have at least this share of the rows, and this weight.
const SIDE_MIN: (f64, f64) = (0.01, 5.0);

/// Errors beyond this many standard deviations of the target teach the linear model no more than these.
const ERROR_MAX: f64 = 10.0;

/// A question, what it is worth, and of the rows that say yes the weight and the sum of the targets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) test: Test,
    pub(super) merit: f64,
    yes: [f64; 2],
}

/// What a leaf knows. Targets are kept less `origin`, so that sums of them lose nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct NumberLeaf {
    pub(super) depth: u32,
    numbers: Vec<u32>,
    columns: Vec<u32>,
    origin: f64,
    /// The mean of the targets, and their weight; at first those that its parent had here.
    mean: f64,
    count: f64,
    /// Since there is the leaf: the weight, the sum of targets, and that of their squares.
    seen: [f64; 3],
    tried: f64,
    /// Of the linear model over normalised numbers; the last is the bias.
    weights: Vec<f64>,
    steps: f64,
    /// Faded squared errors of the mean, and of the linear model.
    errors: [f64; 2],
    /// The first rows, each with its target and its weight.
    sample: Vec<f64>,
    /// For each number, the edges of its bins; then for each bin the weight and the sum of targets.
    edges: Vec<f64>,
    bins: Vec<f64>,
    /// Of categories, the weights as class 0, and the sums of targets as class 1.
    categories: Categories,
}

impl NumberLeaf {
    /// With a mean of so much weight, and a linear model, to begin with.
    pub(super) fn new(
        depth: u32,
        numbers: Vec<u32>,
        columns: Vec<u32>,
        (mean, count): (f64, f64),
        weights: Vec<f64>,
    ) -> Self {
        Self {
            depth,
            categories: Categories::new(columns.len()),
            numbers,
            columns,
            origin: mean,
            mean,
            count,
            seen: [0.0; 3],
            tried: 0.0,
            weights,
            steps: 0.0,
            errors: [0.0; 2],
            sample: Vec::new(),
            edges: Vec::new(),
            bins: Vec::new(),
        }
    }

    /// The mean of the targets, and their weight.
    pub(super) fn mean(&self) -> (f64, f64) {
        (self.mean, self.count)
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What the linear model says of normalised numbers, in standard deviations of the target from its mean.
    fn linear(&self, normal: &[f64]) -> f64 {
        self.weights.iter().zip(normal).map(|(weight, z)| weight * z).sum::<f64>()
            + self.weights.last().copied().unwrap_or(0.0)
    }

    /// Whether it predicts by its linear model.
    #[inline]
    pub(super) fn is_linear(&self, predicting: Predicting) -> bool {
        match predicting {
            Predicting::Mean => false,
            Predicting::Linear => true,
            Predicting::Adaptive => self.errors[1] < self.errors[0],
        }
    }

    /// Predicts; `target` is the mean and the standard deviation of all targets.
    #[inline]
    pub(super) fn predict(&self, predicting: Predicting, normal: &[f64], target: (f64, f64)) -> f64 {
        if self.is_linear(predicting) { target.0 + target.1 * self.linear(normal) } else { self.mean }
    }

    /// Learns a target of this weight.
    pub(super) fn learn(
        &mut self,
        growth: &Growth,
        row: Row<'_>,
        (target, weight): (f64, f64),
        normal: &[f64],
        scale: (f64, f64),
        scratch: &mut [f64],
    ) {
        if !self.weights.is_empty() {
            let (sum, wanted) = (self.linear(normal), if scale.1 > 0.0 { (target - scale.0) / scale.1 } else { 0.0 });
            let linear = scale.0 + scale.1 * sum;
            for (error, said) in self.errors.iter_mut().zip([self.mean, linear]) {
                *error = FADE * *error + (1.0 - FADE) * (target - said) * (target - said);
            }
            self.step(normal, (wanted - sum).clamp(-ERROR_MAX, ERROR_MAX), weight);
        }
        if self.count == 0.0 {
            self.origin = target;
        }
        self.count += weight;
        self.mean += (target - self.mean) * (weight / self.count.min(growth.memory).max(weight));
        let less = target - self.origin;
        self.seen[0] += weight;
        self.seen[1] += weight * less;
        self.seen[2] += weight * less * less;
        self.categories.add(row, &self.columns, 0, weight);
        self.categories.add(row, &self.columns, 1, weight * less);
        let numbers = &mut scratch[..self.numbers.len()];
        gather(row, &self.numbers, numbers);
        self.observe(numbers, less, weight);
    }

    /// A normalised step of least mean squares: never past the target, shorter with the root of their number.
    fn step(&mut self, normal: &[f64], error: f64, weight: f64) {
        self.steps += weight;
        let reach = 1.0 + normal.iter().map(|z| z * z).sum::<f64>();
        let rate = (1.0 / (1.0 + (self.steps / 10.0).sqrt())).max(0.02);
        // A weight of w is w steps, one after the other.
        let share = if weight == 1.0 { rate } else { 1.0 - libm::pow(1.0 - rate, weight) };
        let step = share * error / reach;
        let (bias, weights) = self.weights.split_last_mut().expect("there is a bias");
        for (weight, z) in weights.iter_mut().zip(normal) {
            *weight += step * z;
        }
        *bias += step;
    }

    fn observe(&mut self, numbers: &[f64], less: f64, weight: f64) {
        if self.bins.is_empty() && !numbers.is_empty() {
            self.sample.extend_from_slice(numbers);
            self.sample.extend([less, weight]);
            if self.sample.len() == SAMPLE * (numbers.len() + 2) {
                self.lay_bins(numbers.len());
            }
            return;
        }
        let bins = self.bins.chunks_exact_mut(2 * BINS);
        for ((x, edges), bins) in numbers.iter().zip(self.edges.chunks_exact(EDGES)).zip(bins) {
            let at = bin(edges, *x);
            bins[2 * at] += weight;
            bins[2 * at + 1] += weight * less;
        }
    }

    /// Lays the edges so that about as many of the first rows are in each bin, and puts these rows there.
    fn lay_bins(&mut self, columns: usize) {
        let sample = std::mem::take(&mut self.sample);
        for column in 0..columns {
            let mut values: Vec<f64> = sample.iter().skip(column).step_by(columns + 2).copied().collect();
            values.sort_by(f64::total_cmp);
            self.edges.extend(edges(&values));
        }
        self.bins = vec![0.0; columns * 2 * BINS];
        for row in sample.chunks_exact(columns + 2) {
            self.observe(&row[..columns], row[columns], row[columns + 1]);
        }
    }

    /// Whether it is time to try a split.
    pub(super) fn is_due(&mut self, growth: &Growth) -> bool {
        let due = self.seen[0] - self.tried >= growth.grace_period && self.depth < growth.max_depth;
        if due {
            self.tried = self.seen[0];
        }
        due
    }

    /// The weight that it has seen.
    pub(super) fn seen(&self) -> f64 {
        self.seen[0]
    }

    /// By how much a split lowers the variance of the targets, where `yes` is the weight and the sum on one side.
    fn merit(&self, yes: [f64; 2]) -> f64 {
        let [count, sum, _] = self.seen;
        let (share, weight) = SIDE_MIN;
        let least = (share * count).max(weight);
        if yes[0] < least || count - yes[0] < least {
            return 0.0;
        }
        let difference = yes[1] / yes[0] - (sum - yes[1]) / (count - yes[0]);
        difference * difference * (yes[0] / count) * ((count - yes[0]) / count)
    }

    /// The best question about each column.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let pick = |best: Option<Candidate>, test: Test, yes: [f64; 2]| {
            let merit = self.merit(yes);
            if merit > best.map_or(0.0, |best| best.merit) { Some(Candidate { test, merit, yes }) } else { best }
        };
        let bins = self.edges.chunks_exact(EDGES).zip(self.bins.chunks_exact(2 * BINS));
        let numbers = self.numbers.iter().zip(bins).filter_map(|(column, (edges, bins))| {
            let (mut best, mut yes) = (None, [0.0; 2]);
            for (threshold, bin) in edges.iter().zip(bins.chunks_exact(2)) {
                yes = [yes[0] + bin[0], yes[1] + bin[1]];
                best = pick(best, Test::Number { column: *column, threshold: *threshold }, yes);
            }
            best
        });
        let categories = self.columns.iter().filter_map(|&column| {
            self.categories.of(column).fold(None, |best, entries| {
                let of = |class| entries.iter().filter(|entry| entry.class == class).map(|entry| entry.weight).sum();
                pick(best, Test::Category { column, category: entries[0].category }, [of(0), of(1)])
            })
        });
        numbers.chain(categories).collect()
    }

    /// What the sides of a split begin with: means and weights.
    pub(super) fn sides(&self, candidate: &Candidate) -> [(f64, f64); 2] {
        let no = [self.seen[0] - candidate.yes[0], self.seen[1] - candidate.yes[1]];
        [candidate.yes, no].map(|[count, sum]| (self.origin + sum / count, count))
    }

    /// What is needed to predict.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<Tensor> {
        let numbers = self.numbers.iter().map(|column| f64::from(*column)).collect();
        vec![
            Tensor::row(format!("{prefix}errors"), self.errors.to_vec()),
            Tensor::row(format!("{prefix}weights"), self.weights.clone()),
            Tensor::row(format!("{prefix}numbers"), numbers),
        ]
    }

    /// Whether this is a possible leaf for rows of this shape, with a linear model or without.
    pub(super) fn fits(&self, shape: Shape, linear: bool) -> bool {
        let (columns, sample) = (self.numbers.len(), self.numbers.len() + 2);
        let below = |values: &[u32], bound: usize| values.iter().all(|value| (*value as usize) < bound);
        let binned = self.edges.len() == columns * EDGES && self.bins.len() == columns * 2 * BINS;
        let fresh = self.edges.is_empty() && self.bins.is_empty() && self.sample.len() < SAMPLE * sample;
        self.depth < u32::MAX
            && below(&self.numbers, shape.dense)
            && self.numbers.is_sorted_by(|a, b| a < b)
            && below(&self.columns, shape.active)
            && self.columns.is_sorted_by(|a, b| a < b)
            && self.weights.len() == if linear { shape.dense + 1 } else { 0 }
            && (binned || fresh)
            && self.sample.len().is_multiple_of(sample)
            && self.weights.iter().chain(&self.sample).chain(&self.bins).chain(&self.seen).all(|x| x.is_finite())
            && [self.origin, self.mean, self.count].iter().all(|x| x.is_finite())
            && self.categories.fits(shape.active, 2, -f64::MAX, &self.columns)
    }
}

/// In which bin a number is: how many edges it is above.
#[inline]
fn bin(edges: &[f64], x: f64) -> usize {
    let mut at = 0;
    for step in [8, 4, 2, 1] {
        at += if x > edges[at + step - 1] { step } else { 0 };
    }
    at
}

/// Edges halfway between neighbours among sorted values, about as many values between each two; the rest is out of reach.
fn edges(values: &[f64]) -> [f64; EDGES] {
    let mut distinct = values.to_vec();
    distinct.dedup();
    let mut edges = [f64::MAX; EDGES];
    let places: Vec<usize> = if distinct.len() <= BINS {
        (1..distinct.len()).collect()
    } else {
        let quantile = |at: usize| values[at * values.len() / BINS];
        let mut places: Vec<usize> =
            (1..BINS).map(|at| distinct.partition_point(|value| *value < quantile(at))).filter(|at| *at > 0).collect();
        places.dedup();
        places
    };
    for (edge, at) in edges.iter_mut().zip(places) {
        *edge = distinct[at - 1] / 2.0 + distinct[at] / 2.0;
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_between_values() {
        let zeros_and_ones: Vec<f64> = (0..64).map(|at| f64::from(at == 63)).collect();
        assert_eq!(edges(&zeros_and_ones)[..2], [0.5, f64::MAX]);
        let even: Vec<f64> = (0..64).map(f64::from).collect();
        assert_eq!(edges(&even)[..3], [3.5, 7.5, 11.5]);
        let found = edges(&even);
        for x in [-1.0, 0.0, 3.5, 3.6, 30.0, 59.5, 60.0, 1e9] {
            assert_eq!(bin(&found, x), found.iter().filter(|edge| x > **edge).count(), "{x}");
        }
    }
}
