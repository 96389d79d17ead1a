//! A disk in memory that fails on purpose, and forgets in a crash what was not synced.
//!
//! ```text
//! write ─► can be read ─► sync ─► survives        a file's content
//! name  ─► can be seen ─► sync_folder ─► survives its name: created, renamed, removed
//! ```
//! What was not synced is kept, lost or torn as a script says; so is what each call does. There is no clock and no chance:
//! time is the number of operations.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, Entry};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Making an empty file.
    Create,
    /// Writing to it.
    Write,
    /// Making its content durable.
    Sync,
    /// Giving it another name.
    Rename,
    /// Removing it.
    Remove,
    /// Making a folder.
    MakeFolder,
    /// Making a folder's names durable.
    SyncFolder,
    /// Reading a file.
    Read,
    /// Listing a folder.
    List,
}

/// One call, as the script sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// To which file or folder.
    pub path: &'a Path,
    /// How many operations there were before, of any kind.
    pub at: u64,
}

/// An error of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `ENOSPC`.
    Full,
    /// `EIO`.
    Broken,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Injected {
    /// It works.
    #[default]
    Nothing,
    /// It fails and changes nothing that can be seen. A file that could not be synced will never become durable, whatever a
    /// second sync says; a folder will, with the next sync that works.
    Fail(Failure),
    /// It works, but the caller is told that it failed.
    FailAfter(Failure),
    /// Writes only: so many bytes arrive, then the disk is full. Other calls fail as on a full disk.
    Short(usize),
    /// The power goes before it: it fails, as does all that follows, until [`SimulatedDisk::restart`].
    Crash,
    /// It works, and then the power goes.
    CrashAfter,
}

/// Something that was not durable when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced<'a> {
    /// That a name was given or taken.
    Name(&'a Path),
    /// A file's content, of so many bytes.
    Content(&'a Path, usize),
}

/// What becomes of something that was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as if it had not happened.
    Lost,
    /// It survives.
    Kept,
    /// Content only: so many bytes of the file survive. A name is kept.
    Prefix(usize),
    /// Content only: sector `i` survives if bit `i % 64` is set, the others are zeros. A name is kept.
    Sectors(u64),
}

/// What a disk writes at a time, in bytes.
pub const SECTOR_BYTES: usize = 512;

type Script = Box<dyn FnMut(&Call<'_>) -> Injected + Send>;

/// The disk; clones share everything. It has the folder `/`.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Option<Script>>>,
}

/// A file that is being written.
pub struct SimulatedFile {
    path: PathBuf,
    content: Arc<Mutex<Content>>,
    /// How many crashes there were before.
    crashes: u64,
}

struct State {
    now: u64,
    crashes: u64,
    no_power: bool,
    folders: BTreeMap<PathBuf, Names>,
}

impl Default for State {
    fn default() -> Self {
        Self { now: 0, crashes: 0, no_power: false, folders: [(PathBuf::from("/"), Names::default())].into() }
    }
}

/// A folder.
#[derive(Default)]
struct Names {
    seen: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// What leads from the one to the other.
    changes: Vec<Change>,
}

#[derive(Clone)]
enum Node {
    File(Arc<Mutex<Content>>),
    Folder,
}

/// One change to a folder's names: it survives as a whole or not at all.
struct Change {
    taken: Option<String>,
    given: Option<(String, Node)>,
}

#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Whether a sync has failed.
    abandoned: bool,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        if let Some(name) = &self.taken {
            names.remove(name);
        }
        names.extend(self.given.clone());
    }

    fn name(&self) -> &str {
        self.given.as_ref().map(|(name, _)| name).or(self.taken.as_ref()).map_or("", String::as_str)
    }
}

impl Names {
    fn change(&mut self, taken: Option<String>, given: Option<(String, Node)>) {
        let change = Change { taken, given };
        change.apply(&mut self.seen);
        self.changes.push(change);
    }
}

