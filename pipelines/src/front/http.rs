//! Requests over HTTP, in JSON.

use arrow::datatypes::DataType;
use std::borrow::Cow;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use millstream_connectors::http::{Body, Limits, Refusal, Serve, respond};
use millstream_engine::publish::Outcome;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize as Written};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::infer::{Answered, Asked, Output, Parameters, bad};
use super::tensors::{Rows, Tensor};
use super::{Endpoint, Shared};
use crate::run::reply::Datum;

/// The header that says how long the JSON part is, where binary data follows it.
const JSON_LENGTH: &str = "inference-header-content-length";

/// A request as it is sent.
#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<Tensor<'a>>,
    #[serde(default, borrow)]
    outputs: Vec<Wanted<'a>>,
    #[serde(default)]
    parameters: Parameters,
}

/// An output that is wanted.
#[derive(Deserialize)]
struct Wanted<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl AsRef<str> for Wanted<'_> {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// The service.
pub(super) struct Front {
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
}

impl Serve for Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(Refusal::response)
    }
}

impl Front {
    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        self.limits.admit(&request)?;
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
                let (version, extensions) = (env!("CARGO_PKG_VERSION"), ["binary_tensor_data"]);
                let about = json!({"name": "millstream", "version": version, "extensions": extensions});
                return Ok(respond(StatusCode::OK, &about));
            }
            ["v2", "health", "live"] if !is_post => return known(true, "live"),
            ["v2", "health", "ready"] if !is_post => return known(self.shared.is_ready(), "ready"),
            ["v2", "models", name, rest @ ..] => (*name, rest),
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; begin at /v2")),
        };
        let endpoint = self.shared.endpoint(name)?;
        match (is_post, rest) {
            (true, ["infer"] | ["versions", _, "infer"]) => {
                let version = rest.get(1).map(|version| endpoint.version(version)).transpose()?;
                let answered = self.infer(endpoint, version, request).await;
                let status = answered.as_ref().map_or_else(Refusal::status, |(response, _)| response.status());
                self.shared.count("http", endpoint, status.as_str(), answered.as_ref().ok().map(|(_, took)| *took));
                answered.map(|(response, _)| response)
            }
            (false, []) => Ok(respond(StatusCode::OK, &about(endpoint))),
            (false, ["versions", version]) => {
                endpoint.version(version).map(|_| respond(StatusCode::OK, &about(endpoint)))
            }
            (false, ["ready"]) => known(endpoint.is_ready(None), "ready"),
            (false, ["versions", version, "ready"]) => {
                known(endpoint.is_ready(Some(endpoint.version(version)?)), "ready")
            }
            (false, ["answers"]) => self.follow(endpoint),
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing here; ask at /v2/models/{name}/infer"),
            )),
        }
    }

    /// Answers a request; gives the seconds that took, too.
    async fn infer(
        &self,
        endpoint: &Endpoint,
        version: Option<&str>,
        request: Request<Incoming>,
    ) -> Result<(Response<Body>, f64), Refusal> {
        endpoint.is_open()?;
        // What is not announced may be as large as is allowed.
        let most = self.limits.body_bytes_max;
        let bytes = request.body().size_hint().upper().map_or(most, |bytes| bytes as usize);
        if bytes > most {
            return Err(Refusal::too_large(most));
        }
        let room = endpoint.room(bytes)?;
        let length = json_length(request.headers())?;
        let body = self.limits.read(request.into_body()).await?;
        let (Sent { id, inputs, outputs, parameters }, binary) = read(&body, length)?;
        let rows = Rows::of(inputs, &endpoint.columns, binary).map_err(bad)?;
        let asked = Asked { rows, parameters, version };
        let (outcomes, seconds) = endpoint.infer(&asked, (room, bytes), self.limits.patience).await?;
        Ok((response(endpoint, (id.as_deref(), &outputs), &asked.parameters, &outcomes)?, seconds))
    }

    /// All answers from now on, as server-sent events.
    fn follow(&self, endpoint: &Endpoint) -> Result<Response<Body>, Refusal> {
        let gone = || Refusal::new(StatusCode::NOT_FOUND, "nobody answers here");
        let answers = endpoint.hub.follow(endpoint.source).ok_or_else(gone)?;
        let stopping = self.shared.stopping.clone();
        let events = futures_util::stream::unfold((answers, stopping), |(mut answers, mut stopping)| async {
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

/// What is asked there and what is answered.
fn about(endpoint: &Endpoint) -> Value {
    let tensors = |of: &[(String, &'static str)]| -> Vec<Value> {
        of.iter().map(|(name, datatype)| json!({"name": name, "datatype": datatype, "shape": [-1]})).collect()
    };
    let about = endpoint.describe();
    json!({
        "name": endpoint.name, "versions": about.versions, "platform": "millstream",
        "inputs": tensors(&about.inputs), "outputs": tensors(&about.outputs),
        "parameters": {"models": about.models},
    })
}

/// How long the JSON part is, where a client says it.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| bad(format!("`{JSON_LENGTH}` is no number")))
}

fn read(body: &Bytes, length: Option<usize>) -> Result<(Sent<'_>, &[u8]), Refusal> {
    let (text, binary) = match length {
        None => (body.as_ref(), &[][..]),
        Some(length) => {
            let longer = || bad(format!("`{JSON_LENGTH}` is more than the body has"));
            body.split_at_checked(length).ok_or_else(longer)?
        }
    };
    // Once for all: what is read from bytes is looked through again in each of its texts.
    let text = std::str::from_utf8(text).map_err(|_| bad("the request is not UTF-8"))?;
    let sent = serde_json::from_str(text).map_err(|error| bad(format!("the request cannot be understood: {error}")))?;
    Ok((sent, binary))
}

/// An answer as it is sent.
#[derive(Written)]
struct Given<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Column<'a>>,
    parameters: Provenance<'a>,
}

#[derive(Written)]
struct Provenance<'a> {
    model: &'a str,
    revision: u64,
    learned_through: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned_through_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<String>,
}

#[derive(Written)]
struct Column<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: [usize; 1],
    data: Data<'a>,
}

