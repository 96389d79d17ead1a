//! Leveraging bagging: online bagging with more weight, that follows changes.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::trees::ensemble::{Ensemble, Plan, Reset, Subspace};
use super::{Design, ModelKind, Shape, Task, hoeffding_tree};

/// Leveraging bagging.
pub static KIND: ModelKind = Kind {
    name: "leveraging_bagging",
    about: "Many trees that vote, each over its own share of the examples; when one has grown worse, the worst one is replaced.\n\n\
            Bifet, Holmes and Pfahringer, \"Leveraging Bagging for Evolving Data Streams\" (2010): online bagging in which each tree counts \
            each example six times on average, with an ADWIN on the errors of each.",
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
    /// When ADWIN with this delta says that the errors of a tree have grown, the worst tree is replaced; above 0 and below 1.
    drift_delta: f64,
    /// From it comes all that is random.
    seed: u64,
    /// The settings of each tree.
    tree: hoeffding_tree::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trees: 10,
            lambda: 6.0,
            drift_delta: 0.002,
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
        drift_delta: Some(config.drift_delta),
        weighted_votes: false,
        reset: Reset::Worst,
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
