//! The model: its weights, and all that learning needs besides.

use std::sync::Arc;

use millstream_engine::digest::{self, Digest};
use millstream_engine::part::Part;
use millstream_engine::processes::Helpers;
use millstream_engine::time::Stopwatch;
use millstream_engine::trace;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::linear::Boost;
use super::super::random::Random;
use super::super::weights::within;
use super::super::{Example, Happening, Learner, Matrix, Predictor, Shape, Weights};
use super::Training;
use super::compute::{Categories, Compute, Failed, Inputs, Learning, View};
use super::graph::{Architecture, Parameter};
use super::host::squares;
use super::known::{Asked, Frozen, Known, Plan, Reading};
use super::loss::{Head, Lesson};
use super::numbers::Numbers;
use super::optimizer::Step;
use super::parts::Parts;
use super::samples::{KeptRows, Replay, Samples};
use super::table::{Sparse, Tending};

/// What learning needs besides.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Course {
    open: KeptRows,
    replay: Option<Replay>,
    random: Random,
    boost: Boost,
    moments: Part<Numbers>,
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
    values: Part<Numbers>,
    has_stopped: bool,
}

/// A network that learns.
pub(super) struct NetworkLearner {
    plan: Arc<Plan>,
    known: Arc<Known>,
    course: Arc<Course>,
    /// None before the first step since it was made or restored.
    look: Option<Look>,
    spent: Spent,
    happenings: Vec<Happening>,
    processor: Parts,
    /// What learns in place of the processor, as long as nothing goes wrong there.
    device: Option<Box<dyn Compute>>,
    buffers: Buffers,
}

/// How the last step was, for people; no part of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) loss: f64,
    gradient_norm: f64,
    /// Of a step now and then.
    update_norm: Option<f64>,
    rate: f32,
}

/// Seconds that learning took since it was made or restored, for people; no part of the model. On a device it is what the processor
/// waits for it.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    predict: f64,
    forward: f64,
    backward: f64,
    update: f64,
}

/// Does `act`, which is a span of that name, too.
fn timed<T>(spent: &mut f64, name: &str, act: impl FnOnce() -> T) -> T {
    let watch = Stopwatch::start();
    let done = trace::span(name, act);
    *spent += watch.seconds();
    done
}

/// Every so many steps it is looked how far the weights went.
const LOOK_STEPS: u64 = 64;

/// Reused from mini-batch to mini-batch.
#[derive(Default)]
struct Buffers {
    reading: Reading,
    gradient: Vec<f32>,
    sparse: Sparse,
    batch: Samples,
    targets: Vec<f64>,
}

impl Course {
    /// At the beginning.
    fn new(plan: &Plan, random: Random) -> Self {
        let training = &plan.training;
        Self {
            open: KeptRows::default(),
            replay: training.replay.map(|config| Replay::new(config, plan.shape)),
            random,
            boost: Boost::default(),
            moments: Part::new(vec![0.0; training.optimizer.moments() * plan.graph.len()].into()),
            tending: Tending::new(training.keeping(), training.seed),
            examples: 0,
            steps: 0,
            refused: 0,
            patience: training.stop.map(|_| Patience::default()),
        }
    }
}

impl NetworkLearner {
    pub(super) fn new(architecture: &dyn Architecture, shape: Shape, head: Head, training: Training) -> Self {
        let mut random = Random::new(training.seed, 0);
        let plan = Plan::new(architecture, shape, head, training);
        let known = plan.known(&mut random);
        let mut learner = Self {
            known: Arc::new(known),
            course: Arc::new(Course::new(&plan, random)),
            look: None,
            spent: Spent::default(),
            happenings: Vec::new(),
            processor: Parts::new(plan.output, plan.training.parts as usize, plan.training.threads as usize),
            device: None,
            buffers: Buffers::default(),
            plan: Arc::new(plan),
        };
        learner.go_to_device();
        learner
    }

    /// Takes what has been learned to the device that the settings name. Where there is none, the processor goes on.
    fn go_to_device(&mut self) {
        let Plan { graph, output, training, .. } = &*self.plan;
        match training.device.open(graph, *output, &self.known.weights.values, &self.course.moments) {
            Ok(device) => self.device = device,
            Err(Failed(why)) => self.say("device_missing", &why),
        }
    }

