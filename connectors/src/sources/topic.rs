//! `topic`: records of a topic.

use std::sync::Arc;
use std::time::Duration;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Position, Reader, Source};
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Content, PlannedSource, SourceKind, World};
use crate::broker::{Broker, Fetched, TopicReader, check_partitions, check_topic_name};

/// A topic.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// How many partitions it gets where it has to be created. Default: 1.
    #[serde(default = "one")]
    pub partitions: u32,
    /// Whether headers are kept: those of requests are.
    #[serde(default)]
    #[schemars(skip)]
    pub headers: bool,
}

pub(super) fn one() -> u32 {
    1
}

/// The entry of `topic`.
pub static KIND: SourceKind = Kind {
    name: "topic",
    about: "The records of a topic, from its first one on. Its partitions are the source's, its offsets theirs.",
    schema: schema_of::<Config>,
    example: "{name: flights}",
    plan,
};

fn plan(value: &Value) -> Planned<PlannedSource> {
    let config: Config = configuration(value)?;
    check("name", &config.name, config.partitions)?;
    Ok(reading(&config.name, config.partitions, config.headers))
}

/// Reads a topic.
pub(super) fn reading(name: &str, partitions: u32, headers: bool) -> PlannedSource {
    let name = name.to_owned();
    PlannedSource {
        content: Content::Bytes,
        format: None,
        topic: Some((name.clone(), partitions)),
        receiver: None,
        open: Box::new(move |world: &World| {
            let (broker, name) = (world.broker.clone(), name.clone());
            Ok(Arc::new(TopicSource { broker, name, headers }) as Arc<dyn Source>)
        }),
    }
}

/// The problems of a topic's name, which stands at `key`, and of its number of partitions.
pub(super) fn check(key: &str, name: &str, partitions: u32) -> Planned<()> {
    let mut problems = Problems::default();
    problems.take(check_topic_name(name).map_err(|message| Problem::new(key, "bad-topic-name", message)));
    problems.take(check_partitions(partitions).map_err(|message| Problem::new("partitions", "bad-value", message)));
    problems.finish()
}

struct TopicSource {
    broker: Arc<dyn Broker>,
    name: String,
    headers: bool,
}

impl Source for TopicSource {
    fn partitions(&self) -> Result<Vec<u32>> {
        match self.broker.topic(&self.name)? {
            Some(topic) => Ok((0..topic.partitions.len() as u32).collect()),
            None => Err(Fault::world(format!("there is no topic `{}`", self.name))),
        }
    }

    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Records { reader: self.broker.open(&self.name, from)?, headers: self.headers }))
    }

    fn is_finite(&self) -> bool {
        false
    }
}

struct Records {
    reader: Box<dyn TopicReader>,
    headers: bool,
}

impl Reader for Records {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<RawBatch>> {
        let Some(Fetched { records, headers }) = self.reader.read(max_bytes, wait)? else { return Ok(None) };
        Ok(Some(if self.headers { RawBatch { headers, ..records } } else { records }))
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        self.reader.ends()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sources::tests::{read_all, shown, world};

    #[test]
    fn finds_all_problems() {
        let problems = plan(&json!({"name": "a/b", "partitions": 0})).err().expect("two problems");
        let found: Vec<_> = problems.iter().map(|problem| (problem.path.join("."), problem.code)).collect();
        assert_eq!(found, [("name".to_owned(), "bad-topic-name"), ("partitions".to_owned(), "bad-value")]);
    }

    #[test]
    fn partitions_are_counted_by_people() {
        for (partitions, is_fine) in [(1, true), (10_000, true), (10_001, false), (u32::MAX, false)] {
            assert_eq!(plan(&json!({"name": "a", "partitions": partitions})).is_ok(), is_fine, "{partitions}");
        }
    }

    #[test]
    fn reads_what_the_broker_has() {
        let planned = plan(&json!({"name": "letters", "partitions": 2})).expect("good");
        assert_eq!(planned.topic, Some(("letters".to_owned(), 2)));
        let source = (planned.open)(&world(".", 100)).expect("the topic exists");
        assert_eq!((source.partitions().expect("exists"), source.is_finite()), (vec![0, 1], false));
        let from = [Position { partition: 1, offset: 1 }];
        assert_eq!(shown(&read_all(&*source, &from, 100)), ["1/1 b", "1/2 c"]);
    }

    #[test]
    fn names_a_topic_that_is_missing() {
        let planned = plan(&json!({"name": "none"})).expect("good");
        let fault = (planned.open)(&world(".", 100)).and_then(|source| source.partitions()).expect_err("not there");
        assert_eq!(fault.message, "there is no topic `none`");
    }
}
