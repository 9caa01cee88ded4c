//! Routes for people: all of them, those within a prefix, or the one by which an address goes; a thousand prefixes at most.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_dataplane::fib::Way;
use sluice_dataplane::snapshot::{Route, Snapshot};

use super::{Entries, OF_FILE, RouteTable, bits, masked, protocol_name, range};
use crate::config::Prefix;

/// Prefixes that a listing has at the most.
const MOST: usize = 1000;

/// A listing on its way: a row for each way of each prefix.
#[derive(Default)]
struct Listing {
    rows: Vec<Value>,
    prefixes: usize,
}

impl Listing {
    fn add(&mut self, rows: impl FnOnce(&mut Vec<Value>)) {
        self.prefixes += 1;
        if self.prefixes <= MOST {
            rows(&mut self.rows);
        }
    }

    /// With how many prefixes there are, and whether that is more than are listed.
    fn finish(self) -> Value {
        let Self { rows, prefixes } = self;
        json!({ "total": prefixes, "truncated": prefixes > MOST, "routes": rows })
    }
}

fn is_address(prefix: Prefix) -> bool {
    usize::from(prefix.length) == bits(prefix.address)
}

impl RouteTable {
    /// The routes within a prefix, or by which an address goes; all of them without one.
    pub fn list(&self, within: Option<Prefix>, snapshot: &Snapshot) -> Value {
        let mut listing = Listing::default();
        match within {
            Some(prefix) if is_address(prefix) => {
                let found = (0..=prefix.length).rev().find_map(|length| {
                    let key = (masked(prefix.address, length), length);
                    self.routes.get(&key).map(|entries| (key, entries))
                });
                if let Some((key, entries)) = found {
                    listing.add(|rows| rows_of(key, entries, snapshot, rows));
                }
            }
            Some(prefix) => {
                let inside = self.routes.range(range(prefix)).filter(|(key, _)| key.1 >= prefix.length);
                inside.for_each(|(key, entries)| listing.add(|rows| rows_of(*key, entries, snapshot, rows)));
            }
            None => {
                let listed = self.routes.iter().take(MOST);
                listed.for_each(|(key, entries)| listing.add(|rows| rows_of(*key, entries, snapshot, rows)));
                listing.prefixes = self.routes.len();
            }
        }
        listing.finish()
    }
}

/// As [`RouteTable::list`], of a gateway whose routes are those of the file.
pub fn of_snapshot(within: Option<Prefix>, snapshot: &Snapshot) -> Value {
    let all = || {
        let prefix = |&(address, length, index): &(IpAddr, u8, u32)| (Prefix { address, length }, index);
        snapshot.route_list.iter().map(prefix)
    };
    let longest = within.filter(|within| is_address(*within)).map(|within| {
        let around = all().map(|(prefix, _)| prefix).filter(|prefix| prefix.contains(within.address));
        around.max_by_key(|prefix| prefix.length)
    });
    let mut listing = Listing::default();
    let mut last = None;
    for (prefix, index) in all() {
        let is_listed = match (within, longest) {
            (_, Some(longest)) => Some(prefix) == longest,
            (Some(within), _) => within.covers(prefix),
            (None, _) => true,
        };
        let row = |rows: &mut Vec<Value>| {
            rows.extend(snapshot.way(index).map(|way| row(&prefix.to_string(), &way, snapshot)));
        };
        match is_listed {
            // The ways of a prefix stand together.
            true if last == Some(prefix) && listing.prefixes <= MOST => row(&mut listing.rows),
            true if last != Some(prefix) => listing.add(row),
            _ => continue,
        }
        last = Some(prefix);
    }
    listing.finish()
}

/// A row for each way of each route.
fn rows_of((address, length): (IpAddr, u8), entries: &Entries, snapshot: &Snapshot, rows: &mut Vec<Value>) {
    for (place, entry) in entries.0.iter().enumerate() {
        for way in entry.ways.iter() {
            let mut row = row(&format!("{address}/{length}"), way, snapshot);
            if entry.elsewhere {
                row["kind"] = "elsewhere".into();
            }
            let is_connected = entry.rank == OF_FILE && matches!(way.route, Route::Connected { .. });
            row["protocol"] = match entry.rank {
                OF_FILE if is_connected => "connected".into(),
                OF_FILE => "file".into(),
                _ => protocol_name(entry.protocol).into(),
            };
            row["metric"] = entry.metric.into();
            row["age_seconds"] = entry.since.elapsed().as_secs().into();
            row["used"] = (place == 0).into();
            rows.push(row);
        }
    }
}

/// One way of a route.
fn row(to: &str, way: &Way, snapshot: &Snapshot) -> Value {
    let name = |interface: u16| snapshot.interfaces.get(usize::from(interface)).map(|i| i.name.clone());
    let (kind, via, interface) = match way.route {
        Route::Connected { interface } => ("connected", None, name(interface)),
        Route::Via4 { interface, gateway } => ("via", Some(gateway.to_string()), name(interface)),
        Route::Via6 { interface, gateway } => ("via", Some(gateway.to_string()), name(interface)),
        Route::Blackhole => ("blackhole", None, None),
        Route::Unreachable | Route::Several { .. } => ("unreachable", None, None),
        Route::Prohibited => ("prohibited", None, None),
    };
    json!({ "to": to, "kind": kind, "via": via, "interface": interface, "weight": way.weight })
}
