//! ADWIN: a window that grows while its mean stays, and drops its oldest part when that differs from the rest.
//!
//! Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing" (2007), with the bound for the variance
//! of the window (their section 4.3). The window is an exponential histogram: buckets of 1, 2, 4, ... values, at most
//! five of each size, so a window of n values takes memory for about 5 log2(n / 5) buckets.

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, VALUE_MAX, Watcher, within};

/// Adaptive windows.
pub static KIND: DetectorKind = Kind {
    name: "adwin",
    about: "The mean of a window's older part differs from that of its newer part.\n\n\
            Adaptive windowing (Bifet and Gavaldà 2007). Takes any numbers, of any scale. The window grows while its mean stays, and drops its oldest part \
            when that differs by more than chance allows; so it also tells how far back the past is like the present. Does not warn.",
    schema: schema_of::<Config>,
    example: "delta: 0.0001",
    plan,
};

/// Settings of ADWIN.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The bound on the probability that a change is a false alarm; above 0, below 1.
    delta: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { delta: 0.002 }
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    within(&mut problems, "delta", config.delta, 1e-300, 1.0 - f64::EPSILON);
    problems.finish()?;
    Ok(Watcher::Adwin(Adwin::new(config.delta)))
}

/// How many buckets there are of one size before two are merged.
const BUCKETS: u32 = 5;

/// Cuts are looked for after so many values.
const CLOCK: u64 = 32;

/// No cut leaves fewer values than this on a side, and none is looked for in windows of twice as many.
const PART_MIN: f64 = 5.0;

/// Neighbouring values of the window.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Bucket {
    /// The sum of the values.
    sum: f64,
    /// The sum of their squared differences from their mean.
    squares: f64,
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Adwin {
    delta: f64,
    /// How many values it took, for the clock.
    ticks: u64,
    /// How many buckets there are of 1, 2, 4, ... values.
    counts: Vec<u32>,
    /// The oldest first, so that adding and merging move only the newest few.
    buckets: Vec<Bucket>,
    /// Of the whole window.
    window: Bucket,
    width: f64,
}

impl Adwin {
    /// With confidence `delta`, above 0 and below 1: the bound on the probability that a cut is a false alarm.
    pub fn new(delta: f64) -> Self {
        Self { delta, ticks: 0, counts: Vec::new(), buckets: Vec::new(), window: Bucket::default(), width: 0.0 }
    }

    /// How many values the window has.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// The variance of the window.
    pub fn variance(&self) -> f64 {
        if self.width > 0.0 { self.window.squares / self.width } else { 0.0 }
    }

    fn insert(&mut self, value: f64) {
        if self.width > 0.0 {
            let difference = value - self.window.sum / self.width;
            self.window.squares += difference * difference * self.width / (self.width + 1.0);
        }
        self.width += 1.0;
        self.window.sum += value;
        self.buckets.push(Bucket { sum: value, squares: 0.0 });
        if self.counts.is_empty() {
            self.counts.push(0);
        }
        self.counts[0] += 1;
        if self.counts[0] > BUCKETS {
            self.merge();
        }
    }

    /// Merges the two oldest of each size of which there are too many, beginning with the smallest.
    fn merge(&mut self) {
        let (mut row, mut start, mut size) = (0, self.buckets.len(), 1.0);
        while self.counts[row] > BUCKETS {
            start -= self.counts[row] as usize;
            self.buckets[start] = joined(self.buckets[start], size, self.buckets[start + 1], size);
            self.buckets.remove(start + 1);
            self.counts[row] -= 2;
            row += 1;
            start += 1;
            size *= 2.0;
            match self.counts.get_mut(row) {
                Some(count) => *count += 1,
                None => self.counts.push(1),
            }
        }
    }

    /// Drops buckets from the old end for as long as that end differs from the rest; true if any was.
    fn shrink(&mut self) -> bool {
        let mut changed = false;
        while self.width > 2.0 * PART_MIN && self.differs() {
            changed = true;
            self.drop_oldest();
        }
        changed
    }

    /// Whether there is a cut on whose sides the means differ by more than chance allows.
    fn differs(&self) -> bool {
        let chance = libm::log(2.0 * libm::log(self.width) / self.delta);
        let spread = 2.0 * self.variance() * chance;
        let (mut old, mut old_sum, mut at) = (0.0, 0.0, 0);
        for (row, count) in self.counts.iter().enumerate().rev() {
            let size = (1_u64 << row) as f64;
            for bucket in &self.buckets[at..at + *count as usize] {
                old += size;
                old_sum += bucket.sum;
                let new = self.width - old;
                if new < PART_MIN {
                    return false;
                }
                if old < PART_MIN {
                    continue;
                }
                let mean = 1.0 / (old - PART_MIN + 1.0) + 1.0 / (new - PART_MIN + 1.0);
                let beyond = (old_sum / old - (self.window.sum - old_sum) / new).abs() - 2.0 / 3.0 * chance * mean;
                if beyond > 0.0 && beyond * beyond > spread * mean {
                    return true;
                }
            }
            at += *count as usize;
        }
        false
    }

