//! Measures of a classifier and of the two baselines.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::exact::Exact;
use super::logarithm::{self, BLOCK};
use super::ranking::Ranking;
use super::scopes::{Scopes, Tally};
use super::{EvaluationConfig, ratio};
use crate::models::{Example, likeliest, probability};

/// A probability counts as at least this, so that one wrong certainty does not make the mean infinite.
const PROBABILITY_MIN: f64 = 1e-15;

/// A judged row: its label, what was said, and how wrong the probabilities were.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Judged {
    label: u32,
    said: u32,
    log_loss: f64,
    brier: f64,
}

/// Counts by class.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Counts {
    rows: u64,
    /// By class: how often it was the label, how often it was said, and how often both.
    of: Vec<[u64; 3]>,
}

impl Counts {
    fn new(classes: usize) -> Self {
        Self { rows: 0, of: vec![[0; 3]; classes] }
    }

    #[inline]
    fn add(&mut self, label: u32, said: u32) {
        self.rows += 1;
        self.of[label as usize][0] += 1;
        self.of[said as usize][1] += 1;
        self.of[label as usize][2] += u64::from(label == said);
    }

    fn take_back(&mut self, label: u32, said: u32) {
        self.rows -= 1;
        self.of[label as usize][0] -= 1;
        self.of[said as usize][1] -= 1;
        self.of[label as usize][2] -= u64::from(label == said);
    }

    fn right(&self) -> f64 {
        self.of.iter().map(|[_, _, both]| both).sum::<u64>() as f64
    }

    /// The sum over classes of the products of two of their shares.
    fn products(&self, one: usize, other: usize) -> f64 {
        let rows = self.rows as f64;
        self.of.iter().map(|counts| (counts[one] as f64 / rows) * (counts[other] as f64 / rows)).sum()
    }

    fn accuracy(&self) -> f64 {
        self.right() / self.rows as f64
    }

    /// Agreement beyond what the shares of the classes alone would give (Cohen).
    fn kappa(&self) -> f64 {
        let chance = self.products(0, 1);
        ratio(self.accuracy() - chance, 1.0 - chance)
    }

    /// The correlation between what was said and what was true (Matthews; of several classes, Gorodkin's).
    fn mcc(&self) -> f64 {
        let agreed = self.accuracy() - self.products(0, 1);
        let spreads = (1.0 - self.products(0, 0)).max(0.0) * (1.0 - self.products(1, 1)).max(0.0);
        ratio(agreed, spreads.sqrt())
    }

    /// Of yes; of several classes, the mean of those that were said or true.
    fn f1(&self) -> f64 {
        let of = |[label, said, both]: &[u64; 3]| ratio(2.0 * *both as f64, (label + said) as f64);
        match self.of.as_slice() {
            [_, yes] => of(yes),
            all => {
                let seen: Vec<f64> = all.iter().filter(|counts| counts[0] + counts[1] > 0).map(of).collect();
                ratio(seen.iter().sum(), seen.len() as f64)
            }
        }
    }

    /// How far what was said agrees with the labels, other than by the share that is right.
    fn agreement(&self, push: &mut dyn FnMut(&'static str, f64)) {
        push("kappa", self.kappa());
        push("mcc", self.mcc());
        push("f1", self.f1());
    }
}

/// Counts by class, and how wrong the probabilities were.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Classes {
    counts: Counts,
    log_loss: Exact,
    brier: Exact,
}

impl Classes {
    fn new(classes: usize) -> Self {
        Self { counts: Counts::new(classes), log_loss: Exact::default(), brier: Exact::default() }
    }
}

impl Tally for Classes {
    type Judged = Judged;

    #[inline]
    fn add(&mut self, judged: &Judged) {
        self.counts.add(judged.label, judged.said);
        self.log_loss.add(judged.log_loss);
        self.brier.add(judged.brier);
    }

    fn take_back(&mut self, judged: &Judged) {
        self.counts.take_back(judged.label, judged.said);
        self.log_loss.take_back(judged.log_loss);
        self.brier.take_back(judged.brier);
    }

    #[inline]
    fn fading(judged: &Judged) -> [f64; 2] {
        [f64::from(judged.label == judged.said), judged.log_loss]
    }

