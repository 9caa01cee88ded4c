//! Captures of every kind that the reader knows, made by hand; what it says about the broken ones; and that nothing
//! read from a file makes it panic or go on for ever.

use proptest::prelude::*;
use sluice_dataplane::clock::LATEST;
use sluice_dataplane::port::pcap::{Fault, MAX_RECORD, PcapError, Reader, Record, Writer};

type Packets = Vec<(u64, u32, Vec<u8>)>;

fn read(bytes: &[u8]) -> (Packets, Option<PcapError>) {
    let mut packets = Vec::new();
    let mut reader = match Reader::new("test.pcap", bytes) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    loop {
        match reader.advance() {
            Ok(Some(Record { time, wire_len })) => packets.push((time, wire_len, reader.bytes().to_vec())),
            Ok(None) => return (packets, None),
            Err(error) => {
                assert!(matches!(reader.advance(), Ok(None)), "an error is the end");
                assert!(reader.bytes().is_empty());
                return (packets, Some(error));
            }
        }
    }
}

fn packets_of(bytes: &[u8]) -> Packets {
    let (packets, error) = read(bytes);
    assert!(error.is_none(), "{}", error.unwrap());
    packets
}

fn error_of(bytes: &[u8]) -> PcapError {
    read(bytes).1.expect("an error")
}

/// Fields in one byte order.
#[derive(Clone, Copy)]
struct Order(bool);

const LITTLE: Order = Order(false);
const BIG: Order = Order(true);

impl Order {
    fn u16(self, value: u16) -> Vec<u8> {
        if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec()
    }

    fn u32s(self, values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| if self.0 { v.to_be_bytes() } else { v.to_le_bytes() }).collect()
    }

    fn classic(self, magic: u32, link_type: u32) -> Vec<u8> {
        [self.u32s(&[magic]), self.u16(2), self.u16(4), self.u32s(&[0, 0, 65535, link_type])].concat()
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let total = (12 + body.len() + padding.len()) as u32;
        [self.u32s(&[kind, total]), body.to_vec(), padding, self.u32s(&[total])].concat()
    }

    fn section(self) -> Vec<u8> {
        let body = [self.u32s(&[0x1a2b_3c4d]), self.u16(1), self.u16(0), self.u32s(&[u32::MAX, u32::MAX])];
        self.block(0x0a0d_0d0a, &body.concat())
    }

    fn interface(self, link_type: u16, snapshot: u32, options: &[u8]) -> Vec<u8> {
        let body = [self.u16(link_type), self.u16(0), self.u32s(&[snapshot]), options.to_vec()];
        self.block(1, &body.concat())
    }

    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [self.u16(code), self.u16(value.len() as u16), value.to_vec(), padding].concat()
    }

    fn enhanced(self, interface: u32, units: u64, wire_len: u32, bytes: &[u8]) -> Vec<u8> {
        let fixed = [interface, (units >> 32) as u32, units as u32, bytes.len() as u32, wire_len];
        let padding = vec![0; bytes.len().next_multiple_of(4) - bytes.len()];
        let comment = self.option(1, b"a comment");
        self.block(6, &[self.u32s(&fixed), bytes.to_vec(), padding, comment].concat())
    }
}

#[test]
fn classic_pcap_in_both_orders_and_all_units() {
    for order in [LITTLE, BIG] {
        for (magic, nanos, extra) in [(0xa1b2_c3d4, 7000, 0), (0xa1b2_3c4d, 7, 0), (0xa1b2_cd34, 7000, 8)] {
            let mut capture = order.classic(magic, 1);
            for (seconds, bytes) in [(1, &b"first"[..]), (2, b"")] {
                capture.extend(order.u32s(&[seconds, 7, bytes.len() as u32, bytes.len() as u32]));
                capture.extend(vec![0xee; extra]);
                capture.extend(bytes);
            }
            let expected =
                vec![(1_000_000_000 + nanos, 5, b"first".to_vec()), (2_000_000_000 + nanos, 0, vec![])];
            assert_eq!(packets_of(&capture), expected);
        }
    }
}

#[test]
fn pcapng_in_both_orders_with_every_kind_of_packet_block() {
    for order in [LITTLE, BIG] {
        let capture = [
            order.section(),
            order.block(0x0000_0bad, &[1, 2, 3, 4, 5]),
            order.interface(1, 4, &order.option(2, b"eth0")),
            order.enhanced(0, 1_000_002, 9, b"enhanced!"),
            order.block(3, &[order.u32s(&[6]), b"simp".to_vec()].concat()),
            order.block(
                2,
                &[order.u16(0), order.u16(77), order.u32s(&[0, 3_000_000, 3, 8]), b"old".to_vec()].concat(),
            ),
            order.block(5, &[0; 12]),
        ];
        let expected = vec![
            (1_000_002_000, 9, b"enhanced!".to_vec()),
            (1_000_002_000, 6, b"simp".to_vec()),
            (3_000_000_000, 8, b"old".to_vec()),
        ];
        assert_eq!(packets_of(&capture.concat()), expected);
    }
}

