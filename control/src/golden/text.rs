//! The text of a `packets.txt`: words with their place, definitions, ranges, and errors that point at line and column.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where a text is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// A word, a mark (`/ | [ ] > =`), or a text in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) quoted: bool,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Token {
    pub(super) fn error(&self, message: impl Into<String>) -> TextError {
        TextError { line: self.line, column: self.column, message: message.into() }
    }

    fn is(&self, mark: &str) -> bool {
        !self.quoted && self.text == mark
    }

    /// `A..B`, both inclusive.
    fn range(&self) -> Result<Option<(u64, u64)>, TextError> {
        let numeric = !self.quoted && self.text.starts_with(|c: char| c.is_ascii_digit());
        let Some((first, last)) = self.text.split_once("..").filter(|_| numeric) else { return Ok(None) };
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last && last - first < 1_000_000 => Ok(Some((first, last))),
            _ => Err(self.error(format!("`{}` is no range of at most a million numbers", self.text))),
        }
    }
}

/// Splits a text into statements: a line, and the lines behind it that begin with a blank. Definitions
/// (`name = words`) are taken out, and `$name` is replaced by its words.
pub(super) fn statements(text: &str) -> Result<Vec<Vec<Token>>, TextError> {
    let mut statements: Vec<Vec<Token>> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let tokens = tokens(number + 1, line)?;
        match (line.starts_with([' ', '\t']), statements.last_mut(), tokens.first()) {
            (_, _, None) => {}
            (true, Some(statement), _) => statement.extend(tokens),
            (true, None, Some(first)) => return Err(first.error("nothing stands before this continued line")),
            (false, _, _) => statements.push(tokens),
        }
    }
    let mut definitions = HashMap::new();
    let mut expanded = Vec::new();
    for statement in statements {
        match statement.as_slice() {
            [name, mark, words @ ..] if mark.is("=") => {
                definitions.insert(name.text.clone(), expand(words, &definitions)?);
            }
            words => expanded.push(expand(words, &definitions)?),
        }
    }
    Ok(expanded)
}

fn expand(words: &[Token], definitions: &HashMap<String, Vec<Token>>) -> Result<Vec<Token>, TextError> {
    let mut expanded = Vec::new();
    for word in words {
        match word.text.strip_prefix('$').filter(|_| !word.quoted) {
            None => expanded.push(word.clone()),
            Some(name) => match definitions.get(name) {
                Some(words) => expanded.extend_from_slice(words),
                None => return Err(word.error(format!("`{name}` is not defined above"))),
            },
        }
        if expanded.len() > 10_000 {
            return Err(word.error("a packet of more than 10,000 words"));
        }
    }
    Ok(expanded)
}

/// The statements that a statement with ranges stands for: one for each value, all ranges in step.
pub(super) fn unroll(statement: &[Token]) -> Result<Vec<Vec<Token>>, TextError> {
    let mut count = None;
    for token in statement {
        let Some((first, last)) = token.range()? else { continue };
        match count {
            Some(count) if count != last - first + 1 => {
                return Err(
                    token.error(format!("the line's first range has {count} values, this one another count"))
                );
            }
            _ => count = Some(last - first + 1),
        }
    }
    let nth = |token: &Token, n: u64| {
        let mut token = token.clone();
        if let Ok(Some((first, _))) = token.range() {
            token.text = (first + n).to_string();
        }
        token
    };
    Ok((0..count.unwrap_or(1)).map(|n| statement.iter().map(|token| nth(token, n)).collect()).collect())
}

