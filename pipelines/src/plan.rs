//! A planned pipeline: everything that a run needs, checked, and nothing opened yet.
//!
//! ```text
//! Feed ─► topic                             a producer beside the pipeline
//! Source ─► Node ─► Node ─► … ─► Model      nodes in an order in which inputs come first
//!    ▲        │                    │
//! Request     └──► Sink ◄──────────┘        from any source or node
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use millstream_connectors::broker::config::BrokerConfig;
use millstream_connectors::formats::Format;
use millstream_connectors::sinks::PlannedSink;
use millstream_connectors::sources::PlannedSource;
use millstream_engine::operator::{Choosing, Step};
use millstream_operators::inference::FeatureConfig;
use millstream_operators::registry::{Gate, PromotionRule};
use serde::Deserialize;
use serde_json::Value;

use crate::definition::Secrets;
pub use crate::shape::{Begins, Checkpoints, Delivery, Epochs, Lineage, OnRequest, Processes, Registry};

/// A planned pipeline.
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The definition's fingerprint: of what may change results, without comments, blanks and secrets.
    pub digest: String,
    /// What relative paths are relative to: the definition's folder.
    pub folder: PathBuf,
    /// Where topics live.
    pub broker: BrokerConfig,
    /// How records are grouped.
    pub epochs: Epochs,
    /// How often all state is written down, and where.
    pub checkpoints: Checkpoints,
    /// Where promoted versions are.
    pub registry: Registry,
    /// What a crash may do to what leaves.
    pub delivery: Delivery,
    /// How many worker threads there are in each process, at least one.
    pub workers: usize,
    /// Where the processes are, if there are several.
    pub processes: Option<Processes>,
    /// Producers.
    pub feeds: Vec<Feed>,
    /// Sources, in the order of the definition: a source's index is its `_source`. The source of `requests[i]` has
    /// the number `sources.len() + i`.
    pub sources: Vec<Source>,
    /// Cleansing steps and models; each comes after all its inputs.
    pub nodes: Vec<Node>,
    /// The streams' names and where they end.
    pub streams: Vec<Stream>,
    /// Models, in the order of the definition.
    pub models: Vec<Model>,
    /// Settings of models to be tried.
    pub sweeps: Vec<Sweep>,
    /// Topics of questions.
    pub requests: Vec<Request>,
    /// Where rows go.
    pub sinks: Vec<Sink>,
    /// How requests are taken over HTTP and gRPC, if they are.
    pub front: Option<crate::front::Settings>,
    /// Where lineage is told, if it is.
    pub lineage: Option<Lineage>,
    /// The address that metrics are served at.
    pub metrics: Option<std::net::SocketAddr>,
    /// What must come of which records.
    pub tests: Vec<Test>,
    /// All topics that the pipeline names, by name, each with its number of partitions.
    pub topics: Vec<(String, u32)>,
    /// The secrets that the definition refers to: pass whatever is printed through [`Secrets::redact`].
    pub secrets: Secrets,
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// An index into [`Pipeline::sources`].
    Source(usize),
    /// An index into [`Pipeline::nodes`].
    Node(usize),
}

/// A producer: reads a source and fills a topic.
pub struct Feed {
    /// Its name.
    pub name: String,
    /// What it reads.
    pub source: PlannedSource,
    /// The columns that it reads, without the engine's.
    pub columns: SchemaRef,
    /// How bytes become columns; `None` where the source gives rows.
    pub format: Option<Format>,
    /// How the columns become the topic's records: in the format of the source that reads the topic, else JSON.
    pub writes: Format,
    /// Index of the timestamp column in `columns`, which paces the records and stamps them.
    pub time: usize,
    /// Index of the column in `columns` whose value is the record's key.
    pub key: Option<usize>,
    /// The topic that it fills.
    pub topic: String,
    /// How many partitions the topic has.
    pub partitions: u32,
}

/// Where records come from.
pub struct Source {
    /// Its name.
    pub name: String,
    /// What it reads.
    pub source: PlannedSource,
    /// The columns, without the engine's.
    pub columns: SchemaRef,
    /// The schema of its batches: the engine's columns, then its own.
    pub schema: SchemaRef,
    /// How bytes become columns; `None` where the source gives rows.
    pub format: Option<Format>,
    /// The format as the definition says it: `{"csv": {...}}`.
    pub written_format: Option<Value>,
    /// Indexes in `columns` of those that every record must have.
    pub required: Vec<usize>,
    /// Index in `columns` of the timestamp that is the event time; `None` for the record's own timestamp.
    pub event_time: Option<usize>,
    /// How much later than newer records a record may come.
    pub lateness_ms: i64,
    /// How far beyond that a late record is still taken, as a correction, milliseconds.
    pub corrections_ms: i64,
    /// How far an event time may be ahead of its record's own timestamp, milliseconds.
    pub ahead_ms: Option<i64>,
    /// How long a partition may be silent before nobody waits for it.
    pub idle_ms: i64,
    /// The digest of its configuration, as far as its rows depend on it.
    pub configuration: String,
}

