//! Loss curves of the same networks in `PyTorch`, from the same weights and mini-batches (`pytorch.py`, which wrote `pytorch.json`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::super::samples::Random;
use super::super::super::{Example, Learner, Matrix, Shape};
use super::super::architecture::Network;
use super::super::learner::NetworkLearner;
use super::super::loss::Head;
use super::super::{ClassLoss, Loss, NumberLoss, Training};

const STEPS: usize = 200;
const BATCH: usize = 32;

/// The losses of a network.
fn curve(network: Value, head: Head, classes: usize, columns: usize, mut training: Value) -> Vec<f64> {
    let shape = Shape { dense: columns, active: 0, categories: 0, classes };
    training["mini_batch"] = json!(BATCH);
    training["standardise"] = json!(false);
    let network: Network = serde_json::from_value(network).expect("a network");
    let training: Training = serde_json::from_value(training).expect("settings");
    let mut learner = NetworkLearner::new(&network, shape, head, training);
    let mut random = Random::seeded(1);
    learner.values().iter_mut().for_each(|value| *value = (0.6 * random.uniform() - 0.3) as f32);
    let mut random = Random::seeded(2);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let mut rows = Matrix::new(shape);
        let mut examples = Vec::new();
        for _ in 0..BATCH {
            let dense: Vec<f64> = (0..columns).map(|_| random.signed()).collect();
            let value = dense[0] * dense[1] + 0.5 * dense[2] - dense[3] * dense[3];
            let most = classes as f64 - 1.0;
            let class = ((value + 1.5) * (most + 1.0) / 2.0).trunc().clamp(0.0, most.max(0.0));
            examples.push(Example::of(if classes > 0 { class } else { value }));
            rows.push(super::super::super::Row { dense: &dense, active: &[] });
        }
        learner.learn(&rows, &examples, &mut Vec::new());
        losses.push(learner.look().loss);
    }
    losses
}

#[test]
fn losses_are_those_of_pytorch() {
    let wanted: BTreeMap<String, Value> = serde_json::from_str(include_str!("pytorch.json")).expect("curves");
    let layers = |more: Value| {
        let mut layers = json!({"hidden": [32, 16]});
        layers.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"mlp": layers})
    };
    let adamw = |clip: f64| json!({"optimizer": {"adamw": {"rate": 0.003, "decay": 0.01}}, "clip": clip});
    let sgd = json!({"optimizer": {"sgd": {"rate": 0.03, "momentum": 0.9, "decay": 0.001}}, "clip": 0});
    let adagrad = json!({"optimizer": {"adagrad": {"rate": 0.02}}, "clip": 0});
    let (squared, log) = (NumberLoss::Squared.head(), ClassLoss::default().head());
    let cross = json!({"cross": {"crosses": 2, "layers": {"hidden": [16]}}});
    let gru = json!({"gru": {"steps": 5, "units": 8}});
    let norms =
        [json!({"normalise": "layer", "activation": "gelu"}), json!({"normalise": "batch", "activation": "silu"})];
    let [layer_norm, batch_norm] = norms.map(layers);
    for (name, losses) in [
        ("mlp", curve(layers(json!({})), squared.clone(), 0, 8, adamw(0.0))),
        ("layer_norm", curve(layer_norm, log.clone(), 4, 8, sgd)),
        ("batch_norm", curve(batch_norm, log, 2, 8, adagrad)),
        ("cross", curve(cross, NumberLoss::Huber(0.5).head(), 0, 8, adamw(0.2))),
        ("gru", curve(gru, squared, 0, 15, adamw(0.0))),
    ] {
        let wanted: Vec<f64> = serde_json::from_value(wanted[name].clone()).expect("numbers");
        assert_eq!(wanted.len(), STEPS);
        let apart = losses.iter().zip(&wanted).map(|(loss, wanted)| (loss - wanted).abs()).fold(0.0, f64::max);
        println!("{name}: from {:.4} to {:.4}, at most {apart:.1e} apart", losses[0], losses[STEPS - 1]);
        assert!(apart < 1e-4, "{name}: {apart}");
        assert!(losses[STEPS - 1] < losses[0], "{name} has learned something");
    }
}
