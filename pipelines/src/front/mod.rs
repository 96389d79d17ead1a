//! Requests over HTTP and gRPC: the Open Inference Protocol, version 2, into the same lane as requests from a topic.
//!
//! ```text
//! POST /v2/models/NAME/infer ─┬─► admission ─► its rows as records of the requests' topic, durable ─► the pipeline
//! ModelInfer(NAME) ───────────┘                                                                         │ one transaction
//!      ▲                                                                                                │
//!      └──────────────────── hub: whoever waits for a row's answer gets it ◄────────────────────────────┘
//! ```
//! So a request that is asked here is in the log as any other: it is answered once, by a revision that a replay rebuilds, and
//! `audit` counts it. `NAME` is that of the requests in the definition.

mod admission;
mod grpc;
mod http;
mod hub;
mod infer;
mod tensors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use millstream_connectors::broker::Broker;
use millstream_connectors::formats::MakeEncoder;
use millstream_connectors::http::{Limits, Protocol, Refusal, Serve, listen};
use millstream_connectors::sources::intake::{self, Inlet, Intake, Receiver, Repeats, Writing};
use millstream_engine::book::Book;
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::Rejects;
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::plan::{self, OnRequest, Pipeline};
use crate::run::{Answers, Options};
use admission::Admission;
pub use hub::{Fronted, Hub};
use tensors::Columns;

/// How much of the time in which requests should be answered one may wait for others, where few do: a tenth, and no longer than this.
const PACES: u32 = 10;
const PACE_MAX: Duration = Duration::from_millis(2);

/// Why a version cannot be asked.
const NEWEST_ONLY: &str = "answers come from the newest revision, and say which it was; ask without a version, or let the requests \
    say `on_request: [version]`";

/// A checked configuration of the front.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the listener for HTTP, if there is one.
    pub http: Option<Limits>,
    /// Of the listener for gRPC, if there is one.
    pub grpc: Option<Limits>,
    /// How soon requests should be answered.
    pub objective: Duration,
    /// How many rows may wait at most.
    pub waiting_max: usize,
}

/// What the front needs of a run.
pub struct Around<'a> {
    /// Where topics live.
    pub broker: &'a Arc<dyn Broker>,
    /// How the run was started.
    pub options: &'a Options,
    /// Takes answers to those who wait.
    pub hub: &'a Arc<Hub>,
    /// Where it counts.
    pub metrics: &'a Metrics,
    /// Fails if another run has taken over.
    pub is_ours: &'a Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

/// A front at work; it ends when it is dropped.
pub struct Running {
    /// Where it listens, what for (`serve.http`), and how that is spoken.
    addresses: Vec<(&'static str, SocketAddr, &'static str)>,
    _receiver: Receiver,
}

/// Starts the front, if the pipeline has one.
pub fn start(pipeline: &Pipeline, around: &Around<'_>) -> Result<Option<Running>> {
    let Some(settings) = &pipeline.front else { return Ok(None) };
    let runtime = intake::runtime()?;
    let http = settings.http.clone().map(|limits| Door::open("serve.http", limits, &runtime)).transpose()?;
    let grpc = settings.grpc.clone().map(|limits| Door::open("serve.grpc", limits, &runtime)).transpose()?;
    let counts = Counts::new(around.metrics);
    let (mut endpoints, mut writings, mut inlets) = (Vec::new(), Vec::<Writing>::new(), Vec::new());
    for (at, request) in pipeline.requests.iter().enumerate() {
        let inlet = around.inlet(pipeline, request);
        let (intake, writing) = Intake::paced(&inlet, Repeats::Sender, (settings.objective / PACES).min(PACE_MAX))?;
        endpoints.push(Endpoint::new(pipeline, at, intake, settings, around, &counts));
        writings.push(writing);
        inlets.push(inlet);
    }
    let Some(inlet) = inlets.first() else { return Ok(None) };
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared { endpoints, counts, stopping });
    let (mut addresses, mut works) = (Vec::new(), Vec::new());
    if let Some(door) = http {
        addresses.push((door.called, door.address, if door.limits.tls.is_some() { "https" } else { "http" }));
        let service = http::Front { limits: door.limits.clone(), shared: shared.clone() };
        works.push(door.serve(&runtime, Protocol::Http1, service, &shared));
    }
    if let Some(door) = grpc {
        addresses.push((door.called, door.address, "gRPC"));
        let service = grpc::Front { limits: door.limits.clone(), shared: shared.clone() };
        works.push(door.serve(&runtime, Protocol::Http2, service, &shared));
    }
    drop(shared);
    let work = async {
        for work in works {
            work.await.map_err(|error| Fault::ours("a front broke down").because(error))??;
        }
        Ok(())
    };
    Ok(Some(Running { addresses, _receiver: Receiver::spawn(runtime, writings, stop, inlet, work) }))
}

