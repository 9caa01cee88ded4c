//! What the pipeline's fuzz target is made of: a configuration with everything in it, and packets that mean something.

mod packet;

pub use packet::{Packet, answer, bend, mend, transport_is_right};

/// A gateway with every stage in use, small tables, and a tight uplink.
pub const CONFIG: &str = include_str!("gateway.toml");

/// Takes choices out of the fuzzer's bytes; when they are used up, every choice is 0.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// Whether any are left.
    pub fn more(&self) -> bool {
        !self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }
}
