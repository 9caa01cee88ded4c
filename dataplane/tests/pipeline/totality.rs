//! Whatever comes in, at whatever times: nothing panics, every packet is accounted for after every poll, and at the end
//! every frame is home.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::{MILLISECOND, Nanos, SECOND};
use sluice_dataplane::snapshot::{Sizes, Snapshot};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, GATEWAY_WAN, LAN, Lab, POOL, SERVER, TRUNK, WAN, WEB, host, snapshot};
use crate::packets::{self, Ip, arp_request, icmp_message, network, tagged, tcp, udp_segment, udp6};

const HOUR: Nanos = 3600 * SECOND;

fn address() -> impl Strategy<Value = Ipv4Addr> {
    let known = vec![
        SERVER,
        WEB,
        GATEWAY_LAN,
        GATEWAY_WAN,
        POOL[0],
        POOL[1],
        Ipv4Addr::new(172, 16, 0, 5),
        Ipv4Addr::new(10, 10, 0, 6),
        Ipv4Addr::new(10, 20, 0, 7),
        Ipv4Addr::new(198, 18, 0, 1),
        Ipv4Addr::new(198, 19, 0, 1),
        Ipv4Addr::new(192, 168, 1, 255),
        Ipv4Addr::BROADCAST,
    ];
    prop_oneof![
        4 => (2..12u8).prop_map(host),
        4 => prop::sample::select(known),
        2 => any::<u8>().prop_map(|last| Ipv4Addr::new(172, 16, 0, last)),
        1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
    ]
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 0..6u16, 3 => prop::sample::select(vec![53, 80, 8080, 8081, 5300, 25, 137]), 1 => any::<u16>()]
}

/// A valid IPv4 packet of any protocol, perhaps a fragment, perhaps with options.
fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let transport = (0..6u8, ports(), ports(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..60));
    let fragment = prop_oneof![
        5 => Just((0u16, false)),
        1 => Just((0, true)),
        1 => (1..9u16, any::<bool>()).prop_map(|(n, more)| (n * 8, more)),
    ];
    let options = prop_oneof![
        6 => Just(vec![]),
        1 => Just(vec![148, 4, 0, 0]),
        1 => Just(vec![7, 7, 4, 0, 0, 0, 0, 1]),
        1 => Just(vec![131, 3, 4, 0]),
    ];
    let size = prop_oneof![5 => Just(0usize), 1 => 500..1400usize];
    (address(), address(), transport, fragment, options, (0..5u8, any::<bool>(), size)).prop_map(
        |(src, dst, (kind, from, to, flags, data), fragment, options, (ttl, dont_fragment, size))| {
            let data = [&data[..], &vec![0x5a; size]].concat();
            let (protocol, payload) = match kind {
                0 | 1 => (packets::UDP, udp_segment((src, from), (dst, to), &data)),
                2 | 3 => (packets::TCP, tcp((src, from), (dst, to), flags, &data)[20..].to_vec()),
                4 => {
                    let kind = [0, 8, 8, 3, 11, 13][usize::from(flags % 6)];
                    (packets::ICMP, icmp_message(kind, 0, [0, from as u8, 0, 1], &data))
                }
                _ => (flags, data),
            };
            let ttl = [0, 1, 2, 64, 255][usize::from(ttl)];
            let payload = if fragment.1 { &payload[..payload.len() / 8 * 8] } else { &payload[..] };
            let ip = Ip { fragment, options, ttl, dont_fragment, id: from, ..Ip::new(src, dst, protocol) };
            ip.packet(payload)
        },
    )
}

/// What is done at one moment.
#[derive(Clone, Debug)]
enum Event {
    Frame(usize, Vec<u8>),
    /// What came out by some port comes back to it: turned round, quoted in an error, or as it is.
    Answer(usize, u8),
    Poll(Nanos),
}

