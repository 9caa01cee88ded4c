//! The kernel's addresses as far as packets may be sent from them, and the devices that have them.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::netlink::NetlinkError;
use super::route::{Link, Rtnetlink, address};

/// An address that the kernel has on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelAddress {
    /// Index of the device.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its subnet.
    pub length: u8,
    /// The lower, the rather it is the one to send from: one that is to go soon is last.
    pub rank: u8,
}

impl KernelAddress {
    /// None for one that is not known to be nobody else's (RFC 4862 5.4).
    fn read(answer: &RouteNetlinkMessage) -> Option<Self> {
        let (ifindex, own, length) = address(answer)?;
        let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
        let flags = flags(message);
        let is_in_doubt = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
        if own.is_ipv6() && is_in_doubt && !flags.contains(AddressFlags::Optimistic) {
            return None;
        }
        // With IPv6 the same bit says that it is a temporary one (RFC 8981).
        let second = u8::from(flags.contains(AddressFlags::Secondary));
        let deprecated = u8::from(flags.contains(AddressFlags::Deprecated));
        Some(Self { ifindex, address: own, length, rank: 2 * deprecated + second })
    }
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    long.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

/// The device that is the VLAN with these tags, the outermost first, of the device called `name`; without tags that device
/// itself.
fn device_of(links: &[Link], name: &str, tags: &[u16]) -> Option<u32> {
    let carrier = links.iter().find(|link| link.name == name)?.index;
    tags.iter().try_fold(carrier, |below, id| {
        let vlan = links.iter().find(|link| link.lower == Some(below) && link.vlan == Some(*id))?;
        Some(vlan.index)
    })
}

impl Rtnetlink {
    /// All addresses that may be sent from, those to send from first.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn usable_addresses(&mut self) -> Result<Vec<KernelAddress>, NetlinkError> {
        let answers = self.0.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let mut addresses: Vec<KernelAddress> = answers.iter().filter_map(KernelAddress::read).collect();
        addresses.sort_by_key(|address| address.rank);
        Ok(addresses)
    }

    /// The indices of devices by their name and VLAN tags, the outermost first; none for one that is not there.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn devices_of<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = (&'a str, &'a [u16])>,
    ) -> Result<Vec<Option<u32>>, NetlinkError> {
        let links = self.links()?;
        Ok(wanted.into_iter().map(|(name, tags)| device_of(&links, name, tags)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_found_by_its_tags_on_its_device() {
        let link = |index, name: &str, lower, vlan| Link {
            index,
            name: name.into(),
            lower,
            vlan,
            ..Link::default()
        };
        let links = [
            link(1, "eth0", None, None),
            link(2, "eth1", None, None),
            link(3, "isp", Some(1), Some(7)),
            link(4, "inner", Some(3), Some(20)),
            link(5, "other", Some(2), Some(7)),
        ];
        assert_eq!(device_of(&links, "eth0", &[]), Some(1));
        assert_eq!(device_of(&links, "eth0", &[7]), Some(3));
        assert_eq!(device_of(&links, "eth0", &[7, 20]), Some(4));
        assert_eq!(device_of(&links, "eth1", &[7]), Some(5));
        assert_eq!(device_of(&links, "eth1", &[7, 20]), None);
        assert_eq!(device_of(&links, "eth2", &[]), None);
    }
}
