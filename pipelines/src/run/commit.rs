//! Makes epochs durable: model files first, which nothing refers to yet; then answers, dead letters, sinks' records and
//! progress in one transaction; then what lies outside the broker.
//!
//! ```text
//! append ─┬─ done ───────────────────────────────► tell the sinks
//!         ├─ try again: the same call ◄─┐
//!         ├─ fenced: the run ends       │ not there
//!         └─ nobody knows ─► new producer, read back ─── there ─► tell the sinks
//! ```
//! With [`Delivery::AtLeastOnce`], everything but the progress goes out ahead of it, on its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_connectors::broker::{Append, Message};
use millstream_connectors::sinks::Sink;
use millstream_engine::batch::Lane;
use millstream_engine::binding::{Binding, Epoch};
use millstream_engine::book::Request;
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::{Commit, DeadLetter, Notice, Outcome, Published};
use millstream_engine::{Result, digest, failpoint};
use serde_json::json;

use crate::front::Hub;
use crate::plan::Delivery;
use crate::run::assemble::Topics;
use crate::run::journal::{Record, Writer};
use crate::run::lineage::Lineage;
use crate::run::promote::Promoter;
use crate::run::recover::Ledger;
use crate::run::reply;
use crate::run::served::Served;
use crate::run::tenure::{Appended, Tenure};

/// Where answers of a request source go.
pub struct Answers {
    /// The topic that asks.
    pub asked: String,
    /// The topic that gets the answers.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// The topic that gets the answers that are not given, and how many partitions it has.
    pub others: Option<(String, u32)>,
    /// Headers of a request that its answer gets, too.
    pub headers: Vec<String>,
    /// Topics that a request may name in its header `reply-to`: its answer goes there, too.
    pub reply_to: Vec<String>,
    /// The features of those who answer, by their names, where a request may ask for them.
    pub features: Option<BTreeMap<String, Used>>,
}

/// The columns that a model reads: their indices, in the order of their names.
pub type Used = Vec<usize>;

/// The pipeline's commit.
pub struct BrokerCommit {
    /// The right to write the journal, and with it everything else.
    pub tenure: Tenure,
    /// Whether what leaves waits for the progress record.
    pub delivery: Delivery,
    /// The pipeline's own topics.
    pub topics: Topics,
    /// The sources' names.
    pub sources: Vec<String>,
    /// By source index: where its answers go.
    pub answers: BTreeMap<u32, Answers>,
    /// The sinks, by output index.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Writes promoted versions.
    pub promoter: Promoter,
    /// Writes progress records.
    pub journal: Writer,
    /// Remembers them for checkpoints.
    pub ledger: Arc<Ledger>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How far the epochs that were handed over have come.
    pub reached: Reached,
    /// Tells of promoted versions, if that is wanted.
    pub lineage: Option<Arc<Lineage>>,
    /// Tells what was served.
    pub served: Served,
    /// Who waits for answers, if they can be asked for over HTTP.
    pub hub: Option<Arc<Hub>>,
}

/// How far epochs have come, so that a commit that is called again goes on where it stopped.
#[derive(Default)]
pub struct Reached {
    /// What epochs before this one give has been sent, ahead of their progress.
    pub sent: Epoch,
    /// Epochs before this one are durable.
    pub durable: Epoch,
    /// The epoch and the output before which sinks know that they are.
    pub told: (Epoch, usize),
}

impl BrokerCommit {
    /// What an epoch gives, by topic; without its progress.
    fn gifts(&mut self, epochs: &[Published]) -> Result<Topical> {
        let mut topics = Topical::new();
        topics.insert(self.topics.served.clone(), self.served.tell(epochs, &self.sources));
        if let (Some(lineage), Some(first)) = (&self.lineage, epochs.first()) {
            let versions = self.promoter.promoted_since(first.progress.binding.epoch);
            topics.entry(lineage.topic.clone()).or_default().extend(versions.map(|version| lineage.promoted(version)));
        }
        for epoch in epochs {
            let now_ms = epoch.progress.binding.now_ms;
            for reply in &epoch.replies {
                let answers = &self.answers[&reply.request.origin.source];
                let given = reply::message(&reply.request, reply.value.clone(), answers.partitions, answers, now_ms);
                if let Some(topic) = reply::reply_to(&reply.request, answers) {
                    let reply = Message { partition: None, ..given.clone() };
                    topics.entry(topic.to_owned()).or_default().push(reply);
                }
                topics.entry(answers.topic.clone()).or_default().push(given);
                let Some((topic, partitions)) = &answers.others else { continue };
                for other in &reply.others {
                    let value = reply::encode(&reply.request, &other.outcome, answers)?;
                    let other = reply::message(&reply.request, value, *partitions, answers, now_ms);
                    topics.entry(topic.clone()).or_default().push(other);
                }
            }
            let dead = epoch.dead_letters.iter().map(|letter| dead_letter(letter, &self.sources, now_ms));
            topics.entry(self.topics.dead.clone()).or_default().extend(dead);
            let events = epoch.notices.iter().map(|notice| event(notice, &self.sources, now_ms));
            topics.entry(self.topics.events.clone()).or_default().extend(events);
            for (output, rows) in &epoch.outputs {
                if let Some(append) = self.sinks[*output].prepare(rows)? {
                    topics.entry(append.topic).or_default().extend(append.messages);
                }
            }
        }
        Ok(topics)
    }

