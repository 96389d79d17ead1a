//! The linear model itself.

use serde::{Deserialize, Serialize};

use super::super::onnx::{Expressed, Graph, Rows};
use super::super::packed::{self, Pack};
use super::super::weights::within;
use super::super::{Example, Explanation, Model, Names, Quicken, Row, Shape, Take, Tensor, Weights};
use super::{Boost, Loss, Rule, Scaling, dot};

/// A weight, and what its rule remembers of it: side by side, since of many categories they come from far.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(in crate::models) struct Coordinate<C> {
    pub(in crate::models) weight: f64,
    pub(in crate::models) cell: C,
}

impl<C: Pack> Pack for Coordinate<C> {
    const NUMBERS: usize = 1 + C::NUMBERS;

    #[inline]
    fn pack(&self, numbers: &mut [f64]) {
        numbers[0] = self.weight;
        self.cell.pack(&mut numbers[1..]);
    }

    #[inline]
    fn unpack(numbers: &[f64]) -> Self {
        Self { weight: numbers[0], cell: C::unpack(&numbers[1..]) }
    }
}

/// A linear model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct Linear<L: Loss, R: Rule> {
    rule: R,
    loss: L,
    scaling: Scaling,
    boost: Boost,
    /// Of the numbers.
    weights: Vec<f64>,
    cells: Vec<R::Cell>,
    bias: Coordinate<R::Cell>,
    #[serde(with = "packed")]
    categories: Vec<Coordinate<R::Cell>>,
}

impl<L: Loss, R: Rule> Linear<L, R> {
    pub(super) fn new(shape: Shape, loss: L, rule: R) -> Self {
        Self {
            rule,
            loss,
            scaling: Scaling::new(shape, R::CENTRES),
            boost: Boost::default(),
            weights: vec![0.0; shape.dense],
            cells: vec![R::Cell::default(); shape.dense],
            bias: Coordinate::default(),
            categories: vec![Coordinate::default(); shape.categories],
        }
    }

    /// The weighted sum. That of categories is in four parts, as [`dot`], so that many are fetched at once.
    #[inline]
    fn sum(&self, scaled: &[f64], active: &[u32]) -> f64 {
        let weight = |category: u32| self.categories[category as usize].weight;
        let (mut parts, fours) = ([0.0; 4], active.chunks_exact(4));
        let rest: f64 = fours.remainder().iter().map(|category| weight(*category)).sum();
        for four in fours {
            for at in 0..4 {
                parts[at] += weight(four[at]);
            }
        }
        dot(&self.weights, scaled) + self.bias.weight + ((parts[0] + parts[1]) + (parts[2] + parts[3]) + rest)
    }

    /// How far the sum would move per unit of gradient.
    #[inline]
    fn reach(&self, row: Row<'_>, scaled: &[f64], pace: f64, gradient: f64) -> f64 {
        let moved = |cell: R::Cell, z: f64| self.rule.rate(pace, cell, gradient * z) * z * z;
        let categories = row.active.iter().map(|category| moved(self.categories[*category as usize].cell, 1.0));
        let numbers = self.cells.iter().zip(scaled).map(|(cell, z)| moved(*cell, *z));
        numbers.sum::<f64>() + moved(self.bias.cell, 1.0) + categories.sum::<f64>()
    }

    #[inline]
    fn step(&mut self, row: Row<'_>, scaled: &[f64], pace: f64, gradient: f64, factor: f64) {
        let rule = self.rule;
        for ((weight, cell), z) in self.weights.iter_mut().zip(&mut self.cells).zip(scaled) {
            rule.step(pace, weight, cell, gradient * z, factor);
        }
        let Coordinate { weight, cell } = &mut self.bias;
        rule.unregularised().step(pace, weight, cell, gradient, factor);
        let categories = &mut self.categories[..];
        for category in row.active {
            let Coordinate { weight, cell } = &mut categories[*category as usize];
            rule.step(pace, weight, cell, gradient, factor);
        }
    }
}

