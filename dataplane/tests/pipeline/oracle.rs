//! A slow gateway in plain words: what the real one must decide about IPv4, for a lan behind source NAT, a wan with an
//! ACL, and port forwards. It knows nothing of bursts, tables or checksums.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::snapshot::{NatBehavior, NatFiltering, NatMapping};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, GATEWAY_WAN, LAN, POOL, WAN, WEB, host};
use crate::packets::{ACK, End, FIN, ICMP, RST, SYN, TCP, UDP};

/// Timeouts, of half seconds, so that no step of whole seconds comes too near.
pub(crate) const UDP_TIMEOUT: Nanos = 31 * SECOND + SECOND / 2;
pub(crate) const ICMP_TIMEOUT: Nanos = 11 * SECOND + SECOND / 2;
pub(crate) const TCP_TRANSITORY: Nanos = 47 * SECOND + SECOND / 2;
pub(crate) const TCP_ESTABLISHED: Nanos = 201 * SECOND + SECOND / 2;

/// A packet's addresses. An echo has its identifier at the asker's end, and 0 at the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) from: End,
    pub(crate) to: End,
}

impl Flow {
    pub(crate) fn back(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }
}

/// What is known of a packet besides its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Data,
    /// TCP flags.
    Segment(u8),
    Echo,
    EchoReply,
    /// An ICMP error about a packet that went this way, as its sender saw it.
    Error(Flow),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Leaves by the port as this; for an error, the flow of the quoted packet is the second.
    Out(usize, Flow, Option<Flow>),
    /// Leaves by the wan from any external end that nobody else has: the gateway's choice is told by `chosen`.
    OutFromNewEnd(Flow),
    Local,
    /// A SYN that nobody wants waits.
    Hold,
    Drop(DropReason),
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// As the first packet came in, and as it left.
    inner: Flow,
    outer: Flow,
    ingress: usize,
    /// The mapping that it uses, if any.
    mapping: Option<Mapping>,
    /// Whether its first packet came from outside, to the mapping.
    inbound: bool,
    packets: [u64; 2],
    /// When a packet last passed that keeps it alive.
    last: Nanos,
    heard: [bool; 2],
    acked: [bool; 2],
    fin: [bool; 2],
    reset: bool,
}

/// What has an external end: an inside one, perhaps for one remote end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mapping {
    protocol: u8,
    inside: End,
    remote: Option<End>,
    external: End,
}

impl Session {
    /// By which port its packets come in, and as what: those of the first one's direction, and the replies.
    fn ways(&self) -> [(usize, Flow); 2] {
        [(self.ingress, self.inner), (LAN + WAN - self.ingress, self.outer.back())]
    }

    fn translated(&self) -> bool {
        self.inner != self.outer
    }

    fn remote(&self) -> Ipv4Addr {
        if self.inbound { self.inner.from.0 } else { self.outer.to.0 }
    }

    fn timeout(&self) -> Nanos {
        let closing = self.reset || self.fin == [true; 2];
        match self.inner.protocol {
            UDP => UDP_TIMEOUT,
            ICMP => ICMP_TIMEOUT,
            _ if !closing && self.acked == [true; 2] => TCP_ESTABLISHED,
            _ => TCP_TRANSITORY,
        }
    }
}

#[derive(Default)]
pub(crate) struct Oracle {
    behavior: NatBehavior,
    sessions: Vec<Session>,
    pending: Option<(Session, What)>,
    /// When each mapping was last used from inside, as of the last look at all sessions.
    used: HashMap<Mapping, Nanos>,
    /// When each SYN that nobody wants is refused.
    syns: Vec<Nanos>,
    /// SYNs that nobody wanted.
    pub(crate) refused: u64,
}

impl Oracle {
    pub(crate) fn new(behavior: NatBehavior) -> Self {
        Self { behavior, ..Self::default() }
    }

    /// Which external end each inside one has.
    pub(crate) fn mappings(&self) -> HashSet<Mapping> {
        self.sessions.iter().filter_map(|s| s.mapping).collect()
    }

    /// The external ends that are taken.
    pub(crate) fn externals(&self, protocol: u8) -> HashSet<End> {
        self.mappings().iter().filter(|m| m.protocol == protocol).map(|m| m.external).collect()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// SYNs that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.syns.len()
    }

