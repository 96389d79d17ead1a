//! What a folder asks of a disk, so that a simulated one can stand in for it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// What a folder contains under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// How large the file is; `None` if it is a folder.
    pub bytes: Option<u64>,
}

/// Files and folders. Only what was synced survives a crash for certain.
pub trait Disk: Send + Sync + 'static {
    /// A file that is being written.
    type File;

    /// Makes an empty file. It is an error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Appends to a file. After an error part of it may be there.
    fn write(&self, file: &mut Self::File, content: &[u8]) -> io::Result<()>;

    /// Makes a file's content durable, though not its name. After an error it may never become so, whatever a second try says.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;

    /// Gives a file another name in its folder, taking it from the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder in one that is there.
    fn make_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes durable which names a folder has.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// A file's content.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What a folder contains.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create_new(path)
    }

    fn write(&self, file: &mut File, content: &[u8]) -> io::Result<()> {
        file.write_all(content)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some mounted filesystems know no syncing of folders: their names are as durable as they get.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            synced => synced,
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Somebody removed it just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if let Ok(name) = entry.file_name().into_string()
                && (metadata.is_file() || metadata.is_dir())
            {
                entries.push(Entry { name, bytes: metadata.is_file().then_some(metadata.len()) });
            }
        }
        Ok(entries)
    }
}
