//! Whether what classes are promised can be kept.

use super::{children, place};
use crate::config::model::Class;
use crate::config::reader::{At, Table};
use crate::config::report::{Sink, quote};
use crate::config::units::show_rate;

/// Checks all guarantees and bounds against those of the parents.
pub(super) fn check(rate: Option<&At<u64>>, classes: &[Class], tables: &[Table<'_>], sink: &mut Sink<'_>) {
    let Some(rate) = rate else { return };
    for (class, table) in classes.iter().zip(tables) {
        if let (Some(guaranteed), Some(max)) = (class.guaranteed, class.max) {
            if guaranteed > max {
                sink.error(&place(table, "guaranteed"), "a class is guaranteed more than it may have")
                    .also(&place(table, "max"), "what it may have is here")
                    .help("`guaranteed` is at most `max`");
            }
        }
    }
    // A group without a guarantee of its own is promised what is promised within it.
    let promised = |parent: Option<usize>| -> u64 {
        children(classes, parent).map(|child| promise(classes, child)).fold(0, u64::saturating_add)
    };
    let whole = promised(None);
    if whole > rate.value {
        sink.error(
            &rate.span,
            format!("classes are guaranteed {} of {}", show_rate(whole), show_rate(rate.value)),
        )
        .help("lower `guaranteed` of some, so that all of them together can be had at once");
    }
    for (index, (class, table)) in classes.iter().zip(tables).enumerate() {
        let inside = promised(Some(index));
        let bound = class.guaranteed.or(class.max);
        if let Some(bound) = bound.filter(|&bound| inside > bound) {
            let key = if class.guaranteed.is_some() { "guaranteed" } else { "max" };
            let name = quote(&class.name);
            sink.error(
                &place(table, key),
                format!("classes in {name} are guaranteed {} of {}", show_rate(inside), show_rate(bound)),
            )
            .help("lower `guaranteed` of some, so that all of them together can be had at once");
        }
        let parent = class.parent.and_then(|parent| classes[parent].max).unwrap_or(rate.value);
        if let Some(max) = class.max.filter(|&max| max > parent) {
            let message = format!("{} is more than there is, {}", show_rate(max), show_rate(parent));
            sink.warning(&place(table, "max"), message)
                .help("without `max`, a class may have all that is left");
        }
    }
}

/// What a class is promised, itself or within.
fn promise(classes: &[Class], index: usize) -> u64 {
    classes[index].promised().unwrap_or_else(|| {
        children(classes, Some(index)).map(|child| promise(classes, child)).fold(0, u64::saturating_add)
    })
}
