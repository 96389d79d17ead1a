//! Runs a network on the processor: forward to its outputs, and back to the gradients of its parameters.
//!
//! What a row gives does not depend on the rows beside it, but for the statistics of a mini-batch in [`Operation::BatchNorm`]
//! while it learns. All sums have a fixed order; exponentials come from `libm`.

use pulp::Arch;
use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::graph::{Function, Graph, Node, Operation};
use super::product::{Left, Product, transpose};
use super::table::Table;

/// The numbers of a network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Weights {
    /// All parameters, one after the other.
    #[serde(with = "super::floats")]
    pub(super) values: Vec<f32>,
    /// Means and variances of the past: of each batch norm, first all means.
    #[serde(with = "super::floats")]
    pub(super) statistics: Vec<f32>,
    /// The embeddings.
    pub(super) table: Table,
}

/// The numbers with which a network answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) statistics: &'a [f32],
    pub(super) table: &'a Table,
}

/// Rows as the network takes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) rows: usize,
    /// Row after row.
    pub(super) numbers: &'a [f32],
    /// Row after row.
    pub(super) active: &'a [u32],
}

/// Of each node, its numbers in a mini-batch; reused.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub(super) values: Vec<Vec<f32>>,
    pub(super) gradients: Vec<Vec<f32>>,
    /// Whether a gradient has something that the next is to be added to.
    begun: Vec<bool>,
    /// Of some operations, what the way back needs: masks, deviations.
    kept: Vec<Vec<f32>>,
    scratch: Vec<f32>,
}

/// What keeps divisions by deviations finite.
const EPSILON: f32 = 1e-5;
/// How much of a mini-batch goes into the statistics of the past.
const MOMENTUM: f32 = 0.1;

/// What learning does that predicting does not.
pub(super) struct Learning<'a> {
    pub(super) random: &'a mut Random,
    /// The statistics of the past, which move.
    pub(super) statistics: &'a mut [f32],
}

impl Workspace {
    pub(super) fn new(graph: &Graph) -> Self {
        let empty = || vec![Vec::new(); graph.nodes()];
        Self { values: empty(), gradients: empty(), begun: Vec::new(), kept: empty(), scratch: Vec::new() }
    }

    /// The gradients of the embeddings, one after the other; of no use before [`Workspace::backward`].
    pub(super) fn embeddings(&self, graph: &Graph) -> &[f32] {
        let node = graph.operations().find(|(_, operation)| **operation == Operation::Embeddings);
        node.map_or(&[], |(node, _)| &self.gradients[node])
    }

