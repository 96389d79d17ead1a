//! Operators on each element by itself, or on elements of several arrays that are in the same place.

use std::cmp::Ordering;

use super::super::node::{Inputs, Kernel, Node};
use super::super::value::{Data, Done, Value, for_any, for_floats, for_numbers};
use super::Build;
use super::functions::{Float, Number};
use super::walk::{pairs, stretched, together, walk};

/// Which function an operator is, with its settings.
#[derive(Clone, Copy)]
enum Function {
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Erf,
    Sin,
    Cos,
    Tan,
    Atan,
    LeakyRelu(f64),
    ThresholdedRelu(f64),
    Elu(f64),
    Selu(f64, f64),
    Celu(f64),
    Gelu,
    GeluTanh,
    Sigmoid,
    HardSigmoid(f64, f64),
    HardSwish,
    Swish,
    Mish,
    Tanh,
    Softplus,
    Softsign,
    Floor,
    Ceil,
    Round,
}

pub(super) fn find(name: &str) -> Option<Build> {
    Some(match name {
        "Exp" => |_| float(Function::Exp),
        "Log" => |_| float(Function::Log),
        "Sqrt" => |_| float(Function::Sqrt),
        "Reciprocal" => |_| float(Function::Reciprocal),
        "Erf" => |_| float(Function::Erf),
        "Sin" => |_| float(Function::Sin),
        "Cos" => |_| float(Function::Cos),
        "Tan" => |_| float(Function::Tan),
        "Atan" => |_| float(Function::Atan),
        "LeakyRelu" => |node| float(Function::LeakyRelu(node.float("alpha", 0.01).into())),
        "ThresholdedRelu" => |node| float(Function::ThresholdedRelu(node.float("alpha", 1.0).into())),
        "Elu" => |node| float(Function::Elu(node.float("alpha", 1.0).into())),
        "Selu" => |node| {
            let (alpha, gamma) = (node.float("alpha", 1.673_263_2), node.float("gamma", 1.050_701));
            float(Function::Selu(alpha.into(), gamma.into()))
        },
        "Celu" => |node| float(Function::Celu(node.float("alpha", 1.0).into())),
        "Gelu" => |node| match node.text("approximate", "none") {
            "none" => float(Function::Gelu),
            "tanh" => float(Function::GeluTanh),
            other => Err(format!("its `approximate` is `{other}`, which is not known")),
        },
        "Sigmoid" => |_| float(Function::Sigmoid),
        "HardSigmoid" => {
            |node| float(Function::HardSigmoid(node.float("alpha", 0.2).into(), node.float("beta", 0.5).into()))
        }
        "HardSwish" => |_| float(Function::HardSwish),
        "Swish" => |_| float(Function::Swish),
        "Mish" => |_| float(Function::Mish),
        "Tanh" => |_| float(Function::Tanh),
        "Softplus" => |_| float(Function::Softplus),
        "Softsign" => |_| float(Function::Softsign),
        "Floor" => |_| float(Function::Floor),
        "Ceil" => |_| float(Function::Ceil),
        "Round" => |_| float(Function::Round),
        "Neg" => |_| Ok(Box::new(|inputs, out| number(inputs, out, Sign::Neg))),
        "Abs" => |_| Ok(Box::new(|inputs, out| number(inputs, out, Sign::Abs))),
        "Sign" => |_| Ok(Box::new(|inputs, out| number(inputs, out, Sign::Of))),
        "Relu" => |_| Ok(Box::new(|inputs, out| number(inputs, out, Sign::Relu))),
        "IsNaN" => |_| Ok(Box::new(|inputs, out| test(inputs, out, true))),
        "IsInf" => |_| Ok(Box::new(|inputs, out| test(inputs, out, false))),
        "Not" => |_| Ok(Box::new(not)),
        "Clip" => clip,
        "PRelu" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::PRelu))),
        "Add" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::Add))),
        "Sub" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::Sub))),
        "Mul" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::Mul))),
        "Div" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::Div))),
        "Pow" => |_| Ok(Box::new(|inputs, out| arithmetic(inputs, out, Arithmetic::Pow))),
        "Mod" => |node| {
            let kind = if node.int("fmod", 0) == 0 { Arithmetic::Modulo } else { Arithmetic::Remainder };
            Ok(Box::new(move |inputs, out| arithmetic(inputs, out, kind)))
        },
        "Min" => |_| Ok(Box::new(|inputs, out| several(inputs, out, Arithmetic::Min))),
        "Max" => |_| Ok(Box::new(|inputs, out| several(inputs, out, Arithmetic::Max))),
        "Sum" => |_| Ok(Box::new(|inputs, out| several(inputs, out, Arithmetic::Add))),
        "Mean" => |_| Ok(Box::new(mean)),
        "Equal" => |_| Ok(Box::new(equal)),
        "Less" => |_| Ok(Box::new(|inputs, out| compare(inputs, out, |order| order.is_some_and(Ordering::is_lt)))),
        "Greater" => |_| Ok(Box::new(|inputs, out| compare(inputs, out, |order| order.is_some_and(Ordering::is_gt)))),
        "LessOrEqual" => {
            |_| Ok(Box::new(|inputs, out| compare(inputs, out, |order| order.is_some_and(Ordering::is_le))))
        }
        "GreaterOrEqual" => {
            |_| Ok(Box::new(|inputs, out| compare(inputs, out, |order| order.is_some_and(Ordering::is_ge))))
        }
        "And" => |_| Ok(Box::new(|inputs, out| logic(inputs, out, |a, b| a & b))),
        "Or" => |_| Ok(Box::new(|inputs, out| logic(inputs, out, |a, b| a | b))),
        "Xor" => |_| Ok(Box::new(|inputs, out| logic(inputs, out, |a, b| a ^ b))),
        "Where" => |_| Ok(Box::new(choose)),
        _ => return None,
    })
}

