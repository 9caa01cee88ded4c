//! Protocols and ICMP types by name and number.

use serde::Serialize;

use super::net::decimal;
use super::report::{nearest, quote};
use super::units::Wrong;

/// An ICMP or ICMPv6 type, with a code or for all its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IcmpType {
    /// [`ICMP`] or [`ICMPV6`].
    pub protocol: u8,
    /// The type.
    pub kind: u8,
    /// The code; `None` for all.
    pub code: Option<u8>,
}

impl IcmpType {
    /// Whether every message that `other` names is also named by this.
    pub fn covers(self, other: Self) -> bool {
        self.protocol == other.protocol
            && self.kind == other.kind
            && (self.code.is_none() || self.code == other.code)
    }
}

/// IANA protocol number.
pub const ICMP: u8 = 1;
/// IANA protocol number.
pub const TCP: u8 = 6;
/// IANA protocol number.
pub const UDP: u8 = 17;
/// IANA protocol number.
pub const ICMPV6: u8 = 58;

const PROTOCOLS: [(&str, u8); 8] = [
    ("tcp", TCP),
    ("udp", UDP),
    ("icmp", ICMP),
    ("icmpv6", ICMPV6),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("sctp", 132),
];

/// Names as nftables has them; several name the same in both families.
const ICMP_TYPES: [(&str, u8, u8); 33] = [
    ("echo-reply", ICMP, 0),
    ("destination-unreachable", ICMP, 3),
    ("source-quench", ICMP, 4),
    ("redirect", ICMP, 5),
    ("echo-request", ICMP, 8),
    ("router-advertisement", ICMP, 9),
    ("router-solicitation", ICMP, 10),
    ("time-exceeded", ICMP, 11),
    ("parameter-problem", ICMP, 12),
    ("timestamp-request", ICMP, 13),
    ("timestamp-reply", ICMP, 14),
    ("destination-unreachable", ICMPV6, 1),
    ("packet-too-big", ICMPV6, 2),
    ("time-exceeded", ICMPV6, 3),
    ("parameter-problem", ICMPV6, 4),
    ("echo-request", ICMPV6, 128),
    ("echo-reply", ICMPV6, 129),
    ("mld-listener-query", ICMPV6, 130),
    ("mld-listener-report", ICMPV6, 131),
    ("mld-listener-done", ICMPV6, 132),
    ("router-solicitation", ICMPV6, 133),
    ("nd-router-solicit", ICMPV6, 133),
    ("router-advertisement", ICMPV6, 134),
    ("nd-router-advert", ICMPV6, 134),
    ("neighbor-solicitation", ICMPV6, 135),
    ("nd-neighbor-solicit", ICMPV6, 135),
    ("neighbor-advertisement", ICMPV6, 136),
    ("nd-neighbor-advert", ICMPV6, 136),
    ("redirect", ICMPV6, 137),
    ("nd-redirect", ICMPV6, 137),
    ("router-renumbering", ICMPV6, 138),
    ("inverse-neighbor-solicitation", ICMPV6, 141),
    ("mld2-listener-report", ICMPV6, 143),
];

/// A protocol by name or number.
pub(crate) fn protocol(text: &str) -> Result<u8, Wrong> {
    if let Some(&(_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Ok(number);
    }
    decimal(text).ok_or_else(|| {
        let names = PROTOCOLS.map(|(name, _)| name);
        let wrong = Wrong::new(format!("{} is not a protocol", quote(text)));
        match nearest(text, names) {
            Some(name) => wrong.help(format!("did you mean \"{name}\"?")),
            None => wrong.help(format!("one of {}, or a number from 0 to 255", names.join(", "))),
        }
    })
}

/// The protocol of this name or number.
pub fn protocol_number(text: &str) -> Option<u8> {
    protocol(text).ok()
}

/// The name of a protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    PROTOCOLS
        .iter()
        .find(|(_, number)| *number == protocol)
        .map_or(protocol.to_string(), |(name, _)| (*name).into())
}

/// An ICMP type: a name, a number, or `number/code`, in those of ICMP and ICMPv6 that `protocols` holds.
pub(crate) fn icmp_types(text: &str, protocols: &[u8]) -> Result<Vec<IcmpType>, Wrong> {
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => {
            let wrong = || {
                Wrong::new(format!("{} is not an ICMP type and code", quote(text))).help("such as \"3/4\"")
            };
            (kind.trim(), Some(decimal(code.trim()).ok_or_else(wrong)?))
        }
        None => (text, None),
    };
    if let Some(kind) = decimal(kind) {
        return Ok(protocols.iter().map(|&protocol| IcmpType { protocol, kind, code }).collect());
    }
    let known = || ICMP_TYPES.iter().filter(|(_, protocol, _)| protocols.contains(protocol));
    let types: Vec<IcmpType> = known()
        .filter(|(name, ..)| *name == kind)
        .map(|&(_, protocol, kind)| IcmpType { protocol, kind, code })
        .collect();
    if types.is_empty() {
        let names: Vec<String> = protocols.iter().map(|&protocol| protocol_name(protocol)).collect();
        let wrong = Wrong::new(format!("{} is not a type of {}", quote(text), names.join(" or ")));
        return Err(match nearest(kind, known().map(|(name, ..)| *name)) {
            Some(name) => wrong.help(format!("did you mean \"{name}\"?")),
            None => wrong.help("a name such as \"echo-request\", a number, or \"type/code\""),
        });
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn icmp_names_follow_the_protocol() {
        let kinds = |text: &str, protocols: &[u8]| -> Vec<u8> {
            icmp_types(text, protocols).unwrap().iter().map(|icmp| icmp.kind).collect()
        };
        assert_eq!(kinds("echo-request", &[ICMP]), [8]);
        assert_eq!(kinds("echo-request", &[ICMP, ICMPV6]), [8, 128]);
        assert_eq!(icmp_types("3/4", &[ICMP]).unwrap()[0].code, Some(4));
        assert!(icmp_types("packet-too-big", &[ICMP]).is_err());
        assert_eq!(
            icmp_types("echo-requets", &[ICMP]).unwrap_err().help.unwrap(),
            "did you mean \"echo-request\"?"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_text_panics(text in "\\PC{0,24}", near in "[0-9a-z/-]{0,20}") {
            for text in [text, near] {
                let _ = (protocol(&text), icmp_types(&text, &[ICMP, ICMPV6]));
            }
        }
    }
}
