//! Files are the same each time, and an ONNX runtime gives the answers of the models.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::super::properties::{Case, FIRST, SHAPE, Stream, cases};
use super::super::samples::Random;
use super::super::{KINDS, Learner, Names, Predictor, Shape, Task, likeliest, plan, probability};
use super::{Fitting, NotExpressible, Signature, Slot, export};

/// Kinds that no file is written of.
const NOT_EXPRESSIBLE: [&str; 1] = ["robust_random_cut_forest"];

/// Few categories and many, numbers alone, categories alone, and one of each with nothing to tell by.
const SHAPES: [Shape; 5] = [
    SHAPE,
    Shape { dense: 2, active: 2, categories: 204, classes: 0 },
    Shape { dense: 3, active: 0, categories: 0, classes: 0 },
    Shape { dense: 0, active: 1, categories: 3, classes: 0 },
    Shape { dense: 1, active: 1, categories: 1, classes: 0 },
];

fn names(shape: Shape) -> Names {
    let dense = (0..shape.dense).map(|at| format!("x{at}")).collect();
    let categories = (0..shape.active).map(|at| (format!("c{at}"), (at * FIRST) as u32)).collect();
    let classes = (0..shape.classes).map(|at| format!("class {at}")).collect();
    Names { dense, categories, classes }
}

pub(super) fn file(case: &Case, predictor: &dyn Predictor) -> Result<Vec<u8>, NotExpressible> {
    let names = names(case.shape);
    let is_yes_or_no = case.design.classes_max == 2;
    let signature = Signature { task: case.design.task, shape: case.shape, names: &names, is_yes_or_no };
    export(predictor, &signature, vec![("model".to_owned(), case.design.kind.to_owned())])
}

/// What the defaults and the examples do not show.
fn more() -> Vec<Value> {
    let mlp = |settings: Value| json!({"network": {"mlp": settings}, "training": {"seed": 1}});
    let named = |kind: &str, settings: &[Value]| -> Vec<Value> {
        settings.iter().map(|settings| json!({kind: settings})).collect()
    };
    let mut more = Vec::new();
    for loss in ["absolute", "huber", "poisson", "squared"] {
        more.push(json!({"linear_regression": {"loss": loss}}));
    }
    let growing = |leaves: &str| json!({"leaves": leaves, "grace_period": 50, "delta": 0.05, "tau": 0.2});
    more.extend(["majority", "naive_bayes", "adaptive"].map(|leaves| json!({"hoeffding_tree": growing(leaves)})));
    more.extend(["mean", "linear", "adaptive"].map(|leaves| json!({"hoeffding_tree_regressor": growing(leaves)})));
    more.extend(["majority", "naive_bayes"].map(|leaves| json!({"adaptive_random_forest": growing(leaves)})));
    more.extend(
        ["mean", "linear"].map(|leaves| json!({"adaptive_random_forest_regressor": {"tree": growing(leaves)}})),
    );
    more.push(json!({"nearest_neighbors": {"weighted": false, "window": 300}}));
    more.extend(named(
        "neural_network",
        &[
            mlp(json!({"hidden": [16, 16], "residual": true, "normalise": "layer", "activation": "gelu"})),
            mlp(json!({"hidden": [16, 16], "normalise": "batch", "activation": "silu", "dropout": 0.2})),
            mlp(json!({"hidden": [16], "activation": "tanh"})),
            json!({"network": {"cross": {"crosses": 2, "layers": {"hidden": [8], "activation": "sigmoid"}}}}),
            json!({"network": {"gru": {"steps": 2, "units": 8}}}),
            json!({"network": {"temporal_convolution": {"steps": 4, "channels": 6}}}),
            json!({"training": {"average": 0.9, "embedding": {"size": 3, "seen_at_least": 200}, "standardise": false}}),
        ],
    ));
    more.extend(named("neural_network_regressor", &[json!({"loss": "poisson"}), json!({"loss": "absolute"})]));
    let classifiers = json!(["hoeffding_tree", "gaussian_naive_bayes", "softmax_regression"]);
    let regressors = json!(["ridge_regression", "hoeffding_tree_regressor", "neural_network_regressor"]);
    more.push(json!({"vote": {"of": classifiers}}));
    for of in [classifiers, regressors] {
        more.push(json!({"mean": {"of": of, "weights": [1, 2, 3]}}));
        more.push(json!({"stack": {"of": of}}));
        more.push(json!({"champion": {"of": of}}));
    }
    more.push(json!({"one_vs_rest": {"of": {"vote": {"of": ["alma", "linear_svm", "passive_aggressive"]}}}}));
    more
}

