//! What there is to know about numbers.

use arrow::array::{Array, Float64Array, PrimitiveArray};
use arrow::compute::{max, min, sum};
use arrow::datatypes::Float64Type;

use serde::{Deserialize, Serialize};

use crate::sketch::Centred;

/// Numbers that often stand for a missing value: what instruments and programs write when they know none.
pub const SENTINELS: [f64; 14] = [
    -99.0,
    -200.0,
    -999.0,
    -9999.0,
    -99_999.0,
    -32_768.0,
    -2_147_483_648.0,
    999.0,
    9999.0,
    99_999.0,
    999_999.0,
    32_767.0,
    65_535.0,
    2_147_483_647.0,
];

/// Count, range, mean and squared deviations of all numbers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Numbers {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
    squares: f64,
}

impl Numbers {
    /// Takes in those of a batch. Once there are some, their mean is near that of the others, and one pass is enough: see [`About`].
    pub(super) fn take(&mut self, values: &Float64Array) {
        let about = (self.count > 0).then(|| About::new(values, self.mean.clamp(self.min, self.max)));
        self.merge(&about.and_then(|about| about.numbers()).unwrap_or_else(|| Self::of(values)));
    }

    /// Those of a batch; what is not finite is left out. A batch's squares are taken from its own mean, so that large numbers that lie close
    /// together keep their digits.
    pub(super) fn of(values: &Float64Array) -> Self {
        let count = (values.len() - values.null_count()) as u64;
        let (Some(sum), Some(min), Some(max)) = (sum(values), min(values), max(values)) else { return Self::default() };
        if !sum.is_finite() || !min.is_finite() || !max.is_finite() {
            return Self::one_by_one(values);
        }
        let mean = sum / count as f64;
        Self { count, min, max, mean, squares: squares(values, mean) }
    }

    /// For what has numbers that are not finite, or so large that their sum is not.
    fn one_by_one(values: &Float64Array) -> Self {
        let mut numbers = Self::default();
        for value in values.iter().flatten() {
            numbers.add(value);
        }
        numbers
    }

    pub(super) fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.merge(&Self { count: 1, min: value, max: value, mean: value, squares: 0.0 });
        }
    }

    /// Takes in the numbers of another (Chan, Golub and `LeVeque`, 1979).
    pub(super) fn merge(&mut self, other: &Self) {
        if self.count == 0 || other.count == 0 {
            *self = if self.count == 0 { *other } else { *self };
            return;
        }
        let count = self.count + other.count;
        let share = other.count as f64 / count as f64;
        let apart = other.mean - self.mean;
        self.squares += other.squares + apart * apart * self.count as f64 * share;
        // Not by way of the difference, which may be too large for a float.
        self.mean = self.mean * (1.0 - share) + other.mean * share;
        (self.count, self.min, self.max) = (count, self.min.min(other.min), self.max.max(other.max));
    }

    /// The sample deviation, once there are two numbers and their squares can be represented.
    pub(super) fn deviation(&self) -> Option<f64> {
        Some((self.squares / (self.count.checked_sub(1)? as f64)).sqrt()).filter(|deviation| deviation.is_finite())
    }
}

/// How many values are looked at together, so that the compiler can use wide registers.
const LANES: usize = 8;
/// By how much more the squares around a number may be than those around the mean, so that enough digits are left.
const FAR: f64 = 1e4;

/// Sums of distances from a number that is near the mean.
struct About {
    near: f64,
    count: u64,
    min: [f64; LANES],
    max: [f64; LANES],
    sums: [f64; LANES],
    squares: [f64; LANES],
}

