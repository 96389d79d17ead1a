//! Labels that come later.

use super::classes::table;
use super::*;

/// Rows of a stream with an id and a number at these times.
fn asked(rows: &[(i64, &str, f64)]) -> RecordBatch {
    timed(
        &table(vec![
            ("id", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
            ("x", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)))),
        ]),
        rows.iter().map(|row| row.0),
    )
}

/// Labels of ids at these times.
fn told(rows: &[(i64, &str, bool)]) -> RecordBatch {
    timed(
        &table(vec![
            ("id", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
            ("clicked", Arc::new(rows.iter().map(|row| Some(row.2)).collect::<BooleanArray>())),
        ]),
        rows.iter().map(|row| row.0),
    )
}

fn timed(rows: &RecordBatch, times: impl Iterator<Item = i64>) -> RecordBatch {
    let mut columns = rows.columns().to_vec();
    columns[millstream_engine::batch::TIME] = Arc::new(TimestampMillisecondArray::from_iter_values(times));
    RecordBatch::try_new(rows.schema(), columns).expect("the same columns")
}

fn config(label: &Value) -> Value {
    let mut label = label.clone();
    let given = label.as_object_mut().expect("an object");
    for (key, value) in [("from", json!("clicks")), ("column", json!("clicked")), ("by", json!(["id"]))] {
        given.entry(key).or_insert(value);
    }
    json!({"label": label, "features": ["x"], "learner": "logistic_regression"})
}

fn planned(label: &Value) -> Result<Step, Vec<Problem>> {
    let streams = BTreeMap::from([("clicks".to_owned(), told(&[]).schema())]);
    crate::training::plan(&config(label), &StepInput { schema: &asked(&[]).schema(), streams: &streams })
}

fn fold(label: &Value) -> Box<dyn Fold> {
    let step = planned(label).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(step.others, ["clicks"]);
    let Power::Fold(folding) = step.power else { panic!("a model is a fold") };
    (folding.make)()
}

#[test]
fn a_row_is_predicted_when_it_comes_and_learned_when_its_label_comes() {
    let mut fold = fold(&json!({"within_seconds": 10}));
    let (output, rejected) = learn(&mut *fold, &asked(&[(0, "a", 1.0), (1, "b", 2.0), (2, "a", 3.0)]));
    assert_eq!((output.num_rows(), rejected.len(), fold.examples()), (3, 0, 0));
    assert_eq!(value(&fold.measures(), "model", "waiting"), 3.0);
    let mut rejects = Rejects::default();
    let labels = told(&[(500, "a", true), (600, "c", true), (61_000, "b", false)]);
    let output = fold.learn(1, &labels, &mut rejects).expect("learned");
    assert_eq!(output.num_rows(), 0);
    // The label of `a` found two rows; `c` nobody asked for, and `b` had waited long enough.
    let reasons: Vec<usize> = rejects.take().iter().map(|(row, _)| *row).collect();
    assert_eq!((reasons, fold.examples()), (vec![1, 2], 2));
    let measures = fold.measures();
    assert_eq!(value(&measures, "model", "waiting"), 0.0);
    assert_eq!(value(&measures, "model", "unlabelled"), 1.0);
    // Both were predicted before anything was learned.
    let loss = measures.iter().find(|m| m.name == "log_loss" && m.who == "model" && m.over == "label after=1 m");
    assert!((loss.expect("by delay").value - 2_f64.ln()).abs() < 1e-12);
}

#[test]
fn what_no_label_comes_for_may_have_one_by_default() {
    let mut fold = fold(&json!({"within_seconds": 10, "otherwise": false}));
    learn(&mut *fold, &asked(&[(0, "a", 1.0), (5000, "b", 2.0)]));
    assert_eq!(fold.examples(), 0);
    learn(&mut *fold, &asked(&[(10_001, "c", 1.0)]));
    assert_eq!(fold.examples(), 1, "`a` was not clicked in ten seconds");
    let mut crowded = fold_of(2);
    learn(&mut *crowded, &asked(&[(0, "a", 1.0), (0, "b", 1.0), (0, "c", 1.0), (0, "d", 1.0)]));
    assert_eq!(value(&crowded.measures(), "model", "waiting"), 3.0, "the last one is looked at with the next row");
    assert_eq!(crowded.examples(), 1);
}

fn fold_of(waiting_max: usize) -> Box<dyn Fold> {
    fold(&json!({"within_seconds": 10, "otherwise": false, "waiting_max": waiting_max}))
}

#[test]
fn cuts_and_restarts_do_not_matter() {
    let mut random = Random::seeded(21);
    // Rows and labels, in the canonical order of both.
    let mut all: Vec<(i64, String, f64, bool, usize)> = Vec::new();
    for number in 0..600_i64 {
        let (at, x) = (number * 100, random.signed());
        all.push((at, format!("id{number}"), x, x > 0.0, 0));
        if random.uniform() < 0.9 {
            all.push((at + 1 + random.below(14_000) as i64, format!("id{number}"), x, x > 0.0, 1));
        }
    }
    all.sort_by_key(|row| (row.0, row.4));
    let label = json!({"within_seconds": 10, "otherwise": false, "waiting_max": 80});
    let run = |mut cut: Box<dyn FnMut() -> bool>| {
        let mut fold = fold(&label);
        let mut outputs = Vec::new();
        for part in all.chunk_by(|a, b| a.4 == b.4 && !cut()) {
            let rows = if part[0].4 == 0 {
                asked(&part.iter().map(|row| (row.0, row.1.as_str(), row.2)).collect::<Vec<_>>())
            } else {
                told(&part.iter().map(|row| (row.0, row.1.as_str(), row.3)).collect::<Vec<_>>())
            };
            let output = fold.learn(part[0].4, &rows, &mut Rejects::default()).expect("learned");
            let predicted = output.column_by_name("predicted").expect("a prediction").as_primitive::<Float64Type>();
            outputs.extend(predicted.values().iter().map(|p| p.to_bits()));
            let mut restarted = super::later::fold(&label);
            restarted.restore(&fold.snapshot()).expect("its own state");
            assert_eq!(restarted.digest(), fold.digest());
            fold = restarted;
        }
        assert!(value(&fold.measures(), "model", "accuracy") > 0.7, "{:?}", fold.measures());
        (fold.snapshot(), fold.digest(), outputs)
    };
    let whole = run(Box::new(|| false));
    for seed in 0..3 {
        let mut random = Random::seeded(seed);
        assert!(run(Box::new(move || random.below(3) == 0)) == whole);
    }
}

#[test]
fn problems_are_found_all_at_once() {
    let case = |label: Value, want: &[(&str, &str)]| {
        let problems = planned(&label).err().expect("problems");
        let found: Vec<_> = problems.iter().map(|problem| (problem.path.join("."), problem.code)).collect();
        let found: Vec<_> = found.iter().map(|(path, code)| (path.as_str(), *code)).collect();
        assert_eq!(found, want, "{problems:?}");
    };
    case(
        json!({"from": "klicks", "within_seconds": 0, "by": ["jd"]}),
        &[("label.from", "unknown-input"), ("label.by.0", "unknown-column"), ("label.within_seconds", "out-of-range")],
    );
    case(
        json!({"within_seconds": 5, "waiting_max": 0, "otherwise": "maybe", "column": "click"}),
        &[("label.column", "unknown-column"), ("label.waiting_max", "out-of-range"), ("label.otherwise", "label-type")],
    );
}
