//! A network that tells classes apart.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use serde_json::Value;

use super::network::{self, ClassLoss, Config};
use super::{Design, ModelKind};

/// A network for classes.
pub static KIND: ModelKind = Kind {
    name: "neural_network",
    about: "The probability of each class, by a network that learns in mini-batches.\n\n\
            Dense layers, cross layers, a gated recurrent unit or convolutions over the columns of some moments; categories have \
            embeddings. A row is predicted when it comes, by the weights there are, and learned when its mini-batch is full: after so \
            many examples, never after so much time. The open mini-batch is part of the model, so the same examples give the same bits, on every machine. \
            A mini-batch whose loss or gradient is not finite is left out.",
    schema: schema_of::<Config<ClassLoss>>,
    example: "network: {mlp: {hidden: [32, 16], normalise: layer, residual: true}}\ntraining: {mini_batch: 16, optimizer: {adamw: {rate: 0.01}}, average: 0.9}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config: Config<ClassLoss> = configuration(value)?;
    network::plan(KIND.name, config)
}
