//! One key's past rows, by event time.

use std::sync::atomic::{AtomicI64, Ordering};

use millstream_engine::batch::Origin;
use serde::{Deserialize, Serialize};

/// Rows as bytes, in canonical order (event time, then origin), end to end in one buffer: a row costs no allocation
/// of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    times: Vec<i64>,
    origins: Vec<Origin>,
    /// Where in `bytes` each row ends.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    /// Rows before this are not asked for any more.
    #[serde(skip)]
    needed_from: Mark,
}

/// A mark that [`History::expire`] can move while it only looks at the history. It does not belong to the state:
/// without it, only more is kept.
#[derive(Debug)]
struct Mark(AtomicI64);

impl Default for Mark {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl History {
    /// Puts a row in its place.
    pub(super) fn insert(&mut self, (time, origin): (i64, Origin), row: &[u8]) {
        self.forget();
        let place = self.place(time, origin);
        let start = self.start(place);
        self.times.insert(place, time);
        self.origins.insert(place, origin);
        self.ends.insert(place, start);
        if start == self.bytes.len() {
            self.bytes.extend_from_slice(row);
        } else {
            self.bytes.splice(start..start, row.iter().copied());
        }
        self.ends[place..].iter_mut().for_each(|end| *end += row.len());
    }

    /// The newest row whose time is at most `until`, unless it is before `from`.
    pub(super) fn newest(&self, until: i64, from: i64) -> Option<&[u8]> {
        // The newest of all is what is nearly always asked for.
        let after = match self.times.last() {
            Some(&last) if last <= until => self.times.len(),
            _ => self.times.partition_point(|&time| time <= until),
        };
        let place = after.checked_sub(1)?;
        (self.times[place] >= from).then(|| &self.bytes[self.start(place)..self.ends[place]])
    }

    /// Notes that rows before `time` are not asked for any more, and tells whether all are.
    pub(super) fn expire(&self, time: i64) -> bool {
        self.needed_from.0.fetch_max(time, Ordering::Relaxed);
        self.times.last().is_none_or(|&last| last < time)
    }

    /// Where a row belongs: after the rows that come before it, which nearly always are all.
    fn place(&self, time: i64, origin: Origin) -> usize {
        let before = |place: usize| (self.times[place], self.origins[place]) <= (time, origin);
        if self.times.is_empty() || before(self.times.len() - 1) {
            return self.times.len();
        }
        let first = self.times.partition_point(|&other| other < time);
        (first..self.times.len()).find(|&place| !before(place)).unwrap_or(self.times.len())
    }

    fn start(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Drops what is not needed, once that is at least half: so each row is moved about once.
    fn forget(&mut self) {
        let old = self.times.partition_point(|&time| time < self.needed_from.0.load(Ordering::Relaxed));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(offset: u64) -> Origin {
        Origin { source: 0, partition: 0, offset, index: 0 }
    }

    fn history(rows: &[(i64, u64, &str)]) -> History {
        let mut history = History::default();
        for &(time, offset, row) in rows {
            history.insert((time, origin(offset)), row.as_bytes());
        }
        history
    }

    fn newest(history: &History, until: i64, from: i64) -> Option<&str> {
        history.newest(until, from).map(|row| std::str::from_utf8(row).unwrap())
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() {
        let rows = [(1, 0, "one"), (2, 1, "two"), (2, 3, "two, later"), (2, 2, ""), (9, 4, "nine")];
        for turn in 0..rows.len() {
            let mut rows = rows;
            rows.rotate_left(turn);
            let history = history(&rows);
            assert_eq!(
                [0, 1, 2, 8, 9].map(|until| newest(&history, until, 0)),
                [None, Some("one"), Some("two, later"), Some("two, later"), Some("nine")]
            );
        }
    }

    #[test]
    fn too_old_is_not_found() {
        let history = history(&[(5, 0, "five")]);
        assert_eq!((newest(&history, 9, 5), newest(&history, 9, 6)), (Some("five"), None));
    }

    #[test]
    fn what_is_not_needed_goes() {
        let mut history = history(&[(1, 0, "a"), (2, 1, "bb"), (3, 2, "ccc"), (4, 3, "dddd")]);
        assert!(!history.expire(3));
        history.insert((5, origin(4)), b"eeeee");
        assert_eq!((history.times.as_slice(), history.bytes.as_slice()), (&[3, 4, 5][..], &b"cccddddeeeee"[..]));
        assert_eq!((newest(&history, 4, 0), newest(&history, 5, 0)), (Some("dddd"), Some("eeeee")));
        assert!(history.expire(6));
    }
}
