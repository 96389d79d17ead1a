//! `LinUCB`: the action that may promise most, as far as is known.
//!
//! Li, Chu, Langford and Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation" (WWW 2010),
//! algorithm 1 (disjoint linear models).

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bandit::{self, Policy, about_contexts};
use super::onnx::{Edge, Graph};
use super::{Design, ModelKind};

/// `LinUCB`.
pub static KIND: ModelKind = Kind {
    name: "linear_ucb",
    about: concat!(
        "Chooses the action whose reward may be the largest, as far as is known: estimate and uncertainty together.\n\n\
         LinUCB (Li and others 2010), with disjoint linear models. It tries what it knows little of, and leaves nothing else to chance: one action has the \
         probability 1 (actions that promise exactly the same share it).",
        about_contexts!()
    ),
    schema: schema_of::<LinearUcb>,
    example: "alpha: 0.5",
    plan,
};

/// Settings of `LinUCB`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LinearUcb {
    /// How many standard deviations of an estimate are added to it, from 0 to 1e6: more tries out more. The deviations are in the unit of the rewards.
    alpha: f64,
    /// Pulls estimates towards the average reward, as so many examples would; from 1e-6 to 1e12.
    ridge: f64,
    /// Examples count in inverse proportion to the probability with which their action was taken (at most 100 times).
    inverse_propensity: bool,
}

impl Default for LinearUcb {
    fn default() -> Self {
        Self { alpha: 1.0, ridge: 1.0, inverse_propensity: false }
    }
}

impl LinearUcb {
    fn check(&self) -> Planned<()> {
        bandit::check(&[("alpha", self.alpha, 0.0, 1e6), ("ridge", self.ridge, 1e-6, 1e12)])
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let policy: LinearUcb = configuration(value)?;
    policy.check()?;
    Ok(bandit::design(&KIND, policy))
}

impl Policy for LinearUcb {
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

    fn choose(&self, _: u64, estimates: &[f64], deviations: &[f64], outputs: &mut [f64]) {
        let bound = |at: usize| estimates[at] + self.alpha * deviations[at];
        let most = (0..outputs.len()).map(bound).fold(f64::MIN, f64::max);
        let share = 1.0 / (0..outputs.len()).filter(|at| bound(*at) >= most).count().max(1) as f64;
        outputs.iter_mut().enumerate().for_each(|(at, output)| *output = if bound(at) >= most { share } else { 0.0 });
    }

    fn onnx(&self, graph: &mut Graph, _: u64, _: usize, estimates: Edge, deviations: Edge) -> Edge {
        let more = graph.scale(deviations, self.alpha);
        let bounds = graph.add(estimates, more);
        graph.largest(bounds)
    }
}
