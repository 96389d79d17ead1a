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

    fn view(&self, _: usize, rows: &RecordBatch) -> Result<View> {
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
        if old.as_deref() != new.as_ref().map(arrow::row::Row::data) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::compute::concat_batches;
    use millstream_engine::batch::Meta;
    use serde_json::json;

    use super::super::example_schema;
    use super::super::harness::{Bench, Random, check, check_serve, problems, random_rows, show, standing};

    #[test]
    fn each_row_replaces_the_one_before() {
        check(
            &super::KIND,
            &json!({"by": ["sensor"], "deleted": "not ok"}),
            "t sensor count ok
             1 a      1     true
             2 b      2     null
             3 a      1     true
             4 a      3     true
             5 a      4     false
             6 a      4     false
             7 a      5     true",
            "t sensor count ok _diff
             1 a      1     true 1
             2 b      2     null 1
             4 a      1     true -1
             4 a      3     true 1
             5 a      3     true -1
             7 a      5     true 1",
        );
    }

    #[test]
    fn an_older_version_is_left_out() {
        check(
            &super::KIND,
            &json!({"by": ["sensor"], "version": "count", "deleted": "not ok"}),
            "t sensor count ok
             1 a      2     true
             2 a      1     true
             3 a      3     false
             4 a      2     true
             5 a      4     true
             6 a      null  true",
            "t sensor count ok _diff
             1 a      2     true 1
             3 a      2     true -1
             5 a      4     true 1
             row 5: its version is missing",
        );
    }

    #[test]
    fn what_is_forgotten_stands() {
        check(
            &super::KIND,
            &json!({"by": ["sensor"], "horizon_seconds": 5}),
            "t  sensor count
             1  a      1
             6  a      2
             12 a      3",
            "t  sensor count _diff
             1  a      1     1
             6  a      1     -1
             6  a      2     1
             12 a      3     1",
        );
    }

    #[test]
    fn requests_pass() {
        check_serve(&super::KIND, &json!({"by": ["sensor"]}), "t sensor\n1 a\n1 a", "t sensor _diff\n1 a 1\n1 a 1");
    }

    #[test]
    fn what_stands_is_the_newest_row_of_each_key() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let rows = random_rows(&mut random, 200);
            let mut bench = Bench::new(&super::KIND, &json!({"by": ["sensor", "room"], "deleted": "not ok"}));
            let half = random.below(200);
            let outputs = [bench.learn(&rows.slice(0, half)), bench.learn(&rows.slice(half, 200 - half))];
            let output = concat_batches(&bench.step.schema, &outputs).unwrap();
            let own: Vec<&str> = example_schema().fields()[millstream_engine::batch::META..]
                .iter()
                .map(|field| field.name().clone().leak() as &str)
                .collect();
            let lines: Vec<String> = show(&rows, &own).lines().skip(1).map(str::to_owned).collect();
            let keys: Vec<String> = show(&rows, &["sensor", "room"]).lines().skip(1).map(str::to_owned).collect();
            let times = Meta::of(&rows).time;
            for now in [times[60], times[199]] {
                let mut newest = BTreeMap::new();
                for row in (0..200).filter(|row| times[*row] <= now) {
                    newest.insert(&keys[row], &lines[row]);
                }
                let mut expected = BTreeMap::new();
                for line in newest.into_values().filter(|line| !line.ends_with("false")) {
                    *expected.entry(line.clone()).or_default() += 1;
                }
                assert_eq!(standing(&output, now), expected, "seed {seed}, at {now}");
            }
        }
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(
            problems(&super::KIND, &json!({"by": ["x"], "deleted": "count", "version": "room"})),
            "by.0 unknown-column; deleted wrong-type; version wrong-type"
        );
        assert_eq!(problems(&super::KIND, &json!({"by": []})), "by empty-list");
    }
}
