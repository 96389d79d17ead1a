//! Whatever ends a run, and however often, the next one goes on with the same models, and no answer is lost or given twice.
//!
//! Without variables, each failpoint comes once. All that was promised is shown by
//! ```sh
//! MILLSTREAM_CYCLES=1000 MILLSTREAM_ZOMBIES=100 MILLSTREAM_KAFKA_CYCLES=200 .ci/with-kafka \
//!     cargo test -p millstream-tests crash:: -- --nocapture
//! ```
//! `MILLSTREAM_SEED` replays one that failed.

use millstream_tests::crash::{self, Field, Kill, number};
use millstream_tests::s3::with_bucket;
use millstream_tests::unique;

const SEED: u64 = 20_260_101;

/// Not a test of its own: what the child processes of the others run.
#[test]
fn child() {
    crash::child();
}

fn field(broker: &str, prefix: fn() -> String, feeds: bool) -> Field {
    Field::new(broker, prefix, feeds, number("MILLSTREAM_SEED", SEED))
}

#[test]
fn killed_anywhere_it_goes_on_as_if_nothing_had_happened() {
    let kills = Kill::all();
    let report = field("embedded", String::new, true).kill(&kills, number("MILLSTREAM_CYCLES", kills.len() as u64));
    println!("embedded: {report}");
}

#[test]
fn a_run_that_was_replaced_while_it_slept_adds_nothing() {
    let zombies = field("embedded", String::new, true).wake_the_dead(number("MILLSTREAM_ZOMBIES", 2));
    println!("embedded: {zombies} zombies");
}

#[test]
fn killed_anywhere_a_registry_that_is_shared_is_whole() {
    with_bucket("crash::killed_anywhere_a_registry_that_is_shared_is_whole", || {
        if std::env::var_os("MILLSTREAM_POSTGRES").is_none() {
            println!("skipped: MILLSTREAM_POSTGRES names no server");
            return;
        }
        let place = || {
            let url = std::env::var("MILLSTREAM_POSTGRES").expect("it is there");
            let name = unique();
            let database = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}database"));
            std::fs::write(&database, format!("{url}&options=-csearch_path%3D{name}")).expect("written");
            let database = database.display();
            format!("registry: {{artefacts: \"s3://bucket/{name}\", database: \"${{file:{database}}}\"}}")
        };
        let kills = Kill::of_versions();
        let cycles = number("MILLSTREAM_CYCLES", kills.len() as u64);
        let report = field("embedded", String::new, true).with_registry(place).kill(&kills, cycles);
        println!("a bucket and a server: {report}");
    });
}

#[test]
fn killed_anywhere_a_run_of_several_processes_goes_on_too() {
    let kills = Kill::of_processes();
    let cycles = number("MILLSTREAM_CYCLES", kills.len() as u64);
    let report = field("embedded", String::new, true).with_members(2).kill(&kills, cycles);
    println!("three processes: {report}");
}

#[test]
fn on_kafka_it_is_the_same() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    let broker = format!("{{kafka: {{bootstrap.servers: \"{servers}\"}}}}");
    let mut kills = Kill::all();
    // It tells whoever reads from behind a transaction that was aborted that all that its producer wrote after it was
    // aborted, too. Kafka tells that only of what is read; so runs that left transactions open cannot be followed there.
    let is_flawed = std::env::var("KAFKA_SERVER").is_ok_and(|server| server == "noida-db");
    if is_flawed {
        kills.retain(|kill| !kill.leaves_a_transaction());
        println!("noida-db: only kills with no transaction open, and no zombies");
    }
    let mut field = field(&broker, unique, !is_flawed);
    // A start takes seconds there.
    let report = field.kill(&kills, number("MILLSTREAM_KAFKA_CYCLES", 4));
    println!("Kafka: {report}");
    if !is_flawed {
        println!("Kafka: {} zombies", field.wake_the_dead(number("MILLSTREAM_ZOMBIES", 1)));
    }
}
