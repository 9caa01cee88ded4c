//! The two buckets of a node: as much as it may send, and as much as it gets in any case.
//!
//! Credit is counted as in [`meter`](crate::table::meter): at R bits per second a nanosecond earns R units, a byte costs 8 *
//! 10^9. Unlike a policer's bucket it may be sent from whenever there is no debt, and the packet is then owed for: so a rate
//! needs no burst to hold exactly, as what is owed is known to the nanosecond.

use crate::table::meter::Rate;

use super::config::Rates;

/// What a byte costs.
const BYTE: u64 = 8_000_000_000;
/// Nanoseconds whose credit is saved at least: a caller cannot come at each tick exactly.
const LEAST_NS: u64 = 8192;
/// The same where no burst is configured: 0.1 % of a second.
const DEFAULT_NS: u64 = 1_000_000;
/// Packets of others that a node may have to wait for, and loses nothing of its own rate.
const OTHERS: u64 = 4;
/// The most that can be saved, in units.
const DEEPEST: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Earned per nanosecond; 0: there is no such rate.
    rate: u64,
    depth: u64,
    /// Below 0 if something is owed.
    credit: i64,
}

/// A node's rates, and what it has sent of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buckets {
    /// The time up to which credit has been earned.
    last: u64,
    max: Bucket,
    own: Bucket,
}

impl Bucket {
    /// With credit for `least` bytes, whatever is configured.
    fn new(rate: Option<Rate>, burst: u64, least: u64) -> Self {
        let Some(Rate { bits_per_second: rate }) = rate else { return Self::default() };
        // A rate of nothing is one bit in a second, and so never has to be asked for.
        let rate = rate.max(1);
        let wanted = if burst == 0 { rate.saturating_mul(DEFAULT_NS) } else { burst.saturating_mul(BYTE) };
        let least = rate.saturating_mul(LEAST_NS).max(least.saturating_mul(BYTE));
        let depth = wanted.max(least).min(DEEPEST);
        Self { rate, depth, credit: depth as i64 }
    }

    #[inline(always)]
    fn earn(&mut self, elapsed: u64) {
        let missing = self.depth.wrapping_sub(self.credit as u64);
        let earned = elapsed.saturating_mul(self.rate);
        self.credit += earned.min(missing) as i64;
    }

    /// Nanoseconds until the credit is `wanted`.
    fn wait(&self, wanted: i64) -> u64 {
        (wanted.saturating_sub(self.credit).max(0) as u64).div_ceil(self.rate.max(1))
    }
}

impl Buckets {
    /// Full ones. Its own rate is saved for as long as others may have their turn, whose packets have at most `mtu` bytes.
    pub(super) fn new(rates: &Rates, mtu: u32) -> Self {
        let max = Bucket::new(rates.max, rates.burst, 0);
        Self { last: 0, max, own: Bucket::new(rates.guaranteed, rates.burst, OTHERS * u64::from(mtu)) }
    }

    /// Changes the rates at the time `now`. What was owed still is, in bytes.
    pub(super) fn adjust(&mut self, now: u64, rates: &Rates, mtu: u32) {
        self.earn(now);
        let before = *self;
        *self = Self { last: self.last, ..Self::new(rates, mtu) };
        for (bucket, before) in [(&mut self.max, before.max), (&mut self.own, before.own)] {
            // A rate that is new begins without credit.
            let kept = if before.rate == 0 || bucket.rate == 0 { 0 } else { before.credit };
            bucket.credit = kept.min(bucket.depth as i64);
        }
    }

