//! Rows that wait: those of the open mini-batch, and old ones that are learned again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::super::ranges::Ranges;
use super::super::{Example, Row, Shape};
use super::pages::Pages;

/// Rows with what there is to learn from each.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Samples {
    pub(super) dense: Vec<f64>,
    pub(super) active: Vec<u32>,
    pub(super) targets: Vec<f64>,
    pub(super) weights: Vec<f64>,
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    pub(super) fn push(&mut self, row: Row<'_>, example: Example) {
        self.dense.extend_from_slice(row.dense);
        self.active.extend_from_slice(row.active);
        self.targets.push(example.target);
        self.weights.push(example.weight);
    }

    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.active.clear();
        self.targets.clear();
        self.weights.clear();
    }

    pub(super) fn row(&self, at: usize, shape: Shape) -> Row<'_> {
        let Shape { dense, active, .. } = shape;
        Row { dense: &self.dense[at * dense..][..dense], active: &self.active[at * active..][..active] }
    }

    fn example(&self, at: usize) -> Example {
        Example { weight: self.weights[at], ..Example::of(self.targets[at]) }
    }

    fn replace(&mut self, at: usize, row: Row<'_>, example: Example) {
        self.dense[at * row.dense.len()..][..row.dense.len()].copy_from_slice(row.dense);
        self.active[at * row.active.len()..][..row.active.len()].copy_from_slice(row.active);
        self.targets[at] = example.target;
        self.weights[at] = example.weight;
    }

    /// Keeps the first ones.
    pub(super) fn truncate(&mut self, len: usize, shape: Shape) {
        self.dense.truncate(len * shape.dense);
        self.active.truncate(len * shape.active);
        self.targets.truncate(len);
        self.weights.truncate(len);
    }

    /// Adds one of others.
    pub(super) fn copy(&mut self, others: &Self, at: usize, shape: Shape) {
        self.push(others.row(at, shape), others.example(at));
    }

    /// Whether all rows are whole, and are what a model may be given.
    pub(super) fn fits(&self, shape: Shape) -> bool {
        let len = self.len();
        let is_class = |target: &f64| shape.classes == 0 || (*target >= 0.0 && *target < shape.classes as f64);
        self.weights.len() == len
            && self.dense.len() == len * shape.dense
            && self.active.len() == len * shape.active
            && self.active.iter().all(|category| (*category as usize) < shape.categories)
            && self.dense.iter().all(|number| number.is_finite())
            && self.targets.iter().all(|target| target.is_finite() && is_class(target))
            && self.weights.iter().all(|weight| weight.is_finite() && *weight > 0.0)
    }
}

/// Rows that are kept from epoch to epoch, in pages of [`ROWS`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct KeptRows {
    len: usize,
    pages: Pages<Samples>,
}

/// How many rows are in a page.
const ROWS: usize = 64;

impl KeptRows {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, row: Row<'_>, example: Example) {
        if self.len.is_multiple_of(ROWS) {
            self.pages.push(Samples::default());
        }
        self.pages.edit(self.len / ROWS).push(row, example);
        self.len += 1;
    }

    fn replace(&mut self, at: usize, row: Row<'_>, example: Example) {
        self.pages.edit(at / ROWS).replace(at % ROWS, row, example);
    }

    /// Adds one of these to others.
    fn copy_to(&self, into: &mut Samples, at: usize, shape: Shape) {
        if let Some(page) = self.pages.get(at / ROWS) {
            into.copy(page, at % ROWS, shape);
        }
    }

    /// Moves them all to where others were.
    pub(super) fn take_to(&mut self, into: &mut Samples) {
        into.clear();
        for page in std::mem::take(self).pages.iter() {
            into.dense.extend_from_slice(&page.dense);
            into.active.extend_from_slice(&page.active);
            into.targets.extend_from_slice(&page.targets);
            into.weights.extend_from_slice(&page.weights);
        }
    }

    /// Whether all rows are whole, and are what a model may be given.
    pub(super) fn fits(&self, shape: Shape) -> bool {
        let full = self.len / ROWS;
        let size = |page: usize| if page < full { ROWS } else { self.len % ROWS };
        self.pages.is_sound()
            && self.pages.len() == self.len.div_ceil(ROWS)
            && self.pages.iter().enumerate().all(|(page, rows)| rows.len() == size(page) && rows.fits(shape))
    }
}

/// Old rows, learned again beside new ones, so that what comes seldom is not forgotten.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayConfig {
    /// How many are kept, from 1 to 10,000,000: of all that came, each with the same probability (Vitter's reservoir, 1985).
    rows: u32,
    /// How many of them are added to each mini-batch, from 1 to 65,536.
    pub(super) per_batch: u32,
    /// Whether each class has the same number of places.
    #[serde(default)]
    by_class: bool,
}

impl ReplayConfig {
    pub(super) fn check(&self, ranges: Ranges) -> Ranges {
        ranges.within("replay.rows", f64::from(self.rows), 1.0, 1e7).within(
            "replay.per_batch",
            f64::from(self.per_batch),
            1.0,
            65_536.0,
        )
    }
}

/// The old rows, in one reservoir or in one for each class.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Replay {
    config: ReplayConfig,
    parts: Vec<Reservoir>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Reservoir {
    /// How many rows there were to choose from.
    seen: u64,
    rows: KeptRows,
}

impl Replay {
    pub(super) fn new(config: ReplayConfig, shape: Shape) -> Self {
        let parts = if config.by_class { shape.classes.max(1) } else { 1 };
        Self { config, parts: vec![Reservoir::default(); parts] }
    }

    /// Draws rows, with replacement; from each part as many, as far as they have any.
    pub(super) fn draw(&self, into: &mut Samples, random: &mut Random, shape: Shape) {
        let filled: Vec<&Reservoir> = self.parts.iter().filter(|part| part.rows.len > 0).collect();
        if filled.is_empty() {
            return;
        }
        for at in 0..self.config.per_batch as usize {
            let rows = &filled[at % filled.len()].rows;
            rows.copy_to(into, random.below(rows.len), shape);
        }
    }

    /// Lets new rows in.
    pub(super) fn add(&mut self, new: &Samples, random: &mut Random, shape: Shape) {
        let parts = self.parts.len();
        let room = (self.config.rows as usize / parts).max(1);
        for at in 0..new.len() {
            let part = if parts == 1 { 0 } else { (new.targets[at] as usize).min(parts - 1) };
            let part = &mut self.parts[part];
            part.seen += 1;
            if part.rows.len < room {
                part.rows.push(new.row(at, shape), new.example(at));
                continue;
            }
            let place = random.below(part.seen as usize);
            if place < room {
                part.rows.replace(place, new.row(at, shape), new.example(at));
            }
        }
    }

    /// Whether it is one of these settings.
    pub(super) fn fits(&self, config: ReplayConfig, shape: Shape) -> bool {
        let parts = Self::new(config, shape).parts.len();
        let sound = |part: &Reservoir| {
            let len = part.rows.len;
            part.rows.fits(shape) && len as u64 <= part.seen && len <= config.rows as usize && part.seen < 1 << 60
        };
        self.config == config && self.parts.len() == parts && self.parts.iter().all(sound)
    }
}
