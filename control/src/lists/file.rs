//! Files of prefixes, as published lists are: a prefix or an address a line, comments, blank lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::Prefix;

/// Most prefixes of one file.
const MOST_PREFIXES: usize = 2_000_000;
/// The longest line; anything longer is no prefix.
const LONGEST_LINE: usize = 4096;

/// By what it is known that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let data = std::fs::metadata(path)?;
        let changed = (data.mtime(), data.mtime_nsec());
        Ok(Self { device: data.dev(), inode: data.ino(), size: data.size(), changed })
    }
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) prefixes: Vec<Prefix>,
    /// Lines that are no prefix.
    pub(super) wrong: usize,
    /// The number of the first of them.
    pub(super) first_wrong: Option<usize>,
}

pub(super) fn read(path: &Path) -> Result<Content, String> {
    let file = File::open(path).map_err(|error| format!("cannot read it: {error}"))?;
    parse(BufReader::new(file))
}

/// Reads a list. One in which more lines are wrong than right is none: an error page, most likely.
fn parse(mut text: impl BufRead) -> Result<Content, String> {
    let mut content = Content::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = text.read_until(b'\n', &mut line).map_err(|error| format!("cannot read it: {error}"))?;
        if read == 0 {
            break;
        }
        let words = line.get(..LONGEST_LINE.min(line.len())).unwrap_or_default();
        match prefix_of(&String::from_utf8_lossy(words)) {
            Some(Ok(prefix)) => content.prefixes.push(prefix),
            Some(Err(())) => {
                content.wrong += 1;
                content.first_wrong.get_or_insert(number);
            }
            None => {}
        }
        if content.prefixes.len() > MOST_PREFIXES {
            return Err(format!("it has over {MOST_PREFIXES} prefixes"));
        }
    }
    match content.first_wrong {
        Some(line) if content.wrong > content.prefixes.len() => {
            Err(format!("it is no list of prefixes: see line {line}"))
        }
        _ => Ok(content),
    }
}

/// The prefix that a line begins with; `None` if it has nothing but a comment.
fn prefix_of(line: &str) -> Option<Result<Prefix, ()>> {
    let line = line.trim_start_matches('\u{feff}').trim_start();
    if line.starts_with(['#', ';']) || line.starts_with("//") {
        return None;
    }
    let word = line.split([' ', '\t', '\r', '\n', '#', ';', ',']).next().filter(|word| !word.is_empty())?;
    Some(parse_prefix(word))
}

/// A prefix or an address. Bits beyond the length are ignored, as many lists have some.
pub(super) fn parse_prefix(word: &str) -> Result<Prefix, ()> {
    let (address, length) = word.split_once('/').map_or((word, None), |(a, length)| (a, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| ())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().ok().filter(|length| *length <= most).ok_or(())?
        }
        Some(_) => return Err(()),
        None => most,
    };
    Ok(Prefix { address, length }.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<(Vec<String>, usize), String> {
        let content = parse(text.as_bytes())?;
        Ok((content.prefixes.iter().map(ToString::to_string).collect(), content.wrong))
    }

    #[test]
    fn published_lists_are_read() {
        let text = "\u{feff}; Spamhaus DROP List\n1.10.16.0/20 ; SBL256894\r\n\r\n# a comment\n2.57.122.5\n\
                    2001:db8::/32\t# v6\n// another\n10.1.2.3/8,2026-01-01\n  192.0.2.1";
        let want = ["1.10.16.0/20", "2.57.122.5/32", "2001:db8::/32", "10.0.0.0/8", "192.0.2.1/32"];
        assert_eq!(shown(text), Ok((want.map(str::to_owned).to_vec(), 0)));
        assert_eq!(shown(""), Ok((Vec::new(), 0)));
    }

    #[test]
    fn single_wrong_lines_are_left_out_and_other_files_refused() {
        let text = "1.2.3.0/24\nhello\n1.2.3.4/33\n5.6.7.8\n9.9.9.9\n1.2.3.4/+8\n";
        assert_eq!(shown(text).unwrap().1, 3);
        let page = "<html>\n<body>502 Bad Gateway</body>\n</html>\n";
        assert_eq!(shown(page), Err("it is no list of prefixes: see line 1".into()));
        let long = format!("{}\n1.2.3.4\n", "9".repeat(1_000_000));
        assert_eq!(shown(&long), Ok((vec!["1.2.3.4/32".into()], 1)));
    }
}
