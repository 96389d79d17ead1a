//! What models begin with: versions of a registry, or files.
//!
//! ```text
//! `returns@champion` ─ first start ─► returns/1f3a… ─► its state, kept in STATE/origins/DIGEST and named in the journal
//!                    ─ any later start, replay, rollback ────────────────┘
//! ```
//! What a model begins with is part of what it is made of, like the records. So as long as a definition says the same, that means
//! what it meant when the pipeline first started with it, whatever an alias names since; and the state stays when the version goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_connectors::broker::Broker;
use millstream_engine::binding::Frontier;
use millstream_engine::checkpoint::{self, Store};
use millstream_engine::graph::Graph;
use millstream_engine::operator::{Begun, MakeFold, Power};
use millstream_engine::{Fault, Result, digest, failpoint};
use millstream_operators::inference::STATE;
use millstream_operators::registry::Metadata;
use serde::{Deserialize, Serialize};

use crate::plan::{Model, Pipeline};
use crate::registry;
use crate::run::journal::Record;
use crate::run::recover::Note;
use crate::run::tenure;
use crate::shape::Begins;

/// What a model begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// BLAKE3 of the file of its state.
    pub digest: String,
    /// The version, `returns/1f3a…`; `None` where a file was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How many examples it had learned.
    pub examples: u64,
    /// What it had learned through.
    pub learned_through: Frontier,
}

impl Origin {
    /// The version, or the digest of a file.
    pub fn name(&self) -> String {
        self.version.as_ref().unwrap_or(&self.digest).clone()
    }
}

/// What was meant, by what a definition says ([`Begins::words`]).
pub type Named = BTreeMap<String, Origin>;

/// The largest file of a state.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Where states are kept, below the state directory.
const FOLDER: &str = "origins";
/// What is known of a version, beside its files.
const METADATA: &str = "metadata.json";

/// What the models of a pipeline begin with, read and checked.
#[derive(Clone, Default)]
pub struct Origins(BTreeMap<String, Held>);

#[derive(Clone)]
struct Held {
    origin: Origin,
    file: Arc<[u8]>,
}

/// What earlier starts have recorded, as far as a pipeline needs it: `journal` is its topic.
pub fn recorded(
    pipeline: &Pipeline,
    broker: &dyn Broker,
    journal: &str,
    store: Option<&Arc<dyn Store>>,
) -> Result<Named> {
    let mut named = Named::new();
    if pipeline.models.iter().all(|model| model.begins.is_none()) || broker.topic(journal)?.is_none() {
        return Ok(named);
    }
    let (mut from, _) = tenure::range(broker, journal)?;
    let listed = store.map_or_else(|| Ok(Vec::new()), |store| checkpoint::list(&**store))?;
    let mut manifests = listed.into_iter().filter_map(|listed| listed.manifest.ok());
    if let Some(note) = manifests.find_map(|manifest| serde_json::from_value::<Note>(manifest.note).ok()) {
        (named, from) = (note.definition.origins, from.max(note.journal_from));
    }
    tenure::look(broker, journal, from, |entry| {
        // Whoever goes on from the journal says what is wrong with it.
        if let Ok(Record::Start(definition)) = Record::parse(journal, &entry) {
            named = definition.origins;
        }
        Ok(())
    })?;
    Ok(named)
}

impl Origins {
    /// Looks up what a pipeline's models begin with: what was recorded, or what its names mean now. Versions are those of the
    /// state directory's registry, where no other is named.
    pub fn find(pipeline: &Pipeline, state: &Path, recorded: &Named) -> Result<Self> {
        let mut origins = Self::default();
        for model in &pipeline.models {
            let Some(begins) = &model.begins else { continue };
            let words = begins.words();
            let place = Place { begins, pipeline, state };
            let refused = |fault: Fault| {
                let message = format!("model {} cannot begin with {begins}: {}", model.name, fault.message);
                Fault { message, ..fault }
            };
            let mut held = match (origins.0.remove(&words), recorded.get(&words)) {
                (Some(held), _) => held,
                (None, Some(origin)) => place.again(origin).map_err(refused)?,
                (None, None) => place.now().map_err(refused)?,
            };
            let Power::Fold(folding) = &pipeline.nodes[model.node].step.power else { continue };
            let mut fold = (folding.make)();
            fold.begin_with(&held.file).map_err(refused)?;
            held.origin.examples = fold.examples();
            origins.0.insert(words, held);
        }
        Ok(origins)
    }

    /// What was found, to be recorded.
    pub fn named(&self) -> Named {
        self.0.iter().map(|(words, held)| (words.clone(), held.origin.clone())).collect()
    }

    /// What a model begins with.
    pub fn of(&self, model: &Model) -> Option<&Origin> {
        self.held(model).map(|held| &held.origin)
    }

    fn held(&self, model: &Model) -> Option<&Held> {
        self.0.get(&model.begins.as_ref()?.words())
    }

    /// Lets the models of a pipeline's graph begin with it.
    pub fn begin(&self, pipeline: &Pipeline, graph: &mut Graph) -> Result<()> {
        for model in &pipeline.models {
            let Some(Held { origin, .. }) = self.held(model) else { continue };
            let Power::Fold(folding) = &mut graph.nodes[model.node].step.power else { continue };
            folding.make = self.make(model, &folding.make)?;
            let learned_through = Arc::new(origin.learned_through.clone());
            folding.begun = Some(Begun { learned_through, learns: model.learns });
        }
        Ok(())
    }

