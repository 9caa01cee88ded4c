//! Sources: what each source may send, in all and to each service, at interfaces whose guard bounds that. Packets and bits
//! are counted ahead of everything, for every packet ([`run`]); new sessions, and sessions at a time, with the first packet of
//! one that would be made ([`open`]).
//!
//! Exits: drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::ethernet;
use sluice_pkt::ethernet::Mac;
use sluice_pkt::parse::{Flags, L3};
use sluice_pkt::{icmpv6, ipv4, ipv6};

use super::{FirstPackets, addresses6, sessionless};
use crate::burst::{BURST, Burst};
use crate::shard::Shard;
use crate::snapshot::guard::{Guard, SourceLimits};
use crate::snapshot::{Snapshot, Tags};
use crate::table::key::hash_words;
use crate::table::meter::PacketMeter;
use crate::table::sources::Sources;
use crate::verdict::DropReason;

/// The rates of all guards, in their order.
#[derive(Debug, Default)]
pub struct SourceRates(Vec<GuardRates>);

#[derive(Debug)]
struct GuardRates {
    source: Option<Sources>,
    service: Option<Sources>,
    /// ICMP and ICMPv6.
    icmp: Option<[PacketMeter; 2]>,
}

impl SourceRates {
    /// Takes the memory; nobody has sent anything.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self::of(snapshot, 1)
    }

    /// As one of so many workers, among whom the rates of ICMP are divided.
    pub fn of(snapshot: &Snapshot, workers: usize) -> Self {
        let table = |limits: &Option<SourceLimits>, salt: u64| {
            let limits = limits.as_ref()?;
            Some(Sources::new(limits.most, limits.paces(), snapshot.seed ^ salt))
        };
        let one = |guard: &Guard| GuardRates {
            source: table(&guard.per_source, 0x5172),
            service: table(&guard.per_service, 0x5e12),
            icmp: (guard.icmp_per_second > 0).then(|| {
                let rate = guard.icmp_per_second.div_ceil(workers.max(1) as u64);
                [PacketMeter::new(rate, (rate / 10).max(10)); 2]
            }),
        };
        Self(snapshot.guards.iter().map(one).collect())
    }

    /// Puts others in the place of these, which `fresh` holds afterwards; those of guards that are `kept` (old and new place)
    /// go on.
    pub fn adopt(&mut self, fresh: &mut Self, kept: &[(usize, usize)]) {
        for &(old, new) in kept {
            if let (Some(old), Some(new)) = (self.0.get_mut(old), fresh.0.get_mut(new)) {
                std::mem::swap(old, new);
            }
        }
        std::mem::swap(self, fresh);
    }
}

/// Which guards of another configuration bound sources as one of the same name did, by their places before and after.
pub fn kept(old: &[Guard], new: &[Guard]) -> Vec<(usize, usize)> {
    let alike = |guard: &Guard, other: &Guard| {
        guard.name == other.name
            && guard.per_source == other.per_source
            && guard.per_service == other.per_service
            && guard.icmp_per_second == other.icmp_per_second
    };
    let places = old.iter().enumerate();
    places.filter_map(|(at, guard)| Some((at, new.iter().position(|other| alike(guard, other))?))).collect()
}

/// What of a packet it is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// Of TCP and UDP where it is to be had, or 0.
    dst_port: u16,
    /// ICMP that is limited; neighbour discovery is not.
    icmp: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    guard: usize,
    source: u64,
    service: u64,
    icmp: Option<usize>,
}