#[test]
fn pcapng_times_have_the_resolution_and_offset_of_their_interface() {
    let order = LITTLE;
    let end = order.option(0, &[]);
    let cases: [(Vec<u8>, u64, u64); 9] = [
        (vec![], 5, 5_000),
        (order.option(9, &[9]), 5, 5),
        (order.option(9, &[0]), 5, 5_000_000_000),
        (order.option(9, &[12]), 5_999, 5),
        (order.option(9, &[127]), u64::MAX, 0),
        (order.option(9, &[0x80 | 10]), 1536, 1_500_000_000),
        ([order.option(14, &3i64.to_le_bytes()), order.option(9, &[9])].concat(), 5, 3_000_000_005),
        (order.option(14, &(-1i64).to_le_bytes()), 2_000_000, 1_000_000_000),
        (order.option(14, &i64::MIN.to_le_bytes()), 1, 0),
    ];
    for (options, units, nanos) in cases {
        let interface = order.interface(1, 0, &[options, end.clone()].concat());
        let capture = [order.section(), interface, order.enhanced(0, units, 1, b"x")].concat();
        assert_eq!(packets_of(&capture), [(nanos, 1, b"x".to_vec())]);
    }
    let saturated = order.interface(1, 0, &order.option(14, &i64::MAX.to_le_bytes()));
    let capture = [order.section(), saturated, order.enhanced(0, u64::MAX, 1, b"x")].concat();
    assert_eq!(packets_of(&capture)[0].0, LATEST);
}

#[test]
fn a_section_has_its_own_order_and_interfaces() {
    let capture = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.enhanced(0, 1, 3, b"one"),
        BIG.section(),
        BIG.interface(1, 0, &BIG.option(9, &[9])),
        BIG.enhanced(0, 2, 3, b"two"),
        LITTLE.section(),
        LITTLE.enhanced(0, 3, 5, b"three"),
    ];
    let (packets, error) = read(&capture.concat());
    assert_eq!(packets, [(1000, 3, b"one".to_vec()), (2, 3, b"two".to_vec())]);
    assert!(matches!(error.unwrap().fault, Fault::NoInterface { packet: 3, interface: 0 }));
}

#[test]
fn an_interface_that_is_not_ethernet_matters_when_it_has_a_packet() {
    let capture = [LITTLE.section(), LITTLE.interface(113, 0, &[]), LITTLE.interface(1, 0, &[])].concat();
    assert_eq!(packets_of(&capture), []);
    let good = [capture, LITTLE.enhanced(1, 1, 1, b"x")].concat();
    assert_eq!(packets_of(&good).len(), 1);
    let (packets, error) = read(&[good, LITTLE.enhanced(0, 1, 1, b"x")].concat());
    assert_eq!(packets.len(), 1);
    assert_eq!(
        error.unwrap().to_string(),
        "test.pcap: at byte 120: link type 113 (Linux cooked, as of \"-i any\") is not Ethernet; \
         capture on an Ethernet interface"
    );
}

#[test]
fn what_is_no_capture_is_told_from_one() {
    let text = |bytes: &[u8]| error_of(bytes).to_string();
    assert_eq!(
        text(b""),
        "test.pcap: the file is empty; a capture has a header even when it holds no packet"
    );
    assert_eq!(
        text(b"GET / HTTP/1.1\r\n\r\n"),
        "test.pcap: neither a pcap nor a pcapng capture (the file begins with 47 45 54 20)"
    );
    assert_eq!(
        text(&LITTLE.classic(0xa1b2_c3d4, 105)),
        "test.pcap: at byte 20: link type 105 (802.11) is not Ethernet; capture on an Ethernet interface"
    );
    let mut version = LITTLE.classic(0xa1b2_c3d4, 1);
    version[4] = 3;
    assert_eq!(text(&version), "test.pcap: at byte 4: version 3.4 of pcap is not known");
    let mut section = BIG.section();
    section[8] = 0;
    assert!(matches!(error_of(&section).fault, Fault::NotACapture(_)));
    assert!(matches!(error_of(&[0xd4]).fault, Fault::NotACapture(_)));
    assert!(packets_of(&LITTLE.classic(0xa1b2_c3d4, 1)).is_empty());
    assert!(packets_of(&BIG.section()).is_empty());
}

