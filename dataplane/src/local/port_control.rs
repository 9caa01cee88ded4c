//! Answers to inside hosts about their mappings (PCP, RFC 6887; NAT-PMP, RFC 6886), and what all of them are told when
//! mappings may be lost. What a request comes to has been decided before (`stage/port_control.rs`).

use std::net::Ipv4Addr;

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::pcp::{self, Result as Code, map, peer};
use sluice_pkt::{ipv4, natpmp, udp};

use super::emit::LinkHeader;
use super::icmp::TTL;
use super::{Context, Packet};
use crate::burst::Burst;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::snapshot::{Interface, Snapshot, SourceNat};
use crate::verdict::Reply;

/// How often all are told that mappings may be lost, the first and second time this far apart, and each time twice as far
/// (RFC 6887 14.1.3, RFC 6886 3.2.1).
const ROUNDS: u8 = 10;
const INTERVAL: Nanos = 250 * MILLISECOND;
/// All hosts of a link.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_HOSTS_MAC: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

/// Since when there are mappings, and how far it has come that all know.
#[derive(Debug)]
pub(super) struct Epoch {
    started: Option<Nanos>,
    due: Nanos,
    interval: Nanos,
    rounds_left: u8,
}

impl Epoch {
    /// From now on.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let due = if snapshot.port_control.rules.is_empty() { Nanos::MAX } else { 0 };
        Self { started: None, due, interval: INTERVAL, rounds_left: ROUNDS }
    }

    /// Another configuration's, if mappings may be lost with it.
    pub(super) fn after(old: &Snapshot, new: &Snapshot) -> Option<Self> {
        let is_same = old.port_control == new.port_control
            && old.source_nat == new.source_nat
            && old.pools == new.pools
            && old.forwards == new.forwards
            && old.statics == new.statics;
        (!is_same).then(|| Self::new(new))
    }

    /// Another worker tells all.
    pub(super) fn silence(&mut self) {
        self.due = Nanos::MAX;
    }

    pub(super) fn next_due(&self) -> Nanos {
        self.due
    }

    pub(super) fn begin(&mut self, now: Nanos) {
        self.started.get_or_insert(now);
    }

    /// Seconds (RFC 6887 8.5).
    fn seconds(&self, now: Nanos) -> u32 {
        (now.saturating_sub(self.started.unwrap_or(now)) / SECOND) as u32
    }

    /// Whether all are to be told now.
    fn poll(&mut self, now: Nanos) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.rounds_left = self.rounds_left.saturating_sub(1);
            self.due = if self.rounds_left == 0 { Nanos::MAX } else { now.saturating_add(self.interval) };
            self.interval = self.interval.saturating_mul(2);
        }
        is_due
    }
}

/// A message on its way to be sent.
struct Message {
    bytes: [u8; pcp::LONGEST],
    len: usize,
}

impl Message {
    fn new() -> Self {
        Self { bytes: [0; pcp::LONGEST], len: 0 }
    }

    fn of(bytes: &[u8]) -> Self {
        let mut message = Self::new();
        message.add(bytes);
        message
    }

