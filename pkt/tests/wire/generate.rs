//! Valid packets from a model: each comes with the `Headers` that it must parse to.

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_pkt::parse::{Flags, Headers, L3};

/// A frame, as what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) macs: [u8; 12],
    /// EtherType and control information of each tag, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) network: Network,
    pub(crate) padding: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Network {
    Other { ethertype: u16, data: Vec<u8> },
    Arp { operation: u16, addresses: [u8; 20] },
    V4(V4),
    V6(V6),
}

#[derive(Clone, Debug)]
pub(crate) struct V4 {
    pub(crate) tos: u8,
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) fragment: Fragment,
    pub(crate) ttl: u8,
    pub(crate) addresses: [u8; 8],
    /// Type and data length of each option; types 0 and 1 are single bytes.
    pub(crate) options: Vec<(u8, u8)>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) struct V6 {
    pub(crate) class_label: u32,
    pub(crate) hop_limit: u8,
    pub(crate) addresses: [u8; 32],
    pub(crate) hop_by_hop: bool,
    pub(crate) before: Vec<Extension>,
    pub(crate) fragment: Option<(u32, Fragment)>,
    pub(crate) behind: Vec<Extension>,
    pub(crate) body: Body,
}

/// An extension header; `units` is its length field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extension {
    Destination { units: u8 },
    Routing { units: u8, kind: u8, segments_left: u8 },
    Auth { units: u8 },
}

/// Offset in units of 8 bytes, and whether more follow; `(0, false)` is no fragment, or an atomic one.
pub(crate) type Fragment = (u16, bool);

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Tcp { ports: (u16, u16), numbers: [u32; 2], flags: u8, rest: [u16; 2], option_words: u8, data: Vec<u8> },
    Udp { ports: (u16, u16), checksummed: bool, data: Vec<u8> },
    Icmp { kind: u8, code: u8, rest: [u16; 2], data: Vec<u8> },
    Raw { protocol: u8, data: Vec<u8> },
}

/// The sum of RFC 1071, as plainly as it can be written.
pub(crate) fn plain_sum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

impl Body {
    pub(crate) fn protocol(&self, v6: bool) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Icmp { .. } => [1, 58][usize::from(v6)],
            Self::Raw { protocol, .. } => *protocol,
        }
    }

    /// The bytes, with a right checksum over `pseudo` (the addresses) where the protocol has one.
    fn bytes(&self, addresses: &[u8], first_fragment: bool) -> Vec<u8> {
        let v6 = addresses.len() == 32;
        let mut out = Vec::new();
        let (field, with_pseudo) = match self {
            Self::Tcp { ports, numbers, flags, rest, option_words, data } => {
                out.extend([ports.0, ports.1].map(u16::to_be_bytes).concat());
                out.extend(numbers.map(u32::to_be_bytes).concat());
                out.extend([(5 + option_words) << 4, *flags]);
                out.extend([rest[0], 0, rest[1]].map(u16::to_be_bytes).concat());
                out.extend(vec![1; usize::from(*option_words) * 4]);
                out.extend(data);
                (Some(16), true)
            }
            Self::Udp { ports, checksummed, data } => {
                let missing = if first_fragment { 1000 } else { 0 };
                out.extend(
                    [ports.0, ports.1, 8 + data.len() as u16 + missing, 0].map(u16::to_be_bytes).concat(),
                );
                out.extend(data);
                (checksummed.then_some(6), true)
            }
            Self::Icmp { kind, code, rest, data } => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(rest.map(u16::to_be_bytes).concat());
                out.extend(data);
                (Some(2), v6)
            }
            Self::Raw { data, .. } => {
                out.extend(data);
                (None, false)
            }
        };
        if let Some(field) = field {
            let trailer = [0, self.protocol(v6), (out.len() >> 8) as u8, out.len() as u8];
            let pseudo = if with_pseudo { plain_sum(&[addresses, &trailer]) } else { 0 };
            let checksum = !plain_sum(&[&pseudo.to_be_bytes(), &out]);
            let zero_is_none = matches!(self, Self::Udp { .. }) && checksum == 0;
            out[field..field + 2]
                .copy_from_slice(&if zero_is_none { 0xffff } else { checksum }.to_be_bytes());
        }
        if first_fragment {
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }

    /// What the parser must say of it.
    fn expect(&self, v6: bool, headers: &mut Headers) {
        match self {
            Self::Tcp { ports, flags, .. } => {
                (headers.src_port, headers.dst_port) = *ports;
                headers.tcp_flags = *flags;
                headers.flags.set(Flags::PORTS);
            }
            Self::Udp { ports, checksummed, .. } => {
                (headers.src_port, headers.dst_port) = *ports;
                headers.flags.set(Flags::PORTS);
                if !v6 && !checksummed {
                    headers.flags.set(Flags::NO_CHECKSUM);
                }
            }
            Self::Icmp { kind, rest, .. } => {
                headers.icmp_type = *kind;
                match (v6, *kind) {
                    (false, 8) | (true, 128) => {
                        (headers.src_port, headers.flags.0) = (rest[0], headers.flags.0 | 32)
                    }
                    (false, 0) | (true, 129) => {
                        (headers.dst_port, headers.flags.0) = (rest[0], headers.flags.0 | 32)
                    }
                    (false, 13 | 15 | 17) => {
                        (headers.src_port, headers.dst_port) = (rest[0], (*kind).into());
                        headers.flags.set(Flags::PORTS);
                    }
                    (false, 14 | 16 | 18) => {
                        (headers.src_port, headers.dst_port) = (u16::from(*kind) - 1, rest[0]);
                        headers.flags.set(Flags::PORTS);
                    }
                    (false, 3 | 4 | 11 | 12) | (true, 1..=4) => headers.flags.set(Flags::ICMP_ERROR),
                    _ => {}
                }
            }
            Self::Raw { .. } => {}
        }
    }
}

