//! Guards, and the lists that they go by, as the data plane reads them.

use std::sync::Arc;

use sluice_dataplane::snapshot;
use sluice_dataplane::snapshot::lists::{ListMask, Lists, PrefixSets};

use crate::config::BY_HAND;
use crate::config::model::{Guard, List, ListKind, Prefix, Refusal, ReversePath, SourceLimits};

pub(super) fn compile(guard: &Guard, lists: &[List]) -> snapshot::Guard {
    let drops = |refusal| guard.drop.contains(&refusal);
    let mask = |kind| {
        let named = guard.lists.iter().filter(|&&list| lists.get(list).is_some_and(|list| list.kind == kind));
        named.fold(0, |mask: ListMask, list| mask | 1 << (list + 1))
    };
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
        // What is added by hand is the first list, and every guard's.
        block: 1 | mask(ListKind::Block),
        allow: mask(ListKind::Allow),
        per_source: guard.per_source.as_ref().map(limits),
        per_service: guard.per_service.as_ref().map(limits),
        icmp_per_second: guard.icmp,
    }
}

fn limits(limits: &SourceLimits) -> snapshot::guard::SourceLimits {
    let &SourceLimits { packets, bits, new_sessions, sessions, prefix, most } = limits;
    snapshot::guard::SourceLimits { packets, bits, new_sessions, sessions, prefix, most }
}

/// The lists of a configuration, with what is read from their files, in the same order; a file that is not there has nothing.
pub fn lists_with<'a>(lists: &'a [List], files: impl IntoIterator<Item = &'a [Prefix]>) -> Lists {
    let of_files = files.into_iter().chain(std::iter::repeat(&[][..]));
    let prefixes = lists.iter().zip(of_files).zip(1..).flat_map(|((list, file), number)| {
        let prefixes = list.prefixes.iter().chain(file);
        prefixes.map(move |prefix| (prefix.address, prefix.length, number))
    });
    // Prefixes are valid, and that there is memory for them is what the keeper of files sees to.
    let fixed = PrefixSets::new(prefixes).unwrap_or_default();
    let names = std::iter::once(BY_HAND.to_owned()).chain(lists.iter().map(|list| list.name.clone()));
    Lists { names: names.collect(), fixed: Arc::new(fixed), added: Arc::default() }
}
