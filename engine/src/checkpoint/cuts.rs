//! What the binder, the operators and the writer know of each other's part in a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::Result;
use crate::binding::Epoch;
use crate::publish::RevisionMark;

/// How many bytes of pieces may wait to be written.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Where the newest cut is, and how far its checkpoint has come. One checkpoint is made at a time.
#[derive(Default)]
pub(crate) struct Cuts {
    /// The newest cut: state for the epochs before it is wanted. 0 before the first.
    cut: AtomicU64,
    /// The newest cut whose checkpoint was abandoned.
    abandoned: AtomicU64,
    /// Whether a checkpoint is being made.
    busy: AtomicBool,
    /// Bytes of pieces that are not written yet.
    waiting_bytes: AtomicUsize,
    /// How many operators hand over their state, over all workers.
    operators: AtomicUsize,
}

impl Cuts {
    pub(crate) fn announce(&self, cut: Epoch) {
        self.busy.store(true, Ordering::SeqCst);
        self.cut.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self) -> Epoch {
        self.cut.load(Ordering::SeqCst)
    }

    pub(crate) fn abandon(&self, cut: Epoch) {
        self.abandoned.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn abandoned(&self) -> Epoch {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn is_abandoned(&self, cut: Epoch) -> bool {
        self.abandoned() >= cut
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    pub(crate) fn set_idle(&self) {
        self.busy.store(false, Ordering::SeqCst);
    }

    /// Whether more pieces may be made; what is made is written, whatever it weighs.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting_bytes.load(Ordering::SeqCst) < WAITING_BYTES_MAX
    }

    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn remove_bytes(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(crate) fn add_operator(&self) {
        self.operators.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn operators(&self) -> usize {
        self.operators.load(Ordering::SeqCst)
    }
}

/// Makes a piece's content. The writer calls it, so that sorting and encoding hold up no epoch.
pub(crate) type Content = Box<dyn FnOnce() -> Result<Vec<u8>> + Send>;

/// What the writer is told.
pub(crate) enum Handed {
    /// A checkpoint begins. Comes before all else of its cut.
    Cut {
        cut: Epoch,
        /// By (source, partition) of both lanes: the offset after the last record bound before the cut.
        offsets: BTreeMap<(u32, u32), u64>,
        /// The partitions that held back nobody.
        idle: Vec<(u32, u32)>,
    },
    /// A piece of a section, with its bytes as they were counted in [`Cuts`].
    Piece { cut: Epoch, section: Arc<str>, worker: usize, key: u32, bytes: usize, content: Content },
    /// What the manifest itself says.
    Word { cut: Epoch, word: Word },
    /// An operator has handed over everything, or cannot.
    Done { cut: Epoch, section: Arc<str>, outcome: Result<()> },
    /// No checkpoint follows.
    End,
}

/// What an operator says for the manifest.
pub(crate) enum Word {
    /// The event time that is complete.
    Through(Option<i64>),
    /// The newest revision of a fold.
    Revision(String, RevisionMark),
}
