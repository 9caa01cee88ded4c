//! The rings between two workers, and what goes over them.

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use sluice_pkt::parse::Headers;

use super::pending::Token;
use crate::arena::Frame;
use crate::local::neighbor::Told;
use crate::session::{Activity, Ends6, FlowAction, FlowKey, Lease, SessionId};
use crate::stage::fragment::{DatagramKey, FirstFragment};
use crate::verdict::Verdict;

/// Frames that one worker may have lent to another at a time.
pub(super) const QUESTIONS: usize = 256;
/// Messages without a frame that may be on their way from one worker to another.
pub(super) const NOTICES: usize = 512;

/// A frame that is lent to the worker that owns its session, with what its own has found out about it.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) frame: Frame,
    pub(super) headers: Headers,
    /// The port by which it came in.
    pub(super) port: u16,
    /// The interface by which it came in.
    pub(super) interface: u16,
    /// What waits for the answer at the asker.
    pub(super) token: Option<Token>,
}

/// What the owner says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// The frame belongs to a session; the worker where it arrived carries this direction from now on.
    Flow(Lease),
    /// This is to be done with this frame, and nothing follows from it for others.
    Once(FlowAction, Ends6),
    /// This becomes of it.
    Verdict(Verdict),
}

/// The frame comes home with what the owner says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) lent: Lent,
    pub(super) outcome: Outcome,
    /// The generation of the configuration by which it was decided.
    pub(super) policy: u32,
}

/// What one worker lets another know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// To a carrier: a session has ended.
    Ended(SessionId, FlowKey),
    /// To a carrier: there is no such session as it told of with this copy.
    Gone(SessionId, u32),
    /// To the owner: what passed by a carrier.
    Activity(Activity),
    /// To all: the first fragment of a datagram.
    Fragment(DatagramKey, FirstFragment),
    /// Of a neighbour.
    Neighbor(Told),
}

/// One worker's ends of the rings to and from another.
pub(super) struct Peer {
    pub(super) questions: HeapProd<Lent>,
    pub(super) asked: HeapCons<Lent>,
    pub(super) answers: HeapProd<Answer>,
    pub(super) answered: HeapCons<Answer>,
    pub(super) notices: HeapProd<Notice>,
    pub(super) noticed: HeapCons<Notice>,
    /// Frames that the other one has of ours.
    pub(super) lent: usize,
}

/// The rings between two workers: the ends of each.
pub(super) fn pair() -> (Peer, Peer) {
    let (questions_ab, asked_b) = HeapRb::new(QUESTIONS).split();
    let (questions_ba, asked_a) = HeapRb::new(QUESTIONS).split();
    let (answers_ab, answered_b) = HeapRb::new(QUESTIONS).split();
    let (answers_ba, answered_a) = HeapRb::new(QUESTIONS).split();
    let (notices_ab, noticed_b) = HeapRb::new(NOTICES).split();
    let (notices_ba, noticed_a) = HeapRb::new(NOTICES).split();
    (
        Peer {
            questions: questions_ab,
            asked: asked_a,
            answers: answers_ab,
            answered: answered_a,
            notices: notices_ab,
            noticed: noticed_a,
            lent: 0,
        },
        Peer {
            questions: questions_ba,
            asked: asked_b,
            answers: answers_ba,
            answered: answered_b,
            notices: notices_ba,
            noticed: noticed_b,
            lent: 0,
        },
    )
}

impl Peer {
    /// Lends a frame. Gives it back if as many are lent as may be: so there is always room for the answers.
    pub(super) fn ask(&mut self, question: Lent) -> Result<(), Lent> {
        if self.lent == QUESTIONS {
            return Err(question);
        }
        self.questions.try_push(question)?;
        self.lent += 1;
        Ok(())
    }

    /// Whether the other one has not taken everything.
    pub(super) fn has_left(&self) -> bool {
        !(self.questions.is_empty() && self.answers.is_empty() && self.notices.is_empty())
    }

    /// A frame that comes home.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        let answer = self.answered.try_pop()?;
        self.lent = self.lent.saturating_sub(1);
        Some(answer)
    }
}
