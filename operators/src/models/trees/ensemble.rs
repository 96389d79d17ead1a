//! Trees of classes that vote, each with its own share of the examples and of the columns, and replaced when out of date.

use millstream_engine::catalogue::Problems;
use serde::{Deserialize, Serialize};

use super::super::drift::{Adwin, Detector};
use super::super::onnx::{Expressed, Graph, Rows};
use super::super::random::{Poisson, Random};
use super::super::{Example, Explanation, Model, Names, Row, Shape, Tensor};
use super::class_tree::ClassTree;
use super::{Growth, all_columns, best, grew, labelled, onnx, report, with_buffer, with_votes, within};

/// At which columns trees look.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Subspace {
    /// At all.
    All,
    /// Each leaf at so many, chosen at random; by default the root of their number, and one more.
    Leaf(Option<u32>),
    /// Each tree at this share of them.
    Tree(f64),
}

/// Which tree is replaced when the errors of one have grown.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) enum Reset {
    /// That one.
    Own,
    /// The one whose errors are the most frequent.
    Worst,
}

/// What kind of ensemble it is.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    pub(in super::super) growth: Growth,
    pub(in super::super) members: u32,
    /// How often each example counts, on average.
    pub(in super::super) lambda: f64,
    pub(in super::super) subspace: Subspace,
    /// Of the ADWIN on whose warning a tree's successor starts to learn.
    pub(in super::super) warning_delta: Option<f64>,
    /// Of the ADWIN on whose word a tree is replaced.
    pub(in super::super) drift_delta: Option<f64>,
    pub(in super::super) weighted_votes: bool,
    pub(in super::super) reset: Reset,
    pub(in super::super) seed: u64,
}

impl Plan {
    /// Notes what is out of range; `members` is how the number of trees is called.
    pub(in super::super) fn check(&self, members: &str, problems: &mut Problems) {
        within(problems, members, self.members, 1, 1000);
        within(problems, "lambda", self.lambda, 1e-3, Poisson::MEAN_MAX);
        for (path, delta) in [("warning_delta", self.warning_delta), ("drift_delta", self.drift_delta)] {
            within(problems, path, delta.unwrap_or(0.5), 1e-300, 0.999_999);
        }
    }
}

/// A tree and how it does.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Member {
    tree: ClassTree,
    /// The tree that will take its place.
    successor: Option<ClassTree>,
    warning: Option<Adwin>,
    drift: Option<Adwin>,
    /// Weight of the examples that it saw, and of those for which it was right.
    seen: f64,
    right: f64,
    replaced: u32,
}

/// The ensemble.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in super::super) struct Ensemble {
    growth: Growth,
    shape: [u32; 3],
    poisson: Poisson,
    /// How many columns each tree looks at; 0 for all.
    columns_per_tree: u32,
    weighted_votes: bool,
    reset: Reset,
    random: Random,
    /// How many trees there ever were: each has its own sequence of random numbers.
    trees: u64,
    seed: u64,
    members: Vec<Member>,
}

impl Ensemble {
    /// One that has seen nothing.
    pub(in super::super) fn new(shape: Shape, plan: &Plan) -> Self {
        let columns = shape.dense + shape.active;
        let mut growth = plan.growth.clone();
        let mut columns_per_tree = 0;
        match plan.subspace {
            Subspace::All => {}
            Subspace::Leaf(count) => {
                growth.columns_per_leaf = count.unwrap_or((columns as f64).sqrt().round() as u32 + 1);
            }
            Subspace::Tree(part) => columns_per_tree = ((columns as f64 * part).round() as u32).max(2),
        }
        let mut ensemble = Self {
            growth,
            shape: [shape.dense as u32, shape.active as u32, shape.classes as u32],
            poisson: Poisson::new(plan.lambda),
            columns_per_tree,
            weighted_votes: plan.weighted_votes,
            reset: plan.reset,
            random: Random::new(plan.seed, 0),
            trees: 0,
            seed: plan.seed,
            members: Vec::new(),
        };
        for _ in 0..plan.members {
            let member = Member {
                tree: ensemble.sprout(),
                successor: None,
                warning: plan.warning_delta.map(Adwin::new),
                drift: plan.drift_delta.map(Adwin::new),
                seen: 0.0,
                right: 0.0,
                replaced: 0,
            };
            ensemble.members.push(member);
        }
        ensemble
    }