pub(super) fn all_cases() -> Vec<Case> {
    let mut all: Vec<Case> = SHAPES.into_iter().flat_map(cases).collect();
    // Where more than 64 columns share the places of a vector.
    let wide = cases(Shape { dense: 70, ..SHAPE }).into_iter().filter(|case| case.design.task == Task::Choice);
    all.extend(wide);
    for value in more() {
        let design = plan(&value).unwrap_or_else(|problems| panic!("{value}: {problems:?}"));
        let classes: &[usize] = if design.task == Task::Classification { &[2, 3] } else { &[0] };
        for classes in classes.iter().filter(|classes| **classes <= design.classes_max) {
            let (name, shape) = (format!("{value}, {classes} classes"), Shape { classes: *classes, ..SHAPE });
            all.push(Case { name, design: design.clone(), shape });
        }
    }
    all
}

#[test]
fn each_kind_has_a_file_that_is_the_same_each_time_or_says_why_not() {
    let mut without = BTreeSet::new();
    for case in all_cases() {
        let mut learner = case.learner();
        let stream = case.stream(&mut Random::seeded(1), 120, false);
        learner.learn(&stream.rows, &stream.examples, &mut Vec::new());
        match file(&case, &*learner.frozen()) {
            Ok(bytes) => assert_eq!(Ok(bytes), file(&case, &*learner.frozen()), "{}", case.name),
            Err(reason) => {
                println!("{}: {reason}", case.name);
                without.insert(case.design.kind);
            }
        }
    }
    assert_eq!(without.into_iter().collect::<Vec<_>>(), NOT_EXPRESSIBLE);
    assert!(NOT_EXPRESSIBLE.iter().all(|name| KINDS.iter().any(|kind| kind.name == *name)));
}

#[test]
fn inputs_may_be_named_as_outputs_are() {
    let design = plan(&json!("logistic_regression")).expect("valid");
    let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
    let names = Names { dense: vec!["probability".to_owned(), "1".to_owned()], ..Names::default() };
    let signature = Signature { task: design.task, shape, names: &names, is_yes_or_no: true };
    let learner = (design.make)(shape);
    let bytes = export(&*learner.frozen(), &signature, Vec::new()).expect("expressible");
    let holds = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(holds("probability_") && holds("prediction"));
}

/// Lets what there is to learn follow from the row's last category.
fn by_category(case: &Case, stream: &mut Stream) {
    for (row, example) in stream.examples.iter_mut().enumerate() {
        let Some(category) = stream.rows.row(row).active.last() else { return };
        example.target = match case.design.task {
            Task::Classification => f64::from(category % 7) % case.shape.classes as f64,
            _ => example.target + f64::from(category % 7),
        };
    }
}

/// What an answer has for rows with these outputs. Indices are -1 where a rounding may decide.
fn answers(case: &Case, outputs: &[f64]) -> Value {
    let rows = || outputs.chunks_exact(case.outputs());
    let column = |at: usize| rows().map(|row| row[at]).collect::<Vec<_>>();
    match case.design.task {
        Task::Classification => {
            let classes = case.shape.classes;
            let all = |row: &[f64]| (0..classes).map(|class| probability(row, class)).collect::<Vec<_>>();
            let index = |row: &[f64]| {
                let (mut sorted, said) = (all(row), likeliest(row));
                sorted.sort_by(f64::total_cmp);
                if sorted[classes - 1] - sorted[classes - 2] < 1e-6 { -1 } else { said as i64 }
            };
            let prediction: Vec<i64> = rows().map(index).collect();
            if case.design.classes_max == 2 {
                return json!({"prediction": prediction, "probability": column(0)});
            }
            let said: Vec<f64> = rows().map(|row| probability(row, likeliest(row))).collect();
            let probabilities: Vec<_> = rows().map(all).collect();
            json!({"prediction": prediction, "probability": said, "probabilities": probabilities})
        }
        Task::Regression => json!({"prediction": column(0)}),
        Task::Anomaly => json!({"score": column(0)}),
        Task::Clustering => {
            let cluster: Vec<i64> = rows().map(|row| row[0] as i64).collect();
            json!({"cluster": cluster, "distance": column(1)})
        }
        Task::Choice => json!({"probabilities": rows().collect::<Vec<_>>()}),
    }
}

/// What a file of a case has to fit, and the learner of such files.
pub(super) fn imported(case: &Case) -> (Fitting, Box<dyn Learner>) {
    let names = names(case.shape);
    let numbers = names.dense.iter().enumerate().map(|(at, name)| (name.clone(), Slot::Number(at)));
    let categories = names.categories.iter().enumerate();
    let categories = categories.map(|(at, (name, first))| (name.clone(), Slot::Category(at, *first)));
    let features = numbers.chain(categories).collect();
    let is_yes_or_no = case.design.task == Task::Classification && case.design.classes_max == 2;
    let gives = match case.design.task {
        Task::Classification => "probabilities",
        Task::Regression => "number",
        Task::Anomaly => "score",
        Task::Clustering => "clusters",
        Task::Choice => "choices",
    };
    let design = plan(&json!({"onnx": {"gives": gives}})).expect("valid");
    (Fitting { features, classes: names.classes, is_yes_or_no }, (design.make)(case.shape))
}

