//! Copies the write-ahead log back into the file while others go on appending.
//!
//! What a commit does by itself when the log has grown long enough takes as long as 16 MiB take to reach the disk twice, and all who append
//! wait for it. Here most of that is done beside them, and they wait only for what came meanwhile: with it copied, too, the next
//! append begins the log anew.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::store;

/// So many bytes are appended before they are copied.
const EVERY_BYTES: usize = 16 << 20;
/// How often it is copied beside the appending at most, until little is left.
const PASSES_MAX: usize = 4;
/// Pages that are little.
const FEW_PAGES: i64 = 64;

/// The thread that copies; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Copier {
    due: Arc<Due>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Due {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    appended_bytes: usize,
    has_ended: bool,
}

impl Copier {
    /// For the file at `path`, to which others append by `writer`.
    pub(super) fn start(path: &Path, writer: Arc<Mutex<Connection>>) -> rusqlite::Result<Self> {
        let connection = store::connect(path)?;
        let due = Arc::new(Due::default());
        let waiting = due.clone();
        let thread = std::thread::spawn(move || {
            while waiting.wait() {
                // What cannot be copied now is copied another time: it is in the log, where it is found as well.
                drop(copy(&connection, &writer));
            }
        });
        Ok(Self { due, thread: Some(thread) })
    }

    /// So many bytes more were appended.
    pub(super) fn appended(&self, bytes: usize) {
        let mut state = self.due.lock();
        state.appended_bytes += bytes;
        if state.appended_bytes >= EVERY_BYTES {
            self.due.wake.notify_one();
        }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.due.lock().has_ended = true;
        self.due.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // That it broke down is no reason to.
            drop(thread.join());
        }
    }
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is enough to copy; false at the end.
    fn wait(&self) -> bool {
        let is_idle = |state: &mut State| !state.has_ended && state.appended_bytes < EVERY_BYTES;
        let mut state = self.wake.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        state.appended_bytes = 0;
        !state.has_ended
    }
}

fn copy(connection: &Connection, writer: &Mutex<Connection>) -> rusqlite::Result<()> {
    let mut before = 0;
    for _ in 0..PASSES_MAX {
        let copied = pass(connection)?;
        if copied - before <= FEW_PAGES {
            break;
        }
        before = copied;
    }
    let writing = writer.lock().unwrap_or_else(PoisonError::into_inner);
    pass(connection)?;
    drop(writing);
    Ok(())
}

/// Copies what the log holds now, beside all who read and write; gives how many of its pages are copied.
fn pass(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_begins_anew_once_it_is_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.sqlite");
        let writer = Connection::open(&path).expect("it opens");
        for (pragma, value) in [("journal_mode", "WAL"), ("wal_autocheckpoint", "0")] {
            writer.pragma_update(None, pragma, value).expect("it is known");
        }
        writer.execute_batch("CREATE TABLE t (x BLOB)").expect("it is written");
        let append = |writer: &Connection| {
            for _ in 0..50 {
                writer.execute("INSERT INTO t VALUES (randomblob(4096))", []).expect("it is written");
            }
        };
        append(&writer);
        let writer = Arc::new(Mutex::new(writer));
        let copier = store::connect(&path).expect("it opens");
        let log = || std::fs::metadata(folder.path().join("log.sqlite-wal")).expect("it is there").len();
        copy(&copier, &writer).expect("nobody is in the way");
        let long = log();
        append(&writer.lock().expect("no panic"));
        assert_eq!(log(), long, "what is appended now is where the copied was");
        let count: i64 = copier.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("it can be read");
        assert_eq!(count, 100);
    }

    #[test]
    fn it_is_copied_when_enough_was_appended_and_ends_when_it_is_dropped() {
        let due = Due::default();
        due.lock().appended_bytes = EVERY_BYTES;
        assert!(due.wait());
        assert_eq!(due.lock().appended_bytes, 0);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.sqlite");
        let writer = Arc::new(Mutex::new(Connection::open(&path).expect("it opens")));
        let copier = Copier::start(&path, writer).expect("it opens");
        copier.appended(2 * EVERY_BYTES);
        drop(copier);
    }
}