impl<L: Loss, R: Rule> Model for Linear<L, R> {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.scaling.scale(row.dense, scratch);
        outputs[0] = self.loss.output(self.sum(scratch, row.active));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let Example { target, weight, .. } = example;
        self.scaling.scale(row.dense, scratch);
        let mut sum = self.sum(scratch, row.active);
        let mut output = self.loss.output(sum);
        outputs[0] = output;
        let Self { rule, weights, cells, .. } = self;
        let rescale = |at: usize, ratio| rule.rescale(&mut weights[at], &mut cells[at], ratio);
        if self.scaling.before(row, weight, scratch, rescale) {
            sum = self.sum(scratch, row.active);
            output = self.loss.output(sum);
        }
        self.loss.observe(target, weight);
        let pace = self.rule.pace(self.scaling.norm());
        let gradient = self.loss.gradient(sum, output, target);
        let (boost, weighted) = (self.boost.next(weight), weight * gradient);
        let mut factor = boost;
        // The implicit step: towards the target, however long, but never past it.
        if L::OVERSHOOTS || weight * boost > 1.0 {
            let reach = weight * boost * self.reach(row, scratch, pace, weighted);
            factor *= self.loss.damping(sum, target, gradient, reach);
        }
        self.step(row, scratch, pace, weighted, factor);
        self.scaling.after(row, weight);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![Tensor::row("weights", self.weights.clone())];
        tensors.extend(self.scaling.tensors());
        tensors.push(Tensor::row("bias", vec![self.bias.weight]));
        tensors.push(Tensor::row("categories", self.categories.iter().map(|category| category.weight).collect()));
        tensors.extend(self.loss.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let form = format!(
            "weighted sum of (x - mean) / scale, each in [-1, 1], and of the row's categories{}",
            self.loss.says()
        );
        let categories = self.categories.iter().map(|category| category.weight);
        listed(form, self.bias.weight, &self.weights, categories, names)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let numbers = self.scaling.onnx(graph, rows);
        let categories: Vec<f64> = self.categories.iter().map(|category| category.weight).collect();
        let sum = rows.sums(graph, numbers, &self.weights, &categories, &[self.bias.weight]);
        Ok(self.loss.onnx(graph, sum))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.scaling.fits(shape)
            && self.weights.len() == shape.dense
            && self.cells.len() == shape.dense
            && self.categories.len() == shape.categories
    }
}

/// The largest magnitude of a weight of others: sums of them need room.
const WEIGHT_MAX: f64 = 1e100;

impl<L: Loss, R: Rule> Take for Linear<L, R> {
    /// What rules remember begins with nothing, as far as a weight does not follow from it.
    fn take(&mut self, from: &mut Weights) -> Result<(), String> {
        let mut take = |name: &str, len: usize| {
            let values = from.take(name, &[len])?;
            within(name, &values, -WEIGHT_MAX, WEIGHT_MAX).map(|()| values)
        };
        self.weights = take("weights", self.weights.len())?;
        let bias = take("bias", 1)?;
        let categories = take("categories", self.categories.len())?;
        let rule = self.rule;
        self.weights.iter_mut().zip(&mut self.cells).for_each(|(weight, cell)| rule.rescale(weight, cell, 1.0));
        let all = self.categories.iter_mut().zip(categories).map(|(to, weight)| (to, weight, rule));
        for (Coordinate { weight, cell }, value, rule) in all.chain([(&mut self.bias, bias[0], rule.unregularised())]) {
            *weight = value;
            rule.rescale(weight, cell, 1.0);
        }
        self.scaling.take(from)?;
        self.loss.take(from)
    }
}

impl<L: Loss, R: Rule> Quicken for Linear<L, R> {
    fn quicken(&mut self, factor: f64, examples: f64) {
        self.boost = Boost::start(factor, examples);
    }
}

/// The explanation of a weighted sum: its weights, the largest first.
pub(in crate::models) fn listed(
    form: String,
    bias: f64,
    weights: &[f64],
    categories: impl Iterator<Item = f64>,
    names: &Names,
) -> Explanation {
    let numbers = names.dense.iter().cloned().zip(weights.iter().copied());
    let categories = (0..).zip(categories).filter(|(_, weight)| *weight != 0.0);
    let mut weights: Vec<(String, f64)> =
        numbers.chain(categories.map(|(category, weight)| (names.category(category), weight))).collect();
    weights.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    let mut lines = vec![form + "; importance: size of the weight", format!("bias {bias:+.6}")];
    lines.extend(weights.iter().map(|(name, weight)| format!("{name} {weight:+.6}")));
    let importances = weights.into_iter().map(|(name, weight)| (name, weight.abs())).collect();
    Explanation { importances, lines }
}
