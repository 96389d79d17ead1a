//! `generator`: synthetic sensors.
//!
//! Every value is a pure function of seed, offset and column, in arithmetic that all machines round alike (no
//! trigonometry), so that any offset can be read first and gives the same row everywhere and for ever.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringBuilder, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Position, Reader, Source};
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Content, PlannedSource, SourceKind, World};
use crate::formats::timestamp;

/// Synthetic sensors.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many sensors take turns. Default: 10.
    pub sensors: u64,
    /// How many records there are in all. Default: without end.
    pub records: Option<u64>,
    /// Time between two readings of one sensor; the sensors' turns are spread over it evenly. Default: 1000.
    pub period_ms: u64,
    /// Time of the first reading. Default: 2026-01-01T00:00:00Z.
    pub start: String,
    /// Other seeds give other readings. Default: 0.
    pub seed: u64,
    /// Standard deviation of the readings' noise, in units of what is usual. Default: 1.
    pub noise: f64,
    /// Share of values that are missing, from 0 to 1. Default: 0.
    pub missing_share: f64,
    /// Share of values that are absurd, from 0 to 1. Default: 0.
    pub outlier_share: f64,
    /// Share of time that a sensor's machine is faulty, in episodes of 50 readings: then it is warmer, vibrates more
    /// and `faulty` is true. Default: 0.1.
    pub faulty_share: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sensors: 10,
            records: None,
            period_ms: 1000,
            start: "2026-01-01T00:00:00Z".to_owned(),
            seed: 0,
            noise: 1.0,
            missing_share: 0.0,
            outlier_share: 0.0,
            faulty_share: 0.1,
        }
    }
}

/// The entry of `generator`.
pub static KIND: SourceKind = Kind {
    name: "generator",
    about: "Synthetic sensors, for trying things out: the same records for the same configuration, always.\n\n\
        Columns: `sensor` (text), `at` (timestamp), `temperature`, `humidity`, `pressure`, `vibration` (float), \
        `faulty` (bool). Temperature follows the time of day, humidity falls as it rises. The columns are known: none are \
        declared. It has one partition; the records' timestamps are `at`.",
    schema: schema_of::<Config>,
    example: "{sensors: 4, records: 1000, seed: 7, missing_share: 0.01, outlier_share: 0.001}",
    plan,
};

fn plan(value: &Value) -> Planned<PlannedSource> {
    let config: Config = configuration(value)?;
    let start_ms = check(&config)?;
    let sensors = Arc::new(Sensors { config, start_ms, schema: schema() });
    Ok(PlannedSource {
        content: Content::Known(sensors.schema.clone()),
        format: None,
        topic: None,
        receiver: None,
        open: Box::new(move |_: &World| Ok(Arc::new(Generator(sensors.clone())) as Arc<dyn Source>)),
    })
}

/// Finds all problems; gives the start in milliseconds.
fn check(config: &Config) -> Planned<i64> {
    let mut problems = Problems::default();
    for (name, share) in [
        ("missing_share", config.missing_share),
        ("outlier_share", config.outlier_share),
        ("faulty_share", config.faulty_share),
    ] {
        if !(0.0..=1.0).contains(&share) {
            problems.push(Problem::new(name, "bad-value", format!("{share} is not between 0 and 1")));
        }
    }
    for (name, value) in [("sensors", config.sensors), ("period_ms", config.period_ms)] {
        if !(1..=1 << 32).contains(&value) {
            problems.push(Problem::new(name, "bad-value", format!("{value} is not between 1 and 4294967296")));
        }
    }
    if !(0.0..=1e6).contains(&config.noise) {
        problems.push(Problem::new("noise", "bad-value", format!("{} is not between 0 and 1000000", config.noise)));
    }
    let start = timestamp::parse(config.start.as_bytes()).ok_or_else(|| {
        Problem::new("start", "bad-timestamp", format!("`{}` is not {}", config.start, timestamp::EXPECTED))
    });
    let start_ms = problems.take(start);
    problems.finish()?;
    Ok(start_ms.unwrap_or_default())
}

fn schema() -> SchemaRef {
    let float = |name| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new("sensor", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        float("temperature"),
        float("humidity"),
        float("pressure"),
        float("vibration"),
        Field::new("faulty", DataType::Boolean, true),
    ]))
}

/// Readings of one episode share whether their machine is faulty.
const EPISODE: u64 = 50;
/// Bytes of a row, for cutting batches.
const ROW_BYTES: usize = 64;
/// Rows of a batch at most.
const BATCH_ROWS: usize = 8192;
const DAY_MS: i64 = 86_400_000;

