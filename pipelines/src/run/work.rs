//! Runs a pipeline's workers in other processes: `millstream work`.

use std::sync::Arc;

use millstream_engine::book::Book;
use millstream_engine::graph::Graph;
use millstream_engine::metrics::Metrics;
use millstream_engine::processes::{Aside, Door, Member, Processes, serve};
use millstream_engine::source::{Position, Reader, Source};
use millstream_engine::{Fault, Result};

use super::{assemble, profiles, server};
use crate::plan::Pipeline;

/// Where the processes are, and where the first of them takes connections; `None` if there is only one.
pub fn first(pipeline: &Pipeline, aside: Arc<dyn Aside>) -> Result<Option<(Processes, Door)>> {
    let Some(processes) = processes(pipeline, aside) else { return Ok(None) };
    let door = Door::open(&processes, 0)?;
    Ok(Some((processes, door)))
}

/// Works for the first process, as process number `process`, for one run after the other, until SIGINT or SIGTERM.
pub fn work(pipeline: &Pipeline, process: usize) -> Result<()> {
    let count = pipeline.processes.as_ref().map_or(1, |processes| processes.addresses.len());
    if !(1..count).contains(&process) {
        return Err(Fault::definition(match count {
            1 => "the definition has no `processes`: there is nobody to work for".to_owned(),
            2 => "`--process` has to be 1: process 0 is `millstream run`".to_owned(),
            _ => format!("`--process` has to be from 1 to {}: process 0 is `millstream run`", count - 1),
        }));
    }
    let until = Arc::new(Book::default());
    let _signals = server::hear(until.clone(), "leaving the run, which ends with that")?;
    let member = || {
        let (mut graph, metrics) = (graph(pipeline)?, Arc::new(Metrics::new(&pipeline.name)));
        let (observers, seen) = profiles::observers(pipeline, &metrics);
        graph.observers = observers;
        let processes = processes(pipeline, Arc::new(seen)).expect("there are several");
        Ok(Member { graph, metrics, processes })
    };
    let Member { processes, .. } = member()?;
    let door = Door::open(&processes, process)?;
    serve(&door, process, &until, member)
}

fn processes(pipeline: &Pipeline, aside: Arc<dyn Aside>) -> Option<Processes> {
    let processes = pipeline.processes.as_ref()?;
    let digest = pipeline.digest.get(..16).unwrap_or(&pipeline.digest);
    Some(Processes {
        addresses: processes.addresses.clone(),
        secret: processes.secret.clone(),
        identity: format!("definition {digest} in version {}", env!("CARGO_PKG_VERSION")),
        patience_seconds: processes.patience_seconds,
        aside,
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