    /// Makes epochs durable, or loses the producer.
    fn append(&mut self, epochs: &[Published]) -> Result<Appended> {
        let journal = self.journal.messages(self.tenure.incarnation(), epochs.iter().map(|epoch| &epoch.progress))?;
        let digests = journal.iter().map(|message| digest::of(message.value.as_deref().unwrap_or_default()));
        let digests: Vec<String> = digests.collect();
        let progress = (self.topics.progress.clone(), journal);
        let from = self.tenure.seen();
        let appended = match self.delivery {
            Delivery::ExactlyOnce => {
                let mut gifts = self.gifts(epochs)?;
                gifts.extend([progress]);
                failpoint::around("progress.send", || self.tenure.append(&appends(gifts)))?
            }
            Delivery::AtLeastOnce => {
                let unsent = unreached(epochs, self.reached.sent);
                let gifts = appends(self.gifts(unsent)?);
                if !gifts.is_empty()
                    && let Appended::Lost = self.tenure.send(&gifts)?
                {
                    return Ok(Appended::Lost);
                }
                self.reached.sent = end(epochs);
                failpoint::around("progress.send", || self.tenure.append(&appends([progress].into())))?
            }
        };
        if let Appended::Done = appended {
            for (epoch, digest) in epochs.iter().zip(digests) {
                let Binding { epoch, idle, .. } = &epoch.progress.binding;
                self.ledger.add(*epoch, digest, from, idle);
            }
            if let Some(last) = epochs.last() {
                self.journal.wrote(&last.progress);
            }
            self.reached.durable = end(epochs);
        }
        Ok(appended)
    }

    /// Finds out what became of the last append: the epochs that the journal holds are durable.
    fn recover(&mut self, epochs: &[Published]) -> Result<()> {
        let tail = self.tenure.renew()?;
        self.metrics.commit_recoveries_total.inc();
        self.journal.renew();
        for entry in tail {
            let Record::Progress(committed) = Record::parse(&self.topics.progress, &entry)? else { continue };
            let epoch = committed.binding.epoch;
            let ours = epochs.iter().find(|published| published.progress.binding.epoch == epoch);
            if let Some(ours) = ours.filter(|_| epoch >= self.reached.durable) {
                self.ledger.add(epoch, digest::of(&entry.value), entry.offset, &ours.progress.binding.idle);
                self.reached.durable = epoch + 1;
            }
        }
        Ok(())
    }

    /// Tells the sinks outside the broker, each once of each epoch.
    fn tell(&mut self, epochs: &[Published]) -> Result<()> {
        for published in epochs {
            let epoch = published.progress.binding.epoch;
            for (output, rows) in &published.outputs {
                if (epoch, *output) >= self.reached.told {
                    self.sinks[*output].committed(rows)?;
                    self.reached.told = (epoch, *output + 1);
                }
            }
        }
        Ok(())
    }
}

impl Commit for BrokerCommit {
    fn encode(&self, request: &Request, outcome: &Outcome, _: i64) -> Result<Vec<u8>> {
        reply::encode(request, outcome, &self.answers[&request.origin.source])
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        self.promoter.promote(epochs)?;
        loop {
            if self.tenure.is_lost() {
                self.recover(epochs)?;
            }
            let rest = unreached(epochs, self.reached.durable);
            if rest.is_empty() {
                self.tell(epochs)?;
                self.hub.iter().for_each(|hub| hub.published(epochs));
                self.promoter.note();
                return Ok(());
            }
            // Once lost, it is looked for in the next round.
            let (Appended::Done | Appended::Lost) = self.append(rest)?;
        }
    }
}

/// Messages by topic.
type Topical = BTreeMap<String, Vec<Message>>;

fn appends(topics: Topical) -> Vec<Append> {
    let filled = topics.into_iter().filter(|(_, messages)| !messages.is_empty());
    filled.map(|(topic, messages)| Append { topic, messages }).collect()
}

/// Those that are not before `epoch`.
fn unreached(epochs: &[Published], epoch: Epoch) -> &[Published] {
    let reached = epochs.iter().take_while(|published| published.progress.binding.epoch < epoch).count();
    &epochs[reached..]
}

/// The epoch after the last.
fn end(epochs: &[Published]) -> Epoch {
    epochs.last().map_or(0, |last| last.progress.binding.epoch + 1)
}

/// The raw bytes, so that they can be read again; where and why as headers.
fn dead_letter(letter: &DeadLetter, sources: &[String], now_ms: i64) -> Message {
    let origin = letter.origin;
    let lane = match letter.lane {
        Lane::Learn => "learn",
        Lane::Serve => "serve",
    };
    let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
    let content = letter.is_row.then(|| header("content", "row".to_owned()));
    Message {
        value: letter.raw.clone(),
        headers: vec![
            header("source", sources[origin.source as usize].clone()),
            header("partition", origin.partition.to_string()),
            header("offset", origin.offset.to_string()),
            header("lane", lane.to_owned()),
            header("step", letter.step.to_string()),
            header("reason", letter.reason.clone()),
        ]
        .into_iter()
        .chain(content)
        .collect(),
        timestamp_ms: now_ms,
        ..Message::default()
    }
}

/// Something of note, in JSON: what, by whom, at which record, and all about it.
fn event(notice: &Notice, sources: &[String], now_ms: i64) -> Message {
    let (time_ms, origin) = notice.place;
    let value = json!({
        "event": notice.kind,
        "step": &*notice.step,
        "at": {"source": sources[origin.source as usize], "partition": origin.partition, "offset": origin.offset},
        "time": reply::time(time_ms),
        "about": notice.about,
    });
    Message { value: Some(value.to_string().into_bytes()), timestamp_ms: now_ms, ..Message::default() }
}

/// Opens the sinks of a pipeline.
pub fn open_sinks(pipeline: &crate::plan::Pipeline) -> Result<Vec<Box<dyn Sink>>> {
    let folder: &PathBuf = &pipeline.folder;
    pipeline.sinks.iter().map(|sink| (sink.sink.open)(folder)).collect()
}