impl Packet {
    /// The frame, and what it must parse to.
    pub(crate) fn build(&self) -> (Vec<u8>, Headers) {
        let (ethertype, packet, mut headers) = match &self.network {
            Network::Other { ethertype, data } => (*ethertype, data.clone(), Headers::default()),
            Network::Arp { operation, addresses } => {
                let fixed = [0, 1, 8, 0, 6, 4, (operation >> 8) as u8, *operation as u8];
                (0x0806, [&fixed[..], addresses].concat(), Headers { l3: L3::Arp, ..Headers::default() })
            }
            Network::V4(v4) => v4.build(),
            Network::V6(v6) => v6.build(),
        };
        let mut frame = self.macs.to_vec();
        for (i, (tag, tci)) in self.tags.iter().enumerate() {
            frame.extend([*tag, *tci].map(u16::to_be_bytes).concat());
            headers.tci[i] = *tci;
        }
        frame.extend(ethertype.to_be_bytes());
        let l3_offset = frame.len() as u16;
        frame.extend(&packet);
        headers.tags = self.tags.len() as u8;
        headers.l3_offset = l3_offset;
        headers.l4_offset += l3_offset;
        headers.end = frame.len() as u16;
        frame.resize(frame.len() + self.padding, 0xa5);
        if headers.l3 == L3::Other {
            headers.end = frame.len() as u16;
        }
        (frame, headers)
    }
}

fn fragment_flags((offset, more): Fragment) -> u16 {
    match (offset, more) {
        (0, false) => 0,
        (0, true) => Flags::FRAGMENT.0,
        _ => Flags::FRAGMENT.0 | Flags::LATER_FRAGMENT.0,
    }
}

