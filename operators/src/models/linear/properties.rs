//! What holds for the linear models with every update rule.

use serde_json::{Value, json};

use super::super::samples::{Pupil, Random, log_loss};
use super::super::{Example, Matrix, Shape, TARGET_MAX, plan};

const UPDATES: [&str; 7] = ["sgd", "momentum", "adagrad", "nag", "rmsprop", "adamw", "ftrl"];

fn model(kind: &str, update: &str) -> Value {
    json!({kind: {"update": update}})
}

fn sigmoid(sum: f64) -> f64 {
    1.0 / (1.0 + (-sum).exp())
}

fn all_models() -> impl Iterator<Item = (&'static str, Value)> {
    ["logistic_regression", "linear_regression"].into_iter().flat_map(|kind| {
        let strong = [
            json!({kind: {"update": {"sgd": {"learning_rate": 1.0, "l2": 1.0}}}}),
            json!({kind: {"update": {"adagrad": {"learning_rate": 10.0, "l2": 1.0}}}}),
            json!({kind: {"update": {"momentum": {"learning_rate": 1.0, "beta": 0.999, "l2": 1.0}}}}),
            json!({kind: {"update": {"rmsprop": {"learning_rate": 1.0, "decay": 0.0, "l2": 1.0}}}}),
            json!({kind: {"update": {"adamw": {"learning_rate": 1.0, "beta2": 0.0, "weight_decay": 1.0}}}}),
            json!({kind: {"update": {"ftrl": {"alpha": 10.0, "beta": 1e-12, "l1": 3.0, "l2": 2.0}}}}),
        ];
        UPDATES.map(|update| model(kind, update)).into_iter().chain(strong).map(move |model| (kind, model))
    })
}

/// Magnitudes from 1e-9 to 1e12 that change suddenly, extremes included.
fn wild(random: &mut Random, magnitude: &mut f64) -> f64 {
    if random.uniform() < 0.01 {
        *magnitude = 10_f64.powi(random.below(22) as i32 - 9);
    }
    match random.below(300) {
        0 => 0.0,
        1 => f64::MAX,
        2 => f64::MIN_POSITIVE / 1e3,
        _ => *magnitude * random.normal(),
    }
}

#[test]
fn numbers_stay_finite_whatever_the_columns() {
    let shape = Shape { dense: 6, active: 1, categories: 50, classes: 2 };
    for (seed, (kind, model)) in all_models().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let mut pupil = Pupil::new(&model, shape);
        let (mut magnitudes, mut label_magnitude) = ([1.0; 6], 1.0);
        for row in 0..4000 {
            let dense: Vec<f64> = magnitudes.iter_mut().map(|magnitude| wild(&mut random, magnitude)).collect();
            let target = match kind {
                "logistic_regression" => random.flip(0.3),
                _ => wild(&mut random, &mut label_magnitude).clamp(-TARGET_MAX, TARGET_MAX),
            };
            let predicted = pupil.learn(&dense, &[random.below(50) as u32], target);
            assert!(predicted.is_finite(), "row {row} of {model}: predicted {predicted}");
            if kind == "logistic_regression" {
                assert!((0.0..=1.0).contains(&predicted), "row {row} of {model}: predicted {predicted}");
            }
        }
        for tensor in pupil.learner.frozen().tensors() {
            assert!(tensor.values.iter().all(|value| value.is_finite()), "{model}: {tensor:?}");
        }
    }
}

#[test]
fn scale_of_a_column_does_not_matter() {
    let shape = Shape { dense: 3, active: 0, categories: 0, classes: 2 };
    for (seed, (_, model)) in all_models().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let (mut plain, mut scaled) = (Pupil::new(&model, shape), Pupil::new(&model, shape));
        // Powers of two, so that scaling is exact.
        let factors = [2_f64.powi(40), 2_f64.powi(-30), 1.0];
        for _ in 0..500 {
            let dense: Vec<f64> = (0..3).map(|_| random.normal()).collect();
            let other: Vec<f64> = dense.iter().zip(factors).map(|(x, factor)| x * factor).collect();
            let target = random.flip(0.5);
            let (a, b) = (plain.learn(&dense, &[], target), scaled.learn(&other, &[], target));
            assert_eq!(a.to_bits(), b.to_bits(), "{model}");
        }
    }
}

