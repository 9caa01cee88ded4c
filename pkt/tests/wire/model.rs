//! Every packet of the model parses to what the model says.

use crate::generate::packet;
use proptest::prelude::*;
use sluice_pkt::parse::{parse, parse_head};

proptest! {
    #![proptest_config(crate::cases(10_000))]

    #[test]
    fn a_valid_packet_parses_to_its_model(packet in packet()) {
        let (frame, expected) = packet.build();
        prop_assert_eq!(parse(&frame), Ok(expected));
    }

    #[test]
    fn a_frame_in_segments_parses_by_its_head_alone(packet in packet(), cut in 0..200usize) {
        let (frame, expected) = packet.build();
        let head = &frame[..cut.min(frame.len())];
        // Wherever the head ends, it holds all headers and parses just the same, or it is refused.
        if let Ok(headers) = parse_head(head, frame.len()) {
            prop_assert_eq!(headers, expected);
        } else {
            prop_assert!(head.len() < usize::from(expected.l4_offset) + 60);
        }
    }
}
