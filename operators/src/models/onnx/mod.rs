//! Models as ONNX files, so that any ONNX runtime gives the same answers.
//!
//! Each feature is an input of its own, `[rows, 1]`, with the feature's name: a `double` where it is a number (0 or 1 where it is
//! a boolean), an `int64` where it is a category, its code. A cross of columns is given as its code, too. What a
//! runtime is given is not checked: numbers have to be finite, and codes to be of the column. What is told:
//!
//! | task | outputs |
//! |---|---|
//! | yes or no | `prediction` `int64[rows]`, 1 for yes; `probability` `double[rows]`, of yes |
//! | one of some classes | `prediction` `int64[rows]`, the class's index; `probability` `double[rows]`, of that class; `probabilities` `double[rows, classes]` |
//! | a number | `prediction` `double[rows]` |
//! | what is unusual | `score` `double[rows]` |
//! | groups | `cluster` `int64[rows]`; `distance` `double[rows]` |
//! | actions | `probabilities` `double[rows, actions]`, with which each is chosen |
//!
//! Where a feature has the name of an output, its input has an underscore behind it. Models compute in double precision, networks in
//! single precision, as they do here. Only where logarithms of probabilities are beyond 1e10 (naive Bayes, on rows that lie thousands
//! of deviations off) do roundings show in what is told. Names of values follow from their order alone: the same model has the same bytes.

mod answers;
mod graph;
mod learner;
mod node;
mod operators;
#[cfg(test)]
mod others;
mod program;
mod proto;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::borrow::Cow;
use std::fmt;

pub use answers::{Fitting, Slot};
pub(super) use graph::{Asks, Question, Way};
pub use graph::{Edge, Graph, Rows};
pub use learner::KIND;
pub(super) use proto::Attribute;

use super::{Names, Predictor, Shape, Task};

/// Why a model is not expressible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotExpressible(Cow<'static, str>);

impl NotExpressible {
    /// For this reason.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for NotExpressible {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A model's outputs, `[rows, outputs]` as [`Task::outputs`] has them, in double precision.
pub type Expressed = Result<Edge, NotExpressible>;

/// What there is to know of a model besides what it has learned.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    /// What it tells.
    pub task: Task,
    /// The shape of its rows.
    pub shape: Shape,
    /// What their places are called.
    pub names: &'a Names,
    /// Whether the classes are just yes and no.
    pub is_yes_or_no: bool,
}

/// A model as an ONNX file, with facts about it as its metadata.
pub fn export(
    predictor: &dyn Predictor,
    signature: &Signature<'_>,
    metadata: Vec<(String, String)>,
) -> Result<Vec<u8>, NotExpressible> {
    let Signature { task, shape, names, .. } = *signature;
    if shape.dense + shape.active == 0 {
        return Err(NotExpressible::new("it has no features"));
    }
    let mut graph = Graph::default();
    for name in ["prediction", "probability", "probabilities", "score", "cluster", "distance"] {
        graph.reserve(name);
    }
    let rows = inputs(&mut graph, names, shape);
    let outputs = predictor.onnx(&mut graph, &rows)?;
    tell(&mut graph, signature, task.outputs(shape.classes), outputs);
    graph.written(metadata)
}

/// An input for each feature, put together as rows.
fn inputs(graph: &mut Graph, names: &Names, shape: Shape) -> Rows {
    let numbers: Vec<Edge> = names.dense.iter().map(|name| graph.number_input(name)).collect();
    let codes: Vec<Edge> = names.categories.iter().map(|(name, _)| graph.code_input(name)).collect();
    let numbers = (!numbers.is_empty()).then(|| graph.beside(&numbers));
    let active = (!codes.is_empty()).then(|| {
        let codes = graph.beside(&codes);
        let first: Vec<i64> = names.categories.iter().map(|(_, first)| i64::from(*first)).collect();
        let first = graph.integers(&first);
        graph.add(codes, first)
    });
    Rows { numbers, active, shape }
}

/// The outputs that a task has.
fn tell(graph: &mut Graph, signature: &Signature<'_>, width: usize, outputs: Edge) {
    let flat = |graph: &mut Graph, value: Edge| {
        let axis = graph.integers(&[1]);
        graph.apply("Squeeze", &[value, axis])
    };
    match signature.task {
        Task::Classification if signature.is_yes_or_no => {
            let probability = flat(graph, outputs);
            let half = graph.scalar(0.5);
            let yes = graph.apply("Greater", &[probability, half]);
            let prediction = graph.as_index(yes);
            graph.index_output("prediction", prediction);
            graph.number_output("probability", probability, None);
        }
        Task::Classification => {
            let all = if width == 1 {
                let one = graph.scalar(1.0);
                let first = graph.subtract(one, outputs);
                graph.beside(&[first, outputs])
            } else {
                outputs
            };
            let attributes = vec![Attribute::int("axis", 1), Attribute::int("keepdims", 0)];
            let prediction = graph.apply_with("ArgMax", &[all], attributes);
            let probability = graph.reduce("ReduceMax", all, 1, false);
            graph.index_output("prediction", prediction);
            graph.number_output("probability", probability, None);
            graph.number_output("probabilities", all, Some(signature.shape.classes));
        }
        Task::Regression => {
            let prediction = flat(graph, outputs);
            graph.number_output("prediction", prediction, None);
        }
        Task::Anomaly => {
            let score = flat(graph, outputs);
            graph.number_output("score", score, None);
        }
        Task::Clustering => {
            let [cluster, distance] = [0, 1].map(|at| {
                let column = graph.columns(outputs, at, at + 1);
                flat(graph, column)
            });
            let cluster = graph.as_index(cluster);
            graph.index_output("cluster", cluster);
            graph.number_output("distance", distance, None);
        }
        Task::Choice => graph.number_output("probabilities", outputs, Some(width)),
    }
}
