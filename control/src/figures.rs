//! Counters as JSON, in the one shape that replay, a running gateway and golden cases share.

use serde_json::{Map, Value, json};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::nat::NatLog;
use sluice_dataplane::snapshot::{Per, Snapshot};
use sluice_dataplane::table::tcm::model::Model;
use sluice_dataplane::verdict::DropReason;

/// The counters of a data plane that runs this snapshot.
pub fn counters(snapshot: &Snapshot, counters: &Counters) -> Value {
    let ports = snapshot.ports.iter().zip(&counters.ports).map(|(port, count)| {
        let figures = json!({
            "rx_packets": count.rx.packets,
            "rx_bytes": count.rx.bytes,
            "tx_packets": count.tx.packets,
            "tx_bytes": count.tx.bytes,
        });
        (port.name.clone(), figures)
    });
    let drops = DropReason::ALL.iter().zip(&counters.drops);
    let drops: Map<String, Value> = drops.map(|(reason, &n)| (reason.name().into(), n.into())).collect();
    let mut figures = json!({
        "ports": ports.collect::<Map<String, Value>>(),
        "drops": drops,
        "punted": counters.punted,
        "held": counters.held,
        "originated": counters.originated,
        "split_extra": counters.split_extra,
        "conserved": counters.conserved(),
        "icmp_suppressed": counters.icmp_suppressed,
        "sessions": counters.sessions,
        "sessions_created": counters.sessions_created,
        "sessions_ended": counters.sessions_ended,
        "nat_bindings": counters.bindings,
    });
    if snapshot.nat_log != NatLog::Off {
        figures["nat_log"] =
            json!({ "records": counters.nat_recorded, "records_lost": counters.nat_unrecorded });
    }
    if !snapshot.port_control.rules.is_empty() {
        figures["port_control"] = json!({
            "requests": counters.port_control_requests,
            "refused": counters.port_control_refused,
            "mappings": counters.leases,
        });
    }
    if counters.workers > 1 {
        if let Some(figures) = figures.as_object_mut() {
            figures.insert("crossing".into(), crossing(counters));
        }
    }
    figures
}

/// What several workers had to do with each other.
fn crossing(counters: &Counters) -> Value {
    json!({
        "workers": counters.workers,
        "crossed": counters.crossed,
        "parked": counters.parked,
        "notices": counters.notices,
        "notices_lost": counters.notices_lost,
        "copies": counters.copies,
    })
}

/// The rules of all ACLs with their hits.
pub fn rules(snapshot: &Snapshot, counters: &Counters) -> Value {
    let rows = snapshot.rules.iter().zip(&counters.rules).map(|(rule, hits)| {
        json!({
            "acl": rule.acl,
            "name": rule.name,
            "rule": rule.text,
            "packets": hits.packets,
            "bytes": hits.bytes,
        })
    });
    rows.collect()
}

/// The limits with what they let pass.
pub fn limits(snapshot: &Snapshot, counters: &Counters) -> Value {
    let rows = snapshot.limits.iter().zip(&counters.limits).map(|(limit, count)| {
        let mut row = json!({
            "name": limit.name,
            "interface": snapshot.interfaces.get(usize::from(limit.interface)).map(|i| i.name.as_str()),
            "direction": if limit.egress { "out" } else { "in" },
        });
        let mut add = |key: &str, value: Value| row[key] = value;
        let policer = limit.policer.unwrap_or_default();
        let (rate, burst, tokens_of) = if policer.packets {
            ("packets_per_second", "packets", 8)
        } else {
            ("bits_per_second", "bytes", 1)
        };
        add(&format!("rate_{rate}"), (limit.rate.bits_per_second / tokens_of).into());
        add(&format!("burst_{burst}"), limit.burst.into());
        if policer.second_burst > 0 {
            let (model, second) = match policer.model {
                Model::SingleRate => ("srtcm", "excess"),
                Model::TwoRate => ("trtcm", "peak"),
                Model::ExcessRate => ("rfc4115", "excess"),
            };
            add("model", model.into());
            if policer.model != Model::SingleRate {
                add(
                    &format!("{second}_rate_{rate}"),
                    (policer.second_rate.bits_per_second / tokens_of).into(),
                );
            }
            add(&format!("{second}_burst_{burst}"), policer.second_burst.into());
        }
        add("passed_packets", count.passed.packets.into());
        add("passed_bytes", count.passed.bytes.into());
        add("dropped_packets", count.dropped.packets.into());
        add("dropped_bytes", count.dropped.bytes.into());
        if limit.policer.is_some() {
            for (color, count) in ["green", "yellow", "red"].iter().zip(&count.colors) {
                add(&format!("{color}_packets"), count.packets.into());
                add(&format!("{color}_bytes"), count.bytes.into());
            }
        }
        if let Some(per) = policer.per {
            let prefix = |of: &str, [v4, v6]: [u8; 2]| format!("{of}/{v4}/{v6}");
            let per = match per {
                Per::Source(lengths) => prefix("source", lengths),
                Per::Destination(lengths) => prefix("destination", lengths),
                Per::Flow => "flow".into(),
            };
            add("per", per.into());
            add("meters", count.meters.into());
            add("meters_forgotten", count.forgotten.into());
        }
        row
    });
    rows.collect()
}
