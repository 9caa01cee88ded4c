//! Diagnostics: what is wrong with a configuration, where, and what would be right.

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// A byte range of the file.
pub(crate) type Span = Range<usize>;

/// Most diagnostics that are kept; the rest are only counted.
const MAX_DIAGNOSTICS: usize = 100;
/// Most characters of a line that an excerpt shows.
const EXCERPT_WIDTH: usize = 110;

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is valid, but probably not what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in the file, with the line it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line, or the part of a long one around the place; control characters are shown as spaces.
    pub excerpt: String,
    /// Where in `excerpt` the place begins, in characters.
    #[serde(skip)]
    caret: usize,
    /// How many characters of `excerpt` it covers, at least 1.
    #[serde(skip)]
    width: usize,
}

impl Place {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, excerpt) = (self.line, self.excerpt.trim_end());
        let (indent, caret) = (" ".repeat(self.caret), "^".repeat(self.width));
        writeln!(f, "{line:>6} | {excerpt}")?;
        writeln!(f, "       | {indent}{caret}")
    }
}

/// A second place that a diagnostic is about, such as the first of two duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where it is.
    pub place: Place,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// Where; `None` for what concerns the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Other places that have to do with it.
    pub related: Vec<Related>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => {
                writeln!(
                    f,
                    "{}:{}:{}: {}: {}",
                    self.file, place.line, place.column, self.severity, self.message
                )?;
                place.write(f)?;
            }
            None => writeln!(f, "{}: {}: {}", self.file, self.severity, self.message)?,
        }
        for Related { message, place } in &self.related {
            writeln!(f, "{}:{}:{}: {message}", self.file, place.line, place.column)?;
            place.write(f)?;
        }
        match &self.help {
            Some(help) => writeln!(f, "  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration that was refused: at least one error, and the warnings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many errors there are, also those beyond what `diagnostics` holds.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// In the order of the file; at most 100.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{diagnostic}")?;
        }
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        write!(f, "{} error{}", self.errors, plural(self.errors))?;
        if self.warnings > 0 {
            write!(f, ", {} warning{}", self.warnings, plural(self.warnings))?;
        }
        let hidden = self.errors + self.warnings - self.diagnostics.len();
        if hidden > 0 {
            write!(f, " ({hidden} not shown)")?;
        }
        writeln!(f)
    }
}

impl std::error::Error for Report {}

/// A diagnostic while it is being put together.
pub(crate) struct Draft {
    severity: Severity,
    span: Option<Span>,
    message: String,
    help: Option<String>,
    related: Vec<(Span, String)>,
}

impl Draft {
    /// Says what would be right.
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Points at a second place.
    pub(crate) fn also(&mut self, span: &Span, message: impl Into<String>) -> &mut Self {
        self.related.push((span.clone(), message.into()));
        self
    }
}

/// Collects diagnostics about one file.
pub(crate) struct Sink<'t> {
    name: &'t str,
    text: &'t str,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
    drafts: Vec<Draft>,
    /// Takes the drafts beyond [`MAX_DIAGNOSTICS`], one after the other.
    overflow: Draft,
    errors: usize,
    warnings: usize,
}

impl<'t> Sink<'t> {
    pub(crate) fn new(name: &'t str, text: &'t str) -> Self {
        let ends = memchr::memchr_iter(b'\n', text.as_bytes());
        let lines = std::iter::once(0).chain(ends.map(|at| at + 1)).collect();
        Self {
            name,
            text,
            lines,
            drafts: Vec::new(),
            overflow: draft(Severity::Error),
            errors: 0,
            warnings: 0,
        }
    }

