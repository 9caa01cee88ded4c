//! The thread that keeps the route table in step with the kernel's.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::device::{Change, NetlinkError, RouteMonitor, Rtnetlink};
use crate::routes::RouteTable;

/// Between two looks for what has changed.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two times that workers are told to look their flows' next hops up anew.
const BETWEEN_EPOCHS: Duration = Duration::from_millis(20);
/// From a change of devices or addresses to the reading of all routes.
const SETTLING: Duration = Duration::from_millis(100);
/// Datagrams that are taken in without letting anybody else at the table.
const AT_ONCE: usize = 64;
/// Routes of a reading, likewise.
const ROUTES_AT_ONCE: usize = 4096;

/// The route table of a gateway, for those who ask, and for the configuration that changes.
#[derive(Clone)]
pub struct SharedRoutes(Arc<Mutex<RouteTable>>);

impl SharedRoutes {
    /// Shares it.
    pub fn new(table: RouteTable) -> Self {
        Self(Arc::new(Mutex::new(table)))
    }

    /// The table, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, RouteTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the kernel's devices are interfaces of ours.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// By name: a device may come back with another index.
    pub named: Vec<(String, u16)>,
    /// By index, such as the kernel's device of a VLAN.
    pub indexed: Vec<(u32, u16)>,
}

/// Follows until it is dropped.
pub struct RouteFollower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RouteFollower {
    /// Reads all routes, and follows from then on, in the calling thread's network namespace. Returns the time that the
    /// reading took.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn start(routes: SharedRoutes, devices: Devices) -> Result<(Self, Duration), FollowError> {
        let begun = Instant::now();
        // First, so that nothing is missed between the reading and the listening.
        let monitor = RouteMonitor::open()?;
        let mut work = Work {
            routes,
            devices,
            monitor,
            rtnetlink: Rtnetlink::open()?,
            published: begun,
            read_at: None,
            datagram: Vec::new(),
        };
        work.read_all()?;
        let took = begun.elapsed();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let body = move || {
            while !stopped.load(Ordering::Relaxed) {
                if !work.step() {
                    thread::sleep(PAUSE);
                }
            }
        };
        let thread = thread::Builder::new().name("sluice-routes".into()).spawn(body)?;
        Ok((Self { stop, thread: Some(thread) }, took))
    }
}

impl Drop for RouteFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why the kernel's routes cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The kernel cannot be asked.
    #[error("cannot follow the kernel's routes: {0}")]
    Netlink(#[from] NetlinkError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

struct Work {
    routes: SharedRoutes,
    devices: Devices,
    monitor: RouteMonitor,
    rtnetlink: Rtnetlink,
    published: Instant,
    /// When all is to be read anew.
    read_at: Option<Instant>,
    datagram: Vec<u8>,
}

impl Work {
    /// Takes in what has changed. False if nothing has.
    fn step(&mut self) -> bool {
        let (mut any, mut all) = (false, false);
        let mut table = self.routes.lock();
        for _ in 0..AT_ONCE {
            let each = |change| match change {
                Change::New(route) => table.add(&route),
                Change::Gone(route) => table.remove(&route),
                Change::All => all = true,
            };
            // What the kernel does not tell now is in the next reading.
            match self.monitor.next(&mut self.datagram, each) {
                Ok(true) => any = true,
                Ok(false) => break,
                Err(_) => {
                    all = true;
                    break;
                }
            }
        }
        if self.published.elapsed() >= BETWEEN_EPOCHS {
            table.publish();
            self.published = Instant::now();
        }
        drop(table);
        if all && self.read_at.is_none() {
            self.read_at = Some(Instant::now() + SETTLING);
        }
        if self.read_at.is_some_and(|at| at <= Instant::now()) {
            self.read_at = self.read_all().err().map(|_| Instant::now() + Duration::from_secs(1));
        }
        any
    }

    /// Reads all routes. What is told meanwhile is taken in afterwards.
    fn read_all(&mut self) -> Result<(), NetlinkError> {
        let kernel = self.rtnetlink.device_indices()?;
        let named = self.devices.named.iter().filter_map(|(name, interface)| {
            let (_, ifindex) = kernel.iter().find(|(known, _)| known == name)?;
            Some((*ifindex, *interface))
        });
        let interfaces = self.devices.indexed.iter().copied().chain(named).collect();
        let mut table = self.routes.lock();
        table.begin_reading(interfaces);
        let tables = table.settings.tables.clone();
        drop(table);
        for number in tables {
            let mut batch = Vec::with_capacity(ROUTES_AT_ONCE);
            let put = |batch: &mut Vec<_>| {
                let mut table = self.routes.lock();
                batch.drain(..).for_each(|route| table.add(&route));
                table.publish();
            };
            self.rtnetlink.routes(number, |route| {
                batch.push(route);
                if batch.len() == ROUTES_AT_ONCE {
                    put(&mut batch);
                }
            })?;
            put(&mut batch);
        }
        let mut table = self.routes.lock();
        table.end_reading();
        table.publish();
        Ok(())
    }
}
