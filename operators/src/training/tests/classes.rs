//! Labels of several classes, weights, actions, crosses, slices, and streams that take rows back.

use super::*;

/// Rows of a stream at times 0, 1, …
pub(super) fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let len = columns[0].1.len();
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let none: ArrayRef = Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; len]));
    let zeros: ArrayRef = Arc::new(UInt32Array::from(vec![0; len]));
    let meta = vec![
        zeros.clone(),
        zeros.clone(),
        Arc::new(UInt64Array::from_iter_values(0..len as u64)) as ArrayRef,
        zeros,
        Arc::new(TimestampMillisecondArray::from_iter_values(0..len as i64)),
        none.clone(),
        none,
    ];
    let all = meta.into_iter().chain(columns.into_iter().map(|(_, column)| column)).collect();
    RecordBatch::try_new(schema_of(&Schema::new(fields)), all).expect("columns of the schema")
}

pub(super) fn plan_on(rows: &RecordBatch, config: &Value) -> Result<Step, Vec<Problem>> {
    crate::training::plan(config, &StepInput { schema: &rows.schema(), streams: &BTreeMap::new() })
}

pub(super) fn fold_on(rows: &RecordBatch, config: &Value) -> Box<dyn Fold> {
    let planned = plan_on(rows, config).unwrap_or_else(|problems| panic!("{config}: {problems:?}"));
    let Power::Fold(folding) = planned.power else { panic!("a model is a fold") };
    (folding.make)()
}

fn codes(values: Vec<u32>, categories: u32) -> (Field, ArrayRef) {
    let metadata = HashMap::from([("categories".to_owned(), categories.to_string())]);
    (Field::new("", DataType::UInt32, true).with_metadata(metadata), Arc::new(UInt32Array::from(values)))
}

/// Gives some columns of a table categories.
fn with_categories(rows: &RecordBatch, names: &[&str], categories: u32) -> RecordBatch {
    let field = |field: &Arc<Field>| {
        let like = codes(Vec::new(), categories).0.with_name(field.name());
        if names.contains(&field.name().as_str()) { Arc::new(like) } else { field.clone() }
    };
    let fields: Vec<_> = rows.schema().fields().iter().map(field).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), rows.columns().to_vec()).expect("the same columns")
}

