//! Routes, rules and traces: made from a seed, written to files, and read from them.
//!
//! Routes are text, `PREFIX/LENGTH VALUE` a line. Rules are text, first match first:
//! `SRC/LEN DST/LEN LO:HI LO:HI PROTOCOL/MASK ACTION` a line, with the protocol and its mask in hex. A trace is either text,
//! an address a line, or has 16 bytes a record: an IPv6 address in network order, or for IPv4 a header of little-endian
//! numbers: u32 source, u32 destination, u16 source port, u16 destination port, u8 protocol, three zero bytes.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use sluice_dataplane::table::classifier::{PortRange, Rule, Tuple};

use super::TableError;
use super::random::{Random, Zipf};

/// A header of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src: u32,
    pub(super) dst: u32,
    pub(super) ports: (u16, u16),
    pub(super) protocol: u8,
}

impl Header {
    pub(super) fn tuple(&self) -> Tuple<u32> {
        Tuple {
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            src_port: self.ports.0,
            dst_port: self.ports.1,
            has_ports: true,
            icmp: None,
            established: false,
        }
    }

    fn bytes(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0..4].copy_from_slice(&self.src.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.dst.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.ports.0.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.ports.1.to_le_bytes());
        bytes[12] = self.protocol;
        bytes
    }

    fn parse(bytes: &[u8; RECORD]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let ports = (word(8) as u16, (word(8) >> 16) as u16);
        Self { src: word(0), dst: word(4), ports, protocol: bytes[12] }
    }
}

/// Bytes of a record of a trace.
const RECORD: usize = 16;

/// A prefix of `BYTES` bytes, its length, and what it leads to.
pub(super) type Route<const BYTES: usize> = ([u8; BYTES], u8, u32);

/// Lengths of the public IPv4 table and their share in 10,000, and some of a network's own that are longer.
const LENGTHS_V4: [(u8, u32); 22] = [
    (8, 1),
    (10, 1),
    (11, 1),
    (12, 3),
    (13, 6),
    (14, 12),
    (15, 20),
    (16, 135),
    (17, 85),
    (18, 140),
    (19, 250),
    (20, 440),
    (21, 530),
    (22, 1100),
    (23, 1050),
    (24, 6166),
    (26, 10),
    (27, 6),
    (28, 6),
    (29, 12),
    (30, 8),
    (32, 18),
];

/// Likewise for IPv6.
const LENGTHS_V6: [(u8, u32); 17] = [
    (24, 5),
    (28, 40),
    (29, 330),
    (30, 60),
    (32, 1450),
    (33, 180),
    (34, 160),
    (36, 480),
    (38, 90),
    (40, 820),
    (42, 170),
    (44, 1050),
    (46, 330),
    (47, 240),
    (48, 4450),
    (56, 70),
    (64, 75),
];

/// Where registries allot from.
const ALLOTTED_V6: [(u16, u32); 6] =
    [(0x2001, 25), (0x2400, 25), (0x2600, 15), (0x2800, 10), (0x2a00, 22), (0x2c00, 3)];

/// Distinct IPv4 routes in clusters: half of the /14 are in use.
pub(super) fn routes_v4(count: u32, seed: u64) -> Vec<Route<4>> {
    let mut random = Random(seed);
    let used: Vec<bool> = (0..1 << 14).map(|_| random.below(2) == 1).collect();
    distinct(
        count,
        |random| loop {
            let address = ((1 + random.below(223)) << 24 | random.below(1 << 24)) as u32;
            if used[(address >> 18) as usize] && !matches!(address >> 24, 10 | 127) {
                let length = LENGTHS_V4[random.weighted(&LENGTHS_V4)].0;
                return ((address & mask(length)).to_be_bytes(), length);
            }
        },
        &mut random,
    )
}

/// Distinct IPv6 routes: allotments, mostly of /32, and what is announced out of them.
pub(super) fn routes_v6(count: u32, seed: u64) -> Vec<Route<16>> {
    let mut random = Random(seed);
    let allotments: Vec<u128> = (0..1 + count / 6)
        .map(|_| {
            let (block, _) = ALLOTTED_V6[random.weighted(&ALLOTTED_V6)];
            let below = random.below(if block == 0x2001 { 1 << 16 } else { 1 << 20 }) as u128;
            u128::from(block) << 112 | below << 96
        })
        .collect();
    distinct(
        count,
        |random| {
            let length = LENGTHS_V6[random.weighted(&LENGTHS_V6)].0;
            let within = u128::from(random.next()) << 32;
            let address = *random.one_of(&allotments) | within & (u128::MAX >> 32);
            ((address & (u128::MAX << (128 - u32::from(length)))).to_be_bytes(), length)
        },
        &mut random,
    )
}

