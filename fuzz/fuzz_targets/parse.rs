//! Any bytes as a frame, whole and in segments, and as the quotation of an ICMP error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::mend;
use sluice_pkt::parse::{Headers, L3, fragment_header, parse, parse_head, parse_quoted};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Few bytes that are made up get past the checksum of an IPv4 header.
    let mut mended = bytes.to_vec();
    mend(&mut mended);
    check(&mended);
});

fn check(bytes: &[u8]) {
    if let Ok(headers) = parse(bytes) {
        in_order(&headers, bytes.len());
        if let Some(at) = fragment_header(bytes, &headers) {
            assert!(at + 8 <= usize::from(headers.end));
        }
    }
    // The first two bytes also choose how much of the frame lies in its first segment.
    if let Some(&[a, b]) = bytes.first_chunk() {
        let head = usize::from(u16::from_be_bytes([a, b])).min(bytes.len());
        let whole = parse(bytes);
        if let Ok(headers) = parse_head(&bytes[..head], bytes.len()) {
            assert_eq!(Ok(headers), whole);
        }
    }
    for l3 in [L3::Ipv4, L3::Ipv6, L3::Arp, L3::Other] {
        if let Some(quoted) = parse_quoted(bytes, l3) {
            assert!(usize::from(quoted.l4_offset) <= bytes.len());
            assert!(quoted.l4_checksum.is_none_or(|at| usize::from(at) + 2 <= bytes.len()));
        }
    }
}

fn in_order(headers: &Headers, len: usize) {
    let Headers { l3_offset, l4_offset, end, .. } = *headers;
    assert!(
        l3_offset <= l4_offset && l4_offset <= end && usize::from(end) <= len.max(l3_offset.into()),
        "{headers:?}"
    );
}
