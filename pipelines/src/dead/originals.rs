//! The records that letters were, as they lie in their topics: a letter has neither their key nor their timestamp.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_connectors::broker::{Broker, Message};
use millstream_engine::Result;
use millstream_engine::source::Position;

use super::{READ_BYTES, WAITS, records};

/// A reader goes on over so many records to the next one wanted; a longer way is a new reader's.
const NEAR: u64 = 10_000;

/// The records at these offsets of a partition that are still there.
pub(super) fn find(
    broker: &dyn Broker,
    topic: &str,
    partition: u32,
    offsets: &[u64],
) -> Result<BTreeMap<u64, Message>> {
    let mut found = BTreeMap::new();
    let kept = broker.topic(topic)?.and_then(|topic| topic.partitions.get(partition as usize).copied());
    let Some((first, end)) = kept else { return Ok(found) };
    let mut wanted: Vec<u64> = offsets.iter().copied().filter(|offset| (first..end).contains(offset)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut rest = wanted.as_slice();
    while let Some(&start) = rest.first() {
        let near = 1 + rest.windows(2).take_while(|pair| pair[1] - pair[0] <= NEAR).count();
        take(broker, topic, Position { partition, offset: start }, &rest[..near], &mut found)?;
        rest = &rest[near..];
    }
    Ok(found)
}

/// Takes the wanted records from one reader.
fn take(
    broker: &dyn Broker,
    topic: &str,
    from: Position,
    wanted: &[u64],
    found: &mut BTreeMap<u64, Message>,
) -> Result<()> {
    let mut reader = broker.open(topic, &[from])?;
    let last = wanted.last().copied().unwrap_or_default();
    let (mut next, mut empty) = (from.offset, 0);
    while next <= last && empty <= WAITS.0 {
        let wait = if empty == 0 { Duration::ZERO } else { WAITS.1 };
        let Some(fetched) = reader.read(READ_BYTES, wait)? else {
            if reader.ends()?.iter().all(|end| end.offset <= next) {
                break;
            }
            empty += 1;
            continue;
        };
        empty = 0;
        for record in records(&fetched)? {
            next = record.offset + 1;
            if wanted.binary_search(&record.offset).is_ok() {
                let message = Message {
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record.headers.clone(),
                    timestamp_ms: record.timestamp_ms,
                    partition: Some(from.partition),
                };
                found.insert(record.offset, message);
            }
        }
    }
    Ok(())
}
