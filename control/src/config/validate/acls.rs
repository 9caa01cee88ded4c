//! `[acls.NAME]`: access control lists.

use std::collections::HashMap;

use super::matches::{self, Combinations};
use super::word;
use crate::config::model::{Acl, Action, Rule};
use crate::config::reader::{At, Table, boolean, choice};
use crate::config::report::{Sink, Span, nearest, quote};
use crate::config::schema;

/// Most rules of all ACLs, the default of each included; the data plane numbers them in 16 bits.
const MOST_RULES: usize = 65_534;

const ACTIONS: &[(&str, Action)] =
    &[("accept", Action::Accept), ("drop", Action::Drop), ("reject", Action::Reject)];

/// The ACLs, and what other sections ask of them.
pub(super) struct Acls<'t> {
    /// Each with the place of its name.
    pub(super) acls: Vec<At<Acl>>,
    /// Where each rule stands.
    pub(super) rule_spans: Vec<Vec<Span>>,
    names: HashMap<&'t str, usize>,
}

impl<'t> Acls<'t> {
    pub(super) fn read(file: &Table<'t>, sink: &mut Sink<'_>) -> Self {
        let mut acls = Self { acls: Vec::new(), rule_spans: Vec::new(), names: HashMap::new() };
        let mut rules_left = MOST_RULES;
        let mut combinations = Combinations::none();
        for (name, table) in file.named("acls", &schema::ACL, sink) {
            rules_left = rules_left.saturating_sub(1);
            acls.names.insert(name.value, acls.acls.len());
            let mut acl = Acl { name: name.value.to_owned(), default: Action::Drop, rules: Vec::new() };
            let mut spans = Vec::new();
            if let Some(table) = table {
                acl.default = table.one("default", choice(ACTIONS), sink).map_or(Action::Drop, |at| at.value);
                let rules = table.tables("rules", &schema::RULE, rules_left, sink);
                rules_left = rules_left.saturating_sub(rules.len());
                spans = rules.iter().map(|rule| rule.span.clone()).collect();
                acl.rules = rules.iter().map(|rule| read_rule(rule, sink)).collect();
                for (rule, span) in acl.rules.iter().zip(&spans) {
                    combinations.add(&rule.matches, span, sink);
                }
                unique_names(&rules, sink);
            }
            acls.acls.push(At { value: acl, span: name.span });
            acls.rule_spans.push(spans);
        }
        acls
    }

    /// The ACL that `name` refers to.
    pub(super) fn resolve(&self, name: &At<String>, sink: &mut Sink<'_>) -> Option<usize> {
        let index = self.names.get(name.value.as_str()).copied();
        if index.is_none() {
            let draft = sink.error(&name.span, format!("no ACL is called {}", quote(&name.value)));
            match nearest(&name.value, self.names.keys().copied()) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => draft.help("write it as [acls.NAME]"),
            };
        }
        index
    }
}

fn read_rule(table: &Table<'_>, sink: &mut Sink<'_>) -> Rule {
    let established = table.one("established", boolean, sink);
    if let Some(At { value: false, span }) = &established {
        sink.error(span, "`established` can only be true")
            .help("leave it out: a rule without it is about every packet, of a session or not");
    }
    let action = table.required("action", "\"accept\"", choice(ACTIONS), sink);
    Rule {
        name: word(table, "name", sink).map(|at| at.value),
        line: sink.line(&table.span),
        matches: matches::read(table, sink),
        established: established.is_some(),
        action: action.map_or(Action::Drop, |at| at.value),
    }
}

/// Names of rules name counters: no two alike in one ACL.
fn unique_names(rules: &[Table<'_>], sink: &mut Sink<'_>) {
    let mut seen: HashMap<String, Span> = HashMap::new();
    for rule in rules {
        // A name of the wrong type was reported when the rule was read.
        let Some(name) = rule.string("name") else { continue };
        if let Some(first) = seen.get(name) {
            sink.error(&rule.key_span("name"), format!("two rules are called {}", quote(name)))
                .also(first, "the first is here")
                .help("a name stands for one counter: choose another");
            continue;
        }
        seen.insert(name.to_owned(), rule.key_span("name"));
    }
}
