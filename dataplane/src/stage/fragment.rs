//! Fragments, both ways: gives later fragments the ports that their datagram's first one had, and cuts packets that are
//! too long for the egress link.
//!
//! Nothing is put together: the first fragment leaves its ports behind for the others of its datagram, which then belong to
//! its flow (virtual reassembly, RFC 4787 11). One that comes ahead of the first waits for it, and no longer than that. Only of a
//! UDP datagram without a checksum, which has to get one to leave as IPv6, all wait for each other (RFC 6146 3.4).
//!
//! Exits: fragments that wait for others; drops of those that overlap others.

mod datagrams;
mod identification;
mod split6;

use std::net::Ipv4Addr;

use sluice_pkt::checksum::Sum;
use sluice_pkt::parse::{Flags, Headers, L3, fragment_header};
use sluice_pkt::{ipv4, ipv6, udp};

use super::{addresses4, addresses6};
use crate::arena::{Frame, FramePool, MAX_FRAME};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::verdict::{DropReason, Verdict};

pub use self::datagrams::Fragments;
use self::datagrams::{Content, Course, Piece};
pub(crate) use self::datagrams::{DatagramKey, FirstFragment};
pub(in crate::stage) use self::identification::renew;
pub(super) use self::split6::split6;

/// Which datagram a fragment belongs to (RFC 791 3.2, RFC 8200 4.5), and by which interface it came.
fn datagram(bytes: &[u8], headers: &Headers, interface: u16) -> DatagramKey {
    if headers.l3 == L3::Ipv4 {
        let (src, dst) = addresses4(bytes, headers);
        let id = ipv4::Header::at(bytes, headers.l3_offset.into()).map_or(0, |ip| ip.identification());
        let word = u64::from(id) << 32 | u64::from(interface) << 16 | u64::from(headers.protocol);
        return [u64::from(src), u64::from(dst), word, 0, 4];
    }
    let (src, dst) = addresses6(bytes, headers);
    let id = fragment_header(bytes, headers).and_then(|at| ipv6::fragment::Header::at(bytes, at));
    let id = id.map_or(0, |header| header.identification());
    let word = u64::from(id) << 32 | u64::from(interface) << 16 | 6;
    [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, word]
}

/// Where a fragment lies in its datagram.
pub(super) fn piece(bytes: &[u8], headers: &Headers) -> Option<Piece> {
    let (at, offset, more) = if headers.l3 == L3::Ipv4 {
        let ip = ipv4::Header::at(bytes, headers.l3_offset.into())?;
        (usize::from(headers.l3_offset) + ip.header_len(), ip.fragment_offset(), ip.more_fragments())
    } else {
        let at = fragment_header(bytes, headers)?;
        let header = ipv6::fragment::Header::at(bytes, at)?;
        (at + ipv6::fragment::LEN, header.offset(), header.more())
    };
    let len = usize::from(headers.end).checked_sub(at)?;
    let from = offset / 8;
    Some(Piece { from, to: from + len.div_ceil(8) as u16, last: !more })
}

/// Runs the stage for packets that come in.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    for i in burst.live {
        if !burst.headers[i].flags.has(Flags::FRAGMENT) {
            continue;
        }
        let first = match follow(burst, i, shard, snapshot) {
            Ok(Course::Passes(first)) => first,
            Ok(Course::Sums(first, content)) => {
                if !complete(burst, i, content) {
                    burst.drop(i, DropReason::FragmentMalformed);
                    continue;
                }
                first
            }
            Ok(Course::Waits) => {
                burst.decide(i, Verdict::AwaitFragments);
                continue;
            }
            Err(reason) => {
                burst.drop(i, reason);
                continue;
            }
        };
        let headers = &mut burst.headers[i];
        (headers.src_port, headers.dst_port) = first.ports;
        headers.icmp_type = first.icmp_type;
        headers.protocol = first.protocol;
    }
}

/// Whether a fragment is the first of a UDP datagram that has no checksum and may have to leave as IPv6: of one to an address
/// of ours, where some of those are of NAT64.
fn lacks_checksum(bytes: &[u8], headers: &Headers, snapshot: &Snapshot) -> bool {
    if !headers.flags.has(Flags::NO_CHECKSUM) || snapshot.nat64.is_empty() {
        return false;
    }
    let (_, dst) = addresses4(bytes, headers);
    snapshot.local4.contains_key(&Ipv4Addr::from_bits(dst))
}

/// What a fragment carries, if it is in one piece.
fn content(burst: &Burst, i: usize) -> Option<Content> {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let payload = bytes.get(headers.l4_offset.into()..headers.end.into())?;
    Some(Content { sum: Sum::of(payload).fold(), octets: u16::try_from(payload.len()).ok()? })
}

