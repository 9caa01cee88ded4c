//! Limits that are more than one bucket: three colours, packets a second, a meter for each source, destination or flow.
//!
//! Packets that ask these are none of the fast path's. All of a burst ask together, so that what is fetched for one waits
//! for no other: first the limits of the ingress, then those of the egress. Nothing of them is kept with the session. To
//! remember there where its meter is would be a line to fetch, as the bucket is in which it is found.

use std::net::IpAddr;

use sluice_pkt::parse::L3;
use sluice_pkt::{ipv4, ipv6};

use crate::burst::{BURST, Burst, Mask};
use crate::clock::Nanos;
use crate::counters::{Count, LimitCount};
use crate::session::NONE;
use crate::shard::Shard;
use crate::snapshot::{ColorAction, Limit, Mark, Per, Policer, Snapshot};
use crate::stage::{addresses4, addresses6, flow};
use crate::table::key::hash_words;
use crate::table::meters::{MeterKey, Meters};
use crate::table::tcm::model::Profile;
use crate::table::tcm::{Buckets, Color};
use crate::verdict::DropReason;

/// One such limit.
#[derive(Debug)]
pub(super) struct Metered {
    policer: Policer,
    profile: Profile,
    /// Of all packets together.
    buckets: Buckets,
    /// In the place of `buckets` where there are many.
    meters: Option<Meters>,
    colors: [Count; 3],
    dropped: Count,
}

/// Where a packet's meter is looked for.
#[derive(Clone, Copy)]
struct Place {
    key: MeterKey,
    hash: u64,
    candidate: u32,
}

const NOWHERE: Place = Place { key: [0; 2], hash: 0, candidate: NONE };

impl Metered {
    /// `None` for a limit that is one bucket. Every bucket is full.
    pub(super) fn new(limit: &Limit, seed: u64) -> Option<Self> {
        let policer = limit.policer?;
        let profile = limit.figures().profile();
        Some(Self {
            policer,
            profile,
            buckets: profile.meter(0),
            meters: policer.per.map(|_| Meters::new(policer.most, seed)),
            colors: [Count::default(); 3],
            dropped: Count::default(),
        })
    }

    /// Goes on counting, and with the meters of the same limit of the configuration before.
    pub(super) fn go_on(&mut self, count: &LimitCount, old: Option<&mut Box<Self>>) {
        (self.colors, self.dropped) = (count.colors, count.dropped);
        if let Some(old) = old {
            self.buckets = old.buckets;
            std::mem::swap(&mut self.meters, &mut old.meters);
        }
    }

    pub(super) fn count(&self) -> LimitCount {
        let Self { colors, dropped, meters, .. } = self;
        let all = colors.iter().fold(Count::default(), |sum, color| Count {
            packets: sum.packets + color.packets,
            bytes: sum.bytes + color.bytes,
        });
        let passed = Count { packets: all.packets - dropped.packets, bytes: all.bytes - dropped.bytes };
        let (kept, forgotten) = meters.as_ref().map_or((0, 0), |meters| (meters.len(), meters.forgotten()));
        LimitCount { passed, dropped: *dropped, colors: *colors, meters: kept.into(), forgotten }
    }

    /// Tokens that it was asked for.
    pub(super) fn asked(&self) -> u64 {
        let of = |count: &Count| if self.policer.packets { count.packets } else { count.bytes };
        self.colors.iter().map(of).sum()
    }

    /// Takes `part` of the limit's rate from now on, and a burst of so many tokens at least; of a limit that has many
    /// meters, each worker's are whole.
    pub(super) fn adjust(&mut self, now: Nanos, limit: &Limit, part: u64, least: u64) {
        if self.meters.is_none() {
            // Earns what is due.
            self.profile.color(&mut self.buckets, now, 0, Color::Red);
            let figures = limit.figures();
            self.profile = figures.part(part, figures.most(), least).profile();
        }
    }

    /// What becomes of a packet of so many bytes that comes with this code point.
    fn decide(&mut self, place: &Place, dscp: u8, now: Nanos, bytes: usize) -> ColorAction {
        let before = if self.policer.aware { color_of(dscp) } else { Color::Green };
        let tokens = if self.policer.packets { 1 } else { bytes as u16 };
        let Place { key, hash, candidate } = place;
        let meter = match &mut self.meters {
            Some(meters) => meters.confirm(*candidate, key, *hash, &self.profile, now),
            None => Some(&mut self.buckets),
        };
        let color = meter.map_or(Color::Red, |meter| self.profile.color(meter, now, tokens, before));
        // At most 2.
        self.colors[color as usize].add(bytes);
        let action = self.policer.actions[color as usize];
        if action == ColorAction::Drop {
            self.dropped.add(bytes);
        }
        action
    }
}

/// The colour that a packet comes with: by its drop precedence if it is of assured forwarding (RFC 2597 6), else green.
fn color_of(dscp: u8) -> Color {
    match (dscp >> 3, dscp & 7) {
        (1..=4, 4) => Color::Yellow,
        (1..=4, 6) => Color::Red,
        _ => Color::Green,
    }
}

/// Asks the limits about these packets, and notes what they are marked with.
pub(super) fn run(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) {
    for i in mask {
        burst.marks[i] = Mark::default();
    }
    ask(burst, mask, 0, shard, snapshot);
    ask(burst, mask.and(burst.live), 1, shard, snapshot);
}

