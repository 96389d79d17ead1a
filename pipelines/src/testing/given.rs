//! Records that a test gives, as a source.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BinaryArray;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use millstream_connectors::formats;
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Decoded, Decoder, MakeDecoder, Position, Reader, Source};
use millstream_engine::{Fault, Result};
use serde_json::{Map, Value, json};

use crate::plan::{self, Given, GivenContent};
use crate::run::assemble;

/// Records in memory, and how they become rows.
pub(super) fn source(source: &plan::Source, given: &[Given]) -> Result<(Arc<dyn Source>, MakeDecoder)> {
    let mut partitions: BTreeMap<u32, Vec<&Given>> = BTreeMap::from([(0, Vec::new())]);
    for record in given {
        partitions.entry(record.partition).or_default().push(record);
    }
    let decoder = decoder(source, &partitions)?;
    let batches = partitions.into_iter().map(|(partition, records)| (partition, batch(partition, &records)));
    Ok((Arc::new(Records(batches.collect())), decoder))
}

fn batch(partition: u32, records: &[&Given]) -> RawBatch {
    let keys: BinaryArray = records.iter().map(|record| record.key.as_deref().map(str::as_bytes)).collect();
    let has_keys = records.iter().any(|record| record.key.is_some());
    let values = records.iter().map(|record| match &record.content {
        GivenContent::Text(text) => text.clone().into_bytes(),
        GivenContent::Columns(row) => {
            let columns: Map<String, Value> = row.iter().cloned().collect();
            Value::Object(columns).to_string().into_bytes()
        }
    });
    RawBatch {
        partition,
        offsets: (0..records.len() as u64).collect(),
        timestamps: records.iter().map(|record| record.timestamp_ms).collect(),
        keys: has_keys.then_some(keys),
        headers: Vec::new(),
        payload: Payload::Bytes(BinaryArray::from_iter_values(values)),
    }
}

/// Texts are read as the definition says; maps of columns are JSON, whatever the source's records are.
fn decoder(source: &plan::Source, partitions: &BTreeMap<u32, Vec<&Given>>) -> Result<MakeDecoder> {
    let texts = assemble::decoder(source);
    let is_text = |record: &Given| matches!(record.content, GivenContent::Text(_));
    if partitions.values().flatten().all(|record| is_text(record)) {
        return Ok(texts);
    }
    let json = formats::plan(&json!("json"), &source.columns).map_err(|problems| {
        let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        Fault::definition(format!("{} cannot be given rows: {}", source.name, messages.join("; ")))
    })?;
    let texts_at = |records: &Vec<&Given>| records.iter().map(|record| is_text(record)).collect::<Vec<bool>>();
    let is_text: Arc<BTreeMap<u32, Vec<bool>>> =
        Arc::new(partitions.iter().map(|(partition, records)| (*partition, texts_at(records))).collect());
    let columns = source.columns.clone();
    Ok(Arc::new(move || {
        let (texts, maps) = (texts(), (json.decoder)());
        Box::new(Mixed { texts, maps, is_text: is_text.clone(), columns: columns.clone() })
    }))
}

/// Reads texts in one way and maps in another.
struct Mixed {
    texts: Box<dyn Decoder>,
    maps: Box<dyn Decoder>,
    /// Which records are texts, by partition.
    is_text: Arc<BTreeMap<u32, Vec<bool>>>,
    columns: SchemaRef,
}

impl Decoder for Mixed {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let is_text: Vec<bool> =
            raw.offsets.iter().map(|offset| self.is_text[&raw.partition][*offset as usize]).collect();
        let (mut rows, mut record, mut rejects, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for run in is_text.chunk_by(|a, b| a == b) {
            let kind = if run[0] { &mut self.texts } else { &mut self.maps };
            let decoded = kind.decode(&raw.slice(start as usize, run.len()))?;
            rows.push(decoded.rows);
            record.extend(decoded.record.into_iter().map(|at| at + start));
            rejects.extend(decoded.rejects.into_iter().map(|(at, reason)| (at + start, reason)));
            start += run.len() as u32;
        }
        Ok(Decoded { rows: concat_batches(&self.columns, &rows)?, record, rejects })
    }
}

/// Records by partition.
struct Records(BTreeMap<u32, RawBatch>);

impl Source for Records {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(self.0.keys().copied().collect())
    }

    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        let rest = |position: &Position| {
            let records = self.0.get(&position.partition)?;
            let start = (position.offset as usize).min(records.len());
            Some(records.slice(start, records.len() - start)).filter(|records| !records.is_empty())
        };
        let ends =
            self.0.values().map(|records| Position { partition: records.partition, offset: records.len() as u64 });
        Ok(Box::new(Rest { ahead: from.iter().filter_map(rest).collect(), ends: ends.collect() }))
    }

    fn is_finite(&self) -> bool {
        true
    }
}

struct Rest {
    ahead: VecDeque<RawBatch>,
    ends: Vec<Position>,
}

impl Reader for Rest {
    fn read(&mut self, _: usize, _: Duration) -> Result<Option<RawBatch>> {
        Ok(self.ahead.pop_front())
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        Ok(self.ends.clone())
    }
}
