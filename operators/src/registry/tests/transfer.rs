//! What goes out comes in as it was; and what must not come in does not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::super::{Promotion, Registry, Version};
use super::changes::{author, told};
use super::promotion;
use super::site::{Site, crash_after};

/// A promotion with tensors that are some.
fn with_tensors() -> Promotion {
    let bytes: Vec<u8> = (0..8_u8).flat_map(|at| f64::from(at).to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F64, vec![8], &bytes).expect("a tensor");
    let mut promotion = promotion("late", b"");
    promotion.artefacts[0].1 = serialize([("weights", tensor)], None).expect("written");
    promotion
}

/// Two registries, the first with a version, and a place between them.
struct Border {
    folder: TempDir,
    site: Site,
    here: Registry,
    there: Registry,
    version: Version,
}

impl Border {
    fn new() -> Self {
        Self::at(Site::in_folder())
    }

    fn at(site: Site) -> Self {
        let (folder, here) = (tempfile::tempdir().expect("a temporary folder"), site.open());
        let there = Registry::open(&folder.path().join("there")).expect("opened");
        let version = here.promote(&with_tensors()).expect("promoted");
        Self { folder, site, here, there, version }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An exported folder.
    fn exported(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.here.export(&self.version, &path).expect("exported");
        path
    }

    fn refused(&self, path: &Path, want: &str) {
        let message = self.there.import(path, &author("")).expect_err(want).to_string();
        assert!(message.contains(want), "{message} where `{want}` was expected");
        assert!(message.starts_with(&path.display().to_string()), "{message}");
        assert!(self.there.list().expect("listed").is_empty(), "{want}: nothing came in");
    }
}

#[test]
fn a_version_goes_from_registry_to_registry() {
    for (name, site) in
        ["exported", "exported.tar"].into_iter().flat_map(|name| Site::all().into_iter().map(move |site| (name, site)))
    {
        let border = Border::at(site);
        let path = border.exported(name);
        let (version, is_new) = border.there.import(&path, &author("from here")).expect("imported");
        assert!(is_new);
        assert_eq!((&version.id, &version.metadata), (&border.version.id, &border.version.metadata));
        let files = |registry: &Registry, version| registry.artefacts(version).expect("sound");
        assert_eq!(files(&border.there, &version), files(&border.here, &border.version));
        let bytes = fs::read(format!("{}/metadata.json", version.place)).expect("read");
        assert_eq!(Some(bytes), border.site.get(&border.version, "metadata.json"), "bit for bit");
        let said = format!("imported revision 7 from {} by ana: from here", path.display());
        assert_eq!(told(&border.there), [said.as_str()]);
        assert!(!border.there.import(&path, &author("")).expect("there already").1);
        assert_eq!(told(&border.there).len(), 1, "nothing happened");
        let again = border.here.export(&border.version, &path).expect_err("refused").to_string();
        assert!(again.contains("is there already: remove it, or choose another name"), "{again}");
    }
}

#[test]
fn archives_can_be_read_by_tar_and_written_by_it() {
    let border = Border::new();
    let (archive, folder) = (border.exported("version.tar"), border.path("unpacked"));
    fs::create_dir(&folder).expect("made");
    let tar = |arguments: &[&str]| {
        let run = std::process::Command::new("tar").current_dir(&folder).args(arguments).output();
        run.map(|output| assert!(output.status.success(), "{output:?}"))
    };
    if tar(&["-xf", archive.to_str().expect("a name")]).is_err() {
        println!("skipped: there is no tar");
        return;
    }
    let packed = ["metadata.json", "checksums.b3", "weights.safetensors", "model.json"];
    for format in ["--format=ustar", "--format=gnu"] {
        tar(&[&[format, "-cf", "../again.tar"], &packed[..]].concat()).expect("packed");
        border.there.import(&border.path("again.tar"), &author("")).expect("imported");
    }
    tar(&["-cf", "../folder.tar", "."]).expect("packed");
    border.there.delete("late", &border.version.id, &author("")).expect("deleted");
    border.refused(&border.path("folder.tar"), "is no plain file; pack the files of the version alone");
}

#[test]
fn a_changed_byte_is_found() {
    let border = Border::new();
    let folder = border.exported("folder");
    for name in ["metadata.json", "checksums.b3", "weights.safetensors", "model.json"] {
        let path = folder.join(name);
        let content = fs::read(&path).expect("read");
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).expect("written");
            assert!(border.there.import(&folder, &author("")).is_err(), "{name}, byte {at}");
        }
        fs::write(&path, content).expect("written");
    }
    fs::write(folder.join("model.json"), b"{}").expect("written");
    border.refused(&folder, "`model.json` is not what its checksum says");
    assert_eq!(fs::read_dir(border.path("there")).expect("read").count(), 0, "not even a folder");
}

