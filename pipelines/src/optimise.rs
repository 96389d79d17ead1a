//! Smaller versions of a version: weights in fewer bits, or pruned, with what that costs and gains, measured.
//!
//! ```text
//! version ─► narrowed weights ─► the model that has taken them ─┬─► judged on the same rows as the version ─► its own version
//!                                                               └─► timed beside it
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use millstream_engine::binding::Frontier;
use millstream_engine::catalogue::StepInput;
use millstream_engine::graph::Graph;
use millstream_engine::operator::{Answer, Begun, Folding, MakeFold, Power, Rejects};
use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result};
use millstream_operators::inference::{Narrowed, Narrowing, STATE, Saved, WEIGHTS, narrow};
use millstream_operators::registry::{Metadata, Promotion, Registry, Score, best_baseline};
use millstream_operators::training;
use serde::Serialize;
use serde_json::Value;

use crate::learn::{Inputs, Kept, Ran, Wanted, Watched};
use crate::origin::begun;
use crate::plan::{Model, Pipeline};
use crate::registry;
use crate::sweep::leave_out;

/// Rows that are timed.
const ROWS: usize = 64;
/// How often it is timed; the median counts.
const TIMES: usize = 9;
/// How long each time takes at least.
const SECONDS: f64 = 0.005;

/// What became of a version.
#[derive(Debug, Serialize)]
pub struct Optimised {
    /// The version: `returns/1f3a…`.
    pub from: String,
    /// The smaller one, where it was promoted.
    pub version: Option<String>,
    /// In how many bits, and what was pruned.
    pub how: String,
    /// What became of the weights.
    pub weights: Narrowed,
    /// Measures over all rows, of the version and of the smaller one.
    pub measures: Vec<Compared>,
    /// Its promotion.
    #[serde(skip)]
    promotion: Promotion,
}

/// A measure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was measured: `log_loss`, `answer_us_1`.
    pub name: String,
    /// Of the version.
    pub before: f64,
    /// Of the smaller one.
    pub after: f64,
}

/// A model as it is judged: what it measured over the rows, and what answers.
struct Judged {
    measures: Vec<Measured>,
    answer: Arc<dyn Answer>,
    rows: Option<RecordBatch>,
}

/// A measure over all rows.
type Measured = (String, f64);

/// Narrows a version's weights, and judges both on what `wanted` names: files, or what the feeds read.
pub fn optimise(
    pipeline: &Pipeline,
    registry: &Registry,
    name: &str,
    how: Narrowing,
    wanted: &Wanted,
) -> Result<Optimised> {
    let version = registry.show(name)?;
    let full = format!("{}/{}", version.metadata.model, version.id);
    let model = pipeline.models.iter().find(|model| model.name == version.metadata.model);
    let model =
        model.ok_or_else(|| Fault::definition(format!("the definition has no model {}", version.metadata.model)))?;
    let files = registry.artefacts(&version)?;
    let make = judging(pipeline, model)?;
    let does_not = |fault: Fault| {
        let message = format!("{full} cannot be made smaller: {}", fault.message);
        Fault { message, ..fault }
    };
    // Says what differs between the version and the definition.
    let of_version = |wanted: &str| {
        file(&files, wanted).ok_or_else(|| Fault::definition(format!("version {full} holds no {wanted}")))
    };
    let whole = begun(&make, &of_version(STATE)?.into()).map_err(does_not)?;
    let (small, weights) = narrow(of_version(WEIGHTS)?, how).map_err(does_not)?;
    let mut taken = make();
    taken.begin_with(&small).map_err(does_not)?;
    let artefacts = taken.revision().artefacts()?;
    let state = file(&artefacts, STATE).ok_or_else(|| Fault::ours("a model writes its state"))?;
    let state = Saved::renumbered(state, version.metadata.examples).map_err(Fault::ours)?;
    let narrowed = begun(&make, &state.into())?;
    let mut artefacts = narrowed().revision().artefacts()?;
    artefacts.iter_mut().filter(|(name, _)| name == WEIGHTS).for_each(|(_, content)| content.clone_from(&small));

    let wanted = Wanted { feeds: true, ..wanted.clone() };
    let learned_through = Arc::new(version.metadata.frontier.clone());
    let judge = |begun| judge(pipeline, model, &wanted, begun, learned_through.clone());
    let (before, after) = (judge(whole)?, judge(narrowed)?);
    let measures = compare(&before, &after, [&files, &artefacts])?;
    let how = said(how);
    let decisive = version.metadata.decisive().map(|(name, _)| name.to_owned());
    let promotion = Promotion {
        metadata: Metadata {
            reason: reason(&full, &how, &measures, decisive.as_deref()),
            parent: Some(version.id.clone()),
            measures: scores(&measures),
            began_with: Some(full.clone()),
            durations_seconds: BTreeMap::new(),
            drifts: Vec::new(),
            ..version.metadata
        },
        artefacts,
    };
    Ok(Optimised { from: full, version: None, how, weights, measures, promotion })
}

