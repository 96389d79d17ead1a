//! Trained models are gone on from, and answer beside others: with the bits that they had, and for ever with the same ones.

use std::fs;
use std::path::{Path, PathBuf};

use millstream_engine::failpoint;
use millstream_operators::inference::STATE;
use millstream_operators::registry::{Author, Registry, Version};
use millstream_pipelines::learn::{self, learn};
use millstream_pipelines::run::rollback::rollback;
use millstream_pipelines::run::state::models_path;
use millstream_pipelines::run::{Options, Summary};
use millstream_pipelines::sweep;
use millstream_tests::shop::{definition, order, orders, prove, questions};
use millstream_tests::{Site, again, message, one_answer_each};
use serde_json::{Value, json};

const LEARNS: &str = "input: orders, label: returned, features: [amount, weekday]";
const NETWORK: &str = "{neural_network: {training: {mini_batch: 7, average: 0.9}}}";

fn one(learner: &str, more: &str) -> String {
    definition(&format!("\n  returns: {{{LEARNS}, learner: {learner}{more}}}"), "model: returns")
}

const PROMOTED: &str = ", promote: {every_examples: 100, only_if_better_than_baseline: false}";

/// A shop that has learned 400 orders, with a version after each 100.
fn taught(learner: &str) -> Site {
    let site = Site::new(&one(learner, PROMOTED), &[]);
    site.append("orders", &orders(0, 400));
    site.run();
    site
}

fn registry(site: &Site) -> Registry {
    Registry::open(&models_path(&site.state())).expect("it opens")
}

fn version(site: &Site, name: &str) -> Version {
    registry(site).show(name).expect("it is there")
}

fn state(site: &Site, name: &str) -> Vec<u8> {
    registry(site).file(&version(site, name), STATE).expect("it holds its state")
}

fn set_alias(site: &Site, alias: &str, to: &str) {
    registry(site).set_alias(&version(site, to), alias, &Author::default()).expect("it is named");
}

/// `, from: {version: NAME, registry: that of the site}`.
fn from(site: &Site, name: &str) -> String {
    format!(", from: {{version: \"{name}\", registry: \"{}\"}}", models_path(&site.state()).display())
}

fn digest(summary: &Summary, model: &str) -> (u64, String) {
    (summary.models[model].revision, summary.models[model].digest.clone())
}

/// Not a test of its own: what a process runs that is to be killed.
#[test]
fn child() {
    let Ok(folder) = std::env::var("MILLSTREAM_TEST_REUSE") else { return };
    Site::at(PathBuf::from(folder)).run();
}

#[test]
fn what_goes_on_from_a_version_becomes_what_it_would_have_become() {
    for learner in ["logistic_regression", "{hoeffding_tree: {grace_period: 30}}", NETWORK] {
        let first = taught(learner);
        let from = from(&first, "returns@v2");
        first.append("orders", &orders(400, 600));
        first.run();
        let next = Site::new(&one(learner, &format!("{PROMOTED}{from}")), &[]);
        next.append("orders", &orders(200, 600));
        let summary = next.run();
        // From 200 on, and a version for each 100 after that.
        assert_eq!(summary.models["returns"].revision, 600, "{learner}");
        let promoted = registry(&next).list().expect("they can be listed").len();
        assert_eq!(promoted, 4, "{learner}");
        for examples in [300, 400, 500, 600] {
            let name = format!("returns@v{}", examples / 100);
            let same = format!("returns@v{}", examples / 100 - 2);
            assert!(state(&first, &name) == state(&next, &same), "{learner} after {examples}");
        }
        let began = format!("returns/{}", version(&first, "returns@v2").id);
        assert_eq!(version(&next, "returns@latest").metadata.began_with, Some(began), "{learner}");
        prove(&next);
    }
}

