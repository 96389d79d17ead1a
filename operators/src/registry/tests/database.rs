//! The database: its layouts, and what is none.

use std::fs;

use rusqlite::Connection;

use super::changes::{author, promote, told};
use super::site::Site;

#[test]
fn what_is_no_database_of_a_registry_is_refused_and_versions_are_there() {
    let site = Site::in_folder();
    let (folder, registry) = (&site.folder, site.open());
    let version = promote(&registry, b"one", 0);
    let path = folder.path().join("registry/registry.sqlite");
    let foreign = |sql: &str| {
        fs::remove_file(&path).expect("removed");
        Connection::open(&path).expect("opened").execute_batch(sql).expect("made");
    };
    let refused = |want: &str| {
        for message in [
            registry.entries().map(drop).expect_err("refused").to_string(),
            registry.set_alias(&version, "champion", &author("")).expect_err("refused").to_string(),
        ] {
            assert!(message.contains("registry.sqlite") && message.contains(want), "{message}");
        }
        assert_eq!(registry.list().expect("the folders are sound").len(), 1);
        assert!(registry.show(&version.id).is_ok() && registry.find("late@latest").is_ok());
    };
    foreign("CREATE TABLE t (x); PRAGMA user_version = 1;");
    refused("is another program's database: move it away");
    foreign("CREATE TABLE t (x); PRAGMA application_id = 0x4d524547; PRAGMA user_version = 99;");
    refused("is of a newer program (layout 99, this one knows 2)");
    fs::write(&path, b"SQLite format 4\0, or so it seems, and then some more bytes of what it is not")
        .expect("written");
    refused("is damaged: move it away");
    // What an aborted first change has left is as nothing.
    fs::write(&path, b"").expect("written");
    assert!(registry.entries().is_ok());
    registry.set_alias(&version, "champion", &author("")).expect("made anew");
}

#[test]
fn a_damaged_page_is_told() {
    let site = Site::in_folder();
    let (folder, registry) = (&site.folder, site.open());
    for at in 0..40 {
        promote(&registry, &[at], i64::from(at));
    }
    let path = folder.path().join("registry/registry.sqlite");
    let sound = fs::read(&path).expect("read");
    let page = usize::from(u16::from_be_bytes([sound[16], sound[17]]));
    for at in (page..sound.len()).step_by(page) {
        let mut bytes = sound.clone();
        bytes[at..at + page].fill(0xa5);
        fs::write(&path, &bytes).expect("written");
        // Whatever is read of it: no panic, and what is wrong is told with the file's name.
        for fault in [registry.entries().err(), registry.history(None, None).err()].into_iter().flatten() {
            assert!(fault.to_string().contains("registry.sqlite is damaged"), "{fault}");
        }
        assert_eq!(registry.list().expect("the folders are sound").len(), 40);
    }
    fs::write(&path, &sound).expect("written");
    assert_eq!(told(&registry).len(), 40);
}

#[test]
fn history_is_only_added_to() {
    let site = Site::in_folder();
    let (folder, registry) = (&site.folder, site.open());
    promote(&registry, b"one", 0);
    let database = Connection::open(folder.path().join("registry/registry.sqlite")).expect("opened");
    for sql in ["DELETE FROM events", "UPDATE events SET why = 'another'"] {
        let refused = database.execute(sql, []).expect_err(sql).to_string();
        assert!(refused.contains("history is only added to"), "{refused}");
    }
    assert_eq!(told(&registry).len(), 1);
}
