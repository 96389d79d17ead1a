//! Learning from files, offline: a definition's streams and models on files in place of what its sources read.
//!
//! ```text
//! files ─► the definition's sources ─► streams ─► models ─► measures, and the models' files
//! ```
//! With several passes the same rows come again to what the models have become; what cleans them begins anew each time.
//! No topic is read or written, nothing is kept but what is asked for, and a source without a file has no records. All
//! of it is the graph that a run of the definition has: the same rows give the same models.

mod curve;
mod inputs;
mod passes;
mod timing;
mod watched;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

pub use curve::{Curve, CurveLine};
pub(crate) use inputs::Inputs;
use millstream_engine::book::{Book, Request, Revision};
use millstream_engine::checkpoint::{Checkpoint, Checkpoints};
use millstream_engine::graph::Graph;
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::{Commit, Notice, Outcome, Published};
use millstream_engine::run::Settings;
use millstream_engine::time::{StepClock, Stopwatch};
use millstream_engine::{Fault, Result};
use millstream_operators::registry::{Score, best_baseline, decisive};
use passes::Remembering;
use serde::Serialize;
use serde_json::Value;
pub use timing::{ModelTiming, Timing};
pub(crate) use watched::Watched;

use crate::origin::{Named, Origin, Origins};
use crate::plan::{self, Pipeline};
use crate::run::state::default_path;
use crate::run::{Answers, reply};

/// What to learn from.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Files, each with the name of the source that it stands for; without a name, for the only source.
    pub files: Vec<(Option<String>, PathBuf)>,
    /// The model that is told of; all without it.
    pub model: Option<String>,
    /// Where to write the models' files: to a folder of each model's name.
    pub to: Option<PathBuf>,
    /// How often the models get the files; 0 is 1.
    pub passes: u32,
    /// Whether a source without a file has what the feed of its topic reads.
    pub feeds: bool,
    /// Whether it is kept how measures went on.
    pub curves: bool,
    /// The pipeline's state directory, if it is not the usual one: its registry has the versions that models begin with.
    pub state: Option<PathBuf>,
}

impl Wanted {
    /// What a pipeline's models begin with: what its names mean now.
    pub(crate) fn origins(&self, pipeline: &Pipeline) -> Result<Origins> {
        let state = self.state.clone().unwrap_or_else(|| default_path(&pipeline.name));
        Origins::find(pipeline, &state, &Named::new())
    }
}

/// What was learned.
#[derive(Debug, Serialize)]
pub struct Learned {
    /// The models, in the order of the definition.
    pub models: Vec<ModelLearned>,
    /// Sources that had no file.
    pub without_file: Vec<String>,
    /// How often the models got the files: the measures are of the last time.
    pub passes: u32,
    /// Records that were read each time.
    pub records: u64,
    /// Records that could not be taken, by the step or the source that could not.
    pub dead_letters: BTreeMap<String, u64>,
    /// What else its steps and models told: in a run, records of the topic of events.
    pub events: Vec<Event>,
    /// How long it took.
    pub seconds: f64,
}

/// Something of note, such as that there is no GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Who told it.
    pub step: String,
    /// What happened.
    pub kind: String,
    /// How often that was.
    pub count: u64,
    /// All about it, the last time.
    pub about: Value,
}

impl Event {
    /// For people.
    fn text(&self) -> String {
        let Self { step, kind, count, about } = self;
        let times = if *count > 1 { format!(", {count} times") } else { String::new() };
        format!("{step}: {kind}{times}, {about}\n")
    }
}

/// A model that has learned.
#[derive(Debug, Serialize)]
pub struct ModelLearned {
    /// Its name.
    pub model: String,
    /// What it began with, if that was not nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began_with: Option<Origin>,
    /// How many examples it has learned, those of what it began with included.
    pub examples: u64,
    /// BLAKE3 of its whole state.
    pub digest: Option<String>,
    /// What it reached: of rows that it predicted before it learned them.
    pub measures: Vec<Score>,
    /// How its decisive measure went on, in the last pass, if that was wanted.
    #[serde(skip)]
    pub curve: Option<Curve>,
    /// Files that were written.
    pub files: Vec<PathBuf>,
}

impl ModelLearned {
    /// The decisive measure of the model over all rows, and that of its best baseline.
    pub fn decisive(&self) -> Option<(&Score, Option<&Score>)> {
        let own = decisive(&self.measures)?;
        Some((own, best_baseline(&self.measures, &own.name)))
    }
}

