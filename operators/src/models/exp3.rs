//! Exp3.S: which action earns most, where rewards may change at will.
//!
//! Auer, Cesa-Bianchi, Freund and Schapire, "The Nonstochastic Multiarmed Bandit Problem" (SIAM Journal on Computing 32, 2002), section 8.
//! An action's weight grows with what it earned divided by the probability with which it was taken, and each keeps a share of
//! all weights, so that one that becomes better is found again.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, TARGET_MAX, Task, Tensor, bandit};

/// Exp3.S.
pub static KIND: ModelKind = Kind {
    name: "exp3",
    about: "Chooses by what actions earned, and follows when that changes, however it does.\n\n\
        Exp3.S (Auer, Cesa-Bianchi, Freund, Schapire 2002). It looks at no features, and needs no belief about how rewards come: actions are \
        weighed by what they earned, divided by the probability with which they were taken (`propensity`). Rewards are scaled by \
        the least and the largest so far. There may be 100 actions.",
    schema: schema_of::<Exp3>,
    example: "explore: 0.05",
    plan,
};

/// Settings of Exp3.S.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Exp3 {
    /// The part of choices that is shared equally among all actions, above 0 and at most 1. More of it learns faster, and earns less.
    explore: f64,
    /// The part of all weights that each example shares among all actions, from 0 to 1: the more, the sooner changes are followed.
    share: f64,
}

impl Default for Exp3 {
    fn default() -> Self {
        Self { explore: 0.1, share: 0.001 }
    }
}

impl Exp3 {
    fn check(&self) -> Planned<()> {
        bandit::check(&[("explore", self.explore, 1e-6, 1.0), ("share", self.share, 0.0, 1.0)])
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let settings: Exp3 = configuration(value)?;
    settings.check()?;
    let parameters = serde_json::to_value(settings).expect("numbers can be written");
    let make = move |shape| Erased::new(Actions::new(settings, shape), Task::Choice, shape).boxed();
    Ok(Design { classes_max: bandit::ACTIONS_MAX, ..Design::new(KIND.name, Task::Choice, parameters, Arc::new(make)) })
}

/// What actions weigh.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Actions {
    settings: Exp3,
    /// They add up to 1.
    weights: Vec<f64>,
    taken: Vec<f64>,
    /// The least and the largest reward so far.
    range: Option<(f64, f64)>,
}

impl Actions {
    fn new(settings: Exp3, shape: Shape) -> Self {
        let actions = shape.classes;
        Self { settings, weights: vec![1.0 / actions.max(1) as f64; actions], taken: vec![0.0; actions], range: None }
    }

    /// The part of choices that is any action's.
    fn explored(&self) -> f64 {
        self.settings.explore / self.weights.len().max(1) as f64
    }

    fn probability(&self, action: usize) -> f64 {
        (1.0 - self.settings.explore) * self.weights[action] + self.explored()
    }

    fn probabilities(&self) -> Vec<f64> {
        (0..self.weights.len()).map(|action| self.probability(action)).collect()
    }

    /// A reward between those that were seen, from 0 to 1.
    fn scaled(&mut self, reward: f64) -> f64 {
        let (low, high) = self.range.map_or((reward, reward), |(low, high)| (low.min(reward), high.max(reward)));
        self.range = Some((low, high));
        if high > low { ((reward - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Model for Actions {
    fn predict(&self, _: Row<'_>, outputs: &mut [f64], _: &mut Vec<f64>) {
        outputs.iter_mut().enumerate().for_each(|(action, output)| *output = self.probability(action));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        let (action, explored) = (example.action as usize, self.explored());
        if action >= self.weights.len() {
            return;
        }
        self.taken[action] += example.weight.min(bandit::WEIGHT_MAX);
        let earned =
            self.scaled(example.target.clamp(-TARGET_MAX, TARGET_MAX)) / example.propensity.clamp(explored, 1.0);
        // At most 1 for an example that counts once; more of it would only round the others away.
        let grown = (explored * earned * example.weight).min(50.0).exp();
        let shared = std::f64::consts::E * self.settings.share / self.weights.len() as f64;
        self.weights[action] *= grown;
        let sum: f64 = self.weights.iter().sum();
        // All of them together are what they were before, and what they share.
        let all = sum + shared * self.weights.len() as f64;
        self.weights.iter_mut().for_each(|weight| *weight = (*weight + shared) / all);
    }

    fn tensors(&self) -> Vec<Tensor> {
        vec![Tensor::row("probabilities", self.probabilities())]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let mut lines = vec!["chooses each action with its probability, whatever the row".to_owned()];
        for (action, (probability, taken)) in self.probabilities().into_iter().zip(&self.taken).enumerate() {
            lines.push(format!("{}: {probability:.6}, taken {taken} times", names.action(action)));
        }
        Explanation { importances: Vec::new(), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        Ok(rows.repeat(graph, &self.probabilities()))
    }

    fn fits(&self, shape: Shape) -> bool {
        let is_share = |weight: &f64| (0.0..=1.0 + 1e-9).contains(weight);
        self.settings.check().is_ok()
            && [self.weights.len(), self.taken.len()] == [shape.classes; 2]
            && self.weights.iter().all(is_share)
            && self.taken.iter().all(|taken| taken.is_finite() && *taken >= 0.0)
            && self.range.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low <= high)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::random::Random;
    use super::*;

    /// The means over each quarter of rewards that were earned, where the better action changes in the middle.
    fn earned(settings: &Value) -> [f64; 4] {
        let design = plan(settings).expect("sound settings");
        let shape = Shape { dense: 0, active: 0, categories: 0, classes: 3 };
        let (mut model, mut random) =
            (Actions::new(serde_json::from_value(design.parameters).expect("settings"), shape), Random::new(7, 0));
        let (row, mut outputs, mut scratch) = (Row { dense: &[], active: &[] }, [0.0; 3], Vec::new());
        let mut earned = [0.0; 4];
        for at in 0..40_000 {
            model.predict(row, &mut outputs, &mut scratch);
            let mut left = random.uniform();
            let action = outputs
                .iter()
                .position(|output| {
                    left -= output;
                    left < 0.0
                })
                .unwrap_or(2);
            let best = if at < 20_000 { 1 } else { 2 };
            let reward = f64::from(u8::from(random.uniform() < if action == best { 0.6 } else { 0.4 }));
            earned[at / 10_000] += reward / 10_000.0;
            let example = Example { target: reward, weight: 1.0, action: action as u32, propensity: outputs[action] };
            model.learn(row, example, &mut outputs, &mut scratch);
        }
        earned
    }

    #[test]
    fn it_finds_the_better_action_and_follows_when_that_changes() {
        let earned = earned(&json!({"explore": 0.1, "share": 0.0001}));
        // At best 0.6 - 0.1 * 2/3 * 0.2 = 0.587, by chance alone 0.467.
        assert!(earned[1] > 0.565 && earned[3] > 0.565, "{earned:?}");
    }
}
