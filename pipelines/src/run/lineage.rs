//! Where data comes from and goes to, as `OpenLineage` events (<https://openlineage.io/spec/2-0-2/OpenLineage.json>) in a topic.
//!
//! ```text
//! run ─ START ─► … promotion ─ RUNNING, with the version ─► … ─ COMPLETE, ABORT or FAIL
//! ```
//! The event of a promotion is in the transaction of its epoch: a version that is told there is one of what was committed. A run that
//! is killed has no last event.

use std::path::Path;
use std::sync::Arc;

use millstream_connectors::broker::config::{BrokerConfig, KafkaConfig};
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::Fault;
use millstream_engine::time::Clock;
use millstream_operators::registry::Version;
use serde_json::{Value, json};

use crate::plan::{self, Pipeline};
use crate::run::{Options, reply};

/// Who says it.
const PRODUCER: &str = concat!("urn:millstream:", env!("CARGO_PKG_VERSION"));
const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const SCHEMA: &str = "https://openlineage.io/spec/facets/1-1-1/SchemaDatasetFacet.json#/$defs/SchemaDatasetFacet";
const VERSION: &str =
    "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet";
const ERROR: &str = "https://openlineage.io/spec/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet";

/// Tells of one run.
pub struct Lineage {
    pub(super) topic: String,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    run_id: String,
    job: Value,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    namespace: String,
    pipeline: String,
}

impl Lineage {
    /// Of a run; `None` where the definition wants none. `incarnation` is no other run's of the pipeline.
    pub fn of(pipeline: &Pipeline, broker: &Arc<dyn Broker>, options: &Options, incarnation: u64) -> Option<Self> {
        let plan::Lineage { topic, namespace } = pipeline.lineage.clone()?;
        let (place, clock) = (place(&pipeline.broker, &options.state), &options.clock);
        let dataset = |topic: &str| json!({"namespace": place, "name": topic});
        let input = |source: &plan::Source| {
            let name = source.source.topic.as_ref().map_or(&source.name, |(topic, _)| topic);
            let fields = source.columns.fields().iter();
            let fields: Vec<Value> =
                fields.map(|field| json!({"name": field.name(), "type": field.data_type().to_string()})).collect();
            let schema = json!({"_producer": PRODUCER, "_schemaURL": SCHEMA, "fields": fields});
            json!({"namespace": place, "name": name, "facets": {"schema": schema}})
        };
        let answers = pipeline.requests.iter().map(|request| dataset(&request.answers));
        let sinks = pipeline.sinks.iter();
        let sinks = sinks.map(|sink| dataset(sink.sink.topic.as_ref().map_or(&sink.name, |(topic, _)| topic)));
        let asked = pipeline.requests.iter().map(|request| &request.source);
        Some(Self {
            topic,
            broker: broker.clone(),
            clock: clock.clone(),
            run_id: run_id(&format!("{namespace} {} {incarnation} {}", pipeline.name, clock.now_ms())),
            job: json!({"namespace": namespace, "name": pipeline.name}),
            inputs: pipeline.sources.iter().chain(asked).map(input).collect(),
            outputs: answers.chain(sinks).collect(),
            namespace,
            pipeline: pipeline.name.clone(),
        })
    }

    /// The run starts.
    pub fn start(&self) {
        self.append(self.event("START", self.clock.now_ms(), &json!({}), &self.outputs));
    }

    /// The run has ended, by itself or because it was stopped.
    pub fn end(&self, stopped: bool, fault: Option<&Fault>) {
        let (kind, facets) = match fault {
            Some(fault) => {
                let error = json!({
                    "_producer": PRODUCER, "_schemaURL": ERROR, "message": fault.message, "programmingLanguage": "Rust",
                });
                ("FAIL", json!({"errorMessage": error}))
            }
            None if stopped => ("ABORT", json!({})),
            None => ("COMPLETE", json!({})),
        };
        self.append(self.event(kind, self.clock.now_ms(), &facets, &self.outputs));
    }

    /// A version was made of a revision.
    pub fn promoted(&self, version: &Version) -> Message {
        let facet = json!({"_producer": PRODUCER, "_schemaURL": VERSION, "datasetVersion": version.id});
        let name = format!("{}/models/{}", self.pipeline, version.metadata.model);
        let model = json!({"namespace": self.namespace, "name": name, "facets": {"version": facet}});
        self.event("RUNNING", version.metadata.promoted_ms, &json!({}), &[model])
    }

    fn event(&self, kind: &str, now_ms: i64, facets: &Value, outputs: &[Value]) -> Message {
        let event = json!({
            "eventType": kind,
            "eventTime": reply::time(now_ms),
            "run": {"runId": self.run_id, "facets": facets},
            "job": self.job,
            "inputs": self.inputs,
            "outputs": outputs,
            "producer": PRODUCER,
            "schemaURL": EVENT,
        });
        Message {
            key: Some(self.run_id.clone().into_bytes()),
            value: Some(event.to_string().into_bytes()),
            timestamp_ms: now_ms,
            ..Message::default()
        }
    }

    /// What cannot be told is no reason not to run.
    fn append(&self, message: Message) {
        let producer = self.broker.producer(&format!("{}.lineage", self.pipeline));
        let append = Append { topic: self.topic.clone(), messages: vec![message] };
        if let Err(fault) = producer.and_then(|mut producer| producer.append(&[append])) {
            eprintln!("lineage is not told: {fault}");
        }
    }
}

/// Where topics are, as lineage calls it.
fn place(broker: &BrokerConfig, state: &Path) -> String {
    match broker {
        BrokerConfig::Kafka(KafkaConfig(options)) => {
            let servers = options.get("bootstrap.servers").map_or("", String::as_str);
            format!("kafka://{}", servers.split(',').next().unwrap_or_default().trim())
        }
        BrokerConfig::Embedded(_) => {
            format!("file://{}", std::path::absolute(state).as_deref().unwrap_or(state).display())
        }
    }
}

/// A UUID (of version 8, RFC 9562) that follows from a text.
fn run_id(text: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_uuids() {
        let id = run_id("a");
        assert_ne!(id, run_id("b"));
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(id.as_bytes()[14] == b'8' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
    }
}
