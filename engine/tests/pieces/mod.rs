//! A small graph in memory: two learn sources joined by key, a fold that sums, and a source of requests.

use std::fmt::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch::{self, META};
use millstream_engine::binder::Limits;
use millstream_engine::book::{Book, Request};
use millstream_engine::checkpoint::{Checkpoint, Checkpoints};
use millstream_engine::graph::{Asks, EventTime, Graph, Input, Node, Output, SourceNode};
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::{Answer, Fold, Keyed, Measure, Power, Rejects, Snapshot, Step};
use millstream_engine::processes::{Door, First, Helper, Helpers, MakeHelper, Member, Processes, Talk, serve};
use millstream_engine::publish::{Commit, Given, Outcome, Progress, Published, Recorded};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::run::{Settings, Simulation, Skip, run};
use millstream_engine::source::{Decoded, Decoder, Position, Reader, Source};
use millstream_engine::state::States;
use millstream_engine::time::StepClock;
use millstream_engine::{Fault, Result};

pub mod store;

/// A run that takes so long has hung: all these take a second at most.
const HANGS: Duration = Duration::from_mins(2);

/// `SplitMix64`: every test says its seed when it fails.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

#[derive(Clone, Debug)]
pub struct Record {
    pub time: i64,
    pub key: String,
    pub value: i64,
}

pub fn record(time: i64, key: &str, value: i64) -> Record {
    Record { time, key: key.to_owned(), value }
}

/// A request looks like a record.
pub use record as request;

/// A source of `time key value` lines.
#[derive(Clone)]
pub struct Memory {
    pub partitions: Arc<Vec<Vec<Record>>>,
    /// Whether more could come, as in a topic.
    pub unending: bool,
    /// How many records a read gives at most. Few, so that epochs are made of several.
    pub read_records: usize,
}

impl Memory {
    pub fn new(partitions: Vec<Vec<Record>>) -> Self {
        Self { partitions: Arc::new(partitions), unending: false, read_records: 64 }
    }
}

impl Source for Memory {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok((0..self.partitions.len() as u32).collect())
    }
    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        Ok(Box::new(MemoryReader { source: self.clone(), at: from.to_vec() }))
    }
    fn is_finite(&self) -> bool {
        !self.unending
    }
}

struct MemoryReader {
    source: Memory,
    at: Vec<Position>,
}

impl Reader for MemoryReader {
    fn read(&mut self, _: usize, _: Duration) -> Result<Option<RawBatch>> {
        for at in &mut self.at {
            let records = &self.source.partitions[at.partition as usize];
            let rest = &records[at.offset as usize..];
            let read = &rest[..rest.len().min(self.source.read_records)];
            if read.is_empty() {
                continue;
            }
            let values: Vec<String> = read.iter().map(|r| format!("{} {} {}", r.time, r.key, r.value)).collect();
            let offsets: Vec<u64> = (at.offset..at.offset + read.len() as u64).collect();
            at.offset += read.len() as u64;
            return Ok(Some(RawBatch {
                partition: at.partition,
                offsets: offsets.into(),
                timestamps: read.iter().map(|record| record.time).collect::<Vec<_>>().into(),
                keys: None,
                headers: Vec::new(),
                payload: Payload::Bytes(BinaryArray::from_iter_values(&values)),
            }));
        }
        Ok(None)
    }
    fn ends(&mut self) -> Result<Vec<Position>> {
        let ends = self.source.partitions.iter().zip(0..);
        Ok(ends.map(|(records, partition)| Position { partition, offset: records.len() as u64 }).collect())
    }
}

pub fn columns() -> Schema {
    Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
    ])
}

struct Lines;

/// A decoder of `time key value` lines.
pub fn lines() -> impl Decoder {
    Lines
}

