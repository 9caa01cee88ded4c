//! Protocols without ports behind source NAT, beside a plain model: who may speak with whom, whichever worker owns it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::nat::Deterministic;
use sluice_dataplane::snapshot::{Allocation, LocalUse, Snapshot};
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::checksum::Sum;

use crate::fleet::Fleet;
use crate::lab::{GATEWAY_WAN, HOSTS, LAN, Lab, POOL, SERVER, WAN, host, snapshot};
use crate::packets::{Ip, SYN, error, frame, network, ping, tcp, udp};

const GRE: u8 = 47;
const ESP: u8 = 50;
const DCCP: u8 = 33;
const UDP_LITE: u8 = 136;
const REMOTES: [Ipv4Addr; 3] = [SERVER, Ipv4Addr::new(198, 51, 100, 8), Ipv4Addr::new(203, 0, 113, 50)];

/// A packet whose payload looks like the head of UDP-Lite and of DCCP, with their checksum.
fn packet(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let mut payload = vec![0x13, 0x88, 0x13, 0x89, 5, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    if matches!(protocol, DCCP | UDP_LITE) {
        let checksum = !sum(src, dst, protocol, &payload);
        payload[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    Ip::new(src, dst, protocol).packet(&payload)
}

fn sum(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> u16 {
    let pseudo = [&src.octets()[..], &dst.octets(), &[0, protocol, 0, payload.len() as u8], payload].concat();
    Sum::of(&pseudo).fold()
}

/// Addresses, whether the checksums are right that know them, and the rest of what was sent.
fn parts(ip: &[u8]) -> (Ipv4Addr, Ipv4Addr, bool) {
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    let (src, dst, protocol) = (address(12), address(16), ip[9]);
    let is_right = !matches!(protocol, DCCP | UDP_LITE) || sum(src, dst, protocol, &ip[20..]) == 0xffff;
    assert_eq!(
        (&ip[20..26], &ip[28..]),
        (&[0x13, 0x88, 0x13, 0x89, 5, 0][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..])
    );
    (src, dst, is_right && Sum::of(&ip[..20]).fold() == 0xffff)
}

/// Without an ACL, so that NAT alone decides.
fn open() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.interfaces[WAN].acl = None;
    snapshot.timeouts.other = 20 * SECOND;
    snapshot
}

#[derive(Clone, Debug)]
enum Step {
    /// An inside host says something: host, remote, protocol.
    Out(u8, usize, u8),
    /// A remote one says something to an external address: remote, which, protocol.
    In(usize, usize, u8),
    /// Time passes: a little, or more than the timeout.
    Wait(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = || prop::sample::select(vec![GRE, ESP, DCCP, UDP_LITE, 132, 4]);
    prop_oneof![
        6 => (20..24u8, 0..3usize, protocol()).prop_map(|(h, r, p)| Step::Out(h, r, p)),
        4 => (0..3usize, 0..2usize, protocol()).prop_map(|(r, e, p)| Step::In(r, e, p)),
        1 => prop::bool::weighted(0.7).prop_map(Step::Wait),
    ]
}

/// Who speaks: by external address, remote address and protocol.
type Speakers = HashMap<(Ipv4Addr, Ipv4Addr, u8), Ipv4Addr>;

fn once(fleet: &mut Fleet, port: usize, ip: &[u8]) -> Option<(usize, Vec<u8>)> {
    fleet.spray(port, &frame(port, ip));
    fleet.settle();
    let mut out = fleet.collect();
    // Answers of the gateway's own are ICMP.
    out.retain(|(_, frame)| network(frame)[9] != 1);
    assert!(out.len() <= 1);
    out.pop().map(|(port, frame)| (port, network(&frame).to_vec()))
}

fn run(steps: &[Step], workers: usize) {
    let mut fleet = Fleet::new(open(), workers);
    let mut speakers = Speakers::new();
    for step in steps {
        match *step {
            Step::Out(last, remote, protocol) => {
                let (inside, remote) = (host(last), REMOTES[remote]);
                let refused = fleet.drops(DropReason::NatRemoteTaken);
                let out = once(&mut fleet, LAN, &packet(inside, remote, protocol));
                let mine = POOL.iter().find(|&&e| speakers.get(&(e, remote, protocol)) == Some(&inside));
                let free: Vec<_> =
                    POOL.iter().filter(|&&e| !speakers.contains_key(&(e, remote, protocol))).collect();
                match out {
                    Some((port, out)) => {
                        let (src, dst, is_right) = parts(&out);
                        assert_eq!((port, dst, is_right), (WAN, remote, true));
                        match mine {
                            Some(&external) => assert_eq!(src, external, "it keeps its address"),
                            None => assert!(free.contains(&&src), "nobody else has {src}"),
                        }
                        speakers.insert((src, remote, protocol), inside);
                    }
                    None => {
                        assert!(mine.is_none() && free.is_empty());
                        assert_eq!(fleet.drops(DropReason::NatRemoteTaken), refused + 1);
                    }
                }
            }
            Step::In(remote, external, protocol) => {
                let (remote, external) = (REMOTES[remote], POOL[external]);
                let unasked = fleet.drops(DropReason::NatNoSession);
                let out = once(&mut fleet, WAN, &packet(remote, external, protocol));
                match speakers.get(&(external, remote, protocol)) {
                    Some(&inside) => {
                        let (port, out) = out.expect("it is answered");
                        assert_eq!((port, parts(&out)), (LAN, (remote, inside, true)));
                    }
                    None => assert_eq!((out, fleet.drops(DropReason::NatNoSession)), (None, unasked + 1)),
                }
            }
            Step::Wait(false) => fleet.wait(SECOND / 2),
            Step::Wait(true) => {
                fleet.wait(24 * SECOND);
                assert_eq!(fleet.sessions(), 0);
                speakers.clear();
            }
        }
        assert_eq!(fleet.sessions() as usize, speakers.len());
        // At each worker one for each inside and external address, and protocol.
        let bound: HashSet<_> =
            speakers.iter().map(|(&(external, _, protocol), host)| (external, protocol, host)).collect();
        let bindings = fleet.bindings() as usize;
        assert!((bound.len()..=speakers.len()).contains(&bindings));
        assert!(workers > 1 || bindings == bound.len());
    }
    fleet.close();
}

proptest! {
    #![proptest_config(crate::lab::cases(40))]

    #[test]
    fn one_host_at_a_time_speaks_with_a_remote_address(
        steps in prop::collection::vec(step(), 1..60),
        workers in prop::sample::select(vec![1usize, 2, 4]),
    ) {
        run(&steps, workers);
    }
}

#[test]
fn who_is_refused_is_told() {
    let mut lab = Lab::new(open());
    let hosts = [host(20), host(21), host(22)];
    let outcome = hosts.map(|inside| {
        let mut out = lab.pass(LAN, &packet(inside, SERVER, GRE));
        out.pop().map(|(port, frame)| (port, network(&frame)[9], network(&frame)[20..22].to_vec()))
    });
    let passed =
        |at: usize| outcome[at].as_ref().is_some_and(|(port, protocol, _)| (*port, *protocol) == (WAN, GRE));
    assert!(passed(0) && passed(1), "the pool has two addresses");
    assert_eq!(outcome[2], Some((LAN, 1, vec![3, 13])), "administratively prohibited");
    lab.close();
}

/// proves: RFC 7857 4
#[test]
fn a_host_has_one_external_address_for_all_protocols() {
    let mut lab = Lab::new(open());
    for last in 20..60 {
        let source = |lab: &mut Lab, packet: &[u8]| {
            let (_, out) = lab.forward(LAN, packet);
            Ipv4Addr::new(out[12], out[13], out[14], out[15])
        };
        let inside = host(last);
        // Each host speaks with a server of its own, so that none is in another's way.
        let server = Ipv4Addr::new(198, 51, 100, last);
        let first = source(&mut lab, &udp((inside, 4000), (server, 53), b"question"));
        assert!(POOL.contains(&first));
        for packet in [
            tcp((inside, 4000), (server, 443), SYN, b""),
            ping(inside, server, 7),
            packet(inside, server, GRE),
            packet(inside, server, ESP),
        ] {
            assert_eq!(source(&mut lab, &packet), first);
        }
    }
    lab.close();
}

#[test]
fn errors_about_packets_without_ports_find_their_way_both_ways() {
    for protocol in [GRE, UDP_LITE, DCCP] {
        let mut fleet = Fleet::new(open(), 4);
        let inside = host(20);
        let (_, out) = fleet.forward(LAN, &packet(inside, SERVER, protocol));
        let (external, ..) = parts(&out);
        let router = Ipv4Addr::new(198, 51, 100, 254);
        let (port, told) = fleet.forward(WAN, &error(router, 3, 4, &out, 548));
        assert_eq!((port, parts(&told[28..])), (LAN, (inside, SERVER, true)));
        assert_eq!(&told[12..20], &[router.octets(), inside.octets()].concat()[..]);
        let (_, answer) = fleet.forward(WAN, &packet(SERVER, external, protocol));
        let (port, told) = fleet.forward(LAN, &error(inside, 3, 2, &answer, 548));
        assert_eq!((port, parts(&told[28..])), (WAN, (SERVER, external, true)));
        fleet.close();
    }
}

/// With the kernel as the host, what comes back without a port that is NAT's would be the kernel's.
#[test]
fn an_address_that_is_the_kernels_too_is_not_given_to_a_protocol_without_ports() {
    let mut snapshot = open();
    snapshot.ports[WAN].host_is_kernel = true;
    snapshot.pools[0].addresses = vec![GATEWAY_WAN];
    assert_eq!(snapshot.local4[&GATEWAY_WAN].1, LocalUse::Interface);
    let mut both = snapshot.clone();
    both.pools[0].addresses = vec![GATEWAY_WAN, POOL[1]];
    let mut lab = Lab::new(snapshot);
    assert_eq!(lab.dropped(LAN, &packet(host(20), SERVER, GRE)), DropReason::NatKernelAddress);
    assert_eq!(lab.drops(DropReason::NatKernelAddress), 1);
    lab.close();
    let mut lab = Lab::new(both);
    for last in 20..30 {
        let server = Ipv4Addr::new(198, 51, 100, last);
        let out = lab.pass(LAN, &packet(host(last), server, GRE));
        for (_, frame) in out.iter().filter(|(_, frame)| frame[12..14] == [8, 0]) {
            assert_eq!(parts(network(frame)).0, POOL[1]);
        }
    }
    assert_eq!(lab.drops(DropReason::NatKernelAddress), 0);
    lab.close();
}

/// Where arithmetic gives each subscriber an address, it is that one for all protocols.
#[test]
fn a_subscriber_of_deterministic_nat_has_its_own_address_alone() {
    let mut snapshot = open();
    let plan = Deterministic::new(&[(HOSTS, 0xffff_ff00)], 2, (1024, 65535), 0).unwrap();
    snapshot.pools[0].allocation = Allocation::Deterministic(plan.clone());
    let mut lab = Lab::new(snapshot);
    for last in [20, 100, 180, 250] {
        let server = Ipv4Addr::new(198, 51, 100, last);
        let (position, _) = plan.block(host(last).to_bits()).unwrap();
        assert_eq!(parts(&lab.forward(LAN, &packet(host(last), server, GRE)).1).0, POOL[position]);
    }
    // Both of one address: the second one does not get the other address.
    lab.forward(LAN, &packet(host(30), SERVER, GRE));
    assert_eq!(lab.dropped(LAN, &packet(host(31), SERVER, GRE)), DropReason::NatRemoteTaken);
    lab.close();
}
