//! Answers: a request bound in epoch e is answered by the newest revision that was complete before e.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, Meta, filter};
use crate::binding::Epoch;
use crate::mount::transform::{keep, only};
use crate::mount::{Outlet, Rows, Site};
use crate::operator::Rejects;
use crate::publish::{Event, Stamp};

/// Requests come to the process where the folds' revisions are.
pub(crate) fn bring<'scope>(stream: Rows<'scope>, site: &Site) -> Rows<'scope> {
    if site.workers == site.threads {
        return stream;
    }
    let threads = site.threads as u64;
    only(stream, Lane::Serve).exchange(move |batch: &Batch| Meta::of(&batch.rows).offset[0] % threads)
}

pub(crate) fn mount<'scope>(asked: Rows<'scope>, fold: Rows<'scope>, at: usize, site: &Site) -> Rows<'scope> {
    let site = site.clone();
    let graph = &site.graph;
    let name = format!("{}/answer", graph.nodes[at].name);
    let outlet = site.outlet(&name);
    let asks =
        |source: &u32| graph.sources[*source as usize].asks.as_ref().is_some_and(|asks| asks.folds.contains(&at));
    let askers: BTreeSet<u32> = (0..graph.sources.len() as u32).filter(asks).collect();
    asked.binary_frontier::<_, CapacityContainerBuilder<Vec<Batch>>, _, _, _, _>(
        fold,
        Pipeline,
        Pipeline,
        "answer",
        move |_, _| {
            let mut open: BTreeMap<Epoch, (_, Vec<RecordBatch>)> = BTreeMap::new();
            move |(asked, _), (learned, learned_frontier), _output| {
                asked.for_each_stamp(|time, batches| {
                    let (Some(&epoch), Some(capability)) = (time.least(), time.retain_least(0)) else { return };
                    let serving = batches.flat_map(|batch| batch.drain(..)).filter(|batch| batch.lane == Lane::Serve);
                    let rows: Vec<_> =
                        serving.filter_map(|batch| keep(&batch, &askers)).map(|batch| batch.rows).collect();
                    if !rows.is_empty() {
                        open.entry(epoch).or_insert_with(|| (capability, Vec::new())).1.extend(rows);
                    }
                });
                // Only its progress matters here: that no earlier epoch can still teach.
                learned.for_each_stamp(|_, batches| batches.for_each(Vec::clear));
                while let Some(entry) = open.first_entry() {
                    if learned_frontier.less_than(entry.key()) {
                        break;
                    }
                    let (epoch, (_capability, batches)) = entry.remove_entry();
                    for rows in batches {
                        answer(epoch, &rows, at, &site, &outlet);
                    }
                }
            }
        },
    )
}

fn answer(epoch: Epoch, rows: &RecordBatch, at: usize, site: &Site, outlet: &Outlet) {
    let Some(revision) = site.book.revision_before(at, epoch) else {
        let meta = Meta::of(rows);
        let origins = (0..rows.num_rows()).map(|row| meta.origin(row)).collect();
        let reason = "the model has learned nothing yet".to_owned();
        return outlet.send(Event::Refused { epoch, origins, step: outlet.step(), reason });
    };
    let mut columns = None;
    let answered = outlet.run(epoch, Lane::Serve, rows, |rejects: &mut Rejects| {
        columns = Some(revision.answer.answer(rows, rejects)?);
        Ok(Some(filter(rows, &rejects.keep(rows.num_rows()))?))
    });
    if let (Some(rows), Some(columns)) = (answered, columns) {
        let model = site.graph.nodes[at].name.clone();
        let learned_through = if revision.is_foreign {
            (*revision.frontier).clone()
        } else {
            // Epochs that taught the model nothing are behind it too.
            site.book.frontier(epoch - 1)
        };
        let stamp = Arc::new(Stamp { model, revision: revision.number, learned_through });
        outlet.send(Event::Answers { epoch, fold: at, rows, columns, revision: stamp });
    }
}
