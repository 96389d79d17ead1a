//! Answers that say what their features add.

use std::collections::BTreeMap;

use arrow::array::Array;
use millstream_engine::operator::Answer;

use super::*;
use crate::inference::BECAUSE;

fn explained(config: &Value, most: u32) -> Value {
    let mut config = config.clone();
    config["explain"] = json!(most);
    config
}

fn answers(revision: &dyn Answer, rows: &RecordBatch) -> RecordBatch {
    revision.answer(rows, &mut Rejects::default()).expect("it answers")
}

fn reasons(answers: &RecordBatch, row: usize) -> BTreeMap<String, f64> {
    let entries = answers.column_by_name(BECAUSE).expect("they are explained").as_map().value(row);
    let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_primitive::<Float64Type>());
    (0..entries.len()).map(|at| (names.value(at).to_owned(), values.value(at))).collect()
}

/// Rows that can all be used, of which the carrier 2 is usual.
fn usable(random: &mut Random, len: usize) -> RecordBatch {
    let far: Vec<f64> = (0..len).map(|_| random.normal()).collect();
    let carrier: Vec<u32> = (0..len).map(|at| if at % 3 == 0 { random.below(4) as u32 } else { 2 }).collect();
    let delay = far.iter().zip(&carrier).map(|(far, who)| 600.0 * far - 100.0 * f64::from(*who) + random.normal());
    let delay: Vec<f64> = delay.collect();
    let late = delay.iter().map(|delay| Some(*delay > -150.0)).collect();
    let (hour, wet) = (vec![3; len], vec![true; len]);
    rows(far.into_iter().map(|far| Some(4e5 + 1e5 * far)).collect(), hour, wet, carrier, late, delay)
}

#[test]
fn of_sums_reasons_are_the_terms() {
    let learner = json!({"label": "delay", "features": ["carrier", "distance"], "learner": "linear_regression"});
    let taught = usable(&mut Random::seeded(3), 3_000);
    let mut fold = fold(&explained(&learner, 2));
    learn(&mut *fold, &taught);
    let revision = fold.revision();
    let mean = taught.column_by_name("distance").expect("a column").as_primitive::<Float64Type>();
    let mean = mean.iter().flatten().sum::<f64>() / taught.num_rows() as f64;
    let usual = rows(vec![Some(mean)], vec![3], vec![true], vec![2], vec![None], vec![0.0]);
    let number = |answers: &RecordBatch, row| answers.column(0).as_primitive::<Float64Type>().value(row);
    let base = number(&answers(&*revision, &usual), 0);
    let asked = usable(&mut Random::seeded(4), 50);
    let found = answers(&*revision, &asked);
    for row in 0..50 {
        let reasons = reasons(&found, row);
        assert_eq!(reasons.keys().collect::<Vec<_>>(), ["carrier", "distance"]);
        let sum = base + reasons.values().sum::<f64>();
        assert!((sum - number(&found, row)).abs() < 1e-6 * number(&found, row).abs().max(1.0), "{row}: {reasons:?}");
    }
}

#[test]
fn reasons_change_nothing_else_and_go_on_after_a_restart() {
    let forest = classifier(&json!({"adaptive_random_forest": {"trees": 3}}));
    let network = classifier(&json!("neural_network"));
    for config in learners().into_iter().chain([forest, network]) {
        let (rows, asked) = (usable(&mut Random::seeded(5), 800), usable(&mut Random::seeded(6), 30));
        let (mut plain, mut told) = (fold(&config), fold(&explained(&config, 1)));
        [&mut plain, &mut told].into_iter().for_each(|fold| drop(learn(&mut **fold, &rows)));
        let (own, others) = (answers(&*plain.revision(), &asked), answers(&*told.revision(), &asked));
        assert_eq!(own.columns(), &others.columns()[..own.num_columns()], "{config}");
        let matters = (0..30).map(|row| reasons(&others, row)).filter(|reasons| {
            assert_eq!(reasons.len(), 1, "only the first");
            reasons.contains_key("distance")
        });
        assert!(matters.count() > 15, "{config}: it matters most");
        let mut again = fold(&explained(&config, 1));
        again.restore(&told.snapshot()).expect("it is its own");
        assert_eq!(answers(&*again.revision(), &asked), others, "{config}");
        assert!(plain.restore(&told.snapshot()).is_err() && again.restore(&fold(&config).snapshot()).is_err());
    }
}

#[test]
fn what_says_no_single_number_is_not_explained() {
    let groups = json!({"features": ["distance"], "learner": "k_means", "explain": 1});
    let problems = planned(&groups).err().expect("refused");
    assert_eq!((problems[0].path.join("."), problems[0].code), ("explain".to_owned(), "bad-value"));
}
