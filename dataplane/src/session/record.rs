//! What is kept of a session besides its flows, and where it stands.

use sluice_pkt::ipv4;

use super::NONE;
use super::copies::LAG;
use super::tcp::Connection;
use crate::clock::Nanos;
use crate::snapshot::Timeouts;

/// Whether a session's flows lie in the IPv4 or in the IPv6 table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// The part of a session that packets seldom touch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Session {
    pub(super) live: bool,
    /// Which table its forward flow is in.
    pub family: Family,
    /// The other one is in the other table (NAT64).
    pub crosses: bool,
    /// IP protocol.
    pub protocol: u8,
    /// Differentiated services code point of its first packet, by which classes may be chosen.
    pub dscp: u8,
    /// Which directions keep it alive, a bit each: where it has a NAT binding, only packets from inside (RFC 4787 REQ-6).
    pub(super) kept_by: u8,
    /// Index of the flow of each direction.
    pub flows: [u32; 2],
    /// Index of the NAT binding that it holds, or [`NONE`].
    pub binding: u32,
    /// When it was made, in [`ticks`].
    pub created: u32,
    /// When the sweep looked at it last, in [`ticks`].
    pub(super) looked: u32,
    /// In which lists of the largest it is, a bit each.
    pub(super) listed: u8,
    /// Packets of each direction, up to the last sweep.
    pub packets: [u64; 2],
    /// Bytes of each direction, up to the last sweep.
    pub bytes: [u64; 2],
    /// Counts the sessions that have had this index.
    pub generation: u32,
    /// Which other workers may have copies of each direction, a bit each.
    pub carriers: [u16; 2],
    /// The generation of the configuration under which it was decided.
    pub policy: u32,
    /// What its binding's filter knows of it, or [`NONE`].
    pub(super) permit: u32,
    /// On whose account it is where sources have bounds, or [`NONE`].
    pub(super) holder: u32,
    pub(super) tcp: Connection,
}

/// Where a session stands, in the words of RFC 5382 for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No reply yet.
    Opening,
    /// Packets both ways.
    Established,
    /// TCP: reset, or finished by both ends.
    Closing,
}

impl State {
    /// The word for listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

impl Session {
    /// Whether its first packet came from outside, to its NAT binding.
    pub fn is_inbound(&self) -> bool {
        self.binding != NONE && self.kept_by == 0b10
    }

    pub(super) fn state(&self) -> State {
        let is_established =
            if self.protocol == ipv4::TCP { self.tcp.is_established() } else { self.packets[1] > 0 };
        if self.tcp.is_closing() {
            State::Closing
        } else if is_established {
            State::Established
        } else {
            State::Opening
        }
    }

    pub(super) fn timeout(&self, timeouts: &Timeouts) -> Nanos {
        let lag = if self.carriers == [0; 2] { 0 } else { LAG };
        lag + match self.protocol {
            ipv4::TCP if self.state() == State::Established => timeouts.tcp_established,
            ipv4::TCP => timeouts.tcp_transitory,
            ipv4::UDP => timeouts.udp,
            ipv4::ICMP | sluice_pkt::ipv6::ICMPV6 => timeouts.icmp,
            _ => timeouts.other,
        }
    }
}

/// The shortest timeout that a session of this protocol may have.
pub(super) fn shortest(protocol: u8, timeouts: &Timeouts) -> Nanos {
    let opening = Session { protocol, ..Session::default() }.timeout(timeouts);
    if protocol == ipv4::TCP { opening.min(timeouts.tcp_established) } else { opening }
}
