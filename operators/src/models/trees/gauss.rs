//! Normal distributions of many columns at once: flat loops without branches.

use std::sync::LazyLock;

/// The statistics of one class over some columns, one array after the other: means, sums of squared differences,
/// smallest and largest values.
pub(in super::super) const ARRAYS: usize = 4;

/// Squared distances do not grow beyond this.
pub(in super::super) const FAR: f64 = 1e300;

/// A block in which nothing was seen.
pub(in super::super) fn block(columns: usize) -> impl Iterator<Item = f64> {
    let repeat = move |value| std::iter::repeat_n(value, columns);
    repeat(0.0).chain(repeat(0.0)).chain(repeat(f64::MAX)).chain(repeat(-f64::MAX))
}

/// Adds a row of this weight to a block; `share` is its weight in that of all rows, itself included (Welford).
#[inline]
pub(in super::super) fn add(block: &mut [f64], numbers: &[f64], weight: f64, share: f64) {
    let columns = numbers.len();
    let (means, rest) = block.split_at_mut(columns);
    let (squares, rest) = rest.split_at_mut(columns);
    let (low, high) = rest.split_at_mut(columns);
    let high = &mut high[..columns];
    for at in 0..columns {
        let x = numbers[at];
        let difference = x - means[at];
        means[at] += difference * share;
        squares[at] += weight * difference * (x - means[at]);
        low[at] = if x < low[at] { x } else { low[at] };
        high[at] = if x > high[at] { x } else { high[at] };
    }
}

/// The variance of a uniform distribution over the range of each column, over all blocks.
#[inline]
pub(in super::super) fn spreads(blocks: &[f64], spreads: &mut [f64], highs: &mut [f64]) {
    let columns = spreads.len();
    spreads.fill(f64::MAX);
    highs.fill(-f64::MAX);
    for block in blocks.chunks_exact((ARRAYS * columns).max(1)) {
        let (low, high) = block[2 * columns..].split_at(columns);
        for at in 0..columns {
            spreads[at] = if low[at] < spreads[at] { low[at] } else { spreads[at] };
            highs[at] = if high[at] > highs[at] { high[at] } else { highs[at] };
        }
    }
    for (spread, high) in spreads.iter_mut().zip(highs) {
        let range = (*high - *spread).max(0.0);
        *spread = range * range / 12.0;
    }
}

/// The logarithm of the density of a row under independent normal distributions, but for a constant.
///
/// The variance is that of the `count` rows and of one more row's worth of `spreads`: what was seen once or twice, or was
/// always the same, does not become a certainty. Columns without any spread say nothing.
/// One logarithm is taken of a product of mantissas, instead of one for each column.
#[inline]
pub(in super::super) fn log_density(block: &[f64], numbers: &[f64], spreads: &[f64], count: f64) -> f64 {
    let columns = numbers.len();
    let (means, squares) = (&block[..columns], &block[columns..2 * columns]);
    let share = 1.0 / (count + 1.0);
    let mut sums = Sums { distances: [0.0; LANES], products: [1.0; LANES], exponents: [0; LANES], logarithm: 0.0 };
    let whole = columns - columns % LANES;
    for first in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let at = first + lane;
            sums.add(lane, numbers[at] - means[at], (squares[at] + spreads[at]) * share);
        }
        // Before the products of numbers below 2 can become too large.
        if first % 2048 == 2044 {
            sums.take_logarithm();
        }
    }
    for at in whole..columns {
        sums.add(0, numbers[at] - means[at], (squares[at] + spreads[at]) * share);
    }
    sums.take_logarithm();
    let [a, b, c, d] = sums.distances;
    -0.5 * (((a + b) + (c + d)).min(FAR) + sums.logarithm)
}

/// Of each column of [`log_density`], the mean and the variance; nothing where it says nothing.
pub(in super::super) fn normals(
    block: &[f64],
    spreads: &[f64],
    count: f64,
) -> impl Iterator<Item = Option<(f64, f64)>> {
    let columns = spreads.len();
    let share = 1.0 / (count + 1.0);
    (0..columns).map(move |at| {
        let variance = (block[columns + at] + spreads[at]) * share;
        (variance > f64::MIN_POSITIVE).then(|| (block[at], variance))
    })
}

const LANES: usize = 4;

/// Sums over columns, in four interleaved parts.
struct Sums {
    distances: [f64; LANES],
    products: [f64; LANES],
    exponents: [u64; LANES],
    logarithm: f64,
}

impl Sums {
    #[inline]
    fn add(&mut self, lane: usize, difference: f64, variance: f64) {
        let known = variance > f64::MIN_POSITIVE;
        let variance = if known { variance } else { 1.0 };
        let difference = if known { difference } else { 0.0 };
        self.distances[lane] += difference * difference / variance;
        let bits = variance.to_bits();
        self.exponents[lane] = self.exponents[lane].wrapping_add((bits >> 52).wrapping_sub(1023));
        self.products[lane] *= f64::from_bits(bits & MANTISSA | 1.0_f64.to_bits());
    }

    fn take_logarithm(&mut self) {
        for (product, exponent) in self.products.iter_mut().zip(&mut self.exponents) {
            self.logarithm += libm::log(*product) + (*exponent as i64) as f64 * std::f64::consts::LN_2;
            (*product, *exponent) = (1.0, 0);
        }
    }
}

const MANTISSA: u64 = (1 << 52) - 1;

/// The probability that a standard normal number is at most this, from a table with steps of 1/128: right to 4e-6,
/// and far cheaper than the error function.
pub(in super::super) fn normal_below(z: f64) -> f64 {
    static TABLE: LazyLock<Vec<f64>> = LazyLock::new(|| {
        let exact = |at: i32| 0.5 * libm::erfc(-f64::from(at - STEPS) / 128.0 / std::f64::consts::SQRT_2);
        (0..=2 * STEPS + 1).map(exact).collect()
    });
    const STEPS: i32 = 6 * 128;
    if z <= -6.0 {
        return 0.0;
    }
    if z >= 6.0 {
        return 1.0;
    }
    let place = (z + 6.0) * 128.0;
    let at = place as usize;
    let part = place - at as f64;
    TABLE[at] + part * (TABLE[at + 1] - TABLE[at])
}

/// How much of a class is at most the threshold.
#[inline]
pub(in super::super) fn share_below(threshold: f64, mean: f64, squares: f64, count: f64, low: f64, high: f64) -> f64 {
    if threshold < low {
        0.0
    } else if threshold >= high {
        1.0
    } else {
        let deviation = (squares / count).sqrt();
        if deviation > 0.0 { normal_below((threshold - mean) / deviation) } else { f64::from(mean <= threshold) }
    }
}
