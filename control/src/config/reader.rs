//! Reads values out of the parsed file. What is wrong is said at its place and reading goes on, so that one run finds
//! every error.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Sink, Span, nearest, quote};
use super::schema::Section;
use super::units::Wrong;

/// Most entries that a list may have.
const LONGEST_LIST: usize = 4096;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A table of the file, of which only the keys of its section are left.
pub(crate) struct Table<'t> {
    value: &'t DeTable<'t>,
    pub(crate) section: &'static Section,
    /// Of the table's header, or of an inline table as a whole.
    pub(crate) span: Span,
}

impl<'t> Table<'t> {
    /// The file itself.
    pub(crate) fn file(value: &'t DeTable<'t>, section: &'static Section, sink: &mut Sink<'_>) -> Self {
        let table = Self { value, section, span: 0..0 };
        table.refuse_unknown(sink);
        table
    }

    fn open(value: &'t Spanned<DeValue<'t>>, section: &'static Section, sink: &mut Sink<'_>) -> Option<Self> {
        let DeValue::Table(inner) = value.get_ref() else {
            let message = format!("expected a table, found {}", kind(value.get_ref()));
            sink.error(&value.span(), message).help(format!(
                "{} has the keys {}",
                section.name,
                list(section.keys)
            ));
            return None;
        };
        let table = Self { value: inner, section, span: value.span() };
        table.refuse_unknown(sink);
        Some(table)
    }

    fn refuse_unknown(&self, sink: &mut Sink<'_>) {
        for key in self.value.keys().filter(|key| !self.section.keys.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let draft = sink.error(&key.span(), format!("{} has no key {}", self.section.name, quote(name)));
            match nearest(name, self.section.keys.iter().copied()) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => draft.help(format!("its keys are {}", list(self.section.keys))),
            };
        }
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.section.keys.contains(&key), "{key} is not in the schema");
        self.value.get(key)
    }

    /// Where a key itself stands; the table where it is absent.
    pub(crate) fn key_span(&self, key: &str) -> Span {
        self.value.get_key_value(key).map_or(self.span.clone(), |(key, _)| key.span())
    }

    /// Whether the key is there, right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value.contains_key(key)
    }

    /// Whether a table is under a key.
    pub(crate) fn is_table(&self, key: &str) -> bool {
        matches!(self.get(key).map(Spanned::get_ref), Some(DeValue::Table(_)))
    }

    /// A string, where there is one; nothing is reported.
    pub(crate) fn string(&self, key: &str) -> Option<&'t str> {
        match self.get(key)?.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// A single value; `None` where the key is absent, or wrong and reported.
    pub(crate) fn one<T>(
        &self,
        key: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
        sink: &mut Sink<'_>,
    ) -> Option<At<T>> {
        element(self.get(key)?, &parse, sink)
    }

    /// A single value that must be there.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
        sink: &mut Sink<'_>,
    ) -> Option<At<T>> {
        if !self.has(key) {
            self.missing(key, example, sink);
        }
        self.one(key, parse, sink)
    }

    /// Says that a key is missing.
    pub(crate) fn missing(&self, key: &str, example: &str, sink: &mut Sink<'_>) {
        sink.error(&self.span, format!("`{key}` is missing")).help(format!("add `{key} = {example}`"));
    }

    /// A value or a list of values; empty where the key is absent.
    pub(crate) fn many<T>(
        &self,
        key: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
        sink: &mut Sink<'_>,
    ) -> Vec<At<T>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            return element(value, &parse, sink).into_iter().collect();
        };
        if array.is_empty() {
            sink.error(&value.span(), format!("the list of `{key}` is empty"))
                .help(format!("without a value, leave `{key}` out"));
        }
        if array.len() > LONGEST_LIST {
            sink.error(&value.span(), format!("the list of `{key}` has {} entries", array.len()))
                .help(format!("a list has at most {LONGEST_LIST}"));
            return Vec::new();
        }
        array.iter().filter_map(|value| element(value, &parse, sink)).collect()
    }

    /// The table under a key.
    pub(crate) fn table(
        &self,
        key: &str,
        section: &'static Section,
        sink: &mut Sink<'_>,
    ) -> Option<Table<'t>> {
        Table::open(self.get(key)?, section, sink)
    }

    /// The tables of an array such as `[[routes]]`, at most `most` of them.
    pub(crate) fn tables(
        &self,
        key: &str,
        section: &'static Section,
        most: usize,
        sink: &mut Sink<'_>,
    ) -> Vec<Table<'t>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let message = format!("`{key}` is a list of tables, found {}", kind(value.get_ref()));
            let draft = sink.error(&value.span(), message);
            if section.name.starts_with("[[") {
                draft.help(format!("write {} with two brackets, once for each", section.name));
            }
            return Vec::new();
        };
        if array.len() > most {
            sink.error(&value.span(), format!("`{key}` has {} entries", array.len()))
                .help(format!("this version takes at most {most}"));
            return Vec::new();
        }
        array.iter().filter_map(|value| Table::open(value, section, sink)).collect()
    }

    /// The named tables under a key, such as `[interfaces.NAME]`, in the order of the file.
    pub(crate) fn named(
        &self,
        key: &str,
        section: &'static Section,
        sink: &mut Sink<'_>,
    ) -> Vec<(At<&'t str>, Option<Table<'t>>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            sink.error(&value.span(), format!("`{key}` holds named tables, found {}", kind(value.get_ref())))
                .help(format!("write {} for each", section.name));
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, value) in tables.iter() {
            let table = Table::open(value, section, sink);
            named.push((At { value: name.get_ref().as_ref(), span: name.span() }, table));
        }
        named
    }
}

