//! The folder of versions.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use millstream_engine::{Fault, Result, failpoint};

use super::version::{Manifest, Promotion, Version, check_name, checksum, checksums, digest};

const METADATA: &str = "metadata.json";
/// Checksums of all other files, for `b3sum --check` too.
const CHECKSUMS: &str = "checksums.b3";
/// Folders that are being written, or were when the program ended.
const TEMPORARY: &str = ".tmp-";
const ID_DIGITS: usize = 16;

/// The versions in one folder. Only one process may promote into it at a time; any number may read.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
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
        Ok(Self { folder: folder.to_owned() })
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
        let id = &digest[..ID_DIGITS];
        let model = self.folder.join(&metadata.model);
        let target = model.join(id);
        if target.exists() {
            let there = self.read(&metadata.model, id)?;
            if there.digest != digest {
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
        let files = artefacts.iter().map(|(name, _)| name.clone()).collect();
        let manifest = Manifest { digest: digest.clone(), files, metadata };
        let mut contents = artefacts;
        contents.push((METADATA.to_owned(), manifest.write()?));
        contents.push((CHECKSUMS.to_owned(), checksums(&contents).into_bytes()));
        for (name, content) in &contents {
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
        self.read(&manifest.metadata.model, id)
    }

    /// All versions by model and time of promotion; damaged ones, too.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for model in folders(&self.folder)? {
            for id in folders(&self.folder.join(&model))? {
                let version = self.read(&model, &id);
                all.push(Listed { model: model.clone(), id, version });
            }
        }
        all.sort_by_key(|listed| {
            let promoted_ms = listed.version.as_ref().map_or(i64::MAX, |version| version.metadata.promoted_ms);
            (listed.model.clone(), promoted_ms, listed.id.clone())
        });
        Ok(all)
    }

    /// The one version whose id (or `model/id`) starts with `prefix`, its files checked.
    pub fn show(&self, prefix: &str) -> Result<Version> {
        let all = self.list()?;
        let name = |listed: &Listed| format!("{}/{}", listed.model, listed.id);
        let mut found: Vec<&Listed> =
            all.iter().filter(|listed| listed.id.starts_with(prefix) || name(listed).starts_with(prefix)).collect();
        let (Some(listed), true) = (found.pop(), found.is_empty()) else {
            let names: Vec<String> = all.iter().map(name).collect();
            return Err(Fault::definition(format!(
                "`{prefix}` is not the start of exactly one version; there are: {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        };
        let version = self.read(&listed.model, &listed.id)?;
        self.artefacts(&version).map(|_| version)
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

    fn read(&self, model: &str, id: &str) -> Result<Version> {
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

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| Fault::world(format!("cannot {what} {}", path.display())).because(error)
}

fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// A folder's entries are durable when the folder itself is.
fn sync_folder(path: &Path) -> Result<()> {
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
fn folders(path: &Path) -> Result<Vec<String>> {
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
