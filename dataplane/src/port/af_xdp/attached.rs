//! The XDP program that somebody else has attached to a device: whose it is, and how it is taken off.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya::programs::loaded_programs;

use super::device::{check, open_socket};

// linux/rtnetlink.h, linux/if_link.h
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
/// Programs by where they are attached: the attribute that has the id, the flag that chooses the place, and its name.
const PLACES: [(u16, u32, &str); 3] =
    [(5, 1 << 2, "native"), (6, 1 << 1, "generic"), (7, 1 << 3, "offloaded")];
/// Bytes of a message's header, and of the `ifinfomsg` behind it.
const HEADER: usize = 16;
const LINK_HEADER: usize = HEADER + 16;

// linux/bpf.h
const BPF_LINK_CREATE: i32 = 28;
const BPF_XDP: u32 = 37;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_LINK_GET_FD_BY_ID: i32 = 30;
const BPF_LINK_GET_NEXT_ID: i32 = 31;
const BPF_LINK_DETACH: i32 = 34;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// A program on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    ifindex: u32,
    program: u32,
    /// Its name and tag, where the kernel tells.
    name: String,
    place: &'static str,
    flag: u32,
    /// The bpf_link that holds it; none if it was attached by netlink, and stays without its process.
    link: Option<u32>,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {}{} is attached in {} mode, ", self.program, self.name, self.place)?;
        match self.link {
            Some(link) => write!(f, "by the bpf_link {link}"),
            None => f.write_str("by netlink"),
        }
    }
}

impl Attached {
    /// The program on a device, if there is one and the kernel tells.
    pub(super) fn on(ifindex: u32) -> Option<Self> {
        let reply = exchange(&message(RTM_GETLINK, libc::NLM_F_REQUEST as u16, ifindex, &[])).ok()?;
        let xdp = attribute(reply.get(LINK_HEADER..)?, IFLA_XDP)?;
        let (program, flag, place) = PLACES
            .iter()
            .find_map(|&(kind, flag, place)| Some((word(attribute(xdp, kind)?, 0)?, flag, place)))?;
        let info = loaded_programs().flatten().find(|info| info.id() == program);
        let name = info.map_or(String::new(), |info| {
            format!(" (`{}`, tag {:016x})", info.name_as_str().unwrap_or("?"), info.tag())
        });
        Some(Self { ifindex, program, name, place, flag, link: link_of(program, ifindex) })
    }

    /// What to type to be rid of it.
    pub(super) fn remedy(&self, device: &str) -> String {
        match (self.link, self.place) {
            (Some(link), _) => {
                format!("end the process that holds it (`bpftool link show id {link}` names it)")
            }
            (None, "generic") => format!("`ip link set dev {device} xdpgeneric off` takes it off"),
            (None, "offloaded") => format!("`ip link set dev {device} xdpoffload off` takes it off"),
            (None, _) => format!("`ip link set dev {device} xdp off` takes it off"),
        }
    }

    /// Takes it off.
    pub(super) fn detach(&self) -> io::Result<()> {
        if let Some(link) = self.link {
            let link = link_descriptor(link)?;
            return bpf(BPF_LINK_DETACH, &mut [link.as_raw_fd() as u32]).map(drop);
        }
        let mut xdp = Vec::new();
        put_attribute(&mut xdp, IFLA_XDP_FD, &(-1i32).to_ne_bytes());
        put_attribute(&mut xdp, IFLA_XDP_FLAGS, &self.flag.to_ne_bytes());
        let mut attributes = Vec::new();
        put_attribute(&mut attributes, IFLA_XDP | libc::NLA_F_NESTED as u16, &xdp);
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        exchange(&message(RTM_SETLINK, flags, self.ifindex, &attributes)).map(drop)
    }
}

