//! The state directory: one run at a time.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use millstream_engine::{Fault, Result};

/// A state directory that this process has locked.
pub struct StateDir {
    path: PathBuf,
    /// Held until the process ends.
    _lock: File,
}

impl StateDir {
    /// Creates the directory if it is missing, and locks it.
    pub fn lock(path: &Path) -> Result<Self> {
        let at = path.display();
        std::fs::create_dir_all(path)
            .map_err(|error| Fault::world(format!("cannot create the state directory {at}")).because(error))?;
        let file = path.join("lock");
        let lock = File::create(&file)
            .map_err(|error| Fault::world(format!("cannot create {}", file.display())).because(error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Fault::world(format!(
                "another run uses the state directory {at}; stop it, or choose another with --state"
            ))),
            Err(TryLockError::Error(error)) => {
                Err(Fault::world(format!("cannot lock {}", file.display())).because(error))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a pipeline's state is unless the command says otherwise.
pub fn default_path(pipeline: &str) -> PathBuf {
    Path::new(".millstream").join(pipeline)
}

/// Where promoted versions are.
pub fn models_path(state: &Path) -> PathBuf {
    state.join("models")
}
