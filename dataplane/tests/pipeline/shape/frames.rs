//! Packets that wait, as buffers: who loses some when they are low, those of several buffers, pieces, what a line adds to
//! each, and their order when classes change.

use super::*;
use sluice_dataplane::snapshot::Codel;

/// Waits are as long as they come to be.
const PATIENT: Codel = Codel { target: 1000 * SECOND, interval: 1000 * SECOND, ecn: false };

/// As [`shaped`], with queues as long as they come to be, and 9,000 bytes on every link.
fn patient() -> Snapshot {
    let mut snapshot = shaped();
    snapshot.classes.iter_mut().for_each(|class| class.codel = PATIENT);
    snapshot.interfaces.iter_mut().for_each(|interface| interface.mtu = 9000);
    snapshot
}

/// A datagram of `len` bytes as a frame, which says its number.
fn numbered(from: (Ipv4Addr, u16), len: usize, number: u16) -> Vec<u8> {
    let mut data: Vec<u8> = (0..len - HEADERS as usize).map(|at| (at * 7 + at / 256) as u8).collect();
    data[..2].copy_from_slice(&number.to_be_bytes());
    frame(LAN, &udp(from, (SERVER, 9), &data))
}

/// Source port and number of what has come out.
fn numbers(out: &[(usize, Vec<u8>)]) -> Vec<(u16, u16)> {
    let number = |frame: &[u8]| u16::from_be_bytes([network(frame)[28], network(frame)[29]]);
    out.iter().map(|(_, frame)| (source_port(frame), number(frame))).collect()
}

/// Those from a port, in the order in which they came out.
fn from(numbers: &[(u16, u16)], port: u16) -> Vec<u16> {
    numbers.iter().filter(|&&(of, _)| of == port).map(|&(_, number)| number).collect()
}

/// Waits until nothing is held; what has come out, and when the last did.
fn empty(lab: &mut Lab) -> Vec<(usize, Vec<u8>)> {
    let mut out = lab.collect();
    while lab.worker.held() > 0 {
        lab.now = lab.worker.next_due().max(lab.now + 1);
        lab.poll();
        out.extend(lab.collect());
    }
    out
}

#[test]
fn while_buffers_are_low_the_longest_queue_loses_and_no_other() {
    let mut lab = Lab::new(patient());
    // 720 packets of six buffers each, where there are 4,000 buffers, of which 125 are to be free, and places for 1,000
    // packets; by other flows and another class, 80 short ones each.
    let meek = [((host(5), 1), 250), ((host(6), 3), 250), ((host(7), 2), 250)];
    for round in 0..80 {
        for number in 0..9 {
            lab.send(LAN, &numbered((host(5), 4), 9000, round * 9 + number));
        }
        for (end, len) in meek {
            lab.send(LAN, &numbered(end, len, round));
        }
        lab.poll();
        // Buffers are looked at as time passes.
        lab.now += MILLISECOND;
        assert!(lab.worker.shard().pool.free() >= 60, "room for the devices' rings, within a burst too");
    }
    lab.poll();
    let free = lab.worker.shard().pool.free();
    assert!(
        (125..125 + 6 + 12).contains(&free),
        "as many packets are given up as hold what is missing: {free}"
    );
    let shed = lab.drops(DropReason::ShaperFrames);
    assert!(shed > 0);
    assert_eq!(
        lab.counters().drops.iter().sum::<u64>(),
        shed,
        "nothing else is lost, not even for want of a buffer"
    );
    let out = numbers(&empty(&mut lab));
    for ((_, port), _) in meek {
        assert_eq!(from(&out, port), (0..80).collect::<Vec<_>>(), "of port {port}, all, in order");
    }
    let greedy = from(&out, 4);
    assert!(greedy.len() as u64 == 720 - shed && greedy.is_sorted());
    lab.close();
}

#[test]
fn packets_of_several_buffers_wait_move_and_leave_whole() {
    const SIZES: [usize; 6] = [200, 1791, 1792, 3584, 8000, 9014];
    let mut gateway = Reloading::of(patient());
    let sent: Vec<Vec<u8>> =
        (0..120).map(|number| numbered((host(5), 3), SIZES[usize::from(number) % 6], number)).collect();
    let (start, mut out) = (gateway.lab.now, Vec::new());
    for packets in sent.chunks(30) {
        packets.iter().for_each(|packet| gateway.lab.send(LAN, packet));
        gateway.lab.poll();
        out.extend(gateway.lab.collect());
    }
    assert!(gateway.lab.worker.held() > 100);
    // Half of it waits in one tree, and moves to another.
    gateway.reload(|next| {
        next.classes.insert(0, Class { matches: from_port(9), codel: PATIENT, ..class("new") });
        next.shapers[0].order = vec![(0, 0), (1, 1), (2, 2)];
        next.shapers[0].default = 3;
    });
    out.extend(empty(&mut gateway.lab));
    assert_eq!(out.len(), sent.len());
    for ((_, out), sent) in out.iter().zip(&sent) {
        assert_eq!(network(out)[28..], network(sent)[28..], "in order, every byte");
    }
    // All leaves at 10 Mbit/s but for the bursts of two trees, each of which may overdraw by a packet.
    let bits = out.iter().map(|(_, frame)| (frame.len() as u64 + ETHERNET) * 8).sum::<u64>();
    let took = gateway.lab.now - start;
    let least = (bits - 2 * (4 * 10_000 + 9038 * 8)) * 100;
    assert!((least..=bits * 100 + 10 * MILLISECOND).contains(&took), "{took} ns for {bits} bits");
    // What waits at the end is dropped, and every buffer is home.
    sent.iter().take(40).for_each(|packet| gateway.lab.send(LAN, packet));
    gateway.lab.poll();
    assert!(gateway.lab.close().drops[DropReason::Shutdown as usize] > 30);
}

