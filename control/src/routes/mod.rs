//! The route table of a gateway that follows the kernel: routes of the file beside those of the kernel, and of each prefix
//! the best in the workers' sight.
//!
//! A route of the file wins over the kernel's. Of the kernel's, the one whose table comes first in the configuration wins,
//! then the lowest metric, then the preference that a router announced.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_dataplane::fib::{Fib, FibError, MOST_WAYS, Way, Writer};
use sluice_dataplane::snapshot::Route;

use crate::config::{KernelRoutes, Prefix};
use crate::device::{Hop, KernelRoute, Kind};

mod follow;
mod listing;

pub use follow::{Devices, FollowError, RouteFollower, SharedRoutes};
pub use listing::of_snapshot;

/// A route of the file.
const OF_FILE: u8 = 0;

/// A route that a prefix has.
#[derive(Clone, Debug)]
struct Entry {
    /// The place of its table, from 1 on; [`OF_FILE`] is first of all.
    rank: u8,
    metric: u32,
    /// Of a router that announced itself: 0 is best.
    preference: u8,
    protocol: u8,
    /// Its way leads by a device that is not ours.
    elsewhere: bool,
    /// In which reading it was seen last.
    seen: u32,
    since: Instant,
    ways: Arc<[Way]>,
}

impl Entry {
    fn order(&self) -> (u8, u32, u8) {
        (self.rank, self.metric, self.preference)
    }
}

/// The routes of a prefix, best first.
#[derive(Debug, Default)]
struct Entries(Vec<Entry>);

/// All routes, and what workers see of them.
pub struct RouteTable {
    settings: KernelRoutes,
    routes: BTreeMap<(IpAddr, u8), Entries>,
    ways: HashSet<Arc<[Way]>>,
    writer: Writer,
    /// Which interface of ours a device of the kernel is.
    interfaces: Vec<(u32, u16)>,
    reading: u32,
    /// Routes for which there was no room.
    refused: u64,
}

/// For how long a change waits for workers to let go of memory.
const PATIENCE: Duration = Duration::from_millis(200);

impl RouteTable {
    /// An empty one, for so many workers.
    ///
    /// # Errors
    /// More routes than there can be.
    pub fn new(settings: &KernelRoutes, workers: usize) -> Result<Self, FibError> {
        Ok(Self {
            settings: settings.clone(),
            routes: BTreeMap::new(),
            ways: HashSet::new(),
            writer: Writer::new([settings.most[0] as usize, settings.most[1] as usize], workers)?,
            interfaces: Vec::new(),
            reading: 0,
            refused: 0,
        })
    }

    /// What workers read.
    pub fn fib(&self) -> Arc<Fib> {
        self.writer.fib()
    }

    fn intern(&mut self, ways: Vec<Way>) -> Arc<[Way]> {
        if let Some(known) = self.ways.get(&ways[..]) {
            return known.clone();
        }
        if self.ways.len() > 4096 {
            self.ways.retain(|ways| Arc::strong_count(ways) > 1);
        }
        let ways: Arc<[Way]> = ways.into();
        self.ways.insert(ways.clone());
        ways
    }

    /// These routes, and no others, are of the file.
    pub fn set_file(&mut self, routes: Vec<(Prefix, Vec<Way>)>) {
        let wanted: HashSet<(IpAddr, u8)> =
            routes.iter().map(|(prefix, _)| (prefix.address, prefix.length)).collect();
        let is_gone = |(prefix, entries): &(&(IpAddr, u8), &Entries)| {
            entries.0.iter().any(|entry| entry.rank == OF_FILE) && !wanted.contains(*prefix)
        };
        let gone: Vec<_> = self.routes.iter().filter(is_gone).map(|(prefix, _)| *prefix).collect();
        for prefix in gone {
            self.change(prefix, |entries| entries.retain(|entry| entry.rank != OF_FILE));
        }
        for (prefix, ways) in routes {
            let ways = self.intern(ways);
            let entry = Entry {
                rank: OF_FILE,
                metric: 0,
                preference: 0,
                protocol: 0,
                elsewhere: false,
                seen: 0,
                since: Instant::now(),
                ways,
            };
            self.put((prefix.address, prefix.length), entry, |_| false);
        }
        self.publish();
    }

