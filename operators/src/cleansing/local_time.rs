//! Local times: which instants a clock on the wall shows, and times of day as timetables write them.

use chrono::{DateTime, Duration, MappedLocalTime, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;

use super::reading::{Unreadable, in_range};

/// A day in milliseconds.
pub(super) const DAY_MS: i64 = 86_400_000;

/// The greatest hour of a time of day: timetables count on through the night.
const HOUR_MAX: i64 = 47;

/// When clocks in a zone show a time, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shown {
    Once(i64),
    /// Clocks were put back: before, and after.
    Twice([i64; 2]),
    /// Clocks were put forward over it: as if they had been before, and as if only afterwards.
    Never([i64; 2]),
}

/// When clocks in `zone` show `local_ms` (milliseconds since 1970 as if it were UTC).
pub(super) fn shown_at(zone: Tz, local_ms: i64) -> Result<Shown, Unreadable> {
    let local = DateTime::from_timestamp_millis(in_range(local_ms)?).ok_or(Unreadable)?.naive_utc();
    let instant = |ahead_seconds: i32| local_ms - i64::from(ahead_seconds) * 1000;
    match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(offset) => Ok(Shown::Once(instant(offset.fix().local_minus_utc()))),
        MappedLocalTime::Ambiguous(one, other) => {
            let [one, other] = [one, other].map(|offset| instant(offset.fix().local_minus_utc()));
            Ok(Shown::Twice([one.min(other), one.max(other)]))
        }
        MappedLocalTime::None => {
            // No zone changes its clocks twice within a day.
            let ahead = |local: NaiveDateTime| {
                let offset = zone.offset_from_local_datetime(&local).earliest().ok_or(Unreadable)?;
                Ok(offset.fix().local_minus_utc())
            };
            let [before, after] = [ahead(local - Duration::days(1))?, ahead(local + Duration::days(1))?];
            Ok(Shown::Never([instant(after), instant(before)]))
        }
    }
}

/// Milliseconds after midnight of `830` (08:30), `2400`, `2530`.
pub(super) fn clock(hhmm: i64) -> Result<i64, Unreadable> {
    time_of_day(hhmm.div_euclid(100), hhmm.rem_euclid(100), 0)
}

/// The same of trimmed text: `830`, `0830`, `8:30`, `08:30:15`, `083015`.
pub(super) fn clock_of_text(text: &str) -> Result<i64, Unreadable> {
    let number = |text: &str| match text.len() {
        1.. if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().map_err(|_| Unreadable),
        _ => Err(Unreadable),
    };
    if let Some((hour, rest)) = text.split_once(':') {
        let (minute, second) = rest.split_once(':').unwrap_or((rest, "00"));
        if hour.len() > 2 || minute.len() != 2 || second.len() != 2 {
            return Err(Unreadable);
        }
        return time_of_day(number(hour)?, number(minute)?, number(second)?);
    }
    let digits = number(text)?;
    match text.len() {
        ..=4 => clock(digits),
        6 => time_of_day(digits / 10_000, digits / 100 % 100, digits % 100),
        _ => Err(Unreadable),
    }
}

fn time_of_day(hour: i64, minute: i64, second: i64) -> Result<i64, Unreadable> {
    let there = (0..=HOUR_MAX).contains(&hour) && minute < 60 && second < 60;
    if there { Ok(((hour * 60 + minute) * 60 + second) * 1000) } else { Err(Unreadable) }
}

#[cfg(test)]
mod tests {
    use super::super::reading::instant;
    use super::*;

    fn shown(zone: Tz, local: &str) -> Shown {
        shown_at(zone, instant(local).unwrap()).unwrap()
    }

    fn utc(texts: [&str; 2]) -> [i64; 2] {
        texts.map(|text| instant(text).unwrap())
    }

    #[test]
    fn clocks_are_put_forward_and_back() {
        let zone = Tz::America__New_York;
        let [winter, summer] = utc(["2013-01-01T10:15:00", "2013-07-01T09:15:00"]);
        assert_eq!(shown(zone, "2013-01-01T05:15:00"), Shown::Once(winter));
        assert_eq!(shown(zone, "2013-07-01T05:15:00"), Shown::Once(summer));
        let never = utc(["2013-03-10T06:30:00", "2013-03-10T07:30:00"]);
        assert_eq!(shown(zone, "2013-03-10T02:30:00"), Shown::Never(never));
        let twice = utc(["2013-11-03T05:30:00", "2013-11-03T06:30:00"]);
        assert_eq!(shown(zone, "2013-11-03T01:30:00"), Shown::Twice(twice));
        // Samoa went without this day; Lord Howe's clocks move by half an hour.
        let never = utc(["2011-12-29T22:00:00", "2011-12-30T22:00:00"]);
        assert_eq!(shown(Tz::Pacific__Apia, "2011-12-30T12:00:00"), Shown::Never(never));
        let never = utc(["2024-10-05T15:15:00", "2024-10-05T15:45:00"]);
        assert_eq!(shown(Tz::Australia__Lord_Howe, "2024-10-06T02:15:00"), Shown::Never(never));
    }

    #[test]
    fn times_beyond_the_calendar_are_refused() {
        assert_eq!([i64::MIN, i64::MAX].map(|ms| shown_at(Tz::UTC, ms)), [Err(Unreadable); 2]);
    }

    #[test]
    fn times_of_day_are_read() {
        let minutes = |text| clock_of_text(text).map(|ms| ms as f64 / 60_000.0);
        let texts = ["830", "0830", "8:30", "08:30:15", "083015", "0", "5", "2400", "24:00", "2530", "4759"];
        let expected = [510.0, 510.0, 510.0, 510.25, 510.25, 0.0, 5.0, 1440.0, 1440.0, 1530.0, 2879.0];
        assert_eq!(texts.map(minutes), expected.map(Ok));
        for text in ["", "4800", "1275", "8:3", "8:30:5", "8:30pm", "-830", "+830", "12345", "1234567", ":30", "123:00"]
        {
            assert_eq!(minutes(text), Err(Unreadable), "{text}");
        }
        assert_eq!((clock(-100), clock(60), clock(i64::MAX)), (Err(Unreadable), Err(Unreadable), Err(Unreadable)));
    }
}
