//! A worker takes the place of another, as if it were in another process: by the bytes that that has written, and the same packet
//! memory, mapped again.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_dataplane::arena::{FramePool, Memory};
use sluice_dataplane::clock::{MILLISECOND, Nanos, SECOND};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::pair;
use sluice_dataplane::saved::{Restored, Unreadable};
use sluice_dataplane::snapshot::{Allocation, NatFiltering, PortBlocks, PortRest, Snapshot};
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;

use crate::fleet::Fleet;
use crate::lab::{HOST6, LAN, Lab, Out, POOL, SERVER, SERVER6, WAN, host, snapshot};
use crate::packets::{
    ACK, End, FIN, RST, SYN, UDP, arp_request, ends, frame, network, ping, pong, tcp, udp, udp6,
};
use crate::port_control::{controlled, request, response};

/// A worker of this configuration with the ports of another one, and its packet memory. No chunk of that is free.
fn successor(old: &mut Worker, snapshot: Arc<Snapshot>) -> Worker {
    let memory = old.shard().pool.memory();
    let file = memory.descriptor().unwrap().try_clone_to_owned().unwrap();
    let memory = Memory::inherit(file, memory.count(), memory.pages()).unwrap();
    let port = |port: &mut Box<dyn Port>| std::mem::replace(port, Box::new(pair(1).0));
    let ports = old.ports().iter_mut().map(port).collect();
    Worker::new(snapshot, ports, FramePool::inherited(memory))
}

impl Lab {
    /// Another worker takes the place of the present one.
    fn upgrade(&mut self, change: impl FnOnce(&mut Snapshot)) -> Restored {
        assert!(self.worker.drain(self.now));
        let state = self.worker.hand_over(self.now).unwrap();
        let mut next = Snapshot::clone(self.worker.snapshot());
        change(&mut next);
        let mut new = successor(&mut self.worker, Arc::new(next));
        let restored = new.take_over(&state, self.now).unwrap();
        self.worker = new;
        let counters = self.counters();
        assert!(counters.conserved(), "{counters:?}");
        restored
    }
}

impl Fleet {
    fn upgrade(&mut self) -> Restored {
        let now = self.now;
        while self.workers.iter_mut().map(|worker| u32::from(!worker.drain(now))).sum::<u32>() > 0 {}
        let states: Vec<_> = self.workers.iter_mut().map(|worker| worker.hand_over(now).unwrap()).collect();
        let snapshot = self.workers[0].snapshot().clone();
        let mut new: Vec<Worker> =
            self.workers.iter_mut().map(|old| successor(old, snapshot.clone())).collect();
        crossing::connect(&mut new);
        let mut sum = Restored::default();
        for (worker, state) in new.iter_mut().zip(&states) {
            sum.add(&worker.take_over(state, now).unwrap());
        }
        self.workers = new;
        sum
    }
}

#[derive(Clone, Debug)]
enum Step {
    Udp(u8, u16, u8),
    Tcp(u8, u16, u8, u8),
    Ping(u8, u8),
    Six(u16),
    /// The far end of what left answers; which one.
    Answer(usize, u8),
    Web(u16),
    Stranger(usize),
    Wait(Nanos),
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![SYN, ACK, ACK, ACK, FIN | ACK, RST]);
    prop_oneof![
        4 => (2u8..6, 4000u16..4006, 0u8..3).prop_map(|(host, port, to)| Step::Udp(host, port, to)),
        4 => (2u8..6, 4000u16..4003, 0u8..2, flags.clone()).prop_map(|(host, port, to, flags)| Step::Tcp(host, port, to, flags)),
        1 => (2u8..6, 0u8..3).prop_map(|(host, id)| Step::Ping(host, id)),
        1 => (1u16..4).prop_map(Step::Six),
        6 => (any::<usize>(), flags).prop_map(|(which, flags)| Step::Answer(which, flags)),
        1 => (1u16..4).prop_map(Step::Web),
        1 => any::<usize>().prop_map(Step::Stranger),
        2 => prop::sample::select(vec![MILLISECOND, SECOND, 20 * SECOND, 130 * SECOND, 400 * SECOND]).prop_map(Step::Wait),
        1 => Just(Step::Upgrade),
    ]
}

