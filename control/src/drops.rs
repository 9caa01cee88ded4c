//! Why packets died, for people: `sluice show drops`.

use serde_json::{Value, json};
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::inspect::Row;
use sluice_dataplane::recorder::Dropped;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;

use crate::words;

/// Drops by reason as they were twice, a second apart or more, from which follows how fast they come.
#[derive(Debug, Default)]
pub struct Rates {
    samples: [(Nanos, Vec<u64>); 2],
}

impl Rates {
    /// Looks at the counts of now; to be called once a second, or oftener.
    pub fn sample(&mut self, now: Nanos, drops: &[u64]) {
        let [older, newer] = &mut self.samples;
        if now.saturating_sub(newer.0) >= SECOND || newer.1.is_empty() {
            std::mem::swap(older, newer);
            *newer = (now, drops.to_vec());
        }
    }

    /// Packets a second of a reason since a second or two ago; none if that is not known yet.
    fn of(&self, reason: DropReason, count: u64, now: Nanos) -> Option<f64> {
        let past = |(at, drops): &(Nanos, Vec<u64>)| {
            let before = *drops.get(reason as usize)?;
            let time = now.checked_sub(*at).filter(|time| *time >= SECOND / 2)?;
            Some(count.saturating_sub(before) as f64 * SECOND as f64 / time as f64)
        };
        let [older, newer] = &self.samples;
        past(older).or_else(|| past(newer))
    }
}

/// The reasons of which any packet died, those with the most first. `rows` has what the workers have recorded.
pub fn show(snapshot: &Snapshot, drops: &[u64], rows: &[Row], rates: &Rates, now: Nanos) -> Value {
    let count = |reason: DropReason| drops.get(reason as usize).copied().unwrap_or(0);
    let recorded = |row: &Row| if let Row::Dropped(packet) = row { Some(*packet) } else { None };
    let mut packets: Vec<Dropped> = rows.iter().filter_map(recorded).collect();
    packets.sort_by_key(|packet| std::cmp::Reverse(packet.at));
    let mut reasons: Vec<DropReason> =
        DropReason::ALL.iter().copied().filter(|&reason| count(reason) > 0).collect();
    reasons.sort_by_key(|&reason| std::cmp::Reverse(count(reason)));
    let row = |reason: DropReason| {
        let last = packets.iter().filter(|packet| packet.reason == reason);
        let last: Vec<Value> = last.map(|packet| of_packet(packet, snapshot, now)).collect();
        json!({
            "reason": reason.name(),
            "packets": count(reason),
            "packets_per_second": rates.of(reason, count(reason), now).map(|rate| (rate * 10.0).round() / 10.0),
            "meaning": reason.describe(),
            "advice": reason.advice(),
            "last": last,
        })
    };
    reasons.into_iter().map(row).collect()
}

fn of_packet(packet: &Dropped, snapshot: &Snapshot, now: Nanos) -> Value {
    let inner = snapshot.is_inner(packet.port);
    let port = snapshot.ports.get(usize::from(snapshot.physical(packet.port)));
    // The indices of another configuration may mean other rules.
    let rule =
        snapshot.rules.get(usize::from(packet.rule)).filter(|_| packet.generation == snapshot.generation);
    json!({
        "packet": words::summary(packet.bytes()),
        "port": port.filter(|_| packet.port != u16::MAX).map(|port| port.name.as_str()),
        "hairpin": (inner && packet.port != u16::MAX).then_some(true),
        "rule": rule.map(|rule| format!("{}/{}", rule.acl, rule.name)),
        "rule_text": rule.map(|rule| rule.text.as_str()),
        "seconds_ago": now.saturating_sub(packet.at) as f64 / SECOND as f64,
        "generation": packet.generation,
        "frame_bytes": packet.len,
        "first_bytes": packet.bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    })
}

/// The listing on a terminal: each reason in two lines, and its last packet.
pub fn render(reasons: &[Value]) -> String {
    if reasons.is_empty() {
        return "no packet has been dropped\n".to_owned();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    for reason in reasons {
        let rate = reason["packets_per_second"].as_f64().map(|rate| format!(", {rate:.1}/s"));
        out.push_str(&format!(
            "{}  {} packets{}\n  what   {}\n  do     {}\n",
            text(&reason["reason"]),
            reason["packets"],
            rate.unwrap_or_default(),
            text(&reason["meaning"]),
            text(&reason["advice"]),
        ));
        if let Some(last) = reason["last"].get(0) {
            let port = last["port"].as_str().map(|port| format!(" in {port}"));
            let rule =
                last["rule"].as_str().map(|rule| format!(", rule {rule}: {}", text(&last["rule_text"])));
            out.push_str(&format!(
                "  last   {:.1} s ago{}: {}{}\n",
                last["seconds_ago"].as_f64().unwrap_or(0.0),
                port.unwrap_or_default(),
                text(&last["packet"]),
                rule.unwrap_or_default(),
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_second_or_two() {
        let mut rates = Rates::default();
        let mut drops = vec![0; DropReason::COUNT];
        assert_eq!(rates.of(DropReason::Runt, 5, SECOND), None);
        for second in 1..=3 {
            drops[DropReason::Runt as usize] = second * 100;
            rates.sample(second * SECOND, &drops);
            rates.sample(second * SECOND + 1, &drops);
        }
        assert_eq!(rates.of(DropReason::Runt, 300, 3 * SECOND), Some(100.0));
        assert_eq!(rates.of(DropReason::Runt, 300, 4 * SECOND), Some(50.0));
    }

    #[test]
    fn reasons_stand_in_the_order_of_their_counts_with_what_to_do() {
        let mut drops = vec![0; DropReason::COUNT];
        drops[DropReason::NoRoute as usize] = 3;
        drops[DropReason::AclDeny as usize] = 30;
        let value = show(&Snapshot::default(), &drops, &[], &Rates::default(), 0);
        let reasons = value.as_array().unwrap();
        assert_eq!((&reasons[0]["reason"], &reasons[1]["packets"]), (&json!("acl_deny"), &json!(3)));
        let text = render(reasons);
        assert!(text.contains("acl_deny  30 packets") && text.contains("Add a route"), "{text}");
        assert!(render(&[]).contains("no packet"));
    }
}
