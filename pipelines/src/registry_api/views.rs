//! Models and versions as MLflow's JSON.

use std::collections::BTreeMap;

use millstream_engine::Result;
use millstream_operators::registry::{About, Entry, Registry};
use serde_json::{Value, json};

use super::filter::Facts;

/// Before the tags that say what the registry knows, and nobody can change.
pub(super) const OURS: &str = "millstream.";

/// A version that has a number.
pub(super) struct ModelVersion {
    pub(super) entry: Entry,
    pub(super) number: u64,
    /// Those that people set, and ours.
    pub(super) tags: BTreeMap<String, String>,
}

/// A model with its versions, by number.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) versions: Vec<ModelVersion>,
    about: About,
    /// The newest promoted version that is sound.
    newest: Option<u64>,
}

/// All models by name.
pub(super) fn models(registry: &Registry) -> Result<BTreeMap<String, Model>> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    let mut noted = registry.about_models()?;
    for entry in registry.entries()? {
        let Some(number) = entry.number else { continue };
        let name = entry.model.clone();
        let model = models.entry(name.clone()).or_insert_with(|| Model {
            about: noted.remove(&name).unwrap_or_default(),
            name,
            versions: Vec::new(),
            newest: None,
        });
        if entry.version.is_ok() {
            model.newest = Some(number);
        }
        model.versions.push(ModelVersion { tags: tags(&entry), number, entry });
    }
    models.values_mut().for_each(|model| model.versions.sort_by_key(|version| version.number));
    Ok(models)
}

/// The tags of a version, and what the registry knows of it as tags.
fn tags(entry: &Entry) -> BTreeMap<String, String> {
    let mut tags = entry.tags.clone();
    let mut put = |name: &str, value: String| drop(tags.insert(format!("{OURS}{name}"), value));
    put("id", entry.id.clone());
    let Ok(version) = &entry.version else { return tags };
    let metadata = &version.metadata;
    put("digest", version.digest.clone());
    put("pipeline", metadata.pipeline.clone());
    put("definition_digest", metadata.definition_digest.clone());
    put("revision", metadata.revision.to_string());
    put("examples", metadata.examples.to_string());
    put("reason", metadata.reason.clone());
    if let Some((name, value)) = metadata.decisive() {
        put(name, value.to_string());
    }
    tags
}

impl ModelVersion {
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts { name: &self.entry.model, number: Some(self.number), tags: &self.tags }
    }

    pub(super) fn created_ms(&self) -> i64 {
        self.entry.version.as_ref().map_or(0, |version| version.metadata.promoted_ms)
    }

    pub(super) fn changed_ms(&self) -> i64 {
        self.entry.changed_ms.unwrap_or(0).max(self.created_ms())
    }

    /// Where its files are, for MLflow's clients.
    pub(super) fn source(&self) -> String {
        format!("mlflow-artifacts:/{}/{}", self.entry.model, self.number)
    }

    pub(super) fn json(&self) -> Value {
        let Entry { model, version, aliases, description, .. } = &self.entry;
        let user =
            version.as_ref().ok().and_then(|version| version.metadata.promoted_by.as_deref()).unwrap_or_default();
        // MLflow has no other word for a version whose files nobody should use.
        let (status, message) = match version {
            Ok(_) => ("READY", String::new()),
            Err(fault) => ("FAILED_REGISTRATION", fault.to_string()),
        };
        json!({
            "name": model, "version": self.number.to_string(), "user_id": user, "current_stage": "None",
            "creation_timestamp": self.created_ms(), "last_updated_timestamp": self.changed_ms(),
            "description": description, "source": self.source(), "run_id": "",
            "status": status, "status_message": message, "aliases": aliases, "tags": pairs(&self.tags),
        })
    }
}

impl Model {
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts { name: &self.name, number: None, tags: &self.about.tags }
    }

    pub(super) fn created_ms(&self) -> i64 {
        self.versions.iter().map(ModelVersion::created_ms).min().unwrap_or(0)
    }

    pub(super) fn changed_ms(&self) -> i64 {
        self.versions.iter().map(ModelVersion::changed_ms).max().unwrap_or(0)
    }

    /// What MLflow calls the latest version of the stage `None`, which is every version's.
    pub(super) fn latest(&self) -> Option<&ModelVersion> {
        self.versions.iter().find(|version| Some(version.number) == self.newest)
    }

    pub(super) fn json(&self) -> Value {
        let aliases = self.versions.iter().flat_map(|version| {
            let number = version.number.to_string();
            version.entry.aliases.iter().map(move |alias| json!({"alias": alias, "version": number}))
        });
        json!({
            "name": self.name, "description": self.about.description, "tags": pairs(&self.about.tags),
            "creation_timestamp": self.created_ms(), "last_updated_timestamp": self.changed_ms(),
            "latest_versions": self.latest().map(ModelVersion::json).into_iter().collect::<Vec<_>>(),
            "aliases": aliases.collect::<Vec<_>>(),
        })
    }
}

fn pairs(tags: &BTreeMap<String, String>) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}
