//! A network that tells rows again, and is wrong where they are unusual.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use serde_json::Value;

use super::network::{self, MirrorConfig};
use super::{Design, ModelKind};

/// An autoencoder.
pub static KIND: ModelKind = Kind {
    name: "autoencoder",
    about: "How unusual a row is, from 0 to 1, by a network that tells rows again through few numbers (Hinton and Salakhutdinov 2006).\n\n\
            The score is the mean squared error of the columns of numbers, divided by itself and the usual one: a row as badly told as others has a half. \
            Learns in mini-batches, as `neural_network` does.",
    schema: schema_of::<MirrorConfig>,
    example: "layers: {hidden: [8, 2], activation: tanh}\ntraining: {mini_batch: 16}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config: MirrorConfig = configuration(value)?;
    network::plan_mirror(KIND.name, config)
}