#[test]
fn a_name_means_for_ever_what_it_meant_at_the_first_start() {
    let first = taught("logistic_regression");
    set_alias(&first, "champion", "returns@v1");
    let begun = one("logistic_regression", &from(&first, "returns@champion"));
    let (mut site, twin) = (Site::new(&begun, &[]), Site::new(&begun, &[]));
    let part = |from: u32, to: u32| {
        for site in [&site, &twin] {
            site.append("orders", &orders(from, to));
            site.append("questions", &questions(3));
        }
    };
    part(100, 200);
    site.run();
    // One goes on without a rest; for the other, the name moves, and then the version goes.
    set_alias(&first, "champion", "returns@v3");
    part(200, 300);
    twin_runs(&twin, &first, "returns@v3");
    let second = site.run();
    let gone = version(&first, "returns@v1");
    registry(&first).delete("returns", &gone.id, &Author::default()).expect("no name is its");
    part(300, 400);
    let third = site.run();
    assert_eq!((second.models["returns"].revision, third.models["returns"].revision), (300, 400));
    prove(&site);
    // The same from a state directory that has lost what it kept: nothing else is taken instead.
    fs::remove_dir_all(site.state().join("origins")).expect("it is there");
    let message = site.try_run(&site.options()).expect_err("it is gone").message;
    assert!(
        message.contains(&format!("it began with returns/{}", gone.id)) && message.contains("origins"),
        "{message}"
    );
    // What is written otherwise is another model, which is made anew from the log.
    site.redefine(&one("logistic_regression", &from(&first, "returns@v3")));
    assert_eq!(site.run().models["returns"].revision, 300 + 300);
    site.append("orders", &orders(400, 450));
    assert_eq!(site.run().models["returns"].revision, 300 + 350);
    prove(&site);
}

/// What starts now begins with what the name means now.
fn twin_runs(twin: &Site, first: &Site, name: &str) {
    twin.run();
    let start = &twin.records("shop.progress")[0].json();
    let origins = start["origins"].as_object().expect("it says what it began with");
    let (_, origin) = origins.iter().next().expect("one");
    let wanted = version(first, name);
    assert_eq!(origin["version"], json!(format!("returns/{}", wanted.id)));
    assert_eq!(origin["examples"], json!(wanted.metadata.examples));
    prove(twin);
}

#[test]
fn a_change_of_words_that_means_the_same_changes_nothing() {
    let first = taught("logistic_regression");
    let mut site = Site::new(&one("logistic_regression", &from(&first, "returns@v2")), &[]);
    site.append("orders", &orders(200, 300));
    let before = site.run();
    site.redefine(&one("logistic_regression", &from(&first, &version(&first, "returns@v2").id)));
    let after = site.run();
    assert_eq!(digest(&before, "returns"), digest(&after, "returns"));
    assert_eq!(after.epochs_replayed, 0, "its state is kept");
    prove(&site);
}

#[test]
fn cuts_and_workers_do_not_matter() {
    let first = taught(NETWORK);
    let models = format!(
        "\n  returns: {{{LEARNS}, learner: {NETWORK}{from}}}\n  pinned: {{{LEARNS}, learner: {NETWORK}{from}, learns: false}}",
        from = from(&first, "returns@v2")
    );
    let mut reached = Vec::new();
    for (workers, max_records) in [(1, 7), (2, 400), (3, 31)] {
        let site = Site::new(&definition(&models, "model: pinned, policy: {shadow: {of: [returns]}}"), &[]);
        site.append("orders", &orders(200, 500));
        site.append("questions", &questions(5));
        let options = Options { workers: Some(workers), max_records: Some(max_records), ..site.options() };
        let summary = site.run_with(&options);
        reached.push((digest(&summary, "returns"), digest(&summary, "pinned")));
        prove(&site);
    }
    reached.dedup();
    assert_eq!(reached.len(), 1, "{reached:?}");
    assert_eq!((reached[0].0.0, reached[0].1.0), (500, 200));
}

