//! A run that was killed anywhere goes on from any checkpoint as if nothing had been; and no store breaks that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_engine::checkpoint::{Checkpoint, Manifest, Store, list, open};
use millstream_engine::graph::{EventTime, Graph};
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::{DeadLetter, Outcome, Published, Reply};
use millstream_engine::run::Skip;
use millstream_engine::{Blame, Fault};

use crate::pieces::store::{Failure, MemoryStore, checkpoints, usable};
use crate::pieces::{
    BeforeCommit, Case, Members, Memory, Ran, Random, Record, Run, Shape, limits, outputs, progress, record, request,
};

fn workers(random: &mut Random) -> usize {
    random.one(&[1, 2, 4])
}

const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "poison"];

/// Records with disorder and a few late ones. Joined rows never have the same time as what they are joined with: which comes
/// first would depend on the cut.
fn partition(random: &mut Random, records: u64, disorder_ms: u64, odd: u64) -> Vec<Record> {
    let one = |at: u64, random: &mut Random| {
        let time = 2 * (at * 10 + random.below(disorder_ms + 1)) + odd;
        record(time as i64, random.one(&KEYS), random.below(1000) as i64)
    };
    (0..records).map(|at| one(at, random)).collect()
}

fn case(random: &mut Random) -> Case {
    let disorder_ms = random.one(&[0, 5, 40, 200]);
    let memory = |random: &mut Random, partitions: u64, records: u64, disorder_ms: u64, odd: u64| {
        let some = |random: &mut Random| {
            let records = random.below(records);
            partition(random, records, disorder_ms, odd)
        };
        Memory::new((0..=random.below(partitions)).map(|_| some(random)).collect())
    };
    Case {
        left: memory(random, 3, 150, disorder_ms, 0),
        right: memory(random, 2, 60, 0, 1),
        asks: memory(random, 2, 30, 0, 0),
        lateness_ms: random.one(&[0, 10, 250]),
    }
}

/// Whether the left source's time is its records' arrival.
fn shape(arrival: bool) -> Shape {
    Arc::new(move |graph| {
        if arrival {
            graph.sources[0].time = EventTime::Arrival;
        }
    })
}

/// Fails once so many epochs are committed.
fn killed_after(epochs: u64) -> BeforeCommit {
    Box::new(move |group| {
        let is_past = group.iter().any(|epoch| epoch.progress.binding.epoch >= epochs);
        if is_past { Err(Fault::world("killed")) } else { Ok(()) }
    })
}

fn letters(runs: &[&[Published]]) -> Vec<DeadLetter> {
    let mut letters: Vec<DeadLetter> =
        runs.iter().flat_map(|run| run.iter()).flat_map(|epoch| epoch.dead_letters.clone()).collect();
    letters.sort_by_key(|letter| letter.origin);
    letters
}

/// Each request once.
fn answered(runs: &[&[Published]]) -> Vec<(u32, u64)> {
    let replies = runs.iter().flat_map(|run| run.iter()).flat_map(|epoch| &epoch.replies);
    let mut origins: Vec<_> =
        replies.map(|reply| (reply.request.origin.partition, reply.request.origin.offset)).collect();
    origins.sort_unstable();
    origins
}

fn all_asked(case: &Case) -> Vec<(u32, u64)> {
    let partitions = (0..).zip(case.asks.partitions.iter());
    partitions.flat_map(|(partition, asks)| (0..asks.len() as u64).map(move |offset| (partition, offset))).collect()
}

