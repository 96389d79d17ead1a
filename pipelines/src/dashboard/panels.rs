//! What is shown, and by which queries.

use crate::plan::{Model, Pipeline};

use super::metric;

/// Panels that belong together.
pub struct Row {
    /// What they are about.
    pub title: String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// A number, or how some went on.
pub struct Panel {
    /// What it shows.
    pub title: &'static str,
    /// What it means.
    pub about: &'static str,
    /// The unit, by Grafana's name: `ops`, `s`, `bytes`, `percentunit`, `short`.
    pub unit: &'static str,
    /// How it is drawn.
    pub shape: Shape,
    /// What is drawn.
    pub queries: Vec<Query>,
}

/// How a panel is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The newest value, large.
    Number,
    /// Lines over time.
    Lines,
}

/// Lines of a panel.
pub struct Query {
    /// In Prometheus' language, with Grafana's variables.
    pub expression: String,
    /// What a line is called, with labels in braces.
    pub legend: &'static str,
}

/// Over what rates are taken: Grafana knows how often metrics are read.
const RATE: &str = "$__rate_interval";

fn panel(title: &'static str, unit: &'static str, about: &'static str) -> Panel {
    Panel { title, about, unit, shape: Shape::Lines, queries: Vec::new() }
}

fn number(title: &'static str, unit: &'static str, about: &'static str) -> Panel {
    Panel { shape: Shape::Number, ..panel(title, unit, about) }
}

impl Panel {
    fn line(mut self, expression: String, legend: &'static str) -> Self {
        self.queries.push(Query { expression, legend });
        self
    }
}

/// Writes queries over the metrics of a pipeline.
struct Metrics<'a>(&'a Pipeline);

impl Metrics<'_> {
    /// Of the instances that are looked at.
    fn of(&self, family: &str, labels: &[&str]) -> String {
        metric(self.0, family, &[&["instance=~\"$instance\""], labels].concat())
    }

    fn sum(&self, by: &str, family: &str, labels: &[&str]) -> String {
        format!("sum by ({by}) ({})", self.of(family, labels))
    }

    /// How much a counter grows in a second.
    fn rate(&self, by: &str, family: &str, labels: &[&str]) -> String {
        format!("sum by ({by}) (rate({}[{RATE}]))", self.of(family, labels))
    }

    fn quantile(&self, share: f64, by: &str, family: &str) -> String {
        let comma = if by.is_empty() { "" } else { ", " };
        format!(
            "histogram_quantile({share}, {})",
            self.rate(&format!("le{comma}{by}"), &format!("{family}_bucket"), &[])
        )
    }
}

/// All panels of a pipeline, in the order in which records flow.
pub fn rows(pipeline: &Pipeline) -> Vec<Row> {
    let metrics = &Metrics(pipeline);
    let mut rows = vec![Row { title: "At a glance".to_owned(), panels: glance(metrics) }];
    rows.push(Row { title: "Sources".to_owned(), panels: sources(metrics) });
    if !pipeline.nodes.is_empty() {
        rows.push(Row { title: "Steps".to_owned(), panels: steps(metrics) });
    }
    rows.push(Row { title: "Columns".to_owned(), panels: columns(metrics) });
    let models = pipeline.models.iter();
    rows.extend(models.map(|model| Row { title: format!("Model {}", model.name), panels: of_model(metrics, model) }));
    if !pipeline.requests.is_empty() {
        rows.push(Row { title: "Requests".to_owned(), panels: requests(metrics) });
    }
    rows.push(Row { title: "What is durable".to_owned(), panels: durable(metrics) });
    rows.push(Row { title: "Process".to_owned(), panels: process(metrics) });
    rows
}

