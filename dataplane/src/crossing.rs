//! What passes between workers: first packets and little else.
//!
//! Each worker handles the packets that arrive at it. One whose flow it does not know and whose session is another's is
//! lent to the owner over a ring; the owner decides, and the frame comes home with the answer, which the worker keeps as
//! a record of its own. So no later packet of the flow crosses, only its own worker ever sends, drops or counts a frame,
//! and its further packets wait parked behind the lent one, in order. Without a frame, as notices, go: what passed by a
//! carrier, TCP flags that open or end, the end of a session, what first fragments said, and news of neighbours.
//!
//! All rings have one writer and one reader, and nobody waits for room on one: a frame that finds none is a counted drop,
//! and a notice that is lost is made good later (`session/copies.rs`). A frame is lent only if there will be room for its
//! way home.

mod pending;
mod ring;
mod status;

use ringbuf::traits::{Consumer, Producer};
use sluice_pkt::parse::{Flags, Headers};

pub use self::pending::PATIENCE;
use self::pending::{Pending, PendingKey, Token};
use self::ring::{Answer, Lent, NOTICES, Notice, Outcome, Peer};
pub use self::status::Heartbeat;
use self::status::Status;
pub(crate) use self::status::{Offered, Statuses, offered};
use crate::adopt;
use crate::arena::FramePool;
use crate::burst::{BURST, Burst};
use crate::clock::{Nanos, SECOND};
use crate::counters::Counters;
use crate::session::{FlowKey, NONE, Segment};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::stage::flow;
use crate::stage::fragment::{DatagramKey, FirstFragment};
use crate::stage::owner::Owners;
use crate::verdict::{DropReason, Verdict};
use crate::worker::Worker;

const NEVER: Nanos = Nanos::MAX;

/// One worker's part of the exchange with the others.
pub struct Crossing {
    me: u8,
    owners: Owners,
    /// By worker; none for this one.
    peers: Vec<Option<Peer>>,
    pending: Pending,
    /// Who asks about each packet of the burst that is being answered.
    askers: [(u8, Option<Token>); BURST],
    /// When the owners of copies are to be told what passed by them.
    report_due: Nanos,
    /// Messages sent and taken since it was last asked.
    work: usize,
}

/// Wires workers that have seen no packet yet, 1 to 16, all of one snapshot. One worker alone stays as it is.
///
/// # Panics
/// There are more than [`MOST_WORKERS`](crate::stage::owner::MOST_WORKERS).
pub fn connect(workers: &mut [Worker]) {
    let count = workers.len();
    assert!(count <= crate::stage::owner::MOST_WORKERS, "at most 16 workers");
    let Some(snapshot) = workers.first().map(|worker| worker.snapshot().clone()).filter(|_| count > 1) else {
        return;
    };
    let owners = Owners::new(&snapshot, count);
    let mut peers: Vec<Vec<Option<Peer>>> = Vec::new();
    for _ in 0..count {
        let mut ours = Vec::new();
        for earlier in &mut peers {
            let (to_us, to_them) = ring::pair();
            earlier.push(Some(to_us));
            ours.push(Some(to_them));
        }
        ours.push(None);
        peers.push(ours);
    }
    let wants = offered(count, snapshot.classes.len());
    let (statuses, offered) = (statuses(count), offered(count, snapshot.limits.len()));
    for (me, (worker, peers)) in workers.iter_mut().zip(peers).enumerate() {
        let crossing = Crossing::new(me as u8, owners, peers, &snapshot);
        worker.join(me, owners, Box::new(crossing), statuses.clone(), offered.clone(), wants.clone());
    }
}

/// What so many workers let everybody see.
pub(crate) fn statuses(workers: usize) -> Statuses {
    Status::all(workers)
}

impl Crossing {
    fn new(me: u8, owners: Owners, peers: Vec<Option<Peer>>, snapshot: &Snapshot) -> Self {
        Self {
            me,
            owners,
            peers,
            pending: Pending::new(snapshot.sizes.frames, snapshot.seed),
            askers: [(0, None); BURST],
            report_due: NEVER,
            work: 0,
        }
    }

    /// Of a worker that knows how sessions are shared out, and speaks with nobody.
    pub(crate) fn alone(me: u8, owners: Owners, snapshot: &Snapshot) -> Self {
        Self::new(me, owners, (0..owners.workers()).map(|_| None).collect(), snapshot)
    }

    /// How sessions are shared out.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// This worker.
    pub fn me(&self) -> u8 {
        self.me
    }

    /// Frames that are lent, or parked behind one that is.
    pub fn held(&self) -> u64 {
        self.lent() as u64 + self.pending.held()
    }

