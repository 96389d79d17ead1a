//! How many different hashes there were.

use serde::{Deserialize, Serialize};

/// More hashes than this are not kept.
const CAPACITY: usize = 1024;

/// The number of different 64-bit hashes: exact for 1,024, an estimate after that, with a standard error of 4 %.
///
/// Adaptive sampling: P. Flajolet, *On adaptive sampling*, Computing 43, 1990. Kept are the hashes below a threshold, each with how often it was
/// added; whenever there are too many, the threshold is halved. What is below it is always kept completely, so a hash can be taken back, and
/// the order of additions and merges does not matter. After hashes were taken back, the threshold stays as it was.
///
/// The hashes must be spread evenly over all 64 bits, as those of `millstream_engine::state::hash` are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distinct {
    /// How often the threshold was halved.
    level: u8,
    /// Hash and count, ascending. No count is 0.
    kept: Vec<(u64, u64)>,
}

impl Distinct {
    /// Takes a hash in.
    pub fn add(&mut self, hash: u64) {
        if hash <= self.threshold() {
            self.insert(hash, 1);
            self.shrink();
        }
    }

    /// Takes a hash that was added out again; one that was not is left alone.
    pub fn remove(&mut self, hash: u64) {
        if let Ok(place) = self.find(hash) {
            self.kept[place].1 -= 1;
            if self.kept[place].1 == 0 {
                self.kept.remove(place);
            }
        }
    }

    /// Takes in all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        if self.level < other.level {
            self.level = other.level;
            self.cut();
        }
        for &(hash, count) in &other.kept {
            if hash <= self.threshold() {
                self.insert(hash, count);
                self.shrink();
            }
        }
    }

    /// How many different hashes there are.
    pub fn estimate(&self) -> f64 {
        self.kept.len() as f64 * 2_f64.powi(i32::from(self.level))
    }

    /// How often a hash was there on average, estimated from those that are kept; none if there are none.
    pub fn times_each(&self) -> Option<f64> {
        let times: u64 = self.kept.iter().map(|(_, count)| count).sum();
        (!self.kept.is_empty()).then(|| times as f64 / self.kept.len() as f64)
    }

    /// Whether [`Self::estimate`] is exact.
    pub fn is_exact(&self) -> bool {
        self.level == 0
    }

    fn threshold(&self) -> u64 {
        u64::MAX >> self.level
    }

    fn find(&self, hash: u64) -> Result<usize, usize> {
        self.kept.binary_search_by_key(&hash, |(at, _)| *at)
    }

    fn insert(&mut self, hash: u64, count: u64) {
        match self.find(hash) {
            Ok(place) => self.kept[place].1 += count,
            Err(place) => self.kept.insert(place, (hash, count)),
        }
    }

    fn shrink(&mut self) {
        while self.kept.len() > CAPACITY {
            self.level += 1;
            self.cut();
        }
    }

    fn cut(&mut self) {
        let threshold = self.threshold();
        self.kept.truncate(self.kept.partition_point(|&(hash, _)| hash <= threshold));
    }
}

#[cfg(test)]
mod tests {
    use millstream_engine::state::hash;

    use super::*;
    use crate::cleansing::harness::Random;

    fn of(hashes: impl IntoIterator<Item = u64>) -> Distinct {
        let mut sketch = Distinct::default();
        for hash in hashes {
            sketch.add(hash);
        }
        sketch
    }

    fn hash_of(number: usize) -> u64 {
        hash(&number.to_le_bytes())
    }

    #[test]
    fn few_are_counted_exactly() {
        let mut sketch = of((0..5000).map(|number| hash_of(number % CAPACITY)));
        assert_eq!((sketch.estimate(), sketch.is_exact()), (1024.0, true));
        for number in 0..5000 {
            sketch.remove(hash_of(number % CAPACITY));
        }
        assert_eq!(sketch, Distinct::default());
    }

    #[test]
    fn many_are_estimated_without_bias() {
        let (mut sum, mut worst) = (0.0, 0.0_f64);
        for seed in 0..60 {
            let count = 3000 + 700 * seed;
            let from = seed << 32;
            let error = of((from..from + count).map(hash_of)).estimate() / count as f64 - 1.0;
            sum += error;
            worst = worst.max(error.abs());
        }
        assert!(worst < 0.15, "the standard error is 0.0375: {worst}");
        assert!((sum / 60.0).abs() < 0.015, "the mean's standard error is 0.005: {}", sum / 60.0);
    }

    #[test]
    fn repetitions_are_seen() {
        // Each tenth number is there twice.
        let sketch = of((0..100_000).map(|number| hash_of(number - usize::from(number % 11 == 10))));
        let times = sketch.times_each().unwrap();
        assert!((times - 1.1).abs() < 0.04, "the standard error is 0.013: {times}");
        assert_eq!((of((0..500).map(hash_of)).times_each(), Distinct::default().times_each()), (Some(1.0), None));
    }

    #[test]
    fn hashes_can_be_taken_back() {
        for seed in 0..10 {
            let mut random = Random::new(seed);
            let (mut sketch, mut held) = (Distinct::default(), vec![0_u32; 20_000]);
            for _ in 0..60_000 {
                let number = random.below(held.len());
                if held[number] > 0 && random.below(3) > 0 {
                    held[number] -= 1;
                    sketch.remove(hash_of(number));
                } else {
                    held[number] += 1;
                    sketch.add(hash_of(number));
                }
            }
            let exact = held.iter().filter(|count| **count > 0).count() as f64;
            assert!((sketch.estimate() / exact - 1.0).abs() < 0.15, "seed {seed}: {} of {exact}", sketch.estimate());
            let all = held.iter().enumerate().flat_map(|(number, count)| vec![number; *count as usize]);
            for number in all {
                sketch.remove(hash_of(number));
            }
            assert!(sketch.kept.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn merging_is_the_union_and_the_order_does_not_matter() {
        for seed in 0..10 {
            let mut random = Random::new(seed);
            let mut numbers: Vec<usize> = (0..6000).map(|_| random.below(9000)).collect();
            let expected = of(numbers.iter().map(|number| hash_of(*number)));
            let mut parts: Vec<_> =
                numbers.chunks(1 + random.below(3000)).map(|part| of(part.iter().map(|n| hash_of(*n)))).collect();
            let mut merged = Distinct::default();
            while !parts.is_empty() {
                merged.merge(&parts.swap_remove(random.below(parts.len())));
            }
            assert_eq!(merged, expected, "seed {seed}");
            // Of a sketch that keeps all hashes and one that keeps few.
            let (few, many) = numbers.split_at(500);
            let [mut few, many] = [few, many].map(|part| of(part.iter().map(|number| hash_of(*number))));
            assert!(few.is_exact() && !many.is_exact());
            few.merge(&many);
            assert_eq!(few, expected, "seed {seed}");
            numbers.reverse();
            assert_eq!(of(numbers.iter().map(|number| hash_of(*number))), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_stored_sketch_is_the_same() {
        let sketch = of((0..5000).map(hash_of));
        let bytes = postcard::to_stdvec(&sketch).unwrap();
        let read: Distinct = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((&read, postcard::to_stdvec(&read).unwrap()), (&sketch, bytes));
    }
}
