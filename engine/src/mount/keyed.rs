//! Operators with state by key: rows go to the worker of their key's bin, and wait there until their epoch is complete.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, Meta, Origin, Share, canonical_of};
use crate::binding::{Epoch, Watermark};
use crate::fault::Result;
use crate::graph::Input;
use crate::mount::handover::{self, Handover};
use crate::mount::outlet::Gathered;
use crate::mount::{Outlet, Rows, Site, Walks};
use crate::sequence::START;
use crate::state::{ErasedKeyed, KeyReader, KeyRef, KeyedInstance, bin};

pub(crate) fn mount<'scope>(
    ports: Vec<Rows<'scope>>,
    operator: &Arc<dyn ErasedKeyed>,
    spread: &[usize],
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<Rows<'scope>> {
    let node = &site.graph.nodes[at];
    let schemas: Vec<SchemaRef> = node.inputs.iter().map(|input| site.graph.schema(*input).clone()).collect();
    let mut instance = operator.clone().mount(&schemas, spread)?;
    let is_own = |bin: usize| bin % site.workers == site.worker;
    let stored = site.from.as_ref().and_then(|from| from.manifest().sections.get(&node.name));
    let are_bins_kept = stored.is_some_and(|stored| stored.spread == spread);
    let may_have_own = |bin: u32| !are_bins_kept || is_own(bin as usize);
    site.restore(&node.name, may_have_own, |_, bin| instance.restore(bin, &is_own))?;
    let scope = ports[0].scope();
    let mut builder = OperatorBuilder::new(node.name.clone(), scope);
    let (output, stream) = builder.new_output::<Vec<Batch>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Batch>>>::from(output);
    let mut inputs = Vec::new();
    for (port, stream) in ports.into_iter().enumerate() {
        let reader = KeyReader::new(&schemas[port], operator.key(port), spread)?;
        let routed = route(stream, reader, site);
        inputs.push(builder.new_input(routed, Exchange::new(|share: &Share| share.batch.target())));
    }
    let activator = scope.activator_for(builder.operator_info().address);
    let mut handover = Handover::new(&node.name, site, walks, activator);
    let outlet = site.outlet(&node.name).observed(Input::Node(at), site);
    let mut step = Step { instance, schemas, outlet };
    step.outlet.set_keys(step.instance.keys());
    let from_ms = site.from.as_ref().and_then(|from| from.manifest().frontier.time_ms);
    step.instance.set_now(from_ms.map_or(START, |from_ms| (from_ms, Origin::FIRST)));
    let book = site.book.clone();
    let start = site.start();
    builder.build(move |mut capabilities| {
        let mut open: BTreeMap<Epoch, (_, Gathered<Share>)> = BTreeMap::new();
        // One that acts as time passes looks at every epoch, and may give rows in each.
        let mut acting = step.instance.acts().then(|| capabilities.swap_remove(0));
        if let Some(capability) = &mut acting {
            capability.downgrade(&start);
        }
        drop(capabilities);
        move |frontiers| {
            let mut output = output.activate();
            for (port, input) in inputs.iter_mut().enumerate() {
                input.for_each_stamp(|time, batches| {
                    let (Some(&epoch), Some(capability)) = (time.least(), time.retain_least(0)) else { return };
                    let (_, gathered) = open.entry(epoch).or_insert_with(|| (capability, Gathered::default()));
                    let shares = batches.flat_map(|batch| batch.drain(..));
                    shares.for_each(|share| gathered.add(port, share.batch.lane, share));
                });
            }
            let complete = handover::next(frontiers);
            while let Some(epoch) = next_epoch(acting.as_ref(), &open).filter(|epoch| *epoch < complete) {
                if acting.is_some() && book.binding(epoch).is_none() {
                    // The input has ended: no epoch was bound here.
                    acting = None;
                    continue;
                }
                handover.begin(epoch, &mut *step.instance);
                let (capability, gathered) = open.remove(&epoch).unzip();
                if let Some(capability) = acting.as_ref().or(capability.as_ref()) {
                    let mut session = output.session_with_builder(capability);
                    step.run(epoch, &gathered.unwrap_or_default(), book.watermark(epoch), |batch| session.give(batch));
                }
                if let Some(capability) = &mut acting {
                    capability.downgrade(&(epoch + 1));
                }
            }
            handover.begin(complete, &mut *step.instance);
            handover.walk(&mut *step.instance);
        }
    });
    Ok(stream)
}

