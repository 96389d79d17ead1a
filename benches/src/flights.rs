//! The flight example: its definition, whole or in parts, and runs of it on states of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_connectors::broker::Broker;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples")
}

/// The definition as it is.
pub fn whole() -> Pipeline {
    load(&examples().join("flight-delays.yaml"))
}

/// Only its feeds, and the sources that say what the topics hold.
pub fn feeds_only(folder: &Path) -> Pipeline {
    let text = text().replace("name: flight-delays", "name: flight-feeds");
    part(folder, "feeds.yaml", text.split("\nstreams:").next().expect("a split has a first part"))
}

/// All but its feeds: the topics must be there.
pub fn without_feeds(folder: &Path) -> Pipeline {
    let text = text();
    let (head, rest) = text.split_once("\nfeeds:").expect("the example has feeds");
    let (_, tail) = rest.split_once("\nsources:").expect("sources come after the feeds");
    part(folder, "no-feeds.yaml", &format!("{head}\nsources:{tail}"))
}

fn text() -> String {
    let path = examples().join("flight-delays.yaml");
    let text = std::fs::read_to_string(path).expect("the example is there");
    // Parts of it are put elsewhere, but read the same files.
    text.replace("path: data/", &format!("path: {}/data/", examples().display()))
}

fn part(folder: &Path, name: &str, text: &str) -> Pipeline {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a folder that can be written");
    load(&path)
}

fn load(path: &Path) -> Pipeline {
    let loaded = millstream_pipelines::load(path, &Catalogue::shipped()).ok();
    loaded.unwrap_or_else(|| panic!("`millstream check {}` tells what is wrong", path.display())).0
}

/// How the benches run a pipeline: silently, with metrics on a free port.
pub fn options(state: &Path, workers: usize, broker: Option<Arc<dyn Broker>>) -> Options {
    Options {
        workers: Some(workers),
        broker,
        metrics: Some(([127, 0, 0, 1], 0).into()),
        quiet: true,
        ..Options::new(state.to_owned())
    }
}

/// Runs until all input is used up.
pub fn run_until_idle(pipeline: &Pipeline, state: &Path, workers: usize) -> Summary {
    let options = Options { until_idle: true, ..options(state, workers, None) };
    run(pipeline, options).unwrap_or_else(|fault| panic!("the run ends well: {fault}"))
}

/// Copies a state that no run uses.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder that can be written");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("a file that can be copied");
        }
    }
}