impl V4 {
    fn build(&self) -> (u16, Vec<u8>, Headers) {
        let mut options = Vec::new();
        let mut flags = Flags(fragment_flags(self.fragment));
        for &(kind, len) in &self.options {
            match kind {
                0 | 1 => options.push(1),
                _ => {
                    options.extend([kind, len + 2]);
                    options.extend(vec![0xdd; len.into()]);
                }
            }
        }
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let kinds = self.options.iter().map(|option| option.0);
        if kinds.clone().any(|kind| matches!(kind, 131 | 137)) {
            flags.set(Flags::SOURCE_ROUTE);
        }
        if !options.is_empty() {
            flags.set(Flags::OPTIONS);
        }
        let (offset, more) = self.fragment;
        let body = self.body.bytes(&self.addresses, more && offset == 0);
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, self.tos];
        packet.extend(((header_len + body.len()) as u16).to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        let dont_fragment = u16::from(self.dont_fragment);
        packet.extend((dont_fragment << 14 | u16::from(more) << 13 | offset).to_be_bytes());
        let protocol = self.body.protocol(false);
        packet.extend([self.ttl, protocol, 0, 0]);
        packet.extend(self.addresses);
        packet.extend(options);
        let checksum = !plain_sum(&[&packet]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(body);
        flags.0 |= Flags::DONT_FRAGMENT.0 * dont_fragment;
        let l4_offset = header_len as u16;
        let mut headers =
            Headers { l3: L3::Ipv4, l4_offset, protocol, ttl: self.ttl, flags, ..Headers::default() };
        if offset == 0 {
            self.body.expect(false, &mut headers);
        }
        (0x0800, packet, headers)
    }
}

impl Extension {
    /// Protocol number, and the header with a hole for the next one's.
    fn bytes(self) -> (u8, Vec<u8>) {
        let (number, units, len) = match self {
            Self::Destination { units } => (60, units, (usize::from(units) + 1) * 8),
            Self::Routing { units, .. } => (43, units, (usize::from(units) + 1) * 8),
            Self::Auth { units } => (51, units, (usize::from(units) + 2) * 4),
        };
        let mut bytes = vec![0; len];
        bytes[1] = units;
        if let Self::Routing { kind, segments_left, .. } = self {
            bytes[2..4].copy_from_slice(&[kind, segments_left]);
        }
        (number, bytes)
    }
}

impl V6 {
    fn build(&self) -> (u16, Vec<u8>, Headers) {
        let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
        if self.hop_by_hop {
            chain.push((0, vec![0, 0, 1, 4, 0, 0, 0, 0]));
        }
        chain.extend(self.before.iter().map(|extension| extension.bytes()));
        let mut flags = Flags::DONT_FRAGMENT;
        let mut fragment = (0, false);
        if let Some((identification, this)) = self.fragment {
            fragment = this;
            let field = this.0 << 3 | u16::from(this.1);
            chain.push((44, [&[0, 0][..], &field.to_be_bytes(), &identification.to_be_bytes()].concat()));
        }
        if fragment.0 == 0 {
            chain.extend(self.behind.iter().map(|extension| extension.bytes()));
        }
        flags.0 |= fragment_flags(fragment);
        let walked = self.before.iter().chain(self.behind.iter().filter(|_| fragment.0 == 0));
        for extension in walked {
            if matches!(extension, Extension::Routing { kind: 0, segments_left: 1.., .. }) {
                flags.set(Flags::SOURCE_ROUTE);
            }
        }
        if !chain.is_empty() {
            flags.set(Flags::OPTIONS);
        }
        let protocol = self.body.protocol(true);
        let mut body: Vec<u8> = Vec::new();
        for (i, (_, bytes)) in chain.iter().enumerate() {
            body.push(chain.get(i + 1).map_or(protocol, |next| next.0));
            body.extend(&bytes[1..]);
        }
        let l4_offset = 40 + body.len() as u16;
        body.extend(self.body.bytes(&self.addresses, fragment == (0, true)));
        // A first fragment's part behind its header is a multiple of 8; an authentication header may spoil that.
        if fragment == (0, true) {
            body.resize(body.len().next_multiple_of(8), 0);
            let before: usize =
                chain.iter().take_while(|(number, _)| *number != 44).map(|(_, bytes)| bytes.len()).sum();
            body.resize(body.len() + (8 - (body.len() - before) % 8) % 8, 0);
        }
        let mut packet = (6 << 28 | self.class_label).to_be_bytes().to_vec();
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([chain.first().map_or(protocol, |first| first.0), self.hop_limit]);
        packet.extend(self.addresses);
        packet.extend(body);
        let mut headers =
            Headers { l3: L3::Ipv6, l4_offset, protocol, ttl: self.hop_limit, flags, ..Headers::default() };
        if fragment.0 == 0 {
            self.body.expect(true, &mut headers);
        }
        (0x86dd, packet, headers)
    }
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![]), vec(any::<u8>(), 1..40)]
}

fn body(v6: bool) -> impl Strategy<Value = Body> {
    let kinds: &[u8] = if v6 {
        &[1, 2, 3, 4, 100, 128, 129, 130, 133, 135, 136, 200]
    } else {
        &[0, 3, 4, 5, 8, 11, 12, 13, 14, 15, 18, 42]
    };
    let tcp = (any::<(u16, u16)>(), any::<[u32; 2]>(), any::<u8>(), any::<[u16; 2]>(), 0..=10u8, data())
        .prop_map(|(ports, numbers, flags, rest, option_words, data)| Body::Tcp {
            ports,
            numbers,
            flags,
            rest,
            option_words,
            data,
        });
    let udp = (any::<(u16, u16)>(), proptest::bool::weighted(0.8), data())
        .prop_map(|(ports, checksummed, data)| Body::Udp { ports, checksummed, data });
    let icmp = (proptest::sample::select(kinds), 0..16u8, any::<[u16; 2]>(), data())
        .prop_map(|(kind, code, rest, data)| Body::Icmp { kind, code, rest, data });
    // Numbers that mean nothing to the parser in either network protocol.
    let other: &[u8] = &[47, 50, 59, 132, 135, 255];
    let raw =
        (proptest::sample::select(other), data()).prop_map(|(protocol, data)| Body::Raw { protocol, data });
    prop_oneof![4 => tcp, 4 => udp, 3 => icmp, 1 => raw]
}

