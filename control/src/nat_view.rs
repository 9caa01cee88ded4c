//! NAT for people: its pools, and what is given out of them.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use sluice_dataplane::inspect::Row;
use sluice_dataplane::nat::{BlockRow, SubscriberRow};
use sluice_dataplane::snapshot::{Allocation, Pool, Snapshot};

/// Each pool, with how much of it is given out.
pub fn pools(snapshot: &Snapshot, bindings: &[Row], blocks: &[Row]) -> Value {
    let (bindings, blocks) = (by_pool(snapshot, bindings), by_pool(snapshot, blocks));
    let row = |(index, pool): (usize, &Pool)| {
        let mut row = json!({
            "pool": index,
            "addresses": ranges(&pool.addresses),
            "ports": range(pool.ports),
            "given_out": words(pool),
            "bindings": bindings[index],
        });
        if let Allocation::Blocks(rule) = pool.allocation {
            row["blocks"] = (u64::from(rule.per_address(pool.ports)) * pool.addresses.len() as u64).into();
            row["blocks_used"] = blocks[index].into();
        }
        if pool.max_ports > 0 {
            row["max_ports"] = pool.max_ports.into();
        }
        if pool.max_sessions > 0 {
            row["max_sessions"] = pool.max_sessions.into();
        }
        if pool.max_new > 0 {
            row["max_new_per_second"] = pool.max_new.into();
        }
        row
    };
    snapshot.pools.iter().enumerate().map(row).collect()
}

/// How many bindings or blocks are of each pool.
fn by_pool(snapshot: &Snapshot, rows: &[Row]) -> Vec<usize> {
    let mut of: HashMap<Ipv4Addr, Vec<usize>> = HashMap::new();
    for (index, pool) in snapshot.pools.iter().enumerate() {
        pool.addresses.iter().for_each(|&address| of.entry(address).or_default().push(index));
    }
    let mut counts = vec![0; snapshot.pools.len()];
    for row in rows {
        let (address, port) = match row {
            Row::Binding(binding, ..) => (Ipv4Addr::from_bits(binding.external.0), binding.external.1),
            Row::Block(block) => (block.external, block.ports.0),
            _ => continue,
        };
        let mut pools = of.get(&address).into_iter().flatten();
        let has_port = |pool: &Pool| (pool.ports.0..=pool.ports.1).contains(&port);
        if let Some(&pool) = pools.find(|&&pool| has_port(&snapshot.pools[pool])) {
            counts[pool] += 1;
        }
    }
    counts
}

fn words(pool: &Pool) -> String {
    match &pool.allocation {
        Allocation::Ports => "port by port".to_owned(),
        Allocation::Blocks(rule) => format!("in blocks of {}, {} at most", rule.size, rule.most),
        Allocation::Deterministic(plan) => {
            format!("{} to each of {} subscribers", plan.size(), plan.subscribers())
        }
    }
}

fn range((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Ascending addresses in words, those that follow on each other as `first-last`.
fn ranges(addresses: &[Ipv4Addr]) -> String {
    let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for &address in addresses {
        match ranges.last_mut() {
            Some((_, last)) if last.to_bits().checked_add(1) == Some(address.to_bits()) => *last = address,
            _ => ranges.push((address, address)),
        }
    }
    let word = |&(first, last): &(Ipv4Addr, Ipv4Addr)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A block.
pub fn block(block: &BlockRow) -> Value {
    json!({
        "inside": block.inside.to_string(),
        "external": block.external.to_string(),
        "ports": range(block.ports),
        "ports_used": block.ports_used,
    })
}

/// What an inside address has.
pub fn subscriber(subscriber: &SubscriberRow) -> Value {
    json!({
        "pool": subscriber.pool,
        "inside": subscriber.inside.to_string(),
        "sessions": subscriber.sessions,
        "ports": subscriber.ports,
        "blocks": subscriber.blocks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_follow_on_each_other_are_one_range() {
        let list: Vec<Ipv4Addr> = [1, 2, 3, 7, 9, 10].map(|last| Ipv4Addr::new(192, 0, 2, last)).into();
        assert_eq!(ranges(&list), "192.0.2.1-192.0.2.3 192.0.2.7 192.0.2.9-192.0.2.10");
        assert_eq!(ranges(&[Ipv4Addr::BROADCAST]), "255.255.255.255");
    }
}
