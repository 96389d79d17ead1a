//! The model: its weights, and all that learning needs besides.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::linear::Boost;
use super::super::random::Random;
use super::super::{Example, Explanation, Happening, Learner, Matrix, Names, Predictor, Shape, Task, Tensor};
use super::graph::{Architecture, Graph, Node};
use super::host::{Inputs, Learning, View, Weights, Workspace};
use super::loss::{Head, Lesson, classes};
use super::samples::{Replay, Samples};
use super::scaling::Scaling;
use super::table::{Sparse, Tending};
use super::{Training, architecture};

/// What a network is, apart from its numbers.
pub(super) struct Plan {
    graph: Graph,
    output: Node,
    head: Head,
    shape: Shape,
    /// How many outputs a row has, of the model.
    width: usize,
    training: Training,
}

/// What answers need.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Known {
    weights: Weights,
    /// The mean of the parameters of the past, where that is what answers.
    #[serde(with = "super::floats")]
    average: Vec<f32>,
    scaling: Scaling,
    /// How wrong the network usually is, where that is what is told.
    usual: f64,
}

/// What learning needs besides.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Course {
    open: Samples,
    replay: Option<Replay>,
    random: Random,
    boost: Boost,
    #[serde(with = "super::floats")]
    moments: Vec<f32>,
    tending: Tending,
    /// How many examples were learned.
    examples: u64,
    /// How many steps were made.
    steps: u64,
    /// How many mini-batches were left out, for their loss or gradient was not finite.
    refused: u64,
    patience: Option<Patience>,
}

/// How long it has been no better.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Patience {
    /// How many mini-batches the present mean is of, and the sum of their losses.
    steps: u32,
    sum: f64,
    best: Option<f64>,
    /// The parameters at the best one.
    #[serde(with = "super::floats")]
    values: Vec<f32>,
    has_stopped: bool,
}

/// A network that learns.
pub(super) struct NetworkLearner {
    plan: Arc<Plan>,
    known: Arc<Known>,
    course: Course,
    look: Look,
    happenings: Vec<Happening>,
    buffers: Buffers,
}

/// How the last step was, for people; no part of the model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) loss: f64,
    gradient_norm: f64,
    /// Of a step now and then.
    update_norm: f64,
    rate: f32,
}

/// Every so many steps it is looked how far the weights went.
const LOOK_STEPS: u64 = 64;

/// Reused from mini-batch to mini-batch.
struct Buffers {
    workspace: Workspace,
    numbers: Vec<f32>,
    gradients: Vec<f32>,
    sparse: Sparse,
    batch: Samples,
    targets: Vec<f64>,
    probabilities: Vec<f64>,
}

/// How many rows are predicted at once, or as many as a mini-batch has: so many that their numbers stay in a near cache.
const BLOCK: usize = 256;

impl Plan {
    fn new(architecture: &dyn Architecture, shape: Shape, head: Head, training: Training) -> Self {
        let task = match head {
            Head::Classes(_) => Task::Classification,
            Head::Number(_) => Task::Regression,
            Head::Rebuild => Task::Anomaly,
        };
        let outputs = head.width(shape.classes, shape.dense);
        let (graph, output) = architecture::graph(architecture, shape, training.embedding.size as usize, outputs);
        Self { graph, output, head, shape, width: task.outputs(shape.classes), training }
    }

    fn known(&self, random: &mut Random) -> Known {
        let weights = Weights::new(&self.graph, random);
        let average = if self.training.average > 0.0 { weights.values.clone() } else { Vec::new() };
        let scales = matches!(self.head, Head::Number(loss) if loss.scales());
        let columns = if self.training.standardise { self.shape.dense } else { 0 };
        let scaling = Scaling::new(columns, scales && self.training.standardise);
        Known { weights, average, scaling, usual: 0.0 }
    }