impl Decoder for Lines {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let Payload::Bytes(values) = &raw.payload else { return Err(Fault::ours("bytes")) };
        let lines: Vec<Vec<&str>> = values
            .iter()
            .map(|value| std::str::from_utf8(value.expect("values")).expect("text").split(' ').collect())
            .collect();
        let columns_of: Vec<ArrayRef> = vec![
            Arc::new(lines.iter().map(|line| line[0].parse::<i64>().ok()).collect::<TimestampMillisecondArray>()),
            Arc::new(StringArray::from_iter_values(lines.iter().map(|line| line[1]))),
            Arc::new(lines.iter().map(|line| line[2].parse::<i64>().ok()).collect::<Int64Array>()),
        ];
        let rows = RecordBatch::try_new(Arc::new(columns()), columns_of)?;
        Ok(Decoded { rows, record: (0..raw.len() as u32).collect(), rejects: vec![] })
    }
}

/// Joins the key's newest right value that is older, and numbers the left rows of each key. Of the same time, left comes
/// before right: its source is the first.
struct Join {
    schema: SchemaRef,
}

impl Keyed for Join {
    type State = (i64, Vec<(i64, i64)>);
    fn key(&self, _: usize) -> &[usize] {
        &[META + 1]
    }
    fn apply(
        &self,
        port: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Self::State>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let values = rows.column(META + 2).as_primitive::<Int64Type>();
        let times = batch::Meta::of(rows).time;
        if port == 1 {
            let seen = |row| (times[row], values.value(row));
            (0..rows.num_rows()).for_each(|row| states.update(row, |state| state.1.push(seen(row))));
            return Ok(None);
        }
        let keys = rows.column(META + 1).as_string::<i32>();
        let (mut number, mut newest) = (Vec::new(), Vec::new());
        for (row, &time) in times.iter().enumerate() {
            if keys.value(row) == "poison" {
                rejects.push(row, "poison");
                continue;
            }
            let state = states.get(row);
            number.push(state.0);
            newest.push(state.1.iter().rev().find(|(seen, _)| *seen < time).map(|(_, value)| *value));
            states.update(row, |state| state.0 += 1);
        }
        let kept = batch::filter(rows, &rejects.keep(rows.num_rows()))?;
        let columns: Vec<(&str, ArrayRef)> =
            vec![("number", Arc::new(Int64Array::from(number))), ("newest", Arc::new(Int64Array::from(newest)))];
        Ok(Some(batch::with_columns(&self.schema, &kept, columns)?))
    }
    fn expired(&self, _: &Self::State, _: i64) -> bool {
        false
    }
}

/// A sum of squares that depends on the order of its rows.
#[derive(Clone, Default)]
struct Sum {
    sum: i64,
    examples: u64,
}

/// One that grows. Other processes square its numbers, or else it does itself.
#[derive(Default)]
struct Summing {
    sum: Sum,
    talks: Vec<Talk>,
}

/// Squares numbers.
struct Squares(Arc<AtomicU64>);

impl Helper for Squares {
    fn help(&mut self, asked: &[u8]) -> Result<Vec<u8>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let numbers: Vec<i64> = postcard::from_bytes(asked).expect("numbers");
        Ok(postcard::to_stdvec(&numbers.iter().map(|number| number.wrapping_mul(*number)).collect::<Vec<_>>())
            .expect("memory"))
    }
}

impl Fold for Summing {
    fn learn(&mut self, _: usize, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let numbers = rows.column(META + 2).as_primitive::<Int64Type>().values();
        let each = numbers.len().div_ceil(self.talks.len().max(1)).max(1);
        let parts: Vec<Vec<u8>> =
            numbers.chunks(each).map(|numbers| postcard::to_stdvec(numbers).expect("memory")).collect();
        self.talks.iter_mut().zip(&parts).for_each(|(talk, part)| talk.ask(Arc::new(part.clone())));
        for (at, part) in parts.iter().enumerate() {
            let answer = self.talks.get_mut(at).and_then(Talk::answer);
            let squares = answer.map_or_else(|| Squares(Arc::default()).help(part), Ok)?;
            for square in postcard::from_bytes::<Vec<i64>>(&squares).expect("numbers") {
                self.sum.sum = self.sum.sum.wrapping_mul(31).wrapping_add(square);
                self.sum.examples += 1;
            }
        }
        Ok(rows.clone())
    }
    fn helped_by(&mut self, helpers: &Helpers) {
        self.talks = helpers.talks();
    }
    fn examples(&self) -> u64 {
        self.sum.examples
    }
    fn revision(&self) -> Arc<dyn Answer> {
        Arc::new(self.sum.clone())
    }
    fn measures(&self) -> Vec<Measure> {
        vec![]
    }
    fn measure_anew(&mut self) {}
    fn copy(&self) -> Snapshot {
        let state = [self.sum.sum.to_le_bytes(), self.sum.examples.to_le_bytes()];
        Box::new(move || state.concat())
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        let (sum, examples) = snapshot.split_at_checked(8).ok_or_else(|| Fault::world("too short"))?;
        self.sum.sum = i64::from_le_bytes(sum.try_into().expect("8 bytes"));
        self.sum.examples = u64::from_le_bytes(examples.try_into().map_err(|_| Fault::world("another length"))?);
        Ok(())
    }
}

