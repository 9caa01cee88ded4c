//! Routes that both files write plainly are compared as they stand, a million of them in a part of a second. Those that are the
//! same go no further; of the others, as many as are put into words stay in the files that the parser gets.

use std::cmp::Ordering;
use std::ops::Range;

use crate::config::Plain;

/// What is left of two files.
pub(super) struct Left {
    /// Without the routes that are no different, and without differences beyond those that are put into words.
    pub(super) texts: [String; 2],
    /// Differences of the latter kind.
    pub(super) uncounted: usize,
}

/// Takes out of both files what both say of routes, and of other differences all but `most`. None where the parser has to
/// read them in full.
pub(super) fn split(texts: [&str; 2], most: usize) -> Option<Left> {
    let (old, new) = (Plain::find(texts[0])?, Plain::find(texts[1])?);
    let (mut keep, mut uncounted) = ([Vec::new(), Vec::new()], 0);
    let mut left = most;
    for difference in differences(&old, &new) {
        let (changes, places) = match difference {
            Difference::Removed(route) => (1, [Some(route), None]),
            Difference::Added(route) => (1, [None, Some(route)]),
            Difference::Changed(before, after, keys) => (keys, [Some(before), Some(after)]),
        };
        match left.checked_sub(1) {
            Some(fewer) => {
                left = fewer;
                keep.iter_mut().zip(places).for_each(|(keep, place)| keep.extend(place));
            }
            None => uncounted += changes,
        }
    }
    keep.iter_mut().for_each(|keep| keep.sort_unstable());
    let [removed, added] = keep;
    let only = |plain: &Plain<'_>, kept: &[usize]| plain.only(|route| kept.binary_search(&route).is_ok());
    Some(Left { texts: [only(&old, &removed), only(&new, &added)], uncounted })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Removed(usize),
    Added(usize),
    /// So many keys of a route, by its places in both.
    Changed(usize, usize, usize),
}

/// By destination; of several routes to one, each with that in the same place among them.
fn differences(old: &Plain<'_>, new: &Plain<'_>) -> Vec<Difference> {
    let same =
        |a: usize, b: usize| old.text(a) == new.text(b) || old.route(a).values() == new.route(b).values();
    let most = old.len().min(new.len());
    let head = (0..most).take_while(|&at| same(at, at)).count();
    let tail = (1..=most - head).take_while(|&at| same(old.len() - at, new.len() - at)).count();
    let (before, after) = (sorted(old, head..old.len() - tail), sorted(new, head..new.len() - tail));
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return found,
        };
        let a = if order.is_le() { before.next() } else { None };
        let b = if order.is_ge() { after.next() } else { None };
        found.extend(match (a, b) {
            (Some((_, a)), None) => Some(Difference::Removed(a)),
            (None, Some((_, b))) => Some(Difference::Added(b)),
            (Some((_, a)), Some((_, b))) => {
                let values = old.route(a).values().into_iter().zip(new.route(b).values());
                let keys = values.filter(|(a, b)| a != b).count();
                (keys > 0).then_some(Difference::Changed(a, b, keys))
            }
            (None, None) => None,
        });
    }
}

/// Destinations with their places, in the order of the former.
fn sorted<'t>(plain: &Plain<'t>, places: Range<usize>) -> Vec<(&'t str, usize)> {
    let to = |at: usize| (plain.route(at).values()[0].unwrap_or_default(), at);
    let mut sorted: Vec<(&str, usize)> = places.map(to).collect();
    sorted.sort_unstable();
    sorted
}
