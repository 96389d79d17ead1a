//! A leaf of a tree of classes: what it saw, how it votes, and where it would split.

use serde::{Deserialize, Serialize};

use super::super::{Row, Shape, Tensor};
use super::arena::Test;
use super::categories::Categories;
use super::gauss::{self, ARRAYS};
use super::split::{Candidate, Judge};
use super::{Growth, Voting, gather};

/// Thresholds that are tried for a number, evenly between its smallest and its largest value.
const THRESHOLDS: usize = 10;

/// The score of a class that was not seen here, where others were.
const UNSEEN: f64 = -1e300;

/// Of what the score of a class by naive Bayes is made: what does not depend on the row, and of some columns of numbers the mean and
/// the variance.
pub(super) struct Term {
    pub(super) class: u32,
    pub(super) bias: f64,
    pub(super) normals: Vec<(u32, f64, f64)>,
}

/// What a leaf knows. Classes are in the order in which it met them, so that many classes cost only where they are.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct ClassLeaf {
    pub(super) depth: u32,
    /// The columns of numbers that it looks at.
    numbers: Vec<u32>,
    /// The columns of categories that it looks at.
    columns: Vec<u32>,
    /// The classes that it knows of.
    classes: Vec<u32>,
    /// Their weights, with those that its parent had here.
    counts: Vec<f64>,
    /// Their weights since there is the leaf.
    seen: Vec<f64>,
    /// For each class a block of [`gauss`].
    blocks: Vec<f64>,
    categories: Categories,
    /// Weight of the examples for which the majority was right, and naive Bayes.
    majority_right: f64,
    bayes_right: f64,
    /// The weight at the last attempt to split.
    tried: f64,
}

impl ClassLeaf {
    /// With these weights of classes to begin with.
    pub(super) fn new(depth: u32, numbers: Vec<u32>, columns: Vec<u32>, counts: Vec<(u32, f64)>) -> Self {
        let (classes, counts): (Vec<u32>, Vec<f64>) = counts.into_iter().filter(|(_, count)| *count > 0.0).unzip();
        let blocks = counts.iter().flat_map(|_| gauss::block(numbers.len())).collect();
        Self {
            depth,
            categories: Categories::new(columns.len()),
            numbers,
            columns,
            seen: vec![0.0; classes.len()],
            tried: counts.iter().sum(),
            classes,
            counts,
            blocks,
            majority_right: 0.0,
            bayes_right: 0.0,
        }
    }

    /// The classes and their weights.
    pub(in super::super) fn counts(&self) -> impl Iterator<Item = (u32, f64)> {
        self.classes.iter().copied().zip(self.counts.iter().copied())
    }

    /// Whether it votes by naive Bayes.
    #[inline]
    pub(super) fn is_bayesian(&self, voting: Voting) -> bool {
        let is_best = match voting {
            Voting::Majority => false,
            Voting::NaiveBayes => true,
            Voting::Adaptive => self.bayes_right >= self.majority_right,
        };
        is_best && self.classes.len() > 1
    }

    /// Fills `votes` with the probabilities of all classes; `scratch` keeps what learning needs next.
    pub(super) fn vote(&self, voting: Voting, row: Row<'_>, votes: &mut [f64], scratch: &mut Vec<f64>) {
        if self.is_bayesian(voting) {
            self.score(row, scratch);
            self.vote_by_scores(votes, scratch);
        } else {
            self.vote_by_counts(votes);
        }
    }

    pub(super) fn vote_by_counts(&self, votes: &mut [f64]) {
        let total: f64 = self.counts.iter().sum();
        if total <= 0.0 {
            votes.fill(1.0 / votes.len() as f64);
            return;
        }
        votes.fill(0.0);
        for (class, count) in self.counts() {
            votes[class as usize] = count / total;
        }
    }

