//! Who survives: exactly those sessions that their first packet would make again under the new configuration, with the same
//! mapping. And a reload among traffic is the same each time.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::MILLISECOND;
use sluice_dataplane::snapshot::{Forward, LocalUse, Pool, Route, Snapshot, SourceNat};
use sluice_dataplane::table::classifier::{Classifier, PortRange, Rule};

use super::{Reloading, STRANGER};
use crate::lab::{
    HOSTS, LAN, LAN_REJECT, Lab, POOL, SERVER, TRUNK, WAN, WAN_ESTABLISHED, WAN_PING, WAN_WEB, WEB, any,
    cases, host, snapshot,
};
use crate::packets::{End, SYN, TCP, UDP, ends, frame, ping, tcp, udp};

/// What one configuration differs in from another.
#[derive(Clone, Debug)]
struct Variant {
    pools: Vec<(Vec<u8>, u16)>,
    rules: Vec<(bool, bool, usize)>,
    forwards: Vec<(u16, u8, u8)>,
    /// Where the servers' subnet is: wan, dmz, guests, nowhere.
    route: u8,
    denied: Option<u16>,
    wan: (bool, bool, bool),
}

fn variant() -> impl Strategy<Value = Variant> {
    let pool = (
        prop::sample::subsequence(vec![10u8, 11, 12, 13], 1..=4).prop_shuffle(),
        prop::sample::select(vec![4001u16, 65535]),
    );
    let rule = (prop::bool::ANY, prop::bool::ANY, 0..2usize);
    let forward =
        (prop::sample::select(vec![8080u16, 8081, 4000]), prop::sample::select(vec![TCP, UDP]), 80..83u8);
    let denied = prop::option::of(prop::sample::select(vec![53u16, 443]));
    (
        prop::collection::vec(pool, 2),
        prop::collection::vec(rule, 0..3),
        prop::collection::vec(forward, 0..3),
        0..4u8,
        denied,
        (prop::bool::weighted(0.8), prop::bool::weighted(0.8), prop::bool::ANY),
    )
        .prop_map(|(pools, rules, forwards, route, denied, wan)| Variant {
            pools,
            rules,
            forwards,
            route,
            denied,
            wan,
        })
}

fn external(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}

impl Variant {
    fn configure(&self, next: &mut Snapshot) {
        next.local4.retain(|_, (_, usage)| *usage == LocalUse::Interface);
        let pool = |(addresses, last): &(Vec<u8>, u16)| Pool {
            addresses: addresses.iter().map(|&last| external(last)).collect(),
            ports: (1024, *last),
            ..Pool::default()
        };
        next.pools = self.pools.iter().map(pool).collect();
        for address in next.pools.iter().flat_map(|pool| &pool.addresses) {
            next.local4.insert(*address, (1, LocalUse::Nat));
        }
        let rule = |&(dmz, half, pool): &(bool, bool, usize)| SourceNat {
            out: if dmz { 2 } else { 1 },
            from: vec![(HOSTS, if half { 0xffff_fffe } else { 0xffff_ff00 })],
            pool: pool as u16,
        };
        next.source_nat = self.rules.iter().map(rule).collect();
        let forward = |&(port, protocol, to): &(u16, u8, u8)| Forward {
            interface: 1,
            protocol,
            address: POOL[0],
            ports: (port, port),
            to: host(to),
            to_port: 80,
        };
        next.forwards = self.forwards.iter().map(forward).collect();
        next.routes.truncate(9);
        next.routes.push(match self.route {
            0 => Route::Via4 { interface: 1, gateway: [203, 0, 113, 1].into() },
            1 => Route::Via4 { interface: 2, gateway: [172, 16, 0, 9].into() },
            2 => Route::Via4 { interface: 3, gateway: [10, 10, 0, 9].into() },
            _ => Route::Unreachable,
        });
        next.routes4.insert([198, 51, 100, 0], 24, 9).unwrap();
        let port = |port| PortRange { first: port, last: port };
        let denied = self.denied.map(|denied| Rule { dst_port: port(denied), ..any(LAN_REJECT) });
        next.acls[0].v4 = Classifier::new(denied.into_iter().collect());
        let (established, web, pings) = self.wan;
        let rules = [
            (established, Rule { established: Some(true), ..any(WAN_ESTABLISHED) }),
            (
                web,
                Rule { protocol: Some(TCP), dst_port: PortRange { first: 4000, last: 8083 }, ..any(WAN_WEB) },
            ),
            (pings, Rule { protocol: Some(1), icmp_type: Some(8), ..any(WAN_PING) }),
            (pings, Rule { protocol: Some(UDP), ..any(WAN_WEB) }),
        ];
        let rules = rules.into_iter().filter(|(is_on, _)| *is_on).map(|(_, rule)| rule);
        next.acls[1].v4 = Classifier::new(rules.collect());
    }
}

