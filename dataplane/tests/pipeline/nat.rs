//! NAT's behaviour with several workers, whose bindings and sessions are spread over them.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::session::State;
use sluice_dataplane::snapshot::{NatFiltering, Snapshot};
use sluice_dataplane::verdict::DropReason;

use crate::fleet::Fleet;
use crate::lab::{LAN, Lab, POOL, SERVER, WAN, WEB, host, snapshot};
use crate::packets::{ACK, End, RST, SYN, checksums_are_right, ends, error, frame, network, tcp, udp};

const STUN: End = (SERVER, 3478);
const STRANGER: End = (Ipv4Addr::new(198, 51, 100, 99), 4000);

fn with(filtering: NatFiltering) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].behavior.filtering = filtering;
    snapshot
}

/// The external ends of inside hosts, found out as by STUN.
fn externals(fleet: &mut Fleet, count: u8) -> Vec<(End, End)> {
    let hosts = (0..count).map(|n| (host(10 + n), 4000 + u16::from(n)));
    hosts.map(|end| (end, ends(&fleet.forward(LAN, &udp(end, STUN, b"who am I?")).1).0)).collect()
}

/// proves: RFC 4787 REQ-9
/// proves: RFC 4787 REQ-9a
#[test]
fn hosts_reach_each_other_by_their_external_ends_whoever_owns_them() {
    for workers in [1, 2, 4, 7] {
        let mut fleet = Fleet::new(with(NatFiltering::EndpointIndependent), workers);
        let known = externals(&mut fleet, 12);
        for &(from, from_external) in &known {
            for &(to, to_external) in known.iter().filter(|(to, _)| *to != from) {
                for _ in 0..3 {
                    let (port, out) = fleet.forward(LAN, &udp(from, to_external, b"hello"));
                    assert_eq!((port, ends(&out)), (LAN, (from_external, to)));
                    assert_eq!(checksums_are_right(&out), (true, true));
                    let (port, back) = fleet.forward(LAN, &udp(to, from_external, b"hello"));
                    assert_eq!((port, ends(&back)), (LAN, (to_external, from)));
                }
            }
        }
        assert_eq!(fleet.bindings(), 12);
        fleet.close();
    }
}

/// proves: RFC 4787 REQ-8
/// proves: RFC 4787 REQ-9
#[test]
fn two_hosts_punch_holes_whoever_owns_them() {
    for filtering in [NatFiltering::AddressDependent, NatFiltering::AddressAndPortDependent] {
        let mut fleet = Fleet::new(with(filtering), 4);
        let known = externals(&mut fleet, 8);
        for pair in known.chunks(2) {
            let [(a, a_external), (b, b_external)] = pair else { unreachable!() };
            let before = fleet.drops(DropReason::AclDeny);
            fleet.spray(LAN, &frame(LAN, &udp(*a, *b_external, b"opens")));
            fleet.settle();
            assert_eq!((fleet.collect().len(), fleet.drops(DropReason::AclDeny)), (0, before + 1));
            let (_, out) = fleet.forward(LAN, &udp(*b, *a_external, b"comes in"));
            assert_eq!(ends(&out), (*b_external, *a));
            let (_, out) = fleet.forward(LAN, &udp(*a, *b_external, b"so does this"));
            assert_eq!(ends(&out), (*a_external, *b));
        }
        fleet.close();
    }
}

