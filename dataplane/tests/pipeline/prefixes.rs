//! Prefix translation (NPTv6): against a plain model of it, by one worker and by owners, and through a reload.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use sluice_dataplane::snapshot::{PrefixNat, Snapshot};
use sluice_dataplane::stage::owner::Owners;
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::nptv6::PrefixPair;

use crate::lab::{LAN, Lab, SERVER6, WAN, snapshot};
use crate::packets::{UDP, udp6};
use crate::reload::{Reloading, kept, settled};

const INSIDE: u128 = 0x2001_0db8_0001 << 80;
const OUTSIDE: u128 = 0x2001_0db8_cafe << 80;

fn rule(outside: u128, length: u8) -> PrefixNat {
    PrefixNat { out: 1, pair: PrefixPair::new((INSIDE, length), (outside, length)).unwrap() }
}

fn translating(length: u8) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.prefixes.push(rule(OUTSIDE, length));
    // Who may come in is not what this is about.
    snapshot.interfaces[1].acl = None;
    snapshot
}

/// The addresses of an IPv6 packet.
fn ends6(ip: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
    let at = |from: usize| <[u8; 16]>::try_from(&ip[from..from + 16]).unwrap().into();
    (at(8), at(24))
}

/// RFC 6296 in the plainest words: the checksum over the address, divided by 0xffff, is what it was.
fn is_image(inside: Ipv6Addr, outside: Ipv6Addr, length: u8) -> bool {
    let sum =
        |address: Ipv6Addr| address.segments().iter().map(|&word| u64::from(word)).sum::<u64>() % 0xffff;
    let adjusted =
        if length <= 48 { 3 } else { (4..8).find(|&i| inside.segments()[i] != 0xffff).unwrap_or(8) };
    let words = usize::from(length / 16);
    let prefix: Ipv6Addr = OUTSIDE.into();
    let same = (words..8).filter(|&i| i != adjusted).all(|i| inside.segments()[i] == outside.segments()[i]);
    sum(inside) == sum(outside) && same && outside.segments()[..words] == prefix.segments()[..words]
}

proptest! {
    #![proptest_config(crate::lab::cases(80))]

    /// proves: RFC 6296 3.2
    /// proves: RFC 6296 3.3
    #[test]
    fn a_conversation_passes_both_ways_whoever_begins(
        length in prop::sample::select(vec![48u8, 64]),
        host in any::<u64>(),
        inbound in any::<bool>(),
        hlim in 3..64u8,
    ) {
        let mut lab = Lab::new(translating(length));
        let inside = Ipv6Addr::from_bits(INSIDE | u128::from(host));
        prop_assume!(host > 9 && host != u64::MAX);
        let ask = |ip: Vec<u8>| { let mut ip = ip; ip[7] = hlim; ip };
        let outside: Ipv6Addr = translating(length).prefixes[0].pair.outward(inside.to_bits()).unwrap().into();
        prop_assert!(is_image(inside, outside, length));
        let out = |lab: &mut Lab| lab.forward(LAN, &ask(udp6((inside, 7), (SERVER6, 9), b"out")));
        let back = |lab: &mut Lab| lab.forward(WAN, &ask(udp6((SERVER6, 9), (outside, 7), b"back again")));
        for turn in 0..4 {
            if (turn % 2 == 0) == inbound {
                let (port, ip) = back(&mut lab);
                let expected = ask(udp6((SERVER6, 9), (inside, 7), b"back again"));
                prop_assert_eq!((port, ends6(&ip), ip[7]), (LAN, (SERVER6, inside), hlim - 1));
                prop_assert_eq!(&ip[8..], &expected[8..], "a full computation says the same");
            } else {
                let (port, ip) = out(&mut lab);
                let expected = ask(udp6((outside, 7), (SERVER6, 9), b"out"));
                prop_assert_eq!((port, ends6(&ip), ip[7]), (WAN, (outside, SERVER6), hlim - 1));
                prop_assert_eq!(&ip[8..], &expected[8..]);
            }
        }
        prop_assert_eq!(lab.worker.shard().sessions.live(), 1);
        lab.close();
    }

    #[test]
    fn both_directions_have_one_owner(
        workers in 1..=8usize,
        hosts in prop::array::uniform2(any::<u64>()),
        remote in any::<u128>(),
        hairpins in any::<bool>(),
    ) {
        let snapshot = translating(48);
        let owners = Owners::new(&snapshot, workers);
        let pair = snapshot.prefixes[0].pair;
        let [a, b] = hosts.map(|host| INSIDE | u128::from(host));
        let (there, seen) = if hairpins { (b, pair.outward(b).unwrap()) } else { (remote, remote) };
        let outside = pair.outward(a).unwrap();
        let of = |src, dst| owners.of_flow6([(src, 5), (dst, 6)], UDP, &snapshot);
        let back = |src, dst| owners.of_flow6([(src, 6), (dst, 5)], UDP, &snapshot);
        let owner = of(a, seen);
        prop_assert!([back(seen, outside), of(outside, seen), back(there, outside)].iter().all(|&o| o == owner));
    }
}

#[test]
fn a_session_lives_on_with_its_prefix_and_ends_with_it() {
    let mut gateway = Reloading::of(translating(48));
    let inside = |n: u16| Ipv6Addr::from_bits(INSIDE | u128::from(n));
    let say = |gateway: &mut Reloading, n| {
        let (_, ip) = gateway.lab.forward(LAN, &udp6((inside(n), 7), (SERVER6, 9), b"out"));
        ends6(&ip).0
    };
    let first = say(&mut gateway, 100);
    say(&mut gateway, 101);
    assert_eq!(gateway.reload(|next| next.icmp_per_second += 1), kept(2));
    assert_eq!(say(&mut gateway, 100), first);
    let other = 0x2001_0db8_beef << 80;
    assert_eq!(gateway.reload(|next| next.prefixes[0] = rule(other, 48)), settled(0, 2));
    let second = say(&mut gateway, 100);
    assert!(second != first && u128::from(second) >> 80 == other >> 80);
    // The old prefix is nobody's any more, and is routed as all else.
    assert_eq!(gateway.reload(|next| next.prefixes.clear()), settled(0, 1));
    assert_eq!(say(&mut gateway, 100), inside(100));
    gateway.lab.close();
}

/// proves: RFC 6296 3.4
#[test]
fn what_has_no_counterpart_is_refused() {
    let mut lab = Lab::new(translating(48));
    let at = |prefix: u128| Ipv6Addr::from_bits(prefix | 0xffff << 64 | 9);
    let out = udp6((at(INSIDE), 7), (SERVER6, 9), b"out");
    assert_eq!(lab.dropped(LAN, &out), DropReason::PrefixUnmappable);
    assert_eq!(lab.dropped(WAN, &udp6((SERVER6, 9), (at(OUTSIDE), 7), b"in")), DropReason::PrefixUnmappable);
    lab.close();
}
