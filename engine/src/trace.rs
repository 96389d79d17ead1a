//! Where a run's time goes: spans of its threads, kept while somebody looks. Nobody looking costs one load each.
//!
//! They are written in the Trace Event Format, which Perfetto and Chromium's `about:tracing` open.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::time::Stopwatch;

/// Spans that are kept at most; of more it is only counted how many there were.
const SPANS_MAX: usize = 2_000_000;

static LOOKING: AtomicBool = AtomicBool::new(false);
static SEEN: Mutex<Trace> = Mutex::new(Trace { spans: Vec::new(), threads: BTreeMap::new(), left_out: 0 });
static ORIGIN: LazyLock<Stopwatch> = LazyLock::new(Stopwatch::start);
static THREADS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// This thread's number and what it is called.
    static THREAD: RefCell<(u32, String)> = RefCell::new((THREADS.fetch_add(1, Ordering::Relaxed), String::new()));
}

/// What a thread did, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The thread.
    pub thread: u32,
    /// What it did: a node's name, or a part of what that does.
    pub name: String,
    /// Seconds from a moment that all spans share.
    pub start: f64,
    /// How long, in seconds.
    pub seconds: f64,
}

/// All that was seen, in the order in which it ended.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The spans; one within another ends before it.
    pub spans: Vec<Span>,
    /// What threads are called, by number.
    pub threads: BTreeMap<u32, String>,
    /// How many spans were not kept.
    pub left_out: u64,
}

/// Looks at what `act` does, on all threads. Of several who look at once, all see the same.
pub fn look<T>(act: impl FnOnce() -> T) -> (T, Trace) {
    *seen() = Trace::default();
    LOOKING.store(true, Ordering::SeqCst);
    let done = act();
    LOOKING.store(false, Ordering::SeqCst);
    (done, std::mem::take(&mut *seen()))
}

/// What this thread is called from now on.
pub fn name_thread(name: &str) {
    THREAD.with_borrow_mut(|(_, called)| name.clone_into(called));
}

/// Does `act`, and keeps how long it took if somebody looks.
pub fn span<T>(name: &str, act: impl FnOnce() -> T) -> T {
    if !LOOKING.load(Ordering::Relaxed) {
        return act();
    }
    let start = ORIGIN.seconds();
    let done = act();
    let seconds = ORIGIN.seconds() - start;
    THREAD.with_borrow(|(thread, called)| {
        let mut seen = seen();
        if seen.spans.len() == SPANS_MAX {
            seen.left_out += 1;
            return;
        }
        if !seen.threads.contains_key(thread) {
            let called = if called.is_empty() { format!("thread {thread}") } else { called.clone() };
            seen.threads.insert(*thread, called);
        }
        seen.spans.push(Span { thread: *thread, name: name.to_owned(), start, seconds });
    });
    done
}

fn seen() -> MutexGuard<'static, Trace> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trace {
    /// In the Trace Event Format: complete events, times in microseconds, and what threads are called.
    pub fn to_json(&self) -> Value {
        let named = |(thread, name): (&u32, &String)| json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": {"name": name}});
        let complete = |Span { thread, name, start, seconds }: &Span| json!({"ph": "X", "name": name, "pid": 1, "tid": thread, "ts": start * 1e6, "dur": seconds * 1e6});
        let events: Vec<Value> = self.threads.iter().map(named).chain(self.spans.iter().map(complete)).collect();
        json!({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"left_out": self.left_out}})
    }

    /// Seconds of all spans of a name, and how many there are.
    pub fn total(&self, name: &str) -> (f64, u64) {
        let of = self.spans.iter().filter(|span| span.name == name);
        of.fold((0.0, 0), |(seconds, count), span| (seconds + span.seconds, count + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_kept_while_somebody_looks() {
        let nested = || span("outer", || span("inner", || 3));
        assert_eq!(nested(), 3);
        let (three, trace) = look(|| {
            name_thread("a worker");
            nested()
        });
        assert_eq!(three, 3);
        // Other tests of this process may be seen, too.
        let own: Vec<&Span> = trace.spans.iter().filter(|span| ["outer", "inner"].contains(&&*span.name)).collect();
        let [inner, outer] = own.as_slice() else { panic!("two spans: {own:?}") };
        assert_eq!((&*inner.name, &*outer.name), ("inner", "outer"));
        assert!(outer.start <= inner.start && inner.seconds <= outer.seconds);
        assert_eq!(trace.threads[&outer.thread], "a worker");
        assert_eq!(trace.total("outer"), (outer.seconds, 1));
        let written = trace.to_json();
        let events = written["traceEvents"].as_array().expect("a list");
        assert!(events.iter().any(|event| event["ph"] == "X" && event["name"] == "inner" && event["dur"].is_f64()));
        assert!(events.iter().any(|event| event["ph"] == "M" && event["args"]["name"] == "a worker"));
    }
}
