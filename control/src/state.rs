//! What a running gateway can be asked, answered as JSON.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_dataplane::counters::{Counters, Reader};
use sluice_dataplane::inspect::{FlowRow, Inspector, Question, Row, SessionRow};
use sluice_dataplane::port::af_xdp::DeviceControl;
use sluice_dataplane::session::FlowAction;
use sluice_dataplane::snapshot::{NONE16, Snapshot};

use crate::config::protocol_name;
use crate::figures;
use crate::plan::Plan;

/// How long a worker may take for a listing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topic of `sluice show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Packets and bytes by port, drops by reason, conservation
    Counters,
    /// Live sessions, both directions
    Flows,
    /// NAT bindings, external addresses and their ports in use
    Nat,
    /// ACL rules with their hits
    Acl,
    /// Interfaces: device, XDP mode, addresses, counters
    Interfaces,
    /// Neighbours (ARP and ND)
    Neighbors,
    /// The route table
    Routes,
    /// Limits with what they passed and dropped
    Limits,
    /// Workers: core, NUMA node, the receive queues that they own
    Workers,
}

/// A running gateway, seen from the control side.
pub struct State {
    snapshot: Arc<Snapshot>,
    counters: Reader,
    inspector: Mutex<Option<Inspector>>,
    devices: Vec<DeviceControl>,
    plan: Plan,
}

impl State {
    /// Of one worker, its devices in the order of the snapshot's ports, and the map of workers.
    pub fn new(
        snapshot: Arc<Snapshot>,
        counters: Reader,
        inspector: Option<Inspector>,
        devices: Vec<DeviceControl>,
        plan: Plan,
    ) -> Self {
        Self { snapshot, counters, inspector: Mutex::new(inspector), devices, plan }
    }

    /// The devices, in the order of the ports.
    pub fn devices(&self) -> &[DeviceControl] {
        &self.devices
    }

    /// Adds what the XDP program left to the kernel: received, and punted.
    pub fn with_kernel(&self, mut counters: Counters) -> Counters {
        for (port, device) in counters.ports.iter_mut().zip(&self.devices) {
            let passed = device.passed();
            for count in [passed.matched, passed.no_socket] {
                port.rx.packets += count.packets;
                port.rx.bytes += count.bytes;
                counters.punted += count.packets;
            }
        }
        counters
    }

    /// Answers.
    pub fn show(&self, topic: Topic) -> Result<Value, String> {
        let counters = self.counters.read();
        Ok(match topic {
            Topic::Counters => figures::counters(&self.snapshot, &self.with_kernel(counters)),
            Topic::Acl => figures::rules(&self.snapshot, &counters),
            Topic::Limits => figures::limits(&self.snapshot, &counters),
            Topic::Workers => json!(self.plan.rows()),
            Topic::Routes => figures::routes(&self.snapshot),
            Topic::Interfaces => self.interfaces(&self.with_kernel(counters)),
            Topic::Flows => self.list(Question::Sessions)?.iter().map(|row| self.row(row)).collect(),
            Topic::Neighbors => self.list(Question::Neighbors)?.iter().map(|row| self.row(row)).collect(),
            Topic::Nat => json!({
                "external": self.list(Question::Externals)?.iter().map(|row| self.row(row)).collect::<Value>(),
                "bindings": self.list(Question::Bindings)?.iter().map(|row| self.row(row)).collect::<Value>(),
            }),
        })
    }

    fn list(&self, question: Question) -> Result<Vec<Row>, String> {
        let mut inspector = self.inspector.lock().unwrap_or_else(PoisonError::into_inner);
        let inspector = inspector.as_mut().ok_or("this gateway has no worker to ask")?;
        let mut rows = Vec::new();
        let complete = inspector.ask(question, PATIENCE, |row| rows.push(row));
        if complete {
            Ok(rows)
        } else {
            Err("the worker did not answer in time; is it starved of its core?".into())
        }
    }

    fn row(&self, row: &Row) -> Value {
        match row {
            Row::Session(session) => self.session(session),
            Row::Binding(binding) => json!({
                "protocol": protocol(binding.protocol),
                "inside": endpoint(std::net::Ipv4Addr::from_bits(binding.inside.0), binding.inside.1),
                "external": endpoint(std::net::Ipv4Addr::from_bits(binding.external.0), binding.external.1),
                "sessions": binding.sessions,
            }),
            Row::External(address, [tcp, udp, icmp]) => json!({
                "address": address.to_string(),
                "tcp_ports_used": tcp,
                "udp_ports_used": udp,
                "icmp_identifiers_used": icmp,
            }),
            Row::Neighbor(neighbor) => json!({
                "interface": self.name(neighbor.interface),
                "address": neighbor.address.to_string(),
                "mac": neighbor.mac.map(|mac| mac.to_string()),
                "state": neighbor.state.name(),
                "packets_held": neighbor.held,
            }),
            Row::End => Value::Null,
        }
    }