fn event() -> impl Strategy<Value = Event> {
    let tags = prop::sample::select(vec![vec![], vec![], vec![10], vec![100, 200], vec![0], vec![7]]);
    let v6 = (any::<u16>(), any::<u16>(), 0..6u8, 0..1300usize).prop_map(|(from, to, which, size)| {
        let other =
            ["2001:db8:2::5", "2001:db8:ff::7", "2001:db8:1::1", "ff02::1", "fe80::1", "2001:db8:ff::9"];
        let dst = other[usize::from(which)].parse().unwrap();
        udp6((crate::lab::HOST6, from % 8), (dst, to % 8), &vec![6; size])
    });
    let arp = (2..12u8, any::<bool>()).prop_map(|(n, ours)| {
        arp_request([2, 0x77, 192, 168, 1, n], host(n), if ours { GATEWAY_LAN } else { host(n) })
    });
    let time = prop_oneof![
        20 => Just(0),
        10 => 1..50 * MILLISECOND,
        4 => 1..20 * SECOND,
        1 => 1..3 * HOUR,
        1 => Just(3 * 365 * 24 * HOUR),
    ];
    prop_oneof![
        10 => (0..3usize, tags, ipv4()).prop_map(|(port, tags, ip)| {
            Event::Frame(port, tagged(port, if port == TRUNK { &tags } else { &[] }, &ip))
        }),
        3 => (0..3usize, v6).prop_map(|(port, ip)| Event::Frame(port, packets::frame(port, &ip))),
        2 => arp.prop_map(|frame| Event::Frame(LAN, frame)),
        1 => (0..3usize, prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(p, bytes)| Event::Frame(p, bytes)),
        4 => (0..3usize, ipv4(), 0..120usize, any::<u8>()).prop_map(|(port, ip, at, byte)| {
            let mut frame = packets::frame(port, &ip);
            let at = at % frame.len();
            frame[at] = byte;
            Event::Frame(port, frame)
        }),
        1 => (0..3usize, ipv4(), any::<usize>()).prop_map(|(port, ip, at)| {
            let mut frame = packets::frame(port, &ip);
            frame.truncate(at % frame.len());
            Event::Frame(port, frame)
        }),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(which, how)| Event::Answer(which, how)),
        8 => time.prop_map(Event::Poll),
    ]
}

/// Small tables, few frames, small MTUs.
fn tight(ask: bool) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.sizes = Sizes { sessions: 24, neighbors: 12, fragments: 4, frames: 24 };
    snapshot.pools[0].ports = (2000, 2000);
    snapshot.pools[0].addresses.truncate(1);
    snapshot.icmp_per_second = 20;
    snapshot.limits[0].burst = 1500;
    snapshot.limits[0].rate.bits_per_second = 8_000;
    snapshot.interfaces[WAN].mtu = 576;
    snapshot.interfaces[3].mtu = 68;
    for port in &mut snapshot.ports {
        port.invent_neighbors = !ask;
        port.complete_checksums = ask;
    }
    snapshot
}

/// Something that was seen on the wire comes back.
fn answer(frame: &[u8], port: usize, how: u8) -> Vec<u8> {
    if let Some(reply) = packets::arp_reply(frame) {
        return reply;
    }
    let mut back = frame.to_vec();
    if back.len() < 34 {
        return back;
    }
    let ip = network(frame).to_vec();
    let at = frame.len() - ip.len();
    back[..6].copy_from_slice(&crate::lab::mac(port));
    back[6..12].copy_from_slice(&[2, 0x77, 0, 0, 0, 1]);
    if ip[0] != 0x45 || ip.len() < 28 {
        return back;
    }
    match how % 4 {
        0 => back,
        1 => {
            let about = &ip[..ip.len().min(28 + usize::from(how))];
            [&back[..at], &packets::error(SERVER, 3 + (how & 8), how >> 6, &ip, about.len())].concat()
        }
        _ => {
            for n in 0..4 {
                back.swap(at + 12 + n, at + 16 + n);
            }
            if ip[9] == packets::ICMP {
                back[at + 20] = if ip[20] == 8 { 0 } else { ip[20] };
            } else {
                back.swap(at + 20, at + 22);
                back.swap(at + 21, at + 23);
            }
            back
        }
    }
}

