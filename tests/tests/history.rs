//! What was learned can be rebuilt, undone, and learned anew with another definition.

use std::collections::BTreeMap;
use std::path::PathBuf;

use millstream_connectors::broker::Message;
use millstream_engine::Blame;
use millstream_pipelines::audit::audit;
use millstream_pipelines::run::replay::{Replayed, Wanted, replay};
use millstream_pipelines::run::rollback::{Poison, rollback};
use millstream_pipelines::run::{Checkpointing, Options, Summary, assemble};
use millstream_tests::{Site, message, one_answer_each, small};
use serde_json::Value;

const SEED: u64 = 20_260_404;

fn small_epochs(site: &Site) -> Options {
    Options { max_records: Some(20), ..site.options() }
}

/// A site that has learned and answered, in one run: at its end, nobody is waited for any more, so that what comes after
/// depends on where that was.
fn site() -> Site {
    let mut site = fed(&small::definition("embedded", ""));
    site.pipeline.checkpoints.every_bytes = 5000;
    site.run_with(&small_epochs(&site));
    site
}

fn fed(definition: &str) -> Site {
    let site = Site::new(definition, &[]);
    for start in [0, 100, 200] {
        add(&site, start);
    }
    site
}

fn add(site: &Site, start: u64) {
    let input = small::input(SEED, start, 100);
    site.append("weather", &input.weather);
    site.append("readings", &input.readings);
    site.append("questions", &small::questions(SEED + start, start + 10, 20));
}

/// What each model had learned after each epoch.
fn marks(site: &Site) -> Vec<BTreeMap<String, (u64, String)>> {
    let marks = |progress: &Value| {
        let revisions = progress["revisions"].as_object().expect("an object");
        let mark = |mark: &Value| {
            (mark["revision"].as_u64().expect("a number"), mark["digest"].as_str().expect("text").to_owned())
        };
        revisions.iter().map(|(model, found)| (model.clone(), mark(found))).collect()
    };
    site.progress().iter().map(marks).collect()
}

fn digests(summary: &Summary) -> BTreeMap<&str, (u64, &str)> {
    summary.models.iter().map(|(name, model)| (name.as_str(), (model.revision, model.digest.as_str()))).collect()
}

fn assert_sound(site: &Site) {
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert!(report.sound, "{}", report.text());
    one_answer_each(&site.records("questions"), &site.answers());
}

#[test]
fn any_revision_can_be_rebuilt() {
    let site = site();
    let marks = marks(&site);
    let before = (site.progress(), site.answers());
    let rebuild = |wanted: &Wanted, workers: usize| -> Replayed {
        let options = Options { workers: Some(workers), ..Options::new(site.state()) };
        replay(&site.pipeline, &options, wanted).expect("it is as it was recorded")
    };
    let ends: Vec<usize> = (0..marks.len()).filter(|&epoch| !marks[epoch].is_empty()).step_by(5).collect();
    assert!(ends.len() > 3, "{ends:?}");
    for (at, epoch) in ends.into_iter().enumerate() {
        let (revision, digest) = &marks[epoch]["hot"];
        let wanted = Wanted { revision: Some(*revision), model: Some("hot".to_owned()), ..Wanted::default() };
        let from_start = Wanted { from_start: true, ..wanted.clone() };
        for (wanted, workers) in [(wanted, 1 + at % 4), (from_start, 1 + (at + 1) % 4)] {
            let reached = rebuild(&wanted, workers);
            assert_eq!((&reached.digest, reached.revision), (digest, *revision));
            assert!(!wanted.from_start || (reached.checkpoint.is_none() && reached.epochs == reached.epoch + 1));
        }
    }
    // The newest comes from a checkpoint, and can be saved.
    let folder: PathBuf = site.folder().join("saved");
    let wanted = Wanted { model: Some("next_count".to_owned()), save: Some(folder), ..Wanted::default() };
    let newest = rebuild(&wanted, 2);
    assert_eq!(newest.digest, marks.last().expect("epochs")["next_count"].1);
    assert!(newest.checkpoint.is_some() && !newest.files.is_empty() && newest.files.iter().all(|file| file.exists()));
    assert_eq!((site.progress(), site.answers()), before, "nothing was written");

    let unknown = Wanted { revision: Some(1_000_000), ..Wanted::default() };
    let fault = replay(&site.pipeline, &Options::new(site.state()), &unknown).expect_err("it never was");
    assert_eq!(fault.blame, Blame::Definition);
    assert!(fault.message.starts_with("no epoch ended with revision 1000000; the nearest are "), "{fault}");
}

