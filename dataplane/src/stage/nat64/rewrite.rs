//! What a packet of NAT64 is when it leaves: the header of the other family in the place of its own (RFC 7915). Checksums
//! of TCP and UDP are updated, those of ICMP gain or lose their pseudo-header. ICMP errors are made anew, with what they
//! quote.

use std::net::Ipv6Addr;

use sluice_pkt::checksum::{Delta, complete_partial, complete_partial_chain};
use sluice_pkt::nat64::{IcmpError, Mtus, icmp_to_icmpv6, icmpv6_to_icmp};
use sluice_pkt::parse::{Flags, Headers, L3, Quoted, parse_quoted};
use sluice_pkt::{icmpv4, icmpv6, ipv4, ipv6, tcp, udp};

use super::{CUT_UP_TO, TCP_CHECKSUM_END, embedding, fragment_header, protocol4, protocol6};
use crate::arena::Frame;
use crate::local::neighbor::NextHop;
use crate::session::{Ends6, FlowAction};
use crate::snapshot::Snapshot;
use crate::stage::fragment::Fragments;

/// Turns an IPv6 packet into one of IPv4, behind the link header of its next hop. `mtu6` is that of the link by which it
/// came. What may be cut on its way gets an identification from among those of `fragments`.
pub(in crate::stage) fn to_v4(
    frame: &mut Frame,
    headers: &Headers,
    action: &FlowAction,
    hop: &NextHop,
    mtu6: u16,
    fragments: &mut Fragments,
) {
    let bytes = frame.bytes_mut();
    let Some(ip) = ipv6::Header::at(bytes, headers.l3_offset.into()) else { return };
    let (src, dst) = (action.new.source(), action.new.destination());
    let (class, ttl) = (ip.traffic_class(), headers.ttl.saturating_sub(1));
    if action.is(FlowAction::QUOTATION) {
        let mtus = Mtus { v4: hop.egress.mtu, v6: mtu6 };
        let mut error = Buffer::new();
        let made = error_to_v4(bytes, headers, action, mtus, &mut error);
        let Some(len) = made else { return };
        let mut ip = ipv4::Header::new(src, dst, ipv4::ICMP, ttl, len as u16);
        ip.set_dscp_ecn(class);
        ip.set_identification(fragments.next_identification(dst.to_bits(), ipv4::ICMP));
        ip.set_flags_fragment(0);
        ip.fill_checksum();
        return put(frame, hop, &[&ip.0, error.0.get(..len).unwrap_or_default()]);
    }
    let old: [u8; 32] = pair(ip.source().octets(), ip.destination().octets());
    let fragment = fragment_header(bytes, headers).and_then(|at| ipv6::fragment::Header::at(bytes, at));
    let payload = headers.end.saturating_sub(headers.l4_offset);
    let protocol = protocol4(headers.protocol);
    let (flags, identification) = match fragment {
        Some(fragment) => piece4(&fragment),
        None if payload.saturating_add(20) <= CUT_UP_TO => {
            (0, fragments.next_identification(dst.to_bits(), protocol))
        }
        None => (ipv4::DONT_FRAGMENT, 0),
    };
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        let new: [u8; 8] = pair(src.octets(), dst.octets());
        let ends = (action.new.source_port(), action.new.destination_port());
        let change = match headers.protocol {
            ipv6::ICMPV6 => Delta::of_bytes(&pseudo(&old, payload.into()), &[]),
            _ => Delta::of_bytes(&old, &new),
        };
        if let Some(transport) = bytes.get_mut(headers.l4_offset.into()..) {
            retarget(transport, headers.protocol, ends, change);
        }
    }
    let mut ip = ipv4::Header::new(src, dst, protocol, ttl, payload);
    ip.set_dscp_ecn(class);
    ip.set_identification(identification);
    ip.set_flags_fragment(flags);
    ip.fill_checksum();
    put_front(frame, headers, hop, &ip.0, &[]);
}