/// Writes the checksum of the datagram of which packet `i` is the first fragment (RFC 768). False if the content is not what
/// its header says.
fn complete(burst: &mut Burst, i: usize, content: Content) -> bool {
    let headers = burst.headers[i];
    let bytes = burst.bytes_mut(i);
    let Some(ip) = ipv4::Header::at(bytes, headers.l3_offset.into()) else { return false };
    let pseudo = ip.pseudo_header(ipv4::UDP, content.octets);
    let Some(mut udp) = udp::Header::at_mut(bytes, headers.l4_offset.into()) else { return false };
    if udp.datagram_len() != content.octets {
        return false;
    }
    udp.set_checksum(udp::checksum_field(pseudo.add_u16(content.sum).checksum()));
    burst.headers[i].flags.0 &= !Flags::NO_CHECKSUM.0;
    true
}

/// Takes a fragment in, and says what becomes of it.
fn follow(burst: &Burst, i: usize, shard: &mut Shard, snapshot: &Snapshot) -> Result<Course, DropReason> {
    let (bytes, headers, now) = (burst.bytes(i), &burst.headers[i], burst.now);
    let key = datagram(bytes, headers, burst.interfaces[i]);
    let piece = piece(bytes, headers).ok_or(DropReason::FragmentMalformed)?;
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        let first = FirstFragment {
            ports: (headers.src_port, headers.dst_port),
            icmp_type: headers.icmp_type,
            protocol: headers.protocol,
            is_summed: lacks_checksum(bytes, headers, snapshot),
            identification: None,
            expires: now.saturating_add(snapshot.timeouts.fragment),
        };
        let first = shard.fragments.learn(key, first, now)?;
        if let Some(crossing) = &mut shard.crossing {
            crossing.tell_fragment(key, first, &mut shard.counters);
        }
    }
    shard.fragments.pass(&key, piece, || content(burst, i), now)
}