fn distinct<const BYTES: usize>(
    count: u32,
    mut prefix: impl FnMut(&mut Random) -> ([u8; BYTES], u8),
    random: &mut Random,
) -> Vec<Route<BYTES>> {
    let mut seen = std::collections::HashSet::new();
    let mut routes = Vec::with_capacity(count as usize);
    while routes.len() < count as usize {
        let (address, length) = prefix(random);
        if seen.insert((address, length)) {
            routes.push((address, length, 1 + random.below(255) as u32));
        }
    }
    routes
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// In which way destinations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destinations {
    /// From all unicast addresses alike.
    Random,
    /// A random host of a random route.
    Routed,
    /// Zipf over a million such hosts.
    Zipf,
}

impl Destinations {
    pub(super) const ALL: [(Self, &'static str); 3] =
        [(Self::Random, "random"), (Self::Routed, "routed"), (Self::Zipf, "zipf")];

    pub(super) fn make<const BYTES: usize>(
        self,
        routes: &[Route<BYTES>],
        count: usize,
        seed: u64,
    ) -> Vec<[u8; BYTES]> {
        const HOSTS: u32 = 1 << 20;
        let mut random = Random(seed);
        let host = |random: &mut Random| {
            let &(prefix, length, _) = random.one_of(routes);
            let mut address = prefix;
            for (at, byte) in address.iter_mut().enumerate() {
                let kept = usize::from(length).saturating_sub(at * 8).min(8);
                *byte |= random.next() as u8 & (0xff_u16 >> kept) as u8;
            }
            address
        };
        match self {
            _ if routes.is_empty() => vec![[0; BYTES]; count],
            Self::Random => (0..count)
                .map(|_| {
                    let mut address = [0; BYTES];
                    address.fill_with(|| random.next() as u8);
                    // Unicast: 1 to 223, and 2000::/3.
                    address[0] =
                        if BYTES == 4 { 1 + random.below(223) as u8 } else { 0x20 | address[0] >> 3 };
                    address
                })
                .collect(),
            Self::Routed => (0..count).map(|_| host(&mut random)).collect(),
            Self::Zipf => {
                let hosts: Vec<_> = (0..HOSTS).map(|_| host(&mut random)).collect();
                let zipf = Zipf::new(HOSTS);
                (0..count).map(|_| hosts[zipf.next(&mut random)]).collect()
            }
        }
    }
}

const PORTS: [u16; 16] = [22, 25, 53, 80, 110, 123, 143, 443, 587, 993, 1433, 3306, 3389, 5432, 8080, 8443];
const RANGES: [(u16, u16); 5] = [(1024, 65535), (0, 1023), (5000, 5100), (8000, 8999), (16384, 32767)];

/// Rules over a plan of sites, subnets and hosts that nest.
pub(super) fn rules(count: u32, seed: u64) -> Vec<Rule<u32>> {
    let mut random = Random(seed);
    let mut level = |count: u32, above: &[(u32, u8)], lengths: (u8, u8)| -> Vec<(u32, u8)> {
        (0..count)
            .map(|_| {
                let length = lengths.0 + random.below(u64::from(lengths.1 - lengths.0) + 1) as u8;
                let (address, known) = match above {
                    [] => (((1 + random.below(222)) << 24) as u32, 8),
                    above => *random.one_of(above),
                };
                ((address | random.next() as u32 & !mask(known)) & mask(length), length)
            })
            .collect()
    };
    let sites = level(4 + count / 250, &[], (14, 16));
    let subnets = level(8 + count / 20, &sites, (20, 24));
    let hosts = level(16 + count / 3, &subnets, (26, 32));
    let prefix = |random: &mut Random, shares: [u32; 4]| {
        let levels = [&[(0, 0)][..], &sites, &subnets, &hosts];
        let shares = [((), shares[0]), ((), shares[1]), ((), shares[2]), ((), shares[3])];
        let level = levels[random.weighted(&shares)];
        let (address, length) = *random.one_of(level);
        (address, mask(length))
    };
    let ports =
        |random: &mut Random, shares: [u32; 3]| match random.weighted(&shares.map(|share| ((), share))) {
            0 => PortRange::ANY,
            1 => {
                let port = *random.one_of(&PORTS);
                PortRange { first: port, last: port }
            }
            _ => {
                let &(first, last) = random.one_of(&RANGES);
                PortRange { first, last }
            }
        };
    (0..count)
        .map(|result| {
            let src = prefix(&mut random, [12, 30, 33, 25]);
            let dst = prefix(&mut random, [0, 12, 33, 55]);
            let protocol =
                [Some(6), Some(17), Some(1), None][random.weighted(&[((), 68), ((), 22), ((), 6), ((), 4)])];
            let with_ports = matches!(protocol, Some(6 | 17));
            let mut range = |shares| if with_ports { ports(&mut random, shares) } else { PortRange::ANY };
            let (src_port, dst_port) = (range([88, 4, 8]), range([18, 62, 20]));
            rule(src, dst, (src_port, dst_port), protocol, result)
        })
        .collect()
}

fn rule(
    src: (u32, u32),
    dst: (u32, u32),
    (src_port, dst_port): (PortRange, PortRange),
    protocol: Option<u8>,
    result: u32,
) -> Rule<u32> {
    Rule {
        src,
        dst,
        protocol,
        src_port,
        dst_port,
        icmp_type: None,
        icmp_code: None,
        established: None,
        result,
    }
}

/// Nine in ten are a random point of a random rule, the others random altogether.
pub(super) fn trace(rules: &[Rule<u32>], count: u32, seed: u64) -> Vec<Header> {
    let mut random = Random(seed);
    let within = |random: &mut Random, (address, mask): (u32, u32)| address | random.next() as u32 & !mask;
    let port = |random: &mut Random, range: PortRange| {
        range.first + random.below(u64::from(range.last.saturating_sub(range.first)) + 1) as u16
    };
    (0..count)
        .map(|_| {
            let any = rule((0, 0), (0, 0), (PortRange::ANY, PortRange::ANY), None, 0);
            let rule = if rules.is_empty() || random.below(10) == 0 { any } else { *random.one_of(rules) };
            Header {
                src: within(&mut random, rule.src),
                dst: within(&mut random, rule.dst),
                ports: (port(&mut random, rule.src_port), port(&mut random, rule.dst_port)),
                protocol: rule.protocol.unwrap_or(if random.below(2) == 0 { 6 } else { 17 }),
            }
        })
        .collect()
}

pub(super) fn write_routes<const BYTES: usize>(
    path: &Path,
    routes: &[Route<BYTES>],
) -> Result<(), TableError> {
    let mut text = String::new();
    for &(address, length, value) in routes {
        let _ = writeln!(text, "{}/{length} {value}", ip(&address));
    }
    write(path, text.as_bytes())
}

pub(super) fn write_rules(path: &Path, rules: &[Rule<u32>]) -> Result<(), TableError> {
    let mut text = String::new();
    for rule in rules {
        let prefix =
            |(address, mask): (u32, u32)| format!("{}/{}", ip(&address.to_be_bytes()), mask.count_ones());
        let (protocol, mask) = rule.protocol.map_or((0, 0), |protocol| (protocol, 0xff));
        let _ = writeln!(
            text,
            "{} {} {}:{} {}:{} {protocol:#04x}/{mask:#04x} permit",
            prefix(rule.src),
            prefix(rule.dst),
            rule.src_port.first,
            rule.src_port.last,
            rule.dst_port.first,
            rule.dst_port.last,
        );
    }
    write(path, text.as_bytes())
}

pub(super) fn write_headers(path: &Path, headers: impl Iterator<Item = Header>) -> Result<(), TableError> {
    write(path, &headers.flat_map(|header| header.bytes()).collect::<Vec<_>>())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TableError> {
    fs::write(path, bytes).map_err(|error| TableError::file(path, error))
}

fn ip(bytes: &[u8]) -> IpAddr {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(bytes), _) => bytes.into(),
        (_, Ok(bytes)) => bytes.into(),
        _ => IpAddr::from([0; 4]),
    }
}

/// The address's bytes, if it is of that family.
fn address<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    match text.parse().ok()? {
        IpAddr::V4(address) => address.octets()[..].try_into().ok(),
        IpAddr::V6(address) => address.octets()[..].try_into().ok(),
    }
}

