//! `[[limits]]`: token-bucket policers.

use std::collections::HashMap;

use super::interfaces::Network;
use super::matches::{self, Combinations};
use super::word;
use crate::config::model::{Direction, Limit};
use crate::config::reader::{Table, text};
use crate::config::report::{Sink, Span, quote};
use crate::config::{schema, units};

/// Most limits; the data plane numbers them in a byte.
const MOST_LIMITS: usize = 254;
/// Bytes of an Ethernet header with two VLAN tags.
const LARGEST_HEADER: u64 = 22;

pub(super) fn read(file: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut combinations = Combinations::none();
    let mut seen: HashMap<String, Span> = HashMap::new();
    for table in file.tables("limits", &schema::LIMIT, MOST_LIMITS, sink) {
        let Some(limit) = read_limit(&table, network, sink) else { continue };
        combinations.add(&limit.matches, &table.span, sink);
        let span = table.key_span("name");
        if let Some(first) = seen.get(&limit.name) {
            sink.error(&span, format!("two limits are called {}", quote(&limit.name)))
                .also(first, "the first is here")
                .help("a name stands for one counter: choose another");
        } else {
            seen.insert(limit.name.clone(), span);
        }
        limits.push(limit);
    }
    limits
}

fn read_limit(table: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Option<Limit> {
    if !table.has("name") {
        table.missing("name", "\"guests\"", sink);
    }
    let name = word(table, "name", sink);
    let (direction, key) = match (table.has("in"), table.has("out")) {
        (true, true) => {
            sink.error(&table.key_span("out"), "a limit has `in` or `out`, not both")
                .also(&table.key_span("in"), "`in` is here")
                .help("write a limit for each direction");
            return None;
        }
        (false, true) => (Direction::Egress, "out"),
        (false, false) => {
            sink.error(&table.span, "a limit has neither `in` nor `out`")
                .help("name the interface by which its packets come in, or go out");
            return None;
        }
        (true, false) => (Direction::Ingress, "in"),
    };
    let interface = network.required(table, key, sink);
    let matches = matches::read(table, sink);
    let rate = table.required("rate", "\"50 Mbit/s\"", text(units::rate), sink);
    let burst = table.one("burst", text(units::size), sink);
    let (interface, rate) = (interface?.value, rate?.value);
    let mtu = network.interfaces[interface].mtu;
    let largest = u64::from(mtu) + LARGEST_HEADER;
    if let Some(burst) = burst.as_ref().filter(|burst| burst.value < largest) {
        sink.error(
            &burst.span,
            format!("no packet of {mtu} bytes would ever pass a burst of {} B", burst.value),
        )
        .help(format!("at least {largest} B on this interface"));
    }
    let burst = burst.map_or(default_burst(rate, mtu), |at| at.value);
    Some(Limit { name: name?.value, direction, interface, matches, rate, burst })
}

/// 50 ms of the rate, and at least two packets of the MTU with their Ethernet headers.
fn default_burst(rate: u64, mtu: u16) -> u64 {
    (rate / 8 / 20).max(2 * (u64::from(mtu) + LARGEST_HEADER))
}
