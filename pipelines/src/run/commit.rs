//! Makes epochs durable: model files first, which nothing refers to yet; then answers, dead letters, sinks' records and
//! progress in one transaction; then what lies outside the broker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use millstream_connectors::broker::{Append, Message, Producer};
use millstream_connectors::sinks::Sink;
use millstream_engine::Result;
use millstream_engine::batch::Lane;
use millstream_engine::book::Request;
use millstream_engine::publish::{Commit, DeadLetter, Outcome, Published};

use crate::run::assemble::Topics;
use crate::run::journal;
use crate::run::promote::Promoter;
use crate::run::reply;

/// Where answers of a request source go.
pub struct Answers {
    /// The topic that asks.
    pub asked: String,
    /// The topic that gets the answers.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
}

/// The pipeline's commit.
pub struct BrokerCommit {
    /// Fenced since the start of the run.
    pub producer: Box<dyn Producer>,
    /// The pipeline's own topics.
    pub topics: Topics,
    /// The definition's digest.
    pub definition: String,
    /// The sources' names.
    pub sources: Vec<String>,
    /// By source index: where its answers go.
    pub answers: BTreeMap<u32, Answers>,
    /// The sinks, by output index.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Writes promoted versions.
    pub promoter: Promoter,
}

impl BrokerCommit {
    fn transaction(&mut self, epochs: &[Published]) -> Result<Vec<Append>> {
        let mut topics: BTreeMap<String, Vec<Message>> = BTreeMap::new();
        for epoch in epochs {
            let now_ms = epoch.progress.binding.now_ms;
            for reply in &epoch.replies {
                let answers = &self.answers[&reply.request.origin.source];
                topics.entry(answers.topic.clone()).or_default().push(reply::message(reply, answers, now_ms));
            }
            let dead = epoch.dead_letters.iter().map(|letter| dead_letter(letter, &self.sources, now_ms));
            topics.entry(self.topics.dead.clone()).or_default().extend(dead);
            for (output, rows) in &epoch.outputs {
                if let Some(append) = self.sinks[*output].prepare(rows)? {
                    topics.entry(append.topic).or_default().extend(append.messages);
                }
            }
            let progress = journal::message(&self.definition, &epoch.progress)?;
            topics.entry(self.topics.progress.clone()).or_default().push(progress);
        }
        topics.retain(|_, messages| !messages.is_empty());
        Ok(topics.into_iter().map(|(topic, messages)| Append { topic, messages }).collect())
    }
}

impl Commit for BrokerCommit {
    fn encode(&self, request: &Request, outcome: &Outcome, _now_ms: i64) -> Result<Vec<u8>> {
        reply::encode(request, outcome, &self.answers[&request.origin.source])
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        self.promoter.promote(epochs)?;
        let appends = self.transaction(epochs)?;
        self.producer.append(&appends)?;
        for (output, rows) in epochs.iter().flat_map(|epoch| &epoch.outputs) {
            let rows: &RecordBatch = rows;
            self.sinks[*output].committed(rows)?;
        }
        Ok(())
    }
}

/// The raw bytes, so that they can be read again; where and why as headers.
fn dead_letter(letter: &DeadLetter, sources: &[String], now_ms: i64) -> Message {
    let origin = letter.origin;
    let lane = match letter.lane {
        Lane::Learn => "learn",
        Lane::Serve => "serve",
    };
    let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
    Message {
        value: letter.raw.clone(),
        headers: vec![
            header("source", sources[origin.source as usize].clone()),
            header("partition", origin.partition.to_string()),
            header("offset", origin.offset.to_string()),
            header("lane", lane.to_owned()),
            header("step", letter.step.to_string()),
            header("reason", letter.reason.clone()),
        ],
        timestamp_ms: now_ms,
        ..Message::default()
    }
}

/// Opens the sinks of a pipeline.
pub fn open_sinks(pipeline: &crate::plan::Pipeline) -> Result<Vec<Box<dyn Sink>>> {
    let folder: &PathBuf = &pipeline.folder;
    pipeline.sinks.iter().map(|sink| (sink.sink.open)(folder)).collect()
}
