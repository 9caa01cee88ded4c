//! The link between the two processes of a gateway: control asks, the data plane answers (`desk.rs`).
//!
//! A pair of Unix sockets, which has no name that anybody else could open. A message is its length and a number, eight bytes
//! each, and JSON; an answer has the number of its question, so that a long listing holds up no short question. What the data
//! plane writes, it gives up on after five seconds.

mod desk;

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::TopBy;
use crate::capture::{Begun, Piece, Spec};
use crate::export::{Batch, SinkStatus};
use crate::nat_query::Query;
use crate::reload::Outcome;
use crate::state::{State, Topic};
use crate::trace::{self, Trace};
use crate::upgrade::Upgraded;

pub use self::desk::{Desk, Errand, serve};

/// What both ends must speak.
pub const VERSION: u32 = 1;
/// How long an answer may take; the workers get ten seconds for a listing, each.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest message in bytes.
const LONGEST: u64 = 1 << 30;
/// How long a question that can have no answer is held, for the process to end in: a client is better cut off, and comes
/// again, than told that there is no gateway.
const MOURNING: Duration = Duration::from_secs(1);

/// Defines what is asked of [`State`]: `name(arguments) -> answer` is its method of that name, which returns a `Result`, with
/// words where it fails, of something that is written as this answer is read; and it is one of [`DataPlane`].
macro_rules! of_state {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        /// A question about the state of the gateway, by the name of the method that answers it.
        #[derive(Debug, Serialize, Deserialize)]
        #[allow(non_camel_case_types, reason = "named as the methods are")]
        enum OfState { $($name { $($argument: $type),* },)* }

        impl OfState {
            fn answer(self, state: &State) -> Vec<u8> {
                match self { $(Self::$name { $($argument),* } => encode(&state.$name($($argument),*)),)* }
            }
        }

        impl DataPlane {
            $($(#[$doc])*
            ///
            /// # Errors
            /// What the data plane says, or that it does not answer.
            pub fn $name(&self, $($argument: $type),*) -> Result<$answer, String> {
                self.ask(&Ask::State(OfState::$name { $($argument),* }))
            })*
        }
    };
}

of_state! {
    /// A listing.
    show(topic: Topic) -> Box<RawValue>;
    /// Who has an external port, or which ports an inside address has.
    nat_query(query: Query) -> Box<RawValue>;
    /// The sessions that move the most, and how many of them at most.
    top_flows(by: TopBy, limit: u32) -> Box<RawValue>;
    /// The hosts whose sessions move the most, likewise.
    top_hosts(by: TopBy, limit: u32) -> Box<RawValue>;
    /// The routes within a prefix, or by which an address goes.
    routes(within: Option<String>) -> Box<RawValue>;
    /// What would become of a packet, in words; or what is wrong with them.
    explain(packet: String) -> Result<Box<RawValue>, String>;
    /// Begins a capture; or says what is wrong with the words.
    capture_start(spec: Spec) -> Result<Begun, String>;
    /// What a capture has found since it was asked last.
    capture_read(id: u64) -> Piece;
    /// Ends a capture, and returns what was left of it.
    capture_stop(id: u64) -> Piece;
    /// Begins a trace, whose number is returned; or says what is wrong with the words.
    trace_add(spec: trace::Spec) -> Result<u64, String>;
    /// The traces with what they have found.
    trace_show() -> Vec<Trace>;
    /// Ends a trace or all of them; or says that there is none such.
    trace_clear(id: Option<u64>) -> Result<usize, String>;
    /// All lists of prefixes, and what is blocked by hand.
    block_show() -> Box<RawValue>;
    /// Blocks a prefix, for some seconds; or says why not.
    block_add(prefix: String, seconds: Option<u64>, note: Option<String>) -> Result<Box<RawValue>, String>;
    /// Blocks it no longer; or says why not.
    block_remove(prefix: String) -> Result<Box<RawValue>, String>;
    /// Everything that is counted, for Prometheus.
    metrics() -> String;
    /// How upgrades went.
    upgraded() -> Upgraded;
}

