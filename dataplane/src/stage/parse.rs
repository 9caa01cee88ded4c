//! Parse: bytes to headers; which interface a frame came in by; frames that are not for us.
//!
//! Exits: `live` IP packets with headers and interface; ARP to the gateway itself; drops.

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::ipv6;
use sluice_pkt::parse::{Flags, Headers, L3};

use crate::burst::Burst;
use crate::snapshot::{PortConfig, Snapshot, Tags};
use crate::verdict::{DropReason, Verdict};

/// Runs the stage.
pub fn run(burst: &mut Burst, snapshot: &Snapshot) {
    let device = snapshot.physical(burst.port);
    let Some(port) = snapshot.ports.get(usize::from(device)) else {
        return burst.live.for_each(|i| burst.drop(i, DropReason::VlanUnknown));
    };
    // Nearly all frames are untagged and for the MAC address of the port's own interface.
    let untagged = snapshot.interface_of(device, Tags::default());
    let (usual, ours) = untagged.map_or((0, None), |i| (i, Some(our_mac(snapshot, i))));
    for i in burst.live {
        if let Err(error) = burst.parse(i) {
            burst.drop(i, error.into());
            continue;
        }
        burst.interfaces[i] = usual;
        let headers = &burst.headers[i];
        let plain = headers.tags == 0 && matches!(headers.l3, L3::Ipv4 | L3::Ipv6);
        if !plain
            || headers.flags.has(Flags::SOURCE_ROUTE)
            || ours.is_none_or(|ours| !between_stations(burst.bytes(i), ours))
        {
            unusual(burst, i, port, untagged, snapshot);
        }
    }
    if port.complete_checksums {
        for i in burst.live {
            burst.complete_checksum(i);
        }
    }
}

/// Whether a frame is from one station to that with this MAC address.
#[inline(always)]
fn between_stations(bytes: &[u8], ours: Mac) -> bool {
    let [a, b, c, d, e, f] = ours.0;
    bytes.first_chunk().is_some_and(|&start| {
        // Six bytes of destination, and the first of the source with its group bit.
        (u64::from_be_bytes(start) ^ u64::from_be_bytes([a, b, c, d, e, f, 0, 0])) & !0xfeff == 0
    })
}

/// Frames with tags, for groups, for other stations, ARP, and what no gateway takes.
#[inline(never)]
fn unusual(burst: &mut Burst, i: usize, port: &PortConfig, untagged: Option<u16>, snapshot: &Snapshot) {
    let headers = &burst.headers[i];
    let interface = match headers.tags {
        0 => untagged,
        _ => snapshot.interface_of(snapshot.physical(burst.port), tags(headers)),
    };
    let admitted = interface.ok_or(DropReason::VlanUnknown).and_then(|interface| {
        admit(burst.bytes(i), headers, port, our_mac(snapshot, interface)).map(|()| interface)
    });
    match admitted {
        Ok(interface) => {
            burst.interfaces[i] = interface;
            if burst.headers[i].l3 == L3::Arp {
                burst.decide(i, Verdict::Local);
            }
        }
        Err(reason) => burst.drop(i, reason),
    }
}

/// Whether a frame may come in by an interface with this MAC address.
fn admit(bytes: &[u8], headers: &Headers, port: &PortConfig, ours: Mac) -> Result<(), DropReason> {
    let frame = ethernet::Header::at(bytes, 0).ok_or(DropReason::Runt)?;
    let destination = frame.destination();
    let group = destination.is_multicast();
    if !group && !port.any_mac && destination != ours {
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
    Ok(())
}

#[inline]
fn our_mac(snapshot: &Snapshot, interface: u16) -> Mac {
    snapshot.interfaces.get(usize::from(interface)).map_or(Mac::default(), |i| i.mac)
}

/// The tags that tell interfaces apart: a priority tag (VLAN id 0, IEEE 802.1Q 6.9.1) is none.
#[inline]
pub(super) fn tags(headers: &Headers) -> Tags {
    if headers.tags == 0 {
        return Tags::default();
    }
    let mut tags = Tags::default();
    for &tci in headers.tci.iter().take(headers.tags.into()) {
        let id = tci & 0x0fff;
        if id != 0 {
            if let Some(slot) = tags.ids.get_mut(usize::from(tags.count)) {
                *slot = id;
                tags.count += 1;
            }
        }
    }
    tags
}

/// Whether the packet is for an IPv6 group, to which neighbour discovery speaks. No packet to an IPv4 group is of use.
fn is_for_group(bytes: &[u8], headers: &Headers) -> bool {
    headers.l3 == L3::Ipv6
        && ipv6::Header::at(bytes, headers.l3_offset.into()).is_some_and(|ip| ip.destination().is_multicast())
}
