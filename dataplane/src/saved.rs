//! A worker's state as bytes, for the process that takes its place (`sluice upgrade`).
//!
//! Both processes may be of different versions, so nothing here is a copy of memory. A state is a list of sections, a section a
//! list of records, and a record begins with its length: what a reader does not know is passed over, and what a record of an
//! older writer does not have is zero. So fields and sections may be added without a new [`VERSION`]; it changes when the
//! meaning of what is there does.

mod figures;
mod shard;

pub use self::shard::{Restored, restore, save};

/// The meaning of what is in a state.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"sluice-s";
/// Bytes of a section's head: tag, and bytes of its records.
const HEAD: usize = 12;

/// Why a state cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is none.
    #[error("it is no state of a worker")]
    NoState,
    /// It is of another version.
    #[error("the state is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// It ends too soon.
    #[error("the state is cut off")]
    CutOff,
    /// It is of another configuration.
    #[error("the state is of other {0}")]
    Other(&'static str),
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    /// The names of ports and interfaces, in their order, by which all others name them.
    Places = 1,
    /// Counters with a name, ports and drop reasons included.
    Counters = 2,
    /// Hits by rule.
    Rules = 3,
    /// Limits: what they counted, and their buckets.
    Limits = 4,
    /// Neighbours.
    Neighbors = 5,
    /// What NAT has beside what follows.
    Nat = 6,
    /// Accounts of inside addresses.
    Accounts = 7,
    /// Blocks of ports that are taken.
    Blocks = 8,
    /// NAT bindings.
    Bindings = 9,
    /// Leases of bindings.
    Leases = 10,
    /// External ports that rest.
    Resting = 11,
    /// Sessions with their flows.
    Sessions = 12,
    /// By port, what is lent to the kernel.
    Ports = 13,
    /// Frames that wait.
    Frames = 14,
}

/// A state that is being written.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Where the head of the section under way lies.
    section: Option<usize>,
}

impl Default for Writer {
    fn default() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        Self { bytes, section: None }
    }
}

impl Writer {
    /// Begins a section; the records that follow are its.
    pub fn section(&mut self, tag: Tag) {
        self.end_section();
        self.section = Some(self.bytes.len());
        self.bytes.extend((tag as u32).to_le_bytes());
        self.bytes.extend([0; 8]);
    }

    fn end_section(&mut self) {
        if let Some(head) = self.section.take() {
            let length = (self.bytes.len() - head - HEAD) as u64;
            if let Some(place) = self.bytes.get_mut(head + 4..head + HEAD) {
                place.copy_from_slice(&length.to_le_bytes());
            }
        }
    }

    /// Adds a record, whose fields `fill` puts in one after the other.
    #[inline]
    pub fn record(&mut self, fill: impl FnOnce(&mut Fields<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        fill(&mut Fields(&mut self.bytes));
        let length = (self.bytes.len() - start - 4) as u32;
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// All of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_section();
        self.bytes
    }
}

/// The fields of a record that is being written.
#[derive(Debug)]
pub struct Fields<'a>(&'a mut Vec<u8>);

macro_rules! numbers {
    ($($name:ident)*) => {
        impl Fields<'_> {
            $(/// A number.
            #[inline]
            pub fn $name(&mut self, value: $name) -> &mut Self {
                self.0.extend(value.to_le_bytes());
                self
            })*
        }

        impl Record<'_> {
            $(/// The next field, a number; 0 if the record has no more.
            #[inline]
            pub fn $name(&mut self) -> $name {
                let Some((bytes, rest)) = self.0.split_first_chunk() else {
                    self.0 = &[];
                    return 0;
                };
                self.0 = rest;
                $name::from_le_bytes(*bytes)
            })*
        }
    };
}

numbers!(u8 u16 u32 u64 u128);

impl<'a> Fields<'a> {
    /// To be appended to these bytes.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Bytes, whose number is told.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        self.0.extend(value);
        self
    }
}

