//! `AdamW` (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::super::packed::Pack;
use super::Rule;

/// Makes 0/0 a zero where there never was a gradient.
const SMALL: f64 = 1e-8;

/// Settings of `AdamW`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct AdamW {
    /// The size of a step, at most 1. Larger than is usual for networks: a stream is seen once.
    pub(in crate::models) learning_rate: f64,
    /// How much of the mean gradient a weight remembers, from 0 to 0.999.
    pub(in crate::models) beta1: f64,
    /// How much of the mean squared gradient a weight remembers, from 0 to 0.99999.
    pub(in crate::models) beta2: f64,
    /// What part of a weight is lost with each step, times `learning_rate`; from 0 to 1.
    pub(in crate::models) weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, weight_decay: 0.01 }
    }
}

/// What `AdamW` remembers of a weight.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(in crate::models) struct AdamCell {
    /// The mean gradient, were there zeros before the first one.
    first: f64,
    /// The mean squared gradient, likewise.
    second: f64,
    /// How much of `first`, and of `second`, comes from gradients, and not from those zeros: `1 - beta ^ steps`.
    shares: (f64, f64),
}

impl Pack for AdamCell {
    const NUMBERS: usize = 4;

    #[inline]
    fn pack(&self, numbers: &mut [f64]) {
        numbers.copy_from_slice(&[self.first, self.second, self.shares.0, self.shares.1]);
    }

    #[inline]
    fn unpack(numbers: &[f64]) -> Self {
        Self { first: numbers[0], second: numbers[1], shares: (numbers[2], numbers[3]) }
    }
}

impl AdamW {
    #[inline]
    fn moved(&self, cell: AdamCell, gradient: f64, factor: f64) -> AdamCell {
        let (beta1, beta2) = (1.0 - self.beta1, 1.0 - self.beta2);
        AdamCell {
            first: cell.first + beta1 * (gradient * factor - cell.first),
            second: cell.second + beta2 * (gradient * gradient - cell.second),
            shares: (cell.shares.0 + beta1 * (1.0 - cell.shares.0), cell.shares.1 + beta2 * (1.0 - cell.shares.1)),
        }
    }
}

impl Rule for AdamW {
    type Cell = AdamCell;

    fn pace(&self, norm: f64) -> f64 {
        self.learning_rate / norm.sqrt()
    }

    #[inline]
    fn rate(&self, pace: f64, cell: AdamCell, gradient: f64) -> f64 {
        let AdamCell { second, shares, .. } = self.moved(cell, gradient, 1.0);
        pace * (1.0 - self.beta1) / shares.0 / ((second / shares.1).sqrt() + SMALL)
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut AdamCell, gradient: f64, factor: f64) {
        *cell = self.moved(*cell, gradient, factor);
        let AdamCell { first, second, shares } = *cell;
        *weight -= self.learning_rate * self.weight_decay * *weight;
        *weight -= pace * first / shares.0 / ((second / shares.1).sqrt() + SMALL);
    }

    fn rescale(&self, _: &mut f64, cell: &mut AdamCell, ratio: f64) {
        cell.first *= ratio;
        cell.second *= ratio * ratio;
    }

    fn unregularised(self) -> Self {
        Self { weight_decay: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![
            ("learning_rate", self.learning_rate, 1e-12, 1.0),
            ("beta1", self.beta1, 0.0, 0.999),
            ("beta2", self.beta2, 0.0, 0.99999),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
        ]
    }
}
