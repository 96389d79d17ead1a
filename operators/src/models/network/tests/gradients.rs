//! Gradients are the slopes of the loss, of every parameter of every network.

use serde_json::{Value, json};

use super::super::super::Shape;
use super::super::super::random::Random;
use super::super::architecture::{self, Mirror, Network};
use super::super::compute::{Categories, Compute, Inputs, Learning, Weights};
use super::super::device::Device;
use super::super::graph::{Architecture, Graph, Node};
use super::super::loss::{Head, Lesson};
use super::super::parts::Parts;
use super::super::table::{Keeping, Sparse, Tending};
use super::super::{ClassLoss, Layers, NumberLoss};
use super::devices::place;

const ROWS: usize = 12;

/// A network with numbers, and rows for it.
#[derive(Clone)]
struct Case {
    name: String,
    graph: Graph,
    output: Node,
    head: Head,
    weights: Weights,
    numbers: Vec<f32>,
    active: Vec<u32>,
    targets: Vec<f64>,
    counts: Vec<f64>,
    /// In how many parts the processor learns them.
    parts: usize,
}

impl Case {
    fn new(name: &str, architecture: &dyn Architecture, head: Head, classes: usize) -> Self {
        let shape = Shape { dense: 6, active: 2, categories: 5, classes };
        let mut random = Random::new(7, 0);
        let (graph, output) = architecture::graph(architecture, shape, 3, head.width(classes, shape.dense));
        let mut weights = Weights::new(&graph, &mut random);
        // The output layer begins with zeros, and so nothing would come back through it.
        weights.values.edit().iter_mut().for_each(|value| *value += 0.5 * (random.uniform() - 0.5) as f32);
        let active: Vec<u32> = (0..ROWS * 2).map(|at| random.below(2) as u32 + 2 * (at % 2) as u32).collect();
        let mut tending = Tending::new(Keeping { seen_at_least: 1, expire_examples: 0 }, 3);
        for category in &active {
            tending.see(&mut weights.table, *category, 1, 0);
        }
        let targets = (0..ROWS).map(|_| match head {
            Head::Classes(_) => random.below(classes) as f64,
            Head::Number(NumberLoss::Poisson) => random.below(4) as f64,
            _ => random.normal(),
        });
        let targets = targets.collect();
        let counts = (0..ROWS).map(|_| 0.5 + random.uniform()).collect();
        let numbers = (0..ROWS * shape.dense).map(|_| random.normal() as f32).collect();
        Self { name: name.to_owned(), graph, output, head, weights, numbers, active, targets, counts, parts: 1 }
    }

    fn in_parts(self, parts: usize) -> Self {
        Self { name: format!("{} in {parts} parts", self.name), parts, ..self }
    }

    /// The loss, and the gradients of the parameters and of the embeddings.
    fn run(&self) -> (f64, Vec<f32>, Sparse) {
        let mut host = Parts::new(self.output, self.parts, 1);
        let (loss, _) = self.run_on(&mut host);
        let mut sparse = Sparse::default();
        sparse.sum(&self.active, host.embeddings(&self.graph), self.graph.embedding());
        (loss, host.gradients().to_vec(), sparse)
    }

    /// Forward and back: the loss, and the squared length of the gradient.
    fn run_on(&self, compute: &mut dyn Compute) -> (f64, f64) {
        let mut random = Random::new(1, 1);
        let mut statistics = self.weights.statistics.clone();
        let categories = Categories::Of(&self.active, &self.weights.table);
        let inputs = Inputs { rows: ROWS, numbers: &self.numbers, categories };
        let learning = Learning { random: &mut random, statistics: &mut statistics };
        compute.forward(&self.graph, self.weights.view(), inputs, Some(learning)).expect("nothing fails here");
        let width = self.graph.width(self.output);
        let lesson = Lesson { width, numbers: &self.numbers, targets: &self.targets, weights: &self.counts };
        let mut gradient = Vec::new();
        let loss = self.head.gradient(compute.outputs(), &lesson, &mut gradient);
        let squares = compute.backward(&self.graph, self.weights.view(), &gradient).expect("nothing fails here");
        (loss, squares)
    }

    /// The slope of the loss along a direction, by the difference of two losses, and by the gradient.
    fn compare(&mut self, what: &str, slope: f64, step: impl Fn(&mut Weights, f32)) {
        const LENGTH: f32 = 2e-3;
        let mut losses = [1.0, -1.0].map(|sign| {
            let kept = self.weights.clone();
            step(&mut self.weights, sign * LENGTH);
            let (loss, ..) = self.run();
            self.weights = kept;
            loss
        });
        losses[0] -= losses[1];
        let wanted = losses[0] / (2.0 * f64::from(LENGTH));
        let error = (slope - wanted).abs();
        println!("{} {what}: {slope:.6}, by differences {wanted:.6}", self.name);
        assert!(error < 2e-3 + 5e-3 * wanted.abs(), "{} {what}: {slope}, by differences {wanted}", self.name);
    }
}

