//! Flow records as IPFIX messages (RFC 7011, information elements of RFC 7012 and RFC 8158): one record for each direction of a
//! session, with what the addresses and ports become where NAT changes them.

use std::net::IpAddr;

use sluice_dataplane::session::FlowRecord;

use super::ipfix::{
    LONGEST, OPTIONS_TEMPLATE_SET, TEMPLATE_SET, begin_message, begin_set, end_set, finish, put16,
};

/// A field: its information element, and its length in bytes.
type Field = (u16, u16);

/// How long a name may be, for its length to take one byte.
const LONGEST_NAME: usize = 254;

const COMMON: [Field; 10] = [
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (1, 8),   // octetDeltaCount
    (2, 8),   // packetDeltaCount
    (10, 4),  // ingressInterface
    (14, 4),  // egressInterface
    (4, 1),   // protocolIdentifier
    (5, 1),   // ipClassOfService
    (6, 2),   // tcpControlBits
    (136, 1), // flowEndReason
];
const PORTS: [Field; 2] = [(7, 2), (11, 2)];
const POST_PORTS: [Field; 2] = [(227, 2), (228, 2)];
const V4: [Field; 2] = [(8, 4), (12, 4)];
const V6: [Field; 2] = [(27, 16), (28, 16)];
const POST_V4: [Field; 2] = [(225, 4), (226, 4)];
const POST_V6: [Field; 2] = [(281, 16), (282, 16)];

/// Templates from this one on: see [`template`].
const FIRST: u16 = 300;
const TEMPLATES: u16 = 6;
/// Names of interfaces, and what was lost.
const NAMES: u16 = 400;
const LOSSES: u16 = 401;
const NAMES_FIELDS: [Field; 2] = [(10, 4), (82, u16::MAX)];
/// observationDomainId, exportedFlowRecordTotalCount, notSentFlowTotalCount.
const LOSSES_FIELDS: [Field; 3] = [(149, 4), (42, 8), (165, 8)];

/// A record in the time of day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    pub(super) record: FlowRecord,
    /// Milliseconds since 1970.
    pub(super) start: u64,
    /// The same.
    pub(super) end: u64,
}

/// What the exporter knows of an interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) name: String,
    /// Bytes ahead of the IP header.
    pub(super) header: u64,
}

/// The exporting process of one observation domain. Interfaces are numbered from 1, in the order of the configuration; 0 is
/// unknown.
pub(super) struct FlowExporter {
    domain: u32,
    sequence: u32,
    links: Vec<Link>,
}

/// By family, and by the family that NAT makes of it.
fn template(record: &FlowRecord) -> u16 {
    let is_v6 = |ends: &[(IpAddr, u16); 2]| ends[0].0.is_ipv6();
    FIRST
        + match (is_v6(&record.ends), record.post.as_ref().map(is_v6)) {
            (false, None) => 0,
            (true, None) => 1,
            (false, Some(false)) => 2,
            (false, Some(true)) => 3,
            (true, Some(false)) => 4,
            (true, Some(true)) => 5,
        }
}

fn fields(template: u16) -> Vec<Field> {
    let of: &[&[Field]] = match template - FIRST {
        0 => &[&V4],
        1 => &[&V6],
        2 => &[&V4, &POST_V4, &POST_PORTS],
        3 => &[&V4, &POST_V6, &POST_PORTS],
        4 => &[&V6, &POST_V4, &POST_PORTS],
        _ => &[&V6, &POST_V6, &POST_PORTS],
    };
    [&COMMON[..], &PORTS].into_iter().chain(of.iter().copied()).flatten().copied().collect()
}

fn length(template: u16) -> usize {
    fields(template).iter().map(|&(_, length)| usize::from(length)).sum()
}

impl FlowExporter {
    pub(super) fn new(domain: u32, links: Vec<Link>) -> Self {
        Self { domain, sequence: 0, links }
    }

