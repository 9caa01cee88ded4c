//! Numbers and addresses as people write them.

use std::net::IpAddr;

use etherparse::IpNumber;

use super::{SHOWN, hex};

pub(super) fn fragment_words(is_fragment: bool, offset: u32, more: bool) -> String {
    match (is_fragment, more) {
        (false, _) => String::new(),
        (true, true) => format!("fragment at {offset}, more follow, "),
        (true, false) => format!("fragment at {offset}, the last, "),
    }
}

pub(super) fn protocol(number: IpNumber) -> String {
    match number.keyword_str() {
        Some(keyword) => format!("{} ({})", number.0, keyword.to_lowercase()),
        None => number.0.to_string(),
    }
}

pub(super) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub(super) fn protocol_address(bytes: &[u8]) -> String {
    if let Ok(address) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(address).to_string()
    } else if let Ok(address) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(address).to_string()
    } else {
        hex(bytes, SHOWN)
    }
}

pub(super) fn icmp_name(v6: bool, kind: u8, code: u8) -> &'static str {
    match (v6, kind, code) {
        (false, 0, _) | (true, 129, _) => "echo reply",
        (false, 8, _) | (true, 128, _) => "echo request",
        (false, 3, 0) => "net unreachable",
        (false, 3, 1) => "host unreachable",
        (false, 3, 2) => "protocol unreachable",
        (false, 3, 3) | (true, 1, 4) => "port unreachable",
        (false, 3, 4) => "fragmentation needed",
        (false, 3, 9 | 10 | 13) | (true, 1, 1) => "administratively prohibited",
        (false, 3, _) | (true, 1, 2 | 5..) => "unreachable",
        (true, 1, 0) => "no route",
        (true, 1, 3) => "address unreachable",
        (true, 2, _) => "packet too big",
        (false, 5, _) | (true, 137, _) => "redirect",
        (false, 11, 0) | (true, 3, 0) => "time exceeded in transit",
        (false, 11, _) | (true, 3, _) => "reassembly time exceeded",
        (false, 12, _) | (true, 4, _) => "parameter problem",
        (true, 133, _) => "router solicitation",
        (true, 134, _) => "router advertisement",
        (true, 135, _) => "neighbor solicitation",
        (true, 136, _) => "neighbor advertisement",
        _ => "other",
    }
}
