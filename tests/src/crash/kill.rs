//! Where runs die.

use std::fmt;

use millstream_engine::failpoint;

/// Where a process of its own is to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kill {
    /// At a failpoint, `before` or `after` its step.
    At(&'static str, &'static str),
    /// From outside.
    Outside,
    /// A member of the run, from outside; then the run fails.
    Member,
    /// Nobody: a member sleeps for so long that the run fails, too.
    Sleep,
}

impl fmt::Display for Kill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(name, side) => write!(formatter, "{name}:{side}"),
            Self::Outside => write!(formatter, "outside"),
            Self::Member => write!(formatter, "a member"),
            Self::Sleep => write!(formatter, "sleep"),
        }
    }
}

impl Kill {
    /// At every failpoint that the pipeline has, before and after; and from outside as often as at one of them.
    pub fn all() -> Vec<Self> {
        // It takes nothing in but from topics, its models begin with nothing, and it deletes no version.
        let is_passed = |name: &&&str| {
            !["intake.append", "registry.hide", "registry.clear"].contains(name) && !name.starts_with("origin.")
        };
        let names = failpoint::NAMES.iter().filter(is_passed);
        let sides = names.flat_map(|name| ["before", "after"].map(|side| Self::At(name, side)));
        sides.chain([Self::Outside, Self::Outside]).collect()
    }

    /// At every step that makes versions and their history, and at the commit that they wait for or that waits for them.
    pub fn of_versions() -> Vec<Self> {
        let names = ["promote.write", "promote.place", "transaction.commit", "registry.commit"];
        names.into_iter().flat_map(|name| ["before", "after"].map(|side| Self::At(name, side))).collect()
    }

    /// At some of all, and members as often as all others.
    pub fn of_processes() -> Vec<Self> {
        let names = ["transaction.commit", "checkpoint.manifest"];
        let at = names.into_iter().flat_map(|name| ["before", "after"].map(|side| Self::At(name, side)));
        at.chain([Self::Outside]).flat_map(|kill| [kill, Self::Member]).chain([Self::Sleep]).collect()
    }

    /// Whether it may come while a transaction of the answers' is open.
    pub fn leaves_a_transaction(self) -> bool {
        match self {
            Self::At(name, _) if name.starts_with("checkpoint.") => true,
            Self::At("transaction.send", side) => side == "after",
            Self::At("transaction.commit", side) => side == "before",
            Self::At("feed.append", _) | Self::Outside | Self::Member | Self::Sleep => true,
            Self::At(..) => false,
        }
    }

    /// Up to which time of passing it a failpoint kills, so that no life is over too soon.
    pub(super) fn nth_max(self) -> u64 {
        match self {
            Self::At("feed.append" | "promote.place" | "registry.commit", _) => 3,
            Self::At("checkpoint.manifest", _) => 4,
            _ => 12,
        }
    }
}
