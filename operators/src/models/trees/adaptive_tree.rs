//! A tree of classes that replaces those of its branches that have gone out of date.

use serde::{Deserialize, Serialize};

use super::super::drift::{Adwin, Detector};
use super::super::random::Random;
use super::super::{Row, Shape};
use super::arena::Node;
use super::class_tree::ClassTree;
use super::{Growth, all_columns, best, grew, with_buffer};

/// How a branch is watched.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Monitor {
    /// Over the errors of the rows that come here.
    adwin: Adwin,
    /// The root of the tree that may take this branch's place; 0 for none.
    alternate: u32,
}

/// When branches are replaced.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct Replacing {
    /// ADWIN's delta for the errors of a branch.
    pub(in super::super) drift_delta: f64,
    /// Branches are compared when both have seen so many examples.
    pub(in super::super) window: f64,
    /// The probability that a branch is replaced by one that is no better.
    pub(in super::super) significance: f64,
}

/// The tree, and in the same arena the trees that may take a branch's place.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct AdaptiveTree {
    pub(in super::super) tree: ClassTree,
    replacing: Replacing,
    /// Of each node.
    monitors: Vec<Monitor>,
    /// How often a branch was replaced.
    pub(in super::super) replaced: u32,
}

/// What is to be done about an alternate.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Take,
    Drop,
}

impl AdaptiveTree {
    /// One that has seen nothing.
    pub(in super::super) fn new(shape: Shape, growth: &Growth, replacing: Replacing) -> Self {
        let tree = ClassTree::new(shape, growth, all_columns(shape), Random::new(0, 0));
        let mut tree = Self { tree, replacing, monitors: Vec::new(), replaced: 0 };
        tree.watch_new_nodes();
        tree
    }

    fn watch_new_nodes(&mut self) {
        let monitor = Monitor { adwin: Adwin::new(self.replacing.drift_delta), alternate: 0 };
        self.monitors.resize(self.tree.arena.nodes().len(), monitor);
    }

    /// How many trees wait to take a branch's place.
    pub(in super::super) fn alternates(&self) -> usize {
        self.monitors.iter().filter(|monitor| monitor.alternate > 0).count()
    }

    /// The node behind a node, for a row; none behind a leaf.
    #[inline]
    fn next(&self, at: usize, row: Row<'_>) -> Option<usize> {
        match self.tree.arena.nodes()[at] {
            Node::Leaf(_) => None,
            Node::Number { column, threshold, yes } => {
                Some(yes as usize + usize::from(row.dense[column as usize] > threshold))
            }
            Node::Category { column, category, yes } => {
                Some(yes as usize + usize::from(row.active[column as usize] != category))
            }
        }
    }

    /// Learns an example; `votes` becomes what the tree voted just before.
    pub(in super::super) fn learn(
        &mut self,
        growth: &Growth,
        row: Row<'_>,
        example: (u32, f64),
        votes: &mut [f64],
        scratch: &mut Vec<f64>,
    ) {
        self.tree.learn(growth, row, example, votes, scratch);
        self.watch_new_nodes();
        let error = f64::from(best(votes) != example.0 as usize);
        let (mut at, mut depth, mut verdict) = (0, 0, None);
        loop {
            let grown = grew(&mut self.monitors[at].adwin, error);
            let Some(next) = self.next(at, row) else { break };
            let alternate = self.monitors[at].alternate as usize;
            if alternate > 0 {
                self.teach_alternate(alternate, growth, row, example, votes.len(), scratch);
                verdict = verdict.or(self.compare(at, alternate).map(|verdict| (at, verdict)));
            } else if grown && self.tree.leaves.len() < growth.max_leaves as usize {
                self.sprout(at, growth, depth);
            }
            (at, depth) = (next, depth + 1);
        }
        if let Some((at, verdict)) = verdict {
            self.rebuild(at, verdict);
        }
    }

    /// Starts an alternate for a branch.
    fn sprout(&mut self, at: usize, growth: &Growth, depth: u32) {
        let leaf = self.tree.leaf(growth, depth, Vec::new());
        self.tree.leaves.push(leaf);
        let root = self.tree.arena.sprout(self.tree.leaves.len() - 1);
        self.monitors[at].alternate = root as u32;
        self.watch_new_nodes();
    }

