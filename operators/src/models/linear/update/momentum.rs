//! Gradient descent with momentum (Polyak, 1964), where the velocity is a mean of the gradients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

/// Settings of gradient descent with momentum.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Momentum {
    /// The size of a step, at most 1; with any `beta`, steps add up to as much as those of `sgd`.
    pub(in crate::models) learning_rate: f64,
    /// How much of its velocity a weight keeps, from 0 to 0.999: at 0.9 it is a mean over about ten gradients.
    pub(in crate::models) beta: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
}

impl Default for Momentum {
    fn default() -> Self {
        Self { learning_rate: 0.05, beta: 0.9, l2: 0.0 }
    }
}

impl Rule for Momentum {
    /// The velocity: a fading mean of the gradients.
    type Cell = f64;

    fn pace(&self, norm: f64) -> f64 {
        self.learning_rate / norm
    }

    #[inline]
    fn rate(&self, pace: f64, _: f64, _: f64) -> f64 {
        pace
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, velocity: &mut f64, gradient: f64, factor: f64) {
        *velocity += (1.0 - self.beta) * (gradient * factor + self.l2 * *weight - *velocity);
        *weight -= pace * *velocity;
    }

    fn rescale(&self, weight: &mut f64, velocity: &mut f64, ratio: f64) {
        *weight *= ratio;
        *velocity *= ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![
            ("learning_rate", self.learning_rate, 1e-12, 1.0),
            ("beta", self.beta, 0.0, 0.999),
            ("l2", self.l2, 0.0, 1.0),
        ]
    }
}