    fn say(&mut self, kind: &'static str, why: &str) {
        self.device = None;
        self.happenings.push(Happening { row: 0, kind, about: json!({"why": why, "goes_on": "cpu"}) });
    }

    /// Goes to a device of a test.
    #[cfg(test)]
    pub(super) fn move_to(
        &mut self,
        open: impl FnOnce(&super::graph::Graph, super::graph::Node, &[f32], &[f32]) -> Result<Box<dyn Compute>, Failed>,
    ) {
        let Plan { graph, output, .. } = &*self.plan;
        let device = open(graph, *output, &self.known.weights.values, &self.course.moments);
        self.device = Some(device.expect("a device"));
    }

    /// Does what so many other processes would do.
    #[cfg(test)]
    pub(super) fn helped_by_none(&mut self, others: usize) {
        self.processor.helped_by_none(others);
    }

    /// The parameters, to begin with others.
    #[cfg(test)]
    pub(super) fn values(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.known).weights.values.edit()
    }

    /// How the last step was.
    #[cfg(test)]
    pub(super) fn look(&self) -> Look {
        self.look.expect("a step was made")
    }

    /// Predicts rows and learns them, mini-batch by mini-batch.
    fn run(
        &mut self,
        compute: &mut dyn Compute,
        rows: &Matrix,
        examples: &[Example],
        outputs: &mut [f64],
    ) -> Result<(), Failed> {
        let plan = self.plan.clone();
        let size = plan.training.mini_batch as usize;
        let mut at = 0;
        while at < examples.len() {
            // As far as the open mini-batch goes, all are predicted by the same weights.
            let (start, has_stopped, waited) = (at, self.has_stopped(), self.course.open.len());
            while at < examples.len() && (has_stopped || self.course.open.len() < size) {
                if examples[at].weight > 0.0 && !has_stopped {
                    Arc::make_mut(&mut self.course).open.push(rows.row(at), examples[at]);
                }
                at += 1;
            }
            let to = &mut outputs[start * plan.width..at * plan.width];
            let view = self.known.view();
            let view = View { are_own: view.are_own && !has_stopped, ..view };
            let (asked, reading) = (Asked { rows, from: start, to }, &mut self.buffers.reading);
            timed(&mut self.spent.predict, "predict", || self.known.predict(&plan, view, compute, asked, reading))?;
            if self.course.open.len() == size {
                self.step(compute, at - 1, waited == 0 && at - start == size)?;
            }
        }
        Ok(())
    }

    /// Learns the open mini-batch, which row `last` has filled. Where its rows were just predicted together, and nothing else, their
    /// nodes are computed already.
    fn step(&mut self, compute: &mut dyn Compute, last: usize, mut is_computed: bool) -> Result<(), Failed> {
        let plan = self.plan.clone();
        let Plan { graph, output, head, shape, training, .. } = &*plan;
        let (known, course) = (Arc::make_mut(&mut self.known), Arc::make_mut(&mut self.course));
        let Buffers { reading: Reading { numbers, .. }, gradient, sparse, batch, targets } = &mut self.buffers;
        let (rule, moments) = (&training.optimizer, training.optimizer.moments());
        let fresh = course.open.len();
        course.examples += fresh as u64;
        course.open.take_to(batch);
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
        let mut statistics = known.weights.statistics.clone();
        if !is_computed || graph.learns_otherwise() || training.average > 0.0 {
            numbers.clear();
            known.scaling.numbers(&batch.dense, numbers);
            let categories = Categories::Of(&batch.active, &known.weights.table);
            let inputs = Inputs { rows: batch.len(), numbers, categories };
            let learning = Learning { random: &mut course.random, statistics: &mut statistics };
            let view = known.weights.view();
            timed(&mut self.spent.forward, "forward", || compute.forward(graph, view, inputs, Some(learning)))?;
        }
        targets.clear();
        targets.extend(batch.targets.iter().map(|target| known.scaling.target(*target)));
        let lesson = Lesson { width: graph.width(*output), numbers, targets, weights: &batch.weights };
        let view = known.weights.view();
        let (loss, of_parameters) = timed(&mut self.spent.backward, "backward", || {
            let loss = head.gradient(compute.outputs(), &lesson, gradient);
            let of_parameters = compute.backward(graph, view, gradient)?;
            sparse.sum(&batch.active, compute.embeddings(graph), graph.embedding());
            Ok::<_, Failed>((loss, of_parameters))
        })?;
        let length = (of_parameters + squares(&sparse.values)).sqrt();
        if !(loss.is_finite() && length.is_finite()) {
            course.refused += 1;
            let examples = [course.examples - fresh as u64 + 1, course.examples];
            let about = json!({"examples": examples, "loss": loss.to_string(), "gradient_norm": length.to_string()});
            self.happenings.push(Happening { row: last, kind: "step_refused", about });
            return Ok(());
        }
        let factor = if training.clip > 0.0 && length > training.clip { training.clip / length } else { 1.0 } as f32;
        if factor < 1.0 {
            sparse.values.iter_mut().for_each(|gradient| *gradient *= factor);
        }
        course.steps += 1;
        let part = training.schedule.part(course.steps) * course.boost.next(fresh as f64);
        let step = Step { number: course.steps, rate: (rule.rate() * part) as f32, decay: rule.decay() };
        let values = &mut known.weights.values;
        let before = (course.steps.is_multiple_of(LOOK_STEPS) && !compute.is_device()).then(|| values.to_vec());
        timed(&mut self.spent.update, "update", || {
            compute.update(values, &mut course.moments, rule, step, factor)?;
            course.tending.update(&mut known.weights.table, sparse, rule, step);
            Ok::<_, Failed>(())
        })?;
        known.weights.statistics = statistics;
        let mut update_norm = self.look.and_then(|look| look.update_norm);
        if let Some(mut moved) = before {
            moved.iter_mut().zip(values.iter()).for_each(|(before, value)| *before -= value);
            update_norm = Some(squares(&moved).sqrt());
        }
        self.look = Some(Look { loss, gradient_norm: length, update_norm, rate: step.rate });
        if training.average > 0.0 {
            compute.read(values, &mut course.moments)?;
            // The beginning counts less than it would (as TensorFlow's moving averages have it).
            let steps = course.steps as f64;
            let rest = (1.0 - training.average.min((1.0 + steps) / (10.0 + steps))) as f32;
            let means = known.average.edit().iter_mut();
            means.zip(values.iter()).for_each(|(mean, value)| *mean += rest * (value - *mean));
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
        if let (Some(patience), Some(stop)) = (&mut course.patience, training.stop)
            && patience.wait(loss, stop.patience_steps)
        {
            compute.read(values, &mut course.moments)?;
            patience.compare(values);
        }
        Ok(())
    }

    fn has_stopped(&self) -> bool {
        self.course.patience.as_ref().is_some_and(|patience| patience.has_stopped)
    }
}

