//! Embeddings: a row of numbers for each category, made when it is needed first.
//!
//! Each category has a row of its own, so that none collides with another (Liu and others, "Monolith: Real Time Recommendation
//! System With Collisionless Embedding Table", 2022). Rare ones have none until they were seen often enough, and those that
//! were not seen for long lose theirs. What a row begins with follows from the category alone, not from when it came.

use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::numbers::Numbers;
use super::optimizer::{Rule, Step};
use super::pages::Pages;

/// How many categories have their slots in a page.
const CATEGORIES: usize = 512;
/// How many rows are in a page.
const ROWS: usize = 16;

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
    /// Of each category, its slot and 1; 0 where it has none. In pages of [`CATEGORIES`].
    slots: Pages<Vec<u32>>,
    /// The rows, slot after slot, in pages of [`ROWS`].
    rows: Pages<Numbers>,
    len: usize,
}

/// What learning needs besides.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Tending {
    keeping: Keeping,
    seed: u64,
    /// Of each slot, in pages of [`ROWS`].
    tended: Pages<Tended>,
    /// Of categories without a slot: how often they were seen, and when last. In pages of [`CATEGORIES`].
    rare: Pages<Vec<(u32, u64)>>,
    /// At which example the next look for what has expired is due.
    look_at: u64,
}

/// What is known of the rows of a page.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Tended {
    /// Their categories.
    categories: Vec<u32>,
    /// At which example each was last seen.
    seen: Vec<u64>,
    /// The optimiser's moments of each, one after the other.
    moments: Numbers,
}

impl Table {
    /// No rows yet, of so many numbers each.
    pub(super) fn new(size: usize) -> Self {
        Self { size, slots: Pages::default(), rows: Pages::default(), len: 0 }
    }

    /// The row of a category, if it has one.
    #[inline]
    pub(super) fn row(&self, category: u32) -> Option<&[f32]> {
        self.of_slot(self.slot(category)?)
    }

    #[inline]
    fn of_slot(&self, slot: usize) -> Option<&[f32]> {
        self.rows.get(slot / ROWS)?.get(slot % ROWS * self.size..)?.get(..self.size)
    }

    #[inline]
    fn of_slot_mut(&mut self, slot: usize) -> &mut [f32] {
        &mut self.rows.edit(slot / ROWS)[slot % ROWS * self.size..][..self.size]
    }

    /// The same, to be changed.
    #[cfg(test)]
    pub(super) fn row_mut(&mut self, category: u32) -> Option<&mut [f32]> {
        Some(self.of_slot_mut(self.slot(category)?))
    }

    #[inline]
    fn slot(&self, category: u32) -> Option<usize> {
        let slot = self.slots.get(category as usize / CATEGORIES)?.get(category as usize % CATEGORIES)?;
        (*slot > 0).then(|| *slot as usize - 1)
    }

    fn set_slot(&mut self, category: u32, slot: Option<usize>) {
        *of_category(&mut self.slots, category) = slot.map_or(0, |slot| slot as u32 + 1);
    }

    /// Whether it is sound, and all categories are below this one.
    pub(super) fn fits(&self, size: usize, categories: usize) -> bool {
        self.size == size
            && is_by_category(&self.slots)
            && self.rows.is_sound()
            && self.rows.len() * ROWS >= self.len
            && self.rows.iter().all(|page| page.len() == ROWS * size)
            && self.len <= categories
            && self.slots.iter().flatten().all(|slot| *slot as usize <= self.len)
    }

    /// All rows, by category: for artefacts.
    pub(super) fn all(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut categories, mut values) = (Vec::new(), Vec::new());
        for category in 0..self.slots.len() * CATEGORIES {
            if let Some(row) = self.row(category as u32) {
                categories.push(category as f64);
                values.extend(row.iter().map(|value| f64::from(*value)));
            }
        }
        (categories, values)
    }
}

