//! Frames that go through.

use sluice_dataplane::arena::{FramePool, HEADROOM};
use sluice_dataplane::burst::Burst;
use sluice_dataplane::port::af_xdp::{AttachedMode, BusyPoll, Count, KernelMatch, PortSpec, XdpMode, open};
use sluice_dataplane::port::{Outbox, Port};

use crate::lab::{Wire, frames, frames_up_to, in_namespace, ip, receive, send, spec, until, veth};

fn both_ways(mode: XdpMode, attached: AttachedMode) {
    veth("a", "b", 1);
    let mut pool = FramePool::new(1024, false).unwrap();
    let (mut ports, controls) = open(&mut pool, &[PortSpec { mode, ..spec("a") }]).unwrap();
    let (port, wire) = (&mut ports[0], Wire::new("b"));
    let info = controls[0].info();
    assert_eq!((info.mode, info.zero_copy, info.driver.as_str(), info.queues), (attached, false, "veth", 1));
    let shown = ip("-j link show dev a");
    assert!(
        shown.contains(if attached == AttachedMode::Native {
            r#""xdp":{"mode":1"#
        } else {
            r#""xdp":{"mode":2"#
        }),
        "{shown}"
    );

    let all = frames(10_000);
    for some in all.chunks(100) {
        some.iter().for_each(|frame| wire.send(frame));
        assert!(receive(port, &mut pool, some.len()) == some, "other frames came than were sent");
    }
    for some in all.chunks(100) {
        send(port, &mut pool, some);
        assert!(wire.receive_many(some.len()) == some, "other frames came than were sent");
    }
    assert_eq!(controls[0].kernel_drops(), Default::default());
    assert_eq!(controls[0].faults(), Default::default());
    assert!(port.lent() >= 512);
    port.close(&mut pool);
    assert_eq!(pool.free(), 1024);
}

#[test]
fn native_mode_carries_frames_both_ways() {
    in_namespace("native_mode_carries_frames_both_ways", || both_ways(XdpMode::Native, AttachedMode::Native));
}

#[test]
fn generic_mode_carries_frames_both_ways() {
    in_namespace("generic_mode_carries_frames_both_ways", || {
        both_ways(XdpMode::Generic, AttachedMode::Generic)
    });
}

