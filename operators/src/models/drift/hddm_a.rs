//! HDDM-A: the mean of bounded values has moved further than Hoeffding's inequality allows by chance.
//!
//! Frías-Blanco and others, "Online and Non-Parametric Drift Detection Methods Based on Hoeffding's Bounds" (IEEE TKDE 27, 2015), the A-test.

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, Mean, Watcher, within};

/// HDDM with moving averages.
pub static KIND: DetectorKind = Kind {
    name: "hddm_a",
    about: "The mean of errors has moved further than chance allows (moving averages).\n\n\
            Frías-Blanco and others 2015, A-test, with Hoeffding's inequality. Takes errors, or any values from 0 to 1; others are put between. \
            Compares the mean of all values with that up to the cut where it was least (and greatest). Good at sudden changes; `hddm_w` is for slow ones.",
    schema: schema_of::<Config>,
    example: "both: true",
    plan,
};

/// Settings of HDDM.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The probability of chance below which it warns; above 0, below 1.
    warning: f64,
    /// The probability of chance below which it is a change; above 0, not more than `warning`.
    change: f64,
    /// Also finds that the mean has fallen: otherwise only that it has grown.
    both: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { warning: 0.005, change: 0.001, both: false }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        within(&mut problems, "warning", self.warning, 1e-300, 1.0 - f64::EPSILON);
        within(&mut problems, "change", self.change, 1e-300, 1.0 - f64::EPSILON);
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
    Ok(Watcher::HddmA(HddmA::new(config)))
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct HddmA {
    stored: Stored,
    /// Logarithms of what the probabilities of chance go into; they follow from the settings.
    cut: f64,
    warning: f64,
    change: f64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Stored {
    config: Config,
    all: Mean,
    /// Up to where the mean was surely least, and greatest.
    least: Mean,
    greatest: Mean,
}

impl From<Stored> for HddmA {
    fn from(stored: Stored) -> Self {
        let Config { warning, change, .. } = stored.config;
        Self {
            cut: libm::log(1.0 / change),
            warning: libm::log(2.0 / warning),
            change: libm::log(2.0 / change),
            stored,
        }
    }
}

impl From<HddmA> for Stored {
    fn from(detector: HddmA) -> Self {
        detector.stored
    }
}

impl HddmA {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        let none = Mean::default();
        Self::from(Stored { config, all: none, least: none, greatest: none })
    }

    /// Whether the mean has moved by `by` since the cut, beyond what chance allows.
    #[inline]
    fn moved(&self, by: f64, cut: Mean, logarithm: f64) -> bool {
        let all = self.stored.all.count;
        let share = (all - cut.count) / (cut.count * all);
        cut.count < all && by >= (share / 2.0 * logarithm).sqrt()
    }
}

impl Detector for HddmA {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        let Stored { config, all, least, greatest } = &mut self.stored;
        all.add(value.clamp(0.0, 1.0));
        if least.count == 0.0 {
            (*least, *greatest) = (*all, *all);
        }
        let bound = |count: f64| (self.cut / (2.0 * count)).sqrt();
        let here = bound(all.count);
        if least.mean + bound(least.count) >= all.mean + here {
            *least = *all;
        }
        if config.both && greatest.mean - bound(greatest.count) <= all.mean - here {
            *greatest = *all;
        }
        let Stored { config, all, least, greatest } = self.stored.clone();
        let (up, down) = (all.mean - least.mean, greatest.mean - all.mean);
        if self.moved(up, least, self.change) || config.both && self.moved(down, greatest, self.change) {
            self.reset();
            return Level::Change;
        }
        let warns = self.moved(up, least, self.warning) || config.both && self.moved(down, greatest, self.warning);
        if warns { Level::Warning } else { Level::Steady }
    }

    fn mean(&self) -> f64 {
        self.stored.all.mean
    }

    fn reset(&mut self) {
        *self = Self::new(self.stored.config);
    }

    fn is_sound(&self) -> bool {
        let Stored { config, all, least, greatest } = &self.stored;
        config.check().is_ok() && [all, least, greatest].iter().all(|mean| mean.is_sound())
    }
}