/// What is random about a row; each has its own stream of numbers.
#[derive(Clone, Copy)]
enum Draw {
    Faulty,
    Base,
    Temperature,
    Humidity,
    Pressure,
    Vibration,
}

struct Sensors {
    config: Config,
    start_ms: i64,
    schema: SchemaRef,
}

impl Sensors {
    /// A number from 0 up to 1 that depends on the seed, `at`, and what it is for.
    fn uniform(&self, at: u64, draw: Draw, nth: u64) -> f64 {
        let key = mix(self.config.seed ^ mix(at)) ^ mix((draw as u64) << 8 | nth);
        (mix(key) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Noise: twelve uniform numbers make a bell, without a logarithm.
    fn bell(&self, offset: u64, draw: Draw) -> f64 {
        let sum: f64 = (0..12).map(|nth| self.uniform(offset, draw, nth)).sum();
        (sum - 6.0) * self.config.noise
    }

    fn at_ms(&self, offset: u64) -> i64 {
        let Config { sensors, period_ms, .. } = self.config;
        let spread = u128::from(offset % sensors) * u128::from(period_ms) / u128::from(sensors);
        let since = (offset / sensors).saturating_mul(period_ms).saturating_add(spread as u64);
        self.start_ms.saturating_add_unsigned(since).min(timestamp::LAST_MS)
    }

    fn faulty(&self, offset: u64) -> bool {
        let (sensor, reading) = (offset % self.config.sensors, offset / self.config.sensors);
        self.uniform(mix(sensor) ^ (reading / EPISODE), Draw::Faulty, 0) < self.config.faulty_share
    }

    /// The usual value for this sensor at this time, one for each float column.
    fn usual(&self, offset: u64) -> [f64; 4] {
        let base = self.uniform(mix(offset % self.config.sensors), Draw::Base, 0);
        let warmth = wave(self.at_ms(offset).rem_euclid(DAY_MS) as f64 / DAY_MS as f64);
        let fault = f64::from(u8::from(self.faulty(offset)));
        [
            15.0 + 10.0 * base + 8.0 * warmth + 3.0 * fault,
            55.0 - 15.0 * warmth,
            1013.0 + 4.0 * base,
            1.0 + base + 2.5 * fault,
        ]
    }

    /// A reading; `None` where it is missing.
    fn reading(&self, offset: u64, usual: f64, draw: Draw) -> Option<f64> {
        const SPREAD: [f64; 4] = [1.0, 3.0, 1.5, 0.5];
        let luck = self.uniform(offset, draw, 12);
        if luck < self.config.missing_share {
            return None;
        }
        let spread = SPREAD[draw as usize - Draw::Temperature as usize];
        let absurd =
            if self.uniform(offset, draw, 13) < self.config.outlier_share { 1000.0 * (luck + 1.0) } else { 0.0 };
        Some(usual + spread * self.bell(offset, draw) + absurd)
    }

    fn rows(&self, from: u64, count: usize) -> Result<RecordBatch> {
        let offsets = from..from + count as u64;
        let mut sensor = StringBuilder::with_capacity(count, count * 12);
        for offset in offsets.clone() {
            use std::fmt::Write;
            write!(sensor, "sensor-{:04}", offset % self.config.sensors).map_err(Fault::ours)?;
            sensor.append_value("");
        }
        let draws = [Draw::Temperature, Draw::Humidity, Draw::Pressure, Draw::Vibration];
        let mut floats = draws.map(|_| Float64Array::builder(count));
        for offset in offsets.clone() {
            for ((column, usual), draw) in floats.iter_mut().zip(self.usual(offset)).zip(draws) {
                column.append_option(self.reading(offset, usual, draw));
            }
        }
        let at = TimestampMillisecondArray::from_iter_values(offsets.clone().map(|offset| self.at_ms(offset)));
        let faulty: BooleanArray = offsets.map(|offset| Some(self.faulty(offset))).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(sensor.finish()), Arc::new(at)];
        columns.extend(floats.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        columns.push(Arc::new(faulty));
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// `SplitMix64`'s finaliser over its next state: equal inputs give equal, well-spread outputs.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A smooth wave of period 1 from -1 (at 0) to 1 (at a half), from two parabolas.
fn wave(at: f64) -> f64 {
    let x = (at + 0.25) % 1.0 * 2.0 - 1.0;
    4.0 * x * (1.0 - x.abs())
}

struct Generator(Arc<Sensors>);

impl Source for Generator {
    fn partitions(&self) -> Result<Vec<u32>> {
        Ok(vec![0])
    }

    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>> {
        let end = self.0.config.records.unwrap_or(u64::MAX);
        let offset = from.iter().find(|position| position.partition == 0).map_or(end, |position| position.offset);
        if offset > end {
            return Err(Fault::world(format!("the generator makes {end} records; there is no offset {offset}")));
        }
        Ok(Box::new(Readings { sensors: self.0.clone(), offset, end }))
    }

    fn is_finite(&self) -> bool {
        self.0.config.records.is_some()
    }
}

struct Readings {
    sensors: Arc<Sensors>,
    offset: u64,
    end: u64,
}

impl Reader for Readings {
    fn read(&mut self, max_bytes: usize, _wait: Duration) -> Result<Option<RawBatch>> {
        let count = (self.end - self.offset).min((max_bytes / ROW_BYTES).clamp(1, BATCH_ROWS) as u64);
        if count == 0 {
            return Ok(None);
        }
        let offsets = self.offset..self.offset + count;
        self.offset += count;
        Ok(Some(RawBatch {
            partition: 0,
            offsets: offsets.clone().collect(),
            timestamps: offsets.clone().map(|offset| self.sensors.at_ms(offset)).collect(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Rows(self.sensors.rows(offsets.start, count as usize)?),
        }))
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        let end = if self.end == u64::MAX { self.offset } else { self.end };
        Ok(vec![Position { partition: 0, offset: end }])
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    use serde_json::json;

    use super::*;
    use crate::sources::tests::{check_resuming, read_all, shown, world};

    fn source(config: &Value) -> Arc<dyn Source> {
        (plan(config).expect("good").open)(&world(".", 100)).expect("nothing to fail")
    }

    fn all(config: &Value) -> RecordBatch {
        let batches = read_all(&*source(config), &[Position { partition: 0, offset: 0 }], 1 << 20);
        let rows: Vec<&RecordBatch> = batches
            .iter()
            .map(|batch| match &batch.payload {
                Payload::Rows(rows) => rows,
                Payload::Bytes(_) => panic!("a generator makes rows"),
            })
            .collect();
        arrow::compute::concat_batches(&rows[0].schema(), rows).expect("one schema")
    }

    #[test]
    fn any_offset_comes_first() {
        check_resuming(&*source(&json!({"sensors": 3, "records": 40, "missing_share": 0.2})), 0);
    }

    #[test]
    fn the_first_rows_never_change() {
        let first =
            read_all(&*source(&json!({"records": 2, "seed": 1})), &[Position { partition: 0, offset: 0 }], 1000);
        let expected = [
            "0/0 sensor-0000|2026-01-01T00:00:00|15.595270011581666|68.34811195161006|1017.2943467705666|2.4430544063445185|false",
            "0/1 sensor-0001|2026-01-01T00:00:00.100|16.969366195607577|73.55969398802962|1015.7163657709057|2.29568054891808|false",
        ];
        assert_eq!(shown(&first), expected);
    }

    #[test]
    fn time_goes_on_evenly() {
        let batches = read_all(
            &*source(&json!({"sensors": 4, "records": 6, "start": "1970-01-01"})),
            &[Position { partition: 0, offset: 0 }],
            1000,
        );
        assert_eq!(*batches[0].timestamps, [0, 250, 500, 750, 1000, 1250]);
    }

    #[test]
    fn shares_are_met_and_faults_can_be_seen() {
        let config =
            json!({"sensors": 50, "records": 50_000, "missing_share": 0.1, "outlier_share": 0.01, "faulty_share": 0.2});
        let rows = all(&config);
        let share = |count: usize| count as f64 / rows.num_rows() as f64;
        let vibration = rows.column(5).as_primitive::<Float64Type>();
        let absurd = vibration.iter().flatten().filter(|value| *value > 500.0).count();
        let faulty = rows.column(6).as_boolean();
        assert!((share(vibration.null_count()) - 0.1).abs() < 0.01);
        assert!((share(absurd) - 0.009).abs() < 0.002);
        assert!((share(faulty.true_count()) - 0.2).abs() < 0.03);
        // A single threshold tells most readings of faulty machines from others.
        let told = (0..rows.num_rows())
            .filter(|row| (vibration.value(*row) > 2.75) == faulty.value(*row) && vibration.is_valid(*row));
        assert!(share(told.count()) > 0.85);
    }

    #[test]
    fn finds_all_problems() {
        let config = json!({"sensors": 0, "missing_share": 2, "noise": -1, "start": "soon"});
        let problems = plan(&config).err().expect("four problems");
        let found: Vec<_> = problems.iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(found, ["missing_share", "sensors", "noise", "start"]);
    }

    #[test]
    fn an_endless_one_is_not_finite() {
        assert!(!source(&json!({})).is_finite());
        assert!(source(&json!({"records": 0})).is_finite());
    }
}
