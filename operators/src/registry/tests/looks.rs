//! Conditions, comparisons, cards, and metadata of earlier programs.

use std::collections::BTreeMap;

use millstream_engine::binding::Frontier;
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::json;

use super::super::{Drift, Edit, Entry, Metadata, Promotion, Recipe, Registry, Score, Version, select};
use super::changes::author;
use super::promotion;
use super::site::Site;

fn score(name: &str, who: &str, over: &str, value: f64) -> Score {
    Score { name: name.to_owned(), who: who.to_owned(), over: over.to_owned(), value }
}

/// A version with this loss and so many thousand examples.
fn version(registry: &Registry, model: &str, loss: f64, thousands: u64) -> Version {
    let Promotion { metadata, .. } = promotion(model, b"");
    let measures = vec![
        score("log_loss", "model", "all", loss),
        score("log_loss", "majority", "all", 0.6),
        score("log_loss", "no_change", "all", 0.7),
        score("log_loss", "model", "carrier=AA", loss + 0.1),
        score("accuracy", "model", "all", 1.0 - loss),
        score("changes", "model", "all", 3.0),
    ];
    let examples = 1000 * thousands;
    let frontier =
        Frontier { offsets: BTreeMap::from([("flights/0".to_owned(), examples)]), time_ms: Some(1_357_000_000_000) };
    let since = Frontier { offsets: BTreeMap::from([("flights/0".to_owned(), 500)]), time_ms: Some(1_356_000_000_000) };
    let metadata = Metadata {
        measures,
        examples,
        revision: examples,
        promoted_ms: metadata.promoted_ms + thousands as i64,
        frontier,
        since: Some(since),
        seed: Some(u64::MAX),
        device: Some("cpu".to_owned()),
        promoted_by: Some("ana".to_owned()),
        definition_digest: "d1".repeat(32),
        durations_seconds: BTreeMap::from([("since_start".to_owned(), 1.5)]),
        drifts: vec![Drift { time_ms: 1_356_500_000_000, event: "drift".to_owned(), about: json!({"error": 0.5}) }],
        ..metadata
    };
    let description = json!({
        "model": "logistic_regression", "task": "classification", "label": "late", "classes": ["false", "true"],
        "features": [{"name": "hour"}, {"name": "a|b"}], "parameters": {"update": {"ftrl": {"rate": loss}}},
    });
    let explanation = json!({"importances": [["hour", 2.5]], "lines": []});
    let artefacts = vec![
        ("model.json".to_owned(), description.to_string().into_bytes()),
        ("explanation.json".to_owned(), explanation.to_string().into_bytes()),
    ];
    registry.promote(&Promotion { metadata, artefacts }).expect("promoted")
}

fn losses(entries: &[Entry]) -> Vec<f64> {
    let loss = |entry: &Entry| entry.version.as_ref().expect("sound").metadata.reached("log_loss").expect("measured");
    entries.iter().map(loss).collect()
}

#[test]
fn conditions_and_orders() {
    let site = Site::on_store();
    let registry = site.open();
    let tagged = version(&registry, "late", 0.5, 10);
    version(&registry, "late", 0.4, 20);
    version(&registry, "late", 0.3, 30);
    registry.edit("late", Some(&tagged), Edit::Tag("stage", Some("live")), &author("")).expect("set");
    registry.set_alias(&tagged, "champion", &author("")).expect("set");
    let selected = |condition, sort| select(registry.entries().expect("listed"), condition, sort);
    let cases: [(Option<&str>, Option<&str>, &[f64]); 14] = [
        (None, None, &[0.5, 0.4, 0.3]),
        (Some("log_loss < 0.5 and examples > 20000"), None, &[0.3]),
        (Some("log_loss < baseline"), Some("log_loss"), &[0.3, 0.4, 0.5]),
        (Some("majority_log_loss = 0.6 and number <> 2"), None, &[0.5, 0.3]),
        (Some("\"log_loss carrier=AA\" > 0.45"), None, &[0.5, 0.4]),
        (Some("\"tag.stage\" = 'live'"), None, &[0.5]),
        (Some("\"tag.stage\" is null"), Some("number desc"), &[0.3, 0.4]),
        (Some("aliases like '%champion%'"), None, &[0.5]),
        (Some("learned_through > timestamp '2012-01-01' and device = 'cpu'"), Some("examples DESC"), &[0.3, 0.4, 0.5]),
        (Some("\"seconds.since_start\" > 1 and drift_changes = 3"), Some("-accuracy"), &[0.3, 0.4, 0.5]),
        (Some("promoted_by = 'nobody'"), None, &[]),
        (None, Some("\"tag.stage\""), &[0.5, 0.4, 0.3]),
        (None, Some("model asc"), &[0.5, 0.4, 0.3]),
        (Some("model = 'soon'"), Some("log_loss"), &[]),
    ];
    for (condition, sort, want) in cases {
        assert_eq!(losses(&selected(condition, sort).expect("selected")), want, "{condition:?} {sort:?}");
    }
    for (condition, want) in [
        ("loss < 1", "there is no column `loss` here; there are: model, id"),
        ("log_loss", "not true or false; write a condition"),
        ("log_loss <", "is not an SQL expression"),
        ("examples / 0 > 1", "Divide by zero"),
    ] {
        let message = selected(Some(condition), None).expect_err(condition).to_string();
        assert!(message.contains(want), "{message}");
    }
    // A damaged one meets no condition, and comes last.
    site.put(&tagged, "metadata.json", Some(b"{}"));
    assert_eq!(selected(Some("true"), None).expect("selected").len(), 2);
    assert_eq!(selected(None, Some("examples desc")).expect("sorted")[2].id, tagged.id);
    assert_eq!(selected(Some("examples > 5"), Some("examples")).expect("selected").len(), 2);
}