    /// All templates, the names of interfaces, and what was sent and lost so far. In several messages, if names are many.
    pub(super) fn templates(&mut self, seconds: u32, sent: u64, lost: u64) -> Vec<Vec<u8>> {
        let mut message = begin_message(seconds, self.sequence, self.domain);
        let start = begin_set(&mut message, TEMPLATE_SET);
        for id in FIRST..FIRST + TEMPLATES {
            let fields = fields(id);
            put16(&mut message, id);
            put16(&mut message, fields.len() as u16);
            put_fields(&mut message, &fields);
        }
        end_set(&mut message, start);
        let start = begin_set(&mut message, OPTIONS_TEMPLATE_SET);
        for (id, fields) in [(NAMES, &NAMES_FIELDS[..]), (LOSSES, &LOSSES_FIELDS)] {
            put16(&mut message, id);
            put16(&mut message, fields.len() as u16);
            // The first field is the scope.
            put16(&mut message, 1);
            put_fields(&mut message, fields);
        }
        end_set(&mut message, start);
        let start = begin_set(&mut message, LOSSES);
        message.extend(self.domain.to_be_bytes());
        message.extend(sent.to_be_bytes());
        message.extend(lost.to_be_bytes());
        end_set(&mut message, start);
        self.sequence = self.sequence.wrapping_add(1);
        let mut messages = vec![finish(message)];
        messages.extend(self.names(seconds));
        messages
    }

    fn names(&mut self, seconds: u32) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for links in (1u32..).zip(&self.links).collect::<Vec<_>>().chunks(4) {
            let mut message = begin_message(seconds, self.sequence, self.domain);
            let start = begin_set(&mut message, NAMES);
            for (number, link) in links {
                let name = link.name.as_bytes();
                let name = name.get(..LONGEST_NAME).unwrap_or(name);
                message.extend(number.to_be_bytes());
                message.push(name.len() as u8);
                message.extend(name);
            }
            end_set(&mut message, start);
            self.sequence = self.sequence.wrapping_add(links.len() as u32);
            messages.push(finish(message));
        }
        messages
    }

    /// A message with as many of the records as fit, and how many those are.
    pub(super) fn message(&mut self, seconds: u32, records: &[Timed]) -> (Vec<u8>, usize) {
        let mut message = begin_message(seconds, self.sequence, self.domain);
        let mut set: Option<(u16, usize)> = None;
        let mut taken = 0;
        for timed in records {
            let template = template(&timed.record);
            let is_open = set.is_some_and(|(of, _)| of == template);
            if message.len() + if is_open { 0 } else { 4 } + length(template) > LONGEST {
                break;
            }
            if !is_open {
                if let Some((_, start)) = set {
                    end_set(&mut message, start);
                }
                set = Some((template, begin_set(&mut message, template)));
            }
            self.put(&mut message, timed);
            taken += 1;
        }
        if let Some((_, start)) = set {
            end_set(&mut message, start);
        }
        self.sequence = self.sequence.wrapping_add(taken as u32);
        (finish(message), taken)
    }

    fn put(&self, message: &mut Vec<u8>, timed: &Timed) {
        let record = &timed.record;
        let header = self.links.get(usize::from(record.ingress)).map_or(0, |link| link.header);
        let octets = record.bytes.saturating_sub(header * record.packets);
        for long in [timed.start, timed.end, octets, record.packets] {
            message.extend(long.to_be_bytes());
        }
        for interface in [Some(record.ingress), record.egress] {
            message.extend(interface.map_or(0, |interface| u32::from(interface) + 1).to_be_bytes());
        }
        message.extend([record.protocol, record.dscp << 2]);
        put16(message, record.tcp_flags.into());
        message.push(record.reason as u8);
        record.ends.iter().for_each(|&(_, port)| put16(message, port));
        record.ends.iter().for_each(|&(address, _)| put_address(message, address));
        if let Some(post) = &record.post {
            post.iter().for_each(|&(address, _)| put_address(message, address));
            post.iter().for_each(|&(_, port)| put16(message, port));
        }
    }
}

