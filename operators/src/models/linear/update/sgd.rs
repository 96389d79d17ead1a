//! Stochastic gradient descent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

/// Settings of stochastic gradient descent.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Sgd {
    /// The size of a step, at most 1.
    pub(in crate::models) learning_rate: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { learning_rate: 0.05, l2: 0.0 }
    }
}

impl Rule for Sgd {
    type Cell = ();

    fn pace(&self, norm: f64) -> f64 {
        self.learning_rate / norm
    }

    #[inline]
    fn rate(&self, pace: f64, (): (), _: f64) -> f64 {
        pace
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, (): &mut (), gradient: f64, factor: f64) {
        *weight -= pace * (gradient * factor + self.l2 * *weight);
    }

    /// Steps in the feature's own units go with the square of the scale: with this one they would have been smaller.
    fn rescale(&self, weight: &mut f64, (): &mut (), ratio: f64) {
        *weight *= ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![("learning_rate", self.learning_rate, 1e-12, 1.0), ("l2", self.l2, 0.0, 1.0)]
    }
}