fn float(function: Function) -> Done<Kernel> {
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        for_floats!(input, T => {
            apply::<T>(function, input.as_of()?, out[0].shaped(input.dims));
            Ok(())
        })
    }))
}

/// The function of each number.
fn apply<T: Float>(function: Function, input: &[T], out: &mut [T]) {
    #[inline]
    fn each<T: Copy>(input: &[T], out: &mut [T], function: impl Fn(T) -> T) {
        out.iter_mut().zip(input).for_each(|(out, input)| *out = function(*input));
    }
    let (zero, one) = (T::ZERO, T::ONE);
    match function {
        Function::Exp => each(input, out, T::exponential),
        Function::Log => each(input, out, T::logarithm),
        Function::Sqrt => each(input, out, T::root),
        Function::Reciprocal => each(input, out, |x| one.div(x)),
        Function::Erf => each(input, out, T::error_function),
        Function::Sin => each(input, out, T::sine),
        Function::Cos => each(input, out, T::cosine),
        Function::Tan => each(input, out, T::tangent),
        Function::Atan => each(input, out, T::arc_tangent),
        Function::LeakyRelu(alpha) => {
            let alpha = T::of(alpha);
            each(input, out, |x| if x < zero { x.mul(alpha) } else { x });
        }
        Function::ThresholdedRelu(alpha) => {
            let alpha = T::of(alpha);
            each(input, out, |x| if x > alpha { x } else { zero });
        }
        Function::Elu(alpha) => {
            let alpha = T::of(alpha);
            each(input, out, |x| if x < zero { alpha.mul(x.exponential_m1()) } else { x });
        }
        Function::Selu(alpha, gamma) => {
            let (alpha, gamma) = (T::of(alpha), T::of(gamma));
            each(input, out, |x| gamma.mul(if x > zero { x } else { alpha.mul(x.exponential_m1()) }));
        }
        Function::Celu(alpha) => {
            let alpha = T::of(alpha);
            each(input, out, |x| x.larger(zero).add(alpha.mul(x.div(alpha).exponential_m1()).smaller(zero)));
        }
        Function::Gelu => {
            let (half, root) = (T::of(0.5), T::of(std::f64::consts::FRAC_1_SQRT_2));
            each(input, out, |x| half.mul(x).mul(one.add(x.mul(root).error_function())));
        }
        Function::GeluTanh => {
            let (half, scale, cube) = (T::of(0.5), T::of(0.797_884_560_802_865_4), T::of(0.044_715));
            let inner = |x: T| scale.mul(x.add(cube.mul(x).mul(x).mul(x)));
            each(input, out, |x| half.mul(x).mul(one.add(inner(x).hyperbolic_tangent())));
        }
        Function::Sigmoid => each(input, out, T::sigmoid),
        Function::HardSigmoid(alpha, beta) => {
            let (alpha, beta) = (T::of(alpha), T::of(beta));
            each(input, out, |x| alpha.mul(x).add(beta).smaller(one).larger(zero));
        }
        Function::HardSwish => {
            let (sixth, half) = (T::of(1.0 / 6.0), T::of(0.5));
            each(input, out, |x| x.mul(sixth.mul(x).add(half).smaller(one).larger(zero)));
        }
        Function::Swish => each(input, out, |x| x.mul(x.sigmoid())),
        Function::Mish => each(input, out, |x| x.mul(softplus(x).hyperbolic_tangent())),
        Function::Tanh => each(input, out, T::hyperbolic_tangent),
        Function::Softplus => each(input, out, softplus),
        Function::Softsign => each(input, out, |x| x.div(one.add(x.magnitude()))),
        Function::Floor => each(input, out, T::lower),
        Function::Ceil => each(input, out, T::upper),
        Function::Round => each(input, out, T::nearest),
    }
}

