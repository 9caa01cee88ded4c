//! Which packets somebody wants to see: a small flat program over a packet's headers. Its text is parsed on the control side.
//!
//! Each step is a test and where to go on if it holds and if it does not, always forward, so that a program ends; as the
//! classic BSD packet filter does, with tests instead of loads and compares.

use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3};

/// The most steps of a program.
pub const MOST: usize = 64;
/// Where a step goes if the packet is wanted.
pub const YES: u8 = 254;
/// Where a step goes if it is not.
pub const NO: u8 = 255;

/// Which end of a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// One of them, whichever.
    Either,
}

impl End {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source | destination,
        }
    }
}

/// An interface: a port, and the VLAN tags of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The port.
    pub port: u16,
    /// How many tags there are.
    pub tags: u8,
    /// Their VLAN ids, outermost first.
    pub ids: [u16; 2],
}

impl Line {
    fn has(&self, port: u16, headers: &Headers) -> bool {
        let tags = self.ids.iter().zip(headers.tci).take(self.tags.into());
        self.port == port
            && self.tags == headers.tags
            && tags.fold(true, |same, (id, tci)| same & (*id == tci & 0xfff))
    }
}

/// What is asked of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Its network protocol.
    Network(L3),
    /// Its IP protocol.
    Protocol(u8),
    /// An IPv4 address, within a prefix: address and mask.
    Net4(End, u32, u32),
    /// An IPv6 address, likewise.
    Net6(End, u128, u128),
    /// A port of TCP or UDP, within a range: first and last.
    Ports(End, u16, u16),
    /// The VLAN id of its outermost tag.
    Vlan(u16),
    /// TCP flags that are all set.
    TcpFlags(u8),
    /// That it came in by an interface. Of a packet that leaves, that is not known.
    In(Line),
    /// That it leaves by an interface. Of one that has just come in, that is not known.
    Out(Line),
}

/// A packet that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its headers; [`Default`] where they make no sense.
    pub headers: &'a Headers,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// The port that it came in by, or [`NONE16`](crate::snapshot::NONE16).
    pub came_by: u16,
    /// The port that it leaves by, or [`NONE16`](crate::snapshot::NONE16).
    pub leaves_by: u16,
}

impl Seen<'_> {
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(usize::from(self.headers.l3_offset) + offset..)?.first_chunk().copied()
    }

    fn v4(&self) -> Option<[u32; 2]> {
        let ends = if self.headers.l3 == L3::Ipv4 { Some((self.at(12)?, self.at(16)?)) } else { None };
        ends.map(|(source, destination)| [u32::from_be_bytes(source), u32::from_be_bytes(destination)])
    }

    fn v6(&self) -> Option<[u128; 2]> {
        let ends = if self.headers.l3 == L3::Ipv6 { Some((self.at(8)?, self.at(24)?)) } else { None };
        ends.map(|(source, destination)| [u128::from_be_bytes(source), u128::from_be_bytes(destination)])
    }

    fn ports(&self) -> Option<[u16; 2]> {
        let is_ported = matches!(self.headers.protocol, ipv4::TCP | ipv4::UDP);
        let has = is_ported && self.headers.flags.has(Flags::PORTS);
        has.then_some([self.headers.src_port, self.headers.dst_port])
    }
}

impl Test {
    /// Whether the packet is like this.
    pub fn holds(&self, seen: &Seen<'_>) -> bool {
        let headers = seen.headers;
        match *self {
            Self::Network(l3) => headers.l3 == l3,
            Self::Protocol(protocol) => {
                matches!(headers.l3, L3::Ipv4 | L3::Ipv6) && headers.protocol == protocol
            }
            Self::Net4(end, address, mask) => seen.v4().is_some_and(|ends| {
                let [source, destination] = ends.map(|end| (end ^ address) & mask == 0);
                end.holds(source, destination)
            }),
            Self::Net6(end, address, mask) => seen.v6().is_some_and(|ends| {
                let [source, destination] = ends.map(|end| (end ^ address) & mask == 0);
                end.holds(source, destination)
            }),
            Self::Ports(end, first, last) => seen.ports().is_some_and(|ports| {
                let [source, destination] = ports.map(|port| (first..=last).contains(&port));
                end.holds(source, destination)
            }),
            Self::Vlan(id) => headers.tags > 0 && headers.tci[0] & 0xfff == id,
            Self::TcpFlags(flags) => headers.protocol == ipv4::TCP && headers.tcp_flags & flags == flags,
            Self::In(line) => line.has(seen.came_by, headers),
            Self::Out(line) => line.has(seen.leaves_by, headers),
        }
    }
}

/// A test, and where to go from there: to a later step, to [`YES`], or to [`NO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The test.
    pub test: Test,
    /// Where to go if it holds.
    pub yes: u8,
    /// Where to go if it does not.
    pub no: u8,
}

/// A program. One without steps wants every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program(Vec<Step>);

impl Program {
    /// Of steps, of which the first one is the beginning. None if there are more than [`MOST`], or one that does not go
    /// forward.
    pub fn new(steps: Vec<Step>) -> Option<Self> {
        let forward =
            |from: usize, to: u8| to >= YES || (from < usize::from(to) && usize::from(to) < steps.len());
        let mut all = steps.iter().enumerate();
        let is_right =
            steps.len() <= MOST && all.all(|(at, step)| forward(at, step.yes) && forward(at, step.no));
        is_right.then_some(Self(steps))
    }

    /// Whether it asks by which interface packets leave.
    pub fn asks_for_egress(&self) -> bool {
        self.0.iter().any(|step| matches!(step.test, Test::Out(_)))
    }

    /// Whether the packet is wanted.
    pub fn wants(&self, seen: &Seen<'_>) -> bool {
        let mut at = if self.0.is_empty() { YES } else { 0 };
        while let Some(step) = self.0.get(usize::from(at)) {
            at = if step.test.holds(seen) { step.yes } else { step.no };
        }
        at == YES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::NONE16;

    #[test]
    fn a_program_goes_forward() {
        let step = |yes, no| Step { test: Test::Protocol(6), yes, no };
        assert!(Program::new(vec![step(1, NO), step(YES, NO)]).is_some());
        assert!(Program::new(vec![step(0, NO)]).is_none(), "a step goes to itself");
        assert!(Program::new(vec![step(YES, NO), step(0, NO)]).is_none());
        assert!(Program::new(vec![step(1, NO)]).is_none(), "there is no such step");
        assert!(Program::new(vec![step(YES, NO); MOST + 1]).is_none());
    }

    #[test]
    fn a_frame_that_makes_no_sense_is_wanted_by_who_wants_all() {
        let seen = Seen { headers: &Headers::default(), bytes: &[], came_by: 0, leaves_by: NONE16 };
        assert!(Program::default().wants(&seen));
        for test in [
            Test::Protocol(0),
            Test::Net4(End::Either, 0, 0),
            Test::Net6(End::Either, 0, 0),
            Test::Ports(End::Either, 0, 9),
        ] {
            assert!(!test.holds(&seen), "{test:?}");
        }
    }
}
