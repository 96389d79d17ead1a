//! Mounts [`crate::sequence`]: stamps each partition's rows where the partition lives, and holds them until the watermark.

use std::collections::BTreeMap;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Broadcast;

use crate::batch::{Batch, Lane, Meta};
use crate::binding::Epoch;
use crate::graph::EventTime;
use crate::mount::{Outlet, Rows, Site};
use crate::sequence::{Bound, Hold, Stamp, Watermarks};

type Bounds<'scope> = StreamVec<'scope, Epoch, Bound>;

/// The stamped rows of a source, and what its partitions say of their future.
pub(crate) fn stamp<'scope>(stream: Rows<'scope>, at: usize, site: &Site) -> (Rows<'scope>, Bounds<'scope>) {
    let time = site.graph.sources[at].time;
    let book = site.book.clone();
    let outlet = site.outlet(&format!("{}/order", site.graph.sources[at].name));
    let mut builder = OperatorBuilder::new("stamp".to_owned(), stream.scope());
    let (rows_out, rows_stream) = builder.new_output::<Vec<Batch>>();
    let (bounds_out, bounds_stream) = builder.new_output::<Vec<Bound>>();
    let mut rows_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Batch>>>::from(rows_out);
    let mut bounds_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Bound>>>::from(bounds_out);
    let mut input = builder.new_input(stream, Exchange::new(|batch: &Batch| u64::from(batch.worker)));
    builder.build(move |_| {
        let mut partitions: BTreeMap<u32, Stamp> = BTreeMap::new();
        let mut open: BTreeMap<Epoch, (_, _, Vec<Batch>)> = BTreeMap::new();
        move |frontiers| {
            let (mut rows_out, mut bounds_out) = (rows_out.activate(), bounds_out.activate());
            input.for_each_stamp(|time, batches| {
                let (Some(&epoch), Some(rows), Some(bounds)) =
                    (time.least(), time.retain_least(0), time.retain_least(1))
                else {
                    return;
                };
                let (_, _, waiting) = open.entry(epoch).or_insert_with(|| (rows, bounds, Vec::new()));
                waiting.extend(batches.flat_map(|batch| batch.drain(..)));
            });
            while let Some(entry) = open.first_entry() {
                if frontiers[0].less_equal(entry.key()) {
                    break;
                }
                let (epoch, (rows_at, bounds_at, mut batches)) = entry.remove_entry();
                batches.sort_by_key(|batch| Meta::of(&batch.rows).origin(0));
                let mut session = rows_out.session_with_builder(&rows_at);
                for batch in batches {
                    let partition = Meta::of(&batch.rows).partition[0];
                    let stamp = partitions.entry(partition).or_insert_with(|| Stamp::new(time));
                    if let Some(batch) = stamped(epoch, stamp, &batch, &outlet) {
                        book.hear(at as u32, partition);
                        session.give(batch);
                    }
                }
                drop(session);
                bounds_out.session_with_builder(&bounds_at).give_iterator(partitions.values().filter_map(Stamp::bound));
            }
        }
    });
    (rows_stream, bounds_stream)
}

fn stamped(epoch: Epoch, stamp: &mut Stamp, batch: &Batch, outlet: &Outlet) -> Option<Batch> {
    let apply = |rejects: &mut crate::operator::Rejects| {
        stamp.apply(&batch.rows, |row, reason| rejects.push(row, reason)).map(Some)
    };
    outlet.run(epoch, Lane::Learn, &batch.rows, apply).map(|rows| Batch::new(Lane::Learn, rows))
}

/// A source's rows in canonical order, each as soon as the watermark has passed it.
pub(crate) fn hold<'scope>(rows: Rows<'scope>, bounds: Bounds<'scope>, at: usize, site: &Site) -> Rows<'scope> {
    let site = site.clone();
    let raise = site.graph.sources[at].time == EventTime::Arrival;
    let outlet = site.outlet(&format!("{}/hold", site.graph.sources[at].name));
    let mut watermarks = Watermarks::new(site.partitions.iter().copied());
    let mut hold = Hold::default();
    rows.binary_frontier(bounds.broadcast(), Pipeline, Pipeline, "hold", move |capability, _| {
        let mut capability = Some(capability);
        let mut open: BTreeMap<Epoch, (Vec<Batch>, Vec<Bound>)> = BTreeMap::new();
        move |(rows, rows_frontier), (bounds, bounds_frontier), output| {
            rows.for_each_stamp(|time, batches| {
                let Some(&epoch) = time.least() else { return };
                open.entry(epoch).or_default().0.extend(batches.flat_map(|batch| batch.drain(..)));
            });
            bounds.for_each_stamp(|time, batches| {
                let Some(&epoch) = time.least() else { return };
                open.entry(epoch).or_default().1.extend(batches.flat_map(|batch| batch.drain(..)));
            });
            // Every epoch moves the watermark, also one that brought no rows here: it may end a wait.
            let complete = |epoch: &Epoch| !rows_frontier.less_equal(epoch) && !bounds_frontier.less_equal(epoch);
            while let Some(epoch) =
                capability.as_ref().map(|capability| *capability.time()).filter(|epoch| complete(epoch))
            {
                let Some(binding) = site.book.binding(epoch) else {
                    // The input has ended: no epoch was bound here.
                    capability = None;
                    break;
                };
                let (batches, told) = open.remove(&epoch).unwrap_or_default();
                let before = watermarks.released();
                for bound in told {
                    watermarks.update(bound);
                }
                let rows_before = hold.rows();
                for batch in batches {
                    let added = outlet.check(epoch, &batch.rows, |rejects| {
                        hold.add(&batch.rows, before, raise, |row, reason| rejects.push(row, reason))
                    });
                    if !added {
                        return;
                    }
                }
                let waiting = hold.rows();
                let watermark = watermarks.advance(&binding.idle);
                site.book.set_watermark(epoch, watermark);
                if let Some(released) = hold.release(watermark).unwrap_or_else(|fault| {
                    outlet.abort(fault);
                    None
                }) && let Some(capability) = &capability
                {
                    output.session(capability).give(Batch::new(Lane::Learn, released));
                }
                site.book.hold(waiting - rows_before, waiting - hold.rows());
                site.metrics.set_held_rows(site.book.held_rows());
                site.book.set_holding(watermarks.holding(&binding.idle));
                if let Some(capability) = &mut capability {
                    capability.downgrade(&(epoch + 1));
                }
            }
        }
    })
}
