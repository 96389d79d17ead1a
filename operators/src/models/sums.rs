//! Exact sums, many of them in one flat vector: what was added can be taken back without a trace, in any order.
//!
//! A float times a float times a weight is a whole number times a power of two, of at most 128 bits. A sum of such
//! terms is kept as a fixed-point number of 64-bit limbs in two's complement: the long accumulator of Kulisch
//! ("Computer Arithmetic and Validity", 2008), only as wide as the terms so far need, and of one width for all sums
//! of a [`Sums`]. The width says nothing about the sums: they are read, compared and written without what is
//! superfluous of it, so equal sums give equal bytes, whatever came and went.
//!
//! Numbers count up to ±2^340 (about 1e102), in steps of 2^-340: that is exact for all from 1e-86 to 1e102, and
//! squares and cubes of all of them are floats. Weights count in 22 binary digits (seven decimal ones), from 2^-40
//! to 2^40, so whole ones up to four million exactly.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The binary exponent of the largest number that counts as it is, and of one over the least.
const RANGE: i32 = 340;
/// The same of weights.
const WEIGHT_RANGE: i32 = 40;
/// Bits of a limb.
const LIMB: i32 = 64;
/// Places of limbs that sums can have: from below the least term to far above any sum of the largest ones.
const PLACES: std::ops::Range<i32> = -14..15;

/// No number counts as more.
pub(super) const COUNTED_MAX: f64 = f64::from_bits(((1023 + RANGE) as u64) << 52);

/// A number as it counts: inside the range that sums take.
#[inline]
pub(super) fn counted(x: f64) -> f64 {
    x.clamp(-COUNTED_MAX, COUNTED_MAX)
}

/// A whole number times a power of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    negative: bool,
    whole: u128,
    exponent: i32,
}

/// A number as a term: odd, of at most 53 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    negative: bool,
    odd: u64,
    exponent: i32,
}

impl Number {
    /// Of a finite number: as it counts.
    #[inline]
    pub(super) fn of(x: f64) -> Self {
        let bits = counted(x).to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32 - 1075;
        let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
        // What is below the least step is cut off; subnormal numbers are far below it.
        let cut = (-RANGE - exponent).max(0);
        let whole = if cut > 52 { 0 } else { mantissa >> cut };
        if whole == 0 {
            return Self { negative: false, odd: 0, exponent: 0 };
        }
        let zeros = whole.trailing_zeros();
        Self { negative: x < 0.0, odd: whole >> zeros, exponent: exponent + cut + zeros as i32 }
    }

    /// Of a weight that is not negative: as it counts.
    pub(super) fn weight(weight: f64) -> Self {
        const LARGEST: f64 = (1_u64 << WEIGHT_RANGE) as f64;
        let bits = weight.min(LARGEST).to_bits();
        // Rounded to 22 digits; a carry goes into the exponent, as it should.
        let bits = (bits + (1 << 30)) >> 31 << 31;
        let weight = f64::from_bits(bits);
        if weight < 1.0 / LARGEST { Self { negative: false, odd: 0, exponent: 0 } } else { Self::of(weight) }
    }

    /// Whether it counts nothing.
    pub(super) fn is_zero(self) -> bool {
        self.odd == 0
    }

    /// The number that counts.
    #[cfg(test)]
    pub(super) fn value(self) -> f64 {
        let value = self.odd as f64 * power(self.exponent);
        if self.negative { -value } else { value }
    }

    /// The same with the other sign.
    pub(super) fn negated(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    pub(super) fn term(self) -> Term {
        Term { negative: self.negative, whole: u128::from(self.odd), exponent: self.exponent }
    }

    /// This number, counting as often as a weight says.
    #[inline]
    pub(super) fn weighted(self, weight: Self) -> Term {
        self.term().times(weight)
    }
}

impl Term {
    /// Times a number: there is room for two numbers and a weight.
    #[inline]
    pub(super) fn times(self, by: Number) -> Self {
        Self {
            negative: self.negative != by.negative,
            whole: self.whole * u128::from(by.odd),
            exponent: self.exponent + by.exponent,
        }
    }
}

/// Two to this power, which must be that of a normal float.
#[inline]
fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// A number in two floats: the second is what the first leaves. Twice the digits of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Double {
    pub(super) high: f64,
    pub(super) low: f64,
}

