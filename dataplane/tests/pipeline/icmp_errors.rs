//! ICMP errors about packets of live sessions: they go with them, translated, inside and out.

use std::net::Ipv4Addr;

use sluice_dataplane::snapshot::{AclAction, LocalUse, Sizes};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, LAN, Lab, POOL, SERVER, TRUNK, WAN, WAN_DEFAULT, WEB, host, snapshot};
use crate::packets::{self, ACK, End, Ip, SYN, ends, error, frame, icmp_message, network, ping, tcp, udp};

const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
const CLIENT: End = (Ipv4Addr::new(192, 168, 1, 9), 4000);
const SERVICE: End = (SERVER, 53);

/// Source and destination of an error, and the packet that it quotes.
fn parts(ip: &[u8]) -> (Ipv4Addr, Ipv4Addr, &[u8]) {
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    (address(12), address(16), &ip[28..])
}

/// A packet with one hop less.
fn hop(ip: &[u8]) -> Vec<u8> {
    let mut ip = ip.to_vec();
    ip[8] -= 1;
    let sum = u16::from_be_bytes([ip[10], ip[11]]);
    let sum = if sum >= 0xff00 { sum - 0xfeff } else { sum + 0x100 };
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

/// proves: RFC 5508 REQ-4
#[test]
fn an_error_from_outside_quotes_what_the_inside_host_sent() {
    for sent in
        [udp(CLIENT, SERVICE, b"a question"), tcp(CLIENT, SERVICE, SYN, b""), ping(CLIENT.0, SERVER, 4000)]
    {
        for quoted in [28, 40, 548] {
            let mut lab = Lab::new(snapshot());
            let (_, outside) = lab.forward(LAN, &sent);
            assert!(POOL.contains(&ends(&outside).0.0));
            let (port, inside) = lab.forward(WAN, &error(ROUTER, 3, 1, &outside, quoted));
            let (src, dst, quotation) = parts(&inside);
            assert_eq!((port, src, dst), (LAN, ROUTER, CLIENT.0));
            let expected = hop(&sent);
            assert_eq!(quotation, &expected[..quoted.min(expected.len())]);
            assert_eq!(packets::checksums_are_right(&inside), (true, true));
            lab.close();
        }
    }
}

/// proves: RFC 5508 REQ-5
#[test]
fn an_error_from_inside_quotes_what_the_outside_host_sent() {
    let mut lab = Lab::new(snapshot());
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, b"a question"));
    let reply = udp(SERVICE, ends(&outside).0, b"an answer");
    let (_, inside) = lab.forward(WAN, &reply);
    let (port, told) = lab.forward(LAN, &error(CLIENT.0, 3, 3, &inside, 548));
    assert_eq!((port, parts(&told)), (WAN, (ends(&outside).0.0, SERVER, &hop(&reply)[..])));
    // An inside router on the way is hidden behind the session's address.
    let (_, told) = lab.forward(LAN, &error(host(254), 11, 0, &inside, 28));
    assert_eq!(parts(&told), (ends(&outside).0.0, SERVER, &hop(&reply)[..28]));
    assert_eq!(packets::checksums_are_right(&told), (true, true));

    let request = tcp((SERVER, 5555), (POOL[0], 8081), SYN, b"");
    let (port, inside) = lab.forward(WAN, &request);
    assert_eq!((port, ends(&inside).1), (LAN, (WEB, 81)));
    let (_, told) = lab.forward(LAN, &error(WEB, 3, 3, &inside, 548));
    assert_eq!(parts(&told), (POOL[0], SERVER, &hop(&request)[..]));
    assert_eq!(packets::checksums_are_right(&told), (true, true));
    lab.close();
}

/// proves: RFC 5508 REQ-3
#[test]
fn an_error_with_a_wrong_checksum_is_not_translated() {
    let mut lab = Lab::new(snapshot());
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, b"a question"));
    let mut damaged = error(ROUTER, 3, 1, &outside, 548);
    *damaged.last_mut().unwrap() ^= 0x10;
    assert_eq!(lab.dropped(WAN, &damaged), DropReason::IcmpChecksum);
    lab.close();
}

