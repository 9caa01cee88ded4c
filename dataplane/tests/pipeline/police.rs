//! Policers with colours, in packets, and of one meter each for many: against a plain reading of their RFCs.

use std::collections::HashMap;

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{ColorAction, Mark, Per, Policer, Snapshot};
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::tcm::model::Model;
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::checksum::{Sum, verify_ipv4_header};

use crate::lab::{HOST6, LAN, Lab, SERVER, SERVER6, WAN, host, snapshot};
use crate::packets::{udp, udp6};

/// What is in the code points of green, yellow and red packets when they leave.
const CODES: [u8; 3] = [10, 20, 38];

fn mark(dscp: u8) -> ColorAction {
    ColorAction::Mark(Mark { dscp: Some(dscp), pcp: None })
}

fn limited(change: impl FnOnce(&mut Policer)) -> Snapshot {
    let mut snapshot = snapshot();
    let mut policer = Policer { actions: CODES.map(mark), most: 64, ..Policer::default() };
    change(&mut policer);
    snapshot.limits[0].policer = Some(policer);
    snapshot
}

/// A UDP packet of host `n` to the server with this first byte of DSCP and ECN.
fn packet(n: u8, port: u16, class: u8, size: usize) -> Vec<u8> {
    let mut packet = udp((host(n), port), (SERVER, 53), &vec![0; size]);
    packet[1] = class;
    packet[10..12].fill(0);
    let checksum = Sum::of(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The RFCs' own words, in whole units of 128 bits.
#[derive(Clone, Copy)]
struct Plain {
    model: Model,
    rates: [u128; 2],
    bursts: [u128; 2],
    tokens: [u128; 2],
    last: u128,
}

/// Bits in nanoseconds.
const TOKEN: u128 = 8_000_000_000;

impl Plain {
    fn new(model: Model, rates: [u64; 2], bursts: [u64; 2], now: u64) -> Self {
        let bursts = bursts.map(|burst| u128::from(burst) * TOKEN);
        Self { model, rates: rates.map(u128::from), bursts, tokens: bursts, last: now.into() }
    }

    /// 0 for green, 1 for yellow, 2 for red; `before` likewise.
    fn color(&mut self, now: u64, tokens: u64, before: usize) -> usize {
        let elapsed = u128::from(now) - self.last;
        self.last = now.into();
        let mut earned = self.rates.map(|rate| rate * elapsed);
        for i in 0..2 {
            let taken = earned[i].min(self.bursts[i] - self.tokens[i]);
            self.tokens[i] += taken;
            if self.model == Model::SingleRate && i == 0 {
                earned[1] = earned[0] - taken;
            }
        }
        let cost = u128::from(tokens) * TOKEN;
        let has = self.tokens.map(|tokens| tokens >= cost);
        let (color, takes): (usize, &[usize]) = match (self.model, before) {
            (_, 2) => (2, &[]),
            (Model::TwoRate, _) if !has[1] => (2, &[]),
            (Model::TwoRate, 0) if has[0] => (0, &[0, 1]),
            (Model::TwoRate, _) => (1, &[1]),
            (_, 0) if has[0] => (0, &[0]),
            _ if has[1] => (1, &[1]),
            _ => (2, &[]),
        };
        takes.iter().for_each(|&i| self.tokens[i] -= cost);
        color
    }
}

/// The colour that a code point comes with (RFC 2597).
fn comes(dscp: u8) -> usize {
    match dscp {
        12 | 20 | 28 | 36 => 1,
        14 | 22 | 30 | 38 => 2,
        _ => 0,
    }
}

fn models() -> impl Strategy<Value = Model> {
    prop_oneof![Just(Model::SingleRate), Just(Model::TwoRate), Just(Model::ExcessRate)]
}

fn pers() -> impl Strategy<Value = Option<Per>> {
    prop_oneof![
        Just(None),
        Just(Some(Per::Source([32, 64]))),
        Just(Some(Per::Source([31, 64]))),
        Just(Some(Per::Destination([32, 64]))),
        Just(Some(Per::Flow)),
    ]
}

proptest! {
    #![proptest_config(crate::lab::cases(150))]

    /// RFC 2697 3, RFC 2698 3, RFC 4115 3.
    #[test]
    fn every_packet_has_the_color_of_a_plain_reading(
        model in models(),
        per in pers(),
        (aware, packets, drops) in any::<(bool, bool, bool)>(),
        rates in [1..200u64, 1..200u64],
        bursts in [1..8u64, 1..8u64],
        events in prop::collection::vec((0..3u8, 0..2u16, any::<u8>(), 0..900usize, 0..300_000_000u64), 1..120),
    ) {
        // Some kilobytes, or some packets.
        let unit = if packets { 1 } else { 1000 };
        let [rates, bursts] = [rates.map(|rate| rate * 8 * unit), bursts.map(|burst| burst * unit)];
        let mut snapshot = limited(|policer| {
            *policer = Policer {
                model,
                second_rate: Rate { bits_per_second: rates[1] },
                second_burst: bursts[1],
                packets,
                aware,
                per,
                ..*policer
            };
            if drops {
                policer.actions[2] = ColorAction::Drop;
            }
        });
        (snapshot.limits[0].rate.bits_per_second, snapshot.limits[0].burst) = (rates[0], bursts[0]);
        let mut lab = Lab::new(snapshot);
        let mut plain: HashMap<(u8, u16), Plain> = HashMap::new();
        let mut expected = [0; 3];
        for (n, port, class, size, gap) in events {
            lab.now += gap;
            let key = match per {
                None | Some(Per::Destination(_)) => (0, 0),
                Some(Per::Source([32, _])) => (n, 0),
                Some(Per::Source(_)) => (n / 2, 0),
                Some(Per::Flow) => (n, port),
            };
            let now = lab.now;
            // Addresses from 8 on, so that two of a kind share all bits but the last.
            let ip = packet(8 + n, 4000 + port, class, size);
            let tokens = if packets { 1 } else { ip.len() as u64 + 14 };
            let before = if aware { comes(class >> 2) } else { 0 };
            let meter = plain.entry(key).or_insert_with(|| Plain::new(model, rates, bursts, now));
            let color = meter.color(now, tokens, before);
            expected[color] += 1;
            if drops && color == 2 {
                prop_assert_eq!(lab.dropped(LAN, &ip), DropReason::RateLimited);
                continue;
            }
            let (port, out) = lab.forward(LAN, &ip);
            prop_assert_eq!(port, WAN);
            prop_assert_eq!(out[1], CODES[color] << 2 | class & 3, "{} tokens at {}", tokens, now);
            prop_assert!(verify_ipv4_header(&out[..20]));
        }
        let count = lab.worker.shard().limiters.counts().next().unwrap();
        prop_assert_eq!(count.colors.map(|count| count.packets), expected);
        prop_assert_eq!(count.dropped.packets, if drops { expected[2] } else { 0 });
        prop_assert_eq!(count.passed.packets + count.dropped.packets, expected.iter().sum::<u64>());
        prop_assert_eq!(count.meters as usize, if per.is_some() { plain.len() } else { 0 });
        lab.close();
    }
}

#[test]
fn packets_of_one_burst_share_the_meter_that_the_first_makes() {
    let mut snapshot = limited(|policer| {
        policer.packets = true;
        policer.per = Some(Per::Flow);
        policer.actions = [ColorAction::Pass, ColorAction::Drop, ColorAction::Drop];
    });
    (snapshot.limits[0].rate.bits_per_second, snapshot.limits[0].burst) = (8, 3);
    let mut lab = Lab::new(snapshot);
    for round in 0..20 {
        let frame = crate::packets::frame(LAN, &packet(8 + round % 2, 4000, 0, 10));
        lab.send(LAN, &frame);
        lab.send(
            LAN,
            &crate::packets::frame(LAN, &udp6((HOST6, 4000 + u16::from(round % 2)), (SERVER6, 53), b"")),
        );
    }
    lab.poll();
    assert_eq!((lab.collect().len(), lab.drops(DropReason::RateLimited)), (12, 28));
    let count = lab.worker.shard().limiters.counts().next().unwrap();
    assert_eq!((count.meters, count.forgotten), (4, 0));
    lab.close();
}

/// An attacker with very many addresses gets nobody refused, and its own flood is held where it comes from one.
#[test]
fn a_flood_of_sources_takes_nobodys_meter_to_their_harm() {
    let mut snapshot = limited(|policer| {
        policer.packets = true;
        policer.per = Some(Per::Source([32, 64]));
        policer.actions = [ColorAction::Pass, ColorAction::Drop, ColorAction::Drop];
        policer.most = 16;
    });
    // For the whole burst to be earned again, ten seconds.
    (snapshot.limits[0].rate.bits_per_second, snapshot.limits[0].burst) = (8, 10);
    let mut lab = Lab::new(snapshot);
    let (mut flooder, mut honest) = (0, 0);
    for step in 0..2000u16 {
        lab.now += SECOND / 100;
        // Sources of the flood: 100 others.
        flooder += lab.pass(LAN, &packet(200, 4000, 0, 10)).len();
        lab.pass(LAN, &packet(50 + (step % 100) as u8, 4000, 0, 10));
        if step % 100 == 0 {
            honest += lab.pass(LAN, &packet(9, 4000, 0, 10)).len();
        }
    }
    assert_eq!(honest, 20, "one a second is what it may have");
    assert!((29..=30).contains(&flooder), "ten and then one a second for twenty: {flooder}");
    let count = lab.worker.shard().limiters.counts().next().unwrap();
    assert!(count.meters == 16 && count.forgotten > 1000, "{count:?}");
    lab.close();
}

#[test]
fn what_goes_out_sees_the_color_that_what_came_in_gave() {
    // Of the first, three packets are green, and all others yellow.
    let mut snapshot = limited(|policer| {
        *policer = Policer { aware: true, packets: true, actions: CODES.map(mark), ..*policer };
        (policer.second_rate.bits_per_second, policer.second_burst) = (0, 100);
    });
    snapshot.limits[0].burst = 100;
    let mut first = snapshot.limits[0].clone();
    (first.name, first.interface, first.egress) = ("in".into(), LAN as u16, false);
    (first.burst, first.rate.bits_per_second) = (3, 8);
    let actions = [ColorAction::Pass, mark(12), mark(14)];
    first.policer =
        first.policer.map(|policer| Policer { aware: false, second_burst: 2, actions, ..policer });
    snapshot.limits.push(first);
    let mut lab = Lab::new(snapshot);
    let codes: Vec<u8> = (0..7).map(|_| lab.forward(LAN, &packet(9, 4000, 1, 10)).1[1]).collect();
    let expected = [0, 0, 0, 1, 1, 2, 2].map(|color: usize| CODES[color] << 2 | 1);
    assert_eq!(codes, expected);
    lab.close();
}