    /// Frames that are lent.
    pub fn lent(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.lent).sum()
    }

    /// When there is something to do even if nothing comes.
    pub fn next_due(&self, next_sweep: Nanos) -> Nanos {
        let report = if self.report_due == NEVER { NEVER } else { self.report_due.max(next_sweep) };
        self.pending.next_due().min(report)
    }

    /// Packets have come in: owners will want to know of those that went by copies.
    pub fn saw_packets(&mut self, now: Nanos) {
        self.report_due = self.report_due.min(now.saturating_add(SECOND));
    }

    /// Whether there are messages that another worker has not taken.
    pub fn has_left_for(&self, other: usize) -> bool {
        self.peers.get(other).and_then(Option::as_ref).is_some_and(Peer::has_left)
    }

    /// How much was sent and taken since this was last asked.
    pub fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    /// Sends a notice. False, and counted, if there is no room.
    fn notify(&mut self, to: u8, notice: Notice, counters: &mut Counters) -> bool {
        let Some(Some(peer)) = self.peers.get_mut(usize::from(to)) else { return false };
        let sent = peer.notices.try_push(notice).is_ok();
        counters.notices += u64::from(sent);
        counters.notices_lost += u64::from(!sent);
        self.work += usize::from(sent);
        sent
    }

    /// Tells all others what the first fragment of a datagram said.
    pub(crate) fn tell_fragment(
        &mut self,
        datagram: DatagramKey,
        first: FirstFragment,
        counters: &mut Counters,
    ) {
        for to in 0..self.peers.len() as u8 {
            if to != self.me {
                self.notify(to, Notice::Fragment(datagram, first), counters);
            }
        }
    }
}

/// What waits for the answer about a packet is found by this.
fn pending_key(bytes: &[u8], headers: &Headers, interface: u16) -> PendingKey {
    match flow::key(bytes, headers, interface) {
        FlowKey::V4([a, b]) => [4, a, b, 0, 0, 0],
        FlowKey::V6([a, b, c, d, e]) => [6, a, b, c, d, e],
    }
}

/// Lends packet `i` to its owner, or parks it behind the one of its flow that is lent.
pub(crate) fn ask(burst: &mut Burst, i: usize, owner: u8, shard: &mut Shard) {
    let (headers, interface, port) = (burst.headers[i], burst.interfaces[i], burst.port);
    let key = pending_key(burst.bytes(i), &headers, interface);
    let Some(frame) = burst.take(i) else { return };
    let Shard { crossing, counters, pool, .. } = shard;
    let Some(crossing) = crossing else { return discard(frame, DropReason::OwnerSilent, pool, counters) };
    // An error is about a flow of others, and nothing comes behind it.
    let alone = headers.flags.has(Flags::ICMP_ERROR);
    if let Some(index) = crossing.pending.find(&key).filter(|_| !alone) {
        match crossing.pending.park(index, port, frame) {
            Ok(()) => counters.parked += 1,
            Err(frame) => discard(frame, DropReason::OwnerQueueFull, pool, counters),
        }
        return;
    }
    let token = if alone { None } else { crossing.pending.begin(key, burst.now) };
    if !alone && token.is_none() {
        return discard(frame, DropReason::OwnerQueueFull, pool, counters);
    }
    let question = Lent { frame, headers, port, interface, token };
    let asked = match crossing.peers.get_mut(usize::from(owner)) {
        Some(Some(peer)) => peer.ask(question),
        _ => Err(question),
    };
    match asked {
        Ok(()) => {
            counters.crossed += 1;
            crossing.work += 1;
        }
        Err(question) => {
            if let Some(token) = token {
                crossing.pending.end(token);
            }
            discard(question.frame, DropReason::CrossingFull, pool, counters);
        }
    }
}

#[cold]
fn discard(frame: crate::arena::Frame, reason: DropReason, pool: &mut FramePool, counters: &mut Counters) {
    counters.lost(reason, &frame, NONE16, NONE16);
    pool.give(frame);
}

