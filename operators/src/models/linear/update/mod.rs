//! How a weight moves: SGD, Adagrad, FTRL-proximal.
//!
//! Features are normalised by their running scale, the largest distance from their mean so far, in the manner of Ross,
//! Mineiro and Langford, "Normalized Online Learning" (2013): a weight is kept in units of the prediction, for a feature in [-1, 1].
//! What happens to it when the scale grows is that paper's too.

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use millstream_engine::catalogue::{Planned, Problem, Problems};

/// Moves one weight after the other; a `Cell` is what it remembers for each.
pub(in crate::models) trait Rule:
    Copy + Serialize + DeserializeOwned + Send + Sync + 'static
{
    type Cell: Copy + Default + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The common step size where rows have `norm` as their mean square.
    fn pace(&self, norm: f64) -> f64;

    /// How far the weight will move per unit of this gradient.
    fn rate(&self, pace: f64, cell: Self::Cell, gradient: f64) -> f64;

    /// Moves the weight against the gradient, by `damping` (at most 1) of what the rate says. The gradient is
    /// remembered undamped, as in [`Rule::rate`], so that the damping does not make the rate larger.
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut Self::Cell, gradient: f64, damping: f64);

    /// The feature's scale grew: what was in [-1, 1] is in [-ratio, ratio] now.
    fn rescale(&self, weight: &mut f64, cell: &mut Self::Cell, ratio: f64);

    /// The same without penalties, for the bias.
    fn unregularised(self) -> Self;
}

/// How the weights move with each example.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(transform = or_bare_name)]
pub(in crate::models) enum Update {
    /// Stochastic gradient descent: all weights take steps of one size, which does not shrink, so it follows changes.
    Sgd(Sgd),
    /// Adagrad: each weight's steps shrink as its gradients add up. Needs the least tuning.
    Adagrad(Adagrad),
    /// FTRL-proximal: like Adagrad, and `l1` keeps the weights of useless features at exactly zero.
    Ftrl(Ftrl),
}

/// The names of [`Update`].
pub(in crate::models) const NAMES: &[&str] = &["adagrad", "ftrl", "sgd"];

impl Default for Update {
    fn default() -> Self {
        Self::Adagrad(Adagrad::default())
    }
}

fn or_bare_name(schema: &mut Schema) {
    if let Some(Value::Array(forms)) = schema.get_mut("oneOf") {
        forms.push(json!({"enum": NAMES, "description": "With its default settings."}));
    }
}

impl Update {
    /// Checks that all settings are in their ranges.
    pub(in crate::models) fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        let mut within = |path: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                let message = format!("{value} is not between {low} and {high}");
                problems.push(Problem::new(path, "out-of-range", message));
            }
        };
        match self {
            Self::Sgd(sgd) => {
                within("sgd.learning_rate", sgd.learning_rate, 1e-12, 1.0);
                within("sgd.l2", sgd.l2, 0.0, 1.0);
            }
            Self::Adagrad(adagrad) => {
                within("adagrad.learning_rate", adagrad.learning_rate, 1e-12, 10.0);
                within("adagrad.l2", adagrad.l2, 0.0, 1.0);
            }
            Self::Ftrl(ftrl) => {
                within("ftrl.alpha", ftrl.alpha, 1e-12, 10.0);
                within("ftrl.beta", ftrl.beta, 1e-12, 1e12);
                within("ftrl.l1", ftrl.l1, 0.0, 1e12);
                within("ftrl.l2", ftrl.l2, 0.0, 1e12);
            }
        }
        problems.finish()
    }
}

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
    fn step(&self, pace: f64, weight: &mut f64, (): &mut (), gradient: f64, damping: f64) {
        *weight -= pace * (gradient * damping + self.l2 * *weight);
    }

    /// Steps in the feature's own units go with the square of the scale: with this one they would have been smaller.
    fn rescale(&self, weight: &mut f64, (): &mut (), ratio: f64) {
        *weight *= ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }
}

