//! From layers to bytes: fills in what depends on other layers (types, lengths, checksums) unless it was given.

use etherparse::checksum::Sum16BitWords;

/// What a layer is, so that the one before it can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ethernet,
    /// With the EtherType that announces this tag.
    Vlan(u16),
    Arp,
    Ipv4,
    Ipv6,
    /// An IPv6 extension header, with its protocol number.
    Extension(u8),
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
    Payload,
}

/// A checksum field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Checksum {
    /// What it should be.
    #[default]
    Right,
    /// Anything but that.
    Bad,
    /// The sum of the pseudo-header alone, as a sender leaves it to the NIC to complete.
    Partial,
    Given(u16),
}

/// A header, or a payload.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: Checksum,
    /// The length field was given.
    pub(super) length_given: bool,
    /// The field that names the next layer was given.
    pub(super) next_given: bool,
}

impl Layer {
    pub(super) fn new(kind: Kind, bytes: Vec<u8>) -> Self {
        Self { kind, bytes, checksum: Checksum::Right, length_given: false, next_given: false }
    }

    /// Writes a field. The layers make their fields themselves, so that all of them lie within the bytes.
    pub(super) fn set<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&value);
    }
}

/// The frame, or the quoted packet, that the layers make.
pub(super) fn assemble(layers: &mut [Layer]) -> Vec<u8> {
    let mut behind = Vec::new();
    for i in (0..layers.len()).rev() {
        let next = layers.get(i + 1).map(|layer| layer.kind);
        let pseudo = pseudo_header(&layers[..i], layers[i].kind, layers[i].bytes.len() + behind.len());
        let layer = &mut layers[i];
        if !layer.next_given {
            name_next(layer, next);
        }
        if !layer.length_given {
            let (header, payload) = (layer.bytes.len(), behind.len());
            match layer.kind {
                Kind::Ipv4 => layer.set(2, ((header + payload) as u16).to_be_bytes()),
                Kind::Ipv6 => layer.set(4, (payload as u16).to_be_bytes()),
                Kind::Udp => layer.set(4, ((header + payload) as u16).to_be_bytes()),
                _ => {}
            }
        }
        fill_checksum(layer, &pseudo, &behind);
        behind.splice(..0, layer.bytes.iter().copied());
    }
    behind
}

fn name_next(layer: &mut Layer, next: Option<Kind>) {
    match layer.kind {
        Kind::Ethernet => layer.set(12, ether_type(next).to_be_bytes()),
        Kind::Vlan(_) => layer.set(2, ether_type(next).to_be_bytes()),
        Kind::Ipv4 => layer.set(9, [protocol(next)]),
        Kind::Ipv6 => layer.set(6, [protocol(next)]),
        Kind::Extension(_) => layer.set(0, [protocol(next)]),
        _ => {}
    }
}

fn ether_type(next: Option<Kind>) -> u16 {
    match next {
        Some(Kind::Vlan(tpid)) => tpid,
        Some(Kind::Arp) => 0x0806,
        Some(Kind::Ipv4) => 0x0800,
        Some(Kind::Ipv6) => 0x86dd,
        // IEEE 802 local experimental.
        _ => 0x88b5,
    }
}

fn protocol(next: Option<Kind>) -> u8 {
    match next {
        Some(Kind::Icmp) => 1,
        Some(Kind::Ipv4) => 4,
        Some(Kind::Tcp) => 6,
        Some(Kind::Udp) => 17,
        Some(Kind::Ipv6) => 41,
        Some(Kind::Icmpv6) => 58,
        Some(Kind::Extension(number)) => number,
        // "No next header" (RFC 8200 4.7).
        None => 59,
        // For experimentation and testing (RFC 3692).
        Some(_) => 253,
    }
}

/// The pseudo-header of a transport layer of `len` bytes behind `before`; empty if its checksum covers none.
fn pseudo_header(before: &[Layer], kind: Kind, len: usize) -> Vec<u8> {
    let number = protocol(Some(kind));
    let ip = before.iter().rev().find(|layer| !matches!(layer.kind, Kind::Extension(_)));
    let addresses = match ip {
        Some(Layer { kind: Kind::Ipv4, bytes, .. }) if kind != Kind::Icmp => &bytes[12..20],
        Some(Layer { kind: Kind::Ipv6, bytes, .. }) if kind != Kind::Icmp => &bytes[8..40],
        _ => return Vec::new(),
    };
    [addresses, &(len as u32).to_be_bytes(), &[0, number]].concat()
}

fn fill_checksum(layer: &mut Layer, pseudo: &[u8], behind: &[u8]) {
    let (at, covered) = match layer.kind {
        Kind::Ipv4 => (10, &[][..]),
        Kind::Tcp => (16, behind),
        Kind::Udp => (6, behind),
        Kind::Icmp | Kind::Icmpv6 => (2, behind),
        _ => return,
    };
    let pseudo = if layer.kind == Kind::Ipv4 { &[][..] } else { pseudo };
    layer.set(at, [0, 0]);
    let sum = Sum16BitWords::new().add_slice(pseudo);
    let partial = !sum.ones_complement().to_be();
    // Headers have an even length, and so has a pseudo-header.
    let right = match sum.add_slice(&layer.bytes).add_slice(covered).ones_complement().to_be() {
        0 if layer.kind == Kind::Udp => 0xffff,
        right => right,
    };
    let value = match layer.checksum {
        Checksum::Right => right,
        Checksum::Bad => right ^ 0x0101,
        Checksum::Partial => partial,
        Checksum::Given(value) => value,
    };
    layer.set(at, value.to_be_bytes());
}
