//! Quantiles of numbers that lie close together, far from zero.

use serde::{Deserialize, Serialize};

use super::Quantiles;

/// So many values are kept as they are.
const FEW: usize = 16;

/// How coarse the distances are: a hundredth, doubled twice. Near the middle there are buckets of all sizes, so finer ones would be many.
const LEVELS: u8 = 2;

/// Quantiles whose error is 4 % of the distance from the middle of the first values, not from zero.
///
/// Air pressures differ by less than a hundredth: in a [`Quantiles`] they all fall into one bucket. So the first 16 values are kept, and
/// give exact quantiles; their median then is the middle from which all distances are measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Centred {
    /// The values, ascending, while they are few; then empty.
    few: Vec<f64>,
    centre: f64,
    distances: Quantiles,
}

impl Centred {
    /// Takes a number in; one that is not finite is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.distances.count() > 0 {
            return self.distances.add(distance(value, self.centre));
        }
        if self.few.len() < FEW {
            self.few.insert(self.few.partition_point(|few| *few < value), value);
            return;
        }
        self.centre = self.few[FEW / 2];
        self.distances = Quantiles::coarse(LEVELS);
        for value in std::mem::take(&mut self.few).into_iter().chain([value]) {
            self.distances.add(distance(value, self.centre));
        }
    }

    /// Takes in all that `other` has. Its numbers are known within 4 % of their distance from its middle, and that error adds to this one's.
    pub fn merge(&mut self, other: &Self) {
        for value in &other.few {
            self.add(*value);
        }
        if other.distances.count() == 0 {
            return;
        }
        if self.distances.count() == 0 {
            let few = std::mem::take(&mut self.few);
            (self.centre, self.distances) = (other.centre, other.distances.clone());
            for value in few {
                self.add(value);
            }
            return;
        }
        for (at, count) in other.distances.values() {
            self.distances.add_many(distance(other.place(at), self.centre), count);
        }
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.few.len() as u64 + self.distances.count()
    }

    /// Several quantiles, ascending: numbers at ranks `floor(q × (count - 1))`; none if there are none.
    pub fn quantiles<const N: usize>(&self, ascending: [f64; N]) -> Option<[f64; N]> {
        match self.few.len().checked_sub(1) {
            Some(last) => Some(ascending.map(|q| self.few[(q.clamp(0.0, 1.0) * last as f64) as usize])),
            None => self.distances.quantiles(ascending).map(|found| found.map(|at| self.place(at))),
        }
    }

    /// The share of numbers below `value`, those that cannot be told from it counting half; none if there are none.
    pub fn rank(&self, value: f64) -> Option<f64> {
        if self.few.is_empty() {
            return self.distances.rank(distance(value, self.centre));
        }
        let below = self.few.partition_point(|few| *few < value);
        let through = self.few.partition_point(|few| *few <= value);
        Some((below + through) as f64 / 2.0 / self.few.len() as f64)
    }

    /// The median and the median distance from it.
    pub fn median_and_deviation(&self) -> Option<(f64, f64)> {
        let Some(middle) = self.few.len().checked_sub(1).map(|last| last / 2) else {
            return self.distances.median_and_deviation().map(|(median, deviation)| (self.place(median), deviation));
        };
        let mut distances = [0.0; FEW];
        let distances = &mut distances[..self.few.len()];
        let median = self.few[middle];
        distances.iter_mut().zip(&self.few).for_each(|(at, value)| *at = distance(*value, median).abs());
        distances.sort_by(f64::total_cmp);
        Some((median, distances[middle]))
    }

    /// The number at a distance from the centre.
    fn place(&self, distance: f64) -> f64 {
        (self.centre + distance).clamp(f64::MIN, f64::MAX)
    }
}

