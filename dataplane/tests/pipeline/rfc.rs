//! Requirements of the NAT RFCs that no other test is about.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{NatFiltering, Snapshot};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, POOL, SERVER, WAN, host, snapshot};
use crate::packets::{
    End, Ip, SYN, UDP, checksums_are_right, ends, error, ping, pong, tcp, udp, udp_segment,
};

const CLIENT: End = (Ipv4Addr::new(192, 168, 1, 9), 4000);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

fn narrow(ports: (u16, u16)) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.interfaces[WAN].acl = None;
    snapshot.pools[0].addresses = vec![POOL[0]];
    snapshot.pools[0].ports = ports;
    snapshot
}

/// Mapping and filtering are the same where the port could be kept, where it could not, and where hardly a port is left.
///
/// proves: RFC 4787 REQ-11
#[test]
fn mapping_and_filtering_do_not_change_with_circumstances() {
    for filtering in [NatFiltering::EndpointIndependent, NatFiltering::AddressDependent] {
        for others in [0u8, 1, 62] {
            let mut snapshot = narrow((4000, 4063));
            snapshot.pools[0].behavior.filtering = filtering;
            let mut lab = Lab::new(snapshot);
            for n in 0..others {
                lab.forward(LAN, &udp((host(20 + n), 4000 + u16::from(n)), (SERVER, 53), b"mine"));
            }
            let (_, out) = lab.forward(LAN, &udp(CLIENT, (SERVER, 53), b"question"));
            let external = ends(&out).0;
            assert_eq!(external.1 == 4000, others == 0);
            let (_, out) = lab.forward(LAN, &udp(CLIENT, (STRANGER, 9), b"question"));
            assert_eq!(ends(&out).0, external, "the mapping does not depend on the remote end");
            let (_, back) = lab.forward(WAN, &udp((SERVER, 54), external, b"from another port"));
            assert_eq!(ends(&back).1, CLIENT);
            let unknown = udp((ROUTER, 9), external, b"from another address");
            match filtering {
                NatFiltering::EndpointIndependent => assert_eq!(lab.forward(WAN, &unknown).0, LAN),
                _ => assert_eq!(lab.dropped(WAN, &unknown), DropReason::NatFiltered),
            }
            lab.close();
        }
    }
}

/// proves: RFC 4787 REQ-5c
#[test]
fn a_udp_mapping_lives_five_minutes_by_default() {
    let mut lab = Lab::new(snapshot());
    lab.forward(LAN, &udp(CLIENT, (SERVER, 53), b"question"));
    lab.wait(299 * SECOND);
    assert_eq!(lab.worker.shard().nat.live(), 1);
    lab.wait(2 * SECOND);
    assert_eq!(lab.worker.shard().nat.live(), 0);
    lab.close();
}

/// proves: RFC 5508 REQ-2
/// proves: RFC 7857 11
#[test]
fn a_query_can_be_answered_for_a_minute_by_default() {
    let mut lab = Lab::new(snapshot());
    let (_, out) = lab.forward(LAN, &ping(CLIENT.0, SERVER, 7));
    let (external, identifier) = ends(&out).0;
    lab.wait(59 * SECOND);
    assert_eq!(ends(&lab.forward(WAN, &pong(SERVER, external, identifier)).1).1, (CLIENT.0, 7));
    lab.wait(3 * SECOND);
    assert_eq!((lab.worker.shard().sessions.live(), lab.worker.shard().nat.live()), (0, 0));
    lab.close();
}

/// proves: RFC 5508 REQ-3b
#[test]
fn options_of_a_quoted_header_are_stepped_over() {
    let mut lab = Lab::new(snapshot());
    let service = (SERVER, 53);
    let ip = Ip { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..Ip::new(CLIENT.0, SERVER, UDP) };
    let sent = ip.packet(&udp_segment(CLIENT, service, b"a question"));
    let (_, out) = lab.forward(LAN, &sent);
    assert_eq!(out[0], 0x47, "the options leave with it");
    let (port, told) = lab.forward(WAN, &error(ROUTER, 3, 3, &out, 548));
    assert_eq!((port, &told[16..20]), (LAN, &CLIENT.0.octets()[..]));
    assert_eq!(checksums_are_right(&told), (true, true));
    let quoted = &told[28..];
    assert_eq!((&quoted[12..20], &quoted[20..]), (&sent[12..20], &sent[20..]), "as it was sent");
    lab.close();
}

/// TCP and UDP of one port are two mappings; each is endpoint-independent, whatever the other is.
///
/// proves: RFC 7857 5
#[test]
fn protocols_have_mappings_apart() {
    let mut lab = Lab::new(narrow((4000, 4003)));
    // Somebody has the port for TCP.
    lab.forward(LAN, &tcp((host(20), 4000), (SERVER, 80), SYN, b""));
    let (_, out) = lab.forward(LAN, &udp(CLIENT, (SERVER, 53), b"question"));
    let by_udp = ends(&out).0;
    let (_, out) = lab.forward(LAN, &tcp(CLIENT, (SERVER, 80), SYN, b""));
    let by_tcp = ends(&out).0;
    assert_eq!((by_udp, by_tcp.0), ((POOL[0], 4000), POOL[0]));
    assert_ne!(by_tcp.1, 4000);
    let (_, out) = lab.forward(LAN, &udp(CLIENT, (STRANGER, 9), b"question"));
    assert_eq!(ends(&out).0, by_udp);
    let (_, out) = lab.forward(LAN, &tcp(CLIENT, (STRANGER, 9), SYN, b""));
    assert_eq!(ends(&out).0, by_tcp);
    lab.close();
}
