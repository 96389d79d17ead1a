//! From a batch's columns to rows of features: the one place for both, learning and answering.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, SchemaRef, UInt32Type};
use millstream_engine::Result;
use millstream_engine::batch::META;
use millstream_engine::catalogue::{Planned, Problem, Problems, column};
use millstream_engine::operator::Rejects;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::{Matrix, Names, Shape};

/// The metadata of a `UInt32` field that says: these are codes, and how many there are.
pub const CATEGORIES: &str = "categories";

/// How many categories a model may have over all columns: each costs up to 24 bytes, twice while a revision answers.
const CATEGORIES_MAX: usize = 1 << 24;

/// The columns that a model looks at, in its order.
#[derive(Debug)]
pub struct Features {
    columns: Vec<Feature>,
    shape: Shape,
}

/// One of the columns.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    /// The column's name.
    pub name: String,
    /// Its type in the stream.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Where it is in the model.
    #[serde(flatten)]
    pub place: Place,
    /// What is read: the column itself, or those whose codes together are one code here.
    #[serde(skip)]
    columns: Vec<Column>,
}

/// A column of the stream.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    at: usize,
    /// How many categories it has, if it has categories.
    categories: u32,
}

/// A feature, as a definition names it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FeatureConfig {
    /// A column of numbers, booleans, or categories.
    Column(String),
    /// Columns of categories whose combinations are categories.
    Cross(Cross),
    /// Columns with what `lag` added to them, as a sequence.
    Moments(Moments),
}

/// Columns of numbers with what `lag` added to them: a sequence, the oldest first, and at each of its moments all columns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// The columns.
    pub moments: Vec<String>,
    /// How many moments there are, the present one among them: one more than `lag` has rows, at most.
    pub steps: u32,
}

/// Columns of categories whose combinations are categories, so that a linear model can tell what only two together say.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cross {
    /// The columns of categories, at least two.
    pub cross: Vec<String>,
    /// Into how many categories the combinations are hashed.
    pub buckets: u32,
}

impl FeatureConfig {
    /// What the feature is called.
    pub fn name(&self) -> String {
        match self {
            Self::Column(name) => name.clone(),
            Self::Cross(cross) => cross.cross.join(" x "),
            Self::Moments(moments) => format!("moments of {}", moments.moments.join(", ")),
        }
    }

    /// The columns that it is made of.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Column(name) => std::slice::from_ref(name),
            Self::Cross(cross) => &cross.cross,
            Self::Moments(moments) => &moments.moments,
        }
    }
}

/// Where a column is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It is this one of the numbers.
    Number(usize),
    /// It picks one of `categories`, which start at `offset`.
    Category {
        /// Index of the column among the categorical ones.
        slot: usize,
        /// The index of its first category.
        offset: u32,
        /// How many categories it has.
        categories: u32,
    },
}

impl Features {
    /// Checks the columns `names` against the stream's schema; problems are at `features.N`.
    pub fn plan(schema: &SchemaRef, configs: &[FeatureConfig]) -> Planned<Self> {
        let mut problems = Problems::default();
        let mut features =
            Self { columns: Vec::new(), shape: Shape { dense: 0, active: 0, categories: 0, classes: 0 } };
        for (at, config) in configs.iter().enumerate() {
            let (path, name) = (format!("features.{at}"), config.name());
            if configs[..at].iter().any(|before| before.name() == name) {
                problems.push(Problem::new(&path, "duplicate-feature", format!("`{name}` is listed twice")));
                continue;
            }
            match config {
                FeatureConfig::Column(name) => {
                    let Some(column) = problems.take(column(schema, &path, name)) else { continue };
                    problems.take(features.add(schema, column, &path));
                }
                FeatureConfig::Cross(cross) => drop(problems.take_all(features.cross(schema, cross, &path))),
                FeatureConfig::Moments(moments) => drop(problems.take_all(features.moments(schema, moments, &path))),
            }
        }
        problems.finish().map(|()| features)
    }

