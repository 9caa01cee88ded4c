//! What a device is to deliver beyond frames for itself, asked for by a packet socket: the kernel takes the wish back
//! when the socket is closed, and so also when the process is killed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::c_int;

use super::device::{check, open_socket};

/// Makes a device deliver frames for every MAC address, for as long as the socket returned is open.
///
/// # Errors
/// What the kernel answers, such as EPERM without CAP_NET_RAW.
pub fn promiscuous(ifindex: u32) -> io::Result<OwnedFd> {
    let socket = silent_socket()?;
    add(&socket, ifindex, libc::PACKET_MR_PROMISC, &[])?;
    Ok(socket)
}

/// Makes a device deliver all multicast frames, and those to one more address, likewise.
pub(super) fn join(ifindex: u32, address: Option<[u8; 6]>) -> io::Result<OwnedFd> {
    let socket = silent_socket()?;
    add(&socket, ifindex, libc::PACKET_MR_ALLMULTI, &[])?;
    if let Some(address) = address {
        add(&socket, ifindex, libc::PACKET_MR_UNICAST, &address)?;
    }
    Ok(socket)
}

/// Protocol 0: the socket receives nothing.
fn silent_socket() -> io::Result<OwnedFd> {
    open_socket(libc::AF_PACKET, libc::SOCK_RAW)
}

fn add(socket: &OwnedFd, ifindex: u32, kind: c_int, address: &[u8]) -> io::Result<()> {
    let mut membership = libc::packet_mreq {
        mr_ifindex: ifindex as c_int,
        mr_type: kind as u16,
        mr_alen: address.len() as u16,
        mr_address: [0; 8],
    };
    membership.mr_address.iter_mut().zip(address).for_each(|(to, from)| *to = *from);
    // SAFETY: the option's value is the structure that it takes, and its length.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of_val(&membership) as u32,
        )
    })?;
    Ok(())
}
