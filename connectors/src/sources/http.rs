//! `http`: records that are posted.

use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::intake::{self, Inlet, Intake, Outcome, RECORD_BYTES, ROOM_BYTES, Receiver, Repeats};
use super::{PlannedReceiver, PlannedSource, SourceKind, check_kept, topic};
use crate::broker::Message;
use crate::http::{BODY_BYTES_MAX, Body, Configured, Limits, Protocol, Refusal, Serve, listen, respond};
use crate::tls::TlsConfig;

/// Records in one body at most.
const RECORDS_MAX: usize = 10_000;
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
    /// Whether TLS is spoken.
    pub tls: Option<TlsConfig>,
    /// The topic that keeps the records. Default: `PIPELINE.SOURCE`.
    pub topic: Option<String>,
    /// How many partitions that topic gets where it has to be created.
    #[serde(default = "topic::one")]
    pub partitions: u32,
    /// The largest body, in bytes. The default is just below what a Kafka server takes as one record.
    #[serde(default = "crate::http::body_bytes")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_body_bytes: usize,
    /// Connections at most; further ones wait.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and may be silent between requests.
    #[serde(default = "crate::http::header_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub header_seconds: f64,
    /// How long a body may take to arrive, and then its records to become durable.
    #[serde(default = "crate::http::timeout_seconds")]
    #[schemars(range(min = 0.01, max = 3600))]
    pub timeout_seconds: f64,
}

fn root() -> String {
    "/".to_owned()
}

fn connections() -> usize {
    256
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
    let listener = Configured {
        listen: &config.listen,
        token: config.token.as_deref(),
        tls: config.tls.as_ref(),
        max_body_bytes: config.max_body_bytes,
        max_connections: config.max_connections,
        header_seconds: config.header_seconds,
        timeout_seconds: config.timeout_seconds,
    };
    let limits = listener.check(&format!("post to `{}`", config.listen), &mut problems);
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !config.path.starts_with('/') || !config.path.bytes().all(legal) {
        let message = format!("`{}` is no path", config.path);
        problems.push(Problem::new("path", "bad-path", message).help("write it as `/readings`"));
    }
    problems.take_all(check_kept(config.topic.as_deref(), config.partitions));
    problems.finish()?;
    let (limits, path) = (limits.expect("it is no problem"), config.path);
    Ok(PlannedSource::received(PlannedReceiver {
        topic: config.topic,
        partitions: config.partitions,
        start: Box::new(move |inlet| start(limits.clone(), &path, &inlet)),
    }))
}

fn start(limits: Limits, path: &str, inlet: &Inlet) -> Result<Receiver> {
    let runtime = intake::runtime()?;
    let taken = |error| {
        let message = format!("`{}` cannot listen at {}; choose another `listen`", inlet.id, limits.listen);
        Fault::world(message).because(error)
    };
    let listener = runtime.block_on(TcpListener::bind(limits.listen)).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (intake, writing) = Intake::start(inlet, Repeats::Sender)?;
    let (path, topic) = (path.to_owned(), inlet.topic.clone());
    let post = Post { limits: limits.clone(), path, topic, clock: inlet.clock.clone(), intake };
    let (stop, stopping) = watch::channel(false);
    let work = listen(listener, limits, Protocol::Http1, Arc::new(post), stopping);
    Ok(Receiver::spawn(runtime, vec![writing], stop, inlet, work).at(address))
}

/// What takes posts.
struct Post {
    limits: Limits,
    path: String,
    topic: String,
    clock: Arc<dyn Clock>,
    intake: Intake,
}

impl Serve for Post {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.take(request).await {
            Ok(records) => respond(StatusCode::ACCEPTED, &json!({"records": records, "topic": self.topic})),
            Err(refusal) => refusal.response(),
        }
    }
}

impl Post {
    /// Makes the records of a request durable; gives how many there are.
    async fn take(&self, request: Request<Incoming>) -> Result<usize, Refusal> {
        let lines = self.check(&request)?;
        let key = request.headers().get(KEY).map(|key| key.as_bytes().to_vec());
        let key_bytes = key.as_ref().map_or(0, Vec::len);
        if key_bytes > KEY_BYTES_MAX {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("a key has {KEY_BYTES_MAX} bytes at most")));
        }
        let body_bytes_max = self.limits.body_bytes_max;
        // What is not announced may be as large as is allowed.
        let bytes = request.body().size_hint().upper().map_or(body_bytes_max, |bytes| bytes as usize);
        if bytes > body_bytes_max {
            return Err(Refusal::too_large(body_bytes_max));
        }
        let full = || Refusal::later("too much waits to be kept; post again later");
        let own = RECORD_BYTES + key_bytes;
        let room = self.intake.try_room(bytes + own).ok_or_else(full)?;
        let body = self.limits.read(request.into_body()).await?;
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
        match timeout(self.limits.patience, outcome).await {
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
        if request.uri().path() != self.path {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("post to {}", self.path)));
        }
        if request.method() != Method::POST {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "records are posted");
            return Err(refusal.with((ALLOW.as_str(), "POST")));
        }
        self.limits.admit(request)?;
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

const _: () = assert!(
    BODY_BYTES_MAX + RECORDS_MAX * (RECORD_BYTES + KEY_BYTES_MAX) <= ROOM_BYTES,
    "whatever is allowed finds room when there is nothing else"
);
