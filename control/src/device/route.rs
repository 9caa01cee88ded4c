//! RTNETLINK: links, addresses and routes, as far as they bear on taking a device into service.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Netlink, NetlinkError};

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: Option<String>,
    /// The id of the VLAN that it is.
    pub(super) vlan: Option<u16>,
    pub(super) up: bool,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    /// The largest MTU that the driver takes; zero if it does not tell.
    pub(super) max_mtu: u32,
    pub(super) promiscuity: u32,
    pub(super) all_multicast: u32,
    /// The bus and the name of the hardware behind it.
    pub(super) parent: Option<(String, String)>,
    /// The device that this one lies upon, such as a VLAN's, in the same namespace.
    pub(super) lower: Option<u32>,
    /// The bridge, bond or VRF that this one is a port of.
    pub(super) controller: Option<u32>,
    /// XDP programs: in what mode, and their id.
    pub(super) xdp: Vec<(&'static str, u32)>,
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        let (mut bus, mut parent) = (None, None);
        let (mut lower, mut elsewhere) = (None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::MaxMtu(mtu) => link.max_mtu = *mtu,
                LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
                LinkAttribute::AllMulticast(count) => link.all_multicast = *count,
                LinkAttribute::ParentDevName(name) => parent = Some(name.clone()),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(kind);
                    link.vlan = infos.iter().find_map(vlan);
                }
                LinkAttribute::Xdp(xdp) => link.xdp = programs(xdp),
                _ => {}
            }
        }
        link.parent = bus.zip(parent);
        // A veth's "link" is its peer, which carries nothing for it.
        let is_stacked = !elsewhere && !matches!(link.kind.as_deref(), Some("veth" | "netkit"));
        link.lower = lower.filter(|&lower| is_stacked && lower != 0 && lower != link.index);
        link
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn vlan(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(data)) = info else { return None };
    data.iter().find_map(|entry| match entry {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn programs(attributes: &[LinkXdp]) -> Vec<(&'static str, u32)> {
    let by_mode = attributes.iter().filter_map(|attribute| match *attribute {
        LinkXdp::DrvProgId(id) => Some(("native", id)),
        LinkXdp::SkbProgId(id) => Some(("generic", id)),
        LinkXdp::HwProgId(id) => Some(("offloaded", id)),
        _ => None,
    });
    let programs: Vec<_> = by_mode.filter(|&(_, id)| id != 0).collect();
    if !programs.is_empty() {
        return programs;
    }
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some("native"),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some("generic"),
        LinkXdp::Attached(XdpAttached::Hardware) => Some("offloaded"),
        _ => None,
    });
    let id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    mode.zip(id).into_iter().collect()
}

/// RTNETLINK of the calling thread's network namespace.
pub struct Rtnetlink(pub(super) Netlink<RouteNetlinkMessage>);

impl Rtnetlink {
    /// Opens a socket.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open() -> Result<Self, NetlinkError> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// All devices, in the order of their indices.
    pub(super) fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.0.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let mut links: Vec<Link> = answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(Link::read(link)),
                _ => None,
            })
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// All addresses, with the index of their device and the length of their prefix.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
        let answers = self.0.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers.iter().filter_map(address).collect())
    }

    /// The devices by which default routes leave, with the family, in whatever table they are.
    pub(super) fn default_routes(&mut self) -> Result<Vec<(u32, &'static str)>, NetlinkError> {
        let mut found = Vec::new();
        for (family, name) in [(AddressFamily::Inet, "IPv4"), (AddressFamily::Inet6, "IPv6")] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.0.dump(RouteNetlinkMessage::GetRoute(message))? {
                let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
                let header = &route.header;
                if header.destination_prefix_length == 0
                    && header.address_family == family
                    && header.kind == RouteType::Unicast
                {
                    found.extend(devices(&route).into_iter().map(|device| (device, name)));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The device by which packets to `address` leave. None if there is no way.
    pub(super) fn device_towards(&mut self, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let mut message = RouteMessage::default();
        let destination = match address {
            IpAddr::V4(v4) => {
                message.header.address_family = AddressFamily::Inet;
                message.header.destination_prefix_length = 32;
                RouteAddress::Inet(v4)
            }
            IpAddr::V6(v6) => {
                message.header.address_family = AddressFamily::Inet6;
                message.header.destination_prefix_length = 128;
                RouteAddress::Inet6(v6)
            }
        };
        message.attributes.push(RouteAttribute::Destination(destination));
        let answers = match self.0.ask(RouteNetlinkMessage::GetRoute(message)) {
            Ok(answers) => answers,
            Err(NetlinkError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => {
                devices(route).first().copied()
            }
            _ => None,
        }))
    }
}

pub(super) fn address(answer: &RouteNetlinkMessage) -> Option<(u32, IpAddr, u8)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // On a point-to-point link the other end is the `Address`.
    let address = find(true).or_else(|| find(false))?;
    Some((message.header.index, address, message.header.prefix_len))
}

/// The devices by which a route leaves.
fn devices(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    devices
}
