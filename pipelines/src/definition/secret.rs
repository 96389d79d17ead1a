//! Secrets: a definition only refers to them.
//!
//! `${env:NAME}` and `${file:PATH}` stand for a text that is kept in an environment variable or a file. Only a whole
//! value may be a reference. Nothing but [`Secrets::resolve`] looks them up, and it does so only when a run starts;
//! the tree and its digest keep the reference, and whatever is printed passes [`Secrets::redact`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::node::{Data, Node, Span};
use crate::report::Finding;

/// The largest file that is taken as a secret.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// An environment variable.
    Env(String),
    /// A file; relative paths start at the definition's folder. A line end at its end is not part of the secret.
    File(String),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "${{env:{name}}}"),
            Self::File(path) => write!(f, "${{file:{path}}}"),
        }
    }
}

impl Reference {
    /// Reads a text: a reference, or `None` for ordinary text, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Option<Self>, (&'static str, String, &'static str)> {
        let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|rest| !rest.contains('}'));
        if let Some(name) = whole.and_then(|rest| rest.strip_prefix("env:")) {
            let legal =
                |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit();
            if name.is_empty() || !name.bytes().enumerate().all(legal) {
                let message = format!("`{name}` is no name of an environment variable");
                return Err(("bad-reference", message, "use letters, digits and `_`: `${env:KAFKA_PASSWORD}`"));
            }
            return Ok(Some(Self::Env(name.to_owned())));
        }
        if let Some(path) = whole.and_then(|rest| rest.strip_prefix("file:")) {
            if path.trim().is_empty() || path.contains('\0') {
                return Err((
                    "bad-reference",
                    "the reference names no file".into(),
                    "name one: `${file:/run/secrets/password}`",
                ));
            }
            return Ok(Some(Self::File(path.to_owned())));
        }
        if text.contains("${env:") || text.contains("${file:") {
            let help = "make the reference the whole value, and put the rest into the variable or file";
            return Err(("partial-reference", "a reference to a secret must be the whole value".into(), help));
        }
        Ok(None)
    }
}

/// The secrets that were looked up. They are never printed.
#[derive(Default)]
pub struct Secrets(BTreeMap<Reference, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Looks up all references below `root`.
    pub fn resolve(root: &Node, folder: &Path) -> Result<Self, Vec<Finding>> {
        let (mut found, mut findings) = (Self::default(), Vec::new());
        root.visit(&mut |node| {
            let Data::Reference(reference) = &node.data else { return };
            if found.0.contains_key(reference) {
                return;
            }
            match reference.look_up(folder) {
                Ok(secret) => drop(found.0.insert(reference.clone(), secret)),
                Err((message, help)) => findings.push(missing(node.span, message, help)),
            }
        });
        if findings.is_empty() { Ok(found) } else { Err(findings) }
    }

    /// What a reference stands for; the reference itself where nothing was looked up.
    pub(crate) fn value(&self, reference: &Reference) -> String {
        self.0.get(reference).cloned().unwrap_or_else(|| reference.to_string())
    }

    /// Whether the reference was looked up.
    pub fn knows(&self, reference: &Reference) -> bool {
        self.0.contains_key(reference)
    }

    /// `text` with every secret in it replaced by its reference.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for (reference, secret) in &self.0 {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), &reference.to_string()));
            }
        }
        text
    }
}

impl Reference {
    /// What is kept there, or what is wrong and how to mend it.
    pub fn look_up(&self, folder: &Path) -> Result<String, (String, &'static str)> {
        let secret = match self {
            Self::Env(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => {
                    (format!("the environment variable `{name}` is not set"), "set it before the run starts")
                }
                std::env::VarError::NotUnicode(_) => {
                    (format!("the environment variable `{name}` is not UTF-8"), "secrets are text")
                }
            })?,
            Self::File(path) => read(&folder.join(path)).map_err(|error| {
                (format!("the file `{path}` cannot be read: {error}"), "secrets are small text files")
            })?,
        };
        if secret.is_empty() {
            return Err((
                format!("`{self}` is empty"),
                "an empty secret is most likely a mistake; leave the key out instead",
            ));
        }
        Ok(secret)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let len = std::fs::metadata(path)?.len();
    if len > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has {len} bytes, the limit is {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn missing(span: Span, message: String, help: &str) -> Finding {
    Finding::error(span, "missing-secret", message).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_values_are_references() {
        let case = |text: &str| match Reference::parse(text) {
            Ok(Some(reference)) => reference.to_string(),
            Ok(None) => "text".to_owned(),
            Err((code, _, _)) => code.to_owned(),
        };
        assert_eq!(case("${env:A_1}"), "${env:A_1}");
        assert_eq!(case("${file:/run/secrets/x}"), "${file:/run/secrets/x}");
        assert_eq!(case("plain"), "text");
        assert_eq!(case("${other:x}"), "text");
        assert_eq!(case("${env:1A}"), "bad-reference");
        assert_eq!(case("${file:}"), "bad-reference");
        assert_eq!(case("x${env:A}"), "partial-reference");
        assert_eq!(case("${env:A}${env:B}"), "partial-reference");
    }
}
