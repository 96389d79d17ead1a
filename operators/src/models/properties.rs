//! What holds for every kind of model: with its example settings and with its defaults, and for few and for more classes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cleansing::harness::{self as cleansing, twisted};

use super::samples::{Random, yaml};
use super::{Design, Example, KINDS, Learner, Matrix, Names, Shape, TARGET_MAX, Task, plan};

/// A model to be tested, and rows for it.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) design: Design,
    pub(super) shape: Shape,
}

/// Rows, and what there is to learn from each.
pub(super) struct Stream {
    pub(super) rows: Matrix,
    pub(super) examples: Vec<Example>,
}

/// All kinds, with all numbers of classes that make a difference.
pub(super) fn cases(shape: Shape) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in KINDS {
        for (settings, config) in [("example", yaml(kind.example)), ("defaults", json!({}))] {
            let Ok(design) = plan(&json!({kind.name: config})) else { continue };
            // What only answers is tested with files of others.
            if !design.learns {
                continue;
            }
            let classes: &[usize] = match design.task {
                Task::Classification if design.classes_max < 5 => &[2],
                Task::Classification | Task::Choice => &[2, 5],
                Task::Regression | Task::Anomaly | Task::Clustering => &[0],
            };
            cases.extend(classes.iter().map(|classes| Case {
                name: format!("{} with {settings}, {classes} classes", kind.name),
                design: design.clone(),
                shape: Shape { classes: *classes, ..shape },
            }));
        }
    }
    cases
}

pub(super) const SHAPE: Shape = Shape { dense: 4, active: 2, categories: 9, classes: 0 };

/// The two columns of categories have 4 and 5 of them.
pub(super) const FIRST: usize = 4;

impl Case {
    pub(super) fn learner(&self) -> Box<dyn Learner> {
        (self.design.make)(self.shape)
    }

    pub(super) fn outputs(&self) -> usize {
        self.design.task.outputs(self.shape.classes)
    }

    /// Numbers about which something can be learned; where `wild`, also any others.
    pub(super) fn stream(&self, random: &mut Random, len: usize, wild: bool) -> Stream {
        let shape = self.shape;
        let mut rows = Matrix::new(shape);
        rows.resize(len);
        let mut first = vec![0.0; len];
        for column in 0..shape.dense {
            let mut magnitude = 1.0;
            let values: Vec<f64> = (0..len).map(|_| number(random, &mut magnitude, wild)).collect();
            rows.set_dense(column, values.iter().copied());
            first = if column == 0 { values } else { first };
        }
        for column in 0..shape.active {
            let (low, high) = if column == 0 { (0, FIRST.min(shape.categories)) } else { (FIRST, shape.categories) };
            let values: Vec<u32> = (0..len).map(|_| (low + random.below(high - low)) as u32).collect();
            rows.set_active(column, values.into_iter());
        }
        let mut magnitude = 1.0;
        let examples = first.iter().map(|x| self.example(random, *x, &mut magnitude, wild)).collect();
        Stream { rows, examples }
    }

    fn example(&self, random: &mut Random, x: f64, magnitude: &mut f64, wild: bool) -> Example {
        let classes = self.shape.classes.max(1);
        let action = random.below(classes) as u32;
        let target = match self.design.task {
            Task::Classification if random.uniform() < 0.2 => random.below(classes) as f64,
            Task::Classification => (x + 0.5 * classes as f64).clamp(0.0, classes as f64 - 1.0).floor(),
            Task::Choice => f64::from(u32::from(x > 0.0) == action) + 0.1 * random.normal(),
            _ if wild => number(random, magnitude, true).clamp(-TARGET_MAX, TARGET_MAX),
            _ => 3.0 * x + 0.1 * random.normal(),
        };
        let weight = match random.below(20) {
            0 => 0.0,
            1 => 0.5,
            2 => 3.0,
            3 if wild => 1e6,
            _ => 1.0,
        };
        let propensity = if self.design.task == Task::Choice { 1.0 / classes as f64 } else { 1.0 };
        Example { target, weight, action, propensity }
    }
}

/// Magnitudes from 1e-9 to 1e12 that change suddenly, extremes included; or plain ones.
fn number(random: &mut Random, magnitude: &mut f64, wild: bool) -> f64 {
    if wild && random.uniform() < 0.01 {
        *magnitude = 10_f64.powi(random.below(22) as i32 - 9);
    }
    match random.below(150) {
        0 if wild => 0.0,
        1 if wild => f64::MAX,
        2 if wild => -f64::MAX,
        3 if wild => f64::MIN_POSITIVE / 1e3,
        _ => *magnitude * random.normal(),
    }
}

impl Stream {
    fn part(&self, shape: Shape, from: usize, to: usize) -> Stream {
        self.pick(shape, &(from..to).collect::<Vec<_>>())
    }