    fn faded([accuracy, log_loss]: [f64; 2]) -> [(&'static str, f64); 2] {
        [("accuracy", accuracy), ("log_loss", log_loss)]
    }

    fn measures(&self, push: &mut dyn FnMut(&'static str, f64)) {
        if self.counts.rows == 0 {
            return;
        }
        let rows = self.counts.rows as f64;
        push("accuracy", self.counts.accuracy());
        push("log_loss", self.log_loss.value() / rows);
        push("brier", self.brier.value() / rows);
        self.counts.agreement(push);
    }
}

/// How many bins of probabilities are compared with what came true.
const CALIBRATION: usize = 10;

/// How far probabilities are from how often they come true (the expected calibration error of Guo et al., 2017): of yes, or of
/// the class that was said where there are several.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Calibration {
    /// By bin: rows, the sum of their probabilities, and how many came true.
    bins: [(u64, f64, u64); CALIBRATION],
}

impl Calibration {
    #[inline]
    fn add(&mut self, probability: f64, came_true: bool) {
        let bin = ((probability * CALIBRATION as f64) as usize).min(CALIBRATION - 1);
        let (rows, sum, trues) = &mut self.bins[bin];
        *rows += 1;
        *sum += probability;
        *trues += u64::from(came_true);
    }

    fn error(&self) -> f64 {
        let rows: u64 = self.bins.iter().map(|bin| bin.0).sum();
        ratio(self.bins.iter().map(|(_, sum, trues)| (sum - *trues as f64).abs()).sum(), rows as f64)
    }
}

/// The model, `majority` and `no_change`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Classification {
    model: Scopes<Classes>,
    calibration: Calibration,
    ranking: Ranking,
    majority: Counts,
    no_change: Counts,
    last: Option<u32>,
    /// How often a label was the same as the one before.
    repeats: u64,
}

impl Classification {
    pub(super) fn new(classes: usize, config: &EvaluationConfig) -> Self {
        Self {
            model: Scopes::new(Classes::new(classes), config),
            calibration: Calibration::default(),
            ranking: Ranking::default(),
            majority: Counts::new(classes),
            no_change: Counts::new(classes),
            last: None,
            repeats: 0,
        }
    }

    /// Judges rows of outputs; `slices` gives the texts of a row by which it is judged apart.
    pub(super) fn judge<'a, S: Iterator<Item = &'a str>>(
        &mut self,
        outputs: &[f64],
        examples: &[Example],
        slices: impl Fn(usize) -> S,
    ) {
        let Some(width) = outputs.len().checked_div(examples.len()) else { return };
        let blocks = outputs.chunks(width * BLOCK).zip(examples.chunks(BLOCK));
        for (block, (outputs, examples)) in blocks.enumerate() {
            let rows = || outputs.chunks_exact(width).zip(examples).enumerate();
            let mut logarithms = [1.0; BLOCK];
            for (row, (outputs, example)) in rows() {
                logarithms[row] = probability(outputs, example.target as usize).max(PROBABILITY_MIN);
            }
            logarithm::ln(&mut logarithms);
            for (row, (outputs, example)) in rows() {
                self.judge_row(outputs, example.target as usize, -logarithms[row], slices(block * BLOCK + row));
            }
        }
    }

