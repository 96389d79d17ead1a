//! What is known of a version.

use std::collections::BTreeMap;

use millstream_engine::binding::{Epoch, Frontier};
use millstream_engine::operator::Measure;
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::measures;

/// A measure as it is stored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Score {
    /// What was measured: `log_loss`.
    pub name: String,
    /// Who reached it: `model`, `majority`.
    pub who: String,
    /// Over which rows: `all`, `carrier=AA`.
    pub over: String,
    /// The value. JSON has no word for what is not a number: `null` is read as that.
    #[serde(deserialize_with = "number")]
    pub value: f64,
}

fn number<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl From<&Measure> for Score {
    fn from(measure: &Measure) -> Self {
        Self {
            name: measure.name.to_owned(),
            who: measure.who.to_owned(),
            over: measure.over.to_string(),
            value: measure.value,
        }
    }
}

/// Where a revision came from, how good it was, and why it was promoted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Metadata {
    /// The model's name in the definition.
    pub model: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The digest of the pipeline's definition.
    pub definition_digest: String,
    /// The number of the revision.
    pub revision: u64,
    /// The epoch that made the revision.
    pub epoch: Epoch,
    /// What the revision had learned through.
    pub frontier: Frontier,
    /// What its parent had learned through: what lies between is what this version has learned since.
    #[serde(default)]
    pub since: Option<Frontier>,
    /// How many examples it had learned.
    pub examples: u64,
    /// The seed of all that was drawn by chance.
    #[serde(default)]
    pub seed: Option<u64>,
    /// What learned: `cpu`, or `gpu`.
    #[serde(default)]
    pub device: Option<String>,
    /// The model's measures and those of its baselines.
    pub measures: Vec<Score>,
    /// When the run started, milliseconds since 1970.
    pub started_ms: i64,
    /// When the revision was promoted, milliseconds since 1970.
    pub promoted_ms: i64,
    /// How long what took: `learning` in seconds.
    pub durations_seconds: BTreeMap<String, f64>,
    /// Why it was promoted.
    pub reason: String,
    /// Who ran the pipeline, by a user's name.
    #[serde(default)]
    pub promoted_by: Option<String>,
    /// The version that was promoted before.
    pub parent: Option<String>,
    /// What its model began with, if that was not nothing: a version, `returns/1f3a…`, or the digest of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_with: Option<String>,
    /// What was noticed of its errors since its parent, or since the run began where that was later: the last of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifts: Vec<Drift>,
}

/// What was noticed of a model's errors: that they drifted, or what became of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Drift {
    /// The event time of the row at which it was noticed, milliseconds since 1970.
    pub time_ms: i64,
    /// `drift`, or `challenge`.
    pub event: String,
    /// All about it: after how many examples, the errors before and after, what was done.
    pub about: Value,
}

impl Drift {
    /// So many are kept of a version at most.
    pub const KEPT_MAX: usize = 100;
    /// What counts as one.
    pub const EVENTS: [&str; 2] = ["drift", "challenge"];
}

impl Metadata {
    /// What the model reached over all rows.
    pub fn reached(&self, name: &str) -> Option<f64> {
        measures::reached(&self.measures, name).map(|score| score.value)
    }

    /// The measure by which the model is judged, the lower the better, and its value over all rows.
    pub fn decisive(&self) -> Option<(&str, f64)> {
        measures::decisive(&self.measures).map(|score| (score.name.as_str(), score.value))
    }

    /// The best baseline by a measure, the lower the better.
    pub fn best_baseline(&self, name: &str) -> Option<&Score> {
        measures::best_baseline(&self.measures, name)
    }

    /// How many times errors had drifted, where that is watched.
    pub fn drift_changes(&self) -> Option<u64> {
        self.reached("changes").map(|changes| changes as u64)
    }
}

/// A revision to be promoted.
#[derive(Clone, Debug, Default)]
pub struct Promotion {
    /// What is known of it.
    pub metadata: Metadata,
    /// Its files, from [`millstream_engine::operator::Answer::artefacts`].
    pub artefacts: Vec<(String, Vec<u8>)>,
}

/// The file that says what the numbers of a version mean, and with which parameters they were learned.
pub const DESCRIPTION: &str = "model.json";

/// The file in which the model explains itself to people.
pub const EXPLANATION: &str = "explanation.json";

/// A version in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// The first 16 hexadecimal digits of the digest.
    pub id: String,
    /// BLAKE3 of the files' checksums.
    pub digest: String,
    /// The files' names.
    pub files: Vec<String>,
    /// What is known of it.
    pub metadata: Metadata,
    /// Where it is, for people: a folder, or a URL.
    pub place: String,
}

/// What is known of a version.
pub(super) const METADATA: &str = "metadata.json";
/// Checksums of all other files, for `b3sum --check` too.
pub(super) const CHECKSUMS: &str = "checksums.b3";

impl Version {
    pub(super) fn subject(&self) -> (&str, &str) {
        (&self.metadata.model, &self.id)
    }

    /// The names of all that is stored of it: its files, and what describes them.
    pub fn stored(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).chain([METADATA, CHECKSUMS])
    }

    /// What sorts versions by their promotion.
    pub(super) fn order(&self) -> (i64, u64, String) {
        (self.metadata.promoted_ms, self.metadata.revision, self.id.clone())
    }
}

/// `metadata.json`.
#[derive(Deserialize, Serialize)]
pub(super) struct Manifest {
    pub(super) digest: String,
    pub(super) files: Vec<String>,
    #[serde(flatten)]
    pub(super) metadata: Metadata,
}

impl Manifest {
    pub(super) fn write(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| Fault::ours("metadata cannot be written").because(error))
    }
}

/// A line of a checksum file, as `b3sum` writes and checks it.
pub(super) fn checksum(name: &str, content: &[u8]) -> String {
    format!("{}  {name}\n", millstream_engine::digest::of(content))
}

/// The lines of all files.
pub(super) fn checksums(files: &[(String, Vec<u8>)]) -> String {
    files.iter().map(|(name, content)| checksum(name, content)).collect()
}

/// The digest of a version: BLAKE3 of its files' checksums.
pub(super) fn digest(artefacts: &[(String, Vec<u8>)]) -> String {
    millstream_engine::digest::of(checksums(artefacts).as_bytes())
}

/// Refuses names that could lead out of the registry's folder, or that it uses itself.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(allowed);
    if fits && !name.starts_with('.') && !name.contains("..") {
        return Ok(());
    }
    Err(Fault::definition(format!(
        "{what} name {name:?}: a name has 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, does not start with `.`, \
         and has no `..`"
    )))
}
