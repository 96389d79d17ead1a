//! A network as a graph of operations: what is computed, not how, nor on which device.
//!
//! ```text
//! let mut graph = Graph::new(shape, 8);
//! let mut node = graph.inputs();                      // the numbers, and the embeddings of the categories
//! for size in [256, 256] {
//!     node = graph.dense(node, size, "hidden");       // names of parameters get a number where they come twice
//!     node = graph.activate(node, Function::Relu);
//! }
//! let output = graph.output(node, 1);
//! ```
//! An architecture of one's own is such a function: an [`Architecture`].

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Shape;
use super::super::random::Random;

/// A network, before it has numbers: what follows from the settings and the shape of the rows.
pub(super) trait Architecture: Send + Sync + 'static {
    /// Adds the operations, and gives the node whose columns are the outputs.
    fn build(&self, graph: &mut Graph, outputs: usize) -> Node;
}

/// What an operation gives: for each row of a mini-batch so many numbers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Node(pub(super) usize);

/// A run of the parameters, which all lie in one vector: a matrix of so many rows, or a row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Parameter {
    /// Unique in its network.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Where the vector has it.
    pub(super) range: Range<usize>,
    start: Start,
}

/// What a parameter is at the beginning.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
enum Start {
    /// Uniform in plus and minus this.
    Uniform(f64),
    /// This number everywhere.
    Constant(f32),
}

/// An element-wise function.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::models) enum Function {
    /// What is above 0, else 0.
    #[default]
    Relu,
    /// `x * sigmoid(x)`, also known as swish.
    Silu,
    /// The Gaussian error unit (Hendrycks and Gimpel 2016), by its approximation with tanh.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

/// One operation. Parameters are given by their index.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Operation {
    /// The numbers of the rows.
    Numbers,
    Zeros,
    /// The embeddings of the categories that a row is in, one after the other.
    Embeddings,
    /// `input * weights + bias`.
    Dense {
        input: Node,
        weights: usize,
        bias: usize,
    },
    Activate {
        input: Node,
        function: Function,
    },
    /// Ba, Kiros and Hinton, "Layer Normalization" (2016): each row has mean 0 and deviation 1, then a gain and a shift per column.
    LayerNorm {
        input: Node,
        gain: usize,
        shift: usize,
    },
    /// Ioffe and Szegedy, "Batch Normalization" (2015): the same for columns of a mini-batch. To predict, means and variances of
    /// the past are used; they start at `statistics`, in a vector of their own.
    BatchNorm {
        input: Node,
        gain: usize,
        shift: usize,
        statistics: usize,
    },
    /// Srivastava and others, "Dropout" (2014): while learning, each number is 0 with this probability.
    Dropout {
        input: Node,
        rate: f32,
    },
    /// `left + factor * right`.
    Add {
        left: Node,
        right: Node,
        factor: f32,
    },
    /// Element by element.
    Multiply {
        left: Node,
        right: Node,
    },
    /// Side by side.
    Concat {
        parts: Vec<Node>,
    },
    /// Some columns, from this one on.
    Slice {
        input: Node,
        start: usize,
    },
}

/// The operations, each after those that it needs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Graph {
    shape: Shape,
    /// How many numbers the embedding of a category has.
    embedding: usize,
    operations: Vec<Operation>,
    widths: Vec<usize>,
    /// Whether something that learns comes before a node.
    learns: Vec<bool>,
    /// Whether the output is made of a node.
    is_needed: Vec<bool>,
    parameters: Vec<Parameter>,
    /// How many numbers the parameters are.
    len: usize,
    /// How many the means and variances of the past are.
    statistics: usize,
    /// How often a name was given.
    names: BTreeMap<String, usize>,
}

impl Graph {
    /// Nothing yet.
    pub(super) fn new(shape: Shape, embedding: usize) -> Self {
        Self {
            shape,
            embedding,
            operations: Vec::new(),
            widths: Vec::new(),
            learns: Vec::new(),
            is_needed: Vec::new(),
            parameters: Vec::new(),
            len: 0,
            statistics: 0,
            names: BTreeMap::new(),
        }
    }

