//! `host = "kernel"`: the kernel answers for the box's own addresses, and Sluice leaves them to it.
//!
//! Control tells the XDP program which addresses these are, and follows them as they change. It asks the kernel for the
//! neighbours that a worker wants, and hands what the kernel knows to all of them. Where NAT has an address together with the
//! kernel, its ports are kept out of the kernel's.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluice_dataplane::local::mirror::{Known, MirrorControl};
use sluice_dataplane::port::af_xdp::{HostTable, SharedAddress};
use sluice_pkt::ethernet::Mac;
use tracing::warn;

use crate::config::{self, AddressRange, Allocation, Config, Host, Link, PortRange, SourceNat, Target};
use crate::device::{Event, KernelNeighbor, Monitor, NetlinkError, Rtnetlink};
use crate::uplink;

mod ports;

/// Between two looks for what the workers want and the kernel says.
const PAUSE: Duration = Duration::from_millis(5);

/// Why the kernel cannot be the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It has not got an address.
    #[error(
        "interfaces.{interface}: host = \"kernel\", but the kernel has no {address}; \
         `ip address add {prefix} dev {device}` (for a VLAN, its device of the kernel)"
    )]
    Address {
        /// The interface.
        interface: String,
        /// The address.
        address: IpAddr,
        /// The address with the length of its subnet.
        prefix: String,
        /// The interface's device.
        device: String,
    },
    /// The kernel has no such device.
    #[error(
        "interfaces.{interface}: the kernel has no device for it{}", match .vlan {
            Some(id) => format!(" on {device}; `ip link add link {device} name {device}.{id} type vlan id {id}`"),
            None => format!(": {device} is not there"),
        }
    )]
    NoDevice {
        /// The interface.
        interface: String,
        /// What carries it.
        device: String,
        /// Its VLAN id.
        vlan: Option<u16>,
    },
    /// NAT has no port left.
    #[error(
        "nat.source {first}-{last}: every one of these ports is the kernel's, by net.ipv4.ip_local_port_range or a service \
         that listens; give others in `ports`, or an address in `to` that is not the kernel's"
    )]
    Ports {
        /// First port configured.
        first: u16,
        /// Last port configured.
        last: u16,
    },
    /// The XDP program's table.
    #[error("{0}")]
    Table(String),
    /// The kernel cannot be asked.
    #[error("cannot follow the kernel's addresses and neighbours: {0}")]
    Netlink(#[from] NetlinkError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// What is to be kept in step with the kernel.
#[derive(Debug)]
pub struct Plan {
    /// Interfaces where the kernel is the host: their index, and that of the kernel's device.
    interfaces: Vec<(u16, u32)>,
    /// Next hops of routes by these: kernel's device and address.
    next_hops: Vec<(u32, IpAddr)>,
    /// Addresses that the kernel shares with NAT.
    shared: Vec<(Ipv4Addr, SharedAddress)>,
    /// The ports that NAT has of them.
    narrowed: Narrowed,
}

/// Rules of source NAT whose addresses the kernel shares, as configured, and the ports that they have. A rule that stays
/// as it is keeps them when the configuration changes, and so its sessions, whatever services have come meanwhile.
pub type Narrowed = Vec<(SourceNat, PortRange)>;

impl Plan {
    /// What NAT has of the kernel's addresses.
    pub fn narrowed(&self) -> &Narrowed {
        &self.narrowed
    }

    /// Interfaces where the kernel is the host: their index, and that of the kernel's device.
    pub fn interfaces(&self) -> &[(u16, u32)] {
        &self.interfaces
    }
}

/// Finds out what is to be kept in step, and takes the kernel's ports out of NAT's, with a line for each rule that this
/// changes. None if the kernel is nowhere the host. `before` is what it came to for the configuration before this one.
///
/// # Errors
/// See [`HostError`].
pub fn plan(config: &mut Config, before: &Narrowed) -> Result<Option<(Plan, Vec<String>)>, HostError> {
    let hosted: Vec<usize> = (0..config.interfaces.len()).filter(|&index| is_hosted(config, index)).collect();
    if hosted.is_empty() {
        return Ok(None);
    }
    let mut rtnetlink = Rtnetlink::open()?;
    let kernel = rtnetlink.addresses()?;
    let mut interfaces = Vec::new();
    for &index in &hosted {
        let device = match kernel_device(config, index, &kernel)? {
            Some(device) => device,
            None => device_by_name(config, index, &mut rtnetlink)?,
        };
        interfaces.push((index as u16, device));
    }
    let hop = |target: &Target| match *target {
        Target::Via { address, interface } => {
            let (_, ifindex) = interfaces.iter().find(|(index, _)| usize::from(*index) == interface)?;
            Some((*ifindex, address))
        }
        _ => None,
    };
    let mut next_hops: Vec<(u32, IpAddr)> =
        config.routes.iter().filter_map(|route| hop(&route.target)).collect();
    next_hops.sort_unstable();
    next_hops.dedup();

    let is_kernels = |address: Ipv4Addr| kernel.iter().any(|(_, own, _)| *own == IpAddr::V4(address));
    let taken = ports::taken();
    let (mut shared, mut lines, mut narrowed) = (Vec::new(), Vec::new(), Vec::new());
    for rule in config.source_nat.iter_mut().filter(|rule| hosted.contains(&rule.out)) {
        let common: Vec<Ipv4Addr> =
            kernel_addresses(&kernel).filter(|own| in_pool(&rule.pool, *own)).collect();
        if common.is_empty() {
            continue;
        }
        let configured = rule.clone();
        let PortRange { first, last } = configured.ports;
        let known = before.iter().find(|(rule, _)| *rule == configured);
        let free = known.map(|(_, ports)| *ports).or_else(|| ports::longest_free(configured.ports, &taken));
        rule.ports = free.filter(|free| fits(rule, *free)).ok_or(HostError::Ports { first, last })?;
        narrowed.push((configured, rule.ports));
        if known.is_none() && rule.ports != (PortRange { first, last }) {
            lines.push(format!(
                "nat.source: ports {}-{} of {} in place of {first}-{last}, as the others are the kernel's own",
                rule.ports.first, rule.ports.last, common[0]
            ));
        }
        let range = (rule.ports.first, rule.ports.last);
        for address in common {
            let ports = share(&mut shared, address);
            [&mut ports.tcp, &mut ports.udp, &mut ports.icmp].into_iter().for_each(|list| list.push(range));
        }
    }
    for forward in config.forwards.iter().filter(|forward| hosted.contains(&forward.interface)) {
        if is_kernels(forward.address) {
            let ports = share(&mut shared, forward.address);
            let range = (forward.ports.first, forward.ports.last);
            for protocol in &forward.protocols {
                let list = if *protocol == config::TCP { &mut ports.tcp } else { &mut ports.udp };
                list.push(range);
            }
        }
    }
    Ok(Some((Plan { interfaces, next_hops, shared, narrowed }, lines)))
}

/// Whether a rule's ports can be these instead. A deterministic mapping may not hang on what listens today.
fn fits(rule: &SourceNat, ports: PortRange) -> bool {
    match rule.allocation {
        Allocation::Ports => true,
        Allocation::Blocks { size, .. } => ports.count() >= size,
        Allocation::Deterministic { .. } => ports == rule.ports,
    }
}

/// Whether the kernel is the host on an interface's device.
fn is_hosted(config: &Config, index: usize) -> bool {
    let carrier = match config.interfaces.get(index).map(|interface| &interface.link) {
        Some(Link::Vlan { parent, .. }) => *parent,
        _ => index,
    };
    let link = config.interfaces.get(carrier).map(|interface| &interface.link);
    matches!(link, Some(Link::Device(device)) if device.host == Host::Kernel)
}

/// The kernel's device that has the interface's addresses, all of which it must have. None if they come and go, or there are
/// none.
fn kernel_device(
    config: &Config,
    index: usize,
    kernel: &[(u32, IpAddr, u8)],
) -> Result<Option<u32>, HostError> {
    let interface = &config.interfaces[index];
    let mut device = None;
    if interface.from_kernel {
        return Ok(None);
    }
    for prefix in &interface.addresses {
        let found = kernel.iter().find(|(_, own, _)| *own == prefix.address);
        let (ifindex, _, _) = found.ok_or_else(|| HostError::Address {
            interface: interface.name.clone(),
            address: prefix.address,
            prefix: prefix.to_string(),
            device: config.device(index).unwrap_or_default().to_owned(),
        })?;
        device.get_or_insert(*ifindex);
    }
    Ok(device)
}

/// The kernel's device of an interface, by what the configuration calls it.
fn device_by_name(config: &Config, index: usize, rtnetlink: &mut Rtnetlink) -> Result<u32, HostError> {
    let place = uplink::place(config, index);
    let wanted = place.as_ref().map(|place| (place.device.as_str(), &place.tags[..]));
    let found = rtnetlink.devices_of(wanted)?.into_iter().next().flatten();
    found.ok_or_else(|| HostError::NoDevice {
        interface: config.interfaces[index].name.clone(),
        device: place.as_ref().map(|place| place.device.clone()).unwrap_or_default(),
        vlan: place.and_then(|place| place.tags.last().copied()),
    })
}

fn kernel_addresses(kernel: &[(u32, IpAddr, u8)]) -> impl Iterator<Item = Ipv4Addr> {
    kernel.iter().filter_map(|(_, address, _)| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

fn in_pool(pool: &[AddressRange], address: Ipv4Addr) -> bool {
    pool.iter().any(|range| (range.first..=range.last).contains(&address))
}

fn share(shared: &mut Vec<(Ipv4Addr, SharedAddress)>, address: Ipv4Addr) -> &mut SharedAddress {
    let index = shared.iter().position(|(known, _)| *known == address).unwrap_or_else(|| {
        shared.push((address, SharedAddress::default()));
        shared.len() - 1
    });
    &mut shared[index].1
}

/// Keeps in step with the kernel, on a thread of its own, until it is dropped.
pub struct Follower {
    plans: Sender<Plan>,
    stop: Arc<AtomicBool>,
    leaves: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Fills the tables of the XDP programs, has the kernel find the next hops, and follows from then on.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn start(plan: Plan, tables: Vec<HostTable>, mirrors: Vec<MirrorControl>) -> Result<Self, HostError> {
        // First, so that nothing is missed between the reading and the listening.
        let monitor = Monitor::open()?;
        let (plans, told) = mpsc::channel();
        let mut work = Work { plan, told, tables, mirrors, monitor, rtnetlink: Rtnetlink::open()? };
        work.fill()?;
        for (ifindex, address) in work.plan.next_hops.clone() {
            // A kernel before 5.16 does not manage neighbours; the worker asks for them in time.
            let _ = work.rtnetlink.use_neighbor(ifindex, address, true);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let leaves = Arc::new(AtomicBool::new(false));
        let left = leaves.clone();
        let body = move || {
            while !stopped.load(Ordering::Relaxed) {
                work.step();
                thread::sleep(PAUSE);
            }
            for (ifindex, address) in work.plan.next_hops.iter().filter(|_| !left.load(Ordering::Relaxed)) {
                let _ = work.rtnetlink.forget_neighbor(*ifindex, *address);
            }
        };
        let thread = thread::Builder::new().name("sluice-host".into()).spawn(body)?;
        Ok(Self { plans, stop, leaves, thread: Some(thread) })
    }

    /// The kernel keeps the next hops that it was asked for: another process goes on with them.
    pub fn leave(&self) {
        self.leaves.store(true, Ordering::Relaxed);
    }

    /// Follows another plan from now on, in which the same interfaces are the kernel's.
    pub fn adopt(&self, plan: Plan) {
        // The thread lives until this is dropped.
        let _ = self.plans.send(plan);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    plan: Plan,
    told: Receiver<Plan>,
    tables: Vec<HostTable>,
    /// One for each worker.
    mirrors: Vec<MirrorControl>,
    monitor: Monitor,
    rtnetlink: Rtnetlink,
}

impl Work {
    /// What the kernel does not answer now, the workers ask again in a second.
    fn step(&mut self) {
        while let Ok(plan) = self.told.try_recv() {
            self.adopt(plan);
        }
        while let Some(wanted) = self.mirrors.iter_mut().find_map(MirrorControl::wanted) {
            let device = self.plan.interfaces.iter().find(|(index, _)| *index == wanted.interface);
            let Some((_, ifindex)) = device.copied() else { continue };
            let _ = self.rtnetlink.use_neighbor(ifindex, wanted.address, false);
            if let Ok(Some(neighbor)) = self.rtnetlink.neighbor(ifindex, wanted.address) {
                self.tell(neighbor);
            }
        }
        let mut addresses = false;
        while let Some(events) = self.monitor.events().ok().filter(|events| !events.is_empty()) {
            for event in events {
                match event {
                    Event::Neighbor(neighbor) => self.tell(neighbor),
                    Event::Addresses | Event::Lost => addresses = true,
                }
            }
        }
        if addresses {
            self.fill_or_say();
        }
    }

    fn adopt(&mut self, plan: Plan) {
        let before = std::mem::replace(&mut self.plan, plan);
        self.fill_or_say();
        for (ifindex, address) in &self.plan.next_hops {
            if !before.next_hops.contains(&(*ifindex, *address)) {
                let _ = self.rtnetlink.use_neighbor(*ifindex, *address, true);
            }
        }
        for (ifindex, address) in &before.next_hops {
            if !self.plan.next_hops.contains(&(*ifindex, *address)) {
                let _ = self.rtnetlink.forget_neighbor(*ifindex, *address);
            }
        }
    }

    fn tell(&mut self, neighbor: KernelNeighbor) {
        let KernelNeighbor { ifindex, address, mac, confirmed } = neighbor;
        for (interface, _) in self.plan.interfaces.iter().filter(|(_, device)| *device == ifindex) {
            let known = Known { interface: *interface, address, mac: Mac(mac), confirmed };
            for mirror in &mut self.mirrors {
                // Without room now, the worker asks again.
                let _ = mirror.tell(known);
            }
        }
    }

    fn fill_or_say(&mut self) {
        if let Err(error) = self.fill() {
            warn!("what is the kernel's own is not up to date: {error}; the next change is tried again");
        }
    }

    /// All that the kernel has, on whatever device: it answers for each of them on all.
    fn fill(&mut self) -> Result<(), HostError> {
        let kernel = self.rtnetlink.addresses()?;
        let own: Vec<IpAddr> = kernel
            .into_iter()
            .map(|(_, address, _)| address)
            .filter(|address| !address.is_loopback())
            .collect();
        for table in &mut self.tables {
            table.set(&own, &self.plan.shared).map_err(HostError::Table)?;
        }
        Ok(())
    }
}
