//! What holds for every tree and every forest.

use serde_json::{Value, json};

use super::super::samples::Random;
use super::super::{Design, Example, Learner, Matrix, Names, Shape, TARGET_MAX, Task, plan};
use super::gauss;

/// All kinds, with settings that let them grow and change soon.
fn models() -> Vec<Value> {
    let tree = json!({"grace_period": 20, "delta": 0.05, "max_leaves": 20});
    let hasty = json!({"grace_period": 20, "delta": 0.1, "tau": 0.2, "max_leaves": 10, "columns": 2});
    vec![
        json!({"hoeffding_tree": tree}),
        json!({"hoeffding_tree": {"grace_period": 20, "delta": 0.05, "criterion": "gini", "drop_poor_columns": true}}),
        json!({"hoeffding_tree": {"grace_period": 20, "leaves": "majority", "max_depth": 2}}),
        json!({"hoeffding_tree": {"grace_period": 20, "leaves": "naive_bayes"}}),
        json!({"hoeffding_adaptive_tree": {"tree": tree, "window": 50}}),
        json!({"adaptive_random_forest": {"trees": 3, "max_leaves": 20, "warning_delta": 0.3, "drift_delta": 0.1}}),
        json!({"streaming_random_patches": {"trees": 3, "tree": tree}}),
        json!({"online_bagging": {"trees": 3, "tree": tree}}),
        json!({"leveraging_bagging": {"trees": 3, "tree": tree, "drift_delta": 0.3}}),
        json!({"streaming_gradient_boosted_trees": {"steps": 4, "max_leaves": 8}}),
        json!({"hoeffding_tree_regressor": tree}),
        json!({"hoeffding_tree_regressor": {"grace_period": 20, "leaves": "linear"}}),
        json!({"adaptive_random_forest_regressor": {"trees": 3, "warning_delta": 0.3, "drift_delta": 0.1, "tree": tree}}),
        json!({"adaptive_random_forest": hasty}),
    ]
}

/// A learner that is taught row by row.
struct Pupil {
    design: Design,
    learner: Box<dyn Learner>,
    row: Matrix,
}

impl Pupil {
    fn new(model: &Value, shape: Shape) -> Self {
        let design = plan(model).expect("a valid model");
        let mut row = Matrix::new(shape);
        row.resize(1);
        Self { learner: (design.make)(shape), design, row }
    }

    fn fill(&mut self, dense: &[f64], active: &[u32]) {
        dense.iter().enumerate().for_each(|(at, x)| self.row.set_dense(at, std::iter::once(*x)));
        active.iter().enumerate().for_each(|(at, x)| self.row.set_active(at, std::iter::once(*x)));
    }

    fn learn(&mut self, dense: &[f64], active: &[u32], example: Example) -> Vec<f64> {
        self.fill(dense, active);
        let mut outputs = Vec::new();
        self.learner.learn(&self.row, &[example], &mut outputs);
        outputs
    }

    fn predict(&mut self, dense: &[f64], active: &[u32]) -> Vec<f64> {
        self.fill(dense, active);
        let mut outputs = Vec::new();
        self.learner.frozen().predict(&self.row, &mut outputs);
        outputs
    }

    fn classifies(&self) -> bool {
        self.design.task == Task::Classification
    }
}

const SHAPES: [Shape; 3] = [
    Shape { dense: 4, active: 2, categories: 12, classes: 2 },
    Shape { dense: 0, active: 2, categories: 12, classes: 5 },
    Shape { dense: 5, active: 0, categories: 0, classes: 3 },
];

