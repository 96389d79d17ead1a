//! How many rows may wait for their answers: as many as are answered within the objective.
//!
//! The limit grows while answers come well within time and there is need of it, and shrinks by a fifth when they do not come in time (additive
//! increase, multiplicative decrease, as TCP does). Between half of the objective and all of it the limit stays: if it grew until the
//! first are late, a good part of all would be. What is beyond it is refused at once, before a queue grows that would make all late.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_engine::time::Stopwatch;

/// Fewer rows than this may always wait.
const FEWEST: f64 = 32.0;

/// So many may wait at first: what comes while something is written durably must not be refused for want of experience.
const FIRST: f64 = 512.0;

/// Admits rows.
pub(super) struct Admission {
    waiting: AtomicUsize,
    most: f64,
    objective: Duration,
    limit: Mutex<Limit>,
}

struct Limit {
    rows: f64,
    /// Since it last shrank: once within the objective is enough, for those that are late then were all admitted before.
    since: Option<Stopwatch>,
}

/// Rows that were admitted, until this is dropped.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    rows: usize,
    watch: Stopwatch,
}

impl Admission {
    /// At most `most` rows wait, and fewer where answers take longer than `objective`.
    pub(super) fn new(most: usize, objective: Duration) -> Self {
        let rows = FIRST.min(most as f64);
        let limit = Mutex::new(Limit { rows, since: None });
        Self { waiting: AtomicUsize::new(0), most: most as f64, objective, limit }
    }

    /// Admits rows if so many more may wait now. What is more than may ever wait is admitted alone.
    pub(super) fn admit(self: &Arc<Self>, rows: usize) -> Option<Admitted> {
        let waiting = self.waiting.fetch_add(rows, Ordering::SeqCst);
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner).rows;
        // From here on they are given back when they are dropped.
        let admitted = Admitted { admission: self.clone(), rows, watch: Stopwatch::start() };
        (waiting == 0 || (waiting + rows) as f64 <= limit).then_some(admitted)
    }

    /// Whether not even one row more may wait now.
    pub(super) fn is_full(&self) -> bool {
        let (waiting, limit) = self.state();
        waiting > 0 && waiting >= limit
    }

    /// How many rows wait, and how many may.
    pub(super) fn state(&self) -> (usize, usize) {
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner).rows;
        (self.waiting.load(Ordering::SeqCst), limit as usize)
    }

    fn answered(&self, rows: usize, seconds: f64) {
        let objective = self.objective.as_secs_f64();
        let waiting = self.waiting.load(Ordering::SeqCst) as f64;
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds <= objective {
            if 2.0 * seconds <= objective && 2.0 * waiting > limit.rows {
                // About one row more for each time that as many as may wait are answered.
                limit.rows = (limit.rows + 4.0 * rows as f64 / limit.rows).min(self.most);
            }
        } else if limit.since.is_none_or(|since| since.seconds() > objective) {
            limit.rows = (0.8 * limit.rows).max(FEWEST.min(self.most));
            limit.since = Some(Stopwatch::start());
        }
    }
}

impl Admitted {
    /// How long they have waited.
    pub(super) fn seconds(&self) -> f64 {
        self.watch.seconds()
    }

    /// They have their answers.
    pub(super) fn answered(self) {
        self.admission.answered(self.rows, self.seconds());
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.waiting.fetch_sub(self.rows, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_refused_until_others_are_done() {
        let admission = Arc::new(Admission::new(100, Duration::from_secs(1)));
        let first = admission.admit(60).expect("it fits");
        let second = admission.admit(40).expect("it fits");
        assert!(admission.admit(1).is_none());
        assert_eq!(admission.state(), (100, 100), "what was refused does not wait");
        drop(second);
        assert!(admission.admit(40).is_some());
        drop(first);
        assert_eq!(admission.state().0, 0);
        assert!(admission.admit(1000).is_some(), "alone, anything is admitted");
    }

    #[test]
    fn the_limit_follows_the_answers() {
        let admission = Admission::new(1000, Duration::from_millis(20));
        admission.waiting.store(300, Ordering::SeqCst);
        for _ in 0..10_000 {
            admission.answered(1, 0.001);
        }
        let (_, grown) = admission.state();
        assert!(grown > 512 && grown < 1000, "it grows while it is in need: {grown}");
        admission.answered(1, 0.5);
        let (_, shrunk) = admission.state();
        assert_eq!(shrunk, (0.8 * grown as f64) as usize);
        admission.answered(1, 0.5);
        assert_eq!(admission.state().1, shrunk, "once within the objective");
        admission.waiting.store(0, Ordering::SeqCst);
        admission.answered(1, 0.001);
        assert_eq!(admission.state().1, shrunk, "it does not grow without need");
    }
}
