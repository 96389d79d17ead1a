//! What is noted of versions, and may change: numbers, aliases, tags, descriptions, history.

use std::collections::BTreeMap;

use millstream_engine::{Fault, Result};
use serde::Serialize;

use super::artefacts::Subject;
use super::database::{Transaction, Value};
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

/// All that is noted, at one moment; of a model itself with an empty id.
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
    pub(super) fn read(from: &mut dyn Transaction) -> Result<Self> {
        let mut notes = Self::default();
        for row in from.rows("SELECT model, id, number, deleted FROM versions", &[])? {
            let (model, id, number) = (row.text(0)?, row.text(1)?, row.number(2)? as u64);
            let next = notes.next.entry(model.clone()).or_insert(1);
            *next = (*next).max(number + 1);
            if row.number(3)? == 0 {
                notes.numbers.insert((model, id), number);
            }
        }
        for row in from.rows("SELECT model, alias, id FROM aliases", &[])? {
            notes.aliases.insert((row.text(0)?, row.text(1)?), row.text(2)?);
        }
        for row in from.rows("SELECT model, id, text FROM descriptions", &[])? {
            notes.descriptions.insert((row.text(0)?, row.text(1)?), row.text(2)?);
        }
        for row in from.rows("SELECT model, id, max(at_ms) FROM events GROUP BY model, id", &[])? {
            notes.changed.insert((row.text(0)?, row.text(1)?), row.number(2)?);
        }
        for row in from.rows("SELECT model, id, key, value FROM tags", &[])? {
            let tags = notes.tags.entry((row.text(0)?, row.text(1)?)).or_default();
            tags.insert(row.text(2)?, row.text(3)?);
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

/// Events of a model, or of one of its versions, or all; oldest first.
pub(super) fn events(from: &mut dyn Transaction, model: Option<&str>, id: Option<&str>) -> Result<Vec<Event>> {
    let sql = "SELECT at_ms, model, id, kind, what, by, why FROM events
        WHERE ($1 IS NULL OR model = $1) AND ($2 IS NULL OR id = $2) ORDER BY event";
    let [model, id] = [model, id].map(|text| text.map_or(Value::Absent, Value::Text));
    let mut events = Vec::new();
    for row in from.rows(sql, &[model, id])? {
        let (at_ms, model, version) = (row.number(0)?, row.text(1)?, row.text(2)?);
        let (kind, what, by, why) = (row.text(3)?, row.text(4)?, row.text(5)?, row.text(6)?);
        events.push(Event { at_ms, model, version, kind, what, by, why });
    }
    Ok(events)
}

/// Adds to the history.
pub(super) fn tell(
    to: &mut dyn Transaction,
    subject: (&str, &str),
    kind: &str,
    what: &str,
    author: &Author,
) -> Result<()> {
    let Author { by, why, at_ms } = author;
    let texts = [subject.0, subject.1, kind, what, by, why].map(Value::Text);
    let values: Vec<Value<'_>> = [Value::Number(*at_ms)].into_iter().chain(texts).collect();
    let sql = "INSERT INTO events (at_ms, model, id, kind, what, by, why) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    to.execute(sql, &values)
}

/// Notes that a version is there.
pub(super) fn add_version(to: &mut dyn Transaction, model: &str, id: &str, number: u64) -> Result<()> {
    let values = [Value::Text(model), Value::Number(number as i64), Value::Text(id)];
    to.execute("INSERT INTO versions (model, number, id) VALUES ($1, $2, $3)", &values)
}

/// Forgets a version, but for its history and its number.
pub(super) fn remove_version(to: &mut dyn Transaction, model: &str, id: &str) -> Result<()> {
    let subject = [model, id].map(Value::Text);
    to.execute("UPDATE versions SET deleted = 1 WHERE model = $1 AND id = $2", &subject)?;
    for table in ["aliases", "tags", "descriptions"] {
        to.execute(&format!("DELETE FROM {table} WHERE model = $1 AND id = $2"), &subject)?;
    }
    Ok(())
}

/// Lets an alias name a version, or none.
pub(super) fn set_alias(to: &mut dyn Transaction, model: &str, alias: &str, id: Option<&str>) -> Result<()> {
    match id {
        Some(id) => to.execute(
            "INSERT INTO aliases (model, alias, id) VALUES ($1, $2, $3) ON CONFLICT (model, alias) DO UPDATE SET id = $3",
            &[model, alias, id].map(Value::Text),
        ),
        None => to.execute("DELETE FROM aliases WHERE model = $1 AND alias = $2", &[model, alias].map(Value::Text)),
    }
}

/// Sets a tag, or removes it.
pub(super) fn set_tag(to: &mut dyn Transaction, subject: (&str, &str), key: &str, value: Option<&str>) -> Result<()> {
    let (model, id) = subject;
    match value {
        Some(value) => to.execute(
            "INSERT INTO tags (model, id, key, value) VALUES ($1, $2, $3, $4)
                ON CONFLICT (model, id, key) DO UPDATE SET value = $4",
            &[model, id, key, value].map(Value::Text),
        ),
        None => {
            to.execute("DELETE FROM tags WHERE model = $1 AND id = $2 AND key = $3", &[model, id, key].map(Value::Text))
        }
    }
}

/// Sets a description; an empty one is none.
pub(super) fn describe(to: &mut dyn Transaction, subject: (&str, &str), text: &str) -> Result<()> {
    let (model, id) = subject;
    if text.is_empty() {
        let sql = "DELETE FROM descriptions WHERE model = $1 AND id = $2";
        return to.execute(sql, &[model, id].map(Value::Text));
    }
    to.execute(
        "INSERT INTO descriptions (model, id, text) VALUES ($1, $2, $3) ON CONFLICT (model, id) DO UPDATE SET text = $3",
        &[model, id, text].map(Value::Text),
    )
}

/// The registry whose versions are noted here, by its own name.
pub(super) fn label(from: &mut dyn Transaction) -> Result<Option<String>> {
    from.rows("SELECT id FROM registry", &[])?.first().map(|row| row.text(0)).transpose()
}

/// Notes whose versions are noted here.
pub(super) fn set_label(to: &mut dyn Transaction, label: &str) -> Result<()> {
    to.execute("INSERT INTO registry (id) VALUES ($1)", &[Value::Text(label)])
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

/// Refuses texts that are too long, or that not every database can keep.
pub(super) fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.contains('\0') {
        return Err(Fault::definition(format!("{what} has a zero character: leave it out")));
    }
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
