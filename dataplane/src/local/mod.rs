//! The gateway's own addresses: ARP, neighbour discovery, ping, and the errors that senders are told.
//!
//! Packets for us come in by [`Context::input`], one at a time; [`Context::answer`] tells the sender of a packet that was
//! rejected; [`Context::tick`] does what time brings about.
//!
//! An answer goes back the way the packet came: out by the same interface, with the same tags, to the station that sent
//! the frame, without a look at the routes. So the answer reaches whoever asked even where our routes do not (yet) lead
//! there, no neighbour need be resolved for it, and a forged source address cannot make us send by another interface.

mod announce;
mod arp;
mod emit;
mod error;
mod icmp;
mod link;
pub mod mirror;
mod nd;
pub mod neighbor;
mod port_control;

use std::net::IpAddr;

use sluice_pkt::checksum;
use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::parse::{Flags, Headers, L3, parse_head};
use sluice_pkt::{icmpv6, ipv4, ipv6, vlan};

use self::announce::Announcements;
use self::mirror::{Mirror, Wanted};
use self::neighbor::Neighbors;
use self::port_control::Epoch;
use crate::arena::{Frame, FramePool, MAX_PACKET};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::port::Outbox;
use crate::snapshot::{Interface, LocalUse, NONE16, Snapshot, Tags};
use crate::table::meter::PacketMeter;
use crate::verdict::{Answer, DropReason};

/// Places of the neighbour table that one tick examines at most.
const SWEEP: u32 = 1024;

/// What the gateway's own stack remembers, apart from its neighbours.
#[derive(Debug)]
pub struct Local {
    /// ICMP errors and TCP resets.
    errors: PacketMeter,
    /// Echo replies have a budget of their own: a flood of pings must not silence path MTU discovery.
    echoes: PacketMeter,
    announcements: Announcements,
    epoch: Epoch,
    /// Where a packet for us that came as a chain is made one piece.
    buffer: Vec<u8>,
    /// The way to the kernel's neighbours, where some port has them.
    mirror: Option<Mirror>,
}

impl Local {
    /// Ready to announce the snapshot's addresses.
    pub fn new(snapshot: &Snapshot) -> Self {
        let rate = u64::from(snapshot.icmp_per_second);
        Self {
            errors: PacketMeter::new(rate, rate),
            echoes: PacketMeter::new(rate, rate),
            announcements: Announcements::new(snapshot),
            epoch: Epoch::new(snapshot),
            buffer: vec![0; MAX_PACKET],
            mirror: None,
        }
    }

    /// One of several workers: their ICMP together keeps the rate, and the first alone announces.
    pub(crate) fn share(&mut self, snapshot: &Snapshot, me: usize, workers: usize) {
        (self.errors, self.echoes) = budgets(snapshot, me, workers);
        if me > 0 {
            self.announcements.silence();
            self.epoch.silence();
        }
    }

    /// Takes over another configuration.
    pub fn adopt(&mut self, change: &mut Change) {
        self.announcements.adopt(&mut change.announcements);
        if let Some(epoch) = change.epoch.take() {
            self.epoch = epoch;
        }
        if let Some((errors, echoes)) = change.budgets {
            (self.errors, self.echoes) = (errors, echoes);
        }
    }

    /// From now on, neighbours on ports whose `host_is_kernel` is set are asked for here.
    pub fn set_mirror(&mut self, mirror: Mirror) {
        self.mirror = Some(mirror);
    }

    /// When there is something to announce; it may lie in the past.
    pub fn next_due(&self) -> Nanos {
        self.announcements.next_due().min(self.epoch.next_due())
    }
}

/// What another configuration changes here, made beforehand.
#[derive(Debug)]
pub struct Change {
    announcements: Announcements,
    epoch: Option<Epoch>,
    budgets: Option<(PacketMeter, PacketMeter)>,
}

impl Change {
    /// From one configuration to another, for worker `me` of so many.
    pub fn new(old: &Snapshot, new: &Snapshot, me: usize, workers: usize) -> Self {
        let changed = new.icmp_per_second != old.icmp_per_second;
        let mut announcements = Announcements::after(old, new);
        if me > 0 {
            announcements.silence();
        }
        let mut epoch = Epoch::after(old, new);
        epoch.iter_mut().filter(|_| me > 0).for_each(Epoch::silence);
        Self { announcements, epoch, budgets: changed.then(|| budgets(new, me, workers)) }
    }
}

/// A worker's part of the ICMP that may be originated.
fn budgets(snapshot: &Snapshot, me: usize, workers: usize) -> (PacketMeter, PacketMeter) {
    let rate = u64::from(snapshot.icmp_per_second);
    let (workers, me) = (workers as u64, me as u64);
    let share = rate / workers + u64::from(me < rate % workers);
    (PacketMeter::new(share, share), PacketMeter::new(share, share))
}

