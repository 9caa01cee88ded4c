//! The gateway that is measured: an inside and an outside interface, and what the features ask for between them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::guard::{AMPLIFIERS, SourceLimits};
use sluice_dataplane::snapshot::lists::{Lists, PrefixSets};
use sluice_dataplane::snapshot::{
    Acl, AclAction, Allocation, Class, ClassMatch, ClassRate, ColorAction, Guard, HostKey, Interface, Limit,
    LocalUse, Mark, NONE16, Over, Overhead, Per, Policer, Pool, PortBlocks, PortConfig, Quota, ReversePath,
    Route, RuleInfo, Shaper, Sizes, Snapshot, SourceNat, Tags,
};
use sluice_dataplane::table::classifier::{Classifier, PortRange, Rule};
use sluice_dataplane::table::lpm::Lpm;
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::tcm::model::Model;
use sluice_pkt::ethernet::Mac;

use sluice_pkt::ipv4;

use super::churn;
use super::options::{Feature, Hosts, Meters, PipelineOptions};
use super::traffic::{GATEWAY_MAC, INSIDE, INSIDE6, SERVER_PORTS, SERVERS, SERVERS6, WAN_MAC};

/// Index of the inside port and interface.
pub(super) const LAN: u16 = 0;
/// Index of the outside port and interface.
pub(super) const WAN: u16 = 1;

const LAN_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 168, 1, 1), 24);
/// The hosts are behind a router: there may be more of them than neighbours.
const DOWNLINK: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
const LAN_ADDRESS6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1), 64);
const DOWNLINK6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0xfe);
const WAN_ADDRESS6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1), 64);
const UPLINK6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 0xfe);
const WAN_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(203, 0, 113, 1), 24);
const UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The first address of the pool for source NAT.
const POOL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const POOL_PORTS: (u16, u16) = (1024, u16::MAX);
/// Flows for which the pool has an address: some of its 64,512 ports stay free.
const FLOWS_PER_ADDRESS: u32 = 50_000;
/// 100 Tbit/s, and the largest burst: nothing is ever dropped.
const RATE: Rate = Rate { bits_per_second: 100_000_000_000_000 };
const BURST_BYTES: u64 = 1 << 31;
/// Of the shaper: far more than the packets are.
const LINE: Rate = Rate { bits_per_second: 1_000_000_000_000 };

/// A rule that matches everything.
fn any<A: From<u8>>() -> Rule<A> {
    Rule {
        src: (A::from(0), A::from(0)),
        dst: (A::from(0), A::from(0)),
        protocol: None,
        src_port: PortRange::ANY,
        dst_port: PortRange::ANY,
        icmp_type: None,
        icmp_code: None,
        established: None,
        result: 0,
    }
}

/// The configuration, compiled.
pub(super) fn snapshot(options: &PipelineOptions) -> Snapshot {
    let sessions = options.flows + churn::room(options) as u32;
    let mut snapshot = Snapshot {
        generation: 1,
        ports: vec![port("lan"), port("wan")],
        interfaces: vec![
            interface("lan", LAN, GATEWAY_MAC, LAN_ADDRESS, LAN_ADDRESS6),
            interface("wan", WAN, WAN_MAC, WAN_ADDRESS, WAN_ADDRESS6),
        ],
        local4: HashMap::from_iter([
            (LAN_ADDRESS.0, (LAN, LocalUse::Interface)),
            (WAN_ADDRESS.0, (WAN, LocalUse::Interface)),
        ]),
        local6: HashMap::from_iter([
            (LAN_ADDRESS6.0, (LAN, LocalUse::Interface)),
            (WAN_ADDRESS6.0, (WAN, LocalUse::Interface)),
        ]),
        routes: vec![
            Route::Connected { interface: LAN },
            Route::Connected { interface: WAN },
            Route::Via4 { interface: WAN, gateway: UPLINK },
            Route::Via4 { interface: LAN, gateway: DOWNLINK },
            Route::Via6 { interface: WAN, gateway: UPLINK6 },
            Route::Via6 { interface: LAN, gateway: DOWNLINK6 },
        ],
        routes4: Lpm::build([
            (LAN_ADDRESS.0.octets(), LAN_ADDRESS.1, 0),
            (WAN_ADDRESS.0.octets(), WAN_ADDRESS.1, 1),
            (Ipv4Addr::UNSPECIFIED.octets(), 0, 2),
            (INSIDE.0.octets(), INSIDE.1, 3),
        ])
        .expect("prefixes of IPv4"),
        routes6: Lpm::build([
            (LAN_ADDRESS6.0.octets(), LAN_ADDRESS6.1, 0),
            (WAN_ADDRESS6.0.octets(), WAN_ADDRESS6.1, 1),
            (Ipv6Addr::UNSPECIFIED.octets(), 0, 4),
            (INSIDE6.0.octets(), INSIDE6.1, 5),
        ])
        .expect("prefixes of IPv6"),
        icmp_per_second: 1000,
        sizes: Sizes { sessions, ..Sizes::default() },
        seed: options.seed,
        ..Snapshot::default()
    };
    if options.new_flows_per_second.is_some() {
        let timeout = churn::timeout(options);
        (snapshot.timeouts.udp, snapshot.timeouts.tcp_transitory) = (timeout, timeout);
    }
    if options.has(Feature::Acl) {
        add_acl(&mut snapshot, options.acl_rules, options.protocol.number());
    }
    if options.has(Feature::Nat) {
        add_source_nat(&mut snapshot, options, sessions);
    }
    if options.has(Feature::Guard) {
        add_guard(&mut snapshot, options);
    }
    if options.has(Feature::Police) {
        snapshot.limits.push(Limit {
            name: "inside".into(),
            interface: LAN,
            egress: false,
            v4: vec![any()],
            v6: vec![any()],
            classes: Vec::new(),
            rate: RATE,
            burst: BURST_BYTES,
            policer: policer(options),
        });
    }
    if options.has(Feature::Shape) {
        add_shaper(&mut snapshot, options);
    }
    snapshot
}

