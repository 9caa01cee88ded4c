//! The kernel's routes: all of a table, and changes as they happen. Read from the messages' bytes, as there may be a million.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};

use super::netlink::{LARGEST_DATAGRAM, NetlinkError, messages};
use super::route::Rtnetlink;

// linux/rtnetlink.h: links; addresses and routes of IPv4, then of IPv6.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_LINKDOWN: u32 = 16;
/// The length of `struct nlmsghdr`, and of `struct rtmsg`.
const HEADERS: (usize, usize) = (16, 12);
/// Received and not yet read: some hundred thousand changes.
const RECEIVE_BUFFER: usize = 128 << 20;

/// What becomes of a route's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They go by its hops.
    Unicast,
    /// Dropped silently.
    Blackhole,
    /// Refused as unreachable.
    Unreachable,
    /// Refused as forbidden.
    Prohibit,
    /// Of no concern to what is forwarded.
    Other,
}

/// One of the ways of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub ifindex: u32,
    /// The gateway, of either family; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share among several, from 1 to 65,535.
    pub weight: u16,
    /// The kernel would not send by it now.
    pub dead: bool,
}

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destination, zero beyond its length.
    pub to: IpAddr,
    /// Length of the prefix.
    pub length: u8,
    /// Number of the table.
    pub table: u32,
    /// Who made it (`/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// Metric; the lowest wins.
    pub metric: u32,
    /// Preference of a router that announced itself (RFC 4191): 1 is high, 0 medium, 3 low.
    pub preference: u8,
    /// What becomes of its packets.
    pub kind: Kind,
    /// Its ways.
    pub hops: Vec<Hop>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A route is there, in place of one of the same table, prefix and metric.
    New(KernelRoute),
    /// A route, or some of its hops, is gone.
    Gone(KernelRoute),
    /// Devices or addresses have changed, with which routes go of which the kernel does not tell; or more has changed than
    /// could be told. All is to be read anew.
    All,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// A gateway of the other family: the family, then the address.
fn via(bytes: &[u8]) -> Option<IpAddr> {
    address(bytes.get(2..)?)
}

