//! What each stage did to one packet, seen from outside: the packet before and after. The stages know nothing of it.
//!
//! For `sluice explain`, which takes a packet through the real pipeline with a scratch [`Shard`](crate::shard::Shard).

use crate::burst::Burst;
use crate::local::neighbor::Egress;
use crate::probe::Probe;
use crate::session::{FlowAction, NONE};
use crate::snapshot::NONE16;
use crate::stage::{Decision, FirstPackets};
use crate::verdict::Verdict;

/// The first packet of a burst as a stage left it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The stage.
    pub stage: &'static str,
    /// Whether the stages behind it go on with the packet.
    pub live: bool,
    /// What is to become of it, as far as is known.
    pub verdict: Verdict,
    /// The ingress interface, or [`NONE16`].
    pub interface: u16,
    /// What is done to all packets of its flow, once that is known.
    pub action: FlowAction,
    /// What is decided so far of its session; in the stages of first packets alone.
    pub decision: Option<Decision>,
    /// The link that it leaves by, once known.
    pub egress: Option<Egress>,
    /// Whether it belongs to a session, as far as has been looked.
    pub known: bool,
    /// Its first bytes; none once it is on its way out.
    pub bytes: Vec<u8>,
}

/// Notes what each stage did to the first packet of a burst. It takes memory, so it is not for a worker that runs.
#[derive(Debug, Default)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    fn note(&mut self, stage: &'static str, burst: &Burst, decision: Option<Decision>) {
        self.0.push(Step {
            stage,
            live: burst.live.has(0),
            verdict: burst.verdicts[0],
            interface: if stage == "admit" { NONE16 } else { burst.interfaces[0] },
            action: burst.actions[0],
            decision,
            egress: burst.ready.has(0).then_some(burst.egress[0]),
            known: stage != "parse" && stage != "fragment" && burst.flows[0] != NONE,
            bytes: burst.bytes(0).to_vec(),
        });
    }
}

impl Probe for Steps {
    fn did(&mut self, stage: &'static str, burst: &Burst) {
        // It takes all stages.
        if stage != "forward" {
            self.note(stage, burst, None);
        }
    }

    fn decided(&mut self, stage: &'static str, burst: &Burst, first: &FirstPackets) {
        if let Some(decision) = first.decision(0) {
            self.note(stage, burst, Some(*decision));
        }
    }
}
