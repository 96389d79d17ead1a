//! Versions as folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use millstream_engine::{Fault, Result, failpoint};

use super::{Artefacts, Done, LABEL, Named, Subject};
use crate::registry::version::check_name;

/// What is being written, or was when the program ended.
pub(in crate::registry) const TEMPORARY: &str = ".tmp-";

/// A folder of versions.
#[derive(Debug)]
pub(in crate::registry) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder if there is none.
    pub(in crate::registry) fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(failed("make the registry folder", root))?;
        Ok(Self { root: root.to_owned() })
    }

    fn path(&self, (model, id): Named<'_>) -> PathBuf {
        self.root.join(model).join(id)
    }

    fn doomed(&self, (model, id): Named<'_>) -> PathBuf {
        self.root.join(model).join(format!("{TEMPORARY}deleted-{id}"))
    }
}

impl Artefacts for Folder {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn readers(&self) -> usize {
        1
    }

    fn versions(&self, model: Option<&str>) -> Result<BTreeSet<Subject>> {
        let models = match model {
            Some(model) if self.root.join(model).is_dir() => vec![model.to_owned()],
            Some(_) => Vec::new(),
            None => folders(&self.root)?,
        };
        let mut versions = BTreeSet::new();
        for model in models {
            versions.extend(folders(&self.root.join(&model))?.into_iter().map(|id| (model.clone(), id)));
        }
        Ok(versions)
    }

    fn contains(&self, version: Named<'_>) -> Result<bool> {
        let path = self.path(version);
        path.try_exists().map_err(failed("look for", &path))
    }

    fn read(&self, version: Named<'_>, file: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(version).join(file);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(failed("read", &path)),
        }
    }

    fn sizes(&self, version: Named<'_>) -> Result<BTreeMap<String, u64>> {
        let path = self.path(version);
        let mut sizes = BTreeMap::new();
        for entry in fs::read_dir(&path).map_err(failed("read the folder", &path))? {
            let entry = entry.map_err(failed("read the folder", &path))?;
            let bytes = entry.metadata().map_err(failed("look at", &entry.path()))?.len();
            sizes.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
        }
        Ok(sizes)
    }

    fn put(&self, version: Named<'_>, files: &[(String, Vec<u8>)], done: Done<'_>) -> Result<()> {
        let (name, id) = version;
        let (model, target) = (self.root.join(name), self.path(version));
        fs::create_dir_all(&model).map_err(failed("make the folder", &model))?;
        sync_folder(&self.root)?;
        remove_leftovers(&model)?;
        done("model folder")?;

        let temporary = model.join(format!("{TEMPORARY}{id}"));
        fs::create_dir(&temporary).map_err(failed("make the folder", &temporary))?;
        done("temporary folder")?;
        for (name, content) in files {
            failpoint::around("promote.write", || write_durably(&temporary.join(name), content))?;
            done(name)?;
        }
        sync_folder(&temporary)?;
        done("files durable")?;
        failpoint::around("promote.place", || fs::rename(&temporary, &target)).map_err(failed("rename to", &target))?;
        done("renamed")?;
        sync_folder(&model)?;
        done("name durable")
    }

    fn settle(&self, (model, _): Named<'_>) -> Result<()> {
        sync_folder(&self.root.join(model))
    }

    fn hide(&self, version: Named<'_>, done: Done<'_>) -> Result<()> {
        let (folder, doomed) = (self.path(version), self.doomed(version));
        if doomed.exists() {
            fs::remove_dir_all(&doomed).map_err(failed("remove the leftover", &doomed))?;
        }
        failpoint::around("registry.hide", || fs::rename(&folder, &doomed)).map_err(failed("rename", &folder))?;
        done("renamed")?;
        sync_folder(&self.root.join(version.0))?;
        done("name durable")
    }

    fn clear(&self, version: Named<'_>) -> Result<()> {
        let doomed = self.doomed(version);
        failpoint::around("registry.clear", || fs::remove_dir_all(&doomed)).map_err(failed("remove", &doomed))
    }

    fn label(&self) -> Result<Option<String>> {
        let path = self.root.join(LABEL);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(|label| Some(label.trim().to_owned())).map_err(failed("read", &path)),
        }
    }

    fn set_label(&self, label: &str) -> Result<()> {
        let (path, temporary) = (self.root.join(LABEL), self.root.join(format!("{TEMPORARY}{LABEL}")));
        if temporary.exists() {
            fs::remove_file(&temporary).map_err(failed("remove the leftover", &temporary))?;
        }
        write_durably(&temporary, label.as_bytes())?;
        fs::rename(&temporary, &path).map_err(failed("rename to", &path))?;
        sync_folder(&self.root)
    }
}

pub(in crate::registry) fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| Fault::world(format!("cannot {what} {}", path.display())).because(error)
}

pub(in crate::registry) fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// A folder's entries are durable when the folder itself is.
pub(in crate::registry) fn sync_folder(path: &Path) -> Result<()> {
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
