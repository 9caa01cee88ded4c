//! Port control: what inside hosts ask of their own mappings, by PCP (RFC 6887) or NAT-PMP (RFC 6886), at UDP port 5351 of
//! the gateway's address on their link. IPv4 source NAT alone; there is no port control for IPv6.
//!
//! The worker that owns the host's bindings decides, as about a first packet of the host's; the answer leaves where the
//! request came in (`local/port_control.rs`).
//!
//! Exits: requests, with what they come to.

use std::net::Ipv4Addr;

use sluice_pkt::parse::Flags;
use sluice_pkt::pcp::{self, Result as Code, filter, map, peer};
use sluice_pkt::{ethernet, ipv4, natpmp, udp};

use super::{FirstPackets, acl, nat, route};
use crate::burst::Burst;
use crate::clock::{Nanos, SECOND};
use crate::nat::{Ask, Filters, LeaseFacts, Nat, Nonce, Peers, Refusal};
use crate::shard::Shard;
use crate::snapshot::{LocalUse, PortControl, Snapshot, SourceNat};
use crate::verdict::{DropReason, Reply, Verdict};

/// How NAT-PMP's mappings are named, which have no nonce (RFC 6887 appendix A).
const NAMELESS: Nonce = [0; 12];

/// Runs the stage.
pub fn run(burst: &mut Burst, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.port_control.rules.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let (headers, decision) = (&burst.headers[i], &first.decisions[i]);
        let ends = [decision.src, decision.dst];
        let is_whole = !headers.flags.has(Flags::FRAGMENT) && !decision.forwarded && !decision.inbound;
        let interface = burst.interfaces[i];
        let Some(rule) = rule_for(ends, headers.protocol, interface, snapshot).filter(|_| is_whole) else {
            continue;
        };
        let completes = snapshot.ports.get(usize::from(snapshot.physical(burst.port)));
        if completes.is_some_and(|port| port.complete_checksums) {
            burst.complete_checksum(i);
        }
        acl::count(shard, decision.rule, burst.packet_len(i));
        let Some(message) = message(burst, i) else {
            burst.drop(i, DropReason::LocalInvalid);
            continue;
        };
        let client = Client { inside: ends[0].0, rule };
        match client.answer(message, &mut shard.nat, snapshot) {
            Some(reply) => burst.decide(i, Verdict::PortControl(reply)),
            // It is no request. To ask who sends what to this port would only help to scan for it.
            None => burst.drop(i, DropReason::LocalInvalid),
        }
    }
}

/// The rule by which a packet's source may ask for mappings, if that is what the packet does: if it is for our own address
/// on the link that it came by, and its source is behind that link.
pub(super) fn rule_for(
    [src, dst]: [(u32, u16); 2],
    protocol: u8,
    interface: u16,
    snapshot: &Snapshot,
) -> Option<&SourceNat> {
    if protocol != ipv4::UDP || dst.1 != pcp::PORT || snapshot.port_control.rules.is_empty() {
        return None;
    }
    let (on, used) = *snapshot.local4.get(&Ipv4Addr::from_bits(dst.0))?;
    let from = Ipv4Addr::from_bits(src.0);
    let is_there = (on, used) == (interface, LocalUse::Interface)
        && !snapshot.local4.contains_key(&from)
        && route::expected_interface(from.into(), snapshot) == Some(interface);
    rule_of(src.0, snapshot).filter(|rule| is_there && rule.out != interface)
}

/// The first rule by which an inside address may ask for mappings: one that NAT goes by for it.
fn rule_of(inside: u32, snapshot: &Snapshot) -> Option<&SourceNat> {
    snapshot.port_control.rules.iter().find_map(|&index| {
        let rule = snapshot.source_nat.get(usize::from(index))?;
        let is_its = nat::rule_of(inside, rule.out, snapshot).is_some_and(|its| std::ptr::eq(its, rule));
        (is_its && snapshot.statics.outside_of(rule.out, inside).is_none()).then_some(rule)
    })
}