#[test]
fn the_kernel_polls_in_our_calls() {
    in_namespace("the_kernel_polls_in_our_calls", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let busy_poll = Some(BusyPoll { microseconds: 20, budget: 64 });
        let (mut ports, controls) =
            open(&mut pool, &[PortSpec { busy_poll, batch: 8, ..spec("a") }]).unwrap();
        assert_eq!(controls[0].info().fallback, None);
        let (port, wire) = (&mut ports[0], Wire::new("b"));
        for some in frames(2000).chunks(100) {
            some.iter().for_each(|frame| wire.send(frame));
            assert!(receive(port, &mut pool, some.len()) == some, "other frames came than were sent");
            send(port, &mut pool, some);
            assert!(wire.receive_many(some.len()) == some, "other frames came than were sent");
        }
        // A burst is no more than the batch.
        frames(20).iter().for_each(|frame| wire.send(frame));
        let mut burst = Burst::default();
        until(|| {
            port.receive(0, &mut pool, &mut burst);
            !burst.is_empty()
        });
        assert!(burst.len() <= 8);
        (0..burst.len()).for_each(|i| pool.give(burst.take(i).unwrap()));
        assert_eq!(controls[0].faults(), Default::default());
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn two_ports_share_one_memory() {
    in_namespace("two_ports_share_one_memory", || from_port_to_port(false));
}

#[test]
fn two_groups_share_one_memory() {
    in_namespace("two_groups_share_one_memory", || from_port_to_port(true));
}

fn from_port_to_port(apart: bool) {
    veth("a", "a1", 1);
    veth("b", "b1", 1);
    let mut pool = FramePool::new(2048, false).unwrap();
    let (mut ports, controls) = open(&mut pool, &[spec("a"), PortSpec { apart, ..spec("b") }]).unwrap();
    let groups: Vec<u32> = controls.iter().map(|control| control.info().group).collect();
    assert_eq!(groups, [0, u32::from(apart)]);
    let [a, b] = &mut ports[..] else { panic!("two ports") };
    let (from, to) = (Wire::new("a1"), Wire::new("b1"));
    let (mut burst, mut outbox) = (Burst::default(), Outbox::new(64));
    let all = frames(10_000);
    let mut arrived = Vec::new();
    for some in all.chunks(100) {
        some.iter().for_each(|frame| from.send(frame));
        let mut count = 0;
        until(|| {
            a.receive(0, &mut pool, &mut burst);
            (0..burst.len()).for_each(|i| outbox.push(burst.take(i).unwrap()).unwrap());
            burst.clear();
            while !outbox.is_empty() {
                count += b.transmit(0, &mut pool, &mut outbox).packets;
            }
            count == some.len() as u64
        });
        arrived.extend(to.receive_many(some.len()));
    }
    assert!(arrived == all, "{} of {} frames, or others", arrived.len(), all.len());
    assert!(controls.iter().all(|control| control.faults() == Default::default()));
    a.close(&mut pool);
    b.close(&mut pool);
    assert_eq!(pool.free(), 2048);
}

#[test]
fn four_queues_make_one_port() {
    in_namespace("four_queues_make_one_port", || {
        veth("a", "b", 4);
        let mut pool = FramePool::new(4096, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        assert_eq!(controls[0].info().queues, 4);
        assert_eq!(controls[0].zero_copy_by_queue(), [false; 4]);
        let (port, wire) = (&mut ports[0], Wire::new("b"));
        assert_eq!(port.descriptors().len(), 4);
        // 100 flows, by source port, of 20 packets each, by identification.
        let mut got = Vec::new();
        for id in 0..20u8 {
            (0..100u8).for_each(|flow| wire.send(&packet(17, 4000 + flow as u16, 53, id)));
            got.extend(receive(port, &mut pool, 100));
        }
        assert_eq!(got.len(), 2000);
        for flow in 0..100u16 {
            let ids = got
                .iter()
                .filter(|frame| frame[34..36] == (4000 + flow).to_be_bytes())
                .map(|frame| frame[19]);
            assert!(ids.eq(0..20), "flow {flow} is out of order");
        }
        let statistics = std::process::Command::new("ethtool").args(["-S", "a"]).output();
        if let Ok(statistics) = statistics {
            let text = String::from_utf8_lossy(&statistics.stdout).into_owned();
            let used = (0..4).filter(|i| !text.contains(&format!("rx_queue_{i}_xdp_packets: 0\n"))).count();
            assert!(used > 1, "the frames came by one queue:\n{text}");
        }
        send(port, &mut pool, &frames(200));
        assert_eq!(wire.receive_many(200), frames(200));
        port.close(&mut pool);
        assert_eq!(pool.free(), 4096);
    });
}

/// An IPv4 packet of 60 bytes with ports, in an Ethernet frame.
fn packet(protocol: u8, source: u16, destination: u16, id: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, id, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(source.to_be_bytes().into_iter().chain(destination.to_be_bytes()));
    frame.resize(60, 0);
    frame
}

fn packet_v6(next_header: u8, destination: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 20, next_header, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([0x80, 0].into_iter().chain(destination.to_be_bytes()));
    frame.resize(74, 0);
    frame
}

fn tagged(frame: &[u8], ethertype: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(ethertype.to_be_bytes().into_iter().chain([0, 7]));
    tagged.extend(&frame[12..]);
    tagged
}

#[test]
fn what_matches_is_left_to_the_kernel() {
    in_namespace("what_matches_is_left_to_the_kernel", || {
        veth("a", "b", 1);
        let kernel = vec![
            KernelMatch::EtherType(0x88cc),
            KernelMatch::Protocol { protocol: 6, port: Some(22) },
            KernelMatch::Protocol { protocol: 89, port: None },
        ];
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[PortSpec { kernel, ..spec("a") }]).unwrap();
        let (port, wire, kernel) = (&mut ports[0], Wire::new("b"), Wire::new("a"));

        let ssh = packet(6, 40000, 22, 0);
        let mut lldp = ssh.clone();
        lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
        let mut options = ssh.clone();
        options[14] = 0x46;
        options.splice(34..34, [1, 1, 1, 0]);
        let passed = [
            lldp,
            ssh.clone(),
            options,
            packet_v6(6, 22),
            tagged(&ssh, 0x8100),
            tagged(&tagged(&packet_v6(6, 22), 0x8100), 0x88a8),
            packet(89, 0, 0, 0),
            packet_v6(89, 0),
        ];
        let mut fragment = ssh.clone();
        fragment[20..22].copy_from_slice(&[0x20, 0x01]);
        let ours = [
            packet(6, 22, 23, 0),
            packet(17, 40000, 22, 0),
            packet_v6(17, 22),
            fragment,
            ssh[..37].to_vec(),
            ssh[..20].to_vec(),
            tagged(&ssh, 0x8100)[..16].to_vec(),
            ssh[..14].to_vec(),
            tagged(&tagged(&tagged(&ssh, 0x8100), 0x8100), 0x8100),
        ];
        passed.iter().chain(&ours).for_each(|frame| wire.send(frame));
        assert_eq!(receive(port, &mut pool, ours.len()), ours);
        assert_eq!(kernel.receive_many(passed.len()).len(), passed.len());
        let bytes = passed.iter().map(|frame| frame.len() as u64).sum();
        assert_eq!(controls[0].passed().matched, Count { packets: passed.len() as u64, bytes });
        assert_eq!(controls[0].passed().no_socket, Count::default());
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn frames_of_any_length_come_home() {
    in_namespace("frames_of_any_length_come_home", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        let (port, wire) = (&mut ports[0], Wire::new("b"));
        let mut outbox = Outbox::new(64);
        for len in [0, 1, 13, 14, 15, 59, 1514, 1515, 1518, 1792, 2047, 2048] {
            let mut frame = pool.take().unwrap();
            assert!(frame.grow_front(HEADROOM) && frame.set_len(len));
            outbox.push(frame).unwrap();
        }
        assert_eq!(port.transmit(0, &mut pool, &mut outbox).packets, 12);
        assert_eq!(controls[0].faults().unsendable, 3);
        // A frame with a VLAN tag may be longer than the MTU and its header; veth lets 4 bytes pass.
        let lengths: Vec<usize> = wire.receive_many(6).iter().map(Vec::len).collect();
        assert_eq!(lengths, [14, 15, 59, 1514, 1515, 1518]);
        until(|| {
            port.transmit(0, &mut pool, &mut outbox);
            port.lent() == 512
        });
        assert_eq!((port.lent(), pool.free()), (512, 512), "a frame stayed with the kernel");
        assert_eq!(controls[0].kernel_drops(), Default::default());
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}

fn jumbo_frames(mode: XdpMode) {
    veth("a", "b", 1);
    ip("link set dev a mtu 9000");
    ip("link set dev b mtu 9000");
    let mut pool = FramePool::new(2048, false).unwrap();
    let (mut ports, controls) = open(&mut pool, &[PortSpec { mode, ..spec("a") }]).unwrap();
    let (port, wire) = (&mut ports[0], Wire::new("b"));
    assert_eq!(controls[0].info().fallback, None);
    // The longest, and just as much as one, two and three chunks hold.
    let mut all = frames_up_to(9014, 5000);
    for (frame, len) in all.iter_mut().zip([9014, 1792, 1793, 3584, 3585, 5376, 60]) {
        frame.resize(len, 7);
    }
    let tagged = [tagged(&all[0], 0x8100)];
    wire.send(&tagged[0]);
    assert!(receive(port, &mut pool, 1) == tagged);
    for some in all.chunks(50) {
        some.iter().for_each(|frame| wire.send(frame));
        assert!(receive(port, &mut pool, some.len()) == some, "other frames came than were sent");
    }
    for some in all.chunks(50) {
        send(port, &mut pool, some);
        assert!(wire.receive_many(some.len()) == some, "other frames came than were sent");
    }
    assert_eq!(controls[0].kernel_drops(), Default::default());
    assert_eq!(controls[0].faults(), Default::default());
    port.close(&mut pool);
    assert_eq!(pool.free(), 2048);
}

#[test]
fn jumbo_frames_pass_in_native_mode() {
    in_namespace("jumbo_frames_pass_in_native_mode", || jumbo_frames(XdpMode::Native));
}

#[test]
fn jumbo_frames_pass_in_generic_mode() {
    in_namespace("jumbo_frames_pass_in_generic_mode", || jumbo_frames(XdpMode::Generic));
}

#[test]
fn more_frames_than_the_rings_hold_are_dropped_and_counted() {
    in_namespace("more_frames_than_the_rings_hold_are_dropped_and_counted", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        let (port, wire) = (&mut ports[0], Wire::new("b"));
        frames(600).iter().for_each(|frame| wire.send(frame));
        until(|| controls[0].kernel_drops().rx_dropped == 88);
        assert_eq!(receive(port, &mut pool, 512), frames(600)[..512]);
        assert_eq!(controls[0].kernel_drops().rx_dropped, 88);
        // It goes on after.
        wire.send(&frames(1)[0]);
        assert_eq!(receive(port, &mut pool, 1), frames(1));
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}
