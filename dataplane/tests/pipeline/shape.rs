//! Packets that wait for their turn at a port with a shaper: rates, priorities, what is counted, reloads, several workers.

mod frames;

use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_dataplane::clock::{MILLISECOND, Nanos, SECOND};
use sluice_dataplane::inspect::{Inspector, Question, Row};
use sluice_dataplane::snapshot::{
    Class, ClassMatch, ClassRate, HostKey, Over, Overhead, Quota, Shaper, Sizes, Snapshot,
};
use sluice_dataplane::stage::shape::{OctetRow, Spent};
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::verdict::DropReason;

use crate::fleet::Fleet;
use crate::lab::{LAN, Lab, SERVER, WAN, host, snapshot};
use crate::packets::{self, frame, network, udp};
use crate::reload::Reloading;

const MEGABIT: u64 = 1_000_000;
/// Of the packets here: Ethernet, IPv4, UDP.
const HEADERS: u64 = 42;
/// What the wire adds (preamble, FCS, gap).
const ETHERNET: u64 = 24;

fn rate(megabits: u64) -> Option<Rate> {
    Some(Rate { bits_per_second: megabits * MEGABIT }).filter(|_| megabits > 0)
}

fn class(name: &str) -> Class {
    Class { name: name.into(), priority: 7, ..Class::default() }
}

fn from_port(port: u16) -> ClassMatch {
    use sluice_dataplane::table::classifier::PortRange;
    let ports = PortRange { first: port, last: port };
    let rule = sluice_dataplane::table::classifier::Rule {
        protocol: Some(17),
        src_port: ports,
        ..crate::lab::any(0)
    };
    ClassMatch { v4: Some(vec![rule]), v6: Some(vec![]), ..ClassMatch::default() }
}

/// The lab's gateway without NAT and limits, with 10 Mbit/s at the WAN: voice (from port 1) ahead of all, at most 2 Mbit/s;
/// hosts (from port 2) with a queue each, at most 4 Mbit/s together; the rest.
fn shaped() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.source_nat.clear();
    snapshot.limits.clear();
    snapshot.sizes = Sizes { frames: 4000, ..snapshot.sizes };
    let promised = ClassRate { guaranteed: rate(2), max: rate(2), ..ClassRate::default() };
    let together = ClassRate { max: rate(4), ..ClassRate::default() };
    snapshot.classes = vec![
        Class { matches: from_port(1), rate: promised, priority: 0, ..class("voice") },
        Class {
            matches: from_port(2),
            rate: together,
            per: Some((HostKey::Source(32, 64), ClassRate::default())),
            hosts: 16,
            ..class("hosts")
        },
        class("rest"),
    ];
    snapshot.shapers = vec![Shaper {
        port: WAN as u16,
        rate: rate(10),
        overhead: Overhead { bytes: ETHERNET as i16, least: 84, atm: false },
        frames: 1000,
        order: vec![(0, 0), (1, 1)],
        default: 2,
    }];
    snapshot
}

/// A datagram of `len` bytes on the wire.
fn datagram(from: (Ipv4Addr, u16), len: u64) -> Vec<u8> {
    frame(LAN, &udp(from, (SERVER, 9), &vec![7; (len - HEADERS - ETHERNET) as usize]))
}

fn source_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([network(frame)[20], network(frame)[21]])
}

/// Bits on the wire of what has come out, by source port.
fn bits_by(frames: &[Vec<u8>], port: u16) -> u64 {
    let of = frames.iter().filter(|frame| source_port(frame) == port);
    of.map(|frame| (frame.len() as u64 + ETHERNET) * 8).sum()
}

/// Sends one datagram each `every` from each of these ends, for a second, with a poll every 100 µs. What comes out.
fn run(lab: &mut Lab, from: &[((Ipv4Addr, u16), u64, Nanos)]) -> Vec<(Nanos, Vec<u8>)> {
    let (start, mut out) = (lab.now, Vec::new());
    while lab.now < start + SECOND {
        for &(end, len, every) in from {
            if (lab.now - start) % every == 0 {
                lab.send(LAN, &datagram(end, len));
            }
        }
        lab.poll();
        out.extend(lab.collect().into_iter().map(|(port, frame)| {
            assert_eq!(port, WAN);
            (lab.now, frame)
        }));
        lab.now += MILLISECOND / 10;
    }
    out
}

