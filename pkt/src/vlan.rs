//! VLAN tags: 802.1Q, and two of them for QinQ (802.1ad).

use crate::ethernet::{self, Mac};

/// Most tags that Sluice reads.
pub const MAX_TAGS: usize = 2;
/// The VLAN id that stands for "priority only, no VLAN" (IEEE 802.1Q 9.6).
pub const PRIORITY_ONLY: u16 = 0;
/// The largest VLAN id that may be used; 4095 is reserved.
pub const MAX_ID: u16 = 4094;

header! {
    /// What follows a tag's EtherType: the tag control information, and the EtherType of what it wraps.
    Header: 4 bytes;
    /// Tag control information: 3 bits priority, 1 bit drop eligible, 12 bits VLAN id.
    TCI @ 0: u16, tci, set_tci;
    /// EtherType of what follows the tag.
    ETHERTYPE @ 2: u16, ethertype, set_ethertype;
}

/// VLAN id of a tag, 0 to 4095.
#[inline]
pub const fn id(tci: u16) -> u16 {
    tci & 0x0fff
}

/// Priority code point of a tag, 0 to 7.
#[inline]
pub const fn priority(tci: u16) -> u8 {
    (tci >> 13) as u8
}

/// Whether the tag marks the frame as the first to drop (DEI).
#[inline]
pub const fn drop_eligible(tci: u16) -> bool {
    tci & 0x1000 != 0
}

/// A tag's control information from its parts; bits over 3 of `priority` and over 12 of `id` are cut off.
#[inline]
pub const fn tci(priority: u8, drop_eligible: bool, id: u16) -> u16 {
    (priority as u16) << 13 | (drop_eligible as u16) << 12 | id & 0x0fff
}

/// Bytes of a frame's link header: Ethernet with up to two tags.
#[inline]
pub fn link_len(frame: &[u8]) -> usize {
    let is_tag = |at: usize| {
        let ethertype =
            frame.get(at..).and_then(|rest| rest.first_chunk()).map(|two| u16::from_be_bytes(*two));
        ethertype.is_some_and(ethernet::is_tag)
    };
    let mut len = ethernet::LEN;
    while len < ethernet::LEN + MAX_TAGS * LEN && is_tag(len - 2) {
        len += LEN;
    }
    len
}

/// Writes an Ethernet header with its tags, outermost first, to the start of `frame` and returns its length: 14, 18
/// or 22. With two tags the outer is an S-tag (0x88a8). `None` if `frame` is shorter, or there are over two tags.
pub fn emit(frame: &mut [u8], destination: Mac, source: Mac, tags: &[u16], ethertype: u16) -> Option<usize> {
    let types = match tags.len() {
        0 => [ethertype, 0, 0],
        1 => [ethernet::VLAN, ethertype, 0],
        2 => [ethernet::QINQ, ethernet::VLAN, ethertype],
        _ => return None,
    };
    let (header, behind) =
        frame.split_at_mut_checked(ethernet::LEN + LEN * tags.len())?.0.split_first_chunk_mut()?;
    *header = ethernet::Header::new(destination, source, types[0]).0;
    let wire_tags = behind.chunks_exact_mut(LEN).filter_map(|wire| wire.first_chunk_mut());
    for ((wire, &tci), &inner) in wire_tags.zip(tags).zip(&types[1..]) {
        let mut tag: Header<&mut [u8; LEN]> = Header(wire);
        tag.set_tci(tci);
        tag.set_ethertype(inner);
    }
    Some(ethernet::LEN + LEN * tags.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_header_ends_behind_its_tags() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for tags in [&[][..], &[5], &[5, 6]] {
            let mut frame = [0; 40];
            let len = emit(&mut frame, mac, mac, tags, ethernet::IPV4).unwrap();
            assert_eq!(link_len(&frame), len);
        }
        assert_eq!([0, 13, 14].map(|len| link_len(&[0x81; 14][..len])), [14; 3]);
    }

    #[test]
    fn tci_parts() {
        let whole = tci(5, true, 0xabc);
        assert_eq!(whole, 0xbabc);
        assert_eq!((priority(whole), drop_eligible(whole), id(whole)), (5, true, 0xabc));
        assert_eq!(tci(8, false, 0x1001), 1);
    }

    #[test]
    fn tags_are_written_outermost_first() {
        let mut frame = [0; 22];
        assert_eq!(emit(&mut frame, Mac([1; 6]), Mac([2; 6]), &[100, 200], ethernet::IPV4), Some(22));
        assert_eq!(frame[12..], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 200, 8, 0]);
        assert_eq!(emit(&mut frame, Mac([1; 6]), Mac([2; 6]), &[100], ethernet::IPV6), Some(18));
        assert_eq!(frame[12..18], [0x81, 0, 0, 100, 0x86, 0xdd]);
        assert_eq!(emit(&mut frame, Mac([1; 6]), Mac([2; 6]), &[], ethernet::ARP), Some(14));
        assert_eq!(frame[..14], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 6]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(emit(&mut [0; 21], Mac([1; 6]), Mac([2; 6]), &[1, 2], ethernet::IPV4), None);
        assert_eq!(emit(&mut [0; 64], Mac([1; 6]), Mac([2; 6]), &[1, 2, 3], ethernet::IPV4), None);
    }
}
