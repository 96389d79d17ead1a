//! The file: its tables, its connections, and the word that something was appended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::broker::Topic;

/// Distinguishes the file from other `SQLite` files ("MLOG"), and this layout from later ones.
const APPLICATION_ID: i32 = 0x4d4c_4f47;
const LAYOUT: i32 = 1;

const TABLES: &str = "
    CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL) STRICT;
    CREATE TABLE partitions (
        topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
        base INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
        checksum BLOB NOT NULL, data BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX chunk_order ON chunks (topic, partition, base);
    CREATE TABLE producers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// One file as one process sees it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// By topic: rings when this process has appended, so that its readers need not poll.
    bells: Mutex<HashMap<i64, Arc<Bell>>>,
}

/// Tells the readers of a topic that this process has appended to it.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<u64>,
    wake: Condvar,
}

impl Bell {
    /// How often it has rung.
    pub(super) fn rung(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.wake.notify_all();
    }

    /// Waits until it has rung more often than `heard` times, or `wait` is over.
    pub(super) fn wait(&self, heard: u64, wait: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_timeout_while(rung, wait, |rung| *rung == heard));
    }
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Fault::world(format!("cannot create {}", folder.display())).because(error))?;
        let path = folder.join("broker.sqlite");
        let fault = |error| fault(&path, "open it", error);
        let mut connection = connect(&path).map_err(fault)?;
        let foreign = || Fault::world(format!("{} is no topic log that this version can read", path.display()));
        if !matches!(found(&connection).map_err(fault)?, None | Some((APPLICATION_ID, LAYOUT))) {
            return Err(foreign());
        }
        // Larger pages make chunks of 1 MiB cheap; smaller ones make single records cheap.
        connection.pragma_update(None, "page_size", 8192).map_err(fault)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fault)?;
        // Whoever appends then waits until the write-ahead log is copied back: often and little, every 4 MiB.
        connection.pragma_update(None, "wal_autocheckpoint", 512).map_err(fault)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20).map_err(fault)?;
        prepare(&mut connection).map_err(fault)?;
        Ok(Self { path, connection: Mutex::new(connection), bells: Mutex::default() })
    }

    /// The connection for writing. A panic elsewhere rolled its transaction back, so the connection is still good.
    pub(super) fn write(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one reader.
    pub(super) fn connect(&self) -> Result<Connection> {
        connect(&self.path).map_err(|error| self.fault("open it for reading", error))
    }

    pub(super) fn fault(&self, doing: &str, error: rusqlite::Error) -> Fault {
        fault(&self.path, doing, error)
    }

    /// A fault about what is in the file.
    pub(super) fn corrupt(&self, what: &str, why: &str) -> Fault {
        Fault::world(format!("{} is corrupt: {what}: {why}", self.path.display()))
    }

    /// The bell of a topic.
    pub(super) fn bell(&self, topic: i64) -> Arc<Bell> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).entry(topic).or_default().clone()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // Another process may hold the write lock for as long as a large append takes to reach the disk.
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// What a file that is not empty says that it is.
fn found(connection: &Connection) -> rusqlite::Result<Option<(i32, i32)>> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get(0));
    let ids = (pragma("application_id")?, pragma("user_version")?);
    Ok((tables > 0).then_some(ids))
}

/// Creates the tables in an empty file.
fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if found(&transaction)?.is_none() {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", LAYOUT)?;
    }
    transaction.commit()
}

/// Locks, a full disk and interrupts pass; nothing was changed then. Anything else halts.
fn fault(path: &Path, doing: &str, error: rusqlite::Error) -> Fault {
    let message = format!("{}: cannot {doing}", path.display());
    let passes = matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
    );
    if passes { Fault::retry(message) } else { Fault::world(message) }.because(error)
}

/// A topic's row and its number of partitions.
pub(super) fn find(connection: &Connection, topic: &str) -> rusqlite::Result<Option<(i64, u32)>> {
    connection
        .prepare_cached("SELECT id, partitions FROM topics WHERE name = ?1")?
        .query_row([topic], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// A partition's first and end offsets.
pub(super) fn range(connection: &Connection, topic: i64, partition: u32) -> rusqlite::Result<Option<(u64, u64)>> {
    connection
        .prepare_cached("SELECT first, end FROM partitions WHERE topic = ?1 AND partition = ?2")?
        .query_row(params![topic, partition], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// All topics by name, or one.
pub(super) fn topics(connection: &Connection, only: Option<&str>) -> rusqlite::Result<Vec<Topic>> {
    let mut statement = connection.prepare_cached(
        "SELECT name, first, end FROM topics JOIN partitions ON topic = id WHERE ?1 IS NULL OR name = ?1
         ORDER BY name, partition",
    )?;
    let mut rows = statement.query([only])?;
    let mut topics: Vec<Topic> = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let range = (row.get(1)?, row.get(2)?);
        match topics.last_mut().filter(|topic| topic.name == name) {
            Some(topic) => topic.partitions.push(range),
            None => topics.push(Topic { name, partitions: vec![range] }),
        }
    }
    Ok(topics)
}

/// Creates a topic unless it exists; returns how many partitions it has.
pub(super) fn create(connection: &mut Connection, name: &str, partitions: u32) -> rusqlite::Result<u32> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some((_, partitions)) = find(&transaction, name)? {
        return Ok(partitions);
    }
    transaction.execute("INSERT INTO topics (name, partitions) VALUES (?1, ?2)", params![name, partitions])?;
    let topic = transaction.last_insert_rowid();
    let mut insert = transaction.prepare("INSERT INTO partitions VALUES (?1, ?2, 0, 0)")?;
    for partition in 0..partitions {
        insert.execute(params![topic, partition])?;
    }
    drop(insert);
    transaction.commit()?;
    Ok(partitions)
}

/// Moves a partition's first offset up to `before` and deletes the chunks that lie wholly before it.
pub(super) fn discard(connection: &Connection, topic: i64, before: &Position) -> rusqlite::Result<()> {
    let key = params![topic, before.partition, before.offset];
    connection.execute("DELETE FROM chunks WHERE topic = ?1 AND partition = ?2 AND base + count <= ?3", key)?;
    connection.execute("UPDATE partitions SET first = max(first, ?3) WHERE topic = ?1 AND partition = ?2", key)?;
    Ok(())
}

/// What a chunk's row says, bound together: a blob moved to another row is found out too.
pub(super) fn checksum(topic: i64, partition: u32, base: u64, count: usize, data: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [topic as u64, u64::from(partition), base, count as u64] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.update(data).finalize()
}