#[test]
fn two_named_classes_are_told_by_name() {
    let rows = table(vec![
        ("x", Arc::new(Float64Array::from_iter_values((0..400).map(|row| f64::from(row % 20))))),
        (
            "kind",
            Arc::new(StringArray::from_iter_values((0..400).map(|row| if row % 20 > 9 { "good" } else { "bad" }))),
        ),
    ]);
    let config =
        json!({"label": "kind", "classes": ["bad", "good"], "features": ["x"], "learner": "logistic_regression"});
    let mut fold = fold_on(&rows, &config);
    let (output, rejected) = learn(&mut *fold, &rows);
    assert!(rejected.is_empty());
    assert_eq!(output.column_by_name("predicted_class").expect("a class").data_type(), &DataType::Utf8);
    assert!(value(&fold.measures(), "model", "accuracy") > 0.85, "{:?}", fold.measures());
    let answer = fold.revision().answer(&rows.slice(19, 1), &mut Rejects::default()).expect("an answer");
    assert_eq!(answer.column_by_name("prediction").expect("a class").as_string::<i32>().value(0), "good");
    let unknown = table(vec![
        ("x", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
        ("kind", Arc::new(StringArray::from(vec![Some("ugly"), None]))),
    ]);
    let (_, rejected) = learn(&mut *fold, &unknown);
    assert_eq!(rejected[0].1, "label `kind` is `ugly`, which is not listed");
    assert_eq!(rejected[1].1, "label `kind` is null: nothing to learn from");
}

#[test]
fn crosses_tell_what_only_two_together_say() {
    let mut random = Random::seeded(8);
    let (a, b): (Vec<u32>, Vec<u32>) = (0..4000).map(|_| (random.below(4) as u32, random.below(4) as u32)).unzip();
    let label: Vec<bool> = a.iter().zip(&b).map(|(a, b)| (a + b) % 2 == 0).collect();
    let rows = table(vec![("a", codes(a, 4).1), ("b", codes(b, 4).1), ("even", Arc::new(BooleanArray::from(label)))]);
    let rows = with_categories(&rows, &["a", "b"], 4);
    let accuracy = |features: Value| {
        let config = json!({"label": "even", "features": features, "learner": "logistic_regression"});
        let mut fold = fold_on(&rows, &config);
        learn(&mut *fold, &rows);
        value(&fold.measures(), "model", "accuracy")
    };
    assert!(accuracy(json!(["a", "b"])) < 0.6);
    assert!(accuracy(json!(["a", "b", {"cross": ["a", "b"], "buckets": 64}])) > 0.95);
    let config = json!({"label": "even", "features": [{"cross": ["a"], "buckets": 0}, {"cross": ["a", "even"], "buckets": 9}],
        "learner": "logistic_regression"});
    let problems = plan_on(&rows, &config).err().expect("problems");
    let found: Vec<_> = problems.iter().map(|problem| (problem.path.join("."), problem.code)).collect();
    let found: Vec<_> = found.iter().map(|(path, code)| (path.as_str(), *code)).collect();
    let wanted = [
        ("features.0.cross", "out-of-range"),
        ("features.0.buckets", "out-of-range"),
        ("features.1.cross.1", "not-a-category"),
        ("features.1", "label-among-features"),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn what_counts_nothing_is_predicted_and_teaches_nothing() {
    let rows = |weights: Vec<f64>| {
        table(vec![
            ("x", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef),
            ("y", Arc::new(BooleanArray::from(vec![true, false, true]))),
            ("w", Arc::new(Float64Array::from(weights))),
        ])
    };
    let config = json!({"label": "y", "features": ["x"], "weight": "w", "learner": "logistic_regression"});
    let mut fold = fold_on(&rows(vec![1.0; 3]), &config);
    let weights = |fold: &dyn Fold| fold.revision().artefacts().expect("artefacts").pop().expect("weights");
    let before = weights(&*fold);
    let (output, rejected) = learn(&mut *fold, &rows(vec![0.0, -1.0, 0.0]));
    assert_eq!((output.num_rows(), rejected[0].1.as_str()), (2, "weight `w` is -1, wanted 0 or more"));
    assert!(weights(&*fold) == before, "weights moved");
    learn(&mut *fold, &rows(vec![1.0, 1.0, 2.0]));
    assert!(weights(&*fold) != before, "weights did not move");
}

#[test]
fn slices_and_windows_are_measured() {
    let rows = table(vec![
        ("x", Arc::new(Float64Array::from_iter_values((0..100).map(f64::from))) as ArrayRef),
        ("y", Arc::new(BooleanArray::from((0..100).map(|row| row % 2 == 0).collect::<Vec<_>>()))),
        ("who", Arc::new((0..100).map(|row| (row % 3 > 0).then_some(["a", "b"][row % 2])).collect::<StringArray>())),
    ]);
    let config = json!({"label": "y", "features": ["x"], "learner": "logistic_regression",
        "evaluate": {"window": 10, "by": ["who"]}});
    let mut fold = fold_on(&rows, &config);
    learn(&mut *fold, &rows);
    let measures = fold.measures();
    let overs: std::collections::BTreeSet<&str> =
        measures.iter().filter(|measure| measure.name == "accuracy").map(|measure| &*measure.over).collect();
    assert_eq!(overs.into_iter().collect::<Vec<_>>(), ["all", "faded", "last 10", "who=a", "who=b", "who=null"]);
    let config = json!({"label": "y", "features": ["x"], "learner": "logistic_regression",
        "evaluate": {"window": 10_000_000, "fading": 1.0, "by": ["x", "whom"]}});
    let problems = plan_on(&rows, &config).err().expect("problems");
    let codes: Vec<&str> = problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["out-of-range", "out-of-range", "slice-type", "unknown-column"]);
}
