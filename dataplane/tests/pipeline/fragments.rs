//! Fragments, those that come and those that the gateway makes.

use std::net::Ipv4Addr;

use etherparse::Ipv4Header;
use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{HOST6, LAN, Lab, SERVER, SERVER6, WAN, host, snapshot};
use crate::packets::{self, End, Ip, checksums_are_right, ends, frame, network, udp_segment, udp6};

const FROM: End = (Ipv4Addr::new(192, 168, 1, 9), 4000);
const TO: End = (SERVER, 53);

/// Puts fragments together: the packet that they were, if none is missing and none overlaps.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(&fragments[0]).unwrap();
    let (mut payload, base) = (Vec::new(), header.fragment_offset.byte_offset());
    let mut more = true;
    for fragment in fragments {
        let (this, rest) = Ipv4Header::from_slice(fragment).unwrap();
        assert_eq!(this.fragment_offset.byte_offset() - base, payload.len() as u16, "in order on the wire");
        assert_eq!((this.identification, this.protocol), (header.identification, header.protocol));
        assert_eq!(
            (this.source, this.destination, this.time_to_live),
            (header.source, header.destination, 63)
        );
        assert_eq!(this.header_checksum, this.calc_header_checksum());
        assert!(more, "nothing follows the last one");
        more = this.more_fragments;
        payload.extend(rest);
    }
    header.more_fragments = more;
    header.total_len = (header.header_len() + payload.len()) as u16;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &payload].concat()
}

fn options() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    // What the packet carries, and what every fragment but the first must carry.
    prop::sample::select(vec![
        (vec![], vec![]),
        (vec![7, 7, 4, 0, 0, 0, 0, 0], vec![]),
        (vec![148, 4, 0, 0], vec![148, 4, 0, 0]),
        (vec![1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0], vec![148, 4, 0, 0]),
        (vec![0x86, 6, 1, 2, 3, 4, 1, 0], vec![0x86, 6, 1, 2, 3, 4, 0, 0]),
        ([vec![0x88, 4, 0, 9], vec![68, 36, 5, 0], vec![0; 32]].concat(), vec![0x88, 4, 0, 9]),
    ])
}

proptest! {
    #![proptest_config(crate::lab::cases(200))]

    #[test]
    fn what_is_split_is_the_packet_that_would_have_left(
        size in 0..1680usize,
        mtu in prop_oneof![68..200u16, 200..1500u16],
        options in options(),
        fragment in prop::sample::select(vec![(0u16, false), (0, true), (800, true), (64_000, false)]),
    ) {
        let mut whole = snapshot();
        whole.interfaces[WAN].mtu = 1780;
        let mut small = whole.clone();
        small.interfaces[WAN].mtu = mtu;
        let size = if fragment.1 { size.max(8) / 8 * 8 } else { size.max(1) };
        let size = size.min(65_000 - usize::from(fragment.0));
        let ip = Ip { fragment, options: options.0.clone(), id: 99, ..Ip::new(FROM.0, TO.0, packets::UDP) };
        let data: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
        let payload = udp_segment(FROM, TO, &data);
        let sent = ip.packet(if fragment.1 && fragment.0 == 0 { &payload[..payload.len() / 8 * 8] } else {
            &payload[..if fragment.1 { payload.len() / 8 * 8 } else { payload.len() }]
        });
        let first = Ip { fragment: (0, true), ..ip.clone() }.packet(&payload[..8]);
        let mut expected = Vec::new();
        for snapshot in [whole, small] {
            let mut lab = Lab::new(snapshot);
            if fragment.0 > 0 {
                lab.forward(LAN, &first);
            }
            let extra = lab.counters().split_extra;
            let out: Vec<_> = lab.pass(LAN, &sent).iter().map(|(_, f)| network(f).to_vec()).collect();
            prop_assert_eq!(lab.counters().split_extra - extra, out.len() as u64 - 1);
            if expected.is_empty() {
                expected = out;
                prop_assert_eq!(expected.len(), 1);
            } else {
                for (n, fragment) in out.iter().enumerate() {
                    let (header, rest) = Ipv4Header::from_slice(fragment).unwrap();
                    prop_assert!(fragment.len() <= mtu.into() && !rest.is_empty());
                    prop_assert!(n + 1 == out.len() || rest.len() % 8 == 0);
                    let carried = if n == 0 { &options.0 } else { &options.1 };
                    prop_assert_eq!(header.options.as_slice(), &carried[..]);
                }
                let mut left = expected[0].clone();
                if out.len() > 1 && fragment == (0, false) {
                    // One that is cut here gets an identification of its own.
                    prop_assert!(out[0][4..6] != left[4..6]);
                    left[4..6].copy_from_slice(&out[0][4..6]);
                    let (mut header, _) = Ipv4Header::from_slice(&left).unwrap();
                    header.header_checksum = header.calc_header_checksum();
                    left[..header.header_len()].copy_from_slice(&header.to_bytes());
                }
                prop_assert_eq!(reassemble(&out), left);
                prop_assert_eq!(out.len() > 1, expected[0].len() > mtu.into());
            }
            lab.close();
        }
    }
}

