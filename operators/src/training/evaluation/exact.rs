//! Sums that do not depend on order, and from which terms can be taken back.

use serde::{Deserialize, Serialize};

/// A sum of numbers below about 10^19 in multiples of 2^-60: whole numbers, so nothing is ever rounded away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Exact(i128);

/// Terms beyond this count as this: the sum of 2^40 of them still fits.
const TERM_MAX: f64 = 1e7;
const UNIT: f64 = (1_u64 << 60) as f64;

impl Exact {
    /// By its whole and its other part: each fits a register, which a conversion at once does not.
    #[inline]
    fn term(value: f64) -> i128 {
        let value = value.clamp(-TERM_MAX, TERM_MAX);
        let whole = value as i64;
        (i128::from(whole) << 60) + i128::from(((value - whole as f64) * UNIT) as i64)
    }

    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        self.0 += Self::term(value);
    }

    #[inline]
    pub(super) fn take_back(&mut self, value: f64) {
        self.0 -= Self::term(value);
    }

    pub(super) fn value(self) -> f64 {
        self.0 as f64 / UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::samples::Random;

    #[test]
    fn a_term_is_its_multiple_of_the_unit() {
        let mut random = Random::seeded(3);
        let some = (0..2000).map(|_| random.normal() * (random.normal() * 8.0).exp());
        for value in some.chain([0.0, -0.0, 1.0, -1.0, 0.5, 1e-18, -1e-300, 1e7, -1e9, f64::INFINITY, f64::NAN]) {
            assert_eq!(Exact::term(value), (value.clamp(-TERM_MAX, TERM_MAX) * UNIT) as i128, "{value}");
        }
    }
}
