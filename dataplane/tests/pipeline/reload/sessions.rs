//! What rules, routes and limits of another configuration do to sessions.

use std::net::Ipv6Addr;
use std::sync::Arc;

use sluice_dataplane::clock::MILLISECOND;
use sluice_dataplane::snapshot::lists::PrefixSets;
use sluice_dataplane::snapshot::{
    AclAction, ColorAction, Guard, Lists, NatFiltering, Per, Policer, ReversePath, Route, RuleInfo, Snapshot,
};
use sluice_dataplane::table::classifier::{Classifier, PortRange, Rule};
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::verdict::DropReason;

use super::{Reloading, STRANGER, kept, settled};
use crate::lab::{
    HOST6, LAN, LAN_DEFAULT, LAN_SMTP, POOL, SERVER, SERVER6, TRUNK, WAN, WAN_DEFAULT, WAN_ESTABLISHED,
    WAN_WEB, any, host,
};
use crate::packets::{ACK, SYN, UDP, ends, error, frame, network, tcp, udp, udp6};

#[test]
fn the_same_configuration_again_ends_nothing() {
    let mut gateway = Reloading::new();
    let mut mapped = Vec::new();
    for last in 2..=101 {
        mapped.push(gateway.say(LAN, (host(last), 4000), (SERVER, 53)));
        gateway.say(LAN, (host(last), 4000), (STRANGER, 53));
    }
    gateway.lab.forward(WAN, &udp((SERVER, 7), (POOL[0], 5300), b"question"));
    gateway.lab.forward(LAN, &udp6((HOST6, 1), (SERVER6, 2), b"question"));
    for _ in 0..20 {
        assert_eq!(gateway.reload(|_| ()), kept(202));
        for (last, mapped) in (2..=101).zip(&mapped) {
            assert_eq!(gateway.say(LAN, (host(last), 4000), (SERVER, 53)), *mapped);
            let (external, server) = mapped.1;
            assert_eq!(gateway.say(WAN, server, external), (LAN, (server, (host(last), 4000))));
        }
    }
    assert_eq!((gateway.live(), gateway.bindings(), gateway.ended_by_policy()), (202, 100, 0));
    assert_eq!(gateway.lab.counters().sessions_created, 202);
    gateway.lab.close();
}

/// The lan's rules, with one ahead of them that drops this port.
fn deny(snapshot: &mut Snapshot, port: u16) {
    let rule =
        RuleInfo { acl: "acl".into(), name: "deny".into(), text: "udp".into(), action: AclAction::Drop };
    // All others have other indices from now on.
    snapshot.rules.insert(0, rule);
    for acl in &mut snapshot.acls {
        acl.default += 1;
    }
    let renumber = |rules: Vec<Rule<u32>>| rules.into_iter().map(|r| Rule { result: r.result + 1, ..r });
    let ports = PortRange { first: port, last: port };
    let smtp = Rule { protocol: Some(6), dst_port: PortRange { first: 25, last: 25 }, ..any(LAN_SMTP) };
    let mut lan = vec![Rule { protocol: Some(UDP), dst_port: ports, ..any(0) }];
    lan.extend(renumber(vec![smtp]));
    snapshot.acls[0].v4 = Classifier::new(lan);
    let mut lan6 = Rule { protocol: Some(UDP), dst_port: ports, ..any(0) };
    lan6.result = 0;
    snapshot.acls[0].v6 = Classifier::new(vec![lan6]);
    let wan = vec![
        Rule { established: Some(true), ..any(WAN_ESTABLISHED) },
        Rule { dst_port: PortRange { first: 5300, last: 8083 }, ..any(WAN_WEB) },
    ];
    snapshot.acls[1].v4 = Classifier::new(renumber(wan).collect());
    snapshot.acls[1].v6 = Classifier::new(vec![Rule { established: Some(true), ..any(WAN_ESTABLISHED + 1) }]);
}