fn cases() -> Vec<Case> {
    let network = |config: Value| serde_json::from_value::<Network>(config).expect("a network");
    let number = |loss| Head::Number(loss);
    let classes = |config: Value| Head::Classes(serde_json::from_value::<ClassLoss>(config).expect("a loss"));
    let smooth = |more: Value| {
        let mut layers = json!({"hidden": [7, 7], "activation": "tanh"});
        layers.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        network(json!({"mlp": layers}))
    };
    let mut cases = vec![
        Case::new("mlp", &smooth(json!({})), number(NumberLoss::Squared), 0),
        Case::new("layer norm", &smooth(json!({"normalise": "layer", "residual": true})), classes(json!({})), 4),
        Case::new("batch norm", &smooth(json!({"normalise": "batch", "activation": "silu"})), classes(json!({})), 2),
        Case::new("batch norm", &smooth(json!({"normalise": "batch"})), classes(json!({})), 2).in_parts(3),
        Case::new("dropout", &smooth(json!({"dropout": 0.3, "activation": "gelu"})), number(NumberLoss::Huber(0.5)), 0),
        Case::new("dropout", &smooth(json!({"dropout": 0.3})), number(NumberLoss::Squared), 0).in_parts(5),
        Case::new("sigmoid", &smooth(json!({"activation": "sigmoid"})), number(NumberLoss::Quantile(0.3)), 0),
        Case::new("counts", &smooth(json!({})), number(NumberLoss::Poisson), 0),
        Case::new("absolute", &smooth(json!({})), number(NumberLoss::Absolute), 0),
        Case::new("focal", &smooth(json!({})), classes(json!({"focal": 2.0, "class_weights": [1.0, 3.0, 0.5]})), 3),
        Case::new("focal of two", &smooth(json!({})), classes(json!({"focal": 0.5, "class_weights": [1.0, 3.0]})), 2),
    ];
    let layers = json!({"hidden": [5], "activation": "tanh"});
    for config in [
        json!({"cross": {"crosses": 3, "layers": layers.clone()}}),
        json!({"gru": {"steps": 3, "units": 4, "layers": layers}}),
        json!({"temporal_convolution": {"steps": 6, "channels": 4}}),
    ] {
        cases.push(Case::new(&config.to_string(), &network(config), number(NumberLoss::Squared), 0));
    }
    let layers: Layers = serde_json::from_value(json!({"hidden": [5, 2], "activation": "tanh"})).expect("layers");
    cases.push(Case::new("mirror", &Mirror(layers), Head::Rebuild, 0));
    cases
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for mut case in cases() {
        let (_, gradients, sparse) = case.run();
        let mut random = Random::new(11, 0);
        let mut direction = |len: usize| (0..len).map(|_| random.normal() as f32).collect::<Vec<_>>();
        let slope = |gradient: &[f32], direction: &[f32]| {
            gradient.iter().zip(direction).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        for parameter in case.graph.parameters().to_vec() {
            let (range, along) = (parameter.range.clone(), direction(parameter.range.len()));
            let slope = slope(&gradients[range.clone()], &along);
            case.compare(&parameter.name, slope, |weights, length| {
                weights.values.edit()[range.clone()]
                    .iter_mut()
                    .zip(&along)
                    .for_each(|(value, step)| *value += length * step);
            });
        }
        let along = direction(sparse.values.len());
        let slope = slope(&sparse.values, &along);
        case.compare("embeddings", slope, |weights, length| {
            for (category, along) in sparse.categories.iter().zip(along.chunks_exact(3)) {
                let row = weights.table.row_mut(*category).expect("it was seen");
                row.iter_mut().zip(along).for_each(|(value, step)| *value += length * step);
            }
        });
    }
}

#[test]
fn gradients_of_parts_add_up_to_those_of_the_whole() {
    let learns_alike = |case: &Case| !case.graph.learns_otherwise();
    for case in cases().into_iter().filter(learns_alike) {
        let (loss, whole, sparse) = case.run();
        for parts in [2, 5, ROWS, 64] {
            let case = Case { parts, ..case.clone() };
            let (of_parts, in_parts, sparse_in_parts) = case.run();
            assert_eq!(loss.to_bits(), of_parts.to_bits(), "{}: rows are not told apart", case.name);
            let all = whole.iter().zip(&in_parts).chain(sparse.values.iter().zip(&sparse_in_parts.values));
            let apart = all.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-6, "{} in {parts} parts: {apart}", case.name);
        }
    }
}

/// The way back of a device is its own, and has to come to the same.
#[test]
fn gradients_on_a_device_are_those_of_the_processor() {
    let far = |on_host: &[f32], on_device: &[f32]| {
        assert_eq!(on_host.len(), on_device.len());
        on_host.iter().zip(on_device).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max)
    };
    for case in cases().into_iter().filter(|case| case.parts == 1) {
        let mut host = Parts::new(case.output, 1, 1);
        let (loss, squares) = case.run_on(&mut host);
        let (values, moments) = (&case.weights.values, Vec::new());
        let mut device = Device::new(place(), &case.graph, case.output, values, &moments).expect("a device");
        let (other_loss, other_squares) = case.run_on(&mut device);
        let apart = far(host.gradients(), &device.gradients().expect("they can be read"));
        let embeddings = far(host.embeddings(&case.graph), device.embeddings(&case.graph));
        println!("{}: {apart:.1e} apart, embeddings {embeddings:.1e}", case.name);
        assert!(apart < 2e-6 && embeddings < 2e-6, "{}: {apart}, {embeddings}", case.name);
        assert!((loss - other_loss).abs() < 1e-5 * (1.0 + loss.abs()), "{}: {loss}, {other_loss}", case.name);
        assert!((squares - other_squares).abs() < 1e-4 * squares, "{}: {squares}, {other_squares}", case.name);
    }
}
