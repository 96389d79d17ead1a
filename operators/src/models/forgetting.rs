//! What holds for every model that forgets: what is left is the model that never saw what it forgot, bit for bit; and
//! what such a model knows depends on its examples alone, not on their order.

use serde_json::{Value, json};

use super::samples::Random;
use super::{Design, Example, KINDS, Learner, Matrix, Shape, Task, plan};

/// An example, as owned numbers.
#[derive(Clone)]
struct Case {
    dense: Vec<f64>,
    active: Vec<u32>,
    example: Example,
}

fn shape(task: Task) -> Shape {
    Shape { dense: 4, active: 2, categories: 9, classes: if task == Task::Classification { 3 } else { 0 } }
}

/// Those with their default settings, where they have such.
fn forgetting() -> impl Iterator<Item = Design> {
    let designs = KINDS.iter().filter_map(|kind| plan(&json!(kind.name)).ok());
    designs.filter(|design| design.forgets)
}

/// Of all magnitudes, wild ones included.
fn case(random: &mut Random, task: Task) -> Case {
    let number = |at: usize| match random.below(40) {
        0 => f64::MAX * random.signed(),
        1 => f64::MIN_POSITIVE,
        2 => 0.0,
        3 => 1e9,
        _ => random.normal() * [1.0, 1e-7, 1e6, 3.0][at] + [0.0, 0.0, 1e8, -5.0][at],
    };
    let dense: Vec<f64> = (0..4).map(number).collect();
    let active = vec![random.below(4) as u32, 4 + random.below(5) as u32];
    let target = if task == Task::Classification { random.below(3) as f64 } else { 1e5 * random.normal() };
    let weight = [1.0, 1.0, 3.0, 0.1, 17.5][random.below(5)];
    Case { dense, active, example: Example { weight, ..Example::of(target) } }
}

fn matrix(shape: Shape, cases: &[Case]) -> (Matrix, Vec<Example>) {
    let mut matrix = Matrix::new(shape);
    matrix.resize(cases.len());
    (0..shape.dense).for_each(|at| matrix.set_dense(at, cases.iter().map(|case| case.dense[at])));
    (0..shape.active).for_each(|at| matrix.set_active(at, cases.iter().map(|case| case.active[at])));
    (matrix, cases.iter().map(|case| case.example).collect())
}

fn learn(learner: &mut dyn Learner, shape: Shape, cases: &[Case]) -> Vec<f64> {
    let (matrix, examples) = matrix(shape, cases);
    let mut outputs = Vec::new();
    learner.learn(&matrix, &examples, &mut outputs);
    outputs
}

