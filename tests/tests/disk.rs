//! A disk under the checkpoints that fails in any call: the run goes on and answers, nothing bad is ever used, and checkpoints
//! come again once it is well.
//!
//! `MILLSTREAM_DISK=all` lets each call fail in every way, not one in some in one.

use std::sync::{Arc, Mutex};

use millstream_connectors::store::Folder;
use millstream_connectors::store::simulated::{Failure, Injected, Operation, SimulatedDisk};
use millstream_engine::checkpoint::{self, Store};
use millstream_pipelines::run::{Checkpointing, Options, Summary};
use millstream_tests::small;
use millstream_tests::{Site, one_answer_each};

const SEED: u64 = 5;
/// Seconds of input in each run.
const SECONDS: u64 = 12;

/// Without `all`, so many calls are from one that fails to the next.
const STEP: u64 = 5;

const WAYS: [Injected; 4] = [
    Injected::Fail(Failure::Full),
    Injected::Fail(Failure::Broken),
    Injected::FailAfter(Failure::Broken),
    Injected::Short(100),
];

/// A run with what comes next, as part of the same stream.
struct Stream {
    site: Site,
    parts: u64,
}

impl Stream {
    fn new() -> Self {
        Self { site: Site::new(&small::definition("embedded", ""), &[]), parts: 0 }
    }

    fn append(&mut self) {
        let from = self.parts * 40;
        let input = small::input(SEED, from, SECONDS);
        self.site.append("weather", &input.weather);
        self.site.append("readings", &input.readings);
        self.site.append("questions", &small::questions(SEED ^ from, from + SECONDS, 2));
        self.parts += 1;
    }

    fn options(&self, checkpoints: Checkpointing) -> Options {
        Options { workers: Some(1), checkpoints, ..self.site.options() }
    }
}

fn digests(summary: &Summary) -> Vec<String> {
    summary.models.values().map(|model| format!("{} {}", model.revision, model.digest)).collect()
}

#[test]
fn a_failing_disk_costs_checkpoints_and_nothing_else() {
    let all = std::env::var("MILLSTREAM_DISK").is_ok_and(|which| which == "all");
    let disk = SimulatedDisk::new();
    let store: Arc<dyn Store> = Arc::new(Folder::on(disk.clone(), "/checkpoints"));
    let mut stream = Stream::new();
    let (mut went_on, mut halted, mut kept, mut at, mut way) = (0, 0, 0, 0, 0);
    loop {
        stream.append();
        let (nth, injected) = (disk.operations() + at, WAYS[way % WAYS.len()]);
        let struck = Arc::new(Mutex::new(None));
        let strikes = struck.clone();
        disk.inject(move |call| {
            let is_it = call.at == nth;
            if is_it {
                *strikes.lock().expect("nothing panics") = Some(call.operation);
            }
            match injected {
                // Only of a write can less arrive.
                Injected::Short(_) if is_it && call.operation != Operation::Write => Injected::Fail(Failure::Full),
                _ if is_it => injected,
                _ => Injected::Nothing,
            }
        });
        let outcome = stream.site.try_run(&stream.options(Checkpointing::At(store.clone())));
        disk.heal();
        let struck = *struck.lock().expect("nothing panics");
        let case = format!("call {at} ({struck:?}) becomes {injected:?}");
        match outcome {
            Ok(_) => went_on += 1,
            // What cannot be read at the start may be there the next time.
            Err(fault) => {
                let reads = matches!(struck, Some(Operation::List | Operation::Read));
                assert!(reads && fault.to_string().contains("/checkpoints"), "{case}: {fault}");
                halted += 1;
            }
        }
        let listed = checkpoint::list(&*store).expect("it is well again");
        for listed in &listed {
            let manifest = listed.manifest.as_ref().unwrap_or_else(|fault| panic!("{case}: {fault}"));
            checkpoint::open(&store, manifest.clone()).unwrap_or_else(|fault| panic!("{case}: {fault}"));
        }
        kept += usize::from(listed.first().is_some_and(|newest| newest.epoch == stream.site.progress().len() as u64));
        if struck.is_none() {
            break;
        }
        way += 1;
        at += if all { u64::from(way.is_multiple_of(WAYS.len())) } else { STEP };
    }
    assert!(went_on > 25 && halted > 0, "{at} calls, {went_on} runs went on, {halted} did not start");

    // The disk is well: a checkpoint comes, and the next start uses it.
    stream.append();
    let last = stream.site.run_with(&stream.options(Checkpointing::At(store.clone())));
    let epochs = stream.site.progress().len() as u64;
    let newest = checkpoint::list(&*store).expect("it can be listed").remove(0);
    assert_eq!(newest.epoch, epochs);
    let again = stream.site.run_with(&stream.options(Checkpointing::At(store)));
    assert_eq!((again.epochs, again.epochs_replayed, digests(&again)), (0, 0, digests(&last)));
    one_answer_each(&stream.site.records("questions"), &stream.site.answers());
    println!("of {at} calls, {went_on} runs went on, {kept} of them with a checkpoint, {halted} did not start");

    // And what was learned is what the log says.
    let anew = stream.site.run_with(&stream.options(Checkpointing::Off));
    assert_eq!((anew.epochs, anew.epochs_replayed, digests(&anew)), (0, epochs, digests(&last)));
}
