//! What becomes of a packet. Every packet that comes in ends with exactly one [`Verdict`], and every way to die is a
//! [`DropReason`] with a counter of its own.

mod advice;

use sluice_pkt::parse::ParseError;
use sluice_pkt::pcp;

/// What is to be done with a packet once the stages are through with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the next stage and, at the end, out.
    #[default]
    Forward,
    /// Is for the gateway itself.
    Local,
    /// Is an inside host's request about its mappings, and answered like this.
    PortControl(Reply),
    /// Waits, as it came, for the neighbour with this index to be resolved; then it goes through the pipeline again.
    Hold(u32),
    /// A TCP SYN from outside that NAT has nobody for: waits for a while, as a connection may be opened from both sides at
    /// once (RFC 5382 REQ-4).
    HoldSyn,
    /// Is lent to the worker that owns its session, and comes back with an answer.
    Ask(u8),
    /// A fragment: waits, as it came, for the first one of its datagram, or for all.
    AwaitFragments,
    /// Dies silently.
    Drop(DropReason),
    /// Dies, and its sender is told by ICMP, rates permitting.
    Reject(DropReason, Answer),
}

/// What an inside host's request about its mappings comes to (PCP, NAT-PMP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Result.
    pub result: pcp::Result,
    /// Seconds: of the mapping, or for which the error is likely to stay.
    pub lifetime: u32,
    /// External address and port; 0 where there are none.
    pub external: (u32, u16),
}

/// The answer that the sender of a rejected packet gets, in the terms of its own family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Time exceeded in transit (ICMP 11/0, ICMPv6 3/0).
    TimeExceeded,
    /// No route (ICMP 3/0, ICMPv6 1/0).
    NoRoute,
    /// The next hop does not answer (ICMP 3/1, ICMPv6 1/3).
    HostUnreachable,
    /// Nobody listens at that port of the gateway (ICMP 3/3, ICMPv6 1/4; TCP gets a reset).
    PortUnreachable,
    /// NAT has nobody behind that port (ICMP 3/3, for TCP too).
    NoBinding,
    /// The gateway does not speak that protocol (ICMP 3/2; IPv6: parameter problem 4/1).
    ProtocolUnreachable,
    /// Forbidden by rule (ICMP 3/13, ICMPv6 1/1).
    Prohibited,
    /// Fragmentation needed, or packet too big; the egress MTU in bytes (ICMP 3/4, ICMPv6 2/0).
    TooBig(u16),
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Why a packet died.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that counters, JSON and documentation use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

