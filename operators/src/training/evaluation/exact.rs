//! Sums that do not depend on order, and from which terms can be taken back.

use serde::{Deserialize, Serialize};

/// A sum of numbers below about 10^19 in multiples of 2^-60: whole numbers, so nothing is ever rounded away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Exact(i128);

/// Terms beyond this count as this: the sum of 2^40 of them still fits.
const TERM_MAX: f64 = 1e7;
const UNIT: f64 = (1_u64 << 60) as f64;

impl Exact {
    fn term(value: f64) -> i128 {
        (value.clamp(-TERM_MAX, TERM_MAX) * UNIT) as i128
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
