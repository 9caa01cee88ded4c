//! One limit for several workers: each has a bucket of its own, whose rate follows its part of what was offered of late.
//!
//! Each worker publishes how many bytes it was asked about, and reads the others' every few milliseconds. As long as less
//! is offered than the limit lets pass, each gets what it was offered and an equal part of the rest; otherwise its part
//! of the rate is its part of the offer, and a little for one that was idle. All parts together are the rate.

use std::sync::atomic::Ordering;

use super::{Kept, Limiters, asked};
use crate::arena::MAX_LINK_HEADER;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::crossing::Offered;
use crate::snapshot::{Limit, Snapshot};

/// How often the parts are reckoned anew.
const INTERVAL: Nanos = 2 * MILLISECOND;
/// Over how long an offer is averaged.
const MEMORY: Nanos = 20 * MILLISECOND;
/// What one that was idle gets, of an equal part.
const IDLE_PART: u64 = 64;

/// One worker's view of what all are offered.
#[derive(Debug)]
pub(super) struct Shares {
    me: usize,
    offered: Offered,
    /// Bytes that each limit had been asked about before `offered` began.
    before: Vec<u64>,
    last: Nanos,
    /// By limit, then by worker.
    offers: Vec<Vec<Offer>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Offer {
    /// Bytes as last read.
    bytes: u64,
    /// Bits per second of late.
    rate: u64,
}

impl Shares {
    /// What the limits have been asked about so far is of no interest.
    pub(super) fn begin(&mut self, asked: impl Fn(usize) -> u64) {
        for (limit, before) in self.before.iter_mut().enumerate() {
            *before = asked(limit);
        }
    }
}

impl Limiters {
    /// Makes them the part of worker `me` from now on.
    pub(crate) fn share(&mut self, me: usize, offered: Offered) {
        let offers = vec![vec![Offer::default(); offered.len()]; self.all.len()];
        let before = vec![0; self.all.len()];
        self.shares = Some(Box::new(Shares { me, offered, before, last: 0, offers }));
    }

    /// Goes on with what was offered of late to limits that are kept.
    pub(super) fn carry(&self, fresh: &mut Self, kept: &[Kept]) {
        let Self { all, metered, shares: Some(new) } = fresh else { return };
        let Some(old) = &self.shares else { return };
        new.last = old.last;
        for (limit, before) in new.before.iter_mut().enumerate() {
            *before = asked(all, metered, limit);
        }
        for kept in kept {
            let offers = (old.offers.get(usize::from(kept.old)), new.offers.get_mut(usize::from(kept.new)));
            if let (Some(old), Some(new)) = offers {
                new.iter_mut().zip(old).for_each(|(new, old)| new.rate = old.rate);
            }
        }
    }

    /// Reckons the parts anew, if it is time.
    #[inline]
    pub(crate) fn keep(&mut self, now: Nanos, snapshot: &Snapshot) {
        if let Some(shares) = &self.shares {
            if now.saturating_sub(shares.last) >= INTERVAL {
                self.reckon(now, snapshot);
            }
        }
    }

