//! Parse: bytes to headers; which interface a frame came in by; frames that are not for us.
//!
//! Exits: `live` IP packets with headers and interface; ARP to the gateway itself; drops.

use sluice_pkt::checksum::complete_partial;
use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::ipv6;
use sluice_pkt::parse::{Flags, Headers, L3, parse};

use crate::burst::Burst;
use crate::snapshot::{PortConfig, Snapshot, Tags};
use crate::verdict::{DropReason, Verdict};

/// Runs the stage.
pub fn run(burst: &mut Burst, snapshot: &Snapshot) {
    let Some(port) = snapshot.ports.get(usize::from(burst.port)) else {
        return burst.live.for_each(|i| burst.drop(i, DropReason::VlanUnknown));
    };
    for i in burst.live {
        match parse(burst.bytes(i)) {
            Ok(headers) => burst.headers[i] = headers,
            Err(error) => {
                burst.drop(i, error.into());
                continue;
            }
        }
        match admit(burst.bytes(i), &burst.headers[i], burst.port, port, snapshot) {
            Ok(interface) => {
                burst.interfaces[i] = interface;
                let headers = burst.headers[i];
                if headers.l3 == L3::Arp {
                    burst.decide(i, Verdict::Local);
                } else if port.complete_checksums {
                    complete_partial(burst.bytes_mut(i), &headers);
                }
            }
            Err(reason) => burst.drop(i, reason),
        }
    }
}

/// The interface that a frame came in by, if it may come in.
#[inline(always)]
fn admit(
    bytes: &[u8],
    headers: &Headers,
    index: u16,
    port: &PortConfig,
    snapshot: &Snapshot,
) -> Result<u16, DropReason> {
    let interface = snapshot.interface_of(index, tags(headers)).ok_or(DropReason::VlanUnknown)?;
    let frame = ethernet::Header::at(bytes, 0).ok_or(DropReason::Runt)?;
    let destination = frame.destination();
    let group = destination.is_multicast();
    if !group && !port.any_mac && destination != our_mac(snapshot, interface) {
        return Err(DropReason::NotOurMac);
    }
    if headers.l3 == L3::Other {
        return Err(DropReason::EtherTypeUnknown);
    }
    if frame.source().is_multicast() {
        return Err(DropReason::SourceInvalid);
    }
    if headers.flags.has(Flags::SOURCE_ROUTE) {
        return Err(DropReason::SourceRoute);
    }
    // RFC 1812 5.3.4: a link-layer broadcast is no way to have a unicast packet forwarded.
    if group && headers.l3 != L3::Arp && !is_for_group(bytes, headers) {
        return Err(DropReason::Multicast);
    }
    Ok(interface)
}

#[inline]
fn our_mac(snapshot: &Snapshot, interface: u16) -> Mac {
    snapshot.interfaces.get(usize::from(interface)).map_or(Mac::default(), |i| i.mac)
}

/// The tags that tell interfaces apart: a priority tag (VLAN id 0, IEEE 802.1Q 6.9.1) is none.
#[inline]
fn tags(headers: &Headers) -> Tags {
    if headers.tags == 0 {
        return Tags::default();
    }
    let mut tags = Tags::default();
    for &tci in headers.tci.iter().take(headers.tags.into()) {
        let id = tci & 0x0fff;
        if id != 0
            && let Some(slot) = tags.ids.get_mut(usize::from(tags.count))
        {
            *slot = id;
            tags.count += 1;
        }
    }
    tags
}

/// Whether the packet is for an IPv6 group, to which neighbour discovery speaks. No packet to an IPv4 group is of use.
fn is_for_group(bytes: &[u8], headers: &Headers) -> bool {
    headers.l3 == L3::Ipv6
        && ipv6::Header::at(bytes, headers.l3_offset.into()).is_some_and(|ip| ip.destination().is_multicast())
}
