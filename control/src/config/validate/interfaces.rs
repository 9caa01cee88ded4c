//! `[interfaces.NAME]`: devices, VLANs, addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use sluice_dataplane::arena::MAX_MTU;
use toml::de::DeValue;

use super::acls::Acls;
use super::guards::Guards;
use super::{values, word};
use crate::config::model::{
    Checksum, Device, Host, Interface, KernelFilter, Link, MssClamp, Prefix, XdpMode,
};
use crate::config::reader::{At, Table, boolean, choice, integer, text};
use crate::config::report::{Sink, Span, nearest, quote};
use crate::config::units::Wrong;
use crate::config::{net, schema};

/// Most interfaces, VLANs included.
const MOST_INTERFACES: usize = 4096;
/// Most entries of `kernel`: so many has the XDP program, besides two for DHCP clients.
const MOST_KERNEL_FILTERS: usize = 32;
/// Most queues of a direction that any NIC has.
const MOST_CHANNELS: u32 = 4096;
/// Longest name of a netdev (IFNAMSIZ less the terminating zero).
const LONGEST_NAME: usize = 15;
/// Least MTU of IPv6 (RFC 8200 section 5).
const IPV6_MTU: u16 = 1280;

/// The subnet of an interface's address.
pub(super) struct Subnet {
    /// The address with the subnet's length.
    pub(super) prefix: Prefix,
    pub(super) interface: usize,
    span: Span,
}

/// The interfaces, and what other sections ask of them.
pub(super) struct Network<'t> {
    pub(super) interfaces: Vec<Interface>,
    /// Where each one's name stands.
    pub(super) spans: Vec<Span>,
    names: HashMap<&'t str, usize>,
    /// In ascending order of the lowest address.
    subnets: Vec<Subnet>,
    /// Some addresses are wrong: that one is on no subnet may follow from that alone.
    broken: bool,
}

impl<'t> Network<'t> {
    /// `None`: there is no interface, or there are too many.
    pub(super) fn read(
        file: &Table<'t>,
        acls: &Acls<'t>,
        guards: &Guards<'t>,
        sink: &mut Sink<'_>,
    ) -> Option<Self> {
        let errors = sink.errors();
        let tables = file.named("interfaces", &schema::INTERFACE, sink);
        if tables.is_empty() && sink.errors() == errors {
            sink.error_in_file("the configuration has no interface")
                .help("add at least one, such as [interfaces.lan] with `device` and `address`");
        }
        if tables.is_empty() || tables.len() > MOST_INTERFACES {
            if let Some((name, _)) = tables.last() {
                sink.error(&name.span, format!("there are {} interfaces", tables.len()))
                    .help(format!("this version takes at most {MOST_INTERFACES}"));
            }
            return None;
        }
        let mut network = Self {
            interfaces: Vec::new(),
            spans: tables.iter().map(|(name, _)| name.span.clone()).collect(),
            names: tables.iter().enumerate().map(|(index, (name, _))| (name.value, index)).collect(),
            subnets: Vec::new(),
            broken: false,
        };
        for (name, table) in &tables {
            check_name(name, sink);
            network.add(name.value, table.as_ref(), (acls, guards), sink);
        }
        for (index, (_, table)) in tables.iter().enumerate() {
            network.check_link(index, table.as_ref(), sink);
            network.check_from_kernel(index, table.as_ref(), sink);
        }
        network.check_devices(&tables, sink);
        network.check_subnets(sink);
        network.broken = sink.errors() > errors;
        Some(network)
    }

