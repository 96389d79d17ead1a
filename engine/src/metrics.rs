//! What a run tells Prometheus, and itself: the progress line and the summary read the same numbers.
//!
//! Labels are names from the definition, never data, so their number is bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::operator::Measure;

/// A run's metrics, each prefixed `millstream_`.
pub struct Metrics {
    registry: Registry,
    /// Memory, time and files of the process, by the names that they have in all programs.
    process: Registry,
    /// Sets gauges that are too dear to be kept up to date all the time.
    refresh: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    /// Epochs bound.
    pub epochs_total: IntCounter,
    /// Epochs published.
    pub epochs_published_total: IntCounter,
    records_total: IntCounterVec,
    bytes_total: IntCounterVec,
    lag_records: IntGaugeVec,
    rows_in_total: IntCounterVec,
    rows_out_total: IntCounterVec,
    dead_letters_total: IntCounterVec,
    repaired_total: IntCounterVec,
    expectations_failed_total: IntCounterVec,
    events_total: IntCounterVec,
    state_keys: IntGaugeVec,
    step_seconds_total: GaugeVec,
    held_rows: IntGauge,
    revision: IntGaugeVec,
    measure: GaugeVec,
    /// Requests bound.
    pub requests_total: IntCounter,
    answers_total: IntCounterVec,
    answers_by_total: IntCounterVec,
    answers_compared_total: IntCounterVec,
    answer_staleness_seconds: HistogramVec,
    /// Requests of an epoch that has some.
    pub epoch_requests: Histogram,
    /// Seconds that a commit took.
    pub commit_seconds: Histogram,
    /// Commits that were tried again.
    pub commit_retries_total: IntCounter,
    records_skipped_total: IntCounterVec,
    /// The epoch of the newest checkpoint: state for the epochs before it is stored.
    pub checkpoint_epoch: IntGauge,
    /// Bytes of state in the newest checkpoint.
    pub checkpoint_bytes: IntGauge,
    /// Seconds that the newest checkpoint took.
    pub checkpoint_seconds: Gauge,
    /// Checkpoints written.
    pub checkpoints_total: IntCounter,
    /// Checkpoints that were abandoned, and cleanings that were not finished.
    pub checkpoint_failures_total: IntCounter,
    /// Commits whose outcome was open, and was read back by a new producer.
    pub commit_recoveries_total: IntCounter,
    /// Promotions that could not be written.
    pub promotions_failed_total: IntCounter,
    /// Revisions that were not promoted because a gate does not hold.
    pub promotions_held_total: IntCounter,
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("metric names and labels are fixed and valid");
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

fn answer_staleness_seconds(registry: &Registry) -> HistogramVec {
    let help = "Event time of a request less the time that who answered had learned through.";
    let buckets = vec![0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0];
    let options = HistogramOpts::new("answer_staleness_seconds", help).buckets(buckets);
    registered(registry, HistogramVec::new(options, &["requests", "model"]))
}

fn epoch_requests(registry: &Registry) -> Histogram {
    let buckets = vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0];
    let options = HistogramOpts::new("epoch_requests", "Requests that were answered together, in one epoch.");
    registered(registry, Histogram::with_opts(options.buckets(buckets)))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::labelled(HashMap::new())
    }
}

impl Metrics {
    /// Each with the label `pipeline`.
    pub fn new(pipeline: &str) -> Self {
        Self::labelled(HashMap::from([("pipeline".to_owned(), pipeline.to_owned())]))
    }

