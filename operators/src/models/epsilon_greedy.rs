//! ε-greedy: the action that promises most, and now and then any.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bandit::{self, Policy, about_contexts};
use super::onnx::{Edge, Graph};
use super::{Design, ModelKind};

/// ε-greedy.
pub static KIND: ModelKind = Kind {
    name: "epsilon_greedy",
    about: concat!(
        "Chooses the action that promises the largest reward, and with a small probability any one.\n\n\
         Every action always has a probability, so what is logged can be evaluated for other policies.",
        about_contexts!()
    ),
    schema: schema_of::<EpsilonGreedy>,
    example: "epsilon: 0.05",
    plan,
};

/// Settings of ε-greedy.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EpsilonGreedy {
    /// The probability with which it takes any action, from 0 to 1.
    epsilon: f64,
    /// Pulls estimates towards the average reward, as so many examples would; above 0, at most 1e12.
    ridge: f64,
    /// Examples count in inverse proportion to the probability with which their action was taken (at most 100 times).
    inverse_propensity: bool,
}

impl Default for EpsilonGreedy {
    fn default() -> Self {
        Self { epsilon: 0.1, ridge: 1.0, inverse_propensity: false }
    }
}

impl EpsilonGreedy {
    fn check(&self) -> Planned<()> {
        bandit::check(&[("epsilon", self.epsilon, 0.0, 1.0), ("ridge", self.ridge, 1e-6, 1e12)])
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let policy: EpsilonGreedy = configuration(value)?;
    policy.check()?;
    Ok(bandit::design(&KIND, policy))
}

impl Policy for EpsilonGreedy {
    const DEVIATIONS: bool = false;

    fn ridge(&self) -> f64 {
        self.ridge
    }

    fn inverse_propensity(&self) -> bool {
        self.inverse_propensity
    }

    fn is_sound(&self) -> bool {
        self.check().is_ok()
    }

    fn choose(&self, _: u64, estimates: &[f64], _: &[f64], outputs: &mut [f64]) {
        bandit::best(estimates, outputs);
        let any = self.epsilon / outputs.len().max(1) as f64;
        outputs.iter_mut().for_each(|output| *output = (1.0 - self.epsilon) * *output + any);
    }

    fn onnx(&self, graph: &mut Graph, _: u64, actions: usize, estimates: Edge, _: Edge) -> Edge {
        let best = graph.largest(estimates);
        let chosen = graph.scale(best, 1.0 - self.epsilon);
        graph.shift(chosen, self.epsilon / actions.max(1) as f64)
    }
}
