//! Objects as files, durable one by one.
//!
//! ```text
//! put:    write .tmp-…  ─►  fsync  ─►  rename  ─►  fsync of the folder
//! delete: remove  ─►  fsync of the folder
//! ```
//! So a name has a whole content, old or new, at every moment; and after an error nothing that can be seen is taken for
//! durable before it has been made so.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};

use millstream_engine::checkpoint::{Object, Store};
use millstream_engine::failpoint;
use millstream_engine::{Fault, Result};

use super::disk::{Disk, Entry, RealDisk};
use super::{check_name, is_part, write_step};

/// Files that are being written, or were when the program ended.
const TEMPORARY: &str = ".tmp-";

/// A folder of objects. One process at a time may write into it; any number may read.
#[derive(Debug)]
pub struct Folder<D = RealDisk> {
    disk: D,
    root: PathBuf,
    /// Whether all that can be seen is durable. Held while something changes, so that one change follows another.
    settled: Mutex<bool>,
}

impl Folder {
    /// A folder of this machine. It is made when something is first written.
    pub fn open(path: &Path) -> Result<Self> {
        let root = std::path::absolute(path).map_err(failed("find", path))?;
        Ok(Self::on(RealDisk, root))
    }
}

impl<D: Disk> Folder<D> {
    /// A folder of a disk.
    pub fn on(disk: D, root: impl Into<PathBuf>) -> Self {
        Self { disk, root: root.into(), settled: Mutex::new(false) }
    }

    /// Changes something, once all before it is durable: a caller that sees an object there does not write it again.
    fn change(&self, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*settled {
            self.settle()?;
        }
        *settled = false;
        act()?;
        *settled = true;
        Ok(())
    }

    /// Makes durable what an earlier process, or a change that failed, left to be seen, and removes its temporary files.
    /// Readers never do: somebody else may be writing.
    fn settle(&self) -> io::Result<()> {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let Some(entries) = there(self.disk.list(&folder))? else { continue };
            for Entry { name, bytes } in entries {
                let path = folder.join(&name);
                if bytes.is_none() && is_part(&name) {
                    folders.push(path);
                } else if bytes.is_some() && name.starts_with(TEMPORARY) {
                    there(self.disk.remove(&path))?;
                }
            }
            self.disk.sync_folder(&folder)?;
        }
        for above in self.root.ancestors().skip(1) {
            match there(self.disk.sync_folder(above)) {
                // We did not make a folder that we may not open.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
                synced => synced?,
            };
        }
        Ok(())
    }

    fn make_folders(&self, path: &Path) -> io::Result<()> {
        let Some(above) = path.parent() else { return Ok(()) };
        match self.disk.make_folder(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_folders(above)?;
                self.disk.make_folder(path)?;
            }
            Err(error) => return Err(error),
        }
        self.disk.sync_folder(above)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.disk.create(path)?;
        self.disk.write(&mut file, content)?;
        self.disk.sync(&mut file)
    }
}

impl<D: Disk> Store for Folder<D> {
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        check_name(name)?;
        let target = self.root.join(name);
        let (above, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = self.root.join(above);
        let temporary = folder.join(format!("{TEMPORARY}{}-{leaf}", process::id()));
        let put = || {
            self.make_folders(&folder)?;
            failpoint::around(write_step(name), || self.write(&temporary, content))?;
            failpoint::around("checkpoint.rename", || {
                self.disk.rename(&temporary, &target)?;
                self.disk.sync_folder(&folder)
            })
        };
        // What could not be written is abandoned, and its room given back; where that fails, it is done before the next change.
        let put_or_clean = || put().inspect_err(|_| drop(self.disk.remove(&temporary)));
        self.change(put_or_clean).map_err(failed("write", &target))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check_name(name)?;
        let path = self.root.join(name);
        there(self.disk.read(&path)).map_err(failed("read", &path))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            let entries = there(self.disk.list(&path)).map_err(failed("list", &path))?;
            for entry in entries.unwrap_or_default().into_iter().filter(|entry| is_part(&entry.name)) {
                let name = format!("{folder}{}", entry.name);
                if let Some(bytes) = entry.bytes {
                    found.push(Object { name, bytes });
                } else if name.starts_with(prefix) || prefix.starts_with(&format!("{name}/")) {
                    folders.push(name + "/");
                }
            }
        }
        found.retain(|object| object.name.starts_with(prefix));
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let path = self.root.join(name);
        let remove = || {
            if there(self.disk.remove(&path))?.is_some() {
                self.disk.sync_folder(path.parent().unwrap_or(&self.root))?;
            }
            Ok(())
        };
        self.change(|| failpoint::around("checkpoint.delete", remove)).map_err(failed("remove", &path))
    }
}

/// What was asked for, or `None` if it is not there.
fn there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

/// The error as a fault; whether the same call may succeed later depends on its kind.
fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Fault + 'a {
    use ErrorKind::{
        Interrupted, QuotaExceeded, ResourceBusy, StaleNetworkFileHandle, StorageFull, TimedOut, WouldBlock,
    };
    move |error| {
        let message = format!("cannot {what} {}", path.display());
        let fault = match error.kind() {
            StorageFull
            | QuotaExceeded
            | Interrupted
            | TimedOut
            | WouldBlock
            | ResourceBusy
            | StaleNetworkFileHandle => Fault::retry(message),
            _ => Fault::world(message),
        };
        fault.because(error)
    }
}
