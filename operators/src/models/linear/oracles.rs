//! The update rules against the textbook, written down naively. Features in {-1, 1} have their final scale after the
//! second different value, so that what happens when scales grow drops out of the formulas.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Shape;
use super::super::samples::{Pupil, Random};

const SHAPE: Shape = Shape { dense: 5, active: 2, categories: 9, classes: 2 };

fn sigmoid(sum: f64) -> f64 {
    1.0 / (1.0 + (-sum).exp())
}

/// An example by coordinate name, as a textbook would have it.
struct Example {
    dense: Vec<f64>,
    active: Vec<u32>,
    named: Vec<(String, f64)>,
    target: f64,
}

/// The mean and the scale of a number, written down naively.
#[derive(Default)]
struct Normal {
    values: Vec<f64>,
    scale: f64,
}

impl Normal {
    fn of(&mut self, x: f64) -> f64 {
        let count = self.values.len().max(1) as f64;
        let before = self.values.iter().sum::<f64>() / count;
        let distance = if self.values.is_empty() { 0.0 } else { x - before };
        self.values.push(x);
        self.scale = self.scale.max(distance.abs());
        if distance == 0.0 { 0.0 } else { distance / self.scale }
    }
}

fn example(random: &mut Random) -> Example {
    let dense: Vec<f64> = (0..SHAPE.dense).map(|_| if random.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
    let active = vec![random.below(4) as u32, 4 + random.below(5) as u32];
    let sum = dense[0] - 0.5 * dense[1] + if active[0] == 2 { 1.0 } else { -0.3 };
    let named = (0..SHAPE.dense).map(|at| (format!("x{at}"), dense[at]));
    let named = named.chain([("bias".to_owned(), 1.0)]).chain(active.iter().map(|c| (format!("c{c}"), 1.0))).collect();
    Example { target: random.flip(sigmoid(sum)), dense, active, named }
}

/// Follows `textbook`, which predicts and then learns, for some thousand examples.
/// It is given the normalised features, the target, and the mean squared norm of the rows.
fn follows(model: &Value, mut textbook: impl FnMut(&[(String, f64)], f64, f64) -> f64) {
    let mut random = Random::seeded(11);
    let mut pupil = Pupil::new(model, SHAPE);
    let (mut normals, mut norms, mut moved) = (BTreeMap::<String, Normal>::new(), 0.0, 0);
    for row in 0..3000 {
        let Example { dense, active, mut named, target } = example(&mut random);
        for (name, x) in named.iter_mut().filter(|(name, _)| name.starts_with('x')) {
            *x = normals.entry(name.clone()).or_default().of(*x);
        }
        norms += named.iter().map(|(_, x)| x * x).sum::<f64>();
        let norm = norms / f64::from(row + 1);
        let (want, got) = (textbook(&named, target, norm), pupil.learn(&dense, &active, target));
        assert!((want - got).abs() < 1e-9, "row {row}: textbook {want}, model {got}");
        moved += usize::from((want - 0.5).abs() > 0.1);
    }
    assert!(moved > 600, "the models hardly learned anything: {moved}");
}

#[test]
fn adagrad_is_the_textbooks() {
    for (rate, l2) in [(0.1, 0.0), (0.5, 0.01)] {
        let (mut weights, mut squares) = (BTreeMap::new(), BTreeMap::new());
        follows(
            &json!({"logistic_regression": {"update": {"adagrad": {"learning_rate": rate, "l2": l2, "fading": 0.0}}}}),
            |xs, y, norm| {
                let p = sigmoid(xs.iter().map(|(name, x)| weights.get(name).unwrap_or(&0.0) * x).sum());
                for (name, x) in xs {
                    let weight: &mut f64 = weights.entry(name.clone()).or_insert(0.0);
                    let gradient = (p - y) * x + if name == "bias" { 0.0 } else { l2 * *weight };
                    let sum: &mut f64 = squares.entry(name.clone()).or_insert(0.0);
                    *sum += gradient.powi(2);
                    *weight -= if gradient == 0.0 { 0.0 } else { rate / norm.sqrt() * gradient / sum.sqrt() };
                }
                p
            },
        );
    }
}

#[test]
fn sgd_is_the_textbooks() {
    let mut weights = BTreeMap::new();
    follows(&json!({"logistic_regression": {"update": {"sgd": {"learning_rate": 0.3}}}}), |xs, y, norm| {
        let p = sigmoid(xs.iter().map(|(name, x)| weights.get(name).unwrap_or(&0.0) * x).sum());
        for (name, x) in xs {
            *weights.entry(name.clone()).or_insert(0.0) -= 0.3 / norm * (p - y) * x;
        }
        p
    });
}

/// Follows a textbook's step: given what it remembers of the weight, the weight and the gradient, how far it moves.
/// A step that is half as long for rows of four times the norm is `rooted`.
fn follows_steps(model: &Value, rooted: bool, mut step: impl FnMut(&mut [f64; 3], f64, f64) -> f64) {
    let mut known: BTreeMap<String, ([f64; 3], f64)> = BTreeMap::new();
    follows(&json!({"logistic_regression": {"update": model}}), |xs, y, norm| {
        let p = sigmoid(xs.iter().map(|(name, x)| known.get(name).map_or(0.0, |(_, weight)| weight * x)).sum());
        for (name, x) in xs {
            let (memory, weight) = known.entry(name.clone()).or_insert(([0.0; 3], 0.0));
            *weight -= step(memory, *weight, (p - y) * x) / if rooted { norm.sqrt() } else { norm };
        }
        p
    });
}

#[test]
fn momentum_is_the_textbooks() {
    follows_steps(&json!({"momentum": {"learning_rate": 0.2, "beta": 0.8}}), false, |[velocity, ..], _, gradient| {
        *velocity = 0.8 * *velocity + gradient;
        0.2 * (1.0 - 0.8) * *velocity
    });
}

#[test]
fn rmsprop_is_the_textbooks() {
    follows_steps(&json!({"rmsprop": {"learning_rate": 0.02, "decay": 0.95}}), true, |[mean, ..], _, gradient| {
        *mean = 0.95 * *mean + 0.05 * gradient * gradient;
        0.02 * gradient / (mean.sqrt() + 1e-8)
    });
}

/// Algorithm 2 of the paper, without the decay, which the rows' norm has no part in.
#[test]
fn adamw_is_the_papers() {
    let settings = json!({"adamw": {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.0}});
    follows_steps(&settings, true, |[m, v, t], _, gradient| {
        *t += 1.0;
        *m = 0.8 * *m + 0.2 * gradient;
        *v = 0.95 * *v + 0.05 * gradient * gradient;
        0.03 * (*m / (1.0 - 0.8_f64.powf(*t))) / ((*v / (1.0 - 0.95_f64.powf(*t))).sqrt() + 1e-8)
    });
}

/// Algorithm 3 of "Normalized Online Learning", line by line, on columns of any scale, in the paper's units.
#[test]
fn nag_is_the_papers() {
    let units = [1e6, 1.0, 1e-6];
    let shape = Shape { dense: 3, active: 0, categories: 0, classes: 2 };
    let mut pupil = Pupil::new(&json!({"logistic_regression": {"update": {"nag": {"learning_rate": 0.3}}}}), shape);
    let (mut w, mut s, mut g, mut n, mut random) = ([0.0; 4], [0.0; 4], [0.0; 4], 0.0, Random::seeded(12));
    for t in 1..2000 {
        let x: Vec<f64> = units.iter().map(|unit| unit * random.normal()).chain([1.0]).collect();
        let y = random.flip(sigmoid(x[0] / units[0] - 0.5));
        let before: f64 = (0..4).map(|i| w[i] * x[i].clamp(-s[i], s[i])).sum();
        let got = pupil.learn(&x[..3], &[], y);
        assert!((got - sigmoid(before)).abs() < 1e-9, "row {t}: {got}, wanted {}", sigmoid(before));
        for i in 0..4 {
            if x[i].abs() > s[i] {
                w[i] *= s[i] / x[i].abs();
                s[i] = x[i].abs();
            }
        }
        let error = sigmoid((0..4).map(|i| w[i] * x[i]).sum()) - y;
        n += (0..4).map(|i| (x[i] / s[i]).powi(2)).sum::<f64>();
        for i in 0..4 {
            g[i] += (error * x[i]).powi(2);
            w[i] -= 0.3 * (f64::from(t) / n).sqrt() / (s[i] * g[i].sqrt()) * error * x[i];
        }
    }
}

/// Algorithm 1 of "Ad Click Prediction: a View from the Trenches", line by line.
#[test]
fn ftrl_is_the_papers() {
    for (alpha, beta, l1, l2) in [(0.1, 1.0, 0.0, 0.0), (0.5, 0.1, 1.5, 0.3)] {
        let (mut z, mut n) = (BTreeMap::<String, f64>::new(), BTreeMap::<String, f64>::new());
        let settings = json!({"alpha": alpha, "beta": beta, "l1": l1, "l2": l2});
        follows(&json!({"logistic_regression": {"update": {"ftrl": settings}}}), |xs, y, _| {
            let penalty = |name: &str| if name == "bias" { (0.0, 0.0) } else { (l1, l2) };
            let mut w = BTreeMap::new();
            for (name, _) in xs {
                let (l1, l2) = penalty(name);
                let (z, n) = (*z.entry(name.clone()).or_default(), *n.entry(name.clone()).or_default());
                let weight =
                    if z.abs() <= l1 { 0.0 } else { -(z - z.signum() * l1) / ((beta + n.sqrt()) / alpha + l2) };
                w.insert(name.clone(), weight);
            }
            let p = sigmoid(xs.iter().map(|(name, x)| w[name] * x).sum());
            for (name, x) in xs {
                let gradient = (p - y) * x;
                let old = n[name];
                let sigma = ((old + gradient.powi(2)).sqrt() - old.sqrt()) / alpha;
                *z.get_mut(name).unwrap() += gradient - sigma * w[name];
                *n.get_mut(name).unwrap() += gradient.powi(2);
            }
            p
        });
    }
}

#[test]
fn l1_keeps_useless_weights_at_zero() {
    let mut random = Random::seeded(5);
    let mut pupil = Pupil::new(&json!({"logistic_regression": {"update": {"ftrl": {"l1": 60.0}}}}), SHAPE);
    for _ in 0..5000 {
        let Example { dense, active, target, .. } = example(&mut random);
        pupil.learn(&dense, &active, target);
    }
    let weights = pupil.tensor("weights");
    assert!(weights[0] > 0.3 && weights[1] < -0.1, "{weights:?}");
    assert_eq!(weights[2..], [0.0; 3], "these features say nothing");
}
