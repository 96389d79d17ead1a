//! Appending: one transaction per append. And plain deliveries, for those who do not need one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_engine::{Fault, Result, failpoint};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use super::errors::{Verdict, classify, classify_commit, code};
use super::outbox::{Outbox, POLL, Undelivered};
use super::{Questions, options};
use crate::broker::partition::Partitioner;
use crate::broker::{Append, Message, Producer, faults};

/// How long one step of a transaction may take; what takes longer has an open outcome.
const STEP: Duration = Duration::from_secs(30);

/// How long one try to abort may take: it waits for deliveries that only the caller can take in.
const ABORT_TRY: Duration = Duration::from_millis(100);

/// A transactional producer.
pub(super) struct Transactions {
    outbox: Outbox,
    options: Arc<BTreeMap<String, String>>,
    questions: Arc<Questions>,
    id: String,
    max_record_bytes: usize,
    partitioner: Partitioner,
    /// Looked up once per topic: a key keeps its partition for as long as the producer lives.
    partitions: HashMap<String, u32>,
    /// For [`Producer::send`]; made at first use.
    plain: Option<Outbox>,
    ended: Option<Ended>,
}

/// Why a producer cannot go on.
#[derive(Clone, Copy)]
enum Ended {
    /// What became of the last append is not known.
    Open,
    /// The last append is done, but a request of it was sent twice. The first may still arrive, and end a later
    /// transaction of this producer half-way: servers tell producers apart, not transactions.
    Echo,
}

impl Transactions {
    pub(super) fn new(options: &Arc<BTreeMap<String, String>>, questions: &Arc<Questions>, id: &str) -> Result<Self> {
        let config = options::producer(options, id);
        let max_record_bytes = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let doing = format!("start producer `{id}`");
        let outbox = Outbox::new(&config, &doing)?;
        outbox.client.init_transactions(STEP).map_err(|error| {
            outbox.listen();
            outbox.context.fault(doing, error)
        })?;
        Ok(Self {
            outbox,
            options: Arc::clone(options),
            questions: Arc::clone(questions),
            id: id.to_owned(),
            max_record_bytes: max_record_bytes.unwrap_or(crate::broker::MAX_RECORD_BYTES),
            partitioner: Partitioner::default(),
            partitions: HashMap::new(),
            plain: None,
            ended: None,
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

    fn transaction(&self, appends: &[Append], chosen: &[Vec<u32>]) -> Result<(), Stop> {
        let deadline = Instant::now() + 2 * STEP;
        let sent = failpoint::around("transaction.send", || self.outbox.deliver(appends, chosen, deadline));
        sent.map_err(|Undelivered { error, place }| {
            let error = self.why(error);
            let stop = self.stop(classify(&error), error);
            let message = place.map_or(String::new(), |place| format!("{place}: ")) + &stop.fault.message;
            Stop { fault: Fault { message, ..stop.fault }, ..stop }
        })?;
        failpoint::around("transaction.commit", || self.commit(deadline))
    }

    /// What made the client give up messages that it had not sent yet. It tells who asks to commit; that cannot work
    /// any more, and were it to, the outcome would be open.
    fn why(&self, error: KafkaError) -> KafkaError {
        if code(&error) != Some(RDKafkaErrorCode::PurgeQueue) {
            return error;
        }
        self.outbox.client.commit_transaction(STEP).err().unwrap_or(KafkaError::Global(RDKafkaErrorCode::State))
    }

    fn commit(&self, deadline: Instant) -> Result<(), Stop> {
        while let Err(error) = self.outbox.client.commit_transaction(STEP) {
            let verdict = classify_commit(&error);
            // "Again" of a call that was refused, not of one that was not answered.
            if verdict != Verdict::Again || Instant::now() > deadline {
                return Err(self.stop(verdict, error));
            }
            self.outbox.client.poll(POLL);
        }
        Ok(())
    }

    fn stop(&self, verdict: Verdict, error: KafkaError) -> Stop {
        self.outbox.listen();
        let fault = match verdict {
            Verdict::Fenced => faults::fenced(&self.id),
            _ => self.outbox.context.fault(format!("append as producer `{}`", self.id), error),
        };
        Stop { verdict, fault }
    }

    /// Ends an append that did not work: undone for certain, or left open.
    fn recover(&mut self, Stop { verdict, mut fault }: Stop) -> Fault {
        let definite = match verdict {
            // What the client refused to send has no effect once the transaction is aborted.
            Verdict::Abort => self.abort(),
            // A commit that is to be made again, and was until the time was up, may have arrived.
            Verdict::Again | Verdict::Fenced | Verdict::Open => false,
        };
        self.outbox.context.take_undelivered();
        fault.retry &= definite;
        if !definite {
            self.ended = Some(Ended::Open);
            return fault;
        }
        fault.message = format!("{} (nothing was appended)", fault.message);
        if fault.retry { fault } else { faults::refused(fault) }
    }

    fn abort(&self) -> bool {
        let deadline = Instant::now() + STEP;
        while let Err(error) = self.outbox.client.abort_transaction(ABORT_TRY) {
            let again = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
            if !again || Instant::now() > deadline {
                return false;
            }
            self.outbox.client.poll(POLL);
        }
        true
    }
}

impl Producer for Transactions {
    fn append(&mut self, appends: &[Append]) -> Result<()> {
        match self.ended {
            Some(Ended::Open) => return Err(faults::open_outcome(&self.id)),
            Some(Ended::Echo) => return Err(echo(&self.id)),
            None => {}
        }
        let chosen = appends.iter().map(|append| self.plan(append)).collect::<Result<Vec<_>>>()?;
        self.outbox.listen();
        self.outbox.context.take_lost();
        if let Err(error) = failpoint::around("transaction.begin", || self.outbox.client.begin_transaction()) {
            // Nothing was begun, but a producer that cannot begin is of no more use.
            let stop = self.stop(classify(&error), error);
            self.ended = Some(Ended::Open);
            return Err(Fault { retry: false, ..stop.fault });
        }
        let done = self.transaction(appends, &chosen).map_err(|stop| self.recover(stop));
        self.outbox.listen();
        if self.outbox.context.take_lost() {
            self.ended.get_or_insert(Ended::Echo);
        }
        done
    }

    fn send(&mut self, appends: &[Append]) -> Result<()> {
        let chosen = appends.iter().map(|append| self.plan(append)).collect::<Result<Vec<_>>>()?;
        let outbox = match self.plain.take() {
            Some(outbox) => outbox,
            None => Outbox::new(&options::plain(&self.options), "start a producer")?,
        };
        let deadline = Instant::now() + 2 * STEP;
        if let Err(Undelivered { error, place }) = outbox.deliver(appends, &chosen, deadline) {
            outbox.listen();
            let place = place.map_or(String::new(), |place| format!(" to {place}"));
            // What the client still holds goes with it, so that it is not sent once more, later.
            return Err(outbox.context.fault(format!("send{place}"), error));
        }
        self.plain = Some(outbox);
        Ok(())
    }
}

fn echo(id: &str) -> Fault {
    let what = format!("producer `{id}` cannot go on: a request of its last append was sent twice");
    Fault::world(format!("{what}, and the first may still arrive; make a new producer"))
}

/// Why an append stopped.
struct Stop {
    verdict: Verdict,
    fault: Fault,
}
