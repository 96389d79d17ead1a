//! Several passes over the same files: models go on where the pass before ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_engine::graph::Graph;
use millstream_engine::operator::{Power, Snapshot};

use super::watched::Watched;

/// By node: what a fold had become after the last epoch.
#[derive(Default)]
pub(super) struct Remembering(BTreeMap<usize, Arc<Mutex<Option<Snapshot>>>>);

impl Remembering {
    /// Lets the folds of a graph remember what they have become; with `again`, they begin with that.
    pub(super) fn go_on(&mut self, graph: &mut Graph, again: bool) {
        for (at, node) in graph.nodes.iter_mut().enumerate() {
            let Power::Fold(folding) = &mut node.step.power else { continue };
            let kept = Arc::clone(self.0.entry(at).or_default());
            let make = Arc::clone(&folding.make);
            folding.make = Arc::new(move || {
                let mut fold = make();
                let mut last = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if again && let Some(copy) = last.take() {
                    let before = copy();
                    fold.restore(&before).expect("it is a snapshot of the same fold");
                    fold.measure_anew();
                    *last = Some(Box::new(move || before));
                }
                let kept = Arc::clone(&kept);
                Box::new(Watched::new(fold).became(move |copy| {
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
                }))
            });
        }
    }
}
