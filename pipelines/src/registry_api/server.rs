//! Connections and their limits.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::Registry;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::routes::{Api, Asked, Code, Refusal, Reply};

/// The largest body, and the largest query.
const BODY_BYTES_MAX: usize = 1 << 20;
/// What a connection may use for headers, or a little more: what comes in one piece is taken as one.
const BUFFER_BYTES: usize = 64 << 10;
/// Connections at most; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head, or its body, and may be silent between requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection lives at most; then its client makes a new one.
const LIFE: Duration = Duration::from_mins(10);
/// How long is waited when no connection can be accepted, for want of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// Where to serve, and to whom.
pub struct Settings {
    /// The address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients must send as `Authorization: Bearer …`. It can only be left out where no other machine can reach the
    /// address.
    pub token: Option<String>,
    /// Who serves, for the history.
    pub user: String,
    /// When changes happen.
    pub clock: Arc<dyn Clock>,
}

/// A registry that is served until this is dropped.
pub struct Server {
    runtime: Runtime,
    address: SocketAddr,
}

impl Server {
    /// Starts serving.
    pub fn start(registry: Registry, settings: Settings) -> Result<Self> {
        let Settings { listen, token, user, clock } = settings;
        if !listen.ip().is_loopback() && token.is_none() {
            return Err(Fault::definition(format!(
                "whoever reaches this machine could change the registry at {listen}: add --token '${{env:NAME}}', or listen at \
                 127.0.0.1"
            )));
        }
        if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Fault::definition("a token is made of visible ASCII characters, without blanks"));
        }
        let token = token.map(|token| blake3::hash(token.as_bytes()));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Fault::world("the server's thread cannot be started").because(error))?;
        let taken = |error| Fault::world(format!("cannot listen at {listen}; choose another --listen")).because(error);
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let door = Door { token, api: Api::new(registry, user, clock) };
        runtime.spawn(listen_at(listener, Arc::new(door)));
        Ok(Self { runtime, address })
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

async fn listen_at(listener: TcpListener, door: Arc<Door>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // It is never closed.
        let slot = slots.clone().acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(door.clone().converse(stream, slot))),
            Err(_) => sleep(REST).await,
        }
    }
}

/// Who may come in.
struct Door {
    /// Hashes are compared in constant time.
    token: Option<blake3::Hash>,
    api: Api,
}

impl Door {
    /// Serves a connection; its `slot` is free again in the end.
    async fn converse(self: Arc<Self>, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(BUFFER_BYTES);
        let service = service_fn(move |request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(respond(door.answer(request).await)) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let is_over = tokio::select! {
            // Whatever broke a connection, its client knows.
            _ = connection.as_mut() => true,
            () = sleep(LIFE) => false,
        };
        if !is_over {
            connection.as_mut().graceful_shutdown();
            drop(timeout(PATIENCE, connection).await);
        }
        drop(slot);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> std::result::Result<Reply, Refusal> {
        self.check(&request)?;
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let (head, body) = request.into_parts();
        let body = match timeout(PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
            Err(_) => return Err(Refusal::new(Code::Timeout, "the body took too long to arrive")),
            Ok(Err(_)) => {
                let message = format!("a body has {BODY_BYTES_MAX} bytes at most, and all that it announces");
                return Err(Refusal::new(Code::TooLarge, message));
            }
            Ok(Ok(body)) => body.to_bytes(),
        };
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
        let done = tokio::task::spawn_blocking(move || self.api.answer(&asked)).await;
        done.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "the request broke an invariant of this program")))
    }

    /// All that can be said without the body.
    fn check(&self, request: &Request<Incoming>) -> std::result::Result<(), Refusal> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        match self.token {
            Some(expected) => {
                let given = header(AUTHORIZATION).and_then(|value| value.split_once(' '));
                let knows = given.is_some_and(|(scheme, token)| {
                    scheme.eq_ignore_ascii_case("bearer") && blake3::hash(token.trim().as_bytes()) == expected
                });
                if !knows {
                    let message = "the token is missing or wrong: clients read it from MLFLOW_TRACKING_TOKEN";
                    return Err(Refusal::new(Code::Unauthenticated, message));
                }
            }
            // Without a token, a page in a browser could ask under a name that leads here.
            None if !header(HOST).is_some_and(is_loopback) => {
                let message = "without a token only this machine may ask, as 127.0.0.1 or localhost";
                return Err(Refusal::new(Code::Forbidden, message));
            }
            None => {}
        }
        let kind = header(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        // Browsers send other kinds for any page without asking first.
        if request.method() != Method::GET && !kind.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::new(
                Code::Invalid,
                "what changes something is sent as `Content-Type: application/json`",
            ));
        }
        Ok(())
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

fn respond(done: std::result::Result<Reply, Refusal>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match done {
        Ok(Reply::Json(value)) => (hyper::StatusCode::OK, "application/json", value.to_string().into_bytes()),
        Ok(Reply::Text(text)) => (hyper::StatusCode::OK, "text/plain", text.as_bytes().to_vec()),
        Ok(Reply::File(content)) => (hyper::StatusCode::OK, "application/octet-stream", content),
        Err(refusal) => (refusal.status(), "application/json", refusal.body().to_string().into_bytes()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == hyper::StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["127.0.0.1:5000", "localhost:5000", "LOCALHOST", "[::1]:5000", "[::1]", "127.8.9.1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1:5000", ":5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
