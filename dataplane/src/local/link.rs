//! What an interface's addresses say about others: which are on its link, which are ours, which are everybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::ethernet::Mac;

use crate::snapshot::{Interface, LocalUse, Snapshot};

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
}

fn holds4((ours, length): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    (ours.to_bits() ^ address.to_bits()) & mask4(length) == 0
}

fn holds6((ours, length): (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    (ours.to_bits() ^ address.to_bits()) & mask6(length) == 0
}

/// Whether all stations of the link are meant: the limited broadcast, or the first or last address of a subnet that has
/// room for these (RFC 1122 3.2.1.3, RFC 3021).
pub(super) fn is_broadcast(link: &Interface, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let all = |&(ours, length): &(Ipv4Addr, u8)| {
        let host = address.to_bits() & !mask4(length);
        length < 31 && holds4((ours, length), address) && (host == 0 || host == !mask4(length))
    };
    address == Ipv4Addr::BROADCAST || link.v4.iter().any(all)
}

/// Whether one station on the interface's link may have the address.
pub(super) fn is_on_link(link: &Interface, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => link.v4.iter().any(|&ours| holds4(ours, v4)) && !is_broadcast(link, address),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || link.v6.iter().any(|&ours| holds6(ours, v6)),
    }
}

/// What the address is there for, if it is ours: on any link, or link-local on this one.
pub(super) fn ours(snapshot: &Snapshot, link: &Interface, address: IpAddr) -> Option<LocalUse> {
    match address {
        IpAddr::V4(v4) => snapshot.local4.get(&v4).map(|&(_, used)| used),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            link.v6.iter().any(|&(ours, _)| ours == v6).then_some(LocalUse::Interface)
        }
        IpAddr::V6(v6) => snapshot.local6.get(&v6).map(|&(_, used)| used),
    }
}

/// Whether the address is ours on the link of this interface, so that we answer for it there.
pub(super) fn is_ours_here(snapshot: &Snapshot, interface: u16, link: &Interface, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => snapshot.local4.get(&v4).is_some_and(|&(on, _)| on == interface),
        IpAddr::V6(v6) => {
            link.v6.iter().any(|&(ours, _)| ours == v6)
                || snapshot.local6.get(&v6).is_some_and(|&(on, _)| on == interface)
        }
    }
}

/// Our address to ask for a neighbour from: one of its subnet, or else our first.
pub(super) fn source4(link: &Interface, neighbor: Ipv4Addr) -> Option<Ipv4Addr> {
    let of_its_subnet = link.v4.iter().find(|&&ours| holds4(ours, neighbor));
    of_its_subnet.or(link.v4.first()).map(|&(address, _)| address)
}

/// Our address to ask for a neighbour from: one of its subnet, or else our first.
pub(super) fn source6(link: &Interface, neighbor: Ipv6Addr) -> Option<Ipv6Addr> {
    let of_its_subnet = link.v6.iter().find(|&&ours| holds6(ours, neighbor));
    of_its_subnet.or(link.v6.first()).map(|&(address, _)| address)
}

/// The source of an error about a packet to `asked` that came in by an interface: that address, if it is our own (RFC 4443
/// 2.2(a)), and else the first of the interface.
pub(super) fn speaker4(snapshot: &Snapshot, link: &Interface, asked: Ipv4Addr) -> Option<Ipv4Addr> {
    let own = ours(snapshot, link, asked.into()) == Some(LocalUse::Interface);
    if own { Some(asked) } else { primary4(snapshot, link) }
}

/// As [`speaker4`].
pub(super) fn speaker6(snapshot: &Snapshot, link: &Interface, asked: Ipv6Addr) -> Option<Ipv6Addr> {
    let own = ours(snapshot, link, asked.into()) == Some(LocalUse::Interface);
    if own { Some(asked) } else { primary6(snapshot, link) }
}

