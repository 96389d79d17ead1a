//! Tests that may be looked at after every example, and stopped at any time: their error holds over all looks together.
//!
//! Both are of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2024). They
//! need no independence and no distribution: only that the numbers are bounded, and that the bets (or the weights) on a
//! number depend on earlier ones alone.

use serde::{Deserialize, Serialize};

/// The largest share of the capital that is bet on one number.
const BET_MAX: f64 = 0.5;

/// A bet against "the mean of these numbers in [-1, 1], given the past, is never above 0".
///
/// The capital starts at 1. While that is so it is not expected to grow, and the probability that it ever reaches
/// 1/alpha is at most alpha (Ville). Where it is not so it grows exponentially: bets approximate those that make it grow
/// fastest (aGRAPA in the paper), and nothing is bet while the numbers so far speak for the hypothesis.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Bets {
    count: f64,
    sum: f64,
    squares: f64,
    /// The logarithm of the capital.
    capital: f64,
}

impl Default for Bets {
    /// One number of variance 1 is imagined before all others, so that the first bets are small.
    fn default() -> Self {
        Self { count: 1.0, sum: 0.0, squares: 1.0, capital: 0.0 }
    }
}

impl Bets {
    /// Bets on a number in [-1, 1], and then looks at it.
    #[inline]
    pub fn add(&mut self, number: f64) {
        let bet = (self.sum / self.squares).clamp(0.0, BET_MAX);
        if bet > 0.0 && number != 0.0 {
            self.capital += libm::log1p(bet * number);
        }
        self.count += 1.0;
        self.sum += number;
        self.squares += number * number;
    }

    /// How many numbers there were.
    pub fn count(&self) -> f64 {
        self.count - 1.0
    }

    /// The mean of the numbers; 0 where there are none.
    pub fn mean(&self) -> f64 {
        self.sum / self.count().max(1.0)
    }

    /// The logarithm of the capital: of how much there is against the hypothesis.
    pub fn log_capital(&self) -> f64 {
        self.capital
    }

    /// Whether the hypothesis is refuted with an error of at most `alpha`.
    pub fn refutes(&self, alpha: f64) -> bool {
        self.capital >= -libm::log(alpha)
    }

    /// Whether all is as it can have become.
    pub(super) fn is_sound(&self) -> bool {
        let numbers = [self.count, self.sum, self.squares, self.capital];
        numbers.iter().all(|number| number.is_finite()) && self.count >= 1.0 && self.squares >= 1.0
    }
}

/// Where the mean of numbers in [0, 1] is: an interval that at all times together holds it with a probability of at
/// least 1 - alpha (the paper's predictable plug-in empirical Bernstein confidence sequence, theorem 2).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Interval {
    alpha: f64,
    count: f64,
    sum: f64,
    /// Sum of the squared distances from the means before and with each number.
    squares: f64,
    /// Sums over all numbers of their weights, their weighted values, and their part in the width.
    weights: f64,
    weighted: f64,
    width: f64,
}

impl Interval {
    /// For this error over all times, above 0 and below 1.
    pub fn new(alpha: f64) -> Self {
        Self { alpha, count: 0.0, sum: 0.0, squares: 0.0, weights: 0.0, weighted: 0.0, width: 0.0 }
    }

    /// Takes a number in [0, 1].
    #[inline]
    pub fn add(&mut self, number: f64) {
        let before = (0.5 + self.sum) / (1.0 + self.count);
        let variance = (0.25 + self.squares) / (1.0 + self.count);
        let at = self.count + 1.0;
        let weight = (2.0 * libm::log(2.0 / self.alpha) / (variance * at * libm::log1p(at))).sqrt().min(BET_MAX);
        self.weights += weight;
        self.weighted += weight * number;
        self.width += (number - before) * (number - before) * (-libm::log1p(-weight) - weight);
        self.count = at;
        self.sum += number;
        let after = (0.5 + self.sum) / (1.0 + self.count);
        self.squares += (number - after) * (number - after);
    }

