//! The gateway beside a plain model of it: the same verdict on every packet, and the same packet out.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{NatBehavior, Timeouts};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, GATEWAY_WAN, LAN, Lab, Out, POOL, SERVER, WAN, WEB, host, snapshot};
use crate::oracle::{
    Decision, Flow, ICMP_TIMEOUT, Oracle, TCP_ESTABLISHED, TCP_TRANSITORY, UDP_TIMEOUT, What,
};
use crate::packets::{self, End, ICMP, TCP, UDP, checksums_are_right, error, network, ping, pong, tcp, udp};

const SERVERS: [Ipv4Addr; 3] = [SERVER, Ipv4Addr::new(198, 51, 100, 8), Ipv4Addr::new(203, 0, 113, 50)];
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);

#[derive(Clone, Debug)]
enum Step {
    /// An inside host says something: host, port, server, server's port, protocol, flags.
    Inside(u8, u16, u8, u16, u8, u8),
    /// An outside host says something to an address of ours.
    Outside(u8, u16, u8, u16, u8, u8),
    /// An answer to a packet that came out: which, and with which flags.
    Reply(usize, u8),
    /// The sender of a packet says the same again.
    Again(usize, u8),
    /// An error about a packet that came out, by its receiver or a router.
    Error(usize, bool),
    /// An error about a packet that never was.
    Stray(bool, u16),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![2u8, 18, 16, 16, 17, 4, 20]);
    let protocol = prop::sample::select(vec![UDP, TCP, ICMP]);
    let inside_port = prop::sample::select(vec![4000u16, 4001, 8081, 53]);
    let port = prop::sample::select(vec![53u16, 443, 25, 137, 8080]);
    let own = prop::sample::select(vec![8080u16, 8082, 5300, 4000, 4001, 22]);
    prop_oneof![
        6 => (0..4u8, inside_port, 0..4u8, port, protocol.clone(), flags.clone())
            .prop_map(|(h, p, s, t, k, f)| Step::Inside(h, p, s, t, k, f)),
        3 => (0..3u8, 5000..5003u16, 0..4u8, own, protocol, flags.clone())
            .prop_map(|(h, p, s, t, k, f)| Step::Outside(h, p, s, t, k, f)),
        6 => (any::<usize>(), flags.clone()).prop_map(|(which, f)| Step::Reply(which, f)),
        4 => (any::<usize>(), flags).prop_map(|(which, f)| Step::Again(which, f)),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, end)| Step::Error(which, end)),
        1 => (any::<bool>(), 4000..4003u16).prop_map(|(inside, p)| Step::Stray(inside, p)),
        3 => (1..260u16).prop_map(Step::Wait),
        5 => (1..12u16).prop_map(Step::Wait),
    ]
}

fn packet(flow: Flow, what: What) -> Vec<u8> {
    match what {
        What::Segment(flags) => tcp(flow.from, flow.to, flags, b"a segment"),
        What::Echo => ping(flow.from.0, flow.to.0, flow.from.1),
        What::EchoReply => pong(flow.from.0, flow.to.0, flow.to.1),
        What::Data | What::Error(_) => udp(flow.from, flow.to, b"a datagram"),
    }
}

fn flow(protocol: u8, from: End, to: End) -> Flow {
    match protocol {
        ICMP => Flow { protocol, from, to: (to.0, 0) },
        _ => Flow { protocol, from, to },
    }
}

fn what(protocol: u8, flags: u8) -> What {
    match protocol {
        TCP => What::Segment(flags),
        ICMP => What::Echo,
        _ => What::Data,
    }
}

/// The flow of a packet as it is on the wire.
fn flow_of(ip: &[u8]) -> Flow {
    let (mut from, mut to) = packets::ends(ip);
    match (ip[9], ip[20]) {
        (ICMP, 8) => to.1 = 0,
        (ICMP, 0) => from.1 = 0,
        (ICMP, _) => (from.1, to.1) = (0, 0),
        _ => {}
    }
    Flow { protocol: ip[9], from, to }
}

struct Pair {
    lab: Lab,
    oracle: Oracle,
    /// What came out, and the same packet as it came in.
    seen: Vec<(Out, Out)>,
    forwarded: u32,
}

impl Pair {
    fn new(behavior: NatBehavior) -> Self {
        let mut snapshot = snapshot();
        snapshot.timeouts = Timeouts {
            udp: UDP_TIMEOUT,
            icmp: ICMP_TIMEOUT,
            tcp_established: TCP_ESTABLISHED,
            tcp_transitory: TCP_TRANSITORY,
            ..Timeouts::default()
        };
        snapshot.pools[0].behavior = behavior;
        let oracle = Oracle::new(behavior);
        Self { lab: Lab::new(snapshot), oracle, seen: vec![], forwarded: 0 }
    }

