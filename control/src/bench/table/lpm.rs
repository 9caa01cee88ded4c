//! The route table.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use clap::Args;
use sluice_dataplane::table::lpm::{Lpm, NO_MATCH};

use super::data::{self, Destinations, Header, Route};
use super::measure::{Case, Row, in_turn, judge, plainly, timed};
use super::{Common, TableError};

/// Destinations that are made up.
const DESTINATIONS: usize = 1 << 21;
/// A full table of today, and some years more.
const ROUTES: [u32; 2] = [1_000_000, 250_000];

/// Options of `lpm`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Routes, `PREFIX/LENGTH VALUE` a line; made up unless given
    #[arg(long, value_name = "FILE")]
    pub routes: Option<PathBuf>,
    /// Destinations: text, an address a line; or 16 bytes each, an IPv6 address, or the IPv4 header of an ACL's trace
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// 4 or 6
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: u8,
    /// How many routes to make up; 1,000,000 of IPv4 or 250,000 of IPv6 unless given
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    #[command(flatten)]
    pub common: Common,
}

pub(super) fn measure(options: &Options) -> Result<Vec<Row>, TableError> {
    let seed = options.common.seed;
    if options.family == 4 {
        family(options, |count| data::routes_v4(count, seed), ROUTES[0])
    } else {
        family(options, |count| data::routes_v6(count, seed), ROUTES[1])
    }
}

fn family<const BYTES: usize>(
    options: &Options,
    make: impl Fn(u32) -> Vec<Route<BYTES>>,
    count: u32,
) -> Result<Vec<Row>, TableError> {
    let common = &options.common;
    let routes = match &options.routes {
        Some(path) => data::read_routes(path)?,
        None => make(options.count.unwrap_or(count)),
    };
    if routes.is_empty() {
        return Err(TableError::Nothing("routes"));
    }
    let (build_ms, table) = timed(|| Lpm::build(routes.iter().copied()));
    let table = table.map_err(|error| TableError::Refused(error.to_string()))?;
    let plain = Plain::new(&routes);

    let patterns: Vec<(String, Vec<[u8; BYTES]>)> = match &options.trace {
        Some(path) => vec![("trace".into(), data::read_addresses(path)?)],
        None => Destinations::ALL
            .iter()
            .map(|&(pattern, name)| (name.into(), pattern.make(&routes, DESTINATIONS, common.seed)))
            .collect(),
    };
    let mut cases = Vec::new();
    for (case, destinations) in &patterns {
        let mut row = Row {
            table: "lpm",
            case: format!("v{} {case}", options.family),
            entries: table.len() as u64,
            burst: common.burst,
            build_ms,
            bytes: table.bytes() as u64,
            ..Row::default()
        };
        let mut results = vec![0; destinations.len()];
        table.lookup_burst(destinations, &mut results);
        let found: Vec<_> = results.iter().map(|&value| plus_one(value)).collect();
        let wanted = plainly(common.check, destinations.len(), |number| plain.lookup(&destinations[number]));
        judge(&mut row, &found, wanted.as_deref())?;
        let (table, burst) = (&table, usize::from(common.burst));
        let mut results = vec![0; burst];
        let run = move |start: usize, end: usize| {
            for addresses in destinations[start..end].chunks(burst) {
                table.lookup_burst(addresses, &mut results);
                black_box(&mut results);
            }
        };
        cases.push(Case { row, repeat: 1, run: Box::new(run) });
    }
    Ok(in_turn(common.rounds, cases))
}

/// A value as a result, where 0 is none.
fn plus_one(value: u32) -> u64 {
    if value == NO_MATCH { 0 } else { u64::from(value) + 1 }
}

/// The plain search: a map, asked for each length from the longest.
struct Plain<const BYTES: usize> {
    routes: HashMap<(u128, u8), u32>,
    lengths: Vec<u8>,
}

impl<const BYTES: usize> Plain<BYTES> {
    fn new(routes: &[Route<BYTES>]) -> Self {
        let map = routes.iter().map(|&(prefix, length, value)| ((Self::cut(&prefix, length), length), value));
        let mut lengths: Vec<_> = routes.iter().map(|route| route.1).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self { routes: map.collect(), lengths }
    }

    fn cut(address: &[u8; BYTES], length: u8) -> u128 {
        let bits = address.iter().fold(0, |bits, &byte| bits << 8 | u128::from(byte));
        bits.checked_shr(BYTES as u32 * 8 - u32::from(length)).unwrap_or(0)
    }

    fn lookup(&self, address: &[u8; BYTES]) -> u64 {
        let found =
            self.lengths.iter().find_map(|&length| self.routes.get(&(Self::cut(address, length), length)));
        found.map_or(0, |&value| u64::from(value) + 1)
    }
}

/// Writes routes and destinations.
pub(super) fn write(folder: &Path, seed: u64) -> Result<(), TableError> {
    let routes = data::routes_v4(ROUTES[0], seed);
    data::write_routes(&folder.join("lpm4.routes"), &routes)?;
    for (pattern, name) in Destinations::ALL {
        let destinations = pattern.make(&routes, DESTINATIONS, seed);
        let header = |address| Header { dst: u32::from_be_bytes(address), ..Header::default() };
        data::write_headers(
            &folder.join(format!("lpm4-{name}.trace")),
            destinations.into_iter().map(header),
        )?;
    }
    data::write_routes(&folder.join("lpm6.routes"), &data::routes_v6(ROUTES[1], seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_search_takes_the_longest() {
        let route = |text: [u8; 4], length, value| (text, length, value);
        let plain =
            Plain::new(&[route([0; 4], 0, 5), route([10, 0, 0, 0], 8, 6), route([10, 1, 2, 3], 32, 7)]);
        for (address, wanted) in [([9, 0, 0, 1], 6), ([10, 1, 2, 4], 7), ([10, 1, 2, 3], 8)] {
            assert_eq!(plain.lookup(&address), wanted);
        }
    }
}