fn run(events: &[Event], ask: bool, rings: usize, start: Nanos) -> Lab {
    let mut lab = Lab::with_rings(tight(ask), rings);
    lab.now = start;
    let mut seen: Vec<crate::lab::Out> = Vec::new();
    for event in events {
        match event {
            Event::Frame(port, frame) => _ = lab.peers[*port].inject(0, frame),
            Event::Answer(which, how) => {
                if let Some((port, frame)) = seen.get(which % seen.len().max(1)) {
                    lab.peers[*port].inject(0, &answer(frame, *port, *how));
                }
            }
            Event::Poll(time) => {
                lab.now = lab.now.saturating_add(*time);
                lab.poll();
                seen.extend(lab.collect());
                seen.drain(..seen.len().saturating_sub(64));
                invariants(&lab);
            }
        }
    }
    lab
}

fn invariants(lab: &Lab) {
    let shard = lab.worker.shard();
    let sessions = (0..shard.sessions.slots()).filter_map(|i| shard.sessions.get(i));
    assert_eq!(sessions.clone().count(), shard.sessions.live() as usize);
    let mut users = vec![0; shard.nat.slots() as usize];
    for session in sessions {
        if let Some(users) = users.get_mut(session.binding as usize) {
            *users += 1;
        }
    }
    let mut taken = std::collections::HashSet::new();
    for (index, users) in users.into_iter().enumerate() {
        let binding = shard.nat.get(index as u32);
        assert_eq!(binding.map_or(0, |b| b.sessions), users, "users of binding {index}");
        assert!(binding.is_none_or(|b| users > 0 && taken.insert((b.protocol, b.external))));
    }
    let flows = shard.sessions.v4.len() + shard.sessions.v6.len();
    assert!(flows <= 2 * shard.sessions.live());
}

proptest! {
    #![proptest_config(crate::lab::cases(160))]

    #[test]
    fn everything_is_accounted_for(
        events in prop::collection::vec(event(), 1..400),
        ask in any::<bool>(),
        rings in 8..128usize,
    ) {
        run(&events, ask, rings, 1000 * SECOND).close();
    }

    #[test]
    fn the_end_of_time_is_a_time_like_any_other(
        events in prop::collection::vec(event(), 1..100),
        ask in any::<bool>(),
        left in prop::sample::select(vec![0, SECOND, 100 * SECOND, HOUR]),
    ) {
        run(&events, ask, 64, Nanos::MAX - left).close();
    }
}

/// The properties above would prove little if they never got anywhere.
#[test]
fn the_events_reach_far() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = prop::collection::vec(event(), 6000..6001);
    let mut drops = vec![0; DropReason::COUNT];
    let mut split = 0;
    for (ask, rings) in [(false, 8), (true, 48)] {
        let events = strategy.new_tree(&mut runner).unwrap().current();
        let counters = run(&events, ask, rings, 1000 * SECOND).close();
        assert!(counters.tx() > 500 && counters.sessions_created > 100, "{counters:?}");
        drops.iter_mut().zip(&counters.drops).for_each(|(sum, n)| *sum += n);
        split += counters.split_extra;
    }
    assert!(split > 0);
    let wanted = [
        DropReason::AclDeny,
        DropReason::Blackhole,
        DropReason::FragmentTableFull,
        DropReason::FragmentUnknown,
        DropReason::IcmpNoSession,
        DropReason::LocalUnwanted,
        DropReason::Multicast,
        DropReason::NatNoSession,
        DropReason::NatPortsExhausted,
        DropReason::NatProtocol,
        DropReason::NeighborQueueFull,
        DropReason::NeighborTableFull,
        DropReason::NeighborUnreachable,
        DropReason::NoFrame,
        DropReason::NoRoute,
        DropReason::PacketTooBig,
        DropReason::RateLimited,
        DropReason::SessionTableFull,
        DropReason::SourceRoute,
        DropReason::TcpNoSession,
        DropReason::TtlExpired,
    ];
    let missed: Vec<_> = wanted.iter().filter(|&&reason| drops[reason as usize] == 0).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
