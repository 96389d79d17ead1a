//! A fold while somebody looks at what it is taught and what it becomes.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_engine::Result;
use millstream_engine::digest::Digest;
use millstream_engine::operator::{Answer, Fold, Measure, Rejects, Snapshot};

type Taught = Box<dyn FnMut(usize, &RecordBatch) + Send>;
type Became = Box<dyn Fn(Snapshot) + Send>;

/// A fold that is otherwise as it was.
pub(crate) struct Watched {
    fold: Box<dyn Fold>,
    taught: Taught,
    became: Became,
}

impl Watched {
    /// Nobody looks yet.
    pub(crate) fn new(fold: Box<dyn Fold>) -> Self {
        Self { fold, taught: Box::new(|_, _| ()), became: Box::new(|_| ()) }
    }

    /// Shows the rows that it is taught, with their port.
    pub(crate) fn taught(self, taught: impl FnMut(usize, &RecordBatch) + Send + 'static) -> Self {
        Self { taught: Box::new(taught), ..self }
    }

    /// Gives copies of it: there is one after every epoch.
    pub(crate) fn became(self, became: impl Fn(Snapshot) + Send + 'static) -> Self {
        Self { became: Box::new(became), ..self }
    }
}

impl Fold for Watched {
    fn learn(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        (self.taught)(port, rows);
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

    fn copy(&self) -> Snapshot {
        self.fold.copy()
    }

    fn digest(&self) -> Digest {
        (self.became)(self.fold.copy());
        self.fold.digest()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        self.fold.restore(snapshot)
    }
}
