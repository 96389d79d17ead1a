//! What is expected of a stream, in a run.

use std::fs;
use std::path::Path;

use millstream_engine::Blame;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::load;
use millstream_pipelines::run::{Options, Summary, run};

/// 3,000 orders, of which those from 1,000 to 1,999 often have no amount.
fn orders() -> String {
    let amount =
        |row: usize| if (1000..2000).contains(&row) && row.is_multiple_of(3) { String::new() } else { row.to_string() };
    let lines = (0..3000).map(|row| format!("{},{}\n", row * 1000, amount(row)));
    ["at,amount\n".to_owned()].into_iter().chain(lines).collect()
}

fn run_with(folder: &Path, step: &str, workers: usize, max_records: usize) -> millstream_engine::Result<Summary> {
    fs::write(folder.join("orders.csv"), orders()).expect("it can be written");
    let text = format!(
        "millstream: 1\nname: shop\nsources:\n  orders:\n    from: {{file: {{path: orders.csv}}}}\n    format: csv\n    \
         columns: {{at: timestamp, amount: float}}\n    event_time: {{column: at}}\nstreams:\n  clean: {{input: orders, steps: [{{expect: {step}}}]}}\n\
         sinks:\n  clean: {{from: clean, to: {{file: {{path: clean.jsonl}}}}}}\n"
    );
    let definition = folder.join("shop.yaml");
    fs::write(&definition, text).expect("it can be written");
    let (pipeline, _) =
        load(&definition, &Catalogue::shipped()).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let (workers, max_records) = (Some(workers), Some(max_records));
    let options = Options { until_idle: true, quiet: true, workers, max_records, ..Options::new(folder.join("state")) };
    run(&pipeline, &options)
}

#[test]
fn warnings_are_counted_and_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let summary = run_with(folder.path(), "\"missing(amount) < 5%\"", 2, 700).unwrap_or_else(|fault| panic!("{fault}"));
    let step = summary.steps.iter().find(|step| step.step == "clean/0/expect").expect("it is a step");
    assert_eq!((step.rows_in, step.rows_out, step.expectations_failed), (3000, 3000, 1));
    assert!(summary.text().contains("unmet"));
}

#[test]
fn dead_letters_are_the_same_however_the_stream_is_cut() {
    let mut rows = Vec::new();
    for (workers, max_records) in [(1, 10_000), (2, 333)] {
        let folder = tempfile::tempdir().expect("a folder");
        let step = "{that: \"missing(amount) < 5%\", over_rows: 500, otherwise: dead_letter}";
        let summary = run_with(folder.path(), step, workers, max_records).unwrap_or_else(|fault| panic!("{fault}"));
        // The spans from 1,000 and from 1,500 fail, so those that follow each are refused.
        assert_eq!(summary.dead_letters.values().sum::<u64>(), 1000);
        rows.push(fs::read_to_string(folder.path().join("clean.jsonl")).expect("the sink's file"));
    }
    assert_eq!(rows[0], rows[1]);
    assert!(rows[0].contains("1970-01-01T00:24:59") && !rows[0].contains("1970-01-01T00:25:00"), "1,500 is refused");
}

#[test]
fn a_run_halts_and_so_does_the_next_until_the_definition_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let stop = "{that: \"missing(amount) < 5%\", over_rows: 500, otherwise: stop}";
    let told = [300, 10_000].map(|max_records| {
        let fault = run_with(folder.path(), stop, 1, max_records).expect_err("it halts");
        assert_eq!((fault.blame, fault.retry), (Blame::World, false));
        fault.message
    });
    assert!(
        told[0].contains("expected `missing(amount) < 5%`, found 0.332 in 500 rows, from 0/0/1000 to 0/0/1499"),
        "{}",
        told[0]
    );
    assert_eq!(told[0], told[1], "the same rows halt the next run");
    let milder = "{that: \"missing(amount) < 50%\", over_rows: 500, otherwise: stop}";
    assert!(run_with(folder.path(), milder, 1, 300).is_ok());
}