/// A listener that nobody serves yet.
struct Door {
    called: &'static str,
    limits: Limits,
    listener: TcpListener,
    address: SocketAddr,
}

impl Door {
    fn open(called: &'static str, limits: Limits, runtime: &Runtime) -> Result<Self> {
        let taken = |error| {
            let message = format!("requests cannot be taken at {}; choose another `{called}.listen`", limits.listen);
            Fault::world(message).because(error)
        };
        let listener = runtime.block_on(TcpListener::bind(limits.listen)).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        Ok(Self { called, limits, listener, address })
    }

    fn serve(self, on: &Runtime, protocol: Protocol, service: impl Serve, shared: &Shared) -> JoinHandle<Result<()>> {
        on.spawn(listen(self.listener, self.limits, protocol, Arc::new(service), shared.stopping.clone()))
    }
}

impl Around<'_> {
    fn inlet(&self, pipeline: &Pipeline, request: &plan::Request) -> Inlet {
        let book = self.options.book.clone();
        Inlet {
            id: format!("{}.{}.front", pipeline.name, request.name),
            topic: request.source.source.topic.as_ref().map_or_else(String::new, |(topic, _)| topic.clone()),
            broker: self.broker.clone(),
            clock: self.options.clock.clone(),
            is_ours: self.is_ours.clone(),
            fail: Arc::new(move |fault| book.abort(fault)),
        }
    }
}

/// Requests as they can be asked.
struct Endpoint {
    name: String,
    /// The requests' source in the graph.
    source: u32,
    columns: Columns,
    event_time: Option<usize>,
    encoder: MakeEncoder,
    /// Who answers: names and folds, the requests' own first; and what rows the folds take.
    models: Vec<(String, usize, arrow::datatypes::SchemaRef)>,
    /// Whether a request may name which of them answers.
    by_name: bool,
    /// How answers are written.
    answers: Answers,
    intake: Intake,
    admission: Arc<Admission>,
    waiting: IntGauge,
    limit: IntGauge,
    hub: Arc<Hub>,
    book: Arc<Book>,
    clock: Arc<dyn Clock>,
}

