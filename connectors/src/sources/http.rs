//! `http`: records that are posted.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::intake::{self, Inlet, Intake, Outcome, RECORD_BYTES, ROOM_BYTES, Receiver, Repeats};
use super::{PlannedReceiver, PlannedSource, SourceKind, check_kept, topic, within};
use crate::broker::Message;

/// The largest body that may be configured: larger records are never read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Records in one body at most.
const RECORDS_MAX: usize = 10_000;
/// What a connection may use for headers.
const BUFFER_BYTES: usize = 64 << 10;
/// How long a connection lives at most; then its client makes a new one.
const LIFE: Duration = Duration::from_mins(10);
/// How long is waited when no connection can be accepted, for want of file descriptors.
const REST: Duration = Duration::from_millis(100);
/// The header that names the records' key.
const KEY: &str = "x-key";
const KEY_BYTES_MAX: usize = 1024;

/// What is posted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address and port to listen at; port 0 takes a free one.
    pub listen: String,
    /// The path to post to.
    #[serde(default = "root")]
    pub path: String,
    /// What clients must send as `Authorization: Bearer …`; written as a reference to a secret. It can only be left
    /// out where no other machine can reach the address.
    pub token: Option<String>,
    /// The topic that keeps the records. Default: `PIPELINE.SOURCE`.
    pub topic: Option<String>,
    /// How many partitions that topic gets where it has to be created.
    #[serde(default = "topic::one")]
    pub partitions: u32,
    /// The largest body, in bytes. The default is just below what a Kafka server takes as one record.
    #[serde(default = "body_bytes")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_body_bytes: usize,
    /// Connections at most; further ones wait.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and may be silent between requests.
    #[serde(default = "header_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub header_seconds: f64,
    /// How long a body may take to arrive, and then its records to become durable.
    #[serde(default = "timeout_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub timeout_seconds: f64,
}

fn root() -> String {
    "/".to_owned()
}

fn body_bytes() -> usize {
    1_000_000
}

fn connections() -> usize {
    256
}

fn header_seconds() -> f64 {
    10.0
}

fn timeout_seconds() -> f64 {
    30.0
}

/// The entry of `http`.
pub static KIND: SourceKind = Kind {
    name: "http",
    about: "Records that are posted, kept in a topic before anything else sees them.\n\n\
        A body is one record, or one a line with `Content-Type: application/x-ndjson`. The header `X-Key` gives their key. \
        The answer is 202 with the number of records, and comes once they are durable, so that a restart reads them \
        again. On 503, or when no answer came, post again; what was kept after all is then there twice, which a \
        `deduplicate` step removes. With `--until-idle` nothing listens: what the topic holds is worked through.",
    schema: schema_of::<Config>,
    example: "{listen: \"127.0.0.1:8080\", path: /readings}",
    plan,
};

fn plan(value: &Value) -> Planned<PlannedSource> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let listen = problems.take(config.listen.parse::<SocketAddr>().map_err(|_| {
        let message = format!("`{}` is no address with a port", config.listen);
        Problem::new("listen", "bad-address", message).help("write it as `127.0.0.1:8080`")
    }));
    if listen.is_some_and(|listen| !listen.ip().is_loopback()) && config.token.is_none() {
        let message = format!("whoever reaches this machine could post to `{}`", config.listen);
        let help = "add `token: ${env:NAME}`, or listen at 127.0.0.1";
        problems.push(Problem::new("listen", "no-token", message).help(help));
    }
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !config.path.starts_with('/') || !config.path.bytes().all(legal) {
        let message = format!("`{}` is no path", config.path);
        problems.push(Problem::new("path", "bad-path", message).help("write it as `/readings`"));
    }
    if config.token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        problems.push(Problem::new(
            "token",
            "bad-token",
            "a token is made of visible ASCII characters, without blanks",
        ));
    }
    problems.take_all(check_kept(config.topic.as_deref(), config.partitions));
    problems.take(within("max_body_bytes", config.max_body_bytes as f64, 1.0, BODY_BYTES_MAX as f64));
    problems.take(within("max_connections", config.max_connections as f64, 1.0, 65_536.0));
    problems.take(within("header_seconds", config.header_seconds, 0.01, 3600.0));
    problems.take(within("timeout_seconds", config.timeout_seconds, 0.01, 3600.0));
    problems.finish()?;
    let settings = Settings {
        listen: listen.expect("it is no problem"),
        path: config.path,
        token: config.token.map(|token| blake3::hash(token.as_bytes())),
        body_bytes_max: config.max_body_bytes,
        connections_max: config.max_connections,
        header: Duration::from_secs_f64(config.header_seconds),
        patience: Duration::from_secs_f64(config.timeout_seconds),
    };
    Ok(PlannedSource::received(PlannedReceiver {
        topic: config.topic,
        partitions: config.partitions,
        start: Box::new(move |inlet| start(&settings, &inlet)),
    }))
}

