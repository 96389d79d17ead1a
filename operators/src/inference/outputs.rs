//! A model's outputs as columns: of answers, and of rows that were predicted before they were learned.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use millstream_engine::batch::Meta;
use millstream_engine::state::{hash, share};

use crate::models::{Example, Task, class, likeliest, probability};

/// What a model's outputs stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    task: Task,
    /// The names of the classes or actions; none where a classifier says yes or no.
    names: Vec<String>,
}

impl Outputs {
    /// For a task with these classes or actions; a classifier without names says yes or no.
    pub fn new(task: Task, names: Vec<String>) -> Self {
        Self { task, names }
    }

    /// How many classes or actions there are.
    pub fn classes(&self) -> usize {
        match self.task {
            Task::Classification if self.names.is_empty() => 2,
            _ => self.names.len(),
        }
    }

    /// The names of the classes or actions, also of those that have none in the definition.
    pub fn names(&self) -> Vec<String> {
        match self.task {
            Task::Classification if self.names.is_empty() => vec!["false".to_owned(), "true".to_owned()],
            _ => self.names.clone(),
        }
    }

    /// Whether it says yes or no, and not one of some names.
    pub fn is_yes_or_no(&self) -> bool {
        self.task == Task::Classification && self.names.is_empty()
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.task.outputs(self.classes())
    }

    fn class_field(&self, name: &str) -> Field {
        Field::new(name, if self.names.is_empty() { DataType::Boolean } else { DataType::Utf8 }, false)
    }

    /// The columns of an answer.
    pub fn answer_fields(&self) -> Vec<Field> {
        let number = |name: &str| Field::new(name, DataType::Float64, false);
        match self.task {
            Task::Classification => {
                let mut fields = vec![self.class_field("prediction"), number("probability")];
                if self.names.len() > 2 {
                    fields.extend(self.names.iter().map(|name| number(&format!("probability_{name}"))));
                }
                fields
            }
            Task::Regression => vec![number("prediction")],
            Task::Anomaly => vec![number("score")],
            Task::Clustering => vec![Field::new("cluster", DataType::Int64, false), number("distance")],
            Task::Choice => vec![self.class_field("action"), number("probability")],
        }
    }

    /// Answers to `rows`.
    ///
    /// An action is drawn with the probabilities that the model gives, by a number that belongs to the request's origin and the
    /// revision: a replay draws the same.
    pub fn answer_columns(&self, rows: &RecordBatch, examples: u64, outputs: &[f64]) -> Vec<ArrayRef> {
        match self.task {
            Task::Classification => {
                let mut columns = vec![self.classes_said(outputs), self.probability_said(outputs)];
                if self.names.len() > 2 {
                    columns.extend((0..self.names.len()).map(|at| self.output(outputs, at)));
                }
                columns
            }
            Task::Regression | Task::Anomaly => vec![self.output(outputs, 0)],
            Task::Clustering => vec![self.clusters(outputs), self.output(outputs, 1)],
            Task::Choice => {
                let meta = Meta::of(rows);
                let drawn: Vec<usize> = (0..rows.num_rows())
                    .zip(outputs.chunks_exact(self.width()))
                    .map(|(row, probabilities)| {
                        let origin = meta.origin(row);
                        let parts = [u64::from(origin.source), u64::from(origin.partition), origin.offset, examples];
                        draw(probabilities, hash(parts.map(u64::to_le_bytes).as_flattened()))
                    })
                    .collect();
                let probabilities = drawn.iter().zip(outputs.chunks_exact(self.width())).map(|(at, of)| of[*at]);
                let names = drawn.iter().map(|at| self.names[*at].as_str());
                vec![
                    Arc::new(StringArray::from_iter_values(names)),
                    Arc::new(Float64Array::from_iter_values(probabilities)),
                ]
            }
        }
    }

    /// The columns that training adds to its rows.
    pub fn training_fields(&self) -> Vec<Field> {
        let field = |name: &str, like: Field| Field::new(name, like.data_type().clone(), true);
        let number = |name: &str| Field::new(name, DataType::Float64, true);
        match self.task {
            Task::Classification => vec![number(PREDICTED), field(PREDICTED_CLASS, self.class_field(""))],
            Task::Regression => vec![number(PREDICTED)],
            Task::Anomaly | Task::Clustering => {
                self.answer_fields().into_iter().map(|like| field(&like.name().clone(), like)).collect()
            }
            Task::Choice => vec![number(PREDICTED), field(PREDICTED_ACTION, self.class_field(""))],
        }
    }

    /// What was predicted of rows before these examples were learned.
    pub fn training_columns(&self, outputs: &[f64], examples: &[Example]) -> Vec<ArrayRef> {
        match self.task {
            Task::Classification => vec![self.probability_said(outputs), self.classes_said(outputs)],
            Task::Regression | Task::Anomaly => vec![self.output(outputs, 0)],
            Task::Clustering => vec![self.clusters(outputs), self.output(outputs, 1)],
            Task::Choice => {
                let taken = examples.iter().zip(outputs.chunks_exact(self.width()));
                let taken = taken.map(|(example, probabilities)| probabilities[example.action as usize]);
                vec![Arc::new(Float64Array::from_iter_values(taken)), self.classes_said(outputs)]
            }
        }
    }

    fn output(&self, outputs: &[f64], at: usize) -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(outputs.iter().skip(at).step_by(self.width()).copied()))
    }

    fn clusters(&self, outputs: &[f64]) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(outputs.iter().step_by(self.width()).map(|group| *group as i64)))
    }

    fn classes_said(&self, outputs: &[f64]) -> ArrayRef {
        if self.names.is_empty() {
            return Arc::new(outputs.iter().map(|probability| Some(class(*probability))).collect::<BooleanArray>());
        }
        let said = outputs.chunks_exact(self.width()).map(|outputs| self.names[likeliest(outputs)].as_str());
        Arc::new(StringArray::from_iter_values(said))
    }

    /// Of yes, where a classifier says yes or no; else of the class that it says.
    fn probability_said(&self, outputs: &[f64]) -> ArrayRef {
        if self.names.is_empty() {
            return Arc::new(Float64Array::from(outputs.to_vec()));
        }
        let of = |outputs: &[f64]| probability(outputs, likeliest(outputs));
        Arc::new(Float64Array::from_iter_values(outputs.chunks_exact(self.width()).map(of)))
    }
}

/// The column of what the model predicted before it learned the row: the probability of yes or of the class that it said, the
/// value, or the probability of the action that was taken.
pub const PREDICTED: &str = "predicted";
/// The column of the class that the model predicted.
pub const PREDICTED_CLASS: &str = "predicted_class";
/// The column of the action that the model would most likely have taken.
pub const PREDICTED_ACTION: &str = "predicted_action";

/// The action that a random number draws.
fn draw(probabilities: &[f64], random: u64) -> usize {
    let mut left = share(random);
    for (at, probability) in probabilities.iter().enumerate() {
        if left < *probability {
            return at;
        }
        left -= probability;
    }
    // What is left is rounding.
    likeliest(probabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_drawn_as_often_as_their_probabilities_say() {
        let probabilities = [0.7, 0.0, 0.3];
        let mut counts = [0_u32; 3];
        for number in 0_u64..10_000 {
            counts[draw(&probabilities, hash(&number.to_le_bytes()))] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((6_800..7_200).contains(&counts[0]), "{counts:?}");
        assert_eq!(draw(&[0.5, 0.499], u64::MAX), 0, "what rounding leaves goes to the likeliest");
    }
}
