//! Streaming k-means: groups of rows around centres that move with each row.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Attribute, Expressed, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, counted};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Streaming k-means.
pub static KIND: ModelKind = Kind {
    name: "k_means",
    about: "Which of some groups a row belongs to, and how far it is from that group's centre: 0 is the first group, and a typical \
            distance of a number is 1.\n\n\
            The first rows that differ start the groups. Then each row goes to the nearest centre, which moves to the mean of its rows \
            (MacQueen, 1967); with `half_life`, of its recent rows. Columns of any scale are taken as they are: differences count in running \
            standard deviations, and a category counts by how rare it is in the group.",
    schema: schema_of::<Config>,
    example: "groups: 3\nhalf_life: 10000",
    plan,
};

/// Settings of streaming k-means.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many groups there are; from 1 to 10000. Each costs time at every row.
    groups: u32,
    /// After so many examples, one counts half; from 1 to 1000000000000. Without it, all count alike for ever.
    half_life: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { groups: 5, half_life: None }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let ranges = Ranges::default().within("groups", config.groups.into(), 1.0, 10_000.0);
    ranges.within("half_life", config.half_life.unwrap_or(1.0), 1.0, 1e12).finish()?;
    let parameters =
        serde_json::to_value(config).map_err(|error| vec![Problem::new("", "bad-value", error.to_string())])?;
    let make = move |shape| Erased::new(KMeans::new(shape, config), Task::Clustering, shape).boxed();
    Ok(Design::new(KIND.name, Task::Clustering, parameters, Arc::new(make)))
}

/// A number is at most so many standard deviations from a centre.
const FAR: f64 = 1e6;
/// A number moves means and centres as if it were at most so many standard deviations from its mean: a wild one does little harm.
const WILD: f64 = 10.0;
/// So much must have come before numbers count as wild.
const CALM: f64 = 10.0;
/// Where an example has come to count more than this, all are divided by it.
const UNIT_MAX: f64 = 1e15;
/// A column that varies by less than this share of its mean's square varies by rounding only.
const CONSTANT: f64 = 1e-29;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct KMeans {
    config: Config,
    /// How many groups have started.
    started: usize,
    /// What the next example counts: more and more, so that those before count less.
    unit: f64,
    /// What all examples count; and for each group its own.
    mass: f64,
    masses: Vec<f64>,
    /// The mean of each number, the sum of its squared differences from it, and one over its standard deviation
    /// (0 where it does not vary).
    means: Vec<f64>,
    spreads: Vec<f64>,
    factors: Vec<f64>,
    /// For each group, where its numbers are.
    centres: Vec<f64>,
    /// For each category, what its examples in each group count.
    categories: Vec<f64>,
}

impl KMeans {
    fn new(shape: Shape, config: Config) -> Self {
        let groups = config.groups as usize;
        Self {
            config,
            started: 0,
            unit: 1.0,
            mass: 0.0,
            masses: vec![0.0; groups],
            means: vec![0.0; shape.dense],
            spreads: vec![0.0; shape.dense],
            factors: vec![0.0; shape.dense],
            centres: vec![0.0; groups * shape.dense],
            categories: vec![0.0; groups * shape.categories],
        }
    }

    fn groups(&self) -> usize {
        self.masses.len()
    }

    fn centre(&self, group: usize) -> &[f64] {
        &self.centres[group * self.means.len()..][..self.means.len()]
    }

    /// The share of a group's rows that are in a category.
    #[inline]
    fn share(&self, group: usize, category: u32) -> f64 {
        (self.categories[category as usize * self.groups() + group] / self.masses[group]).clamp(0.0, 1.0)
    }

    /// The squared distance of a row from a group's centre.
    #[inline]
    fn square(&self, group: usize, row: Row<'_>) -> f64 {
        let mut square = 0.0;
        for ((x, centre), factor) in row.dense.iter().zip(self.centre(group)).zip(&self.factors) {
            let apart = ((counted(*x) - centre) * factor).clamp(-FAR, FAR);
            square += apart * apart;
        }
        square + row.active.iter().map(|category| 1.0 - self.share(group, *category)).sum::<f64>()
    }

    /// The nearest group, and its squared distance.
    #[inline]
    fn nearest(&self, row: Row<'_>) -> (usize, f64) {
        let mut best = (0, f64::INFINITY);
        for group in 0..self.started {
            let square = self.square(group, row);
            if square < best.1 {
                best = (group, square);
            }
        }
        if self.started == 0 { (0, 0.0) } else { best }
    }

    /// Whether a group that has started lies exactly where a row does.
    fn known(&self, row: Row<'_>) -> bool {
        (0..self.started).any(|group| {
            row.dense.iter().zip(self.centre(group)).all(|(x, centre)| counted(*x) == *centre)
                && row.active.iter().all(|category| self.share(group, *category) >= 1.0)
        })
    }

