//! Networks that learn mini-batches in parts: on threads of one process, and in two processes.
//!
//!     cargo bench -p millstream-benches --bench parts
//!
//! The whole program over a file of records. What is told is the time of learning alone: forward, back and the step, without reading. A
//! model of so many parts has to be the same wherever they are computed.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use millstream_benches::flights::run_until_idle;
use millstream_benches::table::Table;
use millstream_benches::{load, quantile, two_processes, work};

/// Columns, rows of a mini-batch, widths of the hidden layers, and how many mini-batches there are.
const NETWORKS: [(usize, usize, &[usize], usize); 3] =
    [(64, 256, &[256, 256], 100), (64, 1024, &[256, 256], 25), (64, 1024, &[1024, 1024], 8)];
/// How it is called, threads, parts, and processes.
const WAYS: [(&str, usize, usize, usize); 5] = [
    ("1 thread", 1, 1, 1),
    ("2 threads", 2, 1, 1),
    ("2 parts, 1 thread", 1, 2, 1),
    ("2 parts, 2 threads", 2, 2, 1),
    ("2 parts, 2 processes", 1, 2, 2),
];
const RUNS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [member, definition] = &arguments[..]
        && member == "member"
    {
        return work(Path::new(definition));
    }
    let mut table = Table::new(&["network", "mini-batch", "", "ms a step", "of 1 thread"]);
    for (columns, batch, hidden, steps) in NETWORKS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        records(&folder.path().join("rows.csv"), columns, batch * steps);
        let mut taken = WAYS.map(|_| Vec::new());
        let mut digests: BTreeSet<(usize, String)> = BTreeSet::new();
        for _ in 0..RUNS {
            for (taken, (_, threads, parts, processes)) in taken.iter_mut().zip(WAYS) {
                let training = format!("{{mini_batch: {batch}, threads: {threads}, parts: {parts}, device: cpu}}");
                let (seconds, digest) = learn(folder.path(), columns, hidden, &training, processes);
                taken.push(seconds / steps as f64);
                digests.insert((parts, digest));
            }
        }
        assert_eq!(digests.len(), 2, "one model for each number of parts: {digests:?}");
        let medians = taken.map(|mut taken| quantile(&mut taken, 0.5));
        for ((way, ..), median) in WAYS.iter().zip(medians) {
            let sizes: Vec<String> = [&[columns], hidden, &[1]].concat().iter().map(ToString::to_string).collect();
            let ratio = format!("{:.2}", medians[0] / median);
            table.row([sizes.join("-"), batch.to_string(), (*way).to_owned(), format!("{:.2}", median * 1e3), ratio]);
        }
    }
    table.print("Networks in parts, wall time of learning, medians of five by turns");
}

/// Records of even numbers, and their sum.
fn records(path: &Path, columns: usize, rows: usize) {
    let mut state = 1_u32;
    let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
    let mut text = format!("at,sum,{}\n", names.join(","));
    for row in 0..rows {
        let numbers: Vec<i64> = (0..columns)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                i64::from(state >> 22) - 512
            })
            .collect();
        let (at, sum) = (1_700_000_000_000 + row, numbers.iter().sum::<i64>());
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{at},{sum},{}", numbers.join(","));
    }
    std::fs::write(path, text).expect("a folder that can be written");
}

/// The seconds of learning, and the digest of the model.
fn learn(folder: &Path, columns: usize, hidden: &[usize], training: &str, processes: usize) -> (f64, String) {
    let place = tempfile::tempdir_in(folder).expect("a temporary folder");
    let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
    let mut text = format!(
        "millstream: 1\nname: parts\nsources:\n  rows:\n    from: {{file: {{path: ../rows.csv}}}}\n    format: csv\n    \
         columns: {{at: timestamp, sum: float, {}: float}}\n    event_time: {{column: at}}\nmodels:\n  sum:\n    \
         input: rows\n    label: sum\n    features: [{}]\n    learner:\n      neural_network_regressor:\n        \
         network: {{mlp: {{hidden: {hidden:?}}}}}\n        training: {training}\n",
        names.join(": float, "),
        names.join(", "),
    );
    if processes > 1 {
        text += &two_processes(place.path());
    }
    let definition = place.path().join("parts.yaml");
    std::fs::write(&definition, text).expect("a folder that can be written");
    let member = (processes > 1).then(|| {
        let program = std::env::current_exe().expect("this program");
        Command::new(program).arg("member").arg(&definition).spawn().expect("it can be run once more")
    });
    let summary = run_until_idle(&load(&definition), &place.path().join("state"), 1);
    if let Some(mut member) = member {
        member.kill().and_then(|()| member.wait()).expect("it is our child");
    }
    let model = &summary.models["sum"];
    let of = |name: &str| model.measures[name].values().sum::<f64>();
    assert_eq!(of("processes"), processes as f64, "{training}");
    let seconds = ["predict_seconds", "forward_seconds", "backward_seconds", "update_seconds"].map(of);
    (seconds.iter().sum(), model.digest.clone())
}