/// Asks the limits of the ingress (0) or of the egress (1).
fn ask(burst: &mut Burst, mask: Mask, side: usize, shard: &mut Shard, snapshot: &Snapshot) {
    let limiters = &mut shard.limiters;
    let mut places = [NOWHERE; BURST];
    let mut many = Mask::NONE;
    for i in mask {
        let limit = usize::from(burst.actions[i].limits[side]);
        let Some(Some(metered)) = limiters.metered.get(limit) else { continue };
        if let (Some(meters), Some(per)) = (&metered.meters, metered.policer.per) {
            let key = key(burst, i, per, snapshot.seed);
            places[i] = Place { key, hash: meters.begin(&key), candidate: NONE };
            many.add(i);
        }
    }
    for i in many {
        let limit = usize::from(burst.actions[i].limits[side]);
        if let Some(Some(Metered { meters: Some(meters), .. })) =
            limiters.metered.get(limit).map(Option::as_deref)
        {
            places[i].candidate = meters.candidate(places[i].hash);
        }
    }
    for i in mask {
        let (limit, bytes) = (burst.actions[i].limits[side], burst.packet_len(i));
        let action = if let Some(Some(metered)) = limiters.metered.get_mut(usize::from(limit)) {
            let dscp = burst.marks[i].dscp.unwrap_or_else(|| dscp(burst, i));
            metered.decide(&places[i], dscp, burst.now, bytes)
        } else if limiters.ask(limit, burst.now, bytes) {
            ColorAction::Pass
        } else {
            ColorAction::Drop
        };
        match action {
            ColorAction::Pass => {}
            ColorAction::Drop => burst.drop(i, DropReason::RateLimited),
            ColorAction::Mark(mark) => {
                let before = burst.marks[i];
                burst.marks[i] = Mark { dscp: mark.dscp.or(before.dscp), pcp: mark.pcp.or(before.pcp) };
            }
        }
    }
}

/// The code point with which a packet comes.
fn dscp(burst: &Burst, i: usize) -> u8 {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let at = headers.l3_offset.into();
    let class = match headers.l3 {
        L3::Ipv4 => ipv4::Header::at(bytes, at).map(|ip| ip.dscp_ecn()),
        _ => ipv6::Header::at(bytes, at).map(|ip| ip.traffic_class()),
    };
    class.unwrap_or(0) >> 2
}

/// What a packet's meter is found by.
fn key(burst: &Burst, i: usize, per: Per, seed: u64) -> MeterKey {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    match per {
        Per::Source(lengths) if headers.l3 == L3::Ipv4 => key4(addresses4(bytes, headers).0, lengths),
        Per::Source(lengths) => key6(addresses6(bytes, headers).0, lengths),
        Per::Destination(lengths) => match flow::destination_of(burst, i, &burst.actions[i]) {
            IpAddr::V4(address) => key4(address.to_bits(), lengths),
            IpAddr::V6(address) => key6(address.to_bits(), lengths),
        },
        Per::Flow if headers.l3 == L3::Ipv4 => flow::key_of4(bytes, headers, burst.interfaces[i]),
        // In 128 bits that nobody outside can choose: no two flows will ever meet in them.
        Per::Flow => {
            let key = flow::key_of6(bytes, headers, burst.interfaces[i]);
            [hash_words(&key, seed), hash_words(&key, !seed)]
        }
    }
}

fn key4(address: u32, [length, _]: [u8; 2]) -> MeterKey {
    const MAPPED: u64 = 0xffff << 32;
    [MAPPED | u64::from(first_bits(address.into(), 32, length) as u32), 0]
}

fn key6(address: u128, [_, length]: [u8; 2]) -> MeterKey {
    let prefix = first_bits(address, 128, length);
    [prefix as u64, (prefix >> 64) as u64]
}

/// An address of so many bits with those behind the first `length` cleared.
fn first_bits(address: u128, bits: u8, length: u8) -> u128 {
    let behind = u32::from(bits.saturating_sub(length));
    address & u128::MAX.checked_shl(behind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assured_forwarding_has_colors_and_nothing_else_has() {
        let of = |color| (0..64).filter(|&dscp| color_of(dscp) == color).collect::<Vec<_>>();
        // AF12, AF22, AF32 and AF42; AF13 and so on (RFC 2597 6).
        assert_eq!(of(Color::Yellow), [12, 20, 28, 36]);
        assert_eq!(of(Color::Red), [14, 22, 30, 38]);
    }

    #[test]
    fn addresses_of_a_prefix_have_one_key() {
        assert_eq!(key4(0xc000_0201, [24, 64]), key4(0xc000_02ff, [24, 64]));
        assert_ne!(key4(0xc000_0201, [32, 64]), key4(0xc000_0202, [32, 64]));
        assert_eq!(key4(1, [0, 0]), key4(u32::MAX, [0, 0]));
        let address = 0x2001_0db8_0000_0001_0000_0000_0000_0001u128;
        assert_eq!(key6(address, [32, 64]), key6(address + 5, [32, 64]));
        assert_ne!(key6(address, [32, 64]), key6(address + (1 << 64), [32, 64]));
        assert_ne!(key6(address, [32, 128]), key6(address + 1, [32, 128]));
        assert_eq!(key6(address, [32, 0]), key6(0, [32, 0]));
    }
}
