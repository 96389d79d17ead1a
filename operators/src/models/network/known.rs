//! What answers: a network with its numbers.

use std::sync::Arc;

use millstream_engine::part::Part;
use serde::{Deserialize, Serialize};

use super::super::onnx;
use super::super::random::Random;
use super::super::{Explanation, Matrix, Names, Predictor, Shape, Tensor};
use super::compute::{Categories, Compute, Failed, Inputs, View, Weights};
use super::graph::{Architecture, Graph, Node};
use super::host::squares;
use super::learner::Course;
use super::loss::{Head, classes};
use super::numbers::Numbers;
use super::onnx::express;
use super::parts::Parts;
use super::scaling::Scaling;
use super::{Training, architecture};

/// What a network is, apart from its numbers.
pub(super) struct Plan {
    pub(super) graph: Graph,
    pub(super) output: Node,
    pub(super) head: Head,
    pub(super) shape: Shape,
    /// How many outputs a row has, of the model.
    pub(super) width: usize,
    pub(super) training: Training,
}

/// What answers need.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Known {
    pub(super) weights: Weights,
    /// The mean of the parameters of the past, where that is what answers.
    pub(super) average: Part<Numbers>,
    pub(super) scaling: Scaling,
    /// How wrong the network usually is, where that is what is told.
    pub(super) usual: f64,
}

/// Reused from block to block.
#[derive(Default)]
pub(super) struct Reading {
    /// The rows as the network takes them.
    pub(super) numbers: Vec<f32>,
    probabilities: Vec<f64>,
}

/// How many rows are predicted at once, or as many as a mini-batch has: so many that their numbers stay in a near cache.
const BLOCK: usize = 256;

impl Plan {
    /// For rows of this shape.
    pub(super) fn new(architecture: &dyn Architecture, shape: Shape, head: Head, training: Training) -> Self {
        let width = head.task().outputs(shape.classes);
        let outputs = head.width(shape.classes, shape.dense);
        let (graph, output) = architecture::graph(architecture, shape, training.embedding.size as usize, outputs);
        Self { graph, output, head, shape, width, training }
    }

    /// Its numbers at the beginning.
    pub(super) fn known(&self, random: &mut Random) -> Known {
        let weights = Weights::new(&self.graph, random);
        let average = if self.training.average > 0.0 { weights.values.clone() } else { Part::default() };
        let scales = matches!(self.head, Head::Number(loss) if loss.scales());
        let columns = if self.training.standardise { self.shape.dense } else { 0 };
        let scaling = Scaling::new(columns, scales && self.training.standardise);
        Known { weights, average, scaling, usual: 0.0 }
    }

    /// What the outputs of the network say of each row.
    fn tell(&self, known: &Known, outputs: &[f32], numbers: &[f32], probabilities: &mut Vec<f64>, to: &mut [f64]) {
        let each = outputs.chunks_exact(self.graph.width(self.output)).zip(to.chunks_exact_mut(self.width));
        let finite = |output: f32| if output.is_finite() { output } else { 0.0 };
        match &self.head {
            Head::Classes(_) => each.for_each(|(outputs, to)| {
                if outputs.iter().all(|output| output.is_finite()) {
                    classes(outputs, probabilities);
                } else {
                    probabilities.clear();
                    probabilities.resize(outputs.len().max(2), 1.0 / outputs.len().max(2) as f64);
                }
                to.copy_from_slice(&probabilities[probabilities.len() - to.len()..]);
            }),
            Head::Number(loss) if loss.scales() => {
                each.for_each(|(outputs, to)| to[0] = known.scaling.number(f64::from(finite(outputs[0]))));
            }
            Head::Number(_) => {
                each.for_each(|(outputs, to)| to[0] = libm::exp(f64::from(finite(outputs[0]).min(80.0))));
            }
            Head::Rebuild => {
                for (row, (outputs, to)) in each.enumerate() {
                    let error = rebuilt(outputs, &numbers[row * self.shape.dense..][..self.shape.dense]);
                    to[0] = if error.is_finite() && error + known.usual > 0.0 {
                        error / (error + known.usual)
                    } else {
                        f64::from(u8::from(!error.is_finite()))
                    };
                }
            }
        }
    }
}

/// The mean squared error of a row that was told again.
fn rebuilt(outputs: &[f32], numbers: &[f32]) -> f64 {
    let squares = outputs.iter().zip(numbers).map(|(output, number)| {
        let error = f64::from(output - number);
        error * error
    });
    squares.sum::<f64>() / numbers.len().max(1) as f64
}

