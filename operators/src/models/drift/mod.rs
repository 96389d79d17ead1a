//! Drift detectors: has a stream of numbers changed?
//!
//! Each is a small part of a model, or of a step: pure arithmetic, its state given by serde.

pub mod adwin;

use std::fmt::Debug;

use millstream_engine::catalogue::{Planned, Problem};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use adwin::Adwin;

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

/// Any of the detectors.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Watcher {
    /// See [`adwin`].
    Adwin(Adwin),
}

impl Detector for Watcher {
    fn update(&mut self, value: f64) -> Level {
        match self {
            Self::Adwin(detector) => detector.update(value),
        }
    }

    fn mean(&self) -> f64 {
        match self {
            Self::Adwin(detector) => detector.mean(),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Adwin(detector) => detector.reset(),
        }
    }

    fn is_sound(&self) -> bool {
        match self {
            Self::Adwin(detector) => detector.is_sound(),
        }
    }
}

/// Plans `adwin` or `adwin: {...}`.
pub fn plan(value: &Value) -> Planned<Watcher> {
    match value {
        Value::String(name) if name == "adwin" => Ok(Watcher::Adwin(Adwin::new(0.002))),
        _ => Err(vec![Problem::new("", "unknown-detector", "there is no such detector").help("write `adwin`")]),
    }
}

/// What [`plan`] takes.
pub fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": ["adwin"]})
}
