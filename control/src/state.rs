//! What a running gateway can be asked, answered as JSON.

mod show;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use sluice_dataplane::counters::{Counters, Reader};
use sluice_dataplane::inspect::{Inspector, Question, Row};
use sluice_dataplane::port::af_xdp::DeviceControl;
use sluice_dataplane::session::By;
use sluice_dataplane::snapshot::{Allocation, Pool, Snapshot};
use sluice_dataplane::stage::shape::ClassRow;
use sluice_dataplane::tap::Tap;
use sluice_dataplane::trace::Tracer;
use sluice_dataplane::verdict::DropReason;

use crate::accounting::Accounting;
use crate::api::TopBy;
use crate::capture::run::Captures;
use crate::drops::Rates;
use crate::export::{SinkStatus, Statuses, wall};
use crate::lists::Keeper;
use crate::nat_query::Query;
use crate::plan::Plan;
use crate::routes::SharedRoutes;
use crate::trace::run::Traces;
use crate::upgrade::Upgraded;
use crate::uplink::Ledger;
use crate::watch::Watch;
use crate::{explain, metrics, qos_view, routes, top_view};

pub(crate) use self::show::endpoint;

/// How long a worker may take for a listing.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where nobody waits for it.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// A topic of `sluice show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Packets and bytes by port, drops by reason, conservation
    Counters,
    /// Live sessions, both directions
    Flows,
    /// NAT: pools, blocks, what inside addresses have, bindings, and how the log does
    Nat,
    /// ACL rules with their hits
    Acl,
    /// Interfaces: device, XDP mode, addresses, counters
    Interfaces,
    /// Why packets died: count, rate, the last of each reason, and what to do about it
    Drops,
    /// Neighbours (ARP and ND)
    Neighbors,
    /// The route table
    Routes,
    /// Limits with what they passed and dropped
    Limits,
    /// Shapers and their classes: rates, what waits and for how long, drops and marks
    Qos,
    /// What has left by class and host since the period began, the 95th percentile, and quotas
    Accounting,
    /// Workers: core, NUMA node, the receive queues that they own, and how their loops go
    Workers,
}