#[test]
fn flows_keep_their_order_when_classes_change_under_what_waits() {
    let mut gateway = Reloading::of(patient());
    let ends = [(host(5), 2), (host(6), 2), (host(7), 3), (host(8), 4)];
    let send = |lab: &mut Lab, numbers: std::ops::Range<u16>| {
        for number in numbers {
            ends.iter().for_each(|&end| lab.send(LAN, &numbered(end, 1000, number)));
        }
        lab.poll();
    };
    let mut out = Vec::new();
    for first in [0, 12, 24] {
        send(&mut gateway.lab, first..first + 12);
        out.extend(gateway.lab.collect());
    }
    // Before the worker has come by again, there are two classes more, and each is at another place.
    gateway.hand_over(|next| {
        for name in ["new", "newer"] {
            next.classes.insert(0, Class { matches: from_port(9), codel: PATIENT, ..class(name) });
        }
        next.shapers[0].order = (0..4).map(|class| (class, class)).collect();
        next.shapers[0].default = 4;
    });
    for first in [36, 48] {
        send(&mut gateway.lab, first..first + 12);
        out.extend(gateway.lab.collect());
    }
    gateway.settle();
    out.extend(empty(&mut gateway.lab));
    assert_eq!(gateway.lab.counters().drops.iter().sum::<u64>(), 0);
    for (address, port) in ends {
        let of: Vec<_> =
            out.iter().filter(|(_, frame)| network(frame)[12..16] == address.octets()).cloned().collect();
        assert_eq!(from(&numbers(&of), port), (0..60).collect::<Vec<_>>(), "{address}");
    }
    gateway.lab.close();
}

#[test]
fn pieces_of_a_packet_are_of_its_host() {
    let mut snapshot = patient();
    snapshot.interfaces[WAN].mtu = 600;
    let mut lab = Lab::new(snapshot);
    let mut inspector = lab.worker.inspector().unwrap();
    lab.send(LAN, &numbered((host(5), 2), 1400, 0));
    lab.poll();
    let out = empty(&mut lab);
    let wire = out.iter().map(|(_, frame)| frame.len() as u64 + ETHERNET).sum::<u64>();
    assert_eq!(out.len(), 3);
    let rows = ask(&mut lab, &mut inspector, Question::Octets);
    let mut rows: Vec<_> = rows.iter().map(|(_, row)| (row.class, row.host, row.octets)).collect();
    rows.sort_unstable();
    let key = host(5).to_ipv6_mapped().to_bits();
    assert_eq!(rows, [(1, None, wire), (1, Some(key), wire)]);
    lab.close();
}

/// Bytes of an Ethernet frame on a line with PPPoE on PTM: PPPoE and PPP headers, FCS, and the line's own framing.
fn on_ptm(frame: u64) -> u64 {
    frame + 6 + 2 + 4 + 4
}

/// The same with ATM, header by header: PPPoE and PPP, LLC and SNAP with the padding of bridged Ethernet, the trailer of AAL5,
/// in cells of 5 + 48 bytes of which the last is padded.
fn on_atm(frame: u64) -> u64 {
    let mut left = (frame + 6 + 2 + (3 + 3 + 2 + 2) + 8) as i64;
    let mut cells = 0;
    while left > 0 {
        (left, cells) = (left - 48, cells + 1);
    }
    cells * 53
}

#[test]
fn what_a_line_adds_is_counted_packet_by_packet() {
    type OnLine = fn(u64) -> u64;
    let lines: [(Overhead, OnLine); 3] = [
        (Overhead { bytes: 24, least: 84, atm: false }, |frame| (frame + 24).max(84)),
        (Overhead { bytes: 16, least: 0, atm: false }, on_ptm),
        (Overhead { bytes: 26, least: 0, atm: true }, on_atm),
    ];
    for (overhead, on_line) in lines {
        // About the edges of cells: 48 bytes further, one more.
        for len in [44u64, 70, 71, 118, 119, 576, 1414, 1415, 1514] {
            let mut snapshot = patient();
            snapshot.shapers[0].overhead = overhead;
            snapshot.shapers[0].rate = rate(2);
            let mut lab = Lab::with_rings(snapshot, 2000);
            let packet = numbered((host(5), 3), len as usize, 0);
            let (mut early, mut late, start) = (0, 0, lab.now);
            while lab.now < start + 2 * SECOND {
                while lab.worker.held() < 50 {
                    (0..50).for_each(|_| lab.send(LAN, &packet));
                    lab.poll();
                }
                let out = lab.collect().len() as u64;
                *if lab.now < start + SECOND { &mut early } else { &mut late } += out;
                lab.now = lab.worker.next_due().max(lab.now + 1);
                lab.poll();
            }
            let wanted = 2 * MEGABIT / 8 / on_line(len);
            assert!(late.abs_diff(wanted) <= 1 + wanted / 200, "{overhead:?} {len}: {late} of {wanted}");
            assert!(early >= wanted, "with the burst");
            lab.close();
        }
    }
}
