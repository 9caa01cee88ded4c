//! Prefix translation for IPv6 (NPTv6, RFC 6296): which address of a first packet becomes which. Destination before the
//! route is chosen, source after, as with NAT; later packets are changed by `rewrite`. No port and no checksum changes, so
//! any protocol passes, and packets that belong to no session are translated as well.
//!
//! A packet from inside to an outside address of the same interface hairpins as those of NAT do ([`super::hairpin`]): it
//! leaves, with its source translated, and comes in again (RFC 6296 4.3).
//!
//! Exits: drops of packets with an address that has no counterpart.

use std::net::Ipv6Addr;

use sluice_pkt::checksum::Delta;
use sluice_pkt::parse::{Flags, Headers, L3, parse_quoted};
use sluice_pkt::translation::Translation;
use sluice_pkt::{icmpv6, ipv6};

use super::{FirstPackets, addresses6, local6};
use crate::burst::Burst;
use crate::session::FlowAction;
use crate::snapshot::{PrefixNat, Snapshot};
use crate::verdict::{Answer, DropReason};

/// What becomes of a packet's addresses. One of them changes, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    #[default]
    None,
    /// The source becomes this one.
    Source(u128),
    /// The destination becomes this one.
    Destination(u128),
}

impl Change {
    /// The ends of a packet that this is done to.
    pub(super) fn apply(self, (src, dst): (u128, u128)) -> (u128, u128) {
        match self {
            Self::None => (src, dst),
            Self::Source(new) => (new, dst),
            Self::Destination(new) => (src, new),
        }
    }

    /// What is done to the answers of a packet with these ends.
    pub(super) fn undone(self, (src, dst): (u128, u128)) -> Self {
        match self {
            Self::None => Self::None,
            Self::Source(_) => Self::Destination(src),
            Self::Destination(_) => Self::Source(dst),
        }
    }

    /// What an action needs to have of it.
    pub(super) fn compile(self) -> (Translation, u16) {
        let of = |bits| Translation::of_v6(Ipv6Addr::from_bits(bits));
        match self {
            Self::None => (Translation::NONE, 0),
            Self::Source(new) => (of(new), FlowAction::NAT | FlowAction::SOURCE6),
            Self::Destination(new) => (of(new), FlowAction::NAT | FlowAction::DESTINATION6),
        }
    }
}

/// The destination of an IPv6 packet when it leaves.
pub(super) fn destination_of(action: &FlowAction, bytes: &[u8], headers: &Headers) -> Ipv6Addr {
    if action.is(FlowAction::DESTINATION6) {
        return action.new.v6();
    }
    Ipv6Addr::from_bits(addresses6(bytes, headers).1)
}

/// What becomes of the destination of a packet that comes in by an interface.
pub(super) fn change_in(
    (src, dst): (u128, u128),
    interface: u16,
    snapshot: &Snapshot,
) -> Result<Change, DropReason> {
    let Some(rule) = outside(dst, snapshot) else { return Ok(Change::None) };
    let hairpins = rule.out != interface && rule_for(snapshot, src, rule.out).is_some();
    if hairpins || local6(snapshot, interface, dst) {
        return Ok(Change::None);
    }
    rule.pair.inward(dst).map(Change::Destination).ok_or(DropReason::PrefixUnmappable)
}

/// What becomes of the source of a packet that leaves by an interface.
pub(super) fn change_out(src: u128, egress: u16, snapshot: &Snapshot) -> Result<Change, DropReason> {
    let Some(rule) = rule_for(snapshot, src, egress) else { return Ok(Change::None) };
    rule.pair.outward(src).map(Change::Source).ok_or(DropReason::PrefixUnmappable)
}

/// The rule by which packets from this address are translated when they leave by this interface.
fn rule_for(snapshot: &Snapshot, src: u128, egress: u16) -> Option<&PrefixNat> {
    snapshot.prefixes.iter().find(|rule| rule.out == egress && rule.pair.is_inside(src))
}

/// The rule in whose outside prefix an address lies.
fn outside(address: u128, snapshot: &Snapshot) -> Option<&PrefixNat> {
    snapshot.prefixes.iter().find(|rule| rule.pair.is_outside(address))
}

/// The interface behind which an address is one of an outside prefix of ours.
pub(super) fn interface_of(address: Ipv6Addr, snapshot: &Snapshot) -> Option<u16> {
    let rule = outside(address.to_bits(), snapshot)?;
    (!snapshot.local6.contains_key(&address)).then_some(rule.out)
}

/// An end as it is inside, whichever way it was written: so a session's packets are alike both ways.
pub(super) fn inside_of(address: u128, snapshot: &Snapshot) -> u128 {
    outside(address, snapshot).and_then(|rule| rule.pair.inward(address)).unwrap_or(address)
}

