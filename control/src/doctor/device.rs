//! One device: driver, queues, offloads, and who else uses it.

use sluice_dataplane::arena::MAX_MTU;

use super::drivers::{self, Support};
use super::{Finding, Patient};
use crate::config::{Host, XdpMode};
use crate::device::machine::Machine;
use crate::device::{Facts, RECEIVE_MERGING, VLAN_FILTER, VLAN_STRIPPING, XdpSupport};
use crate::gateway::VIRTUAL_DRIVERS;

pub(super) fn examine(patient: &Patient<'_>, machine: &Machine) -> Vec<Finding> {
    let facts = patient.facts;
    let says = facts.xdp_support.map(|says| says.features);
    let support = match drivers::support(&facts.driver, says, machine.kernel()) {
        _ if patient.settings.is_some_and(|settings| settings.xdp == XdpMode::Generic) => Support::Generic,
        support => support,
    };
    let mut findings = vec![
        driver(facts, support),
        channels(patient),
        rss(facts),
        mtu(patient),
        stripping(patient),
        merging(facts),
    ];
    if VIRTUAL_DRIVERS.contains(&facts.driver.as_str()) {
        findings.push(segmentation(facts, support));
    }
    findings.push(filters(patient));
    findings.push(programs(facts));
    findings.extend(facts.xdp_support.map(metadata));
    findings.extend(numa(patient));
    findings.push(addresses(patient));
    findings.push(access(patient));
    findings
}

fn driver(facts: &Facts, support: Support) -> Finding {
    const POINT: &str = "driver";
    let name = if facts.driver.is_empty() { "unknown" } else { &facts.driver };
    let fragments = match drivers::takes_fragments(facts.xdp_support.map(|says| says.features)) {
        Some(false) => "; no frames in several buffers (jumbo)",
        Some(true) | None => "",
    };
    match support {
        Support::ZeroCopy if name == "virtio_net" => Finding::fine(
            POINT,
            format!(
                "{name}: native XDP, zero copy if the hypervisor has iommu_platform=on for it{fragments}"
            ),
        ),
        Support::ZeroCopy => Finding::fine(POINT, format!("{name}: native XDP, zero copy{fragments}")),
        Support::Native if name == "virtio_net" => Finding::warning(
            POINT,
            format!("{name}: native XDP, frames are copied{fragments}"),
            "Linux 6.13 or later in the guest, and iommu_platform=on for the device of the hypervisor, have zero copy",
        ),
        Support::Native if !facts.physical => Finding::fine(
            POINT,
            format!("{name}: native XDP; a virtual device always copies frames{fragments}"),
        ),
        Support::Native => Finding::warning(
            POINT,
            format!("{name}: native XDP, frames are copied{fragments}"),
            "a NIC with zero copy (drivers ice, i40e, ixgbe, igc, mlx5_core), or a newer kernel, if the rate matters",
        ),
        Support::Generic => Finding::warning(
            POINT,
            format!("{name}: generic XDP alone, with a socket buffer and a copy for each frame"),
            "a NIC with native XDP (drivers ice, i40e, ixgbe, igc, mlx5_core, virtio_net), or a newer kernel",
        ),
        Support::Unknown => Finding::warning(
            POINT,
            format!("{name}: not known for native XDP; it will be tried, and generic XDP does it otherwise"),
            "`sluice run` says what was achieved; Linux 6.3 and later tell it here",
        ),
    }
}

fn channels(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "queues";
    let facts = patient.facts;
    let wanted = patient.settings.and_then(|settings| settings.channels);
    let plural = if facts.queues == 1 { "" } else { "s" };
    let now = format!("{} receive queue{plural}", facts.queues);
    let queues = patient.channels.unwrap_or(facts.queues);
    if (queues as usize) < patient.workers {
        return Finding::problem(
            POINT,
            format!("{now}, and {} workers, each of which needs one to send on", patient.workers),
            format!("[workers] count = {queues}"),
        );
    }
    match (facts.channels.filter(|channels| channels.most() > 0), wanted) {
        (None, Some(wanted)) if wanted != facts.queues => Finding::problem(
            POINT,
            format!("{now}, and the driver sets no others; channels = {wanted} is configured"),
            "leave `channels` out",
        ),
        (Some(channels), Some(wanted)) if wanted > channels.most() => Finding::problem(
            POINT,
            format!("{now}, at most {}; channels = {wanted} is configured", channels.most()),
            format!("channels = {}", channels.most()),
        ),
        (Some(channels), Some(wanted)) if wanted != channels.queues() => {
            Finding::fine(POINT, format!("{now}; `sluice run` makes it {wanted}, as configured"))
        }
        (Some(_), None) if queues != facts.queues => {
            Finding::fine(POINT, format!("{now}; `sluice run` makes it {queues}, one for each worker"))
        }
        (Some(channels), _) => Finding::fine(POINT, format!("{now} of up to {}", channels.most())),
        (None, _) => Finding::fine(POINT, now),
    }
}

