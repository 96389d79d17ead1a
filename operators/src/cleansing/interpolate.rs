//! `interpolate`: what is missing lies between its neighbours.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::Rows;
use millstream_engine::Result;
use millstream_engine::batch::{META, event_time, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Given, Order, Power, Relational, Row, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{key, numbers, numeric, timestamp};
use super::row_format::RowFormat;

pub(super) static KIND: StepKind = Kind {
    name: "interpolate",
    about: "A missing number becomes what lies on the line between its key's values before and after it.\n\n\
            A row with something missing waits for the next value, and the later rows of its key wait behind it; so it leaves later, \
            with the time at which it became whole as `_time`. The value before it may be `within_seconds` old, and the one after it has to come within that time: \
            then the row leaves as `otherwise` says. A row before which there was no value does not wait. \
            Whole numbers become floats. A request cannot wait: it gets what `otherwise` says.",
    schema: schema_of::<Config>,
    example: "columns: [temperature]\nby: [sensor]\nwithin_seconds: 30\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// The columns that make the key; with none, all rows have one.
    #[serde(default)]
    by: Vec<String>,
    /// How far away a neighbour may be.
    within_seconds: u32,
    /// The column that says when a row happened; the event time, if not given.
    at: Option<String>,
    /// What becomes of a value that has no neighbour after it.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// It becomes the value before it.
    #[default]
    Last,
    /// It stays missing.
    Null,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = numeric(input.schema, &mut problems, "columns", &config.columns);
    let by = key(input.schema, &mut problems, &config.by);
    let at = match &config.at {
        Some(name) => problems.take(timestamp(input.schema, "at", name)),
        None => Some(event_time(input.schema)),
    };
    if config.by.iter().any(|key| config.columns.contains(key)) {
        problems.push(Problem::new("by", "duplicate-name", "a column cannot be both the key and interpolated"));
    }
    problems.finish()?;
    let fields = columns.iter().map(|&at| input.schema.field(at).clone().with_data_type(DataType::Float64));
    let schema = with_fields(input.schema, fields);
    let own: Vec<usize> = (META..input.schema.fields().len()).collect();
    let operator = Interpolate {
        by,
        at: at.expect("no problem was found"),
        within_ms: i64::from(config.within_seconds) * 1000,
        otherwise: config.otherwise,
        rows: RowFormat::new(input.schema, &own),
        columns,
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::relational(operator) })
}

struct Interpolate {
    by: Vec<usize>,
    at: usize,
    within_ms: i64,
    otherwise: Otherwise,
    rows: RowFormat,
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// A key's last values, and its rows that wait.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Series {
    /// By column: when the last value was, and what it was.
    last: Vec<Option<(i64, f64)>>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    order: Order,
    at: i64,
    row: Vec<u8>,
    values: Vec<Slot>,
}

/// A value of a row that waits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Slot {
    /// Known, or known to stay missing.
    Is(Option<f64>),
    /// To lie on the line from this point to the next value.
    From(i64, f64),
}

pub(super) struct View<'a> {
    rows: Rows,
    times: &'a TimestampMillisecondArray,
    numbers: Vec<Float64Array>,
}

pub(super) struct Whole {
    rows: Rows,
    columns: Vec<Vec<Option<f64>>>,
}

impl Relational for Interpolate {
    type State = Series;
    type View<'a> = View<'a>;
    type Values = Whole;

