//! Requests over HTTP: the Open Inference Protocol, version 2, into the same lane as requests from a topic.
//!
//! ```text
//! POST /v2/models/NAME/infer ─► admission ─► its rows as records of the requests' topic, durable ─► the pipeline
//!            ▲                                                                                         │ one transaction
//!            └──────────────── hub: whoever waits for a row's answer gets it ◄─────────────────────────┘
//! ```
//! So a request that is asked over HTTP is in the log as any other: it is answered once, by a revision that a replay rebuilds, and
//! `audit` counts it. `NAME` is that of the requests in the definition.

mod admission;
mod hub;
mod infer;
mod tensors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use millstream_connectors::broker::Broker;
use millstream_connectors::formats::MakeEncoder;
use millstream_connectors::http::{Body, Limits, Refusal, Serve, listen, respond};
use millstream_connectors::sources::intake::{self, Inlet, Intake, Receiver, Repeats};
use millstream_engine::book::Book;
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::Rejects;
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::plan::{self, Pipeline};
use crate::run::Options;
use admission::Admission;
pub use hub::Hub;

/// A checked configuration of the front.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the listener.
    pub limits: Limits,
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

/// Starts the front, if the pipeline has one; it ends when it is dropped.
pub fn start(pipeline: &Pipeline, around: &Around<'_>) -> Result<Option<Receiver>> {
    let Some(settings) = pipeline.front else { return Ok(None) };
    let limits = settings.limits;
    let taken = |error| {
        let message = format!("requests cannot be taken at {}; choose another `serve.http.listen`", limits.listen);
        Fault::world(message).because(error)
    };
    let runtime = intake::runtime()?;
    let listener = runtime.block_on(TcpListener::bind(limits.listen)).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let counts = Counts::new(around.metrics);
    let (mut endpoints, mut writings, mut inlets) = (Vec::new(), Vec::new(), Vec::new());
    for (at, request) in pipeline.requests.iter().enumerate() {
        let inlet = around.inlet(pipeline, request);
        let (intake, writing) = Intake::start(&inlet, Repeats::Sender)?;
        endpoints.push(Endpoint::new(pipeline, at, intake, &settings, around));
        writings.push(writing);
        inlets.push(inlet);
    }
    let Some(inlet) = inlets.first() else { return Ok(None) };
    let (stop, stopping) = watch::channel(false);
    let service = Front { limits, endpoints, counts, stopping: stopping.clone() };
    let work = listen(listener, limits, Arc::new(service), stopping);
    Ok(Some(Receiver::spawn(runtime, writings, stop, inlet, work).at(address)))
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
    columns: arrow::datatypes::SchemaRef,
    event_time: Option<usize>,
    encoder: MakeEncoder,
    /// Who answers: names and folds, the requests' own first; and what rows the folds take.
    models: Vec<(String, usize, arrow::datatypes::SchemaRef)>,
    intake: Intake,
    admission: Arc<Admission>,
    hub: Arc<Hub>,
    book: Arc<Book>,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

impl Endpoint {
    fn new(pipeline: &Pipeline, at: usize, intake: Intake, settings: &Settings, around: &Around<'_>) -> Self {
        let request = &pipeline.requests[at];
        let format = request.source.format.as_ref().expect("questions have a format: they are read from a topic");
        let model = |model: &usize| {
            let model = &pipeline.models[*model];
            (model.name.clone(), model.node, pipeline.schema(pipeline.nodes[model.node].inputs[0]).clone())
        };
        Self {
            name: request.name.clone(),
            source: (pipeline.sources.len() + at) as u32,
            columns: request.source.columns.clone(),
            event_time: request.source.event_time,
            encoder: format.encoder.clone(),
            models: request.models.iter().map(model).collect(),
            intake,
            admission: Arc::new(Admission::new(settings.waiting_max, settings.objective)),
            hub: around.hub.clone(),
            book: around.options.book.clone(),
            clock: around.options.clock.clone(),
            patience: settings.limits.patience,
        }
    }

    /// Whether any of its models has learned something.
    fn is_ready(&self) -> bool {
        self.models.iter().any(|(_, fold, _)| self.book.newest_revision(*fold).is_some())
    }

    /// What it takes and gives.
    fn describe(&self) -> Value {
        let tensor = |field: &arrow::datatypes::Field| json!({"name": field.name(), "datatype": tensors::datatype_of(field.data_type()), "shape": [-1]});
        let inputs: Vec<Value> = self.columns.fields().iter().map(|field| tensor(field)).collect();
        let newest = self.models.iter().find_map(|(_, fold, rows)| Some((self.book.newest_revision(*fold)?, rows)));
        let (mut outputs, mut versions) = (Vec::new(), Vec::new());
        if let Some((revision, rows)) = newest {
            versions.push(revision.number.to_string());
            let none = arrow::array::RecordBatch::new_empty(rows.clone());
            if let Ok(answer) = revision.answer.answer(&none, &mut Rejects::default()) {
                outputs.extend(answer.schema_ref().fields().iter().map(|field| tensor(field)));
            }
        }
        let models: Vec<&String> = self.models.iter().map(|(name, ..)| name).collect();
        json!({
            "name": self.name, "versions": versions, "platform": "millstream", "inputs": inputs, "outputs": outputs,
            "parameters": {"models": models},
        })
    }
}

/// What the front counts.
struct Counts {
    requests_total: IntCounterVec,
    seconds: Histogram,
    waiting: IntGaugeVec,
    limit: IntGaugeVec,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let gauge = |name: &str, help: &str| metrics.register(IntGaugeVec::new(Opts::new(name, help), &["requests"]));
        let seconds = HistogramOpts::new("front_seconds", "Seconds from a request over HTTP to its answer.");
        let buckets = vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let requests = Opts::new("front_requests_total", "Requests over HTTP, by status.");
        Self {
            requests_total: metrics.register(IntCounterVec::new(requests, &["requests", "status"])),
            seconds: metrics.register(Histogram::with_opts(seconds.buckets(buckets))),
            waiting: gauge("front_rows_waiting", "Rows asked over HTTP that wait for their answers."),
            limit: gauge("front_rows_limit", "Rows asked over HTTP that may wait for their answers."),
        }
    }
}

