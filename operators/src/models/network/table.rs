//! Embeddings: a row of numbers for each category, made when it is needed first.
//!
//! Each category has a row of its own, so that none collides with another (Liu and others, "Monolith: Real Time Recommendation
//! System With Collisionless Embedding Table", 2022). Rare ones have none until they were seen often enough, and those that
//! were not seen for long lose theirs. What a row begins with follows from the category alone, not from when it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::optimizer::{Rule, Step};

/// How many categories' slots lie in a page.
const SLOTS: usize = 1 << 12;
/// How many rows lie in a page.
const ROWS: usize = 64;

/// A vector in shared pages: a copy costs a pointer for each, and a change only its page.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Pages<T> {
    per_page: usize,
    #[serde(with = "shared", bound(serialize = "T: Serialize", deserialize = "T: Deserialize<'de>"))]
    pages: Vec<Arc<Vec<T>>>,
}

/// Shared pages as plain ones.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Pages<T> = Vec<Arc<Vec<T>>>;

    pub(super) fn serialize<S: Serializer, T: Serialize>(pages: &Pages<T>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pages.iter().map(|page| &**page))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Pages<T>, D::Error> {
        Ok(Vec::<Vec<T>>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}

impl<T: Clone> Pages<T> {
    fn new(per_page: usize) -> Self {
        Self { per_page, pages: Vec::new() }
    }

    #[inline]
    fn get(&self, start: usize, len: usize) -> Option<&[T]> {
        self.pages.get(start / self.per_page)?.get(start % self.per_page..)?.get(..len)
    }

    #[inline]
    fn get_mut(&mut self, start: usize, len: usize) -> &mut [T] {
        &mut Arc::make_mut(&mut self.pages[start / self.per_page])[start % self.per_page..][..len]
    }

    /// Makes room for so many.
    fn grow(&mut self, len: usize, with: &T) {
        while self.pages.len() * self.per_page < len {
            self.pages.push(Arc::new(vec![with.clone(); self.per_page]));
        }
    }

    /// Whether it has pages of this size, enough for so many.
    fn is_sound(&self, per_page: usize, len: usize) -> bool {
        self.per_page == per_page
            && self.pages.iter().all(|page| page.len() == per_page)
            && self.pages.len() * per_page >= len
    }
}

/// When a category has a row.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Keeping {
    /// How often it has to be seen before.
    pub(super) seen_at_least: u32,
    /// After how many examples without it the row is dropped; 0 keeps it for ever.
    pub(super) expire_examples: u64,
}

/// The rows, as answers need them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Table {
    /// How many numbers a row has.
    size: usize,
    /// Of each category, its slot and 1; 0 where it has none.
    slots: Pages<u32>,
    /// The rows, slot after slot.
    rows: Pages<f32>,
    len: usize,
}

/// What learning needs besides.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Tending {
    keeping: Keeping,
    seed: u64,
    /// Of each slot, its category.
    categories: Vec<u32>,
    /// Of each slot, at which example it was last seen.
    seen: Vec<u64>,
    /// Of each slot, the optimiser's moments, one after the other.
    moments: Vec<f32>,
    /// Of categories without a slot: how often they were seen, and when last.
    rare: BTreeMap<u32, (u32, u64)>,
    /// At which example the next look for what has expired is due.
    look_at: u64,
}

impl Table {
    /// No rows yet, of so many numbers each.
    pub(super) fn new(size: usize) -> Self {
        Self { size, slots: Pages::new(SLOTS), rows: Pages::new(ROWS * size.max(1)), len: 0 }
    }

    /// The row of a category, if it has one.
    #[inline]
    pub(super) fn row(&self, category: u32) -> Option<&[f32]> {
        self.rows.get(self.slot(category)? * self.size, self.size)
    }

    /// The same, to be changed.
    #[cfg(test)]
    pub(super) fn row_mut(&mut self, category: u32) -> Option<&mut [f32]> {
        Some(self.rows.get_mut(self.slot(category)? * self.size, self.size))
    }

    #[inline]
    fn slot(&self, category: u32) -> Option<usize> {
        let slot = self.slots.get(category as usize, 1)?[0];
        (slot > 0).then(|| slot as usize - 1)
    }

    fn set_slot(&mut self, category: u32, slot: Option<usize>) {
        self.slots.grow(category as usize + 1, &0);
        self.slots.get_mut(category as usize, 1)[0] = slot.map_or(0, |slot| slot as u32 + 1);
    }

    /// Whether it is sound, and all categories are below this one.
    pub(super) fn fits(&self, size: usize, categories: usize) -> bool {
        self.size == size
            && self.slots.is_sound(SLOTS, 0)
            && self.rows.is_sound(ROWS * size.max(1), self.len * size)
            && self.len <= categories
            && self.slots.pages.iter().flat_map(|page| page.iter()).all(|slot| *slot as usize <= self.len)
    }

    /// All rows, by category: for artefacts.
    pub(super) fn all(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut categories, mut values) = (Vec::new(), Vec::new());
        for category in 0..self.slots.pages.len() * self.slots.per_page {
            if let Some(row) = self.row(category as u32) {
                categories.push(category as f64);
                values.extend(row.iter().map(|value| f64::from(*value)));
            }
        }
        (categories, values)
    }
}

