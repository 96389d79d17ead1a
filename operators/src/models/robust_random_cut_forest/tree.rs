//! A random cut tree: points into which others can be inserted, and from which they can be removed.

use serde::{Deserialize, Serialize};

use super::super::random::Random;

/// No node.
const NONE: u32 = u32::MAX;

/// The column of a node that is not cut.
const LEAF: u32 = u32::MAX;

/// A mass of 1: masses are whole numbers of small parts, so that sums do not depend on their order.
pub(super) const UNIT: u32 = 1024;

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// What lies at or below the cut, and what above.
    children: [u32; 2],
    column: u32,
    cut: f32,
    mass: u32,
}

/// Where a point belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Nowhere: the tree is empty.
    First,
    /// Where such a point is already.
    Same(u32),
    /// Beside a node, from which a cut divides it.
    Beside(u32, u32, f32),
}

/// The tree. Each point lies in the leaf to which the cuts lead.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    columns: usize,
    root: u32,
    nodes: Vec<Node>,
    /// Of each node the smallest and then the largest values of its points.
    boxes: Vec<f32>,
    free: Vec<u32>,
}

/// A cut, or a leaf: what is stored of a node. Nodes come before their children, the lower one first.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Cut(Option<(u32, f32)>);

impl Tree {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, root: NONE, nodes: Vec::new(), boxes: Vec::new(), free: Vec::new() }
    }

    fn bounds(&self, node: u32) -> (&[f32], &[f32]) {
        self.boxes[node as usize * 2 * self.columns..][..2 * self.columns].split_at(self.columns)
    }

    /// Sets a node's box to its children's.
    fn unite(&mut self, node: u32) {
        let [a, b] = self.nodes[node as usize].children.map(|child| child as usize * 2 * self.columns);
        let to = node as usize * 2 * self.columns;
        for at in 0..self.columns {
            let high = at + self.columns;
            self.boxes[to + at] = self.boxes[a + at].min(self.boxes[b + at]);
            self.boxes[to + high] = self.boxes[a + high].max(self.boxes[b + high]);
        }
    }

    fn add_node(&mut self, node: Node) -> u32 {
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        self.boxes.resize(self.nodes.len() * 2 * self.columns, 0.0);
        self.nodes.len() as u32 - 1
    }

    fn add_leaf(&mut self, point: &[f32], mass: u32) -> u32 {
        let leaf = self.add_node(Node { parent: NONE, children: [NONE; 2], column: LEAF, cut: 0.0, mass });
        self.set_point(leaf, point);
        leaf
    }

    fn set_point(&mut self, leaf: u32, point: &[f32]) {
        let bounds = &mut self.boxes[leaf as usize * 2 * self.columns..][..2 * self.columns];
        bounds[..point.len()].copy_from_slice(point);
        bounds[point.len()..].copy_from_slice(point);
    }

    /// The child on a point's side.
    #[inline]
    fn child(&self, node: u32, point: &[f32]) -> u32 {
        let Node { children, column, cut, .. } = self.nodes[node as usize];
        children[usize::from(point[column as usize] > cut)]
    }

    /// Where a point would be inserted: Guha and others, algorithm 2. At each node a cut is drawn through the box that the point makes larger.
    /// If it divides the point from the node's points, there is its place; else it goes down by the node's own cut.
    #[inline]
    pub(super) fn place(&self, point: &[f32], random: &mut Random) -> Place {
        if self.root == NONE {
            return Place::First;
        }
        let mut node = self.root;
        loop {
            let (low, high) = self.bounds(node);
            let reach = |at: usize| f64::from(high[at].max(point[at]) - low[at].min(point[at]));
            let all: f64 = (0..self.columns).map(reach).sum();
            let leaf = self.nodes[node as usize].column == LEAF;
            if leaf && all <= 0.0 {
                return Place::Same(node);
            }
            let (mut left, mut column) = (random.uniform() * all, None);
            for at in (0..self.columns).filter(|at| reach(*at) > 0.0) {
                column = Some(at);
                if left < reach(at) {
                    break;
                }
                left -= reach(at);
            }
            if let Some(column) = column {
                let (least, most) = (low[column].min(point[column]), high[column].max(point[column]));
                let drawn = (f64::from(least) + left) as f32;
                let cut = if drawn < most { drawn.max(least) } else { least };
                if cut < low[column] || cut >= high[column] {
                    return Place::Beside(node, column as u32, cut);
                }
            }
            if leaf {
                return Place::Same(node);
            }
            node = self.child(node, point);
        }
    }

    /// How many of the other points it would move closer to the root, at most, if a point at this place and some like it were taken away together,
    /// for each of these: the collusive displacement.
    #[inline]
    pub(super) fn displacement(&self, place: Place) -> f64 {
        let unit = f64::from(UNIT);
        let (mut node, mut most) = match place {
            Place::First => return 0.0,
            Place::Same(leaf) => (leaf, 0.0),
            Place::Beside(node, ..) => (node, f64::from(self.nodes[node as usize].mass) / unit),
        };
        while self.nodes[node as usize].parent != NONE {
            let Node { parent, mass, .. } = self.nodes[node as usize];
            let [a, b] = self.nodes[parent as usize].children;
            let beside = self.nodes[if a == node { b } else { a } as usize].mass;
            most = f64::max(most, f64::from(beside) / (f64::from(mass) + unit));
            node = parent;
        }
        most
    }

    /// Inserts a point at its place.
    #[inline]
    pub(super) fn insert(&mut self, place: Place, point: &[f32], mass: u32) {
        let mut above = match place {
            Place::First => {
                self.root = self.add_leaf(point, mass);
                return;
            }
            Place::Same(leaf) => leaf,
            Place::Beside(node, column, cut) => {
                let leaf = self.add_leaf(point, mass);
                let Node { parent, mass, .. } = self.nodes[node as usize];
                let children = if point[column as usize] > cut { [node, leaf] } else { [leaf, node] };
                let new = self.add_node(Node { parent, children, column, cut, mass });
                self.nodes[leaf as usize].parent = new;
                self.nodes[node as usize].parent = new;
                self.replace(parent, node, new);
                new
            }
        };
        while above != NONE {
            let node = &mut self.nodes[above as usize];
            node.mass += mass;
            let (parent, leaf) = (node.parent, node.column == LEAF);
            if !leaf {
                self.unite(above);
            }
            above = parent;
        }
    }

    /// Puts another node in a node's place below its parent.
    fn replace(&mut self, parent: u32, old: u32, new: u32) {
        match self.nodes.get_mut(parent as usize) {
            Some(parent) => parent.children = parent.children.map(|child| if child == old { new } else { child }),
            None => self.root = new,
        }
    }

    fn leaf(&self, point: &[f32]) -> u32 {
        let mut node = self.root;
        while self.nodes[node as usize].column != LEAF {
            node = self.child(node, point);
        }
        node
    }

    /// Removes so much of a point that was inserted.
    #[inline]
    pub(super) fn remove(&mut self, point: &[f32], mass: u32) {
        let leaf = self.leaf(point);
        let Node { parent, mass: all, .. } = self.nodes[leaf as usize];
        let mut above = leaf;
        if all <= mass {
            self.free.push(leaf);
            if parent == NONE {
                self.root = NONE;
                return;
            }
            let Node { parent: grandparent, children: [a, b], .. } = self.nodes[parent as usize];
            let beside = if a == leaf { b } else { a };
            self.nodes[beside as usize].parent = grandparent;
            self.replace(grandparent, parent, beside);
            self.free.push(parent);
            above = grandparent;
        }
        while above != NONE {
            let node = &mut self.nodes[above as usize];
            node.mass -= mass;
            let (parent, leaf) = (node.parent, node.column == LEAF);
            if !leaf {
                self.unite(above);
            }
            above = parent;
        }
    }

    /// What is to be stored.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        let (mut cuts, mut next) = (Vec::new(), Vec::new());
        next.extend(Some(self.root).filter(|root| *root != NONE));
        while let Some(node) = next.pop() {
            let Node { children, column, cut, .. } = self.nodes[node as usize];
            cuts.push(Cut((column != LEAF).then_some((column, cut))));
            if column != LEAF {
                next.extend([children[1], children[0]]);
            }
        }
        cuts
    }

    /// The column of each cut.
    pub(super) fn cut_columns(&self) -> Vec<u32> {
        self.cuts().iter().filter_map(|Cut(cut)| cut.map(|(column, _)| column)).collect()
    }

    /// The tree of these cuts and points with their masses; none if they do not belong together.
    pub(super) fn of(columns: usize, cuts: &[Cut], points: impl Iterator<Item = (Vec<f32>, u32)>) -> Option<Self> {
        let mut tree = Self::new(columns);
        // Where the next node belongs: its parent, and which child it is.
        let mut open = vec![(NONE, 0)];
        for Cut(cut) in cuts {
            let (parent, child) = open.pop()?;
            let (column, at) = cut.unwrap_or((LEAF, 0.0));
            if column != LEAF && column as usize >= columns || !at.is_finite() {
                return None;
            }
            let node = tree.add_node(Node { parent, children: [NONE; 2], column, cut: at, mass: 0 });
            match tree.nodes.get_mut(parent as usize) {
                Some(parent) => parent.children[child] = node,
                None => tree.root = node,
            }
            if column != LEAF {
                open.extend([(node, 1), (node, 0)]);
            }
        }
        if !open.is_empty() && !cuts.is_empty() {
            return None;
        }
        for (point, mass) in points {
            if tree.root == NONE {
                return None;
            }
            let leaf = tree.leaf(&point);
            if tree.nodes[leaf as usize].mass == 0 {
                tree.set_point(leaf, &point);
            } else if tree.bounds(leaf).0 != point {
                return None;
            }
            let node = &mut tree.nodes[leaf as usize];
            node.mass = node.mass.checked_add(mass)?;
        }
        // Children stand behind their parents.
        for node in (0..tree.nodes.len()).rev() {
            if tree.nodes[node].column != LEAF {
                let [a, b] = tree.nodes[node].children.map(|child| tree.nodes[child as usize].mass);
                tree.nodes[node].mass = a.checked_add(b)?;
                tree.unite(node as u32);
            }
        }
        tree.nodes.iter().all(|node| node.mass > 0).then_some(tree)
    }
}
