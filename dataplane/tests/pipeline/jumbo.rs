//! Packets that take several buffers: the same comes of them as of short ones.

use etherparse::Ipv4Header;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, HOST6, LAN, Lab, SERVER, SERVER6, WAN, host, snapshot};
use crate::packets::{
    self, Ip, checksums_are_right, ends, frame, icmp, network, tagged, udp, udp_segment, udp6,
};

/// Sizes of IP packets about those that one, two and three buffers hold, and the longest.
const SIZES: [usize; 9] = [1777, 1778, 1779, 3569, 3570, 3571, 5363, 9000, 9216];

fn jumbo() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.interfaces.iter_mut().for_each(|interface| interface.mtu = 9216);
    snapshot
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

#[test]
fn they_are_translated() {
    let mut lab = Lab::new(jumbo());
    for size in SIZES {
        let data = data(size - 28);
        let (port, out) = lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), &data));
        assert_eq!((port, out.len(), checksums_are_right(&out)), (WAN, size, (true, true)));
        assert!(out[28..] == data);
        let (outside, _) = ends(&out);
        let (port, back) = lab.forward(WAN, &udp((SERVER, 53), outside, &data));
        assert_eq!((port, back.len(), checksums_are_right(&back)), (LAN, size, (true, true)));
        assert_eq!(ends(&back).1, (host(9), 4000));
    }
    let forward = lab.worker.shard().counters.ports[WAN];
    assert_eq!(forward.tx.bytes, SIZES.iter().map(|size| size + 14).sum::<usize>() as u64);
    lab.close();
}

#[test]
fn a_tag_comes_and_goes() {
    let mut lab = Lab::new(jumbo());
    let guest = std::net::Ipv4Addr::new(10, 10, 0, 9);
    for size in SIZES {
        let there = udp((guest, 4000), (SERVER, 53), &data(size - 28));
        lab.send(crate::lab::TRUNK, &tagged(crate::lab::TRUNK, &[10], &there));
        lab.poll();
        let out = lab.collect();
        assert_eq!((out.len(), out[0].0, out[0].1.len()), (1, WAN, 14 + size));
        lab.send(WAN, &frame(WAN, &udp((SERVER, 53), (guest, 4000), &data(size - 28))));
        lab.poll();
        let back = lab.collect();
        assert_eq!((back.len(), back[0].0, back[0].1.len()), (1, crate::lab::TRUNK, 18 + size));
        assert!(back[0].1[46..] == data(size - 28));
    }
    lab.close();
}

#[test]
fn a_partial_checksum_is_completed() {
    let mut snapshot = jumbo();
    snapshot.ports[LAN].complete_checksums = true;
    let mut lab = Lab::new(snapshot);
    for size in SIZES {
        let mut packet = udp((host(9), 4000), (SERVER, 53), &data(size - 28));
        // What a local sender leaves: the sum of the pseudo-header alone.
        let words = packet[12..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>() + 17 + (size as u32 - 20);
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[26..28].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        assert_eq!(checksums_are_right(&packet), (true, false));
        let (_, out) = lab.forward(LAN, &packet);
        assert_eq!((out.len(), checksums_are_right(&out)), (size, (true, true)));
    }
    lab.close();
}

#[test]
fn one_that_is_too_long_is_cut_or_refused() {
    let mut snapshot = jumbo();
    for mtu in [1500, 576, 4000] {
        snapshot.interfaces[WAN].mtu = mtu;
        let mut lab = Lab::new(snapshot.clone());
        let (from, to) = ((host(9), 4000), (SERVER, 53));
        let segment = udp_segment(from, to, &data(8972));
        let whole = Ip::new(from.0, to.0, packets::UDP);
        let out = lab.pass(LAN, &whole.packet(&segment));
        let mut payload: Vec<u8> = Vec::new();
        for (n, (port, fragment)) in out.iter().enumerate() {
            let ip = network(fragment);
            let (header, rest) = Ipv4Header::from_slice(ip).unwrap();
            assert_eq!((*port, header.fragment_offset.byte_offset() as usize), (WAN, payload.len()));
            assert_eq!(
                (header.more_fragments, header.header_checksum),
                (n + 1 < out.len(), header.calc_header_checksum())
            );
            assert!(ip.len() <= mtu.into());
            payload.extend(rest);
        }
        assert!(payload.len() == segment.len() && payload[8..] == segment[8..]);
        assert_eq!(lab.counters().split_extra, out.len() as u64 - 1);

        // What may not be cut is answered with as much of it as an error quotes.
        let fixed = Ip { dont_fragment: true, ..whole }.packet(&segment);
        assert_eq!(lab.dropped(LAN, &fixed), DropReason::PacketTooBig);
        let answer = lab.collect().remove(0).1;
        let error = network(&answer);
        assert_eq!((error.len(), error[20], error[21]), (576, 3, 4));
        assert_eq!(u16::from_be_bytes([error[26], error[27]]), mtu);
        assert!(error[28..] == fixed[..548] && checksums_are_right(error).0);
        assert_eq!(
            lab.dropped(LAN, &udp6((HOST6, 4000), (SERVER6, 53), &data(8000))),
            DropReason::PacketTooBig
        );
        assert!(network(&lab.collect().remove(0).1).len() <= 1280);
        lab.close();
    }
}

#[test]
fn fragments_may_be_as_long() {
    let mut lab = Lab::new(jumbo());
    let segment = udp_segment((host(9), 4000), (SERVER, 53), &data(20_000));
    let mut payload: Vec<u8> = Vec::new();
    for (n, part) in segment.chunks(8976).enumerate() {
        let fragment = ((n * 8976) as u16, (n + 1) * 8976 < segment.len());
        let ip = Ip { id: 5, fragment, ..Ip::new(host(9), SERVER, packets::UDP) }.packet(part);
        let (port, out) = lab.forward(LAN, &ip);
        let (header, rest) = Ipv4Header::from_slice(&out).unwrap();
        assert_eq!((port, out.len(), header.header_checksum), (WAN, ip.len(), header.calc_header_checksum()));
        payload.extend_from_slice(rest);
    }
    assert!(payload[8..] == segment[8..]);
    lab.close();
}

#[test]
fn the_gateway_answers_them() {
    let mut lab = Lab::new(jumbo());
    for size in SIZES {
        let ping = icmp(host(9), GATEWAY_LAN, 8, 0, [1, 2, 0, 1], &data(size - 28));
        let out = lab.pass(LAN, &ping);
        let pong = network(&out[0].1);
        assert_eq!((out.len(), out[0].0, pong.len(), pong[20]), (1, LAN, size, 0));
        assert!(pong[28..] == ping[28..] && checksums_are_right(pong) == (true, true));
        let mut wrong = ping.clone();
        wrong[size - 1] ^= 1;
        assert_eq!(lab.dropped(LAN, &wrong), DropReason::LocalInvalid);
    }
    lab.close();
}

#[test]
fn without_buffers_they_are_dropped_and_counted() {
    let mut snapshot = jumbo();
    snapshot.sizes.frames = 8;
    let mut lab = Lab::new(snapshot);
    for _ in 0..3 {
        lab.send(LAN, &frame(LAN, &udp((host(9), 4000), (SERVER, 53), &data(8972))));
    }
    lab.send(LAN, &frame(LAN, &udp((host(9), 4000), (SERVER, 53), &data(20))));
    lab.poll();
    assert_eq!((lab.drops(DropReason::NoFrame), lab.collect().len()), (2, 2));
    assert_eq!(lab.pass(LAN, &udp((host(9), 4000), (SERVER, 53), &data(8972))).len(), 1);
    lab.close();
}
