//! Quantiles of numbers, each within 1 % of its value.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// How many buckets a factor of two has.
const PER_DOUBLING: f64 = 37.5;

/// Puts the smallest positive number into bucket 1.
const OFFSET: i32 = 38_326;

/// More buckets than this are halved in number.
const MOST_BUCKETS: usize = 1024;

/// How many values there were in buckets that grow with the value, so that each is known within 1 %.
///
/// `DDSketch`: C. Masson, J. Rim, H. Lee, *`DDSketch`: a fast and fully-mergeable quantile sketch with relative-error
/// guarantees*, VLDB 2019. Instead of a logarithm, a bucket's place is the number's exponent and a parabola through its mantissa: that takes
/// 8 % more buckets, no library function, and gives the same places on every machine.
///
/// When there are more than 1,024 buckets (numbers of more than nine decades, if they are dense), each two neighbours become one everywhere,
/// and the error doubles: I. Epicoco and others, *`UDDSketch`: accurate tracking of quantiles in data streams*, IEEE Access 8, 2020.
/// That depends only on which buckets there are, so the order of additions and merges does not matter;
/// and a value can always be taken back from the bucket that it is in.
///
/// Numbers that are not finite are left out. Those nearer to zero than 2.3e-308 count as zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    count: u64,
    /// How often the buckets were halved in number.
    level: u8,
    /// Bucket and count, in the order of the values: negative buckets, 0 for zero, positive ones. No count is 0.
    buckets: Vec<(i32, u64)>,
}

impl Quantiles {
    /// An empty sketch whose buckets are joined `levels` times from the start: smaller, and each time twice the error.
    pub fn coarse(levels: u8) -> Self {
        Self { level: levels, ..Self::default() }
    }

    /// Takes a number in.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.insert(coarser(bucket(value), self.level), 1);
            self.count += 1;
            self.shrink();
        }
    }

    /// Takes a number in that was there so often.
    pub fn add_many(&mut self, value: f64, count: u64) {
        if value.is_finite() && count > 0 {
            self.insert(coarser(bucket(value), self.level), count);
            self.count += count;
            self.shrink();
        }
    }

    /// The numbers, ascending, each within [`Self::relative_error`], and how often there is each.
    pub fn values(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        (0..self.buckets.len()).map(|place| (self.value(place), self.buckets[place].1))
    }

    /// Takes a number that was added out again. One that cannot have been is left alone.
    pub fn remove(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if let Ok(place) = self.find(coarser(bucket(value), self.level)) {
            self.count -= 1;
            self.buckets[place].1 -= 1;
            if self.buckets[place].1 == 0 {
                self.buckets.remove(place);
            }
        }
    }

    /// Takes in all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        self.coarsen(other.level);
        for &(bucket, count) in &other.buckets {
            self.insert(coarser(bucket, self.level - other.level), count);
        }
        self.count += other.count;
        self.shrink();
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The number at rank `floor(q × (count - 1))` of the sorted ones, within [`Self::relative_error`]; none if there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.quantiles([q]).map(|[value]| value)
    }

    /// Several quantiles, ascending, in one walk.
    pub fn quantiles<const N: usize>(&self, ascending: [f64; N]) -> Option<[f64; N]> {
        let last = self.count.checked_sub(1)?;
        let (mut place, mut through) = (0, self.buckets.first()?.1);
        Some(ascending.map(|q| {
            let rank = ((q.clamp(0.0, 1.0) * last as f64) as u64).min(last);
            while through <= rank {
                place += 1;
                through += self.buckets[place].1;
            }
            self.value(place)
        }))
    }

    /// The share of numbers below `value`, those in its bucket counting half; none if there are none.
    pub fn rank(&self, value: f64) -> Option<f64> {
        let (below, with) = match self.find(coarser(bucket(value), self.level)) {
            Ok(place) => (place, self.buckets[place].1),
            Err(place) => (place, 0),
        };
        let below: u64 = self.buckets[..below].iter().map(|(_, count)| count).sum();
        (self.count > 0).then(|| (below as f64 + with as f64 / 2.0) / self.count as f64)
    }

    /// The median and the median distance from it.
    pub fn median_and_deviation(&self) -> Option<(f64, f64)> {
        let median = self.quantile(0.5)?;
        let rank = (self.count - 1) / 2;
        // Outwards from the median, always to the nearer side.
        let mut right = self.buckets.partition_point(|&(at, _)| at < coarser(bucket(median), self.level));
        let mut left = right;
        let distance = |place: usize| (self.value(place) - median).abs();
        let mut below = left.checked_sub(1).map(distance);
        let mut above = Some(distance(right));
        let mut through = 0;
        loop {
            let nearest = match (below, above) {
                (Some(low), high) if high.is_none_or(|high| low < high) => {
                    left -= 1;
                    through += self.buckets[left].1;
                    below = left.checked_sub(1).map(distance);
                    low
                }
                (_, high) => {
                    let high = high?;
                    through += self.buckets[right].1;
                    right += 1;
                    above = (right < self.buckets.len()).then(|| distance(right));
                    high
                }
            };
            if through > rank {
                return Some((median, nearest));
            }
        }
    }

    /// By how much a quantile may be off, as a share of it: 0.01 unless buckets had to be joined.
    pub fn relative_error(&self) -> f64 {
        (0..self.level).fold(0.01, |error, _| 2.0 * error / (1.0 + error * error))
    }

    fn find(&self, bucket: i32) -> Result<usize, usize> {
        self.buckets.binary_search_by_key(&bucket, |(at, _)| *at)
    }

    fn insert(&mut self, bucket: i32, count: u64) {
        match self.find(bucket) {
            Ok(place) => self.buckets[place].1 += count,
            Err(place) => {
                if self.buckets.len() == self.buckets.capacity() {
                    // There may be a sketch per key, so no doubling.
                    self.buckets.reserve_exact(4 + self.buckets.len() / 4);
                }
                self.buckets.insert(place, (bucket, count));
            }
        }
    }

    fn shrink(&mut self) {
        while self.buckets.len() > MOST_BUCKETS {
            self.coarsen(self.level + 1);
        }
    }

    fn coarsen(&mut self, level: u8) {
        let by = level.saturating_sub(self.level);
        if by == 0 {
            return;
        }
        self.level = level;
        self.buckets.iter_mut().for_each(|(bucket, _)| *bucket = coarser(*bucket, by));
        self.buckets.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }

    /// What stands for the values of a bucket: as far below its upper edge as above its lower one, in relation to either.
    fn value(&self, place: usize) -> f64 {
        let bucket = self.buckets[place].0;
        if bucket == 0 {
            return 0.0;
        }
        let last = bucket.abs() << self.level;
        let (low, high) = (edge(last + 1 - (1 << self.level)), edge(last + 1));
        (low * (high / (0.5 * low + 0.5 * high))).copysign(f64::from(bucket))
    }
}