impl Answer for Sum {
    fn answer(&self, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let sums: ArrayRef = Arc::new(Int64Array::from(vec![self.sum; rows.num_rows()]));
        Ok(RecordBatch::try_from_iter([("sum", sums)])?)
    }
    fn artefacts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(vec![])
    }
}

#[derive(Clone)]
pub struct Case {
    pub left: Memory,
    pub right: Memory,
    pub asks: Memory,
    pub lateness_ms: i64,
}

/// Learn records of two sources with disorder across them, of these keys in turn, and no requests.
pub fn two_sources(keys: &[&str]) -> Case {
    let left = (0..500).map(|at| record(at * 10, keys[at as usize % keys.len()], at));
    let right = (0..40).map(|at| record(at * 125 + 3, ["a", "b"][at as usize % 2], 1000 + at));
    let (even, odd): (Vec<_>, Vec<_>) = left.partition(|record| record.value % 4 < 2);
    Case {
        left: Memory::new(vec![even, odd]),
        right: Memory::new(vec![right.collect()]),
        asks: Memory::new(vec![vec![]]),
        lateness_ms: 0,
    }
}

/// Epochs of so many records.
pub fn limits(max_records: usize) -> Limits {
    Limits { max_records, ..Limits::default() }
}

/// The progress records.
pub fn progress(published: &[Published]) -> Vec<Progress> {
    published.iter().map(|epoch| epoch.progress.clone()).collect()
}

/// What has become durable.
pub type Durable = Arc<Mutex<Vec<Published>>>;

/// Looks at what is to be committed, and may fail.
pub type BeforeCommit = Box<dyn FnMut(&[Published]) -> Result<()> + Send>;

/// Changes a graph.
pub type Shape = Arc<dyn Fn(&mut Graph) + Send + Sync>;

pub struct Run {
    pub case: Case,
    /// In each process.
    pub workers: usize,
    /// Where other processes are, if there are any.
    pub members: Option<Members>,
    pub limits: Limits,
    pub committed: Vec<Progress>,
    pub checkpoints: Option<Checkpoints>,
    pub from: Option<Checkpoint>,
    pub skip: Vec<Skip>,
    /// Whether to go on after what was committed.
    pub live: bool,
    pub metrics: Arc<Metrics>,
    pub book: Arc<Book>,
    /// Whether to end when all input is used up.
    pub finish: bool,
    /// What the graph is to be changed into.
    pub shape: Shape,
    /// Called before each commit.
    pub before_commit: BeforeCommit,
}

pub struct Ran {
    pub published: Vec<Published>,
    /// How the run ended.
    pub outcome: Result<()>,
}

struct Collect {
    published: Durable,
    next: u64,
    before: BeforeCommit,
}

impl Commit for Collect {
    fn encode(&self, request: &Request, outcome: &Outcome, _: i64) -> Result<Vec<u8>> {
        let text = match outcome {
            Outcome::Answered { given, row, staleness_ms, .. } => {
                let Given { columns, revision, .. } = &**given;
                let sum = columns.column(0).as_primitive::<Int64Type>().value(*row);
                format!("{request:?} {sum} {revision:?} {staleness_ms:?}")
            }
            Outcome::Refused { step, reason } => format!("{request:?} {step} {reason}"),
        };
        Ok(text.into_bytes())
    }

