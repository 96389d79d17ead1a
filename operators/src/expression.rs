//! SQL scalar expressions over batches, compiled once.
//!
//! An expression reads the columns of one row and gives one value. Names are exact, as declared; text stands in
//! single quotes, and a name with unusual characters in double quotes: `"dep.delay" > 15 and carrier = 'AA'`.
//! Only functions that always give the same result for the same row are there, so that a replay gives the same values.
//!
//! Values have the types of a definition's columns (text, int, float, bool, timestamp); other numeric, text and date
//! types that SQL computes with are turned into these. Only a bare column name keeps that column's exact type.
//! Integers that overflow, a division by zero, an impossible cast or an instant beyond the years 1 to 9999 reject the row, and no
//! other row with it.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::util::display::FormatOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Expr, Volatility};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, visit_expressions};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::Token;
use millstream_engine::Result;
use millstream_engine::catalogue::{Planned, Problem, Problems, column};
use millstream_engine::operator::Rejects;
use millstream_engine::time::in_range;

mod functions;
mod ranges;

use functions::FUNCTIONS;
use ranges::Ranges;

/// A compiled SQL expression.
#[derive(Clone, Debug)]
pub struct Expression {
    sql: String,
    physical: Arc<dyn PhysicalExpr>,
    /// The same, where it only asks for ranges of numbers.
    ranges: Option<Ranges>,
    field: Field,
}

impl Expression {
    /// Compiles `sql` against the columns of `schema`; problems are at `path`.
    pub fn compile(sql: &str, schema: &SchemaRef, path: &str) -> Planned<Self> {
        let parsed = parse(sql, path)?;
        check_names(&parsed, schema, path)?;
        let (physical, field) = plan(parsed, schema).map_err(|error| vec![bad(path, sql, &error)])?;
        let Some(kind) = column_type(&physical, &field) else {
            let message = format!("`{sql}` gives {}, which no column can hold", field.data_type());
            return Err(vec![Problem::new(path, "wrong-type", message).help(advice(field.data_type()))]);
        };
        let ranges = Ranges::of(physical.as_ref());
        Ok(Self { sql: sql.to_owned(), physical, ranges, field: field.with_data_type(kind) })
    }

    /// Like [`Expression::compile`], for a condition.
    pub fn predicate(sql: &str, schema: &SchemaRef, path: &str) -> Planned<Self> {
        let expression = Self::compile(sql, schema, path)?;
        if *expression.data_type() == DataType::Boolean {
            return Ok(expression);
        }
        let message = format!("`{sql}` gives {}, not true or false", expression.data_type());
        Err(vec![Problem::new(path, "wrong-type", message).help("write a condition, such as `temperature < 50`")])
    }

    /// The columns that `sql` names, whether they exist or not.
    pub fn columns_of(sql: &str, path: &str) -> Planned<BTreeSet<String>> {
        let mut columns = BTreeSet::new();
        let _ = visit_expressions(&parse(sql, path)?, |node| {
            if let ast::Expr::Identifier(name) = node {
                columns.insert(name.value.clone());
            }
            ControlFlow::<()>::Continue(())
        });
        Ok(columns)
    }

    /// The expression as it was written.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The type of its values.
    pub fn data_type(&self) -> &DataType {
        self.field.data_type()
    }

    /// Whether a value may be null.
    pub fn nullable(&self) -> bool {
        self.field.is_nullable()
    }

    /// A column called `name` that holds its values.
    pub fn field(&self, name: &str) -> Field {
        // A rejected row's place holds null until the caller has removed it.
        self.field.clone().with_name(name).with_nullable(true)
    }