/// Translates the destination of a first packet.
pub(super) fn destination(burst: &mut Burst, i: usize, first: &mut FirstPackets, snapshot: &Snapshot) {
    if snapshot.prefixes.is_empty() {
        return;
    }
    let ends = addresses6(burst.bytes(i), &burst.headers[i]);
    match change_in(ends, burst.interfaces[i], snapshot) {
        Ok(change) => first.decisions[i].prefix = change,
        Err(reason) => burst.reject(i, reason, Answer::NoRoute),
    }
}

/// Translates the source of a first packet whose destination stays what it is.
pub(super) fn source(burst: &mut Burst, i: usize, first: &mut FirstPackets, snapshot: &Snapshot) {
    let decision = &mut first.decisions[i];
    if snapshot.prefixes.is_empty() || decision.prefix != Change::None {
        return;
    }
    let (src, _) = addresses6(burst.bytes(i), &burst.headers[i]);
    match change_out(src, decision.egress, snapshot) {
        Ok(change) => decision.prefix = change,
        Err(reason) => burst.reject(i, reason, Answer::NoRoute),
    }
}

/// Writes the new address.
pub(super) fn translate(bytes: &mut [u8], headers: &Headers, action: &FlowAction, snapshot: &Snapshot) {
    if headers.flags.has(Flags::ICMP_ERROR) {
        return translate_error(bytes, headers, action, snapshot);
    }
    let Some(mut ip) = ipv6::Header::at_mut(bytes, headers.l3_offset.into()) else { return };
    if action.is(FlowAction::SOURCE6) {
        ip.set_source(action.new.v6());
    } else {
        ip.set_destination(action.new.v6());
    }
}

/// Translates an error: its own addresses, and those of the packet that it quotes, which went the other way. The action is
/// that of the flow that the error travels with (`QUOTATION`), or was made for an error that is about no session.
fn translate_error(bytes: &mut [u8], headers: &Headers, action: &FlowAction, snapshot: &Snapshot) {
    let (l3, at) = (usize::from(headers.l3_offset), usize::from(headers.l4_offset) + icmpv6::LEN);
    let Some(outer) = ipv6::Header::at(bytes, l3).map(|ip| (ip.source_bits(), ip.destination_bits())) else {
        return;
    };
    let quotes = bytes.get(at..headers.end.into()).is_some_and(|b| parse_quoted(b, L3::Ipv6).is_some());
    let quoted = ipv6::Header::at(bytes, at).filter(|_| quotes);
    let quoted = quoted.map(|ip| (ip.source_bits(), ip.destination_bits()));
    let new = action.new.v6().to_bits();
    let (new_outer, new_quoted) = if action.is(FlowAction::SOURCE6) {
        // The error may be a router's on the way to the host that the quoted packet was for.
        let out = |address| outside(new, snapshot).and_then(|rule| rule.pair.outward(address));
        let host = quoted.map(|(_, host)| host).filter(|_| action.is(FlowAction::QUOTATION));
        let its = if host.is_some_and(|host| host != outer.0) { outer.0 } else { new };
        let of_host = if host.is_some() { Some(new) } else { None };
        let src = out(outer.0).unwrap_or(its);
        ((src, outer.1), quoted.map(|(src, host)| (src, of_host.or_else(|| out(host)).unwrap_or(host))))
    } else {
        let inward = |address| if address == outer.1 { new } else { inside_of(address, snapshot) };
        ((outer.0, new), quoted.map(|(src, dst)| (inward(src), dst)))
    };
    let mut delta = put(bytes, l3, outer, new_outer);
    if let (Some(old), Some(new)) = (quoted, new_quoted) {
        delta += put(bytes, at, old, new);
    }
    // Nothing changes, unless an address had no counterpart.
    if delta != Delta::NONE {
        if let Some(mut icmp) = icmpv6::Header::at_mut(bytes, headers.l4_offset.into()) {
            let checksum = icmp.checksum();
            icmp.set_checksum(delta.apply(checksum));
        }
    }
}

/// Writes both addresses of a header. Returns what that does to a checksum that covers them.
fn put(bytes: &mut [u8], at: usize, old: (u128, u128), new: (u128, u128)) -> Delta {
    if let Some(mut ip) = ipv6::Header::at_mut(bytes, at) {
        ip.set_source(Ipv6Addr::from_bits(new.0));
        ip.set_destination(Ipv6Addr::from_bits(new.1));
    }
    let of = |old: u128, new: u128| Delta::of_bytes(&old.to_be_bytes(), &new.to_be_bytes());
    of(old.0, new.0) + of(old.1, new.1)
}
