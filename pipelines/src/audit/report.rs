//! What an audit has found.

use std::fmt::Write;

use serde::Serialize;

use crate::plan::Delivery;

/// How many wrong things are listed of one kind; of the others only the number is kept.
const LISTED: usize = 100;

/// What an audit has found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pipeline's name.
    pub pipeline: String,
    /// What a crash may do to answers.
    pub delivery: Delivery,
    /// Whether nothing is wrong.
    pub sound: bool,
    /// The journal's records of progress: each epoch once, in order.
    pub progress: Check,
    /// Ranges of records: each begins where the one before it has ended.
    pub ranges: Check,
    /// Records: still those that the epochs were made of.
    pub records: Check,
    /// Requests: each answered once.
    pub answers: Check,
    /// Epochs: their answers are still those that they gave.
    pub digests: Check,
    /// Answers to what nobody has asked.
    pub strays: Check,
    /// Answers that came more than once. With `delivery: at_least_once` that is no fault as long as they are the same.
    pub doubled: u64,
    /// With `delivery: at_least_once`: answers whose epoch was not recorded before the run ended.
    pub early: u64,
    /// Answers to requests of other pipelines.
    pub foreign: u64,
}

/// One thing that was checked.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How many were checked.
    pub checked: u64,
    /// How many could not be, because the log no longer holds what it takes.
    pub unproven: u64,
    /// How many are wrong.
    pub wrong: u64,
    /// What is wrong; at most a hundred are listed.
    pub list: Vec<Wrong>,
}

/// Something wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Topic, partition and offset.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl Check {
    pub(super) fn wrong(&mut self, place: String, message: impl Into<String>) {
        self.wrong += 1;
        if self.list.len() < LISTED {
            self.list.push(Wrong { place, message: message.into() });
        }
    }
}

impl Report {
    pub(super) fn new(pipeline: &str, delivery: Delivery) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            delivery,
            sound: true,
            progress: Check::default(),
            ranges: Check::default(),
            records: Check::default(),
            answers: Check::default(),
            digests: Check::default(),
            strays: Check::default(),
            doubled: 0,
            early: 0,
            foreign: 0,
        }
    }

    pub(super) fn judged(mut self) -> Self {
        self.sound = self.checks().iter().all(|(_, check)| check.wrong == 0);
        self
    }

    /// The checks with what they are about.
    pub fn checks(&self) -> [(&'static str, &Check); 6] {
        [
            ("progress records, each epoch once", &self.progress),
            ("ranges, without gap or overlap", &self.ranges),
            ("records, the same as then", &self.records),
            ("requests, answered once each", &self.answers),
            ("epochs, the same answers as then", &self.digests),
            ("answers that nobody asked for", &self.strays),
        ]
    }

    /// Everything that is listed as wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &Wrong> {
        self.checks().into_iter().flat_map(|(_, check)| &check.list)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{:<36}{:>12}{:>12}{:>12}\n", "what", "checked", "unproven", "wrong");
        // Writing to a string cannot fail.
        for (what, check) in self.checks() {
            let _ = writeln!(text, "{what:<36}{:>12}{:>12}{:>12}", check.checked, check.unproven, check.wrong);
        }
        for (what, count) in [
            ("answers that came again", self.doubled),
            ("answers before their epoch's record", self.early),
            ("answers of other pipelines", self.foreign),
        ] {
            if count > 0 {
                let _ = writeln!(text, "{what:<36}{count:>12}");
            }
        }
        for Wrong { place, message } in self.wrong() {
            let _ = writeln!(text, "\n{place}\n  {message}");
        }
        let wrong: u64 = self.checks().iter().map(|(_, check)| check.wrong).sum();
        let listed = self.wrong().count() as u64;
        if wrong > listed {
            let _ = writeln!(text, "\nand {} more", wrong - listed);
        }
        let unproven = self.checks().iter().any(|(_, check)| check.unproven > 0);
        text.push_str(match (self.sound, unproven) {
            (true, false) => "\nsound: nothing is lost, doubled or different\n",
            (true, true) => "\nsound as far as the log goes back; what is unproven is no longer in it\n",
            (false, _) => "\nNOT SOUND\n",
        });
        text
    }
}
