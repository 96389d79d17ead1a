//! Columns of any scale and any offset become numbers in [-1, 1].
//!
//! A number counts as `(x - mean) / scale`, where `mean` is its running mean and `scale` its largest distance from that
//! so far, and in a request never as more than 1. Without the mean, a column like the year would be a second bias, and its
//! small changes lost.

use serde::{Deserialize, Serialize};

use super::super::onnx::{Edge, Graph, Rows};
use super::super::weights::within;
use super::super::{Row, Shape, Tensor, Weights};

/// The running means and scales of the numbers, and how long rows are.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::models) struct Scaling {
    /// The mean of each number so far.
    means: Vec<f64>,
    /// The largest distance of each number from its mean so far.
    scales: Vec<f64>,
    /// Whether the means move.
    centres: bool,
    /// Sum over all rows of their squared norms, and how many rows that were.
    norms: f64,
    rows: f64,
}

impl Scaling {
    pub(in crate::models) fn new(shape: Shape, centres: bool) -> Self {
        Self {
            means: vec![0.0; shape.dense],
            // Not zero, so that nothing is ever divided by zero.
            scales: vec![f64::MIN_POSITIVE; shape.dense],
            centres,
            norms: 0.0,
            rows: 0.0,
        }
    }

    /// Normalises the row's numbers into `scaled`.
    #[inline]
    pub(in crate::models) fn scale(&self, dense: &[f64], scaled: &mut Vec<f64>) {
        scaled.clear();
        let numbers = dense.iter().zip(&self.means).zip(&self.scales);
        scaled.extend(numbers.map(|((x, mean), scale)| (distance(*x, *mean) / scale).clamp(-1.0, 1.0)));
    }

    /// Takes note of a row before it is learned. Where scales grew, `rescale` is told of each the place, and the old one as a
    /// part of the new one. Says whether `scaled` changed, which then holds what the row is now.
    #[inline]
    pub(in crate::models) fn before(
        &mut self,
        row: Row<'_>,
        weight: f64,
        scaled: &mut Vec<f64>,
        rescale: impl FnMut(usize, f64),
    ) -> bool {
        let first = self.rows == 0.0;
        self.rows += weight;
        if first {
            // Nothing is unusual about the first row.
            self.centre(row.dense, weight);
        }
        let grew = self.grow(row.dense, rescale);
        if first || grew {
            self.scale(row.dense, scaled);
        }
        self.norms += weight * (dot(scaled, scaled) + 1.0 + row.active.len() as f64);
        first || grew
    }

    /// Takes note of a row after it was learned: moves the means, by a part of it that shrinks as rows add up.
    #[inline]
    pub(in crate::models) fn after(&mut self, row: Row<'_>, weight: f64) {
        self.centre(row.dense, weight);
    }

    /// The mean squared norm of the rows, with the bias and their categories.
    #[inline]
    pub(in crate::models) fn norm(&self) -> f64 {
        // Not zero, where the weights are so small that their products were.
        (self.norms / self.rows).max(1.0)
    }

    /// How many examples were seen.
    pub(in crate::models) fn rows(&self) -> f64 {
        self.rows
    }

    /// Raises the scales to the row's numbers; true if any was raised.
    #[inline]
    fn grow(&mut self, dense: &[f64], mut rescale: impl FnMut(usize, f64)) -> bool {
        let mut numbers = dense.iter().zip(&self.means).zip(&self.scales);
        if !numbers.any(|((x, mean), scale)| distance(*x, *mean).abs() > *scale) {
            return false;
        }
        for (at, x) in dense.iter().enumerate() {
            let (old, new) = (self.scales[at], distance(*x, self.means[at]).abs());
            if new > old {
                self.scales[at] = new;
                rescale(at, old / new);
            }
        }
        true
    }

    #[inline]
    fn centre(&mut self, dense: &[f64], weight: f64) {
        if self.centres {
            let share = weight / self.rows;
            for (mean, x) in self.means.iter_mut().zip(dense) {
                *mean += distance(*x, *mean) * share;
            }
        }
    }

    /// The same of the rows of an ONNX graph.
    pub(in crate::models) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Option<Edge> {
        let numbers = graph.clamp(rows.numbers?, -VALUE_MAX, VALUE_MAX);
        let means = graph.doubles(&[1, self.means.len()], &self.means);
        let scales = graph.doubles(&[1, self.scales.len()], &self.scales);
        let apart = graph.subtract(numbers, means);
        let scaled = graph.divide(apart, scales);
        Some(graph.clamp(scaled, -1.0, 1.0))
    }

    /// With how many rows they are of, and the sum of their squared norms.
    pub(in crate::models) fn tensors(&self) -> [Tensor; 4] {
        [
            Tensor::row("means", self.means.clone()),
            Tensor::row("scales", self.scales.clone()),
            Tensor::row("rows", vec![self.rows]),
            Tensor::row("norms", vec![self.norms]),
        ]
    }

    /// Takes them from others.
    pub(in crate::models) fn take(&mut self, from: &mut Weights) -> Result<(), String> {
        self.means = from.take("means", &[self.means.len()])?;
        within("means", &self.means, -VALUE_MAX, VALUE_MAX)?;
        self.scales = from.take("scales", &[self.scales.len()])?;
        within("scales", &self.scales, 0.0, f64::MAX)?;
        // What is not normal became nothing where it was written shorter.
        self.scales.iter_mut().for_each(|scale| *scale = scale.max(f64::MIN_POSITIVE));
        self.rows = from.one("rows", 0.0, ROWS_MAX)?;
        self.norms = from.one("norms", 0.0, f64::MAX)?;
        Ok(())
    }

    pub(in crate::models) fn fits(&self, shape: Shape) -> bool {
        self.means.len() == shape.dense && self.scales.len() == shape.dense
    }
}

/// Rows of others count as so many at most.
const ROWS_MAX: f64 = 1e15;

/// Numbers so large that differences of them would overflow count as this.
const VALUE_MAX: f64 = 1e300;

/// How far a number is from its mean.
#[inline]
fn distance(x: f64, mean: f64) -> f64 {
    x.clamp(-VALUE_MAX, VALUE_MAX) - mean
}

/// A sum in four interleaved parts: fixed in order, and four times as fast as one chain of additions.
#[inline]
pub(in crate::models) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut parts = [0.0; 4];
    let (a, b) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for at in 0..4 {
            parts[at] += x[at] * y[at];
        }
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3]) + rest
}
