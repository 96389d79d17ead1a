//! Operators with state by key: rows go to the worker of their key's bin, and wait there until their epoch is complete.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, Meta, canonical};
use crate::binding::Epoch;
use crate::fault::Result;
use crate::mount::handover::{self, Handover};
use crate::mount::outlet::Gathered;
use crate::mount::{Outlet, Rows, Site, Walks};
use crate::state::{ErasedKeyed, KeyReader, KeyedInstance, bin, hash};

pub(crate) fn mount<'scope>(
    ports: Vec<Rows<'scope>>,
    operator: &Arc<dyn ErasedKeyed>,
    at: usize,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<Rows<'scope>> {
    let node = &site.graph.nodes[at];
    let schemas: Vec<SchemaRef> = node.inputs.iter().map(|input| site.graph.schema(*input).clone()).collect();
    let mut instance = operator.clone().mount(&schemas)?;
    let is_own = |bin: u32| bin as usize % site.workers == site.worker;
    site.restore(&node.name, is_own, |_, bin| instance.restore(bin))?;
    let scope = ports[0].scope();
    let mut builder = OperatorBuilder::new(node.name.clone(), scope);
    let (output, stream) = builder.new_output::<Vec<Batch>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Batch>>>::from(output);
    let mut inputs = Vec::new();
    for (port, stream) in ports.into_iter().enumerate() {
        let reader = KeyReader::new(&schemas[port], operator.key(port))?;
        let routed = route(stream, reader, site);
        inputs.push(builder.new_input(routed, Exchange::new(|batch: &Batch| u64::from(batch.worker))));
    }
    let activator = scope.activator_for(builder.operator_info().address);
    let mut handover = Handover::new(&node.name, site, walks, activator);
    let mut step = Step { instance, schemas, outlet: site.outlet(&node.name) };
    step.outlet.set_keys(step.instance.keys());
    builder.build(move |_| {
        let mut open: BTreeMap<Epoch, (_, Gathered)> = BTreeMap::new();
        move |frontiers| {
            let mut output = output.activate();
            for (port, input) in inputs.iter_mut().enumerate() {
                input.for_each_stamp(|time, batches| {
                    let (Some(&epoch), Some(capability)) = (time.least(), time.retain_least(0)) else { return };
                    let (_, gathered) = open.entry(epoch).or_insert_with(|| (capability, Gathered::default()));
                    batches.flat_map(|batch| batch.drain(..)).for_each(|batch| gathered.add(port, batch));
                });
            }
            while let Some(entry) = open.first_entry() {
                if frontiers.iter().any(|frontier| frontier.less_equal(entry.key())) {
                    break;
                }
                let (epoch, (capability, gathered)) = entry.remove_entry();
                handover.begin(epoch, &mut *step.instance);
                let mut session = output.session_with_builder(&capability);
                step.run(epoch, &gathered, |batch| session.give(batch));
            }
            handover.begin(handover::next(frontiers), &mut *step.instance);
            handover.walk(&mut *step.instance);
        }
    });
    Ok(stream)
}

/// Splits batches by the worker of their rows' keys.
fn route<'scope>(stream: Rows<'scope>, reader: KeyReader, site: &Site) -> Rows<'scope> {
    if site.workers == 1 {
        return stream;
    }
    let workers = site.workers;
    let outlet = site.outlet("exchange");
    stream.unary(Pipeline, "route", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|time, batches| {
                let mut session = output.session(&time);
                for batch in batches.flat_map(|batch| batch.drain(..)) {
                    match split(batch, &reader, workers) {
                        Ok(parts) => parts.into_iter().for_each(|part| session.give(part)),
                        Err(fault) => outlet.abort(fault),
                    }
                }
            });
        }
    })
}

fn split(batch: Batch, reader: &KeyReader, workers: usize) -> Result<Vec<Batch>> {
    let worker_of = |key: &[u8]| bin(hash(key)) % workers;
    let Some(keys) = reader.read(&batch.rows)? else {
        return Ok(vec![Batch { worker: worker_of(&[]) as u32, ..batch }]);
    };
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); workers];
    for (row, key) in keys.iter().enumerate() {
        rows[worker_of(key.data())].push(row as u32);
    }
    let part = |(worker, rows): (usize, Vec<u32>)| {
        let rows = take_record_batch(&batch.rows, &UInt32Array::from(rows))?;
        Ok(Batch { lane: batch.lane, rows, worker: worker as u32 })
    };
    rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(part).collect()
}

struct Step {
    instance: Box<dyn KeyedInstance>,
    schemas: Vec<SchemaRef>,
    outlet: Outlet,
}

impl Step {
    /// An epoch: requests first, which read the state of before it; then the other ports, which feed state; then port 0.
    fn run(&mut self, epoch: Epoch, gathered: &Gathered, mut give: impl FnMut(Batch)) {
        if !gathered.serve.is_empty() {
            self.apply(epoch, Lane::Serve, 0, &gathered.serve, &mut give);
        }
        let (mut rows, mut newest_ms) = (0, i64::MIN);
        for (port, batches) in gathered.learn.iter().enumerate().rev().filter(|(_, batches)| !batches.is_empty()) {
            for times in batches.iter().map(|batch| Meta::of(batch).time) {
                rows += times.len();
                newest_ms = times.iter().copied().fold(newest_ms, i64::max);
            }
            self.apply(epoch, Lane::Learn, port, batches, &mut give);
        }
        if rows > 0 {
            // Rows leave the sources in order, so nothing older than these can come any more.
            self.instance.sweep(rows, newest_ms);
            self.outlet.set_keys(self.instance.keys());
        }
    }

    fn apply(&mut self, epoch: Epoch, lane: Lane, port: usize, batches: &[RecordBatch], give: &mut impl FnMut(Batch)) {
        let rows = match canonical(&self.schemas[port], batches) {
            Ok(rows) => rows,
            Err(fault) => return self.outlet.abort(fault),
        };
        let instance = &mut self.instance;
        let out = self.outlet.run(epoch, lane, &rows, |rejects| instance.apply(lane, port, &rows, rejects));
        if let Some(out) = out {
            give(Batch::new(lane, out));
        }
    }
}