/// Makes a version of it.
pub fn promote(optimised: &mut Optimised, registry: &Registry, now_ms: i64) -> Result<()> {
    let version = registry::promote(registry, optimised.promotion.clone(), now_ms)?;
    optimised.version = Some(format!("{}/{}", version.metadata.model, version.id));
    Ok(())
}

/// One of a version's files.
fn file<'f>(files: &'f [(String, Vec<u8>)], wanted: &str) -> Option<&'f [u8]> {
    files.iter().find(|(name, _)| name == wanted).map(|(_, content)| content.as_slice())
}

/// What makes the model so that it learns nothing.
fn judging(pipeline: &Pipeline, model: &Model) -> Result<MakeFold> {
    let mut config = model.config.clone();
    config["learns"] = Value::Bool(false);
    let sources = pipeline.sources.iter().map(|source| (source.name.clone(), source.schema.clone()));
    let streams = pipeline.streams.iter().map(|stream| (stream.name.clone(), pipeline.schema(stream.output).clone()));
    let streams = sources.chain(streams).collect();
    let schema = pipeline.schema(pipeline.nodes[model.node].inputs[0]);
    let step = training::plan(&config, &StepInput { schema, streams: &streams });
    match step.map(|step| step.power) {
        Ok(Power::Fold(Folding { make, .. })) => Ok(make),
        _ => Err(Fault::ours("a model that was planned cannot be planned to judge")),
    }
}

/// Judges a model that has begun with a state.
fn judge(
    pipeline: &Pipeline,
    model: &Model,
    wanted: &Wanted,
    begun: MakeFold,
    learned_through: Arc<Frontier>,
) -> Result<Judged> {
    let mut graph: Graph = Inputs::of(pipeline, wanted)?.graph(pipeline)?;
    leave_out(pipeline, &mut graph, model.node);
    let seen: Arc<Mutex<Option<RecordBatch>>> = Arc::default();
    let shown = seen.clone();
    let make: MakeFold = Arc::new(move || {
        let shown = shown.clone();
        // The largest batch so far, until it is large enough to be timed with.
        Box::new(Watched::new(begun()).taught(move |port, rows| {
            let mut seen = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let most = seen.as_ref().map_or(0, RecordBatch::num_rows);
            if port == 0 && most < ROWS && rows.num_rows() > most {
                *seen = Some(rows.slice(0, rows.num_rows().min(ROWS)));
            }
        }))
    });
    if let Power::Fold(folding) = &mut graph.nodes[model.node].step.power {
        *folding = Folding { make, begun: Some(Begun { learned_through, learns: false }), ..folding.clone() };
    }
    let Ran { book, mut told, .. } = Ran::over(pipeline, graph, false, Kept::default())?;
    let nothing = || Fault::definition("no row was judged: give files by `--from [SOURCE=]FILE`");
    let measures = told.measures.remove(&model.node).ok_or_else(nothing)?;
    // How good it is, is told of baselines, too; other measures say how learning went.
    let is_quality =
        |score: &&Score| score.who == "model" && score.over == "all" && best_baseline(&measures, &score.name).is_some();
    let measures = measures.iter().filter(is_quality).map(|score| (score.name.clone(), score.value)).collect();
    let answer = book.newest_revision(model.node).ok_or_else(nothing)?.answer;
    let rows = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Judged { measures, answer, rows })
}