    fn labelled(labels: HashMap<String, String>) -> Self {
        let process = Registry::new_custom(None, Some(labels.clone())).expect("valid labels");
        #[cfg(target_os = "linux")]
        process.register(Box::new(ProcessCollector::for_self())).expect("it is registered once");
        let registry = Registry::new_custom(Some("millstream".to_owned()), Some(labels)).expect("a valid prefix");
        let r = &registry;
        let counters =
            |name: &str, help: &str, labels: &[&str]| registered(r, IntCounterVec::new(Opts::new(name, help), labels));
        let gauges =
            |name: &str, help: &str, labels: &[&str]| registered(r, GaugeVec::new(Opts::new(name, help), labels));
        let int_gauges =
            |name: &str, help: &str, labels: &[&str]| registered(r, IntGaugeVec::new(Opts::new(name, help), labels));
        let counter = |name: &str, help: &str| registered(r, IntCounter::new(name, help));
        Self {
            epochs_total: counter("epochs_total", "Epochs bound."),
            epochs_published_total: counter("epochs_published_total", "Epochs published."),
            records_total: counters("records_total", "Records bound.", &["source"]),
            bytes_total: counters("bytes_total", "Bytes of the records bound.", &["source"]),
            lag_records: int_gauges("lag_records", "Records that exist and are not bound.", &["source", "partition"]),
            rows_in_total: counters("rows_in_total", "Rows that entered a step.", &["step", "lane"]),
            rows_out_total: counters("rows_out_total", "Rows that left a step.", &["step", "lane"]),
            dead_letters_total: counters("dead_letters_total", "Records that a step could not take.", &["step"]),
            repaired_total: counters(
                "repaired_total",
                "Values that a step has put in place of others.",
                &["step", "lane"],
            ),
            expectations_failed_total: counters(
                "expectations_failed_total",
                "Spans of rows of which something was expected that does not hold.",
                &["step"],
            ),
            events_total: counters("events_total", "What was of note: drift.", &["step", "event"]),
            state_keys: int_gauges("state_keys", "Keys that a step keeps state for.", &["step", "worker"]),
            step_seconds_total: gauges("step_seconds_total", "Seconds spent in a step, over all workers.", &["step"]),
            held_rows: registered(r, IntGauge::new("held_rows", "Rows that wait for the watermark.")),
            revision: int_gauges("revision", "Newest revision: examples learned.", &["model"]),
            measure: gauges(
                "measure",
                "What a model has measured of itself and its baselines.",
                &["model", "measure", "who", "over"],
            ),
            requests_total: counter("requests_bound_total", "Requests bound."),
            answers_total: counters("answers_committed_total", "Answers committed.", &["kind"]),
            answers_by_total: counters(
                "answers_by_total",
                "Answers committed, by who gave them.",
                &["requests", "model"],
            ),
            answers_compared_total: counters(
                "answers_compared_total",
                "Answers that were not given, by whether they said the same as the one that was.",
                &["requests", "model", "same"],
            ),
            answer_staleness_seconds: answer_staleness_seconds(r),
            epoch_requests: epoch_requests(r),
            commit_seconds: registered(
                r,
                Histogram::with_opts(HistogramOpts::new("commit_seconds", "Seconds that a commit took.")),
            ),
            commit_retries_total: counter("commit_retries_total", "Commits that were tried again."),
            records_skipped_total: counters(
                "records_skipped_total",
                "Records that were told to be skipped.",
                &["source"],
            ),
            checkpoint_epoch: registered(
                r,
                IntGauge::new("checkpoint_epoch", "Newest checkpoint: state for the epochs before this one."),
            ),
            checkpoint_bytes: registered(
                r,
                IntGauge::new("checkpoint_bytes", "Bytes of state in the newest checkpoint."),
            ),
            checkpoint_seconds: registered(
                r,
                Gauge::new("checkpoint_seconds", "Seconds that the newest checkpoint took."),
            ),
            checkpoints_total: counter("checkpoints_total", "Checkpoints written."),
            checkpoint_failures_total: counter("checkpoint_failures_total", "Checkpoints that were abandoned."),
            commit_recoveries_total: counter(
                "commit_recoveries_total",
                "Commits whose outcome was open, and was read back by a new producer.",
            ),
            promotions_held_total: counter(
                "promotions_held_total",
                "Revisions that were not promoted because a gate does not hold.",
            ),
            promotions_failed_total: counter("promotions_failed_total", "Promotions that could not be written."),
            refresh: Mutex::default(),
            registry,
            process,
        }
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        // Whoever panicked while it refreshed has ended its thread; the others' gauges are still good.
        let refresh = self.refresh.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        refresh.iter().for_each(|refresh| refresh());
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        TextEncoder::new().encode_to_string(&families).expect("gathered metrics can be written")
    }

