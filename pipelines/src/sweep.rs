//! Settings of a model are tried side by side: one stream, cleansed once, teaches all trials.
//!
//! ```text
//! files, or what the feeds read ─► streams ─► trials: one fold of many models ─► ranks, and the files of the best
//! ```
//! One that was broken off goes on from its last checkpoint, to the same ranks: trials, streams and how far files were read are
//! one cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_connectors::store;
use millstream_engine::batch::Lane;
use millstream_engine::checkpoint::{self, Checkpoints, Note, Store};
use millstream_engine::graph::Graph;
use millstream_engine::operator::{MakeFold, Power, Rejects, Transform};
use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result, digest};
use millstream_operators::registry::{Author, DECISIVE, Edit, Metadata, Promotion, Registry, Score};
use millstream_operators::training::{STANDING, STANDING_ROWS, Trials, TrialsPlan};
use serde::Serialize;
use serde_json::{Value, json};

use crate::learn::{self, Inputs, Kept, Ran};
use crate::origin::Origin;
use crate::plan::{self, Model, Pipeline, Sweep, Trial};
use crate::{registry, run};

/// What became of a sweep.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub sweep: String,
    /// The model whose settings were tried.
    pub model: String,
    /// The measure by which trials are ranked.
    pub by: String,
    /// The trials, the best first.
    pub trials: Vec<Ranked>,
    /// The measures of the best.
    pub measures: Vec<Score>,
    /// Files that were written: those of the best.
    pub files: Vec<PathBuf>,
    /// The version that the best was made, if it was.
    pub version: Option<String>,
    /// The best, as it can be promoted.
    #[serde(skip)]
    best: Option<Promotion>,
    /// Whether it went on with what a sweep that was broken off had kept.
    pub resumed: bool,
    /// How long it took, since it went on.
    pub seconds: f64,
}

/// What became of a trial.
#[derive(Debug, Serialize)]
pub struct Ranked {
    /// Its number.
    pub trial: usize,
    /// What it was ranked by; none where nothing was measured.
    pub value: Option<f64>,
    /// After how many rows: fewer than others, where it was given up.
    pub rows: u64,
    /// What was set.
    pub settings: BTreeMap<String, Value>,
}

/// Tries all settings of a sweep on the files of `wanted`; those of the best model go to a folder of its name. Until it is done, what it
/// needs to go on is kept in the folder `kept`, if there is one: nothing else may be there.
pub fn run(pipeline: &Pipeline, sweep: &Sweep, wanted: &learn::Wanted, kept: Option<&Path>) -> Result<Report> {
    let watch = Stopwatch::start();
    let model = &pipeline.models[sweep.model];
    let wanted = learn::Wanted { feeds: true, ..wanted.clone() };
    let inputs = Inputs::of(pipeline, &wanted)?;
    let mut graph = inputs.graph(pipeline)?;
    let origins = wanted.origins(pipeline)?;
    let begun = |trial: &Trial| {
        origins.make(model, &make(trial)?).map_err(|fault| {
            let set: Vec<String> = trial.settings.iter().map(|(path, value)| format!("{path} {value}")).collect();
            let message = format!("with {}, {} cannot begin with {}", set.join(", "), model.name, named(model));
            Fault { message: format!("{message}: {}", fault.message), ..fault }
        })
    };
    let makes = sweep.trials.iter().map(begun).collect::<Result<Vec<_>>>()?;
    let by = sweep.by.clone().map_or_else(|| DECISIVE.map(str::to_owned).to_vec(), |by| vec![by]);
    let plan = TrialsPlan { by: by.clone(), halve_after: sweep.halve_after, threads: pipeline.workers };
    let makes = Arc::new(makes);
    if let Power::Fold(folding) = &mut graph.nodes[model.node].step.power {
        folding.make = Arc::new(move || Box::new(Trials::new(makes.clone(), plan.clone())));
    }
    leave_out(pipeline, &mut graph, model.node);
    let going_on = match kept {
        Some(folder) => keep(folder, &identity(pipeline, sweep, origins.of(model), &graph)?, &pipeline.checkpoints)?,
        None => Kept::default(),
    };
    let resumed = going_on.from.is_some();
    let Ran { book, .. } = Ran::over(pipeline, graph, false, going_on)?;
    let revision = book.newest_revision(model.node);
    let measures = revision.iter().flat_map(|revision| revision.measures.iter().map(Score::from));
    let (standings, measures): (Vec<Score>, Vec<Score>) = measures.partition(|score| score.who == "trial");
    let (by, trials) = (measured(&by, &measures)?, ranked(sweep, &standings));
    let mut files = Vec::new();
    let mut best = None;
    if let Some(revision) = revision {
        let artefacts = revision.answer.artefacts()?;
        if let Some(folder) = &wanted.to {
            files = learn::write(&folder.join(&sweep.name), artefacts.clone())?;
        }
        let metadata = Metadata {
            model: model.name.clone(),
            pipeline: pipeline.name.clone(),
            definition_digest: pipeline.digest.clone(),
            revision: revision.number,
            epoch: revision.epoch,
            frontier: (*revision.frontier).clone(),
            examples: revision.number,
            seed: Some(run::seed(pipeline)),
            measures: measures.clone(),
            durations_seconds: BTreeMap::from([("sweep".to_owned(), watch.seconds())]),
            reason: reason(sweep, &by, &trials),
            began_with: origins.of(model).map(Origin::name),
            ..Metadata::default()
        };
        best = Some(Promotion { metadata, artefacts });
    }
    kept.map_or(Ok(()), forget)?;
    Ok(Report {
        sweep: sweep.name.clone(),
        model: model.name.clone(),
        by,
        trials,
        measures,
        files,
        version: None,
        best,
        resumed,
        seconds: watch.seconds(),
    })
}

