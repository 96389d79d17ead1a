//! What a person sees of a run: a line while it goes on, a summary at its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream_engine::book::Book;
use millstream_engine::metrics::Metrics;
use millstream_engine::time::Stopwatch;
use serde::Serialize;

/// How often the line is renewed on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// How often a line is printed elsewhere.
const PRINT_SECONDS: f64 = 5.0;

/// What is shown of a model.
pub struct ModelShown {
    /// Its name.
    pub name: String,
    /// Its fold's node index.
    pub fold: usize,
}

/// A run's outcome.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The pipeline's name.
    pub pipeline: String,
    /// How long the run took.
    pub seconds: f64,
    /// The checkpoint that the run started from: the first epoch that was not in it.
    pub checkpoint: Option<u64>,
    /// Epochs that earlier runs had committed, and that were replayed.
    pub epochs_replayed: u64,
    /// Epochs committed by this run.
    pub epochs: u64,
    /// Records bound, those replayed included.
    pub records: u64,
    /// The same, by source.
    pub records_by_source: BTreeMap<String, u64>,
    /// Bytes of these records.
    pub bytes: u64,
    /// Records for each second of the run.
    pub records_per_second: f64,
    /// Requests bound.
    pub requests: u64,
    /// Answers committed; each request has exactly one.
    pub answers: u64,
    /// Of the answers, those that are errors.
    pub refused: u64,
    /// Dead letters, by the step that could not take them.
    pub dead_letters: BTreeMap<String, u64>,
    /// What each source, step and model has made of the rows of both lanes, in their order.
    pub steps: Vec<StepSummary>,
    /// The models.
    pub models: BTreeMap<String, ModelSummary>,
}

/// What a step has made of its rows.
#[derive(Debug, PartialEq, Serialize)]
pub struct StepSummary {
    /// Its name, as in the metrics.
    pub step: String,
    /// Rows that came to it.
    pub rows_in: u64,
    /// Rows that left it.
    pub rows_out: u64,
    /// Values that it has put in place of others.
    pub repaired: u64,
    /// Records that it could not take.
    pub dead_letters: u64,
    /// Spans of rows of which something was expected that does not hold.
    pub expectations_failed: u64,
}

/// By measure, by who reached it.
pub type Measures = BTreeMap<String, BTreeMap<String, f64>>;

/// A model's outcome.
#[derive(Debug, Serialize)]
pub struct ModelSummary {
    /// Examples learned.
    pub revision: u64,
    /// BLAKE3 of its whole state.
    pub digest: String,
    /// By measure, by who reached it: the model and its baselines.
    pub measures: Measures,
    /// The same over a part of the rows: `last 1000`, `faded`, `carrier=AA`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Measures>,
    /// The ids of its versions, oldest first.
    pub versions: Vec<String>,
}

/// Reads a run's numbers.
pub struct Observer {
    /// The run's metrics.
    pub metrics: Arc<Metrics>,
    /// The run's signals.
    pub book: Arc<Book>,
    /// The names of its sources, steps and models, in their order.
    pub steps: Vec<String>,
    /// Its models.
    pub models: Vec<ModelShown>,
    /// Since the run started.
    pub watch: Stopwatch,
}

impl Observer {
    /// Shows progress on standard error until `done` says so.
    pub fn watch(&self, quiet: bool, done: &dyn Fn() -> bool) {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let terminal = std::io::stderr().is_terminal();
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a valid template"));
        let (mut printed, mut before) = (0.0, (0.0, 0.0, 0.0));
        while !done() {
            std::thread::park_timeout(REDRAW);
            let now = self.watch.seconds();
            if quiet || (!terminal && now - printed < PRINT_SECONDS) || done() {
                continue;
            }
            let (records, bytes) = (self.metrics.sum("records_total", &[]), self.metrics.sum("bytes_total", &[]));
            let seconds = (now - before.2).max(1e-3);
            let line = self.line((records - before.0) / seconds, (bytes - before.1) / seconds);
            before = (records, bytes, now);
            printed = now;
            if terminal {
                bar.set_message(line);
                bar.tick();
            } else {
                eprintln!("{line}");
            }
        }
        bar.finish_and_clear();
    }

