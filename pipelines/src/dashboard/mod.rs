//! What others need in order to watch a pipeline: a dashboard for Grafana, and alerts for Prometheus.
//!
//! Both follow from the definition: there is a row for each model, and nothing of what the pipeline does not have. Each metric that a
//! run tells is in one of the panels.

mod alerts;
mod grafana;
mod panels;

use crate::plan::Pipeline;

pub use alerts::alerts;
pub use grafana::dashboard;
pub use panels::{Panel, Query, Row, Shape, rows};

/// The metrics of a family that are this pipeline's, where these labels match: `model="returns"`.
fn metric(pipeline: &Pipeline, family: &str, labels: &str) -> String {
    let comma = if labels.is_empty() { "" } else { ", " };
    format!("{family}{{pipeline=\"{}\"{comma}{labels}}}", pipeline.name)
}

/// As a regular expression that is one of these, within a text of Prometheus' language.
fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let escaped = |name: &str| {
        let mut escaped = String::new();
        for character in name.chars() {
            match character {
                '"' => escaped.push_str("\\\""),
                '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => {
                    escaped.extend(["\\\\", character.encode_utf8(&mut [0; 4])]);
                }
                other => escaped.push(other),
            }
        }
        escaped
    };
    names.into_iter().map(escaped).collect::<Vec<_>>().join("|")
}