#[test]
fn what_leaves_is_the_rate_and_classes_get_their_part_of_it() {
    let mut lab = Lab::new(shaped());
    let each = MILLISECOND / 5;
    // Of 1,250 bytes, 50 Mbit/s each; voice 1 Mbit/s in small packets.
    let out = run(
        &mut lab,
        &[
            ((host(5), 1), 250, 2 * MILLISECOND),
            ((host(5), 2), 1250, each),
            ((host(6), 2), 1250, each),
            ((host(7), 3), 1250, each),
        ],
    );
    let frames: Vec<Vec<u8>> = out.iter().map(|(_, frame)| frame.clone()).collect();
    let [voice, hosts, rest] = [1, 2, 3].map(|port| bits_by(&frames, port));
    let whole = voice + hosts + rest;
    let near = |bits: u64, want: u64| bits.abs_diff(want * MEGABIT) <= want * MEGABIT / 200 + 20_000;
    assert!(near(whole, 10), "{whole}");
    assert!(near(voice, 1), "{voice}");
    // Nine are left for two equals, of which neither has all that it may.
    assert!(hosts <= 4 * MEGABIT + 40_000 && rest >= 5 * MEGABIT - 40_000, "{hosts} {rest}");
    let by_host = |last: u8| {
        let of = frames.iter().filter(|f| source_port(f) == 2 && network(f)[15] == last);
        of.count()
    };
    assert!(by_host(5).abs_diff(by_host(6)) <= 2, "hosts are equals");
    let drops = [DropReason::ShaperFull, DropReason::ShaperDelay].map(|reason| lab.drops(reason));
    assert!(drops.iter().sum::<u64>() > 1000, "{drops:?}");
    let counters = lab.close();
    assert!(counters.drops[DropReason::Shutdown as usize] > 0);
}

#[test]
fn voice_waits_for_one_packet_at_most() {
    let mut lab = Lab::new(shaped());
    let mut sent = Vec::new();
    for step in 0..2000u64 {
        for last in 10..14 {
            lab.send(LAN, &datagram((host(last), 3), 1250));
        }
        if step % 20 == 0 {
            sent.push(lab.now);
            lab.send(LAN, &datagram((host(5), 1), 250));
        }
        lab.poll();
        let now = lab.now;
        for (_, frame) in lab.collect() {
            if source_port(&frame) == 1 {
                // A packet of 1,250 bytes takes a millisecond.
                let waited = now - sent.remove(0);
                assert!(waited <= 21 * MILLISECOND / 10, "{waited}");
            }
        }
        lab.now += MILLISECOND / 10;
    }
    assert!(sent.len() <= 1);
    lab.close();
}

#[test]
fn an_idle_port_costs_no_wait_and_the_worker_knows_when_the_next_packet_is_due() {
    let mut lab = Lab::new(shaped());
    for _ in 0..20 {
        lab.send(LAN, &datagram((host(5), 3), 1250));
    }
    lab.poll();
    let at_once = lab.collect().len();
    assert!((4..=6).contains(&at_once), "what four milliseconds are worth: {at_once}");
    assert_eq!(lab.worker.held(), 20 - at_once as u64);
    for _ in at_once..20 {
        let due = lab.worker.next_due();
        assert!(due > lab.now && due <= lab.now + MILLISECOND, "{}", due - lab.now);
        lab.now = due - 1;
        lab.poll();
        assert!(lab.collect().is_empty());
        lab.now = due;
        lab.poll();
        assert_eq!(lab.collect().len(), 1);
    }
    assert_eq!(lab.worker.held(), 0);
    lab.close();
}

