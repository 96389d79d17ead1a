//! The operator as a whole, on seeded streams.

mod begun;
mod classes;
mod explained;
mod guards;
mod later;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch::{META, schema_of};
use millstream_engine::catalogue::{Problem, StepInput};
use millstream_engine::operator::{Fold, Measure, Power, Rejects, Step};
use serde_json::{Value, json};

use crate::inference::{ONNX, WEIGHTS};
use crate::models::samples::Random;
use crate::registry::DESCRIPTION;

/// Numbers at home in three units, a flag, a category, a text, a time, and the labels.
fn schema() -> SchemaRef {
    let field = |name: &str, kind| Field::new(name, kind, true);
    let codes = HashMap::from([("categories".to_owned(), "4".to_owned())]);
    schema_of(&Schema::new(vec![
        field("distance", DataType::Float64),
        field("hour", DataType::Int64),
        field("wet", DataType::Boolean),
        field("carrier", DataType::UInt32).with_metadata(codes),
        field("note", DataType::Utf8),
        field("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
        field("late", DataType::Boolean),
        field("delay", DataType::Float64),
    ]))
}

fn rows(
    distance: Vec<Option<f64>>,
    hour: Vec<i64>,
    wet: Vec<bool>,
    carrier: Vec<u32>,
    late: Vec<Option<bool>>,
    delay: Vec<f64>,
) -> RecordBatch {
    let len = distance.len();
    let column = |column: ArrayRef| column;
    let columns = vec![
        column(Arc::new(UInt32Array::from(vec![0; len]))),
        column(Arc::new(UInt32Array::from(vec![0; len]))),
        column(Arc::new(UInt64Array::from_iter_values(0..len as u64))),
        column(Arc::new(UInt32Array::from(vec![0; len]))),
        column(Arc::new(TimestampMillisecondArray::from_iter_values(0..len as i64))),
        column(Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; len]))),
        column(Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; len]))),
        column(Arc::new(Float64Array::from(distance))),
        column(Arc::new(Int64Array::from(hour))),
        column(Arc::new(BooleanArray::from(wet))),
        column(Arc::new(UInt32Array::from(carrier))),
        column(Arc::new(StringArray::from(vec![None::<&str>; len]))),
        column(Arc::new(TimestampMillisecondArray::from(vec![0; len]))),
        column(Arc::new(BooleanArray::from(late))),
        column(Arc::new(Float64Array::from(delay))),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

/// A stream where distance, rain and carrier decide; some rows are not usable.
fn stream(random: &mut Random, len: usize) -> RecordBatch {
    let (mut distance, mut late, mut delay) = (Vec::new(), Vec::new(), Vec::new());
    let (mut hour, mut wet, mut carrier) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..len {
        let (far, when, rain, who) = (random.normal(), random.below(24), random.below(2), random.below(4));
        let sum = 1.5 * far + 1.2 * rain as f64 - [1.0, 0.0, 2.0, 1.0][who];
        distance.push(match random.below(50) {
            0 => None,
            1 => Some(f64::NAN),
            _ => Some(4e5 + 1e5 * far),
        });
        hour.push(when as i64);
        wet.push(rain == 1);
        carrier.push(if random.below(100) == 0 { 9 } else { who as u32 });
        late.push((random.below(60) > 0).then(|| random.flip(1.0 / (1.0 + (-sum).exp())) > 0.5));
        delay.push(600.0 * sum + 60.0 * random.normal());
    }
    rows(distance, hour, wet, carrier, late, delay)
}

fn classifier(learner: &Value) -> Value {
    json!({"label": "late", "features": ["distance", "hour", "wet", "carrier"], "learner": learner})
}

fn regression() -> Value {
    json!({"label": "delay", "features": ["wet", "carrier", "distance"], "learner": "linear_regression"})
}

fn learners() -> Vec<Value> {
    let logistic = ["sgd", "adagrad", "ftrl"].map(|update| json!({"logistic_regression": {"update": update}}));
    logistic.iter().map(classifier).chain([regression()]).collect()
}