#[test]
fn two_versions_are_compared() {
    let site = Site::on_store();
    let registry = site.open();
    let [a, b] = [(0.5, 10), (0.25, 20)].map(|(loss, thousands)| version(&registry, "late", loss, thousands));
    let comparison = registry.compare(&a, &b).expect("compared");
    let measure = |over: &str| {
        comparison.measures.iter().find(|measure| measure.name == "log_loss" && measure.over == over).expect("measured")
    };
    assert_eq!((measure("all").a, measure("all").b, measure("all").difference), (Some(0.5), Some(0.25), Some(-0.25)));
    assert_eq!(measure("carrier=AA").difference, Some(-0.25));
    let what: Vec<&str> = comparison.metadata.iter().map(|difference| difference.what.as_str()).collect();
    assert_eq!(what, ["examples", "frontier.offsets.flights/0", "promoted_ms", "revision"]);
    assert_eq!(comparison.parameters.len(), 1);
    let rate = &comparison.parameters[0];
    assert_eq!((rate.what.as_str(), &rate.a, &rate.b), ("parameters.update.ftrl.rate", &json!(0.5), &json!(0.25)));
    let same = registry.compare(&a, &a).expect("compared");
    assert!(same.metadata.is_empty() && same.parameters.is_empty());
    assert!(same.measures.iter().all(|measure| measure.difference == Some(0.0)));
}

#[test]
fn a_card_tells_all() {
    let site = Site::on_store();
    let registry = site.open();
    let version = version(&registry, "late", 0.5, 10);
    registry.edit("late", Some(&version), Edit::Description("For planners."), &author("")).expect("described");
    registry.set_alias(&version, "champion", &author("")).expect("set");
    let recipe = Recipe { definition: "flights.yaml", time: &|ms| format!("<{ms}>") };
    let card = registry.card(&version, &recipe).expect("written");
    let (front, rest) = card.strip_prefix("---\n").and_then(|card| card.split_once("---\n")).expect("a front matter");
    let yaml = Yaml::load_from_str(front).expect("it is YAML").remove(0);
    assert_eq!(yaml["pipeline_tag"].as_str(), Some("tabular-classification"));
    let tags: Vec<_> = yaml["tags"].as_sequence().expect("a list").iter().filter_map(Yaml::as_str).collect();
    assert_eq!(tags, ["millstream", "online-learning", "logistic_regression"]);
    let result = &yaml["model-index"][0]["results"][0];
    assert_eq!(result["dataset"]["name"].as_str(), Some("flights"));
    assert_eq!(result["metrics"][0]["type"].as_str(), Some("log_loss"));
    assert_eq!(result["metrics"][0]["value"].as_floating_point(), Some(0.5));
    for part in [
        "# late, version",
        "For planners.",
        "`late@champion`",
        "| log_loss | 0.5000 | 0.6000 | 0.7000 |",
        "| carrier=AA | 0.6000 |",
        "| flights/0 | 0 to 10000 | 9500 |",
        "through event time <1357000000000>",
        "2 features: `hour`, `a|b`.",
        "millstream replay flights.yaml --model late --revision 10000 --save FOLDER",
        "| seed | 18446744073709551615 |",
        "| by | ana |",
        "it is better than the best baseline, `majority`: 0.5000 beside 0.6000",
        "drifted 3 times",
        "  model.json\n",
    ] {
        assert!(rest.contains(part), "{part} is missing in\n{card}");
    }
}

#[test]
fn metadata_of_earlier_programs_can_be_read() {
    let old = json!({
        "digest": "00", "files": ["model.json"], "model": "late", "pipeline": "flights", "definition_digest": "ab",
        "revision": 7, "epoch": 3, "frontier": {"offsets": {"flights/0": 9}, "time_ms": null}, "examples": 7,
        "measures": [{"name": "log_loss", "who": "model", "over": "all", "value": null}],
        "started_ms": 1, "promoted_ms": 2, "durations_seconds": {"since_start": 0.5}, "reason": "7 examples", "parent": null,
    });
    let Metadata { since, seed, device, promoted_by, measures, .. } = serde_json::from_value(old).expect("read");
    assert_eq!((since, seed, device, promoted_by), (None, None, None, None));
    assert!(measures[0].value.is_nan(), "what is not a number comes back as that");
}
