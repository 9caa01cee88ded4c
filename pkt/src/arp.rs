//! ARP for IPv4 over Ethernet (RFC 826).

use crate::ethernet::{self, Mac};
use std::net::Ipv4Addr;

/// Hardware type Ethernet.
pub const ETHERNET: u16 = 1;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has it.
pub const REPLY: u16 = 2;

header! {
    /// An ARP packet for IPv4 over Ethernet.
    Header: 28 bytes;
    /// Hardware type; 1 is Ethernet.
    HARDWARE_TYPE @ 0: u16, hardware_type, set_hardware_type;
    /// Protocol type, an EtherType.
    PROTOCOL_TYPE @ 2: u16, protocol_type, set_protocol_type;
    /// Bytes of a hardware address; 6 for Ethernet.
    HARDWARE_LEN @ 4: u8, hardware_len, set_hardware_len;
    /// Bytes of a protocol address; 4 for IPv4.
    PROTOCOL_LEN @ 5: u8, protocol_len, set_protocol_len;
    /// [`REQUEST`] or [`REPLY`]; other values exist and are to be ignored.
    OPERATION @ 6: u16, operation, set_operation;
    /// MAC of the sender.
    SENDER_MAC @ 8: Mac, sender_mac, set_sender_mac;
    /// IPv4 address of the sender; 0.0.0.0 in a probe (RFC 5227).
    SENDER_ADDRESS @ 14: Ipv4Addr, sender_address, set_sender_address;
    /// MAC of the target; of no meaning in a request.
    TARGET_MAC @ 18: Mac, target_mac, set_target_mac;
    /// IPv4 address that is asked for, or that the reply goes to.
    TARGET_ADDRESS @ 24: Ipv4Addr, target_address, set_target_address;
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// Whether the packet is for IPv4 over Ethernet, so that the address fields mean what they say.
    #[inline]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware_type() == ETHERNET
            && self.protocol_type() == ethernet::IPV4
            && self.hardware_len() == 6
            && self.protocol_len() == 4
    }
}

impl Header<[u8; LEN]> {
    /// A request for `target`. With `target` equal to `sender_address` it announces that address (gratuitous ARP, RFC
    /// 5227 3); with 0.0.0.0 for the sender it is a probe.
    pub fn request(sender_mac: Mac, sender_address: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self::with(REQUEST, sender_mac, sender_address, Mac::default(), target)
    }

    /// The answer that `address` is at `mac`, for the station that asked.
    pub fn reply(mac: Mac, address: Ipv4Addr, asker_mac: Mac, asker_address: Ipv4Addr) -> Self {
        Self::with(REPLY, mac, address, asker_mac, asker_address)
    }

    fn with(operation: u16, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Self {
        let mut header = Self([0; LEN]);
        header.set_hardware_type(ETHERNET);
        header.set_protocol_type(ethernet::IPV4);
        header.set_hardware_len(6);
        header.set_protocol_len(4);
        header.set_operation(operation);
        header.set_sender_mac(sender_mac);
        header.set_sender_address(sender);
        header.set_target_mac(target_mac);
        header.set_target_address(target);
        header
    }
}
