//! Rebuilds a revision from the log, and compares it with what was recorded. Nothing is written: a run may be going on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_engine::binding::Epoch;
use millstream_engine::book::Request;
use millstream_engine::checkpoint::Checkpoint;
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::{Commit, Outcome, Published, RevisionMark};
use millstream_engine::run::Settings;
use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result};
use serde::Serialize;

use crate::origin::{self, Origins};
use crate::plan::Pipeline;
use crate::run::assemble::{self, Topics};
use crate::run::commit::Answers;
use crate::run::journal::{Definition, History};
use crate::run::start::{self, Start};
use crate::run::{Options, open_broker, reply, settings, tenure};

/// What to rebuild.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The revision: how many examples it had learned. The newest if it is not given.
    pub revision: Option<u64>,
    /// The model, where several have such a revision.
    pub model: Option<String>,
    /// Whether not even a checkpoint is trusted.
    pub from_start: bool,
    /// Where to write the revision's files.
    pub save: Option<PathBuf>,
}

/// What a replay reached.
#[derive(Debug, Serialize)]
pub struct Replayed {
    /// The model.
    pub model: String,
    /// How many examples the revision had learned.
    pub revision: u64,
    /// The epoch after which it was complete.
    pub epoch: Epoch,
    /// BLAKE3 of its whole state, as it was recorded and as it was reached.
    pub digest: String,
    /// The epoch of the checkpoint that the replay started from.
    pub checkpoint: Option<Epoch>,
    /// Epochs replayed. In each, all revisions and answers that were recorded were reached.
    pub epochs: u64,
    /// Records replayed.
    pub records: u64,
    /// How long it took.
    pub seconds: f64,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

impl Replayed {
    /// For people.
    pub fn text(&self) -> String {
        let from = self.checkpoint.map_or_else(|| "the beginning".to_owned(), |epoch| format!("checkpoint {epoch}"));
        let mut text = format!(
            "{} revision {}, complete after epoch {}: rebuilt, with the digest that was recorded\n  {}\n\
             from {from}: {} epochs, {} records in {:.1} s; every digest on the way was reached\n",
            self.model, self.revision, self.epoch, self.digest, self.epochs, self.records, self.seconds
        );
        for file in &self.files {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "wrote {}", file.display());
        }
        text
    }
}

/// Rebuilds a revision; a digest on the way that differs from what was recorded is a fault.
pub fn replay(pipeline: &Pipeline, options: &Options, wanted: &Wanted) -> Result<Replayed> {
    let watch = Stopwatch::start();
    let broker = match &options.broker {
        Some(broker) => broker.clone(),
        None => open_broker(pipeline, &options.state)?,
    };
    let world = assemble::world(pipeline, broker.clone());
    let topic = Topics::of(&pipeline.name).progress;
    let (first, _) = tenure::range(&*broker, &topic)?;
    let mut graph = assemble::graph(pipeline, &world)?;
    let store = start::store(pipeline, options)?;
    let origins =
        Origins::find(pipeline, &options.state, &origin::recorded(pipeline, &*broker, &topic, store.as_ref())?)?;
    origins.begin(pipeline, &mut graph)?;
    let definition = Definition::of(pipeline, &graph, &origins)?;
    let requests = pipeline.requests.iter().map(|request| request.name.clone()).collect();
    let history = History::look(&*broker, &topic, first, &requests)?;
    let (epoch, model) = find(&history, wanted)?;
    let store = store.filter(|_| !wanted.from_start);
    let start = Start {
        topic: &topic,
        definition: &definition,
        accept_loss: false,
        until: Some(epoch),
        store: store.as_ref(),
        // All of it was read to find the epoch.
        read: &mut |_| Ok(history.clone()),
    };
    let mut decision = start.decide(pipeline, &*broker)?;
    if !decision.change.keeps(&model) {
        return Err(Fault::definition(format!(
            "the definition has changed since {model} learned revision {}: it can be rebuilt only with what it was made with",
            wanted.revision.unwrap_or_default()
        )));
    }
    decision.replay.retain(|recorded| recorded.binding.epoch <= epoch);
    let mark = history.past(epoch).and_then(|past| past.committed.revisions.get(&model)).cloned();
    let RevisionMark { revision, digest } = mark.ok_or_else(|| Fault::ours("the epoch was found by its mark"))?;
    let fold = pipeline.models.iter().find(|known| known.name == model).map(|known| known.node);
    let fold = fold.ok_or_else(|| Fault::definition(format!("there is no model {model} in the definition")))?;
    let metrics = Arc::new(Metrics::default());
    let (epochs, start) = (decision.replay.len() as u64, decision.checkpoint.as_ref().map(Checkpoint::epoch));
    let settings = Settings { live: false, ..settings(pipeline, options, metrics.clone(), decision, &definition) };
    let book = settings.book.clone();
    millstream_engine::run::run(graph, settings, Box::new(Nothing(super::answers(pipeline))))?;
    let reached = book.newest_revision(fold);
    if reached.as_ref().is_none_or(|reached| reached.digest != digest) {
        let found = reached.map_or_else(|| "nothing".to_owned(), |reached| reached.digest);
        return Err(Fault::world(format!(
            "{model} revision {revision} has digest {digest} in the journal, and was rebuilt with {found}"
        )));
    }
    let mut files = Vec::new();
    if let (Some(folder), Some(reached)) = (&wanted.save, reached) {
        let failed = |error| Fault::world(format!("cannot write to {}", folder.display())).because(error);
        std::fs::create_dir_all(folder).map_err(failed)?;
        for (name, content) in reached.answer.artefacts()? {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(failed)?;
            files.push(path);
        }
    }
    let records = metrics.sum("records_total", &[]) as u64;
    let seconds = watch.seconds();
    Ok(Replayed { model, revision, epoch, digest, checkpoint: start, epochs, records, seconds, files })
}

