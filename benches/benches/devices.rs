//! Networks that learn in mini-batches on a GPU, or where there is none on the processor, beside `PyTorch` in the same place.
//!
//!     benches/gpu/build && PYTHON=python3 benches/gpu/run       # which measures more than this; without PYTHON, alone
//!
//! Time on the wall from the rows in memory to the gradient applied, of all that is done with a row: it is predicted, scaled, learned, and after
//! each block of rows the parameters come back to the model. `PyTorch` does the steps alone. Prints rows of a table in Markdown.

use std::path::Path;
use std::process::Command;

use millstream_benches::quantile;
use millstream_engine::time::Stopwatch;
use millstream_operators::models::{Example, Learner, Matrix, Row, Shape, plan};
use serde_json::json;

struct Network {
    /// Columns of numbers.
    dense: usize,
    /// Categories of a row.
    active: usize,
    hidden: &'static [usize],
    batch: usize,
    /// How many times as fast as the best of `PyTorch` it is to be.
    wanted: f64,
}

const NETWORKS: [Network; 3] = [
    Network { dense: 8, active: 0, hidden: &[256, 256], batch: 256, wanted: 1.0 },
    Network { dense: 64, active: 0, hidden: &[1024, 1024, 1024], batch: 4096, wanted: 0.8 },
    Network { dense: 8, active: 4, hidden: &[256, 256], batch: 4096, wanted: 0.8 },
];
/// Of each table, and the numbers that a category has.
const CATEGORIES: usize = 1_000_000;
const EMBEDDING: usize = 64;
/// How many a block has: one call, as a pipeline makes it.
const ROWS: usize = 16_384;
const SECONDS: f64 = 2.0;

fn main() {
    for network in NETWORKS {
        let (seconds, device) = network.step();
        let name: Vec<String> = network.sizes().iter().map(ToString::to_string).collect();
        let embeddings = if network.active > 0 { format!("{CATEGORIES} x {EMBEDDING}, ") } else { String::new() };
        let rate = network.batch as f64 / seconds;
        print!("| {embeddings}{}, batch {}, on {device} | ", name.join("-"), network.batch);
        print!("{:.3} ms a step, {rate:.0} records/s", 1e3 * seconds);
        let best = std::env::var("PYTHON").ok().map(|python| {
            let peers = network.pytorch(&python);
            let forms = ["eager", "compiled", "graph"].iter().zip(&peers);
            let told: Vec<String> = forms.map(|(form, seconds)| format!("{form} {:.3}", 1e3 * seconds)).collect();
            print!("; PyTorch {}", told.join(", "));
            peers.into_iter().fold(f64::INFINITY, f64::min)
        });
        match best {
            Some(best) if best.is_finite() => {
                println!(": {:.2} x the best | at least {:.1} x |", best / seconds, network.wanted);
            }
            _ => println!(" | at least {:.1} x PyTorch |", network.wanted),
        }
    }
}

impl Network {
    fn sizes(&self) -> Vec<usize> {
        [&[self.dense + self.active * EMBEDDING], self.hidden, &[1]].concat()
    }

    /// The median seconds of a step, and where it was made.
    fn step(&self) -> (f64, &'static str) {
        let config = json!({"neural_network_regressor": {
            "network": {"mlp": {"hidden": self.hidden}},
            "training": {"mini_batch": self.batch, "embedding": {"size": EMBEDDING}, "device": "auto"},
        }});
        let Ok(design) = plan(&config) else { panic!("the settings are valid") };
        let categories = if self.active > 0 { CATEGORIES } else { 0 };
        let shape = Shape { dense: self.dense, active: self.active, categories, classes: 0 };
        let mut learner: Box<dyn Learner> = (design.make)(shape);
        let (rows, examples) = rows(shape);
        let (mut outputs, mut taken) = (Vec::new(), Vec::new());
        learner.learn(&rows, &examples, &mut outputs);
        let begun = Stopwatch::start();
        while begun.seconds() < SECONDS {
            let watch = Stopwatch::start();
            learner.learn(&rows, &examples, &mut outputs);
            taken.push(watch.seconds());
        }
        let is_device = learner.progress().contains(&("on_device", 1.0));
        let seconds = quantile(&mut taken, 0.5) * self.batch as f64 / ROWS as f64;
        (seconds, if is_device { "a GPU" } else { "the processor" })
    }

    /// Seconds of a step of `PyTorch`: eager, compiled, and as a CUDA graph.
    fn pytorch(&self, python: &str) -> [f64; 3] {
        let script = std::env::var("PEER")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/peers/devices_pytorch.py").to_owned());
        let numbers = [self.dense, self.active, CATEGORIES, EMBEDDING, self.batch];
        let numbers = numbers.iter().chain(self.hidden).map(ToString::to_string);
        let output = Command::new(python).arg(Path::new(&script)).args(numbers).output().expect("python starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let seconds: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        seconds.try_into().unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A block of rows, drawn evenly.
fn rows(shape: Shape) -> (Matrix, Vec<Example>) {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let (mut rows, mut examples) = (Matrix::new(shape), Vec::new());
    for _ in 0..ROWS {
        let dense: Vec<f64> = (0..shape.dense).map(|_| f64::from(next()) / f64::from(1_u32 << 31) - 0.5).collect();
        let active: Vec<u32> = (0..shape.active).map(|_| next() % shape.categories as u32).collect();
        examples.push(Example::of(dense.iter().sum()));
        rows.push(Row { dense: &dense, active: &active });
    }
    (rows, examples)
}