    /// A family of gauges more.
    ///
    /// # Panics
    /// If there is one of this name, or the name or a label is none.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Gauges {
        Gauges(registered(&self.registry, GaugeVec::new(Opts::new(name, help), labels)))
    }

    /// Has `set` called whenever all metrics are written out: for gauges whose values take some time.
    pub fn before_rendering(&self, set: impl Fn() + Send + Sync + 'static) {
        self.refresh.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Box::new(set));
    }

    pub(crate) fn records(&self, source: &str, count: usize, bytes: usize) {
        self.records_total.with_label_values(&[source]).inc_by(count as u64);
        self.bytes_total.with_label_values(&[source]).inc_by(bytes as u64);
    }

    pub(crate) fn set_lag(&self, source: &str, partition: u32, records: u64) {
        self.lag_records.with_label_values(&[source, &partition.to_string()]).set(records as i64);
    }

    pub(crate) fn set_held_rows(&self, rows: usize) {
        self.held_rows.set(rows as i64);
    }

    pub(crate) fn skipped(&self, source: &str, count: usize) {
        self.records_skipped_total.with_label_values(&[source]).inc_by(count as u64);
    }

    pub(crate) fn set_checkpoint(&self, epoch: u64, bytes: u64, seconds: f64) {
        self.checkpoint_epoch.set(epoch as i64);
        self.checkpoint_bytes.set(bytes as i64);
        self.checkpoint_seconds.set(seconds);
        self.checkpoints_total.inc();
    }

    pub(crate) fn set_model(&self, model: &str, revision: u64, measures: &[Measure]) {
        self.revision.with_label_values(&[model]).set(revision as i64);
        for measure in measures {
            self.measure.with_label_values(&[model, measure.name, measure.who, &measure.over]).set(measure.value);
        }
    }

    pub(crate) fn answers(&self, kind: &str, count: usize) {
        self.answers_total.with_label_values(&[kind]).inc_by(count as u64);
    }

    pub(crate) fn answers_by(&self, requests: &str, model: &str, count: u64) {
        self.answers_by_total.with_label_values(&[requests, model]).inc_by(count);
    }

    pub(crate) fn answer_staleness(&self, requests: &str, model: &str) -> Histogram {
        self.answer_staleness_seconds.with_label_values(&[requests, model])
    }

    pub(crate) fn compared(&self, requests: &str, model: &str, same: bool, count: u64) {
        let same = if same { "yes" } else { "no" };
        self.answers_compared_total.with_label_values(&[requests, model, same]).inc_by(count);
    }

    /// Adds a metric of who runs the engine; its name gets the common prefix.
    pub fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        registered(&self.registry, collector)
    }

    pub(crate) fn dead_letters(&self, step: &str, count: usize) {
        self.dead_letters_total.with_label_values(&[step]).inc_by(count as u64);
    }

    /// What workers count.
    fn of_workers(&self) -> Vec<Counted<'_>> {
        fn counter(family: &IntCounterVec) -> Counted<'_> {
            let add = |labels: &[&str], more| family.with_label_values(labels).inc_by(more as u64);
            Counted { family, labels: &["step", "lane"], add: Box::new(add) }
        }
        vec![
            counter(&self.rows_in_total),
            counter(&self.rows_out_total),
            counter(&self.repaired_total),
            Counted { labels: &["step"], ..counter(&self.expectations_failed_total) },
            Counted { labels: &["step", "event"], ..counter(&self.events_total) },
            Counted {
                family: &self.step_seconds_total,
                labels: &["step"],
                add: Box::new(|labels, more| self.step_seconds_total.with_label_values(labels).add(more)),
            },
            Counted {
                family: &self.state_keys,
                labels: &["step", "worker"],
                add: Box::new(|labels, more| self.state_keys.with_label_values(labels).add(more as i64)),
            },
        ]
    }

    /// What this process' workers have counted.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (at, Counted { family, labels, .. }) in (0..).zip(self.of_workers()) {
            for metric in family.collect().iter().flat_map(MetricFamily::get_metric) {
                let label = |name: &&str| metric.get_label().iter().find(|label| label.name() == *name);
                let labels = labels.iter().map(|name| label(name).map_or("", |label| label.value()).to_owned());
                counts.insert((at, labels.collect()), value(metric));
            }
        }
        counts
    }

    /// Adds what another process' workers have counted since `before`.
    pub(crate) fn add(&self, before: &Counts, now: &Counts) {
        let families = self.of_workers();
        for (of, value) in now {
            let labels: Vec<&str> = of.1.iter().map(String::as_str).collect();
            if let Some(Counted { labels: names, add, .. }) = families.get(usize::from(of.0))
                && names.len() == labels.len()
            {
                add(&labels, value - before.get(of).copied().unwrap_or_default());
            }
        }
    }

    /// A step's own counters, looked up once.
    pub(crate) fn step(&self, step: &str, worker: usize) -> StepMetrics {
        let lanes = |family: &IntCounterVec| ["learn", "serve"].map(|lane| family.with_label_values(&[step, lane]));
        StepMetrics {
            rows_in: lanes(&self.rows_in_total),
            rows_out: lanes(&self.rows_out_total),
            repaired: lanes(&self.repaired_total),
            unmet: self.expectations_failed_total.with_label_values(&[step]),
            events: (self.events_total.clone(), step.to_owned()),
            seconds: self.step_seconds_total.with_label_values(&[step]),
            keys: (self.state_keys.clone(), [step.to_owned(), worker.to_string()]),
        }
    }

    /// The sum of a family's values, where `labels` (name, value) match; 0 if there is none.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(family)
            .iter()
            .filter(|(found, _)| labels.iter().all(|(name, value)| found.iter().any(|(n, v)| n == name && v == value)))
            .map(|(_, value)| value)
            // Not `sum`, whose zero is negative.
            .fold(0.0, |sum, value| sum + value)
    }

    /// All values of a counter or gauge family (without its prefix), with their labels.
    pub fn values(&self, family: &str) -> Vec<(Vec<(String, String)>, f64)> {
        let name = format!("millstream_{family}");
        let families: Vec<MetricFamily> = self.registry.gather();
        let metrics =
            families.iter().filter(|found| found.name() == name).flat_map(prometheus::proto::MetricFamily::get_metric);
        let labels = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned())).collect()
        };
        metrics.map(|metric| (labels(metric), value(metric))).collect()
    }
}

