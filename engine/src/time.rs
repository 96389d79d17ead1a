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

/// Milliseconds since 1970 from a number of units of `unit_ms`; what is finer is cut off. `None` beyond the years 1 to 9999.
pub fn from_number(number: f64, unit_ms: f64) -> Option<i64> {
    let ms = (number * unit_ms).floor();
    // The comparison also refuses NaN and infinities.
    (ms >= FIRST_MS as f64 && ms <= LAST_MS as f64).then_some(ms as i64)
}

/// A span in milliseconds. One longer than all time there is does what that does.
pub fn milliseconds(seconds: f64) -> i64 {
    const LONGEST_MS: i64 = LAST_MS - FIRST_MS;
    ((seconds * 1000.0).round() as i64).clamp(-LONGEST_MS, LONGEST_MS)
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