/// A row of any magnitude, and its example.
fn wild(random: &mut Random, shape: Shape, classifies: bool) -> (Vec<f64>, Vec<u32>, Example) {
    let number = |random: &mut Random| match random.below(200) {
        0 => f64::MAX,
        1 => -f64::MAX,
        2 => f64::MIN_POSITIVE / 1e3,
        3 => 0.0,
        _ => random.normal() * 10_f64.powi(random.below(12) as i32 - 6),
    };
    let dense: Vec<f64> = (0..shape.dense).map(|_| number(random)).collect();
    let active: Vec<u32> = (0..shape.active).map(|at| (6 * at + random.below(6)) as u32).collect();
    let target = if classifies {
        let sum = dense.iter().filter(|x| **x > 0.0).count() + active.iter().sum::<u32>() as usize;
        let class = if random.below(10) == 0 { random.below(shape.classes) } else { sum % shape.classes };
        class as f64
    } else {
        number(random).clamp(-TARGET_MAX, TARGET_MAX)
    };
    let weight = [1.0, 1.0, 1.0, 0.1, 3.0, 1e-300, 0.5][random.below(7)];
    (dense, active, Example { weight, ..Example::of(target) })
}

fn check_outputs(pupil: &Pupil, outputs: &[f64], model: &Value) {
    assert!(outputs.iter().all(|output| output.is_finite()), "{model}: {outputs:?}");
    if pupil.classifies() {
        assert!(outputs.iter().all(|output| (0.0..=1.0).contains(output)), "{model}: {outputs:?}");
        let sum: f64 = outputs.iter().sum();
        assert!(outputs.len() == 1 || (sum - 1.0).abs() < 1e-9, "{model}: {outputs:?}");
    }
}

#[test]
fn numbers_stay_finite_and_predictions_are_the_same_asked_or_learned() {
    for (seed, model) in models().iter().enumerate() {
        for shape in SHAPES {
            let mut random = Random::seeded(seed as u64);
            let mut pupil = Pupil::new(model, shape);
            for row in 0..1200 {
                let (dense, active, example) = wild(&mut random, shape, pupil.classifies());
                let asked = (row % 7 == 0).then(|| pupil.predict(&dense, &active));
                let learned = pupil.learn(&dense, &active, example);
                check_outputs(&pupil, &learned, model);
                assert!(asked.is_none_or(|asked| asked == learned), "{model}, row {row}");
            }
            for tensor in pupil.learner.frozen().tensors() {
                assert!(tensor.values.iter().all(|value| value.is_finite()), "{model}: {tensor:?}");
                assert_eq!(tensor.shape.iter().product::<usize>(), tensor.values.len(), "{model}: {tensor:?}");
            }
            assert!(!pupil.learner.frozen().explain(&Names::default()).lines.is_empty());
        }
    }
}

#[test]
fn snapshots_continue_bit_for_bit_and_damaged_ones_do_no_harm() {
    for (seed, model) in models().iter().enumerate() {
        let shape = SHAPES[seed % 3];
        let mut random = Random::seeded(seed as u64);
        let mut straight = Pupil::new(model, shape);
        let mut stopped = Pupil::new(model, shape);
        for row in 0..900 {
            let (dense, active, example) = wild(&mut random, shape, straight.classifies());
            assert_eq!(straight.learn(&dense, &active, example), stopped.learn(&dense, &active, example));
            if row % 150 == 149 {
                let snapshot = stopped.learner.snapshot();
                stopped = Pupil::new(model, shape);
                stopped.learner.restore(&snapshot).expect("the same shape");
                assert_eq!(stopped.learner.snapshot(), straight.learner.snapshot(), "{model}, row {row}");
            }
        }
        let snapshot = straight.learner.snapshot();
        let mut other = Pupil::new(model, Shape { dense: shape.dense + 1, ..shape });
        assert!(other.learner.restore(&snapshot).is_err(), "{model}");
        damage(&mut random, model, shape, &snapshot);
    }
}

/// What is restored from a damaged snapshot may predict nonsense, but does not panic.
fn damage(random: &mut Random, model: &Value, shape: Shape, snapshot: &[u8]) {
    for _ in 0..60 {
        let mut damaged = snapshot.to_vec();
        let at = random.below(damaged.len());
        damaged[at] = random.next() as u8;
        let mut pupil = Pupil::new(model, shape);
        if pupil.learner.restore(&damaged).is_ok() {
            for _ in 0..30 {
                let (dense, active, example) = wild(random, shape, pupil.classifies());
                pupil.learn(&dense, &active, example);
            }
            pupil.learner.frozen().tensors();
        }
    }
}

