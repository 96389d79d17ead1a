//! Networks as ONNX, in single precision as they are here: an operator for each operation, but for those that only learning needs.

use super::super::onnx::{Attribute, Edge, Expressed, Graph, NotExpressible, Rows};
use super::compute::EPSILON;
use super::graph::{Function, Node, Operation};
use super::known::{Frozen, Known, Plan};
use super::loss::Head;

/// What the network tells of the rows.
pub(super) fn express(frozen: &Frozen, graph: &mut Graph, rows: &Rows) -> Expressed {
    let Frozen { plan, known, .. } = frozen;
    let numbers = known.scaling.onnx(graph, rows).map(|numbers| graph.as_floats(numbers));
    let mut network = Operations { plan, known, rows, numbers, values: vec![None; plan.graph.nodes()] };
    for (at, operation) in plan.graph.operations() {
        network.values[at] = network.add(graph, Node(at), operation);
    }
    let Some(output) = network.values[plan.output.0] else {
        return Err(NotExpressible::new("the network has no outputs"));
    };
    Ok(tell(plan, known, graph, rows, (output, numbers)))
}

/// The operations so far.
struct Operations<'a> {
    plan: &'a Plan,
    known: &'a Known,
    rows: &'a Rows,
    numbers: Option<Edge>,
    /// Of each node; none where it has no columns, or is not needed.
    values: Vec<Option<Edge>>,
}

impl Operations<'_> {
    /// A parameter.
    fn parameter(&self, graph: &mut Graph, parameter: usize) -> Edge {
        let shape = &self.plan.graph.parameters()[parameter].shape;
        graph.floats(shape, &self.known.view().values[self.plan.graph.range(parameter)])
    }

    fn add(&self, graph: &mut Graph, node: Node, operation: &Operation) -> Option<Edge> {
        let of = |node: &Node| self.values[node.0];
        let width = self.plan.graph.width(node);
        Some(match operation {
            Operation::Numbers => self.numbers?,
            Operation::Zeros => {
                let zeros = self.rows.repeat(graph, &vec![0.0; width]);
                graph.as_floats(zeros)
            }
            Operation::Embeddings => self.embeddings(graph, width)?,
            Operation::Dense { input, weights, bias } => self.dense(graph, of(input), *weights, *bias),
            Operation::Activate { input, function } => activate(graph, of(input)?, *function),
            Operation::LayerNorm { input, gain, shift } => {
                let (input, gain, shift) = (of(input)?, self.parameter(graph, *gain), self.parameter(graph, *shift));
                let attributes = vec![Attribute::int("axis", -1), Attribute::float("epsilon", EPSILON)];
                graph.apply_with("LayerNormalization", &[input, gain, shift], attributes)
            }
            Operation::BatchNorm { input, gain, shift, statistics } => {
                let (input, gain, shift) = (of(input)?, self.parameter(graph, *gain), self.parameter(graph, *shift));
                let (means, variances) = self.known.view().statistics[*statistics..][..2 * width].split_at(width);
                let [means, variances] = [means, variances].map(|values| graph.floats(&[width], values));
                let attributes = vec![Attribute::float("epsilon", EPSILON)];
                graph.apply_with("BatchNormalization", &[input, gain, shift, means, variances], attributes)
            }
            Operation::Dropout { input, .. } => of(input)?,
            Operation::Add { left, right, factor } => {
                let mut right = of(right)?;
                if *factor != 1.0 {
                    let factor = graph.floats(&[], &[*factor]);
                    right = graph.multiply(right, factor);
                }
                graph.add(of(left)?, right)
            }
            Operation::Multiply { left, right } => graph.multiply(of(left)?, of(right)?),
            Operation::Concat { parts } => {
                let parts: Vec<Edge> = parts.iter().filter_map(of).collect();
                graph.beside(&parts)
            }
            Operation::Slice { .. } if width == 0 => return None,
            Operation::Slice { input, start } => graph.columns(of(input)?, *start, start + width),
        })
    }

    fn dense(&self, graph: &mut Graph, input: Option<Edge>, weights: usize, bias: usize) -> Edge {
        if let Some(input) = input {
            let (weights, bias) = (self.parameter(graph, weights), self.parameter(graph, bias));
            return graph.apply("Gemm", &[input, weights, bias]);
        }
        let bias = &self.known.view().values[self.plan.graph.range(bias)];
        let bias: Vec<f64> = bias.iter().map(|bias| f64::from(*bias)).collect();
        let bias = self.rows.repeat(graph, &bias);
        graph.as_floats(bias)
    }

    /// Those of a row's categories, one after the other; zeros where a category has none.
    fn embeddings(&self, graph: &mut Graph, width: usize) -> Option<Edge> {
        let size = self.plan.graph.embedding();
        let (categories, rows) = self.known.weights.table.all();
        let mut slots = vec![0; self.rows.shape.categories];
        (1..).zip(&categories).for_each(|(slot, category)| slots[*category as usize] = slot);
        let zeros = std::iter::repeat_n(0.0, size);
        let table: Vec<f32> = zeros.chain(rows.iter().map(|value| *value as f32)).collect();
        let slots = graph.integers(&slots);
        let slots = graph.gather(slots, self.rows.active?);
        let table = graph.floats(&[categories.len() + 1, size], &table);
        let each = graph.gather(table, slots);
        // As many rows as there are.
        let shape = graph.integers(&[0, width as i64]);
        Some(graph.apply("Reshape", &[each, shape]))
    }
}

fn activate(graph: &mut Graph, input: Edge, function: Function) -> Edge {
    match function {
        Function::Relu => graph.apply("Relu", &[input]),
        Function::Tanh => graph.apply("Tanh", &[input]),
        Function::Sigmoid => graph.apply("Sigmoid", &[input]),
        Function::Silu => {
            let part = graph.apply("Sigmoid", &[input]);
            graph.multiply(input, part)
        }
        Function::Gelu => graph.apply_with("Gelu", &[input], vec![Attribute::text("approximate", "tanh")]),
    }
}

/// What the outputs of the network say.
fn tell(plan: &Plan, known: &Known, graph: &mut Graph, rows: &Rows, (output, numbers): (Edge, Option<Edge>)) -> Edge {
    let outputs = graph.as_doubles(output);
    match &plan.head {
        Head::Classes(_) if plan.width == 1 => graph.apply("Sigmoid", &[outputs]),
        Head::Classes(_) => graph.softmax(outputs),
        Head::Number(loss) if loss.scales() => {
            let (mean, deviation) = (known.scaling.number(0.0), known.scaling.number(1.0) - known.scaling.number(0.0));
            let apart = graph.scale(outputs, deviation);
            graph.shift(apart, mean)
        }
        Head::Number(_) => {
            let logarithm = graph.at_most(outputs, 80.0);
            graph.apply("Exp", &[logarithm])
        }
        Head::Rebuild => match numbers {
            None => rows.repeat(graph, &[0.0]),
            Some(numbers) => {
                let apart = graph.subtract(output, numbers);
                let apart = graph.as_doubles(apart);
                let squares = graph.reduce("ReduceSumSquare", apart, 1, true);
                let error = graph.scale(squares, 1.0 / rows.shape.dense as f64);
                let whole = graph.shift(error, known.usual);
                // Where nothing is wrong, nor ever was, it is 0 of something.
                let whole = graph.at_least(whole, f64::MIN_POSITIVE);
                graph.divide(error, whole)
            }
        },
    }
}
