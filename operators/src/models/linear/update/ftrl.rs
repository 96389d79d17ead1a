//! FTRL-proximal.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::super::packed::Pack;
use super::Rule;

/// Settings of FTRL-proximal ("Ad Click Prediction: a View from the Trenches", KDD 2013).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Ftrl {
    /// The size of steps.
    pub(in crate::models) alpha: f64,
    /// How many squared gradients it takes until steps shrink.
    pub(in crate::models) beta: f64,
    /// Keeps weights at exactly zero until their gradients add up to more than this.
    pub(in crate::models) l1: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
}

impl Default for Ftrl {
    fn default() -> Self {
        Self { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0 }
    }
}

/// What FTRL remembers of a weight.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(in crate::models) struct FtrlCell {
    /// The gradients, less what the weight's moves made up for.
    pub(super) sum: f64,
    /// The root of the sum of the squared gradients.
    pub(super) root: f64,
}

impl Pack for FtrlCell {
    const NUMBERS: usize = 2;

    #[inline]
    fn pack(&self, numbers: &mut [f64]) {
        numbers.copy_from_slice(&[self.sum, self.root]);
    }

    #[inline]
    fn unpack(numbers: &[f64]) -> Self {
        Self { sum: numbers[0], root: numbers[1] }
    }
}

impl Ftrl {
    /// What `sum` is divided by; `inverse` is that of alpha.
    #[inline]
    fn strength(&self, inverse: f64, root: f64) -> f64 {
        (self.beta + root) * inverse + self.l2
    }

    #[inline]
    pub(super) fn weight(&self, inverse: f64, FtrlCell { sum, root }: FtrlCell) -> f64 {
        let beyond = (sum.abs() - self.l1).max(0.0);
        -beyond.copysign(sum) / self.strength(inverse, root)
    }
}

impl Rule for Ftrl {
    type Cell = FtrlCell;

    /// A division for all weights, and not several for each.
    fn pace(&self, _: f64) -> f64 {
        1.0 / self.alpha
    }

    #[inline]
    fn rate(&self, inverse: f64, cell: FtrlCell, gradient: f64) -> f64 {
        1.0 / self.strength(inverse, (cell.root * cell.root + gradient * gradient).sqrt())
    }

    #[inline]
    fn step(&self, inverse: f64, weight: &mut f64, cell: &mut FtrlCell, gradient: f64, factor: f64) {
        let root = (cell.root * cell.root + gradient * gradient).sqrt();
        cell.sum += gradient * factor - (root - cell.root) * inverse * *weight;
        cell.root = root;
        *weight = self.weight(inverse, *cell);
    }

    /// The weight stays, as with Adagrad; `sum` becomes what gives this weight with the new squares.
    fn rescale(&self, weight: &mut f64, cell: &mut FtrlCell, ratio: f64) {
        cell.root *= ratio;
        cell.sum = if *weight == 0.0 {
            cell.sum * ratio
        } else {
            -(*weight * self.strength(1.0 / self.alpha, cell.root) + self.l1.copysign(*weight))
        };
    }

    fn unregularised(self) -> Self {
        Self { l1: 0.0, l2: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![
            ("alpha", self.alpha, 1e-12, 10.0),
            ("beta", self.beta, 1e-12, 1e12),
            ("l1", self.l1, 0.0, 1e12),
            ("l2", self.l2, 0.0, 1e12),
        ]
    }
}
