//! The successor's end: takes what it is offered, says how it does, and waits for the word to go.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde::Serialize;
use sluice_dataplane::arena::Pages;
use sluice_dataplane::clock::{Clock, Nanos};
use sluice_dataplane::port::af_xdp::Handed;

use super::{Answer, Offer, Order, PROGRAM, VERSION, machine_time};
use crate::device::Changes;
use crate::link;

/// How long the old process may take to end its control process.
const END: Duration = Duration::from_secs(5);

/// The end at the successor.
pub(crate) struct Taker {
    stream: UnixStream,
    pub(crate) offer: Offer,
}

/// What came with the offer.
pub(crate) struct Given {
    pub(crate) listener: UnixListener,
    pub(crate) metrics: Option<TcpListener>,
    /// Packet memory.
    pub(crate) memory: OwnedFd,
    pub(crate) pages: Pages,
    pub(crate) devices: Vec<Handed>,
    pub(crate) changes: Changes,
}

/// What the workers were when they stopped.
pub(crate) struct Stopped {
    /// Each one's state.
    pub(crate) states: Vec<Vec<u8>>,
    /// A clock that goes on as theirs would have.
    pub(crate) clock: Clock,
    /// When they stopped, by the machine's clock.
    pub(crate) machine: Nanos,
}

/// The number that pages are told by.
pub(crate) fn page_code(pages: Pages) -> u8 {
    match pages {
        Pages::Huge => 1,
        Pages::Transparent => 2,
        Pages::Ordinary => 3,
    }
}

impl Taker {
    /// Takes the offer, over the socket that is the standard input.
    ///
    /// # Errors
    /// There is none, or it is not understood; that has been said.
    pub(crate) fn new() -> Result<(Self, Given), String> {
        let nobody = |error: io::Error| {
            format!(
                "`sluice succeed` is started by `sluice upgrade`, and not to be typed: its input is no offer ({error})"
            )
        };
        let stream = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(nobody)?;
        stream.set_read_timeout(Some(END)).map_err(nobody)?;
        let (_, body) = link::receive(&stream).map_err(nobody)?;
        let offer: Result<Offer, _> = serde_json::from_slice(&body);
        let refuse = |words: String| {
            let _ = send(&stream, &Answer::Refused { words: words.clone() });
            words
        };
        let version =
            serde_json::from_slice::<serde_json::Value>(&body).ok().map(|offer| offer["version"].clone());
        let offer = match offer {
            Ok(offer) if offer.version == VERSION => offer,
            Err(error) if version == Some(VERSION.into()) => {
                return Err(refuse(format!("the offer cannot be read: {error}")));
            }
            _ => {
                let version = version.unwrap_or_default();
                return Err(refuse(format!(
                    "the running program offers a hand-over of version {version}, and this one, {PROGRAM}, knows version {VERSION}: \
                     restart in place of an upgrade"
                )));
            }
        };
        let given = Given::receive(&stream, &offer)
            .map_err(|error| refuse(format!("what was handed over: {error}")))?;
        Ok((Self { stream, offer }, given))
    }

    /// Says that all is ready but the state.
    pub(crate) fn ready(&self) -> Result<(), String> {
        send(&self.stream, &Answer::Ready { program: PROGRAM.to_owned() }).map_err(gone)
    }

    /// Says why it cannot be.
    pub(crate) fn refuse(&self, words: &str) {
        let _ = send(&self.stream, &Answer::Refused { words: words.to_owned() });
    }

    /// Waits until the workers have stopped.
    ///
    /// # Errors
    /// The old process goes on by itself.
    pub(crate) fn stopped(&self) -> Result<Stopped, String> {
        self.stream.set_read_timeout(None).map_err(gone)?;
        let Order::Take { workers, stopped, machine } = self.order()? else {
            return Err("out of turn".into());
        };
        self.stream.set_read_timeout(Some(END)).map_err(gone)?;
        let mut states = Vec::new();
        for state in link::receive_descriptors(&self.stream, workers).map_err(gone)? {
            let mut file = File::from(state);
            let length = file.metadata().map_err(gone)?.len();
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(gone)?;
            states.push(bytes);
        }
        let clock = Clock::going_on(stopped + machine_time().saturating_sub(machine));
        Ok(Stopped { states, clock, machine })
    }

    /// Says that the state has been read, and waits for the word to go. Whether the old process stays.
    ///
    /// # Errors
    /// The old process goes on by itself.
    pub(crate) fn go(&self) -> Result<bool, String> {
        send(&self.stream, &Answer::Restored).map_err(gone)?;
        match self.order()? {
            Order::Go { stays } => Ok(stays),
            Order::Take { .. } => Err("out of turn".into()),
        }
    }

    /// Waits until the old process has ended its control process.
    pub(crate) fn alone(&self) {
        let _ = self.stream.set_read_timeout(Some(END));
        let _ = (&self.stream).read(&mut [0]);
    }

    /// The version of the old program.
    pub(crate) fn from(&self) -> &str {
        &self.offer.program
    }

    fn order(&self) -> Result<Order, String> {
        let (_, body) = link::receive(&self.stream).map_err(gone)?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}

impl Given {
    fn receive(stream: &UnixStream, offer: &Offer) -> Result<Self, String> {
        let of_devices: usize = offer.devices.iter().map(|(count, _)| count).sum();
        let count = 2 + usize::from(offer.has_metrics) + of_devices + offer.memberships;
        let descriptors = link::receive_descriptors(stream, count).map_err(|error| error.to_string())?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or("a descriptor is missing");
        let listener = UnixListener::from(next()?);
        let memory = next()?;
        let metrics = if offer.has_metrics { Some(TcpListener::from(next()?)) } else { None };
        let mut devices = Vec::new();
        for (count, facts) in &offer.devices {
            let descriptors = (0..*count).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
            devices.push(Handed { descriptors, facts: facts.clone() });
        }
        let memberships = descriptors.collect();
        let changes = Changes::inherit(offer.undo.clone(), memberships);
        let pages = match offer.pages {
            1 => Pages::Huge,
            2 => Pages::Transparent,
            _ => Pages::Ordinary,
        };
        Ok(Self { listener, metrics, memory, pages, devices, changes })
    }
}

fn send(stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(what).map_err(io::Error::other)?;
    link::send(stream, 0, &body)
}

fn gone(error: io::Error) -> String {
    format!("the running gateway goes on by itself ({error})")
}