    /// The interface of this name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The interface that `name` refers to.
    pub(super) fn resolve(&self, name: &At<String>, sink: &mut Sink<'_>) -> Option<usize> {
        let index = self.named(&name.value);
        if index.is_none() {
            let known = self.interfaces.iter().map(|interface| interface.name.as_str());
            let draft = sink.error(&name.span, format!("no interface is called {}", quote(&name.value)));
            match nearest(&name.value, known.clone()) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => {
                    let names: Vec<String> = known.take(8).map(quote).collect();
                    draft.help(format!("interfaces are {}", names.join(", ")))
                }
            };
        }
        index
    }

    /// The interface that a key refers to; the key must be there.
    pub(super) fn required(&self, table: &Table<'_>, key: &str, sink: &mut Sink<'_>) -> Option<At<usize>> {
        if !table.has(key) {
            let example = self.interfaces.first().map_or("lan", |interface| interface.name.as_str());
            table.missing(key, &format!("\"{example}\""), sink);
        }
        let name = word(table, key, sink)?;
        Some(At { value: self.resolve(&name, sink)?, span: name.span })
    }

    /// The subnet that `address` lies in.
    pub(super) fn subnet(&self, address: IpAddr) -> Option<&Subnet> {
        let after = self.subnets.partition_point(|subnet| subnet.prefix.first() <= address);
        self.subnets[..after].last().filter(|subnet| subnet.prefix.contains(address))
    }

    /// The interface that has `address`.
    pub(super) fn owner(&self, address: IpAddr) -> Option<usize> {
        let interface = self.subnet(address)?.interface;
        let addresses = &self.interfaces[interface].addresses;
        addresses.iter().any(|prefix| prefix.address == address).then_some(interface)
    }

    /// A subnet of this interface that shares addresses with `prefix`: its network, the interface's name, and where it stands.
    pub(super) fn subnet_in(&self, prefix: Prefix, interface: usize) -> Option<(Prefix, &str, &Span)> {
        let mine =
            |subnet: &&Subnet| subnet.interface == interface && subnet.prefix.network().overlaps(prefix);
        let subnet = self.subnets.iter().find(mine)?;
        let name = self.interfaces.get(interface)?.name.as_str();
        Some((subnet.prefix.network(), name, &subnet.span))
    }

    /// The interface whose subnet `prefix` is.
    pub(super) fn connected(&self, prefix: Prefix) -> Option<usize> {
        let subnet = self.subnet(prefix.address)?;
        (subnet.prefix.network() == prefix).then_some(subnet.interface)
    }

    /// Whether a missing address may follow from an error that was reported already.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Adds an interface, even with errors, so that indices are the order of the file.
    fn add(
        &mut self,
        name: &str,
        table: Option<&Table<'t>>,
        (acls, guards): (&Acls<'t>, &Guards<'t>),
        sink: &mut Sink<'_>,
    ) {
        let mut interface = Interface {
            name: name.to_owned(),
            link: Link::Device(Device {
                device: name.to_owned(),
                mac: None,
                checksum: Checksum::Auto,
                xdp: XdpMode::Auto,
                xdp_replace: false,
                rx_ring: None,
                tx_ring: None,
                channels: None,
                kernel: Vec::new(),
                host: Host::Sluice,
                takeover: false,
            }),
            addresses: Vec::new(),
            from_kernel: false,
            mtu: 1500,
            acl: None,
            guard: None,
            mss_clamp: MssClamp::Off,
        };
        if let Some(table) = table {
            interface.link = self.link(name, table, sink);
            for At { value, span } in table.many("address", text(address_or_kernel), sink) {
                let Some(value) = value else {
                    interface.from_kernel = true;
                    continue;
                };
                if check_address(value, &span, sink) {
                    interface.addresses.push(value);
                    self.subnets.push(Subnet { prefix: value, interface: self.interfaces.len(), span });
                }
            }
            if let Some(mtu) = table.one("mtu", integer(68..=MAX_MTU.into()), sink) {
                interface.mtu = mtu.value as u16;
            }
            interface.mss_clamp =
                table.one("mss-clamp", mss_clamp, sink).map_or(MssClamp::Off, |at| at.value);
            interface.acl = word(table, "acl", sink).and_then(|name| acls.resolve(&name, sink));
            interface.guard = word(table, "guard", sink).and_then(|name| guards.resolve(&name, sink));
        }
        self.interfaces.push(interface);
    }

    fn link(&self, name: &str, table: &Table<'t>, sink: &mut Sink<'_>) -> Link {
        if table.has("parent") || table.has("vlan") {
            return self.vlan(table, sink).unwrap_or(Link::Vlan { parent: usize::MAX, id: 0, outer: None });
        }
        let kernel = table.many("kernel", text(kernel_filter), sink);
        if let Some(extra) = kernel.get(MOST_KERNEL_FILTERS) {
            sink.error(&extra.span, format!("`kernel` has {} entries", kernel.len()))
                .help(format!("the XDP program takes at most {MOST_KERNEL_FILTERS}"));
        }
        if table.has("mac") && table.string("host") == Some("kernel") {
            sink.error(&table.key_span("mac"), "with host = \"kernel\" the MAC address is the device's own")
                .help("leave `mac` out, and set the device's by `ip link set dev DEVICE address MAC`");
        }
        Link::Device(Device {
            device: table.one("device", text(device), sink).map_or(name.to_owned(), |at| at.value),
            mac: table.one("mac", text(net::mac), sink).map(|at| at.value),
            checksum: (table.one("checksum", choice(CHECKSUMS), sink)).map_or(Checksum::Auto, |at| at.value),
            xdp: table.one("xdp", choice(XDP_MODES), sink).map_or(XdpMode::Auto, |at| at.value),
            xdp_replace: table.one("xdp-replace", boolean, sink).is_some_and(|at| at.value),
            rx_ring: table.one("rx-ring", ring, sink).map(|at| at.value),
            tx_ring: table.one("tx-ring", ring, sink).map(|at| at.value),
            channels: table.one("channels", integer(1..=MOST_CHANNELS), sink).map(|at| at.value),
            kernel: values(&kernel),
            host: table.one("host", choice(HOSTS), sink).map_or(Host::Sluice, |at| at.value),
            takeover: table.one("takeover", boolean, sink).is_some_and(|at| at.value),
        })
    }

    fn vlan(&self, table: &Table<'t>, sink: &mut Sink<'_>) -> Option<Link> {
        let of_devices = [
            "device",
            "mac",
            "checksum",
            "xdp",
            "xdp-replace",
            "channels",
            "rx-ring",
            "tx-ring",
            "kernel",
            "host",
            "takeover",
        ];
        for key in of_devices.into_iter().filter(|key| table.has(key)) {
            sink.error(&table.key_span(key), format!("a VLAN has no `{key}` of its own"))
                .help("it is its parent's; an interface has either `device`, or `parent` and `vlan`");
        }
        let parent = self.required(table, "parent", sink);
        if !table.has("vlan") {
            table.missing("vlan", "20", sink);
        }
        let tags = table.many("vlan", integer(1..=4094), sink);
        let link = match tags[..] {
            [ref id] => Link::Vlan { parent: parent?.value, id: id.value as u16, outer: None },
            [ref outer, ref inner] => {
                Link::Vlan { parent: parent?.value, id: inner.value as u16, outer: Some(outer.value as u16) }
            }
            [_, _, ref third, ..] => {
                sink.error(&third.span, "there are more than two VLAN tags").help("[outer, inner]");
                return None;
            }
            [] => return None,
        };
        Some(link)
    }

    /// Checks that need all interfaces: a VLAN's parent, and the MTU, whose default is the parent's.
    fn check_link(&mut self, index: usize, table: Option<&Table<'t>>, sink: &mut Sink<'_>) {
        let Some(table) = table else { return };
        if let Link::Vlan { parent, .. } = self.interfaces[index].link {
            if let Some(below) = self.interfaces.get(parent) {
                if matches!(below.link, Link::Vlan { .. }) {
                    let message = format!("`{}` is itself a VLAN, or this one", below.name);
                    sink.error(&table.key_span("parent"), message)
                        .help("the parent is a device; for QinQ write `vlan = [outer, inner]`");
                } else if !table.has("mtu") {
                    self.interfaces[index].mtu = below.mtu;
                } else if self.interfaces[index].mtu > below.mtu {
                    let message = format!("the MTU is larger than that of `{}`, {}", below.name, below.mtu);
                    sink.error(&table.key_span("mtu"), message).help(format!("at most {}", below.mtu));
                }
            }
        }
        let interface = &self.interfaces[index];
        if interface.mtu < IPV6_MTU && interface.addresses.iter().any(|prefix| !prefix.is_ipv4()) {
            sink.error(&table.key_span("mtu"), format!("the MTU {} is too small for IPv6", interface.mtu))
                .help("at least 1280 where an interface has IPv6 addresses (RFC 8200)");
        }
    }

    /// Addresses are the kernel's to say only where it is the host. What its DHCP client gets before it has one goes to no
    /// address of the box, and is left to it by port (RFC 2131 4.1, RFC 8415 7.2).
    fn check_from_kernel(&mut self, index: usize, table: Option<&Table<'t>>, sink: &mut Sink<'_>) {
        let Some(table) = table.filter(|_| self.interfaces[index].from_kernel) else { return };
        let carrier = match self.interfaces[index].link {
            Link::Vlan { parent, .. } => parent,
            Link::Device(_) => index,
        };
        let Some(Link::Device(device)) = self.interfaces.get_mut(carrier).map(|below| &mut below.link) else {
            return;
        };
        if carrier == index && !table.has("host") {
            device.host = Host::Kernel;
        }
        for filter in [KernelFilter::Udp(68), KernelFilter::Udp(546)] {
            if !device.kernel.contains(&filter) {
                device.kernel.push(filter);
            }
        }
        if device.host != Host::Kernel {
            let (key, help) = match carrier == index {
                true => ("host", "leave `host` out: with such an address it is \"kernel\""),
                false => ("address", "write `host = \"kernel\"` for its parent"),
            };
            sink.error(
                &table.key_span(key),
                "with address = \"kernel\" the kernel answers for the box's addresses, too",
            )
            .help(help);
        }
    }

    /// No device twice, no VLAN of a parent twice.
    fn check_devices(&self, tables: &[(At<&'t str>, Option<Table<'t>>)], sink: &mut Sink<'_>) {
        let mut devices = HashMap::new();
        let mut vlans = HashMap::new();
        for (index, (interface, (name, table))) in self.interfaces.iter().zip(tables).enumerate() {
            let Some(table) = table else { continue };
            match &interface.link {
                Link::Device(Device { device, .. }) => {
                    let span = if table.has("device") { table.key_span("device") } else { name.span.clone() };
                    if let Some(first) = devices.insert(device, span.clone()) {
                        sink.error(
                            &span,
                            format!("the device {} belongs to another interface", quote(device)),
                        )
                        .also(&first, "it is taken here")
                        .help("an interface that shares a device is a VLAN: `parent` and `vlan`");
                    }
                }
                Link::Vlan { parent, .. } if *parent >= self.interfaces.len() => {}
                Link::Vlan { parent, id, outer } => {
                    let span = table.key_span("vlan");
                    if let Some(first) = vlans.insert((*parent, *outer, *id), span.clone()) {
                        let parent = &self.interfaces[*parent].name;
                        sink.error(&span, format!("`{parent}` has this VLAN already"))
                            .also(&first, format!("it is `{}`", self.interfaces[self.vlan_index(index)].name))
                            .help("one interface for each VLAN of a parent");
                    }
                }
            }
        }
    }

    /// The first interface with the same link as that of `index`.
    fn vlan_index(&self, index: usize) -> usize {
        let link = &self.interfaces[index].link;
        self.interfaces.iter().position(|interface| interface.link == *link).unwrap_or(index)
    }

    /// No address twice, and no address in the subnets of two interfaces.
    fn check_subnets(&mut self, sink: &mut Sink<'_>) {
        self.subnets
            .sort_by_key(|subnet| (subnet.prefix.first(), subnet.prefix.length, subnet.prefix.address));
        let mut widest: Option<&Subnet> = None;
        let mut addresses: HashMap<IpAddr, &Span> = HashMap::new();
        for subnet in &self.subnets {
            let Prefix { address, .. } = subnet.prefix;
            if let Some(first) = addresses.insert(address, &subnet.span) {
                sink.error(&subnet.span, format!("the address {address} is there twice"))
                    .also(first, "it is also here")
                    .help("give each interface its own address");
            } else if let Some(other) = widest.filter(|other| {
                other.prefix.overlaps(subnet.prefix)
                    && (other.interface != subnet.interface || other.prefix.length != subnet.prefix.length)
            }) {
                let (inner, outer) = (subnet.prefix.network(), other.prefix.network());
                sink.error(&subnet.span, format!("the subnet {inner} overlaps {outer}"))
                    .also(
                        &other.span,
                        format!("{outer} is here, on `{}`", self.interfaces[other.interface].name),
                    )
                    .help("every subnet lies on one interface alone");
            }
            if widest.is_none_or(|other| !other.prefix.covers(subnet.prefix)) {
                widest = Some(subnet);
            }
        }
    }
}