#[test]
fn senders_that_understand_ecn_are_told_instead_of_dropped() {
    let mut lab = Lab::new(shaped());
    let ect = |mut frame: Vec<u8>| {
        sluice_pkt::ds_field::set_dscp(&mut frame[14..], 0);
        let mut ip = sluice_pkt::ipv4::Header::at_mut(&mut frame, 14).unwrap();
        ip.set_dscp_ecn(2);
        ip.fill_checksum();
        frame
    };
    let (mut marked, mut all) = (0, 0);
    for _ in 0..10_000 {
        // Twice the rate.
        if lab.now / (MILLISECOND / 10) % 5 == 0 {
            lab.send(LAN, &ect(datagram((host(5), 3), 1250)));
        }
        lab.poll();
        for (_, frame) in lab.collect() {
            let header = &network(&frame)[..20];
            assert!(sluice_pkt::checksum::verify_ipv4_header(header));
            all += 1;
            marked += usize::from(header[1] & 3 == 3);
        }
        lab.now += MILLISECOND / 10;
    }
    assert!(marked > 3 && all > 900, "{marked} of {all}");
    assert_eq!(lab.drops(DropReason::ShaperDelay), 0);
    lab.close();
}

#[test]
fn what_is_cut_into_pieces_waits_piece_by_piece_and_answers_of_our_own_do_not_wait() {
    let mut snapshot = shaped();
    snapshot.interfaces[WAN].mtu = 600;
    let mut lab = Lab::new(snapshot);
    for _ in 0..4 {
        lab.send(LAN, &datagram((host(5), 3), 1250));
    }
    lab.poll();
    let first = lab.collect().len();
    assert!(lab.counters().split_extra >= 8 && first < 12, "{first}");
    let echo = packets::Ip::new(SERVER, Ipv4Addr::new(203, 0, 113, 2), packets::ICMP);
    let ping = echo.packet(&packets::icmp_message(8, 0, [0, 1, 0, 1], b"ping"));
    let answers = lab.pass(WAN, &ping);
    assert_eq!(answers.len(), 1, "the answer goes ahead of what waits");
    while lab.worker.held() > 0 {
        lab.now = lab.worker.next_due().max(lab.now + 1);
        lab.poll();
    }
    assert_eq!(lab.collect().len() + first, 12);
    lab.close();
}

#[test]
fn a_full_shaper_takes_from_the_longest_queue() {
    let mut lab = Lab::with_rings(shaped(), 4000);
    for _ in 0..30 {
        for _ in 0..50 {
            lab.send(LAN, &datagram((host(5), 3), 1250));
        }
        lab.poll();
    }
    assert!(lab.drops(DropReason::ShaperFull) > 300);
    let before = lab.drops(DropReason::ShaperFull);
    lab.send(LAN, &datagram((host(6), 2), 1250));
    lab.poll();
    assert!(lab.drops(DropReason::ShaperFull) <= before + 1, "the greedy one lost a packet at most");
    lab.collect();
    lab.now += 2 * MILLISECOND;
    lab.poll();
    let ports: Vec<u16> = lab.collect().iter().map(|(_, frame)| source_port(frame)).collect();
    assert!(ports.contains(&2), "{ports:?}");
    assert!(lab.worker.held() <= 1001);
    lab.close();
}

#[test]
fn a_reload_keeps_what_waits_in_its_queues_or_moves_it() {
    let mut gateway = Reloading::of(shaped());
    let fill = |gateway: &mut Reloading| {
        for _ in 0..60 {
            gateway.lab.send(LAN, &datagram((host(5), 3), 1250));
        }
        gateway.lab.poll();
        gateway.lab.collect();
    };
    fill(&mut gateway);
    let held = gateway.lab.worker.held();
    assert!(held > 50);
    // Another rate: ten times as fast from now on.
    gateway.hand_over(|next| next.shapers[0].rate = rate(100));
    gateway.lab.poll();
    assert_eq!(gateway.lab.drops(DropReason::Shutdown), 0);
    gateway.lab.wait(MILLISECOND);
    let out = gateway.lab.collect().len();
    assert!(out >= 9, "{out} within a millisecond");
    gateway.settle();
    gateway.lab.collect();
    // Other classes: what waits moves to that of the same name.
    fill(&mut gateway);
    let held = gateway.lab.worker.held();
    gateway.reload(|next| {
        next.classes.insert(0, Class { matches: from_port(9), ..class("new") });
        next.shapers[0].order = vec![(0, 0), (1, 1), (2, 2)];
        next.shapers[0].default = 3;
    });
    let out = gateway.lab.collect().len() as u64;
    assert_eq!(out + gateway.lab.worker.held(), held);
    assert_eq!(gateway.lab.counters().drops.iter().sum::<u64>(), 0);
    // None at all: it leaves at once.
    fill(&mut gateway);
    gateway.hand_over(|next| (next.classes, next.shapers) = Default::default());
    gateway.lab.poll();
    assert_eq!(gateway.lab.worker.held(), 0);
    gateway.settle();
    assert_eq!(gateway.lab.counters().drops.iter().sum::<u64>(), 0);
    gateway.lab.close();
}