impl Learned {
    /// For people.
    pub fn text(&self) -> String {
        let times = if self.passes > 1 { format!(" {} times", self.passes) } else { String::new() };
        let mut text = format!("{} records{times} in {:.1} s\n", self.records, self.seconds);
        for source in &self.without_file {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "{source} had no records: give it a file by `--from {source}=FILE`");
        }
        for (step, count) in &self.dead_letters {
            let _ = writeln!(text, "{count} could not be taken: {step}");
        }
        text.extend(self.events.iter().map(Event::text));
        for model in &self.models {
            let times = if self.passes > 1 { " in the last pass" } else { "" };
            let _ = writeln!(
                text,
                "\n{}: {} examples, each predicted{times} before it was learned",
                model.model, model.examples
            );
            if let Some(Origin { version, digest, examples, .. }) = &model.began_with {
                let _ = writeln!(text, "  {examples} of them in {}", version.as_ref().unwrap_or(digest));
            }
            let width =
                |cell: fn(&Score) -> &str| model.measures.iter().map(|score| cell(score).len()).max().unwrap_or(0);
            let (over, name, who) = (width(|score| &score.over), width(|score| &score.name), width(|score| &score.who));
            for score in &model.measures {
                let value = score.value;
                let _ =
                    writeln!(text, "  {:over$}  {:name$}  {:who$}  {value:>14.6}", score.over, score.name, score.who);
            }
            for file in &model.files {
                let _ = writeln!(text, "  wrote {}", file.display());
            }
        }
        text
    }
}

/// Learns from files.
pub fn learn(pipeline: &Pipeline, wanted: &Wanted) -> Result<Learned> {
    let watch = Stopwatch::start();
    let models = models(pipeline, wanted)?;
    let inputs = Inputs::of(pipeline, wanted)?;
    let origins = wanted.origins(pipeline)?;
    let passes = wanted.passes.max(1);
    let (mut kept, mut ran) = (Remembering::default(), Ran::default());
    for pass in 0..passes {
        let mut graph = inputs.graph(pipeline)?;
        origins.begin(pipeline, &mut graph)?;
        if passes > 1 {
            kept.go_on(&mut graph, pass > 0);
        }
        ran = Ran::over(pipeline, graph, wanted.curves, Kept::default())?;
    }
    let Ran { book, metrics, mut told } = ran;
    let mut learned = Vec::new();
    for model in models {
        let revision = book.newest_revision(model.node);
        let mut files = Vec::new();
        if let (Some(folder), Some(revision)) = (&wanted.to, &revision) {
            files = write(&folder.join(&model.name), revision.answer.artefacts()?)?;
        }
        learned.push(ModelLearned {
            model: model.name.clone(),
            began_with: origins.of(model).cloned(),
            examples: revision.as_ref().map_or(0, |revision| revision.number),
            digest: revision.map(|revision| revision.digest),
            measures: told.measures.remove(&model.node).unwrap_or_default(),
            curve: told.curves.remove(&model.node),
            files,
        });
    }
    Ok(Learned {
        models: learned,
        without_file: inputs.without(pipeline),
        passes,
        records: metrics.sum("records_total", &[]) as u64,
        dead_letters: std::mem::take(&mut told.dead),
        events: told.events.into_values().collect(),
        seconds: watch.seconds(),
    })
}

fn models<'a>(pipeline: &'a Pipeline, wanted: &Wanted) -> Result<Vec<&'a plan::Model>> {
    let is_wanted = |model: &&plan::Model| wanted.model.as_ref().is_none_or(|name| *name == model.name);
    let models: Vec<&plan::Model> = pipeline.models.iter().filter(is_wanted).collect();
    if models.is_empty() {
        let names: Vec<&str> = pipeline.models.iter().map(|model| model.name.as_str()).collect();
        return Err(Fault::definition(match &wanted.model {
            Some(name) if !names.is_empty() => format!("there is no model {name}; there are {}", names.join(", ")),
            _ => "the definition has no model".to_owned(),
        }));
    }
    Ok(models)
}

/// Writes a model's files to a folder.
pub(crate) fn write(folder: &Path, artefacts: Vec<(String, Vec<u8>)>) -> Result<Vec<PathBuf>> {
    let failed = |error| Fault::world(format!("cannot write to {}", folder.display())).because(error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut files = Vec::new();
    for (name, content) in artefacts {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(failed)?;
        files.push(path);
    }
    Ok(files)
}

/// What a run keeps so that another can go on with it, and what it goes on with.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) checkpoints: Option<Checkpoints>,
    pub(crate) from: Option<Checkpoint>,
}