    fn add(&mut self, schema: &SchemaRef, column: usize, path: &str) -> Result<(), Problem> {
        let field = schema.field(column);
        let name = field.name().clone();
        if column < META {
            return Err(Problem::new(path, "engine-column", format!("`{name}` is the engine's"))
                .help("a request has other values there than training records; derive a column of your own"));
        }
        let place = match (field.data_type(), categories(field)) {
            (DataType::UInt32, Some(categories)) => self.category(&name, categories, path)?,
            (kind, _) if kind == &DataType::Boolean || is_number(kind) => {
                self.shape.dense += 1;
                Place::Number(self.shape.dense - 1)
            }
            (kind, _) => {
                return Err(Problem::new(path, "not-a-number", format!("`{name}` is {kind}; a model takes numbers"))
                    .help("derive a number from it, or use hash_category or one_hot"));
            }
        };
        let columns =
            vec![Column { name: name.clone(), at: column, categories: categories(field).unwrap_or_default() }];
        self.columns.push(Feature { name, data_type: field.data_type().to_string(), place, columns });
        Ok(())
    }

    /// A place for one more column of categories.
    fn category(&mut self, name: &str, categories: u32, path: &str) -> Result<Place, Problem> {
        if self.shape.categories + categories as usize > CATEGORIES_MAX {
            let message = format!("with `{name}` there are more than {CATEGORIES_MAX} categories");
            return Err(Problem::new(path, "too-many-categories", message).help("hash into fewer buckets"));
        }
        let (slot, offset) = (self.shape.active, self.shape.categories as u32);
        self.shape.active += 1;
        self.shape.categories += categories as usize;
        Ok(Place::Category { slot, offset, categories })
    }

    fn cross(&mut self, schema: &SchemaRef, config: &Cross, path: &str) -> Planned<()> {
        let mut problems = Problems::default();
        if config.cross.len() < 2 {
            let message = "a cross is of two columns or more";
            problems.push(Problem::new(&format!("{path}.cross"), "out-of-range", message));
        }
        if config.buckets == 0 {
            let message = "0 buckets hold nothing";
            problems.push(Problem::new(&format!("{path}.buckets"), "out-of-range", message).help("write 4096"));
        }
        let mut columns = Vec::new();
        for (at, name) in config.cross.iter().enumerate() {
            let path = format!("{path}.cross.{at}");
            let Some(column) = problems.take(column(schema, &path, name)) else { continue };
            let Some(categories) = categories(schema.field(column)) else {
                let message = format!("`{name}` is no column of categories");
                problems.push(Problem::new(&path, "not-a-category", message).help("use hash_category first"));
                continue;
            };
            columns.push(Column { name: name.clone(), at: column, categories });
        }
        problems.finish()?;
        let name = config.cross.join(" x ");
        let place = self.category(&name, config.buckets, path).map_err(|problem| vec![problem])?;
        self.columns.push(Feature { name, data_type: DataType::UInt32.to_string(), place, columns });
        Ok(())
    }

    fn moments(&mut self, schema: &SchemaRef, config: &Moments, path: &str) -> Planned<()> {
        let mut problems = Problems::default();
        if !(2..=256).contains(&config.steps) || config.moments.is_empty() {
            let message = "a sequence is of 1 column or more, and of 2 to 256 moments";
            problems.push(Problem::new(path, "out-of-range", message));
            return problems.finish();
        }
        for back in (0..config.steps).rev() {
            for (at, name) in config.moments.iter().enumerate() {
                let name = if back == 0 { name.clone() } else { format!("{name}_{back}") };
                let path = format!("{path}.moments.{at}");
                let Some(column) = problems.take(column(schema, &path, &name)) else { continue };
                problems.take(self.add(schema, column, &path));
            }
        }
        problems.finish()
    }

    /// What the places of a row are called; there are no classes yet.
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for feature in &self.columns {
            match feature.place {
                Place::Number(_) => names.dense.push(feature.name.clone()),
                Place::Category { offset, .. } => names.categories.push((feature.name.clone(), offset)),
            }
        }
        names
    }

    /// The shape of the rows, without classes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The columns, in the model's order.
    pub fn columns(&self) -> &[Feature] {
        &self.columns
    }

    /// Rejects the rows that have no usable value somewhere.
    pub fn check(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<()> {
        // What crosses are of is checked with them.
        for feature in &self.columns {
            for column in &feature.columns {
                check(feature.place, column, rows.column(column.at), rejects)?;
            }
        }
        Ok(())
    }

    /// Fills `matrix` from rows that all passed [`Features::check`].
    pub fn read(&self, rows: &RecordBatch, matrix: &mut Matrix) -> Result<()> {
        matrix.resize(rows.num_rows());
        let codes = |column: &Column| rows.column(column.at).as_primitive::<UInt32Type>().values();
        for Feature { place, columns, .. } in &self.columns {
            match (*place, columns.as_slice()) {
                (Place::Number(slot), columns) => set_numbers(rows.column(columns[0].at), slot, matrix)?,
                (Place::Category { slot, offset, .. }, [column]) => {
                    matrix.set_active(slot, codes(column).iter().map(|code| offset + code));
                }
                (Place::Category { slot, offset, categories }, columns) => {
                    let mut hashes = vec![0_u64; rows.num_rows()];
                    for column in columns {
                        hashes.iter_mut().zip(codes(column)).for_each(|(hash, code)| *hash = mixed(*hash, *code));
                    }
                    let buckets = hashes.iter().map(|hash| ((hash >> 32) * u64::from(categories)) >> 32);
                    matrix.set_active(slot, buckets.map(|bucket| offset + bucket as u32));
                }
            }
        }
        Ok(())
    }
}

