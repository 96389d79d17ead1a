//! Versions that leave a registry, and that come into one.
//!
//! What comes in is trusted in nothing: it is read under limits, every checksum is computed anew, and what could run code when
//! another program loads it is refused by its first bytes, whatever its name says.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use millstream_engine::{Fault, Result};
use safetensors::SafeTensors;

use super::artefacts::{Done, TEMPORARY, failed, sync_folder, write_durably};
use super::notes::{self, Author, Notes};
use super::store::Registry;
use super::tar;
use super::version::{CHECKSUMS, METADATA, Manifest, Version, check_name, checksum, checksums, digest};

/// Files of a version at most.
const FILES_MAX: usize = 256;
/// Bytes of all its files at most.
const BYTES_MAX: u64 = 4 << 30;
/// Bytes of what describes a version at most.
const METADATA_BYTES_MAX: usize = 16 << 20;
/// Bytes of a safetensors file's header at most: it is JSON, which takes many times as much memory.
const HEADER_BYTES_MAX: u64 = 1 << 20;

type Files = Vec<(String, Vec<u8>)>;

impl Registry {
    /// Writes a version's files, checked, to a new folder, or to a new archive where the name ends in `.tar`.
    pub fn export(&self, version: &Version, to: &Path) -> Result<()> {
        let mut files = self.artefacts(version)?;
        for name in [METADATA, CHECKSUMS] {
            files.push((name.to_owned(), self.stored(version, name)?));
        }
        let (parent, name) = (to.parent(), to.file_name().and_then(|name| name.to_str()));
        let (Some(parent), Some(name)) = (parent, name) else {
            return Err(Fault::definition(format!("{} is no name of a folder or archive", to.display())));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        if to.symlink_metadata().is_ok() {
            let message = format!("{} is there already: remove it, or choose another name", to.display());
            return Err(Fault::definition(message));
        }
        let temporary = parent.join(format!("{TEMPORARY}{name}"));
        write_all(&temporary, &files, is_archive(to)).inspect_err(|_| remove(&temporary))?;
        fs::rename(&temporary, to).map_err(failed("rename to", to))?;
        sync_folder(parent)
    }

    /// Takes a version that [`Registry::export`] has written, here or elsewhere. Gives whether it was new.
    pub fn import(&self, from: &Path, author: &Author) -> Result<(Version, bool)> {
        self.import_in_steps(from, author, &mut |_| Ok(()))
    }

    /// Calls `done` after each step that a crash may follow.
    pub(super) fn import_in_steps(&self, from: &Path, author: &Author, done: Done<'_>) -> Result<(Version, bool)> {
        let told = |fault: Fault| Fault { message: format!("{}: {}", from.display(), fault.message), ..fault };
        let (manifest, contents) = read_all(from).and_then(vet).map_err(told)?;
        let imported = self.change(author.at_ms, |to| {
            let model = &manifest.metadata.model;
            let mut noted = Notes::read(to)?;
            let version = self.place(&manifest, &contents, done)?;
            let is_new = !noted.numbers.contains_key(&(model.clone(), version.id.clone()));
            if is_new {
                let number = noted.number(model, &version.id);
                notes::add_version(to, model, &version.id, number)?;
                let what = format!("revision {} from {}", version.metadata.revision, from.display());
                notes::tell(to, (model, &version.id), "imported", &what, author)?;
            }
            Ok((version, is_new))
        })?;
        done("noted")?;
        Ok(imported)
    }
}

fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "tar")
}

fn write_all(path: &Path, files: &Files, archive: bool) -> Result<()> {
    remove(path);
    if !archive {
        fs::create_dir(path).map_err(failed("make the folder", path))?;
        files.iter().try_for_each(|(name, content)| write_durably(&path.join(name), content))?;
        return sync_folder(path);
    }
    let write = || {
        let mut file = BufWriter::new(File::create_new(path)?);
        tar::write(&mut file, files)?;
        file.flush()?;
        file.get_ref().sync_all()
    };
    write().map_err(failed("write", path))
}

/// Removes what an export that failed has left.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// The files of a folder or an archive, as far as the limits go.
fn read_all(from: &Path) -> Result<Files> {
    let mut room = Room::default();
    let metadata = fs::metadata(from).map_err(failed("read", from))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(from).map_err(failed("read the folder", from))? {
            let entry = entry.map_err(failed("read the folder", from))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            check_name("file", &name)?;
            let (size, mut file) = open_plain(&name, &entry.path())?;
            room.take(&name, size, &mut file)?;
        }
    } else if metadata.is_file() {
        let file = File::open(from).map_err(failed("read", from))?;
        tar::read(&mut BufReader::new(file), |name, size, content| room.take(name, size, content))?;
    } else {
        return Err(Fault::definition("it is neither a folder nor an archive"));
    }
    Ok(room.files)
}

