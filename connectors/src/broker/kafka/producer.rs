//! Appending: one transaction per append.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_engine::{Fault, Result};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::context::{Context, is_fenced};
use super::{Questions, hide_value, options};
use crate::broker::partition::Partitioner;
use crate::broker::{Append, Message, Producer, faults};

/// How long one step of a transaction may take; what takes longer has an open outcome.
const STEP: Duration = Duration::from_secs(30);

/// A transactional producer.
pub(super) struct Transactions {
    producer: BaseProducer<Context>,
    context: Context,
    questions: Arc<Questions>,
    id: String,
    max_record_bytes: usize,
    partitioner: Partitioner,
    /// Looked up once per topic: a key keeps its partition for as long as the producer lives.
    partitions: HashMap<String, u32>,
    open_outcome: bool,
}

impl Transactions {
    pub(super) fn new(options: &BTreeMap<String, String>, questions: Arc<Questions>, id: &str) -> Result<Self> {
        let context = Context::default();
        let config = options::producer(options, id);
        let max_record_bytes = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let doing = || format!("start producer `{id}`");
        let producer: BaseProducer<Context> =
            config.create_with_context(context.clone()).map_err(|error| context.fault(doing(), hide_value(error)))?;
        producer.init_transactions(STEP).map_err(|error| context.fault(doing(), error))?;
        Ok(Self {
            producer,
            context,
            questions,
            id: id.to_owned(),
            max_record_bytes: max_record_bytes.unwrap_or(crate::broker::MAX_RECORD_BYTES),
            partitioner: Partitioner::default(),
            partitions: HashMap::new(),
            open_outcome: false,
        })
    }

    /// Sizes, topics and partitions, before anything is begun.
    fn plan(&mut self, append: &Append) -> Result<Vec<u32>> {
        let sizes = append.messages.iter().map(Message::bytes).enumerate();
        if let Some((index, bytes)) = sizes.into_iter().find(|(_, bytes)| *bytes > self.max_record_bytes) {
            return Err(faults::too_large(&append.topic, index, bytes, self.max_record_bytes));
        }
        let partitions = if let Some(partitions) = self.partitions.get(&append.topic) {
            *partitions
        } else {
            let found = self.questions.partitions(&append.topic)?.ok_or_else(|| faults::no_topic(&append.topic))?;
            self.partitions.insert(append.topic.clone(), found);
            found
        };
        self.partitioner.assign(&append.topic, partitions, &append.messages)
    }

    /// Sends everything and waits until all of it is acknowledged.
    fn send(&self, appends: &[Append], chosen: &[Vec<u32>], deadline: Instant) -> Result<(), Stop> {
        for (append, chosen) in appends.iter().zip(chosen) {
            for (message, partition) in append.messages.iter().zip(chosen) {
                let mut record = record(&append.topic, message, *partition);
                while let Err((error, back)) = self.producer.send(record) {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || Instant::now() > deadline {
                        return Err(self.stop(error));
                    }
                    record = back;
                    self.producer.poll(Duration::from_millis(1));
                }
            }
        }
        // The client's own flush waits in steps of 100 ms; these are of one.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
            if let Some((place, code)) = self.context.take_undelivered() {
                let error = KafkaError::MessageProduction(code);
                let stop = self.stop(error);
                return Err(Stop {
                    fault: Fault { message: format!("{place}: {}", stop.fault), ..stop.fault },
                    ..stop
                });
            }
            if Instant::now() > deadline {
                return Err(self.stop(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)));
            }
        }
        Ok(())
    }

    fn commit(&self, deadline: Instant) -> Result<(), Stop> {
        while let Err(error) = self.producer.commit_transaction(STEP) {
            // "Again" of a call that was refused, not of one that was not answered.
            if classify(&error) != Verdict::Again || Instant::now() > deadline {
                return Err(self.stop(error));
            }
        }
        Ok(())
    }

    fn stop(&self, error: KafkaError) -> Stop {
        let verdict = classify(&error);
        let fault = match verdict {
            Verdict::Fenced => faults::fenced(&self.id),
            _ => self.context.fault(format!("append as producer `{}`", self.id), error),
        };
        Stop { verdict, fault }
    }

    /// Ends an append that did not work: undone for certain, or left open.
    fn recover(&mut self, Stop { verdict, mut fault }: Stop) -> Fault {
        let definite = match verdict {
            // What the client refused to send has no effect once the transaction is aborted.
            Verdict::Abort | Verdict::Again => self.abort(),
            Verdict::Fenced | Verdict::Open => false,
        };
        self.context.take_undelivered();
        self.open_outcome = !definite;
        fault.retry &= definite;
        if definite && verdict == Verdict::Abort {
            fault.message = format!("{} (nothing was appended)", fault.message);
        }
        fault
    }

    fn abort(&self) -> bool {
        let deadline = Instant::now() + STEP;
        loop {
            match self.producer.abort_transaction(STEP) {
                Ok(()) => return true,
                Err(error) if classify(&error) == Verdict::Again && Instant::now() < deadline => {}
                Err(_) => return false,
            }
        }
    }
}

impl Producer for Transactions {
    fn append(&mut self, appends: &[Append]) -> Result<()> {
        if self.open_outcome {
            return Err(faults::open_outcome(&self.id));
        }
        let chosen = appends.iter().map(|append| self.plan(append)).collect::<Result<Vec<_>>>()?;
        let deadline = Instant::now() + 2 * STEP;
        if let Err(error) = self.producer.begin_transaction() {
            // Nothing was begun, but a producer that cannot begin is of no more use.
            let stop = self.stop(error);
            self.open_outcome = true;
            return Err(Fault { retry: false, ..stop.fault });
        }
        let done = Self::send(self, appends, &chosen, deadline).and_then(|()| self.commit(deadline));
        done.map_err(|stop| self.recover(stop))
    }

    fn send(&mut self, appends: &[Append]) -> Result<()> {
        self.append(appends)
    }
}

/// Why an append stopped.
struct Stop {
    verdict: Verdict,
    fault: Fault,
}

/// What an error means for the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The very same call may be made again.
    Again,
    /// The transaction can be aborted, and then nothing has happened.
    Abort,
    /// A newer producer has taken over.
    Fenced,
    /// Nobody knows: a time-out included, for what was sent may still arrive.
    Open,
}

/// What an error means. Anything unknown leaves the outcome open.
pub(super) fn classify(error: &KafkaError) -> Verdict {
    let code = error.rdkafka_error_code();
    if code.is_some_and(is_fenced) {
        return Verdict::Fenced;
    }
    let timed_out = code.is_some_and(|code| {
        use RDKafkaErrorCode as Code;
        matches!(code, Code::OperationTimedOut | Code::TimedOutQueue | Code::MessageTimedOut | Code::RequestTimedOut)
    });
    match error {
        _ if timed_out => Verdict::Open,
        KafkaError::Transaction(error) if error.is_fatal() => Verdict::Open,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Verdict::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Verdict::Again,
        // Refused by the client or the server, message by message: the transaction itself is intact.
        KafkaError::MessageProduction(code) if *code != RDKafkaErrorCode::Fatal => Verdict::Abort,
        _ => Verdict::Open,
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
