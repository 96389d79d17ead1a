//! Half-space trees: how unusual a row is, by how few rows lay near it lately.
//!
//! Tan, Ting and Liu, "Fast Anomaly Detection for Streaming Data" (IJCAI 2011). Each tree halves the space of the rows again and
//! again, each time along a column drawn by chance, without looking at any row. What is learned is only how many rows
//! of the last window fell into each part.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::random::Random;
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Half-space trees.
pub static KIND: ModelKind = Kind {
    name: "half_space_trees",
    about: "How unusual a row is, from 0 to 1: few rows of the last window lay near it.\n\n\
            Half-space trees (Tan, Ting, Liu 2011). Each tree halves the space of the rows along columns drawn by chance, and counts how many rows of \
            a window fell into each part. Rows are judged by the counts of the last complete window; until there is one, each gives 0. \
            The score is 1 / (1 + d), where d is the density of the rows around: 1, and so a score of 0.5, where they lie as dense as if they were \
            spread evenly over the space; the emptier it is around a row, the nearer its score is to 1. \
            Columns of numbers are put between their smallest and largest values so far. Categories have a place by chance, another one in each tree. \
            Finds single odd rows; a crowd of them that fills a window becomes usual.",
    schema: schema_of::<Config>,
    example: "trees: 20\nwindow: 500",
    plan,
};

/// Settings of half-space trees.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many trees there are, from 1 to 1000. More give smoother scores, and cost time and memory in proportion.
    trees: u32,
    /// How often each tree halves the space, from 1 to 15. Each one more doubles the memory.
    height: u32,
    /// How many rows a window has, from 2 to 1,000,000: how far back the past goes that rows are compared with.
    window: u32,
    /// What the columns of the halvings are drawn by.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { trees: 10, height: 8, window: 250, seed: 0 }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        let ranges = [("trees", self.trees, 1, 1000), ("height", self.height, 1, 15), ("window", self.window, 2, 1_000_000)];
        for (path, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {low} and {high}")));
            }
        }
        problems.finish()
    }

    /// How many parts of the space a tree knows, the whole and its halves included.
    fn parts(&self) -> usize {
        (2 << self.height) - 1
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    config.check()?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make = move |shape| Erased::new(HalfSpaceTrees::new(config, shape), Task::Anomaly, shape).boxed();
    Ok(Design::new(KIND.name, Task::Anomaly, parameters, Arc::new(make)))
}

/// Where a part of the space is halved.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Numbers first, then columns of categories.
    column: u32,
    /// Where, for a column whose values are in [0, 1].
    at: f32,
}

/// How many rows fell into a part of the space.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Mass {
    /// In the last complete window.
    reference: f32,
    /// In the present one.
    latest: f32,
}

/// The model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub(super) struct HalfSpaceTrees {
    stored: Stored,
    /// Tree after tree; the halves of part `n` are `2n + 1` and `2n + 2`.
    cuts: Arc<[Cut]>,
}

/// What is stored: the cuts follow from it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Stored {
    config: Config,
    /// How many columns of categories there are.
    active: u32,
    /// The smallest and the largest of each number so far; the wrong way around before the first row.
    limits: Vec<(f64, f64)>,
    /// How many rows the present window has.
    filled: f64,
    /// Whether there is a complete window.
    judges: bool,
    masses: Vec<Mass>,
}

impl TryFrom<Stored> for HalfSpaceTrees {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let config = stored.config;
        if config.check().is_err() || stored.masses.len() != config.trees as usize * config.parts() {
            return Err("the counts are not those of the trees");
        }
        let columns = stored.limits.len() + stored.active as usize;
        let cuts = (0..config.trees).flat_map(|tree| cuts(config, columns, tree)).collect();
        Ok(Self { stored, cuts })
    }
}

impl From<HalfSpaceTrees> for Stored {
    fn from(model: HalfSpaceTrees) -> Self {
        model.stored
    }
}

/// The cuts of a tree: of a space in which each column has [0, 1] somewhere in the middle (the paper's work range), in halves, always along
/// a column drawn by chance.
fn cuts(config: Config, columns: usize, tree: u32) -> Vec<Cut> {
    let count = (1 << config.height) - 1;
    if columns == 0 {
        return vec![Cut { column: 0, at: 0.0 }; count];
    }
    let mut random = Random::new(config.seed, u64::from(tree));
    let whole: Vec<(f64, f64)> = (0..columns)
        .map(|_| {
            let middle = random.uniform();
            let reach = 2.0 * middle.max(1.0 - middle);
            (middle - reach, middle + reach)
        })
        .collect();
    let columns: Vec<usize> = (0..count).map(|_| random.below(columns)).collect();
    // Where a part lies in a column: as its parents were halved, from the whole downwards.
    let side = |part: usize, column: usize| {
        let depth = (part + 1).ilog2();
        (1..=depth).fold(whole[column], |(low, high), step| {
            let (above, below) = ((part + 1) >> (depth - step + 1), (part + 1) >> (depth - step));
            match columns[above - 1] == column {
                false => (low, high),
                true if below.is_multiple_of(2) => (low, f64::midpoint(low, high)),
                true => (f64::midpoint(low, high), high),
            }
        })
    };
    let cut = |part: usize| {
        let (low, high) = side(part, columns[part]);
        Cut { column: columns[part] as u32, at: f64::midpoint(low, high) as f32 }
    };
    (0..count).map(cut).collect()
}