    /// How many numbers there were.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// From where to where the mean is.
    pub fn bounds(&self) -> (f64, f64) {
        if self.weights == 0.0 {
            return (0.0, 1.0);
        }
        let centre = self.weighted / self.weights;
        let width = (libm::log(2.0 / self.alpha) + self.width) / self.weights;
        ((centre - width).max(0.0), (centre + width).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Random;
    use super::*;

    /// In how many of the runs the capital ever reaches 1/alpha.
    fn refuted(runs: usize, rows: usize, mut number: impl FnMut(&mut Random, usize, f64) -> f64) -> usize {
        let mut random = Random::seeded(31);
        let run = |_: &usize| {
            let mut bets = Bets::default();
            (0..rows).any(|row| {
                let number = number(&mut random, row, bets.mean());
                bets.add(number);
                bets.refutes(0.05)
            })
        };
        (0..runs).filter(run).count()
    }

    #[test]
    fn what_is_not_better_is_hardly_ever_found_so_however_often_one_looks() {
        let coin = |random: &mut Random, _, _| 2.0 * random.flip(0.5) - 1.0;
        // Rare large gains and frequent small losses; and numbers that depend on how the test stands.
        let skewed = |random: &mut Random, _, _| if random.uniform() < 0.01 { 0.99 } else { -0.01 };
        let sly = |random: &mut Random, _, mean: f64| {
            if mean > 0.0 { 2.0 * random.flip(0.5) - 1.0 } else { 0.2 * random.flip(0.5) - 0.1 }
        };
        let counts = [refuted(400, 2000, coin), refuted(400, 2000, skewed), refuted(400, 2000, sly)];
        println!("{counts:?} of 400");
        assert!(counts.iter().all(|count| *count <= 32), "{counts:?}: 20 are expected at most, and 32 hardly ever");
    }

    #[test]
    fn what_is_better_is_found() {
        let coin = |random: &mut Random, _: usize, _: f64| 2.0 * random.flip(0.6) - 1.0;
        assert!(refuted(100, 2000, coin) == 100);
        let late =
            |random: &mut Random, row: usize, _: f64| 2.0 * random.flip(if row < 500 { 0.45 } else { 0.7 }) - 1.0;
        assert!(refuted(100, 2000, late) == 100);
    }

    /// Wealth and bets, written down one number after the other.
    #[test]
    fn bets_are_the_papers() {
        let mut random = Random::seeded(4);
        let (mut bets, mut seen, mut wealth) = (Bets::default(), Vec::<f64>::new(), 1.0);
        for _ in 0..300 {
            let number = (random.normal() * 0.3 + 0.05).clamp(-1.0, 1.0);
            let count = seen.len() as f64 + 1.0;
            let mean = seen.iter().sum::<f64>() / count;
            let variance = (1.0 + seen.iter().map(|x| x * x).sum::<f64>()) / count - mean * mean;
            let bet = (mean / (variance + mean * mean)).clamp(0.0, 0.5);
            wealth *= 1.0 + bet * number;
            seen.push(number);
            bets.add(number);
            assert!((bets.log_capital() - f64::ln(wealth)).abs() < 1e-9, "{bets:?}, {wealth}");
        }
        assert!(wealth > 5.0, "{wealth}: it is better, by a little");
    }

    #[test]
    fn the_interval_holds_the_mean_at_all_times_and_shrinks() {
        let mut random = Random::seeded(9);
        let (mut missed, mut width) = (0, 0.0);
        for _ in 0..200 {
            let mut interval = Interval::new(0.05);
            let mut held = true;
            for _ in 0..2000 {
                interval.add(random.uniform() * random.uniform());
                let (low, high) = interval.bounds();
                held &= (low..=high).contains(&0.25);
                width = high - low;
            }
            missed += u32::from(!held);
        }
        println!("missed {missed} of 200, width {width}");
        assert!(missed <= 16, "{missed}");
        assert!(width < 0.06, "{width}");
        assert_eq!(Interval::new(0.1).bounds(), (0.0, 1.0));
    }
}
