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
fn metric(pipeline: &Pipeline, family: &str, labels: &[&str]) -> String {
    let own = format!("pipeline=\"{}\"", pipeline.name);
    format!("{family}{{{}}}", [&[own.as_str()], labels].concat().join(", "))
}