    /// Adds what there is room for.
    fn add(&mut self, bytes: &[u8]) {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let len = bytes.len().min(room.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len += len;
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Context<'_> {
    /// Takes packet `i`, a host's request, out of the burst, and tells its sender what it comes to.
    pub fn port_control(&mut self, i: usize, burst: &mut Burst, reply: Reply) {
        let (Some(&headers), Some(&interface)) = (burst.headers.get(i), burst.interfaces.get(i)) else {
            return;
        };
        let Some(frame) = burst.take(i) else { return };
        self.counters.punted += 1;
        self.counters.port_control_requests += 1;
        self.counters.port_control_refused += u64::from(reply.result != Code::Success);
        if let Some(packet) = Packet::new(frame.bytes(), &headers, (burst.port, interface), self.snapshot) {
            self.reply(&packet, reply);
        }
        self.pool.give(frame);
    }

    fn reply(&mut self, packet: &Packet<'_>, reply: Reply) -> Option<()> {
        let (ip, asked) = (packet.ipv4()?, udp::Header::at(packet.transport(), 0)?);
        let request = packet.transport().get(udp::LEN..asked.datagram_len().into())?;
        let epoch = self.local.epoch.seconds(self.now);
        let message = match request.first() {
            Some(&natpmp::VERSION) => natpmp_response(request, reply, epoch),
            _ => pcp_response(request, reply, epoch),
        }?;
        let back = LinkHeader::back(packet)?;
        let (from, to) = (ip.destination(), (ip.source(), asked.source_port()));
        self.send_from_server(packet.link.port, &back, from, to, TTL, message.bytes());
        Some(())
    }

    fn send_from_server(
        &mut self,
        port: u16,
        link: &LinkHeader,
        from: Ipv4Addr,
        (to, to_port): (Ipv4Addr, u16),
        ttl: u8,
        message: &[u8],
    ) {
        let len = (udp::LEN + message.len()) as u16;
        let ip = ipv4::Header::new(from, to, ipv4::UDP, ttl, len);
        let mut datagram = udp::Header([0; udp::LEN]);
        datagram.set_source_port(pcp::PORT);
        datagram.set_destination_port(to_port);
        datagram.set_datagram_len(len);
        let sum = ip.pseudo_header(ipv4::UDP, len).add_bytes(&datagram.0).add_bytes(message);
        datagram.set_checksum(udp::checksum_field(sum.checksum()));
        self.originate(port, link, &[&ip.0, &datagram.0, message]);
    }

    /// Tells the hosts on all inside links that mappings may be lost, as far as it is due.
    pub(super) fn announce_epoch(&mut self) {
        if !self.local.epoch.poll(self.now) {
            return;
        }
        let (snapshot, epoch) = (self.snapshot, self.local.epoch.seconds(self.now));
        for link in &snapshot.interfaces {
            let rules = snapshot.port_control.rules.iter();
            let mut rules = rules.filter_map(|&rule| snapshot.source_nat.get(usize::from(rule)));
            let port = snapshot.ports.get(usize::from(link.port));
            // On the kernel's own addresses the kernel answers.
            let is_silent = port.is_none_or(|port| port.invent_neighbors || port.host_is_kernel);
            let Some((from, rule)) = rules.find_map(|rule| Some((inside(link, rule, snapshot)?, rule)))
            else {
                continue;
            };
            let Some(header) = LinkHeader::new(link, ALL_HOSTS_MAC, ethernet::IPV4).filter(|_| !is_silent)
            else {
                continue;
            };
            let to = (ALL_HOSTS, pcp::CLIENT_PORT);
            let announce = pcp::Header::response(pcp::ANNOUNCE, Code::Success, 0, epoch);
            self.send_from_server(link.port, &header, from, to, 1, &announce.0);
            // Of several external addresses, none is everybody's.
            let pool = snapshot.pools.get(usize::from(rule.pool));
            if let Some(&[external]) = pool.map(|pool| &pool.addresses[..]) {
                let address = natpmp::address::Response::new(natpmp::SUCCESS, epoch, external);
                self.send_from_server(link.port, &header, from, to, 1, &address.0);
            }
        }
    }
}

/// Our address on a link that hosts of a rule are on.
fn inside(link: &Interface, rule: &SourceNat, snapshot: &Snapshot) -> Option<Ipv4Addr> {
    let is_out = snapshot.interfaces.get(usize::from(rule.out)).is_some_and(|out| std::ptr::eq(out, link));
    let is_from = |address: Ipv4Addr| {
        let mut from = rule.from.iter();
        rule.from.is_empty() || from.any(|&(prefix, mask)| (address.to_bits() ^ prefix) & mask == 0)
    };
    let mut ours = link.v4.iter().map(|&(address, _)| address);
    ours.find(|&address| !is_out && is_from(address))
}

/// RFC 6887 8.2: the request, with the result and without the options that were passed over; of an error all of it.
fn pcp_response(request: &[u8], reply: Reply, epoch: u32) -> Option<Message> {
    let opcode = request.get(pcp::OPCODE_FIELD)? & !pcp::RESPONSE;
    let header = pcp::Header::response(opcode, reply.result, reply.lifetime, epoch);
    let mut message = Message::of(&header.0);
    let data = request.get(pcp::LEN..).unwrap_or_default();
    match reply.result {
        Code::UnsuppVersion => {}
        Code::Success if matches!(opcode, pcp::MAP | pcp::PEER) => {
            let mut map = map::Map(*data.first_chunk()?);
            map.set_external(pcp::mapped(Ipv4Addr::from_bits(reply.external.0)));
            map.set_external_port(reply.external.1);
            message.add(&map.0);
            let behind = map::LEN + if opcode == pcp::PEER { peer::LEN } else { 0 };
            message.add(data.get(map::LEN..behind)?);
            for option in pcp::Options(data.get(behind..)?).flatten() {
                if option.code < pcp::OPTIONAL {
                    message.add(option.bytes);
                }
            }
        }
        Code::Success => {}
        _ => {
            message.add(data);
            message.len = message.len.next_multiple_of(pcp::UNIT);
        }
    }
    Some(message)
}

fn natpmp_response(request: &[u8], reply: Reply, epoch: u32) -> Option<Message> {
    let opcode = *request.get(natpmp::map::OPCODE)?;
    let result = match reply.result {
        Code::Success => natpmp::SUCCESS,
        Code::NetworkFailure => natpmp::NETWORK_FAILURE,
        Code::NoResources | Code::UserExQuota => natpmp::OUT_OF_RESOURCES,
        Code::UnsuppOpcode => natpmp::UNSUPPORTED_OPCODE,
        _ => natpmp::NOT_AUTHORIZED,
    };
    let (address, port) = reply.external;
    if opcode == natpmp::EXTERNAL_ADDRESS {
        let response = natpmp::address::Response::new(result, epoch, Ipv4Addr::from_bits(address));
        return Some(Message::of(&response.0));
    }
    let mut response = natpmp::mapped::Response::new(opcode, result, epoch);
    if result == natpmp::UNSUPPORTED_OPCODE {
        return Some(Message::of(response.0.get(..natpmp::SHORT)?));
    }
    response.set_internal_port(natpmp::map::Request::at(request, 0)?.internal_port());
    if result == natpmp::SUCCESS {
        response.set_external_port(port);
        response.set_lifetime(reply.lifetime);
    }
    Some(Message::of(&response.0))
}
