//! What to do about packets that die, by reason. docs/counters.md has the same sentences, and a test compares them.

use super::DropReason;

impl DropReason {
    /// What an operator can do about it, in a sentence or two; backticks enclose what is typed.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::FrameTooLong => {
                "Use native XDP; or find the sender with segmentation offload, or the NIC with LRO."
            }
            Self::CaptureTruncated => "Record with a larger snap length (`tcpdump -s 0`).",
            Self::Runt | Self::VlanTruncated => "Look at the device and the cable.",
            Self::VlanDepth => "Sluice takes QinQ, not more.",
            Self::VlanUnknown => "Add the VLAN, or take it off the switch's port.",
            Self::NotOurMac => {
                "Usual in small numbers, on a flooding switch or a mirrored port. In large ones, look for a wrong `mac`."
            }
            Self::EtherTypeUnknown => "Leave it to the kernel (`kernel = [\"lldp\"]`) if it is wanted.",
            Self::ArpMalformed
            | Self::Ipv4Options
            | Self::Ipv6Truncated
            | Self::Ipv6Version
            | Self::Ipv6PayloadLength
            | Self::Ipv6Extension
            | Self::TcpTruncated
            | Self::TcpOffset
            | Self::UdpTruncated
            | Self::UdpLength
            | Self::IcmpTruncated => "Look at the sender.",
            Self::Ipv4Truncated | Self::Ipv4Version | Self::Ipv4HeaderLength | Self::Ipv4TotalLength => {
                "Look at the sender, by a capture on the wire."
            }
            Self::Ipv4Checksum => "Single ones: bad memory or cabling. Many: a broken sender.",
            Self::FragmentMalformed => "An attack, most likely.",
            Self::SourceRoute => "Nothing; it is not to be had.",
            Self::SourceInvalid => "Forged. Look for the sender on that interface.",
            Self::DestinationInvalid => "A sender that is set up wrongly.",
            Self::Multicast => "Usual: mDNS, SSDP, DHCP and their like.",
            Self::FragmentUnknown => "Usual in small numbers, as packets are lost.",
            Self::FragmentQueueFull => "A flood of fragments; those in order are not harmed.",
            Self::FragmentOverlap => "An attack, or identifications that come round too fast.",
            Self::FragmentTableFull => "Raise `[tables] fragments`, or find who sends fragments.",
            Self::Bogon => {
                "Forged, most likely. Many from one prefix: a neighbour that does not filter; or take `\"bogons\"` off that interface's guard, if it is a private network."
            }
            Self::ReversePath => {
                "Forged, or a route is missing; with ways that differ by direction, use `reverse-path = \"loose\"`."
            }
            Self::Land => "An attack.",
            Self::TcpFlags => "A scan.",
            Self::PortZero => "A scan, or an attack.",
            Self::FragmentTiny => "An attack, most likely.",
            Self::UnaskedAnswer => {
                "Amplification that is aimed at you, or a service inside whose clients use that port: see `answer-ports`."
            }
            Self::Blocklisted | Self::BlocklistedXdp => "`block show` says which list.",
            Self::SourceRate | Self::ServiceRate | Self::SourceNewSessions | Self::SourceSessions => {
                "`capture --drops` shows by whom; raise the guard's limit if they are honest, or `block add` them."
            }
            Self::IcmpRate => "A flood of pings, or of errors about forged packets.",
            Self::AclDeny => "`show acl` says which rule.",
            Self::SessionTableFull => {
                "Raise `[tables] sessions`, or shorten `[timeouts]`; look in `show flows` for one source with many."
            }
            Self::SessionConflict => {
                "Somebody outside sends to inside addresses past NAT; let the outer interface's ACL drop that."
            }
            Self::NatNoSession => "Usual on the Internet.",
            Self::NatFiltered => {
                "Usual on the Internet. If a program should be reachable: `filtering` of its `[[nat.source]]`."
            }
            Self::SynUnsolicited => "Usual on the Internet: scans.",
            Self::NatNoAddress => {
                "See by `show interfaces` and the log of the DHCP client, or `ip address`, why the kernel has none there."
            }
            Self::NatPortsExhausted => {
                "Add addresses to the pool or widen `ports`; with blocks, `show nat` says who has how many: a smaller `block-size` or `max-blocks`."
            }
            Self::NatPortLimit => {
                "See in `show nat` whether that address is honest, and raise `max-ports`, `max-blocks` or `block-size`."
            }
            Self::NatSessionLimit => {
                "See in `show nat` whether that address is honest, and raise `max-sessions`."
            }
            Self::NatRateLimit => {
                "See in `show nat` whether that address is honest, and raise `max-new-per-second`."
            }
            Self::NatProtocol => "None; such messages are for the link.",
            Self::NatRemoteTaken => {
                "Add addresses to the pool, or give the host one of its own (`[[nat.static]]`)."
            }
            Self::NatKernelAddress => "Give the pool an address that the kernel has not.",
            Self::NatAuthenticated => "Use ESP, or an exemption from NAT (`[[nat.exempt]]`).",
            Self::PrefixUnmappable => "Use other subnets.",
            Self::Nat64Address => "Take a prefix of your own for private addresses.",
            Self::Nat64NoRule => "Compare `out` and `from` with the routes.",
            Self::Nat64Fragment => "Use smaller pings.",
            Self::Nat64Extension => "Nothing; IPv4 has no such thing.",
            Self::Nat64Checksum => "Have the sender compute checksums.",
            Self::Nat64Icmp | Self::IcmpNoSession => "Usual in small numbers.",
            Self::TcpNoSession => "Usual: the far end closed after the session had ended.",
            Self::IcmpChecksum => "None; it was damaged or forged.",
            Self::NoRoute => "Add a route, or a default route.",
            Self::Blackhole => "Nothing; it is what you wrote.",
            Self::TtlExpired => "Usual with traceroute. Many: a routing loop.",
            Self::PacketTooBig => "Usual: this is path MTU discovery. Should stop for each connection soon.",
            Self::NeighborUnreachable => "`show neighbors`. Is it there, with that address, on that VLAN?",
            Self::NeighborQueueFull => "Usual in small numbers, when traffic starts before the answer.",
            Self::NeighborTableFull => "Raise `[tables] neighbors`, or find the scan.",
            Self::NeighborRequestRate => "A scan of a subnet, most likely (RFC 6583).",
            Self::RateLimited => "`show limits` says which.",
            Self::LocalUnwanted => "Usual: scans of its addresses.",
            Self::LocalInvalid => "Somebody on that link forges ARP or neighbour discovery, or is broken.",
            Self::NoFrame => "Raise `[tables] frames`.",
            Self::ShaperFull => {
                "More is to be sent than `rate`. `show qos` says by whom; lower `target`, or raise `frames` if `shaper_delay` never counts."
            }
            Self::ShaperClassFull => "More is to be sent than that class may. `show qos` says by whom.",
            Self::ShaperDelay => {
                "Expected of connections that take all they can get. Senders with ECN are marked instead."
            }
            Self::ShaperHosts => "Raise `most`, or let prefixes share (`per = \"source/24\"`).",
            Self::QuotaUsedUp => "See `show accounting` for whose quota it is; it ends with the period.",
            Self::ShaperFrames => "Raise `[tables] frames`, or lower `frames` of shapers.",
            Self::TransmitQueueFull => {
                "The egress is slower than the ingress. Add a limit, or a faster device."
            }
            Self::Shutdown => "Nothing.",
            Self::CrossingFull | Self::OwnerQueueFull => {
                "A flood of new sessions; or that worker stalls: see `show workers`."
            }
            Self::OwnerSilent => "It stalls or has died: see `show workers`, and whether its core is shared.",
        }
    }
}