/// proves: RFC 5382 REQ-8
/// proves: RFC 5382 REQ-8a
/// proves: RFC 5508 REQ-7
#[test]
fn a_forward_is_reached_from_inside_and_errors_come_back() {
    for inside in [true, false] {
        let mut snapshot = snapshot();
        // The server may be one that NAT does not translate.
        if !inside {
            snapshot.source_nat[0].from = (2..60).map(|n| (host(n).to_bits(), u32::MAX)).collect();
        }
        let mut fleet = Fleet::new(snapshot, 4);
        let public = (POOL[0], 8080);
        for n in 2..40u8 {
            let client = (host(n), 5000);
            let (_, syn) = fleet.forward(LAN, &tcp(client, public, SYN, b""));
            let (external, web) = ends(&syn);
            assert!(POOL.contains(&external.0) && web == (WEB, 80));
            let (_, refusal) = fleet.forward(LAN, &error(WEB, 3, 3, &syn, 28));
            let quoted = &refusal[28..];
            assert_eq!((ends(quoted), ends(&refusal).1.0), ((client, public), client.0));
            assert_eq!(checksums_are_right(&refusal), (true, true));
            let (_, answer) = fleet.forward(LAN, &tcp(web, external, SYN | ACK, b""));
            assert_eq!(ends(&answer), (public, client));
            fleet.forward(LAN, &tcp(client, public, ACK, b""));
            let (_, too_big) = fleet.forward(LAN, &error(client.0, 3, 4, &answer, 28));
            assert_eq!(ends(&too_big[28..]), (web, external));
        }
        fleet.close();
    }
}

/// proves: RFC 4787 REQ-8
#[test]
fn filters_ask_the_owner_of_the_binding() {
    for (filtering, ways_in) in [
        (NatFiltering::EndpointIndependent, 3),
        (NatFiltering::AddressDependent, 2),
        (NatFiltering::AddressAndPortDependent, 1),
    ] {
        let mut fleet = Fleet::new(with(filtering), 4);
        let known = externals(&mut fleet, 10);
        for &(inside, external) in &known {
            let mut in_at = 0;
            for from in [STUN, (STUN.0, 3479), STRANGER] {
                fleet.spray(WAN, &frame(WAN, &udp(from, external, b"may I?")));
                fleet.settle();
                let out = fleet.collect();
                in_at += out.len();
                let mut arrived = out.iter().map(|(port, frame)| (*port, ends(network(frame))));
                assert!(arrived.all(|arrived| arrived == (LAN, (from, inside))));
                if !out.is_empty() {
                    let (_, answer) = fleet.forward(LAN, &udp(inside, from, b"you may"));
                    assert_eq!(ends(&answer), (external, from));
                }
            }
            assert_eq!(in_at, ways_in, "{filtering:?}");
        }
        fleet.close();
    }
}

