//! Stands in for `cuda.rs` where tests run on candle's processor: what was recorded is computed again.

use candle_core::{CudaStorage, Device as Place, Layout, Result};

use super::optimizer::{Rule, Step};

/// Never called.
pub(super) fn overwrite(_: &mut CudaStorage, _: &Layout, _: &[f32]) -> Result<()> {
    candle_core::bail!("this program was built without CUDA")
}

/// Never called.
pub(super) fn step(
    _: (&mut CudaStorage, &Layout),
    _: (&CudaStorage, &Layout),
    _: usize,
    _: &Rule,
    _: Step,
    _: f32,
) -> Result<()> {
    candle_core::bail!("this program was built without CUDA")
}

/// What is made anew each time.
pub(super) struct Launches;

impl Launches {
    pub(super) fn record<T>(_: &Place, make: impl FnOnce() -> Result<T>) -> Result<Option<(Self, T)>> {
        Ok(Some((Self, make()?)))
    }

    pub(super) fn repeat<T>(&mut self, made: &mut T, make: impl FnOnce() -> Result<T>) -> Result<()> {
        let Self = self;
        *made = make()?;
        Ok(())
    }
}

pub(super) fn keep_sizes(_: &Place) {}