    /// Time has come to `now`, a second or more after the last one.
    pub(crate) fn expire(&mut self, now: Nanos) {
        for session in self.sessions.iter().filter(|s| !s.reset) {
            if let Some(mapping) = session.mapping {
                let used = self.used.entry(mapping).or_default();
                *used = session.last.max(*used);
            }
        }
        self.sessions.retain(|s| now - s.last < s.timeout());
        let mappings = self.mappings();
        self.used.retain(|mapping, _| mappings.contains(mapping));
        let before = self.syns.len();
        self.syns.retain(|&due| due > now);
        self.refused += (before - self.syns.len()) as u64;
    }

    /// A packet comes in by a port; what is decided, and how many times it is forwarded for that.
    pub(crate) fn decide(&mut self, port: usize, flow: Flow, what: What, now: Nanos) -> (Decision, u8) {
        let decision = match what {
            What::Error(quoted) => self.error(port, flow, quoted),
            _ => self.once(port, flow, what, now),
        };
        self.mirror(port, decision, what, now)
    }

    /// What goes to an external address of ours comes in again, as from outside.
    fn mirror(&mut self, port: usize, decision: Decision, what: What, now: Nanos) -> (Decision, u8) {
        match decision {
            Decision::Out(WAN, flow, quoted) if port == LAN && POOL.contains(&flow.to.0) => {
                let decision = match quoted {
                    Some(quoted) => self.error(WAN, flow, quoted),
                    None => self.once(WAN, flow, what, now),
                };
                (decision, 2)
            }
            _ => (decision, 1),
        }
    }

    fn once(&mut self, port: usize, flow: Flow, what: What, now: Nanos) -> Decision {
        if let Some(decision) = self.known(port, flow, what, now) {
            return decision;
        }
        let forwarded = forward(port, flow);
        if let Some(mapping) = self.admitted(port, flow, what).filter(|_| forwarded.is_none()) {
            let last = self.used.get(&mapping).copied().unwrap_or(now);
            let outer = Flow { to: mapping.inside, ..flow };
            let session =
                Session { mapping: Some(mapping), inbound: true, last, ..Session::new(flow, outer, port) };
            self.add(session, what, now);
            return Decision::Out(LAN, outer, None);
        }
        if let Some(reason) = refused(port, flow, what) {
            return Decision::Drop(reason);
        }
        let pooled = POOL.contains(&flow.to.0) && flow.to.1 >= 1024 && flow.protocol != ICMP;
        let hairpin = port == LAN && pooled && is_inside(flow.from.0);
        match flow.to.0 {
            GATEWAY_LAN | GATEWAY_WAN => return Decision::Local,
            to if POOL.contains(&to) && forwarded.is_none() && !hairpin => {
                if what == What::Echo {
                    return Decision::Local;
                }
                if pooled && what == What::Segment(SYN) {
                    return self.hold(now);
                }
                let mapped =
                    self.mappings().iter().any(|m| (m.protocol, m.external) == (flow.protocol, flow.to));
                let reason =
                    if mapped && pooled { DropReason::NatFiltered } else { DropReason::NatNoSession };
                return Decision::Drop(reason);
            }
            _ => {}
        }
        let mut session = Session { last: now, ..Session::new(flow, forwarded.unwrap_or(flow), port) };
        let opens = !matches!(what, What::EchoReply) && !matches!(what, What::Segment(f) if f & RST != 0);
        let egress = if is_inside(session.outer.to.0) { LAN } else { WAN };
        if egress == LAN || !is_inside(flow.from.0) {
            // Its replies are a translated session's packets: it is forged, or goes past NAT.
            let rival = |other: &Session| other.translated() && other.ways().contains(&session.ways()[1]);
            if opens && !session.translated() && self.sessions.iter().any(rival) {
                return Decision::Drop(DropReason::SessionConflict);
            }
            if opens {
                self.add(session, what, now);
            }
            return Decision::Out(egress, session.outer, None);
        }
        if !opens {
            let tcp = flow.protocol == TCP;
            return Decision::Drop(if tcp { DropReason::TcpNoSession } else { DropReason::NatProtocol });
        }
        let depends = self.behavior.mapping == NatMapping::AddressAndPortDependent;
        let mapping = Mapping {
            protocol: flow.protocol,
            inside: flow.from,
            remote: depends.then_some(session.outer.to),
            external: (Ipv4Addr::UNSPECIFIED, 0),
        };
        session.mapping = Some(mapping);
        let same = |m: &Mapping| Mapping { external: mapping.external, ..*m } == mapping;
        if let Some(known) = self.mappings().into_iter().find(same) {
            session.mapping = Some(known);
            session.outer.from = known.external;
            self.add(session, what, now);
            return Decision::Out(WAN, session.outer, None);
        }
        self.pending = Some((session, what));
        Decision::OutFromNewEnd(flow)
    }