#[test]
fn a_rule_that_denies_a_live_session_ends_it_with_its_next_packet() {
    // By address alone, the filter would let the answer in because of the other session.
    let mut gateway = Reloading::of(super::nat::behaving(NatFiltering::AddressAndPortDependent));
    let inside = (host(9), 4000);
    let (_, (external, _)) = gateway.say(LAN, inside, (SERVER, 53));
    gateway.say(LAN, inside, (SERVER, 54));
    gateway.lab.forward(LAN, &udp6((HOST6, 1), (SERVER6, 53), b"question"));
    gateway.hand_over(|next| deny(next, 53));
    // The sweep decides a few sessions with the very poll; these packets come with it.
    for packet in [udp(inside, (SERVER, 53), b"again"), udp6((HOST6, 1), (SERVER6, 53), b"again")] {
        assert_eq!(gateway.lab.dropped(LAN, &packet), DropReason::AclDeny);
    }
    assert_eq!(gateway.lab.dropped(WAN, &udp((SERVER, 53), external, b"answer")), DropReason::AclDeny);
    assert_eq!(gateway.settle(), settled(1, 2));
    assert_eq!((gateway.hits(0), gateway.ended_by_policy(), gateway.live()), (2, 2, 1));
    gateway.say(LAN, inside, (SERVER, 54));
    gateway.lab.close();
}

#[test]
fn idle_sessions_end_without_a_packet() {
    let mut gateway = Reloading::new();
    for port in 0..500 {
        gateway.say(LAN, (host(9), 4000 + port), (SERVER, 53 + port % 2));
    }
    assert_eq!(gateway.reload(|next| deny(next, 53)), settled(250, 250));
    assert_eq!((gateway.live(), gateway.bindings()), (250, 250));
    gateway.lab.close();
}

#[test]
fn a_rule_that_goes_ends_what_it_let_pass() {
    let mut gateway = Reloading::new();
    let (_, (_, web)) = gateway.say(WAN, (SERVER, 7), (POOL[0], 5300));
    let (_, (external, _)) = gateway.say(LAN, (host(9), 4000), (SERVER, 53));
    let established = Rule { established: Some(true), ..any(WAN_ESTABLISHED) };
    let settled = gateway.reload(|next| next.acls[1].v4 = Classifier::new(vec![established]));
    assert_eq!(settled, super::settled(1, 1));
    assert_eq!(gateway.lab.dropped(WAN, &udp((SERVER, 7), (POOL[0], 5300), b"")), DropReason::AclDeny);
    gateway.say(WAN, (SERVER, 53), external);
    // The inside host speaks on: to the gateway it is a new session, behind NAT.
    gateway.say(LAN, web, (SERVER, 7));

    // Replies that are no longer let in do not end the session; they are dropped.
    let settled = gateway.reload(|next| next.acls[1].v4 = Classifier::new(vec![]));
    assert_eq!(settled, kept(2));
    let before = gateway.hits(WAN_DEFAULT);
    assert_eq!(gateway.lab.dropped(WAN, &udp((SERVER, 53), external, b"")), DropReason::AclDeny);
    assert_eq!(gateway.hits(WAN_DEFAULT), before + 1);
    gateway.lab.close();
}

#[test]
fn hits_go_on_under_another_index_also_while_old_actions_hold() {
    let mut gateway = Reloading::new();
    let flows = |port: u16| udp((host(9), 4000 + port), (SERVER, 54), b"a datagram");
    for port in 0..200 {
        gateway.lab.forward(LAN, &flows(port));
    }
    assert_eq!((gateway.hits(LAN_SMTP), gateway.hits(LAN_DEFAULT)), (0, 200));
    gateway.hand_over(|next| deny(next, 53));
    // More flows at once than sessions are decided in a poll: all of their packets go on, by whatever action.
    for port in 0..200 {
        gateway.lab.send(LAN, &frame(LAN, &flows(199 - port)));
    }
    let mut out = 0;
    for _ in 0..4 {
        gateway.lab.poll();
        out += gateway.lab.collect().len();
    }
    assert_eq!((out, gateway.hits(LAN_DEFAULT + 1), gateway.hits(LAN_DEFAULT)), (200, 400, 0));
    assert!(gateway.adopter.settled().is_none(), "some are still to be decided");
    assert_eq!(gateway.settle(), kept(200));
    assert_eq!(gateway.hits(LAN_DEFAULT + 1), 400);
    gateway.lab.close();
}

#[test]
fn the_next_configuration_waits_until_all_sessions_are_decided() {
    let mut gateway = Reloading::new();
    for port in 0..200 {
        gateway.say(LAN, (host(9), 4000 + port), (SERVER, 53));
    }
    gateway.hand_over(|_| ());
    gateway.lab.poll();
    assert_eq!(gateway.adopter.adopted(), 1);
    let next = Snapshot::clone(gateway.lab.worker.snapshot());
    assert!(!gateway.try_hand_over(next));
    assert_eq!(gateway.settle(), kept(200));
    assert_eq!(gateway.reload(|_| ()), kept(200));
    gateway.lab.close();
}

