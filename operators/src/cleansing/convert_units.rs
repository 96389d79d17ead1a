//! `convert_units`: numbers in another unit of their dimension.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{Otherwise, changeable_each, is_number, is_text, numbers, repaired, shown};
use super::units::{Conversion, Unit, symbols, unit};

pub(super) static KIND: StepKind = Kind {
    name: "convert_units",
    about: "Numbers in another unit of their dimension: `mph -> m/s`.\n\n\
            Where each record says its unit in a text column, `unit_from` names that column; it stays as it is. \
            Units are written as usual (`km/h`, `°F`, `m2`, `hPa`, `kWh`, `lb`, `MiB`, `%`) or by their English names, \
            in any case where that leaves no doubt (`mW` and `MW` do). The columns become floats.",
    schema: schema_of::<Config>,
    example: "columns: {temperature: \"°F -> °C\", humidity: {unit_from: room, from: \"%\", to: ratio}}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns of numbers, and from which unit to which each goes.
    columns: BTreeMap<String, Change>,
    /// What becomes of a number whose record names no unit, one that is unknown, or one of another dimension. Default:
    /// `dead_letter`.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text like `mph -> m/s`, or {unit_from: COLUMN, to: UNIT}")]
enum Change {
    Declared(String),
    Stated(Stated),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stated {
    /// The text column that names each number's unit.
    unit_from: String,
    /// The unit that all get.
    to: String,
    /// The unit of numbers whose record names none.
    from: Option<String>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let mut columns = Vec::new();
    for (at, change) in changeable_each(input.schema, &mut problems, &config.columns) {
        let path = format!("columns.{}", input.schema.field(at).name());
        problems.take(is_number(input.schema, &path, at));
        let from = match change {
            Change::Declared(text) => declared(text, &path, &mut problems),
            Change::Stated(stated) => stated.plan(&path, input, &mut problems),
        };
        columns.extend(from.map(|from| (at, from)));
    }
    problems.finish()?;
    let fields = columns.iter().map(|(at, _)| input.schema.field(*at).clone().with_data_type(DataType::Float64));
    let schema = with_fields(input.schema, fields.map(|field| field.with_nullable(true)));
    let operator = ConvertUnits { columns, otherwise: config.otherwise, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

fn declared(text: &str, path: &str, problems: &mut Problems) -> Option<Source> {
    let Some((from, to)) = text.split_once("->") else {
        let message = format!("`{text}` does not say from which unit to which");
        problems.push(Problem::new(path, "bad-value", message).help("write `mph -> m/s`"));
        return None;
    };
    let (from, to) = (known(from, None, path, problems), known(to, None, path, problems));
    let (from, to) = (from?, to?);
    problems.take(same_dimension(from, to, path))?;
    Some(Source::Declared(Conversion::new(from, to)))
}

impl Stated {
    fn plan(&self, path: &str, input: &StepInput<'_>, problems: &mut Problems) -> Option<Source> {
        let place = format!("{path}.unit_from");
        let at = problems.take(input.column(&place, &self.unit_from));
        if let Some(at) = at {
            problems.take(is_text(input.schema, &place, at));
        }
        let to = known(&self.to, None, &format!("{path}.to"), problems)?;
        let mut default = None;
        if let Some(from) = &self.from {
            let place = format!("{path}.from");
            let from = known(from, Some(to.dimension), &place, problems)?;
            problems.take(same_dimension(from, to, &place))?;
            default = Some(Conversion::new(from, to));
        }
        Some(Source::Stated { at: at?, to, default })
    }
}

fn known(name: &str, dimension: Option<&str>, path: &str, problems: &mut Problems) -> Option<&'static Unit> {
    let name = name.trim();
    let problem = || Problem::new(path, "unknown-unit", format!("there is no unit `{name}`"));
    problems.take(unit(name).ok_or_else(|| problem().choices(name, symbols(dimension))))
}

fn same_dimension(from: &Unit, to: &Unit, path: &str) -> Result<(), Problem> {
    if from.dimension == to.dimension {
        return Ok(());
    }
    let message =
        format!("`{}` is a unit of {}, and `{}` one of {}", from.symbol(), from.dimension, to.symbol(), to.dimension);
    Err(Problem::new(path, "mixed-dimensions", message).choices(to.symbol(), symbols(Some(from.dimension))))
}

/// Where the unit of a column's numbers is known from.
enum Source {
    Declared(Conversion),
    Stated { at: usize, to: &'static Unit, default: Option<Conversion> },
}

struct ConvertUnits {
    columns: Vec<(usize, Source)>,
    otherwise: Otherwise,
    schema: SchemaRef,
}

impl Transform for ConvertUnits {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut columns: Vec<(&str, ArrayRef)> = Vec::with_capacity(self.columns.len());
        for (at, source) in &self.columns {
            let (name, values) = (self.schema.field(*at).name().as_str(), numbers(rows.column(*at))?);
            let converted = match *source {
                Source::Declared(conversion) => values.unary::<_, Float64Type>(|value| conversion.apply(value)),
                Source::Stated { at, to, default } => {
                    let conversion = |unit: &str| conversion(unit, to, default);
                    let refuse = |row, reason: &str| {
                        self.otherwise.refuse(rejects, row, || format!("column `{name}`: {reason}"));
                    };
                    stated(&values, rows.column(at).as_string(), conversion, refuse)
                }
            };
            columns.push((name, Arc::new(converted)));
        }
        repaired(&self.schema, rows, columns, rejects)
    }
}

/// Converts each of `values` from its own unit.
fn stated(
    values: &Float64Array,
    units: &StringArray,
    conversion: impl Fn(&str) -> Result<Conversion, String>,
    mut refuse: impl FnMut(usize, &str),
) -> Float64Array {
    // Units mostly come in runs.
    let mut last: Option<(&str, Result<Conversion, String>)> = None;
    let convert = |(row, value): (usize, Option<f64>)| {
        let value = value?;
        let unit = if units.is_null(row) { "" } else { units.value(row).trim() };
        if last.as_ref().is_none_or(|(known, _)| *known != unit) {
            last = Some((unit, conversion(unit)));
        }
        match &last {
            Some((_, Ok(conversion))) => Some(conversion.apply(value)),
            Some((_, Err(reason))) => {
                refuse(row, reason);
                None
            }
            None => None,
        }
    };
    values.iter().enumerate().map(convert).collect()
}

fn conversion(name: &str, to: &Unit, default: Option<Conversion>) -> Result<Conversion, String> {
    if name.is_empty() {
        return default.ok_or_else(|| "its unit is not stated".to_owned());
    }
    let from = unit(name).ok_or_else(|| format!("there is no unit {}", shown(name)))?;
    if from.dimension != to.dimension {
        return Err(format!("{} is a unit of {}, not of {}", shown(name), from.dimension, to.dimension));
    }
    Ok(Conversion::new(from, to))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, plan, problems};

    #[test]
    fn declared_units_are_converted() {
        check(
            &super::KIND,
            &json!({"columns": {"temperature": "°F -> °C", "humidity": "mph->m/s", "count": "kg -> g"}}),
            "t temperature humidity count
             1 50          100      3
             2 null        NaN      null",
            "t temperature humidity count
             1 10          44.704   3000
             2 null        null     null",
        );
    }

    #[test]
    fn each_record_may_state_its_unit() {
        let mut config = json!({"columns": {"temperature": {"unit_from": "room", "to": "°C"}}});
        let rows = "t temperature room
                    1 50          F
                    2 68          fahrenheit
                    3 21.5        ␣°C
                    4 273.15      K
                    5 20          furlong
                    6 20          kg
                    7 20          null
                    8 null        furlong";
        check(
            &super::KIND,
            &config,
            rows,
            "t temperature room
             1 10 F
             2 20 fahrenheit
             3 21.5 ␣°C
             4 0 K
             8 null furlong
             row 4: column `temperature`: there is no unit `furlong`
             row 5: column `temperature`: `kg` is a unit of mass, not of temperature
             row 6: column `temperature`: its unit is not stated",
        );
        config["otherwise"] = json!("null");
        config["columns"]["temperature"]["from"] = json!("°F");
        let expected = "t temperature room\n1 null furlong\n2 10 null\n3 10 ∅";
        check(&super::KIND, &config, "t temperature room\n1 50 furlong\n2 50 null\n3 50 ∅", expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": {
            "temperature": "mph -> kg",
            "humidity": {"unit_from": "count", "to": "m/s", "from": "K"},
            "count": "furlong -> mw",
            "room": "m",
            "_time": "s -> h",
        }});
        let expected = "columns._time reserved-column; columns.count unknown-unit; columns.count unknown-unit; \
                        columns.humidity.unit_from wrong-type; columns.humidity.from mixed-dimensions; \
                        columns.room wrong-type; columns.room bad-value; columns.temperature mixed-dimensions";
        assert_eq!(problems(&super::KIND, &config), expected);
    }

    #[test]
    fn units_of_the_same_dimension_are_offered() {
        let found = plan(&super::KIND, &json!({"columns": {"temperature": "mph -> kg"}})).err().expect("a problem");
        let (wanted, choices) = found[0].choices.as_ref().expect("choices");
        assert_eq!((wanted.as_str(), &choices[..2]), ("kg", &["m/s".to_owned(), "km/h".to_owned()][..]));
    }
}
