//! Adaptive random forest: randomised Hoeffding trees, each replaced when it goes out of date.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::trees::ensemble::{Ensemble, Plan, Reset, Subspace};
use super::trees::{Criterion, Voting, within};
use super::{Design, ModelKind, Shape, Task, hoeffding_tree};

/// Adaptive random forest.
pub static KIND: ModelKind = Kind {
    name: "adaptive_random_forest",
    about: "Many trees that grow with the stream and vote, for any number of classes; each is replaced when it goes out of date.\n\n\
            Gomes et al., \"Adaptive random forests for evolving data stream classification\" (2017). Each tree counts each \
            example as often as a Poisson variable says, and each of its leaves looks at a few columns chosen at random. \
            When a tree's errors seem to grow, another one starts to learn beside it, and takes its place when they do grow \
            (ADWIN). Votes count by how often the tree was right.",
    schema: schema_of::<Config>,
    example: "trees: 10",
    plan,
};

/// Settings of the forest.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many trees there are; from 1 to 1000.
    trees: u32,
    /// How often a tree counts an example, on average; from 0.001 to 100.
    lambda: f64,
    /// How many columns each leaf looks at; left out: the square root of their number, and one more.
    columns: Option<u32>,
    /// A tree's errors seem to grow where ADWIN with this delta says so, and another tree starts beside it; above 0 and below 1.
    warning_delta: f64,
    /// A tree's errors have grown where ADWIN with this delta says so, and it is replaced; above 0 and below 1.
    drift_delta: f64,
    /// From it comes all that is random.
    seed: u64,
    /// How many examples a leaf sees between attempts to split it; from 1 to 1000000.
    grace_period: u32,
    /// The probability that a split is not the best one, by Hoeffding's bound; from 1e-300 to 0.5.
    delta: f64,
    /// When the bound is below this, columns count as equally good, and the best one is taken; from 0 to 1.
    tau: f64,
    /// By what splits are judged.
    criterion: Criterion,
    /// How leaves predict.
    leaves: Voting,
    /// How many questions lead to a leaf at most; from 0 to 1000.
    max_depth: u32,
    /// How many leaves each tree has at most; from 1 to 1000000.
    max_leaves: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trees: 10,
            lambda: 6.0,
            columns: None,
            warning_delta: 0.01,
            drift_delta: 0.001,
            seed: 1,
            grace_period: 50,
            delta: 0.01,
            tau: 0.05,
            criterion: Criterion::InfoGain,
            leaves: Voting::Adaptive,
            max_depth: 64,
            max_leaves: 256,
        }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let tree = hoeffding_tree::Config {
        grace_period: config.grace_period,
        delta: config.delta,
        tau: config.tau,
        criterion: config.criterion,
        leaves: config.leaves,
        max_depth: config.max_depth,
        max_leaves: config.max_leaves,
        drop_poor_columns: false,
    };
    let plan = Plan {
        growth: tree.growth(),
        members: config.trees,
        lambda: config.lambda,
        subspace: Subspace::Leaf(config.columns),
        warning_delta: Some(config.warning_delta),
        drift_delta: Some(config.drift_delta),
        weighted_votes: true,
        reset: Reset::Own,
        seed: config.seed,
    };
    let mut problems = Problems::default();
    tree.check(&mut problems);
    plan.check("trees", &mut problems);
    within(&mut problems, "columns", config.columns.unwrap_or(1), 1, 1_000_000);
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = move |shape: Shape| Erased::new(Ensemble::new(shape, &plan), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}