    /// Computes all nodes.
    pub(super) fn forward(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
    ) {
        let rows = inputs.rows;
        for (at, operation) in graph.operations() {
            let (before, rest) = self.values.split_at_mut(at);
            let (out, kept) = (&mut rest[0], &mut self.kept[at]);
            let width = graph.width(Node(at));
            out.resize(rows * width, 0.0);
            let parameter = |parameter: usize| &weights.values[graph.range(parameter)];
            match operation {
                Operation::Numbers => out.copy_from_slice(inputs.numbers),
                Operation::Zeros => out.fill(0.0),
                Operation::Embeddings => {
                    let size = graph.embedding().max(1);
                    for (out, category) in out.chunks_exact_mut(size).zip(inputs.active) {
                        match weights.table.row(*category) {
                            Some(row) => out.copy_from_slice(row),
                            None => out.fill(0.0),
                        }
                    }
                }
                Operation::Dense { input, weights, bias } => {
                    let (bias, inner) = (parameter(*bias), graph.width(*input));
                    out.chunks_exact_mut(width).for_each(|out| out.copy_from_slice(bias));
                    let left = Left::Rows(&before[input.0], inner);
                    let right = parameter(*weights);
                    Product { left, right, out, rows, inner, columns: width, is_added: true }.run();
                }
                Operation::Activate { input, function } => function.apply(&before[input.0], out),
                Operation::LayerNorm { input, gain, shift } => {
                    layer_norm(&before[input.0], parameter(*gain), parameter(*shift), out, kept);
                }
                Operation::BatchNorm { input, gain, shift, statistics } => {
                    let input = &before[input.0];
                    let (gain, shift) = (parameter(*gain), parameter(*shift));
                    match &mut learning {
                        Some(Learning { statistics: past, .. }) => {
                            let past = &mut past[*statistics..][..2 * width];
                            column_moments(input, width, kept);
                            let more = rows as f32 / (rows as f32 - 1.0).max(1.0);
                            let (means, variances) = past.split_at_mut(width);
                            for (past, new) in means.iter_mut().zip(&kept[..width]) {
                                *past += MOMENTUM * (new - *past);
                            }
                            for (past, new) in variances.iter_mut().zip(&kept[width..]) {
                                *past += MOMENTUM * (new * more - *past);
                            }
                        }
                        None => {
                            kept.clear();
                            kept.extend_from_slice(&weights.statistics[*statistics..][..2 * width]);
                        }
                    }
                    kept[width..].iter_mut().for_each(|variance| *variance = 1.0 / (*variance + EPSILON).sqrt());
                    let (means, scales) = kept.split_at(width);
                    for (out, input) in out.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
                        for column in 0..width {
                            let normal = (input[column] - means[column]) * scales[column];
                            out[column] = normal * gain[column] + shift[column];
                        }
                    }
                }
                Operation::Dropout { input, rate } => match &mut learning {
                    Some(Learning { random, .. }) => {
                        let (rate, scale) = (f64::from(*rate), 1.0 / (1.0 - rate));
                        kept.clear();
                        kept.extend((0..out.len()).map(|_| if random.uniform() < rate { 0.0 } else { scale }));
                        for ((out, input), mask) in out.iter_mut().zip(&before[input.0]).zip(&*kept) {
                            *out = input * mask;
                        }
                    }
                    None => out.copy_from_slice(&before[input.0]),
                },
                Operation::Add { left, right, factor } => {
                    for ((out, left), right) in out.iter_mut().zip(&before[left.0]).zip(&before[right.0]) {
                        *out = left + factor * right;
                    }
                }
                Operation::Multiply { left, right } => {
                    for ((out, left), right) in out.iter_mut().zip(&before[left.0]).zip(&before[right.0]) {
                        *out = left * right;
                    }
                }
                Operation::Concat { parts } => {
                    let mut start = 0;
                    for part in parts {
                        let part_width = graph.width(*part);
                        copy_columns(&before[part.0], part_width, 0, out, width, start, part_width);
                        start += part_width;
                    }
                }
                Operation::Slice { input, start } => {
                    copy_columns(&before[input.0], graph.width(*input), *start, out, width, 0, width);
                }
            }
        }
    }

    /// The gradient of `output` as it was set in [`Workspace::gradients`], back to that of all parameters, which is added to
    /// `sums`. The embeddings' is left at their node.
    pub(super) fn backward(&mut self, graph: &Graph, weights: View<'_>, rows: usize, output: Node, sums: &mut [f32]) {
        self.begun.clear();
        self.begun.resize(graph.nodes(), false);
        self.begun[output.0] = true;
        for (at, operation) in graph.operations().rev() {
            if !graph.learns(Node(at)) || !self.begun[at] {
                continue;
            }
            let width = graph.width(Node(at));
            let (before, rest) = self.gradients.split_at_mut(at);
            let mut back = Back { graph, gradients: before, begun: &mut self.begun, rows };
            let (out, values, kept) = (&mut rest[0], &self.values, &self.kept[at]);
            match operation {
                Operation::Numbers | Operation::Zeros | Operation::Embeddings => {}
                Operation::Dense { input, weights: matrix, bias } => {
                    let inner = graph.width(*input);
                    let bias = &mut sums[graph.range(*bias)];
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            for row in out.chunks_exact(width) {
                                bias.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                            }
                        },
                    );
                    let left = Left::Columns(&values[input.0], inner);
                    let sum = &mut sums[graph.range(*matrix)];
                    Product { left, right: out, out: sum, rows: inner, inner: rows, columns: width, is_added: true }
                        .run();
                    if let Some((gradient, is_added)) = back.to(*input) {
                        transpose(&weights.values[graph.range(*matrix)], inner, width, &mut self.scratch);
                        let (left, right) = (Left::Rows(out, width), &self.scratch);
                        Product { left, right, out: gradient, rows, inner: width, columns: inner, is_added }.run();
                    }
                }
                Operation::Activate { input, function } => {
                    if let Some((gradient, is_added)) = back.to(*input) {
                        function.back(&values[input.0], &values[at], out, gradient, is_added);
                    }
                }
                Operation::LayerNorm { input, gain, shift } => {
                    let gains = &weights.values[graph.range(*gain)];
                    layer_norm_back(&values[input.0], kept, out, width, &mut self.scratch, gains, |normal, row| {
                        let gain = sums[graph.range(*gain)].iter_mut().zip(normal).zip(row);
                        gain.for_each(|((sum, normal), value)| *sum += normal * value);
                        sums[graph.range(*shift)].iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    });
                    back.add(*input, &self.scratch, 1.0);
                }
                Operation::BatchNorm { input, gain, shift, .. } => {
                    let gains = &weights.values[graph.range(*gain)];
                    let (by_gain, by_shift) =
                        batch_norm_back(&values[input.0], kept, out, width, &mut self.scratch, gains);
                    sums[graph.range(*gain)].iter_mut().zip(by_gain).for_each(|(sum, value)| *sum += value);
                    sums[graph.range(*shift)].iter_mut().zip(by_shift).for_each(|(sum, value)| *sum += value);
                    back.add(*input, &self.scratch, 1.0);
                }
                Operation::Dropout { input, .. } => {
                    out.iter_mut().zip(kept).for_each(|(value, mask)| *value *= mask);
                    back.add(*input, out, 1.0);
                }
                Operation::Add { left, right, factor } => {
                    back.add(*left, out, 1.0);
                    back.add(*right, out, *factor);
                }
                Operation::Multiply { left, right } => {
                    for (one, other) in [(left, right), (right, left)] {
                        self.scratch.clear();
                        self.scratch.extend(out.iter().zip(&values[other.0]).map(|(value, other)| value * other));
                        back.add(*one, &self.scratch, 1.0);
                    }
                }
                Operation::Concat { parts } => {
                    let mut start = 0;
                    for part in parts {
                        let part_width = graph.width(*part);
                        self.scratch.resize(rows * part_width, 0.0);
                        copy_columns(out, width, start, &mut self.scratch, part_width, 0, part_width);
                        back.add(*part, &self.scratch, 1.0);
                        start += part_width;
                    }
                }
                Operation::Slice { input, start } => back.add_columns(*input, *start, out, width),
            }
        }
    }
}

