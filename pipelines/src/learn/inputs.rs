//! What stands for a definition's sources: files, or what their feeds read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream_connectors::broker::simulated::Simulated;
use millstream_connectors::formats;
use millstream_engine::graph::Graph;
use millstream_engine::source::{MakeDecoder, Source};
use millstream_engine::{Fault, Result};
use serde_json::{Value, json};

use super::Wanted;
use crate::plan::{self, Pipeline};
use crate::profile::{self, FileFormat};
use crate::run::assemble;
use crate::testing;

/// What stands for each source.
pub(crate) struct Inputs<'a> {
    /// By the source's index.
    files: BTreeMap<usize, &'a Path>,
    /// The same of those without a file.
    feeds: BTreeMap<usize, &'a plan::Feed>,
}

impl<'a> Inputs<'a> {
    /// What is wanted to.
    pub(crate) fn of(pipeline: &'a Pipeline, wanted: &'a Wanted) -> Result<Self> {
        let files = files(pipeline, wanted)?;
        Ok(Self { files, feeds: if wanted.feeds { feeds(pipeline) } else { BTreeMap::new() } })
    }

    /// The pipeline's graph on it; nothing leaves the graph.
    pub(crate) fn graph(&self, pipeline: &Pipeline) -> Result<Graph> {
        let mut graph = assemble::graph_of(pipeline, assemble::RECORD_BYTES_MAX, |at, source| {
            match (self.files.get(&at), self.feeds.get(&at)) {
                (Some(path), _) => open(source, path),
                (None, Some(feed)) => open_feed(pipeline, feed, source),
                (None, None) => testing::without_records(source),
            }
        })?;
        graph.outputs.clear();
        Ok(graph)
    }

    /// The sources for which nothing stands.
    pub(crate) fn without(&self, pipeline: &Pipeline) -> Vec<String> {
        let is_without = |(at, _): &(usize, _)| !self.files.contains_key(at) && !self.feeds.contains_key(at);
        pipeline.sources.iter().enumerate().filter(is_without).map(|(_, source)| source.name.clone()).collect()
    }
}

/// The file of each source that has one, by the source's index.
fn files<'a>(pipeline: &Pipeline, wanted: &'a Wanted) -> Result<BTreeMap<usize, &'a Path>> {
    let names = || pipeline.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut files = BTreeMap::new();
    for (name, path) in &wanted.files {
        let at = match name {
            Some(name) => pipeline.sources.iter().position(|source| source.name == *name),
            None if pipeline.sources.len() == 1 => Some(0),
            None => {
                let help = format!("say of which by `--from SOURCE={}`", path.display());
                return Err(Fault::definition(format!("there are several sources ({}): {help}", names())));
            }
        };
        let Some(at) = at else {
            let name = name.as_deref().unwrap_or_default();
            return Err(Fault::definition(format!("there is no source {name}; there are {}", names())));
        };
        if files.insert(at, path.as_path()).is_some() {
            return Err(Fault::definition(format!("{} has two files", pipeline.sources[at].name)));
        }
    }
    Ok(files)
}

/// The feed that fills each source's topic, by the source's index.
fn feeds(pipeline: &Pipeline) -> BTreeMap<usize, &plan::Feed> {
    let feed = |source: &plan::Source| {
        let (topic, _) = source.source.topic.as_ref()?;
        pipeline.feeds.iter().find(|feed| feed.topic == *topic)
    };
    pipeline.sources.iter().enumerate().filter_map(|(at, source)| Some((at, feed(source)?))).collect()
}

/// What a feed reads in place of a source.
fn open_feed(pipeline: &Pipeline, feed: &plan::Feed, source: &plan::Source) -> Result<(Arc<dyn Source>, MakeDecoder)> {
    if feed.columns != source.columns || source.event_time.is_none() {
        let why = "has other columns than its source, or the source's time is that of the topic's records";
        let (feed, source) = (&feed.name, &source.name);
        return Err(Fault::definition(format!("feed {feed} {why}: give a file by `--from {source}=FILE`")));
    }
    let world = assemble::world(pipeline, Arc::new(Simulated::new()));
    let opened = (feed.source.open)(&world)?;
    let decoder = formats::named(assemble::feed_decoder(feed), &*opened)?;
    Ok((opened, decoder))
}

/// A file in place of a source: CSV by its first line, JSON lines, or Parquet, into the source's columns.
fn open(source: &plan::Source, path: &Path) -> Result<(Arc<dyn Source>, MakeDecoder)> {
    let (opened, format) = profile::source_of_file(path)?;
    let decoder = match format {
        None => formats::rows_decoder(source.columns.clone()),
        Some(format) => {
            let planned = formats::plan(&as_written(source, &format), &source.columns).map_err(|problems| {
                let message = &problems[0].message;
                Fault::definition(format!("{} cannot be read as {}: {message}", path.display(), source.name))
            })?;
            planned.decoder
        }
    };
    let decoder = formats::named(decoder, &*opened)?;
    Ok((opened, decoder))
}

/// A format with the settings that the definition has for it: how times are told, what stands for nothing.
fn as_written(source: &plan::Source, format: &FileFormat) -> Value {
    let kind = match format {
        FileFormat::Csv(_) => "csv",
        FileFormat::Json => "json",
    };
    let written = source.written_format.as_ref().and_then(|written| written.get(kind)).and_then(Value::as_object);
    let mut config = written.cloned().unwrap_or_default();
    if let FileFormat::Csv(delimiter) = format {
        config.insert("delimiter".to_owned(), json!(delimiter));
    }
    json!({kind: config})
}