    fn pick(&self, shape: Shape, picked: &[usize]) -> Stream {
        let mut rows = Matrix::new(shape);
        rows.resize(picked.len());
        for column in 0..shape.dense {
            rows.set_dense(column, picked.iter().map(|row| self.rows.row(*row).dense[column]));
        }
        for column in 0..shape.active {
            rows.set_active(column, picked.iter().map(|row| self.rows.row(*row).active[column]));
        }
        Stream { rows, examples: picked.iter().map(|row| self.examples[*row]).collect() }
    }
}

fn learn(learner: &mut dyn Learner, stream: &Stream) -> Vec<f64> {
    let mut outputs = Vec::new();
    learner.learn(&stream.rows, &stream.examples, &mut outputs);
    outputs
}

fn predict(learner: &dyn Learner, stream: &Stream) -> Vec<f64> {
    let mut outputs = Vec::new();
    learner.frozen().predict(&stream.rows, &mut outputs);
    outputs
}

fn bits(outputs: &[f64]) -> Vec<u64> {
    outputs.iter().map(|output| output.to_bits()).collect()
}

/// Outputs are what their task says.
fn check(case: &Case, outputs: &[f64]) {
    let name = &case.name;
    for row in outputs.chunks(case.outputs()) {
        assert!(row.iter().all(|output| output.is_finite()), "{name}: {row:?}");
        match case.design.task {
            Task::Classification | Task::Choice => {
                assert!(row.iter().all(|output| (0.0..=1.0).contains(output)), "{name}: {row:?}");
                let sum: f64 = row.iter().sum();
                assert!(row.len() == 1 || (sum - 1.0).abs() < 1e-9, "{name}: {row:?} add up to {sum}");
            }
            Task::Anomaly => assert!((0.0..=1.0).contains(&row[0]), "{name}: {row:?}"),
            Task::Clustering => assert!(row[0] >= 0.0 && row[0].fract() == 0.0 && row[1] >= 0.0, "{name}: {row:?}"),
            Task::Regression => {}
        }
    }
}

#[test]
fn outputs_are_finite_and_probabilities_add_up_whatever_the_columns() {
    let shapes = [
        SHAPE,
        Shape { dense: 3, active: 0, categories: 0, classes: 0 },
        Shape { dense: 0, active: 1, categories: 3, classes: 0 },
        Shape { dense: 1, active: 1, categories: 1, classes: 0 },
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for case in cases(shape) {
            let mut random = Random::seeded(seed as u64);
            let mut learner = case.learner();
            let stream = case.stream(&mut random, if seed == 0 { 400 } else { 60 }, true);
            check(&case, &learn(&mut *learner, &stream));
            if case.design.quickens {
                learner.quicken(10.0, 50.0);
            }
            check(&case, &learn(&mut *learner, &case.stream(&mut random, 100, true)));
            for tensor in learner.frozen().tensors() {
                assert!(tensor.values.iter().all(|value| value.is_finite()), "{}: {tensor:?}", case.name);
            }
        }
    }
}

#[test]
fn what_has_learned_nothing_prefers_no_class() {
    for case in cases(SHAPE).iter().filter(|case| case.design.task == Task::Classification) {
        let stream = case.stream(&mut Random::seeded(1), 3, true);
        let even = 1.0 / case.shape.classes as f64;
        let outputs = predict(&*case.learner(), &stream);
        assert!(outputs.iter().all(|output| (output - even).abs() < 1e-12), "{}: {outputs:?}", case.name);
    }
}

#[test]
fn tensors_and_explanations_are_whole() {
    let column = |name: &str, first| (name.to_owned(), first);
    for case in cases(SHAPE) {
        let names = Names {
            dense: (0..SHAPE.dense).map(|at| format!("x{at}")).collect(),
            categories: vec![column("c", 0), column("d", FIRST as u32)],
            classes: (0..case.shape.classes).map(|class| format!("class {class}")).collect(),
        };
        let mut learner = case.learner();
        for len in [0, 1, 150] {
            learn(&mut *learner, &case.stream(&mut Random::seeded(2), len, false));
            let (frozen, mut known) = (learner.frozen(), BTreeSet::new());
            for tensor in frozen.tensors() {
                assert_eq!(tensor.shape.iter().product::<usize>(), tensor.values.len(), "{}: {tensor:?}", case.name);
                assert!(known.insert(tensor.name.clone()), "{}: two are called {}", case.name, tensor.name);
            }
            let explanation = frozen.explain(&names);
            assert!(!explanation.lines.is_empty(), "{} says nothing after {len}", case.name);
            let importances = &explanation.importances;
            assert!(importances.iter().all(|(_, value)| value.is_finite()), "{}: {explanation:?}", case.name);
            assert!(importances.is_sorted_by(|a, b| a.1 >= b.1), "{}: {explanation:?}", case.name);
        }
    }
}