/// How many of the last half of the rows are told right.
fn accuracy(
    model: &Value,
    shape: Shape,
    rows: usize,
    mut row: impl FnMut(usize) -> (Vec<f64>, Vec<u32>, usize),
) -> f64 {
    let mut pupil = Pupil::new(model, shape);
    let mut right = 0.0;
    for at in 0..rows {
        let (dense, active, class) = row(at);
        let outputs = pupil.learn(&dense, &active, Example::of(class as f64));
        right += f64::from(at >= rows / 2 && super::super::likeliest(&outputs) == class);
    }
    right / (rows - rows / 2) as f64
}

const KINDS: [&str; 7] = [
    "hoeffding_tree",
    "hoeffding_adaptive_tree",
    "adaptive_random_forest",
    "streaming_random_patches",
    "online_bagging",
    "leveraging_bagging",
    "streaming_gradient_boosted_trees",
];

#[test]
fn a_tree_of_numbers_and_categories_is_found() {
    let shape = Shape { dense: 2, active: 1, categories: 4, classes: 3 };
    for kind in KINDS {
        let mut random = Random::seeded(3);
        let found = accuracy(&json!(kind), shape, 4000, |_| {
            let (x, category) = (1e6 + random.uniform(), random.below(4));
            let class = if category == 2 { 2 } else { usize::from(x > 1e6 + 0.4) };
            (vec![x, random.normal()], vec![category as u32], class)
        });
        println!("{kind}: {found:.3}");
        assert!(found > 0.9, "{kind}: {found}");
    }
}

#[test]
fn what_adapts_follows_a_change() {
    let shape = Shape { dense: 3, active: 0, categories: 0, classes: 2 };
    let flipping = |kind: &str| {
        let mut random = Random::seeded(4);
        accuracy(&json!(kind), shape, 8000, |row| {
            let dense: Vec<f64> = (0..3).map(|_| random.uniform()).collect();
            // The second half of the rows counts, and begins with the change.
            let class = (dense[0] > 0.5) != (row >= 4000);
            (dense, vec![], usize::from(class))
        })
    };
    let fixed = flipping("hoeffding_tree");
    for kind in ["hoeffding_adaptive_tree", "adaptive_random_forest", "streaming_random_patches", "leveraging_bagging"]
    {
        let found = flipping(kind);
        println!("{kind}: {found:.3}, a tree that does not adapt {fixed:.3}");
        assert!(found > 0.85 && found > fixed, "{kind}: {found}, without adapting {fixed}");
    }
}

#[test]
fn numbers_are_told_in_any_unit() {
    for kind in ["hoeffding_tree_regressor", "adaptive_random_forest_regressor"] {
        for unit in [1e-9, 1.0, 1e9] {
            let mut random = Random::seeded(5);
            let mut pupil = Pupil::new(&json!(kind), Shape { dense: 2, active: 1, categories: 3, classes: 0 });
            let (mut error, mut spread) = (0.0, 0.0);
            for row in 0..4000 {
                let (dense, category) = (vec![random.uniform(), 1e3 * random.uniform()], random.below(3) as u32);
                let step = if dense[0] > 0.6 { 4.0 } else { 0.0 };
                let target = unit * (100.0 + step + 2.0 * f64::from(category == 1) + 0.1 * random.normal());
                let predicted = pupil.learn(&dense, &[category], Example::of(target))[0];
                if row >= 2000 {
                    error += ((predicted - target) / unit).powi(2) / 2000.0;
                    spread += ((target / unit) - 102.3).powi(2) / 2000.0;
                }
            }
            println!("{kind}, {unit:e}: squared error {error:.3} of {spread:.3}");
            assert!(error < 0.2 * spread, "{kind}, {unit:e}: squared error {error} of {spread}");
        }
    }
}

