//! The stages, one file each: plain functions over a burst. Their order is in [`crate::pipeline`].

pub mod acl;
mod choice;
pub mod class;
pub mod fastpath;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod hairpin;
pub mod icmp_error;
pub mod lists;
pub mod mark;
pub mod mss;
pub mod nat;
pub mod nat64;
pub mod owner;
pub mod parse;
pub mod police;
pub mod port_control;
mod portless;
pub mod prefix;
pub mod redecide;
pub mod rewrite;
pub mod route;
pub mod sanity;
pub mod shape;
pub mod sources;
pub mod syn;
pub mod together;
pub mod transmit;

use sluice_pkt::parse::{Flags, Headers};
use sluice_pkt::{icmpv4, ipv4, ipv6};

use self::route::Place;
use self::together::Foreseen;
use crate::burst::{BURST, Burst, Mask};
use crate::session::{Limits, NONE};
use crate::snapshot::{AclAction, NONE16, Snapshot};
use crate::table::classifier::Tuple;

/// What the first-packet stages have decided about one packet so far.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// The ACL rule that let it pass, or [`NONE16`].
    pub rule: u16,
    /// IPv4 source address and port when it leaves.
    pub src: (u32, u16),
    /// IPv4 destination address and port when it leaves.
    pub dst: (u32, u16),
    /// What prefix translation makes of an IPv6 packet.
    pub prefix: prefix::Change,
    /// Whether it leaves in the other family (NAT64).
    pub cross: nat64::Cross,
    /// Whether a port forward or static NAT changes the destination.
    pub forwarded: bool,
    /// Whether the source address changes without a binding: by static NAT, or for a protocol without ports.
    pub rewritten: bool,
    /// The NAT binding of the source, or of the destination if `inbound`, or [`NONE`].
    pub binding: u32,
    /// What [`Nat::hold`](crate::nat::Nat::hold) said, where the binding counts the session already.
    pub permit: Option<u32>,
    /// Whether it comes from outside to a NAT binding.
    pub inbound: bool,
    /// Egress interface.
    pub egress: u16,
    /// Index of the next hop.
    pub next_hop: u16,
    /// Policers of this direction and of the reply's.
    pub limits: [Limits; 2],
    /// The class in which packets of this direction leave, and those of the reply.
    pub classes: [u16; 2],
    /// Differentiated services code point of the session's first packet.
    pub dscp: u8,
    /// On whose account the session is, where a guard bounds how many a source has.
    pub holder: Option<u64>,
}

impl Decision {
    const NONE: Self = Self {
        rule: NONE16,
        src: (0, 0),
        dst: (0, 0),
        prefix: prefix::Change::None,
        cross: nat64::Cross::No,
        forwarded: false,
        rewritten: false,
        binding: NONE,
        permit: None,
        inbound: false,
        egress: NONE16,
        next_hop: NONE16,
        limits: [Limits::NONE; 2],
        classes: [NONE16; 2],
        dscp: 0,
        holder: None,
    };
}

/// The packets of a burst that belong to no flow yet: what is known of each ahead of its turn, and what has been decided about
/// the one whose turn it is.
#[derive(Debug)]
pub struct FirstPackets {
    /// They came in at another worker, which asks: nothing is done here that belongs to where they leave.
    asked: bool,
    /// Those whose turn it is.
    group: Mask,
    /// Those of them that are still to be decided.
    turn: Mask,
    /// Those that turned out to belong to a session, since the last turn.
    found: Mask,
    decisions: [Decision; BURST],
    /// What of each is foreseen.
    foreseen: [Foreseen; BURST],
    /// What rules see of each packet of IPv4.
    tuples4: [Tuple4; BURST],
    /// Where each packet's source and destination lie.
    places: [[Place; 2]; BURST],
    /// Whose ACL rules are known, as long as they are of no live session.
    classified: Mask,
    rules: [(u16, AclAction); BURST],
    /// The next hop that was found last.
    last_hop: Option<route::Found>,
}

impl Default for FirstPackets {
    fn default() -> Self {
        Self {
            asked: false,
            group: Mask::NONE,
            turn: Mask::NONE,
            found: Mask::NONE,
            decisions: [Decision::NONE; BURST],
            foreseen: [Foreseen::NOTHING; BURST],
            tuples4: [NO_TUPLE4; BURST],
            places: [[Place::NOWHERE; 2]; BURST],
            classified: Mask::NONE,
            rules: [(NONE16, AclAction::Accept); BURST],
            last_hop: None,
        }
    }
}

impl FirstPackets {
    /// Begins with a burst's first packets; `asked` says that another worker asks about them.
    pub fn begin(&mut self, asked: bool) {
        (self.asked, self.classified, self.last_hop) = (asked, Mask::NONE, None);
    }

