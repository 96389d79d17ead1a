//! Whose answer a request gets.
//!
//! ```text
//! fold ─ answers ─┐             scores: what each fold had measured before the epoch,
//! fold ─ answers ─┼─► choose ─┬─► the answer that is given          or what another fold had learned before it
//! fold ─ refusal ─┘           └─► the others, to be compared
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Float64Type, Schema, SchemaRef};
use prometheus::Histogram;
use serde_json::{Value, json};

use super::{Given, Notice, Other, Outcome, Reply};
use crate::batch::{Meta, Origin, filter};
use crate::binding::Epoch;
use crate::book::{Book, Entry, Request};
use crate::fault::{Fault, Result};
use crate::graph::{Asks, Graph};
use crate::metrics::Metrics;
use crate::operator::{self, Choose, Choosing, Rejects};
use crate::sequence::START;

/// The header of a request that names the fold whose answer it wants, where it may.
pub const VERSION: &str = "version";

/// A text of a request that is told again is cut here.
const TOLD_CHARS_MAX: usize = 64;

/// Whose answer a request wants.
pub(super) enum Wanted {
    /// It does not say.
    Any,
    /// That of the fold in this place among those that are asked.
    Place(usize),
    /// That of none who answers here.
    Nobody(Outcome),
}

/// Whose answer a request wants, as far as it may say so.
pub(super) fn wanted(request: &Request, graph: &Graph) -> Wanted {
    let source = &graph.sources[request.origin.source as usize];
    let Some(asks) = source.asks.as_ref().filter(|asks| asks.by_name) else { return Wanted::Any };
    let Some((_, said)) = request.headers.iter().find(|(name, _)| name == VERSION) else { return Wanted::Any };
    let names = asks.folds.iter().map(|fold| graph.nodes[*fold].name.as_str());
    if let Some(place) = names.clone().position(|name| name.as_bytes() == said) {
        return Wanted::Place(place);
    }
    let said: String = String::from_utf8_lossy(said).chars().take(TOLD_CHARS_MAX).collect();
    Wanted::Nobody(Outcome::Refused { step: source.name.as_str().into(), reason: no_version(&said, names) })
}

/// Says that nobody of these names is meant by a version.
pub fn no_version<'n>(said: &str, names: impl Iterator<Item = &'n str>) -> String {
    format!("there is no version `{said}`; there are {}", names.collect::<Vec<_>>().join(", "))
}

/// The answers of an epoch, by request.
pub(super) struct Answered<'a>(BTreeMap<Origin, Vec<Answer<'a>>>);

/// An answer to a request.
struct Answer<'a> {
    /// The place of who answered among those that were asked.
    place: usize,
    given: &'a Arc<Given>,
    row: usize,
    time_ms: i64,
}

impl<'a> Answered<'a> {
    pub(super) fn of(given: &'a [Arc<Given>], graph: &Graph) -> Result<Self> {
        let mut answered: BTreeMap<Origin, Vec<Answer<'_>>> = BTreeMap::new();
        for given in given {
            let meta = Meta::of(&given.rows);
            for row in 0..given.rows.num_rows() {
                let origin = meta.origin(row);
                let folds = graph.sources[origin.source as usize].asks.as_ref().map_or(&[][..], |asks| &asks.folds);
                let place = folds.iter().position(|fold| *fold == given.fold).unwrap_or(usize::MAX);
                let all = answered.entry(origin).or_default();
                if all.iter().any(|answer| answer.place == place) {
                    return Err(Fault::ours(format!("two answers to one request: {origin:?}")));
                }
                all.push(Answer { place, given, row, time_ms: meta.time[row] });
            }
        }
        Ok(Self(answered))
    }

