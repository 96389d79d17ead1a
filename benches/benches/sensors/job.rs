//! The same job as a definition file.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch};
use millstream_benches::flights::options;
use millstream_benches::{load, two_processes};
use millstream_pipelines::run::{self, Options, prepare};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::records::{CHANNELS, LATENESS_MS};
use crate::{Counts, DEDUPLICATE_MS, Gives, LIMIT, RANGE, WARM_UP, WINDOW_MS};

/// Where the result is, in the definition's folder.
pub const OUT: &str = "out/clean.parquet";
/// All steps, and what they give is written.
pub const ALL: usize = usize::MAX;

/// The definition's steps, each on a line.
fn steps(gives: Gives) -> Vec<String> {
    let columns = CHANNELS.join(", ");
    let within = CHANNELS.map(|name| format!("{name} between {:?} and {:?}", RANGE.start(), RANGE.end())).join(" and ");
    let mut steps = vec![
        format!("deduplicate: {{by: [sensor, seq], within_seconds: {}}}", DEDUPLICATE_MS / 1000),
        format!("impute: {{columns: [{columns}], with: mean, by: [sensor]}}"),
        format!("require: {{that: \"{within}\", otherwise: drop}}"),
        format!("standardise: {{columns: [{columns}], by: [sensor], warm_up: {WARM_UP}, limit: {LIMIT}}}"),
    ];
    if gives == Gives::Windows {
        let means = CHANNELS.map(|name| format!("{name}: mean({name})")).join(", ");
        let window = WINDOW_MS / 1000;
        steps
            .push(format!("aggregate: {{by: [sensor], window: {{tumbling_seconds: {window}}}, columns: {{{means}}}}}"));
    }
    steps
}

/// The steps' names.
pub fn names(gives: Gives) -> Vec<String> {
    steps(gives).iter().map(|step| step.split(':').next().unwrap_or_default().to_owned()).collect()
}

/// Writes the definition into a folder. With fewer steps than there are, nothing is written at the end.
pub fn write(records: &Path, folder: &Path, gives: Gives, count: usize) {
    std::fs::create_dir_all(folder).expect("a folder that can be written");
    let link = folder.join("readings.ndjson");
    std::os::unix::fs::symlink(std::fs::canonicalize(records).expect("the records are there"), link)
        .expect("a new folder");
    let floats = CHANNELS.map(|name| format!("{name}: float")).join(", ");
    let mut text = format!(
        "millstream: 1\nname: sensors\nsources:\n  readings:\n    from: {{file: {{path: readings.ndjson}}}}\n    \
         format: json\n    columns: {{sensor: text, seq: int, at: timestamp, {floats}}}\n    \
         event_time: {{column: at, lateness_seconds: {}}}\n\
         streams:\n  clean:\n    input: readings\n    steps:\n",
        LATENESS_MS / 1000
    );
    for step in steps(gives).iter().take(count) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "      - {step}");
    }
    if count <= steps(gives).len() {
        text.push_str("      - require: {that: \"sensor is null\", otherwise: drop}\n");
    }
    let _ = write!(text, "sinks:\n  clean:\n    from: clean\n    to: {{file: {{path: {OUT}}}}}\n");
    std::fs::write(definition(folder), text).expect("a folder that can be written");
}

/// Has two processes share a folder's job.
pub fn share(folder: &Path) {
    let path = definition(folder);
    let text = std::fs::read_to_string(&path).expect("it was written") + &two_processes(folder);
    std::fs::write(path, text).expect("a folder that can be written");
}

/// A folder's definition.
pub fn definition(folder: &Path) -> PathBuf {
    folder.join("sensors.yaml")
}

fn idle(folder: &Path, workers: usize) -> Options {
    Options { until_idle: true, ..options(&folder.join("state"), workers, None) }
}

/// Does the job that a folder's definition says.
pub fn run(folder: &Path, workers: usize) {
    let summary = run::run(&load(&definition(folder)), &idle(folder, workers))
        .unwrap_or_else(|fault| panic!("it ends well: {fault}"));
    assert!(summary.records > 0, "there were records");
}

/// Does the job in a new folder, and counts what became of the records.
pub fn count(records: &Path, folder: &Path, gives: Gives, workers: usize) -> Counts {
    write(records, folder, gives, ALL);
    let (pipeline, options) = (load(&definition(folder)), idle(folder, workers));
    std::fs::create_dir_all(&options.state).expect("a folder that can be written");
    let broker = pipeline.broker.open(&options.state).expect("the broker opens");
    let prepared = prepare(&pipeline, &options, broker).unwrap_or_else(|fault| panic!("it can start: {fault}"));
    prepared.fed.store(true, std::sync::atomic::Ordering::SeqCst);
    let metrics = prepared.settings.metrics.clone();
    millstream_engine::run::run(prepared.graph, prepared.settings, prepared.commit).expect("it ends well");
    let of = |family: &str, step: usize| {
        let name = format!("clean/{step}/{}", names(gives)[step]);
        metrics.sum(family, &[("step", &name)]) as u64
    };
    let lost = |step| of("rows_in_total", step) - of("rows_out_total", step);
    let out: usize = read(&folder.join(OUT)).iter().map(RecordBatch::num_rows).sum();
    Counts {
        records: metrics.sum("records_total", &[]) as u64,
        dead: metrics.sum("dead_letters_total", &[]) as u64,
        duplicates: lost(0),
        imputed: imputed(records, &folder.join("before"), workers),
        filtered: lost(2),
        out: out as u64,
    }
}

/// How many values the job fills in: how many fewer are missing after that step than before.
fn imputed(records: &Path, folder: &Path, workers: usize) -> u64 {
    let missing = |count: usize| {
        let folder = folder.join(count.to_string());
        write(records, &folder, Gives::Rows, count);
        let path = folder.join("sensors.yaml");
        let text = std::fs::read_to_string(&path).expect("it was written");
        let kept: String =
            text.lines().filter(|line| !line.contains("is null")).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(&path, kept).expect("a folder that can be written");
        run(&folder, workers);
        let nulls = |rows: &RecordBatch| rows.columns().iter().map(|column| column.null_count() as u64).sum::<u64>();
        read(&folder.join(OUT)).iter().map(nulls).sum::<u64>()
    };
    missing(1) - missing(2)
}

/// The rows of a Parquet file, or of a folder of parts.
pub fn read(path: &Path) -> Vec<RecordBatch> {
    let mut parts = vec![path.to_owned()];
    if path.is_dir() {
        parts = std::fs::read_dir(path).expect("a folder").flatten().map(|entry| entry.path()).collect();
        parts.sort();
    }
    let rows = |part: &std::path::PathBuf| {
        let file = File::open(part).expect("a part");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
        reader.expect("Parquet").collect::<Result<Vec<_>, _>>().expect("Parquet")
    };
    parts.iter().flat_map(rows).collect()
}
