//! When a count begins anew.

use sluice_dataplane::snapshot::Period;

use crate::export::wall;

const DAY: u64 = 86_400;

/// When the period began that a time is in; both in seconds since 1970, days those of UTC.
pub(super) fn began(period: Period, at: u64) -> u64 {
    let today = at / DAY;
    let Period::Monthly(day) = period else { return today * DAY };
    let (_, _, now) = wall::date(today);
    let first = today + 1 - now;
    // Of a month by its first day: the day on which the period begins in it.
    let begins = |first: u64| first + u64::from(day.max(1)).min(length(first)) - 1;
    let began = if today >= begins(first) { begins(first) } else { begins(before(first)) };
    began * DAY
}

/// Days of a month that begins on this day.
fn length(first: u64) -> u64 {
    (28..=31).rev().find(|&days| wall::date(first + days - 1).2 == days).unwrap_or(28)
}

/// The first day of the month before; 1970 is the first of all.
fn before(first: u64) -> u64 {
    first.checked_sub(1).map_or(0, |last| last + 1 - wall::date(last).2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        wall::parse(text).unwrap() / 1_000_000
    }

    #[test]
    fn periods_begin_at_midnight_of_their_day() {
        let cases = [
            (Period::Daily, "2026-03-31T23:59:59Z", "2026-03-31T00:00:00Z"),
            (Period::Daily, "2026-04-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            (Period::Monthly(1), "2026-03-31T23:59:59Z", "2026-03-01T00:00:00Z"),
            (Period::Monthly(1), "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            (Period::Monthly(15), "2026-01-14T12:00:00Z", "2025-12-15T00:00:00Z"),
            (Period::Monthly(15), "2026-01-15T00:00:00Z", "2026-01-15T00:00:00Z"),
            (Period::Monthly(31), "2026-02-27T00:00:00Z", "2026-01-31T00:00:00Z"),
            (Period::Monthly(31), "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z"),
            (Period::Monthly(31), "2026-03-30T00:00:00Z", "2026-02-28T00:00:00Z"),
            (Period::Monthly(30), "2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ];
        for (period, time, want) in cases {
            assert_eq!(began(period, at(time)), at(want), "{period:?} {time}");
        }
    }

    #[test]
    fn a_period_begins_once_a_month_whatever_its_day() {
        for day in [1, 15, 28, 29, 30, 31] {
            let days = at("2023-12-31T00:00:00Z") / DAY..at("2026-12-31T00:00:00Z") / DAY;
            let starts =
                days.filter(|&today| began(Period::Monthly(day), today * DAY) == today * DAY).count();
            assert!((35..=37).contains(&starts), "{day}: {starts}");
        }
    }
}
