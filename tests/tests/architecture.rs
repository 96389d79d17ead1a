//! Who may know whom, as the design says, and the house rules that a machine can keep.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates a crate may use.
const CRATES: [(&str, &[&str]); 6] = [
    ("engine", &[]),
    ("connectors", &["engine"]),
    ("operators", &["engine"]),
    ("pipelines", &["engine", "connectors", "operators"]),
    ("tests", &["engine", "connectors", "operators", "pipelines"]),
    ("benches", &["engine", "connectors", "operators", "pipelines"]),
];

/// Which of its sister modules a module may use.
const MODULES: [(&str, &str, &[&str]); 13] = [
    ("operators", "models", &[]),
    ("operators", "expression", &[]),
    ("operators", "sketch", &[]),
    ("operators", "registry", &["models", "expression"]),
    ("operators", "cleansing", &["models", "registry", "expression", "sketch"]),
    // What a text might be is decided by the code that reads it.
    ("operators", "profile", &["cleansing", "sketch"]),
    ("operators", "inference", &["models", "registry"]),
    // Training reads features by the code that answers requests, so that the two cannot differ.
    ("operators", "training", &["models", "registry", "inference"]),
    ("connectors", "broker", &[]),
    ("connectors", "formats", &[]),
    ("connectors", "store", &[]),
    ("connectors", "sources", &["broker", "formats"]),
    ("connectors", "sinks", &["broker", "formats"]),
];

/// Files that may be longer than [`LINES_MAX`] lines of code, and why. There are none.
const LONG: [(&str, &str); 0] = [];
const LINES_MAX: usize = 500;