/// Lines that `parse` makes something of; those that are empty or begin with `#` are passed over.
fn lines<T>(
    path: &Path,
    what: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, TableError> {
    let text = fs::read_to_string(path).map_err(|error| TableError::file(path, error))?;
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            parse(line).ok_or_else(|| TableError::Line { path: path.into(), line: number + 1, what })
        })
        .collect()
}

pub(super) fn read_routes<const BYTES: usize>(path: &Path) -> Result<Vec<Route<BYTES>>, TableError> {
    let what =
        if BYTES == 4 { "an IPv4 route: PREFIX/LENGTH VALUE" } else { "an IPv6 route: PREFIX/LENGTH VALUE" };
    lines(path, what, |line| {
        let mut words = line.split_ascii_whitespace();
        let (prefix, length) = words.next()?.split_once('/')?;
        let length = length.parse().ok().filter(|&length: &u8| usize::from(length) <= BYTES * 8)?;
        Some((address(prefix)?, length, words.next()?.parse().ok()?))
    })
}

pub(super) fn read_rules(path: &Path) -> Result<Vec<Rule<u32>>, TableError> {
    let what = "a rule: SRC/LEN DST/LEN LO:HI LO:HI PROTOCOL/MASK ACTION";
    let mut rules = lines(path, what, |line| {
        let words: Vec<_> = line.trim_start_matches('@').split_ascii_whitespace().collect();
        let prefix = |at: usize| {
            let (prefix, length) = words.get(at)?.split_once('/')?;
            let length: u8 = length.parse().ok().filter(|&length| length <= 32)?;
            Some((u32::from_be_bytes(address(prefix)?), mask(length)))
        };
        let range = |at: usize| {
            let (first, last) = words.get(at)?.split_once(':')?;
            Some(PortRange { first: first.parse().ok()?, last: last.parse().ok()? })
        };
        let hex = |text: &str| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let (protocol, mask) = words.get(4)?.split_once('/')?;
        let protocol = match hex(mask)? {
            0 => None,
            0xff => Some(hex(protocol)?),
            _ => return None,
        };
        Some(rule(prefix(0)?, prefix(1)?, (range(2)?, range(3)?), protocol, 0))
    })?;
    for (rule, result) in rules.iter_mut().zip(0..) {
        rule.result = result;
    }
    Ok(rules)
}

