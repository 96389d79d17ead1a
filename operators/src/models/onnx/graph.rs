//! An ONNX graph in the making.

use std::collections::BTreeSet;

use prost::Message;

use super::super::Shape;
use super::NotExpressible;
use super::proto::{
    self, Attribute, DOUBLE, Dimension, Dimensions, Entry, FLOAT, INT64, OperatorSet, Tensor, TensorType, Type, UINT8,
    ValueInfo,
};

/// The version of the format, and those of its sets of operators: the first in which trees take doubles.
const IR_VERSION: i64 = 10;
const OPERATORS: i64 = 21;
const ML_OPERATORS: i64 = 5;

/// The domain of trees.
const ML: &str = "ai.onnx.ml";

/// How the number of rows is called among the dimensions.
const ROWS: &str = "rows";

/// No ONNX file is larger: the length of a message is a positive `i32`.
const BYTES_MAX: usize = i32::MAX as usize;

/// What is at hand in a graph: an input, a constant, or what an operator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge(usize);

/// Operators, each after those that it needs, and constants.
#[derive(Debug, Default)]
pub struct Graph {
    content: proto::Graph,
    /// Of each value.
    names: Vec<String>,
    used: BTreeSet<String>,
    /// The last number that a name was made of.
    last: usize,
    bytes: usize,
}

/// The rows that a model is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The numbers, `[rows, columns]`, if there are any.
    pub numbers: Option<Edge>,
    /// The categories, counted over all columns, `[rows, columns]`, if there are any.
    pub active: Option<Edge>,
    /// What they look like.
    pub shape: Shape,
}

/// A question, or where the answer to one leads.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Question {
    /// The column.
    pub(in super::super) column: usize,
    /// What its number is compared with.
    pub(in super::super) with: f64,
    pub(in super::super) asks: Asks,
    pub(in super::super) yes: Way,
    pub(in super::super) no: Way,
}

/// When a question's answer is yes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Asks {
    AtMost = 0,
    Below = 1,
    Equal = 4,
}

impl Question {
    /// What leads to a leaf with this value anyway: a tree is at least a question.
    pub(in super::super) fn idle(value: f64) -> Self {
        Self { column: 0, with: 0.0, asks: Asks::AtMost, yes: Way::Leaf(value), no: Way::Leaf(value) }
    }
}

/// Where a row goes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Way {
    /// To this one of the tree's questions.
    Question(usize),
    /// To a leaf with this value.
    Leaf(f64),
}

