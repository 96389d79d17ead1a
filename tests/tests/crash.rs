//! Whatever ends a run, and however often, the next one goes on with the same models, and no answer is lost or given twice.
//!
//! `MILLSTREAM_CYCLES=1000 MILLSTREAM_ZOMBIES=100 MILLSTREAM_KAFKA_CYCLES=200 .ci/with-kafka cargo test -p millstream-tests
//! --test crash -- --nocapture` is the full proof; without the variables it is what fits in some seconds.

use millstream_tests::crash::{self, Field, Kill, number};
use millstream_tests::unique;

const SEED: u64 = 20_260_101;

/// Not a test of its own: what the child processes of the others run.
#[test]
fn child() {
    crash::child();
}

/// The pipeline takes nothing in but from topics.
fn is_passed(name: &str) -> bool {
    name != "intake.append"
}

fn embedded() -> Field {
    Field::new("embedded", String::new, number("MILLSTREAM_SEED", SEED))
}

#[test]
fn killed_anywhere_it_goes_on_as_if_nothing_had_happened() {
    let kills = Kill::all(is_passed);
    let report = embedded().kill(&kills, number("MILLSTREAM_CYCLES", kills.len() as u64));
    println!("embedded: {report}");
}

#[test]
fn a_run_that_was_replaced_while_it_slept_adds_nothing() {
    let zombies = embedded().wake_the_dead(number("MILLSTREAM_ZOMBIES", 2));
    println!("embedded: {zombies} zombies");
}

#[test]
fn on_kafka_it_is_the_same() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    let broker = format!("{{kafka: {{bootstrap.servers: \"{servers}\"}}}}");
    let mut field = Field::new(&broker, unique, number("MILLSTREAM_SEED", SEED));
    let kills = Kill::all(|name| name.starts_with("transaction.") || name == "progress.send" || name == "feed.append");
    let report = field.kill(&kills, number("MILLSTREAM_KAFKA_CYCLES", kills.len() as u64));
    println!("Kafka: {report}");
    let zombies = field.wake_the_dead(number("MILLSTREAM_ZOMBIES", 1));
    println!("Kafka: {zombies} zombies");
}
