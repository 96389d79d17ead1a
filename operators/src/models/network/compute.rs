//! What runs a network: the processor, or a device of its own.
//!
//! A network's parameters and the moments of its optimiser belong to what runs it; the processor has them in the model itself, and from a device they
//! are read after each batch of rows that has moved them, so that the model is always whole. What goes wrong on a device leaves the model as it was before.

use std::ops::Range;

use millstream_engine::part::Part;
use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::graph::Graph;
use super::numbers::Numbers;
use super::optimizer::{Rule, Step};
use super::table::Table;

/// Runs a network forward to its outputs, back to the gradients of its parameters, and moves these.
pub(super) trait Compute: Send {
    /// Computes the outputs for rows, and keeps what the way back needs. While it learns, dropout and batch norm do what they do then.
    fn forward(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        learning: Option<Learning<'_>>,
    ) -> Result<(), Failed>;

    /// What came out, row after row.
    fn outputs(&self) -> &[f32];

    /// From the gradient of the outputs to those of all parameters: gives the sum of their squares.
    fn backward(&mut self, graph: &Graph, weights: View<'_>, gradient: &[f32]) -> Result<f64, Failed>;

    /// The gradients of the embeddings that the rows had, one after the other.
    fn embeddings(&self, graph: &Graph) -> &[f32];

    /// Moves the parameters along their gradients, which are multiplied by a factor of at most 1.
    fn update(
        &mut self,
        values: &mut Part<Numbers>,
        moments: &mut Part<Numbers>,
        rule: &Rule,
        step: Step,
        factor: f32,
    ) -> Result<(), Failed>;

    /// Brings the parameters and the moments to where the model has them.
    fn read(&mut self, values: &mut Part<Numbers>, moments: &mut Part<Numbers>) -> Result<(), Failed>;

    /// Whether parameters are elsewhere than in the model.
    fn is_device(&self) -> bool;

    /// Whether a mini-batch is launched there as a whole, not piece by piece.
    fn is_recorded(&self) -> bool {
        false
    }
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed(pub(super) String);

/// What keeps divisions by deviations finite.
pub(super) const EPSILON: f32 = 1e-5;
/// How much of a mini-batch goes into the statistics of the past.
pub(super) const MOMENTUM: f32 = 0.1;

/// The numbers with which a network answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    /// Whether the values are those that what runs it has itself.
    pub(super) are_own: bool,
    pub(super) statistics: &'a [f32],
}

/// Rows as the network takes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) rows: usize,
    /// Row after row.
    pub(super) numbers: &'a [f32],
    pub(super) categories: Categories<'a>,
}

/// The categories that rows are in, row after row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Categories<'a> {
    /// With the table that has their embeddings.
    Of(&'a [u32], &'a Table),
    /// Their embeddings, one after the other.
    Embedded(&'a [f32]),
}

impl Inputs<'_> {
    /// Some of the rows.
    pub(super) fn part(&self, rows: Range<usize>) -> Self {
        fn part<'a, T>(all: &'a [T], rows: &Range<usize>, of: usize) -> &'a [T] {
            let width = all.len() / of.max(1);
            &all[rows.start * width..rows.end * width]
        }
        let numbers = part(self.numbers, &rows, self.rows);
        let categories = match self.categories {
            Categories::Of(active, table) => Categories::Of(part(active, &rows, self.rows), table),
            Categories::Embedded(embeddings) => Categories::Embedded(part(embeddings, &rows, self.rows)),
        };
        Self { rows: rows.len(), numbers, categories }
    }

    /// Fills in the embeddings of the rows' categories, each of which is so many numbers. One that has none is zeros.
    pub(super) fn embed(&self, size: usize, out: &mut [f32]) {
        match self.categories {
            Categories::Embedded(embeddings) => out.copy_from_slice(embeddings),
            Categories::Of(active, table) => {
                for (out, category) in out.chunks_exact_mut(size.max(1)).zip(active) {
                    match table.row(*category) {
                        Some(row) => out.copy_from_slice(row),
                        None => out.fill(0.0),
                    }
                }
            }
        }
    }
}

/// What learning does that predicting does not.
pub(super) struct Learning<'a> {
    pub(super) random: &'a mut Random,
    /// The statistics of the past, which move.
    pub(super) statistics: &'a mut [f32],
}

/// What dropout multiplies so many numbers by: 0 with this probability, and what keeps their mean for the others.
pub(super) fn mask(random: &mut Random, rate: f32, len: usize) -> impl Iterator<Item = f32> {
    let (rate, scale) = (f64::from(rate), 1.0 / (1.0 - rate));
    (0..len).map(move |_| if random.uniform() < rate { 0.0 } else { scale })
}

/// The numbers of a network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Weights {
    /// All parameters, one after the other.
    pub(super) values: Part<Numbers>,
    /// Means and variances of the past: of each batch norm, first all means.
    pub(super) statistics: Numbers,
    /// The embeddings.
    pub(super) table: Table,
}

impl Weights {
    /// At the beginning.
    pub(super) fn new(graph: &Graph, random: &mut Random) -> Self {
        let table = Table::new(graph.embedding());
        let values = Part::new(Numbers::from(graph.start(random)));
        Self { values, statistics: graph.start_statistics().into(), table }
    }

    pub(super) fn view(&self) -> View<'_> {
        View { values: &self.values, are_own: true, statistics: &self.statistics }
    }
}
