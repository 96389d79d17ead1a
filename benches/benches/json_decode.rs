//! JSON records into typed columns, beside what general parsers take for them.
//!
//!     cargo bench -p millstream-benches --bench json_decode
//!
//! Ours checks the UTF-8, turns texts of time into milliseconds and fills Arrow columns that know their nulls. The typed
//! parser fills a struct with borrowed strings, times left as text; so it does less. `Value` is a tree without types.
//! Floats are read to the nearest by all of them. The profile is the one that a run keeps of each source; most of these rows
//! come before it samples only one of many, so more batches follow than the others need.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, RecordBatch, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_benches::table::{Table, thousands};
use millstream_benches::{flights, seconds};
use millstream_connectors::formats;
use millstream_engine::batch::schema_of;
use millstream_engine::raw::{Payload, RawBatch};
use millstream_operators::profile::Profile;
use serde::Deserialize;
use serde_json::json;

const BATCH: usize = 4096;
const BATCHES: usize = 16;
/// The profile sees the batches so often, since it samples less as it goes on.
const ROUNDS: usize = 10;
const RUNS: usize = 11;

#[derive(Deserialize)]
#[allow(dead_code, clippy::struct_field_names, reason = "named as in the records; that they are filled is measured")]
struct Flight<'a> {
    known_at: Option<&'a str>,
    scheduled_at: Option<&'a str>,
    carrier: Option<&'a str>,
    flight: Option<i64>,
    tailnum: Option<&'a str>,
    origin: Option<&'a str>,
    dest: Option<&'a str>,
    distance: Option<f64>,
    dep_delay: Option<f64>,
    arr_delay: Option<f64>,
    air_time: Option<f64>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "what is measured is that they are filled")]
struct Reading<'a> {
    sensor: Option<&'a str>,
    at: Option<&'a str>,
    temperature: Option<f64>,
    humidity: Option<f64>,
    pressure: Option<f64>,
    vibration: Option<f64>,
    count: Option<i64>,
    faulty: Option<bool>,
}

fn main() {
    let flights = batches(&flight_records());
    measure::<Flight<'_>>("flights", &flight_columns(), &flights);
    let readings: Vec<String> = (0..BATCH * BATCHES).map(reading).collect();
    measure::<Reading<'_>>("sensor readings", &reading_columns(), &batches(&readings));
}

/// The records, `BATCH` at a time, as a broker gives them.
fn batches(records: &[String]) -> Vec<RawBatch> {
    let batch = |records: &[String]| RawBatch {
        partition: 0,
        offsets: (0..records.len() as u64).collect(),
        timestamps: vec![0; records.len()].into(),
        keys: None,
        headers: Vec::new(),
        payload: Payload::Bytes(BinaryArray::from_iter_values(records)),
    };
    records.chunks(BATCH).take(BATCHES).map(batch).collect()
}

fn values(batch: &RawBatch) -> impl Iterator<Item = &[u8]> {
    let Payload::Bytes(values) = &batch.payload else { unreachable!("the batches hold bytes") };
    (0..values.len()).map(|at| values.value(at))
}

