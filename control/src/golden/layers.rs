//! The layers of a packet in words, such as `ipv4 192.0.2.1 > 198.51.100.7 ttl 64`. The fields of each are listed in
//! pcap-tests/README.md.

use super::build::{Checksum, Kind, Layer, assemble};
use super::text::{Cursor, TextError, Token, number};

/// Layers of one packet; more are a slip of the pen.
const MOST: usize = 32;

/// A frame, or a quoted packet, with what its modifiers make of it.
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    /// `snap`: as many bytes of it are captured.
    pub(super) snap: Option<usize>,
}

/// Layers between slashes, then modifiers behind bars, up to the end or a closing bracket.
pub(super) fn packet(cursor: &mut Cursor<'_>) -> Result<Packet, TextError> {
    nested(cursor, false)
}

fn nested(cursor: &mut Cursor<'_>, quoted: bool) -> Result<Packet, TextError> {
    let mut layers: Vec<Layer> = Vec::new();
    loop {
        if layers.len() == MOST {
            return Err(cursor.error(format!("a packet of more than {MOST} layers")));
        }
        let layer = layer(cursor, layers.first(), quoted)?;
        layers.push(layer);
        if !cursor.accept("/") {
            break;
        }
    }
    let mut packet = Packet { bytes: assemble(&mut layers), snap: None };
    while cursor.accept("|") {
        let modifier = cursor.word("a modifier")?;
        match modifier.text.as_str() {
            "pad" => {
                let len = cursor.number(16)? as usize;
                packet.bytes.resize(packet.bytes.len().max(len), 0);
            }
            "truncate" => packet.bytes.truncate(cursor.number(16)? as usize),
            "snap" if !quoted => packet.snap = Some(cursor.number(16)? as usize),
            "set" => {
                let at = cursor.number(16)? as usize;
                let value = cursor.hex()?;
                match packet.bytes.get_mut(at..at + value.len()) {
                    Some(bytes) => bytes.copy_from_slice(&value),
                    None => return Err(modifier.error("these bytes lie behind the packet's end")),
                }
            }
            _ => return Err(unknown(modifier, "modifier", "pad, truncate, snap, set")),
        }
    }
    Ok(packet)
}

fn layer(cursor: &mut Cursor<'_>, first: Option<&Layer>, quoted: bool) -> Result<Layer, TextError> {
    if !quoted && cursor.accept("[") {
        let packet = nested(cursor, true)?;
        cursor.expect("]")?;
        return Ok(Layer::new(Kind::Payload, packet.bytes));
    }
    let name = cursor.word("a layer")?;
    let layer = match name.text.as_str() {
        "eth" => ethernet(cursor)?,
        "vlan" => vlan(cursor)?,
        "arp" => arp(cursor, first)?,
        "ipv4" => ipv4(cursor)?,
        "ipv6" => ipv6(cursor)?,
        "hop" => extension(cursor, 0)?,
        "routing" => extension(cursor, 43)?,
        "dstopt" => extension(cursor, 60)?,
        "frag" => fragment(cursor)?,
        "tcp" => tcp(cursor)?,
        "udp" => udp(cursor)?,
        "icmp" => icmp(cursor, Kind::Icmp)?,
        "icmpv6" => icmp(cursor, Kind::Icmpv6)?,
        "payload" => payload(cursor)?,
        _ => {
            let known =
                "eth, vlan, arp, ipv4, ipv6, hop, routing, dstopt, frag, tcp, udp, icmp, icmpv6, payload";
            return Err(unknown(name, "layer", known));
        }
    };
    match cursor.field() {
        None => Ok(layer),
        Some(extra) => Err(extra.error(format!("`{}` is more than {} has", extra.text, name.text))),
    }
}

fn unknown(token: &Token, what: &str, known: &str) -> TextError {
    token.error(format!("unknown {what} `{}`; known: {known}", token.text))
}