fn glance(metrics: &Metrics<'_>) -> Vec<Panel> {
    let mut panels = vec![
        number("Records", "ops", "Records that were taken in a second.")
            .line(metrics.rate("", "millstream_records_total", &[]), ""),
        number("Behind", "short", "Records that exist and were not taken yet.")
            .line(metrics.sum("", "millstream_lag_records", &[]), ""),
        number("Dead letters in an hour", "short", "Records that could not be taken: `millstream dead list` says why.")
            .line(format!("sum(increase({}[1h])) or vector(0)", metrics.of("millstream_dead_letters_total", &[])), ""),
    ];
    if !metrics.0.requests.is_empty() {
        panels.push(
            number("Answers", "ops", "Answers in a second.")
                .line(metrics.rate("", "millstream_answers_committed_total", &[]), ""),
        );
    }
    if metrics.0.front.is_some() {
        panels.push(
            number("Answered within", "s", "How long 99 of 100 requests over HTTP and gRPC took at most.")
                .line(metrics.quantile(0.99, "", "millstream_front_seconds"), ""),
        );
    }
    panels.push(
        number("Memory", "bytes", "What the process has in memory.")
            .line(metrics.sum("", "process_resident_memory_bytes", &[]), ""),
    );
    panels.push(
        number("Running", "short", "Instances, by the definition's fingerprint and the program's version.")
            .line(metrics.sum("definition, version", "millstream_running", &[]), "{{definition}} {{version}}"),
    );
    panels
}

fn sources(metrics: &Metrics<'_>) -> Vec<Panel> {
    vec![
        panel("Records taken", "ops", "By source, in a second.")
            .line(metrics.rate("source", "millstream_records_total", &[]), "{{source}}"),
        panel("Records behind", "short", "What exists and was not taken yet, by source and partition.")
            .line(metrics.sum("source, partition", "millstream_lag_records", &[]), "{{source}}/{{partition}}"),
        panel("Bytes taken", "Bps", "By source, in a second.")
            .line(metrics.rate("source", "millstream_bytes_total", &[]), "{{source}}"),
        panel(
            "Rows that wait",
            "short",
            "For the watermark, in event-time order: late ones may still come before them.",
        )
        .line(metrics.sum("instance", "millstream_held_rows", &[]), "{{instance}}"),
        panel("Epochs", "ops", "Sets of offset ranges that were bound, and that were published, in a second.")
            .line(metrics.rate("", "millstream_epochs_total", &[]), "bound")
            .line(metrics.rate("", "millstream_epochs_published_total", &[]), "published"),
        panel("Records skipped", "ops", "What was told to be left out after a rollback.")
            .line(metrics.rate("source", "millstream_records_skipped_total", &[]), "{{source}}"),
    ]
}

fn steps(metrics: &Metrics<'_>) -> Vec<Panel> {
    let share = |made: &str, of: &str| {
        let of = metrics.rate("step", of, &["lane=\"learn\""]);
        format!("{} / {of} > 0", metrics.rate("step", made, &["lane=\"learn\""]))
    };
    vec![
        panel("Rows out", "ops", "By step, of those that teach.")
            .line(metrics.rate("step", "millstream_rows_out_total", &["lane=\"learn\""]), "{{step}}"),
        panel("Rows left", "percentunit", "How many rows come out of a step for each that goes in.")
            .line(share("millstream_rows_out_total", "millstream_rows_in_total"), "{{step}}"),
        panel("Time", "percentunit", "What share of a core a step takes.")
            .line(metrics.rate("step", "millstream_step_seconds_total", &[]), "{{step}}"),
        panel("Dead letters", "ops", "Records that a step could not take: `millstream dead list` says why.")
            .line(metrics.rate("step", "millstream_dead_letters_total", &[]), "{{step}}"),
        panel("Values repaired", "percentunit", "How many values a step has put in place of others, for each row.")
            .line(share("millstream_repaired_total", "millstream_rows_in_total"), "{{step}}"),
        panel("Keys with state", "short", "By step.")
            .line(metrics.sum("step", "millstream_state_keys", &[]), "{{step}}"),
        panel("Expectations that failed", "ops", "Spans of rows of which something was expected that does not hold.")
            .line(metrics.rate("step", "millstream_expectations_failed_total", &[]), "{{step}}"),
        panel("Events", "ops", "What was of note, as drift is; each is told in the pipeline's topic of events.")
            .line(metrics.rate("step, event", "millstream_events_total", &[]), "{{step}} {{event}}"),
    ]
}

