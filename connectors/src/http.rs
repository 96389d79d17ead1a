//! Listening over HTTP, with the limits that every listener has: of connections, of bodies, of time, and of who may come.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::http::uri::Authority;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use millstream_engine::Result;
use millstream_engine::catalogue::{Problem, Problems};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::sources::within;
use crate::tls::{Tls, TlsConfig};

/// The largest body that may be configured.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// The largest body unless it is configured: just below what a Kafka server takes as one record.
pub fn body_bytes() -> usize {
    1_000_000
}

/// How long a request's head may take unless it is configured.
pub fn header_seconds() -> f64 {
    10.0
}

/// How long a body, and then its answer, may take unless it is configured.
pub fn timeout_seconds() -> f64 {
    30.0
}

/// What a connection may use for headers.
const BUFFER_BYTES: usize = 64 << 10;
/// Over HTTP/2: requests that a connection may have at a time, and bytes of their bodies that may wait to be read.
const STREAMS_MAX: u32 = 1024;
const WINDOW_BYTES: u32 = 256 << 10;
/// How long a connection lives at most; then its client makes a new one.
const LIFE: Duration = Duration::from_mins(10);
/// How long is waited when no connection can be accepted, for want of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// What a response carries; it may come piece by piece.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A listener as it is configured.
#[derive(Clone, Copy, Debug)]
pub struct Configured<'a> {
    /// The address and port to listen at.
    pub listen: &'a str,
    /// What clients must send as `Authorization: Bearer …`.
    pub token: Option<&'a str>,
    /// Whether TLS is spoken, and by whom.
    pub tls: Option<&'a TlsConfig>,
    /// The largest body, in bytes.
    pub max_body_bytes: usize,
    /// Connections at most.
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and may be silent between requests.
    pub header_seconds: f64,
    /// How long a body may take to arrive, and how long its answer may then take.
    pub timeout_seconds: f64,
}

impl Configured<'_> {
    /// Notes what is wrong; `None` if anything is. `what` clients could do who reach the machine is said in a message.
    pub fn check(&self, what: &str, problems: &mut Problems) -> Option<Limits> {
        let before = problems.0.len();
        let listen = problems.take(self.listen.parse::<SocketAddr>().map_err(|_| {
            let message = format!("`{}` is no address with a port", self.listen);
            Problem::new("listen", "bad-address", message).help("write it as `127.0.0.1:8080`")
        }));
        let tls = self.tls.map(|tls| tls.check(problems));
        let is_open = self.token.is_none() && self.tls.is_none_or(|tls| tls.clients.is_none());
        if listen.is_some_and(|listen| !listen.ip().is_loopback()) && is_open {
            let message = format!("whoever reaches this machine could {what}");
            let help = "add `token: ${env:NAME}` or `tls` with `clients`, or listen at 127.0.0.1";
            problems.push(Problem::new("listen", "no-token", message).help(help));
        }
        if self.token.is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let message = "a token is made of visible ASCII characters, without blanks";
            problems.push(Problem::new("token", "bad-token", message));
        }
        problems.take(within("max_body_bytes", self.max_body_bytes as f64, 1.0, BODY_BYTES_MAX as f64));
        problems.take(within("max_connections", self.max_connections as f64, 1.0, 65_536.0));
        problems.take(within("header_seconds", self.header_seconds, 0.01, 3600.0));
        problems.take(within("timeout_seconds", self.timeout_seconds, 0.01, 3600.0));
        (problems.0.len() == before).then_some(())?;
        Some(Limits {
            listen: listen?,
            token: self.token.map(|token| blake3::hash(token.as_bytes())),
            tls: tls.flatten(),
            body_bytes_max: self.max_body_bytes,
            connections_max: self.max_connections,
            header: Duration::from_secs_f64(self.header_seconds),
            patience: Duration::from_secs_f64(self.timeout_seconds),
        })
    }
}

/// A checked [`Configured`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The hash of what clients must send: hashes are compared in constant time.
    pub token: Option<blake3::Hash>,
    /// How TLS is spoken, if it is.
    pub tls: Option<Tls>,
    /// The largest body, in bytes.
    pub body_bytes_max: usize,
    /// Connections at most.
    pub connections_max: usize,
    /// How long a request's head may take.
    pub header: Duration,
    /// How long a body may take, and then its answer.
    pub patience: Duration,
}

impl Limits {
    /// Refuses who does not send the token, or, where there is none, who asks under a name that is not this machine's: a page in a
    /// browser could have a name of its own that leads here.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        let Some(expected) = self.token else {
            if self.tls.as_ref().is_some_and(|tls| tls.asks_clients) {
                // Who is on the other side was proved before anything was heard.
                return Ok(());
            }
            let named = || headers.get(HOST).and_then(|value| value.to_str().ok());
            // Over HTTP/2 it is a part of the address.
            let host = request.uri().authority().map(Authority::as_str).or_else(named);
            let message = "without a token only this machine may ask, as 127.0.0.1 or localhost";
            let is_here = host.is_some_and(is_loopback);
            return if is_here { Ok(()) } else { Err(Refusal::new(StatusCode::FORBIDDEN, message)) };
        };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        let knows = given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && blake3::hash(token.trim().as_bytes()) == expected
        });
        let refusal = || Refusal::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
        if knows { Ok(()) } else { Err(refusal().with((WWW_AUTHENTICATE.as_str(), "Bearer"))) }
    }

    /// The whole body, if it is small enough and comes in time.
    pub async fn read(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let body = Limited::new(body, self.body_bytes_max).collect();
        match timeout(self.patience, body).await {
            Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::too_large(self.body_bytes_max)),
            Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body cannot be read")),
            Ok(Ok(body)) => Ok(body.to_bytes()),
        }
    }
}

