//! Running profiles of what sources read and streams give, as metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::batch::{Lane, META, is_changing};
use millstream_engine::graph::{Input, MakeObserver, Observe};
use millstream_engine::metrics::{Gauges, Metrics};
use millstream_engine::processes::Aside;
use millstream_engine::{Fault, Result};
use millstream_operators::profile::{ColumnReport, Profile};

use crate::plan::{self, Pipeline};
use crate::run::assemble::input;

/// The profiles of one stream, one for each worker: each worker locks its own, so nobody waits but for who reads.
#[derive(Clone)]
struct Parts {
    name: String,
    schema: SchemaRef,
    /// Which columns are looked at, the engine's first.
    columns: Vec<usize>,
    workers: Arc<Mutex<Vec<Arc<Mutex<Profile>>>>>,
    /// What other processes have told of all their workers.
    others: Arc<Mutex<BTreeMap<usize, Profile>>>,
}

/// A worker's part.
struct Part {
    profile: Arc<Mutex<Profile>>,
    columns: Vec<usize>,
}

impl Observe for Part {
    fn see(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = rows.project(&self.columns)?;
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).add(&rows)
    }
}

impl Parts {
    /// Of all columns.
    fn new(name: &str, schema: &SchemaRef) -> Self {
        let columns = (0..schema.fields().len()).collect();
        Self { name: name.to_owned(), schema: schema.clone(), columns, workers: Arc::default(), others: Arc::default() }
    }

    /// Of these columns.
    fn only(&self, wanted: &BTreeSet<String>) -> Self {
        let is_wanted = |at: &usize| *at < META || wanted.contains(self.schema.field(*at).name());
        let columns: Vec<usize> = (0..self.schema.fields().len()).filter(is_wanted).collect();
        let schema = Arc::new(self.schema.project(&columns).expect("its own columns"));
        Self { name: self.name.clone(), schema, columns, workers: Arc::default(), others: Arc::default() }
    }

    /// Makes a part for each worker.
    fn maker(&self) -> MakeObserver {
        let Self { schema, columns, workers, .. } = self.clone();
        Arc::new(move || {
            let profile = Arc::new(Mutex::new(Profile::new(&schema)));
            workers.lock().unwrap_or_else(PoisonError::into_inner).push(profile.clone());
            Box::new(Part { profile, columns: columns.clone() })
        })
    }

    /// All workers' parts together.
    fn whole(&self) -> Profile {
        let mut whole = self.here();
        self.others.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|other| whole.merge(other));
        whole
    }

    /// Those of this process' workers.
    fn here(&self) -> Profile {
        let mut whole = Profile::new(&self.schema);
        for part in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            whole.merge(&part.lock().unwrap_or_else(PoisonError::into_inner));
        }
        whole
    }
}

/// What is asked where models learn.
#[derive(Default)]
struct Asked {
    /// The features of those models: no request has what is only known later.
    features: BTreeSet<String>,
    /// Where it comes by.
    at: BTreeSet<Input>,
}

/// How differently features are distributed where models are asked and where they learn.
#[derive(Clone, Default)]
pub struct Skews {
    /// Profiled rows: those that teach, and where models learn from them, those that ask.
    all: Arc<Vec<(Parts, Option<Parts>)>>,
    /// By source of requests: the names of the streams that their models learn from.
    asked: Arc<BTreeMap<u32, BTreeSet<String>>>,
}

impl Skews {
    fn parts(&self) -> impl Iterator<Item = &Parts> {
        self.all.iter().flat_map(|(learned, asked)| std::iter::once(learned).chain(asked))
    }

    /// By stream and column, where the requests of this source are answered.
    pub fn of(&self, source: u32) -> BTreeMap<String, BTreeMap<String, f64>> {
        let Some(asked) = self.asked.get(&source) else { return BTreeMap::new() };
        let of = |(learned, asked): &(Parts, Option<Parts>)| {
            let (learned, asked) = (learned.whole(), asked.as_ref()?.whole());
            let skews = learned.skew(&asked);
            Some(skews.into_iter().map(|(column, skew)| (column.to_owned(), skew)).collect::<BTreeMap<_, _>>())
        };
        let all = self.all.iter().filter(|(learned, _)| asked.contains(&learned.name));
        all.filter_map(|parts| Some((parts.0.name.clone(), of(parts).filter(|skews| !skews.is_empty())?))).collect()
    }
}