fn ethernet(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let source = cursor.mac()?;
    cursor.expect(">")?;
    let destination = cursor.mac()?;
    let mut layer = Layer::new(Kind::Ethernet, [&destination[..], &source, &[0, 0]].concat());
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "type" => {
                layer.set(12, half(cursor)?);
                layer.next_given = true;
            }
            _ => return Err(unknown(field, "field of eth", "type")),
        }
    }
    Ok(layer)
}

fn vlan(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut tci = cursor.number(12)?;
    let mut layer = Layer::new(Kind::Vlan(0x8100), vec![0; 4]);
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "priority" => tci |= cursor.number(3)? << 13,
            "dei" => tci |= 1 << 12,
            "tpid" => layer.kind = Kind::Vlan(cursor.number(16)? as u16),
            "type" => {
                layer.set(2, half(cursor)?);
                layer.next_given = true;
            }
            _ => return Err(unknown(field, "field of vlan", "priority, dei, tpid, type")),
        }
    }
    layer.set(0, (tci as u16).to_be_bytes());
    Ok(layer)
}

/// `arp who-has TARGET tell SENDER` or `arp reply SENDER is-at MAC to TARGET`.
fn arp(cursor: &mut Cursor<'_>, ethernet: Option<&Layer>) -> Result<Layer, TextError> {
    let mac = |at: usize| {
        let bytes =
            ethernet.filter(|layer| layer.kind == Kind::Ethernet).and_then(|layer| layer.bytes.get(at..));
        bytes.and_then(|bytes| bytes.first_chunk().copied()).unwrap_or([0; 6])
    };
    let (mut sender_mac, mut target_mac) = (mac(6), [0; 6]);
    let operation = cursor.word("who-has or reply")?;
    let (number, sender, target) = match operation.text.as_str() {
        "who-has" => {
            let target = cursor.ipv4()?;
            cursor.expect("tell")?;
            (1, cursor.ipv4()?, target)
        }
        "reply" => {
            let sender = cursor.ipv4()?;
            cursor.expect("is-at")?;
            sender_mac = cursor.mac()?;
            cursor.expect("to")?;
            target_mac = mac(0);
            (2, sender, cursor.ipv4()?)
        }
        _ => return Err(unknown(operation, "kind of arp", "who-has, reply")),
    };
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, number];
    bytes.extend([&sender_mac[..], &sender, &[0; 6], &target].concat());
    let mut layer = Layer::new(Kind::Arp, bytes);
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "sender-mac" => layer.set(8, cursor.mac()?),
            "target-mac" => target_mac = cursor.mac()?,
            "operation" => layer.set(6, half(cursor)?),
            "hardware" => layer.set(0, half(cursor)?),
            _ => return Err(unknown(field, "field of arp", "sender-mac, target-mac, operation, hardware")),
        }
    }
    layer.set(18, target_mac);
    Ok(layer)
}

fn ipv4(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut bytes = vec![0; 20];
    bytes[8] = 64;
    bytes[12..16].copy_from_slice(&cursor.ipv4()?);
    cursor.expect(">")?;
    bytes[16..20].copy_from_slice(&cursor.ipv4()?);
    let mut layer = Layer::new(Kind::Ipv4, bytes);
    let (mut version, mut words, mut flags, mut offset) = (4, None, 0, 0);
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "ttl" => layer.set(8, byte(cursor)?),
            "tos" => layer.set(1, byte(cursor)?),
            "id" => layer.set(4, half(cursor)?),
            "df" => flags |= 0x4000,
            "mf" => flags |= 0x2000,
            "offset" => offset = eighths(cursor)?,
            "protocol" => {
                layer.set(9, byte(cursor)?);
                layer.next_given = true;
            }
            "options" => {
                let mut options = cursor.hex()?;
                options.resize(options.len().next_multiple_of(4), 0);
                if options.len() > 40 {
                    return Err(field.error("options have at most 40 bytes"));
                }
                layer.bytes.truncate(20);
                layer.bytes.extend(options);
            }
            "checksum" => layer.checksum = checksum(cursor, false)?,
            "length" => {
                layer.set(2, half(cursor)?);
                layer.length_given = true;
            }
            "ihl" => words = Some(cursor.number(4)? as u8),
            "version" => version = cursor.number(4)? as u8,
            _ => {
                let known = "ttl, tos, id, df, mf, offset, protocol, options, checksum, length, ihl, version";
                return Err(unknown(field, "field of ipv4", known));
            }
        }
    }
    layer.set(6, (flags | offset).to_be_bytes());
    layer.set(0, [version << 4 | words.unwrap_or((layer.bytes.len() / 4) as u8)]);
    Ok(layer)
}

