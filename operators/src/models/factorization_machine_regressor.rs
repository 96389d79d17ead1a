//! Factorisation machines that tell a number.

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde_json::Value;

use super::factorization_machine::{self, Config};
use super::linear_regression::Regression;
use super::{Design, ModelKind, Task};

/// Factorisation machines that tell a number.
pub static KIND: ModelKind = Kind {
    name: "factorization_machine_regressor",
    about: "A number: a weighted sum of the features, and of all their pairs, by squared error.\n\n\
            Rendle, \"Factorization Machines\" (2010): the weight of a pair is the product of its features' factors, so that pairs are \
            told that were hardly ever seen. Takes features and labels of any scale as they are.",
    schema: schema_of::<Config>,
    example: "{factors: 4, learning_rate: 0.1}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    factorization_machine::plan::<Regression>(&KIND, Task::Regression, value)
}