    /// What a request got: first the answer that is given, then the others in the order in which they were asked.
    pub(super) fn take(&mut self, origin: Origin, choice: Option<&Choice<'_>>, wanted: &Wanted) -> Vec<Outcome> {
        let mut found = self.0.remove(&origin).unwrap_or_default();
        match wanted {
            Wanted::Nobody(_) => return Vec::new(),
            // Nobody else's would do.
            Wanted::Place(place) if !found.iter().any(|answer| answer.place == *place) => return Vec::new(),
            Wanted::Any | Wanted::Place(_) => {}
        }
        found.sort_by_key(|answer| answer.place);
        let mut chosen_with = None;
        if let (Some(choice), [first, ..]) = (choice, found.as_slice()) {
            let (chosen, probability) = match wanted {
                Wanted::Place(place) => (*place, choice.is_drawn().then_some(1.0)),
                _ => choice.of(origin, &first.given.rows, first.row),
            };
            // A chosen one that has no answer is passed over: the first that has one stays first.
            if let Some(at) = found.iter().position(|answer| answer.place == chosen) {
                found[..=at].rotate_right(1);
                chosen_with = probability;
            }
        }
        let probabilities = std::iter::once(chosen_with).chain(std::iter::repeat(None));
        found.into_iter().zip(probabilities).map(|(answer, chosen_with)| answer.outcome(chosen_with)).collect()
    }

    /// A request that was not taken.
    pub(super) fn first(&self) -> Option<Origin> {
        self.0.keys().next().copied()
    }
}

impl Answer<'_> {
    fn outcome(self, chosen_with: Option<f64>) -> Outcome {
        let staleness = |learned_ms| self.time_ms.saturating_sub(learned_ms).max(0);
        Outcome::Answered {
            given: self.given.clone(),
            row: self.row,
            staleness_ms: self.given.revision.learned_through.time_ms.map(staleness),
            chosen_with,
        }
    }
}

/// How it is chosen in an epoch.
pub(super) struct Choice<'a> {
    folds: &'a [usize],
    by: By<'a>,
}

enum By<'a> {
    /// What the folds had measured.
    Scores { choose: &'a dyn Choose, scores: Vec<f64> },
    /// What another fold says: by request, the place of a fold, and the probability.
    Routes(BTreeMap<Origin, (usize, f64)>),
}

impl Choice<'_> {
    /// Whether it is drawn, and with which probability is told.
    fn is_drawn(&self) -> bool {
        matches!(self.by, By::Routes(_))
    }

    /// The place of the fold whose answer a request gets, and with which probability where that was drawn.
    fn of(&self, origin: Origin, rows: &RecordBatch, row: usize) -> (usize, Option<f64>) {
        match &self.by {
            By::Scores { choose, scores } => (choose.choose(scores, rows, row), None),
            // Before anything was learned, and where nothing can be said: the first one, surely.
            By::Routes(routes) => {
                let (place, probability) = routes.get(&origin).copied().unwrap_or((0, 1.0));
                (place, Some(probability))
            }
        }
    }
}

/// By source of requests that several folds answer: how it is chosen in an epoch, by what was complete before it.
pub(super) fn choices<'a>(
    graph: &'a Graph,
    book: &Book,
    epoch: Epoch,
    given: &[Arc<Given>],
) -> Result<BTreeMap<u32, Choice<'a>>> {
    let mut choices = BTreeMap::new();
    for (at, source) in graph.sources.iter().enumerate() {
        let Some(Asks { folds, choose: Some(choosing), .. }) = &source.asks else { continue };
        let by = match choosing {
            Choosing::Measured(choose) => {
                let choose = choose.as_ref();
                let score =
                    |fold: &usize| book.revision_before(*fold, epoch).map_or(f64::NAN, |of| choose.score(&of.measures));
                By::Scores { choose, scores: folds.iter().map(score).collect() }
            }
            Choosing::Learned(router) => match book.revision_before(*router, epoch) {
                Some(revision) => By::Routes(routes(graph, (at as u32, folds), (*router, &*revision.answer), given)?),
                None => By::Routes(BTreeMap::new()),
            },
        };
        choices.insert(at as u32, Choice { folds, by });
    }
    Ok(choices)
}

