//! Counters by their names, so that listings go on.

use std::collections::HashMap;

use super::{Saved, Tag, Writer};
use crate::adopt::carry;
use crate::counters::{Count, Counters};
use crate::snapshot::{AclAction, NONE16, RuleInfo, Snapshot};
use crate::verdict::DropReason;

/// Numbers that stand for themselves, by the names that they are saved under. Gauges are not among them.
fn singles(counters: &mut Counters) -> [(&'static str, &mut u64); 14] {
    [
        ("punted", &mut counters.punted),
        ("originated", &mut counters.originated),
        ("split_extra", &mut counters.split_extra),
        ("icmp_suppressed", &mut counters.icmp_suppressed),
        ("sessions_created", &mut counters.sessions_created),
        ("sessions_ended", &mut counters.sessions_ended),
        ("sessions_ended_by_policy", &mut counters.sessions_ended_by_policy),
        ("sessions_evicted", &mut counters.sessions_evicted),
        ("port_control_requests", &mut counters.port_control_requests),
        ("port_control_refused", &mut counters.port_control_refused),
        ("crossed", &mut counters.crossed),
        ("parked", &mut counters.parked),
        ("notices", &mut counters.notices),
        ("notices_lost", &mut counters.notices_lost),
    ]
}

pub(super) fn save(counters: &Counters, snapshot: &Snapshot, writer: &mut Writer) {
    let mut counters = counters.clone();
    writer.section(Tag::Counters);
    let mut number = |name: &str, value: u64| {
        if value != 0 {
            writer.record(|fields| _ = fields.bytes(name.as_bytes()).u64(value));
        }
    };
    for (name, value) in singles(&mut counters) {
        number(name, *value);
    }
    for (reason, &packets) in DropReason::ALL.iter().zip(&counters.drops) {
        number(&format!("drop {}", reason.name()), packets);
    }
    for (port, count) in snapshot.ports.iter().zip(&counters.ports) {
        for (way, Count { packets, bytes }) in [("rx", count.rx), ("tx", count.tx)] {
            number(&format!("port {} {way} packets", port.name), packets);
            number(&format!("port {} {way} bytes", port.name), bytes);
        }
    }
    for (list, &packets) in counters.blocked.iter().enumerate() {
        number(&format!("blocked {list}"), packets);
    }
    writer.section(Tag::Rules);
    for (rule, hits) in snapshot.rules.iter().zip(&counters.rules) {
        writer.record(|fields| {
            let RuleInfo { acl, name, text, action } = rule;
            fields.bytes(acl.as_bytes()).bytes(name.as_bytes()).bytes(text.as_bytes());
            fields.u8(*action as u8).u64(hits.packets).u64(hits.bytes);
        });
    }
}

/// A reason of another version that is none here is counted as `shutdown`, so that every packet stays accounted for.
pub(super) fn restore(saved: &Saved<'_>, snapshot: &Snapshot, counters: &mut Counters) {
    let numbers: HashMap<String, u64> =
        saved.section(Tag::Counters).map(|mut record| (record.text(), record.u64())).collect();
    let number = |name: &str| numbers.get(name).copied().unwrap_or(0);
    for (name, value) in singles(counters) {
        *value = number(name);
    }
    let mut left: u64 =
        numbers.iter().filter(|(name, _)| name.starts_with("drop ")).map(|(_, packets)| packets).sum();
    for (reason, packets) in DropReason::ALL.iter().zip(&mut counters.drops) {
        *packets = number(&format!("drop {}", reason.name()));
        left = left.saturating_sub(*packets);
    }
    counters.dropped(DropReason::Shutdown, left);
    for (port, count) in snapshot.ports.iter().zip(&mut counters.ports) {
        for (way, count) in [("rx", &mut count.rx), ("tx", &mut count.tx)] {
            count.packets = number(&format!("port {} {way} packets", port.name));
            count.bytes = number(&format!("port {} {way} bytes", port.name));
        }
    }
    for (list, packets) in counters.blocked.iter_mut().enumerate() {
        *packets = number(&format!("blocked {list}"));
    }
    let (mut rules, mut hits) = (Vec::new(), Vec::new());
    for mut record in saved.section(Tag::Rules) {
        let (acl, name, text) = (record.text(), record.text(), record.text());
        let action = match record.u8() {
            code if code == AclAction::Accept as u8 => AclAction::Accept,
            code if code == AclAction::Reject as u8 => AclAction::Reject,
            _ => AclAction::Drop,
        };
        rules.push(RuleInfo { acl, name, text, action });
        hits.push(Count { packets: record.u64(), bytes: record.u64() });
    }
    for (hits, index) in hits.into_iter().zip(carry::rules(&rules, &snapshot.rules)) {
        if let Some(rule) = counters.rules.get_mut(usize::from(index)).filter(|_| index != NONE16) {
            *rule = hits;
        }
    }
}
