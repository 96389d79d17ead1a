//! Trees as ONNX: one operator tells for all trees in which leaf a row ends, and what is said there is looked up in tables over all
//! leaves. So it does not matter how leaves predict.

use std::collections::BTreeMap;

use super::super::onnx::{Asks, Edge, Expressed, Graph, NotExpressible, Question, Rows, Way};
use super::arena::{Arena, Node};
use super::class_leaf::{ClassLeaf, Term};
use super::class_tree::ClassTree;
use super::gauss::FAR;
use super::number_tree::{Growth, NORMAL_MAX, NumberTree};
use super::{NUMBER_MAX, Voting};

/// How many numbers a table over all leaves may have: leaves keep only what they have seen, a table has room for all.
const CELLS_MAX: usize = 1 << 22;

/// The logarithm of a probability that is none.
const NEVER: f64 = -1e305;

/// The leaf of each tree, `[rows, trees]`, counted over all trees; and of each tree its leaves in the order of that count.
fn leaves<'a>(graph: &mut Graph, rows: &Rows, arenas: impl Iterator<Item = &'a Arena>) -> (Edge, Vec<Vec<usize>>) {
    let (mut trees, mut orders, mut first) = (Vec::new(), Vec::new(), 0);
    for arena in arenas {
        let (questions, order) = questions(arena, rows.shape.dense, first);
        first += order.len();
        trees.push(questions);
        orders.push(order);
    }
    let columns = rows.columns(graph);
    let leaves = graph.trees(columns, &trees);
    (graph.as_index(leaves), orders)
}

/// What a tree asks from its root on, where its leaves are counted from `first` on; and the leaves in the order of that count.
fn questions(arena: &Arena, dense: usize, first: usize) -> (Vec<Question>, Vec<usize>) {
    let nodes = arena.nodes();
    let (mut reached, mut ways, mut leaves, mut asked) = (vec![0], BTreeMap::new(), Vec::new(), 0);
    let mut at = 0;
    while let Some(&node) = reached.get(at) {
        at += 1;
        let way = match nodes[node] {
            Node::Leaf(leaf) => {
                leaves.push(leaf as usize);
                Way::Leaf((first + leaves.len() - 1) as f64)
            }
            Node::Number { yes, .. } | Node::Category { yes, .. } => {
                reached.extend([yes as usize, yes as usize + 1]);
                asked += 1;
                Way::Question(asked - 1)
            }
        };
        ways.insert(node, way);
    }
    let question = |node: &usize| {
        let (column, with, asks, yes) = match nodes[*node] {
            Node::Leaf(_) => return None,
            Node::Number { column, threshold, yes } => (column as usize, threshold, Asks::AtMost, yes as usize),
            Node::Category { column, category, yes } => {
                (dense + column as usize, category.into(), Asks::Equal, yes as usize)
            }
        };
        Some(Question { column, with, asks, yes: ways[&yes], no: ways[&(yes + 1)] })
    };
    let mut questions: Vec<Question> = reached.iter().filter_map(question).collect();
    if questions.is_empty() {
        questions.push(Question::idle(first as f64));
    }
    (questions, leaves)
}

/// What trees of classes vote, each times its voice, added: `[rows, classes]`.
pub(in super::super) fn votes(
    graph: &mut Graph,
    rows: &Rows,
    voting: Voting,
    classes: usize,
    trees: &[(&ClassTree, f64)],
) -> Expressed {
    let (at, orders) = leaves(graph, rows, trees.iter().map(|(tree, _)| &tree.arena));
    let each = trees.iter().zip(&orders);
    let each = each.flat_map(|((tree, voice), order)| order.iter().map(|leaf| (&tree.leaves[*leaf], *voice)));
    let all: Vec<(&ClassLeaf, f64)> = each.collect();
    check_cells([all.len(), classes, 1])?;
    if !all.iter().any(|(leaf, _)| leaf.is_bayesian(voting)) {
        let mut table = Vec::with_capacity(all.len() * classes);
        for (leaf, voice) in &all {
            table.extend(shares(leaf, classes).iter().map(|share| share * voice));
        }
        let table = graph.doubles(&[all.len(), classes], &table);
        let votes = graph.gather(table, at);
        return Ok(graph.sum(votes, 1));
    }
    let leaves: Vec<&ClassLeaf> = all.iter().map(|(leaf, _)| *leaf).collect();
    let scores = scores(graph, rows, voting, classes, (at, &leaves))?;
    let votes = graph.softmax(scores);
    let voices: Vec<f64> = trees.iter().map(|(_, voice)| *voice).collect();
    let voices = graph.doubles(&[voices.len(), 1], &voices);
    let votes = graph.multiply(votes, voices);
    Ok(graph.sum(votes, 1))
}

/// Refuses tables that are too large.
fn check_cells(lengths: [usize; 3]) -> Result<(), NotExpressible> {
    let cells = lengths.into_iter().fold(1, usize::saturating_mul);
    let reason = "its leaves, classes and columns are too many for tables of what each leaf says";
    if cells <= CELLS_MAX { Ok(()) } else { Err(NotExpressible::new(reason)) }
}

/// The shares of all classes in a leaf.
fn shares(leaf: &ClassLeaf, classes: usize) -> Vec<f64> {
    let mut shares = vec![0.0; classes];
    leaf.vote_by_counts(&mut shares);
    shares
}