impl Graph {
    /// A name that nothing else has: this one, with underscores where it is taken.
    fn unique(&mut self, name: &str) -> String {
        let mut name = if name.is_empty() { "_".to_owned() } else { name.to_owned() };
        while !self.used.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn edge(&mut self, name: String) -> Edge {
        self.names.push(name);
        Edge(self.names.len() - 1)
    }

    fn fresh(&mut self) -> Edge {
        self.last += 1;
        let name = self.unique(&self.last.to_string());
        self.edge(name)
    }

    /// A name for an output, to be kept free.
    pub(super) fn reserve(&mut self, name: &'static str) {
        self.used.insert(name.to_owned());
    }

    fn input(&mut self, name: &str, data_type: i32) -> Edge {
        let name = self.unique(name);
        self.content.input.push(info(&name, data_type, Some(1)));
        self.edge(name)
    }

    /// An input of numbers, `[rows, 1]`.
    pub(super) fn number_input(&mut self, name: &str) -> Edge {
        self.input(name, DOUBLE)
    }

    /// An input of codes, `[rows, 1]`.
    pub(super) fn code_input(&mut self, name: &str) -> Edge {
        self.input(name, INT64)
    }

    /// An output of numbers: `[rows]`, or `[rows, columns]`.
    pub(super) fn number_output(&mut self, name: &str, value: Edge, columns: Option<usize>) {
        self.output(name, value, DOUBLE, columns);
    }

    /// An output of indices, `[rows]`.
    pub(super) fn index_output(&mut self, name: &str, value: Edge) {
        self.output(name, value, INT64, None);
    }

    fn output(&mut self, name: &str, value: Edge, data_type: i32, columns: Option<usize>) {
        self.content.output.push(info(name, data_type, columns));
        let input = vec![self.names[value.0].clone()];
        self.push("Identity", input, vec![name.to_owned()], Vec::new(), "");
    }

    fn push(
        &mut self,
        operator: &str,
        input: Vec<String>,
        output: Vec<String>,
        attribute: Vec<Attribute>,
        domain: &str,
    ) {
        let (op_type, domain) = (operator.to_owned(), domain.to_owned());
        self.content.node.push(proto::Node { input, output, op_type, attribute, domain, ..proto::Node::default() });
    }

    /// What an operator gives.
    pub(in super::super) fn apply(&mut self, operator: &str, inputs: &[Edge]) -> Edge {
        self.apply_with(operator, inputs, Vec::new())
    }

    /// The same with settings.
    pub(in super::super) fn apply_with(&mut self, operator: &str, inputs: &[Edge], attributes: Vec<Attribute>) -> Edge {
        let given = self.fresh();
        let input = inputs.iter().map(|value| self.names[value.0].clone()).collect();
        let output = vec![self.names[given.0].clone()];
        self.push(operator, input, output, attributes, "");
        given
    }

    fn constant(&mut self, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> Edge {
        let value = self.fresh();
        self.bytes += raw_data.len();
        let dims = shape.iter().map(|length| *length as i64).collect();
        let name = self.names[value.0].clone();
        self.content.initializer.push(Tensor { dims, data_type, name, raw_data, ..Tensor::default() });
        value
    }

    /// Constant numbers.
    pub(in super::super) fn doubles(&mut self, shape: &[usize], values: &[f64]) -> Edge {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        self.constant(shape, DOUBLE, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Constant numbers of single precision.
    pub(in super::super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> Edge {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        self.constant(shape, FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Constant whole numbers.
    pub(in super::super) fn integers(&mut self, values: &[i64]) -> Edge {
        self.constant(&[values.len()], INT64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// One constant number.
    pub(in super::super) fn scalar(&mut self, value: f64) -> Edge {
        self.doubles(&[], &[value])
    }

    pub(in super::super) fn add(&mut self, left: Edge, right: Edge) -> Edge {
        self.apply("Add", &[left, right])
    }

    pub(in super::super) fn subtract(&mut self, left: Edge, right: Edge) -> Edge {
        self.apply("Sub", &[left, right])
    }

    pub(in super::super) fn multiply(&mut self, left: Edge, right: Edge) -> Edge {
        self.apply("Mul", &[left, right])
    }

    pub(in super::super) fn divide(&mut self, left: Edge, right: Edge) -> Edge {
        self.apply("Div", &[left, right])
    }

    /// Times a constant.
    pub(in super::super) fn scale(&mut self, value: Edge, factor: f64) -> Edge {
        let factor = self.scalar(factor);
        self.multiply(value, factor)
    }

    /// Plus a constant.
    pub(in super::super) fn shift(&mut self, value: Edge, more: f64) -> Edge {
        let more = self.scalar(more);
        self.add(value, more)
    }

    /// What is below or above a constant becomes it.
    pub(in super::super) fn clamp(&mut self, value: Edge, low: f64, high: f64) -> Edge {
        let (low, high) = (self.scalar(low), self.scalar(high));
        self.apply("Clip", &[value, low, high])
    }

    pub(in super::super) fn at_most(&mut self, value: Edge, high: f64) -> Edge {
        let high = self.scalar(high);
        self.apply("Min", &[value, high])
    }

    pub(in super::super) fn at_least(&mut self, value: Edge, low: f64) -> Edge {
        let low = self.scalar(low);
        self.apply("Max", &[value, low])
    }

    /// As whole numbers.
    pub(in super::super) fn as_index(&mut self, value: Edge) -> Edge {
        self.apply_with("Cast", &[value], vec![Attribute::int("to", INT64.into())])
    }

    /// In double precision; what holds or does not becomes 1 or 0.
    pub(in super::super) fn as_doubles(&mut self, value: Edge) -> Edge {
        self.apply_with("Cast", &[value], vec![Attribute::int("to", DOUBLE.into())])
    }

    /// In single precision.
    pub(in super::super) fn as_floats(&mut self, value: Edge) -> Edge {
        self.apply_with("Cast", &[value], vec![Attribute::int("to", FLOAT.into())])
    }

    /// The sum along an axis, which is dropped.
    pub(in super::super) fn sum(&mut self, value: Edge, axis: i64) -> Edge {
        self.reduce("ReduceSum", value, axis, false)
    }

    /// What is made of all along an axis, which is dropped or has the length 1 after that.
    pub(in super::super) fn reduce(&mut self, operator: &str, value: Edge, axis: i64, is_kept: bool) -> Edge {
        let axis = self.integers(&[axis]);
        self.apply_with(operator, &[value, axis], vec![Attribute::int("keepdims", is_kept.into())])
    }

    /// With one more axis, of length 1.
    pub(in super::super) fn widen(&mut self, value: Edge, axis: i64) -> Edge {
        let axis = self.integers(&[axis]);
        self.apply("Unsqueeze", &[value, axis])
    }

    /// Of a table, the rows with these indices.
    pub(in super::super) fn gather(&mut self, table: Edge, indices: Edge) -> Edge {
        self.apply("Gather", &[table, indices])
    }

    /// Along axis 1 the least so many, in ascending order, and their indices; of equal ones the first.
    pub(in super::super) fn least(&mut self, value: Edge, count: usize) -> (Edge, Edge) {
        let count = self.integers(&[count as i64]);
        let (values, indices) = (self.fresh(), self.fresh());
        let name = |graph: &Self, value: Edge| graph.names[value.0].clone();
        let (input, output) =
            ([value, count].map(|value| name(self, value)), [values, indices].map(|value| name(self, value)));
        let attributes = vec![Attribute::int("axis", 1), Attribute::int("largest", 0)];
        self.push("TopK", input.to_vec(), output.to_vec(), attributes, "");
        (values, indices)
    }

    /// Where among the keys each whole number is, or -1.
    pub(in super::super) fn look_up(&mut self, value: Edge, keys: Vec<i64>) -> Edge {
        let given = self.fresh();
        let (input, output) = (vec![self.names[value.0].clone()], vec![self.names[given.0].clone()]);
        let places = (0..keys.len() as i64).collect();
        let attributes = vec![
            Attribute::ints("keys_int64s", keys),
            Attribute::ints("values_int64s", places),
            Attribute::int("default_int64", -1),
        ];
        self.push("LabelEncoder", input, output, attributes, ML);
        given
    }

    /// Side by side along axis 1.
    pub(in super::super) fn beside(&mut self, parts: &[Edge]) -> Edge {
        match parts {
            [part] => *part,
            _ => self.apply_with("Concat", parts, vec![Attribute::int("axis", 1)]),
        }
    }

    /// Along axis 1, those from one to before another.
    pub(in super::super) fn columns(&mut self, value: Edge, from: usize, to: usize) -> Edge {
        let [from, to, axis] = [from as i64, to as i64, 1].map(|bound| self.integers(&[bound]));
        self.apply("Slice", &[value, from, to, axis])
    }

    /// Probabilities from their logarithms, along the last axis.
    pub(in super::super) fn softmax(&mut self, value: Edge) -> Edge {
        self.apply_with("Softmax", &[value], vec![Attribute::int("axis", -1)])
    }

    /// Along axis 1, 1 for the largest, or a part of it for each where several are.
    pub(in super::super) fn largest(&mut self, value: Edge) -> Edge {
        let most = self.reduce("ReduceMax", value, 1, true);
        let is_most = self.apply("Equal", &[value, most]);
        let parts = self.as_doubles(is_most);
        let count = self.reduce("ReduceSum", parts, 1, true);
        self.divide(parts, count)
    }

    /// The probabilities of all classes as outputs are: of two classes, only the second one's.
    pub(in super::super) fn outputs(&mut self, probabilities: Edge, classes: usize) -> Edge {
        if classes > 2 { probabilities } else { self.columns(probabilities, 1, 2) }
    }

    /// For each row the leaves of trees, `[rows, trees]`. A tree's first question is its root.
    pub(in super::super) fn trees(&mut self, rows: Edge, trees: &[Vec<Question>]) -> Edge {
        let mut attributes = TreeAttributes::default();
        for (tree, questions) in (0..).zip(trees) {
            attributes.add(tree, questions);
        }
        let given = self.fresh();
        let (input, output) = (vec![self.names[rows.0].clone()], vec![self.names[given.0].clone()]);
        self.bytes += 100 * attributes.feature.len();
        self.push("TreeEnsemble", input, output, attributes.written(trees.len()), ML);
        given
    }

    /// The file.
    pub(super) fn written(self, metadata: Vec<(String, String)>) -> Result<Vec<u8>, NotExpressible> {
        let set = |domain: &str, version| OperatorSet { domain: domain.to_owned(), version };
        let model = proto::Model {
            ir_version: IR_VERSION,
            producer_name: "millstream".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(proto::Graph { name: "model".to_owned(), ..self.content }),
            opset_import: vec![set("", OPERATORS), set(ML, ML_OPERATORS)],
            metadata_props: metadata.into_iter().map(|(key, value)| Entry { key, value }).collect(),
        };
        if self.bytes > BYTES_MAX || model.encoded_len() > BYTES_MAX {
            return Err(NotExpressible::new("it would be larger than the 2 GiB that an ONNX file can have"));
        }
        Ok(model.encode_to_vec())
    }
}

fn info(name: &str, elem_type: i32, columns: Option<usize>) -> ValueInfo {
    let rows = Dimension { dim_param: Some(ROWS.to_owned()), dim_value: None };
    let columns = columns.map(|columns| Dimension { dim_value: Some(columns as i64), dim_param: None });
    let shape = Some(Dimensions { dim: std::iter::once(rows).chain(columns).collect() });
    let r#type = Some(Type { tensor_type: Some(TensorType { elem_type, shape }) });
    ValueInfo { name: name.to_owned(), r#type }
}

impl Rows {
    /// The same numbers for each row, `[rows, numbers]`.
    pub(in super::super) fn repeat(&self, graph: &mut Graph, values: &[f64]) -> Edge {
        let like = self.numbers.or(self.active).expect("a model has features");
        let shape = graph.apply("Shape", &[like]);
        let first = graph.integers(&[0]);
        let rows = graph.gather(shape, first);
        let columns = graph.integers(&[values.len() as i64]);
        let shape = graph.apply_with("Concat", &[rows, columns], vec![Attribute::int("axis", 0)]);
        let values = graph.doubles(&[1, values.len()], values);
        graph.apply("Expand", &[values, shape])
    }

    /// Weighted sums of the row's numbers, as they are given here, and of its categories: `weights` has for each number one for
    /// each sum, `categories` the same for each category, and `biases` are added.
    pub(in super::super) fn sums(
        &self,
        graph: &mut Graph,
        numbers: Option<Edge>,
        weights: &[f64],
        categories: &[f64],
        biases: &[f64],
    ) -> Edge {
        let width = biases.len();
        let mut sum = match numbers {
            Some(numbers) => {
                let weights = graph.doubles(&[weights.len() / width, width], weights);
                let biases = graph.doubles(&[width], biases);
                graph.apply("Gemm", &[numbers, weights, biases])
            }
            None => self.repeat(graph, biases),
        };
        if let Some(active) = self.active {
            let table = graph.doubles(&[categories.len() / width, width], categories);
            let terms = graph.gather(table, active);
            let terms = graph.sum(terms, 1);
            sum = graph.add(sum, terms);
        }
        sum
    }

    /// The numbers, then the categories, as a tree asks about them.
    pub(in super::super) fn columns(&self, graph: &mut Graph) -> Edge {
        let active = self.active.map(|active| graph.as_doubles(active));
        let parts: Vec<Edge> = self.numbers.into_iter().chain(active).collect();
        graph.beside(&parts)
    }

    /// The numbers, each at most so large, in deviations from their means; zeros where there is no deviation.
    pub(in super::super) fn standardised(
        &self,
        graph: &mut Graph,
        most: f64,
        means: &[f64],
        deviations: &[f64],
    ) -> Option<Edge> {
        let factor = |deviation: &f64| if *deviation > 0.0 { 1.0 / deviation } else { 0.0 };
        let factors: Vec<f64> = deviations.iter().map(factor).collect();
        let apart = self.apart(graph, most, means)?;
        let apart = self.times(graph, apart, &factors);
        Some(graph.sum(apart, 1))
    }

    /// How far the numbers, each at most so large, are from those of some centres: `[rows, centres, numbers]`.
    pub(in super::super) fn apart(&self, graph: &mut Graph, most: f64, centres: &[f64]) -> Option<Edge> {
        let dense = self.shape.dense;
        let numbers = graph.clamp(self.numbers?, -most, most);
        let numbers = graph.widen(numbers, 1);
        let centres = graph.doubles(&[centres.len() / dense, dense], centres);
        Some(graph.subtract(numbers, centres))
    }

    /// Times factors for each of some centres, or the same for all: `[rows, centres, numbers]`.
    pub(in super::super) fn times(&self, graph: &mut Graph, apart: Edge, factors: &[f64]) -> Edge {
        let dense = self.shape.dense;
        let factors = graph.doubles(&[factors.len() / dense, dense], factors);
        graph.multiply(apart, factors)
    }
}

/// The attributes of `TreeEnsemble`.
#[derive(Default)]
struct TreeAttributes {
    roots: Vec<i64>,
    feature: Vec<i64>,
    mode: Vec<u8>,
    with: Vec<f64>,
    /// Of yes, then of no: whether it is a leaf, and which node or leaf it is.
    ways: [(Vec<i64>, Vec<i64>); 2],
    leaf_tree: Vec<i64>,
    leaf_value: Vec<f64>,
}

impl TreeAttributes {
    fn add(&mut self, tree: i64, questions: &[Question]) {
        let first = self.feature.len();
        self.roots.push(first as i64);
        for question in questions {
            self.feature.push(question.column as i64);
            self.mode.push(question.asks as u8);
            self.with.push(question.with);
            for (way, (is_leaf, to)) in [question.yes, question.no].into_iter().zip(&mut self.ways) {
                match way {
                    Way::Question(at) => {
                        is_leaf.push(0);
                        to.push((first + at) as i64);
                    }
                    Way::Leaf(value) => {
                        is_leaf.push(1);
                        to.push(self.leaf_value.len() as i64);
                        self.leaf_tree.push(tree);
                        self.leaf_value.push(value);
                    }
                }
            }
        }
    }

    fn written(self, trees: usize) -> Vec<Attribute> {
        let tensor = |len: usize, data_type, raw_data| Tensor {
            dims: vec![len as i64],
            data_type,
            raw_data,
            ..Tensor::default()
        };
        let doubles = |values: &[f64]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensor(values.len(), DOUBLE, bytes)
        };
        let [yes, no] = self.ways;
        vec![
            Attribute::int("n_targets", trees as i64),
            Attribute::ints("tree_roots", self.roots),
            Attribute::ints("nodes_featureids", self.feature),
            Attribute::tensor("nodes_modes", tensor(self.mode.len(), UINT8, self.mode)),
            Attribute::tensor("nodes_splits", doubles(&self.with)),
            Attribute::ints("nodes_trueleafs", yes.0),
            Attribute::ints("nodes_truenodeids", yes.1),
            Attribute::ints("nodes_falseleafs", no.0),
            Attribute::ints("nodes_falsenodeids", no.1),
            Attribute::ints("leaf_targetids", self.leaf_tree),
            Attribute::tensor("leaf_weights", doubles(&self.leaf_value)),
        ]
    }
}
