//! When a revision becomes a version.

use millstream_engine::catalogue::{Planned, Problem, configuration};
use millstream_engine::operator::Measure;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::measures::DECISIVE;

/// When a revision is kept as a version.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromotionConfig {
    /// After how many examples a revision is considered.
    pub every_examples: u64,
    /// Whether it must have been better than every baseline, by log loss or root mean squared error.
    #[serde(default = "yes")]
    pub only_if_better_than_baseline: bool,
}

fn yes() -> bool {
    true
}

/// A checked [`PromotionConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromotionRule {
    every_examples: u64,
    only_if_better_than_baseline: bool,
}

impl PromotionRule {
    /// Checks a configuration.
    pub fn plan(value: &Value) -> Planned<Self> {
        let PromotionConfig { every_examples, only_if_better_than_baseline } = configuration(value)?;
        if every_examples == 0 {
            let problem = Problem::new("every_examples", "out-of-range", "0 examples teach nothing");
            return Err(vec![problem.help("write how many examples lie between two versions, such as 20000")]);
        }
        Ok(Self { every_examples, only_if_better_than_baseline })
    }

    /// Why the revision at an epoch's end is to be promoted, if it is: `before` and `after` are the numbers of
    /// examples at the epoch's begin and end.
    pub fn decide(&self, before: u64, after: u64, measures: &[Measure]) -> Option<String> {
        if after / self.every_examples == before / self.every_examples {
            return None;
        }
        let learned = format!("{after} examples");
        if !self.only_if_better_than_baseline {
            return Some(learned);
        }
        let measures: Vec<&Measure> = measures.iter().filter(|measure| measure.over == "all").collect();
        let name = DECISIVE.into_iter().find(|name| measures.iter().any(|measure| measure.name == *name))?;
        let (model, baselines): (Vec<_>, Vec<_>) =
            measures.into_iter().filter(|measure| measure.name == name).partition(|measure| measure.who == "model");
        let model = model.first()?.value;
        // Written so that what is not a number is not better.
        if baselines.is_empty() || !baselines.iter().all(|baseline| model < baseline.value) {
            return None;
        }
        let beaten: Vec<String> =
            baselines.iter().map(|baseline| format!("{} {:.4}", baseline.who, baseline.value)).collect();
        Some(format!("{learned}, {name} {model:.4} below {}", beaten.join(" and ")))
    }
}
