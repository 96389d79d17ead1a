//! Errors of a regression and of the two baselines.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::evaluation::ratio;

/// Running sums for the model, `mean` and `no_change`.
///
/// The first label only starts it: before, nobody can know so much as its unit.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Regression {
    labels: u64,
    last: f64,
    /// Of all labels.
    mean: f64,
    /// The mean of the judged labels, and the sum of their squared differences from it (Welford).
    judged_mean: f64,
    squares: f64,
    model: Errors,
    mean_errors: Errors,
    no_change: Errors,
}

/// What one regression did.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Errors {
    absolute: f64,
    squared: f64,
}

impl Errors {
    fn judge(&mut self, said: f64, label: f64) {
        let error = said - label;
        self.absolute += error.abs();
        self.squared += error * error;
    }
}

impl Regression {
    pub(super) fn judge(&mut self, prediction: f64, label: f64) {
        if self.labels > 0 {
            self.model.judge(prediction, label);
            self.mean_errors.judge(self.mean, label);
            self.no_change.judge(self.last, label);
            let difference = label - self.judged_mean;
            self.judged_mean += difference / self.labels as f64;
            self.squares += difference * (label - self.judged_mean);
        }
        self.labels += 1;
        self.mean += (label - self.mean) / self.labels as f64;
        self.last = label;
    }

    pub(super) fn measures(&self) -> Vec<Measure> {
        if self.labels < 2 {
            return Vec::new();
        }
        let rows = (self.labels - 1) as f64;
        let mut measures = Vec::new();
        for (who, errors) in [("model", &self.model), ("mean", &self.mean_errors), ("no_change", &self.no_change)] {
            let mut push = |name, value| measures.push(Measure { name, who, value });
            push("mae", errors.absolute / rows);
            push("rmse", (errors.squared / rows).sqrt());
            push("r2", if self.squares == 0.0 { 0.0 } else { 1.0 - ratio(errors.squared, self.squares) });
        }
        measures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        let mut evaluation = Regression::default();
        // The first row is not judged.
        for (prediction, label) in [(0.0, 10.0), (11.0, 12.0), (13.0, 11.0), (14.0, 16.0)] {
            evaluation.judge(prediction, label);
        }
        let case = |who, name, want: f64| {
            let found = evaluation.measures().into_iter().find(|m| (m.who, m.name) == (who, name)).expect("measured");
            assert!((found.value - want).abs() < 1e-12, "{who}.{name}: {}, wanted {want}", found.value);
        };
        case("model", "mae", 5.0 / 3.0);
        case("model", "rmse", 3.0_f64.sqrt());
        // The judged labels 12, 11, 16 have mean 13 and squared differences 1 + 4 + 9.
        case("model", "r2", 1.0 - 9.0 / 14.0);
        // Means before: 10, 11, 11. Labels before: 10, 12, 11.
        case("mean", "mae", 7.0 / 3.0);
        case("no_change", "rmse", (30.0_f64 / 3.0).sqrt());
    }

    #[test]
    fn constant_labels_stay_finite() {
        let mut evaluation = Regression::default();
        (0..3).for_each(|_| evaluation.judge(7.0, 7.0));
        assert!(evaluation.measures().iter().all(|measure| measure.value == 0.0));
        assert!(Regression::default().measures().is_empty());
    }
}