/// All that a guard can do but for bogons, as the traffic is of private addresses.
fn add_guard(snapshot: &mut Snapshot, options: &PipelineOptions) {
    let limits = SourceLimits {
        packets: 1_000_000_000,
        bits: RATE.bits_per_second / 100,
        new_sessions: 10_000_000,
        prefix: [32, 64],
        most: options.flows.clamp(16, 1 << 22),
        ..SourceLimits::default()
    };
    snapshot.guards.push(Guard {
        reverse_path: ReversePath::Strict,
        land: true,
        tcp_flags: true,
        port_zero: true,
        tiny_fragments: true,
        answers: AMPLIFIERS.iter().map(|&(port, _)| port).collect(),
        block: 1,
        per_source: Some(limits),
        ..Guard::default()
    });
    // Spread over the unicast addresses that are neither the hosts' nor the servers'.
    let prefixes = (0..options.blocklist).map(|n| {
        let spread = n.wrapping_mul(0x9e37_79b1) >> 8;
        (Ipv4Addr::from_bits((32 << 24) + spread % (0x00a0_0000) * 256).into(), 24, 0)
    });
    snapshot.lists = Lists {
        names: vec!["blocked".into()],
        fixed: Arc::new(PrefixSets::new(prefixes).expect("prefixes of IPv4")),
        added: Arc::default(),
    };
    snapshot.interfaces[usize::from(LAN)].guard = Some(0);
}

/// A shaper at the outside port, with a class for each of the servers' ports and one for the rest.
fn add_shaper(snapshot: &mut Snapshot, options: &PipelineOptions) {
    let by_source = HostKey::Source(32, 128);
    let class = |name: String, matches| Class {
        name,
        matches,
        priority: 7,
        rate: ClassRate { max: Some(LINE), ..ClassRate::default() },
        per: (options.hosts == Hosts::Queues).then(|| (by_source, ClassRate::default())),
        accounts: (options.hosts == Hosts::Accounts).then_some(by_source),
        hosts: if options.hosts == Hosts::None { 0 } else { options.flows },
        quota: Quota {
            each: (options.hosts != Hosts::None).then_some(u64::MAX),
            over: Over::Drop,
            ..Quota::default()
        },
        ..Class::default()
    };
    let to = |port| {
        let ports = PortRange { first: port, last: port };
        ClassMatch {
            v4: Some(vec![Rule { dst_port: ports, ..any() }]),
            v6: Some(vec![Rule { dst_port: ports, ..any() }]),
            ..ClassMatch::default()
        }
    };
    snapshot.classes = SERVER_PORTS.iter().map(|&port| class(format!("port-{port}"), to(port))).collect();
    snapshot.classes.push(class("rest".into(), ClassMatch::default()));
    let rest = SERVER_PORTS.len() as u16;
    snapshot.shapers.push(Shaper {
        port: WAN,
        rate: Some(LINE),
        overhead: Overhead { bytes: 24, least: 84, atm: false },
        frames: 4096,
        order: (0..rest).map(|class| (class, class)).collect(),
        default: rest,
    });
}

/// What a limit is that is more than a bucket. What is over the rate passes, too.
fn policer(options: &PipelineOptions) -> Option<Policer> {
    let mark = |dscp| ColorAction::Mark(Mark { dscp: Some(dscp), pcp: None });
    let many = |per| Policer { per: Some(per), most: options.flows, ..Policer::default() };
    match options.meters {
        Meters::Bucket => None,
        Meters::Colors => Some(Policer {
            model: Model::TwoRate,
            second_rate: RATE,
            second_burst: BURST_BYTES,
            actions: [mark(10), mark(12), mark(14)],
            ..Policer::default()
        }),
        Meters::Source => Some(many(Per::Source([32, 128]))),
        Meters::Flow => Some(many(Per::Flow)),
    }
}

fn port(name: &str) -> PortConfig {
    PortConfig {
        name: name.into(),
        complete_checksums: false,
        any_mac: false,
        invent_neighbors: true,
        host_is_kernel: false,
    }
}

