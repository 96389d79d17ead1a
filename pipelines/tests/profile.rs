//! Profiles of files, and the definitions that are proposed for them: each must be accepted, and work.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::profile::{Profiled, file};
use millstream_pipelines::run::{Options, Summary, open_broker, run};
use millstream_pipelines::{load, profile};

/// Proposes a definition for a file, next to it, and checks it.
fn propose(path: &Path, folder: &Path) -> (Profiled, PathBuf, String) {
    let profiled = file(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    let draft = profiled.draft(folder).expect("files get a draft");
    let definition = folder.join("draft.yaml");
    fs::write(&definition, &draft).expect("it can be written");
    if let Err(report) = load(&definition, &Catalogue::shipped()) {
        panic!("{}\n{draft}", report.render(false));
    }
    (profiled, definition, draft)
}

fn run_to_the_end(definition: &Path, state: &Path) -> Summary {
    let (pipeline, _) =
        load(definition, &Catalogue::shipped()).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let options = Options { until_idle: true, quiet: true, ..Options::new(state.to_owned()) };
    run(&pipeline, &options).unwrap_or_else(|fault| panic!("{fault}"))
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("it can be written");
    path
}

#[test]
fn drafts_for_all_example_data_are_accepted() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    for name in ["flights", "weather", "questions"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (profiled, _, draft) = propose(&data.join(format!("{name}.csv.gz")), folder.path());
        assert!(profiled.report.rows > 1000 && profiled.unread == 0, "{draft}");
        assert!(draft.contains("event_time: {column: "), "{draft}");
        if name == "weather" {
            assert!(draft.contains("wind_speed: float") && draft.contains("observed_at: timestamp"), "{draft}");
            assert!(draft.contains("outliers: {columns: [wind_speed]"), "1,048 mph is not possible: {draft}");
            assert!(draft.contains("one_hot: {categories: [EWR, JFK, LGA], column: origin}"), "{draft}");
        }
    }
}

/// Readings as a spreadsheet in Germany exports them: 2,000 rows, of which one in a hundred comes twice.
fn dirty_csv() -> String {
    let mut text = String::from("Zeit;sensor;\"temp, °C\";CO;_id;;on\n");
    for row in 0..2000_i32 {
        let temperature = if row % 50 == 7 { "N/A".to_owned() } else { format!("{},{}", 15 + row % 10, row % 7) };
        let co = if row % 40 == 3 { -200 } else { 600 + (row * 37) % 500 };
        let co = if row == 1234 { 4_000_000 } else { co };
        let sensor = if row % 90 == 0 { "North" } else { ["north", " south", "east"][row as usize % 3] };
        let line = format!(
            "{:02}.03.2026 {:02}:{:02}:{:02};{sensor};{temperature};{co};{row};x;{}\n",
            1 + row / 1000,
            row / 60 % 17,
            row % 60,
            row / 1020,
            if row % 2 == 0 { "ja" } else { "nein" }
        );
        text.push_str(&line);
        if row % 100 == 50 {
            text.push_str(&line);
        }
    }
    text
}

#[test]
fn a_dirty_file_comes_out_clean() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), "Luft [2026].csv", &dirty_csv());
    let (profiled, definition, draft) = propose(&path, folder.path());
    assert_eq!((profiled.report.rows, profiled.unread), (2020, 0));
    for seen in [
        "delimiter: \";\"",
        "Zeit: text",
        "coerce: {columns: {Zeit: timestamp}, format: \"%d.%m.%Y %H:%M:%S\"",
        "coerce: {columns: {\"temp, °C\": float}, decimal: \",\", missing: [\"N/A\"]",
        "coerce: {columns: {CO: int}, missing: [-200]}",
        "outliers: {columns: [CO], method: {range: {max: ",
        "# the same but for the case of letters: `sensor`: \"north\" and \"North\"",
        "clean_text: {case: lower, columns: [sensor]}",
        "deduplicate: {by: [",
        "impute: {columns: [\"temp, °C\", CO], with: median}",
        "standardise: {columns: [",
    ] {
        assert!(draft.contains(seen), "{seen} is not in\n{draft}");
    }
    let summary = run_to_the_end(&definition, &folder.path().join("state"));
    assert_eq!((summary.records, summary.dead_letters.len()), (2020, 0));
    let rows = fs::read_to_string(folder.path().join("out/clean.jsonl")).expect("the sink's file");
    assert_eq!(rows.lines().count(), 2000, "what came twice is there once");
    assert!(!rows.contains("North"), "one sensor is one");
    let step = |kind: &str| {
        let of = summary.steps.iter().filter(|step| step.step.ends_with(kind));
        of.map(|step| step.repaired).sum::<u64>()
    };
    assert!(step("coerce") >= 90 && step("outliers") >= 1 && step("impute") >= 90, "{:?}", summary.steps);
    let text = summary.text();
    assert!(text.contains("repaired") && text.contains("clean/0/clean_text"), "{text}");
}