fn fragment() -> impl Strategy<Value = Fragment> {
    prop_oneof![6 => Just((0, false)), 1 => Just((0, true)), 1 => (1..8000u16, any::<bool>())]
}

/// What a later fragment holds: a piece of anything, in units of 8 bytes.
fn piece() -> impl Strategy<Value = Body> {
    (proptest::sample::select(&[1u8, 6, 17, 58, 50][..]), vec(any::<u64>(), 1..6)).prop_map(
        |(protocol, words)| Body::Raw {
            protocol,
            data: words.iter().flat_map(|word| word.to_be_bytes()).collect(),
        },
    )
}

/// A first fragment of an unknown protocol is not empty.
fn settle(fragment: Fragment, body: Body, piece: Body) -> Body {
    match (fragment, &body) {
        ((1.., _), _) => piece,
        ((0, true), Body::Raw { protocol, data }) if data.is_empty() => {
            Body::Raw { protocol: *protocol, data: vec![7; 8] }
        }
        _ => body,
    }
}

fn options() -> impl Strategy<Value = Vec<(u8, u8)>> {
    let option =
        prop_oneof![Just((1, 0)), (proptest::sample::select(&[7u8, 68, 131, 137, 148, 222][..]), 0..9u8)];
    prop_oneof![3 => Just(vec![]), 1 => vec(option, 1..4)]
}

fn v4() -> impl Strategy<Value = Network> {
    let fixed = (any::<u8>(), any::<u16>(), any::<bool>(), fragment(), any::<u8>(), any::<[u8; 8]>());
    (fixed, options(), body(false), piece()).prop_map(|(fixed, options, body, piece)| {
        let (tos, identification, dont_fragment, fragment, ttl, addresses) = fixed;
        let body = settle(fragment, body, piece);
        Network::V4(V4 { tos, identification, dont_fragment, fragment, ttl, addresses, options, body })
    })
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        (0..3u8).prop_map(|units| Extension::Destination { units }),
        (0..3u8, prop_oneof![Just(0), Just(2), Just(4)], 0..3u8)
            .prop_map(|(units, kind, segments_left)| Extension::Routing { units, kind, segments_left }),
        (1..6u8).prop_map(|units| Extension::Auth { units }),
    ]
}

fn v6() -> impl Strategy<Value = Network> {
    let fixed = (0..0x1000_0000u32, any::<u8>(), any::<[u8; 32]>(), proptest::bool::weighted(0.2));
    let few = || prop_oneof![2 => Just(vec![]), 1 => vec(extension(), 1..4)];
    let part = proptest::option::weighted(0.4, (any::<u32>(), fragment()));
    (fixed, few(), part, few(), body(true), piece()).prop_map(|(fixed, before, part, behind, body, piece)| {
        let (class_label, hop_limit, addresses, hop_by_hop) = fixed;
        let body = settle(part.map_or((0, false), |part| part.1), body, piece);
        let v6 = V6 { class_label, hop_limit, addresses, hop_by_hop, before, fragment: part, behind, body };
        Network::V6(v6)
    })
}

/// Any packet that the parser must accept.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let tag = (proptest::sample::select(&[0x8100u16, 0x88a8, 0x9100][..]), any::<u16>());
    let tags = prop_oneof![2 => Just(vec![]), 1 => vec(tag, 1..=2)];
    let other = (
        proptest::sample::select(&[0u16, 0x05ff, 0x0600, 0x88cc, 0x8847, 0x8864][..]),
        vec(any::<u8>(), 0..60),
    )
        .prop_map(|(ethertype, data)| Network::Other { ethertype, data });
    let arp =
        (1..4u16, any::<[u8; 20]>()).prop_map(|(operation, addresses)| Network::Arp { operation, addresses });
    let network = prop_oneof![1 => other, 1 => arp, 8 => v4(), 8 => v6()];
    (any::<[u8; 12]>(), tags, network, prop_oneof![Just(0usize), 1..20usize])
        .prop_map(|(macs, tags, network, padding)| Packet { macs, tags, network, padding })
}