/// Mean log loss over the second half.
fn late_loss(rows: usize, mut step: impl FnMut(usize) -> f64) -> f64 {
    (0..rows).map(&mut step).skip(rows / 2).sum::<f64>() / (rows - rows / 2) as f64
}

#[test]
fn random_labels_teach_hardly_anything_wrong() {
    let shape = Shape { dense: 10, active: 1, categories: 20, classes: 2 };
    for update in UPDATES {
        for share in [0.5, 0.9, 0.03] {
            let mut random = Random::seeded(3);
            let mut pupil = Pupil::new(&model("logistic_regression", update), shape);
            let (mut majority, mut model, mut yes) = (0.0, 0.0, 1.0);
            for row in 0..10_000 {
                let dense: Vec<f64> = (0..10).map(|at| random.normal() * 10_f64.powi(at * 2 - 9)).collect();
                let target = random.flip(share);
                majority += log_loss(yes / f64::from(row + 2), target) / 10_000.0;
                yes += target;
                model += log_loss(pupil.learn(&dense, &[random.below(20) as u32], target), target) / 10_000.0;
            }
            println!("{update}, {share}: model {model:.4}, majority {majority:.4}");
            assert!(model < majority + 0.03, "{update}, {share}: model {model}, majority {majority}");
        }
    }
}

#[test]
fn unscaled_and_rare_columns_do_not_diverge() {
    // Column 1 is 0 but for one row in 500, where it is huge and decides.
    let mut random = Random::seeded(8);
    let rows: Vec<([f64; 2], f64)> = (0..20_000)
        .map(|_| {
            let rare = if random.below(500) == 0 { 1e7 * random.signed().signum() } else { 0.0 };
            let x = 1e-3 * random.normal();
            let target = if rare == 0.0 { random.flip(sigmoid(2000.0 * x)) } else { f64::from(rare > 0.0) };
            ([x, rare], target)
        })
        .collect();
    for update in UPDATES {
        let mut pupil =
            Pupil::new(&model("logistic_regression", update), Shape { dense: 2, active: 0, categories: 0, classes: 2 });
        let loss = late_loss(rows.len(), |row| log_loss(pupil.learn(&rows[row].0, &[], rows[row].1), rows[row].1));
        println!("{update}: {loss:.4}");
        assert!(loss < 0.55, "{update}: {loss}");
    }
    // The usual recipe, a running z-score before SGD, on the same rows with squared loss: the first large value
    // of the rare column is dozens of standard deviations away.
    let (mut weights, mut mean, mut squares) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    let plain = late_loss(rows.len(), |row| {
        let (x, target) = rows[row];
        let count = row as f64 + 1.0;
        let mut z = [0.0; 2];
        for at in 0..2 {
            let difference = x[at] - mean[at];
            mean[at] += difference / count;
            squares[at] += difference * (x[at] - mean[at]);
            z[at] = (x[at] - mean[at]) / (squares[at] / count).sqrt().max(1e-12);
        }
        let error = weights[0] * z[0] + weights[1] * z[1] - target;
        (0..2).for_each(|at| weights[at] -= 0.05 * error * z[at]);
        error * error
    });
    assert!(!plain.is_finite() || plain > 1e3, "the comparison is not hard enough: {plain}");
    for update in UPDATES {
        let mut pupil =
            Pupil::new(&model("linear_regression", update), Shape { dense: 2, active: 0, categories: 0, classes: 2 });
        let error = late_loss(rows.len(), |row| (pupil.learn(&rows[row].0, &[], rows[row].1) - rows[row].1).powi(2));
        println!("{update}: squared error {error:.4}, z-score and SGD {plain:.3e}");
        assert!(error < 0.25, "{update}: {error}");
    }
}