    /// A new tree.
    fn sprout(&mut self) -> ClassTree {
        self.trees = self.trees.wrapping_add(1);
        let mut random = Random::new(self.seed, self.trees);
        let [dense, active, _] = self.shape;
        let shape = Shape { dense: dense as usize, active: active as usize, categories: 0, classes: 0 };
        let mut columns = all_columns(shape);
        let count = self.columns_per_tree as usize;
        if count > 0 && count < columns.len() {
            columns = self.share(&columns, count, &mut random);
        }
        ClassTree::new(shape, &self.growth, columns, random)
    }

    /// So many of the columns, chosen at random among those choices that the fewest trees look at, give or take one (so do
    /// Moa and river in the beginning). Of three columns there are only three pairs: were each pair drawn by itself, chance
    /// would leave the one that matters to one tree or to none.
    fn share(&self, columns: &[u32], count: usize, random: &mut Random) -> Vec<u32> {
        let choices =
            (0..count).fold(1.0, |choices, at| choices * (columns.len() - at) as f64 / (at + 1) as f64).round();
        // There is always a choice that no more trees look at than this, so the search ends.
        let most = (self.members.len() as f64 / choices) as usize;
        loop {
            let mut share = columns.to_vec();
            random.choose(&mut share, count);
            share.truncate(count);
            share.sort_unstable();
            if self.members.iter().filter(|member| member.tree.columns() == share).count() <= most {
                return share;
            }
        }
    }

    /// The vote of a member counts by how often it was right.
    fn voice(&self, member: &Member) -> f64 {
        if self.weighted_votes && member.seen > 0.0 { member.right / member.seen } else { 1.0 }
    }

    /// The member that errs most of late.
    fn worst(&self) -> usize {
        let error = |at: usize| self.members[at].drift.as_ref().map_or(0.0, Detector::mean);
        (1..self.members.len()).fold(0, |worst, at| if error(at) > error(worst) { at } else { worst })
    }

    /// Replaces a member by its successor, or by a new tree.
    fn replace(&mut self, at: usize) {
        let tree = match self.members[at].successor.take() {
            Some(tree) => tree,
            None => self.sprout(),
        };
        let member = &mut self.members[at];
        member.tree = tree;
        member.warning.iter_mut().chain(&mut member.drift).for_each(Detector::reset);
        (member.seen, member.right) = (0.0, 0.0);
        member.replaced = member.replaced.saturating_add(1);
    }

    /// Lets a member learn; `votes` becomes what it said before, and its voice is given back.
    fn teach(
        &mut self,
        at: usize,
        row: Row<'_>,
        (class, weight): (u32, f64),
        votes: &mut [f64],
        scratch: &mut Vec<f64>,
    ) -> f64 {
        let voice = self.voice(&self.members[at]);
        let weighted = weight * self.poisson.draw(&mut self.random);
        let member = &mut self.members[at];
        if let Some(successor) = member.successor.as_mut().filter(|_| weighted > 0.0) {
            successor.learn(&self.growth, row, (class, weighted), votes, scratch);
        }
        if weighted > 0.0 {
            member.tree.learn(&self.growth, row, (class, weighted), votes, scratch);
        } else {
            member.tree.vote(&self.growth, row, votes, scratch);
        }
        let right = best(votes) == class as usize;
        member.seen += weight;
        member.right += if right { weight } else { 0.0 };
        let error = f64::from(!right);
        let warned = member.warning.as_mut().is_some_and(|adwin| grew(adwin, error));
        let drifted = member.drift.as_mut().is_some_and(|adwin| grew(adwin, error));
        if drifted {
            self.replace(if self.reset == Reset::Own { at } else { self.worst() });
        } else if warned {
            let successor = self.sprout();
            self.members[at].successor = Some(successor);
        }
        voice
    }

    fn shape(&self) -> Shape {
        let [dense, active, classes] = self.shape.map(|length| length as usize);
        Shape { dense, active, categories: 0, classes }
    }
}

/// Adds a member's votes.
fn add(sums: &mut [f64], votes: &[f64], voice: f64) {
    for (sum, vote) in sums.iter_mut().zip(votes) {
        *sum += voice * vote;
    }
}

