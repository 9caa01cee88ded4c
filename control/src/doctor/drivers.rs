//! What a driver can do for AF_XDP: by what it says itself, or by what its kernel's version is known for.

use crate::device::XdpSupport;

/// Bits of `enum netdev_xdp_act` (linux/netdev.h).
const REDIRECT: u64 = 1 << 1;
const ZERO_COPY: u64 = 1 << 3;
const RX_FRAGMENTS: u64 = 1 << 5;

/// Names of the bits of `enum netdev_xdp_rx_metadata` and `enum netdev_xsk_flags`, lowest first.
const RX_METADATA: [&str; 3] = ["receive timestamps", "RSS hashes", "VLAN tags"];
const TX_METADATA: [&str; 3] = ["transmit timestamps", "checksums on transmission", "launch times"];

/// How a driver runs XDP programs and AF_XDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// In the driver, and frames are not copied.
    ZeroCopy,
    /// In the driver, with a copy of each frame.
    Native,
    /// In the kernel's generic hook alone.
    Generic,
    /// Unknown driver on a kernel that does not tell.
    Unknown,
}

/// Major and minor number of a kernel.
type Version = (u32, u32);

/// First kernel with native XDP (with `XDP_REDIRECT`), and first with zero copy, of drivers in the kernel's own tree.
///
/// Consulted before Linux 6.3 alone: later kernels say it themselves (netdev genetlink, `xdp-features`). Sources: the
/// merge commits of the drivers as listed in docs/kernel-versions.md of the BCC project (native), and the kernel's log of
/// `ndo_xsk_wakeup`, before 5.4 `ndo_xsk_async_xmit`, under drivers/net/ (zero copy).
const DRIVERS: &[(&str, Version, Option<Version>)] = &[
    ("bnxt_en", (4, 17), None),
    ("dpaa2-eth", (5, 0), Some((6, 2))),
    ("ena", (5, 6), None),
    ("i40e", (4, 14), Some((4, 20))),
    ("ice", (5, 5), Some((5, 5))),
    ("igb", (5, 10), None),
    ("igc", (5, 13), Some((5, 14))),
    ("ixgbe", (4, 14), Some((4, 20))),
    ("ixgbevf", (4, 17), None),
    ("mlx5_core", (4, 18), Some((5, 3))),
    ("mvneta", (5, 5), None),
    ("qede", (4, 19), None),
    ("st_gmac", (5, 13), Some((5, 13))),
    ("stmmac", (5, 13), Some((5, 13))),
    ("thunderx", (4, 17), None),
    ("tun", (4, 14), None),
    ("veth", (4, 19), None),
    ("virtio_net", (4, 14), None),
];

/// What a driver exchanges about single frames with AF_XDP sockets, in words.
pub(super) fn metadata(says: XdpSupport) -> String {
    let set = |bits: u64, names: [&'static str; 3]| {
        names.into_iter().enumerate().filter(move |&(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| name)
    };
    let names: Vec<&str> =
        set(says.rx_metadata, RX_METADATA).chain(set(says.tx_metadata, TX_METADATA)).collect();
    names.join(", ")
}

/// What there is to expect of a driver.
pub(super) fn support(driver: &str, says: Option<u64>, kernel: Version) -> Support {
    match says {
        Some(bits) if bits & ZERO_COPY != 0 => return Support::ZeroCopy,
        Some(bits) if bits & REDIRECT != 0 => return Support::Native,
        Some(_) => return Support::Generic,
        None => {}
    }
    match DRIVERS.iter().find(|(name, _, _)| *name == driver) {
        Some((_, _, Some(since))) if kernel >= *since => Support::ZeroCopy,
        Some((_, since, _)) if kernel >= *since => Support::Native,
        Some(_) => Support::Generic,
        None => Support::Unknown,
    }
}

/// Whether frames may come in several buffers, as those over some 3.5 kB have to. None before Linux 6.3.
pub(super) fn takes_fragments(says: Option<u64>) -> Option<bool> {
    says.map(|bits| bits & RX_FRAGMENTS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_counts() {
        assert_eq!(support("igb", Some(REDIRECT | ZERO_COPY), (6, 14)), Support::ZeroCopy);
        assert_eq!(support("ice", Some(REDIRECT), (6, 14)), Support::Native);
        assert_eq!(support("ice", Some(0), (6, 14)), Support::Generic);
        assert_eq!((takes_fragments(Some(RX_FRAGMENTS)), takes_fragments(None)), (Some(true), None));
    }

    #[test]
    fn older_kernels_are_known() {
        assert_eq!(support("ice", None, (5, 15)), Support::ZeroCopy);
        assert_eq!(support("mlx5_core", None, (5, 2)), Support::Native);
        assert_eq!(support("igc", None, (5, 11)), Support::Generic);
        assert_eq!(support("e1000e", None, (6, 1)), Support::Unknown);
    }

    #[test]
    fn the_table_is_in_order_and_zero_copy_never_before_native() {
        assert!(DRIVERS.is_sorted_by_key(|(name, _, _)| *name));
        for (name, native, zero_copy) in DRIVERS {
            assert!(zero_copy.is_none_or(|zero_copy| zero_copy >= *native), "{name}");
        }
    }
}