    fn course(&self, random: Random) -> Course {
        let training = &self.training;
        Course {
            open: Samples::default(),
            replay: training.replay.map(|config| Replay::new(config, self.shape)),
            random,
            boost: Boost::default(),
            moments: vec![0.0; training.optimizer.moments() * self.graph.len()],
            tending: Tending::new(training.keeping(), training.seed),
            examples: 0,
            steps: 0,
            refused: 0,
            patience: training.stop.map(|_| Patience::default()),
        }
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
                each.for_each(|(outputs, to)| to[0] = libm::exp(f64::from(finite(outputs[0]).min(80.0))))
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

impl Known {
    /// With the weights that answer.
    fn view(&self) -> View<'_> {
        let view = self.weights.view();
        if self.average.is_empty() { view } else { View { values: &self.average, ..view } }
    }

    fn predict(&self, plan: &Plan, rows: &Matrix, from: usize, to: &mut [f64], buffers: &mut Buffers) {
        let Buffers { workspace, numbers, probabilities, .. } = buffers;
        let size = BLOCK.max(plan.training.mini_batch as usize);
        for (block, to) in (0..).zip(to.chunks_mut(size * plan.width)) {
            let first = from + block * size;
            let (dense, active) = rows.rows(first, first + to.len() / plan.width);
            numbers.clear();
            self.scaling.numbers(dense, numbers);
            let inputs = Inputs { rows: to.len() / plan.width, numbers, active };
            workspace.forward(&plan.graph, self.view(), inputs, None);
            plan.tell(self, &workspace.values[plan.output.0], numbers, probabilities, to);
        }
    }
}

impl Buffers {
    fn new(plan: &Plan) -> Self {
        Self {
            workspace: Workspace::new(&plan.graph),
            numbers: Vec::new(),
            gradients: vec![0.0; plan.graph.len()],
            sparse: Sparse::default(),
            batch: Samples::default(),
            targets: Vec::new(),
            probabilities: Vec::new(),
        }
    }
}

impl NetworkLearner {
    pub(super) fn new(architecture: &dyn Architecture, shape: Shape, head: Head, training: Training) -> Self {
        let mut random = Random::new(training.seed, 0);
        let plan = Plan::new(architecture, shape, head, training);
        let known = plan.known(&mut random);
        Self {
            known: Arc::new(known),
            course: plan.course(random),
            look: Look::default(),
            happenings: Vec::new(),
            buffers: Buffers::new(&plan),
            plan: Arc::new(plan),
        }
    }

    /// The parameters, to begin with others.
    #[cfg(test)]
    pub(super) fn values(&mut self) -> &mut [f32] {
        &mut Arc::make_mut(&mut self.known).weights.values
    }

