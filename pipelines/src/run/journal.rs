//! Progress records in their topic: written with each commit, read at the start.

use std::time::Duration;

use millstream_connectors::broker::{Broker, Fetched, Message};
use millstream_engine::publish::Progress;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};

/// A progress record as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The definition that made it.
    definition: String,
    #[serde(flatten)]
    progress: Progress,
}

/// The record's message.
pub fn message(definition: &str, progress: &Progress) -> Result<Message> {
    let record = Record { definition: definition.to_owned(), progress: progress.clone() };
    let value = serde_json::to_vec(&record)
        .map_err(|error| Fault::ours("a progress record cannot be written").because(error))?;
    Ok(Message { value: Some(value), timestamp_ms: progress.binding.now_ms, ..Message::default() })
}

/// All progress so far. A definition that has changed since halts: its models could not be rebuilt.
pub fn read(broker: &dyn Broker, topic: &str, definition: &str) -> Result<Vec<Progress>> {
    let mut all = Vec::new();
    read_all(broker, topic, |value, _| {
        let record: Record = serde_json::from_slice(value).map_err(|error| {
            Fault::world(format!("{topic} holds something else than progress records")).because(error)
        })?;
        if record.definition != definition {
            return Err(Fault::definition(
                "the definition has changed since its last run, and what its models learned cannot be rebuilt with the new \
                 one; restore it, or start anew with another --state (and other topics, if they are on Kafka)",
            ));
        }
        all.push(record.progress);
        Ok(())
    })?;
    Ok(all)
}

/// Calls `each` with every value of partition 0 of a topic, and its key.
pub fn read_all(
    broker: &dyn Broker,
    topic: &str,
    mut each: impl FnMut(&[u8], Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let found = broker.topic(topic)?.ok_or_else(|| Fault::world(format!("there is no topic {topic}")))?;
    let (mut next, end) = found.partitions[0];
    let mut reader = broker.open(topic, &[Position { partition: 0, offset: next }])?;
    while next < end {
        // At the end of a Kafka partition stand markers of transactions, which no record has.
        let Some(Fetched { records, .. }) = reader.read(8 << 20, Duration::from_secs(2))? else { break };
        let Payload::Bytes(values) = &records.payload else { return Err(Fault::ours("topics hold bytes")) };
        for (row, value) in values.iter().enumerate() {
            each(value.unwrap_or_default(), records.key(row))?;
        }
        next = records.offsets.last().map_or(next, |last| last + 1);
    }
    Ok(())
}