    fn line(&self, records_per_second: f64, bytes_per_second: f64) -> String {
        let sum = |family| self.metrics.sum(family, &[]);
        let mut line = format!(
            "epoch {} · {} records/s · {:.1} MB/s · lag {}",
            self.book.published(),
            thousands(records_per_second),
            bytes_per_second / 1e6,
            thousands(sum("lag_records")),
        );
        for model in &self.models {
            let measure = |who: &str, name: &str| {
                self.metrics.sum("measure", &[("model", &model.name), ("who", who), ("measure", name), ("over", "all")])
            };
            let revision = self.metrics.sum("revision", &[("model", &model.name)]);
            let name = if measure("model", "rmse") > 0.0 { "rmse" } else { "log_loss" };
            let baseline = if name == "rmse" { "mean" } else { "majority" };
            let (reached, other) = (measure("model", name), measure(baseline, name));
            // Writing to a string cannot fail.
            let _ = write!(
                line,
                " · {} revision {}: {name} {reached:.4} ({baseline} {other:.4})",
                model.name,
                thousands(revision)
            );
        }
        let _ = write!(
            line,
            " · dead {} · answers {}/{}",
            thousands(sum("dead_letters_total")),
            thousands(sum("answers_committed_total")),
            thousands(sum("requests_bound_total")),
        );
        line
    }

    /// The run's outcome.
    pub fn summary(
        &self,
        pipeline: &str,
        (checkpoint, epochs_replayed): (Option<u64>, u64),
        versions: &BTreeMap<String, Vec<String>>,
    ) -> Summary {
        let metrics = &self.metrics;
        let by_label = |family: &str| {
            let values = metrics.values(family).into_iter().filter(|(_, value)| *value > 0.0);
            values.map(|(labels, value)| (labels[0].1.clone(), value as u64)).collect::<BTreeMap<_, _>>()
        };
        let seconds = self.watch.seconds();
        let records = metrics.sum("records_total", &[]);
        Summary {
            pipeline: pipeline.to_owned(),
            seconds,
            checkpoint,
            epochs_replayed,
            epochs: metrics.sum("epochs_published_total", &[]) as u64,
            records: records as u64,
            records_by_source: by_label("records_total"),
            bytes: metrics.sum("bytes_total", &[]) as u64,
            records_per_second: records / seconds,
            requests: metrics.sum("requests_bound_total", &[]) as u64,
            answers: metrics.sum("answers_committed_total", &[]) as u64,
            refused: metrics.sum("answers_committed_total", &[("kind", "refused")]) as u64,
            dead_letters: by_label("dead_letters_total"),
            steps: self.steps.iter().map(|step| self.step(step)).collect(),
            models: self.models.iter().map(|model| (model.name.clone(), self.model(model, versions))).collect(),
        }
    }

    fn step(&self, step: &str) -> StepSummary {
        let sum = |family: &str| self.metrics.sum(family, &[("step", step)]) as u64;
        StepSummary {
            step: step.to_owned(),
            rows_in: sum("rows_in_total"),
            rows_out: sum("rows_out_total"),
            repaired: sum("repaired_total"),
            dead_letters: sum("dead_letters_total"),
            expectations_failed: sum("expectations_failed_total"),
        }
    }

    fn model(&self, model: &ModelShown, versions: &BTreeMap<String, Vec<String>>) -> ModelSummary {
        let newest = self.book.newest_revision(model.fold);
        let (mut measures, mut parts) = (Measures::new(), BTreeMap::<String, Measures>::new());
        for (labels, value) in self.metrics.values("measure") {
            let label =
                |wanted: &str| labels.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str());
            if label("model") == model.name {
                let measures = if label("over") == "all" {
                    &mut measures
                } else {
                    parts.entry(label("over").to_owned()).or_default()
                };
                measures.entry(label("measure").to_owned()).or_default().insert(label("who").to_owned(), value);
            }
        }
        ModelSummary {
            revision: newest.as_ref().map_or(0, |revision| revision.number),
            digest: newest.map(|revision| revision.digest).unwrap_or_default(),
            measures,
            parts,
            versions: versions.get(&model.name).cloned().unwrap_or_default(),
        }
    }
}

