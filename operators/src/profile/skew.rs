//! How differently two streams' columns are distributed: what is asked beside what was learned from.

use super::{Column, Kind, Profile};

/// Of fewer rows nothing is told.
const ROWS_MIN: u64 = 100;

impl Profile {
    /// By column of numbers, the population stability index of what `asked` has seen beside this: the sum of (q - p) ln(q / p) over the parts
    /// between this one's deciles and those that are missing, where p and q are the shares here and there, each part counting half a row
    /// more. Below 0.1 little has changed, above 0.25 much. Instants are left out, for they always go on. None before there are 100 rows
    /// of each.
    pub fn skew<'a>(&'a self, asked: &'a Self) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        let enough = self.rows >= ROWS_MIN && asked.rows >= ROWS_MIN;
        let own = self.columns.iter().filter(move |_| enough);
        own.filter_map(|column| {
            let other = asked.columns.iter().find(|other| other.name == column.name && other.kind == column.kind)?;
            let value = column.skew((self.rows, other, asked.rows))?;
            Some((column.name.as_str(), value))
        })
    }
}

impl Column {
    fn skew(&self, (rows, asked, asked_rows): (u64, &Self, u64)) -> Option<f64> {
        if matches!(self.kind, Kind::Text | Kind::Timestamp | Kind::Other) {
            return None;
        }
        let deciles = self.sketched.quantiles.quantiles([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])?;
        let mut bounds = deciles.to_vec();
        bounds.dedup();
        let shares = |of: &Self, rows: u64| {
            let there = 1.0 - of.missing as f64 / rows as f64;
            let ranks = bounds.iter().map(|bound| there * of.sketched.quantiles.rank(*bound).unwrap_or_default());
            let ends: Vec<f64> = std::iter::once(0.0).chain(ranks).chain([there, 1.0]).collect();
            let parts = (ends.len() - 1) as f64;
            let smooth = move |share: f64| (share * rows as f64 + 0.5) / (rows as f64 + 0.5 * parts);
            ends.windows(2).map(|ends| smooth((ends[1] - ends[0]).max(0.0))).collect::<Vec<f64>>()
        };
        let (own, others) = (shares(self, rows), shares(asked, asked_rows));
        Some(own.iter().zip(&others).map(|(p, q)| (q - p) * libm::log(q / p)).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};

    use super::*;

    fn profile(rows: usize, number: impl Fn(usize) -> Option<f64>, yes: impl Fn(usize) -> bool) -> Profile {
        let columns: [(&str, ArrayRef); 3] = [
            ("number", Arc::new((0..rows).map(number).collect::<Float64Array>())),
            ("yes", Arc::new((0..rows).map(|row| Some(yes(row))).collect::<BooleanArray>())),
            ("text", Arc::new(StringArray::from(vec!["t"; rows]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("of one length");
        let mut profile = Profile::new(rows.schema_ref());
        profile.add_all(&rows).expect("it is taken");
        profile
    }

    #[test]
    fn what_is_alike_is_not_skewed_and_what_moved_is() {
        let uniform = |row: usize| Some((row * 7_919 % 1_000) as f64);
        let learned = profile(10_000, uniform, |row| row % 4 == 0);
        let skew = |asked: &Profile| {
            let found: Vec<(&str, f64)> = learned.skew(asked).collect();
            assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["number", "yes"]);
            [found[0].1, found[1].1]
        };
        let [number, yes] = skew(&profile(1_000, |row| uniform(row + 3), |row| row % 4 == 0));
        assert!(number < 0.02 && yes < 0.01, "{number} {yes}");
        let [number, yes] = skew(&profile(1_000, |row| uniform(row).map(|x| x + 300.0), |row| row % 4 != 0));
        assert!(number > 0.25 && yes > 0.25, "{number} {yes}");
        let [number, _] = skew(&profile(1_000, |row| uniform(row).filter(|_| row % 2 == 0), |row| row % 4 == 0));
        assert!(number > 0.25, "half are missing: {number}");
        assert_eq!(learned.skew(&profile(99, uniform, |_| true)).count(), 0, "too few to tell");
    }
}
