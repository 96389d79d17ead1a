//! KSWIN: the newest values of a window are distributed otherwise than the older ones.
//!
//! Raab, Heusinger and Schleif, "Reactive Soft Prototype Computing for Concept Drift Streams" (Neurocomputing 416, 2020). The paper draws as many of
//! the older values by chance as there are newest ones; here they are all compared, so that nothing is left to chance. The threshold is the paper's.

use std::collections::VecDeque;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Detector, DetectorKind, Level, VALUE_MAX, Watcher, within};

/// Kolmogorov-Smirnov windows.
pub static KIND: DetectorKind = Kind {
    name: "kswin",
    about: "The newest values are distributed otherwise than those before them.\n\n\
            Kolmogorov-Smirnov windowing (Raab and others 2020). Takes any numbers, and finds any change of their distribution, also one that leaves the \
            mean where it was. The newest values of a window are compared with all its older ones (the paper draws some of them by chance): it is a \
            change where their distribution functions differ by more than sqrt(-ln(alpha) / newest) anywhere. That is asked with every value, so `alpha` \
            should be small. Does not warn; costs more time than the others.",
    schema: schema_of::<Config>,
    example: "alpha: 0.00001\nwindow: 200",
    plan,
};

/// Settings of KSWIN.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The probability of chance that is a change; above 0, below 1.
    alpha: f64,
    /// How many values the window has; at most 10,000.
    window: u32,
    /// How many of them are the newest; from 2 to half of the window, and more than -ln(alpha), for fewer cannot differ enough.
    newest: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 1e-4, window: 100, newest: 30 }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        within(&mut problems, "alpha", self.alpha, 1e-300, 1.0 - f64::EPSILON);
        within(&mut problems, "window", f64::from(self.window), 4.0, 1e4);
        if self.newest < 2 || self.newest > self.window / 2 {
            let message = format!("{} is not between 2 and half of the window", self.newest);
            problems.push(Problem::new("newest", "out-of-range", message));
        } else if self.threshold() >= 1.0 {
            let message = format!("{} values cannot differ enough for this alpha", self.newest);
            problems.push(Problem::new("newest", "out-of-range", message));
        }
        problems.finish()
    }

    /// By how much distribution functions may differ.
    fn threshold(&self) -> f64 {
        (-libm::log(self.alpha) / f64::from(self.newest)).sqrt()
    }
}

fn plan(value: &Value) -> Planned<Watcher> {
    let config: Config = configuration(value)?;
    config.check()?;
    Ok(Watcher::Kswin(Kswin::new(config)))
}

/// The detector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Kswin {
    stored: Stored,
    /// By how much distribution functions may differ.
    threshold: f64,
    /// The older and the newest values of the window, in the order of their size.
    older: Vec<f64>,
    newest: Vec<f64>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Stored {
    config: Config,
    /// The oldest value first.
    window: VecDeque<f64>,
}

impl TryFrom<Stored> for Kswin {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let Config { window, newest, .. } = stored.config;
        let values = &stored.window;
        if stored.config.check().is_err() || values.len() > window as usize || values.iter().any(|x| !x.is_finite()) {
            return Err("the window has too many values, or wrong ones");
        }
        let sorted = |values: &mut dyn Iterator<Item = &f64>| {
            let mut values: Vec<f64> = values.copied().collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let cut = values.len().saturating_sub(newest as usize);
        let (older, latest) = (sorted(&mut values.range(..cut)), sorted(&mut values.range(cut..)));
        Ok(Self { threshold: stored.config.threshold(), older, newest: latest, stored })
    }
}

impl From<Kswin> for Stored {
    fn from(detector: Kswin) -> Self {
        detector.stored
    }
}

impl Kswin {
    /// One that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self::try_from(Stored { config, window: VecDeque::new() }).expect("the settings have been checked")
    }

    fn insert(&mut self, value: f64) {
        let Stored { config, window } = &mut self.stored;
        if window.len() == config.window as usize
            && let Some(oldest) = window.pop_front()
        {
            remove(&mut self.older, oldest);
        }
        window.push_back(value);
        add(&mut self.newest, value);
        if self.newest.len() > config.newest as usize {
            let aged = window[window.len() - 1 - config.newest as usize];
            remove(&mut self.newest, aged);
            add(&mut self.older, aged);
        }
    }

    /// Whether the distribution functions of older and newest values differ by more than the threshold anywhere.
    fn differs(&self) -> bool {
        let shares = (1.0 / self.older.len() as f64, 1.0 / self.newest.len() as f64);
        let (mut old, mut new) = (0, 0);
        while old < self.older.len() && new < self.newest.len() {
            let value = self.older[old].min(self.newest[new]);
            while self.older.get(old).is_some_and(|x| *x <= value) {
                old += 1;
            }
            while self.newest.get(new).is_some_and(|x| *x <= value) {
                new += 1;
            }
            if (old as f64 * shares.0 - new as f64 * shares.1).abs() > self.threshold {
                return true;
            }
        }
        false
    }
}

fn add(sorted: &mut Vec<f64>, value: f64) {
    let at = sorted.partition_point(|x| x.total_cmp(&value).is_lt());
    sorted.insert(at, value);
}

fn remove(sorted: &mut Vec<f64>, value: f64) {
    let at = sorted.partition_point(|x| x.total_cmp(&value).is_lt());
    sorted.remove(at);
}

impl Detector for Kswin {
    fn update(&mut self, value: f64) -> Level {
        self.insert(value.clamp(-VALUE_MAX, VALUE_MAX));
        let Config { window, newest, .. } = self.stored.config;
        if self.stored.window.len() < window as usize || !self.differs() {
            return Level::Steady;
        }
        self.stored.window.drain(..(window - newest) as usize);
        self.older.clear();
        Level::Change
    }

    fn mean(&self) -> f64 {
        let count = self.stored.window.len().max(1) as f64;
        self.stored.window.iter().map(|value| value / count).sum()
    }

    fn reset(&mut self) {
        *self = Self::new(self.stored.config);
    }

    /// Damaged ones cannot be read.
    fn is_sound(&self) -> bool {
        true
    }
}
