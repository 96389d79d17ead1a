//! A database on a server: what is lost on the way there, who may use it, and what is none.

use std::thread;

use millstream_engine::Blame;
use postgres::{Client, NoTls};

use super::super::{Notebook, Place, Registry, check_database};
use super::changes::{author, promote, told};
use super::promotion;
use super::site::{Memory, Site, everywhere};

/// The server as its administrator sees it; in the registry's schema.
fn administrator(site: &Site) -> Client {
    let url = site.database.as_deref().expect("it has one");
    Client::connect(url, NoTls).expect("connected")
}

/// Ends the connections of the registry that the site has.
fn end_connections(site: &Site) -> usize {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()";
    administrator(site).query(sql, &[]).expect("ended").len()
}

#[test]
fn a_connection_that_was_lost_is_made_anew() {
    let Some(site) = Site::shared() else { return };
    let registry = site.open();
    let version = promote(&registry, b"one", 0);
    for alias in ["a", "b"] {
        assert!(end_connections(&site) > 0, "one is kept");
        registry.set_alias(&version, alias, &author("")).expect("set");
        end_connections(&site);
        assert_eq!(registry.entries().expect("read")[0].number, Some(1));
    }
}

#[test]
fn what_is_lost_in_the_middle_was_not_done() {
    let Some(site) = Site::shared() else { return };
    let registry = site.open();
    let mut ended = false;
    for lost_at in 0.. {
        let version = promote(&registry, &[lost_at], i64::from(lost_at));
        let mut step = 0;
        let done = registry.delete_in_steps(("late", &version.id), &author("test"), &mut |name| {
            if step == lost_at && name != "noted" {
                end_connections(&site);
            }
            step += 1;
            Ok(())
        });
        let Err(fault) = done else {
            ended = true;
            break;
        };
        assert!(fault.blame == Blame::World && fault.retry, "{fault:?}");
        assert!(fault.message.starts_with("the database postgres at 127.0.0.1:"), "{fault}");
        assert!(!fault.message.contains("mill:"), "{fault}");
        // Whatever was taken away is told by whoever comes next.
        registry.note_versions(7).expect("mended");
        assert!(registry.list().expect("listed").is_empty());
        let deleted = told(&registry).into_iter().filter(|told| told.starts_with("deleted")).count();
        assert_eq!(deleted, 1 + usize::from(lost_at));
    }
    assert!(ended);
}

#[test]
fn those_who_place_the_same_version_place_it_once() {
    everywhere(|site| {
        let placed = thread::scope(|scope| {
            let place = |at| {
                scope.spawn(move || {
                    let mut promotion = promotion("late", b"same");
                    promotion.metadata.promoted_ms += at;
                    site.open().promote(&promotion).expect("promoted")
                })
            };
            let placing: Vec<_> = (0..6).map(place).collect();
            placing.into_iter().map(|placing| placing.join().expect("it does not panic")).collect::<Vec<_>>()
        });
        assert!(placed.iter().all(|version| *version == placed[0]), "{placed:?}");
        assert_eq!(site.open().show("late@latest").expect("it is sound"), placed[0]);
    });
}

#[test]
fn machines_see_one_registry() {
    let Some(site) = Site::shared() else { return };
    let (here, there) = (site.open(), site.open());
    let [first, second] = [(b"one", 0), (b"two", 1)].map(|(weights, second)| promote(&here, weights, second));
    here.set_alias(&first, "champion", &author("here")).expect("set");
    assert_eq!(there.show("late@champion").expect("named"), first);
    there.set_alias(&second, "champion", &author("there")).expect("moved");
    assert_eq!(here.show("late@champion").expect("named"), second);
    assert!(here.delete("late", &second.id, &author("")).is_err(), "the other has named it");
    there.delete("late", &first.id, &author("")).expect("deleted");
    assert_eq!(here.find("late@v2").expect("numbers stay").id, second.id);
    assert_eq!(told(&here), told(&there));
}

#[test]
fn a_database_is_of_one_registry() {
    let Some(site) = Site::shared() else { return };
    let registry = site.open();
    let version = promote(&registry, b"one", 0);
    registry.set_alias(&version, "champion", &author("")).expect("set");
    let notebook = Notebook::Server(site.database.as_deref().expect("it has one"));
    // A place that is empty, for instance since nothing is mounted there; and that of another registry.
    let other = Site::on_store();
    let nothing = Registry::at(Place::Store(std::sync::Arc::<Memory>::default(), "memory:///empty"), notebook);
    let another = {
        let store = other.store.clone().expect("it has one");
        let place = || Place::Store(store.clone(), "memory:///other");
        let with_file = Registry::at(place(), Notebook::Folder(&other.path())).expect("opened");
        with_file.note_versions(0).expect("noted");
        Registry::at(place(), notebook)
    };
    for (registry, why) in [(nothing, "holds no registry that it knows"), (another, "is another registry")] {
        let registry = registry.expect("opened");
        let fault = registry.note_versions(0).expect_err("refused");
        assert_eq!(fault.blame, Blame::Definition);
        assert!(fault.message.contains(why) && fault.message.contains("registry.id"), "{fault}");
    }
    assert_eq!(registry.show("late@champion").expect("nothing was forgotten"), version);
    // A database that was lost is begun anew.
    let lost = Site { database: super::site::database(), ..site };
    lost.open().note_versions(0).expect("noted");
    assert_eq!(lost.open().find("late@v1").expect("it is there"), version);
}

