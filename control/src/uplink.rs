//! `address = "kernel"`: interfaces that have their addresses, and with them the default route, from the kernel, where a DHCP
//! client, router advertisements, keepalived or an operator puts them.
//!
//! The configuration itself says only who has them. What the kernel has is put in before it is compiled: at the start, with
//! each reload, and each time that it changes, which is then a new generation of the same configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::config::{AddressRange, Config, Link, Prefix, Route, SourceNat, Target, stand_in};

mod follow;
#[cfg(test)]
mod tests;

pub use follow::{Look, UplinkError, UplinkFollower};

/// Least MTU of IPv6 (RFC 8200 section 5).
const IPV6_MTU: u16 = 1280;

/// An interface that follows the kernel, and the kernel's device for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index.
    pub interface: usize,
    /// The netdev that carries it.
    pub device: String,
    /// Its VLAN tags there, the outermost first.
    pub tags: Vec<u16>,
}

/// The kernel's device for an interface.
pub fn place(config: &Config, index: usize) -> Option<Place> {
    let tags = match config.interfaces.get(index)?.link {
        Link::Device(_) => Vec::new(),
        Link::Vlan { id, outer, .. } => outer.into_iter().chain([id]).collect(),
    };
    Some(Place { interface: index, device: config.device(index)?.to_owned(), tags })
}

/// The interfaces that follow the kernel.
pub fn places(config: &Config) -> Vec<Place> {
    let all = config.interfaces.iter().enumerate().filter(|(_, interface)| interface.from_kernel);
    all.filter_map(|(index, _)| place(config, index)).collect()
}

/// What the kernel has for the interfaces that follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The addresses of each, those to send from first.
    pub addresses: Vec<(usize, Vec<Prefix>)>,
    /// The default routes that lead out by them: of each family those that the kernel prefers.
    pub routes: Vec<Route>,
}

impl Given {
    fn of(&self, interface: usize) -> &[Prefix] {
        let found = self.addresses.iter().find(|(index, _)| *index == interface);
        found.map(|(_, addresses)| &addresses[..]).unwrap_or_default()
    }

    /// Whether something is gone and nothing has come in its place: an address or a way out of a family.
    fn is_less_than(&self, before: &Self) -> bool {
        let has = |addresses: &[Prefix], v4| addresses.iter().any(|prefix| prefix.is_ipv4() == v4);
        let leads = |given: &Self, v4| given.routes.iter().any(|route| route.to.is_ipv4() == v4);
        [true, false].into_iter().any(|v4| {
            let lost = |(index, old): &(usize, Vec<Prefix>)| has(old, v4) && !has(self.of(*index), v4);
            before.addresses.iter().any(lost) || leads(before, v4) && !leads(self, v4)
        })
    }

    /// The interfaces of which something else is to be said than before.
    pub fn changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let differs = |(index, addresses): &&(usize, Vec<Prefix>)| before.of(*index) != addresses;
        self.addresses.iter().filter(differs).map(|(index, _)| *index)
    }

    /// What is different from before, a line each.
    pub fn words(&self, before: Option<&Self>, config: &Config) -> Vec<String> {
        let name =
            |index: usize| config.interfaces.get(index).map_or("?", |interface| interface.name.as_str());
        let mut lines = Vec::new();
        for (index, addresses) in &self.addresses {
            if before.is_some_and(|before| before.of(*index) == addresses) {
                continue;
            }
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            lines.push(match &list[..] {
                [] => format!("{}: the kernel has no address there", name(*index)),
                list => format!("{}: the kernel has {} there", name(*index), list.join(", ")),
            });
        }
        if before.is_none_or(|before| before.routes != self.routes) {
            let way = |route: &Route| match route.target {
                Target::Via { address, interface } => format!("via {address} by {}", name(interface)),
                Target::Connected(interface) => format!("by {}", name(interface)),
                Target::Blackhole | Target::Unreachable => "nowhere".to_owned(),
            };
            let ways: Vec<String> = self.routes.iter().map(way).collect();
            match (&ways[..], before) {
                ([], None) => {}
                ([], Some(_)) => lines.push("the kernel has no default route there".into()),
                (ways, _) => lines.push(format!("default route of the kernel: {}", ways.join(", "))),
            }
        }
        lines
    }
}

/// Puts what the kernel has into a configuration: addresses, what NAT and port forwards have of them, default routes where the
/// file has none. Returns what is left out, and why.
pub fn put_in(config: &mut Config, given: &Given) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, addresses) in &given.addresses {
        let added = fitting(config, *index, addresses, &mut lines);
        let Some(interface) = config.interfaces.get_mut(*index) else { continue };
        interface.addresses.extend(added);
        if let Some(primary) = interface.primary_ipv4() {
            let name = interface.name.clone();
            stand_aside(config, stand_in(*index), primary, &name, &mut lines);
        }
    }
    let is_of_file = |to: Prefix| config.routes.iter().any(|route| route.to == to);
    let routes = given.routes.iter().filter(|route| !is_of_file(route.to)).copied().collect::<Vec<_>>();
    config.routes = config.routes.iter().cloned().chain(routes).collect();
    lines
}

