//! NAT64 against a plain model of RFC 7915, by checksums computed in full; bindings that come and go, reloads, owners, and
//! packets that somebody has damaged.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{LocalUse, Nat64, NatBehavior, NatFiltering, Pool, Snapshot};
use sluice_dataplane::stage::owner::Owners;
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::nat64::Embedding;

use crate::lab::{HOST6, LAN, Lab, SERVER, WAN, snapshot};
use crate::packets::{ICMP, Ip, TCP, UDP, checksums_are_right, network};
use crate::reload::{Reloading, kept, settled};

const PREFIX: u128 = 0x2001_0db8_0064 << 80;
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 64);
const ICMPV6: u8 = 58;

fn embedding() -> Embedding {
    Embedding::new(PREFIX, 96).unwrap()
}

fn server6() -> Ipv6Addr {
    embedding().embed(SERVER.to_bits()).into()
}

fn translating(filtering: NatFiltering) -> Snapshot {
    let mut snapshot = snapshot();
    let behavior = NatBehavior { is_nat64: true, filtering, ..NatBehavior::default() };
    snapshot.pools.push(Pool {
        addresses: vec![EXTERNAL],
        ports: (1024, 65535),
        behavior,
        ..Pool::default()
    });
    snapshot.local4.insert(EXTERNAL, (1, LocalUse::Nat));
    snapshot.nat64.push(Nat64 { out: 1, embedding: embedding(), from: vec![], pool: 1 });
    snapshot.interfaces.iter_mut().for_each(|interface| interface.acl = None);
    snapshot
}

/// RFC 1071 in the plainest words.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: usize) -> Vec<u8> {
    [&src.octets()[..], &dst.octets(), &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// A transport header with its data: ports (an echo's identifier, where they are not 0), and a checksum over `pseudo` too.
fn transport(
    protocol: u8,
    (src, dst): (u16, u16),
    data: &[u8],
    kind: u8,
    pseudo: impl Fn(usize) -> Vec<u8>,
) -> Vec<u8> {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    let (mut bytes, at) = match protocol {
        TCP => (vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0], 16),
        UDP => {
            let [e, f] = (8 + data.len() as u16).to_be_bytes();
            (vec![a, b, c, d, e, f, 0, 0], 6)
        }
        _ => (vec![kind, 0, 0, 0, a | c, b | d, 0, 1], 2),
    };
    bytes.extend(data);
    let checksum = match !sum(&[&pseudo(bytes.len()), &bytes]) {
        0 if protocol == UDP => 0xffff,
        checksum => checksum,
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn packet6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, ports: (u16, u16), kind: u8, data: &[u8]) -> Vec<u8> {
    let transport = transport(protocol, ports, data, kind, |len| pseudo6(src, dst, protocol, len));
    let len = (transport.len() as u16).to_be_bytes();
    [&[0x6b, 0x80, 0, 0, len[0], len[1], protocol, 64][..], &src.octets(), &dst.octets(), &transport].concat()
}

fn packet4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ports: (u16, u16), kind: u8, data: &[u8]) -> Vec<u8> {
    let pseudo = |len: usize| match protocol {
        ICMP => vec![],
        _ => [&src.octets()[..], &dst.octets(), &[0, protocol], &(len as u16).to_be_bytes()].concat(),
    };
    Ip::new(src, dst, protocol).packet(&transport(protocol, ports, data, kind, pseudo))
}

/// The external port of the only binding.
fn port(lab: &Lab) -> u16 {
    let nat = &lab.worker.shard().nat;
    (0..nat.slots()).find_map(|index| nat.get(index)).unwrap().external.1
}

fn protocols() -> impl Strategy<Value = (u8, u8)> {
    prop::sample::select(vec![(TCP, TCP), (UDP, UDP), (ICMPV6, ICMP)])
}