fn fragments(id: u16, data: &[u8]) -> [Vec<u8>; 3] {
    let datagram = udp_segment(FROM, TO, data);
    let ip = Ip { id, ..Ip::new(FROM.0, TO.0, packets::UDP) };
    [(0, 64, true), (64, 128, true), (128, datagram.len(), false)]
        .map(|(at, end, more)| Ip { fragment: (at as u16, more), ..ip.clone() }.packet(&datagram[at..end]))
}

#[test]
fn fragments_that_come_are_translated_like_their_datagram() {
    let mut lab = Lab::new(snapshot());
    let out: Vec<_> = fragments(1, &[9; 150]).iter().map(|f| lab.forward(LAN, f).1).collect();
    let whole = reassemble(&out);
    assert_eq!((ends(&whole).1, checksums_are_right(&whole)), (TO, (true, true)));
    assert_eq!((lab.worker.shard().sessions.live(), whole.len()), (1, 178));
    // The replies come in fragments, too.
    let (outside, _) = ends(&whole);
    let reply = udp_segment(TO, outside, &[8; 100]);
    let ip = Ip { id: 77, ..Ip::new(TO.0, outside.0, packets::UDP) };
    let parts = [(0, 56, true), (56, 108, false)];
    let back = parts.map(|(at, end, more)| {
        lab.forward(WAN, &Ip { fragment: (at as u16, more), ..ip.clone() }.packet(&reply[at..end])).1
    });
    let back = reassemble(&back);
    assert_eq!((ends(&back), checksums_are_right(&back)), ((TO, FROM), (true, true)));
    lab.close();
}

/// A fragment that waits in vain, and then dies.
fn waits_in_vain(lab: &mut Lab, port: usize, fragment: &[u8]) {
    assert_eq!(lab.pass(port, fragment), []);
    let waiting = lab.worker.held();
    assert!(waiting > 0);
    let before = lab.drops(DropReason::FragmentUnknown);
    lab.wait(3 * SECOND);
    assert_eq!((lab.worker.held(), lab.drops(DropReason::FragmentUnknown) - before), (0, waiting));
}

#[test]
fn a_fragment_without_its_first_one_waits_and_is_dropped_also_when_that_was_long_ago() {
    let mut lab = Lab::new(snapshot());
    let [first, second, third] = fragments(1, &[9; 150]);
    waits_in_vain(&mut lab, LAN, &second);
    lab.forward(LAN, &first);
    lab.wait(15 * SECOND);
    lab.forward(LAN, &third);
    lab.wait(SECOND);
    waits_in_vain(&mut lab, LAN, &second);
    // Another datagram, another interface: not the same.
    lab.forward(LAN, &first);
    waits_in_vain(&mut lab, LAN, &fragments(2, &[9; 150])[1]);
    waits_in_vain(&mut lab, WAN, &second);
    lab.close();
}

/// Every order of three fragments, each perhaps twice, gives the datagram that they give in order.
///
/// proves: RFC 4787 REQ-14
#[test]
fn fragments_may_come_in_any_order_and_twice() {
    let mut lab = Lab::new(snapshot());
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        .into_iter()
        .zip(1u16..)
        .flat_map(|(order, id)| [(order.to_vec(), id), ([order, order].concat(), id + 100)]);
    for (order, id) in orders {
        let parts = fragments(id, &[id as u8; 150]);
        let mut out: Vec<Vec<u8>> = Vec::new();
        for &part in &order {
            out.extend(lab.pass(LAN, &parts[part]).into_iter().map(|(_, frame)| network(&frame).to_vec()));
        }
        assert_eq!((out.len(), lab.worker.held()), (order.len(), 0), "{order:?}");
        let offset = |packet: &Vec<u8>| u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
        out.sort_by_key(offset);
        out.dedup();
        let whole = reassemble(&out);
        assert_eq!((ends(&whole).1, checksums_are_right(&whole)), (TO, (true, true)), "{order:?}");
    }
    assert_eq!(lab.worker.shard().sessions.live(), 1);
    lab.close();
}

