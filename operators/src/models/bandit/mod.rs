//! Contextual bandits: which action promises most for a row, and how much to try others.
//!
//! Each action has a ridge regression of its reward on the row ("disjoint" linear models); how actions are chosen by
//! what is estimated is the learner's own: a [`Policy`].

mod contexts;
mod ridge;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, Problem, Problems};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::learner::Erased;
use super::onnx::{Edge, Expressed, Graph, Rows};
use super::spread::Spread;
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, TARGET_MAX, Task, Tensor};
use contexts::Contexts;
use ridge::Ridge;

/// How many actions there may be.
pub(super) const ACTIONS_MAX: usize = 100;

/// An example counts at most so often.
pub(super) const WEIGHT_MAX: f64 = 1e50;

/// A logged probability counts as not less than this, so that a single example does not decide everything.
const PROPENSITY_MIN: f64 = 0.01;

/// What all bandits' documentation ends with.
macro_rules! about_contexts {
    () => {
        "\n\nEach action has a linear (ridge) regression of its reward, on numbers as deviations from their means so far, and on categories. \
         An action of which nothing is known is expected to earn what the average one does. Rewards may be of any scale. \
         There may be 100 actions. Numbers beyond 64, and categories beyond 64, share 64 places by chance; \
         the work for each row and action grows with the square of the number of places."
    };
}
pub(super) use about_contexts;

/// How actions are chosen.
pub(super) trait Policy: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Whether [`Policy::choose`] looks at how well estimates are known.
    const DEVIATIONS: bool;

    /// What estimates are pulled with towards the average reward.
    fn ridge(&self) -> f64;

    /// Whether rare actions count more in return.
    fn inverse_propensity(&self) -> bool;

    /// Whether the settings are in their ranges.
    fn is_sound(&self) -> bool;

    /// Gives the probability of each action, by what each is estimated to earn, and the deviations of these estimates.
    /// `examples` have been learned.
    fn choose(&self, examples: u64, estimates: &[f64], deviations: &[f64], outputs: &mut [f64]);

    /// The same in an ONNX graph, where estimates are `[rows, actions]`, and so are deviations if there are any.
    fn onnx(&self, graph: &mut Graph, examples: u64, actions: usize, estimates: Edge, deviations: Edge) -> Edge;
}

/// Checks `ridge`, and what else there is: names, values and ranges.
pub(super) fn check(ranges: &[(&str, f64, f64, f64)]) -> Planned<()> {
    let mut problems = Problems::default();
    for (path, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {low} and {high}")));
        }
    }
    problems.finish()
}

/// A design, of checked settings.
pub(super) fn design<P: Policy>(kind: &ModelKind, policy: P) -> Design {
    let parameters = serde_json::to_value(&policy).expect("numbers can be written");
    let make = move |shape| Erased::new(Bandit::new(policy.clone(), shape), Task::Choice, shape).boxed();
    Design { classes_max: ACTIONS_MAX, ..Design::new(kind.name, Task::Choice, parameters, Arc::new(make)) }
}

/// Gives the probability 1 to the largest value, or shares it among equals.
pub(super) fn best(values: &[f64], outputs: &mut [f64]) {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let share = 1.0 / values.iter().filter(|value| **value >= most).count().max(1) as f64;
    outputs.iter_mut().zip(values).for_each(|(output, value)| *output = if *value >= most { share } else { 0.0 });
}

/// A contextual bandit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
struct Bandit<P: Policy> {
    policy: P,
    contexts: Contexts,
    actions: Vec<Action>,
    /// Of all rewards.
    rewards: Spread,
    examples: u64,
    /// Weights and weighted rewards by which is told what this bandit would have earned: see [`Bandit::earnings`].
    matched: f64,
    earned: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Action {
    ridge: Ridge,
    rewards: Spread,
    taken: f64,
}

impl<P: Policy> Bandit<P> {
    fn new(policy: P, shape: Shape) -> Self {
        let contexts = Contexts::new(shape);
        let ridge = Ridge::new(contexts.len(), policy.ridge());
        let action = Action { ridge, rewards: Spread::default(), taken: 0.0 };
        let actions = vec![action; shape.classes];
        Self { policy, contexts, actions, rewards: Spread::default(), examples: 0, matched: 0.0, earned: 0.0 }
    }

    /// The unit of rewards: their deviation. While they were all the same, any is right.
    fn unit(&self) -> f64 {
        let deviation = self.rewards.deviation();
        if deviation > 0.0 { deviation } else { 1.0 }
    }

    /// Gives the probabilities, and leaves the row's vector at the front of `scratch`.
    #[inline]
    fn choose(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let (len, actions) = (self.contexts.len(), self.actions.len());
        scratch.resize(2 * len + 2 * actions, 0.0);
        let (vector, rest) = scratch.split_at_mut(len);
        let (work, rest) = rest.split_at_mut(len);
        let (estimates, deviations) = rest.split_at_mut(actions);
        self.contexts.vector(row, vector);
        let (assumed, unit) = (self.policy.ridge() * self.rewards.mean, self.unit());
        for ((action, estimate), deviation) in self.actions.iter().zip(&mut *estimates).zip(&mut deviations[..actions])
        {
            *estimate = action.ridge.estimate(vector, assumed);
            if P::DEVIATIONS {
                work.copy_from_slice(vector);
                *deviation = unit * action.ridge.variance(work).sqrt();
            }
        }
        self.policy.choose(self.examples, estimates, &deviations[..actions], outputs);
    }