/// The service.
struct Front {
    limits: Limits,
    endpoints: Vec<Endpoint>,
    counts: Counts,
    stopping: watch::Receiver<bool>,
}

impl Serve for Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(Refusal::response)
    }
}

impl Front {
    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        self.limits.admit(request.headers())?;
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let is_post = request.method() == Method::POST;
        if !is_post && request.method() != Method::GET {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "requests are posted, all else is got");
            return Err(refusal.with((ALLOW.as_str(), "GET, POST")));
        }
        let known = |ok: bool, what: &str| {
            if ok {
                Ok(respond(StatusCode::OK, &json!({what: true})))
            } else {
                Err(Refusal::later(format!("not {what}")))
            }
        };
        let (name, rest) = match parts.as_slice() {
            ["v2"] if !is_post => {
                let extensions = ["binary_tensor_data"];
                let version = env!("CARGO_PKG_VERSION");
                return Ok(respond(
                    StatusCode::OK,
                    &json!({"name": "millstream", "version": version, "extensions": extensions}),
                ));
            }
            ["v2", "health", "live"] if !is_post => return known(true, "live"),
            ["v2", "health", "ready"] if !is_post => {
                return known(self.endpoints.iter().all(Endpoint::is_ready), "ready");
            }
            ["v2", "models", name, rest @ ..] => (*name, rest),
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; begin at /v2")),
        };
        let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.name == name) else {
            let names: Vec<&str> = self.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let message = format!("there are no requests `{name}`; there are {}", names.join(", "));
            return Err(Refusal::new(StatusCode::NOT_FOUND, message));
        };
        match (is_post, rest) {
            (true, ["infer"]) => {
                let answered = endpoint.infer(request, &self.limits).await;
                self.count(endpoint, &answered);
                answered.map(|(response, _)| response)
            }
            (false, []) => Ok(respond(StatusCode::OK, &endpoint.describe())),
            (false, ["ready"]) => known(endpoint.is_ready(), "ready"),
            (false, ["answers"]) => self.follow(endpoint),
            (_, ["versions", ..]) => {
                let message = "answers come from the newest revision, and say which it was; ask without a version";
                Err(Refusal::new(StatusCode::NOT_FOUND, message))
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing here; ask at /v2/models/{name}/infer"),
            )),
        }
    }

    fn count(&self, endpoint: &Endpoint, answered: &Result<(Response<Body>, f64), Refusal>) {
        let status = match answered {
            Ok((response, seconds)) => {
                self.counts.seconds.observe(*seconds);
                response.status()
            }
            Err(refusal) => refusal.status(),
        };
        self.counts.requests_total.with_label_values(&[endpoint.name.as_str(), status.as_str()]).inc();
        let (waiting, limit) = endpoint.admission.state();
        self.counts.waiting.with_label_values(&[&endpoint.name]).set(waiting as i64);
        self.counts.limit.with_label_values(&[&endpoint.name]).set(limit as i64);
    }

    /// All answers from now on, as server-sent events.
    fn follow(&self, endpoint: &Endpoint) -> Result<Response<Body>, Refusal> {
        let gone = || Refusal::new(StatusCode::NOT_FOUND, "nobody answers here");
        let answers = endpoint.hub.follow(endpoint.source).ok_or_else(gone)?;
        let events =
            futures_util::stream::unfold((answers, self.stopping.clone()), |(mut answers, mut stopping)| async {
                let event = tokio::select! {
                    answer = answers.recv() => match answer {
                        Ok(answer) => [b"data: ".as_slice(), &answer, b"\n\n"].concat(),
                        Err(RecvError::Lagged(missed)) => format!("event: missed\ndata: {missed}\n\n").into_bytes(),
                        Err(RecvError::Closed) => return None,
                    },
                    _ = stopping.wait_for(|stopping| *stopping) => return None,
                };
                Some((Ok(Frame::data(Bytes::from(event))), (answers, stopping)))
            });
        let mut response = Response::new(StreamBody::new(events).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// A name for a run that no other has: of when and where it runs.
pub fn nonce(now_ms: i64) -> String {
    let seed = format!("{now_ms} {}", std::process::id());
    blake3::hash(seed.as_bytes()).to_hex()[..12].to_owned()
}

/// Where the front listens, for those who asked.
pub fn tell(front: Option<&Receiver>, options: &Options) {
    let Some(address): Option<SocketAddr> = front.and_then(|front| front.address) else { return };
    if !options.quiet {
        eprintln!("requests at http://{address}/v2");
    }
    if let Some(listening) = &options.listening {
        // Whoever asked may have gone.
        drop(listening.send(("serve.http".to_owned(), address)));
    }
}