/// What control asks.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// The first question: what is there to be taken over?
    Greet { version: u32 },
    /// The API answers from now on.
    Serving,
    /// Is there anything to do? To be asked every 20 ms.
    Pulse,
    /// Records of NAT from this number on; and how the sinks do.
    Records { next: u64, sinks: Vec<SinkStatus> },
    /// Adopt this configuration.
    Adopt { name: String, text: String },
    /// What this configuration would do to the sessions there are.
    Live { name: String, text: String },
    /// What came of the configuration adopted last.
    Outcome,
    /// Have another program take over: that at this path, or the one that this was started from.
    Upgrade { program: Option<PathBuf> },
    /// Come to an end, in order.
    Stop,
    /// Something of the state.
    State(OfState),
}

/// What a control process is told first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The configuration file, which SIGHUP has it read again.
    pub file: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Whether that is the socket of the configuration.
    pub socket_of_config: bool,
    /// Where commits are kept.
    pub state: PathBuf,
    /// What the file said that the workers go by.
    pub text: String,
    /// How the sinks of NAT's log did in the end, if there was a control process before.
    pub sinks: Vec<SinkStatus>,
}

/// What the data plane wants of control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// It got SIGHUP.
    pub hang_up: bool,
    /// The workers have ended; what they recorded is there to be fetched, and that is all.
    pub ended: bool,
}

fn encode<T: Serialize>(answer: &Result<T, String>) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_else(|error| encode::<()>(&Err(error.to_string())))
}

pub(crate) fn send(mut stream: &UnixStream, number: u64, body: &[u8]) -> io::Result<()> {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&(body.len() as u64).to_le_bytes());
    head[8..].copy_from_slice(&number.to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(body)
}

pub(crate) fn receive(mut stream: &UnixStream) -> io::Result<(u64, Vec<u8>)> {
    let (mut length, mut number) = ([0; 8], [0; 8]);
    stream.read_exact(&mut length)?;
    stream.read_exact(&mut number)?;
    let (length, mut body) = (u64::from_le_bytes(length), Vec::new());
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if stream.take(length).read_to_end(&mut body)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((u64::from_le_bytes(number), body))
}

/// Descriptors that go in one message; the kernel takes 253 at most.
const TOGETHER: usize = 64;

/// Sends descriptors, in their order.
pub(crate) fn send_descriptors(stream: &UnixStream, descriptors: &[OwnedFd]) -> io::Result<()> {
    for some in descriptors.chunks(TOGETHER) {
        let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        if !message.push(SendAncillaryMessage::ScmRights(&some)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        rustix::net::sendmsg(stream, &[IoSlice::new(&[0])], &mut message, SendFlags::empty())?;
    }
    Ok(())
}

/// Takes so many descriptors that [`send_descriptors`] sends.
pub(crate) fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))]);
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut message, flags)?;
        let before = descriptors.len();
        for message in message.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.bytes == 0 || descriptors.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if descriptors.len() == count { Ok(descriptors) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Sends the sockets that control serves, ahead of everything else.
pub fn hand_over(stream: &UnixStream, api: &UnixListener, metrics: Option<&TcpListener>) -> io::Result<()> {
    let sockets: Vec<_> =
        [Some(api.as_fd()), metrics.map(TcpListener::as_fd)].into_iter().flatten().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(&[0])], &mut message, SendFlags::empty())?;
    Ok(())
}

/// Takes what [`hand_over`] sends: the API's socket, and that of the metrics where there is one.
pub fn take_over(stream: &UnixStream) -> io::Result<(UnixListener, Option<TcpListener>)> {
    let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))]);
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut message, flags)?;
    let sockets = message.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let mut sockets = sockets.flatten();
    let api: OwnedFd = sockets.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((api.into(), sockets.next().map(TcpListener::from)))
}

type Answered = SyncSender<Vec<u8>>;

/// Questions that wait for an answer, by number.
#[derive(Default)]
struct Waiting {
    last: u64,
    /// None once the link is gone.
    askers: Option<HashMap<u64, Answered>>,
}

/// The data plane, as control sees it.
pub struct DataPlane {
    stream: UnixStream,
    writing: Mutex<()>,
    waiting: Arc<Mutex<Waiting>>,
    /// The state itself, where it is in this very process.
    _state: Option<Arc<State>>,
}

