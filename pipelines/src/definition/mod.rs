//! The definition file as text and as a tree.
//!
//! ```text
//! text ──parse──► Node tree with spans ──to_value──► JSON for the components
//!                   │        └──locate──► span of a problem's path
//!                   └──digest──► the definition's fingerprint
//! ```

mod digest;
mod node;
mod parse;
mod secret;

use std::path::{Path, PathBuf};

pub(crate) use digest::of as digest_of;
pub use node::{Data, Entry, Node, Span};
pub use secret::{Reference, Secrets};

use crate::report::Finding;

/// A definition that was read, with what is wrong with its form; nothing is known of its meaning yet.
#[derive(Clone, Debug)]
pub struct Definition {
    /// What it is called in messages: the path as the user gave it.
    pub file: String,
    /// The text.
    pub text: String,
    /// The tree.
    pub root: Node,
    /// What is wrong with its form.
    pub findings: Vec<Finding>,
    /// Its fingerprint: of what may change results, without comments, blanks and secrets.
    pub digest: String,
}

impl Definition {
    /// Reads `text`; `file` is what it is called in messages, and relative paths start at its folder.
    pub fn parse(file: &str, text: &str) -> Self {
        // A byte order mark is no part of the text, and would shift all places.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (root, findings) = parse::parse(text);
        let digest = digest::digest(&root);
        Self { file: file.to_owned(), text: text.to_owned(), root, findings, digest }
    }

    /// Reads the file at `path`.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = String::from_utf8(std::fs::read(path)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("byte {at} is not UTF-8"))
        })?;
        Ok(Self::parse(&path.to_string_lossy(), &text))
    }

    /// The folder that relative paths start at.
    pub fn folder(&self) -> PathBuf {
        Path::new(&self.file)
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .map_or_else(|| ".".into(), Into::into)
    }
}

#[cfg(test)]
mod tests;
