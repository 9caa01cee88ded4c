//! A sink on a thread of its own, and the queue to it, which is bounded: what finds no room in it is lost to that sink alone.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::sink::Sink;
use super::{Record, SinkStatus, wall};

/// Batches that may wait for a sink.
const BATCHES: usize = 256;
/// Records that wait for a sink before it gets no further batch.
const ROOM: u64 = 65_536;
/// How often a sink is called that has nothing to write: it may have something of its own to send again.
const IDLE: Duration = Duration::from_secs(1);

/// One sink's figures, shared between its thread and whoever asks.
#[derive(Debug, Default)]
pub(super) struct Figures {
    name: String,
    waiting: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Figures {
    /// All zero.
    pub(super) fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// So many records were sent, or not.
    pub(super) fn count(&self, records: u64, sent: io::Result<()>) {
        let which = if sent.is_ok() { &self.written } else { &self.lost };
        which.fetch_add(records, Relaxed);
        self.look(sent);
    }

    /// As they are now.
    pub(super) fn read(&self) -> SinkStatus {
        SinkStatus {
            sink: self.name.clone(),
            written: self.written.load(Relaxed),
            lost: self.lost.load(Relaxed),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn note(&self, error: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn look(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.note(error.to_string());
        }
    }
}

/// The way to a sink. Dropping it lets the sink end, once it has written what waits for it.
pub(super) struct Outlet {
    queue: SyncSender<Arc<[Record]>>,
    figures: Arc<Figures>,
}

impl Outlet {
    /// Gives a sink its thread. Its figures go on from those of its name in `before`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn open(sink: Box<dyn Sink>, before: &[SinkStatus]) -> io::Result<(Self, JoinHandle<()>)> {
        let name = sink.name();
        let before = before.iter().find(|status| status.sink == name).cloned().unwrap_or_default();
        let (written, lost) = (before.written.into(), before.lost.into());
        let figures = Arc::new(Figures { name, written, lost, ..Figures::default() });
        let (queue, batches) = sync_channel(BATCHES);
        let shared = figures.clone();
        let body = move || serve(sink, &shared, &batches);
        let thread = thread::Builder::new().name("sluice-nat-sink".into()).spawn(body)?;
        Ok((Self { queue, figures }, thread))
    }

    pub(super) fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// Puts records in the queue, or counts them as lost. Waits for nothing.
    pub(super) fn hand(&self, records: &Arc<[Record]>) {
        let count = records.len() as u64;
        let waiting = self.figures.waiting.fetch_add(count, Relaxed);
        if waiting >= ROOM || self.queue.try_send(records.clone()).is_err() {
            self.figures.waiting.fetch_sub(count, Relaxed);
            self.figures.lost.fetch_add(count, Relaxed);
            self.figures.note("it takes records too slowly, or hangs".to_owned());
        }
    }
}

/// What the thread of a sink does.
fn serve(mut sink: Box<dyn Sink>, figures: &Figures, batches: &Receiver<Arc<[Record]>>) {
    figures.look(sink.begin(wall::now()));
    loop {
        let records = match batches.recv_timeout(IDLE) {
            Ok(records) => records,
            Err(RecvTimeoutError::Timeout) => Arc::default(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let count = records.len() as u64;
        let result = sink.write(wall::now(), &records);
        let written = *result.as_ref().unwrap_or_else(|(written, _)| written) as u64;
        figures.written.fetch_add(written, Relaxed);
        figures.lost.fetch_add(count.saturating_sub(written), Relaxed);
        figures.waiting.fetch_sub(count, Relaxed);
        figures.look(result.map(drop).map_err(|(_, error)| error));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::time::Instant;

    use sluice_dataplane::nat::EventKind;

    use super::*;

    /// Takes everything, but nothing before it is let go.
    struct Fake {
        gate: Option<mpsc::Receiver<()>>,
    }

    impl Sink for Fake {
        fn name(&self) -> String {
            "fake".to_owned()
        }

        fn begin(&mut self, _now: u64) -> io::Result<()> {
            Ok(())
        }

        fn write(&mut self, _now: u64, records: &[Record]) -> Result<usize, (usize, io::Error)> {
            if let Some(gate) = self.gate.take() {
                let _ = gate.recv();
            }
            Ok(records.len())
        }
    }

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A disk that hangs costs its own file records, and no other sink any.
    ///
    /// proves: RFC 6888 REQ-12
    #[test]
    fn a_sink_that_hangs_holds_up_no_other() {
        let (open, gate) = mpsc::channel();
        let (hung, first) = Outlet::open(Box::new(Fake { gate: Some(gate) }), &[]).unwrap();
        let (well, second) = Outlet::open(Box::new(Fake { gate: None }), &[]).unwrap();
        let record = Record {
            at: 0,
            kind: EventKind::BlockAllocated,
            protocol: 0,
            inside: Ipv4Addr::LOCALHOST.into(),
            inside_port: 0,
            external: Ipv4Addr::LOCALHOST,
            ports: (1, 2),
        };
        let batch: Arc<[Record]> = vec![record; 1000].into();
        for sent in 1..=500 {
            hung.hand(&batch);
            well.hand(&batch);
            until(|| well.figures.read().written == sent * 1000);
        }
        assert_eq!(well.figures.read().lost, 0);
        let stuck = hung.figures.read();
        assert_eq!((stuck.written, stuck.lost), (0, 500_000 - 66_000));
        assert!(stuck.error.is_some_and(|error| error.contains("hangs")));
        // It takes what waited, and what comes then.
        drop(open);
        until(|| hung.figures.read().written == 66_000);
        hung.hand(&batch);
        let figures = hung.figures();
        drop((hung, well));
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!((figures.read().written, figures.read().lost), (67_000, 500_000 - 66_000));
    }
}
