//! Values read from text: numbers as people and programs write them, truth values, instants.
//!
//! Nothing here allocates for a value that can be read.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{NaiveTime, Utc};
use millstream_engine::time;

/// The value, `None` where it is missing.
pub(crate) type Read<T> = Result<Option<T>, Unreadable>;

/// The value is none of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Beyond this, not every whole number is a float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// How numbers are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notation {
    /// What stands before the fraction.
    pub(super) decimal: char,
    /// What stands between groups of three digits.
    pub(super) thousands: Option<char>,
    /// What a number with a percent sign is divided by; without, such a number cannot be read.
    pub(super) percent: Option<f64>,
}

impl Notation {
    /// A float from trimmed text; NaN and infinities that are written as such are missing.
    pub(super) fn float(&self, text: &str, scratch: &mut String) -> Read<f64> {
        let (text, divisor) = match (self.percent, text.strip_suffix('%')) {
            (Some(divisor), Some(text)) => (text.trim_end(), divisor),
            _ => (text, 1.0),
        };
        let plain = self.plain(text, scratch)?;
        let value: f64 = plain.parse().map_err(|_| Unreadable)?;
        if value.is_finite() {
            return Ok(Some(value / divisor));
        }
        // Too large for a float: that is not missing.
        if plain.bytes().any(|byte| byte.is_ascii_digit()) { Err(Unreadable) } else { Ok(None) }
    }

    /// A whole number from trimmed text; `3.0` and `2e3` are whole.
    pub(super) fn int(&self, text: &str, scratch: &mut String) -> Read<i64> {
        if let Ok(int) = self.plain(text, scratch)?.parse() {
            return Ok(Some(int));
        }
        self.float(text, scratch)?.map(whole).transpose()
    }

    /// The text as Rust reads numbers.
    fn plain<'a>(&self, text: &'a str, scratch: &'a mut String) -> Result<&'a str, Unreadable> {
        if self.decimal == '.' && self.thousands.is_none() && text.is_ascii() {
            return Ok(text);
        }
        scratch.clear();
        let digits = match text.strip_prefix(['-', '−']) {
            Some(digits) => {
                scratch.push('-');
                digits
            }
            None => text.strip_prefix('+').unwrap_or(text),
        };
        let (integer, fraction) = match digits.split_once(self.decimal) {
            Some((integer, fraction)) => (integer, Some(fraction)),
            None => (digits, None),
        };
        self.push_integer(integer, scratch)?;
        if let Some(fraction) = fraction {
            scratch.push('.');
            scratch.push_str(fraction);
        }
        // A point that is not declared may be anything. A second sign is none of ours, either.
        let signed_twice = scratch.strip_prefix('-').unwrap_or(scratch).starts_with(['-', '+']);
        let strange = self.decimal != '.' && (integer.contains('.') && self.thousands != Some('.'));
        if signed_twice || strange || fraction.is_some_and(|fraction| fraction.contains('.')) {
            return Err(Unreadable);
        }
        Ok(scratch)
    }

    /// The digits without what separates them, which must stand between groups of three.
    fn push_integer(&self, integer: &str, scratch: &mut String) -> Result<(), Unreadable> {
        let Some(thousands) = self.thousands else {
            scratch.push_str(integer);
            return Ok(());
        };
        let separates = |c: char| {
            c == thousands
                || thousands == ' ' && matches!(c, '\u{a0}' | '\u{2009}' | '\u{202f}')
                || thousands == '\'' && c == '’'
        };
        let mut groups = integer.split(separates);
        let first = groups.next().unwrap_or_default();
        scratch.push_str(first);
        let are_digits = |group: &str| group.bytes().all(|byte| byte.is_ascii_digit());
        for group in groups {
            if group.len() != 3 || !are_digits(group) || !(1..=3).contains(&first.len()) || !are_digits(first) {
                return Err(Unreadable);
            }
            scratch.push_str(group);
        }
        Ok(())
    }
}

/// A float that is a whole number, as such.
pub(super) fn whole(value: f64) -> Result<i64, Unreadable> {
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX { Ok(value as i64) } else { Err(Unreadable) }
}

/// A truth value from trimmed text.
pub(crate) fn truth(text: &str) -> Read<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(&["true", "t", "yes", "y", "on", "1"]) {
        return Ok(Some(true));
    }
    if is_one_of(&["false", "f", "no", "n", "off", "0"]) { Ok(Some(false)) } else { Err(Unreadable) }
}

/// Milliseconds since 1970 of an RFC 3339 text or its usual relaxations; UTC where it names no zone.
pub(crate) fn instant(text: &str) -> Result<i64, Unreadable> {
    let instant = string_to_datetime(&Utc, text).map_err(|_| Unreadable)?;
    in_range(instant.timestamp_millis())
}

/// The same of a text in the form `format` (strftime's); midnight where it names no time of day.
pub(crate) fn instant_as(text: &str, format: &str) -> Result<i64, Unreadable> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, StrftimeItems::new(format)).map_err(|_| Unreadable)?;
    let ms = match (parsed.to_datetime(), parsed.to_naive_datetime_with_offset(0), parsed.to_naive_date()) {
        (Ok(instant), ..) => instant.timestamp_millis(),
        (_, Ok(local), _) => local.and_utc().timestamp_millis(),
        (.., Ok(date)) if parsed.hour_mod_12().is_none() => date.and_time(NaiveTime::MIN).and_utc().timestamp_millis(),
        _ => return Err(Unreadable),
    };
    in_range(ms)
}

