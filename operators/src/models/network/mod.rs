//! Networks that learn in mini-batches: cut by count in the order of the examples, never by time.
//!
//! ```text
//! rows ─► predicted by the weights ─► the open mini-batch ─ full ─► forward ─► loss ─► back ─► optimiser ─► weights
//!                                          ▲ old rows, drawn again
//! ```
//! The open mini-batch, the moments of the optimiser and the state of the random numbers are part of the model. Its bits follow
//! from its examples alone: not from how they were cut, nor from the machine ([`product`]).

mod architecture;
mod compute;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cuda"))]
mod device;
mod functions;
mod graph;
mod host;
mod known;
mod learner;
mod loss;
#[cfg(all(test, not(feature = "cuda")))]
mod no_cuda;
mod norms;
mod numbers;
mod onnx;
mod optimizer;
mod pages;
mod parts;
mod place;
pub(super) mod product;
#[cfg(any(test, feature = "cuda"))]
mod recording;
mod samples;
mod scaling;
mod table;
#[cfg(any(test, feature = "cuda"))]
mod tape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, Problems};
use millstream_engine::processes::Helper;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Design;
use super::ranges::Ranges;
pub(super) use architecture::Layers;
use architecture::{Mirror, Network};
use graph::Architecture;
use learner::NetworkLearner;
use loss::Head;
pub(super) use loss::{ClassLoss, Loss, NumberLoss};
#[cfg(all(test, not(feature = "cuda")))]
use no_cuda as cuda;
use optimizer::{Rule, Schedule};
use place::Place;
use samples::ReplayConfig;
use table::Keeping;

/// How a network learns.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Training {
    /// After how many examples the weights move, from 1 to 65,536. Those that count nothing are not counted.
    pub(super) mini_batch: u32,
    /// How the weights move.
    optimizer: Rule,
    /// How long the steps are in the course of time.
    schedule: Schedule,
    /// How long the gradient of a mini-batch may be, above 0; a longer one is shortened. 0: as long as it is.
    clip: f64,
    /// How much of the past is in the mean of the weights that answers, from 0 to 0.99999; 0: the last weights answer.
    average: f64,
    /// Whether columns of numbers, and numbers that are learned, are told in deviations from their means so far, at most eight. Without it
    /// columns have to be of about the same scale.
    standardise: bool,
    /// How categories become numbers.
    embedding: Embedding,
    /// Old rows that are learned again.
    replay: Option<ReplayConfig>,
    /// When it stops to learn.
    stop: Option<Stop>,
    /// Where it learns: `cpu`, a GPU such as `cuda:0`, or `auto`: a GPU where there is one that this program can use. Answers are the processor's.
    #[serde(skip_serializing)]
    device: Place,
    /// With how many threads of the processor it learns, in each process, from 1 to 64. It is the same model with any number of them.
    #[serde(skip_serializing)]
    threads: u32,
    /// In how many parts a mini-batch is learned on the processor, from 1 to 64 and of a row at least. Each goes forward and back alone, on a thread of its own as far
    /// as there are `threads`, or in another of the pipeline's `processes` where a part has at least 64 rows; the gradients are summed
    /// in an order of their own, so that it is the same model wherever parts were computed, but another one with another number of them. Batch norm
    /// has the means and variances of each part.
    #[serde(skip_serializing_if = "is_one")]
    parts: u32,
    /// What is drawn by chance is drawn by this.
    seed: u64,
}

/// Where a mini-batch is in one part, that is not told: so it was before there were several.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(parts: &u32) -> bool {
    *parts == 1
}

/// How categories become numbers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Embedding {
    /// How many numbers a category has, from 1 to 1024.
    size: u32,
    /// How often a category has to be seen before it has any: until then it is zeros.
    seen_at_least: u32,
    /// After how many examples without it a category loses them; 0: never.
    expire_examples: u64,
}

