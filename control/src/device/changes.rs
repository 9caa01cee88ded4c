//! What is set on devices for as long as they are in service: channels, offloads, promiscuous mode.
//!
//! Promiscuous mode ends with the process, however that ends. Channels and offloads are put back by an orderly end alone.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluice_dataplane::port::af_xdp;

use super::ethtool::{Channels, Ethtool};
use super::netlink::NetlinkError;
use super::{Facts, RECEIVE_MERGING, VLAN_FILTER, VLAN_STRIPPING};

/// For how long a device that is just being released may refuse to be set back.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the configuration wants of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The interface's name in the configuration.
    pub interface: String,
    /// Queues of each direction; none to leave them.
    pub channels: Option<u32>,
    /// Whether there are VLANs on it.
    pub vlans: bool,
}

/// Why a device cannot be made fit for service.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The driver has no number of channels that could be set.
    #[error(
        "interfaces.{interface}: channels = {wanted}, but the driver of {device} has no channels to set; leave \
         `channels` out, and all {queues} queues are served"
    )]
    NoChannels {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// The channels configured.
        wanted: u32,
        /// The device's queues.
        queues: u32,
    },
    /// More channels than there are.
    #[error(
        "interfaces.{interface}: channels = {wanted}, but {device} has at most {most}; write channels = {most} or less"
    )]
    TooManyChannels {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// The channels configured.
        wanted: u32,
        /// The most that the device can have.
        most: u32,
    },
    /// The driver does not set its channels as wanted.
    #[error(
        "interfaces.{interface}: {device} does not take {wanted} channels: {reason}; `ethtool -X {device} default` takes \
         back an RSS table that was set by hand, and `ethtool -l {device}` shows what there is"
    )]
    Channels {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// The channels configured.
        wanted: u32,
        /// The driver's answer.
        reason: NetlinkError,
    },
    /// VLAN tags would be lost.
    #[error(
        "{device}: the NIC takes VLAN tags out of received frames ({feature}) and cannot be stopped, so that the VLANs of \
         interfaces.{interface} cannot be told apart; use another NIC for them, or VLAN devices of the kernel as devices"
    )]
    VlanStripping {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// The offload.
        feature: &'static str,
    },
    /// Packets would be merged to frames over the MTU.
    #[error(
        "{device}: the NIC merges received TCP segments (rx-lro) and cannot be stopped, so that they come in frames over the \
         MTU; use another NIC"
    )]
    Merging {
        /// The device.
        device: String,
    },
    /// Promiscuous mode.
    #[error(
        "{device}: cannot be set to promiscuous mode: {source}; it needs root, or the capability CAP_NET_RAW"
    )]
    Promiscuous {
        /// The device.
        device: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel cannot be asked.
    #[error("{device}: {source}")]
    Netlink {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
}

/// How a change is taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Undo {
    /// A device gets the channels that it had.
    Channels {
        /// The device.
        device: String,
        /// Its channels before.
        before: Channels,
    },
    /// An offload is switched on again.
    Feature {
        /// The device.
        device: String,
        /// The offload's name.
        feature: String,
    },
}

/// Changes in force. Dropped, it takes them back.
#[derive(Default)]
pub struct Changes {
    undo: Vec<Undo>,
    /// Sockets that ask for promiscuous mode.
    memberships: Vec<OwnedFd>,
    /// They are another process's to take back.
    is_anothers: bool,
}

impl Changes {
    /// Makes a device fit for service, before any queue of it is bound. Returns a line for each thing that was changed,
    /// or that is not as it should be and could not be changed.
    ///
    /// # Errors
    /// See [`ChangeError`]; what was changed up to then is taken back when `self` is dropped.
    pub fn make(&mut self, wanted: &Wanted, facts: &Facts) -> Result<Vec<String>, ChangeError> {
        let mut lines = Vec::new();
        let netlink = |source| ChangeError::Netlink { device: facts.name.clone(), source };
        let mut ethtool = Ethtool::open().map_err(netlink)?;
        self.channels(&mut ethtool, wanted, facts, &mut lines)?;
        self.keep_tags(&mut ethtool, wanted, facts, &mut lines)?;
        self.keep_segments(&mut ethtool, facts, &mut lines)?;

        let filter = VLAN_FILTER.into_iter().filter(|_| wanted.vlans);
        let filtering: Vec<&str> =
            filter.filter(|feature| !self.switch_off(&mut ethtool, facts, feature, &mut lines)).collect();
        if !filtering.is_empty() {
            let membership = af_xdp::promiscuous(facts.index)
                .map_err(|source| ChangeError::Promiscuous { device: facts.name.clone(), source })?;
            self.memberships.push(membership);
            lines.push(format!(
                "{}: promiscuous while in service, as its VLAN filter cannot be switched off",
                facts.name
            ));
        }
        Ok(lines)
    }