/// What both measured, how long their answers take, and how large their weights are.
fn compare(before: &Judged, after: &Judged, files: [&[(String, Vec<u8>)]; 2]) -> Result<Vec<Compared>> {
    let of_after: BTreeMap<&str, f64> = after.measures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let both = before.measures.iter().filter_map(|(name, value)| {
        of_after.get(name.as_str()).map(|after| Compared { name: name.clone(), before: *value, after: *after })
    });
    let mut measures: Vec<Compared> = both.collect();
    if let Some(rows) = &before.rows {
        for count in [1, rows.num_rows()] {
            let rows = rows.slice(0, count);
            let [before, after] = micros([&*before.answer, &*after.answer], &rows)?;
            measures.push(Compared { name: format!("answer_us_{count}"), before, after });
        }
    }
    let [before, after] = files.map(|files| file(files, WEIGHTS).map_or(0.0, |weights| weights.len() as f64));
    measures.push(Compared { name: "weight_bytes".to_owned(), before, after });
    Ok(measures)
}

/// Microseconds that each takes to answer rows: medians, by turns.
fn micros(answers: [&dyn Answer; 2], rows: &RecordBatch) -> Result<[f64; 2]> {
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..TIMES {
        for (answer, took) in answers.iter().zip(&mut took) {
            let (watch, mut count) = (Stopwatch::start(), 0_u32);
            while watch.seconds() < SECONDS {
                answer.answer(rows, &mut Rejects::default())?;
                count += 1;
            }
            took.push(watch.seconds() * 1e6 / f64::from(count));
        }
    }
    Ok(took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    }))
}

fn said(how: Narrowing) -> String {
    let bits = how.bits.map(|bits| bits.name().to_owned());
    let pruned = (how.prune > 0.0).then(|| format!("pruned below {} of the largest", how.prune));
    bits.into_iter().chain(pruned).collect::<Vec<_>>().join(", ")
}

fn reason(from: &str, how: &str, measures: &[Compared], decisive: Option<&str>) -> String {
    let decided = measures.iter().find(|compared| Some(compared.name.as_str()) == decisive);
    let decided = decided.map_or_else(String::new, |Compared { name, before, after }| {
        format!(": {name} {before:.6} became {after:.6} on the same rows")
    });
    format!("optimised from {from}, {how}{decided}")
}

/// As a version's measures: its own by their names, and those of what it came from.
fn scores(measures: &[Compared]) -> Vec<Score> {
    let score = |name: String, value| Score { name, who: "model".to_owned(), over: "all".to_owned(), value };
    let both = |Compared { name, before, after }: &Compared| {
        [score(name.clone(), *after), score(format!("parent_{name}"), *before)]
    };
    measures.iter().flat_map(both).collect()
}

impl Optimised {
    /// For people.
    pub fn text(&self) -> String {
        let Narrowed { weights, zeros } = self.weights;
        let mut text = format!("{}, {}: {weights} weights, of which {zeros} are zero\n", self.from, self.how);
        let width = self.measures.iter().map(|compared| compared.name.len()).max().unwrap_or(0);
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "  {:width$}  {:>14}  {:>14}", "", "before", "after");
        for Compared { name, before, after } in &self.measures {
            let _ = writeln!(text, "  {name:width$}  {before:>14.6}  {after:>14.6}");
        }
        if let Some(version) = &self.version {
            let _ = writeln!(text, "it is version {version}");
        }
        text
    }
}