/// The largest difference of two rows of outputs, for numbers above 1 as a part of them.
pub(super) fn difference(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    let apart = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
    let most = |most: f64, apart: f64| if apart <= most { most } else { apart };
    left.iter().zip(right).map(apart).fold(0.0, most)
}

/// A learner that has had so many examples; in every second case, what they are follows from their categories.
fn taught(case: &Case, seed: usize, len: usize, random: &mut Random) -> Box<dyn Learner> {
    let mut learner = case.learner();
    let mut stream = case.stream(random, len, false);
    if seed % 2 == 1 {
        by_category(case, &mut stream);
    }
    learner.learn(&stream.rows, &stream.examples, &mut Vec::new());
    learner
}

#[test]
fn a_file_answers_as_the_model_that_it_was_made_of() {
    let mut count = 0;
    for (seed, case) in all_cases().into_iter().enumerate() {
        for len in [0, 1000] {
            let mut random = Random::seeded(seed as u64);
            let learner = taught(&case, seed, len, &mut random);
            let Ok(bytes) = file(&case, &*learner.frozen()) else { continue };
            let (fitting, mut other) = imported(&case);
            let name = format!("{} of {len} examples", case.name);
            other.take_file(&bytes, &fitting).unwrap_or_else(|why| panic!("{name}: {why}"));
            let asked = case.stream(&mut random, 150, !case.name.contains("naive_bayes"));
            let (mut wanted, mut got) = (Vec::new(), Vec::new());
            learner.frozen().predict(&asked.rows, &mut wanted);
            other.frozen().predict(&asked.rows, &mut got);
            let most = difference(&got, &wanted);
            assert!(most <= 1e-5, "{name}: {most}\n{got:?}\n{wanted:?}");
            // What was stored answers with the same bits, and it is the same file.
            let (_, mut again) = imported(&case);
            again.restore(&other.snapshot()).expect("its own snapshot");
            let mut repeated = Vec::new();
            again.frozen().predict(&asked.rows, &mut repeated);
            assert_eq!(repeated, got, "{name}");
            assert_eq!((again.snapshot(), again.frozen().file()), (other.snapshot(), Some(&*bytes)), "{name}");
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

/// `MILLSTREAM_PYTHON` names a Python with what `tests/clients/requirements.txt` lists.
#[test]
fn a_runtime_gives_the_same_answers() {
    let Ok(python) = env::var("MILLSTREAM_PYTHON") else {
        println!("skipped: MILLSTREAM_PYTHON names no Python");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut count = 0;
    for (seed, case) in all_cases().into_iter().enumerate() {
        for len in [0, 2000] {
            let mut random = Random::seeded(seed as u64);
            let learner = taught(&case, seed, len, &mut random);
            let Ok(bytes) = file(&case, &*learner.frozen()) else { continue };
            // Wild rows have logarithms of probabilities of 1e12 there, whose last digits are rounding.
            let wild = !case.name.contains("naive_bayes");
            let asked = case.stream(&mut random, 150, wild);
            let mut outputs = Vec::new();
            learner.frozen().predict(&asked.rows, &mut outputs);
            let (names, mut inputs) = (names(case.shape), Map::new());
            for (at, name) in names.dense.iter().enumerate() {
                inputs.insert(name.clone(), (0..150).map(|row| asked.rows.row(row).dense[at]).collect());
            }
            for (at, (name, first)) in names.categories.iter().enumerate() {
                inputs.insert(name.clone(), (0..150).map(|row| asked.rows.row(row).active[at] - first).collect());
            }
            let below = folder.path().join(format!("{count:04}"));
            fs::create_dir(&below).expect("created");
            fs::write(below.join("model.onnx"), bytes).expect("written");
            let name = format!("{} of {len} examples and {} columns", case.name, inputs.len());
            let content =
                json!({"name": name, "kind": case.design.kind, "inputs": inputs, "outputs": answers(&case, &outputs)});
            fs::write(below.join("case.json"), content.to_string()).expect("written");
            count += 1;
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/onnx_check.py");
    let checked = Command::new(python).arg(script).arg(folder.path()).output().expect("Python runs");
    println!("{}", String::from_utf8_lossy(&checked.stdout));
    assert!(checked.status.success() && count > 100, "{}", String::from_utf8_lossy(&checked.stderr));
}
