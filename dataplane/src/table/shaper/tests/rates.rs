//! Rates are exact.

use super::*;

/// Bytes sent up to each millisecond, of a class that always has packets, by a caller that comes at odd times.
fn sent_by_millisecond(bits: u64, at_port: bool, sizes: &[u32], latest_ns: u64, seconds: u64) -> Vec<u64> {
    let (port, class) = if at_port { (max(bits), Rates::default()) } else { (Rates::default(), max(bits)) };
    let mut shaper = Shaper::new(&Config { rates: port, slots: 20_000, mtu: 9216, ..Config::default() });
    let config = ClassConfig { rates: class, ..patient(Kind::Leaf) };
    let leaf = shaper.add_class(ROOT, &config).unwrap();
    let (mut random, mut out) = (Random(bits), Out::default());
    let (mut now, mut bytes, mut waiting) = (START, 0, 0);
    let mut by_millisecond = vec![];
    while now < START + seconds * SECOND {
        while waiting < 18_000 {
            let len = sizes[random.below(sizes.len() as u64) as usize];
            shaper.enqueue(now, packet(leaf, random.below(3) as u32, len, len.into()), &mut out);
            waiting += 1;
        }
        let elapsed = ((now - START) / MILLISECOND) as usize;
        by_millisecond.resize(elapsed.max(by_millisecond.len()), bytes);
        waiting -= shaper.dequeue(now, usize::MAX, &mut out);
        bytes += out.sent.drain(..).map(|(len, _)| len).sum::<u64>();
        assert!(out.dropped.is_empty());
        // A caller that sleeps until something is due, and is late.
        now = (now + 1).max(shaper.next_due()) + random.below(latest_ns);
    }
    by_millisecond
}

#[test]
fn any_second_has_its_rate_to_half_a_percent_or_a_packet() {
    let rates = [64_000, 1_000_000, 33_333_333, 900_000_000, 10_000_000_000, 40_000_000_000];
    for bits in rates {
        for (at_port, sizes) in [(true, &[64, 576, 1514, 9000][..]), (false, &[1514]), (true, &[64])] {
            // So many small ones take long to go through.
            if bits > 1_000_000_000 && sizes == [64] {
                continue;
            }
            let sent =
                sent_by_millisecond(bits, at_port, sizes, 300_000, if bits < 1_000_000 { 60 } else { 2 });
            let largest = f64::from(sizes.iter().copied().max().unwrap());
            let wanted = bits as f64 / 8.0;
            for (start, end) in sent.iter().zip(&sent[1000..]) {
                let off = ((end - start) as f64 - wanted).abs();
                assert!(
                    off <= largest.max(wanted / 200.0),
                    "{bits} bit/s, {sizes:?}: {off} of {wanted} bytes off"
                );
            }
        }
    }
}

#[test]
fn wire_lengths_are_what_counts() {
    let overhead = Overhead { bytes: 24, least: 84, atm: false };
    let config = Config { rates: max(8_400_000), overhead, slots: 20_000, ..Config::default() };
    let mut shaper = Shaper::new(&config);
    let leaf = shaper.add_class(ROOT, &patient(Kind::Leaf)).unwrap();
    let mut out = Out::default();
    (0..16_000).for_each(|item| shaper.enqueue(START, packet(leaf, 0, 42, item), &mut out));
    let mut now = START;
    while now < START + SECOND {
        shaper.dequeue(now, usize::MAX, &mut out);
        now = shaper.next_due();
    }
    // 84 bytes each, and a millisecond's burst.
    assert!(out.sent.len().abs_diff(12_500 + 13) <= 1, "{}", out.sent.len());
    assert_eq!(shaper.stats(leaf).map(|stats| stats.bytes), Some(84 * out.sent.len() as u64));
}

#[test]
fn a_rate_may_change_at_any_time() {
    let mut shaper = Shaper::new(&Config { rates: max(8_000_000), slots: 20_000, ..Config::default() });
    let leaf = shaper.add_class(ROOT, &patient(Kind::Leaf)).unwrap();
    let mut out = Out::default();
    (0..10_000).for_each(|item| shaper.enqueue(START, packet(leaf, 0, 1000, item), &mut out));
    let mut sent = |shaper: &mut Shaper<u64>, from: u64, to: u64| {
        let before = out.sent.len();
        let mut now = from;
        while now < to {
            shaper.dequeue(now, usize::MAX, &mut out);
            now = shaper.next_due().max(now + 1);
        }
        out.sent.len() - before
    };
    assert!(sent(&mut shaper, START, START + SECOND).abs_diff(1000) <= 2);
    shaper.set_rate(START + SECOND, ROOT, &max(80_000));
    assert!(sent(&mut shaper, START + SECOND, START + 2 * SECOND).abs_diff(10) <= 1);
    shaper.set_rate(START + 2 * SECOND, leaf, &max(800_000));
    shaper.set_rate(START + 2 * SECOND, ROOT, &Rates::default());
    assert!(sent(&mut shaper, START + 2 * SECOND, START + 3 * SECOND).abs_diff(100) <= 1);
    shaper.set_rate(START + 3 * SECOND, leaf, &max(0));
    assert!(sent(&mut shaper, START + 3 * SECOND, START + 4 * SECOND) <= 1, "a rate of nothing");
    shaper.set_rate(START + 4 * SECOND, leaf, &Rates::default());
    sent(&mut shaper, START + 4 * SECOND, START + 4 * SECOND + 1);
    assert!(shaper.is_empty() && shaper.next_due() == NEVER);
}

#[test]
fn hours_may_pass_between_packets() {
    let mut shaper = Shaper::new(&Config { rates: max(64_000), ..Config::default() });
    let leaf = shaper.add_class(ROOT, &ClassConfig { rates: max(32_000), ..patient(Kind::Leaf) }).unwrap();
    let mut out = Out::default();
    for hours in [0, 1, 100_000] {
        let now = START + hours * 3600 * SECOND;
        (0..10).for_each(|item| shaper.enqueue(now, packet(leaf, 0, 1500, item), &mut out));
        assert_eq!(shaper.dequeue(now, usize::MAX, &mut out), 1, "a pause saves no more than the burst");
        let due = shaper.next_due();
        assert!(due > now && due <= now + 375 * MILLISECOND, "{}", due - now);
        assert_eq!(shaper.dequeue(now + 3599 * SECOND, usize::MAX, &mut out), 1);
        shaper.drain(now + 3599 * SECOND, |waiting| out.send(waiting.item, waiting.class));
    }
    assert_eq!(out.sent.len(), 30);
}
