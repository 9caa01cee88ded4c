//! `[[routes]]`: static routes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use sluice_dataplane::fib::MOST_WAYS;

use super::interfaces::Network;
use super::word;
use crate::config::model::{AddressRange, KernelRoutes, Prefix, Route, Target};
use crate::config::net::{self, first_alike};
use crate::config::plain::{Plain, Written};
use crate::config::reader::{At, Table, boolean, integer, text, text_or_number};
use crate::config::report::{Sink, Span};
use crate::config::schema;
use crate::config::units::Wrong;
use crate::routes::protocol_number;

/// Most static routes.
const MOST_ROUTES: usize = 1 << 20;
/// The shares that a route may have.
const WEIGHTS: RangeInclusive<u32> = 1..=256;
/// Most tables of the kernel.
const MOST_TABLES: usize = 16;

/// The static routes, and what other sections ask of them.
pub(super) struct Routes {
    /// Each with the place of its destination.
    pub(super) all: Vec<At<Route>>,
    /// For each next hop of IPv4 the first route that leads there.
    hops: BTreeMap<Ipv4Addr, usize>,
}

impl Routes {
    /// Reads them: from the file, or those that were taken out of it. None: of the latter some are wrong, and the file says which.
    pub(super) fn read(
        file: &Table<'_>,
        taken: Option<&Plain<'_>>,
        network: &Network<'_>,
        sink: &mut Sink<'_>,
    ) -> Option<Self> {
        let all = match taken {
            Some(taken) => plain(taken, network)?,
            None => read(file, network, sink),
        };
        let mut hops = BTreeMap::new();
        for (number, route) in all.iter().enumerate() {
            if let Target::Via { address: IpAddr::V4(address), .. } = route.value.target {
                hops.entry(address).or_insert(number);
            }
        }
        Some(Self { all, hops })
    }

    /// The first route by a next hop of these, with that next hop.
    pub(super) fn by(&self, hops: AddressRange) -> Option<(Ipv4Addr, &At<Route>)> {
        let (address, first) = self.hops.range(hops.first..=hops.last).min_by_key(|(_, first)| **first)?;
        self.all.get(*first).map(|route| (*address, route))
    }
}

fn read(file: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Vec<At<Route>> {
    let mut routes = Vec::new();
    let mut seen: HashMap<Prefix, Vec<(Target, Span)>> = HashMap::new();
    for table in file.tables("routes", &schema::ROUTE, MOST_ROUTES, sink) {
        let via = table.one("via", text(net::address), sink);
        let to = destination(&table, via.as_ref(), sink);
        let target = target(&table, via, network, sink);
        let (Some(to), Some(target)) = (to, target) else { continue };
        if let Target::Via { address, .. } = target {
            if address.is_ipv4() != to.value.is_ipv4() {
                sink.error(
                    &table.key_span("via"),
                    format!("the next hop of {} is of the other IP version", to.value),
                )
                .help("both are of IPv4, or both of IPv6");
            }
        }
        if let Some(interface) = network.connected(to.value) {
            let name = &network.interfaces[interface].name;
            sink.error(&to.span, format!("{} is the subnet of `{name}`", to.value))
                .help("an interface's own subnet needs no route: leave it out");
        }
        let weight = table.one("weight", integer(WEIGHTS), sink).map_or(1, |at| at.value as u16);
        let same: &mut Vec<(Target, Span)> = seen.entry(to.value).or_default();
        let rival = same.iter().find(|(other, _)| *other == target || !leads(*other) || !leads(target));
        if let Some((_, first)) = rival {
            sink.error(&to.span, format!("there are two routes to {}", to.value))
                .also(first, "the first is here")
                .help("several routes to a prefix share its flows if each has a next hop of its own");
        } else if same.len() == MOST_WAYS {
            sink.error(&to.span, format!("there are too many routes to {}", to.value))
                .help(format!("at most {MOST_WAYS}"));
        }
        same.push((target, to.span.clone()));
        routes.push(At { value: Route { to: to.value, target, weight }, span: to.span });
    }
    routes
}

/// As [`read`], of routes that are written plainly. None: something is wrong, and [`read`] says what.
fn plain(plain: &Plain<'_>, network: &Network<'_>) -> Option<Vec<At<Route>>> {
    if plain.len() > MOST_ROUTES {
        return None;
    }
    let mut unsaid = Sink::new("", "");
    let route = |written: Written<'_>| {
        let Written { to, via, interface, weight, blackhole, unreachable } = written;
        let At { value: to, span } = to?;
        let via = match via {
            Some(At { value, span }) => Some(At { value: net::address(value).ok()?, span }),
            None => None,
        };
        let to = match (to, via.as_ref().map(|via| via.value)) {
            ("default", Some(IpAddr::V4(_))) => Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 },
            ("default", Some(IpAddr::V6(_))) => Prefix { address: Ipv6Addr::UNSPECIFIED.into(), length: 0 },
            (to, _) => net::prefix(to).ok()?,
        };
        let interface = match interface {
            Some(At { value, .. }) => Some(network.named(value)?),
            None => None,
        };
        let target = match (via, interface, blackhole, unreachable) {
            (Some(via), interface, None, None) => {
                let is_alike = via.value.is_ipv4() == to.is_ipv4();
                next_hop(via, interface, network, &mut unsaid).filter(|_| is_alike)?
            }
            (None, Some(interface), None, None) => Target::Connected(interface),
            (None, None, Some(_), None) => Target::Blackhole,
            (None, None, None, Some(_)) => Target::Unreachable,
            _ => return None,
        };
        let weight = weight.map_or(Some(1), |weight| weight.value.parse().ok());
        let weight = weight.filter(|weight| WEIGHTS.contains(&u32::from(*weight)))?;
        network.connected(to).is_none().then_some(At { value: Route { to, target, weight }, span })
    };
    let routes = plain.routes().map(route).collect::<Option<Vec<_>>>()?;
    agree(&routes).then_some(routes)
}

