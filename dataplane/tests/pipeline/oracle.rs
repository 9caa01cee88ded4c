//! A slow gateway in plain words: what the real one must decide about IPv4, for a lan behind source NAT, a wan with an
//! ACL, and port forwards. It knows nothing of bursts, tables or checksums.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, GATEWAY_WAN, LAN, POOL, WAN, WEB, host};
use crate::packets::{End, FIN, ICMP, RST, SYN, TCP, UDP};

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
    Drop(DropReason),
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// As the first packet came in, and as it left.
    inner: Flow,
    outer: Flow,
    ingress: usize,
    /// The inside end, where it is bound to the source of `outer`.
    bound: Option<End>,
    packets: [u64; 2],
    last: Nanos,
    fin: [bool; 2],
    reset: bool,
}

impl Session {
    /// By which port its packets come in, and as what: those of the first one's direction, and the replies.
    fn ways(&self) -> [(usize, Flow); 2] {
        [(self.ingress, self.inner), (LAN + WAN - self.ingress, self.outer.back())]
    }

    fn translated(&self) -> bool {
        self.inner != self.outer
    }

    fn timeout(&self) -> Nanos {
        let closing = self.reset || self.fin == [true; 2];
        match self.inner.protocol {
            UDP => UDP_TIMEOUT,
            ICMP => ICMP_TIMEOUT,
            _ if !closing && self.packets[0] > 1 && self.packets[1] > 0 => TCP_ESTABLISHED,
            _ => TCP_TRANSITORY,
        }
    }
}

#[derive(Default)]
pub(crate) struct Oracle {
    sessions: Vec<Session>,
    pending: Option<Session>,
}

impl Oracle {
    /// Which external end each inside one has.
    pub(crate) fn bindings(&self) -> HashMap<(u8, End), End> {
        let bound = |s: &Session| s.bound.map(|inside| ((s.inner.protocol, inside), s.outer.from));
        self.sessions.iter().filter_map(bound).collect()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Time has come to `now`, a second or more after the last one.
    pub(crate) fn expire(&mut self, now: Nanos) {
        self.sessions.retain(|s| now - s.last < s.timeout());
    }

    /// A packet comes in by a port.
    pub(crate) fn decide(&mut self, port: usize, flow: Flow, what: What, now: Nanos) -> Decision {
        if let What::Error(quoted) = what {
            return self.error(port, flow, quoted);
        }
        if let Some(decision) = self.known(port, flow, what, now) {
            return decision;
        }
        if let Some(reason) = refused(port, flow, what) {
            return Decision::Drop(reason);
        }
        let forwarded = forward(port, flow);
        match flow.to.0 {
            GATEWAY_LAN | GATEWAY_WAN => return Decision::Local,
            to if POOL.contains(&to) && forwarded.is_none() => {
                return if what == What::Echo {
                    Decision::Local
                } else {
                    Decision::Drop(DropReason::NatNoSession)
                };
            }
            _ => {}
        }
        let mut session = Session {
            inner: flow,
            outer: forwarded.unwrap_or(flow),
            ingress: port,
            bound: None,
            packets: [0; 2],
            last: now,
            fin: [false; 2],
            reset: false,
        };
        let opens = !matches!(what, What::EchoReply) && !matches!(what, What::Segment(f) if f & RST != 0);
        let inside = |a: Ipv4Addr| a.octets()[..3] == host(0).octets()[..3];
        let egress = if inside(session.outer.to.0) { LAN } else { WAN };
        if egress == LAN || !inside(flow.from.0) {
            // Its replies are a translated session's packets: it is forged, or goes past NAT.
            let rival = |other: &Session| other.translated() && other.ways().contains(&session.ways()[1]);
            if opens && !session.translated() && self.sessions.iter().any(rival) {
                return Decision::Drop(DropReason::SessionConflict);
            }
            if opens {
                self.add(session, what);
            }
            return Decision::Out(egress, session.outer, None);
        }
        if !opens {
            let tcp = flow.protocol == TCP;
            return Decision::Drop(if tcp { DropReason::TcpNoSession } else { DropReason::NatProtocol });
        }
        session.bound = Some(flow.from);
        if let Some(&external) = self.bindings().get(&(flow.protocol, flow.from)) {
            session.outer.from = external;
            self.add(session, what);
            return Decision::Out(WAN, session.outer, None);
        }
        note(&mut session, 0, what, now);
        self.pending = Some(session);
        Decision::OutFromNewEnd(flow)
    }

    /// The gateway chose an external end for the flow that was just decided.
    pub(crate) fn chosen(&mut self, external: End) {
        let mut session = self.pending.take().expect("a choice was due");
        let (protocol, inside) = (session.inner.protocol, session.inner.from);
        let bindings = self.bindings();
        let others = |wanted: End| bindings.iter().any(|((p, _), e)| *p == protocol && *e == wanted);
        assert!(POOL.contains(&external.0) && external.1 >= 1024);
        assert!(!others(external), "two inside ends at {external:?}");
        assert!(forward(WAN, Flow { protocol, from: external, to: external }).is_none(), "a forward's port");
        let paired = bindings.iter().find(|((_, other), _)| other.0 == inside.0);
        assert!(paired.is_none_or(|(_, e)| e.0 == external.0), "one external address for {inside:?}");
        let wanted = (external.0, inside.1);
        let reserved = forward(WAN, Flow { protocol, from: wanted, to: wanted }).is_some();
        if inside.1 >= 1024 && !others(wanted) && !reserved {
            assert_eq!(external, wanted, "a free port is kept");
        }
        session.outer.from = external;
        self.sessions.push(session);
    }

    fn add(&mut self, mut session: Session, what: What) {
        let now = session.last;
        note(&mut session, 0, what, now);
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

fn note(session: &mut Session, direction: usize, what: What, now: Nanos) {
    let first = session.packets == [0; 2];
    session.packets[direction] += 1;
    session.last = now;
    match what {
        // The first packet's own flags are not followed.
        What::Segment(_) if first => {}
        What::Segment(flags) if flags & RST != 0 => session.reset = true,
        What::Segment(flags) if flags & FIN != 0 => session.fin[direction] = true,
        What::Segment(flags) if flags & SYN != 0 => (session.reset, session.fin) = (false, [false; 2]),
        _ => {}
    }
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
