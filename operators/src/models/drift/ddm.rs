//! DDM: a model that learns errs less and less; where it errs clearly more than at its best, the world has changed.
//!
//! Gama, Medas, Castillo and Rodrigues, "Learning with Drift Detection" (SBIA 2004).

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, Mean, Watcher, within};

/// The drift detection method.
pub static KIND: DetectorKind = Kind {
    name: "ddm",
    about: "A model errs clearly more than at its best.\n\n\
            The drift detection method (Gama and others 2004). Takes errors: 0 for right, 1 for wrong; other numbers are put between. \
            Warns, then finds a change, when error rate and its standard deviation together exceed their least sum by so many deviations of then. \
            Good at sudden changes of models that err seldom.",
    schema: schema_of::<Config>,
    example: "change: 4",
    plan,
};

/// Settings of DDM.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many values there must be more than these before a change can be found.
    warm_up: u64,
    /// From how many standard deviations on it warns; from 0 to 100.
    warning: f64,
    /// From how many standard deviations on it is a change; not less than `warning`, at most 100.
    change: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { warm_up: 30, warning: 2.0, change: 3.0 }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        within(&mut problems, "warm_up", self.warm_up as f64, 0.0, 1e15);
        within(&mut problems, "warning", self.warning, 0.0, 100.0);
        within(&mut problems, "change", self.change, 0.0, 100.0);
        if self.change < self.warning {
            problems.push(Problem::new("change", "out-of-range", "a change takes at least as much as a warning"));
        }
        problems.finish()
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    config.check()?;
    Ok(Watcher::Ddm(Ddm::new(config)))
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ddm {
    config: Config,
    errors: Mean,
    /// The error rate where its sum with its standard deviation was least, and that deviation.
    best: f64,
    best_deviation: f64,
}

impl Ddm {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self { config, errors: Mean::default(), best: f64::MAX, best_deviation: 0.0 }
    }
}

impl Detector for Ddm {
    #[inline]
    fn update(&mut self, value: f64) -> Level {
        self.errors.add(value.clamp(0.0, 1.0));
        let Mean { count, mean } = self.errors;
        if count <= self.config.warm_up as f64 {
            return Level::Steady;
        }
        let deviation = (mean * (1.0 - mean) / count).max(0.0).sqrt();
        let sum = mean + deviation;
        if sum <= self.best + self.best_deviation {
            (self.best, self.best_deviation) = (mean, deviation);
        }
        if sum > self.best + self.config.change * self.best_deviation {
            self.reset();
            return Level::Change;
        }
        if sum > self.best + self.config.warning * self.best_deviation { Level::Warning } else { Level::Steady }
    }

    fn mean(&self) -> f64 {
        self.errors.mean
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    fn is_sound(&self) -> bool {
        self.config.check().is_ok()
            && self.errors.is_sound()
            && self.best >= 0.0
            && self.best.is_finite()
            && (0.0..=1.0).contains(&self.best_deviation)
    }
}
