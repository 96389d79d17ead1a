//! A process that is killed at each durable step, and the next one.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use millstream_engine::checkpoint::Store;
use millstream_engine::failpoint;

use crate::store::Folder;

/// Names the folder that a child process is to write into.
const CHILD: &str = "MILLSTREAM_TEST_CHILD";

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let store = Folder::open(Path::new(&folder)).expect("opened");
        store.put("parts/a", b"first").expect("put");
        store.put("manifests/1", b"one").expect("put");
        store.put("manifests/1", b"other").expect("put");
        store.delete("parts/a").expect("deleted");
    }
}

#[test]
fn a_kill_at_each_step_leaves_the_old_or_the_new() {
    let one = ["manifests/1=one", "parts/a=first"];
    let other = ["manifests/1=other", "parts/a=first"];
    let cases: [(&str, &[&str], usize); 11] = [
        ("checkpoint.part:before:1", &[], 0),
        ("checkpoint.part:after:1", &[], 1),
        ("checkpoint.rename:before:1", &[], 1),
        ("checkpoint.rename:after:1", &one[1..], 0),
        ("checkpoint.manifest:before:1", &one[1..], 0),
        ("checkpoint.manifest:after:1", &one[1..], 1),
        ("checkpoint.manifest:after:2", &one, 1),
        ("checkpoint.rename:before:3", &one, 1),
        ("checkpoint.rename:after:3", &other, 0),
        ("checkpoint.delete:before:1", &other, 0),
        ("checkpoint.delete:after:1", &other[..1], 0),
    ];
    for (kill_at, expected, leftovers) in cases {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let mut command = Command::new(std::env::current_exe().expect("tests know their program"));
        command.args(["store::tests::kills::child", "--exact"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.env(CHILD, folder.path()).env(failpoint::VARIABLE, kill_at);
        let status = command.status().expect("the program starts again");
        assert_eq!(status.signal(), Some(9), "{kill_at}: {status}");

        let store = Folder::open(folder.path()).expect("opened");
        let content = |name: &str| {
            let content = store.get(name).expect("it can be read").expect("it is listed");
            String::from_utf8(content).expect("text")
        };
        let found = store.list("").expect("it can be listed").into_iter();
        let found: Vec<String> = found.map(|object| format!("{}={}", object.name, content(&object.name))).collect();
        assert_eq!(found, expected, "{kill_at}");
        // A reader leaves alone what may be somebody's; who writes removes it.
        assert_eq!(temporaries(folder.path()), leftovers, "{kill_at}");
        store.put("parts/b", b"second").expect("it goes on");
        assert_eq!(temporaries(folder.path()), 0, "{kill_at}");
    }
}

fn temporaries(folder: &Path) -> usize {
    let folders = ["parts", "manifests"].map(|name| folder.join(name));
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    entries
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with('.')))
        .count()
}