#[test]
fn a_killed_run_goes_on_from_any_checkpoint() {
    let mut restored = 0;
    for seed in 0..24 {
        let mut random = Random(seed);
        let case = case(&mut random);
        let arrival = random.below(3) == 0;
        let run = |random: &mut Random| Run {
            workers: workers(random),
            members: random.one(&[None, None, Some(1), Some(2)]).map(Members::new),
            limits: limits(random.one(&[1, 3, 17, 100])),
            shape: shape(arrival),
            ..Run::new(case.clone())
        };
        let whole = run(&mut random).go().published;
        let store = Arc::new(MemoryStore::default());
        let killed = Run {
            checkpoints: Some(checkpoints(&store, random.one(&[1, 100, 1000]), 1000)),
            before_commit: killed_after(1 + random.below(60)),
            ..run(&mut random)
        };
        let killed = killed.until_its_end().published;
        let recorded = progress(&killed);
        let mut kept = usable(&store);
        while kept.len() > 6 {
            kept.swap_remove(random.below(kept.len() as u64) as usize);
        }
        for checkpoint in kept {
            let at = checkpoint.epoch() as usize;
            let what = format!("seed {seed}, from epoch {at} of {}", killed.len());
            assert!(at <= killed.len(), "{what}: a checkpoint is never ahead");
            restored += 1;

            // As after a crash: what was committed is replayed and compared, then it goes on.
            let from = Some(checkpoint.clone());
            let rest = Run { from, committed: recorded[at..].to_vec(), ..run(&mut random) };
            let rest = rest.try_go().unwrap_or_else(|fault| panic!("{what}: {fault}")).published;
            assert_eq!(outputs(&killed) + &outputs(&rest), outputs(&whole), "{what}");
            assert_eq!(letters(&[&killed, &rest]), letters(&[&whole]), "{what}");
            assert_eq!(answered(&[&killed, &rest]), all_asked(&case), "{what}");
            let last = |run: &[Published]| run.last().map(|epoch| epoch.progress.revisions.clone());
            assert_eq!(last(&rest).or_else(|| last(&killed)), last(&whole), "{what}");

            // Another future, cut in other ways, gives the same rows.
            let other = Run { from: Some(checkpoint), ..run(&mut random) }.go().published;
            assert_eq!(outputs(&killed[..at]) + &outputs(&other), outputs(&whole), "{what}");
            assert_eq!(letters(&[&killed[..at], &other]), letters(&[&whole]), "{what}");
            assert_eq!(answered(&[&killed[..at], &other]), all_asked(&case), "{what}");

            // An uninterrupted run of the very same epochs reaches every digest on the way.
            let all = [recorded.clone(), progress(&rest)].concat();
            let again = Run { committed: all, live: false, ..run(&mut random) }.try_go();
            assert!(again.unwrap_or_else(|fault| panic!("{what}: {fault}")).published.is_empty(), "{what}");
        }
    }
    assert!(restored > 50, "{restored} restarts say little");
}

/// What a reply says.
fn shown(reply: &Reply) -> String {
    match &reply.outcome {
        Outcome::Answered { given, row, staleness_ms, .. } => {
            format!("{:?} {:?} {staleness_ms:?}", given.columns.slice(*row, 1), given.revision)
        }
        Outcome::Refused { step, reason } => format!("{step}: {reason}"),
    }
}

#[test]
fn a_restored_model_answers_as_the_one_before() {
    let learned: Vec<_> = (0..200).map(|at| record(at * 10, KEYS[at as usize % 9], at)).collect();
    let right = (0..40).map(|at| record(at * 25, "a", at)).collect();
    let case = Case {
        left: Memory::new(vec![learned]),
        right: Memory::new(vec![right]),
        asks: Memory::new(vec![vec![]]),
        lateness_ms: 0,
    };
    let asks = Memory::new(vec![vec![request(1500, "a", 1), request(9000, "b", 1), request(9001, "poison", 1)]]);
    let asking = Case { asks, ..case.clone() };
    for workers in [1, 2, 4] {
        let store = Arc::new(MemoryStore::default());
        // The last checkpoint comes with the clean end, however far the next one would be.
        let run = Run { checkpoints: Some(checkpoints(&store, u64::MAX, 3)), workers, ..Run::new(case.clone()) }.go();
        let [checkpoint] = &usable(&store)[..] else { panic!("one checkpoint") };
        assert_eq!(checkpoint.epoch(), run.published.len() as u64);
        let replies =
            |ran: &Ran| ran.published.iter().flat_map(|epoch| epoch.replies.iter().map(shown)).collect::<Vec<_>>();
        let replayed = Run { committed: run.progress(), ..Run::new(asking.clone()) }.go();
        for workers in [1, 2, 4] {
            let restored = Run { from: Some(checkpoint.clone()), workers, ..Run::new(asking.clone()) }.go();
            assert_eq!(replies(&restored), replies(&replayed));
            assert_eq!(replies(&restored).len(), 3);
            assert!(replies(&restored)[0].contains("revision: 178"), "{:?}", replies(&restored));
        }
    }
}

/// A checkpoint's content, without where it is.
fn content(checkpoint: &Checkpoint) -> BTreeMap<String, BTreeMap<u32, Vec<u8>>> {
    let pieces = |section: &str| {
        let mut pieces = BTreeMap::new();
        let take = |key, piece: &[u8]| {
            assert!(pieces.insert(key, piece.to_vec()).is_none(), "each piece once");
            Ok(())
        };
        checkpoint.each(section, |_| true, take).expect("whole objects");
        pieces
    };
    checkpoint.stored().map(|stored| (stored.section.clone(), pieces(&stored.section))).collect()
}