fn planned(config: &Value) -> Result<Step, Vec<Problem>> {
    super::plan(config, &StepInput { schema: &schema(), streams: &BTreeMap::new() })
}

fn fold(config: &Value) -> Box<dyn Fold> {
    let Power::Fold(folding) = planned(config).expect("a valid configuration").power else {
        panic!("a model is a fold")
    };
    (folding.make)()
}

fn learn(fold: &mut dyn Fold, rows: &RecordBatch) -> (RecordBatch, Vec<(usize, String)>) {
    let mut rejects = Rejects::default();
    let output = fold.learn(0, rows, &mut rejects).expect("learning does not fail");
    (output, rejects.take())
}

fn value(measures: &[Measure], who: &str, name: &str) -> f64 {
    measures.iter().find(|m| (m.who, m.name) == (who, name)).unwrap_or_else(|| panic!("no {name} of {who}")).value
}

#[test]
fn models_beat_their_baselines() {
    for config in learners() {
        let rows = stream(&mut Random::seeded(1), 20_000);
        let mut fold = fold(&config);
        let (output, rejected) = learn(&mut *fold, &rows);
        assert_eq!(output.num_rows() + rejected.len(), rows.num_rows());
        assert_eq!(fold.examples(), output.num_rows() as u64);
        let measures = fold.measures();
        println!("{config}: {measures:?}");
        if config["label"] == "late" {
            let model = value(&measures, "model", "log_loss");
            assert!(model < value(&measures, "majority", "log_loss") - 0.1, "{config}: {measures:?}");
            assert!(value(&measures, "model", "kappa") > 0.3, "{config}: {measures:?}");
        } else {
            assert!(value(&measures, "model", "r2") > 0.95, "{config}: {measures:?}");
            assert!(value(&measures, "mean", "r2").abs() < 0.01, "{config}: {measures:?}");
        }
    }
}

#[test]
fn cuts_do_not_matter() {
    for (seed, config) in learners().into_iter().enumerate() {
        let mut random = Random::seeded(seed as u64);
        let rows = stream(&mut random, 3000);
        let mut whole = fold(&config);
        let (output, rejected) = learn(&mut *whole, &rows);
        for _ in 0..4 {
            let mut cut = fold(&config);
            let (mut outputs, mut count, mut at) = (Vec::new(), 0, 0);
            while at < rows.num_rows() {
                let len = (1 + random.below(400)).min(rows.num_rows() - at);
                let (output, rejected) = learn(&mut *cut, &rows.slice(at, len));
                outputs.push(output);
                count += rejected.len();
                at += len;
                if random.below(3) == 0 {
                    // A revision that someone holds, and a restart.
                    let (held, mut restarted) = (cut.revision(), fold(&config));
                    restarted.restore(&cut.snapshot()).expect("its own state");
                    cut = restarted;
                    drop(held);
                }
            }
            assert_eq!(cut.snapshot(), whole.snapshot(), "{config}");
            assert_eq!(cut.digest(), whole.digest(), "{config}");
            assert_eq!(cut.measures(), whole.measures(), "{config}");
            assert_eq!(concat_batches(output.schema_ref(), &outputs).expect("one schema"), output, "{config}");
            assert_eq!(count, rejected.len());
        }
    }
}