    /// A value for each row. A row whose value cannot be computed is rejected, and has null here.
    pub fn evaluate(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<ArrayRef> {
        let mut parts = Vec::new();
        self.evaluate_part(rows, 0, &mut parts, rejects);
        match parts.as_slice() {
            [] => Ok(new_empty_array(self.data_type())),
            [one] => Ok(one.clone()),
            _ => Ok(concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
        }
    }

    /// The outcome of a predicate for each row; see [`Expression::evaluate`].
    pub fn test(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<BooleanArray> {
        if let Some(outcome) = self.ranges.as_ref().and_then(|ranges| ranges.test(rows)) {
            return Ok(outcome);
        }
        Ok(self.evaluate(rows, rejects)?.as_boolean().clone())
    }

    /// Halves what fails until the culprits stand alone.
    fn evaluate_part(&self, rows: &RecordBatch, first: usize, parts: &mut Vec<ArrayRef>, rejects: &mut Rejects) {
        match (self.values(rows), rows.num_rows()) {
            (Ok(values), _) => parts.push(values),
            (Err(_), 0) => {}
            (Err(error), 1) => {
                rejects.push(first, format!("`{}`: {}", self.sql, reason(&error)));
                parts.push(new_null_array(self.data_type(), 1));
            }
            (Err(_), many) => {
                let half = many / 2;
                self.evaluate_part(&rows.slice(0, half), first, parts, rejects);
                self.evaluate_part(&rows.slice(half, many - half), first + half, parts, rejects);
            }
        }
    }

    fn values(&self, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        let values = self.physical.evaluate(rows)?.into_array(rows.num_rows())?;
        let strict = CastOptions { safe: false, format_options: FormatOptions::default() };
        let values = if values.data_type() == self.data_type() {
            values
        } else {
            cast_with_options(&values, self.data_type(), &strict)?
        };
        if let Some(instants) = values.as_primitive_opt::<TimestampMillisecondType>()
            && let Some(ms) = instants.iter().flatten().find(|ms| !in_range(*ms))
        {
            let message = format!("{ms} ms after 1970 is not within the years 1 to 9999");
            return Err(DataFusionError::Execution(message));
        }
        Ok(values)
    }
}

fn parse(sql: &str, path: &str) -> Planned<ast::Expr> {
    let parse = || -> Result<ast::Expr, ParserError> {
        let mut parser = Parser::new(&GenericDialect {}).try_with_sql(sql)?;
        let parsed = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(parsed)
    };
    parse().map_err(|error| {
        let what = match error {
            ParserError::TokenizerError(what) | ParserError::ParserError(what) => what,
            ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
        };
        vec![Problem::new(path, "bad-expression", format!("`{sql}` is not an SQL expression: {what}"))]
    })
}

/// All names that are not there, and all that must not be used.
fn check_names(parsed: &ast::Expr, schema: &SchemaRef, path: &str) -> Planned<()> {
    let mut problems = Problems::default();
    let _ = visit_expressions(parsed, |node| {
        if let Some(problem) = check_node(node, schema, path)
            && !problems.0.contains(&problem)
        {
            problems.push(problem);
        }
        ControlFlow::<()>::Continue(())
    });
    problems.finish()
}

fn check_node(node: &ast::Expr, schema: &SchemaRef, path: &str) -> Option<Problem> {
    match node {
        ast::Expr::Identifier(name) => {
            let problem = column(schema, path, &name.value).err()?;
            Some(if name.quote_style == Some('"') {
                problem.help(format!("double quotes make a column's name; text is written '{}'", name.value))
            } else {
                problem
            })
        }
        ast::Expr::CompoundIdentifier(parts) => {
            let name = parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".");
            let problem = column(schema, path, &name).err();
            let problem =
                problem.unwrap_or_else(|| Problem::new(path, "bad-expression", format!("`{name}` is two names")));
            Some(problem.help(format!("a column's name with dots stands in double quotes: \"{name}\"")))
        }
        ast::Expr::Function(function) => check_function(function, path),
        ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => Some(
            Problem::new(path, "bad-expression", "an expression reads one row and has no subqueries")
                .help("bring another stream's columns in with `join_as_of`"),
        ),
        _ => None,
    }
}

fn check_function(function: &ast::Function, path: &str) -> Option<Problem> {
    let name = function.name.to_string().to_lowercase();
    if let Some(known) = FUNCTIONS.by_name.get(&name) {
        if function.over.is_some() {
            return Some(Problem::new(path, "bad-expression", "an expression reads one row and has no windows"));
        }
        return (known.signature().volatility != Volatility::Immutable).then(|| {
            let message = format!("`{name}` gives another value each time, and results must replay");
            Problem::new(path, "not-replayable", message).help("a row's own time is in the column `_time`")
        });
    }
    let problem = Problem::new(path, "unknown-function", format!("there is no function `{name}`"));
    Some(if AGGREGATES.contains(&name.as_str()) {
        problem.help(
            "an expression reads one row; what depends on many is done by a step with state, such as `standardise`",
        )
    } else {
        let replayable =
            FUNCTIONS.by_name.iter().filter(|(_, known)| known.signature().volatility == Volatility::Immutable);
        problem.choices(&name, replayable.map(|(name, _)| name.clone()))
    })
}

const AGGREGATES: &[&str] = &[
    "avg",
    "count",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "max",
    "mean",
    "median",
    "min",
    "stddev",
    "sum",
    "var",
];

fn plan(parsed: ast::Expr, schema: &Schema) -> Result<(Arc<dyn PhysicalExpr>, Field), DataFusionError> {
    let columns = Arc::new(DFSchema::try_from(schema.clone())?);
    let options = ParserOptions::new().with_enable_ident_normalization(false).with_map_string_types_to_utf8view(false);
    let planner = SqlToRel::new_with_options(&*FUNCTIONS, options);
    let logical = planner.sql_to_expr(parsed, &columns, &mut PlannerContext::new())?;
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(columns.clone()).build());
    let logical = simplifier.simplify(simplifier.coerce(logical, &columns)?)?;
    let physical =
        create_physical_expr(&logical, &columns, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let physical = physical.transform_up(|node| Ok(checked(node)))?.data;
    let field = physical.return_field(schema)?;
    let metadata = if matches!(logical, Expr::Column(_)) { field.metadata().clone() } else { HashMap::default() };
    Ok((physical, field.as_ref().clone().with_metadata(metadata)))
}

/// Arithmetic that fails where it would wrap around.
fn checked(node: Arc<dyn PhysicalExpr>) -> Transformed<Arc<dyn PhysicalExpr>> {
    match node.downcast_ref::<BinaryExpr>() {
        Some(binary) => Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true))),
        None => Transformed::no(node),
    }
}