#[test]
fn json_lines_become_what_they_are() {
    let mut text = String::new();
    for row in 0..3000_u64 {
        let place = if row % 5 == 0 { "null".to_owned() } else { format!("\"place {}\"", row % 40) };
        let _ = writeln!(
            text,
            "{{\"ts\": {}, \"n\": {row}, \"value\": {}.5, \"text\": \"{},25\", \"mixed\": {}, \"ok\": {}, \"place\": {place}, \"deep\": {{\"a\": [1]}}}}",
            1_770_000_000 + row - row % 7,
            row % 90,
            row % 30,
            if row % 9 == 0 { "\"none\"".to_owned() } else { row.to_string() },
            row % 2 == 0,
        );
    }
    text.push_str("this is not JSON\n");
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), "events.jsonl", &text);
    let (profiled, definition, draft) = propose(&path, folder.path());
    for seen in [
        "format: {json: {timestamps: s}}",
        "ts: timestamp",
        "\"n\": int",
        "value: float",
        "ok: bool",
        "deep: text",
        "coerce: {columns: {text: float}, decimal: \",\"",
        "hash_category: {buckets: 128, columns: [place]}",
        "event_time: {column: ts, lateness_seconds: 0.0}",
    ] {
        assert!(draft.contains(seen), "{seen} is not in\n{draft}");
    }
    // Those whose type is none of one, and the line that is nothing.
    assert_eq!(profiled.unread, 335, "{draft}");
    let summary = run_to_the_end(&definition, &folder.path().join("state"));
    assert_eq!(summary.dead_letters.values().sum::<u64>(), 335);
}

/// Names and values of every kind: whatever is proposed must be a definition, and run.
#[test]
fn any_file_gets_a_draft_that_runs() {
    let names =
        ["a", "on", "a b", "x: y", "#", "{", "'", "ü", "_time", "", "A", "a", "null", "1", "-", "select", "\\", "[x]"];
    let values = [
        "",
        "1",
        "-200",
        "1,5",
        "1.5",
        "0815",
        "N/A",
        "null",
        "true",
        "yes",
        "2026-01-01",
        "2026-01-01T00:00:00Z",
        "1.2.2026",
        "12/24/2026 18:00",
        " x ",
        "text",
        "2147483647",
        "-999",
        "9999",
        "1e300",
        "nan",
        "inf",
        "ü",
        "a # b",
        "{",
        "- x",
        "'",
    ];
    for seed in 0..40_u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        let columns: Vec<&str> = (0..=below(8)).map(|_| names[below(names.len())]).collect();
        // Each column has few kinds of values, so that all that is decided occurs.
        let kinds: Vec<Vec<&str>> =
            columns.iter().map(|_| (0..=below(3)).map(|_| values[below(values.len())]).collect()).collect();
        let mut text = columns.join("\t") + "\n";
        for row in 0..200 {
            let cell = |kinds: &Vec<&str>, place: usize| match kinds[place % kinds.len()] {
                "text" => format!("text {row}"),
                "1" => row.to_string(),
                other => other.to_owned(),
            };
            let cells: Vec<String> = kinds
                .iter()
                .map(|kinds| {
                    let place = if below(4) == 0 { below(3) } else { 0 };
                    cell(kinds, place)
                })
                .collect();
            text.push_str(&(cells.join("\t") + "\n"));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), "any.tsv", &text);
        // A single column has no tab in its line; of no usable name there is nothing to propose.
        let usable = columns.iter().any(|name| !name.is_empty() && !name.starts_with('_'));
        if !usable {
            assert!(file(&path).is_err(), "seed {seed}: {columns:?}");
            continue;
        }
        let (_, definition, _) = propose(&path, folder.path());
        if seed % 4 == 0 {
            run_to_the_end(&definition, &folder.path().join("state"));
        }
    }
}

#[test]
fn a_source_of_a_definition_is_profiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let data =
        written(folder.path(), "orders.csv", "at,amount\n2026-01-05T19:00:00Z,5\n2026-01-05T18:00:00Z,\nsoon,7\n");
    let definition = written(
        folder.path(),
        "shop.yaml",
        "millstream: 1\nname: shop\nsources:\n  orders:\n    from: {file: {path: orders.csv}}\n    format: csv\n    columns: {at: timestamp, amount: float}\n",
    );
    let (pipeline, _) =
        load(&definition, &Catalogue::shipped()).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a folder");
    let broker = open_broker(&pipeline, &state).expect("an empty one");
    let profiled = profile::source(&pipeline, "orders", broker.clone()).expect("it can be read");
    assert_eq!((profiled.report.rows, profiled.unread), (2, 1));
    assert!(profiled.text().contains("`at` goes back in time by 3600 seconds at most"), "{}", profiled.text());
    assert!(profiled.draft(folder.path()).is_none());
    let unknown = profile::source(&pipeline, "order", broker).err().expect("there is no such source");
    assert!(unknown.message.contains("there are orders"), "{unknown}");
    assert!(file(&folder.path().join("nothing.csv")).is_err() && file(&data.with_extension("exe")).is_err());
}
