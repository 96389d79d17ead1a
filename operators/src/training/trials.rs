//! Many models on one stream, to find the best settings: those that do worst are given up on the way.
//!
//! Successive halving (Jamieson and Talwalkar, 2016) over the rows of the stream: after `halve_after` rows, and each time twice as many,
//! the worse half of the models that are left is given up. What a model learned before stays: nothing is learned twice.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_engine::digest::{self, Digest};
use millstream_engine::operator::{Answer, Fold, MakeFold, Measure, Rejects, Snapshot};
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::registry::less_is_better;

/// How trials are judged.
#[derive(Clone, Debug)]
pub struct TrialsPlan {
    /// The measures over all rows by which they are ranked: the first that there is.
    pub by: Vec<String>,
    /// After so many rows the worse half is given up, and again each time that there were twice as many; 0 for never.
    pub halve_after: u64,
    /// How many threads learn.
    pub threads: usize,
}

/// The measures that tell of each trial, over its number, the best first: by what it is ranked, and how many rows it had.
pub const STANDING: &str = "trial";
/// See [`STANDING`].
pub const STANDING_ROWS: &str = "trial_rows";

/// What became of a trial.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Standing {
    trial: usize,
    /// Rows that it had when it was judged last.
    rows: u64,
    /// The measure; NaN where there is none.
    value: f64,
    /// The same as something of which less is better.
    less_is_better: f64,
}

/// Models that learn side by side, as one fold.
pub struct Trials {
    plan: TrialsPlan,
    /// Those that are left, by their numbers.
    left: Vec<(usize, Box<dyn Fold>)>,
    /// Those that were given up, in that order.
    given_up: Vec<Standing>,
    make: Arc<Vec<MakeFold>>,
    rows: u64,
}

/// A stored [`Trials`]: folds as their snapshots, or as their digests.
#[derive(Deserialize, Serialize)]
struct State<F> {
    left: Vec<(usize, F)>,
    given_up: Vec<Standing>,
    rows: u64,
}

impl Standing {
    /// The better one first; of equal ones, the first.
    fn order(&self, other: &Self) -> Ordering {
        let (own, others) = (self.less_is_better, other.less_is_better);
        own.is_nan().cmp(&others.is_nan()).then(own.total_cmp(&others)).then(self.trial.cmp(&other.trial))
    }
}

impl Trials {
    /// Of these models, at least one, none of which has learned anything.
    pub fn new(make: Arc<Vec<MakeFold>>, plan: TrialsPlan) -> Self {
        let left = make.iter().map(|make| make()).enumerate().collect();
        Self { plan, left, given_up: Vec::new(), make, rows: 0 }
    }

    /// All trials, the best first: those that are left by their measures, then those that were given up, the last first.
    fn standings(&self) -> Vec<Standing> {
        let mut standings: Vec<Standing> =
            self.left.iter().map(|(trial, fold)| self.standing(*trial, &**fold)).collect();
        standings.sort_by(Standing::order);
        standings.extend(self.given_up.iter().rev().cloned());
        standings
    }

    fn standing(&self, trial: usize, fold: &dyn Fold) -> Standing {
        let measures = fold.measures();
        let of = |name: &String| {
            let is_it = |measure: &&Measure| measure.name == name && measure.who == "model" && measure.over == "all";
            measures.iter().find(is_it)
        };
        let found = self.plan.by.iter().find_map(of);
        let value = found.map_or(f64::NAN, |found| found.value);
        let less_is_better = found.map_or(f64::NAN, |found| less_is_better(found.name, found.value));
        Standing { trial, rows: self.rows, value, less_is_better }
    }

    /// How many rows are left until the next halving.
    fn until_halving(&self) -> u64 {
        let mut rung = self.plan.halve_after;
        if rung == 0 {
            return u64::MAX;
        }
        while rung <= self.rows {
            rung = rung.saturating_mul(2);
        }
        rung - self.rows
    }

    fn state<F>(&self, of: impl Fn(&dyn Fold) -> F) -> State<F> {
        let left = self.left.iter().map(|(trial, fold)| (*trial, of(&**fold))).collect();
        State { left, given_up: self.given_up.clone(), rows: self.rows }
    }

    /// Gives up the worse half.
    fn halve(&mut self) {
        let mut standings = self.standings();
        standings.truncate(self.left.len());
        for standing in standings.drain(self.left.len().div_ceil(2)..).rev() {
            self.left.retain(|(trial, _)| *trial != standing.trial);
            self.given_up.push(standing);
        }
    }

