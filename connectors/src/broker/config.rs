//! Which broker a pipeline uses, as its definition file says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use millstream_engine::Result;
use millstream_engine::catalogue::{Planned, Problem, configuration};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::embedded::Embedded;
use super::kafka::{Kafka, check_options};
use super::{Broker, MAX_RECORD_BYTES};

/// Where a pipeline's topics live.
#[derive(Clone, Debug)]
pub enum BrokerConfig {
    /// In the state directory.
    Embedded(EmbeddedConfig),
    /// On a Kafka server.
    Kafka(KafkaConfig),
}

/// Topics in the pipeline's state directory: nothing to install.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// The largest record that is taken, in bytes.
    pub max_record_bytes: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { max_record_bytes: MAX_RECORD_BYTES }
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self::Embedded(EmbeddedConfig::default())
    }
}

/// Options of the Kafka client. Only those that cannot run code, read files or call URLs are taken.
#[derive(Clone)]
pub struct KafkaConfig(pub BTreeMap<String, String>);

/// Names, not values: those may be passwords.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

const KINDS: [&str; 2] = ["embedded", "kafka"];

impl BrokerConfig {
    /// Reads and checks a configuration; touches neither network nor disk.
    pub fn parse(value: &Value) -> Planned<Self> {
        let (kind, config) = match value {
            Value::String(kind) => (kind.as_str(), &Value::Null),
            Value::Object(one) if one.len() == 1 => {
                one.iter().next().map(|(k, v)| (k.as_str(), v)).expect("it has one")
            }
            _ => {
                let message = "a broker is `embedded` or `{kafka: {bootstrap.servers: \"host:9092\"}}`";
                return Err(vec![Problem::new("", "bad-value", message)]);
            }
        };
        let under = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.under(kind)).collect();
        match kind {
            "embedded" if config.is_null() => Ok(Self::default()),
            "embedded" => configuration(config).map(Self::Embedded).map_err(under),
            "kafka" => kafka(config).map(Self::Kafka).map_err(under),
            _ => {
                let problem = Problem::new("", "unknown-broker", format!("there is no broker `{kind}`"));
                Err(vec![problem.choices(kind, KINDS)])
            }
        }
    }

    /// All that is wrong with a configuration; touches neither network nor disk.
    pub fn check(value: &Value) -> Vec<Problem> {
        Self::parse(value).err().unwrap_or_default()
    }

    /// Opens the broker; `state_dir` is where the embedded one keeps its file.
    pub fn open(&self, state_dir: &Path) -> Result<Arc<dyn Broker>> {
        Ok(match self {
            Self::Embedded(config) => {
                Arc::new(Embedded::open(state_dir)?.with_max_record_bytes(config.max_record_bytes))
            }
            Self::Kafka(config) => Arc::new(Kafka::connect(&config.0)?),
        })
    }
}

fn kafka(config: &Value) -> Planned<KafkaConfig> {
    let mut problems = Vec::new();
    let mut options = BTreeMap::new();
    let none = serde_json::Map::new();
    let given = match config {
        Value::Object(given) => given,
        Value::Null => &none,
        _ => return Err(vec![Problem::new("", "bad-value", "the Kafka client's options are `name: value` pairs")]),
    };
    for (option, value) in given {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            _ => {
                let message = format!("`{option}` must be a text, a number, true or false");
                let mut problem = Problem::new("", "bad-value", message);
                problem.path = vec![option.clone()];
                problems.push(problem);
                continue;
            }
        };
        options.insert(option.clone(), value);
    }
    problems.extend(check_options(&options));
    if problems.is_empty() { Ok(KafkaConfig(options)) } else { Err(problems) }
}

impl<'de> Deserialize<'de> for BrokerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::parse(&Value::deserialize(deserializer)?).map_err(|problems| {
            let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            de::Error::custom(messages.join("; "))
        })
    }
}

/// What may be written, for the schema: a component is its name, or `{name: configuration}`.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Shape {
    /// Topics in the state directory.
    Name(Name),
    /// A broker with its configuration.
    Configured(Configured),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
enum Name {
    /// Topics in the pipeline's state directory: nothing to install.
    Embedded,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
enum Configured {
    /// Topics in the pipeline's state directory: nothing to install.
    Embedded(EmbeddedConfig),
    /// Options of the Kafka client, such as `bootstrap.servers: "host:9092"`. Only those that cannot run code, read
    /// files or call URLs are taken.
    Kafka(BTreeMap<String, Scalar>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Scalar {
    Text(String),
    Number(f64),
    Truth(bool),
}

impl JsonSchema for BrokerConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Broker".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Shape::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_every_problem() {
        let cases = [
            (json!("embedded"), vec![]),
            (json!({"embedded": {}}), vec![]),
            (json!({"embedded": null}), vec![]),
            (json!({"embedded": {"max_record_bytes": 1000}}), vec![]),
            (
                json!({"kafka": {"bootstrap.servers": "h:9092", "linger.ms": 3, "socket.keepalive.enable": true}}),
                vec![],
            ),
            (json!("embeded"), vec![": unknown-broker"]),
            (json!(7), vec![": bad-value"]),
            (json!("kafka"), vec!["kafka: missing-option"]),
            (json!({"embedded": {"size": 1}}), vec!["embedded/size: bad-value"]),
            (
                json!({"kafka": {"bootstrap.servers": [1], "group.id": "g"}}),
                vec!["kafka/bootstrap.servers: bad-value", "kafka/group.id: refused-option", "kafka: missing-option"],
            ),
        ];
        for (value, expected) in cases {
            let found: Vec<String> = BrokerConfig::check(&value)
                .iter()
                .map(|problem| format!("{}: {}", problem.path.join("/"), problem.code))
                .collect();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let value = json!({"kafka": {"bootstrap.servers": "h:1", "ssl.key.password": "canary"}});
        let config: BrokerConfig = serde_json::from_value(value).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn the_schema_shows_both_brokers() {
        let schema = serde_json::to_string(&schemars::schema_for!(BrokerConfig)).unwrap();
        assert!(schema.contains("embedded") && schema.contains("kafka") && schema.contains("max_record_bytes"));
    }
}
