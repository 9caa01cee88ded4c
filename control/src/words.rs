//! A packet in words: its fields by name, a line that sums it up, and how one packet differs from another.
//!
//! It is for people who read a trace or the difference between two captures, not for the packet path: it allocates, and
//! decodes with `etherparse`, so that what it says does not rest on the parser that is under test.

use std::fmt;

mod decode;
mod names;

/// One field of a packet. Fields of a packet that an ICMP error quotes begin with `quoted.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, such as `ipv4.ttl`; unique within the packet.
    pub name: String,
    /// What it says. A checksum says whether it is right, if the bytes that it covers are all there.
    pub value: String,
    /// The bytes, where the field is nothing but bytes (a payload, options).
    raw: Option<&'a [u8]>,
}

/// A decoded frame.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    /// One line: `tcp 192.0.2.1:1234 > 198.51.100.7:80 SYN ttl 63 len 60`, where `len` is the IP packet's length.
    pub summary: String,
    /// Every field, in the order in which they stand in the frame.
    pub fields: Vec<Field<'a>>,
}

/// Decodes an Ethernet frame. Nothing is refused: where decoding fails there is a field `malformed`, and the bytes
/// from there on are payload.
pub fn describe(frame: &[u8]) -> Words<'_> {
    decode::ethernet(frame)
}

/// The line that sums a frame up; see [`Words::summary`].
pub fn summary(frame: &[u8]) -> String {
    describe(frame).summary
}

/// A field in which two packets differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDifference {
    /// Its name.
    pub field: String,
    /// Its value in the packet that was expected; `None` if it has no such field.
    pub expected: Option<String>,
    /// Its value in the packet that was found.
    pub got: Option<String>,
}

impl fmt::Display for FieldDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, expected, got } = self;
        let [expected, got] = [expected, got].map(|value| value.as_deref().unwrap_or("no such field"));
        write!(f, "{field}: expected {expected}, got {got}")
    }
}

/// The fields in which two frames differ, in the order of the expected one; none if and only if they are the same
/// bytes. A checksum that is right in both is left out where it only follows from another difference.
pub fn diff(expected: &[u8], got: &[u8]) -> Vec<FieldDifference> {
    if expected == got {
        return Vec::new();
    }
    let (ours, theirs) = (describe(expected), describe(got));
    let mut differences = Vec::new();
    let mut right_in_both = Vec::new();
    for field in &ours.fields {
        let other = theirs.fields.iter().find(|other| other.name == field.name);
        let both_right = other.is_some_and(|other| [field, other].iter().all(|f| f.value.ends_with(RIGHT)));
        match other {
            Some(other) if other == field => {}
            _ if both_right => right_in_both.extend(difference(Some(field), other)),
            _ => differences.extend(difference(Some(field), other)),
        }
    }
    for field in &theirs.fields {
        if ours.fields.iter().all(|other| other.name != field.name) {
            differences.extend(difference(None, Some(field)));
        }
    }
    if differences.is_empty() {
        differences = right_in_both;
    }
    if differences.is_empty() {
        // A bit that no field shows, such as one that is reserved.
        let (expected, got) = first_difference(expected, got);
        differences.push(FieldDifference {
            field: "frame".to_owned(),
            expected: Some(expected),
            got: Some(got),
        });
    }
    differences
}

const RIGHT: &str = "(right)";
/// Bytes of a payload that a field's value shows.
const SHOWN: usize = 16;

fn difference(expected: Option<&Field<'_>>, got: Option<&Field<'_>>) -> Option<FieldDifference> {
    let field = expected.or(got)?.name.clone();
    let (expected, got) = match (expected, got) {
        (Some(&Field { raw: Some(ours), .. }), Some(&Field { raw: Some(theirs), .. })) => {
            let (ours, theirs) = first_difference(ours, theirs);
            (Some(ours), Some(theirs))
        }
        _ => (expected.map(|field| field.value.clone()), got.map(|field| field.value.clone())),
    };
    Some(FieldDifference { field, expected, got })
}

/// Two runs of bytes where they begin to differ.
fn first_difference(expected: &[u8], got: &[u8]) -> (String, String) {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let show = |bytes: &[u8]| match bytes.get(at..) {
        Some(rest) if !rest.is_empty() => {
            format!("{} at byte {at} of {}", hex(rest, 8), bytes.len())
        }
        _ => format!("the end after {} bytes", bytes.len()),
    };
    (show(expected), show(got))
}

/// The first bytes in hexadecimal.
fn hex(bytes: &[u8], most: usize) -> String {
    let mut text: Vec<String> = bytes.iter().take(most).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > most {
        text.push("…".to_owned());
    }
    text.join(" ")
}

#[cfg(test)]
mod tests;