/// The logarithm of 1 and an exponential.
fn softplus<T: Float>(x: T) -> T {
    x.larger(T::ZERO).add(x.magnitude().negated().exponential().logarithm_1p())
}

/// Functions that whole numbers have, too.
#[derive(Clone, Copy)]
enum Sign {
    Neg,
    Abs,
    Of,
    Relu,
}

fn number(inputs: &Inputs<'_>, out: &mut [Value], sign: Sign) -> Done {
    fn each<T: Number>(input: &[T], out: &mut [T], sign: Sign) {
        let pairs = out.iter_mut().zip(input);
        match sign {
            Sign::Neg => pairs.for_each(|(out, x)| *out = x.negated()),
            Sign::Abs => pairs.for_each(|(out, x)| *out = x.magnitude()),
            Sign::Of => pairs.for_each(|(out, x)| *out = x.sign()),
            // What is no number stays so.
            Sign::Relu => pairs.for_each(|(out, x)| *out = if *x < T::ZERO { T::ZERO } else { *x }),
        }
    }
    let input = inputs.get(0)?;
    for_numbers!(input, T => {
        each::<T>(input.as_of()?, out[0].shaped(input.dims), sign);
        Ok(())
    })
}

fn test(inputs: &Inputs<'_>, out: &mut [Value], of_nan: bool) -> Done {
    let input = inputs.get(0)?;
    for_floats!(input, T => {
        let each = out[0].shaped::<bool>(input.dims).iter_mut().zip(input.as_of::<T>()?);
        each.for_each(|(out, x)| *out = if of_nan { x.is_nan() } else { x.is_infinite() });
        Ok(())
    })
}

fn not(inputs: &Inputs<'_>, out: &mut [Value]) -> Done {
    let input = inputs.get(0)?;
    let each = out[0].shaped::<bool>(input.dims).iter_mut().zip(input.as_of::<bool>()?);
    each.for_each(|(out, x)| *out = !x);
    Ok(())
}

/// Of the first versions the bounds are settings, then they are inputs.
fn clip(node: &Node<'_>) -> Done<Kernel> {
    let (low, high) = (node.maybe_float("min"), node.maybe_float("max"));
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        for_numbers!(input, T => {
            let bound = |at: usize, setting: Option<f32>| -> Done<Option<T>> {
                match inputs.maybe(at) {
                    Some(bound) => bound.as_of::<T>()?.first().copied().map(Some).ok_or("a bound is empty".to_owned()),
                    None => Ok(setting.map(|bound| T::of(bound.into()))),
                }
            };
            let low = bound(1, low)?.unwrap_or(T::LEAST);
            let high = bound(2, high)?.unwrap_or(T::MOST);
            let each = out[0].shaped::<T>(input.dims).iter_mut().zip(input.as_of::<T>()?);
            each.for_each(|(out, x)| {
                let x = if *x < low { low } else { *x };
                *out = if x > high { high } else { x };
            });
            Ok(())
        })
    }))
}

/// Functions of two numbers.
#[derive(Clone, Copy)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Modulo,
    Remainder,
    Min,
    Max,
    PRelu,
}

fn arithmetic(inputs: &Inputs<'_>, out: &mut [Value], kind: Arithmetic) -> Done {
    let (left, mut right) = (inputs.get(0)?, inputs.get(1)?);
    let other;
    if matches!(kind, Arithmetic::Pow) && right.kind() != left.kind() {
        // The exponent may be of another type.
        other = cast_like(right, left)?;
        right = &other;
    }
    two(left, right, &mut out[0], kind)
}

fn cast_like(value: &Value, like: &Value) -> Done<Value> {
    let numbers = value.doubles()?;
    for_numbers!(like, T => Ok(Value::new::<T>(value.dims, numbers.into_iter().map(T::of).collect())))
}