#[test]
fn a_request_gets_what_training_would_have_predicted() {
    for config in learners() {
        let rows = stream(&mut Random::seeded(9), 2000);
        let mut fold = fold(&config);
        let (mut at, mut compared) = (0, 0);
        while at < rows.num_rows() {
            let ask = rows.slice(at, 20);
            let mut rejects = Rejects::default();
            let answers = fold.revision().answer(&ask, &mut rejects).expect("answering does not fail");
            let refused = rejects.take();
            // What the fold predicts for a row if it is the very next.
            let mut next = 0;
            for row in 0..20 {
                let mut probe = super::tests::fold(&config);
                probe.restore(&fold.snapshot()).expect("its own state");
                let (output, rejected) = learn(&mut *probe, &ask.slice(row, 1));
                let refusal = refused.iter().find(|(at, _)| *at == row).map(|(_, reason)| reason);
                if refusal.is_none() {
                    next += 1;
                }
                if let [(_, reason)] = rejected.as_slice() {
                    assert!(reason.starts_with("label") != (refusal == Some(reason)), "{reason}, {refusal:?}");
                    continue;
                }
                let name = if config["label"] == "late" { "probability" } else { "prediction" };
                let answers = answers.column_by_name(name).expect("the answer").as_primitive::<Float64Type>();
                let predicted = output.column_by_name("predicted").expect("the prediction");
                let predicted = predicted.as_primitive::<Float64Type>().value(0);
                assert_eq!(answers.value(next - 1).to_bits(), predicted.to_bits(), "{config}, row {}", at + row);
                compared += 1;
            }
            assert_eq!(answers.num_rows(), next);
            learn(&mut *fold, &rows.slice(at, 200));
            at += 200;
        }
        assert!(compared > 150, "{compared}");
    }
}

#[test]
fn unusable_rows_say_why_and_harm_no_others() {
    let rows = rows(
        vec![Some(1.0), None, Some(f64::INFINITY), Some(2.0), Some(3.0)],
        vec![1; 5],
        vec![true; 5],
        vec![0, 1, 2, 7, 3],
        vec![Some(true), Some(true), None, Some(true), None],
        vec![0.0; 5],
    );
    let mut fold = fold(&classifier(&json!("logistic_regression")));
    let (output, rejected) = learn(&mut *fold, &rows);
    let reasons: Vec<(usize, &str)> = rejected.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            (1, "feature `distance` is null: add an `impute` step before the model"),
            (2, "feature `distance` is inf: add a `require` or an `impute` step before the model"),
            (3, "feature `carrier` has code 7, but only 4 categories"),
            (4, "label `late` is null: nothing to learn from"),
        ]
    );
    assert_eq!((output.num_rows(), fold.examples()), (1, 1));
    assert_eq!(output.schema(), planned(&classifier(&json!("logistic_regression"))).expect("valid").schema);
}

#[test]
fn problems_are_found_all_at_once() {
    let case = |config: Value, want: &[(&str, &str)]| {
        let problems = planned(&config).err().expect("problems");
        let found: Vec<_> = problems.iter().map(|problem| (problem.path.join("."), problem.code)).collect();
        let found: Vec<_> = found.iter().map(|(path, code)| (path.as_str(), *code)).collect();
        assert_eq!(found, want, "{config}: {problems:?}");
    };
    let logistic = "logistic_regression";
    case(
        json!({"label": "lat", "features": ["distanse", "hour", "hour", "note", "at", "_offset"], "learner": "tree"}),
        &[
            ("learner", "unknown-model"),
            ("features.0", "unknown-column"),
            ("features.2", "duplicate-feature"),
            ("features.3", "not-a-number"),
            ("features.4", "not-a-number"),
            ("features.5", "engine-column"),
            ("label", "unknown-column"),
        ],
    );
    case(
        json!({"label": "delay", "features": ["delay"], "learner": logistic}),
        &[("features.0", "label-among-features"), ("label", "label-type")],
    );
    case(
        json!({"label": "late", "features": [], "learner": {"linear_regression": {"update": "adam"}}}),
        &[("learner.linear_regression.update", "unknown-update"), ("features", "no-features")],
    );
    case(json!({"label": "late", "features": ["hour"], "learner": "linear_regression"}), &[("label", "label-type")]);
    case(json!({"label": "_time", "features": ["hour"], "learner": logistic}), &[("label", "engine-column")]);
    case(json!({"label": "late", "features": ["hour"], "learner": logistic, "rate": 1}), &[("rate", "bad-value")]);
    let codes = HashMap::from([("categories".to_owned(), "4000000000".to_owned())]);
    let many = Field::new("many", DataType::UInt32, true).with_metadata(codes);
    let many = schema_of(&Schema::new(vec![many, Field::new("late", DataType::Boolean, true)]));
    let config = json!({"label": "late", "features": ["many"], "learner": logistic});
    let problems = super::plan(&config, &StepInput { schema: &many, streams: &BTreeMap::new() }).err();
    assert_eq!(problems.expect("problems")[0].code, "too-many-categories");
    let mut columns = schema().fields()[META..].to_vec();
    columns.push(Arc::new(Field::new("predicted", DataType::Float64, true)));
    let clash = schema_of(&Schema::new(columns));
    let config = classifier(&json!(logistic));
    let problems = super::plan(&config, &StepInput { schema: &clash, streams: &BTreeMap::new() }).err();
    assert_eq!(problems.expect("problems")[0].code, "name-clash");
}

