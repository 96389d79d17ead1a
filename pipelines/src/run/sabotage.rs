//! Bugs on purpose. They exist only so that the simulator can prove that it would find them: nothing but its tests ever
//! asks for one.

use std::sync::Arc;

use millstream_engine::Result;
use millstream_engine::checkpoint::{self, Checkpoint, Store};

use super::commit::Reached;
use super::recover::Decision;
use super::tenure::Tenure;

/// A bug that real systems have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// What was committed is looked up first, and older runs are fenced after that: what they commit in between is not
    /// known.
    ProgressReadBeforeFencing,
    /// A checkpoint counts as soon as all state is there, whether or not the epochs before it are committed.
    CheckpointAheadOfCommit,
    /// What was committed is bound anew after a restart, in other epochs than those that were published.
    RebindOnReplay,
    /// An append whose outcome is open is made again with the same producer, without a look at what became of it.
    RetryInSameProducerEpoch,
}

impl Sabotage {
    /// Does to a start what the bug does; gives what the run takes to be durable.
    pub(super) fn harm(
        self,
        tenure: &mut Tenure,
        decision: &mut Decision<Checkpoint>,
        store: Option<&Arc<dyn Store>>,
    ) -> Result<Reached> {
        match self {
            Self::ProgressReadBeforeFencing => {}
            Self::RetryInSameProducerEpoch => tenure.be_careless(),
            Self::CheckpointAheadOfCommit => {
                if let Some(newest) = store.map(newest).transpose()?.flatten() {
                    decision.replay.retain(|recorded| recorded.binding.epoch >= newest.epoch());
                    decision.checkpoint = Some(newest);
                }
            }
            Self::RebindOnReplay => {
                decision.replay.clear();
                let end = decision.history.epochs.last().map_or(0, |past| past.epoch() + 1);
                return Ok(Reached { sent: end, durable: end, told: (end, 0) });
            }
        }
        Ok(Reached::default())
    }
}

/// The newest checkpoint that is whole, whatever the journal says.
fn newest(store: &Arc<dyn Store>) -> Result<Option<Checkpoint>> {
    let listed = checkpoint::list(&**store)?;
    Ok(listed.into_iter().find_map(|listed| checkpoint::open(store, listed.manifest.ok()?).ok()))
}
