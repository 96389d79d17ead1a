//! A running median in constant space.

use serde::{Deserialize, Serialize};

/// The median of the values so far: exact for five, an estimate after that.
///
/// The P² algorithm: R. Jain and I. Chlamtac, *The P² algorithm for dynamic calculation of quantiles and histograms
/// without storing observations*, Communications of the ACM 28(10), 1985. Five markers stand at the minimum, the
/// quarters, and the maximum; each value moves them towards where they should be, along a parabola through neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Median {
    count: u64,
    /// The markers' heights, ascending. Before there are five values: the values.
    heights: [f64; 5],
    /// How many values are at or below each marker; from the fifth value on.
    places: [u64; 5],
}

impl Median {
    /// Takes a finite value in.
    pub(super) fn push(&mut self, value: f64) {
        let count = self.count as usize;
        self.count += 1;
        if count < 5 {
            self.heights[count] = value;
            self.heights[..=count].sort_by(f64::total_cmp);
            self.places = [1, 2, 3, 4, 5];
            return;
        }
        self.heights[0] = self.heights[0].min(value);
        self.heights[4] = self.heights[4].max(value);
        // The first marker above the value; the greatest value is below the last one.
        let above = (1..4).find(|&marker| value < self.heights[marker]).unwrap_or(4);
        self.places[above..].iter_mut().for_each(|place| *place += 1);
        for marker in 1..4 {
            self.adjust(marker);
        }
    }

    /// The estimate, once there is a value.
    pub(super) fn median(&self) -> Option<f64> {
        match self.count as usize {
            0 => None,
            few @ 1..5 => {
                let (low, high) = (self.heights[(few - 1) / 2], self.heights[few / 2]);
                Some(low.midpoint(high))
            }
            _ => Some(self.heights[2]),
        }
    }

    /// Moves a marker by one place if it is a whole place or more off.
    fn adjust(&mut self, marker: usize) {
        let wanted = 1.0 + (self.count - 1) as f64 * marker as f64 / 4.0;
        let off = wanted - self.places[marker] as f64;
        let up = off >= 1.0 && self.places[marker + 1] > self.places[marker] + 1;
        let down = off <= -1.0 && self.places[marker - 1] + 1 < self.places[marker];
        if !up && !down {
            return;
        }
        let parabolic = self.parabola(marker, if up { 1.0 } else { -1.0 });
        let between = self.heights[marker - 1] < parabolic && parabolic < self.heights[marker + 1];
        let height = if between { parabolic } else { self.line(marker, if up { marker + 1 } else { marker - 1 }) };
        // Differences of huge values overflow; the marker then keeps its height.
        if height.is_finite() {
            self.heights[marker] = height;
        }
        self.places[marker] = if up { self.places[marker] + 1 } else { self.places[marker] - 1 };
    }

    fn parabola(&self, marker: usize, step: f64) -> f64 {
        let [below, here, above] =
            [marker - 1, marker, marker + 1].map(|at| (self.places[at] as f64, self.heights[at]));
        let rise = (above.1 - here.1) / (above.0 - here.0);
        let fall = (here.1 - below.1) / (here.0 - below.0);
        here.1 + step / (above.0 - below.0) * ((here.0 - below.0 + step) * rise + (above.0 - here.0 - step) * fall)
    }

    /// The height one place towards `other`, on the straight line to it.
    fn line(&self, marker: usize, other: usize) -> f64 {
        let places = self.places[other].abs_diff(self.places[marker]) as f64;
        self.heights[marker] + (self.heights[other] - self.heights[marker]) / places
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Random;
    use super::*;

    fn median_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
        let mut median = Median::default();
        values.into_iter().for_each(|value| median.push(value));
        median.median()
    }

    #[test]
    fn few_values_give_the_exact_median() {
        assert_eq!(median_of([]), None);
        assert_eq!(median_of([3.0]), Some(3.0));
        assert_eq!(median_of([3.0, 1.0]), Some(2.0));
        assert_eq!(median_of([5.0, -1.0, 4.0, 2.0]), Some(3.0));
        assert_eq!(median_of([5.0, -1.0, 4.0, 2.0, 9.0]), Some(4.0));
    }

    /// The worked example of the paper: 20 values, whose median it estimates as 4.44.
    #[test]
    fn the_papers_example() {
        let values = [
            0.02, 0.15, 0.74, 3.39, 0.83, 22.37, 10.15, 15.43, 38.62, 15.92, 34.60, 10.28, 1.47, 0.40, 0.05, 11.39,
            0.27, 0.42, 0.09, 11.37,
        ];
        let estimate = median_of(values).unwrap();
        assert!((estimate - 4.44).abs() < 0.01, "{estimate}");
    }

    #[test]
    fn the_estimate_is_near_the_median() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            // A skewed distribution: squares.
            let values: Vec<f64> = (0..2000).map(|_| (random.below(1000) as f64 / 10.0).powi(2)).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let estimate = median_of(values).unwrap();
            let rank = sorted.partition_point(|value| *value < estimate) as f64 / 2000.0;
            assert!((rank - 0.5).abs() < 0.03, "seed {seed}: the estimate has rank {rank}");
        }
    }

    #[test]
    fn extreme_and_equal_values_stay_finite() {
        let huge = [f64::MAX, f64::MIN, 0.0, 1.0, f64::MAX, f64::MIN, f64::MAX, 2.0, f64::MIN, 3.0];
        assert!(median_of(huge).unwrap().is_finite());
        assert_eq!(median_of([7.5; 100]), Some(7.5));
    }
}
