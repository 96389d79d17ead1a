//! Seeded examples for tests.

use std::sync::Arc;

use serde_json::Value;

use super::{Example, Learner, Matrix, Predictor, Shape, plan};

/// The generator known as split-mix, 64 bits.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Prints the seed: a failing test shows it.
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [-1, 1).
    pub(crate) fn signed(&mut self) -> f64 {
        2.0 * self.uniform() - 1.0
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// 1 with this probability, else 0.
    pub(crate) fn flip(&mut self, probability: f64) -> f64 {
        f64::from(self.uniform() < probability)
    }
}

/// A learner and a matrix of one row, to teach it row by row.
pub(crate) struct Pupil {
    pub(crate) learner: Box<dyn Learner>,
    matrix: Matrix,
    predictions: Vec<f64>,
}

impl Pupil {
    pub(crate) fn new(model: &Value, shape: Shape) -> Self {
        let design = plan(model).expect("a valid model");
        Self { learner: (design.make)(shape), matrix: Matrix::new(shape), predictions: Vec::new() }
    }

    fn fill(&mut self, dense: &[f64], active: &[u32]) {
        self.matrix.resize(1);
        dense.iter().enumerate().for_each(|(at, x)| self.matrix.set_dense(at, std::iter::once(*x)));
        active.iter().enumerate().for_each(|(at, x)| self.matrix.set_active(at, std::iter::once(*x)));
    }

    pub(crate) fn learn(&mut self, dense: &[f64], active: &[u32], target: f64) -> f64 {
        self.fill(dense, active);
        self.learner.learn(&self.matrix, &[Example::of(target)], &mut self.predictions);
        self.predictions[0]
    }

    pub(crate) fn predict(&mut self, dense: &[f64], active: &[u32]) -> f64 {
        self.fill(dense, active);
        self.learner.frozen().predict(&self.matrix, &mut self.predictions);
        self.predictions[0]
    }

    pub(crate) fn tensor(&self, name: &str) -> Vec<f64> {
        let frozen: Arc<dyn Predictor> = self.learner.frozen();
        frozen.tensors().into_iter().find(|tensor| tensor.name == name).expect("a tensor of this name").values
    }
}

/// Bounded as evaluations bound it.
pub(crate) fn log_loss(probability: f64, target: f64) -> f64 {
    let right = if target > 0.5 { probability } else { 1.0 - probability };
    -libm::log(right.clamp(1e-15, 1.0))
}