    fn send(&mut self, port: usize, ip: &[u8], flow: Flow, what: What) {
        let (mut decision, mut hops) = self.oracle.decide(port, flow, what, self.lab.now);
        let before = self.lab.counters();
        let out = self.lab.pass(port, ip);
        let after = self.lab.counters();
        let mut context = format!("{decision:?} about {flow:?} {what:?} by {port}");
        if let Decision::OutFromNewEnd(inner) = decision {
            (decision, hops) = self.oracle.chosen(self.newest_external(inner), self.lab.now);
            context = format!("{context}: {decision:?}");
        }
        let dropped: Vec<_> =
            DropReason::ALL.iter().filter(|&&r| after.drops[r as usize] > before.drops[r as usize]).collect();
        match decision {
            Decision::Drop(reason) => assert_eq!(dropped, [&reason], "{context}"),
            Decision::Local => {
                let unwanted = dropped.iter().all(|&&r| r == DropReason::LocalUnwanted);
                assert!(unwanted && after.punted + dropped.len() as u64 == before.punted + 1, "{context}");
            }
            Decision::Hold => {
                assert_eq!((dropped.len(), out.len(), after.held), (0, 0, before.held + 1), "{context}");
            }
            Decision::Out(egress, expected, quoted) => {
                assert_eq!(dropped, [] as [&DropReason; 0], "{context}");
                assert_eq!(out.len(), 1, "{context}");
                let left = network(&out[0].1);
                assert_eq!((out[0].0, flow_of(left)), (egress, expected), "{context}");
                if let Some(quoted) = quoted {
                    assert_eq!(flow_of(&left[28..]), quoted, "{context}");
                }
                self.compare(ip, left, hops, &context);
                self.seen.push(((egress, left.to_vec()), (port, ip.to_vec())));
            }
            Decision::OutFromNewEnd(_) => unreachable!("it was chosen"),
        }
    }

    /// The external end of the mapping that the model does not know yet.
    fn newest_external(&self, inner: Flow) -> End {
        let nat = &self.lab.worker.shard().nat;
        let end = |(address, port): (u32, u16)| (Ipv4Addr::from_bits(address), port);
        let known = self.oracle.externals(inner.protocol);
        let bindings = (0..nat.slots()).filter_map(|i| nat.get(i)).filter(|b| b.protocol == inner.protocol);
        let mut of_it = bindings.filter(|b| end(b.inside) == inner.from).map(|b| end(b.external));
        of_it.find(|external| !known.contains(external)).expect("a new mapping")
    }

    /// So many hops less, right checksums, and all that is no address as it was.
    fn compare(&mut self, came: &[u8], left: &[u8], hops: u8, context: &str) {
        self.forwarded += 1;
        assert_eq!(checksums_are_right(left), (true, true), "{context}");
        assert_eq!((left.len(), left[8]), (came.len(), came[8] - hops), "{context}");
        assert_eq!((&left[..8], left[9]), (&came[..8], came[9]), "{context}");
        match came[9] {
            UDP => assert_eq!((&left[24..26], &left[28..]), (&came[24..26], &came[28..])),
            TCP => assert_eq!((&left[24..36], &left[38..]), (&came[24..36], &came[38..])),
            _ if came[20] == 3 => assert_eq!(left[20..22], came[20..22]),
            _ => assert_eq!((&left[20..22], &left[26..]), (&came[20..22], &came[26..])),
        }
    }