/// What comes out of a gateway, packet by packet, and what it has counted in the end.
fn run(steps: &[Step], snapshot: Snapshot, upgrades: bool) -> (Vec<Out>, Counters) {
    let mut lab = Lab::new(snapshot);
    let (mut all, mut left): (Vec<Out>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut restored = 0;
    for step in steps {
        let server = |to: u8| (SERVER, 53 + u16::from(to));
        let out = match *step {
            Step::Udp(last, port, to) => lab.pass(LAN, &udp((host(last), port), server(to), b"question")),
            Step::Tcp(last, port, to, flags) => {
                lab.pass(LAN, &tcp((host(last), port), server(to), flags, b""))
            }
            Step::Ping(last, id) => lab.pass(LAN, &ping(host(last), SERVER, id.into())),
            Step::Six(port) => lab.pass(LAN, &udp6((HOST6, port), (SERVER6, 53), b"question")),
            Step::Web(port) => lab.pass(WAN, &tcp((SERVER, port), (POOL[0], 8080), SYN, b"")),
            Step::Answer(which, flags) if !left.is_empty() => {
                let packet = &left[which % left.len()];
                let (from, to) = ends(packet);
                match packet[9] {
                    UDP => lab.pass(WAN, &udp(to, from, b"answer")),
                    6 => lab.pass(WAN, &tcp(to, from, flags | ACK, b"answer")),
                    _ => lab.pass(WAN, &pong(to.0, from.0, u16::from_be_bytes([packet[24], packet[25]]))),
                }
            }
            Step::Stranger(which) if !left.is_empty() => {
                let (from, _) = ends(&left[which % left.len()]);
                lab.pass(WAN, &udp((SERVER, 7), from, b"hello"))
            }
            Step::Wait(time) => {
                lab.wait(time);
                lab.collect()
            }
            Step::Upgrade if upgrades => {
                restored += u64::from(lab.worker.shard().sessions.live());
                let taken = lab.upgrade(|_| ());
                restored -= taken.sessions;
                assert_eq!((taken.ended, taken.lost, taken.bindings_lost), (0, 0, 0));
                lab.poll();
                lab.collect()
            }
            _ => continue,
        };
        for (port, bytes) in &out {
            if *port == WAN && network(bytes)[0] == 0x45 {
                left.push(network(bytes).to_vec());
            }
        }
        all.extend(out);
    }
    assert_eq!(restored, 0, "every session goes on");
    let sessions = &lab.worker.shard().sessions;
    let live = sessions.live();
    let counters = lab.close();
    assert_eq!(counters.sessions, u64::from(live));
    (all, counters)
}

/// A gateway whose pool is of this kind: in blocks or not, who may come in, and whether hosts have bounds.
fn gateway((in_blocks, filtering, is_bounded): (bool, NatFiltering, bool)) -> Snapshot {
    let mut snapshot = snapshot();
    let pool = &mut snapshot.pools[0];
    if in_blocks {
        pool.allocation = Allocation::Blocks(PortBlocks { size: 64, most: 2, hold: 120 * SECOND });
    }
    pool.behavior.filtering = filtering;
    if is_bounded {
        (pool.max_sessions, pool.max_ports, pool.max_new) = (6, 5, 3);
    }
    snapshot.port_rest = PortRest { time: 60 * SECOND, ..snapshot.port_rest };
    snapshot
}

fn kinds() -> impl Strategy<Value = (bool, NatFiltering, bool)> {
    let filterings = prop::sample::select(vec![
        NatFiltering::EndpointIndependent,
        NatFiltering::AddressDependent,
        NatFiltering::AddressAndPortDependent,
    ]);
    (any::<bool>(), filterings, any::<bool>())
}

proptest! {
    #![proptest_config(crate::lab::cases(40))]

    #[test]
    fn what_comes_out_is_what_would_have_without_an_upgrade(
        steps in prop::collection::vec(step(), 1..80), kind in kinds(),
    ) {
        let (with, mut counted) = run(&steps, gateway(kind), true);
        let (without, mut wanted) = run(&steps, gateway(kind), false);
        prop_assert_eq!(with, without);
        for counters in [&mut counted, &mut wanted] {
            counters.recorder = Default::default();
        }
        prop_assert_eq!(counted, wanted);
    }

    #[test]
    fn among_several_workers_every_conversation_goes_on(
        hosts in prop::collection::vec((2u8..40, 4000u16..4004), 1..20), workers in 2usize..5,
    ) {
        let mut fleet = Fleet::new(snapshot(), workers);
        let mut known: Vec<(End, End)> = Vec::new();
        for &(last, port) in &hosts {
            let (_, out) = fleet.forward(LAN, &udp((host(last), port), (SERVER, 53), b"question"));
            known.push(((host(last), port), ends(&out).0));
        }
        for _ in 0..3 {
            let (sessions, bindings) = (fleet.sessions(), fleet.bindings());
            let before = fleet.counters();
            let restored = fleet.upgrade();
            prop_assert_eq!((restored.sessions, restored.bindings), (sessions.into(), bindings.into()));
            prop_assert_eq!((fleet.sessions(), fleet.bindings()), (sessions, bindings));
            prop_assert_eq!(fleet.counters().rx(), before.rx());
            for &(inside, external) in &known {
                let (port, out) = fleet.forward(WAN, &udp((SERVER, 53), external, b"answer"));
                prop_assert_eq!((port, ends(&out)), (LAN, ((SERVER, 53), inside)));
                let (port, out) = fleet.forward(LAN, &udp(inside, (SERVER, 53), b"question"));
                prop_assert_eq!((port, ends(&out)), (WAN, (external, (SERVER, 53))));
            }
            fleet.wait(SECOND);
        }
        fleet.close();
    }
}

#[test]
fn a_mapping_that_was_asked_for_lives_on_with_its_lease() {
    let mut lab = Lab::new(controlled());
    let (_, out) = lab.forward(LAN, &request(host(9), 6000, 600));
    let (_, _, external) = response(&out);
    lab.upgrade(|_| ());
    let (port, out) = lab.forward(WAN, &udp((SERVER, 53), external, b"hello"));
    assert_eq!((port, ends(&out)), (LAN, ((SERVER, 53), (host(9), 6000))));
    // Its name is known still: the same host renews it, and it is the same.
    let (_, out) = lab.forward(LAN, &request(host(9), 6000, 600));
    assert_eq!(response(&out), (0, 600, external));
    lab.upgrade(|_| ());
    lab.wait(601 * SECOND);
    lab.wait(SECOND);
    assert_eq!(lab.worker.shard().nat.leased(), 0);
    lab.close();
}

#[test]
fn what_waits_for_a_neighbour_goes_on_when_it_answers() {
    let mut snapshot = snapshot();
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = false);
    let mut lab = Lab::new(snapshot);
    for port in 0..3 {
        lab.send(LAN, &frame(LAN, &udp((host(9), 4000 + port), (SERVER, 53), b"question")));
    }
    lab.poll();
    assert_eq!(lab.worker.held(), 3);
    lab.upgrade(|_| ());
    assert_eq!(lab.worker.held(), 3);
    lab.poll();
    assert_eq!(lab.worker.held(), 3, "they wait again");
    // The new one asks, too.
    lab.wait(MILLISECOND);
    let asked = lab.collect();
    for (port, answer) in lab.arp_answers(&asked) {
        lab.send(port, &answer);
    }
    lab.poll();
    let datagrams = |out: Vec<Out>| {
        out.iter().filter(|(port, frame)| *port == WAN && frame[12] == 8 && network(frame)[9] == UDP).count()
    };
    assert_eq!((datagrams(lab.collect()), lab.worker.held()), (3, 0));
    // The neighbour is known to the next one, too.
    lab.upgrade(|_| ());
    assert_eq!(datagrams(lab.pass(LAN, &udp((host(9), 4000), (SERVER, 53), b"again"))), 1);
    lab.send(LAN, &arp_request([2, 9, 9, 9, 9, 9], host(8), crate::lab::GATEWAY_LAN));
    lab.poll();
    lab.close();
}

