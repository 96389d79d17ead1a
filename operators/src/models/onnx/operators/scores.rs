//! What classical models make of their scores.

use std::sync::Arc;

use super::super::node::Node;
use super::super::value::{Dims, Done, Value};
use super::functions::Number;
use super::matrices::softly;

/// What becomes of the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub(super) fn read(node: &Node<'_>) -> Done<Self> {
        Ok(match node.text("post_transform", "NONE") {
            "NONE" => Self::None,
            "SOFTMAX" => Self::Softmax,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => return Err(format!("its transformation `{other}` is not known")),
        })
    }

    /// The same by its number.
    pub(super) fn numbered(number: i64) -> Done<Self> {
        let all = [Self::None, Self::Softmax, Self::Logistic, Self::SoftmaxZero, Self::Probit];
        let found = usize::try_from(number).ok().and_then(|at| all.get(at).copied());
        found.ok_or_else(|| format!("its transformation {number} is not known"))
    }

    /// Of the scores of a row.
    pub(super) fn apply(self, scores: &mut [f64]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Self::Softmax => {
                let before = scores.to_vec();
                softly(&before, scores, (0, before.len(), 1), false);
            }
            // Zeros stay, and the others share what there is.
            Self::SoftmaxZero => {
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let apart =
                    |score: f64| if score.abs() > 1e-7 { libm::exp(score - most) } else { score * libm::exp(-most) };
                scores.iter_mut().for_each(|score| *score = apart(*score));
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }
}

pub(in super::super) fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-score))
}

/// The quantile of the normal distribution, as ONNX has it: by an approximation of the inverse error function (Winitzki, 2008).
fn probit(score: f64) -> f64 {
    let x = 2.0 * score - 1.0;
    let logarithm = libm::log((1.0 - x) * (1.0 + x));
    let (half, scale) = (2.0 / (std::f64::consts::PI * 0.147) + 0.5 * logarithm, logarithm / 0.147);
    let root = ((half * half - scale).sqrt() - half).max(0.0).sqrt();
    std::f64::consts::SQRT_2 * root.copysign(x)
}

/// What classes are called.
#[derive(Clone, Debug)]
pub(super) enum Labels {
    Texts(Vec<Arc<str>>),
    Numbers(Vec<i64>),
}

impl Labels {
    /// Of a classifier; without names they are numbered.
    pub(super) fn read(node: &Node<'_>) -> Done<Self> {
        let texts = ["classlabels_strings", "classlabels_int64s", "classlabels_ints"];
        let named = node.texts(texts[0])?;
        if !named.is_empty() {
            return Ok(Self::Texts(named));
        }
        Ok(Self::Numbers(
            texts[1..].iter().map(|name| node.ints(name)).find(|of| !of.is_empty()).unwrap_or(&[]).to_vec(),
        ))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// The labels of rows whose classes have these numbers.
    pub(super) fn tell(&self, classes: &[usize], out: &mut Value) -> Done {
        let dims = Dims::of(&[classes.len()])?;
        let lacking = || "a class has no label".to_owned();
        match self {
            Self::Texts(texts) => {
                for (out, class) in out.shaped::<Arc<str>>(dims).iter_mut().zip(classes) {
                    *out = texts.get(*class).ok_or_else(lacking)?.clone();
                }
            }
            Self::Numbers(numbers) => {
                for (out, class) in out.shaped::<i64>(dims).iter_mut().zip(classes) {
                    *out = if numbers.is_empty() { *class as i64 } else { *numbers.get(*class).ok_or_else(lacking)? };
                }
            }
        }
        Ok(())
    }
}

/// Of a row of scores the largest, of equal ones the first.
pub(super) fn largest<T: Number>(scores: &[T]) -> usize {
    (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best })
}

/// A classifier's outputs: labels, and scores of single precision, `width` for each row.
pub(super) fn tell(
    labels: &Labels,
    out: &mut [Value],
    rows: usize,
    width: usize,
    mut row: impl FnMut(usize, &mut [f64]) -> usize,
) -> Done {
    let (mut scores, mut classes) = (vec![0.0; width], Vec::with_capacity(rows));
    let Some((label, rest)) = out.split_first_mut() else { return Ok(()) };
    let mut given = rest.first_mut().map(|given| Dims::of(&[rows, width]).map(|dims| given.shaped::<f32>(dims)));
    for at in 0..rows {
        scores.fill(0.0);
        classes.push(row(at, &mut scores));
        if let Some(Ok(given)) = &mut given {
            let given = &mut given[at * width..][..width];
            given.iter_mut().zip(&scores).for_each(|(out, score)| *out = *score as f32);
        }
    }
    given.transpose()?;
    labels.tell(&classes, label)
}