impl About {
    fn new(values: &Float64Array, near: f64) -> Self {
        let (start, zero) = ([near; LANES], [0.0; LANES]);
        let count = (values.len() - values.null_count()) as u64;
        let mut about = Self { near, count, min: start, max: start, sums: zero, squares: zero };
        let bits = values.nulls().filter(|nulls| nulls.null_count() > 0).map(|nulls| nulls.inner().bit_chunks());
        let mut words = bits.as_ref().map(arrow::util::bit_chunk_iterator::BitChunks::iter_padded);
        for values in values.values().chunks(64) {
            let mut valid = words.as_mut().map_or(u64::MAX, |words| words.next().unwrap_or_default());
            let (chunks, rest) = values.as_chunks();
            for chunk in chunks {
                match valid as u8 {
                    u8::MAX => about.add(chunk),
                    valid => about.add(&about.without_gaps(chunk, valid)),
                }
                valid >>= LANES;
            }
            if !rest.is_empty() {
                let mut last = [near; LANES];
                last[..rest.len()].copy_from_slice(rest);
                about.add(&about.without_gaps(&last, valid as u8 | (u8::MAX << rest.len())));
            }
        }
        about
    }

    fn without_gaps(&self, chunk: &[f64; LANES], valid: u8) -> [f64; LANES] {
        std::array::from_fn(|lane| if (valid >> lane) & 1 == 1 { chunk[lane] } else { self.near })
    }

    #[inline]
    fn add(&mut self, chunk: &[f64; LANES]) {
        for lane in 0..LANES {
            let value = chunk[lane];
            let apart = value - self.near;
            self.sums[lane] += apart;
            self.squares[lane] += apart * apart;
            self.min[lane] = if value < self.min[lane] { value } else { self.min[lane] };
            self.max[lane] = if value > self.max[lane] { value } else { self.max[lane] };
        }
    }

    /// `None` where the mean is far away, or there are numbers that are not finite.
    fn numbers(&self) -> Option<Numbers> {
        let (sum, around) = (self.sums.iter().sum::<f64>(), self.squares.iter().sum::<f64>());
        let count = self.count as f64;
        let squares = around - sum * sum / count;
        if !(around.is_finite() && around <= FAR * squares) {
            return None;
        }
        let (min, max) =
            (self.min.into_iter().fold(self.near, f64::min), self.max.into_iter().fold(self.near, f64::max));
        Some(Numbers { count: self.count, min, max, mean: self.near + sum / count, squares })
    }
}

/// Squared distances from `mean`, in lanes, so that the compiler can use wide registers.
fn squares(values: &PrimitiveArray<Float64Type>, mean: f64) -> f64 {
    let numbers = values.values();
    let mut lanes = [0.0; LANES];
    let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) else {
        let chunks = numbers.chunks_exact(LANES);
        let rest: f64 = chunks.remainder().iter().map(|value| (value - mean).powi(2)).sum();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += (value - mean) * (value - mean);
            }
        }
        return rest + lanes.iter().sum::<f64>();
    };
    for (at, (value, valid)) in numbers.iter().zip(nulls.iter()).enumerate() {
        lanes[at % LANES] += if valid { (value - mean) * (value - mean) } else { 0.0 };
    }
    lanes.iter().sum()
}

/// Sketches of the numbers of a sample.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Sketched {
    pub(super) quantiles: Centred,
    /// How often there was each of [`SENTINELS`].
    sentinels: [u64; SENTINELS.len()],
}

