use std::net::Ipv4Addr;

use sluice_dataplane::snapshot::{Class, PortConfig, Shaper};
use sluice_dataplane::table::meter::Rate;

use super::*;
use crate::accounting::{Accounting, EVERY, look};
use crate::export::wall;

fn at(text: &str) -> u64 {
    wall::parse(text).unwrap() / 1_000_000
}

fn snapshot(quota: Quota, generation: u32) -> Snapshot {
    let class = |name: &str, quota| Class { name: name.into(), quota, ..Class::default() };
    Snapshot {
        ports: vec![PortConfig {
            name: "wan".into(),
            complete_checksums: false,
            any_mac: false,
            invent_neighbors: false,
            host_is_kernel: false,
        }],
        classes: vec![class("guests", quota), class("slow", Quota::default())],
        shapers: vec![Shaper {
            port: 0,
            rate: Some(Rate { bits_per_second: 1_000_000 }),
            overhead: Default::default(),
            frames: 64,
            order: vec![],
            default: 0,
        }],
        generation,
        ..Snapshot::default()
    }
}

fn row(class: u16, host: Option<u8>, octets: u64) -> (u32, OctetRow) {
    let host = host.map(|last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().to_bits());
    (0, OctetRow { class, host, octets })
}

fn find<'a>(book: &'a Book, class: &str, host: Option<u8>) -> &'a Account {
    let host = host.map(|last| Ipv4Addr::new(10, 0, 0, last).into());
    book.accounts().into_iter().find(|a| a.who.class == class && a.who.host == host).unwrap()
}

#[test]
fn the_95th_percentile_is_the_largest_of_what_is_left_of_all_samples_of_the_month() {
    let snapshot = snapshot(Quota::default(), 0);
    let mut book = Book::default();
    let (begin, end) = (at("2026-04-01T00:00:00Z"), at("2026-05-01T00:00:00Z"));
    // A model keeps all samples; a third of them are idle, a few are bursts.
    let (mut all, mut seed) = (Vec::new(), 1u64);
    let mut now = begin;
    while now < end {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let octets = match seed >> 60 {
            0 => 1_000_000_000 + (seed >> 40),
            1..=5 => 0,
            _ => seed >> 44,
        };
        all.push(octets);
        // In two parts, the second at the very end of the sample.
        book.take_in(now + 150, &[row(0, None, octets / 2)], &snapshot);
        book.take_in(now + SAMPLE, &[row(0, None, octets - octets / 2)], &snapshot);
        now += SAMPLE;
    }
    // The last sample ends with the month, so it is looked at from within.
    let account = find(&book, "guests", None);
    assert_eq!((account.samples as usize, all.len()), (8639, 8640));
    assert_eq!(account.octets, all.iter().sum::<u64>());
    let mut sorted = all[..8639].to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(account.p95(), sorted[431] * 8 / SAMPLE, "431 of 8,639 are left out");
    book.take_in(end + EVERY, &[row(0, None, 7)], &snapshot);
    let account = find(&book, "guests", None);
    assert_eq!((account.samples, account.octets, account.p95()), (0, 7, 0), "another month");
}

#[test]
fn of_few_samples_the_largest_counts_and_from_20_on_the_largest_does_not() {
    let snapshot = snapshot(Quota::default(), 0);
    let mut book = Book::default();
    let begin = at("2026-04-01T00:00:00Z");
    for sample in 1..=20 {
        let octets = if sample == 3 { 30_000_000 } else { 3_000_000 };
        book.take_in(begin + sample * SAMPLE, &[row(0, None, octets)], &snapshot);
    }
    book.take_in(begin + 20 * SAMPLE, &[], &snapshot);
    assert_eq!((find(&book, "guests", None).samples, find(&book, "guests", None).p95()), (19, 800_000));
    book.take_in(begin + 20 * SAMPLE + EVERY, &[], &snapshot);
    assert_eq!((find(&book, "guests", None).samples, find(&book, "guests", None).p95()), (20, 80_000));
}

