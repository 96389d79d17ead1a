//! The nodes of a tree, and the way of a row through them.

use serde::{Deserialize, Serialize};

use super::super::{Row, Shape};

/// A question, or a leaf. Rows for which the answer is yes go to node `yes`, others to the one behind it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) enum Node {
    /// One of the leaves that its tree keeps.
    Leaf(u32),
    /// Is this number at most the threshold?
    Number { column: u32, threshold: f64, yes: u32 },
    /// Is the row, among the categories of this column, in this one?
    Category { column: u32, category: u32, yes: u32 },
}

/// What a node asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Test {
    Number { column: u32, threshold: f64 },
    Category { column: u32, category: u32 },
}

impl Test {
    /// The column among all, the numbers first.
    pub(in super::super) fn column(self, dense: usize) -> usize {
        match self {
            Self::Number { column, .. } => column as usize,
            Self::Category { column, .. } => dense + column as usize,
        }
    }
}

/// Nodes; the first is the root, and children come after their parents.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct Arena {
    nodes: Vec<Node>,
}

impl Arena {
    /// A root that is leaf 0.
    pub(in super::super) fn new() -> Self {
        Self { nodes: vec![Node::Leaf(0)] }
    }

    pub(in super::super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where a row ends that starts at node `at`: the node, and which leaf that is.
    #[inline]
    pub(in super::super) fn find(&self, mut at: usize, row: Row<'_>) -> (usize, usize) {
        loop {
            at = match self.nodes[at] {
                Node::Leaf(leaf) => return (at, leaf as usize),
                Node::Number { column, threshold, yes } => {
                    yes as usize + usize::from(row.dense[column as usize] > threshold)
                }
                Node::Category { column, category, yes } => {
                    yes as usize + usize::from(row.active[column as usize] != category)
                }
            };
        }
    }

    /// Makes a leaf ask; who says yes goes to leaf `yes`, who says no to leaf `no`.
    pub(in super::super) fn split(&mut self, at: usize, test: Test, yes: usize, no: usize) {
        let first = self.nodes.len() as u32;
        self.nodes[at] = match test {
            Test::Number { column, threshold } => Node::Number { column, threshold, yes: first },
            Test::Category { column, category } => Node::Category { column, category, yes: first },
        };
        self.nodes.extend([Node::Leaf(yes as u32), Node::Leaf(no as u32)]);
    }

    /// Starts another tree that is one leaf, and gives its root.
    pub(in super::super) fn sprout(&mut self, leaf: usize) -> usize {
        self.nodes.push(Node::Leaf(leaf as u32));
        self.nodes.len() - 1
    }

    /// Takes over nodes that were put in order anew.
    pub(in super::super) fn replace(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
    }

    /// Whether rows of this shape find their way, to one of so many leaves, each of which is there once;
    /// `roots` are those of trees other than the first.
    pub(in super::super) fn fits(&self, shape: Shape, leaves: usize, roots: impl Iterator<Item = usize>) -> bool {
        let mut reached = vec![false; leaves];
        let mut parents = vec![false; self.nodes.len()];
        for root in roots {
            match parents.get_mut(root) {
                Some(parent) if !*parent && root > 0 => *parent = true,
                _ => return false,
            }
        }
        let mut first = |at: usize, yes: u32| {
            let yes = yes as usize;
            let fresh = yes > at && yes + 1 < parents.len() && !parents[yes] && !parents[yes + 1];
            if fresh {
                parents[yes..yes + 2].fill(true);
            }
            fresh
        };
        let sound = self.nodes.iter().enumerate().all(|(at, node)| match *node {
            Node::Leaf(leaf) => {
                let new = reached.get(leaf as usize) == Some(&false);
                if new {
                    reached[leaf as usize] = true;
                }
                new
            }
            Node::Number { column, threshold, yes } => {
                (column as usize) < shape.dense && threshold.is_finite() && first(at, yes)
            }
            Node::Category { column, yes, .. } => (column as usize) < shape.active && first(at, yes),
        });
        sound
            && !self.nodes.is_empty()
            && reached.iter().all(|reached| *reached)
            && parents.iter().skip(1).all(|parent| *parent)
    }
}