impl Topic {
    /// What it is called on the command line and in the API.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The ends from which a worker is read.
pub struct Ends {
    /// Its counters.
    pub counters: Reader,
    /// Its tables.
    pub inspector: Option<Inspector>,
}

/// The configuration that all workers have adopted, and the counters that go with it.
struct Current {
    snapshot: Arc<Snapshot>,
    counters: Vec<Reader>,
}

impl Current {
    /// All workers' counters together.
    fn counters(&self) -> Counters {
        let mut sum = Counters { workers: 0, ..Counters::new(&self.snapshot) };
        self.counters.iter().for_each(|worker| sum.merge(worker.read()));
        sum
    }
}

/// A running gateway, seen from the control side.
pub struct State {
    current: RwLock<Arc<Current>>,
    inspectors: Mutex<Vec<Option<Inspector>>>,
    devices: Vec<DeviceControl>,
    plan: Plan,
    watch: Watch,
    nat_log: Mutex<Vec<SinkStatus>>,
    accounting: Mutex<Accounting>,
    exports: Statuses,
    drop_rates: Mutex<Rates>,
    routes: Option<SharedRoutes>,
    uplinks: Option<Arc<Ledger>>,
    captures: Mutex<Captures>,
    traces: Mutex<Traces>,
    lists: Mutex<Keeper>,
    upgraded: Mutex<Upgraded>,
}

impl State {
    /// Of workers in the order of their map, and devices in the order of the snapshot's ports.
    pub fn new(
        snapshot: Arc<Snapshot>,
        workers: impl IntoIterator<Item = Ends>,
        devices: Vec<DeviceControl>,
        plan: Plan,
        watch: Watch,
    ) -> Self {
        let ends = workers.into_iter().map(|ends| (ends.counters, ends.inspector));
        let (counters, inspectors): (_, Vec<_>) = ends.unzip();
        let current = RwLock::new(Arc::new(Current { snapshot, counters }));
        Self {
            current,
            inspectors: Mutex::new(inspectors),
            devices,
            plan,
            watch,
            nat_log: Mutex::default(),
            accounting: Mutex::default(),
            exports: Statuses::default(),
            drop_rates: Mutex::default(),
            routes: None,
            uplinks: None,
            captures: Mutex::default(),
            traces: Mutex::default(),
            lists: Mutex::default(),
            upgraded: Mutex::default(),
        }
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The workers' map.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How the sinks of NAT's log do, as control told last.
    pub fn nat_log(&self) -> Vec<SinkStatus> {
        self.nat_log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After an upgrade.
    #[must_use]
    pub fn with_upgraded(self, upgraded: Upgraded) -> Self {
        Self { upgraded: Mutex::new(upgraded), ..self }
    }

    /// How upgrades went.
    pub(crate) fn upgraded_so_far(&self) -> Upgraded {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, for whoever asks.
    ///
    /// # Errors
    /// None.
    pub fn upgraded(&self) -> Result<Upgraded, String> {
        Ok(self.upgraded_so_far())
    }

    /// An upgrade came to nothing, for this reason.
    pub(crate) fn upgrade_failed(&self, words: String) {
        let mut upgraded = self.upgraded.lock().unwrap_or_else(PoisonError::into_inner);
        upgraded.failed += 1;
        upgraded.failure = Some(words);
    }

    /// With accounts that are there already.
    #[must_use]
    pub fn with_accounting(self, accounting: Accounting) -> Self {
        Self { accounting: Mutex::new(accounting), ..self }
    }

    /// The accounts.
    pub fn accounting(&self) -> MutexGuard<'_, Accounting> {
        self.accounting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes into the accounts what has left up to `now`, in seconds since 1970, and has the workers know whose quota is used
    /// up.
    pub fn account(&self, now: u64) {
        // Read first, so that no row is of a configuration before it.
        let snapshot = self.snapshot();
        let mut rows = Vec::new();
        let take = |row| {
            if let Row::Octets(generation, row) = row {
                rows.push((generation, row));
            }
        };
        self.ask_each(Question::Octets, take);
        let changes = self.accounting().take_in(now, &rows, &snapshot);
        for spent in changes {
            self.ask_each(Question::Spent(snapshot.generation, spent), |_| ());
        }
    }

    /// Asks all workers; one that does not answer in time is left out.
    fn ask_each(&self, question: Question, mut each: impl FnMut(Row)) {
        let mut inspectors = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        for inspector in inspectors.iter_mut().flatten() {
            inspector.ask(question, SHORT_PATIENCE, &mut each);
        }
    }

    /// Gives each worker another tap.
    pub(crate) fn set_taps(&self, mut tap: impl FnMut() -> Option<Box<Tap>>) -> Result<(), String> {
        let mut inspectors = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        for (worker, inspector) in inspectors.iter_mut().enumerate() {
            let taken = inspector.as_mut().is_some_and(|inspector| inspector.set_tap(tap(), SHORT_PATIENCE));
            if !taken {
                return Err(format!("worker {worker} did not answer in time"));
            }
        }
        Ok(())
    }

    /// Gives each worker another tracer.
    pub(crate) fn set_tracers(&self, mut tracer: impl FnMut() -> Option<Box<Tracer>>) -> Result<(), String> {
        let mut inspectors = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        for (worker, inspector) in inspectors.iter_mut().enumerate() {
            let taken =
                inspector.as_mut().is_some_and(|inspector| inspector.set_tracer(tracer(), SHORT_PATIENCE));
            if !taken {
                return Err(format!("worker {worker} did not answer in time"));
            }
        }
        Ok(())
    }

    /// The traces.
    pub(crate) fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The traces, unless somebody is at them.
    pub(crate) fn try_traces(&self) -> Option<MutexGuard<'_, Traces>> {
        self.traces.try_lock().ok()
    }

    /// With lists of prefixes that are there already.
    #[must_use]
    pub fn with_lists(self, lists: Keeper) -> Self {
        Self { lists: Mutex::new(lists), ..self }
    }

    /// The lists of prefixes.
    pub fn lists(&self) -> MutexGuard<'_, Keeper> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lists of prefixes, and what is blocked by hand.
    pub fn block_show(&self) -> Result<Value, String> {
        let refused = self.counters().blocked;
        Ok(self.lists().show(&refused, wall::now() / 1_000_000))
    }

    /// Blocks a prefix, for some seconds.
    ///
    /// # Errors
    /// None; why it is not blocked is the answer.
    pub fn block_add(
        &self,
        prefix: String,
        seconds: Option<u64>,
        note: Option<String>,
    ) -> Result<Result<Value, String>, String> {
        Ok(self.lists().add(&prefix, seconds, note, wall::now() / 1_000_000))
    }

    /// Blocks a prefix no longer.
    ///
    /// # Errors
    /// None; why it is blocked still is the answer.
    pub fn block_remove(&self, prefix: String) -> Result<Result<Value, String>, String> {
        Ok(self.lists().remove(&prefix, wall::now() / 1_000_000))
    }

    /// The captures.
    pub(crate) fn capture(&self) -> MutexGuard<'_, Captures> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The captures, unless somebody is at them.
    pub(crate) fn try_capture(&self) -> Option<MutexGuard<'_, Captures>> {
        self.captures.try_lock().ok()
    }

    /// Control tells how the sinks of NAT's log do.
    pub fn set_nat_log(&self, sinks: Vec<SinkStatus>) {
        *self.nat_log.lock().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    /// With exporters of flows and samples.
    #[must_use]
    pub fn with_exports(self, exports: Statuses) -> Self {
        Self { exports, ..self }
    }

    /// How the exporters of flows and samples do.
    pub fn exports(&self) -> Vec<SinkStatus> {
        self.exports.read()
    }

    /// With a route table that follows the kernel.
    #[must_use]
    pub fn with_routes(self, routes: Option<SharedRoutes>) -> Self {
        Self { routes, ..self }
    }

    /// With interfaces that have their addresses from the kernel.
    #[must_use]
    pub fn with_uplinks(self, uplinks: Option<Arc<Ledger>>) -> Self {
        Self { uplinks, ..self }
    }

    /// The routes within a prefix (`10.0.0.0/8`), or by which an address goes.
    ///
    /// # Errors
    /// It is no prefix.
    pub fn routes(&self, within: Option<String>) -> Result<Value, String> {
        let within = within.map(|within| routes::within(&within)).transpose()?;
        let snapshot = self.snapshot();
        match &self.routes {
            Some(routes) => Ok(routes.lock().list(within, &snapshot)),
            None => Ok(routes::of_snapshot(within, &snapshot)),
        }
    }

    /// Everything that is counted, for Prometheus.
    pub fn metrics(&self) -> Result<String, String> {
        Ok(metrics::text(self))
    }

    /// The configuration.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current().snapshot.clone()
    }

    /// All workers have adopted another configuration; their counters are to be read from these.
    pub fn adopt(&self, snapshot: Arc<Snapshot>, counters: Vec<Reader>) {
        self.watch.adopt(&counters);
        let next = Arc::new(Current { snapshot, counters });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The workers' watch.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// All workers' counters together.
    pub fn counters(&self) -> Counters {
        self.current().counters()
    }

    /// Looks how many packets have died of what; to be called once a second, for the rates of `show drops`.
    pub fn sample_drops(&self) {
        let (now, drops) = (self.watch.now(), self.counters().drops);
        self.drop_rates.lock().unwrap_or_else(PoisonError::into_inner).sample(now, &drops);
    }

    /// The configuration, and all workers' counters together, which are of that one.
    pub fn totals(&self) -> (Arc<Snapshot>, Counters) {
        let current = self.current();
        (current.snapshot.clone(), current.counters())
    }

    /// The devices, in the order of the ports.
    pub fn devices(&self) -> &[DeviceControl] {
        &self.devices
    }

    /// Has the XDP programs know what guards block, where all interfaces of a device have the same. What went wrong, if anything.
    pub fn tell_blocked(&self) -> Vec<String> {
        let snapshot = self.snapshot();
        let mut wrong = Vec::new();
        for (port, device) in (0u16..).zip(&self.devices) {
            let Some(table) = device.block_table() else { continue };
            let mut guards = snapshot.interfaces.iter().filter(|i| i.port == port).map(|i| i.guard);
            let first = guards.next().flatten().filter(|first| guards.all(|guard| guard == Some(*first)));
            let guard = first.and_then(|guard| snapshot.guards.get(usize::from(guard)));
            let verdicts = guard.map(|guard| self.lists().verdicts(guard)).unwrap_or_default();
            if let Err(error) = table.set(&verdicts) {
                wrong.push(format!("{}: {error}; the workers drop what is not in it", device.name()));
            }
        }
        wrong
    }

    /// Adds what the XDP program left to the kernel: received, and punted; and what it dropped.
    pub fn with_kernel(&self, mut counters: Counters) -> Counters {
        for (port, device) in counters.ports.iter_mut().zip(&self.devices) {
            let passed = device.passed();
            for count in [passed.matched, passed.no_socket] {
                port.rx.packets += count.packets;
                port.rx.bytes += count.bytes;
                counters.punted += count.packets;
            }
            port.rx.packets += passed.blocked.packets;
            port.rx.bytes += passed.blocked.bytes;
            if let Some(drops) = counters.drops.get_mut(DropReason::BlocklistedXdp as usize) {
                *drops += passed.blocked.packets;
            }
        }
        counters
    }

    /// Says what would become of a packet in words under the configuration that runs, and whether it has a session. Words that
    /// are wrong are no failure, but the answer.
    ///
    /// # Errors
    /// A worker does not answer.
    pub fn explain(&self, packet: String) -> Result<Result<Value, String>, String> {
        let snapshot = self.snapshot();
        let told = explain::explain(&packet, &snapshot)
            .and_then(|story| explain::flow(&packet, &snapshot).map(|flow| (story, flow)));
        let (mut story, explain::FlowEnds { ends, ports, protocol, interface }) = match told {
            Ok(told) => told,
            Err(words) => return Ok(Err(words)),
        };
        let rows = self.list(Question::Session(ends, ports, protocol, interface))?;
        let session = rows.iter().map(|row| Self::row(row, &snapshot)).next();
        story["session"] = match session {
            Some(session) => format!(
                "there is one, {} for {} s: its packets go by what was decided then",
                session["state"].as_str().unwrap_or_default(),
                session["age_seconds"].as_f64().unwrap_or_default().round()
            ),
            None => "there is none: this would be its first packet".to_owned(),
        }
        .into();
        Ok(Ok(story))
    }

    /// Answers who has an external port, or which ports an inside address has.
    pub fn nat_query(&self, query: Query) -> Result<Value, String> {
        let mut hits = query.of_snapshot(&self.snapshot());
        let has_blocks = |pool: &Pool| matches!(pool.allocation, Allocation::Blocks(_));
        let in_blocks = match query {
            Query::Who { address, port } => {
                self.snapshot().pools.iter().any(|pool| has_blocks(pool) && pool.contains(address, port))
            }
            Query::Where { .. } => self.snapshot().pools.iter().any(has_blocks),
        };
        let bindings = match query {
            Query::Who { address, port } => Question::Holders(address, port),
            Query::Where { .. } => Question::Bindings,
        };
        let mut rows = if in_blocks { self.list(Question::Blocks)? } else { Vec::new() };
        rows.extend(self.list(bindings)?);
        for row in &rows {
            hits.extend(match row {
                Row::Block(block) => query.of_block(block),
                Row::Binding(binding, inside6, _) => query.of_binding(binding, *inside6),
                _ => None,
            });
        }
        Ok(json!(hits))
    }

    /// What each class of a shaper has done; of none if a worker does not answer.
    pub(crate) fn class_sums(&self, snapshot: &Snapshot) -> Vec<(String, String, qos_view::Sum)> {
        if snapshot.shapers.is_empty() {
            return Vec::new();
        }
        let rows = self.list(Question::Classes).unwrap_or_default().into_iter();
        let classes: Vec<ClassRow> =
            rows.filter_map(|row| if let Row::Class(row) = row { Some(row) } else { None }).collect();
        qos_view::sums(snapshot, &classes, self.watch.now())
    }

    /// The sessions that move the most, the largest first.
    pub fn top_flows(&self, by: TopBy, limit: u32) -> Result<Value, String> {
        let (by, limit, snapshot) = (By::from(by), limit as usize, self.snapshot());
        let row = |(session, rates): &_| {
            let mut row = Self::session(session, &snapshot);
            top_view::rates(rates).into_iter().for_each(|(key, value)| row[key] = value);
            row
        };
        Ok(top_view::largest(self.list(Question::Top(by))?, by, limit).iter().map(row).collect())
    }

    /// The hosts whose sessions move the most, of those that are the largest.
    pub fn top_hosts(&self, by: TopBy, limit: u32) -> Result<Value, String> {
        let by = By::from(by);
        let sessions = top_view::largest(self.list(Question::Top(by))?, by, usize::MAX);
        Ok(top_view::hosts(&sessions, by, limit as usize))
    }

    /// The rows of all workers, one after the other.
    fn list(&self, question: Question) -> Result<Vec<Row>, String> {
        let mut inspectors = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::new();
        for (worker, inspector) in inspectors.iter_mut().enumerate() {
            let inspector =
                inspector.as_mut().ok_or_else(|| format!("there is no asking worker {worker}"))?;
            if !inspector.ask(question, PATIENCE, |row| rows.push(row)) {
                return Err(format!(
                    "worker {worker} did not answer in time; `sluice show workers` says how it is"
                ));
            }
        }
        Ok(rows)
    }

    /// The route table that follows the kernel, where there is one.
    pub(crate) fn followed_routes(&self) -> Option<&SharedRoutes> {
        self.routes.as_ref()
    }

    /// How many sessions each worker had a moment ago.
    pub(crate) fn sessions_by_worker(&self) -> Vec<u64> {
        self.current().counters.iter().map(|worker| worker.read().sessions).collect()
    }

    /// The rows of one worker.
    pub(crate) fn ask_worker(
        &self,
        worker: usize,
        question: Question,
        mut each: impl FnMut(Row),
    ) -> Result<(), String> {
        let mut inspectors = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        let inspector = inspectors.get_mut(worker).and_then(Option::as_mut);
        let answered = inspector.is_some_and(|inspector| inspector.ask(question, PATIENCE, &mut each));
        answered.then_some(()).ok_or_else(|| format!("worker {worker} did not answer in time"))
    }
}
