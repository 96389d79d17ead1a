//! What somebody should be told, as rules for Prometheus.

use std::fmt::Write;

use millstream_operators::registry::DECISIVE;

use super::metric;
use crate::plan::Pipeline;

/// Something that must not last.
struct Alert {
    name: &'static str,
    /// True while there are values.
    expression: String,
    /// How long it has to last.
    lasts: &'static str,
    severity: &'static str,
    /// What is the matter.
    summary: &'static str,
    /// What to look at.
    about: &'static str,
}

/// The rules of a pipeline, as YAML that Prometheus reads by `rule_files`.
pub fn alerts(pipeline: &Pipeline) -> String {
    // Writing to a string cannot fail.
    let mut text = format!("groups:\n  - name: {:?}\n    rules:\n", format!("millstream {}", pipeline.name));
    for Alert { name, expression, lasts, severity, summary, about } in all(pipeline) {
        let _ = write!(
            text,
            "      - alert: {name}\n        expr: {}\n        for: {lasts}\n        labels: {{severity: {severity}}}\n        \
             annotations:\n          summary: {}\n          description: {}\n",
            quoted(&expression),
            quoted(summary),
            quoted(about),
        );
    }
    text
}

/// A text of YAML, which JSON's are, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn all(pipeline: &Pipeline) -> Vec<Alert> {
    let of = |family: &str| metric(pipeline, family, &[]);
    let grows = |family: &str, within: &str| format!("increase({}[{within}]) > 0", of(family));
    let sum = |inner: String| format!("sum by (pipeline, instance) ({inner})");
    let (behind, published) = (sum(of("millstream_lag_records")), of("millstream_epochs_published_total"));
    let dead = sum(format!("rate({}[10m])", of("millstream_dead_letters_total")));
    let taken = sum(format!("rate({}[10m])", of("millstream_records_total")));
    let mut alerts = vec![
        Alert {
            name: "MillstreamAbsent",
            expression: format!("absent({})", of("millstream_running")),
            lasts: "5m",
            severity: "page",
            summary: "The pipeline is not running, or its metrics are not read.",
            about: "Started again it goes on where it was; `millstream state` shows what is stored.",
        },
        Alert {
            name: "MillstreamStalled",
            expression: format!("{behind} > 0 and {} == 0", sum(format!("rate({published}[5m])"))),
            lasts: "5m",
            severity: "page",
            summary: "There are records, and nothing is published.",
            about: "Is the broker there? `millstream_commit_retries_total` tells of commits that are tried again; the program's output names the cause.",
        },
        Alert {
            name: "MillstreamFallsBehind",
            expression: format!(
                "{behind} > 10000 and {} > 0",
                sum(format!("deriv({}[30m])", of("millstream_lag_records")))
            ),
            lasts: "30m",
            severity: "ticket",
            summary: "Records come faster than they are taken.",
            about: "`millstream_step_seconds_total` tells which step takes the time; more workers share it by key.",
        },
        Alert {
            name: "MillstreamDeadLetters",
            expression: format!("{dead} > 0.01 * {taken}"),
            lasts: "10m",
            severity: "ticket",
            summary: "More than one of a hundred records cannot be taken.",
            about: "`millstream dead list` says what is wrong from which offset on; `dead replay` gives them again once that is mended.",
        },
        Alert {
            name: "MillstreamExpectationFails",
            expression: grows("millstream_expectations_failed_total", "10m"),
            lasts: "0m",
            severity: "ticket",
            summary: "Rows are not as `expect` says.",
            about: "The label `step` names the expectation; the pipeline's topic of events tells of which rows.",
        },
        Alert {
            name: "MillstreamCommitsAgain",
            expression: grows("millstream_commit_retries_total", "10m"),
            lasts: "10m",
            severity: "ticket",
            summary: "Commits have to be tried again.",
            about: "The broker, or the disk of the embedded one, is in trouble. Nothing is lost meanwhile.",
        },
        Alert {
            name: "MillstreamCheckpointFails",
            expression: grows("millstream_checkpoint_failures_total", "30m"),
            lasts: "30m",
            severity: "ticket",
            summary: "Checkpoints cannot be written.",
            about: "Nothing is lost, but a start will have more to learn again from the log, as long as that holds it.",
        },
        Alert {
            name: "MillstreamPromotionFails",
            expression: grows("millstream_promotions_failed_total", "30m"),
            lasts: "0m",
            severity: "ticket",
            summary: "A version could not be written.",
            about: "Is the registry there? A later revision will be promoted.",
        },
    ];
    alerts.extend(of_models(pipeline));
    alerts.extend(of_requests(pipeline));
    alerts
}

fn of_models(pipeline: &Pipeline) -> Option<Alert> {
    let measured = |who: &str| {
        let measure = format!("measure=~\"{}\"", DECISIVE.join("|"));
        metric(pipeline, "millstream_measure", &[&measure, "over=\"all\"", who])
    };
    let by = "by (pipeline, instance, model, measure)";
    (!pipeline.models.is_empty()).then(|| Alert {
        name: "MillstreamWorseThanBaseline",
        expression: format!("min {by} ({}) > min {by} ({})", measured("who=\"model\""), measured("who!=\"model\"")),
        lasts: "30m",
        severity: "ticket",
        summary: "A model is worse than its best baseline.",
        about: "Over all rows that it was judged by. Has what it learns from changed? `millstream explain` shows what matters to it.",
    })
}

fn of_requests(pipeline: &Pipeline) -> Vec<Alert> {
    let mut alerts = Vec::new();
    if !pipeline.requests.is_empty() {
        alerts.push(Alert {
            name: "MillstreamSkew",
            expression: format!("{} > 0.25", metric(pipeline, "millstream_serving_skew", &[])),
            lasts: "1h",
            severity: "ticket",
            summary: "A model is asked something else than what it has learned.",
            about: "A feature's population stability index is above 0.25: the label `column` names it.",
        });
    }
    if pipeline.front.is_some() {
        let refused = "status=~\"429|503|RESOURCE_EXHAUSTED|UNAVAILABLE\"";
        let rate = |labels: &[&str]| {
            let family = metric(pipeline, "millstream_front_requests_total", labels);
            format!("sum by (pipeline, instance, requests) (rate({family}[5m]))")
        };
        alerts.push(Alert {
            name: "MillstreamRefuses",
            expression: format!("{} > 0.01 * {}", rate(&[refused]), rate(&[])),
            lasts: "5m",
            severity: "page",
            summary: "More than one of a hundred requests is refused.",
            about: "More come than can be answered within `objective_seconds`.",
        });
    }
    alerts
}