/// What the gateway's own stack works with, all of one worker.
#[derive(Debug)]
pub struct Context<'a> {
    /// Packet buffers.
    pub pool: &'a mut FramePool,
    /// Where what we send goes, by port.
    pub outboxes: &'a mut [Outbox],
    /// Counters.
    pub counters: &'a mut Counters,
    /// Next hops.
    pub neighbors: &'a mut Neighbors,
    /// The rest of the stack's memory.
    pub local: &'a mut Local,
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The time.
    pub now: Nanos,
}

/// A packet that came in.
#[derive(Clone, Copy)]
struct Packet<'a> {
    bytes: &'a [u8],
    headers: &'a Headers,
    /// The port by which it came in.
    port: u16,
    interface: u16,
    link: &'a Interface,
}

impl<'a> Packet<'a> {
    fn new(
        bytes: &'a [u8],
        headers: &'a Headers,
        (port, interface): (u16, u16),
        snapshot: &'a Snapshot,
    ) -> Option<Self> {
        let link = snapshot.interfaces.get(usize::from(interface))?;
        Some(Self { bytes, headers, port, interface, link })
    }

    fn ethernet(&self) -> Option<ethernet::Header<&'a [u8; ethernet::LEN]>> {
        ethernet::Header::at(self.bytes, 0)
    }

    fn ipv4(&self) -> Option<ipv4::Header<&'a [u8; ipv4::LEN]>> {
        ipv4::Header::at(self.bytes, self.headers.l3_offset.into())
    }

    fn ipv6(&self) -> Option<ipv6::Header<&'a [u8; ipv6::LEN]>> {
        ipv6::Header::at(self.bytes, self.headers.l3_offset.into())
    }

    /// The IP packet, without Ethernet header and padding; of a chain what the head has.
    fn network(&self) -> &'a [u8] {
        self.until_end(self.headers.l3_offset)
    }

    /// The transport header and what is behind it; of a chain what the head has.
    fn transport(&self) -> &'a [u8] {
        self.until_end(self.headers.l4_offset)
    }

    fn until_end(&self, start: u16) -> &'a [u8] {
        let end = self.bytes.len().min(self.headers.end.into());
        self.bytes.get(start.into()..end).unwrap_or_default()
    }

    fn destination(&self) -> Option<IpAddr> {
        match self.headers.l3 {
            L3::Ipv4 => self.ipv4().map(|ip| ip.destination().into()),
            L3::Ipv6 => self.ipv6().map(|ip| ip.destination().into()),
            L3::Arp | L3::Other => None,
        }
    }

    /// Whether the checksum of the transport header and its data is right, or left out as UDP over IPv4 may.
    fn checksum_is_right(&self) -> bool {
        if self.headers.flags.has(Flags::NO_CHECKSUM) {
            return true;
        }
        let mut message = self.transport();
        if self.headers.protocol == ipv4::UDP {
            let len = sluice_pkt::udp::Header::at(message, 0).map_or(0, |udp| udp.datagram_len());
            message = message.get(..len.into()).unwrap_or_default();
        }
        let (protocol, len) = (self.headers.protocol, message.len());
        let pseudo = match self.headers.l3 {
            L3::Ipv4 if protocol == ipv4::ICMP => Some(checksum::Sum::default()),
            L3::Ipv4 => self.ipv4().map(|ip| ip.pseudo_header(protocol, len as u16)),
            _ => self.ipv6().map(|ip| ip.pseudo_header(protocol, len as u32)),
        };
        pseudo.is_some_and(|sum| sum.add_bytes(message).fold() == 0xffff)
    }
}

