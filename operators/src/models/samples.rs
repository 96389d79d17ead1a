//! Seeded examples for tests.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Example, Learner, Matrix, Predictor, Shape, plan};

/// The generator known as split-mix, 64 bits.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Prints the seed: a failing test shows it.
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [-1, 1).
    pub(crate) fn signed(&mut self) -> f64 {
        2.0 * self.uniform() - 1.0
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// 1 with this probability, else 0.
    pub(crate) fn flip(&mut self, probability: f64) -> f64 {
        f64::from(self.uniform() < probability)
    }
}

/// A learner and a matrix of one row, to teach it row by row.
pub(crate) struct Pupil {
    pub(crate) learner: Box<dyn Learner>,
    matrix: Matrix,
    predictions: Vec<f64>,
}

impl Pupil {
    pub(crate) fn new(model: &Value, shape: Shape) -> Self {
        let design = plan(model).expect("a valid model");
        Self { learner: (design.make)(shape), matrix: Matrix::new(shape), predictions: Vec::new() }
    }

    fn fill(&mut self, dense: &[f64], active: &[u32]) {
        self.matrix.resize(1);
        dense.iter().enumerate().for_each(|(at, x)| self.matrix.set_dense(at, std::iter::once(*x)));
        active.iter().enumerate().for_each(|(at, x)| self.matrix.set_active(at, std::iter::once(*x)));
    }

    pub(crate) fn learn(&mut self, dense: &[f64], active: &[u32], target: f64) -> f64 {
        self.fill(dense, active);
        self.learner.learn(&self.matrix, &[Example::of(target)], &mut self.predictions);
        self.predictions[0]
    }

    pub(crate) fn predict(&mut self, dense: &[f64], active: &[u32]) -> f64 {
        self.fill(dense, active);
        self.learner.frozen().predict(&self.matrix, &mut self.predictions);
        self.predictions[0]
    }

    pub(crate) fn tensor(&self, name: &str) -> Vec<f64> {
        let frozen: Arc<dyn Predictor> = self.learner.frozen();
        frozen.tensors().into_iter().find(|tensor| tensor.name == name).expect("a tensor of this name").values
    }
}

/// Bounded as evaluations bound it.
pub(crate) fn log_loss(probability: f64, target: f64) -> f64 {
    let right = if target > 0.5 { probability } else { 1.0 - probability };
    -libm::log(right.clamp(1e-15, 1.0))
}

/// What is written in YAML's flow style: `{a: 1, b: [x, y]}`, or lines of `a: {b: 1}`.
pub(crate) fn yaml(text: &str) -> Value {
    let text = text.trim();
    if text.starts_with('{') {
        let (value, rest) = flow(text);
        assert!(rest.trim().is_empty(), "left over: {rest}");
        return value;
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Value::Object(lines.map(|line| entry(line).0).collect::<Map<_, _>>())
}

/// `key: value`, and what comes after.
fn entry(text: &str) -> ((String, Value), &str) {
    let (key, rest) = text.split_once(':').expect("a key, and a colon");
    let (value, rest) = flow(rest);
    ((key.trim().trim_matches('"').to_owned(), value), rest)
}

fn flow(text: &str) -> (Value, &str) {
    let text = text.trim_start();
    let Some(closing) = [('{', '}'), ('[', ']')].iter().find(|(open, _)| text.starts_with(*open)).map(|pair| pair.1)
    else {
        let end = text.find([',', '}', ']']).unwrap_or(text.len());
        let word = text[..end].trim();
        return (serde_json::from_str(word).unwrap_or_else(|_| Value::from(word)), &text[end..]);
    };
    let (mut rest, mut map, mut list) = (text[1..].trim_start(), Map::new(), Vec::new());
    while !rest.starts_with(closing) {
        rest = rest.trim_start_matches(',').trim_start();
        if closing == '}' {
            let (pair, after) = entry(rest);
            map.extend([pair]);
            rest = after.trim_start();
        } else {
            let (value, after) = flow(rest);
            list.push(value);
            rest = after.trim_start();
        }
        assert!(!rest.is_empty(), "`{closing}` is missing: {text}");
    }
    (if closing == '}' { Value::Object(map) } else { Value::Array(list) }, &rest[1..])
}
