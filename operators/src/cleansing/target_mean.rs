//! `target_mean`: a category as what the rows before it say of a target.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Float64Builder, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{is_category, is_number, key, not_reserved, numbers};
use super::moments::Moments;

pub(super) static KIND: StepKind = Kind {
    name: "target_mean",
    about: "Adds, for a category, the mean of a target in the category's earlier rows.\n\n\
            The row itself is never in its mean, so the target does not leak into the features. Rows whose target is missing, as requests' are, \
            get the mean and teach nothing. Of true and false the mean is the share of true. \
            The categories of `by` are taken together; for several means there are several steps.\n\n\
            Few rows say little, so the mean is drawn towards a `prior` as if `weight` more rows had had it: \
            (sum of targets + weight × prior) / (count + weight). See D. Micci-Barreca, *A preprocessing scheme for high-cardinality \
            categorical attributes*, SIGKDD Explorations 3(1), 2001. The prior can be a column, such as what a `target_mean` with no `by` or with a \
            coarser one has added.",
    schema: schema_of::<Config>,
    example: "target: ok\nby: [sensor]\nprior: 0.5\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column of numbers, or of true and false, whose mean is taken.
    target: String,
    /// The columns that make the category; with none, all rows are of one.
    #[serde(default)]
    by: Vec<String>,
    /// The new column; `TARGET_by_BY` if it is left out.
    into: Option<String>,
    /// A number, or a column of numbers: the mean of a category without rows. Without it that is null, and nothing is drawn.
    prior: Option<Prior>,
    /// How many rows the prior counts for.
    weight: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number, or the name of a column of numbers")]
enum Prior {
    Number(f64),
    Column(String),
}

const WEIGHT: f64 = 10.0;

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let (schema, mut problems) = (input.schema, Problems::default());
    let target = problems.take(input.column("target", &config.target));
    if let Some(at) = target.filter(|&at| schema.field(at).data_type() != &DataType::Boolean) {
        problems.take(is_number(schema, "target", at));
    }
    let by = key(schema, &mut problems, &config.by);
    for &at in &by {
        problems.take(is_category(schema, "by", at));
    }
    if config.by.contains(&config.target) {
        problems.push(Problem::new("by", "duplicate-name", "a column cannot be both the category and the target"));
    }
    let prior = towards(&config, input, &mut problems);
    let into = config.into.unwrap_or_else(|| default_name(&config.target, &config.by));
    problems.take(not_reserved("into", &into));
    if schema.index_of(&into).is_ok() {
        let message = format!("there would be two columns called `{into}`");
        problems.push(Problem::new("into", "duplicate-name", message).help("choose another name"));
    }
    problems.finish()?;
    let schema = with_fields(schema, [Field::new(&into, DataType::Float64, true)]);
    let (target, prior) = (target.expect("no problem was found"), prior.expect("no problem was found"));
    let weight = config.weight.unwrap_or(WEIGHT);
    let operator = TargetMean { target, by, into, prior, weight, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

/// The prior; what is wrong with it and its weight goes to `problems`.
fn towards(config: &Config, input: &StepInput<'_>, problems: &mut Problems) -> Option<Towards> {
    if config.weight.is_some() && config.prior.is_none() {
        problems.push(Problem::new("weight", "bad-value", "a weight needs a `prior`"));
    }
    if config.weight.is_some_and(|weight| !(0.0..f64::INFINITY).contains(&weight)) {
        problems.push(Problem::new("weight", "bad-value", "a weight is at least 0"));
    }
    match &config.prior {
        None => Some(Towards::Nothing),
        Some(Prior::Number(number)) => Some(Towards::Number(*number)),
        Some(Prior::Column(name)) => {
            let at = problems.take(input.column("prior", name))?;
            problems.take(is_number(input.schema, "prior", at));
            Some(Towards::Column(at))
        }
    }
}

fn default_name(target: &str, by: &[String]) -> String {
    if by.is_empty() { format!("{target}_mean") } else { format!("{target}_by_{}", by.join("_")) }
}

/// What a mean is drawn towards.
enum Towards {
    Nothing,
    Number(f64),
    Column(usize),
}

struct TargetMean {
    target: usize,
    by: Vec<usize>,
    into: String,
    prior: Towards,
    weight: f64,
    schema: SchemaRef,
}

impl Keyed for TargetMean {
    /// Of the targets so far.
    type State = Moments;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Moments>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let targets = numbers(rows.column(self.target))?;
        let priors = match self.prior {
            Towards::Nothing => Float64Array::new_null(rows.num_rows()),
            Towards::Number(prior) => Float64Array::from_value(prior, rows.num_rows()),
            Towards::Column(at) => numbers(rows.column(at))?,
        };
        let mut means = Float64Builder::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            means.append_option(self.mean(states.get(row), priors.is_valid(row).then(|| priors.value(row))));
            if targets.is_valid(row) {
                states.update(row, |known| known.push(targets.value(row)));
            }
        }
        let column = Arc::new(means.finish()) as ArrayRef;
        Ok(Some(with_columns(&self.schema, rows, vec![(&self.into, column)])?))
    }

    fn expired(&self, _: &Moments, _: i64) -> bool {
        false
    }
}

