//! Where a pipeline's registry is, and other registries that its definition names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_connectors::store::{self, Location};
use millstream_engine::checkpoint::Store;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::{Notebook, Place, Promotion, Registry, Version};

use crate::plan::Pipeline;
use crate::run::state::models_path;
use crate::run::user;
use crate::shape::{self, Elsewhere};

/// How long a bucket may take to answer: epochs wait for what is promoted.
const BUCKET_SECONDS_MAX: u64 = 20;

/// A pipeline's own registry, which is made if it is not there: by default the folder `models` of its state directory.
pub fn open(pipeline: &Pipeline, state: &Path) -> Result<Registry> {
    let own = models_path(state);
    let at = Lies::of(&pipeline.registry, &pipeline.folder, &own)?;
    at.open(pipeline.registry.database.as_deref(), Some(&own))
}

/// The registry that a model's `from` names, or the pipeline's own; it must be there.
pub fn find(pipeline: &Pipeline, state: &Path, elsewhere: Option<&Elsewhere>) -> Result<Registry> {
    let own = models_path(state);
    let there = match elsewhere {
        None => &pipeline.registry,
        Some(Elsewhere::Shared(registry)) => registry,
        Some(Elsewhere::Place(place)) => &shape::Registry { artefacts: Some(place.clone()), database: None },
    };
    let at = Lies::of(there, &pipeline.folder, &own)?;
    if let Lies::Folder(folder) = &at
        && !folder.is_dir()
    {
        return Err(Fault::definition(format!("there is no registry at {}", folder.display())));
    }
    at.open(there.database.as_deref(), elsewhere.is_none().then_some(&own))
}

/// Makes a version of what was not learned by a run: now, and by who runs this program.
pub fn promote(registry: &Registry, mut promotion: Promotion, now_ms: i64) -> Result<Version> {
    promotion.metadata.promoted_ms = now_ms;
    promotion.metadata.promoted_by = Some(user());
    let version = registry.promote(&promotion)?;
    registry.note_versions(now_ms)?;
    Ok(version)
}

/// Whether a pipeline's registry was ever made, as far as that can be told without asking for it.
pub fn is_made(pipeline: &Pipeline, state: &Path) -> Result<bool> {
    Ok(match Lies::of(&pipeline.registry, &pipeline.folder, &models_path(state))? {
        Lies::Folder(folder) => folder.exists(),
        Lies::Store(..) => true,
    })
}

/// Where the files of versions lie.
enum Lies {
    Folder(PathBuf),
    Store(Arc<dyn Store>, String),
}

impl Lies {
    fn of(registry: &shape::Registry, base: &Path, own: &Path) -> Result<Self> {
        let Some(to) = &registry.artefacts else { return Ok(Self::Folder(own.to_owned())) };
        Ok(match store::locate(to, base)? {
            Location::Folder(folder) => Self::Folder(folder),
            Location::Bucket(bucket) => Self::Store(Arc::new(bucket.within_seconds(BUCKET_SECONDS_MAX)), to.clone()),
        })
    }

    /// Without a server, what changes is noted beside the versions where these are a folder, and else in the folder `own`.
    fn open(&self, database: Option<&str>, own: Option<&PathBuf>) -> Result<Registry> {
        let notebook = match (database, self, own) {
            (Some(url), ..) => Notebook::Server(url),
            (None, Self::Folder(folder), _) => Notebook::Folder(folder),
            (None, Self::Store(..), Some(own)) => Notebook::Folder(own),
            (None, Self::Store(..), None) => Notebook::Nowhere,
        };
        let place = match self {
            Self::Folder(folder) => Place::Folder(folder),
            Self::Store(store, url) => Place::Store(store.clone(), url),
        };
        Registry::at(place, notebook)
    }
}
