//! Whatever comes in: no panic, and nothing lost.

use proptest::prelude::*;

use super::arp_nd::{advertisement, arp, solicitation};
use super::echo::{ping4, ping6};
use super::*;
use sluice_pkt::parse::parse;

fn seeds() -> Vec<Vec<u8>> {
    let tcp = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv4(HOST4.octets(), LAN4.octets(), 9);
    vec![
        arp(1, HOST_MAC, HOST4, LAN4),
        arp(2, HOST_MAC, HOST4, LAN4),
        solicitation(LAN6),
        advertisement(0x60),
        ping4(HOST4, LAN4, b"some data"),
        ping6(HOST6, LAN6, b"some data"),
        udp4(HOST4, LAN4, b"some data"),
        udp6(HOST6, LAN6, b"some data"),
        packet!(tcp.tcp(4000, 22, 1, 1).syn(), b""),
    ]
}

/// What is done to a packet before it comes in.
#[derive(Clone, Debug)]
enum Step {
    Mutated { seed: usize, changes: Vec<(usize, u8)>, cut: usize, fix: bool },
    Bytes(Vec<u8>),
    Resolve { interface: u16, host: u8, hold: bool },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((12usize..100, any::<u8>()), 0..4);
    prop_oneof![
        6 => (0usize..9, changes, 0usize..20, any::<bool>())
            .prop_map(|(seed, changes, cut, fix)| Step::Mutated { seed, changes, cut: cut.saturating_sub(12), fix }),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Step::Bytes),
        3 => (0u16..4, any::<u8>(), any::<bool>())
            .prop_map(|(interface, host, hold)| Step::Resolve { interface, host, hold }),
        2 => (0u64..5 * SECOND).prop_map(Step::Pass),
    ]
}

/// Makes the checksums right, so that changes get past them.
fn fix(frame: &mut [u8]) {
    if let Some(mut ip) = ipv4::Header::at_mut(frame, 14).filter(|ip| ip.0[0] == 0x45) {
        ip.fill_checksum();
    }
    let Ok(headers) = parse(frame) else { return };
    let (start, end) = (usize::from(headers.l4_offset), usize::from(headers.end));
    match (headers.l3, headers.protocol) {
        (L3::Ipv4, ipv4::ICMP) => {
            frame[start + 2..start + 4].fill(0);
            let sum = checksum::Sum::of(&frame[start..end]).checksum();
            frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        }
        (L3::Ipv6, ipv6::ICMPV6) => {
            let ip = ipv6::Header::at(frame, 14).unwrap();
            let (source, destination) = (ip.source(), ip.destination());
            frame[start + 2..start + 4].fill(0);
            let sum = icmpv6::checksum(source, destination, &frame[start..end]);
            frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
}

fn run(gateway: &mut Gateway, step: Step) {
    match step {
        Step::Mutated { seed, changes, cut, fix: right } => {
            let mut frame = seeds().swap_remove(seed);
            for (at, value) in changes {
                let at = at % frame.len();
                frame[at] = value;
            }
            frame.truncate(frame.len() - cut);
            if right {
                fix(&mut frame);
            }
            for frame in gateway.input(LAN, &frame).1 {
                assert!(parse(&frame).is_ok(), "what we send is well-formed");
            }
        }
        Step::Bytes(bytes) => drop(gateway.input(LAN, &bytes)),
        Step::Resolve { interface, host, hold } => {
            let target = Ipv4Addr::new(192, 0, 2, host);
            if let Ok(index) = gateway.resolve(interface, target) {
                if hold {
                    gateway.hold(index, LAN, &udp4(HOST4, target, b"waits"));
                }
            }
        }
        Step::Pass(time) => {
            gateway.now += time;
            gateway.tick();
            gateway.sent(LAN);
            gateway.sent(WAN);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_panic_and_nothing_lost(steps in prop::collection::vec(step(), 1..60)) {
        let mut gateway = Gateway::new();
        let mut burst = Burst::default();
        for step in steps {
            run(&mut gateway, step);
            gateway.neighbors.release(&mut burst);
            for i in 0..burst.len() {
                let frame = burst.take(i).unwrap();
                gateway.pool.give(frame);
                gateway.counters.dropped(DropReason::Shutdown, 1);
            }
            burst.clear();
            gateway.check();
            prop_assert!(gateway.neighbors.iter().filter(|n| !n.state.is_resolved()).count() <= 16);
            prop_assert!(gateway.neighbors.iter().count() <= 64);
        }
    }
}