    #[inline(never)]
    fn reckon(&mut self, now: Nanos, snapshot: &Snapshot) {
        let Self { all, metered, shares: Some(shares) } = self else { return };
        let elapsed = now.saturating_sub(shares.last).min(SECOND);
        shares.last = now;
        let Shares { me, offered, before, offers, .. } = &mut **shares;
        for (index, (offers, before)) in offers.iter_mut().zip(before).enumerate() {
            let ours = asked(all, metered, index) - *before;
            for (worker, (offer, row)) in offers.iter_mut().zip(offered.iter()).enumerate() {
                let Some(published) = row.0.get(index) else { continue };
                let bytes = if worker == *me {
                    published.store(ours, Ordering::Relaxed);
                    ours
                } else {
                    published.load(Ordering::Relaxed)
                };
                offer.see(bytes, elapsed);
            }
            let Some(limit) = snapshot.limits.get(index) else { continue };
            match (all.get_mut(index), metered.get_mut(index)) {
                (_, Some(Some(metered))) => {
                    let rate = limit.figures().most();
                    metered.adjust(now, limit, part(rate, offers, *me), two_packets(limit, snapshot));
                }
                (Some(limiter), _) => {
                    let rate = part(limit.rate.bits_per_second, offers, *me);
                    limiter.meter.adjust(now, rate, depth(limit, rate, snapshot));
                }
                _ => {}
            }
        }
    }
}

impl Offer {
    fn see(&mut self, bytes: u64, elapsed: Nanos) {
        let new = u128::from(bytes.saturating_sub(self.bytes)) * 8 * u128::from(SECOND)
            / u128::from(elapsed.max(1));
        self.bytes = bytes;
        let (memory, elapsed) = (u128::from(MEMORY), u128::from(elapsed));
        self.rate = ((u128::from(self.rate) * memory + new * elapsed) / (memory + elapsed)) as u64;
    }
}

/// The part of a rate that worker `me` gets.
fn part(rate: u64, offers: &[Offer], me: usize) -> u64 {
    let workers = offers.len().max(1) as u64;
    let ours = offers.get(me).map_or(0, |offer| offer.rate);
    let total = offers.iter().map(|offer| offer.rate).sum::<u64>();
    if total <= rate {
        return ours + (rate - total) / workers;
    }
    let idle = total / workers / IDLE_PART;
    let weights = offers.iter().map(|offer| offer.rate.max(idle)).sum::<u64>();
    (u128::from(rate) * u128::from(ours.max(idle)) / u128::from(weights.max(1))) as u64
}

/// The part of the burst that goes with a part of the rate; two packets at least, or none of them would ever pass.
fn depth(limit: &Limit, part: u64, snapshot: &Snapshot) -> u64 {
    let whole = limit.rate.bits_per_second.max(1);
    let share = (u128::from(limit.burst) * u128::from(part) / u128::from(whole)) as u64;
    share.max(two_packets(limit, snapshot)).min(limit.burst)
}

/// Tokens for two packets as large as the interface takes.
fn two_packets(limit: &Limit, snapshot: &Snapshot) -> u64 {
    if limit.policer.is_some_and(|policer| policer.packets) {
        return 2;
    }
    let mtu = snapshot.interfaces.get(usize::from(limit.interface)).map_or(0, |link| u64::from(link.mtu));
    2 * (mtu + MAX_LINK_HEADER as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(rates: &[u64]) -> Vec<Offer> {
        rates.iter().map(|&rate| Offer { bytes: 0, rate }).collect()
    }

    #[test]
    fn the_parts_are_the_whole_whatever_is_offered() {
        let cases: [&[u64]; 5] =
            [&[0, 0, 0, 0], &[10, 20, 30, 40], &[5_000, 0, 0, 0], &[900, 900, 1, 0], &[1_000_000; 16]];
        for rates in cases {
            let offers = offers(rates);
            let parts: Vec<u64> = (0..rates.len()).map(|me| part(1000, &offers, me)).collect();
            let sum: u64 = parts.iter().sum();
            assert!(sum <= 1000 && sum + rates.len() as u64 >= 1000, "{rates:?}: {parts:?}");
        }
        assert_eq!(part(1000, &offers(&[100, 20]), 0), 100 + 440);
        assert!(part(1000, &offers(&[5_000, 0, 0, 0]), 0) >= 980, "little is kept for those that are idle");
    }

    #[test]
    fn an_offer_is_averaged_and_fades() {
        let mut offer = Offer::default();
        for step in 1..=100 {
            offer.see(step * 1000, INTERVAL);
        }
        assert!(
            (3_990_000..=4_000_000).contains(&offer.rate),
            "1,000 bytes in 2 ms are 4 Mbit/s: {}",
            offer.rate
        );
        for _ in 0..100 {
            offer.see(100_000, INTERVAL);
        }
        assert!(offer.rate < 4000);
    }
}