#[derive(Clone)]
struct Settings {
    listen: SocketAddr,
    path: String,
    /// Hashes are compared in constant time.
    token: Option<blake3::Hash>,
    body_bytes_max: usize,
    connections_max: usize,
    header: Duration,
    patience: Duration,
}

fn start(settings: &Settings, inlet: &Inlet) -> Result<Receiver> {
    let runtime = intake::runtime()?;
    let taken = |error| {
        let message = format!("`{}` cannot listen at {}; choose another `listen`", inlet.id, settings.listen);
        Fault::world(message).because(error)
    };
    let listener = runtime.block_on(TcpListener::bind(settings.listen)).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (intake, writing) = Intake::start(inlet, Repeats::Sender)?;
    let post = Post { settings: settings.clone(), topic: inlet.topic.clone(), clock: inlet.clock.clone(), intake };
    let (stop, stopping) = watch::channel(false);
    let work = listen(listener, Arc::new(post), stopping);
    Ok(Receiver::spawn(runtime, writing, stop, inlet, work).at(address))
}

async fn listen(listener: TcpListener, post: Arc<Post>, mut stopping: watch::Receiver<bool>) -> Result<()> {
    let slots = Arc::new(Semaphore::new(post.settings.connections_max));
    loop {
        let connection = async {
            // It is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            connection = connection => connection,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(post.clone().converse(stream, slot, stopping.clone()))),
            Err(_) => sleep(REST).await,
        }
    }
    drop(listener);
    drop(slots.acquire_many(post.settings.connections_max as u32).await);
    Ok(())
}

/// What takes posts.
struct Post {
    settings: Settings,
    topic: String,
    clock: Arc<dyn Clock>,
    intake: Intake,
}