impl Patience {
    /// After a mini-batch: whether it is the last of so many.
    fn wait(&mut self, loss: f64, most: u32) -> bool {
        self.steps += 1;
        self.sum += loss;
        self.steps >= most
    }

    /// Compares their mean with the best.
    fn compare(&mut self, values: &mut Part<Numbers>) {
        let mean = self.sum / f64::from(self.steps);
        (self.steps, self.sum) = (0, 0.0);
        if self.best.is_none_or(|best| mean < best) {
            self.best = Some(mean);
            self.values = values.clone();
        } else {
            *values = self.values.clone();
            self.has_stopped = true;
        }
    }
}

/// Numbers as short as a network has them.
fn narrow(name: &str, values: Vec<f64>) -> Result<Vec<f32>, String> {
    within(name, &values, -f64::from(f32::MAX), f64::from(f32::MAX))?;
    Ok(values.into_iter().map(|value| value as f32).collect())
}

impl Learner for NetworkLearner {
    fn learn(&mut self, rows: &Matrix, examples: &[Example], outputs: &mut Vec<f64>) {
        outputs.resize(rows.len() * self.plan.width, 0.0);
        if let Some(mut device) = self.device.take() {
            let (known, course, told) = (self.known.clone(), self.course.clone(), self.happenings.len());
            let learned = self.run(&mut *device, rows, examples, outputs).and_then(|()| {
                // What has stopped keeps its best parameters, and without a step they are what they were.
                if self.has_stopped() || self.course.steps == course.steps {
                    return Ok(());
                }
                let moments = &mut Arc::make_mut(&mut self.course).moments;
                device.read(&mut Arc::make_mut(&mut self.known).weights.values, moments)
            });
            match learned {
                Ok(()) => {
                    self.device = Some(device);
                    return;
                }
                Err(Failed(why)) => {
                    // As if nothing had been learned there, and on the processor it cannot fail.
                    (self.known, self.course) = (known, course);
                    self.happenings.truncate(told);
                    self.say("device_failed", &why);
                }
            }
        }
        let mut processor = std::mem::take(&mut self.processor);
        let learned = self.run(&mut processor, rows, examples, outputs);
        debug_assert_eq!(learned, Ok(()), "the processor does not fail");
        self.processor = processor;
    }

