//! Drift detectors: has a stream of numbers changed?
//!
//! Each is a small part of a model, or of a step: pure arithmetic, its state given by serde.

pub mod adwin;
pub mod ddm;
pub mod eddm;
pub mod hddm_a;
pub mod hddm_w;
pub mod kswin;
pub mod page_hinkley;
#[cfg(test)]
mod published;

use std::fmt::Debug;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems};
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{alternatives, component};

pub use adwin::Adwin;
pub use ddm::Ddm;
pub use eddm::Eddm;
pub use hddm_a::HddmA;
pub use hddm_w::HddmW;
pub use kswin::Kswin;
pub use page_hinkley::PageHinkley;

/// What a detector says to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing has changed.
    Steady,
    /// It looks as if something were changing. Not all detectors warn.
    Warning,
    /// The stream has changed. The detector has forgotten what was before (or begins anew with the next value).
    Change,
}

/// Watches a stream of numbers. Equal detectors have equal snapshots.
pub trait Detector: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Takes the next value, finite. Whatever it is, no number in the state becomes infinite or NaN.
    fn update(&mut self, value: f64) -> Level;

    /// The present mean, as far as the detector knows it: since the last change. 0 where there is none.
    fn mean(&self) -> f64;

    /// Forgets everything but the settings.
    fn reset(&mut self);

    /// Whether this (restored) state is one that a detector can have, so that it cannot panic.
    fn is_sound(&self) -> bool;
}

/// The largest magnitude of a value that a detector works with; beyond it, values count as this: squares need room.
pub(crate) const VALUE_MAX: f64 = 1e100;

/// A detector's entry; its plan checks the settings.
pub type DetectorKind = Kind<fn(&Value) -> Planned<Watcher>>;

/// All detectors.
pub static KINDS: &[&DetectorKind] =
    &[&adwin::KIND, &ddm::KIND, &eddm::KIND, &hddm_a::KIND, &hddm_w::KIND, &kswin::KIND, &page_hinkley::KIND];

/// Any of the detectors.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Watcher {
    /// See [`adwin`].
    Adwin(Adwin),
    /// See [`ddm`].
    Ddm(Ddm),
    /// See [`eddm`].
    Eddm(Eddm),
    /// See [`hddm_a`].
    HddmA(HddmA),
    /// See [`hddm_w`].
    HddmW(HddmW),
    /// See [`kswin`].
    Kswin(Kswin),
    /// See [`page_hinkley`].
    PageHinkley(PageHinkley),
}

/// The same for each detector.
macro_rules! each {
    ($watcher:expr, $detector:ident => $then:expr) => {
        match $watcher {
            Watcher::Adwin($detector) => $then,
            Watcher::Ddm($detector) => $then,
            Watcher::Eddm($detector) => $then,
            Watcher::HddmA($detector) => $then,
            Watcher::HddmW($detector) => $then,
            Watcher::Kswin($detector) => $then,
            Watcher::PageHinkley($detector) => $then,
        }
    };
}

impl Detector for Watcher {
    fn update(&mut self, value: f64) -> Level {
        each!(self, detector => detector.update(value))
    }

    fn mean(&self) -> f64 {
        each!(self, detector => detector.mean())
    }

    fn reset(&mut self) {
        each!(self, detector => detector.reset());
    }

    fn is_sound(&self) -> bool {
        each!(self, detector => detector.is_sound())
    }
}

/// Plans `name` or `name: {...}`, problems below the detector's name.
pub fn plan(value: &Value) -> Planned<Watcher> {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let (name, config) = component(value, "unknown-detector", "detector", &names).map_err(|problem| vec![problem])?;
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("`component` gives one of the names");
    (kind.plan)(config).map_err(|problems| problems.into_iter().map(|problem| problem.under(name)).collect())
}

/// The schema of `name: {...}` or `name`, over all detectors.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    alternatives(generator, KINDS.iter().map(|kind| (kind.name, kind.about, (kind.schema)())))
}

/// Notes a setting that is not within its range.
fn within(problems: &mut Problems, path: &str, value: f64, low: f64, high: f64) {
    if !(low..=high).contains(&value) {
        problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {low} and {high}")));
    }
}

/// The mean of the values so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Mean {
    count: f64,
    mean: f64,
}

impl Mean {
    #[inline]
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.mean += (value - self.mean) / self.count;
    }

    fn is_sound(&self) -> bool {
        self.count >= 0.0 && self.count.is_finite() && self.mean.is_finite()
    }
}
