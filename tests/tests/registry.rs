//! A registry that is shared, and changed while processes are killed: what it says, what the journal says, and what is served agree.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;

use millstream_engine::failpoint;
use millstream_engine::time::SystemClock;
use millstream_operators::registry::{Author, Registry, Tolerance, Version};
use millstream_pipelines::registry;
use millstream_pipelines::registry_api::{Server, Settings};
use millstream_pipelines::run::rollback::{Poison, rollback};
use millstream_tests::s3::with_bucket;
use millstream_tests::shop::{definition, orders, prove, questions};
use millstream_tests::{Site, again, free_address, http, one_answer_each, unique};
use serde_json::{Value, json};

/// Tells a child process what it is to do.
const CHILD: &str = "MILLSTREAM_TEST_CHILD";

const LEARNS: &str = "input: orders, label: returned, features: [amount, weekday], learner: logistic_regression";

/// Where a registry is that several pipelines share.
struct Place {
    /// The line of the definition.
    line: String,
    /// The file with the database's URL.
    database: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Place {
    fn folder() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let line = format!("registry: {{artefacts: \"{}\"}}", folder.path().join("shared").display());
        Self { line, database: Vec::new(), _folder: folder }
    }

    /// A bucket and a server; `None` without one.
    fn bucket() -> Option<Self> {
        let Ok(url) = std::env::var("MILLSTREAM_POSTGRES") else {
            println!("skipped: MILLSTREAM_POSTGRES names no server");
            return None;
        };
        let name = unique();
        let line = format!("registry: {{artefacts: \"s3://bucket/{name}\", database: \"${{file:database}}\"}}");
        let database = format!("{url}&options=-csearch_path%3D{name}").into_bytes();
        Some(Self { line, database, _folder: tempfile::tempdir().expect("a folder for the test") })
    }

    fn all() -> Vec<Self> {
        [Self::folder()].into_iter().chain(Self::bucket()).collect()
    }

    /// A pipeline with these models.
    fn site(&self, models: &str, answers: &str) -> Site {
        let definition = format!("{}{}\n", definition(models, answers), self.line);
        Site::new(&definition, &[("database", &self.database)])
    }

    /// A shop that has learned 400 orders, with a version after each 100.
    fn taught(&self) -> Site {
        let promoted = "promote: {every_examples: 100, only_if_better_than_baseline: false}";
        let site = self.site(&format!("\n  returns: {{{LEARNS}, {promoted}}}"), "model: returns");
        site.append("orders", &orders(0, 400));
        site.run();
        assert_eq!(opened(&site).versions_of("returns").expect("listed").len(), 4);
        site
    }

    /// One that answers with the champion, as it is and as it goes on.
    fn answering(&self) -> Site {
        let from = "from: {version: returns@champion}";
        let models = format!("\n  pinned: {{{LEARNS}, {from}, learns: false}}\n  goes_on: {{{LEARNS}, {from}}}");
        self.site(&models, "model: goes_on, policy: {weighted: {percent: {pinned: 40}}}")
    }
}

fn opened(site: &Site) -> Registry {
    registry::open(&site.pipeline, &site.state()).expect("it opens")
}

fn version(site: &Site, name: &str) -> Version {
    opened(site).show(name).expect("it is there")
}

fn author() -> Author {
    Author { by: "ana".to_owned(), why: "test".to_owned(), at_ms: 1 }
}

/// Not a test of its own: what the child processes of the others run.
#[test]
fn child() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let told: Value = serde_json::from_str(&text).expect("a parent wrote it");
    let text = |name: &str| told[name].as_str().expect("a text");
    let site = Site::at(PathBuf::from(text("folder")));
    let found = || version(&site, text("version"));
    match text("what") {
        "run" => drop(site.run()),
        "alias" => opened(&site).set_alias(&found(), "champion", &author()).expect("set"),
        "promote" => {
            let tolerance = Tolerance { slice: 0.0, force: true };
            drop(opened(&site).promote_to(&found(), "champion", tolerance, &author()).expect("promoted"));
        }
        "delete" => opened(&site).delete("returns", &found().id, &author()).expect("deleted"),
        "roll back" => drop(rollback(&site.pipeline, &site.options(), text("version"), &poison()).expect("undone")),
        what => panic!("what is {what}?"),
    }
}

/// Does something in a process that is to be killed. Whether it was: it may have come to its end.
fn killed(site: &Site, what: &str, version: &str, kill_at: &str) -> bool {
    let told = json!({"folder": site.folder(), "what": what, "version": version});
    let mut command = again("registry::child");
    command.env(CHILD, told.to_string()).env(failpoint::VARIABLE, kill_at);
    let output = command.stdin(Stdio::null()).output().expect("the program starts again");
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{what} at {kill_at}: {}", String::from_utf8_lossy(&output.stdout));
    killed
}