/// A cleansing step or a model.
pub struct Node {
    /// For metrics: `flights_known/2/join_as_of`, or a model's name.
    pub label: String,
    /// The stream or model that it belongs to.
    pub of: String,
    /// The step's kind, or `model`.
    pub kind: &'static str,
    /// What its ports read, port 0 first.
    pub inputs: Vec<Input>,
    /// The digest of its own configuration, as far as its rows and its state depend on it.
    pub configuration: String,
    /// What runs.
    pub step: Step,
}

/// A stream: a name for where a chain of steps ends.
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its rows; one without steps is its input.
    pub output: Input,
}

/// A model.
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its node, an index into [`Pipeline::nodes`].
    pub node: usize,
    /// The trainer's configuration.
    pub config: Value,
    /// What it begins with, instead of nothing.
    pub begins: Option<Begins>,
    /// Whether it learns; else rows only judge it.
    pub learns: bool,
    /// When a revision is kept as a version.
    pub promote: Option<PromotionRule>,
    /// What must hold of it before it is kept.
    pub gates: Vec<Gate>,
    /// The source at the head of its chain: the one that requests for it enter.
    pub enters: usize,
}

impl Model {
    /// The columns that its features are read from.
    pub fn columns(&self) -> BTreeSet<String> {
        let features: Vec<FeatureConfig> = Vec::deserialize(&self.config["features"]).unwrap_or_default();
        features.iter().flat_map(|feature| feature.columns().iter().cloned()).collect()
    }
}

/// Settings of a model to be tried.
pub struct Sweep {
    /// Its name.
    pub name: String,
    /// The model, an index into [`Pipeline::models`].
    pub model: usize,
    /// The trials.
    pub trials: Vec<Trial>,
    /// The measure over all rows by which they are ranked; by default the decisive one.
    pub by: Option<String>,
    /// After so many rows the worse half is given up, and again each time that there were twice as many; 0 for never.
    pub halve_after: u64,
}

/// A model with other settings.
pub struct Trial {
    /// What was set, by setting.
    pub settings: Row,
    /// The trainer's configuration with it.
    pub config: Value,
    /// What runs.
    pub step: Step,
}

/// A topic of questions and who answers them.
pub struct Request {
    /// Its name.
    pub name: String,
    /// The questions, read like the records of the source that they enter; its `name` is the request's.
    pub source: Source,
    /// The source whose way they go, an index into [`Pipeline::sources`].
    pub enters: usize,
    /// Who answers, indices into [`Pipeline::models`], the requests' own model first.
    pub models: Vec<usize>,
    /// Whose answer is given where there are several; by what is learned in a node.
    pub choose: Option<Choosing>,
    /// The topic of the answers.
    pub answers: String,
    /// How many partitions that topic has.
    pub partitions: u32,
    /// The topic of the answers that are not given, and how many partitions it has.
    pub others: Option<(String, u32)>,
    /// Headers of a request that its answer gets, too.
    pub headers: Vec<String>,
    /// Topics that a request may name in its header `reply-to`: its answer goes there, too.
    pub reply_to: Vec<String>,
    /// What a request may ask for.
    pub on_request: Vec<OnRequest>,
}

impl Request {
    /// Whether a request may ask for this.
    pub fn may_ask(&self, what: OnRequest) -> bool {
        self.on_request.contains(&what)
    }
}

/// Where rows go.
pub struct Sink {
    /// Its name.
    pub name: String,
    /// Whose rows.
    pub from: Input,
    /// What it writes.
    pub sink: PlannedSink,
}

/// A test: see [`crate::testing`].
pub struct Test {
    /// Its name.
    pub name: String,
    /// Records by the number of their source; requests follow the sources.
    pub given: Vec<(usize, Vec<Given>)>,
    /// What must come of them.
    pub expected: Vec<Expected>,
}

/// A record that is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// What it holds.
    pub content: GivenContent,
    /// Its own timestamp, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<String>,
    /// Its partition.
    pub partition: u32,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum GivenContent {
    /// A text as it would be read.
    Text(String),
    /// Values by column.
    Columns(Row),
}

impl Default for GivenContent {
    fn default() -> Self {
        Self::Columns(Row::new())
    }
}

/// Values by column, in the order in which they were written.
pub type Row = Vec<(String, Value)>;

/// What must be found in a place.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The place as the definition calls it.
    pub name: String,
    /// The place.
    pub place: Place,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Where something is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// After a source, a step or a model.
    Rows(Input),
    /// Among the dead letters.
    Dead,
    /// Among the answers to the requests with this index.
    Answers(usize),
}

impl Pipeline {
    /// The schema of the rows at `input`.
    pub fn schema(&self, input: Input) -> &SchemaRef {
        match input {
            Input::Source(index) => &self.sources[index].schema,
            Input::Node(index) => &self.nodes[index].step.schema,
        }
    }
}