#[test]
fn a_quota_is_used_up_once_and_there_again_with_the_next_period() {
    let quota = Quota { octets: Some(1000), each: Some(400), period: Period::Daily, over: Over::Class(1) };
    let before = snapshot(quota, 0);
    let mut book = Book::default();
    let mut now = at("2026-04-01T10:00:00Z");
    let mut step = |rows: &[(u32, OctetRow)], of: &Snapshot| {
        now += EVERY;
        book.take_in(now, rows, of);
        book.changes(of)
    };
    let host = |last| Some(Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().to_bits());
    assert_eq!(
        step(&[row(0, None, 999), row(0, Some(1), 399), row(0, Some(2), 600)], &before),
        [Spent { class: 0, host: host(2), over: Over::Class(1) }]
    );
    assert_eq!(step(&[row(0, None, 1)], &before), [Spent { class: 0, host: None, over: Over::Class(1) }]);
    assert_eq!(step(&[row(0, None, 1)], &before), []);
    // Under another configuration they are told again; what is pending of it is counted then.
    let after = snapshot(Quota { octets: None, ..quota }, 1);
    let (_, early) = row(0, Some(1), 1);
    assert_eq!(step(&[(1, early)], &before), []);
    let mut told = step(&[], &after);
    told.sort_by_key(|spent| spent.host);
    let over = Over::Class(1);
    assert_eq!(
        told,
        [
            Spent { class: 0, host: None, over: Over::Pass },
            Spent { class: 0, host: host(1), over },
            Spent { class: 0, host: host(2), over },
        ]
    );
    // The last ten seconds of the day are its.
    book.take_in(at("2026-04-02T00:00:00Z"), &[(1, row(0, None, 5).1)], &after);
    assert_eq!(find(&book, "guests", None).octets, 1006);
    assert_eq!(book.changes(&after), []);
    book.take_in(at("2026-04-02T00:00:10Z"), &[(1, row(0, None, 5).1)], &after);
    assert_eq!(find(&book, "guests", None).octets, 5);
    assert_eq!(book.changes(&after).len(), 2);
}

#[test]
fn a_quota_that_is_heeded_is_looked_at_twice_a_second_and_told_within_a_sample() {
    let heeded = snapshot(Quota { each: Some(400), over: Over::Drop, ..Quota::default() }, 0);
    let second = at("2026-04-01T10:00:01Z") * 1_000_000;
    let looks: Vec<(u64, u64)> = (0..=5)
        .map(|quarter| look(second + quarter * 250_000, &heeded))
        .map(|(at, to)| (at - second, to))
        .collect();
    let to = second / 1_000_000;
    let half = 500_000;
    assert_eq!(
        looks,
        [(0, to), (0, to), (half, to + 1), (half, to + 1), (2 * half, to + 1), (2 * half, to + 1)]
    );
    let counted = snapshot(Quota { each: Some(400), ..Quota::default() }, 0);
    assert_eq!(look(second, &counted).1, to - 1, "every ten seconds where nothing becomes of it");

    let mut book = Book::default();
    let host = |last| Some(Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().to_bits());
    let mut told = Vec::new();
    for step in 0..20 {
        book.take_in(to + step / 2, &[row(0, Some(1), 30), row(0, Some(2), 10)], &heeded);
        told.push(book.changes(&heeded));
    }
    let over = [Spent { class: 0, host: host(1), over: Over::Drop }];
    assert!(told.iter().enumerate().all(|(step, told)| told[..] == over[..usize::from(step == 13)]));
    book.take_in(to + SAMPLE, &[], &heeded);
    assert_eq!(book.changes(&heeded), [], "as they have been told");
}

#[test]
fn accounts_outlive_the_process_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounting.json");
    let snapshot = snapshot(Quota::default(), 0);
    let now = at("2026-04-10T10:00:00Z");
    let (mut first, said) = Accounting::open(Some(path.clone()));
    assert_eq!(said, None);
    for sample in 0..30 {
        first.take_in(now + sample * SAMPLE, &[row(0, None, 1000 + sample), row(0, Some(1), 10)], &snapshot);
    }
    assert_eq!(first.save(now, true), None);
    let (second, said) = Accounting::open(Some(path.clone()));
    assert_eq!((said, second.show(&snapshot)), (None, first.show(&snapshot)));
    assert_eq!(second.book.accounts, first.book.accounts);

    std::fs::write(&path, "{\"version\": 1, \"acc").unwrap();
    let (third, said) = Accounting::open(Some(path.clone()));
    assert!(said.unwrap().contains("accounts begin anew"));
    assert!(third.book.accounts.is_empty() && path.with_extension("unread").exists());
}
