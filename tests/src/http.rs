//! A client of a few lines, which anybody could write.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// `200`.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request on a connection of its own: `call(address, "POST /path", &["A: b"], body)`.
pub fn call(address: SocketAddr, what: &str, headers: &[&str], body: &[u8]) -> Response {
    exchange(TcpStream::connect(address).expect("it listens"), what, headers, body).expect("an answer")
}

/// The same on a connection that is there already; it may break.
pub fn exchange(
    mut connection: impl Read + Write,
    what: &str,
    headers: &[&str],
    body: &[u8],
) -> std::io::Result<Response> {
    let headers = [headers, &["Connection: close"]].concat().join("\r\n");
    let length = body.len();
    let head = format!("{what} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\nContent-Length: {length}\r\n\r\n");
    connection.write_all(head.as_bytes())?;
    // Whoever refuses a body may not read it.
    drop(connection.write_all(body));
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let no_answer = || std::io::Error::other(format!("no answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { whole(body) } else { body.to_owned() };
    Ok(Response { status, head: head.to_owned(), body })
}

/// A body whose length the server did not know at first: chunk after chunk.
fn whole(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        whole.push_str(&more[..length]);
        rest = more[length..].trim_start();
    }
    whole
}

/// Asks in JSON.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    call(address, &format!("POST {path}"), &["Content-Type: application/json"], body.to_string().as_bytes())
}

/// Gets.
pub fn get(address: SocketAddr, path: &str) -> Response {
    call(address, &format!("GET {path}"), &[], b"")
}