    fn session(&self, session: &SessionRow) -> Value {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let way = |flow: &FlowRow| {
            let nat = flow.action.is(FlowAction::NAT).then(|| {
                json!({
                    "source": endpoint(flow.action.new.source(), flow.action.new.source_port()),
                    "destination": endpoint(flow.action.new.destination(), flow.action.new.destination_port()),
                })
            });
            let rule = self.snapshot.rules.get(usize::from(flow.action.rule));
            json!({
                "in": self.name(flow.key.interface),
                "source": endpoint(flow.src, flow.key.ports.0),
                "destination": endpoint(flow.dst, flow.key.ports.1),
                "translated": nat,
                "rule": rule.filter(|_| flow.action.rule != NONE16).map(|rule| format!("{}/{}", rule.acl, rule.name)),
                "denied": flow.action.is(FlowAction::DENY | FlowAction::REJECT),
                "packets": flow.packets,
                "bytes": flow.bytes,
                "idle_seconds": seconds(flow.idle),
            })
        };
        let protocol_number =
            session.flows.iter().flatten().map(|flow| flow.key.protocol).next().unwrap_or(0);
        json!({
            "protocol": protocol(protocol_number),
            "state": session.state.name(),
            "age_seconds": seconds(session.age),
            "forward": session.flows[0].as_ref().map(way),
            "reply": session.flows[1].as_ref().map(way),
        })
    }

    fn interfaces(&self, counters: &Counters) -> Value {
        let rows = self.snapshot.interfaces.iter().map(|interface| {
            let port = usize::from(interface.port);
            let is_port = interface.tags.count == 0;
            let device = self.devices.get(port);
            let info = device.map(DeviceControl::info);
            let info = info.as_ref();
            let addresses = interface.v4.iter().map(|(address, len)| format!("{address}/{len}"));
            let addresses =
                addresses.chain(interface.v6.iter().map(|(address, len)| format!("{address}/{len}")));
            let mut row = json!({
                "name": interface.name,
                "port": self.snapshot.ports.get(port).map(|port| port.name.as_str()),
                "device": info.map(|info| info.device.as_str()),
                "vlan": &interface.tags.ids[..usize::from(interface.tags.count)],
                "mac": interface.mac.to_string(),
                "mtu": interface.mtu,
                "addresses": addresses.collect::<Vec<_>>(),
            });
            if let (true, Some(device), Some(info)) = (is_port, device, info) {
                let drops = device.kernel_drops();
                let passed = device.passed();
                let count = counters.ports.get(port).copied().unwrap_or_default();
                row["driver"] = info.driver.clone().into();
                row["xdp"] = info.achieved().into();
                row["zero_copy_by_queue"] = device.zero_copy_by_queue().into();
                row["group"] = info.group.into();
                row["queues"] = info.queues.into();
                row["fallback"] = info.fallback.clone().into();
                row["completes_checksums"] =
                    self.snapshot.ports.get(port).is_some_and(|port| port.complete_checksums).into();
                row["rx_packets"] = count.rx.packets.into();
                row["rx_bytes"] = count.rx.bytes.into();
                row["tx_packets"] = count.tx.packets.into();
                row["tx_bytes"] = count.tx.bytes.into();
                row["left_to_kernel_packets"] = (passed.matched.packets + passed.no_socket.packets).into();
                row["kernel_rx_dropped"] = drops.rx_dropped.into();
                row["kernel_rx_ring_full"] = drops.rx_ring_full.into();
                row["kernel_fill_ring_empty"] = drops.fill_ring_empty.into();
            }
            row
        });
        rows.collect()
    }

    fn name(&self, interface: u16) -> Option<&str> {
        self.snapshot.interfaces.get(usize::from(interface)).map(|i| i.name.as_str())
    }
}

fn protocol(number: u8) -> String {
    protocol_name(number)
}

/// `address:port`, IPv6 in brackets; without ports (or for the answering side of a ping) the address alone.
fn endpoint(address: impl Into<std::net::IpAddr>, port: u16) -> String {
    let address = address.into();
    if port == 0 { address.to_string() } else { std::net::SocketAddr::new(address, port).to_string() }
}