impl TargetMean {
    fn mean(&self, known: &Moments, prior: Option<f64>) -> Option<f64> {
        match (known.mean(), prior) {
            (Some(mean), Some(prior)) => {
                let share = known.count() as f64 / (known.count() as f64 + self.weight);
                Some(mean * share + prior * (1.0 - share))
            }
            (mean, prior) => mean.or(prior),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, own_columns, problems, random_rows};
    use super::super::running::oracle::{assert_near, earlier};

    const ROWS: &str = "
        t sensor ok    temperature
        1 a      true  1
        2 a      null  2
        3 a      true  3
        4 b      false 4
        5 a      false 5
        6 a      true  6
        7 null   true  7
        8 null   null  8";

    #[test]
    fn categories_have_the_mean_of_the_rows_before() {
        check(
            &super::KIND,
            &json!({"target": "ok", "by": ["sensor"], "prior": 0.25, "weight": 2}),
            ROWS,
            "t sensor ok    temperature ok_by_sensor
             1 a      true  1           0.25
             2 a      null  2           0.5
             3 a      true  3           0.5
             4 b      false 4           0.25
             5 a      false 5           0.625
             6 a      true  6           0.5
             7 null   true  7           0.25
             8 null   null  8           0.5",
        );
        let rows = "t sensor ok\n1 a true\n2 a false\n3 a null";
        let config = json!({"target": "ok", "by": ["sensor"], "into": "m"});
        check(&super::KIND, &config, rows, "t sensor ok m\n1 a true null\n2 a false 1\n3 a null 0.5");
    }

    #[test]
    fn a_column_can_be_the_prior() {
        let config = json!({"target": "count", "prior": "temperature", "weight": 1});
        let rows = "t count temperature\n1 4 2\n2 8 8\n3 null null\n4 null 3";
        check(
            &super::KIND,
            &config,
            rows,
            "t count temperature count_mean\n1 4 2 2\n2 8 8 6\n3 null null 6\n4 null 3 5",
        );
    }

    #[test]
    fn requests_teach_nothing() {
        let config = json!({"target": "ok", "by": ["sensor"], "prior": 0.5});
        check_serve(
            &super::KIND,
            &config,
            "t sensor ok\n1 a true\n2 a null",
            "t sensor ok ok_by_sensor\n1 a true 0.5\n2 a null 0.5",
        );
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        let seed = 23;
        let rows = random_rows(&mut Random::new(seed), 400);
        let config = json!({"target": "temperature", "by": ["sensor", "room"], "prior": -3, "weight": 2.5});
        let output = Bench::new(&super::KIND, &config).learn(&rows);
        let expected = earlier(&rows, "temperature", &["sensor", "room"]).into_iter().map(|(_, before)| {
            let sum: f64 = before.iter().sum();
            (Some((sum - 3.0 * 2.5) / (before.len() as f64 + 2.5)), 1e-9)
        });
        assert_near(&output, "temperature_by_sensor_room", expected);
    }

    #[test]
    fn columns_are_added() {
        let config = json!({"target": "ok", "by": ["sensor", "room"]});
        let expected = "sensor room temperature humidity count at ok ok_by_sensor_room";
        assert_eq!(own_columns(&super::KIND, &config), expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config =
            json!({"target": "room", "by": ["room", "at", "x"], "into": "ok", "prior": "sensor", "weight": -1});
        let expected = "target wrong-type; by.2 unknown-column; by wrong-type; by duplicate-name; \
                        weight bad-value; prior wrong-type; into duplicate-name";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"target": "y", "into": "_time", "weight": 1});
        let expected = "target unknown-column; weight bad-value; into reserved-column; into duplicate-name";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"target": "ok", "prior": []})), "prior bad-value");
    }
}