/// Turns an IPv4 packet into one of IPv6. `mtu4` is that of the link by which it came. Returns how long it may leave; what is
/// longer is to be cut.
pub(in crate::stage) fn to_v6(
    frame: &mut Frame,
    headers: &Headers,
    action: &FlowAction,
    ends: &Ends6,
    hop: &NextHop,
    mtu4: u16,
    snapshot: &Snapshot,
) -> u16 {
    let mtu = hop.egress.mtu;
    let Some(ip) = ipv4::Header::at(frame.bytes(), headers.l3_offset.into()) else { return mtu };
    let (class, hops) = (ip.dscp_ecn(), headers.ttl.saturating_sub(1));
    let (src, dst) = (Ipv6Addr::from_bits(ends.src), Ipv6Addr::from_bits(ends.dst));
    if action.is(FlowAction::QUOTATION) {
        // Of a router on the way, whose address the prefix may not hold: then it speaks for the far end.
        let router = ip.source_bits();
        let prefix = embedding(ends.src, snapshot).filter(|prefix| prefix.may_hold(router));
        let src = prefix.map_or(src, |prefix| Ipv6Addr::from_bits(prefix.embed(router)));
        let mut error = Buffer::new();
        let mtus = Mtus { v4: mtu4, v6: mtu };
        let Some(len) = error_to_v6(frame.bytes(), headers, ends, (src, dst), mtus, &mut error) else {
            return mtu;
        };
        let mut ip = ipv6::Header::new(src, dst, ipv6::ICMPV6, hops, len as u16);
        ip.set_traffic_class(class);
        put(frame, hop, &[&ip.0, error.0.get(..len).unwrap_or_default()]);
        return mtu;
    }
    let fragment = piece6(&ip);
    let old: [u8; 8] = pair(ip.source().octets(), ip.destination().octets());
    let protocol = protocol6(headers.protocol);
    let payload = headers.end.saturating_sub(headers.l4_offset);
    if headers.flags.has(Flags::NO_CHECKSUM) {
        compute_checksum(frame, headers);
    }
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        let new: [u8; 32] = pair(src.octets(), dst.octets());
        let change = match headers.protocol {
            ipv4::ICMP => Delta::of_bytes(&[], &pseudo(&new, payload.into())),
            _ => Delta::of_bytes(&old, &new),
        };
        if let Some(transport) = frame.bytes_mut().get_mut(headers.l4_offset.into()..) {
            retarget(transport, headers.protocol, ends.ports, change);
        }
    }
    let may_be_cut = !headers.flags.has(Flags::DONT_FRAGMENT);
    let is_long = usize::from(payload) + ipv6::LEN > ipv6::MIN_MTU.into();
    let is_piece = headers.flags.has(Flags::FRAGMENT) || may_be_cut && is_long;
    let fragment: &[u8] = if is_piece { &fragment.0 } else { &[] };
    let next = if is_piece { ipv6::FRAGMENT } else { protocol };
    let mut ip = ipv6::Header::new(src, dst, next, hops, payload.saturating_add(fragment.len() as u16));
    ip.set_traffic_class(class);
    put_front(frame, headers, hop, &ip.0, fragment);
    // RFC 7915 4: what may be cut is made to pass everywhere.
    if may_be_cut { ipv6::MIN_MTU.min(mtu) } else { mtu }
}

/// Writes link header and IP header in the place of a packet's own, up to its transport header.
fn put_front(frame: &mut Frame, headers: &Headers, hop: &NextHop, ip: &[u8], fragment: &[u8]) {
    let link = usize::from(hop.egress.header_len);
    let len = link + ip.len() + fragment.len();
    if frame.replace_front(headers.l4_offset.into(), len, headers.end.into()) {
        write(frame.bytes_mut(), &[hop.header.get(..link).unwrap_or_default(), ip, fragment]);
    }
}

/// Makes the packet these bytes, behind the link header.
fn put(frame: &mut Frame, hop: &NextHop, parts: &[&[u8]; 2]) {
    let link = hop.header.get(..usize::from(hop.egress.header_len)).unwrap_or_default();
    if frame.set_len(link.len() + parts.iter().map(|part| part.len()).sum::<usize>()) {
        write(frame.bytes_mut(), &[link, parts[0], parts[1]]);
    }
}