    /// Lets an alternate learn; it has no alternates itself.
    fn teach_alternate(
        &mut self,
        root: usize,
        growth: &Growth,
        row: Row<'_>,
        example: (u32, f64),
        classes: usize,
        scratch: &mut Vec<f64>,
    ) {
        let mut error = 0.0;
        with_buffer(classes, |votes| {
            self.tree.learn_from(root, growth, row, example, votes, scratch);
            error = f64::from(best(votes) != example.0 as usize);
        });
        self.watch_new_nodes();
        let mut node = Some(root);
        while let Some(at) = node {
            self.monitors[at].adwin.update(error);
            node = self.next(at, row);
        }
    }

    /// Whether a branch and its alternate differ by more than chance allows.
    fn compare(&self, at: usize, alternate: usize) -> Option<Verdict> {
        let (old, new) = (&self.monitors[at].adwin, &self.monitors[alternate].adwin);
        if old.width() < self.replacing.window || new.width() < self.replacing.window {
            return None;
        }
        let widths = 1.0 / old.width() + 1.0 / new.width();
        let variance = (old.mean() * (1.0 - old.mean())).max(0.0);
        let bound = (2.0 * variance * libm::log(2.0 / self.replacing.significance) * widths).sqrt();
        match old.mean() - new.mean() {
            better if better > bound => Some(Verdict::Take),
            better if -better > bound => Some(Verdict::Drop),
            _ => None,
        }
    }

    /// Puts the nodes in order anew, with a branch replaced by its alternate, or without the alternate.
    fn rebuild(&mut self, decided: usize, verdict: Verdict) {
        let old = std::mem::take(&mut self.monitors);
        let (nodes, mut new_nodes, mut leaves) = (self.tree.arena.nodes().to_vec(), vec![Node::Leaf(0)], Vec::new());
        let mut monitors = vec![old[0].clone()];
        let mut open = std::collections::VecDeque::from([(0, 0)]);
        while let Some((from, to)) = open.pop_front() {
            let taken = from == decided && verdict == Verdict::Take;
            let from = if taken { old[from].alternate as usize } else { from };
            let mut grow = |count: usize| {
                new_nodes.extend(std::iter::repeat_n(Node::Leaf(0), count));
                monitors.extend(std::iter::repeat_n(old[0].clone(), count));
                new_nodes.len() - count
            };
            let mut node = nodes[from];
            if let Node::Number { yes, .. } | Node::Category { yes, .. } = &mut node {
                let first = grow(2);
                open.extend([(*yes as usize, first), (*yes as usize + 1, first + 1)]);
                *yes = first as u32;
            }
            let mut monitor = old[from].clone();
            if from == decided {
                monitor.alternate = 0;
            }
            if monitor.alternate > 0 {
                let root = grow(1);
                open.push_back((monitor.alternate as usize, root));
                monitor.alternate = root as u32;
            }
            if let Node::Leaf(leaf) = &mut node {
                leaves.push(self.tree.leaves[*leaf as usize].clone());
                *leaf = leaves.len() as u32 - 1;
            }
            new_nodes[to] = node;
            monitors[to] = monitor;
        }
        self.replaced = self.replaced.saturating_add(u32::from(verdict == Verdict::Take));
        self.tree.arena.replace(new_nodes);
        self.tree.leaves = leaves;
        self.monitors = monitors;
    }

    /// Whether this (restored) tree takes rows of this shape.
    pub(in super::super) fn fits(&self, shape: Shape) -> bool {
        let alternates = self.monitors.iter().map(|monitor| monitor.alternate as usize).filter(|root| *root > 0);
        self.monitors.len() == self.tree.arena.nodes().len()
            && self.monitors.iter().all(|monitor| monitor.adwin.is_sound())
            && self.monitors.iter().enumerate().all(|(at, m)| m.alternate == 0 || m.alternate as usize > at)
            && self.tree.fits_with_roots(shape, alternates)
    }
}