/// Opens a file that is no link, and is the one that was looked at.
fn open_plain(name: &str, path: &PathBuf) -> Result<(u64, File)> {
    let refused = || Fault::definition(format!("`{name}` is no plain file: a version has neither links nor folders"));
    let looked_at = path.symlink_metadata().map_err(failed("read", path))?;
    if !looked_at.is_file() {
        return Err(refused());
    }
    let file = File::open(path).map_err(failed("read", path))?;
    let opened = file.metadata().map_err(failed("read", path))?;
    if (looked_at.dev(), looked_at.ino()) != (opened.dev(), opened.ino()) {
        return Err(refused());
    }
    Ok((opened.len(), file))
}

/// What was read, and how much.
#[derive(Default)]
struct Room {
    files: Files,
    bytes: u64,
}

impl Room {
    fn take(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        self.bytes = self.bytes.saturating_add(size);
        if self.files.len() == FILES_MAX || self.bytes > BYTES_MAX {
            return Err(Fault::definition(format!(
                "a version has {FILES_MAX} files and {BYTES_MAX} bytes at most, and this one more"
            )));
        }
        if self.files.iter().any(|(other, _)| other == name) {
            return Err(Fault::definition(format!("`{name}` is there twice")));
        }
        let mut content = Vec::new();
        // No more than was announced is read, whatever a file has become meanwhile.
        from.take(size)
            .read_to_end(&mut content)
            .map_err(|error| Fault::world(format!("cannot read `{name}`")).because(error))?;
        self.files.push((name.to_owned(), content));
        Ok(())
    }
}

/// Checks everything that can be checked; gives what the files say, and the files as they are stored.
fn vet(mut files: Files) -> Result<(Manifest, Files)> {
    files.sort();
    let taken = |files: &mut Files, name: &str| {
        let at = files.iter().position(|(other, _)| other == name);
        let at = at.ok_or_else(|| {
            Fault::definition(format!("`{name}` is missing: import what `millstream models export` has written"))
        })?;
        Ok::<_, Fault>(files.remove(at).1)
    };
    let metadata = taken(&mut files, METADATA)?;
    let sums = taken(&mut files, CHECKSUMS)?;
    if metadata.len() > METADATA_BYTES_MAX {
        let message = format!("`{METADATA}` has {} bytes, and {METADATA_BYTES_MAX} at most are read", metadata.len());
        return Err(Fault::definition(message));
    }
    let manifest: Manifest = serde_json::from_slice(&metadata)
        .map_err(|error| Fault::definition(format!("`{METADATA}` is not that of a version")).because(error))?;
    check_name("model", &manifest.metadata.model)?;
    let listed: BTreeSet<&String> = manifest.files.iter().collect();
    let there: BTreeSet<&String> = files.iter().map(|(name, _)| name).collect();
    if let Some(name) = listed.symmetric_difference(&there).next() {
        let what = if listed.contains(name) { "is missing" } else { "is not part of the version: remove it" };
        return Err(Fault::definition(format!("`{name}` {what}")));
    }
    for (name, content) in &files {
        refuse_code(name, content)?;
    }
    let right = checksums(&files) + &checksum(METADATA, &metadata);
    if sums != right.as_bytes() {
        let written = String::from_utf8_lossy(&sums);
        let wrong = right.lines().find(|line| !written.lines().any(|written| written == *line));
        let name = wrong.and_then(|line| line.rsplit("  ").next()).unwrap_or(CHECKSUMS);
        let message = format!("`{name}` is not what its checksum says: it was changed or damaged; export it again");
        return Err(Fault::definition(message));
    }
    if digest(&files) != manifest.digest {
        return Err(Fault::definition("its files are not those of its digest: export it again"));
    }
    files.push((METADATA.to_owned(), metadata));
    files.push((CHECKSUMS.to_owned(), sums));
    Ok((manifest, files))
}

/// Refuses what runs code when it is loaded, and tensors that are none.
fn refuse_code(name: &str, content: &[u8]) -> Result<()> {
    if Path::new(name).extension().is_some_and(|end| end == "safetensors") {
        let header = content.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if header.is_none_or(|bytes| bytes > HEADER_BYTES_MAX) {
            let message = format!("`{name}` has no header of {HEADER_BYTES_MAX} bytes at most");
            return Err(Fault::definition(message));
        }
        // The first bytes of its header's length may be those of a pickle; what can be read as tensors is none.
        return SafeTensors::deserialize(content)
            .map(drop)
            .map_err(|error| Fault::definition(format!("`{name}` holds no tensors")).because(error));
    }
    let is_pickle = content.first() == Some(&0x80) && content.get(1).is_some_and(|protocol| *protocol <= 5);
    let is_zip = content.starts_with(b"PK\x03\x04") || content.starts_with(b"PK\x05\x06");
    if is_pickle || is_zip {
        let what = if is_pickle { "a pickle" } else { "a zip archive, as PyTorch's, with pickles in it" };
        return Err(Fault::definition(format!(
            "`{name}` is {what}, which may run any code when it is loaded: store the numbers as safetensors"
        )));
    }
    Ok(())
}
