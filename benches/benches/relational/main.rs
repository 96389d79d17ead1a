//! Relational steps beside bare differential-dataflow: updates per second of `aggregate` and `join`, on one thread.
//!
//!     cargo bench -p millstream-benches --bench relational
//!
//! Both get the same updates in memory, in rounds of 16,384, and give each round's changes before the next. Differential has
//! the updates of a round at one time, so it gives what changed over the round; that is less than Millstream gives, which
//! answers each row. So differential is measured also with a time for each update, where it gives as much. What both have given
//! in the end is the same, which is checked.

mod differential;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, Int64Array, RecordBatch, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use millstream_benches::seconds;
use millstream_benches::table::{Table, thousands};
use millstream_engine::batch::{self, META, Origin};
use millstream_engine::catalogue::StepInput;
use millstream_engine::operator::{Power, Rejects};
use millstream_operators::cleansing;
use serde_json::{Value, json};

const RUNS: usize = 5;
const ROUND: usize = 16_384;
const UPDATES: usize = 1_000_000;

/// A change of a collection of (key, value).
#[derive(Clone, Copy, Debug)]
pub struct Update {
    key: i64,
    value: i64,
    diff: i64,
}

/// What stands in the end: how often there is each row.
pub type Standing = HashMap<(i64, i64, i64), i64>;

/// Values of `keys` keys; with `replaces`, each takes back the one before of its key.
fn updates(keys: usize, seed: usize, replaces: bool) -> Vec<Update> {
    let mut last: HashMap<i64, i64> = HashMap::new();
    let mut updates = Vec::with_capacity(UPDATES);
    for at in 0.. {
        if updates.len() + 2 > UPDATES {
            break;
        }
        // A multiplier that is coprime with the number of keys: all come, in no order that a cache likes.
        let key = (at * 7_919 + seed) as i64 % keys as i64;
        let value = (at * 31 + seed) as i64 % 1000;
        if let Some(old) = last.insert(key, value).filter(|_| replaces) {
            updates.push(Update { key, value: old, diff: -1 });
        }
        updates.push(Update { key, value, diff: 1 });
    }
    updates
}

fn schema(value: &str, changes: bool) -> SchemaRef {
    let columns = [Field::new("key", DataType::Int64, true), Field::new(value, DataType::Int64, true)];
    let schema = batch::schema_of(&Schema::new(columns.to_vec()));
    if changes { batch::changing(&schema) } else { schema }
}

/// The updates as batches of a source, one a millisecond.
fn batches(updates: &[Update], schema: &SchemaRef, source: u32) -> Vec<RecordBatch> {
    let batch = |(round, part): (usize, &[Update])| {
        let first = (round * ROUND) as u64;
        let places = first..first + part.len() as u64;
        let column = |value: fn(&Update) -> i64| Arc::new(part.iter().map(value).collect::<Int64Array>()) as ArrayRef;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_value(source, part.len())),
            Arc::new(UInt32Array::from_value(0, part.len())),
            Arc::new(places.clone().collect::<UInt64Array>()),
            Arc::new(UInt32Array::from_value(0, part.len())),
            Arc::new(TimestampMillisecondArray::from_iter_values(places.map(|place| place as i64))),
            Arc::new(BinaryViewArray::new_null(part.len())),
            Arc::new(BinaryViewArray::new_null(part.len())),
            column(|update| update.key),
            column(|update| update.value),
        ];
        if batch::is_changing(schema) {
            columns.push(column(|update| update.diff));
        }
        RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
    };
    updates.chunks(ROUND).enumerate().map(batch).collect()
}