impl<'a> Column<'a> {
    fn of(output: Output<'a>, rows: usize) -> Self {
        Self { name: output.name(), datatype: output.datatype(), shape: [rows], data: Data(output) }
    }
}

struct Data<'a>(Output<'a>);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for (column, row) in self.0.values() {
            // A tensor has no objects.
            if matches!(column.data_type(), DataType::Map(..)) {
                list.serialize_element(&Datum(column, row).text())?;
            } else {
                list.serialize_element(&Datum(column, row))?;
            }
        }
        list.end()
    }
}

fn response(
    endpoint: &Endpoint,
    (id, wanted): (Option<&str>, &[Wanted<'_>]),
    parameters: &Parameters,
    outcomes: &[Outcome],
) -> Result<Response<Body>, Refusal> {
    let answered = match Answered::of(outcomes) {
        Ok(answered) => answered,
        Err(errors) => return in_json(StatusCode::UNPROCESSABLE_ENTITY, &errors),
    };
    let outputs = answered.outputs(wanted)?;
    let oldest = answered.oldest;
    let given = Given {
        model_name: &endpoint.name,
        model_version: oldest.revision.to_string(),
        id,
        outputs: outputs.into_iter().map(|output| Column::of(output, answered.rows.len())).collect(),
        parameters: Provenance {
            model: &oldest.model,
            revision: oldest.revision,
            learned_through: answered.learned_through(),
            learned_through_time: answered.learned_through_time(),
            staleness_seconds: answered.staleness_seconds(),
            features: answered.features(parameters, &endpoint.answers),
        },
    };
    in_json(StatusCode::OK, &given)
}

fn in_json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, Refusal> {
    let mut text = Vec::with_capacity(512);
    serde_json::to_writer(&mut text, body)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    text.push(b'\n');
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_part_ends_where_it_is_said_to() {
        let body = Bytes::from_static(br#"{"inputs":[],"parameters":{"priority":1},"outputs":[{"name":"a"}]}12"#);
        let (sent, binary) =
            read(&body, Some(body.len() - 2)).map_err(|refusal| refusal.status()).expect("it is sound");
        assert_eq!((sent.inputs.len(), &*sent.outputs[0].name, binary), (0, "a", &b"12"[..]));
        assert!(read(&body, None).is_err());
        assert!(read(&body, Some(body.len() + 1)).is_err());
    }
}
