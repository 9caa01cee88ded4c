//! The devices of a configuration: what is to be known of them, how they are opened, and what is said of them.

use std::io;

use sluice_dataplane::port::af_xdp::{
    self, AttachedMode, BusyPoll, DeviceControl, KernelMatch, OpenError, PortSpec, XdpMode,
};
use sluice_dataplane::session::ReportTimes;
use sluice_dataplane::worker::Worker;
use sluice_pkt::ethernet::Mac;

use super::{RunError, VIRTUAL_DRIVERS};
use crate::config::{self, Config, Device, DeviceFacts, Host, KernelFilter, Link, Workers};
use crate::export::collectors::Sources;
use crate::host;
use crate::plan::Plan;
use crate::routes::Devices;
use crate::uplink::{self, Look, UplinkError};

fn devices(config: &Config) -> impl Iterator<Item = (&str, &Device)> {
    config.interfaces.iter().filter_map(|interface| match &interface.link {
        Link::Device(device) => Some((interface.name.as_str(), device)),
        Link::Vlan { .. } => None,
    })
}

pub(super) fn device_facts(config: &Config) -> Result<Vec<DeviceFacts>, RunError> {
    let facts = devices(config).map(|(_, device)| match af_xdp::device_facts(&device.device) {
        Ok(facts) => Ok(DeviceFacts {
            mac: Mac(facts.mac),
            virtual_link: VIRTUAL_DRIVERS.contains(&facts.driver.as_str()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NoDevice(device.device.clone()).into())
        }
        Err(source) => Err(RunError::Facts { device: device.device.clone(), source }),
    });
    facts.collect()
}

/// A packet that is longer than the device's MTU would be lost without a word.
pub(crate) fn check_mtus(config: &Config) -> Result<(), RunError> {
    for (index, interface) in config.interfaces.iter().enumerate() {
        let Some(device) = config.device(index) else { continue };
        let Ok(facts) = af_xdp::device_facts(device) else { continue };
        if facts.mtu < u32::from(interface.mtu) {
            return Err(RunError::Mtu {
                interface: interface.name.clone(),
                configured: interface.mtu,
                device: device.into(),
                actual: facts.mtu,
            });
        }
    }
    Ok(())
}

/// Each of a worker's rings gets a share of the worker's `frames`, where the configuration does not size them; a quarter
/// stays free for packets on their way, and so does what shapers may hold.
pub(super) fn port_specs(config: &Config, facts: &[DeviceFacts], plan: &Plan, frames: u32) -> Vec<PortSpec> {
    let receiving = plan.workers.iter().map(|worker| worker.queues.len()).max().unwrap_or(0);
    let shaped = config.shapers.iter().fold(0u32, |sum, shaper| sum.saturating_add(shaper.frames));
    let frames = frames.saturating_sub(shaped / plan.workers.len().max(1) as u32);
    let share = frames / 4 * 3 / ((receiving + facts.len()) as u32).max(1);
    let ring = if share == 0 { 64 } else { (1 << share.ilog2()).clamp(64, 2048) };
    let Workers { batch, busy_poll, busy_poll_budget: budget, .. } = config.workers;
    let spec = |(port, ((name, device), facts)): (usize, ((&str, &Device), &DeviceFacts))| PortSpec {
        name: name.into(),
        device: device.device.clone(),
        mode: match device.xdp {
            config::XdpMode::Auto => XdpMode::Auto,
            config::XdpMode::ZeroCopy => XdpMode::ZeroCopy,
            config::XdpMode::Native => XdpMode::Native,
            config::XdpMode::Generic => XdpMode::Generic,
        },
        kernel: device.kernel.iter().map(kernel_match).collect(),
        mac: Some(device.mac.unwrap_or(facts.mac.0)),
        replace: device.xdp_replace,
        owners: plan.owners(port),
        rx_ring: device.rx_ring.unwrap_or(ring),
        tx_ring: device.tx_ring.unwrap_or(ring),
        batch,
        busy_poll: (busy_poll != 0).then_some(BusyPoll { microseconds: busy_poll, budget }),
        apart: false,
        host_is_kernel: device.host == Host::Kernel,
        has_lists: has_guard(config, &device.device),
    };
    devices(config).zip(facts).enumerate().map(spec).collect()
}

/// Whether an interface of a device has a guard.
fn has_guard(config: &Config, device: &str) -> bool {
    let mut interfaces = config.interfaces.iter().enumerate();
    interfaces.any(|(index, interface)| interface.guard.is_some() && config.device(index) == Some(device))
}

fn kernel_match(filter: &KernelFilter) -> KernelMatch {
    match *filter {
        KernelFilter::EtherType(ethertype) => KernelMatch::EtherType(ethertype),
        KernelFilter::Protocol(protocol) => KernelMatch::Protocol { protocol, port: None },
        KernelFilter::Tcp(port) => KernelMatch::Protocol { protocol: config::TCP, port: Some(port) },
        KernelFilter::Udp(port) => KernelMatch::Protocol { protocol: config::UDP, port: Some(port) },
        KernelFilter::Stp => KernelMatch::EtherType(af_xdp::LLC),
    }
}

pub(super) fn describe(control: &DeviceControl) -> String {
    let info = control.info();
    let plural = if info.queues == 1 { "" } else { "s" };
    let mut text = format!(
        "{}: {} ({}), {} XDP, group {}, {} queue{plural}, MTU {}",
        control.name(),
        info.device,
        info.driver,
        info.achieved(),
        info.group,
        info.queues,
        info.mtu
    );
    if let Some(fallback) = &info.fallback {
        text.push_str(&format!(" ({fallback})"));
    }
    text
}

/// What else there is to say of a device.
pub(super) fn advice(control: &DeviceControl) -> Option<String> {
    let info = control.info();
    let generic = info.mode == AttachedMode::Generic && VIRTUAL_DRIVERS.contains(&info.driver.as_str());
    generic.then(|| {
        format!(
            "{}: in generic mode local senders keep their segmentation offload, and their frames of up to 64 kB are \
             dropped; `ethtool -K PEER tso off gso off` at the other end, or native mode, avoids that",
            info.device
        )
    })
}

/// What the workers are to tell of flows and packets, for exporters.
pub(super) fn sources(config: &Config, workers: &mut [Worker], seed: u64) -> Sources {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let flows = config.export.ipfix.as_ref().map(|ipfix| {
        let times = ReportTimes { active: nanos(ipfix.active_timeout), idle: nanos(ipfix.idle_timeout) };
        (ipfix.clone(), workers.iter_mut().map(|worker| worker.flow_records(times)).collect())
    });
    let samples = config.export.sflow.as_ref().map(|sflow| {
        let seeds = (1u64..).map(|worker| seed.wrapping_mul(2 * worker + 1));
        let readers = workers.iter_mut().zip(seeds);
        (sflow.clone(), readers.map(|(worker, seed)| worker.samples(sflow.sampling, seed)).collect())
    });
    Sources { flows, samples }
}

/// What looks for the kernel's addresses, if some interface has them. Its routes are followed as a whole, or not at all.
pub(super) fn look(config: &Config) -> Result<Option<Look>, UplinkError> {
    let places = uplink::places(config);
    if places.is_empty() {
        return Ok(None);
    }
    Look::open(places, config.kernel_routes.is_none()).map(Some)
}

/// By which of the kernel's devices routes lead to which interface.
pub(super) fn of_routes(config: &Config, hosting: Option<&host::Plan>) -> Devices {
    let named = config.interfaces.iter().zip(0u16..).filter_map(|(interface, index)| match &interface.link {
        Link::Device(device) => Some((device.device.clone(), index)),
        Link::Vlan { .. } => None,
    });
    let indexed = hosting.map(host::Plan::interfaces).unwrap_or_default();
    let is_vlan = |index: u16| {
        let interface = config.interfaces.get(usize::from(index));
        interface.is_some_and(|interface| matches!(interface.link, Link::Vlan { .. }))
    };
    let indexed = indexed.iter().filter(|(index, _)| is_vlan(*index));
    Devices { named: named.collect(), indexed: indexed.map(|&(index, ifindex)| (ifindex, index)).collect() }
}
