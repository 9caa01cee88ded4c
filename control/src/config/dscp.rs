//! Code points, and what limits have meters for each of, as people write them.

use toml::de::DeValue;

use super::model::Per;
use super::reader::text_or_number;
use super::report::quote;
use super::units::Wrong;

/// Prefix lengths of a source or destination that does not say them: an IPv4 address, and what a host of IPv6 has at least.
const LENGTHS: [u8; 2] = [32, 64];

/// A differentiated services code point: a name such as `af11`, `ef`, `cs3`, or a number from 0 to 63.
pub(crate) fn code_point(value: &DeValue<'_>) -> Result<u8, Wrong> {
    text_or_number(parse)(value)
}

fn parse(text: &str) -> Result<u8, Wrong> {
    let code = match text {
        // RFC 2474, 8622, 5865, 3246.
        "be" => Some(0),
        "le" => Some(1),
        "va" => Some(44),
        "ef" => Some(46),
        _ => number(text).or_else(|| class(text)),
    };
    let help = "a name such as \"af12\", \"cs1\", \"ef\", \"be\" or \"le\", or a number from 0 to 63";
    code.ok_or_else(|| Wrong::new(format!("{} is not a code point", quote(text))).help(help))
}

fn number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|code| *code < 64 && !text.starts_with('+'))
}

/// `cs0` to `cs7` (RFC 2474), `af11` to `af43` (RFC 2597).
fn class(text: &str) -> Option<u8> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
    match *text.as_bytes() {
        [b'c', b's', class] => digit(class).filter(|class| *class < 8).map(|class| class << 3),
        [b'a', b'f', class, precedence] => {
            let (class, precedence) = (digit(class)?, digit(precedence)?);
            ((1..=4).contains(&class) && (1..=3).contains(&precedence))
                .then_some(class << 3 | precedence << 1)
        }
        _ => None,
    }
}

/// `source`, `destination`, either with prefix lengths (`source/24`, `source/64`, `source/24/64`), or `flow`. A single
/// length over 32 is that of IPv6.
pub(crate) fn per(text: &str) -> Result<Per, Wrong> {
    let help = "\"source\", \"destination\" or \"flow\"; of the first two a prefix, such as \"source/24\" of IPv4, \"source/56\" of IPv6, or \"source/24/56\"";
    let wrong = || Wrong::new(format!("{} is nothing to have a meter for each of", quote(text))).help(help);
    let (word, lengths) = text.split_once('/').map_or((text, None), |(word, rest)| (word, Some(rest)));
    let lengths = match lengths {
        None => LENGTHS,
        Some(lengths) => self::lengths(lengths).ok_or_else(wrong)?,
    };
    match word {
        "source" => Ok(Per::Source(lengths)),
        "destination" => Ok(Per::Destination(lengths)),
        "flow" if text == word => Ok(Per::Flow),
        _ => Err(wrong()),
    }
}

fn lengths(text: &str) -> Option<[u8; 2]> {
    let length = |text: &str, most: u8| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|length| digits && (1..=most).contains(length))
    };
    match text.split_once('/') {
        Some((v4, v6)) => Some([length(v4, 32)?, length(v6, 128)?]),
        None => match length(text, 128)? {
            v6 @ 33.. => Some([LENGTHS[0], v6]),
            v4 => Some([v4, LENGTHS[1]]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_have_names() {
        for (text, code) in [
            ("be", 0),
            ("cs0", 0),
            ("cs7", 56),
            ("af11", 10),
            ("af12", 12),
            ("af43", 38),
            ("ef", 46),
            ("63", 63),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(code), "{text}");
        }
        for text in ["", "64", "-1", "+1", "af10", "af14", "af51", "af1", "cs8", "cs", "EF", "af111"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn meters_are_for_prefixes() {
        for (text, expected) in [
            ("source", Per::Source([32, 64])),
            ("source/24", Per::Source([24, 64])),
            ("destination/56", Per::Destination([32, 56])),
            ("source/16/128", Per::Source([16, 128])),
            ("flow", Per::Flow),
        ] {
            assert_eq!(per(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "source/",
            "source/0",
            "source/129",
            "source/33/64",
            "source/24/64/1",
            "flow/24",
            "port",
            "source/+1",
        ] {
            assert!(per(text).is_err(), "{text}");
        }
    }
}
