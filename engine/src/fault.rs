//! Errors that say whose fault they are, and whether the same call may be tried again.

use std::fmt;

/// Whose fault an error is; it decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The record's: it becomes a dead letter, the pipeline goes on.
    Record,
    /// The definition's: nothing starts.
    Definition,
    /// The outside world's (disk, network, broker): retried, or the run halts with its name.
    World,
    /// Ours: a broken invariant; the run halts.
    Ours,
}

/// An error that stops or delays a run.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Whose fault it is.
    pub blame: Blame,
    /// Whether the very same call may succeed later.
    pub retry: bool,
    /// What happened, to what, in one line.
    pub message: String,
    /// The error underneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The engine's result.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    fn new(blame: Blame, retry: bool, message: impl fmt::Display) -> Self {
        Self { blame, retry, message: message.to_string(), source: None }
    }

    /// The outside world failed for good; the run halts.
    pub fn world(message: impl fmt::Display) -> Self {
        Self::new(Blame::World, false, message)
    }

    /// The outside world failed, and the same call may succeed later.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::new(Blame::World, true, message)
    }

    /// The definition asks for something impossible.
    pub fn definition(message: impl fmt::Display) -> Self {
        Self::new(Blame::Definition, false, message)
    }

    /// A broken invariant of ours.
    pub fn ours(message: impl fmt::Display) -> Self {
        Self::new(Blame::Ours, false, message)
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.message = format!("{}: {source}", self.message);
        self.source = Some(Box::new(source));
        self
    }
}

/// Arrow kernels fail only on schema mismatches, which planning excludes.
impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::ours("an Arrow kernel refused a planned batch").because(error)
    }
}
