//! Aliases, tags, descriptions, deletions, history; and crashes between any two steps of them.

use std::fs;

use super::super::{Author, Edit, Metadata, Promotion, Registry, Score, Tolerance, Version};
use super::promotion;
use super::site::{Site, crash_after_each_step, cut_power_at_each_change, everywhere};

pub(super) fn author(why: &str) -> Author {
    Author { by: "ana".to_owned(), why: why.to_owned(), at_ms: 1_800_000_000_000 }
}

/// Promotes as a run does; the later, the larger `second`.
pub(super) fn promote(registry: &Registry, weights: &[u8], second: i64) -> Version {
    let mut promotion = promotion("late", weights);
    promotion.metadata.promoted_ms += 1000 * second;
    promotion.metadata.promoted_by = Some("run".to_owned());
    let version = registry.promote(&promotion).expect("promoted");
    registry.note_versions(promotion.metadata.promoted_ms).expect("noted");
    version
}

/// The history in short.
pub(super) fn told(registry: &Registry) -> Vec<String> {
    let events = registry.history(None, None).expect("it can be read");
    events.into_iter().map(|event| format!("{} {} by {}: {}", event.kind, event.what, event.by, event.why)).collect()
}

fn numbers(registry: &Registry) -> Vec<(String, Option<u64>)> {
    registry.entries().expect("listed").into_iter().map(|entry| (entry.id, entry.number)).collect()
}

#[test]
fn aliases_name_versions() {
    everywhere(|site| {
        let registry = site.open();
        let [first, second] = [(b"one", 0), (b"two", 1)].map(|(weights, second)| promote(&registry, weights, second));
        assert_eq!(registry.find("late@latest").expect("the newest"), second);
        assert_eq!(registry.find("late@v1").expect("the first"), first);
        registry.set_alias(&first, "champion", &author("it is good")).expect("set");
        registry.set_alias(&first, "champion", &author("it is good")).expect("set to the same, which is nothing");
        assert_eq!(registry.find("late@champion").expect("named"), first);
        registry.set_alias(&second, "champion", &author("it is better")).expect("moved");
        assert_eq!(registry.show("late@champion").expect("named"), second);
        registry.set_alias(&first, "challenger", &author("")).expect("set");
        let entries = registry.entries().expect("listed");
        assert_eq!([&entries[0].aliases, &entries[1].aliases], [&["challenger"], &["champion"]]);
        registry.remove_alias("late", "challenger", &author("lost")).expect("removed");
        assert_eq!(
            told(&registry)[2..],
            [
                "alias champion by ana: it is good".to_owned(),
                format!("alias champion from {} by ana: it is better", first.id),
                "alias challenger by ana: ".to_owned(),
                "alias challenger removed by ana: lost".to_owned(),
            ]
        );
        for (name, want) in [
            ("late@challenger", "late has no alias `challenger`; there are: champion (and always `latest`)"),
            ("soon@champion", "soon has no alias `champion`; there are: none (and always `latest`)"),
            ("soon@latest", "soon has no sound version"),
            ("late@v3", "late@v3 names no version that is there"),
        ] {
            assert_eq!(registry.find(name).expect_err(name).to_string(), want);
        }
        for alias in ["latest", "v12", "a b", "", "A", "../x"] {
            assert!(registry.set_alias(&first, alias, &author("")).is_err(), "{alias:?}");
        }
    });
}

#[test]
fn what_is_noted_is_forgotten_with_the_database_and_nothing_else() {
    let site = Site::in_folder();
    let (folder, registry) = (&site.folder, site.open());
    let versions = [(b"one", 0), (b"two", 1)].map(|(weights, second)| promote(&registry, weights, second));
    registry.set_alias(&versions[0], "champion", &author("")).expect("set");
    let before = numbers(&registry);
    fs::remove_file(folder.path().join("registry/registry.sqlite")).expect("removed");
    assert_eq!(numbers(&registry), before, "numbers follow from the folders");
    let promotions = ["promoted revision 7 by run: 20000 examples"; 2];
    assert_eq!(told(&registry), promotions, "and so do promotions");
    assert!(registry.find("late@champion").is_err() && registry.find("late@latest").is_ok());
    assert!(!folder.path().join("registry/registry.sqlite").exists(), "to look at it makes no database");
    registry.note_versions(0).expect("noted");
    assert_eq!((numbers(&registry), told(&registry)), (before, promotions.map(str::to_owned).to_vec()));
}