impl Post {
    /// Serves a connection; its `slot` is free again in the end.
    async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        slot: Option<OwnedSemaphorePermit>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let patience = self.settings.patience;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.settings.header).max_buf_size(BUFFER_BYTES);
        let service = service_fn(move |request| {
            let post = self.clone();
            async move { Ok::<_, Infallible>(post.answer(request).await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // Whatever broke a connection, its client knows.
            _ = connection.as_mut() => return drop(slot),
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = sleep(LIFE) => {}
        }
        connection.as_mut().graceful_shutdown();
        drop(timeout(2 * patience, connection).await);
        drop(slot);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.take(request).await {
            Ok(records) => respond(StatusCode::ACCEPTED, &json!({"records": records, "topic": self.topic})),
            Err(refusal) => refusal.response(),
        }
    }

    /// Makes the records of a request durable; gives how many there are.
    async fn take(&self, request: Request<Incoming>) -> Result<usize, Refusal> {
        let lines = self.check(&request)?;
        let key = request.headers().get(KEY).map(|key| key.as_bytes().to_vec());
        let key_bytes = key.as_ref().map_or(0, Vec::len);
        if key_bytes > KEY_BYTES_MAX {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("a key has {KEY_BYTES_MAX} bytes at most")));
        }
        let body_bytes_max = self.settings.body_bytes_max;
        // What is not announced may be as large as is allowed.
        let bytes = request.body().size_hint().upper().map_or(body_bytes_max, |bytes| bytes as usize);
        if bytes > body_bytes_max {
            return Err(Refusal::too_large(body_bytes_max));
        }
        let full = || Refusal::later("too much waits to be kept; post again later");
        let own = RECORD_BYTES + key_bytes;
        let room = self.intake.try_room(bytes + own).ok_or_else(full)?;
        let body = Limited::new(request.into_body(), body_bytes_max).collect();
        let body = match timeout(self.settings.patience, body).await {
            Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::too_large(body_bytes_max)),
            Ok(Err(_)) => return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body cannot be read")),
            Ok(Ok(body)) => body.to_bytes(),
        };
        let values = if lines { split(&body)? } else { vec![body.to_vec()] };
        if values.iter().all(Vec::is_empty) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body holds no record"));
        }
        let records = values.len();
        let timestamp_ms = self.clock.now_ms();
        let message = |value| Message { key: key.clone(), value: Some(value), timestamp_ms, ..Message::default() };
        let room = room.and(self.intake.try_room((records - 1) * own).ok_or_else(full)?);
        let (done, outcome) = oneshot::channel();
        let tell = |outcome| {
            // A client that has gone repeats its records.
            let _ = done.send(outcome);
        };
        self.intake.hand_over(values.into_iter().map(message).collect(), room, tell);
        match timeout(self.settings.patience, outcome).await {
            Ok(Ok(Outcome::Durable)) => Ok(records),
            Ok(Ok(Outcome::Refused)) => {
                let message = "the broker does not take these records; they may be too large for it";
                Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))
            }
            _ => Err(Refusal::later("the records are not known to be kept; post them again")),
        }
    }

    /// All that can be said without the body; gives whether it holds a record a line.
    fn check(&self, request: &Request<Incoming>) -> Result<bool, Refusal> {
        if request.uri().path() != self.settings.path {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("post to {}", self.settings.path)));
        }
        if request.method() != Method::POST {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "records are posted");
            return Err(refusal.with((ALLOW.as_str(), "POST")));
        }
        if !self.knows(request.headers().get(AUTHORIZATION)) {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
            return Err(refusal.with((WWW_AUTHENTICATE.as_str(), "Bearer")));
        }
        let content_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match content_type.as_str() {
            "application/x-ndjson" | "application/jsonl" => Ok(true),
            // What a browser sends for any page without asking first.
            "" | "text/plain" | "multipart/form-data" | "application/x-www-form-urlencoded" => {
                let message = "say what the body is: `Content-Type: application/json` for one record, \
                    `application/x-ndjson` for one a line";
                Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
            }
            _ => Ok(false),
        }
    }

    fn knows(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(expected) = self.settings.token else { return true };
        let given = authorization.and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && blake3::hash(token.trim().as_bytes()) == expected
        })
    }
}

/// The lines that are not blank.
fn split(body: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    if lines.clone().nth(RECORDS_MAX).is_some() {
        let message = format!("a body holds {RECORDS_MAX} records at most");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(lines.map(<[u8]>::to_vec).collect())
}

/// Why a request was not taken.
struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(&'static str, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    fn with(self, header: (&'static str, &'static str)) -> Self {
        Self { header: Some(header), ..self }
    }

    fn later(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).with((RETRY_AFTER.as_str(), "1"))
    }

    fn too_large(bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has {bytes} bytes at most"))
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = respond(self.status, &json!({"error": self.message}));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string() + "\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

const _: () = assert!(
    BODY_BYTES_MAX + RECORDS_MAX * (RECORD_BYTES + KEY_BYTES_MAX) <= ROOM_BYTES,
    "whatever is allowed finds room when there is nothing else"
);
