//! Sending messages and waiting until each is acknowledged: what a transaction and a plain delivery have in common.

use std::time::{Duration, Instant};

use millstream_engine::Result;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::context::Context;
use super::hide_value;
use crate::broker::{Append, Message};

/// Polls are this short, for a poll waits as long as it is told to, whatever comes. (The client's own flush waits in
/// steps of 100 ms.)
pub(super) const POLL: Duration = Duration::from_millis(1);

/// A client that produces.
pub(super) struct Outbox {
    pub(super) client: BaseProducer<Context>,
    pub(super) context: Context,
}

/// Messages that were not all acknowledged.
pub(super) struct Undelivered {
    pub(super) error: KafkaError,
    /// The topic and partition, where they are known.
    pub(super) place: Option<String>,
}

impl Outbox {
    /// `doing` names what it is for.
    pub(super) fn new(config: &ClientConfig, doing: &str) -> Result<Self> {
        let context = Context::default();
        let client =
            config.create_with_context(context.clone()).map_err(|error| context.fault(doing, hide_value(error)))?;
        Ok(Self { client, context })
    }

    /// Sends everything, each message to its chosen partition, and waits until all of it is acknowledged.
    pub(super) fn deliver(
        &self,
        appends: &[Append],
        chosen: &[Vec<u32>],
        deadline: Instant,
    ) -> Result<(), Undelivered> {
        for (append, chosen) in appends.iter().zip(chosen) {
            for (message, partition) in append.messages.iter().zip(chosen) {
                self.enqueue(record(&append.topic, message, *partition), deadline)?;
            }
        }
        while self.client.in_flight_count() > 0 {
            self.client.poll(POLL);
            self.check(deadline)?;
        }
        self.check(deadline)
    }

    /// A full queue is waited for: it bounds the memory that messages under way take.
    fn enqueue(&self, mut record: BaseRecord<'_, Vec<u8>, Vec<u8>>, deadline: Instant) -> Result<(), Undelivered> {
        while let Err((error, back)) = self.client.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(Undelivered { error, place: None });
            }
            record = back;
            self.client.poll(POLL);
            self.check(deadline)?;
        }
        Ok(())
    }

    fn check(&self, deadline: Instant) -> Result<(), Undelivered> {
        let undelivered = self.context.take_undelivered();
        // A client that is beyond help says why only when it is asked.
        if let Some((code, _)) = self.client.client().fatal_error() {
            return Err(Undelivered { error: KafkaError::Global(code), place: undelivered.map(|(place, _)| place) });
        }
        if let Some((place, code)) = undelivered {
            return Err(Undelivered { error: KafkaError::MessageProduction(code), place: Some(place) });
        }
        if Instant::now() > deadline {
            return Err(Undelivered { error: KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut), place: None });
        }
        Ok(())
    }

    /// Takes in what the client has to tell.
    pub(super) fn listen(&self) {
        while self.client.in_flight_count() > 0 {
            self.client.poll(Duration::ZERO);
        }
    }
}

fn record<'a>(topic: &'a str, message: &'a Message, partition: u32) -> BaseRecord<'a, Vec<u8>, Vec<u8>> {
    // The client takes 0 for "now"; a millisecond later is the nearest that can be said.
    let timestamp = if message.timestamp_ms == 0 { 1 } else { message.timestamp_ms };
    let mut record = BaseRecord::to(topic).partition(partition as i32).timestamp(timestamp);
    record.key = message.key.as_ref();
    record.payload = message.value.as_ref();
    if !message.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(message.headers.len());
        let insert = |headers: OwnedHeaders, (name, value): &(String, Vec<u8>)| {
            headers.insert(Header { key: name, value: Some(value) })
        };
        record = record.headers(message.headers.iter().fold(headers, insert));
    }
    record
}
