//! Letters of one kind together: how many, and from which record to which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use millstream_connectors::formats::mismatch::Mismatch;
use serde::Serialize;

use super::Letter;
use crate::run::time;

/// More kinds are not told apart: whoever sends rubbish must not fill the memory.
const GROUPS_MAX: usize = 10_000;
/// What the others are called.
const OTHERS: &str = "(other reasons)";

/// Letters of one source, partition, step and kind of reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The source, or the name of the requests.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// `learn` or `serve`.
    pub lane: &'static str,
    /// Who could not take them.
    pub step: String,
    /// Why, with numbers and values left out.
    pub reason: String,
    /// How many records they are.
    pub records: u64,
    /// How many of them were given to their source again.
    pub replayed: u64,
    /// The first record's offset.
    pub first_offset: u64,
    /// The last record's offset.
    pub last_offset: u64,
    /// When the first became a letter.
    pub first_time: String,
    /// When the last one did.
    pub last_time: String,
    /// What has become of a column, where that is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<Column>,
}

/// A column that is not what it is declared as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The column.
    pub name: String,
    /// What it is declared as.
    pub declared: String,
    /// What was found instead; `nothing` for a required column that is missing.
    pub found: String,
}

/// All groups.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Groups {
    /// In the order of sources, partitions and first offsets.
    pub groups: Vec<Group>,
    /// Records of the topic that are no dead letters.
    pub strange: u64,
}

/// What makes letters a group: source, partition, whether they asked, step, reason.
type Kind = (String, u32, bool, String, String);

/// Grows with letters.
#[derive(Default)]
pub(super) struct Grouping {
    kinds: BTreeMap<Kind, Span>,
}

struct Span {
    records: u64,
    replayed: u64,
    offsets: (u64, u64),
    times_ms: (i64, i64),
    column: Option<Column>,
}

impl Grouping {
    pub(super) fn add(&mut self, letter: &Letter, is_replayed: bool) {
        let mismatch = Mismatch::parse(&letter.reason);
        let reason = mismatch.map_or_else(|| collapsed(&letter.reason), |mismatch| said(&mismatch));
        let mut kind = (letter.source.clone(), letter.partition, letter.asked, letter.step.clone(), reason);
        let kind_is_told = self.kinds.len() < GROUPS_MAX || self.kinds.contains_key(&kind);
        if !kind_is_told {
            OTHERS.clone_into(&mut kind.4);
        }
        let (offset, time_ms) = (letter.offset, letter.timestamp_ms);
        let span = self.kinds.entry(kind).or_insert(Span {
            records: 0,
            replayed: 0,
            offsets: (offset, offset),
            times_ms: (time_ms, time_ms),
            column: mismatch.filter(|_| kind_is_told).map(|mismatch| Column {
                name: mismatch.column.to_owned(),
                declared: mismatch.declared.to_owned(),
                found: mismatch.found.to_owned(),
            }),
        });
        span.records += 1;
        span.replayed += u64::from(is_replayed);
        span.offsets = (span.offsets.0.min(offset), span.offsets.1.max(offset));
        span.times_ms = (span.times_ms.0.min(time_ms), span.times_ms.1.max(time_ms));
    }

    pub(super) fn finish(self, strange: u64) -> Groups {
        let group = |((source, partition, asked, step, reason), span): (Kind, Span)| Group {
            source,
            partition,
            lane: if asked { "serve" } else { "learn" },
            step,
            reason,
            records: span.records,
            replayed: span.replayed,
            first_offset: span.offsets.0,
            last_offset: span.offsets.1,
            first_time: time(span.times_ms.0),
            last_time: time(span.times_ms.1),
            column: span.column,
        };
        let mut groups: Vec<Group> = self.kinds.into_iter().map(group).collect();
        groups.sort_by(|a, b| (&a.source, a.partition, a.first_offset).cmp(&(&b.source, b.partition, b.first_offset)));
        Groups { groups, strange }
    }
}

/// Groups letters; `replayed` are the origins of those that were given to their source again.
pub fn groups<'a>(letters: impl IntoIterator<Item = &'a Letter>, replayed: &BTreeSet<String>) -> Groups {
    let mut grouping = Grouping::default();
    for letter in letters {
        grouping.add(letter, replayed.contains(&letter.origin()));
    }
    grouping.finish(0)
}

/// What has become of a column, without the value.
fn said(Mismatch { column, declared, found }: &Mismatch<'_>) -> String {
    match *found {
        NOTHING => format!("`{column}` is missing, and required ({declared})"),
        found => format!("`{column}` is {found}, not {declared}"),
    }
}

/// What is found where a required column has no value.
const NOTHING: &str = "nothing";

/// A reason without what differs from record to record: numbers and quoted values. What stands in backticks are names.
fn collapsed(reason: &str) -> String {
    let mut out = String::with_capacity(reason.len());
    let mut rest = reason.chars().peekable();
    let mut is_name = false;
    while let Some(c) = rest.next() {
        match c {
            '`' => {
                is_name = !is_name;
                out.push(c);
            }
            '"' if !is_name => {
                let mut escaped = false;
                for c in rest.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                out.push('…');
            }
            '0'..='9' if !is_name => {
                let is_part = |c: &char| c.is_ascii_digit() || *c == '.';
                while rest.next_if(is_part).is_some() {}
                out.push('#');
            }
            c => out.push(c),
        }
    }
    out
}

