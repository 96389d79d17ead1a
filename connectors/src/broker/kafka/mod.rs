//! Topics on a Kafka server.
//!
//! ```text
//! append ─► begin ─► send all ─► poll until nothing is in flight ─► commit          (one transaction)
//! send   ─►          send all ─► poll until nothing is in flight                    (idempotent, another client)
//! read   ─► assigned partitions, read_committed ─► columns, a partition at a time   (no group, no commits)
//! ```
//! Checked against noida-db 0.2.3 (wire, headers, transactions, fencing, out-of-range offsets; through a proxy also lost
//! requests and answers, a server that is away or slow) and against librdkafka's mock cluster (error codes); not against
//! Apache Kafka itself.

mod context;
mod errors;
mod options;
mod outbox;
mod producer;
mod reader;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;

use self::context::Context;
pub use self::options::check_options;
use super::{Broker, Producer, Topic, TopicReader, check_topic, faults};

/// How long a question to the servers may take.
const ANSWER: Duration = Duration::from_secs(30);

/// How long it is waited for an answer at first; twice as long each time that none comes.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How long it may take when no server can be reached.
const CONNECT: Duration = Duration::from_secs(3);

/// Topics on a Kafka server.
#[derive(Clone)]
pub struct Kafka {
    options: Arc<BTreeMap<String, String>>,
    questions: Arc<Questions>,
}

/// A client for looking things up; it reads no records.
struct Questions {
    client: BaseConsumer<Context>,
    context: Context,
    servers: String,
}

impl Kafka {
    /// Connects with options that [`check_options`] found nothing wrong with; fails unless a server answers.
    pub fn connect(options: &BTreeMap<String, String>) -> Result<Self> {
        if let Some(problem) = check_options(options).first() {
            return Err(Fault::definition(format!("the Kafka options are wrong: {}", problem.message)));
        }
        let context = Context::default();
        let servers = options.get("bootstrap.servers").cloned().unwrap_or_default();
        let client = options::consumer(options)
            .create_with_context(context.clone())
            .map_err(|error| context.fault("set up a Kafka client", hide_value(error)))?;
        let questions = Arc::new(Questions { client, context, servers });
        questions.metadata(None, "reach the server")?;
        Ok(Self { options: Arc::new(options.clone()), questions })
    }

    fn admin(&self) -> Result<AdminClient<Context>> {
        let context = self.questions.context.clone();
        let admin = options::client(&self.options).create_with_context(context.clone());
        admin.map_err(|error| context.fault("set up a Kafka client", hide_value(error)))
    }

    /// Waits until a new topic can be used.
    fn await_topic(&self, name: &str, partitions: u32) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.topic(name) {
                Ok(Some(topic)) if topic.partitions.len() == partitions as usize => return Ok(()),
                Ok(Some(topic)) => return Err(faults::other_partitions(name, topic.partitions.len(), partitions)),
                Err(fault) if !fault.retry => return Err(fault),
                Ok(None) | Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) => return Err(Fault::retry(format!("topic `{name}` was created, but does not appear"))),
                Err(fault) => return Err(fault),
            }
        }
    }
}

impl Questions {
    /// The topics (or one) with their numbers of partitions, by name.
    fn metadata(&self, topic: Option<&str>, doing: &str) -> Result<BTreeMap<String, u32>> {
        let (start, mut patience, mut wait) = (Instant::now(), ANSWER, FIRST_ANSWER);
        let metadata = loop {
            // Nobody else takes the client's errors out of its queue.
            while let Some(event) = self.client.poll(Duration::ZERO) {
                let code = event.err().and_then(|error| error.rdkafka_error_code());
                if code == Some(RDKafkaErrorCode::AllBrokersDown) {
                    patience = CONNECT;
                }
            }
            match self.client.fetch_metadata(topic, wait) {
                Ok(metadata) => break metadata,
                // A slow server answers in time some day; one that is not there is asked again soon.
                Err(_) if start.elapsed() < patience => wait = (2 * wait).min(patience.saturating_sub(start.elapsed())),
                Err(error) => return Err(self.context.fault(format!("{doing} at {}", self.servers), error)),
            }
        };
        metadata.topics().iter().filter_map(|topic| known(topic).transpose()).collect()
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.metadata(Some(topic), &format!("look up topic `{topic}`"))?.remove(topic))
    }

    /// A partition's first offset and its end.
    fn range(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        watermarks(&self.client, topic, partition, ANSWER).map_err(|error| {
            self.context.fault(format!("ask for the offsets of topic `{topic}` partition {partition}"), error)
        })
    }

    fn topic(&self, name: String, partitions: u32) -> Result<Topic> {
        let partitions = (0..partitions).map(|partition| self.range(&name, partition)).collect::<Result<_>>()?;
        Ok(Topic { name, partitions })
    }
}