/// The type in which a column holds the expression's values.
fn column_type(physical: &Arc<dyn PhysicalExpr>, field: &Field) -> Option<DataType> {
    use DataType as D;
    if physical.is::<datafusion_physical_expr::expressions::Column>() {
        return Some(field.data_type().clone());
    }
    Some(match field.data_type() {
        D::Boolean => D::Boolean,
        D::Utf8 | D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => D::Int64,
        D::Float16
        | D::Float32
        | D::Float64
        | D::Decimal32(..)
        | D::Decimal64(..)
        | D::Decimal128(..)
        | D::Decimal256(..) => D::Float64,
        D::Date32 | D::Date64 | D::Timestamp(..) => D::Timestamp(TimeUnit::Millisecond, None),
        _ => return None,
    })
}

fn advice(kind: &DataType) -> &'static str {
    match kind {
        DataType::Duration(_) | DataType::Interval(_) => {
            "seconds between two timestamps: `extract(epoch from a) - extract(epoch from b)`"
        }
        DataType::Null => "give the null a type: `cast(null as double)`",
        _ => "cast it: `cast(... as double)`",
    }
}

fn bad(path: &str, sql: &str, error: &DataFusionError) -> Problem {
    Problem::new(path, "bad-expression", format!("`{sql}`: {}", reason(error)))
}

