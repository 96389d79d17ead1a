//! Folds: all learn rows on one worker, in canonical order; each epoch that taught makes a revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, canonical};
use crate::binding::Epoch;
use crate::book::Revision;
use crate::mount::outlet::Gathered;
use crate::mount::{Outlet, Rows, Site};
use crate::operator::Fold;
use crate::publish::Event;
use crate::state::hash;

type Make = Arc<dyn Fn() -> Box<dyn Fold> + Send + Sync>;

pub(crate) fn mount<'scope>(stream: Rows<'scope>, make: &Make, at: usize, site: &Site) -> Rows<'scope> {
    let site = site.clone();
    let node = &site.graph.nodes[at];
    let home = hash(node.name.as_bytes()) % site.workers as u64;
    let schema = site.graph.schema(node.inputs[0]).clone();
    let outlet = site.outlet(&node.name);
    let fold = (home == site.worker as u64).then(|| make());
    let mut state = fold.map(|fold| State { fold, at, outlet, site: site.clone() });
    let learning = stream.unary(Pipeline, "learning", |_, _| {
        |input, output| {
            input.for_each_stamp(|time, batches| {
                let learns = batches.flat_map(|batch| batch.drain(..)).filter(|batch| batch.lane == Lane::Learn);
                output.session(&time).give_iterator(learns);
            });
        }
    });
    learning.unary_frontier(Exchange::new(move |_: &Batch| home), "fold", move |_, _| {
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
                let Some(state) = &mut state else { return };
                match canonical(&schema, gathered.learn.first().map_or(&[], Vec::as_slice)) {
                    Ok(rows) => {
                        if let Some(rows) = state.learn(epoch, &rows) {
                            output.session(&capability).give(Batch::new(Lane::Learn, rows));
                        }
                    }
                    Err(fault) => state.outlet.abort(fault),
                }
            }
        }
    })
}

struct State {
    fold: Box<dyn Fold>,
    at: usize,
    outlet: Outlet,
    site: Site,
}

impl State {
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