/// A partition's first offset and its end.
fn watermarks(client: &BaseConsumer<Context>, topic: &str, partition: u32, wait: Duration) -> KafkaResult<(u64, u64)> {
    let ask = || client.fetch_watermarks(topic, partition as i32, wait).map(|(low, high)| (low.max(0), high.max(0)));
    let (mut low, mut high) = ask()?;
    // The client asks for each of the two, and where only one answer comes, takes it for both: then what is kept seems
    // to be gone.
    if low == high && low > 0 {
        let again = ask()?;
        (low, high) = (low.min(again.0), high.max(again.1));
    }
    Ok((low as u64, high as u64))
}

/// A topic that exists.
fn known(topic: &MetadataTopic) -> Result<Option<(String, u32)>> {
    match topic.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some((topic.name().to_owned(), topic.partitions().len() as u32))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => {
            let message = format!("cannot look up topic `{}`: {code}", topic.name());
            Err(if errors::passes(code) { Fault::retry(message) } else { Fault::world(message) })
        }
    }
}

/// The client repeats an option's value when it refuses it; that may be a password.
fn hide_value(error: KafkaError) -> KafkaError {
    match error {
        KafkaError::ClientConfig(result, why, option, _) => {
            KafkaError::ClientConfig(result, why, option, "(value hidden)".to_owned())
        }
        other => other,
    }
}

impl Broker for Kafka {
    fn topics(&self) -> Result<Vec<Topic>> {
        let all = self.questions.metadata(None, "list topics")?;
        // Two underscores mark the servers' own topics.
        let users = all.into_iter().filter(|(name, _)| !name.starts_with("__"));
        users.map(|(name, partitions)| self.questions.topic(name, partitions)).collect()
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>> {
        let partitions = self.questions.partitions(name)?;
        partitions.map(|partitions| self.questions.topic(name.to_owned(), partitions)).transpose()
    }

    fn create(&self, name: &str, partitions: u32) -> Result<()> {
        check_topic(name, partitions)?;
        if let Some(has) = self.questions.partitions(name)? {
            let differs = || faults::other_partitions(name, has as usize, partitions);
            return if has == partitions { Ok(()) } else { Err(differs()) };
        }
        let doing = || format!("create topic `{name}`");
        // -1: as many replicas as the server makes by default.
        // What a model has learned is rebuilt from the log, so the log stays until somebody decides otherwise. A server's own
        // limit would count from the records' times, which may be long past.
        let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(-1));
        let mut topic = topic.set("retention.ms", "-1");
        // Servers take 1 MB unless told otherwise; who raises the client's limit means the topics as well.
        if let Some(bytes) = self.options.get("message.max.bytes") {
            topic = topic.set("max.message.bytes", bytes);
        }
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        let admin = self.admin()?;
        let results = block_on(admin.create_topics([&topic], &options))
            .map_err(|error| self.questions.context.fault(doing(), error))?;
        for (_, code) in results.into_iter().filter_map(std::result::Result::err) {
            // Somebody else may have been faster.
            if code != RDKafkaErrorCode::TopicAlreadyExists {
                return Err(self.questions.context.fault(doing(), KafkaError::AdminOp(code)));
            }
        }
        self.await_topic(name, partitions)
    }

    fn open(&self, topic: &str, from: &[Position]) -> Result<Box<dyn TopicReader>> {
        let has = self.questions.partitions(topic)?.ok_or_else(|| faults::no_topic(topic))?;
        for position in from {
            if position.partition >= has {
                return Err(faults::no_partition(topic, position.partition, has as usize));
            }
            let range = self.questions.range(topic, position.partition)?;
            if position.offset < range.0 || position.offset > range.1 {
                return Err(faults::out_of_range(topic, position.partition, position.offset, range));
            }
        }
        Ok(Box::new(reader::Reader::open(&self.options, topic, from)?))
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(producer::Transactions::new(&self.options, &self.questions, id)?))
    }
}

/// Waits for one answer of the administration client, whose own thread completes it.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests;
