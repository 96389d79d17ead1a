//! Columns of any scale, made ones that a network takes: in deviations from their means so far.

use serde::{Deserialize, Serialize};

use super::super::Shape;
use super::samples::Samples;

/// A number further from the mean counts as one this many deviations away.
const DEVIATIONS_MAX: f64 = 8.0;
/// What no number is beyond: squares have to leave room for sums.
const NUMBER_MAX: f64 = 1e100;
/// What no unscaled number is beyond.
const PLAIN_MAX: f64 = 1e18;

/// Mean and deviation so far (West 1979).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Moments {
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64, weight: f64) {
        let (x, weight) = (x.clamp(-NUMBER_MAX, NUMBER_MAX), weight.min(1e9));
        self.weight += weight;
        let delta = x - self.mean;
        self.mean += delta * (weight / self.weight);
        self.squares += weight * delta * (x - self.mean);
    }

    fn deviation(&self) -> f64 {
        if self.weight > 0.0 { (self.squares / self.weight).max(0.0).sqrt() } else { 0.0 }
    }

    /// In deviations from the mean; 0 where there are none.
    fn scaled(&self, x: f64) -> f64 {
        let deviation = self.deviation();
        if deviation > 0.0 { ((x - self.mean) / deviation).clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX) } else { 0.0 }
    }

    fn is_sound(&self) -> bool {
        [self.weight, self.mean, self.squares].iter().all(|number| number.is_finite()) && self.weight >= 0.0
    }
}

/// Of each column of numbers, and of the target, what it is measured by; nothing where numbers are taken as they are.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Scaling {
    columns: Vec<Moments>,
    target: Option<Moments>,
}

impl Scaling {
    /// For so many columns, and for targets if they have a scale.
    pub(super) fn new(columns: usize, has_target: bool) -> Self {
        Self { columns: vec![Moments::default(); columns], target: has_target.then(Moments::default) }
    }

    /// Takes note of the first rows.
    pub(super) fn add(&mut self, rows: &Samples, len: usize, shape: Shape) {
        for at in 0..len {
            let (row, weight) = (rows.row(at, shape), rows.weights[at]);
            self.columns.iter_mut().zip(row.dense).for_each(|(moments, x)| moments.add(*x, weight));
            if let Some(moments) = &mut self.target {
                moments.add(rows.targets[at], weight);
            }
        }
    }

    /// Rows as the network takes them, added to `into`.
    pub(super) fn numbers(&self, dense: &[f64], into: &mut Vec<f32>) {
        if self.columns.is_empty() {
            into.extend(dense.iter().map(|x| x.clamp(-PLAIN_MAX, PLAIN_MAX) as f32));
            return;
        }
        // A division for each column, not for each number.
        let factors: Vec<(f64, f64)> = self
            .columns
            .iter()
            .map(|moments| {
                let deviation = moments.deviation();
                (moments.mean, if deviation > 0.0 { 1.0 / deviation } else { 0.0 })
            })
            .collect();
        for row in dense.chunks_exact(factors.len()) {
            into.extend(row.iter().zip(&factors).map(|(x, (mean, factor))| {
                let scaled = (x - mean) * factor;
                // What is not a number comes of an endless factor, and is at the mean.
                if scaled.is_nan() { 0.0 } else { scaled.clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX) as f32 }
            }));
        }
    }

    /// A target as the network learns it.
    pub(super) fn target(&self, target: f64) -> f64 {
        self.target.as_ref().map_or(target, |moments| moments.scaled(target))
    }

    /// A number from an output of the network.
    pub(super) fn number(&self, output: f64) -> f64 {
        self.target.as_ref().map_or(output, |moments| moments.mean + moments.deviation() * output)
    }

    /// Whether it is of so many columns, and sound.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.columns.len() == other.columns.len()
            && self.target.is_some() == other.target.is_some()
            && self.columns.iter().chain(&self.target).all(Moments::is_sound)
    }

    /// Means and deviations of the columns, for artefacts.
    pub(super) fn told(&self) -> (Vec<f64>, Vec<f64>) {
        let columns = self.columns.iter();
        (columns.clone().map(|moments| moments.mean).collect(), columns.map(Moments::deviation).collect())
    }
}