/// The gradients of the nodes before one.
struct Back<'a> {
    graph: &'a Graph,
    gradients: &'a mut [Vec<f32>],
    begun: &'a mut [bool],
    rows: usize,
}

impl Back<'_> {
    /// The gradient of a node, and whether something is there to add to; none where nothing learns.
    fn to(&mut self, node: Node) -> Option<(&mut Vec<f32>, bool)> {
        if !self.graph.learns(node) {
            return None;
        }
        let is_added = std::mem::replace(&mut self.begun[node.0], true);
        let gradient = &mut self.gradients[node.0];
        gradient.resize(self.rows * self.graph.width(node), 0.0);
        Some((gradient, is_added))
    }

    fn add(&mut self, node: Node, values: &[f32], factor: f32) {
        match self.to(node) {
            Some((gradient, true)) => gradient.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value),
            Some((gradient, false)) => gradient.iter_mut().zip(values).for_each(|(sum, value)| *sum = factor * value),
            None => {}
        }
    }

    /// Adds to some of a node's columns.
    fn add_columns(&mut self, node: Node, start: usize, values: &[f32], width: usize) {
        let whole = self.graph.width(node);
        let Some((gradient, is_added)) = self.to(node) else { return };
        if !is_added {
            gradient.fill(0.0);
        }
        for (gradient, values) in gradient.chunks_exact_mut(whole).zip(values.chunks_exact(width)) {
            gradient[start..start + width].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}

fn copy_columns(
    from: &[f32],
    from_width: usize,
    from_start: usize,
    to: &mut [f32],
    width: usize,
    start: usize,
    len: usize,
) {
    for (to, from) in to.chunks_exact_mut(width.max(1)).zip(from.chunks_exact(from_width.max(1))) {
        to[start..start + len].copy_from_slice(&from[from_start..from_start + len]);
    }
}

/// The logistic function.
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

/// The argument of the hyperbolic tangent in GELU, and its derivative.
fn gelu_inner(x: f32) -> (f32, f32) {
    const SCALE: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    (SCALE * (x + CUBE * x * x * x), SCALE * (1.0 + 3.0 * CUBE * x * x))
}

impl Function {
    fn apply(self, input: &[f32], out: &mut [f32]) {
        let each = |function: fn(f32) -> f32, out: &mut [f32]| {
            out.iter_mut().zip(input).for_each(|(out, input)| *out = function(*input));
        };
        match self {
            Self::Relu => Arch::new().dispatch(
                #[inline(always)]
                || out.iter_mut().zip(input).for_each(|(out, input)| *out = if *input > 0.0 { *input } else { 0.0 }),
            ),
            Self::Silu => each(|x| x * sigmoid(x), out),
            Self::Gelu => each(|x| 0.5 * x * (1.0 + libm::tanhf(gelu_inner(x).0)), out),
            Self::Tanh => each(libm::tanhf, out),
            Self::Sigmoid => each(sigmoid, out),
        }
    }

    /// From the gradient of what it gives to that of what it got.
    fn back(self, input: &[f32], given: &[f32], out: &[f32], gradient: &mut [f32], is_added: bool) {
        #[inline(always)]
        fn each(
            [input, given, out]: [&[f32]; 3],
            gradient: &mut [f32],
            is_added: bool,
            slope: impl Fn(f32, f32) -> f32,
        ) {
            let places = gradient.iter_mut().zip(out).zip(input.iter().zip(given));
            if is_added {
                places.for_each(|((sum, out), (x, y))| *sum += out * slope(*x, *y));
            } else {
                places.for_each(|((sum, out), (x, y))| *sum = out * slope(*x, *y));
            }
        }
        let from = [input, given, out];
        match self {
            Self::Relu => Arch::new().dispatch(
                #[inline(always)]
                || each(from, gradient, is_added, |x, _| if x > 0.0 { 1.0 } else { 0.0 }),
            ),
            Self::Silu => each(from, gradient, is_added, |x, y| {
                let part = sigmoid(x);
                part + y * (1.0 - part)
            }),
            Self::Gelu => each(from, gradient, is_added, |x, _| {
                let (inner, slope) = gelu_inner(x);
                let tanh = libm::tanhf(inner);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
            }),
            Self::Tanh => each(from, gradient, is_added, |_, y| 1.0 - y * y),
            Self::Sigmoid => each(from, gradient, is_added, |_, y| y * (1.0 - y)),
        }
    }
}

/// Keeps the mean and the inverse deviation of each row.
fn layer_norm(input: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32], kept: &mut Vec<f32>) {
    let width = gain.len();
    kept.clear();
    for (out, input) in out.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
        let mean = input.iter().sum::<f32>() / width as f32;
        let variance = input.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        kept.extend([mean, scale]);
        for column in 0..width {
            out[column] = (input[column] - mean) * scale * gain[column] + shift[column];
        }
    }
}