/// The ways of a route with several: `struct rtnexthop` and attributes each.
fn multipath(mut rest: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    while let (Some(length), Some(ifindex)) = (u16_at(rest, 0), u32_at(rest, 4)) {
        let length = usize::from(length);
        let Some(attributes) = rest.get(8..length) else { break };
        let mut hop = Hop {
            ifindex,
            gateway: None,
            weight: u16::from(rest[3]) + 1,
            dead: u32::from(rest[2]) & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0,
        };
        for attribute in NlasIterator::new(attributes).flatten() {
            match attribute.kind() {
                5 => hop.gateway = address(attribute.value()),
                18 => hop.gateway = via(attribute.value()),
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

impl KernelRoute {
    /// Of a message's body, from `struct rtmsg` on. None for what is no route to forward by: of another family, of one source
    /// or service alone, or a cached one.
    fn read(body: &[u8]) -> Option<Self> {
        let header = body.get(..HEADERS.1)?;
        let unspecified: IpAddr = match i32::from(header[0]) {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let flags = u32_at(header, 8)?;
        if header[2] != 0 || header[3] != 0 || flags & RTM_F_CLONED != 0 {
            return None;
        }
        let mut route = Self {
            to: unspecified,
            length: header[1],
            table: header[4].into(),
            protocol: header[5],
            metric: 0,
            preference: 0,
            kind: match header[7] {
                1 => Kind::Unicast,
                6 => Kind::Blackhole,
                7 => Kind::Unreachable,
                8 => Kind::Prohibit,
                _ => Kind::Other,
            },
            hops: Vec::new(),
        };
        let (mut ifindex, mut gateway) = (0, None);
        for attribute in NlasIterator::new(body.get(HEADERS.1..)?).flatten() {
            let value = attribute.value();
            match attribute.kind() {
                1 => route.to = address(value)?,
                4 => ifindex = u32_at(value, 0)?,
                5 => gateway = address(value),
                6 => route.metric = u32_at(value, 0)?,
                9 => route.hops = multipath(value),
                15 => route.table = u32_at(value, 0)?,
                18 => gateway = via(value),
                20 => route.preference = *value.first()?,
                _ => {}
            }
        }
        if route.hops.is_empty() && ifindex != 0 && route.kind == Kind::Unicast {
            let dead = flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0;
            route.hops.push(Hop { ifindex, gateway, weight: 1, dead });
        }
        Some(route)
    }
}

/// What a message of a listening socket tells, if anything.
fn change(message: &[u8]) -> Option<Change> {
    let body = message.get(HEADERS.0..)?;
    match u16_at(message, 4)? {
        NEW_ROUTE => KernelRoute::read(body).map(Change::New),
        DEL_ROUTE => KernelRoute::read(body).map(Change::Gone),
        NEW_LINK | DEL_LINK | NEW_ADDRESS | DEL_ADDRESS => Some(Change::All),
        _ => None,
    }
}

impl Rtnetlink {
    /// All devices: name and index.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn device_indices(&mut self) -> Result<Vec<(String, u32)>, NetlinkError> {
        Ok(self.links()?.into_iter().map(|link| (link.name, link.index)).collect())
    }

    /// Hands over all routes of a table, both families. A table that does not exist has none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn routes(&mut self, table: u32, mut each: impl FnMut(KernelRoute)) -> Result<(), NetlinkError> {
        self.0.strict();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.push(RouteAttribute::Table(table));
            let read = |message: &[u8]| {
                if let Some(Change::New(route)) = change(message) {
                    // A kernel before 4.20 hands over all tables.
                    if route.table == table {
                        each(route);
                    }
                }
            };
            match self.0.dump_each(RouteNetlinkMessage::GetRoute(message), read) {
                Err(NetlinkError::Refused { errno: libc::ENOENT, .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Changes of routes, devices and addresses in the calling thread's network namespace.
pub struct RouteMonitor(Socket);

impl RouteMonitor {
    /// Listens from now on.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open() -> Result<Self, NetlinkError> {
        let monitor = Self::of(&GROUPS)?;
        // Without the right to more, what the system gives by itself has to do.
        let _ = setsockopt(&monitor.0, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(monitor)
    }

    /// Listens from now on for devices and addresses alone.
    ///
    /// # Errors
    /// What the system answers.
    pub fn without_routes() -> Result<Self, NetlinkError> {
        Self::of(&[GROUPS[0], GROUPS[1], GROUPS[3]])
    }

    fn of(groups: &[u32]) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Hands over what has changed, of one datagram. False if there is none now.
    ///
    /// # Errors
    /// What the system answers.
    pub fn next(&self, datagram: &mut Vec<u8>, mut each: impl FnMut(Change)) -> Result<bool, NetlinkError> {
        datagram.clear();
        datagram.reserve(LARGEST_DATAGRAM);
        match self.0.recv_from(datagram, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                each(Change::All);
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        messages(datagram).filter_map(change).for_each(each);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_from_its_bytes() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut body = vec![2, 24, 0, 0, 254, 186, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(1, &[10, 1, 2, 0]));
        body.extend(attribute(6, &32u32.to_ne_bytes()));
        let mut hops = Vec::new();
        for (last, weight) in [(1, 0), (2, 9)] {
            let gateway = attribute(5, &[192, 0, 2, last]);
            hops.extend(((8 + gateway.len()) as u16).to_ne_bytes());
            hops.extend([if last == 2 { 16 } else { 0 }, weight]);
            hops.extend(7u32.to_ne_bytes());
            hops.extend(gateway);
        }
        body.extend(attribute(9, &hops));
        let route = KernelRoute::read(&body).unwrap();
        let hop =
            |last, weight, dead| Hop { ifindex: 7, gateway: Some([192, 0, 2, last].into()), weight, dead };
        assert_eq!((route.to, route.length), ([10, 1, 2, 0].into(), 24));
        assert_eq!((route.table, route.protocol, route.metric), (254, 186, 32));
        assert_eq!(route.hops, [hop(1, 1, false), hop(2, 10, true)]);
        // Cut off anywhere, it is nothing or less of the same.
        for length in 0..body.len() {
            let _ = KernelRoute::read(&body[..length]);
        }
    }
}