#[test]
fn the_example_is_valid_and_the_schema_names_the_models() {
    let example = json!({"label": "late", "features": ["distance", "hour"],
        "learner": {"logistic_regression": {"update": "ftrl"}}});
    assert!(planned(&example).is_ok());
    let schema = serde_json::to_string(&(super::KIND.schema)()).expect("a schema is JSON");
    for name in [
        "linear_regression",
        "logistic_regression",
        "adagrad",
        "#/$defs/logistic_regression.Ftrl",
        "\"logistic_regression.Ftrl\":",
    ] {
        assert!(schema.contains(name), "{name} is not in {schema}");
    }
}

#[test]
fn states_of_other_models_and_damaged_ones_are_refused() {
    let config = classifier(&json!("logistic_regression"));
    let mut trained = fold(&config);
    learn(&mut *trained, &stream(&mut Random::seeded(2), 100));
    let snapshot = trained.snapshot();
    for other in [regression(), classifier(&json!({"logistic_regression": {"update": "sgd"}}))] {
        let message = fold(&other).restore(&snapshot).expect_err("another model").to_string();
        assert!(message.contains("of another model"), "{message}");
    }
    let mut target = fold(&config);
    let before = target.snapshot();
    assert!(target.restore(&snapshot[..snapshot.len() / 2]).is_err());
    assert_eq!(target.snapshot(), before, "a refused state leaves the fold as it was");
}

#[test]
fn artefacts_can_be_read_and_predict_the_same() {
    let mut fold = fold(&regression());
    let rows = stream(&mut Random::seeded(4), 500);
    learn(&mut *fold, &rows);
    let artefacts: BTreeMap<String, Vec<u8>> = fold.revision().artefacts().expect("written").into_iter().collect();
    let model: Value = serde_json::from_slice(&artefacts[DESCRIPTION]).expect("JSON");
    assert_eq!(model["examples"], fold.examples());
    assert_eq!(model["onnx"], ONNX);
    assert!(artefacts[ONNX].windows(7).any(|name| name == b"carrier"), "an input is named as the column");
    assert_eq!(
        model["features"][1],
        json!({"name": "carrier", "type": "UInt32",
        "category": {"slot": 0, "offset": 0, "categories": 4}})
    );
    let tensors = safetensors::SafeTensors::deserialize(&artefacts[WEIGHTS]).expect("safetensors");
    let tensor = |name: &str| -> Vec<f64> {
        let data = tensors.tensor(name).expect("a tensor").data();
        data.chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect()
    };
    let usable = super::tests::rows(vec![Some(3e5)], vec![0], vec![true], vec![2], vec![None], vec![0.0]);
    let answer = fold.revision().answer(&usable, &mut Rejects::default()).expect("answered");
    let (weights, means, scales) = (tensor("weights"), tensor("means"), tensor("scales"));
    let sum = tensor("bias")[0]
        + weights[0] * (1.0 - means[0]) / scales[0]
        + weights[1] * (3e5 - means[1]) / scales[1]
        + tensor("categories")[2];
    let by_hand = tensor("label_mean")[0] + tensor("label_deviation")[0] * sum;
    assert!((answer.column(0).as_primitive::<Float64Type>().value(0) - by_hand).abs() < 1e-6);
}