    fn commit(&mut self, epochs: &[Published]) -> Result<()> {
        (self.before)(epochs)?;
        for epoch in epochs {
            assert_eq!(epoch.progress.binding.epoch, self.next, "epochs are published in order");
            self.next += 1;
        }
        // A published epoch owns its parts; the test keeps them.
        let mut all = self.published.lock().expect("one thread");
        all.extend(epochs.iter().map(|epoch| Published {
            progress: epoch.progress.clone(),
            outputs: epoch.outputs.clone(),
            replies: epoch.replies.clone(),
            dead_letters: epoch.dead_letters.clone(),
            notices: epoch.notices.clone(),
            revisions: std::collections::BTreeMap::new(),
        }));
        Ok(())
    }
}

impl Run {
    pub fn new(case: Case) -> Self {
        Self {
            case,
            workers: 1,
            members: None,
            limits: Limits::default(),
            committed: vec![],
            checkpoints: None,
            from: None,
            skip: vec![],
            live: true,
            metrics: Arc::default(),
            book: Arc::default(),
            finish: true,
            shape: Arc::new(|_| ()),
            before_commit: Box::new(|_| Ok(())),
        }
    }

    pub fn go(self) -> Ran {
        self.try_go().expect("the run ends well")
    }

    pub fn try_go(self) -> Result<Ran> {
        let mut ran = self.until_its_end();
        std::mem::replace(&mut ran.outcome, Ok(())).map(|()| ran)
    }

    /// Runs on a thread of its own, so that a run that hangs fails its test. What was published before a fault is there too.
    pub fn until_its_end(self) -> Ran {
        let (done, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(self.run()));
        outcome.recv_timeout(HANGS).expect("the run ends")
    }

    fn run(self) -> Ran {
        let members = self.members.as_ref().map(|members| members.until.clone()).unwrap_or_default();
        let (graph, settings, commit, published) = self.prepare();
        let outcome = run(graph, settings, commit);
        members.iter().for_each(|until| until.stop());
        let published = std::mem::take(&mut *published.lock().expect("the run has ended"));
        Ran { published, outcome }
    }

    /// A simulation of this run, and what it will have published.
    pub fn simulate(self) -> (Simulation, Durable) {
        let (graph, settings, commit, published) = self.prepare();
        (Simulation::new(graph, settings, commit).expect("the run starts"), published)
    }

    fn prepare(self) -> (Graph, Settings, Box<dyn Commit>, Durable) {
        let published = Arc::new(Mutex::new(Vec::new()));
        let graph = shaped(&self.case, &self.shape);
        let processes = self.members.map(|members| members.start(&self.case, &self.shape));
        let next = self.from.as_ref().map_or(0, Checkpoint::epoch) + self.committed.len() as u64;
        let settings = Settings {
            workers: self.workers,
            processes,
            limits: self.limits,
            seed: 1,
            clock: Arc::new(StepClock::new(0, 1)),
            metrics: self.metrics,
            book: self.book,
            finish: self.finish.then(|| Arc::new(AtomicBool::new(true))),
            checkpoints: self.checkpoints,
            from: self.from,
            recorded: self.committed.into_iter().map(Recorded::from).collect(),
            skip: self.skip,
            live: self.live,
        };
        let commit = Collect { published: published.clone(), next, before: self.before_commit };
        (graph, settings, Box::new(commit), published)
    }
}

/// Processes that are threads here: they share nothing with the first but what goes over their connections.
pub struct Members {
    pub processes: Processes,
    pub doors: Vec<Door>,
    /// What theirs is changed by besides.
    pub shape: Shape,
    /// To end each.
    pub until: Vec<Arc<Book>>,
    /// Makes what helps the first.
    pub helper: MakeHelper,
    /// How often they have helped.
    pub helped: Arc<AtomicU64>,
}

