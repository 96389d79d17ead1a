//! Versions on a real disk, and crashes between any two steps.
//!
//! What changes, what is looked at, and what goes out and comes in have files of their own.

use millstream_engine::operator::Measure;
use serde_json::json;

use super::{Metadata, Promotion, PromotionRule, Registry, Score, Version};
use site::{Site, crash_after_each_step, cut_power_at_each_change, everywhere};

mod changes;
mod concurrency;
mod database;
mod looks;
mod server;
mod site;
mod transfer;

fn promotion(model: &str, weights: &[u8]) -> Promotion {
    let score =
        Score { name: "log_loss".to_owned(), who: "model".to_owned(), over: "all".to_owned(), value: 0.1 + 0.2 };
    let metadata = Metadata {
        model: model.to_owned(),
        pipeline: "flights".to_owned(),
        revision: 7,
        measures: vec![score],
        promoted_ms: 1_700_000_000_000,
        reason: "20000 examples".to_owned(),
        parent: Some("0123456789abcdef".to_owned()),
        ..Metadata::default()
    };
    let artefacts = vec![
        ("weights.safetensors".to_owned(), weights.to_vec()),
        ("model.json".to_owned(), b"{\"model\": \"logistic_regression\"}".to_vec()),
    ];
    Promotion { metadata, artefacts }
}

#[test]
fn what_is_promoted_can_be_listed_and_shown() {
    everywhere(|site| {
        let registry = site.open();
        let first = registry.promote(&promotion("late", b"one")).expect("promoted");
        let second = registry.promote(&promotion("late", b"two")).expect("promoted");
        assert_eq!(first.metadata, promotion("late", b"one").metadata);
        assert!(first.id.len() == 16 && first.digest.starts_with(&first.id) && first.id != second.id);
        let listed = registry.list().expect("listed");
        assert_eq!(listed.len(), 2);
        for version in [&first, &second] {
            assert_eq!(&registry.show(&version.id[..8]).expect("shown"), version);
            assert_eq!(&registry.show(&format!("late/{}", version.id)).expect("shown"), version);
        }
        let artefacts = registry.artefacts(&first).expect("read");
        assert_eq!(artefacts[1], ("weights.safetensors".to_owned(), b"one".to_vec()));
        for prefix in ["", "late/", "zzz"] {
            let message = registry.show(prefix).expect_err("not exactly one").to_string();
            assert!(message.contains(&first.id) && message.contains(&second.id), "{message}");
        }
    });
}

#[test]
fn the_same_content_is_the_same_version() {
    everywhere(|site| {
        let registry = site.open();
        let first = registry.promote(&promotion("late", b"one")).expect("promoted");
        let mut again = promotion("late", b"one");
        again.artefacts.reverse();
        again.metadata.promoted_ms += 1;
        assert_eq!(registry.promote(&again).expect("there already"), first);
        assert_eq!(registry.list().expect("listed").len(), 1);
    });
}

/// A new version beside another, where something goes wrong as `go` says: whether it ended well.
fn promote_and_crash(site: &Site, go: impl FnOnce(&Registry) -> bool) -> bool {
    let other = site.open().promote(&promotion("late", b"before")).expect("promoted");
    let is_done = go(&site.open());
    let registry = site.open();
    let listed = registry.list().expect("listed");
    for listed in &listed {
        assert!(registry.show(&listed.id).is_ok(), "{}: a version is not complete", site.name);
    }
    assert!((1..=2).contains(&listed.len()), "{}: {} versions", site.name, listed.len());
    let new = registry.promote(&promotion("late", b"new")).expect("promoted after the crash");
    assert_eq!(registry.show(&new.id).expect("complete"), new);
    assert_eq!(registry.show(&other.id).expect("complete"), other);
    registry.promote(&promotion("late", b"later")).expect("promoted");
    assert_eq!(site.leftovers(), 0, "{}: a leftover is still there", site.name);
    is_done
}

#[test]
fn a_crash_after_any_step_leaves_all_or_nothing() {
    crash_after_each_step(5, |site, done| {
        promote_and_crash(site, |registry| registry.promote_in_steps(&promotion("late", b"new"), done).is_ok())
    });
}

#[test]
fn a_power_cut_at_any_change_leaves_all_or_nothing() {
    cut_power_at_each_change(|site, store, change| {
        promote_and_crash(site, |registry| {
            store.cut_at(change);
            let done = registry.promote(&promotion("late", b"new")).is_ok();
            store.cut_at(0);
            done
        })
    });
}