/// A TCP segment with this sequence number.
fn segment(from: End, to: End, flags: u8, sequence: u32) -> Vec<u8> {
    let mut packet = tcp(from, to, flags, b"");
    let old = u32::from_be_bytes(packet[24..28].try_into().unwrap());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    let sum = u16::from_be_bytes([packet[36], packet[37]]);
    let sum = sluice_pkt::checksum::Delta::of_u32(old, sequence).apply(sum);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// proves: RFC 7857 2.2
#[test]
fn resets_are_measured_wherever_segments_pass() {
    let mut fleet = Fleet::new(snapshot(), 4);
    let (client, server) = ((host(9), 4000), (SERVER, 443));
    let (_, syn) = fleet.forward(LAN, &segment(client, server, SYN, 100));
    let external = ends(&syn).0;
    assert_eq!(fleet.only_session().1, State::Opening);
    fleet.forward(WAN, &segment(server, external, SYN | ACK, 3_000_000_000));
    assert_eq!(fleet.only_session().1, State::Opening);
    fleet.forward(LAN, &segment(client, server, ACK, 101));
    assert_eq!(fleet.only_session().1, State::Established);
    fleet.forward(WAN, &segment(server, external, RST, 3_500_000_000));
    fleet.forward(LAN, &segment(client, server, RST, 2_000_000_000));
    assert_eq!(fleet.only_session().1, State::Established, "no such segment was due");
    fleet.forward(WAN, &segment(server, external, RST, 3_000_000_001));
    assert_eq!(fleet.only_session().1, State::Closing);
    fleet.close();
}

#[test]
fn sequence_numbers_are_sampled_as_a_connection_goes_on() {
    for workers in [1, 4] {
        let mut fleet = Fleet::new(snapshot(), workers);
        let (client, server) = ((host(9), 4000), (SERVER, 443));
        let external = ends(&fleet.forward_at(0, LAN, &segment(client, server, SYN, 0)).1).0;
        let wan = workers - 1;
        fleet.forward_at(wan, WAN, &segment(server, external, SYN | ACK, 0));
        fleet.forward_at(0, LAN, &segment(client, server, ACK, 1));
        let data = |sequence: u32| {
            let mut packet = tcp(server, external, ACK, &[7; 1400]);
            packet[24..28].copy_from_slice(&sequence.to_be_bytes());
            packet
        };
        // 8 MiB, in some seconds.
        let mut sequence = 1u32;
        for n in 0..6000 {
            fleet.send(wan, WAN, &frame(WAN, &data(sequence)));
            fleet.settle();
            fleet.collect();
            sequence += 1400;
            if n % 500 == 0 {
                fleet.wait(SECOND + SECOND / 2);
            }
        }
        fleet.wait(2 * SECOND);
        // One more packet brings the latest sample; a number of long ago counts no more, one of now does.
        fleet.forward_at(wan, WAN, &data(sequence));
        fleet.forward_at(wan, WAN, &segment(server, external, RST, 1000));
        assert_eq!(fleet.only_session().1, State::Established);
        fleet.forward_at(wan, WAN, &segment(server, external, RST, sequence));
        assert_eq!(fleet.only_session().1, State::Closing);
        fleet.close();
    }
}

/// proves: RFC 5382 REQ-4
#[test]
fn a_syn_that_nobody_waits_for_is_held_where_it_arrived() {
    for workers in [1, 4] {
        let mut snapshot = snapshot();
        snapshot.interfaces[WAN].acl = None;
        let mut fleet = Fleet::new(snapshot, workers);
        let at = fleet.spray(WAN, &frame(WAN, &tcp(STRANGER, (POOL[0], 5000), SYN, b"")));
        fleet.settle();
        assert_eq!((fleet.counters().held, fleet.collect().len()), (1, 0));
        fleet.wait(6 * SECOND - SECOND / 10);
        assert!(fleet.collect().is_empty());
        fleet.wait(SECOND / 10);
        let mut out = fleet.collect_by_worker();
        let (by, (port, refusal)) = out.pop().unwrap();
        assert_eq!((by, port, out.len(), &network(&refusal)[20..22]), (at, WAN, 0, &[3u8, 3][..]));
        assert_eq!((fleet.counters().held, fleet.drops(DropReason::SynUnsolicited)), (0, 1));
        // More than may wait are dropped at once.
        for n in 0..200 {
            fleet.send(0, WAN, &frame(WAN, &tcp(STRANGER, (POOL[0], 5000 + n), SYN, b"")));
            fleet.settle();
        }
        assert_eq!((fleet.counters().held, fleet.drops(DropReason::SynUnsolicited)), (31, 1 + 169));
        fleet.close();
    }
}

/// A connection opened from both sides while the first SYN waits: it is dropped in silence.
///
/// proves: RFC 5382 REQ-4
#[test]
fn the_syn_of_a_connection_that_came_up_dies_in_silence() {
    let mut lab = Lab::new({
        let mut snapshot = snapshot();
        snapshot.interfaces[WAN].acl = None;
        snapshot
    });
    let (client, server) = ((host(9), 4000), (SERVER, 443));
    // The mapping is known by another service.
    let external = ends(&lab.forward(LAN, &tcp(client, (STRANGER.0, 80), SYN, b"")).1).0;
    lab.pass(WAN, &tcp(server, external, SYN, b""));
    assert_eq!(lab.counters().held, 1);
    lab.forward(LAN, &tcp(client, server, SYN, b""));
    lab.wait(6 * SECOND);
    assert_eq!((lab.counters().held, lab.drops(DropReason::SynUnsolicited)), (0, 1));
    assert!(lab.collect().is_empty());
    lab.close();
}
