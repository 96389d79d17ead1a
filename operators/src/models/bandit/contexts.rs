//! From a row to a short vector: what a choice is made by.

use serde::{Deserialize, Serialize};

use super::super::onnx::{Graph, Rows};
use super::super::random::Random;
use super::super::spread::Spread;
use super::super::{Row, Shape};

/// So many coordinates there are at most for numbers, and so many for categories: work and memory go with the square.
const SLOTS: usize = 64;

/// A number lies at most so many deviations off its mean.
const FARTHEST: f64 = 10.0;

/// Makes vectors of rows: a one, then the numbers, each as deviations from its mean so far, then a one for each category. More than 64 numbers
/// share 64 places by chance, as sums with signs; so do more than 64 categories.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Contexts {
    numbers: Vec<Spread>,
    categories: u32,
}

impl Contexts {
    pub(super) fn new(shape: Shape) -> Self {
        Self { numbers: vec![Spread::default(); shape.dense], categories: shape.categories as u32 }
    }

    /// How long a vector is.
    pub(super) fn len(&self) -> usize {
        1 + self.numbers.len().min(SLOTS) + (self.categories as usize).min(SLOTS)
    }

    /// The coordinate of a number, and its sign.
    #[inline]
    pub(super) fn number(&self, at: usize) -> (usize, f64) {
        if self.numbers.len() <= SLOTS {
            return (1 + at, 1.0);
        }
        let mut random = Random::new(at as u64, 1);
        (1 + random.below(SLOTS), if random.below(2) == 0 { 1.0 } else { -1.0 })
    }

    /// The coordinate of a category.
    #[inline]
    pub(super) fn category(&self, category: u32) -> usize {
        let first = 1 + self.numbers.len().min(SLOTS);
        let own = self.categories as usize <= SLOTS;
        first + if own { category as usize } else { Random::new(u64::from(category), 2).below(SLOTS) }
    }

    #[inline]
    pub(super) fn vector(&self, row: Row<'_>, vector: &mut [f64]) {
        vector.fill(0.0);
        vector[0] = 1.0;
        for (at, (spread, x)) in self.numbers.iter().zip(row.dense).enumerate() {
            let (place, sign) = self.number(at);
            vector[place] += sign * spread.standard(*x, FARTHEST);
        }
        for category in row.active {
            vector[self.category(*category)] += 1.0;
        }
    }

    /// The same for the rows of an ONNX graph: rows whose numbers and categories are the places of vectors behind the first one.
    pub(super) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Rows {
        let (dense, categories) = (self.numbers.len().min(SLOTS), (self.categories as usize).min(SLOTS));
        let numbers = rows.standardised(graph, f64::MAX, &self.means(), &self.deviations()).map(|numbers| {
            let mut places = vec![0.0; self.numbers.len() * dense];
            for at in 0..self.numbers.len() {
                let (place, sign) = self.number(at);
                places[at * dense + place - 1] = sign;
            }
            let places = graph.doubles(&[self.numbers.len(), dense], &places);
            let numbers = graph.clamp(numbers, -FARTHEST, FARTHEST);
            graph.apply("MatMul", &[numbers, places])
        });
        let active = rows.active.map(|active| {
            let place = |category| (self.category(category) - 1 - dense) as i64;
            let places = graph.integers(&(0..self.categories).map(place).collect::<Vec<_>>());
            graph.gather(places, active)
        });
        Rows { numbers, active, shape: Shape { dense, categories, ..rows.shape } }
    }

    #[inline]
    pub(super) fn learn(&mut self, row: Row<'_>, weight: f64) {
        self.numbers.iter_mut().zip(row.dense).for_each(|(spread, x)| spread.add_tamed(*x, weight));
    }

    pub(super) fn categories(&self) -> u32 {
        self.categories
    }

    pub(super) fn means(&self) -> Vec<f64> {
        self.numbers.iter().map(|spread| spread.mean).collect()
    }

    pub(super) fn deviations(&self) -> Vec<f64> {
        self.numbers.iter().map(Spread::deviation).collect()
    }

    pub(super) fn fits(&self, shape: Shape) -> bool {
        self.numbers.len() == shape.dense
            && self.categories as usize == shape.categories
            && self.numbers.iter().all(Spread::is_sound)
    }
}