impl Members {
    pub fn new(count: usize) -> Self {
        let listeners: Vec<_> =
            (0..=count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
        let processes = Processes {
            addresses: listeners.iter().map(address).collect(),
            secret: "only between us".to_owned(),
            identity: "a small graph".to_owned(),
            patience_seconds: 20.0,
        };
        let doors = listeners.into_iter().map(|listener| Door::of(listener).expect("it listens"));
        let until = (0..count).map(|_| Arc::default()).collect();
        let helped = Arc::new(AtomicU64::new(0));
        let counted = helped.clone();
        let helper: MakeHelper = Arc::new(move || Box::new(Squares(counted.clone())));
        Self { processes, doors: doors.collect(), shape: Arc::new(|_| ()), until, helper, helped }
    }

    /// Starts them; gives what the first process needs.
    fn start(self, case: &Case, shape: &Shape) -> First {
        let mut doors = self.doors.into_iter();
        let door = doors.next().expect("the first has one, too");
        for (process, (other, until)) in (1..).zip(doors.zip(self.until)) {
            let (case, shape, processes) = (case.clone(), shape.clone(), self.processes.clone());
            let (own, helper) = (self.shape.clone(), self.helper.clone());
            std::thread::spawn(move || {
                serve(&processes, &other, process, &until, || {
                    let mut graph = shaped(&case, &shape);
                    own(&mut graph);
                    Ok(Member { graph, metrics: Arc::default(), aside: Arc::new(()), helper: helper.clone() })
                })
            });
        }
        First { processes: self.processes, door, aside: Arc::new(()) }
    }
}

impl Ran {
    /// The progress records.
    pub fn progress(&self) -> Vec<Progress> {
        progress(&self.published)
    }

    /// The output rows as text, in the order of publication, without epochs.
    pub fn outputs(&self) -> String {
        outputs(&self.published)
    }
}

/// The output rows of these epochs as text, in the order of publication, without epochs.
pub fn outputs(published: &[Published]) -> String {
    let mut text = String::new();
    for rows in published.iter().flat_map(|epoch| epoch.outputs.values()) {
        for row in 0..rows.num_rows() {
            let show = |at| arrow::util::display::array_value_to_string(rows.column(at), row).expect("printable");
            let shown: Vec<String> = (0..rows.num_columns()).filter(|at| *at != batch::RAW).map(show).collect();
            writeln!(text, "{}", shown.join(" ")).expect("strings take text");
        }
    }
    text
}

fn source(name: &str, memory: Memory, lateness_ms: i64, asks: Option<Asks>) -> SourceNode {
    SourceNode {
        name: name.to_owned(),
        source: Arc::new(memory),
        schema: batch::schema_of(&columns()),
        decoder: Arc::new(|| Box::new(Lines)),
        time: EventTime::Column { column: META, lateness_ms, corrections_ms: 0, ahead_ms: None },
        idle_ms: i64::MAX,
        asks,
    }
}

fn shaped(case: &Case, shape: &Shape) -> Graph {
    let mut graph = graph(case.clone());
    shape(&mut graph);
    graph
}

fn graph(case: Case) -> Graph {
    let left = batch::schema_of(&columns());
    let joined = batch::with_fields(
        &left,
        [Field::new("number", DataType::Int64, true), Field::new("newest", DataType::Int64, true)],
    );
    let join = Step { schema: joined.clone(), others: vec![], power: Power::keyed(Join { schema: joined.clone() }) };
    let sum = Step { schema: joined, others: vec![], power: Power::fold(Summing::default) };
    Graph {
        sources: vec![
            source("left", case.left, case.lateness_ms, None),
            source("right", case.right, 0, None),
            source("asks", case.asks, 0, Some(Asks { enters: 0, folds: vec![1], choose: None, by_name: false })),
        ],
        nodes: vec![
            Node { name: "join".into(), inputs: vec![Input::Source(0), Input::Source(1)], step: join },
            Node { name: "sum".into(), inputs: vec![Input::Node(0)], step: sum },
        ],
        outputs: vec![Output { name: "out".into(), from: Input::Node(1) }],
        ..Graph::default()
    }
}
