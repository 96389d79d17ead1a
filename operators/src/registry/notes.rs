//! What is noted of versions, and may change: numbers, aliases, tags, descriptions, history.

use std::collections::BTreeMap;

use millstream_engine::{Fault, Result};
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::version::check_name;

/// Who changes something, when, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// A user's name.
    pub by: String,
    /// The reason; may be empty.
    pub why: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// Something that happened to a version or a model. Events are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// The model.
    pub model: String,
    /// The version's id; empty where it is about the model.
    pub version: String,
    /// `promoted`, `imported`, `alias`, `tag`, `description`, `deleted`.
    pub kind: String,
    /// What exactly: `champion from 1f3a…`.
    pub what: String,
    /// Who did it.
    pub by: String,
    /// Why.
    pub why: String,
}

/// A version, or with an empty id its model.
pub(super) type Subject = (String, String);

/// All that is noted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// By version.
    pub(super) numbers: BTreeMap<Subject, u64>,
    /// The number that each model's next version gets.
    pub(super) next: BTreeMap<String, u64>,
    /// By model and alias: the version's id.
    pub(super) aliases: BTreeMap<(String, String), String>,
    pub(super) tags: BTreeMap<Subject, BTreeMap<String, String>>,
    pub(super) descriptions: BTreeMap<Subject, String>,
    /// When something last happened, milliseconds since 1970.
    pub(super) changed: BTreeMap<Subject, i64>,
}

impl Notes {
    pub(super) fn read(from: &Connection) -> rusqlite::Result<Self> {
        let mut notes = Self::default();
        let text = |row: &Row<'_>, at: usize| row.get::<_, String>(at);
        for row in rows(from, "SELECT model, id, number, deleted FROM versions", |row| {
            Ok(((text(row, 0)?, text(row, 1)?), row.get::<_, u64>(2)?, row.get::<_, bool>(3)?))
        })? {
            let (subject, number, deleted) = row;
            let next = notes.next.entry(subject.0.clone()).or_insert(1);
            *next = (*next).max(number + 1);
            if !deleted {
                notes.numbers.insert(subject, number);
            }
        }
        let alias = |row: &Row<'_>| Ok(((text(row, 0)?, text(row, 1)?), text(row, 2)?));
        notes.aliases = rows(from, "SELECT model, alias, id FROM aliases", alias)?.into_iter().collect();
        notes.descriptions = rows(from, "SELECT model, id, text FROM descriptions", alias)?.into_iter().collect();
        let changed = |row: &Row<'_>| Ok(((text(row, 0)?, text(row, 1)?), row.get(2)?));
        let sql = "SELECT model, id, max(at_ms) FROM events GROUP BY model, id";
        notes.changed = rows(from, sql, changed)?.into_iter().collect();
        let tag = |row: &Row<'_>| Ok(((text(row, 0)?, text(row, 1)?), text(row, 2)?, text(row, 3)?));
        for (subject, key, value) in rows(from, "SELECT model, id, key, value FROM tags", tag)? {
            notes.tags.entry(subject).or_default().insert(key, value);
        }
        Ok(notes)
    }

    /// Gives a version the next number of its model.
    pub(super) fn number(&mut self, model: &str, id: &str) -> u64 {
        let next = self.next.entry(model.to_owned()).or_insert(1);
        let number = *next;
        *next += 1;
        self.numbers.insert((model.to_owned(), id.to_owned()), number);
        number
    }

    /// The aliases that name a version.
    pub(super) fn aliases_of(&self, model: &str, id: &str) -> Vec<String> {
        let names = |((of, _), to): &(&(String, String), &String)| of == model && *to == id;
        self.aliases.iter().filter(names).map(|((_, alias), _)| alias.clone()).collect()
    }
}

fn rows<T>(
    from: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    from.prepare(sql)?.query_map([], read)?.collect()
}

/// Events of a model, or of one of its versions, or all; oldest first.
pub(super) fn events(from: &Connection, model: Option<&str>, id: Option<&str>) -> rusqlite::Result<Vec<Event>> {
    let sql = "SELECT at_ms, model, id, kind, what, by, why FROM events
        WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY event";
    let read = |row: &Row<'_>| {
        Ok(Event {
            at_ms: row.get(0)?,
            model: row.get(1)?,
            version: row.get(2)?,
            kind: row.get(3)?,
            what: row.get(4)?,
            by: row.get(5)?,
            why: row.get(6)?,
        })
    };
    from.prepare(sql)?.query_map(params![model, id], read)?.collect()
}

