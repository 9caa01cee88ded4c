//! One question at a time over a netlink socket, in the network namespace of the calling thread.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::Socket;

/// `NLMSGERR_ATTR_MSG`: why, in the driver's words.
const ATTRIBUTE_MESSAGE: u16 = 1;
/// More than the kernel puts into one datagram of an answer.
pub(super) const LARGEST_DATAGRAM: usize = 1 << 16;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Why the kernel did not do, or did not tell, what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("{}", .reason.clone().unwrap_or_else(|| io::Error::from_raw_os_error(*.errno).to_string()))]
    Refused {
        /// Number of the error.
        errno: i32,
        /// The driver's words, where it has any.
        reason: Option<String>,
    },
    /// It could not be asked.
    #[error("netlink: {0}")]
    System(#[from] io::Error),
}

impl NetlinkError {
    /// Whether the device has nothing of the kind, or the kernel does not know the question.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { errno: libc::EOPNOTSUPP | libc::ENOENT, .. })
    }

    /// Whether another attempt may succeed: drivers say so, too, while a socket holds a queue.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Refused { errno: libc::EBUSY | libc::EINVAL, .. })
    }
}

/// A socket of one netlink protocol, whose messages are of type `M`.
pub(super) struct Netlink<M> {
    socket: Socket,
    sequence: u32,
    messages: PhantomData<M>,
}

impl<M: NetlinkSerializable + NetlinkDeserializable + Debug> Netlink<M> {
    pub(super) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Older kernels answer without the words.
        let _ = socket.set_cap_ack(true).and_then(|()| socket.set_ext_ack(true));
        Ok(Self { socket, sequence: 0, messages: PhantomData })
    }

    /// Asks for one thing, or to have one thing done.
    pub(super) fn ask(&mut self, message: M) -> Result<Vec<M>, NetlinkError> {
        self.exchange(message, NLM_F_ACK)
    }

    /// Asks for all there is of a kind.
    pub(super) fn dump(&mut self, message: M) -> Result<Vec<M>, NetlinkError> {
        self.exchange(message, NLM_F_DUMP)
    }

    /// Has the kernel mind what a dump is asked for, such as the table, since Linux 4.20.
    pub(super) fn strict(&mut self) {
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// Asks for all there is of a kind, and hands over the bytes of each message.
    pub(super) fn dump_each(&mut self, message: M, mut each: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_DUMP)?;
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        loop {
            datagram.clear();
            self.socket.recv_from(&mut datagram, 0)?;
            for one in messages(&datagram) {
                let word = |at: usize| one.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                if word(8).map(u32::from_ne_bytes) != Some(self.sequence) {
                    continue;
                }
                let kind =
                    one.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
                let code = word(HEADER).map_or(0, i32::from_ne_bytes);
                match kind {
                    ERROR | DONE if code < 0 => {
                        return Err(NetlinkError::Refused { errno: -code, reason: None });
                    }
                    ERROR | DONE => return Ok(()),
                    _ => each(one),
                }
            }
        }
    }

    /// As the flags say.
    pub(super) fn exchange(&mut self, message: M, flags: u16) -> Result<Vec<M>, NetlinkError> {
        self.send(message, flags)?;
        self.answers()
    }

    fn send(&mut self, message: M, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    fn answers(&mut self) -> Result<Vec<M>, NetlinkError> {
        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
            self.socket.recv_from(&mut datagram, 0)?;
            for one in messages(&datagram) {
                // What this version's types cannot decode (a link of a kind yet unknown) is no reason to know nothing.
                let Ok(answer) = NetlinkMessage::<M>::deserialize(one) else { continue };
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::Refused {
                            errno: -error.raw_code(),
                            reason: reason(&error),
                        });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The messages of a datagram, each with its header.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = message_length(rest)?;
        let (one, others) = rest.split_at(length);
        rest = others.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(one)
    })
}

/// Length of the message at the front, if all of it is there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (HEADER..=bytes.len()).contains(&length).then_some(length)
}

/// The words that came with an error (extended acknowledgement).
fn reason(error: &ErrorMessage) -> Option<String> {
    let attributes = NlasIterator::new(error.header.get(HEADER..)?);
    let message = attributes.flatten().find(|attribute| attribute.kind() == ATTRIBUTE_MESSAGE)?;
    let text = String::from_utf8_lossy(message.value()).trim_end_matches('\0').to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_off_has_no_length() {
        let mut bytes = [0u8; 24];
        bytes[0] = 20;
        assert_eq!(message_length(&bytes), Some(20));
        assert_eq!(message_length(&bytes[..19]), None);
        bytes[0] = 15;
        assert_eq!(message_length(&bytes), None);
        assert_eq!(message_length(&[]), None);
    }

    #[test]
    fn a_refusal_is_told_in_the_drivers_words_or_the_systems() {
        let refused = |reason: Option<&str>| {
            NetlinkError::Refused { errno: 95, reason: reason.map(str::to_owned) }.to_string()
        };
        assert_eq!(refused(Some("no such ring")), "no such ring");
        assert!(refused(None).starts_with("Operation not supported"));
    }
}