fn write(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let Some((here, rest)) = to.split_at_mut_checked(part.len()) else { return };
        here.copy_from_slice(part);
        to = rest;
    }
}

/// Flags with offset, and the identification, that a fragment of IPv6 has as one of IPv4.
fn piece4(fragment: &ipv6::fragment::Header<&[u8; ipv6::fragment::LEN]>) -> (u16, u16) {
    let more = if fragment.more() { ipv4::MORE_FRAGMENTS } else { 0 };
    (more | fragment.offset() >> 3, fragment.identification() as u16)
}

/// The fragment header that a fragment of IPv4 has as one of IPv6.
fn piece6(ip: &ipv4::Header<&[u8; ipv4::LEN]>) -> ipv6::fragment::Header<[u8; ipv6::fragment::LEN]> {
    let mut fragment = ipv6::fragment::Header([0; ipv6::fragment::LEN]);
    fragment.set_next_header(protocol6(ip.protocol()));
    fragment.set_offset_more(ip.fragment_offset() | u16::from(ip.more_fragments()));
    fragment.set_identification(ip.identification().into());
    fragment
}

/// Two addresses in a row.
fn pair<const N: usize, const M: usize>(src: [u8; N], dst: [u8; N]) -> [u8; M] {
    let mut both = [0; M];
    write(&mut both, &[&src, &dst]);
    both
}

/// The pseudo-header of an ICMPv6 message (RFC 4443 2.3), as bytes.
fn pseudo(addresses: &[u8; 32], len: u32) -> [u8; 40] {
    let mut pseudo = [0; 40];
    pseudo[..32].copy_from_slice(addresses);
    pseudo[32..36].copy_from_slice(&len.to_be_bytes());
    pseudo[39] = ipv6::ICMPV6;
    pseudo
}

/// Writes new ports, or an echo's type and identifier, and the checksum that follows from them and from a change of what
/// it covers besides. The bytes may end anywhere behind the first eight.
fn retarget(transport: &mut [u8], protocol: u8, (src, dst): (u16, u16), change: Delta) {
    match protocol {
        ipv4::TCP | ipv4::UDP => {
            let Some(ports) = transport.first_chunk_mut::<4>() else { return };
            let [a, b, c, d] = *ports;
            let [e, f] = src.to_be_bytes();
            let [g, h] = dst.to_be_bytes();
            *ports = [e, f, g, h];
            let change = change + Delta::of_bytes(&[a, b, c, d], &[e, f, g, h]);
            let at = if protocol == ipv4::TCP { tcp::CHECKSUM } else { udp::CHECKSUM };
            if let Some(field) = transport.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
                let old = u16::from_be_bytes(*field);
                let new = if protocol == ipv4::TCP { change.apply(old) } else { change.apply_udp(old) };
                *field = new.to_be_bytes();
            }
        }
        ipv4::ICMP | ipv6::ICMPV6 => {
            let Some(mut icmp) = icmpv4::Header::at_mut(transport, 0) else { return };
            let (kind, code, identifier) = (icmp.icmp_type(), icmp.code(), icmp.identifier());
            let new_kind = match kind {
                icmpv4::ECHO_REQUEST => icmpv6::ECHO_REQUEST,
                icmpv4::ECHO_REPLY => icmpv6::ECHO_REPLY,
                icmpv6::ECHO_REQUEST => icmpv4::ECHO_REQUEST,
                icmpv6::ECHO_REPLY => icmpv4::ECHO_REPLY,
                other => other,
            };
            // The identifier is the asker's port; the other one is 0.
            let new = src | dst;
            icmp.set_icmp_type(new_kind);
            icmp.set_identifier(new);
            let word = |kind| u16::from_be_bytes([kind, code]);
            let change = change + Delta::of_u16(word(kind), word(new_kind)) + Delta::of_u16(identifier, new);
            let checksum = icmp.checksum();
            icmp.set_checksum(change.apply(checksum));
        }
        _ => {}
    }
}

