//! A packet as it is typed: `in lan tcp 192.168.1.5:1234 > 198.51.100.7:443 syn ttl 64 size 60 dscp ef`.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, TcpHeader, VlanId,
};
use sluice_dataplane::snapshot::Snapshot;

/// The MAC address of whoever sends it.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Protocols that it may be of, with their numbers.
const PROTOCOLS: [(&str, u8); 7] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmp6", 58), ("gre", 47), ("esp", 50), ("sctp", 132)];

/// A packet, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The interface (index) that it comes in by.
    pub interface: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source and destination address, of one family.
    pub ends: [IpAddr; 2],
    /// Source and destination port of TCP and UDP.
    pub ports: [u16; 2],
    /// TCP flags: `syn` alone unless others are named.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Length of the IP packet in bytes, if it was given.
    pub size: Option<usize>,
    /// Differentiated services code point.
    pub dscp: u8,
}

/// The words of a line, each with where it stands.
struct Words<'a> {
    text: &'a str,
    words: Vec<Range<usize>>,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut from = None;
        for (at, c) in text.char_indices() {
            match (c.is_whitespace(), from) {
                (true, Some(start)) => {
                    words.push(start..at);
                    from = None;
                }
                (false, None) => from = Some(at),
                _ => {}
            }
        }
        words.extend(from.map(|start| start..text.len()));
        Self { text, words, at: 0 }
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?.clone();
        self.at += 1;
        self.text.get(word)
    }

    fn wanted(&mut self, what: &str) -> Result<&'a str, String> {
        match self.next() {
            Some(word) => Ok(word),
            None => {
                self.at += 1;
                Err(self.wrong(&format!("{what} is missing")))
            }
        }
    }

    /// What is wrong with the word that was read last, with a caret below it.
    fn wrong(&self, what: &str) -> String {
        let place = self.words.get(self.at.saturating_sub(1)).cloned();
        let place = place.unwrap_or(self.text.trim_end().len() + 1..self.text.trim_end().len() + 2);
        let before = self.text.get(..place.start).map_or(place.start, |before| before.chars().count());
        let width = self.text.get(place.clone()).map_or(1, |word| word.chars().count());
        format!("{what}\n  {}\n  {}{}", self.text, " ".repeat(before), "^".repeat(width.max(1)))
    }

    fn number<N>(&mut self, what: &str, most: N) -> Result<N, String>
    where
        N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let word = self.wanted(what)?;
        let number = word.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| self.wrong(&format!("{what} is a number up to {most}")))
    }
}