#[test]
fn a_pinned_version_answers_from_the_first_request_on_and_never_changes() {
    let first = taught("logistic_regression");
    let models =
        format!("\n  pinned: {{{LEARNS}, learner: logistic_regression{}, learns: false}}", from(&first, "returns@v2"));
    let site = Site::new(&definition(&models, "model: pinned"), &[]);
    let mut said: Vec<Vec<Value>> = Vec::new();
    for round in 0..3 {
        site.append("questions", &questions(11));
        let summary = site.run();
        assert_eq!((summary.refused, summary.models["pinned"].revision), (0, 200), "round {round}");
        site.append("orders", &orders(100 * round, 100 * round + 100));
        let summary = site.run();
        // It is judged by what it has not learned.
        let seen = summary.models["pinned"].measures.get("log_loss").and_then(|by| by.get("model")).copied();
        assert!(seen.is_some_and(f64::is_finite), "{seen:?}");
        let answers = one_answer_each(&site.records("questions"), &site.answers());
        said.push(answers[11 * round as usize..].iter().map(|answer| answer["answer"].clone()).collect());
        let frontier = version(&first, "returns@v2").metadata.frontier;
        for answer in answers {
            assert_eq!((&answer["model"], &answer["revision"]), (&json!("pinned"), &json!(200)));
            assert_eq!(
                answer["learned_through"]["offsets"],
                json!(frontier.offsets),
                "what its version had learned through"
            );
            assert!(answer["staleness_seconds"].as_f64().expect("a number") > 9000.0, "{answer}");
        }
    }
    assert!(said.iter().all(|round| *round == said[0]), "it says the same for ever");
    prove(&site);
}

#[test]
fn a_pinned_version_stands_beside_one_that_goes_on() {
    let first = taught("logistic_regression");
    let from = from(&first, "returns@v2");
    // The labels are turned around: what does not learn becomes the worse one.
    let turned = |at: u32| {
        let mut order: Value = serde_json::from_slice(&order(at).value.expect("it has one")).expect("JSON");
        order["returned"] = json!(!order["returned"].as_bool().expect("a flag"));
        message(None, order.to_string())
    };
    let models = format!(
        "\n  pinned: {{{LEARNS}, learner: logistic_regression{from}, learns: false, evaluate: {{fading: 0.98}}}}\n  \
         goes_on: {{{LEARNS}, learner: {{logistic_regression: {{update: adagrad}}}}{from}, evaluate: {{fading: 0.98}}}}"
    );
    let policy = "model: pinned, policy: {best: {of: [goes_on], by: log_loss, margin: 0.01}}";
    let site = Site::new(&definition(&models, policy), &[]);
    let mut gave = Vec::new();
    for round in 0..6 {
        site.append("questions", &questions(4));
        site.run();
        site.append("orders", &(100 * round..100 * round + 100).map(turned).collect::<Vec<_>>());
        site.run();
        let answers = one_answer_each(&site.records("questions"), &site.answers());
        gave.push(answers.last().expect("some")["model"].as_str().expect("who answered").to_owned());
    }
    assert_eq!((gave[0].as_str(), gave[5].as_str()), ("pinned", "goes_on"), "{gave:?}");
    prove(&site);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let first = taught("logistic_regression");
    let there = models_path(&first.state());
    let (there, nowhere) = (there.display(), first.folder().join("nowhere"));
    let cases = [
        (
            one("linear_svm", &from(&first, "returns@v2")),
            "its learner is \"logistic_regression\", and this one's is \"linear_svm\"",
        ),
        (
            one("{logistic_regression: {update: sgd}}", &from(&first, "returns@v2")),
            "it was learned otherwise: `update.adagrad.",
        ),
        (
            one("logistic_regression", &from(&first, "returns@best")),
            "returns has no alias `best`; there are: none (and always `latest`)",
        ),
        (one("logistic_regression", &from(&first, "returns@v9")), "returns@v9 names no version that is there"),
        (one("logistic_regression", ", from: {version: returns@latest}"), "there is no registry at"),
        (one("logistic_regression", &format!(", from: {{file: \"{}\"}}", nowhere.display())), "cannot read"),
        (
            one(
                "logistic_regression",
                &format!(", from: {{file: \"{there}/returns/{}/model.json\"}}", version(&first, "returns@v2").id),
            ),
            "it is neither a model's state nor safetensors",
        ),
    ];
    for (definition, words) in cases {
        let site = Site::new(&definition, &[]);
        site.append("orders", &orders(0, 10));
        let message = site.try_run(&site.options()).expect_err(words).message;
        println!("{message}");
        assert!(message.starts_with("model returns cannot begin with `") && message.contains(words), "{message}");
        assert!(site.records("shop.progress").is_empty(), "no start is recorded");
    }
    // A damaged version is not gone on from.
    let damaged = version(&first, "returns@v2");
    let file = Path::new(&damaged.place).join(STATE);
    let mut content = fs::read(&file).expect("it is there");
    *content.last_mut().expect("it is not empty") ^= 1;
    fs::write(&file, content).expect("it can be written");
    let site = Site::new(&one("logistic_regression", &from(&first, "returns@v2")), &[]);
    let message = site.try_run(&site.options()).expect_err("damaged").message;
    assert!(
        message.ends_with(&format!("version returns/{} is damaged: its files have changed", damaged.id)),
        "{message}"
    );
}

