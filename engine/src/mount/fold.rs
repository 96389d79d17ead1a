//! Folds: all learn rows on one worker, in canonical order; each epoch that taught makes a revision.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, Lane, Meta, canonical};
use crate::binding::{Epoch, Frontier};
use crate::book::Revision;
use crate::checkpoint::Word;
use crate::digest;
use crate::fault::{Fault, Result};
use crate::mount::handover::{self, Handover};
use crate::mount::outlet::Gathered;
use crate::mount::transform::only;
use crate::mount::{Outlet, Rows, Site, Walks};
use crate::operator::{Begun, Fold, Folding, Rejects};
use crate::publish::{Event, RevisionMark};
use crate::state::hash;

pub(crate) fn mount<'scope>(
    ports: Vec<Rows<'scope>>,
    folding: &Folding,
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<Rows<'scope>> {
    let site = site.clone();
    let node = &site.graph.nodes[at];
    let home = hash(node.name.as_bytes()) % site.threads as u64;
    let schemas: Vec<SchemaRef> = node.inputs.iter().map(|input| site.graph.schema(*input).clone()).collect();
    let outlet = site.outlet(&node.name);
    let fold = (home == site.worker as u64).then(|| {
        let mut fold = (folding.make)();
        site.helpers.as_ref().inspect(|helpers| fold.helped_by(helpers));
        fold
    });
    let begun = folding.begun.clone();
    let mut state = fold.map(|fold| State { fold, at, begun, outlet, site: site.clone() });
    if let Some(state) = &mut state {
        state.begin();
        site.restore(&node.name, |_| true, |_, stored| state.restore(stored))?;
    }
    let scope = ports[0].scope();
    let mut builder = OperatorBuilder::new(node.name.clone(), scope);
    let (output, stream) = builder.new_output::<Vec<Batch>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Batch>>>::from(output);
    let mut inputs = Vec::new();
    for stream in ports {
        inputs.push(builder.new_input(only(stream, Lane::Learn), Exchange::new(move |_: &Batch| home)));
    }
    let activator = scope.activator_for(builder.operator_info().address);
    let mut handover = state.is_some().then(|| Handover::new(&node.name, &site, walks, activator));
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<Epoch, (_, Gathered<RecordBatch>)> = BTreeMap::new();
        move |frontiers| {
            let mut output = output.activate();
            for (port, input) in inputs.iter_mut().enumerate() {
                input.for_each_stamp(|time, batches| {
                    let (Some(&epoch), Some(capability)) = (time.least(), time.retain_least(0)) else { return };
                    let (_, gathered) = open.entry(epoch).or_insert_with(|| (capability, Gathered::default()));
                    batches
                        .flat_map(|batch| batch.drain(..))
                        .for_each(|batch| gathered.add(port, batch.lane, batch.rows));
                });
            }
            let complete = handover::next(frontiers);
            while let Some(entry) = open.first_entry().filter(|entry| *entry.key() < complete) {
                let (epoch, (capability, gathered)) = entry.remove_entry();
                // Rows come only to the fold's home.
                let (Some(state), Some(handover)) = (&mut state, &mut handover) else { return };
                state.hand_over(handover, epoch);
                let ports = schemas
                    .iter()
                    .enumerate()
                    .map(|(port, schema)| canonical(schema, gathered.learn.get(port).map_or(&[], Vec::as_slice)));
                match ports.collect::<Result<Vec<_>>>() {
                    Ok(ports) => {
                        let mut session = output.session_with_builder(&capability);
                        state.learn(epoch, &ports, |rows| session.give(Batch::new(Lane::Learn, rows)));
                    }
                    Err(fault) => state.outlet.abort(fault),
                }
            }
            if let (Some(state), Some(handover)) = (&mut state, &mut handover) {
                state.hand_over(handover, complete);
            }
        }
    });
    Ok(stream)
}

/// The rows of all ports in canonical order, as runs of one port's rows.
fn runs(ports: &[RecordBatch]) -> Vec<(usize, Range<usize>)> {
    let metas: Vec<Meta<'_>> = ports.iter().map(Meta::of).collect();
    let mut next = vec![0; ports.len()];
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    let head = |port: usize, next: &[usize]| {
        (next[port] < ports[port].num_rows()).then(|| (metas[port].order(next[port]), port))
    };
    while let Some((_, port)) = (0..ports.len()).filter_map(|port| head(port, &next)).min() {
        let other = (0..ports.len()).filter(|other| *other != port).filter_map(|other| head(other, &next)).min();
        let start = next[port];
        let follows = |row: usize| other.is_none_or(|(order, other)| (metas[port].order(row), port) < (order, other));
        next[port] = (start + 1..ports[port].num_rows()).find(|row| !follows(*row)).unwrap_or(ports[port].num_rows());
        runs.push((port, start..next[port]));
    }
    runs
}

/// A fold as it is stored in checkpoints.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(with = "serde_bytes")]
    snapshot: Vec<u8>,
    revision: Option<StoredRevision>,
}

/// Its newest revision; the answering side is made anew.
#[derive(Serialize, Deserialize)]
struct StoredRevision {
    epoch: Epoch,
    frontier: Frontier,
    mark: RevisionMark,
}

