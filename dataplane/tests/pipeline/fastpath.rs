//! The fast path does what the stages do: two gateways, one of which takes no packet by the fast path, get the same
//! traffic, and must answer, count and remember the same.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::matcher::Program;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::trace::{self, TraceReader, Wanted};

use crate::lab::{HOST6, LAN, Lab, Out, SERVER, SERVER6, TRUNK, WAN, host, snapshot};
use crate::packets::{
    self, Ip, checksums_are_right, ends, frame, network, tagged, tcp, udp, udp_segment, udp6,
};

/// The same gateway twice: with the fast path, and without.
struct Twins([Lab; 2]);

impl Twins {
    fn new(snapshot: &Snapshot) -> Self {
        Self([false, true].map(|stages_only| Lab::new(Snapshot { stages_only, ..snapshot.clone() })))
    }

    fn send(&mut self, port: usize, frame: &[u8]) {
        self.0.iter_mut().for_each(|lab| lab.send(port, frame));
    }

    /// Takes one burst through both. What came out.
    fn poll(&mut self) -> Vec<(usize, Vec<u8>)> {
        let [fast, slow] = &mut self.0;
        assert_eq!(fast.poll(), slow.poll());
        assert_eq!(fast.counters(), slow.counters());
        let (out, expected) = (fast.collect(), slow.collect());
        assert_eq!(out, expected);
        let sessions = |lab: &Lab| {
            let shard = lab.worker.shard();
            let v4 = shard.sessions.v4.iter().map(|(index, key, flow)| format!("{index} {key:?} {flow:?}"));
            let v6 = shard.sessions.v6.iter().map(|(index, key, flow)| format!("{index} {key:?} {flow:?}"));
            v4.chain(v6).collect::<Vec<_>>()
        };
        assert_eq!(sessions(fast), sessions(slow));
        out
    }

    fn close(self) {
        let [fast, slow] = self.0.map(Lab::close);
        assert_eq!(fast, slow);
    }
}

/// From now on each packet of a gateway is traced, which changes nothing.
fn trace(lab: &mut Lab) -> TraceReader {
    let (tracer, reader) = trace::channel(vec![Wanted { program: Program::default(), left: u32::MAX }]);
    // Its worker takes it when it is polled.
    let mut inspector = lab.worker.inspector().unwrap();
    assert!(!inspector.set_tracer(Some(tracer), Duration::ZERO));
    lab.poll();
    assert!(lab.worker.shard().tracer.is_some());
    reader
}

/// The answer of the other end to a packet that came out by a port.
fn answer(port: usize, bytes: &[u8], flags: u8) -> Option<Vec<u8>> {
    let ip = network(bytes);
    if ip.len() < 28 || ip[0] != 0x45 {
        return None;
    }
    let (src, dst) = ends(ip);
    let packet = match ip[9] {
        packets::UDP => udp(dst, src, b"answer"),
        packets::TCP => tcp(dst, src, flags, b"answer"),
        _ => return None,
    };
    Some(if port == TRUNK { tagged(TRUNK, &[10], &packet) } else { frame(port, &packet) })
}

#[derive(Clone, Debug)]
enum Event {
    /// A packet by a port: kind, host, port, TCP flags, TTL, length of the data.
    Packet(usize, u8, u8, u16, u8, u8, usize),
    /// What came out last comes back, turned round; with other TCP flags.
    Answer(u8),
    /// An IPv6 packet, or a reply to it: TCP flags (UDP without), source port, hop limit, length of the data, and where a
    /// byte is changed to what, if anywhere.
    Six(bool, Option<u8>, u16, u8, usize, Option<(usize, u8)>),
    /// Bytes are changed before it is sent: the offset and what is added.
    Broken(usize, u8, u8),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop_oneof![4 => Just(packets::ACK), 1 => any::<u8>()];
    let ttl = prop_oneof![6 => Just(64u8), 1 => 0..3u8];
    let size = prop_oneof![4 => 0..40usize, 1 => 1400..1480usize];
    let packet = (0..3usize, 0..8u8, 2..5u8, 0..4u16, flags.clone(), ttl, size);
    let broken = prop::option::weighted(0.1, (0..80usize, any::<u8>()));
    let hops = prop_oneof![6 => Just(64u8), 1 => 0..3u8];
    let six_size = prop_oneof![4 => 0..40usize, 1 => 1380..1440usize];
    let six = (any::<bool>(), prop::option::of(flags.clone()), 0..3u16, hops, six_size, broken);
    prop_oneof![
        8 => packet.prop_map(|(port, kind, last, source, flags, ttl, size)| {
            Event::Packet(port, kind, last, source, flags, ttl, size)
        }),
        8 => flags.prop_map(Event::Answer),
        5 => six.prop_map(|(reply, flags, source, hops, size, broken)| {
            Event::Six(reply, flags, source, hops, size, broken)
        }),
        2 => (0..60usize, any::<u8>(), 0..4u8).prop_map(|(at, add, last)| Event::Broken(at, add, last)),
        1 => (0..400u64).prop_map(Event::Wait),
    ]
}

fn packet(kind: u8, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8, ttl: u8, size: usize) -> Vec<u8> {
    let data = vec![0x5a; size];
    let ip = |protocol| Ip { ttl, dont_fragment: size % 2 == 0, ..Ip::new(src.0, dst.0, protocol) };
    match kind {
        0..3 => ip(packets::UDP).packet(&udp_segment(src, dst, &data)),
        3..6 => ip(packets::TCP).packet(&tcp(src, dst, flags, &data)[20..]),
        6 => {
            // No checksum (RFC 768).
            let mut datagram = udp_segment(src, dst, &data);
            datagram[6..8].fill(0);
            ip(packets::UDP).packet(&datagram)
        }
        _ => Ip { options: vec![1, 1, 1, 0], ..ip(packets::UDP) }.packet(&udp_segment(src, dst, &data)),
    }
}

