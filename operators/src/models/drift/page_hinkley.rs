//! The Page-Hinkley test: the mean has moved, when what values lie off it adds up.
//!
//! E. S. Page, "Continuous Inspection Schemes" (Biometrika 41, 1954), as used for streams in Sebastião and Fernandes,
//! "Supporting the Page-Hinkley Test with Empirical Mode Decomposition for Change Detection" (2017): both directions, sums that fade.

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, Mean, VALUE_MAX, Watcher, within};

/// The Page-Hinkley test.
pub static KIND: DetectorKind = Kind {
    name: "page_hinkley",
    about: "The mean has moved: how far values lie off it adds up to more than a threshold.\n\n\
            Page's test of 1954, in both directions. Takes any numbers; `delta` and `threshold` are in their units, and the defaults are meant for \
            numbers about as large as 1. Does not warn.",
    schema: schema_of::<Config>,
    example: "threshold: 30",
    plan,
};

/// Which way a mean moves.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It has grown.
    Up,
    /// It has fallen.
    Down,
    /// Either.
    #[default]
    Both,
}

/// Settings of the Page-Hinkley test.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many values there must be before a change can be found; at least 1.
    warm_up: u64,
    /// How far off the mean is no change, in the values' unit; from 0 to 1e100.
    delta: f64,
    /// How much adds up before it is a change, in the values' unit; above 0, at most 1e100.
    threshold: f64,
    /// What part of the sums each value leaves; above 0, at most 1.
    fading: f64,
    /// Which way the mean moves: `up`, `down`, or `both`.
    direction: Direction,
}

impl Default for Config {
    fn default() -> Self {
        Self { warm_up: 30, delta: 0.005, threshold: 50.0, fading: 0.9999, direction: Direction::Both }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        within(&mut problems, "warm_up", self.warm_up as f64, 1.0, 1e15);
        within(&mut problems, "delta", self.delta, 0.0, VALUE_MAX);
        within(&mut problems, "threshold", self.threshold, f64::MIN_POSITIVE, VALUE_MAX);
        within(&mut problems, "fading", self.fading, f64::MIN_POSITIVE, 1.0);
        problems.finish()
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    config.check()?;
    Ok(Watcher::PageHinkley(PageHinkley::new(config)))
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PageHinkley {
    config: Config,
    mean: Mean,
    /// How far values lay above the mean, less delta; and the least that this was.
    above: f64,
    above_min: f64,
    /// How far values lay above the mean, and delta; and the most that this was.
    below: f64,
    below_max: f64,
}

impl PageHinkley {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self { config, mean: Mean::default(), above: 0.0, above_min: f64::MAX, below: 0.0, below_max: f64::MIN }
    }
}

impl Detector for PageHinkley {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        let Config { warm_up, delta, threshold, fading, direction } = self.config;
        let value = value.clamp(-VALUE_MAX, VALUE_MAX);
        self.mean.add(value);
        let off = value - self.mean.mean;
        self.above = fading * self.above + off - delta;
        self.below = fading * self.below + off + delta;
        self.above_min = self.above_min.min(self.above);
        self.below_max = self.below_max.max(self.below);
        let up = direction != Direction::Down && self.above - self.above_min > threshold;
        let down = direction != Direction::Up && self.below_max - self.below > threshold;
        if self.mean.count >= warm_up as f64 && (up || down) {
            self.reset();
            return Level::Change;
        }
        Level::Steady
    }

    fn mean(&self) -> f64 {
        self.mean.mean
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    fn is_sound(&self) -> bool {
        let numbers = [self.above, self.above_min, self.below, self.below_max];
        self.config.check().is_ok() && self.mean.is_sound() && numbers.iter().all(|number| number.is_finite())
    }
}
