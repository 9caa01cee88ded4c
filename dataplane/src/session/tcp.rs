//! Where a TCP connection stands, followed from both sides as far as NAT needs it (RFC 5382, RFC 7857).
//!
//! Seen are the packets that open or end, and few others: those of a flow that is [watched](super::FlowAction::WATCH).
//! These are the first ones until a side has acknowledged the other, as that completes the handshake, and one for each
//! mebibyte, as its sequence number is what a reset is measured by. In between, the bytes that passed tell how far the sequence numbers can have come; so the
//! window in which a reset counts is narrow for a quiet connection, which it could hurt, and wide for a busy one, which it
//! could not.

use sluice_pkt::tcp::{ACK, FIN, RST, SYN};

use super::flow::Direction;

/// A packet of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its flags; of several packets, all that they had.
    pub flags: u8,
    /// Its sequence number; of several packets, that of the last.
    pub sequence: u32,
}

impl Segment {
    /// Whether the sender has more to say before its end counts as heard.
    pub(super) const fn is_bare_syn(self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
}

/// How far from what was seen a sequence number may be: room for a receiver's window, as segments may be lost or late.
const WINDOW: u32 = 1 << 20;
/// After so many KiB, nothing can be said any more about sequence numbers.
const FORGOTTEN: u32 = 1 << 20;
/// After so many KiB, another sequence number is wanted.
pub(super) const SAMPLE: u32 = 1 << 10;

/// What was seen of each side, a bit each.
const SYN_SEEN: [u16; 2] = [1, 2];
const ACKED: [u16; 2] = [4, 8];
const FIN_SEEN: [u16; 2] = [16, 32];
const SAMPLED: [u16; 2] = [64, 128];
const RESET: u16 = 256;

/// The state of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    seen: u16,
    /// A sequence number of each side.
    sequence: [u32; 2],
    /// How much had passed then, in KiB, wrapping.
    at: [u32; 2],
}

impl Connection {
    /// What it is made of: what was seen, a sequence number of each side, and how much had passed then.
    pub(super) const fn parts(&self) -> (u16, [u32; 2], [u32; 2]) {
        (self.seen, self.sequence, self.at)
    }

    /// Of its [parts](Self::parts).
    pub(super) const fn restored(seen: u16, sequence: [u32; 2], at: [u32; 2]) -> Self {
        Self { seen, sequence, at }
    }

    const fn has(&self, bits: u16) -> bool {
        self.seen & bits == bits
    }

    /// Whether a side has acknowledged the other; until then it is watched.
    pub(super) const fn has_acknowledged(&self, direction: Direction) -> bool {
        self.has(ACKED[direction as usize])
    }

    /// Whether both sides have acknowledged the other, and so want it.
    pub(super) const fn is_established(&self) -> bool {
        self.has(ACKED[0] | ACKED[1])
    }

    /// Whether it was reset, or finished by both sides.
    pub(super) const fn is_closing(&self) -> bool {
        self.has(RESET) || self.has(FIN_SEEN[0] | FIN_SEEN[1])
    }

    /// Whether it was reset.
    pub(super) const fn is_reset(&self) -> bool {
        self.has(RESET)
    }

    /// The flags that were seen of a side; a reset counts as both sides'.
    pub(super) fn flags(&self, direction: Direction) -> u8 {
        let side = direction as usize;
        let flag = |bit: u16, flag: u8| if self.has(bit) { flag } else { 0 };
        flag(SYN_SEEN[side], SYN) | flag(ACKED[side], ACK) | flag(FIN_SEEN[side], FIN) | flag(RESET, RST)
    }

    /// Whether another sequence number is wanted of a side, of which so many bytes have passed in all.
    pub(super) const fn wants_sample(&self, direction: Direction, bytes: u64) -> bool {
        ((bytes >> 10) as u32).wrapping_sub(self.at[direction as usize]) > SAMPLE
    }

    /// Takes in a segment of one side, of which so many bytes have passed in all.
    pub(super) fn follow(&mut self, segment: Segment, direction: Direction, bytes: u64) {
        let (side, Segment { flags, sequence }) = (direction as usize, segment);
        if flags & SYN != 0 {
            if self.is_closing() && segment.is_bare_syn() {
                // RFC 9293 3.6.1: a new connection in the place of one that waits for its end.
                *self = Self::default();
            } else if self.is_established() || self.is_closing() {
                return;
            }
            self.seen |= SYN_SEEN[side];
        } else if !self.is_in_window(segment, direction, bytes) {
            // RFC 7857 2.2: a reset that is not of the connection must not end it (as RFC 5961 3.2 has it for hosts).
            return;
        }
        if flags & RST != 0 {
            self.seen |= RESET;
            return;
        }
        if flags & FIN != 0 {
            self.seen |= FIN_SEEN[side];
        }
        if flags & ACK != 0 && (flags & SYN != 0 || self.has(SAMPLED[side]) || direction == Direction::Reply)
        {
            self.seen |= ACKED[side];
        }
        self.seen |= SAMPLED[side];
        self.sequence[side] = sequence;
        self.at[side] = (bytes >> 10) as u32;
    }

