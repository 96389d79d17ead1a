//! Means and deviations of numbers of any size, for models that measure columns by them.

use serde::{Deserialize, Serialize};

/// Values beyond this count as this: squares need room.
const VALUE_MAX: f64 = 1e100;

/// So that none spoils mean and deviation for ever, a wild value moves them as one that lies so many deviations off.
const FARTHEST: f64 = 10.0;

/// How a number is distributed: mean and deviation of its values so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Spread {
    count: f64,
    pub(super) mean: f64,
    variance: f64,
}

impl Spread {
    #[inline]
    pub(super) fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Takes a value that counts `weight` times.
    #[inline]
    pub(super) fn add(&mut self, value: f64, weight: f64) {
        self.count += weight;
        let share = weight / self.count;
        let off = value.clamp(-VALUE_MAX, VALUE_MAX) - self.mean;
        self.mean += share * off;
        self.variance = (1.0 - share) * (self.variance + share * off * off);
    }

    /// The same, but for a wild value as if it lay less far off.
    #[inline]
    pub(super) fn add_tamed(&mut self, value: f64, weight: f64) {
        let reach = FARTHEST * self.deviation();
        let tamed = if reach > 0.0 { value.clamp(self.mean - reach, self.mean + reach) } else { value };
        self.add(tamed, weight);
    }

    /// How many deviations a value lies off the mean, at most `farthest`; 0 where there is no deviation yet.
    #[inline]
    pub(super) fn standard(&self, value: f64, farthest: f64) -> f64 {
        let deviation = self.deviation();
        if deviation > 0.0 { ((value - self.mean) / deviation).clamp(-farthest, farthest) } else { 0.0 }
    }

    /// Of so many values.
    pub(super) fn new(count: f64, mean: f64, deviation: f64) -> Self {
        Self { count, mean, variance: deviation * deviation }
    }

    /// How many values there were.
    pub(super) fn count(&self) -> f64 {
        self.count
    }

    pub(super) fn is_sound(&self) -> bool {
        [self.count, self.variance].iter().all(|number| *number >= 0.0 && number.is_finite()) && self.mean.is_finite()
    }
}
