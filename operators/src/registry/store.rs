//! The folder of versions.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use millstream_engine::{Fault, Result, failpoint};

use super::database::Database;
use super::notes::{self, LATEST, number_of};
use super::version::{CHECKSUMS, METADATA, Manifest, Promotion, Version, check_name, checksum, checksums, digest};

/// Folders that are being written, or were when the program ended.
pub(super) const TEMPORARY: &str = ".tmp-";
pub(super) const ID_DIGITS: usize = 16;

/// The versions in one folder. Any number of processes may read and change it: changes follow one another.
#[derive(Debug)]
pub struct Registry {
    pub(super) folder: PathBuf,
    pub(super) database: Database,
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
    /// Opens the registry, and makes its folder if there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(failed("make the registry folder", folder))?;
        Ok(Self { folder: folder.to_owned(), database: Database::of(folder) })
    }

    /// Writes a version durably. If the registry has it already, that one is given back as it is.
    pub fn promote(&self, promotion: &Promotion) -> Result<Version> {
        self.promote_in_steps(promotion, &mut |_| Ok(()))
    }

    /// Calls `done` after each step that a crash may follow.
    pub(super) fn promote_in_steps(
        &self,
        promotion: &Promotion,
        done: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Version> {
        let Promotion { metadata, artefacts } = sorted(promotion)?;
        let digest = digest(&artefacts);
        let files = artefacts.iter().map(|(name, _)| name.clone()).collect();
        let manifest = Manifest { digest, files, metadata };
        let mut contents = artefacts;
        contents.push((METADATA.to_owned(), manifest.write()?));
        contents.push((CHECKSUMS.to_owned(), checksums(&contents).into_bytes()));
        let _lock = self.lock()?;
        self.place(&manifest, &contents, done)
    }

    /// Makes the folder of a version that has these files. The lock is held by who calls this.
    pub(super) fn place(
        &self,
        manifest: &Manifest,
        contents: &[(String, Vec<u8>)],
        done: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Version> {
        let Manifest { digest, metadata, .. } = manifest;
        let id = &digest[..ID_DIGITS];
        let model = self.folder.join(&metadata.model);
        let target = model.join(id);
        if target.exists() {
            let there = self.read(&metadata.model, id)?;
            if there.digest != *digest {
                return Err(damaged(&there, "it has another digest"));
            }
            // A crash may have come between the renaming and this.
            sync_folder(&model)?;
            return Ok(there);
        }
        fs::create_dir_all(&model).map_err(failed("make the folder", &model))?;
        sync_folder(&self.folder)?;
        remove_leftovers(&model)?;
        done("model folder")?;

        let temporary = model.join(format!("{TEMPORARY}{id}"));
        fs::create_dir(&temporary).map_err(failed("make the folder", &temporary))?;
        done("temporary folder")?;
        for (name, content) in contents {
            failpoint::around("promote.write", || write_durably(&temporary.join(name), content))?;
            done(name)?;
        }
        sync_folder(&temporary)?;
        done("files durable")?;
        failpoint::around("promote.rename", || fs::rename(&temporary, &target))
            .map_err(failed("rename to", &target))?;
        done("renamed")?;
        sync_folder(&model)?;
        done("name durable")?;
        self.read(&metadata.model, id)
    }

    /// All versions by model and time of promotion; damaged ones, too.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut models = folders(&self.folder)?;
        models.sort();
        let versions = models.iter().map(|model| self.list_of(model)).collect::<Result<Vec<_>>>()?;
        Ok(versions.into_iter().flatten().collect())
    }

    /// The versions of a model that there is, by time of promotion; damaged ones, too.
    fn list_of(&self, model: &str) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for id in folders(&self.folder.join(model))? {
            let version = self.read(model, &id);
            if version.is_err() && !self.folder.join(model).join(&id).exists() {
                // It was deleted meanwhile.
                continue;
            }
            all.push(Listed { model: model.to_owned(), id, version });
        }
        all.sort_by_key(|listed| {
            listed.version.as_ref().map_or((i64::MAX, u64::MAX, listed.id.clone()), Version::order)
        });
        Ok(all)
    }

    /// The version of a [name](Registry::find), its files checked.
    pub fn show(&self, name: &str) -> Result<Version> {
        let version = self.find(name)?;
        self.artefacts(&version).map(|_| version)
    }

    /// The one version that a name means: see [`Registry::resolve`].
    pub fn find(&self, name: &str) -> Result<Version> {
        let (model, id) = self.resolve(name)?;
        self.read(&model, &id)
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
        if !self.folder.join(model).is_dir() {
            return Ok(None);
        }
        Ok(self.list_of(model)?.into_iter().filter_map(|listed| listed.version.ok()).last())
    }

    fn resolve_alias(&self, all: &[Listed], model: &str, alias: &str) -> Result<String> {
        if alias == LATEST {
            let newest = self.newest(model)?.map(|version| version.id);
            return newest.ok_or_else(|| Fault::definition(format!("{model} has no sound version")));
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
        let read = |name: &String| {
            let path = version.folder.join(name);
            Ok((name.clone(), fs::read(&path).map_err(failed("read", &path))?))
        };
        let artefacts = version.files.iter().map(read).collect::<Result<Vec<_>>>()?;
        let (_, metadata) = read(&METADATA.to_owned())?;
        let (_, written) = read(&CHECKSUMS.to_owned())?;
        let sums = checksums(&artefacts) + &checksum(METADATA, &metadata);
        let sound = digest(&artefacts) == version.digest && written == sums.as_bytes();
        if sound { Ok(artefacts) } else { Err(damaged(version, "its files have changed")) }
    }

    /// One of a version's files, as [`Version::stored`] lists them, checked.
    pub fn file(&self, version: &Version, name: &str) -> Result<Vec<u8>> {
        if !version.stored().any(|stored| stored == name) {
            let (model, id) = (&version.metadata.model, &version.id);
            return Err(Fault::definition(format!("version {model}/{id} has no file `{name}`")));
        }
        let path = version.folder.join(name);
        let content = fs::read(&path).map_err(failed("read", &path))?;
        let sums = version.folder.join(CHECKSUMS);
        let sums = fs::read_to_string(&sums).map_err(failed("read", &sums))?;
        let right = checksum(name, &content);
        let is_sound = name == CHECKSUMS || sums.split_inclusive('\n').any(|line| line == right);
        if is_sound { Ok(content) } else { Err(damaged(version, &format!("its file {name} has changed"))) }
    }

    pub(super) fn read(&self, model: &str, id: &str) -> Result<Version> {
        let folder = self.folder.join(model).join(id);
        let wrong = |why: &str| Fault::world(format!("version {model}/{id} is damaged: {why}"));
        let unreadable = |error: std::io::Error| wrong("its metadata cannot be read").because(error);
        let bytes = fs::read(folder.join(METADATA)).map_err(unreadable)?;
        let sums = fs::read_to_string(folder.join(CHECKSUMS)).map_err(unreadable)?;
        if !sums.ends_with(&checksum(METADATA, &bytes)) {
            return Err(wrong("its metadata have changed"));
        }
        let Manifest { digest, files, metadata } = serde_json::from_slice(&bytes)
            .map_err(|error| wrong("its metadata cannot be understood").because(error))?;
        files.iter().try_for_each(|name| check_name("file", name))?;
        if !digest.starts_with(id) || metadata.model != model {
            return Err(wrong("it is not the version that its folder says"));
        }
        Ok(Version { id: id.to_owned(), digest, files, metadata, folder })
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

pub(super) fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| Fault::world(format!("cannot {what} {}", path.display())).because(error)
}

pub(super) fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// A folder's entries are durable when the folder itself is.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("make durable", path))
}

fn remove_leftovers(model: &Path) -> Result<()> {
    for entry in fs::read_dir(model).map_err(failed("read the folder", model))? {
        let entry = entry.map_err(failed("read the folder", model))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(failed("remove the leftover", &path))?;
        }
    }
    Ok(())
}

/// The names of the folders below `path` that the registry made.
pub(super) fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("read the folder", path))? {
        let entry = entry.map_err(failed("read the folder", path))?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read", path)(error)),
            _ => continue,
        }
        if let Ok(name) = entry.file_name().into_string()
            && check_name("folder", &name).is_ok()
        {
            names.push(name);
        }
    }
    Ok(names)
}
