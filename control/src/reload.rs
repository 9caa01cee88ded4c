//! Another configuration for a gateway that runs: checked, compiled, handed to the workers, and what came of it.
//!
//! Nothing changes unless all of it can be adopted. What devices and workers were made with cannot change while they run;
//! it is said which key wants a restart.

use std::collections::{HashMap, VecDeque};
use std::mem::{Discriminant, discriminant};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sluice_dataplane::adopt::{self, Adopter, Settled};
use sluice_dataplane::counters::Reader;
use sluice_dataplane::fib::Way;
use sluice_dataplane::snapshot::{Allocation, Snapshot};
use sluice_dataplane::stage::owner::Owners;
use tracing::debug;

use crate::config::{self, Config, Device, DeviceFacts, Diagnostic, Interface, Link, Prefix};
use crate::export::wall;
use crate::gateway::{RunError, check_mtus};
use crate::host::{self, Follower, HostError, Narrowed};
use crate::lists::{self, Keeper};
use crate::log;
use crate::routes::{RouteFollower, SharedRoutes};
use crate::state::State;
use crate::uplink::{self, Given, Ledger, UplinkFollower};

/// Why a configuration is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It differs in what cannot change while the gateway runs.
    #[error("{0}; restart to change that")]
    Restart(String),
    /// The kernel cannot answer for its addresses.
    #[error("{0}")]
    Host(#[from] HostError),
    /// A device carries less than it says.
    #[error("{0}")]
    Mtu(Box<RunError>),
    /// The workers are still busy with the one before.
    #[error("the sessions from before the last change are not all decided yet; try again in a second")]
    Busy,
}

/// What a running gateway was started with, and what a reload needs besides.
pub struct Running {
    /// What the file said.
    pub config: Config,
    /// What the devices were like, in the order of the ports.
    pub facts: Vec<DeviceFacts>,
    /// Whether the control socket is that of the file.
    pub socket_of_config: bool,
    /// Control's ends of all workers.
    pub adopters: Vec<Adopter>,
    /// Follows the kernel, where it is the host, with what it has of NAT's ports.
    pub follower: Option<(Follower, Narrowed)>,
    /// The routes that change while it runs, and who follows the kernel's.
    pub routes: Option<(SharedRoutes, RouteFollower)>,
    /// Who follows the kernel's addresses, and what they are.
    pub uplinks: Option<Uplinks>,
}

/// The interfaces that have their addresses from the kernel.
pub struct Uplinks {
    /// Tells of changes.
    pub follower: UplinkFollower,
    /// What the workers go by.
    pub given: Given,
    /// Where it is counted.
    pub ledger: Arc<Ledger>,
}

/// Reloads, one after the other.
pub struct Reload {
    running: Running,
    wanted: VecDeque<Wanted>,
    /// Lists of prefixes have changed.
    lists_changed: bool,
    under_way: Option<UnderWay>,
}

struct Wanted {
    name: String,
    text: String,
    loaded: Box<(Config, Vec<Diagnostic>)>,
    reply: SyncSender<Result<Vec<String>, String>>,
}

/// What came of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The number that it goes by.
    pub generation: u32,
    /// Sessions that go on.
    pub kept: u64,
    /// Sessions that it does not allow.
    pub ended: u64,
    /// Until all sessions were decided.
    pub milliseconds: u64,
    /// What it took of a worker's own time, in nanoseconds: of the one that took the longest.
    #[serde(default)]
    pub adopt_nanoseconds: u64,
}

/// What there is to be told of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The workers are handed this configuration.
    Adopted(String),
    /// All have it, and all sessions are decided by it.
    Settled(Outcome),
    /// The kernel has other addresses: the workers are handed the same configuration with these, or cannot be.
    Readdressed(Vec<String>),
    /// That is through.
    SettledAddresses(Outcome),
}

impl Outcome {
    /// In words.
    pub fn words(&self, name: &str) -> String {
        let Self { generation, kept, ended, milliseconds, .. } = self;
        format!(
            "{name}: adopted as generation {generation} in {milliseconds} ms: {kept} sessions go on, {ended} ended"
        )
    }
}

/// What the workers would go by.
#[derive(Debug)]
pub struct Tried {
    /// All but the routes, where they follow the kernel.
    pub snapshot: Snapshot,
    /// The routes of the file.
    pub routes: Vec<(Prefix, Vec<Way>)>,
}

