//! Sums that are exact: what was added can be subtracted again without a trace, in any order.

use serde::{Deserialize, Serialize};

/// Bits of a limb.
const LIMB: i32 = 32;
/// The exponent of the least positive float's only bit.
const LEAST: i32 = -1074;
/// So many changes cannot make a limb overflow: each adds less than 2^32 to one of 2^63.
const CHANGES_MAX: u32 = 1 << 30;

/// The exact sum of finite floats, as a fixed-point number as wide as it has to be.
///
/// The idea is Kulisch's long accumulator ("Computer Arithmetic and Validity", 2008), here only from its lowest to its highest
/// limb in use. A sum that went through additions and subtractions is the sum of what is left, bit for bit; a float that does the
/// same drifts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Exact {
    /// The place of the first limb: it counts 2^(32 place - 1074).
    low: u16,
    limbs: Vec<i64>,
    changes: u32,
}

impl Exact {
    /// Adds a finite value.
    pub(super) fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormal numbers have no hidden bit, and the exponent of the least normal ones.
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        if mantissa == 0 {
            return;
        }
        let first = (shift / LIMB) as usize;
        let wide = u128::from(mantissa) << (shift % LIMB);
        let sign = if value < 0.0 { -1 } else { 1 };
        let limbs = self.reach(first, first + 3);
        for (part, limb) in limbs.iter_mut().enumerate() {
            *limb += sign * i64::from((wide >> (LIMB * part as i32)) as u32);
        }
        self.changes += 1;
        if self.changes == CHANGES_MAX {
            self.carry();
        }
    }

    /// Takes back a value that was added.
    pub(super) fn remove(&mut self, value: f64) {
        self.add(-value);
    }

    /// Adds another sum.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        let first = usize::from(other.low);
        for (limb, more) in self.reach(first, first + other.limbs.len()).iter_mut().zip(&other.limbs) {
            *limb += more;
        }
        self.changes = 2;
    }

    /// The sum, rounded once.
    pub(super) fn value(&self) -> f64 {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs.last().is_some_and(|limb| *limb < 0);
        if negative {
            sum.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            sum.carry();
        }
        let Some(top) = sum.limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
        // Four limbs hold more bits than a float; what is below only decides ties.
        let (below, above) = sum.limbs[..=top].split_at((top + 1).saturating_sub(4));
        let mut wide = above.iter().rev().fold(0_u128, |wide, limb| wide << LIMB | u128::from(*limb as u32));
        if below.iter().any(|limb| *limb != 0) {
            wide |= 1;
        }
        let place = i32::from(sum.low) + below.len() as i32;
        let value = libm::ldexp(wide as f64, place * LIMB + LEAST);
        if negative { -value } else { value }
    }

    /// The sum as two floats, of which the second is what the first leaves.
    fn double(&self) -> (f64, f64) {
        let high = self.value();
        let mut rest = self.clone();
        if high.is_finite() {
            rest.remove(high);
        }
        (high, rest.value())
    }

    /// The limbs from `first` to before `end`, which are made if they are not there.
    fn reach(&mut self, first: usize, end: usize) -> &mut [i64] {
        if self.limbs.is_empty() {
            self.low = first as u16;
        }
        let low = usize::from(self.low);
        if first < low {
            self.limbs.splice(0..0, std::iter::repeat_n(0, low - first));
            self.low = first as u16;
        }
        let low = usize::from(self.low);
        if self.limbs.len() < end - low {
            self.limbs.resize(end - low, 0);
        }
        &mut self.limbs[first - low..end - low]
    }

    /// Brings all limbs but the last into [0, 2^32).
    fn carry(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs {
            let whole = *limb + carry;
            (carry, *limb) = (whole >> LIMB, whole & 0xffff_ffff);
        }
        if carry == -1 {
            // The sign stays in the last limb.
            if let Some(last) = self.limbs.last_mut() {
                *last -= 1 << LIMB;
            }
        } else if carry != 0 {
            self.limbs.push(carry);
        }
        self.changes = 1;
    }
}

/// The variance of what is left after any additions and removals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ExactMoments {
    count: u64,
    sum: Exact,
    squares: Exact,
}

