//! Where checkpoints and versions are kept: a folder, or a bucket of an object store.
//!
//! ```text
//! Folder ── its protocol (temporary name, fsync, rename, fsync) ──┬── RealDisk
//!                                                                 └── SimulatedDisk: the same code, and crashes at every step
//! Bucket ── s3://, gs://, az://, memory://
//! ```

mod disk;
mod folder;
mod object;
pub mod simulated;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_engine::checkpoint::Store;
use millstream_engine::{Fault, Result};
use url::Url;

pub use disk::{Disk, Entry, RealDisk};
pub use folder::Folder;
pub use object::Bucket;

const CHOICES: &str = "a folder, or a URL that starts with file:///, s3://, gs://, az:// or memory:///";

/// Where a definition says that something is kept.
pub enum Location {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a bucket.
    Bucket(Bucket),
}

/// The store that a definition names: a folder, as seen from the folder `base`, or a URL. Touches neither network nor disk.
pub fn open(to: &str, base: &Path) -> Result<Arc<dyn Store>> {
    Ok(match locate(to, base)? {
        Location::Folder(path) => Arc::new(Folder::open(&path)?),
        Location::Bucket(bucket) => Arc::new(bucket),
    })
}

/// The same, for those who keep folders their own way.
pub fn locate(to: &str, base: &Path) -> Result<Location> {
    let wrong = |why: &str| Fault::definition(format!("nothing can be kept in `{to}`: {why}"));
    if to.is_empty() {
        return Err(wrong(&format!("it is {CHOICES}")));
    }
    if !to.contains("://") {
        return Ok(Location::Folder(base.join(to)));
    }
    // A URL may hold what it should not, so that from here on it is not repeated.
    let wrong = |why: &str| Fault::definition(format!("nothing can be kept in that URL: {why}"));
    let url = Url::parse(to).map_err(|error| wrong("it cannot be read").because(error))?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "keys and options are taken from AWS_…, GOOGLE_… and AZURE_… in the environment, not from it",
        ));
    }
    if url.scheme() == "file" {
        // The object store's own way of writing files does not make them durable.
        let path = url.to_file_path().map_err(|()| wrong("a file:/// URL names a folder of this machine"))?;
        return Ok(Location::Folder(path));
    }
    Ok(Location::Bucket(Bucket::open(&url)?))
}

/// Refuses names that are not parts of `[a-z0-9._-]`, joined by `/`.
fn check_name(name: &str) -> Result<()> {
    if name.split('/').all(is_part) { Ok(()) } else { Err(Fault::ours(format!("`{name}` is no name for an object"))) }
}

/// Whether this may be a part of a name. None begins with a dot, so that it is neither `..` nor a temporary file.
fn is_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.bytes().all(plain)
}

/// The failpoint around the writing of an object.
fn write_step(name: &str) -> &'static str {
    if name.starts_with("manifests/") { "checkpoint.manifest" } else { "checkpoint.part" }
}