/// Computes the checksum of a whole UDP datagram that came without one (RFC 7915 4.5).
fn compute_checksum(frame: &mut Frame, headers: &Headers) {
    let bytes = frame.bytes_mut();
    let Some(ip) = ipv4::Header::at(bytes, headers.l3_offset.into()) else { return };
    let Some(udp) = udp::Header::at(bytes, headers.l4_offset.into()) else { return };
    // What a sender leaves for its NIC to finish, and we know how to.
    let partial = ip.pseudo_header(ipv4::UDP, udp.datagram_len()).fold();
    let Some(mut udp) = udp::Header::at_mut(bytes, headers.l4_offset.into()) else { return };
    udp.set_checksum(partial);
    if frame.is_chain() {
        let (head, rest) = frame.parts_mut();
        complete_partial_chain(head, rest, headers);
    } else {
        complete_partial(frame.bytes_mut(), headers);
    }
}

/// Room for an ICMP error of the other family: no link's MTU is smaller than IPv6's least.
struct Buffer([u8; ipv6::MIN_MTU as usize]);

impl Buffer {
    fn new() -> Self {
        Self([0; ipv6::MIN_MTU as usize])
    }
}

/// The longest error behind its IP header.
const LONGEST: usize = ipv6::MIN_MTU as usize - ipv6::LEN;

/// Whether an ICMP error says anything in the other family: it is whole, of a kind that has a counterpart, and quotes what
/// can be told there.
pub(in crate::stage) fn has_counterpart(bytes: &[u8], headers: &Headers) -> bool {
    if headers.flags.has(Flags::FRAGMENT) || bytes.len() < headers.end.into() {
        return false;
    }
    const ANY: Mtus = Mtus { v4: u16::MAX, v6: u16::MAX };
    let Some((error, quoted)) = read(bytes, headers) else { return false };
    let is_told = match headers.l3 {
        L3::Ipv4 => icmp_to_icmpv6(error, 0, ANY).is_some(),
        _ => icmpv6_to_icmp(error, ANY).is_some(),
    };
    is_told && quoted.facts.flags.0 & Flags::ICMP_ERROR.0 == 0
}

/// The packet that an error quotes.
struct Quotation<'a> {
    bytes: &'a [u8],
    facts: Quoted,
    /// What stands behind it (RFC 4884), if anything does.
    extensions: &'a [u8],
}

/// An error, and its quotation.
fn read<'a>(bytes: &'a [u8], headers: &Headers) -> Option<(IcmpError, Quotation<'a>)> {
    let at = usize::from(headers.l4_offset);
    let icmp = icmpv4::Header::at(bytes, at)?;
    let error = IcmpError { kind: icmp.icmp_type(), code: icmp.code(), rest: icmp.rest() };
    let quoted = bytes.get(at + icmpv4::LEN..headers.end.into())?;
    // How long the quotation is, if extensions follow: in words of 32 bits, or of 64.
    let [a, b, ..] = error.rest.to_be_bytes();
    let told = match (headers.l3, error.kind) {
        (L3::Ipv4, icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM) => {
            usize::from(b) * 4
        }
        (L3::Ipv6, icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED) => usize::from(a) * 8,
        _ => 0,
    };
    let whole: (&[u8], &[u8]) = (quoted, &[]);
    let (bytes, extensions) = if told == 0 { whole } else { quoted.split_at_checked(told).unwrap_or(whole) };
    let facts = parse_quoted(bytes, headers.l3)?;
    Some((error, Quotation { bytes, facts, extensions }))
}

