//! How fast examples are learned, beside the shortest loop that learns at all. Run with `--ignored --nocapture`
//! and optimisations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Float64Array, RecordBatch, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use millstream_engine::batch::schema_of;
use millstream_engine::catalogue::StepInput;
use millstream_engine::operator::{Power, Rejects};
use millstream_engine::time::Stopwatch;
use serde_json::{Value, json};

use crate::models::samples::Random;
use crate::models::{Example, Matrix, Shape, plan};

const DENSE: usize = 20;
const BUCKETS: u32 = 512;
const SHAPE: Shape = Shape { dense: DENSE, active: 3, categories: 3 * BUCKETS as usize, classes: 2 };
const ROWS: usize = 8192;
const ROUNDS: usize = 60;

struct Data {
    dense: Vec<Vec<f64>>,
    codes: Vec<Vec<u32>>,
    labels: Vec<f64>,
}

fn data() -> Data {
    let mut random = Random::seeded(1);
    let dense: Vec<Vec<f64>> = (0..DENSE).map(|_| (0..ROWS).map(|_| random.normal()).collect()).collect();
    let codes = (0..3).map(|_| (0..ROWS).map(|_| random.below(BUCKETS as usize) as u32).collect()).collect();
    let labels = (0..ROWS).map(|row| random.flip(1.0 / (1.0 + (-dense[0][row]).exp()))).collect();
    Data { dense, codes, labels }
}

fn report(what: &str, mut round: impl FnMut()) {
    round();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let watch = Stopwatch::start();
        (0..ROUNDS).for_each(|_| round());
        best = best.min(watch.seconds() / (ROUNDS * ROWS) as f64);
    }
    println!("{what:<34} {:>6.2} M examples/s {:>6.0} ns each", 1e-6 / best, 1e9 * best);
}

/// One flat loop over a ready matrix: no scales, no evaluation, no columns.
fn minimal(matrix: &[f64], codes: &[u32], labels: &[f64], adagrad: bool) -> impl FnMut() {
    let coordinates = DENSE + 1 + SHAPE.categories;
    let (mut weights, mut a, mut b) =
        (vec![0.0_f64; coordinates], vec![0.0_f64; coordinates], vec![0.0_f64; coordinates]);
    move || {
        for row in 0..ROWS {
            let (x, active) = (&matrix[row * DENSE..][..DENSE], &codes[row * 3..][..3]);
            let mut sum = weights[DENSE];
            for at in 0..DENSE {
                sum += weights[at] * x[at];
            }
            for code in active {
                sum += weights[DENSE + 1 + *code as usize];
            }
            let error = 1.0 / (1.0 + (-sum).exp()) - labels[row];
            let mut step = |at: usize, g: f64| {
                if adagrad {
                    a[at] += g * g;
                    weights[at] -= 0.1 * g / (a[at] + 1e-12).sqrt();
                } else {
                    let root = (b[at] + g * g).sqrt();
                    a[at] += g - (root - b[at].sqrt()) / 0.1 * weights[at];
                    b[at] += g * g;
                    weights[at] = -a[at] / ((1.0 + root) / 0.1);
                }
            };
            (0..DENSE).for_each(|at| step(at, error * x[at]));
            step(DENSE, error);
            for code in active {
                step(DENSE + 1 + *code as usize, error);
            }
        }
    }
}

fn batch(data: &Data) -> RecordBatch {
    let mut fields: Vec<Field> = (0..DENSE).map(|at| Field::new(format!("x{at}"), DataType::Float64, true)).collect();
    let metadata = HashMap::from([("categories".to_owned(), BUCKETS.to_string())]);
    fields
        .extend((0..3).map(|at| Field::new(format!("c{at}"), DataType::UInt32, true).with_metadata(metadata.clone())));
    fields.push(Field::new("label", DataType::Boolean, true));
    let zeros: ArrayRef = Arc::new(UInt32Array::from(vec![0; ROWS]));
    let none: ArrayRef = Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; ROWS]));
    let mut columns = vec![
        zeros.clone(),
        zeros.clone(),
        Arc::new(UInt64Array::from_iter_values(0..ROWS as u64)) as ArrayRef,
        zeros,
        Arc::new(TimestampMillisecondArray::from(vec![0; ROWS])),
        none.clone(),
        none,
    ];
    columns.extend(data.dense.iter().map(|column| Arc::new(Float64Array::from(column.clone())) as ArrayRef));
    columns.extend(data.codes.iter().map(|column| Arc::new(UInt32Array::from(column.clone())) as ArrayRef));
    columns.push(Arc::new(data.labels.iter().map(|label| Some(*label > 0.5)).collect::<BooleanArray>()));
    RecordBatch::try_new(schema_of(&Schema::new(fields)), columns).expect("columns of the schema")
}

fn through_the_fold(learner: &Value, rows: &RecordBatch, what: &str) {
    let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let features = &names[7..names.len() - 1];
    let config = json!({"label": "label", "features": features, "learner": learner});
    let step = super::plan(&config, &StepInput { schema: &rows.schema(), streams: &BTreeMap::new() }).expect("valid");
    let Power::Fold(folding) = step.power else { panic!("a model is a fold") };
    let mut fold = (folding.make)();
    report(&format!("{what}, whole operator"), || {
        fold.learn(0, rows, &mut Rejects::default()).expect("learned");
    });
    let revision = fold.revision();
    report(&format!("{what}, answering"), || {
        assert_eq!(revision.answer(rows, &mut Rejects::default()).expect("answered").column(0).len(), ROWS);
    });
}

#[test]
#[ignore = "measures time"]
fn examples_per_second() {
    let data = data();
    let mut matrix = Matrix::new(SHAPE);
    matrix.resize(ROWS);
    data.dense.iter().enumerate().for_each(|(at, column)| matrix.set_dense(at, column.iter().copied()));
    for (at, column) in data.codes.iter().enumerate() {
        matrix.set_active(at, column.iter().map(|code| code + at as u32 * BUCKETS));
    }
    let flat: Vec<f64> = (0..ROWS).flat_map(|row| matrix.row(row).dense.to_vec()).collect();
    let codes: Vec<u32> = (0..ROWS).flat_map(|row| matrix.row(row).active.to_vec()).collect();
    let rows = batch(&data);
    let examples: Vec<Example> = data.labels.iter().map(|label| Example::of(*label)).collect();
    for update in ["adagrad", "ftrl"] {
        report(&format!("{update}, minimal loop"), minimal(&flat, &codes, &data.labels, update == "adagrad"));
        let learner = json!({"logistic_regression": {"update": update}});
        let mut model = (plan(&learner).expect("valid").make)(SHAPE);
        let mut outputs = Vec::new();
        report(&format!("{update}, model"), || model.learn(&matrix, &examples, &mut outputs));
        through_the_fold(&learner, &rows, update);
    }
}