#[test]
fn a_session_without_nat_follows_its_route_to_another_interface() {
    let mut gateway = Reloading::new();
    let (inside, far) = ((host(9), 4000), ([10, 77, 0, 1].into(), 53));
    let through = |interface, gateway: [u8; 4]| Route::Via4 { interface, gateway: gateway.into() };
    gateway.reload(|next| {
        next.routes.push(through(2, [172, 16, 0, 9]));
        next.routes4.insert([10, 77, 0, 0], 16, 9).unwrap();
    });
    assert_eq!(gateway.say(LAN, inside, far).0, TRUNK);
    gateway.say(TRUNK, far, inside);
    let (_, closing) = gateway.lab.forward(LAN, &tcp(inside, far, SYN, b""));
    let route = |interface, to| move |next: &mut Snapshot| next.routes[9] = through(interface, to);
    // From the dmz to the guests' VLAN of the same port: answers are known there, and only there.
    assert_eq!(gateway.reload(route(3, [10, 10, 0, 9])), kept(2));
    assert_eq!(gateway.say(LAN, inside, far).0, TRUNK);
    let tagged = |ip: &[u8]| crate::packets::tagged(TRUNK, &[10], ip);
    gateway.lab.send(TRUNK, &tagged(&udp(far, inside, b"answer")));
    gateway.lab.send(TRUNK, &tagged(&tcp(far, inside, SYN | ACK, b"")));
    gateway.lab.poll();
    assert_eq!(gateway.lab.collect().iter().filter(|(port, _)| *port == LAN).count(), 2);
    assert_eq!((gateway.live(), gateway.lab.counters().sessions_created), (2, 2));
    assert_eq!(ends(&closing).1, far);
    // To the wan, where the inside is translated: another mapping, so the sessions end.
    assert_eq!(gateway.reload(route(1, [203, 0, 113, 1])), settled(0, 2));
    let (port, (external, _)) = gateway.say(LAN, inside, far);
    assert!(port == WAN && POOL.contains(&external.0));
    // And nowhere.
    assert_eq!(gateway.reload(|next| next.routes[9] = Route::Blackhole), settled(0, 1));
    assert_eq!(gateway.lab.dropped(LAN, &udp(inside, far, b"")), DropReason::Blackhole);
    assert_eq!(gateway.bindings(), 0);
    gateway.lab.close();
}