fn rss(facts: &Facts) -> Finding {
    const POINT: &str = "rss";
    if facts.queues <= 1 {
        return Finding::fine(POINT, "one queue needs none");
    }
    let Some(table) = &facts.rss else {
        return Finding::fine(POINT, "the driver does not tell its table");
    };
    let mut used = table.clone();
    used.sort_unstable();
    used.dedup();
    if used.len() < facts.queues as usize {
        return Finding::warning(
            POINT,
            format!("{} entries use {} of {} queues", table.len(), used.len(), facts.queues),
            format!("`ethtool -X {} equal {}`", facts.name, facts.queues),
        );
    }
    Finding::fine(POINT, format!("{} entries over all {} queues", table.len(), used.len()))
}

fn mtu(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "mtu";
    let Facts { mtu, name, .. } = patient.facts;
    let most = u32::from(MAX_MTU);
    match patient.interface.map(|interface| u32::from(interface.mtu)) {
        Some(configured) if *mtu < configured => Finding::problem(
            POINT,
            format!("{mtu}, and {configured} is configured"),
            format!("`ip link set dev {name} mtu {configured}`, or mtu = {mtu} in the configuration"),
        ),
        Some(configured) if *mtu > configured => Finding::warning(
            POINT,
            format!("{mtu}, but packets over {configured} bytes are not forwarded"),
            format!("`ip link set dev {name} mtu {configured}`, so that neighbours keep to it"),
        ),
        None if *mtu > most => Finding::warning(
            POINT,
            format!("{mtu}, but packets over {most} bytes do not fit a buffer"),
            format!("`ip link set dev {name} mtu 1500`"),
        ),
        _ => Finding::fine(POINT, mtu.to_string()),
    }
}

fn stripping(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "vlan tags";
    let facts = patient.facts;
    let stuck = VLAN_STRIPPING.into_iter().find(|feature| facts.is_stuck_on(feature));
    match stuck {
        Some(feature) if patient.vlans => Finding::problem(
            POINT,
            format!("the NIC takes them out of received frames ({feature}) and cannot be stopped"),
            "another NIC for the VLANs, or VLAN devices of the kernel as devices",
        ),
        Some(feature) => Finding::warning(
            POINT,
            format!("the NIC takes them out of received frames ({feature}) and cannot be stopped"),
            "send it no frames of VLANs, by the switch's configuration: they would look untagged",
        ),
        None if VLAN_STRIPPING.into_iter().any(|feature| facts.is_on(feature)) => {
            Finding::fine(POINT, "the NIC takes them out; `sluice run` stops that while it runs")
        }
        None => Finding::fine(POINT, "stay in received frames"),
    }
}

fn merging(facts: &Facts) -> Finding {
    const POINT: &str = "lro";
    let on = || RECEIVE_MERGING.into_iter().filter(|feature| facts.is_on(feature));
    if facts.is_stuck_on("rx-lro") {
        return Finding::problem(
            POINT,
            "the NIC merges received segments (rx-lro) and cannot be stopped",
            "another NIC: frames over the MTU are lost",
        );
    }
    if let Some(feature) = on().find(|feature| facts.is_stuck_on(feature)) {
        return Finding::warning(
            POINT,
            format!("the NIC may merge received segments ({feature}) and cannot be stopped"),
            "on a virtual machine, guest_tso4=off,guest_tso6=off for the device of the hypervisor",
        );
    }
    let on: Vec<&str> = on().collect();
    if on.is_empty() {
        return Finding::fine(POINT, "received segments are not merged");
    }
    Finding::fine(POINT, format!("{} on; `sluice run` switches it off while it runs", on.join(", ")))
}

