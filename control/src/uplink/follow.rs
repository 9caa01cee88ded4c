//! The thread that looks what the kernel has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;

use super::{Given, Place, default_of, may_have};
use crate::config::{Prefix, Route, Target};
use crate::device::{Change, KernelAddress, KernelRoute, Kind, NetlinkError, RouteMonitor, Rtnetlink};

/// Between two looks for what has changed.
const PAUSE: Duration = Duration::from_millis(10);
/// From a change to the reading: a client makes several, one after the other.
const SETTLING: Duration = Duration::from_millis(100);
/// For how long something may be gone before it counts as gone: clients take an address off, and set it anew.
const GRACE: Duration = Duration::from_secs(2);
/// Number of the kernel's main table.
const MAIN: u32 = 254;

/// Why the kernel's addresses cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The kernel cannot be asked.
    #[error("cannot follow the kernel's addresses: {0}")]
    Netlink(#[from] NetlinkError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Reads what the kernel has for some interfaces, in the network namespace of the thread that opened it.
pub struct Look {
    places: Vec<Place>,
    /// Whether default routes are its business, too.
    with_routes: bool,
    monitor: RouteMonitor,
    rtnetlink: Rtnetlink,
    datagram: Vec<u8>,
}

impl Look {
    /// Listens for changes from now on.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn open(places: Vec<Place>, with_routes: bool) -> Result<Self, UplinkError> {
        let monitor = if with_routes { RouteMonitor::open()? } else { RouteMonitor::without_routes()? };
        Ok(Self { places, with_routes, monitor, rtnetlink: Rtnetlink::open()?, datagram: Vec::new() })
    }

    /// What the kernel has now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read(&mut self) -> Result<Given, UplinkError> {
        let wanted = self.places.iter().map(|place| (place.device.as_str(), &place.tags[..]));
        let devices = self.rtnetlink.devices_of(wanted)?;
        let addresses = self.rtnetlink.usable_addresses()?;
        let own = |device: &Option<u32>| {
            let on_it = addresses.iter().filter(|address| Some(address.ifindex) == *device);
            let prefixes = on_it.map(|&KernelAddress { address, length, .. }| Prefix { address, length });
            prefixes.filter(|prefix| may_have(*prefix)).collect()
        };
        let interfaces = self.places.iter().map(|place| place.interface);
        let addresses = interfaces.clone().zip(devices.iter().map(own)).collect();
        let mut candidates = Vec::new();
        if self.with_routes {
            self.rtnetlink.routes(MAIN, |route| {
                if route.length == 0 && route.kind == Kind::Unicast {
                    candidates.push(route);
                }
            })?;
        }
        let places: Vec<(u32, usize)> =
            devices.iter().zip(interfaces).filter_map(|(device, index)| Some(((*device)?, index))).collect();
        Ok(Given { addresses, routes: preferred(&candidates, &places) })
    }

    /// Whether something may have changed since the last time.
    fn has_changed(&mut self) -> bool {
        let mut changed = false;
        let mut each = |change: Change| match change {
            Change::All => changed = true,
            Change::New(route) | Change::Gone(route) => changed |= route.length == 0,
        };
        loop {
            match self.monitor.next(&mut self.datagram, &mut each) {
                Ok(true) => {}
                Ok(false) => return changed,
                Err(_) => return true,
            }
        }
    }
}

/// Of default routes those of each family that the kernel prefers among those by our interfaces, which are given by the
/// index of their device.
fn preferred(candidates: &[KernelRoute], places: &[(u32, usize)]) -> Vec<Route> {
    let mut routes = Vec::new();
    for v4 in [true, false] {
        let of_family = candidates.iter().filter(|route| route.to.is_ipv4() == v4);
        let mut ways: Vec<((u32, u8), Route)> = Vec::new();
        for route in of_family {
            // RFC 4191: high, medium, low.
            let preference = [1, 0, 1, 2].get(usize::from(route.preference)).copied().unwrap_or(1);
            for hop in route.hops.iter().filter(|hop| !hop.dead) {
                let Some((_, interface)) = places.iter().find(|(device, _)| *device == hop.ifindex) else {
                    continue;
                };
                let target = match hop.gateway {
                    Some(address) if address.is_ipv4() != v4 => continue,
                    Some(address) => Target::Via { address, interface: *interface },
                    None => Target::Connected(*interface),
                };
                let route_out = Route { to: default_of(route.to), target, weight: hop.weight.clamp(1, 256) };
                ways.push(((route.metric, preference), route_out));
            }
        }
        let best = ways.iter().map(|(order, _)| *order).min();
        let mut chosen: Vec<Route> = Vec::new();
        for (_, route) in ways.iter().filter(|(order, _)| Some(*order) == best) {
            if !chosen.iter().any(|known| known.target == route.target) {
                chosen.push(*route);
            }
        }
        routes.extend(chosen);
    }
    routes
}

