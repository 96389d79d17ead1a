//! The shape of a definition file. Its schema and its documentation are derived from here; the parts that are
//! components (a source, a step, …) are described by the catalogue.

use std::collections::BTreeMap;

use millstream_connectors::broker::PARTITIONS_MAX;
use millstream_connectors::tls::TlsConfig;
use millstream_engine::binder::Limits;
use millstream_operators::registry::PromotionConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A Millstream pipeline: topics and files flow through cleansing steps into models that answer requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The version of this file format: 1.
    pub millstream: u64,
    /// The pipeline's name.
    pub name: String,
    /// Where topics live: `embedded`, or a Kafka cluster.
    #[serde(default)]
    #[schemars(schema_with = "broker")]
    pub broker: Value,
    /// How records are grouped before they enter the pipeline.
    #[serde(default)]
    pub epochs: Epochs,
    /// How often all state is written down, so that a restart replays only what came after.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Where promoted versions are, and what is noted of them: somewhere that several machines share, if that is wanted.
    #[serde(default)]
    pub registry: Registry,
    /// What a crash may do to answers, dead letters and sinks.
    #[serde(default)]
    pub delivery: Delivery,
    /// How many threads work, in each process; as many as there are cores by default.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<usize>,
    /// Workers in several processes, on one machine or several.
    pub processes: Option<Processes>,
    /// Producers, which fill topics from files or generators in the order of time.
    #[serde(default)]
    pub feeds: BTreeMap<String, Feed>,
    /// Where records come from.
    #[serde(default)]
    pub sources: BTreeMap<String, Source>,
    /// Chains of cleansing steps.
    #[serde(default)]
    pub streams: BTreeMap<String, Stream>,
    /// What learns.
    #[serde(default)]
    #[schemars(schema_with = "models")]
    pub models: BTreeMap<String, Value>,
    /// Topics of questions, which models answer.
    #[serde(default)]
    pub requests: BTreeMap<String, Request>,
    /// Where rows go.
    #[serde(default)]
    pub sinks: BTreeMap<String, Sink>,
    /// Settings of models to be tried, by `millstream sweep`.
    #[serde(default)]
    pub sweeps: BTreeMap<String, Sweep>,
    /// What the pipeline serves while it runs.
    #[serde(default)]
    pub serve: Serve,
    /// Tells where data comes from and goes to, for those who collect that.
    pub lineage: Option<Lineage>,
    /// What must come of which records; `millstream test` checks it.
    #[serde(default)]
    pub tests: BTreeMap<String, Test>,
}

/// How records are grouped before they enter the pipeline. An idle pipeline takes what there is at once; a busy
/// one takes more at a time, up to these limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Epochs {
    /// Records in one epoch at most.
    #[schemars(range(min = 1))]
    pub max_records: u64,
    /// Bytes in one epoch at most.
    #[schemars(range(min = 1))]
    pub max_bytes: u64,
    /// Bytes that may have entered and not yet left: the memory budget of the records.
    #[schemars(range(min = 1))]
    pub in_flight_bytes: u64,
}

impl Default for Epochs {
    fn default() -> Self {
        let Limits { max_records, max_bytes, in_flight_bytes, .. } = Limits::default();
        Self { max_records: max_records as u64, max_bytes: max_bytes as u64, in_flight_bytes: in_flight_bytes as u64 }
    }
}

/// Workers in several processes: `millstream run` is the first, and reads, commits, answers and serves alone; each of the others is
/// `millstream work FILE --process N`, with the same definition, and works for it. If one goes, the run ends; it goes on when all are
/// there again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Processes {
    /// Where each takes the others' connections, `host:port`, the first one's first. They have to be in a network of one's own: what
    /// processes send each other is not encrypted.
    #[schemars(length(min = 2, max = 64))]
    pub addresses: Vec<String>,
    /// What all know, of 16 characters or more, such as `${env:PROCESSES_SECRET}`: who does not know it is not let in.
    pub secret: String,
    /// For how many seconds one may say nothing until it counts as gone, from 2.
    #[serde(default = "patience_seconds")]
    #[schemars(range(min = 2, max = 3600))]
    pub patience_seconds: f64,
}

fn patience_seconds() -> f64 {
    20.0
}