/// Those of the kernel's addresses that an interface can have. One within a larger subnet of the same link is of that subnet,
/// as is usual for virtual addresses, and those of DHCPv6.
fn fitting(config: &Config, index: usize, addresses: &[Prefix], lines: &mut Vec<String>) -> Vec<Prefix> {
    let Some(interface) = config.interfaces.get(index) else { return Vec::new() };
    let mut added: Vec<Prefix> = Vec::new();
    for &prefix in addresses {
        let known = interface.addresses.iter().chain(&added).any(|own| own.address == prefix.address);
        if known || !may_have(prefix) {
            continue;
        }
        let mut leave = |why: String| {
            lines.push(format!("{}: {prefix} of the kernel is left out, as {why}", interface.name));
        };
        if !prefix.is_ipv4() && interface.mtu < IPV6_MTU {
            leave(format!("the MTU {} is too small for IPv6", interface.mtu));
            continue;
        }
        let others = config.interfaces.iter().enumerate().filter(|(other, _)| *other != index);
        let all = others.flat_map(|(_, other)| other.addresses.iter().map(move |own| (other, own)));
        if let Some((other, own)) = all.into_iter().find(|(_, own)| own.overlaps(prefix)) {
            leave(format!("its subnet overlaps {} of {}", own.network(), other.name));
            continue;
        }
        if let Some(own) =
            interface.addresses.iter().find(|own| prefix.covers(**own) && own.length > prefix.length)
        {
            leave(format!("its subnet is larger than {}, which is configured", own.network()));
            continue;
        }
        added.push(prefix);
    }
    let subnets: Vec<Prefix> = interface.addresses.iter().chain(&added).copied().collect();
    let widest = |prefix: &Prefix| {
        let around =
            subnets.iter().filter(|subnet| subnet.covers(*prefix) && !subnet.reserves(prefix.address));
        around.map(|subnet| subnet.length).min().unwrap_or(prefix.length)
    };
    added.iter().map(|prefix| Prefix { length: widest(prefix), ..*prefix }).collect()
}

/// Whether an address can be an interface's. Link-local ones are derived, and not followed.
fn may_have(prefix: Prefix) -> bool {
    let is_host = match prefix.address {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 240..) && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    };
    let address = prefix.address;
    let is_unfit = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    is_host && !is_unfit && prefix.length != 0 && !prefix.reserves(address)
}

/// Puts an interface's primary address where it was only stood in for.
fn stand_aside(
    config: &mut Config,
    stand_in: Ipv4Addr,
    primary: Ipv4Addr,
    name: &str,
    lines: &mut Vec<String>,
) {
    let stands = AddressRange { first: stand_in, last: stand_in };
    let own = AddressRange { first: primary, last: primary };
    let follows = |rule: &SourceNat| rule.pool.contains(&stands);
    let others: Vec<SourceNat> = config.source_nat.iter().filter(|rule| !follows(rule)).cloned().collect();
    for rule in config.source_nat.iter_mut().filter(|rule| follows(rule)) {
        let gives = |other: &&SourceNat| {
            other.ports.overlaps(rule.ports) && other.pool.iter().any(|range| range.contains(primary))
        };
        if others.iter().any(|other| gives(&other)) {
            lines.push(format!(
                "nat.source: {primary}, now of {name}, is in another pool, too: `to = \"interface\"` has no address"
            ));
            continue;
        }
        rule.pool.iter_mut().filter(|range| **range == stands).for_each(|range| *range = own);
    }
    let forwards = config.forwards.iter_mut().filter(|forward| forward.address == stand_in);
    forwards.for_each(|forward| forward.address = primary);
}

/// A default route of the family of `like`.
fn default_of(like: IpAddr) -> Prefix {
    let address = match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Prefix { address, length: 0 }
}

/// How often the addresses of each interface have changed, and what that has cost; for those who ask.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Line>>);

#[derive(Debug)]
struct Line {
    interface: usize,
    since: Instant,
    changes: u64,
    sessions_ended: u64,
}

impl Ledger {
    /// For these interfaces.
    pub fn new(places: &[Place]) -> Self {
        let line = |place: &Place| Line {
            interface: place.interface,
            since: Instant::now(),
            changes: 0,
            sessions_ended: 0,
        };
        Self(Mutex::new(places.iter().map(line).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of these interfaces have changed.
    pub fn change(&self, interfaces: &[usize]) {
        for line in self.lock().iter_mut().filter(|line| interfaces.contains(&line.interface)) {
            (line.since, line.changes) = (Instant::now(), line.changes + 1);
        }
    }

    /// So many sessions have ended by it.
    pub fn end(&self, interfaces: &[usize], sessions: u64) {
        let mut lines = self.lock();
        let own = lines.iter_mut().filter(|line| interfaces.contains(&line.interface));
        own.for_each(|line| line.sessions_ended += sessions);
    }

    /// What there is to show of an interface, if it follows the kernel.
    pub fn show(&self, interface: usize) -> Option<Value> {
        let lines = self.lock();
        let line = lines.iter().find(|line| line.interface == interface)?;
        Some(json!({
            "addresses_from": "kernel",
            "addresses_age_seconds": line.since.elapsed().as_secs(),
            "address_changes": line.changes,
            "sessions_ended_by_address_changes": line.sessions_ended,
        }))
    }
}
