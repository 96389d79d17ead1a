//! A network that tells a number.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use serde_json::Value;

use super::network::{self, Config, NumberLoss};
use super::{Design, ModelKind};

/// A network for numbers.
pub static KIND: ModelKind = Kind {
    name: "neural_network_regressor",
    about: "A number, by a network that learns in mini-batches.\n\n\
            Takes the same networks as `neural_network`, and learns as it does. Where `standardise` is on, the numbers that it learns may be of any scale.",
    schema: schema_of::<Config<NumberLoss>>,
    example: "network: {mlp: {hidden: [32, 16], activation: tanh, dropout: 0.1}}\nloss: {huber: 1.0}\ntraining: {mini_batch: 16, optimizer: {sgd: {rate: 0.05, momentum: 0.9}}}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config: Config<NumberLoss> = configuration(value)?;
    network::plan(KIND.name, config)
}
