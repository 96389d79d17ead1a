//! Answers as messages.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt32Type};
use millstream_connectors::broker::Message;
use millstream_connectors::formats::timestamp;
use millstream_engine::Fault;
use millstream_engine::book::Request;
use millstream_engine::publish::{Given, Outcome};
use serde::Serialize;
use serde::ser::{Error as _, SerializeMap, Serializer};

use crate::run::commit::Answers;

/// The answer to a request as it is written, in JSON, under the request's key.
///
/// ```json
/// {"request": {"topic": "questions", "partition": 0, "offset": 17, "key": "N14228"},
///  "answer": {"prediction": false, "probability": 0.31}, "model": "late", "revision": 48211,
///  "learned_through": {"offsets": {"flights/0": 48317, "weather/0": 4404}, "time": "2013-03-01T10:30:00.000Z"},
///  "staleness_seconds": 60.0}
/// ```
/// Where it was drawn whose answer is given, `chosen_with` says with which probability this one was.
/// A request that asks for them, and may, is told under `features` the columns that its model has read.
/// A request that cannot be served gets `error` (with `step` and `reason`) instead of what follows `request`.
#[derive(Serialize)]
struct Written<'a> {
    request: Asked<'a>,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
struct Asked<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    key: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Answered {
        answer: Columns<'a>,
        model: &'a str,
        revision: u64,
        learned_through: LearnedThrough<'a>,
        staleness_seconds: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        chosen_with: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        features: Option<Columns<'a>>,
    },
    Refused {
        error: Refusal<'a>,
    },
}

#[derive(Serialize)]
struct LearnedThrough<'a> {
    offsets: &'a BTreeMap<String, u64>,
    time: Option<String>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    step: &'a str,
    reason: &'a str,
}

/// The answer to a request as it is written.
pub fn encode(request: &Request, outcome: &Outcome, answers: &Answers) -> millstream_engine::Result<Vec<u8>> {
    let origin = request.origin;
    let body = match outcome {
        Outcome::Answered { given, row, staleness_ms, chosen_with } => {
            let revision = &given.revision;
            Body::Answered {
                answer: Columns::all(&given.columns, *row),
                model: &revision.model,
                revision: revision.revision,
                learned_through: LearnedThrough {
                    offsets: &revision.learned_through.offsets,
                    time: revision.learned_through.time_ms.map(time),
                },
                staleness_seconds: staleness_ms.map(|ms| ms as f64 / 1000.0),
                chosen_with: *chosen_with,
                features: asks_features(request).then(|| features(given, *row, answers)).flatten(),
            }
        }
        Outcome::Refused { step, reason } => Body::Refused { error: Refusal { step, reason } },
    };
    let key = request.key.as_deref().map(String::from_utf8_lossy);
    let request = Asked { topic: &answers.asked, partition: origin.partition, offset: origin.offset, key };
    let mut text = Vec::with_capacity(512);
    serde_json::to_writer(&mut text, &Written { request, body })
        .map_err(|error| Fault::ours("an answer cannot be written").because(error))?;
    Ok(text)
}

/// The header of a request that asks for the features.
pub const FEATURES: &str = "features";

fn asks_features(request: &Request) -> bool {
    request.headers.iter().any(|(name, value)| name == FEATURES && value != b"false")
}

/// The features of a row that was answered, where they may be asked for.
pub(crate) fn features<'a>(given: &'a Given, row: usize, answers: &'a Answers) -> Option<Columns<'a>> {
    let used = answers.features.as_ref()?.get(&given.revision.model)?;
    Some(Columns { of: &given.rows, row, order: Cow::Borrowed(used) })
}

/// The header of a request that names the topic where its answer is wanted, too.
const REPLY_TO: &str = "reply-to";

/// A header's value that is longer is not copied.
const HEADER_BYTES_MAX: usize = 1024;

/// The answer to a request as a message for a topic with so many partitions.
pub fn message(request: &Request, value: Vec<u8>, partitions: u32, answers: &Answers, now_ms: i64) -> Message {
    let is_wanted = |name: &str| answers.headers.iter().any(|wanted| wanted == name);
    let headers = request.headers.iter().filter(|(name, value)| is_wanted(name) && value.len() <= HEADER_BYTES_MAX);
    // As many as may be wanted: a request may repeat a name.
    let headers = headers.take(answers.headers.len()).cloned().collect();
    Message {
        key: request.key.clone(),
        value: Some(value),
        headers,
        timestamp_ms: now_ms,
        // A request's answer is where the request is, so that each partition's answers are in the requests' order.
        partition: Some(request.origin.partition % partitions),
    }
}

/// The topic where the answer to a request is wanted, too, if it may be written there.
pub fn reply_to<'a>(request: &Request, answers: &'a Answers) -> Option<&'a str> {
    let (_, wanted) = request.headers.iter().find(|(name, _)| name == REPLY_TO)?;
    answers.reply_to.iter().find(|topic| topic.as_bytes() == wanted).map(String::as_str)
}

/// Milliseconds since 1970 as RFC 3339.
pub fn time(ms: i64) -> String {
    let mut text = Vec::with_capacity(24);
    timestamp::write(ms, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Columns of a row as an object, whose keys are in the order of the alphabet.
pub(crate) struct Columns<'a> {
    of: &'a RecordBatch,
    row: usize,
    /// The columns' indices in the order of their names.
    order: Cow<'a, [usize]>,
}

impl<'a> Columns<'a> {
    fn all(of: &'a RecordBatch, row: usize) -> Self {
        let fields = of.schema_ref().fields();
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_unstable_by_key(|at| fields[*at].name());
        Self { of, row, order: Cow::Owned(order) }
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { of, row, order } = self;
        let fields = of.schema_ref().fields();
        let mut object = serializer.serialize_map(Some(order.len()))?;
        for at in order.iter() {
            object.serialize_entry(fields[*at].name(), &Datum(of.column(*at), *row))?;
        }
        object.end()
    }
}

/// A value of an answer: a row of a column.
pub(crate) struct Datum<'a>(pub(crate) &'a dyn Array, pub(crate) usize);

impl Datum<'_> {
    /// It as JSON, where only a text can be said.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Datum<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(column, row) = *self;
        if column.is_null(row) {
            return serializer.serialize_unit();
        }
        match column.data_type() {
            DataType::Float64 => serializer.serialize_f64(column.as_primitive::<Float64Type>().value(row)),
            DataType::Int64 => serializer.serialize_i64(column.as_primitive::<Int64Type>().value(row)),
            DataType::UInt32 => serializer.serialize_u32(column.as_primitive::<UInt32Type>().value(row)),
            DataType::Boolean => serializer.serialize_bool(column.as_boolean().value(row)),
            DataType::Utf8 => serializer.serialize_str(column.as_string::<i32>().value(row)),
            DataType::Map(..) => {
                let entries = column.as_map().value(row);
                let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
                let mut object = serializer.serialize_map(Some(entries.len()))?;
                for at in 0..entries.len() {
                    object.serialize_entry(names.value(at), &Datum(values, at))?;
                }
                object.end()
            }
            other => Err(S::Error::custom(format!("answers have no columns of type {other}"))),
        }
    }
}