    fn channels(
        &mut self,
        ethtool: &mut Ethtool,
        wanted: &Wanted,
        facts: &Facts,
        lines: &mut Vec<String>,
    ) -> Result<(), ChangeError> {
        let Some(count) = wanted.channels else { return Ok(()) };
        let (interface, device) = (wanted.interface.clone(), facts.name.clone());
        let Some(before) = facts.channels.filter(|channels| channels.most() > 0) else {
            // What is there already need not be set.
            return if facts.queues == count {
                Ok(())
            } else {
                Err(ChangeError::NoChannels { interface, device, wanted: count, queues: facts.queues })
            };
        };
        if count > before.most() {
            let most = before.most();
            return Err(ChangeError::TooManyChannels { interface, device, wanted: count, most });
        }
        let after = before.with(count);
        if after == before {
            return Ok(());
        }
        match ethtool.set_channels(&device, after) {
            Ok(()) => {
                lines.push(format!(
                    "{device}: {count} channels while in service, in place of {}",
                    before.queues()
                ));
                self.undo.push(Undo::Channels { device, before });
                Ok(())
            }
            Err(reason) => Err(ChangeError::Channels { interface, device, wanted: count, reason }),
        }
    }

    fn keep_tags(
        &mut self,
        ethtool: &mut Ethtool,
        wanted: &Wanted,
        facts: &Facts,
        lines: &mut Vec<String>,
    ) -> Result<(), ChangeError> {
        let device = &facts.name;
        for feature in VLAN_STRIPPING {
            if self.switch_off(ethtool, facts, feature, lines) {
                continue;
            }
            if wanted.vlans {
                let (interface, device) = (wanted.interface.clone(), device.clone());
                return Err(ChangeError::VlanStripping { interface, device, feature });
            }
            lines.push(format!(
                "{device}: {feature} cannot be switched off: frames of VLANs look like untagged ones to Sluice; send it \
                 none, by the switch's configuration"
            ));
        }
        Ok(())
    }

    fn keep_segments(
        &mut self,
        ethtool: &mut Ethtool,
        facts: &Facts,
        lines: &mut Vec<String>,
    ) -> Result<(), ChangeError> {
        let device = &facts.name;
        for feature in RECEIVE_MERGING {
            if self.switch_off(ethtool, facts, feature, lines) {
                continue;
            }
            if feature == "rx-lro" {
                return Err(ChangeError::Merging { device: device.clone() });
            }
            lines.push(format!(
                "{device}: {feature} cannot be switched off: merged segments over the MTU are dropped and counted"
            ));
        }
        Ok(())
    }

    /// Whether an offload is off, now or before.
    fn switch_off(
        &mut self,
        ethtool: &mut Ethtool,
        facts: &Facts,
        feature: &'static str,
        lines: &mut Vec<String>,
    ) -> bool {
        let device = &facts.name;
        if !facts.is_on(feature) {
            return true;
        }
        if facts.is_stuck_on(feature) || ethtool.set_feature(device, feature, false).is_err() {
            return false;
        }
        self.undo.push(Undo::Feature { device: device.clone(), feature: feature.to_owned() });
        // A driver may say yes and keep it.
        let is_on = |ethtool: &mut Ethtool| {
            ethtool.features(device).is_ok_and(|features| features.get(feature).is_some_and(|f| f.on))
        };
        if is_on(ethtool) {
            return false;
        }
        lines.push(format!("{device}: {feature} off while in service"));
        true
    }

    /// What another process needs to take them back in the place of this one, and the descriptors by which some last.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn hand_over(&self) -> io::Result<(Vec<Undo>, Vec<OwnedFd>)> {
        let memberships = self.memberships.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok((self.undo.clone(), memberships))
    }

    /// What another process hands over. It is for that one to take back until this one has to [`own`](Self::own) it.
    pub fn inherit(undo: Vec<Undo>, memberships: Vec<OwnedFd>) -> Self {
        Self { undo, memberships, is_anothers: true }
    }

    /// They are for this process to take back from now on.
    pub fn own(&mut self) {
        self.is_anothers = false;
    }

    /// They are for another process to take back from now on.
    pub fn leave(&mut self) {
        self.is_anothers = true;
    }

    /// Takes everything back, the last first. Returns a line for what could not be.
    pub fn take_back(&mut self) -> Vec<String> {
        let undo: Vec<Undo> = self.undo.drain(..).rev().collect();
        if undo.is_empty() || self.is_anothers {
            return Vec::new();
        }
        let mut ethtool = match Ethtool::open() {
            Ok(ethtool) => ethtool,
            Err(error) => return vec![format!("cannot put the devices back as they were: {error}")],
        };
        let patience = Instant::now() + PATIENCE;
        undo.iter().filter_map(|undo| undo.run(&mut ethtool, patience)).collect()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // Whoever wants to know calls `take_back` before.
        let _ = self.take_back();
    }
}

impl Undo {
    /// The line that says why it failed, if so.
    fn run(&self, ethtool: &mut Ethtool, patience: Instant) -> Option<String> {
        loop {
            let (result, by_hand) = match self {
                Self::Channels { device, before } => {
                    let by_hand = if before.combined_max > 0 {
                        format!("ethtool -L {device} combined {}", before.combined)
                    } else {
                        format!("ethtool -L {device} rx {} tx {}", before.rx, before.tx)
                    };
                    (ethtool.set_channels(device, *before), by_hand)
                }
                Self::Feature { device, feature } => {
                    (ethtool.set_feature(device, feature, true), format!("ethtool -K {device} {feature} on"))
                }
            };
            match result {
                Ok(()) => return None,
                // The kernel releases the sockets of a queue a moment after they were closed.
                Err(error) if error.may_pass() && Instant::now() < patience => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Some(format!("not put back: {error}; `{by_hand}` does it")),
            }
        }
    }
}
