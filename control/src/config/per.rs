//! What limits have meters for each of, as people write it.

use super::model::Per;
use super::report::quote;
use super::units::Wrong;

/// Prefix lengths of a source or destination that does not say them: an IPv4 address, and what a host of IPv6 has at least.
const LENGTHS: [u8; 2] = [32, 64];

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
