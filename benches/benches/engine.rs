//! What the engine itself costs: per epoch, per row and step, and per row of a keyed step with few and many keys;
//! and what a checkpoint of 1 GiB of state costs those who do not want to wait for it.
//!
//!     cargo bench -p millstream-benches --bench engine [-- epochs | chains | keys | state]
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
use millstream_connectors::store::Folder;
use millstream_engine::batch;
use millstream_engine::binder::Limits;
use millstream_engine::book::{Book, Request};
use millstream_engine::catalogue::StepInput;
use millstream_engine::checkpoint::{self, Checkpoints, Store};
use millstream_engine::graph::{EventTime, Graph, Input, Node, Output, SourceNode};
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::publish::{Commit, Outcome, Published};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::run::{Settings, run};
use millstream_engine::source::{Decoded, Decoder, Position, Reader, Source};
use millstream_engine::state::States;
use millstream_engine::time::{Stopwatch, SystemClock};
use millstream_engine::{Fault, Result};
use millstream_operators::cleansing;
use serde_json::{Value, json};

const RUNS: usize = 5;
const EPOCHS: usize = 20_000;
/// So many that starting and ending a run, some 20 ms, does not count.
const ROWS: usize = 5_000_000;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [(&str, fn()); 4] = [("epochs", epochs), ("chains", chains), ("keys", keys), ("state", state)];
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

/// Keys of the large state, and bytes of each.
const LARGE_KEYS: usize = 4 << 20;
const LARGE_BYTES: usize = 240;

/// Fills 1 GiB of state, and goes on while it is checkpointed; then starts from that checkpoint.
fn state() {
    let memory = Memory::new(2 * LARGE_KEYS, LARGE_KEYS);
    let headings = ["1 GiB of state, epochs of 16,384", "epochs", "median gap ms", "p99", "longest", "seconds"];
    let mut table = Table::new(&headings);
    let mut row = |name: &str, gaps: &mut [f64], seconds: f64| {
        gaps.sort_by(f64::total_cmp);
        let at = |part: f64| gaps.get(((gaps.len() as f64 - 1.0) * part) as usize).copied().unwrap_or_default();
        let shown = [at(0.5), at(0.99), at(1.0)].map(|gap| format!("{:.1}", gap * 1000.0));
        let cells = [name.to_owned(), gaps.len().to_string()].into_iter().chain(shown);
        table.row(cells.chain([format!("{seconds:.1}")]));
    };
    let half = (LARGE_KEYS / 16_384) as u64;
    let (commits, _) = large(&memory, None);
    row("without a checkpoint", &mut gaps(&commits, half, u64::MAX), 0.0);

    let folder = tempfile::tempdir().expect("a folder");
    let store: Arc<dyn Store> = Arc::new(Folder::open(folder.path()).expect("it is new"));
    let (commits, metrics) = large(&memory, Some(store.clone()));
    let seconds = metrics.checkpoint_seconds.get();
    let listed = checkpoint::list(&*store).expect("it can be listed");
    let first = listed.last().expect("one was made");
    // As many epochs as went by while it was written.
    let began = commits[first.epoch as usize - 1];
    let ended = commits.iter().take_while(|at| **at < began + seconds).count() as u64;
    row("while it is written", &mut gaps(&commits, first.epoch, ended), seconds);
    table.print("A large state");

    let manifest = first.manifest.as_ref().expect("it is whole").clone();
    let bytes = manifest.bytes() as f64 / f64::from(1 << 30);
    let watch = Stopwatch::start();
    let from = checkpoint::open(&store, manifest).expect("it is whole");
    let checked = watch.seconds();
    let settings = Settings { from: Some(from), live: false, ..settings(2, 16_384, Arc::default()) };
    run(large_graph(memory), settings, Box::new(Nothing)).expect("the run ends well");
    println!(
        "{bytes:.2} GiB checked in {checked:.1} s, and restored by 2 workers in {:.1} s",
        watch.seconds() - checked
    );
}

/// The seconds at which each epoch was committed.
fn large(memory: &Memory, store: Option<Arc<dyn Store>>) -> (Vec<f64>, Arc<Metrics>) {
    let (commits, metrics) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Metrics::default()));
    let checkpoints = store.map(|store| Checkpoints {
        store,
        every_seconds: f64::MAX,
        every_bytes: 16 * LARGE_KEYS as u64,
        keep: 3,
        note: Box::new(|_| Ok(Value::Null)),
        ahead: false,
    });
    let settings = Settings { checkpoints, ..settings(1, 16_384, metrics.clone()) };
    run(large_graph(memory.clone()), settings, Box::new(Times(Stopwatch::start(), commits.clone())))
        .expect("it ends well");
    (commits.lock().expect("the run has ended").clone(), metrics)
}

/// The seconds between the commits of these epochs.
fn gaps(commits: &[f64], from: u64, to: u64) -> Vec<f64> {
    let part = &commits[from as usize..(to as usize).min(commits.len())];
    part.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn large_graph(memory: Memory) -> Graph {
    let mut graph = graph(memory, &[]);
    let step = Step { schema: graph.schema(Input::Source(0)).clone(), others: vec![], power: Power::keyed(Large) };
    graph.nodes.push(Node { name: "large".to_owned(), inputs: vec![Input::Source(0)], step });
    graph
}

/// Keeps some bytes for each key, and changes them with each row.
struct Large;

impl Keyed for Large {
    type State = Vec<u8>;
    fn key(&self, _: usize) -> &[usize] {
        &[batch::META]
    }
    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<u8>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        for row in 0..rows.num_rows() {
            states.update(row, |state| {
                state.resize(LARGE_BYTES, 0);
                state[row % LARGE_BYTES] = state[row % LARGE_BYTES].wrapping_add(1);
            });
        }
        Ok(Some(rows.clone()))
    }
    fn expired(&self, _: &Vec<u8>, _: i64) -> bool {
        false
    }
}

/// Notes when each epoch is committed.
struct Times(Stopwatch, Arc<Mutex<Vec<f64>>>);

impl Commit for Times {
    fn encode(&self, _: &Request, _: &Outcome, _: i64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        let now = self.0.seconds();
        self.1.lock().expect("one thread commits").extend(epochs.iter().map(|_| now));
        Ok(())
    }
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
        processes: None,
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
            headers: Vec::new(),
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