/// A record that is being read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field, bytes; none if the record has no more.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.u32() as usize;
        let (bytes, rest) = self.0.split_at_checked(length).unwrap_or((self.0, &[]));
        self.0 = rest;
        bytes
    }

    /// The next field, a text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// Whether there are no more fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A state to be read, whose lengths have all been checked.
#[derive(Clone, Debug)]
pub struct Saved<'a> {
    sections: Vec<(u32, &'a [u8])>,
}

impl<'a> Saved<'a> {
    /// Of these bytes.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(Unreadable::NoState)?;
        let (version, mut rest) = rest.split_first_chunk().ok_or(Unreadable::CutOff)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let mut sections = Vec::new();
        while !rest.is_empty() {
            let mut head = Record(rest.get(..HEAD).ok_or(Unreadable::CutOff)?);
            let (tag, length) = (head.u32(), usize::try_from(head.u64()).unwrap_or(usize::MAX));
            let (section, after) =
                rest.get(HEAD..).and_then(|rest| rest.split_at_checked(length)).ok_or(Unreadable::CutOff)?;
            sections.push((tag, section));
            rest = after;
        }
        let saved = Self { sections };
        let is_whole = |section: &[u8]| {
            let mut records = Records(section);
            records.by_ref().for_each(drop);
            records.0.is_empty()
        };
        if saved.sections.iter().all(|(_, section)| is_whole(section)) {
            Ok(saved)
        } else {
            Err(Unreadable::CutOff)
        }
    }

    /// The records of a section, in their order; none if there is no such section.
    pub fn section(&self, tag: Tag) -> Records<'a> {
        let found = self.sections.iter().find(|(other, _)| *other == tag as u32);
        Records(found.map_or(&[], |(_, section)| section))
    }
}

/// The records of a section.
#[derive(Clone, Debug)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(Record(record))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_added_is_passed_over_and_what_is_missing_is_zero() {
        let mut writer = Writer::default();
        writer.section(Tag::Sessions);
        writer.record(|fields| _ = fields.u8(7).bytes(b"name").u128(9));
        writer.record(|fields| _ = fields.u8(8));
        writer.section(Tag::Nat);
        let bytes = writer.finish();
        let saved = Saved::new(&bytes).unwrap();
        let mut records = saved.section(Tag::Sessions);
        let mut first = records.next().unwrap();
        assert_eq!((first.u8(), first.bytes()), (7, b"name".as_slice()));
        assert!(!first.is_empty());
        let mut second = records.next().unwrap();
        assert_eq!((second.u8(), second.bytes(), second.u64(), second.is_empty()), (8, &[][..], 0, true));
        assert!(records.next().is_none() && saved.section(Tag::Nat).next().is_none());
        assert!(saved.section(Tag::Leases).next().is_none());
    }

    #[test]
    fn another_version_and_no_state_are_refused() {
        let bytes = Writer::default().finish();
        let mut other = bytes.clone();
        other[8] = 9;
        assert_eq!(Saved::new(&other).unwrap_err(), Unreadable::Version(9));
        assert_eq!(Saved::new(b"something").unwrap_err(), Unreadable::NoState);
        assert_eq!(Saved::new(&bytes[..10]).unwrap_err(), Unreadable::CutOff);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_state_cut_off_anywhere_is_refused(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..10), cut in any::<usize>(),
        ) {
            let mut writer = Writer::default();
            writer.section(Tag::Sessions);
            for record in &records {
                writer.record(|fields| _ = fields.bytes(record));
            }
            let bytes = writer.finish();
            let saved = Saved::new(&bytes).unwrap();
            let read: Vec<_> = saved.section(Tag::Sessions).map(|mut record| record.bytes().to_vec()).collect();
            prop_assert_eq!(read, records);
            let cut = cut % bytes.len();
            // Without any section it is a state, too.
            prop_assert!(cut == MAGIC.len() + 4 || Saved::new(&bytes[..cut]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut state = Writer::default().finish();
            state.append(&mut bytes);
            if let Ok(saved) = Saved::new(&state) {
                for record in saved.section(Tag::Places) {
                    let mut record = record;
                    while !record.is_empty() {
                        record.bytes();
                    }
                }
            }
        }
    }
}
