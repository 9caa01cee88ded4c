//! Every known difference between Sluice and the two oracles, each with its reason. `DIFFERENCES.md` says the same in
//! prose; a test holds that it names them all.

use crate::fields::Fields;
use sluice_pkt::parse::{Flags, Headers, L3, ParseError};

/// The other reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oracle {
    Etherparse,
    Smoltcp,
}

/// A frame, and what either side made of it.
pub(crate) struct Case<'a> {
    pub(crate) frame: &'a [u8],
    pub(crate) oracle: Oracle,
    pub(crate) ours: &'a Result<(Headers, Fields), ParseError>,
    pub(crate) theirs: &'a Option<Fields>,
}

macro_rules! differences {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why two readers do not agree on a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Difference { $($(#[$doc])* $name,)* }

        impl Difference {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

differences! {
    /// Sluice refuses a third tag; the oracles go on to the third and leave a fourth. Nothing that is forwarded has more
    /// than two, and a filter must not see less of a packet than the next device does.
    ThirdTag,
    /// `etherparse` follows a MACsec tag (EtherType 0x88e5). To Sluice it is an EtherType that it does not forward.
    Macsec,
    /// `etherparse` takes ARP for any hardware and protocol; Sluice needs Ethernet and IPv4, or its fields mean nothing.
    ArpKind,
    /// `etherparse` leaves the IPv4 header checksum to its caller; a router must check it (RFC 1812 5.2.2).
    HeaderChecksum,
    /// `smoltcp` (0.12) takes an IPv4 header of less than five words for one without options (RFC 791 3.1: five at least).
    ShortHeader,
    /// Neither oracle walks IPv4 options; Sluice refuses a list with impossible lengths, as it must find source routes.
    OptionList,
    /// `etherparse` walks an authentication header in IPv4. Sluice stops at it: NAT breaks AH, so nothing behind it is used.
    AuthInIpv4,
    /// `smoltcp` is built without AH and stops at it in IPv6; Sluice walks over it to the ports, as filters want.
    AuthInIpv6,
    /// Neither oracle asks whether a datagram can be made of a fragment: its end, the multiple of 8, that it is not empty.
    FragmentShape,
    /// `etherparse` goes on along the extension headers behind the fragment header of a later fragment, where payload is.
    BehindLaterFragment,
    /// Sluice allows one fragment header and eight extension headers in all, which bounds its work; the oracles allow any
    /// number (RFC 8504 5.3 lets a node set limits). `smoltcp`, put together from parts, also takes hop-by-hop options
    /// anywhere.
    ExtensionLimits,
    /// A payload length of zero means to `etherparse` that the packet is all the rest of the frame, jumbogram or not. To
    /// Sluice the packet is empty, and hop-by-hop options without room for them are an error.
    ZeroPayloadLength,
    /// `etherparse` takes a UDP length of zero for "to the end of the packet", which only jumbograms mean (RFC 2675 4).
    ZeroUdpLength,
    /// `smoltcp` refuses the first fragment of a UDP datagram, as the UDP length counts the others too.
    FirstUdpFragment,
    /// `etherparse` refuses an ICMP timestamp (RFC 792) that is not of 20 bytes; Sluice forwards ICMP without reading it.
    TimestampLength,
    /// `smoltcp` refuses ICMPv6 types that it does not know, and known ones that are too short for all their fields.
    Icmpv6Types,
    /// `etherparse` reads ICMP in IPv6, ICMPv6 in IPv4, and IGMP, and refuses what is too short for them. To Sluice they
    /// are protocols without a meaning: IGMP is not forwarded, and the two others do not exist.
    ForeignProtocol,
}

impl Difference {
    /// Whether this is the reason in that case.
    pub(crate) fn explains(self, case: &Case<'_>) -> bool {
        let etherparse = case.oracle == Oracle::Etherparse;
        let headers = case.ours.as_ref().ok().map(|ours| ours.0);
        let only_we_refuse = |error| case.theirs.is_some() && *case.ours == Err(error);
        let is =
            |l3, protocol| headers.is_some_and(|headers| headers.l3 == l3 && headers.protocol == protocol);
        let flag = |flag| headers.is_some_and(|headers| headers.flags.has(flag));
        let says = |name, value| case.theirs.as_ref().is_some_and(|theirs| theirs.get(name) == Some(&value));
        let l3 = l3(case.frame);
        match self {
            Self::ThirdTag => only_we_refuse(ParseError::VlanDepth),
            Self::Macsec => {
                let ethertype = headers.map(|headers| usize::from(headers.l3_offset) - 2);
                etherparse && ethertype.is_some_and(|at| case.frame[at..].starts_with(&[0x88, 0xe5]))
            }
            Self::ArpKind => {
                etherparse && only_we_refuse(ParseError::ArpMalformed) && !l3.starts_with(&[0, 1, 8, 0, 6, 4])
            }
            Self::HeaderChecksum => etherparse && only_we_refuse(ParseError::Ipv4Checksum),
            Self::ShortHeader => {
                !etherparse && only_we_refuse(ParseError::Ipv4HeaderLength) && l3[0] & 0xf < 5
            }
            Self::OptionList => only_we_refuse(ParseError::Ipv4Options) && l3[0] > 0x45,
            Self::AuthInIpv4 => etherparse && is(L3::Ipv4, 51),
            Self::AuthInIpv6 => !etherparse && says("l3", 3) && says("ip.protocol", 51),
            Self::FragmentShape => only_we_refuse(ParseError::FragmentMalformed) && says("ip.fragment", 1),
            Self::BehindLaterFragment => {
                let next = headers.map_or(255, |headers| headers.protocol);
                etherparse
                    && flag(Flags::LATER_FRAGMENT)
                    && matches!(next, 0 | 43 | 44 | 51 | 60)
                    && l3[0] >> 4 == 6
            }
            Self::ExtensionLimits => only_we_refuse(ParseError::Ipv6Extension) && over_limits(l3),
            Self::ZeroPayloadLength => {
                etherparse && l3.first().is_some_and(|first| first >> 4 == 6) && l3[4..6] == [0, 0]
            }
            Self::ZeroUdpLength => etherparse && only_we_refuse(ParseError::UdpLength) && says("udp.len", 0),
            Self::FirstUdpFragment => {
                !etherparse
                    && case.theirs.is_none()
                    && (is(L3::Ipv4, 17) || is(L3::Ipv6, 17))
                    && flag(Flags::FRAGMENT)
            }
            Self::TimestampLength => {
                let timestamp = headers.is_some_and(|headers| matches!(headers.icmp_type, 13 | 14));
                etherparse && case.theirs.is_none() && is(L3::Ipv4, 1) && timestamp
            }
            Self::Icmpv6Types => {
                // Those that RFC 4443 defines have eight bytes, which Sluice has checked.
                let known = headers.is_some_and(|headers| matches!(headers.icmp_type, 1..=4 | 128 | 129));
                !etherparse && case.theirs.is_none() && is(L3::Ipv6, 58) && !known
            }
            Self::ForeignProtocol => {
                let foreign = is(L3::Ipv4, 58) || is(L3::Ipv6, 1) || is(L3::Ipv4, 2) || is(L3::Ipv6, 2);
                etherparse && foreign
            }
        }
    }
}

/// What follows the Ethernet header and its tags.
fn l3(frame: &[u8]) -> &[u8] {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) {
        at += 4;
    }
    frame.get(at + 2..).unwrap_or_default()
}

/// Whether an IPv6 packet has over eight extension headers, two fragment headers, or hop-by-hop options behind another.
fn over_limits(packet: &[u8]) -> bool {
    let (mut next, mut at) = (packet[6], 40);
    let (mut seen, mut fragments) = (0, 0);
    while matches!(next, 0 | 43 | 44 | 51 | 60) {
        seen += 1;
        fragments += usize::from(next == 44);
        if seen > 8 || fragments > 1 || next == 0 && seen > 1 {
            return true;
        }
        let Some(&[following, units]) = packet.get(at..at + 2) else { return false };
        at += match next {
            44 => 8,
            51 => (usize::from(units) + 2) * 4,
            _ => (usize::from(units) + 1) * 8,
        };
        next = following;
    }
    false
}