#[test]
fn tags_and_descriptions_can_be_changed() {
    everywhere(|site| {
        let registry = site.open();
        let version = promote(&registry, b"one", 0);
        let edit = |version: Option<&Version>, edit| registry.edit("late", version, edit, &author("why not"));
        edit(Some(&version), Edit::Tag("stage", Some("live"))).expect("set");
        edit(Some(&version), Edit::Tag("stage", Some("old = 'x'"))).expect("changed");
        edit(Some(&version), Edit::Tag("owner", Some(""))).expect("set");
        edit(Some(&version), Edit::Description("It is said\nto be good.")).expect("described");
        edit(None, Edit::Tag("team", Some("sky"))).expect("a model has tags, too");
        edit(None, Edit::Description("Flights.")).expect("and a description");
        let entry = registry.entries().expect("listed").remove(0);
        assert_eq!(
            entry.tags.into_iter().map(|(key, value)| key + "=" + &value).collect::<Vec<_>>(),
            ["owner=", "stage=old = 'x'"]
        );
        assert_eq!(entry.description, "It is said\nto be good.");
        let about = registry.about_models().expect("read").remove("late").expect("it is noted");
        assert_eq!((about.description.as_str(), about.tags["team"].as_str()), ("Flights.", "sky"));
        edit(Some(&version), Edit::Tag("stage", None)).expect("removed");
        let missing = edit(Some(&version), Edit::Tag("stage", None)).expect_err("it is gone").to_string();
        assert_eq!(missing, "there is no tag `stage`; there are: owner");
        edit(Some(&version), Edit::Description("")).expect("removed");
        assert_eq!(registry.entries().expect("listed").remove(0).description, "");
        let long = "x".repeat(5001);
        for key in ["", "a=b", "a\nb", &long[..251]] {
            assert!(edit(Some(&version), Edit::Tag(key, Some("x"))).is_err(), "{key:?}");
        }
        assert!(edit(Some(&version), Edit::Tag("long", Some(&long))).is_err());
    });
}

/// A version that reached this, over all rows and on a slice.
fn measured(registry: &Registry, weights: &[u8], all: f64, slice: f64) -> Version {
    let score = |over: &str, value| Score { name: "log_loss".into(), who: "model".into(), over: over.into(), value };
    let Promotion { metadata, artefacts } = promotion("late", weights);
    let measures = vec![score("all", all), score("carrier=AA", slice)];
    registry.promote(&Promotion { metadata: Metadata { measures, ..metadata }, artefacts }).expect("promoted")
}

#[test]
fn a_worse_version_does_not_take_the_place_of_a_better_one() {
    everywhere(|site| {
        let registry = site.open();
        let tolerance = Tolerance { slice: 0.05, force: false };
        let promote =
            |version: &Version, tolerance| registry.promote_to(version, "champion", tolerance, &author("test"));
        let holder = measured(&registry, b"holder", 0.5, 0.4);
        assert!(promote(&holder, tolerance).expect("there is no other").is_none());
        assert!(promote(&holder, tolerance).expect("it is the same").is_none());
        let nan = f64::NAN;
        let cases = [
            (0.5, 0.4, None),
            (0.4, 0.42, None),
            (0.501, 0.3, Some("0.5010 instead of 0.5000 over all")),
            (nan, 0.3, Some("NaN instead of 0.5000 over all")),
            (0.3, 0.421, Some("0.4210 instead of 0.4000 over carrier=AA (slices may be worse by 5%)")),
            (0.6, 0.6, Some("0.6000 instead of 0.5000 over all, 0.6000 instead of 0.4000 over carrier=AA")),
        ];
        for (at, (all, slice, want)) in cases.into_iter().enumerate() {
            let version = measured(&registry, &[at as u8], all, slice);
            match (promote(&version, tolerance), want) {
                (Ok(comparison), None) => {
                    let comparison = comparison.expect("there is another");
                    assert_eq!(comparison.measures[0].difference, Some(all - 0.5));
                }
                (Err(fault), Some(want)) => {
                    let message = fault.to_string();
                    assert!(
                        message.starts_with(&format!("late@champion stays with late/{}: ", holder.id)),
                        "{message}"
                    );
                    assert!(message.contains(want) && message.contains("--force"), "{message}");
                    promote(&version, Tolerance { force: true, ..tolerance }).expect("forced");
                    assert_eq!(registry.find("late@champion").expect("moved").id, version.id);
                }
                (outcome, want) => panic!("{all} {slice}: {outcome:?} where {want:?} was expected"),
            }
            registry.set_alias(&holder, "champion", &author("back")).expect("set");
        }
        let tolerant = Tolerance { slice: 0.1, force: false };
        promote(&registry.find("late@v6").expect("the fifth case"), tolerant).expect("a tenth is tolerated");
    });
}

#[test]
fn what_cannot_be_compared_is_not_promoted() {
    everywhere(|site| {
        let registry = site.open();
        let tolerance = Tolerance { slice: 0.0, force: false };
        let holder = measured(&registry, b"holder", 0.5, 0.4);
        registry.set_alias(&holder, "champion", &author("")).expect("set");
        let mut unmeasured = promotion("late", b"unmeasured");
        unmeasured.metadata.measures.clear();
        let unmeasured = registry.promote(&unmeasured).expect("promoted");
        let refuse = |version: &Version| {
            registry.promote_to(version, "champion", tolerance, &author("")).expect_err("refused").to_string()
        };
        assert!(refuse(&unmeasured).contains("there is no log_loss or rmse of both"), "{}", refuse(&unmeasured));
        // The holder is damaged, then the version itself.
        let better = measured(&registry, b"better", 0.1, 0.1);
        site.put(&holder, "weights.safetensors", Some(b"hOlder"));
        assert!(refuse(&better).contains("--force moves champion anyway"), "{}", refuse(&better));
        registry.promote_to(&better, "champion", Tolerance { force: true, ..tolerance }, &author("")).expect("forced");
        site.put(&better, "weights.safetensors", Some(b"bEtter"));
        let forced = registry.promote_to(&better, "other", Tolerance { force: true, ..tolerance }, &author(""));
        assert!(forced.expect_err("its own files must be sound").to_string().contains("have changed"));
    });
}

