//! The sessions and hosts that move the most, as listings have them.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_dataplane::inspect::{Row, SessionRow};
use sluice_dataplane::session::{By, Rates};

/// Sessions with what they move, of all workers, the largest first.
pub(crate) fn largest(rows: Vec<Row>, by: By, limit: usize) -> Vec<(SessionRow, Rates)> {
    let session = |row| if let Row::Top(session, rates) = row { Some((session, rates)) } else { None };
    let mut sessions: Vec<_> = rows.into_iter().filter_map(session).collect();
    sessions.sort_by_key(|(_, rates)| std::cmp::Reverse(weight(rates, by)));
    sessions.truncate(limit);
    sessions
}

fn weight(rates: &Rates, by: By) -> u64 {
    match by {
        By::Bits => rates.bytes.iter().sum(),
        By::Packets => rates.packets.iter().sum(),
    }
}

/// What a session moves.
pub(crate) fn rates(rates: &Rates) -> [(&'static str, Value); 4] {
    [
        ("bits_per_second", (8 * rates.bytes.iter().sum::<u64>()).into()),
        ("packets_per_second", rates.packets.iter().sum::<u64>().into()),
        ("bits_per_second_by_direction", json!(rates.bytes.map(|bytes| 8 * bytes))),
        ("packets_per_second_by_direction", json!(rates.packets)),
    ]
}

/// Hosts that began the sessions, with what all of these move, the largest first.
pub(crate) fn hosts(sessions: &[(SessionRow, Rates)], by: By, limit: usize) -> Value {
    let mut hosts: HashMap<IpAddr, (u64, Rates)> = HashMap::new();
    for (session, rates) in sessions {
        let [forward, reply] = &session.flows;
        let host = forward.map(|flow| flow.src).or(reply.map(|flow| flow.dst));
        let Some(host) = host else { continue };
        let (count, sum) = hosts.entry(host).or_default();
        *count += 1;
        for direction in 0..2 {
            sum.bytes[direction] += rates.bytes[direction];
            sum.packets[direction] += rates.packets[direction];
        }
    }
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(host, (_, rates))| (std::cmp::Reverse(weight(rates, by)), *host));
    let row = |(host, (flows, rates)): &(IpAddr, (u64, Rates))| {
        json!({
            "host": host.to_string(),
            "flows": flows,
            "sent_bits_per_second": 8 * rates.bytes[0],
            "received_bits_per_second": 8 * rates.bytes[1],
            "sent_packets_per_second": rates.packets[0],
            "received_packets_per_second": rates.packets[1],
        })
    };
    hosts.iter().take(limit).map(row).collect()
}