struct State {
    fold: Box<dyn Fold>,
    at: usize,
    begun: Option<Begun>,
    outlet: Outlet,
    site: Site,
}

impl State {
    /// Hands over the state if it is time, before epoch `next`.
    fn hand_over(&self, handover: &mut Handover, next: Epoch) {
        let Some(cut) = handover.due(next) else { return };
        let revision = self.site.book.newest_learned(self.at).map(|revision| StoredRevision {
            epoch: revision.epoch,
            frontier: (*revision.frontier).clone(),
            mark: RevisionMark { revision: revision.number, digest: revision.digest },
        });
        if let Some(revision) = &revision {
            let name = self.site.graph.nodes[self.at].name.clone();
            handover.word(cut, Word::Revision(name, revision.mark.clone()));
        }
        // What is copied is written while the fold learns on.
        let copy = self.fold.copy();
        let encode = move || {
            let stored = Stored { snapshot: copy(), revision };
            postcard::to_stdvec(&stored).map_err(|error| Fault::ours("a state cannot be written").because(error))
        };
        handover.piece(cut, 0, 0, Box::new(encode));
        handover.done(cut, Ok(()));
    }

    fn restore(&mut self, stored: &[u8]) -> Result<()> {
        let stored: Stored = postcard::from_bytes(stored)
            .map_err(|error| Fault::world("a stored state does not fit its operator").because(error))?;
        self.fold.restore(&stored.snapshot)?;
        if self.fold.snapshot() != stored.snapshot {
            return Err(Fault::world("a stored state is not what its operator made of it"));
        }
        if let Some(StoredRevision { epoch, frontier, mark }) = stored.revision {
            let revision = self.revision(epoch, Arc::new(frontier), mark.revision, mark.digest);
            self.tell(&revision);
            self.site.book.publish_revision(self.at, revision);
        }
        Ok(())
    }

    /// Lets what it begins with answer, until it has learned something.
    fn begin(&self) {
        let Some(begun) = &self.begun else { return };
        let digest = digest::hex(self.fold.digest());
        let revision = self.revision(0, begun.learned_through.clone(), self.fold.examples(), digest);
        let revision = Revision { is_foreign: true, ..revision };
        self.tell(&revision);
        self.site.book.begin(self.at, revision);
    }

    /// What the fold is at present.
    fn revision(&self, epoch: Epoch, frontier: Arc<Frontier>, number: u64, digest: String) -> Revision {
        // What does not learn has learned through what it has begun with, and no further.
        let begun = self.begun.as_ref().filter(|begun| !begun.learns);
        Revision {
            number,
            epoch,
            frontier: begun.map_or(frontier, |begun| begun.learned_through.clone()),
            is_foreign: begun.is_some(),
            digest,
            measures: self.fold.measures().into(),
            answer: self.fold.revision(),
        }
    }

    fn tell(&self, revision: &Revision) {
        let name = &self.site.graph.nodes[self.at].name;
        self.site.metrics.set_model(name, revision.number, &revision.measures);
    }

    fn learn(&mut self, epoch: Epoch, ports: &[RecordBatch], mut give: impl FnMut(RecordBatch)) {
        let before = self.fold.changes();
        for (port, range) in runs(ports) {
            let fold = &mut self.fold;
            let rows = ports[port].slice(range.start, range.len());
            let learn = |rejects: &mut Rejects| fold.learn(port, &rows, rejects).map(Some);
            if let Some(rows) = self.outlet.run(epoch, Lane::Learn, &rows, learn) {
                give(rows);
            }
        }
        if self.fold.changes() > before && !self.site.book.is_aborted() {
            let frontier = Arc::new(self.site.book.frontier(epoch));
            let digest = digest::hex(self.fold.digest());
            let revision = self.revision(epoch, frontier, self.fold.examples(), digest);
            // Before the frontier passes this epoch, so that whoever answers the next finds it.
            self.site.book.publish_revision(self.at, revision.clone());
            self.outlet.send(Event::Revised { epoch, fold: self.at, revision });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryViewArray, TimestampMillisecondArray, UInt32Array, UInt64Array};
    use arrow::datatypes::Schema;

    use super::*;
    use crate::batch::schema_of;

    /// Rows of a source at these times, in order.
    fn rows(source: u32, times: &[i64]) -> RecordBatch {
        let len = times.len();
        let none: ArrayRef = Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; len]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![source; len])),
            Arc::new(UInt32Array::from(vec![0; len])),
            Arc::new(UInt64Array::from_iter_values(0..len as u64)),
            Arc::new(UInt32Array::from(vec![0; len])),
            Arc::new(TimestampMillisecondArray::from(times.to_vec())),
            none.clone(),
            none,
        ];
        RecordBatch::try_new(schema_of(&Schema::empty()), columns).expect("the engine's columns")
    }

    #[test]
    fn runs_are_in_the_order_of_all_ports() {
        let ports = [rows(1, &[1, 2, 5, 5, 9]), rows(0, &[3, 5, 6])];
        assert_eq!(runs(&ports), [(0, 0..2), (1, 0..2), (0, 2..4), (1, 2..3), (0, 4..5)]);
        assert_eq!(runs(&[rows(0, &[1, 2]), rows(1, &[])]), [(0, 0..2)]);
        assert_eq!(runs(&[rows(0, &[])]), []);
    }
}
