//! Settings that must be in their ranges.

use millstream_engine::catalogue::{Planned, Problem, Problems};

/// Collects what is out of range, so that all problems are found at once.
#[derive(Default)]
pub(super) struct Ranges(Problems);

impl Ranges {
    /// Notes a setting that is not between two numbers, both included.
    pub(super) fn within(mut self, path: &str, value: f64, low: f64, high: f64) -> Self {
        if !(low..=high).contains(&value) {
            let message = format!("{value} is not between {low} and {high}");
            self.0.push(Problem::new(path, "out-of-range", message));
        }
        self
    }

    /// Fails if any setting was out of range.
    pub(super) fn finish(self) -> Planned<()> {
        self.0.finish()
    }
}