pub(super) fn read_headers(path: &Path) -> Result<Vec<Header>, TableError> {
    Ok(records(path)?.iter().map(Header::parse).collect())
}

/// Destinations of a trace, as text or as records.
pub(super) fn read_addresses<const BYTES: usize>(path: &Path) -> Result<Vec<[u8; BYTES]>, TableError> {
    let start = fs::read(path).map_err(|error| TableError::file(path, error))?;
    let text = start.iter().take(4096).all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if text {
        return lines(path, "an address", |line| address(line.trim()));
    }
    let destination = |record: &[u8; RECORD]| match BYTES {
        4 => Header::parse(record).dst.to_be_bytes()[..].try_into().ok(),
        _ => record[..].try_into().ok(),
    };
    Ok(records(path)?.iter().filter_map(destination).collect())
}

fn records(path: &Path) -> Result<Vec<[u8; RECORD]>, TableError> {
    let bytes = fs::read(path).map_err(|error| TableError::file(path, error))?;
    let records = bytes.chunks_exact(RECORD);
    if !records.remainder().is_empty() || bytes.is_empty() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "a trace has 16 bytes for each record");
        return Err(TableError::file(path, error));
    }
    Ok(records.filter_map(|record| record.first_chunk().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let four = routes_v4(2000, 1);
        write_routes(&path("4"), &four).unwrap();
        assert_eq!(read_routes::<4>(&path("4")).unwrap(), four);
        let six = routes_v6(2000, 1);
        write_routes(&path("6"), &six).unwrap();
        assert_eq!(read_routes::<16>(&path("6")).unwrap(), six);
        assert!(matches!(read_routes::<4>(&path("6")), Err(TableError::Line { line: 1, .. })));

        let rules = rules(500, 1);
        write_rules(&path("rules"), &rules).unwrap();
        assert_eq!(read_rules(&path("rules")).unwrap(), rules);
        let headers = trace(&rules, 1000, 1);
        write_headers(&path("trace"), headers.iter().copied()).unwrap();
        assert_eq!(read_headers(&path("trace")).unwrap(), headers);
        let destinations: Vec<_> = headers.iter().map(|header| header.dst.to_be_bytes()).collect();
        assert_eq!(read_addresses::<4>(&path("trace")).unwrap(), destinations);
        fs::write(path("text"), "2001:db8::1\n# a remark\n2001:db8::2\n").unwrap();
        assert_eq!(read_addresses::<16>(&path("text")).unwrap()[1][15], 2);
    }

    #[test]
    fn hosts_lie_in_their_routes_and_traces_in_their_rules() {
        let routes = routes_v6(1000, 2);
        for address in Destinations::Routed.make(&routes, 1000, 3) {
            let inside = |&(prefix, length, _): &Route<16>| {
                let differ = u128::from_be_bytes(prefix) ^ u128::from_be_bytes(address);
                differ.leading_zeros() >= length.into()
            };
            assert!(routes.iter().any(inside));
        }
        let rules = rules(100, 2);
        let headers = trace(&rules, 1000, 3);
        let matched = headers.iter().filter(|header| rules.iter().any(|rule| rule.matches(&header.tuple())));
        assert!(matched.count() >= 850);
    }
}