/// Processes tell each other what their workers saw.
impl Aside for Skews {
    fn tell(&self) -> Vec<u8> {
        let told: Vec<Profile> = self.parts().map(Parts::here).collect();
        postcard::to_stdvec(&told).expect("profiles can be written")
    }

    fn hear(&self, process: usize, told: &[u8]) -> Result<()> {
        let not_one = || Fault::world("what another process tells of its rows cannot be read");
        let told: Vec<Profile> = postcard::from_bytes(told).map_err(|error| not_one().because(error))?;
        if told.len() != self.parts().count() {
            return Err(not_one());
        }
        for (parts, told) in self.parts().zip(told) {
            parts.others.lock().unwrap_or_else(PoisonError::into_inner).insert(process, told);
        }
        Ok(())
    }
}

/// Who sees all that is profiled.
pub type Observers = BTreeMap<(Input, Lane), MakeObserver>;

/// Observers of all that is profiled: what each source reads, and what each stream gives; and what is asked at the same places, where
/// models learn. Not what changes: there rows are taken back.
pub fn observers(pipeline: &Pipeline, metrics: &Metrics) -> (Observers, Skews) {
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
    // By where models learn: what all requests ask there. Where no step lies between, they come by at their own source.
    let mut asked: BTreeMap<Input, Asked> = BTreeMap::new();
    let (mut observers, mut streams) = (Observers::new(), BTreeMap::<u32, BTreeSet<String>>::new());
    for (at, request) in pipeline.requests.iter().enumerate() {
        for model in request.models.iter().map(|model| &pipeline.models[*model]) {
            let learned = input(pipeline.nodes[model.node].inputs[0]);
            let Some(Parts { name, .. }) = observed.get(&learned) else { continue };
            let source = (pipeline.sources.len() + at) as u32;
            streams.entry(source).or_default().insert(name.clone());
            let is_source = matches!(learned, Input::Source(_));
            let Asked { features, at: seen } = asked.entry(learned).or_default();
            features.extend(model.columns());
            seen.insert(if is_source { Input::Source(source as usize) } else { learned });
        }
    }
    observers.extend(observed.iter().map(|(rows, parts)| ((*rows, Lane::Learn), parts.maker())));
    let gauges = Columns::new(metrics);
    let with_asked = |(rows, parts): (Input, Parts)| {
        let asked = asked.remove(&rows).map(|Asked { features, at }| {
            let asked = parts.only(&features);
            observers.extend(at.into_iter().map(|at| ((at, Lane::Serve), asked.maker())));
            asked
        });
        (parts, asked)
    };
    let all: Vec<(Parts, Option<Parts>)> = observed.into_iter().map(with_asked).collect();
    let skews = Skews { all: Arc::new(all), asked: Arc::new(streams) };
    let all = skews.all.clone();
    metrics.before_rendering(move || {
        for (parts, asked) in &*all {
            let learned = parts.whole();
            gauges.set(&parts.name, &learned);
            if let Some(asked) = asked.as_ref().map(Parts::whole) {
                for (column, skew) in learned.skew(&asked) {
                    gauges.skew.set(&[&parts.name, column], skew);
                }
            }
        }
    });
    (observers, skews)
}

/// What a family shows of a column.
type Shown = fn(&ColumnReport) -> Option<f64>;