/// The source of the errors that we send by an interface: its first address or, where it has none, the first that any has
/// (RFC 1812 4.3.2.4).
fn primary4(snapshot: &Snapshot, link: &Interface) -> Option<Ipv4Addr> {
    let mut any = snapshot.interfaces.iter().filter_map(|other| other.v4.first());
    link.v4.first().or_else(|| any.next()).map(|&(address, _)| address)
}

/// The source of the errors that we send by an interface: its first global address or, where it has none, the first that
/// any has, as a link-local one would not get beyond the link.
fn primary6(snapshot: &Snapshot, link: &Interface) -> Option<Ipv6Addr> {
    let global = |(address, _): &&(Ipv6Addr, u8)| !address.is_unicast_link_local();
    let mut any = snapshot.interfaces.iter().filter_map(|other| other.v6.iter().find(global));
    let address = link.v6.iter().find(global).or_else(|| any.next()).or(link.v6.first());
    address.map(|&(address, _)| address)
}

/// The group of all stations of a link (RFC 4291 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The Ethernet address of an IPv6 multicast group (RFC 2464 7).
pub(super) fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The group that the holder of an address listens to (RFC 4291 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | address.to_bits() & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(v4: &[(&str, u8)], v6: &[(&str, u8)]) -> Interface {
        Interface {
            name: "lan".into(),
            port: 0,
            tags: Default::default(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            v4: v4.iter().map(|(a, l)| (a.parse().unwrap(), *l)).collect(),
            v6: v6.iter().map(|(a, l)| (a.parse().unwrap(), *l)).collect(),
            acl: None,
            guard: None,
            mss: [0; 2],
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_ends_of_a_subnet_are_no_station_except_where_there_are_but_two() {
        let lan = link(&[("192.0.2.1", 24), ("198.51.100.0", 31), ("203.0.113.9", 32)], &[]);
        for all in ["192.0.2.0", "192.0.2.255", "255.255.255.255"] {
            assert!(is_broadcast(&lan, ip(all)) && !is_on_link(&lan, ip(all)), "{all}");
        }
        for one in ["192.0.2.77", "198.51.100.0", "198.51.100.1", "203.0.113.9"] {
            assert!(!is_broadcast(&lan, ip(one)) && is_on_link(&lan, ip(one)), "{one}");
        }
        assert!(!is_on_link(&lan, ip("192.0.3.1")));
    }

    #[test]
    fn a_default_prefix_holds_everything() {
        let any = link(&[("10.0.0.1", 0)], &[("2001:db8::1", 0)]);
        assert!(is_on_link(&any, ip("203.0.113.1")) && is_on_link(&any, ip("3fff::1")));
    }

    #[test]
    fn sources_are_chosen_by_subnet_and_scope() {
        let lan = link(&[("192.0.2.1", 24), ("10.0.0.1", 8)], &[("fe80::1", 64), ("2001:db8::1", 64)]);
        assert_eq!(source4(&lan, "10.9.9.9".parse().unwrap()), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(source4(&lan, "203.0.113.1".parse().unwrap()), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(source6(&lan, "2001:db8::9".parse().unwrap()), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(source6(&lan, "fe80::9".parse().unwrap()), Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn an_unnumbered_interface_speaks_with_anothers_address() {
        let bare = link(&[], &[("fe80::1", 64)]);
        let numbered = link(&[("192.0.2.1", 24)], &[("fe80::2", 64), ("2001:db8::1", 64)]);
        let snapshot = Snapshot { interfaces: vec![bare.clone(), numbered.clone()], ..Snapshot::default() };
        for link in [&bare, &numbered] {
            assert_eq!(primary4(&snapshot, link), Some("192.0.2.1".parse().unwrap()));
            assert_eq!(primary6(&snapshot, link), Some("2001:db8::1".parse().unwrap()));
        }
        assert_eq!(primary6(&Snapshot::default(), &bare), Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn multicast_addresses_of_a_station() {
        let group = solicited_node("2001:db8::12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(group), Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }
}
