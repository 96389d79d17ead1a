//! What there is to know about texts: above all, what they might be instead.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::frequent::Frequent;
use super::numbers::{Numbers, Sketched};
use crate::cleansing::reading::{instant, instant_as, truth};

/// Words that stand for a missing value, in small letters.
const WORDS: [&str; 14] =
    ["na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "unknown", "missing", "undefined", "(null)"];
/// So many spellings of such words are told apart.
const SPELLINGS_MAX: usize = 16;

/// Forms of timestamps that are tried besides RFC 3339, those that are read from more texts later.
pub const FORMATS: [&str; 9] = [
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
];

/// What texts might be instead, each as a count of the sampled ones.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Looks {
    /// How many texts were looked at.
    pub texts: u64,
    /// Nothing but blanks, or nothing at all.
    pub blank: u64,
    /// Blanks before or after.
    pub padded: u64,
    /// Words that stand for a missing value, in all spellings.
    pub words: u64,
    /// Numbers with a decimal point, or whole ones.
    pub numbers: u64,
    /// Of these, whole ones.
    pub whole: u64,
    /// Numbers with a decimal comma; none of these has a point there, too.
    pub commas: u64,
    /// Of these, those with points between their thousands.
    pub grouped: u64,
    /// True or false by a word.
    pub truths: u64,
    /// RFC 3339 timestamps and dates.
    pub timestamps: u64,
    /// By form (strftime's): timestamps that are written in it.
    pub formats: BTreeMap<Cow<'static, str>, u64>,
}

/// Sketches of the texts of a sample.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Texts {
    pub(super) looks: Looks,
    /// In characters.
    pub(super) shortest: u64,
    pub(super) longest: u64,
    pub(super) frequent: Frequent,
    /// Words that stand for a missing value, as they are spelled.
    pub(super) words: BTreeMap<String, u64>,
    /// Those that are numbers, with a point or a comma.
    pub(super) numbers: Numbers,
    pub(super) sketched: Sketched,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            looks: Looks::default(),
            shortest: u64::MAX,
            longest: 0,
            frequent: Frequent::default(),
            words: BTreeMap::new(),
            numbers: Numbers::default(),
            sketched: Sketched::default(),
        }
    }
}

impl Texts {
    pub(super) fn add(&mut self, text: &str) {
        let length = text.chars().count() as u64;
        (self.shortest, self.longest) = (self.shortest.min(length), self.longest.max(length));
        self.frequent.add(text);
        self.looks.texts += 1;
        let trimmed = text.trim();
        self.looks.padded += u64::from(trimmed.len() < text.len());
        if trimmed.is_empty() {
            self.looks.blank += 1;
        } else if WORDS.iter().any(|word| trimmed.eq_ignore_ascii_case(word)) {
            self.looks.words += 1;
            if self.words.len() < SPELLINGS_MAX || self.words.contains_key(trimmed) {
                *self.words.entry(trimmed.to_owned()).or_default() += 1;
            }
        } else if !self.is_number(trimmed) {
            self.looks.truths += u64::from(matches!(truth(trimmed), Ok(Some(_))));
            self.looks.look_for_time(trimmed);
        }
    }

    fn is_number(&mut self, text: &str) -> bool {
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | ',')) {
            return false;
        }
        let value = match text.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.looks.numbers += 1;
                self.looks.whole += u64::from(text.parse::<i64>().is_ok());
                value
            }
            Ok(_) => return false,
            Err(_) => {
                let Some((whole, fraction)) = text.split_once(',') else { return false };
                let plain = format!("{}.{fraction}", whole.replace('.', ""));
                let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
                let Some(value) = plain.parse::<f64>().ok().filter(|value| digits && value.is_finite()) else {
                    return false;
                };
                self.looks.commas += 1;
                self.looks.grouped += u64::from(whole.contains('.'));
                value
            }
        };
        self.numbers.add(value);
        self.sketched.add(value);
        true
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.looks.merge(&other.looks);
        (self.shortest, self.longest) = (self.shortest.min(other.shortest), self.longest.max(other.longest));
        self.frequent.merge(&other.frequent);
        for (word, count) in &other.words {
            *self.words.entry(word.clone()).or_default() += count;
        }
        self.numbers.merge(&other.numbers);
        self.sketched.merge(&other.sketched);
    }
}