/// What a run over all that stands for the sources has left.
#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) book: Arc<Book>,
    metrics: Arc<Metrics>,
    pub(crate) told: Told,
}

impl Ran {
    /// Runs a graph; with `curves`, it is kept how measures went on.
    pub(crate) fn over(pipeline: &Pipeline, graph: Graph, curves: bool, kept: Kept) -> Result<Self> {
        let (book, metrics, told): (Arc<Book>, Arc<Metrics>, Arc<Mutex<Told>>) = Default::default();
        let commit = Keep { into: Arc::clone(&told), answers: crate::run::answers(pipeline), curves };
        let mut settings = settings(pipeline, Arc::clone(&book), Arc::clone(&metrics));
        (settings.checkpoints, settings.from) = (kept.checkpoints, kept.from);
        if curves {
            settings.limits.max_records = curve::RECORDS;
        }
        millstream_engine::run::run(graph, settings, Box::new(commit))?;
        let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { book, metrics, told })
    }
}

fn settings(pipeline: &Pipeline, book: Arc<Book>, metrics: Arc<Metrics>) -> Settings {
    Settings {
        workers: pipeline.workers,
        processes: None,
        limits: crate::run::limits(pipeline),
        // As in a run of the pipeline.
        seed: crate::run::seed(pipeline),
        clock: Arc::new(StepClock::new(0, 0)),
        metrics,
        book,
        finish: Some(Arc::new(AtomicBool::new(true))),
        checkpoints: None,
        from: None,
        recorded: Vec::new(),
        skip: Vec::new(),
        live: true,
    }
}

/// What people want to know of a run.
#[derive(Default)]
pub(crate) struct Told {
    /// By fold: what it measured last.
    pub(crate) measures: BTreeMap<usize, Vec<Score>>,
    curves: BTreeMap<usize, Curve>,
    dead: BTreeMap<String, u64>,
    /// By who told it, and its kind.
    events: BTreeMap<(String, String), Event>,
}

/// Keeps what people want to know, and writes nothing.
struct Keep {
    into: Arc<Mutex<Told>>,
    answers: BTreeMap<u32, Answers>,
    curves: bool,
}