/// What an endpoint takes and gives: columns with their datatypes.
struct About {
    inputs: Vec<(String, &'static str)>,
    outputs: Vec<(String, &'static str)>,
    /// Those that may be asked for; else the newest revision, once there is one.
    versions: Vec<String>,
    models: Vec<String>,
}

impl Endpoint {
    fn new(
        pipeline: &Pipeline,
        at: usize,
        intake: Intake,
        settings: &Settings,
        around: &Around<'_>,
        counts: &Counts,
    ) -> Self {
        let request = &pipeline.requests[at];
        let format = request.source.format.as_ref().expect("questions have a format: they are read from a topic");
        let model = |model: &usize| {
            let model = &pipeline.models[*model];
            (model.name.clone(), model.node, pipeline.schema(pipeline.nodes[model.node].inputs[0]).clone())
        };
        Self {
            name: request.name.clone(),
            source: (pipeline.sources.len() + at) as u32,
            columns: Columns::new(request.source.columns.clone()),
            event_time: request.source.event_time,
            encoder: format.encoder.clone(),
            models: request.models.iter().map(model).collect(),
            by_name: request.may_ask(OnRequest::Version),
            answers: crate::run::answers_to(pipeline, request),
            intake,
            admission: Arc::new(Admission::new(settings.waiting_max, settings.objective)),
            waiting: counts.waiting.with_label_values(&[&request.name]),
            limit: counts.limit.with_label_values(&[&request.name]),
            hub: around.hub.clone(),
            book: around.options.book.clone(),
            clock: around.options.clock.clone(),
        }
    }

    /// Its models; only the one that a version is, where that is said.
    fn models(&self, version: Option<&str>) -> impl Iterator<Item = &(String, usize, arrow::datatypes::SchemaRef)> {
        self.models.iter().filter(move |(name, ..)| version.is_none_or(|version| version == name))
    }

    /// Whether any of its models has learned something, or the one that a version is.
    fn is_ready(&self, version: Option<&str>) -> bool {
        self.models(version).any(|(_, fold, _)| self.book.newest_revision(*fold).is_some())
    }

    /// What it takes and gives.
    fn describe(&self) -> About {
        let tensor =
            |field: &arrow::datatypes::FieldRef| (field.name().clone(), tensors::datatype_of(field.data_type()));
        let newest = self.models.iter().find_map(|(_, fold, rows)| Some((self.book.newest_revision(*fold)?, rows)));
        let (mut outputs, mut versions) = (Vec::new(), Vec::new());
        if let Some((revision, rows)) = newest {
            versions.push(revision.number.to_string());
            let none = arrow::array::RecordBatch::new_empty(rows.clone());
            if let Ok(answer) = revision.answer.answer(&none, &mut Rejects::default()) {
                outputs.extend(answer.schema_ref().fields().iter().map(tensor));
            }
        }
        let models: Vec<String> = self.models.iter().map(|(name, ..)| name.clone()).collect();
        About {
            inputs: self.columns.schema.fields().iter().map(tensor).collect(),
            outputs,
            versions: if self.by_name { models.clone() } else { versions },
            models,
        }
    }
}

/// What the front counts.
struct Counts {
    requests_total: IntCounterVec,
    seconds: HistogramVec,
    waiting: IntGaugeVec,
    limit: IntGaugeVec,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let gauge = |name: &str, help: &str| metrics.register(IntGaugeVec::new(Opts::new(name, help), &["requests"]));
        let seconds = HistogramOpts::new("front_seconds", "Seconds from a request to its answer, by front.");
        let buckets = vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let requests = Opts::new("front_requests_total", "Requests over HTTP and gRPC, by front and status.");
        Self {
            requests_total: metrics.register(IntCounterVec::new(requests, &["front", "requests", "status"])),
            seconds: metrics.register(HistogramVec::new(seconds.buckets(buckets), &["front"])),
            waiting: gauge("front_rows_waiting", "Rows asked over HTTP and gRPC that wait for their answers."),
            limit: gauge("front_rows_limit", "Rows asked over HTTP and gRPC that may wait for their answers."),
        }
    }
}

/// What all fronts share.
struct Shared {
    endpoints: Vec<Endpoint>,
    counts: Counts,
    stopping: watch::Receiver<bool>,
}

impl Shared {
    fn is_ready(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.is_ready(None))
    }

    fn endpoint(&self, name: &str) -> std::result::Result<&Endpoint, Refusal> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let message = format!("there are no requests `{name}`; there are {}", names.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, message)
        })
    }

    /// Counts a request, and the seconds until it was answered if it was.
    fn count(&self, front: &str, endpoint: &Endpoint, status: &str, seconds: Option<f64>) {
        if let Some(seconds) = seconds {
            self.counts.seconds.with_label_values(&[front]).observe(seconds);
        }
        self.counts.requests_total.with_label_values(&[front, &endpoint.name, status]).inc();
        let (waiting, limit) = endpoint.admission.state();
        endpoint.waiting.set(waiting as i64);
        endpoint.limit.set(limit as i64);
        endpoint.hub.count(endpoint.source, seconds, waiting);
    }
}

/// A name for a run that no other has: of when and where it runs.
pub fn nonce(now_ms: i64) -> String {
    let seed = format!("{now_ms} {}", std::process::id());
    blake3::hash(seed.as_bytes()).to_hex()[..12].to_owned()
}

/// Where the front listens, for those who asked.
pub fn tell(front: Option<&Running>, options: &Options) {
    for (called, address, spoken) in front.iter().flat_map(|front| &front.addresses) {
        if !options.quiet {
            match *called {
                "serve.http" => eprintln!("requests at {spoken}://{address}/v2"),
                _ => eprintln!("requests at {address}, over {spoken}"),
            }
        }
        if let Some(listening) = &options.listening {
            // Whoever asked may have gone.
            drop(listening.send(((*called).to_owned(), *address)));
        }
    }
}
