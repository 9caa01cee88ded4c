use super::*;
use proptest::prelude::*;

fn v4(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

#[test]
fn the_longest_of_nested_prefixes_wins_in_any_order() {
    let prefixes = [
        ("0.0.0.0", 0, 0),
        ("10.0.0.0", 8, 1),
        ("10.1.0.0", 15, 2),
        ("10.1.2.0", 24, 3),
        ("10.1.2.3", 32, 4),
    ];
    let wants = [
        ("192.0.2.1", 0),
        ("10.200.0.1", 1),
        ("10.0.0.1", 2),
        ("10.1.255.255", 2),
        ("10.1.2.2", 3),
        ("10.1.2.3", 4),
        ("10.1.2.4", 3),
        ("10.2.0.0", 1),
        ("255.255.255.255", 0),
    ];
    let forward = Lpm::build(prefixes.map(|(a, l, v)| (v4(a), l, v))).unwrap();
    let backward = Lpm::build(prefixes.iter().rev().map(|&(a, l, v)| (v4(a), l, v))).unwrap();
    for (address, want) in wants {
        assert_eq!(forward.lookup(&v4(address)), Some(want), "{address}");
        assert_eq!(backward.lookup(&v4(address)), Some(want), "{address}, reversed");
    }
}

#[test]
fn empty_edges_and_errors() {
    let mut table = Lpm::<4>::new();
    assert_eq!(table.lookup(&v4("10.0.0.1")), None);
    assert_eq!(table.insert(v4("10.0.0.0"), 33, 1), Err(LpmError::Length(33, 32)));
    assert_eq!(table.insert(v4("10.0.0.0"), 8, MAX_VALUE + 1), Err(LpmError::Value(MAX_VALUE + 1)));
    assert_eq!(table.lookup(&v4("10.0.0.1")), None);
    table.insert(v4("10.255.255.255"), 8, MAX_VALUE).unwrap();
    assert_eq!(table.lookup(&v4("10.0.0.1")), Some(MAX_VALUE));
    assert_eq!(table.lookup(&v4("11.0.0.0")), None);
    table.insert(v4("10.0.0.0"), 8, 7).unwrap();
    assert_eq!(table.lookup(&v4("10.0.0.1")), Some(7), "the last of equal prefixes wins");
    assert_eq!(Lpm::<16>::build([([0; 16], 129, 0)]).unwrap_err(), LpmError::Length(129, 128));
    assert!(table.bytes() >= 4 << 20);
}

fn holds<const N: usize>(prefix: &[u8; N], length: u8, address: &[u8; N]) -> bool {
    (0..usize::from(length)).all(|bit| (prefix[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1 == 0)
}

fn linear<const N: usize>(prefixes: &[([u8; N], u8, u32)], address: &[u8; N]) -> Option<u32> {
    let matching = prefixes.iter().filter(|(prefix, length, _)| holds(prefix, *length, address));
    // `max_by_key` gives the last of equals.
    matching.max_by_key(|(_, length, _)| *length).map(|&(_, _, value)| value)
}

/// Bytes from a small alphabet, so that prefixes nest and addresses fall into them.
fn address<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(10), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop::collection::vec(byte, N).prop_map(|bytes| bytes.try_into().unwrap())
}

fn prefixes<const N: usize>() -> impl Strategy<Value = Vec<([u8; N], u8, u32)>> {
    let bits = N as u8 * 8;
    let length =
        prop_oneof![4 => 0..=bits, 1 => Just(0), 1 => Just(bits), 2 => (0..=N as u8).prop_map(|n| n * 8)];
    prop::collection::vec((address::<N>(), length, 0..=MAX_VALUE), 0..40)
}

/// Asks one at a time, and in bursts of all sizes, with and without vectors.
fn answers<const N: usize>(table: &Lpm<N>, probes: &[[u8; N]]) -> Vec<Option<u32>> {
    let answers: Vec<_> = probes.iter().map(|probe| table.lookup(probe)).collect();
    let mut results = vec![77; probes.len()];
    for (size, vector) in [(1, true), (17, true), (64, true), (200, true), (64, false), (5, false)] {
        for (probes, results) in probes.chunks(size).zip(results.chunks_mut(size)) {
            results.fill(77);
            if vector {
                table.lookup_burst(probes, results);
            } else {
                table.shared.lookup_lanes(probes, results);
            }
        }
        let found: Vec<_> = results.iter().map(|&value| (value != NO_MATCH).then_some(value)).collect();
        assert_eq!(found, answers, "bursts of {size}, vectors {vector}");
    }
    answers
}

/// The probes, each prefix's first and last address, and their neighbours, where an error of one bit would show.
fn near<const N: usize>(prefixes: &[([u8; N], u8, u32)], probes: &[[u8; N]]) -> Vec<[u8; N]> {
    let own = prefixes.iter().flat_map(|&(prefix, length, _)| {
        let flip = |bit: u8| {
            let mut flipped = prefix;
            let bit = usize::from(bit).min(N * 8 - 1);
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            flipped
        };
        let mut last = prefix;
        for (at, byte) in last.iter_mut().enumerate() {
            *byte |= (0xff_u16 >> usize::from(length).saturating_sub(at * 8).min(8)) as u8;
        }
        let mut after = last;
        for byte in after.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        [prefix, last, after, flip(length.saturating_sub(1)), flip(length), flip(length / 2)]
    });
    probes.iter().copied().chain(own).collect()
}

fn agrees<const N: usize>(prefixes: &[([u8; N], u8, u32)], probes: &[[u8; N]]) {
    let probes = near(prefixes, probes);
    let wants: Vec<_> = probes.iter().map(|probe| linear(prefixes, probe)).collect();
    let built = Lpm::build(prefixes.iter().copied()).unwrap();
    assert_eq!(answers(&built, &probes), wants, "built at once");
    assert_eq!(answers(&built.clone(), &probes), wants, "cloned");

    let mut table = Lpm::new();
    // A reader that stays makes the writer retire what it replaces; the memory is taken ahead.
    table.reserve(10_000).unwrap();
    let reader = table.reader();
    for (count, &(prefix, length, value)) in prefixes.iter().enumerate() {
        table.insert(prefix, length, value).unwrap();
        if count % 3 == 0 {
            table.reclaim(table.retired());
        }
    }
    assert_eq!(answers(&table, &probes), wants, "one by one");
    assert!(probes.iter().zip(&wants).all(|(probe, &want)| reader.lookup(probe) == want));

    let mut rest = prefixes.to_vec();
    while let Some(&(prefix, length, _)) = rest.first() {
        let want = linear(&rest, &prefix);
        let same = |&(other, bits, _): &([u8; N], u8, u32)| bits == length && holds(&other, bits, &prefix);
        let last = rest.iter().rfind(|route| same(route)).map(|route| route.2);
        assert_eq!(table.lookup(&prefix), want);
        assert_eq!(table.remove(prefix, length), Ok(last));
        assert_eq!(table.remove(prefix, length), Ok(None));
        rest.retain(|route| !same(route));
        if rest.len() % 8 == 0 {
            let wants: Vec<_> = probes.iter().map(|probe| linear(&rest, probe)).collect();
            assert_eq!(answers(&table, &probes), wants, "with {} left", rest.len());
        }
    }
    assert!(table.is_empty());
    // All that was ever taken has come back.
    assert!(table.constants.is_empty());
    drop(reader);
    table.reclaim(u64::MAX);
    assert_eq!(table.blocks.given(), 0);
}

proptest! {
    #![proptest_config(crate::table::cases(100))]

    #[test]
    fn agrees_with_a_linear_search_v4(
        prefixes in prefixes::<4>(), probes in prop::collection::vec(address::<4>(), 50),
    ) {
        agrees(&prefixes, &probes);
    }

    #[test]
    fn agrees_with_a_linear_search_v6(
        prefixes in prefixes::<16>(), probes in prop::collection::vec(address::<16>(), 50),
    ) {
        agrees(&prefixes, &probes);
    }

    /// Many prefixes of a few bits each way below one root word, and across the middle of an IPv6 address.
    #[test]
    fn dense_and_deep_prefixes_agree(
        rest in prop::collection::vec((any::<u64>(), any::<u64>(), 20..=128u8, 0..4u32), 1..120),
        shift in prop_oneof![Just(0u32), Just(40), Just(60)],
    ) {
        let base = 0x2001_0db8_0000_0000_0000_0000_0000_0000_u128;
        let wide: Vec<_> = rest
            .iter()
            .map(|&(high, low, length, value)| {
                let bits = (u128::from(high) << 64 | u128::from(low)) & (u128::MAX >> 20 >> shift);
                ((base | bits).to_be_bytes(), length, value)
            })
            .collect();
        agrees(&wide, &[]);
        let narrow: Vec<_> = rest
            .iter()
            .map(|&(high, _, length, value)| {
                ((0x0a00_0000 | high as u32 >> 12).to_be_bytes(), 16 + length % 17, value)
            })
            .collect();
        agrees(&narrow, &[]);
    }
}

#[test]
fn a_full_table_changes_nothing_and_serves_on() {
    let mut table = Lpm::<4>::new();
    let reader = table.reader();
    let mut held = Vec::new();
    let error = loop {
        let n = held.len() as u32;
        let prefix = (n << 20 | n).to_be_bytes();
        match table.insert(prefix, 32, n) {
            Ok(()) => held.push(prefix),
            Err(error) => break error,
        }
    };
    assert_eq!(error, LpmError::Full);
    assert!(held.len() > 50);
    for length in [1, 8, 19, 20, 24] {
        // Whether it fits or not, the answers are those of one or the other.
        let before = table.lookup(&[0, 0, 0, 255]);
        let done = table.insert([0; 4], length, 1 << 20);
        let want = if done.is_ok() { Some(1 << 20) } else { before };
        assert_eq!(table.lookup(&[0, 0, 0, 255]), want);
    }
    for (n, prefix) in held.iter().enumerate() {
        assert_eq!(reader.lookup(prefix), Some(n as u32));
    }
    drop(reader);
    table.insert((4000u32 << 20).to_be_bytes(), 32, 7).unwrap();
    assert_eq!(table.len(), table.iter().count());
}

/// Readers look up while the writer flaps prefixes: each answer is the one of before or that of after.
#[test]
fn readers_see_the_old_answer_or_the_new_one() {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    fn flap<const N: usize>(base: [u8; N], lengths: [u8; 4], probe: [u8; N], aside: [u8; N]) {
        let mut table = Lpm::<N>::new();
        table.reserve(100_000).unwrap();
        table.insert(base, lengths[0], 1).unwrap();
        table.insert(aside, N as u8 * 8, 9).unwrap();
        let readers = [table.reader(), table.reader()];
        let (stop, passes) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
        std::thread::scope(|scope| {
            for (reader, passed) in readers.iter().zip(&passes) {
                let stop = &stop;
                scope.spawn(move || {
                    let addresses: Vec<_> = (0..64).map(|i| if i % 2 == 0 { probe } else { aside }).collect();
                    let mut results = vec![0; 64];
                    while !stop.load(Ordering::Relaxed) {
                        reader.lookup_burst(&addresses, &mut results);
                        for (i, &result) in results.iter().enumerate() {
                            assert!(
                                if i % 2 == 0 { (1..=4).contains(&result) } else { result == 9 },
                                "{result}"
                            );
                        }
                        assert!(reader.lookup(&probe).is_some_and(|result| (1..=4).contains(&result)));
                        passed.fetch_add(1, Ordering::Release);
                    }
                });
            }
            for round in 0..3000 {
                for (value, &length) in (1..).zip(&lengths).skip(1) {
                    let done = if (round + value) % 2 == 0 {
                        table.insert(probe, length, value).map(|()| None)
                    } else {
                        table.remove(probe, length)
                    };
                    assert!(done.is_ok());
                }
                if round % 16 == 0 {
                    let (mark, seen) =
                        (table.retired(), passes.each_ref().map(|passed| passed.load(Ordering::Acquire)));
                    // Each reader has begun a pass after the mark when it has ended two.
                    while passes
                        .iter()
                        .zip(seen)
                        .any(|(passed, seen)| passed.load(Ordering::Acquire) < seen + 2)
                    {
                        std::thread::yield_now();
                    }
                    table.reclaim(mark);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    flap(v4("10.0.0.0"), [8, 15, 24, 32], v4("10.1.2.3"), v4("10.1.2.4"));
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    flap(v6("2001:db8::"), [20, 40, 64, 128], v6("2001:db8:1:2::3"), v6("2001:db8:1:2::4"));
}
