//! ARP (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::{arp, icmpv4};

use super::emit::LinkHeader;
use super::neighbor::{Evidence, News};
use super::{Context, Packet, is_station, link};
use crate::snapshot::Interface;
use crate::verdict::DropReason;

impl Context<'_> {
    /// Answers requests for our addresses on that link, and learns from who asks or answers us. What others say of
    /// themselves to all changes only what we know already.
    pub(super) fn input_arp(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let arp = arp::Header::at(packet.bytes, packet.headers.l3_offset.into());
        let arp = arp.ok_or(DropReason::LocalInvalid)?;
        let (mac, sender, target) = (arp.sender_mac(), arp.sender_address(), arp.target_address());
        let is_probe = sender.is_unspecified();
        if !is_station(packet.link, mac) || !is_probe && !icmpv4::may_be_told(sender) {
            return Err(DropReason::LocalInvalid);
        }
        // Somebody else uses our address, or plays our words back.
        if link::ours(self.snapshot, packet.link, sender.into()).is_some() {
            return Err(DropReason::LocalInvalid);
        }
        let for_us = link::is_ours_here(self.snapshot, packet.interface, packet.link, target.into());
        let evidence = match arp.operation() {
            arp::REQUEST if for_us => {
                self.reply_arp(packet, mac, sender, target);
                Evidence::Question
            }
            arp::REPLY if for_us => Evidence::Answer,
            arp::REQUEST | arp::REPLY if sender == target => Evidence::Announcement,
            _ => return Err(DropReason::LocalUnwanted),
        };
        let news = News { mac: Some(mac), evidence, overrides: true };
        let learned =
            !is_probe && self.neighbors.learn(self.snapshot, packet.interface, sender.into(), news, self.now);
        if for_us || learned { Ok(()) } else { Err(DropReason::LocalUnwanted) }
    }

    fn reply_arp(&mut self, packet: &Packet<'_>, asker_mac: Mac, asker: Ipv4Addr, ours: Ipv4Addr) {
        let Some(back) = LinkHeader::back(packet) else { return };
        let reply = arp::Header::reply(packet.link.mac, ours, asker_mac, asker);
        self.originate(packet.link.port, &back, &[&reply.0]);
    }

    /// Asks for a neighbour: everybody or, if its MAC address is known, itself (RFC 1122 2.3.2.1, unicast poll).
    pub(super) fn ask_arp(&mut self, link: &Interface, address: Ipv4Addr, mac: Option<Mac>) {
        // Without an address of our own it is an RFC 5227 probe, which gets its answer just so.
        let source = link::source4(link, address).unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.request_arp(link, mac.unwrap_or(Mac::BROADCAST), source, address);
    }

    /// Tells everybody that an address is ours (RFC 5227 3).
    pub(super) fn announce_arp(&mut self, link: &Interface, ours: Ipv4Addr) {
        self.request_arp(link, Mac::BROADCAST, ours, ours);
    }

    fn request_arp(&mut self, link: &Interface, to: Mac, source: Ipv4Addr, target: Ipv4Addr) {
        let Some(header) = LinkHeader::new(link, to, ethernet::ARP) else { return };
        let request = arp::Header::request(link.mac, source, target);
        self.originate(link.port, &header, &[&request.0]);
    }
}