/// Drops what is over its source's rates.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    if !snapshot.guards.iter().any(Guard::counts_packets) || snapshot.is_inner(burst.port) {
        return;
    }
    let any_mac = snapshot.ports.get(usize::from(burst.port)).is_some_and(|port| port.any_mac);
    let mut counted = [Counted::default(); BURST];
    let mut who = burst.live;
    for i in burst.live {
        let found = count_by(burst.bytes(i), burst.port, any_mac, snapshot);
        let Some((guard, ends)) = found else {
            who.remove(i);
            continue;
        };
        let (Some(rates), Some(limits)) = (shard.sources.0.get(guard), snapshot.guards.get(guard)) else {
            who.remove(i);
            continue;
        };
        let begin =
            |table: &Option<Sources>, key: [u64; 3]| table.as_ref().map_or(0, |table| table.begin(&key));
        counted[i] = Counted {
            guard,
            source: begin(&rates.source, source_key(&limits.per_source, ends.src)),
            service: begin(&rates.service, service_key(&limits.per_service, &ends)),
            icmp: ends.icmp,
        };
    }
    for i in who {
        let (len, now) = (burst.packet_len(i), burst.now);
        let Counted { guard, source, service, icmp } = counted[i];
        let Some(rates) = shard.sources.0.get_mut(guard) else { continue };
        let tokens = [1, (len as u32).saturating_mul(8), 0];
        let passes =
            |table: &mut Option<Sources>, hash| table.as_mut().is_none_or(|t| t.spend(hash, now, tokens));
        if !passes(&mut rates.source, source) {
            burst.drop(i, DropReason::SourceRate);
        } else if !passes(&mut rates.service, service) {
            burst.drop(i, DropReason::ServiceRate);
        } else if let (Some(family), Some(meters)) = (icmp, &mut rates.icmp) {
            if meters.get_mut(family).is_some_and(|meter| !meter.allow(now, 1)) {
                burst.drop(i, DropReason::IcmpRate);
            }
        }
    }
}

/// Drops first packets whose source has opened, or has, as many sessions as it may.
pub fn open(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.guards.is_empty() || snapshot.is_inner(burst.port) {
        return;
    }
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        let interface = snapshot.interfaces.get(usize::from(burst.interfaces[i]));
        let Some(at) = interface.and_then(|interface| interface.guard).map(usize::from) else { continue };
        let Some(guard) = snapshot.guards.get(at).filter(|guard| guard.counts_sessions()) else { continue };
        if sessionless(headers) || headers.flags.has(Flags::ICMP_ERROR) {
            continue;
        }
        let (src, dst): (IpAddr, IpAddr) = match headers.l3 {
            L3::Ipv4 => {
                let (src, dst) = first.ends4(i);
                (Ipv4Addr::from_bits(src).into(), Ipv4Addr::from_bits(dst).into())
            }
            _ => {
                let (src, dst) = addresses6(burst.bytes(i), headers);
                (Ipv6Addr::from_bits(src).into(), Ipv6Addr::from_bits(dst).into())
            }
        };
        let dst_port = if matches!(headers.protocol, ipv4::TCP | ipv4::UDP) { headers.dst_port } else { 0 };
        let ends = Ends { src, dst, protocol: headers.protocol, dst_port, icmp: None };
        let source = source_key(&guard.per_source, src);
        let holder = hash_words(&[source[0], source[1], at as u64], snapshot.seed);
        let most = guard.per_source.as_ref().map_or(0, |limits| limits.sessions);
        if most > 0 && shard.sessions.held_by(holder) >= most {
            burst.drop(i, DropReason::SourceSessions);
            continue;
        }
        let Some(rates) = shard.sources.0.get_mut(at) else { continue };
        let now = burst.now;
        let opens = |table: &mut Option<Sources>, key: [u64; 3]| {
            table.as_mut().is_none_or(|table| {
                let hash = table.begin(&key);
                table.spend(hash, now, [0, 0, 1])
            })
        };
        if !opens(&mut rates.source, source)
            || !opens(&mut rates.service, service_key(&guard.per_service, &ends))
        {
            burst.drop(i, DropReason::SourceNewSessions);
            continue;
        }
        first.decisions[i].holder = (most > 0).then_some(holder);
    }
}

/// The source as far as its prefix goes.
fn source_key(limits: &Option<SourceLimits>, src: IpAddr) -> [u64; 3] {
    let [v4, v6] = limits.as_ref().map_or([32, 128], |limits| limits.prefix);
    let [high, low] = match src {
        IpAddr::V4(src) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4.min(32))).unwrap_or(0);
            [u64::from(src.to_bits() & mask), 4]
        }
        IpAddr::V6(src) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6.min(128))).unwrap_or(0);
            let bits = src.to_bits() & mask;
            [(bits >> 64) as u64, bits as u64]
        }
    };
    [high, low, 0]
}