#[test]
fn the_first_fragment_of_an_error_keeps_the_checksum_of_the_whole() {
    let mut lab = Lab::new(snapshot());
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, &[7; 100]));
    let whole = error(ROUTER, 3, 1, &outside, 548);
    let (_, expected) = lab.forward(WAN, &whole);
    let first = Ip { fragment: (0, true), ..Ip::new(ROUTER, ends(&outside).0.0, 1) };
    let (_, inside) = lab.forward(WAN, &first.packet(&whole[20..100]));
    assert_eq!(inside[20..], expected[20..100]);
    lab.close();
}

#[test]
fn an_error_that_waits_for_a_neighbour_leaves_translated() {
    let mut snapshot = snapshot();
    snapshot.ports[LAN].invent_neighbors = false;
    let mut lab = Lab::new(snapshot);
    lab.poll();
    lab.collect();
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, b"a question"));
    lab.send(WAN, &frame(WAN, &error(ROUTER, 3, 1, &outside, 548)));
    lab.poll();
    lab.wait(1);
    let requests = lab.collect();
    assert_eq!(lab.counters().held, 1);
    let answers = lab.arp_answers(&requests);
    for (port, answer) in &answers {
        lab.send(*port, answer);
    }
    lab.poll();
    lab.wait(1);
    let out = lab.collect();
    assert_eq!((lab.counters().held, out.len()), (0, 1), "{:?}", lab.counters().drops);
    let (src, dst, quotation) = parts(network(&out[0].1));
    assert_eq!((src, dst, quotation), (ROUTER, CLIENT.0, &hop(&udp(CLIENT, SERVICE, b"a question"))[..]));
    lab.close();
}

/// A next hop was evicted in the same burst: the error must not go where an action without addresses would lead.
#[test]
fn an_error_goes_to_its_host_though_neighbours_change_meanwhile() {
    let mut snapshot = snapshot();
    snapshot.sizes.neighbors = 8;
    let mut lab = Lab::new(snapshot);
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, b"a question"));
    for last in 100..110 {
        lab.now += 1;
        let probe = udp((Ipv4Addr::new(203, 0, 113, last), 9), CLIENT, b"");
        lab.send(WAN, &frame(WAN, &error(ROUTER, 3, 1, &outside, 548)));
        lab.send(WAN, &frame(WAN, &probe));
        lab.send(WAN, &frame(WAN, &ping(ROUTER, Ipv4Addr::new(172, 16, 0, last), 1)));
        lab.poll();
        let out = lab.collect();
        let errors: Vec<_> = out.iter().filter(|(_, f)| network(f)[20] == 3).collect();
        assert!(errors.len() == 1 && errors[0].0 == LAN, "{out:?}");
        assert_eq!(errors[0].1[..6], [2, 0, 192, 168, 1, 9]);
    }
    lab.close();
}

/// RFC 792: an error goes to the source of the packet that it is about. Otherwise a quotation of any live session would
/// let a packet to anybody pass the ACL.
#[test]
fn an_error_to_another_than_the_quoted_sender_belongs_to_no_session() {
    let mut lab = Lab::new(snapshot());
    let dmz = Ipv4Addr::new(172, 16, 0, 5);
    // A session without NAT: what is quoted are addresses that can be routed to.
    let (port, sent) = lab.forward(TRUNK, &udp((dmz, 4000), SERVICE, b"a question"));
    assert_eq!((port, ends(&sent).0), (WAN, (dmz, 4000)));
    for victim in [Ipv4Addr::new(172, 16, 0, 6), host(7), GATEWAY_LAN] {
        let forged = packets::icmp(ROUTER, victim, 3, 1, [0; 4], &sent);
        assert_eq!(lab.dropped(WAN, &forged), DropReason::AclDeny, "{victim}");
    }
    let (port, inside) = lab.forward(WAN, &error(ROUTER, 3, 1, &sent, 548));
    assert_eq!((port, parts(&inside)), (TRUNK, (ROUTER, dmz, &sent[..])));
    lab.close();
}

