//! A model's whole state as a file of a version, with which it can be gone on from.
//!
//! ```text
//! "millstream state 2\n" │ BLAKE3 of what follows, 32 bytes │ what the model is · examples · the learner's snapshot
//! ```
//! What it was judged by is not in it: whoever goes on is judged anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Spec;

/// The file of a version from which it can be gone on from.
pub const STATE: &str = "state.bin";

/// How a file of this format begins; the number is the format's.
const MAGIC: &[u8] = b"millstream state 2\n";
/// How a file of any of its formats begins.
const ANY_MAGIC: &[u8] = b"millstream state ";
const DIGEST_BYTES: usize = 32;
/// Differences that are told at most.
const TOLD: usize = 5;
/// What may differ: it says where and how fast something is computed, not what.
const INDIFFERENT: [&str; 2] = ["device", "threads"];

/// A model's state, from its file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub struct Saved {
    /// What it is: [`Spec::describe`].
    about: String,
    /// How many examples it had learned.
    pub examples: u64,
    /// [`crate::models::Learner::snapshot`].
    #[serde(with = "serde_bytes")]
    pub learner: Vec<u8>,
}

impl Saved {
    /// Of a learner of this kind.
    pub(super) fn new(spec: &Spec, examples: u64, learner: Vec<u8>) -> Self {
        Self { about: spec.describe().to_string(), examples, learner }
    }

    /// The same file of a model that had learned so many examples: its weights were those of one that had.
    pub fn renumbered(file: &[u8], examples: u64) -> Result<Vec<u8>, String> {
        Self::read(file).map(|saved| Self { examples, ..saved }.write())
    }

    /// Whether a file says that it is one of these.
    pub fn is_one(file: &[u8]) -> bool {
        file.starts_with(ANY_MAGIC)
    }

    /// As a file; equal states give equal bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("numbers and strings can be written to memory");
        [MAGIC, blake3::hash(&body).as_bytes(), &body].concat()
    }

    /// From a file, or why it is none.
    pub fn read(file: &[u8]) -> Result<Self, String> {
        let Some(rest) = file.strip_prefix(MAGIC) else {
            let is_other = Self::is_one(file);
            return Err(if is_other {
                "it is in a format of another version of this program".to_owned()
            } else {
                "it is no file of a model's state".to_owned()
            });
        };
        let damaged = || "it is damaged, or cut short".to_owned();
        let (digest, body) = rest.split_at_checked(DIGEST_BYTES).ok_or_else(damaged)?;
        if blake3::hash(body).as_bytes() != digest {
            return Err(damaged());
        }
        postcard::from_bytes(body).map_err(|error| format!("it cannot be understood: {error}"))
    }

    /// Whether a model is of the same kind, with the same settings, features and classes; else what differs.
    pub fn check(&self, spec: &Spec) -> Result<(), String> {
        let read = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        let (there, here) = (read(&self.about)?, read(&spec.describe().to_string())?);
        for key in ["task", "model"] {
            if there[key] != here[key] {
                return Err(format!("its learner is {}, and this one's is {}", there["model"], here["model"]));
            }
        }
        let mut differences = Vec::new();
        for (key, called) in [("classes", "classes"), ("features", "features"), ("parameters", "")] {
            let (there, here) = (flat(called, &plain(&there[key])), flat(called, &plain(&here[key])));
            let mut paths: Vec<&String> = there.keys().chain(here.keys()).collect();
            paths.sort();
            paths.dedup();
            let is_other = |path: &&&String| {
                let last = path.rsplit('.').next().unwrap_or_default();
                there.get(**path) != here.get(**path) && !INDIFFERENT.contains(&last)
            };
            let told = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            let tell = |path: &String| {
                format!("`{path}` is {} there and {} here", told(there.get(path)), told(here.get(path)))
            };
            differences.extend(paths.iter().filter(is_other).map(|path| tell(path)));
        }
        if differences.is_empty() {
            return Ok(());
        }
        let more = differences.len().saturating_sub(TOLD);
        differences.truncate(TOLD);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Err(format!("it was learned otherwise: {}{more}", differences.join(", ")))
    }
}

/// A list of features as people call them; anything else as it is.
fn plain(value: &Value) -> Value {
    let feature = |feature: &Value| {
        let (name, kind) = (feature["name"].as_str()?, feature["type"].as_str()?);
        let categories = feature["category"]["categories"].as_u64();
        let categories = categories.map_or_else(String::new, |categories| format!(", {categories} categories"));
        Some(Value::String(format!("{name} ({kind}{categories})")))
    };
    let named = value.as_array().and_then(|items| items.iter().map(feature).collect::<Option<Vec<_>>>());
    named.map_or_else(|| value.clone(), Value::Array)
}

/// The values of a tree by their paths.
fn flat(path: &str, value: &Value) -> BTreeMap<String, Value> {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().flat_map(|(key, value)| flat(&below(key), value)).collect(),
        Value::Array(items) => (0..).zip(items).flat_map(|(at, value)| flat(&below(&at.to_string()), value)).collect(),
        value => BTreeMap::from([(path.to_owned(), value.clone())]),
    }
}