#[test]
fn lengths_are_bounded() {
    let mut capture = BIG.classic(0xa1b2_c3d4, 1);
    capture.extend(BIG.u32s(&[0, 0, MAX_RECORD as u32, MAX_RECORD as u32]));
    capture.extend(vec![1; MAX_RECORD]);
    assert_eq!(packets_of(&capture)[0].2.len(), MAX_RECORD);
    capture.extend(BIG.u32s(&[0, 0, u32::MAX, 60]));
    assert_eq!(
        error_of(&capture).to_string(),
        "test.pcap: at byte 262184: packet 2 claims to have 4294967295 captured bytes; a record holds 262144 at most"
    );

    let start = [LITTLE.section(), LITTLE.interface(1, 0, &[])].concat();
    let with = |block: Vec<u8>| error_of(&[start.clone(), block].concat()).fault;
    for total in [0, 8, 11, 14, 28] {
        let fault = with([LITTLE.u32s(&[6, total]), vec![0; 64]].concat());
        assert!(matches!(fault, Fault::BlockLength { kind: 6, bytes } if bytes == total), "{fault}");
    }
    let mut past = LITTLE.enhanced(0, 0, 4, b"four");
    past[20] = 200;
    assert!(matches!(with(past), Fault::PastBlock { packet: 1, bytes: 200 }));
    let mut ends = LITTLE.enhanced(0, 0, 4, b"four");
    let at = ends.len() - 4;
    ends[at] ^= 4;
    assert!(matches!(with(ends), Fault::BlockEnd(..)));
    assert!(matches!(with(LITTLE.u32s(&[0xbad, 0xffff_fffc])), Fault::CutOff { packets: 0 }));
    let options = [LITTLE.u16(9), LITTLE.u16(u16::MAX)].concat();
    assert!(packets_of(&[start.clone(), LITTLE.interface(1, 0, &options)].concat()).is_empty());
}

#[test]
fn a_snapped_packet_keeps_its_length_on_the_wire() {
    let mut bytes = Vec::new();
    Writer::new("test", &mut bytes).unwrap().write_snapped(7, b"part", 1500).unwrap();
    assert_eq!(packets_of(&bytes), [(7, 1500, b"part".to_vec())]);
}

/// A capture of each format with some packets in it.
fn samples() -> Vec<Vec<u8>> {
    let mut classic = Vec::new();
    let mut writer = Writer::new("sample", &mut classic).unwrap();
    for i in 0..6u8 {
        writer.write(u64::from(i) * 1_500_000_000, &vec![i; usize::from(i) * 11]).unwrap();
    }
    let order = BIG;
    let pcapng = [
        order.section(),
        order.interface(1, 40, &[order.option(9, &[6]), order.option(14, &[0; 8])].concat()),
        order.enhanced(0, 5, 30, &[3; 30]),
        order.block(3, &[order.u32s(&[50]), vec![4; 40]].concat()),
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.enhanced(0, 5, 21, &[5; 21]),
    ];
    vec![classic, pcapng.concat()]
}

#[test]
fn every_cut_gives_the_packets_before_it() {
    for sample in samples() {
        let whole = packets_of(&sample);
        for end in 0..sample.len() {
            let (packets, error) = read(&sample[..end]);
            assert_eq!(packets, whole[..packets.len()]);
            if let Some(error) = error {
                assert!(
                    end < 4
                        || matches!(error.fault, Fault::CutOff { packets: n } if n as usize == packets.len())
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(
        packets in prop::collection::vec(
            (0..u64::from(u32::MAX) * 1_000_000_000, prop::collection::vec(any::<u8>(), 0..300)), 0..20)
    ) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new("test", &mut bytes).unwrap();
        for (time, packet) in &packets {
            writer.write(*time, packet).unwrap();
        }
        writer.flush().unwrap();
        let expected: Packets = packets.into_iter().map(|(t, p)| (t, p.len() as u32, p)).collect();
        prop_assert_eq!(packets_of(&bytes), expected);
    }

    #[test]
    fn a_damaged_capture_is_read_to_an_end(
        sample in prop::sample::select(samples()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let end = end.index(bytes.len() * 2).min(bytes.len());
        let (packets, _) = read(&bytes[..end]);
        prop_assert!(packets.iter().map(|(_, _, packet)| packet.len()).sum::<usize>() <= end);
    }

    #[test]
    fn garbage_behind_a_good_header_is_read_to_an_end(
        order in any::<bool>(),
        classic in any::<bool>(),
        garbage in prop::collection::vec(prop_oneof![Just(0u8), 0..16u8, any::<u8>()], 0..600),
    ) {
        let order = Order(order);
        let header = if classic { order.classic(0xa1b2_3c4d, 1) } else { order.section() };
        let (packets, _) = read(&[header, garbage].concat());
        prop_assert!(packets.len() <= 600 / 12);
    }
}
