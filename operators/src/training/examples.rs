//! The columns that say what there is to learn from a row: its label, its weight, its action.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use millstream_engine::batch::META;
use millstream_engine::catalogue::{Problem, Problems, StepInput, column};
use millstream_engine::operator::Rejects;
use millstream_engine::{Fault, Result};

use serde_json::Value;

use super::{LabelConfig, TrainingConfig};
use crate::inference::{Outputs, is_number};
use crate::models::{Example, TARGET_MAX, Task};

/// All that rows say to a model that learns.
#[derive(Clone, Debug)]
pub(super) struct Examples {
    label: Option<Told>,
    /// The label, where it comes later.
    later: Option<Told>,
    weight: Option<Told>,
    action: Option<Told>,
    propensity: Option<Told>,
}

impl Examples {
    /// Checks the columns that a configuration names for what a model with these `outputs` has to know.
    pub(super) fn plan(
        input: &StepInput<'_>,
        config: &TrainingConfig,
        task: Task,
        outputs: &Outputs,
        problems: &mut Problems,
    ) -> Self {
        let schema = input.schema;
        let names = outputs.names();
        let says = match task {
            Task::Classification if config.classes.is_none() => Says::YesNo,
            Task::Classification => Says::Name,
            _ => Says::Number,
        };
        let mut told =
            |what, name: &Option<String>, says| problems.take(Told::plan(schema, what, name.as_deref()?, says, &names));
        let label = match &config.label {
            Some(LabelConfig::Column(name)) => told("label", &Some(name.clone()), says),
            _ => None,
        };
        let weight = told("weight", &config.weight, Says::Weight);
        let action = told("action", &config.action, Says::Name);
        let propensity = told("propensity", &config.propensity, Says::Probability);
        let mut missing = |key: &'static str, why: &str, help: &str| {
            problems.push(Problem::new(key, "needed-by-learner", format!("`{key}` is missing: {why}")).help(help));
        };
        if config.label.is_none() && task.is_supervised() {
            missing("label", "the model learns to tell it", "name the column that says what the model is to tell");
        }
        if task == Task::Choice && config.action.is_none() {
            missing("action", "the model learns which action earns most", "name the column that says what was done");
        }
        if task != Task::Choice {
            let forbidden = [("action", &config.action), ("propensity", &config.propensity)];
            for (key, _) in forbidden.iter().filter(|(_, column)| column.is_some()) {
                problems.push(Problem::new(key, "bad-value", format!("`{key}` is for models that choose actions")));
            }
        }
        let later = match &config.label {
            Some(LabelConfig::Later(later)) => input.streams.get(&later.from).and_then(|labels| {
                let told = Told::plan(labels, "label", &later.column, says, &names);
                problems
                    .take(told.map_err(|problem| Problem { path: vec!["label".into(), "column".into()], ..problem }))
            }),
            _ => None,
        };
        Self { label, later, weight, action, propensity }
    }

    /// Reads a label that stands in the definition.
    pub(super) fn constant(value: &Value, task: Task, outputs: &Outputs) -> Result<f64, Problem> {
        let refuse = |message: String| Err(Problem::new("", "label-type", message));
        match (task, value) {
            (Task::Classification, _) => {
                let name = super::name(value);
                match outputs.names().iter().position(|other| *other == name) {
                    Some(class) => Ok(class as f64),
                    None => refuse(format!("`{name}` is none of the classes {}", outputs.names().join(", "))),
                }
            }
            (_, value) => match value.as_f64().filter(|number| number.abs() <= TARGET_MAX) {
                Some(number) => Ok(number),
                None => refuse(format!("`{value}` is no number")),
            },
        }
    }

    /// Rejects the labels that cannot be learned from, of a stream of labels, and gives them all.
    pub(super) fn read_later(&self, rows: &RecordBatch, labels: &mut Vec<f64>, rejects: &mut Rejects) -> Result<()> {
        self.later.as_ref().map_or(Ok(()), |later| later.read(rows, labels, rejects))
    }

    /// Rejects the rows that cannot be learned from, and gives what all rows say.
    pub(super) fn read(&self, rows: &RecordBatch, examples: &mut Vec<Example>, rejects: &mut Rejects) -> Result<()> {
        examples.clear();
        examples.resize(rows.num_rows(), Example::of(0.0));
        let mut told = Vec::new();
        let mut each = |column: &Option<Told>, set: fn(&mut Example, f64)| {
            let Some(column) = column else { return Ok(()) };
            column.read(rows, &mut told, rejects)?;
            examples.iter_mut().zip(&told).for_each(|(example, value)| set(example, *value));
            Ok::<(), Fault>(())
        };
        each(&self.label, |example, value| example.target = value)?;
        each(&self.weight, |example, value| example.weight = value)?;
        each(&self.action, |example, value| example.action = value as u32)?;
        each(&self.propensity, |example, value| example.propensity = value)
    }
}

