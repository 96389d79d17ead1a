//! How tests write rows, run a step on them, and read the outcome: all as text tables.
//!
//! A table has a line of column names and a line per row. `t` is the event time in seconds, which comes first;
//! `at` and other timestamps are in seconds, too. Columns of the schema that are not named hold null.
//! Within a text, `␣` stands for a blank; `∅` is the empty text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use millstream_engine::batch::{DIFF, Lane, META, Meta, Origin, SOURCE, TIME, canonical, changing, diffs};
use millstream_engine::catalogue::{Problem, StepInput, StepKind};
use millstream_engine::operator::{Power, Rejects, Step};
use millstream_engine::state::KeyedInstance;
use millstream_engine::time;
use serde_json::Value;

use super::{example_schema, example_streams};

/// A step that stands in the example stream, with its state.
pub(crate) struct Bench {
    pub(crate) step: Step,
    pub(crate) state: Option<Box<dyn KeyedInstance>>,
    pub(crate) ports: Vec<SchemaRef>,
    pub(crate) rejects: Vec<(usize, String)>,
    /// What was repaired in all rows so far.
    pub(crate) repaired: u64,
    /// What was expected of them and did not hold.
    pub(crate) unmet: Vec<String>,
}

impl Bench {
    pub(crate) fn new(kind: &StepKind, config: &Value) -> Self {
        Self::over(&example_schema(), &example_streams(), kind, config)
    }

    /// A step in a stream of this schema, which may name these others.
    pub(crate) fn over(
        schema: &SchemaRef,
        streams: &BTreeMap<String, SchemaRef>,
        kind: &StepKind,
        config: &Value,
    ) -> Self {
        let step = (kind.plan)(config, &StepInput { schema, streams });
        let step = step.unwrap_or_else(|problems| panic!("{} does not plan: {problems:#?}", kind.name));
        let ports: Vec<_> =
            std::iter::once(schema.clone()).chain(step.others.iter().map(|name| streams[name].clone())).collect();
        let state = match &step.power {
            Power::Keyed(operator) => Some(operator.clone().mount(&ports, &[]).unwrap()),
            _ => None,
        };
        Self { step, state, ports, rejects: Vec::new(), repaired: 0, unmet: Vec::new() }
    }

    pub(crate) fn run(&mut self, lane: Lane, port: usize, rows: &RecordBatch) -> Option<RecordBatch> {
        if lane == Lane::Learn {
            let rows_of =
                |at: usize| if at == port { rows.clone() } else { RecordBatch::new_empty(self.ports[at].clone()) };
            let ports: Vec<_> = (0..self.ports.len()).map(rows_of).collect();
            // Behind the last row.
            return self.epoch_until(&ports, (Meta::of(rows).time.last().copied().unwrap_or(i64::MIN), u32::MAX));
        }
        let mut rejects = Rejects::default();
        let output = match (&self.step.power, &mut self.state) {
            (Power::Transform(operator), _) => Some(operator.apply(lane, rows, &mut rejects).unwrap()),
            (_, Some(state)) => state.serve(rows, &mut rejects).unwrap(),
            _ => unreachable!("cleansing steps do not fold"),
        };
        self.rejects = rejects.take();
        self.checked(output)
    }

    /// Learns an epoch, after which the watermark is the beginning of `now`.
    pub(crate) fn epoch(&mut self, ports: &[RecordBatch], now: i64) -> Option<RecordBatch> {
        self.epoch_until(ports, (now, 0))
    }

    /// The same, until a source's rows at `now`. What was rejected is kept for the first port that rejects.
    pub(crate) fn epoch_until(&mut self, ports: &[RecordBatch], (now, source): (i64, u32)) -> Option<RecordBatch> {
        let mut rejects: Vec<_> = ports.iter().map(|_| Rejects::default()).collect();
        let output = match (&self.step.power, &mut self.state) {
            (Power::Transform(operator), _) => Some(operator.apply(Lane::Learn, &ports[0], &mut rejects[0]).unwrap()),
            (_, Some(state)) => {
                state.set_now((now, Origin { source, ..Origin::FIRST }));
                state.learn(ports, &mut rejects).unwrap()
            }
            _ => unreachable!("cleansing steps do not fold"),
        };
        for (repaired, unmet) in rejects.iter_mut().map(Rejects::remarks) {
            self.repaired += repaired;
            self.unmet.extend(unmet);
        }
        self.rejects = rejects.iter_mut().map(Rejects::take).find(|rejects| !rejects.is_empty()).unwrap_or_default();
        self.checked(output)
    }

