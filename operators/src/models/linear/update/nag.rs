//! NAG, normalised adaptive gradients: Ross, Mineiro and Langford, "Normalized Online Learning" (2013), algorithm 3.
//!
//! Kept in units of the prediction, a weight needs no change when its scale grows, and the paper's step is Adagrad's on
//! the normalised feature.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Adagrad, Rule};

/// Settings of normalised adaptive gradients.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Nag {
    /// The size of the first step, at most 10.
    pub(in crate::models) learning_rate: f64,
}

impl Default for Nag {
    fn default() -> Self {
        Self { learning_rate: 0.5 }
    }
}

impl Nag {
    fn adagrad(self) -> Adagrad {
        Adagrad { learning_rate: self.learning_rate, l2: 0.0, fading: 0.0 }
    }
}

impl Rule for Nag {
    /// The sum of the squared gradients.
    type Cell = f64;

    const CENTRES: bool = false;

    fn pace(&self, norm: f64) -> f64 {
        self.adagrad().pace(norm)
    }

    #[inline]
    fn rate(&self, pace: f64, cell: f64, gradient: f64) -> f64 {
        self.adagrad().rate(pace, cell, gradient)
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut f64, gradient: f64, factor: f64) {
        self.adagrad().step(pace, weight, cell, gradient, factor);
    }

    fn rescale(&self, weight: &mut f64, cell: &mut f64, ratio: f64) {
        self.adagrad().rescale(weight, cell, ratio);
    }

    fn unregularised(self) -> Self {
        self
    }

    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)> {
        vec![("learning_rate", self.learning_rate, 1e-12, 10.0)]
    }
}