impl Groups {
    /// For people.
    pub fn text(&self) -> String {
        if self.groups.is_empty() {
            return "no dead letters\n".to_owned();
        }
        let head = ["records", "replayed", "from", "to", "first", "last", "step", "reason"].map(str::to_owned);
        let row = |group: &Group| {
            let asked = if group.lane == "serve" { " (asked)" } else { "" };
            [
                group.records.to_string(),
                group.replayed.to_string(),
                format!("{}/{}:{}", group.source, group.partition, group.first_offset),
                group.last_offset.to_string(),
                group.first_time.clone(),
                group.last_time.clone(),
                format!("{}{asked}", group.step),
                group.reason.clone(),
            ]
        };
        let rows: Vec<[String; 8]> = [head].into_iter().chain(self.groups.iter().map(row)).collect();
        let mut text = String::new();
        for group in self.groups.iter().filter(|group| group.column.is_some()) {
            let Group { source, partition, first_offset, last_offset, records, reason, .. } = group;
            let offsets = last_offset - first_offset + 1;
            let noun = if *records == 1 { "record" } else { "records" };
            let share = if *records == offsets { "all".to_owned() } else { format!("of {offsets}") };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{source}/{partition} from offset {first_offset}: {reason} ({records} {noun}, {share} up to offset {last_offset})"
            );
        }
        if !text.is_empty() {
            text.push('\n');
        }
        for row in &rows {
            for (at, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
                // Writing to a string cannot fail.
                let _ = match at {
                    0 | 1 => write!(text, "{cell:>width$}  "),
                    7 => writeln!(text, "{cell}"),
                    _ => write!(text, "{cell:<width$}  "),
                };
            }
        }
        if self.strange > 0 {
            let _ = writeln!(text, "{} records of the topic are no dead letters", self.strange);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_collapsed() {
        for (reason, expected) in [
            ("late by 35940000 ms beyond the allowed 60000 ms", "late by # ms beyond the allowed # ms"),
            ("`amount > 10` does not hold", "`amount > 10` does not hold"),
            ("not JSON at byte 12: expected `:`", "not JSON at byte #: expected `:`"),
            (r#"something "a \"quoted\" 5" follows"#, "something … follows"),
            (r#"cut "off"#, "cut …"),
            ("-1.5 and 2", "-# and #"),
            ("", ""),
        ] {
            assert_eq!(collapsed(reason), expected);
        }
    }

    fn letter(partition: u32, offset: u64, reason: &str) -> Letter {
        Letter {
            number: offset,
            timestamp_ms: 1000 * offset as i64,
            source: "orders".to_owned(),
            partition,
            offset,
            asked: false,
            step: "clean/0/require".to_owned(),
            reason: reason.to_owned(),
            raw: None,
            is_row: false,
        }
    }

    #[test]
    fn letters_of_a_kind_are_together() {
        let letters = [
            letter(0, 9, "late by 1 ms"),
            letter(0, 5, "late by 2 ms"),
            letter(0, 7, "other"),
            letter(1, 3, "late by 1 ms"),
        ];
        let replayed = BTreeSet::from(["orders/0:5".to_owned()]);
        let found = groups(&letters, &replayed);
        let shown: Vec<_> = found
            .groups
            .iter()
            .map(|group| (group.partition, group.first_offset, group.last_offset, group.records, group.replayed))
            .collect();
        assert_eq!(shown, [(0, 5, 9, 2, 1), (0, 7, 7, 1, 0), (1, 3, 3, 1, 0)]);
        assert_eq!(found.groups[0].first_time, "1970-01-01T00:00:05.000Z");
        let text = found.text();
        assert!(text.contains("      2         1  orders/0:5  9   "), "{text}");
    }

    #[test]
    fn what_has_become_of_a_column_is_said_first() {
        let mut letters: Vec<Letter> = (1200..1257)
            .map(|offset| {
                letter(0, offset, &format!("column `amount`: expected a float, found the text \"{offset},5\""))
            })
            .collect();
        letters.push(letter(1, 7, "column `at`: expected a timestamp like 2026-01-31T12:30:00Z, found nothing"));
        letters.push(letter(1, 9, "column `at`: expected a timestamp like 2026-01-31T12:30:00Z, found nothing"));
        let found = groups(&letters, &BTreeSet::new());
        assert_eq!(found.groups.len(), 2);
        let text = found.text();
        let expected = "\
orders/0 from offset 1200: `amount` is text, not float (57 records, all up to offset 1256)
orders/1 from offset 7: `at` is missing, and required (timestamp) (2 records, of 3 up to offset 9)

records";
        assert!(text.starts_with(expected), "{text}");
        let column = Column { name: "amount".to_owned(), declared: "float".to_owned(), found: "text".to_owned() };
        assert_eq!(found.groups[0].column, Some(column));
    }

    #[test]
    fn there_is_an_end_to_kinds() {
        let mut grouping = Grouping::default();
        for offset in 0..20_000 {
            grouping.add(&letter(0, offset, &format!("`{offset}`")), false);
        }
        let found = grouping.finish(0);
        assert_eq!(found.groups.len(), GROUPS_MAX + 1);
        let others = found.groups.iter().find(|group| group.reason == OTHERS).expect("the rest");
        assert_eq!((others.records, others.first_offset), (10_000, 10_000));
    }
}
