//! Online bagging: trees, each over its own random share of the examples.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::trees::ensemble::{Ensemble, Plan, Reset, Subspace};
use super::{Design, ModelKind, Shape, Task, hoeffding_tree};

/// Online bagging.
pub static KIND: ModelKind = Kind {
    name: "online_bagging",
    about: "Many trees that vote, each over its own share of the examples.\n\n\
            Oza and Russell, \"Online Bagging and Boosting\" (2001): each tree counts each example as often as a Poisson variable with \
            mean 1 says, as drawing with replacement does in the long run. No tree is ever replaced: for streams that do not change.",
    schema: schema_of::<Config>,
    example: "trees: 10",
    plan,
};

/// Settings.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many trees there are; from 1 to 1000.
    trees: u32,
    /// How often a tree counts an example, on average; from 0.001 to 100.
    lambda: f64,
    /// From it comes all that is random.
    seed: u64,
    /// The settings of each tree.
    tree: hoeffding_tree::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trees: 10,
            lambda: 1.0,
            seed: 1,
            tree: hoeffding_tree::Config { max_leaves: 256, ..hoeffding_tree::Config::default() },
        }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let plan = Plan {
        growth: config.tree.growth(),
        members: config.trees,
        lambda: config.lambda,
        subspace: Subspace::All,
        warning_delta: None,
        drift_delta: None,
        weighted_votes: false,
        reset: Reset::Own,
        seed: config.seed,
    };
    let (mut problems, mut below) = (Problems::default(), Problems::default());
    plan.check("trees", &mut problems);
    config.tree.check(&mut below);
    below.0.into_iter().map(|problem: Problem| problem.under("tree")).for_each(|problem| problems.push(problem));
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = move |shape: Shape| Erased::new(Ensemble::new(shape, &plan), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}