/// One more code of a combination, mixed into its hash (the finaliser of split-mix).
fn mixed(hash: u64, code: u32) -> u64 {
    let sum = hash.wrapping_add(u64::from(code) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let once = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    twice ^ (twice >> 31)
}

/// Rejects the rows that have no usable value in a column of a feature.
fn check(place: Place, column: &Column, values: &ArrayRef, rejects: &mut Rejects) -> Result<()> {
    let Column { name, categories, .. } = column;
    if values.null_count() > 0 {
        reject(values, rejects, |row| {
            values.is_null(row).then(|| format!("feature `{name}` is null: add an `impute` step before the model"))
        });
    }
    match place {
        Place::Number(_) => {
            if let Some(numbers) = floats(values)?
                && !all_finite(numbers.values())
            {
                reject(values, rejects, |row| not_finite(name, numbers.value(row)));
            }
        }
        Place::Category { .. } => {
            let codes = values.as_primitive::<UInt32Type>().values();
            if codes.iter().fold(0, |most, code| most.max(*code)) >= *categories {
                reject(values, rejects, |row| {
                    (codes[row] >= *categories)
                        .then(|| format!("feature `{name}` has code {}, but only {categories} categories", codes[row]))
                });
            }
        }
    }
    Ok(())
}

fn set_numbers(values: &ArrayRef, slot: usize, matrix: &mut Matrix) -> Result<()> {
    match values.data_type() {
        DataType::Int64 => {
            let values = values.as_primitive::<Int64Type>().values();
            matrix.set_dense(slot, values.iter().map(|value| *value as f64));
        }
        DataType::Boolean => {
            let values = values.as_boolean().values();
            matrix.set_dense(slot, values.iter().map(f64::from));
        }
        _ => matrix.set_dense(slot, as_floats(values)?.values().iter().copied()),
    }
    Ok(())
}

/// Whether all numbers are finite, without a branch for each.
fn all_finite(numbers: &[f64]) -> bool {
    numbers.iter().fold(true, |all, number| all & number.is_finite())
}

/// The reason to refuse a number.
fn not_finite(name: &str, value: f64) -> Option<String> {
    (!value.is_finite())
        .then(|| format!("feature `{name}` is {value}: add a `require` or an `impute` step before the model"))
}

/// Rejects the rows with a value for which there is a `reason`. A null has none: what lies under it is arbitrary.
fn reject(values: &ArrayRef, rejects: &mut Rejects, reason: impl Fn(usize) -> Option<String>) {
    for row in 0..values.len() {
        if let Some(reason) = reason(row) {
            rejects.push(row, reason);
        }
    }
}

/// How many categories a field's codes stand for.
fn categories(field: &Field) -> Option<u32> {
    field.metadata().get(CATEGORIES)?.parse().ok()
}

/// Whether a column of this type can be learned as a number.
pub fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || matches!(kind, DataType::Float32 | DataType::Float64)
}

/// The column as `Float64`, where its type can hold what is not finite.
fn floats(values: &ArrayRef) -> Result<Option<Cow<'_, Float64Array>>> {
    match values.data_type() {
        DataType::Float32 | DataType::Float64 => as_floats(values).map(Some),
        _ => Ok(None),
    }
}

fn as_floats(values: &ArrayRef) -> Result<Cow<'_, Float64Array>> {
    match values.data_type() {
        DataType::Float64 => Ok(Cow::Borrowed(values.as_primitive::<Float64Type>())),
        _ => Ok(Cow::Owned(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())),
    }
}