    fn vote_by_scores(&self, votes: &mut [f64], scratch: &mut [f64]) {
        let scores = &mut scratch[..self.classes.len()];
        let best = scores.iter().fold(f64::NEG_INFINITY, |best, score| best.max(*score));
        let mut total = 0.0;
        for score in &mut *scores {
            *score = if *score == best { 1.0 } else { libm::exp(*score - best) };
            total += *score;
        }
        votes.fill(0.0);
        for (class, score) in self.classes.iter().zip(scores) {
            votes[*class as usize] = *score / total;
        }
    }

    /// The scores of the classes by naive Bayes, at the front of `scratch`.
    fn score(&self, row: Row<'_>, scratch: &mut Vec<f64>) {
        let (classes, columns) = (self.classes.len(), self.numbers.len());
        scratch.resize((classes + 3 * columns).max(scratch.len()), 0.0);
        let (scores, rest) = scratch.split_at_mut(classes);
        let (numbers, rest) = rest.split_at_mut(columns);
        let (spreads, rest) = rest.split_at_mut(columns);
        gather(row, &self.numbers, numbers);
        gauss::spreads(&self.blocks, spreads, &mut rest[..columns]);
        let fresh = self.seen.iter().all(|seen| *seen == 0.0);
        for (at, score) in scores.iter_mut().enumerate() {
            // A class that was not seen here has no distribution.
            *score = if self.seen[at] > 0.0 {
                let block = &self.blocks[at * ARRAYS * columns..][..ARRAYS * columns];
                libm::log(self.counts[at]) + gauss::log_density(block, numbers, spreads, self.seen[at])
            } else if fresh {
                libm::log(self.counts[at])
            } else {
                UNSEEN
            };
        }
        self.categories.score(row, &self.columns, &self.classes, &self.seen, scores);
    }

    /// Of what scores by naive Bayes are made, but for categories.
    pub(super) fn terms(&self) -> impl Iterator<Item = Term> {
        let columns = self.numbers.len();
        let (mut spreads, mut highs) = (vec![0.0; columns], vec![0.0; columns]);
        gauss::spreads(&self.blocks, &mut spreads, &mut highs);
        let fresh = self.seen.iter().all(|seen| *seen == 0.0);
        self.classes.iter().enumerate().map(move |(at, class)| {
            if self.seen[at] <= 0.0 {
                let bias = if fresh { libm::log(self.counts[at]) } else { UNSEEN };
                return Term { class: *class, bias, normals: Vec::new() };
            }
            let block = &self.blocks[at * ARRAYS * columns..][..ARRAYS * columns];
            let normals = self.numbers.iter().zip(gauss::normals(block, &spreads, self.seen[at]));
            let normals: Vec<(u32, f64, f64)> = normals
                .filter_map(|(column, normal)| normal.map(|(mean, variance)| (*column, mean, variance)))
                .collect();
            let logarithms: f64 = normals.iter().map(|(_, _, variance)| libm::log(*variance)).sum();
            Term { class: *class, bias: libm::log(self.counts[at]) - 0.5 * logarithms, normals }
        })
    }

    /// What a category of a column adds to the score of each class; nothing where it does not look at the column.
    pub(super) fn category_terms(&self, column: u32, category: u32) -> impl Iterator<Item = (u32, f64)> {
        let at = self.columns.iter().position(|own| *own == column);
        let terms = at.map(|at| self.categories.terms(at, category, &self.classes, &self.seen));
        self.classes.iter().copied().zip(terms.into_iter().flatten())
    }

    /// The categories that it has seen, each with its column.
    pub(super) fn categories(&self) -> impl Iterator<Item = (u32, u32)> {
        let entries = self.columns.iter().flat_map(|column| self.categories.of(*column));
        entries.map(|entries| (entries[0].category, entries[0].column))
    }

