//! Differentiated services code points by name and number.

use super::net::decimal;
use super::report::{nearest, quote};
use super::units::Wrong;

/// Names of the IANA registry, with their values.
const NAMES: [(&str, u8); 24] = [
    ("cs0", 0),
    ("be", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// A code point: `ef`, `af41`, `cs1`, or a number from 0 to 63.
pub(crate) fn code_point(text: &str) -> Result<u8, Wrong> {
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|&(_, value)| value);
    named.or_else(|| decimal(text).filter(|&number: &u8| number < 64)).ok_or_else(|| {
        let wrong = Wrong::new(format!("{} is not a code point", quote(text)));
        match nearest(text, NAMES.iter().map(|(name, _)| *name)) {
            Some(name) => wrong.help(format!("did you mean \"{name}\"?")),
            None => wrong.help("such as \"ef\", \"af41\", \"cs1\", or a number from 0 to 63"),
        }
    })
}

/// What packets are marked with: a code point, or `clear` for 0.
pub(crate) fn mark(text: &str) -> Result<u8, Wrong> {
    if text == "clear" { Ok(0) } else { code_point(text) }
}

/// The name of a code point, or its number.
pub fn code_point_name(value: u8) -> String {
    let name = NAMES.iter().find(|(_, number)| *number == value).map(|(name, _)| (*name).to_owned());
    name.unwrap_or_else(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_have_names_and_numbers() {
        for (text, value) in [("ef", 46), ("af41", 34), ("cs6", 48), ("0", 0), ("63", 63), ("le", 1)] {
            assert_eq!(code_point(text), Ok(value));
            assert_eq!(code_point(&code_point_name(value)), Ok(value));
        }
        assert_eq!((mark("clear"), mark("ef")), (Ok(0), Ok(46)));
        for text in ["", "64", "EF", "af44", "clear", "-1"] {
            assert!(code_point(text).is_err(), "{text}");
        }
    }

    #[test]
    fn assured_forwarding_is_class_and_drop_precedence() {
        for (name, value) in NAMES.iter().filter(|(name, _)| name.starts_with("af")) {
            let digits: Vec<u8> = name.bytes().skip(2).map(|digit| digit - b'0').collect();
            assert_eq!(*value, digits[0] * 8 + digits[1] * 2);
        }
    }
}
