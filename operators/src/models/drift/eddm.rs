//! EDDM: a model that learns errs at ever greater distances; where they shrink, the world has changed.
//!
//! Baena-García and others, "Early Drift Detection Method" (2006).

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, Mean, Watcher, within};

/// The early drift detection method.
pub static KIND: DetectorKind = Kind {
    name: "eddm",
    about: "A model errs at shorter distances than it did.\n\n\
            The early drift detection method (Baena-García and others 2006). Takes errors: above 0.5 is wrong, the rest is right. \
            Warns, then finds a change, when the mean distance between errors and twice its standard deviation together fall below shares of the most \
            that they were. Finds slow changes sooner than `ddm`, and has more false alarms.",
    schema: schema_of::<Config>,
    example: "warning: 0.8\nchange: 0.75",
    plan,
};

/// Settings of EDDM.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many errors there must be more than these before a change can be found.
    warm_up: u64,
    /// Below this share it warns; above 0, at most 1.
    warning: f64,
    /// Below this share it is a change; above 0, not more than `warning`.
    change: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { warm_up: 30, warning: 0.95, change: 0.9 }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        within(&mut problems, "warm_up", self.warm_up as f64, 0.0, 1e15);
        within(&mut problems, "warning", self.warning, f64::MIN_POSITIVE, 1.0);
        within(&mut problems, "change", self.change, f64::MIN_POSITIVE, 1.0);
        if self.change > self.warning {
            problems.push(Problem::new(
                "change",
                "out-of-range",
                "a change takes a share as small as a warning's, or smaller",
            ));
        }
        problems.finish()
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    config.check()?;
    Ok(Watcher::Eddm(Eddm::new(config)))
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Eddm {
    config: Config,
    values: f64,
    /// Which of the values was the newest error; 0 before the first.
    last: f64,
    distances: Mean,
    /// Sum of squared differences of the distances from their mean (Welford).
    squares: f64,
    /// The most that the mean and two standard deviations were.
    most: f64,
    warns: bool,
}

impl Eddm {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self { config, values: 0.0, last: 0.0, distances: Mean::default(), squares: 0.0, most: 0.0, warns: false }
    }
}

impl Detector for Eddm {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        self.values += 1.0;
        if value > 0.5 {
            let distance = self.values - self.last;
            self.last = self.values;
            let before = self.distances.mean;
            self.distances.add(distance);
            self.squares += (distance - before) * (distance - self.distances.mean);
            let warm_up = self.config.warm_up as f64;
            if self.values > warm_up {
                let variance = self.squares / (self.distances.count - 1.0).max(1.0);
                let reach = self.distances.mean + 2.0 * variance.sqrt();
                if reach > self.most {
                    self.most = reach;
                } else if self.distances.count > warm_up {
                    if reach < self.config.change * self.most {
                        self.reset();
                        return Level::Change;
                    }
                    self.warns = reach < self.config.warning * self.most;
                }
            }
        }
        if self.warns { Level::Warning } else { Level::Steady }
    }

    /// The share of errors.
    fn mean(&self) -> f64 {
        if self.values > 0.0 { self.distances.count / self.values } else { 0.0 }
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    fn is_sound(&self) -> bool {
        let numbers = [self.values, self.last, self.squares, self.most];
        self.config.check().is_ok()
            && self.distances.is_sound()
            && numbers.iter().all(|number| *number >= 0.0 && number.is_finite())
    }
}
