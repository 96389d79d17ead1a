//! Stateless operators: as rows come, on the worker that has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::BooleanArray;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, Meta, filter};
use crate::graph::Graph;
use crate::mount::{Outlet, Rows};
use crate::operator::Transform;

pub(crate) fn mount(stream: Rows<'_>, operator: Arc<dyn Transform>, outlet: Outlet) -> Rows<'_> {
    stream.unary(Pipeline, "transform", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|time, batches| {
                let Some(&epoch) = time.least() else { return };
                let mut session = output.session(&time);
                for batch in batches.flat_map(|batch| batch.drain(..)) {
                    let apply = |rejects: &mut _| operator.apply(batch.lane, &batch.rows, rejects).map(Some);
                    if let Some(rows) = outlet.run(epoch, batch.lane, &batch.rows, apply) {
                        session.give(Batch::new(batch.lane, rows));
                    }
                }
            });
        }
    })
}

/// The rows of one lane.
pub(crate) fn only(stream: Rows<'_>, lane: Lane) -> Rows<'_> {
    stream.unary(Pipeline, "lane", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|time, batches| {
                let of_lane = batches.flat_map(|batch| batch.drain(..)).filter(|batch| batch.lane == lane);
                output.session(&time).give_iterator(of_lane);
            });
        }
    })
}

/// Lets the learn lane pass, and of the serve lane the requests of these sources.
pub(crate) fn only_serving<'scope>(stream: Rows<'scope>, sources: BTreeSet<u32>, graph: &Graph) -> Rows<'scope> {
    let asking = (0..graph.sources.len()).filter(|&source| graph.is_serving(source)).count();
    if sources.len() == asking {
        return stream;
    }
    stream.unary(Pipeline, "lane", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|time, batches| {
                let mut session = output.session(&time);
                for batch in batches.flat_map(|batch| batch.drain(..)) {
                    if batch.lane == Lane::Learn {
                        session.give(batch);
                    } else if let Some(batch) = keep(&batch, &sources) {
                        session.give(batch);
                    }
                }
            });
        }
    })
}

/// The rows of a batch that came from `sources`; `None` if there are none.
pub(crate) fn keep(batch: &Batch, sources: &BTreeSet<u32>) -> Option<Batch> {
    let mask: Vec<bool> = Meta::of(&batch.rows).source.iter().map(|source| sources.contains(source)).collect();
    if !mask.contains(&true) {
        return None;
    }
    let rows = filter(&batch.rows, &BooleanArray::from(mask)).expect("the mask is as long as the batch");
    Some(Batch::new(batch.lane, rows))
}
