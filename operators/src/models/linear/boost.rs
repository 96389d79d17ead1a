//! Longer steps for a while.

use serde::{Deserialize, Serialize};

/// A factor on steps that fades.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(in crate::models) struct Boost {
    /// The factor, less 1.
    more: f64,
    /// How much of that is left after each example.
    kept: f64,
}

/// Any larger factor is this one.
const FACTOR_MAX: f64 = 1000.0;

impl Boost {
    /// From now on `factor`, which fades over about `examples` examples.
    pub(in crate::models) fn start(factor: f64, examples: f64) -> Self {
        let more = if factor.is_finite() { factor.clamp(0.0, FACTOR_MAX) - 1.0 } else { 0.0 };
        Self { more, kept: 1.0 - 1.0 / examples.max(1.0) }
    }

    /// The factor for an example of this weight, which counts as so many.
    #[inline]
    pub(in crate::models) fn next(&mut self, weight: f64) -> f64 {
        if self.more == 0.0 {
            return 1.0;
        }
        let factor = 1.0 + self.more;
        self.more *= libm::pow(self.kept, weight);
        if self.more.abs() < 1e-3 {
            self.more = 0.0;
        }
        factor
    }
}

#[cfg(test)]
mod tests {
    use super::Boost;

    #[test]
    fn it_fades_over_so_many_examples_and_ends() {
        let mut boost = Boost::start(5.0, 100.0);
        let factors: Vec<f64> = (0..1000).map(|_| boost.next(1.0)).collect();
        assert!((factors[0] - 5.0).abs() < 1e-12);
        assert!((factors[100] - (1.0 + 4.0 / std::f64::consts::E)).abs() < 0.02, "{}", factors[100]);
        assert!((factors[999] - 1.0).abs() < 1e-12, "it ends");
        let mut double = Boost::start(5.0, 100.0);
        let doubled: Vec<f64> = (0..51).map(|_| double.next(2.0)).collect();
        assert!((doubled[50] - factors[100]).abs() < 1e-9);
        assert!((Boost::start(3.0, 0.0).next(1.0) - 3.0).abs() < 1e-12);
    }
}
