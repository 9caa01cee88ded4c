use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

/// Where it is told what passes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Flows, to an IPFIX collector.
    pub ipfix: Option<IpfixExport>,
    /// Samples of packets and counters, to an sFlow collector.
    pub sflow: Option<SflowExport>,
}

/// Flows to an IPFIX collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpfixExport {
    /// The collector.
    pub collector: SocketAddr,
    /// How it is reached.
    pub transport: Transport,
    /// Observation domain.
    pub domain: u32,
    /// A session that goes on is reported so often.
    pub active_timeout: Duration,
    /// One without packets is reported after so long.
    pub idle_timeout: Duration,
}

/// How a collector is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP.
    #[default]
    Udp,
    /// TCP.
    Tcp,
}

/// Samples and counters to an sFlow collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SflowExport {
    /// The collector, over UDP.
    pub collector: SocketAddr,
    /// The address that the collector knows the gateway by; that of the socket if there is none.
    pub agent: Option<IpAddr>,
    /// One of so many packets is sampled.
    pub sampling: u32,
    /// How often counters are sent.
    pub counters: Duration,
}