    fn checked(&self, output: Option<RecordBatch>) -> Option<RecordBatch> {
        if let Some(output) = &output {
            assert_eq!(output.schema(), self.step.schema);
        }
        output
    }

    pub(crate) fn learn(&mut self, rows: &RecordBatch) -> RecordBatch {
        self.run(Lane::Learn, 0, rows).unwrap_or_else(|| RecordBatch::new_empty(self.step.schema.clone()))
    }

    pub(crate) fn serve(&mut self, rows: &RecordBatch) -> RecordBatch {
        self.run(Lane::Serve, 0, rows).expect("port 0 gives rows")
    }

    /// A bench whose state went through a checkpoint.
    pub(crate) fn restored(&mut self, kind: &StepKind, config: &Value) -> Self {
        let mut other = Self::new(kind, config);
        if let (Some(from), Some(to)) = (&mut self.state, &mut other.state) {
            for bin in from.snapshot().unwrap().values() {
                to.restore(bin, &|_| true).unwrap();
            }
        }
        other
    }

    /// The names of `input`'s columns and of those that the step adds, as far as they are in the output.
    pub(crate) fn shown(&self, input: &[&str]) -> Vec<String> {
        let known = example_schema();
        let added = self.step.schema.fields().iter().map(|field| field.name().as_str());
        let added = added.filter(|name| known.index_of(name).is_err());
        let there = |name: &&str| *name == "t" || self.step.schema.index_of(name).is_ok();
        input.iter().copied().filter(there).chain(added).map(str::to_owned).collect()
    }
}

pub(crate) fn plan(kind: &StepKind, config: &Value) -> Result<Step, Vec<Problem>> {
    (kind.plan)(config, &StepInput { schema: &example_schema(), streams: &example_streams() })
}

/// Plans, and gives the problems as `path code; path code`.
pub(crate) fn problems(kind: &StepKind, config: &Value) -> String {
    let problems = plan(kind, config).err().expect("this has problems");
    problems.iter().map(|problem| format!("{} {}", problem.path.join("."), problem.code)).collect::<Vec<_>>().join("; ")
}

/// The names of the output's columns without the engine's.
pub(crate) fn own_columns(kind: &StepKind, config: &Value) -> String {
    let mut bench = Bench::new(kind, config);
    let output = bench.restored(kind, config).learn(&random_rows(&mut Random::new(1), 3));
    let names: Vec<_> = bench.step.schema.fields()[META..].iter().map(|field| field.name().as_str()).collect();
    assert_eq!(output.num_columns(), META + names.len());
    names.join(" ")
}

/// Learns the rows of `input`, and compares output and rejects.
pub(crate) fn check(kind: &StepKind, config: &Value, input: &str, expected: &str) {
    check_lane(Lane::Learn, kind, config, input, expected);
}

/// The same for requests.
pub(crate) fn check_serve(kind: &StepKind, config: &Value, input: &str, expected: &str) {
    check_lane(Lane::Serve, kind, config, input, expected);
}

fn check_lane(lane: Lane, kind: &StepKind, config: &Value, input: &str, expected: &str) {
    let mut bench = Bench::new(kind, config);
    let output = bench.run(lane, 0, &table(&example_schema(), input));
    let output = output.unwrap_or_else(|| RecordBatch::new_empty(bench.step.schema.clone()));
    let mut actual = bench.shown_output(&output, input);
    for (row, reason) in &bench.rejects {
        writeln!(actual, "row {row}: {reason}").unwrap();
    }
    assert_eq!(actual, tidy(expected));
}

