//! What a registry lies on: all that makes sense together.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use millstream_engine::checkpoint::{Object, Store};
use millstream_engine::{Fault, Result};
use tempfile::TempDir;

use crate::registry::{Notebook, Place, Registry, Version};

/// A store in memory, whose power may be cut.
#[derive(Default)]
pub(super) struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How many changes come before the cut; 0 where there is none.
    cut_at: AtomicI64,
    changes: AtomicI64,
    /// Whether the change at which the power is cut is done: nobody hears of it.
    pub(super) is_done: std::sync::atomic::AtomicBool,
}

impl Memory {
    /// The power goes with the change of this number, counted from 1; with 0 it stays.
    pub(super) fn cut_at(&self, change: i64) {
        self.changes.store(0, Ordering::SeqCst);
        self.cut_at.store(change, Ordering::SeqCst);
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().expect("no test panics with it")
    }

    fn is_cut(&self) -> bool {
        let cut_at = self.cut_at.load(Ordering::SeqCst);
        cut_at > 0 && self.changes.load(Ordering::SeqCst) >= cut_at
    }

    fn change(&self, act: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> Result<()> {
        drop(self.look()?);
        self.changes.fetch_add(1, Ordering::SeqCst);
        if !self.is_cut() || self.is_done.load(Ordering::SeqCst) {
            act(&mut self.objects());
        }
        self.look().map(drop)
    }

    fn look(&self) -> Result<MutexGuard<'_, BTreeMap<String, Vec<u8>>>> {
        if self.is_cut() { Err(Fault::retry("the power is gone")) } else { Ok(self.objects()) }
    }
}

impl Store for Memory {
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        self.change(|objects| drop(objects.insert(name.to_owned(), content.to_vec())))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.look()?.get(name).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let objects = self.look()?;
        let named = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(name, content)| Object { name: name.clone(), bytes: content.len() as u64 }).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.change(|objects| drop(objects.remove(name)))
    }
}

/// A place for a registry, with nothing in it.
pub(super) struct Site {
    /// For people.
    pub(super) name: &'static str,
    pub(super) folder: TempDir,
    /// Where versions are, if not in a folder.
    pub(super) store: Option<Arc<Memory>>,
    /// Where the database is, if not in a file.
    pub(super) database: Option<String>,
}

/// The URL of a database that no other test uses; `None` without a server.
pub(super) fn database() -> Option<String> {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var("MILLSTREAM_POSTGRES") else {
        println!("skipped: MILLSTREAM_POSTGRES names no server");
        return None;
    };
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    // The server lives as long as the tests, and their process numbers differ.
    let name = format!("test_{}_{number}", std::process::id());
    Some(format!("{url}&options=-csearch_path%3D{name}&application_name={name}"))
}

impl Site {
    fn new(name: &'static str, store: bool, database: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { name, folder, store: store.then(Arc::default), database }
    }

    pub(super) fn in_folder() -> Self {
        Self::new("folder and file", false, None)
    }

    pub(super) fn on_store() -> Self {
        Self::new("store and file", true, None)
    }

    /// A store and a server, if there is one.
    pub(super) fn shared() -> Option<Self> {
        Some(Self::new("store and server", true, Some(database()?)))
    }

    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::in_folder(), Self::on_store()];
        all.extend(Self::shared());
        all.extend(database().map(|database| Self::new("folder and server", false, Some(database))));
        all
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    /// The registry, as any process opens it.
    pub(super) fn open(&self) -> Registry {
        let path = self.path();
        let place = match &self.store {
            Some(store) => Place::Store(store.clone(), "memory:///registry"),
            None => Place::Folder(&path),
        };
        let notebook = self.database.as_deref().map_or(Notebook::Folder(&path), Notebook::Server);
        Registry::at(place, notebook).expect("opened")
    }

    /// A file as it lies there.
    pub(super) fn get(&self, version: &Version, file: &str) -> Option<Vec<u8>> {
        match &self.store {
            Some(store) => store.objects().get(&name(version, file)).cloned(),
            None => fs::read(format!("{}/{file}", version.place)).ok(),
        }
    }

    /// Changes a file behind the registry's back; `None` removes it.
    pub(super) fn put(&self, version: &Version, file: &str, content: Option<&[u8]>) {
        let path = format!("{}/{file}", version.place);
        match (&self.store, content) {
            (Some(store), Some(content)) => drop(store.objects().insert(name(version, file), content.to_vec())),
            (Some(store), None) => drop(store.objects().remove(&name(version, file))),
            (None, Some(content)) => fs::write(path, content).expect("written"),
            (None, None) => fs::remove_file(path).expect("removed"),
        }
    }

    /// Removes a version behind the registry's back.
    pub(super) fn remove(&self, version: &Version) {
        match &self.store {
            Some(store) => store.objects().retain(|object, _| !object.starts_with(&name(version, ""))),
            None => fs::remove_dir_all(&version.place).expect("removed"),
        }
    }

    /// Files that belong to no version.
    pub(super) fn leftovers(&self) -> usize {
        let Some(store) = &self.store else {
            let entries = fs::read_dir(self.path().join("late")).expect("read").flatten();
            return entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count();
        };
        let objects = store.objects();
        let is_whole = |name: &str| objects.contains_key(&format!("{name}/checksums.b3"));
        objects.keys().filter_map(|name| name.rsplit_once('/')).filter(|(version, _)| !is_whole(version)).count()
    }
}

fn name(version: &Version, file: &str) -> String {
    format!("{}/{}/{file}", version.metadata.model, version.id)
}

/// Does the same on each kind of place.
pub(super) fn everywhere(act: impl Fn(&Site)) {
    for site in Site::all() {
        println!("{}", site.name);
        act(&site);
    }
}

/// Crashes after so many steps.
pub(super) fn crash_after(steps: usize) -> impl FnMut(&str) -> Result<()> {
    let mut step = 0;
    move |name| {
        step += 1;
        if step > steps { Err(Fault::world(format!("crash after {name}"))) } else { Ok(()) }
    }
}

/// On each kind of place, something crashes after each of its steps, of which there are so many at least, until it ends well.
pub(super) fn crash_after_each_step(least: usize, act: impl Fn(&Site, &mut dyn FnMut(&str) -> Result<()>) -> bool) {
    for kind in 0..Site::all().len() {
        let mut steps = 0;
        while !act(&Site::all()[kind], &mut crash_after(steps)) {
            steps += 1;
        }
        assert!(steps >= least, "only {steps} steps were tried");
    }
}

/// The power of a store is cut at each change of a version of four files, before or after that is done, until something ends well.
pub(super) fn cut_power_at_each_change(act: impl Fn(&Site, &Memory, i64) -> bool) {
    for is_done in [false, true] {
        let mut changes = 1;
        let cut_at = |change| {
            let site = Site::on_store();
            let store = site.store.as_deref().expect("it has one");
            store.is_done.store(is_done, Ordering::SeqCst);
            act(&site, store, change)
        };
        while !cut_at(changes) {
            changes += 1;
        }
        assert_eq!(changes, 5, "four files");
    }
}