fn ipv6(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut bytes = vec![0; 40];
    bytes[7] = 64;
    bytes[8..24].copy_from_slice(&cursor.ipv6()?);
    cursor.expect(">")?;
    bytes[24..40].copy_from_slice(&cursor.ipv6()?);
    let mut layer = Layer::new(Kind::Ipv6, bytes);
    let (mut version, mut class, mut flow) = (6, 0, 0);
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "hlim" => layer.set(7, byte(cursor)?),
            "class" => class = cursor.number(8)?,
            "flow" => flow = cursor.number(20)?,
            "next" => {
                layer.set(6, byte(cursor)?);
                layer.next_given = true;
            }
            "length" => {
                layer.set(4, half(cursor)?);
                layer.length_given = true;
            }
            "version" => version = cursor.number(4)?,
            _ => return Err(unknown(field, "field of ipv6", "hlim, class, flow, next, length, version")),
        }
    }
    layer.set(0, (version << 28 | class << 20 | flow).to_be_bytes());
    Ok(layer)
}

/// An IPv6 extension header that has its length in units of eight bytes. Its data are padded to such a unit: with zeros
/// in a routing header, with Pad1 or PadN in the others (RFC 8200 4.2).
fn extension(cursor: &mut Cursor<'_>, number: u8) -> Result<Layer, TextError> {
    let mut layer = Layer::new(Kind::Extension(number), vec![0, 0]);
    let mut length = None;
    let (mut kind, mut left) = (0, 0);
    let mut data = Vec::new();
    while let Some(field) = cursor.field() {
        match (field.text.as_str(), number) {
            ("data", _) => data = cursor.hex()?,
            ("type", 43) => kind = cursor.number(8)? as u8,
            ("left", 43) => left = cursor.number(8)? as u8,
            ("length", _) => length = Some(cursor.number(8)? as u8),
            ("next", _) => {
                layer.set(0, byte(cursor)?);
                layer.next_given = true;
            }
            _ => {
                return Err(unknown(
                    field,
                    "field of an extension header",
                    "data, length, next; routing: type, left",
                ));
            }
        }
    }
    if number == 43 {
        data.splice(..0, [kind, left]);
    }
    let len = (2 + data.len()).next_multiple_of(8);
    let padding = len - 2 - data.len();
    match padding {
        _ if number == 43 => data.resize(len - 2, 0),
        0 => {}
        1 => data.push(0),
        _ => {
            data.extend([1, padding as u8 - 2]);
            data.resize(len - 2, 0);
        }
    }
    layer.bytes.extend(data);
    layer.set(1, [length.unwrap_or((len / 8 - 1) as u8)]);
    Ok(layer)
}

fn fragment(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut layer = Layer::new(Kind::Extension(44), vec![0; 8]);
    let (mut offset, mut more) = (0, 0);
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "offset" => offset = eighths(cursor)? << 3,
            "mf" => more = 1,
            "id" => layer.set(4, cursor.number(32)?.to_be_bytes()),
            "next" => {
                layer.set(0, byte(cursor)?);
                layer.next_given = true;
            }
            _ => return Err(unknown(field, "field of frag", "offset, mf, id, next")),
        }
    }
    layer.set(2, (offset | more).to_be_bytes());
    Ok(layer)
}