/// Keeps packet `i`, a fragment, until the others of its datagram come that it waits for.
pub(super) fn hold(burst: &mut Burst, i: usize, shard: &mut Shard) {
    let key = datagram(burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
    let (port, now) = (burst.port, burst.now);
    let Some(frame) = burst.take(i) else { return };
    if let Err(frame) = shard.fragments.hold(key, port, frame, now) {
        shard.counters.lost(DropReason::FragmentQueueFull, &frame, port, NONE16);
        shard.pool.give(frame);
    }
}

/// Gives up fragments that have waited too long for their first one.
pub(crate) fn keep(shard: &mut Shard, now: Nanos) {
    let Shard { fragments, counters, pool, .. } = shard;
    fragments.tick(now);
    while let Some(lost) = fragments.undelivered() {
        counters.lost(lost.reason, &lost.frame, NONE16, NONE16);
        pool.give(lost.frame);
    }
}

/// Cuts an IPv4 packet that is ready to leave (its network header at `l3`) into fragments of at most `mtu` bytes each
/// (RFC 791 3.2), and hands them to `emit` in order. Returns how many there are beyond one, or the frame untouched and
/// the reason why it cannot be cut.
pub(super) fn split(
    mut frame: Frame,
    l3: usize,
    mtu: u16,
    pool: &mut FramePool,
    mut emit: impl FnMut(Frame, &mut FramePool),
) -> Result<u64, (Frame, DropReason)> {
    let Some(plan) = Plan::of(&frame, l3, mtu) else { return Err((frame, DropReason::PacketTooBig)) };
    let extra = plan.payload.div_ceil(plan.step).saturating_sub(1);
    if frame.is_chain() {
        return plan.split_chain(frame, pool, emit).map(|()| extra as u64);
    }
    // The packet's own buffer becomes the last piece, so there is one to take for each other one.
    if pool.free() < extra {
        return Err((frame, DropReason::NoFrame));
    }
    let Some(mut head) = pool.take() else { return Err((frame, DropReason::NoFrame)) };
    head.copy_from(frame.bytes().get(..l3 + plan.header + plan.step).unwrap_or_default());
    plan.mark(head.bytes_mut(), l3, plan.header, 0, plan.step);
    emit(head, pool);
    let mut at = plan.step;
    while at + plan.step < plan.payload {
        let Some(mut piece) = pool.take() else { break };
        plan.write(frame.bytes(), at, plan.step, &mut piece);
        emit(piece, pool);
        at += plan.step;
    }
    plan.shift(&mut frame, at, plan.payload - at);
    emit(frame, pool);
    Ok(extra as u64)
}

struct Plan {
    l3: usize,
    /// Bytes of the IP header, options included.
    header: usize,
    /// Bytes of payload in the packet.
    payload: usize,
    /// Bytes of payload in each fragment but the last: a multiple of 8.
    step: usize,
    /// Flags and offset of the packet itself, which may be a fragment already.
    flags: u16,
    /// Options that every fragment carries: those with the copied bit (RFC 791 3.1).
    copied: [u8; ipv4::MAX_LEN - ipv4::LEN],
    copied_len: usize,
}

impl Plan {
    fn of(frame: &Frame, l3: usize, mtu: u16) -> Option<Self> {
        let bytes = frame.bytes();
        let ip = ipv4::Header::at(bytes, l3)?;
        let header = ip.header_len();
        let payload = usize::from(ip.total_len()).checked_sub(header)?;
        let step = usize::from(mtu).checked_sub(header)? & !7;
        if step == 0 || ip.dont_fragment() || frame.len() < l3 + header + payload {
            return None;
        }
        let options = bytes.get(l3 + ipv4::LEN..l3 + header)?;
        let mut plan = Self {
            l3,
            header,
            payload,
            step,
            flags: ip.flags_fragment(),
            copied: [ipv4::OPTION_END; ipv4::MAX_LEN - ipv4::LEN],
            copied_len: 0,
        };
        plan.copy_options(options);
        Some(plan)
    }

    fn copy_options(&mut self, options: &[u8]) {
        let mut at = 0;
        while let Some(&kind) = options.get(at) {
            let len = match kind {
                ipv4::OPTION_END => break,
                ipv4::OPTION_NOP => 1,
                _ => usize::from(options.get(at + 1).copied().unwrap_or(0)).max(2),
            };
            let Some(option) = options.get(at..at + len) else { break };
            if kind & 0x80 != 0 {
                if let Some(room) = self.copied.get_mut(self.copied_len..self.copied_len + len) {
                    room.copy_from_slice(option);
                    self.copied_len += len;
                }
            }
            at += len;
        }
        self.copied_len = self.copied_len.next_multiple_of(4);
    }

    /// Cuts a chain into fragments, which may be chains as well; each is a copy.
    #[cold]
    fn split_chain(
        &self,
        chain: Frame,
        pool: &mut FramePool,
        mut emit: impl FnMut(Frame, &mut FramePool),
    ) -> Result<(), (Frame, DropReason)> {
        let pieces = self.payload.div_ceil(self.step);
        let frames = (self.l3 + self.header + self.step).div_ceil(MAX_FRAME);
        if pool.free() < pieces * frames {
            return Err((chain, DropReason::NoFrame));
        }
        for at in (0..self.payload).step_by(self.step) {
            let len = self.step.min(self.payload - at);
            let header = if at == 0 { self.header } else { self.later_header() };
            let Some(mut piece) = pool.take_len(self.l3 + header + len) else { break };
            let start = chain.bytes();
            if at == 0 {
                piece.put(0, start.get(..self.l3 + header).unwrap_or_default());
            } else {
                piece.put(0, start.get(..self.l3 + ipv4::LEN).unwrap_or_default());
                piece.put(self.l3 + ipv4::LEN, &self.copied[..self.copied_len]);
            }
            piece.put_part(self.l3 + header, &chain, self.l3 + self.header + at, len);
            self.mark(piece.bytes_mut(), self.l3, header, at, len);
            emit(piece, pool);
        }
        pool.give(chain);
        Ok(())
    }

    /// Bytes of the IP header of every fragment but the first.
    fn later_header(&self) -> usize {
        ipv4::LEN + self.copied_len
    }

    /// Writes the fragment of `len` payload bytes from `at` on into an empty frame.
    fn write(&self, packet: &[u8], at: usize, len: usize, piece: &mut Frame) {
        let front = self.l3 + ipv4::LEN;
        let from = self.l3 + self.header + at;
        let (Some(headers), Some(payload)) = (packet.get(..front), packet.get(from..from + len)) else {
            return;
        };
        if !piece.set_len(self.l3 + self.later_header() + len) {
            return;
        }
        let (start, rest) = piece.bytes_mut().split_at_mut(front);
        let (options, data) = rest.split_at_mut(self.copied_len);
        start.copy_from_slice(headers);
        options.copy_from_slice(&self.copied[..self.copied_len]);
        data.copy_from_slice(payload);
        self.mark(piece.bytes_mut(), self.l3, self.later_header(), at, len);
    }

    /// Turns the packet itself into its last fragment, of `len` payload bytes from `at` on: the headers move up to it.
    fn shift(&self, packet: &mut Frame, at: usize, len: usize) {
        let front = self.l3 + ipv4::LEN;
        let start = self.header - self.later_header() + at;
        let bytes = packet.bytes_mut();
        if bytes.len() < start + front + self.copied_len + len {
            return;
        }
        bytes.copy_within(..front, start);
        bytes[start + front..start + front + self.copied_len]
            .copy_from_slice(&self.copied[..self.copied_len]);
        packet.shrink_front(start);
        packet.set_len(front + self.copied_len + len);
        self.mark(packet.bytes_mut(), self.l3, self.later_header(), at, len);
    }

    /// Writes lengths, offset and checksum of a fragment's header.
    fn mark(&self, bytes: &mut [u8], l3: usize, header: usize, at: usize, len: usize) {
        let Some(mut ip) = ipv4::Header::at_mut(bytes, l3) else { return };
        let more =
            if at + len < self.payload { ipv4::MORE_FRAGMENTS } else { self.flags & ipv4::MORE_FRAGMENTS };
        let offset = (self.flags & ipv4::OFFSET_MASK) + (at / 8) as u16;
        ip.set_version_ihl(0x40 | (header / 4) as u8);
        ip.set_total_len((header + len) as u16);
        ip.set_flags_fragment(more | offset & ipv4::OFFSET_MASK);
        ip.set_checksum(0);
        let sum = bytes.get(l3..l3 + header).map_or(0, |header| Sum::of(header).checksum());
        if let Some(mut ip) = ipv4::Header::at_mut(bytes, l3) {
            ip.set_checksum(sum);
        }
    }
}