    /// The mapping that a packet from outside may open a session at.
    fn admitted(&self, port: usize, flow: Flow, what: What) -> Option<Mapping> {
        let opens = matches!(what, What::Data | What::Segment(SYN)) && port == WAN;
        let is_it = |m: &&Session| {
            m.mapping.is_some_and(|m| (m.protocol, m.external) == (flow.protocol, flow.to)) && opens
        };
        let mapping = self.sessions.iter().find(is_it)?.mapping?;
        let talks = |s: &Session| {
            let same =
                s.mapping.is_some_and(|m| (m.protocol, m.inside) == (mapping.protocol, mapping.inside));
            same && s.remote() == flow.from.0
        };
        match self.behavior.filtering {
            NatFiltering::EndpointIndependent => true,
            NatFiltering::AddressDependent => self.sessions.iter().any(talks),
            NatFiltering::AddressAndPortDependent => false,
        }
        .then_some(mapping)
    }

    fn hold(&mut self, now: Nanos) -> Decision {
        if self.syns.len() == 31 {
            self.refused += 1;
            return Decision::Drop(DropReason::SynUnsolicited);
        }
        self.syns.push(now + 6 * SECOND);
        Decision::Hold
    }

    /// The gateway chose an external end for the flow that was just decided. What becomes of its packet.
    pub(crate) fn chosen(&mut self, external: End, now: Nanos) -> (Decision, u8) {
        let (mut session, what) = self.pending.take().expect("a choice was due");
        let (protocol, inside) = (session.inner.protocol, session.inner.from);
        let mappings = self.mappings();
        let others = |wanted: End| mappings.iter().any(|m| m.protocol == protocol && m.external == wanted);
        assert!(POOL.contains(&external.0) && external.1 >= 1024);
        assert!(!others(external), "two inside ends at {external:?}");
        assert!(forward(WAN, Flow { protocol, from: external, to: external }).is_none(), "a forward's port");
        let paired = mappings.iter().find(|m| m.inside.0 == inside.0);
        assert!(paired.is_none_or(|m| m.external.0 == external.0), "one external address for {inside:?}");
        let wanted = (external.0, inside.1);
        let reserved = forward(WAN, Flow { protocol, from: wanted, to: wanted }).is_some();
        if inside.1 >= 1024 && !others(wanted) && !reserved {
            assert_eq!(external, wanted, "a free port is kept");
        } else if protocol == UDP {
            assert_eq!(external.1 % 2, inside.1 % 2, "parity is kept");
        }
        session.outer.from = external;
        session.mapping = session.mapping.map(|mapping| Mapping { external, ..mapping });
        self.add(session, what, now);
        self.mirror(LAN, Decision::Out(WAN, session.outer, None), what, now)
    }

    fn add(&mut self, mut session: Session, what: What, now: Nanos) {
        note(&mut session, 0, what, now);
        if let Some(mapping) = session.mapping.filter(|_| !session.inbound) {
            self.used.insert(mapping, now);
        }
        // One whose packets could not be told from this one's gives way.
        self.sessions.retain(|other| other.ways().iter().all(|way| !session.ways().contains(way)));
        self.sessions.push(session);
    }

