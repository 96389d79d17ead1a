//! Natural logarithms of many probabilities at once.

/// How many are taken at once: several fit side by side into the registers.
pub(super) const BLOCK: usize = 64;

/// ln of each number, which is positive, finite and not subnormal; within 3e-16 of it or of its size.
///
/// With x = 2^k·m and m between sqrt(1/2) and sqrt(2), ln x is k·ln 2 + 2·artanh(s) with s = (m - 1)/(m + 1), of which s² is at most
/// 0.0295: ten terms of its series are enough. Only sums, products and quotients in a fixed order, and no branches: the same bits
/// everywhere, and a compiler takes several numbers at a time.
pub(super) fn ln(numbers: &mut [f64; BLOCK]) {
    for x in numbers {
        // The bits of x less those of sqrt(1/2) have k in their upper twelve.
        let bits = x.to_bits().wrapping_sub(HALF_ROOT);
        let m = f64::from_bits((bits & MANTISSA).wrapping_add(HALF_ROOT));
        // A whole number below 2^52 as the lower bits of 2^52 plus itself.
        let k = f64::from_bits(TWO_52 | ((bits >> 52) ^ 0x800)) - (TWO_52_VALUE + 2048.0);
        let s = (m - 1.0) / (m + 1.0);
        let square = s * s;
        let rest = SERIES.iter().fold(0.0, |rest, of| rest * square + of);
        // The small parts first.
        *x = k * LN_2_HIGH + (2.0 * s + (2.0 * s * (square * rest) + k * LN_2_LOW));
    }
}

const MANTISSA: u64 = (1 << 52) - 1;
const HALF_ROOT: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
const TWO_52: u64 = 0x4330_0000_0000_0000;
const TWO_52_VALUE: f64 = 4_503_599_627_370_496.0;
/// ln 2 without its last bits, so that small multiples are exact, and those.
const LN_2_HIGH: f64 = f64::from_bits(std::f64::consts::LN_2.to_bits() & !0xffff);
const LN_2_LOW: f64 = std::f64::consts::LN_2 - LN_2_HIGH;
/// Of artanh(s)/s - 1 by powers of s², the highest first.
const SERIES: [f64; 10] = [
    1.0 / 21.0,
    1.0 / 19.0,
    1.0 / 17.0,
    1.0 / 15.0,
    1.0 / 13.0,
    1.0 / 11.0,
    1.0 / 9.0,
    1.0 / 7.0,
    1.0 / 5.0,
    1.0 / 3.0,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::samples::Random;

    #[test]
    fn it_is_the_logarithm() {
        let mut random = Random::seeded(11);
        let near_one = [
            1.0,
            0.5,
            2.0,
            1.0 - f64::EPSILON / 2.0,
            1.0 + f64::EPSILON,
            std::f64::consts::FRAC_1_SQRT_2,
            1e-15,
            1e300,
        ];
        for round in 0..500 {
            let mut numbers: [f64; BLOCK] = std::array::from_fn(|at| match round {
                0 => near_one[at % near_one.len()],
                _ if round % 2 == 0 => random.uniform().max(1e-15),
                _ => (random.normal() * 40.0).exp(),
            });
            let wanted = numbers.map(libm::log);
            let of = numbers;
            ln(&mut numbers);
            for at in 0..BLOCK {
                let off = (numbers[at] - wanted[at]).abs();
                assert!(
                    off <= 3e-16 * wanted[at].abs().max(1.0),
                    "ln {}: {}, wanted {}",
                    of[at],
                    numbers[at],
                    wanted[at]
                );
            }
        }
    }
}