    /// Drops the oldest bucket. The sums are added up anew, so that no error of rounding stays.
    fn drop_oldest(&mut self) {
        self.buckets.remove(0);
        *self.counts.last_mut().expect("the window has buckets") -= 1;
        while self.counts.last() == Some(&0) {
            self.counts.pop();
        }
        let (mut window, mut width, mut at) = (Bucket::default(), 0.0, 0);
        for (row, count) in self.counts.iter().enumerate().rev() {
            let size = (1_u64 << row) as f64;
            for bucket in &self.buckets[at..at + *count as usize] {
                window = joined(window, width, *bucket, size);
                width += size;
            }
            at += *count as usize;
        }
        (self.window, self.width) = (window, width);
    }
}

/// Two buckets of so many values as one.
#[inline]
fn joined(a: Bucket, a_size: f64, b: Bucket, b_size: f64) -> Bucket {
    if a_size == 0.0 {
        return b;
    }
    let difference = a.sum / a_size - b.sum / b_size;
    let between = difference * difference * a_size * b_size / (a_size + b_size);
    Bucket { sum: a.sum + b.sum, squares: a.squares + b.squares + between }
}

impl Detector for Adwin {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        self.insert(value.clamp(-VALUE_MAX, VALUE_MAX));
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(CLOCK) && self.width > 2.0 * PART_MIN && self.shrink() {
            return Level::Change;
        }
        Level::Steady
    }

    fn mean(&self) -> f64 {
        if self.width > 0.0 { self.window.sum / self.width } else { 0.0 }
    }

    fn reset(&mut self) {
        *self = Self::new(self.delta);
    }

    fn is_sound(&self) -> bool {
        let width: f64 =
            self.counts.iter().enumerate().map(|(row, count)| f64::from(*count) * (1_u64 << row.min(63)) as f64).sum();
        self.delta > 0.0
            && self.delta < 1.0
            && self.counts.len() < 60
            && self.counts.iter().all(|count| *count <= BUCKETS)
            && self.counts.last() != Some(&0)
            && self.counts.iter().sum::<u32>() as usize == self.buckets.len()
            && self.width == width
            && self.buckets.iter().chain([&self.window]).all(|bucket| bucket.sum.is_finite() && bucket.squares >= 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::Random;
    use super::*;

    /// Where a detector says that the values change.
    fn changes(values: impl IntoIterator<Item = f64>) -> Vec<usize> {
        let mut adwin = Adwin::new(0.002);
        let levels = values.into_iter().map(|value| adwin.update(value));
        levels.enumerate().filter(|(_, level)| *level == Level::Change).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_jump_is_found_at_the_next_tick_of_the_clock() {
        for seed in 0..5 {
            let mut random = Random::seeded(seed);
            let mut values: Vec<f64> = (0..1000).map(|_| random.below(2) as f64).collect();
            values.extend((0..1000).map(|_| (4 + random.below(4)) as f64));
            assert_eq!(changes(values)[0], 1023);
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_changes() {
        let mut random = Random::seeded(1);
        assert_eq!(changes((0..100_000).map(|_| random.flip(0.3))), [0_usize; 0]);
        assert_eq!(changes((0..10_000).map(|_| 1.0)), [0_usize; 0]);
    }

    /// The window written down plainly: all values, in buckets cut as the histogram cuts them.
    #[test]
    fn the_histogram_has_the_windows_mean_and_variance() {
        let mut random = Random::seeded(2);
        let (mut adwin, mut values) = (Adwin::new(0.002), Vec::new());
        for row in 0..20_000 {
            let shift = if row % 3000 > 1500 { 0.7 } else { 0.1 };
            let value = random.flip(shift);
            adwin.update(value);
            values.push(value);
            values.drain(..values.len() - adwin.width() as usize);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((adwin.mean() - mean).abs() < 1e-9, "row {row}");
            assert!((adwin.variance() - variance).abs() < 1e-9, "row {row}");
            assert!(adwin.is_sound(), "row {row}: {adwin:?}");
        }
        assert!(values.len() < 1600, "the window must have followed the changes: {}", values.len());
    }

    #[test]
    fn numbers_stay_finite() {
        let mut random = Random::seeded(3);
        let mut adwin = Adwin::new(0.002);
        for _ in 0..5000 {
            adwin.update(match random.below(4) {
                0 => f64::MAX,
                1 => -f64::MAX,
                _ => random.normal(),
            });
            assert!(adwin.mean().is_finite() && adwin.variance().is_finite() && adwin.is_sound());
        }
        adwin.reset();
        assert_eq!(adwin, Adwin::new(0.002));
    }
}
