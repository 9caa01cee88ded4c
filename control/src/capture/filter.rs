//! The match language: `udp port 53 and not (src net 10.0.0.0/8 or in lan)`. Its words are those of pcap-filter(7), as far as
//! they go, with our interfaces' names.

use std::net::IpAddr;
use std::ops::Range;

use sluice_dataplane::matcher::{End, Line, MOST, NO, Program, Step, Test, YES};
use sluice_dataplane::snapshot::Snapshot;
use sluice_pkt::parse::L3;

/// How deep parentheses and `not` may be nested.
const DEEPEST: usize = 32;
/// What a condition may begin with.
const WORDS: &str = "ip, ip6, arp, tcp, udp, icmp, icmp6, gre, esp, sctp, proto N, host, net, port, portrange (with src or dst \
                     before them), vlan N, syn, ack, fin, rst, psh, in INTERFACE, out INTERFACE, not, (";
/// Words that are a condition by themselves.
const ALONE: [(&str, Test); 15] = [
    ("ip", Test::Network(L3::Ipv4)),
    ("ip6", Test::Network(L3::Ipv6)),
    ("arp", Test::Network(L3::Arp)),
    ("tcp", Test::Protocol(6)),
    ("udp", Test::Protocol(17)),
    ("icmp", Test::Protocol(1)),
    ("icmp6", Test::Protocol(58)),
    ("gre", Test::Protocol(47)),
    ("esp", Test::Protocol(50)),
    ("sctp", Test::Protocol(132)),
    ("fin", Test::TcpFlags(0x01)),
    ("syn", Test::TcpFlags(0x02)),
    ("rst", Test::TcpFlags(0x04)),
    ("psh", Test::TcpFlags(0x08)),
    ("ack", Test::TcpFlags(0x10)),
];

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Test(Test),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

impl Condition {
    /// Adds its steps to a program that is written from its end to its beginning. Returns the place of the first one, counted
    /// from the end.
    fn write(&self, yes: u8, no: u8, steps: &mut Vec<Step>) -> u8 {
        match self {
            Self::Test(test) => {
                steps.push(Step { test: *test, yes, no });
                // More than fit are refused in the end.
                (steps.len() - 1).min(usize::from(u8::MAX / 2)) as u8
            }
            Self::Not(inner) => inner.write(no, yes, steps),
            Self::And(left, right) => {
                let next = right.write(yes, no, steps);
                left.write(next, no, steps)
            }
            Self::Or(left, right) => {
                let next = right.write(yes, no, steps);
                left.write(yes, next, steps)
            }
        }
    }

    fn program(&self) -> Option<Program> {
        let mut steps = Vec::new();
        self.write(YES, NO, &mut steps);
        let len = steps.len();
        if len > MOST {
            return None;
        }
        let turned = |to: u8| if to >= YES { to } else { len as u8 - 1 - to };
        Program::new(
            steps
                .into_iter()
                .rev()
                .map(|step| Step { yes: turned(step.yes), no: turned(step.no), ..step })
                .collect(),
        )
    }
}

struct Reader<'a> {
    text: &'a str,
    words: Vec<Range<usize>>,
    at: usize,
    depth: usize,
    snapshot: &'a Snapshot,
}

/// Reads which packets are wanted. No words want all.
///
/// # Errors
/// What is wrong, with the place marked.
pub fn parse(text: &str, snapshot: &Snapshot) -> Result<Program, String> {
    let mut reader = Reader { text, words: split(text), at: 0, depth: 0, snapshot };
    if reader.words.is_empty() {
        return Ok(Program::default());
    }
    let condition = reader.any()?;
    if reader.next().is_some() {
        return Err(reader.wrong("here `and`, `or` or the end is expected"));
    }
    condition.program().ok_or_else(|| format!("there are more than {MOST} conditions"))
}