/// The first version of `hot`, and the offsets that it had read of each partition of the readings.
fn first_version(site: &Site) -> (String, [u64; 2]) {
    let registry = millstream_operators::registry::Registry::open(&site.state().join("models")).expect("it is there");
    let listed = registry.list().expect("it can be read");
    let version = listed.iter().find(|listed| listed.model == "hot").expect("one was promoted");
    let frontier = &version.version.as_ref().expect("it is sound").metadata.frontier;
    let read = |partition: u32| frontier.offsets.get(&format!("readings/{partition}")).copied().unwrap_or(0);
    (version.id.clone(), [read(0), read(1)])
}

#[test]
fn a_rollback_undoes_what_was_learned_and_leaves_out_what_is_skipped() {
    let site = site();
    let last = site.run();
    let answers = site.answers();
    let (version, read) = first_version(&site);

    // Back, and forth again: the same records teach the same.
    let done = rollback(&site.pipeline, &site.options(), &version, &[]).expect("it is a version");
    assert!(done.undone > 5 && done.version == format!("hot/{version}"), "{done:?}");
    let again = site.run_with(&small_epochs(&site));
    assert_eq!(digests(&again), digests(&last));
    assert_eq!(site.answers(), answers, "what was answered stays answered");
    assert_sound(&site);

    // Some readings are poison: the models become what they are where those never were.
    let poison = Poison { topic: "readings".to_owned(), partition: 1, from: read[1] + 3, to: read[1] + 9 };
    rollback(&site.pipeline, &site.options(), &version, std::slice::from_ref(&poison)).expect("it is a version");
    let without = site.run_with(&small_epochs(&site));
    assert_ne!(digests(&without), digests(&last));
    let clean = Site::new(&small::definition("embedded", ""), &[]);
    let copy = |topic: &str| -> Vec<Message> {
        let records = site.records(topic).into_iter();
        let is_poison = |partition, offset| {
            topic == "readings" && partition == poison.partition && (poison.from..poison.to).contains(&offset)
        };
        let kept = records.filter(|record| !is_poison(record.partition, record.offset));
        let copied = kept.map(|record| Message {
            key: record.key.map(String::into_bytes),
            value: Some(record.value),
            partition: Some(record.partition),
            ..message(None, "")
        });
        copied.collect()
    };
    for topic in ["weather", "readings"] {
        clean.append(topic, &copy(topic));
    }
    assert_eq!(digests(&clean.run()), digests(&without));
    assert_sound(&site);

    // It goes on, from checkpoints and from the log alone.
    add(&site, 300);
    let gone_on = site.run_with(&small_epochs(&site));
    let from_log = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    assert_eq!(digests(&from_log), digests(&gone_on));
    assert_eq!(from_log.epochs, 0);
    assert_sound(&site);
}

#[test]
fn a_rollback_that_cannot_be_is_refused() {
    let site = site();
    let (version, read) = first_version(&site);
    let refused = |version: &str, poison: &str| {
        let poison: Poison = poison.parse().expect("a range");
        rollback(&site.pipeline, &site.options(), version, &[poison]).expect_err("it cannot be").message
    };
    let learned = refused(&version, "readings/0:0-5");
    assert!(learned.contains(&format!("had read readings/0 up to offset {} already", read[0])), "{learned}");
    assert!(refused(&version, "elsewhere/0:0-5").contains("no source reads topic elsewhere"));
    assert!(refused("nothing", "readings/0:0-5").contains("is not the start of exactly one version"));
    let before = site.answers();
    assert_eq!((site.run().epochs, site.answers()), (0, before), "nothing has happened");
}

#[test]
fn another_definition_learns_from_the_whole_log() {
    let mut site = site();
    let definition = small::definition("embedded", "");
    // One model is another; the steps and the other model stay what they are.
    let changed = definition.replace("{logistic_regression: {update: ftrl}}", "{logistic_regression: {update: sgd}}");
    let last = site.run();
    site.redefine(&changed);
    let rebuilt = site.run();
    assert_eq!(digests(&rebuilt), digests(&fed(&changed).run()));
    assert_eq!(digests(&rebuilt)["next_count"], digests(&last)["next_count"]);
    assert_ne!(digests(&rebuilt)["hot"], digests(&last)["hot"]);
    assert_sound(&site);
    // It goes on with the new one.
    add(&site, 300);
    let gone_on = site.run();
    let from_log = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    assert_eq!(digests(&from_log), digests(&gone_on));
    // A sink more keeps everything.
    site.redefine(&(changed + "  more: {from: outside, to: {topic: {name: more}}}\n"));
    assert_eq!(site.run().epochs_replayed, 0);
}
