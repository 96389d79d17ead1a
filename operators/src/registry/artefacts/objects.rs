//! Versions as objects of a store: a bucket, as a rule.
//!
//! A store makes each object durable and whole, and nothing more. So what makes a version of its files is one of them, that of
//! the checksums: it is put last and deleted first. Files without it are leftovers, which the next version of the model removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use millstream_engine::checkpoint::{Object, Store};
use millstream_engine::{Fault, Result, failpoint};

use super::{Artefacts, Done, LABEL, Named, Subject};
use crate::registry::version::{CHECKSUMS, check_name};

/// Reads at a time: each waits for the network, as a rule.
const READERS: usize = 16;

/// A store of versions, and of nothing else.
pub(in crate::registry) struct Objects {
    store: Arc<dyn Store>,
    place: String,
}

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Objects({})", self.place)
    }
}

impl Objects {
    /// `place` is the store's URL, for people.
    pub(in crate::registry) fn new(store: Arc<dyn Store>, place: &str) -> Self {
        Self { store, place: place.trim_end_matches('/').to_owned() }
    }

    /// The files of what lies below a prefix, by version, with their bytes; whether it is a version or was one.
    fn files(&self, prefix: &str) -> Result<BTreeMap<Subject, BTreeMap<String, u64>>> {
        let mut files: BTreeMap<Subject, BTreeMap<String, u64>> = BTreeMap::new();
        for Object { name, bytes } in self.store.list(prefix)? {
            let parts: Vec<&str> = name.split('/').collect();
            if let [model, id, file] = parts[..]
                && parts.iter().all(|part| check_name("object", part).is_ok())
            {
                files.entry((model.to_owned(), id.to_owned())).or_default().insert(file.to_owned(), bytes);
            }
        }
        Ok(files)
    }
}

fn name((model, id): Named<'_>, file: &str) -> String {
    format!("{model}/{id}/{file}")
}

fn is_version(files: &BTreeMap<String, u64>) -> bool {
    files.contains_key(CHECKSUMS)
}

impl Artefacts for Objects {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn readers(&self) -> usize {
        READERS
    }

    fn versions(&self, model: Option<&str>) -> Result<BTreeSet<Subject>> {
        let prefix = model.map_or_else(String::new, |model| format!("{model}/"));
        let files = self.files(&prefix)?.into_iter();
        Ok(files.filter(|(_, files)| is_version(files)).map(|(version, _)| version).collect())
    }

    fn contains(&self, version: Named<'_>) -> Result<bool> {
        Ok(self.store.get(&name(version, CHECKSUMS))?.is_some())
    }

    fn read(&self, version: Named<'_>, file: &str) -> Result<Option<Vec<u8>>> {
        self.store.get(&name(version, file))
    }

    fn sizes(&self, version: Named<'_>) -> Result<BTreeMap<String, u64>> {
        Ok(self.files(&name(version, ""))?.into_values().next().unwrap_or_default())
    }

    fn put(&self, version: Named<'_>, files: &[(String, Vec<u8>)], done: Done<'_>) -> Result<()> {
        let Some(((last, checksums), others)) = files.split_last().filter(|((last, _), _)| last == CHECKSUMS) else {
            return Err(Fault::ours("a version's last file is that of its checksums"));
        };
        let below = format!("{}/", version.0);
        for ((model, id), files) in self.files(&below)?.iter().filter(|(_, files)| !is_version(files)) {
            for file in files.keys() {
                self.store.delete(&name((model, id), file))?;
            }
        }
        done("leftovers removed")?;
        for (file, content) in others {
            failpoint::around("promote.write", || self.store.put(&name(version, file), content))?;
            done(file)?;
        }
        failpoint::around("promote.place", || self.store.put(&name(version, last), checksums))?;
        done("placed")
    }

    fn settle(&self, _: Named<'_>) -> Result<()> {
        // What a store shows is durable.
        Ok(())
    }

    fn hide(&self, version: Named<'_>, done: Done<'_>) -> Result<()> {
        failpoint::around("registry.hide", || self.store.delete(&name(version, CHECKSUMS)))?;
        done("checksums deleted")
    }

    fn clear(&self, version: Named<'_>) -> Result<()> {
        let files = self.sizes(version)?;
        let clear = || files.keys().try_for_each(|file| self.store.delete(&name(version, file)));
        failpoint::around("registry.clear", clear)
    }

    fn label(&self) -> Result<Option<String>> {
        let label = self.store.get(LABEL)?;
        Ok(label.map(|label| String::from_utf8_lossy(&label).trim().to_owned()))
    }

    fn set_label(&self, label: &str) -> Result<()> {
        self.store.put(LABEL, label.as_bytes())
    }
}
