//! A definition is tested, judged and tuned like software.

use std::path::Path;

use millstream_engine::failpoint;
use millstream_operators::registry::Registry;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::learn::{Wanted, learn};
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::{ci, sweep};
use millstream_tests::{NOW_MS, Site, again};

fn example() -> (std::path::PathBuf, Pipeline) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples/flight-delays.yaml");
    let pipeline =
        millstream_pipelines::load(&file, &Catalogue::shipped()).map_err(|_| "it is bad").expect("it is good").0;
    (file, pipeline)
}

#[test]
fn the_example_passes_and_its_report_tells_all() {
    let (file, pipeline) = example();
    let folder = tempfile::tempdir().expect("a folder");
    let report = ci::run(&pipeline, &file, &Wanted::default(), folder.path()).expect("it can be judged");
    assert!(report.is_good(), "{}", report.text());
    let learned = report.learned.as_ref().expect("it has a model");
    assert_eq!(learned.models[0].examples, 77_911);
    assert!(learned.without_file.is_empty(), "the feeds stand for the sources");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("it was written");
    let junit = read("junit.xml");
    assert_eq!(junit.matches("<testcase").count(), 3 + 1 + 3);
    assert!(!junit.contains("<failure"), "{junit}");
    assert!(junit.contains("late: log_loss &lt; majority_log_loss"), "{junit}");
    let page = read("report.html");
    assert!(page.contains("<polyline") && page.contains(learned.models[0].digest.as_deref().expect("it learned")));
    assert!(folder.path().join("models/late/weights.safetensors").exists());
    // The same records give the same models, bit for bit.
    let again = ci::run(&pipeline, &file, &Wanted::default(), folder.path()).expect("it can be judged");
    assert_eq!(again.learned.expect("it has a model").models[0].digest, learned.models[0].digest);
}

/// `yes` is what `x` says; there is a model with a gate that holds and one that does not, and a test that fails.
const DEFINITION: &str = r#"
millstream: 1
name: judged
sources:
  rows:
    from: {file: {path: rows.csv}}
    columns: {at: timestamp, x: float, yes: bool}
    event_time: {column: at}
models:
  line:
    input: rows
    label: yes
    features: [x]
    learner: logistic_regression
    gates: ["accuracy > 0.9", "log_loss < 0.0001 and examples > 10", "\"accuracy carrier=<AA>\" > 0"]
sweeps:
  rates: {model: line, vary: {learner.logistic_regression.update.sgd.learning_rate: [0.0001, 0.5, 0.001, 0.00001]}, halve_after: 100}
tests:
  "a <test> that fails":
    given: {rows: [{at: "2026-01-01T00:00:00Z", x: 1, yes: true}]}
    expect: {rows: [{x: 2}]}
"#;

fn rows() -> String {
    let row = |at: i64| {
        let x = f64::from((at * 7_919 % 200) as i32) / 100.0 - 1.0;
        format!("{},{x},{}\n", 1_767_225_600_000 + 1000 * at, x > 0.0)
    };
    "at,x,yes\n".to_owned() + &(0..1000).map(row).collect::<String>()
}

#[test]
fn what_fails_is_told() {
    let site = Site::new(DEFINITION, &[("rows.csv", rows().as_bytes())]);
    let folder = site.folder().join("report");
    let wanted = Wanted { files: vec![(None, site.folder().join("rows.csv"))], ..Wanted::default() };
    let report = ci::run(&site.pipeline, Path::new("judged.yaml"), &wanted, &folder).expect("it can be judged");
    assert!(!report.is_good());
    let holds: Vec<bool> = report.gates[0].gates.iter().map(|gate| gate.holds).collect();
    assert_eq!(holds, [true, false, false], "{}", report.text());
    let junit = std::fs::read_to_string(folder.join("junit.xml")).expect("it was written");
    assert_eq!(junit.matches("<failure").count(), 3, "{junit}");
    assert!(junit.contains("a &lt;test&gt; that fails") && !junit.contains("<AA>"), "{junit}");
    let page = std::fs::read_to_string(folder.join("report.html")).expect("it was written");
    assert!(page.contains("FAIL") && !page.contains("<AA>") && !page.contains("<test>"), "what is told is escaped");
}

