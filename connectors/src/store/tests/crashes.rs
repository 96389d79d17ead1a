//! A fault at every call, the power gone at every call, and whatever then becomes of what was not durable.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_engine::checkpoint::Store;

use crate::store::simulated::{Call, Failure, Fate, Injected, Operation, SimulatedDisk, SimulatedFile, Unsynced};
use crate::store::{Disk, Entry, Folder};

const ROOT: &str = "/state/checkpoints";

/// A disk that says that it did something, and did not.
#[derive(Clone)]
struct Careless {
    disk: SimulatedDisk,
    skips: Option<Operation>,
}

impl Careless {
    fn unless(&self, operation: Operation, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.skips == Some(operation) { Ok(()) } else { act() }
    }
}

impl Disk for Careless {
    type File = SimulatedFile;

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.disk.create(path)
    }

    fn write(&self, file: &mut SimulatedFile, content: &[u8]) -> io::Result<()> {
        self.disk.write(file, content)
    }

    fn sync(&self, file: &mut SimulatedFile) -> io::Result<()> {
        self.unless(Operation::Sync, || self.disk.sync(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.unless(Operation::Remove, || self.disk.remove(path))
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.make_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.unless(Operation::SyncFolder, || self.disk.sync_folder(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(path)
    }
}

/// A content, or `None` to delete.
type Change = (String, Option<Vec<u8>>);

/// By name, the contents that would be right after a crash.
type Right = BTreeMap<String, Vec<Option<Vec<u8>>>>;

/// A folder on a disk that fails, and what may be found in it.
struct Site {
    disk: Careless,
    store: Folder<Careless>,
    /// Whether the script may do harm now.
    armed: Arc<AtomicBool>,
    right: Right,
}

impl Site {
    fn new(skips: Option<Operation>) -> Self {
        let disk = Careless { disk: SimulatedDisk::new(), skips };
        let store = Folder::on(disk.clone(), ROOT);
        Self { disk, store, armed: Arc::default(), right: BTreeMap::new() }
    }

    fn inject(&self, mut script: impl FnMut(&Call<'_>) -> Injected + Send + 'static) {
        let armed = self.armed.clone();
        let asked = move |call: &Call<'_>| if armed.load(Ordering::Relaxed) { script(call) } else { Injected::Nothing };
        self.disk.disk.inject(asked);
    }

    /// Tries a change; whether it worked.
    fn change(&mut self, (name, content): &Change) -> Result<bool, String> {
        self.armed.store(true, Ordering::Relaxed);
        let done = match content {
            Some(content) => self.store.put(name, content),
            None => self.store.delete(name),
        };
        self.armed.store(false, Ordering::Relaxed);
        let right = self.right.entry(name.clone()).or_insert_with(|| vec![None]);
        if done.is_ok() {
            *right = vec![content.clone()];
        } else if !right.contains(content) {
            right.push(content.clone());
        }
        if !self.disk.disk.has_crashed() {
            let seen = self.check()?;
            if done.is_ok() {
                // A caller may rely on everything it sees once a later change is durable.
                self.right = seen;
            }
        }
        Ok(done.is_ok())
    }

    /// All that can be seen is right.
    fn check(&self) -> Result<Right, String> {
        let listed = self.store.list("").map_err(|fault| fault.message)?;
        let sizes: BTreeMap<_, _> = listed.into_iter().map(|object| (object.name, object.bytes)).collect();
        if let Some(stranger) = sizes.keys().find(|name| !self.right.contains_key(*name)) {
            return Err(format!("{stranger} was never written"));
        }
        let mut seen = BTreeMap::new();
        for (name, right) in &self.right {
            let found = self.store.get(name).map_err(|fault| fault.message)?;
            let size = found.as_ref().map(|content| content.len() as u64);
            if !right.contains(&found) || size != sizes.get(name).copied() {
                let lengths: Vec<_> = right.iter().map(|content| content.as_ref().map(Vec::len)).collect();
                return Err(format!("{name} has {size:?} bytes, listed as {:?}; right: {lengths:?}", sizes.get(name)));
            }
            seen.insert(name.clone(), vec![found]);
        }
        Ok(seen)
    }

    /// Another process goes on with what is to be seen.
    fn reopen(&mut self) {
        self.store = Folder::on(self.disk.clone(), ROOT);
    }

    /// The machine goes down and comes back.
    fn crash(&mut self, fate: impl FnMut(Unsynced<'_>) -> Fate) -> Result<(), String> {
        self.disk.disk.restart(fate);
        self.reopen();
        self.right = self.check()?;
        Ok(())
    }

    fn leftovers(&self) -> Vec<String> {
        let folders = [ROOT.to_owned(), format!("{ROOT}/parts"), format!("{ROOT}/manifests")];
        let entries = folders.iter().filter_map(|folder| self.disk.disk.list(Path::new(folder)).ok()).flatten();
        entries.map(|entry| entry.name).filter(|name| name.starts_with('.')).collect()
    }
}

fn content(seed: u8, bytes: usize) -> Vec<u8> {
    // No zeros, so that a lost sector can be told from what was written.
    (0..bytes).map(|at| (at as u8 ^ seed) | 1).collect()
}

fn sequence() -> Vec<Change> {
    let put = |name: &str, seed, bytes| (name.to_owned(), Some(content(seed, bytes)));
    let delete = |name: &str| (name.to_owned(), None);
    vec![
        put("parts/a", 2, 1500),
        put("manifests/1", 4, 700),
        put("parts/b", 6, 600),
        put("manifests/1", 8, 1100),
        put("manifests/2", 10, 513),
        delete("manifests/1"),
        delete("parts/a"),
        put("parts/c", 12, 0),
        put("parts/a", 14, 20),
    ]
}

fn fates() -> Vec<(String, impl Fn(u64, Unsynced<'_>) -> Fate)> {
    let mut fates = Vec::new();
    for names in [0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa, 0x5555_5555_5555_5555] {
        for content in [Fate::Lost, Fate::Kept, Fate::Prefix(1), Fate::Sectors(0b10)] {
            let fate = move |at: u64, what: Unsynced<'_>| match what {
                Unsynced::Name(_) if names >> (at % 64) & 1 == 0 => Fate::Lost,
                Unsynced::Name(_) => Fate::Kept,
                Unsynced::Content(..) => content,
            };
            fates.push((format!("names {names:x}, contents {content:?}"), fate));
        }
    }
    fates
}

/// The sequence with a fault at its call number `at`, then a crash. Whether there was such a call.
fn one_fault(
    sequence: &[Change],
    skips: Option<Operation>,
    injected: Injected,
    at: u64,
    fate: impl Fn(u64, Unsynced<'_>) -> Fate,
) -> Result<bool, String> {
    let mut site = Site::new(skips);
    let reached = Arc::new(AtomicBool::new(false));
    let (told, mut calls) = (reached.clone(), 0);
    site.inject(move |_| {
        calls += 1;
        let is_it = calls == at + 1;
        told.fetch_or(is_it, Ordering::Relaxed);
        if is_it { injected } else { Injected::Nothing }
    });
    let mut failed = 0;
    for change in sequence {
        failed += u64::from(!site.change(change)?);
        if site.disk.disk.has_crashed() {
            break;
        }
    }
    let reached = reached.load(Ordering::Relaxed);
    if failed > u64::from(reached) && !site.disk.disk.has_crashed() {
        return Err(format!("one fault made {failed} changes fail"));
    }
    site.disk.disk.heal();
    let mut count = 0;
    site.crash(|what| {
        count += 1;
        fate(count - 1, what)
    })?;
    // And it goes on.
    for change in sequence {
        if !site.change(change)? {
            return Err("a sound disk refuses a change".to_owned());
        }
        if !site.leftovers().is_empty() {
            return Err(format!("left over: {:?}", site.leftovers()));
        }
    }
    site.crash(|_| Fate::Lost)?;
    Ok(reached)
}

/// Every fault at every call, with every fate. How many were tried, or what was wrong first.
fn every_fault(skips: Option<Operation>) -> Result<u64, String> {
    let faults = [
        Injected::Fail(Failure::Full),
        Injected::Fail(Failure::Broken),
        Injected::FailAfter(Failure::Broken),
        Injected::Short(0),
        Injected::Short(600),
        Injected::Crash,
        Injected::CrashAfter,
    ];
    let (sequence, mut tried) = (sequence(), 0);
    for injected in faults {
        for (name, fate) in fates() {
            for at in 0.. {
                let outcome = one_fault(&sequence, skips, injected, at, &fate);
                if !outcome.map_err(|why| format!("{injected:?} at call {at}, {name}: {why}"))? {
                    break;
                }
                tried += 1;
            }
        }
    }
    Ok(tried)
}

#[test]
fn a_fault_at_any_call_leaves_the_old_or_the_new() {
    let tried = every_fault(None).unwrap_or_else(|why| panic!("{why}"));
    println!("{tried} faults");
    assert!(tried > 5000, "{tried} faults are fewer than the sequence has calls");
}

#[test]
fn a_protocol_that_leaves_a_step_out_is_found_out() {
    for skipped in [Operation::Sync, Operation::SyncFolder, Operation::Remove] {
        let found = every_fault(Some(skipped)).expect_err("it is not safe");
        println!("without {skipped:?}: {found}");
    }
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn change(&mut self) -> Change {
        let names = ["parts/a", "parts/b", "parts/c", "manifests/1", "manifests/2"];
        let name = names[self.below(5) as usize].to_owned();
        let put = self.below(3) > 0;
        (name, put.then(|| content(self.below(256) as u8, self.below(2000) as usize)))
    }

    fn injected(&mut self) -> Injected {
        match self.below(80) {
            0 => Injected::Fail(Failure::Full),
            1 => Injected::Fail(Failure::Broken),
            2 => Injected::FailAfter(Failure::Broken),
            3 => Injected::Short(self.below(2000) as usize),
            4 => Injected::Crash,
            5 => Injected::CrashAfter,
            _ => Injected::Nothing,
        }
    }

    fn fate(&mut self, what: Unsynced<'_>) -> Fate {
        match (self.below(4), what) {
            (0, _) => Fate::Lost,
            (1, Unsynced::Content(_, bytes)) => Fate::Prefix(self.below(bytes as u64 + 1) as usize),
            (2, _) => Fate::Sectors(self.below(u64::MAX)),
            _ => Fate::Kept,
        }
    }
}

fn random_run(seed: u64, skips: Option<Operation>) -> Result<u64, String> {
    let mut random = Random(seed);
    let mut site = Site::new(skips);
    let mut of_the_disk = Random(!seed);
    site.inject(move |_| of_the_disk.injected());
    let mut crashes = 0;
    for _ in 0..40 {
        let change = random.change();
        site.change(&change)?;
        if site.disk.disk.has_crashed() || random.below(20) == 0 {
            crashes += 1;
            site.crash(|what| random.fate(what))?;
        } else if random.below(10) == 0 {
            site.reopen();
        }
    }
    Ok(crashes)
}

#[test]
fn random_faults_and_crashes_leave_the_old_or_the_new() {
    let mut crashes = 0;
    for seed in 0..1000 {
        crashes += random_run(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    assert!(crashes > 1000, "{crashes} crashes");
    for skipped in [Operation::Sync, Operation::SyncFolder] {
        let found = (0..1000).find_map(|seed| random_run(seed, Some(skipped)).err().map(|why| (seed, why)));
        println!("without {skipped:?}: {:?}", found.expect("it is not safe"));
    }
}

#[test]
fn a_seed_is_the_same_each_time() {
    let trace = |seed| {
        let mut random = Random(seed);
        let site = Site::new(None);
        let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (seen, mut of_the_disk) = (calls.clone(), Random(!seed));
        let script = move |call: &Call<'_>| {
            let injected = of_the_disk.injected();
            seen.lock().expect("no panic").push((call.operation, call.path.to_owned(), call.at, injected));
            injected
        };
        site.disk.disk.inject(script);
        for _ in 0..40 {
            let (name, content) = random.change();
            content.map_or_else(|| site.store.delete(&name), |content| site.store.put(&name, &content)).ok();
            site.disk.disk.restart(|what| random.fate(what));
        }
        std::mem::take(&mut *calls.lock().expect("no panic"))
    };
    let first = trace(7);
    assert!(first.len() > 200 && (0..10).all(|_| trace(7) == first));
}
