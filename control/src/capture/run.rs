//! The gateway's end: taps for the workers, and what is read from them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_dataplane::snapshot::{NONE16, Snapshot};
use sluice_dataplane::tap::{self, Drops, Taken, TapReader, Wanted, Way};
use sluice_dataplane::verdict::DropReason;

use super::{Begun, Packet, Piece, Spec, filter};
use crate::state::State;

/// How long a capture goes on that nobody reads.
const LONELY: Duration = Duration::from_secs(10);
/// Bytes of packets that are handed out at once, about.
const PIECE: usize = 1 << 20;

/// A capture that goes on.
pub struct Running {
    id: u64,
    readers: Vec<TapReader>,
    read: Instant,
}

/// What was wrong with the words, for the asker; other errors are the gateway's.
pub type Asked<T> = Result<T, String>;

impl State {
    /// Begins a capture; there is one at a time. Words that are wrong are no failure, but the answer.
    ///
    /// # Errors
    /// A worker does not answer, or there is a capture already.
    pub fn capture_start(&self, spec: Spec) -> Result<Asked<Begun>, String> {
        let snapshot = self.snapshot();
        let wanted = match wanted(&spec, &snapshot) {
            Ok(wanted) => wanted,
            Err(words) => return Ok(Err(words)),
        };
        let mut capture = self.capture();
        if capture.running.is_some() {
            return Err("there is a capture already; it ends when whoever began it is done".to_owned());
        }
        let mut readers = Vec::new();
        let begun = self.set_taps(|| {
            let (tap, reader) = tap::channel(wanted.clone(), snapshot.ports.len());
            readers.push(reader);
            Some(tap)
        });
        if let Err(words) = begun {
            let _ = self.set_taps(|| None);
            return Err(words);
        }
        capture.last += 1;
        capture.running = Some(Running { id: capture.last, readers, read: Instant::now() });
        let ports = snapshot.ports.iter().map(|port| port.name.clone()).collect();
        Ok(Ok(Begun { id: capture.last, ports }))
    }

    /// What a capture has found since it was asked last.
    ///
    /// # Errors
    /// There is no such capture any more.
    pub fn capture_read(&self, id: u64) -> Result<Piece, String> {
        let snapshot = self.snapshot();
        let mut capture = self.capture();
        let running = capture.running.as_mut().filter(|running| running.id == id);
        let running = running.ok_or("there is no such capture any more")?;
        running.read = Instant::now();
        let now = self.watch().now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let mut piece = Piece::default();
        let (mut bytes, share) = (Vec::new(), PIECE / running.readers.len().max(1));
        for (worker, reader) in running.readers.iter_mut().enumerate() {
            let mut size = 0;
            while size < share {
                let Some(taken) = reader.take(&mut bytes) else { break };
                size += bytes.len();
                let at = wall.saturating_sub(now.saturating_sub(taken.at));
                piece.packets.push(packet(&taken, &bytes, at, worker, &snapshot));
            }
            piece.lost += reader.lost();
        }
        piece.packets.sort_by_key(|packet| packet.at);
        Ok(piece)
    }

    /// Ends a capture, and returns what was left of it.
    ///
    /// # Errors
    /// There is no such capture any more, or a worker does not answer.
    pub fn capture_stop(&self, id: u64) -> Result<Piece, String> {
        if self.capture().running.as_ref().is_none_or(|running| running.id != id) {
            return Err("there is no such capture any more".to_owned());
        }
        self.set_taps(|| None)?;
        let mut piece = self.capture_read(id)?;
        loop {
            let more = self.capture_read(id)?;
            piece.lost = more.lost;
            if more.packets.is_empty() {
                break;
            }
            piece.packets.extend(more.packets);
        }
        self.capture().running = None;
        Ok(piece)
    }

    /// Ends a capture that nobody has read for ten seconds; to be called now and then.
    pub fn end_lonely_capture(&self) {
        let Some(mut capture) = self.try_capture() else { return };
        let is_lonely = capture.running.as_ref().is_some_and(|running| running.read.elapsed() > LONELY);
        if is_lonely && self.set_taps(|| None).is_ok() {
            capture.running = None;
        }
    }
}

/// The captures of a gateway.
#[derive(Default)]
pub struct Captures {
    last: u64,
    running: Option<Running>,
}

fn wanted(spec: &Spec, snapshot: &Snapshot) -> Result<Wanted, String> {
    let drops = match spec.drops.as_deref() {
        None => Drops::None,
        Some("any") => Drops::Any,
        Some(name) => {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            Drops::Of(*reason.ok_or_else(|| {
                format!("there is no drop reason {name}; docs/counters.md lists them, and `any` is all")
            })?)
        }
    };
    if !spec.before && !spec.after && drops == Drops::None {
        return Err("nothing is wanted: `before`, `after` or `drops` says where to look".to_owned());
    }
    let program = filter::parse(&spec.matching, snapshot)?;
    Ok(Wanted { program, before: spec.before, after: spec.after, drops, snap: spec.snap })
}

fn packet(taken: &Taken, bytes: &[u8], at: u64, worker: usize, snapshot: &Snapshot) -> Packet {
    let (way, reason) = match taken.way {
        Way::In => ("in", None),
        Way::Out => ("out", None),
        Way::Dropped(reason) => ("drop", Some(reason.name().to_owned())),
    };
    // The indices of another configuration may mean other rules.
    let rule = snapshot.rules.get(usize::from(taken.rule));
    let rule = rule.filter(|_| taken.generation == snapshot.generation);
    Packet {
        at,
        way: way.to_owned(),
        port: (taken.port != NONE16).then(|| snapshot.physical(taken.port)),
        worker,
        generation: taken.generation,
        reason,
        rule: rule.map(|rule| format!("{}/{}", rule.acl, rule.name)),
        len: taken.len,
        bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
