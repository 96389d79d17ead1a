//! What runs leave behind passes the audit, and damage to it does not.

use std::sync::Arc;

use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::broker::{Broker, Message};
use millstream_pipelines::audit::{Report, audit, log_is_whole};
use millstream_pipelines::run::assemble;
use millstream_pipelines::stored::stored;
use millstream_tests::{Record, Site, append, message, records, small};

const SEED: u64 = 20_260_303;

/// A site that has learned and answered in two runs.
fn site() -> Site {
    let site = Site::new(&small::definition("embedded", ""), &[]);
    for (start, seconds) in [(0, 80), (80, 40)] {
        let input = small::input(SEED, start, seconds);
        site.append("weather", &input.weather);
        site.append("readings", &input.readings);
        site.append("questions", &small::questions(SEED + start, start + 10, 20));
        site.run();
    }
    site
}

fn audited(site: &Site, broker: Arc<dyn Broker>) -> Report {
    audit(&site.pipeline, &assemble::world(&site.pipeline, broker)).expect("it can be audited")
}

#[test]
fn what_runs_leave_is_sound() {
    let site = site();
    let report = audited(&site, site.broker());
    assert!(report.sound, "{}", report.text());
    assert_eq!(report.answers.checked, 40);
    assert_eq!(report.digests.checked, report.progress.checked);
    let all = ["weather", "readings", "questions"].map(|topic| site.records(topic).len() as u64);
    assert_eq!(report.records.checked, all.iter().sum::<u64>());
    assert_eq!(log_is_whole(&site.pipeline, &*site.broker()).expect("it can be looked at"), Some(true));
    let found = stored(&site.pipeline, &site.state(), &*site.broker()).expect("it can be looked at");
    assert_eq!((found.journal.starts, found.journal.last_epoch), (2, Some(report.progress.checked - 1)));
    // Each run ends with a checkpoint of all that it has committed.
    let newest = found.checkpoints.first().expect("there is one");
    assert!(newest.damage.is_none() && newest.bytes > 0, "{newest:?}");
    assert_eq!((newest.epoch, newest.sections["hot"].pieces), (report.progress.checked, 1));
    let part = std::fs::read_dir(site.state().join("checkpoints/parts")).expect("it can be listed").next();
    std::fs::write(part.expect("there is one").expect("it can be listed").path(), "torn").expect("it can be written");
    let found = stored(&site.pipeline, &site.state(), &*site.broker()).expect("it can be looked at");
    assert!(found.checkpoints.iter().any(|kept| kept.damage.is_some()), "{}", found.text());
    assert!(!found.locked && found.versions["hot"].count > 0 && found.journal.damaged == 0);
}

/// A copy of all topics, in which `change` has changed one.
fn damaged(site: &Site, topic: &str, change: impl FnOnce(&mut Vec<Message>)) -> Report {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let broker = Embedded::open(folder.path()).expect("the folder is new");
    assemble::create_topics(&site.pipeline, &broker).expect("topics can be created");
    let mut change = Some(change);
    for name in ["weather", "readings", "questions", "answers", "small.progress"] {
        let copy = |record: Record| Message {
            key: record.key.map(String::into_bytes),
            value: Some(record.value),
            partition: Some(record.partition),
            ..message(None, "")
        };
        let mut messages: Vec<Message> = records(&*site.broker(), name).into_iter().map(copy).collect();
        if name == topic
            && let Some(change) = change.take()
        {
            change(&mut messages);
        }
        append(&broker, name, &messages);
    }
    audited(site, Arc::new(broker))
}

#[test]
fn damage_is_found_and_named() {
    let site = site();
    let found = |report: &Report, what: &str, place: &str| {
        let wrong: Vec<_> = report.wrong().collect();
        assert_eq!((report.sound, wrong.len()), (false, 1), "{}", report.text());
        assert!(wrong[0].message.contains(what) && wrong[0].place.starts_with(place), "{wrong:?}");
    };
    found(&damaged(&site, "answers", |all| drop(all.remove(3))), "has no answer in answers/0", "questions/0 offset ");
    found(&damaged(&site, "answers", |all| all.insert(3, all[3].clone())), "answered again", "answers/0 offset 4");
    let altered = damaged(&site, "answers", |all| {
        let value = all[3].value.as_mut().expect("it has one");
        value.push(b' ');
    });
    found(&altered, "was altered", "small.progress/0 offset ");
    let altered = damaged(&site, "readings", |all| all[5].value.as_mut().expect("it has one").push(b' '));
    found(&altered, "the records are not those", "readings/0 offsets ");
    found(
        &damaged(&site, "small.progress", |all| drop(all.remove(2))),
        " is missing before epoch ",
        "small.progress/0 ",
    );
}