/// The logarithms of the votes, but for a summand that they share: `[rows, trees, classes]`. Leaves that vote by how often they saw
/// each class have the logarithms of its share, and nothing that depends on the row.
fn scores(
    graph: &mut Graph,
    rows: &Rows,
    voting: Voting,
    classes: usize,
    (at, leaves): (Edge, &[&ClassLeaf]),
) -> Expressed {
    let (dense, count) = (rows.shape.dense, leaves.len());
    check_cells([count, classes, dense])?;
    let mut biases = vec![NEVER; count * classes];
    let (mut means, mut factors) = (vec![0.0; count * classes * dense], vec![0.0; count * classes * dense]);
    for (place, leaf) in leaves.iter().enumerate() {
        if !leaf.is_bayesian(voting) {
            let shares = shares(leaf, classes);
            let some = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
            some.for_each(|(class, share)| biases[place * classes + class] = libm::log(*share));
            continue;
        }
        for Term { class, bias, normals } in leaf.terms() {
            let cell = place * classes + class as usize;
            biases[cell] = bias;
            for (column, mean, variance) in normals {
                means[cell * dense + column as usize] = mean;
                factors[cell * dense + column as usize] = 1.0 / variance.sqrt();
            }
        }
    }
    let biases = graph.doubles(&[count, classes], &biases);
    let mut scores = graph.gather(biases, at);
    if let Some(numbers) = rows.numbers {
        let numbers = graph.clamp(numbers, -NUMBER_MAX, NUMBER_MAX);
        let numbers = graph.widen(numbers, 1);
        let numbers = graph.widen(numbers, 1);
        let [means, factors] = [means, factors].map(|table| {
            let table = graph.doubles(&[count, classes, dense], &table);
            graph.gather(table, at)
        });
        let apart = graph.subtract(numbers, means);
        let apart = graph.multiply(apart, factors);
        let squares = graph.reduce("ReduceSumSquare", apart, 3, false);
        let squares = graph.at_most(squares, FAR);
        let densities = graph.scale(squares, -0.5);
        scores = graph.add(scores, densities);
    }
    if let Some(active) = rows.active {
        let of_categories = category_scores(graph, rows, voting, classes, (at, leaves), active);
        scores = graph.add(scores, of_categories);
    }
    Ok(scores)
}

/// The part of the categories in the scores. Only what leaves have seen is in the table, and for each leaf and column what is said of
/// all other categories.
fn category_scores(
    graph: &mut Graph,
    rows: &Rows,
    voting: Voting,
    classes: usize,
    (at, leaves): (Edge, &[&ClassLeaf]),
    active: Edge,
) -> Edge {
    let (columns, categories) = (rows.shape.active, rows.shape.categories);
    // A map has at least one key: this one is no place's.
    let (mut keys, mut table, mut others) = (vec![-1], vec![0.0; classes], vec![0.0; leaves.len() * columns * classes]);
    for (place, leaf) in leaves.iter().enumerate().filter(|(_, leaf)| leaf.is_bayesian(voting)) {
        for (category, column) in leaf.categories() {
            keys.push((place * categories + category as usize) as i64);
            let first = table.len();
            table.resize(first + classes, 0.0);
            let terms = leaf.category_terms(column, category);
            terms.for_each(|(class, term)| table[first + class as usize] = term);
        }
        for column in 0..columns {
            let terms = leaf.category_terms(column as u32, u32::MAX);
            terms.for_each(|(class, term)| others[(place * columns + column) * classes + class as usize] = term);
        }
    }
    let seen = keys.len();
    table.extend(others);
    let (leaf, category) = (graph.widen(at, 2), graph.widen(active, 1));
    let width = graph.integers(&[categories as i64]);
    let key = graph.multiply(leaf, width);
    let key = graph.add(key, category);
    let found = graph.look_up(key, keys);
    let width = graph.integers(&[columns as i64]);
    let other = graph.multiply(leaf, width);
    let first = graph.integers(&(seen..seen + columns).map(|first| first as i64).collect::<Vec<_>>());
    let other = graph.add(other, first);
    let zero = graph.integers(&[0]);
    let is_other = graph.apply("Less", &[found, zero]);
    let cell = graph.apply("Where", &[is_other, other, found]);
    let table = graph.doubles(&[table.len() / classes, classes], &table);
    let terms = graph.gather(table, cell);
    graph.sum(terms, 2)
}

/// What trees of numbers say, `[rows, trees]`.
pub(in super::super) fn numbers(graph: &mut Graph, rows: &Rows, growth: &Growth, trees: &[&NumberTree]) -> Edge {
    let (at, orders) = leaves(graph, rows, trees.iter().map(|tree| tree.arena()));
    let dense = rows.shape.dense;
    let (mut biases, mut weights, mut is_linear) = (Vec::new(), Vec::new(), false);
    for (tree, order) in trees.iter().zip(&orders) {
        for place in order {
            let (bias, own) = tree.leaf_terms(growth, *place);
            biases.push(bias);
            is_linear |= own.is_some();
            weights.extend(own.unwrap_or_else(|| vec![0.0; dense]));
        }
    }
    let count = biases.len();
    let table = graph.doubles(&[count], &biases);
    let said = graph.gather(table, at);
    if !is_linear {
        return said;
    }
    let (means, factors): (Vec<f64>, Vec<f64>) = trees.iter().flat_map(|tree| tree.normals()).unzip();
    let Some(apart) = rows.apart(graph, NUMBER_MAX, &means) else { return said };
    let normal = rows.times(graph, apart, &factors);
    let normal = graph.clamp(normal, -NORMAL_MAX, NORMAL_MAX);
    let weights = graph.doubles(&[count, dense], &weights);
    let weights = graph.gather(weights, at);
    let terms = graph.multiply(normal, weights);
    let terms = graph.sum(terms, 2);
    graph.add(said, terms)
}
