//! Linear models, and those of support vectors, of the classical set.

use super::super::node::{Kernel, Node};
use super::super::value::{Data, Dims, Done, Value};
use super::functions::{Number, Size};
use super::scores::{Labels, Transform, largest, logistic, tell};

/// Rows of numbers in double precision, and how many columns they have.
pub(super) fn rows_of(value: &Value) -> Done<(Vec<f64>, usize, usize)> {
    let (rows, columns) = match *value.dims {
        [columns] => (1, columns),
        [rows, columns] => (rows, columns),
        _ => return Err(format!("it takes rows of numbers, and not {:?}", value.dims)),
    };
    Ok((value.doubles()?, rows, columns))
}

/// Sums with weights, for each of some targets: `[rows, targets]`.
struct Sums {
    /// `[features, targets]`
    weights: Vec<f64>,
    biases: Vec<f64>,
    features: usize,
    targets: usize,
}

impl Sums {
    fn read(node: &Node<'_>, targets: usize) -> Done<Self> {
        let (given, biases) = (node.floats("coefficients"), node.floats("intercepts"));
        if targets == 0 || given.is_empty() || !given.len().is_multiple_of(targets) {
            return Err(format!("it has {} coefficients for {targets} targets", given.len()));
        }
        if !biases.is_empty() && biases.len() != targets {
            return Err(format!("it has {} intercepts for {targets} targets", biases.len()));
        }
        let features = given.len() / targets;
        let weights = (0..given.len()).map(|at| f64::from(given[at % targets * features + at / targets])).collect();
        let biases = (0..targets).map(|at| biases.get(at).map_or(0.0, |bias| f64::from(*bias))).collect();
        Ok(Self { weights, biases, features, targets })
    }

    fn of(&self, input: &Value) -> Done<(Vec<f64>, usize)> {
        let (values, rows, columns) = rows_of(input)?;
        if columns != self.features {
            return Err(format!("it takes {} features, and not {columns}", self.features));
        }
        let mut sums = self.biases.repeat(rows);
        let size = Size { rows, inner: columns, columns: self.targets };
        f64::product(&values, &self.weights, &mut sums, size, true);
        Ok((sums, rows))
    }
}

pub(super) fn regressor(node: &Node<'_>) -> Done<Kernel> {
    let targets = usize::try_from(node.int("targets", 1)).unwrap_or_default();
    let (sums, transform) = (Sums::read(node, targets)?, Transform::read(node)?);
    Ok(Box::new(move |inputs, out| {
        let (mut scores, rows) = sums.of(inputs.get(0)?)?;
        scores.chunks_exact_mut(targets).for_each(|scores| transform.apply(scores));
        let out = out[0].shaped::<f32>(Dims::of(&[rows, targets])?);
        out.iter_mut().zip(scores).for_each(|(out, score)| *out = score as f32);
        Ok(())
    }))
}

pub(super) fn classifier(node: &Node<'_>) -> Done<Kernel> {
    let (labels, transform) = (Labels::read(node)?, Transform::read(node)?);
    // Of two classes it may have one score: that of the second.
    let intercepts = node.floats("intercepts").len();
    let targets = if intercepts > 0 { intercepts } else { labels.len() };
    let sums = Sums::read(node, targets)?;
    let is_one_of_two = targets == 1 && labels.len() == 2;
    if !is_one_of_two && targets < labels.len() {
        return Err(format!("it has {targets} scores for {} classes", labels.len()));
    }
    let width = if is_one_of_two { 2 } else { targets };
    Ok(Box::new(move |inputs, out| {
        let (scores, rows) = sums.of(inputs.get(0)?)?;
        tell(&labels, out, rows, width, |row, out| {
            let scores = &scores[row * targets..][..targets];
            if is_one_of_two {
                let score = scores[0];
                let second = if transform == Transform::Logistic { logistic(score) } else { score };
                (out[0], out[1]) = (1.0 - second, second);
                return usize::from(score > 0.0);
            }
            out.copy_from_slice(scores);
            transform.apply(out);
            largest(scores)
        })
    }))
}

/// A sum of how alike a row is to some that were learned.
pub(super) fn support_vectors(node: &Node<'_>) -> Done<Kernel> {
    let wide = |name: &str| node.floats(name).iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
    let (vectors, factors, shift) = (wide("support_vectors"), wide("coefficients"), wide("rho"));
    let settings = wide("kernel_params");
    let [gamma, more, degree] = [0, 1, 2].map(|at| settings.get(at).copied().unwrap_or_default());
    let kind = node.text("kernel_type", "LINEAR").to_owned();
    if !["LINEAR", "POLY", "RBF", "SIGMOID"].contains(&kind.as_str()) {
        return Err(format!("its kernel `{kind}` is not known"));
    }
    let count = usize::try_from(node.int("n_supports", 0)).unwrap_or_default();
    let (transform, is_one_class) = (Transform::read(node)?, node.int("one_class", 0) != 0);
    // Without vectors, its factors are weights.
    let width = vectors.len().checked_div(count).unwrap_or(factors.len());
    if shift.len() != 1 || (count > 0 && (vectors.len() != count * width || factors.len() != count)) || width == 0 {
        return Err("its vectors, coefficients and rho do not fit together".to_owned());
    }
    let likeness = move |row: &[f64], other: &[f64]| {
        let product = || row.iter().zip(other).fold(0.0, |sum, (a, b)| sum + a * b);
        match kind.as_str() {
            "POLY" => libm::pow(gamma * product() + more, degree),
            "SIGMOID" => libm::tanh(gamma * product() + more),
            "RBF" => libm::exp(-gamma * row.iter().zip(other).fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b))),
            _ => product(),
        }
    };
    Ok(Box::new(move |inputs, out| {
        let (values, rows, columns) = rows_of(inputs.get(0)?)?;
        if columns != width {
            return Err(format!("it takes {width} features, and not {columns}"));
        }
        let out = out[0].shaped::<f32>(Dims::of(&[rows, 1])?);
        for (out, row) in out.iter_mut().zip(values.chunks_exact(columns)) {
            let sum = if count > 0 {
                let terms = vectors.chunks_exact(width).zip(&factors);
                terms.fold(shift[0], |sum, (other, factor)| sum + factor * likeness(row, other))
            } else {
                shift[0] + likeness(row, &factors)
            };
            let mut score = [if is_one_class { if sum > 0.0 { 1.0 } else { -1.0 } } else { sum }];
            transform.apply(&mut score);
            *out = score[0] as f32;
        }
        Ok(())
    }))
}

/// An input of single or double precision, or of whole numbers, as it is asked for: in single precision.
pub(super) fn singles(value: &Value) -> Done<Vec<f32>> {
    match &value.data {
        Data::F32(values) => Ok(values.clone()),
        _ => Ok(value.doubles()?.into_iter().map(|value| value as f32).collect()),
    }
}