/// Of one column, which is chosen.
fn columns(metrics: &Metrics<'_>) -> Vec<Panel> {
    let mean = |family: &str, by: &str| format!("avg by ({by}) ({})", metrics.of(family, &["column=~\"$column\""]));
    let of = |family: &str| mean(family, "source");
    vec![
        panel("Missing", "percentunit", "The share of rows without a value, by source and column.").line(
            format!("avg by (source, column) ({}) > 0", metrics.of("millstream_column_missing_share", &[])),
            "{{source}}: {{column}}",
        ),
        panel("Quantiles of $column", "short", "Of a sample of the rows.")
            .line(mean("millstream_column_quantile", "source, quantile"), "{{source}}: {{quantile}}"),
        panel("$column", "short", "Mean, deviation, and the range of its numbers.")
            .line(of("millstream_column_mean"), "{{source}}: mean")
            .line(of("millstream_column_deviation"), "{{source}}: deviation")
            .line(of("millstream_column_min"), "{{source}}: least")
            .line(of("millstream_column_max"), "{{source}}: greatest"),
        panel("Different values of $column", "short", "In a sample of the rows.")
            .line(of("millstream_column_distinct"), "{{source}}"),
    ]
}

/// What the decisive measures and those that people know are called.
const LOSSES: &str = "log_loss|rmse|mae";
const SHARES: &str = "accuracy|auc|f1|r2|reward";

fn of_model(metrics: &Metrics<'_>, model: &Model) -> Vec<Panel> {
    let own = format!("model=\"{}\"", model.name);
    let measures = |names: &str, over: &str| {
        let (names, over) = (format!("measure=~\"{names}\""), format!("over=\"{over}\""));
        format!("avg by (who, measure) ({})", metrics.of("millstream_measure", &[&own, &names, &over]))
    };
    let parts = metrics.of("millstream_measure", &[&own, "measure=~\".*_seconds\""]);
    let whole = metrics.rate("step", "millstream_step_seconds_total", &[&format!("step=\"{}\"", model.name)]);
    vec![
        panel(
            "Loss",
            "short",
            "Before each example was learned: of the newest examples (faded), and of all, beside the baselines.",
        )
        .line(measures(LOSSES, "faded"), "{{who}} {{measure}}, faded")
        .line(measures(LOSSES, "all"), "{{who}} {{measure}}"),
        panel(
            "How good it is",
            "short",
            "Before each example was learned: of the newest examples (faded), and of all.",
        )
        .line(measures(SHARES, "faded"), "{{who}} {{measure}}, faded")
        .line(measures(SHARES, "all"), "{{who}} {{measure}}"),
        panel("Examples learned", "short", "The newest revision is their number.")
            .line(metrics.sum("instance", "millstream_revision", &[&own]), "{{instance}}"),
        panel(
            "Time of learning",
            "percentunit",
            "What share of a core or a device it takes; of networks, by the parts of mini-batches.",
        )
        .line(whole, "all")
        .line(format!("sum by (measure) (rate({parts}[{RATE}]))"), "{{measure}}"),
    ]
}

