//! Thompson sampling: each action as often as it is believed to be the best one.
//!
//! Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs" (ICML 2013): Gaussian beliefs about the weights, here of each action
//! for itself. So what an action earns for a row is Gaussian too, independent of the others', and that is drawn.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bandit::{self, Policy, about_contexts};
use super::onnx::{Attribute, Edge, Graph};
use super::random::Random;
use super::{Design, ModelKind};

/// Thompson sampling.
pub static KIND: ModelKind = Kind {
    name: "thompson_sampling",
    about: concat!(
        "Chooses each action as often as it is believed to be the one with the largest reward.\n\n\
         Thompson sampling with Gaussian beliefs about linear models (Agrawal, Goyal 2013). An action's probability is the share of draws from these beliefs \
         in which it earns most; the draws follow from the seed and from how many examples were learned, so the same model gives a row the same answer.",
        about_contexts!()
    ),
    schema: schema_of::<ThompsonSampling>,
    example: "scale: 0.5",
    plan,
};

/// Settings of Thompson sampling.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ThompsonSampling {
    /// How wide beliefs are, from 0 to 1e6: more tries out more. 1 is right where a reward's deviation from its estimate is as large as rewards' deviation
    /// from their mean; it is less where the features say much.
    scale: f64,
    /// Pulls estimates towards the average reward, as so many examples would; from 1e-6 to 1e12.
    ridge: f64,
    /// How many draws tell the probabilities, from 1 to 10,000.
    draws: u32,
    /// What draws follow from.
    seed: u64,
    /// Examples count in inverse proportion to the probability with which their action was taken (at most 100 times).
    inverse_propensity: bool,
}

impl Default for ThompsonSampling {
    fn default() -> Self {
        Self { scale: 1.0, ridge: 1.0, draws: 64, seed: 0, inverse_propensity: false }
    }
}

impl ThompsonSampling {
    fn check(&self) -> Planned<()> {
        let draws = f64::from(self.draws);
        bandit::check(&[("scale", self.scale, 0.0, 1e6), ("ridge", self.ridge, 1e-6, 1e12), ("draws", draws, 1.0, 1e4)])
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let policy: ThompsonSampling = configuration(value)?;
    policy.check()?;
    Ok(bandit::design(&KIND, policy))
}

impl Policy for ThompsonSampling {
    const DEVIATIONS: bool = true;

    fn ridge(&self) -> f64 {
        self.ridge
    }

    fn inverse_propensity(&self) -> bool {
        self.inverse_propensity
    }

    fn is_sound(&self) -> bool {
        self.check().is_ok()
    }

    fn choose(&self, examples: u64, estimates: &[f64], deviations: &[f64], outputs: &mut [f64]) {
        if examples == 0 || outputs.is_empty() {
            bandit::best(estimates, outputs);
            return;
        }
        let (mut random, share) = (Random::new(self.seed, examples), 1.0 / f64::from(self.draws));
        outputs.fill(0.0);
        for _ in 0..self.draws {
            let (mut most, mut best) = (f64::NEG_INFINITY, 0);
            for (at, (estimate, deviation)) in estimates.iter().zip(deviations).enumerate() {
                let drawn = estimate + self.scale * deviation * random.normal();
                if drawn > most {
                    (most, best) = (drawn, at);
                }
            }
            outputs[best] += 1.0;
        }
        outputs.iter_mut().for_each(|count| *count *= share);
    }

    fn onnx(&self, graph: &mut Graph, examples: u64, actions: usize, estimates: Edge, deviations: Edge) -> Edge {
        if examples == 0 {
            return graph.largest(estimates);
        }
        let mut random = Random::new(self.seed, examples);
        let draws: Vec<f64> = (0..self.draws as usize * actions).map(|_| self.scale * random.normal()).collect();
        let draws = graph.doubles(&[self.draws as usize, actions], &draws);
        let [estimates, deviations] = [estimates, deviations].map(|value| graph.widen(value, 1));
        let more = graph.multiply(deviations, draws);
        let drawn = graph.add(estimates, more);
        let best = graph.apply_with("ArgMax", &[drawn], vec![Attribute::int("axis", 2)]);
        let each = graph.integers(&(0..actions as i64).collect::<Vec<_>>());
        let is_best = graph.apply("Equal", &[best, each]);
        let counts = graph.as_doubles(is_best);
        let counts = graph.sum(counts, 1);
        graph.scale(counts, 1.0 / f64::from(self.draws))
    }
}
