//! What numbers can do: the same on every machine, for transcendental functions come from `libm`.

use pulp::Arch;

use super::super::super::network::product::{Left, Product};
use super::super::value::Element;

/// Numbers that can be computed with.
pub(in super::super) trait Number: Element + Copy + PartialOrd + Send + Sync {
    const ZERO: Self;
    const ONE: Self;
    const LEAST: Self;
    const MOST: Self;

    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The quotient: of whole numbers rounded towards zero, and zero by zero.
    fn div(self, other: Self) -> Self;
    fn power(self, other: Self) -> Self;
    /// The remainder with the sign of the divisor.
    fn modulo(self, other: Self) -> Self;
    /// The remainder with the sign of the dividend.
    fn remainder(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    fn negated(self) -> Self;
    fn sign(self) -> Self;
    /// The larger one, and what is no number where one of them is none.
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    /// `out = left * right`, or that is added to it; `right` lies row after row.
    fn product(left: &[Self], right: &[Self], out: &mut [Self], size: Size, is_added: bool);
}

/// The sizes of a product: rows of the left one, its columns, and columns of the right one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Size {
    pub(in super::super) rows: usize,
    pub(in super::super) inner: usize,
    pub(in super::super) columns: usize,
}

/// Numbers with fractions.
pub(in super::super) trait Float: Number {
    fn exponential(self) -> Self;
    fn logarithm(self) -> Self;
    fn logarithm_1p(self) -> Self;
    fn exponential_m1(self) -> Self;
    fn root(self) -> Self;
    fn error_function(self) -> Self;
    fn hyperbolic_tangent(self) -> Self;
    fn sine(self) -> Self;
    fn cosine(self) -> Self;
    fn tangent(self) -> Self;
    fn arc_tangent(self) -> Self;
    fn lower(self) -> Self;
    fn upper(self) -> Self;
    /// To the nearest whole number, halves to the even one.
    fn nearest(self) -> Self;

    /// The logistic function.
    fn sigmoid(self) -> Self {
        Self::ONE.div(Self::ONE.add(self.negated().exponential()))
    }
}

macro_rules! float {
    ($type:ty, $product:expr, {$($name:ident: $function:path),*}) => {
        impl Number for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LEAST: Self = <$type>::NEG_INFINITY;
            const MOST: Self = <$type>::INFINITY;

            fn of(value: f64) -> Self {
                value as Self
            }

            fn wide(self) -> f64 {
                f64::from(self)
            }

            #[inline]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline]
            fn sub(self, other: Self) -> Self {
                self - other
            }

            #[inline]
            fn mul(self, other: Self) -> Self {
                self * other
            }

            #[inline]
            fn div(self, other: Self) -> Self {
                self / other
            }

            fn power(self, other: Self) -> Self {
                if other == 2.0 { self * self } else { libm::pow(f64::from(self), f64::from(other)) as Self }
            }

            fn modulo(self, other: Self) -> Self {
                let rest = self % other;
                if rest != 0.0 && (rest < 0.0) != (other < 0.0) { rest + other } else { rest }
            }

            fn remainder(self, other: Self) -> Self {
                self % other
            }

            #[inline]
            fn magnitude(self) -> Self {
                <$type>::abs(self)
            }

            #[inline]
            fn negated(self) -> Self {
                -self
            }

            fn sign(self) -> Self {
                if self > 0.0 { 1.0 } else if self < 0.0 { -1.0 } else { self }
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                if self > other || self != self { self } else { other }
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                if self < other || self != self { self } else { other }
            }

            fn product(left: &[Self], right: &[Self], out: &mut [Self], size: Size, is_added: bool) {
                $product(left, right, out, size, is_added);
            }
        }

        impl Float for $type {
            $(#[inline]
            fn $name(self) -> Self {
                $function(self)
            })*

            fn root(self) -> Self {
                <$type>::sqrt(self)
            }
        }
    };
}

float!(f32, single, {
    exponential: libm::expf, logarithm: libm::logf, logarithm_1p: libm::log1pf, exponential_m1: libm::expm1f, error_function: libm::erff, hyperbolic_tangent: libm::tanhf,
    sine: libm::sinf, cosine: libm::cosf, tangent: libm::tanf, arc_tangent: libm::atanf, lower: libm::floorf, upper: libm::ceilf,
    nearest: libm::rintf
});
float!(f64, double, {
    exponential: libm::exp, logarithm: libm::log, logarithm_1p: libm::log1p, exponential_m1: libm::expm1, error_function: libm::erf, hyperbolic_tangent: libm::tanh,
    sine: libm::sin, cosine: libm::cos, tangent: libm::tan, arc_tangent: libm::atan, lower: libm::floor, upper: libm::ceil,
    nearest: libm::rint
});

impl Number for i64 {
    const ZERO: Self = 0;
    const ONE: Self = 1;
    const LEAST: Self = Self::MIN;
    const MOST: Self = Self::MAX;

    fn of(value: f64) -> Self {
        value as Self
    }

    fn wide(self) -> f64 {
        self as f64
    }

    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn mul(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }

    fn div(self, other: Self) -> Self {
        if other == 0 { 0 } else { self.wrapping_div(other) }
    }

    fn power(self, other: Self) -> Self {
        u32::try_from(other).map_or(0, |other| self.wrapping_pow(other))
    }

    fn modulo(self, other: Self) -> Self {
        let rest = self.remainder(other);
        if rest != 0 && (rest < 0) != (other < 0) { rest + other } else { rest }
    }

    fn remainder(self, other: Self) -> Self {
        if other == 0 { 0 } else { self.wrapping_rem(other) }
    }

    fn magnitude(self) -> Self {
        self.wrapping_abs()
    }

    fn negated(self) -> Self {
        self.wrapping_neg()
    }

    fn sign(self) -> Self {
        Self::signum(self)
    }

    fn larger(self, other: Self) -> Self {
        self.max(other)
    }

    fn smaller(self, other: Self) -> Self {
        self.min(other)
    }

    fn product(left: &[Self], right: &[Self], out: &mut [Self], Size { inner, columns, .. }: Size, is_added: bool) {
        for (at, out) in out.iter_mut().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let term = |at: usize| left[row * inner + at].wrapping_mul(right[at * columns + column]);
            *out = (0..inner).fold(if is_added { *out } else { 0 }, |sum, at| sum.wrapping_add(term(at)));
        }
    }
}

fn single(left: &[f32], right: &[f32], out: &mut [f32], Size { rows, inner, columns }: Size, is_added: bool) {
    if rows > 0 && columns > 0 {
        Product { left: Left::Rows(left, inner), right, out, rows, inner, columns, is_added }.run(1);
    }
}

/// The same chains of fused multiply-adds as those of single precision: a row has the same result alone and among others.
fn double(left: &[f64], right: &[f64], out: &mut [f64], Size { inner, columns, .. }: Size, is_added: bool) {
    if !is_added {
        out.fill(0.0);
    }
    if inner == 0 || columns == 0 {
        return;
    }
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (left, out) in left.chunks_exact(inner).zip(out.chunks_exact_mut(columns)) {
                for (left, right) in left.iter().zip(right.chunks_exact(columns)) {
                    out.iter_mut().zip(right).for_each(|(out, right)| *out = left.mul_add(*right, *out));
                }
            }
        },
    );
}
