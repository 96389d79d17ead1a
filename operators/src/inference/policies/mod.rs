//! Whose answer a request gets, where several models answer it.
//!
//! All of them answer each request, so whichever is chosen has its answer ready, one that has learned nothing yet is passed
//! over, and the answers that are not given can be compared with the one that is. What is chosen follows from the request and
//! from what the models had measured before its epoch: a replay chooses the same.

pub mod bandit;
pub mod best;
pub mod shadow;
pub mod weighted;

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem};
use millstream_engine::operator::Choose;
use serde_json::Value;

/// All policies.
pub static KINDS: &[&PolicyKind] = &[&bandit::KIND, &best::KIND, &shadow::KIND, &weighted::KIND];

/// A policy's entry.
pub type PolicyKind = Kind<fn(&Value) -> Planned<PlannedPolicy>>;

/// A checked policy.
#[derive(Clone)]
pub struct PlannedPolicy {
    /// The models that answer beside the requests' own, in their order.
    pub others: Vec<String>,
    /// The column that rows must have, if any, and where it is named.
    pub column: Option<(&'static str, String)>,
    /// What chooses among them, the requests' own model first.
    pub choose: PlannedChoice,
}

/// What chooses.
#[derive(Clone)]
pub enum PlannedChoice {
    /// A rule, by what the models have measured.
    Measured(Arc<dyn Choose>),
    /// A model of this name, whose actions are the models that answer; it is named under `by`.
    Learned(String),
}

impl std::fmt::Debug for PlannedPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PlannedPolicy").field("others", &self.others).finish_non_exhaustive()
    }
}

/// Refuses an empty list, and a name that stands in it twice.
fn check_others(path: &str, others: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if others.is_empty() {
        let problem = Problem::new(path, "too-few", "there is no other model to choose");
        problems.push(problem.help("name at least one more model"));
    }
    for (at, name) in others.iter().enumerate() {
        if others[..at].contains(name) {
            problems.push(Problem::new(&format!("{path}.{at}"), "named-twice", format!("`{name}` stands here twice")));
        }
    }
    problems
}
