//! Where a run starts: opens the checkpoints, and asks [`recover`](crate::run::recover) which of them to use.

use std::sync::Arc;

use millstream_connectors::broker::Broker;
use millstream_connectors::store;
use millstream_engine::binding::Epoch;
use millstream_engine::checkpoint::{self, Checkpoint, Listed, Store};
use millstream_engine::graph::Graph;
use millstream_engine::run::Skip;
use millstream_engine::{Fault, Result, digest};

use crate::audit;
use crate::fingerprint;
use crate::origin::Origins;
use crate::plan::Pipeline;
use crate::run::change::Change;
use crate::run::journal::{self, Definition, History};
use crate::run::recover::{Candidate, Choice, Decision};
use crate::run::{Checkpointing, Options};

impl Definition {
    /// Of a pipeline, its graph, and what its models begin with.
    pub fn of(pipeline: &Pipeline, graph: &Graph, origins: &Origins) -> Result<Self> {
        let origins = origins.named();
        let mut definition = pipeline.digest.clone();
        if !origins.is_empty() {
            let text = serde_json::to_string(&origins)
                .map_err(|error| Fault::ours("what models begin with cannot be written").because(error))?;
            definition = digest::of(format!("{definition}{text}").as_bytes());
        }
        Ok(Self {
            definition,
            sources: graph.sources.iter().map(|source| source.name.clone()).collect(),
            fingerprints: fingerprint::of_parts(pipeline.parts_with(&origins)),
            origins,
        })
    }

    /// What rollbacks said is never to be taken, by the sources' indices.
    pub fn skips<'a>(&self, skips: impl IntoIterator<Item = &'a journal::Skip>) -> Vec<Skip> {
        let skip = |skip: &journal::Skip| {
            let source = self.sources.iter().position(|name| *name == skip.source)?;
            Some(Skip { source: source as u32, partition: skip.partition, lo: skip.lo, hi: skip.hi })
        };
        skips.into_iter().filter_map(skip).collect()
    }
}

/// Where the pipeline's checkpoints are kept; `None` if none are.
pub fn store(pipeline: &Pipeline, options: &Options) -> Result<Option<Arc<dyn Store>>> {
    match &options.checkpoints {
        Checkpointing::Defined => open_store(pipeline, &options.state).map(Some),
        Checkpointing::At(store) => Ok(Some(store.clone())),
        Checkpointing::Off => Ok(None),
    }
}

/// Where a definition says that checkpoints are kept: by default in the state directory.
pub fn open_store(pipeline: &Pipeline, state: &std::path::Path) -> Result<Arc<dyn Store>> {
    match &pipeline.checkpoints.to {
        Some(to) => store::open(to, &pipeline.folder),
        None => store::open("checkpoints", state),
    }
}

/// What a start depends on, besides the pipeline.
pub struct Start<'a> {
    /// The journal's topic.
    pub topic: &'a str,
    /// What runs.
    pub definition: &'a Definition,
    /// Whether state that can be neither kept nor rebuilt may be lost.
    pub accept_loss: bool,
    /// The last epoch that is wanted; `None` for all.
    pub until: Option<Epoch>,
    /// Where checkpoints are.
    pub store: Option<&'a Arc<dyn Store>>,
    /// Reads the journal from an offset, or from the first that is kept.
    pub read: &'a mut dyn FnMut(Option<u64>) -> Result<History>,
}

impl Start<'_> {
    /// Chooses where to start; what of the checkpoint does not fit the definition is taken out of it.
    pub fn decide(self, pipeline: &Pipeline, broker: &dyn Broker) -> Result<Decision<Checkpoint>> {
        let listed = self.store.map_or_else(|| Ok(Vec::new()), |store| checkpoint::list(&**store))?;
        let is_wanted = |listed: &Listed| self.until.is_none_or(|until| listed.epoch <= until);
        let listed: Vec<Listed> = listed.into_iter().filter(is_wanted).collect();
        let candidates: Vec<Candidate> = listed.iter().map(Candidate::of).collect();
        let mut open = |at: usize| {
            let listed: &Listed = &listed[at];
            match (&listed.manifest, self.store) {
                (Ok(manifest), Some(store)) => checkpoint::open(store, manifest.clone()),
                _ => Err(Fault::ours("only what can be read is opened")),
            }
        };
        let choice = Choice {
            topic: self.topic,
            definition: self.definition,
            parts: &pipeline.parts_with(&self.definition.origins),
            accept_loss: self.accept_loss,
            candidates: &candidates,
            read: self.read,
            open: &mut open,
            is_log_whole: &mut || Ok(audit::log_is_whole(pipeline, broker)?.unwrap_or(true)),
        };
        let mut decision = choice.choose()?;
        if let Some(checkpoint) = decision.checkpoint.as_mut().filter(|_| !decision.change.is_none) {
            fit(checkpoint, &decision.change);
        }
        Ok(decision)
    }
}

/// Takes out of a checkpoint what does not fit, and calls the rest as it is called now.
fn fit(checkpoint: &mut Checkpoint, change: &Change) {
    let is_kept = |was: &str| change.kept.values().any(|kept| kept == was);
    checkpoint.keep(|section| match section.split_once('/') {
        // The watermark of all sources.
        Some(("order", "*")) => true,
        Some(("order" | "held", source)) => is_kept(&format!("source/{source}")),
        _ => is_kept(section),
    });
    checkpoint.rename(|was| {
        let now = change.kept.iter().find(|(_, kept)| *kept == was).map(|(now, _)| now.clone());
        now.unwrap_or_else(|| was.to_owned())
    });
}

impl Candidate {
    fn of(listed: &Listed) -> Self {
        let note = |manifest: &checkpoint::Manifest| {
            serde_json::from_value(manifest.note.clone())
                .map_err(|error| Fault::world("its note is another program's").because(error))
        };
        let manifest = listed.manifest.as_ref().map_err(|fault| Fault::world(&fault.message));
        Self { epoch: listed.epoch, note: manifest.and_then(note) }
    }
}