fn tcp(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut bytes = vec![0; 20];
    bytes[0..4].copy_from_slice(&ports(cursor)?);
    let mut layer = Layer::new(Kind::Tcp, bytes);
    layer.set(14, 65535u16.to_be_bytes());
    let (mut flags, mut words, mut options) = (0u8, None, Vec::new());
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "fin" => flags |= 0x01,
            "syn" => flags |= 0x02,
            "rst" => flags |= 0x04,
            "psh" => flags |= 0x08,
            "urg" => flags |= 0x20,
            "ece" => flags |= 0x40,
            "cwr" => flags |= 0x80,
            "ack" => {
                flags |= 0x10;
                if let Some(acknowledgment) = cursor.maybe(number) {
                    layer.set(8, acknowledgment.to_be_bytes());
                }
            }
            "seq" => layer.set(4, cursor.number(32)?.to_be_bytes()),
            "window" => layer.set(14, half(cursor)?),
            "urgent" => layer.set(18, half(cursor)?),
            "mss" => options.extend([&[2, 4][..], &half(cursor)?].concat()),
            "wscale" => options.extend([3, 3, cursor.number(8)? as u8]),
            "sackok" => options.extend([4, 2]),
            "ts" => {
                options.extend([8, 10]);
                options.extend(cursor.number(32)?.to_be_bytes());
                options.extend(cursor.number(32)?.to_be_bytes());
            }
            "nop" => options.push(1),
            "options" => options.extend(cursor.hex()?),
            "checksum" => layer.checksum = checksum(cursor, true)?,
            "offset" => words = Some(cursor.number(4)? as u8),
            _ => {
                let known = "fin, syn, rst, psh, ack, urg, ece, cwr, seq, window, urgent, mss, wscale, sackok, ts, nop, \
                             options, checksum, offset";
                return Err(unknown(field, "field of tcp", known));
            }
        }
        if options.len() > 40 {
            return Err(field.error("options have at most 40 bytes"));
        }
    }
    options.resize(options.len().next_multiple_of(4), 0);
    layer.bytes.extend(options);
    layer.set(12, [words.unwrap_or((layer.bytes.len() / 4) as u8) << 4, flags]);
    Ok(layer)
}

fn udp(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let mut layer = Layer::new(Kind::Udp, [&ports(cursor)?[..], &[0; 4]].concat());
    while let Some(field) = cursor.field() {
        match field.text.as_str() {
            "checksum" => layer.checksum = checksum(cursor, true)?,
            "length" => {
                layer.set(4, half(cursor)?);
                layer.length_given = true;
            }
            _ => return Err(unknown(field, "field of udp", "checksum, length")),
        }
    }
    Ok(layer)
}

/// The kinds of ICMP and ICMPv6 that have a name: type and code.
fn icmp_kind(v6: bool, name: &str) -> Option<[u8; 2]> {
    Some(match (v6, name) {
        (false, "echo-request") => [8, 0],
        (false, "echo-reply") => [0, 0],
        (false, "net-unreachable") => [3, 0],
        (false, "host-unreachable") => [3, 1],
        (false, "protocol-unreachable") => [3, 2],
        (false, "port-unreachable") => [3, 3],
        (false, "fragmentation-needed") => [3, 4],
        (false, "prohibited") => [3, 13],
        (false, "time-exceeded") => [11, 0],
        (false, "parameter-problem") => [12, 0],
        (true, "no-route") => [1, 0],
        (true, "prohibited") => [1, 1],
        (true, "address-unreachable") => [1, 3],
        (true, "port-unreachable") => [1, 4],
        (true, "packet-too-big") => [2, 0],
        (true, "time-exceeded") => [3, 0],
        (true, "parameter-problem") => [4, 0],
        (true, "echo-request") => [128, 0],
        (true, "echo-reply") => [129, 0],
        (true, "rs") => [133, 0],
        (true, "ns") => [135, 0],
        (true, "na") => [136, 0],
        _ => return None,
    })
}