fn reason(sweep: &Sweep, by: &str, trials: &[Ranked]) -> String {
    let set = trials.first().map(Ranked::set).unwrap_or_default();
    format!("the best of {} trials of sweep {} by {by}: {set}", trials.len(), sweep.name)
}

/// Makes a version of the best model of a sweep, with what was set as its tags.
pub fn promote(report: &mut Report, registry: &Registry, now_ms: i64) -> Result<()> {
    let nothing = || Fault::definition(format!("{} has learned nothing that could be promoted", report.model));
    let mut promotion = report.best.clone().ok_or_else(nothing)?;
    let metadata = &mut promotion.metadata;
    metadata.parent = registry.newest(&metadata.model)?.map(|version| version.id);
    metadata.started_ms = now_ms;
    let author = Author { by: run::user(), why: metadata.reason.clone(), at_ms: now_ms };
    let version = registry::promote(registry, promotion, now_ms)?;
    let settings = report.trials.first().into_iter().flat_map(|best| &best.settings);
    let settings = settings.map(|(setting, value)| (setting.as_str(), value.to_string()));
    for (key, value) in settings.chain([("sweep", report.sweep.clone())]) {
        registry.edit(&report.model, Some(&version), Edit::Tag(key, Some(&value)), &author)?;
    }
    report.version = Some(format!("{}/{}", report.model, version.id));
    Ok(())
}

impl Ranked {
    /// What was set, for people.
    fn set(&self) -> String {
        let set: Vec<String> = self.settings.iter().map(|(setting, value)| format!("{setting}: {value}")).collect();
        set.join(", ")
    }
}

fn named(model: &Model) -> String {
    model.begins.as_ref().map_or_else(String::new, ToString::to_string)
}

/// What a sweep's ranks follow from.
fn identity(pipeline: &Pipeline, sweep: &Sweep, begins: Option<&Origin>, graph: &Graph) -> Result<Value> {
    let records = graph.sources.iter().map(|source| source.source.fingerprint()).collect::<Result<Vec<_>>>()?;
    let trials: Vec<&Value> = sweep.trials.iter().map(|trial| &trial.config).collect();
    let identity = json!({
        "definition": pipeline.digest, "model": sweep.model, "trials": trials, "by": sweep.by, "halve_after": sweep.halve_after,
        "begins": begins, "records": records,
    });
    Ok(Value::from(digest::of(identity.to_string().as_bytes())))
}