/// A first packet: the port where it comes in, protocol and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First(usize, u8, End, End);

impl First {
    fn packet(&self) -> Vec<u8> {
        match self.1 {
            TCP => tcp(self.2, self.3, SYN, b""),
            UDP => udp(self.2, self.3, b"a datagram"),
            _ => ping(self.2.0, self.3.0, self.2.1),
        }
    }
}

fn first() -> impl Strategy<Value = First> {
    let protocol = prop::sample::select(vec![TCP, UDP, 1]);
    let server = prop::sample::select(vec![SERVER, STRANGER]);
    let port = prop::sample::select(vec![53u16, 443]);
    let inside = (0..4u8, 4000..4003u16, server.clone(), port, protocol.clone()).prop_map(
        |(last, from, server, port, protocol)| First(LAN, protocol, (host(last), from), (server, port)),
    );
    let own = prop::sample::select(vec![8080u16, 8081, 4000]);
    let outside = (server, 7000..7002u16, own, protocol, prop::bool::ANY).prop_map(
        |(server, from, port, protocol, nat)| {
            First(WAN, protocol, (server, from), (if nat { POOL[0] } else { WEB }, port))
        },
    );
    prop_oneof![3 => inside, 2 => outside]
}

/// A session as one can tell it from others: its forward key, and the ends with which its packets leave.
type Seen = ([u64; 2], (End, End));

fn sessions(lab: &Lab) -> Vec<Seen> {
    let sessions = &lab.worker.shard().sessions;
    let seen = |index| {
        let session = sessions.get(index)?;
        let (key, flow) = sessions.v4.get(session.flows[0])?;
        let new = &flow.action.new;
        Some((*key, ((new.source(), new.source_port()), (new.destination(), new.destination_port()))))
    };
    (0..sessions.slots()).filter_map(seen).collect()
}

