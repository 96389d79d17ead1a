//! Versions: how they come into the registry, and how they are found and read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use millstream_engine::checkpoint::Store;
use millstream_engine::{Fault, Result};

use super::artefacts::{Artefacts, Done, Folder, Named, Objects, Subject};
use super::database::{Database, File, Server};
use super::notes::{self, LATEST, number_of};
use super::version::{CHECKSUMS, METADATA, Manifest, Promotion, Version, check_name, checksum, checksums, digest};

pub(super) const ID_DIGITS: usize = 16;

/// Versions and what is noted of them. Any number of processes may read and change it: changes follow one another.
#[derive(Debug)]
pub struct Registry {
    pub(super) artefacts: Box<dyn Artefacts>,
    pub(super) database: Database,
    /// Whether the database lies elsewhere than the versions, so that one may be found without the other.
    pub(super) apart: bool,
}

/// Where the files of versions lie.
pub enum Place<'a> {
    /// A folder of this machine.
    Folder(&'a Path),
    /// A store that holds nothing else, and its URL, for people.
    Store(Arc<dyn Store>, &'a str),
}

/// Where what changes about versions is noted.
#[derive(Clone, Copy)]
pub enum Notebook<'a> {
    /// In a file in this folder. Those who change the registry must be on one machine.
    Folder(&'a Path),
    /// In the `PostgreSQL` database of this URL, which machines share.
    Server(&'a str),
    /// It is not known where: versions are found by their ids, and nothing is changed.
    Nowhere,
}

/// Refuses what is no URL of a database, or none that is understood. Does not connect.
pub fn check_database(url: &str) -> Result<()> {
    Server::of(url).map(drop)
}

/// An entry of the registry, which may be damaged.
#[derive(Debug)]
pub struct Listed {
    /// The model's name.
    pub model: String,
    /// The version's id.
    pub id: String,
    /// The version, or what is wrong with it.
    pub version: Result<Version>,
}

impl Registry {
    /// Opens the registry of a folder, which holds all of it, and makes the folder if there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::at(Place::Folder(folder), Notebook::Folder(folder))
    }

    /// Opens a registry. What is in folders is made if it is not there; nothing connects before it is needed.
    ///
    /// Calls of a registry block, and must not be made from asynchronous code; nor must it be dropped there.
    pub fn at(place: Place<'_>, notebook: Notebook<'_>) -> Result<Self> {
        let apart =
            !matches!((&place, notebook), (Place::Folder(versions), Notebook::Folder(notes)) if *versions == notes);
        let database = match notebook {
            Notebook::Folder(folder) => Database::File(File::of(folder)),
            Notebook::Server(url) => Database::Server(Box::new(Server::of(url)?)),
            Notebook::Nowhere => Database::Nowhere,
        };
        let artefacts: Box<dyn Artefacts> = match place {
            Place::Folder(folder) => Box::new(Folder::open(folder)?),
            Place::Store(store, url) => Box::new(Objects::new(store, url)),
        };
        Ok(Self { artefacts, database, apart })
    }

    /// Writes a version durably. If the registry has it already, that one is given back as it is.
    pub fn promote(&self, promotion: &Promotion) -> Result<Version> {
        self.promote_in_steps(promotion, &mut |_| Ok(()))
    }

    /// Calls `done` after each step that a crash may follow.
    pub(super) fn promote_in_steps(&self, promotion: &Promotion, done: Done<'_>) -> Result<Version> {
        let Promotion { metadata, artefacts } = sorted(promotion)?;
        let digest = digest(&artefacts);
        let files = artefacts.iter().map(|(name, _)| name.clone()).collect();
        let manifest = Manifest { digest, files, metadata };
        let mut contents = artefacts;
        contents.push((METADATA.to_owned(), manifest.write()?));
        contents.push((CHECKSUMS.to_owned(), checksums(&contents).into_bytes()));
        self.database.alone(|| self.place(&manifest, &contents, done))
    }

    /// Puts a version there that has these files. Nobody else changes the registry meanwhile.
    pub(super) fn place(&self, manifest: &Manifest, contents: &[(String, Vec<u8>)], done: Done<'_>) -> Result<Version> {
        let Manifest { digest, metadata, .. } = manifest;
        let subject = (metadata.model.as_str(), &digest[..ID_DIGITS]);
        if !self.artefacts.contains(subject)? {
            self.artefacts.put(subject, contents, done)?;
            return self.read(subject);
        }
        let there = self.read(subject)?;
        if there.digest != *digest {
            return Err(damaged(&there, "it has another digest"));
        }
        self.artefacts.settle(subject)?;
        Ok(there)
    }

    /// All versions by model and time of promotion; damaged ones, too.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.listed(None)
    }

    /// The versions of a model, by time of promotion; damaged ones, too.
    pub fn versions_of(&self, model: &str) -> Result<Vec<Listed>> {
        self.listed(Some(model))
    }

    fn listed(&self, model: Option<&str>) -> Result<Vec<Listed>> {
        let versions: Vec<Subject> = self.artefacts.versions(model)?.into_iter().collect();
        let readers = self.artefacts.readers().min(versions.len());
        let listed = if readers > 1 {
            // Where reading is waiting, many wait at a time.
            let next = AtomicUsize::new(0);
            let read = || {
                let taken = std::iter::repeat_with(|| versions.get(next.fetch_add(1, Ordering::Relaxed)));
                taken.map_while(|version| version.map(|version| self.look(version))).collect::<Vec<_>>()
            };
            thread::scope(|scope| {
                let reading: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
                let read = reading.into_iter().flat_map(|reading| reading.join().expect("reading does not panic"));
                read.collect::<Result<Vec<_>>>()
            })?
        } else {
            versions.iter().map(|version| self.look(version)).collect::<Result<Vec<_>>>()?
        };
        let mut listed: Vec<Listed> = listed.into_iter().flatten().collect();
        listed.sort_by_cached_key(|Listed { model, id, version }| {
            let order = version.as_ref().map_or_else(|_| (i64::MAX, u64::MAX, id.clone()), Version::order);
            (model.clone(), order)
        });
        Ok(listed)
    }

    /// A version that there was just now; `None` if it was deleted meanwhile.
    fn look(&self, (model, id): &Subject) -> Result<Option<Listed>> {
        let version = self.read((model, id));
        match &version {
            Err(_) if !self.artefacts.contains((model, id))? => Ok(None),
            // What a moment's trouble keeps from us is not damaged.
            Err(fault) if fault.retry => version.map(|_| None),
            _ => Ok(Some(Listed { model: model.clone(), id: id.clone(), version })),
        }
    }

    /// The version of a [name](Registry::find), its files checked.
    pub fn show(&self, name: &str) -> Result<Version> {
        let version = self.find(name)?;
        self.artefacts(&version).map(|_| version)
    }

    /// The one version that a name means: see [`Registry::resolve`].
    pub fn find(&self, name: &str) -> Result<Version> {
        let (model, id) = self.resolve(name)?;
        self.read((&model, &id))
    }

    /// The model and the id of the one version that a name means: the beginning of its id, `model/` and the beginning of its
    /// id, or `model@alias`. The alias `latest` means the newest promoted version, `v3` the third. It may be damaged.
    pub fn resolve(&self, name: &str) -> Result<(String, String)> {
        let all = self.list()?;
        if let Some((model, alias)) = name.split_once('@') {
            return Ok((model.to_owned(), self.resolve_alias(&all, model, alias)?));
        }
        let full = |listed: &Listed| format!("{}/{}", listed.model, listed.id);
        let mut found: Vec<&Listed> =
            all.iter().filter(|listed| listed.id.starts_with(name) || full(listed).starts_with(name)).collect();
        if let (Some(listed), true) = (found.pop(), found.is_empty()) {
            return Ok((listed.model.clone(), listed.id.clone()));
        }
        let names: Vec<String> = all.iter().map(full).collect();
        Err(Fault::definition(format!(
            "`{name}` is not the start of exactly one version; there are: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )))
    }

    /// The newest sound version of a model.
    pub fn newest(&self, model: &str) -> Result<Option<Version>> {
        Ok(self.listed(Some(model))?.into_iter().filter_map(|listed| listed.version.ok()).last())
    }

    fn resolve_alias(&self, all: &[Listed], model: &str, alias: &str) -> Result<String> {
        if alias == LATEST {
            let newest = self.newest(model)?.map(|version| version.id);
            return newest.ok_or_else(|| Fault::definition(format!("{model} has no sound version")));
        }
        if matches!(self.database, Database::Nowhere) {
            return Err(Fault::definition(format!(
                "{model}@{alias} is noted in the registry's database, which is not named: add `database`, or name the version by \
                 its id"
            )));
        }
        let noted = self.notes(all)?;
        let found = if let Some(number) = number_of(alias) {
            let is_it = |((of, _), number_of): &(&(String, String), &u64)| of == model && **number_of == number;
            noted.numbers.iter().find(is_it).map(|((_, id), _)| id)
        } else {
            let id = noted.aliases.get(&(model.to_owned(), alias.to_owned()));
            Some(id.ok_or_else(|| notes::no_alias(&noted, model, alias))?)
        };
        let is_there = |id: &&String| all.iter().any(|listed| listed.model == model && listed.id == **id);
        let found = found.filter(is_there).cloned();
        found.ok_or_else(|| Fault::definition(format!("{model}@{alias} names no version that is there")))
    }

    /// A version's files, checked against its digest.
    pub fn artefacts(&self, version: &Version) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |name: &String| Ok((name.clone(), self.stored(version, name)?));
        let artefacts = version.files.iter().map(read).collect::<Result<Vec<_>>>()?;
        let (metadata, written) = (self.stored(version, METADATA)?, self.stored(version, CHECKSUMS)?);
        let sums = checksums(&artefacts) + &checksum(METADATA, &metadata);
        let sound = digest(&artefacts) == version.digest && written == sums.as_bytes();
        if sound { Ok(artefacts) } else { Err(damaged(version, "its files have changed")) }
    }

    /// One of a version's files, as [`Version::stored`] lists them, checked.
    pub fn file(&self, version: &Version, name: &str) -> Result<Vec<u8>> {
        if !version.stored().any(|stored| stored == name) {
            let (model, id) = version.subject();
            return Err(Fault::definition(format!("version {model}/{id} has no file `{name}`")));
        }
        let (content, sums) = (self.stored(version, name)?, self.stored(version, CHECKSUMS)?);
        let right = checksum(name, &content);
        let mut lines = sums.split_inclusive(|byte| *byte == b'\n');
        let is_sound = name == CHECKSUMS || lines.any(|line| line == right.as_bytes());
        if is_sound { Ok(content) } else { Err(damaged(version, &format!("its file {name} has changed"))) }
    }

    /// The bytes of each of a version's files, as [`Version::stored`] lists them; 0 of one that is missing.
    pub fn sizes<'a>(&self, version: &'a Version) -> Result<Vec<(&'a str, u64)>> {
        let sizes = self.artefacts.sizes(version.subject())?;
        Ok(version.stored().map(|name| (name, sizes.get(name).copied().unwrap_or(0))).collect())
    }

    /// One of a version's files as it lies there.
    pub(super) fn stored(&self, version: &Version, name: &str) -> Result<Vec<u8>> {
        let content = self.artefacts.read(version.subject(), name)?;
        content.ok_or_else(|| damaged(version, &format!("its file {name} is missing")))
    }

    pub(super) fn read(&self, (model, id): Named<'_>) -> Result<Version> {
        let wrong = |why: &str| Fault::world(format!("version {model}/{id} is damaged: {why}"));
        let unreadable = |fault: Fault| {
            if fault.retry { fault } else { wrong("its metadata cannot be read").because(fault) }
        };
        let read = |name: &str| {
            let content = self.artefacts.read((model, id), name).map_err(unreadable)?;
            content.ok_or_else(|| wrong(&format!("its metadata cannot be read: {name} is missing")))
        };
        let (bytes, sums) = (read(METADATA)?, read(CHECKSUMS)?);
        if !sums.ends_with(checksum(METADATA, &bytes).as_bytes()) {
            return Err(wrong("its metadata have changed"));
        }
        let Manifest { digest, files, metadata } = serde_json::from_slice(&bytes)
            .map_err(|error| wrong("its metadata cannot be understood").because(error))?;
        files.iter().try_for_each(|name| check_name("file", name))?;
        if !digest.starts_with(id) || metadata.model != model {
            return Err(wrong("it is not the version that its folder says"));
        }
        let place = format!("{}/{model}/{id}", self.artefacts.place());
        Ok(Version { id: id.to_owned(), digest, files, metadata, place })
    }
}

/// The promotion with checked names, and its files by name.
fn sorted(promotion: &Promotion) -> Result<Promotion> {
    check_name("model", &promotion.metadata.model)?;
    let mut promotion = promotion.clone();
    promotion.artefacts.sort();
    for (at, (name, _)) in promotion.artefacts.iter().enumerate() {
        check_name("file", name)?;
        if name == METADATA || name == CHECKSUMS || promotion.artefacts[..at].iter().any(|(other, _)| other == name) {
            return Err(Fault::ours(format!("a model has two files `{name}`")));
        }
    }
    Ok(promotion)
}

fn damaged(version: &Version, why: &str) -> Fault {
    Fault::world(format!("version {}/{} is damaged: {why}", version.metadata.model, version.id))
}