/// The epoch to see to next: the first that has rows, or for an operator that acts as time passes, each in turn.
fn next_epoch<T>(acting: Option<&Capability<Epoch>>, open: &BTreeMap<Epoch, T>) -> Option<Epoch> {
    acting.map(|capability| *capability.time()).or_else(|| open.keys().next().copied())
}

/// Splits batches by the worker of their rows' keys.
fn route<'scope>(stream: Rows<'scope>, reader: KeyReader, site: &Site) -> StreamVec<'scope, Epoch, Share> {
    let workers = site.workers;
    let outlet = site.outlet("exchange");
    stream.unary(Pipeline, "route", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|time, batches| {
                let mut session = output.session(&time);
                for batch in batches.flat_map(|batch| batch.drain(..)) {
                    match split(&batch, &reader, workers) {
                        Ok(parts) => parts.into_iter().for_each(|part| session.give(part)),
                        Err(fault) => outlet.abort(fault),
                    }
                }
            });
        }
    })
}

fn split(batch: &Batch, reader: &KeyReader, workers: usize) -> Result<Vec<Share>> {
    let worker_of = |hash: u64| bin(hash) % workers;
    let all = |worker| Ok(vec![Share::new(batch, None, worker)]);
    if workers == 1 {
        return all(0);
    }
    let keys = reader.read(&batch.rows)?;
    if keys.is_one() {
        return all(worker_of(KeyRef::EMPTY.hash()));
    }
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); workers];
    for (row, hash) in keys.bins().into_iter().enumerate() {
        rows[worker_of(hash)].push(row as u32);
    }
    // After a step with the same key, all rows are where they belong.
    if let Some(worker) = rows.iter().position(|rows| rows.len() == batch.rows.num_rows()) {
        return all(worker);
    }
    let share = |(worker, rows)| Share::new(batch, Some(rows), worker);
    Ok(rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(share).collect())
}

struct Step {
    instance: Box<dyn KeyedInstance>,
    schemas: Vec<SchemaRef>,
    outlet: Outlet,
}

impl Step {
    /// An epoch: requests first, which read the state of before it; then what it teaches, and what is due at the watermark after
    /// it.
    fn run(&mut self, epoch: Epoch, gathered: &Gathered<Share>, now: Watermark, mut give: impl FnMut(Batch)) {
        if !gathered.serve.is_empty()
            && let Some(rows) = self.sorted(0, &gathered.serve)
        {
            let instance = &mut self.instance;
            let out = self.outlet.run(epoch, Lane::Serve, &rows, |rejects| instance.serve(&rows, rejects));
            if let Some(out) = out {
                give(Batch::new(Lane::Serve, out));
            }
        }
        self.instance.set_now(now);
        if gathered.learn.is_empty() && !self.instance.is_due() {
            return;
        }
        let batches = |port: usize| gathered.learn.get(port).map_or(&[][..], Vec::as_slice);
        let Some(ports) =
            (0..self.schemas.len()).map(|port| self.sorted(port, batches(port))).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        let instance = &mut self.instance;
        let out = self.outlet.run_ports(epoch, Lane::Learn, &ports, |rejects| instance.learn(&ports, rejects));
        if let Some(out) = out {
            give(Batch::new(Lane::Learn, out));
        }
        let rows = ports.iter().map(RecordBatch::num_rows).sum();
        // Rows leave the sources in order, so nothing older than the newest can come any more.
        let newest_ms = ports.iter().filter_map(|rows| Meta::of(rows).time.last()).copied().max().unwrap_or(now.0);
        self.instance.sweep(rows, newest_ms);
        self.outlet.set_keys(self.instance.keys());
    }

    /// A port's rows in canonical order; `None` after a fault.
    fn sorted(&self, port: usize, shares: &[Share]) -> Option<RecordBatch> {
        canonical_of(&self.schemas[port], shares).map_err(|fault| self.outlet.abort(fault)).ok()
    }
}
