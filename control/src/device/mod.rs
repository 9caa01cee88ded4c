//! What the kernel knows of the network devices, and what is changed on them while they are in service.
//!
//! `netlink` asks, `route` and `ethtool` know the questions, `session` finds the operator's own connection, `machine`
//! reads what the box around the devices is like, and `changes` sets what has to be set and puts it back.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use sluice_dataplane::port::af_xdp;

mod address;
mod changes;
mod ethtool;
mod kernel_routes;
pub mod machine;
mod neighbor;
mod netlink;
mod route;
mod session;

pub use address::KernelAddress;
pub use changes::{ChangeError, Changes, Undo, Wanted};
pub use ethtool::{Channels, Feature, Features, XdpSupport};
pub use kernel_routes::{Change, Hop, KernelRoute, Kind, RouteMonitor};
pub use neighbor::{Event, KernelNeighbor, Monitor};
pub use netlink::NetlinkError;
pub use route::Rtnetlink;
pub use session::Session;

use ethtool::Ethtool;
use route::Link;

/// Offload: the NIC takes VLAN tags out of received frames, where XDP does not see them.
pub const VLAN_STRIPPING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
/// Offload: the NIC drops frames of VLANs that the kernel has no interface for.
pub const VLAN_FILTER: [&str; 2] = ["rx-vlan-filter", "rx-vlan-stag-filter"];
/// Offloads: the NIC merges TCP segments into frames over the MTU.
pub const RECEIVE_MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];

/// A device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Kind of a virtual device, such as `veth`; none for hardware.
    pub kind: Option<String>,
    /// The driver's name; empty if it does not tell.
    pub driver: String,
    /// Whether there is hardware (or a hypervisor's) behind it.
    pub physical: bool,
    /// Whether it is up.
    pub up: bool,
    /// Hardware (MAC) address.
    pub mac: Vec<u8>,
    /// Largest payload of an Ethernet frame, in bytes.
    pub mtu: u32,
    /// Receive queues in use.
    pub queues: u32,
    /// Its channels, where the driver tells.
    pub channels: Option<Channels>,
    /// The receive queue of each entry of the RSS indirection table, where the driver tells.
    pub rss: Option<Vec<u32>>,
    /// Its offloads.
    pub features: Features,
    /// How often promiscuous mode was asked for.
    pub promiscuity: u32,
    /// How often reception of all multicast was asked for.
    pub all_multicast: u32,
    /// The NUMA node that its bus is at.
    pub numa_node: Option<u32>,
    /// What the driver says of XDP; none before Linux 6.3.
    pub xdp_support: Option<XdpSupport>,
    /// The XDP programs on it.
    pub xdp: Vec<AttachedProgram>,
    /// Its addresses, with the length of their prefixes.
    pub addresses: Vec<String>,
    /// Families whose default route leaves by it, or by a device that lies upon it.
    pub default_route: Vec<String>,
    /// Whether the operator's own connection runs over it.
    pub session: Option<Session>,
}

/// An XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedProgram {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name, where the kernel tells us.
    pub name: Option<String>,
    /// `native`, `generic` or `offloaded`.
    pub mode: &'static str,
}

impl Facts {
    /// Whether an offload is on.
    pub fn is_on(&self, feature: &str) -> bool {
        self.features.get(feature).is_some_and(|feature| feature.on)
    }

    /// Whether an offload is on for good.
    pub fn is_stuck_on(&self, feature: &str) -> bool {
        self.features.get(feature).is_some_and(|feature| feature.on && feature.fixed)
    }
}

/// The devices of the calling thread's network namespace, at one moment.
pub struct Inventory {
    links: Vec<Link>,
    addresses: Vec<(u32, IpAddr, u8)>,
    /// Families of default routes, by the device that they leave by or that carries it.
    default_routes: Vec<(u32, &'static str)>,
    /// Devices that the operator's own connection runs over.
    session: Option<(Session, Vec<u32>)>,
    /// Names of loaded BPF programs, by their id.
    programs: Vec<(u32, String)>,
    ethtool: Option<Ethtool>,
}

impl Inventory {
    /// Reads what concerns all devices. `session` is the operator's connection; see [`Session::find`].
    ///
    /// # Errors
    /// When RTNETLINK does not answer.
    pub fn read(session: Option<Session>) -> Result<Self, NetlinkError> {
        let mut rtnetlink = Rtnetlink::open()?;
        let links = rtnetlink.links()?;
        let addresses = rtnetlink.addresses()?;
        let mut default_routes = Vec::new();
        for (index, family) in rtnetlink.default_routes()? {
            default_routes.extend(carriers(&links, index).into_iter().map(|carrier| (carrier, family)));
        }
        let session = match session {
            Some(session) => {
                let owner = addresses.iter().find(|(_, address, _)| *address == session.server);
                let route = rtnetlink.device_towards(session.client)?;
                let ends = owner.map(|(index, _, _)| *index).into_iter().chain(route);
                Some((session, ends.flat_map(|index| carriers(&links, index)).collect()))
            }
            None => None,
        };
        Ok(Self {
            links,
            addresses,
            default_routes,
            session,
            programs: programs(),
            ethtool: Ethtool::open().ok(),
        })
    }

