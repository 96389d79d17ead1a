//! Models of others, on one core, beside `onnxruntime` with one thread: a forest of 100 trees, boosted trees, and a network 39-64-64-1.
//!
//!     pip install -r benches/peers/onnx.txt
//!     PYTHON=venv/bin/python cargo bench -p millstream-benches --bench onnx
//!
//! Both get rows of single precision that are in memory; ours copies them from rows of double precision, as it does for requests.

use std::path::Path;
use std::process::Command;

use millstream_benches::table::Table;
use millstream_benches::{cpu_seconds, quantile};
use millstream_operators::models::onnx::{Fitting, Slot};
use millstream_operators::models::{Matrix, Row, Shape, plan};
use serde_json::json;

const COLUMNS: usize = 39;
const BATCHES: usize = 512;
const RUNS: usize = 5;

fn main() {
    let Ok(python) = std::env::var("PYTHON") else {
        println!("skipped: PYTHON names no Python with benches/peers/onnx.txt");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/onnx_runtime.py");
    let mut table = Table::new(&["model", "rows", "µs a call", "onnxruntime", "ratio"]);
    let peer = |arguments: &[&str]| {
        let output =
            Command::new(&python).arg(&script).arg(folder.path()).args(arguments).output().expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    for model in peer(&["make"]).lines() {
        let file = std::fs::read(folder.path().join(format!("{model}.onnx"))).expect("it was made");
        for rows in [1, 64] {
            let mut call = ours(&file, rows);
            let (mut own, mut other) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                own.push(call());
                other.push(peer(&[model, &rows.to_string()]).trim().parse::<f64>().expect("seconds"));
            }
            let (own, other) = (quantile(&mut own, 0.5) * 1e6, quantile(&mut other, 0.5) * 1e6);
            let ratio = format!("{:.2}", other / own);
            table.row([model.to_owned(), rows.to_string(), format!("{own:.1}"), format!("{other:.1}"), ratio]);
        }
    }
    table.print("Models of others, CPU time of one thread, medians of five in turns");
}

/// What measures the CPU seconds of a call for so many rows.
fn ours(file: &[u8], count: usize) -> impl FnMut() -> f64 {
    let shape = Shape { dense: COLUMNS, active: 0, categories: 0, classes: 0 };
    let design = plan(&json!({"onnx": {"gives": "number"}})).expect("valid");
    let mut learner = (design.make)(shape);
    let features = (0..COLUMNS).map(|at| (format!("x{at}"), Slot::Number(at))).collect();
    learner.take_file(file, &Fitting { features, classes: Vec::new(), is_yes_or_no: false }).expect("it fits");
    let predictor = learner.frozen();
    let mut state = 1_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    };
    // No processor may learn by heart which way they go.
    let mut batch = || {
        let mut rows = Matrix::new(shape);
        for _ in 0..count {
            let numbers: [f64; COLUMNS] = std::array::from_fn(|_| number());
            rows.push(Row { dense: &numbers, active: &[] });
        }
        rows
    };
    let batches: Vec<Matrix> = (0..BATCHES).map(|_| batch()).collect();
    let mut outputs = Vec::new();
    move || {
        let (mut calls, start) = (0, cpu_seconds());
        while cpu_seconds() - start < 0.2 {
            batches.iter().for_each(|rows| predictor.predict(rows, &mut outputs));
            calls += BATCHES as u32;
        }
        (cpu_seconds() - start) / f64::from(calls)
    }
}
