//! The kernel's neighbours: asked for, kept fresh, and heard of as they change.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{LARGEST_DATAGRAM, NetlinkError, messages};
use super::route::Rtnetlink;

// linux/rtnetlink.h
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// A neighbour that the kernel can send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeighbor {
    /// Index of the device that it is at.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Whether it was heard of just now (NUD_REACHABLE, or set by hand).
    pub confirmed: bool,
}

impl KernelNeighbor {
    fn read(message: &NeighbourMessage) -> Option<Self> {
        let confirmed = match message.header.state {
            NeighbourState::Reachable | NeighbourState::Permanent => true,
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
            _ => return None,
        };
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok(),
                _ => {}
            }
        }
        Some(Self { ifindex: message.header.ifindex, address: address?, mac: mac?, confirmed })
    }
}

fn message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

impl Rtnetlink {
    /// What the kernel knows of a neighbour; none if it cannot send to it now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn neighbor(
        &mut self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<KernelNeighbor>, NetlinkError> {
        let answers = match self.0.ask(RouteNetlinkMessage::GetNeighbour(message(ifindex, address))) {
            Ok(answers) => answers,
            Err(NetlinkError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(neighbor) => KernelNeighbor::read(neighbor),
            _ => None,
        }))
    }

    /// Makes the kernel find out about a neighbour as if it had a packet for it; and, if `managed`, keep it fresh from now
    /// on (NTF_EXT_MANAGED, Linux 5.16).
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn use_neighbor(&mut self, ifindex: u32, address: IpAddr, managed: bool) -> Result<(), NetlinkError> {
        let mut wanted = message(ifindex, address);
        wanted.header.state = NeighbourState::None;
        if managed {
            wanted.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        } else {
            wanted.header.flags = NeighbourFlags::Use;
        }
        self.0.exchange(RouteNetlinkMessage::NewNeighbour(wanted), NLM_F_ACK | NLM_F_CREATE).map(drop)
    }

    /// Makes the kernel forget a neighbour; it asks for it anew when it has a packet for it.
    ///
    /// # Errors
    /// What the kernel answers, such as for one that it does not know.
    pub fn forget_neighbor(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.0.ask(RouteNetlinkMessage::DelNeighbour(message(ifindex, address))).map(drop)
    }
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel can send to a neighbour, or knows more of it.
    Neighbor(KernelNeighbor),
    /// Some device has an address more or less.
    Addresses,
    /// There were more changes than could be told: all must be read anew.
    Lost,
}

/// Changes of neighbours and addresses in the calling thread's network namespace, as they happen.
pub struct Monitor(Socket);

impl Monitor {
    /// Listens from now on.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in [RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// What has changed since the last call; empty if nothing has.
    ///
    /// # Errors
    /// What the system answers.
    pub fn events(&self) -> Result<Vec<Event>, NetlinkError> {
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        match self.0.recv_from(&mut datagram, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![Event::Lost]),
            Err(error) => return Err(error.into()),
        }
        let decoded = messages(&datagram).filter_map(|bytes| NetlinkMessage::deserialize(bytes).ok());
        let event = |message: NetlinkMessage<RouteNetlinkMessage>| match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbor)) => {
                KernelNeighbor::read(&neighbor).map(Event::Neighbor)
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
            ) => Some(Event::Addresses),
            _ => None,
        };
        Ok(decoded.filter_map(event).collect())
    }
}
