//! A checkpoint that is damaged anywhere, by a bit or by its end, is never used: the one before it is, and without any, the log.
//!
//! `MILLSTREAM_FLIPS=10000` flips so many single bits; without it, fewer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::store;
use millstream_engine::checkpoint::{self, Object, Store};
use millstream_engine::source::Position;
use millstream_engine::{Blame, Result};
use millstream_pipelines::run::{Checkpointing, Options, Summary};
use millstream_tests::Site;
use millstream_tests::crash::number;
use millstream_tests::small::{self, Random};

const SEED: u64 = 20_260_101;
/// Runs, of which each ends with a checkpoint.
const RUNS: u64 = 4;

/// Objects in memory.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

impl Shelf {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Shelf {
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        self.objects().insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.objects().get(name).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let objects = self.objects();
        let found = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, content)| Object { name: name.clone(), bytes: content.len() as u64 }).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects().remove(name);
        Ok(())
    }
}

/// A pipeline that has run some times, and its checkpoints.
struct Kept {
    site: Site,
    last: Summary,
    objects: BTreeMap<String, Vec<u8>>,
    /// The checkpoints' epochs and the names of all they consist of, newest first.
    checkpoints: Vec<(u64, Vec<String>)>,
}

fn kept() -> Kept {
    let site = Site::new(&small::definition("embedded", ""), &[]);
    let mut runs = (0..RUNS).map(|part| {
        let input = small::input(SEED, part * 60, 50);
        site.append("weather", &input.weather);
        site.append("readings", &input.readings);
        site.run_with(&Options { max_records: Some(40), ..site.options() })
    });
    let last = runs.by_ref().last().expect("some runs");
    drop(runs);
    let folder = store::open("checkpoints", &site.state()).expect("a folder");
    let content = |name: &str| folder.get(name).expect("it can be read").expect("it is listed");
    let names = folder.list("").expect("it can be listed").into_iter().map(|object| object.name);
    let objects: BTreeMap<String, Vec<u8>> = names.map(|name| (name.clone(), content(&name))).collect();
    let listed = checkpoint::list(&*folder).expect("it can be listed").into_iter();
    let checkpoints = listed.map(|listed| {
        let manifest = listed.manifest.expect("it is sound");
        let mut names: Vec<String> = manifest.objects().map(|object| object.name.clone()).collect();
        names.push(listed.name);
        (listed.epoch, names)
    });
    let checkpoints: Vec<_> = checkpoints.collect();
    assert_eq!(checkpoints.len(), 3, "as many as are kept");
    Kept { site, last, objects, checkpoints }
}

/// Whether the only checkpoint of a shelf would be used.
fn is_usable(store: &Arc<dyn Store>) -> bool {
    let listed = checkpoint::list(&**store).expect("it can be listed").pop();
    let manifest = listed.and_then(|listed| listed.manifest.ok());
    manifest.is_some_and(|manifest| checkpoint::open(store, manifest).is_ok())
}

#[test]
fn every_damage_is_seen() {
    let Kept { objects, checkpoints, .. } = kept();
    let (_, names) = &checkpoints[0];
    let whole: BTreeMap<String, Vec<u8>> = names.iter().map(|name| (name.clone(), objects[name].clone())).collect();
    let shelf = Arc::new(Shelf(Mutex::new(whole.clone())));
    let store: Arc<dyn Store> = shelf.clone();
    assert!(is_usable(&store));
    let is_seen_with = |name: &str, content: Vec<u8>| {
        shelf.objects().insert(name.to_owned(), content);
        let seen = !is_usable(&store);
        shelf.objects().insert(name.to_owned(), whole[name].clone());
        seen
    };
    let mut cuts = 0;
    for (name, content) in &whole {
        for end in (0..content.len()).step_by(512).chain([content.len() - 1]) {
            assert!(is_seen_with(name, content[..end].to_vec()), "{name} cut at {end}");
            cuts += 1;
        }
        assert!(is_seen_with(name, [content.as_slice(), b"\n"].concat()), "{name} with something after it");
    }
    let (flips, bytes) = (number("MILLSTREAM_FLIPS", 1500), whole.values().map(Vec::len).sum::<usize>() as u64);
    let mut random = Random::new(SEED);
    for _ in 0..flips {
        let (mut at, bit) = (random.below(bytes) as usize, random.below(8));
        for (name, content) in &whole {
            if at < content.len() {
                let mut damaged = content.clone();
                damaged[at] ^= 1 << bit;
                assert!(is_seen_with(name, damaged), "seed {SEED}: {name} with bit {bit} of byte {at} flipped");
                break;
            }
            at -= content.len();
        }
    }
    assert!(is_usable(&store), "nothing else was wrong");
    println!("seed {SEED}: {} files of {bytes} bytes, cut {cuts} times; {flips} bits flipped", whole.len());
}

