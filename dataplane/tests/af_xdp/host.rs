//! What the XDP program leaves to the kernel by address, and what is NAT's of an address that both have.

use std::net::IpAddr;

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::af_xdp::{PortSpec, SharedAddress, open};

use crate::lab::{Wire, in_namespace, receive, spec, until, veth};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 4] = [192, 0, 2, 1];
const BOTH: [u8; 4] = [198, 51, 100, 1];
const OTHER: [u8; 4] = [203, 0, 113, 9];
const HOST6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const OTHER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn ethernet(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, (20 + payload.len()) as u8, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.into_iter().chain(to).chain(payload.iter().copied()));
    packet
}

fn ipv6(to: [u8; 16], next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 64];
    packet.extend([0xfd; 16].into_iter().chain(to).chain(payload.iter().copied()));
    ethernet(OURS, 0x86dd, &packet)
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes(), [0; 2], [0; 2]].concat()
}

fn to(address: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    ethernet(OURS, 0x0800, &ipv4(OTHER, address, protocol, 0, &ports(9, port)))
}

fn icmp(address: [u8; 4], kind: u8, identifier: u16, data: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1], data].concat();
    ethernet(OURS, 0x0800, &ipv4(OTHER, address, 1, 0, &message))
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat()
}

#[test]
fn own_addresses_are_the_kernels_and_shared_ones_by_port() {
    in_namespace("own_addresses_are_the_kernels_and_shared_ones_by_port", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports_open, controls) =
            open(&mut pool, &[PortSpec { host_is_kernel: true, ..spec("a") }]).unwrap();
        let (port, wire) = (&mut ports_open[0], Wire::new("b"));
        let table = controls[0].host_table().unwrap();
        // Every holder has the same table.
        let another = controls[0].host_table().unwrap();
        let share =
            SharedAddress { tcp: vec![(5000, 5999)], udp: vec![(7000, 7000)], icmp: vec![(100, 199)] };
        let own = [IpAddr::from(HOST), IpAddr::from(BOTH), IpAddr::from(HOST6)];
        table.set(&own, &[(BOTH.into(), share.clone())]).unwrap();

        let quoted = |source: u16| ipv4(BOTH, OTHER, 6, 0, &ports(source, 80));
        let later = ethernet(OURS, 0x0800, &ipv4(OTHER, BOTH, 17, 100, &ports(9, 7000)));
        let kernels = [
            ethernet([0xff; 6], 0x0806, &[0; 28]),
            ethernet(OURS, 0x0806, &[0; 28]),
            ethernet([1, 0x80, 0xc2, 0, 0, 2], 0x8809, &[0; 46]),
            ethernet([1, 0, 0x5e, 0, 0, 5], 0x0800, &ipv4(OTHER, [224, 0, 0, 5], 89, 0, &[0; 8])),
            to(HOST, 6, 5000),
            tagged(&to(HOST, 17, 7000)),
            to(BOTH, 6, 22),
            to(BOTH, 17, 5000),
            to(BOTH, 47, 0),
            icmp(BOTH, 8, 100, &[]),
            icmp(BOTH, 0, 200, &[]),
            icmp(BOTH, 3, 0, &quoted(22)),
            ipv6(HOST6, 6, &ports(9, 5000)),
            tagged(&tagged(&ipv6(HOST6, 17, &ports(9, 9)))),
            ipv6(OTHER6, 58, &[135, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let ours = [
            to(OTHER, 6, 22),
            tagged(&to(OTHER, 17, 53)),
            to(BOTH, 6, 5000),
            to(BOTH, 6, 5999),
            tagged(&to(BOTH, 17, 7000)),
            icmp(BOTH, 0, 100, &[]),
            icmp(BOTH, 3, 0, &quoted(5500)),
            icmp(BOTH, 11, 0, &quoted(5500)),
            later,
            ipv6(OTHER6, 6, &ports(9, 22)),
            ipv6(OTHER6, 58, &[128, 0, 0, 0, 0, 0, 0, 0]),
        ];
        kernels.iter().chain(&ours).for_each(|frame| wire.send(frame));
        assert_eq!(receive(port, &mut pool, ours.len()), ours);
        until(|| controls[0].passed().matched.packets == kernels.len() as u64);
        assert_eq!(controls[0].passed().matched.packets, kernels.len() as u64);

        // An address that has gone is no longer the kernel's; a new one is.
        another.set(&[IpAddr::from(OTHER), IpAddr::from(BOTH)], &[(BOTH.into(), share)]).unwrap();
        wire.send(&to(HOST, 6, 22));
        wire.send(&to(OTHER, 6, 22));
        wire.send(&to(BOTH, 6, 5000));
        assert_eq!(receive(port, &mut pool, 2), [to(HOST, 6, 22), to(BOTH, 6, 5000)]);
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}