/// Fragments of a UDP datagram without a checksum wait for each other, in whatever order they come, and leave with one.
///
/// proves: RFC 6146 3.4
/// proves: RFC 7915 4.5
#[test]
fn fragments_without_a_checksum_wait_for_each_other_and_get_one() {
    let mut lab = Lab::new(translating(NatFiltering::default()));
    lab.forward(LAN, &packet6(HOST6, server6(), UDP, (5000, 53), 0, b"who"));
    let external = port(&lab);
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (order, id) in orders.into_iter().zip(1u16..) {
        // Of an odd length; the same identification again for each other one.
        let data: Vec<u8> = (0..149).map(|at| (at * 7 + id) as u8).collect();
        let whole = packet4(SERVER, EXTERNAL, UDP, (53, external), 0, &data);
        let mut datagram = whole[20..].to_vec();
        datagram[6..8].fill(0);
        let pieces = [0..48, 48..104, 104..datagram.len()].map(|range| {
            let fragment = (range.start as u16, range.end < datagram.len());
            Ip { id: id / 2, fragment, ..Ip::new(SERVER, EXTERNAL, UDP) }.packet(&datagram[range])
        });
        let mut out = Vec::new();
        for (count, part) in order.into_iter().enumerate() {
            assert_eq!(out.len(), 0, "none passes before all are there: {order:?}");
            out.extend(lab.pass(WAN, &pieces[part]).into_iter().map(|(_, frame)| network(&frame).to_vec()));
            assert_eq!(lab.worker.held(), if count == 2 { 0 } else { count as u64 + 1 });
        }
        out.sort_by_key(|packet| u16::from_be_bytes([packet[42], packet[43]]));
        let all: Vec<u8> = out.iter().flat_map(|packet| packet[48..].to_vec()).collect();
        let expected = packet6(server6(), HOST6, UDP, (53, 5000), 0, &data);
        assert_eq!((out.len(), all), (3, expected[40..].to_vec()), "{order:?}");
    }
    // Where one is missing, or the header says another length, nothing passes.
    let datagram = [&[0, 53][..], &external.to_be_bytes(), &[0, 48, 0, 0], &[7; 40]].concat();
    let piece = |id, fragment, range: std::ops::Range<usize>| {
        Ip { id, fragment, ..Ip::new(SERVER, EXTERNAL, UDP) }.packet(&datagram[range])
    };
    assert_eq!(lab.pass(WAN, &piece(90, (0, true), 0..24)), []);
    lab.wait(3 * SECOND);
    assert_eq!((lab.worker.held(), lab.drops(DropReason::Nat64Checksum)), (0, 1));
    lab.pass(WAN, &piece(91, (0, true), 0..24));
    lab.pass(WAN, &piece(91, (24, false), 24..40));
    assert_eq!(lab.drops(DropReason::FragmentMalformed), 1);
    lab.close();
}

