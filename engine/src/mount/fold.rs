//! Folds: all learn rows on one worker, in canonical order; each epoch that taught makes a revision.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, canonical};
use crate::binding::{Epoch, Frontier};
use crate::book::Revision;
use crate::checkpoint::Word;
use crate::fault::{Fault, Result};
use crate::mount::handover::{self, Handover};
use crate::mount::outlet::Gathered;
use crate::mount::{Outlet, Rows, Site, Walks};
use crate::operator::Fold;
use crate::publish::{Event, RevisionMark};
use crate::state::hash;

type Make = Arc<dyn Fn() -> Box<dyn Fold> + Send + Sync>;

pub(crate) fn mount<'scope>(
    stream: Rows<'scope>,
    make: &Make,
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<Rows<'scope>> {
    let site = site.clone();
    let node = &site.graph.nodes[at];
    let home = hash(node.name.as_bytes()) % site.workers as u64;
    let schema = site.graph.schema(node.inputs[0]).clone();
    let outlet = site.outlet(&node.name);
    let fold = (home == site.worker as u64).then(|| make());
    let mut state = fold.map(|fold| State { fold, at, outlet, site: site.clone() });
    if let Some(state) = &mut state {
        site.restore(&node.name, |_| true, |_, stored| state.restore(stored))?;
    }
    let scope = stream.scope();
    let learning = stream.unary(Pipeline, "learning", |_, _| {
        |input, output| {
            input.for_each_stamp(|time, batches| {
                let learns = batches.flat_map(|batch| batch.drain(..)).filter(|batch| batch.lane == Lane::Learn);
                output.session(&time).give_iterator(learns);
            });
        }
    });
    let rows = learning.unary_frontier(Exchange::new(move |_: &Batch| home), "fold", |_, info| {
        let activator = scope.activator_for(info.address);
        let mut handover = state.is_some().then(|| Handover::new(&node.name, &site, walks, activator));
        let mut open: BTreeMap<Epoch, (_, Gathered)> = BTreeMap::new();
        move |(input, frontier), output| {
            input.for_each_stamp(|time, batches| {
                let (Some(&epoch), Some(capability)) = (time.least(), time.retain_least(0)) else { return };
                let (_, gathered) = open.entry(epoch).or_insert_with(|| (capability, Gathered::default()));
                batches.flat_map(|batch| batch.drain(..)).for_each(|batch| gathered.add(0, batch));
            });
            while let Some(entry) = open.first_entry() {
                if frontier.less_equal(entry.key()) {
                    break;
                }
                let (epoch, (capability, gathered)) = entry.remove_entry();
                // Rows come only to the fold's home.
                let (Some(state), Some(handover)) = (&mut state, &mut handover) else { return };
                state.hand_over(handover, epoch);
                match canonical(&schema, gathered.learn.first().map_or(&[], Vec::as_slice)) {
                    Ok(rows) => {
                        if let Some(rows) = state.learn(epoch, &rows) {
                            output.session(&capability).give(Batch::new(Lane::Learn, rows));
                        }
                    }
                    Err(fault) => state.outlet.abort(fault),
                }
            }
            if let (Some(state), Some(handover)) = (&mut state, &mut handover) {
                state.hand_over(handover, handover::next([frontier]));
            }
        }
    });
    Ok(rows)
}

/// A fold as it is stored in checkpoints.
#[derive(Serialize, Deserialize)]
struct Stored {
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
    outlet: Outlet,
    site: Site,
}

impl State {
    /// Hands over the state if it is time, before epoch `next`.
    fn hand_over(&self, handover: &mut Handover, next: Epoch) {
        let Some(cut) = handover.due(next) else { return };
        let revision = self.site.book.newest_revision(self.at).map(|revision| StoredRevision {
            epoch: revision.epoch,
            frontier: (*revision.frontier).clone(),
            mark: RevisionMark { revision: revision.number, digest: revision.digest },
        });
        if let Some(revision) = &revision {
            let name = self.site.graph.nodes[self.at].name.clone();
            handover.word(cut, Word::Revision(name, revision.mark.clone()));
        }
        let stored = Stored { snapshot: self.fold.snapshot(), revision };
        let encode = move || {
            postcard::to_stdvec(&stored).map_err(|error| Fault::ours("a state cannot be written").because(error))
        };
        // Folds are few, and their states are copied in each epoch that taught them anyway.
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
            let name = &self.site.graph.nodes[self.at].name;
            self.site.metrics.set_model(name, mark.revision, &self.fold.measures());
            let (frontier, answer) = (Arc::new(frontier), self.fold.revision());
            let revision = Revision { number: mark.revision, epoch, frontier, digest: mark.digest, answer };
            self.site.book.publish_revision(self.at, revision);
        }
        Ok(())
    }

    fn learn(&mut self, epoch: Epoch, rows: &arrow::array::RecordBatch) -> Option<arrow::array::RecordBatch> {
        let before = self.fold.examples();
        let fold = &mut self.fold;
        let out = self.outlet.run(epoch, Lane::Learn, rows, |rejects| fold.learn(rows, rejects).map(Some));
        if self.fold.examples() > before && !self.site.book.is_aborted() {
            let revision = Revision {
                number: self.fold.examples(),
                epoch,
                frontier: Arc::new(self.site.book.frontier(epoch)),
                digest: crate::digest::of(&self.fold.snapshot()),
                answer: self.fold.revision(),
            };
            // Before the frontier passes this epoch, so that whoever answers the next finds it.
            self.site.book.publish_revision(self.at, revision.clone());
            self.outlet.send(Event::Revised { epoch, fold: self.at, revision, measures: self.fold.measures() });
        }
        out
    }
}
