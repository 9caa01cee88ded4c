//! Records as IPFIX messages (RFC 7011) with the information elements of RFC 8158. Over UDP, templates are sent again and again,
//! as a collector may have missed them or have started later.

use std::net::IpAddr;
use std::time::Duration;

use sluice_dataplane::nat::EventKind;

use super::Record;

/// How often templates are sent; a collector keeps them for three times as long at least (RFC 7011 8.4).
pub const TEMPLATES: Duration = Duration::from_secs(60);
/// Longest message, bytes: no packet of it is fragmented.
pub(super) const LONGEST: usize = 1400;

const VERSION: u16 = 10;
pub(super) const TEMPLATE_SET: u16 = 2;
pub(super) const OPTIONS_TEMPLATE_SET: u16 = 3;
const BLOCK: u16 = 256;
const BINDING: u16 = 257;
const BINDING6: u16 = 258;
const BLOCK6: u16 = 259;

// Information elements, and their lengths in bytes.
const OBSERVATION_TIME_MILLISECONDS: (u16, u16) = (323, 8);
const NAT_EVENT: (u16, u16) = (230, 1);
const PROTOCOL_IDENTIFIER: (u16, u16) = (4, 1);
const SOURCE_IPV4_ADDRESS: (u16, u16) = (8, 4);
const SOURCE_IPV6_ADDRESS: (u16, u16) = (27, 16);
const POST_NAT_SOURCE_IPV4_ADDRESS: (u16, u16) = (225, 4);
const SOURCE_TRANSPORT_PORT: (u16, u16) = (7, 2);
const POST_NAPT_SOURCE_TRANSPORT_PORT: (u16, u16) = (227, 2);
const PORT_RANGE_START: (u16, u16) = (361, 2);
const PORT_RANGE_END: (u16, u16) = (362, 2);

const BLOCK_FIELDS: [(u16, u16); 6] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    SOURCE_IPV4_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    PORT_RANGE_START,
    PORT_RANGE_END,
];
/// Of NAT64.
const BLOCK6_FIELDS: [(u16, u16); 6] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    SOURCE_IPV6_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    PORT_RANGE_START,
    PORT_RANGE_END,
];
const BINDING_FIELDS: [(u16, u16); 7] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    PROTOCOL_IDENTIFIER,
    SOURCE_IPV4_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    SOURCE_TRANSPORT_PORT,
    POST_NAPT_SOURCE_TRANSPORT_PORT,
];
/// Of NAT64.
const BINDING6_FIELDS: [(u16, u16); 7] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    PROTOCOL_IDENTIFIER,
    SOURCE_IPV6_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    SOURCE_TRANSPORT_PORT,
    POST_NAPT_SOURCE_TRANSPORT_PORT,
];

/// The exporting process of one observation domain.
#[derive(Clone, Debug)]
pub struct Exporter {
    domain: u32,
    /// Data records sent so far.
    sequence: u32,
}

impl Exporter {
    /// One that has sent nothing.
    pub fn new(domain: u32) -> Self {
        Self { domain, sequence: 0 }
    }

    /// A message of nothing but the templates.
    pub fn templates(&self, seconds: u32) -> Vec<u8> {
        let mut message = self.begin(seconds);
        let start = begin_set(&mut message, TEMPLATE_SET);
        for template in [BLOCK, BINDING, BINDING6, BLOCK6] {
            let fields = fields(template);
            put16(&mut message, template);
            put16(&mut message, fields.len() as u16);
            for &(element, length) in fields {
                put16(&mut message, element);
                put16(&mut message, length);
            }
        }
        end_set(&mut message, start);
        finish(message)
    }

    /// A message with as many of the records as fit, and how many those are. `seconds` is the time now, since 1970.
    pub fn message(&mut self, seconds: u32, records: &[Record]) -> (Vec<u8>, usize) {
        let mut message = self.begin(seconds);
        let mut set: Option<(u16, usize)> = None;
        let mut taken = 0;
        for record in records {
            let template = template(record);
            let header = if set.is_some_and(|(of, _)| of == template) { 0 } else { 4 };
            if message.len() + header + length(template) > LONGEST {
                break;
            }
            if header > 0 {
                if let Some((_, start)) = set {
                    end_set(&mut message, start);
                }
                set = Some((template, begin_set(&mut message, template)));
            }
            put(&mut message, record);
            taken += 1;
        }
        if let Some((_, start)) = set {
            end_set(&mut message, start);
        }
        self.sequence = self.sequence.wrapping_add(taken as u32);
        (finish(message), taken)
    }

    fn begin(&self, seconds: u32) -> Vec<u8> {
        begin_message(seconds, self.sequence, self.domain)
    }
}

/// The header of a message, to which [`finish`] adds the length.
pub(super) fn begin_message(seconds: u32, sequence: u32, domain: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(LONGEST);
    put16(&mut message, VERSION);
    put16(&mut message, 0);
    message.extend(seconds.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(domain.to_be_bytes());
    message
}

fn template(record: &Record) -> u16 {
    match record.kind {
        EventKind::BlockAllocated | EventKind::BlockReleased if record.inside.is_ipv6() => BLOCK6,
        EventKind::BlockAllocated | EventKind::BlockReleased => BLOCK,
        EventKind::BindingCreated | EventKind::BindingReleased if record.inside.is_ipv6() => BINDING6,
        EventKind::BindingCreated | EventKind::BindingReleased => BINDING,
    }
}

fn fields(template: u16) -> &'static [(u16, u16)] {
    match template {
        BLOCK => &BLOCK_FIELDS,
        BINDING => &BINDING_FIELDS,
        BLOCK6 => &BLOCK6_FIELDS,
        _ => &BINDING6_FIELDS,
    }
}

