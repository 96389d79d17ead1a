//! Runs a pipeline's workers in other processes: `millstream work`.

use std::sync::Arc;

use millstream_engine::book::Book;
use millstream_engine::graph::Graph;
use millstream_engine::metrics::Metrics;
use millstream_engine::processes::{Aside, Door, First, Member, Processes, serve};
use millstream_engine::source::{Position, Reader, Source};
use millstream_engine::{Fault, Result};
use millstream_operators::models;

use super::{assemble, profiles, server};
use crate::plan::Pipeline;

/// What the first process needs of the others; `None` if there are none.
pub fn first(pipeline: &Pipeline, aside: Arc<dyn Aside>) -> Result<Option<First>> {
    let Some(processes) = processes(pipeline) else { return Ok(None) };
    let door = Door::open(&processes, 0)?;
    Ok(Some(First { processes, door, aside }))
}

/// Works for the first process, as process number `process`, for one run after the other, until SIGINT or SIGTERM.
pub fn work(pipeline: &Pipeline, process: usize) -> Result<()> {
    let Some(processes) = processes(pipeline) else {
        return Err(Fault::definition("the definition has no `processes`: there is nobody to work for"));
    };
    let last = processes.addresses.len() - 1;
    if !(1..=last).contains(&process) {
        let which = if last == 1 { "1".to_owned() } else { format!("from 1 to {last}") };
        return Err(Fault::definition(format!("`--process` has to be {which}: process 0 is `millstream run`")));
    }
    let until = Arc::new(Book::default());
    let _signals = server::hear(until.clone(), "leaving the run, which ends with that")?;
    let door = Door::open(&processes, process)?;
    serve(&processes, &door, process, &until, || {
        let (mut graph, metrics) = (graph(pipeline)?, Arc::new(Metrics::new(&pipeline.name)));
        let (observers, seen) = profiles::observers(pipeline, &metrics);
        graph.observers = observers;
        Ok(Member { graph, metrics, aside: Arc::new(seen), helper: Arc::new(models::helper) })
    })
}

fn processes(pipeline: &Pipeline) -> Option<Processes> {
    let processes = pipeline.processes.as_ref()?;
    let digest = pipeline.digest.get(..16).unwrap_or(&pipeline.digest);
    Some(Processes {
        addresses: processes.addresses.clone(),
        secret: processes.secret.clone(),
        identity: format!("definition {digest} in version {}", env!("CARGO_PKG_VERSION")),
        patience_seconds: processes.patience_seconds,
    })
}

/// The same graph as that of the first process, which alone reads.
fn graph(pipeline: &Pipeline) -> Result<Graph> {
    assemble::graph_of(pipeline, assemble::RECORD_BYTES_MAX, |_, source| {
        Ok((Arc::new(Elsewhere) as Arc<dyn Source>, assemble::decoder(source)))
    })
}

/// A source that is read in another process.
struct Elsewhere;

impl Source for Elsewhere {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn open(&self, _from: &[Position]) -> Result<Box<dyn Reader>> {
        Err(Fault::ours("it is read in another process"))
    }

    fn is_finite(&self) -> bool {
        false
    }
}
