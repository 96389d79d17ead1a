//! Which question parts the rows of a leaf best.

use super::Criterion;
use super::arena::Test;

/// A question, and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Candidate {
    pub(in super::super) test: Test,
    pub(in super::super) merit: f64,
    /// The weight of each class that says yes.
    pub(in super::super) yes: Vec<f64>,
}

/// Both sides of a split have at least this share of the rows.
const SIDE_MIN: f64 = 0.01;

/// How impure a leaf is that has these weights of classes, times its weight: so parts add up.
fn impurity(criterion: Criterion, weights: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut sum) = (0.0, 0.0);
    for weight in weights.filter(|weight| *weight > 0.0) {
        total += weight;
        sum += match criterion {
            Criterion::InfoGain => weight * libm::log(weight),
            Criterion::Gini => weight * weight,
        };
    }
    match criterion {
        _ if total <= 0.0 => 0.0,
        Criterion::InfoGain => (total * libm::log(total) - sum) * std::f64::consts::LOG2_E,
        Criterion::Gini => total - sum / total,
    }
}

/// How much purer the rows of a leaf become by a split; a leaf's own impurity is computed once.
pub(in super::super) struct Judge<'a> {
    criterion: Criterion,
    counts: &'a [f64],
    total: f64,
    before: f64,
}

impl<'a> Judge<'a> {
    /// Of a leaf with these weights of classes.
    pub(in super::super) fn new(criterion: Criterion, counts: &'a [f64]) -> Self {
        let before = impurity(criterion, counts.iter().copied());
        Self { criterion, counts, total: counts.iter().sum(), before }
    }

    /// What it is worth, where `yes` has the weights of classes that say yes; 0 where hardly any or nearly all do.
    pub(in super::super) fn merit(&self, yes: &[f64]) -> f64 {
        let side: f64 = yes.iter().sum();
        if side < SIDE_MIN * self.total || self.total - side < SIDE_MIN * self.total {
            return 0.0;
        }
        let no = self.counts.iter().zip(yes).map(|(count, yes)| count - yes);
        let after = impurity(self.criterion, yes.iter().copied()) + impurity(self.criterion, no);
        ((self.before - after) / self.total).max(0.0)
    }

    /// The width of the range in which merits lie.
    pub(in super::super) fn range(&self, classes: usize) -> f64 {
        match self.criterion {
            Criterion::InfoGain => libm::log2(classes.max(2) as f64),
            Criterion::Gini => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merits_are_the_textbooks() {
        // Quinlan's weather: 9 yes and 5 no; by humidity 3/4 and 6/1.
        let judge = Judge::new(Criterion::InfoGain, &[9.0, 5.0]);
        assert!((judge.merit(&[3.0, 4.0]) - 0.151_835).abs() < 1e-5);
        assert!((judge.merit(&[6.0, 2.0]) - 0.048_127).abs() < 1e-5, "by wind");
        let judge = Judge::new(Criterion::Gini, &[2.0, 2.0]);
        assert!((judge.merit(&[2.0, 0.0]) - 0.5).abs() < 1e-12);
        assert_eq!(judge.merit(&[1.0, 1.0]), 0.0);
        assert_eq!(judge.merit(&[0.01, 0.0]), 0.0, "too few on one side");
    }
}
