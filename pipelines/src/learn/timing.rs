//! Where the time of learning went, by model: how long it waited for rows, and what each part of a mini-batch took.

use std::fmt::Write as _;

use millstream_engine::trace::{Span, Trace};
use serde::Serialize;

use super::{Event, Learned};
use crate::plan::Pipeline;

/// What a mini-batch consists of: a network's spans, in their order.
const PARTS: [&str; 4] = ["predict", "forward", "backward", "update"];

/// Where the time went.
#[derive(Debug, Serialize)]
pub struct Timing {
    /// By model, in the order of the definition.
    pub models: Vec<ModelTiming>,
    /// By step and model: the seconds of all workers, the longest first.
    pub steps: Vec<(String, f64)>,
    /// Bytes of memory at most, as the system counts them; none where it does not say.
    pub memory_bytes: Option<u64>,
    /// What steps and models told besides.
    pub events: Vec<Event>,
}

/// Where the time of a model went.
#[derive(Debug, PartialEq, Serialize)]
pub struct ModelTiming {
    /// Its name.
    pub model: String,
    /// Seconds from its first row to its last.
    pub seconds: f64,
    /// Of these, those in which it waited for rows.
    pub waiting: f64,
    /// Examples that it learned in a second.
    pub examples_per_second: f64,
    /// Mini-batches, of a network.
    pub mini_batches: u64,
    /// Seconds by part; what is left of learning is reading rows, and judging what was said of them.
    pub parts: Vec<(&'static str, f64)>,
}

impl Timing {
    /// What a trace says of what was learned.
    pub fn of(pipeline: &Pipeline, learned: &Learned, trace: &Trace) -> Self {
        let models = learned.models.iter().map(|model| timing(&model.model, model.examples, trace)).collect();
        let mut steps: Vec<(String, f64)> =
            pipeline.nodes.iter().map(|node| (node.label.clone(), trace.total(&node.label).0)).collect();
        steps.sort_by(|one, other| other.1.total_cmp(&one.1));
        Self { models, steps, memory_bytes: memory_bytes(), events: learned.events.clone() }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for ModelTiming { model, seconds, waiting, examples_per_second, mini_batches, parts } in &self.models {
            let steps = if *mini_batches > 0 { format!(", {mini_batches} mini-batches") } else { String::new() };
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "{model}: {examples_per_second:.0} examples a second{steps}, in {seconds:.3} s");
            let rest = seconds - waiting - parts.iter().map(|(_, seconds)| seconds).sum::<f64>();
            let shown = [("waits for rows", *waiting)].into_iter().chain(parts.iter().copied());
            for (part, spent) in shown.chain([("reads and judges rows", rest)]) {
                let share = 100.0 * spent / seconds.max(f64::MIN_POSITIVE);
                let _ = writeln!(text, "  {part:22} {spent:>10.3} s  {share:>5.1} %");
            }
        }
        let _ = writeln!(text, "all steps, of all workers");
        for (step, seconds) in &self.steps {
            let _ = writeln!(text, "  {step:40} {seconds:>10.3} s");
        }
        text.extend(self.events.iter().map(Event::text));
        if let Some(bytes) = self.memory_bytes {
            let _ = writeln!(text, "{:.0} MB of memory at most", bytes as f64 / 1e6);
        }
        text
    }
}

fn timing(model: &str, examples: u64, trace: &Trace) -> ModelTiming {
    let mut own: Vec<&Span> = trace.spans.iter().filter(|span| span.name == model).collect();
    own.sort_by(|one, other| one.start.total_cmp(&other.start));
    let end = |span: &Span| span.start + span.seconds;
    let seconds = own.first().zip(own.last()).map_or(0.0, |(first, last)| end(last) - first.start);
    let learning: f64 = own.iter().map(|span| span.seconds).sum();
    // A part belongs to the model within whose span it lies; models have one worker each, so spans of one do not overlap.
    let is_within = |part: &&Span| {
        let before = own.partition_point(|span| span.start <= part.start);
        before > 0 && own[before - 1].thread == part.thread && end(part) <= end(own[before - 1])
    };
    let of = |name: &&'static str| {
        let spans = trace.spans.iter().filter(|span| span.name == *name).filter(is_within);
        spans.fold((0.0, 0), |(seconds, count), span| (seconds + span.seconds, count + 1))
    };
    let parts = PARTS.map(|name| (name, of(&name)));
    ModelTiming {
        model: model.to_owned(),
        seconds,
        waiting: (seconds - learning).max(0.0),
        examples_per_second: if seconds > 0.0 { examples as f64 / seconds } else { 0.0 },
        mini_batches: parts.iter().find(|(name, _)| *name == "update").map_or(0, |(_, (_, count))| *count),
        parts: parts.into_iter().filter(|(_, (_, count))| *count > 0).map(|(name, (sum, _))| (name, sum)).collect(),
    }
}

/// The most that the process has had.
fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| 1024 * kilobytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_to_the_model_within_which_they_lie() {
        let span = |thread, name: &str, start, seconds| Span { thread, name: name.to_owned(), start, seconds };
        let spans = vec![
            span(1, "update", 1.5, 0.25),
            span(1, "net", 1.0, 1.0),
            span(2, "update", 3.25, 0.5),
            span(1, "update", 5.0, 0.5),
            span(1, "net", 4.0, 2.0),
            span(1, "update", 6.5, 0.25),
            span(1, "other", 6.25, 1.0),
        ];
        let trace = Trace { spans, ..Trace::default() };
        let wanted = ModelTiming {
            model: "net".to_owned(),
            seconds: 5.0,
            waiting: 2.0,
            examples_per_second: 100.0,
            mini_batches: 2,
            parts: vec![("update", 0.75)],
        };
        assert_eq!(timing("net", 500, &trace), wanted);
        assert_eq!(timing("nobody", 0, &trace).seconds, 0.0);
    }
}