    /// The best route of each prefix, if these were the file's.
    pub fn best_with(&self, file: Vec<(Prefix, Vec<Way>)>) -> Vec<(IpAddr, u8, Arc<[Way]>)> {
        let of_file: HashSet<(IpAddr, u8)> =
            file.iter().map(|(prefix, _)| (prefix.address, prefix.length)).collect();
        let of_kernel = self.routes.iter().filter(|(prefix, _)| !of_file.contains(*prefix));
        let best = of_kernel.filter_map(|((address, length), entries)| {
            let best = entries.0.iter().find(|entry| entry.rank != OF_FILE)?;
            Some((*address, *length, best.ways.clone()))
        });
        let file = file.into_iter().map(|(prefix, ways)| (prefix.address, prefix.length, ways.into()));
        file.chain(best).collect()
    }

    /// Changes the routes of a prefix, and what workers see of it.
    fn change(&mut self, prefix: (IpAddr, u8), change: impl FnOnce(&mut Vec<Entry>)) {
        let entries = self.routes.entry(prefix).or_default();
        let before = entries.0.first().map(|entry| entry.ways.clone());
        change(&mut entries.0);
        entries.0.sort_by_key(Entry::order);
        let best = entries.0.first().map(|entry| entry.ways.clone());
        if entries.0.is_empty() {
            self.routes.remove(&prefix);
        }
        if before != best {
            self.write(prefix, best.as_deref().unwrap_or_default());
        }
    }