/// Whether routes to the same prefix lead to different next hops, and are not too many.
fn agree(routes: &[At<Route>]) -> bool {
    let firsts = first_alike(routes.iter().map(|route| route.value.to));
    let mut several: BTreeMap<usize, Vec<Target>> = BTreeMap::new();
    for ((at, route), first) in routes.iter().enumerate().zip(firsts) {
        let Some(begun) = routes.get(first).filter(|_| first != at) else { continue };
        several.entry(first).or_insert_with(|| vec![begun.value.target]).push(route.value.target);
    }
    several.values().all(|targets| {
        targets.len() <= MOST_WAYS
            && targets.iter().all(|target| leads(*target))
            && (1..targets.len()).all(|at| !targets[..at].contains(&targets[at]))
    })
}

fn leads(target: Target) -> bool {
    matches!(target, Target::Via { .. } | Target::Connected(_))
}

/// `[kernel-routes]`
pub(super) fn kernel(file: &Table<'_>, sink: &mut Sink<'_>) -> Option<KernelRoutes> {
    let table = file.table("kernel-routes", &schema::KERNEL_ROUTES, sink)?;
    let number = text_or_number(|text: &str| match text {
        "main" => Ok(254),
        "default" => Ok(253),
        text => {
            let number = text.parse().ok().filter(|number| ![0, 255].contains(number));
            number.ok_or_else(|| {
                Wrong::new(format!("{text} is no route table"))
                    .help("a number from 1 to 4294967295, or \"main\"")
            })
        }
    });
    let tables: Vec<At<u32>> = table.many("tables", number, sink);
    if let Some(extra) = tables.get(MOST_TABLES) {
        sink.error(&extra.span, format!("there are {} tables", tables.len()))
            .help(format!("at most {MOST_TABLES}"));
    }
    let protocol = text_or_number(|text: &str| {
        let unknown = || {
            let help = "such as \"bgp\", \"bird\" or \"static\", or a number from 0 to 255";
            Wrong::new(format!("{text} is no protocol of routes")).help(help)
        };
        protocol_number(text).ok_or_else(unknown)
    });
    let protocols: Vec<At<u8>> = table.many("protocols", protocol, sink);
    let mut most = |key, usual| table.one(key, integer(1000..=1_000_000), sink).map_or(usual, |at| at.value);
    let most = [most("most-ipv4", 100_000), most("most-ipv6", 50_000)];
    let tables: Vec<u32> = tables.iter().map(|at| at.value).collect();
    Some(KernelRoutes {
        tables: if tables.is_empty() { vec![254] } else { tables },
        protocols: protocols.iter().map(|at| at.value).collect(),
        most,
    })
}

