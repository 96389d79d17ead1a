//! Half-space trees: how unusual a row is, by how few rows lay near it lately.
//!
//! Tan, Ting and Liu, "Fast Anomaly Detection for Streaming Data" (IJCAI 2011). Each tree halves the space of the rows again and
//! again, each time along a column drawn by chance, without looking at any row. What is learned is only how many rows
//! of the last window fell into each part.

mod onnx;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::random::Random;
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Half-space trees.
pub static KIND: ModelKind = Kind {
    name: "half_space_trees",
    about: "How unusual a row is, from 0 to 1: few rows of the last window lay near it.\n\n\
            Half-space trees (Tan, Ting, Liu 2011). Each tree halves the space of the rows along columns drawn by chance, and counts how many rows of \
            a window fell into each part. Rows are judged by the counts of the last complete window; until there is one, each gives 0. \
            The score is the logarithm of the density of rows around (a mean over the trees), put between 0, where all rows of the window lie in the smallest part \
            with this one, and 1, where none does. Columns of numbers are measured between their smallest and largest values in the window before, \
            so a wild value blurs them no longer than that. Categories have a place by chance, another one in each tree. \
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
        let ranges =
            [("trees", self.trees, 1, 1000), ("height", self.height, 1, 15), ("window", self.window, 2, 1_000_000)];
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

/// The smallest and the largest of some numbers; the wrong way around where there are none.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Limits {
    low: f64,
    high: f64,
}

impl Limits {
    const NONE: Self = Self { low: f64::MAX, high: f64::MIN };

    #[inline]
    fn widen(&mut self, x: f64) {
        (self.low, self.high) = (self.low.min(x), self.high.max(x));
    }

    /// Where a number is: what is within the limits is in [0, 1], what is beyond them is not.
    #[inline]
    fn place(self, x: f64) -> f64 {
        // Halves, so that differences of the largest numbers are finite.
        let (above, range) = (0.5 * x - 0.5 * self.low, 0.5 * self.high - 0.5 * self.low);
        if range > 0.0 {
            above / range
        } else if x == self.low {
            0.5
        } else {
            f64::INFINITY.copysign(above)
        }
    }
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
    /// Between what each number is measured where rows are judged.
    reference: Vec<Limits>,
    /// Between what it is measured where rows are counted: its limits in the window before, or in the first window those so far.
    latest: Vec<Limits>,
    /// The limits in the present window.
    present: Vec<Limits>,
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
        let columns = stored.present.len() + stored.active as usize;
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
        let present = vec![Limits::NONE; shape.dense];
        let (reference, latest, active) = (present.clone(), present.clone(), shape.active as u32);
        let stored = Stored { config, active, reference, latest, present, filled: 0.0, judges: false, masses };
        Self::try_from(stored).expect("it has been made to fit")
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

    /// How rare such a row is, from 0 to 1. The way down a tree ends where so few rows are left that they say nothing more.
    #[inline]
    fn rarity(&self, places: &[f64], active: &[u32]) -> f64 {
        let Config { height, window, trees, .. } = self.stored.config;
        let few = 0.1 * window as f32;
        let (cuts, parts) = ((1 << height) - 1, self.stored.config.parts());
        // The logarithm of the product of the densities, in parts that neither overflow nor vanish.
        let (mut logarithm, mut product, mut depths) = (0.0, 1.0, 0);
        for tree in 0..trees as usize {
            let (cuts, masses) = (&self.cuts[tree * cuts..][..cuts], &self.stored.masses[tree * parts..][..parts]);
            let (mut part, mut depth) = (0, 0);
            while depth < height && masses[part].reference >= few {
                part = self.below(cuts, part, tree, places, active);
                depth += 1;
            }
            // Half a row more, for there is no logarithm of none.
            product *= f64::from(masses[part].reference) + 0.5;
            depths += depth;
            if tree % 16 == 15 {
                logarithm += libm::log2(product);
                product = 1.0;
            }
        }
        logarithm += libm::log2(product) + f64::from(depths);
        let (all, none) = (libm::log2(f64::from(window)) + f64::from(height), -1.0);
        ((all - logarithm / f64::from(trees)) / (all - none)).clamp(0.0, 1.0)
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
        let stored = &mut self.stored;
        stored.filled = 0.0;
        stored.judges = true;
        std::mem::swap(&mut stored.reference, &mut stored.latest);
        std::mem::swap(&mut stored.latest, &mut stored.present);
        stored.present.fill(Limits::NONE);
    }

    #[inline]
    fn score(&self, row: Row<'_>, places: &mut Vec<f64>) -> f64 {
        if !self.stored.judges {
            return 0.0;
        }
        place(&self.stored.reference, row.dense, places);
        self.rarity(places, row.active)
    }

    /// Counts a row of the present window, and begins the next window where this one is full.
    #[inline]
    fn add(&mut self, row: Row<'_>, weight: f64, places: &mut Vec<f64>) {
        let stored = &mut self.stored;
        stored.present.iter_mut().zip(row.dense).for_each(|(limits, x)| limits.widen(*x));
        if !stored.judges {
            stored.latest.clone_from(&stored.present);
        }
        place(&stored.latest, row.dense, places);
        self.count(places, row.active, weight);
        if self.stored.filled >= f64::from(self.stored.config.window) {
            self.turn();
        }
    }
}

/// Where each number is between its limits.
#[inline]
fn place(limits: &[Limits], dense: &[f64], places: &mut Vec<f64>) {
    places.clear();
    places.extend(limits.iter().zip(dense).map(|(limits, x)| limits.place(*x)));
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
        let window = f64::from(self.stored.config.window);
        let mut left = example.weight;
        if left >= 6.0 * window {
            // From the third on, whole windows of nothing but this row are all alike.
            left = 5.0 * window + left % window;
        }
        while left > 0.0 {
            let part = left.min(window - self.stored.filled);
            self.add(row, part, scratch);
            left -= part;
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let trees = self.stored.config.trees as usize;
        let (low, high) = self.stored.reference.iter().map(|limits| (limits.low, limits.high)).unzip();
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
        let limits = names.dense.iter().zip(&self.stored.latest).filter(|(_, limits)| limits.low <= limits.high);
        lines.extend(limits.map(|(name, limits)| format!("{name} from {} to {}", limits.low, limits.high)));
        Explanation { importances, lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        self.express(graph, rows)
    }

    fn fits(&self, shape: Shape) -> bool {
        let Stored { config, active, reference, latest, present, filled, masses, .. } = &self.stored;
        let right = |mass: &Mass| [mass.reference, mass.latest].iter().all(|mass| (0.0..=2e6).contains(mass));
        let limits = [reference, latest, present];
        limits.iter().all(|limits| limits.len() == shape.dense)
            && *active as usize == shape.active
            && limits.into_iter().flatten().all(|limits| limits.low.is_finite() && limits.high.is_finite())
            && (0.0..f64::from(config.window)).contains(filled)
            && masses.iter().all(right)
    }
}
