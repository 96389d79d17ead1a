//! Over which rows something is judged: all, the last ones, faded, and those of slices.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use millstream_engine::operator::Measure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::EvaluationConfig;

/// What is counted of judged rows.
pub(super) trait Tally: Clone + Serialize + DeserializeOwned {
    /// A judged row: small, since windows keep them.
    type Judged: Copy + Serialize + DeserializeOwned;

    /// Counts a row.
    fn add(&mut self, judged: &Self::Judged);

    /// Takes back a row that was counted.
    fn take_back(&mut self, judged: &Self::Judged);

    /// What two numbers of a row are averaged where rows fade.
    fn fading(judged: &Self::Judged) -> [f64; 2];

    /// What those averages are called, and what is told of them.
    fn faded(means: [f64; 2]) -> [(&'static str, f64); 2];

    /// Everything that can be told.
    fn measures(&self, push: &mut dyn FnMut(&'static str, f64));
}

/// The values of a column that are told apart; others are judged together.
const SLICES_MAX: usize = 100;

/// A model's tallies.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct Scopes<T: Tally> {
    /// With no row.
    empty: T,
    pub(super) all: T,
    /// How many rows are in a full window.
    window: usize,
    recent: VecDeque<T::Judged>,
    recently: T,
    fading: f64,
    /// The weight of all rows, and their weighted sums.
    faded: (f64, [f64; 2]),
    /// By column and value.
    slices: Vec<BTreeMap<String, T>>,
    /// By column: the rows of all other values.
    others: Vec<T>,
}

impl<T: Tally> Scopes<T> {
    pub(super) fn new(empty: T, config: &EvaluationConfig) -> Self {
        Self {
            all: empty.clone(),
            window: config.window,
            recent: VecDeque::new(),
            recently: empty.clone(),
            fading: config.fading,
            faded: (0.0, [0.0; 2]),
            slices: vec![BTreeMap::new(); config.by.len()],
            others: vec![empty.clone(); config.by.len()],
            empty,
        }
    }

    #[inline]
    pub(super) fn add<'a>(&mut self, judged: &T::Judged, values: impl Iterator<Item = &'a str>) {
        self.all.add(judged);
        if self.fading > 0.0 {
            let (weight, sums) = &mut self.faded;
            *weight = *weight * self.fading + 1.0;
            for (sum, value) in sums.iter_mut().zip(T::fading(judged)) {
                *sum = *sum * self.fading + value;
            }
        }
        if self.window > 0 {
            if self.recent.len() == self.window
                && let Some(oldest) = self.recent.pop_front()
            {
                self.recently.take_back(&oldest);
            }
            self.recent.push_back(*judged);
            self.recently.add(judged);
        }
        for ((slices, others), value) in self.slices.iter_mut().zip(&mut self.others).zip(values) {
            if let Some(slice) = slices.get_mut(value) {
                slice.add(judged);
            } else if slices.len() < SLICES_MAX {
                slices.entry(value.to_owned()).or_insert_with(|| self.empty.clone()).add(judged);
            } else {
                others.add(judged);
            }
        }
    }

    /// What is to be told of the model; `columns` are those of the slices.
    pub(super) fn measures(&self, columns: &[String], measures: &mut Vec<Measure>) {
        let mut tell = |over: Cow<'static, str>, tally: &T| {
            tally.measures(&mut |name, value| {
                measures.push(Measure { name, who: "model", over: over.clone(), value });
            });
        };
        tell("all".into(), &self.all);
        if self.window > 0 {
            tell(format!("last {}", self.window).into(), &self.recently);
        }
        for ((column, slices), others) in columns.iter().zip(&self.slices).zip(&self.others) {
            for (value, tally) in slices {
                tell(format!("{column}={value}").into(), tally);
            }
            if slices.len() == SLICES_MAX {
                tell(format!("{column}: others").into(), others);
            }
        }
        let (weight, sums) = self.faded;
        if weight > 0.0 {
            for (name, value) in T::faded(sums.map(|sum| sum / weight)) {
                measures.push(Measure { name, who: "model", over: "faded".into(), value });
            }
        }
    }
}
