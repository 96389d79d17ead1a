//! Who waits for which answers.
//!
//! A request is known by the key of its message, `NONCE:NUMBER:ROW`: the nonce tells the run, so that answers to what another run
//! was asked wait for nobody.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use millstream_connectors::sources::intake::Outcome as Kept;
use millstream_engine::publish::{Outcome, Published};
use millstream_operators::sketch::Quantiles;
use tokio::sync::{broadcast, oneshot, watch};

/// How many answers a follower may be behind before it misses some.
const BEHIND_MAX: usize = 4096;

/// Takes answers to those who wait for them.
pub struct Hub {
    nonce: String,
    next: AtomicU64,
    waiting: Mutex<Crowd>,
    /// By source of requests: those who follow all of its answers.
    followed: BTreeMap<u32, broadcast::Sender<Bytes>>,
    /// By source of requests: what became of those that were asked here, since that was last told.
    asked: Mutex<BTreeMap<u32, Fronted>>,
    /// Rings when epochs have become durable.
    durable: watch::Sender<()>,
}

/// What became of requests over HTTP and gRPC.
#[derive(Default)]
pub struct Fronted {
    /// How long those took that were answered.
    pub seconds: Quantiles,
    /// How many were not.
    pub refused: u64,
    /// Rows that waited at once.
    pub most_waiting: usize,
}

struct Waiting {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    done: oneshot::Sender<Outcomes>,
}

/// What became of all rows, in their order; or of the request, where it is not known to be kept.
type Outcomes = Result<Vec<Outcome>, Kept>;

/// Waits for the answers to requests, by their numbers.
type Crowd = HashMap<u64, Waiting>;

/// A place among those who wait; it is given up when this is dropped.
pub(super) struct Place {
    hub: Arc<Hub>,
    pub(super) number: u64,
    pub(super) outcomes: oneshot::Receiver<Outcomes>,
}

impl Hub {
    /// For the answers to these sources of requests. `nonce` is no other run's.
    pub fn new(nonce: String, sources: impl IntoIterator<Item = u32>) -> Self {
        let followed = sources.into_iter().map(|source| (source, broadcast::Sender::new(BEHIND_MAX))).collect();
        let durable = watch::Sender::new(());
        Self { nonce, next: AtomicU64::new(0), waiting: Mutex::default(), followed, asked: Mutex::default(), durable }
    }

    /// Waits for the answers to so many rows.
    pub(super) fn wait(self: &Arc<Self>, rows: usize) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, outcomes) = oneshot::channel();
        let waiting = Waiting { outcomes: vec![None; rows], missing: rows, done };
        self.lock().insert(number, waiting);
        Place { hub: self.clone(), number, outcomes }
    }

    /// All answers to a source of requests, as they are written.
    pub(super) fn follow(&self, source: u32) -> Option<broadcast::Receiver<Bytes>> {
        self.followed.get(&source).map(broadcast::Sender::subscribe)
    }

    /// Counts a request: the seconds until it was answered, if it was, and how many rows wait.
    pub(super) fn count(&self, source: u32, seconds: Option<f64>, waiting: usize) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.entry(source).or_default();
        match seconds {
            Some(seconds) => asked.seconds.add(seconds),
            None => asked.refused += 1,
        }
        asked.most_waiting = asked.most_waiting.max(waiting);
    }

    /// What became of the requests of a source since this was last asked.
    pub fn asked(&self, source: u32) -> Option<Fronted> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&source)
    }

    /// Changes each time that epochs have become durable.
    pub(super) fn durable(&self) -> watch::Receiver<()> {
        self.durable.subscribe()
    }

    /// These epochs have become durable.
    pub fn published(&self, epochs: &[Published]) {
        let (mut all, mut done) = (self.lock(), Vec::new());
        for reply in epochs.iter().flat_map(|epoch| &epoch.replies) {
            if let Some(followers) = self.followed.get(&reply.request.origin.source)
                && followers.receiver_count() > 0
            {
                // Whoever followed may have gone by now.
                drop(followers.send(Bytes::from(reply.value.clone())));
            }
            if let Some((number, row)) = reply.request.key.as_deref().and_then(|key| self.place(key)) {
                done.extend(answer(&mut all, number, row, &reply.outcome));
            }
        }
        drop(all);
        // Whoever wakes finds the door open.
        done.into_iter().for_each(Waiting::tell);
        self.durable.send_replace(());
    }

    /// A request is not known to be kept.
    pub(super) fn give_up(&self, number: u64, kept: Kept) {
        let waiting = self.lock().remove(&number);
        // Whoever waited may have gone by now.
        drop(waiting.map(|waiting| waiting.done.send(Err(kept))));
    }

    /// Nothing more is answered: whoever waits is told so.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn place(&self, key: &[u8]) -> Option<(u64, usize)> {
        let rest = key.strip_prefix(self.nonce.as_bytes())?.strip_prefix(b":")?;
        let (number, row) = std::str::from_utf8(rest).ok()?.split_once(':')?;
        Some((number.parse().ok()?, row.parse().ok()?))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Crowd> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the answer to a row; gives who waited for it, if it was the last.