    /// Takes a row's numbers into the means and deviations.
    fn scale(&mut self, dense: &[f64], weight: f64) {
        let calm = self.mass > CALM * self.unit;
        self.mass += weight;
        for (at, x) in dense.iter().enumerate() {
            let mut apart = counted(*x) - self.means[at];
            if calm && self.factors[at] > 0.0 {
                let most = WILD / self.factors[at];
                apart = apart.clamp(-most, most);
            }
            self.means[at] += apart * (weight / self.mass);
            self.spreads[at] += weight * apart * (apart * (1.0 - weight / self.mass));
            let variance = self.spreads[at] / self.mass;
            let varies = variance > self.means[at] * self.means[at] * CONSTANT;
            self.factors[at] = if varies { 1.0 / variance.sqrt() } else { 0.0 };
        }
    }

    /// Moves a group's centre towards a row.
    fn pull(&mut self, group: usize, row: Row<'_>, weight: f64) {
        self.masses[group] += weight;
        let share = weight / self.masses[group];
        let numbers = self.means.len();
        let calm = self.mass > CALM * self.unit;
        for (at, centre) in self.centres[group * numbers..][..numbers].iter_mut().enumerate() {
            let mut x = counted(row.dense[at]);
            if calm && share < 1.0 && self.factors[at] > 0.0 {
                let most = WILD / self.factors[at];
                x = x.clamp(self.means[at] - most, self.means[at] + most);
            }
            *centre += (x - *centre) * share;
        }
        let groups = self.groups();
        for category in row.active {
            self.categories[*category as usize * groups + group] += weight;
        }
    }

    /// Lets all examples so far count less than the next one.
    fn fade(&mut self, half_life: f64, weight: f64) {
        self.unit *= libm::exp2((weight / half_life).min(30.0));
        if self.unit > UNIT_MAX {
            let factor = 1.0 / self.unit;
            self.unit = 1.0;
            self.mass *= factor;
            let parts = [&mut self.masses, &mut self.spreads, &mut self.categories];
            parts.into_iter().flatten().for_each(|part| *part *= factor);
            // A group that has not been seen for ages keeps its place, and moves to the next row that it gets.
            self.masses.iter_mut().take(self.started).for_each(|mass| *mass = mass.max(f64::MIN_POSITIVE));
        }
    }
}

