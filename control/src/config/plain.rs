//! Routes as programs write them, a million perhaps, read without the TOML parser, which takes some microseconds for each:
//!
//! ```toml
//! [[routes]]
//! to = "198.51.100.0/24"
//! via = "192.0.2.1"
//! ```
//!
//! A header alone on its line, then a key and a plain value a line; comments have lines of their own. If any route of the
//! file is written otherwise, or is wrong, the parser reads them all. So both ways give the same, and only one says what is
//! wrong. What is left of the file stays where it was, and so do its places in messages.

use memchr::memchr;

use super::reader::At;
use super::report::Sink;

/// Bytes of a file from which on it is worth while.
const LEAST: usize = 64 << 10;
const HEADER: &str = "[[routes]]";

/// The routes of a file that has no others.
pub(crate) struct Plain<'t> {
    text: &'t str,
    /// From each header to what follows its table.
    tables: Vec<(u32, u32)>,
}

/// A route, as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written<'t> {
    pub(crate) to: Option<At<&'t str>>,
    pub(crate) via: Option<At<&'t str>>,
    pub(crate) interface: Option<At<&'t str>>,
    pub(crate) weight: Option<At<&'t str>>,
    pub(crate) blackhole: Option<At<&'t str>>,
    pub(crate) unreachable: Option<At<&'t str>>,
}

impl<'t> Written<'t> {
    /// The keys that a route may have, with what is written there.
    pub(crate) fn values(&self) -> [Option<&'t str>; 6] {
        let Self { to, via, interface, weight, blackhole, unreachable } = self;
        [to, via, interface, weight, blackhole, unreachable].map(|at| at.as_ref().map(|at| at.value))
    }
}

impl<'t> Plain<'t> {
    /// Those of a file that is large, and has some.
    pub(super) fn of_large(text: &'t str) -> Option<Self> {
        if text.len() < LEAST { None } else { Self::find(text).filter(|plain| plain.len() > 0) }
    }

    /// Those of a file. None: one is written otherwise, or the file has something that would take a parser.
    pub(crate) fn find(text: &'t str) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut tables = Vec::new();
        let (mut at, mut depth) = (0, 0);
        while at < text.len() {
            let line = line(text, at);
            if depth == 0 && trimmed(line) == HEADER {
                let (_, end) = table(text, at)?;
                tables.push((at as u32, end as u32));
                at = end;
            } else {
                if depth == 0 && may_name_routes(line) {
                    return None;
                }
                depth = nesting(line, depth)?;
                at += line.len() + 1;
            }
        }
        Some(Self { text, tables })
    }

    /// The routes, in the order of the file.
    pub(crate) fn routes(&self) -> impl ExactSizeIterator<Item = Written<'t>> + '_ {
        (0..self.tables.len()).map(|route| self.route(route))
    }

    /// A route.
    pub(crate) fn route(&self, route: usize) -> Written<'t> {
        let table = self.tables.get(route).and_then(|&(at, _)| table(self.text, at as usize));
        table.map(|(written, _)| written).unwrap_or_default()
    }

    /// All that stands in the file for a route.
    pub(crate) fn text(&self, route: usize) -> &'t str {
        let place = self.tables.get(route).map(|&(begin, end)| begin as usize..end as usize);
        place.and_then(|place| self.text.get(place)).unwrap_or_default()
    }

    /// The lines of their headers, from 1.
    pub(super) fn lines(&self, sink: &Sink<'_>) -> Vec<u32> {
        self.tables.iter().map(|&(at, _)| sink.line(&(at as usize..at as usize))).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.tables.len()
    }

    /// The file without its routes, all else in its place.
    pub(crate) fn rest(&self) -> String {
        let mut rest = self.text.as_bytes().to_vec();
        for &(begin, end) in &self.tables {
            if let Some(table) = rest.get_mut(begin as usize..end as usize) {
                table.fill(b' ');
            }
        }
        // Whole lines are gone, so it is UTF-8 as before.
        String::from_utf8(rest).unwrap_or_default()
    }

    /// The file with those routes alone for which `keep` says so; what follows moves up.
    pub(crate) fn only(&self, keep: impl Fn(usize) -> bool) -> String {
        let (mut kept, mut from) = (String::new(), 0);
        let mut take = |from: usize, to: usize| kept.push_str(self.text.get(from..to).unwrap_or_default());
        for (route, &(begin, end)) in self.tables.iter().enumerate() {
            if !keep(route) {
                take(from, begin as usize);
                from = end as usize;
            }
        }
        take(from, self.text.len());
        kept
    }
}

