//! A device gives what the processor gives, and when it fails, the processor goes on as if it had not been there.

use millstream_engine::part::Part;
use serde_json::{Value, json};

use super::super::super::samples::Random;
use super::super::super::{Example, Learner, Matrix, Row, Shape};
use super::super::architecture::{self, Mirror, Network};
use super::super::compute::{Compute, Failed, Inputs, Learning, View};
use super::super::device::Device;
use super::super::graph::{Architecture, Graph};
use super::super::learner::NetworkLearner;
use super::super::loss::Head;
use super::super::numbers::Numbers;
use super::super::optimizer::{Rule, Step};
use super::super::{ClassLoss, Layers, Loss, NumberLoss, Training};

const ROWS: usize = 400;

/// A GPU where this program can use one, else candle's processor.
pub(super) fn place() -> candle_core::Device {
    let gpu = candle_core::Device::new_cuda(0);
    println!("on {}", if gpu.is_ok() { "cuda:0" } else { "candle's processor" });
    gpu.unwrap_or(candle_core::Device::Cpu)
}

pub(super) fn learner(architecture: &dyn Architecture, head: &Head, shape: Shape, training: &Value) -> NetworkLearner {
    let mut training = training.clone();
    training["device"] = json!("cpu");
    let training: Training = serde_json::from_value(training).expect("settings");
    NetworkLearner::new(architecture, shape, head.clone(), training)
}

/// Rows with numbers and categories of which a number, or one of three classes, follows.
pub(super) fn rows(shape: Shape, len: usize) -> (Matrix, Vec<Example>) {
    let mut random = Random::seeded(1);
    let (mut rows, mut examples) = (Matrix::new(shape), Vec::new());
    for _ in 0..len {
        let dense: Vec<f64> = (0..shape.dense).map(|_| random.normal()).collect();
        let active = [random.below(3) as u32, 3 + random.below(4) as u32];
        let number = dense[0] - dense[1] + f64::from(active[0]);
        let class = (number + 1.5).clamp(0.0, shape.classes.max(1) as f64 - 1.0).floor();
        rows.push(Row { dense: &dense, active: &active });
        examples.push(Example::of(if shape.classes > 0 { class } else { number }));
    }
    (rows, examples)
}

fn learn(learner: &mut NetworkLearner, rows: &Matrix, examples: &[Example]) -> Vec<f64> {
    let mut outputs = Vec::new();
    learner.learn(rows, examples, &mut outputs);
    outputs
}

