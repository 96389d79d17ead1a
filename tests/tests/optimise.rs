//! Smaller versions of versions: what is measured of them is what they answer, and they serve as any other.

use millstream_operators::inference::{Bits, Narrowing};
use millstream_operators::registry::{Registry, Version};
use millstream_pipelines::learn::{Wanted, learn};
use millstream_pipelines::optimise::{self, Optimised};
use millstream_pipelines::run::state::models_path;
use millstream_tests::{NOW_MS, Site, message};
use serde_json::json;

/// `yes` is what the sum of `a` and `b` says, mostly.
fn definition(models: &str) -> String {
    format!(
        r"
millstream: 1
name: small
sources:
  rows:
    from: {{topic: {{name: rows}}}}
    format: json
    columns: {{at: timestamp, a: float, b: float, kind: text, yes: bool}}
    event_time: {{column: at, lateness_seconds: 0}}
streams:
  clean: {{input: rows, steps: [{{hash_category: {{columns: [kind], buckets: 256}}}}]}}
models:
{models}
"
    )
}

fn model(name: &str, learner: &str, more: &str) -> String {
    format!("  {name}: {{input: clean, label: yes, features: [a, b, kind], learner: {learner}, {more}}}\n")
}

const LINE: &str = "logistic_regression";
const NET: &str = "{neural_network: {network: {mlp: {hidden: [8, 8]}}, training: {mini_batch: 10, optimizer: {adamw: {rate: 0.01}}}}}";
const EVERY: &str = "promote: {every_examples: 1000, only_if_better_than_baseline: false}";

fn row(at: i64) -> serde_json::Value {
    let part = |by: i64| (at * by % 200) as f64 / 100.0 - 1.0;
    let (a, b) = (part(7_919), part(104_729));
    json!({"at": NOW_MS + 1000 * at, "a": a, "b": b, "kind": format!("k{}", at % 5), "yes": a + b + 0.3 * part(31) > 0.0})
}

/// A pipeline with a version of each of its models, and its rows in a file.
fn learned(models: &str) -> (Site, Registry, Wanted) {
    let rows: Vec<String> = (0..1500).map(|at| row(at).to_string()).collect();
    let site = Site::new(&definition(models), &[("rows.ndjson", rows.join("\n").as_bytes())]);
    site.append("rows", &rows.iter().map(|row| message(None, row.clone())).collect::<Vec<_>>());
    site.run();
    let registry = Registry::open(&models_path(&site.state())).expect("it opens");
    let files = vec![(None, site.folder().join("rows.ndjson"))];
    let wanted = Wanted { files, state: Some(site.state()), ..Wanted::default() };
    (site, registry, wanted)
}

fn measured(optimised: &Optimised, name: &str) -> [f64; 2] {
    let found = optimised.measures.iter().find(|compared| compared.name == name);
    found.map(|compared| [compared.before, compared.after]).expect("it is measured")
}

#[test]
fn what_is_measured_is_what_the_smaller_one_answers() {
    let models = model("line", LINE, EVERY) + &model("net", NET, EVERY);
    let (site, registry, wanted) = learned(&models);
    for (name, learner, bits, prune, most) in [
        ("line", LINE, Some(Bits::F16), 0.0, 1e-3),
        ("line", LINE, Some(Bits::Int8), 0.05, 2e-2),
        ("net", NET, Some(Bits::Bf16), 0.0, 1e-2),
        ("net", NET, Some(Bits::Int8), 0.0, 2e-2),
        ("net", NET, None, 0.02, 1e-1),
    ] {
        let how = Narrowing { bits, prune };
        let version = format!("{name}@v1");
        let mut small = optimise::optimise(&site.pipeline, &registry, &version, how, &wanted).expect("it can be made");
        let case = format!("{name} {how:?} {:?} {:?}", small.weights, small.measures);
        let [before, after] = measured(&small, "log_loss");
        assert!((before - after).abs() < most && after < 0.6, "{case}");
        let [large, little] = measured(&small, "weight_bytes");
        assert_eq!(little < large, bits.is_some(), "{case}");
        assert!(measured(&small, "answer_us_64").iter().all(|us| *us > 0.0), "{case}");
        assert!(small.weights.zeros > 0 || prune == 0.0, "{case}");

        optimise::promote(&mut small, &registry, NOW_MS).expect("it can be promoted");
        let promoted = small.version.clone().expect("it was");
        let found: Version = registry.show(&promoted).expect("it is sound");
        let parent = registry.find(&version).expect("it is there");
        assert_eq!(found.metadata.parent.as_ref(), Some(&parent.id));
        assert_eq!(found.metadata.reached("log_loss"), Some(after));
        assert_eq!(found.metadata.reached("parent_log_loss"), Some(before));
        assert_eq!(found.metadata.examples, parent.metadata.examples);

        // As another pipeline would serve it: the same rows give the same.
        let pinned = model(name, learner, &format!("from: {{version: {promoted}}}, learns: false"));
        let path = site.folder().join("pinned.yaml");
        std::fs::write(&path, definition(&pinned)).expect("it can be written");
        let loaded = millstream_pipelines::load(&path, &millstream_pipelines::catalogue::Catalogue::shipped());
        let (pinned, _) = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        let judged = learn(&pinned, &wanted).expect("it is judged");
        let again = judged.models[0].measures.iter().find(|score| score.name == "log_loss" && score.who == "model");
        assert_eq!(again.map(|score| score.value), Some(after), "{case}");
        assert_eq!(judged.models[0].examples, parent.metadata.examples);
    }
}

#[test]
fn what_has_no_weights_is_refused() {
    let (site, registry, wanted) = learned(&model("tree", "hoeffding_tree", EVERY));
    let how = Narrowing { bits: Some(Bits::F16), prune: 0.0 };
    let refused = optimise::optimise(&site.pipeline, &registry, "tree@v1", how, &wanted).expect_err("refused");
    let words = "it begins with a state of its own kind, and not with weights of others";
    assert!(refused.message.contains("cannot be made smaller") && refused.message.ends_with(words), "{refused}");
}
