//! Networks that learn in mini-batches, on one core of the processor, beside `PyTorch` in the same run.
//!
//!     pip install -r benches/peers/networks_pytorch.txt
//!     PYTHON=venv/bin/python cargo bench -p millstream-benches --bench networks      # without PYTHON, alone
//!
//! Ours predicts each row before it learns it, scales its columns, and keeps what a checkpoint needs; `PyTorch` does the steps alone: forward, back,
//! `AdamW`, as it comes and with its fused form. Both are measured in turns, by CPU time. GFLOP/s are those of the products of a step.

use std::path::Path;
use std::process::Command;

use millstream_benches::table::Table;
use millstream_benches::{cpu_seconds, quantile};
use millstream_operators::models::{Example, Learner, Matrix, Shape, plan};
use serde_json::json;

/// Columns, rows of a mini-batch, widths of the hidden layers.
const NETWORKS: [(usize, usize, &[usize]); 5] = [
    (8, 256, &[256, 256]),
    (64, 256, &[256, 256]),
    (64, 16, &[256, 256]),
    (8, 16, &[256, 256]),
    (64, 256, &[1024, 1024, 1024]),
];
const RUNS: usize = 5;
const ROWS: usize = 8192;

fn main() {
    let python = std::env::var("PYTHON").ok();
    let mut table = Table::new(&[
        "network",
        "mini-batch",
        "rows/s",
        "ms a step",
        "GFLOP/s",
        "PyTorch",
        "ratio",
        "PyTorch fused",
        "ratio",
    ]);
    for (columns, batch, hidden) in NETWORKS {
        let mut ours = Ours::new(columns, batch, hidden);
        let (mut own, mut plain, mut fused) = (Vec::new(), Vec::new(), Vec::new());
        ours.step_seconds();
        for _ in 0..RUNS {
            own.push(ours.step_seconds());
            if let Some(python) = &python {
                let [one, other] = pytorch(python, columns, batch, hidden);
                plain.push(one);
                fused.push(other);
            }
        }
        let own = quantile(&mut own, 0.5);
        let mut sizes = vec![columns];
        sizes.extend(hidden);
        sizes.push(1);
        // Forward and back to the weights everywhere, back to what comes in but for the first layer.
        let products = |first: usize| sizes[first..].windows(2).map(|pair| pair[0] * pair[1]).sum::<usize>();
        let flops = 2.0 * batch as f64 * (2 * products(0) + products(1)) as f64;
        let name: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let mut cells = vec![
            name.join("-"),
            batch.to_string(),
            format!("{:.0}", batch as f64 / own),
            format!("{:.3}", own * 1e3),
            format!("{:.0}", flops / own / 1e9),
        ];
        for of_peer in [&mut plain, &mut fused] {
            if of_peer.is_empty() {
                cells.extend(["-".to_owned(), "-".to_owned()]);
            } else {
                let peer = quantile(of_peer, 0.5);
                cells.extend([format!("{:.3}", peer * 1e3), format!("{:.2}", peer / own)]);
            }
        }
        table.row(cells);
    }
    table.print("Networks, CPU time of one thread, medians of five in turns");
}

struct Ours {
    learner: Box<dyn Learner>,
    rows: Matrix,
    examples: Vec<Example>,
    steps: usize,
    outputs: Vec<f64>,
}

impl Ours {
    fn new(columns: usize, batch: usize, hidden: &[usize]) -> Self {
        let config = json!({"neural_network_regressor": {
            "network": {"mlp": {"hidden": hidden}},
            "training": {"mini_batch": batch, "clip": 0, "device": "cpu"},
        }});
        let Ok(design) = plan(&config) else { panic!("the settings are valid") };
        let shape = Shape { dense: columns, active: 0, categories: 0, classes: 0 };
        let mut rows = Matrix::new(shape);
        rows.resize(ROWS);
        let mut state = 1_u32;
        for column in 0..columns {
            let values = (0..ROWS).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1 << 24) - 0.5
            });
            rows.set_dense(column, values.collect::<Vec<_>>().into_iter());
        }
        let examples = (0..ROWS).map(|row| Example::of(rows.row(row).dense.iter().sum())).collect();
        Self { learner: (design.make)(shape), rows, examples, steps: ROWS / batch, outputs: Vec::new() }
    }

    /// Of all rows: the clock of the CPU has steps of 10 ms.
    fn step_seconds(&mut self) -> f64 {
        let (start, mut rounds) = (cpu_seconds(), 0);
        while cpu_seconds() - start < 0.5 {
            self.learner.learn(&self.rows, &self.examples, &mut self.outputs);
            rounds += 1;
        }
        (cpu_seconds() - start) / f64::from(rounds * self.steps as u32)
    }
}

/// Seconds of a step of `PyTorch`, as it comes, and with its fused optimiser.
fn pytorch(python: &str, columns: usize, batch: usize, hidden: &[usize]) -> [f64; 2] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/networks_pytorch.py");
    let numbers = [columns, batch].into_iter().chain(hidden.iter().copied()).map(|number| number.to_string());
    let output = Command::new(python).arg(script).args(numbers).output().expect("python starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    seconds.try_into().unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}