/// How often all state is written down, so that a restart replays only what came after. It is time when one of the two
/// limits has been reached.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// A folder, or the URL of an object store (`s3://bucket/prefix`); by default `checkpoints/` in the state directory.
    pub to: Option<String>,
    /// Seconds between two checkpoints at most, while there is something new.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub every_seconds: f64,
    /// Bytes of records that a restart replays, at most about.
    #[schemars(range(min = 1))]
    pub every_bytes: u64,
    /// How many checkpoints are kept. Should the newest turn out to be damaged, the one before it is used.
    #[schemars(range(min = 3))]
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { to: None, every_seconds: 30.0, every_bytes: 1 << 30, keep: 3 }
    }
}

/// Where promoted versions are, and what is noted of them: aliases, tags, descriptions, history. Who shares a registry tells models apart
/// by their names alone. It may be changed between runs; what is there does not move along.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// A folder, or the URL of an object store (`s3://bucket/models`) that holds nothing else; by default `models/` in the state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artefacts: Option<String>,
    /// The `PostgreSQL` database in which machines that share a registry note what changes: `postgres://USER:PASSWORD@HOST/DATABASE`,
    /// written as a reference to a secret. With `sslmode=require` only over TLS, where the server's certificate is always verified
    /// (`sslrootcert=FILE` names other authorities), and `options=-csearch_path%3DNAME` for another schema than `millstream_registry`.
    /// Without it `registry.sqlite` beside the versions or, where these are in an object store, in the state directory: then one
    /// machine alone may change the registry.
    #[serde(skip_serializing)]
    pub database: Option<String>,
}

/// The database's URL has a password.
impl std::fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Registry").field("artefacts", &self.artefacts).finish_non_exhaustive()
    }
}

/// What a crash may do to answers, dead letters and sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Nothing: they and the progress become visible together, in one transaction.
    #[default]
    ExactlyOnce,
    /// Some may come twice: they go out at once, and the progress after them.
    AtLeastOnce,
}

/// A producer, which fills a topic.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// What it reads.
    #[schemars(schema_with = "source")]
    pub from: Value,
    /// How the bytes that it reads become columns; by default as in the source that reads the topic.
    #[serde(default)]
    #[schemars(schema_with = "format")]
    pub format: Option<Value>,
    /// The columns and their types, in order; by default those of the source that reads the topic.
    pub columns: Option<BTreeMap<String, ColumnType>>,
    /// The timestamp column that paces the records and stamps them.
    pub time: String,
    /// The topic that it fills.
    pub topic: String,
    /// How many partitions the topic has.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    pub partitions: u32,
    /// The column whose value is the record's key, which decides the partition.
    pub key: Option<String>,
}

/// Where records come from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What it reads.
    #[schemars(schema_with = "source")]
    pub from: Value,
    /// How the bytes become columns.
    #[serde(default)]
    #[schemars(schema_with = "format")]
    pub format: Option<Value>,
    /// The columns and their types, in order. A value may be missing in any of them.
    pub columns: Option<BTreeMap<String, ColumnType>>,
    /// Columns that every record must have: one in which a value is missing becomes a dead letter. Questions need not have them.
    #[serde(default)]
    pub required: Vec<String>,
    /// When things happened; by default the record's own timestamp.
    pub event_time: Option<EventTime>,
    /// How long a partition may be silent before the pipeline no longer waits for it.
    #[serde(default = "idle_seconds")]
    #[schemars(range(min = 0))]
    pub idle_seconds: f64,
}

/// When things happened.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTime {
    /// A timestamp column.
    pub column: String,
    /// How much later than newer records a record may come.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub lateness_seconds: f64,
    /// How much later than that a record may still come: as a correction, which takes its place in the stream where it
    /// became known, and which steps that look at the event time count where it belongs. Later ones are dead letters.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub corrections_seconds: f64,
    /// How far a record may be ahead of its own timestamp, which says when it came to its topic. One that is further has a wrong
    /// clock, and becomes a dead letter; it would bring event time forward, and all that come after it would be late. By
    /// default, any record may.
    #[schemars(range(min = 0))]
    pub ahead_seconds: Option<f64>,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline, title = "column type")]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// A whole number of 64 bits.
    Int,
    /// A floating-point number of 64 bits.
    Float,
    /// True or false.
    Bool,
    /// Milliseconds since 1970, UTC.
    Timestamp,
}

/// A chain of cleansing steps.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// The source or stream that it continues.
    pub input: String,
    /// The steps, one after the other.
    #[serde(default)]
    #[schemars(schema_with = "steps")]
    pub steps: Vec<Value>,
}