/// The bucket of a finite number, before any were joined.
fn bucket(value: f64) -> i32 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = value.abs().to_bits();
    if bits <= MANTISSA {
        return 0;
    }
    let exponent = (bits >> 52) as i32 - 1023;
    let part = f64::from_bits((bits & MANTISSA) | 1.0_f64.to_bits()) - 1.0;
    // The parabola is 0 at 0 and 1 at 1, and its slope in terms of the logarithm is nowhere below 4/3: hence buckets within a factor of e^0.02.
    let place = PER_DOUBLING * (f64::from(exponent) + part * (4.0 - part) / 3.0);
    let bucket = place.floor() as i32 + OFFSET;
    if value < 0.0 { -bucket } else { bucket }
}

/// The lower edge of a positive bucket.
fn edge(bucket: i32) -> f64 {
    // Two doublings have a whole number of buckets, 75, so halves of a bucket's width are what repeats.
    static PARTS: LazyLock<[f64; 75]> = LazyLock::new(|| {
        std::array::from_fn(|half| {
            let place = half as f64 / (2.0 * PER_DOUBLING);
            3.0 - (4.0 - 3.0 * place).sqrt()
        })
    });
    let halves = 2 * (bucket - OFFSET);
    let exponent = halves.div_euclid(75);
    if exponent > 1023 {
        return f64::MAX;
    }
    PARTS[halves.rem_euclid(75) as usize] * f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The bucket in which a bucket is after `levels` halvings.
fn coarser(bucket: i32, levels: u8) -> i32 {
    let up = (1 << levels) - 1;
    if bucket < 0 { -((up - bucket) >> levels) } else { (bucket + up) >> levels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleansing::harness::Random;

    fn of(values: &[f64]) -> Quantiles {
        let mut sketch = Quantiles::default();
        for value in values {
            sketch.add(*value);
        }
        sketch
    }

    fn sorted(values: &[f64]) -> Vec<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Numbers of both signs, zeros, and `decades` on each side of 1.
    fn random(random: &mut Random, count: usize, decades: usize) -> Vec<f64> {
        let mut one = || {
            let size = 10_f64.powf((random.below(2000 * decades) as f64 / 1000.0) - decades as f64);
            [size, -size, size * 3.0, 0.0][random.below(4)]
        };
        (0..count).map(|_| one()).collect()
    }

    fn assert_near(found: f64, exact: f64, error: f64, of: &str) {
        assert!((found - exact).abs() <= error * exact.abs() * (1.0 + 1e-9), "{of}: {found}, not {exact}");
    }

    #[test]
    fn each_number_is_in_its_bucket_and_near_its_value() {
        let mut seeded = Random::new(1);
        let mut numbers = random(&mut seeded, 20_000, 300);
        numbers.extend([f64::MIN_POSITIVE, f64::MAX, f64::MIN, 1.0, 2.0, 0.5, 1.0 - 1e-16, 1.0 + 3e-16]);
        for number in numbers {
            let sketch = of(&[number]);
            assert_near(sketch.quantile(0.5).unwrap(), number, 0.01, "one number");
            let at = bucket(number.abs());
            if at > 0 {
                let slack = 1.0 + 1e-12;
                assert!(edge(at) <= number.abs() * slack && number.abs() <= edge(at + 1) * slack, "{number}");
            }
        }
        assert_eq!(bucket(f64::MIN_POSITIVE), 1);
    }

    #[test]
    fn agrees_with_sorting_while_values_come_and_go() {
        for seed in 0..30 {
            let mut seeded = Random::new(seed);
            let decades = 1 + seeded.below(4);
            let (mut sketch, mut held) = (Quantiles::default(), Vec::new());
            for value in random(&mut seeded, 1500, decades) {
                sketch.add(value);
                held.push(value);
                if seeded.below(3) == 0 {
                    let gone = held.swap_remove(seeded.below(held.len()));
                    sketch.remove(gone);
                }
            }
            let exact = sorted(&held);
            assert_eq!((sketch.count(), sketch.relative_error()), (held.len() as u64, 0.01));
            for percent in 0..=100 {
                let q = f64::from(percent) / 100.0;
                let rank = (q * (exact.len() - 1) as f64) as usize;
                assert_near(sketch.quantile(q).unwrap(), exact[rank], 0.01, &format!("seed {seed}, {q}"));
            }
            for value in held {
                sketch.remove(value);
            }
            assert_eq!(sketch, Quantiles::default(), "seed {seed}");
        }
    }

    #[test]
    fn many_decades_cost_precision_and_nothing_else() {
        let mut seeded = Random::new(7);
        let values = random(&mut seeded, 30_000, 150);
        let mut sketch = of(&values);
        let error = sketch.relative_error();
        assert!(sketch.buckets.len() <= MOST_BUCKETS && error > 0.01 && error < 0.9, "{error}");
        let exact = sorted(&values);
        for percent in 0..=100 {
            let q = f64::from(percent) / 100.0;
            let rank = (q * (exact.len() - 1) as f64) as usize;
            assert_near(sketch.quantile(q).unwrap(), exact[rank], error, &q.to_string());
        }
        for value in values {
            sketch.remove(value);
        }
        assert_eq!((sketch.count(), sketch.buckets.len()), (0, 0));
    }

    #[test]
    fn the_order_does_not_matter_and_merging_is_adding() {
        for (seed, decades) in [(1, 2), (2, 20), (3, 150)] {
            let mut seeded = Random::new(seed);
            let mut values = random(&mut seeded, 9000, decades);
            let expected = of(&values);
            let mut parts: Vec<_> = values.chunks(1 + seeded.below(3000)).map(of).collect();
            let mut merged = Quantiles::default();
            while !parts.is_empty() {
                merged.merge(&parts.swap_remove(seeded.below(parts.len())));
            }
            assert_eq!(merged, expected, "seed {seed}");
            values.reverse();
            assert_eq!(of(&values), expected, "seed {seed}");
        }
    }

    #[test]
    fn ranks_and_deviations_agree_with_counting() {
        for seed in 0..20 {
            let mut seeded = Random::new(seed);
            let count = 1 + seeded.below(400);
            let values = random(&mut seeded, count, 2);
            let sketch = of(&values);
            for value in random(&mut seeded, 50, 2) {
                let rank = sketch.rank(value).unwrap();
                let share = |bound: f64| values.iter().filter(|v| **v < bound).count() as f64 / values.len() as f64;
                let (low, high) = (value - value.abs() * 0.021, value + value.abs() * 0.021 + 1e-300);
                assert!(share(low) <= rank && rank <= share(high), "seed {seed}: {rank}");
            }
            let (median, deviation) = sketch.median_and_deviation().unwrap();
            let exact = sorted(&values)[(values.len() - 1) / 2];
            let distances = sorted(&values.iter().map(|value| (value - exact).abs()).collect::<Vec<_>>());
            assert_near(median, exact, 0.01, "median");
            // The distance is off by what the two ends are.
            let expected = distances[(values.len() - 1) / 2];
            let most = 0.011 * (2.0 * exact.abs() + expected) + 1e-300;
            assert!((deviation - expected).abs() <= most, "seed {seed}: {deviation}, not {expected}");
        }
    }

    #[test]
    fn a_stored_sketch_is_the_same() {
        let sketch = of(&random(&mut Random::new(5), 500, 3));
        let bytes = postcard::to_stdvec(&sketch).unwrap();
        let read: Quantiles = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((&read, postcard::to_stdvec(&read).unwrap()), (&sketch, bytes));
    }

    #[test]
    fn nothing_and_what_is_not_finite() {
        let mut sketch = of(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
        sketch.remove(f64::NAN);
        sketch.remove(3.0);
        assert_eq!(sketch, Quantiles::default());
        assert_eq!((sketch.quantile(0.5), sketch.rank(1.0), sketch.median_and_deviation()), (None, None, None));
    }
}