#[test]
fn there_are_some() {
    let names: Vec<&str> = forgetting().map(|design| design.kind).collect();
    for name in ["gaussian_naive_bayes", "ridge_regression", "linear_discriminant"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn what_is_forgotten_leaves_no_trace() {
    for (seed, design) in (0..12).flat_map(|seed| forgetting().map(move |design| (seed, design))) {
        println!("{}", design.kind);
        let mut random = Random::seeded(seed);
        let shape = shape(design.task);
        let mut cases = |count| -> Vec<Case> { (0..count).map(|_| case(&mut random, design.task)).collect() };
        let (kept, gone, later) = (cases(3 * seed as usize), cases(20), cases(10));
        let (mut model, mut only) = ((design.make)(shape), (design.make)(shape));
        learn(&mut *model, shape, &gone[..10]);
        learn(&mut *model, shape, &kept);
        learn(&mut *model, shape, &gone[10..]);
        let (rows, examples) = matrix(shape, &gone.into_iter().rev().collect::<Vec<_>>());
        model.forget(&rows, &examples);
        learn(&mut *only, shape, &kept);
        assert_eq!(model.snapshot(), only.snapshot(), "{}", design.kind);
        // And what comes of it is the same, too.
        let (a, b) = (learn(&mut *model, shape, &later), learn(&mut *only, shape, &later));
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", design.kind);
        assert_eq!(model.snapshot(), only.snapshot(), "{}", design.kind);
    }
}

#[test]
fn the_order_of_examples_does_not_matter() {
    for design in forgetting() {
        println!("{}", design.kind);
        let mut random = Random::seeded(4);
        let shape = shape(design.task);
        let mut cases: Vec<Case> = (0..60).map(|_| case(&mut random, design.task)).collect();
        let (mut one, mut other) = ((design.make)(shape), (design.make)(shape));
        learn(&mut *one, shape, &cases);
        cases.reverse();
        cases.rotate_left(17);
        learn(&mut *other, shape, &cases);
        assert_eq!(one.snapshot(), other.snapshot(), "{}", design.kind);
    }
}

#[test]
fn a_weight_counts_as_so_many_examples() {
    for design in forgetting() {
        println!("{}", design.kind);
        let mut random = Random::seeded(5);
        let shape = shape(design.task);
        let (mut once, mut often) = ((design.make)(shape), (design.make)(shape));
        for _ in 0..40 {
            let times = 1 + random.below(4);
            let mut case = case(&mut random, design.task);
            case.example.weight = 1.0;
            let repeated = vec![case.clone(); times];
            case.example.weight = times as f64;
            let before = learn(&mut *once, shape, &[case]);
            let outputs = design.task.outputs(shape.classes);
            assert_eq!(before, learn(&mut *often, shape, &repeated)[..outputs], "{}", design.kind);
        }
    }
}

/// Also models that are not solved anew at each example come to the same in the end.
#[test]
fn large_models_leave_no_trace_once_they_are_solved_anew() {
    let wide = |classes| Shape { dense: 40, active: 0, categories: 0, classes };
    for (kind, shape) in [("ridge_regression", wide(0)), ("linear_discriminant", wide(2))] {
        let design = plan(&json!(kind)).expect("a bare name");
        let mut random = Random::seeded(6);
        let mut cases = |count| -> Vec<Case> {
            let mut case = || {
                let dense: Vec<f64> = (0..40).map(|_| random.normal()).collect();
                let target = f64::from(dense[0] + dense[1] > random.normal());
                Case { dense, active: Vec::new(), example: Example::of(target) }
            };
            (0..count).map(|_| case()).collect()
        };
        let (kept, gone) = (cases(256), cases(30));
        let (mut model, mut only) = ((design.make)(shape), (design.make)(shape));
        learn(&mut *model, shape, &kept[..100]);
        learn(&mut *model, shape, &gone);
        learn(&mut *model, shape, &kept[100..200]);
        let (rows, examples) = matrix(shape, &gone);
        model.forget(&rows, &examples);
        learn(&mut *model, shape, &kept[200..]);
        learn(&mut *only, shape, &kept);
        assert_eq!(model.snapshot(), only.snapshot(), "{kind}");
    }
}

/// Damaged state must be refused, or at least do no harm.
#[test]
fn damaged_snapshots_cause_no_panic() {
    let kinds = ["k_means", "nearest_neighbors", "nearest_neighbors_regression"].map(|kind| plan(&json!(kind)));
    for design in forgetting().chain(kinds.into_iter().map(|design| design.expect("a bare name"))) {
        let mut random = Random::seeded(7);
        let shape = shape(design.task);
        let cases: Vec<Case> = (0..20).map(|_| case(&mut random, design.task)).collect();
        let mut model = (design.make)(shape);
        learn(&mut *model, shape, &cases);
        let snapshot = model.snapshot();
        let (rows, _) = matrix(shape, &cases);
        for _ in 0..300 {
            let mut damaged = snapshot.clone();
            if random.below(4) == 0 {
                damaged.truncate(random.below(damaged.len()));
            } else {
                let at = random.below(damaged.len().min(200));
                damaged[at] ^= 1 << random.below(8);
            }
            let mut other = (design.make)(shape);
            if other.restore(&damaged).is_ok() {
                let mut outputs = Vec::new();
                other.frozen().predict(&rows, &mut outputs);
                learn(&mut *other, shape, &cases);
                other.snapshot();
            }
        }
    }
}

#[test]
fn settings_out_of_range_are_refused_all_at_once() {
    let case = |model: Value, paths: &[&str]| {
        let problems = plan(&model).err().expect("problems");
        let found: Vec<String> = problems.iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(found, paths, "{problems:?}");
    };
    case(json!({"gaussian_naive_bayes": {"smoothing": 0}}), &["gaussian_naive_bayes.smoothing"]);
    case(
        json!({"bernoulli_naive_bayes": {"smoothing": -1, "threshold": 1e200}}),
        &["bernoulli_naive_bayes.threshold", "bernoulli_naive_bayes.smoothing"],
    );
    case(json!({"multinomial_naive_bayes": {"smoothing": 1e9}}), &["multinomial_naive_bayes.smoothing"]);
    case(
        json!({"nearest_neighbors": {"neighbors": 0, "window": 0}}),
        &["nearest_neighbors.neighbors", "nearest_neighbors.window"],
    );
    case(json!({"k_means": {"groups": 0, "half_life": 0.1}}), &["k_means.groups", "k_means.half_life"]);
    case(
        json!({"ridge_regression": {"l2": 0, "categories": 0}}),
        &["ridge_regression.l2", "ridge_regression.categories"],
    );
    case(json!({"linear_discriminant": {"shrinkage": 0}}), &["linear_discriminant.shrinkage"]);
    case(json!({"quadratic_discriminant": {"smoothing": 0}}), &["quadratic_discriminant.smoothing"]);
}

/// Whatever comes: outputs are numbers, probabilities are probabilities, and asking gives what learning would.
#[test]
fn outputs_are_sound_whatever_comes() {
    let kinds = ["k_means", "nearest_neighbors", "nearest_neighbors_regression"].map(|kind| plan(&json!(kind)));
    for design in forgetting().chain(kinds.into_iter().map(|design| design.expect("a bare name"))) {
        println!("{}", design.kind);
        let mut random = Random::seeded(8);
        let shape = shape(design.task);
        let mut model = (design.make)(shape);
        for row in 0..400 {
            let mut case = case(&mut random, design.task);
            if design.task == Task::Regression && row % 7 == 0 {
                case.example.target = super::TARGET_MAX * random.signed();
            }
            case.example.weight *= [1.0, 1.0, 1e300, 1e-300][random.below(4)];
            let mut asked = Vec::new();
            model.frozen().predict(&matrix(shape, std::slice::from_ref(&case)).0, &mut asked);
            let outputs = learn(&mut *model, shape, &[case]);
            let same = asked.iter().zip(&outputs).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && outputs.iter().all(|output| output.is_finite()), "{}: {asked:?} {outputs:?}", design.kind);
            if design.task == Task::Classification {
                let sound = outputs.iter().all(|output| (0.0..=1.0).contains(output));
                assert!(sound && (outputs.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{}: {outputs:?}", design.kind);
            }
        }
        for tensor in model.frozen().tensors() {
            assert!(tensor.values.iter().all(|value| value.is_finite()), "{}: {tensor:?}", design.kind);
            assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>(), "{}: {}", design.kind, tensor.name);
        }
        assert!(!model.frozen().explain(&super::Names::default()).lines.is_empty());
    }
}