impl Double {
    pub(super) fn value(self) -> f64 {
        self.high + self.low
    }

    /// What is left after a product is taken away, where this and the product are close (Dekker, "A floating-point
    /// technique for extending the available precision", 1971).
    #[inline]
    pub(super) fn minus(self, factor: f64, of: Self) -> Self {
        let (product, lost) = product(factor, of.high);
        let high = self.high - product;
        // What the subtraction lost (Knuth's sum).
        let part = high - self.high;
        let error = (self.high - (high - part)) - (product + part);
        Self { high, low: error + (self.low - lost - factor * of.low) }
    }
}

/// A product, and what its rounding lost.
#[inline]
fn product(a: f64, b: f64) -> (f64, f64) {
    // Veltkamp's splitting: halves whose products are exact.
    let split = |x: f64| {
        let wide = 134_217_729.0 * x;
        let high = wide - (wide - x);
        (high, x - high)
    };
    let whole = a * b;
    let ((a_high, a_low), (b_high, b_low)) = (split(a), split(b));
    let lost = a_low * b_low - (((whole - a_high * b_high) - a_low * b_high) - a_high * b_low);
    (whole, lost)
}

/// Sums of terms.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// How many there are.
    len: usize,
    /// The place of each sum's first limb: its unit is 2^(64 low).
    low: i32,
    /// How many limbs each has.
    width: usize,
    limbs: Vec<u64>,
}

impl Sums {
    /// So many sums of nothing.
    pub(super) fn new(len: usize) -> Self {
        Self { len, low: 0, width: 0, limbs: Vec::new() }
    }

    /// How many sums there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a term to a sum. It is taken back by adding it negated.
    #[inline]
    pub(super) fn add(&mut self, at: usize, term: Term) {
        if term.whole == 0 {
            return;
        }
        let bits = 128 - term.whole.leading_zeros() as i32;
        let place = term.exponent - LIMB * self.low;
        // Two bits are left for the sign and a carry, by the term and by the sum.
        let fits = place >= 0 && place + bits <= LIMB * self.width as i32 - 2 && {
            let top = self.limbs[(at + 1) * self.width - 1];
            (top ^ (top << 1)) >> 63 == 0
        };
        if !fits {
            self.widen(at, term.exponent, term.exponent + bits);
        }
        let place = (term.exponent - LIMB * self.low) as u32;
        let (first, shift) = ((place / 64) as usize, place % 64);
        let low = term.whole << shift;
        let spilt = if shift == 0 { 0 } else { (term.whole >> (128 - shift)) as u64 };
        let mask = if term.negative { u64::MAX } else { 0 };
        let mut carry = term.negative;
        let limbs = &mut self.limbs[at * self.width..(at + 1) * self.width][first..];
        for (at, limb) in limbs.iter_mut().enumerate() {
            let part = match at {
                0 => low as u64,
                1 => (low >> 64) as u64,
                2 => spilt,
                _ => 0,
            };
            let (sum, one) = limb.overflowing_add(part ^ mask);
            let (sum, other) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = one | other;
        }
    }

    /// Makes all sums wide enough for a term from one bit to before another, and for one more bit of sum `at`.
    #[cold]
    #[inline(never)]
    fn widen(&mut self, at: usize, first: i32, end: i32) {
        let (mut low, mut high) = (first.div_euclid(LIMB), (end + 2 + LIMB - 1).div_euclid(LIMB));
        if self.width > 0 {
            let top = self.limbs[(at + 1) * self.width - 1];
            let full = (top ^ (top << 1)) >> 63 != 0;
            let own = self.low + self.width as i32 + i32::from(full);
            (low, high) = (low.min(self.low), high.max(own));
        }
        self.resize(low, (high - low) as usize);
    }

    /// Gives all sums other limbs, which must hold them.
    fn resize(&mut self, low: i32, width: usize) {
        let mut limbs = vec![0; self.len * width];
        if self.width > 0 {
            let shift = (low - self.low) as isize;
            for (old, new) in self.limbs.chunks_exact(self.width).zip(limbs.chunks_exact_mut(width.max(1))) {
                let sign = sign(old);
                for (place, limb) in new.iter_mut().enumerate() {
                    let from = place as isize + shift;
                    *limb = if from < 0 { 0 } else { old.get(from as usize).copied().unwrap_or(sign) };
                }
            }
        }
        (self.low, self.width, self.limbs) = (low, width, limbs);
    }