    /// How the last step was.
    #[cfg(test)]
    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// Learns the open mini-batch, which row `last` has filled. Where its rows were just predicted together, and nothing else, their
    /// nodes are computed already.
    fn step(&mut self, last: usize, mut is_computed: bool) {
        let plan = self.plan.clone();
        let Plan { graph, output, head, shape, training, .. } = &*plan;
        let (known, course) = (Arc::make_mut(&mut self.known), &mut self.course);
        let Buffers { workspace, numbers, gradients, sparse, batch, targets, .. } = &mut self.buffers;
        let moments = training.optimizer.moments();
        let fresh = course.open.len();
        course.examples += fresh as u64;
        std::mem::swap(batch, &mut course.open);
        course.open.clear();
        // Rows are learned with the scale with which they were predicted; there is none before the first.
        if course.examples == fresh as u64 {
            known.scaling.add(batch, fresh, *shape);
            is_computed = false;
        }
        for category in &batch.active {
            is_computed &= !course.tending.see(&mut known.weights.table, *category, course.examples, moments);
        }
        if let Some(replay) = &course.replay {
            replay.draw(batch, &mut course.random, *shape);
            is_computed = false;
        }
        let rows = batch.len();
        let mut statistics = known.weights.statistics.clone();
        if !is_computed || graph.learns_otherwise() || training.average > 0.0 {
            numbers.clear();
            known.scaling.numbers(&batch.dense, numbers);
            let inputs = Inputs { rows, numbers, active: &batch.active };
            let learning = Learning { random: &mut course.random, statistics: &mut statistics };
            workspace.forward(graph, known.weights.view(), inputs, Some(learning));
        }
        targets.clear();
        targets.extend(batch.targets.iter().map(|target| known.scaling.target(*target)));
        let lesson = Lesson { width: graph.width(*output), numbers, targets, weights: &batch.weights };
        let loss = head.gradient(&workspace.values[output.0], &lesson, &mut workspace.gradients[output.0]);
        gradients.fill(0.0);
        workspace.backward(graph, known.weights.view(), rows, *output, gradients);
        sparse.sum(&batch.active, workspace.embeddings(graph), graph.embedding());
        let length = (squares(gradients) + squares(&sparse.values)).sqrt();
        if !(loss.is_finite() && length.is_finite()) {
            course.refused += 1;
            let examples = [course.examples - fresh as u64 + 1, course.examples];
            let about = json!({"examples": examples, "loss": loss.to_string(), "gradient_norm": length.to_string()});
            self.happenings.push(Happening { row: last, kind: "step_refused", about });
            return;
        }
        if training.clip > 0.0 && length > training.clip {
            let factor = (training.clip / length) as f32;
            gradients.iter_mut().chain(&mut sparse.values).for_each(|gradient| *gradient *= factor);
        }
        course.steps += 1;
        let part = training.schedule.part(course.steps) * course.boost.next(fresh as f64);
        let rate = (training.optimizer.rate() * part) as f32;
        let decay = training.optimizer.decay();
        let values = &mut known.weights.values;
        let before = course.steps.is_multiple_of(LOOK_STEPS).then(|| values.clone());
        training.optimizer.update(values, gradients, &mut course.moments, rate, decay, course.steps);
        course.tending.update(&mut known.weights.table, sparse, &training.optimizer, rate, course.steps);
        known.weights.statistics = statistics;
        (self.look.loss, self.look.gradient_norm, self.look.rate) = (loss, length, rate);
        if let Some(mut moved) = before {
            moved.iter_mut().zip(&*values).for_each(|(before, value)| *before -= value);
            self.look.update_norm = squares(&moved).sqrt();
        }
        if training.average > 0.0 {
            // The beginning counts less than it would (as TensorFlow's moving averages have it).
            let steps = course.steps as f64;
            let rest = (1.0 - training.average.min((1.0 + steps) / (10.0 + steps))) as f32;
            known.average.iter_mut().zip(&*values).for_each(|(mean, value)| *mean += rest * (value - *mean));
        }
        if *head == Head::Rebuild {
            let share = (1.0 / course.steps as f64).max(0.01);
            known.usual += share * (loss - known.usual);
        }
        if course.examples > fresh as u64 {
            known.scaling.add(batch, fresh, *shape);
        }
        course.tending.expire(&mut known.weights.table, course.examples, moments);
        if let Some(replay) = &mut course.replay {
            batch.truncate(fresh, *shape);
            replay.add(batch, &mut course.random, *shape);
        }
        if let (Some(patience), Some(stop)) = (&mut course.patience, training.stop) {
            patience.wait(loss, stop.patience_steps, values);
        }
    }

    fn has_stopped(&self) -> bool {
        self.course.patience.as_ref().is_some_and(|patience| patience.has_stopped)
    }
}

impl Patience {
    /// After a mini-batch: at the end of so many, compares their mean with the best.
    fn wait(&mut self, loss: f64, most: u32, values: &mut [f32]) {
        self.steps += 1;
        self.sum += loss;
        if self.steps < most {
            return;
        }
        let mean = self.sum / f64::from(self.steps);
        (self.steps, self.sum) = (0, 0.0);
        if self.best.is_none_or(|best| mean < best) {
            self.best = Some(mean);
            self.values = values.to_vec();
        } else {
            values.copy_from_slice(&self.values);
            self.has_stopped = true;
        }
    }
}

/// The sum of squares, in sixteen sums: the same on machines with narrower and wider registers.
fn squares(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for chunk in chunks {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    let value = f64::from(*value);
                    *sum += value * value;
                }
            }
        },
    );
    let rest = rest.iter().map(|value| f64::from(*value) * f64::from(*value));
    sums.into_iter().chain(rest).sum()
}

