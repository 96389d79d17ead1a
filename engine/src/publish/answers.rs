//! Whose answer a request gets.
//!
//! ```text
//! fold ─ answers ─┐             scores: what each fold had measured before the epoch
//! fold ─ answers ─┼─► choose ─┬─► the answer that is given
//! fold ─ refusal ─┘           └─► the others, to be compared
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, RecordBatch};
use serde_json::{Value, json};

use super::{Notice, Outcome, Reply, Stamp};
use crate::batch::{Meta, Origin};
use crate::binding::Epoch;
use crate::book::{Book, Entry};
use crate::fault::{Fault, Result};
use crate::graph::{Asks, Graph};
use crate::metrics::Metrics;
use crate::operator::Choose;
use crate::sequence::START;

/// What a fold answered to some rows.
pub(super) struct Given {
    pub(super) fold: usize,
    pub(super) rows: RecordBatch,
    pub(super) columns: RecordBatch,
    pub(super) revision: Arc<Stamp>,
}

/// The answers of an epoch: by request, and by the place of who answered among those that were asked.
pub(super) struct Answered<'a>(BTreeMap<(Origin, usize), (&'a Given, usize)>);

impl<'a> Answered<'a> {
    pub(super) fn of(given: &'a [Given], graph: &Graph) -> Result<Self> {
        let mut answered = BTreeMap::new();
        for given in given {
            let meta = Meta::of(&given.rows);
            for row in 0..given.rows.num_rows() {
                let origin = meta.origin(row);
                let folds = graph.sources[origin.source as usize].asks.as_ref().map_or(&[][..], |asks| &asks.folds);
                let place = folds.iter().position(|fold| *fold == given.fold).unwrap_or(usize::MAX);
                if answered.insert((origin, place), (given, row)).is_some() {
                    return Err(Fault::ours(format!("two answers to one request: {origin:?}")));
                }
            }
        }
        Ok(Self(answered))
    }

    /// What a request got: first the answer that is given, then the others in the order in which they were asked.
    pub(super) fn take(&mut self, origin: Origin, choice: Option<&Choice<'_>>) -> Vec<Outcome> {
        let mut found = Vec::new();
        while let Some((key, _)) = self.0.range((origin, 0)..=(origin, usize::MAX)).next() {
            let key = *key;
            found.extend(self.0.remove(&key).map(|(given, row)| (key.1, given, row)));
        }
        if let (Some(choice), [(_, given, row), _, ..]) = (choice, found.as_slice()) {
            let chosen = choice.choose.choose(&choice.scores, &given.rows, *row);
            // A chosen one that has no answer is passed over: the first that has one stays first.
            if let Some(at) = found.iter().position(|(place, ..)| *place == chosen) {
                found[..=at].rotate_right(1);
            }
        }
        found.into_iter().map(|(_, given, row)| given.outcome(row)).collect()
    }

    /// A request that was not taken.
    pub(super) fn first(&self) -> Option<Origin> {
        self.0.keys().next().map(|(origin, _)| *origin)
    }
}

impl Given {
    fn outcome(&self, row: usize) -> Outcome {
        let time = Meta::of(&self.rows).time[row];
        let staleness_ms = self.revision.learned_through.time_ms.map(|learned| time.saturating_sub(learned).max(0));
        Outcome::Answered { columns: self.columns.clone(), row, revision: self.revision.clone(), staleness_ms }
    }
}

/// How it is chosen in an epoch.
pub(super) struct Choice<'a> {
    choose: &'a dyn Choose,
    scores: Vec<f64>,
}

impl<'a> Choice<'a> {
    /// By what the folds had measured before `epoch`.
    fn before(epoch: Epoch, asks: &'a Asks, book: &Book) -> Option<Self> {
        let choose = asks.choose.as_deref()?;
        let score = |fold: &usize| book.revision_before(*fold, epoch).map_or(f64::NAN, |of| choose.score(&of.measures));
        Some(Self { choose, scores: asks.folds.iter().map(score).collect() })
    }
}

/// By source: how it is chosen among the answers to an epoch's requests.
pub(super) fn choices<'a>(graph: &'a Graph, book: &Book, entry: &Entry) -> BTreeMap<u32, Choice<'a>> {
    let mut choices = BTreeMap::new();
    for source in entry.requests.iter().map(|request| request.origin.source) {
        if let (false, Some(asks)) = (choices.contains_key(&source), &graph.sources[source as usize].asks) {
            choices.extend(Choice::before(entry.binding.epoch, asks, book).map(|choice| (source, choice)));
        }
    }
    choices
}

/// By source of requests, the place of the fold that most of them went to.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u32, usize>);

impl Leaders {
    /// Tells where another fold leads from this epoch on. Nothing is told in the first epoch of a run.
    pub(super) fn changes(&mut self, graph: &Graph, book: &Book, entry: &Entry) -> Vec<Notice> {
        let (mut notices, epoch) = (Vec::new(), entry.binding.epoch);
        for (at, source) in graph.sources.iter().enumerate() {
            let Some(asks) = &source.asks else { continue };
            let Some(choice) = Choice::before(epoch, asks, book) else { continue };
            let leads = choice.choose.leader(&choice.scores);
            let Some(led) = self.0.insert(at as u32, leads).filter(|led| *led != leads) else { continue };
            let name = |place: usize| graph.nodes[asks.folds[place]].name.as_str();
            let scores: serde_json::Map<String, Value> =
                (0..asks.folds.len()).map(|place| (name(place).to_owned(), json!(choice.scores[place]))).collect();
            notices.push(Notice {
                place: (entry.watermark.unwrap_or(START).0, Origin { source: at as u32, ..START.1 }),
                step: source.name.as_str().into(),
                kind: "leader_changed",
                about: json!({"epoch": epoch, "from": name(led), "to": name(leads), "scores": scores}),
            });
        }
        notices
    }
}

/// Counts who answered, and how often the others said the same.
pub(super) fn count(metrics: &Metrics, graph: &Graph, replies: &[Reply]) {
    let mut gave: BTreeMap<(u32, &str), u64> = BTreeMap::new();
    let mut compared: BTreeMap<(u32, &str, bool), u64> = BTreeMap::new();
    for reply in replies {
        let Outcome::Answered { columns, row, revision, .. } = &reply.outcome else { continue };
        let source = reply.request.origin.source;
        *gave.entry((source, &revision.model)).or_default() += 1;
        for other in &reply.others {
            if let Outcome::Answered { columns: others, row: at, revision: other, .. } = other {
                let same = said(columns, *row) == said(others, *at);
                *compared.entry((source, &other.model, same)).or_default() += 1;
            }
        }
    }
    let name = |source: u32| graph.sources[source as usize].name.as_str();
    gave.into_iter().for_each(|((source, model), count)| metrics.answers_by(name(source), model, count));
    for ((source, model, same), count) in compared {
        metrics.compared(name(source), model, same, count);
    }
}

/// What an answer's first column says: the prediction.
fn said(columns: &RecordBatch, row: usize) -> Option<ArrayData> {
    columns.columns().first().map(|column| column.slice(row, 1).to_data())
}