#[test]
fn versions_are_found_where_the_database_is_not_known() {
    let site = Site::on_store();
    let version = promote(&site.open(), b"one", 0);
    let store = site.store.clone().expect("it has one");
    let registry = Registry::at(Place::Store(store, "memory:///registry"), Notebook::Nowhere).expect("opened");
    assert_eq!(registry.show("late@latest").expect("the newest"), version);
    assert_eq!(registry.show(&version.id).expect("by its id"), version);
    for refused in [
        registry.find("late@v1").map(drop),
        registry.find("late@champion").map(drop),
        registry.set_alias(&version, "champion", &author("")),
        registry.promote(&promotion("late", b"two")).map(drop),
    ] {
        assert!(refused.expect_err("refused").message.contains("add `database`"));
    }
}

#[test]
fn what_is_no_database_of_a_registry_is_refused() {
    let Some(site) = Site::shared() else { return };
    let registry = site.open();
    let version = promote(&registry, b"one", 0);
    let refused = |want: &str| {
        let fault = site.open().set_alias(&version, "champion", &author("")).expect_err(want);
        assert!(fault.message.contains(want) && !fault.retry, "{fault}");
        assert_eq!(registry.list().expect("the versions are sound").len(), 1);
    };
    let mut administrator = administrator(&site);
    for sql in ["DELETE FROM events", "UPDATE events SET why = 'another'", "TRUNCATE events"] {
        let error = administrator.batch_execute(sql).expect_err(sql);
        let message = error.as_db_error().expect("the server's").message().to_owned();
        assert_eq!(message, "history is only added to");
    }
    administrator.batch_execute("UPDATE layout SET number = 99").expect("changed");
    refused("is of a newer program (layout 99, this one knows 1)");
    administrator.batch_execute("DROP TABLE layout").expect("dropped");
    refused("another program's tables are in that schema");
}

#[test]
fn who_may_not_come_in_is_told_so_without_the_password() {
    let Some(site) = Site::shared() else { return };
    let url = site.database.as_deref().expect("it has one");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let cases = [
        (url.replace("mill:mill@", "mill:guess@"), "password authentication failed", false),
        (url.replace("/postgres?", "/nothing?"), "database \"nothing\" does not exist", false),
        (format!("postgres://mill:guess@{nobody}/postgres"), "cannot reach it", true),
    ];
    for (url, why, retry) in cases {
        check_database(&url).expect("it is a URL");
        let folder = site.folder.path().join("elsewhere");
        let registry = Registry::at(Place::Folder(&folder), Notebook::Server(&url)).expect("opened");
        let fault = registry.promote(&promotion("late", b"one")).expect_err("it cannot be reached");
        assert!(fault.message.contains(why), "{fault}");
        assert_eq!((fault.blame, fault.retry), (Blame::World, retry), "{fault}");
        assert!(!fault.message.contains("guess") && !fault.message.contains(":mill"), "{fault}");
        assert!(registry.list().expect("listed").is_empty());
    }
}

#[test]
fn over_tls_the_server_is_verified() {
    let Some(site) = Site::shared() else { return };
    let Ok(authorities) = std::env::var("MILLSTREAM_POSTGRES_CA") else {
        println!("skipped: MILLSTREAM_POSTGRES_CA names no certificate");
        return;
    };
    let url = site.database.as_deref().expect("it has one");
    let connect = |mode: &str| {
        let url = url.replace("sslmode=disable", mode);
        let registry = Registry::at(Place::Folder(site.folder.path()), Notebook::Server(&url)).expect("opened");
        registry.note_versions(0)
    };
    for mode in ["require", "verify-full"] {
        connect(&format!("sslmode={mode}&sslrootcert={authorities}")).expect("it is who it says");
    }
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE ssl AND application_name = current_setting('application_name')";
    let registry = {
        let url = url.replace("sslmode=disable", &format!("sslmode=require&sslrootcert={authorities}"));
        Registry::at(Place::Folder(site.folder.path()), Notebook::Server(&url)).expect("opened")
    };
    registry.note_versions(0).expect("noted");
    assert_eq!(administrator(&site).query_one(encrypted, &[]).expect("asked").get::<_, i64>(0), 1);
    for mode in ["sslmode=require", "sslmode=prefer"] {
        let fault = connect(mode).expect_err("nobody vouches for it");
        assert!(fault.message.contains("invalid peer certificate") && !fault.retry, "{fault}");
        assert!(fault.message.contains("`sslrootcert=FILE`"), "{fault}");
    }
    let fault = connect("sslmode=require&sslrootcert=/nowhere.pem").expect_err("there is none");
    assert!(fault.message.contains("cannot read the certificates in /nowhere.pem"), "{fault}");
}
