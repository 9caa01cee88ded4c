//! What hosts are told of mappings that may be lost.

use super::*;
use crate::clock::MILLISECOND;
use crate::snapshot::{Pool, PortControl, SourceNat};

fn controlled() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools.push(Pool { addresses: vec![NAT4], ports: (1024, 65535), ..Pool::default() });
    snapshot.source_nat.push(SourceNat { out: WAN, from: vec![(LAN4.to_bits(), 0xffff_ff00)], pool: 0 });
    snapshot.port_control =
        PortControl { rules: vec![0], min_lifetime: 120, max_lifetime: 7200, max_mappings: 32 };
    snapshot
}

/// When what was told, by whom, in milliseconds: frames of UDP port 5350.
fn told(gateway: &mut Gateway, time: Nanos) -> Vec<(Nanos, Vec<u8>)> {
    let (start, mut told) = (gateway.now, Vec::new());
    while gateway.now < start + time {
        gateway.tick();
        let at = (gateway.now - start) / MILLISECOND;
        let frames = gateway.sent(LAN).into_iter().filter(|frame| frame[12..14] == [8, 0]);
        told.extend(frames.map(|frame| (at, frame)));
        assert!(gateway.sent(WAN).iter().all(|frame| frame[16..18] != [8, 0]), "not to the outside");
        gateway.now += 50 * MILLISECOND;
    }
    told
}

/// proves: RFC 6887 14.1
#[test]
fn all_hosts_are_told_ten_times_each_twice_as_late() {
    let mut gateway = Gateway::with(controlled());
    let told = told(&mut gateway, 300 * SECOND);
    let times: Vec<Nanos> = told.iter().step_by(2).map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 250, 750, 1750, 3750, 7750, 15_750, 31_750, 63_750, 127_750]);
    let (_, frame) = &told[16];
    assert_eq!(frame[..14], hex("01005e000001 020000000001 0800"));
    let ip = ipv4::Header::at(frame, 14).unwrap();
    assert_eq!((ip.source(), ip.destination(), ip.ttl()), (LAN4, Ipv4Addr::new(224, 0, 0, 1), 1));
    assert_eq!(frame[34..38], hex("14e7 14e6"));
    assert_eq!(ip.pseudo_header(17, 32).add_bytes(&frame[34..]).fold(), 0xffff);
    assert_eq!(frame[42..], hex("02800000 00000000 0000003f 000000000000000000000000"));
    assert_eq!(told[17].1[42..], hex("00800000 0000003f c6336409"));
}

#[test]
fn they_are_told_again_when_another_configuration_may_have_lost_mappings() {
    let mut gateway = Gateway::with(controlled());
    assert_eq!(told(&mut gateway, 300 * SECOND).len(), 20);
    let mut next = controlled();
    next.icmp_per_second = 1;
    let mut adopt = |next: Snapshot, me| {
        let mut change = Change::new(&gateway.snapshot, &next, me, 2);
        gateway.local.adopt(&mut change);
        gateway.snapshot = next;
        told(&mut gateway, 2 * SECOND)
    };
    assert_eq!(adopt(next.clone(), 0), []);
    next.pools[0].ports = (1024, 2047);
    let again = adopt(next.clone(), 0);
    assert_eq!((again.len(), again[0].1[50..54].to_vec()), (8, vec![0; 4]), "and the epoch begins anew");
    next.pools[0].ports = (1024, 4095);
    assert_eq!(adopt(next, 1), [], "another worker tells them");
}