impl Sketched {
    pub(super) fn add(&mut self, value: f64) {
        self.quantiles.add(value);
        if let Some(at) = SENTINELS.iter().position(|sentinel| sentinel.total_cmp(&value).is_eq()) {
            self.sentinels[at] += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.quantiles.merge(&other.quantiles);
        self.sentinels.iter_mut().zip(other.sentinels).for_each(|(count, more)| *count += more);
    }

    /// Sentinels that lie far away from all other numbers, and are there several times, with their counts.
    pub(super) fn suspects(&self) -> Vec<(f64, u64)> {
        let candidates = || SENTINELS.into_iter().zip(self.sentinels).filter(|(_, count)| *count > 1);
        let count =
            |is_low: bool| candidates().filter(|(value, _)| (*value < 0.0) == is_low).map(|(_, n)| n).sum::<u64>();
        let (below, above, total) = (count(true), count(false), self.quantiles.count());
        // The ends of what is left without any of them.
        let last = total.saturating_sub(1).max(1) as f64;
        let ends = [(below as f64 + 0.5) / last, (total.saturating_sub(above + 1) as f64 + 0.5) / last];
        let Some([low, high]) = self.quantiles.quantiles(ends).filter(|_| below + above < total) else {
            return Vec::new();
        };
        let apart = |value: f64| {
            let half = (high - low) / 2.0;
            let is_below = value < 0.0 && (value < low - half || low >= 0.0) && value < low;
            is_below || (value > 0.0 && value > high + half && value > 1.5 * high)
        };
        candidates().filter(|(value, _)| apart(*value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleansing::harness::Random;

    #[test]
    fn batches_agree_with_one_by_one() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let values: Vec<Option<f64>> = (0..random.below(300))
                .map(|_| match random.below(if seed % 2 == 0 { 12 } else { 1000 }) {
                    0 => None,
                    1 => Some([f64::NAN, f64::INFINITY, f64::NEG_INFINITY][random.below(3)]),
                    _ => Some(1e6 + random.below(1000) as f64 / 8.0),
                })
                .collect();
            let mut batched = Numbers::default();
            for part in values.chunks(1 + random.below(if seed % 3 == 0 { 200 } else { 40 })) {
                batched.take(&part.iter().copied().collect());
            }
            let finite: Vec<f64> = values.iter().flatten().copied().filter(|value| value.is_finite()).collect();
            assert_eq!(batched.count, finite.len() as u64, "seed {seed}");
            if finite.is_empty() {
                continue;
            }
            let count = finite.len() as f64;
            let mean = finite.iter().sum::<f64>() / count;
            let range =
                finite.iter().fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
            assert_eq!((batched.min, batched.max), range, "seed {seed}");
            assert!((batched.mean - mean).abs() < 1e-8, "seed {seed}: {} {mean}", batched.mean);
            let deviation = (finite.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
            let found = batched.deviation().unwrap_or(f64::NAN);
            assert!((found - deviation).abs() < 1e-8 || finite.len() == 1, "seed {seed}: {found} {deviation}");
        }
    }

    #[test]
    fn numbers_too_large_to_be_added_up_have_a_range() {
        let numbers = Numbers::of(&Float64Array::from(vec![f64::MAX, f64::MAX, f64::MIN, f64::NAN]));
        assert_eq!((numbers.count, numbers.min, numbers.max, numbers.deviation()), (3, f64::MIN, f64::MAX, None));
        assert!(numbers.mean.is_finite());
        assert_eq!(Numbers::of(&Float64Array::from(vec![None, Some(f64::NAN)])).count, 0);
    }

    fn suspects(range: (f64, f64), odd: &[(f64, u64)]) -> Vec<f64> {
        let (mut random, mut sketched) = (Random::new(3), Sketched::default());
        for _ in 0..2000 {
            sketched.add(range.0 + (range.1 - range.0) * random.below(1000) as f64 / 1000.0);
        }
        for (value, count) in odd {
            (0..*count).for_each(|_| sketched.add(*value));
        }
        sketched.suspects().into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn numbers_that_stand_for_none_are_found() {
        assert_eq!(suspects((-20.0, 50.0), &[(-200.0, 90)]), [-200.0]);
        assert_eq!(suspects((2.0, 1479.0), &[(-200.0, 90)]), [-200.0], "all others are above 0");
        assert_eq!(
            suspects((0.0, 100.0), &[(2_147_483_647.0, 5), (9999.0, 5), (-999.0, 2)]),
            [-999.0, 9999.0, 2_147_483_647.0]
        );
        assert!(suspects((0.0, 100.0), &[(9999.0, 1)]).is_empty(), "once is chance");
        assert!(suspects((0.0, 2000.0), &[(999.0, 30)]).is_empty(), "in the midst of others");
        assert!(suspects((-500.0, 2000.0), &[(-200.0, 30), (999.0, 9)]).is_empty());
    }
}