#[test]
fn a_device_gives_what_the_processor_gives() {
    let mlp = |config: Value| serde_json::from_value::<Network>(json!({"mlp": config})).expect("a network");
    let network = |config: Value| serde_json::from_value::<Network>(config).expect("a network");
    let (number, classes) = (NumberLoss::Squared.head(), ClassLoss::default().head());
    let adamw = json!({"adamw": {"rate": 0.01}});
    let layers: Layers = serde_json::from_value(json!({"hidden": [8, 3], "activation": "silu"})).expect("layers");
    let cases: Vec<(Box<dyn Architecture>, &Head, usize, Value)> = vec![
        (Box::new(mlp(json!({"hidden": [16, 16], "residual": true}))), &number, 0, adamw.clone()),
        (
            Box::new(mlp(json!({"hidden": [16], "normalise": "layer", "activation": "gelu"}))),
            &classes,
            3,
            json!({"sgd": {"rate": 0.05, "momentum": 0.9, "decay": 0.01}}),
        ),
        (
            Box::new(mlp(json!({"hidden": [16, 8], "normalise": "batch", "activation": "tanh", "dropout": 0.2}))),
            &number,
            0,
            json!({"adagrad": {"rate": 0.02, "decay": 0.001}}),
        ),
        (Box::new(network(json!({"cross": {"crosses": 2}}))), &classes, 2, json!({"sgd": {"rate": 0.05}})),
        (Box::new(network(json!({"gru": {"steps": 3, "units": 5}}))), &number, 0, adamw.clone()),
        (Box::new(network(json!({"temporal_convolution": {"steps": 3, "channels": 4}}))), &number, 0, adamw.clone()),
        (Box::new(Mirror(layers)), &Head::Rebuild, 0, adamw),
    ];
    for (at, (architecture, head, classes, optimizer)) in cases.iter().enumerate() {
        let shape = Shape { dense: 6, active: 2, categories: 7, classes: *classes };
        let average = if at == 1 { 0.9 } else { 0.0 };
        // The last steps have no length at all.
        let schedule = json!({"warm_up_steps": 3, "then": {"cosine": {"steps": 2 * ROWS / 16 - 8, "to": 0}}});
        let training = json!({
            "mini_batch": 16, "optimizer": optimizer, "schedule": schedule, "average": average, "embedding": {"size": 3},
        });
        let (rows, examples) = rows(shape, ROWS);
        let mut host = learner(&**architecture, head, shape, &training);
        let mut device = learner(&**architecture, head, shape, &training);
        device.move_to(|graph, output, values, moments| {
            Ok(Box::new(Device::new(place(), graph, output, values, moments)?))
        });
        let [on_host, on_device] = [&mut host, &mut device].map(|learner| learn(learner, &rows, &examples));
        assert!(device.take_happenings().is_empty(), "nothing went wrong");
        let is_recorded = device.progress().contains(&("on_device_recorded", 1.0));
        assert_eq!(is_recorded, place().is_cuda() || !cfg!(feature = "cuda"), "network {at}");
        let apart = on_host.iter().zip(&on_device).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("network {at}: {apart:.1e} apart");
        assert!(apart < 2e-4, "network {at}: {apart}");
        // What it has learned is in the model, and goes on there.
        let snapshot = device.snapshot();
        host.restore(&snapshot).expect("the same network");
        let on_host = learn(&mut host, &rows, &examples);
        // Another thread, too, which records for itself.
        let go_on = || learn(&mut device, &rows, &examples);
        let on_device = std::thread::scope(|scope| scope.spawn(go_on).join()).expect("it learns");
        let apart = on_host.iter().zip(&on_device).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 2e-4, "network {at}, gone on: {apart}");
        assert!(on_device.iter().all(|output| output.is_finite()) && device.take_happenings().is_empty());
    }
}

#[test]
fn a_step_on_a_device_has_the_bits_of_the_processors() {
    const LEN: usize = 3000;
    let mut random = Random::seeded(2);
    let mut draw = |len: usize| (0..len).map(|_| random.normal() as f32).collect::<Vec<_>>();
    let (values, gradients) = (draw(LEN), draw(LEN));
    let network: Network = serde_json::from_value(json!({"mlp": {"hidden": [LEN / 8 - 1]}})).expect("a network");
    let shape = Shape { dense: 6, active: 0, categories: 0, classes: 0 };
    let (graph, output) = architecture::graph(&network, shape, 1, 1);
    let len = graph.len();
    assert!(len <= LEN && len % 1024 > 0, "not a whole number of blocks: {len}");
    for rule in [
        json!({"sgd": {"rate": 0.05, "decay": 0.01}}),
        json!({"sgd": {"rate": 0.05, "momentum": 0.9, "decay": 0.01}}),
        json!({"adagrad": {"rate": 0.02, "epsilon": 1e-6, "decay": 0.001}}),
        json!({"adamw": {"rate": 0.01, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-7, "decay": 0.02}}),
    ] {
        let rule: Rule = serde_json::from_value(rule).expect("a rule");
        // Squares are not below 0.
        let mut moments: Vec<f32> = draw(rule.moments() * len).into_iter().map(f32::abs).collect();
        let mut device = Device::new(place(), &graph, output, &values[..len], &moments).expect("a device");
        let mut wanted = values[..len].to_vec();
        for number in 1..4 {
            let step = Step { number, rate: rule.rate() as f32, decay: rule.decay() };
            let scaled: Vec<f32> = gradients[..len].iter().map(|gradient| 0.7 * gradient).collect();
            rule.update(&mut wanted, &scaled, &mut moments, step);
            device.set_gradients(&gradients).expect("gradients");
            device.update(&mut Part::default(), &mut Part::default(), &rule, step, 0.7).expect("a step");
        }
        let (mut has, mut has_moments) = (Part::default(), Part::default());
        device.read(&mut has, &mut has_moments).expect("numbers");
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert!(bits(&has) == bits(&wanted) && bits(&has_moments) == bits(&moments), "{rule:?}");
        assert!(values[..len] != wanted, "it moved");
    }
}