/// The data of a UDP datagram that was for one station and has the right checksum.
fn message(burst: &Burst, i: usize) -> Option<&[u8]> {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let frame = ethernet::Header::at(bytes, 0)?;
    if frame.destination().is_multicast() || !frame.source().is_unicast() {
        return None;
    }
    let ip = ipv4::Header::at(bytes, headers.l3_offset.into())?;
    let l4 = usize::from(headers.l4_offset);
    let header = udp::Header::at(bytes, l4)?;
    // What is longer than a frame is too long for a message, too, and is told by its length.
    let datagram = bytes.get(l4..l4 + usize::from(header.datagram_len()))?;
    let is_right = headers.flags.has(Flags::NO_CHECKSUM)
        || ip.pseudo_header(ipv4::UDP, datagram.len() as u16).add_bytes(datagram).fold() == 0xffff;
    datagram.get(udp::LEN..).filter(|_| is_right)
}

/// Who asks.
struct Client<'a> {
    inside: u32,
    rule: &'a SourceNat,
}

/// What a MAP request's options say.
#[derive(Default)]
struct Wishes {
    is_exact: bool,
    clears_filters: bool,
    filters: Filters,
}

fn error(result: Code) -> Reply {
    Reply { result, lifetime: result.error_lifetime(), external: (0, 0) }
}

/// As long as the configuration allows, seconds.
fn granted(wanted: u32, bounds: &PortControl) -> u32 {
    wanted.min(bounds.max_lifetime).max(bounds.min_lifetime)
}

fn seconds(time: Nanos) -> u32 {
    u32::try_from(time / SECOND).unwrap_or(u32::MAX)
}

