//! `[lists.NAME]`: prefixes that are blocked, or allowed whatever other lists say.

use std::collections::HashMap;
use std::path::PathBuf;

use sluice_dataplane::snapshot::lists::MOST_LISTS;

use crate::config::BY_HAND;
use crate::config::model::{List, ListKind};
use crate::config::reader::{At, Table, choice, text};
use crate::config::report::{Sink, nearest, quote};
use crate::config::schema;
use crate::config::units::Wrong;

/// Most lists of a file: one place is for what is added by hand.
const MOST: usize = MOST_LISTS - 1;

/// The lists, and what guards ask of them.
pub(super) struct Lists<'t> {
    /// Each with the place of its name.
    pub(super) lists: Vec<At<List>>,
    names: HashMap<&'t str, usize>,
}

impl<'t> Lists<'t> {
    pub(super) fn read(file: &Table<'t>, sink: &mut Sink<'_>) -> Self {
        let mut lists = Self { lists: Vec::new(), names: HashMap::new() };
        let tables = file.named("lists", &schema::LIST, sink);
        if let Some((name, _)) = tables.get(MOST) {
            sink.error(&name.span, format!("there are {} lists", tables.len()))
                .help(format!("at most {MOST}; a file can hold what several do"));
        }
        for (name, table) in tables.into_iter().take(MOST) {
            if name.value == BY_HAND {
                sink.error(&name.span, format!("the list {} is there already", quote(BY_HAND)))
                    .help("`sluice block add` fills it; choose another name");
            }
            lists.names.insert(name.value, lists.lists.len());
            let mut list =
                List { name: name.value.to_owned(), kind: ListKind::Block, file: None, prefixes: Vec::new() };
            if let Some(table) = table {
                let kinds = [("block", ListKind::Block), ("allow", ListKind::Allow)];
                let kind = table.required("kind", "\"block\"", choice(&kinds), sink);
                list.kind = kind.map_or(ListKind::Block, |at| at.value);
                list.file = table.one("file", text(path), sink).map(|at| at.value);
                list.prefixes = super::values(&super::prefixes(&table, "prefixes", sink));
                if !table.has("file") && !table.has("prefixes") {
                    sink.error(&table.span, "a list without prefixes").help(
                        "add `file = \"/etc/sluice/blocked.txt\"`, or `prefixes = [\"198.51.100.0/24\"]`",
                    );
                }
            }
            lists.lists.push(At { value: list, span: name.span });
        }
        lists
    }

    /// The list that `name` refers to.
    pub(super) fn resolve(&self, name: &At<String>, sink: &mut Sink<'_>) -> Option<usize> {
        let index = self.names.get(name.value.as_str()).copied();
        if index.is_none() {
            let draft = sink.error(&name.span, format!("no list is called {}", quote(&name.value)));
            match nearest(&name.value, self.names.keys().copied()) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => draft.help("write it as [lists.NAME]"),
            };
        }
        index
    }
}

fn path(text: &str) -> Result<PathBuf, Wrong> {
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(Wrong::new(format!("{} is not the absolute path of a file", quote(text)))
            .help("such as \"/etc/sluice/blocked.txt\""));
    }
    Ok(PathBuf::from(text))
}