drop_reasons! {
    /// The frame is longer than any of its link's MTU; segmentation offload at the sender is the usual cause.
    FrameTooLong = "frame_too_long",
    /// The capture holds only a part of the frame.
    CaptureTruncated = "capture_truncated",
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// A VLAN tag is cut off.
    VlanTruncated = "vlan_truncated",
    /// More than two VLAN tags.
    VlanDepth = "vlan_depth",
    /// No interface is configured for the frame's VLAN.
    VlanUnknown = "vlan_unknown",
    /// The destination MAC address is another station's.
    NotOurMac = "not_our_mac",
    /// Neither IPv4, IPv6 nor ARP.
    EtherTypeUnknown = "ethertype_unknown",
    /// An ARP packet that is cut off, or not for IPv4 over Ethernet.
    ArpMalformed = "arp_malformed",
    /// The frame ends before the IPv4 header does.
    Ipv4Truncated = "ipv4_truncated",
    /// The EtherType says IPv4, the version field does not.
    Ipv4Version = "ipv4_version",
    /// The IPv4 header length field is under five words.
    Ipv4HeaderLength = "ipv4_header_length",
    /// The IPv4 total length is under the header's or runs past the frame.
    Ipv4TotalLength = "ipv4_total_length",
    /// The IPv4 header checksum is wrong.
    Ipv4Checksum = "ipv4_checksum",
    /// An IPv4 option has an impossible length.
    Ipv4Options = "ipv4_options",
    /// The frame ends before the IPv6 header does.
    Ipv6Truncated = "ipv6_truncated",
    /// The EtherType says IPv6, the version field does not.
    Ipv6Version = "ipv6_version",
    /// The IPv6 payload length runs past the frame.
    Ipv6PayloadLength = "ipv6_payload_length",
    /// An IPv6 extension header is cut off, out of place, or one too many.
    Ipv6Extension = "ipv6_extension",
    /// A fragment that no datagram can be made of.
    FragmentMalformed = "fragment_malformed",
    /// The packet ends within the TCP header.
    TcpTruncated = "tcp_truncated",
    /// The TCP data offset is impossible.
    TcpOffset = "tcp_offset",
    /// The packet ends within the UDP header.
    UdpTruncated = "udp_truncated",
    /// The UDP length is impossible.
    UdpLength = "udp_length",
    /// The packet ends within the ICMP header.
    IcmpTruncated = "icmp_truncated",
    /// The packet asks for source routing (RFC 7126, RFC 5095).
    SourceRoute = "source_route",
    /// A source address that no packet may come from: multicast, broadcast, loopback, unspecified.
    SourceInvalid = "source_invalid",
    /// A destination address that is not forwarded: loopback, unspecified, reserved, link-local.
    DestinationInvalid = "destination_invalid",
    /// Multicast and broadcast are not forwarded.
    Multicast = "multicast",
    /// A later fragment whose first fragment has not come.
    FragmentUnknown = "fragment_unknown",
    /// Too many later fragments wait for their first one.
    FragmentQueueFull = "fragment_queue_full",
    /// A fragment that covers a part of another, and all that follow of its datagram.
    FragmentOverlap = "fragment_overlap",
    /// Too many datagrams in fragments at once, or one in too many pieces.
    FragmentTableFull = "fragment_table_full",
    /// A source address that the Internet has not.
    Bogon = "bogon",
    /// A source address to which no route leads back that way (RFC 3704).
    ReversePath = "reverse_path",
    /// One address as source and destination.
    Land = "land",
    /// TCP flags that exclude each other, or none where there must be one.
    TcpFlags = "tcp_flags",
    /// TCP or UDP from port 0.
    PortZero = "port_zero",
    /// A fragment so small, or at such a place, that it serves to hide what it belongs to (RFC 1858, RFC 3128).
    FragmentTiny = "fragment_tiny",
    /// UDP from a port of services that answer, and nobody has asked.
    UnaskedAnswer = "unasked_answer",
    /// From or to a prefix of a blocklist.
    Blocklisted = "blocklisted",
    /// From a prefix of a blocklist; the XDP program dropped it.
    BlocklistedXdp = "blocklisted_xdp",
    /// Its source sends more than a source may.
    SourceRate = "source_rate",
    /// Its source sends more to that service than a source may.
    ServiceRate = "service_rate",
    /// More ICMP than the interface's guard lets in.
    IcmpRate = "icmp_rate",
    /// Its source opens more sessions a second than a source may.
    SourceNewSessions = "source_new_sessions",
    /// Its source has as many sessions as a source may.
    SourceSessions = "source_sessions",
    /// An ACL says no.
    AclDeny = "acl_deny",
    /// As many sessions as the table holds are live.
    SessionTableFull = "session_table_full",
    /// Its answers could not be told from packets of a live session that is translated.
    SessionConflict = "session_conflict",
    /// A packet to a NAT address that belongs to no session.
    NatNoSession = "nat_no_session",
    /// The filter of a NAT binding does not let its sender in.
    NatFiltered = "nat_filtered",
    /// A TCP SYN to an external port of NAT that belongs to no session.
    SynUnsolicited = "syn_unsolicited",
    /// The interface whose address NAT would give has none yet, or no longer.
    NatNoAddress = "nat_no_address",
    /// No free port on any address of the pool.
    NatPortsExhausted = "nat_ports_exhausted",
    /// The inside address has as many external ports as it may, or all of its blocks are in use.
    NatPortLimit = "nat_port_limit",
    /// The inside address has as many sessions as it may.
    NatSessionLimit = "nat_session_limit",
    /// The inside address has as many new sessions a second as it may.
    NatRateLimit = "nat_rate_limit",
    /// An ICMP message that source NAT cannot translate: it is neither a query nor an error, or the answer to no query.
    /// With NAT64 also a protocol other than TCP, UDP and ping.
    NatProtocol = "nat_protocol",
    /// Another inside host speaks with that remote address by that protocol, which has no ports to tell them apart.
    NatRemoteTaken = "nat_remote_taken",
    /// A protocol without ports that source NAT can give only addresses which the kernel has, too.
    NatKernelAddress = "nat_kernel_address",
    /// An authentication header (IPsec AH), which covers the addresses that NAT would have to change.
    NatAuthenticated = "nat_authenticated",
    /// An IPv6 address that prefix translation has no counterpart for.
    PrefixUnmappable = "prefix_unmappable",
    /// An IPv6 address that stands for no IPv4 address which NAT64 may send to.
    Nat64Address = "nat64_address",
    /// No rule of NAT64 is for packets that leave by that interface.
    Nat64NoRule = "nat64_no_rule",
    /// A fragment of an ICMP message, which cannot be told in the other family.
    Nat64Fragment = "nat64_fragment",
    /// An IPv6 extension header that IPv4 cannot do without: routing with segments left, or authentication.
    Nat64Extension = "nat64_extension",
    /// A fragment of a UDP datagram without a checksum, which IPv6 demands, and of which others have not come.
    Nat64Checksum = "nat64_checksum",
    /// An ICMP error that the other family has no counterpart for.
    Nat64Icmp = "nat64_icmp",
    /// A TCP reset that belongs to no session and that NAT would have to translate.
    TcpNoSession = "tcp_no_session",
    /// An ICMP error about a packet that belongs to no session and that NAT would have to translate.
    IcmpNoSession = "icmp_no_session",
    /// An ICMP error that NAT would have to translate has a wrong checksum.
    IcmpChecksum = "icmp_checksum",
    /// No route to the destination.
    NoRoute = "no_route",
    /// The route says to drop.
    Blackhole = "blackhole",
    /// TTL or hop limit used up.
    TtlExpired = "ttl_expired",
    /// Longer than the egress MTU, and not to be fragmented.
    PacketTooBig = "packet_too_big",
    /// The next hop does not answer ARP or neighbour discovery.
    NeighborUnreachable = "neighbor_unreachable",
    /// The packets that wait for this next hop are as many as may.
    NeighborQueueFull = "neighbor_queue_full",
    /// The neighbour table is full of addresses that are in use or being resolved.
    NeighborTableFull = "neighbor_table_full",
    /// More new neighbours are wanted at once than the gateway asks for: a scan of a subnet, most likely.
    NeighborRequestRate = "neighbor_request_rate",
    /// Over a configured limit.
    RateLimited = "rate_limited",
    /// For the gateway itself, which has no use for it.
    LocalUnwanted = "local_unwanted",
    /// For the gateway itself, but malformed or forged (checksum, hop limit, sender).
    LocalInvalid = "local_invalid",
    /// No free packet buffer.
    NoFrame = "no_frame",
    /// As many packets wait in the egress port's shaper as may: the longest queue gave one up.
    ShaperFull = "shaper_full",
    /// As many packets wait in a class as may.
    ShaperClassFull = "shaper_class_full",
    /// It waited too long in the egress port's shaper, as those before it did (CoDel, RFC 8289).
    ShaperDelay = "shaper_delay",
    /// As many hosts as may have packets in a class.
    ShaperHosts = "shaper_hosts",
    /// Packet buffers ran low: the longest queue of a shaper gave some up.
    ShaperFrames = "shaper_frames",
    /// The quota of its class, or of its host there, is used up.
    QuotaUsedUp = "quota_used_up",
    /// The egress port's queue is full.
    TransmitQueueFull = "transmit_queue_full",
    /// The gateway was stopped while the packet waited.
    Shutdown = "shutdown",
    /// As many packets are lent to the worker that owns its session as may be.
    CrossingFull = "crossing_full",
    /// As many packets wait for the answer of their session's owner as may.
    OwnerQueueFull = "owner_queue_full",
    /// The worker that owns its session did not answer in time.
    OwnerSilent = "owner_silent",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl From<ParseError> for DropReason {
    #[inline]
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Runt => Self::Runt,
            ParseError::VlanTruncated => Self::VlanTruncated,
            ParseError::VlanDepth => Self::VlanDepth,
            ParseError::ArpMalformed => Self::ArpMalformed,
            ParseError::Ipv4Truncated => Self::Ipv4Truncated,
            ParseError::Ipv4Version => Self::Ipv4Version,
            ParseError::Ipv4HeaderLength => Self::Ipv4HeaderLength,
            ParseError::Ipv4TotalLength => Self::Ipv4TotalLength,
            ParseError::Ipv4Checksum => Self::Ipv4Checksum,
            ParseError::Ipv4Options => Self::Ipv4Options,
            ParseError::Ipv6Truncated => Self::Ipv6Truncated,
            ParseError::Ipv6Version => Self::Ipv6Version,
            ParseError::Ipv6PayloadLength => Self::Ipv6PayloadLength,
            ParseError::Ipv6Extension => Self::Ipv6Extension,
            ParseError::FragmentMalformed => Self::FragmentMalformed,
            ParseError::TcpTruncated => Self::TcpTruncated,
            ParseError::TcpOffset => Self::TcpOffset,
            ParseError::UdpTruncated => Self::UdpTruncated,
            ParseError::UdpLength => Self::UdpLength,
            ParseError::IcmpTruncated => Self::IcmpTruncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_described() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        assert!(DropReason::ALL.iter().all(|r| r.describe().ends_with('.')));
        assert!(DropReason::ALL.iter().enumerate().all(|(i, &r)| r as usize == i));
    }
}
