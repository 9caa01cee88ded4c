//! A hook around each stage, and for each burst, for whoever wants to know what they cost.

/// Is called for each stage of each burst, and runs it. [`()`](unit) does nothing else, and compiles to nothing.
pub trait Probe {
    /// Runs a stage.
    #[inline(always)]
    fn stage<R>(&mut self, _name: &'static str, stage: impl FnOnce() -> R) -> R {
        stage()
    }

    /// A port gave so many packets at once.
    #[inline(always)]
    fn burst(&mut self, _packets: usize) {}
}

impl Probe for () {}