/// Fills an empty burst with packets that have come home, of one port, with what the owner has decided. False if there
/// are none.
pub(crate) fn take_answers(burst: &mut Burst, shard: &mut Shard) -> bool {
    let now = burst.now;
    let Shard { crossing: Some(crossing), sessions, counters, pool, transition, .. } = shard else {
        return false;
    };
    let Crossing { peers, pending, work, .. } = &mut **crossing;
    let localize = |action, policy, present| adopt::localize(action, policy, present, transition.as_deref());
    for (owner, peer) in peers.iter_mut().enumerate() {
        let Some(peer) = peer else { continue };
        while burst.room() > 0 {
            let port = peer.answered.first().map(|answer| answer.lent.port);
            let Some(port) = port.filter(|&port| burst.is_empty() || port == burst.port) else { break };
            let Some(Answer { lent, outcome, policy }) = peer.take_answer() else { break };
            *work += 1;
            let Lent { frame, headers, interface, token, .. } = lent;
            let i = burst.len();
            let key = flow::key(frame.bytes(), &headers, interface);
            burst.port = port;
            if let Err(frame) = burst.push(frame) {
                discard(frame, DropReason::OwnerQueueFull, pool, counters);
                continue;
            }
            (burst.headers[i], burst.interfaces[i], burst.flows[i]) = (headers, interface, NONE);
            if token.is_some_and(|token| !pending.end(token)) {
                burst.drop(i, DropReason::OwnerSilent);
                continue;
            }
            match outcome {
                Outcome::Flow(lease) => {
                    burst.ends6[i] = lease.ends6;
                    burst.actions[i] = localize(lease.action, policy, sessions.policy);
                    // Of two workers, one may have adopted a configuration and the other not yet: then it is for once.
                    if policy == sessions.policy {
                        burst.flows[i] = sessions.adopt(&key, headers.protocol, &lease, owner as u8, now);
                    }
                }
                Outcome::Once(action, ends6) => {
                    burst.actions[i] = localize(action, policy, sessions.policy);
                    burst.ends6[i] = ends6;
                }
                Outcome::Verdict(verdict) => burst.decide(i, verdict),
            }
        }
    }
    !burst.is_empty()
}

/// Fills an empty burst with packets that others ask about, of one port. False if there are none. Those must be answered
/// by [`answer`].
pub(crate) fn take_questions(burst: &mut Burst, shard: &mut Shard) -> bool {
    let Shard { crossing: Some(crossing), sessions, .. } = shard else { return false };
    let Crossing { peers, askers, work, .. } = &mut **crossing;
    let policy = sessions.policy;
    for (asker, peer) in peers.iter_mut().enumerate() {
        let Some(peer) = peer else { continue };
        while burst.room() > 0 {
            let port = peer.asked.first().map(|lent| lent.port);
            let Some(port) = port.filter(|&port| burst.is_empty() || port == burst.port) else { break };
            let Some(lent) = peer.asked.try_pop() else { break };
            *work += 1;
            let i = burst.len();
            let Lent { frame, headers, interface, token, .. } = lent;
            burst.port = port;
            if let Err(frame) = burst.push(frame) {
                let lent = Lent { frame, headers, port, interface, token };
                let outcome = Outcome::Verdict(Verdict::Drop(DropReason::OwnerQueueFull));
                send_home(peer, Answer { lent, outcome, policy });
                continue;
            }
            (burst.headers[i], burst.interfaces[i], burst.flows[i]) = (headers, interface, NONE);
            askers[i] = (asker as u8, token);
        }
    }
    !burst.is_empty()
}

/// Sends the packets of the burst home with what has been decided about them.
pub(crate) fn answer(burst: &mut Burst, shard: &mut Shard) {
    let Shard { crossing: Some(crossing), sessions, .. } = shard else { return };
    for i in 0..burst.len() {
        let Some(frame) = burst.take(i) else { continue };
        let (asker, token) = crossing.askers[i];
        let headers = burst.headers[i];
        let outcome = if burst.live.has(i) {
            let family = flow::key(frame.bytes(), &headers, 0).family();
            match sessions.lease(family, burst.flows[i], asker) {
                Some(lease) => Outcome::Flow(lease),
                None => Outcome::Once(burst.actions[i], burst.ends6[i]),
            }
        } else {
            Outcome::Verdict(burst.verdicts[i])
        };
        let lent = Lent { frame, headers, port: burst.port, interface: burst.interfaces[i], token };
        if let Some(Some(peer)) = crossing.peers.get_mut(usize::from(asker)) {
            send_home(peer, Answer { lent, outcome, policy: sessions.policy });
        }
    }
}

fn send_home(peer: &mut Peer, answer: Answer) {
    let sent = peer.answers.try_push(answer);
    debug_assert!(sent.is_ok(), "no more are lent than there is room for");
}