/// Settings of Adagrad.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Adagrad {
    /// The size of the first step.
    pub(in crate::models) learning_rate: f64,
    /// Pulls weights towards zero, in proportion to them.
    pub(in crate::models) l2: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { learning_rate: 0.1, l2: 0.0 }
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
        pace / (cell + gradient * gradient + f64::MIN_POSITIVE).sqrt()
    }

    #[inline]
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut f64, gradient: f64, damping: f64) {
        let pull = self.l2 * *weight;
        *cell += (gradient + pull) * (gradient + pull);
        // The smallest number makes 0/0 a zero, and is lost in any other sum.
        *weight -= pace * (gradient * damping + pull) / (*cell + f64::MIN_POSITIVE).sqrt();
    }

    fn rescale(&self, _: &mut f64, cell: &mut f64, ratio: f64) {
        *cell *= ratio * ratio;
    }

    fn unregularised(self) -> Self {
        Self { l2: 0.0, ..self }
    }
}

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
    sum: f64,
    /// The squared gradients.
    squares: f64,
}

impl Ftrl {
    /// What `sum` is divided by.
    #[inline]
    fn strength(&self, root: f64) -> f64 {
        (self.beta + root) / self.alpha + self.l2
    }

    #[inline]
    fn weight(&self, sum: f64, root: f64) -> f64 {
        let beyond = (sum.abs() - self.l1).max(0.0);
        -beyond.copysign(sum) / self.strength(root)
    }
}

impl Rule for Ftrl {
    type Cell = FtrlCell;

    fn pace(&self, _: f64) -> f64 {
        self.alpha
    }

    #[inline]
    fn rate(&self, _: f64, cell: FtrlCell, gradient: f64) -> f64 {
        1.0 / self.strength((cell.squares + gradient * gradient).sqrt())
    }

    #[inline]
    fn step(&self, _: f64, weight: &mut f64, cell: &mut FtrlCell, gradient: f64, damping: f64) {
        let squares = cell.squares + gradient * gradient;
        let root = squares.sqrt();
        cell.sum += gradient * damping - (root - cell.squares.sqrt()) / self.alpha * *weight;
        cell.squares = squares;
        *weight = self.weight(cell.sum, root);
    }

    /// The weight stays, as with Adagrad; `sum` becomes what gives this weight with the new squares.
    fn rescale(&self, weight: &mut f64, cell: &mut FtrlCell, ratio: f64) {
        cell.squares *= ratio * ratio;
        cell.sum = if *weight == 0.0 {
            cell.sum * ratio
        } else {
            -(*weight * self.strength(cell.squares.sqrt()) + self.l1.copysign(*weight))
        };
    }

    fn unregularised(self) -> Self {
        Self { l1: 0.0, l2: 0.0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some steps, then the scale grows fourfold: the weight before, the weight after, and the cell.
    fn grown<R: Rule>(rule: R) -> (f64, f64, R::Cell) {
        let (mut weight, mut cell) = (0.0, R::Cell::default());
        for gradient in [0.5, -0.25, 1.0] {
            rule.step(rule.pace(1.0), &mut weight, &mut cell, gradient, 1.0);
        }
        let before = weight;
        rule.rescale(&mut weight, &mut cell, 0.25);
        (before, weight, cell)
    }

    /// What the gradients above add up to, had they come from features at the new scale.
    const SQUARES: f64 = (0.25 + 0.0625 + 1.0) / 16.0;

    #[test]
    fn past_gradients_count_as_if_the_scale_had_always_been_so() {
        let (before, after, ()) = grown(Sgd::default());
        assert!(before < 0.0 && (after - before / 4.0).abs() < 1e-15);
        let (before, after, squares) = grown(Adagrad::default());
        assert!(before < 0.0 && after.to_bits() == before.to_bits());
        assert!((squares - SQUARES).abs() < 1e-15, "{squares}");
    }

    #[test]
    fn ftrl_keeps_its_weight_when_the_scale_grows() {
        for rule in [Ftrl::default(), Ftrl { l1: 0.5, l2: 0.2, ..Ftrl::default() }] {
            let (before, after, cell) = grown(rule);
            assert!(before < 0.0 && after.to_bits() == before.to_bits());
            assert!((cell.squares - SQUARES).abs() < 1e-15, "{cell:?}");
            let implied = rule.weight(cell.sum, cell.squares.sqrt());
            assert!((implied - before).abs() < 1e-12, "{cell:?} implies {implied}, not {before}");
        }
    }
}
