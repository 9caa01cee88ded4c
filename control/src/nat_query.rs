//! Which inside address has had an external port (`sluice nat who`), and which external ports an inside address has had
//! (`sluice nat where`): from a configuration alone where NAT is deterministic, from a log, or from a running gateway.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sluice_dataplane::nat::{Binding, BlockRow, EventKind};
use sluice_dataplane::snapshot::{Allocation, Snapshot};

use crate::config::protocol_name;
use crate::export::Record;
use crate::export::syslog::{self, Line};
use crate::export::wall;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    /// Who has this external address and port?
    Who {
        /// The external address.
        address: Ipv4Addr,
        /// The external port or echo identifier.
        port: u16,
    },
    /// Where does this inside address appear outside?
    Where {
        /// The inside address.
        subscriber: IpAddr,
    },
}

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ground {
    /// By arithmetic.
    Deterministic,
    /// A block of ports.
    Block,
    /// A binding.
    Binding,
}

/// Ports that an inside address has or has had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The inside address.
    pub inside: IpAddr,
    /// The inside port, of a binding.
    pub inside_port: Option<u16>,
    /// The external address.
    pub external: Ipv4Addr,
    /// The external ports, `1024-1535` or a single one.
    pub ports: String,
    /// The protocol, of a binding; otherwise all.
    pub protocol: Option<String>,
    /// How it is known.
    pub by: Ground,
    /// Since when, if a log told.
    pub from: Option<String>,
    /// Until when, if a log told that it is over.
    pub until: Option<String>,
}

impl Query {
    /// Whether ports of an inside address are asked for.
    fn matches(&self, inside: IpAddr, external: Ipv4Addr, ports: (u16, u16)) -> bool {
        match *self {
            Self::Who { address, port } => address == external && (ports.0..=ports.1).contains(&port),
            Self::Where { subscriber } => subscriber == inside,
        }
    }

    /// What a configuration answers by arithmetic alone.
    pub fn of_snapshot(&self, snapshot: &Snapshot) -> Vec<Hit> {
        let hit = |pool: &sluice_dataplane::snapshot::Pool| {
            let Allocation::Deterministic(plan) = &pool.allocation else { return None };
            let inside = match *self {
                Self::Who { address, port } => plan.subscriber(pool.position(address)?, port)?,
                Self::Where { subscriber: IpAddr::V4(subscriber) } => subscriber.to_bits(),
                Self::Where { .. } => return None,
            };
            let (position, ports) = plan.block(inside)?;
            let external = *pool.addresses.get(position)?;
            let inside = Ipv4Addr::from_bits(inside).into();
            Some(Hit::new(inside, external, ports, Ground::Deterministic))
        };
        snapshot.pools.iter().filter_map(hit).collect()
    }

    /// The answer of a block that is taken.
    pub fn of_block(&self, block: &BlockRow) -> Option<Hit> {
        let BlockRow { inside, external, ports, .. } = *block;
        self.matches(inside, external, ports).then(|| Hit::new(inside, external, ports, Ground::Block))
    }

    /// The answer of a live binding; with NAT64, and its inside address.
    pub fn of_binding(&self, binding: &Binding, inside6: Option<Ipv6Addr>) -> Option<Hit> {
        let inside = inside6.map_or_else(|| Ipv4Addr::from_bits(binding.inside.0).into(), IpAddr::V6);
        let external = Ipv4Addr::from_bits(binding.external.0);
        let ports = (binding.external.1, binding.external.1);
        let hit = Hit {
            inside_port: Some(binding.inside.1),
            protocol: Some(protocol_name(binding.protocol)),
            ..Hit::new(inside, external, ports, Ground::Binding)
        };
        self.matches(inside, external, ports).then_some(hit)
    }

    /// The answer of a log: what held at a time (microseconds since 1970), or all that it knows of, oldest first.
    ///
    /// # Errors
    /// The log cannot be read. Lines that are none of ours, and bytes that are no text, are passed over.
    pub fn of_log(&self, mut log: impl BufRead, time: Option<u64>) -> io::Result<Vec<Hit>> {
        let mut spans: Vec<Span> = Vec::new();
        let mut open: HashMap<Key, usize> = HashMap::new();
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line)? > 0 {
            let parsed = syslog::parse(&String::from_utf8_lossy(&line));
            line.clear();
            match parsed {
                Some(Line::Started(at)) => {
                    // Nothing outlives the process that made it.
                    for (_, index) in open.drain() {
                        spans[index].until = Some(at);
                    }
                }
                Some(Line::Record(record)) if self.matches(record.inside, record.external, record.ports) => {
                    take(record, &mut spans, &mut open);
                }
                _ => {}
            }
        }
        let holds = |span: &&Span| {
            time.is_none_or(|time| {
                span.from.is_none_or(|from| from <= time) && span.until.is_none_or(|until| time < until)
            })
        };
        Ok(spans.iter().filter(holds).map(Span::hit).collect())
    }
}

impl Hit {
    fn new(inside: IpAddr, external: Ipv4Addr, (first, last): (u16, u16), by: Ground) -> Self {
        let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
        Self { inside, inside_port: None, external, ports, protocol: None, by, from: None, until: None }
    }
}