#[test]
fn a_version_with_an_alias_is_not_deleted() {
    everywhere(|site| {
        let registry = site.open();
        let [first, second] = [(b"one", 0), (b"two", 1)].map(|(weights, second)| promote(&registry, weights, second));
        registry.set_alias(&first, "champion", &author("")).expect("set");
        registry.edit("late", Some(&first), Edit::Tag("stage", Some("live")), &author("")).expect("set");
        let message = registry.delete("late", &first.id, &author("")).expect_err("refused").to_string();
        assert!(message.contains("is champion: give the alias to another version"), "{message}");
        registry.remove_alias("late", "champion", &author("")).expect("removed");
        registry.delete("late", &first.id, &author("space")).expect("deleted");
        assert!(site.get(&first, "model.json").is_none() && registry.find(&first.id).is_err());
        assert_eq!(told(&registry).last().expect("told"), "deleted 20000 examples by ana: space");
        assert!(registry.set_alias(&first, "champion", &author("")).is_err(), "it is gone");
        assert_eq!(numbers(&registry), [(second.id.clone(), Some(2))], "numbers stay");
        let again = promote(&registry, b"one", 2);
        assert_eq!(again.id, first.id);
        let entries = registry.entries().expect("listed");
        assert_eq!(
            entries.iter().map(|entry| entry.number).collect::<Vec<_>>(),
            [Some(2), Some(3)],
            "none is given twice"
        );
        assert!(entries[1].tags.is_empty(), "what was noted has gone with it");
        // A damaged one can be deleted, too.
        site.put(&second, "metadata.json", Some(b"{}"));
        registry.delete("late", &second.id, &author("")).expect("deleted");
        assert_eq!(numbers(&registry).len(), 1);
    });
}

/// A version is deleted, and something goes wrong as `go` says: whether it ended well.
fn delete_and_crash(site: &Site, go: impl FnOnce(&Registry, &Version) -> bool) -> bool {
    let version = promote(&site.open(), b"doomed", 0);
    let is_done = go(&site.open(), &version);
    let registry = site.open();
    let left = registry.list().expect("listed");
    for listed in &left {
        registry.show(&listed.id).expect("it is there until it is taken away as a whole");
    }
    registry.note_versions(5).expect("mended");
    assert_eq!(numbers(&registry).len(), left.len());
    let deletions = told(&registry).iter().filter(|told| told.starts_with("deleted")).count();
    assert_eq!(deletions, 1 - left.len(), "{}: {:?}", site.name, told(&registry));
    promote(&registry, b"later", 1);
    assert_eq!(site.leftovers(), 0, "{}", site.name);
    is_done
}

#[test]
fn a_crash_while_deleting_leaves_all_or_nothing() {
    crash_after_each_step(4, |site, done| {
        delete_and_crash(site, |registry, version| {
            registry.delete_in_steps(("late", &version.id), &author("test"), done).is_ok()
        })
    });
}

#[test]
fn a_power_cut_while_deleting_leaves_all_or_nothing() {
    cut_power_at_each_change(|site, store, change| {
        delete_and_crash(site, |registry, version| {
            store.cut_at(change);
            let done = registry.delete("late", &version.id, &author("test")).is_ok();
            store.cut_at(0);
            done
        })
    });
}

#[test]
fn a_crash_between_folder_and_history_is_mended() {
    everywhere(|site| {
        let registry = site.open();
        let noted = promote(&registry, b"one", 0);
        registry.set_alias(&noted, "champion", &author("")).expect("set");
        // Two that nobody noted, the younger first, and one whose folder was removed by hand.
        for (weights, second) in [(b"b", 9), (b"a", 8)] {
            let mut promotion = promotion("late", weights);
            promotion.metadata.promoted_ms += 1000 * second;
            promotion.metadata.reason = format!("second {second}");
            registry.promote(&promotion).expect("promoted");
        }
        site.remove(&noted);
        let before = numbers(&registry);
        assert_eq!(before.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [Some(2), Some(3)]);
        assert!(
            registry.find("late@champion").expect_err("gone").to_string().contains("names no version that is there")
        );
        registry.note_versions(7).expect("mended");
        assert_eq!(numbers(&registry), before, "what was told before it was noted stays so");
        assert_eq!(
            told(&registry)[2..],
            [
                "promoted revision 7 by unknown: second 8",
                "promoted revision 7 by unknown: second 9",
                "deleted  by unknown: it is no longer there; it was champion",
            ]
        );
        assert!(registry.find("late@champion").expect_err("forgotten").to_string().contains("has no alias"));
    });
}