impl Context<'_> {
    /// Takes packet `i`, which is for the gateway itself, out of the burst, does what it asks for, and counts it: as
    /// punted, or as a drop.
    pub fn input(&mut self, i: usize, burst: &mut Burst) {
        let (Some(&headers), Some(&interface)) = (burst.headers.get(i), burst.interfaces.get(i)) else {
            return;
        };
        if self.snapshot.ports.get(usize::from(burst.port)).is_some_and(|port| port.complete_checksums) {
            burst.complete_checksum(i);
        }
        let Some(frame) = burst.take(i) else { return };
        let mut buffer = std::mem::take(&mut self.local.buffer);
        let packet = Packet::new(frame.whole(&mut buffer), &headers, (burst.port, interface), self.snapshot);
        match packet.map_or(Err(DropReason::LocalUnwanted), |packet| self.deliver(&packet)) {
            Ok(()) => self.counters.punted += 1,
            Err(reason) => self.counters.lost(reason, &frame, burst.port, NONE16),
        }
        self.local.buffer = buffer;
        self.pool.give(frame);
    }

    /// Tells the sender of packet `i`, which is as it came, why it is dropped: where that is allowed and the rate permits.
    pub fn answer(&mut self, i: usize, burst: &Burst, answer: Answer) {
        let (Some(headers), Some(&interface)) = (burst.headers.get(i), burst.interfaces.get(i)) else {
            return;
        };
        if let Some(packet) = Packet::new(burst.bytes(i), headers, (burst.port, interface), self.snapshot) {
            self.tell(&packet, answer);
        }
    }

    /// Does what is due: announcements, requests for neighbours, and the end of those that did not answer. One call does a
    /// bounded part of it; nothing is lost if the next one comes late.
    pub fn tick(&mut self) {
        self.take_in_known();
        self.local.epoch.begin(self.now);
        if self.now < self.neighbors.next_due().min(self.local.next_due()) {
            return;
        }
        self.announce();
        self.announce_epoch();
        let mut budget = SWEEP;
        while let Some(request) = self.neighbors.poll(self.now, &mut budget) {
            self.ask(&request);
        }
        while let Some(lost) = self.neighbors.undelivered() {
            self.undeliverable(lost.port, lost.frame, lost.reason);
        }
    }

    /// Drops a frame, as it came in by `port`, that waited for its next hop in vain, or was not let wait. Its sender is told
    /// if the next hop does not answer.
    pub fn undeliverable(&mut self, port: u16, frame: Frame, reason: DropReason) {
        if reason == DropReason::NeighborUnreachable {
            self.tell_late(port, &frame, Answer::HostUnreachable);
        }
        self.counters.lost(reason, &frame, port, NONE16);
        self.pool.give(frame);
    }

    /// Tells the sender of a packet of which nothing was kept that was found out when it came.
    pub(crate) fn tell_late(&mut self, port: u16, frame: &Frame, answer: Answer) {
        let Ok(headers) = parse_head(frame.bytes(), frame.len()) else { return };
        let Some(interface) = self.snapshot.interface_of(self.snapshot.physical(port), tags(&headers)) else {
            return;
        };
        if let Some(packet) = Packet::new(frame.bytes(), &headers, (port, interface), self.snapshot) {
            self.tell(&packet, answer);
        }
    }

    fn ask(&mut self, request: &neighbor::Request) {
        let Some(link) = self.snapshot.interfaces.get(usize::from(request.interface)) else { return };
        let kernels = self.snapshot.ports.get(usize::from(link.port)).is_some_and(|port| port.host_is_kernel);
        if let Some(mirror) = self.local.mirror.as_mut().filter(|_| kernels) {
            return mirror.ask(Wanted { interface: request.interface, address: request.address });
        }
        if self.neighbors.leave_to_another(request, self.snapshot) {
            return;
        }
        match request.address {
            IpAddr::V4(address) => self.ask_arp(link, address, request.mac),
            IpAddr::V6(address) => self.ask_nd(link, address, request.mac),
        }
    }

    /// Does what the packet asks for, or says why not.
    fn deliver(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let ethernet = packet.ethernet().ok_or(DropReason::LocalInvalid)?;
        if !ethernet.source().is_unicast() || ethernet.source() == packet.link.mac {
            return Err(DropReason::LocalInvalid);
        }
        // There is no reassembly here: what is for the gateway fits into one packet.
        if packet.headers.flags.has(Flags::FRAGMENT) {
            return Err(DropReason::LocalUnwanted);
        }
        match (packet.headers.l3, packet.headers.protocol) {
            (L3::Arp, _) => self.input_arp(packet),
            (L3::Ipv4, ipv4::ICMP) => self.input_icmpv4(packet),
            (L3::Ipv6, ipv6::ICMPV6) => match packet.headers.icmp_type {
                icmpv6::NEIGHBOR_SOLICITATION | icmpv6::NEIGHBOR_ADVERTISEMENT => self.input_nd(packet),
                _ => self.input_icmpv6(packet),
            },
            (L3::Ipv4 | L3::Ipv6, protocol) => self.refuse(packet, protocol),
            (L3::Other, _) => Err(DropReason::LocalUnwanted),
        }
    }

    /// No service listens on the gateway.
    fn refuse(&mut self, packet: &Packet<'_>, protocol: u8) -> Result<(), DropReason> {
        let answer = match protocol {
            ipv4::TCP | ipv4::UDP if !packet.checksum_is_right() => return Err(DropReason::LocalInvalid),
            ipv4::TCP | ipv4::UDP => Answer::PortUnreachable,
            ipv6::NO_NEXT_HEADER if packet.headers.l3 == L3::Ipv6 => return Err(DropReason::LocalUnwanted),
            _ => Answer::ProtocolUnreachable,
        };
        let used = packet.destination().and_then(|ours| link::ours(self.snapshot, packet.link, ours));
        if used == Some(LocalUse::Interface) {
            self.tell(packet, answer);
        }
        Err(DropReason::LocalUnwanted)
    }
}

fn tags(headers: &Headers) -> Tags {
    let mut tags = Tags { count: headers.tags, ..Tags::default() };
    for (id, tci) in tags.ids.iter_mut().zip(headers.tci).take(headers.tags.into()) {
        *id = vlan::id(tci);
    }
    // IEEE 802.1Q 6.9.1: a priority tag names no VLAN.
    if tags == (Tags { count: 1, ids: [vlan::PRIORITY_ONLY, 0] }) { Tags::default() } else { tags }
}

/// Whether a MAC address is one that a neighbour may have.
fn is_station(link: &Interface, mac: Mac) -> bool {
    mac.is_unicast() && mac != link.mac
}

#[cfg(test)]
mod tests;