/// What a counter or a gauge shows.
fn value(metric: &prometheus::proto::Metric) -> f64 {
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

/// By family, as [`Metrics::of_workers`] has them, and labels: what was counted.
pub(crate) type Counts = BTreeMap<(u8, Vec<String>), f64>;

/// A family that workers count in.
struct Counted<'a> {
    family: &'a dyn Collector,
    labels: &'static [&'static str],
    add: AddTo<'a>,
}

/// Adds to the one with these labels' values.
type AddTo<'a> = Box<dyn Fn(&[&str], f64) + 'a>;

/// A family of gauges.
#[derive(Clone)]
pub struct Gauges(GaugeVec);

impl Gauges {
    /// Sets the one with these labels' values.
    ///
    /// # Panics
    /// If there are more or fewer of them than labels.
    pub fn set(&self, labels: &[&str], value: f64) {
        self.0.with_label_values(labels).set(value);
    }
}

/// The counters of one step on one worker.
pub(crate) struct StepMetrics {
    pub(crate) rows_in: [IntCounter; 2],
    pub(crate) rows_out: [IntCounter; 2],
    pub(crate) repaired: [IntCounter; 2],
    pub(crate) unmet: IntCounter,
    events: (IntCounterVec, String),
    pub(crate) seconds: prometheus::Gauge,
    /// With its labels: only steps that have state show it.
    keys: (IntGaugeVec, [String; 2]),
}

impl StepMetrics {
    /// Counts something of note.
    pub(crate) fn noticed(&self, event: &str) {
        let (family, step) = &self.events;
        family.with_label_values(&[step.as_str(), event]).inc();
    }

    pub(crate) fn set_keys(&self, keys: usize) {
        let (gauges, labels) = &self.keys;
        gauges.with_label_values(labels).set(keys as i64);
    }
}