fn interface(name: &str, port: u16, mac: Mac, v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8)) -> Interface {
    let tags = Tags::default();
    Interface {
        name: name.into(),
        port,
        tags,
        mac,
        mtu: 1500,
        v4: vec![v4],
        v6: vec![v6],
        acl: None,
        guard: None,
        mss: [0; 2],
    }
}

/// Rules as gateways have them: bad sources, forbidden services, single hosts, pings. The last one is for the traffic.
fn add_acl(snapshot: &mut Snapshot, count: u32, protocol: u8) {
    let last = count - 1;
    let v4 = (0..count).map(|i| Rule {
        result: i,
        ..if i == last { to_servers(prefix(INSIDE), prefix(SERVERS), protocol) } else { other_rule(i) }
    });
    let v6 = (0..count).map(|i| Rule {
        result: i,
        ..if i == last { to_servers(prefix6(INSIDE6), prefix6(SERVERS6), protocol) } else { other_rule6(i) }
    });
    let (v4, v6) = (Classifier::new(v4.collect()), Classifier::new(v6.collect()));
    let info = |name: String, action| RuleInfo { acl: "inside".into(), text: name.clone(), name, action };
    snapshot.rules = (0..count)
        .map(|i| info(format!("rule {}", i + 1), if i == last { AclAction::Accept } else { AclAction::Drop }))
        .collect();
    snapshot.rules.push(info("default".into(), AclAction::Drop));
    snapshot.acls.push(Acl {
        name: "inside".into(),
        v4,
        v6,
        default: u16::try_from(count).unwrap_or(NONE16),
    });
    snapshot.interfaces[usize::from(LAN)].acl = Some(0);
}

/// The rule that lets the traffic pass.
fn to_servers<A: From<u8>>(src: (A, A), dst: (A, A), protocol: u8) -> Rule<A> {
    let dst_port = PortRange { first: SERVER_PORTS[0], last: SERVER_PORTS[SERVER_PORTS.len() - 1] };
    Rule { src, dst, protocol: Some(protocol), dst_port, ..any() }
}

/// One of the rules that match nothing of the traffic: the same as for IPv4, of addresses alike.
fn other_rule6(i: u32) -> Rule<u128> {
    let v4 = other_rule(i);
    let wide = |(address, mask): (u32, u32)| (u128::from(address) << 96, u128::from(mask) << 96);
    let src = if v4.src == prefix(INSIDE) { prefix6(INSIDE6) } else { wide(v4.src) };
    Rule {
        src,
        dst: wide(v4.dst),
        protocol: v4.protocol,
        src_port: v4.src_port,
        dst_port: v4.dst_port,
        icmp_type: v4.icmp_type,
        icmp_code: v4.icmp_code,
        established: v4.established,
        result: i,
    }
}

/// One of the rules that match nothing of the traffic.
fn other_rule(i: u32) -> Rule<u32> {
    let n = i / 4;
    let low = n as u16 % 1000;
    match i % 4 {
        0 => Rule { src: prefix((Ipv4Addr::from_bits(0xac10_0000 | ((n % 4096) << 8)), 24)), ..any() },
        1 => Rule {
            src: prefix(INSIDE),
            protocol: Some(ipv4::TCP),
            dst_port: PortRange { first: 4096 + low, last: 4106 + low },
            ..any()
        },
        2 => Rule {
            dst: prefix((Ipv4Addr::from_bits(0xc000_0200 | (n % 256)), 32)),
            protocol: Some(ipv4::UDP),
            dst_port: PortRange { first: 53, last: 53 },
            ..any()
        },
        _ => Rule { protocol: Some(ipv4::ICMP), icmp_type: Some(n as u8), ..any() },
    }
}

fn prefix((address, length): (Ipv4Addr, u8)) -> (u32, u32) {
    (address.to_bits(), u32::MAX << (32 - u32::from(length)))
}

fn prefix6((address, length): (Ipv6Addr, u8)) -> (u128, u128) {
    (address.to_bits(), u128::MAX << (128 - u32::from(length)))
}

fn add_source_nat(snapshot: &mut Snapshot, options: &PipelineOptions, sessions: u32) {
    let count = options.nat_addresses.unwrap_or(sessions.div_ceil(FLOWS_PER_ADDRESS));
    let allocation = options.nat_block_size.map_or(Allocation::Ports, |size| {
        Allocation::Blocks(PortBlocks { size, most: u32::MAX, hold: 120 * SECOND })
    });
    let addresses: Vec<_> = (0..count).map(|i| Ipv4Addr::from_bits(POOL.to_bits() + i)).collect();
    snapshot.local4.extend(addresses.iter().map(|&address| (address, (WAN, LocalUse::Nat))));
    snapshot.pools.push(Pool { addresses, ports: POOL_PORTS, allocation, ..Pool::default() });
    snapshot.source_nat.push(SourceNat { out: WAN, from: vec![prefix(INSIDE)], pool: 0 });
}
