//! Running profiles of what sources read and streams give, as metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::is_changing;
use millstream_engine::graph::{Input, MakeObserver, Observe};
use millstream_engine::metrics::{Gauges, Metrics};
use millstream_operators::profile::{ColumnReport, Profile};

use crate::plan::{self, Pipeline};
use crate::run::assemble::input;

/// The profiles of one stream, one for each worker: each worker locks its own, so nobody waits but for who reads.
#[derive(Clone)]
struct Parts {
    name: String,
    schema: SchemaRef,
    parts: Arc<Mutex<Vec<Arc<Mutex<Profile>>>>>,
}

/// A worker's part.
struct Part(Arc<Mutex<Profile>>);

impl Observe for Part {
    fn see(&mut self, rows: &RecordBatch) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(rows)
    }
}

impl Parts {
    fn new(name: &str, schema: &SchemaRef) -> Self {
        Self { name: name.to_owned(), schema: schema.clone(), parts: Arc::default() }
    }

    /// Makes a part for each worker.
    fn maker(&self) -> MakeObserver {
        let Self { schema, parts, .. } = self.clone();
        Arc::new(move || {
            let part = Arc::new(Mutex::new(Profile::new(&schema)));
            parts.lock().unwrap_or_else(PoisonError::into_inner).push(part.clone());
            Box::new(Part(part))
        })
    }

    /// All workers' parts together.
    fn whole(&self) -> Profile {
        let mut whole = Profile::new(&self.schema);
        for part in self.parts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            whole.merge(&part.lock().unwrap_or_else(PoisonError::into_inner));
        }
        whole
    }
}

/// Observers of all that is profiled: what each source reads, and what each stream gives. Not what changes: there rows are taken back.
pub fn observers(pipeline: &Pipeline, metrics: &Metrics) -> BTreeMap<Input, MakeObserver> {
    let mut observed: BTreeMap<Input, Parts> = BTreeMap::new();
    for (at, source) in pipeline.sources.iter().enumerate() {
        observed.insert(Input::Source(at), Parts::new(&source.name, &source.schema));
    }
    for stream in &pipeline.streams {
        let schema = pipeline.schema(stream.output);
        if matches!(stream.output, plan::Input::Node(_)) && !is_changing(schema) {
            observed.entry(input(stream.output)).or_insert_with(|| Parts::new(&stream.name, schema));
        }
    }
    let gauges = Columns::new(metrics);
    let all: Vec<Parts> = observed.values().cloned().collect();
    metrics.before_rendering(move || {
        for parts in &all {
            gauges.set(&parts.name, &parts.whole());
        }
    });
    observed.into_iter().map(|(rows, parts)| (rows, parts.maker())).collect()
}

/// The families of metrics.
struct Columns {
    /// What a family shows of a column.
    plain: Vec<(Gauges, fn(&ColumnReport) -> Option<f64>)>,
    quantiles: Gauges,
}

impl Columns {
    fn new(metrics: &Metrics) -> Self {
        let labels = ["source", "column"];
        let family = |name: &str, help: &str| metrics.gauges(&format!("column_{name}"), help, &labels);
        Self {
            plain: vec![
                (family("missing_share", "Share of a source's or stream's rows without a value."), |of| {
                    Some(of.missing_share)
                }),
                (family("min", "Least number of a column."), |of| of.min),
                (family("max", "Greatest number of a column."), |of| of.max),
                (family("mean", "Mean of a column's numbers."), |of| of.mean),
                (family("deviation", "Standard deviation of a column's numbers."), |of| of.deviation),
                (family("distinct", "Different values of a column in a sample of the rows."), |of| {
                    Some(of.distinct as f64)
                }),
            ],
            quantiles: metrics.gauges(
                "column_quantile",
                "Quantiles of a column's numbers in a sample of the rows.",
                &["source", "column", "quantile"],
            ),
        }
    }

    fn set(&self, name: &str, profile: &Profile) {
        let report = profile.report();
        for column in report.columns.iter().filter(|_| report.rows > 0) {
            let labels = [name, column.name.as_str()];
            for (gauges, value) in &self.plain {
                if let Some(value) = value(column) {
                    gauges.set(&labels, value);
                }
            }
            for quantile in &column.quantiles {
                self.quantiles.set(&[labels[0], labels[1], &quantile.share.to_string()], quantile.value);
            }
        }
    }
}