#[test]
fn a_known_logistic_model_is_recovered() {
    let (truth, units) = ([1.5, -2.0, 0.0], [1.0, 1e6, 1e-4]);
    for update in UPDATES {
        let mut random = Random::seeded(21);
        let settings = match update {
            "sgd" | "momentum" => json!({update: {"learning_rate": 0.005}}),
            "adagrad" => json!({"adagrad": {"fading": 0.0}}),
            "rmsprop" => json!({"rmsprop": {"learning_rate": 0.001}}),
            "adamw" => json!({"adamw": {"learning_rate": 0.001, "weight_decay": 0.0}}),
            other => json!({other: {}}),
        };
        let kind = json!({"logistic_regression": {"update": settings}});
        let mut pupil = Pupil::new(&kind, Shape { dense: 3, active: 1, categories: 2, classes: 2 });
        for _ in 0..60_000 {
            let dense: Vec<f64> = (0..3).map(|at| random.signed() * units[at]).collect();
            let category = random.below(2) as u32;
            let sum = 1.5 * dense[0] - 2e-6 * dense[1] + f64::from(category) * 1.2 - 0.4;
            pupil.learn(&dense, &[category], random.flip(sigmoid(sum)));
        }
        // Back into the units of the truth.
        let (scales, means) = (pupil.tensor("scales"), pupil.tensor("means"));
        let raw: Vec<f64> = pupil.tensor("weights").iter().zip(&scales).map(|(weight, scale)| weight / scale).collect();
        let offset: f64 = raw.iter().zip(&means).map(|(weight, mean)| weight * mean).sum();
        let (categories, bias) = (pupil.tensor("categories"), pupil.tensor("bias")[0] - offset);
        println!("{update}: {raw:?} {categories:?} {bias:?}");
        for ((weight, truth), unit) in raw.iter().zip(truth).zip(units) {
            assert!((weight * unit - truth).abs() < 0.15, "{update}: {raw:?}, wanted {truth:?} per {unit}");
        }
        assert!((categories[1] - categories[0] - 1.2).abs() < 0.15, "{update}: {categories:?}");
        assert!((bias + categories[0] + 0.4).abs() < 0.15, "{update}: {bias:?} {categories:?}");
    }
}

#[test]
fn a_known_linear_model_is_recovered_at_any_label_scale() {
    for update in UPDATES {
        for unit in [1e-9, 1.0, 1e9] {
            let mut random = Random::seeded(22);
            let kind = model("linear_regression", update);
            let mut pupil = Pupil::new(&kind, Shape { dense: 2, active: 0, categories: 0, classes: 2 });
            let mut worst: f64 = 0.0;
            for row in 0..40_000 {
                let dense = [random.normal(), 1e4 * random.normal()];
                let target = unit * (3.0 * dense[0] - 2e-4 * dense[1] + 100.0);
                let error = (pupil.learn(&dense, &[], target) - target).abs() / unit;
                worst = if row < 35_000 { 0.0 } else { worst.max(error) };
            }
            println!("{update}, {unit:e}: worst error {worst:.4}");
            assert!(worst < 0.3, "{update}, {unit:e}: error {worst}, where the label's deviation is 3.6");
        }
    }
}

/// A row far longer than all before would throw a plain step many times beyond the target.
#[test]
fn a_long_row_is_learned_towards_its_target_and_not_past_it() {
    // Those with momentum go on in their old direction for a while; without centring, the row was no news.
    for update in ["sgd", "adagrad", "rmsprop", "ftrl"] {
        let kind = json!({"linear_regression": {"update": {update: match update {
            "sgd" | "rmsprop" => json!({"learning_rate": 1.0}),
            "ftrl" => json!({"alpha": 10.0}),
            _ => json!({"learning_rate": 10.0}),
        }}}});
        let mut random = Random::seeded(6);
        let mut pupil = Pupil::new(&kind, Shape { dense: 20, active: 0, categories: 0, classes: 2 });
        pupil.learn(&[0.0; 20], &[], 0.0);
        pupil.learn(&[1.0; 20], &[], 0.0);
        for _ in 0..1000 {
            let dense: Vec<f64> = (0..20).map(|_| 1e-3 * random.normal()).collect();
            pupil.learn(&dense, &[], random.normal());
        }
        let before = pupil.learn(&[1.0; 20], &[], 3.0);
        let after = pupil.predict(&[1.0; 20], &[]);
        println!("{update}: {before:.3}, then {after:.3}");
        assert!((after - 3.0).abs() < (before - 3.0).abs(), "{update}: {before}, then {after}");
        // What little it may pass it by comes from the label's mean and deviation, which moved too.
        let passed = (3.0 - after) * (before - 3.0).signum();
        assert!(passed < 0.1, "{update}: {before}, then {after}");
    }
}