/// Writes the ICMP message that says what this ICMPv6 error does. Returns its length.
fn error_to_v4(
    bytes: &[u8],
    headers: &Headers,
    action: &FlowAction,
    mtus: Mtus,
    to: &mut Buffer,
) -> Option<usize> {
    let (error, quoted) = read(bytes, headers)?;
    let error = icmpv6_to_icmp(error, mtus)?;
    // It went the other way.
    let (src, dst) = (action.new.destination(), action.new.source());
    let ports = (action.new.destination_port(), action.new.source_port());
    let ip = ipv6::Header::at(quoted.bytes, 0)?;
    let Quoted { l4_offset, total_len, protocol, flags, .. } = quoted.facts;
    let transport = quoted.bytes.get(l4_offset.into()..)?;
    let payload = total_len.saturating_sub(l4_offset.into());
    let fragment = quoted_fragment(quoted.bytes, l4_offset.into());
    let mut header = ipv4::Header::new(src, dst, protocol4(protocol), ip.hop_limit(), payload as u16);
    header.set_dscp_ecn(ip.traffic_class());
    match fragment {
        Some(fragment) => {
            let (flags, identification) = piece4(&fragment);
            header.set_flags_fragment(flags);
            header.set_identification(identification);
        }
        None if payload.saturating_add(20) <= CUT_UP_TO.into() => header.set_flags_fragment(0),
        None => {}
    }
    header.fill_checksum();
    let old: [u8; 32] = pair(ip.source().octets(), ip.destination().octets());
    let change = match protocol {
        ipv6::ICMPV6 => Delta::of_bytes(&pseudo(&old, payload), &[]),
        _ => Delta::of_bytes(&old, &pair::<4, 8>(src.octets(), dst.octets())),
    };
    let is_first = !flags.has(Flags::LATER_FRAGMENT);
    let front: [&[u8]; 2] = [&header.0, &[]];
    let is_extensible = matches!(error.kind, icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED);
    let extensions = Extensions { bytes: quoted.extensions, unit: 4 }.only_if(is_extensible);
    let change = is_first.then_some((protocol, ports, change));
    let Composed { len, units } = compose(front, transport, change, extensions, to);
    let message = to.0.get_mut(..len)?;
    let data = message.get(icmpv4::LEN..)?;
    let icmp = icmpv4::Header::new(error.kind, error.code, error.rest | u32::from(units) << 16, data);
    write(message, &[&icmp.0]);
    Some(len)
}

/// Writes the ICMPv6 message that says what this ICMP error does, from and to these addresses. Returns its length.
fn error_to_v6(
    bytes: &[u8],
    headers: &Headers,
    ends: &Ends6,
    (outer_src, outer_dst): (Ipv6Addr, Ipv6Addr),
    mtus: Mtus,
    to: &mut Buffer,
) -> Option<usize> {
    let (error, quoted) = read(bytes, headers)?;
    let ip = ipv4::Header::at(quoted.bytes, 0)?;
    let error = icmp_to_icmpv6(error, ip.total_len(), mtus)?;
    let (src, dst) = (Ipv6Addr::from_bits(ends.dst), Ipv6Addr::from_bits(ends.src));
    let ports = (ends.ports.1, ends.ports.0);
    let Quoted { l4_offset, total_len, protocol, flags, .. } = quoted.facts;
    let transport = quoted.bytes.get(l4_offset.into()..)?;
    let payload = total_len.saturating_sub(l4_offset.into());
    let fragment = piece6(&ip);
    let is_piece = flags.has(Flags::FRAGMENT);
    let fragment: &[u8] = if is_piece { &fragment.0 } else { &[] };
    let next = if is_piece { ipv6::FRAGMENT } else { protocol6(protocol) };
    let payload_len = payload as u16;
    let mut header =
        ipv6::Header::new(src, dst, next, ip.ttl(), payload_len.saturating_add(fragment.len() as u16));
    header.set_traffic_class(ip.dscp_ecn());
    let new: [u8; 32] = pair(src.octets(), dst.octets());
    let change = match protocol {
        ipv4::ICMP => Delta::of_bytes(&[], &pseudo(&new, payload)),
        _ => Delta::of_bytes(&pair::<4, 8>(ip.source().octets(), ip.destination().octets()), &new),
    };
    let is_first = !flags.has(Flags::LATER_FRAGMENT);
    let is_extensible = matches!(error.kind, icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED);
    let extensions = Extensions { bytes: quoted.extensions, unit: 8 }.only_if(is_extensible);
    let change = is_first.then_some((protocol, ports, change));
    let Composed { len, units } = compose([&header.0, fragment], transport, change, extensions, to);
    let message = to.0.get_mut(..len)?;
    let data = message.get(icmpv6::LEN..)?;
    let rest = error.rest | u32::from(units) << 24;
    let icmp = icmpv6::Header::new(outer_src, outer_dst, error.kind, error.code, rest, data);
    write(message, &[&icmp.0]);
    Some(len)
}

