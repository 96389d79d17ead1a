//! Mounts a graph on one timely worker.
//!
//! ```text
//! input ─► decode ─► stamp ─► hold ─┬─► step ─► step ─► fold ─► …        learn rows, in canonical order
//!                                   │            (same operators)  │ revisions
//! input ─► decode (requests) ───────┴─► step ─► step ──────────► answer
//! ```
//! Each edge carries batches of both lanes. Everything that leaves goes to the publisher; every stream is probed, so an
//! epoch counts as passed only when no branch holds any of it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use timely::dataflow::operators::core::{Concatenate, Probe};
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::{InputHandle, Scope, StreamVec};

use crate::batch::Batch;
use crate::binding::Epoch;
use crate::book::Book;
use crate::checkpoint::{Checkpoint, Handed};
use crate::fault::{Fault, Result};
use crate::graph::{Graph, Input};
use crate::metrics::Metrics;
use crate::operator::Power;
use crate::processes::Helpers;
use crate::publish::Event;
use crate::raw::RawBatch;

mod answer;
mod decode;
mod fold;
mod handover;
mod keyed;
mod order;
mod outlet;
mod transform;

pub(crate) use handover::Walks;
pub(crate) use order::worker_of;
pub(crate) use outlet::Outlet;

/// A stream of batches.
pub(crate) type Rows<'scope> = StreamVec<'scope, Epoch, Batch>;

/// What operators need besides their input.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) graph: Arc<Graph>,
    pub(crate) book: Arc<Book>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Sender<Event>,
    /// The (source, partition) pairs of the learn lane.
    pub(crate) partitions: Arc<Vec<(u32, u32)>>,
    /// What takes state for checkpoints, if any are made.
    pub(crate) handed: Option<Sender<Handed>>,
    /// The checkpoint that the run starts from.
    pub(crate) from: Option<Arc<Checkpoint>>,
    pub(crate) worker: usize,
    /// How many workers there are, in all processes.
    pub(crate) workers: usize,
    /// How many of them are in each process. Folds live in the first: on its workers.
    pub(crate) threads: usize,
    /// The other processes, on the first.
    pub(crate) helpers: Option<Helpers>,
}

impl Site {
    pub(crate) fn outlet(&self, step: &str) -> Outlet {
        Outlet::new(step.into(), self)
    }

    pub(crate) fn process(&self) -> usize {
        self.worker / self.threads
    }

    pub(crate) fn is_first_of_process(&self) -> bool {
        self.worker.is_multiple_of(self.threads)
    }

    /// The first epoch of the run.
    pub(crate) fn start(&self) -> Epoch {
        self.from.as_ref().map_or(0, |from| from.epoch())
    }

    /// Gives an operator the pieces of its section that are its own.
    pub(crate) fn restore(
        &self,
        section: &str,
        is_own: impl Fn(u32) -> bool,
        take: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(from) = &self.from else { return Ok(()) };
        let named = |fault| {
            Fault::world(format!("the state of {section} in the checkpoint of epoch {}", from.epoch())).because(fault)
        };
        from.each(section, is_own, take).map_err(named)
    }
}

/// Where records enter, one for each source.
pub(crate) type Inputs = Vec<InputHandle<Epoch, timely::container::CapacityContainerBuilder<Vec<RawBatch>>>>;

/// What a worker drives.
pub(crate) struct Dataflow {
    pub(crate) inputs: Inputs,
    pub(crate) probe: ProbeHandle<Epoch>,
    pub(crate) walks: Rc<Walks>,
}

/// Builds the dataflow, with the state that it starts from. Fails where an operator cannot be mounted, or its state not be read.
pub(crate) fn mount<'scope>(scope: Scope<'scope, Epoch>, site: &Site) -> Result<Dataflow> {
    let graph = site.graph.clone();
    let probe = ProbeHandle::new();
    let walks = Rc::new(Walks::default());
    let (inputs, sources) = mount_sources(scope, site, &walks)?;
    let (paths, spread) = (graph.serve_paths(), graph.spread());
    let mut nodes: Vec<Rows<'scope>> = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let mut ports = Vec::new();
        for (port, input) in node.inputs.iter().enumerate() {
            let stream = stream_of(*input, &sources, &nodes);
            let serves = if port == 0 { paths[at].clone() } else { BTreeSet::new() };
            ports.push(transform::only_serving(stream, serves, &graph));
        }
        let rows = match &node.step.power {
            Power::Transform(operator) => {
                let outlet = site.outlet(&node.name).observed(Input::Node(at), site);
                transform::mount(ports.remove(0), operator.clone(), outlet)
            }
            Power::Keyed(operator) => keyed::mount(ports, operator, &spread[at], at, site, &walks)?,
            Power::Fold(folding) => {
                let rows = fold::mount(ports, folding, at, site, &walks)?;
                let asked = answer::bring(stream_of(node.inputs[0], &sources, &nodes), site);
                answer::mount(asked, rows.clone(), at, site).probe_with(&probe);
                rows
            }
        };
        nodes.push(rows.probe_with(&probe));
    }
    for (at, output) in graph.outputs.iter().enumerate() {
        outlet::mount(stream_of(output.from, &sources, &nodes), at, site).probe_with(&probe);
    }
    for source in sources {
        source.probe_with(&probe);
    }
    Ok(Dataflow { inputs, probe, walks })
}

fn stream_of<'scope>(input: Input, sources: &[Rows<'scope>], nodes: &[Rows<'scope>]) -> Rows<'scope> {
    match input {
        Input::Source(source) => sources[source].clone(),
        Input::Node(node) => nodes[node].clone(),
    }
}

/// For each source, the rows that its stream gives: its own in canonical order, and the requests that enter there.
fn mount_sources<'scope>(
    scope: Scope<'scope, Epoch>,
    site: &Site,
    walks: &Rc<Walks>,
) -> Result<(Inputs, Vec<Rows<'scope>>)> {
    let graph = &site.graph;
    let mut inputs = Vec::new();
    let mut decoded = Vec::new();
    for at in 0..graph.sources.len() {
        let mut input = InputHandle::new();
        decoded.push(decode::mount(input.to_stream(scope), at, site));
        inputs.push(input);
    }
    let stamped = (0..graph.sources.len())
        .filter(|&at| !graph.is_serving(at))
        .map(|at| Ok((at, order::stamp(decoded[at].clone(), at, site, walks)?)))
        .collect::<Result<Vec<_>>>()?;
    let bounds = scope.concatenate(stamped.iter().map(|(_, (_, bounds))| bounds.clone()).collect::<Vec<_>>());
    let mut streams: Vec<Rows<'scope>> = decoded.clone();
    for (at, (rows, _)) in stamped {
        let mut parts = vec![order::hold(rows, bounds.clone(), at, site, walks)?];
        let entering = graph
            .sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.asks.as_ref().is_some_and(|asks| asks.enters == at));
        parts.extend(entering.map(|(source, _)| decoded[source].clone()));
        streams[at] = scope.concatenate(parts);
    }
    Ok((inputs, streams))
}
