//! What becomes of the state of each part of a pipeline when its definition is replaced by another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use crate::fingerprint::{Fingerprints, Part};

/// What becomes of a part's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It stays.
    Kept,
    /// It is made again from the log, which holds all that it takes.
    Rebuilt,
    /// It is made again from the log, if that still holds all that it takes.
    RebuiltIfHeld,
    /// The log no longer holds what it takes to make it again.
    Lost,
    /// There was none before.
    New,
    /// Nobody needs it any more.
    Removed,
    /// There is none.
    Stateless,
}

/// A part and what becomes of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The part: `source/NAME`, `request/NAME`, or a node's label.
    pub part: String,
    /// What becomes of its state.
    pub state: State,
    /// Why.
    pub reason: String,
    /// What it was called, where it was called differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
}

impl State {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Rebuilt => "rebuilt from the log",
            Self::RebuiltIfHeld => "rebuilt, if the log still holds it",
            Self::Lost => "lost",
            Self::New => "new",
            Self::Removed => "removed",
            Self::Stateless => "stateless",
        }
    }
}

/// What becomes of each part's state: of `new`'s in their order, then of those that only `old` has. `log_is_whole` says
/// whether the log still holds everything that the pipeline was made of, where that is known.
///
/// Two parts with one fingerprint have one state, so a part that is only called differently keeps it.
pub fn verdicts(old: &Fingerprints, new: &[Part], log_is_whole: Option<bool>) -> Vec<Verdict> {
    let mut called: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, fingerprint) in old {
        called.entry(fingerprint).or_insert(name);
    }
    // For each part that is not the same, where the change began.
    let mut changed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut verdicts = Vec::new();
    for part in new {
        let before = old.get(&part.name);
        let is_same = before == Some(&part.fingerprint);
        let was = if is_same { Some(part.name.as_str()) } else { called.get(part.fingerprint.as_str()).copied() };
        let origins: BTreeSet<&str> =
            part.reads.iter().filter_map(|read| changed.get(read.as_str())).flatten().copied().collect();
        let reason = match (was, before) {
            (Some(was), _) => {
                taken.insert(was);
                if was == part.name { String::new() } else { format!("was called {was}") }
            }
            (None, Some(_)) if origins.is_empty() => own_change(&part.name),
            (None, Some(_)) => {
                format!("comes after {}", origins.iter().copied().collect::<Vec<_>>().join(", "))
            }
            (None, None) => String::new(),
        };
        if was.is_none() {
            let origins = if origins.is_empty() { BTreeSet::from([part.name.as_str()]) } else { origins };
            changed.insert(&part.name, origins);
        }
        let state = match (part.stateful, was.is_some(), before.is_some(), log_is_whole) {
            (false, ..) => State::Stateless,
            (true, true, ..) => State::Kept,
            (true, false, false, _) => State::New,
            (true, false, true, Some(true)) => State::Rebuilt,
            (true, false, true, Some(false)) => State::Lost,
            (true, false, true, None) => State::RebuiltIfHeld,
        };
        let was = was.filter(|was| *was != part.name).map(str::to_owned);
        verdicts.push(Verdict { part: part.name.clone(), state, reason, was });
    }
    let names: BTreeSet<&str> = new.iter().map(|part| part.name.as_str()).collect();
    for name in old.keys().filter(|name| !names.contains(name.as_str()) && !taken.contains(name.as_str())) {
        verdicts.push(Verdict { part: name.clone(), state: State::Removed, reason: String::new(), was: None });
    }
    verdicts
}

fn own_change(part: &str) -> String {
    if part.starts_with("source/") {
        "its configuration or its place among the sources has changed".to_owned()
    } else if part.starts_with("request/") {
        "it reads another topic; what that holds is answered from its beginning".to_owned()
    } else {
        "its own configuration has changed".to_owned()
    }
}

