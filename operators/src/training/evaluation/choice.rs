//! What a model that chooses would have earned: estimated from what others did, by inverse propensities.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::ratio;
use crate::models::Example;

/// No row counts more than so many: an action that was hardly ever taken says too little for more.
const WEIGHT_MAX: f64 = 100.0;

/// Sums for the estimates of Horvitz and Thompson, and of Swaminathan and Joachims, "The Self-Normalized Estimator for
/// Counterfactual Learning" (2015): a row's reward counts as often as the model would have taken the row's action, relative to
/// who did.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Choice {
    rows: u64,
    /// All rewards.
    rewards: f64,
    /// Weights, and weighted rewards.
    weights: f64,
    weighted: f64,
}

impl Choice {
    pub(super) fn judge(&mut self, probabilities: &[f64], example: &Example) {
        let weight = (probabilities[example.action as usize] / example.propensity).min(WEIGHT_MAX);
        self.rows += 1;
        self.rewards += example.target;
        self.weights += weight;
        self.weighted += weight * example.target;
    }

    pub(super) fn measures(&self, measures: &mut Vec<Measure>) {
        if self.rows == 0 {
            return;
        }
        let rows = self.rows as f64;
        measures.push(Measure::of_all("reward_ips", "model", self.weighted / rows));
        measures.push(Measure::of_all("reward", "model", ratio(self.weighted, self.weights)));
        measures.push(Measure::of_all("reward", "logged", self.rewards / rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_by_hand() {
        let mut choice = Choice::default();
        let example = |action, target, propensity| Example { target, action, propensity, ..Example::of(0.0) };
        choice.judge(&[0.9, 0.1], &example(0, 1.0, 0.5));
        choice.judge(&[0.2, 0.8], &example(0, 3.0, 0.5));
        let mut measures = Vec::new();
        choice.measures(&mut measures);
        let values: Vec<f64> = measures.iter().map(|measure| measure.value).collect();
        let wanted = [1.5, 3.0 / 2.2, 2.0];
        assert!(values.iter().zip(wanted).all(|(value, wanted)| (value - wanted).abs() < 1e-12), "{values:?}");
    }
}