    fn known(&mut self, port: usize, flow: Flow, what: What, now: Nanos) -> Option<Decision> {
        for session in &mut self.sessions {
            let egress = LAN + WAN - session.ingress;
            if session.inner == flow && session.ingress == port {
                note(session, 0, what, now);
                return Some(Decision::Out(egress, session.outer, None));
            }
            if session.outer.back() == flow && egress == port {
                note(session, 1, what, now);
                return Some(Decision::Out(session.ingress, session.inner.back(), None));
            }
        }
        None
    }

    fn error(&self, port: usize, flow: Flow, quoted: Flow) -> Decision {
        for session in self.sessions.iter().filter(|_| flow.to.0 == quoted.from.0) {
            let egress = LAN + WAN - session.ingress;
            // About a packet of the forward direction, as it was beyond us: back to who sent it.
            if session.outer == quoted && egress == port {
                let hide = session.translated() && session.outer.to != session.inner.to;
                let from = if hide { session.inner.to.0 } else { flow.from.0 };
                let error = Flow { protocol: ICMP, from: (from, 0), to: (session.inner.from.0, 0) };
                return Decision::Out(session.ingress, error, Some(session.inner));
            }
            if session.inner.back() == quoted && session.ingress == port {
                let hide = session.outer.from != session.inner.from;
                let from = if hide { session.outer.from.0 } else { flow.from.0 };
                let error = Flow { protocol: ICMP, from: (from, 0), to: (session.outer.to.0, 0) };
                return Decision::Out(egress, error, Some(session.outer.back()));
            }
        }
        if let Some(reason) = refused(port, flow, What::Error(quoted)) {
            return Decision::Drop(reason);
        }
        match flow.to.0 {
            GATEWAY_LAN | GATEWAY_WAN => Decision::Local,
            to if POOL.contains(&to) => Decision::Drop(DropReason::NatNoSession),
            _ if port == LAN => Decision::Drop(DropReason::IcmpNoSession),
            _ => Decision::Out(LAN, flow, Some(quoted)),
        }
    }
}

impl Session {
    fn new(inner: Flow, outer: Flow, ingress: usize) -> Self {
        Self {
            inner,
            outer,
            ingress,
            mapping: None,
            inbound: false,
            packets: [0; 2],
            last: 0,
            heard: [false; 2],
            acked: [false; 2],
            fin: [false; 2],
            reset: false,
        }
    }
}

fn is_inside(address: Ipv4Addr) -> bool {
    address.octets()[..3] == host(0).octets()[..3]
}

fn note(session: &mut Session, direction: usize, what: What, now: Nanos) {
    session.packets[direction] += 1;
    // Packets from outside keep nothing alive that has a mapping.
    if session.mapping.is_none() || direction == usize::from(session.inbound) {
        session.last = now;
    }
    let What::Segment(flags) = what else { return };
    if flags & SYN != 0 {
        let closing = session.reset || session.fin == [true; 2];
        if closing && flags & ACK == 0 {
            (session.reset, session.fin) = (false, [false; 2]);
            (session.acked, session.heard) = ([false; 2], [false; 2]);
        } else if closing || session.acked == [true; 2] {
            return;
        }
    }
    if flags & RST != 0 {
        session.reset = true;
        return;
    }
    session.fin[direction] |= flags & FIN != 0;
    session.acked[direction] |=
        flags & ACK != 0 && (flags & SYN != 0 || session.heard[direction] || direction == 1);
    session.heard[direction] = true;
}

/// What the ACLs say about a packet that opens a conversation.
fn refused(port: usize, flow: Flow, what: What) -> Option<DropReason> {
    let accepted = match port {
        LAN => (flow.protocol, flow.to.1) != (TCP, 25) && (flow.protocol, flow.to.1) != (UDP, 137),
        _ => what == What::Echo || flow.protocol != ICMP && (5300..=8083).contains(&flow.to.1),
    };
    (!accepted).then_some(DropReason::AclDeny)
}

fn forward(port: usize, flow: Flow) -> Option<Flow> {
    let to_port = match (flow.protocol, flow.to.1) {
        (TCP, public @ 8080..=8083) => 80 + (public - 8080),
        (UDP, 5300) => 53,
        _ => return None,
    };
    (port == WAN && flow.to.0 == POOL[0]).then_some(Flow { to: (WEB, to_port), ..flow })
}