/// The versions that the starts of a pipeline's journal name.
fn started_with(site: &Site) -> Vec<String> {
    let mut named = Vec::new();
    for record in site.records("shop.progress") {
        let origins = record.json()["origins"].as_object().cloned().unwrap_or_default();
        named.extend(origins.values().map(|origin| origin["version"].as_str().expect("a version").to_owned()));
    }
    named
}

/// All that the pinned model answered, it answered as this version.
fn check_pinned(site: &Site, version: &Version) -> usize {
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let pinned: Vec<_> = answers.iter().filter(|answer| answer["model"] == "pinned").collect();
    for answer in &pinned {
        assert_eq!(answer["revision"], json!(version.metadata.revision), "{answer}");
    }
    pinned.len()
}

#[test]
fn an_alias_moves_wholly_or_not_at_all_and_what_starts_then_serves_it() {
    with_bucket("registry::an_alias_moves_wholly_or_not_at_all_and_what_starts_then_serves_it", || {
        for place in Place::all() {
            let first = place.taught();
            opened(&first).set_alias(&version(&first, "returns@v1"), "champion", &author()).expect("set");
            let mut moved = 1;
            let kills = ["alias", "promote"].into_iter().flat_map(|what| [(what, "before"), (what, "after")]);
            for ((what, side), to) in kills.zip(["returns@v2", "returns@v3", "returns@v2", "returns@v4"]) {
                let (was, target) = (version(&first, "returns@champion"), version(&first, to));
                assert!(killed(&first, what, to, &format!("registry.commit:{side}:1")), "{what} {side}");
                let champion = version(&first, "returns@champion");
                assert_eq!(champion.id, if side == "after" { target.id } else { was.id }, "{what} {side}");
                moved += usize::from(side == "after");
                // The history tells of each move that there was, and of no other.
                let told = opened(&first).history(Some("returns"), None).expect("told");
                let told: Vec<_> = told.iter().filter(|event| event.kind == "alias").collect();
                assert_eq!((told.len(), &told[moved - 1].version), (moved, &champion.id), "{what} {side}");

                let next = place.answering();
                next.append("questions", &questions(12));
                next.run();
                let named = format!("returns/{}", champion.id);
                assert_eq!(started_with(&next), [named.as_str()], "{what} {side}");
                assert!(check_pinned(&next, &champion) > 0);
            }
        }
    });
}

#[test]
fn a_version_is_deleted_wholly_or_not_at_all() {
    with_bucket("registry::a_version_is_deleted_wholly_or_not_at_all", || {
        for place in Place::all() {
            let first = place.taught();
            let steps = ["registry.hide", "registry.clear", "registry.commit"];
            let kills = steps.into_iter().flat_map(|step| ["before", "after"].map(|side| (step, side)));
            for (step, side) in kills {
                let there = opened(&first).list().expect("listed").len();
                let Some(doomed) = opened(&first).newest("returns").expect("listed") else { break };
                assert!(killed(&first, "delete", &doomed.id, &format!("{step}:{side}:1")), "{step} {side}");
                let left = opened(&first).list().expect("listed");
                // It goes when it is hidden, and not before.
                let gone = usize::from((step, side) != ("registry.hide", "before"));
                assert_eq!(left.len(), there - gone, "{step} {side}");
                for listed in left {
                    opened(&first).show(&listed.id).expect("it is whole");
                }
                opened(&first).note_versions(2).expect("mended");
                let told = opened(&first).history(Some("returns"), Some(&doomed.id)).expect("told");
                let deleted = told.iter().filter(|event| event.kind == "deleted").count();
                assert_eq!(deleted, gone, "{step} {side}: {told:?}");
            }
            assert_eq!(opened(&first).list().expect("listed").len(), 0, "all four are gone");
        }
    });
}

