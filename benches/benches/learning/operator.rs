//! Logistic regression through the whole training operator: from columns of a batch to evaluated predictions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Float64Array, RecordBatch, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_benches::streams::Stream;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{quantile, thread_cpu_seconds};
use millstream_engine::batch::schema_of;
use millstream_engine::catalogue::StepInput;
use millstream_engine::operator::{Fold, Power, Rejects};
use millstream_operators::training;
use serde_json::{Value, json};

use super::streams::of_speed;

const BATCH: usize = 8192;

pub fn run() {
    let mut table =
        Table::new(&["whole training operator", "stream", "rows", "per CPU second", "a loop by hand", "ratio"]);
    for stream in of_speed().iter().filter(|stream| stream.name != "dense30") {
        let batches = batches(stream);
        for (name, learner, is_ftrl) in [
            ("logistic_regression", json!("logistic_regression"), false),
            ("logistic_regression, ftrl", json!({"logistic_regression": {"update": "ftrl"}}), true),
        ] {
            let rows = stream.len() as f64;
            let (mut whole, mut by_hand) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                whole.push(rows / once(&batches, &learner));
                by_hand.push(rows / by_hand_once(stream, is_ftrl));
            }
            let [whole, by_hand] = [&mut whole, &mut by_hand].map(|speeds| quantile(speeds, 0.5));
            let ratio = format!("{:.2}", whole / by_hand);
            let cells = [name.to_owned(), stream.name.clone(), thousands(rows), thousands(whole), thousands(by_hand)];
            table.row(cells.into_iter().chain([ratio]));
        }
    }
    table.print("Examples per CPU second, with evaluation, one thread, medians of 5 in turns");
}

/// CPU seconds of one flat loop over rows that lie ready: no columns, no scales, no evaluation.
fn by_hand_once(stream: &Stream, is_ftrl: bool) -> f64 {
    let (dense, len) = (stream.dense.len(), stream.len());
    let matrix: Vec<f64> = (0..len).flat_map(|row| stream.dense.iter().map(move |column| column[row])).collect();
    let mut first = dense as u32 + 1;
    let mut firsts = Vec::new();
    for (_, count) in &stream.categories {
        firsts.push(first);
        first += count;
    }
    let columns = || stream.categories.iter().zip(&firsts);
    let active: Vec<u32> =
        (0..len).flat_map(|row| columns().map(move |((column, _), first)| column[row] + first)).collect();
    let labels: Vec<f64> = stream.classes.iter().map(|class| f64::from(*class)).collect();
    let mut weights = vec![0.0_f64; first as usize];
    let (mut a, mut b) = (weights.clone(), weights.clone());
    let start = thread_cpu_seconds();
    for row in 0..len {
        let x = &matrix[row * dense..][..dense];
        let active = &active[row * firsts.len()..][..firsts.len()];
        let mut sum = weights[dense];
        for at in 0..dense {
            sum += weights[at] * x[at];
        }
        for at in active {
            sum += weights[*at as usize];
        }
        let error = 1.0 / (1.0 + (-sum).exp()) - labels[row];
        let mut step = |at: usize, gradient: f64| {
            if is_ftrl {
                let root = (b[at] + gradient * gradient).sqrt();
                a[at] += gradient - (root - b[at].sqrt()) / 0.1 * weights[at];
                b[at] += gradient * gradient;
                weights[at] = -a[at] / ((1.0 + root) / 0.1);
            } else {
                a[at] += gradient * gradient;
                weights[at] -= 0.1 * gradient / (a[at] + 1e-12).sqrt();
            }
        };
        (0..dense).for_each(|at| step(at, error * x[at]));
        step(dense, error);
        for at in active {
            step(*at as usize, error);
        }
    }
    std::hint::black_box(&weights);
    thread_cpu_seconds() - start
}

fn once(batches: &[RecordBatch], learner: &Value) -> f64 {
    let mut fold = fold(&batches[0].schema(), &json!("label"), learner);
    let start = thread_cpu_seconds();
    for batch in batches {
        fold.learn(0, batch, &mut Rejects::default()).expect("rows of the schema are learned");
    }
    thread_cpu_seconds() - start
}

/// The training operator, with nothing learned; its labels may come later, in the stream `labels`.
pub fn fold(schema: &SchemaRef, label: &Value, learner: &Value) -> Box<dyn Fold> {
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    let features: Vec<&String> = names[7..names.len() - 1].to_vec();
    let config = json!({"label": label, "features": features, "learner": learner});
    let input = StepInput { schema, streams: &BTreeMap::from([("labels".to_owned(), schema.clone())]) };
    let step = training::plan(&config, &input).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Power::Fold(folding) = step.power else { panic!("a model is a fold") };
    (folding.make)()
}

/// A stream's columns.
pub fn batches(stream: &Stream) -> Vec<RecordBatch> {
    let dense = (0..stream.dense.len()).map(|at| Field::new(format!("x{at}"), DataType::Float64, true));
    let categories = stream.categories.iter().enumerate().map(|(at, (_, count))| {
        let metadata = HashMap::from([("categories".to_owned(), count.to_string())]);
        Field::new(format!("c{at}"), DataType::UInt32, true).with_metadata(metadata)
    });
    let label = Field::new("label", DataType::Boolean, true);
    let schema = schema_of(&Schema::new(dense.chain(categories).chain([label]).collect::<Vec<_>>()));
    let batch = |from: usize| {
        let rows = from..stream.len().min(from + BATCH);
        let zeros: ArrayRef = Arc::new(UInt32Array::from(vec![0; rows.len()]));
        let none: ArrayRef = Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; rows.len()]));
        let mut columns: Vec<ArrayRef> = vec![
            zeros.clone(),
            zeros.clone(),
            Arc::new(UInt64Array::from_iter_values(rows.clone().map(|row| row as u64))),
            zeros,
            Arc::new(TimestampMillisecondArray::from(vec![0; rows.len()])),
            none.clone(),
            none,
        ];
        columns.extend(
            stream
                .dense
                .iter()
                .map(|column| -> ArrayRef { Arc::new(Float64Array::from(column[rows.clone()].to_vec())) }),
        );
        columns.extend(
            stream
                .categories
                .iter()
                .map(|(column, _)| -> ArrayRef { Arc::new(UInt32Array::from(column[rows.clone()].to_vec())) }),
        );
        columns.push(Arc::new(stream.classes[rows].iter().map(|class| Some(*class == 1)).collect::<BooleanArray>()));
        RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
    };
    (0..stream.len()).step_by(BATCH).map(batch).collect()
}