fn put_fields(message: &mut Vec<u8>, fields: &[Field]) {
    for &(element, length) in fields {
        put16(message, element);
        put16(message, length);
    }
}

fn put_address(message: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.extend(address.octets()),
        IpAddr::V6(address) => message.extend(address.octets()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sluice_dataplane::session::{Direction, EndReason};

    use super::*;

    pub(in crate::export) fn record(port: u16) -> FlowRecord {
        FlowRecord {
            ends: [([192, 168, 1, 10].into(), port), ([198, 51, 100, 7].into(), 443)],
            post: None,
            protocol: 6,
            dscp: 46,
            tcp_flags: 0x12,
            reason: EndReason::Finished,
            direction: Direction::Forward,
            ingress: 0,
            egress: Some(1),
            packets: 3,
            bytes: 342,
            start: 0,
            end: 0,
        }
    }

    fn exporter() -> FlowExporter {
        let link = |name: &str, header| Link { name: name.into(), header };
        FlowExporter::new(7, vec![link("lan", 14), link("wan", 18)])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// proves: RFC 7011 3
    #[test]
    fn a_record_with_nat_byte_for_byte() {
        let mut record = record(1234);
        record.post = Some([([203, 0, 113, 5].into(), 4321), record.ends[1]]);
        let (message, taken) = exporter().message(0x6000_0000, &[Timed { record, start: 1, end: 2 }]);
        let want = [
            "000a0059600000000000000000000007", // version, length, time, sequence, domain
            "012e0049",                         // set 302
            "00000000000000010000000000000002", // start, end
            "000000000000012c0000000000000003", // octets without Ethernet headers, packets
            "0000000100000002",                 // interfaces
            "06b8001203",                       // protocol, class of service, TCP flags, end reason
            "04d201bb",                         // ports
            "c0a8010ac6336407",                 // addresses
            "cb007105c6336407",                 // after NAT
            "10e101bb",
        ];
        assert_eq!((hex(&message), taken), (want.concat(), 1));
    }

    #[test]
    fn every_template_is_as_long_as_its_records() {
        let mut exporter = exporter();
        let v4: [(IpAddr, u16); 2] = record(1).ends;
        let v6: [(IpAddr, u16); 2] =
            [("2001:db8::1".parse().unwrap(), 1), ("2001:db8::2".parse().unwrap(), 2)];
        let mut templates = Vec::new();
        for ends in [v4, v6] {
            for post in [None, Some(v4), Some(v6)] {
                let record = FlowRecord { ends, post, ..record(1) };
                let (message, _) = exporter.message(0, &[Timed { record, start: 0, end: 0 }]);
                assert_eq!(message.len(), 16 + 4 + length(template(&record)));
                templates.push(template(&record));
            }
        }
        templates.sort_unstable();
        assert_eq!(templates, (FIRST..FIRST + TEMPLATES).collect::<Vec<_>>());
    }

    /// proves: RFC 7011 3.1
    #[test]
    fn sequence_numbers_count_data_records() {
        let mut exporter = exporter();
        let records: Vec<Timed> =
            (0..100).map(|port| Timed { record: record(port), start: 0, end: 0 }).collect();
        let sequence = |message: &[u8]| u32::from_be_bytes(message[8..12].try_into().unwrap());
        let messages = exporter.templates(0, 5, 6);
        assert!(messages.iter().all(|message| message.len() <= LONGEST));
        // What was lost is one record, and each name is one.
        assert_eq!(messages.iter().map(|message| sequence(message)).collect::<Vec<_>>(), [0, 1]);
        let (mut sent, mut rest) = (3, &records[..]);
        while !rest.is_empty() {
            let (message, taken) = exporter.message(0, rest);
            assert!(message.len() <= LONGEST && taken > 0);
            assert_eq!(sequence(&message), sent);
            sent += taken as u32;
            rest = &rest[taken..];
        }
    }
}