/// When a network stops to learn: what has stopped keeps its best weights, and goes on answering.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// When the mean loss over so many mini-batches, each before it was learned, is not below the best one before, from 1.
    patience_steps: u32,
}

impl Default for Embedding {
    fn default() -> Self {
        Self { size: 8, seen_at_least: 1, expire_examples: 0 }
    }
}

impl Default for Training {
    fn default() -> Self {
        Self {
            mini_batch: 32,
            optimizer: Rule::default(),
            schedule: Schedule::default(),
            clip: 1.0,
            average: 0.0,
            standardise: true,
            embedding: Embedding::default(),
            replay: None,
            stop: None,
            device: Place::default(),
            threads: 1,
            parts: 1,
            seed: 0,
        }
    }
}

impl Training {
    fn check(&self) -> Planned<()> {
        let mut ranges = self
            .optimizer
            .check(Ranges::default())
            .within("mini_batch", f64::from(self.mini_batch), 1.0, 65_536.0)
            .within("threads", f64::from(self.threads), 1.0, 64.0)
            .within("parts", f64::from(self.parts), 1.0, f64::from(self.mini_batch.clamp(1, 64)))
            .within("clip", self.clip, 0.0, 1e9)
            .within("average", self.average, 0.0, 0.99999)
            .within("embedding.size", f64::from(self.embedding.size), 1.0, 1024.0);
        ranges = self.schedule.check(ranges);
        if let Some(replay) = &self.replay {
            ranges = replay.check(ranges);
        }
        if let Some(stop) = &self.stop {
            ranges = ranges.within("stop.patience_steps", f64::from(stop.patience_steps), 1.0, 1e9);
        }
        ranges.finish().map_err(|problems| problems.into_iter().map(|problem| problem.under("training")).collect())
    }

    fn keeping(&self) -> Keeping {
        let Embedding { seen_at_least, expire_examples, .. } = self.embedding;
        Keeping { seen_at_least, expire_examples }
    }
}

/// Settings of a network that tells something of a row.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config<L: Default + Serialize> {
    /// Which network it is.
    network: Network,
    /// How wrong it is.
    loss: L,
    /// How it learns.
    training: Training,
}

/// Settings of a network that tells rows again.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MirrorConfig {
    /// The layers that make a row smaller; the same the other way around make it whole again.
    layers: Layers,
    /// How it learns.
    training: Training,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self { layers: Layers::of(&[16, 4]), training: Training::default() }
    }
}

/// Computes parts of mini-batches for another process.
pub(super) fn helper() -> Box<dyn Helper> {
    Box::new(parts::Hand::default())
}

/// Checks the settings of a network that learns to tell something.
pub(super) fn plan<L: Loss>(kind: &'static str, config: Config<L>) -> Planned<Design> {
    let mut problems = Problems::default();
    problems.take_all(config.loss.check(config.network.check(Ranges::default())).finish());
    problems.take_all(config.training.check());
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    Ok(design(kind, parameters, Arc::new(config.network), config.loss.head(), config.training))
}

/// Checks the settings of a network that tells rows again.
pub(super) fn plan_mirror(kind: &'static str, config: MirrorConfig) -> Planned<Design> {
    let mut problems = Problems::default();
    problems.take_all(config.layers.check("layers", Ranges::default()).finish());
    problems.take_all(config.training.check());
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    Ok(design(kind, parameters, Arc::new(Mirror(config.layers)), Head::Rebuild, config.training))
}

fn design(
    kind: &'static str,
    parameters: Value,
    architecture: Arc<dyn Architecture>,
    head: Head,
    training: Training,
) -> Design {
    let task = head.task();
    let make = Arc::new(move |shape| -> Box<dyn super::Learner> {
        Box::new(NetworkLearner::new(&*architecture, shape, head.clone(), training.clone()))
    });
    Design { quickens: true, ..Design::new(kind, task, parameters, make) }
}