    fn write(&mut self, (address, length): (IpAddr, u8), ways: &[Way]) {
        let begun = Instant::now();
        while let Err(error) = self.writer.set(address, length, ways) {
            // Workers have to pass before what was taken out can be used again.
            self.publish();
            if matches!(error, FibError::Ways) && ways.len() > MOST_WAYS
                || !self.writer.has_retired()
                || begun.elapsed() > PATIENCE
            {
                self.refused += 1;
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sets an entry in place of that of its rank, metric and whatever `same` says.
    fn put(&mut self, prefix: (IpAddr, u8), entry: Entry, same: impl Fn(&Entry) -> bool) {
        self.change(prefix, |entries| {
            let is_it = |other: &&mut Entry| other.order() == entry.order() || same(other);
            match entries.iter_mut().find(is_it) {
                Some(other) if other.ways == entry.ways && other.protocol == entry.protocol => {
                    other.seen = entry.seen;
                }
                Some(other) => *other = entry,
                None => entries.push(entry),
            }
        });
    }

    fn rank(&self, route: &KernelRoute) -> Option<u8> {
        let place = self.settings.tables.iter().position(|table| *table == route.table)?;
        let protocols = &self.settings.protocols;
        let wanted = protocols.is_empty() || protocols.contains(&route.protocol);
        (wanted && route.kind != Kind::Other).then_some(place as u8 + 1)
    }

    /// The ways of a kernel's route, and whether they lead by a device that is not ours.
    fn ways_of(&self, route: &KernelRoute) -> (Vec<Way>, bool) {
        let alone = |route| vec![Way { route, weight: 1 }];
        match route.kind {
            Kind::Blackhole => return (alone(Route::Blackhole), false),
            Kind::Prohibit => return (alone(Route::Prohibited), false),
            Kind::Unreachable | Kind::Other => return (alone(Route::Unreachable), false),
            Kind::Unicast => {}
        }
        let way = |hop: &Hop| {
            let (_, interface) = *self.interfaces.iter().find(|(ifindex, _)| *ifindex == hop.ifindex)?;
            let route = match hop.gateway {
                None => Route::Connected { interface },
                Some(IpAddr::V4(gateway)) => Route::Via4 { interface, gateway },
                Some(IpAddr::V6(gateway)) => Route::Via6 { interface, gateway },
            };
            Some(Way { route, weight: hop.weight })
        };
        let alive = |hop: &&Hop| !hop.dead;
        let mut ways: Vec<Way> = route.hops.iter().filter(alive).filter_map(way).collect();
        if ways.is_empty() {
            ways = route.hops.iter().filter_map(way).collect();
        }
        if ways.is_empty() {
            return (alone(Route::Unreachable), true);
        }
        (ways, false)
    }

    /// The kernel has a route.
    pub fn add(&mut self, route: &KernelRoute) {
        let Some(rank) = self.rank(route) else { return };
        let (ways, elsewhere) = self.ways_of(route);
        let ways = self.intern(ways);
        let entry = Entry {
            rank,
            metric: route.metric,
            preference: match route.preference {
                1 => 0,
                3 => 2,
                _ => 1,
            },
            protocol: route.protocol,
            elsewhere,
            seen: self.reading,
            since: Instant::now(),
            ways,
        };
        self.put((route.to, route.length), entry, |_| false);
    }

    /// The kernel has a route no more; of IPv6, perhaps only some of its hops.
    pub fn remove(&mut self, route: &KernelRoute) {
        let Some(rank) = self.rank(route) else { return };
        let prefix = (route.to, route.length);
        let (gone, _) = self.ways_of(route);
        let is_it = |entry: &Entry| entry.rank == rank && entry.metric == route.metric;
        let left = self.routes.get(&prefix).and_then(|entries| {
            let entry = entries.0.iter().find(|entry| is_it(entry))?;
            let left: Vec<Way> = entry.ways.iter().filter(|way| !gone.contains(way)).copied().collect();
            (route.to.is_ipv6() && !left.is_empty() && left.len() < entry.ways.len()).then_some(left)
        });
        let left = left.map(|left| self.intern(left));
        if !self.routes.contains_key(&prefix) {
            return;
        }
        self.change(prefix, |entries| match left {
            Some(ways) => {
                if let Some(entry) = entries.iter_mut().find(|entry| is_it(entry)) {
                    entry.ways = ways;
                }
            }
            None => entries.retain(|entry| !is_it(entry)),
        });
    }

    /// All routes of the kernel are about to be read. These are our interfaces.
    pub fn begin_reading(&mut self, interfaces: Vec<(u32, u16)>) {
        self.interfaces = interfaces;
        self.reading = self.reading.wrapping_add(1);
    }

    /// They have been read: what was not seen is gone.
    pub fn end_reading(&mut self) {
        let reading = self.reading;
        let is_gone = |entry: &Entry| entry.rank != OF_FILE && entry.seen != reading;
        let gone = self.routes.iter().filter(|(_, entries)| entries.0.iter().any(is_gone));
        let gone: Vec<_> = gone.map(|(prefix, _)| *prefix).collect();
        for prefix in gone {
            self.change(prefix, |entries| entries.retain(|entry| !is_gone(entry)));
        }
    }

    /// Lets workers know of what has changed, and takes back what they have let go of.
    pub fn publish(&mut self) {
        self.writer.publish();
        self.writer.reclaim();
    }

    /// Prefixes of IPv4 and IPv6 that workers see, routes for which there was no room, and bytes that workers read.
    pub fn totals(&self) -> ([usize; 2], u64, usize) {
        (self.writer.len(), self.refused, self.writer.bytes())
    }
}

/// A prefix (`10.0.0.0/8`), or an address as the prefix that it is.
///
/// # Errors
/// It is neither.
pub fn within(text: &str) -> Result<Prefix, String> {
    let wrong = || format!("{text} is no address, and no prefix such as 10.0.0.0/8");
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = bits(address) as u8;
    let length = length.map_or(Some(most), |length| length.parse().ok().filter(|length| *length <= most));
    Ok(Prefix { address, length: length.ok_or_else(wrong)? })
}

fn bits(address: IpAddr) -> usize {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into()),
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into())
        }
    }
}

/// All keys with an address in this prefix.
fn range(prefix: Prefix) -> RangeInclusive<(IpAddr, u8)> {
    let first = masked(prefix.address, prefix.length);
    let length = u32::from(prefix.length);
    let last = match first {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() | u32::MAX.checked_shr(length).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | u128::MAX.checked_shr(length).unwrap_or(0)).into()),
    };
    (first, 0)..=(last, u8::MAX)
}

/// `/etc/iproute2/rt_protos`, as far as routing daemons are in it.
const PROTOCOLS: [(u8, &str); 13] = [
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (9, "ra"),
    (11, "zebra"),
    (12, "bird"),
    (16, "dhcp"),
    (42, "babel"),
    (186, "bgp"),
    (187, "isis"),
    (188, "ospf"),
    (189, "rip"),
    (192, "eigrp"),
];

/// The name of a protocol that makes routes.
pub fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The number of a protocol, by its name or as it is.
pub fn protocol_number(name: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == name);
    known.map(|(number, _)| *number).or_else(|| name.parse().ok())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