impl Summary {
    /// The summary for people.
    pub fn text(&self) -> String {
        let mut text = Text(String::new());
        text.line("pipeline", &self.pipeline);
        let (records, megabytes) = (thousands(self.records as f64), self.bytes as f64 / 1e6 / self.seconds);
        let rate = thousands(self.records_per_second);
        text.line("records", &format!("{records} in {:.1} s: {rate} records/s, {megabytes:.1} MB/s", self.seconds));
        text.counts(&self.records_by_source);
        let (epochs, replayed) = (thousands(self.epochs as f64), thousands(self.epochs_replayed as f64));
        let from =
            self.checkpoint.map_or_else(String::new, |epoch| format!(" after checkpoint {}", thousands(epoch as f64)));
        text.line("epochs", &format!("{epochs} committed, {replayed} replayed{from}"));
        text.line("requests", &thousands(self.requests as f64));
        let (answers, refused) = (thousands(self.answers as f64), thousands(self.refused as f64));
        text.line("answers", &format!("{answers}, {refused} of them errors"));
        text.line("dead letters", &thousands(self.dead_letters.values().sum::<u64>() as f64));
        text.counts(&self.dead_letters);
        text.steps(&self.steps);
        for (name, model) in &self.models {
            let digest = model.digest.get(..16).unwrap_or("none");
            text.line("model", &format!("{name}, revision {}, digest {digest}", thousands(model.revision as f64)));
            text.0.push_str(&table("", &model.measures));
            for (over, measures) in &model.parts {
                text.0.push_str(&table(over, measures));
            }
            if !model.versions.is_empty() {
                text.line("", &format!("versions {}", model.versions.join(" ")));
            }
        }
        text.0
    }
}

/// Lines with a name and a value.
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<14}{value}");
    }

    /// A line for each step, and a column for what there is any of.
    fn steps(&mut self, steps: &[StepSummary]) {
        type Count = (&'static str, fn(&StepSummary) -> u64);
        let counts: [Count; 5] = [
            ("rows in", |step| step.rows_in),
            ("out", |step| step.rows_out),
            ("repaired", |step| step.repaired),
            ("dead", |step| step.dead_letters),
            ("unmet", |step| step.expectations_failed),
        ];
        let is_shown = |(at, (_, count)): &(usize, Count)| *at < 2 || steps.iter().any(|step| count(step) > 0);
        let counts: Vec<Count> = counts.into_iter().enumerate().filter(is_shown).map(|(_, count)| count).collect();
        let width = steps.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
        let line = |name: &str, cells: &mut dyn Iterator<Item = String>| {
            cells.fold(format!("{name:<width$}"), |line, cell| format!("{line} {cell:>13}"))
        };
        self.line("steps", &line("", &mut counts.iter().map(|(name, _)| (*name).to_owned())));
        for step in steps {
            let mut cells = counts.iter().map(|(_, count)| thousands(count(step) as f64));
            self.line("", &line(&step.step, &mut cells));
        }
    }

    fn counts(&mut self, counts: &BTreeMap<String, u64>) {
        for (name, count) in counts {
            self.line("", &format!("{name} {}", thousands(*count as f64)));
        }
    }
}

/// Measures in rows, the model and its baselines in columns; `over` says over which rows, if not over all.
fn table(over: &str, measures: &Measures) -> String {
    let mut whos: Vec<&str> = measures.values().flat_map(|by_who| by_who.keys().map(String::as_str)).collect();
    whos.sort_unstable();
    whos.dedup();
    whos.sort_by_key(|who| *who != "model");
    let mut table = format!("{:<14}{over:<20}", "");
    for who in whos.iter().filter(|_| over.is_empty()) {
        let _ = write!(table, "{who:>12}");
    }
    table.push('\n');
    for (measure, by_who) in measures {
        let _ = write!(table, "{:<14}{measure:<20}", "");
        for who in &whos {
            let value = by_who.get(*who).map_or_else(String::new, |value| format!("{value:.4}"));
            let _ = write!(table, "{value:>12}");
        }
        table.push('\n');
    }
    table
}

/// A number with its thousands apart: `1,234,567`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{StepSummary, Text, thousands};

    #[test]
    fn steps_show_what_there_is_any_of() {
        let step = |step: &str, rows_in, rows_out, repaired| StepSummary {
            step: step.to_owned(),
            rows_in,
            rows_out,
            repaired,
            dead_letters: 0,
            expectations_failed: 0,
        };
        let mut text = Text(String::new());
        text.steps(&[step("readings", 1200, 1200, 0), step("clean/0/impute", 1200, 1200, 7)]);
        let lines: Vec<Vec<&str>> = text.0.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["steps", "rows", "in", "out", "repaired"]);
        assert_eq!(lines[1], ["readings", "1,200", "1,200", "0"]);
        assert_eq!(lines[2], ["clean/0/impute", "1,200", "1,200", "7"]);
        let ends: Vec<usize> = text.0.lines().map(str::len).collect();
        assert_eq!((ends[0], ends[1]), (ends[2], ends[2]), "the numbers stand below one another");
    }

    #[test]
    fn thousands_are_apart() {
        for (number, shown) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(number), shown);
        }
    }
}
