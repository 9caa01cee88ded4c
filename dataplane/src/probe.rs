//! A hook around each stage, for whoever wants to know what it costs.

/// Is called for each stage of each burst, and runs it. [`()`](unit) does nothing else, and compiles to nothing.
pub trait Probe {
    /// Runs a stage.
    #[inline(always)]
    fn stage<R>(&mut self, _name: &'static str, stage: impl FnOnce() -> R) -> R {
        stage()
    }
}

impl Probe for () {}
