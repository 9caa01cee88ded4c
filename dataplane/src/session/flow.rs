//! A flow: one direction of a session, as its packets find it. The key, the compiled action, and what each packet writes.

use sluice_pkt::plain::{Plain, V4, V6};
use sluice_pkt::translation::Translation;

use crate::clock::Nanos;
use crate::snapshot::NONE16;

/// "No limit" in [`FlowAction::limits`].
pub const NO_LIMIT: u8 = u8::MAX;

/// The policers of a flow's packets, as its first packet found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the ingress and of the egress interface, [`NO_LIMIT`] for none.
    pub of: [u8; 2],
    /// One of them is more than a token bucket: see [`FlowAction::METERED`].
    pub metered: bool,
}

impl Limits {
    /// None.
    pub const NONE: Self = Self { of: [NO_LIMIT; 2], metered: false };
}

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
    /// The class that its packets leave in, an index into [`Snapshot::classes`](crate::snapshot::Snapshot::classes);
    /// [`NONE16`] where the egress port has no classes.
    pub class: u16,
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

    /// The source address of an IPv6 packet becomes the one in `new`.
    pub const SOURCE6: u16 = 32;
    /// As `SOURCE6`, the destination address.
    pub const DESTINATION6: u16 = 64;

    /// An IPv6 packet leaves as IPv4, with the ends in `new` (NAT64).
    pub const TO_V4: u16 = 128;
    /// An IPv4 packet leaves as IPv6, with ends that are found at its session ([`Sessions::ends6`](super::Sessions::ends6)).
    pub const TO_V6: u16 = 256;

    /// The next packet of a TCP connection is looked at more closely.
    pub const WATCH: u16 = 16;

    /// One of the limits has colours, or a meter for each source, destination or flow.
    pub const METERED: u16 = 512;

    /// With these limits in the place of its own.
    #[must_use]
    pub const fn limited(mut self, limits: Limits) -> Self {
        self.limits = limits.of;
        self.flags = self.flags & !Self::METERED | if limits.metered { Self::METERED } else { 0 };
        self
    }

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
    /// The high part of the bytes: the record has no room for a word of eight.
    pub(super) bytes_high: u16,
    /// The worker's [`Sessions::stamp`] under which the action was last found true.
    pub stamp: u32,
    /// When the last packet passed, in [`ticks`].
    pub last_seen: u32,
    /// Index of the session, or of the copy, and direction; see [`Flow::session`].
    pub(super) session: u32,
    /// Packets since the sweep last moved them to the session.
    pub packets: u32,
    pub(super) bytes_low: u32,
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
        let (low, carry) = self.bytes_low.overflowing_add(bytes as u32);
        self.bytes_low = low;
        self.bytes_high = self.bytes_high.wrapping_add(u16::from(carry));
        self.last_seen = now;
    }

    /// Bytes, with the Ethernet header, since the sweep last moved them; modulo 2^48.
    #[inline]
    pub const fn bytes(&self) -> u64 {
        (self.bytes_high as u64) << 32 | self.bytes_low as u64
    }

    /// The same, which are moved elsewhere.
    pub(super) fn take_bytes(&mut self) -> u64 {
        let bytes = self.bytes();
        (self.bytes_high, self.bytes_low) = (0, 0);
        bytes
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

/// An IPv4 flow's key: protocol, ingress interface, addresses and ports, as they lie in the packet (the interface takes
/// the place of the header checksum), in words whose lowest byte is the first.
pub type Key4 = [u64; 2];
/// An IPv6 flow's key, made likewise (the interface takes the place of the payload length).
pub type Key6 = [u64; 5];

/// Builds the key of an IPv4 flow. Addresses and ports are pairs, the source in the high half.
#[inline]
pub const fn key4(addresses: u64, ports: u32, protocol: u8, interface: u16) -> Key4 {
    let [src, dst] = [(addresses >> 32) as u32, addresses as u32];
    [
        (src.swap_bytes() as u64) << 32 | (interface as u64) << V4::FREE | (protocol as u64) << 8,
        (ports.swap_bytes() as u64) << 32 | dst.swap_bytes() as u64,
    ]
}

/// Builds the key of an IPv6 flow.
#[inline]
pub const fn key6(src: u128, dst: u128, ports: u32, protocol: u8, interface: u16) -> Key6 {
    let (src, dst) = (src.swap_bytes(), dst.swap_bytes());
    [
        (src as u64) << 32 | (protocol as u64) << 16 | (interface as u64) << V6::FREE,
        (src >> 32) as u64,
        (src >> 96) as u64 | (dst as u64) << 32,
        (dst >> 32) as u64,
        (dst >> 96) as u64 | (ports.swap_bytes() as u64) << 32,
    ]
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

/// What a key says, for listings.
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
    /// Reads an IPv4 flow's key: source and destination address, and the rest.
    pub const fn of4([first, second]: Key4) -> ([u32; 2], Self) {
        let addresses = [((first >> 32) as u32).swap_bytes(), (second as u32).swap_bytes()];
        (addresses, Self::new((first >> 8) as u8, (first >> V4::FREE) as u16, second))
    }

    /// Reads an IPv6 flow's key: source and destination address, and the rest.
    pub const fn of6([a, b, c, d, e]: Key6) -> ([u128; 2], Self) {
        let src = (a >> 32) as u128 | (b as u128) << 32 | (c as u32 as u128) << 96;
        let dst = (c >> 32) as u128 | (d as u128) << 32 | (e as u32 as u128) << 96;
        ([src.swap_bytes(), dst.swap_bytes()], Self::new((a >> 16) as u8, (a >> V6::FREE) as u16, e))
    }

    const fn new(protocol: u8, interface: u16, last: u64) -> Self {
        let ports = ((last >> 32) as u32).swap_bytes();
        Self { ports: ((ports >> 16) as u16, ports as u16), protocol, interface }
    }
}

/// An action that only forwards.
pub const fn plain_action(next_hop: u16) -> FlowAction {
    let new = Translation::NONE;
    FlowAction { new, next_hop, rule: NONE16, limits: [NO_LIMIT; 2], flags: 0, class: NONE16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_was_made_of() {
        let facts = KeyFacts { ports: (0x1234, 0xabcd), protocol: 17, interface: 0x5678 };
        let ends = [0x0a01_0203u32, 0xc633_6407];
        let key = key4(addresses(ends[0], ends[1]), ports(0x1234, 0xabcd), 17, 0x5678);
        assert_eq!(KeyFacts::of4(key), (ends, facts));
        let ends = [0x2001_0db8_0102_0304_0506_0708_090a_0b0cu128, 0xfedc_ba98_7654_3210_1122_3344_5566_7788];
        let key = key6(ends[0], ends[1], ports(0x1234, 0xabcd), 17, 0x5678);
        assert_eq!(KeyFacts::of6(key), (ends, facts));
    }

    #[test]
    fn a_plain_packet_has_the_words_of_its_key() {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3, 198, 51, 100, 7];
        let sum = sluice_pkt::checksum::Sum::of(&packet).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x12, 0x34, 0xab, 0xcd, 0, 8, 0, 0]);
        let key = key4(addresses(0x0a01_0203, 0xc633_6407), ports(0x1234, 0xabcd), 17, 0);
        assert_eq!((V4::check(&packet, 28), V4::len(&packet)), (Some(key), 28));

        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend(1..=32);
        packet.extend([0x12, 0x34, 0xab, 0xcd, 0, 8, 0, 0]);
        let of = |from: u8| u128::from_be_bytes(std::array::from_fn(|i| from + i as u8));
        let key = key6(of(1), of(17), ports(0x1234, 0xabcd), 17, 0);
        assert_eq!((V6::check(&packet, 48), V6::len(&packet)), (Some(key), 48));
    }
}