#[test]
fn a_checkpoint_does_not_depend_on_workers() {
    for seed in 100..112 {
        let mut random = Random(seed);
        let case = case(&mut random);
        let run = || Run { limits: limits(13), ..Run::new(case.clone()) };
        let whole = run().go().progress();
        // In the middle, where rows are held.
        let some = whole[..=random.below(whole.len() as u64) as usize].to_vec();
        let last = |workers| {
            let store = Arc::new(MemoryStore::default());
            let checkpoints = Some(checkpoints(&store, u64::MAX, 3));
            Run { workers, committed: some.clone(), live: false, checkpoints, ..run() }.go();
            let [checkpoint] = &usable(&store)[..] else { panic!("one checkpoint") };
            checkpoint.clone()
        };
        let one = last(1);
        assert_eq!(one.epoch(), some.len() as u64, "seed {seed}");
        let sections: Vec<String> = one.stored().map(|stored| stored.section).collect();
        assert_eq!(sections, ["held/left", "held/right", "join", "order/*", "order/left", "order/right", "sum"]);
        for workers in [2, 4] {
            let other = last(workers);
            assert_eq!(content(&other), content(&one), "seed {seed}, {workers} workers");
            let outside = |checkpoint: &Checkpoint| {
                let mut manifest = checkpoint.manifest().clone();
                manifest.sections.clear();
                manifest
            };
            assert_eq!(outside(&other), outside(&one), "seed {seed}, {workers} workers");
        }
        assert_eq!(one.manifest().note, serde_json::json!({"before": some.len()}));
        assert_eq!(one.manifest().revisions, some.last().expect("epochs").revisions, "seed {seed}");
    }
}

fn some_run() -> Run {
    Run { limits: limits(7), ..Run::new(case(&mut Random(7))) }
}

/// What some checkpoints leave in a store: one of each of some runs that go on from each other.
fn some_checkpoints(keep: usize, count: usize) -> Arc<MemoryStore> {
    let whole = some_run().go().progress();
    let store = Arc::new(MemoryStore::default());
    for part in 0..count {
        let from = usable(&store).into_iter().next();
        let start = from.as_ref().map_or(0, |from| from.epoch() as usize);
        let committed = whole[start..(part + 1) * whole.len() / count].to_vec();
        let checkpoints = Some(checkpoints(&store, u64::MAX, keep));
        Run { from, committed, live: false, checkpoints, ..some_run() }.go();
    }
    store
}

#[test]
fn any_damage_is_found() {
    let store = some_checkpoints(3, 3);
    let shared: Arc<dyn Store> = store.clone();
    let whole = store.objects();
    let newest = usable(&store)[0].manifest().clone();
    let manifest = whole[&newest.name()].clone();
    let bits = |content: &[u8]| content.len() * 8;
    let flipped = |content: &[u8], bit: usize| {
        let mut content = content.to_vec();
        content[bit / 8] ^= 1 << (bit % 8);
        content
    };
    assert_eq!(Manifest::decode(&manifest).expect("it is whole"), newest);
    for length in 0..manifest.len() {
        assert!(Manifest::decode(&manifest[..length]).is_err(), "cut at {length}");
    }
    for bit in 0..bits(&manifest) {
        assert!(Manifest::decode(&flipped(&manifest, bit)).is_err(), "bit {bit}");
    }
    let manifest_damages = manifest.len() + bits(&manifest);
    assert!(Manifest::decode(&[manifest.clone(), b"\n".to_vec()].concat()).is_err());

    // One that is damaged, or under another's name, is listed as such; those before it can be used.
    let other = format!("manifests/{:020}", newest.epoch + 1);
    for (name, content) in [(newest.name(), flipped(&manifest, 999)), (other, manifest)] {
        store.state().objects = whole.clone();
        store.state().objects.insert(name.clone(), content);
        let listed = list(&*store).expect("the store works");
        let bad: Vec<_> = listed.iter().filter(|listed| listed.manifest.is_err()).map(|listed| &listed.name).collect();
        assert_eq!(bad, [&name]);
        assert_eq!(listed[0].name, name, "newest first");
        assert!(listed[1].manifest.as_ref().is_ok_and(|manifest| open(&shared, manifest.clone()).is_ok()));
    }

    let names: BTreeSet<&str> = newest.objects().map(|object| object.name.as_str()).collect();
    let damages = |content: &[u8]| -> Vec<Vec<u8>> {
        let cuts = (0..content.len()).map(|length| content[..length].to_vec());
        cuts.chain((0..bits(content)).map(|bit| flipped(content, bit))).collect()
    };
    let mut found = manifest_damages;
    for name in names {
        for damaged in damages(&whole[name]) {
            store.state().objects = whole.clone();
            store.state().objects.insert(name.to_owned(), damaged);
            let fault = open(&shared, newest.clone()).err().expect("damage is found");
            assert!(fault.message.contains(name), "{fault}");
            found += 1;
        }
        store.state().objects.remove(name);
        assert!(open(&shared, newest.clone()).err().expect("it is missing").message.contains("missing"));
    }
    assert!(found > 10_000, "{found}");
}