#[test]
fn killed_anywhere_a_canary_serves_the_version_that_its_journal_names() {
    with_bucket("registry::killed_anywhere_a_canary_serves_the_version_that_its_journal_names", || {
        for place in Place::all() {
            let first = place.taught();
            let set = |to: &str| opened(&first).set_alias(&version(&first, to), "champion", &author()).expect("set");
            let names =
                ["origin.write", "origin.rename", "transaction.begin", "transaction.send", "transaction.commit"];
            let names = names.into_iter().chain(["progress.send", "checkpoint.part", "checkpoint.manifest"]);
            let kills = names.flat_map(|name| ["before:1", "after:1"].map(|side| format!("{name}:{side}")));
            let (mut next, mut fired) = (None, 0);
            for (at, kill) in kills.enumerate() {
                // Whatever names mean from now on.
                set(["returns@v1", "returns@v2", "returns@v3", "returns@v4"][at % 4]);
                let site: &Site = next.get_or_insert_with(|| place.answering());
                site.append("orders", &orders(400 + 10 * at as u32, 410 + 10 * at as u32));
                site.append("questions", &questions(3));
                fired += usize::from(killed(site, "run", "", &kill));
                let named = started_with(site);
                assert!(named.iter().all(|name| *name == named[0]), "{kill}: {named:?}");
            }
            let next = next.expect("there were kills");
            next.run();
            let named = started_with(&next);
            assert!(named.iter().all(|name| *name == named[0]), "{named:?}");
            assert!(fired >= 14, "{fired} kills");
            let pinned = check_pinned(&next, &version(&first, &named[0]));
            assert!(pinned > 5, "{pinned} answers");
            prove(&next);
        }
    });
}

fn poison() -> Vec<Poison> {
    vec!["orders/0:250-300".parse().expect("it is a range")]
}

#[test]
fn killed_anywhere_a_rollback_is_done_or_not() {
    with_bucket("registry::killed_anywhere_a_rollback_is_done_or_not", || {
        for place in Place::all() {
            // What becomes of it with a rollback and without, if nothing happens.
            let digests = [false, true].map(|rolled_back| {
                let place = Place::folder();
                let site = place.taught();
                if rolled_back {
                    rollback(&site.pipeline, &site.options(), "returns@v2", &poison()).expect("undone");
                }
                site.append("orders", &orders(400, 450));
                site.run().models["returns"].digest.clone()
            });
            assert_ne!(digests[0], digests[1]);
            let taught = place.taught();
            // Versions are found by what they are: all shops here learn the same.
            let back = format!("returns/{}", version(&taught, "returns@v2").id);
            let names = ["transaction.begin", "transaction.send", "transaction.commit"];
            let sides = names.into_iter().flat_map(|name| ["before", "after"].map(|side| format!("{name}:{side}")));
            // The start comes first, and then the rollback.
            let mut kills: Vec<_> = sides.flat_map(|side| [1, 2].map(|nth| format!("{side}:{nth}"))).collect();
            if !place.database.is_empty() {
                // The journal is the same wherever versions are.
                kills.retain(|kill| kill.starts_with("transaction.commit") && kill.ends_with('2'));
            }
            for kill in kills {
                let site = place.taught();
                assert!(killed(&site, "roll back", &back, &kill), "{kill}");
                let journal: Vec<Value> =
                    site.records("shop.progress").iter().map(millstream_tests::Record::json).collect();
                let rolled_back = journal.iter().any(|record| record["kind"] == "rollback");
                assert_eq!(rolled_back, kill == "transaction.commit:after:2", "{kill}");
                site.append("orders", &orders(400, 450));
                site.append("questions", &questions(1));
                let summary = site.run();
                let revision = &summary.models["returns"];
                assert_eq!(revision.digest, digests[usize::from(rolled_back)], "{kill}");
                agree(&site, revision.revision);
                prove(&site);
            }
        }
    });
}

/// What is served is what the last progress record says, and each version is a revision that a progress record names.
fn agree(site: &Site, revision: u64) {
    let progress = site.progress();
    let revisions = |record: &Value| record["revisions"]["returns"]["revision"].as_u64();
    let last = progress.last().expect("there is one");
    assert_eq!(revisions(last), Some(revision));
    let listed = opened(site).versions_of("returns").expect("listed");
    for listed in listed {
        let version = listed.version.expect("it is sound");
        let of = progress.iter().find(|record| record["binding"]["epoch"].as_u64() == Some(version.metadata.epoch));
        assert_eq!(of.and_then(revisions), Some(version.metadata.revision), "{version:?}");
    }
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let asked = answers.last().expect("one");
    assert_eq!(asked["revision"].as_u64().map(|served| served <= revision), Some(true), "{asked}");
}

