//! One request: its rows go into the topic, and their answers come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use millstream_connectors::broker::Message;
use millstream_connectors::http::{Body, Limits, Refusal, respond};
use millstream_connectors::sources::intake::{Outcome as Kept, RECORD_BYTES};
use millstream_engine::publish::{Outcome, Stamp};
use serde::Deserialize;
use serde_json::{Map, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Endpoint;
use super::tensors::{self, Tensor, datatype_of};
use crate::run::reply;

/// Rows in one request at most.
const ROWS_MAX: usize = 10_000;
/// The header that says how long the JSON part is, where binary data follows it.
const JSON_LENGTH: &str = "inference-header-content-length";

/// A request as it is sent.
#[derive(Deserialize)]
struct Asked {
    id: Option<String>,
    inputs: Vec<Tensor>,
    #[serde(default)]
    outputs: Vec<Wanted>,
    #[serde(default)]
    parameters: Parameters,
}

/// An output that is wanted.
#[derive(Deserialize)]
struct Wanted {
    name: String,
}

/// What may be said of a request. Others are passed over, as the protocol wants.
#[derive(Default, Deserialize)]
struct Parameters {
    /// Microseconds after which nobody waits for the answer.
    timeout: Option<u64>,
    /// What the model must have learned at least: a revision, or offsets by source and partition.
    at_least: Option<AtLeast>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AtLeast {
    Revision(u64),
    Offsets(BTreeMap<String, u64>),
}

impl AtLeast {
    fn is_reached(&self, endpoint: &Endpoint) -> bool {
        let newest = |(_, fold, _): &(String, usize, _)| endpoint.book.newest_revision(*fold);
        endpoint.models.first().and_then(newest).is_some_and(|revision| match self {
            Self::Revision(wanted) => revision.number >= *wanted,
            Self::Offsets(wanted) => {
                let learned = &revision.frontier.offsets;
                wanted.iter().all(|(place, offset)| learned.get(place).is_some_and(|learned| learned >= offset))
            }
        })
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

impl Endpoint {
    /// Answers a request; gives the seconds that took, too.
    pub(super) async fn infer(
        &self,
        request: Request<Incoming>,
        limits: &Limits,
    ) -> Result<(Response<Body>, f64), Refusal> {
        let too_many = || {
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "more is asked than can be answered in time");
            refusal.with((RETRY_AFTER.as_str(), "1"))
        };
        // Before anything is read: whoever is refused must not take the time of those who are answered.
        if self.admission.is_full() {
            return Err(too_many());
        }
        // What is not announced may be as large as is allowed.
        let bytes = request.body().size_hint().upper().map_or(limits.body_bytes_max, |bytes| bytes as usize);
        if bytes > limits.body_bytes_max {
            return Err(Refusal::too_large(limits.body_bytes_max));
        }
        let room =
            self.intake.try_room(bytes + RECORD_BYTES).ok_or_else(|| Refusal::later("too much waits to be kept"))?;
        let length = json_length(request.headers())?;
        let body = limits.read(request.into_body()).await?;
        let (asked, binary) = read(&body, length)?;
        let Asked { id, inputs, outputs, parameters } = asked;
        let (arrays, rows) = tensors::rows(inputs, &self.columns, binary).map_err(bad)?;
        if rows > ROWS_MAX {
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has {ROWS_MAX} rows at most")));
        }
        let admitted = self.admission.admit(rows).ok_or_else(too_many)?;
        let more = self
            .intake
            .try_room((rows - 1) * RECORD_BYTES)
            .ok_or_else(|| Refusal::later("too much waits to be kept"))?;
        if parameters.at_least.is_none() && !self.is_ready() {
            return Err(Refusal::later("the model has learned nothing yet"));
        }
        let patience = parameters.timeout.map_or(self.patience, |us| Duration::from_micros(us).min(self.patience));
        let answers = async {
            if let Some(at_least) = &parameters.at_least {
                self.reach(at_least).await;
            }
            let mut place = self.hub.wait(rows);
            let messages = self.messages(arrays, rows, |row| place.key(row))?;
            let (done, kept) = oneshot::channel();
            let tell = |outcome| {
                // Whoever asked may have gone.
                let _ = done.send(outcome);
            };
            self.intake.hand_over(messages, room.and(more), tell);
            match kept.await {
                Ok(Kept::Durable) => {}
                Ok(Kept::Refused) => {
                    return Err(bad("the broker does not take this request; it may be too large for it"));
                }
                _ => return Err(Refusal::later("the request is not known to be kept; ask again")),
            }
            let gone = |_| Refusal::later("the pipeline ends; ask again");
            (&mut place.outcomes).await.map_err(gone)
        };
        let late = |_| {
            let message = "the answer took longer than the client waits, or what it must have learned is not reached";
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, message)
        };
        let outcomes = timeout(patience, answers).await.map_err(late)??;
        let seconds = admitted.seconds();
        admitted.answered();
        self.respond(id.as_deref(), &outputs, &outcomes).map(|response| (response, seconds))
    }

    /// Waits until the model has learned so much.
    async fn reach(&self, at_least: &AtLeast) {
        let mut durable = self.hub.durable();
        while !at_least.is_reached(self) {
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    /// The rows as messages of the requests' topic.
    fn messages(
        &self,
        mut arrays: Vec<Option<ArrayRef>>,
        rows: usize,
        key: impl Fn(usize) -> Vec<u8>,
    ) -> Result<Vec<Message>, Refusal> {
        let now_ms = self.clock.now_ms();
        if let Some(time) = self.event_time {
            arrays[time] = Some(asked_at(arrays[time].as_ref(), rows, now_ms));
        }
        let batch = tensors::batch(&self.columns, arrays, rows).map_err(bad)?;
        let values = (self.encoder)().encode(&batch).map_err(|fault| bad(fault.to_string()))?;
        let message = |row| Message {
            key: Some(key(row)),
            value: Some(values.value(row).to_vec()),
            timestamp_ms: now_ms,
            ..Message::default()
        };
        Ok((0..rows).map(message).collect())
    }

    fn respond(&self, id: Option<&str>, wanted: &[Wanted], outcomes: &[Outcome]) -> Result<Response<Body>, Refusal> {
        let mut answered: Vec<(&RecordBatch, usize, &Arc<Stamp>)> = Vec::with_capacity(outcomes.len());
        let (mut errors, mut staleness) = (Vec::new(), None::<i64>);
        for (row, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Answered { columns, row, revision, staleness_ms, .. } => {
                    staleness = staleness.max(*staleness_ms);
                    answered.push((columns, *row, revision));
                }
                Outcome::Refused { step, reason } => {
                    errors.push(json!({"row": row, "step": &**step, "reason": reason}));
                }
            }
        }
        if !errors.is_empty() {
            let message =
                format!("{} of {} rows cannot be answered: {}", errors.len(), outcomes.len(), errors[0]["reason"]);
            return Ok(respond(StatusCode::UNPROCESSABLE_ENTITY, &json!({"error": message, "errors": errors})));
        }
        // Rows of one request may have been answered by two revisions: the older one is what all of them had at least.
        let Some((columns, _, oldest)) = answered.iter().min_by_key(|(_, _, stamp)| stamp.revision) else {
            return Err(Refusal::later("nobody has answered"));
        };
        let mut outputs = Vec::new();
        for (at, field) in columns.schema_ref().fields().iter().enumerate() {
            if wanted.is_empty() || wanted.iter().any(|wanted| wanted.name == *field.name()) {
                let value =
                    |(columns, row, _): &(&RecordBatch, usize, &Arc<Stamp>)| reply::value(columns.column(at), *row);
                let data = answered.iter().map(value).collect::<Result<Vec<_>, _>>();
                let data = data.map_err(|fault| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()))?;
                let datatype = datatype_of(field.data_type());
                outputs.push(json!({"name": field.name(), "datatype": datatype, "shape": [data.len()], "data": data}));
            }
        }
        if let Some(wanted) = wanted.iter().find(|wanted| columns.schema_ref().index_of(&wanted.name).is_err()) {
            let names: Vec<&str> = columns.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
            return Err(bad(format!("there is no output `{}`; there are {}", wanted.name, names.join(", "))));
        }
        let through = &oldest.learned_through;
        let mut parameters = Map::new();
        parameters.insert("model".to_owned(), json!(oldest.model));
        parameters.insert("revision".to_owned(), json!(oldest.revision));
        // The protocol's parameters are no objects.
        parameters.insert("learned_through".to_owned(), json!(json!(through.offsets).to_string()));
        if let Some(time_ms) = through.time_ms {
            parameters.insert("learned_through_time".to_owned(), json!(reply::time(time_ms)));
        }
        if let Some(ms) = staleness {
            parameters.insert("staleness_seconds".to_owned(), json!(ms as f64 / 1000.0));
        }
        let mut body = json!({
            "model_name": self.name, "model_version": oldest.revision.to_string(), "outputs": outputs,
            "parameters": parameters,
        });
        if let Some(id) = id {
            body["id"] = json!(id);
        }
        Ok(respond(StatusCode::OK, &body))
    }
}

/// The event times; a request that has none is of now.
fn asked_at(given: Option<&ArrayRef>, rows: usize, now_ms: i64) -> ArrayRef {
    let given = given.map(AsArray::as_primitive::<TimestampMillisecondType>);
    let time = |row| given.filter(|times| times.is_valid(row)).map_or(now_ms, |times| times.value(row));
    Arc::new(TimestampMillisecondArray::from_iter_values((0..rows).map(time)))
}

/// How long the JSON part is, where a client says it.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| bad(format!("`{JSON_LENGTH}` is no number")))
}

fn read(body: &Bytes, length: Option<usize>) -> Result<(Asked, &[u8]), Refusal> {
    let (text, binary) = match length {
        None => (body.as_ref(), &[][..]),
        Some(length) => {
            let longer = || bad(format!("`{JSON_LENGTH}` is more than the body has"));
            body.split_at_checked(length).ok_or_else(longer)?
        }
    };
    let asked =
        serde_json::from_slice(text).map_err(|error| bad(format!("the request cannot be understood: {error}")))?;
    Ok((asked, binary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_time_are_of_now() {
        let given: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![Some(5), None]));
        for (given, wanted) in [(Some(&given), [5, 9]), (None, [9, 9])] {
            let times = asked_at(given, 2, 9);
            assert_eq!(times.as_primitive::<TimestampMillisecondType>().values()[..], wanted);
        }
    }

    #[test]
    fn the_json_part_ends_where_it_is_said_to() {
        let body = Bytes::from_static(br#"{"inputs":[],"parameters":{"at_least":{"a/0":3},"priority":1}}12"#);
        let (asked, binary) =
            read(&body, Some(body.len() - 2)).map_err(|refusal| refusal.status()).expect("it is sound");
        assert_eq!((asked.inputs.len(), binary), (0, &b"12"[..]));
        assert!(matches!(asked.parameters.at_least, Some(AtLeast::Offsets(offsets)) if offsets["a/0"] == 3));
        assert!(read(&body, None).is_err());
        assert!(read(&body, Some(body.len() + 1)).is_err());
    }
}
