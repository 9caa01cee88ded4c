//! Packets, made and read with etherparse.

use std::net::Ipv4Addr;

use etherparse::{
    Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, UdpHeader,
};

use crate::lab::mac;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ARP: u16 = 0x0806;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) type End = (Ipv4Addr, u16);

/// An IPv4 packet's header, as far as tests vary it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// Offset in bytes, and whether more follow.
    pub(crate) fragment: (u16, bool),
    pub(crate) options: Vec<u8>,
}

impl Ip {
    pub(crate) fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Self {
        let (dont_fragment, fragment) = (false, (0, false));
        Self { src, dst, protocol, ttl: 64, id: 7, dont_fragment, fragment, options: vec![] }
    }

    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let protocol = IpNumber(self.protocol);
        let (src, dst) = (self.src.octets(), self.dst.octets());
        let mut header = Ipv4Header::new(payload.len() as u16, self.ttl, protocol, src, dst).unwrap();
        header.identification = self.id;
        header.dont_fragment = self.dont_fragment;
        header.more_fragments = self.fragment.1;
        header.fragment_offset = IpFragOffset::try_new(self.fragment.0 / 8).unwrap();
        header.options = Ipv4Options::try_from(&self.options[..]).unwrap();
        header.set_payload_len(payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }
}

pub(crate) fn udp_segment(from: End, to: End, data: &[u8]) -> Vec<u8> {
    let (src, dst) = (from.0.octets(), to.0.octets());
    let mut header = UdpHeader::without_ipv4_checksum(from.1, to.1, data.len()).unwrap();
    header.checksum = header.calc_checksum_ipv4_raw(src, dst, data).unwrap();
    [&header.to_bytes()[..], data].concat()
}

pub(crate) fn udp(from: End, to: End, data: &[u8]) -> Vec<u8> {
    Ip::new(from.0, to.0, UDP).packet(&udp_segment(from, to, data))
}

pub(crate) fn tcp(from: End, to: End, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, 1000, 512);
    header.fin = flags & FIN != 0;
    header.syn = flags & SYN != 0;
    header.rst = flags & RST != 0;
    header.ack = flags & ACK != 0;
    header.checksum = header.calc_checksum_ipv4_raw(from.0.octets(), to.0.octets(), data).unwrap();
    Ip::new(from.0, to.0, TCP).packet(&[&header.to_bytes()[..], data].concat())
}

pub(crate) fn icmp_message(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest };
    [&Icmpv4Header::with_checksum(kind, data).to_bytes()[..], data].concat()
}

pub(crate) fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    Ip::new(src, dst, ICMP).packet(&icmp_message(kind, code, rest, data))
}

pub(crate) fn ping(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Vec<u8> {
    icmp(src, dst, 8, 0, [(id >> 8) as u8, id as u8, 0, 1], b"are you there?")
}

pub(crate) fn pong(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Vec<u8> {
    icmp(src, dst, 0, 0, [(id >> 8) as u8, id as u8, 0, 1], b"are you there?")
}

/// An ICMP error of `from` about a packet, which it quotes up to `quoted` bytes of.
pub(crate) fn error(from: Ipv4Addr, kind: u8, code: u8, about: &[u8], quoted: usize) -> Vec<u8> {
    let to: [u8; 4] = about[12..16].try_into().unwrap();
    icmp(from, to.into(), kind, code, [0; 4], &about[..quoted.min(about.len())])
}

pub(crate) fn udp6(src: (std::net::Ipv6Addr, u16), dst: (std::net::Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let (from, to) = (src.0.octets(), dst.0.octets());
    let ip = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: 8 + data.len() as u16,
        next_header: IpNumber::UDP,
        hop_limit: 64,
        source: from,
        destination: to,
    };
    let mut header = UdpHeader::without_ipv4_checksum(src.1, dst.1, data.len()).unwrap();
    header.checksum = header.calc_checksum_ipv6_raw(from, to, data).unwrap();
    [&ip.to_bytes()[..], &header.to_bytes(), data].concat()
}

/// A frame from a station to the gateway's MAC address on the port.
pub(crate) fn frame(port: usize, ip: &[u8]) -> Vec<u8> {
    tagged(port, &[], ip)
}

pub(crate) fn tagged(port: usize, ids: &[u16], ip: &[u8]) -> Vec<u8> {
    let mut frame = [mac(port), [2, 0x99, 0, 0, 0, port as u8]].concat();
    for id in ids {
        frame.extend([0x81, 0]);
        frame.extend(id.to_be_bytes());
    }
    frame.extend(if ip.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(ip);
    frame
}

/// What is behind the Ethernet header and its tags.
pub(crate) fn network(frame: &[u8]) -> &[u8] {
    match (frame[12], frame[16]) {
        (0x81, 0x81) => &frame[22..],
        (0x81, _) => &frame[18..],
        _ => &frame[14..],
    }
}

/// The answer to an ARP request; the station's MAC address is made of its IP address.
pub(crate) fn arp_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let arp = network(frame);
    let at = frame.len() - arp.len();
    arp.get(27)?;
    let asks = frame[at - 2..at] == [8, 6] && arp[7] == 1 && arp[14..18] != arp[24..28];
    let station = [2, 0x77, arp[24], arp[25], arp[26], arp[27]];
    asks.then(|| {
        [&frame[6..12], &station, &frame[12..at], &arp[..7], &[2], &station, &arp[24..28], &arp[8..18]]
            .concat()
    })
}

/// An ARP request of a station for an address.
pub(crate) fn arp_request(station: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &station, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &station].concat();
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The ends of an IPv4 packet with TCP, UDP or an ICMP echo, whose identifier is the port of both ends.
pub(crate) fn ends(ip: &[u8]) -> (End, End) {
    let (header, rest) = Ipv4Header::from_slice(ip).unwrap();
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let ports = if header.protocol == IpNumber::ICMP { (port(4), port(4)) } else { (port(0), port(2)) };
    ((header.source.into(), ports.0), (header.destination.into(), ports.1))
}

/// Whether the checksums of an IPv4 packet that is no fragment are right: header's, and TCP's, UDP's or ICMP's.
pub(crate) fn checksums_are_right(ip: &[u8]) -> (bool, bool) {
    let (header, rest) = Ipv4Header::from_slice(ip).unwrap();
    let rest = &rest[..usize::from(header.payload_len().unwrap())];
    let (src, dst) = (header.source, header.destination);
    let right = match header.protocol {
        IpNumber::TCP => {
            let (tcp, data) = TcpHeader::from_slice(rest).unwrap();
            tcp.calc_checksum_ipv4_raw(src, dst, data).unwrap() == tcp.checksum
        }
        IpNumber::UDP => {
            let (udp, data) = UdpHeader::from_slice(rest).unwrap();
            let data = &data[..usize::from(udp.length) - 8];
            udp.checksum == 0 || udp.calc_checksum_ipv4_raw(src, dst, data).unwrap() == udp.checksum
        }
        IpNumber::ICMP => {
            let kind = Icmpv4Type::Unknown {
                type_u8: rest[0],
                code_u8: rest[1],
                bytes5to8: rest[4..8].try_into().unwrap(),
            };
            kind.calc_checksum(&rest[8..]) == u16::from_be_bytes([rest[2], rest[3]])
        }
        _ => true,
    };
    (header.header_checksum == header.calc_header_checksum(), right)
}