impl Bench {
    /// The output as text, with the columns that `input`'s table names and those that are new.
    pub(crate) fn shown_output(&self, output: &RecordBatch, input: &str) -> String {
        let named: Vec<&str> = input.trim().lines().next().unwrap_or_default().split_whitespace().collect();
        let shown = self.shown(&named);
        show(output, &shown.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Lines with single spaces between their cells.
pub(crate) fn tidy(text: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.trim().lines().map(|line| words(line) + "\n").collect()
}

/// Rows from a text table.
pub(crate) fn table(schema: &SchemaRef, text: &str) -> RecordBatch {
    let mut lines = text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next().expect("a table has a line of names");
    let rows: Vec<Vec<&str>> = lines.collect();
    for name in &names[1..] {
        assert!(schema.index_of(name).is_ok(), "the test's table names `{name}`, which the schema lacks");
    }
    let cells = |name: &str| {
        let place = names.iter().position(|other| *other == name);
        rows.iter().map(move |row| place.map(|place| row[place]).filter(|cell| *cell != "null"))
    };
    let times = cells("t").map(|cell| seconds(cell.expect("`t` is never null"))).collect();
    // Ties between the streams go to the other stream, so that its row is seen.
    let source = u32::from(*schema == example_schema());
    let own = schema.fields()[META..].iter().map(|field| column(field.data_type(), cells(field.name())));
    RecordBatch::try_new(schema.clone(), engine_columns(source, times).into_iter().chain(own).collect()).unwrap()
}

fn seconds(cell: &str) -> i64 {
    (cell.parse::<f64>().unwrap() * 1000.0) as i64
}

fn column<'a>(kind: &DataType, cells: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    match kind {
        DataType::Utf8 => {
            Arc::new(cells.map(|cell| cell.map(|c| c.replace('∅', "").replace('␣', " "))).collect::<StringArray>())
        }
        DataType::Float64 => Arc::new(cells.map(|cell| cell.map(|c| c.parse().unwrap())).collect::<Float64Array>()),
        DataType::Int64 => Arc::new(cells.map(|cell| cell.map(|c| c.parse().unwrap())).collect::<Int64Array>()),
        DataType::Boolean => Arc::new(cells.map(|cell| cell.map(|c| c == "true")).collect::<BooleanArray>()),
        DataType::Timestamp(TimeUnit::Millisecond, None) => {
            Arc::new(cells.map(|cell| cell.map(seconds)).collect::<TimestampMillisecondArray>())
        }
        other => unreachable!("test tables have no columns of type {other}"),
    }
}

/// The engine's columns of rows of a source with these times, at offsets from 0.
pub(crate) fn engine_columns(source: u32, times: Vec<i64>) -> Vec<ArrayRef> {
    let rows = times.len();
    vec![
        Arc::new(UInt32Array::from(vec![source; rows])),
        Arc::new(UInt32Array::from(vec![0; rows])),
        Arc::new(UInt64Array::from_iter_values(0..rows as u64)),
        Arc::new(UInt32Array::from(vec![0; rows])),
        Arc::new(TimestampMillisecondArray::from(times)),
        Arc::new(BinaryViewArray::new_null(rows)),
        Arc::new(BinaryViewArray::new_null(rows)),
    ]
}

/// These columns of some rows as text.
pub(crate) fn show(rows: &RecordBatch, columns: &[&str]) -> String {
    let cell = |name: &str, row: usize| {
        let column = match name {
            "t" => rows.column(TIME),
            name => rows.column_by_name(name).unwrap_or_else(|| panic!("the output has no column `{name}`")),
        };
        if column.is_null(row) {
            return "null".to_owned();
        }
        match column.data_type() {
            DataType::Timestamp(..) => {
                (column.as_primitive::<TimestampMillisecondType>().value(row) as f64 / 1000.0).to_string()
            }
            DataType::Float64 => column.as_primitive::<arrow::datatypes::Float64Type>().value(row).to_string(),
            DataType::Utf8 if column.as_string::<i32>().value(row).is_empty() => "∅".to_owned(),
            DataType::Utf8 => column.as_string::<i32>().value(row).replace(' ', "␣"),
            _ => array_value_to_string(column, row).unwrap(),
        }
    };
    let line = |row: usize| columns.iter().map(|name| cell(name, row)).collect::<Vec<_>>().join(" ");
    std::iter::once(columns.join(" ")).chain((0..rows.num_rows()).map(line)).map(|line| line + "\n").collect()
}

/// What stands after these changes: each row's own columns as text, and how often there is one. Only changes with an event time
/// up to `until` count. What is taken back must have stood.
pub(crate) fn standing(changes: &RecordBatch, until: i64) -> BTreeMap<String, i64> {
    let own: Vec<&str> = changes.schema_ref().fields()[META..].iter().map(|field| field.name().as_str()).collect();
    let own: Vec<&str> = own.into_iter().filter(|name| *name != DIFF).collect();
    let times = Meta::of(changes).time;
    let diffs = diffs(changes).map_or_else(|| vec![1; times.len()], <[i64]>::to_vec);
    let shown = show(changes, &own);
    let mut standing = BTreeMap::new();
    for (row, line) in shown.lines().skip(1).enumerate().filter(|(row, _)| times[*row] <= until) {
        let count: &mut i64 = standing.entry(line.to_owned()).or_default();
        *count += diffs[row];
        assert!(*count >= 0, "`{line}` is taken back, and was not there");
    }
    standing.retain(|_, count| *count > 0);
    standing
}

/// Random rows of a stream that changes: each taken back rows is one that stood, at least as a row and with its own columns.
pub(crate) fn random_changes(random: &mut Random, schema: &SchemaRef, rows: usize) -> RecordBatch {
    let plain = random_table(random, schema, rows);
    let meta = Meta::of(&plain);
    let (mut indices, mut diffs, mut times): (Vec<u32>, Vec<i64>, Vec<i64>) = Default::default();
    let mut standing: Vec<u32> = Vec::new();
    for row in 0..plain.num_rows() as u32 {
        if !standing.is_empty() && random.below(3) == 0 {
            // Seldom an old one: it may be out of reach for a join.
            let place = standing.len() - 1 - random.below(standing.len().min(4));
            indices.push(standing.remove(place));
            diffs.push(-1);
            times.push(meta.time[row as usize]);
        }
        indices.push(row);
        diffs.push(1);
        times.push(meta.time[row as usize]);
        standing.push(row);
    }
    let taken = take_record_batch(&plain, &UInt32Array::from(indices)).unwrap();
    let source = meta.source[0];
    let mut columns = engine_columns(source, times);
    columns.extend_from_slice(&taken.columns()[META..]);
    columns.push(Arc::new(Int64Array::from(diffs)));
    RecordBatch::try_new(changing(schema), columns).unwrap()
}

/// A small generator (`SplitMix64`), so that a seed gives the same rows for ever.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Settings in which some values are others of their kind, or of another: such as nobody would give.
pub(crate) fn twisted(random: &mut Random, settings: &Value) -> Value {
    let percent = [10, 30, 60][random.below(3)];
    let mut settings = settings.clone();
    twist(random, &mut settings, percent);
    settings
}

fn twist(random: &mut Random, value: &mut Value, percent: usize) {
    match value {
        Value::Array(items) if !items.is_empty() && random.below(10) > 0 => {
            items.iter_mut().for_each(|item| twist(random, item, percent));
            if random.below(12) == 0 {
                items.push(items[random.below(items.len())].clone());
            }
        }
        Value::Object(entries) if !entries.is_empty() && random.below(20) > 0 => {
            entries.values_mut().for_each(|entry| twist(random, entry, percent));
            if random.below(10) == 0 {
                let name = entries.keys().nth(random.below(entries.len())).cloned();
                name.and_then(|name| entries.remove(&name));
            }
        }
        value if random.below(100) < percent => *value = other(random, value),
        _ => {}
    }
}

fn other(random: &mut Random, value: &Value) -> Value {
    const NUMBERS: [f64; 12] = [0.0, 1.0, -1.0, 2.0, 0.5, 1e-300, 65_536.0, 1e5, 2_147_483_648.0, 1e15, 1e18, 1e308];
    const WHOLE: [i64; 6] = [i64::MAX, i64::MIN, 1 << 53, 1 << 32, 0, 3];
    const TEXTS: &str = "sensor|room|temperature|humidity|count|at|ok|_time|_diff|weather|wind|count()|sum(count)|mean(at)|max(at)|\
        quantile(count, 1)|temperature / 0 > 1|count * 9223372036854775807|count % 0 = 1|-count|at - at|not ok|\
        at + interval '9000 years'|arrow_cast(count, 'Timestamp(Millisecond, None)')|Europe/Berlin|mph|";
    let texts: Vec<&str> = TEXTS.split('|').collect();
    match value {
        Value::Number(_) if random.below(3) == 0 => WHOLE[random.below(WHOLE.len())].into(),
        Value::Number(_) => NUMBERS[random.below(NUMBERS.len())].into(),
        Value::String(_) if random.below(3) > 0 => random.pick(&texts).into(),
        Value::Bool(truth) => (!*truth).into(),
        _ => [Value::Null, Value::Array(Vec::new()), 7.into(), "x".into(), true.into()][random.below(5)].clone(),
    }
}

/// Rows of a stream in canonical order, from a time on, among whose values are the extremes of their types.
pub(crate) fn extreme_rows(random: &mut Random, schema: &SchemaRef, rows: usize, from_ms: i64) -> RecordBatch {
    const FLOATS: [f64; 9] =
        [0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e18];
    const WHOLE: [i64; 7] = [0, 1, -1, i64::MAX, i64::MIN, 1 << 53, 4_000_000_000];
    const TIMES: [i64; 5] = [time::FIRST_MS, time::LAST_MS, 0, -1, 1_767_225_600_000];
    const TEXTS: &[&str] =
        &["a", "b", "", "a text of many bytes 😀", "-200", "1,5", "N/A", "NaN", "1e400", "2026-13-45", "Ã¼"];
    let is_far = random.below(3) == 0;
    let mut times: Vec<i64> = (0..rows)
        .map(|_| if is_far { TIMES[random.below(5)] } else { from_ms.saturating_add(random.below(20_000) as i64) })
        .map(|time| time.clamp(from_ms.max(time::FIRST_MS), time::LAST_MS))
        .collect();
    times.sort_unstable();
    let mut columns = engine_columns(random.below(5) as u32, times);
    for field in &schema.fields()[META..] {
        let mut cells = |number: usize| (random.below(6) > 0).then(|| random.below(number));
        let column: ArrayRef = match field.data_type() {
            DataType::Utf8 => Arc::new((0..rows).map(|_| cells(11).map(|at| TEXTS[at])).collect::<StringArray>()),
            DataType::Float64 => {
                let value = |at: usize| if at < 9 { FLOATS[at] } else { at as f64 / 7.0 };
                Arc::new((0..rows).map(|_| cells(40).map(value)).collect::<Float64Array>())
            }
            DataType::Int64 => {
                let value = |at: usize| if at < 7 { WHOLE[at] } else { at as i64 };
                Arc::new((0..rows).map(|_| cells(30).map(value)).collect::<Int64Array>())
            }
            DataType::Boolean => Arc::new((0..rows).map(|_| cells(2).map(|at| at == 0)).collect::<BooleanArray>()),
            _ => {
                let value = |at: usize| if at < 5 { TIMES[at] } else { at as i64 * 1000 };
                Arc::new((0..rows).map(|_| cells(20).map(value)).collect::<TimestampMillisecondArray>())
            }
        };
        columns.push(column);
    }
    canonical(schema, &[RecordBatch::try_new(schema.clone(), columns).unwrap()]).unwrap()
}

/// Rows of the example stream in canonical order: few keys, many nulls, some numbers that are not finite, equal times.
pub(crate) fn random_rows(random: &mut Random, rows: usize) -> RecordBatch {
    random_table(random, &example_schema(), rows)
}

/// The same for another stream that has columns of that kind.
pub(crate) fn random_table(random: &mut Random, schema: &SchemaRef, rows: usize) -> RecordBatch {
    let mut text = String::from("t");
    for field in &schema.fields()[META..] {
        write!(text, " {}", field.name()).unwrap();
    }
    let mut time = 0;
    for _ in 0..rows {
        time += random.below(3);
        write!(text, "\n{time}").unwrap();
        for field in &schema.fields()[META..] {
            let cell = match field.data_type() {
                _ if random.below(8) == 0 => "null".to_owned(),
                DataType::Utf8 => random.pick(&["a", "b", "c", "d-longer-than-a-few-bytes"]).to_owned(),
                DataType::Float64 if random.below(12) == 0 => random.pick(&["NaN", "inf", "-inf"]).to_owned(),
                DataType::Float64 => (random.below(1000) as f64 / 8.0 - 20.0).to_string(),
                DataType::Int64 => random.below(20).to_string(),
                DataType::Boolean => (random.below(2) == 0).to_string(),
                _ => (time as f64 - 5.0 + random.below(10) as f64).to_string(),
            };
            write!(text, " {cell}").unwrap();
        }
    }
    // Some rows come from a source that stands before or after that of the other stream.
    let rows = table(schema, &text);
    let mut columns = rows.columns().to_vec();
    columns[SOURCE] = Arc::new(UInt32Array::from_iter_values((0..rows.num_rows()).map(|_| random.below(5) as u32)));
    canonical(schema, &[RecordBatch::try_new(schema.clone(), columns).unwrap()]).unwrap()
}