fn measure<'a, T: Deserialize<'a>>(what: &str, columns: &SchemaRef, batches: &'a [RawBatch]) {
    let each = || batches.iter().flat_map(values);
    let mut decoder = (formats::plan(&json!("json"), columns).expect("a good format").decoder)();
    let ours = seconds(RUNS, || {
        for batch in batches {
            let made = black_box(decoder.decode(batch).expect("bytes"));
            assert_eq!((made.record.len(), made.rejects.len()), (batch.len(), 0));
        }
    });
    let schema = schema_of(columns);
    let heads: Vec<_> = batches.iter().enumerate().map(|(at, batch)| head(at, batch.len())).collect();
    let with_profile = seconds(RUNS, || {
        let mut profile = Profile::new(&schema);
        for (batch, head) in (0..ROUNDS).flat_map(|_| batches.iter().zip(&heads)) {
            let made = decoder.decode(batch).expect("bytes");
            let rows = RecordBatch::try_new(schema.clone(), [head, made.rows.columns()].concat())
                .expect("columns of the schema");
            profile.add(&rows).expect("columns that it knows");
        }
        black_box(profile);
    }) / ROUNDS as f64;
    let serde_typed = seconds(RUNS, || each().for_each(|r| assert!(black_box(serde_json::from_slice::<T>(r)).is_ok())));
    let serde_value = seconds(RUNS, || {
        each().for_each(|record| drop(black_box(serde_json::from_slice::<serde_json::Value>(record).expect("JSON"))));
    });
    let records = batches.iter().map(RawBatch::len).sum::<usize>() as f64;
    let bytes = batches.iter().map(RawBatch::bytes).sum::<usize>() as f64;
    let mut table = Table::new(&["", "MB/s", "records/s", "time, ours = 1"]);
    for (name, seconds) in [
        ("json into columns", ours),
        ("the same, profiled", with_profile),
        ("serde_json, typed", serde_typed),
        ("serde_json, Value", serde_value),
    ] {
        let cells =
            [format!("{:.0}", bytes / seconds / 1e6), thousands(records / seconds), format!("{:.2}", seconds / ours)];
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    table.print(&format!("{what}: {} records of {:.0} bytes on average", thousands(records), bytes / records));
}

/// The engine's columns of a batch.
fn head(batch: usize, len: usize) -> Vec<ArrayRef> {
    vec![
        Arc::new(UInt32Array::from(vec![0; len])),
        Arc::new(UInt32Array::from(vec![0; len])),
        Arc::new(UInt64Array::from_iter_values((batch * len) as u64..((batch + 1) * len) as u64)),
        Arc::new(UInt32Array::from(vec![0; len])),
        Arc::new(TimestampMillisecondArray::from(vec![0; len])),
        Arc::new(BinaryViewArray::new_null(len)),
        Arc::new(BinaryViewArray::new_null(len)),
    ]
}

/// The example's flights, as its feed writes them.
fn flight_records() -> Vec<String> {
    let lines = flights::lines(&flights::examples().join("data/flights.csv.gz"));
    let lines = &lines[1..=BATCH * BATCHES];
    let raw = RawBatch {
        partition: 0,
        offsets: (0..lines.len() as u64).collect(),
        timestamps: vec![0; lines.len()].into(),
        keys: None,
        headers: Vec::new(),
        payload: Payload::Bytes(BinaryArray::from_iter_values(lines)),
    };
    let columns = flight_columns();
    let csv = formats::plan(&json!({"csv": {"null": ["", "NA"]}}), &columns).expect("a good format");
    let rows = (csv.decoder)().decode(&raw).expect("lines").rows;
    let json = formats::plan(&json!("json"), &columns).expect("a good format");
    let records = (json.encoder)().encode(&rows).expect("columns of the format");
    records.iter().flatten().map(|record| String::from_utf8(record.to_vec()).expect("JSON is text")).collect()
}

fn reading(n: usize) -> String {
    let float = |scale: f64| (n * 7919 % 10_007) as f64 * scale;
    let (hour, minute, second) = (n / 3600 % 24, n / 60 % 60, n % 60);
    format!(
        "{{\"sensor\":\"sensor-{:04}\",\"at\":\"2026-01-01T{hour:02}:{minute:02}:{second:02}.000Z\",\"temperature\":{:.2},\
         \"humidity\":{:.2},\"pressure\":{:.2},\"vibration\":{:.5},\"count\":{n},\"faulty\":{}}}",
        n % 50,
        float(0.003),
        float(0.01),
        float(0.1),
        float(0.0002),
        n.is_multiple_of(7)
    )
}

fn columns(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    Schema::new(fields.collect::<Vec<_>>()).into()
}

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

fn flight_columns() -> SchemaRef {
    use DataType::{Float64, Int64, Utf8};
    columns(&[
        ("known_at", TIMESTAMP),
        ("scheduled_at", TIMESTAMP),
        ("carrier", Utf8),
        ("flight", Int64),
        ("tailnum", Utf8),
        ("origin", Utf8),
        ("dest", Utf8),
        ("distance", Float64),
        ("dep_delay", Float64),
        ("arr_delay", Float64),
        ("air_time", Float64),
    ])
}

fn reading_columns() -> SchemaRef {
    use DataType::{Boolean, Float64, Int64, Utf8};
    columns(&[
        ("sensor", Utf8),
        ("at", TIMESTAMP),
        ("temperature", Float64),
        ("humidity", Float64),
        ("pressure", Float64),
        ("vibration", Float64),
        ("count", Int64),
        ("faulty", Boolean),
    ])
}