fn answer(all: &mut Crowd, number: u64, row: usize, outcome: &Outcome) -> Option<Waiting> {
    let waiting = all.get_mut(&number)?;
    if let Some(place @ None) = waiting.outcomes.get_mut(row) {
        *place = Some(outcome.clone());
        waiting.missing -= 1;
    }
    if waiting.missing == 0 { all.remove(&number) } else { None }
}

impl Waiting {
    fn tell(self) {
        // Whoever waited may have gone by now.
        drop(self.done.send(Ok(self.outcomes.into_iter().flatten().collect())));
    }
}

impl Place {
    /// The key of a row's message.
    pub(super) fn key(&self, row: usize) -> Vec<u8> {
        format!("{}:{}:{row}", self.hub.nonce, self.number).into_bytes()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Outcome {
        Outcome::Refused { step: "s".into(), reason: reason.to_owned() }
    }

    #[test]
    fn rows_are_put_together_in_their_order_and_whoever_goes_is_forgotten() {
        let hub = Arc::new(Hub::new("run".to_owned(), [3]));
        let (mut first, second) = (hub.wait(2), hub.wait(1));
        assert_eq!(first.key(1), b"run:0:1");
        for (key, found) in [
            (first.key(1), Some((0, 1))),
            (b"other:0:1".to_vec(), None),
            (b"run:x:1".to_vec(), None),
            (b"run".to_vec(), None),
        ] {
            assert_eq!(hub.place(&key), found);
        }
        let answer = |number, row, outcome| {
            let done = answer(&mut hub.lock(), number, row, &outcome);
            done.into_iter().for_each(Waiting::tell);
        };
        answer(0, 1, refused("b"));
        answer(0, 7, refused("of no row"));
        assert!(first.outcomes.try_recv().is_err());
        answer(0, 0, refused("a"));
        let outcomes = first.outcomes.try_recv().expect("all are there").expect("it is kept");
        let reasons: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Refused { reason, .. } => reason.as_str(),
                Outcome::Answered { .. } => "",
            })
            .collect();
        assert_eq!(reasons, ["a", "b"]);
        drop(second);
        assert!(hub.lock().is_empty());
        for (seconds, waiting) in [(Some(0.5), 3), (None, 7), (Some(0.5), 1)] {
            hub.count(3, seconds, waiting);
        }
        let asked = hub.asked(3).expect("some were asked");
        assert_eq!((asked.seconds.count(), asked.refused, asked.most_waiting), (2, 1, 7));
        assert!(hub.asked(3).is_none(), "it is told once");
        answer(1, 0, refused("nobody waits"));
        let mut third = hub.wait(1);
        hub.give_up(third.number, Kept::Unknown);
        assert!(matches!(third.outcomes.try_recv(), Ok(Err(Kept::Unknown))));
    }
}