/// Adds to the history.
pub(super) fn tell(
    to: &Connection,
    subject: (&str, &str),
    kind: &str,
    what: &str,
    author: &Author,
) -> rusqlite::Result<()> {
    let Author { by, why, at_ms } = author;
    to.execute(
        "INSERT INTO events (at_ms, model, id, kind, what, by, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![at_ms, subject.0, subject.1, kind, what, by, why],
    )
    .map(drop)
}

/// Notes that a version is there.
pub(super) fn add_version(to: &Connection, model: &str, id: &str, number: u64) -> rusqlite::Result<()> {
    to.execute("INSERT INTO versions (model, number, id) VALUES (?1, ?2, ?3)", params![model, number, id]).map(drop)
}

/// Forgets a version, but for its history and its number.
pub(super) fn remove_version(to: &Connection, model: &str, id: &str) -> rusqlite::Result<()> {
    to.execute("UPDATE versions SET deleted = 1 WHERE model = ?1 AND id = ?2", [model, id])?;
    for table in ["aliases", "tags", "descriptions"] {
        to.execute(&format!("DELETE FROM {table} WHERE model = ?1 AND id = ?2"), [model, id])?;
    }
    Ok(())
}

/// Lets an alias name a version, or none.
pub(super) fn set_alias(to: &Connection, model: &str, alias: &str, id: Option<&str>) -> rusqlite::Result<()> {
    match id {
        Some(id) => to.execute(
            "INSERT INTO aliases (model, alias, id) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET id = ?3",
            [model, alias, id],
        ),
        None => to.execute("DELETE FROM aliases WHERE model = ?1 AND alias = ?2", [model, alias]),
    }
    .map(drop)
}

/// Sets a tag, or removes it.
pub(super) fn set_tag(to: &Connection, subject: (&str, &str), key: &str, value: Option<&str>) -> rusqlite::Result<()> {
    let (model, id) = subject;
    match value {
        Some(value) => to.execute(
            "INSERT INTO tags (model, id, key, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = ?4",
            [model, id, key, value],
        ),
        None => to.execute("DELETE FROM tags WHERE model = ?1 AND id = ?2 AND key = ?3", [model, id, key]),
    }
    .map(drop)
}

/// Sets a description; an empty one is none.
pub(super) fn describe(to: &Connection, subject: (&str, &str), text: &str) -> rusqlite::Result<()> {
    let (model, id) = subject;
    if text.is_empty() {
        return to.execute("DELETE FROM descriptions WHERE model = ?1 AND id = ?2", [model, id]).map(drop);
    }
    to.execute(
        "INSERT INTO descriptions (model, id, text) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET text = ?3",
        [model, id, text],
    )
    .map(drop)
}

/// The alias of every model's newest promoted version.
pub(super) const LATEST: &str = "latest";

/// `v12`, by which a version's number is meant.
pub(super) fn number_of(alias: &str) -> Option<u64> {
    alias.strip_prefix('v').and_then(|digits| digits.parse().ok())
}

/// Refuses aliases that are no names, or that mean something already.
pub(super) fn check_alias(alias: &str) -> Result<()> {
    check_name("alias", alias)?;
    if alias == LATEST || number_of(alias).is_some() {
        return Err(Fault::definition(format!(
            "alias `{alias}` means something already: `latest` is the newest promoted version, `v3` the third; choose another"
        )));
    }
    Ok(())
}

const KEY_BYTES_MAX: usize = 250;
const VALUE_BYTES_MAX: usize = 5000;

/// Refuses tags that nobody could read.
pub(super) fn check_tag(key: &str, value: Option<&str>) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) || key.contains('=') {
        return Err(Fault::definition(format!(
            "tag {key:?}: a tag's name has 1 to {KEY_BYTES_MAX} bytes, without `=` and control characters"
        )));
    }
    check_text("a tag's value", value.unwrap_or_default(), VALUE_BYTES_MAX)
}

/// Refuses texts that are too long.
pub(super) fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Fault::definition(format!("{what} has {} bytes, and {bytes_max} at most are kept: shorten it", text.len())))
}

/// There is no such alias, but others.
pub(super) fn no_alias(noted: &Notes, model: &str, alias: &str) -> Fault {
    let there: Vec<&str> =
        noted.aliases.keys().filter(|(of, _)| of == model).map(|(_, alias)| alias.as_str()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Fault::definition(format!("{model} has no alias `{alias}`; there are: {there} (and always `latest`)"))
}