#[test]
fn what_is_shared_is_told_and_not_what_is_secret() {
    with_bucket("registry::what_is_shared_is_told_and_not_what_is_secret", || {
        let Some(place) = Place::bucket() else { return };
        let first = place.taught();
        let champion = version(&first, "returns@v3");
        opened(&first).set_alias(&champion, "champion", &author()).expect("set");
        assert!(champion.place.starts_with("s3://bucket/") && champion.place.ends_with(&champion.id));
        assert!(!first.state().join("models").exists(), "nothing of it is here");
        // Another pipeline, with a registry of its own, names this one.
        let there = place.line.strip_prefix("registry: ").expect("it begins so");
        let pinned =
            format!("\n  pinned: {{{LEARNS}, from: {{version: returns@champion, registry: {there}}}, learns: false}}");
        let other = Site::new(&definition(&pinned, "model: pinned"), &[("database", &place.database)]);
        other.append("questions", &questions(4));
        other.run();
        assert_eq!(check_pinned(&other, &champion), 4);
        let secret = String::from_utf8(place.database.clone()).expect("text");
        let journal = other.records("shop.progress");
        assert!(journal.iter().all(|record| !String::from_utf8_lossy(&record.value).contains(&secret)));
        // Without the database, what it notes is not known; the newest version is.
        let bucket = there.split('"').nth(1).expect("the URL");
        for (name, is_known) in [("returns@champion", false), ("returns@v3", false), ("returns@latest", true)] {
            let pinned =
                format!("\n  pinned: {{{LEARNS}, from: {{version: {name}, registry: \"{bucket}\"}}, learns: false}}");
            let other = Site::new(&definition(&pinned, "model: pinned"), &[]);
            let ran = other.try_run(&other.options()).map(drop);
            assert_eq!(ran.is_ok(), is_known, "{name}: {ran:?}");
            assert!(ran.err().is_none_or(|fault| fault.message.contains("add `database`")), "{name}");
        }
    });
}

#[test]
fn mlflow_s_clients_see_a_registry_that_is_shared() {
    with_bucket("registry::mlflow_s_clients_see_a_registry_that_is_shared", || {
        let Some(place) = Place::bucket() else { return };
        let first = place.taught();
        let clock = std::sync::Arc::new(SystemClock);
        let listen = "127.0.0.1:0".parse().expect("an address");
        let settings = Settings { listen, token: None, tls: None, user: "ana".to_owned(), clock };
        let server = Server::start(opened(&first), settings).expect("started");
        let api = "/api/2.0/mlflow";
        let body = json!({"name": "returns", "alias": "champion", "version": "3"});
        let set = http::post(server.address(), &format!("{api}/registered-models/alias"), &body);
        assert_eq!(set.status, 200, "{set:?}");
        let path = format!("{api}/registered-models/alias?name=returns&alias=champion");
        let found = http::get(server.address(), &path).json();
        assert_eq!(found["model_version"]["version"], "3");
        assert_eq!(version(&first, "returns@champion"), version(&first, "returns@v3"), "other processes see it, too");
        let files = http::get(server.address(), "/api/2.0/mlflow-artifacts/artifacts?path=returns/3").json();
        let files = files["files"].as_array().expect("a list").clone();
        let model = files.iter().find(|file| file["path"] == "model.json").expect("it is there");
        let file = http::get(server.address(), "/api/2.0/mlflow-artifacts/artifacts/returns/3/model.json");
        assert_eq!(model["file_size"], json!(file.body.len()));
        // Many at once, of which each waits for the bucket and the server.
        let ask = || http::get(server.address(), &format!("{api}/model-versions/search")).json();
        let asked = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|asking| asking.join().expect("answered")).collect::<Vec<_>>()
        });
        assert!(asked.iter().all(|answer| answer["model_versions"].as_array().map(Vec::len) == Some(4)), "{asked:?}");
        // What it holds may not be dropped by asynchronous code.
        drop(server);
    });
}

#[test]
fn a_run_goes_on_while_its_registry_cannot_be_reached() {
    let nobody = free_address();
    let place = Place {
        line: "registry: {database: \"${file:database}\"}".to_owned(),
        database: format!("postgres://mill:secret@{nobody}/postgres").into_bytes(),
        _folder: tempfile::tempdir().expect("a folder for the test"),
    };
    let promoted = "promote: {every_examples: 100, only_if_better_than_baseline: false}";
    let site = place.site(&format!("\n  returns: {{{LEARNS}, {promoted}}}"), "model: returns");
    site.append("orders", &orders(0, 400));
    site.append("questions", &questions(3));
    let summary = site.run();
    assert_eq!((summary.models["returns"].revision, summary.answers), (400, 3));
    assert!(opened(&site).list().expect("listed").is_empty(), "nobody has excluded others, so nothing was placed");
    // As soon as it can be reached, it is gone on with.
    let Ok(url) = std::env::var("MILLSTREAM_POSTGRES") else { return };
    fs::write(site.folder().join("database"), format!("{url}&options=-csearch_path%3D{}", unique())).expect("written");
    let site = Site::at(site.folder().to_owned());
    site.append("orders", &orders(400, 500));
    site.run();
    assert_eq!(version(&site, "returns@v1").metadata.revision, 500);
    prove(&site);
}
