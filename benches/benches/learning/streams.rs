//! The streams of the bench, and how a learner is taken through one.

use std::path::PathBuf;

use millstream_benches::streams::{Stream, agrawal, hashed, hyperplane, sea};
use millstream_operators::models::{Design, Example, Learner, Matrix, Shape};

/// How many rows generated streams have.
pub const ROWS: usize = 100_000;

/// Where the files lie.
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target")).join("learning")
}

/// Those on which accuracy is told; files that are not there are left out.
pub fn of_accuracy() -> Vec<Stream> {
    let read = |name: &str| {
        let path = folder().join(format!("{name}.csv"));
        match Stream::read(name, &path) {
            Ok(stream) => Some(stream),
            Err(error) => {
                println!("{} is left out: {error} (river_data.py fetches it)", path.display());
                None
            }
        }
    };
    let mut streams: Vec<Stream> = ["phishing", "bananas"].into_iter().filter_map(read).collect();
    streams.push(sea(ROWS, &[0], 0.1, 1));
    streams.push(agrawal(ROWS, 1, 1));
    streams.push(hyperplane(ROWS, 10, 2, 0.001, 0.05, 1));
    streams.push(Stream { name: "sea_drift".to_owned(), ..sea(ROWS, &[0, 1, 2, 3], 0.1, 1) });
    streams
}

/// Those on which speed is told.
pub fn of_speed() -> Vec<Stream> {
    vec![
        Stream { name: "dense8".to_owned(), ..hyperplane(1_000_000, 8, 2, 0.001, 0.05, 2) },
        Stream { name: "hashed39".to_owned(), ..hashed(500_000, 39, 4096, 2) },
        Stream { name: "dense30".to_owned(), ..hyperplane(200_000, 30, 2, 0.001, 0.05, 2) },
    ]
}

/// Writes all of them for the peers.
pub fn write() {
    std::fs::create_dir_all(folder()).expect("the target folder can be written");
    for stream in of_accuracy().iter().chain(&of_speed()) {
        let path = folder().join(format!("{}.stream.csv", stream.name));
        stream.write(&path).expect("the target folder can be written");
        println!("{}", path.display());
        stream.write_vw(&path.with_extension("vw")).expect("the target folder can be written");
    }
}

/// A stream as learners take it.
pub struct Ready {
    pub shape: Shape,
    batches: Vec<(Matrix, Vec<Example>)>,
}

impl Ready {
    pub fn new(stream: &Stream) -> Self {
        const BATCH: usize = 8192;
        let categories: usize = stream.categories.iter().map(|(_, count)| *count as usize).sum();
        let shape = Shape { dense: stream.dense.len(), active: stream.categories.len(), categories, classes: 2 };
        let batch = |from: usize| {
            let rows = from..stream.len().min(from + BATCH);
            let mut matrix = Matrix::new(shape);
            matrix.resize(rows.len());
            for (at, column) in stream.dense.iter().enumerate() {
                matrix.set_dense(at, column[rows.clone()].iter().copied());
            }
            let mut first = 0;
            for (at, (column, count)) in stream.categories.iter().enumerate() {
                matrix.set_active(at, column[rows.clone()].iter().map(|code| first + code));
                first += count;
            }
            (matrix, stream.classes[rows].iter().map(|class| Example::of(f64::from(*class))).collect())
        };
        Self { shape, batches: (0..stream.len()).step_by(BATCH).map(batch).collect() }
    }

    pub fn len(&self) -> usize {
        self.batches.iter().map(|(_, examples)| examples.len()).sum()
    }

    /// The share of rows whose class was told rightly before they were learned.
    pub fn accuracy(&self, design: &Design) -> f64 {
        let mut learner: Box<dyn Learner> = (design.make)(self.shape);
        let (mut outputs, mut right) = (Vec::new(), 0);
        for (rows, examples) in &self.batches {
            learner.learn(rows, examples, &mut outputs);
            right +=
                outputs.iter().zip(examples).filter(|(yes, example)| (**yes > 0.5) == (example.target > 0.5)).count();
        }
        right as f64 / self.len() as f64
    }

    /// How many examples a learner learns per CPU second.
    pub fn speed(&self, design: &Design) -> f64 {
        let mut learner: Box<dyn Learner> = (design.make)(self.shape);
        let mut outputs = Vec::new();
        let start = millstream_benches::thread_cpu_seconds();
        self.batches.iter().for_each(|(rows, examples)| learner.learn(rows, examples, &mut outputs));
        self.len() as f64 / (millstream_benches::thread_cpu_seconds() - start)
    }
}