const CHECKSUMS: &[(&str, Checksum)] =
    &[("auto", Checksum::Auto), ("complete", Checksum::Complete), ("trust", Checksum::Trust)];
const XDP_MODES: &[(&str, XdpMode)] = &[
    ("auto", XdpMode::Auto),
    ("zero-copy", XdpMode::ZeroCopy),
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
];
const HOSTS: &[(&str, Host)] = &[("sluice", Host::Sluice), ("kernel", Host::Kernel)];

/// An interface's name is also a device's, and part of file names.
fn check_name(name: &At<&str>, sink: &mut Sink<'_>) {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts_well = name.value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || name.value.len() > LONGEST_NAME || !name.value.chars().all(fine) {
        sink.error(&name.span, format!("{} cannot be the name of an interface", quote(name.value)))
            .help("a letter or digit, then up to 14 letters, digits, '-', '_' or '.'");
    }
}

fn device(text: &str) -> Result<String, Wrong> {
    let fine = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    match (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(fine) && text != "." && text != ".." {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{} cannot be the name of a device", quote(text)))
            .help("a name that `ip link` shows, of up to 15 characters")),
    }
}

/// An address with the length of its subnet, or none for those that the kernel has.
fn address_or_kernel(text: &str) -> Result<Option<Prefix>, Wrong> {
    if text == "kernel" { Ok(None) } else { net::interface_address(text).map(Some) }
}

