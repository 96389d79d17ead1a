//! A run promotes while commands look and change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::Edit;
use super::changes::{author, promote};
use super::site::everywhere;

const VERSIONS: u8 = 30;

#[test]
fn readers_and_writers_get_along() {
    everywhere(|site| {
        let registry = site.open();
        promote(&registry, b"first", 0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let registry = site.open();
                for at in 0..VERSIONS {
                    promote(&registry, &[at], 1 + i64::from(at));
                }
                done.store(true, Ordering::SeqCst);
            });
            scope.spawn(|| {
                let registry = site.open();
                while !done.load(Ordering::SeqCst) {
                    let version = registry.find("late@latest").expect("there is one");
                    registry.set_alias(&version, "champion", &author("newest")).expect("set");
                    registry.edit("late", Some(&version), Edit::Tag("seen", Some("yes")), &author("")).expect("tagged");
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let registry = site.open();
                    let mut seen = 0;
                    while !done.load(Ordering::SeqCst) {
                        let entries = registry.entries().expect("listed");
                        assert!(entries.len() >= seen, "versions do not vanish");
                        seen = entries.len();
                        for (at, entry) in entries.iter().enumerate() {
                            assert_eq!(entry.number, Some(1 + at as u64));
                            registry.artefacts(entry.version.as_ref().expect("it is complete")).expect("and sound");
                        }
                        let named = entries.iter().filter(|entry| !entry.aliases.is_empty()).count();
                        assert!(named <= 1, "an alias names one");
                    }
                });
            }
            writing.join().expect("it does not panic");
        });
        assert_eq!(registry.entries().expect("listed").len(), 1 + usize::from(VERSIONS));
        let promotions = registry.history(None, None).expect("read");
        assert_eq!(promotions.iter().filter(|event| event.kind == "promoted").count(), 1 + usize::from(VERSIONS));
    });
}

#[test]
fn what_is_deleted_meanwhile_is_not_damaged() {
    everywhere(|site| {
        let registry = site.open();
        promote(&registry, b"first", 0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let registry = site.open();
                for at in 0..VERSIONS {
                    let version = promote(&registry, &[at], 1 + i64::from(at));
                    registry.delete("late", &version.id, &author("")).expect("deleted");
                }
                done.store(true, Ordering::SeqCst);
            });
            scope.spawn(|| {
                let registry = site.open();
                while !done.load(Ordering::SeqCst) {
                    for listed in registry.list().expect("listed") {
                        assert!(listed.version.is_ok(), "{listed:?}");
                    }
                }
            });
        });
        assert_eq!(registry.list().expect("listed").len(), 1);
    });
}
