//! How often a leaf saw each category: only those that it saw, in order.

use serde::{Deserialize, Serialize};

use super::super::Row;

/// A leaf counts no more pairs of category and class than this; further ones count as never seen.
const ENTRIES_MAX: usize = 4096;

/// A category of a class.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct Entry {
    pub(in super::super) column: u32,
    pub(in super::super) category: u32,
    pub(in super::super) class: u32,
    pub(in super::super) weight: f64,
}

/// The entries of a leaf, in the order of their categories and classes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct Categories {
    entries: Vec<Entry>,
    /// Of each column that the leaf looks at: how many categories it saw there.
    distinct: Vec<u32>,
}

impl Categories {
    /// For so many columns.
    pub(in super::super) fn new(columns: usize) -> Self {
        Self { entries: Vec::new(), distinct: vec![0; columns] }
    }

    /// Counts the categories of a row.
    pub(in super::super) fn add(&mut self, row: Row<'_>, columns: &[u32], class: u32, weight: f64) {
        for (distinct, &column) in self.distinct.iter_mut().zip(columns) {
            let category = row.active[column as usize];
            let at = self.entries.partition_point(|entry| (entry.category, entry.class) < (category, class));
            let same = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.category == category);
            let fits = self.entries.len() < ENTRIES_MAX;
            match self.entries.get_mut(at) {
                Some(entry) if entry.category == category && entry.class == class => entry.weight += weight,
                _ if fits => {
                    let known = same(self.entries.get(at)) || at > 0 && same(self.entries.get(at - 1));
                    *distinct = distinct.saturating_add(u32::from(!known));
                    self.entries.insert(at, Entry { column, category, class, weight });
                }
                _ => {}
            }
        }
    }

    /// Adds the logarithms of the probabilities of a row's categories to the score of each class, whose weight is
    /// in `counts`; each category counts as seen once more than it was (Laplace).
    pub(in super::super) fn score(
        &self,
        row: Row<'_>,
        columns: &[u32],
        classes: &[u32],
        counts: &[f64],
        scores: &mut [f64],
    ) {
        for (at, &column) in columns.iter().enumerate() {
            let terms = self.terms(at, row.active[column as usize], classes, counts);
            scores.iter_mut().zip(terms).for_each(|(score, term)| *score += term);
        }
    }

    /// What a category of column number `at` adds to the score of each class.
    #[inline]
    pub(in super::super) fn terms<'a>(
        &'a self,
        at: usize,
        category: u32,
        classes: &'a [u32],
        counts: &'a [f64],
    ) -> impl Iterator<Item = f64> + 'a {
        let from = self.entries.partition_point(|entry| entry.category < category);
        let seen = move || self.entries[from..].iter().take_while(move |entry| entry.category == category);
        let distinct = f64::from(self.distinct[at]);
        classes.iter().zip(counts).map(move |(class, count)| {
            let weight = seen().find(|entry| entry.class == *class).map_or(0.0, |entry| entry.weight);
            libm::log((weight + 1.0) / (count + distinct + 1.0))
        })
    }

    /// The entries of each category of a column.
    pub(in super::super) fn of(&self, column: u32) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunk_by(|a, b| a.category == b.category).filter(move |entries| entries[0].column == column)
    }

    /// Keeps only some of the columns; `columns` are those so far.
    pub(in super::super) fn keep(&mut self, columns: &[u32], kept: &[u32]) {
        self.entries.retain(|entry| kept.contains(&entry.column));
        self.distinct = columns
            .iter()
            .zip(&self.distinct)
            .filter(|(column, _)| kept.contains(column))
            .map(|(_, count)| *count)
            .collect();
    }

    /// Whether this is possible for rows with so many columns of categories, and a leaf that looks at these columns;
    /// no weight is below `least`.
    pub(in super::super) fn fits(&self, active: usize, classes: usize, least: f64, columns: &[u32]) -> bool {
        self.distinct.len() == columns.len()
            && self.entries.len() <= ENTRIES_MAX
            && self.entries.iter().all(|entry| {
                (entry.column as usize) < active && (entry.class as usize) < classes && entry.weight >= least
            })
            && self.entries.is_sorted_by_key(|entry| (entry.category, entry.class))
    }
}