#[test]
fn ipv6_sessions_follow_their_route_too() {
    let mut gateway = Reloading::new();
    let far: (Ipv6Addr, u16) = ("2001:db8:77::1".parse().unwrap(), 53);
    assert_eq!(gateway.lab.forward(LAN, &udp6((HOST6, 1), far, b"question")).0, WAN);
    gateway.lab.forward(WAN, &udp6(far, (HOST6, 1), b"answer"));
    let settled = gateway.reload(|next| {
        let gateway = "2001:db8:2::9".parse().unwrap();
        next.routes.push(Route::Via6 { interface: 2, gateway });
        next.routes6.insert([0x20, 1, 0xd, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 48, 9).unwrap();
    });
    assert_eq!(settled, kept(1));
    assert_eq!(gateway.lab.forward(LAN, &udp6((HOST6, 1), far, b"question")).0, TRUNK);
    assert_eq!(gateway.lab.forward(TRUNK, &udp6(far, (HOST6, 1), b"answer")).0, LAN);
    assert_eq!(gateway.lab.counters().sessions_created, 1);
    gateway.lab.close();
}

#[test]
fn a_limit_keeps_its_bucket_unless_it_changes() {
    let mut gateway = Reloading::new();
    let slow = |snapshot: &mut Snapshot, rate| {
        snapshot.limits[0].name = "up".into();
        snapshot.limits[0].rate = Rate { bits_per_second: rate };
        snapshot.limits[0].burst = 500;
    };
    gateway.reload(|next| slow(next, 8));
    let packet = udp((host(9), 4000), (SERVER, 53), &[0; 358]);
    assert_eq!(packet.len() + 14, 400);
    gateway.lab.forward(LAN, &packet);
    assert_eq!(gateway.lab.dropped(LAN, &packet), DropReason::RateLimited);
    // At another place, but unchanged: its bucket is still empty.
    gateway.reload(|next| next.limits.reverse());
    assert_eq!(gateway.lab.dropped(LAN, &packet), DropReason::RateLimited);
    let counts = |gateway: &Reloading, index: usize| {
        let counts: Vec<_> = gateway.lab.worker.shard().limiters.counts().collect();
        (counts[index].passed.packets, counts[index].dropped.packets)
    };
    assert_eq!(counts(&gateway, 1), (1, 2));
    gateway.reload(|next| next.limits[1].rate = Rate { bits_per_second: 16 });
    gateway.lab.forward(LAN, &packet);
    assert_eq!(counts(&gateway, 1), (2, 2));
    assert_eq!(gateway.reload(|next| next.limits.clear()), kept(1));
    for _ in 0..5 {
        gateway.lab.forward(LAN, &packet);
    }
    gateway.lab.close();
}

#[test]
fn meters_go_on_unless_their_limit_changes() {
    let mut gateway = Reloading::new();
    let policer = Policer {
        packets: true,
        actions: [ColorAction::Pass, ColorAction::Drop, ColorAction::Drop],
        per: Some(Per::Source([32, 64])),
        most: 16,
        ..Policer::default()
    };
    gateway.reload(|next| {
        next.limits[0].name = "each".into();
        (next.limits[0].rate.bits_per_second, next.limits[0].burst) = (1, 3);
        next.limits[0].policer = Some(policer);
    });
    let packet = |n| udp((host(n), 4000), (SERVER, 53), b"");
    for _ in 0..3 {
        gateway.lab.forward(LAN, &packet(9));
    }
    gateway.lab.forward(LAN, &packet(8));
    // At another place. Old actions find it there before their sessions are decided anew, and take the slow path.
    gateway.hand_over(|next| next.limits.reverse());
    gateway.lab.poll();
    assert_eq!(gateway.lab.dropped(LAN, &packet(9)), DropReason::RateLimited);
    gateway.lab.forward(LAN, &packet(8));
    assert_eq!(gateway.settle(), kept(2));
    assert_eq!(gateway.lab.dropped(LAN, &packet(9)), DropReason::RateLimited);
    let count = |gateway: &Reloading, index: usize| {
        let count = gateway.lab.worker.shard().limiters.counts().nth(index).unwrap();
        (count.colors.map(|color| color.packets), count.dropped.packets, count.meters)
    };
    assert_eq!(count(&gateway, 1), ([5, 0, 2], 2, 2));
    // Another prefix is another limit: counts go on, meters begin anew.
    gateway.reload(|next| {
        next.limits[1].policer = Some(Policer { per: Some(Per::Source([24, 64])), ..policer });
    });
    for n in [9, 8, 7] {
        gateway.lab.forward(LAN, &packet(n));
    }
    assert_eq!(gateway.lab.dropped(LAN, &packet(9)), DropReason::RateLimited);
    assert_eq!(count(&gateway, 1), ([8, 0, 3], 3, 1));
    // A bucket again, and then none.
    gateway.reload(|next| {
        next.limits[1].policer = None;
        (next.limits[1].rate.bits_per_second, next.limits[1].burst) = (1, 100_000);
    });
    gateway.lab.forward(LAN, &packet(9));
    assert_eq!(count(&gateway, 1).0, [9, 0, 3]);
    gateway.reload(|next| next.limits.clear());
    gateway.lab.forward(LAN, &packet(9));
    gateway.lab.close();
}

#[test]
fn an_error_about_a_session_from_before_is_judged_by_the_new_decision() {
    let mut gateway = Reloading::new();
    let (_, out) = gateway.lab.forward(LAN, &udp((host(9), 4000), (SERVER, 54), b"question"));
    let (_, denied) = gateway.lab.forward(LAN, &udp((host(9), 4001), (SERVER, 53), b"question"));
    for port in 0..300 {
        gateway.say(LAN, (host(8), 4000 + port), (SERVER, 54));
    }
    let established = gateway.hits(WAN_ESTABLISHED);
    gateway.hand_over(|next| deny(next, 53));
    let told = gateway.lab.pass(WAN, &error(SERVER, 3, 3, &out, 60));
    assert_eq!(told.len(), 1);
    assert_eq!(network(&told[0].1)[16..20], host(9).octets());
    assert_eq!(gateway.hits(WAN_ESTABLISHED + 1), established + 1);
    assert_eq!(gateway.lab.dropped(WAN, &error(SERVER, 3, 3, &denied, 60)), DropReason::AclDeny);
    assert_eq!(gateway.settle(), settled(301, 1));
    gateway.lab.close();
}

#[test]
fn a_tcp_connection_opens_across_a_reload_and_closes_after_it() {
    let mut gateway = Reloading::new();
    let (inside, server) = ((host(9), 4000), (SERVER, 443));
    let (_, out) = gateway.lab.forward(LAN, &tcp(inside, server, SYN, b""));
    gateway.hand_over(|next| deny(next, 53));
    gateway.lab.forward(WAN, &tcp(server, ends(&out).0, SYN | ACK, b""));
    gateway.lab.forward(LAN, &tcp(inside, server, ACK, b""));
    assert_eq!(gateway.settle(), kept(1));
    gateway.lab.forward(LAN, &tcp(inside, server, ACK, b"a segment"));
    gateway.lab.wait(300 * 1000 * MILLISECOND);
    assert_eq!(gateway.live(), 1, "it is known to be open");
    gateway.lab.close();
}

/// Three lists of prefixes at the wan: by hand, to block, to allow.
fn listed(snapshot: &mut Snapshot, prefixes: &[(&str, u8, usize)]) {
    snapshot.guards = vec![Guard { block: 0b011, allow: 0b100, ..Guard::default() }];
    snapshot.interfaces[WAN].guard = Some(0);
    let prefixes = prefixes.iter().map(|&(address, length, list)| (address.parse().unwrap(), length, list));
    snapshot.lists = Lists {
        names: ["by-hand", "bad", "good"].map(str::to_owned).to_vec(),
        fixed: Arc::new(PrefixSets::new(prefixes).unwrap()),
        added: Arc::default(),
    };
}

#[test]
fn a_list_that_grows_ends_the_sessions_with_its_prefixes_whoever_began_them() {
    let mut start = crate::lab::snapshot();
    listed(&mut start, &[]);
    let mut gateway = Reloading::of(start);
    let inside = (host(9), 4000);
    gateway.say(LAN, inside, (SERVER, 53));
    gateway.say(LAN, inside, (STRANGER, 53));
    gateway.lab.forward(WAN, &udp((SERVER, 7), (POOL[0], 5300), b"question"));
    gateway.lab.forward(LAN, &udp6((HOST6, 1), (SERVER6, 53), b"question"));
    gateway.lab.forward(WAN, &tcp((STRANGER, 9), (POOL[0], 8080), SYN, b""));
    assert_eq!(gateway.live(), 5);

    let server = ("198.51.100.7", 32, 1);
    assert_eq!(gateway.reload(|next| listed(next, &[server])), settled(3, 2));
    assert_eq!(gateway.lab.dropped(LAN, &udp(inside, (SERVER, 53), b"again")), DropReason::Blocklisted);
    let forward = udp((SERVER, 7), (POOL[0], 5300), b"again");
    assert_eq!(gateway.lab.dropped(WAN, &forward), DropReason::Blocklisted);
    assert_eq!(gateway.lab.counters().blocked[1], 2);
    // Those that stay stay as they are, and the hits of the list with them.
    gateway.say(LAN, inside, (STRANGER, 53));
    let six = ("2001:db8::", 16, 1);
    assert_eq!(gateway.reload(|next| listed(next, &[server, six])), settled(2, 1));
    assert_eq!(gateway.lab.counters().blocked[1], 2);
    assert_eq!(gateway.lab.dropped(LAN, &udp6((HOST6, 1), (SERVER6, 53), b"again")), DropReason::Blocklisted);
    // Allowed wins, and a shorter list ends nothing.
    let allowed = ("198.51.0.0", 16, 2);
    assert_eq!(gateway.reload(|next| listed(next, &[server, six, allowed])), kept(2));
    gateway.say(LAN, inside, (SERVER, 53));
    assert_eq!(gateway.reload(|next| listed(next, &[])), kept(3));
    gateway.lab.close();
}

#[test]
fn a_guard_that_is_new_ends_the_sessions_that_it_refuses() {
    let mut gateway = Reloading::new();
    gateway.lab.forward(WAN, &udp((SERVER, 53), (POOL[0], 5300), b"answer"));
    gateway.lab.forward(WAN, &udp((SERVER, 54), (POOL[0], 5300), b"question"));
    gateway.say(LAN, (host(9), 4000), (SERVER, 53));
    let settled_by = gateway.reload(|next| {
        next.guards =
            vec![Guard { answers: vec![53], reverse_path: ReversePath::Strict, ..Guard::default() }];
        next.interfaces[WAN].guard = Some(0);
    });
    assert_eq!(settled_by, settled(2, 1));
    // By the default route it comes from there, and from nowhere else.
    let settled_by = gateway.reload(|next| {
        next.guards[0].bogons = true;
        next.guards[0].answers.clear();
    });
    assert_eq!(
        settled_by,
        settled(1, 1),
        "an address for documentation; the host's own session is no matter"
    );
    gateway.lab.close();
}
