//! What a changed definition keeps of what earlier runs have learned.
//!
//! A part whose cone is unchanged keeps its state; what has changed, and what is new, is made again from the log, if that
//! still holds everything (see [`crate::diff`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::diff::{State, verdicts};
use crate::fingerprint::Part;
use crate::run::journal::Definition;

/// What becomes of state that was made with an older definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether nothing has changed that a result depends on.
    pub is_none: bool,
    /// The stateful parts that keep their state, by the names that they have now: what they were called.
    pub kept: BTreeMap<String, String>,
    /// Those that had another state, and why it does not fit.
    pub changed: BTreeMap<String, String>,
    /// Those that had none.
    pub new: BTreeSet<String>,
    /// Whether rows come from the same sources as before, so that each epoch teaches the same.
    pub has_same_sources: bool,
}

impl Change {
    /// From an older definition to the parts of a new one.
    pub fn between(old: &Definition, new: &Definition, parts: &[Part]) -> Self {
        if old.definition == new.definition {
            return Self { is_none: true, has_same_sources: true, ..Self::default() };
        }
        let sources = |name: &&String| name.starts_with("source/");
        let is_source_kept = |name: &String| old.fingerprints.get(name) == new.fingerprints.get(name);
        let mut all = old.fingerprints.keys().chain(new.fingerprints.keys()).filter(sources);
        let mut change = Self { has_same_sources: all.all(is_source_kept), ..Self::default() };
        for verdict in verdicts(&old.fingerprints, parts, None) {
            match verdict.state {
                State::Kept => {
                    let was = verdict.was.unwrap_or_else(|| verdict.part.clone());
                    change.kept.insert(verdict.part, was);
                }
                State::Rebuilt | State::RebuiltIfHeld | State::Lost => {
                    change.changed.insert(verdict.part, verdict.reason);
                }
                State::New => {
                    change.new.insert(verdict.part);
                }
                State::Removed | State::Stateless => {}
            }
        }
        change
    }

    /// Whether all state that the new definition needs is there.
    pub fn keeps_all(&self) -> bool {
        self.is_none || (self.changed.is_empty() && self.new.is_empty())
    }

    /// Whether a part has what it had, under the same name.
    pub fn keeps(&self, part: &str) -> bool {
        self.is_none || self.kept.get(part).is_some_and(|was| was == part)
    }

    /// Whether records that a source brought, or asked, are still its.
    pub fn keeps_source(&self, name: &str) -> bool {
        self.keeps(&format!("source/{name}")) || self.keeps(&format!("request/{name}"))
    }
}
