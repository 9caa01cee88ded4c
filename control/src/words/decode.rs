//! Walks a frame from header to header.

use std::fmt::Display;
use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

use super::names::{fragment_words, icmp_name, mac, protocol, protocol_address};
use super::{Field, RIGHT, SHOWN, Words, hex};

struct Decoder<'a> {
    /// `quoted.` within the packet that an ICMP error quotes.
    prefix: &'static str,
    fields: Vec<Field<'a>>,
}

/// What the network header says to those behind it.
#[derive(Clone, Copy)]
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    /// Whether all of the packet is there, from the transport header to its end: only then can checksums be verified.
    complete: bool,
    later_fragment: bool,
}

/// What a transport header adds to the line that sums a packet up.
struct Transport {
    label: String,
    ports: Option<(u16, u16)>,
    detail: String,
}

impl Transport {
    fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), ports: None, detail: String::new() }
    }
}

pub(super) fn ethernet(frame: &[u8]) -> Words<'_> {
    let mut decoder = Decoder { prefix: "", fields: Vec::new() };
    let summary = decoder.ethernet(frame);
    Words { summary, fields: decoder.fields }
}

impl<'a> Decoder<'a> {
    fn push(&mut self, name: &str, value: String, raw: Option<&'a [u8]>) {
        let mut full = format!("{}{name}", self.prefix);
        let mut number = 1;
        while self.fields.iter().any(|field| field.name == full) {
            number += 1;
            full = format!("{}{name}[{number}]", self.prefix);
        }
        self.fields.push(Field { name: full, value, raw });
    }

    fn put(&mut self, name: &str, value: impl Display) {
        self.push(name, value.to_string(), None);
    }

    /// A field that is nothing but bytes; none if there are no bytes.
    fn raw(&mut self, name: &str, bytes: &'a [u8]) {
        if !bytes.is_empty() {
            self.push(name, format!("{} bytes: {}", bytes.len(), hex(bytes, SHOWN)), Some(bytes));
        }
    }

    /// A header that cannot be decoded: says why, and takes its bytes as payload.
    fn malformed(&mut self, layer: &str, error: impl Display, bytes: &'a [u8]) -> String {
        self.put("malformed", format!("{layer}: {error}"));
        self.raw("payload", bytes);
        format!("malformed {layer}")
    }

    fn checksum(&mut self, name: &str, found: u16, right: Option<u16>) {
        let value = match right {
            None => format!("{found:#06x}"),
            Some(right) if right == found => format!("{found:#06x} {RIGHT}"),
            Some(right) => format!("{found:#06x} (wrong, should be {right:#06x})"),
        };
        self.put(name, value);
    }

    fn ethernet(&mut self, frame: &'a [u8]) -> String {
        let header = match Ethernet2HeaderSlice::from_slice(frame) {
            Ok(header) => header,
            Err(error) => return self.malformed("ethernet", error, frame),
        };
        self.put("eth.dst", mac(&header.destination()));
        self.put("eth.src", mac(&header.source()));
        let mut ether_type = header.ether_type().0;
        let mut rest = frame.get(header.slice().len()..).unwrap_or_default();
        let mut tags = String::new();
        while matches!(ether_type, 0x8100 | 0x88a8) {
            self.put("vlan.tpid", format!("{ether_type:#06x}"));
            let tag = match SingleVlanHeaderSlice::from_slice(rest) {
                Ok(tag) => tag,
                Err(error) => return tags + &self.malformed("vlan", error, rest),
            };
            self.put("vlan.id", tag.vlan_identifier().value());
            self.put("vlan.priority", tag.priority_code_point().value());
            self.put("vlan.dei", tag.drop_eligible_indicator());
            tags += &format!("vlan {} ", tag.vlan_identifier().value());
            ether_type = tag.ether_type().0;
            rest = rest.get(4..).unwrap_or_default();
        }
        self.put("eth.type", format!("{ether_type:#06x}"));
        tags + &match ether_type {
            0x0800 => self.ipv4(rest),
            0x0806 => self.arp(rest),
            0x86dd => self.ipv6(rest),
            _ => {
                self.raw("payload", rest);
                format!("ethernet type {ether_type:#06x} len {}", frame.len())
            }
        }
    }