#[test]
fn a_prediction_is_the_same_asked_or_learned() {
    for (seed, case) in cases(SHAPE).into_iter().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let mut learner = case.learner();
        for round in 0..8 {
            learn(&mut *learner, &case.stream(&mut random, 30, round % 2 == 1));
            for _ in 0..5 {
                let one = case.stream(&mut random, 1, round % 2 == 1);
                let asked = predict(&*learner, &one);
                assert_eq!(bits(&asked), bits(&learn(&mut *learner, &one)), "{}, round {round}", case.name);
            }
        }
    }
}

#[test]
fn a_frozen_model_does_not_learn_on() {
    for case in cases(SHAPE) {
        let mut random = Random::seeded(4);
        let (mut learner, asked) = (case.learner(), case.stream(&mut random, 5, false));
        learn(&mut *learner, &case.stream(&mut random, 60, false));
        let frozen = learner.frozen();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        frozen.predict(&asked.rows, &mut before);
        let snapshot = learner.snapshot();
        learn(&mut *learner, &case.stream(&mut random, 60, false));
        frozen.predict(&asked.rows, &mut after);
        assert_eq!(bits(&before), bits(&after), "{}", case.name);
        assert_eq!(snapshot, frozen.snapshot(), "{}: it can be gone on from", case.name);
    }
}

#[test]
fn how_a_stream_is_cut_does_not_matter() {
    for (seed, case) in cases(SHAPE).into_iter().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let len = 200;
        let stream = case.stream(&mut random, len, true);
        let (mut whole, mut cut) = (case.learner(), case.learner());
        let want = learn(&mut *whole, &stream);
        let (mut got, mut from) = (Vec::new(), 0);
        while from < len {
            let to = (from + [0, 1, 2, 7, 50][random.below(5)]).min(len);
            got.extend(learn(&mut *cut, &stream.part(case.shape, from, to)));
            from = to;
        }
        assert_eq!(bits(&want), bits(&got), "{}", case.name);
        assert_eq!(whole.snapshot(), cut.snapshot(), "{}", case.name);
    }
}

#[test]
fn snapshots_continue_bit_for_bit() {
    for (seed, case) in cases(SHAPE).into_iter().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let mut straight = case.learner();
        for round in 0..4 {
            learn(&mut *straight, &case.stream(&mut random, [0, 1, 80, 60][round], round == 3));
            if round == 2 && case.design.quickens {
                straight.quicken(5.0, 40.0);
            }
            let (snapshot, digest, mut other) = (straight.snapshot(), straight.digest(), case.learner());
            other.restore(&snapshot).unwrap_or_else(|why| panic!("{}: {why}", case.name));
            assert_eq!((&snapshot, digest), (&other.snapshot(), other.digest()), "{}", case.name);
            let next = case.stream(&mut random, 60, round == 3);
            assert_eq!(bits(&learn(&mut *straight, &next)), bits(&learn(&mut *other, &next)), "{}", case.name);
            assert_eq!((straight.snapshot(), straight.digest()), (other.snapshot(), other.digest()), "{}", case.name);
            assert_eq!(straight.digest() == digest, straight.snapshot() == snapshot, "{}", case.name);
        }
    }
}

#[test]
fn snapshots_of_other_shapes_are_refused() {
    for case in cases(SHAPE) {
        let mut learner = case.learner();
        learn(&mut *learner, &case.stream(&mut Random::seeded(5), 60, false));
        let snapshot = learner.snapshot();
        let mut others = vec![
            Shape { dense: SHAPE.dense + 1, ..case.shape },
            Shape { dense: SHAPE.dense - 1, ..case.shape },
            Shape { categories: SHAPE.categories - 1, ..case.shape },
            Shape { categories: SHAPE.categories + 1, ..case.shape },
        ];
        if case.shape.classes == 5 {
            others.extend([Shape { classes: 4, ..case.shape }, Shape { classes: 6, ..case.shape }]);
        }
        for shape in others {
            let restored = (case.design.make)(shape).restore(&snapshot);
            assert!(restored.is_err(), "{}: from {:?} to {shape:?}", case.name, case.shape);
        }
    }
}