#[test]
fn a_sweep_finds_the_best_and_gives_up_the_worst() {
    let site = Site::new(DEFINITION, &[("rows.csv", rows().as_bytes())]);
    let to = site.folder().join("best");
    let files = vec![(None, site.folder().join("rows.csv"))];
    let wanted = Wanted { files: files.clone(), to: Some(to.clone()), ..Wanted::default() };
    let swept = &site.pipeline.sweeps[0];
    let mut report = sweep::run(&site.pipeline, swept, &wanted, None).expect("it goes well");
    let order: Vec<(usize, u64)> = report.trials.iter().map(|trial| (trial.trial, trial.rows)).collect();
    // Of four, two are given up after 100 rows, and one after 200.
    assert_eq!(order, [(1, 1000), (2, 200), (0, 100), (3, 100)], "{}", report.text());
    assert_eq!(report.by, "log_loss");
    let registry = Registry::open(&site.state().join("models")).expect("it opens");
    sweep::promote(&mut report, &registry, NOW_MS).expect("it can be promoted");
    let entries = registry.entries().expect("listed");
    let [entry] = entries.as_slice() else { panic!("one version: {entries:?}") };
    let version = entry.version.as_ref().expect("it is sound");
    assert_eq!(report.version, Some(format!("line/{}", version.id)));
    assert_eq!(version.metadata.reached("log_loss"), report.trials[0].value);
    let rate = "learner.logistic_regression.update.sgd.learning_rate";
    assert_eq!((&*entry.tags[rate], &*entry.tags["sweep"]), ("0.5", "rates"));
    assert!(version.metadata.reason.ends_with(&format!("by log_loss: {rate}: 0.5")), "{}", version.metadata.reason);
    // The best is what it would be alone.
    let alone = site.pipeline.sweeps[0].trials[1].config.clone();
    let definition = DEFINITION.replace("learner: logistic_regression\n", &format!("learner: {}\n", alone["learner"]));
    let site = Site::new(&definition, &[("rows.csv", rows().as_bytes())]);
    let learned =
        learn(&site.pipeline, &Wanted { files, to: Some(to.clone()), ..Wanted::default() }).expect("it learns");
    let of_best = |name: &str| {
        report.measures.iter().find(|score| score.name == name && score.over == "all").map(|score| score.value)
    };
    for score in learned.models[0].measures.iter().filter(|score| score.who == "model" && score.over == "all") {
        assert_eq!(of_best(&score.name), Some(score.value), "{}", score.name);
    }
    let weights = |folder: &str| std::fs::read(to.join(folder).join("weights.safetensors")).expect("it was written");
    assert_eq!(weights("rates"), weights("line"));
}

/// The folder of the definition, for a process that is to be killed.
const CHILD: &str = "MILLSTREAM_SWEEP_CHILD";

fn sweep_in(site: &Site) -> sweep::Report {
    let wanted = Wanted { files: vec![(None, site.folder().join("rows.csv"))], ..Wanted::default() };
    let kept = site.folder().join("kept");
    sweep::run(&site.pipeline, &site.pipeline.sweeps[0], &wanted, Some(&kept)).expect("it goes well")
}

/// What is run by [`a_sweep_that_is_killed_goes_on_to_the_same_ranks`] in a process of its own.
#[test]
fn sweep_child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        sweep_in(&Site::at(folder.into()));
    }
}

#[test]
fn a_sweep_that_is_killed_goes_on_to_the_same_ranks() {
    let often = "checkpoints: {every_bytes: 1}\nepochs: {max_records: 60}\nsources:";
    let definition = DEFINITION.replacen("sources:", often, 1);
    let new = || Site::new(&definition, &[("rows.csv", rows().as_bytes())]);
    let ranks = |report: &sweep::Report| {
        let ranks = report.trials.iter().map(|trial| (trial.trial, trial.value.map(f64::to_bits), trial.rows));
        ranks.collect::<Vec<_>>()
    };
    let whole = sweep_in(&new());
    // The fourth renaming is that of the first checkpoint's manifest.
    for (kill_at, resumed) in [
        ("checkpoint.part:before:1", false),
        ("checkpoint.rename:before:4", false),
        ("checkpoint.rename:after:4", true),
    ] {
        let site = new();
        let mut child = again("ci::sweep_child");
        child.env(CHILD, site.folder()).env(failpoint::VARIABLE, kill_at);
        let ended = child.output().expect("it starts").status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{kill_at}");
        let again = sweep_in(&site);
        assert_eq!(again.resumed, resumed, "{kill_at}");
        assert_eq!((ranks(&again), &again.measures), (ranks(&whole), &whole.measures), "{kill_at}");
        assert!(!site.folder().join("kept").exists(), "what is done is not kept");
    }
    // Other records, another sweep: what was kept is of no use.
    let site = new();
    let mut child = again("ci::sweep_child");
    child.env(CHILD, site.folder()).env(failpoint::VARIABLE, "checkpoint.rename:after:4");
    child.output().expect("it starts");
    std::fs::write(site.folder().join("rows.csv"), rows() + "1767229200000,0.5,true\n").expect("it can be written");
    let report = sweep_in(&site);
    assert!(!report.resumed && report.trials[0].rows == 1001, "{}", report.text());
}
