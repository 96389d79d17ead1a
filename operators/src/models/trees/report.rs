//! Trees as text and as arrays.

use super::super::{Explanation, Names, Tensor};
use super::arena::Node;
use super::class_tree::ClassTree;

/// How many lines a tree is told in at most.
const LINES_MAX: usize = 1000;

/// The names of all columns, the numbers first.
fn columns(names: &Names) -> Vec<String> {
    names.dense.iter().cloned().chain(names.categories.iter().map(|(name, _)| name.clone())).collect()
}

/// How much each column matters: its share in what all splits are worth.
pub(in super::super) fn importances(merits: &[f64], names: &Names) -> Vec<(String, f64)> {
    let total: f64 = merits.iter().sum();
    let share = |merit: f64| if total > 0.0 { merit / total } else { 0.0 };
    let mut shares: Vec<(String, f64)> =
        columns(names).into_iter().zip(merits.iter().map(|merit| share(*merit))).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

/// The same, averaged over trees.
pub(in super::super) fn averaged_importances<'a>(
    trees: impl Iterator<Item = &'a [f64]>,
    names: &Names,
) -> Vec<(String, f64)> {
    let mut merits = Vec::new();
    for tree in trees {
        merits.resize(tree.len(), 0.0);
        let total: f64 = tree.iter().sum();
        for (merit, part) in merits.iter_mut().zip(tree).filter(|_| total > 0.0) {
            *merit += part / total;
        }
    }
    importances(&merits, names)
}

/// A tree as indented text; `leaf` tells what a leaf says.
pub(in super::super) fn lines(nodes: &[Node], names: &Names, leaf: impl Fn(usize) -> String) -> Vec<String> {
    let number = |column: u32| names.dense.get(column as usize).cloned().unwrap_or_else(|| format!("number {column}"));
    let mut lines = Vec::new();
    // Node, depth, and the question that leads there.
    let mut open = vec![(0, 0, String::new())];
    while let Some((at, depth, question)) = open.pop() {
        if lines.len() == LINES_MAX {
            lines.push(format!("... and {} branches more", open.len() + 1));
            break;
        }
        let indented = format!("{}{question}", "  ".repeat(depth));
        let (yes, if_yes, if_no) = match nodes[at] {
            Node::Leaf(at) => {
                lines.push(format!("{indented}{}{}", if question.is_empty() { "" } else { ": " }, leaf(at as usize)));
                continue;
            }
            Node::Number { column, threshold, yes } => {
                let name = number(column);
                (yes, format!("{name} <= {threshold}"), format!("{name} > {threshold}"))
            }
            Node::Category { category, yes, .. } => {
                let name = names.category(category);
                (yes, name.clone(), format!("not {name}"))
            }
        };
        let deeper = if question.is_empty() { depth } else { depth + 1 };
        if !question.is_empty() {
            lines.push(indented);
        }
        open.push((yes as usize + 1, deeper, if_no));
        open.push((yes as usize, deeper, if_yes));
    }
    lines
}

/// The nodes as arrays: the column that each asks for (numbers first; -1 for a leaf), the threshold or the category, and
/// the child for yes (the one for no is the next); for a leaf, which one it is.
pub(in super::super) fn tensors(prefix: &str, nodes: &[Node], dense: usize) -> Vec<Tensor> {
    let row = |name: &str, value: &dyn Fn(Node) -> f64| {
        Tensor::row(format!("{prefix}{name}"), nodes.iter().map(|node| value(*node)).collect())
    };
    vec![
        row("columns", &|node| match node {
            Node::Leaf(_) => -1.0,
            Node::Number { column, .. } => f64::from(column),
            Node::Category { column, .. } => dense as f64 + f64::from(column),
        }),
        row("thresholds", &|node| match node {
            Node::Leaf(_) => 0.0,
            Node::Number { threshold, .. } => threshold,
            Node::Category { category, .. } => f64::from(category),
        }),
        row("children", &|node| match node {
            Node::Leaf(next) | Node::Number { yes: next, .. } | Node::Category { yes: next, .. } => f64::from(next),
        }),
    ]
}

impl ClassTree {
    /// The tree as text.
    pub(in super::super) fn explain(&self, names: &Names) -> Explanation {
        let name = |class: u32| names.classes.get(class as usize).cloned().unwrap_or_else(|| format!("class {class}"));
        let leaf = |at: usize| {
            let mut counts: Vec<(u32, f64)> = self.leaves[at].counts().collect();
            counts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let total: f64 = counts.iter().map(|(_, count)| count).sum();
            let share = |count: f64| if total > 0.0 { count / total } else { 0.0 };
            let parts = counts.iter().take(5).map(|(class, count)| format!("{} {:.3}", name(*class), share(*count)));
            format!("{} ({total:.0} examples)", parts.collect::<Vec<_>>().join(", "))
        };
        let mut text =
            vec![format!("{} leaves; importance: share of a column in what the splits are worth", self.size())];
        text.extend(lines(self.arena.nodes(), names, leaf));
        Explanation { importances: importances(self.importances(), names), lines: text }
    }

    /// The nodes, and what each leaf knows.
    pub(in super::super) fn tensors(&self, prefix: &str, classes: usize) -> Vec<Tensor> {
        let classes = classes.max(2);
        let mut tensors = tensors(prefix, self.arena.nodes(), self.dense as usize);
        let mut counts = vec![0.0; classes * self.leaves.len()];
        for (leaf, row) in self.leaves.iter().zip(counts.chunks_exact_mut(classes.max(1))) {
            for (class, count) in leaf.counts() {
                row[class as usize] = count;
            }
        }
        tensors.push(Tensor::table(format!("{prefix}counts"), self.leaves.len(), counts));
        tensors.extend(
            self.leaves.iter().enumerate().flat_map(|(at, leaf)| leaf.tensors(&format!("{prefix}leaves/{at}/"))),
        );
        tensors
    }
}
