//! What was served, told once a minute in a topic of its own: how many requests, by whom they were answered, how stale the answers were;
//! over HTTP and gRPC, how long they took, how many were refused and how many waited at once; and how differently each feature is
//! distributed where models learn and where they are asked (its population stability index, since the run began).
//!
//! ```json
//! {"requests": "questions", "from": "2026-01-05T19:00:00.000Z", "to": "2026-01-05T19:01:00.000Z", "refused": 1,
//!  "answered": {"returns": {"given": 118, "staleness_seconds": {"median": 4.0, "p99": 61.0}}},
//!  "others": {"returns_forest": {"same": 90, "different": 28}}, "epochs": 17, "most_in_an_epoch": 12,
//!  "front": {"answered": 118, "refused": 3, "most_waiting": 9, "seconds": {"median": 0.004, "p99": 0.011}},
//!  "skew": {"clean": {"amount": 0.02, "evening": 0.4}}}
//! ```
//! A record is written with the first epoch after its minute; what came after the last one before a stop is not told.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_connectors::broker::Message;
use millstream_engine::binding::Epoch;
use millstream_engine::publish::{Other, Outcome, Published, Reply};
use millstream_operators::sketch::Quantiles;
use serde::Serialize;

use crate::front::{Fronted, Hub};
use crate::run::profiles::Skews;
use crate::run::reply;

/// How long a record's time is.
const EVERY_MS: i64 = 60_000;

/// Counts what is served.
pub struct Served {
    skews: Skews,
    hub: Option<Arc<Hub>>,
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
    /// Nothing yet.
    pub fn new(skews: Skews, hub: Option<Arc<Hub>>) -> Self {
        Self { skews, hub, counted: 0, since_ms: None, open: BTreeMap::new(), told: Vec::new() }
    }

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
                    let (front, skew) = (self.hub.as_ref().and_then(|hub| hub.asked(source)), self.skews.of(source));
                    let value = window.written(&sources[source as usize], (since_ms, now_ms), front, skew);
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
    #[serde(skip_serializing_if = "Option::is_none")]
    front: Option<WrittenFront>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    skew: BTreeMap<String, BTreeMap<String, f64>>,
}

#[derive(Serialize)]
struct WrittenAnswered {
    given: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_seconds: Option<Seconds>,
}

#[derive(Serialize)]
struct WrittenFront {
    answered: u64,
    refused: u64,
    most_waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<Seconds>,
}

#[derive(Serialize)]
struct Seconds {
    median: f64,
    p99: f64,
}

impl Seconds {
    /// Of times of which so many are a second.
    fn of(times: &Quantiles, a_second: f64) -> Option<Self> {
        let [median, p99] = times.quantiles([0.5, 0.99])?.map(|time| time / a_second);
        Some(Self { median, p99 })
    }
}

impl Window {
    fn written(
        &self,
        requests: &str,
        (from_ms, to_ms): (i64, i64),
        front: Option<Fronted>,
        skew: BTreeMap<String, BTreeMap<String, f64>>,
    ) -> Vec<u8> {
        let answered = |Answered { given, staleness_ms }: &Answered| WrittenAnswered {
            given: *given,
            staleness_seconds: Seconds::of(staleness_ms, 1e3),
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
            front: front.map(|front| WrittenFront {
                answered: front.seconds.count(),
                refused: front.refused,
                most_waiting: front.most_waiting,
                seconds: Seconds::of(&front.seconds, 1.0),
            }),
            skew,
        };
        serde_json::to_vec(&written).expect("names and numbers can be written")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_the_front_has_seen_is_told() {
        let mut front = Fronted { refused: 2, most_waiting: 5, ..Fronted::default() };
        front.seconds.add(0.25);
        let skew = BTreeMap::from([("clean".to_owned(), BTreeMap::from([("amount".to_owned(), 0.5)]))]);
        let told = Window::default().written("questions", (0, 60_000), Some(front), skew);
        let told: Value = serde_json::from_slice(&told).expect("it is JSON");
        assert_eq!((&told["front"]["answered"], &told["front"]["refused"]), (&json!(1), &json!(2)));
        let median = told["front"]["seconds"]["median"].as_f64().expect("it is known");
        assert!((median / 0.25 - 1.0).abs() < 0.05, "{median}");
        assert_eq!(told["skew"], json!({"clean": {"amount": 0.5}}));
    }
}