impl DataPlane {
    /// At the other end of this link.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn at(stream: UnixStream) -> io::Result<Self> {
        let waiting = Arc::new(Mutex::new(Waiting { last: 0, askers: Some(HashMap::new()) }));
        let (ours, theirs) = (stream.try_clone()?, waiting.clone());
        stream.set_write_timeout(Some(PATIENCE))?;
        thread::Builder::new().name("sluice-link".into()).spawn(move || listen(&ours, &theirs))?;
        Ok(Self { stream, writing: Mutex::default(), waiting, _state: None })
    }

    /// Within this very process, for tests: nothing but the state answers.
    ///
    /// # Errors
    /// There is no link or no thread to be had.
    pub fn within(state: Arc<State>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (errands, _) = std::sync::mpsc::channel();
        serve(theirs, Arc::new(Desk::new(&state, Greeting::default(), None, errands)))?;
        Ok(Self { _state: Some(state), ..Self::at(ours)? })
    }

    /// Whether the data plane is still there.
    pub fn is_there(&self) -> bool {
        lock(&self.waiting).askers.is_some()
    }

    /// Asks, and waits for the answer.
    fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, String> {
        let body = serde_json::to_vec(ask).map_err(|error| error.to_string())?;
        let gone = || {
            thread::sleep(MOURNING);
            "the data plane has ended".to_owned()
        };
        let (tell, answer) = sync_channel(1);
        let number = {
            let mut waiting = lock(&self.waiting);
            waiting.last += 1;
            let number = waiting.last;
            match &mut waiting.askers {
                Some(askers) => _ = askers.insert(number, tell),
                None => {
                    drop(waiting);
                    return Err(gone());
                }
            }
            number
        };
        let sent = {
            let _turn = lock(&self.writing);
            send(&self.stream, number, &body)
        };
        if sent.is_err() {
            // Half a message may be under way.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            return Err(gone());
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(body) => serde_json::from_slice::<Result<T, String>>(&body)
                .unwrap_or_else(|error| Err(format!("the data plane's answer cannot be read: {error}"))),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.waiting).askers.as_mut().map(|askers| askers.remove(&number));
                Err(format!("the data plane does not answer within {} s", PATIENCE.as_secs()))
            }
        }
    }

    /// What there is to be taken over.
    ///
    /// # Errors
    /// It is of another version, or does not answer. So for all below.
    pub fn greet(&self) -> Result<Greeting, String> {
        self.ask(&Ask::Greet { version: VERSION })
    }

    /// The API answers from now on.
    pub fn serving(&self) -> Result<(), String> {
        self.ask(&Ask::Serving)
    }

    /// What the data plane wants; to be asked every 20 ms.
    pub fn pulse(&self) -> Result<Pulse, String> {
        self.ask(&Ask::Pulse)
    }

    /// Records of NAT from the number `next` on, which says that those before it have arrived.
    pub fn records(&self, next: u64, sinks: Vec<SinkStatus>) -> Result<Batch, String> {
        self.ask(&Ask::Records { next, sinks })
    }

    /// Has the workers adopt a configuration, as soon as the last change is through. Returns what there is to say.
    ///
    /// # Errors
    /// Why it is not adopted; then nothing has changed.
    pub fn adopt(&self, name: String, text: String) -> Result<Vec<String>, String> {
        self.ask(&Ask::Adopt { name, text })
    }

    /// What came of the configuration that was adopted last: none while sessions of before are not all decided yet.
    pub fn outcome(&self) -> Result<Option<Outcome>, String> {
        self.ask(&Ask::Outcome)
    }

    /// Has another program take over. Returns its version, once it is ready to; how it goes on, [`upgraded`](Self::upgraded)
    /// tells, there.
    ///
    /// # Errors
    /// Why it cannot; then all goes on as it was.
    pub fn upgrade(&self, program: Option<PathBuf>) -> Result<String, String> {
        self.ask(&Ask::Upgrade { program })
    }

    /// What a configuration would do to the sessions there are; or why it would not be adopted.
    pub fn live_diff(&self, name: String, text: String) -> Result<Result<Box<RawValue>, String>, String> {
        self.ask(&Ask::Live { name, text })
    }

    /// The gateway is to end, in order. That it has, [`pulse`](Self::pulse) tells.
    pub fn stop(&self) -> Result<(), String> {
        self.ask(&Ask::Stop)
    }
}

/// Gives answers to those who wait for them, until the link ends.
fn listen(stream: &UnixStream, waiting: &Mutex<Waiting>) {
    while let Ok((number, body)) = receive(stream) {
        let asker = lock(waiting).askers.as_mut().and_then(|askers| askers.remove(&number));
        if let Some(asker) = asker {
            let _ = asker.try_send(body);
        }
    }
    lock(waiting).askers = None;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
