//! `RMSProp` (Tieleman and Hinton, 2012).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

/// Makes 0/0 a zero where there never was a gradient.
const SMALL: f64 = 1e-8;

/// Settings of `RMSProp`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct RmsProp {
    /// The size of a step, at most 1.
    pub(in crate::models) learning_rate: f64,
    /// How much of its squared gradients a weight remembers, from 0 to 0.99999: at 0.99 it is a mean over about a hundred.
    pub(in crate::models) decay: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { learning_rate: 0.01, decay: 0.99, l2: 0.0 }
    }
}

impl Rule for RmsProp {
    /// The mean of the squared gradients.
    type Cell = f64;

    fn pace(&self, norm: f64) -> f64 {
        self.learning_rate / norm.sqrt()
    }

    #[inline]
    fn rate(&self, pace: f64, cell: f64, gradient: f64) -> f64 {
        pace / ((cell + (1.0 - self.decay) * (gradient * gradient - cell)).sqrt() + SMALL)
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut f64, gradient: f64, factor: f64) {
        let pull = self.l2 * *weight;
        *cell += (1.0 - self.decay) * ((gradient + pull) * (gradient + pull) - *cell);
        *weight -= pace * (gradient * factor + pull) / (cell.sqrt() + SMALL);
    }

    fn rescale(&self, _: &mut f64, cell: &mut f64, ratio: f64) {
        *cell *= ratio * ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![
            ("learning_rate", self.learning_rate, 1e-12, 1.0),
            ("decay", self.decay, 0.0, 0.99999),
            ("l2", self.l2, 0.0, 1.0),
        ]
    }
}
