//! What is known of numbers, and how far from them is too far.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Learns;
use crate::cleansing::moments::Moments;
use crate::sketch::Centred;

/// The standard deviation of normal values whose median absolute deviation is 1.
const NORMAL: f64 = 1.4826;

pub(super) trait Spread: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Which values become known if the definition does not say.
    const LEARNS: Learns;
    /// How many values are known.
    fn count(&self) -> u64;
    /// The least and the greatest value that is no outlier; none while the spread is 0.
    fn bounds(&self, limit: f64) -> Option<(f64, f64)>;
    /// Takes a number in; `window` is how many a window keeps.
    fn learn(&mut self, value: f64, window: usize);
}

fn around(middle: f64, deviation: f64, limit: f64) -> Option<(f64, f64)> {
    (deviation > 0.0).then_some((middle - limit * deviation, middle + limit * deviation))
}

impl Spread for Moments {
    const LEARNS: Learns = Learns::Inliers;

    fn count(&self) -> u64 {
        self.count()
    }

    fn bounds(&self, limit: f64) -> Option<(f64, f64)> {
        around(self.mean()?, self.deviation(), limit)
    }

    fn learn(&mut self, value: f64, _: usize) {
        self.push(value);
    }
}

/// Median and median absolute deviation of all values.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Medians {
    values: Centred,
    median: f64,
    deviation: f64,
    /// At how many values the two are next computed.
    due: u64,
}

impl Spread for Medians {
    const LEARNS: Learns = Learns::All;

    fn count(&self) -> u64 {
        self.values.count()
    }

    fn bounds(&self, limit: f64) -> Option<(f64, f64)> {
        around(self.median, NORMAL * self.deviation, limit)
    }

    fn learn(&mut self, value: f64, _: usize) {
        self.values.add(value);
        let count = self.values.count();
        if count >= self.due
            && let Some((median, deviation)) = self.values.median_and_deviation()
        {
            // Computing them takes microseconds, and of many values one more changes little.
            *self = Self { median, deviation, due: count + 1 + count / 64, values: std::mem::take(&mut self.values) };
        }
    }
}

/// The last values.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    /// Oldest first.
    values: VecDeque<f64>,
    /// The same, ascending.
    sorted: Vec<f64>,
}

impl Spread for Window {
    const LEARNS: Learns = Learns::All;

    fn count(&self) -> u64 {
        self.values.len() as u64
    }

    fn bounds(&self, limit: f64) -> Option<(f64, f64)> {
        let last = self.sorted.len().checked_sub(1)?;
        let median = self.sorted[last / 2];
        // Outwards from the median, always to the nearer side.
        let (mut left, mut right) = (last / 2, last / 2);
        let mut deviation = 0.0;
        for _ in 0..last / 2 {
            let low = if left > 0 { median - self.sorted[left - 1] } else { f64::INFINITY };
            let high = self.sorted.get(right + 1).map_or(f64::INFINITY, |value| value - median);
            if low <= high {
                left -= 1;
            } else {
                right += 1;
            }
            deviation = low.min(high);
        }
        around(median, NORMAL * deviation, limit)
    }

    fn learn(&mut self, value: f64, window: usize) {
        if self.values.len() == window
            && let Some(oldest) = self.values.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|at| *at < oldest));
        }
        self.values.push_back(value);
        self.sorted.insert(self.sorted.partition_point(|at| *at < value), value);
    }
}
