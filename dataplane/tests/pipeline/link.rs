//! Frames that are for the gateway and frames that are not.

use std::net::Ipv4Addr;

use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, Out, SERVER, TRUNK, host, snapshot};
use crate::packets::{frame, tagged, udp};

/// Sends a frame; what came out, and why it was dropped.
fn send(lab: &mut Lab, port: usize, frame: &[u8]) -> (Vec<Out>, Option<DropReason>) {
    let before = lab.counters().drops;
    lab.send(port, frame);
    lab.poll();
    let after = lab.counters().drops;
    let dropped = DropReason::ALL.iter().find(|&&r| after[r as usize] > before[r as usize]);
    (lab.collect(), dropped.copied())
}

/// RFC 1812 5.3.4: what came as a link-layer broadcast or multicast is not forwarded, wherever it is addressed to.
#[test]
fn a_unicast_packet_in_a_group_frame_is_not_forwarded() {
    let mut lab = Lab::new(snapshot());
    for last in [7, 255] {
        let packet = udp((host(9), 4000), (Ipv4Addr::new(198, 51, 100, last), 53), b"question");
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 7]] {
            let mut frame = frame(LAN, &packet);
            frame[..6].copy_from_slice(&group);
            assert_eq!(send(&mut lab, LAN, &frame), (vec![], Some(DropReason::Multicast)));
        }
        // Nor is one of a flow that stands.
        assert_eq!(lab.pass(LAN, &packet).len(), 1);
        let mut frame = frame(LAN, &packet);
        frame[..6].fill(0xff);
        assert_eq!(send(&mut lab, LAN, &frame), (vec![], Some(DropReason::Multicast)));
    }
    lab.close();
}

#[test]
fn tags_and_addresses_of_the_link_decide_who_is_meant() {
    let mut lab = Lab::new(snapshot());
    let packet = udp((Ipv4Addr::new(10, 10, 0, 6), 1), (SERVER, 53), b"");
    for tags in [&[10][..], &[100, 200], &[], &[0]] {
        assert_eq!(send(&mut lab, TRUNK, &tagged(TRUNK, tags, &packet)).1, None, "{tags:?}");
    }
    for tags in [&[11][..], &[200, 100], &[100]] {
        let dropped = send(&mut lab, TRUNK, &tagged(TRUNK, tags, &packet)).1;
        assert_eq!(dropped, Some(DropReason::VlanUnknown), "{tags:?}");
    }
    let mut other = frame(TRUNK, &packet);
    other[5] ^= 1;
    assert_eq!(send(&mut lab, TRUNK, &other).1, Some(DropReason::NotOurMac));
    let mut forged = frame(TRUNK, &packet);
    forged[6] |= 1;
    assert_eq!(send(&mut lab, TRUNK, &forged).1, Some(DropReason::SourceInvalid));
    lab.close();
}
