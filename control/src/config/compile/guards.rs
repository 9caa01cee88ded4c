//! Guards as the data plane reads them.

use sluice_dataplane::snapshot;

use crate::config::model::{Guard, Refusal, ReversePath};

pub(super) fn compile(guard: &Guard) -> snapshot::Guard {
    let drops = |refusal| guard.drop.contains(&refusal);
    snapshot::Guard {
        name: guard.name.clone(),
        bogons: drops(Refusal::Bogons),
        reverse_path: match guard.reverse_path {
            ReversePath::Off => snapshot::ReversePath::Any,
            ReversePath::Loose => snapshot::ReversePath::Loose,
            ReversePath::Strict => snapshot::ReversePath::Strict,
        },
        land: drops(Refusal::Land),
        tcp_flags: drops(Refusal::BadTcpFlags),
        port_zero: drops(Refusal::PortZero),
        tiny_fragments: drops(Refusal::TinyFragments),
        answers: if drops(Refusal::UnaskedAnswers) { guard.answer_ports.clone() } else { Vec::new() },
    }
}