#[test]
fn a_rollback_goes_back_to_what_was_learned_here() {
    let first = taught("logistic_regression");
    let site = Site::new(&one("logistic_regression", &format!("{PROMOTED}{}", from(&first, "returns@v2"))), &[]);
    site.append("orders", &orders(200, 500));
    let before = site.run();
    let name = format!("returns/{}", version(&site, "returns@v1").id);
    let back = rollback(&site.pipeline, &site.options(), &name, &[]).expect("there is a way back");
    assert_eq!(back.revision, 300);
    let after = site.run();
    assert_eq!(digest(&before, "returns"), digest(&after, "returns"), "the same records are learned again");
    prove(&site);
}

#[test]
fn files_are_gone_on_from_offline_and_settings_are_tried() {
    let rows = |from: u32, to: u32| {
        let lines =
            orders(from, to).into_iter().map(|order| String::from_utf8(order.value.expect("a value")).expect("text"));
        (lines.collect::<Vec<_>>().join("\n") + "\n").into_bytes()
    };
    let files: [(&str, &[u8]); 3] =
        [("a.ndjson", &rows(0, 300)), ("b.ndjson", &rows(300, 500)), ("all.ndjson", &rows(0, 500))];
    let mut site = Site::new(&one("logistic_regression", ""), &files);
    let learned = |site: &Site, file: &str, to: &str| {
        let files = vec![(None, site.folder().join(file))];
        let wanted = learn::Wanted { files, to: Some(site.folder().join(to)), ..learn::Wanted::default() };
        let learned = learn(&site.pipeline, &wanted).expect("it learns");
        let state = fs::read(site.folder().join(to).join("returns").join(STATE)).expect("it was written");
        (learned.models[0].examples, state)
    };
    learned(&site, "a.ndjson", "first");
    let whole = learned(&site, "all.ndjson", "whole");
    let sweeps = "\nsweeps:\n  windows: {model: returns, vary: {evaluate.window: [50, 100]}}\n  rates: {model: returns, vary: \
                  {learner.logistic_regression.update.adagrad.learning_rate: [0.1]}}\n";
    site.redefine(&(one("logistic_regression", ", from: {file: first/returns}") + sweeps));
    let gone_on = learned(&site, "b.ndjson", "second");
    assert!(gone_on.0 == 500 && gone_on == whole, "in two parts it is the same model");
    let wanted = learn::Wanted { files: vec![(None, site.folder().join("b.ndjson"))], ..learn::Wanted::default() };
    let report = sweep::run(&site.pipeline, &site.pipeline.sweeps[0], &wanted, None).expect("it goes well");
    assert!(
        report.trials.iter().all(|trial| trial.rows == 200 && trial.value.is_some_and(f64::is_finite)),
        "{report:?}"
    );
    let message =
        sweep::run(&site.pipeline, &site.pipeline.sweeps[1], &wanted, None).expect_err("other settings").message;
    let words = "with learner.logistic_regression.update.adagrad.learning_rate 0.1, returns cannot begin with `first/returns`: it was \
                 learned otherwise: `update.adagrad.learning_rate` is ";
    assert!(message.starts_with(words), "{message}");
}

