//! The flight example: its definition, whole or in parts, and runs of it on states of their own.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use millstream_connectors::broker::Broker;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples")
}

/// The example with several years of data: its own, and copies in the years after.
pub struct Example {
    folder: PathBuf,
}

impl Example {
    /// Writes the data and the definition into `folder`.
    pub fn new(folder: &Path, years: u32) -> Self {
        let example = Self { folder: folder.to_owned() };
        std::fs::create_dir_all(example.data()).expect("a folder that can be written");
        for name in ["flights.csv.gz", "weather.csv.gz", "questions.csv.gz"] {
            repeat(&examples().join("data").join(name), &example.data().join(name), years);
        }
        example
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The definition as it is.
    pub fn whole(&self) -> Pipeline {
        self.plan("whole.yaml", &text())
    }

    /// Only its feeds, and the sources that say what the topics hold.
    pub fn feeds_only(&self) -> Pipeline {
        let text = text().replace("name: flight-delays", "name: flight-feeds");
        self.plan("feeds.yaml", text.split("\nstreams:").next().expect("a split has a first part"))
    }

    /// All but its feeds: the topics must be there.
    pub fn without_feeds(&self) -> Pipeline {
        let text = text();
        let (head, rest) = text.split_once("\nfeeds:").expect("the example has feeds");
        let (_, tail) = rest.split_once("\nsources:").expect("sources come after the feeds");
        self.plan("no-feeds.yaml", &format!("{head}\nsources:{tail}"))
    }

    fn plan(&self, name: &str, text: &str) -> Pipeline {
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("a folder that can be written");
        let loaded = millstream_pipelines::load(&path, &Catalogue::shipped()).ok();
        loaded.unwrap_or_else(|| panic!("`millstream check` tells what is wrong with the example's {name}")).0
    }
}

fn text() -> String {
    std::fs::read_to_string(examples().join("flight-delays.yaml")).expect("the example is there")
}

/// The lines of a compressed file.
pub fn lines(path: &Path) -> Vec<String> {
    let mut text = String::new();
    let file = File::open(path).expect("the example has data");
    GzDecoder::new(file).read_to_string(&mut text).expect("compressed text");
    text.lines().map(str::to_owned).collect()
}

fn repeat(from: &Path, to: &Path, years: u32) {
    let lines = lines(from);
    let mut file = GzEncoder::new(File::create(to).expect("a folder that can be written"), Compression::fast());
    let mut put = |line: &str| writeln!(file, "{line}").expect("a disk");
    put(&lines[0]);
    for year in 2013..2013 + years {
        lines[1..].iter().for_each(|line| put(&line.replace("2013-", &format!("{year}-"))));
    }
    file.finish().expect("a disk");
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
    run(pipeline, &options).unwrap_or_else(|fault| panic!("the run ends well: {fault}"))
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