/// What learns. The rest of its configuration is described by the trainer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Model {
    /// The source or stream that it learns from.
    pub input: String,
    /// When a revision is kept as a version, under its own number.
    pub promote: Option<PromotionConfig>,
    /// What must hold of what it has measured, before a revision is kept and for `millstream ci` to pass: SQL conditions such as
    /// `log_loss < majority_log_loss` or `"accuracy carrier=AA" > 0.6`.
    #[serde(default)]
    pub gates: Vec<String>,
    /// What it begins with, instead of nothing: what another model has learned.
    pub from: Option<Begins>,
}

/// What a model begins with: a version, or a file. What a name means when a pipeline first starts with
/// it, it means as long as the definition says so.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Begins {
    /// A version as `millstream models show` takes it: `returns@champion`, `returns/1f3a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The registry that has the version, instead of the pipeline's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Elsewhere>,
    /// Instead of a version: a folder of a model's files, as `millstream learn --to` and `models export` write them, or its
    /// `state.bin`; or weights of others as safetensors, named and shaped as ours are, for linear models and networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Another registry.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Elsewhere {
    /// Its folder, or the URL of the store that it is in.
    Place(String),
    /// The same, and the database in which its aliases and numbers are noted.
    Shared(Registry),
}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Place(place) | Self::Shared(Registry { artefacts: Some(place), .. }) => formatter.write_str(place),
            Self::Shared(_) => formatter.write_str("the pipeline's own versions"),
        }
    }
}

impl Begins {
    /// What a definition says, as JSON: always the same, and without secrets.
    pub fn words(&self) -> String {
        serde_json::to_string(self).expect("texts are JSON")
    }
}

impl std::fmt::Display for Begins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, registry, file } = self;
        match (version, registry, file) {
            (Some(version), Some(registry), _) => write!(formatter, "`{version}` of {registry}"),
            (Some(name), None, _) | (None, _, Some(name)) => write!(formatter, "`{name}`"),
            _ => write!(formatter, "nothing"),
        }
    }
}

/// A topic of questions, which a model answers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The topic that the questions come from. They look like the records of the source that they enter.
    pub topic: String,
    /// How many partitions the topic has.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    pub partitions: u32,
    /// The source whose way through the steps the questions take.
    pub enters: String,
    /// The model that answers.
    pub model: String,
    /// Whose answer is given where other models answer, too.
    #[serde(default)]
    #[schemars(schema_with = "policy")]
    pub policy: Option<Value>,
    /// Where the answers go.
    pub answers: Answers,
    /// Where the answers of others go, which were not given.
    pub others: Option<Answers>,
    /// Headers of a request that its answer gets, too: `correlation-id`, `traceparent`. Of values longer than 1,024 bytes nothing.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Topics that a request may name in its header `reply-to`: its answer goes there, too. Others are passed over.
    #[serde(default)]
    pub reply_to: Vec<String>,
    /// What a request may ask for by its headers (over HTTP and gRPC by its parameters, and by the version in its path); what it
    /// may not is passed over.
    #[serde(default)]
    pub on_request: Vec<OnRequest>,
}

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRequest {
    /// The answer of one of the models that answer, whatever the policy: by the header `version`, with its name.
    Version,
    /// The features that its answer was given by: by the header `features`, unless that says `false`.
    Features,
}

/// Where answers go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// The topic.
    pub topic: String,
    /// How many partitions the topic has.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    pub partitions: u32,
}

/// Where rows go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// The source, stream or model whose rows it gets.
    pub from: String,
    /// What it writes.
    #[schemars(schema_with = "sink")]
    pub to: Value,
}

/// Settings of a model to be tried: all trials learn side by side from the same rows, which are cleansed once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// The model.
    pub model: String,
    /// By setting (`learner.logistic_regression.update.sgd.rate`): what it is set to.
    pub vary: BTreeMap<String, Vary>,
    /// How many trials are drawn at random; without it, all combinations are tried.
    #[schemars(range(min = 1, max = 1000))]
    pub trials: Option<usize>,
    /// The measure over all rows by which trials are ranked; by default log loss, or root mean squared error.
    pub by: Option<String>,
    /// After so many rows the worse half of the trials is given up, and again each time that there were twice as many; 0 for never.
    #[serde(default)]
    pub halve_after: u64,
}

/// What a setting is set to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Vary {
    /// One of these.
    Values(Vec<Value>),
    /// Any number of a range, where trials are drawn at random.
    Range(Range),
}

/// A range of numbers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least.
    pub from: f64,
    /// The most.
    pub to: f64,
    /// Whether each size is as likely as another: 0.01 to 0.1 as 0.1 to 1.
    #[serde(default)]
    pub log: bool,
    /// Whether only whole numbers are drawn.
    #[serde(default)]
    pub whole: bool,
}