    /// It is the turn of these packets; nothing is decided about them yet.
    fn turn(&mut self, turn: Mask, found: Mask) {
        (self.group, self.turn, self.found) = (turn, turn, found);
        turn.for_each(|i| self.decisions[i] = Decision::NONE);
    }

    /// What has been decided about a packet whose turn it is, or was last.
    pub fn decision(&self, i: usize) -> Option<&Decision> {
        self.group.has(i).then(|| &self.decisions[i])
    }

    /// The packets whose turn it is, or was until they were seen to.
    pub fn group(&self) -> Mask {
        self.group
    }

    /// Those that belong to a session that one ahead of them has made, found out since the last turn.
    pub fn found(&self) -> Mask {
        self.found
    }

    /// Whether another worker asks about them.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether it is this packet's turn, and there is something to be decided about it.
    pub fn is_turn(&self, i: usize) -> bool {
        self.turn.has(i)
    }

    /// The packets whose turn it is and whose fate is still open.
    #[inline(always)]
    fn open(&self, burst: &Burst) -> Mask {
        self.turn.and(burst.live)
    }

    /// Source and destination of a packet of IPv4, as it came.
    fn ends4(&self, i: usize) -> (u32, u32) {
        let tuple = &self.tuples4[i];
        (tuple.src, tuple.dst)
    }

    /// A packet whose turn it is has been seen to.
    fn end(&mut self, i: usize) {
        self.turn.remove(i);
    }
}

/// The ends and ports of a packet in the form that rules match, addresses as numbers.
type Tuple4 = Tuple<u32>;
type Tuple6 = Tuple<u128>;

const NO_TUPLE4: Tuple4 = Tuple {
    src: 0,
    dst: 0,
    protocol: 0,
    src_port: 0,
    dst_port: 0,
    has_ports: false,
    icmp: None,
    established: false,
};

#[inline]
fn addresses4(bytes: &[u8], headers: &Headers) -> (u32, u32) {
    ipv4::Header::at(bytes, headers.l3_offset.into())
        .map_or((0, 0), |ip| (ip.source_bits(), ip.destination_bits()))
}

#[inline]
fn addresses6(bytes: &[u8], headers: &Headers) -> (u128, u128) {
    ipv6::Header::at(bytes, headers.l3_offset.into())
        .map_or((0, 0), |ip| (ip.source().to_bits(), ip.destination().to_bits()))
}

fn tuple<A>((src, dst): (A, A), bytes: &[u8], headers: &Headers) -> Tuple<A> {
    let icmp = matches!(headers.protocol, ipv4::ICMP | ipv6::ICMPV6).then(|| {
        // A later fragment has its datagram's type, but no code to read.
        let code = if headers.flags.has(Flags::LATER_FRAGMENT) {
            0
        } else {
            bytes.get(usize::from(headers.l4_offset) + icmpv4::CODE).copied().unwrap_or(0)
        };
        (headers.icmp_type, code)
    });
    Tuple {
        src,
        dst,
        protocol: headers.protocol,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
        has_ports: matches!(headers.protocol, ipv4::TCP | ipv4::UDP),
        icmp,
        established: false,
    }
}

/// A packet's tuple seen from the other end. `icmp` is that of the answer to a query.
fn reversed<A: Copy>(tuple: &Tuple<A>) -> Tuple<A> {
    let icmp = tuple.icmp.map(|(kind, code)| match kind {
        sluice_pkt::icmpv6::ECHO_REQUEST if tuple.protocol == ipv6::ICMPV6 => {
            (sluice_pkt::icmpv6::ECHO_REPLY, 0)
        }
        kind if tuple.protocol == ipv4::ICMP => {
            icmpv4::reply_to(kind).map_or((kind, code), |reply| (reply, 0))
        }
        other => (other, code),
    });
    Tuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
        icmp,
        ..*tuple
    }
}

/// Why a packet that belongs to no session is forwarded without making one: it neither opens a conversation, nor could
/// its answer be told from other packets.
fn sessionless(headers: &Headers) -> bool {
    match headers.protocol {
        ipv4::TCP => headers.tcp_flags & sluice_pkt::tcp::RST != 0,
        ipv4::ICMP => icmpv4::query(headers.icmp_type) != Some(icmpv4::Query::Request),
        ipv6::ICMPV6 => headers.icmp_type != sluice_pkt::icmpv6::ECHO_REQUEST,
        _ => false,
    }
}

/// Whether an address is one of ours, and on which interface's link and for what use.
fn local6(snapshot: &Snapshot, interface: u16, address: u128) -> bool {
    let address = std::net::Ipv6Addr::from_bits(address);
    if address.is_unicast_link_local() {
        let interface = snapshot.interfaces.get(usize::from(interface));
        return interface.is_some_and(|i| i.v6.iter().any(|&(ours, _)| ours == address));
    }
    snapshot.local6.contains_key(&address)
}
