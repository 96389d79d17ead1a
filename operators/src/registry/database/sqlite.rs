//! A file of this machine, by `SQLite`.
//!
//! It has a rollback journal, not a write-ahead log: changes are rare, a reader needs nothing but the one file, and a copy of
//! that file is a copy of all. `synchronous=EXTRA` is what makes a commit durable then: `FULL` leaves it to chance whether the
//! journal's removal reaches the disk, and with it the commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_engine::{Fault, Result, failpoint};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, TransactionBehavior, params_from_iter};

use super::{Cell, Row, Transaction, Value};
use crate::registry::artefacts::failed;

/// Distinguishes the file from other `SQLite` files ("MREG").
const APPLICATION_ID: i32 = 0x4d52_4547;

/// What leads from each layout to the next. `user_version` says how many were done.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE versions (
        model TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (model, number)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX versions_present ON versions (model, id) WHERE deleted = 0;
    CREATE TABLE aliases (
        model TEXT NOT NULL, alias TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (model, alias)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tags (
        model TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (model, id, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE descriptions (
        model TEXT NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (model, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        event INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, model TEXT NOT NULL, id TEXT NOT NULL,
        kind TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, why TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_version ON events (model, id, at_ms);
    CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
    CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
",
    "CREATE TABLE registry (id TEXT NOT NULL) STRICT",
];

/// How long another process may hold the database.
const PATIENCE: Duration = Duration::from_secs(30);

/// The database's file, which may not be there yet.
#[derive(Clone, Debug)]
pub(in crate::registry) struct File {
    folder: PathBuf,
    path: PathBuf,
}

impl File {
    /// The file of that name in a folder.
    pub(in crate::registry) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join("registry.sqlite") }
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn read<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<Option<T>> {
        if !self.path.exists() {
            return Ok(None);
        }
        // Not read-only: what a crash has left half written is rolled back by whoever comes next.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = self.connect(flags)?;
        // One transaction, so that everything read is of one moment.
        let transaction = connection.transaction().map_err(|error| self.fault("read it", error))?;
        match self.layout(&transaction)? {
            0 => Ok(None),
            _ => act(&mut Open { connection: &transaction, file: self, doing: "read it" }).map(Some),
        }
    }

    pub(super) fn write<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<T> {
        self.alone(|| {
            let mut connection = self.connect(OpenFlags::default())?;
            let failed = |error| self.fault("change it", error);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            let layout = self.layout(&transaction)?;
            for migration in &MIGRATIONS[layout..] {
                transaction.execute_batch(migration).map_err(failed)?;
            }
            if layout < MIGRATIONS.len() {
                transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
                transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i32).map_err(failed)?;
            }
            let done = act(&mut Open { connection: &transaction, file: self, doing: "change it" })?;
            failpoint::around("registry.commit", || transaction.commit()).map_err(failed)?;
            Ok(done)
        })
    }

    /// By a lock of its own, so that versions can be placed whatever became of the database.
    pub(super) fn alone<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        fs::create_dir_all(&self.folder).map_err(failed("make the folder", &self.folder))?;
        let path = self.folder.join("lock");
        let lock = fs::File::create(&path).map_err(failed("create", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        act()
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection> {
        let connect = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "synchronous", "EXTRA")?;
            Ok(connection)
        };
        connect().map_err(|error| self.fault("open it", error))
    }

    /// How many migrations were done.
    fn layout(&self, connection: &Connection) -> Result<usize> {
        let ids = || {
            let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
            Ok((tables, pragma("application_id")?, pragma("user_version")?))
        };
        let path = self.path.display();
        match ids().map_err(|error| self.fault("read it", error))? {
            (0, ..) => Ok(0),
            (_, APPLICATION_ID, version) if (1..=MIGRATIONS.len() as i32).contains(&version) => Ok(version as usize),
            (_, APPLICATION_ID, version) => Err(Fault::world(format!(
                "{path} is of a newer program (layout {version}, this one knows {}): use that one",
                MIGRATIONS.len()
            ))),
            _ => Err(Fault::world(format!(
                "{path} is another program's database: move it away; the versions do not need it"
            ))),
        }
    }

    /// Locks and a full disk pass; a damaged file does not mend itself.
    fn fault(&self, doing: &str, error: rusqlite::Error) -> Fault {
        let path = self.path.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
                Fault::retry(format!("{path}: cannot {doing}")).because(error)
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Fault::world(format!(
                "{path} is damaged: move it away, or put a copy in its place; without it all versions are there, and only \
                 aliases, tags, descriptions and history are lost"
            ))
            .because(error),
            _ => Fault::world(format!("{path}: cannot {doing}")).because(error),
        }
    }
}

/// A transaction of the file.
struct Open<'a> {
    connection: &'a Connection,
    file: &'a File,
    doing: &'static str,
}

impl Transaction for Open<'_> {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<()> {
        let execute = || self.connection.prepare_cached(sql)?.execute(params_from_iter(values));
        execute().map(drop).map_err(|error| self.file.fault(self.doing, error))
    }

    fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let rows = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect::<rusqlite::Result<_>>();
            statement
                .query_map(params_from_iter(values), row)?
                .map(|cells| cells.map(Row))
                .collect::<rusqlite::Result<_>>()
        };
        rows().map_err(|error| self.file.fault(self.doing, error))
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Absent => ValueRef::Null,
        }))
    }
}

impl rusqlite::types::FromSql for Cell {
    fn column_result(value: ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        match value {
            ValueRef::Integer(number) => Ok(Self::Number(number)),
            other => other.as_str().map(|text| Self::Text(text.to_owned())),
        }
    }
}
