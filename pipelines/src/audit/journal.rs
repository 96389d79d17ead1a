//! The journal, record by record.

use millstream_connectors::broker::Broker;
use millstream_engine::Result;

use super::log::Log;
use crate::run::journal::Record;

/// Calls `each` with every record before `end`, and its offset; with `None` for what is no record of a journal.
pub(crate) fn each(
    broker: &dyn Broker,
    topic: &str,
    end: u64,
    mut each: impl FnMut(u64, Option<Record>) -> Result<()>,
) -> Result<()> {
    let mut log = Log::open(broker, topic, 0)?;
    while let Some((offset, value)) = log.next()? {
        if offset >= end {
            break;
        }
        each(offset, serde_json::from_slice(&value).ok())?;
    }
    Ok(())
}