/// What is made of a configuration for the workers.
struct Prepared {
    config: Config,
    /// As it is with the kernel's ports.
    planned: Config,
    hosting: Option<(host::Plan, Vec<String>)>,
    next: Snapshot,
    lists: lists::Next,
    /// What there is to say.
    lines: Vec<String>,
}

struct UnderWay {
    snapshot: Arc<Snapshot>,
    begun: Instant,
    /// Until all workers have adopted it.
    readers: Option<Vec<Reader>>,
    settled: Vec<Option<Settled>>,
    /// The interfaces whose addresses have changed, where it is that alone.
    readdressed: Option<Vec<usize>>,
    /// Nobody asked for it, so nobody is told.
    is_quiet: bool,
}

impl Reload {
    /// For a gateway that runs.
    pub fn new(running: Running) -> Self {
        Self { running, wanted: VecDeque::new(), lists_changed: false, under_way: None }
    }

    /// Whether nothing is under way, nor wanted.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.wanted.is_empty()
    }

    /// Another process goes on with what the kernel was asked for.
    pub fn leave(&self) {
        if let Some((follower, _)) = &self.running.follower {
            follower.leave();
        }
    }

    /// A configuration is to be adopted, as soon as the last change is through; `reply` gets what there is to say, or why not.
    /// It has been `loaded` from its text, with these warnings.
    pub fn request(
        &mut self,
        name: String,
        text: String,
        loaded: Box<(Config, Vec<Diagnostic>)>,
        reply: SyncSender<Result<Vec<String>, String>>,
    ) {
        self.wanted.push_back(Wanted { name, text, loaded, reply });
    }

    /// Lists of prefixes have changed: they are another generation of the same configuration, as soon as the last change is
    /// through.
    pub fn take_lists(&mut self) {
        self.lists_changed = true;
    }

    /// Goes on with it; to be called every 20 ms. Returns what there is to tell.
    pub fn go_on(&mut self, state: &State) -> Option<News> {
        if self.under_way.is_some() {
            return self.follow(state);
        }
        if let Some(news) = self.readdress(state) {
            return Some(news);
        }
        let Some(Wanted { name, text, loaded, reply }) = self.wanted.pop_front() else {
            self.apply_lists(state);
            return None;
        };
        let (config, warnings) = *loaded;
        let adopted = self.apply(config, state);
        let warnings = warnings.iter().map(ToString::to_string);
        let adopted = adopted.map(|said| warnings.chain(said).collect());
        let adopted = adopted.map_err(|error| format!("{name}: not adopted, all stays as it was: {error}"));
        let is_adopted = adopted.is_ok();
        // Who asked may be gone.
        let _ = reply.try_send(adopted);
        is_adopted.then_some(News::Adopted(text))
    }

    /// Takes in what the kernel has now, if that is something else.
    fn readdress(&mut self, state: &State) -> Option<News> {
        let uplinks = self.running.uplinks.as_mut()?;
        let given = uplinks.follower.news()?;
        let before = std::mem::replace(&mut uplinks.given, given);
        let (ledger, given) = (uplinks.ledger.clone(), uplinks.given.clone());
        let changed: Vec<usize> = given.changed(&before).collect();
        let mut lines = given.words(Some(&before), &self.running.config);
        match self.apply(self.running.config.clone(), state) {
            Ok(said) => {
                lines.extend(said);
                ledger.change(&changed);
                if let Some(under_way) = &mut self.under_way {
                    under_way.readdressed = Some(changed);
                }
            }
            // The next configuration takes them in.
            Err(error) => {
                lines.push(format!("these addresses are not taken up, all stays as it was: {error}"))
            }
        }
        Some(News::Readdressed(lines))
    }

    /// Has the workers adopt a configuration. Returns what there is to say; what comes of it is told by
    /// [`go_on`](Self::go_on).
    ///
    /// # Errors
    /// Why it is not adopted; then nothing has changed.
    fn apply(&mut self, config: Config, state: &State) -> Result<Vec<String>, ReloadError> {
        // Held until it is adopted, so that no change is lost between the two.
        let mut keeper = state.lists();
        let prepared = self.prepare(config, state, &keeper)?;
        let Prepared { config, planned, hosting, next, lists, mut lines } = prepared;
        let running = &mut self.running;
        let workers = running.adopters.len();
        let next = Arc::new(next);
        let readers = adopt::hand_over(&mut running.adopters, &next).ok_or(ReloadError::Busy)?;
        if let Some((routes, _)) = &running.routes {
            routes.lock().set_file(config::file_routes(&planned));
        }
        keeper.take(lists);
        drop(keeper);
        if let (Some((follower, narrowed)), Some((plan, said))) = (&mut running.follower, hosting) {
            *narrowed = plan.narrowed().clone();
            follower.adopt(plan);
            lines.extend(said);
        }
        log::set(config.log);
        let generation = next.generation;
        debug!(generation, "the workers are handed generation {generation}");
        running.config = config;
        self.under_way = Some(UnderWay {
            snapshot: next,
            begun: Instant::now(),
            readers: Some(readers),
            settled: vec![None; workers],
            readdressed: None,
            is_quiet: false,
        });
        Ok(lines)
    }

    /// What the workers would go by with a configuration, as they would get it, and its own routes; nothing changes.
    ///
    /// # Errors
    /// Why it would not be adopted, in words.
    pub fn try_out(&self, name: &str, text: &str, state: &State) -> Result<Tried, String> {
        let (config, _) = config::load_str(name, text).map_err(|report| report.to_string())?;
        let prepared = self.prepare(config, state, &state.lists());
        let Prepared { planned, next, .. } = prepared.map_err(|error| format!("{name}: {error}"))?;
        Ok(Tried { routes: config::file_routes(&planned), snapshot: next })
    }

    /// Makes what the workers get for a configuration.
    fn prepare(&self, config: Config, state: &State, keeper: &Keeper) -> Result<Prepared, ReloadError> {
        let running = &self.running;
        let mut config = config;
        if packet_buffers(&running.config) == packet_buffers(&config) {
            // What shapers hold comes from what there is.
            config.tables.frames = running.config.tables.frames;
        }
        if let Some(what) = wants_restart(&running.config, &config, running.socket_of_config) {
            return Err(ReloadError::Restart(what));
        }
        let mut planned = config.clone();
        let mut lines = match &running.uplinks {
            Some(uplinks) => uplink::put_in(&mut planned, &uplinks.given),
            None => Vec::new(),
        };
        let before = running.follower.as_ref().map(|(_, narrowed)| narrowed.clone()).unwrap_or_default();
        let hosting = host::plan(&mut planned, &before)?;
        check_mtus(&planned).map_err(|error| ReloadError::Mtu(Box::new(error)))?;
        let present = state.snapshot();
        let mut next = config::compile(&planned, &running.facts);
        (next.generation, next.seed) = (present.generation.wrapping_add(1), present.seed);
        next.fib.clone_from(&present.fib);
        let (lists, said) = keeper.next(&config, wall::now() / 1_000_000);
        lines.extend(said);
        next.lists = lists.made();
        if let Some(what) = changed_sharing(&present, &next, running.adopters.len()) {
            return Err(ReloadError::Restart(what));
        }
        Ok(Prepared { config, planned, hosting, next, lists, lines })
    }

    /// Has the workers adopt lists that have changed, if they are ready for it.
    fn apply_lists(&mut self, state: &State) {
        if !self.lists_changed {
            return;
        }
        let (lists, present) = (state.lists().lists(), state.snapshot());
        let generation = present.generation.wrapping_add(1);
        let next = Arc::new(Snapshot { generation, lists, ..Snapshot::clone(&present) });
        let Some(readers) = adopt::hand_over(&mut self.running.adopters, &next) else { return };
        self.lists_changed = false;
        let settled = vec![None; self.running.adopters.len()];
        let (begun, readers) = (Instant::now(), Some(readers));
        self.under_way =
            Some(UnderWay { snapshot: next, begun, readers, settled, readdressed: None, is_quiet: true });
    }

    /// Looks how far the workers are. Tells what came of it, once, when all are through.
    fn follow(&mut self, state: &State) -> Option<News> {
        let under_way = self.under_way.as_mut()?;
        let generation = under_way.snapshot.generation;
        let adopters = &mut self.running.adopters;
        if adopters.iter().all(|adopter| adopter.adopted() == generation) {
            if let Some(readers) = under_way.readers.take() {
                state.adopt(under_way.snapshot.clone(), readers);
            }
        }
        for (adopter, settled) in adopters.iter_mut().zip(&mut under_way.settled) {
            *settled = settled.or_else(|| adopter.settled());
        }
        let all: Vec<Settled> = under_way.settled.iter().copied().collect::<Option<_>>()?;
        if under_way.readers.is_some() {
            return None;
        }
        let kept: u64 = all.iter().map(|settled| settled.kept).sum();
        let ended: u64 = all.iter().map(|settled| settled.ended).sum();
        let milliseconds = u64::try_from(under_way.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ticks = self.running.adopters.iter().map(Adopter::took).max().unwrap_or(0);
        let adopt_nanoseconds = state.watch().tick().times(ticks);
        let outcome = Outcome { generation, kept, ended, milliseconds, adopt_nanoseconds };
        let under_way = self.under_way.take()?;
        match (under_way.readdressed, &self.running.uplinks) {
            _ if under_way.is_quiet => None,
            (Some(changed), Some(uplinks)) => {
                uplinks.ledger.end(&changed, ended);
                Some(News::SettledAddresses(outcome))
            }
            _ => Some(News::Settled(outcome)),
        }
    }
}

