//! Instants as text: RFC 3339 and its usual relaxations, in milliseconds since 1970, UTC.

pub(crate) use millstream_engine::time::{LAST_MS, from_number, in_range};

/// What is expected where a timestamp cannot be read.
pub(crate) const EXPECTED: &str = "a timestamp like 2026-01-31T12:30:00Z";

/// Reads `YYYY-MM-DD`, alone (midnight) or followed by `T` or a space, `HH:MM:SS`, a fraction (cut to
/// milliseconds) and `Z` or `±HH:MM` (UTC where there is none).
pub fn parse(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let days = days(number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let time_ms = if rest.is_empty() { 0 } else { time(rest)? };
    Some(days * 86_400_000 + time_ms).filter(|ms| in_range(*ms))
}

/// Writes `YYYY-MM-DDTHH:MM:SS.mmmZ`; an instant beyond the years 1 to 9999 keeps more digits and its sign.
pub fn write(ms: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(ms.div_euclid(86_400_000));
    if (0..=9999).contains(&year) {
        digits(year as u64, 4, out);
    } else {
        out.extend_from_slice(format!("{year:+05}").as_bytes());
    }
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
    let of_day = ms.rem_euclid(86_400_000) as u64;
    for (mark, value, width) in [
        (b'T', of_day / 3_600_000, 2),
        (b':', of_day / 60_000 % 60, 2),
        (b':', of_day / 1000 % 60, 2),
        (b'.', of_day % 1000, 3),
    ] {
        out.push(mark);
        digits(value, width, out);
    }
    out.push(b'Z');
}

fn digits(value: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

/// A number of decimal digits only.
fn number(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// `THH:MM:SS[.fraction][zone]` in milliseconds after midnight UTC.
fn time(text: &[u8]) -> Option<i64> {
    let (clock, mut rest) = text.split_at_checked(9)?;
    if !matches!(clock[0], b'T' | b't' | b' ') || clock[3] != b':' || clock[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(&clock[1..3])?, number(&clock[4..6])?, number(&clock[7..])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut ms = ((hour * 60 + minute) * 60 + second) * 1000;
    if let [b'.', fraction @ ..] = rest {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digit = |place: usize| fraction[..length].get(place).map_or(0, |byte| i64::from(byte - b'0'));
        ms += digit(0) * 100 + digit(1) * 10 + digit(2);
        rest = &fraction[length..];
        if !(1..=9).contains(&length) {
            return None;
        }
    }
    match rest {
        [] | [b'Z' | b'z'] => Some(ms),
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let (hours, minutes) = (number(&[*a, *b])?, number(&[*c, *d])?);
            let ahead_ms = (hours * 60 + minutes) * 60_000;
            (hours < 24 && minutes < 60).then_some(if *sign == b'+' { ms - ahead_ms } else { ms + ahead_ms })
        }
        _ => None,
    }
}

/// Days since 1970 of a date of the Gregorian calendar, if there is such a date.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years are counted from March, so that the leap day comes last; eras have 400 years.
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Year, month and day of a number of days since 1970.
fn civil(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = (shifted + 2) % 12 + 1;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (era * 400 + year + i64::from(month <= 2), month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use millstream_engine::time::FIRST_MS;
    use proptest::prelude::*;

    use super::*;

    fn written(ms: i64) -> String {
        let mut out = Vec::new();
        write(ms, &mut out);
        String::from_utf8(out).expect("digits and marks are ASCII")
    }

    #[test]
    fn reads() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00", Some(0)),
            ("1970-01-01 00:00:01", Some(1000)),
            ("1970-01-01", Some(0)),
            ("1970-01-01t00:00:00.5z", Some(500)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2026-01-31T12:30:00.123456789+02:00", Some(1_769_855_400_123)),
            ("2026-01-31T12:30:00-02:30", Some(1_769_871_600_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
            ("0001-01-01T00:00:00Z", Some(FIRST_MS)),
            ("9999-12-31T23:59:59.999Z", Some(LAST_MS)),
            ("0000-12-31T23:59:59Z", None),
            ("9999-12-31T23:59:59-01:00", None),
            ("2023-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-04-31T00:00:00Z", None),
            ("2026-01-31T24:00:00Z", None),
            ("2026-01-31T12:30:60Z", None),
            ("2026-01-31T12:30Z", None),
            ("2026-01-31T12:30:00.Z", None),
            ("2026-01-31T12:30:00.1234567890Z", None),
            ("2026-01-31T12:30:00+0200", None),
            ("2026-01-31T12:30:00ZZ", None),
            ("2026-01-31x12:30:00Z", None),
            ("2026/01/31", None),
            ("+026-01-31", None),
            ("", None),
            ("é026-01-31", None),
        ] {
            assert_eq!(parse(text.as_bytes()), ms, "{text}");
        }
    }

    #[test]
    fn writes_far_years() {
        assert_eq!(written(LAST_MS + 1), "+10000-01-01T00:00:00.000Z");
    }

    proptest! {
        #![proptest_config(crate::formats::tests::seeded(1000))]

        #[test]
        fn what_is_written_is_read(ms in FIRST_MS..=LAST_MS) {
            prop_assert_eq!(parse(written(ms).as_bytes()), Some(ms));
        }

        #[test]
        fn agrees_with_arrow(ms in FIRST_MS / 1000..=LAST_MS / 1000) {
            use arrow::array::{Array, StringArray, TimestampMillisecondArray};
            use arrow::datatypes::{DataType, TimeUnit};
            let text = StringArray::from(vec![written(ms * 1000)]);
            let cast = arrow::compute::cast(&text, &DataType::Timestamp(TimeUnit::Millisecond, None)).expect("castable");
            let cast = cast.as_any().downcast_ref::<TimestampMillisecondArray>().expect("the type asked for");
            prop_assert_eq!(cast.value(0), ms * 1000);
        }
    }
}
