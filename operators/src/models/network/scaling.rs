//! Columns of any scale, made ones that a network takes: in deviations from their means so far.

use serde::{Deserialize, Serialize};

use super::super::onnx::{Edge, Graph, Rows};
use super::super::spread::Spread;
use super::super::{Shape, Tensor, Weights};
use super::samples::Samples;

/// A number further from the mean counts as one this many deviations away.
const DEVIATIONS_MAX: f64 = 8.0;
/// What counts more counts as this: there has to be room for sums.
const WEIGHT_MAX: f64 = 1e9;
/// What no unscaled number is beyond.
const PLAIN_MAX: f64 = 1e18;

/// Of each column of numbers, and of the target, what it is measured by; nothing where numbers are taken as they are.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Scaling {
    columns: Vec<Spread>,
    target: Option<Spread>,
}

impl Scaling {
    /// For so many columns, and for targets if they have a scale.
    pub(super) fn new(columns: usize, has_target: bool) -> Self {
        Self { columns: vec![Spread::default(); columns], target: has_target.then(Spread::default) }
    }

    /// Takes note of the first rows.
    pub(super) fn add(&mut self, rows: &Samples, len: usize, shape: Shape) {
        for at in 0..len {
            let (row, weight) = (rows.row(at, shape), rows.weights[at].min(WEIGHT_MAX));
            self.columns.iter_mut().zip(row.dense).for_each(|(spread, x)| spread.add(*x, weight));
            if let Some(spread) = &mut self.target {
                spread.add(rows.targets[at], weight);
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
            .map(|spread| {
                let deviation = spread.deviation();
                (spread.mean, if deviation > 0.0 { 1.0 / deviation } else { 0.0 })
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

    /// The same of the numbers of an ONNX graph, in double precision.
    pub(super) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Option<Edge> {
        if self.columns.is_empty() {
            return Some(graph.clamp(rows.numbers?, -PLAIN_MAX, PLAIN_MAX));
        }
        let (means, deviations) = self.told();
        let numbers = rows.standardised(graph, f64::MAX, &means, &deviations)?;
        Some(graph.clamp(numbers, -DEVIATIONS_MAX, DEVIATIONS_MAX))
    }

    /// A target as the network learns it.
    pub(super) fn target(&self, target: f64) -> f64 {
        self.target.as_ref().map_or(target, |spread| spread.standard(target, DEVIATIONS_MAX))
    }

    /// A number from an output of the network.
    pub(super) fn number(&self, output: f64) -> f64 {
        self.target.as_ref().map_or(output, |spread| spread.mean + spread.deviation() * output)
    }

    /// Whether it is of so many columns, and sound.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.columns.len() == other.columns.len()
            && self.target.is_some() == other.target.is_some()
            && self.columns.iter().chain(&self.target).all(Spread::is_sound)
    }

    /// All of it, for artefacts.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let told = |what: &str, spreads: &[Spread]| {
            let row = |name: &str, of: fn(&Spread) -> f64| {
                Tensor::row(format!("{what}.{name}"), spreads.iter().map(of).collect())
            };
            let means = row("mean", |spread| spread.mean);
            (!spreads.is_empty()).then(|| [means, row("deviation", Spread::deviation), row("count", Spread::count)])
        };
        [told("inputs", &self.columns), told("target", self.target.as_slice())]
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    }

    /// Takes it from others.
    pub(super) fn take(&mut self, from: &mut Weights) -> Result<(), String> {
        for (what, spreads) in [("inputs", &mut self.columns[..]), ("target", self.target.as_mut_slice())] {
            if spreads.is_empty() {
                continue;
            }
            let mut row = |name: &str| from.take(&format!("{what}.{name}"), &[spreads.len()]);
            let (means, deviations, counts) = (row("mean")?, row("deviation")?, row("count")?);
            for (at, spread) in spreads.iter_mut().enumerate() {
                *spread = Spread::new(counts[at], means[at], deviations[at]);
                if !spread.is_sound() || deviations[at] < 0.0 {
                    return Err(format!("`{what}.deviation` or `{what}.count` is out of range at {at}"));
                }
            }
        }
        Ok(())
    }

    /// Means and deviations of the columns.
    pub(super) fn told(&self) -> (Vec<f64>, Vec<f64>) {
        let columns = self.columns.iter();
        (columns.clone().map(|spread| spread.mean).collect(), columns.map(Spread::deviation).collect())
    }
}
