//! A mini-batch in parts is learned the same, bit for bit, wherever its parts are computed, and whatever the cuts.

use serde_json::{Value, json};

use super::super::super::{Learner, Matrix, Shape};
use super::super::architecture::Network;
use super::super::{ClassLoss, Loss};
use super::devices::{learner, rows};

#[test]
fn a_model_does_not_depend_on_who_computes_its_parts() {
    let replay = json!({"rows": 100, "per_batch": 10});
    let cases = [
        (json!({"mlp": {"hidden": [16, 8], "normalise": "batch", "dropout": 0.2}}), 3, 0.0, replay.clone()),
        (json!({"mlp": {"hidden": [16, 8], "normalise": "batch"}}), 2, 0.0, Value::Null),
        (json!({"mlp": {"hidden": [16], "activation": "gelu"}}), 4, 0.0, Value::Null),
        (json!({"cross": {"crosses": 2}}), 2, 0.9, replay),
    ];
    let shape = Shape { dense: 6, active: 2, categories: 7, classes: 3 };
    let (rows, examples) = rows(shape, 1000);
    let head = ClassLoss::default().head();
    for (network, parts, average, replay) in cases {
        let network: Network = serde_json::from_value(network).expect("a network");
        let learned = |parts: usize, threads: usize, others: usize, cut: usize| {
            let training: Value = json!({
                "mini_batch": 64 * parts, "parts": parts, "threads": threads, "average": average, "embedding": {"size": 3},
                "replay": replay, "clip": 0.1,
            });
            let mut learner = learner(&network, &head, shape, &training);
            learner.helped_by_none(others);
            let (mut outputs, mut some) = (Vec::new(), Vec::new());
            for start in (0..rows.len()).step_by(cut) {
                let mut few = Matrix::new(shape);
                let end = rows.len().min(start + cut);
                (start..end).for_each(|row| few.push(rows.row(row)));
                learner.learn(&few, &examples[start..end], &mut some);
                outputs.extend_from_slice(&some);
            }
            (outputs, learner.snapshot())
        };
        let alone = learned(parts, 1, 0, 1000);
        for (threads, others, cut) in [(3, 0, 1000), (1, 1, 1000), (2, 2, 333), (1, 5, 64 * parts), (1, 0, 7)] {
            let what = format!("{parts} parts, {threads} threads, {others} others, cut each {cut}");
            assert!(learned(parts, threads, others, cut) == alone, "{what}");
        }
        assert!(learned(1, 1, 0, 1000) != alone, "the number of parts is a setting");
    }
}
