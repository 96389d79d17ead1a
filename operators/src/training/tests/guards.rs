//! Guards: what is done when a model's errors change.

use super::classes::{fold_on, plan_on, table};
use super::*;

/// A stream whose labels turn round in the middle.
fn turning(len: usize) -> RecordBatch {
    let mut random = Random::seeded(11);
    let x: Vec<f64> = (0..len).map(|_| random.signed()).collect();
    let y: Vec<bool> = x.iter().enumerate().map(|(row, x)| (*x > 0.0) == (row < len / 2)).collect();
    table(vec![("x", Arc::new(Float64Array::from(x)) as ArrayRef), ("y", Arc::new(BooleanArray::from(y)))])
}

fn config(then: &Value) -> Value {
    // Its steps shrink, so by itself it follows slowly.
    json!({"label": "y", "features": ["x"], "learner": {"logistic_regression": {"update": "adagrad"}},
        "evaluate": {"window": 500}, "drift": [{"detector": "adwin", "then": then}]})
}

fn late_accuracy(fold: &dyn Fold) -> f64 {
    let measures = fold.measures();
    measures.iter().find(|m| m.name == "accuracy" && m.over == "last 500").expect("a window").value
}

#[test]
fn a_change_is_told_and_acted_upon() {
    let rows = turning(4000);
    let unguarded = {
        let mut fold = fold_on(&rows, &config(&json!("warn")));
        learn(&mut *fold, &rows.slice(0, 2600));
        late_accuracy(&*fold)
    };
    for then in
        [json!("reset"), json!({"challenger": {"examples": 200}}), json!({"roll_back": {"every_examples": 5000}})]
    {
        let mut fold = fold_on(&rows, &config(&then));
        let mut rejects = Rejects::default();
        fold.learn(0, &rows.slice(0, 2600), &mut rejects).expect("learned");
        let noticed = rejects.noticed();
        let drift = noticed.iter().find(|noticed| noticed.kind == "drift").expect("the change is found");
        assert!((2000..2200).contains(&drift.row), "{drift:?}");
        assert!(drift.about["error"].as_f64() > drift.about["error_before"].as_f64(), "{drift:?}");
        assert!(value(&fold.measures(), "model", "changes") >= 1.0);
        assert!(late_accuracy(&*fold) > unguarded, "{then}: {} after {unguarded}", late_accuracy(&*fold));
    }
}

#[test]
fn cuts_and_restarts_do_not_matter() {
    let rows = turning(3000);
    for then in ["warn", "reset"]
        .map(|name| json!(name))
        .into_iter()
        .chain([json!({"challenger": {"examples": 300}}), json!({"roll_back": {"every_examples": 700}})])
    {
        let config = config(&then);
        let mut whole = fold_on(&rows, &config);
        learn(&mut *whole, &rows);
        let (mut random, mut cut, mut at) = (Random::seeded(3), fold_on(&rows, &config), 0);
        while at < rows.num_rows() {
            let len = (1 + random.below(300)).min(rows.num_rows() - at);
            learn(&mut *cut, &rows.slice(at, len));
            let mut restarted = fold_on(&rows, &config);
            restarted.restore(&cut.snapshot()).expect("its own state");
            cut = restarted;
            at += len;
        }
        assert!(cut.snapshot() == whole.snapshot() && cut.digest() == whole.digest(), "{then}");
    }
}

#[test]
fn guards_that_cannot_work_are_refused() {
    let case = |then: Value, learner: &str, want: &[(&str, &str)]| {
        let rows = turning(10);
        let mut config = config(&then);
        config["learner"] = json!(learner);
        let problems = plan_on(&rows, &config).err().expect("problems");
        let found: Vec<_> = problems.iter().map(|problem| (problem.path.join("."), problem.code)).collect();
        let found: Vec<_> = found.iter().map(|(path, code)| (path.as_str(), *code)).collect();
        assert_eq!(found, want, "{problems:?}");
    };
    let range = "out-of-range";
    case(
        json!({"roll_back": {"every_examples": 0}}),
        "logistic_regression",
        &[("drift.0.then.roll_back.every_examples", range)],
    );
    case(json!({"challenger": {"examples": 0}}), "logistic_regression", &[("drift.0.then.challenger.examples", range)]);
}