/// Words, and parentheses each by itself.
fn split(text: &str) -> Vec<Range<usize>> {
    let (mut words, mut from) = (Vec::new(), None);
    for (at, c) in text.char_indices() {
        let is_word = !c.is_whitespace() && c != '(' && c != ')';
        match (is_word, from) {
            (false, Some(start)) => {
                words.push(start..at);
                from = None;
            }
            (true, None) => from = Some(at),
            _ => {}
        }
        if c == '(' || c == ')' {
            words.push(at..at + 1);
        }
    }
    words.extend(from.map(|start| start..text.len()));
    words
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.text.get(self.words.get(self.at)?.clone())
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.at += 1;
        word
    }

    /// What is wrong with the word that was read last, or that there is none.
    fn wrong(&self, what: &str) -> String {
        let end = self.text.trim_end().len();
        let place = self.words.get(self.at.saturating_sub(1)).cloned().unwrap_or(end + 1..end + 2);
        let before = self.text.get(..place.start).map_or(place.start, |before| before.chars().count());
        let width = self.text.get(place).map_or(1, |word| word.chars().count());
        let text = self.text.replace(char::is_whitespace, " ");
        format!("{what}\n  {text}\n  {}{}", " ".repeat(before), "^".repeat(width.max(1)))
    }

    fn any(&mut self) -> Result<Condition, String> {
        let mut left = self.all()?;
        while self.peek() == Some("or") {
            self.at += 1;
            left = Condition::Or(Box::new(left), Box::new(self.all()?));
        }
        Ok(left)
    }

    /// As in pcap-filter, `udp port 53` is `udp and port 53`.
    fn all(&mut self) -> Result<Condition, String> {
        let mut left = self.one()?;
        loop {
            match self.peek() {
                None | Some("or" | ")") => return Ok(left),
                Some("and") => self.at += 1,
                Some(_) => {}
            }
            left = Condition::And(Box::new(left), Box::new(self.one()?));
        }
    }

    fn one(&mut self) -> Result<Condition, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            self.at += 1;
            return Err(self.wrong("this is nested too deeply"));
        }
        let condition = match self.next() {
            Some("not" | "!") => Condition::Not(Box::new(self.one()?)),
            Some("(") => {
                let inner = self.any()?;
                if self.next() != Some(")") {
                    return Err(self.wrong("`)` is missing"));
                }
                inner
            }
            word => Condition::Test(self.test(word)?),
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn test(&mut self, word: Option<&'a str>) -> Result<Test, String> {
        let Some(word) = word else { return Err(self.wrong(&format!("a condition is missing: {WORDS}"))) };
        if let Some((_, test)) = ALONE.iter().find(|(name, _)| *name == word) {
            return Ok(*test);
        }
        Ok(match word {
            "src" => return self.of(End::Source),
            "dst" => return self.of(End::Destination),
            "host" | "net" | "port" | "portrange" => {
                self.at -= 1;
                return self.of(End::Either);
            }
            "proto" => Test::Protocol(self.number(u8::MAX.into())? as u8),
            "vlan" => Test::Vlan(self.number(4094)?),
            "in" => Test::In(self.line()?),
            "out" => Test::Out(self.line()?),
            _ => return Err(self.wrong(&format!("a condition is one of: {WORDS}"))),
        })
    }

    /// `host`, `net`, `port` and `portrange`; an address alone is a host.
    fn of(&mut self, end: End) -> Result<Test, String> {
        match self.next() {
            Some("host") => {
                let word = self.next();
                self.host(end, word)
            }
            Some("net") => self.net(end),
            Some("port") => self.number(u16::MAX).map(|port| Test::Ports(end, port, port)),
            Some("portrange") => {
                let word = self.next().and_then(|word| word.split_once('-'));
                let range = word.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
                let range = range.filter(|(first, last)| first <= last);
                let (first, last) =
                    range.ok_or_else(|| self.wrong("here a range of ports is expected: 5000-5010"))?;
                Ok(Test::Ports(end, first, last))
            }
            word => self.host(end, word),
        }
    }

    fn host(&self, end: End, word: Option<&str>) -> Result<Test, String> {
        match word.and_then(|word| word.parse().ok()) {
            Some(IpAddr::V4(address)) => Ok(Test::Net4(end, address.to_bits(), u32::MAX)),
            Some(IpAddr::V6(address)) => Ok(Test::Net6(end, address.to_bits(), u128::MAX)),
            None => Err(self.wrong("here an address is expected: 192.0.2.1 or 2001:db8::1")),
        }
    }

    fn net(&mut self, end: End) -> Result<Test, String> {
        let word = self.next().and_then(|word| word.split_once('/'));
        let parts = word.and_then(|(address, len)| Some((address.parse().ok()?, len.parse::<u32>().ok()?)));
        match parts {
            Some((IpAddr::V4(address), len @ 0..=32)) => {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                Ok(Test::Net4(end, address.to_bits() & mask, mask))
            }
            Some((IpAddr::V6(address), len @ 0..=128)) => {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                Ok(Test::Net6(end, address.to_bits() & mask, mask))
            }
            _ => Err(self.wrong("here a prefix is expected: 192.0.2.0/24 or 2001:db8::/32")),
        }
    }

    fn number(&mut self, most: u16) -> Result<u16, String> {
        let number = self.next().and_then(|word| word.parse().ok()).filter(|number| *number <= most);
        number.ok_or_else(|| self.wrong(&format!("here a number up to {most} is expected")))
    }

    fn line(&mut self) -> Result<Line, String> {
        let name = self.next();
        let mut all = self.snapshot.interfaces.iter();
        let interface = all.find(|interface| Some(interface.name.as_str()) == name).ok_or_else(|| {
            let names: Vec<_> = self.snapshot.interfaces.iter().map(|i| i.name.as_str()).collect();
            self.wrong(&format!("here an interface is expected: {}", names.join(", ")))
        })?;
        Ok(Line { port: interface.port, tags: interface.tags.count, ids: interface.tags.ids })
    }
}

#[cfg(test)]
mod tests;