/// Tells the worker something, or asks it, while it goes on.
fn ask(lab: &mut Lab, inspector: &mut Inspector, question: Question) -> Vec<(u32, OctetRow)> {
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let each = |row| {
                if let Row::Octets(generation, row) = row {
                    rows.push((generation, row));
                }
            };
            assert!(inspector.ask(question, Duration::from_secs(20), each));
        });
        while !asker.is_finished() {
            lab.poll();
            std::thread::yield_now();
        }
    });
    rows
}

/// What has been handed out, in packets of 1,250 bytes, in order.
fn octets(lab: &mut Lab, inspector: &mut Inspector) -> Vec<(u16, Option<u128>, u64)> {
    let rows = ask(lab, inspector, Question::Octets).into_iter();
    let mut rows: Vec<_> = rows.map(|(_, row)| (row.class, row.host, row.octets / 1250)).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn octets_are_handed_out_once_and_a_quota_that_is_used_up_is_heeded_across_a_reload() {
    let quota = Quota { each: Some(1), over: Over::Class(2), ..Quota::default() };
    let mut snapshot = shaped();
    snapshot.shapers[0].rate = rate(100);
    snapshot.classes[1].rate = ClassRate::default();
    snapshot.classes[1].quota = quota;
    let mut gateway = Reloading::of(snapshot);
    let mut inspector = gateway.lab.worker.inspector().unwrap();
    let key = |last| Some(host(last).to_ipv6_mapped().to_bits());
    let pass = |lab: &mut Lab, counts: [usize; 2]| {
        for (last, count) in [5, 6].into_iter().zip(counts) {
            for _ in 0..count {
                lab.send(LAN, &datagram((host(last), 2), 1250));
            }
        }
        lab.poll();
        lab.wait(100 * MILLISECOND);
        assert_eq!(lab.worker.held(), 0);
        lab.collect().len()
    };
    assert_eq!(pass(&mut gateway.lab, [3, 4]), 7);
    assert_eq!(octets(&mut gateway.lab, &mut inspector), [(1, None, 7), (1, key(5), 3), (1, key(6), 4)]);
    assert_eq!(octets(&mut gateway.lab, &mut inspector), []);
    // What was not handed out goes along with another configuration; one host is forgotten meanwhile.
    pass(&mut gateway.lab, [2, 0]);
    gateway.lab.wait(SECOND);
    pass(&mut gateway.lab, [0, 1]);
    gateway.reload(|next| {
        next.classes.insert(0, Class { matches: from_port(9), ..class("new") });
        next.classes[2].quota.over = Over::Class(3);
        next.shapers[0].order = vec![(0, 0), (1, 1), (2, 2)];
        next.shapers[0].default = 3;
    });
    assert_eq!(octets(&mut gateway.lab, &mut inspector), [(2, None, 3), (2, key(5), 2), (2, key(6), 1)]);
    // A host's quota is used up: it leaves in the class for the rest.
    let generation = gateway.lab.worker.shard().sessions.policy;
    let spent = Spent { class: 2, host: key(5), over: Over::Class(3) };
    ask(&mut gateway.lab, &mut inspector, Question::Spent(generation - 1, spent));
    pass(&mut gateway.lab, [1, 0]);
    assert_eq!(
        octets(&mut gateway.lab, &mut inspector),
        [(2, None, 1), (2, key(5), 1)],
        "of another generation"
    );
    ask(&mut gateway.lab, &mut inspector, Question::Spent(generation, spent));
    pass(&mut gateway.lab, [2, 1]);
    assert_eq!(octets(&mut gateway.lab, &mut inspector), [(2, None, 1), (2, key(6), 1), (3, None, 2)]);
    // The class of all: they are dropped, also by the next configuration.
    ask(
        &mut gateway.lab,
        &mut inspector,
        Question::Spent(generation, Spent { class: 2, host: None, over: Over::Drop }),
    );
    assert_eq!(pass(&mut gateway.lab, [2, 1]), 0);
    gateway.reload(|next| next.classes[0].mark = Some(1));
    assert_eq!(pass(&mut gateway.lab, [1, 1]), 0);
    assert_eq!(gateway.lab.drops(DropReason::QuotaUsedUp), 5);
    ask(
        &mut gateway.lab,
        &mut inspector,
        Question::Spent(generation + 1, Spent { class: 2, host: None, over: Over::Pass }),
    );
    assert_eq!(pass(&mut gateway.lab, [1, 1]), 2);
    gateway.lab.close();
}

#[test]
fn hosts_behind_nat_have_accounts_without_queues_of_their_own() {
    let mut snapshot = shaped();
    snapshot.source_nat = crate::lab::snapshot().source_nat;
    snapshot.classes[2].accounts = Some(HostKey::Source(32, 64));
    snapshot.classes[2].hosts = 2;
    let mut gateway = Reloading::of(snapshot);
    let mut inspector = gateway.lab.worker.inspector().unwrap();
    let key = |last| Some(host(last).to_ipv6_mapped().to_bits());
    let send = |lab: &mut Lab, counts: &[(u8, usize)]| {
        for &(last, count) in counts {
            (0..count).for_each(|_| lab.send(LAN, &datagram((host(last), 3), 1250)));
        }
        lab.poll();
    };
    let wait = |lab: &mut Lab| {
        while lab.worker.held() > 0 {
            lab.now = lab.worker.next_due().max(lab.now + 1);
            lab.poll();
        }
        lab.collect()
            .iter()
            .for_each(|(_, frame)| assert_ne!(network(frame)[12..14], [192, 168], "translated"));
    };
    // The third host finds no room: what it sends is the class's alone.
    send(&mut gateway.lab, &[(5, 20), (6, 10), (7, 3)]);
    // What waits is not counted yet.
    let out = gateway.lab.collect().len() as u64;
    let sum = |rows: &[(u16, Option<u128>, u64)], whole: bool| {
        rows.iter().filter(|(_, host, _)| host.is_none() == whole).map(|row| row.2).sum::<u64>()
    };
    let first = octets(&mut gateway.lab, &mut inspector);
    assert_eq!(sum(&first, true), out);
    assert!(sum(&first, false) <= out && out < 10, "{first:?}");
    // The rest goes along with another configuration, in which there is room for all.
    gateway.reload(|next| {
        next.classes.insert(0, Class { matches: from_port(9), ..class("new") });
        next.classes[3].hosts = 3;
        next.shapers[0].order = vec![(0, 0), (1, 1), (2, 2)];
        next.shapers[0].default = 3;
    });
    wait(&mut gateway.lab);
    let second = octets(&mut gateway.lab, &mut inspector);
    let of = |last| {
        let of = |rows: &[(u16, Option<u128>, u64)]| {
            rows.iter().filter(|row| row.1 == key(last)).map(|row| row.2).sum::<u64>()
        };
        of(&first) + of(&second)
    };
    assert_eq!((of(5), of(6), of(7)), (20, 10, 0));
    assert_eq!(sum(&first, true) + sum(&second, true), 33);
    // A host's quota is used up, whatever address it has outside.
    let generation = gateway.lab.worker.shard().sessions.policy;
    gateway
        .reload(|next| next.classes[3].quota = Quota { each: Some(1), over: Over::Drop, ..Quota::default() });
    let spent = Spent { class: 3, host: key(6), over: Over::Drop };
    ask(&mut gateway.lab, &mut inspector, Question::Spent(generation + 1, spent));
    send(&mut gateway.lab, &[(5, 2), (6, 4), (7, 1)]);
    wait(&mut gateway.lab);
    assert_eq!(gateway.lab.drops(DropReason::QuotaUsedUp), 4);
    assert_eq!(octets(&mut gateway.lab, &mut inspector), [(3, None, 3), (3, key(5), 2), (3, key(7), 1)]);
    gateway.lab.close();
}

#[test]
fn a_limit_for_a_class_is_for_that_alone_and_goes_along_with_it() {
    let mut snapshot = shaped();
    snapshot.limits = vec![crate::lab::snapshot().limits[0].clone()];
    let limit = &mut snapshot.limits[0];
    (limit.interface, limit.egress, limit.classes) = (WAN as u16, true, vec![1]);
    (limit.rate, limit.burst) = (Rate { bits_per_second: 8 }, 3000);
    snapshot.shapers[0].rate = rate(1000);
    snapshot.classes.iter_mut().for_each(|class| class.rate = ClassRate::default());
    let mut gateway = Reloading::of(snapshot);
    let send = |lab: &mut Lab| {
        for _ in 0..4 {
            [1, 2, 3].iter().for_each(|&port| lab.send(LAN, &datagram((host(5), port), 1250)));
        }
        lab.poll();
        lab.wait(100 * MILLISECOND);
        let out: Vec<u16> = lab.collect().iter().map(|(_, frame)| source_port(frame)).collect();
        [1, 2, 3].map(|port| out.iter().filter(|&&of| of == port).count())
    };
    assert_eq!(send(&mut gateway.lab), [4, 2, 4], "two packets are the burst");
    assert_eq!(gateway.lab.drops(DropReason::RateLimited), 2);
    // The class has another number, and the limit is for another class, too.
    gateway.reload(|next| {
        next.classes.insert(0, Class { matches: from_port(9), ..class("new") });
        next.shapers[0].order = vec![(0, 0), (1, 1), (2, 2)];
        next.shapers[0].default = 3;
        next.limits[0].classes = vec![2, 3];
    });
    assert_eq!(send(&mut gateway.lab), [4, 0, 0]);
    gateway.lab.close();
}

#[test]
fn two_workers_share_one_rate() {
    let mut fleet = Fleet::new(shaped(), 2);
    let (start, mut bits, mut by_worker) = (fleet.now, [0u64; 4], [0u64; 2]);
    while fleet.now < start + 2 * SECOND {
        let at = (fleet.now - start) / (MILLISECOND / 10);
        // Voice at one worker, bulk at both, unevenly: 1, 50 and 20 Mbit/s.
        if at % 20 == 0 {
            fleet.send(0, LAN, &datagram((host(5), 1), 250));
        }
        if at % 2 == 0 {
            fleet.send(1, LAN, &datagram((host(6), 3), 1250));
        }
        if at % 5 == 0 {
            fleet.send(0, LAN, &datagram((host(7), 4), 1250));
        }
        fleet.settle();
        for (worker, (_, frame)) in fleet.collect_by_worker() {
            // Once all know what each wants.
            if fleet.now >= start + SECOND {
                let wire = (frame.len() as u64 + ETHERNET) * 8;
                bits[usize::from(source_port(&frame)) - 1] += wire;
                by_worker[worker] += wire;
            }
        }
        fleet.now += MILLISECOND / 10;
    }
    let whole: u64 = bits.iter().sum();
    assert!(whole.abs_diff(10 * MEGABIT) < MEGABIT / 10, "{bits:?}");
    assert!(bits[0].abs_diff(MEGABIT) < MEGABIT / 20, "voice has what it needs: {bits:?}");
    assert!(by_worker[0] > 2 * MEGABIT && by_worker[1] > 4 * MEGABIT, "{by_worker:?}");
    fleet.close();
}
