//! What a gateway stands on: its configuration, its sockets, its devices and the workers' map; found at a start, or taken over
//! from the process before.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use sluice_dataplane::arena::{FramePool, Memory, Pages};
use sluice_dataplane::port::af_xdp::{self, AfXdpPort, DeviceControl, Handed, PortSpec};

use tracing::{info, warn};

use super::{RunError, seed};
use crate::api;
use crate::commit::{self, Store};
use crate::config::Config;
use crate::device::Changes;
use crate::device::machine::Machine;
use crate::diff::Loaded;
use crate::intake::{self, Intake};
use crate::log;
use crate::plan::{self, Plan};
use crate::upgrade::{Given, Taker};

/// What there is before the first device is opened.
pub(super) struct Ground {
    /// The configuration file, as SIGHUP has it read again.
    pub(super) path: PathBuf,
    pub(super) config: Config,
    /// What the configuration was made of.
    pub(super) text: String,
    pub(super) socket: PathBuf,
    pub(super) socket_of_config: bool,
    /// Where commits are kept.
    pub(super) folder: PathBuf,
    pub(super) listener: UnixListener,
    pub(super) metrics: Option<TcpListener>,
    /// To be taken back once the devices are closed.
    pub(super) changes: Changes,
    pub(super) plan: Plan,
    pub(super) generation: u32,
    pub(super) seed: u64,
    pub(super) devices: Devices,
}

/// Where devices and packet memory come from.
pub(super) enum Devices {
    /// They are to be opened, and taken.
    Fresh,
    /// Another process hands them over.
    Inherited { memory: OwnedFd, pages: Pages, frames: u32, devices: Vec<Handed> },
}

impl Ground {
    /// That of a gateway that starts.
    pub(super) fn fresh(path: &Path, socket: Option<PathBuf>) -> Result<Self, RunError> {
        let (mut loaded, mut warnings) = Loaded::read(path)?;
        log::set(loaded.config.log);
        log::start("data plane");
        let socket_of_config = socket.is_none();
        // Another gateway's socket is another gateway's state.
        let folder = socket.as_ref().map(|socket| PathBuf::from(format!("{}.state", socket.display())));
        let folder = folder.unwrap_or_else(|| loaded.config.state.clone());
        // Bound before any state or device is touched: a second gateway with the same socket changes nothing. What may run
        // instead of the file has the same socket, as a commit that wants another is refused.
        let socket = socket.unwrap_or_else(|| loaded.config.control_socket.clone());
        let listener = api::listen(&socket, &loaded.config.control_access)?;
        let place = super::Place(Some(socket));
        let mut store = Store::open(&folder);
        let start = commit::at_start(&mut store, path, &loaded.text, commit::seconds());
        if let Some((name, text)) = start.instead {
            (loaded, warnings) = Loaded::new(&name, &text)?;
            log::set(loaded.config.log);
        }
        start.lines.iter().for_each(|line| warn!("{line}"));
        // Control keeps it from here on.
        drop(store);
        warnings.iter().for_each(|warning| warn!("{warning}"));
        let Loaded { config, text, .. } = loaded;
        let bind =
            |address| TcpListener::bind(address).map_err(|source| RunError::Metrics { address, source });
        let metrics = config.metrics.map(bind).transpose()?;
        let Intake { changes, queues, lines } = intake::admit(&config)?;
        lines.iter().for_each(|line| info!("{line}"));
        let plan = plan::plan(&config.workers, &queues, &Machine::read().cores)?;
        if plan.idle() > 0 {
            let (idle, all) = (plan.idle(), plan.workers.len());
            warn!(
                "workers: {idle} of {all} have no queue to receive from; more `channels` would give them some"
            );
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            text,
            socket: place.keep(),
            socket_of_config,
            folder,
            listener,
            metrics,
            changes,
            plan,
            generation: 0,
            seed: seed(),
            devices: Devices::Fresh,
        })
    }

    /// That of the gateway before, whose configuration is compiled by this program.
    pub(super) fn inherited(taker: &Taker, given: Given) -> Result<Self, RunError> {
        let offer = &taker.offer;
        let greeting = &offer.greeting;
        let name = greeting.file.display().to_string();
        let (mut loaded, _) = Loaded::new(&name, &greeting.text)?;
        log::set(loaded.config.log);
        log::start("data plane");
        loaded.config.tables.frames = offer.frames;
        let Given { listener, metrics, memory, pages, devices, changes } = given;
        Ok(Self {
            path: greeting.file.clone(),
            config: loaded.config,
            text: loaded.text,
            socket: greeting.socket.clone(),
            socket_of_config: greeting.socket_of_config,
            folder: greeting.state.clone(),
            listener,
            metrics,
            changes,
            plan: offer.plan.clone(),
            generation: offer.generation,
            seed: offer.seed,
            devices: Devices::Inherited { memory, pages, frames: offer.frames, devices },
        })
    }
}

/// Packet memory, shared out among the workers, and each one's ports.
pub(super) struct Opened {
    pub(super) memory: Memory,
    pub(super) pools: Vec<FramePool>,
    pub(super) ports: Vec<Vec<AfXdpPort>>,
    pub(super) controls: Vec<DeviceControl>,
}

impl Devices {
    /// Takes the memory for so many frames, and opens the devices, whose specs are made of the frames that a worker has at
    /// least; or goes on with what is handed over.
    pub(super) fn open(
        self,
        frames: u32,
        workers: usize,
        specs: impl FnOnce(u32) -> Vec<PortSpec>,
    ) -> Result<Opened, RunError> {
        let least = |pools: &[FramePool]| pools.iter().map(FramePool::count).min().unwrap_or(0);
        match self {
            Self::Fresh => {
                let pool = FramePool::new(frames, false)?;
                if pool.pages() == Pages::Ordinary {
                    warn!(
                        "packet memory: no huge pages free, and the kernel gives none; it runs on ordinary pages, at some 8 cycles a packet"
                    );
                }
                let memory = pool.memory().clone();
                let mut pools = pool.split(workers);
                let specs = specs(least(&pools));
                let (ports, controls) = af_xdp::open_for(&mut pools, &specs)?;
                Ok(Opened { memory, pools, ports, controls })
            }
            Self::Inherited { memory, pages, frames, devices } => {
                let memory = Memory::inherit(memory, frames, pages)?;
                let pools = FramePool::inherited(memory.clone()).split(workers);
                let counts: Vec<u32> = pools.iter().map(FramePool::count).collect();
                let (ports, controls) = af_xdp::inherit(&memory, &counts, &specs(least(&pools)), devices)
                    .map_err(RunError::Inherit)?;
                Ok(Opened { memory, pools, ports, controls })
            }
        }
    }
}