/// Whether an interface may have this address; says why not.
fn check_address(prefix: Prefix, span: &Span, sink: &mut Sink<'_>) -> bool {
    let address = prefix.address;
    let wrong = match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            sink.error(span, format!("{address} is a link-local address"))
                .help("leave it out: each interface derives one from its MAC address");
            return false;
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4-mapped address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => "a reserved address",
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        _ if prefix.length == 0 => "an address whose subnet is everything",
        IpAddr::V4(_) if prefix.reserves(address) && address == prefix.last() => {
            "the broadcast address of its subnet"
        }
        IpAddr::V4(_) if prefix.reserves(address) => "the network address of its subnet",
        IpAddr::V6(_) if prefix.reserves(address) => "the subnet-router anycast address of its subnet",
        _ => return true,
    };
    sink.error(span, format!("{prefix} is {wrong}"))
        .help("give an address of a host, such as \"192.168.1.1/24\"");
    false
}

/// `true`, or a number of bytes; RFC 9293 3.7.1 has 536 for the least that every host takes.
fn mss_clamp(value: &DeValue<'_>) -> Result<MssClamp, Wrong> {
    const RANGE: std::ops::RangeInclusive<u32> = 536..=MAX_MTU as u32 - 40;
    match value {
        DeValue::Boolean(true) => Ok(MssClamp::Mtu),
        DeValue::Boolean(false) => Ok(MssClamp::Off),
        DeValue::Integer(_) => Ok(MssClamp::To(integer(RANGE)(value)? as u16)),
        _ => Err(Wrong::new("expected true or a number of bytes")
            .help("`true` for what the MTU allows, or a number such as 1412")),
    }
}