fn icmp(cursor: &mut Cursor<'_>, kind: Kind) -> Result<Layer, TextError> {
    let v6 = kind == Kind::Icmpv6;
    let mut layer = Layer::new(kind, vec![0; 8]);
    let name = cursor.word("a kind of message")?;
    match icmp_kind(v6, &name.text) {
        Some(type_and_code) => layer.set(0, type_and_code),
        None if name.text == "type" => layer.set(0, byte(cursor)?),
        None => {
            let known = if v6 {
                "echo-request, echo-reply, no-route, prohibited, address-unreachable, port-unreachable, \
                 packet-too-big, time-exceeded, parameter-problem, rs, ns, na, type NUMBER"
            } else {
                "echo-request, echo-reply, net-unreachable, host-unreachable, protocol-unreachable, port-unreachable, \
                 fragmentation-needed, prohibited, time-exceeded, parameter-problem, type NUMBER"
            };
            return Err(unknown(name, "message", known));
        }
    }
    if v6 && matches!(name.text.as_str(), "ns" | "na") {
        layer.bytes.extend(cursor.ipv6()?);
    }
    let mut flags = 0;
    while let Some(field) = cursor.field() {
        match (field.text.as_str(), v6) {
            ("code", _) => layer.set(1, byte(cursor)?),
            ("id", _) => layer.set(4, half(cursor)?),
            ("seq", _) => layer.set(6, half(cursor)?),
            ("word", _) | ("mtu" | "pointer", true) => layer.set(4, cursor.number(32)?.to_be_bytes()),
            ("mtu", false) => layer.set(6, half(cursor)?),
            ("pointer", false) => layer.set(4, byte(cursor)?),
            ("router", true) => flags |= 0x80,
            ("solicited", true) => flags |= 0x40,
            ("override", true) => flags |= 0x20,
            ("source-mac", true) => layer.bytes.extend([&[1, 1][..], &cursor.mac()?].concat()),
            ("target-mac", true) => layer.bytes.extend([&[2, 1][..], &cursor.mac()?].concat()),
            ("checksum", _) => layer.checksum = checksum(cursor, v6)?,
            _ => {
                let known = "code, id, seq, mtu, pointer, word, checksum; \
                             icmpv6: router, solicited, override, source-mac, target-mac";
                return Err(unknown(field, "field of an ICMP message", known));
            }
        }
    }
    if flags != 0 {
        layer.set(4, [flags]);
    }
    Ok(layer)
}

/// `payload "text"`, `payload 00ff…` in hexadecimal, or `payload len N`: 0, 1, 2 and so on.
fn payload(cursor: &mut Cursor<'_>) -> Result<Layer, TextError> {
    let token = cursor.word("a text, bytes in hexadecimal, or `len`")?;
    let bytes = match token.text.as_str() {
        text if token.quoted => text.as_bytes().to_vec(),
        "len" => (0..cursor.number(16)?).map(|i| i as u8).collect(),
        text => super::text::hex(text).ok_or_else(|| {
            token.error(format!("`{text}` is not a text in quotes, bytes in hexadecimal, or `len`"))
        })?,
    };
    Ok(Layer::new(Kind::Payload, bytes))
}

fn byte(cursor: &mut Cursor<'_>) -> Result<[u8; 1], TextError> {
    Ok([cursor.number(8)? as u8])
}

fn half(cursor: &mut Cursor<'_>) -> Result<[u8; 2], TextError> {
    Ok((cursor.number(16)? as u16).to_be_bytes())
}

fn ports(cursor: &mut Cursor<'_>) -> Result<[u8; 4], TextError> {
    let [a, b] = half(cursor)?;
    cursor.expect(">")?;
    let [c, d] = half(cursor)?;
    Ok([a, b, c, d])
}

/// A fragment's offset, given in bytes.
fn eighths(cursor: &mut Cursor<'_>) -> Result<u16, TextError> {
    let bytes = cursor.number(16)?;
    match bytes % 8 == 0 {
        true => Ok((bytes / 8) as u16),
        false => Err(cursor.error(format!("a fragment's offset of {bytes} bytes is no multiple of 8"))),
    }
}

fn checksum(cursor: &mut Cursor<'_>, pseudo: bool) -> Result<Checksum, TextError> {
    let word = |word: &str| match word {
        "bad" => Some(Checksum::Bad),
        "partial" if pseudo => Some(Checksum::Partial),
        _ => None,
    };
    match cursor.maybe(word) {
        Some(checksum) => Ok(checksum),
        None => Ok(Checksum::Given(cursor.number(16)? as u16)),
    }
}