/// Follows until it is dropped.
pub struct UplinkFollower {
    news: Receiver<Given>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UplinkFollower {
    /// Follows from now on what was `given` by the last reading.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(look: Look, given: Given) -> Result<Self, UplinkError> {
        let (tell, news) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut work = Work { look, told: given, tell, due: Some(Instant::now()), less_since: None };
        let body = move || {
            while !stopped.load(Ordering::Relaxed) {
                work.step();
                thread::sleep(PAUSE);
            }
        };
        let thread = thread::Builder::new().name("sluice-uplinks".into()).spawn(body)?;
        Ok(Self { news, stop, thread: Some(thread) })
    }

    /// What the kernel has now, if it is something else than before.
    pub fn news(&self) -> Option<Given> {
        self.news.try_iter().last()
    }
}

impl Drop for UplinkFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    look: Look,
    told: Given,
    tell: Sender<Given>,
    /// When to read.
    due: Option<Instant>,
    /// Since when there is less than was told.
    less_since: Option<Instant>,
}

impl Work {
    fn step(&mut self) {
        let now = Instant::now();
        if self.look.has_changed() {
            // Counted from the first change, as others may go on and on.
            self.due.get_or_insert(now + SETTLING);
        }
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = match self.look.read() {
            Ok(given) => self.weigh(given, now),
            Err(error) => {
                warn!("{error}; it is tried again");
                Some(now + Duration::from_secs(1))
            }
        };
    }

    /// Tells what is new. Returns when to look again, if that is to be.
    fn weigh(&mut self, given: Given, now: Instant) -> Option<Instant> {
        if given == self.told {
            self.less_since = None;
            return None;
        }
        if given.is_less_than(&self.told) {
            let until = *self.less_since.get_or_insert(now) + GRACE;
            if now < until {
                return Some(until.min(now + SETTLING));
            }
        }
        self.less_since = None;
        self.told = given.clone();
        // Who listens lives longer than this thread.
        let _ = self.tell.send(given);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::device::Hop;

    fn route(metric: u32, preference: u8, hops: &[(u32, Option<IpAddr>)], v4: bool) -> KernelRoute {
        let hop = |&(ifindex, gateway)| Hop { ifindex, gateway, weight: 1, dead: false };
        let like = if v4 { IpAddr::from([0, 0, 0, 0]) } else { IpAddr::from([0u16; 8]) };
        KernelRoute {
            to: like,
            length: 0,
            table: MAIN,
            protocol: 16,
            metric,
            preference,
            kind: Kind::Unicast,
            hops: hops.iter().map(hop).collect(),
        }
    }

    #[test]
    fn the_default_route_by_our_devices_that_the_kernel_prefers_is_taken() {
        let via = |last| Some(IpAddr::from([192, 0, 2, last]));
        let router: IpAddr = "fe80::1".parse().unwrap();
        let candidates = [
            route(0, 0, &[(9, via(9))], true),
            route(200, 0, &[(5, via(2))], true),
            route(100, 0, &[(4, via(1))], true),
            route(1024, 3, &[(5, Some(router))], false),
            route(1024, 0, &[(4, Some(router)), (4, Some(router))], false),
        ];
        let places = [(4, 1), (5, 2)];
        let [to4, to6] = [default_of(IpAddr::from([0, 0, 0, 0])), default_of(router)];
        let way =
            |to, address, interface| Route { to, target: Target::Via { address, interface }, weight: 1 };
        let [v4, v6] = [way(to4, via(1).unwrap(), 1), way(to6, router, 1)];
        assert_eq!(preferred(&candidates, &places), [v4, v6]);
        assert_eq!(preferred(&candidates, &places[1..]).len(), 2, "the other device is not ours now");
        assert!(preferred(&candidates, &[]).is_empty());
        let to_link = preferred(&[route(0, 0, &[(4, None)], true)], &places);
        assert_eq!(to_link, [Route { to: to4, target: Target::Connected(1), weight: 1 }]);
    }
}