impl Content {
    /// What is left of it after a crash.
    fn crash(&mut self, path: &Path, fate: &mut dyn FnMut(Unsynced<'_>) -> Fate) {
        if self.seen != self.durable {
            let safe = self.durable.len();
            match fate(Unsynced::Content(path, self.seen.len())) {
                Fate::Lost => {}
                Fate::Kept => self.durable.clone_from(&self.seen),
                Fate::Prefix(bytes) => self.durable = self.seen[..bytes.clamp(safe, self.seen.len())].to_vec(),
                Fate::Sectors(kept) => {
                    self.durable.clone_from(&self.seen);
                    for (sector, bytes) in self.durable.chunks_mut(SECTOR_BYTES).enumerate() {
                        if kept >> (sector % 64) & 1 == 0 {
                            bytes
                                .iter_mut()
                                .skip(safe.saturating_sub(sector * SECTOR_BYTES))
                                .for_each(|byte| *byte = 0);
                        }
                    }
                }
            }
        }
        self.seen.clone_from(&self.durable);
        self.abandoned = false;
    }
}

impl State {
    fn folder(&mut self, path: &Path) -> io::Result<&mut Names> {
        self.folders.get_mut(path).ok_or_else(|| missing(path))
    }

    /// The folder that a path is in, and its name there.
    fn place(&mut self, path: &Path) -> io::Result<(&mut Names, String)> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "simulated: not a name"));
        };
        Ok((self.folder(above)?, name.to_string_lossy().into_owned()))
    }

    /// The file of a path, with the folder it is in and its name there.
    fn file(&mut self, path: &Path) -> io::Result<(&mut Names, String, Arc<Mutex<Content>>)> {
        let (names, name) = self.place(path)?;
        match names.seen.get(&name).cloned() {
            Some(Node::File(content)) => Ok((names, name, content)),
            Some(Node::Folder) => Err(io::Error::new(ErrorKind::IsADirectory, "simulated: a folder")),
            None => Err(missing(path)),
        }
    }

    /// Gives a new name to something.
    fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let (names, name) = self.place(path)?;
        if names.seen.contains_key(&name) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "simulated: the name is taken"));
        }
        names.change(None, Some((name, node)));
        Ok(())
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("simulated: there is no {}", path.display()))
}