impl HalfSpaceTrees {
    fn new(config: Config, shape: Shape) -> Self {
        let masses = vec![Mass::default(); config.trees as usize * config.parts()];
        let limits = vec![(f64::MAX, f64::MIN); shape.dense];
        let stored = Stored { config, active: shape.active as u32, limits, filled: 0.0, judges: false, masses };
        Self::try_from(stored).expect("it has been made to fit")
    }

    /// Puts the numbers between their limits: what was seen so far is in [0, 1], and what goes beyond is not.
    #[inline]
    fn place(&self, row: Row<'_>, places: &mut Vec<f64>) {
        places.clear();
        places.extend(row.dense.iter().zip(&self.stored.limits).map(|(x, (low, high))| {
            // Halves, so that differences of the largest numbers are finite.
            let (above, range) = (0.5 * x - 0.5 * low, 0.5 * high - 0.5 * low);
            if range > 0.0 {
                above / range
            } else if x == low {
                0.5
            } else {
                f64::INFINITY.copysign(above)
            }
        }));
    }

    /// Widens the limits to the row's numbers; true if any went beyond.
    #[inline]
    fn widen(&mut self, dense: &[f64]) -> bool {
        let mut widened = false;
        for ((low, high), x) in self.stored.limits.iter_mut().zip(dense) {
            widened |= *x < *low || *x > *high;
            (*low, *high) = (low.min(*x), high.max(*x));
        }
        widened
    }

    /// The halves' index below part `part` of a tree.
    #[inline]
    fn below(&self, cuts: &[Cut], part: usize, tree: usize, places: &[f64], active: &[u32]) -> usize {
        let cut = cuts[part];
        let place = match places.get(cut.column as usize) {
            Some(place) => *place,
            None => match active.get(cut.column as usize - places.len()) {
                Some(category) => chance(self.stored.config.seed, tree, *category),
                None => 0.0,
            },
        };
        2 * part + 1 + usize::from(place >= f64::from(cut.at))
    }

    /// How dense the rows lay around this one, on average over the trees: 1 if they were spread evenly.
    /// The way down ends where so few rows are left that they say nothing more.
    #[inline]
    fn density(&self, places: &[f64], active: &[u32]) -> f64 {
        let Config { height, window, .. } = self.stored.config;
        let few = 0.1 * window as f32;
        let (cuts, parts) = ((1 << height) - 1, self.stored.config.parts());
        let trees = self.cuts.chunks_exact(cuts).zip(self.stored.masses.chunks_exact(parts)).enumerate();
        let sum: f64 = trees
            .map(|(tree, (cuts, masses))| {
                let (mut part, mut volume) = (0, 1.0);
                for _ in 0..height {
                    if masses[part].reference < few {
                        break;
                    }
                    part = self.below(cuts, part, tree, places, active);
                    volume *= 2.0;
                }
                f64::from(masses[part].reference) * volume
            })
            .sum();
        sum / (f64::from(self.stored.config.trees) * f64::from(window))
    }

    /// Counts a row.
    #[inline]
    fn count(&mut self, places: &[f64], active: &[u32], weight: f64) {
        let Config { height, trees, .. } = self.stored.config;
        let (count, parts) = ((1 << height) - 1, self.stored.config.parts());
        let cuts = self.cuts.clone();
        for tree in 0..trees as usize {
            let cuts = &cuts[tree * count..][..count];
            let mut part = 0;
            for _ in 0..height {
                self.stored.masses[tree * parts + part].latest += weight as f32;
                part = self.below(cuts, part, tree, places, active);
            }
            self.stored.masses[tree * parts + part].latest += weight as f32;
        }
        self.stored.filled += weight;
    }

    /// The present window is complete: the next rows are judged by it.
    fn turn(&mut self) {
        for mass in &mut self.stored.masses {
            *mass = Mass { reference: mass.latest, latest: 0.0 };
        }
        self.stored.filled = 0.0;
        self.stored.judges = true;
    }

    #[inline]
    fn score(&self, row: Row<'_>, places: &mut Vec<f64>) -> f64 {
        self.place(row, places);
        if self.stored.judges { 1.0 / (1.0 + self.density(places, row.active)) } else { 0.0 }
    }
}

/// Where a category lies in a tree: in [0, 1).
#[inline]
fn chance(seed: u64, tree: usize, category: u32) -> f64 {
    Random::new(seed ^ u64::from(category) << 32, tree as u64).uniform()
}