/// Keeps checkpoints in a folder, and goes on from the newest that is there, if it is one of the same sweep of the same records.
fn keep(folder: &Path, identity: &Value, checkpoints: &plan::Checkpoints) -> Result<Kept> {
    let open = || store::open(".", folder);
    let from = |store: &Arc<dyn Store>| {
        let mut listed = checkpoint::list(&**store)?;
        listed.sort_by_key(|listed| std::cmp::Reverse(listed.epoch));
        let sound = listed.into_iter().filter_map(|listed| listed.manifest.ok());
        let mut fitting = sound.filter(|found| found.note == *identity);
        Ok::<_, Fault>(fitting.find_map(|found| checkpoint::open(store, found).ok()))
    };
    let mut store = open()?;
    let from = from(&store)?;
    if from.is_none() {
        // What another sweep has kept is in nobody's way.
        forget(folder)?;
        store = open()?;
    }
    let note = identity.clone();
    let plan::Checkpoints { every_seconds, every_bytes, keep, .. } = *checkpoints;
    let note: Note = Box::new(move |_| Ok(note.clone()));
    let checkpoints = Checkpoints { store, every_seconds, every_bytes, keep, note, ahead: false };
    Ok(Kept { checkpoints: Some(checkpoints), from })
}

/// Removes what was kept.
fn forget(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::world(format!("cannot remove {}", folder.display())).because(error))
        }
        _ => Ok(()),
    }
}

/// What makes a trial's model.
fn make(trial: &Trial) -> Result<MakeFold> {
    match &trial.step.power {
        Power::Fold(folding) => Ok(folding.make.clone()),
        _ => Err(Fault::ours("a trial is no model")),
    }
}

/// The first of these measures that a model has, over all rows.
fn measured(by: &[String], measures: &[Score]) -> Result<String> {
    let own: Vec<&str> =
        measures.iter().filter(|score| score.who == "model" && score.over == "all").map(|score| &*score.name).collect();
    by.iter().find(|name| own.contains(&name.as_str())).cloned().ok_or_else(|| {
        let there =
            if own.is_empty() { "nothing was measured".to_owned() } else { format!("there are {}", own.join(", ")) };
        Fault::definition(format!("no trial has the measure {}: {there}", by.join(" or ")))
    })
}

fn ranked(sweep: &Sweep, standings: &[Score]) -> Vec<Ranked> {
    let of = |name: &'static str| standings.iter().filter(move |score| score.name == name);
    let rank = |(value, rows): (&Score, &Score)| {
        let trial = value.over.parse().unwrap_or_default();
        let settings = sweep
            .trials
            .get(trial)
            .map_or_else(BTreeMap::new, |trial: &Trial| trial.settings.iter().cloned().collect());
        let value = Some(value.value).filter(|value| !value.is_nan());
        Ranked { trial, value, rows: rows.value as u64, settings }
    };
    of(STANDING).zip(of(STANDING_ROWS)).map(rank).collect()
}

/// Other models than the one in this node have no part in what follows.
pub(crate) fn leave_out(pipeline: &Pipeline, graph: &mut Graph, model: usize) {
    for other in pipeline.models.iter().filter(|other| other.node != model) {
        let step = &mut graph.nodes[other.node].step;
        step.power = Power::transform(Nothing(step.schema.clone()));
    }
}

/// Takes all, and gives nothing.
struct Nothing(SchemaRef);

impl Transform for Nothing {
    fn apply(&self, _: Lane, _: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        Ok(RecordBatch::new_empty(self.0.clone()))
    }
}

impl Report {
    /// For people: the trials, the best first.
    pub fn text(&self) -> String {
        let mut text =
            format!("{} of {}, {} trials in {:.1} s\n", self.sweep, self.model, self.trials.len(), self.seconds);
        if self.resumed {
            text.push_str("went on from where it was broken off\n");
        }
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{:>6}  {:>10}  {:>14}", "trial", "rows", self.by);
        for ranked in &self.trials {
            let Ranked { trial, value, rows, .. } = ranked;
            let value = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"));
            let _ = writeln!(text, "{trial:>6}  {rows:>10}  {value:>14}  {}", ranked.set());
        }
        if let Some(version) = &self.version {
            let _ = writeln!(text, "the best is version {version}");
        }
        for file in &self.files {
            let _ = writeln!(text, "wrote {}", file.display());
        }
        text
    }
}
