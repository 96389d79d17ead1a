//! What factorisations of interactions are made of: for each coordinate a weight and some factors.

use serde::{Deserialize, Serialize};

use super::random::Random;

/// The largest number of factors.
pub(super) const FACTORS_MAX: u32 = 256;

/// For each coordinate a weight, then its factors.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Table {
    factors: usize,
    values: Vec<f64>,
}

impl Table {
    /// Weights are zero, and factors small and different: from equal ones, or zeros, nothing could be learned.
    pub(super) fn new(coordinates: usize, factors: usize, deviation: f64, seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        let mut values = vec![0.0; coordinates * (1 + factors)];
        for row in values.chunks_exact_mut(1 + factors) {
            row[1..].iter_mut().for_each(|factor| *factor = deviation * random.normal());
        }
        Self { factors, values }
    }

    /// All zeros.
    pub(super) fn zeros(coordinates: usize, factors: usize) -> Self {
        Self { factors, values: vec![0.0; coordinates * (1 + factors)] }
    }

    pub(super) fn factors(&self) -> usize {
        self.factors
    }

    #[inline]
    pub(super) fn row(&self, coordinate: usize) -> &[f64] {
        &self.values[coordinate * (1 + self.factors)..][..=self.factors]
    }

    #[inline]
    pub(super) fn row_mut(&mut self, coordinate: usize) -> &mut [f64] {
        &mut self.values[coordinate * (1 + self.factors)..][..=self.factors]
    }

    /// The number of coordinates.
    pub(super) fn len(&self) -> usize {
        self.values.len() / (1 + self.factors)
    }

    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    pub(super) fn fits(&self, coordinates: usize) -> bool {
        self.factors <= FACTORS_MAX as usize && self.values.len() == coordinates * (1 + self.factors)
    }
}