fn element<T>(
    value: &Spanned<DeValue<'_>>,
    parse: &impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    sink: &mut Sink<'_>,
) -> Option<At<T>> {
    match parse(value.get_ref()) {
        Ok(parsed) => Some(At { value: parsed, span: value.span() }),
        Err(Wrong { message, help }) => {
            let draft = sink.error(&value.span(), message);
            if let Some(help) = help {
                draft.help(help);
            }
            None
        }
    }
}

/// A string.
pub(crate) fn text<T>(parse: impl Fn(&str) -> Result<T, Wrong>) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| match value {
        DeValue::String(text) => parse(text),
        other => {
            // What would be right is known to the parser of the text.
            let help = match other {
                DeValue::Integer(number) => parse(number.as_str()).err().and_then(|wrong| wrong.help),
                _ => None,
            };
            let wrong = Wrong::new(format!("expected a string, found {}", kind(other)));
            Err(wrong.help(help.unwrap_or_else(|| "write it in quotes".to_owned())))
        }
    }
}

/// A string, or an integer as though it were written in quotes.
pub(crate) fn text_or_number<T>(
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| match value {
        DeValue::String(text) => parse(text),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => parse(&number.to_string()),
            Err(_) => parse(number.as_str()),
        },
        other => Err(Wrong::new(format!("expected a number or a string, found {}", kind(other)))
            .help("write a number, or a string in quotes")),
    }
}

/// An integer within `range`.
pub(crate) fn integer(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Result<u32, Wrong> {
    move |value| {
        let help = format!("a number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = value else {
            return Err(Wrong::new(format!("expected an integer, found {}", kind(value))).help(help));
        };
        (i64::from_str_radix(number.as_str(), number.radix()).ok())
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| Wrong::new(format!("{} is out of range", quote(number.as_str()))).help(help))
    }
}

/// `true` or `false`.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        other => {
            Err(Wrong::new(format!("expected true or false, found {}", kind(other))).help("without quotes"))
        }
    }
}

/// One of some words.
pub(crate) fn choice<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    text(move |text| {
        words.iter().find(|(word, _)| *word == text).map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let wrong = Wrong::new(format!("{} is not one of the choices", quote(text)));
            match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(word) => wrong.help(format!("did you mean \"{word}\"?")),
                None => wrong.help(format!("one of {}", names.join(", "))),
            }
        })
    })
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
