//! What is to be known of a network device, and set on it, before its queues can be bound.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::arena::{CHUNK_MTU, MAX_LINK_HEADER, MAX_MTU};
use libc::{c_int, c_ulong, ifreq};

use super::membership;

// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// What the kernel says of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The driver's name; empty if it does not tell.
    pub driver: String,
    /// Hardware (MAC) address.
    pub mac: [u8; 6],
    /// Largest payload of an Ethernet frame, in bytes.
    pub mtu: u32,
    /// Receive queues.
    pub queues: u32,
    /// The interface's index.
    pub ifindex: u32,
}

impl DeviceFacts {
    /// The longest frame of the device's link, or that a packet may be.
    pub(super) fn longest(&self) -> u32 {
        self.mtu.min(MAX_MTU.into()) + MAX_LINK_HEADER as u32
    }

    /// Whether frames come that are longer than a chunk holds.
    pub(super) fn is_jumbo(&self) -> bool {
        self.mtu > u32::from(CHUNK_MTU)
    }
}

/// The facts of a device in the network namespace of the calling thread.
///
/// # Errors
/// `NotFound` if there is no such device, or what the kernel answers.
pub fn device_facts(device: &str) -> io::Result<DeviceFacts> {
    let control = Control::new(device)?;
    // SAFETY: the kernel has filled in the member that belongs to the request.
    let ifindex = unsafe { control.request(libc::SIOCGIFINDEX)?.ifr_ifru.ifru_ifindex } as u32;
    // SAFETY: as above.
    let mtu = unsafe { control.request(libc::SIOCGIFMTU)?.ifr_ifru.ifru_mtu } as u32;
    // SAFETY: as above.
    let address = unsafe { control.request(libc::SIOCGIFHWADDR)?.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    mac.iter_mut().zip(address.sa_data).for_each(|(to, from)| *to = from as u8);
    let queues = match control.channels() {
        Some(queues) => queues,
        None => sysfs_queues(device).unwrap_or(1),
    };
    Ok(DeviceFacts { driver: control.driver().unwrap_or_default(), mac, mtu, queues, ifindex })
}

/// Brings the device up and makes it deliver every multicast frame: ND and routing protocols need groups that our
/// kernel has not joined. So are frames to our MAC address, if it is not the device's own. That ends with the socket
/// returned.
pub(super) fn prepare(device: &str, facts: &DeviceFacts, mac: Option<[u8; 6]>) -> io::Result<OwnedFd> {
    let control = Control::new(device)?;
    let mut request = control.request(libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS fills in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & libc::IFF_UP as i16 == 0 {
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        control.call(libc::SIOCSIFFLAGS, &mut request)?;
    }
    membership::join(facts.ifindex, mac.filter(|mac| *mac != facts.mac))
}

/// Makes an error of a system call's -1.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket, closed when dropped.
pub(super) fn open_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor, if there is one, is new and ours.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, kind | libc::SOCK_CLOEXEC, 0))?)) }
}

fn sysfs_queues(device: &str) -> Option<u32> {
    let queues = fs::read_dir(format!("/sys/class/net/{device}/queues")).ok()?;
    let count =
        queues.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    u32::try_from(count).ok().filter(|&count| count != 0)
}

/// A socket for ioctls on one device.
struct Control {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Control {
    fn new(device: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        // A longer name, or one with a NUL in it, is no device's: the kernel must not see a part of it.
        if device.is_empty() || device.len() >= libc::IFNAMSIZ || device.contains('\0') {
            return Err(io::ErrorKind::NotFound.into());
        }
        name.iter_mut().zip(device.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
        Ok(Self { socket: open_socket(libc::AF_INET, libc::SOCK_DGRAM)?, name })
    }

    fn call(&self, code: c_ulong, request: &mut ifreq) -> io::Result<()> {
        // SAFETY: every code used here takes an ifreq; where it holds a pointer, the caller keeps what it points to.
        match check(unsafe { libc::ioctl(self.socket.as_raw_fd(), code as _, request) }) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        }
    }

    fn request(&self, code: c_ulong) -> io::Result<ifreq> {
        // SAFETY: an ifreq is integers and pointers, for all of which zero is a value.
        let mut request: ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        self.call(code, &mut request)?;
        Ok(request)
    }

    /// `words` must be as long as the structure of the command that its first word names.
    fn ethtool<const N: usize>(&self, mut words: [u32; N]) -> io::Result<[u32; N]> {
        // SAFETY: as in `request`.
        let mut request: ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        self.call(libc::SIOCETHTOOL, &mut request)?;
        Ok(words)
    }

    fn driver(&self) -> Option<String> {
        // struct ethtool_drvinfo: cmd, driver[32], ...: 196 bytes.
        let mut words = [0; 49];
        words[0] = ETHTOOL_GDRVINFO;
        let words = self.ethtool(words).ok()?;
        let bytes: Vec<u8> =
            words[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|&b| b != 0).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn channels(&self) -> Option<u32> {
        // struct ethtool_channels: cmd, the maxima of rx, tx, other, combined, then the counts in the same order.
        let [_, _, _, _, _, rx, _, _, combined] =
            self.ethtool([ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0]).ok()?;
        Some(rx + combined).filter(|&queues| queues != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_facts() {
        let facts = device_facts("lo").unwrap();
        assert_eq!((facts.mac, facts.ifindex), ([0; 6], 1));
        assert!(facts.queues >= 1 && facts.mtu >= 1500);
    }

    #[test]
    fn what_is_no_device_is_not_found() {
        for name in ["", "no-such-device", "a-name-longer-than-any", "lo\0"] {
            assert_eq!(device_facts(name).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }
}