/// Runs with damaged checkpoints; how many epochs were replayed.
fn replayed(kept: &Kept, damage: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> u64 {
    let mut objects = kept.objects.clone();
    damage(&mut objects);
    let store: Arc<dyn Store> = Arc::new(Shelf(Mutex::new(objects)));
    let checkpoints = Checkpointing::At(store.clone());
    let again = kept.site.run_with(&Options { checkpoints, ..kept.site.options() });
    assert_eq!(again.epochs, 0, "there was nothing new");
    for (name, model) in &kept.last.models {
        assert_eq!(again.models[name].digest, model.digest, "{name}");
    }
    // What it leaves can be used.
    for listed in checkpoint::list(&*store).expect("it can be listed") {
        checkpoint::open(&store, listed.manifest.expect("it is sound")).expect("it is whole");
    }
    again.epochs_replayed
}

fn flip(objects: &mut BTreeMap<String, Vec<u8>>, name: &str) {
    let content = objects.get_mut(name).expect("it is there");
    let middle = content.len() / 2;
    content[middle] ^= 4;
}

#[test]
fn the_one_before_a_damaged_one_is_used_and_at_last_the_log() {
    let kept = kept();
    let epochs = kept.site.progress().len() as u64;
    let [newest, middle, oldest] = &kept.checkpoints[..] else { panic!("three") };
    assert_eq!((newest.0, oldest.0 > 0), (epochs, true));
    assert_eq!(replayed(&kept, |_| {}), 0);
    let only = |of: &(u64, Vec<String>), other: &(u64, Vec<String>)| {
        let own = of.1.iter().find(|name| name.starts_with("parts/") && !other.1.contains(name));
        own.expect("something was learned between them").clone()
    };
    let part = only(newest, middle);
    let manifest = |of: &(u64, Vec<String>)| of.1.last().expect("its manifest").clone();
    let since = |of: &(u64, Vec<String>)| epochs - of.0;
    assert_eq!(replayed(&kept, |objects| flip(objects, &part)), since(middle));
    assert_eq!(replayed(&kept, |objects| drop(objects.remove(&part))), since(middle));
    assert_eq!(replayed(&kept, |objects| flip(objects, &manifest(newest))), since(middle));
    assert_eq!(replayed(&kept, |objects| drop(objects.insert(manifest(newest), Vec::new()))), since(middle));
    let two = |objects: &mut BTreeMap<String, Vec<u8>>| {
        flip(objects, &part);
        flip(objects, &manifest(middle));
    };
    assert_eq!(replayed(&kept, two), since(oldest));
    let all = |objects: &mut BTreeMap<String, Vec<u8>>| {
        for name in objects.keys().cloned().collect::<Vec<_>>() {
            flip(objects, &name);
        }
    };
    assert_eq!(replayed(&kept, all), epochs, "all is rebuilt from the log");

    // Without the log there is no way to go on, and no run says otherwise.
    let broker = Embedded::open(&kept.site.state()).expect("it exists");
    broker.discard("readings", &[Position { partition: 1, offset: 2 }]).expect("there are more");
    let mut objects = kept.objects.clone();
    all(&mut objects);
    let checkpoints = Checkpointing::At(Arc::new(Shelf(Mutex::new(objects))));
    let fault = kept.site.try_run(&Options { checkpoints, ..kept.site.options() }).map(drop).expect_err("all is gone");
    assert_eq!(fault.blame, Blame::World);
    assert!(fault.to_string().contains("the first offset that is kept is 2"), "{fault}");
}
