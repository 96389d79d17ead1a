//! A tree of classes that grows.

use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::super::{Row, Shape};
use super::arena::{Arena, Test};
use super::class_leaf::ClassLeaf;
use super::split::Candidate;
use super::{Growth, choose_columns, hoeffding_bound};

/// The tree. Settings come with each call: a forest has them once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct ClassTree {
    pub(super) arena: Arena,
    pub(super) leaves: Vec<ClassLeaf>,
    /// The columns that it may look at, the numbers first.
    columns: Vec<u32>,
    /// How many columns of numbers a row has.
    pub(super) dense: u32,
    /// Of each column, the sum of the merits of its splits, by the weight that was split.
    importances: Vec<f64>,
    random: Random,
}

impl ClassTree {
    /// A tree that may look at these columns, numbers before categories.
    pub(in super::super) fn new(shape: Shape, growth: &Growth, columns: Vec<u32>, random: Random) -> Self {
        let mut tree = Self {
            arena: Arena::new(),
            leaves: Vec::new(),
            columns,
            dense: shape.dense as u32,
            importances: vec![0.0; shape.dense + shape.active],
            random,
        };
        let root = tree.leaf(growth, 0, Vec::new());
        tree.leaves.push(root);
        tree
    }

    pub(super) fn leaf(&mut self, growth: &Growth, depth: u32, counts: Vec<(u32, f64)>) -> ClassLeaf {
        let (numbers, categories) =
            choose_columns(&self.columns, growth.columns_per_leaf, self.dense, &mut self.random);
        ClassLeaf::new(depth, numbers, categories, counts)
    }

    /// Fills `votes` with the probabilities of the classes.
    #[inline]
    pub(in super::super) fn vote(&self, growth: &Growth, row: Row<'_>, votes: &mut [f64], scratch: &mut Vec<f64>) {
        let (_, leaf) = self.arena.find(0, row);
        self.leaves[leaf].vote(growth.voting, row, votes, scratch);
    }

    /// Learns an example of a class with a weight above 0; `votes` becomes what [`ClassTree::vote`] gave just before.
    #[inline]
    pub(in super::super) fn learn(
        &mut self,
        growth: &Growth,
        row: Row<'_>,
        example: (u32, f64),
        votes: &mut [f64],
        scratch: &mut Vec<f64>,
    ) {
        self.learn_from(0, growth, row, example, votes, scratch);
    }

    /// The same for the tree with this root.
    #[inline]
    pub(super) fn learn_from(
        &mut self,
        root: usize,
        growth: &Growth,
        row: Row<'_>,
        example: (u32, f64),
        votes: &mut [f64],
        scratch: &mut Vec<f64>,
    ) {
        let (node, leaf) = self.arena.find(root, row);
        self.leaves[leaf].learn(growth.voting, row, example, votes, scratch);
        if self.leaves[leaf].is_due(growth) && self.leaves.len() < growth.max_leaves as usize {
            self.try_split(growth, node, leaf, votes.len());
        }
    }

    /// Splits a leaf if one column is better than all others, or none is needed to be.
    fn try_split(&mut self, growth: &Growth, node: usize, at: usize, classes: usize) {
        let leaf = &self.leaves[at];
        let judge = leaf.judge(growth);
        let bound = hoeffding_bound(judge.range(classes), growth.delta, leaf.weight());
        let mut candidates = leaf.candidates(&judge);
        candidates.sort_by(|a, b| b.merit.total_cmp(&a.merit));
        let Some(best) = candidates.first() else { return };
        // Not to split at all is worth nothing, and is one of the choices.
        let second = candidates.get(1).map_or(0.0, |second| second.merit);
        if best.merit - second > bound || bound < growth.tau {
            let best = candidates.swap_remove(0);
            self.split(growth, node, at, &best);
        } else if growth.drop_poor_columns {
            let least = best.merit - bound;
            let keep = |test: Test| {
                let same =
                    |candidate: &&Candidate| candidate.test.column(usize::MAX / 2) == test.column(usize::MAX / 2);
                candidates.iter().find(same).is_some_and(|candidate| candidate.merit >= least)
            };
            self.leaves[at].keep(keep);
        }
    }

    fn split(&mut self, growth: &Growth, node: usize, at: usize, best: &Candidate) {
        let (depth, weight) = (self.leaves[at].depth + 1, self.leaves[at].weight());
        let [yes, no] = self.leaves[at].sides(best);
        self.importances[best.test.column(self.dense as usize)] += best.merit * weight;
        let (yes, no) = (self.leaf(growth, depth, yes), self.leaf(growth, depth, no));
        self.leaves[at] = yes;
        self.leaves.push(no);
        self.arena.split(node, best.test, at, self.leaves.len() - 1);
    }

    /// The columns that it may look at.
    pub(super) fn columns(&self) -> &[u32] {
        &self.columns
    }

    pub(in super::super) fn importances(&self) -> &[f64] {
        &self.importances
    }

    /// How many leaves it has.
    pub(in super::super) fn size(&self) -> usize {
        self.leaves.len()
    }

    /// Whether this (restored) tree takes rows of this shape.
    pub(in super::super) fn fits(&self, shape: Shape) -> bool {
        self.fits_with_roots(shape, std::iter::empty())
    }

    /// The same where there are other trees beside the first, with these roots.
    pub(super) fn fits_with_roots(&self, shape: Shape, roots: impl Iterator<Item = usize>) -> bool {
        self.dense as usize == shape.dense
            && self.columns.iter().all(|column| (*column as usize) < shape.dense + shape.active)
            && self.columns.is_sorted_by(|a, b| a < b)
            && self.importances.len() == shape.dense + shape.active
            && self.arena.fits(shape, self.leaves.len(), roots)
            && self.leaves.iter().all(|leaf| leaf.fits(shape))
    }
}
