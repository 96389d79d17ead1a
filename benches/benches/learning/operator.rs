//! Logistic regression through the whole training operator: from columns of a batch to evaluated predictions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Float64Array, RecordBatch, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use millstream_benches::streams::Stream;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile};
use millstream_engine::batch::schema_of;
use millstream_engine::catalogue::StepInput;
use millstream_engine::operator::{Power, Rejects};
use millstream_operators::training;
use serde_json::{Value, json};

use super::streams::of_speed;

const BATCH: usize = 8192;

pub fn run() {
    let mut table = Table::new(&["whole training operator", "stream", "rows", "per CPU second"]);
    for stream in of_speed().iter().filter(|stream| stream.name != "dense30") {
        let batches = batches(stream);
        for (name, learner) in [
            ("logistic_regression", json!("logistic_regression")),
            ("logistic_regression, ftrl", json!({"logistic_regression": {"update": "ftrl"}})),
        ] {
            let mut speeds: Vec<f64> = (0..3).map(|_| stream.len() as f64 / once(&batches, &learner)).collect();
            let cells = [name.to_owned(), stream.name.clone(), thousands(stream.len() as f64)];
            table.row(cells.into_iter().chain([thousands(quantile(&mut speeds, 0.5))]));
        }
    }
    table.print("Examples per CPU second, with evaluation, one thread, median of 3");
}

fn once(batches: &[RecordBatch], learner: &Value) -> f64 {
    let schema = batches[0].schema();
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    let features: Vec<&String> = names[7..names.len() - 1].to_vec();
    let config = json!({"label": "label", "features": features, "learner": learner});
    let input = StepInput { schema: &schema, streams: &BTreeMap::new() };
    let step = training::plan(&config, &input).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Power::Fold(folding) = step.power else { panic!("a model is a fold") };
    let mut fold = (folding.make)();
    let start = cpu_seconds();
    for batch in batches {
        fold.learn(0, batch, &mut Rejects::default()).expect("rows of the schema are learned");
    }
    (cpu_seconds() - start).max(0.01)
}

fn batches(stream: &Stream) -> Vec<RecordBatch> {
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
