//! Checkpoints: all state for the epochs before one epoch, so that a restart replays only what came after.
//!
//! ```text
//! binder ─ cut at c ─► every operator that has state ─ pieces ─► writer ─► parts/HASH …, then manifests/c
//! ```
//! The binder says where the cut is before it releases epoch c. Each stateful operator hands over its state once all epochs
//! before c are complete for it and before it runs c itself: small states at once, states by key in small steps between
//! epochs ([`crate::state::KeyedInstance::walk`]). The writer packs the pieces into objects named by their content, and writes
//! the manifest, which lists them all, when every epoch before c is committed: so a checkpoint is there whole, or not at all,
//! and is never ahead of what was published. A checkpoint that fails is abandoned; the run goes on.
//!
//! | section | its pieces' keys | holds |
//! |---|---|---|
//! | a node's name | bin, or 0 for a fold | its state |
//! | `order/SOURCE` | partition | the newest event time |
//! | `held/SOURCE` | partition | rows that wait for the watermark |
//! | `order/*` | 0 | the watermark |
//!
//! No piece depends on how many workers there were, and each worker takes those that are its own. Which bin a key has depends on the
//! steps that come after ([`crate::graph::Graph::spread`]): where those have changed, each worker looks for its own in all bins.

use std::sync::Arc;

use crate::Result;
use crate::binding::Epoch;

mod cuts;
mod cutter;
mod manifest;
mod restore;
mod store;
mod writer;

pub(crate) use cuts::{Content, Cuts, Handed, Word};
pub(crate) use cutter::Cutter;
pub use manifest::{Listed, Manifest, Piece, Section, list};
pub use restore::{Checkpoint, Stored, open};
pub use store::{Object, Store};
pub(crate) use writer::Writer;

/// What the pipeline wants to find again in a checkpoint's manifest, said when every epoch before its own is committed.
pub type Note = Box<dyn FnMut(Epoch) -> Result<serde_json::Value> + Send>;

/// How checkpoints are made.
pub struct Checkpoints {
    /// Where they are kept. Nothing else may keep anything there.
    pub store: Arc<dyn Store>,
    /// So long after one, the next one is begun.
    pub every_seconds: f64,
    /// After so many bytes of records were bound since one, the next one is begun.
    pub every_bytes: u64,
    /// How many are kept.
    pub keep: usize,
    /// Makes the note for the checkpoint of the epochs before the given one.
    pub note: Note,
    /// A bug on purpose, for the simulator: a checkpoint does not wait until what is before it is committed.
    #[doc(hidden)]
    pub ahead: bool,
}