/// Rows from one on that are to be told: as many as there is room for.
pub(super) struct Asked<'a> {
    pub(super) rows: &'a Matrix,
    pub(super) from: usize,
    pub(super) to: &'a mut [f64],
}

impl Known {
    /// With the weights that answer.
    pub(super) fn view(&self) -> View<'_> {
        let view = self.weights.view();
        if self.average.is_empty() { view } else { View { values: &self.average, are_own: false, ..view } }
    }

    /// Tells them.
    pub(super) fn predict(
        &self,
        plan: &Plan,
        view: View<'_>,
        compute: &mut dyn Compute,
        Asked { rows, from, to }: Asked<'_>,
        reading: &mut Reading,
    ) -> Result<(), Failed> {
        let Reading { numbers, probabilities } = reading;
        let size = BLOCK.max(plan.training.mini_batch as usize);
        for (block, to) in (0..).zip(to.chunks_mut(size * plan.width)) {
            let first = from + block * size;
            let (dense, active) = rows.rows(first, first + to.len() / plan.width);
            numbers.clear();
            self.scaling.numbers(dense, numbers);
            let categories = Categories::Of(active, &self.weights.table);
            let inputs = Inputs { rows: to.len() / plan.width, numbers, categories };
            compute.forward(&plan.graph, view, inputs, None)?;
            plan.tell(self, compute.outputs(), numbers, probabilities, to);
        }
        Ok(())
    }
}

/// A network that does not change any more.
pub(super) struct Frozen {
    pub(super) plan: Arc<Plan>,
    pub(super) known: Arc<Known>,
    /// What learning goes on with.
    pub(super) course: Arc<Course>,
}

impl Predictor for Frozen {
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        outputs.resize(rows.len() * self.plan.width, 0.0);
        let mut processor = Parts::new(self.plan.output, 1, 1);
        let asked = Asked { rows, from: 0, to: outputs };
        let told = self.known.predict(&self.plan, self.known.view(), &mut processor, asked, &mut Reading::default());
        debug_assert_eq!(told, Ok(()), "the processor does not fail");
    }

    fn tensors(&self) -> Vec<Tensor> {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
        let values = self.known.view().values;
        let parameters = self.plan.graph.parameters().iter();
        let mut tensors: Vec<Tensor> = parameters
            .map(|parameter| Tensor {
                name: parameter.name.clone().into(),
                shape: parameter.shape.clone(),
                values: wide(&values[parameter.range.clone()]),
            })
            .collect();
        tensors.extend(self.known.scaling.tensors());
        if !self.known.weights.statistics.is_empty() {
            tensors.push(Tensor::row("batch_norm.statistics", wide(&self.known.weights.statistics)));
        }
        if self.plan.shape.active > 0 {
            let (categories, rows) = self.known.weights.table.all();
            tensors.push(Tensor::table("embeddings", categories.len(), rows));
            tensors.push(Tensor::row("embeddings.categories", categories));
        }
        tensors
    }

    fn onnx(&self, graph: &mut onnx::Graph, rows: &onnx::Rows) -> onnx::Expressed {
        express(self, graph, rows)
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.plan.shape, &*self.known, &*self.course)).expect("numbers can be written to memory")
    }

    fn explain(&self, names: &Names) -> Explanation {
        let Plan { graph, shape, .. } = &*self.plan;
        let mut lines = vec![format!("a network of {} weights", graph.len())];
        for parameter in graph.parameters() {
            let shape: Vec<String> = parameter.shape.iter().map(ToString::to_string).collect();
            lines.push(format!("  {} {}", parameter.name, shape.join(" x ")));
        }
        lines.push("importance: how long the weights of the first layer are from a column, on average".to_owned());
        let mut importances = Vec::new();
        let first = graph.parameters().iter().find(|parameter| parameter.shape.len() == 2);
        if let Some(first) = first.filter(|first| first.shape[0] >= shape.dense) {
            let values = &self.known.view().values[first.range.clone()];
            let lengths = values.chunks_exact(first.shape[1]).map(|row| squares(row).sqrt());
            importances.extend(names.dense.iter().cloned().zip(lengths));
        }
        importances.sort_by(|a: &(String, f64), b| b.1.total_cmp(&a.1));
        Explanation { importances, lines }
    }
}