fn tokens(line: usize, text: &str) -> Result<Vec<Token>, TextError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut chars = text.chars().enumerate().map(|(at, c)| (at + 1, c)).peekable();
    while let Some((column, c)) = chars.next() {
        let mut token = Token { text: c.to_string(), quoted: false, line, column };
        match c {
            '#' => break,
            _ if c.is_whitespace() => continue,
            '/' | '|' | '[' | ']' | '>' | '=' => {}
            '"' => {
                token.text.clear();
                token.quoted = true;
                loop {
                    match chars.next() {
                        None => return Err(token.error("this text has no closing quote")),
                        Some((_, '"')) => break,
                        Some((column, '\\')) => token.text.push(match chars.next() {
                            Some((_, 'n')) => '\n',
                            Some((_, 'r')) => '\r',
                            Some((_, c @ ('"' | '\\'))) => c,
                            _ => {
                                let place = Token { column, ..token };
                                return Err(place.error(r#"known escapes are \n, \r, \" and \\"#));
                            }
                        }),
                        Some((_, c)) => token.text.push(c),
                    }
                }
            }
            _ => {
                while let Some((_, c)) = chars.next_if(|&(_, c)| {
                    !c.is_whitespace() && !matches!(c, '/' | '|' | '[' | ']' | '>' | '=' | '"')
                }) {
                    token.text.push(c);
                }
            }
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Walks over a statement's words.
pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: &'a [Token]) -> Self {
        Self { tokens, at: 0 }
    }

    /// An error at the next word, or behind the last.
    pub(super) fn error(&self, message: impl Into<String>) -> TextError {
        match (self.tokens.get(self.at), self.tokens.last()) {
            (Some(token), _) => token.error(message),
            (None, Some(last)) => {
                let column = last.column + last.text.chars().count() + if last.quoted { 2 } else { 0 };
                TextError { column, ..last.error(message) }
            }
            (None, None) => TextError { line: 1, column: 1, message: message.into() },
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(super) fn word(&mut self, what: &str) -> Result<&'a Token, TextError> {
        match self.tokens.get(self.at) {
            Some(token) => {
                self.at += 1;
                Ok(token)
            }
            None => Err(self.error(format!("the line ends where {what} is expected"))),
        }
    }

    /// Whether `mark` is next; passes over it if so.
    pub(super) fn accept(&mut self, mark: &str) -> bool {
        let accepted = self.tokens.get(self.at).is_some_and(|token| token.is(mark));
        self.at += usize::from(accepted);
        accepted
    }

    pub(super) fn expect(&mut self, mark: &str) -> Result<(), TextError> {
        if self.accept(mark) { Ok(()) } else { Err(self.error(format!("`{mark}` is expected here"))) }
    }

    /// The next word within a layer; `None` at its end.
    pub(super) fn field(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.at)?;
        if ["/", "|", "]"].iter().any(|mark| token.is(mark)) {
            return None;
        }
        self.at += 1;
        Some(token)
    }

    /// The next word, if `parse` can make something of it.
    pub(super) fn maybe<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let token = self.tokens.get(self.at).filter(|token| !token.quoted)?;
        let value = parse(&token.text)?;
        self.at += 1;
        Some(value)
    }

    fn value<T>(&mut self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, TextError> {
        let token = self.word(what)?;
        parse(&token.text).ok_or_else(|| token.error(format!("`{}` is not {what}", token.text)))
    }

    /// A number of at most `bits` bits.
    pub(super) fn number(&mut self, bits: u32) -> Result<u32, TextError> {
        let most = u32::MAX >> (32 - bits);
        self.value(&format!("a number from 0 to {most}"), number).and_then(|value| {
            if value <= most {
                return Ok(value);
            }
            self.at -= 1;
            Err(self.error(format!("`{value}` is not a number from 0 to {most}")))
        })
    }

    pub(super) fn mac(&mut self) -> Result<[u8; 6], TextError> {
        self.value("a MAC address", |text| {
            let bytes: Vec<u8> =
                text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<_>>()?;
            bytes.try_into().ok()
        })
    }

    pub(super) fn ipv4(&mut self) -> Result<[u8; 4], TextError> {
        self.value("an IPv4 address", |text| Ipv4Addr::from_str(text).ok().map(|address| address.octets()))
    }

    pub(super) fn ipv6(&mut self) -> Result<[u8; 16], TextError> {
        self.value("an IPv6 address", |text| Ipv6Addr::from_str(text).ok().map(|address| address.octets()))
    }

    pub(super) fn hex(&mut self) -> Result<Vec<u8>, TextError> {
        self.value("bytes in hexadecimal, two digits each", hex)
    }
}

/// A decimal number, or a hexadecimal one behind `0x`.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<Vec<String>> {
        let statements = statements(text).unwrap();
        statements.into_iter().map(|words| words.into_iter().map(|token| token.text).collect()).collect()
    }

    #[test]
    fn lines_continue_and_definitions_are_replaced() {
        let text =
            "# a comment\nto = a > b # another\nboth = [$to]\n\n0 lan $both\n  / \"x \\\"#\\n\" # end\n1 wan";
        let expected = [vec!["0", "lan", "[", "a", ">", "b", "]", "/", "x \"#\n"], vec!["1", "wan"]];
        assert_eq!(texts(text), expected);
    }

    #[test]
    fn ranges_step_together() {
        let statement = statements("0 udp 7..9 > 53 \"1..2\" id 1..3").unwrap().remove(0);
        let unrolled = unroll(&statement).unwrap();
        let ids: Vec<_> =
            unrolled.iter().map(|words| (words[2].text.as_str(), words[7].text.as_str())).collect();
        assert_eq!(ids, [("7", "1"), ("8", "2"), ("9", "3")]);
        let uneven = statements("1..2 1..3").unwrap().remove(0);
        assert_eq!(unroll(&uneven).unwrap_err().column, 6);
        assert!(unroll(&statements("0..99999999").unwrap()[0]).is_err());
        assert!(unroll(&statements("9..1").unwrap()[0]).is_err());
    }

    #[test]
    fn errors_have_a_place() {
        let error = |text| statements(text).unwrap_err().to_string();
        assert_eq!(error("\n0 lan $none"), "line 2, column 7: `none` is not defined above");
        assert_eq!(error(" 0 lan"), "line 1, column 2: nothing stands before this continued line");
        assert_eq!(error("0 \"open"), "line 1, column 3: this text has no closing quote");
        assert_eq!(error(r#"0 "a\x""#), r#"line 1, column 5: known escapes are \n, \r, \" and \\"#);
        let doubling =
            "a = x x x x x x x x x x\n".to_owned() + &"a = $a $a $a $a $a $a $a $a $a $a\n".repeat(9);
        assert!(error(&doubling).contains("10,000 words"));
    }
}