/// Whether a gateway with this configuration alone makes the same of a first packet. Of its pool it may take any port.
fn would_be_made(variant: &Variant, first: &First, seen: &Seen) -> bool {
    let mut next = snapshot();
    (next.sizes.sessions, next.sizes.neighbors, next.sizes.frames) = (16, 16, 64);
    variant.configure(&mut next);
    let mut lab = Lab::new(next);
    lab.pass(first.0, &first.packet());
    let Some(made) = sessions(&lab).pop() else { return false };
    let shard = lab.worker.shard();
    let session = shard.sessions.get(0).expect("it is the first");
    if shard.nat.get(session.binding).is_none() {
        return made == *seen;
    }
    let next_hop = shard.sessions.v4.value(session.flows[0]).expect("it is live").action.next_hop;
    let egress = shard.neighbors.hop(next_hop).egress.interface;
    let inside = first.2.0.to_bits();
    let applies = |rule: &&SourceNat| {
        rule.out == egress && rule.from.iter().any(|&(address, mask)| inside & mask == address & mask)
    };
    let pool = lab.worker.snapshot().source_nat.iter().find(applies).expect("it is translated").pool;
    let (addresses, last) = &variant.pools[usize::from(pool)];
    let ((source, port), destination) = seen.1;
    let is_forward = variant.forwards.iter().any(|f| (f.0, f.1) == (port, first.1) && source == POOL[0]);
    made.1.1 == destination
        && addresses.iter().any(|&address| external(address) == source)
        && (1024..=*last).contains(&port)
        && !is_forward
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn those_survive_that_would_be_made_again(
        before in variant(), after in variant(), firsts in prop::collection::vec(first(), 1..25), spoken in prop::num::u32::ANY,
    ) {
        let mut base = snapshot();
        before.configure(&mut base);
        let mut gateway = Reloading::of(base);
        let mut made: Vec<(First, Seen)> = Vec::new();
        for first in &firsts {
            let known = sessions(&gateway.lab);
            gateway.lab.pass(first.0, &first.packet());
            let now = sessions(&gateway.lab);
            made.retain(|(_, seen)| now.contains(seen));
            made.extend(now.iter().filter(|seen| !known.contains(seen)).map(|seen| (*first, *seen)));
        }
        prop_assert_eq!(made.len(), gateway.live() as usize);
        let mut expected: Vec<Seen> =
            made.iter().filter(|(first, seen)| would_be_made(&after, first, seen)).map(|(_, seen)| *seen).collect();
        // Some sessions say something right after; it must not matter who is decided first.
        gateway.hand_over(|next| after.configure(next));
        let created = gateway.lab.counters().sessions_created;
        for (number, (first, _)) in made.iter().enumerate().filter(|(n, _)| spoken & 1 << n != 0) {
            let survives = expected.contains(&made[number].1);
            if survives {
                gateway.lab.send(first.0, &frame(first.0, &first.packet()));
            }
        }
        let outcome = gateway.settle();
        gateway.lab.collect();
        prop_assert_eq!(gateway.lab.counters().sessions_created, created);
        let mut survivors = sessions(&gateway.lab);
        survivors.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!((outcome.kept, outcome.ended), (expected.len() as u64, (made.len() - expected.len()) as u64));
        prop_assert_eq!(survivors, expected);
        // What they say goes the way it went.
        for (first, seen) in &made {
            if sessions(&gateway.lab).contains(seen) {
                let (_, out) = gateway.lab.forward(first.0, &first.packet());
                let (from, to) = ends(&out);
                prop_assert_eq!((from.0, to.0), (seen.1.0.0, seen.1.1.0));
                prop_assert_eq!(gateway.lab.counters().sessions_created, created);
            }
        }
        // In the end nothing is left of it: every port is free but those of forwards.
        gateway.reload(|next| next.routes.iter_mut().for_each(|route| *route = Route::Blackhole));
        prop_assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
        let forwarded = |address, protocol| {
            let mut ports: Vec<u16> = after.forwards.iter().filter(|f| f.1 == protocol && address == POOL[0]).map(|f| f.0).collect();
            ports.sort_unstable();
            ports.dedup();
            ports.len() as u32
        };
        for (address, in_use) in gateway.lab.worker.shard().nat.externals() {
            prop_assert_eq!(in_use, [forwarded(address, TCP), forwarded(address, UDP), 0], "{}", address);
        }
        gateway.lab.close();
    }
}

#[test]
fn a_reload_among_traffic_is_the_same_each_time() {
    let run = || {
        let mut gateway = Reloading::new();
        let mut out = Vec::new();
        for round in 0..200u16 {
            if round % 40 == 20 {
                let addresses = if round % 80 == 20 { &POOL[..1] } else { &POOL[..] };
                gateway.hand_over(|next| next.pools[0].addresses = addresses.to_vec());
            }
            for flow in 0..30 {
                let packet = udp(
                    (host((flow % 7) as u8), 4000 + flow * (round / 50)),
                    (SERVER, 53),
                    &round.to_be_bytes(),
                );
                gateway.lab.send(LAN, &frame(LAN, &packet));
            }
            gateway.lab.wait(10 * MILLISECOND);
            out.extend(gateway.lab.collect());
            gateway.adopter.settled();
        }
        (out, gateway.lab.close())
    };
    let (once, again) = (run(), run());
    assert!(once == again && once.0.iter().all(|(port, _)| *port == WAN || *port == TRUNK));
    assert!(once.1.sessions_ended_by_policy > 0);
}
