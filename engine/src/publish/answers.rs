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
use crate::graph::{Asks, Graph, SourceNode};
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

/// The answers of an epoch, by request.
pub(super) struct Answered<'a>(BTreeMap<Origin, Vec<Answer<'a>>>);

/// An answer to a request.
struct Answer<'a> {
    /// The place of who answered among those that were asked.
    place: usize,
    given: &'a Given,
    row: usize,
    time_ms: i64,
}

impl<'a> Answered<'a> {
    pub(super) fn of(given: &'a [Given], graph: &Graph) -> Result<Self> {
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
    pub(super) fn take(&mut self, origin: Origin, choice: Option<&Choice<'_>>) -> Vec<Outcome> {
        let mut found = self.0.remove(&origin).unwrap_or_default();
        found.sort_by_key(|answer| answer.place);
        if let (Some(choice), [first, _, ..]) = (choice, found.as_slice()) {
            let chosen = choice.choose.choose(&choice.scores, &first.given.rows, first.row);
            // A chosen one that has no answer is passed over: the first that has one stays first.
            if let Some(at) = found.iter().position(|answer| answer.place == chosen) {
                found[..=at].rotate_right(1);
            }
        }
        found.into_iter().map(Answer::outcome).collect()
    }

    /// A request that was not taken.
    pub(super) fn first(&self) -> Option<Origin> {
        self.0.keys().next().copied()
    }
}

impl Answer<'_> {
    fn outcome(self) -> Outcome {
        let Given { columns, revision, .. } = self.given;
        let staleness = |learned_ms| self.time_ms.saturating_sub(learned_ms).max(0);
        Outcome::Answered {
            columns: columns.clone(),
            row: self.row,
            revision: revision.clone(),
            staleness_ms: revision.learned_through.time_ms.map(staleness),
        }
    }
}

/// How it is chosen in an epoch.
pub(super) struct Choice<'a> {
    choose: &'a dyn Choose,
    folds: &'a [usize],
    scores: Vec<f64>,
}

impl<'a> Choice<'a> {
    /// By what the folds had measured before `epoch`.
    fn before(epoch: Epoch, asks: &'a Asks, book: &Book) -> Option<Self> {
        let choose = asks.choose.as_deref()?;
        let score = |fold: &usize| book.revision_before(*fold, epoch).map_or(f64::NAN, |of| choose.score(&of.measures));
        Some(Self { choose, folds: &asks.folds, scores: asks.folds.iter().map(score).collect() })
    }
}

/// By source of requests that several folds answer: how it is chosen in an epoch.
pub(super) fn choices<'a>(graph: &'a Graph, book: &Book, epoch: Epoch) -> BTreeMap<u32, Choice<'a>> {
    let choice =
        |(at, source): (usize, &'a SourceNode)| Some((at as u32, Choice::before(epoch, source.asks.as_ref()?, book)?));
    graph.sources.iter().enumerate().filter_map(choice).collect()
}

/// By source of requests, the place of the fold that most of them went to.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u32, usize>);

impl Leaders {
    /// Tells where another fold leads from this epoch on. Nothing is told in the first epoch of a run.
    pub(super) fn changes(&mut self, graph: &Graph, choices: &BTreeMap<u32, Choice<'_>>, entry: &Entry) -> Vec<Notice> {
        let (mut notices, epoch) = (Vec::new(), entry.binding.epoch);
        for (&at, Choice { choose, folds, scores }) in choices {
            let leads = choose.leader(scores);
            let Some(led) = self.0.insert(at, leads).filter(|led| *led != leads) else { continue };
            let name = |place: usize| graph.nodes[folds[place]].name.as_str();
            let scores: serde_json::Map<String, Value> =
                scores.iter().enumerate().map(|(place, score)| (name(place).to_owned(), json!(score))).collect();
            notices.push(Notice {
                place: (entry.watermark.unwrap_or(START).0, Origin { source: at, ..START.1 }),
                step: graph.sources[at as usize].name.as_str().into(),
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