    /// Learns an example; `votes` becomes what [`ClassLeaf::vote`] gave just before.
    pub(super) fn learn(
        &mut self,
        voting: Voting,
        row: Row<'_>,
        (class, weight): (u32, f64),
        votes: &mut [f64],
        scratch: &mut Vec<f64>,
    ) {
        if voting == Voting::Adaptive && self.classes.len() > 1 {
            self.score(row, scratch);
            let (majority, bayes) = (likeliest(&self.counts), likeliest(&scratch[..self.classes.len()]));
            if self.bayes_right >= self.majority_right {
                self.vote_by_scores(votes, scratch);
            } else {
                self.vote_by_counts(votes);
            }
            self.majority_right += if self.classes[majority] == class { weight } else { 0.0 };
            self.bayes_right += if self.classes[bayes] == class { weight } else { 0.0 };
        } else {
            self.vote(voting, row, votes, scratch);
        }
        self.add(row, class, weight, scratch);
    }

    fn add(&mut self, row: Row<'_>, class: u32, weight: f64, scratch: &mut Vec<f64>) {
        let columns = self.numbers.len();
        let at = self.classes.iter().position(|known| *known == class).unwrap_or_else(|| {
            self.classes.push(class);
            self.counts.push(0.0);
            self.seen.push(0.0);
            self.blocks.extend(gauss::block(columns));
            self.classes.len() - 1
        });
        self.counts[at] += weight;
        self.seen[at] += weight;
        scratch.resize(columns.max(scratch.len()), 0.0);
        let numbers = &mut scratch[..columns];
        gather(row, &self.numbers, numbers);
        let block = &mut self.blocks[at * ARRAYS * columns..][..ARRAYS * columns];
        gauss::add(block, numbers, weight, weight / self.seen[at]);
        self.categories.add(row, &self.columns, class, weight);
    }

    /// Whether it is time to try a split.
    pub(super) fn is_due(&mut self, growth: &Growth) -> bool {
        let total: f64 = self.counts.iter().sum();
        let due = total - self.tried >= growth.grace_period && self.depth < growth.max_depth;
        if due {
            self.tried = total;
        }
        due && self.seen.iter().filter(|seen| **seen > 0.0).count() > 1
    }

    /// The weight of all that counts for it.
    pub(super) fn weight(&self) -> f64 {
        self.counts.iter().sum()
    }

