//! Random numbers that are part of a model: the same on every machine, and after a snapshot the same ones follow.

use serde::{Deserialize, Serialize};

/// Steele, Lea and Flood's split-mix generator (2014): a counter, hashed. Eight bytes of state.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Random(u64);

/// The odd number closest to 2^64 over the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The sequence number `stream` of a seed: sequences do not overlap in practice.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed.wrapping_add(STEP)) ^ stream.wrapping_mul(STEP)))
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// In [0, 1).
    #[inline]
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [-1, 1).
    #[inline]
    pub(super) fn signed(&mut self) -> f64 {
        2.0 * self.uniform() - 1.0
    }

    /// Below `bound`, which is not 0.
    #[inline]
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller).
    #[inline]
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Moves `count` of the items, chosen without replacement, to the front.
    pub(super) fn choose<T>(&mut self, items: &mut [T], count: usize) {
        for at in 0..count.min(items.len()) {
            let other = at + self.below(items.len() - at);
            items.swap(at, other);
        }
    }
}

fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The Poisson distribution, by inversion over a table. Its snapshot is only its mean.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "f64", into = "f64")]
pub(super) struct Poisson {
    mean: f64,
    /// The probabilities of at most 0, 1, 2, ...
    table: Vec<f64>,
}

impl Poisson {
    /// The largest mean.
    pub(super) const MEAN_MAX: f64 = 100.0;

    /// With this mean, above 0 and at most [`Poisson::MEAN_MAX`].
    pub(super) fn new(mean: f64) -> Self {
        let inside = if mean > 0.0 { mean.min(Self::MEAN_MAX) } else { 0.0 };
        let mut probability = libm::exp(-inside);
        let mut table = vec![probability];
        let mut sum = probability;
        // What lies behind the end has a probability of less than the resolution of `uniform`.
        for count in 1..(20.0 + 3.0 * inside) as usize {
            probability *= inside / count as f64;
            sum += probability;
            table.push(sum);
        }
        Self { mean, table }
    }

    #[inline]
    pub(super) fn draw(&self, random: &mut Random) -> f64 {
        let uniform = random.uniform();
        self.table.iter().position(|bound| uniform < *bound).unwrap_or(self.table.len()) as f64
    }
}

impl From<f64> for Poisson {
    fn from(mean: f64) -> Self {
        Self::new(mean)
    }
}

impl From<Poisson> for f64 {
    fn from(poisson: Poisson) -> Self {
        poisson.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of 100,000 draws.
    fn moments(mut draw: impl FnMut(&mut Random) -> f64) -> (f64, f64) {
        let mut random = Random::new(7, 1);
        let draws: Vec<f64> = (0..100_000).map(|_| draw(&mut random)).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5)
    }

    #[test]
    fn distributions_have_their_moments() {
        let near = |(mean, variance): (f64, f64), wanted: (f64, f64)| {
            println!("{mean:.4} {variance:.4}, wanted {wanted:?}");
            assert!((mean - wanted.0).abs() < 0.02 * wanted.1.sqrt(), "mean {mean}, wanted {}", wanted.0);
            assert!((variance / wanted.1 - 1.0).abs() < 0.03, "variance {variance}, wanted {}", wanted.1);
        };
        near(moments(Random::uniform), (0.5, 1.0 / 12.0));
        near(moments(Random::normal), (0.0, 1.0));
        near(moments(|random| random.below(10) as f64), (4.5, 8.25));
        for mean in [0.5, 1.0, 6.0, 100.0] {
            let poisson = Poisson::new(mean);
            near(moments(|random| poisson.draw(random)), (mean, mean));
        }
    }

    #[test]
    fn sequences_are_fixed_and_different() {
        let numbers = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
        let mut items: Vec<u32> = (0..10).collect();
        Random::new(1, 1).choose(&mut items, 4);
        items.sort_unstable();
        assert_eq!(items, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn snapshots_are_the_mean_alone() {
        let poisson = Poisson::new(6.0);
        let snapshot = postcard::to_stdvec(&poisson).unwrap();
        assert_eq!(snapshot.len(), 8);
        assert_eq!(postcard::from_bytes::<Poisson>(&snapshot).unwrap(), poisson);
        // A damaged one is harmless.
        for mean in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert!(Poisson::from(mean).draw(&mut Random::new(1, 1)).is_finite());
        }
    }
}