/// Senders on the same machine hand over segments of up to 64 kB, and generic XDP sees them whole.
fn segmentation(facts: &Facts, support: Support) -> Finding {
    const POINT: &str = "gso";
    match support {
        Support::Generic => Finding::warning(
            POINT,
            "local senders hand over frames of up to 64 kB, which are dropped in generic mode",
            format!("`ethtool -K PEER tso off gso off` at the other end of {}, or native mode", facts.name),
        ),
        _ => Finding::fine(POINT, "native mode keeps frames to the MTU"),
    }
}

fn filters(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "filters";
    let facts = patient.facts;
    let mut done = vec!["all multicast, for ND"];
    if patient.settings.and_then(|settings| settings.mac).is_some_and(|mac| mac[..] != facts.mac[..]) {
        done.push("a filter for the configured MAC address");
    }
    if patient.vlans && VLAN_FILTER.into_iter().any(|feature| facts.is_on(feature)) {
        done.push("no VLAN filter, or promiscuous");
    }
    Finding::fine(POINT, format!("`sluice run` sets while it runs: {}", done.join("; ")))
}

fn programs(facts: &Facts) -> Finding {
    const POINT: &str = "xdp program";
    let Some(program) = facts.xdp.first() else { return Finding::fine(POINT, "none attached") };
    let name = program.name.as_deref().unwrap_or("without a name");
    Finding::problem(
        POINT,
        format!("another is attached: {name}, id {}, {} mode", program.id, program.mode),
        format!(
            "end the process that attached it (`bpftool link` and `bpftool prog show id {}` name it), or \
             `ip link set dev {} xdp off`",
            program.id, facts.name
        ),
    )
}

/// Said for those who look for it: nothing is lost without.
fn metadata(says: XdpSupport) -> Finding {
    let offered = drivers::metadata(says);
    let offered = if offered.is_empty() { "none offered".to_owned() } else { format!("{offered} offered") };
    Finding::fine("metadata", format!("{offered}; Sluice needs none, as it updates checksums incrementally"))
}

fn numa(patient: &Patient<'_>) -> Option<Finding> {
    const POINT: &str = "numa";
    let node = patient.facts.numa_node?;
    let elsewhere = patient.worker_nodes.iter().find(|worker| **worker != node);
    Some(match elsewhere {
        Some(other) => Finding::warning(
            POINT,
            format!("the device is at node {node}, and a worker of its queues at node {other}"),
            format!("[workers] cores of node {node} (`lscpu` lists them)"),
        ),
        None => Finding::fine(POINT, format!("node {node}, and so are the workers of its queues")),
    })
}

fn addresses(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "addresses";
    let facts = patient.facts;
    if patient.settings.is_some_and(|settings| settings.host == Host::Kernel) {
        let wanted = patient.interface.map(|interface| &interface.addresses[..]).unwrap_or_default();
        let missing = wanted.iter().find(|prefix| !facts.addresses.contains(&prefix.to_string()));
        return match missing {
            Some(prefix) => Finding::problem(
                POINT,
                format!("host = \"kernel\", and the kernel has no {prefix} on it"),
                format!("`ip address add {prefix} dev {}`", facts.name),
            ),
            None => Finding::fine(POINT, "the kernel has those of the interface, and answers for them"),
        };
    }
    // A link-local address is the kernel's own doing.
    let own: Vec<&str> =
        facts.addresses.iter().map(String::as_str).filter(|address| !address.starts_with("fe80:")).collect();
    if own.is_empty() {
        return Finding::fine(POINT, "the kernel has none on it");
    }
    Finding::warning(
        POINT,
        format!("the kernel has {} on it, and hears nothing there while Sluice runs", own.join(", ")),
        format!("`ip address flush dev {}`, if they are to be Sluice's", facts.name),
    )
}

fn access(patient: &Patient<'_>) -> Finding {
    const POINT: &str = "access";
    let facts = patient.facts;
    let text = match &facts.session {
        Some(session) => format!("your SSH session from {} runs over it", session.client),
        None if !facts.default_route.is_empty() => {
            format!("the default route ({}) leaves by it", facts.default_route.join(" and "))
        }
        None => return Finding::fine(POINT, "neither the default route nor your session is on it"),
    };
    if patient.settings.is_some_and(|settings| settings.takeover) {
        return Finding::warning(
            POINT,
            format!("{text}, and is to be taken over"),
            "have another way in, such as a console",
        );
    }
    Finding::problem(
        POINT,
        format!("{text}: `sluice run` refuses it"),
        "another device, and this one for management; or takeover = true in its interface",
    )
}