/// The difference, which between huge numbers is only nearly so.
fn distance(value: f64, centre: f64) -> f64 {
    (value - centre).clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleansing::harness::Random;

    fn of(values: &[f64]) -> Centred {
        let mut sketch = Centred::default();
        for value in values {
            sketch.add(*value);
        }
        sketch
    }

    #[test]
    fn small_differences_between_large_numbers_are_seen() {
        for seed in 0..30 {
            let mut random = Random::new(seed);
            let count = 1 + random.below(500);
            let values: Vec<f64> = (0..count).map(|_| 101_300.0 + random.below(1000) as f64 / 100.0).collect();
            let sketch = of(&values);
            let mut exact = values.clone();
            exact.sort_by(f64::total_cmp);
            assert_eq!(sketch.count(), count as u64);
            for q in [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0] {
                let [found] = sketch.quantiles([q]).unwrap();
                let expected = exact[(q * (count - 1) as f64) as usize];
                assert!((found - expected).abs() < 0.4001, "seed {seed}, {q}: {found}, not {expected}");
                let share = |bound: f64| exact.partition_point(|value| *value < bound) as f64 / count as f64;
                let rank = sketch.rank(expected).unwrap();
                assert!(share(expected - 0.81) <= rank && rank <= share(expected + 0.81), "seed {seed}: {rank}");
            }
            let middle = exact[(count - 1) / 2];
            let mut distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
            distances.sort_by(f64::total_cmp);
            let (median, deviation) = sketch.median_and_deviation().unwrap();
            let expected = distances[(count - 1) / 2];
            assert!((median - middle).abs() < 0.4 && (deviation - expected).abs() < 0.8, "seed {seed}: {deviation}");
        }
    }

    #[test]
    fn parts_can_be_merged() {
        for seed in 0..30 {
            let mut random = Random::new(seed);
            let values: Vec<f64> = (0..400).map(|_| 101_300.0 + random.below(1000) as f64 / 100.0).collect();
            let mut parts: Vec<Centred> = values.chunks(1 + random.below(120)).map(of).collect();
            let mut merged = Centred::default();
            while !parts.is_empty() {
                merged.merge(&parts.swap_remove(random.below(parts.len())));
            }
            let mut exact = values.clone();
            exact.sort_by(f64::total_cmp);
            assert_eq!(merged.count(), 400);
            for q in [0.0, 0.05, 0.5, 0.95, 1.0] {
                let [found] = merged.quantiles([q]).unwrap();
                let expected = exact[(q * 399.0) as usize];
                assert!((found - expected).abs() < 0.85, "seed {seed}, {q}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn few_are_exact() {
        let sketch = of(&[5.0, 1.0, 3.0, 2.0, f64::NAN]);
        assert_eq!(sketch.quantiles([0.0, 0.5, 1.0]), Some([1.0, 2.0, 5.0]));
        assert_eq!(sketch.median_and_deviation(), Some((2.0, 1.0)));
        assert_eq!([0.0, 1.0, 2.5, 9.0].map(|value| sketch.rank(value)), [0.0, 0.125, 0.5, 1.0].map(Some));
        assert_eq!(Centred::default().quantiles([0.5]), None);
        assert_eq!((Centred::default().rank(1.0), Centred::default().median_and_deviation()), (None, None));
    }

    #[test]
    fn extreme_and_equal_values_stay_finite() {
        let huge = [f64::MAX, f64::MIN, 0.0].repeat(20);
        let (median, deviation) = of(&huge).median_and_deviation().unwrap();
        assert!(median.is_finite() && deviation.is_finite() && of(&huge).rank(f64::MIN).unwrap() < 0.5);
        assert_eq!(of(&[7.5; 99]).median_and_deviation(), Some((7.5, 0.0)));
    }

    #[test]
    fn a_stored_sketch_is_the_same() {
        for count in [3, 300] {
            let mut random = Random::new(count);
            let values: Vec<f64> = (0..count).map(|_| random.below(100) as f64).collect();
            let (sketch, bytes) = (of(&values), postcard::to_stdvec(&of(&values)).unwrap());
            let read: Centred = postcard::from_bytes(&bytes).unwrap();
            assert_eq!((&read, postcard::to_stdvec(&read).unwrap()), (&sketch, bytes));
        }
    }
}
