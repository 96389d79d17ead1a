//! What order keeps, as it is stored in checkpoints: by partition, so that any number of workers can take it over.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Bound, Hold, Stamp, Watermarks, compacted};
use crate::batch::{Meta, canonical, filter};
use crate::binding::Watermark;
use crate::fault::{Fault, Result};
use crate::graph::EventTime;

fn encoded(state: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(state).map_err(|error| Fault::ours("a state cannot be written").because(error))
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(misfit)
}

fn misfit(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::world("a stored state does not fit its operator").because(error)
}

impl Stamp {
    /// The state as it is stored.
    pub fn stored(&self) -> Result<Vec<u8>> {
        encoded(&(self.newest_ms, self.bound))
    }

    /// The state from [`Stamp::stored`].
    pub fn restored(time: EventTime, stored: &[u8]) -> Result<Self> {
        let (newest_ms, bound) = decoded(stored)?;
        Ok(Self { time, newest_ms, bound })
    }
}

type Stored = (BTreeMap<(u32, u32), Option<Bound>>, Watermark, i64);

impl Watermarks {
    /// The state as it is stored.
    pub fn stored(&self) -> Result<Vec<u8>> {
        encoded(&(&self.bounds, self.released, self.raised_ms))
    }

    /// Takes over the state from [`Watermarks::stored`], of the partitions that there still are.
    pub fn restore(&mut self, stored: &[u8]) -> Result<()> {
        let (bounds, released, raised_ms): Stored = decoded(stored)?;
        for (partition, bound) in bounds {
            self.bounds.entry(partition).and_modify(|known| *known = bound);
        }
        (self.released, self.raised_ms) = (released, raised_ms);
        Ok(())
    }
}

/// What is held of one partition; a copy costs no memory.
pub struct Held {
    partition: u32,
    runs: Vec<RecordBatch>,
    raised_ms: Option<i64>,
}

impl Hold {
    /// What is held, by partition.
    pub fn held(&self) -> Vec<Held> {
        let of = |run: &RecordBatch| Meta::of(run).partition.iter().copied().collect::<BTreeSet<u32>>();
        let runs: Vec<&RecordBatch> = self.runs.iter().chain(&self.fresh).collect();
        let partitions: Vec<BTreeSet<u32>> = runs.iter().map(|run| of(run)).collect();
        let all: BTreeSet<u32> = partitions.iter().flatten().copied().chain(self.raised.keys().copied()).collect();
        let held = |partition: u32| {
            let runs = runs.iter().zip(&partitions).filter(|(_, partitions)| partitions.contains(&partition));
            let runs = runs.map(|(run, _)| (*run).clone()).collect();
            Held { partition, runs, raised_ms: self.raised.get(&partition).copied() }
        };
        all.into_iter().map(held).collect()
    }

    /// Adds what was held of a partition, from [`Held::stored`].
    pub fn restore(&mut self, partition: u32, schema: &SchemaRef, stored: &[u8]) -> Result<()> {
        let (raised_ms, rows): (Option<i64>, &[u8]) = postcard::from_bytes(stored).map_err(misfit)?;
        self.raised.extend(raised_ms.map(|time_ms| (partition, time_ms)));
        if rows.is_empty() {
            return Ok(());
        }
        let reader = arrow::ipc::reader::StreamReader::try_new(rows, None).map_err(misfit)?;
        for run in reader {
            let run = run.map_err(misfit)?;
            // Names and types; what else a schema says does not matter here.
            if run.schema().fields() != schema.fields() {
                return Err(Fault::world("the stored rows have other columns than their source"));
            }
            self.push(RecordBatch::try_new(schema.clone(), run.columns().to_vec())?)?;
        }
        Ok(())
    }
}

impl Held {
    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// As it is stored: an Arrow IPC stream of all rows in canonical order. Equal rows give equal bytes, however they came.
    pub fn stored(&self) -> Result<Vec<u8>> {
        let Some(schema) = self.runs.first().map(RecordBatch::schema) else {
            return encoded(&(self.raised_ms, 0_usize));
        };
        let own = |run: &RecordBatch| {
            let is_own = Meta::of(run).partition.iter().map(|partition| *partition == self.partition);
            filter(run, &BooleanArray::from(is_own.collect::<Vec<_>>()))
        };
        let parts = self.runs.iter().map(own).collect::<Result<Vec<_>>>()?;
        let rows = compacted(&canonical(&schema, &parts)?)?;
        let mut stream = Vec::new();
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut stream, &schema)?;
        writer.write(&rows)?;
        writer.finish()?;
        drop(writer);
        // A sequence of bytes, which begins with their number.
        Ok([encoded(&(self.raised_ms, stream.len()))?, stream].concat())
    }
}