#[test]
fn a_tree_is_told_as_text_and_its_memory_is_bounded() {
    let shape = Shape { dense: 2, active: 1, categories: 3, classes: 2 };
    let mut pupil = Pupil::new(&json!({"hoeffding_tree": {"max_leaves": 2}}), shape);
    let mut random = Random::seeded(6);
    for _ in 0..5000 {
        let x = random.uniform();
        pupil.learn(&[x, random.uniform()], &[random.below(3) as u32], Example::of(f64::from(x > 0.5)));
    }
    let names = Names {
        dense: vec!["x".into(), "noise".into()],
        categories: vec![("c".into(), 0)],
        classes: vec!["no".into(), "yes".into()],
    };
    let explanation = pupil.learner.frozen().explain(&names);
    println!("{explanation:#?}");
    assert_eq!(explanation.importances[0].0, "x");
    assert_eq!(explanation.importances.len(), 3);
    assert_eq!(explanation.lines.len(), 3);
    assert!(explanation.lines[1].starts_with("x <= 0.") && explanation.lines[1].contains("no 1.000"));
    assert!(explanation.lines[2].starts_with("x > 0.") && explanation.lines[2].contains("yes 0.9"));
}

#[test]
fn settings_are_checked_all_at_once() {
    let count = |model: Value| plan(&model).err().map_or(0, |problems| problems.len());
    assert_eq!(count(json!({"hoeffding_tree": {"grace_period": 0, "delta": 0.0, "tau": -1.0, "max_leaves": 0}})), 4);
    assert_eq!(count(json!({"adaptive_random_forest": {"trees": 0, "lambda": 0.0, "columns": 0, "delta": 2.0}})), 4);
    assert_eq!(count(json!({"streaming_random_patches": {"columns": 0.0, "tree": {"delta": 2.0}}})), 2);
    assert_eq!(count(json!({"hoeffding_adaptive_tree": {"window": 0, "tree": {"delta": 2.0}}})), 2);
    assert_eq!(count(json!({"streaming_gradient_boosted_trees": {"steps": 0, "learning_rate": 0.0}})), 2);
    let problems = plan(&json!({"leveraging_bagging": {"tree": {"tau": 3.0}}})).err().expect("a problem");
    assert_eq!(problems[0].path.join("."), "leveraging_bagging.tree.tau");
}

#[test]
fn densities_are_the_textbooks() {
    let mut random = Random::seeded(7);
    for columns in [1, 3, 4, 30, 2101] {
        let rows: Vec<Vec<f64>> =
            (0..9).map(|_| (0..columns).map(|at| 10_f64.powi(at as i32 % 9 - 4) * random.normal()).collect()).collect();
        let mut block: Vec<f64> = gauss::block(columns).collect();
        for (at, row) in rows.iter().enumerate() {
            gauss::add(&mut block, row, 1.0, 1.0 / (at + 1) as f64);
        }
        let (mut spreads, mut highs) = (vec![0.0; columns], vec![0.0; columns]);
        gauss::spreads(&block, &mut spreads, &mut highs);
        let naive: f64 = (0..columns)
            .map(|at| {
                let values = rows.iter().map(|row| row[at]);
                let mean = values.clone().sum::<f64>() / 9.0;
                let range = values.clone().fold(f64::MIN, f64::max) - values.clone().fold(f64::MAX, f64::min);
                let variance = (values.map(|x| (x - mean).powi(2)).sum::<f64>() + range * range / 12.0) / 10.0;
                -0.5 * (variance.ln() + (rows[0][at] - mean).powi(2) / variance)
            })
            .sum();
        let fast = gauss::log_density(&block, &rows[0], &spreads, 9.0);
        assert!((naive - fast).abs() < 1e-9 * naive.abs().max(1.0), "{columns} columns: {naive}, {fast}");
    }
    for z in [-7.0, -5.99, -2.0, -0.3, 0.0, 1e-3, 1.7, 5.99, 7.0] {
        assert!((gauss::normal_below(z) - 0.5 * libm::erfc(-z / 2_f64.sqrt())).abs() < 5e-6, "{z}");
    }
}
