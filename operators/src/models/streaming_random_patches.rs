//! Streaming random patches: trees over random columns and random examples.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::trees::ensemble::{Ensemble, Plan, Reset, Subspace};
use super::trees::within;
use super::{Design, ModelKind, Shape, Task, hoeffding_tree};

/// Streaming random patches.
pub static KIND: ModelKind = Kind {
    name: "streaming_random_patches",
    about: "Many trees that vote, each over its own columns and its own share of the examples; each is replaced when it goes out of date.\n\n\
            Gomes, Read and Bifet, \"Streaming Random Patches for Evolving Data Stream Classification\" (2019). Each tree looks at a \
            share of the columns, chosen at random, and counts each example as often as a Poisson variable says; where there are few \
            such choices, each is taken about equally often. When a tree's errors seem to grow, another one starts to learn beside \
            it, and takes its place when they do grow (ADWIN).",
    schema: schema_of::<Config>,
    example: "columns: 0.6",
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
    /// The share of the columns at which each tree looks (of at least two); from 0.01 to 1.
    columns: f64,
    /// A tree's errors seem to grow where ADWIN with this delta says so, and another tree starts beside it; above 0 and below 1.
    warning_delta: f64,
    /// A tree's errors have grown where ADWIN with this delta says so, and it is replaced; above 0 and below 1.
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
            columns: 0.6,
            warning_delta: 1e-4,
            drift_delta: 1e-5,
            seed: 1,
            tree: hoeffding_tree::Config {
                grace_period: 50,
                delta: 0.01,
                max_leaves: 256,
                ..hoeffding_tree::Config::default()
            },
        }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let plan = Plan {
        growth: config.tree.growth(),
        members: config.trees,
        lambda: config.lambda,
        subspace: Subspace::Tree(config.columns),
        warning_delta: Some(config.warning_delta),
        drift_delta: Some(config.drift_delta),
        weighted_votes: true,
        reset: Reset::Own,
        seed: config.seed,
    };
    let (mut problems, mut below) = (Problems::default(), Problems::default());
    plan.check("trees", &mut problems);
    within(&mut problems, "columns", config.columns, 0.01, 1.0);
    config.tree.check(&mut below);
    below.0.into_iter().map(|problem: Problem| problem.under("tree")).for_each(|problem| problems.push(problem));
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = move |shape: Shape| Erased::new(Ensemble::new(shape, &plan), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}
