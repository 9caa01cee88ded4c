//! Whether the kernel is new enough for what is wanted.

use std::fs;

use super::device::DeviceFacts;
use super::error::OpenError;

/// XDP programs whose bpf_link dies with the process, shared UMEMs across devices, AF_XDP without RLIMIT_MEMLOCK for maps.
const LEAST: (u32, u32) = (5, 11);
/// Frames of several buffers in AF_XDP.
const JUMBO: (u32, u32) = (6, 6);

/// Fails if the kernel that runs is too old for a device. One that does not tell its version is taken for new enough: it
/// will say itself what it cannot do.
pub(super) fn check(device: &str, facts: &DeviceFacts) -> Result<(), OpenError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_release(release.trim(), device, facts)
}

fn check_release(release: &str, device: &str, facts: &DeviceFacts) -> Result<(), OpenError> {
    let Some(version) = version(release) else { return Ok(()) };
    let refused =
        |what, needed, or| Err(OpenError::KernelTooOld { what, needed, release: release.to_owned(), or });
    if version < LEAST {
        refused("AF_XDP as it is used here".to_owned(), "5.11", String::new())
    } else if version < JUMBO && facts.is_jumbo() {
        let what = format!("device `{device}` has an MTU of {}: AF_XDP with more than 1770", facts.mtu);
        refused(what, "6.6", format!(", or `ip link set dev {device} mtu 1500`"))
    } else {
        Ok(())
    }
}

/// The first two numbers of a release such as `6.12.3-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(release: &str, mtu: u32) -> Option<String> {
        let facts = DeviceFacts { driver: String::new(), mac: [0; 6], mtu, queues: 1, ifindex: 2 };
        check_release(release, "eth1", &facts).err().map(|error| error.to_string())
    }

    #[test]
    fn an_old_kernel_is_told_with_what_to_do() {
        assert_eq!(
            refusal("5.10.0-28-amd64", 1500).unwrap(),
            "AF_XDP as it is used here needs Linux 5.11 or later, and this is 5.10.0-28-amd64: boot a newer kernel"
        );
        assert_eq!(
            refusal("6.1.0", 9000).unwrap(),
            "device `eth1` has an MTU of 9000: AF_XDP with more than 1770 needs Linux 6.6 or later, and this is 6.1.0: \
             boot a newer kernel, or `ip link set dev eth1 mtu 1500`"
        );
    }

    #[test]
    fn a_new_one_and_an_unknown_one_will_do() {
        for (release, mtu) in
            [("5.11", 1500), ("6.1.0", 1770), ("6.6.0-rc1", 9000), ("10.0", 9000), ("", 9000), ("x.y", 1)]
        {
            assert_eq!(refusal(release, mtu), None, "{release}");
        }
    }
}
