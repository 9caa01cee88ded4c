//! A flow: one direction of a session, as its packets find it. The key, the compiled action, and what each packet writes.

use sluice_pkt::translation::Translation;

use crate::clock::Nanos;
use crate::snapshot::NONE16;

/// "No limit" in [`FlowAction::limits`].
pub const NO_LIMIT: u8 = u8::MAX;

/// Which way a packet goes in its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet went.
    #[default]
    Forward,
    /// As the replies go.
    Reply,
}

impl Direction {
    /// The other way.
    #[inline]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }
}

/// What is done to each packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowAction {
    /// Addresses and ports (or echo identifier) of an IPv4 packet when it leaves.
    pub new: Translation,
    /// Index of the next hop.
    pub next_hop: u16,
    /// The ACL rule that let the flow pass or not, for its hit counter; [`NONE16`] without an ACL.
    pub rule: u16,
    /// The policers of the ingress and of the egress interface, [`NO_LIMIT`] for none.
    pub limits: [u8; 2],
    /// See the associated constants.
    pub flags: u16,
}

impl Default for FlowAction {
    fn default() -> Self {
        plain_action(NONE16)
    }
}

impl FlowAction {
    /// Addresses or ports change.
    pub const NAT: u16 = 1;
    /// Packets of this direction are dropped by the ACL rule.
    pub const DENY: u16 = 2;
    /// As `DENY`, and the sender is told.
    pub const REJECT: u16 = 4;
    /// The packet is an ICMP error, and the packet that it quotes is translated too.
    pub const QUOTATION: u16 = 8;

    /// The next packet of a TCP connection is looked at more closely.
    pub const WATCH: u16 = 16;

    /// Sets [`WATCH`](Self::WATCH), or takes it away.
    pub const fn watch(&mut self, on: bool) {
        self.flags = self.flags & !Self::WATCH | if on { Self::WATCH } else { 0 };
    }

    /// Whether the flag is set.
    #[inline]
    pub const fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// One direction's record.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Flow {
    /// What to do.
    pub action: FlowAction,
    /// The worker's [`Sessions::stamp`] under which the action was last found true.
    pub stamp: u32,
    /// When the last packet passed, in [`ticks`].
    pub last_seen: u32,
    /// Index of the session, or of the copy, and direction; see [`Flow::session`].
    pub(super) session: u32,
    /// Packets since the sweep last moved them to the session.
    pub packets: u32,
    /// Bytes, with the Ethernet header, since the sweep last moved them.
    pub bytes: u64,
}

/// In [`Flow::session`]: the record is the copy of one that another worker owns.
const COPY: u32 = 1 << 31;

impl Flow {
    /// Index of the session; of the copy, if it [is one](Self::is_copy).
    #[inline]
    pub const fn session(&self) -> u32 {
        (self.session & !COPY) >> 1
    }

    /// Whether the session is another worker's.
    #[inline]
    pub const fn is_copy(&self) -> bool {
        self.session & COPY != 0
    }

    /// What [`Flow::session`] holds for a copy.
    pub(super) const fn copy_reference(index: u32, direction: Direction) -> u32 {
        COPY | index << 1 | direction as u32
    }

    /// Counts a packet of so many bytes that goes on at this time.
    #[inline(always)]
    pub fn count(&mut self, bytes: usize, now: u32) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes += bytes as u64;
        self.last_seen = now;
    }

    /// Which direction of the session this is.
    #[inline]
    pub const fn direction(&self) -> Direction {
        if self.session & 1 == 0 { Direction::Forward } else { Direction::Reply }
    }
}

/// Time as flows keep it: units of 2^24 ns (16.8 ms), wrapping after two years.
#[inline]
pub const fn ticks(now: Nanos) -> u32 {
    (now >> 24) as u32
}

/// An IPv4 flow's key: addresses in one word; ports, ingress interface and protocol in the other.
pub type Key4 = [u64; 2];
/// An IPv6 flow's key.
pub type Key6 = [u64; 5];

/// Builds the key of an IPv4 flow. Addresses and ports are pairs, the source in the high half.
#[inline(always)]
pub const fn key4(addresses: u64, ports: u32, protocol: u8, interface: u16) -> Key4 {
    [addresses, low_word(ports, protocol, interface)]
}

/// Builds the key of an IPv6 flow.
#[inline]
pub const fn key6(src: u128, dst: u128, ports: u32, protocol: u8, interface: u16) -> Key6 {
    let word = low_word(ports, protocol, interface);
    [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, word]
}

#[inline(always)]
const fn low_word(ports: u32, protocol: u8, interface: u16) -> u64 {
    (ports as u64) << 32 | (interface as u64) << 16 | protocol as u64
}

/// A pair of addresses, as [`key4`] takes it.
#[inline]
pub const fn addresses(src: u32, dst: u32) -> u64 {
    (src as u64) << 32 | dst as u64
}

/// A pair of ports, as keys have it.
#[inline]
pub const fn ports(src: u16, dst: u16) -> u32 {
    (src as u32) << 16 | dst as u32
}

/// The key of a flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKey {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

/// What a key's second half says, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// IP protocol.
    pub protocol: u8,
    /// Ingress interface.
    pub interface: u16,
}

impl KeyFacts {
    /// Reads the last word of a key.
    pub const fn of(word: u64) -> Self {
        Self {
            ports: ((word >> 48) as u16, (word >> 32) as u16),
            protocol: word as u8,
            interface: (word >> 16) as u16,
        }
    }
}

/// An action that only forwards.
pub const fn plain_action(next_hop: u16) -> FlowAction {
    FlowAction { new: Translation::NONE, next_hop, rule: NONE16, limits: [NO_LIMIT; 2], flags: 0 }
}