proptest! {
    #![proptest_config(crate::lab::cases(100))]

    /// proves: RFC 7915 4.1
    /// proves: RFC 7915 5.1
    #[test]
    fn both_ways_are_what_a_plain_translator_makes(
        (six, four) in protocols(),
        inside in 1..u16::MAX,
        remote in 1..u16::MAX,
        data in prop::collection::vec(any::<u8>(), 0..1300),
        no_checksum in any::<bool>(),
    ) {
        let mut lab = Lab::new(translating(NatFiltering::default()));
        let echo = six == ICMPV6;
        let (there, back) = if echo { ((inside, 0), (0, inside)) } else { ((inside, remote), (remote, inside)) };
        let (at, out) = lab.forward(LAN, &packet6(HOST6, server6(), six, there, 128, &data));
        let external = port(&lab);
        let ports = if echo { (external, 0) } else { (external, remote) };
        let expected = packet4(EXTERNAL, SERVER, four, ports, 8, &data);
        prop_assert_eq!((at, &out[20..]), (WAN, &expected[20..]));
        let longer = out.len() > 1260;
        prop_assert_eq!((out[1], out[8], out[9], out[6]), (0xb8, 63, four, if longer { 0x40 } else { 0 }));
        prop_assert_eq!(checksums_are_right(&out), (true, true));
        prop_assert!(out.len() == expected.len() && out[12..20] == expected[12..20]);

        let ports = if echo { (0, external) } else { (remote, external) };
        let mut answer = packet4(SERVER, EXTERNAL, four, ports, 0, &data);
        if four == UDP && no_checksum {
            answer[26..28].fill(0);
        }
        answer[1] = 0x28;
        answer[6] = 0x40;
        answer[10..12].fill(0);
        let checksum = !sum(&[&answer[..20]]);
        answer[10..12].copy_from_slice(&checksum.to_be_bytes());
        let (at, out) = lab.forward(WAN, &answer);
        let expected = packet6(server6(), HOST6, six, back, 129, &data);
        prop_assert_eq!((at, &out[8..]), (LAN, &expected[8..]));
        prop_assert_eq!(&out[..8], &[0x62, 0x80, 0, 0, expected[4], expected[5], six, 63]);
        lab.close();
    }

    /// What is quoted in errors may be cut off and damaged in any way: nothing panics, and each packet is accounted for.
    #[test]
    fn damaged_packets_are_survived(
        (six, four) in protocols(),
        kinds in (0..20u8, 0..8u8),
        damage in prop::collection::vec((0..120usize, any::<u8>()), 0..4),
        cut in 0..120usize,
    ) {
        let mut lab = Lab::new(translating(NatFiltering::EndpointIndependent));
        lab.forward(LAN, &packet6(HOST6, server6(), six, (5000, 0), 128, b"some data"));
        let external = port(&lab);
        let hurt = |mut packet: Vec<u8>, from: usize| {
            for &(at, byte) in &damage {
                let at = from + at % (packet.len() - from);
                packet[at] = byte;
            }
            packet.truncate(packet.len() - cut.min(packet.len() - from));
            packet
        };
        let quoted = hurt(packet4(EXTERNAL, SERVER, four, (external, 0), 8, b"some data"), 0);
        let router = Ipv4Addr::new(198, 51, 100, 99);
        let error = crate::packets::icmp(router, EXTERNAL, kinds.0, kinds.1, [0, 0, 5, 0], &quoted);
        lab.pass(WAN, &error);
        let quoted = hurt(packet6(server6(), HOST6, six, (0, 5000), 129, b"some data"), 0);
        let mut message = vec![kinds.0 % 5, kinds.1, 0, 0, 0, 0, 5, 20];
        message.extend(&quoted);
        let checksum = !sum(&[&pseudo6(HOST6, server6(), ICMPV6, message.len()), &message]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let len = (message.len() as u16).to_be_bytes();
        let head = [0x60, 0, 0, 0, len[0], len[1], ICMPV6, 64];
        lab.pass(LAN, &[&head[..], &HOST6.octets(), &server6().octets(), &message].concat());
        lab.pass(LAN, &hurt(packet6(HOST6, server6(), six, (5000, 0), 128, b"some data"), 40));
        lab.pass(WAN, &hurt(packet4(SERVER, EXTERNAL, four, (0, external), 0, b"some data"), 20));
        lab.close();
    }

    #[test]
    fn answers_find_the_owner_of_the_host(workers in 1..=8usize, host in any::<u128>(), remote in any::<u32>()) {
        let snapshot = translating(NatFiltering::default());
        let owners = Owners::new(&snapshot, workers);
        let seen = embedding().embed(remote);
        prop_assume!(!embedding().covers(host));
        let owner = owners.of_flow6([(host, 5), (seen, 6)], UDP, &snapshot);
        prop_assert_eq!(owner, owners.of_flow6([(seen, 6), (host, 7)], UDP, &snapshot));
        let port = (1024..=65535).find(|&port| owners.of_port(port) == owner && port % 7 == 0).unwrap();
        prop_assume!(!snapshot.local4.contains_key(&remote.into()));
        let answer = owners.of_flow4([(remote, 6), (EXTERNAL.to_bits(), port)], UDP, 1, &snapshot);
        prop_assert_eq!(answer, Some(owner));
    }
}

/// proves: RFC 6146 3.5.1
#[test]
fn a_host_is_known_as_long_as_it_has_a_binding() {
    let mut lab = Lab::new(translating(NatFiltering::default()));
    for host in 0..10u128 {
        for port in 0..3 {
            let host = Ipv6Addr::from_bits(HOST6.to_bits() + host);
            lab.forward(LAN, &packet6(host, server6(), UDP, (5000 + port, 53), 0, b"ask"));
        }
    }
    let hosts =
        |lab: &Lab| (0..64).filter(|&number| lab.worker.shard().nat.address_of(number).is_some()).count();
    assert_eq!((lab.worker.shard().nat.live(), hosts(&lab)), (30, 10));
    for _ in 0..400 {
        lab.wait(SECOND);
    }
    assert_eq!((lab.worker.shard().nat.live(), hosts(&lab)), (0, 0));
    lab.close();
}

/// proves: RFC 6146 3.5.1
/// proves: RFC 6052 3.1
#[test]
fn who_is_outside_comes_in_as_the_filter_says() {
    for (filtering, comes_in) in
        [(NatFiltering::EndpointIndependent, true), (NatFiltering::AddressDependent, false)]
    {
        let mut lab = Lab::new(translating(filtering));
        lab.forward(LAN, &packet6(HOST6, server6(), UDP, (5000, 53), 0, b"ask"));
        let stranger = Ipv4Addr::new(198, 51, 100, 8);
        let packet = packet4(stranger, EXTERNAL, UDP, (9, 5000), 0, b"hello");
        if comes_in {
            let (at, out) = lab.forward(WAN, &packet);
            let seen = Ipv6Addr::from_bits(embedding().embed(stranger.to_bits()));
            let expected = packet6(seen, HOST6, UDP, (9, 5000), 0, b"hello");
            assert_eq!((at, &out[8..]), (LAN, &expected[8..]));
            let (at, out) = lab.forward(LAN, &packet6(HOST6, seen, UDP, (5000, 9), 0, b"answer"));
            let expected = packet4(EXTERNAL, stranger, UDP, (5000, 9), 0, b"answer");
            assert_eq!((at, &out[20..]), (WAN, &expected[20..]));
        } else {
            assert_eq!(lab.dropped(WAN, &packet), DropReason::NatFiltered);
        }
        lab.close();
    }
}

/// proves: RFC 6146 3.5
#[test]
fn nobody_sends_from_the_prefix() {
    let mut lab = Lab::new(translating(NatFiltering::default()));
    let forged = Ipv6Addr::from_bits(embedding().embed(0x0808_0808));
    let packet = packet6(forged, server6(), UDP, (5000, 53), 0, b"ask");
    assert_eq!(lab.dropped(LAN, &packet), DropReason::SourceInvalid);
    lab.close();
}

#[test]
fn a_session_lives_on_if_it_would_be_made_again() {
    let mut gateway = Reloading::of(translating(NatFiltering::EndpointIndependent));
    let ask = packet6(HOST6, server6(), UDP, (5000, 53), 0, b"ask");
    let stranger = packet4(Ipv4Addr::new(198, 51, 100, 8), EXTERNAL, UDP, (9, 5000), 0, b"hello");
    gateway.lab.forward(LAN, &ask);
    gateway.lab.forward(WAN, &stranger);
    // Packets before and after all is decided anew.
    gateway.hand_over(|next| next.icmp_per_second += 1);
    gateway.lab.forward(LAN, &ask);
    gateway.lab.forward(WAN, &packet4(SERVER, EXTERNAL, UDP, (53, 5000), 0, b"answer"));
    assert_eq!(gateway.settle(), kept(2));
    gateway.lab.forward(LAN, &ask);
    gateway.lab.forward(WAN, &stranger);
    assert_eq!(gateway.bindings(), 1);
    // Another prefix: nothing of the old one holds.
    let other = Embedding::new(0x2001_0db8_0065 << 80, 96).unwrap();
    assert_eq!(gateway.reload(|next| next.nat64[0].embedding = other), settled(0, 2));
    assert_eq!(gateway.bindings(), 0);
    let seen = Ipv6Addr::from_bits(other.embed(SERVER.to_bits()));
    gateway.lab.forward(LAN, &packet6(HOST6, seen, UDP, (5000, 53), 0, b"ask"));
    assert_eq!(gateway.reload(|next| next.nat64[0].from = vec![(1, u128::MAX)]), settled(0, 1));
    gateway.lab.close();
}

#[test]
fn a_configuration_may_begin_to_have_it() {
    let mut gateway = Reloading::new();
    assert_eq!(
        gateway
            .reload(|next| *next =
                Snapshot { generation: next.generation, ..translating(NatFiltering::default()) }),
        kept(0)
    );
    for port in 0..40 {
        let (at, _) = gateway.lab.forward(LAN, &packet6(HOST6, server6(), UDP, (5000 + port, 53), 0, b"ask"));
        assert_eq!(at, WAN);
    }
    assert_eq!(gateway.bindings(), 40);
    gateway.lab.close();
}
