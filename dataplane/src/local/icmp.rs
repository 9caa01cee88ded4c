//! Ping.

use sluice_pkt::{icmpv4, icmpv6, ipv4, ipv6};

use super::emit::LinkHeader;
use super::{Context, Packet, link};
use crate::verdict::DropReason;

/// Hops that our own packets may make, as IANA recommends.
pub(super) const TTL: u8 = 64;

impl Context<'_> {
    /// Answers echo requests to our addresses; no other type is of use to us. IP options are not brought back.
    pub(super) fn input_icmpv4(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let ip = packet.ipv4().ok_or(DropReason::LocalInvalid)?;
        if !packet.checksum_is_right() || !icmpv4::may_be_told(ip.source()) {
            return Err(DropReason::LocalInvalid);
        }
        let ours = link::ours(self.snapshot, packet.link, ip.destination().into()).is_some();
        if packet.headers.icmp_type != icmpv4::ECHO_REQUEST || !ours || is_group_frame(packet) {
            return Err(DropReason::LocalUnwanted);
        }
        let (request, data) = echo(packet).ok_or(DropReason::LocalInvalid)?;
        let back = LinkHeader::back(packet).ok_or(DropReason::LocalInvalid)?;
        if self.may_echo() {
            let icmp = icmpv4::Header::echo_reply(&icmpv4::Header(request), data);
            let len = (icmpv4::LEN + data.len()) as u16;
            let mut reply = ipv4::Header::new(ip.destination(), ip.source(), ipv4::ICMP, TTL, len);
            // The asker's class of service (RFC 1812 4.3.2.5), but not its congestion marks.
            reply.set_dscp_ecn(ip.dscp_ecn() & 0xfc);
            reply.fill_checksum();
            self.originate(packet.link.port, &back, &[&reply.0, &icmp.0, data]);
        }
        Ok(())
    }

    /// Answers echo requests to our addresses and to all nodes; no other type is of use to us. We solicit no routers, take
    /// no redirects and report no groups.
    pub(super) fn input_icmpv6(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let ip = packet.ipv6().ok_or(DropReason::LocalInvalid)?;
        let (asker, asked) = (ip.source(), ip.destination());
        if !packet.checksum_is_right() || asker.is_multicast() || asker.is_unspecified() {
            return Err(DropReason::LocalInvalid);
        }
        let source = if link::ours(self.snapshot, packet.link, asked.into()).is_some() {
            Some(asked)
        } else if asked == link::ALL_NODES {
            link::source6(packet.link, asker)
        } else {
            None
        };
        let Some(source) = source.filter(|_| packet.headers.icmp_type == icmpv6::ECHO_REQUEST) else {
            return Err(DropReason::LocalUnwanted);
        };
        let (request, data) = echo(packet).ok_or(DropReason::LocalInvalid)?;
        let back = LinkHeader::back(packet).ok_or(DropReason::LocalInvalid)?;
        if self.may_echo() {
            let icmp = icmpv6::Header::echo_reply(source, asker, &icmpv6::Header(request), data);
            let len = (icmpv6::LEN + data.len()) as u16;
            let mut reply = ipv6::Header::new(source, asker, ipv6::ICMPV6, TTL, len);
            reply.set_traffic_class(ip.traffic_class() & 0xfc);
            self.originate(packet.link.port, &back, &[&reply.0, &icmp.0, data]);
        }
        Ok(())
    }

    fn may_echo(&mut self) -> bool {
        let may = self.local.echoes.allow(self.now, 1);
        self.counters.icmp_suppressed += u64::from(!may);
        may
    }
}

/// The first eight bytes of an ICMP message, and the rest.
fn echo<'a>(packet: &Packet<'a>) -> Option<([u8; icmpv4::LEN], &'a [u8])> {
    packet.transport().split_first_chunk().map(|(header, data)| (*header, data))
}

/// Whether the frame was for many stations (RFC 1122 3.3.6: a unicast packet in it is not to be believed).
pub(super) fn is_group_frame(packet: &Packet<'_>) -> bool {
    packet.ethernet().is_none_or(|ethernet| ethernet.destination().is_multicast())
}