#[test]
fn one_that_cannot_be_handed_over_goes_on() {
    let mut lab = Lab::new(snapshot());
    let question = udp((host(9), 4000), (SERVER, 53), b"question");
    let (_, out) = lab.forward(LAN, &question);
    let (external, _) = ends(&out);
    lab.send(LAN, &frame(LAN, &udp((host(9), 4001), (SERVER, 53), b"question")));
    assert!(lab.worker.drain(lab.now));
    lab.worker.hand_over(lab.now).unwrap();
    lab.worker.resume();
    lab.poll();
    assert_eq!(lab.collect().len(), 1, "what lay in the ring came in");
    let (port, out) = lab.forward(WAN, &udp((SERVER, 53), external, b"answer"));
    assert_eq!((port, ends(&out).1), (LAN, (host(9), 4000)));
    assert!(lab.worker.drain(lab.now));
    lab.worker.hand_over(lab.now).unwrap();
    lab.worker.resume();
    lab.forward(LAN, &question);
    lab.close();
}

#[test]
fn sessions_go_by_the_configuration_as_the_new_one_compiles_it() {
    let mut lab = Lab::new(snapshot());
    for port in 0..10 {
        lab.forward(LAN, &udp((host(9), 4000 + port), (SERVER, 53), b"question"));
    }
    let restored = lab.upgrade(|next| next.source_nat.clear());
    assert_eq!((restored.sessions, restored.ended, restored.bindings), (0, 10, 10));
    assert_eq!((lab.worker.shard().sessions.live(), lab.worker.shard().nat.live()), (0, 0));
    assert_eq!(lab.counters().sessions_ended_by_policy, 10);
    lab.close();
}

#[test]
fn the_state_of_other_ports_is_refused() {
    let mut lab = Lab::new(snapshot());
    lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
    assert!(lab.worker.drain(lab.now));
    let state = lab.worker.hand_over(lab.now).unwrap();
    let mut other = snapshot();
    other.ports[0].name = "inside".into();
    let mut new = Worker::new(Arc::new(other), Vec::new(), FramePool::shareable(1000).unwrap());
    assert_eq!(new.take_over(&state, lab.now), Err(Unreadable::Other("ports or interfaces")));
    assert_eq!(new.take_over(b"nothing", lab.now), Err(Unreadable::NoState));
    lab.worker.resume();
    lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"again"));
    assert_eq!(lab.drops(DropReason::Shutdown), 0);
    lab.close();
}