    fn arp(&mut self, bytes: &'a [u8]) -> String {
        let arp = match ArpPacketSlice::from_slice(bytes) {
            Ok(arp) => arp,
            Err(error) => return self.malformed("arp", error, bytes),
        };
        self.put("arp.hardware_type", arp.hw_addr_type().0);
        self.put("arp.protocol_type", format!("{:#06x}", arp.proto_addr_type().0));
        self.put("arp.hardware_size", arp.hw_addr_size());
        self.put("arp.protocol_size", arp.proto_addr_size());
        let operation = match arp.operation().0 {
            1 => "1 (request)".to_owned(),
            2 => "2 (reply)".to_owned(),
            other => other.to_string(),
        };
        self.put("arp.operation", &operation);
        let (sender, target) =
            (protocol_address(arp.sender_protocol_addr()), protocol_address(arp.target_protocol_addr()));
        self.put("arp.sender_mac", mac(arp.sender_hw_addr()));
        self.put("arp.sender", &sender);
        self.put("arp.target_mac", mac(arp.target_hw_addr()));
        self.put("arp.target", &target);
        self.raw("padding", bytes.get(arp.slice().len()..).unwrap_or_default());
        match arp.operation().0 {
            1 => format!("arp who-has {target} tell {sender}"),
            2 => format!("arp {sender} is-at {} to {target}", mac(arp.sender_hw_addr())),
            _ => format!("arp operation {operation} {sender} > {target}"),
        }
    }

    fn ipv4(&mut self, bytes: &'a [u8]) -> String {
        let header = match Ipv4HeaderSlice::from_slice(bytes) {
            Ok(header) => header,
            Err(error) => return self.malformed("ipv4", error, bytes),
        };
        let raw = header.slice();
        let (total, offset) = (header.total_len(), header.fragments_offset().value() * 8);
        self.put("ipv4.src", header.source_addr());
        self.put("ipv4.dst", header.destination_addr());
        self.put("ipv4.header_length", raw.len());
        self.put("ipv4.tos", format!("{:#04x}", header.dcp().value() << 2 | header.ecn().value()));
        self.put("ipv4.total_length", total);
        self.put("ipv4.id", header.identification());
        self.put("ipv4.df", header.dont_fragment());
        self.put("ipv4.mf", header.more_fragments());
        self.put("ipv4.offset", offset);
        self.put("ipv4.ttl", header.ttl());
        self.put("ipv4.protocol", protocol(header.protocol()));
        let sum = Sum16BitWords::new().add_slice(&raw[..10]).add_slice(&raw[12..]);
        self.checksum("ipv4.checksum", header.header_checksum(), Some(sum.ones_complement().to_be()));
        self.raw("ipv4.options", header.options());

        let end = usize::from(total).clamp(raw.len(), bytes.len());
        let fragment = header.more_fragments() || offset > 0;
        let ip = Ip {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            complete: usize::from(total) == end && !fragment,
            later_fragment: offset > 0,
        };
        let transport = self.transport(header.protocol(), ip, bytes.get(raw.len()..end).unwrap_or_default());
        self.missing_or_padding(usize::from(total), bytes);
        let fragment = fragment_words(fragment, offset.into(), header.more_fragments());
        summary_of(ip, &transport, &format!("{fragment}ttl {} len {total}", header.ttl()))
    }