/// The families of metrics.
struct Columns {
    plain: Vec<(Gauges, Shown)>,
    quantiles: Gauges,
    skew: Gauges,
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
            skew: metrics.gauges(
                "serving_skew",
                "How differently a column is distributed where models are asked and where they learn: its population stability index.",
                &labels,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryViewArray, Float64Array, StringArray};
    use arrow::array::{TimestampMillisecondArray, UInt32Array, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use millstream_engine::batch::schema_of;

    use super::*;
    use crate::catalogue::Catalogue;
    use crate::check;
    use crate::definition::{Definition, Secrets};

    const DEFINITION: &str = "
millstream: 1
name: rooms
sources:
  readings:
    from: {topic: {name: readings}}
    format: json
    columns: {room: text, heat: float}
streams:
  warm: {input: readings, steps: [{require: {that: heat > 0}}]}
  same: {input: readings}
  counts: {input: readings, steps: [{aggregate: {by: [room], columns: {n: count()}}}]}
";

    fn rows(offset: u64, cells: &[(&str, Option<f64>)]) -> RecordBatch {
        let len = cells.len();
        let fields = [Field::new("room", DataType::Utf8, true), Field::new("heat", DataType::Float64, true)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![0; len])),
            Arc::new(UInt32Array::from(vec![0; len])),
            Arc::new(UInt64Array::from_iter_values(offset..offset + len as u64)),
            Arc::new(UInt32Array::from(vec![0; len])),
            Arc::new(TimestampMillisecondArray::from(vec![0; len])),
            Arc::new(BinaryViewArray::new_null(len)),
            Arc::new(BinaryViewArray::new_null(len)),
            Arc::new(cells.iter().map(|(room, _)| Some(*room)).collect::<StringArray>()),
            Arc::new(cells.iter().map(|(_, heat)| *heat).collect::<Float64Array>()),
        ];
        RecordBatch::try_new(schema_of(&Schema::new(fields.to_vec())), columns).unwrap()
    }

    fn pipeline() -> Pipeline {
        let definition = Definition::parse("rooms.yaml", DEFINITION);
        let (pipeline, findings) = check(&definition, &Catalogue::shipped(), Secrets::default());
        pipeline.unwrap_or_else(|| panic!("{findings:?}"))
    }

    #[test]
    fn what_other_processes_saw_is_shown_too() {
        let (pipeline, metrics) = (pipeline(), Metrics::default());
        let (first, all) = observers(&pipeline, &metrics);
        let (member, its) = observers(&pipeline, &Metrics::default());
        let at = (Input::Source(0), Lane::Learn);
        let (mut here, mut there) = (first[&at](), member[&at]());
        here.see(&rows(0, &[("a", Some(1.0)), ("b", None)])).unwrap();
        for heat in [3.0, 9.0] {
            there.see(&rows(2, &[("c", Some(heat))])).unwrap();
            // All of it so far, each time.
            all.hear(1, &its.tell()).unwrap();
        }
        let text = metrics.render();
        for line in [
            "millstream_column_missing_share{column=\"heat\",source=\"readings\"} 0.25",
            "millstream_column_max{column=\"heat\",source=\"readings\"} 9",
            "millstream_column_distinct{column=\"room\",source=\"readings\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for said in [&[][..], &[200, 1], &its.tell()[..9]] {
            assert!(all.hear(1, said).is_err(), "{said:?}");
        }
    }

    #[test]
    fn the_workers_parts_are_shown_together() {
        let pipeline = pipeline();
        let metrics = Metrics::default();
        let (observers, _) = observers(&pipeline, &metrics);
        let observed: Vec<(Input, Lane)> = observers.keys().copied().collect();
        let learned = [Input::Source(0), Input::Node(0)].map(|at| (at, Lane::Learn));
        assert_eq!(observed, learned, "not what is the source's own, nor what changes; and nobody asks");
        assert!(!metrics.render().contains("millstream_column_"), "nothing was seen");
        let mut workers = [0, 1].map(|_| observers[&(Input::Source(0), Lane::Learn)]());
        workers[0].see(&rows(0, &[("a", Some(1.0)), ("b", None)])).unwrap();
        workers[1].see(&rows(2, &[("a", Some(3.0)), ("c", Some(f64::NAN))])).unwrap();
        let text = metrics.render();
        for line in [
            "millstream_column_missing_share{column=\"heat\",source=\"readings\"} 0.5",
            "millstream_column_min{column=\"heat\",source=\"readings\"} 1",
            "millstream_column_max{column=\"heat\",source=\"readings\"} 3",
            "millstream_column_mean{column=\"heat\",source=\"readings\"} 2",
            "millstream_column_distinct{column=\"room\",source=\"readings\"} 3",
            "millstream_column_quantile{column=\"heat\",quantile=\"0.99\",source=\"readings\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("source=\"warm\""), "that has seen nothing");
        workers[0].see(&rows(4, &[("a", Some(9.0))])).unwrap();
        assert!(metrics.render().contains("millstream_column_max{column=\"heat\",source=\"readings\"} 9"));
    }
}