/// A device that fails at some call.
struct Failing {
    device: Device,
    calls: usize,
}

impl Failing {
    fn call(&mut self) -> Result<(), Failed> {
        self.calls = self.calls.checked_sub(1).ok_or_else(|| Failed("out of memory".to_owned()))?;
        Ok(())
    }
}

impl Compute for Failing {
    fn forward(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        learning: Option<Learning<'_>>,
    ) -> Result<(), Failed> {
        self.call()?;
        self.device.forward(graph, weights, inputs, learning)
    }
    fn outputs(&self) -> &[f32] {
        self.device.outputs()
    }
    fn backward(&mut self, graph: &Graph, weights: View<'_>, gradient: &[f32]) -> Result<f64, Failed> {
        self.call()?;
        self.device.backward(graph, weights, gradient)
    }
    fn embeddings(&self, graph: &Graph) -> &[f32] {
        self.device.embeddings(graph)
    }
    fn update(
        &mut self,
        values: &mut Part<Numbers>,
        moments: &mut Part<Numbers>,
        rule: &Rule,
        step: Step,
        factor: f32,
    ) -> Result<(), Failed> {
        self.call()?;
        self.device.update(values, moments, rule, step, factor)
    }
    fn read(&mut self, values: &mut Part<Numbers>, moments: &mut Part<Numbers>) -> Result<(), Failed> {
        self.call()?;
        self.device.read(values, moments)
    }
    fn is_device(&self) -> bool {
        true
    }
}

#[test]
fn when_a_device_fails_the_processor_goes_on_from_the_last_rows() {
    let network: Network = serde_json::from_value(json!({"mlp": {"hidden": [8]}})).expect("a network");
    let shape = Shape { dense: 3, active: 2, categories: 7, classes: 0 };
    let head = NumberLoss::Squared.head();
    let training = json!({"mini_batch": 16, "embedding": {"size": 2, "expire_examples": 50}, "replay": {"rows": 20, "per_batch": 4}});
    let (rows, examples) = rows(shape, ROWS);
    let mut sound = learner(&network, &head, shape, &training);
    let wanted = learn(&mut sound, &rows, &examples);
    for calls in [0, 1, 2, 3, 50, 100] {
        let mut failing = learner(&network, &head, shape, &training);
        failing.move_to(|graph, output, values, moments| {
            let device = Device::new(candle_core::Device::Cpu, graph, output, values, moments)?;
            Ok(Box::new(Failing { device, calls }))
        });
        let told = learn(&mut failing, &rows, &examples);
        assert_eq!(told, wanted, "after {calls} calls");
        assert_eq!(failing.snapshot(), sound.snapshot(), "after {calls} calls");
        let happenings = failing.take_happenings();
        let [happening] = &happenings[..] else { panic!("{happenings:?}") };
        assert_eq!((happening.kind, &happening.about["why"]), ("device_failed", &json!("out of memory")));
    }
}

#[test]
fn a_device_that_is_not_there_is_told_and_the_processor_learns() {
    if cfg!(feature = "cuda") {
        println!("skipped: this program may find a device");
        return;
    }
    let network: Network = serde_json::from_value(json!({"mlp": {"hidden": [8]}})).expect("a network");
    let shape = Shape { dense: 3, active: 2, categories: 7, classes: 0 };
    let training: Training = serde_json::from_value(json!({"device": "cuda:0"})).expect("settings");
    let mut learner = NetworkLearner::new(&network, shape, NumberLoss::Squared.head(), training);
    let (rows, examples) = rows(shape, ROWS);
    learn(&mut learner, &rows, &examples);
    let happenings = learner.take_happenings();
    assert_eq!(happenings.iter().map(|happening| happening.kind).collect::<Vec<_>>(), ["device_missing"]);
    assert!(learner.progress().contains(&("on_device", 0.0)));
    for wrong in ["gpu", "cuda", "cuda:x"] {
        assert!(serde_json::from_value::<Training>(json!({"device": wrong})).is_err(), "{wrong}");
    }
}