    /// A sum, to some 106 binary digits: a function of the sum alone.
    #[inline]
    pub(super) fn double(&self, at: usize) -> Double {
        if self.width == 0 {
            return Double::default();
        }
        let limbs = &self.limbs[at * self.width..(at + 1) * self.width];
        let sign = sign(limbs);
        let mut top = self.width - 1;
        while top > 0 && limbs[top] == sign && limbs[top - 1] >> 63 == sign & 1 {
            top -= 1;
        }
        let below = |by: usize| if top < by { 0 } else { limbs[top - by] };
        let unit = power((LIMB * (self.low + top as i32 - 1)).clamp(-1022, 1000));
        let whole = i128::from(limbs[top] as i64) << 64 | i128::from(below(1));
        let high = whole as f64;
        let rest = whole.wrapping_sub(high as i128);
        let rest =
            if rest == i128::from(rest as i64) { rest as i64 as f64 } else { (rest >> 11) as i64 as f64 * 2048.0 };
        let low = rest + below(2) as f64 * power(-64);
        Double { high: high * unit, low: low * unit }
    }

    /// A sum.
    #[inline]
    pub(super) fn value(&self, at: usize) -> f64 {
        self.double(at).value()
    }

    /// The place of the first limb, and the number of limbs, that all sums together need at least.
    fn needed(&self) -> (i32, usize) {
        if self.width == 0 {
            return (0, 0);
        }
        let (mut first, mut end) = (self.width, 0);
        for limbs in self.limbs.chunks_exact(self.width) {
            let Some(lowest) = limbs.iter().position(|limb| *limb != 0) else { continue };
            let sign = sign(limbs);
            let mut top = self.width - 1;
            while top > 0 && limbs[top] == sign && limbs[top - 1] >> 63 == sign & 1 {
                top -= 1;
            }
            (first, end) = (first.min(lowest), end.max(top + 1));
        }
        if first < end { (self.low + first as i32, end - first) } else { (0, 0) }
    }
}

/// What stands, as it were, above the last limb.
#[inline]
fn sign(limbs: &[u64]) -> u64 {
    if limbs.last().is_some_and(|top| top >> 63 == 1) { u64::MAX } else { 0 }
}

impl PartialEq for Sums {
    fn eq(&self, other: &Self) -> bool {
        let trimmed = |sums: &Self| {
            let (low, width) = sums.needed();
            let mut sums = sums.clone();
            sums.resize(low, width);
            (sums.len, low, width, sums.limbs)
        };
        trimmed(self) == trimmed(other)
    }
}

