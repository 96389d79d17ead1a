//! Networks on real data, from a definition and files.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch};
use flate2::read::GzDecoder;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::learn::{Learned, Wanted, learn};
use millstream_pipelines::load;
use parquet::arrow::ArrowWriter;

/// Learns from files what a definition says.
fn learned(folder: &Path, definition: &str, wanted: &Wanted) -> Learned {
    let path = folder.join("pipeline.yaml");
    std::fs::write(&path, definition).expect("it can be written");
    let (pipeline, _) = load(&path, &Catalogue::shipped()).unwrap_or_else(|report| panic!("{}", report.render(false)));
    learn(&pipeline, wanted).expect("learned")
}

fn measure(learned: &Learned, over: &str, name: &str) -> f64 {
    let measures = learned.models[0].measures.iter();
    let wanted = |score: &&_| -> bool {
        let score: &millstream_operators::registry::Score = score;
        score.over == over && score.name == name && score.who == "model"
    };
    measures.clone().find(wanted).unwrap_or_else(|| panic!("{over} {name}: {measures:?}")).value
}

/// In the example's file a logistic regression answers. A network on the same rows is better.
#[test]
fn a_network_beats_the_logistic_regression_of_the_flight_example() {
    const SHIPPED: &str = "learner: {logistic_regression: {update: sgd}}";
    const NETWORK: &str = "learner: {neural_network: {network: {mlp: {hidden: [64, 32]}}, training: {mini_batch: 8, optimizer: {sgd: {rate: 0.05}}}}}";
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
    let definition = std::fs::read_to_string(examples.join("flight-delays.yaml")).expect("the example");
    assert!(definition.contains(SHIPPED));
    let definition = definition.replace("path: data/", &format!("path: {}/data/", examples.display()));
    // What is swept is the settings of the shipped learner.
    let (before, swept) = definition.split_once("sweeps:").expect("the example has a sweep");
    let definition = before.to_owned() + swept.split_once("\n\n").expect("something follows it").1;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| (Some(name.to_owned()), examples.join(format!("data/{name}.csv.gz")));
    let wanted = Wanted { files: vec![file("flights"), file("weather")], ..Wanted::default() };
    let [shipped, network] = [SHIPPED, NETWORK].map(|learner| {
        let learned = learned(folder.path(), &definition.replace(SHIPPED, learner), &wanted);
        (learned.models[0].examples, measure(&learned, "all", "log_loss"))
    });
    println!("log loss over {} flights: {:.4}, of the network {:.4}", shipped.0, shipped.1, network.1);
    assert_eq!(shipped.0, network.0);
    assert!(network.1 < shipped.1 - 0.003, "{network:?}, and the logistic regression {shipped:?}");
}

/// The content of an IDX file, behind so many bytes of its header.
fn idx(folder: &Path, name: &str, header: usize) -> Vec<u8> {
    let file = std::fs::File::open(folder.join(name)).expect("a file of the images");
    let mut content = Vec::new();
    GzDecoder::new(file).read_to_end(&mut content).expect("it can be unpacked");
    content.split_off(header)
}

/// Images in rows: the ones to be learned, then the ones to be told. Times are a second apart.
fn images(folder: &Path, to: &Path) {
    const PIXELS: usize = 784;
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    let mut first = 0_i64;
    for (part, is_test) in [("train", false), ("t10k", true)] {
        let pixels = idx(folder, &format!("{part}-images-idx3-ubyte.gz"), 16);
        let labels = idx(folder, &format!("{part}-labels-idx1-ubyte.gz"), 8);
        let rows = labels.len();
        assert_eq!(pixels.len(), rows * PIXELS);
        let labels = labels.iter().map(|label| i64::from(*label));
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("at".to_owned(), Arc::new(Int64Array::from_iter_values((first..).map(|at| 1000 * at).take(rows)))),
            ("label".to_owned(), Arc::new(labels.collect::<Int64Array>())),
            ("is_test".to_owned(), Arc::new(BooleanArray::from(vec![is_test; rows]))),
        ];
        for pixel in 0..PIXELS {
            let values = pixels.iter().skip(pixel).step_by(PIXELS).map(|value| f64::from(*value) / 255.0);
            columns.push((format!("p{pixel}"), Arc::new(Float64Array::from_iter_values(values))));
        }
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let writer = writer.get_or_insert_with(|| {
            let file = std::fs::File::create(to).expect("a file");
            ArrowWriter::try_new(file, batch.schema(), None).expect("a writer")
        });
        writer.write(&batch).expect("it can be written");
        first += rows as i64;
    }
    writer.expect("two parts").close().expect("it can be written");
}

#[test]
fn fashion_is_told_apart() {
    let Some(source) = std::env::var_os("FASHION_MNIST").map(PathBuf::from) else {
        println!("skipped: FASHION_MNIST names no folder with the images (.ci/with-fashion-mnist)");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("images.parquet");
    images(&source, &file);
    let (mut columns, mut features) = (String::new(), Vec::new());
    for pixel in 0..784 {
        // Writing to a string cannot fail.
        let _ = write!(columns, ", p{pixel}: float");
        features.push(format!("p{pixel}"));
    }
    let definition = format!(
        "
millstream: 1
name: fashion
sources:
  images:
    from: {{topic: {{name: images}}}}
    format: json
    columns: {{at: timestamp, label: int, is_test: bool{columns}}}
    event_time: {{column: at}}
streams:
  weighted: {{input: images, steps: [{{derive: {{counts: \"case when is_test then 0.0 else 1.0 end\"}}}}]}}
models:
  fashion:
    input: weighted
    label: label
    classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    weight: counts
    features: [{}]
    evaluate: {{by: [is_test]}}
    learner: {{neural_network: {{network: {{mlp: {{hidden: [128]}}}}, training: {{mini_batch: 64, schedule: {{then: {{cosine: {{steps: 4690, to: 0.01}}}}}}}}}}}}
",
        features.join(", ")
    );
    let wanted = Wanted { files: vec![(None, file)], passes: 5, ..Wanted::default() };
    let learned = learned(folder.path(), &definition, &wanted);
    let told = measure(&learned, "is_test=true", "accuracy");
    println!("{told} of the images that were not learned are told apart, in {:.1} s", learned.seconds);
    assert_eq!(learned.models[0].examples, 5 * 70_000);
    assert!(told >= 0.88, "{told}");
}
