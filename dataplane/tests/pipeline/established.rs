//! What `established` means: a live session's packets, the replies above all.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{AclAction, NatFiltering, Snapshot};
use sluice_dataplane::table::classifier::Classifier;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{
    LAN, LAN_DEFAULT, Lab, POOL, SERVER, WAN, WAN_DEFAULT, WAN_ESTABLISHED, WAN_WEB, WEB, any, host, snapshot,
};
use crate::packets::{ACK, RST, SYN, ends, error, network, ping, pong, tcp, udp};

fn hits(lab: &Lab, rule: usize) -> u64 {
    lab.worker.shard().counters.rules[rule].packets
}

#[test]
fn replies_are_counted_at_the_rule_of_the_interface_that_they_come_in_by() {
    let mut lab = Lab::new(snapshot());
    let (inside, server) = ((host(9), 4000), (SERVER, 53));
    let (_, out) = lab.forward(LAN, &udp(inside, server, b"question"));
    assert_eq!((hits(&lab, LAN_DEFAULT), hits(&lab, WAN_ESTABLISHED)), (1, 0));
    for n in 1..=3 {
        lab.forward(WAN, &udp(server, ends(&out).0, b"answer"));
        assert_eq!((hits(&lab, LAN_DEFAULT), hits(&lab, WAN_ESTABLISHED)), (1, n));
    }
    // A forward's replies are asked about at the lan, which has no such rule and need not.
    let (_, inside) = lab.forward(WAN, &tcp((SERVER, 7), (POOL[0], 8080), SYN, b""));
    lab.forward(LAN, &tcp(ends(&inside).1, ends(&inside).0, SYN | ACK, b""));
    assert_eq!((hits(&lab, WAN_WEB), hits(&lab, LAN_DEFAULT), ends(&inside).1.0), (1, 2, WEB));
    lab.close();
}

fn without_established(action: AclAction) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.acls[1].v4 = Classifier::new(vec![]);
    snapshot.rules[WAN_DEFAULT].action = action;
    snapshot
}

#[test]
fn without_a_rule_for_them_replies_are_dropped_at_the_rule_that_says_so() {
    let mut lab = Lab::new(without_established(AclAction::Drop));
    let (inside, server) = ((host(9), 4000), (SERVER, 443));
    let (_, out) = lab.forward(LAN, &tcp(inside, server, SYN, b""));
    for n in 1..=3 {
        let reply = tcp(server, ends(&out).0, SYN | ACK, b"");
        assert_eq!((lab.dropped(WAN, &reply), hits(&lab, WAN_DEFAULT)), (DropReason::AclDeny, n));
        lab.wait(100 * SECOND);
    }
    // What is denied keeps no session alive, and neither do errors about it.
    assert_eq!(lab.worker.shard().sessions.live(), 0);
    let (_, out) = lab.forward(LAN, &tcp(inside, server, SYN, b""));
    assert_eq!(lab.dropped(WAN, &error(SERVER, 3, 3, &out, 60)), DropReason::AclDeny);
    assert_eq!((hits(&lab, WAN_DEFAULT), lab.collect().len()), (4, 0));
    lab.close();
}

#[test]
fn rejected_replies_tell_their_sender() {
    let mut lab = Lab::new(without_established(AclAction::Reject));
    let (_, out) = lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
    let reply = udp((SERVER, 53), ends(&out).0, b"answer");
    assert_eq!(lab.dropped(WAN, &reply), DropReason::AclDeny);
    let told = lab.collect();
    assert_eq!((told.len(), told[0].0), (1, WAN));
    assert_eq!((&network(&told[0].1)[20..22], &network(&told[0].1)[28..]), (&[3, 13][..], &reply[..]));
    lab.close();
}

#[test]
fn only_the_very_peer_is_established() {
    let mut snapshot = snapshot();
    snapshot.pools[0].behavior.filtering = NatFiltering::AddressAndPortDependent;
    let mut lab = Lab::new(snapshot);
    let (_, out) = lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
    let (external, _) = ends(&out);
    let stranger = Ipv4Addr::new(198, 51, 100, 8);
    for packet in [
        udp((stranger, 53), external, b"answer"),
        udp((SERVER, 54), external, b"answer"),
        udp((SERVER, 53), (external.0, external.1 ^ 1), b"answer"),
        tcp((SERVER, 53), external, ACK, b"answer"),
        tcp((SERVER, 53), external, RST, b""),
    ] {
        assert_eq!(lab.dropped(WAN, &packet), DropReason::AclDeny);
    }
    let (_, echo) = lab.forward(LAN, &ping(host(9), SERVER, 77));
    let id = ends(&echo).0.1;
    assert_eq!(lab.dropped(WAN, &pong(SERVER, external.0, id ^ 1)), DropReason::AclDeny);
    assert_eq!(lab.dropped(WAN, &pong(stranger, external.0, id)), DropReason::AclDeny);
    lab.forward(WAN, &pong(SERVER, ends(&echo).0.0, id));
    lab.close();
}

#[test]
fn a_packet_that_opens_is_never_established() {
    let mut snapshot = snapshot();
    let mut established = any(WAN_ESTABLISHED);
    established.established = Some(true);
    snapshot.acls[0].v4 = Classifier::new(vec![established]);
    snapshot.acls[0].default = 0;
    let mut lab = Lab::new(snapshot);
    assert_eq!(lab.dropped(LAN, &udp((host(9), 4000), (SERVER, 53), b"question")), DropReason::AclDeny);
    // But the reply to what came in from outside is.
    let (_, inside) = lab.forward(WAN, &udp((SERVER, 7), (POOL[0], 5300), b"question"));
    lab.forward(LAN, &udp(ends(&inside).1, ends(&inside).0, b"answer"));
    assert_eq!(hits(&lab, WAN_ESTABLISHED), 1);
    lab.close();
}