    /// All that a row says: its numbers, then the embeddings of its categories.
    pub(super) fn inputs(&mut self) -> Node {
        match self.embeddings() {
            None => self.numbers(),
            Some(embeddings) if self.shape.dense == 0 => embeddings,
            Some(embeddings) => {
                let numbers = self.numbers();
                self.concat(vec![numbers, embeddings])
            }
        }
    }

    /// The numbers of the rows.
    pub(super) fn numbers(&mut self) -> Node {
        self.add_node(Operation::Numbers, self.shape.dense, false)
    }

    /// How many numbers the embeddings of a row are.
    pub(super) fn embeddings_width(&self) -> usize {
        self.shape.active * self.embedding
    }

    /// The embeddings of the categories, one after the other, if there are any.
    pub(super) fn embeddings(&mut self) -> Option<Node> {
        let width = self.embeddings_width();
        (width > 0).then(|| self.add_node(Operation::Embeddings, width, true))
    }

    /// Zeros.
    pub(super) fn zeros(&mut self, width: usize) -> Node {
        self.add_node(Operation::Zeros, width, false)
    }

    /// A dense layer of this width.
    pub(super) fn dense(&mut self, input: Node, width: usize, name: &str) -> Node {
        let (weights, bias) = self.dense_parameters(self.width(input), width, name);
        self.dense_of(input, weights, bias)
    }

    /// The layer that gives the outputs. It begins with zeros: what has learned nothing prefers nothing.
    pub(super) fn output(&mut self, input: Node, width: usize) -> Node {
        let shape = vec![self.width(input), width];
        let weights = self.parameter("output.weights".to_owned(), shape, Start::Constant(0.0));
        let bias = self.parameter("output.bias".to_owned(), vec![width], Start::Constant(0.0));
        self.dense_of(input, weights, bias)
    }

    /// The parameters of a dense layer, for layers that share them.
    pub(super) fn dense_parameters(&mut self, inputs: usize, width: usize, name: &str) -> (usize, usize) {
        let name = self.unique(name);
        // The rule of LeCun and others, "Efficient BackProp" (1998), as PyTorch has it.
        let reach = 1.0 / (inputs.max(1) as f64).sqrt();
        let weights = self.parameter(format!("{name}.weights"), vec![inputs, width], Start::Uniform(reach));
        let bias = self.parameter(format!("{name}.bias"), vec![width], Start::Uniform(reach));
        (weights, bias)
    }

    /// A dense layer with these parameters.
    pub(super) fn dense_of(&mut self, input: Node, weights: usize, bias: usize) -> Node {
        let width = self.parameters[bias].range.len();
        self.add_node(Operation::Dense { input, weights, bias }, width, true)
    }

    pub(super) fn activate(&mut self, input: Node, function: Function) -> Node {
        self.like(Operation::Activate { input, function }, input)
    }

    pub(super) fn layer_norm(&mut self, input: Node) -> Node {
        let (gain, shift) = self.norm_parameters("layer_norm", self.width(input));
        self.like(Operation::LayerNorm { input, gain, shift }, input)
    }

    pub(super) fn batch_norm(&mut self, input: Node) -> Node {
        let width = self.width(input);
        let (gain, shift) = self.norm_parameters("batch_norm", width);
        let statistics = self.statistics;
        self.statistics += 2 * width;
        self.like(Operation::BatchNorm { input, gain, shift, statistics }, input)
    }

    pub(super) fn dropout(&mut self, input: Node, rate: f32) -> Node {
        self.like(Operation::Dropout { input, rate }, input)
    }

    /// `left + factor * right`.
    pub(super) fn add(&mut self, left: Node, right: Node, factor: f32) -> Node {
        self.like(Operation::Add { left, right, factor }, left)
    }

    pub(super) fn multiply(&mut self, left: Node, right: Node) -> Node {
        self.like(Operation::Multiply { left, right }, left)
    }

    pub(super) fn concat(&mut self, parts: Vec<Node>) -> Node {
        let width = parts.iter().map(|part| self.width(*part)).sum();
        self.add_node(Operation::Concat { parts }, width, false)
    }

    pub(super) fn slice(&mut self, input: Node, start: usize, width: usize) -> Node {
        self.add_node(Operation::Slice { input, start }, width, false)
    }

