//! How well scores rank: the area under the curve of true against false positive rates.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

/// Steps per halving of a probability (or of its distance from 1), and how many halvings are told apart.
const STEPS: u64 = 8;
const HALVINGS: u64 = 32;
const SIDE: usize = (STEPS * HALVINGS) as usize;

/// The share of pairs of a true and a false row in which the true one has the higher score (half of it where they are equal),
/// from counts by score: scores that differ by less than an eighth of their size, or of their distance from 1, count as equal.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Ranking {
    /// By bin: true and false rows. Empty until there are some.
    bins: Vec<[u64; 2]>,
}

impl Ranking {
    #[inline]
    pub(super) fn add(&mut self, score: f64, label: bool) {
        if self.bins.is_empty() {
            self.bins = vec![[0; 2]; 2 * SIDE];
        }
        self.bins[bin(score)][usize::from(!label)] += 1;
    }

    /// `None` while there are not both.
    pub(super) fn area(&self) -> Option<f64> {
        let (mut below, mut pairs, mut trues) = (0.0, 0.0, 0.0);
        for [yes, no] in &self.bins {
            let (yes, no) = (*yes as f64, *no as f64);
            pairs += yes * (below + no / 2.0);
            below += no;
            trues += yes;
        }
        (trues > 0.0 && below > 0.0).then(|| pairs / (trues * below))
    }
}

/// The exponent and the first bits of a float are its logarithm, roughly.
#[inline]
fn bin(score: f64) -> usize {
    let halvings = |part: f64| {
        let half = part.max(f64::MIN_POSITIVE).to_bits() >> 49;
        let top = 0.5_f64.to_bits() >> 49;
        (top.saturating_sub(half) as usize).min(SIDE - 1)
    };
    if score < 0.5 { SIDE - 1 - halvings(score) } else { SIDE + halvings(1.0 - score) }
}

/// How a model that finds what is unusual ranks rows of which a label says whether they are.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Anomalies {
    ranking: Ranking,
    rows: u64,
    unusual: u64,
}

impl Anomalies {
    pub(super) fn judge(&mut self, score: f64, is_unusual: bool) {
        self.ranking.add(score, is_unusual);
        self.rows += 1;
        self.unusual += u64::from(is_unusual);
    }

    pub(super) fn measures(&self, measures: &mut Vec<Measure>) {
        let Some(area) = self.ranking.area() else { return };
        measures.push(Measure::of_all("auc", "model", area));
        measures.push(Measure::of_all("auc", "chance", 0.5));
        measures.push(Measure::of_all("unusual_share", "label", self.unusual as f64 / self.rows as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::samples::Random;

    #[test]
    fn bins_are_in_the_order_of_scores() {
        let scores = [0.0, 1e-300, 1e-9, 1e-4, 0.01, 0.3, 0.49, 0.5, 0.51, 0.7, 0.99, 1.0 - 1e-9, 1.0];
        assert!(scores.windows(2).all(|pair| bin(pair[0]) <= bin(pair[1])), "{:?}", scores.map(bin));
        assert_eq!((bin(0.0), bin(1.0)), (0, 2 * SIDE - 1));
    }

    #[test]
    fn the_area_is_that_of_all_pairs() {
        let mut random = Random::seeded(5);
        let (mut ranking, mut rows) = (Ranking::default(), Vec::new());
        assert_eq!(ranking.area(), None);
        for _ in 0..600 {
            let label = random.uniform() < 0.2;
            let score = 1.0 / (1.0 + (-random.normal() - if label { 1.0 } else { 0.0 } + 3.0).exp());
            ranking.add(score, label);
            rows.push((score, label));
        }
        let pairs = rows
            .iter()
            .filter(|row| row.1)
            .flat_map(|yes| rows.iter().filter(|row| !row.1).map(move |no| (yes.0, no.0)));
        let (mut won, mut all) = (0.0, 0.0);
        for (yes, no) in pairs {
            won += if yes > no { 1.0 } else { 0.5 * f64::from(yes == no) };
            all += 1.0;
        }
        let area = ranking.area().expect("there are both");
        assert!((area - won / all).abs() < 0.005, "{area}, by pairs {}", won / all);
    }
}
