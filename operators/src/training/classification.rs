//! Accuracy, log loss and kappa, of a classifier and of the two baselines.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::evaluation::ratio;
use crate::models::class;

/// A probability counts as at least this, so that one wrong certainty does not make the mean infinite.
const PROBABILITY_MIN: f64 = 1e-15;

/// Running counts for the model, `majority` and `no_change`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Classification {
    rows: u64,
    /// How many labels were true.
    trues: u64,
    last: Option<bool>,
    /// How often a label was the same as the one before.
    repeats: u64,
    model: Tally,
    majority: Tally,
    no_change: Tally,
}

/// What one classifier did.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Tally {
    right: u64,
    said_true: u64,
    log_loss: f64,
}

impl Tally {
    fn judge(&mut self, said: bool, probability: f64, label: bool) {
        self.right += u64::from(said == label);
        self.said_true += u64::from(said);
        let of_label = if label { probability } else { 1.0 - probability };
        self.log_loss -= libm::log(of_label.max(PROBABILITY_MIN));
    }
}

impl Classification {
    pub(super) fn judge(&mut self, probability: f64, label: bool) {
        self.model.judge(class(probability), probability, label);
        // Rule of succession: both baselines start undecided, and no count of zero makes them certain.
        let share = (self.trues + 1) as f64 / (self.rows + 2) as f64;
        self.majority.judge(2 * self.trues > self.rows, share, label);
        let repeat = (self.repeats + 1) as f64 / (self.rows.saturating_sub(1) + 2) as f64;
        let again = match self.last {
            None => 0.5,
            Some(true) => repeat,
            Some(false) => 1.0 - repeat,
        };
        self.no_change.judge(self.last == Some(true), again, label);
        self.rows += 1;
        self.trues += u64::from(label);
        self.repeats += u64::from(self.last == Some(label));
        self.last = Some(label);
    }

    /// Agreement beyond what the shares of the classes alone would give (Cohen).
    fn kappa(&self, tally: &Tally) -> f64 {
        let rows = self.rows as f64;
        let (right, trues, said) = (tally.right as f64 / rows, self.trues as f64 / rows, tally.said_true as f64 / rows);
        let chance = trues * said + (1.0 - trues) * (1.0 - said);
        ratio(right - chance, 1.0 - chance)
    }

    /// Agreement beyond that of saying the label before again.
    fn kappa_temporal(&self, tally: &Tally) -> f64 {
        let (right, chance) = (tally.right as f64, self.no_change.right as f64);
        ratio(right - chance, self.rows as f64 - chance)
    }

    pub(super) fn measures(&self) -> Vec<Measure> {
        if self.rows == 0 {
            return Vec::new();
        }
        let rows = self.rows as f64;
        let mut measures = Vec::new();
        for (who, tally) in [("model", &self.model), ("majority", &self.majority), ("no_change", &self.no_change)] {
            let mut push = |name, value| measures.push(Measure { name, who, value });
            push("accuracy", tally.right as f64 / rows);
            push("log_loss", tally.log_loss / rows);
            push("kappa", self.kappa(tally));
            // Of `no_change` itself it is zero by definition.
            if who != "no_change" {
                push("kappa_temporal", self.kappa_temporal(tally));
            }
        }
        measures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All measures of these (probability, label) pairs, by `who.name`.
    fn measure(pairs: &[(f64, bool)], what: &str) -> f64 {
        let mut evaluation = Classification::default();
        for (probability, label) in pairs {
            evaluation.judge(*probability, *label);
        }
        let found = evaluation.measures().into_iter().find(|m| format!("{}.{}", m.who, m.name) == what);
        found.unwrap_or_else(|| panic!("no {what}")).value
    }

    #[test]
    fn measures_by_hand() {
        let pairs = [(0.9, true), (0.2, true), (0.1, false), (0.8, true)];
        let case = |what, want: f64| {
            let got = measure(&pairs, what);
            assert!((got - want).abs() < 1e-12, "{what}: {got}, wanted {want}");
        };
        case("model.accuracy", 0.75);
        case("model.log_loss", -(0.9_f64.ln() + 0.2_f64.ln() + 0.9_f64.ln() + 0.8_f64.ln()) / 4.0);
        // Chance: both say true 3/4 · 2/4, both false 1/4 · 2/4.
        case("model.kappa", (0.75 - 0.5) / 0.5);
        // `no_change` says false, true, true, false: right once.
        case("no_change.accuracy", 0.25);
        case("model.kappa_temporal", (3.0 - 1.0) / (4.0 - 1.0));
        // `majority` says false, true, true, true: right twice; its shares are 1/2, 2/3, 3/4, 3/5.
        case("majority.accuracy", 0.5);
        case("majority.log_loss", -((1.0_f64 / 2.0).ln() + (2.0_f64 / 3.0).ln() + 0.25_f64.ln() + 0.6_f64.ln()) / 4.0);
        // Chances of a repeat: -, 1/2, 2/3, 2/4.
        case("no_change.log_loss", -(0.5_f64.ln() + 0.5_f64.ln() + (1.0_f64 / 3.0).ln() + 0.5_f64.ln()) / 4.0);
    }

    #[test]
    fn wrong_certainty_and_one_class_stay_finite() {
        assert!((measure(&[(1.0, false)], "model.log_loss") - 15.0 * 10_f64.ln()).abs() < 1e-9);
        for what in ["model.kappa", "model.kappa_temporal", "majority.kappa", "no_change.kappa"] {
            assert!(measure(&[(0.0, false), (0.0, false)], what).is_finite(), "{what}");
        }
        assert!(Classification::default().measures().is_empty());
    }
}