/// Tells of runs, of what they read and write, and of the versions that they make, as `OpenLineage` events.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The topic of the events.
    pub topic: String,
    /// The namespace of the job and of its models.
    #[serde(default = "millstream")]
    pub namespace: String,
}

fn millstream() -> String {
    "millstream".to_owned()
}

/// What the pipeline serves while it runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The address of the Prometheus metrics: `127.0.0.1:9464`.
    pub metrics: Option<String>,
    /// Takes requests over HTTP: all those under `requests`, each under its name. `POST /v2/models/NAME/infer`.
    pub http: Option<Front>,
    /// Takes them over gRPC, as `inference.GRPCInferenceService`.
    pub grpc: Option<Front>,
}

/// Requests by the Open Inference Protocol, version 2; a model's name there is that of the requests. They go through the requests'
/// topic as others do, so each is answered once and a replay answers it the same. Of HTTP and gRPC together only so many rows wait
/// as the stricter one says.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// The address and port to listen at; port 0 takes a free one.
    pub listen: String,
    /// What clients must send as `Authorization: Bearer …`; written as a reference to a secret. It can only be left
    /// out where no other machine can reach the address.
    pub token: Option<String>,
    /// Whether TLS is spoken.
    pub tls: Option<TlsConfig>,
    /// How soon requests should be answered: where they are not, fewer may wait at a time, and others are refused at once.
    #[serde(default = "objective_seconds")]
    #[schemars(range(min = 0.001, max = 60))]
    pub objective_seconds: f64,
    /// Rows that may wait for their answers at a time, at most, of each kind of requests.
    #[serde(default = "max_waiting")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_waiting: usize,
    /// The largest body, in bytes.
    #[serde(default = "millstream_connectors::http::body_bytes")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_body_bytes: usize,
    /// Connections at most; further ones wait.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and may be silent between requests.
    #[serde(default = "millstream_connectors::http::header_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub header_seconds: f64,
    /// How long a body may take to arrive, and then its answer.
    #[serde(default = "millstream_connectors::http::timeout_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub timeout_seconds: f64,
}

fn objective_seconds() -> f64 {
    0.05
}

fn max_waiting() -> usize {
    4096
}

fn connections() -> usize {
    4096
}

/// A test of the pipeline: what is given, and what must come of it. It runs on the real engine, in memory, without
/// topics, files or state. Of an expected row only the columns that it names are compared; the number of rows must agree.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Records by source; sources that are not named have none. Behind the last ones nobody is waited for any more.
    #[serde(default)]
    pub given: BTreeMap<String, Vec<Given>>,
    /// Questions by their name in `requests`, asked when everything given has been learned.
    #[serde(default)]
    pub ask: BTreeMap<String, Vec<Given>>,
    /// Rows after a source, a stream, a step of a stream (`clean/2` is the third one) or a model, in the order of event time.
    #[serde(default)]
    pub expect: BTreeMap<String, Vec<BTreeMap<String, Value>>>,
    /// Dead letters, in the order of their sources and records; without this key they may be any.
    pub dead: Option<Vec<Letter>>,
    /// Answers by the name in `requests`: the answer's own columns, `model`, `revision`, `staleness_seconds`; for an error
    /// answer `step` and `reason`, in which `*` stands for anything.
    #[serde(default)]
    pub answers: BTreeMap<String, Vec<BTreeMap<String, Value>>>,
}

/// A record: a text as it would be read, or a map of columns. In a map, `_time` is the record's own timestamp, `_key` its
/// key and `_partition` its partition.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Given {
    /// As it would be read.
    Text(String),
    /// Values by column; what is left out is missing.
    Columns(BTreeMap<String, Value>),
}

/// What is expected of a dead letter; what is left out may be anything. In texts `*` stands for any text and `?` for any
/// character.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    /// The source, or the name of the requests.
    pub source: Option<String>,
    /// The record's partition.
    pub partition: Option<u64>,
    /// The record's number in its partition, from 0.
    pub offset: Option<u64>,
    /// `learn` or `serve`.
    pub lane: Option<String>,
    /// Who could not take it: a source, a step (`clean/0/require`) or a model.
    pub step: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The record's bytes.
    pub raw: Option<String>,
}

fn one() -> u32 {
    1
}

fn idle_seconds() -> f64 {
    30.0
}

fn broker(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/any_broker"})
}

fn source(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/any_source"})
}

fn format(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/any_format"})
}

fn policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/any_policy"})
}

fn sink(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/any_sink"})
}

fn steps(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"$ref": "#/$defs/any_step"}})
}

fn models(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"$ref": "#/$defs/any_model"}})
}