#[test]
fn an_error_about_no_session_is_dropped_by_its_reason() {
    let mut snapshot = snapshot();
    snapshot.rules[WAN_DEFAULT].action = AclAction::Accept;
    let mut lab = Lab::new(snapshot);
    let stray = udp((SERVER, 53), (host(9), 4000), b"never seen");
    assert_eq!(lab.dropped(LAN, &error(host(9), 3, 3, &stray, 548)), DropReason::IcmpNoSession);
    let stray = udp((POOL[0], 4000), SERVICE, b"never seen");
    assert_eq!(lab.dropped(WAN, &error(ROUTER, 3, 1, &stray, 548)), DropReason::NatNoSession);
    // A quotation whose header was damaged on the way is no evidence (RFC 5508 REQ-3).
    let (_, outside) = lab.forward(LAN, &udp(CLIENT, SERVICE, b"a question"));
    let mut damaged = outside.clone();
    damaged[4] ^= 1;
    assert_eq!(lab.dropped(WAN, &error(ROUTER, 3, 1, &damaged, 548)), DropReason::NatNoSession);
    // One that is cut off before the ports is none either.
    assert_eq!(lab.dropped(WAN, &error(ROUTER, 3, 1, &outside, 27)), DropReason::NatNoSession);
    lab.close();
}

/// RFC 5508 REQ-6: an error neither makes a session nor keeps it alive.
///
/// proves: RFC 5508 REQ-6
/// proves: RFC 4787 REQ-12
/// proves: RFC 5382 REQ-10
#[test]
fn errors_do_not_refresh_a_session() {
    use sluice_dataplane::clock::SECOND;
    let mut lab = Lab::new(snapshot());
    let (_, outside) = lab.forward(LAN, &ping(CLIENT.0, SERVER, 4000));
    for _ in 0..6 {
        lab.wait(10 * SECOND);
        lab.forward(WAN, &error(ROUTER, 3, 1, &outside, 548));
    }
    lab.wait(2 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 0);
    assert_eq!(lab.dropped(WAN, &error(ROUTER, 3, 1, &outside, 548)), DropReason::AclDeny);
    lab.close();
}

#[test]
fn mangled_quotations_change_nothing_else() {
    let mut lab = Lab::new(snapshot());
    let (_, outside) = lab.forward(LAN, &tcp(CLIENT, SERVICE, SYN | ACK, &[3; 40]));
    for at in 0..outside.len() {
        for bit in 0..8 {
            let mut quoted = outside.clone();
            quoted[at] ^= 1 << bit;
            lab.pass(WAN, &packets::icmp(ROUTER, ends(&outside).0.0, 3, 1, [0; 4], &quoted));
        }
        let message = icmp_message(3, 1, [0; 4], &outside);
        let cut = Ip::new(ROUTER, ends(&outside).0.0, 1).packet(&message[..at.min(message.len())]);
        lab.pass(WAN, &cut);
    }
    assert_eq!(lab.worker.shard().sessions.live(), 1);
    lab.close();
}

#[test]
fn an_error_to_the_gateway_stays_with_it() {
    let mut snapshot = snapshot();
    snapshot.sizes = Sizes { sessions: 4, ..snapshot.sizes };
    snapshot.rules[WAN_DEFAULT].action = AclAction::Accept;
    assert_eq!(snapshot.local4[&GATEWAY_LAN].1, LocalUse::Interface);
    let mut lab = Lab::new(snapshot);
    let stray = udp((GATEWAY_LAN, 1), SERVICE, b"");
    assert_eq!(lab.dropped(WAN, &error(ROUTER, 3, 1, &stray, 548)), DropReason::LocalUnwanted);
    lab.close();
}
