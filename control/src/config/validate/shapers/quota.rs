//! Quotas of classes: how much, in which period, and what is done beyond it.

use super::{Class, children};
use crate::config::model::{OverQuota, Quota};
use crate::config::net;
use crate::config::reader::{Table, text};
use crate::config::report::{Sink, nearest, quote};
use crate::config::units::{self, Wrong};

/// What stands before the name of a class.
const CLASS: &str = "class:";

/// Reads all but the class of `over-quota`, which [`link`] finds.
pub(super) fn read(table: &Table<'_>, sink: &mut Sink<'_>) -> Quota {
    let octets = table.one("quota", text(units::quota), sink).map(|at| at.value);
    let each = table.one("each-quota", text(units::quota), sink).map(|at| at.value);
    if table.has("each-quota") && !table.has("per") && !table.has("accounts") {
        sink.error(&table.key_span("each-quota"), "`each-quota` without `per` or `accounts`")
            .help("say what is meant by each, such as `accounts = \"source\"`");
    }
    if table.has("over-quota") && !table.has("quota") && !table.has("each-quota") {
        sink.error(&table.key_span("over-quota"), "`over-quota` without a quota")
            .help("say how much, such as `quota = \"500 GB\"`");
    }
    let monthly = table.one("period", text(period), sink).map_or(Some(1), |at| at.value);
    Quota { octets, each, monthly, over: OverQuota::Pass }
}

/// `daily`, `monthly`, `monthly/15`.
fn period(text: &str) -> Result<Option<u8>, Wrong> {
    match text {
        "daily" => return Ok(None),
        "monthly" => return Ok(Some(1)),
        _ => {}
    }
    let day = text.strip_prefix("monthly/").and_then(net::decimal::<u8>);
    day.filter(|day| (1..=31).contains(day)).map(Some).ok_or_else(|| {
        Wrong::new(format!("{} is not a period", quote(text)))
            .help("\"daily\", \"monthly\", or with the day on which it begins, \"monthly/15\"")
    })
}

/// Finds the classes that packets beyond a quota leave in.
pub(super) fn link(classes: &mut [Class], tables: &[Table<'_>], sink: &mut Sink<'_>) {
    for (index, table) in tables.iter().enumerate() {
        let Some(over) = super::super::word(table, "over-quota", sink) else { continue };
        let found = match over.value.as_str() {
            "pass" => OverQuota::Pass,
            "drop" => OverQuota::Drop,
            word => {
                let Some(name) = word.strip_prefix(CLASS) else {
                    sink.error(&over.span, format!("{} is nothing that can be done", quote(word)))
                        .help("\"pass\", \"drop\", or a class, such as \"class:slow\"");
                    continue;
                };
                let Some(other) = classes.iter().position(|class| class.name == name) else {
                    let draft = sink.error(&over.span, format!("no class is called {}", quote(name)));
                    match nearest(name, classes.iter().map(|class| class.name.as_str())) {
                        Some(near) => draft.help(format!("did you mean `{CLASS}{near}`?")),
                        None => draft.help("it is a class of the same shaper"),
                    };
                    continue;
                };
                if other == index || children(classes, Some(other)).next().is_some() {
                    sink.error(&over.span, format!("{} cannot be sent there", quote(&classes[index].name)))
                        .help("another class that holds no others");
                    continue;
                }
                OverQuota::Class(other)
            }
        };
        if found != OverQuota::Pass && children(classes, Some(index)).next().is_some() {
            sink.error(&over.span, "a class that holds others has no packets of its own")
                .help("give `over-quota` to the classes in it");
        }
        classes[index].quota.over = found;
    }
}

/// Whether packets beyond the quota of some class leave in this one.
pub(super) fn leads_to(classes: &[Class], index: usize) -> bool {
    classes.iter().any(|class| class.quota.over == OverQuota::Class(index))
}
