//! Neighbour discovery for IPv6 (RFC 4861).

use std::net::Ipv6Addr;

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::ipv6;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::emit::LinkHeader;
use super::neighbor::{Evidence, News};
use super::{Context, Packet, is_station, link};
use crate::snapshot::Interface;
use crate::verdict::DropReason;

/// A message cannot have been forwarded if it still has all its hops (RFC 4861 11.2).
const HOP_LIMIT: u8 = 255;
/// Bytes of a solicitation or advertisement with one link-layer address option.
const MESSAGE: usize = 32;

impl Context<'_> {
    /// Answers solicitations for our addresses on that link and learns from who asks or answers us.
    pub(super) fn input_nd(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let ip = packet.ipv6().ok_or(DropReason::LocalInvalid)?;
        let (source, destination) = (ip.source(), ip.destination());
        let message = decode(packet, source, destination).ok_or(DropReason::LocalInvalid)?;
        // Somebody else uses our address, or plays our words back.
        if link::ours(self.snapshot, packet.link, source.into()).is_some() {
            return Err(DropReason::LocalInvalid);
        }
        let ours = |target: Ipv6Addr| {
            link::is_ours_here(self.snapshot, packet.interface, packet.link, target.into())
        };
        match message {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                let option = station(packet, lladdr)?;
                if target_addr.is_multicast() || source.is_unspecified() && !is_dad(destination, lladdr) {
                    return Err(DropReason::LocalInvalid);
                }
                if !ours(target_addr) {
                    return Err(DropReason::LocalUnwanted);
                }
                if !source.is_unspecified() {
                    let news = News { mac: option, evidence: Evidence::Question, overrides: true };
                    self.neighbors.learn(self.snapshot, packet.interface, source.into(), news, self.now);
                }
                self.advertise_to(packet, source, target_addr);
                Ok(())
            }
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                let option = station(packet, lladdr)?;
                let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
                if target_addr.is_multicast() || destination.is_multicast() && solicited || ours(target_addr)
                {
                    return Err(DropReason::LocalInvalid);
                }
                let evidence = if solicited { Evidence::Answer } else { Evidence::Announcement };
                let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
                let news = News { mac: option, evidence, overrides };
                let interface = packet.interface;
                let learned =
                    self.neighbors.learn(self.snapshot, interface, target_addr.into(), news, self.now);
                // It may be the answer to another worker's question.
                let wanted = learned || solicited && self.neighbors.is_shared();
                if wanted { Ok(()) } else { Err(DropReason::LocalUnwanted) }
            }
            _ => Err(DropReason::LocalUnwanted),
        }
    }

    /// RFC 4861 7.2.4. Who has no address yet is answered through everybody.
    fn advertise_to(&mut self, packet: &Packet<'_>, asker: Ipv6Addr, ours: Ipv6Addr) {
        let Some(back) = LinkHeader::back(packet) else { return };
        let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
        if asker.is_unspecified() {
            let header = back.to(link::multicast_mac(link::ALL_NODES));
            self.advertise(packet.link, &header, ours, link::ALL_NODES, flags);
        } else {
            self.advertise(packet.link, &back, ours, asker, flags | NdiscNeighborFlags::SOLICITED);
        }
    }

    /// Tells everybody that an address is ours (RFC 4861 7.2.6).
    pub(super) fn announce_nd(&mut self, link: &Interface, ours: Ipv6Addr) {
        let Some(header) = LinkHeader::new(link, link::multicast_mac(link::ALL_NODES), ethernet::IPV6) else {
            return;
        };
        let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
        self.advertise(link, &header, ours, link::ALL_NODES, flags);
    }

    fn advertise(
        &mut self,
        link: &Interface,
        header: &LinkHeader,
        ours: Ipv6Addr,
        to: Ipv6Addr,
        flags: NdiscNeighborFlags,
    ) {
        let advert = NdiscRepr::NeighborAdvert { flags, target_addr: ours, lladdr: Some(option(link.mac)) };
        self.send_nd(link, header, ours, to, advert);
    }

    /// Asks for a neighbour: those that share the end of its address or, if its MAC address is known, itself.
    pub(super) fn ask_nd(&mut self, link: &Interface, address: Ipv6Addr, mac: Option<Mac>) {
        // From the unspecified address it would be a duplicate address detection, and its answer not for us.
        let Some(source) = link::source6(link, address) else { return };
        let destination = if mac.is_some() { address } else { link::solicited_node(address) };
        let to = mac.unwrap_or_else(|| link::multicast_mac(destination));
        let Some(header) = LinkHeader::new(link, to, ethernet::IPV6) else { return };
        let solicit = NdiscRepr::NeighborSolicit { target_addr: address, lladdr: Some(option(link.mac)) };
        self.send_nd(link, &header, source, destination, solicit);
    }

    fn send_nd(
        &mut self,
        link: &Interface,
        header: &LinkHeader,
        from: Ipv6Addr,
        to: Ipv6Addr,
        repr: NdiscRepr<'_>,
    ) {
        let mut message = [0; MESSAGE];
        let mut icmp = Icmpv6Packet::new_unchecked(&mut message[..]);
        Icmpv6Repr::Ndisc(repr).emit(&from, &to, &mut icmp, &ChecksumCapabilities::default());
        let ip = ipv6::Header::new(from, to, ipv6::ICMPV6, HOP_LIMIT, MESSAGE as u16);
        self.originate(link.port, header, &[&ip.0, &message]);
    }
}

/// The message, if it is valid as RFC 4861 7.1.1 and 7.1.2 have it for both kinds: hop limit, checksum, code, lengths.
fn decode<'a>(packet: &Packet<'a>, source: Ipv6Addr, destination: Ipv6Addr) -> Option<NdiscRepr<'a>> {
    let icmp = Icmpv6Packet::new_checked(packet.transport()).ok()?;
    if packet.headers.ttl != HOP_LIMIT || icmp.msg_code() != 0 || source.is_multicast() {
        return None;
    }
    match Icmpv6Repr::parse(&source, &destination, &icmp, &ChecksumCapabilities::default()) {
        Ok(Icmpv6Repr::Ndisc(message)) => Some(message),
        _ => None,
    }
}

/// Whether a solicitation from the unspecified address is as duplicate address detection sends it (RFC 4861 7.1.1).
fn is_dad(destination: Ipv6Addr, lladdr: Option<RawHardwareAddress>) -> bool {
    lladdr.is_none() && destination == link::solicited_node(destination)
}

fn option(mac: Mac) -> RawHardwareAddress {
    EthernetAddress(mac.0).into()
}

/// The MAC address of a link-layer address option, which must be a station's.
fn station(packet: &Packet<'_>, lladdr: Option<RawHardwareAddress>) -> Result<Option<Mac>, DropReason> {
    let Some(lladdr) = lladdr else { return Ok(None) };
    let mac = lladdr.as_bytes().try_into().map(Mac).map_err(|_| DropReason::LocalInvalid)?;
    if is_station(packet.link, mac) { Ok(Some(mac)) } else { Err(DropReason::LocalInvalid) }
}