/// Packet buffers besides those in which packets wait before they leave.
fn packet_buffers(config: &Config) -> u32 {
    config.shapers.iter().fold(config.tables.frames, |frames, shaper| frames.saturating_sub(shaper.frames))
}

/// What of a configuration cannot take the place of another's while the gateway runs.
pub(crate) fn wants_restart(old: &Config, new: &Config, socket_of_config: bool) -> Option<String> {
    let names = |config: &Config| config.interfaces.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    if names(old) != names(new) {
        let (old, new) = (names(old).join(", "), names(new).join(", "));
        return Some(format!("interfaces: {old} became {new}, in this order"));
    }
    let pairs = || old.interfaces.iter().zip(&new.interfaces);
    if let Some((old, _)) = pairs().find(|(old, new)| old.from_kernel != new.from_kernel) {
        return Some(format!("interfaces.{}.address: whether it has the kernel's changed", old.name));
    }
    pairs().filter_map(|(old, new)| changed_link(old, new)).next().or_else(|| {
        let sections = [
            (old.workers != new.workers, "[workers]"),
            (old.tables != new.tables, "[tables]"),
            (!bounds_sessions(old) && bounds_sessions(new), "[guard.NAME.per-source] sessions"),
            (old.kernel_routes != new.kernel_routes, "[kernel-routes]"),
            (old.nat_log != new.nat_log, "[nat.log]"),
            (old.port_rest.most != new.port_rest.most, "[nat.port-rest] most"),
            (socket_of_config && old.control_socket != new.control_socket, "control.socket"),
            (old.control_access != new.control_access || old.state != new.state, "[control]"),
            (old.metrics != new.metrics, "[metrics]"),
            (old.accounting != new.accounting, "[accounting]"),
            (old.export != new.export, "[export]"),
        ];
        sections.into_iter().find(|(changed, _)| *changed).map(|(_, name)| format!("{name} changed"))
    })
}