    fn ipv6(&mut self, bytes: &'a [u8]) -> String {
        let header = match Ipv6HeaderSlice::from_slice(bytes) {
            Ok(header) => header,
            Err(error) => return self.malformed("ipv6", error, bytes),
        };
        self.put("ipv6.src", header.source_addr());
        self.put("ipv6.dst", header.destination_addr());
        self.put("ipv6.class", format!("{:#04x}", header.traffic_class()));
        self.put("ipv6.flow", format!("{:#07x}", header.flow_label().value()));
        self.put("ipv6.payload_length", header.payload_length());
        self.put("ipv6.next_header", protocol(header.next_header()));
        self.put("ipv6.hop_limit", header.hop_limit());

        let total = 40 + usize::from(header.payload_length());
        let end = total.min(bytes.len());
        let mut ip = Ip {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            complete: end == total,
            later_fragment: false,
        };
        let mut rest = bytes.get(40..end).unwrap_or_default();
        let mut next = header.next_header();
        let mut fragment = String::new();
        let transport = loop {
            let decoded = match next {
                _ if ip.later_fragment => break self.transport(next, ip, rest),
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    Ipv6FragmentHeaderSlice::from_slice(rest).map(|extension| {
                        let offset = u32::from(extension.fragment_offset().value()) * 8;
                        self.put("ipv6.fragment.offset", offset);
                        self.put("ipv6.fragment.more", extension.more_fragments());
                        self.put("ipv6.fragment.id", extension.identification());
                        let is_fragment = extension.is_fragmenting_payload();
                        ip.complete &= !is_fragment;
                        ip.later_fragment = offset > 0;
                        fragment = fragment_words(is_fragment, offset, extension.more_fragments());
                        (extension.next_header(), extension.slice().len())
                    })
                }
                IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_DESTINATION_OPTIONS
                | IpNumber::IPV6_ROUTE_HEADER => Ipv6RawExtHeaderSlice::from_slice(rest).map(|extension| {
                    let name = match next {
                        IpNumber::IPV6_HEADER_HOP_BY_HOP => "ipv6.hop",
                        IpNumber::IPV6_DESTINATION_OPTIONS => "ipv6.dstopt",
                        _ => "ipv6.routing",
                    };
                    let len = extension.slice().len();
                    self.raw(name, rest.get(2..len).unwrap_or_default());
                    (extension.next_header(), len)
                }),
                _ => break self.transport(next, ip, rest),
            };
            match decoded {
                Ok((behind, len)) => {
                    (next, rest) = (behind, rest.get(len..).unwrap_or_default());
                    self.put("ipv6.next_header", protocol(next));
                }
                Err(error) => break Transport::new(self.malformed("ipv6 extension", error, rest)),
            }
        };
        self.missing_or_padding(total, bytes);
        summary_of(ip, &transport, &format!("{fragment}hlim {} len {total}", header.hop_limit()))
    }

    /// What lies between the IP packet's end and the frame's.
    fn missing_or_padding(&mut self, total: usize, bytes: &'a [u8]) {
        if total > bytes.len() {
            self.put("missing", format!("{} bytes of the packet's {total}", total - bytes.len()));
        }
        self.raw("padding", bytes.get(total..).unwrap_or_default());
    }

    fn transport(&mut self, number: IpNumber, ip: Ip, bytes: &'a [u8]) -> Transport {
        match (number, ip.source) {
            _ if ip.later_fragment => {}
            (IpNumber::TCP, _) => return self.tcp(ip, bytes),
            (IpNumber::UDP, _) => return self.udp(ip, bytes),
            (IpNumber::ICMP, IpAddr::V4(_)) => return self.icmp("icmp", ip, bytes),
            (IpNumber::IPV6_ICMP, IpAddr::V6(_)) => return self.icmp("icmpv6", ip, bytes),
            _ => {}
        }
        self.raw("payload", bytes);
        Transport::new(match number {
            IpNumber::TCP => "tcp".to_owned(),
            IpNumber::UDP => "udp".to_owned(),
            IpNumber::ICMP => "icmp".to_owned(),
            IpNumber::IPV6_ICMP => "icmpv6".to_owned(),
            IpNumber(number) => format!("protocol {number}"),
        })
    }

    fn tcp(&mut self, ip: Ip, bytes: &'a [u8]) -> Transport {
        let header = match TcpHeaderSlice::from_slice(bytes) {
            Ok(header) => header,
            Err(error) => return self.cut_transport("tcp", error, bytes),
        };
        let (source, destination) = (header.source_port(), header.destination_port());
        self.put("tcp.src", source);
        self.put("tcp.dst", destination);
        self.put("tcp.seq", header.sequence_number());
        self.put("tcp.ack", header.acknowledgment_number());
        let flags = [
            (header.syn(), "SYN"),
            (header.fin(), "FIN"),
            (header.rst(), "RST"),
            (header.psh(), "PSH"),
            (header.ack(), "ACK"),
            (header.urg(), "URG"),
            (header.ece(), "ECE"),
            (header.cwr(), "CWR"),
            (header.ns(), "NS"),
        ];
        let flags: Vec<&str> = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
        let flags = if flags.is_empty() { "no flags".to_owned() } else { flags.join(" ") };
        self.put("tcp.flags", &flags);
        self.put("tcp.window", header.window_size());
        self.put("tcp.urgent", header.urgent_pointer());
        self.checksum("tcp.checksum", header.checksum(), ip.sum(6, bytes, 16));
        for (number, option) in header.options_iterator().enumerate() {
            match option {
                Ok(option) => self.put("tcp.option", format!("{option:?}")),
                Err(error) => self.put("tcp.option", format!("number {} is malformed: {error}", number + 1)),
            }
        }
        let len = header.slice().len();
        self.raw("tcp.options", bytes.get(20..len).unwrap_or_default());
        self.raw("payload", bytes.get(len..).unwrap_or_default());
        Transport { label: "tcp".to_owned(), ports: Some((source, destination)), detail: flags + " " }
    }

    fn udp(&mut self, ip: Ip, bytes: &'a [u8]) -> Transport {
        let header = match UdpHeaderSlice::from_slice(bytes) {
            Ok(header) => header,
            Err(error) => return self.cut_transport("udp", error, bytes),
        };
        let (source, destination) = (header.source_port(), header.destination_port());
        self.put("udp.src", source);
        self.put("udp.dst", destination);
        self.put("udp.length", header.length());
        match header.checksum() {
            0 => self.put("udp.checksum", "0x0000 (none)"),
            found => {
                // A sum of zero is sent as its other form, all ones (RFC 768).
                let right = ip.sum(17, bytes, 6).map(|sum| if sum == 0 { 0xffff } else { sum });
                self.checksum("udp.checksum", found, right);
            }
        }
        self.raw("payload", bytes.get(8..).unwrap_or_default());
        Transport { label: "udp".to_owned(), ports: Some((source, destination)), detail: String::new() }
    }

    /// A transport header that is not whole, as in most quoted packets: its ports at least.
    fn cut_transport(&mut self, layer: &str, error: impl Display, bytes: &'a [u8]) -> Transport {
        let mut transport = Transport::new(layer);
        let Some((ports, rest)) = bytes.split_first_chunk::<4>() else {
            transport.label = self.malformed(layer, error, bytes);
            return transport;
        };
        let [source, destination] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
        self.put(&format!("{layer}.src"), source);
        self.put(&format!("{layer}.dst"), destination);
        match rest.split_first_chunk::<4>() {
            Some((sequence, rest)) if layer == "tcp" => {
                self.put("tcp.seq", u32::from_be_bytes(*sequence));
                self.raw("tcp.rest", rest);
            }
            _ => self.raw(&format!("{layer}.rest"), rest),
        }
        transport.ports = Some((source, destination));
        transport
    }

    fn icmp(&mut self, label: &str, ip: Ip, bytes: &'a [u8]) -> Transport {
        let Some((header, rest)) = bytes.split_first_chunk::<8>() else {
            return Transport::new(self.malformed(label, "shorter than 8 bytes", bytes));
        };
        let [kind, code, sum_high, sum_low, word @ ..] = *header;
        let v6 = label == "icmpv6";
        let name = icmp_name(v6, kind, code);
        self.put(&format!("{label}.type"), format!("{kind} ({name})"));
        self.put(&format!("{label}.code"), code);
        let right = if v6 { ip.sum(58, bytes, 2) } else { ip.complete.then(|| sum_of(&[], bytes, 2)) };
        self.checksum(&format!("{label}.checksum"), u16::from_be_bytes([sum_high, sum_low]), right);
        let mut detail = format!("{name} ");
        let echo = matches!((v6, kind), (false, 0 | 8) | (true, 128 | 129));
        let error = if v6 { kind < 128 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) };
        let [high, low] = [[word[0], word[1]], [word[2], word[3]]].map(u16::from_be_bytes);
        let rest_of_header = match (v6, kind, code) {
            _ if echo => {
                self.put(&format!("{label}.id"), high);
                self.put(&format!("{label}.seq"), low);
                detail += &format!("id {high} seq {low} ");
                None
            }
            (false, 3, 4) => {
                self.put("icmp.unused", high);
                Some(("icmp.mtu", low.to_string()))
            }
            (false, 5, _) => Some(("icmp.gateway", protocol_address(&word))),
            (false, 12, _) => Some(("icmp.pointer", word[0].to_string())),
            (true, 2, _) => Some(("icmpv6.mtu", u32::from_be_bytes(word).to_string())),
            (true, 4, _) => Some(("icmpv6.pointer", u32::from_be_bytes(word).to_string())),
            (true, 136, _) => {
                let bits = [(0x80, "router"), (0x40, "solicited"), (0x20, "override")];
                let set: Vec<&str> =
                    bits.iter().filter(|(bit, _)| word[0] & bit != 0).map(|&(_, name)| name).collect();
                Some(("icmpv6.flags", format!("{:#04x} ({})", word[0], set.join(" "))))
            }
            _ => Some((
                if v6 { "icmpv6.word" } else { "icmp.word" },
                format!("{:#010x}", u32::from_be_bytes(word)),
            )),
        };
        if let Some((name, value)) = rest_of_header {
            if name.ends_with("mtu") {
                detail += &format!("mtu {value} ");
            }
            self.put(name, value);
        }
        if error && self.prefix.is_empty() {
            self.prefix = "quoted.";
            let quoted = if v6 { self.ipv6(rest) } else { self.ipv4(rest) };
            self.prefix = "";
            detail += &format!("[{quoted}] ");
        } else if v6 && matches!(kind, 135 | 136) && rest.len() >= 16 {
            let (target, options) = rest.split_at(16);
            self.put("icmpv6.target", protocol_address(target));
            detail += &format!("{} ", protocol_address(target));
            self.neighbor_options(options);
        } else {
            self.raw("payload", rest);
        }
        Transport { label: label.to_owned(), ports: None, detail }
    }

    /// The options of neighbour discovery (RFC 4861 4.6).
    fn neighbor_options(&mut self, mut options: &'a [u8]) {
        while let &[kind, units, ..] = options {
            let Some((option, rest)) = options.split_at_checked(usize::from(units) * 8).filter(|_| units > 0)
            else {
                break;
            };
            match (kind, option) {
                (1, [_, _, address @ ..]) if units == 1 => self.put("icmpv6.source_mac", mac(address)),
                (2, [_, _, address @ ..]) if units == 1 => self.put("icmpv6.target_mac", mac(address)),
                _ => self.raw("icmpv6.option", option),
            }
            options = rest;
        }
        self.raw("payload", options);
    }
}

