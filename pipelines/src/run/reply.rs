//! Answers as messages.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use millstream_connectors::broker::Message;
use millstream_engine::binding::Frontier;
use millstream_engine::publish::{Outcome, Reply};
use millstream_engine::{Fault, Result};
use serde_json::{Map, Value, json};

use crate::run::commit::Answers;

/// The answer to a request: JSON, under the request's key.
///
/// ```json
/// {"request": {"topic": "questions", "partition": 0, "offset": 17, "key": "N14228"}, "answer": {"probability": 0.31, "prediction": false},
///  "model": "late", "revision": 48211, "learned_through": {"offsets": {"flights/0": 48317, "weather/0": 4404}, "time": "2013-03-01T10:30:00.000Z"},
///  "staleness_seconds": 60.0}
/// ```
/// A request that cannot be served gets `error` (with `step` and `reason`) instead of what follows `request`.
pub fn message(reply: &Reply, answers: &Answers, now_ms: i64) -> Result<Message> {
    let origin = reply.request.origin;
    let key = reply.request.key.as_deref().map(String::from_utf8_lossy);
    let request = json!({"topic": answers.asked, "partition": origin.partition, "offset": origin.offset, "key": key});
    let body = match &reply.outcome {
        Outcome::Answered { columns, row, revision, staleness_ms } => json!({
            "request": request,
            "answer": object(columns, *row)?,
            "model": revision.model,
            "revision": revision.revision,
            "learned_through": frontier(&revision.learned_through),
            "staleness_seconds": staleness_ms.map(|ms| ms as f64 / 1000.0),
        }),
        Outcome::Refused { step, reason } => json!({"request": request, "error": {"step": &**step, "reason": reason}}),
    };
    Ok(Message {
        key: reply.request.key.clone(),
        value: Some(body.to_string().into_bytes()),
        headers: vec![],
        timestamp_ms: now_ms,
        // A request's answer is where the request is, so that each partition's answers are in the requests' order.
        partition: Some(origin.partition % answers.partitions),
    })
}

/// What a revision had learned through.
pub fn frontier(frontier: &Frontier) -> Value {
    json!({"offsets": frontier.offsets, "time": frontier.time_ms.map(time)})
}

/// Milliseconds since 1970 as RFC 3339.
pub fn time(ms: i64) -> String {
    arrow::temporal_conversions::timestamp_ms_to_datetime(ms)
        .map_or_else(|| format!("{ms} ms"), |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn object(columns: &RecordBatch, row: usize) -> Result<Value> {
    let mut object = Map::new();
    for (field, column) in columns.schema_ref().fields().iter().zip(columns.columns()) {
        object.insert(field.name().clone(), value(column, row)?);
    }
    Ok(Value::Object(object))
}

fn value(column: &dyn Array, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    match column.data_type() {
        DataType::Float64 => Ok(json!(column.as_primitive::<Float64Type>().value(row))),
        DataType::Int64 => Ok(json!(column.as_primitive::<Int64Type>().value(row))),
        DataType::Boolean => Ok(json!(column.as_boolean().value(row))),
        DataType::Utf8 => Ok(json!(column.as_string::<i32>().value(row))),
        other => Err(Fault::ours(format!("answers have no columns of type {other}"))),
    }
}