/// An IPv6 packet of a host of the inside, or the reply to it.
fn six(reply: bool, flags: Option<u8>, source: u16, hops: u8, size: usize) -> Vec<u8> {
    let (inside, outside) = ((HOST6, 4000 + source), (SERVER6, 53));
    let (from, to) = if reply { (outside, inside) } else { (inside, outside) };
    let mut packet = udp6(from, to, &vec![0x5a; size]);
    packet[7] = hops;
    if let Some(flags) = flags {
        packet.splice(44..48, [0; 16]);
        packet[6] = packets::TCP;
        packet[4..6].copy_from_slice(&(20 + size as u16).to_be_bytes());
        (packet[52], packet[53]) = (5 << 4, flags);
    }
    packet
}

proptest! {
    #![proptest_config(crate::lab::cases(150))]

    #[test]
    fn both_ways_give_the_same(
        events in prop::collection::vec(event(), 1..150),
        slow_limit in any::<bool>(),
        complete in any::<bool>(),
        small_mtu in any::<bool>(),
        traced in prop::option::of(0..2usize),
    ) {
        let mut snapshot = snapshot();
        if slow_limit {
            snapshot.limits[0].rate.bits_per_second = 80_000;
            snapshot.limits[0].burst = 3000;
        }
        snapshot.ports[LAN].complete_checksums = complete;
        if small_mtu {
            snapshot.interfaces[WAN].mtu = 600;
        }
        let mut twins = Twins::new(&snapshot);
        let mut reader = traced.map(|which| trace(&mut twins.0[which]));
        let mut out: Vec<Out> = Vec::new();
        for event in events {
            // Within a burst, what takes the fast path asks a limit before all others.
            if slow_limit {
                twins.poll();
            }
            match event {
                Event::Packet(LAN, kind, last, source, flags, ttl, size) => {
                    let packet = packet(kind, (host(last), 4000 + source), (SERVER, 53), flags, ttl, size);
                    twins.send(LAN, &frame(LAN, &packet));
                }
                Event::Packet(WAN, kind, last, source, flags, ttl, size) => {
                    let to = (crate::lab::POOL[0], if kind < 3 { 5300 } else { 8080 + u16::from(last) });
                    twins.send(WAN, &frame(WAN, &packet(kind, (SERVER, 4000 + source), to, flags, ttl, size)));
                }
                Event::Packet(_, kind, last, source, flags, ttl, size) => {
                    let guest = (Ipv4Addr::new(10, 10, 0, last), 7000 + source);
                    let packet = packet(kind, guest, (host(last), 7), flags, ttl, size);
                    twins.send(TRUNK, &tagged(TRUNK, &[10], &packet));
                }
                Event::Six(reply, flags, source, hops, size, broken) => {
                    let port = if reply { WAN } else { LAN };
                    let mut bytes = frame(port, &six(reply, flags, source, hops, size));
                    if let Some((at, value)) = broken {
                        let at = at.min(bytes.len() - 1);
                        bytes[at] = value;
                        bytes.truncate(if value % 7 == 0 { at } else { bytes.len() });
                    }
                    twins.send(port, &bytes);
                }
                Event::Answer(flags) => {
                    for (port, bytes) in out.drain(..) {
                        if let Some(answer) = answer(port, &bytes, flags) {
                            twins.send(port, &answer);
                        }
                    }
                }
                Event::Broken(at, add, last) => {
                    let mut bytes = frame(LAN, &udp((host(last), 4000), (SERVER, 53), b"broken"));
                    let at = at.min(bytes.len() - 1);
                    bytes[at] = bytes[at].wrapping_add(add);
                    bytes.truncate(if add % 7 == 0 { at } else { bytes.len() });
                    twins.send(LAN, &bytes);
                }
                Event::Wait(time) => {
                    for lab in &mut twins.0 {
                        lab.now += time * 100 * MILLISECOND;
                    }
                    out.extend(twins.poll());
                    // While nobody reads, the ring fills.
                    while let Some(traced) = reader.as_mut().and_then(TraceReader::take) {
                        let stages = traced.stages();
                        prop_assert!(stages.iter().any(|stage| stage.step.is_some()), "{:?}", stages);
                        prop_assert!(!traced.came().is_empty() || traced.len == 0);
                    }
                }
            }
        }
        twins.poll();
        twins.close();
    }
}

/// All of a burst may be of sessions that stand, and nothing else.
#[test]
fn a_burst_of_standing_sessions_leaves_nothing_to_the_stages() {
    let mut twins = Twins::new(&snapshot());
    for round in 0..3 {
        for n in 0..64u16 {
            let (src, dst) = ((host(9), 4000 + n), (SERVER, 443));
            let packet =
                if n % 2 == 0 { udp(src, dst, b"data") } else { tcp(src, dst, packets::ACK, b"data") };
            twins.send(LAN, &frame(LAN, &packet));
        }
        let out = twins.poll();
        assert_eq!(out.len(), 64);
        for (port, bytes) in out {
            assert_eq!(port, WAN);
            if round == 0 {
                twins.send(WAN, &answer(WAN, &bytes, packets::ACK).unwrap());
            }
            assert_eq!(checksums_are_right(network(&bytes)), (true, true));
        }
        assert!(twins.poll().iter().all(|&(port, _)| port == LAN));
        twins.0.iter_mut().for_each(|lab| lab.now += SECOND);
    }
    twins.close();
}
