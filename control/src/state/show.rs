//! What `sluice show` lists.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use serde_json::{Value, json};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::inspect::{FlowRow, Question, Row, SessionRow};
use sluice_dataplane::local::neighbor;
use sluice_dataplane::nat::NatLog;
use sluice_dataplane::port::af_xdp::DeviceControl;
use sluice_dataplane::session::FlowAction;
use sluice_dataplane::snapshot::{Allocation, NONE16, Pool, Snapshot};
use sluice_dataplane::stage::shape::ClassRow;

use super::{State, Topic};
use crate::config::protocol_name;
use crate::{drops, figures, nat_view, qos_view};

impl State {
    /// Answers.
    pub fn show(&self, topic: Topic) -> Result<Value, String> {
        let current = self.current();
        let (snapshot, counters) = (&*current.snapshot, current.counters());
        let rows = |rows: Vec<Row>| rows.iter().map(|row| Self::row(row, snapshot)).collect::<Value>();
        Ok(match topic {
            Topic::Counters => {
                let mut figures = figures::counters(snapshot, &self.with_kernel(counters.clone()));
                figures["generation"] = snapshot.generation.into();
                figures["sessions_ended_by_policy"] = counters.sessions_ended_by_policy.into();
                figures["sessions_evicted"] = counters.sessions_evicted.into();
                let exporters = self.exports();
                if !exporters.is_empty() {
                    figures["export"] = json!({
                        "flow_records": counters.flows_recorded,
                        "flow_records_lost": counters.flows_unrecorded,
                        "packet_samples": counters.samples,
                        "packet_samples_lost": counters.samples_lost,
                        "exporters": exporters,
                    });
                }
                figures
            }
            Topic::Acl => figures::rules(snapshot, &counters),
            Topic::Limits => figures::limits(snapshot, &counters),
            Topic::Qos => {
                let now = self.watch.now();
                let rows = self.list(Question::Classes)?.into_iter();
                let classes: Vec<ClassRow> =
                    rows.filter_map(|row| if let Row::Class(row) = row { Some(row) } else { None }).collect();
                qos_view::show(snapshot, &classes, now)
            }
            Topic::Accounting => self.accounting().show(snapshot),
            Topic::Workers => self.workers(),
            Topic::Routes => self.routes(None)?,
            Topic::Interfaces => self.interfaces(&self.with_kernel(counters), snapshot),
            Topic::Flows => rows(self.list(Question::Sessions)?),
            Topic::Drops => {
                let last = self.list(Question::Drops)?;
                let now = self.watch.now();
                let mut rates = self.drop_rates.lock().unwrap_or_else(PoisonError::into_inner);
                rates.sample(now, &counters.drops);
                drops::show(snapshot, &counters.drops, &last, &rates, now)
            }
            Topic::Neighbors => rows(merged(self.list(Question::Neighbors)?)),
            Topic::Nat => self.nat(snapshot, &counters)?,
        })
    }

    fn nat(&self, snapshot: &Snapshot, counters: &Counters) -> Result<Value, String> {
        let rows = |rows: &[Row]| rows.iter().map(|row| Self::row(row, snapshot)).collect::<Value>();
        let bindings = self.list(Question::Bindings)?;
        let blocks = self.list(Question::Blocks)?;
        let mut nat = json!({
            "pools": nat_view::pools(snapshot, &bindings, &blocks),
            "external": rows(&merged(self.list(Question::Externals)?)),
        });
        let has_blocks = |pool: &Pool| matches!(pool.allocation, Allocation::Blocks(_));
        if snapshot.pools.iter().any(has_blocks) {
            nat["blocks"] = rows(&blocks);
        }
        let subscribers = self.list(Question::Subscribers)?;
        if !subscribers.is_empty() {
            nat["subscribers"] = rows(&merged(subscribers));
        }
        nat["bindings"] = rows(&bindings);
        if snapshot.nat_log != NatLog::Off {
            nat["log"] = json!(self.nat_log());
            nat["log_records"] = counters.nat_recorded.into();
            nat["log_records_lost"] = counters.nat_unrecorded.into();
        }
        Ok(nat)
    }

    /// The map of workers, with how the loop of each goes.
    fn workers(&self) -> Value {
        let mut vitals = self.watch.vitals().into_iter();
        let row = |row| {
            let mut row = json!(row);
            if let (Value::Object(row), Some(vitals)) = (&mut row, vitals.next()) {
                if let Value::Object(vitals) = json!(vitals) {
                    row.extend(vitals);
                }
            }
            row
        };
        self.plan.rows().into_iter().map(row).collect()
    }