    const TAKES_CHANGES: bool = false;

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn view<'a>(&self, _: usize, rows: &'a RecordBatch) -> Result<View<'a>> {
        let numbers = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<_>>()?;
        Ok(View { rows: self.rows.rows(rows)?, times: rows.column(self.at).as_primitive(), numbers })
    }

    fn values(&self) -> Whole {
        Whole { rows: self.rows.empty(), columns: vec![Vec::new(); self.columns.len()] }
    }

    fn take(&self, view: &View<'_>, row: Row, series: &mut Series, given: &mut Given<Whole>) -> Result<(), String> {
        if view.times.is_null(row.index) {
            return Err("the event time is missing".to_owned());
        }
        let at = view.times.value(row.index);
        let values = view.values(row.index);
        for (column, value) in values.iter().enumerate().filter_map(|(column, value)| Some((column, (*value)?))) {
            series.waiting.iter_mut().for_each(|waiting| self.meet(waiting, column, (at, value)));
        }
        series.last.resize(self.columns.len(), None);
        let slots = series.last.iter().zip(&values).map(|(last, value)| self.slot(*last, *value, at)).collect();
        for (last, value) in series.last.iter_mut().zip(&values) {
            // A late row does not change what was known last.
            if let Some(value) = value
                && last.is_none_or(|(before, _)| before <= at)
            {
                *last = Some((at, *value));
            }
        }
        let bytes = view.rows.row(row.index).data().to_vec();
        series.waiting.push_back(Waiting { order: row.order, at, row: bytes, values: slots });
        self.give_whole(row.order, series, given);
        Ok(())
    }

    fn due(&self, series: &Series) -> Option<Order> {
        series.waiting.front().map(|first| self.patience(first))
    }

    fn fire(&self, now: Order, series: &mut Series, given: &mut Given<Whole>) {
        while let Some(first) = series.waiting.front_mut().filter(|first| self.patience(first) < now) {
            let at = self.patience(first);
            for slot in &mut first.values {
                *slot = Slot::Is(self.alone(*slot));
            }
            self.give_whole(at, series, given);
        }
    }

    fn answer(
        &self,
        view: &View<'_>,
        row: Row,
        series: &Series,
        _: i64,
        given: &mut Given<Whole>,
    ) -> Result<(), String> {
        let at = if view.times.is_valid(row.index) { view.times.value(row.index) } else { row.order.0 };
        let last = |column: usize| series.last.get(column).copied().flatten();
        let alone = |(column, value): (usize, Option<f64>)| self.alone(self.slot(last(column), value, at));
        let values = view.values(row.index).into_iter().enumerate().map(alone).collect();
        self.give(row.order, view.rows.row(row.index).data(), values, given);
        Ok(())
    }

    fn finish(&self, _: Vec<ArrayRef>, whole: Whole) -> Result<Vec<ArrayRef>> {
        let mut columns = self.rows.columns(&whole.rows)?;
        for (&at, values) in self.columns.iter().zip(whole.columns) {
            columns[at - META] = Arc::new(Float64Array::from(values));
        }
        Ok(columns)
    }

    fn expired(&self, series: &Series, _: i64) -> bool {
        // A correction may belong behind a value however old.
        series.waiting.is_empty() && series.last.iter().all(Option::is_none)
    }
}

impl View<'_> {
    fn values(&self, row: usize) -> Vec<Option<f64>> {
        self.numbers.iter().map(|numbers| numbers.is_valid(row).then(|| numbers.value(row))).collect()
    }
}

impl Interpolate {
    fn slot(&self, last: Option<(i64, f64)>, value: Option<f64>, at: i64) -> Slot {
        match (value, last.filter(|(before, _)| (0..=self.within_ms).contains(&(at - before)))) {
            (None, Some((before, from))) => Slot::From(before, from),
            (value, _) => Slot::Is(value),
        }
    }

    /// A value comes after a row that waits.
    fn meet(&self, waiting: &mut Waiting, column: usize, (at, value): (i64, f64)) {
        let Slot::From(before, from) = waiting.values[column] else { return };
        if at < waiting.at {
            return;
        }
        let share = if at > before { (waiting.at - before) as f64 / (at - before) as f64 } else { 1.0 };
        let is_near = at - waiting.at < self.within_ms;
        waiting.values[column] =
            Slot::Is(if is_near { Some(from + (value - from) * share) } else { self.alone(Slot::From(before, from)) });
    }

    /// What a value is without a neighbour after it.
    fn alone(&self, slot: Slot) -> Option<f64> {
        match slot {
            Slot::Is(value) => value,
            Slot::From(_, last) => (self.otherwise == Otherwise::Last).then_some(last),
        }
    }

    /// Until when a row waits.
    fn patience(&self, waiting: &Waiting) -> Order {
        (waiting.order.0.saturating_add(self.within_ms), waiting.order.1)
    }

    /// Gives the rows that wait for nothing, up to the first that does.
    fn give_whole(&self, order: Order, series: &mut Series, given: &mut Given<Whole>) {
        let is_whole = |waiting: &mut Waiting| waiting.values.iter().all(|slot| matches!(slot, Slot::Is(_)));
        while let Some(whole) = series.waiting.pop_front_if(is_whole) {
            let values = whole.values.iter().map(|slot| self.alone(*slot)).collect();
            self.give(order, &whole.row, values, given);
        }
    }

    fn give(&self, order: Order, row: &[u8], values: Vec<Option<f64>>, given: &mut Given<Whole>) {
        let whole = given.row(order, 1);
        whole.rows.push(self.rows.parser.parse(row));
        for (column, value) in whole.columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;
    use arrow::datatypes::Float64Type;
    use millstream_engine::batch::Meta;
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, problems, random_rows, show};
    use super::*;