#[test]
fn an_overlapping_fragment_ends_its_datagram() {
    let mut lab = Lab::new(snapshot());
    let [first, second, third] = fragments(1, &[9; 150]);
    let datagram = udp_segment(FROM, TO, &[9; 150]);
    let piece = |at: usize, end: usize| {
        let ip = Ip { id: 1, fragment: (at as u16, true), ..Ip::new(FROM.0, TO.0, packets::UDP) };
        ip.packet(&datagram[at..end])
    };
    lab.forward(LAN, &first);
    lab.forward(LAN, &second);
    // Within one that has passed, and over the edge of two.
    for forged in [piece(8, 32), piece(56, 72), third] {
        assert_eq!(lab.dropped(LAN, &forged), DropReason::FragmentOverlap);
    }
    // Others are not harmed.
    for fragment in fragments(2, &[7; 150]) {
        lab.forward(LAN, &fragment);
    }
    lab.close();
}

/// proves: RFC 4787 REQ-14a
#[test]
fn a_flood_of_fragments_without_a_first_one_harms_nobody_else() {
    let mut lab = Lab::new(snapshot());
    for id in 1000..2000 {
        assert_eq!(lab.pass(LAN, &fragments(id, &[9; 150])[1]), []);
    }
    let held = lab.worker.held();
    assert!((1..=125).contains(&held), "an eighth of the frames at most: {held}");
    assert_eq!(lab.drops(DropReason::FragmentQueueFull), 1000 - held);
    for fragment in fragments(1, &[7; 150]) {
        lab.forward(LAN, &fragment);
    }
    lab.wait(3 * SECOND);
    assert_eq!((lab.worker.held(), lab.drops(DropReason::FragmentUnknown)), (0, held));
    // And it is over.
    let [first, second, _] = fragments(3, &[7; 150]);
    assert_eq!((lab.pass(LAN, &second), lab.pass(LAN, &first).len()), (vec![], 2));
    lab.close();
}

#[test]
fn later_fragments_fare_as_their_first_one() {
    let mut lab = Lab::new(snapshot());
    let smtp = (SERVER, 137);
    let datagram = udp_segment(FROM, smtp, &[1; 100]);
    for (at, end, more) in [(0, 64, true), (64, 108, false)] {
        let ip = Ip { fragment: (at as u16, more), ..Ip::new(FROM.0, smtp.0, packets::UDP) };
        assert_eq!(lab.dropped(LAN, &ip.packet(&datagram[at..end])), DropReason::AclDeny);
    }
    lab.close();
}

#[test]
fn what_may_not_be_split_is_refused_and_the_sender_told_the_mtu() {
    let mut snapshot = snapshot();
    snapshot.interfaces[WAN].mtu = 1300;
    let mut lab = Lab::new(snapshot);
    let ip = Ip { dont_fragment: true, ..Ip::new(FROM.0, TO.0, packets::UDP) };
    let size = |len: usize| ip.packet(&udp_segment(FROM, TO, &vec![1; len - 28]));
    lab.forward(LAN, &size(1300));
    assert_eq!(lab.dropped(LAN, &size(1301)), DropReason::PacketTooBig);
    let out = lab.collect();
    assert_eq!((out.len(), out[0].0), (1, LAN));
    assert_eq!(
        network(&out[0].1)[20..28],
        [&[3, 4][..], &network(&out[0].1)[22..24], &[0, 0, 5, 20]].concat()
    );
    let six = |len: usize| udp6((HOST6, 1), (SERVER6, 53), &vec![1; len - 48]);
    lab.forward(LAN, &six(1300));
    assert_eq!(lab.dropped(LAN, &six(1301)), DropReason::PacketTooBig);
    let out = lab.collect();
    assert_eq!((network(&out[0].1)[40], &network(&out[0].1)[44..48]), (2, &[0, 0, 5, 20][..]));
    lab.close();
}

#[test]
fn a_packet_that_finds_no_frames_to_be_split_into_is_dropped_whole() {
    let mut snapshot = snapshot();
    snapshot.sizes.frames = 4;
    snapshot.interfaces[WAN].mtu = 68;
    let mut lab = Lab::new(snapshot);
    let large = Ip::new(FROM.0, TO.0, packets::UDP).packet(&udp_segment(FROM, TO, &[1; 400]));
    lab.send(LAN, &frame(LAN, &large));
    lab.poll();
    assert_eq!((lab.collect(), lab.drops(DropReason::NoFrame)), (vec![], 1));
    let fits = Ip::new(FROM.0, TO.0, packets::UDP).packet(&udp_segment(FROM, TO, &[1; 150]));
    assert_eq!(lab.pass(LAN, &fits).len(), 4);
    assert_eq!((host(9), lab.counters().split_extra), (FROM.0, 3));
    lab.close();
}
