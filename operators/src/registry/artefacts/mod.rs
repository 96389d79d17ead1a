//! Where the files of versions lie.
//!
//! ```text
//! Folder   <model>/<id>/…  written under another name, renamed when all of it is durable
//! Objects  <model>/<id>/…  one by one, and last, or first when it goes, the checksums: they make a version of them
//! ```
//! Either way a version is there wholly or not at all, for everyone who looks and after any crash.

mod folder;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use millstream_engine::Result;

pub(super) use folder::{Folder, TEMPORARY, failed, sync_folder, write_durably};
pub(super) use objects::Objects;

/// A version's model and id.
pub(super) type Subject = (String, String);

/// The same, borrowed.
pub(super) type Named<'a> = (&'a str, &'a str);

/// Told after each step that a crash may follow.
pub(super) type Done<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

/// The file that holds a registry's own name, where its database lies elsewhere.
const LABEL: &str = "registry.id";

/// Keeps the files of versions. Who changes something has excluded all others.
pub(super) trait Artefacts: fmt::Debug + Send + Sync {
    /// Where it is, for people: a folder, or a URL.
    fn place(&self) -> String;

    /// How many reads are worth doing at a time.
    fn readers(&self) -> usize;

    /// The versions that are there, of a model or of all.
    fn versions(&self, model: Option<&str>) -> Result<BTreeSet<Subject>>;

    /// Whether a version is there.
    fn contains(&self, version: Named<'_>) -> Result<bool>;

    /// A file of a version; `None` if there is none of that name.
    fn read(&self, version: Named<'_>, file: &str) -> Result<Option<Vec<u8>>>;

    /// The files of a version, with their bytes.
    fn sizes(&self, version: Named<'_>) -> Result<BTreeMap<String, u64>>;

    /// Puts a version there that is not there yet, durably. Its last file is that of the checksums.
    fn put(&self, version: Named<'_>, files: &[(String, Vec<u8>)], done: Done<'_>) -> Result<()>;

    /// Makes durable what can be seen of a version: a crash may have come before that.
    fn settle(&self, version: Named<'_>) -> Result<()>;

    /// Takes a version away, durably. What is left of it is no version, and stays until [`Artefacts::clear`].
    fn hide(&self, version: Named<'_>, done: Done<'_>) -> Result<()>;

    /// Removes what [`Artefacts::hide`] has left.
    fn clear(&self, version: Named<'_>) -> Result<()>;

    /// The registry's own name, if it was given one.
    fn label(&self) -> Result<Option<String>>;

    /// Gives the registry its own name.
    fn set_label(&self, label: &str) -> Result<()>;
}