/// The verdicts as a table.
pub fn table(verdicts: &[Verdict]) -> String {
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0) + 2;
    let part = width(&mut verdicts.iter().map(|verdict| verdict.part.chars().count()).chain([4]));
    let state = width(&mut verdicts.iter().map(|verdict| verdict.state.words().len()).chain([5]));
    let mut text = format!("{:<part$}{:<state$}why", "part", "state");
    for Verdict { part: name, state: what, reason, .. } in verdicts {
        let line = format!("{name:<part$}{:<state$}{reason}", what.words());
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}", line.trim_end());
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts from `name: fingerprint < what it reads`; a name with a star has state.
    fn parts(text: &str) -> Vec<Part> {
        let part = |line: &str| {
            let (name, rest) = line.trim().split_once(": ").expect("a name");
            let (fingerprint, reads) = rest.split_once(" < ").unwrap_or((rest, ""));
            Part {
                name: name.trim_end_matches('*').to_owned(),
                fingerprint: fingerprint.to_owned(),
                reads: reads.split_whitespace().map(str::to_owned).collect(),
                stateful: name.ends_with('*'),
            }
        };
        text.split(';').map(part).collect()
    }

    fn shown(old: &str, new: &str, log_is_whole: Option<bool>) -> Vec<String> {
        let old = parts(old).into_iter().map(|part| (part.name, part.fingerprint)).collect();
        let verdicts = verdicts(&old, &parts(new), log_is_whole);
        let line = |verdict: &Verdict| {
            format!("{} {:?} {}", verdict.part, verdict.state, verdict.reason).trim_end().to_owned()
        };
        verdicts.iter().map(line).collect()
    }

    const OLD: &str = "source/s*: 1; a/0/x: 2 < source/s; a/1/y*: 3 < a/0/x; m*: 4 < a/1/y; n*: 5 < a/0/x";

    #[test]
    fn what_has_not_changed_is_kept() {
        let kept = ["source/s Kept", "a/0/x Stateless", "a/1/y Kept", "m Kept", "n Kept"];
        for whole in [None, Some(true), Some(false)] {
            assert_eq!(shown(OLD, OLD, whole), kept);
        }
    }

    #[test]
    fn what_comes_after_a_change_is_rebuilt_or_lost() {
        let new = "source/s*: 1; a/0/x: 2 < source/s; a/1/y*: 30 < a/0/x; m*: 40 < a/1/y; n*: 5 < a/0/x";
        for (whole, state) in [(None, "RebuiltIfHeld"), (Some(true), "Rebuilt"), (Some(false), "Lost")] {
            let expected = [
                "source/s Kept".to_owned(),
                "a/0/x Stateless".to_owned(),
                format!("a/1/y {state} its own configuration has changed"),
                format!("m {state} comes after a/1/y"),
                "n Kept".to_owned(),
            ];
            assert_eq!(shown(OLD, new, whole), expected);
        }
    }

    #[test]
    fn a_change_is_named_where_it_began() {
        let new = "source/s*: 10; a/0/x: 20 < source/s; a/1/y*: 30 < a/0/x; m*: 40 < a/1/y; o*: 50 < a/0/x";
        let expected = [
            "source/s Lost its configuration or its place among the sources has changed",
            "a/0/x Stateless comes after source/s",
            "a/1/y Lost comes after source/s",
            "m Lost comes after source/s",
            "o New",
            "n Removed",
        ];
        assert_eq!(shown(OLD, new, Some(false)), expected);
    }

    #[test]
    fn another_name_is_no_change() {
        let new = "source/s*: 1; b/0/x: 2 < source/s; b/1/y*: 3 < b/0/x; k*: 4 < b/1/y; n*: 5 < b/0/x";
        let expected = [
            "source/s Kept",
            "b/0/x Stateless was called a/0/x",
            "b/1/y Kept was called a/1/y",
            "k Kept was called m",
            "n Kept",
        ];
        assert_eq!(shown(OLD, new, Some(false)), expected);
    }

    #[test]
    fn tables_are_aligned() {
        let old = parts(OLD).into_iter().map(|part| (part.name, part.fingerprint)).collect();
        let new = parts("source/s*: 1; a/1/y*: 30");
        let expected = "part      state                 why\n\
                        source/s  kept\n\
                        a/1/y     rebuilt from the log  its own configuration has changed\n\
                        a/0/x     removed\nm         removed\nn         removed\n";
        assert_eq!(table(&verdicts(&old, &new, Some(true))), expected);
    }
}
