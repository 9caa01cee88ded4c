//! Time of day: microseconds since 1970-01-01T00:00:00Z without leap seconds, written as RFC 3339 has it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds of a second, and of a day.
const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

/// The time now.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `2026-01-01T00:00:00.000000Z`
pub fn show(time: u64) -> String {
    let (year, month, day) = date(time / DAY);
    let (seconds, micros) = (time % DAY / SECOND, time % SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Reads a time with its offset from UTC: `2026-01-01T00:00:00Z`, `2026-01-01 01:00:00.5+01:00`. Digits of less than a
/// microsecond are dropped.
pub fn parse(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = clock.split_at(at);
    let [year, month, day] = parts(date, '-', [4, 2, 2])?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = parts(clock, ':', [2, 2, 2])?;
    // A leap second counts as the one before.
    let valid = (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second <= 60;
    let days = days(year, month, day).filter(|_| valid)?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let local = days * DAY + (hour * 3600 + minute * 60 + second.min(59)) * SECOND + micros;
    let ahead = |text: &str| {
        let [hours, minutes] = parts(text, ':', [2, 2])?;
        (hours < 24 && minutes < 60).then_some((hours * 3600 + minutes * 60) * SECOND)
    };
    match offset.split_at_checked(1)? {
        ("Z" | "z", "") => Some(local),
        ("+", offset) => local.checked_sub(ahead(offset)?),
        ("-", offset) => local.checked_add(ahead(offset)?),
        _ => None,
    }
}

fn parts<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut words = text.split(separator);
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let word = words.next()?;
        let fits = word.len() == digits && word.bytes().all(|byte| byte.is_ascii_digit());
        *number = word.parse().ok().filter(|_| fits)?;
    }
    words.next().is_none().then_some(numbers)
}

fn month_lengths(year: u64) -> [u64; 12] {
    let february = days_before(year + 1) - days_before(year) - 337;
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// Days from 1970-01-01 to the first of a year.
fn days_before(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let lengths = month_lengths(year.max(1970));
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(before)?;
    let days = days_before(year.max(1970)) + lengths.iter().take(before).sum::<u64>();
    (1..=length).contains(&day).then(|| days + day - 1)
}

/// Year, month and day from the days since 1970-01-01.
pub(crate) fn date(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let mut rest = days - days_before(year);
    for (month, length) in (1..).zip(month_lengths(year)) {
        if rest < length {
            return (year, month, rest + 1);
        }
        rest -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        for (text, time) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-01-01T00:00:00Z", 1_767_225_600),
            ("2026-01-01T02:30:00+02:30", 1_767_225_600),
            ("2025-12-31 23:00:00-01:00", 1_767_225_600),
        ] {
            assert_eq!(parse(text), Some(time * SECOND), "{text}");
        }
        assert_eq!(parse("2026-01-01T00:00:00.1234567Z"), Some(1_767_225_600_123_456));
        assert_eq!(show(1_767_225_600_000_007), "2026-01-01T00:00:00.000007Z");
        for text in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_shown_reads_back(time in 0..200 * 366 * DAY) {
            prop_assert_eq!(parse(&show(time)), Some(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,32}", near in "[0-9TZ:.+-]{0,34}") {
            let _ = (parse(&text), parse(&near));
        }
    }
}