/// Whether the sessions of sources are counted.
fn bounds_sessions(config: &Config) -> bool {
    let bounds = |limits: &config::SourceLimits| limits.sessions > 0;
    config.guards.iter().any(|guard| guard.per_source.as_ref().is_some_and(bounds))
}

/// Whether several workers would share the ports of NAT otherwise.
pub(crate) fn changed_sharing(old: &Snapshot, new: &Snapshot, workers: usize) -> Option<String> {
    if workers < 2 {
        return None;
    }
    if Owners::new(old, workers) != Owners::new(new, workers) {
        let what = "nat.source: the number of `ports` decides how several workers share them, and changed";
        return Some(what.into());
    }
    changed_way(old, new)
}

/// Whether an external address is given out in another way, by which several workers would share its ports otherwise.
fn changed_way(old: &Snapshot, new: &Snapshot) -> Option<String> {
    let before: HashMap<Ipv4Addr, Discriminant<Allocation>> = ways(old).collect();
    let is_changed = |(address, way): &(Ipv4Addr, _)| before.get(address).is_some_and(|before| before != way);
    let (address, _) = ways(new).find(is_changed)?;
    Some(format!(
        "nat.source: the ports of {address} are given out in another way (one by one, `block-size`, `deterministic`), \
         by which several workers share them"
    ))
}

/// How each external address is given out.
fn ways(snapshot: &Snapshot) -> impl Iterator<Item = (Ipv4Addr, Discriminant<Allocation>)> + '_ {
    snapshot.pools.iter().flat_map(|pool| {
        let way = discriminant(&pool.allocation);
        pool.addresses.iter().map(move |&address| (address, way))
    })
}

