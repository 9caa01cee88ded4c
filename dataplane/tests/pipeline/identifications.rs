//! IPv4 identifications of what leaves in fragments from behind NAT.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use sluice_dataplane::snapshot::Snapshot;
use sluice_pkt::ipv4;

use crate::fleet::Fleet;
use crate::lab::{LAN, Lab, POOL, SERVER, WAN, WEB, host, snapshot};
use crate::packets::{Ip, UDP, checksums_are_right, ends, frame, network, udp, udp_segment};

fn one_address() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].addresses = vec![POOL[0]];
    snapshot.sizes.fragments = 1024;
    snapshot
}

fn identification(ip: &[u8]) -> u16 {
    let header = ipv4::Header::at(ip, 0).unwrap();
    assert!(sluice_pkt::checksum::verify_ipv4_header(&ip[..header.header_len()]));
    header.identification()
}

/// A datagram of a host in three fragments.
fn fragments(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> [Vec<u8>; 3] {
    let segment = udp_segment((src, 4000), (dst, 53), &[7; 100]);
    let ip = Ip { id, ..Ip::new(src, dst, UDP) };
    [(0, 48, true), (48, 96, true), (96, segment.len(), false)]
        .map(|(at, end, more)| Ip { fragment: (at as u16, more), ..ip.clone() }.packet(&segment[at..end]))
}

/// Hosts that use the same identification at the same time, behind one address.
///
/// proves: RFC 7857 10
#[test]
fn fragments_of_two_hosts_are_never_taken_for_one_datagram() {
    for workers in [1, 4] {
        let mut fleet = Fleet::new(one_address(), workers);
        let mut seen = HashSet::new();
        for round in 0..20u8 {
            let mut sent = Vec::new();
            for last in 20..30u8 {
                for fragment in fragments(host(last), SERVER, 77 + u16::from(round)) {
                    sent.push(fragment);
                }
            }
            // All first ones, then all others, the last ones first.
            let order = (0..30).step_by(3).chain((2..30).step_by(3)).chain((1..30).step_by(3));
            let mut out: Vec<Vec<u16>> = vec![Vec::new(); 10];
            for at in order {
                fleet.spray(LAN, &frame(LAN, &sent[at]));
                fleet.settle();
                for (port, bytes) in fleet.collect() {
                    assert_eq!(port, WAN);
                    out[at / 3].push(identification(network(&bytes)));
                }
            }
            for ids in out {
                assert_eq!((ids.len(), &ids[1..]), (3, &[ids[0]; 2][..]), "one datagram, one identification");
                assert!(seen.insert(ids[0]), "{} was there before", ids[0]);
            }
        }
        fleet.close();
    }
}

#[test]
fn a_first_fragment_that_comes_twice_has_one_identification() {
    let mut fleet = Fleet::new(one_address(), 4);
    let [first, second, third] = fragments(host(20), SERVER, 77);
    let mut ids = HashSet::new();
    for worker in [0, 3, 1, 2] {
        ids.insert(identification(&fleet.forward_at(worker, LAN, &first).1));
    }
    ids.insert(identification(&fleet.forward_at(2, LAN, &third).1));
    ids.insert(identification(&fleet.forward_at(0, LAN, &second).1));
    // When all have passed, one more copy is no other datagram.
    ids.insert(identification(&fleet.forward_at(1, LAN, &first).1));
    assert_eq!(ids.len(), 1);
    fleet.close();
}

#[test]
fn what_the_gateway_cuts_has_an_identification_of_its_own() {
    let mut snapshot = one_address();
    snapshot.interfaces[WAN].mtu = 600;
    let mut lab = Lab::new(snapshot);
    let mut seen = HashSet::new();
    for last in 20..30 {
        let out = lab.pass(LAN, &udp((host(last), 4000), (SERVER, 53), &[7; 1000]));
        let ids: HashSet<u16> = out.iter().map(|(_, bytes)| identification(network(bytes))).collect();
        assert_eq!((out.len(), ids.len()), (2, 1));
        assert!(seen.is_disjoint(&ids), "they all came with the same");
        seen.extend(ids);
    }
    lab.close();
}

#[test]
fn all_else_keeps_its_identification() {
    let mut lab = Lab::new(one_address());
    // In one piece.
    let (_, out) = lab.forward(
        LAN,
        &Ip { id: 99, ..Ip::new(host(20), SERVER, UDP) }.packet(&udp_segment(
            (host(20), 4000),
            (SERVER, 53),
            b"question",
        )),
    );
    assert_eq!((identification(&out), checksums_are_right(&out)), (99, (true, true)));
    let external = ends(&out).0;
    // In fragments, to the inside: to a mapping, and to a forward.
    for (to, inside) in [(external, (host(20), 4000)), ((POOL[0], 5300), (WEB, 53))] {
        let segment = udp_segment((SERVER, 53), to, &[7; 100]);
        let ip = Ip { id: 98, ..Ip::new(SERVER, to.0, UDP) };
        let (_, first) = lab.forward(WAN, &Ip { fragment: (0, true), ..ip.clone() }.packet(&segment[..48]));
        let (_, last) = lab.forward(WAN, &Ip { fragment: (48, false), ..ip }.packet(&segment[48..]));
        assert_eq!((ends(&first).1, identification(&first), identification(&last)), (inside, 98, 98));
    }
    // In fragments, without NAT.
    for (n, fragment) in fragments(Ipv4Addr::new(172, 16, 0, 9), SERVER, 97).iter().enumerate() {
        assert_eq!(identification(&lab.forward(2, fragment).1), 97, "fragment {n}");
    }
    lab.close();
}
