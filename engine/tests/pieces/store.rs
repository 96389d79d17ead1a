//! A store in memory that fails when it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use millstream_engine::checkpoint::{Checkpoint, Checkpoints, Listed, Object, Store, list, open};
use millstream_engine::{Fault, Result};

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The call with this number, without effect.
    Before(usize),
    /// The call with this number, but what it does is done.
    After(usize),
    /// All calls from this number on.
    From(usize),
}

#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Clone, Default)]
pub struct State {
    pub objects: BTreeMap<String, Vec<u8>>,
    pub calls: Vec<String>,
    pub failure: Option<Failure>,
    pub failed: usize,
}

impl MemoryStore {
    pub fn new(objects: BTreeMap<String, Vec<u8>>, failure: Option<Failure>) -> Self {
        Self { state: Mutex::new(State { objects, failure, ..State::default() }), called: Condvar::new() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call panics")
    }

    /// From now on, calls are counted anew, and fail so.
    pub fn fail(&self, failure: Option<Failure>) {
        let mut state = self.state();
        state.calls.clear();
        state.failure = failure;
    }

    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().objects.clone()
    }

    /// Waits until the calls so far are such.
    pub fn wait(&self, until: impl Fn(&State) -> bool) {
        drop(self.called.wait_while(self.state(), |state| !until(state)).expect("no call panics"));
    }

    fn call<T>(&self, call: String, act: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> Result<T> {
        let mut state = self.state();
        let number = state.calls.len();
        let (fails, acts) = match state.failure {
            Some(Failure::Before(at)) => (at == number, at != number),
            Some(Failure::After(at)) => (at == number, true),
            Some(Failure::From(at)) => (number >= at, number < at),
            None => (false, true),
        };
        let fault = fails.then(|| Fault::retry(format!("call {number}, {call}: no space left")));
        state.calls.push(call);
        state.failed += usize::from(fails);
        let done = acts.then(|| act(&mut state.objects));
        self.called.notify_all();
        match (fault, done) {
            (None, Some(done)) => Ok(done),
            (fault, _) => Err(fault.expect("it failed or was done")),
        }
    }
}

impl Store for MemoryStore {
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        self.call(format!("put {name}"), |objects| drop(objects.insert(name.to_owned(), content.to_vec())))
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if name.starts_with("parts/") {
            // A run that cannot read its own state does not start; that is not what is tried here.
            return Ok(self.state().objects.get(name).cloned());
        }
        self.call(format!("get {name}"), |objects| objects.get(name).cloned())
    }
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let object = |(name, content): (&String, &Vec<u8>)| Object { name: name.clone(), bytes: content.len() as u64 };
        let listed = |objects: &mut BTreeMap<String, Vec<u8>>| -> Vec<Object> {
            objects.iter().filter(|(name, _)| name.starts_with(prefix)).map(object).collect()
        };
        self.call(format!("list {prefix}"), listed)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.call(format!("delete {name}"), |objects| drop(objects.remove(name)))
    }
}

/// Checkpoints after so many bytes, that many of which are kept.
pub fn checkpoints(store: &Arc<MemoryStore>, every_bytes: u64, keep: usize) -> Checkpoints {
    let note = Box::new(|epoch| Ok(serde_json::json!({"before": epoch})));
    Checkpoints { store: store.clone(), every_seconds: f64::INFINITY, every_bytes, keep, note, ahead: false }
}

/// All checkpoints that a store has, newest first. None of them may be damaged.
pub fn usable(store: &Arc<MemoryStore>) -> Vec<Checkpoint> {
    let shared: Arc<dyn Store> = store.clone();
    let listed = list(&**store).expect("the store works");
    let opened = |listed: Listed| open(&shared, listed.manifest.expect("a whole manifest")).expect("whole objects");
    listed.into_iter().map(opened).collect()
}
