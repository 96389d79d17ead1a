//! gRPC over HTTP/2, for calls of one message and one answer: a byte that says whether it is compressed, four that say how long it
//! is, and the message; how the call ended is in the trailers.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use millstream_connectors::http::{Body, Refusal};
use prost::Message;

use crate::front::infer::bad;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: &str = "grpc-timeout";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Bytes before a message.
const PREFIX: usize = 5;
/// Of a reason: headers have to be short, and it may hold what was asked.
const REASON_BYTES_MAX: usize = 1024;

/// How a call ended, by its number and its name.
pub(super) type Code = (u16, &'static str);

pub(super) const OK: Code = (0, "OK");

/// How a call ends that HTTP would refuse with this status.
pub(super) fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::NOT_FOUND => (5, "NOT_FOUND"),
        StatusCode::FORBIDDEN => (7, "PERMISSION_DENIED"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => (8, "RESOURCE_EXHAUSTED"),
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => (12, "UNIMPLEMENTED"),
        StatusCode::INTERNAL_SERVER_ERROR => (13, "INTERNAL"),
        StatusCode::SERVICE_UNAVAILABLE => (14, "UNAVAILABLE"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => (4, "DEADLINE_EXCEEDED"),
        StatusCode::UNAUTHORIZED => (16, "UNAUTHENTICATED"),
        _ => (3, "INVALID_ARGUMENT"),
    }
}

/// How long the client waits, if it says so.
pub(super) fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let wrong = || bad(format!("`{TIMEOUT}` is a number of up to eight digits and H, M, S, m, u or n"));
    let (number, unit) =
        value.to_str().ok().and_then(|text| text.split_at_checked(text.len().checked_sub(1)?)).ok_or_else(wrong)?;
    let is_number = (1..=8).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    }))
}

/// Reads the one message of a call, of `most` bytes at most. As soon as its length is known, `room` says whether there is any
/// for it; that is given with it.
pub(super) async fn read<R>(
    mut body: Incoming,
    most: usize,
    room: impl FnOnce(usize) -> Result<R, Refusal>,
) -> Result<(Bytes, R), Refusal> {
    let (mut bytes, mut room, mut taken) = (Vec::new(), Some(room), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| bad("the message cannot be read"))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if let (None, Some(prefix)) = (&taken, bytes.first_chunk::<PREFIX>()) {
            let [compressed, length @ ..] = *prefix;
            if compressed != 0 {
                let message = "messages are taken as they are, not compressed";
                return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, message));
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > most {
                return Err(Refusal::too_large(most));
            }
            taken = room.take().map(|room| room(length)).transpose()?.map(|room| (PREFIX + length, room));
            bytes.reserve_exact((PREFIX + length).saturating_sub(bytes.len()));
        }
        if taken.as_ref().is_some_and(|(end, _)| bytes.len() > *end) {
            return Err(bad("a call has one message, and nothing behind it"));
        }
        if body.is_end_stream() {
            break;
        }
    }
    match taken {
        Some((end, room)) if bytes.len() == end => Ok((Bytes::from(bytes).slice(PREFIX..), room)),
        _ => Err(bad("the message is cut short")),
    }
}

/// What a message says.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Refusal> {
    M::decode(message).map_err(|error| bad(format!("the message cannot be understood: {error}")))
}

/// The answer to a call.
pub(super) fn answer(message: &impl Message) -> Response<Body> {
    let mut bytes = Vec::with_capacity(PREFIX + message.encoded_len());
    bytes.push(0);
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    message.encode_raw(&mut bytes);
    let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from(OK.0))]);
    let body = Full::from(bytes).with_trailers(ready(Some(Ok::<_, Infallible>(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A call that was refused.
pub(super) fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(STATUS, HeaderValue::from(code(refusal.status()).0));
    if let Ok(message) = HeaderValue::from_bytes(&percent(refusal.message())) {
        headers.insert(MESSAGE, message);
    }
    response
}

/// A reason as a header has it.
fn percent(message: &str) -> Vec<u8> {
    let mut header = Vec::with_capacity(message.len());
    for byte in message.bytes() {
        if header.len() >= REASON_BYTES_MAX {
            header.extend(b"...");
            break;
        }
        match byte {
            b'%' | ..b' ' | 0x7f.. => header.extend(format!("%{byte:02X}").bytes()),
            plain => header.push(plain),
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_client_waits() {
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(TIMEOUT), text.parse().expect("a value"))]);
            patience(&headers).map_err(|refusal| refusal.message().to_owned())
        };
        for (text, wanted) in
            [("100m", 100_000), ("7u", 7), ("2S", 2_000_000), ("1M", 60_000_000), ("99999999n", 99_999)]
        {
            assert_eq!(read(text).map(|read| read.map(|read| read.as_micros())), Ok(Some(wanted)), "{text}");
        }
        assert_eq!(read("99999999H").map(|read| read.map(|read| read.as_secs())), Ok(Some(359_999_996_400)));
        for text in ["", "m", "1", "1s", "123456789S", "-1S", "+1S", "1 S", "é"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(matches!(patience(&HeaderMap::new()), Ok(None)));
    }

    #[test]
    fn a_reason_fits_in_a_header() {
        assert_eq!(percent("100 % ü\n"), b"100 %25 %C3%BC%0A");
        let long = percent(&"ü".repeat(10_000));
        assert!(long.len() < REASON_BYTES_MAX + 10 && long.ends_with(b"..."));
    }
}