impl ExactMoments {
    /// Adds a finite value; one whose square is not finite is left out, here and in [`ExactMoments::remove`].
    pub(super) fn add(&mut self, value: f64) {
        if (value * value).is_finite() {
            self.count += 1;
            self.sum.add(value);
            self.squares.add(value * value);
            self.squares.add(value.mul_add(value, -(value * value)));
        }
    }

    /// Takes back a value that was added.
    pub(super) fn remove(&mut self, value: f64) {
        if (value * value).is_finite() {
            self.count = self.count.saturating_sub(1);
            self.sum.remove(value);
            self.squares.remove(value * value);
            self.squares.remove(value.mul_add(value, -(value * value)));
        }
    }

    /// Adds what another has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// The sample variance, once there are two values.
    pub(super) fn variance(&self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        let count = self.count as f64;
        let ((sum, sum_rest), (squares, squares_rest)) = (self.sum.double(), self.squares.double());
        // The sum's square over the count, in two floats: the difference to the squares is small beside either.
        let square = sum * sum;
        let lost = sum.mul_add(sum, -square) + 2.0 * sum * sum_rest;
        let share = square / count;
        let share_rest = ((-share).mul_add(count, square) + lost) / count;
        let deviations = (squares - share) + (squares_rest - share_rest);
        Some(deviations.max(0.0) / (count - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Random;
    use super::*;

    fn float(random: &mut Random) -> f64 {
        let mantissa = random.below(1 << 53) as f64 - (1_u64 << 52) as f64;
        libm::ldexp(mantissa, random.below(120) as i32 - 90)
    }

    #[test]
    fn what_is_removed_leaves_no_trace() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (kept, gone): (Vec<f64>, Vec<f64>) = (0..40).map(|_| (float(&mut random), float(&mut random))).unzip();
            let (mut sum, mut only) = (ExactMoments::default(), ExactMoments::default());
            for value in gone.iter().chain(&kept) {
                sum.add(*value);
            }
            for value in gone.iter().rev() {
                sum.remove(*value);
            }
            for value in kept.iter().rev() {
                only.add(*value);
            }
            assert_eq!((sum.sum.value(), sum.variance()), (only.sum.value(), only.variance()), "seed {seed}");
        }
    }

    #[test]
    fn sums_are_rounded_once() {
        let sum = |values: &[f64]| {
            let mut sum = Exact::default();
            for value in values {
                sum.add(*value);
            }
            sum.value()
        };
        let cases: [(&[f64], f64); 8] = [
            (&[1e308, 1.0, -1e308], 1.0),
            (&[1e16, 1.0, 1.0, 1.0, -1e16], 3.0),
            (&[0.1; 10], 1.0),
            (&[-0.5, 0.25], -0.25),
            (&[5e-324, 5e-324, -5e-324], 5e-324),
            (&[f64::MAX, -f64::MAX, f64::MIN_POSITIVE], f64::MIN_POSITIVE),
            (&[], 0.0),
            // A half of the last digit, and a trace that decides the tie.
            (&[1.0, f64::EPSILON / 2.0, 1e-300], 1.0 + f64::EPSILON),
        ];
        for (values, expected) in cases {
            assert_eq!(sum(values).to_bits(), expected.to_bits(), "{values:?}");
        }
    }

    #[test]
    fn whole_numbers_agree_with_wide_integers() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let values: Vec<i64> = (0..200).map(|_| random.below(1 << 50) as i64 - (1 << 49)).collect();
            let (mut sum, mut halves) = (Exact::default(), [Exact::default(), Exact::default()]);
            for (at, value) in values.iter().enumerate() {
                sum.add(*value as f64);
                halves[at % 2].add(*value as f64);
            }
            let [mut one, other] = halves;
            one.merge(&other);
            let expected = values.iter().map(|value| i128::from(*value)).sum::<i128>() as f64;
            assert_eq!((sum.value(), one.value()), (expected, expected), "seed {seed}");
        }
    }

    #[test]
    fn close_large_values_keep_their_digits() {
        let mut moments = ExactMoments::default();
        for value in [4.0, 7.0, 13.0, 16.0] {
            moments.add(1e9 + value);
        }
        assert_eq!(moments.variance(), Some(30.0));
    }
}
