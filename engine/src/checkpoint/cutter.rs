//! Decides where checkpoints are cut: the binder's part in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::{Checkpoints, Handed};
use crate::binding::{Binding, Epoch};
use crate::book::Book;
use crate::time::Stopwatch;

/// Decides where checkpoints are cut. It is asked before each epoch.
pub(crate) struct Cutter {
    book: Arc<Book>,
    handed: Sender<Handed>,
    every_seconds: f64,
    every_bytes: u64,
    /// By (source, partition): the offset after the last record bound.
    offsets: BTreeMap<(u32, u32), u64>,
    /// The last cut, or where the run started.
    last: Epoch,
    since: Stopwatch,
    /// Bytes bound since.
    bytes: u64,
}

impl Cutter {
    pub(crate) fn new(
        checkpoints: &Checkpoints,
        book: Arc<Book>,
        handed: Sender<Handed>,
        start: Epoch,
        offsets: BTreeMap<(u32, u32), u64>,
    ) -> Self {
        let &Checkpoints { every_seconds, every_bytes, .. } = checkpoints;
        Self { book, handed, every_seconds, every_bytes, offsets, last: start, since: Stopwatch::start(), bytes: 0 }
    }

    /// An epoch was bound.
    pub(crate) fn bound(&mut self, binding: &Binding, bytes: usize) {
        self.bytes += bytes as u64;
        self.offsets.extend(binding.ranges.iter().map(|range| ((range.source, range.partition), range.hi)));
    }

    /// Whether there is a cut before epoch `next`, since it is time.
    pub(crate) fn cuts(&mut self, next: Epoch, idle: &[(u32, u32)]) -> bool {
        let is_time = || self.bytes >= self.every_bytes || self.since.seconds() >= self.every_seconds;
        let cuts = next > self.last && !self.book.cuts.is_busy() && is_time();
        if cuts {
            self.cut(next, idle);
        }
        cuts
    }

    /// At the end, where `next` would have come: whether there is a last cut.
    pub(crate) fn cuts_at_end(&mut self, next: Epoch, idle: &[(u32, u32)]) -> bool {
        let cuts = next > self.last && !self.book.cuts.is_busy() && !self.book.is_aborted();
        if cuts {
            self.cut(next, idle);
        }
        cuts
    }

    /// Whether the last checkpoint is there, or failed.
    pub(crate) fn is_finished(&self) -> bool {
        !self.book.cuts.is_busy() || self.book.is_aborted()
    }

    /// No checkpoint follows.
    pub(crate) fn end(&self) {
        // Without a writer the run has ended already.
        drop(self.handed.send(Handed::End));
        self.book.ring();
    }

    fn cut(&mut self, cut: Epoch, idle: &[(u32, u32)]) {
        // The writer hears of it before any operator can.
        drop(self.handed.send(Handed::Cut { cut, offsets: self.offsets.clone(), idle: idle.to_vec() }));
        self.book.cuts.announce(cut);
        (self.last, self.since, self.bytes) = (cut, Stopwatch::start(), 0);
    }
}