impl Serialize for Sums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, width) = self.needed();
        if (low, width) == (self.low, self.width) {
            return (self.len, low, width, &self.limbs).serialize(serializer);
        }
        let mut trimmed = self.clone();
        trimmed.resize(low, width);
        (self.len, low, width, trimmed.limbs).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (len, low, width, limbs): (usize, i32, usize, Vec<u64>) = Deserialize::deserialize(deserializer)?;
        let places = PLACES.contains(&low) && i64::try_from(width).is_ok_and(|w| w <= i64::from(PLACES.end - low));
        if !places || len.checked_mul(width) != Some(limbs.len()) {
            return Err(D::Error::custom("exact sums of impossible lengths"));
        }
        Ok(Self { len, low, width, limbs })
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Random;
    use super::*;

    /// Of any magnitude that counts exactly, extremes and whole numbers included.
    fn float(random: &mut Random) -> f64 {
        match random.below(8) {
            0 => random.below(100) as f64,
            1 => 0.0,
            2 => f64::MAX * random.signed(),
            _ => libm::ldexp(random.signed(), random.below(560) as i32 - 280),
        }
    }

    fn weight(random: &mut Random) -> Number {
        Number::weight(match random.below(3) {
            0 => 1.0,
            1 => random.below(50) as f64,
            _ => libm::ldexp(random.uniform(), random.below(90) as i32 - 45),
        })
    }

    fn bytes(sums: &Sums) -> Vec<u8> {
        postcard::to_stdvec(sums).expect("numbers can be written")
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        for seed in 0..60 {
            let mut random = Random::seeded(seed);
            let mut terms = |count| -> Vec<(usize, f64, f64, Number)> {
                let mut term = || (random.below(5), float(&mut random), float(&mut random), weight(&mut random));
                (0..count).map(|_| term()).collect()
            };
            let (kept, gone) = (terms(seed as usize), terms(30));
            let (mut sums, mut only) = (Sums::new(5), Sums::new(5));
            let add = |sums: &mut Sums, &(at, x, y, weight): &(usize, f64, f64, Number)| {
                sums.add(at, Number::of(x).weighted(weight).times(Number::of(y)));
            };
            gone.iter().chain(&kept).for_each(|term| add(&mut sums, term));
            gone.iter().rev().for_each(|&(at, x, y, w)| add(&mut sums, &(at, x, y, w.negated())));
            kept.iter().rev().for_each(|term| add(&mut only, term));
            assert_eq!(bytes(&sums), bytes(&only));
            assert!(sums == only);
            for at in 0..5 {
                assert_eq!(sums.double(at), only.double(at), "a width must not show");
            }
            let restored: Sums = postcard::from_bytes(&bytes(&sums)).expect("what was written");
            assert_eq!(bytes(&restored), bytes(&sums));
        }
    }

    #[test]
    fn sums_are_those_of_wide_integers() {
        for seed in 0..60 {
            let mut random = Random::seeded(seed);
            let (mut sums, mut expected) = (Sums::new(2), [0_i128; 2]);
            for _ in 0..300 {
                let (at, times) = (random.below(2), 1 + random.below(1 << 20) as i128);
                let x = random.below(1 << 50) as i128 - (1 << 49);
                sums.add(at, Number::of(x as f64).weighted(Number::weight(times as f64)));
                expected[at] += x * times;
                let Double { high, low } = sums.double(at);
                assert_eq!(high as i128 + low as i128, expected[at]);
                assert!(low == 0.0 || low.abs() < high.abs() * 1e-15);
            }
        }
    }

    #[test]
    fn sums_keep_what_floats_lose() {
        let cases: [(&[f64], f64); 8] = [
            (&[1e80, 1.0, -1e80], 1.0),
            (&[1e16, 1.0, 1.0, 1.0, -1e16], 3.0),
            (&[0.1; 10], 1.0),
            (&[-0.5, 0.25], -0.25),
            (&[-1.0, -1.0, -1.0], -3.0),
            (&[f64::MAX, 1e-80, f64::MIN], 1e-80),
            (&[5e-324, 1e-120], 0.0),
            (&[], 0.0),
        ];
        for (values, expected) in cases {
            let mut sums = Sums::new(1);
            values.iter().for_each(|value| sums.add(0, Number::of(*value).term()));
            assert_eq!(sums.value(0).to_bits(), expected.to_bits(), "{values:?}");
        }
    }

    #[test]
    fn weights_count_in_seven_digits() {
        for (weight, counted) in [
            (1.0, 1.0),
            (4_000_001.0, 4_000_001.0),
            (0.1, 0.1),
            (1e300, 1_099_511_627_776.0),
            (1e-300, 0.0),
            (0.0, 0.0),
            (f64::from_bits(0x3fff_ffff_ffff_ffff), 2.0),
        ] {
            let got = Number::weight(weight).value();
            assert!((got - counted).abs() <= counted * 1.2e-7, "{weight}: {got}");
        }
        assert!(Number::weight(1e-300).is_zero());
    }

    #[test]
    fn differences_of_close_products_keep_their_digits() {
        // Deviations of 30 around 1e9: squares of 1e18, of which a float keeps not even the hundreds.
        let (mut sums, one) = (Sums::new(2), Number::of(1.0));
        for x in [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0] {
            let term = Number::of(x).weighted(one);
            sums.add(0, term);
            sums.add(1, term.times(Number::of(x)));
        }
        let left = sums.double(1).minus(1e9 + 10.0, sums.double(0));
        assert_eq!(left.value(), 90.0);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for (len, low, width, limbs) in [(2, 0, 1, 1), (1, -99, 1, 1), (1, 0, 99, 99), (usize::MAX, 0, 3, 1)] {
            let bytes = postcard::to_stdvec(&(len, low, width, vec![0_u64; limbs])).unwrap();
            assert!(postcard::from_bytes::<Sums>(&bytes).is_err(), "{len} {low} {width}");
        }
    }
}