#[test]
fn weights_are_tuned_with_other_settings() {
    let first = taught(NETWORK);
    let weights = Path::new(&version(&first, "returns@latest").place).join("weights.safetensors");
    let learner = "{neural_network: {training: {mini_batch: 16, optimizer: {sgd: {rate: 0.01}}}}}";
    let site = Site::new(&one(learner, &format!(", from: {{file: \"{}\"}}", weights.display())), &[]);
    site.append("questions", &questions(4));
    site.run();
    site.append("orders", &orders(400, 600));
    let summary = site.run();
    assert_eq!(summary.models["returns"].revision, 200);
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert!(answers.iter().all(|answer| answer["revision"] == json!(0)), "as what it began with: {answers:?}");
    let losses = &summary.models["returns"].measures["log_loss"];
    assert!(losses["model"] < losses["majority"], "{losses:?}");
    prove(&site);
}

#[test]
fn killed_at_any_step_of_keeping_what_it_begins_with_it_starts_as_if_nothing_had_happened() {
    let first = taught("logistic_regression");
    set_alias(&first, "champion", "returns@v2");
    let begun = one("logistic_regression", &from(&first, "returns@champion"));
    let want = {
        let site = Site::new(&begun, &[]);
        site.append("orders", &orders(200, 300));
        digest(&site.run(), "returns")
    };
    for at in ["origin.write:before", "origin.write:after", "origin.rename:before", "origin.rename:after"] {
        let site = Site::new(&begun, &[]);
        site.append("orders", &orders(200, 300));
        let mut command = again("reuse::child");
        command.env("MILLSTREAM_TEST_REUSE", site.folder());
        let status = command.env(failpoint::VARIABLE, format!("{at}:1")).output().expect("it starts").status;
        assert!(!status.success(), "{at}: it was killed");
        assert_eq!(digest(&site.run(), "returns"), want, "{at}");
        prove(&site);
        let kept: Vec<PathBuf> = entries(&site.state().join("origins"));
        assert_eq!(kept.len(), 1, "{at}: {kept:?}");
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").path()).collect()
}

/// The ONNX file of a version, copied into a folder.
fn onnx_file(first: &Site, name: &str, to: &str) -> (PathBuf, Vec<u8>) {
    let bytes = fs::read(Path::new(&version(first, name).place).join("model.onnx")).expect("it is expressible");
    let path = first.folder().join(to);
    fs::write(&path, &bytes).expect("it can be written");
    (path, bytes)
}

#[test]
fn a_model_of_others_answers_beside_one_that_learns() {
    let first = taught("logistic_regression");
    let (file, bytes) = onnx_file(&first, "returns@v2", "bought.onnx");
    let origin = from(&first, "returns@v2");
    let bought =
        format!("learner: {{onnx: {{gives: probabilities}}}}, from: {{file: \"{}\"}}, learns: false", file.display());
    let models = format!(
        "\n  returns: {{{LEARNS}, learner: logistic_regression}}\n  bought: {{{LEARNS}, explain: 1, {bought}}}\n  \
         pinned: {{{LEARNS}, learner: logistic_regression{origin}, learns: false}}"
    );
    let policy = "model: returns, policy: {weighted: {percent: {bought: 40, pinned: 30}}}";
    let mut site = Site::new(&definition(&models, policy), &[]);
    for round in 0..3 {
        site.append("orders", &orders(100 * round, 100 * round + 100));
        site.run();
        site.append("questions", &questions(40));
        let summary = site.run();
        assert_eq!((summary.refused, summary.models["bought"].revision), (0, 0), "it never learns");
        // It is judged as the version is whose file it is.
        let measure = |model: &str| summary.models[model].measures["log_loss"]["model"];
        assert!((measure("bought") - measure("pinned")).abs() < 1e-9, "{} {}", measure("bought"), measure("pinned"));
        // What is in the state is needed alone, from here on.
        fs::write(&file, b"another file").expect("it can be written");
    }
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let others: Vec<Value> = site.records("others").iter().map(millstream_tests::Record::json).collect();
    let mut said = std::collections::BTreeMap::new();
    for answer in answers.iter().chain(&others) {
        let key = (answer["request"]["offset"].as_u64(), answer["model"].as_str().expect("who answered").to_owned());
        said.insert(key, answer["answer"].clone());
    }
    assert_eq!(said.len(), 3 * 120);
    for offset in 0..120 {
        let of = |model: &str| said[&(Some(offset), model.to_owned())]["probability"].as_f64().expect("a number");
        assert!((of("bought") - of("pinned")).abs() < 1e-9, "{offset}: {} {}", of("bought"), of("pinned"));
        let because = &said[&(Some(offset), "bought".to_owned())]["because"];
        assert_eq!(because.as_object().map(serde_json::Map::len), Some(1), "{because}");
    }
    assert!(answers.iter().filter(|answer| answer["model"] == "bought").count() > 20);
    prove(&site);
    // Which file it is, is a part of the model: another one is made anew from the log.
    let start = site.records("shop.progress")[0].json();
    let found: Vec<&str> = start["origins"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, origin)| origin["digest"].as_str())
        .collect();
    assert!(found.contains(&millstream_engine::digest::of(&bytes).as_str()), "{found:?}");
    onnx_file(&first, "returns@v4", "other.onnx");
    site.redefine(&definition(&models.replace("bought.onnx", "other.onnx"), policy));
    assert_eq!(site.run().models["bought"].revision, 0);
    prove(&site);
}

