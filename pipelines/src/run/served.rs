//! What was served, told once a minute in a topic of its own: how many requests, by whom they were answered, how stale the answers were.
//!
//! ```json
//! {"requests": "questions", "from": "2026-01-05T19:00:00.000Z", "to": "2026-01-05T19:01:00.000Z", "refused": 1,
//!  "answered": {"returns": {"given": 118, "staleness_seconds": {"median": 4.0, "p99": 61.0}}},
//!  "others": {"returns_forest": {"same": 90, "different": 28}}, "epochs": 17, "most_in_an_epoch": 12}
//! ```
//! A record is written with the first epoch after its minute; what came after the last one before a stop is not told.

use std::collections::BTreeMap;

use millstream_connectors::broker::Message;
use millstream_engine::binding::Epoch;
use millstream_engine::publish::{Other, Outcome, Published, Reply};
use millstream_operators::sketch::Quantiles;
use serde::Serialize;

use crate::run::reply;

/// How long a record's time is.
const EVERY_MS: i64 = 60_000;

/// Counts what is served.
#[derive(Default)]
pub struct Served {
    /// Epochs before this one were counted.
    counted: Epoch,
    since_ms: Option<i64>,
    /// By source of requests.
    open: BTreeMap<u32, Window>,
    /// Records of epochs that may have to be written again, should a commit fail.
    told: Vec<(Epoch, Message)>,
}

/// What was served of one source of requests.
#[derive(Default)]
struct Window {
    answered: BTreeMap<String, Answered>,
    others: BTreeMap<String, Compared>,
    refused: u64,
    epochs: u64,
    most_in_an_epoch: u64,
}

#[derive(Default)]
struct Answered {
    given: u64,
    staleness_ms: Quantiles,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Compared {
    same: u64,
    different: u64,
}

impl Served {
    /// Counts these epochs, each once, and gives the records that belong to them. Epochs before the first of them are durable.
    pub fn tell(&mut self, epochs: &[Published], sources: &[String]) -> Vec<Message> {
        let Some(first) = epochs.first().map(|published| published.progress.binding.epoch) else { return Vec::new() };
        self.told.retain(|(epoch, _)| *epoch >= first);
        let counted = self.counted;
        for published in epochs.iter().filter(|published| published.progress.binding.epoch >= counted) {
            let (epoch, now_ms) = (published.progress.binding.epoch, published.progress.binding.now_ms);
            let since_ms = *self.since_ms.get_or_insert(now_ms);
            if now_ms - since_ms >= EVERY_MS {
                for (source, window) in std::mem::take(&mut self.open) {
                    let value = window.written(&sources[source as usize], since_ms, now_ms);
                    let message = Message { value: Some(value), timestamp_ms: now_ms, ..Message::default() };
                    self.told.push((epoch, message));
                }
                self.since_ms = Some(now_ms);
            }
            self.count(&published.replies);
            self.counted = epoch + 1;
        }
        self.told.iter().map(|(_, message)| message.clone()).collect()
    }

    fn count(&mut self, replies: &[Reply]) {
        let mut in_epoch: BTreeMap<u32, u64> = BTreeMap::new();
        for reply in replies {
            let source = reply.request.origin.source;
            *in_epoch.entry(source).or_default() += 1;
            let window = self.open.entry(source).or_default();
            let Outcome::Answered { given, staleness_ms, .. } = &reply.outcome else {
                window.refused += 1;
                continue;
            };
            let answered = of(&mut window.answered, &given.revision.model);
            answered.given += 1;
            staleness_ms.iter().for_each(|ms| answered.staleness_ms.add(*ms as f64));
            for Other { outcome, is_same } in &reply.others {
                if let Outcome::Answered { given, .. } = outcome {
                    let compared = of(&mut window.others, &given.revision.model);
                    *if *is_same { &mut compared.same } else { &mut compared.different } += 1;
                }
            }
        }
        for (source, count) in in_epoch {
            let window = self.open.entry(source).or_default();
            window.epochs += 1;
            window.most_in_an_epoch = window.most_in_an_epoch.max(count);
        }
    }
}

/// The entry of a name, which is copied only once.
fn of<'a, T: Default>(entries: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    if !entries.contains_key(name) {
        entries.insert(name.to_owned(), T::default());
    }
    entries.get_mut(name).expect("it is there")
}

#[derive(Serialize)]
struct Written<'a> {
    requests: &'a str,
    from: String,
    to: String,
    refused: u64,
    answered: BTreeMap<&'a str, WrittenAnswered>,
    others: &'a BTreeMap<String, Compared>,
    epochs: u64,
    most_in_an_epoch: u64,
}

#[derive(Serialize)]
struct WrittenAnswered {
    given: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_seconds: Option<Staleness>,
}

#[derive(Serialize)]
struct Staleness {
    median: f64,
    p99: f64,
}

impl Window {
    fn written(&self, requests: &str, from_ms: i64, to_ms: i64) -> Vec<u8> {
        let answered = |Answered { given, staleness_ms }: &Answered| {
            let staleness = staleness_ms.quantiles([0.5, 0.99]);
            let staleness = staleness.map(|[median, p99]| Staleness { median: median / 1e3, p99: p99 / 1e3 });
            WrittenAnswered { given: *given, staleness_seconds: staleness }
        };
        let written = Written {
            requests,
            from: reply::time(from_ms),
            to: reply::time(to_ms),
            refused: self.refused,
            answered: self.answered.iter().map(|(model, of)| (model.as_str(), answered(of))).collect(),
            others: &self.others,
            epochs: self.epochs,
            most_in_an_epoch: self.most_in_an_epoch,
        };
        serde_json::to_vec(&written).expect("names and numbers can be written")
    }
}