fn no_power() -> io::Error {
    io::Error::other("simulated: the power is gone")
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::new(ErrorKind::StorageFull, "simulated: no space left"),
            Self::Broken => io::Error::other("simulated: input/output error"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedDisk {
    /// An empty disk that never fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `script` about every call from now on. It may use the disk itself; those calls do not fail.
    pub fn inject(&self, script: impl FnMut(&Call<'_>) -> Injected + Send + 'static) {
        *lock(&self.script) = Some(Box::new(script));
    }

    /// No more faults.
    pub fn heal(&self) {
        *lock(&self.script) = None;
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        lock(&self.state).now
    }

    /// Whether the power is gone.
    pub fn has_crashed(&self) -> bool {
        lock(&self.state).no_power
    }

    /// Turns the machine off, if that has not happened, and on again. `fate` decides about each thing that was not durable; what
    /// is there then is durable. Files that were open are of no more use.
    pub fn restart(&self, mut fate: impl FnMut(Unsynced<'_>) -> Fate) {
        let mut state = lock(&self.state);
        state.no_power = false;
        state.crashes += 1;
        let mut all = std::mem::take(&mut state.folders);
        let mut reached = vec![PathBuf::from("/")];
        while let Some(path) = reached.pop() {
            let mut names = all.remove(&path).unwrap_or_default();
            for change in std::mem::take(&mut names.changes) {
                if fate(Unsynced::Name(&path.join(change.name()))) != Fate::Lost {
                    change.apply(&mut names.durable);
                }
            }
            for (name, node) in &names.durable {
                match node {
                    Node::File(content) => lock(content).crash(&path.join(name), &mut fate),
                    Node::Folder => reached.push(path.join(name)),
                }
            }
            names.seen.clone_from(&names.durable);
            state.folders.insert(path, names);
        }
    }

    /// Counts an operation and asks the script what becomes of it.
    fn ask(&self, operation: Operation, path: &Path) -> io::Result<Injected> {
        let at = {
            let mut state = lock(&self.state);
            if state.no_power {
                return Err(no_power());
            }
            state.now += 1;
            state.now - 1
        };
        // The script is away while it runs, so that it may use the disk itself.
        let script = lock(&self.script).take();
        let Some(mut script) = script else {
            return Ok(Injected::Nothing);
        };
        let injected = script(&Call { operation, path, at });
        lock(&self.script).get_or_insert(script);
        Ok(injected)
    }

    /// Does what becomes of a call.
    fn become_of<T>(&self, injected: Injected, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = lock(&self.state);
        match injected {
            Injected::Nothing => act(&mut state),
            Injected::Fail(failure) => Err(failure.error()),
            Injected::FailAfter(failure) => act(&mut state).and_then(|_| Err(failure.error())),
            Injected::Short(_) => Err(Failure::Full.error()),
            Injected::Crash => {
                state.no_power = true;
                Err(no_power())
            }
            Injected::CrashAfter => {
                let done = act(&mut state);
                state.no_power = true;
                done.and(Err(no_power()))
            }
        }
    }

    fn step<T>(
        &self,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let injected = self.ask(operation, path)?;
        self.become_of(injected, act)
    }

    fn check_open(&self, file: &SimulatedFile) -> io::Result<()> {
        if lock(&self.state).crashes == file.crashes { Ok(()) } else { Err(no_power()) }
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.step(Operation::Create, path, |state| {
            let content = Arc::<Mutex<Content>>::default();
            state.add(path, Node::File(content.clone()))?;
            Ok(SimulatedFile { path: path.to_owned(), content, crashes: state.crashes })
        })
    }

    fn write(&self, file: &mut SimulatedFile, content: &[u8]) -> io::Result<()> {
        self.check_open(file)?;
        let injected = self.ask(Operation::Write, &file.path)?;
        let arrive = |bytes: &[u8]| lock(&file.content).seen.extend_from_slice(bytes);
        if let Injected::Short(bytes) = injected {
            arrive(&content[..bytes.min(content.len())]);
        }
        self.become_of(injected, |_| {
            arrive(content);
            Ok(())
        })
    }

    fn sync(&self, file: &mut SimulatedFile) -> io::Result<()> {
        self.check_open(file)?;
        let injected = self.ask(Operation::Sync, &file.path)?;
        let mut content = lock(&file.content);
        content.abandoned |= matches!(injected, Injected::Fail(_) | Injected::Short(_));
        self.become_of(injected, |_| {
            let Content { seen, durable, abandoned } = &mut *content;
            if !*abandoned {
                durable.clone_from(seen);
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Operation::Rename, from, |state| {
            let (names, name, content) = state.file(from)?;
            let (Some(target), true) = (to.file_name(), from.parent() == to.parent()) else {
                return Err(io::Error::new(ErrorKind::CrossesDevices, "simulated: another folder"));
            };
            names.change(Some(name), Some((target.to_string_lossy().into_owned(), Node::File(content))));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::Remove, path, |state| {
            let (names, name, _) = state.file(path)?;
            names.change(Some(name), None);
            Ok(())
        })
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::MakeFolder, path, |state| {
            state.add(path, Node::Folder)?;
            state.folders.insert(path.to_owned(), Names::default());
            Ok(())
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::SyncFolder, path, |state| {
            let names = state.folder(path)?;
            names.durable.clone_from(&names.seen);
            names.changes.clear();
            Ok(())
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step(Operation::Read, path, |state| Ok(lock(&state.file(path)?.2).seen.clone()))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.step(Operation::List, path, |state| {
            let size = |node: &Node| match node {
                Node::File(content) => Some(lock(content).seen.len() as u64),
                Node::Folder => None,
            };
            let names = &state.folder(path)?.seen;
            Ok(names.iter().map(|(name, node)| Entry { name: name.clone(), bytes: size(node) }).collect())
        })
    }
}
