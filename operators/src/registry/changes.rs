//! Changes of what is noted of versions.
//!
//! A version comes first and goes first; what is noted follows it. So a crash between the two leaves a version that nobody has
//! noted, or a note without a version, and each change begins by mending both.

use std::collections::BTreeMap;

use millstream_engine::{Fault, Result};

use super::artefacts::Done;
use super::compare::{self, Comparison};
use super::database::Transaction;
use super::notes::{self, Author, Event, Notes};
use super::store::{Listed, Registry};
use super::version::Version;

const DESCRIPTION_BYTES_MAX: usize = 100_000;

/// A version with what is noted of it.
#[derive(Debug)]
pub struct Entry {
    /// The model's name.
    pub model: String,
    /// The version's id.
    pub id: String,
    /// Which of its model's versions it is, in the order of their promotion, from 1; none of one that is damaged and was
    /// never noted.
    pub number: Option<u64>,
    /// The version, or what is wrong with it.
    pub version: Result<Version>,
    /// What names it.
    pub aliases: Vec<String>,
    /// By name.
    pub tags: BTreeMap<String, String>,
    /// What people wrote about it; may be empty.
    pub description: String,
    /// When something last happened to it, milliseconds since 1970; `None` where nothing is noted.
    pub changed_ms: Option<i64>,
}

/// What is noted of a model, whatever its versions are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What people wrote about it; may be empty.
    pub description: String,
    /// By name.
    pub tags: BTreeMap<String, String>,
}

/// What a promotion to an alias tolerates.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// By which part of its value a decisive measure may be worse on a slice.
    pub slice: f64,
    /// Whether to go on when it is worse.
    pub force: bool,
}

/// What is changed about a version, or about a model.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// Sets a tag, or without a value removes it.
    Tag(&'a str, Option<&'a str>),
    /// Describes it; an empty text is no description.
    Description(&'a str),
}

