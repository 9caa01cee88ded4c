//! Which rule, limit and class of another configuration is which of the one before, so that their counters go on.

use std::collections::HashMap;
use std::hash::Hash;

use crate::session::NO_LIMIT;
use crate::snapshot::{Limit, NONE16, RuleInfo, Snapshot};
use crate::stage::police::Kept;

/// For each old rule the new one, or [`NONE16`]. A rule that is what it was is the same; so is one with its name in its ACL,
/// and one without a name that says the same at another place.
pub(crate) fn rules(old: &[RuleInfo], new: &[RuleInfo]) -> Vec<u16> {
    let mut of = vec![None; old.len()];
    let mut is_free = vec![true; new.len()];
    pair(old, new, &mut of, &mut is_free, |rule| {
        Some((&rule.acl, &rule.name, &rule.text, rule.action as u8))
    });
    pair(old, new, &mut of, &mut is_free, |rule| is_named(rule).then_some((&rule.acl, &rule.name)));
    pair(old, new, &mut of, &mut is_free, |rule| {
        (!is_named(rule)).then_some((&rule.acl, &rule.text, rule.action as u8))
    });
    of.into_iter().map(|index| index.map_or(NONE16, |index| index as u16)).collect()
}

/// Whether a rule has a name of its own, and not that of its place.
fn is_named(rule: &RuleInfo) -> bool {
    let place = rule.name.strip_prefix("rule ");
    !place.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// For each old limit the new one of its name, or [`NO_LIMIT`].
pub(super) fn limits(old: &[Limit], new: &[Limit]) -> Vec<u8> {
    let mut of = vec![None; old.len()];
    pair(old, new, &mut of, &mut vec![true; new.len()], |limit| Some(&limit.name));
    of.into_iter().map(|index| index.map_or(NO_LIMIT, |index| index as u8)).collect()
}

/// For each old list the new one of its name, or [`usize::MAX`].
pub(super) fn lists(old: &[String], new: &[String]) -> Vec<usize> {
    old.iter().map(|name| new.iter().position(|other| other == name).unwrap_or(usize::MAX)).collect()
}

/// The limits of which there is one of the same name.
pub(super) fn kept_limits(old: &[Limit], new: &[Limit]) -> Vec<Kept> {
    let pairs = (0..).zip(old).zip(limits(old, new));
    let kept = pairs.filter_map(|((index, limit), of)| {
        let other = new.get(usize::from(of))?;
        let unchanged = (limit.rate, limit.burst, limit.policer) == (other.rate, other.burst, other.policer);
        Some(Kept { old: index, new: of, unchanged })
    });
    kept.collect()
}

/// For each old class the new one of its name, under the same parents at the same port, or [`NONE16`].
pub(super) fn classes(old: &Snapshot, new: &Snapshot) -> Vec<u16> {
    let [before, after] = [old, new].map(|snapshot| {
        let path = |index| (snapshot.class_port(index), snapshot.class_path(index));
        (0..snapshot.classes.len() as u16).map(path).collect::<Vec<_>>()
    });
    let mut of = vec![None; before.len()];
    pair(&before, &after, &mut of, &mut vec![true; after.len()], Some);
    of.into_iter().map(|index| index.map_or(NONE16, |index| index as u16)).collect()
}

/// Pairs those that have none yet with the first free one that has the same key.
fn pair<'a, T, K: Hash + Eq>(
    old: &'a [T],
    new: &'a [T],
    of: &mut [Option<usize>],
    is_free: &mut [bool],
    key: impl Fn(&'a T) -> Option<K>,
) {
    let mut free: HashMap<K, Vec<usize>> = HashMap::new();
    for (index, item) in new.iter().enumerate().rev().filter(|(index, _)| is_free[*index]) {
        if let Some(key) = key(item) {
            free.entry(key).or_default().push(index);
        }
    }
    for (item, of) in old.iter().zip(of).filter(|(_, of)| of.is_none()) {
        let index = key(item).and_then(|key| free.get_mut(&key)?.pop());
        if let Some(index) = index {
            is_free[index] = false;
            *of = Some(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::AclAction;
    use crate::table::meter::Rate;

    fn rule(acl: &str, name: &str, text: &str) -> RuleInfo {
        RuleInfo { acl: acl.into(), name: name.into(), text: text.into(), action: AclAction::Accept }
    }

    #[test]
    fn rules_are_known_by_their_names_or_by_what_they_say() {
        let old = [
            rule("a", "web", "tcp to-port 80"),
            rule("a", "rule 2", "udp"),
            rule("a", "rule 3", "icmp"),
            rule("a", "gone", "any"),
            rule("a", "default", "all else"),
            rule("b", "web", "tcp to-port 80"),
        ];
        let new = [
            rule("a", "rule 1", "tcp"),
            rule("a", "rule 2", "icmp"),
            rule("a", "web", "tcp to-port 80,443"),
            rule("a", "rule 4", "udp"),
            rule("a", "default", "all else"),
            rule("c", "web", "tcp to-port 80"),
        ];
        assert_eq!(rules(&old, &new), [2, 3, 1, NONE16, 4, NONE16]);
        assert_eq!(rules(&old, &old), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn rules_that_are_alike_are_taken_in_order() {
        let old = [rule("a", "rule 1", "udp"), rule("a", "rule 2", "udp")];
        let new = [rule("a", "rule 1", "tcp"), rule("a", "rule 2", "udp"), rule("a", "rule 3", "udp")];
        assert_eq!(rules(&old, &new), [2, 1], "the one at its place stays there");
    }

    #[test]
    fn limits_are_known_by_their_names() {
        let limit = |name: &str, bits_per_second| Limit {
            name: name.into(),
            interface: 0,
            egress: false,
            v4: Vec::new(),
            v6: Vec::new(),
            classes: Vec::new(),
            rate: Rate { bits_per_second },
            burst: 1000,
            policer: None,
        };
        let old = [limit("up", 1), limit("down", 2), limit("gone", 3)];
        let new = [limit("new", 1), limit("down", 2), limit("up", 5)];
        assert_eq!(limits(&old, &new), [2, 1, NO_LIMIT]);
        let kept = kept_limits(&old, &new);
        assert_eq!(
            kept,
            [Kept { old: 0, new: 2, unchanged: false }, Kept { old: 1, new: 1, unchanged: true }]
        );
    }
}