impl Packet {
    /// Reads `in INTERFACE PROTOCOL SOURCE > DESTINATION`, with `syn`, `ack`, `fin`, `rst`, `psh`, `ttl N`, `size BYTES` and
    /// `dscp NAME` behind it where wanted. TCP and UDP have ports, IPv6 then stands in brackets.
    ///
    /// # Errors
    /// What is wrong, with a caret at the place.
    pub fn parse(text: &str, snapshot: &Snapshot) -> Result<Self, String> {
        let mut words = Words::new(text);
        if words.wanted("`in INTERFACE`")? != "in" {
            return Err(words.wrong("a packet begins with `in INTERFACE`"));
        }
        let name = words.wanted("the interface that it comes in by")?;
        let interface = snapshot.interfaces.iter().position(|interface| interface.name == name);
        let names = || snapshot.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        let interface = interface
            .ok_or_else(|| words.wrong(&format!("there is no such interface; there are {}", names())))?;
        let name = words.wanted("the protocol")?;
        let protocol = PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        let known = PROTOCOLS.map(|(name, _)| name).join(", ");
        let protocol = protocol.ok_or_else(|| words.wrong(&format!("the protocol is one of {known}")))?;
        let has_ports = matches!(protocol, 6 | 17);
        let (source, source_port) = end(&mut words, has_ports, "the source")?;
        if words.wanted("`>`")? != ">" {
            return Err(words.wrong("`>` stands between source and destination"));
        }
        let (destination, destination_port) = end(&mut words, has_ports, "the destination")?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(words.wrong("source and destination are of one family"));
        }
        if (protocol == 1 && source.is_ipv6()) || (protocol == 58 && source.is_ipv4()) {
            return Err(words.wrong("`icmp` goes with IPv4, `icmp6` with IPv6"));
        }
        let mut packet = Self {
            interface: interface as u16,
            protocol,
            ends: [source, destination],
            ports: [source_port, destination_port],
            tcp_flags: 0,
            ttl: 64,
            size: None,
            dscp: 0,
        };
        while let Some(word) = words.next() {
            match word {
                "fin" | "syn" | "rst" | "psh" | "ack" if protocol == 6 => {
                    let bit = ["fin", "syn", "rst", "psh", "ack"].iter().position(|flag| *flag == word);
                    packet.tcp_flags |= bit.map_or(0, |bit| 1 << bit);
                }
                "ttl" => packet.ttl = words.number("ttl", u8::MAX)?,
                "size" => packet.size = Some(words.number("size", 9216)?),
                "dscp" => packet.dscp = words.number("dscp", 63)?,
                _ => return Err(words.wrong("behind the destination may stand: ttl N, size BYTES, dscp N; with tcp: syn, ack, fin, rst, psh")),
            }
        }
        if protocol == 6 && packet.tcp_flags == 0 {
            packet.tcp_flags = 2;
        }
        Ok(packet)
    }

    /// The packet as it comes in, Ethernet header and tags included.
    ///
    /// # Errors
    /// It cannot be made: its size is under that of its headers.
    pub fn frame(&self, snapshot: &Snapshot) -> Result<Vec<u8>, String> {
        let interface = snapshot.interfaces.get(usize::from(self.interface)).ok_or("no such interface")?;
        let ip = match self.ends {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                let header = Ipv4Header::new(
                    0,
                    self.ttl,
                    IpNumber(self.protocol),
                    source.octets(),
                    destination.octets(),
                );
                let mut header = header.map_err(|error| error.to_string())?;
                header.dscp = self.dscp.try_into().map_err(|_| "dscp is a number up to 63")?;
                header.dont_fragment = false;
                IpHeaders::Ipv4(header, Default::default())
            }
            [IpAddr::V6(source), IpAddr::V6(destination)] => IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: self.dscp << 2,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber(self.protocol),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                },
                Default::default(),
            ),
            _ => return Err("source and destination are of one family".to_owned()),
        };
        let ip_len = if self.ends[0].is_ipv4() { 20 } else { 40 };
        let link = PacketBuilder::ethernet2(SENDER, interface.mac.0);
        let id = |id: u16| VlanId::try_new(id & 0xfff).unwrap_or(VlanId::ZERO);
        let [outer, inner] = interface.tags.ids.map(id);
        let step = match interface.tags.count {
            0 => link.ip(ip),
            1 => link.single_vlan(outer).ip(ip),
            _ => link.double_vlan(outer, inner).ip(ip),
        };
        let payload = |header: usize| match self.size {
            None => Ok(Vec::new()),
            Some(size) => {
                let least = ip_len + header;
                let rest = size
                    .checked_sub(least)
                    .ok_or_else(|| format!("size: its headers alone are {least} bytes"));
                rest.map(|rest| vec![0; rest])
            }
        };
        let mut frame = Vec::new();
        let echo = IcmpEchoHeader { id: 1, seq: 1 };
        let done = match self.protocol {
            6 => {
                let mut tcp = TcpHeader::new(self.ports[0], self.ports[1], 1, 65_535);
                let has = |bit: u8| self.tcp_flags >> bit & 1 == 1;
                (tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack) = (has(0), has(1), has(2), has(3), has(4));
                step.tcp_header(tcp).write(&mut frame, &payload(20)?)
            }
            17 => step.udp(self.ports[0], self.ports[1]).write(&mut frame, &payload(8)?),
            1 => step.icmpv4(Icmpv4Type::EchoRequest(echo)).write(&mut frame, &payload(8)?),
            58 => step.icmpv6(Icmpv6Type::EchoRequest(echo)).write(&mut frame, &payload(8)?),
            other => {
                let mut rest = payload(0)?;
                rest.resize(rest.len().max(16), 0);
                step.write(&mut frame, IpNumber(other), &rest)
            }
        };
        done.map_err(|error| error.to_string())?;
        // The least that Ethernet carries.
        frame.resize(frame.len().max(60), 0);
        Ok(frame)
    }
}

/// An address, with a port where there are ports.
fn end(words: &mut Words<'_>, has_ports: bool, what: &str) -> Result<(IpAddr, u16), String> {
    let word = words.wanted(what)?;
    if has_ports {
        let end = word.parse::<SocketAddr>();
        return end.map(|end| (end.ip(), end.port())).map_err(|_| {
            words.wrong(&format!("{what} is an address with a port: 192.0.2.1:80, or [2001:db8::1]:80"))
        });
    }
    let bare = word.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .map(|address| (address, 0))
        .map_err(|_| words.wrong(&format!("{what} is an address, without a port")))
}