/// Whatever happens to a snapshot: it is refused, or what comes of it answers and learns without a panic.
#[test]
fn damaged_snapshots_do_no_harm() {
    for (seed, case) in cases(SHAPE).into_iter().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let mut learner = case.learner();
        learn(&mut *learner, &case.stream(&mut random, 120, false));
        let (snapshot, few) = (learner.snapshot(), case.stream(&mut random, 4, false));
        for attempt in 0..60 {
            let mut damaged = snapshot.clone();
            // What has lengths and indices is often at the start, and always before what is long.
            let near = if attempt % 2 == 0 { 40 } else { damaged.len() };
            let at = random.below(damaged.len().min(near));
            match attempt % 5 {
                0 => damaged.truncate(at),
                _ => damaged[at] ^= 1 << random.below(8),
            }
            let mut other = case.learner();
            if other.restore(&damaged).is_ok() {
                predict(&*other, &few);
                learn(&mut *other, &few);
                predict(&*other, &few);
            }
        }
    }
}

/// Settings that nobody would give are refused, or what comes of them learns and answers as all do.
#[test]
fn whatever_the_settings_a_model_keeps_its_word() {
    let mut taken = 0;
    for (seed, kind) in (0..12).flat_map(|seed| KINDS.iter().map(move |kind| (seed, kind))) {
        let settings = twisted(&mut cleansing::Random::new(seed), &yaml(kind.example));
        let Some(design) = plan(&json!({kind.name: settings})).ok().filter(|design| design.learns) else { continue };
        let classes = match design.task {
            Task::Classification | Task::Choice if design.classes_max >= 5 && seed % 2 == 0 => 5,
            Task::Classification | Task::Choice => 2,
            _ => 0,
        };
        let case = Case { name: format!("{} with {settings}", kind.name), design, shape: Shape { classes, ..SHAPE } };
        let (mut random, mut learner, mut other) = (Random::seeded(seed), case.learner(), case.learner());
        let stream = case.stream(&mut random, 100, true);
        check(&case, &learn(&mut *learner, &stream));
        check(&case, &predict(&*learner, &stream));
        other.restore(&learner.snapshot()).unwrap_or_else(|why| panic!("{}: {why}", case.name));
        assert_eq!(learner.digest(), other.digest(), "{}", case.name);
        taken += 1;
    }
    assert!(taken > 200, "only {taken} are taken, which says little");
}

#[test]
fn what_counts_nothing_teaches_nothing() {
    for case in cases(SHAPE) {
        let mut random = Random::seeded(6);
        let mut learner = case.learner();
        learn(&mut *learner, &case.stream(&mut random, 50, false));
        let (snapshot, mut nothing) = (learner.snapshot(), case.stream(&mut random, 20, true));
        nothing.examples.iter_mut().for_each(|example| example.weight = 0.0);
        learn(&mut *learner, &nothing);
        assert_eq!(snapshot, learner.snapshot(), "{}", case.name);
    }
}

/// What forgets is a sum of its examples: in any order, and one that counts twice is two.
#[test]
fn what_is_forgotten_was_never_learned() {
    for (seed, case) in cases(SHAPE).into_iter().filter(|case| case.design.forgets).enumerate() {
        let mut random = Random::seeded(seed as u64);
        let mut learner = case.learner();
        learn(&mut *learner, &case.stream(&mut random, 50, true));
        let (snapshot, len) = (learner.snapshot(), 40);
        let mistake = case.stream(&mut random, len, true);
        let mut order: Vec<usize> = (0..len).filter(|row| mistake.examples[*row].weight > 0.0).collect();
        learn(&mut *learner, &mistake.pick(case.shape, &order));
        assert_ne!(snapshot, learner.snapshot(), "{}", case.name);
        (1..order.len()).for_each(|at| order.swap(at, random.below(at + 1)));
        let mistake = mistake.pick(case.shape, &order);
        learner.forget(&mistake.rows, &mistake.examples);
        assert_eq!(snapshot, learner.snapshot(), "{}", case.name);
    }
}

/// Longer steps for a while, and then the old ones.
#[test]
fn steps_are_longer_for_a_while() {
    let steady = |case: &Case, random: &mut Random, len: usize| case.stream(random, len, false);
    for case in cases(SHAPE).iter().filter(|case| case.design.quickens) {
        let mut random = Random::seeded(7);
        let mut plain = case.learner();
        learn(&mut *plain, &steady(case, &mut random, 100));
        let mut quick = case.learner();
        quick.restore(&plain.snapshot()).expect("the same shape");
        quick.quicken(4.0, 20.0);
        let next = steady(case, &mut random, 50);
        learn(&mut *plain, &next);
        learn(&mut *quick, &next);
        assert_ne!(plain.snapshot(), quick.snapshot(), "{} is no quicker", case.name);
    }
}

#[test]
fn names_of_kinds_are_in_order_and_unknown_settings_are_refused() {
    assert!(KINDS.is_sorted_by_key(|kind| kind.name));
    for kind in KINDS {
        let refused = |config: Value| plan(&json!({kind.name: config})).is_err();
        assert!(!refused(yaml(kind.example)), "the example of {}", kind.name);
        assert!(refused(json!({"no_such_setting": 1})), "{}", kind.name);
    }
}