/// The bpf_link that holds this program on a device. Programs' numbers are unique; the device's is so in its network
/// namespace only.
fn link_of(program: u32, ifindex: u32) -> Option<u32> {
    let mut id = 0;
    loop {
        // start_id, next_id
        let mut query = [id, 0];
        bpf(BPF_LINK_GET_NEXT_ID, &mut query).ok()?;
        id = query[1];
        // struct bpf_link_info: type, id, prog_id, padding, then of an XDP link its ifindex.
        let mut info = [0u32; 32];
        let Ok(link) = link_descriptor(id) else { continue };
        let pointer = info.as_mut_ptr() as u64;
        let halves = [pointer as u32, (pointer >> 32) as u32];
        let [first, second] = if cfg!(target_endian = "big") { [halves[1], halves[0]] } else { halves };
        let mut query = [link.as_raw_fd() as u32, size_of_val(&info) as u32, first, second];
        let known = bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query).is_ok();
        if known && (info[0], info[2], info[4]) == (BPF_LINK_TYPE_XDP, program, ifindex) {
            return Some(id);
        }
    }
}

/// Attaches a program to a device by a link of its own; `flags` are those of XDP programs.
pub(super) fn link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_CREATE, &mut [program.as_raw_fd() as u32, ifindex, BPF_XDP, flags])?;
    // SAFETY: a new descriptor, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn link_descriptor(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut [id])?;
    // SAFETY: a new descriptor, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2). `words` is the beginning of its attributes, as the command has them; the kernel takes the rest for zeros.
fn bpf(command: i32, words: &mut [u32]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes as many bytes as it is told; a pointer among them is to memory that the caller
    // holds, of the length that goes with it.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) } as i32)
}

/// A message about a device.
fn message(kind: u16, flags: u16, ifindex: u32, attributes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(((LINK_HEADER + attributes.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port of the header; family and type of the device.
    message.extend([0; 12]);
    message.extend(ifindex.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(attributes);
    message
}

fn put_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The value of the attribute of this kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & libc::NLA_TYPE_MASK as u16;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

/// Sends a message and returns the kernel's first one in answer.
fn exchange(message: &[u8]) -> io::Result<Vec<u8>> {
    // The protocol 0 of netlink is NETLINK_ROUTE.
    let socket = open_socket(libc::AF_NETLINK, libc::SOCK_RAW)?;
    let mut reply = vec![0; 1 << 16];
    // SAFETY: slices and their lengths. To a netlink socket that is not bound the kernel is the other end.
    let length = unsafe {
        check(libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) as i32)?;
        check(libc::recv(socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) as i32)?
    };
    reply.truncate(length as usize);
    let kind = word(&reply, 4).unwrap_or(0).to_ne_bytes();
    if u16::from_ne_bytes([kind[0], kind[1]]) == libc::NLMSG_ERROR as u16 {
        match word(&reply, HEADER).map(|error| -(error as i32)) {
            Some(0) => {}
            Some(error) => return Err(io::Error::from_raw_os_error(error)),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let mut list = Vec::new();
        put_attribute(&mut list, 3, b"odd");
        put_attribute(&mut list, 43 | libc::NLA_F_NESTED as u16, &7u32.to_ne_bytes());
        assert_eq!(attribute(&list, 43).and_then(|value| word(value, 0)), Some(7));
        assert_eq!(attribute(&list, 3), Some(&b"odd"[..]));
        assert_eq!(
            (attribute(&list, 5), attribute(&list[..9], 43), attribute(&[0; 8], 1)),
            (None, None, None)
        );
    }

    #[test]
    fn a_device_without_a_program_says_so() {
        assert_eq!(Attached::on(1), None);
        assert_eq!(Attached::on(u32::MAX), None);
    }

    #[test]
    fn a_program_is_told_with_its_remedy() {
        let mut attached = Attached {
            ifindex: 2,
            program: 7,
            name: " (`drop`, tag 00000000000000ff)".to_owned(),
            place: "generic",
            flag: 2,
            link: None,
        };
        assert_eq!(
            attached.to_string(),
            "program 7 (`drop`, tag 00000000000000ff) is attached in generic mode, by netlink"
        );
        assert_eq!(attached.remedy("eth1"), "`ip link set dev eth1 xdpgeneric off` takes it off");
        attached.link = Some(5);
        assert!(attached.to_string().ends_with("by the bpf_link 5"));
        assert!(attached.remedy("eth1").contains("bpftool link show id 5"));
    }
}
