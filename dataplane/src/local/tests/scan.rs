//! Tables and queues that somebody tries to fill (RFC 6583).

use super::*;
use crate::clock::MILLISECOND;

/// A LAN with a /16, so that there is something to scan, and the neighbours of `sizes.neighbors`.
fn wide(neighbors: u32) -> Gateway {
    let mut snapshot = snapshot();
    snapshot.interfaces[0].v4 = vec![(Ipv4Addr::new(10, 1, 0, 1), 16)];
    snapshot.sizes.neighbors = neighbors;
    Gateway::with(snapshot)
}

fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a01_0000 + n)
}

fn count(gateway: &Gateway, resolved: bool) -> usize {
    gateway.neighbors.iter().filter(|n| n.state.is_resolved() == resolved).count()
}

/// Who is known, and goes on being known.
fn befriend(gateway: &mut Gateway) -> Vec<(u8, u16)> {
    let friends = (2..102).map(|n| {
        gateway.now += 10 * MILLISECOND;
        let index = gateway.resolve(LAN, address(n.into())).unwrap();
        assert!(gateway.learn(LAN, address(n.into()), [2, 0, 0, 0, 1, n], Evidence::Answer));
        (n, index)
    });
    friends.collect()
}

/// 65,000 addresses in 6.5 seconds, each sent a packet.
fn scan(neighbors: u32, limit: usize, bound_that_holds: DropReason) {
    let mut gateway = wide(neighbors);
    let friends = befriend(&mut gateway);
    gateway.now += 5 * SECOND;
    let (began, epoch) = (gateway.now, gateway.neighbors.epoch());
    let mut requests = HashMap::<[u8; 4], Vec<Nanos>>::new();
    let mut reasons = HashMap::<DropReason, u32>::new();
    for n in 300..65_300 {
        gateway.now += MILLISECOND / 10;
        let mut packet = udp4(HOST4, address(n), b"knock");
        packet.splice(12..12, hex("8100 0064"));
        let refused = match gateway.resolve(LAN, address(n)) {
            Ok(index) => gateway.hold(index, WAN, &packet),
            Err(reason) => Some(reason),
        };
        refused.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        gateway.tick();
        gateway.sent(WAN);
        for frame in
            gateway.sent(LAN).iter().filter(|frame| frame[12..14] == [8, 6] && frame[28..32] != frame[38..42])
        {
            requests.entry(frame[38..42].try_into().unwrap()).or_default().push(gateway.now);
        }
        // Counting walks the table: a sample of the moments will do.
        assert!(n % 100 != 0 || count(&gateway, false) <= limit);
    }
    let seconds = (gateway.now - began).div_ceil(SECOND);
    let asked: usize = requests.values().map(Vec::len).sum();
    let bound = 3 * (neighbor::NEW_PER_SECOND * (seconds + 1)) as usize;
    assert!(asked > 100 && asked <= bound, "{asked} requests");
    for times in requests.values() {
        assert!(times.len() <= 3 && times.windows(2).all(|pair| pair[1] - pair[0] >= SECOND));
    }
    let bounds =
        [DropReason::NeighborTableFull, DropReason::NeighborRequestRate, DropReason::NeighborQueueFull];
    assert!(reasons.keys().all(|reason| bounds.contains(reason)), "{reasons:?}");
    assert!(reasons[&bound_that_holds] > 50_000, "{reasons:?}");
    assert!(gateway.neighbors.held() <= 32, "an eighth of the frames");
    for (n, index) in friends {
        let hop = gateway.neighbors.hop(index);
        assert!(hop.resolved && hop.header[5] == n, "who is known is unharmed");
    }
    let epochs = u64::from(gateway.neighbors.epoch() - epoch);
    assert!(epochs <= seconds, "all flows look up their next hop again, but once a second at most");

    // Soon after, the next one to be talked to is asked for.
    gateway.now += 4 * SECOND;
    for _ in 0..100 {
        gateway.tick();
        gateway.sent(WAN);
        gateway.sent(LAN);
    }
    assert!(gateway.resolve(LAN, address(200)).is_ok());
}

#[test]
fn a_scan_of_a_subnet_exhausts_nothing() {
    scan(256, 64, DropReason::NeighborTableFull);
    scan(8192, 2048, DropReason::NeighborRequestRate);
}

#[test]
fn who_talks_on_the_link_does_not_push_out_who_is_talked_to() {
    let mut gateway = wide(64);
    let friends: Vec<u16> = (2..26)
        .map(|n| {
            let index = gateway.resolve(LAN, address(n)).unwrap();
            gateway.learn(LAN, address(n), HOST_MAC, Evidence::Answer);
            index
        })
        .collect();
    let epoch = gateway.neighbors.epoch();
    gateway.now += 10 * neighbor::IDLE;
    for n in 1000..21_000 {
        gateway.learn(LAN, address(n), [2, 9, 9, 9, 9, 9], Evidence::Question);
    }
    assert!(count(&gateway, true) <= 48 && count(&gateway, false) <= 16);
    assert!(friends.iter().all(|&index| gateway.neighbors.hop(index).header[..6] == HOST_MAC));
    assert_eq!(gateway.neighbors.epoch(), epoch, "no flow has those that came and went");
}

#[test]
fn a_full_table_takes_another_neighbour_for_an_idle_one_only() {
    let mut gateway = wide(64);
    let meet = |gateway: &mut Gateway, n: u32| {
        gateway.now += 10 * MILLISECOND;
        let index = gateway.resolve(LAN, address(n)).unwrap();
        gateway.learn(LAN, address(n), HOST_MAC, Evidence::Answer);
        gateway.neighbors.hop(index).resolved
    };
    for n in 0..48 {
        assert!(meet(&mut gateway, 2 + n));
    }
    assert!(!meet(&mut gateway, 100), "all are in use");
    assert_eq!(gateway.resolve(LAN, address(100)), Err(DropReason::NeighborUnreachable));
    let epoch = gateway.neighbors.epoch();
    gateway.now += neighbor::IDLE;
    for n in 1..48 {
        gateway.resolve(LAN, address(2 + n)).unwrap();
    }
    assert!(meet(&mut gateway, 101), "one has not been used for a minute");
    assert_eq!((gateway.neighbor(address(2)), gateway.neighbors.epoch()), (None, epoch + 1));
}

#[test]
fn frames_that_wait_are_bounded_in_all() {
    let mut gateway = wide(256);
    let mut held = 0;
    for n in 2..22 {
        let index = gateway.resolve(LAN, address(n)).unwrap();
        for _ in 0..4 {
            held += u64::from(gateway.hold(index, LAN, &udp4(HOST4, address(n), b"")).is_none());
        }
    }
    assert_eq!((held, gateway.neighbors.held()), (32, 32), "an eighth of 256 frames");
    assert_eq!(gateway.counters.drops[DropReason::NeighborQueueFull as usize], 48);
}

#[test]
fn everybody_is_no_neighbour() {
    let mut gateway = wide(64);
    for all in [address(0), address(0xffff), Ipv4Addr::BROADCAST] {
        assert_eq!(gateway.resolve(LAN, all), Err(DropReason::Multicast));
    }
    assert_eq!(gateway.resolve(77, address(5)), Err(DropReason::NeighborUnreachable));
    assert_eq!(gateway.neighbors.iter().count(), 0);
}
