//! Why an answer is what it is: what each feature adds to it.
//!
//! A feature's contribution is what the prediction would lose if this feature alone were as usual (occlusion; Robnik-Šikonja and Kononenko,
//! "Explaining Classifications For Individual Instances", 2008, with one usual value in place of all). It is exact for sums, and for
//! any model it says what would have been predicted instead. As usual is: a number's mean, and the category that a majority had, or
//! nearly so (Boyer and Moore, 1981), over the rows that the model was taught with.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, MapBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use super::Spec;
use super::features::Place;
use crate::models::{Matrix, Predictor, Row, Shape, Task, likeliest, probability};

/// The column of an answer that says what its features add: a map of names to numbers.
pub const BECAUSE: &str = "because";

/// What rows usually look like.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Usual {
    rows: u64,
    means: Vec<f64>,
    /// Of each column of categories: the one that leads, and by how many votes.
    leading: Vec<(u32, u64)>,
}

impl Usual {
    /// Nothing seen yet.
    pub fn new(shape: Shape) -> Self {
        Self { rows: 0, means: vec![0.0; shape.dense], leading: vec![(0, 0); shape.active] }
    }

    /// Takes rows in, one after the other: so it does not depend on how they are cut into batches.
    pub fn see(&mut self, rows: &Matrix) {
        for row in 0..rows.len() {
            let Row { dense, active } = rows.row(row);
            self.rows += 1;
            let share = 1.0 / self.rows as f64;
            // Not by way of the difference, which may be too large for a float.
            self.means.iter_mut().zip(dense).for_each(|(mean, x)| *mean = *mean * (1.0 - share) + x * share);
            for ((leading, votes), category) in self.leading.iter_mut().zip(active) {
                if leading == category {
                    *votes += 1;
                } else if *votes == 0 {
                    (*leading, *votes) = (*category, 1);
                } else {
                    *votes -= 1;
                }
            }
        }
    }

    /// Whether it is of rows of this shape.
    pub fn fits(&self, shape: Shape) -> bool {
        let categories = shape.categories as u32;
        self.means.len() == shape.dense
            && self.leading.len() == shape.active
            && self.means.iter().all(|mean| mean.is_finite())
            && self.leading.iter().all(|(category, _)| *category < categories)
    }
}

/// Whether what a model says can be explained: it has to say one number.
pub fn can_explain(task: Task) -> bool {
    !matches!(task, Task::Choice | Task::Clustering)
}

/// The field of [`BECAUSE`].
pub(super) fn field() -> Field {
    let entries = [Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Float64, true)];
    let entries = Field::new("entries", DataType::Struct(entries.into_iter().collect()), false);
    Field::new(BECAUSE, DataType::Map(Arc::new(entries), false), false)
}

/// What the `most` features that matter most for each row add to what is predicted: `outputs` of these rows.
pub(super) fn reasons(
    spec: &Spec,
    predictor: &dyn Predictor,
    (usual, most): (&Usual, usize),
    rows: &Matrix,
    outputs: &[f64],
) -> ArrayRef {
    let (width, features) = (spec.outputs.width(), spec.features.columns());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    let (mut others, mut said) = (Matrix::new(spec.shape()), Vec::new());
    let (mut dense, mut active) = (Vec::new(), Vec::new());
    for (row, own) in outputs.chunks_exact(width).enumerate() {
        others.resize(0);
        for feature in features {
            let Row { dense: numbers, active: categories } = rows.row(row);
            dense.clear();
            dense.extend_from_slice(numbers);
            active.clear();
            active.extend_from_slice(categories);
            match feature.place {
                Place::Number(at) => dense[at] = usual.means[at],
                // Of a column without a usual category nothing is known: it stays.
                Place::Category { slot, .. } if usual.leading[slot].1 == 0 => {}
                Place::Category { slot, .. } => active[slot] = usual.leading[slot].0,
            }
            others.push(Row { dense: &dense, active: &active });
        }
        predictor.predict(&others, &mut said);
        let class = likeliest(own);
        let told = |outputs: &[f64]| if width == 1 { outputs[0] } else { probability(outputs, class) };
        let mut added: Vec<(&str, f64)> = features
            .iter()
            .zip(said.chunks_exact(width))
            .map(|(feature, other)| (feature.name.as_str(), told(own) - told(other)))
            .collect();
        added.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        for (name, value) in added.into_iter().take(most) {
            maps.keys().append_value(name);
            maps.values().append_value(value);
        }
        maps.append(true).expect("there are as many names as numbers");
    }
    Arc::new(maps.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_does_not_depend_on_how_rows_are_cut() {
        let shape = Shape { dense: 1, active: 1, categories: 3, classes: 0 };
        let rows = |range: std::ops::Range<u32>| {
            let mut matrix = Matrix::new(shape);
            for at in range {
                matrix.push(Row { dense: &[f64::from(at)], active: &[if at % 3 == 0 { at % 2 } else { 2 }] });
            }
            matrix
        };
        let (mut whole, mut parts) = (Usual::new(shape), Usual::new(shape));
        whole.see(&rows(0..90));
        [0..1, 1..40, 40..90].into_iter().for_each(|range| parts.see(&rows(range)));
        assert_eq!(whole, parts);
        assert!((whole.means[0] - 44.5).abs() < 1e-9 && whole.leading[0].0 == 2, "{whole:?}");
        assert!(whole.fits(shape) && !whole.fits(Shape { categories: 2, ..shape }));
    }
}
