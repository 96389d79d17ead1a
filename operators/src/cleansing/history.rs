//! One key's past rows, by event time.

use millstream_engine::batch::Origin;
use serde::{Deserialize, Serialize};

/// A row's place in the canonical order: event time, then origin.
pub(super) type Order = (i64, Origin);

/// Rows as bytes, in canonical order, end to end in one buffer: a row costs no allocation of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    times: Vec<i64>,
    origins: Vec<Origin>,
    /// Where in `bytes` each row ends.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl History {
    /// Puts a row in its place, which nearly always is the end.
    pub(super) fn insert(&mut self, order: Order, row: &[u8]) {
        let place = self.before(order);
        let start = self.start(place);
        self.times.insert(place, order.0);
        self.origins.insert(place, order.1);
        self.ends.insert(place, start);
        if start == self.bytes.len() {
            self.bytes.extend_from_slice(row);
        } else {
            self.bytes.splice(start..start, row.iter().copied());
        }
        self.ends[place..].iter_mut().for_each(|end| *end += row.len());
    }

    /// The newest row that comes before `order` and is not after the time `at`, unless it is older than `oldest`.
    pub(super) fn newest(&self, order: Order, at: i64, oldest: i64) -> Option<&[u8]> {
        // Whatever is not after an earlier time comes before the order, so one search is enough.
        let known = if at < order.0 { self.times.partition_point(|&time| time <= at) } else { self.before(order) };
        let place = known.checked_sub(1)?;
        (self.times[place] >= oldest).then(|| &self.bytes[self.start(place)..self.ends[place]])
    }

    /// The time of the newest row.
    pub(super) fn newest_ms(&self) -> Option<i64> {
        self.times.last().copied()
    }

    /// Drops what is more than `keep_ms` older than the newest row before `order`, once that is at least half of
    /// all: so each row is moved about once.
    pub(super) fn forget(&mut self, order: Order, keep_ms: i64) {
        let Some(newest) = self.before(order).checked_sub(1) else { return };
        let oldest = self.times[newest].saturating_sub(keep_ms);
        let old = self.times.partition_point(|&time| time < oldest);
        if old == 0 || old * 2 < self.times.len() {
            return;
        }
        let cut = self.start(old);
        self.times.drain(..old);
        self.origins.drain(..old);
        self.ends.drain(..old);
        self.bytes.drain(..cut);
        self.ends.iter_mut().for_each(|end| *end -= cut);
    }

    /// How many rows come before `order`.
    fn before(&self, order: Order) -> usize {
        let comes_before = |place: usize| (self.times[place], self.origins[place]) < order;
        if self.times.last().is_none() || comes_before(self.times.len() - 1) {
            return self.times.len();
        }
        // Few rows have the same time, so origins are seldom looked at.
        let earlier = self.times.partition_point(|&time| time < order.0);
        let same = self.times[earlier..].partition_point(|&time| time == order.0);
        earlier + self.origins[earlier..earlier + same].partition_point(|&origin| origin < order.1)
    }

    fn start(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(time: i64, offset: u64) -> Order {
        (time, Origin { source: 0, partition: 0, offset, index: 0 })
    }

    fn history(rows: &[(i64, u64, &str)]) -> History {
        let mut history = History::default();
        for &(time, offset, row) in rows {
            history.insert(order(time, offset), row.as_bytes());
        }
        history
    }

    fn newest(history: &History, at: i64, oldest: i64) -> Option<&str> {
        history.newest(order(99, 0), at, oldest).map(|row| std::str::from_utf8(row).unwrap())
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() {
        let rows = [(1, 0, "one"), (2, 1, "two"), (2, 3, "two, later"), (2, 2, ""), (9, 4, "nine")];
        for turn in 0..rows.len() {
            let mut rows = rows;
            rows.rotate_left(turn);
            let history = history(&rows);
            let found = [0, 1, 2, 8, 9].map(|at| newest(&history, at, 0));
            assert_eq!(found, [None, Some("one"), Some("two, later"), Some("two, later"), Some("nine")]);
        }
    }

    #[test]
    fn what_comes_later_is_not_seen() {
        let history = history(&[(5, 1, "a"), (5, 3, "b")]);
        let found = [1, 2, 3, 4].map(|offset| history.newest(order(5, offset), 9, 0));
        assert_eq!(found, [None, Some(&b"a"[..]), Some(b"a"), Some(b"b")]);
    }

    #[test]
    fn too_old_is_not_found() {
        let history = history(&[(5, 0, "five")]);
        assert_eq!((newest(&history, 9, 5), newest(&history, 9, 6)), (Some("five"), None));
    }

    #[test]
    fn what_is_not_needed_goes() {
        let mut history = history(&[(1, 0, "a"), (2, 1, "bb"), (3, 2, "ccc"), (4, 3, "dddd")]);
        history.forget(order(4, 3), 1);
        assert_eq!(history.times, [1, 2, 3, 4], "one row of four is too few to move the others");
        history.forget(order(4, 4), 1);
        history.insert(order(5, 4), b"eeeee");
        assert_eq!((history.times.as_slice(), history.bytes.as_slice()), (&[3, 4, 5][..], &b"cccddddeeeee"[..]));
        assert_eq!((newest(&history, 4, 0), newest(&history, 5, 0)), (Some("dddd"), Some("eeeee")));
    }
}
