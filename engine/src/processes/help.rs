//! Help: what the first process has computed by others.
//!
//! ```text
//! first process   a fold ─ asks ─► talk ─ line ─► member   a helper, on a thread of its own
//!                        ◄─────────────── line ◄─ answers
//! ```
//! An answer follows from what was asked in a talk, and from nothing else, so it does not matter who gives it: who gets none gives it
//! itself. State stays with who asks.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::Outgoing;
use crate::fault::Result;

/// Answers, one after the other, what it is asked in a talk.
pub trait Helper: Send {
    /// The answer. That it cannot give one is a fault of ours, for what is asked comes from the same program.
    fn help(&mut self, asked: &[u8]) -> Result<Vec<u8>>;
}

/// Makes a helper for each talk.
pub type MakeHelper = Arc<dyn Fn() -> Box<dyn Helper> + Send + Sync>;

/// The other processes of a run, which help.
#[derive(Clone)]
pub struct Helpers(Arc<Mutex<Talks>>);

struct Talks {
    /// To each other process; none when the run is over.
    lines: Vec<Sender<Outgoing>>,
    /// By the number of the talk.
    answers: HashMap<u64, Sender<Vec<u8>>>,
    /// How many there were.
    count: u64,
}

/// A talk with one other process.
pub struct Talk {
    helpers: Helpers,
    /// Whose line it is.
    line: usize,
    number: u64,
    answers: Receiver<Vec<u8>>,
}

impl Helpers {
    pub(crate) fn new(lines: Vec<Sender<Outgoing>>) -> Self {
        Self(Arc::new(Mutex::new(Talks { lines, answers: HashMap::new(), count: 0 })))
    }

    /// Begins a talk with each other process. When the run is over, there is none.
    pub fn talks(&self) -> Vec<Talk> {
        let Talks { lines, answers, count } = &mut *self.lock();
        let talk = |line| {
            let (to_talk, answers_in) = channel();
            *count += 1;
            answers.insert(*count, to_talk);
            Talk { helpers: self.clone(), line, number: *count, answers: answers_in }
        };
        (0..lines.len()).map(talk).collect()
    }

    pub(super) fn answer(&self, talk: u64, answer: Vec<u8>) {
        if let Some(answers) = self.lock().answers.get(&talk) {
            // Who has left does not wait for it.
            drop(answers.send(answer));
        }
    }

    /// Nobody answers any more.
    pub(super) fn end(&self) {
        let mut talks = self.lock();
        talks.lines.clear();
        talks.answers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Talks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Talk {
    /// Asks. What is asked is answered in that order.
    pub fn ask(&mut self, asked: Arc<Vec<u8>>) {
        self.send(Outgoing::Ask { talk: self.number, asked });
    }

    /// The next answer, once it is there; none where the run is over, or has failed.
    pub fn answer(&mut self) -> Option<Vec<u8>> {
        self.answers.recv().ok()
    }

    fn send(&self, outgoing: Outgoing) {
        if let Some(line) = self.helpers.lock().lines.get(self.line) {
            // A line that has broken ends the run.
            drop(line.send(outgoing));
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.send(Outgoing::Leave { talk: self.number });
        self.helpers.lock().answers.remove(&self.number);
    }
}