fn destination(table: &Table<'_>, via: Option<&At<IpAddr>>, sink: &mut Sink<'_>) -> Option<At<Prefix>> {
    if table.string("to") != Some("default") {
        return table.required("to", "\"0.0.0.0/0\"", text(net::prefix), sink);
    }
    let to = word(table, "to", sink)?;
    let address: IpAddr = match via.map(|via| via.value) {
        Some(IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        None if table.has("via") => return None,
        None => {
            sink.error(&to.span, "without `via`, `default` may be of IPv4 or IPv6")
                .help("write \"0.0.0.0/0\" or \"::/0\"");
            return None;
        }
    };
    Some(At { value: Prefix { address, length: 0 }, span: to.span })
}

fn target(
    table: &Table<'_>,
    via: Option<At<IpAddr>>,
    network: &Network<'_>,
    sink: &mut Sink<'_>,
) -> Option<Target> {
    const HELP: &str =
        "a route has `via`, or `interface`, or both, or `blackhole = true`, or `unreachable = true`";
    let interface = word(table, "interface", sink);
    let interface = interface.map(|name| network.resolve(&name, sink).ok_or(())).transpose().ok()?;
    let mut kinds = Vec::new();
    for (key, target) in [("blackhole", Target::Blackhole), ("unreachable", Target::Unreachable)] {
        match table.one(key, boolean, sink) {
            Some(At { value: true, .. }) => kinds.push((key, target)),
            Some(At { value: false, span }) => {
                sink.error(&span, format!("`{key}` can only be true")).help(format!("leave `{key}` out"));
                return None;
            }
            None if table.has(key) => return None,
            None => {}
        }
    }
    let leads = ["via", "interface"].into_iter().find(|key| table.has(key));
    match (&kinds[..], leads) {
        ([(_, target)], None) => Some(*target),
        ([], Some("interface")) => interface.map(Target::Connected),
        ([], Some(_)) => next_hop(via?, interface, network, sink),
        ([], None) => {
            sink.error(&table.span, "the route leads nowhere").help(HELP);
            None
        }
        ([.., (key, _)], _) => {
            sink.error(&table.key_span(key), "the route leads to two things").help(HELP);
            None
        }
    }
}

fn next_hop(
    via: At<IpAddr>,
    interface: Option<usize>,
    network: &Network<'_>,
    sink: &mut Sink<'_>,
) -> Option<Target> {
    let At { value: address, span } = via;
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        sink.error(&span, format!("{address} cannot be a next hop")).help("give the address of a router");
        return None;
    }
    if let Some(owner) = network.owner(address) {
        let name = &network.interfaces[owner].name;
        sink.error(&span, format!("the next hop {address} is our own address, on `{name}`"))
            .help("give the address of the router at the other end");
        return None;
    }
    let subnet = network.subnet(address);
    if let Some(subnet) = subnet.filter(|subnet| subnet.prefix.reserves(address)) {
        let subnet = subnet.prefix.network();
        sink.error(&span, format!("{address} is the network or broadcast address of {subnet}"))
            .help("give the address of a router");
        return None;
    }
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    match (interface, subnet) {
        (Some(interface), Some(subnet)) if subnet.interface != interface => {
            let (named, right) =
                (&network.interfaces[interface].name, &network.interfaces[subnet.interface].name);
            sink.error(&span, format!("the next hop {address} is on `{right}`, not on `{named}`"))
                .help("leave `interface` out");
            None
        }
        (Some(interface), _) => Some(Target::Via { address, interface }),
        (None, Some(subnet)) => Some(Target::Via { address, interface: subnet.interface }),
        (None, None) if link_local => {
            sink.error(&span, format!("the link-local next hop {address} may be on any interface"))
                .help("say which: add `interface = \"…\"`");
            None
        }
        (None, None) => {
            if !network.is_broken() {
                sink.error(&span, format!("the next hop {address} is on no interface's subnet"))
                    .help("give an address of a neighbour, or add `interface = \"…\"`");
            }
            None
        }
    }
}