impl Looks {
    fn look_for_time(&mut self, text: &str) {
        let mut separators = text.bytes().filter(|byte| matches!(byte, b'-' | b'.' | b'/'));
        if !text.starts_with(|c: char| c.is_ascii_digit()) || (separators.next(), separators.next()) == (None, None) {
            return;
        }
        if instant(text).is_ok() {
            self.timestamps += 1;
            return;
        }
        for format in FORMATS.iter().filter(|format| instant_as(text, format).is_ok()) {
            *self.formats.entry((*format).into()).or_default() += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        let Self { texts, blank, padded, words, numbers, whole, commas, grouped, truths, timestamps, formats } = self;
        *texts += other.texts;
        *blank += other.blank;
        *padded += other.padded;
        *words += other.words;
        *numbers += other.numbers;
        *whole += other.whole;
        *commas += other.commas;
        *grouped += other.grouped;
        *truths += other.truths;
        *timestamps += other.timestamps;
        for (format, count) in &other.formats {
            *formats.entry(format.clone()).or_default() += count;
        }
    }

    /// How many say something: neither blank nor a word for a missing value.
    pub fn telling(&self) -> u64 {
        self.texts - self.blank - self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Texts {
        let mut found = Texts::default();
        for text in texts {
            found.add(text);
        }
        found
    }

    #[test]
    fn texts_are_seen_for_what_they_might_be() {
        let found = of(&[
            "12",
            "-3.5",
            "1e3",
            "3,25",
            "-1.234,5",
            "1,2,3",
            "N/A",
            "n/a",
            " ",
            " x ",
            "yes",
            "FALSE",
            "2013-01-05",
            "2013-01-05T10:00:00Z",
            "24.12.2013",
            "24.12.2013 18:30",
            "12/24/2013",
            "3/4/2013",
            "v1.2.3",
            "inf",
        ]);
        let looks = &found.looks;
        assert_eq!((looks.texts, looks.blank, looks.padded, looks.words), (20, 1, 2, 2));
        assert_eq!((looks.numbers, looks.whole, looks.commas, looks.grouped), (3, 1, 2, 1));
        assert_eq!((looks.truths, looks.timestamps, looks.telling()), (2, 2, 17));
        let formats = [("%d.%m.%Y", 1), ("%d.%m.%Y %H:%M", 1), ("%d/%m/%Y", 1), ("%m/%d/%Y", 2)];
        assert_eq!(looks.formats, formats.map(|(format, count)| (format.into(), count)).into());
        assert_eq!(found.words, [("N/A".to_owned(), 1), ("n/a".to_owned(), 1)].into());
        assert_eq!((found.shortest, found.longest), (1, 20));
        assert_eq!((found.numbers.count, found.numbers.min, found.numbers.max), (5, -1234.5, 1000.0));
    }

    #[test]
    fn parts_can_be_merged() {
        let all = ["1", "2,5", "NA", "yes", "2013-01-05", "24.12.2013", "", " a", "1.000,5"];
        let expected = of(&all);
        for cut in 0..all.len() {
            let mut merged = of(&all[..cut]);
            merged.merge(&of(&all[cut..]));
            assert_eq!((&merged.looks, &merged.words), (&expected.looks, &expected.words));
            assert_eq!((merged.shortest, merged.longest), (expected.shortest, expected.longest));
            assert_eq!(merged.frequent.top(99), expected.frequent.top(99));
            assert_eq!(merged.sketched.quantiles.count(), 3);
        }
    }
}