fn flip(site: &Site, version: &Version, file: &str, at: usize) {
    let mut bytes = site.get(version, file).expect("it is there");
    bytes[at] ^= 1;
    site.put(version, file, Some(&bytes));
}

#[test]
fn damage_is_reported_with_the_versions_name() {
    for site in &[Site::in_folder(), Site::on_store()] {
        let registry = site.open();
        for file in ["weights.safetensors", "model.json", "metadata.json", "checksums.b3"] {
            let version = registry.promote(&promotion("late", file.as_bytes())).expect("promoted");
            let sound = registry.promote(&promotion("late", b"others")).expect("promoted");
            let content = site.get(&version, file).expect("it is there");
            for at in 0..content.len() {
                flip(site, &version, file, at);
                let message = registry.show(&version.id).expect_err(&format!("{file}, byte {at}")).to_string();
                assert!(message.contains(&format!("late/{}", version.id)), "{message}");
                flip(site, &version, file, at);
            }
            site.put(&version, file, None);
            assert!(registry.show(&version.id).is_err(), "{file} is missing");
            let damaged = registry.list().expect("listed").iter().filter(|listed| listed.version.is_err()).count();
            // Where versions are no folders, there is none without its checksums.
            let is_seen = file == "metadata.json" || file == "checksums.b3" && site.store.is_none();
            assert_eq!(damaged, usize::from(is_seen));
            assert!(registry.show(&sound.id).is_ok(), "others are not harmed");
            site.remove(&version);
        }
    }
}

#[test]
fn names_cannot_leave_the_folder() {
    everywhere(|site| {
        let registry = site.open();
        for name in ["", "..", "a..b", "../x", "/x", "a/b", "A", "ä", ".hidden", &"a".repeat(65)] {
            assert!(registry.promote(&promotion(name, b"")).is_err(), "model {name:?}");
            let mut promotion = promotion("late", b"");
            promotion.artefacts[0].0 = name.to_owned();
            assert!(registry.promote(&promotion).is_err(), "file {name:?}");
        }
        for name in ["metadata.json", "checksums.b3", "model.json"] {
            let mut promotion = promotion("late", b"");
            promotion.artefacts[0].0 = name.to_owned();
            assert!(registry.promote(&promotion).is_err(), "file {name:?}");
        }
        assert!(registry.list().expect("listed").is_empty());
        assert!(registry.promote(&promotion("a-b_c.1", b"")).is_ok());
    });
}

#[test]
fn promotion_rules() {
    let measure = Measure::of_all;
    let better = [
        measure("accuracy", "model", 0.1),
        measure("log_loss", "model", 0.5),
        measure("log_loss", "majority", 0.6),
        measure("log_loss", "no_change", 0.7),
    ];
    let mut worse = better.clone();
    worse[3].value = 0.5;
    let mut unknown = better.clone();
    unknown[1].value = f64::NAN;
    let regression = [measure("rmse", "model", 1.0), measure("rmse", "mean", 2.0)];
    let rule = |value| PromotionRule::plan(&value).expect("valid");
    let (strict, lax) = (
        rule(json!({"every_examples": 10})),
        rule(json!({"every_examples": 10, "only_if_better_than_baseline": false})),
    );
    let case = |rule: PromotionRule, before, after, measures: &[Measure], want: Option<&str>| {
        assert_eq!(
            rule.decide(before, after, measures).as_deref(),
            want,
            "{rule:?}, {before} to {after}, {measures:?}"
        );
    };
    let reason = "10 examples, log_loss 0.5000 below majority 0.6000 and no_change 0.7000";
    case(strict, 0, 9, &better, None);
    case(strict, 9, 10, &better, Some(reason));
    case(strict, 10, 19, &better, None);
    case(strict, 9, 10, &worse, None);
    case(strict, 9, 10, &unknown, None);
    case(strict, 9, 10, &[], None);
    case(strict, 9, 35, &regression, Some("35 examples, rmse 1.0000 below mean 2.0000"));
    case(lax, 9, 10, &worse, Some("10 examples"));
    case(lax, 0, 0, &better, None);
    assert_eq!(PromotionRule::plan(&json!({"every_examples": 0})).expect_err("refused")[0].code, "out-of-range");
    assert_eq!(PromotionRule::plan(&json!({"every": 3})).expect_err("refused")[0].code, "bad-value");
}