impl Client<'_> {
    /// Does what a message asks for. `None` if it is not to be answered.
    fn answer(&self, message: &[u8], nat: &mut Nat, snapshot: &Snapshot) -> Option<Reply> {
        let &[version, opcode, ..] = message else { return None };
        if opcode & pcp::RESPONSE != 0 {
            return None;
        }
        if version == natpmp::VERSION {
            return self.natpmp(message, opcode, nat, snapshot);
        }
        if message.len() < pcp::SHORTEST {
            return None;
        }
        if version != pcp::VERSION {
            return Some(error(Code::UnsuppVersion));
        }
        let outcome = self.pcp(message, nat, snapshot);
        Some(outcome.unwrap_or_else(|reply| reply))
    }

    /// In the order of RFC 6887 8.2.
    fn pcp(&self, message: &[u8], nat: &mut Nat, snapshot: &Snapshot) -> Result<Reply, Reply> {
        let malformed = || error(Code::MalformedRequest);
        let opcode = message.get(pcp::OPCODE_FIELD).copied().unwrap_or(0);
        if !matches!(opcode, pcp::ANNOUNCE | pcp::MAP | pcp::PEER) {
            return Err(error(Code::UnsuppOpcode));
        }
        if message.len() > pcp::LONGEST || message.len() % pcp::UNIT != 0 {
            return Err(malformed());
        }
        let header = pcp::Header::at(message, 0).ok_or_else(malformed)?;
        let data = message.get(pcp::LEN..).unwrap_or_default();
        if opcode == pcp::ANNOUNCE {
            self.is_client(&header)?;
            wishes(data, opcode)?;
            return Ok(Reply { result: Code::Success, lifetime: 0, external: (0, 0) });
        }
        let map = map::Map::at(data, 0).ok_or_else(malformed)?;
        if opcode == pcp::PEER {
            let peer = peer::Peer::at(data, map::LEN).ok_or_else(malformed)?;
            self.is_client(&header)?;
            wishes(data.get(map::LEN + peer::LEN..).unwrap_or_default(), opcode)?;
            return self.peer(header.lifetime(), &map, &peer, nat, snapshot);
        }
        self.is_client(&header)?;
        let wishes = wishes(data.get(map::LEN..).unwrap_or_default(), opcode)?;
        self.map(header.lifetime(), &map, &wishes, nat, snapshot)
    }

    fn is_client(&self, header: &pcp::Header<&[u8; pcp::LEN]>) -> Result<(), Reply> {
        let is_it = header.client() == pcp::mapped(Ipv4Addr::from_bits(self.inside));
        is_it.then_some(()).ok_or_else(|| error(Code::AddressMismatch))
    }

    /// RFC 6887 11.3 and 15.
    fn map(
        &self,
        lifetime: u32,
        map: &map::Map<&[u8; map::LEN]>,
        wishes: &Wishes,
        nat: &mut Nat,
        snapshot: &Snapshot,
    ) -> Result<Reply, Reply> {
        let (protocol, port, nonce) = (map.protocol(), map.internal_port(), map.nonce());
        if protocol == 0 && port != 0 {
            return Err(error(Code::MalformedRequest));
        }
        let suggested = map.external().to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let suggested = (suggested.to_bits(), map.external_port());
        if lifetime == 0 {
            let ended = nat.end_leases((self.inside, port), protocol, &nonce);
            let reply = Reply { result: Code::Success, lifetime: 0, external: suggested };
            return ended.map(|()| reply).map_err(refused);
        }
        // All ports of a host at once are static NAT.
        if !Nat::can_lease(protocol) || port == 0 {
            return Err(error(Code::UnsuppProtocol));
        }
        let lifetime = granted(lifetime, &snapshot.port_control);
        let ask = Ask {
            suggested,
            is_exact: wishes.is_exact,
            nonce,
            clears_filters: wishes.clears_filters,
            filters: wishes.filters,
            ..self.ask((port, protocol), lifetime, snapshot)
        };
        let external = self.lease(&ask, nat, snapshot).map_err(refused)?;
        Ok(Reply { result: Code::Success, lifetime, external })
    }

    /// RFC 6887 12.3: the mapping of a conversation is there for longer, or before its first packet.
    fn peer(
        &self,
        lifetime: u32,
        map: &map::Map<&[u8; map::LEN]>,
        peer: &peer::Peer<&[u8; peer::LEN]>,
        nat: &mut Nat,
        snapshot: &Snapshot,
    ) -> Result<Reply, Reply> {
        let (protocol, port) = (map.protocol(), map.internal_port());
        let far = (peer.address().to_ipv4_mapped(), peer.port());
        let (Some(address), 1..) = far else { return Err(error(Code::MalformedRequest)) };
        if protocol == 0 || port == 0 || address.is_unspecified() || address.is_multicast() {
            return Err(error(Code::MalformedRequest));
        }
        if !Nat::can_lease(protocol) {
            return Err(error(Code::UnsuppProtocol));
        }
        let suggested = map.external().to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let lifetime = granted(lifetime, &snapshot.port_control);
        let ask = Ask {
            suggested: (suggested.to_bits(), map.external_port()),
            nonce: map.nonce(),
            ..self.ask((port, protocol), lifetime, snapshot)
        };
        let pool = snapshot.pools.get(usize::from(self.rule.pool));
        let pool = pool.ok_or_else(|| error(Code::NoResources))?;
        let (external, left) = nat.lease_for(&ask, (address.to_bits(), far.1), pool).map_err(refused)?;
        Ok(Reply { result: Code::Success, lifetime: seconds(left), external })
    }

    fn ask(&self, (port, protocol): (u16, u8), lifetime: u32, snapshot: &Snapshot) -> Ask {
        Ask {
            pool: self.rule.pool,
            inside: (self.inside, port),
            protocol,
            suggested: (0, 0),
            is_exact: false,
            nonce: NAMELESS,
            lifetime: Nanos::from(lifetime) * SECOND,
            clears_filters: false,
            filters: Filters::default(),
            most: snapshot.port_control.max_mappings,
            generation: snapshot.generation,
        }
    }

    fn lease(&self, ask: &Ask, nat: &mut Nat, snapshot: &Snapshot) -> Result<(u32, u16), Refusal> {
        let pool = snapshot.pools.get(usize::from(self.rule.pool)).ok_or(Refusal::NoRoom)?;
        nat.lease(ask, pool)
    }

    /// RFC 6886 3.
    fn natpmp(&self, message: &[u8], opcode: u8, nat: &mut Nat, snapshot: &Snapshot) -> Option<Reply> {
        let external = nat.external_of(self.rule.pool, self.inside);
        let protocol = match opcode {
            natpmp::EXTERNAL_ADDRESS => {
                let reply = |address| Reply { result: Code::Success, lifetime: 0, external: (address, 0) };
                return Some(external.map_or(error(Code::NetworkFailure), reply));
            }
            natpmp::MAP_UDP => ipv4::UDP,
            natpmp::MAP_TCP => ipv4::TCP,
            _ => return Some(error(Code::UnsuppOpcode)),
        };
        let request = natpmp::map::Request::at(message, 0)?;
        let (port, lifetime) = (request.internal_port(), request.lifetime());
        if lifetime == 0 {
            let ended = nat.end_leases((self.inside, port), protocol, &NAMELESS);
            let reply = Reply { result: Code::Success, lifetime: 0, external: (0, 0) };
            return Some(ended.map_or_else(refused, |()| reply));
        }
        if port == 0 {
            return Some(error(Code::NotAuthorized));
        }
        let lifetime = granted(lifetime, &snapshot.port_control);
        let suggested = (0, request.external_port());
        let ask = Ask { suggested, ..self.ask((port, protocol), lifetime, snapshot) };
        Some(match self.lease(&ask, nat, snapshot) {
            Ok(external) => Reply { result: Code::Success, lifetime, external },
            Err(refusal) => refused(refusal),
        })
    }
}