fn length(template: u16) -> usize {
    fields(template).iter().map(|&(_, length)| usize::from(length)).sum()
}

/// The values of natEvent.
fn nat_event(record: &Record) -> u8 {
    match record.kind {
        EventKind::BindingCreated if record.inside.is_ipv6() => 10,
        EventKind::BindingReleased if record.inside.is_ipv6() => 11,
        EventKind::BindingCreated => 8,
        EventKind::BindingReleased => 9,
        EventKind::BlockAllocated => 16,
        EventKind::BlockReleased => 17,
    }
}

fn put(message: &mut Vec<u8>, record: &Record) {
    message.extend((record.at / 1000).to_be_bytes());
    let is_block = matches!(record.kind, EventKind::BlockAllocated | EventKind::BlockReleased);
    message.push(nat_event(record));
    if !is_block {
        message.push(record.protocol);
    }
    match record.inside {
        IpAddr::V4(inside) => message.extend(inside.octets()),
        IpAddr::V6(inside) => message.extend(inside.octets()),
    }
    message.extend(record.external.octets());
    if !is_block {
        put16(message, record.inside_port);
        put16(message, record.ports.0);
    } else {
        put16(message, record.ports.0);
        put16(message, record.ports.1);
    }
}

pub(super) fn put16(message: &mut Vec<u8>, value: u16) {
    message.extend(value.to_be_bytes());
}

pub(super) fn begin_set(message: &mut Vec<u8>, id: u16) -> usize {
    let start = message.len();
    put16(message, id);
    put16(message, 0);
    start
}

pub(super) fn end_set(message: &mut [u8], start: usize) {
    set_length(message, start + 2, start);
}

pub(super) fn finish(mut message: Vec<u8>) -> Vec<u8> {
    set_length(&mut message, 2, 0);
    message
}

/// Writes at `at` how long it is from `from` to the end.
fn set_length(message: &mut [u8], at: usize, from: usize) {
    let length = (message.len() - from) as u16;
    if let Some(field) = message.get_mut(at..at + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::export::tests::record;

    /// A collector that knows nothing but RFC 7011: values by template and information element.
    #[derive(Default)]
    struct Collector {
        templates: HashMap<u16, Vec<(u16, u16)>>,
        records: Vec<HashMap<u16, u128>>,
    }

    impl Collector {
        /// Takes a message in, and returns its sequence number.
        fn take(&mut self, message: &[u8]) -> u32 {
            let two = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
            assert_eq!((two(0), usize::from(two(2))), (VERSION, message.len()));
            let mut at = 16;
            while at < message.len() {
                let (id, end) = (two(at), at + usize::from(two(at + 2)));
                assert!(end <= message.len() && end > at + 4);
                at += 4;
                if id == TEMPLATE_SET {
                    while at < end {
                        let (template, count) = (two(at), usize::from(two(at + 2)));
                        let fields = (0..count).map(|i| (two(at + 4 + 4 * i), two(at + 6 + 4 * i)));
                        self.templates.insert(template, fields.collect());
                        at += 4 + 4 * count;
                    }
                    continue;
                }
                while at < end {
                    let mut record = HashMap::new();
                    for &(element, length) in &self.templates[&id] {
                        let value = message[at..at + usize::from(length)].iter();
                        record.insert(element, value.fold(0, |sum, &byte| sum << 8 | u128::from(byte)));
                        at += usize::from(length);
                    }
                    self.records.push(record);
                }
                assert_eq!(at, end);
            }
            u32::from_be_bytes([message[8], message[9], message[10], message[11]])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

        /// proves: RFC 7011 3
        /// proves: RFC 8158 5
        #[test]
        fn a_collector_reads_what_was_sent(records in prop::collection::vec(record(), 0..200)) {
            let mut exporter = Exporter::new(7);
            let mut collector = Collector::default();
            prop_assert_eq!(collector.take(&exporter.templates(1000)), 0);
            let mut rest = &records[..];
            while !rest.is_empty() {
                let before = collector.records.len();
                let (message, taken) = exporter.message(1000, rest);
                prop_assert!(message.len() <= LONGEST && taken > 0);
                prop_assert_eq!(collector.take(&message) as usize, before);
                rest = &rest[taken..];
            }
            prop_assert_eq!(collector.records.len(), records.len());
            for (sent, got) in records.iter().zip(&collector.records) {
                prop_assert_eq!(got[&323], u128::from(sent.at / 1000));
                match sent.inside {
                    IpAddr::V4(inside) => prop_assert_eq!(got[&8], u128::from(inside.to_bits())),
                    IpAddr::V6(inside) => prop_assert_eq!(got[&27], inside.to_bits()),
                }
                prop_assert_eq!(got[&225], u128::from(sent.external.to_bits()));
                prop_assert_eq!(got[&230], match sent.kind {
                    EventKind::BindingCreated if sent.inside.is_ipv6() => 10,
                    EventKind::BindingReleased if sent.inside.is_ipv6() => 11,
                    EventKind::BindingCreated => 8,
                    EventKind::BindingReleased => 9,
                    EventKind::BlockAllocated => 16,
                    EventKind::BlockReleased => 17,
                });
                if got.contains_key(&361) {
                    prop_assert_eq!((got[&361], got[&362]), (sent.ports.0.into(), sent.ports.1.into()));
                } else {
                    prop_assert_eq!((got[&7], got[&227]), (sent.inside_port.into(), sent.ports.0.into()));
                    prop_assert_eq!(got[&4], u128::from(sent.protocol));
                }
                // No destination (RFC 6888 REQ-12).
                prop_assert!([11, 12, 226, 228].iter().all(|element| !got.contains_key(element)));
            }
        }
    }
}