impl Tending {
    pub(super) fn new(keeping: Keeping, seed: u64) -> Self {
        Self {
            keeping,
            seed,
            categories: Vec::new(),
            seen: Vec::new(),
            moments: Vec::new(),
            rare: BTreeMap::new(),
            look_at: keeping.expire_examples,
        }
    }

    /// Takes note of a category in example number `now`: it gets a row when it was seen often enough. Says whether it got one now.
    pub(super) fn see(&mut self, table: &mut Table, category: u32, now: u64, moments: usize) -> bool {
        if let Some(slot) = table.slot(category) {
            self.seen[slot] = now;
            return false;
        }
        if self.keeping.seen_at_least > 1 {
            let (count, last) = self.rare.entry(category).or_insert((0, now));
            (*count, *last) = (*count + 1, now);
            if *count < self.keeping.seen_at_least {
                return false;
            }
            self.rare.remove(&category);
        }
        let mut random = Random::new(self.seed, u64::from(category));
        let reach = 1.0 / (table.size.max(1) as f64).sqrt();
        self.add(table, category, now, moments, || (reach * random.signed()) as f32);
        true
    }

    /// Gives a category that has none a row.
    pub(super) fn add(
        &mut self,
        table: &mut Table,
        category: u32,
        now: u64,
        moments: usize,
        mut value: impl FnMut() -> f32,
    ) {
        let (slot, size) = (table.len, table.size);
        table.len += 1;
        table.set_slot(category, Some(slot));
        table.rows.grow(table.len * size, &0.0);
        table.rows.get_mut(slot * size, size).iter_mut().for_each(|to| *to = value());
        self.categories.push(category);
        self.seen.push(now);
        self.moments.extend(std::iter::repeat_n(0.0, moments * size));
    }

    /// Drops what has not been seen for long; a look at all of them, so it is taken seldom.
    pub(super) fn expire(&mut self, table: &mut Table, now: u64, moments: usize) {
        let most = self.keeping.expire_examples;
        if most == 0 || now < self.look_at {
            return;
        }
        self.look_at = now + (most / 4).max(1);
        self.rare.retain(|_, (_, last)| now - *last <= most);
        let size = table.size;
        let mut slot = 0;
        while slot < table.len {
            if now - self.seen[slot] <= most {
                slot += 1;
                continue;
            }
            // The last row takes its place.
            let last = table.len - 1;
            table.set_slot(self.categories[slot], None);
            if slot != last {
                table.set_slot(self.categories[last], Some(slot));
                let row = table.rows.get(last * size, size).unwrap_or_default().to_vec();
                table.rows.get_mut(slot * size, size).copy_from_slice(&row);
                let each = moments * size;
                self.moments.copy_within(last * each..(last + 1) * each, slot * each);
            }
            self.categories.swap_remove(slot);
            self.seen.swap_remove(slot);
            self.moments.truncate(last * moments * size);
            table.len = last;
        }
    }

    /// Moves the rows that have gradients, once each; `gradients` are of these categories, one after the other.
    pub(super) fn update(&mut self, table: &mut Table, gradients: &Sparse, rule: &Rule, step: Step) {
        let (size, moments) = (table.size, rule.moments());
        for (category, gradient) in gradients.categories.iter().zip(gradients.values.chunks_exact(size.max(1))) {
            let Some(slot) = table.slot(*category) else { continue };
            let row = table.rows.get_mut(slot * size, size);
            let kept = &mut self.moments[slot * moments * size..][..moments * size];
            rule.update(row, gradient, kept, Step { decay: 0.0, ..step });
        }
    }

    /// Whether it belongs to the table.
    pub(super) fn fits(&self, table: &Table, keeping: Keeping, moments: usize) -> bool {
        let belongs = |(slot, category): (usize, &u32)| table.slot(*category) == Some(slot);
        self.keeping == keeping
            && self.categories.len() == table.len
            && self.seen.len() == table.len
            && self.moments.len() == table.len * moments * table.size
            && self.categories.iter().enumerate().all(belongs)
            && table.slots.pages.iter().flat_map(|page| page.iter()).filter(|slot| **slot > 0).count() == table.len
    }
}

/// Gradients of the rows of a mini-batch: each category once, in order, and their sums.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    pub(super) categories: Vec<u32>,
    pub(super) values: Vec<f32>,
    /// Which categories come where; reused.
    order: Vec<(u32, u32)>,
}

impl Sparse {
    /// Sums the gradients of the places where categories came, in the order of the places.
    pub(super) fn sum(&mut self, active: &[u32], gradients: &[f32], size: usize) {
        self.categories.clear();
        self.values.clear();
        self.order.clear();
        self.order.extend((0..).zip(active).map(|(place, category)| (*category, place)));
        self.order.sort_unstable();
        for (category, place) in &self.order {
            let gradient = &gradients[*place as usize * size..][..size];
            if self.categories.last() == Some(category) {
                let start = self.values.len() - size;
                self.values[start..].iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
            } else {
                self.categories.push(*category);
                self.values.extend_from_slice(gradient);
            }
        }
    }
}
