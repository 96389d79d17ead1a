//! How a weight moves: one file per rule.
//!
//! Features are normalised by their running scale, the largest distance from their mean so far, in the manner of Ross,
//! Mineiro and Langford, "Normalized Online Learning" (2013): a weight is kept in units of the prediction, for a feature in [-1, 1].
//! What happens to it when the scale grows is that paper's too. Of categories only those of the row move, and only
//! their memories fade.

mod adagrad;
mod adamw;
mod ftrl;
mod momentum;
mod nag;
mod rmsprop;
mod sgd;

use millstream_engine::catalogue::{Planned, Problem, Problems};
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(in crate::models) use adagrad::Adagrad;
pub(in crate::models) use adamw::AdamW;
pub(in crate::models) use ftrl::Ftrl;
pub(in crate::models) use momentum::Momentum;
pub(in crate::models) use nag::Nag;
pub(in crate::models) use rmsprop::RmsProp;
pub(in crate::models) use sgd::Sgd;

use super::super::component;
use super::super::packed::Pack;

/// Moves one weight after the other; a `Cell` is what it remembers for each.
pub(in crate::models) trait Rule:
    Copy + Serialize + DeserializeOwned + Send + Sync + 'static
{
    type Cell: Default + Pack + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Whether features count by their distance from their mean.
    const CENTRES: bool = true;

    /// What is the same for all weights, where rows have `norm` as their mean square.
    fn pace(&self, norm: f64) -> f64;

    /// How far the weight will move per unit of this gradient.
    fn rate(&self, pace: f64, cell: Self::Cell, gradient: f64) -> f64;

    /// Moves the weight against the gradient, by `factor` times what the rate says. The gradient is remembered
    /// without the factor, as in [`Rule::rate`], so that the factor does not undo itself.
    fn step(&self, pace: f64, weight: &mut f64, cell: &mut Self::Cell, gradient: f64, factor: f64);

    /// The feature's scale grew: what was in [-1, 1] is in [-ratio, ratio] now.
    fn rescale(&self, weight: &mut f64, cell: &mut Self::Cell, ratio: f64);

    /// The same without penalties, for the bias.
    fn unregularised(self) -> Self;

    /// Gives each setting with its range: name, value, lowest, highest.
    fn settings(&self) -> Vec<(&'static str, f64, f64, f64)>;
}

/// How the weights move with each example.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(transform = or_bare_name)]
pub(in crate::models) enum Update {
    /// Stochastic gradient descent: all weights take steps of one size, which does not shrink, so it follows changes.
    Sgd(Sgd),
    /// Gradient descent along a running mean of the gradients: smoother than `sgd`, and slower to turn.
    Momentum(Momentum),
    /// Adagrad: each weight's steps shrink as its gradients add up. Needs the least tuning.
    Adagrad(Adagrad),
    /// Normalised adaptive gradients: Adagrad on columns divided by their largest magnitude, and not centred.
    Nag(Nag),
    /// `RMSProp`: like Adagrad, but old gradients are forgotten, so that steps do not shrink for ever.
    RmsProp(RmsProp),
    /// `AdamW`: momentum and `RMSProp` together, with weight decay.
    AdamW(AdamW),
    /// FTRL-proximal: like Adagrad, and `l1` keeps the weights of useless features at exactly zero.
    Ftrl(Ftrl),
}

/// The names of [`Update`].
const NAMES: &[&str] = &["adagrad", "adamw", "ftrl", "momentum", "nag", "rmsprop", "sgd"];

/// Does the same with whichever rule an update has.
macro_rules! with_rule {
    ($update:expr, $rule:ident => $body:expr) => {
        match $update {
            $crate::models::linear::Update::Sgd($rule) => $body,
            $crate::models::linear::Update::Momentum($rule) => $body,
            $crate::models::linear::Update::Adagrad($rule) => $body,
            $crate::models::linear::Update::Nag($rule) => $body,
            $crate::models::linear::Update::RmsProp($rule) => $body,
            $crate::models::linear::Update::AdamW($rule) => $body,
            $crate::models::linear::Update::Ftrl($rule) => $body,
        }
    };
}
pub(in crate::models) use with_rule;

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
    /// Checks that all settings are in their ranges; problems are below `update`.
    pub(in crate::models) fn check(&self) -> Planned<()> {
        let name = NAMES.iter().find(|name| serde_json::to_value(self).is_ok_and(|value| value.get(name).is_some()));
        let settings = with_rule!(self, rule => rule.settings());
        within(&format!("update.{}", name.expect("all have names")), &settings)
    }
}

/// Notes the settings that are not in their ranges: name, value, lowest, highest.
pub(in crate::models) fn within(path: &str, settings: &[(&str, f64, f64, f64)]) -> Planned<()> {
    let mut problems = Problems::default();
    for (name, value, low, high) in settings.iter().filter(|(_, value, low, high)| !(low..=high).contains(&value)) {
        let path = format!("{path}.{name}");
        problems.push(Problem::new(&path, "out-of-range", format!("{value} is not between {low} and {high}")));
    }
    problems.finish()
}

/// Writes `key: name` as `key: {name: {}}`, where the key is there.
pub(in crate::models) fn with_full(
    value: &mut Value,
    key: &str,
    code: &'static str,
    what: &str,
    names: &[&str],
) -> Planned<()> {
    if let Some(choice) = value.get_mut(key) {
        let (name, config) = component(choice, code, what, names).map_err(|problem| vec![problem.under(key)])?;
        *choice = json!({name: config});
    }
    Ok(())
}

/// Writes `update: name` as `update: {name: {}}`.
pub(in crate::models) fn with_full_update(value: &Value) -> Planned<Value> {
    let mut value = value.clone();
    with_full(&mut value, "update", "unknown-update", "update rule", NAMES)?;
    Ok(value)
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
        let (before, after, squares) = grown(Adagrad { fading: 0.0, ..Adagrad::default() });
        assert!(before < 0.0 && after.to_bits() == before.to_bits());
        assert!((squares - SQUARES).abs() < 1e-15, "{squares}");
    }

    #[test]
    fn ftrl_keeps_its_weight_when_the_scale_grows() {
        for rule in [Ftrl::default(), Ftrl { l1: 0.5, l2: 0.2, ..Ftrl::default() }] {
            let (before, after, cell) = grown(rule);
            assert!(before < 0.0 && after.to_bits() == before.to_bits());
            assert!((cell.root * cell.root - SQUARES).abs() < 1e-15, "{cell:?}");
            let implied = rule.weight(1.0 / rule.alpha, cell);
            assert!((implied - before).abs() < 1e-12, "{cell:?} implies {implied}, not {before}");
        }
    }
}