    /// How many columns a node has.
    pub(super) fn width(&self, node: Node) -> usize {
        self.widths[node.0]
    }

    /// Leaves out of what is computed what the output is not made of.
    pub(super) fn keep_for(&mut self, output: Node) {
        self.is_needed.fill(false);
        self.is_needed[output.0] = true;
        for at in (0..self.operations.len()).rev() {
            if self.is_needed[at] {
                self.operations[at].inputs().iter().for_each(|input| self.is_needed[input.0] = true);
            }
        }
    }

    /// The operations that are needed, each with the index of its node.
    pub(super) fn operations(&self) -> impl DoubleEndedIterator<Item = (usize, &Operation)> {
        self.operations.iter().enumerate().filter(|(at, _)| self.is_needed[*at])
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.operations.len()
    }

    /// Whether a gradient has to go back through a node.
    pub(super) fn learns(&self, node: Node) -> bool {
        self.learns[node.0]
    }

    /// Whether something is computed otherwise while it learns.
    pub(super) fn learns_otherwise(&self) -> bool {
        let otherwise = |operation| matches!(operation, &Operation::Dropout { .. } | &Operation::BatchNorm { .. });
        self.operations().any(|(_, operation)| otherwise(operation))
    }

    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Where the vector of all parameters has one.
    pub(super) fn range(&self, parameter: usize) -> Range<usize> {
        self.parameters[parameter].range.clone()
    }

    /// How many numbers the parameters are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many numbers an embedding has.
    pub(super) fn embedding(&self) -> usize {
        self.embedding
    }

    /// The parameters at the beginning.
    pub(super) fn start(&self, random: &mut Random) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len);
        for parameter in &self.parameters {
            let len = parameter.range.len();
            match parameter.start {
                Start::Uniform(reach) => {
                    values.extend((0..len).map(|_| (reach * random.signed()) as f32));
                }
                Start::Constant(value) => values.extend(std::iter::repeat_n(value, len)),
            }
        }
        values
    }

    /// The means and variances of the past, before there is one: 0 and 1.
    pub(super) fn start_statistics(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.statistics];
        for (node, operation) in self.operations() {
            if let Operation::BatchNorm { statistics, .. } = operation {
                values[statistics + self.widths[node]..][..self.widths[node]].fill(1.0);
            }
        }
        values
    }

    fn norm_parameters(&mut self, name: &str, width: usize) -> (usize, usize) {
        let name = self.unique(name);
        let gain = self.parameter(format!("{name}.gain"), vec![width], Start::Constant(1.0));
        let shift = self.parameter(format!("{name}.shift"), vec![width], Start::Constant(0.0));
        (gain, shift)
    }

    fn unique(&mut self, name: &str) -> String {
        let count = self.names.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 { name.to_owned() } else { format!("{name}.{count}") }
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, start: Start) -> usize {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.parameters.push(Parameter { name, shape, range, start });
        self.parameters.len() - 1
    }

    fn like(&mut self, operation: Operation, node: Node) -> Node {
        let own = matches!(operation, Operation::LayerNorm { .. } | Operation::BatchNorm { .. });
        self.add_node(operation, self.width(node), own)
    }

    fn add_node(&mut self, operation: Operation, width: usize, has_parameters: bool) -> Node {
        let learns = has_parameters || operation.inputs().iter().any(|input| self.learns(*input));
        self.operations.push(operation);
        self.widths.push(width);
        self.learns.push(learns);
        self.is_needed.push(true);
        Node(self.operations.len() - 1)
    }
}

impl Operation {
    fn inputs(&self) -> Vec<Node> {
        match self {
            Self::Numbers | Self::Zeros | Self::Embeddings => Vec::new(),
            Self::Dense { input, .. }
            | Self::Activate { input, .. }
            | Self::LayerNorm { input, .. }
            | Self::BatchNorm { input, .. }
            | Self::Dropout { input, .. }
            | Self::Slice { input, .. } => vec![*input],
            Self::Add { left, right, .. } | Self::Multiply { left, right } => vec![*left, *right],
            Self::Concat { parts } => parts.clone(),
        }
    }
}
