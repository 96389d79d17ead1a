//! `latest`: a stream of updates as the rows that stand.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::row::Rows;
use millstream_engine::Result;
use millstream_engine::batch::{self, META};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Given, Order, Power, Rejects, Relational, Row, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::readable;
use super::row_format::RowFormat;
use crate::expression::Expression;

pub(super) static KIND: StepKind = Kind {
    name: "latest",
    about: "Each row replaces the one before it with the same key: of each key, the newest row stands.\n\n\
            The result is a stream that changes: what a row replaces is taken back, and a row that says `deleted` only takes back. \
            So tables that are sent as updates (upserts with tombstones, change records of a database) can be joined and aggregated as they are now. \
            A row that changes nothing gives nothing. A row whose `version` is less than that of its key's newest is left out. \
            Requests pass as they are, and change nothing.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\ndeleted: not ok\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key.
    by: Vec<String>,
    /// A condition that says, in SQL, that the key has no row any more.
    deleted: Option<String>,
    /// A column of whole numbers or timestamps that grows with each change, where rows may come in the wrong order.
    version: Option<String>,
    /// A key of which nothing came for so long is forgotten, and its row stands for ever. Without it, every key is kept.
    horizon_seconds: Option<u32>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = readable(input.schema, &mut problems, "by", &config.by);
    let deleted =
        config.deleted.as_ref().and_then(|sql| problems.take_all(Expression::predicate(sql, input.schema, "deleted")));
    let version = config.version.as_ref().and_then(|name| problems.take(version(input, name)));
    problems.finish()?;
    let schema = batch::changing(input.schema);
    let own: Vec<usize> = (META..input.schema.fields().len()).collect();
    let operator = Latest {
        by,
        deleted,
        version,
        horizon_ms: config.horizon_seconds.map(|seconds| i64::from(seconds) * 1000),
        rows: RowFormat::new(input.schema, &own),
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::relational(operator) })
}

fn version(input: &StepInput<'_>, name: &str) -> Result<usize, Problem> {
    let at = input.column("version", name)?;
    match input.schema.field(at).data_type() {
        DataType::Int64 | DataType::Timestamp(..) => Ok(at),
        other => Err(Problem::new("version", "wrong-type", format!("column `{name}` holds {other}"))
            .help("a version is a whole number or a timestamp")),
    }
}

struct Latest {
    by: Vec<usize>,
    deleted: Option<Expression>,
    version: Option<usize>,
    horizon_ms: Option<i64>,
    rows: RowFormat,
    schema: SchemaRef,
}

/// What is known of a key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Known {
    time: i64,
    version: Option<i64>,
    /// The row that stands; none after it was deleted.
    row: Option<Vec<u8>>,
}

pub(super) struct View {
    rows: Rows,
    deleted: Option<BooleanArray>,
    versions: Option<Int64Array>,
    rejected: Vec<(usize, String)>,
}

impl Relational for Latest {
    type State = Option<Known>;
    type View<'a> = View;
    type Values = Rows;

    const TAKES_CHANGES: bool = false;

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn view<'a>(&self, _: usize, rows: &'a RecordBatch) -> Result<View> {
        let mut rejects = Rejects::default();
        let deleted = self.deleted.as_ref().map(|deleted| deleted.test(rows, &mut rejects)).transpose()?;
        let versions = self.version.map(|at| cast(rows.column(at), &DataType::Int64)).transpose()?;
        let versions = versions.map(|versions| versions.as_primitive::<Int64Type>().clone());
        Ok(View { rows: self.rows.rows(rows)?, deleted, versions, rejected: rejects.take() })
    }

    fn values(&self) -> Rows {
        self.rows.empty()
    }

    fn take(&self, view: &View, row: Row, known: &mut Option<Known>, given: &mut Given<Rows>) -> Result<(), String> {
        view.refuses(row.index)?;
        let version = view.versions.as_ref().map(|versions| versions.value(row.index));
        let before = known.take_if(|known| self.forgets(known, row.order.0));
        drop(before);
        if known.as_ref().is_some_and(|known| version < known.version) {
            return Ok(());
        }
        let new = Some(view.rows.row(row.index)).filter(|_| !view.is_deleted(row.index));
        let old = known.take().and_then(|known| known.row);
        if old.as_deref() != new.as_ref().map(|row| row.data()) {
            if let Some(old) = &old {
                given.row(row.order, -1).push(self.rows.parser.parse(old));
            }
            if let Some(new) = new {
                given.row(row.order, 1).push(new);
            }
        }
        // What was deleted is only remembered where an older row could still come.
        if new.is_some() || version.is_some() {
            *known = Some(Known { time: row.order.0, version, row: new.map(|row| row.data().to_vec()) });
        }
        Ok(())
    }

    fn due(&self, _: &Option<Known>) -> Option<Order> {
        None
    }

    fn fire(&self, _: Order, _: &mut Option<Known>, _: &mut Given<Rows>) {}

    fn answer(&self, view: &View, row: Row, _: &Option<Known>, _: i64, given: &mut Given<Rows>) -> Result<(), String> {
        given.row(row.order, 1).push(view.rows.row(row.index));
        Ok(())
    }

    fn finish(&self, _: Vec<ArrayRef>, rows: Rows) -> Result<Vec<ArrayRef>> {
        self.rows.columns(&rows)
    }

    fn expired(&self, known: &Option<Known>, watermark: i64) -> bool {
        known.as_ref().is_none_or(|known| self.forgets(known, watermark))
    }
}

impl Latest {
    fn forgets(&self, known: &Known, now: i64) -> bool {
        self.horizon_ms.is_some_and(|horizon_ms| known.time.saturating_add(horizon_ms) < now)
    }
}

impl View {
    fn refuses(&self, row: usize) -> Result<(), String> {
        if let Some((_, reason)) = self.rejected.iter().find(|(rejected, _)| *rejected == row) {
            return Err(reason.clone());
        }
        if self.versions.as_ref().is_some_and(|versions| versions.is_null(row)) {
            return Err("its version is missing".to_owned());
        }
        Ok(())
    }

    /// Null counts as not deleted.
    fn is_deleted(&self, row: usize) -> bool {
        self.deleted.as_ref().is_some_and(|deleted| deleted.is_valid(row) && deleted.value(row))
    }
}