fn two(left: &Value, right: &Value, out: &mut Value, kind: Arithmetic) -> Done {
    let dims = together(&left.dims, &right.dims)?;
    for_numbers!(left, T => {
        let (a, b) = ((&left.dims, left.as_of::<T>()?), (&right.dims, right.as_of::<T>()?));
        let out = (&dims, out.shaped::<T>(dims));
        match kind {
            Arithmetic::Add => pairs(a, b, out, |a, b| a.add(*b)),
            Arithmetic::Sub => pairs(a, b, out, |a, b| a.sub(*b)),
            Arithmetic::Mul => pairs(a, b, out, |a, b| a.mul(*b)),
            Arithmetic::Div => pairs(a, b, out, |a, b| a.div(*b)),
            Arithmetic::Pow => pairs(a, b, out, |a, b| a.power(*b)),
            Arithmetic::Modulo => pairs(a, b, out, |a, b| a.modulo(*b)),
            Arithmetic::Remainder => pairs(a, b, out, |a, b| a.remainder(*b)),
            Arithmetic::Min => pairs(a, b, out, |a, b| a.smaller(*b)),
            Arithmetic::Max => pairs(a, b, out, |a, b| a.larger(*b)),
            Arithmetic::PRelu => pairs(a, b, out, |a, b| if *a < T::ZERO { a.mul(*b) } else { *a }),
        }
        Ok(())
    })
}

/// A function of two numbers over any number of inputs, from the first on.
fn several(inputs: &Inputs<'_>, out: &mut [Value], kind: Arithmetic) -> Done {
    let first = inputs.get(0)?;
    match inputs.len() {
        1 => out[0].copy_as(first, first.dims),
        2 => two(first, inputs.get(1)?, &mut out[0], kind),
        _ => {
            let mut sum = first.clone();
            for at in 1..inputs.len() {
                let mut next = Value::default();
                two(&sum, inputs.get(at)?, &mut next, kind)?;
                sum = next;
            }
            out[0].copy_as(&sum, sum.dims)
        }
    }
}

fn mean(inputs: &Inputs<'_>, out: &mut [Value]) -> Done {
    several(inputs, out, Arithmetic::Add)?;
    let (sum, count) = (&mut out[0], inputs.len() as f64);
    match &mut sum.data {
        Data::F32(values) => values.iter_mut().for_each(|value| *value /= count as f32),
        Data::F64(values) => values.iter_mut().for_each(|value| *value /= count),
        _ => return Err("a mean is of float or double".to_owned()),
    }
    Ok(())
}

fn equal(inputs: &Inputs<'_>, out: &mut [Value]) -> Done {
    let (left, right) = (inputs.get(0)?, inputs.get(1)?);
    let dims = together(&left.dims, &right.dims)?;
    for_any!(left, T => {
        let (a, b) = ((&left.dims, left.as_of::<T>()?), (&right.dims, right.as_of::<T>()?));
        pairs(a, b, (&dims, out[0].shaped::<bool>(dims)), |a, b| a == b);
    });
    Ok(())
}

fn compare(inputs: &Inputs<'_>, out: &mut [Value], holds: fn(Option<Ordering>) -> bool) -> Done {
    let (left, right) = (inputs.get(0)?, inputs.get(1)?);
    let dims = together(&left.dims, &right.dims)?;
    for_numbers!(left, T => {
        let (a, b) = ((&left.dims, left.as_of::<T>()?), (&right.dims, right.as_of::<T>()?));
        pairs(a, b, (&dims, out[0].shaped::<bool>(dims)), |a, b| holds(a.partial_cmp(b)));
        Ok(())
    })
}

fn logic(inputs: &Inputs<'_>, out: &mut [Value], function: fn(bool, bool) -> bool) -> Done {
    let (left, right) = (inputs.get(0)?, inputs.get(1)?);
    let dims = together(&left.dims, &right.dims)?;
    let (a, b) = ((&left.dims, left.as_of::<bool>()?), (&right.dims, right.as_of::<bool>()?));
    pairs(a, b, (&dims, out[0].shaped::<bool>(dims)), |a, b| function(*a, *b));
    Ok(())
}

fn choose(inputs: &Inputs<'_>, out: &mut [Value]) -> Done {
    let (condition, yes, no) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
    let dims = together(&together(&yes.dims, &no.dims)?, &condition.dims)?;
    let holds = condition.as_of::<bool>()?;
    for_any!(yes, T => {
        let (yes_values, no_values) = (yes.as_of::<T>()?, no.as_of::<T>()?);
        let out = out[0].shaped::<T>(dims);
        let strides = [&condition.dims, &yes.dims, &no.dims].map(|from| stretched(from, &dims));
        let mut at = 0;
        walk(&dims, &strides, |[condition, yes, no]| {
            out[at].clone_from(if holds[condition] { &yes_values[yes] } else { &no_values[no] });
            at += 1;
        });
    });
    Ok(())
}