/// The gradient of the input into `to`; `sum` gets each row's normalised input and its gradient.
fn layer_norm_back(
    input: &[f32],
    kept: &[f32],
    out: &[f32],
    width: usize,
    to: &mut Vec<f32>,
    gain: &[f32],
    mut sum: impl FnMut(&[f32], &[f32]),
) {
    to.resize(out.len(), 0.0);
    let mut normal = vec![0.0; width];
    let rows = input.chunks_exact(width).zip(out.chunks_exact(width)).zip(kept.chunks_exact(2));
    for (to, ((input, out), kept)) in to.chunks_exact_mut(width).zip(rows) {
        let [mean, scale] = [kept[0], kept[1]];
        normal.iter_mut().zip(input).for_each(|(normal, x)| *normal = (x - mean) * scale);
        let (mut by_one, mut by_normal) = (0.0, 0.0);
        for column in 0..width {
            let value = out[column] * gain[column];
            by_one += value;
            by_normal += value * normal[column];
        }
        let (by_one, by_normal) = (by_one / width as f32, by_normal / width as f32);
        for column in 0..width {
            to[column] = scale * (out[column] * gain[column] - by_one - normal[column] * by_normal);
        }
        sum(&normal, out);
    }
}

/// The means of the columns, then their variances.
fn column_moments(input: &[f32], width: usize, to: &mut Vec<f32>) {
    let rows = (input.len() / width.max(1)).max(1) as f32;
    to.clear();
    to.resize(2 * width, 0.0);
    let (means, variances) = to.split_at_mut(width);
    for row in input.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    means.iter_mut().for_each(|mean| *mean /= rows);
    for row in input.chunks_exact(width) {
        for ((variance, mean), x) in variances.iter_mut().zip(&*means).zip(row) {
            *variance += (x - mean) * (x - mean);
        }
    }
    variances.iter_mut().for_each(|variance| *variance /= rows);
}

/// The gradient of the input into `to`, and those of the gains and the shifts.
fn batch_norm_back(
    input: &[f32],
    kept: &[f32],
    out: &[f32],
    width: usize,
    to: &mut Vec<f32>,
    gain: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let rows = (input.len() / width.max(1)).max(1) as f32;
    let (means, scales) = kept.split_at(width);
    let (mut by_gain, mut by_shift) = (vec![0.0; width], vec![0.0; width]);
    for (input, out) in input.chunks_exact(width).zip(out.chunks_exact(width)) {
        for column in 0..width {
            by_shift[column] += out[column];
            by_gain[column] += out[column] * (input[column] - means[column]) * scales[column];
        }
    }
    to.resize(out.len(), 0.0);
    let lines = input.chunks_exact(width).zip(out.chunks_exact(width));
    for (to, (input, out)) in to.chunks_exact_mut(width).zip(lines) {
        for column in 0..width {
            let normal = (input[column] - means[column]) * scales[column];
            let rest = out[column] - by_shift[column] / rows - normal * by_gain[column] / rows;
            to[column] = gain[column] * scales[column] * rest;
        }
    }
    (by_gain, by_shift)
}

impl Weights {
    /// At the beginning.
    pub(super) fn new(graph: &Graph, random: &mut Random) -> Self {
        let table = Table::new(graph.embedding());
        Self { values: graph.start(random), statistics: graph.start_statistics(), table }
    }

    pub(super) fn view(&self) -> View<'_> {
        View { values: &self.values, statistics: &self.statistics, table: &self.table }
    }
}
