//! Several passes over the same files: models go on where the pass before ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use millstream_engine::Result;
use millstream_engine::graph::Graph;
use millstream_engine::operator::{Answer, Fold, Measure, Power, Rejects};

/// By node: what a fold had become when it was last asked, which is after every epoch.
#[derive(Default)]
pub(super) struct Remembering(BTreeMap<usize, Arc<Mutex<Vec<u8>>>>);

impl Remembering {
    /// Lets the folds of a graph remember what they have become; with `again`, they begin with that.
    pub(super) fn go_on(&mut self, graph: &mut Graph, again: bool) {
        for (at, node) in graph.nodes.iter_mut().enumerate() {
            let Power::Fold(folding) = &mut node.step.power else { continue };
            let kept = Arc::clone(self.0.entry(at).or_default());
            let make = Arc::clone(&folding.make);
            folding.make = Arc::new(move || {
                let mut fold = make();
                let before = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if again && !before.is_empty() {
                    fold.restore(&before).expect("it is a snapshot of the same fold");
                    fold.measure_anew();
                }
                Box::new(Remembered { fold, kept: Arc::clone(&kept) })
            });
        }
    }
}

/// A fold that leaves what it has become.
struct Remembered {
    fold: Box<dyn Fold>,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Fold for Remembered {
    fn learn(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        self.fold.learn(port, rows, rejects)
    }

    fn examples(&self) -> u64 {
        self.fold.examples()
    }

    fn changes(&self) -> u64 {
        self.fold.changes()
    }

    fn begin_with(&mut self, file: &[u8]) -> Result<()> {
        self.fold.begin_with(file)
    }

    fn revision(&self) -> Arc<dyn Answer> {
        self.fold.revision()
    }

    fn measures(&self) -> Vec<Measure> {
        self.fold.measures()
    }

    fn measure_anew(&mut self) {
        self.fold.measure_anew();
    }

    fn snapshot(&self) -> Vec<u8> {
        let snapshot = self.fold.snapshot();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&snapshot);
        snapshot
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        self.fold.restore(snapshot)
    }
}