#[test]
fn settings_are_checked_with_their_paths() {
    let case = |model: Value, path: &str, code: &str| {
        let problems = plan(&model).err().expect("problems");
        assert_eq!((problems[0].path.join(".").as_str(), problems[0].code), (path, code), "{problems:?}");
    };
    case(json!("logistic_regresion"), "", "unknown-model");
    case(json!(3), "", "bad-value");
    case(json!({"linear_regression": {"update": "adamm"}}), "linear_regression.update", "unknown-update");
    case(json!({"linear_regression": {"updat": "sgd"}}), "linear_regression.updat", "bad-value");
    let path = "linear_regression.update.sgd.learning_rate";
    case(json!({"linear_regression": {"update": {"sgd": {"learning_rate": 0}}}}), path, "out-of-range");
    case(json!({"linear_regression": {"update": {"sgd": {"learning_rate": "x"}}}}), path, "bad-value");
    let both = json!({"logistic_regression": {"update": {"ftrl": {"alpha": -1, "l1": -1}}}});
    assert_eq!(plan(&both).err().expect("problems").len(), 2, "all at once");
    let design = plan(&json!("linear_regression")).expect("bare names take the defaults");
    assert_eq!(design.parameters["update"]["adagrad"]["learning_rate"], 0.5);
}

/// A batch teaches what its rows teach one after the other, bit for bit, with each update, loss and weight.
#[test]
fn mini_batches_are_their_single_examples() {
    let losses = [json!("absolute"), json!({"quantile": {"level": 0.9}}), json!("huber"), json!("poisson")];
    let losses = losses.into_iter().map(|loss| json!({"linear_regression": {"loss": loss}}));
    let others = ["linear_svm", "softmax_regression"].into_iter().flat_map(|kind| UPDATES.map(|it| model(kind, it)));
    let len = 150;
    for (seed, model) in all_models().map(|(_, model)| model).chain(losses).chain(others).enumerate() {
        let mut random = Random::seeded(seed as u64);
        let shape = Shape { dense: 3, active: 1, categories: 4, classes: 2 };
        let (mut rows, mut row) = (Matrix::new(shape), Matrix::new(shape));
        rows.resize(len);
        row.resize(1);
        for column in 0..shape.dense {
            rows.set_dense(
                column,
                (0..len).map(|at| 10_f64.powi(at as i32 / 50) * random.normal()).collect::<Vec<_>>().into_iter(),
            );
        }
        rows.set_active(0, (0..len).map(|_| random.below(4) as u32).collect::<Vec<_>>().into_iter());
        let weights = [0.0, 0.5, 1.0, 1.0, 1.0, 7.0];
        let example = |_| Example { weight: weights[random.below(6)], ..Example::of(random.flip(0.4)) };
        let examples: Vec<Example> = (0..len).map(example).collect();
        let make = plan(&model).expect("valid").make;
        let (mut whole, mut single) = (make(shape), make(shape));
        let (mut wanted, mut outputs, mut output) = (Vec::new(), Vec::new(), Vec::new());
        for (at, example) in examples.iter().enumerate() {
            let one = rows.row(at);
            one.dense.iter().enumerate().for_each(|(column, x)| row.set_dense(column, std::iter::once(*x)));
            row.set_active(0, one.active.iter().copied());
            single.learn(&row, &[*example], &mut output);
            wanted.extend(output.iter().map(|output| output.to_bits()));
        }
        whole.learn(&rows, &examples, &mut outputs);
        assert_eq!(wanted, outputs.iter().map(|output| output.to_bits()).collect::<Vec<_>>(), "{model}");
        assert_eq!(whole.snapshot(), single.snapshot(), "{model}");
    }
}
