//! Bugs on purpose. They exist only so that the simulator can prove that it would find them: nothing but its tests ever
//! asks for one.

/// A bug that real systems have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// What was committed is looked up first, and older runs are fenced after that: what they commit in between is not
    /// known.
    ProgressReadBeforeFencing,
    /// What was committed is bound anew after a restart, in other epochs than those that were published.
    RebindOnReplay,
    /// An append whose outcome is open is made again with the same producer, without a look at what became of it.
    RetryInSameProducerEpoch,
}