impl Registry {
    /// All versions with what is noted of them, by model and time of promotion.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let listed = self.list()?;
        let notes = self.notes(&listed)?;
        let entry = |Listed { model, id, version }| {
            let subject = (model, id);
            let number = notes.numbers.get(&subject).copied();
            let tags = notes.tags.get(&subject).cloned().unwrap_or_default();
            let description = notes.descriptions.get(&subject).cloned().unwrap_or_default();
            let changed_ms = notes.changed.get(&subject).copied();
            let (model, id) = subject;
            Entry { number, aliases: notes.aliases_of(&model, &id), tags, description, changed_ms, model, id, version }
        };
        Ok(listed.into_iter().map(entry).collect())
    }

    /// What is noted of models themselves, by name; nothing of most.
    pub fn about_models(&self) -> Result<BTreeMap<String, About>> {
        let Notes { tags, descriptions, .. } = self.database.read(Notes::read)?.unwrap_or_default();
        let mut models: BTreeMap<String, About> = BTreeMap::new();
        for ((model, _), tags) in tags.into_iter().filter(|((_, id), _)| id.is_empty()) {
            models.entry(model).or_default().tags = tags;
        }
        for ((model, _), description) in descriptions.into_iter().filter(|((_, id), _)| id.is_empty()) {
            models.entry(model).or_default().description = description;
        }
        Ok(models)
    }

    /// What happened to a model, or to one of its versions, or to all; oldest first.
    pub fn history(&self, model: Option<&str>, id: Option<&str>) -> Result<Vec<Event>> {
        let read = self.database.read(|from| Ok((notes::events(from, model, id)?, Notes::read(from)?)))?;
        let (mut events, noted) = read.unwrap_or_default();
        // What nobody has noted yet will be.
        let listed = self.list()?;
        for version in unnoted(&listed, &noted) {
            let is_asked =
                model.is_none_or(|model| model == version.metadata.model) && id.is_none_or(|id| id == version.id);
            if is_asked {
                events.push(promoted(version));
            }
        }
        Ok(events)
    }

    /// What is noted, and will be of `listed` with the next change.
    pub(super) fn notes(&self, listed: &[Listed]) -> Result<Notes> {
        let mut notes = self.database.read(Notes::read)?.unwrap_or_default();
        for version in unnoted(listed, &notes.clone()) {
            notes.number(&version.metadata.model, &version.id);
        }
        Ok(notes)
    }

    /// Notes the versions that are there and were not noted: what a run calls after each promotion.
    pub fn note_versions(&self, now_ms: i64) -> Result<()> {
        self.change(now_ms, |_| Ok(()))
    }

    /// Lets an alias name a version.
    pub fn set_alias(&self, version: &Version, alias: &str, author: &Author) -> Result<()> {
        notes::check_alias(alias)?;
        self.change(author.at_ms, |to| self.move_alias(to, version, alias, author).map(drop))
    }

    /// Lets an alias name a version, where that is sound and no worse than the one that the alias names now. Gives the
    /// comparison with that one.
    pub fn promote_to(
        &self,
        version: &Version,
        alias: &str,
        tolerance: Tolerance,
        author: &Author,
    ) -> Result<Option<Comparison>> {
        notes::check_alias(alias)?;
        self.change(author.at_ms, |to| {
            self.artefacts(version)?;
            let model = &version.metadata.model;
            let noted = Notes::read(to)?;
            let holder = noted.aliases.get(&(model.clone(), alias.to_owned())).filter(|id| **id != version.id);
            let compare = |id: &String| self.compare(&self.read((model, id))?, version);
            let comparison = match holder.map(compare).transpose() {
                Ok(comparison) => comparison,
                Err(_) if tolerance.force => None,
                Err(fault) => {
                    let message =
                        format!("{}; nothing can be compared with it: --force moves {alias} anyway", fault.message);
                    return Err(Fault { message, ..fault });
                }
            };
            if let Some(comparison) = comparison.as_ref().filter(|_| !tolerance.force) {
                compare::check(comparison, tolerance.slice)
                    .map_err(|why| Fault::definition(format!("{model}@{alias} stays with {}: {why}", comparison.a)))?;
            }
            self.move_alias(to, version, alias, author)?;
            Ok(comparison)
        })
    }

    fn move_alias(&self, to: &mut dyn Transaction, version: &Version, alias: &str, author: &Author) -> Result<()> {
        let model = &version.metadata.model;
        if !self.artefacts.contains(version.subject())? {
            return Err(gone(model, &version.id));
        }
        let before = Notes::read(to)?.aliases.get(&(model.clone(), alias.to_owned())).cloned();
        let what = match &before {
            Some(before) if *before == version.id => return Ok(()),
            Some(before) => format!("{alias} from {before}"),
            None => alias.to_owned(),
        };
        notes::set_alias(to, model, alias, Some(&version.id))?;
        notes::tell(to, (model, &version.id), "alias", &what, author)
    }

    /// Takes an alias away.
    pub fn remove_alias(&self, model: &str, alias: &str, author: &Author) -> Result<()> {
        self.change(author.at_ms, |to| {
            let noted = Notes::read(to)?;
            let Some(id) = noted.aliases.get(&(model.to_owned(), alias.to_owned())) else {
                return Err(notes::no_alias(&noted, model, alias));
            };
            notes::set_alias(to, model, alias, None)?;
            notes::tell(to, (model, id), "alias", &format!("{alias} removed"), author)
        })
    }

    /// Changes what is noted of a version, or where there is none, of the model.
    pub fn edit(&self, model: &str, version: Option<&Version>, edit: Edit<'_>, author: &Author) -> Result<()> {
        match edit {
            Edit::Tag(key, value) => notes::check_tag(key, value)?,
            Edit::Description(text) => notes::check_text("a description", text, DESCRIPTION_BYTES_MAX)?,
        }
        self.change(author.at_ms, |to| {
            let id = version.map_or("", |version| version.id.as_str());
            if version.is_some() && !self.artefacts.contains((model, id))? {
                return Err(gone(model, id));
            }
            let subject = (model, id);
            let (kind, what) = match edit {
                Edit::Tag(key, Some(value)) => ("tag", format!("{key}={value}")),
                Edit::Tag(key, None) => ("tag", format!("{key} removed")),
                Edit::Description(text) => ("description", text.chars().take(80).collect()),
            };
            match edit {
                Edit::Tag(key, None) => {
                    let noted = Notes::read(to)?;
                    let tags = noted.tags.get(&(model.to_owned(), id.to_owned()));
                    if !tags.is_some_and(|tags| tags.contains_key(key)) {
                        let there =
                            tags.map_or_else(String::new, |tags| tags.keys().cloned().collect::<Vec<_>>().join(", "));
                        let there = if there.is_empty() { "none" } else { &there };
                        return Err(Fault::definition(format!("there is no tag `{key}`; there are: {there}")));
                    }
                    notes::set_tag(to, subject, key, None)?;
                }
                Edit::Tag(key, value) => notes::set_tag(to, subject, key, value)?,
                Edit::Description(text) => notes::describe(to, subject, text)?,
            }
            notes::tell(to, subject, kind, &what, author)
        })
    }

    /// Removes a version that no alias names, sound or damaged.
    pub fn delete(&self, model: &str, id: &str, author: &Author) -> Result<()> {
        self.delete_in_steps((model, id), author, &mut |_| Ok(()))
    }

    /// Calls `done` after each step that a crash may follow.
    pub(super) fn delete_in_steps(&self, version: (&str, &str), author: &Author, done: Done<'_>) -> Result<()> {
        let (model, id) = version;
        self.change(author.at_ms, |to| {
            let aliases = Notes::read(to)?.aliases_of(model, id);
            if !aliases.is_empty() {
                return Err(Fault::definition(format!(
                    "version {model}/{id} is {}: give the alias to another version or remove it first (`millstream models \
                     alias`)",
                    aliases.join(" and ")
                )));
            }
            if !self.artefacts.contains(version)? {
                return Err(gone(model, id));
            }
            done("checked")?;
            let reason = self.read(version).map_or_else(|_| "damaged".to_owned(), |version| version.metadata.reason);
            self.artefacts.hide(version, done)?;
            notes::remove_version(to, model, id)?;
            notes::tell(to, version, "deleted", &reason, author)?;
            // While nobody else can bring it back. What stays is removed by the next version.
            let cleared = self.artefacts.clear(version);
            done("removed")?;
            Ok(cleared)
        })??;
        done("noted")
    }

    /// Changes what is noted, after it was mended. Nobody else changes anything meanwhile.
    pub(super) fn change<T>(&self, now_ms: i64, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<T> {
        self.database.write(|to| {
            self.pair(to, now_ms)?;
            self.mend(to, now_ms)?;
            act(to)
        })
    }

    /// Refuses a database that notes the versions of another place: what it does not find here, it would forget.
    fn pair(&self, to: &mut dyn Transaction, now_ms: i64) -> Result<()> {
        if !self.apart {
            return Ok(());
        }
        let (noted, there) = (notes::label(to)?, self.artefacts.label()?);
        match (noted, there) {
            (Some(noted), Some(there)) if noted == there => Ok(()),
            (Some(_), there) => {
                let what = if there.is_some() { "is another registry" } else { "holds no registry that it knows" };
                let (database, place) = (self.database.place(), self.artefacts.place());
                Err(Fault::definition(format!(
                    "{database} notes the versions of another place, and {place} {what}: correct the one that is wrong; a \
                     registry that moves takes its file registry.id along"
                )))
            }
            (None, Some(there)) => notes::set_label(to, &there),
            (None, None) => {
                let from =
                    format!("{} {} {now_ms} {}", self.artefacts.place(), self.database.place(), std::process::id());
                let label = blake3::hash(from.as_bytes()).to_hex()[..32].to_owned();
                self.artefacts.set_label(&label)?;
                notes::set_label(to, &label)
            }
        }
    }

    /// Notes versions that nobody has noted, and forgets those that have gone.
    fn mend(&self, to: &mut dyn Transaction, now_ms: i64) -> Result<()> {
        let mut noted = Notes::read(to)?;
        let there = self.artefacts.versions(None)?;
        let new = there.iter().filter(|subject| !noted.numbers.contains_key(*subject));
        let mut new: Vec<Version> = new.filter_map(|(model, id)| self.read((model, id)).ok()).collect();
        new.sort_by_key(Version::order);
        for version in new {
            let Event { model, version: id, kind, what, by, why, at_ms } = promoted(&version);
            let number = noted.number(&model, &id);
            notes::add_version(to, &model, &id, number)?;
            notes::tell(to, (&model, &id), &kind, &what, &Author { by, why, at_ms })?;
        }
        let gone: Vec<_> = noted.numbers.keys().filter(|subject| !there.contains(*subject)).collect();
        for (model, id) in gone {
            let why = match noted.aliases_of(model, id).join(" and ") {
                none if none.is_empty() => "it is no longer there".to_owned(),
                aliases => format!("it is no longer there; it was {aliases}"),
            };
            let author = Author { by: "unknown".to_owned(), why, at_ms: now_ms };
            notes::remove_version(to, model, id)?;
            notes::tell(to, (model, id), "deleted", "", &author)?;
        }
        Ok(())
    }
}

/// Sound versions that are not noted, in the order of promotion.
fn unnoted<'a>(listed: &'a [Listed], noted: &Notes) -> Vec<&'a Version> {
    let is_new = |listed: &&Listed| !noted.numbers.contains_key(&(listed.model.clone(), listed.id.clone()));
    let mut new: Vec<&Version> =
        listed.iter().filter(is_new).filter_map(|listed| listed.version.as_ref().ok()).collect();
    new.sort_by_key(|version| version.order());
    new
}

/// The event that a version itself tells of.
fn promoted(version: &Version) -> Event {
    let metadata = &version.metadata;
    Event {
        at_ms: metadata.promoted_ms,
        model: metadata.model.clone(),
        version: version.id.clone(),
        kind: "promoted".to_owned(),
        what: format!("revision {}", metadata.revision),
        by: metadata.promoted_by.clone().unwrap_or_else(|| "unknown".to_owned()),
        why: metadata.reason.clone(),
    }
}

fn gone(model: &str, id: &str) -> Fault {
    Fault::definition(format!("version {model}/{id} has been deleted meanwhile"))
}
