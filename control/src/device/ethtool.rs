//! The generic netlink families `ethtool` and `netdev`: channels, RSS, offloads, and what the driver says of XDP.
//! The numbers are those of `linux/ethtool_netlink.h` and `linux/netdev.h`.

use std::collections::BTreeMap;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLA_HEADER_SIZE, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use serde::{Deserialize, Serialize};

use super::netlink::{Netlink, NetlinkError};

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const RSS_GET: u8 = 38;
/// The first attribute of every request, and the device's name in it.
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;
const FEATURES_HW: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NOCHANGE: u16 = 5;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const CHANNELS_MAX: [u16; 3] = [2, 3, 5];
const CHANNELS_COUNT: [u16; 3] = [6, 7, 9];
const RSS_INDIRECTION: u16 = 4;
const NETDEV_DEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_RX_METADATA: u16 = 5;
const NETDEV_XSK_FEATURES: u16 = 6;

/// What a driver says of XDP, in bits of `linux/netdev.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct XdpSupport {
    /// `enum netdev_xdp_act`: modes and actions.
    pub features: u64,
    /// `enum netdev_xdp_rx_metadata`: what it tells of a received frame.
    pub rx_metadata: u64,
    /// `enum netdev_xsk_flags`: what it can be told about a frame to send.
    pub tx_metadata: u64,
}

/// Queues of a device: now, and at most. A combined channel is a queue of each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// Receive-only queues.
    pub rx: u32,
    /// Transmit-only queues.
    pub tx: u32,
    /// Queue pairs.
    pub combined: u32,
    /// Most receive-only queues.
    pub rx_max: u32,
    /// Most transmit-only queues.
    pub tx_max: u32,
    /// Most queue pairs.
    pub combined_max: u32,
}

impl Channels {
    /// Receive queues.
    pub fn queues(&self) -> u32 {
        self.rx + self.combined
    }

    /// The most receive queues that the device can have.
    pub fn most(&self) -> u32 {
        self.combined_max.max(self.rx_max)
    }

    /// The same device with `count` queues of each direction, as pairs where it has such.
    pub fn with(self, count: u32) -> Self {
        if self.combined_max > 0 {
            Self { combined: count, rx: 0, tx: 0, ..self }
        } else {
            Self { rx: count, tx: count, ..self }
        }
    }
}

/// An offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Whether it is on.
    pub on: bool,
    /// Whether nothing can change that.
    pub fixed: bool,
}

/// Offloads by the kernel's names, such as `rx-vlan-hw-parse`; those that the device has or could have.
pub type Features = BTreeMap<String, Feature>;

/// A message of a generic netlink family: its command and its attributes.
#[derive(Clone, Debug)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        ""
    }

    fn family_id(&self) -> u16 {
        self.family
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.attributes.len()].copy_from_slice(&self.attributes);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self { family: 0, command: header.cmd, attributes: bytes.to_vec() })
    }
}

/// A generic netlink family, in the calling thread's network namespace.
struct Family {
    socket: Netlink<GenlMessage<Message>>,
    id: u16,
}

impl Family {
    fn open(name: &str) -> Result<Self, NetlinkError> {
        let mut control = Netlink::<GenlMessage<GenlCtrl>>::open(NETLINK_GENERIC)?;
        let answers = control.ask(GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
        }))?;
        let id =
            answers.iter().flat_map(|answer| &answer.payload.nlas).find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            });
        let id = id.ok_or(NetlinkError::Refused { errno: libc::ENOENT, reason: None })?;
        Ok(Self { socket: Netlink::open(NETLINK_GENERIC)?, id })
    }

    /// The attributes of the answer; empty if there is none.
    fn ask(&mut self, command: u8, attributes: &[DefaultNla]) -> Result<Vec<u8>, NetlinkError> {
        let message = Message { family: self.id, command, attributes: bytes(attributes) };
        let answers = self.socket.ask(GenlMessage::from_payload(message))?;
        Ok(answers.into_iter().next().map_or_else(Vec::new, |answer| answer.payload.attributes))
    }
}

/// `ethtool` and `netdev`; each may be missing in an older kernel, which then says nothing.
pub(super) struct Ethtool {
    ethtool: Family,
    netdev: Option<Family>,
}

