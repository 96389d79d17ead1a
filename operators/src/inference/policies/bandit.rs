//! `bandit`: a model that learns from rewards chooses whose answer is given.

use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedChoice, PlannedPolicy, PolicyKind, check_others};

/// The entry of `bandit`.
pub static KIND: PolicyKind = Kind {
    name: "bandit",
    about: "A model that learns from rewards chooses whose answer is given.\n\n\
        It is a model of its own, whose `actions` are the models that answer and whose label is the reward: what an answer earned is known \
        only of the one that was given, and often much later. Each answer says in `model` who gave it, and in `chosen_with` how \
        probable that was; a source that reads the topic of the answers, and a label that comes later, make examples of them. Its \
        features, if it has any, are columns of the models' input: then it learns who is best for which request. Before it has learned \
        anything, and where it cannot say anything, the requests' own model answers.",
    schema: schema_of::<Config>,
    example: "{of: [late_forest], by: router}",
    plan,
};

/// Among whom, and who chooses.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The models beside the requests' own.
    of: Vec<String>,
    /// The model that chooses: its learner is `thompson_sampling`, `exp3` or another that chooses, its actions are the models' names.
    by: String,
}

fn plan(value: &Value) -> Planned<PlannedPolicy> {
    let Config { of, by } = configuration(value)?;
    let mut problems = check_others("of", &of);
    if of.contains(&by) {
        problems.push(Problem::new("by", "named-twice", format!("`{by}` cannot both choose and answer")));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(PlannedPolicy { others: of, column: None, choose: PlannedChoice::Learned(by) })
}