    /// What this bandit would have earned by row, as far as its choices and the logged ones agreed: the self-normalised
    /// inverse propensity estimate (Swaminathan and Joachims 2015). None before any did.
    fn earnings(&self) -> Option<f64> {
        (self.matched > 0.0).then(|| self.earned / self.matched)
    }
}

impl<P: Policy> Model for Bandit<P> {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.choose(row, outputs, scratch);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.choose(row, outputs, scratch);
        let weight = example.weight.min(WEIGHT_MAX);
        let reward = example.target.clamp(-TARGET_MAX, TARGET_MAX);
        let propensity = example.propensity.clamp(PROPENSITY_MIN, 1.0);
        let Some(action) = self.actions.get_mut(example.action as usize) else { return };
        let matched = weight * outputs[example.action as usize] / propensity;
        self.matched += matched;
        self.earned += matched * reward;
        let counts = if self.policy.inverse_propensity() { weight / propensity } else { weight };
        let len = self.contexts.len();
        action.ridge.learn(&mut scratch[..len], reward, counts);
        action.rewards.add(reward, weight);
        action.taken += weight;
        self.rewards.add(reward, weight);
        self.contexts.learn(row, weight);
        self.examples += 1;
    }

    fn tensors(&self) -> Vec<Tensor> {
        let ridges = self.actions.iter().map(|action| &action.ridge);
        let (rows, assumed) = (self.actions.len(), self.policy.ridge() * self.rewards.mean);
        let weights = ridges.flat_map(|ridge| {
            ridge.weights.iter().zip(&ridge.prior).map(move |(weight, prior)| weight + assumed * prior)
        });
        vec![
            Tensor::table("weights", rows, weights.collect()),
            Tensor::row("means", self.contexts.means()),
            Tensor::row("deviations", self.contexts.deviations()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let tensors = self.tensors();
        let (weights, len) = (&tensors[0].values, self.contexts.len());
        // How differently the actions are paid for a coordinate.
        let spread = |at: usize| {
            let column = || weights.iter().skip(at).step_by(len).copied();
            if self.actions.is_empty() {
                0.0
            } else {
                column().fold(f64::MIN, f64::max) - column().fold(f64::MAX, f64::min)
            }
        };
        let numbers = names.dense.iter().take(self.contexts.means().len()).enumerate();
        let numbers = numbers.map(|(at, name)| (name.clone(), spread(self.contexts.number(at).0)));
        let first_of_next =
            names.categories.iter().skip(1).map(|(_, first)| *first).chain([self.contexts.categories()]);
        let categories = names.categories.iter().zip(first_of_next).map(|((name, first), next)| {
            let most =
                (*first..next).take(1000).map(|category| spread(self.contexts.category(category))).fold(0.0, f64::max);
            (name.clone(), most)
        });
        let mut importances: Vec<_> = numbers.chain(categories).collect();
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut lines = vec![
            "importance: how far the actions' weights differ, in rewards per standard deviation of a number, or for a category".to_owned(),
        ];
        for (at, action) in self.actions.iter().enumerate() {
            let name = names.action(at);
            lines.push(format!("{name}: taken {} times, mean reward {:.6}", action.taken, action.rewards.mean));
        }
        if let Some(earnings) = self.earnings() {
            let logged = self.rewards.mean;
            lines.push(format!("this policy by itself: {earnings:.6} per row (self-normalised inverse propensity); the logged one: {logged:.6}"));
        }
        Explanation { importances, lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let (len, actions) = (self.contexts.len(), self.actions.len());
        let assumed = self.policy.ridge() * self.rewards.mean;
        let rows = self.contexts.onnx(graph, rows);
        let ends = |width: usize| (width, (1 + rows.shape.dense) * width);
        let weight = |cell: usize| {
            let ridge = &self.actions[cell % actions].ridge;
            ridge.weights[cell / actions] + assumed * ridge.prior[cell / actions]
        };
        let weights: Vec<f64> = (0..len * actions).map(weight).collect();
        let (first, last) = ends(actions);
        let estimates = rows.sums(graph, rows.numbers, &weights[first..last], &weights[last..], &weights[..first]);
        let deviations = if P::DEVIATIONS {
            let (first, last) = ends(len);
            let each: Vec<Edge> = (self.actions.iter())
                .map(|action| {
                    let solved: Vec<f64> = action.ridge.solved().collect();
                    let sums = rows.sums(graph, rows.numbers, &solved[first..last], &solved[last..], &solved[..first]);
                    let variance = graph.reduce("ReduceSumSquare", sums, 1, true);
                    let deviation = graph.apply("Sqrt", &[variance]);
                    graph.scale(deviation, self.unit())
                })
                .collect();
            graph.beside(&each)
        } else {
            graph.scalar(0.0)
        };
        Ok(self.policy.onnx(graph, self.examples, actions, estimates, deviations))
    }

    fn fits(&self, shape: Shape) -> bool {
        let len = Contexts::new(shape).len();
        let sums = [self.matched, self.earned].iter().all(|sum| sum.is_finite());
        let sound = |action: &Action| action.ridge.fits(len) && action.rewards.is_sound() && action.taken >= 0.0;
        sums && self.policy.is_sound()
            && self.contexts.fits(shape)
            && self.actions.len() == shape.classes
            && self.rewards.is_sound()
            && self.actions.iter().all(sound)
    }
}
