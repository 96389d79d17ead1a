//! From a planned pipeline to the engine's graph: opens the broker and the sources, starts nothing.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_connectors::broker::Broker;
use millstream_connectors::formats::{self, Format};
use millstream_connectors::sources::World;
use millstream_engine::graph::{Asks, EventTime, Graph, Input, Node, Output, SourceNode};
use millstream_engine::source::{MakeDecoder, Source};
use millstream_engine::{Fault, Result, batch};

use crate::plan::{self, OnRequest, Pipeline};

/// The largest record that is taken; a larger one becomes a dead letter.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// What the pipeline's sources may touch.
pub fn world(pipeline: &Pipeline, broker: Arc<dyn Broker>) -> World {
    World { broker, folder: pipeline.folder.clone(), max_record_bytes: RECORD_BYTES_MAX }
}

/// Creates the topics that the pipeline names and its own.
pub fn create_topics(pipeline: &Pipeline, broker: &dyn Broker) -> Result<()> {
    for (topic, partitions) in &pipeline.topics {
        broker.create(topic, *partitions)?;
    }
    Topics::of(&pipeline.name).of_runs().iter().try_for_each(|topic| broker.create(topic, 1))
}

/// The topics that belong to a pipeline itself.
pub struct Topics {
    /// Progress records: the journal and commit points.
    pub progress: String,
    /// Dead letters: raw bytes, with origin, step and reason as headers.
    pub dead: String,
    /// What was of note: that a stream drifted.
    pub events: String,
    /// What was served, minute by minute.
    pub served: String,
    /// How far each feed has come.
    pub feeds: String,
    /// Which dead letters were replayed; made by the first replay.
    pub replayed: String,
}

impl Topics {
    /// Their names.
    pub fn of(pipeline: &str) -> Self {
        let topic = |part: &str| format!("{pipeline}.{part}");
        Self {
            progress: topic("progress"),
            dead: topic("dead"),
            events: topic("events"),
            served: topic("served"),
            feeds: topic("feeds"),
            replayed: topic("replayed"),
        }
    }

    /// Those that every run has.
    pub fn of_runs(&self) -> [&String; 5] {
        [&self.progress, &self.dead, &self.events, &self.served, &self.feeds]
    }
}

/// The graph of a pipeline: its sources, then its requests; its nodes; its sinks.
pub fn graph(pipeline: &Pipeline, world: &World) -> Result<Graph> {
    graph_of(pipeline, world.max_record_bytes, |_, source| {
        let opened = (source.source.open)(world)?;
        let decoder = formats::named(decoder(source), &*opened)?;
        Ok((opened, decoder))
    })
}

/// The same, of what `open` makes of each source and then of each request: where it is read from, and how.
pub fn graph_of(
    pipeline: &Pipeline,
    max_record_bytes: usize,
    mut open: impl FnMut(usize, &plan::Source) -> Result<(Arc<dyn Source>, MakeDecoder)>,
) -> Result<Graph> {
    let mut sources = Vec::new();
    let mut add = |source: &plan::Source, asks| {
        let (opened, decoder) = open(sources.len(), source)?;
        let decoder = formats::required(formats::limited(decoder, max_record_bytes), source.required.clone());
        sources.push(source_node(source, asks, opened, decoder));
        Ok::<(), Fault>(())
    };
    pipeline.sources.iter().try_for_each(|source| add(source, None))?;
    for request in &pipeline.requests {
        let folds = request.models.iter().map(|model| pipeline.models[*model].node).collect();
        let by_name = request.may_ask(OnRequest::Version);
        let asks = Asks { enters: request.enters, folds, choose: request.choose.clone(), by_name };
        add(&request.source, Some(asks))?;
    }
    let node = |node: &plan::Node| Node {
        name: node.label.clone(),
        inputs: node.inputs.iter().map(|at| input(*at)).collect(),
        step: node.step.clone(),
    };
    let output = |sink: &plan::Sink| Output { name: sink.name.clone(), from: input(sink.from) };
    Ok(Graph {
        sources,
        nodes: pipeline.nodes.iter().map(node).collect(),
        outputs: pipeline.sinks.iter().map(output).collect(),
        ..Graph::default()
    })
}

/// How a source's records become rows.
pub fn decoder(source: &plan::Source) -> MakeDecoder {
    decoder_of(source.format.as_ref(), &source.columns)
}

/// How a feed's records become rows.
pub fn feed_decoder(feed: &plan::Feed) -> MakeDecoder {
    decoder_of(feed.format.as_ref(), &feed.columns)
}

fn decoder_of(format: Option<&Format>, columns: &SchemaRef) -> MakeDecoder {
    match format {
        Some(format) => format.decoder.clone(),
        None => formats::rows_decoder(columns.clone()),
    }
}

fn source_node(source: &plan::Source, asks: Option<Asks>, opened: Arc<dyn Source>, decoder: MakeDecoder) -> SourceNode {
    let time = source.event_time.map_or(EventTime::Arrival, |column| EventTime::Column {
        column: batch::META + column,
        lateness_ms: source.lateness_ms,
        corrections_ms: source.corrections_ms,
        ahead_ms: source.ahead_ms,
    });
    SourceNode {
        name: source.name.clone(),
        source: opened,
        schema: source.schema.clone(),
        decoder,
        time,
        idle_ms: source.idle_ms,
        asks,
    }
}

/// A place of the plan in the graph.
pub fn input(at: plan::Input) -> Input {
    match at {
        plan::Input::Source(source) => Input::Source(source),
        plan::Input::Node(node) => Input::Node(node),
    }
}