impl Learner for NetworkLearner {
    fn learn(&mut self, rows: &Matrix, examples: &[Example], outputs: &mut Vec<f64>) {
        let plan = self.plan.clone();
        outputs.resize(rows.len() * plan.width, 0.0);
        let size = plan.training.mini_batch as usize;
        let mut at = 0;
        while at < examples.len() {
            // As far as the open mini-batch goes, all are predicted by the same weights.
            let (start, has_stopped, waited) = (at, self.has_stopped(), self.course.open.len());
            while at < examples.len() && (has_stopped || self.course.open.len() < size) {
                if examples[at].weight > 0.0 && !has_stopped {
                    self.course.open.push(rows.row(at), examples[at]);
                }
                at += 1;
            }
            let to = &mut outputs[start * plan.width..at * plan.width];
            self.known.predict(&plan, rows, start, to, &mut self.buffers);
            if self.course.open.len() == size {
                self.step(at - 1, waited == 0 && at - start == size);
            }
        }
    }

    fn forget(&mut self, _: &Matrix, _: &[Example]) {
        unreachable!("planning lets only models forget that can");
    }

    fn quicken(&mut self, factor: f64, examples: f64) {
        self.course.boost = Boost::start(factor, examples);
    }

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(Frozen { plan: self.plan.clone(), known: self.known.clone() })
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.plan.shape, &*self.known, &self.course)).expect("numbers can be written to memory")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (shape, known, course): (Shape, Known, Course) =
            postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        let Plan { graph, training, .. } = &*self.plan;
        if shape != self.plan.shape {
            return Err(format!("its rows are not of {:?}", self.plan.shape));
        }
        let like = self.plan.known(&mut Random::new(0, 0));
        let moments = training.optimizer.moments();
        let table = &known.weights.table;
        let is_sound = known.weights.values.len() == graph.len()
            && known.weights.statistics.len() == like.weights.statistics.len()
            && known.average.len() == like.average.len()
            && known.scaling.is_like(&like.scaling)
            && known.usual.is_finite()
            && known.usual >= 0.0
            && table.fits(graph.embedding(), shape.categories)
            && course.tending.fits(table, training.keeping(), moments)
            && course.moments.len() == moments * graph.len()
            && course.open.len() < training.mini_batch as usize
            && course.open.fits(shape)
            && match (&course.replay, training.replay) {
                (Some(replay), Some(config)) => replay.fits(config, shape),
                (replay, config) => replay.is_none() && config.is_none(),
            }
            && course.patience.is_some() == training.stop.is_some()
            && course
                .patience
                .as_ref()
                .is_none_or(|patience| patience.best.is_none() || patience.values.len() == graph.len());
        if !is_sound {
            return Err("its numbers are not those of this network".to_owned());
        }
        (self.known, self.course) = (Arc::new(known), course);
        Ok(())
    }

    fn progress(&self) -> Vec<(&'static str, f64)> {
        let Look { loss, gradient_norm, update_norm, rate } = self.look;
        vec![
            ("steps", self.course.steps as f64),
            ("steps_refused", self.course.refused as f64),
            ("mini_batch_loss", loss),
            ("gradient_norm", gradient_norm),
            ("update_norm", update_norm),
            ("learning_rate", f64::from(rate)),
        ]
    }

    fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }
}

/// A network that does not change any more.
struct Frozen {
    plan: Arc<Plan>,
    known: Arc<Known>,
}

impl Predictor for Frozen {
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        outputs.resize(rows.len() * self.plan.width, 0.0);
        self.known.predict(&self.plan, rows, 0, outputs, &mut Buffers::new(&self.plan));
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
        let (means, deviations) = self.known.scaling.told();
        if !means.is_empty() {
            tensors.push(Tensor::row("inputs.mean", means));
            tensors.push(Tensor::row("inputs.deviation", deviations));
        }
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