/// What a router says to each request of a source that one of its folds has answered.
fn routes(
    graph: &Graph,
    (source, folds): (u32, &[usize]),
    (router, revision): (usize, &dyn operator::Answer),
    given: &[Arc<Given>],
) -> Result<BTreeMap<Origin, (usize, f64)>> {
    let schema = graph.schema(graph.nodes[router].inputs[0]);
    let mut routes = BTreeMap::new();
    for fold in folds {
        for given in given.iter().filter(|given| given.fold == *fold) {
            let meta = Meta::of(&given.rows);
            let is_new = |row| {
                let origin = meta.origin(row);
                Some(origin.source == source && !routes.contains_key(&origin))
            };
            let new: BooleanArray = (0..given.rows.num_rows()).map(is_new).collect();
            let rows = as_input(&filter(&given.rows, &new)?, schema)?;
            let mut rejects = Rejects::default();
            let said = revision.answer(&rows, &mut rejects)?;
            let rows = filter(&rows, &rejects.keep(rows.num_rows()))?;
            let (names, probabilities) =
                (said.column(0).as_string::<i32>(), said.column(1).as_primitive::<Float64Type>());
            let meta = Meta::of(&rows);
            for row in 0..rows.num_rows() {
                let place = folds.iter().position(|fold| graph.nodes[*fold].name == names.value(row));
                routes.extend(place.map(|place| (meta.origin(row), (place, probabilities.value(row)))));
            }
        }
    }
    Ok(routes)
}

/// Rows with the columns of another input: those of the same name and type, others missing.
fn as_input(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let column = |field: &arrow::datatypes::FieldRef| {
        let same = rows.column_by_name(field.name()).filter(|column| column.data_type() == field.data_type());
        same.cloned().unwrap_or_else(|| new_null_array(field.data_type(), rows.num_rows()))
    };
    let columns = schema.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// By source of requests, the place of the fold that most of them went to.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u32, usize>);

impl Leaders {
    /// Tells where another fold leads from this epoch on. Nothing is told in the first epoch of a run.
    pub(super) fn changes(&mut self, graph: &Graph, choices: &BTreeMap<u32, Choice<'_>>, entry: &Entry) -> Vec<Notice> {
        let (mut notices, epoch) = (Vec::new(), entry.binding.epoch);
        for (&at, Choice { folds, by }) in choices {
            let By::Scores { choose, scores } = by else { continue };
            let leads = choose.leader(scores);
            let Some(led) = self.0.insert(at, leads).filter(|led| *led != leads) else { continue };
            let name = |place: usize| graph.nodes[folds[place]].name.as_str();
            let scores: serde_json::Map<String, Value> =
                scores.iter().enumerate().map(|(place, score)| (name(place).to_owned(), json!(score))).collect();
            notices.push(Notice {
                place: (entry.watermark.unwrap_or(START).0, Origin { source: at, ..START.1 }),
                step: graph.sources[at as usize].name.as_str().into(),
                kind: "leader_changed".into(),
                about: json!({"epoch": epoch, "from": name(led), "to": name(leads), "scores": scores}),
            });
        }
        notices
    }
}

/// Counts who answered, and how often the others said the same.
pub(super) fn count(metrics: &Metrics, graph: &Graph, replies: &[Reply]) {
    let mut gave: BTreeMap<(u32, &str), (u64, Histogram)> = BTreeMap::new();
    let mut compared: BTreeMap<(u32, &str, bool), u64> = BTreeMap::new();
    let name = |source: u32| graph.sources[source as usize].name.as_str();
    if !replies.is_empty() {
        metrics.epoch_requests.observe(replies.len() as f64);
    }
    for reply in replies {
        let Outcome::Answered { given, staleness_ms, .. } = &reply.outcome else { continue };
        let source = reply.request.origin.source;
        let staleness = || (0, metrics.answer_staleness(name(source), &given.revision.model));
        let (count, staleness) = gave.entry((source, &given.revision.model)).or_insert_with(staleness);
        *count += 1;
        if let Some(ms) = staleness_ms {
            staleness.observe(*ms as f64 / 1000.0);
        }
        for Other { outcome, is_same } in &reply.others {
            if let Outcome::Answered { given, .. } = outcome {
                *compared.entry((source, &given.revision.model, *is_same)).or_default() += 1;
            }
        }
    }
    gave.into_iter().for_each(|((source, model), (count, _))| metrics.answers_by(name(source), model, count));
    for ((source, model, same), count) in compared {
        metrics.compared(name(source), model, same, count);
    }
}

/// Whether two answers say the same: their predictions, which are in their first columns.
pub(super) fn is_same(one: &Outcome, other: &Outcome) -> bool {
    said(one) == said(other)
}

fn said(outcome: &Outcome) -> Option<ArrayData> {
    let Outcome::Answered { given, row, .. } = outcome else { return None };
    given.columns.columns().first().map(|column| column.slice(*row, 1).to_data())
}