impl Model for KMeans {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], _: &mut Vec<f64>) {
        let (group, square) = self.nearest(row);
        outputs[0] = group as f64;
        outputs[1] = square.sqrt();
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], _: &mut Vec<f64>) {
        let (group, square) = self.nearest(row);
        outputs[0] = group as f64;
        outputs[1] = square.sqrt();
        let weight = self.unit * example.weight.clamp(1e-12, 1e12);
        let starts = self.started < self.groups() && !self.known(row);
        self.scale(row.dense, weight);
        if starts {
            self.started += 1;
            self.pull(self.started - 1, row, weight);
        } else {
            self.pull(group, row, weight);
        }
        if let Some(half_life) = self.config.half_life {
            self.fade(half_life, example.weight);
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let categories = self.categories.len() / self.groups();
        vec![
            Tensor::table("centres", self.groups(), self.centres.clone()),
            Tensor::row("factors", self.factors.clone()),
            Tensor::row("masses", self.masses.clone()),
            Tensor::table("categories", categories, self.categories.clone()),
            Tensor::row("started", vec![self.started as f64]),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let all: f64 = self.masses.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let name = |at: usize| names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}"));
        let apart = |group: usize, at: usize| (self.centre(group)[at] - self.means[at]) * self.factors[at];
        let between = |at: usize| {
            let of = |group: usize| self.masses[group] / all * apart(group, at).powi(2);
            (0..self.started).map(of).sum::<f64>()
        };
        let mut importances: Vec<(String, f64)> = (0..self.means.len()).map(|at| (name(at), between(at))).collect();
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut lines =
            vec!["centres of the groups; importance: share of the variance that lies between groups".to_owned()];
        for group in 0..self.started {
            let mut order: Vec<usize> = (0..self.means.len()).collect();
            order.sort_by(|a, b| apart(group, *b).abs().total_cmp(&apart(group, *a).abs()));
            let numbers = order.iter().map(|at| format!("  {} {:.6}", name(*at), self.centre(group)[*at]));
            let categories = self.categories.len() / self.groups();
            let usual = (0..categories as u32).filter(|category| self.share(group, *category) > 0.5);
            let usual = usual.map(|category| format!("  {}", names.category(category)));
            let share = 100.0 * self.masses[group] / all;
            lines.push(format!("group {group}, {share:.2} %:{}", numbers.chain(usual).collect::<String>()));
        }
        Explanation { importances, lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.started == 0 {
            return Ok(rows.repeat(graph, &[0.0, 0.0]));
        }
        let (groups, dense) = (self.started, rows.shape.dense);
        let rare = |cell: usize| 1.0 - self.share(cell % groups, (cell / groups) as u32);
        let categories: Vec<f64> = (0..rows.shape.categories * groups).map(rare).collect();
        let mut squares = rows.sums(graph, None, &[], &categories, &vec![0.0; groups]);
        if let Some(apart) = rows.apart(graph, COUNTED_MAX, &self.centres[..groups * dense]) {
            let apart = rows.times(graph, apart, &self.factors);
            let apart = graph.clamp(apart, -FAR, FAR);
            let of_numbers = graph.reduce("ReduceSumSquare", apart, 2, false);
            squares = graph.add(squares, of_numbers);
        }
        let nearest = graph.apply_with("ArgMin", &[squares], vec![Attribute::int("axis", 1)]);
        let group = graph.as_doubles(nearest);
        let square = graph.reduce("ReduceMin", squares, 1, true);
        let distance = graph.apply("Sqrt", &[square]);
        Ok(graph.beside(&[group, distance]))
    }

    fn fits(&self, shape: Shape) -> bool {
        let groups = self.config.groups as usize;
        let numbers = |numbers: &[f64], len: usize| numbers.len() == len && numbers.iter().all(|x| x.is_finite());
        groups > 0
            && self.started <= groups
            && numbers(&self.masses, groups)
            && self.masses.iter().take(self.started).all(|mass| *mass > 0.0)
            && [&self.means, &self.spreads, &self.factors].into_iter().all(|values| numbers(values, shape.dense))
            && shape.dense.checked_mul(groups).is_some_and(|len| numbers(&self.centres, len))
            && shape.categories.checked_mul(groups).is_some_and(|len| numbers(&self.categories, len))
            && self.unit > 0.0
            && self.unit.is_finite()
            && self.mass.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    const SHAPE: Shape = Shape { dense: 2, active: 0, categories: 0, classes: 0 };

    /// A row of one of three far groups, in columns of very different scales.
    fn row(random: &mut Random, group: usize) -> [f64; 2] {
        let middle = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]][group];
        [1e6 * (middle[0] + random.normal()), 2000.0 + 1e-3 * (middle[1] + random.normal())]
    }

    #[test]
    fn far_groups_are_told_apart() {
        let mut random = Random::seeded(10);
        let mut pupil = Pupil::new(&json!({"k_means": {"groups": 3}}), SHAPE);
        let mut groups = [[0; 3]; 3];
        for at in 0..3000 {
            let group = at % 3;
            let x = row(&mut random, group);
            let found = pupil.learn(&x, &[], 0.0) as usize;
            if at >= 1000 {
                groups[group][found] += 1;
            }
        }
        let most: usize = groups.iter().map(|counts| counts.iter().max().expect("three")).sum();
        assert!(most > 1950, "{groups:?}");
        // The centres are the means.
        let centres = pupil.tensor("centres");
        assert!((centres[2] / 1e6 - 10.0).abs() < 0.2 || (centres[0] / 1e6 - 10.0).abs() < 0.2, "{centres:?}");
    }

    #[test]
    fn with_a_half_life_centres_follow() {
        for (half_life, follows) in [(json!(100), true), (json!(null), false)] {
            let mut random = Random::seeded(11);
            let mut pupil = Pupil::new(&json!({"k_means": {"groups": 1, "half_life": half_life}}), SHAPE);
            (0..20_000).for_each(|_| {
                pupil.learn(&row(&mut random, 0), &[], 0.0);
            });
            (0..1000).for_each(|_| {
                pupil.learn(&row(&mut random, 1), &[], 0.0);
            });
            let centre = pupil.tensor("centres")[0] / 1e6;
            assert_eq!(centre > 9.0, follows, "{centre}");
        }
    }

    #[test]
    fn a_wild_row_does_not_capture_the_scale() {
        let mut random = Random::seeded(12);
        let mut pupil = Pupil::new(&json!({"k_means": {"groups": 3}}), SHAPE);
        (0..900).for_each(|at| {
            pupil.learn(&row(&mut random, at % 3), &[], 0.0);
        });
        pupil.learn(&[f64::MAX, f64::MIN], &[], 0.0);
        let groups = [0, 1, 2].map(|group| pupil.predict(&row(&mut random, group), &[]));
        assert!(groups[0] != groups[1] && groups[1] != groups[2] && groups[0] != groups[2], "{groups:?}");
    }
}
