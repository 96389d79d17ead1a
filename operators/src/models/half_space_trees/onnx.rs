//! Half-space trees as ONNX: one operator gives for each tree the logarithm of the density where a row ends.

use super::super::onnx::{Asks, Edge, Expressed, Graph, NotExpressible, Question, Rows, Way};
use super::{Config, HalfSpaceTrees, chance};

/// How many numbers the table of the places of categories may have in an ONNX graph.
const PLACES_MAX: usize = 1 << 24;

impl HalfSpaceTrees {
    /// How rare rows are.
    pub(super) fn express(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if !self.stored.judges {
            return Ok(rows.repeat(graph, &[0.0]));
        }
        let Config { height, window, trees, .. } = self.stored.config;
        if rows.shape.categories.saturating_mul(trees as usize) > PLACES_MAX {
            return Err(NotExpressible::new("its categories have too many places for a table of all of them"));
        }
        let columns = self.columns(graph, rows);
        let questions: Vec<_> = (0..trees as usize).map(|tree| self.questions(tree)).collect();
        let logarithms = graph.trees(columns, &questions);
        let sum = graph.reduce("ReduceSum", logarithms, 1, true);
        let (all, none) = (libm::log2(f64::from(window)) + f64::from(height), -1.0);
        let mean = graph.scale(sum, -1.0 / f64::from(trees));
        let less = graph.shift(mean, all);
        let score = graph.scale(less, 1.0 / (all - none));
        Ok(graph.clamp(score, 0.0, 1.0))
    }

    /// Where each number is between its limits, and then for each column of categories where the category is in each tree.
    fn columns(&self, graph: &mut Graph, rows: &Rows) -> Edge {
        let Config { trees, seed, .. } = self.stored.config;
        let trees = trees as usize;
        let numbers = rows.numbers.map(|numbers| {
            let limits = &self.stored.reference;
            let low: Vec<f64> = limits.iter().map(|limits| 0.5 * limits.low).collect();
            let range: Vec<f64> = limits.iter().map(|limits| 0.5 * limits.high - 0.5 * limits.low).collect();
            let [low, range] = [low, range].map(|values| graph.doubles(&[values.len()], &values));
            let half = graph.scale(numbers, 0.5);
            let above = graph.subtract(half, low);
            let inside = graph.divide(above, range);
            // What has no range is in the middle, or beyond all cuts.
            let side = graph.apply("Sign", &[above]);
            let side = graph.scale(side, f64::MAX);
            let beside = graph.shift(side, 0.5);
            let zero = graph.scalar(0.0);
            let is_wide = graph.apply("Greater", &[range, zero]);
            graph.apply("Where", &[is_wide, inside, beside])
        });
        let categories = rows.active.map(|active| {
            let place = |cell: usize| chance(seed, cell % trees, (cell / trees) as u32);
            let places: Vec<f64> = (0..rows.shape.categories * trees).map(place).collect();
            let table = graph.doubles(&[rows.shape.categories, trees], &places);
            let places = graph.gather(table, active);
            let shape = graph.integers(&[0, (rows.shape.active * trees) as i64]);
            graph.apply("Reshape", &[places, shape])
        });
        let parts: Vec<Edge> = numbers.into_iter().chain(categories).collect();
        graph.beside(&parts)
    }

    /// The cuts of a tree that rows meet; where they end is the logarithm of the density there.
    fn questions(&self, tree: usize) -> Vec<Question> {
        let Config { height, window, trees, .. } = self.stored.config;
        let (count, parts) = ((1 << height) - 1, self.stored.config.parts());
        let (cuts, masses) = (&self.cuts[tree * count..][..count], &self.stored.masses[tree * parts..][..parts]);
        let (few, dense) = (0.1 * window as f32, self.stored.reference.len());
        let end = |part: usize| {
            let depth = (part + 1).ilog2();
            let is_end = depth == height || masses[part].reference < few;
            is_end.then(|| libm::log2(f64::from(masses[part].reference) + 0.5) + f64::from(depth))
        };
        if let Some(logarithm) = end(0) {
            return vec![Question::idle(logarithm)];
        }
        let (mut met, mut questions) = (vec![0], Vec::new());
        while let Some(part) = met.get(questions.len()).copied() {
            let [yes, no] = [2 * part + 1, 2 * part + 2].map(|half| {
                if let Some(logarithm) = end(half) {
                    return Way::Leaf(logarithm);
                }
                met.push(half);
                Way::Question(met.len() - 1)
            });
            let cut = cuts[part];
            let column = match (cut.column as usize).checked_sub(dense) {
                Some(category) => dense + category * trees as usize + tree,
                None => cut.column as usize,
            };
            questions.push(Question { column, with: cut.at.into(), asks: Asks::Below, yes, no });
        }
        questions
    }
}