    pub(super) fn row(row: &Row, snapshot: &Snapshot) -> Value {
        match row {
            Row::Session(session) => Self::session(session, snapshot),
            Row::Binding(binding, inside6, left) => {
                let mut row = json!({
                "protocol": protocol(binding.protocol),
                "inside": match inside6 {
                    Some(host) => endpoint(*host, binding.inside.1),
                    None => endpoint(std::net::Ipv4Addr::from_bits(binding.inside.0), binding.inside.1),
                },
                "external": endpoint(std::net::Ipv4Addr::from_bits(binding.external.0), binding.external.1),
                "sessions": binding.sessions,
                });
                if !snapshot.port_control.rules.is_empty() {
                    row["asked_for"] = left.is_some().into();
                    row["lifetime_seconds"] = left.map(|left| left / 1_000_000_000).into();
                }
                row
            }
            Row::External(address, [tcp, udp, icmp]) => json!({
                "address": address.to_string(),
                "tcp_ports_used": tcp,
                "udp_ports_used": udp,
                "icmp_identifiers_used": icmp,
            }),
            Row::Block(block) => nat_view::block(block),
            Row::Subscriber(subscriber) => nat_view::subscriber(subscriber),
            Row::Neighbor(neighbor) => json!({
                "interface": name(snapshot, neighbor.interface),
                "address": neighbor.address.to_string(),
                "mac": neighbor.mac.map(|mac| mac.to_string()),
                "state": neighbor.state.name(),
                "packets_held": neighbor.held,
            }),
            Row::Class(_)
            | Row::Octets(..)
            | Row::Dropped(_)
            | Row::Top(..)
            | Row::Copy(_)
            | Row::First(_)
            | Row::End => Value::Null,
        }
    }

    pub(super) fn session(session: &SessionRow, snapshot: &Snapshot) -> Value {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let way = |flow: &FlowRow, other: Option<&FlowRow>| {
            let nat = flow.action.is(FlowAction::NAT).then(|| Self::translated(flow, other));
            let rule = snapshot.rules.get(usize::from(flow.action.rule));
            json!({
                "in": name(snapshot, flow.key.interface),
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
        let [forward, reply] = [0, 1].map(|direction| session.flows[direction].as_ref());
        let protocol_number =
            session.flows.iter().flatten().map(|flow| flow.key.protocol).next().unwrap_or(0);
        json!({
            "protocol": protocol(protocol_number),
            "state": session.state.name(),
            "age_seconds": seconds(session.age),
            "forward": forward.map(|flow| way(flow, reply)),
            "reply": reply.map(|flow| way(flow, forward)),
        })
    }

    /// The ends that a flow's packets leave with. Those of IPv4 that become IPv6 stand at the session's other flow.
    fn translated(flow: &FlowRow, other: Option<&FlowRow>) -> Value {
        let (new, ports) = (&flow.action.new, flow.key.ports);
        let ends: [(IpAddr, u16); 2] = match other {
            Some(other) if flow.action.is(FlowAction::TO_V6) => {
                [(other.dst, other.key.ports.1), (other.src, other.key.ports.0)]
            }
            _ if flow.action.is(FlowAction::SOURCE6) => [(new.v6().into(), ports.0), (flow.dst, ports.1)],
            _ if flow.action.is(FlowAction::DESTINATION6) => {
                [(flow.src, ports.0), (new.v6().into(), ports.1)]
            }
            _ => {
                [(new.source().into(), new.source_port()), (new.destination().into(), new.destination_port())]
            }
        };
        let [source, destination] = ends.map(|(address, port)| endpoint(address, port));
        json!({ "source": source, "destination": destination })
    }

    fn interfaces(&self, counters: &Counters, snapshot: &Snapshot) -> Value {
        let rows = snapshot.interfaces.iter().enumerate().map(|(index, interface)| {
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
                "port": snapshot.ports.get(port).map(|port| port.name.as_str()),
                "device": info.map(|info| info.device.as_str()),
                "vlan": &interface.tags.ids[..usize::from(interface.tags.count)],
                "mac": interface.mac.to_string(),
                "mtu": interface.mtu,
                "addresses": addresses.collect::<Vec<_>>(),
            });
            if let Some(Value::Object(followed)) = self.uplinks.as_ref().and_then(|ledger| ledger.show(index))
            {
                followed.into_iter().for_each(|(key, value)| row[key.as_str()] = value);
            }
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
                    snapshot.ports.get(port).is_some_and(|port| port.complete_checksums).into();
                row["rx_packets"] = count.rx.packets.into();
                row["rx_bytes"] = count.rx.bytes.into();
                row["tx_packets"] = count.tx.packets.into();
                row["tx_bytes"] = count.tx.bytes.into();
                row["left_to_kernel_packets"] = (passed.matched.packets + passed.no_socket.packets).into();
                row["blocked_in_xdp_packets"] = passed.blocked.packets.into();
                row["kernel_rx_dropped"] = drops.rx_dropped.into();
                row["kernel_rx_ring_full"] = drops.rx_ring_full.into();
                row["kernel_fill_ring_empty"] = drops.fill_ring_empty.into();
            }
            row
        });
        rows.collect()
    }
}

