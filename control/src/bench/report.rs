//! What was measured.

use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;

use super::churn::NewFlows;
use super::options::{Feature, Order, Protocol};

/// Figures of one run. The names are those of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Million packets per second that one core takes through, at [`ns_per_packet`](Self::ns_per_packet).
    pub mpps: f64,
    /// Nanoseconds per packet.
    pub ns_per_packet: f64,
    /// TSC cycles per packet, from a burst's arrival to its hand-over for transmission. The run is timed in pieces, and
    /// this, as the figures derived from it and those of stages, is their median.
    pub cycles_per_packet: f64,
    /// The mean of the same, with what the kernel and other processes took from the core.
    pub cycles_per_packet_mean: f64,
    /// TSC cycles per packet that went into making the traffic; in no other figure.
    pub generator_cycles_per_packet: f64,
    /// Flows.
    pub flows: u32,
    /// Packets measured.
    pub packets: u64,
    /// TSC cycles per packet by stage, of a pass of its own: reading the counter around each stage costs a little.
    pub stages: IndexMap<&'static str, f64>,
    /// Bytes of each frame, with FCS.
    pub frame_size: u16,
    /// What the gateway did.
    pub features: Vec<Feature>,
    /// Rules in the ACL; 0 without one.
    pub acl_rules: u32,
    /// Order of the flows' packets.
    pub order: Order,
    /// Seed.
    pub seed: u64,
    /// The core that it ran on.
    pub core: usize,
    /// TSC cycles per second.
    pub tsc_hz: u64,
    /// Nanoseconds for a flow's first packet, which makes its session.
    pub first_packets_ns: f64,
    /// Memory of flows, sessions and NAT bindings, bytes per flow: all that is reserved, for both families.
    pub bytes_per_flow: f64,
    /// Memory of flows and sessions of the family in use, bytes per flow and direction.
    pub bytes_per_direction: f64,
    /// Memory of NAT bindings and port blocks, bytes per flow.
    pub nat_bytes_per_flow: f64,
    /// Version of IP.
    pub family: u8,
    /// What the packets carried.
    pub protocol: Protocol,
    /// Whether every second burst was of replies.
    pub both_directions: bool,
    /// Whether all was watched that can be.
    pub observed: bool,
    /// What pages the packet buffers lie in: huge, transparent or ordinary.
    pub frame_pages: &'static str,
    /// What new sessions cost, with `--new-flows-per-second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_flows: Option<NewFlows>,
    /// Packets dropped: none, or the run fails.
    pub drops: u64,
    /// Whether every packet is accounted for: it is, or the run fails.
    pub conserved: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let features = self.features.iter().map(Feature::to_string).collect::<Vec<_>>().join(", ");
        writeln!(
            f,
            "{} packets of {} bytes, {} flows, {} order",
            self.packets, self.frame_size, self.flows, self.order
        )?;
        write!(f, "{features}")?;
        if self.acl_rules > 0 {
            write!(f, " ({} ACL rules)", self.acl_rules)?;
        }
        if self.observed {
            write!(f, ", watched in every way")?;
        }
        writeln!(f, "; core {}, TSC {:.3} GHz", self.core, self.tsc_hz as f64 / 1e9)?;
        if cfg!(debug_assertions) {
            writeln!(f, "an unoptimised build: the figures say little")?;
        }
        writeln!(f)?;
        writeln!(f, "{:>10.2} Mpps on one core", self.mpps)?;
        writeln!(f, "{:>10.2} ns per packet", self.ns_per_packet)?;
        let mean = self.cycles_per_packet_mean;
        writeln!(
            f,
            "{:>10.2} cycles per packet (mean {mean:.2}, with what else ran on the core)",
            self.cycles_per_packet
        )?;
        for (stage, cycles) in &self.stages {
            writeln!(f, "{cycles:>14.2} {stage}")?;
        }
        writeln!(
            f,
            "{:>10.2} cycles per packet for making the traffic, not counted above",
            self.generator_cycles_per_packet
        )?;
        writeln!(f, "{:>10.0} ns for a flow's first packet", self.first_packets_ns)?;
        writeln!(f, "{:>10.0} bytes of memory per flow and direction", self.bytes_per_direction)?;
        writeln!(f, "{:>10.0} bytes of memory per flow for NAT", self.nat_bytes_per_flow)?;
        writeln!(
            f,
            "{:>10.0} bytes of memory per flow in all, with what IPv4 and IPv6 keep free for each other",
            self.bytes_per_flow
        )?;
        match &self.new_flows {
            Some(new_flows) => write!(f, "\n{new_flows}"),
            None => Ok(()),
        }
    }
}
