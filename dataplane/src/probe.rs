//! A hook around each stage, and for each burst, for whoever wants to know what they cost.

use crate::burst::Burst;
use crate::stage::FirstPackets;

/// Is called for each stage of each burst, and runs it. [`()`](unit) does nothing else, and compiles to nothing.
pub trait Probe {
    /// Runs a stage.
    #[inline(always)]
    fn stage<R>(&mut self, _name: &'static str, stage: impl FnOnce() -> R) -> R {
        stage()
    }

    /// Runs a stage that is made of several, which are told of themselves.
    #[inline(always)]
    fn around<R>(&mut self, _name: &'static str, stage: impl FnOnce(&mut Self) -> R) -> R
    where
        Self: Sized,
    {
        stage(self)
    }

    /// A stage is through with a burst.
    #[inline(always)]
    fn did(&mut self, _stage: &'static str, _burst: &Burst) {}

    /// A stage of the slow path is through with some packets.
    #[inline(always)]
    fn decided(&mut self, _stage: &'static str, _burst: &Burst, _first: &FirstPackets) {}

    /// A port gave so many packets at once.
    #[inline(always)]
    fn burst(&mut self, _packets: usize) {}
}

impl Probe for () {}
