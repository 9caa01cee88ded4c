//! Class: in which class of its egress port a session's packets leave, both ways. Chosen at the first packet, remembered in
//! the action.
//!
//! Classes see the inside's addresses, as limits do. The code point that counts is the first packet's, for both directions,
//! and so is the ACL rule. A class that holds others is for what fits it and all its parents.

use sluice_pkt::parse::{Headers, L3};
use sluice_pkt::{ipv4, ipv6};

use super::{Decision, FirstPackets, Tuple4, Tuple6, addresses6, nat64, reversed, tuple};
use crate::burst::Burst;
use crate::session::Ends6;
use crate::snapshot::{Class, ClassMatch, NONE16, Snapshot};
use crate::table::classifier::{Address, Rule, Tuple};

/// Chooses the classes of each first packet's session, both ways.
pub fn decide(burst: &Burst, first: &mut FirstPackets, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let decision = &mut first.decisions[i];
        // Another configuration may ask for it.
        decision.dscp = dscp(bytes, headers);
        if snapshot.shapers.is_empty() {
            continue;
        }
        match (headers.l3, decision.cross) {
            (L3::Ipv4, nat64::Cross::No) => {
                choose4(decision, ingress, snapshot, first.tuples4[i]);
            }
            (_, nat64::Cross::No) => {
                let arrives = tuple(addresses6(bytes, headers), bytes, headers);
                choose6(decision, ingress, snapshot, &arrives);
            }
            (_, nat64::Cross::ToV6) => {
                choose46(decision, ingress, snapshot, &first.tuples4[i], burst.ends6[i]);
            }
            (_, nat64::Cross::ToV4) => {
                let arrives = tuple(addresses6(bytes, headers), bytes, headers);
                choose64(decision, ingress, snapshot, &arrives);
            }
        }
    }
}

/// A packet's differentiated services code point.
fn dscp(bytes: &[u8], headers: &Headers) -> u8 {
    let at = headers.l3_offset.into();
    let class = match headers.l3 {
        L3::Ipv4 => ipv4::Header::at(bytes, at).map(|ip| ip.dscp_ecn()),
        _ => ipv6::Header::at(bytes, at).map(|ip| ip.traffic_class()),
    };
    class.unwrap_or(0) >> 2
}

/// Chooses the classes of a session whose first packet is this one, which came in by `ingress`.
pub(super) fn choose4(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, arrives: Tuple4) {
    let inside = Tuple { dst: decision.dst.0, dst_port: decision.dst.1, ..arrives };
    choose_both(decision, ingress, snapshot, &inside, &reversed(&inside));
}

/// As [`choose4`].
pub(super) fn choose6(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, arrives: &Tuple6) {
    choose_both(decision, ingress, snapshot, arrives, &reversed(arrives));
}

/// As [`choose4`], for a first packet of IPv4 that leaves as IPv6.
pub(super) fn choose46(
    decision: &mut Decision,
    ingress: u16,
    snapshot: &Snapshot,
    arrives: &Tuple4,
    leaves: Ends6,
) {
    let leaving = nat64::leaving6(arrives, leaves);
    choose_both(decision, ingress, snapshot, &leaving, &reversed(arrives));
}

/// As [`choose4`], for a first packet of IPv6 that leaves as IPv4.
pub(super) fn choose64(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, arrives: &Tuple6) {
    let leaving = nat64::leaving4(arrives, decision);
    choose_both(decision, ingress, snapshot, &leaving, &reversed(arrives));
}

fn choose_both<A: Family, B: Family>(
    decision: &mut Decision,
    ingress: u16,
    snapshot: &Snapshot,
    leaving: &Tuple<A>,
    reply: &Tuple<B>,
) {
    if snapshot.shapers.is_empty() {
        return;
    }
    let (egress, rule, dscp) = (decision.egress, decision.rule, decision.dscp);
    let way = |ingress, egress| Way { ingress, egress, rule, dscp };
    decision.classes =
        [choose(way(ingress, egress), leaving, snapshot), choose(way(egress, ingress), reply, snapshot)];
}

/// What is known of packets that leave, besides their tuple.
#[derive(Clone, Copy)]
struct Way {
    ingress: u16,
    egress: u16,
    rule: u16,
    dscp: u8,
}

fn choose<A: Family>(way: Way, tuple: &Tuple<A>, snapshot: &Snapshot) -> u16 {
    let port = snapshot.interfaces.get(usize::from(way.egress)).map(|interface| interface.port);
    let shaper = port.and_then(|port| snapshot.shapers.get(snapshot.shaper_of(port)?));
    let Some(shaper) = shaper else { return NONE16 };
    let fits = |class: u16| {
        let parent = |class: &&Class| snapshot.classes.get(usize::from(class.parent?));
        let chain = std::iter::successors(snapshot.classes.get(usize::from(class)), parent);
        chain.into_iter().all(|class| class.matches.fits(way, tuple))
    };
    let found = shaper.order.iter().find(|&&(class, _)| fits(class));
    found.map_or(shaper.default, |&(_, class)| class)
}

impl ClassMatch {
    fn fits<A: Family>(&self, way: Way, tuple: &Tuple<A>) -> bool {
        let has = |list: &[u16], index| list.is_empty() || list.contains(&index);
        self.dscp.is_none_or(|set| set >> (way.dscp & 63) & 1 == 1)
            && has(&self.ingress, way.ingress)
            && has(&self.egress, way.egress)
            && has(&self.rules, way.rule)
            && A::rules(self).is_none_or(|rules| rules.iter().any(|rule| rule.matches(tuple)))
    }
}

/// The rules of a family.
trait Family: Address {
    fn rules(matches: &ClassMatch) -> Option<&[Rule<Self>]>;
}

impl Family for u32 {
    fn rules(matches: &ClassMatch) -> Option<&[Rule<u32>]> {
        matches.v4.as_deref()
    }
}

impl Family for u128 {
    fn rules(matches: &ClassMatch) -> Option<&[Rule<u128>]> {
        matches.v6.as_deref()
    }
}
