//! Time as the packet path sees it: a number that is handed in, read once per burst.

pub mod tsc;

use std::time::Instant;

/// Nanoseconds since an arbitrary start (live) or since the Unix epoch (replay). Never goes back.
pub type Nanos = u64;

/// The latest time that anything may hand in (as a Unix time, the year 2262). There is room behind it, so that whatever
/// adds a timeout to a time gets a time.
pub const LATEST: Nanos = i64::MAX as Nanos;
/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;
/// One millisecond in [`Nanos`].
pub const MILLISECOND: Nanos = 1_000_000;

/// Where a worker's time comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's monotonic clock.
    Monotonic(Instant),
    /// Set by the driver of a replay or a test.
    Virtual(Nanos),
}

impl Clock {
    /// A clock that runs by itself. It starts at one second, so that "never" can be zero.
    pub fn monotonic() -> Self {
        Self::Monotonic(Instant::now())
    }

    /// A clock that runs by itself, and on which it is `now`.
    pub fn going_on(now: Nanos) -> Self {
        let since = std::time::Duration::from_nanos(now.saturating_sub(SECOND));
        let present = Instant::now();
        Self::Monotonic(present.checked_sub(since).unwrap_or(present))
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Nanos {
        match self {
            Self::Monotonic(start) => start.elapsed().as_nanos() as Nanos + SECOND,
            Self::Virtual(now) => *now,
        }
    }

    /// Moves a virtual clock forward; a time that lies behind is ignored, as is any on a monotonic clock.
    pub fn advance(&mut self, to: Nanos) {
        if let Self::Virtual(now) = self {
            *now = (*now).max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_never_goes_back() {
        let mut clock = Clock::Virtual(5);
        clock.advance(9);
        clock.advance(7);
        assert_eq!(clock.now(), 9);
    }

    #[test]
    fn a_clock_goes_on_where_another_was() {
        let began = Clock::monotonic();
        for time in [SECOND, 5 * SECOND, began.now()] {
            let now = Clock::going_on(time).now();
            assert!((time..time + 10 * SECOND).contains(&now), "{now}");
        }
    }

    #[test]
    fn monotonic_time_starts_after_zero() {
        let mut clock = Clock::monotonic();
        let first = clock.now();
        clock.advance(u64::MAX);
        assert!(first >= SECOND && clock.now() >= first && clock.now() < u64::MAX);
    }
}