    #[test]
    fn what_is_missing_lies_between_its_neighbours() {
        check(
            &KIND,
            &json!({"columns": ["temperature"], "by": ["sensor"], "within_seconds": 10}),
            "t  sensor temperature count
             1  a      1           1
             2  a      null        2
             3  b      7           3
             4  a      null        4
             6  a      6           5
             7  a      null        6
             17 a      1           7
             20 a      null        8
             31 a      9           9
             40 b      null        10",
            "t  sensor temperature count
             1  a      1           1
             3  b      7           3
             6  a      2           2
             6  a      4           4
             6  a      6           5
             17 a      6           6
             17 a      1           7
             30 a      1           8
             31 a      9           9
             40 b      null        10",
        );
    }

    #[test]
    fn or_stays_missing() {
        check(
            &KIND,
            &json!({"columns": ["count"], "within_seconds": 5, "otherwise": "null"}),
            "t  count
             1  1
             2  null
             9  3",
            "t  count
             1  1
             7  null
             9  3",
        );
    }

    #[test]
    fn a_request_does_not_wait() {
        let mut bench = Bench::new(&KIND, &json!({"columns": ["temperature"], "by": ["sensor"], "within_seconds": 5}));
        let schema = super::super::example_schema();
        bench.learn(&super::super::harness::table(&schema, "t sensor temperature\n1 a 3"));
        let served = bench
            .serve(&super::super::harness::table(&schema, "t sensor temperature\n2 a null\n9 a null\n2 b null\n2 a 1"));
        assert_eq!(show(&served, &["t", "temperature"]), "t temperature\n2 3\n9 null\n2 null\n2 1\n");
        check_serve(&KIND, &json!({"columns": ["count"], "within_seconds": 5}), "t count\n1 2", "t count\n1 2");
    }

    #[test]
    fn agrees_with_a_search_for_both_neighbours() {
        for seed in 0..10 {
            let mut random = Random::new(seed);
            let rows = random_rows(&mut random, 200);
            let config = json!({"columns": ["temperature"], "by": ["room"], "within_seconds": 6, "at": "_time"});
            let mut bench = Bench::new(&KIND, &config);
            let half = random.below(200);
            let outputs = [bench.learn(&rows.slice(0, half)), bench.learn(&rows.slice(half, 200 - half))];
            let last = bench.epoch(&[rows.slice(200, 0)], 1_000_000);
            let output = concat_batches(&bench.step.schema, outputs.iter().chain(&last)).unwrap();
            assert_eq!(output.num_rows(), 200, "seed {seed}");
            let given = numbers(rows.column_by_name("temperature").unwrap()).unwrap();
            let rooms: Vec<String> = show(&rows, &["room"]).lines().skip(1).map(str::to_owned).collect();
            let times = Meta::of(&rows).time;
            let found = output.column_by_name("temperature").unwrap().as_primitive::<Float64Type>();
            let others = |rows: &RecordBatch| show(rows, &["room", "sensor", "humidity", "count", "at", "ok"]);
            let (others, expected_others) = (others(&output), others(&rows));
            let mut sorted: Vec<(&str, Option<f64>)> =
                others.lines().skip(1).zip((0..200).map(|row| found.is_valid(row).then(|| found.value(row)))).collect();
            let value = |row: usize| {
                let known = |r: &usize| rooms[*r] == rooms[row] && given.is_valid(*r);
                if given.is_valid(row) {
                    return Some(given.value(row));
                }
                let before = (0..row).rev().find(known).filter(|r| times[row] - times[*r] <= 6000)?;
                let after = (row + 1..200).find(known).filter(|r| times[*r] - times[row] < 6000);
                let Some(after) = after else { return Some(given.value(before)) };
                let share = if times[after] > times[before] {
                    (times[row] - times[before]) as f64 / (times[after] - times[before]) as f64
                } else {
                    1.0
                };
                Some(given.value(before) + (given.value(after) - given.value(before)) * share)
            };
            let mut expected: Vec<(&str, Option<f64>)> =
                expected_others.lines().skip(1).zip((0..200).map(value)).collect();
            let by_text = |a: &(&str, Option<f64>), b: &(&str, Option<f64>)| {
                (a.0, a.1.map(f64::to_bits)).cmp(&(b.0, b.1.map(f64::to_bits)))
            };
            sorted.sort_by(by_text);
            expected.sort_by(by_text);
            assert_eq!(sorted, expected, "seed {seed}");
        }
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(
            problems(&KIND, &json!({"columns": ["room"], "by": ["room"], "within_seconds": 1, "at": "count"})),
            "columns wrong-type; at wrong-type; by duplicate-name"
        );
    }
}