/// What a column says to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Yes or no.
    YesNo,
    /// One of some names.
    Name,
    /// A number.
    Number,
    /// How much an example counts: a number that is not negative.
    Weight,
    /// A probability that is not zero.
    Probability,
}

/// A checked column of what examples say.
#[derive(Clone, Debug)]
struct Told {
    /// What it is called in messages: `label`.
    what: &'static str,
    name: String,
    column: usize,
    says: Says,
    /// The numbers of the names.
    numbers: HashMap<String, u32>,
}

impl Told {
    /// Checks the column `name`, which stands under the key `what`, for what it has to say; `names` are those that it may say.
    fn plan(schema: &SchemaRef, what: &'static str, name: &str, says: Says, names: &[String]) -> Result<Self, Problem> {
        let column = column(schema, what, name)?;
        let kind = schema.field(column).data_type();
        let problem = |code, message: String, help: &str| Err(Problem::new(what, code, message).help(help));
        if column < META {
            return problem("engine-column", format!("`{name}` is the engine's"), "name a column of your own");
        }
        match says {
            Says::YesNo if !(kind == &DataType::Boolean || kind.is_integer()) => problem(
                "label-type",
                format!("`{name}` is {kind}, but this model tells yes from no"),
                "derive a boolean, as in `derive: {late: \"delay > 15\"}`, name the `classes`, or use a model that learns numbers",
            ),
            Says::Name if !(kind == &DataType::Boolean || kind.is_integer() || kind == &DataType::Utf8) => problem(
                "label-type",
                format!("`{name}` is {kind}, but names are text"),
                "derive a text from it, as in `cast(x as text)`",
            ),
            Says::Number | Says::Weight | Says::Probability if !is_number(kind) => problem(
                "label-type",
                format!("`{name}` is {kind}, but this has to be a number"),
                if says == Says::Number {
                    "derive a number from it, or use a model that tells yes from no"
                } else {
                    "derive a number from it"
                },
            ),
            _ => {
                let numbers = (0..).zip(names).map(|(number, name)| (name.clone(), number)).collect();
                Ok(Self { what, name: name.to_owned(), column, says, numbers })
            }
        }
    }

    /// Rejects the rows that cannot be learned from, and puts what all rows say into `told`.
    fn read(&self, rows: &RecordBatch, told: &mut Vec<f64>, rejects: &mut Rejects) -> Result<()> {
        told.clear();
        let (what, name, values) = (self.what, &self.name, rows.column(self.column));
        if self.says == Says::Name {
            return self.read_names(rows, told, rejects);
        }
        if let (Some(flags), 0) = (values.as_boolean_opt(), values.null_count()) {
            // Whatever it says, 0 and 1 are fine.
            told.extend(flags.values().iter().map(f64::from));
            return Ok(());
        }
        let numbers = cast(values, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        told.extend_from_slice(numbers.values());
        for (row, value) in told.iter().enumerate() {
            if values.is_null(row) {
                rejects.push(row, format!("{what} `{name}` is null: nothing to learn from"));
                continue;
            }
            let wanted = match self.says {
                Says::YesNo if ![0.0, 1.0].contains(value) => "wanted 0 or 1",
                Says::Weight if *value < 0.0 => "wanted 0 or more",
                Says::Probability if !(*value > 0.0 && *value <= 1.0) => "wanted more than 0 and at most 1",
                _ if !value.is_finite() || value.abs() > TARGET_MAX => "out of range",
                _ => continue,
            };
            rejects.push(row, format!("{what} `{name}` is {value}, {wanted}"));
        }
        Ok(())
    }

    fn read_names(&self, rows: &RecordBatch, told: &mut Vec<f64>, rejects: &mut Rejects) -> Result<()> {
        let (what, name) = (self.what, &self.name);
        let texts = cast(rows.column(self.column), &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        for row in 0..rows.num_rows() {
            let number = if texts.is_null(row) {
                rejects.push(row, format!("{what} `{name}` is null: nothing to learn from"));
                None
            } else {
                let number = self.numbers.get(texts.value(row));
                if number.is_none() {
                    rejects.push(row, format!("{what} `{name}` is `{}`, which is not listed", texts.value(row)));
                }
                number
            };
            told.push(number.copied().map_or(0.0, f64::from));
        }
        Ok(())
    }
}