    /// All that are left learn these rows; gives what the first of them gives.
    fn learn_all(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let a_thread = self.left.len().div_ceil(self.plan.threads.max(1));
        let learned: Vec<Vec<Result<(RecordBatch, Rejects)>>> = std::thread::scope(|scope| {
            let learn = |folds: &mut [(usize, Box<dyn Fold>)]| {
                let one = |(_, fold): &mut (usize, Box<dyn Fold>)| {
                    let mut rejects = Rejects::default();
                    fold.learn(port, rows, &mut rejects).map(|given| (given, rejects))
                };
                folds.iter_mut().map(one).collect()
            };
            let working: Vec<_> =
                self.left.chunks_mut(a_thread).map(|folds| scope.spawn(move || learn(folds))).collect();
            let joined = working.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.collect::<Result<_, _>>().map_err(|_| Fault::ours("a trial broke down"))
        })?;
        let mut first = None;
        for learned in learned.into_iter().flatten() {
            let learned = learned?;
            first.get_or_insert(learned);
        }
        let (given, rejected) = first.ok_or_else(|| Fault::ours("there is no trial"))?;
        *rejects = rejected;
        Ok(given)
    }
}

impl Fold for Trials {
    fn learn(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let (mut given, mut at) = (Vec::new(), 0);
        while at < rows.num_rows() {
            // Only rows that are predicted count.
            let most = if port == 0 { usize::try_from(self.until_halving()).unwrap_or(usize::MAX) } else { usize::MAX };
            let next = most.min(rows.num_rows() - at);
            let mut rejected = Rejects::default();
            given.push(self.learn_all(port, &rows.slice(at, next), &mut rejected)?);
            rejected.take().into_iter().for_each(|(row, reason)| rejects.push(at + row, reason));
            at += next;
            if port == 0 {
                let is_rung = self.until_halving() == next as u64;
                self.rows += next as u64;
                if is_rung && self.left.len() > 1 {
                    self.halve();
                }
            }
        }
        match given.as_slice() {
            [] => self.learn_all(port, rows, rejects),
            [one] => Ok(one.clone()),
            all => Ok(arrow::compute::concat_batches(&all[0].schema(), all)?),
        }
    }

    fn examples(&self) -> u64 {
        self.left.first().map_or(0, |(_, fold)| fold.examples())
    }

    fn changes(&self) -> u64 {
        self.left.first().map_or(0, |(_, fold)| fold.changes())
    }

    fn revision(&self) -> Arc<dyn Answer> {
        let best = self.standings()[0].trial;
        let fold = self.left.iter().find(|(trial, _)| *trial == best).unwrap_or(&self.left[0]);
        fold.1.revision()
    }

    /// Those of the best, and all standings, the best first.
    fn measures(&self) -> Vec<Measure> {
        let standings = self.standings();
        let best = self.left.iter().find(|(trial, _)| *trial == standings[0].trial);
        let mut measures = best.map(|(_, fold)| fold.measures()).unwrap_or_default();
        for Standing { trial, rows, value, .. } in standings {
            let told = [(STANDING, value), (STANDING_ROWS, rows as f64)];
            let measure = |(name, value)| Measure { name, who: "trial", over: trial.to_string().into(), value };
            measures.extend(told.map(measure));
        }
        measures
    }

    fn measure_anew(&mut self) {
        self.left.iter_mut().for_each(|(_, fold)| fold.measure_anew());
    }

    fn copy(&self) -> Snapshot {
        let State { left, given_up, rows } = self.state(Fold::copy);
        Box::new(move || {
            let left = left.into_iter().map(|(trial, copy)| (trial, ByteBuf::from(copy()))).collect();
            postcard::to_stdvec(&State { left, given_up, rows }).expect("numbers can be written to memory")
        })
    }

    fn digest(&self) -> Digest {
        digest::of_value(&self.state(Fold::digest))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        let damaged = |why: &str| Fault::world(format!("the stored state of trials is damaged: {why}"));
        let state: State<ByteBuf> =
            postcard::from_bytes(snapshot).map_err(|error| damaged("it cannot be read").because(error))?;
        self.left.clear();
        for (trial, stored) in &state.left {
            let make = self.make.get(*trial).ok_or_else(|| damaged("there are other trials"))?;
            let mut fold = make();
            fold.restore(stored)?;
            self.left.push((*trial, fold));
        }
        if self.left.is_empty() {
            return Err(damaged("no trial is left"));
        }
        (self.given_up, self.rows) = (state.given_up, state.rows);
        Ok(())
    }
}