impl Ip {
    /// The checksum that `bytes`, with its field at `at`, should have behind this header; `None` if not all is there.
    fn sum(self, protocol: u8, bytes: &[u8], at: usize) -> Option<u16> {
        let len = (bytes.len() as u32).to_be_bytes();
        let mut pseudo = Vec::with_capacity(40);
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => pseudo.extend(address.octets()),
                IpAddr::V6(address) => pseudo.extend(address.octets()),
            }
        }
        pseudo.extend(len);
        pseudo.extend([0, protocol]);
        self.complete.then(|| sum_of(&pseudo, bytes, at))
    }
}

/// The internet checksum of `pseudo` and `bytes`, with the field at `at` (even) taken as zero.
fn sum_of(pseudo: &[u8], bytes: &[u8], at: usize) -> u16 {
    let (before, behind) = (bytes.get(..at), bytes.get(at + 2..));
    Sum16BitWords::new()
        .add_slice(pseudo)
        .add_slice(before.unwrap_or_default())
        .add_slice(behind.unwrap_or_default())
        .ones_complement()
        .to_be()
}

fn summary_of(ip: Ip, transport: &Transport, end: &str) -> String {
    let address = |address: IpAddr, port: Option<u16>| match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    };
    let source = address(ip.source, transport.ports.map(|ports| ports.0));
    let destination = address(ip.destination, transport.ports.map(|ports| ports.1));
    format!("{} {source} > {destination} {}{end}", transport.label, transport.detail)
}