#[test]
fn a_file_of_others_that_does_not_fit_is_refused_at_the_start() {
    let first = taught("logistic_regression");
    let (file, bytes) = onnx_file(&first, "returns@v2", "bought.onnx");
    let from = format!(", from: {{file: \"{}\"}}, learns: false", file.display());
    let cut = first.folder().join("cut.onnx");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("it can be written");
    let cut = format!(", from: {{file: \"{}\"}}, learns: false", cut.display());
    let cases = [
        (one("{onnx: {gives: probabilities}}", &cut), "it does not fit: it is no ONNX file, or cut short"),
        (
            one("{onnx: {gives: logits, output: score}}", &from),
            "`output: score` is none that gives logits of 2 classes",
        ),
        (one("logistic_regression", &from), "for an ONNX file the learner is `onnx`"),
        (one("{onnx: {gives: probabilities, inputs: {amount: [amount]}}}", &from), "what goes into `weekday`"),
    ];
    for (definition, words) in cases {
        let site = Site::new(&definition, &[]);
        let message = site.try_run(&site.options()).expect_err(words).message;
        assert!(message.starts_with("model returns cannot begin with `") && message.contains(words), "{message}");
        assert!(site.records("shop.progress").is_empty(), "no start is recorded");
    }
}

#[test]
fn a_file_of_others_is_judged_offline_and_stays_the_file() {
    let first = taught("logistic_regression");
    let (file, bytes) = onnx_file(&first, "returns@v2", "bought.onnx");
    let lines =
        orders(200, 300).into_iter().map(|order| String::from_utf8(order.value.expect("a value")).expect("text"));
    let rows = lines.collect::<Vec<_>>().join("\n") + "\n";
    let bought =
        |from: &str| one("{onnx: {gives: probabilities}}", &format!(", from: {{file: \"{from}\"}}, learns: false"));
    let site = Site::new(&bought(&file.to_string_lossy()), &[("rows.ndjson", rows.as_bytes())]);
    let files = vec![(None, site.folder().join("rows.ndjson"))];
    let to = site.folder().join("out");
    let learned = learn(&site.pipeline, &learn::Wanted { files, to: Some(to.clone()), ..learn::Wanted::default() });
    assert_eq!(learned.expect("it is judged").models[0].examples, 0);
    assert!(fs::read(to.join("returns/model.onnx")).expect("it was written") == bytes);
    // Its state is as good as the file.
    let next = Site::new(&bought(&to.join("returns").to_string_lossy()), &[]);
    next.append("questions", &questions(5));
    assert_eq!(next.run().refused, 0);
    assert_eq!(one_answer_each(&next.records("questions"), &next.answers()).len(), 5);
}
