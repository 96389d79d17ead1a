//! What the engine itself costs: per epoch, per row and step, and per row of a keyed step with few and many keys.
//!
//!     cargo bench -p millstream-benches --bench engine [-- epochs | chains | keys]
//!
//! Records are 16 bytes in memory (a key and a number), their decoder does next to nothing, and commits do nothing: so
//! what is left is minting epochs, digests, dataflow, and the steps. Minting runs beside the workers on a thread of its
//! own, so short chains cost CPU rather than time.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, AsArray, BinaryArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};

use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, seconds};
use millstream_engine::batch;
use millstream_engine::binder::Limits;
use millstream_engine::book::{Book, Request};
use millstream_engine::catalogue::StepInput;
use millstream_engine::graph::{EventTime, Graph, Input, Node, Output, SourceNode};
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::Step;
use millstream_engine::publish::{Commit, Outcome, Published};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::run::{Settings, run};
use millstream_engine::source::{Decoded, Decoder, Position, Reader, Source};
use millstream_engine::time::SystemClock;
use millstream_engine::{Fault, Result};
use millstream_operators::cleansing;
use serde_json::{Value, json};

const RUNS: usize = 5;
const EPOCHS: usize = 20_000;
/// So many that starting and ending a run, some 20 ms, does not count.
const ROWS: usize = 5_000_000;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [(&str, fn()); 3] = [("epochs", epochs), ("chains", chains), ("keys", keys)];
    for (name, part) in parts {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            part();
        }
    }
}

fn epochs() {
    let mut table = Table::new(&["graph, epochs of one record", "workers", "epochs/s", "µs an epoch", "CPU µs"]);
    let memory = Memory::new(EPOCHS, 10);
    for (name, steps, workers) in [("no steps", 0, 1), ("no steps", 0, 2), ("10 steps", 10, 1)] {
        let took = measure(&memory, &vec![derive(); steps], workers, 1);
        let cells = [workers.to_string(), thousands(1.0 / took.wall), micros(took.wall), micros(took.cpu)];
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    table.print("Epochs");
}

fn chains() {
    check_derive();
    let mut table = Table::new(&["derive steps, epochs of 16,384", "workers", "rows/s", "ns a row", "CPU ns"]);
    let memory = Memory::new(ROWS, 10);
    for (steps, workers) in [(0, 1), (1, 1), (5, 1), (10, 1), (10, 2)] {
        let took = measure(&memory, &vec![derive(); steps], workers, 16_384);
        let cells = [workers.to_string(), thousands(1.0 / took.wall), nanos(took.wall), nanos(took.cpu)];
        table.row([steps.to_string()].into_iter().chain(cells));
    }
    table.print("Stateless steps");
}

fn keys() {
    let headings = ["standardise by key, epochs of 16,384", "rows/s", "ns a row", "CPU ns", "of that the step"];
    let mut table = Table::new(&headings);
    let step = ("standardise", json!({"columns": ["value"], "by": ["key"]}));
    let without = measure(&Memory::new(ROWS, 10), &[], 1, 16_384);
    for keys in [10, 1_000, 100_000, 1_000_000] {
        let took = measure(&Memory::new(ROWS, keys), std::slice::from_ref(&step), 1, 16_384);
        let cells = [thousands(1.0 / took.wall), nanos(took.wall), nanos(took.cpu), nanos(took.cpu - without.cpu)];
        table.row([format!("{} keys", thousands(keys as f64))].into_iter().chain(cells));
    }
    table.print("A keyed step");
}

fn micros(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

fn nanos(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e9)
}

/// Seconds for each record.
struct Took {
    /// The median of what went by.
    wall: f64,
    /// The mean of what all threads worked.
    cpu: f64,
}

fn derive() -> (&'static str, Value) {
    ("derive", json!({"value": "value * 1.000001 + 1"}))
}

/// What a chain measures is really computed: ten steps over rows whose results are known.
fn check_derive() {
    let sums = Arc::new(Mutex::new(0.0));
    let memory = Memory::new(1000, 10);
    let mut graph = graph(memory, &vec![derive(); 10]);
    graph.outputs.push(Output { name: "out".to_owned(), from: Input::Node(9) });
    run(graph, settings(1, 16_384, Arc::default()), Box::new(Sum(sums.clone()))).expect("the run ends well");
    let ten = |value: f64| (0..10).fold(value, |value, _| value * 1.000_001 + 1.0);
    let expected: f64 = (0..1000).map(|value| ten(f64::from(value))).sum();
    let sum = *sums.lock().expect("the run has ended");
    assert!((sum - expected).abs() < 1e-6, "{sum}, not {expected}");
}

/// Adds up what comes out.
struct Sum(Arc<Mutex<f64>>);

impl Commit for Sum {
    fn encode(&self, _: &Request, _: &Outcome, _: i64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        let rows = epochs.iter().flat_map(|epoch| epoch.outputs.values());
        let sum = |rows: &RecordBatch| rows["value"].as_primitive::<Float64Type>().values().iter().sum::<f64>();
        *self.0.lock().expect("one thread commits") += rows.map(sum).sum::<f64>();
        Ok(())
    }
}

/// Runs these steps over all records, several times.
fn measure(memory: &Memory, steps: &[(&str, Value)], workers: usize, max_records: usize) -> Took {
    let before = cpu_seconds();
    let wall = seconds(RUNS, || {
        let metrics = Arc::new(Metrics::default());
        let settings = settings(workers, max_records, metrics.clone());
        run(graph(memory.clone(), steps), settings, Box::new(Nothing)).expect("the run ends well");
        for (at, (kind, _)) in steps.iter().enumerate() {
            let left = metrics.sum("rows_out_total", &[("step", &format!("{at}/{kind}"))]);
            assert_eq!(left as usize, memory.0.len(), "all rows leave each step");
        }
    });
    let records = memory.0.len() as f64;
    // One more than counts: the first.
    Took { wall: wall / records, cpu: (cpu_seconds() - before) / (RUNS + 1) as f64 / records }
}

fn settings(workers: usize, max_records: usize, metrics: Arc<Metrics>) -> Settings {
    Settings {
        workers,
        limits: Limits { max_records, ..Limits::default() },
        seed: 1,
        clock: Arc::new(SystemClock),
        metrics,
        book: Arc::new(Book::default()),
        finish: Some(Arc::new(AtomicBool::new(true))),
        checkpoints: None,
        from: None,
        recorded: vec![],
        skip: vec![],
        live: true,
    }
}

fn graph(memory: Memory, steps: &[(&str, Value)]) -> Graph {
    let source = SourceNode {
        name: "numbers".to_owned(),
        source: Arc::new(memory),
        schema: batch::schema_of(&columns()),
        decoder: Arc::new(|| Box::new(Numbers)),
        time: EventTime::Arrival,
        idle_ms: i64::MAX,
        asks: None,
    };
    let mut graph = Graph { sources: vec![source], ..Graph::default() };
    for (at, (kind, config)) in steps.iter().enumerate() {
        let input = if at == 0 { Input::Source(0) } else { Input::Node(at - 1) };
        let step = plan(kind, config, graph.schema(input));
        graph.nodes.push(Node { name: format!("{at}/{kind}"), inputs: vec![input], step });
    }
    graph
}

fn plan(kind: &str, config: &Value, schema: &SchemaRef) -> Step {
    let found = cleansing::KINDS.iter().find(|entry| entry.name == kind).expect("a shipped step");
    (found.plan)(config, &StepInput { schema, streams: &BTreeMap::new() }).expect("a good configuration")
}

/// Keeps nothing.
struct Nothing;

impl Commit for Nothing {
    fn encode(&self, _: &Request, _: &Outcome, _: i64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _: &[Published]) -> Result<()> {
        Ok(())
    }
}

/// Records in memory.
#[derive(Clone)]
struct Memory(RawBatch);

impl Memory {
    fn new(records: usize, keys: usize) -> Self {
        let record = |at: usize| {
            // A multiplier that is coprime with the number of keys: all come, in no order that a cache likes.
            let key = (at.wrapping_mul(7_919) % keys) as i64;
            [key.to_le_bytes(), (at as f64).to_le_bytes()].concat()
        };
        Self(RawBatch {
            partition: 0,
            offsets: (0..records as u64).collect(),
            timestamps: (0..records as i64).collect(),
            keys: None,
            payload: Payload::Bytes(BinaryArray::from_iter_values((0..records).map(record))),
        })
    }
}

impl Source for Memory {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(vec![0])
    }
    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        let next = from.first().map_or(0, |position| position.offset as usize);
        Ok(Box::new(MemoryReader { records: self.0.clone(), next }))
    }
    fn is_finite(&self) -> bool {
        true
    }
}