    /// Earns what is due at the time `now`. Time that goes back earns nothing.
    #[inline(always)]
    pub(super) fn earn(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.last);
        if elapsed > 0 {
            self.last = now;
            self.max.earn(elapsed);
            if self.own.rate > 0 {
                self.own.earn(elapsed);
            }
        }
    }

    /// Owes for `bytes`, of its own rate too if `within_own`.
    #[inline(always)]
    pub(super) fn charge(&mut self, bytes: u64, within_own: bool) {
        let cost = (bytes * BYTE) as i64;
        if self.max.rate > 0 {
            self.max.credit -= cost;
        }
        if within_own {
            self.own.credit -= cost;
        }
    }

    /// How many bytes it may begin to send before it is in debt, by its own rate too if `within_own`.
    #[inline]
    pub(super) fn may_begin(&self, within_own: bool) -> u64 {
        let bytes =
            |credit: i64| credit.checked_add(1).map_or(0, |credit| (credit.max(0) as u64).div_ceil(BYTE));
        let most = if self.max.rate > 0 { bytes(self.max.credit) } else { u64::MAX };
        if within_own { most.min(bytes(self.own.credit)) } else { most }
    }

    /// Whether it may send at all.
    #[inline(always)]
    pub(super) fn may_send(&self) -> bool {
        self.max.credit >= 0
    }

    /// Whether it may send within its own rate.
    #[inline(always)]
    pub(super) fn within_own(&self) -> bool {
        self.own.rate > 0 && self.own.credit >= 0
    }

    /// The time up to which credit has been earned: when it sent last, or was about to.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The rate that it never exceeds.
    pub(super) fn rate(&self) -> Option<Rate> {
        (self.max.rate > 0).then_some(Rate { bits_per_second: self.max.rate })
    }

    /// When it may send.
    pub(super) fn due(&self) -> u64 {
        self.last.saturating_add(self.max.wait(0))
    }

    /// When it may send within its own rate, if it has one.
    pub(super) fn own_due(&self) -> Option<u64> {
        (self.own.rate > 0).then(|| self.last.saturating_add(self.own.wait(0)))
    }

    /// When both are full.
    pub(super) fn full(&self) -> u64 {
        let wait = |bucket: &Bucket| bucket.wait(bucket.depth as i64);
        self.last.saturating_add(wait(&self.max).max(wait(&self.own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(max: u64, burst: u64) -> Rates {
        Rates { max: Some(Rate { bits_per_second: max }), burst, ..Rates::default() }
    }

    #[test]
    fn what_is_owed_is_due_to_the_nanosecond() {
        let mut buckets = Buckets::new(&rates(3_000_000_000, 100), 0);
        buckets.earn(1000);
        buckets.charge(6000, false);
        // 8192 ns are saved at least: 3,072 bytes.
        assert!(!buckets.may_send());
        let due = buckets.due();
        assert_eq!(due, 1000 + 16_000 - 8192);
        buckets.earn(due - 1);
        assert!(!buckets.may_send());
        buckets.earn(due);
        assert!(buckets.may_send());
        buckets.earn(0);
        assert!(buckets.may_send(), "time that goes back takes nothing");
    }

    #[test]
    fn debts_and_credits_of_any_size_are_defined() {
        let mut buckets = Buckets::new(&rates(u64::MAX, u64::MAX), 0);
        buckets.charge(20_000_000, true);
        buckets.earn(u64::MAX);
        assert!(buckets.may_send() && buckets.full() == u64::MAX);
        let mut slow = Buckets::new(&rates(0, 0), 0);
        slow.charge(1500, false);
        assert_eq!(slow.due(), 12_000_000_000_000 - DEFAULT_NS.max(LEAST_NS));
        let mut none = Buckets::new(&Rates::default(), 0);
        none.charge(1500, false);
        assert!(none.may_send() && !none.within_own() && none.own_due().is_none());
    }

    #[test]
    fn what_it_may_begin_is_what_puts_it_in_debt() {
        for rate in [64_000, 999_999_937, 40_000_000_000] {
            let mut buckets = Buckets::new(&rates(rate, 5000), 0);
            buckets.charge(777, false);
            buckets.earn(3_333);
            let bytes = buckets.may_begin(false);
            let mut before = buckets;
            before.charge(bytes - 1, false);
            assert!(before.may_send(), "{rate}");
            buckets.charge(bytes, false);
            assert!(!buckets.may_send() && buckets.may_begin(false) == 0);
        }
    }

    #[test]
    fn another_rate_keeps_the_debt_and_mints_no_credit() {
        let mut buckets = Buckets::new(&rates(8_000_000, 1500), 0);
        buckets.charge(3000, false);
        buckets.adjust(0, &rates(16_000_000, 1500), 0);
        assert_eq!(buckets.due(), 750_000);
        buckets.adjust(0, &Rates::default(), 0);
        assert!(buckets.may_send());
        buckets.adjust(0, &rates(8_000_000, 1500), 0);
        buckets.charge(1, false);
        assert!(!buckets.may_send());
    }
}