/// The first epoch after which a model was at the wanted revision.
fn find(history: &History, wanted: &Wanted) -> Result<(Epoch, String)> {
    let is_model = |name: &String| wanted.model.as_ref().is_none_or(|model| model == name);
    let mut marks: BTreeMap<(&String, u64), Epoch> = BTreeMap::new();
    for past in history.epochs.iter().filter(|past| !past.undone) {
        for (model, mark) in past.committed.revisions.iter().filter(|(model, _)| is_model(model)) {
            marks.entry((model, mark.revision)).or_insert(past.epoch());
        }
    }
    let newest = || {
        let last = history.epochs.iter().rev().find(|past| !past.undone)?;
        last.committed.revisions.iter().filter(|(model, _)| is_model(model)).map(|(_, mark)| mark.revision).max()
    };
    let Some(revision) = wanted.revision.or_else(newest) else {
        return Err(Fault::definition("no model has learned anything yet"));
    };
    let found: Vec<_> = marks.iter().filter(|((_, known), _)| *known == revision).collect();
    match found.as_slice() {
        [((model, _), epoch)] => Ok((**epoch, (*model).clone())),
        [] => {
            let below = marks.keys().map(|(_, known)| *known).filter(|known| *known < revision).max();
            let above = marks.keys().map(|(_, known)| *known).filter(|known| *known > revision).min();
            let near: Vec<String> = below.into_iter().chain(above).map(|near| near.to_string()).collect();
            Err(Fault::definition(format!(
                "no epoch ended with revision {revision}{}",
                if near.is_empty() { String::new() } else { format!("; the nearest are {}", near.join(" and ")) }
            )))
        }
        several => {
            let models: Vec<&str> = several.iter().map(|((model, _), _)| model.as_str()).collect();
            Err(Fault::definition(format!("say which model: {} have a revision {revision}", models.join(", "))))
        }
    }
}

/// Encodes answers, so that they can be compared, and commits nothing.
struct Nothing(BTreeMap<u32, Answers>);

impl Commit for Nothing {
    fn encode(&self, request: &Request, outcome: &Outcome, _: i64) -> Result<Vec<u8>> {
        reply::encode(request, outcome, &self.0[&request.origin.source])
    }

    fn commit(&mut self, _: &[Published]) -> Result<()> {
        Err(Fault::ours("a replay commits nothing"))
    }
}
