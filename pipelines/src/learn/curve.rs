//! How a measure went on while a model learned.

use millstream_operators::registry::{Score, decisive};

/// How a measure went on while a model learned.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// The measure.
    pub measure: String,
    /// The model's, and those of its baselines.
    pub lines: Vec<CurveLine>,
}

/// The same of a model or a baseline.
#[derive(Clone, Debug, Default)]
pub struct CurveLine {
    /// Whose.
    pub who: String,
    /// After so many examples: the measure of all rows so far.
    pub points: Vec<(f64, f64)>,
}

/// Records in an epoch where it is kept how measures went on: each gives a point.
pub(super) const RECORDS: usize = 2048;
/// Points that are kept at most: of more, every other one goes.
const POINTS_MAX: usize = 400;

impl Curve {
    /// Adds a point of each line; the decisive measure is the first that there is.
    pub(super) fn add(&mut self, examples: u64, measures: &[Score]) {
        let of_all = |score: &&Score| score.over == "all";
        if self.measure.is_empty() {
            let Some(decisive) = decisive(measures) else { return };
            self.measure.clone_from(&decisive.name);
        }
        for score in
            measures.iter().filter(of_all).filter(|score| score.name == self.measure && score.value.is_finite())
        {
            let at = self.lines.iter().position(|line| line.who == score.who).unwrap_or_else(|| {
                self.lines.push(CurveLine { who: score.who.clone(), points: Vec::new() });
                self.lines.len() - 1
            });
            let points = &mut self.lines[at].points;
            points.push((examples as f64, score.value));
            if points.len() > POINTS_MAX {
                let mut number = 0;
                points.retain(|_| {
                    number += 1;
                    number % 2 == 0
                });
            }
        }
    }
}