fn changed_link(old: &Interface, new: &Interface) -> Option<String> {
    let name = &old.name;
    match (&old.link, &new.link) {
        (Link::Device(old), Link::Device(new)) => {
            changed_key(old, new).map(|key| format!("interfaces.{name}.{key} changed"))
        }
        (old, new) => (old != new).then(|| format!("interfaces.{name}: its VLAN changed")),
    }
}

/// What the device was opened with.
fn changed_key(old: &Device, new: &Device) -> Option<&'static str> {
    let keys = [
        (old.device != new.device, "device"),
        (old.mac != new.mac, "mac"),
        (old.xdp != new.xdp, "xdp"),
        (old.xdp_replace != new.xdp_replace, "xdp-replace"),
        (old.rx_ring != new.rx_ring, "rx-ring"),
        (old.tx_ring != new.tx_ring, "tx-ring"),
        (old.channels != new.channels, "channels"),
        (old.kernel != new.kernel, "kernel"),
        (old.host != new.host, "host"),
    ];
    keys.into_iter().find(|(changed, _)| *changed).map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[interfaces.lan]
device = "eth1"
address = "192.168.1.1/24"
mtu = 1400
[interfaces.guest]
parent = "lan"
vlan = 10
address = "192.168.2.1/24"
[control]
socket = "/run/a.sock"
"#;

    fn load(changes: &[(&str, &str)]) -> Config {
        let mut text = FILE.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        config::load_str("c.toml", &text).unwrap_or_else(|report| panic!("{report}")).0
    }

    #[test]
    fn what_wants_a_restart_is_named() {
        let old = load(&[]);
        let said = |changes: &[(&str, &str)]| wants_restart(&old, &load(changes), true);
        let free = [
            ("192.168.1.1/24", "192.168.9.1/24"),
            ("mtu = 1400", "mtu = 1300\nchecksum = \"trust\"\ntakeover = true"),
            ("[control]", "[timeouts]\nudp = \"10s\"\n[icmp]\nerrors-per-second = 5\n[control]"),
        ];
        assert_eq!(said(&free), None);
        let cases = [
            (("eth1", "eth2"), "interfaces.lan.device changed"),
            (("mtu = 1400", "xdp = \"native\""), "interfaces.lan.xdp changed"),
            (("mtu = 1400", "kernel = \"lldp\""), "interfaces.lan.kernel changed"),
            (("mtu = 1400", "host = \"kernel\""), "interfaces.lan.host changed"),
            (
                ("\"192.168.1.1/24\"", "\"kernel\""),
                "interfaces.lan.address: whether it has the kernel's changed",
            ),
            (("vlan = 10", "vlan = 11"), "interfaces.guest: its VLAN changed"),
            (
                ("interfaces.guest", "interfaces.guests"),
                "interfaces: lan, guest became lan, guests, in this order",
            ),
            (("[control]", "[tables]\nsessions = 100\n[control]"), "[tables] changed"),
            (("[control]", "[nat.log]\nfile = \"/var/log/nat.log\"\n[control]"), "[nat.log] changed"),
            (("[control]", "[workers]\npoll = \"busy\"\n[control]"), "[workers] changed"),
            (("a.sock", "b.sock"), "control.socket changed"),
        ];
        for (change, want) in cases {
            assert_eq!(said(&[change]).as_deref(), Some(want));
        }
        assert_eq!(wants_restart(&old, &load(&[("a.sock", "b.sock")]), false), None);
    }

    #[test]
    fn several_workers_do_not_share_an_address_in_another_way() {
        let compiled = |keys: &str| {
            let rule = format!(
                "[[nat.source]]\nout = \"lan\"\nfrom = \"192.168.2.0/24\"\nto = \"192.168.1.9\"\n{keys}[control]"
            );
            config::compile(&load(&[("[control]", &rule)]), &[])
        };
        let [ports, blocks, other_blocks, fixed] =
            ["", "block-size = 64\n", "block-size = 128\nmax-blocks = 2\n", "deterministic = true\n"]
                .map(compiled);
        for (old, new) in [(&ports, &blocks), (&blocks, &fixed), (&fixed, &ports)] {
            assert!(changed_way(old, new).unwrap().contains("the ports of 192.168.1.9"));
            assert!(changed_way(old, old).is_none());
        }
        assert!(changed_way(&blocks, &other_blocks).is_none());
        assert!(changed_way(&Snapshot::default(), &blocks).is_none());
    }
}