/// Whether this is one of strftime's forms.
pub(super) fn is_format(format: &str) -> bool {
    !format.is_empty() && StrftimeItems::new(format).all(|item| item != Item::Error)
}

/// An instant from a number of units of `unit_ms`; what is finer than a millisecond is cut off.
pub(super) fn instant_of(number: f64, unit_ms: f64) -> Result<i64, Unreadable> {
    time::from_number(number, unit_ms).ok_or(Unreadable)
}

/// An instant within the years 1 to 9999.
pub(super) fn in_range(ms: i64) -> Result<i64, Unreadable> {
    if time::in_range(ms) { Ok(ms) } else { Err(Unreadable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(notation: Notation, texts: &[&str]) -> Vec<Read<f64>> {
        let mut scratch = String::new();
        texts.iter().map(|text| notation.float(text, &mut scratch)).collect()
    }

    const PLAIN: Notation = Notation { decimal: '.', thousands: None, percent: None };
    const COMMA: Notation = Notation { decimal: ',', thousands: Some('.'), percent: Some(100.0) };

    #[test]
    fn numbers_are_read_as_they_are_declared() {
        let found = floats(PLAIN, &["1.5", "-2", "+.5", "−3.25", "1e3", "1,5", "1 000", "5%", "", "x", "0x10"]);
        let good = [1.5, -2.0, 0.5, -3.25, 1000.0].map(|value| Ok(Some(value)));
        assert_eq!(found, [&good[..], &[Err(Unreadable); 6]].concat());
        let found = floats(COMMA, &["1,5", "-1.234,5", "1.234.567", "12.5%", "50%", "12,5 %", "1.5", "1.23,4", ",5"]);
        let values = [Ok(1.5), Ok(-1234.5), Ok(1_234_567.0), Err(()), Ok(0.5), Ok(0.125), Err(()), Err(()), Ok(0.5)];
        assert_eq!(found, values.map(|value| value.map(Some).map_err(|()| Unreadable)));
        let strange = ["--1", "-+1", "1,2,3", "1,2.3", "1234.567", "1..234", ".234", "1.234.56", "1,5e", "1e0.005"];
        assert_eq!(floats(COMMA, &strange), [Err(Unreadable); 10]);
    }

    #[test]
    fn blanks_between_groups_are_of_any_width() {
        let notation = Notation { decimal: '.', thousands: Some(' '), percent: None };
        let found = floats(notation, &["1 234.5", "1\u{202f}234\u{a0}567", "1  234"]);
        assert_eq!(found, [Ok(Some(1234.5)), Ok(Some(1_234_567.0)), Err(Unreadable)]);
    }

    #[test]
    fn what_is_no_number_by_its_own_word_is_missing() {
        assert_eq!(floats(PLAIN, &["NaN", "-inf", "1e999"]), [Ok(None), Ok(None), Err(Unreadable)]);
        assert_eq!(floats(COMMA, &["nan", "1e999"]), [Ok(None), Err(Unreadable)]);
    }

    #[test]
    fn whole_numbers_are_exact() {
        let mut scratch = String::new();
        let mut int = |notation: Notation, text| notation.int(text, &mut scratch);
        assert_eq!(int(PLAIN, "9223372036854775807"), Ok(Some(i64::MAX)));
        assert_eq!(int(COMMA, "9.007.199.254.740.993"), Ok(Some(9_007_199_254_740_993)));
        assert_eq!((int(PLAIN, "3.0"), int(PLAIN, "2e3"), int(PLAIN, "nan")), (Ok(Some(3)), Ok(Some(2000)), Ok(None)));
        assert_eq!((int(PLAIN, "2.5"), int(PLAIN, "9223372036854775808")), (Err(Unreadable), Err(Unreadable)));
    }

    #[test]
    fn instants_are_read() {
        for text in ["1970-01-02T00:00:01Z", "1970-01-02 00:00:01", "1970-01-02T01:00:01+01:00"] {
            assert_eq!(instant(text), Ok(86_401_000), "{text}");
        }
        assert_eq!((instant("1970-01-02"), instant("soon")), (Ok(86_400_000), Err(Unreadable)));
        assert_eq!(instant_as("2.1.1970 00:01", "%d.%m.%Y %H:%M"), Ok(86_460_000));
        assert_eq!(instant_as("01/02/70", "%m/%d/%y"), Ok(86_400_000));
        assert_eq!(instant_as("1970-01-02 01:00 +0100", "%Y-%m-%d %H:%M %z"), Ok(86_400_000));
        assert_eq!(instant_as("1970-01-02 01", "%Y-%m-%d %H"), Err(Unreadable), "not every part is there");
        assert_eq!(instant_as("31.02.1970", "%d.%m.%Y"), Err(Unreadable));
        assert!(is_format("%Y-%m") && !is_format("%Q") && !is_format(""));
    }
}
