//! Running mean and variance.

use serde::{Deserialize, Serialize};

/// Count, mean and squared deviations of the values so far.
///
/// Welford's update (Technometrics 4(3), 1962): it subtracts the mean before squaring, so that large values that lie
/// close together keep their digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Takes a finite value in. One so large that its square cannot be represented is left out, since
    /// it would make the moments useless for ever.
    pub(super) fn push(&mut self, value: f64) {
        let count = self.count + 1;
        let from_mean = value - self.mean;
        let mean = self.mean + from_mean / count as f64;
        let squares = self.squares + from_mean * (value - mean);
        if squares.is_finite() {
            *self = Self { count, mean, squares };
        }
    }

    /// How many values there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The mean, once there is a value.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// The sample variance, once there are two values.
    pub(super) fn variance(&self) -> Option<f64> {
        (self.count > 1).then(|| self.squares / (self.count - 1) as f64)
    }

    /// Takes in the values that another has seen (Chan, Golub and `LeVeque`, 1979).
    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let count = self.count + other.count;
        let apart = other.mean - self.mean;
        let share = other.count as f64 / count as f64;
        let squares = self.squares + other.squares + apart * apart * self.count as f64 * share;
        if squares.is_finite() {
            *self = Self { count, mean: self.mean + apart * share, squares };
        }
    }

    /// The sample standard deviation; zero while the values have not differed.
    pub(super) fn deviation(&self) -> f64 {
        (self.squares / (self.count.max(2) - 1) as f64).sqrt()
    }

    /// By how many standard deviations `value` lies above the mean, at most `limit` either way;
    /// zero while the values have not differed. What `standardise` does for four columns at a time.
    #[cfg(test)]
    pub(super) fn score(&self, value: f64, limit: f64) -> f64 {
        let deviation = self.deviation();
        if deviation > 0.0 { ((value - self.mean) / deviation).clamp(-limit, limit) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        for value in values {
            moments.push(*value);
        }
        moments
    }

    #[test]
    fn close_large_values_keep_their_digits() {
        let moments = moments(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]);
        assert_eq!(moments.mean(), Some(1e9 + 10.0));
        // The sample variance is 30.
        assert!((moments.score(1e9 + 10.0 + 30_f64.sqrt(), 9.0) - 1.0).abs() < 1e-7);
    }

    #[test]
    fn extreme_values_do_not_poison() {
        let moments = moments(&[1.0, f64::MAX, 3.0, f64::MIN]);
        assert_eq!((moments.count(), moments.mean()), (2, Some(2.0)));
        assert_eq!((moments.score(f64::MAX, 5.0), moments.score(f64::MIN, 5.0)), (5.0, -5.0));
    }
}