    /// Adds an error at `span`.
    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>) -> &mut Draft {
        self.add(Severity::Error, Some(span), message.into())
    }

    /// Adds a warning at `span`.
    pub(crate) fn warning(&mut self, span: &Span, message: impl Into<String>) -> &mut Draft {
        self.add(Severity::Warning, Some(span), message.into())
    }

    /// Adds an error about the file as a whole.
    pub(crate) fn error_in_file(&mut self, message: impl Into<String>) -> &mut Draft {
        self.add(Severity::Error, None, message.into())
    }

    /// Errors so far.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, span: &Span) -> u32 {
        self.lines.partition_point(|&start| start <= span.start).try_into().unwrap_or(u32::MAX)
    }

    fn add(&mut self, severity: Severity, span: Option<&Span>, message: String) -> &mut Draft {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        let new = Draft { span: span.cloned(), message, ..draft(severity) };
        if self.drafts.len() < MAX_DIAGNOSTICS {
            self.drafts.push(new);
            self.drafts.last_mut().unwrap_or(&mut self.overflow)
        } else {
            self.overflow = new;
            &mut self.overflow
        }
    }

    /// The diagnostics in the order of the file, with their places worked out.
    pub(crate) fn finish(mut self) -> Report {
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.sort_by_key(|draft| draft.span.as_ref().map_or(0, |span| span.start));
        let diagnostics = drafts
            .into_iter()
            .map(|draft| Diagnostic {
                severity: draft.severity,
                file: self.name.to_owned(),
                place: draft.span.map(|span| self.place(&span)),
                message: draft.message,
                help: draft.help,
                related: (draft.related.into_iter())
                    .map(|(span, message)| Related { message, place: self.place(&span) })
                    .collect(),
            })
            .collect();
        Report { errors: self.errors, warnings: self.warnings, diagnostics }
    }

    fn place(&self, span: &Span) -> Place {
        let at = boundary_before(self.text, span.start);
        let line = self.lines.partition_point(|&start| start <= at).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or("");
        let whole = rest.split('\n').next().unwrap_or("");
        let before = self.text.get(start..at).unwrap_or("").chars().count();
        let skip = before.saturating_sub(EXCERPT_WIDTH / 2);
        let skip = if whole.chars().count() > EXCERPT_WIDTH { skip } else { 0 };
        let excerpt: String = (whole.chars().skip(skip).take(EXCERPT_WIDTH))
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let caret = before - skip;
        let covered = self.text.get(at..boundary_behind(self.text, span.end).max(at)).unwrap_or("");
        let covered = covered.split(['\n', '\r']).next().unwrap_or("").chars().count();
        let width = covered.min(excerpt.chars().count().saturating_sub(caret)).max(1);
        Place { line, column: before + 1, excerpt, caret, width }
    }
}

/// The place itself, or the next one before it, where a character begins or the text ends.
fn boundary_before(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The place itself, or the next one behind it, where a character begins or the text ends.
fn boundary_behind(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}

fn draft(severity: Severity) -> Draft {
    Draft { severity, span: None, message: String::new(), help: None, related: Vec::new() }
}

/// A value of the file, fit for a message: control characters escaped, long ones cut.
pub(crate) fn quote(text: &str) -> String {
    const MOST: usize = 48;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    format!("`{}`", shown.replace("\\\"", "\"").replace("\\'", "'"))
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    (candidates.into_iter().filter(|candidate| candidate.len() <= LONGEST))
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, candidate)| (distance, Reverse(candidate.len())))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_nearby_is_found_and_one_far_away_is_not() {
        let names = ["lan", "wan", "guest"];
        assert_eq!(nearest("wna", names), Some("wan"));
        assert_eq!(nearest("guests", names), Some("guest"));
        assert_eq!(nearest("LAN", names), Some("lan"));
        assert_eq!(nearest("dmz", names), None);
        assert_eq!(nearest(&"x".repeat(1000), names), None);
    }

    #[test]
    fn a_place_in_a_long_line_of_wide_characters_stays_under_its_caret() {
        let text = format!("a\n{}X{}", "é".repeat(500), "ü".repeat(500));
        let at = text.find('X').unwrap();
        let place = Sink::new("f", &text).place(&(at..at + 1));
        assert_eq!((place.line, place.column, place.width), (2, 501, 1));
        assert_eq!(place.excerpt.chars().nth(place.caret), Some('X'));
    }

    #[test]
    fn any_span_has_a_place() {
        for text in ["", "\n", "é", "a\r\nb"] {
            for start in 0..6 {
                for end in 0..6 {
                    let place = Sink::new("f", text).place(&(start..end));
                    assert!(place.line >= 1 && place.width >= 1);
                }
            }
        }
    }

    #[test]
    fn diagnostics_beyond_the_limit_are_counted() {
        let mut sink = Sink::new("f", "x");
        for _ in 0..150 {
            sink.error(&(0..1), "wrong").help("right");
        }
        let report = sink.finish();
        assert_eq!((report.errors, report.diagnostics.len()), (150, MAX_DIAGNOSTICS));
        assert!(report.to_string().ends_with("150 errors (50 not shown)\n"));
    }
}