/// Frames that a ring holds.
fn ring(value: &DeValue<'_>) -> Result<u32, Wrong> {
    let size = integer(64..=32_768)(value)?;
    if size.is_power_of_two() {
        return Ok(size);
    }
    let (less, more) = (size.next_power_of_two() / 2, size.next_power_of_two());
    Err(Wrong::new(format!("{size} is not a power of two")).help(format!("{less} or {more}")))
}

fn kernel_filter(text: &str) -> Result<KernelFilter, Wrong> {
    const HELP: &str = "one of lldp, lacp, stp, ospf, vrrp, \"tcp/PORT\", \"udp/PORT\", \"proto/NUMBER\" or \"ethertype 0x88cc\"";
    let wrong =
        || Wrong::new(format!("{} is nothing that can be left to the kernel", quote(text))).help(HELP);
    let ours = |what: &str| {
        Wrong::new(format!("{what} cannot be left to the kernel")).help("the gateway answers it itself")
    };
    match text {
        "lldp" => return Ok(KernelFilter::EtherType(0x88cc)),
        "lacp" => return Ok(KernelFilter::EtherType(0x8809)),
        "stp" => return Ok(KernelFilter::Stp),
        "ospf" => return Ok(KernelFilter::Protocol(89)),
        "vrrp" => return Ok(KernelFilter::Protocol(112)),
        "arp" => return Err(ours("ARP")),
        _ => {}
    }
    if let Some(number) = text.strip_prefix("ethertype") {
        let digits =
            number.trim().strip_prefix("0x").filter(|digits| !digits.starts_with('+')).ok_or_else(wrong)?;
        return match u16::from_str_radix(digits, 16).map_err(|_| wrong())? {
            0x0806 => Err(ours("ARP")),
            0x0800 | 0x86dd => Err(Wrong::new("IP cannot be left to the kernel as a whole").help(HELP)),
            0x8100 | 0x88a8 => {
                Err(Wrong::new("this is the tag of a VLAN, not an EtherType behind it").help(HELP))
            }
            0..0x0600 => Err(Wrong::new("below 0x0600 it is a length, not an EtherType").help(HELP)),
            ethertype => Ok(KernelFilter::EtherType(ethertype)),
        };
    }
    let (kind, number) = text.split_once('/').ok_or_else(wrong)?;
    let port = || net::decimal(number).filter(|&port| port > 0).ok_or_else(wrong);
    match kind {
        "tcp" => Ok(KernelFilter::Tcp(port()?)),
        "udp" => Ok(KernelFilter::Udp(port()?)),
        "proto" => Ok(KernelFilter::Protocol(net::decimal(number).ok_or_else(wrong)?)),
        _ => Err(wrong()),
    }
}
