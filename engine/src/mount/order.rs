//! Mounts [`crate::sequence`]: stamps each partition's rows where the partition lives, and holds them until the watermark.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Broadcast;

use crate::batch::{Batch, Lane, Meta};
use crate::binding::Epoch;
use crate::checkpoint::Word;
use crate::fault::Result;
use crate::graph::EventTime;
use crate::mount::handover::{self, Handover};
use crate::mount::{Outlet, Rows, Site, Walks};
use crate::sequence::{Bound, Hold, Stamp, Watermarks};

/// The section of checkpoints that holds the watermark of all sources.
const WATERMARK: &str = "order/*";

type Bounds<'scope> = StreamVec<'scope, Epoch, Bound>;

/// The stamped rows of a source, and what its partitions say of their future.
pub(crate) fn stamp<'scope>(
    stream: Rows<'scope>,
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<(Rows<'scope>, Bounds<'scope>)> {
    let source = &site.graph.sources[at];
    let time = source.time;
    let book = site.book.clone();
    let outlet = site.outlet(&format!("{}/order", source.name));
    let section = format!("order/{}", source.name);
    let mut partitions: BTreeMap<u32, Stamp> = BTreeMap::new();
    site.restore(&section, is_own(at, site), |partition, stored| {
        partitions.insert(partition, Stamp::restored(time, stored)?);
        Ok(())
    })?;
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new("stamp".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    let mut handover = Handover::new(&section, site, walks, activator);
    let (rows_out, rows_stream) = builder.new_output::<Vec<Batch>>();
    let (bounds_out, bounds_stream) = builder.new_output::<Vec<Bound>>();
    let mut rows_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Batch>>>::from(rows_out);
    let mut bounds_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Bound>>>::from(bounds_out);
    let mut input = builder.new_input(stream, Exchange::new(Batch::target));
    builder.build(move |_| {
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
                hand_over_stamps(&mut handover, epoch, &partitions);
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
            hand_over_stamps(&mut handover, handover::next(frontiers), &partitions);
        }
    });
    Ok((rows_stream, bounds_stream))
}

/// Whether a partition of source `at` lives on this worker.
fn is_own(at: usize, site: &Site) -> impl Fn(u32) -> bool + use<> {
    let (worker, workers) = (site.worker as u32, site.workers as u32);
    move |partition| worker_of(partition, at, workers) == worker
}

/// The worker on which a partition of source `at` lives.
pub(crate) fn worker_of(partition: u32, at: usize, workers: u32) -> u32 {
    partition.wrapping_add(at as u32) % workers
}

fn hand_over_stamps(handover: &mut Handover, next: Epoch, partitions: &BTreeMap<u32, Stamp>) {
    let Some(cut) = handover.due(next) else { return };
    for (partition, stamp) in partitions {
        let stamp = stamp.clone();
        handover.piece(cut, *partition, 0, Box::new(move || stamp.stored()));
    }
    handover.done(cut, Ok(()));
}

fn stamped(epoch: Epoch, stamp: &mut Stamp, batch: &Batch, outlet: &Outlet) -> Option<Batch> {
    let apply = |rejects: &mut crate::operator::Rejects| {
        stamp.apply(&batch.rows, |row, reason| rejects.push(row, reason)).map(Some)
    };
    outlet.run(epoch, Lane::Learn, &batch.rows, apply).map(|rows| Batch::new(Lane::Learn, rows))
}

/// A source's rows in canonical order, each as soon as the watermark has passed it.
pub(crate) fn hold<'scope>(
    rows: Rows<'scope>,
    bounds: Bounds<'scope>,
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<Rows<'scope>> {
    let site = site.clone();
    let source = &site.graph.sources[at];
    let raise = source.time == EventTime::Arrival;
    let outlet = site.outlet(&format!("{}/hold", source.name));
    let section = format!("held/{}", source.name);
    let mut watermarks = Watermarks::new(site.partitions.iter().copied());
    let mut hold = Hold::default();
    site.restore(WATERMARK, |_| true, |_, stored| watermarks.restore(stored))?;
    site.restore(&section, is_own(at, &site), |partition, stored| hold.restore(partition, &source.schema, stored))?;
    if let Some(from) = &site.from {
        site.book.hold(hold.rows(), 0);
        site.book.set_holding(watermarks.holding(&from.manifest().idle));
    }
    let scope = rows.scope();
    let is_first = (0..at).all(|source| site.graph.is_serving(source)) && site.worker == 0;
    let released = rows.binary_frontier(bounds.broadcast(), Pipeline, Pipeline, "hold", |mut capability, info| {
        let handover = |section: &str| Handover::new(section, &site, walks, scope.activator_for(info.address.clone()));
        let mut rows_handover = handover(&section);
        // The watermark is the same everywhere; one tells it.
        let mut told = is_first.then(|| handover(WATERMARK));
        let mut cut = move |next: Epoch, hold: &Hold, watermarks: &Watermarks| {
            hand_over_held(&mut rows_handover, next, hold);
            if let Some(told) = &mut told {
                hand_over_watermark(told, next, watermarks);
            }
        };
        capability.downgrade(&site.start());
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
                cut(epoch, &hold, &watermarks);
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
            let next = capability.as_ref().map_or(Epoch::MAX, |capability| *capability.time());
            cut(next, &hold, &watermarks);
        }
    });
    Ok(released)
}

fn hand_over_held(handover: &mut Handover, next: Epoch, hold: &Hold) {
    let Some(cut) = handover.due(next) else { return };
    for held in hold.held() {
        // The rows are shared with those that wait here.
        handover.piece(cut, held.partition(), 0, Box::new(move || held.stored()));
    }
    handover.done(cut, Ok(()));
}

fn hand_over_watermark(handover: &mut Handover, next: Epoch, watermarks: &Watermarks) {
    let Some(cut) = handover.due(next) else { return };
    handover.word(cut, Word::Through(crate::binding::time_ms(watermarks.released())));
    let watermarks = watermarks.clone();
    handover.piece(cut, 0, 0, Box::new(move || watermarks.stored()));
    handover.done(cut, Ok(()));
}