#[test]
fn a_damaged_archive_is_refused() {
    let border = Border::new();
    let archive = border.exported("version.tar");
    let content = fs::read(&archive).expect("read");
    let changed = border.path("changed.tar");
    for at in (0..content.len() - 1024).step_by(7) {
        let mut bytes = content.clone();
        bytes[at] ^= 1;
        fs::write(&changed, bytes).expect("written");
        // What fills a block, and a header's unused fields, may be anything: then the version is as it was.
        if let Ok((version, _)) = border.there.import(&changed, &author("")) {
            assert_eq!(version.digest, border.version.digest);
            border.there.delete("late", &version.id, &author("")).expect("deleted");
        }
    }
    for length in [0, 100, 512, 600, 1024, content.len() / 2, content.len() - 1024] {
        fs::write(&changed, &content[..length]).expect("written");
        border.refused(&changed, "it is cut short");
    }
}

/// An archive with one file of this name, kind and content.
fn archive(name: &str, kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[test]
fn nothing_leads_out_of_an_archive() {
    let border = Border::new();
    let path = border.path("hostile.tar");
    let cases = [
        ("../../etc/passwd", b'0', 0, "file name \"../../etc/passwd\""),
        ("/etc/passwd", b'0', 0, "file name \"/etc/passwd\""),
        ("a/b", b'0', 0, "file name \"a/b\""),
        (".hidden", b'0', 0, "file name \".hidden\""),
        ("a\\..\\b", b'0', 0, "file name"),
        ("", b'0', 0, "file name \"\""),
        ("link", b'2', 0, "`link` is no plain file"),
        ("hard", b'1', 0, "`hard` is no plain file"),
        ("device", b'3', 0, "`device` is no plain file"),
        ("folder/", b'5', 0, "`folder/` is no plain file"),
        ("pax", b'x', 0, "`pax` is no plain file"),
        ("long", b'L', 0, "`long` is no plain file"),
        ("huge", b'0', 8 << 30, "4294967296 bytes at most"),
        ("short", b'0', 5000, "it is cut short"),
    ];
    for (name, kind, size, want) in cases {
        let size = if size > (1 << 33) - 1 { (1 << 33) - 1 } else { size };
        fs::write(&path, archive(name, kind, size, b"")).expect("written");
        border.refused(&path, want);
    }
    let two = archive("twice", b'0', 0, b"");
    fs::write(&path, [&two[..512], &two].concat()).expect("written");
    border.refused(&path, "`twice` is there twice");
    let many: Vec<u8> =
        (0..300).flat_map(|at| archive(&format!("f{at}"), b'0', 0, b"")[..512].to_vec()).chain([0; 1024]).collect();
    fs::write(&path, many).expect("written");
    border.refused(&path, "256 files");
    fs::write(&path, vec![0; 4096]).expect("written");
    border.refused(&path, "`metadata.json` is missing: import what `millstream models export` has written");
    border.refused(Path::new("/dev/null"), "neither a folder nor an archive");
}

#[test]
fn nothing_leads_out_of_a_folder() {
    let border = Border::new();
    let folder = border.exported("folder");
    let other = border.path("other");
    fs::write(&other, b"secret").expect("written");
    symlink(&other, folder.join("link")).expect("linked");
    border.refused(&folder, "`link` is no plain file: a version has neither links nor folders");
    fs::remove_file(folder.join("link")).expect("removed");
    fs::rename(folder.join("model.json"), &other).expect("renamed");
    symlink(&other, folder.join("model.json")).expect("linked");
    border.refused(&folder, "`model.json` is no plain file");
    fs::remove_file(folder.join("model.json")).expect("removed");
    border.refused(&folder, "`model.json` is missing");
    fs::rename(&other, folder.join("model.json")).expect("renamed");
    fs::create_dir(folder.join("more")).expect("made");
    border.refused(&folder, "`more` is no plain file");
    fs::remove_dir(folder.join("more")).expect("removed");
    fs::write(folder.join("more.json"), b"{}").expect("written");
    border.refused(&folder, "`more.json` is not part of the version: remove it");
    fs::remove_file(folder.join("more.json")).expect("removed");
    fs::write(folder.join("Ä"), b"").expect("written");
    border.refused(&folder, "file name");
    fs::remove_file(folder.join("Ä")).expect("removed");
    border.there.import(&folder, &author("")).expect("now it is as it was");
}

/// Exports a version that says all about itself as it should, with files that no run would write.
fn forged(border: &Border, name: &str, content: &[u8]) -> PathBuf {
    let mut promotion = promotion("late", b"");
    promotion.artefacts = vec![(name.to_owned(), content.to_vec())];
    let version = border.here.promote(&promotion).expect("a registry stores what it is given");
    let path = border.path(&format!("forged-{}", version.id));
    border.here.export(&version, &path).expect("exported");
    path
}

#[test]
fn what_may_run_code_is_refused_whatever_its_name() {
    let border = Border::new();
    let mut large = (2_u64 << 20).to_le_bytes().to_vec();
    large.resize(large.len() + (2 << 20), b' ');
    let cases: [(&str, &[u8], &str); 8] = [
        ("model.pkl", b"\x80\x04\x95\x1a\0\0\0\0\0\0\0", "is a pickle, which may run any code"),
        ("notes.json", b"\x80\x02}q\0.", "is a pickle"),
        ("model.bin", b"PK\x03\x04\0\0", "is a zip archive, as PyTorch's"),
        ("model.bin", b"PK\x05\x06\0\0", "is a zip archive"),
        ("weights.safetensors", b"\x80\x04\x95\x1a\0\0\0\0\0\0\0", "has no header of 1048576 bytes at most"),
        ("weights.safetensors", b"\x08\0\0\0\0\0\0\0notjson!", "holds no tensors"),
        ("weights.safetensors", b"short", "has no header"),
        ("weights.safetensors", &large, "has no header of 1048576 bytes at most"),
    ];
    for (name, content, want) in cases {
        border.refused(&forged(&border, name, content), want);
    }
    // The length of a header may begin with a pickle's first bytes, and be one of tensors all the same.
    let padding = "x".repeat(0x0280 - 8 - r#"{"__metadata__":{"a":""}}"#.len());
    let header = format!(r#"{{"__metadata__":{{"a":"{padding}"}}}}        "#);
    assert_eq!(header.len(), 0x0280);
    let content = [&0x0280_u64.to_le_bytes()[..], header.as_bytes()].concat();
    border.there.import(&forged(&border, "weights.safetensors", &content), &author("")).expect("these are tensors");
}

#[test]
fn a_crash_while_importing_leaves_all_or_nothing() {
    for kind in 0..Site::all().len() {
        let mut steps = 0;
        while !import_and_crash(&Border::at(Site::all().swap_remove(kind)), steps) {
            steps += 1;
        }
        assert!(steps >= 6, "only {steps} steps were tried");
    }
}

/// Whether it ended well.
fn import_and_crash(border: &Border, crash_at: usize) -> bool {
    let path = border.exported("folder");
    let here = border.site.open();
    here.delete("late", &border.version.id, &author("")).expect("deleted");
    let result = here.import_in_steps(&path, &author("again"), &mut crash_after(crash_at));
    let here = border.site.open();
    for listed in here.list().expect("listed") {
        here.show(&listed.id).expect("all of it is there");
    }
    let (version, _) = here.import(&path, &author("once more")).expect("imported");
    assert_eq!(here.show(&version.id).expect("complete").digest, border.version.digest);
    // It came in once, however that is told.
    let came: Vec<String> = told(&here).into_iter().filter(|told| !told.starts_with("deleted")).collect();
    assert_eq!(came.len(), 2, "crash {crash_at}: {came:?}");
    assert_eq!(here.entries().expect("listed")[0].number, Some(2));
    super::changes::promote(&here, b"later", 1);
    assert_eq!(border.site.leftovers(), 0, "crash {crash_at}");
    result.is_ok()
}
