//! What the simulated pipeline has to give, reckoned by plain loops over whole topics: no epochs, no workers, no state that
//! is ever stored.
//!
//! Of the program's own code it uses the arithmetic of the model, one example after the other, and what digests a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
};
use millstream_engine::digest;
use millstream_engine::operator::{Fold, Power, Rejects};
use millstream_operators::models::{self, Example, Matrix, Predictor, Shape};
use millstream_pipelines::plan::{Input, Pipeline};
use serde_json::{Value, json};

use super::input::{LATENESS_MS, PARTITIONS, WITHIN_MS};
use crate::Record;

/// A place in the total order: event time, partition, offset.
pub type Place = (i64, u32, u64);

/// A record that was read as what it says.
#[derive(Clone, Debug)]
pub struct Row {
    pub place: Place,
    pub sensor: Option<String>,
    pub x: Option<f64>,
    pub seen: i64,
    pub y: Option<f64>,
}

/// A dead letter: source, partition, offset, step, raw bytes.
pub type Letter = (String, u32, u64, String, Vec<u8>);

/// Each sensor's last `x`, the model, and its digest.
type Revision = (BTreeMap<String, f64>, Arc<dyn Predictor>, String);

/// All that the records give.
pub struct Oracle {
    /// By partition: the offset of each record, and the event time if it moved its partition's newest one.
    times: Vec<Vec<(u64, Option<i64>)>>,
    /// Where the examples are in the total order.
    places: Vec<Place>,
    /// What there is after so many examples.
    revisions: Vec<Revision>,
    /// The sink's rows, in order.
    pub rows: Vec<Value>,
    /// The dead letters.
    pub dead: BTreeSet<Letter>,
}

const SHAPE: Shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };

/// What a record says, if it can be read at all; without an event time, it has no place.
fn parse(record: &Record) -> Option<(Option<i64>, Row)> {
    let value: Value = serde_json::from_slice(&record.value).ok()?;
    let at = value["at"].as_i64();
    let row = Row {
        place: (at.unwrap_or_default(), record.partition, record.offset),
        sensor: value["sensor"].as_str().map(str::to_owned),
        x: value["x"].as_f64(),
        seen: value["seen"].as_i64()?,
        y: value["y"].as_f64(),
    };
    Some((at, row))
}

fn letter(source: &str, record: &Record, step: &str) -> Letter {
    (source.to_owned(), record.partition, record.offset, step.to_owned(), record.value.clone())
}

impl Oracle {
    /// From all records of the topic.
    pub fn new(pipeline: &Pipeline, readings: &[Record]) -> Self {
        let mut dead = BTreeSet::new();
        let mut times = vec![Vec::new(); PARTITIONS as usize];
        let mut newest = vec![i64::MIN; PARTITIONS as usize];
        let mut rows = Vec::new();
        for record in readings {
            let newest = &mut newest[record.partition as usize];
            let times = &mut times[record.partition as usize];
            times.push((record.offset, None));
            match parse(record) {
                None => drop(dead.insert(letter("readings", record, "readings"))),
                Some((Some(at), row)) if at >= newest.saturating_sub(LATENESS_MS) => {
                    *newest = at.max(*newest);
                    times.last_mut().expect("it was pushed").1 = Some(*newest);
                    rows.push((row, record));
                }
                Some(_) => drop(dead.insert(letter("readings", record, "readings/order"))),
            }
        }
        rows.sort_by_key(|(row, _)| row.place);
        let mut oracle = Self { times, places: Vec::new(), revisions: Vec::new(), rows: Vec::new(), dead };
        oracle.learn(pipeline, rows);
        oracle
    }

    /// Cleans the rows, and learns from those that are left.
    fn learn(&mut self, pipeline: &Pipeline, rows: Vec<(Row, &Record)>) {
        let design =
            models::plan(&json!("linear_regression")).unwrap_or_else(|_| panic!("its settings are the defaults"));
        let mut learner = (design.make)(SHAPE);
        let mut fold = Folded::new(pipeline);
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        let mut seen: BTreeMap<(String, i64), i64> = BTreeMap::new();
        self.revisions.push((last.clone(), learner.frozen(), fold.digest()));
        for (row, record) in rows {
            let Some(y) = row.y else { continue };
            let Some(sensor) = row.sensor.clone() else {
                self.dead.insert(letter("readings", record, "known/1/require"));
                continue;
            };
            let at = row.place.0;
            if seen.insert((sensor.clone(), row.seen), at).is_some_and(|before| at - before <= WITHIN_MS) {
                continue;
            }
            let x = row.x.or_else(|| last.get(&sensor).copied()).unwrap_or(0.0);
            if let Some(x) = row.x {
                last.insert(sensor.clone(), x);
            }
            let mut predicted = Vec::new();
            learner.learn(&matrix(x, row.seen), &[Example::of(y)], &mut predicted);
            fold.learn(&row, &sensor, x, y);
            self.rows.push(json!({
                "at": millstream_pipelines::run::time(at), "sensor": sensor, "x": x, "seen": row.seen, "y": y,
                "predicted": predicted[0],
            }));
            self.places.push(row.place);
            self.revisions.push((last.clone(), learner.frozen(), fold.digest()));
        }
    }