impl Ethtool {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { ethtool: Family::open("ethtool")?, netdev: Family::open("netdev").ok() })
    }

    /// None if the driver has no channels to tell of.
    pub(super) fn channels(&mut self, device: &str) -> Result<Option<Channels>, NetlinkError> {
        let Some(answer) = supported(self.ethtool.ask(CHANNELS_GET, &[header(device)]))? else {
            return Ok(None);
        };
        let number = |kind| attribute(&answer, kind).and_then(u32_of).unwrap_or(0);
        let [rx_max, tx_max, combined_max] = CHANNELS_MAX.map(number);
        let [rx, tx, combined] = CHANNELS_COUNT.map(number);
        Ok(Some(Channels { rx, tx, combined, rx_max, tx_max, combined_max }))
    }

    pub(super) fn set_channels(&mut self, device: &str, channels: Channels) -> Result<(), NetlinkError> {
        // A count of a kind that the driver does not have must not be named.
        let counts = [channels.rx, channels.tx, channels.combined];
        let most = [channels.rx_max, channels.tx_max, channels.combined_max];
        let mut attributes = vec![header(device)];
        for ((kind, count), most) in CHANNELS_COUNT.into_iter().zip(counts).zip(most) {
            if most > 0 {
                attributes.push(DefaultNla::new(kind, count.to_ne_bytes().to_vec()));
            }
        }
        self.ethtool.ask(CHANNELS_SET, &attributes).map(drop)
    }

    pub(super) fn features(&mut self, device: &str) -> Result<Features, NetlinkError> {
        let Some(answer) = supported(self.ethtool.ask(FEATURES_GET, &[header(device)]))? else {
            return Ok(Features::new());
        };
        let set = |kind| attribute(&answer, kind).map(names).unwrap_or_default();
        let [can_change, active, fixed] = [FEATURES_HW, FEATURES_ACTIVE, FEATURES_NOCHANGE].map(set);
        let mut features = Features::new();
        for name in can_change.iter().chain(&active) {
            let fixed = fixed.contains(name) || !can_change.contains(name);
            features.insert(name.clone(), Feature { on: active.contains(name), fixed });
        }
        Ok(features)
    }

    pub(super) fn set_feature(&mut self, device: &str, feature: &str, on: bool) -> Result<(), NetlinkError> {
        let mut name = feature.as_bytes().to_vec();
        name.push(0);
        let mut bit = vec![DefaultNla::new(BIT_NAME, name)];
        if on {
            bit.push(DefaultNla::new(BIT_VALUE, Vec::new()));
        }
        let wanted = nested(FEATURES_WANTED, &[nested(BITSET_BITS, &[nested(BITSET_BIT, &bit)])]);
        self.ethtool.ask(FEATURES_SET, &[header(device), wanted]).map(drop)
    }

    /// The RSS indirection table: the receive queue of each of its entries. None if the driver does not tell.
    pub(super) fn rss(&mut self, device: &str) -> Result<Option<Vec<u32>>, NetlinkError> {
        let answer = supported(self.ethtool.ask(RSS_GET, &[header(device)]))?;
        let table = answer.as_deref().and_then(|answer| attribute(answer, RSS_INDIRECTION));
        let entries = table.map(|table| table.chunks_exact(4).filter_map(u32_of).collect::<Vec<_>>());
        Ok(entries.filter(|entries| !entries.is_empty()))
    }

    /// What the driver says of XDP. None before Linux 6.3.
    pub(super) fn xdp_support(&mut self, ifindex: u32) -> Result<Option<XdpSupport>, NetlinkError> {
        let Some(netdev) = &mut self.netdev else { return Ok(None) };
        let index = DefaultNla::new(NETDEV_IFINDEX, ifindex.to_ne_bytes().to_vec());
        let Some(answer) = supported(netdev.ask(NETDEV_DEV_GET, &[index]))? else { return Ok(None) };
        let bits = |kind| Some(u64::from_ne_bytes(attribute(&answer, kind)?.try_into().ok()?));
        Ok(bits(NETDEV_XDP_FEATURES).map(|features| XdpSupport {
            features,
            rx_metadata: bits(NETDEV_XDP_RX_METADATA).unwrap_or(0),
            tx_metadata: bits(NETDEV_XSK_FEATURES).unwrap_or(0),
        }))
    }
}

fn supported<T>(answer: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}

fn header(device: &str) -> DefaultNla {
    let mut name = device.as_bytes().to_vec();
    name.push(0);
    nested(HEADER, &[DefaultNla::new(HEADER_NAME, name)])
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, bytes(inner))
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// The value of the first attribute of a kind.
fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    all(bytes, kind).next()
}

fn all(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    NlasIterator::new(bytes).map_while(Result::ok).filter(move |found| found.kind() == kind).map(|found| {
        let length = usize::from(found.length());
        found.into_inner().get(NLA_HEADER_SIZE..length).unwrap_or_default()
    })
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The names of a bitset's bits that are set.
fn names(bitset: &[u8]) -> Vec<String> {
    // With a mask, a bit that is listed may be a zero.
    let masked = attribute(bitset, BITSET_NOMASK).is_none();
    let bits = attribute(bitset, BITSET_BITS).unwrap_or_default();
    all(bits, BITSET_BIT)
        .filter(|bit| !masked || attribute(bit, BIT_VALUE).is_some())
        .filter_map(|bit| attribute(bit, BIT_NAME))
        .map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        .collect()
}