/// What is done to a quoted transport header: the protocol that it has, its new ports, and what else changes its checksum.
type Change = (u8, (u16, u16), Delta);

/// What stands behind a quotation (RFC 4884), which is then counted in units of so many bytes.
struct Extensions<'a> {
    bytes: &'a [u8],
    unit: usize,
}

impl Extensions<'_> {
    /// A quotation with extensions behind it is no shorter (RFC 4884 5.4, 5.5).
    const QUOTED_AT_LEAST: usize = 128;

    /// None, where the message that they were in has become one which has no room to tell of them.
    fn only_if(self, is_so: bool) -> Self {
        if is_so { self } else { Self { bytes: &[], ..self } }
    }

    /// The most that may be quoted ahead of them, in bytes.
    fn quoted_at_most(&self) -> usize {
        const ROOM: usize = LONGEST - icmpv4::LEN;
        if self.bytes.is_empty() {
            return ROOM;
        }
        let most = ROOM.saturating_sub(self.bytes.len()).min(usize::from(u8::MAX) * self.unit);
        (most - most % self.unit).max(Self::QUOTED_AT_LEAST)
    }
}

/// A message that has been written, but for its ICMP header.
struct Composed {
    /// Its length, bytes, header included.
    len: usize,
    /// That of the quotation, in units, if there are extensions; otherwise 0.
    units: u8,
}

/// Writes a quotation behind the room for an ICMP header, as much of it as an error may have, and what stood behind it.
fn compose(
    front: [&[u8]; 2],
    transport: &[u8],
    change: Option<Change>,
    extensions: Extensions<'_>,
    to: &mut Buffer,
) -> Composed {
    let ahead = front[0].len() + front[1].len();
    let at = icmpv4::LEN + ahead;
    let most = extensions.quoted_at_most();
    let transport = transport.get(..most.saturating_sub(ahead)).unwrap_or(transport);
    if let Some(room) = to.0.get_mut(icmpv4::LEN..) {
        write(room, &[front[0], front[1], transport]);
    }
    let quoted = at + transport.len();
    let (mut len, mut units) = (quoted, 0);
    if !extensions.bytes.is_empty() {
        // Zeros stand up to them.
        let padded = (ahead + transport.len()).next_multiple_of(extensions.unit);
        let padded = padded.max(Extensions::QUOTED_AT_LEAST);
        let start = icmpv4::LEN + padded;
        // RFC 7915 4.2: what is too long is cut.
        let room = LONGEST.saturating_sub(start);
        let bytes = extensions.bytes.get(..room).unwrap_or(extensions.bytes);
        if let Some(room) = to.0.get_mut(start..) {
            write(room, &[bytes]);
        }
        (len, units) = (start + bytes.len(), (padded / extensions.unit) as u8);
    }
    if let (Some((protocol, ports, delta)), Some(quoted)) = (change, to.0.get_mut(at..quoted)) {
        // A checksum that is cut off is none.
        if protocol != ipv4::TCP || quoted.len() >= TCP_CHECKSUM_END {
            retarget(quoted, protocol, ports, delta);
        } else if let Some(field) = quoted.first_chunk_mut::<4>() {
            let ([a, b], [c, d]) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
            *field = [a, b, c, d];
        }
    }
    Composed { len, units }
}

/// The fragment header of a quoted packet whose transport header lies at `end`.
fn quoted_fragment(quoted: &[u8], end: usize) -> Option<ipv6::fragment::Header<&[u8; 8]>> {
    let headers = Headers { l3: L3::Ipv6, l4_offset: end as u16, ..Headers::default() };
    fragment_header(quoted, &headers).and_then(|at| ipv6::fragment::Header::at(quoted, at))
}
