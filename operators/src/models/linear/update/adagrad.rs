//! Adagrad (Duchi, Hazan and Singer, "Adaptive Subgradient Methods", 2011).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

/// Settings of Adagrad.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Adagrad {
    /// The size of the first step, at most 10. That of Vowpal Wabbit.
    pub(in crate::models) learning_rate: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
    /// What part of its squared gradients a weight forgets with each, from 0 to 0.1. At 0.0001, steps shrink over the first ten thousand
    /// examples, and no more after that, so that it follows changes for ever; at 0 it is Adagrad as published.
    pub(in crate::models) fading: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { learning_rate: 0.5, l2: 0.0, fading: 1e-4 }
    }
}

impl Rule for Adagrad {
    /// The sum of the squared gradients.
    type Cell = f64;

    fn pace(&self, norm: f64) -> f64 {
        self.learning_rate / norm.sqrt()
    }

    #[inline]
    fn rate(&self, pace: f64, cell: f64, gradient: f64) -> f64 {
        pace / (cell - self.fading * cell + gradient * gradient + f64::MIN_POSITIVE).sqrt()
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut f64, gradient: f64, factor: f64) {
        let pull = self.l2 * *weight;
        *cell += (gradient + pull) * (gradient + pull) - self.fading * *cell;
        // The smallest number makes 0/0 a zero, and is lost in any other sum.
        *weight -= pace * (gradient * factor + pull) / (*cell + f64::MIN_POSITIVE).sqrt();
    }

    fn rescale(&self, _: &mut f64, cell: &mut f64, ratio: f64) {
        *cell *= ratio * ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![
            ("learning_rate", self.learning_rate, 1e-12, 10.0),
            ("l2", self.l2, 0.0, 1.0),
            ("fading", self.fading, 0.0, 0.1),
        ]
    }
}
