//! `HDDM-W`: a faded mean of bounded values has moved further than `McDiarmid`'s inequality allows by chance.
//!
//! Frías-Blanco and others, "Online and Non-Parametric Drift Detection Methods Based on Hoeffding's Bounds" (IEEE TKDE 27, 2015), the W-test.

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, Watcher, within};

/// HDDM with weighted averages.
pub static KIND: DetectorKind = Kind {
    name: "hddm_w",
    about: "The mean of errors has moved further than chance allows (averages that fade).\n\n\
            Frías-Blanco and others 2015, W-test, with `McDiarmid`'s inequality. Takes errors, or any values from 0 to 1; others are put between. \
            Newer values weigh more, so it finds slow changes sooner than `hddm_a`.",
    schema: schema_of::<Config>,
    example: "fading: 0.02",
    plan,
};

/// Settings of HDDM-W.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The probability of chance below which it warns; above 0, below 1.
    warning: f64,
    /// The probability of chance below which it is a change; above 0, not more than `warning`.
    change: f64,
    /// The weight of the newest value; above 0, below 1. Less makes it slower and surer.
    fading: f64,
    /// Also finds that the mean has fallen: otherwise only that it has grown.
    both: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { warning: 0.005, change: 0.001, fading: 0.05, both: false }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        for (path, value) in [("warning", self.warning), ("change", self.change), ("fading", self.fading)] {
            within(&mut problems, path, value, 1e-300, 1.0 - f64::EPSILON);
        }
        if self.change > self.warning {
            problems.push(Problem::new(
                "change",
                "out-of-range",
                "a change is at most as probable by chance as a warning",
            ));
        }
        problems.finish()
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    config.check()?;
    Ok(Watcher::HddmW(HddmW::new(config)))
}

/// A faded mean.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Faded {
    /// None before the first value.
    mean: Option<f64>,
    /// The sum of the squared weights of its values: how much chance there is in it.
    squares: f64,
}

impl Faded {
    const NONE: Self = Self { mean: None, squares: 1.0 };

    #[inline]
    fn add(&mut self, value: f64, fading: f64) {
        self.mean = Some(self.mean.map_or(value, |mean| fading * value + (1.0 - fading) * mean));
        self.squares = fading * fading + (1.0 - fading) * (1.0 - fading) * self.squares;
    }

    /// How far this mean lies above another one, and the chance in both.
    #[inline]
    fn above(self, other: Self) -> Option<(f64, f64)> {
        Some((self.mean? - other.mean?, self.squares + other.squares))
    }

    fn is_sound(self) -> bool {
        self.mean.is_none_or(|mean| (0.0..=1.0).contains(&mean)) && (0.0..=1.0).contains(&self.squares)
    }
}

/// What came before a cut, and what after.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Sides {
    before: Faded,
    after: Faded,
    /// The bound of the mean where the cut is.
    bound: f64,
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct HddmW {
    stored: Stored,
    /// Logarithms of the probabilities of chance; they follow from the settings.
    warning: f64,
    change: f64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Stored {
    config: Config,
    all: Faded,
    /// Cut where the mean was surely least, and where it was surely greatest.
    up: Sides,
    down: Sides,
}

impl From<Stored> for HddmW {
    fn from(stored: Stored) -> Self {
        let Config { warning, change, .. } = stored.config;
        Self { warning: libm::log(1.0 / warning), change: libm::log(1.0 / change), stored }
    }
}

impl From<HddmW> for Stored {
    fn from(detector: HddmW) -> Self {
        detector.stored
    }
}

impl HddmW {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        let sides = |bound| Sides { before: Faded::NONE, after: Faded::NONE, bound };
        Self::from(Stored { config, all: Faded::NONE, up: sides(f64::MAX), down: sides(f64::MIN) })
    }
}

/// Whether a difference is more than chance allows.
#[inline]
fn exceeds(difference: Option<(f64, f64)>, logarithm: f64) -> bool {
    difference.is_some_and(|(by, squares)| by > (squares * logarithm / 2.0).sqrt())
}

impl Detector for HddmW {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        let value = value.clamp(0.0, 1.0);
        let Stored { config, all, up, down } = &mut self.stored;
        all.add(value, config.fading);
        let (mean, reach) = (all.mean.unwrap_or(value), (all.squares * self.change / 2.0).sqrt());
        if mean + reach < up.bound {
            *up = Sides { before: *all, after: Faded::NONE, bound: mean + reach };
        } else {
            up.after.add(value, config.fading);
        }
        let mut differences = [up.after.above(up.before), None];
        if config.both {
            if mean - reach > down.bound {
                *down = Sides { before: *all, after: Faded::NONE, bound: mean - reach };
            } else {
                down.after.add(value, config.fading);
            }
            differences[1] = down.before.above(down.after);
        }
        if differences.iter().any(|difference| exceeds(*difference, self.change)) {
            self.reset();
            return Level::Change;
        }
        if differences.iter().any(|difference| exceeds(*difference, self.warning)) {
            Level::Warning
        } else {
            Level::Steady
        }
    }

    fn mean(&self) -> f64 {
        self.stored.all.mean.unwrap_or(0.0)
    }

    fn reset(&mut self) {
        *self = Self::new(self.stored.config);
    }

    fn is_sound(&self) -> bool {
        let Stored { config, all, up, down } = &self.stored;
        config.check().is_ok()
            && [all, &up.before, &up.after, &down.before, &down.after].iter().all(|faded| faded.is_sound())
            && up.bound.is_finite()
            && down.bound.is_finite()
    }
}