    /// Names of the devices with hardware behind them.
    pub fn physical(&self) -> Vec<String> {
        self.links.iter().filter(|link| link.parent.is_some()).map(|link| link.name.clone()).collect()
    }

    /// The facts of one device. None if there is no such device.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn device(&mut self, name: &str) -> Result<Option<Facts>, NetlinkError> {
        let Some(link) = self.links.iter().find(|link| link.name == name) else { return Ok(None) };
        let basic = af_xdp::device_facts(name).ok();
        let mut facts = Facts {
            name: link.name.clone(),
            index: link.index,
            kind: link.kind.clone(),
            driver: basic.as_ref().map(|facts| facts.driver.clone()).unwrap_or_default(),
            physical: link.parent.is_some(),
            up: link.up,
            mac: link.mac.clone(),
            mtu: link.mtu,
            queues: basic.map_or(1, |facts| facts.queues),
            promiscuity: link.promiscuity,
            all_multicast: link.all_multicast,
            numa_node: link.parent.as_ref().and_then(|(bus, parent)| numa_node(bus, parent)),
            xdp: link.xdp.iter().map(|&(mode, id)| self.program(mode, id)).collect(),
            ..Facts::default()
        };
        let own = self.addresses.iter().filter(|(index, _, _)| *index == link.index);
        facts.addresses = own.map(|(_, address, length)| format!("{address}/{length}")).collect();
        for (_, family) in self.default_routes.iter().filter(|(index, _)| *index == link.index) {
            if !facts.default_route.iter().any(|known| known == family) {
                facts.default_route.push((*family).to_owned());
            }
        }
        let on_session = self.session.as_ref().filter(|(_, carriers)| carriers.contains(&link.index));
        facts.session = on_session.map(|(session, _)| *session);
        if let Some(ethtool) = &mut self.ethtool {
            facts.channels = ethtool.channels(name)?;
            facts.rss = ethtool.rss(name)?;
            facts.features = ethtool.features(name)?;
            facts.xdp_support = ethtool.xdp_support(facts.index)?;
        }
        Ok(Some(facts))
    }

    fn program(&self, mode: &'static str, id: u32) -> AttachedProgram {
        let name = self.programs.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone());
        AttachedProgram { id, name, mode }
    }
}

/// The device, and all that it lies upon: those that lose their packets if they are taken, and it with them.
fn carriers(links: &[Link], index: u32) -> Vec<u32> {
    let mut found = vec![index];
    let mut next = 0;
    while let Some(&current) = found.get(next) {
        next += 1;
        let below = links.iter().filter(|link| {
            link.controller == Some(current)
                || links.iter().any(|upper| upper.index == current && upper.lower == Some(link.index))
        });
        for link in below {
            if !found.contains(&link.index) {
                found.push(link.index);
            }
        }
    }
    found
}

/// Names of the loaded BPF programs; empty without the privilege to ask.
fn programs() -> Vec<(u32, String)> {
    let programs = aya::programs::loaded_programs().map_while(Result::ok);
    programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned()))).collect()
}

/// The node of a device on a bus, or of what that device is a part of.
fn numa_node(bus: &str, parent: &str) -> Option<u32> {
    let path = fs::canonicalize(Path::new("/sys/bus").join(bus).join("devices").join(parent)).ok()?;
    let text = path.ancestors().find_map(|path| fs::read_to_string(path.join("numa_node")).ok())?;
    // -1 where there is but one node.
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, lower: Option<u32>, controller: Option<u32>) -> Link {
        Link { index, lower, controller, ..Link::default() }
    }

    /// A VLAN of a bond of two NICs, and a NIC that has nothing to do with it.
    #[test]
    fn what_lies_under_a_device_carries_it() {
        let links = [
            link(1, None, None),
            link(2, None, Some(4)),
            link(3, None, Some(4)),
            link(4, None, None),
            link(5, Some(4), None),
        ];
        assert_eq!(carriers(&links, 5), [5, 4, 2, 3]);
        assert_eq!(carriers(&links, 2), [2]);
    }

    #[test]
    fn devices_that_lie_upon_each_other_in_a_circle_end() {
        assert_eq!(carriers(&[link(1, Some(2), None), link(2, Some(1), None)], 1), [1, 2]);
    }
}