    fn is_in_window(&self, segment: Segment, direction: Direction, bytes: u64) -> bool {
        let side = direction as usize;
        let passed = ((bytes >> 10) as u32).wrapping_sub(self.at[side]);
        if !self.has(SAMPLED[side]) || passed > FORGOTTEN {
            return true;
        }
        let first = self.sequence[side].wrapping_sub(WINDOW);
        segment.sequence.wrapping_sub(first) <= 2 * WINDOW + (passed + 1) * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Forward, Reply};
    use super::*;

    fn connection(segments: &[(Direction, u8, u32)]) -> Connection {
        let mut connection = Connection::default();
        for &(direction, flags, sequence) in segments {
            connection.follow(Segment { flags, sequence }, direction, 0);
        }
        connection
    }

    const OPEN: [(Direction, u8, u32); 3] =
        [(Forward, SYN, 1000), (Reply, SYN | ACK, 7_000_000), (Forward, ACK, 1001)];

    fn is_reset_by(direction: Direction, sequence: u32, passed: u64) -> bool {
        let mut connection = connection(&OPEN);
        assert!(connection.is_established() && !connection.is_closing());
        connection.follow(Segment { flags: RST, sequence }, direction, passed);
        connection.is_closing()
    }

    /// proves: RFC 5382 REQ-2
    #[test]
    fn a_handshake_from_either_side_or_both_establishes() {
        assert!(!connection(&OPEN[..2]).is_established());
        assert!(!connection(&[OPEN[0], OPEN[0], OPEN[1], OPEN[0]]).is_established(), "SYN is sent again");
        assert!(connection(&OPEN).is_established());
        let both =
            [(Forward, SYN, 1000), (Reply, SYN, 5000), (Forward, SYN | ACK, 1000), (Reply, SYN | ACK, 5000)];
        assert!(!connection(&both[..3]).is_established());
        assert!(connection(&both).is_established());
        let midstream = [(Forward, ACK, 1), (Reply, ACK, 2), (Forward, ACK, 3)];
        assert!(!connection(&midstream[..2]).is_established());
        assert!(connection(&midstream).is_established());
    }

    #[test]
    fn both_sides_must_finish_and_a_syn_begins_anew() {
        let mut connection = connection(&OPEN);
        let mut follow = |direction, flags, sequence| {
            connection.follow(Segment { flags, sequence }, direction, 0);
            (connection.is_established(), connection.is_closing())
        };
        assert_eq!(follow(Forward, FIN | ACK, 1001), (true, false), "half closed");
        assert_eq!(follow(Reply, ACK, 7_000_001), (true, false));
        assert_eq!(follow(Forward, SYN, 900_000_000), (true, false), "not in the place of a live one");
        assert_eq!(follow(Reply, FIN | ACK, 7_000_001), (true, true));
        assert_eq!(follow(Forward, SYN, 900_000_000), (false, false));
        assert_eq!(follow(Reply, SYN | ACK, 1_900_000_000), (false, false));
        assert_eq!(follow(Forward, ACK, 900_000_001), (true, false));
        assert_eq!(follow(Forward, FIN, 1001), (true, false), "a late segment of the old one");
        assert_eq!(follow(Reply, RST, 1_900_000_001), (true, true));
    }

    /// proves: RFC 7857 2.2
    #[test]
    fn a_reset_counts_in_the_window_only() {
        assert!(is_reset_by(Forward, 1001, 0) && is_reset_by(Reply, 7_000_001, 0));
        assert!(is_reset_by(Reply, 7_000_000 + WINDOW, 0) && is_reset_by(Reply, 7_000_000 - WINDOW, 0));
        assert!(!is_reset_by(Reply, 7_010_000 + WINDOW, 0) && !is_reset_by(Reply, 6_999_999 - WINDOW, 0));
        assert!(!is_reset_by(Forward, 7_000_001, 0), "the other side's number");
        assert!(is_reset_by(Forward, 1001 + (50 << 20), 50 << 20), "so much has passed");
        assert!(!is_reset_by(Forward, 1001 + (52 << 20), 50 << 20));
        assert!(is_reset_by(Forward, 12_345, 2 << 30), "nobody can tell");
        let refused = connection(&[OPEN[0], (Reply, RST | ACK, 0)]);
        assert!(refused.is_closing(), "nothing is known of that side yet");
    }
}
