//! Errors of a regression and of the two baselines.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::scopes::{Scopes, Tally};
use super::{EvaluationConfig, ratio};

/// A judged row.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Judged {
    label: f64,
    error: f64,
}

/// What one regression did.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Errors {
    rows: u64,
    absolute: f64,
    squared: f64,
    /// The mean of the labels, and the sum of their squared differences from it (Welford).
    mean: f64,
    squares: f64,
}

impl Tally for Errors {
    type Judged = Judged;

    #[inline]
    fn add(&mut self, Judged { label, error }: &Judged) {
        self.rows += 1;
        self.absolute += error.abs();
        self.squared += error * error;
        let difference = label - self.mean;
        self.mean += difference / self.rows as f64;
        self.squares += difference * (label - self.mean);
    }

    /// Rounding is left behind where numbers of different sizes came and went; nothing but what is shown depends on it.
    fn take_back(&mut self, Judged { label, error }: &Judged) {
        self.rows -= 1;
        if self.rows == 0 {
            *self = Self::default();
            return;
        }
        self.absolute -= error.abs();
        self.squared = (self.squared - error * error).max(0.0);
        let difference = label - self.mean;
        self.mean -= difference / self.rows as f64;
        self.squares = (self.squares - difference * (label - self.mean)).max(0.0);
    }

    #[inline]
    fn fading(judged: &Judged) -> [f64; 2] {
        [judged.error.abs(), judged.error * judged.error]
    }

    fn faded([absolute, squared]: [f64; 2]) -> [(&'static str, f64); 2] {
        [("mae", absolute), ("rmse", squared.sqrt())]
    }

    fn measures(&self, push: &mut dyn FnMut(&'static str, f64)) {
        if self.rows == 0 {
            return;
        }
        let rows = self.rows as f64;
        push("mae", self.absolute / rows);
        push("rmse", (self.squared / rows).sqrt());
        push("r2", if self.squares == 0.0 { 0.0 } else { 1.0 - ratio(self.squared, self.squares) });
    }
}

/// Running sums for the model, `mean` and `no_change`.
///
/// The first label only starts it: before, nobody can know so much as its unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Regression {
    labels: u64,
    last: f64,
    /// Of all labels.
    mean: f64,
    model: Scopes<Errors>,
    mean_errors: Errors,
    no_change: Errors,
}

impl Regression {
    pub(super) fn new(config: &EvaluationConfig) -> Self {
        Self {
            labels: 0,
            last: 0.0,
            mean: 0.0,
            model: Scopes::new(Errors::default(), config),
            mean_errors: Errors::default(),
            no_change: Errors::default(),
        }
    }

    #[inline]
    pub(super) fn judge<'a>(&mut self, prediction: f64, label: f64, slices: impl Iterator<Item = &'a str>) {
        if self.labels > 0 {
            let judged = |said: f64| Judged { label, error: said - label };
            self.model.add(&judged(prediction), slices);
            self.mean_errors.add(&judged(self.mean));
            self.no_change.add(&judged(self.last));
        }
        self.labels += 1;
        self.mean += (label - self.mean) / self.labels as f64;
        self.last = label;
    }

    pub(super) fn measures(&self, columns: &[String], measures: &mut Vec<Measure>) {
        self.model.measures(columns, measures);
        for (who, errors) in [("mean", &self.mean_errors), ("no_change", &self.no_change)] {
            errors.measures(&mut |name, value| measures.push(Measure::of_all(name, who, value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(f64, f64)], window: usize) -> Vec<Measure> {
        let mut evaluation = Regression::new(&EvaluationConfig { window, ..EvaluationConfig::default() });
        pairs.iter().for_each(|(prediction, label)| evaluation.judge(*prediction, *label, std::iter::empty()));
        let mut measures = Vec::new();
        evaluation.measures(&[], &mut measures);
        measures
    }

    #[test]
    fn measures_by_hand() {
        // The first row is not judged.
        let measures = judged(&[(0.0, 10.0), (11.0, 12.0), (13.0, 11.0), (14.0, 16.0)], 2);
        let case = |who, name, over, want: f64| {
            let found = measures.iter().find(|m| (m.who, m.name, &*m.over) == (who, name, over)).expect("measured");
            assert!((found.value - want).abs() < 1e-12, "{who}.{name}: {}, wanted {want}", found.value);
        };
        case("model", "mae", "all", 5.0 / 3.0);
        case("model", "rmse", "all", 3.0_f64.sqrt());
        // The judged labels 12, 11, 16 have mean 13 and squared differences 1 + 4 + 9.
        case("model", "r2", "all", 1.0 - 9.0 / 14.0);
        // Of the labels 11 and 16: mean 13.5, squared differences 6.25 each.
        case("model", "mae", "last 2", 2.0);
        case("model", "r2", "last 2", 1.0 - 8.0 / 12.5);
        // Means before: 10, 11, 11. Labels before: 10, 12, 11.
        case("mean", "mae", "all", 7.0 / 3.0);
        case("no_change", "rmse", "all", (30.0_f64 / 3.0).sqrt());
    }

    #[test]
    fn constant_labels_stay_finite() {
        assert!(judged(&[(7.0, 7.0); 3], 1).iter().all(|measure| measure.value == 0.0));
        assert!(judged(&[(7.0, 7.0)], 1).is_empty());
    }
}
