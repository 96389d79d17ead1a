//! Workers in several processes, on one machine or several.
//!
//! ```text
//! first process   readers ─► binder ─┐              ┌─► publisher ─► commit; checkpoint writer
//!                                    ▼              │
//!                              workers 0 … n-1 ─────┤
//!                               ▲ │  ▲              │
//!                               │ ▼  │ rows         │ line (TCP): epochs and cuts there; what leaves, state and counts back
//! member 1                workers n … 2n-1 ─────────┘
//! ```
//! The first process alone reads, decides what an epoch is made of, and makes it durable; folds, and so revisions and answers, are
//! there, too. A member has workers, with the states by key that are theirs; it holds nothing that outlives it. Workers exchange
//! rows directly, over a connection between each two processes, as timely does. Folds may have members compute for them: see
//! [`Helpers`].
//!
//! It is fail-stop: when a process is gone, or a connection breaks, the run ends everywhere with that as its fault, and the next one
//! goes on from what was committed. A member then waits for it.
//!
//! What a member tells of an epoch is on its line before the word that the epoch has passed there, and the publisher waits for that
//! word of every process: see [`crate::publish`].

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::Result;

mod door;
mod help;
mod line;
mod member;
mod rows;
mod wire;

pub use door::Door;
pub use help::{Helper, Helpers, MakeHelper, Talk};
pub(crate) use line::{Line, Lines, Outgoing, Ways};
pub use member::{Member, serve};
pub(crate) use rows::Mesh;

/// How long processes may take to connect with all others, once a run has begun.
const MESH_SECONDS: f64 = 30.0;

/// What the end of a line is called by.
fn named(error: &io::Error) -> String {
    match error.kind() {
        // A blocking stream with a time limit.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it has said nothing for too long".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether the other has closed a connection on which it has said nothing that was not read.
fn is_gone(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_open = match looked {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || !is_open
}

/// The processes of a run, and what they have in common.
#[derive(Clone)]
pub struct Processes {
    /// Where each takes connections, `host:port`. The first one's is that of the one that reads and commits.
    pub addresses: Vec<String>,
    /// What all know, and nobody else: who does not is refused. What they send each other is not encrypted.
    pub secret: String,
    /// What is the same for all: the definition, and the program.
    pub identity: String,
    /// For how many seconds one may say nothing on its line until it counts as gone. They say that they are there five times as often.
    pub patience_seconds: f64,
}

impl Processes {
    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience_seconds)
    }

    /// How often a process says that it is there.
    fn beat_seconds(&self) -> f64 {
        self.patience_seconds / 5.0
    }

    /// What one is called by.
    fn name(&self, process: usize) -> String {
        format!("process {process} at {}", self.addresses[process])
    }
}

/// What the first process needs of the others.
pub struct First {
    /// Where they are.
    pub processes: Processes,
    /// Where it takes their connections.
    pub door: Door,
    /// Hears what they tell beside.
    pub aside: Arc<dyn Aside>,
}

/// What members tell the first process beside what its run needs: what people want to know of all workers.
pub trait Aside: Send + Sync + 'static {
    /// On a member, now and then and at the end: all of it so far.
    fn tell(&self) -> Vec<u8>;

    /// On the first process: what a member has told, in the place of what it told before.
    fn hear(&self, process: usize, told: &[u8]) -> Result<()>;
}

/// Nothing.
impl Aside for () {
    fn tell(&self) -> Vec<u8> {
        Vec::new()
    }

    fn hear(&self, _process: usize, _told: &[u8]) -> Result<()> {
        Ok(())
    }
}
