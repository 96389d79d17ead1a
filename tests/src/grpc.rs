//! A client of gRPC of a few lines, and messages by hand, so that they can be wrong.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// `grpc-status`.
    pub status: u16,
    /// `grpc-message`.
    pub reason: String,
    /// The message, without its prefix.
    pub message: Vec<u8>,
}

/// One call on a connection of its own, of bytes as they are: `call(address, "ModelInfer", &[("a", "b")], &framed(…))`.
pub fn call(address: SocketAddr, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut request = Request::post(format!("http://localhost/inference.GRPCInferenceService/{method}"));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("it is HTTP/2");
        let connection = tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("all of it");
        let trailers = body.trailers().cloned().unwrap_or_default();
        connection.abort();
        let find = |headers: &HeaderMap, name| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        let of = |name| find(&trailers, name).or_else(|| find(&head.headers, name));
        Reply {
            status: of("grpc-status").and_then(|status| status.parse().ok()).expect("a status"),
            reason: of("grpc-message").unwrap_or_default(),
            message: body.to_bytes().get(5..).unwrap_or_default().to_vec(),
        }
    })
}

/// A message with its prefix.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], (message.len() as u32).to_be_bytes().as_slice(), message].concat()
}

/// A field of a message that is text, bytes or a message.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        bytes.push(length as u8 | 128);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, content].concat()
}
