//! The one place that reads a clock.
//!
//! A clock never decides a result: `now` enters a run as part of a binding and replays from there. Besides that
//! it only times progress, metrics and idleness.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The first instant that a pipeline takes, in milliseconds since 1970: year 1.
pub const FIRST_MS: i64 = -62_135_596_800_000;
/// The last instant that a pipeline takes: year 9999. Sums of a few such instants cannot overflow.
pub const LAST_MS: i64 = 253_402_300_799_999;

/// Whether an instant is within the years 1 to 9999. All of a pipeline's are.
#[inline]
pub const fn in_range(ms: i64) -> bool {
    FIRST_MS <= ms && ms <= LAST_MS
}

/// Where `now` comes from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }
}

/// A clock for tests: each reading is `step_ms` after the one before.
#[derive(Debug)]
pub struct StepClock {
    now_ms: AtomicI64,
    step_ms: i64,
}

impl StepClock {
    /// A clock that starts at `now_ms`.
    pub fn new(now_ms: i64, step_ms: i64) -> Self {
        Self { now_ms: AtomicI64::new(now_ms), step_ms }
    }
}

impl Clock for StepClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.fetch_add(self.step_ms, Ordering::Relaxed)
    }
}

/// Measures a duration for metrics and progress.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
