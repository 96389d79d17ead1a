//! Formats: bytes into typed columns, and back. One file each.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned, Problem};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Decoded, Decoder, MakeDecoder, Source};
use serde_json::Value;

pub mod arrow_ipc;
mod cells;
mod columns;
pub mod csv;
pub mod json;
pub mod mismatch;
pub mod raw;
mod record;
mod required;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
pub mod timestamp;

pub use cells::Cell;
pub use required::required;
pub use rows::rows_decoder;

/// A format's entry. It is planned against the declared columns (without the engine's), which it decodes into or encodes.
pub type FormatKind = Kind<fn(&Value, &SchemaRef) -> Planned<Format>>;

/// A planned format.
#[derive(Clone)]
pub struct Format {
    /// Bytes into columns.
    pub decoder: MakeDecoder,
    /// Columns into bytes.
    pub encoder: MakeEncoder,
}

/// Makes an encoder.
pub type MakeEncoder = Arc<dyn Fn() -> Box<dyn Encoder> + Send + Sync>;

/// Turns rows into records.
pub trait Encoder: Send {
    /// One record for each row. `rows` have the schema that the format was planned with.
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray>;

    /// Appends the record of one row: a value of its type, or none, for each of the columns. The same as [`encode`](Self::encode)
    /// gives, for rows that come one by one and are no columns yet.
    fn row(&mut self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<()>;
}

/// All formats.
pub static KINDS: &[&FormatKind] = &[&json::KIND, &csv::KIND, &arrow_ipc::KIND, &raw::KIND];

/// Plans a format as a definition names it: `json`, or `{json: {...}}`.
pub fn plan(named: &Value, columns: &SchemaRef) -> Planned<Format> {
    let empty = Value::Object(serde_json::Map::new());
    let (name, configuration) = match named {
        Value::String(name) => (name, &empty),
        Value::Object(entries) if entries.len() == 1 => {
            let (name, configuration) = entries.iter().next().expect("there is one entry");
            (name, if configuration.is_null() { &empty } else { configuration })
        }
        _ => return Err(vec![Problem::new("", "bad-value", "a format is `json`, or `{json: {...}}`")]),
    };
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let problem = Problem::new("", "unknown-format", format!("there is no format `{name}`"));
        return Err(vec![problem.choices(name, KINDS.iter().map(|kind| kind.name))]);
    };
    let under = if named.is_string() { "" } else { kind.name };
    (kind.plan)(configuration, columns)
        .map_err(|problems| problems.into_iter().map(|problem| problem.under(under)).collect())
}

/// Tells `decoder` how the records of a source's partitions name their values, where they do.
pub fn named(decoder: MakeDecoder, source: &dyn Source) -> Result<MakeDecoder> {
    let mut headers = Vec::new();
    for partition in source.partitions()? {
        headers.extend(source.header(partition)?.map(|header| (partition, header)));
    }
    if headers.is_empty() {
        return Ok(decoder);
    }
    Ok(Arc::new(move || {
        let mut decoder = decoder();
        for (partition, header) in &headers {
            decoder.name(*partition, header);
        }
        decoder
    }))
}

/// Rejects records of more than `max_record_bytes` before `decoder` sees them.
pub fn limited(decoder: MakeDecoder, max_record_bytes: usize) -> MakeDecoder {
    Arc::new(move || Box::new(Limited { decoder: decoder(), max_record_bytes }))
}

struct Limited {
    decoder: Box<dyn Decoder>,
    max_record_bytes: usize,
}

impl Decoder for Limited {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let Payload::Bytes(values) = &raw.payload else { return self.decoder.decode(raw) };
        let fits = |at: usize| values.value_length(at) as usize <= self.max_record_bytes;
        if (0..raw.len()).all(fits) {
            return self.decoder.decode(raw);
        }
        let mask: BooleanArray = (0..raw.len()).map(|at| Some(fits(at))).collect();
        let (kept, large): (Vec<u32>, Vec<u32>) = (0..raw.len() as u32).partition(|at| mask.value(*at as usize));
        let mut decoded = self.decoder.decode(&keep(raw, values, &mask, &kept)?)?;
        for record in decoded.record.iter_mut().chain(decoded.rejects.iter_mut().map(|(record, _)| record)) {
            *record = kept[*record as usize];
        }
        let reason = format!("larger than the limit of {} bytes", self.max_record_bytes);
        decoded.rejects.extend(large.into_iter().map(|at| (at, reason.clone())));
        decoded.rejects.sort_by_key(|(record, _)| *record);
        Ok(decoded)
    }

    fn name(&mut self, partition: u32, header: &[u8]) {
        self.decoder.name(partition, header);
    }
}

/// The records that `mask` is true for: those at `kept`.
fn keep(raw: &RawBatch, values: &BinaryArray, mask: &BooleanArray, kept: &[u32]) -> Result<RawBatch> {
    let binary = |values: &BinaryArray| -> Result<BinaryArray> {
        Ok(filter(values, mask)?.as_any().downcast_ref::<BinaryArray>().expect("filtering keeps the type").clone())
    };
    Ok(RawBatch {
        partition: raw.partition,
        offsets: kept.iter().map(|at| raw.offsets[*at as usize]).collect(),
        timestamps: kept.iter().map(|at| raw.timestamps[*at as usize]).collect(),
        keys: raw.keys.as_ref().map(binary).transpose()?,
        headers: Vec::new(),
        payload: Payload::Bytes(binary(values)?),
    })
}
