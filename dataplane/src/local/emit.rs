//! How what we send ourselves is put together and on its way.

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::vlan;

use super::{Context, Packet};
use crate::snapshot::Interface;

/// An Ethernet header with its tags.
#[derive(Clone, Copy)]
pub(super) struct LinkHeader {
    bytes: [u8; ethernet::LEN + vlan::MAX_TAGS * vlan::LEN],
    len: usize,
}

impl LinkHeader {
    /// From us to a station (or all) on the interface's link. `None` if the interface has tags that cannot be.
    pub(super) fn new(link: &Interface, to: Mac, ethertype: u16) -> Option<Self> {
        let mut bytes = [0; ethernet::LEN + vlan::MAX_TAGS * vlan::LEN];
        let tags = link.tags.ids.get(..link.tags.count.into())?;
        let len = vlan::emit(&mut bytes, to, link.mac, tags, ethertype)?;
        Some(Self { bytes, len })
    }

    /// From us to the sender of the packet, tagged as it was.
    pub(super) fn back(packet: &Packet<'_>) -> Option<Self> {
        let received = packet.bytes.get(..packet.headers.l3_offset.into())?;
        let mut bytes = [0; ethernet::LEN + vlan::MAX_TAGS * vlan::LEN];
        bytes.get_mut(..received.len())?.copy_from_slice(received);
        let mut header = ethernet::Header::at_mut(&mut bytes, 0)?;
        header.set_destination(packet.ethernet()?.source());
        header.set_source(packet.link.mac);
        Some(Self { bytes, len: received.len() })
    }

    /// The same, to all that listen to this MAC address.
    pub(super) fn to(mut self, mac: Mac) -> Self {
        if let Some(mut header) = ethernet::Header::at_mut(&mut self.bytes, 0) {
            header.set_destination(mac);
        }
        self
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Context<'_> {
    /// Makes a frame of these parts and puts it into the port's outbox. Without a free frame it is not made; one that the
    /// outbox has no room for is counted both as made and as dropped.
    pub(super) fn originate(&mut self, port: u16, link: &LinkHeader, parts: &[&[u8]]) {
        let len = link.len + parts.iter().map(|part| part.len()).sum::<usize>();
        let Some(mut frame) = self.pool.take_len(len) else { return };
        let mut at = 0;
        for part in std::iter::once(&link.bytes()).chain(parts) {
            frame.put(at, part);
            at += part.len();
        }
        self.counters.originated += 1;
        let refused = match self.outboxes.get_mut(usize::from(port)) {
            Some(outbox) => outbox.push(frame).err(),
            None => Some(frame),
        };
        if let Some(frame) = refused {
            self.counters.dropped(crate::verdict::DropReason::TransmitQueueFull, 1);
            self.pool.give(frame);
        }
    }
}