    pub(super) fn judge(&self, growth: &Growth) -> Judge<'_> {
        Judge::new(growth.criterion, &self.seen)
    }

    /// The best question about each column.
    pub(super) fn candidates(&self, judge: &Judge<'_>) -> Vec<Candidate> {
        let numbers = (0..self.numbers.len()).filter_map(|at| self.best_threshold(judge, at));
        numbers.chain(self.columns.iter().filter_map(|column| self.best_category(judge, *column))).collect()
    }

    fn best_threshold(&self, judge: &Judge<'_>, at: usize) -> Option<Candidate> {
        let columns = self.numbers.len();
        let blocks = || self.blocks.chunks_exact(ARRAYS * columns);
        let low = blocks().fold(f64::MAX, |low, block| low.min(block[2 * columns + at]));
        let high = blocks().fold(-f64::MAX, |high, block| high.max(block[3 * columns + at]));
        let mut best: Option<Candidate> = None;
        let mut yes = vec![0.0; self.classes.len()];
        for part in (1..=THRESHOLDS).filter(|_| low < high) {
            let threshold = low + (high - low) * (part as f64 / (THRESHOLDS + 1) as f64);
            for ((yes, block), seen) in yes.iter_mut().zip(blocks()).zip(&self.seen) {
                let [mean, squares, low, high] = [0, 1, 2, 3].map(|array| block[array * columns + at]);
                *yes = if *seen > 0.0 {
                    seen * gauss::share_below(threshold, mean, squares, *seen, low, high)
                } else {
                    0.0
                };
            }
            let merit = judge.merit(&yes);
            if merit > best.as_ref().map_or(0.0, |best| best.merit) {
                let test = Test::Number { column: self.numbers[at], threshold };
                best = Some(Candidate { test, merit, yes: yes.clone() });
            }
        }
        best
    }

    fn best_category(&self, judge: &Judge<'_>, column: u32) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        for entries in self.categories.of(column) {
            let mut yes = vec![0.0; self.classes.len()];
            for entry in entries {
                if let Some(at) = self.classes.iter().position(|class| *class == entry.class) {
                    yes[at] = entry.weight;
                }
            }
            let merit = judge.merit(&yes);
            if merit > best.as_ref().map_or(0.0, |best| best.merit) {
                best = Some(Candidate { test: Test::Category { column, category: entries[0].category }, merit, yes });
            }
        }
        best
    }

    /// What the sides of a split begin with: the weights that they had here.
    pub(super) fn sides(&self, candidate: &Candidate) -> [Vec<(u32, f64)>; 2] {
        let yes = self.classes.iter().copied().zip(candidate.yes.iter().copied());
        let no = self.classes.iter().zip(self.seen.iter().zip(&candidate.yes)).map(|(c, (seen, yes))| (*c, seen - yes));
        [yes.filter(|(_, weight)| *weight > 0.0).collect(), no.filter(|(_, weight)| *weight > 0.0).collect()]
    }

    /// Looks no more at columns other than these (positions among numbers and then among categories).
    pub(super) fn keep(&mut self, keep: impl Fn(Test) -> bool) {
        let column = |at: &usize| keep(Test::Number { column: self.numbers[*at], threshold: 0.0 });
        let kept: Vec<usize> = (0..self.numbers.len()).filter(column).collect();
        let arrays = self.blocks.chunks_exact(self.numbers.len().max(1));
        self.blocks = arrays.flat_map(|array| kept.iter().map(|at| array[*at]).collect::<Vec<_>>()).collect();
        self.numbers = kept.into_iter().map(|at| self.numbers[at]).collect();
        let columns = self.columns.clone();
        self.columns.retain(|column| keep(Test::Category { column: *column, category: 0 }));
        self.categories.keep(&columns, &self.columns);
    }

    /// What naive Bayes predicts by, where it does: per class, the mean and the variance of each number; the weight of
    /// each category.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<Tensor> {
        let name = |name: &str| format!("{prefix}{name}");
        let row =
            |at: &str, values: &[u32]| Tensor::row(name(at), values.iter().map(|value| f64::from(*value)).collect());
        let entries: Vec<f64> = (self.columns.iter())
            .flat_map(|column| self.categories.of(*column).flatten())
            .flat_map(|entry| [f64::from(entry.category), f64::from(entry.class), entry.weight])
            .collect();
        vec![
            Tensor::row(name("right"), vec![self.majority_right, self.bayes_right]),
            row("numbers", &self.numbers),
            row("classes", &self.classes),
            Tensor::row(name("seen"), self.seen.clone()),
            Tensor::table(name("numbers_by_class"), self.classes.len() * ARRAYS, self.blocks.clone()),
            Tensor::table(name("categories_by_class"), entries.len() / 3, entries),
        ]
    }

    /// Whether this is a possible leaf for rows of this shape.
    pub(super) fn fits(&self, shape: Shape) -> bool {
        let below = |values: &[u32], bound: usize| values.iter().all(|value| (*value as usize) < bound);
        let distinct = |values: &[u32]| values.is_sorted_by(|a, b| a < b);
        let classes = self.classes.len();
        self.depth < u32::MAX
            && below(&self.numbers, shape.dense)
            && distinct(&self.numbers)
            && below(&self.columns, shape.active)
            && distinct(&self.columns)
            && below(&self.classes, shape.classes.max(2))
            && self.counts.len() == classes
            && self.seen.len() == classes
            && self.blocks.len() == classes * ARRAYS * self.numbers.len()
            && self.blocks.iter().chain(&self.counts).chain(&self.seen).all(|number| number.is_finite())
            && self.categories.fits(shape.active, shape.classes.max(2), 0.0, &self.columns)
    }
}

/// The first of the largest.
fn likeliest(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best })
}
