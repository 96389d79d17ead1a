//! Draws a planned pipeline.

mod svg;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::{Input, Pipeline};

/// What a box stands for; it decides its looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Topic,
    Source,
    Stream,
    Model,
    Sink,
}

struct Box {
    shape: Shape,
    title: String,
    /// Lines below the title: a stream's steps.
    lines: Vec<String>,
}

/// Boxes and arrows; where a stream's steps are one box.
#[derive(Default)]
pub struct Picture {
    boxes: Vec<Box>,
    /// From, to, and what it carries besides rows.
    arrows: Vec<(usize, usize, &'static str)>,
    topics: BTreeMap<String, usize>,
}

impl Picture {
    /// The picture of a pipeline.
    pub fn of(pipeline: &Pipeline) -> Self {
        let mut picture = Self::default();
        let sources: Vec<usize> =
            pipeline.sources.iter().map(|source| picture.add(Shape::Source, &source.name, Vec::new())).collect();
        for (source, at) in pipeline.sources.iter().zip(&sources) {
            picture.reads(source.source.topic.as_ref(), *at);
        }
        let nodes = picture.nodes(pipeline, &sources);
        let end = |input| match input {
            Input::Source(index) => sources[index],
            Input::Node(index) => nodes[index],
        };
        for feed in &pipeline.feeds {
            let at = picture.add(Shape::Source, &feed.name, vec!["feed".to_owned()]);
            let topic = picture.topic(&feed.topic);
            picture.arrows.push((at, topic, ""));
        }
        for sink in &pipeline.sinks {
            let at = picture.add(Shape::Sink, &sink.name, Vec::new());
            picture.arrows.push((end(sink.from), at, ""));
            if let Some((topic, _)) = &sink.sink.topic {
                let topic = picture.topic(topic);
                picture.arrows.push((at, topic, ""));
            }
        }
        for request in &pipeline.requests {
            let topic = request.source.source.topic.as_ref();
            if let Some((topic, _)) = topic {
                let topic = picture.topic(topic);
                picture.arrows.push((topic, sources[request.enters], "requests"));
            }
            let answers = picture.topic(&request.answers);
            for model in &request.models {
                picture.arrows.push((nodes[pipeline.models[*model].node], answers, "answers"));
            }
        }
        picture
    }

    /// One box for all steps of a stream, and one for each model; gives the box of each node.
    fn nodes(&mut self, pipeline: &Pipeline, sources: &[usize]) -> Vec<usize> {
        let mut boxes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut nodes: Vec<usize> = Vec::new();
        for node in &pipeline.nodes {
            let shape = if node.kind == "model" { Shape::Model } else { Shape::Stream };
            let at = *boxes.entry(&node.of).or_insert_with(|| self.add(shape, &node.of, Vec::new()));
            if shape == Shape::Stream {
                self.boxes[at].lines.push(node.kind.to_owned());
            }
            for input in &node.inputs {
                let from = match *input {
                    Input::Source(index) => sources[index],
                    Input::Node(index) => nodes[index],
                };
                if from != at && !self.arrows.contains(&(from, at, "")) {
                    self.arrows.push((from, at, ""));
                }
            }
            nodes.push(at);
        }
        nodes
    }

    fn add(&mut self, shape: Shape, title: &str, lines: Vec<String>) -> usize {
        self.boxes.push(Box { shape, title: title.to_owned(), lines });
        self.boxes.len() - 1
    }

    fn topic(&mut self, name: &str) -> usize {
        if let Some(at) = self.topics.get(name) {
            return *at;
        }
        let at = self.add(Shape::Topic, name, Vec::new());
        self.topics.insert(name.to_owned(), at);
        at
    }

    fn reads(&mut self, topic: Option<&(String, u32)>, at: usize) {
        if let Some((name, _)) = topic {
            let topic = self.topic(name);
            self.arrows.push((topic, at, ""));
        }
    }

    /// As a Mermaid flow chart.
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        for (at, item) in self.boxes.iter().enumerate() {
            let text = item.text("<br/>").replace('"', "#quot;");
            let (open, close) = match item.shape {
                Shape::Topic => ("[(", ")]"),
                Shape::Source => ("([", "])"),
                Shape::Stream => ("[", "]"),
                Shape::Model => ("{{", "}}"),
                Shape::Sink => ("[/", "/]"),
            };
            let _ = writeln!(out, "  n{at}{open}\"{text}\"{close}");
        }
        for (from, to, label) in &self.arrows {
            let arrow = if label.is_empty() { "-->".to_owned() } else { format!("-.->|{label}|") };
            let _ = writeln!(out, "  n{from} {arrow} n{to}");
        }
        out
    }

    /// As a Graphviz graph.
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph pipeline {\n  rankdir=LR;\n  node [fontname=\"sans-serif\", shape=box];\n");
        for (at, item) in self.boxes.iter().enumerate() {
            let shape = match item.shape {
                Shape::Topic => "cylinder",
                Shape::Source => "ellipse",
                Shape::Stream => "box",
                Shape::Model => "hexagon",
                Shape::Sink => "parallelogram",
            };
            let text = item.text("\n").replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(out, "  n{at} [label=\"{text}\", shape={shape}];");
        }
        for (from, to, label) in &self.arrows {
            let style = if label.is_empty() { String::new() } else { format!(" [label=\"{label}\", style=dashed]") };
            let _ = writeln!(out, "  n{from} -> n{to}{style};");
        }
        out.push_str("}\n");
        out
    }
}

impl Box {
    fn text(&self, line_end: &str) -> String {
        std::iter::once(&self.title).chain(&self.lines).cloned().collect::<Vec<_>>().join(line_end)
    }
}