type Key = (Ground, u8, IpAddr, u16, Ipv4Addr, (u16, u16));

/// A time during which a block or a binding was there.
struct Span {
    key: Key,
    from: Option<u64>,
    until: Option<u64>,
}

impl Span {
    fn hit(&self) -> Hit {
        let (by, protocol, inside, inside_port, external, ports) = self.key;
        let is_binding = by == Ground::Binding;
        Hit {
            inside_port: is_binding.then_some(inside_port),
            protocol: is_binding.then(|| protocol_name(protocol)),
            from: self.from.map(wall::show),
            until: self.until.map(wall::show),
            ..Hit::new(inside, external, ports, by)
        }
    }
}

fn take(record: Record, spans: &mut Vec<Span>, open: &mut HashMap<Key, usize>) {
    let (by, begins) = match record.kind {
        EventKind::BlockAllocated => (Ground::Block, true),
        EventKind::BlockReleased => (Ground::Block, false),
        EventKind::BindingCreated => (Ground::Binding, true),
        EventKind::BindingReleased => (Ground::Binding, false),
    };
    let key = (by, record.protocol, record.inside, record.inside_port, record.external, record.ports);
    let found = open.remove(&key);
    if begins {
        // One that was never told to end has ended, at the latest, now.
        if let Some(index) = found {
            spans[index].until = Some(record.at);
        }
        open.insert(key, spans.len());
        spans.push(Span { key, from: Some(record.at), until: None });
    } else if let Some(index) = found {
        spans[index].until = Some(record.at);
    } else {
        spans.push(Span { key, from: None, until: Some(record.at) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::export::syslog::Sender;

    const CONFIG: &str = r#"
        [interfaces.lan]
        address = "100.64.0.1/22"
        [interfaces.wan]
        address = "203.0.113.2/24"
        [[nat.source]]
        out = "wan"
        from = "100.64.0.0/22"
        to = "203.0.113.16-203.0.113.31"
        block-size = 1000
        deterministic = true
    "#;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, last)
    }

    /// proves: RFC 7422 2
    #[test]
    fn a_configuration_answers_both_ways() {
        let (config, _) = config::load_str("test.toml", CONFIG).unwrap();
        let snapshot = config::compile(&config, &[]);
        let subscriber = Ipv4Addr::new(100, 64, 0, 65).into();
        let found = Query::Where { subscriber }.of_snapshot(&snapshot);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].external, found[0].ports.as_str()), (address(17), "2024-3023"));
        let who = |port| Query::Who { address: address(17), port }.of_snapshot(&snapshot);
        assert_eq!(who(2024), found);
        assert_eq!(who(3023)[0].inside, subscriber);
        assert!(who(80).is_empty() && who(65_500).is_empty());
    }

    #[test]
    fn a_log_answers_for_a_time() {
        let mut sender = Sender::new("gw", 1);
        let record = |at, kind, inside, ports| Record {
            at,
            kind,
            protocol: 0,
            inside: Ipv4Addr::new(100, 64, 0, inside).into(),
            inside_port: 0,
            external: address(1),
            ports,
        };
        use EventKind::{BlockAllocated, BlockReleased};
        let mut lines = vec![sender.started(5)];
        for (at, kind, inside, first) in [
            (10, BlockAllocated, 1, 1024),
            (11, BlockAllocated, 2, 2048),
            (20, BlockReleased, 1, 1024),
            (30, BlockAllocated, 3, 1024),
        ] {
            lines.push(sender.line(&record(at, kind, inside, (first, first + 99))));
        }
        lines.push(sender.started(40));
        lines.insert(3, "something else".to_owned());
        let log = lines.join("\n");
        let ask = |query: Query, time| {
            let hits = query.of_log(log.as_bytes(), time).unwrap();
            let last = |hit: &Hit| match hit.inside {
                IpAddr::V4(inside) => inside.octets()[3],
                IpAddr::V6(_) => 0,
            };
            hits.iter().map(last).collect::<Vec<_>>()
        };
        let who = |time| ask(Query::Who { address: address(1), port: 1100 }, time);
        assert_eq!(who(Some(9)), [0u8; 0]);
        assert_eq!(who(Some(10)), [1]);
        assert_eq!(who(Some(19)), [1]);
        assert_eq!(who(Some(20)), [0u8; 0]);
        assert_eq!(who(Some(35)), [3]);
        assert_eq!(who(Some(40)), [0u8; 0], "the gateway has started anew");
        assert_eq!(who(None), [1, 3]);
        let subscriber = Ipv4Addr::new(100, 64, 0, 2).into();
        let hits = Query::Where { subscriber }.of_log(log.as_bytes(), None).unwrap();
        assert_eq!(
            (hits[0].ports.as_str(), hits[0].from.as_deref(), hits[0].until.as_deref()),
            ("2048-2147", Some("1970-01-01T00:00:00.000011Z"), Some("1970-01-01T00:00:00.000040Z"))
        );
    }
}
