//! Where checkpoints are kept.

use serde::{Deserialize, Serialize};

use crate::Result;

/// An object that a store has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// How large it is.
    pub bytes: u64,
}

/// Keeps objects by name: `parts/<hash>`, `manifests/<epoch>`. A name is one or more parts of `[a-z0-9._-]`, joined by `/`.
pub trait Store: Send + Sync + 'static {
    /// Writes an object durably, in the place of one that has the name. When this returns it is there whole, whatever happens
    /// after; whatever happens before, what was there stays, or the new one is there whole.
    fn put(&self, name: &str, content: &[u8]) -> Result<()>;

    /// An object's content; `None` if there is none of that name.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The objects whose names start with `prefix`, by name.
    fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// Removes an object; one that is not there is no error.
    fn delete(&self, name: &str) -> Result<()>;
}