struct MemoryReader {
    records: RawBatch,
    next: usize,
}

impl Reader for MemoryReader {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<RawBatch>> {
        let len = (self.records.len() - self.next).min(max_bytes / 16);
        if len == 0 {
            // Short, so that waiting for this reader at the end of a run is not what is measured.
            std::thread::sleep(wait.min(Duration::from_millis(1)));
            return Ok(None);
        }
        self.next += len;
        Ok(Some(self.records.slice(self.next - len, len)))
    }
    fn ends(&mut self) -> Result<Vec<Position>> {
        Ok(vec![Position { partition: 0, offset: self.records.len() as u64 }])
    }
}

fn columns() -> Schema {
    Schema::new(vec![Field::new("key", DataType::Int64, true), Field::new("value", DataType::Float64, true)])
}

struct Numbers;

impl Decoder for Numbers {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let Payload::Bytes(values) = &raw.payload else { return Err(Fault::ours("the records are bytes")) };
        let part = |record: usize, at: usize| values.value(record)[at..at + 8].try_into().expect("eight bytes");
        let all = 0..values.len();
        let keys = Int64Array::from_iter_values(all.clone().map(|record| i64::from_le_bytes(part(record, 0))));
        let numbers = Float64Array::from_iter_values(all.clone().map(|record| f64::from_le_bytes(part(record, 8))));
        let rows = RecordBatch::try_new(Arc::new(columns()), vec![Arc::new(keys), Arc::new(numbers)])?;
        Ok(Decoded { rows, record: all.map(|record| record as u32).collect(), rejects: vec![] })
    }
}
