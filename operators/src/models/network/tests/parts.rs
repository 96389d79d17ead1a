//! A mini-batch in parts is learned the same, bit for bit, wherever its parts are computed.

use serde_json::{Value, json};

use super::super::super::{Learner, Shape};
use super::super::architecture::Network;
use super::super::{ClassLoss, Loss};
use super::devices::{learner, rows};

#[test]
fn a_model_does_not_depend_on_who_computes_its_parts() {
    let networks = [
        json!({"mlp": {"hidden": [16, 8], "normalise": "batch", "dropout": 0.2}}),
        json!({"mlp": {"hidden": [16], "activation": "gelu"}}),
        json!({"cross": {"crosses": 2}}),
    ];
    let shape = Shape { dense: 6, active: 2, categories: 7, classes: 3 };
    let (rows, examples) = rows(shape, 1000);
    let head = ClassLoss::default().head();
    for (network, parts) in networks.into_iter().zip([3, 4, 2]) {
        let network: Network = serde_json::from_value(network).expect("a network");
        let average = if parts == 2 { 0.9 } else { 0.0 };
        let learned = |parts: usize, threads: usize, others: usize| {
            let training: Value = json!({
                "mini_batch": 64 * parts, "parts": parts, "threads": threads, "average": average, "embedding": {"size": 3},
                "replay": {"rows": 100, "per_batch": 10}, "clip": 0.1,
            });
            let mut learner = learner(&network, &head, shape, &training);
            learner.helped_by_none(others);
            let mut outputs = Vec::new();
            learner.learn(&rows, &examples, &mut outputs);
            (outputs, learner.snapshot())
        };
        let alone = learned(parts, 1, 0);
        for (threads, others) in [(3, 0), (1, 1), (2, 2), (1, 5)] {
            assert!(learned(parts, threads, others) == alone, "{parts} parts, {threads} threads, {others} others");
        }
        assert!(learned(1, 1, 0) != alone, "the number of parts is a setting");
    }
}