/// What went wrong, without the wrappings of the library.
fn reason(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.message().into_owned(),
    };
    let mut line =
        text.split(DataFusionError::BACK_TRACE_SEP).next().and_then(|text| text.lines().next()).unwrap_or("");
    for wrapping in ["Compute error: ", "Execution error: ", "Error during planning: "] {
        line = line.strip_prefix(wrapping).unwrap_or(line);
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleansing::example_schema;
    use crate::cleansing::harness::{Random, random_rows, show, table, tidy};

    const ROWS: &str = "
        t sensor temperature count at
        1 a      1.5         6     10
        2 B      NaN         0     20
        3 null   null        null  null
        4 öl     -3          -2    4000";

    /// The values for `ROWS`, and the reasons of the rejects.
    fn evaluate(sql: &str) -> String {
        let rows = table(&example_schema(), ROWS);
        let expression =
            Expression::compile(sql, &example_schema(), "x").unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut rejects = Rejects::default();
        let values = expression.evaluate(&rows, &mut rejects).unwrap();
        assert_eq!(values.data_type(), expression.data_type());
        let batch = millstream_engine::batch::with_columns(
            &millstream_engine::batch::with_fields(&rows.schema(), [expression.field("x")]),
            &rows,
            vec![("x", values)],
        );
        let values = show(&batch.unwrap(), &["x"]);
        let rejects: Vec<_> = rejects.take().iter().map(|(row, reason)| format!(" | {row} {reason}")).collect();
        tidy(&values).lines().skip(1).collect::<Vec<_>>().join(" ") + &rejects.concat()
    }

    fn problem(sql: &str) -> String {
        let problems = Expression::compile(sql, &example_schema(), "x").expect_err("this does not compile");
        problems.iter().map(|problem| format!("{} {}", problem.code, problem.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn values() {
        let cases = [
            ("count * 2 + 1", "13 1 null -3"),
            ("temperature > 1", "true true null false"),
            ("temperature > 1 and not isnan(temperature)", "true false null false"),
            ("count between -2 and 0 or count is null", "false true true true"),
            ("case when count > 0 then 'many' else sensor end", "many B null öl"),
            ("coalesce(sensor, 'none') || '!'", "a! B! none! öl!"),
            ("upper(sensor)", "A B null ÖL"),
            ("substring(sensor from 1 for 1)", "a B null ö"),
            ("sensor in ('a', 'öl')", "true false null true"),
            ("sensor like '%l'", "false false null true"),
            ("regexp_like(sensor, '^[A-Z]')", "false true null false"),
            ("extract(minute from at)", "0 0 null 6"),
            ("extract(epoch from at) - extract(epoch from _time)", "9 18 null 3996"),
            ("at + interval '1 minute'", "70 80 null 4060"),
            ("at > timestamp '1970-01-01T01:00:00'", "false false null true"),
            ("date_trunc('minute', at)", "0 0 null 3960"),
            ("cast(count as text)", "6 0 null -2"),
            ("cast(count as double) / 4", "1.5 0 null -0.5"),
            ("_offset % 2 = 1", "false true false true"),
            ("\"count\"", "6 0 null -2"),
            ("round(sqrt(abs(count)), 3)", "2.449 0 null 1.414"),
        ];
        for (sql, expected) in cases {
            assert_eq!(evaluate(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_row_that_fails_is_rejected_alone() {
        let cases = [
            ("12 / count", "2 null null -6 | 1 `12 / count`: Divide by zero error"),
            ("count <> 0 and 12 / count > 1", "true false null false"),
            ("case when count <> 0 then 12 / count end", "2 null null -6"),
            (
                "sqrt(count)",
                "2.449489742783178 0 null null | 3 `sqrt(count)`: cannot take square root of a negative number",
            ),
            ("try_cast(sensor as int)", "null null null null"),
            (
                "arrow_cast(count * count * 10000000000000, 'Timestamp(Millisecond, None)')",
                "null 0 null 40000000000 | 0 `arrow_cast(count * count * 10000000000000, 'Timestamp(Millisecond, None)')`: 360000000000000 ms after 1970 is not within the years 1 to 9999",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(evaluate(sql), expected, "{sql}");
        }
        assert!(
            evaluate("cast(sensor as int)")
                .starts_with("null null null null | 0 `cast(sensor as int)`: Cast error: Cannot cast string 'a'")
        );
        assert!(
            evaluate("count + 9223372036854775807")
                .starts_with("null 9223372036854775807 null 9223372036854775805 | 0 ")
        );
        assert!(evaluate("1 / 0 + count").ends_with("Divide by zero error"));
    }

    #[test]
    fn values_do_not_depend_on_the_cut() {
        let rows = random_rows(&mut Random::new(3), 100);
        for sql in ["100 / count", "count <> 3 and 100 / count > 9", "count = 0 or 100 / (count - 1) < 50"] {
            let expression = Expression::compile(sql, &example_schema(), "").unwrap();
            let run = |rows: &RecordBatch| {
                let mut rejects = Rejects::default();
                (expression.evaluate(rows, &mut rejects).unwrap(), rejects.take())
            };
            let (whole, rejected) = run(&rows);
            assert!(!rejected.is_empty());
            for row in 0..rows.num_rows() {
                let (value, reject) = run(&rows.slice(row, 1));
                assert_eq!(
                    (value, reject.is_empty()),
                    (whole.slice(row, 1), !rejected.iter().any(|(at, _)| *at == row)),
                    "{sql}"
                );
            }
        }
    }

    #[test]
    fn problems() {
        let cases = [
            ("count +", "bad-expression `count +` is not an SQL expression: Expected: an expression, found: EOF"),
            (
                "count count",
                "bad-expression `count count` is not an SQL expression: Expected: EOF, found: count at Line: 1, Column: 7",
            ),
            (
                "'open",
                "bad-expression `'open` is not an SQL expression: Unterminated string literal at Line: 1, Column: 1",
            ),
            (
                "Count + cnt",
                "unknown-column there is no column `Count` here; unknown-column there is no column `cnt` here",
            ),
            ("a.b = 1", "unknown-column there is no column `a.b` here"),
            ("sensor = \"a\"", "unknown-column there is no column `a` here"),
            ("uper(sensor)", "unknown-function there is no function `uper`"),
            ("sum(count) > 1", "unknown-function there is no function `sum`"),
            ("count > (select 1)", "bad-expression an expression reads one row and has no subqueries"),
            ("abs(count) over ()", "bad-expression an expression reads one row and has no windows"),
            ("now() > at", "not-replayable `now` gives another value each time, and results must replay"),
            (
                "at < current_date",
                "not-replayable `current_date` gives another value each time, and results must replay",
            ),
            ("random()", "not-replayable `random` gives another value each time, and results must replay"),
            ("at - _time", "wrong-type `at - _time` gives Duration(ms), which no column can hold"),
            ("null", "wrong-type `null` gives Null, which no column can hold"),
        ];
        for (sql, expected) in cases {
            assert_eq!(problem(sql), expected, "{sql}");
        }
        assert!(problem("sensor + 1 > ok").starts_with("bad-expression "));
        assert!(problem("?").starts_with("bad-expression "), "{}", problem("?"));
        assert!(problem("abs(count, 1)").starts_with("bad-expression "));
        assert!(problem("*").starts_with("bad-expression "));
        assert!(Expression::predicate("ok", &example_schema(), "").is_ok());
        assert_eq!(Expression::predicate("count", &example_schema(), "").unwrap_err()[0].code, "wrong-type");
    }

    #[test]
    fn misspelt_names_come_with_the_choices() {
        let problems = Expression::compile("uper(senser)", &example_schema(), "that").unwrap_err();
        let choices = |at: usize| problems[at].choices.clone().unwrap();
        assert!(
            choices(0).0 == "uper"
                && choices(0).1.contains(&"upper".to_owned())
                && !choices(0).1.contains(&"now".to_owned())
        );
        assert!(choices(1).0 == "senser" && choices(1).1.contains(&"sensor".to_owned()));
        assert_eq!(problems[0].path, ["that"]);
    }
}