    #[inline]
    fn judge_row<'a>(&mut self, outputs: &[f64], label: usize, log_loss: f64, slices: impl Iterator<Item = &'a str>) {
        // Both baselines know the labels before this one.
        let commonest = self.commonest();
        self.majority.add(label as u32, commonest);
        self.no_change.add(label as u32, self.last.unwrap_or_default());
        let (said, of_label) = (likeliest(outputs), probability(outputs, label));
        // The squares of the probabilities of classes other than the label count, too.
        let brier = match outputs {
            [_] => (1.0 - of_label) * (1.0 - of_label),
            all => all.iter().map(|p| p * p).sum::<f64>() - of_label * of_label + (1.0 - of_label) * (1.0 - of_label),
        };
        self.model.add(&Judged { label: label as u32, said: said as u32, log_loss, brier }, slices);
        if let [yes] = outputs {
            self.calibration.add(*yes, label == 1);
            self.ranking.add(*yes, label == 1);
        } else {
            self.calibration.add(outputs[said], label == said);
        }
        self.repeats += u64::from(self.last == Some(label as u32));
        self.last = Some(label as u32);
    }

    /// Of the labels so far; of equal ones the first.
    fn commonest(&self) -> u32 {
        let counts = &self.majority.of;
        (1..counts.len()).fold(0, |best, at| if counts[at][0] > counts[best][0] { at } else { best }) as u32
    }

    /// What the log losses of `majority` add up to, where each label's probability was its share so far by the rule of succession: no
    /// count of zero makes it certain. The factors of their product are those of factorials, so that counts are enough.
    fn majority_log_loss(&self) -> f64 {
        let classes = self.majority.of.len() as f64;
        let of_labels: f64 = self.majority.of.iter().map(|[label, ..]| libm::lgamma(*label as f64 + 1.0)).sum();
        libm::lgamma(self.majority.rows as f64 + classes) - libm::lgamma(classes) - of_labels
    }

    /// The same of `no_change`: the first label is any, and after it, it repeats itself or not by the same rule; if not, all others
    /// are as likely.
    fn no_change_log_loss(&self) -> f64 {
        let classes = self.no_change.of.len() as f64;
        let (after_first, repeats) = (self.no_change.rows as f64 - 1.0, self.repeats as f64);
        let others = after_first - repeats;
        libm::log(classes) + libm::lgamma(after_first + 2.0) - libm::lgamma(repeats + 1.0) - libm::lgamma(others + 1.0)
            + others * libm::log(classes - 1.0)
    }

    /// Agreement beyond that of saying the label before again.
    fn kappa_temporal(&self, tally: &Counts) -> f64 {
        let chance = self.no_change.right();
        ratio(tally.right() - chance, tally.rows as f64 - chance)
    }

    pub(super) fn measures(&self, columns: &[String], measures: &mut Vec<Measure>) {
        if self.no_change.rows == 0 {
            return;
        }
        self.model.measures(columns, measures);
        measures.push(Measure::of_all("kappa_temporal", "model", self.kappa_temporal(&self.model.all.counts)));
        measures.push(Measure::of_all("calibration_error", "model", self.calibration.error()));
        measures.extend(self.ranking.area().map(|area| Measure::of_all("auc", "model", area)));
        for (who, counts, log_loss) in [
            ("majority", &self.majority, self.majority_log_loss()),
            ("no_change", &self.no_change, self.no_change_log_loss()),
        ] {
            measures.push(Measure::of_all("accuracy", who, counts.accuracy()));
            measures.push(Measure::of_all("log_loss", who, log_loss / counts.rows as f64));
            counts.agreement(&mut |name, value| measures.push(Measure::of_all(name, who, value)));
        }
        measures.push(Measure::of_all("kappa_temporal", "majority", self.kappa_temporal(&self.majority)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Task;

    fn judged(pairs: &[(&[f64], usize)], classes: usize, config: &EvaluationConfig) -> Vec<Measure> {
        let mut evaluation = Classification::new(classes, config);
        for (outputs, label) in pairs {
            let slice = ["a", "b"][*label % 2];
            evaluation.judge(outputs, &[Example::of(*label as f64)], |_| [slice].into_iter());
        }
        let mut measures = Vec::new();
        evaluation.measures(&["slice".to_owned()], &mut measures);
        measures
    }

    /// What the counts give is what one label after the other would.
    #[test]
    fn log_losses_of_the_baselines_are_those_of_each_label() {
        for classes in [2, 5] {
            let mut random = crate::models::samples::Random::seeded(classes as u64);
            let mut evaluation = Classification::new(classes, &EvaluationConfig::default());
            let (mut shares, mut repeats) = (vec![1.0; classes], [1.0, 1.0]);
            let (mut majority, mut no_change, mut last) = (0.0, 0.0, None);
            for _ in 0..2000 {
                let label = if random.below(3) > 0 { last.unwrap_or(0) } else { random.below(classes) };
                majority -= libm::log(shares[label] / shares.iter().sum::<f64>());
                shares[label] += 1.0;
                let others = (classes - 1) as f64;
                match last {
                    None => no_change += libm::log(classes as f64),
                    Some(last) => {
                        let is_same = usize::from(last == label);
                        let all: f64 = repeats.iter().sum();
                        no_change -= libm::log(repeats[is_same] / all / if last == label { 1.0 } else { others });
                        repeats[is_same] += 1.0;
                    }
                }
                last = Some(label);
                evaluation.judge(
                    &vec![1.0 / classes as f64; Task::Classification.outputs(classes)],
                    &[Example::of(label as f64)],
                    |_| std::iter::empty(),
                );
            }
            let near = |sum: f64, wanted: f64| assert!((sum - wanted).abs() < 1e-9 * wanted, "{sum}, wanted {wanted}");
            near(evaluation.majority_log_loss(), majority);
            near(evaluation.no_change_log_loss(), no_change);
        }
    }

    fn value(measures: &[Measure], what: &str) -> f64 {
        let found = measures.iter().find(|m| format!("{}.{}.{}", m.who, m.name, m.over) == what);
        found.unwrap_or_else(|| panic!("no {what} among {measures:?}")).value
    }

    #[test]
    fn measures_by_hand() {
        let config = EvaluationConfig { window: 2, fading: 0.5, by: vec!["slice".to_owned()] };
        let measures = judged(&[(&[0.9], 1), (&[0.2], 1), (&[0.1], 0), (&[0.8], 1)], 2, &config);
        let case = |what, want: f64| {
            let got = value(&measures, what);
            assert!((got - want).abs() < 1e-12, "{what}: {got}, wanted {want}");
        };
        case("model.accuracy.all", 0.75);
        case("model.log_loss.all", -(0.9_f64.ln() + 0.2_f64.ln() + 0.9_f64.ln() + 0.8_f64.ln()) / 4.0);
        case("model.brier.all", (0.01 + 0.64 + 0.01 + 0.04) / 4.0);
        // Chance: both say true 3/4 · 2/4, both false 1/4 · 2/4.
        case("model.kappa.all", (0.75 - 0.5) / 0.5);
        case("model.f1.all", 2.0 * 2.0 / (3.0 + 2.0));
        // Two of three true positives, no false ones: (2 · 1 - 0 · 1) / sqrt(2 · 3 · 1 · 2).
        case("model.mcc.all", 2.0 / 12_f64.sqrt());
        case("model.auc.all", 1.0);
        // Bins of 0.9, 0.2, 0.1, 0.8: each row is alone in its own.
        case("model.calibration_error.all", (0.1 + 0.8 + 0.1 + 0.2) / 4.0);
        case("model.accuracy.last 2", 1.0);
        case("model.log_loss.last 2", -(0.9_f64.ln() + 0.8_f64.ln()) / 2.0);
        case("model.accuracy.faded", (1.0 + 0.5 + 0.125) / 1.875);
        case("model.accuracy.slice=a", 1.0);
        case("model.accuracy.slice=b", 2.0 / 3.0);
        // `no_change` says false, true, true, false: right once.
        case("no_change.accuracy.all", 0.25);
        case("model.kappa_temporal.all", (3.0 - 1.0) / (4.0 - 1.0));
        // `majority` says false, true, true, true: right twice; its shares are 1/2, 2/3, 1/4, 3/5.
        case("majority.accuracy.all", 0.5);
        case(
            "majority.log_loss.all",
            -((1.0_f64 / 2.0).ln() + (2.0_f64 / 3.0).ln() + 0.25_f64.ln() + 0.6_f64.ln()) / 4.0,
        );
        // Chances of a repeat: -, 1/2, 2/3, 2/4.
        case("no_change.log_loss.all", -(0.5_f64.ln() + 0.5_f64.ln() + (1.0_f64 / 3.0).ln() + 0.5_f64.ln()) / 4.0);
    }

    #[test]
    fn several_classes() {
        let config = EvaluationConfig::default();
        let rows: [(&[f64], usize); 3] = [(&[0.5, 0.3, 0.2], 0), (&[0.1, 0.6, 0.3], 2), (&[0.2, 0.2, 0.6], 2)];
        let measures = judged(&rows, 3, &config);
        let case = |what, want: f64| {
            let got = value(&measures, what);
            assert!((got - want).abs() < 1e-12, "{what}: {got}, wanted {want}");
        };
        case("model.accuracy.all", 2.0 / 3.0);
        case("model.log_loss.all", -(0.5_f64.ln() + 0.3_f64.ln() + 0.6_f64.ln()) / 3.0);
        case("model.brier.all", ((0.25 + 0.09 + 0.04) + (0.01 + 0.36 + 0.49) + (0.04 + 0.04 + 0.16)) / 3.0);
        case("model.f1.all", (1.0 + 0.0 + 2.0 / 3.0) / 3.0);
        case("no_change.log_loss.all", -((1.0_f64 / 3.0).ln() + 0.25_f64.ln() + (1.0_f64 / 3.0).ln()) / 3.0);
        assert!(!measures.iter().any(|measure| measure.name == "auc"));
    }

    #[test]
    fn wrong_certainty_and_one_class_stay_finite() {
        let config = EvaluationConfig::default();
        let measures = judged(&[(&[1.0], 0)], 2, &config);
        assert!((value(&measures, "model.log_loss.all") - 15.0 * 10_f64.ln()).abs() < 1e-9);
        let measures = judged(&[(&[0.0], 0), (&[0.0], 0)], 2, &config);
        assert!(measures.iter().all(|measure| measure.value.is_finite()), "{measures:?}");
        assert!(judged(&[], 2, &config).is_empty());
    }
}
