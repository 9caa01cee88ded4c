//! Mappings that hosts have asked for, when the configuration changes.

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{Forward, PortControl, Snapshot};
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::pcp::Header;

use super::{Reloading, STRANGER};
use crate::lab::{LAN, POOL, WAN, WEB, host, snapshot};
use crate::packets::{End, UDP, ends, udp};
use crate::port_control::{controlled, request, response};

impl Reloading {
    fn map(&mut self, port: u16) -> (u32, End) {
        let (_, out) = self.lab.forward(LAN, &request(host(9), port, 7200));
        let (result, _, external) = response(&out);
        assert_eq!(result, 0);
        (Header::at(&out, 28).unwrap().epoch(), external)
    }

    fn leased(&self) -> u32 {
        self.lab.worker.shard().nat.leased()
    }

    fn reload_and_wait(&mut self, change: impl FnOnce(&mut Snapshot)) {
        self.reload(change);
        self.lab.wait(SECOND / 1000);
        self.lab.wait(2 * SECOND);
    }
}

#[test]
fn a_mapping_lives_on_as_long_as_its_pool_gives_it_out() {
    let mut gateway = Reloading::of(controlled());
    gateway.lab.wait(10 * SECOND);
    let (epoch, external) = gateway.map(6000);
    assert_eq!(epoch, 0, "since the first poll");
    gateway.lab.wait(20 * SECOND);
    // Nothing of NAT changes, and the epoch goes on.
    gateway.reload_and_wait(|next| next.icmp_per_second = 7);
    assert_eq!(gateway.map(6000), (22, external));
    // The pool grows: the mapping stays, but as others might not, the epoch begins again.
    gateway.reload_and_wait(|next| next.pools[0].ports = (1000, 65535));
    assert_eq!((gateway.leased(), gateway.map(6000)), (1, (2, external)));
    let (_, out) = gateway.lab.forward(WAN, &udp((STRANGER, 9), external, b"hello"));
    assert_eq!(ends(&out).1, (host(9), 6000));
    // It loses the address: the mapping ends, and with it what lives by it.
    let other = POOL[usize::from(external.0 == POOL[0])];
    gateway.reload_and_wait(|next| next.pools[0].addresses = vec![other]);
    assert_eq!((gateway.leased(), gateway.bindings()), (0, 0));
    assert_eq!(gateway.map(6000).1.0, other);
    gateway.lab.close();
}

#[test]
fn a_port_forward_takes_a_mappings_port() {
    let mut gateway = Reloading::of(controlled());
    let (_, external) = gateway.map(6000);
    gateway.reload_and_wait(|next| {
        let (address, ports) = (external.0, (external.1, external.1));
        next.forwards.push(Forward { interface: 1, protocol: UDP, address, ports, to: WEB, to_port: 53 });
    });
    assert_eq!(gateway.leased(), 0);
    let (_, out) = gateway.lab.forward(WAN, &udp((STRANGER, 9), external, b"hello"));
    assert_eq!(ends(&out).1, (WEB, 53));
    assert_ne!(gateway.map(6000).1, external);
    gateway.lab.close();
}

#[test]
fn it_can_be_switched_on_and_off() {
    let mut gateway = Reloading::of(snapshot());
    assert_eq!(gateway.lab.dropped(LAN, &request(host(9), 6000, 600)), DropReason::LocalUnwanted);
    gateway.lab.collect();
    gateway.reload_and_wait(|next| next.port_control = controlled().port_control);
    for port in 6000..6020 {
        gateway.map(port);
    }
    assert_eq!(gateway.leased(), 20);
    gateway.reload_and_wait(|next| next.port_control = PortControl::default());
    assert_eq!((gateway.leased(), gateway.bindings()), (0, 0));
    gateway.lab.close();
}