impl Model for HalfSpaceTrees {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.score(row, scratch);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.score(row, scratch);
        if self.widen(row.dense) {
            self.place(row, scratch);
        }
        let window = f64::from(self.stored.config.window);
        let mut left = example.weight;
        while left >= window - self.stored.filled {
            let part = window - self.stored.filled;
            // What is left after whole windows of nothing but this row is all that counts of them.
            left = if left - part >= window { window + (left - part) % window } else { left - part };
            self.count(scratch, row.active, part);
            self.turn();
        }
        if left > 0.0 {
            self.count(scratch, row.active, left);
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let trees = self.stored.config.trees as usize;
        let (low, high) = self.stored.limits.iter().copied().unzip();
        let columns = self.cuts.iter().map(|cut| f64::from(cut.column)).collect();
        let thresholds = self.cuts.iter().map(|cut| f64::from(cut.at)).collect();
        let counts = self.stored.masses.iter().map(|mass| f64::from(mass.reference)).collect();
        vec![
            Tensor::row("low", low),
            Tensor::row("high", high),
            Tensor::table("columns", trees, columns),
            Tensor::table("thresholds", trees, thresholds),
            Tensor::table("counts", trees, counts),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let Config { trees, height, window, .. } = self.stored.config;
        let columns = names.dense.iter().chain(names.categories.iter().map(|(name, _)| name));
        let mut importances: Vec<(String, f64)> = columns.map(|name| (name.clone(), 0.0)).collect();
        let (count, parts, mut all) = ((1 << height) - 1, self.stored.config.parts(), f64::MIN_POSITIVE);
        for (at, cut) in self.cuts.iter().enumerate() {
            let (tree, part) = (at / count * parts, at % count);
            let rows = |half: usize| f64::from(self.stored.masses[tree + 2 * part + half].reference);
            let difference = (rows(1) - rows(2)).abs();
            all += difference;
            if let Some((_, sum)) = importances.get_mut(cut.column as usize) {
                *sum += difference;
            }
        }
        importances.iter_mut().for_each(|(_, sum)| *sum /= all);
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut lines = vec![format!(
            "{trees} trees of height {height} over windows of {window} rows; importance: share in how unevenly the halvings divide the rows"
        )];
        if !self.stored.judges {
            lines.push(format!("judges nothing yet: {} rows of the first window", self.stored.filled));
        }
        let limits = names.dense.iter().zip(&self.stored.limits).filter(|(_, (low, high))| low <= high);
        lines.extend(limits.map(|(name, (low, high))| format!("{name} from {low} to {high}")));
        Explanation { importances, lines }
    }

    fn fits(&self, shape: Shape) -> bool {
        let Stored { config, active, limits, filled, masses, .. } = &self.stored;
        let right = |mass: &Mass| [mass.reference, mass.latest].iter().all(|mass| (0.0..=2e6).contains(mass));
        limits.len() == shape.dense
            && *active as usize == shape.active
            && limits.iter().all(|(low, high)| low.is_finite() && high.is_finite())
            && (0.0..f64::from(config.window)).contains(filled)
            && masses.iter().all(right)
    }
}

#[cfg(test)]
mod lab {
    use super::super::samples::Pupil;
    use super::*;
    fn auc(mut scored: Vec<(f64, bool)>) -> f64 {
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut rank, mut sum, mut at) = (0.0, 0.0, 0);
        let (pos, neg) = (scored.iter().filter(|s| s.1).count() as f64, scored.iter().filter(|s| !s.1).count() as f64);
        while at < scored.len() {
            let end = at + scored[at..].iter().take_while(|s| s.0 == scored[at].0).count();
            let p = scored[at..end].iter().filter(|s| s.1).count() as f64;
            let n = (end - at) as f64 - p;
            sum += p * (rank + n / 2.0);
            rank += n;
            at = end;
        }
        sum / pos / neg
    }
    #[test]
    #[ignore]
    fn shuttle() {
        let text = std::fs::read_to_string("/work/lab/h4/shuttle.csv").unwrap();
        let rows: Vec<Vec<f64>> = text.lines().skip(1).map(|l| l.split(',').map(|x| x.parse().unwrap()).collect()).collect();
        let kind = std::env::var("KIND").unwrap_or("half_space_trees".into());
        for seed in 0..std::env::var("SEEDS").map_or(5, |s| s.parse().unwrap()) {
            let mut config = serde_json::json!({"seed": seed});
            if let Ok(more) = std::env::var("MORE") { let m: Value = serde_json::from_str(&more).unwrap(); for (k, v) in m.as_object().unwrap() { config[k] = v.clone(); } }
            let mut pupil = Pupil::new(&serde_json::json!({&kind: config}), Shape { dense: 9, active: 0, categories: 0, classes: 0 });
            let start = std::time::Instant::now();
            let scored: Vec<_> = rows.iter().map(|r| (pupil.learn(&r[..9], &[], 0.0), r[9] > 0.5)).collect();
            let ns = start.elapsed().as_nanos() as f64 / rows.len() as f64;
            let mean = |odd: bool| { let s: Vec<f64> = scored.iter().filter(|s| s.1 == odd).map(|s| s.0).collect(); s.iter().sum::<f64>() / s.len() as f64 };
            println!("seed {seed}: usual {:.3} odd {:.3} auc {:.4}, {ns:.0} ns, {} bytes", mean(false), mean(true), auc(scored.clone()), pupil.learner.snapshot().len());
        }
    }
}