/// The source, and the service that it speaks to.
fn service_key(limits: &Option<SourceLimits>, ends: &Ends) -> [u64; 3] {
    if limits.is_none() {
        return [0; 3];
    }
    let [high, low, _] = source_key(limits, ends.src);
    let dst = match ends.dst {
        IpAddr::V4(dst) => dst.to_bits().into(),
        IpAddr::V6(dst) => {
            let bits = dst.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(24)
        }
    };
    [high ^ dst.rotate_left(32), low, u64::from(ends.protocol) << 16 | u64::from(ends.dst_port)]
}

/// The guard that counts a frame, and by what. `None` for what no guard counts: other stations' frames, ARP, and what no
/// header can be found in, which `parse` refuses.
#[inline]
fn count_by(bytes: &[u8], port: u16, any_mac: bool, snapshot: &Snapshot) -> Option<(usize, Ends)> {
    let (mut tags, mut at) = (Tags::default(), ethernet::LEN);
    let mut kind = be16(bytes, 12)?;
    while matches!(kind, ethernet::VLAN | ethernet::QINQ) {
        let id = be16(bytes, at)? & 0x0fff;
        if id != 0 {
            *tags.ids.get_mut(usize::from(tags.count))? = id;
            tags.count += 1;
        }
        kind = be16(bytes, at + 2)?;
        at += 4;
    }
    let interface = snapshot.interfaces.get(usize::from(snapshot.interface_of(port, tags)?))?;
    let guard = usize::from(interface.guard?);
    let to = Mac(*bytes.first_chunk()?);
    if !any_mac && to != interface.mac && !to.is_multicast() {
        return None;
    }
    let ends = match kind {
        ethernet::IPV4 => ends4(bytes.get(at..)?)?,
        ethernet::IPV6 => ends6(bytes.get(at..)?)?,
        _ => return None,
    };
    Some((guard, ends))
}

#[inline]
fn ends4(packet: &[u8]) -> Option<Ends> {
    let ip = ipv4::Header::at(packet, 0)?;
    let protocol = ip.protocol();
    let has_port = matches!(protocol, ipv4::TCP | ipv4::UDP) && ip.fragment_offset() == 0;
    Some(Ends {
        src: Ipv4Addr::from_bits(ip.source_bits()).into(),
        dst: Ipv4Addr::from_bits(ip.destination_bits()).into(),
        protocol,
        dst_port: if has_port { be16(packet, ip.header_len() + 2).unwrap_or(0) } else { 0 },
        icmp: (protocol == ipv4::ICMP).then_some(0),
    })
}

#[inline]
fn ends6(packet: &[u8]) -> Option<Ends> {
    let ip = ipv6::Header::at(packet, 0)?;
    let protocol = ip.next_header();
    let has_port = matches!(protocol, ipv4::TCP | ipv4::UDP);
    let kind = packet.get(ipv6::LEN).copied().unwrap_or(0);
    let is_discovery = (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind);
    Some(Ends {
        src: ip.source().into(),
        dst: ip.destination().into(),
        protocol,
        dst_port: if has_port { be16(packet, ipv6::LEN + 2).unwrap_or(0) } else { 0 },
        icmp: (protocol == ipv6::ICMPV6 && !is_discovery).then_some(1),
    })
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&two| u16::from_be_bytes(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_one_prefix_are_one_and_services_are_apart() {
        let limits = |prefix| Some(SourceLimits { prefix, ..SourceLimits::default() });
        let key = |prefix, address: &str| source_key(&limits(prefix), address.parse().unwrap());
        assert_eq!(key([24, 64], "192.0.2.1"), key([24, 64], "192.0.2.200"));
        assert_ne!(key([24, 64], "192.0.2.1"), key([24, 64], "192.0.3.1"));
        assert_ne!(key([32, 64], "192.0.2.1"), key([32, 64], "192.0.2.2"));
        assert_eq!(key([32, 64], "2001:db8::1"), key([32, 64], "2001:db8::ffff:1"));
        assert_ne!(key([32, 128], "2001:db8::1"), key([32, 128], "2001:db8::2"));
        let ends = |dst: &str, protocol, dst_port| Ends {
            src: "192.0.2.1".parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            dst_port,
            icmp: None,
        };
        let service = |ends| service_key(&limits([32, 64]), &ends);
        let all = [
            service(ends("198.51.100.1", 6, 80)),
            service(ends("198.51.100.2", 6, 80)),
            service(ends("198.51.100.1", 17, 80)),
            service(ends("198.51.100.1", 6, 81)),
        ];
        assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])));
    }
}