    fn step(&mut self, step: &Step) {
        let count = self.seen.len();
        match *step {
            Step::Inside(h, from, s, to, protocol, flags) => {
                let to = match s {
                    2 if to == 8080 => (POOL[0], to),
                    2 if to == 443 => (GATEWAY_LAN, to),
                    3 => (POOL[usize::from(to % 2)], if to < 1000 { 4000 } else { 4001 }),
                    _ => (SERVERS[usize::from(s)], to),
                };
                let from = (if h == 3 { WEB } else { host(10 + h) }, from);
                let flow = flow(protocol, from, to);
                self.send(LAN, &packet(flow, what(protocol, flags)), flow, what(protocol, flags));
            }
            Step::Outside(h, from, which, to, protocol, flags) => {
                let ours = [POOL[0], POOL[1], GATEWAY_WAN, host(10)][usize::from(which)];
                let flow = flow(protocol, (SERVERS[usize::from(h)], from), (ours, to));
                self.send(WAN, &packet(flow, what(protocol, flags)), flow, what(protocol, flags));
            }
            Step::Reply(which, flags) if count > 0 => {
                let ((port, ip), _) = self.seen[which % count].clone();
                let flow = flow_of(&ip).back();
                let what = match (ip[9], ip[20]) {
                    (ICMP, 8) => What::EchoReply,
                    (ICMP, _) => return,
                    (TCP, _) => What::Segment(flags),
                    _ => What::Data,
                };
                self.send(port, &packet(flow, what), flow, what);
            }
            Step::Again(which, flags) if count > 0 => {
                let (_, (port, ip)) = self.seen[which % count].clone();
                let what = match (ip[9], ip[20]) {
                    (ICMP, 8) => What::Echo,
                    (ICMP, 0) => What::EchoReply,
                    (ICMP, _) => return,
                    (TCP, _) => What::Segment(flags),
                    _ => What::Data,
                };
                let flow = flow_of(&ip);
                self.send(port, &packet(flow, what), flow, what);
            }
            Step::Error(which, by_receiver) if count > 0 => {
                let ((port, ip), _) = self.seen[which % count].clone();
                if ip[9] == ICMP && !matches!(ip[20], 0 | 8) {
                    return;
                }
                let quoted = flow_of(&ip);
                let router = if port == WAN { ROUTER } else { host(200) };
                self.error(port, if by_receiver { quoted.to.0 } else { router }, &ip, quoted);
            }
            Step::Stray(inside, port) => {
                let (by, quoted) = match inside {
                    true => (LAN, flow(UDP, (SERVER, 9), (host(10), port))),
                    false => (WAN, flow(UDP, (POOL[1], port), (SERVER, 9))),
                };
                self.error(by, quoted.to.0, &packet(quoted, What::Data), quoted);
            }
            Step::Wait(seconds) => {
                self.lab.wait(u64::from(seconds) * SECOND);
                self.oracle.expire(self.lab.now);
                // SYNs that were refused.
                self.lab.collect();
            }
            _ => {}
        }
        self.agree();
    }

    fn error(&mut self, port: usize, from: Ipv4Addr, about: &[u8], quoted: Flow) {
        let flow = Flow { protocol: ICMP, from: (from, 0), to: (quoted.from.0, 0) };
        self.send(port, &error(from, 3, 1, about, 548), flow, What::Error(quoted));
    }

    /// The same sessions live, and the same ports are taken.
    fn agree(&self) {
        let shard = self.lab.worker.shard();
        assert_eq!(shard.sessions.live() as usize, self.oracle.sessions());
        let mappings = self.oracle.mappings();
        assert_eq!(shard.nat.live() as usize, mappings.len());
        let taken: u32 = shard.nat.externals().flat_map(|(_, ports)| ports).sum();
        // Forwards have four TCP ports and one UDP port for good.
        assert_eq!(taken as usize, mappings.len() + 5);
        assert_eq!(shard.syns.len(), self.oracle.waiting());
        assert_eq!(self.lab.drops(DropReason::SynUnsolicited), self.oracle.refused);
    }
}

fn behavior() -> impl Strategy<Value = NatBehavior> {
    use sluice_dataplane::snapshot::{NatFiltering as F, NatMapping as M};
    let mappings = vec![M::EndpointIndependent, M::AddressAndPortDependent];
    let filterings = vec![F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent];
    (prop::sample::select(mappings), prop::sample::select(filterings))
        .prop_map(|(mapping, filtering)| NatBehavior { mapping, filtering, ..NatBehavior::default() })
}

proptest! {
    #![proptest_config(crate::lab::cases(300))]

    /// proves: RFC 4787 REQ-1
    /// proves: RFC 4787 REQ-2
    /// proves: RFC 4787 REQ-3
    /// proves: RFC 4787 REQ-8
    /// proves: RFC 4787 REQ-6
    /// proves: RFC 4787 REQ-9
    /// proves: RFC 5382 REQ-1
    /// proves: RFC 5382 REQ-3
    /// proves: RFC 5382 REQ-7
    /// proves: RFC 5382 REQ-8
    #[test]
    fn the_gateway_decides_as_the_model_does(
        behavior in behavior(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(behavior);
        steps.iter().for_each(|step| pair.step(step));
        // When all is over, nothing is left.
        pair.step(&Step::Wait(300));
        prop_assert_eq!(pair.oracle.sessions(), 0);
        pair.lab.close();
    }
}

/// The property would prove little if nearly all packets were dropped.
#[test]
fn the_model_forwards_many_packets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let steps = prop::collection::vec(step(), 1000..1001).new_tree(&mut runner).unwrap().current();
    let mut pair = Pair::new(NatBehavior::default());
    steps.iter().for_each(|step| pair.step(step));
    assert!(pair.forwarded > 250, "{}", pair.forwarded);
    assert!(pair.lab.counters().sessions_created > 100);
}