/// Makes probabilities of sums of votes.
fn normalise(sums: &mut [f64]) {
    let total: f64 = sums.iter().sum();
    if total > 0.0 {
        sums.iter_mut().for_each(|sum| *sum = (*sum / total).min(1.0));
    } else {
        sums.fill(1.0 / sums.len() as f64);
    }
}

impl Model for Ensemble {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        with_votes(outputs, |sums| {
            sums.fill(0.0);
            with_buffer(sums.len(), |votes| {
                for member in &self.members {
                    member.tree.vote(&self.growth, row, votes, scratch);
                    add(sums, votes, self.voice(member));
                }
            });
            normalise(sums);
        });
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let example = labelled(example, self.shape[2]);
        with_votes(outputs, |sums| {
            sums.fill(0.0);
            with_buffer(sums.len(), |votes| {
                for at in 0..self.members.len() {
                    let voice = self.teach(at, row, example, votes, scratch);
                    add(sums, votes, voice);
                }
            });
            normalise(sums);
        });
    }

    fn tensors(&self) -> Vec<Tensor> {
        let voices = self.members.iter().map(|member| self.voice(member)).collect();
        let trees = self
            .members
            .iter()
            .enumerate()
            .flat_map(|(at, member)| member.tree.tensors(&format!("trees/{at}/"), self.shape[2] as usize));
        std::iter::once(Tensor::row("voices", voices)).chain(trees).collect()
    }

    fn explain(&self, names: &Names) -> Explanation {
        let trees = self.members.iter().map(|member| member.tree.importances());
        let mut lines = vec![format!(
            "{} trees; importance: share of a column in what the splits are worth, averaged over the trees",
            self.members.len()
        )];
        lines.extend(self.members.iter().enumerate().map(|(at, member)| {
            let next =
                member.successor.as_ref().map_or(String::new(), |tree| format!(", a successor of {}", tree.size()));
            let share = if member.seen > 0.0 { 100.0 * member.right / member.seen } else { 0.0 };
            format!(
                "tree {at}: {} leaves, {share:.1} % right, replaced {} times{next}",
                member.tree.size(),
                member.replaced
            )
        }));
        Explanation { importances: report::averaged_importances(trees, names), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let classes = self.shape[2].max(2) as usize;
        let members: Vec<_> = self.members.iter().map(|member| (&member.tree, self.voice(member))).collect();
        if members.iter().all(|(_, voice)| *voice <= 0.0) {
            let even = rows.repeat(graph, &vec![1.0 / classes as f64; classes]);
            return Ok(graph.outputs(even, classes));
        }
        let sums = onnx::votes(graph, rows, self.growth.voting, classes, &members)?;
        let total = graph.reduce("ReduceSum", sums, 1, true);
        let parts = graph.divide(sums, total);
        let votes = graph.at_most(parts, 1.0);
        Ok(graph.outputs(votes, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        let own = Shape { categories: shape.categories, ..self.shape() };
        own == shape
            && !self.members.is_empty()
            && self.members.iter().all(|member| {
                member.tree.fits(shape)
                    && member.successor.as_ref().is_none_or(|tree| tree.fits(shape))
                    && member.warning.iter().chain(&member.drift).all(Detector::is_sound)
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::hoeffding_tree;
    use super::*;

    #[test]
    fn trees_share_the_choices_of_columns_evenly() {
        let tree: hoeffding_tree::Config = serde_json::from_value(json!({})).unwrap();
        for seed in 0..20 {
            for (dense, part, choices) in [(3, 0.6, 3), (4, 0.5, 6), (5, 0.8, 5)] {
                let plan = Plan {
                    growth: tree.growth(),
                    members: 10,
                    lambda: 6.0,
                    subspace: Subspace::Tree(part),
                    warning_delta: None,
                    drift_delta: None,
                    weighted_votes: true,
                    reset: Reset::Own,
                    seed,
                };
                let ensemble = Ensemble::new(Shape { dense, active: 0, categories: 0, classes: 2 }, &plan);
                let alike = |member: &Member| {
                    ensemble.members.iter().filter(|other| other.tree.columns() == member.tree.columns()).count()
                };
                let fewest = 10 / choices;
                assert!(ensemble.members.iter().all(|member| (fewest..=fewest + 1).contains(&alike(member))));
            }
        }
    }
}