/// Where time may be read besides `engine/src/time.rs`, and why.
const CLOCKS: [(&str, &str); 9] = [
    ("benches", "measuring is what they are for"),
    ("connectors/src/broker/embedded/reader.rs", "how long a read may wait"),
    ("connectors/src/broker/simulated/mod.rs", "how long a read may wait"),
    ("connectors/src/broker/kafka/mod.rs", "how long the server may take to answer"),
    ("connectors/src/broker/kafka/reader.rs", "how long a read may wait"),
    ("connectors/src/broker/kafka/producer.rs", "how long a transaction may take"),
    ("connectors/src/broker/kafka/outbox.rs", "the same"),
    ("connectors/src/broker/kafka/tests.rs", "names that no earlier run has used, on a server that lives on"),
    ("connectors/tests", "the same, and how long a broker may take to deliver"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A Rust file.
struct Source {
    /// Its path below the workspace.
    path: String,
    /// Its text.
    text: String,
}

impl Source {
    /// Lines that are neither blank nor a comment, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        (1..).zip(self.text.lines()).filter(move |(_, line)| is_code(line))
    }

    /// The text without comments and without the tests at its end.
    fn product(&self) -> String {
        let text = self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        let product = Self { path: String::new(), text };
        product.code().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }
}

/// All Rust files below a folder of the workspace, this one excepted: it names what it forbids.
fn sources(below: &str) -> Vec<Source> {
    let mut folders = vec![root().join(below)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && name != "architecture.rs" {
                let text = fs::read_to_string(&path).expect("it can be read");
                let path = path.strip_prefix(root()).expect("below it").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn all_sources() -> Vec<Source> {
    let found: Vec<Source> = CRATES.iter().flat_map(|(name, _)| sources(name)).collect();
    assert!(found.len() > 100, "the workspace was not found");
    found
}

/// The names that follow each `marker` in a text: `marker::name`, or all of `marker::{name::…, name}`.
fn names_after(text: &str, marker: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(marker) {
        let rest = &text[at + marker.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    names.insert(name(group[start..at].trim_start()));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

#[test]
fn names_are_found_in_uses() {
    let text = "use crate::a;\nuse crate::{b::{c, d}, e,\n  f};\ncrate::g::h(); crate::A";
    assert_eq!(names_after(text, "crate::").into_iter().collect::<Vec<_>>(), ["A", "a", "b", "e", "f", "g"]);
}

#[test]
fn crates_know_only_those_before_them() {
    let members = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    for (name, allowed) in CRATES {
        assert!(members.contains(&format!("\"{name}\"")), "{name} is no member of the workspace");
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a member");
        for line in manifest.lines().filter(|line| line.starts_with("millstream-")) {
            let used = line["millstream-".len()..].split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(allowed.contains(&used), "{name}/Cargo.toml uses {used}");
        }
        for source in sources(name) {
            let used = names_after(&source.text, "millstream_");
            let known = CRATES.map(|(known, _)| known);
            let crates = used.iter().filter(|used| known.contains(&used.as_str()) && *used != name);
            let strangers: Vec<_> = crates.filter(|used| !allowed.contains(&used.as_str())).collect();
            assert!(strangers.is_empty(), "{} uses {strangers:?}", source.path);
        }
    }
    let listed: BTreeSet<String> = names_after(&members.replace('"', "%"), "%").into_iter().collect();
    for folder in fs::read_dir(root()).expect("the workspace") {
        let path = folder.expect("it can be listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        assert!(!path.join("Cargo.toml").exists() || CRATES.iter().any(|(known, _)| *known == name), "{name} is new");
        assert!(!path.join("Cargo.toml").exists() || listed.contains(&name), "{name} is not built");
    }
}

#[test]
fn modules_know_only_those_they_may() {
    for (name, module, allowed) in MODULES {
        let sisters: BTreeSet<&str> = MODULES.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        let all = sources(name);
        // Modules that exist for tests only.
        let tests: BTreeSet<String> =
            all.iter().flat_map(|source| names_after(&test_modules(&source.text), "mod ")).collect();
        let folder = format!("{name}/src/{module}");
        let is_of = |path: &str| path.starts_with(&format!("{folder}/")) || path == format!("{folder}.rs");
        let is_test = |path: &str| path.split(['/', '.']).any(|part| tests.contains(part));
        let mine: Vec<&Source> = all.iter().filter(|source| is_of(&source.path) && !is_test(&source.path)).collect();
        assert!(!mine.is_empty(), "there is no {folder}");
        for source in mine {
            for used in names_after(&source.product(), "crate::") {
                let fine = used == module || !sisters.contains(used.as_str()) || allowed.contains(&used.as_str());
                assert!(fine, "{} uses {used}", source.path);
            }
        }
    }
}

/// The declarations of modules under `#[cfg(test)]`, one on each line.
fn test_modules(text: &str) -> String {
    let parts = text.split("#[cfg(test)]\n").skip(1).filter_map(|part| part.lines().next());
    parts.filter(|line| line.ends_with(';')).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_file_is_forgotten() {
    for (name, _) in CRATES {
        let all = sources(name);
        let mut known: BTreeSet<String> = all.iter().flat_map(|source| names_after(&source.text, "mod ")).collect();
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a member");
        known.extend(names_after(&manifest, "name = \""));
        known.extend(["lib", "main", "build"].map(str::to_owned));
        for source in all {
            let path = source.path.strip_suffix(".rs").expect("a Rust file");
            let module = path.strip_suffix("/mod").unwrap_or(path).rsplit('/').next().unwrap_or_default();
            assert!(known.contains(module), "{} is compiled nowhere", source.path);
        }
    }
}

#[test]
fn files_are_short() {
    for source in all_sources() {
        let lines = source.code().count();
        let excused = LONG.iter().any(|(path, _)| *path == source.path);
        assert!(lines <= LINES_MAX || excused, "{} has {lines} lines of code", source.path);
        assert!(lines > LINES_MAX || !excused, "{} is short enough now", source.path);
    }
}

#[test]
fn nothing_is_left_undone() {
    for source in all_sources() {
        for (number, line) in source.code() {
            for word in ["todo!", "unimplemented!", "dbg!", "#[ignore]"] {
                assert!(!line.contains(word), "{}:{number} has {word}", source.path);
            }
        }
    }
}

#[test]
fn one_file_reads_the_clock() {
    let mut used = BTreeSet::new();
    for source in all_sources().iter().filter(|source| source.path != "engine/src/time.rs") {
        for (number, line) in source.code() {
            let reads = ["SystemTime", "Instant"]
                .iter()
                .any(|word| line.split(|c: char| !c.is_alphanumeric()).any(|part| part == *word));
            let excuse = CLOCKS.iter().position(|(path, _)| source.path.starts_with(path));
            assert!(!reads || excuse.is_some(), "{}:{number} reads a clock", source.path);
            used.extend(excuse.filter(|_| reads));
        }
    }
    let unused: Vec<&str> = (0..CLOCKS.len()).filter(|at| !used.contains(at)).map(|at| CLOCKS[at].0).collect();
    assert!(unused.is_empty(), "these no longer read a clock: {unused:?}");
}