    /// How many examples there are.
    pub fn examples(&self) -> usize {
        self.places.len()
    }

    /// The digest of the model after so many examples.
    pub fn digest(&self, revision: usize) -> Option<&str> {
        self.revisions.get(revision).map(|(_, _, digest)| digest.as_str())
    }

    /// What a question gets from the model after so many examples: the prediction, or the step that refuses, with whether
    /// that leaves a dead letter.
    pub fn answer(&self, question: &Record, revision: usize) -> Result<f64, &'static str> {
        let (_, row) = parse(question).ok_or("questions")?;
        let sensor = row.sensor.ok_or("known/1/require")?;
        let Some((last, predictor, _)) = self.revisions.get(revision).filter(|_| revision > 0) else {
            return Err("y/answer");
        };
        let x = row.x.or_else(|| last.get(&sensor).copied()).unwrap_or(0.0);
        let mut predictions = Vec::new();
        predictor.predict(&matrix(x, row.seen), &mut predictions);
        Ok(predictions[0])
    }

    /// The event time of a question.
    pub fn asked_at(question: &Record) -> Option<i64> {
        parse(question).and_then(|(at, _)| at)
    }

    /// What is complete once each partition was read up to an offset: the watermark, and how many examples are before it.
    /// `ended` if nothing was waited for any more.
    pub fn complete(&self, offsets: &BTreeMap<String, u64>, ended: bool) -> (Option<i64>, usize) {
        let newest = |partition: u32| {
            let end = offsets.get(&format!("readings/{partition}")).copied().unwrap_or_default();
            let times = self.times[partition as usize].iter().take_while(|(offset, _)| *offset < end);
            times.filter_map(|(_, time)| *time).last()
        };
        if ended {
            return ((0..PARTITIONS).filter_map(newest).max(), self.examples());
        }
        let bounds = (0..PARTITIONS).map(|partition| newest(partition).map(|at| (at - LATENESS_MS, partition, 0)));
        match bounds.collect::<Option<Vec<Place>>>().and_then(|bounds| bounds.into_iter().min()) {
            Some(watermark) => (Some(watermark.0), self.places.iter().filter(|place| **place < watermark).count()),
            None => (None, 0),
        }
    }
}

fn matrix(x: f64, seen: i64) -> Matrix {
    let mut matrix = Matrix::new(SHAPE);
    matrix.resize(1);
    matrix.set_dense(0, [x].into_iter());
    matrix.set_dense(1, [seen as f64].into_iter());
    matrix
}

/// The pipeline's model, for its digest.
struct Folded {
    fold: Box<dyn Fold>,
    schema: arrow::datatypes::SchemaRef,
}

impl Folded {
    fn new(pipeline: &Pipeline) -> Self {
        let node = &pipeline.nodes[pipeline.models[0].node];
        let Power::Fold(folding) = &node.step.power else { panic!("a model is a fold") };
        let Input::Node(_) = node.inputs[0] else { panic!("steps come before the model") };
        Self { fold: (folding.make)(), schema: pipeline.schema(node.inputs[0]).clone() }
    }

    fn learn(&mut self, row: &Row, sensor: &str, x: f64, y: f64) {
        let (at, partition, offset) = row.place;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![0])),
            Arc::new(UInt32Array::from(vec![partition])),
            Arc::new(UInt64Array::from(vec![offset])),
            Arc::new(UInt32Array::from(vec![0])),
            Arc::new(TimestampMillisecondArray::from(vec![at])),
            Arc::new(BinaryViewArray::from(vec![None])),
            Arc::new(BinaryViewArray::from(vec![None])),
            Arc::new(TimestampMillisecondArray::from(vec![at])),
            Arc::new(StringArray::from(vec![sensor])),
            Arc::new(Float64Array::from(vec![x])),
            Arc::new(Int64Array::from(vec![row.seen])),
            Arc::new(Float64Array::from(vec![y])),
        ];
        let rows = RecordBatch::try_new(self.schema.clone(), columns).expect("the columns of the definition");
        let mut rejects = Rejects::default();
        self.fold.learn(0, &rows, &mut rejects).expect("a good row");
        assert!(rejects.is_empty(), "a good row: {:?}", rejects.take());
    }

    fn digest(&self) -> String {
        digest::hex(self.fold.digest())
    }
}
