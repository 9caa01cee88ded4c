//! Many UDP flows through a gateway and back, each packet numbered within its flow. No more packets are on their way at a
//! time than any queue holds, so none may be lost.

use std::time::{Duration, Instant};

use crate::lab::Wire;
use crate::netns::PATIENCE;

pub(crate) const FLOWS: usize = 10_000;
/// Packets on their way at most: fewer than a queue of a veth holds.
pub(crate) const WINDOW: usize = 192;
const LENGTH: usize = 60;
const IP: usize = 14;
const UDP: usize = 34;
const DATA: usize = 42;
const MARK: [u8; 4] = *b"flow";

/// The ends, and the gateway's addresses there.
pub(crate) struct Ends<'a> {
    pub(crate) lan: &'a Wire,
    pub(crate) wan: &'a Wire,
    /// The gateway's MAC addresses.
    pub(crate) gateway: [[u8; 6]; 2],
    /// The stations'.
    pub(crate) stations: [[u8; 6]; 2],
    /// The source as `wan` sees it, where it is not the flow's own.
    pub(crate) external: Option<[u8; 4]>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Packets sent each way.
    pub(crate) sent: usize,
    /// Echoes that came back.
    pub(crate) returned: usize,
    /// Packets that came behind a later one of their flow, or twice, at either end.
    pub(crate) disordered: usize,
}

/// The flow's own address and port: 100 hosts with 100 ports each.
fn source(flow: usize) -> ([u8; 4], u16) {
    ([10, 1, 0, 1 + (flow / 100) as u8], 10_000 + (flow % 100) as u16)
}

const DESTINATION: ([u8; 4], u16) = ([198, 51, 100, 7], 9);

fn frame(ends: &Ends<'_>, flow: usize, number: u32) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    let (address, port) = source(flow);
    frame[..6].copy_from_slice(&ends.gateway[0]);
    frame[6..12].copy_from_slice(&ends.stations[0]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&((LENGTH - IP) as u16).to_be_bytes());
    frame[IP + 8..IP + 10].copy_from_slice(&[64, 17]);
    frame[IP + 12..IP + 16].copy_from_slice(&address);
    frame[IP + 16..IP + 20].copy_from_slice(&DESTINATION.0);
    let mut sum: u32 =
        frame[IP..UDP].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[IP + 10..IP + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
    frame[UDP + 2..UDP + 4].copy_from_slice(&DESTINATION.1.to_be_bytes());
    // Without a checksum, as a sender may leave it (RFC 768).
    frame[UDP + 4..UDP + 6].copy_from_slice(&((LENGTH - UDP) as u16).to_be_bytes());
    frame[DATA..DATA + 4].copy_from_slice(&MARK);
    frame[DATA + 4..DATA + 8].copy_from_slice(&(flow as u32).to_be_bytes());
    frame[DATA + 8..DATA + 12].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Flow and number of one of our packets.
fn read(frame: &[u8]) -> Option<(usize, u32)> {
    if frame.get(DATA..DATA + 4)? != MARK {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    Some((word(DATA + 4)? as usize, word(DATA + 8)?))
}

/// Turns a packet round. The header's sum stays as it is.
fn turn(frame: &mut [u8], ends: &Ends<'_>) {
    frame[..6].copy_from_slice(&ends.gateway[1]);
    frame[6..12].copy_from_slice(&ends.stations[1]);
    let (source, destination) = frame[IP + 12..IP + 20].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = frame[UDP..UDP + 4].split_at_mut(2);
    source.swap_with_slice(destination);
}

/// Takes in what an earlier run, which gave up, still had on its way.
fn settle(ends: &Ends<'_>) {
    const QUIET: Duration = Duration::from_millis(50);
    let mut buffer = [0; 2048];
    let mut last = Instant::now();
    while last.elapsed() < QUIET {
        if ends.lan.receive(&mut buffer).is_some() || ends.wan.receive(&mut buffer).is_some() {
            last = Instant::now();
        }
    }
}

/// `rounds` packets of each flow, one flow after the other, each echoed by `wan`, and no more than `window` on their way. It
/// ends early if nothing returns for a while.
pub(crate) fn run(ends: &Ends<'_>, flows: usize, rounds: u32, window: usize) -> Outcome {
    let (mut there, mut back) = (vec![0u32; flows], vec![0u32; flows]);
    let all = flows * rounds as usize;
    let mut outcome = Outcome { sent: 0, returned: 0, disordered: 0 };
    let mut buffer = [0; 2048];
    settle(ends);
    // With one on its way, the next may do better.
    let silence = if window == 1 { Duration::from_millis(100) } else { PATIENCE };
    let mut progress = Instant::now();
    while outcome.returned < all && progress.elapsed() < silence {
        while outcome.sent < all && outcome.sent < outcome.returned + window {
            let (round, flow) = (outcome.sent / flows, outcome.sent % flows);
            if !ends.lan.send(&frame(ends, flow, round as u32)) {
                break;
            }
            outcome.sent += 1;
        }
        while let Some(packet) = ends.wan.receive(&mut buffer) {
            let Some((flow, number)) = read(packet) else { continue };
            outcome.disordered += usize::from(std::mem::replace(&mut there[flow], number + 1) != number);
            if let Some(external) = ends.external {
                assert_eq!(packet[IP + 12..IP + 16], external, "NAT");
            }
            turn(packet, ends);
            assert!(ends.wan.send(packet), "the echo's device is full");
        }
        while let Some(packet) = ends.lan.receive(&mut buffer) {
            let Some((flow, number)) = read(packet) else { continue };
            let (address, port) = source(flow);
            assert_eq!(packet[IP + 16..IP + 20], address, "the flow's own address");
            assert_eq!(packet[UDP + 2..UDP + 4], port.to_be_bytes(), "the flow's own port");
            outcome.disordered += usize::from(std::mem::replace(&mut back[flow], number + 1) != number);
            outcome.returned += 1;
            progress = Instant::now();
        }
    }
    outcome
}