    fn helped_by(&mut self, helpers: &Helpers) {
        self.processor.helped_by(helpers);
    }

    fn forget(&mut self, _: &Matrix, _: &[Example]) {
        unreachable!("planning lets only models forget that can");
    }

    fn quicken(&mut self, factor: f64, examples: f64) {
        Arc::make_mut(&mut self.course).boost = Boost::start(factor, examples);
    }

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(Frozen { plan: self.plan.clone(), known: self.known.clone(), course: self.course.clone() })
    }

    fn digest(&self) -> Digest {
        digest::of_value(&(self.plan.shape, &*self.known, &*self.course))
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
        (self.known, self.course, self.look) = (Arc::new(known), Arc::new(course), None);
        self.spent = Spent::default();
        self.go_to_device();
        Ok(())
    }

    fn take(&mut self, from: &mut Weights) -> Result<(), String> {
        let plan = self.plan.clone();
        let Plan { graph, head, shape, training, .. } = &*plan;
        if *head == Head::Rebuild {
            return Err("how wrong an autoencoder usually is stands in no file of weights".to_owned());
        }
        let (known, course) = (Arc::make_mut(&mut self.known), Arc::make_mut(&mut self.course));
        for Parameter { name, shape, range, .. } in graph.parameters() {
            let values = narrow(name, from.take(name, shape)?)?;
            known.weights.values.edit()[range.clone()].copy_from_slice(&values);
        }
        if !known.average.is_empty() {
            known.average.clone_from(&known.weights.values);
        }
        known.scaling.take(from)?;
        let statistics = &mut known.weights.statistics;
        if !statistics.is_empty() {
            *statistics =
                narrow("batch_norm.statistics", from.take("batch_norm.statistics", &[statistics.len()])?)?.into();
        }
        if shape.active > 0 {
            let (categories, size) = (from.any("embeddings.categories")?.values, graph.embedding());
            let rows = narrow("embeddings", from.take("embeddings", &[categories.len(), size])?)?;
            let (table, moments) = (&mut known.weights.table, training.optimizer.moments());
            for (at, number) in categories.iter().enumerate() {
                let category = *number as u32;
                let is_one = f64::from(category) == *number && (category as usize) < shape.categories;
                if !is_one || table.row(category).is_some() {
                    return Err(format!("`embeddings.categories` holds {number}, which is no category, or twice"));
                }
                let mut row = rows[at * size..].iter();
                course.tending.add(table, category, 0, moments, || row.next().copied().unwrap_or_default());
            }
        }
        self.go_to_device();
        Ok(())
    }

    fn progress(&self) -> Vec<(&'static str, f64)> {
        let mut progress = vec![
            ("steps", self.course.steps as f64),
            ("steps_refused", self.course.refused as f64),
            ("processes", self.processor.processes() as f64),
            ("on_device", f64::from(u8::from(self.device.is_some()))),
            ("predict_seconds", self.spent.predict),
            ("forward_seconds", self.spent.forward),
            ("backward_seconds", self.spent.backward),
            ("update_seconds", self.spent.update),
        ];
        if let Some(device) = &self.device {
            progress.push(("on_device_recorded", f64::from(u8::from(device.is_recorded()))));
        }
        if let Some(Look { loss, gradient_norm, update_norm, rate }) = self.look {
            let of_step =
                [("mini_batch_loss", loss), ("gradient_norm", gradient_norm), ("learning_rate", f64::from(rate))];
            progress.extend(of_step);
            progress.extend(update_norm.map(|norm| ("update_norm", norm)));
        }
        progress
    }

    fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }
}