fn name(snapshot: &Snapshot, interface: u16) -> Option<&str> {
    snapshot.interfaces.get(usize::from(interface)).map(|i| i.name.as_str())
}

/// What several workers know of one neighbour, or use of one external address, as one row.
fn merged(rows: Vec<Row>) -> Vec<Row> {
    let mut merged: Vec<Row> = Vec::with_capacity(rows.len());
    let mut places = HashMap::new();
    for row in rows {
        let key = match &row {
            Row::Neighbor(neighbor) => (Some(neighbor.interface), neighbor.address),
            Row::External(address, _) => (None, IpAddr::V4(*address)),
            Row::Subscriber(subscriber) => (subscriber.pool, subscriber.inside),
            _ => {
                merged.push(row);
                continue;
            }
        };
        let place = *places.entry(key).or_insert(merged.len());
        match (merged.get_mut(place), row) {
            (Some(Row::Neighbor(known)), Row::Neighbor(other)) => {
                let held = known.held.saturating_add(other.held);
                if certainty(other.state) > certainty(known.state) {
                    *known = other;
                }
                known.held = held;
            }
            (Some(Row::External(_, sum)), Row::External(_, used)) => {
                sum.iter_mut().zip(used).for_each(|(sum, used)| *sum += used);
            }
            (Some(Row::Subscriber(sum)), Row::Subscriber(other)) => {
                sum.sessions += other.sessions;
                sum.ports += other.ports;
                sum.blocks += other.blocks;
            }
            (_, row) => merged.push(row),
        }
    }
    merged
}

/// Of two workers' views of a neighbour, the one that tells more.
fn certainty(state: neighbor::State) -> u8 {
    match state {
        neighbor::State::Reachable => 4,
        neighbor::State::Probe => 3,
        neighbor::State::Stale => 2,
        neighbor::State::Failed => 1,
        neighbor::State::Incomplete => 0,
    }
}

fn protocol(number: u8) -> String {
    protocol_name(number)
}

/// `address:port`, IPv6 in brackets; without ports (or for the answering side of a ping) the address alone.
pub(crate) fn endpoint(address: impl Into<IpAddr>, port: u16) -> String {
    let address = address.into();
    if port == 0 { address.to_string() } else { std::net::SocketAddr::new(address, port).to_string() }
}

#[cfg(test)]
mod tests {
    use sluice_dataplane::local::neighbor::{Neighbor, State};
    use sluice_pkt::ethernet::Mac;

    use super::*;

    #[test]
    fn workers_views_of_one_neighbor_become_one() {
        let row = |interface, last, state, mac: Option<u8>, held| {
            let mac = mac.map(|byte| Mac([byte; 6]));
            let address = IpAddr::from([192, 0, 2, last]);
            Row::Neighbor(Neighbor { interface, address, mac, state, since: 0, held })
        };
        let rows = merged(vec![
            row(0, 1, State::Incomplete, None, 2),
            row(1, 1, State::Stale, Some(7), 0),
            row(0, 1, State::Reachable, Some(9), 1),
            row(0, 1, State::Stale, Some(8), 0),
        ]);
        let [Row::Neighbor(first), Row::Neighbor(second)] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(
            (first.interface, first.state, first.mac, first.held),
            (0, State::Reachable, Some(Mac([9; 6])), 3)
        );
        assert_eq!((second.interface, second.state, second.mac), (1, State::Stale, Some(Mac([7; 6]))));
    }

    #[test]
    fn ports_in_use_are_added_up() {
        let row = |last, used| Row::External([203, 0, 113, last].into(), used);
        let rows =
            merged(vec![row(1, [1, 2, 3]), row(2, [5, 0, 0]), row(1, [10, 20, 30]), row(2, [0, 1, 0])]);
        let [Row::External(_, first), Row::External(_, second)] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((first, second), (&[11, 22, 33], &[5, 1, 0]));
    }
}