fn requests(metrics: &Metrics<'_>) -> Vec<Panel> {
    let staleness = |share| metrics.quantile(share, "model", "millstream_answer_staleness_seconds");
    let pipeline = metrics.0;
    let mut panels = vec![
        panel("Answers by model", "ops", "In a second.")
            .line(metrics.rate("requests, model", "millstream_answers_by_total", &[]), "{{requests}}: {{model}}"),
        panel("Answers and refusals", "ops", "In a second; a request that cannot be read gets an answer that says so.")
            .line(metrics.rate("kind", "millstream_answers_committed_total", &[]), "{{kind}}")
            .line(metrics.rate("", "millstream_requests_bound_total", &[]), "requests"),
        panel("Staleness", "s", "How far behind a request's event time is what who answered had learned.")
            .line(staleness(0.5), "{{model}}: half")
            .line(staleness(0.99), "{{model}}: 99 of 100"),
        panel("Requests in an epoch", "short", "What is answered together.")
            .line(metrics.quantile(0.5, "", "millstream_epoch_requests"), "half")
            .line(metrics.quantile(0.99, "", "millstream_epoch_requests"), "99 of 100"),
        panel(
            "Skew of features",
            "short",
            "The population stability index between where models learn and are asked: above 0.25 they are asked something else than what \
             they have learned.",
        )
        .line(format!("max by (source, column) ({})", metrics.of("millstream_serving_skew", &[])), "{{source}}: {{column}}"),
    ];
    if pipeline.requests.iter().any(|request| request.models.len() > 1) {
        panels.push(
            panel("Other models agree", "ops", "Answers that were not given, by whether they said the same.")
                .line(metrics.rate("model, same", "millstream_answers_compared_total", &[]), "{{model}}: {{same}}"),
        );
    }
    if pipeline.front.is_some() {
        let took = |share| metrics.quantile(share, "front", "millstream_front_seconds");
        panels.extend([
            panel("Latency", "s", "From a request over HTTP or gRPC to its answer.")
                .line(took(0.5), "{{front}}: half")
                .line(took(0.99), "{{front}}: 99 of 100"),
            panel(
                "Requests by status",
                "ops",
                "Over HTTP and gRPC, in a second. 429: more than can be answered within the objective.",
            )
            .line(metrics.rate("front, status", "millstream_front_requests_total", &[]), "{{front}} {{status}}"),
            panel(
                "Rows that wait for answers",
                "short",
                "And how many may: what comes beyond that is refused at once.",
            )
            .line(metrics.sum("requests", "millstream_front_rows_waiting", &[]), "{{requests}}")
            .line(metrics.sum("requests", "millstream_front_rows_limit", &[]), "{{requests}}: limit"),
        ]);
    }
    panels
}

fn durable(metrics: &Metrics<'_>) -> Vec<Panel> {
    let at = |family: &str| metrics.of(family, &[]);
    let behind = format!("max({} - {})", at("millstream_epochs_published_total"), at("millstream_checkpoint_epoch"));
    vec![
        panel("Commits", "s", "How long a transaction of answers, dead letters and progress takes.")
            .line(metrics.quantile(0.5, "", "millstream_commit_seconds"), "half")
            .line(metrics.quantile(0.99, "", "millstream_commit_seconds"), "99 of 100"),
        panel("Commits again", "ops", "Transactions that were tried again, and those whose outcome was read back.")
            .line(metrics.rate("", "millstream_commit_retries_total", &[]), "tried again")
            .line(metrics.rate("", "millstream_commit_recoveries_total", &[]), "read back"),
        panel("Epochs since a checkpoint", "short", "What a start after a crash learns again from the log.")
            .line(behind, ""),
        panel("Checkpoints", "bytes", "How large the newest one is.")
            .line(metrics.sum("instance", "millstream_checkpoint_bytes", &[]), "{{instance}}"),
        panel("Time of checkpoints", "s", "How long the newest one took.")
            .line(metrics.sum("instance", "millstream_checkpoint_seconds", &[]), "{{instance}}"),
        panel(
            "Checkpoints and promotions",
            "short",
            "In an hour: what was written, what could not be, and revisions that a gate held back.",
        )
        .line(format!("sum(increase({}[1h]))", at("millstream_checkpoints_total")), "checkpoints")
        .line(format!("sum(increase({}[1h]))", at("millstream_checkpoint_failures_total")), "checkpoints that failed")
        .line(format!("sum(increase({}[1h]))", at("millstream_promotions_failed_total")), "promotions that failed")
        .line(format!("sum(increase({}[1h]))", at("millstream_promotions_held_total")), "held back by gates"),
    ]
}

fn process(metrics: &Metrics<'_>) -> Vec<Panel> {
    vec![
        panel("Processor", "percentunit", "Cores that are in use.")
            .line(metrics.rate("instance", "process_cpu_seconds_total", &[]), "{{instance}}"),
        panel("Memory", "bytes", "What the process has in memory.")
            .line(metrics.sum("instance", "process_resident_memory_bytes", &[]), "{{instance}}"),
        panel("Open files", "short", "Connections are among them.")
            .line(metrics.sum("instance", "process_open_fds", &[]), "{{instance}}"),
    ]
}