/// Takes in what the others let this worker know.
pub(crate) fn take_notices(shard: &mut Shard, snapshot: &Snapshot, now: Nanos) {
    let count = shard.crossing.as_ref().map_or(0, |crossing| crossing.peers.len());
    for from in 0..count {
        for _ in 0..NOTICES {
            let Shard { crossing: Some(crossing), sessions, fragments, neighbors, counters, .. } = shard
            else {
                return;
            };
            let Some(Some(peer)) = crossing.peers.get_mut(from) else { break };
            let Some(notice) = peer.noticed.try_pop() else { break };
            crossing.work += 1;
            let from = from as u8;
            match notice {
                Notice::Ended(id, key) => sessions.forget(&key, from, id),
                Notice::Gone(id, copy) => sessions.forget_copy(copy, from, id),
                Notice::Activity(activity) => {
                    if !sessions.heard(&activity, from) {
                        crossing.notify(from, Notice::Gone(activity.id, activity.copy), counters);
                    }
                }
                // Its fragments will find none if there is no room.
                Notice::Fragment(datagram, first) => _ = fragments.learn(datagram, first, now),
                Notice::Neighbor(told) => neighbors.told(snapshot, &told, from, now),
            }
        }
    }
}

/// Lets the others know what there is to tell.
pub(crate) fn tell(shard: &mut Shard) {
    let Shard { crossing: Some(crossing), sessions, neighbors, counters, .. } = shard else { return };
    while let Some(ended) = sessions.take_ended() {
        for to in (0..16).filter(|to| ended.carriers >> to & 1 == 1) {
            crossing.notify(to, Notice::Ended(ended.id, ended.key), counters);
        }
    }
    while let Some(told) = neighbors.tell() {
        for to in 0..crossing.peers.len() as u8 {
            if to != crossing.me && told.to.is_none_or(|only| only == to) {
                crossing.notify(to, Notice::Neighbor(told), counters);
            }
        }
    }
}

/// What is due with time: tells owners what passed by their flows' copies here, gives up what has waited too long.
pub(crate) fn keep(shard: &mut Shard, snapshot: &Snapshot, now: Nanos) {
    let Shard { crossing: Some(crossing), sessions, counters, pool, .. } = shard else { return };
    sessions.sweep_copies(now, &snapshot.timeouts, |owner, activity| {
        crossing.notify(owner, Notice::Activity(activity), counters)
    });
    if now >= crossing.report_due {
        crossing.report_due = NEVER;
    }
    crossing.pending.tick(now);
    while let Some(lost) = crossing.pending.undelivered() {
        discard(lost.frame, lost.reason, pool, counters);
    }
}

/// Drops copies from before another configuration was adopted, a few from the place `from` on: their next packets ask the
/// owner. Returns where to go on, as long as there is more.
pub(crate) fn drop_outdated(shard: &mut Shard, from: u32, most: u32) -> Option<u32> {
    let Shard { crossing, sessions, counters, .. } = shard;
    let crossing = crossing.as_mut()?;
    sessions.drop_outdated_copies(from, most, |owner, activity| {
        crossing.notify(owner, Notice::Activity(activity), counters);
    })
}

/// TCP that opens or ends, or is watched, has passed by a copy: its owner is told at once.
#[cold]
pub(crate) fn follow_tcp(copy: u32, segment: Segment, shard: &mut Shard) {
    let Shard { crossing: Some(crossing), sessions, counters, .. } = shard else { return };
    let Some((owner, activity)) = sessions.note_segment(copy, segment) else { return };
    if crossing.notify(owner, Notice::Activity(activity), counters) {
        sessions.told(copy);
    }
}

/// Whether packets are ready whose flow is known now, or whose owner is to be asked again.
pub(crate) fn is_ready(shard: &Shard) -> bool {
    shard.crossing.as_ref().is_some_and(|crossing| crossing.pending.is_ready())
}

/// Fills an empty burst with them.
pub(crate) fn release(burst: &mut Burst, shard: &mut Shard) {
    if let Some(crossing) = &mut shard.crossing {
        crossing.pending.release(burst);
    }
}

/// For the end: sends home, unanswered, what others have lent, and drops what is parked.
pub(crate) fn close(shard: &mut Shard) {
    let Shard { crossing: Some(crossing), counters, pool, .. } = shard else { return };
    for peer in crossing.peers.iter_mut().flatten() {
        while let Some(lent) = peer.asked.try_pop() {
            let outcome = Outcome::Verdict(Verdict::Drop(DropReason::Shutdown));
            send_home(peer, Answer { lent, outcome, policy: 0 });
        }
        while let Some(Answer { lent, .. }) = peer.take_answer() {
            discard(lent.frame, DropReason::Shutdown, pool, counters);
        }
    }
    while let Some(frame) = crossing.pending.drain() {
        discard(frame, DropReason::Shutdown, pool, counters);
    }
}
