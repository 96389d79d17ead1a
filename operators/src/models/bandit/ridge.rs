//! Ridge regression, one example after the other: what an action earns, and how well that is known.
//!
//! Of the matrix A = ridge I + sum of x x' only the Cholesky factor is kept, and each example updates that (Golub and Van Loan, "Matrix Computations",
//! 6.5.4). The inverse is never formed, so it can neither lose its symmetry nor become indefinite, as it can by repeated Sherman-Morrison steps.

use serde::{Deserialize, Serialize};

/// Nothing that is solved for grows beyond this in magnitude, whatever the examples.
const SOLVED_MAX: f64 = 1e150;

/// The regression.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Ridge {
    /// The lower triangle, column after column.
    factor: Vec<f64>,
    /// The sum of x times reward.
    sums: Vec<f64>,
    /// A⁻¹ times the sums: the weights where nothing is assumed to earn nothing.
    pub(super) weights: Vec<f64>,
    /// A⁻¹ times (1, 0, 0, ...): how the weights grow with what is assumed to be earned.
    pub(super) prior: Vec<f64>,
}

impl Ridge {
    pub(super) fn new(len: usize, ridge: f64) -> Self {
        let mut factor = vec![0.0; len * (len + 1) / 2];
        let mut at = 0;
        for column in 0..len {
            factor[at] = ridge.sqrt();
            at += len - column;
        }
        let mut prior = vec![0.0; len];
        prior[0] = 1.0 / ridge;
        Self { factor, sums: vec![0.0; len], weights: vec![0.0; len], prior }
    }

    /// Learns an example; `x` is used up.
    #[inline]
    pub(super) fn learn(&mut self, x: &mut [f64], reward: f64, weight: f64) {
        for (sum, x) in self.sums.iter_mut().zip(x.iter()) {
            *sum += weight * reward * x;
        }
        let root = weight.sqrt();
        x.iter_mut().for_each(|x| *x *= root);
        self.update(x);
        self.weights.clone_from(&self.sums);
        forward(&self.factor, &mut self.weights);
        backward(&self.factor, &mut self.weights);
        self.prior.fill(0.0);
        self.prior[0] = 1.0;
        forward(&self.factor, &mut self.prior);
        backward(&self.factor, &mut self.prior);
    }

    /// Adds x x' to A.
    #[inline]
    fn update(&mut self, x: &mut [f64]) {
        let (mut rest, mut column) = (self.factor.as_mut_slice(), 0);
        while column < x.len() {
            let (this, next) = rest.split_at_mut(x.len() - column);
            let (first, last) = (this[0], x[column]);
            if last != 0.0 {
                let root = (first * first + last * last).sqrt();
                let (cosine, sine) = (root / first, last / first);
                this[0] = root;
                for (below, x) in this[1..].iter_mut().zip(&mut x[column + 1..]) {
                    *below = (*below + sine * *x) / cosine;
                    *x = cosine * *x - sine * *below;
                }
            }
            rest = next;
            column += 1;
        }
    }

    /// What `x` is estimated to earn, where `assumed` (already times ridge) is the prior's.
    #[inline]
    pub(super) fn estimate(&self, x: &[f64], assumed: f64) -> f64 {
        let terms = x.iter().zip(&self.weights).zip(&self.prior);
        terms.map(|((x, weight), prior)| x * (weight + assumed * prior)).sum()
    }

    /// x' A⁻¹ x: the variance of the estimate, where that of a reward is 1. `x` is used up.
    #[inline]
    pub(super) fn variance(&self, x: &mut [f64]) -> f64 {
        forward(&self.factor, x);
        x.iter().map(|x| x * x).sum()
    }

    /// For each coordinate, what is solved for a one there: [`Ridge::variance`] is the squared length of the sum of what is solved for
    /// all of a vector.
    pub(super) fn solved(&self) -> impl Iterator<Item = f64> {
        let len = self.weights.len();
        (0..len).flat_map(move |at| {
            let mut column = vec![0.0; len];
            column[at] = 1.0;
            forward(&self.factor, &mut column);
            column
        })
    }

    pub(super) fn fits(&self, len: usize) -> bool {
        let vectors = [&self.sums, &self.weights, &self.prior];
        let mut at = 0;
        self.factor.len() == len * (len + 1) / 2
            && vectors.iter().all(|vector| vector.len() == len)
            && vectors.into_iter().chain([&self.factor]).flatten().all(|number| number.is_finite())
            && (0..len).all(|column| {
                let positive = self.factor[at] > 0.0;
                at += len - column;
                positive
            })
    }
}

/// Solves L y = x.
#[inline]
fn forward(factor: &[f64], x: &mut [f64]) {
    let mut rest = factor;
    for column in 0..x.len() {
        let (this, next) = rest.split_at(x.len() - column);
        let solved = (x[column] / this[0]).clamp(-SOLVED_MAX, SOLVED_MAX);
        x[column] = solved;
        if solved != 0.0 {
            x[column + 1..].iter_mut().zip(&this[1..]).for_each(|(x, below)| *x -= below * solved);
        }
        rest = next;
    }
}

/// Solves L' y = x.
#[inline]
fn backward(factor: &[f64], x: &mut [f64]) {
    let mut end = factor.len();
    for column in (0..x.len()).rev() {
        let this = &factor[end - (x.len() - column)..end];
        let known: f64 = this[1..].iter().zip(&x[column + 1..]).map(|(below, x)| below * x).sum();
        x[column] = ((x[column] - known) / this[0]).clamp(-SOLVED_MAX, SOLVED_MAX);
        end -= this.len();
    }
}
