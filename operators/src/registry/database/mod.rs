//! The database of what changes: a file of one machine, or a server that several share.
//!
//! Both are told the same SQL. Who changes something is alone meanwhile: on one machine by a lock of the file beside the
//! database, on a server by an advisory lock that ends with the transaction, or with the connection.

mod postgres;
mod sqlite;

use millstream_engine::{Fault, Result};

pub(super) use postgres::Server;
pub(super) use sqlite::File;

/// A value that a statement is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i64),
    /// No text.
    Absent,
}

/// A value that a statement gives.
#[derive(Debug)]
pub(super) enum Cell {
    Text(String),
    Number(i64),
}

/// A row that a statement gives.
#[derive(Debug)]
pub(super) struct Row(Vec<Cell>);

impl Row {
    pub(super) fn text(&self, at: usize) -> Result<String> {
        match self.0.get(at) {
            Some(Cell::Text(text)) => Ok(text.clone()),
            other => Err(Fault::ours(format!("column {at} of a row holds {other:?} where a text was asked for"))),
        }
    }

    pub(super) fn number(&self, at: usize) -> Result<i64> {
        match self.0.get(at) {
            Some(Cell::Number(number)) => Ok(*number),
            other => Err(Fault::ours(format!("column {at} of a row holds {other:?} where a number was asked for"))),
        }
    }
}

/// A transaction. A statement's values stand for `$1`, `$2`, …, which first appear in this order.
pub(super) trait Transaction {
    /// Changes something.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<()>;

    /// Asks for rows.
    fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>>;
}

/// Where it is.
#[derive(Debug)]
pub(super) enum Database {
    File(File),
    Server(Box<Server>),
    /// Nobody knows.
    Nowhere,
}

impl Database {
    /// Reads, all of one moment; `None` where nothing was ever written.
    pub(super) fn read<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<Option<T>> {
        match self {
            Self::File(file) => file.read(act),
            Self::Server(server) => server.read(act),
            Self::Nowhere => Ok(None),
        }
    }

    /// Changes all that `act` does, or nothing; nobody else changes the registry meanwhile.
    pub(super) fn write<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<T> {
        match self {
            Self::File(file) => file.write(act),
            Self::Server(server) => server.write(act),
            Self::Nowhere => Err(unknown()),
        }
    }

    /// Does something that needs nothing of the database, but that nobody else changes the registry meanwhile.
    pub(super) fn alone<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match self {
            Self::File(file) => file.alone(act),
            Self::Server(server) => server.alone(act),
            Self::Nowhere => Err(unknown()),
        }
    }

    /// What it is called, for people; without its secrets.
    pub(super) fn place(&self) -> String {
        match self {
            Self::File(file) => file.place(),
            Self::Server(server) => server.place(),
            Self::Nowhere => "no database".to_owned(),
        }
    }
}

fn unknown() -> Fault {
    Fault::definition("the registry's database is not named, so nothing in it can be changed: add `database`")
}
