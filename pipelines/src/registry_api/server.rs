//! Connections and their limits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use millstream_connectors::http::{self, Body, Configured, Limits, Protocol, Serve, listen};
use millstream_connectors::tls::TlsConfig;
use millstream_engine::catalogue::Problems;
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::Registry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::routes::{Api, Asked, Code, Refusal, Reply};

/// The largest body, and the largest query.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Connections at most; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head, or its body, and may be silent between requests.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to serve, and to whom.
pub struct Settings {
    /// The address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients must send as `Authorization: Bearer …`. It can only be left out where no other machine can reach the
    /// address.
    pub token: Option<String>,
    /// Whether TLS is spoken.
    pub tls: Option<TlsConfig>,
    /// Who serves, for the history.
    pub user: String,
    /// When changes happen.
    pub clock: Arc<dyn Clock>,
}

/// A registry that is served until this is dropped.
pub struct Server {
    runtime: Runtime,
    address: SocketAddr,
    /// Never told: what is open ends with the runtime.
    _stop: watch::Sender<bool>,
}

impl Server {
    /// Starts serving.
    pub fn start(registry: Registry, settings: Settings) -> Result<Self> {
        let Settings { listen: at, token, tls, user, clock } = settings;
        let configured = Configured {
            listen: &at.to_string(),
            token: token.as_deref(),
            tls: tls.as_ref(),
            max_body_bytes: BODY_BYTES_MAX,
            max_connections: CONNECTIONS_MAX,
            header_seconds: PATIENCE.as_secs_f64(),
            timeout_seconds: PATIENCE.as_secs_f64(),
        };
        let mut problems = Problems::default();
        let limits = configured.check("change the registry", &mut problems).ok_or_else(|| {
            let problem = problems.0.swap_remove(0);
            let help = match problem.code {
                // A command line has no keys.
                "no-token" => "; add --token '${env:NAME}' or --tls-clients, or listen at 127.0.0.1",
                _ => "",
            };
            let option = problem.path.join("-");
            let given = if option == "listen" { format!(" {at}") } else { String::new() };
            Fault::definition(format!("--{option}{given}: {}{help}", problem.message))
        })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Fault::world("the server's thread cannot be started").because(error))?;
        let taken = |error| Fault::world(format!("cannot listen at {at}; choose another --listen")).because(error);
        let listener = runtime.block_on(TcpListener::bind(at)).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let door = Door { limits: limits.clone(), api: Arc::new(Api::new(registry, user, clock)) };
        let (stop, stopping) = watch::channel(false);
        runtime.spawn(listen(listener, limits, Protocol::Http1, Arc::new(door), stopping));
        Ok(Self { runtime, address, _stop: stop })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGINT or SIGTERM.
    pub fn until_stopped(self) -> Result<()> {
        let deaf = |error| Fault::world("signals cannot be heard").because(error);
        self.runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).map_err(deaf)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        })
    }
}

/// Who may come in.
struct Door {
    limits: Limits,
    api: Arc<Api>,
}

impl Serve for Door {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        respond(self.ask(request).await)
    }
}

impl Door {
    async fn ask(&self, request: Request<Incoming>) -> std::result::Result<Reply, Refusal> {
        self.limits.admit(&request).map_err(|refused| refusal(&refused))?;
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        // Browsers send other kinds for any page without asking first.
        if request.method() != Method::GET && !kind.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::new(
                Code::Invalid,
                "what changes something is sent as `Content-Type: application/json`",
            ));
        }
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let (head, body) = request.into_parts();
        let body = self.limits.read(body).await.map_err(|refused| refusal(&refused))?;
        if !body.is_empty() {
            let wrong = |why: String| Refusal::new(Code::Invalid, format!("the body is no JSON object: {why}"));
            let body: Value = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
            let Value::Object(entries) = body else { return Err(wrong("it is another value".to_owned())) };
            for (name, value) in entries {
                parameters.entry(name).or_default().extend(texts(value));
            }
        }
        let asked = Asked { method: head.method, path: head.uri.path().to_owned(), parameters };
        // Files and the database are read, and waited for, where nobody else waits.
        let api = self.api.clone();
        let done = tokio::task::spawn_blocking(move || api.answer(&asked)).await;
        done.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "the request broke an invariant of this program")))
    }
}

/// Why the listener did not let a request in, in MLflow's words.
fn refusal(refused: &http::Refusal) -> Refusal {
    let code = match refused.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::Forbidden,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::REQUEST_TIMEOUT => Code::Timeout,
        _ => Code::Invalid,
    };
    let hint = if code == Code::Unauthenticated { ": clients read it from MLFLOW_TRACKING_TOKEN" } else { "" };
    Refusal::new(code, format!("{}{hint}", refused.message()))
}

/// A parameter's values as texts, as a query has them.
fn texts(value: Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text],
        Value::Array(items) => items.into_iter().flat_map(texts).collect(),
        other => vec![other.to_string()],
    }
}

fn respond(done: std::result::Result<Reply, Refusal>) -> Response<Body> {
    let (status, kind, body) = match done {
        Ok(Reply::Json(value)) => (StatusCode::OK, "application/json", value.to_string().into_bytes()),
        Ok(Reply::Text(text)) => (StatusCode::OK, "text/plain", text.as_bytes().to_vec()),
        Ok(Reply::File(content)) => (StatusCode::OK, "application/octet-stream", content),
        Err(refusal) => (refusal.status(), "application/json", refusal.body().to_string().into_bytes()),
    };
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
