//! Element-wise functions on the processor, and their slopes; exponentials come from `libm`.

// What is dispatched has the registers of the machine only where it is inlined.
#![allow(clippy::inline_always)]

use pulp::Arch;

use super::graph::Function;

/// The logistic function.
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

/// The argument of the hyperbolic tangent in GELU, and its derivative.
fn gelu_inner(x: f32) -> (f32, f32) {
    const SCALE: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    (SCALE * (x + CUBE * x * x * x), SCALE * (1.0 + 3.0 * CUBE * x * x))
}

impl Function {
    /// Of each number.
    pub(super) fn apply(self, input: &[f32], out: &mut [f32]) {
        let each = |function: fn(f32) -> f32, out: &mut [f32]| {
            out.iter_mut().zip(input).for_each(|(out, input)| *out = function(*input));
        };
        match self {
            Self::Relu => Arch::new().dispatch(
                #[inline(always)]
                || out.iter_mut().zip(input).for_each(|(out, input)| *out = if *input > 0.0 { *input } else { 0.0 }),
            ),
            Self::Silu => each(|x| x * sigmoid(x), out),
            Self::Gelu => each(|x| 0.5 * x * (1.0 + libm::tanhf(gelu_inner(x).0)), out),
            Self::Tanh => each(libm::tanhf, out),
            Self::Sigmoid => each(sigmoid, out),
        }
    }

    /// From the gradient of what it gives to that of what it got.
    pub(super) fn back(self, input: &[f32], given: &[f32], out: &[f32], gradient: &mut [f32], is_added: bool) {
        #[inline(always)]
        fn each(
            [input, given, out]: [&[f32]; 3],
            gradient: &mut [f32],
            is_added: bool,
            slope: impl Fn(f32, f32) -> f32,
        ) {
            let places = gradient.iter_mut().zip(out).zip(input.iter().zip(given));
            if is_added {
                places.for_each(|((sum, out), (x, y))| *sum += out * slope(*x, *y));
            } else {
                places.for_each(|((sum, out), (x, y))| *sum = out * slope(*x, *y));
            }
        }
        let from = [input, given, out];
        match self {
            Self::Relu => Arch::new().dispatch(
                #[inline(always)]
                || each(from, gradient, is_added, |x, _| if x > 0.0 { 1.0 } else { 0.0 }),
            ),
            Self::Silu => each(from, gradient, is_added, |x, y| {
                let part = sigmoid(x);
                part + y * (1.0 - part)
            }),
            Self::Gelu => each(from, gradient, is_added, |x, _| {
                let (inner, slope) = gelu_inner(x);
                let tanh = libm::tanhf(inner);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
            }),
            Self::Tanh => each(from, gradient, is_added, |_, y| 1.0 - y * y),
            Self::Sigmoid => each(from, gradient, is_added, |_, y| y * (1.0 - y)),
        }
    }
}