    /// What makes a model's fold, or one with other settings, so that it begins with it. Says what does not fit.
    pub fn make(&self, model: &Model, make: &MakeFold) -> Result<MakeFold> {
        let Some(Held { file, .. }) = self.held(model) else { return Ok(make.clone()) };
        begun(make, file)
    }

    /// Keeps all of it in the state directory, durably.
    pub fn keep(&self, state: &Path) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let folder = state.join(FOLDER);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        for Held { origin, file } in self.0.values() {
            let path = folder.join(&origin.digest);
            if fs::read(&path).is_ok_and(|kept| digest::of(&kept) == origin.digest) {
                continue;
            }
            let temporary = folder.join(format!("{}.tmp", origin.digest));
            let write = || {
                let mut to = File::create(&temporary)?;
                to.write_all(file)?;
                to.sync_all()
            };
            failpoint::around("origin.write", write).map_err(failed("write", &temporary))?;
            failpoint::around("origin.rename", || fs::rename(&temporary, &path)).map_err(failed("write", &path))?;
        }
        let sync = |folder: &Path| File::open(folder).and_then(|open| open.sync_all());
        sync(&folder).and_then(|()| sync(state)).map_err(failed("make durable", &folder))
    }
}

/// What makes a fold that begins with a file. Says what does not fit.
pub(crate) fn begun(make: &MakeFold, file: &Arc<[u8]>) -> Result<MakeFold> {
    make().begin_with(file)?;
    let (make, file) = (make.clone(), file.clone());
    Ok(Arc::new(move || {
        let mut fold = make();
        fold.begin_with(&file).expect("such a fold has taken it already");
        fold
    }))
}

/// Where something is looked for.
struct Place<'a> {
    begins: &'a Begins,
    /// Whose models they are.
    pipeline: &'a Pipeline,
    /// The state directory.
    state: &'a Path,
}

impl Place<'_> {
    /// What is meant now.
    fn now(&self) -> Result<Held> {
        match self.begins {
            Begins { version: Some(name), .. } => self.version(name),
            Begins { file: Some(path), .. } => self.file(path),
            Begins { .. } => Err(Fault::ours("a definition says what a model begins with")),
        }
    }

    /// What was recorded: it was kept, or is still where it was.
    fn again(&self, origin: &Origin) -> Result<Held> {
        let kept = fs::read(self.state.join(FOLDER).join(&origin.digest));
        if let Some(file) = kept.ok().filter(|file| digest::of(file) == origin.digest) {
            return Ok(Held { origin: origin.clone(), file: file.into() });
        }
        let found = match &origin.version {
            Some(version) => self.version(version),
            None => self.now(),
        };
        let was = origin.version.clone().unwrap_or_else(|| format!("a file of digest {}", origin.digest));
        let gone = |why: String| {
            let kept = self.state.join(FOLDER);
            Fault::world(format!(
                "it began with {was}, which is neither kept in {} nor where it was: {why}",
                kept.display()
            ))
        };
        match found {
            Ok(held) if held.origin.digest == origin.digest => Ok(Held { origin: origin.clone(), ..held }),
            Ok(held) => {
                Err(gone(format!("what is there has the digest {}, not {}", held.origin.digest, origin.digest)))
            }
            Err(fault) => Err(gone(fault.message.clone()).because(fault)),
        }
    }

    /// The state of a version, all of whose files are checked.
    fn version(&self, name: &str) -> Result<Held> {
        let registry = registry::find(self.pipeline, self.state, self.begins.registry.as_ref())?;
        let version = registry.find(name)?;
        let full = format!("{}/{}", version.metadata.model, version.id);
        let files = registry.artefacts(&version)?;
        let state = files.into_iter().find(|(name, _)| name == STATE).map(|(_, content)| content);
        let state = state.ok_or_else(|| {
            Fault::definition(format!(
                "version {full} holds no {STATE}: it was promoted before versions could be gone on from"
            ))
        })?;
        Ok(Held::new(state, Some(full), version.metadata.frontier))
    }

    /// A file, or that of a folder of a model's files.
    fn file(&self, path: &str) -> Result<Held> {
        let mut path: PathBuf = self.pipeline.folder.join(path);
        let mut frontier = Frontier::default();
        if path.is_dir() {
            // Versions say what they had learned through; what `millstream learn` writes does not.
            if let Ok(text) = fs::read(path.join(METADATA)) {
                let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| {
                    Fault::world(format!("{METADATA} in {} is damaged", path.display())).because(error)
                })?;
                frontier = metadata.frontier;
            }
            path.push(STATE);
        }
        let bytes = fs::metadata(&path).map_err(failed("read", &path))?.len();
        if bytes > FILE_BYTES_MAX {
            let message = format!("{} has {bytes} bytes, and {FILE_BYTES_MAX} at most are read", path.display());
            return Err(Fault::definition(message));
        }
        Ok(Held::new(fs::read(&path).map_err(failed("read", &path))?, None, frontier))
    }
}

impl Held {
    fn new(file: Vec<u8>, version: Option<String>, learned_through: Frontier) -> Self {
        let origin = Origin { digest: digest::of(&file), version, examples: 0, learned_through };
        Self { origin, file: file.into() }
    }
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| Fault::world(format!("cannot {what} {}", path.display())).because(error)
}