#[test]
fn as_many_are_kept_as_asked_for_and_nothing_else() {
    for (keep, count) in [(1, 3), (3, 2), (3, 6)] {
        let store = some_checkpoints(keep, count);
        let kept = usable(&store);
        assert_eq!(kept.len(), keep.min(count));
        assert_only_these(&store, &kept);
    }
}

fn assert_only_these(store: &MemoryStore, kept: &[Checkpoint]) {
    let manifests = kept.iter().map(|checkpoint| checkpoint.manifest().name());
    let objects = kept.iter().flat_map(|checkpoint| checkpoint.manifest().objects().map(|object| object.name.clone()));
    let expected: BTreeSet<String> = manifests.chain(objects).collect();
    assert_eq!(store.objects().into_keys().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn an_object_that_is_there_is_not_written_again() {
    let store = some_checkpoints(3, 6);
    let state = store.state();
    let puts = |name: &str| state.calls.iter().filter(|call| **call == format!("put {name}")).count();
    let shared = state.objects.keys().filter(|name| name.starts_with("parts/")).map(|name| (name, puts(name)));
    let again: Vec<_> = shared.filter(|(_, puts)| *puts > 1).collect();
    assert_eq!(again, [], "each object once");
}

#[test]
fn a_store_that_fails_at_any_call_harms_nothing() {
    let expected = some_run().go();
    let objects = some_checkpoints(2, 2).objects();
    // What earlier crashes left, to be deleted last; and a manifest that cannot be used.
    let mut objects: BTreeMap<String, Vec<u8>> = objects
        .into_iter()
        .chain(["parts/yy", "parts/zz"].map(|name| (name.to_owned(), b"left over".to_vec())))
        .collect();
    objects.insert(format!("manifests/{:020}", 1), b"{}".to_vec());
    let is_cleaned = |state: &crate::pieces::store::State| state.calls.iter().any(|call| call == "delete parts/zz");
    // Returns how many calls the first checkpoint and its cleaning took.
    let run = |failure: Option<Failure>, workers: usize| -> usize {
        let store = Arc::new(MemoryStore::new(objects.clone(), failure));
        let gate = store.clone();
        let first = Arc::new(std::sync::Mutex::new(None));
        let seen = first.clone();
        // The run goes on once the first checkpoint is there or has failed, so that others follow for sure.
        let before_commit: BeforeCommit = Box::new(move |group| {
            if group[0].progress.binding.epoch > 0 {
                gate.wait(|state| state.failed > 0 || is_cleaned(state));
                seen.lock().expect("one thread").get_or_insert_with(|| gate.state().calls.len());
            }
            Ok(())
        });
        let metrics = Arc::new(Metrics::default());
        let checkpoints = Some(checkpoints(&store, 1, 2));
        let ran = Run { workers, checkpoints, before_commit, metrics: metrics.clone(), ..some_run() }.go();
        assert_eq!(ran.outputs(), expected.outputs(), "{failure:?}");
        let failed = store.state().failed;
        assert_eq!(metrics.checkpoint_failures_total.get() as usize, failed, "{failure:?}");
        assert_eq!(failed, usize::from(failure.is_some()), "the call was made");
        let kept = usable(&store);
        assert_eq!(kept.len(), 2, "{failure:?}");
        assert_eq!(kept[0].epoch(), ran.published.len() as u64, "the last one is there: {failure:?}");
        assert_eq!(metrics.checkpoint_epoch.get() as u64, kept[0].epoch());
        assert_only_these(&store, &kept);
        first.lock().expect("one thread").expect("several epochs")
    };
    let calls = run(None, 1);
    assert!(calls > 15, "{calls} calls");
    for call in 0..calls {
        run(Some(Failure::Before(call)), 1);
        run(Some(Failure::After(call)), 2);
    }
}

#[test]
fn a_store_that_stays_away_stops_no_run() {
    let expected = some_run().go().outputs();
    for call in [0, 3, 20] {
        let store = Arc::new(MemoryStore::new(BTreeMap::new(), Some(Failure::From(call))));
        let metrics = Arc::new(Metrics::default());
        let run = Run { checkpoints: Some(checkpoints(&store, 1, 3)), metrics: metrics.clone(), ..some_run() }.go();
        assert_eq!(run.outputs(), expected);
        assert!(metrics.checkpoint_failures_total.get() > 0);
        store.state().failure = None;
        usable(&store);
    }
}

#[test]
fn state_that_does_not_fit_is_named() {
    let store = some_checkpoints(1, 1);
    let checkpoint = usable(&store).remove(0);
    let swapped = |graph: &mut Graph| {
        graph.nodes[0].name = "sum".into();
        graph.nodes[1].name = "join".into();
    };
    let run = Run { from: Some(checkpoint.clone()), shape: Arc::new(swapped), ..some_run() };
    let fault = run.try_go().err().expect("another operator's state");
    assert_eq!((fault.blame, fault.retry), (Blame::World, false));
    assert!(fault.message.contains("the state of sum") || fault.message.contains("the state of join"), "{fault}");

    let moved = |graph: &mut Graph| {
        graph.sources[0].name = "right".into();
        graph.sources[1].name = "left".into();
    };
    let run = Run { from: Some(checkpoint), shape: Arc::new(moved), ..some_run() };
    let fault = run.try_go().err().expect("another source");
    assert!(fault.message.contains("source left was number 0, and is number 1"), "{fault}");
}

#[test]
fn an_operator_without_a_section_starts_empty() {
    let records = |from: i64| (from..from + 20).map(|at| record(at * 10, "a", at));
    let of = |records: Vec<Record>| Case {
        left: Memory::new(vec![records]),
        right: Memory::new(vec![vec![]]),
        asks: Memory::new(vec![vec![]]),
        lateness_ms: 0,
    };
    let store = Arc::new(MemoryStore::default());
    Run { checkpoints: Some(checkpoints(&store, u64::MAX, 3)), ..Run::new(of(records(0).collect())) }.go();
    let mut checkpoint = usable(&store).remove(0);
    assert!(
        checkpoint.stored().any(|stored| stored.section == "join" && (stored.pieces, stored.bytes > 0) == (1, true))
    );
    let more = of(records(0).chain(records(20)).collect());
    let numbers = |from: &Checkpoint| {
        let text = Run { from: Some(from.clone()), ..Run::new(more.clone()) }.go().outputs();
        let number = |line: &str| line.split(' ').nth_back(1).expect("two columns at the end").to_owned();
        text.lines().map(number).collect::<Vec<_>>()
    };
    let counted = |from: u64| (from..from + 20).map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(numbers(&checkpoint), counted(20));
    checkpoint.keep(|section| section != "join");
    assert_eq!(numbers(&checkpoint), counted(0));
}

#[test]
fn what_is_skipped_is_never_taken() {
    let records = (0..100).map(|at| record(at * 10, "a", at)).collect();
    let case = Case { left: Memory::new(vec![records]), ..case(&mut Random(3)) };
    let skip = |lo, hi| Skip { source: 0, partition: 0, lo, hi };
    let metrics = Arc::new(Metrics::default());
    let skips = vec![skip(10, 20), skip(15, 30), skip(63, 66), skip(99, 1000), Skip { partition: 1, ..skip(0, 1000) }];
    let skip = skips.clone();
    let run = Run { skip, metrics: metrics.clone(), limits: limits(9), ..Run::new(case.clone()) }.go();
    let values: Vec<i64> =
        run.outputs().lines().map(|line| line.split(' ').nth(8).expect("values").parse().expect("a number")).collect();
    let expected: Vec<i64> =
        (0..100).filter(|at| !(10..30).contains(at) && !(63..66).contains(at) && *at < 99).collect();
    assert_eq!(values, expected);
    assert_eq!(metrics.sum("records_skipped_total", &[("source", "left")]) as usize, 24);
    // It replays with the same records skipped, and with nothing else.
    assert!(Run { committed: run.progress(), skip: skips, live: false, ..Run::new(case.clone()) }.try_go().is_ok());
    let fault = Run { committed: run.progress(), live: false, ..Run::new(case) }.try_go().err().expect("more records");
    assert!(fault.message.contains("the log no longer holds"), "{fault}");
}
