//! The processor.
//!
//! What a row gives does not depend on the rows beside it, but for the statistics of a mini-batch in [`Operation::BatchNorm`]
//! while it learns. All sums have a fixed order; exponentials come from `libm`.

// What is dispatched has the registers of the machine only where it is inlined.
#![allow(clippy::inline_always)]

use pulp::Arch;

use super::compute::{EPSILON, Inputs, Learning, View, mask};
use super::graph::{Graph, Node, Operation};
use super::norms::{batch_norm_back, column_moments, layer_norm, layer_norm_back, remember};
use super::product::{Left, Product, transpose};

/// Runs a network on the processor. Of each node it has its numbers in a mini-batch; reused.
#[derive(Debug)]
pub(super) struct Host {
    output: usize,
    values: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    /// Whether a gradient has something that the next is to be added to.
    begun: Vec<bool>,
    /// Of some operations, what the way back needs: masks, deviations.
    kept: Vec<Vec<f32>>,
    /// Whether a parameter's gradient has something that the next is to be added to.
    is_set: Vec<bool>,
    scratch: Vec<f32>,
    turned: Vec<f32>,
}

impl Host {
    pub(super) fn new(graph: &Graph, output: Node) -> Self {
        let empty = || vec![Vec::new(); graph.nodes()];
        Self {
            output: output.0,
            values: empty(),
            gradients: empty(),
            begun: Vec::new(),
            kept: empty(),
            is_set: Vec::new(),
            scratch: Vec::new(),
            turned: Vec::new(),
        }
    }

    /// What came out, row after row.
    pub(super) fn outputs(&self) -> &[f32] {
        &self.values[self.output]
    }

    /// The gradients of the embeddings that the rows had, one after the other.
    pub(super) fn embeddings(&self, graph: &Graph) -> &[f32] {
        let node = graph.operations().find(|(_, operation)| **operation == Operation::Embeddings);
        node.map_or(&[], |(node, _)| &self.gradients[node])
    }

    /// Computes all nodes, with so many threads for large products, which give the same bits as one.
    pub(super) fn compute(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
        threads: usize,
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
                Operation::Embeddings => inputs.embed(graph.embedding(), out),
                Operation::Dense { input, weights, bias } => {
                    let (bias, inner) = (parameter(*bias), graph.width(*input));
                    out.chunks_exact_mut(width).for_each(|out| out.copy_from_slice(bias));
                    let left = Left::Rows(&before[input.0], inner);
                    let right = parameter(*weights);
                    Product { left, right, out, rows, inner, columns: width, is_added: true }.run(threads);
                }
                Operation::Activate { input, function } => function.apply(&before[input.0], out),
                Operation::LayerNorm { input, gain, shift } => {
                    layer_norm(&before[input.0], parameter(*gain), parameter(*shift), out, kept);
                }
                Operation::BatchNorm { input, gain, shift, statistics } => {
                    let input = &before[input.0];
                    let (gain, shift) = (parameter(*gain), parameter(*shift));
                    if let Some(Learning { statistics: past, .. }) = &mut learning {
                        column_moments(input, width, kept);
                        remember(kept, &mut past[*statistics..][..2 * width], rows);
                    } else {
                        kept.clear();
                        kept.extend_from_slice(&weights.statistics[*statistics..][..2 * width]);
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
                        kept.clear();
                        kept.extend(mask(random, *rate, out.len()));
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

    /// The gradient of the outputs back to those of all parameters, in `sums`, and of the embeddings.
    pub(super) fn back(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        gradient: &[f32],
        sums: &mut Vec<f32>,
        threads: usize,
    ) {
        self.gradients[self.output].clear();
        self.gradients[self.output].extend_from_slice(gradient);
        let rows = gradient.len() / graph.width(Node(self.output)).max(1);
        sums.resize(graph.len(), 0.0);
        // Most are set by the one operation that has them; the others are added to, and begin at nothing.
        self.is_set.clear();
        self.is_set.resize(graph.parameters().len(), false);
        for (parameter, is_set) in graph.parameters().iter().zip(&mut self.is_set) {
            if parameter.shape.len() < 2 {
                sums[parameter.range.clone()].fill(0.0);
                *is_set = true;
            }
        }
        self.begun.clear();
        self.begun.resize(graph.nodes(), false);
        self.begun[self.output] = true;
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
                    let is_added = std::mem::replace(&mut self.is_set[*matrix], true);
                    let sum = &mut sums[graph.range(*matrix)];
                    Product { left, right: out, out: sum, rows: inner, inner: rows, columns: width, is_added }
                        .run(threads);
                    let matrix = &weights.values[graph.range(*matrix)];
                    if 2 * rows < width && graph.learns(*input) {
                        // The same chains the other way around: the transposed of few rows costs less than that of the matrix.
                        transpose(out, rows, width, &mut self.scratch);
                        self.turned.resize(inner * rows, 0.0);
                        let (left, right, turned) = (Left::Rows(matrix, width), &self.scratch, &mut self.turned);
                        Product { left, right, out: turned, rows: inner, inner: width, columns: rows, is_added: false }
                            .run(threads);
                        transpose(&self.turned, inner, rows, &mut self.scratch);
                        back.add(*input, &self.scratch, 1.0);
                    } else if let Some((gradient, is_added)) = back.to(*input) {
                        transpose(matrix, inner, width, &mut self.scratch);
                        let (left, right) = (Left::Rows(out, width), &self.scratch);
                        Product { left, right, out: gradient, rows, inner: width, columns: inner, is_added }
                            .run(threads);
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
                    back.multiply(*left, &values[right.0], out, &mut self.scratch);
                    back.multiply(*right, &values[left.0], out, &mut self.scratch);
                }
                Operation::Concat { parts } => back.split(parts, out, width, &mut self.scratch),
                Operation::Slice { input, start } => back.add_columns(*input, *start, out, width),
            }
        }
        for (parameter, _) in graph.parameters().iter().zip(&self.is_set).filter(|(_, is_set)| !**is_set) {
            sums[parameter.range.clone()].fill(0.0);
        }
    }
}

/// The sum of squares: of some thousand numbers at a time in so many sums, the same on machines with narrower and wider registers.
pub(super) fn squares(values: &[f32]) -> f64 {
    const LANES: usize = 64;
    let of_block = |block: &[f32]| {
        let mut sums = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for chunk in chunks {
                    sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value * value);
                }
            },
        );
        sums.iter().map(|sum| f64::from(*sum)).chain(rest.iter().map(|value| f64::from(value * value))).sum::<f64>()
    };
    values.chunks(64 * LANES).map(of_block).sum()
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

    fn multiply(&mut self, node: Node, other: &[f32], out: &[f32], scratch: &mut Vec<f32>) {
        scratch.clear();
        scratch.extend(out.iter().zip(other).map(|(value, other)| value * other));
        self.add(node, scratch, 1.0);
    }

    /// To each part its columns.
    fn split(&mut self, parts: &[Node], out: &[f32], width: usize, scratch: &mut Vec<f32>) {
        let mut start = 0;
        for part in parts {
            let part_width = self.graph.width(*part);
            scratch.resize(self.rows * part_width, 0.0);
            copy_columns(out, width, start, scratch, part_width, 0, part_width);
            self.add(*part, scratch, 1.0);
            start += part_width;
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