/// The line that begins at `at`, without its end.
fn line(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    memchr(b'\n', rest.as_bytes()).and_then(|end| rest.get(..end)).unwrap_or(rest)
}

/// Without what TOML counts as white space, and without the first half of a line end of two.
fn trimmed(line: &str) -> &str {
    let is_more = |byte: &u8| *byte != b' ' && *byte != b'\t';
    let line = line.strip_suffix('\r').unwrap_or(line);
    let bytes = line.as_bytes();
    let (Some(first), Some(last)) = (bytes.iter().position(is_more), bytes.iter().rposition(is_more)) else {
        return "";
    };
    line.get(first..=last).unwrap_or_default()
}

/// The table whose header is at `at`, and where it ends.
fn table(text: &str, at: usize) -> Option<(Written<'_>, usize)> {
    let mut written = Written::default();
    let mut at = at + line(text, at).len() + 1;
    while at < text.len() {
        let whole = line(text, at);
        let line = trimmed(whole);
        match line.as_bytes().first() {
            Some(b'[') => break,
            Some(b'#') if line.bytes().all(|byte| byte >= b' ' && byte != 0x7f || byte == b'\t') => {}
            Some(b'#') => return None,
            None => {}
            Some(_) => {
                let equals = line.bytes().position(|byte| byte == b'=')?;
                let (key, value) = (trimmed(line.get(..equals)?), trimmed(line.get(equals + 1..)?));
                let (slot, said) = match key {
                    "to" => (&mut written.to, string(value)),
                    "via" => (&mut written.via, string(value)),
                    "interface" => (&mut written.interface, string(value)),
                    "weight" => (&mut written.weight, Some(value).filter(|value| is_number(value))),
                    "blackhole" => (&mut written.blackhole, Some(value).filter(|value| *value == "true")),
                    "unreachable" => (&mut written.unreachable, Some(value).filter(|value| *value == "true")),
                    _ => return None,
                };
                let start = value.as_ptr() as usize - text.as_ptr() as usize;
                if slot.replace(At { value: said?, span: start..start + value.len() }).is_some() {
                    return None;
                }
            }
        }
        at += whole.len() + 1;
    }
    Some((written, at.min(text.len())))
}

/// A basic string without escapes, of ASCII.
fn string(value: &str) -> Option<&str> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    inner.bytes().all(is_plain).then_some(inner)
}

/// A number from 1 to 999.
fn is_number(value: &str) -> bool {
    (1..=3).contains(&value.len())
        && !value.starts_with('0')
        && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a statement may be about routes in another way.
fn may_name_routes(line: &str) -> bool {
    let key = line.split(['=', '#']).next().unwrap_or(line);
    key.contains('\\') || key.contains("routes") && trimmed(key) != "[kernel-routes]"
}

/// How many brackets are open behind a line, if there were so many before it. None where that would take a parser.
fn nesting(line: &str, mut depth: usize) -> Option<usize> {
    let mut rest = line;
    while let Some(at) = rest.find(['#', '"', '\'', '[', ']', '{', '}']) {
        let (found, behind) = (rest.get(at..)?, rest.get(at + 1..)?);
        rest = match found.as_bytes().first()? {
            b'#' => break,
            b'[' | b'{' => {
                depth += 1;
                behind
            }
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                behind
            }
            _ if found.starts_with("\"\"\"") || found.starts_with("'''") => return None,
            b'"' => behind_string(behind)?,
            _ => behind.get(behind.find('\'')? + 1..)?,
        };
    }
    Some(depth)
}

/// What follows a basic string; `text` begins behind its first quotation mark.
fn behind_string(text: &str) -> Option<&str> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find(['"', '\\'])?;
        if text.as_bytes().get(at) == Some(&b'"') {
            return text.get(at + 1..);
        }
        // The character behind it may be a quotation mark; of a longer one, the rest is none.
        from = at + 1 + text.get(at + 1..)?.chars().next()?.len_utf8();
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
