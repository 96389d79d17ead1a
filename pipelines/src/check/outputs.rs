//! What leaves a pipeline, and what fills its topics: sinks, feeds, metrics.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use millstream_connectors::broker::check_topic_name;
use millstream_connectors::formats::Format;
use millstream_connectors::http::{Configured, Limits};
use millstream_engine::catalogue::Problems;
use serde_json::json;

use super::sources::{Columns, Tried};
use super::streams::Graph;
use super::{Checker, component, config, section_of};
use crate::definition::{Data, Entry, Node};
use crate::report::Finding;
use crate::shape;
use crate::{front, plan};

impl Checker<'_> {
    pub(super) fn sinks(&mut self, root: &Node, graph: &Graph) -> Vec<plan::Sink> {
        section_of(root, "sinks").iter().filter_map(|entry| self.sink(entry, graph)).collect()
    }

    fn sink(&mut self, entry: &Entry, graph: &Graph) -> Option<plan::Sink> {
        let from = entry.value.entry("from")?;
        let known = from.value.text().and_then(|name| graph.known.get(name)).cloned();
        if let (None, Some(name)) = (&known, from.value.text()) {
            let message = format!("there is no source, stream or model `{name}`");
            self.find(Finding::error(from.value.span, "unknown-input", message).choices(name, graph.known.keys()));
        }
        let known = known.unwrap_or_else(Graph::unknown);
        let to = entry.value.entry("to").filter(|to| to.value.is_sound())?;
        let (name, configured) = component(to)?;
        let kind = self.catalogue.sinks.iter().find(|kind| kind.name == name)?;
        match (kind.plan)(&config(&configured, &self.secrets), &known.schema) {
            Ok(sink) => {
                if let Some((topic, partitions)) = &sink.topic {
                    self.topic(topic, *partitions, configured.key_span);
                }
                Some(plan::Sink { name: entry.key.clone(), from: known.output, sink })
            }
            Err(problems) => {
                self.own_problems(&configured, &known.doubt, problems);
                None
            }
        }
    }

    pub(super) fn feeds(&mut self, root: &Node, sources: &[Tried]) -> Vec<plan::Feed> {
        section_of(root, "feeds").iter().filter_map(|entry| self.feed(root, entry, sources)).collect()
    }

    fn feed(&mut self, root: &Node, entry: &Entry, sources: &[Tried]) -> Option<plan::Feed> {
        let node = &entry.value;
        let topic = node.get("topic").and_then(Node::text).unwrap_or_default();
        if let Some(at) = node.entry("topic") {
            self.topic_name(at);
        }
        let reader = reader(root, topic, sources);
        let planned = self.planned_source(node);
        if planned.as_ref().is_some_and(|planned| planned.receiver.is_some()) {
            let span = node.entry("from").map_or(entry.key_span, Entry::mark);
            let finding = Finding::error(span, "received-by-feed", "a feed cannot receive: its place would be lost");
            self.find(finding.help("make it a source, which fills a topic by itself"));
        }
        let known = planned
            .as_ref()
            .is_some_and(|planned| matches!(planned.content, millstream_connectors::sources::Content::Known(_)));
        let declared = match self.declared(node) {
            None if !known => reader.map(|(_, columns)| columns.clone()),
            declared => declared,
        };
        let columns = self.columns(entry, planned.as_ref(), declared);
        let reads = reader.and_then(|(source, _)| source.value.entry("format"));
        let bytes =
            planned.as_ref().is_some_and(|planned| planned.content == millstream_connectors::sources::Content::Bytes);
        let known_format = planned.as_ref().is_some_and(|planned| planned.format.is_some());
        let format = node.entry("format").or(if bytes && !known_format { reads } else { None });
        let format = self.format(entry, planned.as_ref(), format, &columns);
        let writes = if columns.doubt.is_none() { self.planned_format_or_json(reads, &columns) } else { None };
        let time = node.entry("time").and_then(|time| self.timestamp(time, &columns));
        let key = node.entry("key").filter(|key| key.value.data != Data::Null);
        let key = key.map(|key| self.column(key, &columns));
        let shape: shape::Feed = self.read(Some(node))?;
        if let Some(at) = node.entry("topic") {
            self.topic(&shape.topic, shape.partitions, at.value.span);
        }
        Some(plan::Feed {
            name: entry.key.clone(),
            source: planned?,
            columns: columns.schema,
            format: format.ok()?,
            writes: writes?,
            time: time?,
            key: match key {
                Some(found) => Some(found?),
                None => None,
            },
            topic: shape.topic,
            partitions: shape.partitions,
        })
    }

    /// The given format, or JSON where none is given, for these columns.
    pub(super) fn planned_format_or_json(&mut self, format: Option<&Entry>, columns: &Columns) -> Option<Format> {
        if let Some(format) = format {
            return self.planned_format(format, columns);
        }
        let json = self.catalogue.formats.iter().find(|kind| kind.name == "json")?;
        (json.plan)(&json!({}), &columns.schema).ok()
    }

    pub(super) fn topic_name(&mut self, entry: &Entry) {
        if let Some(Err(message)) = entry.value.text().map(check_topic_name) {
            self.find(Finding::error(entry.value.span, "bad-topic", message));
        }
    }

    /// How requests are taken over HTTP and gRPC, if they are.
    pub(super) fn front(&mut self, root: &Node) -> Option<front::Settings> {
        let serve = root.get("serve")?;
        let doors = ["http", "grpc"].map(|door| serve.entry(door).filter(|entry| entry.value.data != Data::Null));
        let doors = doors.map(|door| door.map(|door| self.door(door)));
        // Where one of them is wrong, nothing runs.
        let [http, grpc] = doors.map(|door| door.and_then(|door| door));
        let both = || [&http, &grpc].into_iter().flatten();
        Some(front::Settings {
            // They share those who may wait, so what is stricter holds for both.
            objective: both().map(|(_, objective, _)| *objective).min()?,
            waiting_max: both().map(|(_, _, waiting)| *waiting).min()?,
            http: http.map(|(limits, ..)| limits),
            grpc: grpc.map(|(limits, ..)| limits),
        })
    }

    /// A listener for requests, how soon they should be answered, and how many rows may wait.
    fn door(&mut self, entry: &Entry) -> Option<(Limits, Duration, usize)> {
        let door: shape::Front = self.read(Some(&entry.value))?;
        let mut problems = Problems::default();
        let listener = Configured {
            listen: &door.listen,
            token: door.token.as_deref(),
            tls: door.tls.as_ref(),
            max_body_bytes: door.max_body_bytes,
            max_connections: door.max_connections,
            header_seconds: door.header_seconds,
            timeout_seconds: door.timeout_seconds,
        };
        let limits = listener.check("ask the models", &mut problems);
        self.problems(entry, problems.0);
        // Its range is a matter of its form.
        Some((limits?, Duration::from_secs_f64(door.objective_seconds), door.max_waiting))
    }

    /// Where lineage is told, if it is.
    pub(super) fn lineage(&mut self, root: &Node) -> Option<plan::Lineage> {
        let entry = root.entry("lineage").filter(|entry| entry.value.data != Data::Null)?;
        let lineage: plan::Lineage = self.read(Some(&entry.value))?;
        let topic = entry.value.entry("topic")?;
        self.topic_name(topic);
        self.topic(&lineage.topic, 1, topic.value.span);
        Some(lineage)
    }

    pub(super) fn metrics(&mut self, root: &Node) -> Option<SocketAddr> {
        let node = root.get("serve")?.get("metrics")?;
        let text = node.text()?;
        let Ok(address) = text.parse::<SocketAddr>() else {
            let message = format!("`{text}` is no address with a port");
            self.find(Finding::error(node.span, "bad-address", message).help("write it as `127.0.0.1:9464`"));
            return None;
        };
        let local = match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        };
        if !local {
            let message = format!("metrics at `{address}` can be read by anyone who reaches this machine");
            let finding = Finding::warning(node.span, "public-address", message);
            self.find(finding.help("use `127.0.0.1` unless that is meant"));
        }
        Some(address)
    }
}

/// The source that reads `topic`, with its columns.
fn reader<'a>(root: &'a Node, topic: &str, sources: &'a [Tried]) -> Option<(&'a Entry, &'a Columns)> {
    let mut readers = section_of(root, "sources").iter().zip(sources);
    readers
        .find(|(entry, _)| {
            let read = entry.value.get("from").and_then(|from| from.get("topic")).and_then(|config| config.get("name"));
            read.and_then(Node::text) == Some(topic)
        })
        .map(|(entry, (_, columns))| (entry, columns))
}