/// Runs a step over rounds of its ports' batches.
fn step(kind: &str, config: &Value, ports: &[Vec<RecordBatch>], mut see: impl FnMut(&RecordBatch)) {
    let kind = cleansing::KINDS.iter().find(|entry| entry.name == kind).expect("a shipped step");
    let schemas: Vec<SchemaRef> = ports.iter().map(|port| port[0].schema()).collect();
    let streams = BTreeMap::from([("other".to_owned(), schemas[schemas.len() - 1].clone())]);
    let step =
        (kind.plan)(config, &StepInput { schema: &schemas[0], streams: &streams }).expect("a good configuration");
    let Power::Keyed(operator) = step.power else { unreachable!("relational steps have keys") };
    let mut instance = operator.mount(&schemas, &[]).expect("keys of numbers");
    for round in 0..ports[0].len() {
        let rows: Vec<RecordBatch> = ports.iter().map(|port| port[round].clone()).collect();
        let mut rejects: Vec<Rejects> = rows.iter().map(|_| Rejects::default()).collect();
        instance.set_now((((round + 1) * ROUND) as i64, Origin::FIRST));
        if let Some(out) = instance.learn(&rows, &mut rejects).expect("no fault") {
            see(&out);
        }
        assert!(rejects.iter().all(Rejects::is_empty));
    }
}

/// What a stream of changes amounts to, by its key and two more columns.
fn standing(standing: &mut Standing, changes: &RecordBatch) {
    let column = |at: usize| changes.column(META + at).as_primitive::<Int64Type>().values();
    let diffs = batch::diffs(changes).expect("it changes");
    for (row, diff) in diffs.iter().enumerate() {
        *standing.entry((column(0)[row], column(1)[row], column(2)[row])).or_default() += diff;
    }
    standing.retain(|_, count| *count != 0);
}

fn main() {
    let mut table = Table::new(&[
        "updates/s, one thread",
        "keys",
        "millstream",
        "differential, a time a round",
        "ratio",
        "differential, a time an update",
        "ratio",
    ]);
    for keys in [1_000, 100_000] {
        let (ours, theirs) = aggregate(keys);
        table.row(cells("sum and count by key", keys, UPDATES, ours, theirs));
        let (ours, theirs) = join(keys);
        table.row(cells("join, both sides change", keys, 2 * UPDATES, ours, theirs));
    }
    table.print(&format!("Relational steps, medians of {RUNS}"));
}

fn cells(name: &str, keys: usize, updates: usize, ours: f64, [rounds, each]: [f64; 2]) -> [String; 7] {
    let rate = |seconds: f64| thousands(updates as f64 / seconds);
    let ratio = |seconds: f64| format!("{:.1}", seconds / ours);
    [name.to_owned(), thousands(keys as f64), rate(ours), rate(rounds), ratio(rounds), rate(each), ratio(each)]
}

fn aggregate(keys: usize) -> (f64, [f64; 2]) {
    let updates = updates(keys, 1, true);
    let batches = [batches(&updates, &schema("value", true), 0)];
    let config = json!({"by": ["key"], "columns": {"count": "count()", "sum": "sum(value)"}});
    let mut ours = Standing::new();
    step("aggregate", &config, &batches, |out| standing(&mut ours, out));
    assert!(ours == differential::aggregate(&updates, ROUND, true), "the results differ");
    let took = seconds(RUNS, || step("aggregate", &config, &batches, |_| {}));
    (took, [ROUND, 1].map(|times| seconds(RUNS, || drop(differential::aggregate(&updates, times, false)))))
}

fn join(keys: usize) -> (f64, [f64; 2]) {
    let sides = [updates(keys, 1, true), updates(keys, 5, true)];
    let batches = [batches(&sides[0], &schema("value", true), 0), batches(&sides[1], &schema("other", true), 1)];
    let config = json!({"with": "other", "by": ["key"], "within_seconds": 1_000_000});
    let mut ours = Standing::new();
    step("join", &config, &batches, |out| standing(&mut ours, out));
    assert!(ours == differential::join(&sides, ROUND, true), "the results differ");
    let took = seconds(RUNS, || step("join", &config, &batches, |_| {}));
    (took, [ROUND, 1].map(|times| seconds(RUNS, || drop(differential::join(&sides, times, false)))))
}