impl Commit for Keep {
    fn encode(&self, request: &Request, outcome: &Outcome, _: i64) -> Result<Vec<u8>> {
        reply::encode(request, outcome, &self.answers[&request.origin.source])
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        let mut into = self.into.lock().unwrap_or_else(PoisonError::into_inner);
        for epoch in epochs {
            for (fold, Revision { number, measures, .. }) in &epoch.revisions {
                let measures: Vec<Score> = measures.iter().map(Into::into).collect();
                if self.curves {
                    into.curves.entry(*fold).or_default().add(*number, &measures);
                }
                into.measures.insert(*fold, measures);
            }
            for letter in &epoch.dead_letters {
                *into.dead.entry(letter.step.to_string()).or_default() += 1;
            }
            for Notice { step, kind, about, .. } in &epoch.notices {
                let (key, about) = ((step.to_string(), kind.to_string()), about.clone());
                let count = 1 + into.events.get(&key).map_or(0, |event| event.count);
                into.events.insert(key, Event { step: step.to_string(), kind: kind.to_string(), count, about });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::catalogue::Catalogue;

    const SHOP: &str = "\
millstream: 1
name: shop
sources:
  orders:
    from: {topic: {name: orders}}
    format: json
    columns: {at: timestamp, amount: float, returned: bool}
    event_time: {column: at}
models:
  returns: {input: orders, label: returned, features: [amount], learner: logistic_regression}
";

    /// A folder with the definition, and the same orders as CSV and as lines of JSON.
    fn shop() -> (tempfile::TempDir, Pipeline) {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut csv, mut json) = ("returned;at;amount\n".to_owned(), String::new());
        for row in 0..500 {
            let (at, amount, returned) = (1_767_225_600_000_i64 + 1000 * row, (row * 37) % 100, (row * 37) % 100 > 50);
            let _ = writeln!(csv, "{returned};{at};{amount}");
            let _ = writeln!(json, "{{\"at\": {at}, \"amount\": {amount}, \"returned\": {returned}}}");
        }
        csv.push_str("true;never;7\n");
        for (name, text) in [("shop.yaml", SHOP), ("orders.csv", &csv), ("orders.ndjson", &json)] {
            std::fs::write(folder.path().join(name), text).expect("it can be written");
        }
        let loaded = crate::load(&folder.path().join("shop.yaml"), &Catalogue::shipped());
        let (pipeline, _) = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        (folder, pipeline)
    }

    #[test]
    fn the_same_records_give_the_same_model_whatever_the_file() {
        let (folder, pipeline) = shop();
        let learn = |name: &str| {
            let (file, to) = (folder.path().join(name), folder.path().join("out"));
            learn(&pipeline, &Wanted { files: vec![(None, file)], model: None, to: Some(to), ..Wanted::default() })
                .expect("learned")
        };
        let (csv, json) = (learn("orders.csv"), learn("orders.ndjson"));
        assert_eq!(csv.models[0].examples, 500);
        assert!(csv.models[0].digest.is_some() && csv.models[0].digest == json.models[0].digest);
        assert_eq!(csv.dead_letters.values().sum::<u64>(), 1, "{csv:?}");
        assert!(json.dead_letters.is_empty());
        let accuracy = |score: &&Score| score.name == "accuracy" && score.who == "model";
        let accuracy = json.models[0].measures.iter().find(accuracy).expect("it is measured").value;
        assert!(accuracy > 0.8, "{accuracy}");
        assert!(folder.path().join("out/returns/explanation.json").exists());
    }

    #[test]
    fn models_go_on_from_pass_to_pass_and_are_measured_in_the_last() {
        let (folder, pipeline) = shop();
        let learn = |passes: u32| {
            let files = vec![(None, folder.path().join("orders.ndjson"))];
            learn(&pipeline, &Wanted { files, passes, ..Wanted::default() }).expect("learned")
        };
        let (once, often) = (learn(1), learn(5));
        let loss = |learned: &Learned| {
            let loss = |score: &&Score| score.name == "log_loss" && score.who == "model" && score.over == "all";
            learned.models[0].measures.iter().find(loss).expect("it is measured").value
        };
        assert_eq!((once.models[0].examples, often.models[0].examples), (500, 2500));
        assert_eq!((once.records, often.records), (500, 500));
        assert!(loss(&often) < 0.7 * loss(&once), "{} then {}", loss(&once), loss(&often));
    }

    #[test]
    fn it_is_told_where_the_time_goes() {
        let (folder, _) = shop();
        // No other test has a model of this name, which they would be seen to teach.
        let learner = "learner: {neural_network: {training: {mini_batch: 50, device: \"cuda:0\"}}}";
        let timed = SHOP.replace("  returns:", "  timed:").replace("learner: logistic_regression", learner);
        std::fs::write(folder.path().join("timed.yaml"), timed).expect("it can be written");
        let loaded = crate::load(&folder.path().join("timed.yaml"), &Catalogue::shipped());
        let (pipeline, _) = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        let files = vec![(None, folder.path().join("orders.ndjson"))];
        let wanted = Wanted { files, ..Wanted::default() };
        let (learned, trace) = millstream_engine::trace::look(|| learn(&pipeline, &wanted));
        let timing = Timing::of(&pipeline, &learned.expect("it learns"), &trace);
        if !cfg!(feature = "cuda") {
            // Where the time goes that should have been spent on a GPU.
            assert!(timing.text().contains("timed: device_missing, {"), "{}", timing.text());
        }
        let Timing { models, steps, .. } = timing;
        let [ModelTiming { model, seconds, waiting, mini_batches, parts, .. }] = models.as_slice() else {
            panic!("one model: {models:?}")
        };
        assert_eq!((model.as_str(), *mini_batches), ("timed", 10));
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["predict", "forward", "backward", "update"]);
        let spent: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        assert!(spent + waiting <= *seconds, "{models:?}");
        assert_eq!(steps[0].0, "timed");
    }

    #[test]
    fn what_cannot_be_learned_from_is_told() {
        let (folder, pipeline) = shop();
        let file = folder.path().join("orders.csv");
        let problem = |files: Vec<(Option<&str>, &PathBuf)>, model: Option<&str>| {
            let files = files.into_iter().map(|(name, path)| (name.map(str::to_owned), path.clone())).collect();
            let wanted = Wanted { files, model: model.map(str::to_owned), ..Wanted::default() };
            learn(&pipeline, &wanted).expect_err("refused").to_string()
        };
        assert!(problem(vec![(Some("order"), &file)], None).contains("there is no source order"));
        assert!(problem(vec![(None, &file), (Some("orders"), &file)], None).contains("two files"));
        assert!(problem(vec![(None, &file)], Some("return")).contains("there is no model return"));
    }
}