/// What is kept of a category. Pages are empty until one of their categories is seen.
fn of_category<T: Clone + Default>(pages: &mut Pages<Vec<T>>, category: u32) -> &mut T {
    let (page, at) = (category as usize / CATEGORIES, category as usize % CATEGORIES);
    while pages.len() <= page {
        pages.push(Vec::new());
    }
    let page = pages.edit(page);
    page.resize(CATEGORIES, T::default());
    &mut page[at]
}

fn is_by_category<T: Clone>(pages: &Pages<Vec<T>>) -> bool {
    pages.is_sound() && pages.iter().all(|page| page.is_empty() || page.len() == CATEGORIES)
}

impl Tending {
    pub(super) fn new(keeping: Keeping, seed: u64) -> Self {
        let (tended, rare) = Default::default();
        Self { keeping, seed, tended, rare, look_at: keeping.expire_examples }
    }

    /// Takes note of a category in example number `now`: it gets a row when it was seen often enough. Says whether it got one now.
    pub(super) fn see(&mut self, table: &mut Table, category: u32, now: u64, moments: usize) -> bool {
        if let Some(slot) = table.slot(category) {
            self.tended.edit(slot / ROWS).seen[slot % ROWS] = now;
            return false;
        }
        if self.keeping.seen_at_least > 1 {
            let (count, last) = of_category(&mut self.rare, category);
            (*count, *last) = (*count + 1, now);
            if *count < self.keeping.seen_at_least {
                return false;
            }
            (*count, *last) = (0, 0);
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
        if table.rows.len() * ROWS < table.len {
            table.rows.push(vec![0.0; ROWS * size].into());
        }
        table.of_slot_mut(slot).iter_mut().for_each(|to| *to = value());
        if slot.is_multiple_of(ROWS) {
            self.tended.push(Tended::default());
        }
        let tended = self.tended.edit(slot / ROWS);
        tended.categories.push(category);
        tended.seen.push(now);
        tended.moments.extend(std::iter::repeat_n(0.0, moments * size));
    }

    /// Drops what has not been seen for long; a look at all of them, so it is taken seldom.
    pub(super) fn expire(&mut self, table: &mut Table, now: u64, moments: usize) {
        let most = self.keeping.expire_examples;
        if most == 0 || now < self.look_at {
            return;
        }
        self.look_at = now + (most / 4).max(1);
        for page in 0..self.rare.len() {
            let is_over = |(count, last): &(u32, u64)| *count > 0 && now - last > most;
            if self.rare.get(page).is_some_and(|page| page.iter().any(is_over)) {
                self.rare.edit(page).iter_mut().filter(|rare| is_over(rare)).for_each(|rare| *rare = (0, 0));
            }
        }
        let mut slot = 0;
        while slot < table.len {
            if self.tended.get(slot / ROWS).is_none_or(|page| now - page.seen[slot % ROWS] <= most) {
                slot += 1;
                continue;
            }
            self.drop_row(table, slot, moments);
        }
    }

    /// Drops the row of a slot: the last one takes its place.
    fn drop_row(&mut self, table: &mut Table, slot: usize, moments: usize) {
        let last = table.len - 1;
        let each = moments * table.size;
        let page = self.tended.edit(last / ROWS);
        let (Some(category), Some(seen)) = (page.categories.pop(), page.seen.pop()) else { return };
        let own = page.moments.split_off(last % ROWS * each);
        if last.is_multiple_of(ROWS) {
            self.tended.pop();
        }
        let mut gone = category;
        if slot < last {
            let page = self.tended.edit(slot / ROWS);
            let at = slot % ROWS;
            gone = std::mem::replace(&mut page.categories[at], category);
            page.seen[at] = seen;
            page.moments[at * each..][..each].copy_from_slice(&own);
            let row = table.of_slot(last).unwrap_or_default().to_vec();
            table.of_slot_mut(slot).copy_from_slice(&row);
            table.set_slot(category, Some(slot));
        }
        table.set_slot(gone, None);
        table.len = last;
    }

    /// Moves the rows that have gradients, once each; `gradients` are of these categories, one after the other.
    pub(super) fn update(&mut self, table: &mut Table, gradients: &Sparse, rule: &Rule, step: Step) {
        let each = rule.moments() * table.size;
        for (category, gradient) in gradients.categories.iter().zip(gradients.values.chunks_exact(table.size.max(1))) {
            let Some(slot) = table.slot(*category) else { continue };
            let kept = &mut self.tended.edit(slot / ROWS).moments[slot % ROWS * each..][..each];
            rule.update(table.of_slot_mut(slot), gradient, kept, Step { decay: 0.0, ..step });
        }
    }

    /// Whether it belongs to the table.
    pub(super) fn fits(&self, table: &Table, keeping: Keeping, moments: usize) -> bool {
        let full = table.len / ROWS;
        let is_whole = |(page, tended): (usize, &Tended)| {
            let len = if page < full { ROWS } else { table.len % ROWS };
            (tended.categories.len(), tended.seen.len(), tended.moments.len()) == (len, len, len * moments * table.size)
        };
        let categories = || self.tended.iter().flat_map(|page| &page.categories);
        self.keeping == keeping
            && self.tended.is_sound()
            && is_by_category(&self.rare)
            && self.tended.len() == table.len.div_ceil(ROWS)
            && self.tended.iter().enumerate().all(is_whole)
            && categories().enumerate().all(|(slot, category)| table.slot(*category) == Some(slot))
            && table.slots.iter().flatten().filter(|slot| **slot > 0).count() == table.len
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::samples::Random as Chance;
    use super::*;

    /// Rows are those of a map from categories, whatever comes, goes, and takes whose place.
    #[test]
    fn a_table_is_a_map() {
        const SIZE: usize = 3;
        let keeping = Keeping { seen_at_least: 2, expire_examples: 200 };
        for seed in 0..8 {
            let mut random = Chance::seeded(seed);
            let (mut table, mut tending) = (Table::new(SIZE), Tending::new(keeping, seed));
            let (mut known, mut rare) = (BTreeMap::<u32, u64>::new(), BTreeMap::<u32, (u32, u64)>::new());
            let (mut look_at, mut dropped) = (keeping.expire_examples, 0);
            for now in 1..1500 {
                let category = (random.below(1200) % [30, 1200][random.below(2)]) as u32;
                let is_new = tending.see(&mut table, category, now, 1);
                let (count, last) = rare.entry(category).or_default();
                (*count, *last) = (*count + 1, now);
                assert_eq!(is_new, !known.contains_key(&category) && *count == keeping.seen_at_least, "seed {seed}");
                if is_new || known.contains_key(&category) {
                    rare.remove(&category);
                    known.insert(category, now);
                    table.row_mut(category).expect("it has one").fill(category as f32);
                }
                tending.expire(&mut table, now, 1);
                if now >= look_at {
                    look_at = now + keeping.expire_examples / 4;
                    dropped += known.values().filter(|seen| now - **seen > keeping.expire_examples).count();
                    known.retain(|_, seen| now - *seen <= keeping.expire_examples);
                    rare.retain(|_, (_, seen)| now - *seen <= keeping.expire_examples);
                }
                assert!(table.fits(SIZE, 1200) && tending.fits(&table, keeping, 1), "seed {seed}, example {now}");
                let found: Vec<(u32, &[f32])> =
                    (0..1200).filter_map(|category| Some((category, table.row(category)?))).collect();
                assert!(found.iter().map(|(category, _)| category).eq(known.keys()), "seed {seed}, example {now}");
                assert!(found.iter().all(|(category, row)| *row == [*category as f32; SIZE]), "seed {seed}");
            }
            assert!(dropped > 30 && known.len() > 2 * ROWS, "seed {seed}: {dropped} dropped, {} left", known.len());
        }
    }
}