fn refused(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::Another(left) => Reply { lifetime: seconds(left), ..error(Code::NotAuthorized) },
        Refusal::Quota => error(Code::UserExQuota),
        Refusal::NoRoom => error(Code::NoResources),
        Refusal::NotThat => error(Code::CannotProvideExternal),
        Refusal::TooManyFilters => error(Code::ExcessiveRemotePeers),
    }
}

/// Reads a request's options (RFC 6887 7.3 and 13).
fn wishes(options: &[u8], opcode: u8) -> Result<Wishes, Reply> {
    let malformed = || error(Code::MalformedOption);
    let mut wishes = Wishes::default();
    for option in pcp::Options(options) {
        let option = option.map_err(|_| malformed())?;
        match option.code {
            pcp::THIRD_PARTY => return Err(error(Code::NotAuthorized)),
            pcp::PREFER_FAILURE => {
                if opcode != pcp::MAP || wishes.is_exact || !option.data.is_empty() {
                    return Err(malformed());
                }
                wishes.is_exact = true;
            }
            pcp::FILTER => {
                let filter = filter::Filter::at(option.data, 0).ok_or_else(malformed)?;
                if opcode != pcp::MAP || option.data.len() != filter::LEN {
                    return Err(malformed());
                }
                if filter.length() == 0 {
                    (wishes.clears_filters, wishes.filters) = (true, Filters::default());
                    continue;
                }
                if !wishes.filters.add(peers(&filter).ok_or_else(malformed)?) {
                    return Err(error(Code::ExcessiveRemotePeers));
                }
            }
            code if code >= pcp::OPTIONAL => {}
            _ => return Err(error(Code::UnsuppOption)),
        }
    }
    Ok(wishes)
}

/// Only peers of IPv4 can send to an IPv4 address.
fn peers(filter: &filter::Filter<&[u8; filter::LEN]>) -> Option<Peers> {
    let length = u32::from(filter.length()).checked_sub(96).filter(|&length| length <= 32)?;
    let address = filter.peer().to_ipv4_mapped()?.to_bits();
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some(Peers { address, mask, port: filter.port() })
}

/// Ends leases whose time is up, and those that another configuration does not give out any more.
pub fn keep(shard: &mut Shard, snapshot: &Snapshot, now: Nanos) {
    let nat = &mut shard.nat;
    for _ in 0..nat.leases_due(now) {
        let Some(LeaseFacts { binding, until, generation }) = nat.next_lease() else { continue };
        if until <= now || generation != snapshot.generation && !may_stay(binding, nat, snapshot) {
            nat.end_lease(binding);
        } else if generation != snapshot.generation {
            nat.confirm_lease(binding, snapshot.generation);
        }
    }
}

/// Whether a binding may still be leased. If so, it is that of its rule's pool from now on.
fn may_stay(binding: u32, nat: &mut Nat, snapshot: &Snapshot) -> bool {
    let inside = nat.get(binding).map(|binding| binding.inside.0);
    let rule = inside.and_then(|inside| rule_of(inside, snapshot));
    rule.is_some_and(|rule| nat.keep(binding, rule.pool, (0, 0)))
}