/// Whether a `Host` header names this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Answers requests.
pub trait Serve: Send + Sync + 'static {
    /// The response to a request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// What is spoken on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One request after the other.
    Http1,
    /// Many at a time; without TLS, the client knows that it is spoken here.
    Http2,
}

impl Protocol {
    /// Its name in the handshake of TLS.
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Serves connections until it is told to stop, and those that are open to their end.
pub async fn listen<S: Serve>(
    listener: TcpListener,
    limits: Limits,
    protocol: Protocol,
    service: Arc<S>,
    mut stopping: watch::Receiver<bool>,
) -> Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let acceptor = limits.tls.as_ref().map(|tls| tls.acceptor(protocol.name()));
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
        let Ok((stream, _)) = accepted else {
            sleep(REST).await;
            continue;
        };
        // Answers are small, and somebody waits for them; where it cannot be set, they come a little later.
        drop(stream.set_nodelay(true));
        let (service, stopping, acceptor) = (service.clone(), stopping.clone(), acceptor.clone());
        let limits = limits.clone();
        drop(tokio::spawn(async move {
            match acceptor {
                None => speak(protocol, stream, &limits, service, stopping).await,
                Some(acceptor) => {
                    // Whoever cannot show who it is, or does not in time, was told so by its own side.
                    if let Ok(Ok(stream)) = timeout(limits.header, acceptor.accept(stream)).await {
                        speak(protocol, stream, &limits, service, stopping).await;
                    }
                }
            }
            // It is free again.
            drop(slot);
        }));
    }
    drop(listener);
    drop(slots.acquire_many(limits.connections_max as u32).await);
    Ok(())
}

/// Serves a connection to its end.
async fn speak<S: Serve>(
    protocol: Protocol,
    stream: impl Stream,
    limits: &Limits,
    service: Arc<S>,
    stopping: watch::Receiver<bool>,
) {
    match protocol {
        Protocol::Http1 => one_by_one(stream, limits, service, stopping).await,
        Protocol::Http2 => many(stream, limits, service, stopping).await,
    }
}

/// Serves a connection over HTTP/1.1.
async fn one_by_one<S: Serve>(stream: impl Stream, limits: &Limits, service: Arc<S>, stopping: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(BUFFER_BYTES);
    let service = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Whatever broke a connection, its client knows.
        _ = connection.as_mut() => return,
        () = ending(stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(timeout(2 * limits.patience, connection).await);
}

/// Serves a connection over HTTP/2.
async fn many<S: Serve>(stream: impl Stream, limits: &Limits, service: Arc<S>, stopping: watch::Receiver<bool>) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_header_list_size(BUFFER_BYTES as u32).max_concurrent_streams(STREAMS_MAX);
    builder.initial_connection_window_size(WINDOW_BYTES).initial_stream_window_size(WINDOW_BYTES);
    let open = Arc::new(Open::default());
    let counted = open.clone();
    let service = service_fn(move |request| {
        let (service, one) = (service.clone(), One::new(&counted));
        async move {
            let response = service.answer(request).await;
            drop(one);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ending(stopping) => {}
        // Nothing in the protocol ends a connection on which nothing is asked.
        () = open.silence(limits.header) => {}
    }
    connection.as_mut().graceful_shutdown();
    // A client that has not even begun to speak does not hear that.
    let rest = if open.count.load(Ordering::SeqCst) == 0 { limits.header } else { 2 * limits.patience };
    drop(timeout(rest, connection).await);
}

/// Waits until a connection has to end in peace.
async fn ending(mut stopping: watch::Receiver<bool>) {
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = sleep(LIFE) => {}
    }
}

/// The requests of a connection that are being answered.
#[derive(Default)]
struct Open {
    count: AtomicUsize,
    /// How many there have been.
    begun: AtomicUsize,
}

impl Open {
    /// Waits until there have been none for so long; it may take twice as long to see it.
    async fn silence(&self, long: Duration) {
        loop {
            let begun = self.begun.load(Ordering::SeqCst);
            sleep(long).await;
            if self.count.load(Ordering::SeqCst) == 0 && self.begun.load(Ordering::SeqCst) == begun {
                return;
            }
        }
    }
}

/// A request that is being answered, until this is dropped.
struct One(Arc<Open>);

impl One {
    fn new(open: &Arc<Open>) -> Self {
        open.count.fetch_add(1, Ordering::SeqCst);
        open.begun.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(&'static str, &'static str)>,
}

impl Refusal {
    /// With this status; the message says how to mend it.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// With a header.
    #[must_use]
    pub fn with(self, header: (&'static str, &'static str)) -> Self {
        Self { header: Some(header), ..self }
    }

    /// To be sent again in a second.
    pub fn later(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).with((RETRY_AFTER.as_str(), "1"))
    }

    /// Of a body beyond the limit.
    pub fn too_large(bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has {bytes} bytes at most"))
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As a response.
    pub fn response(self) -> Response<Body> {
        let mut response = respond(self.status, &json!({"error": self.message}));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// A response in JSON.
pub fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(body.to_string() + "\n").boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
