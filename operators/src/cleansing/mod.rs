//! Cleansing steps. One file each; what several share is in `columns`, `moments`, `median` and `history`.
//!
//! Everywhere, a number that is not finite (NaN, infinite) counts as missing: it never enters a state, and a step that
//! computes with it gives null in its place.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch;
use millstream_engine::catalogue::StepKind;

mod aggregate;
mod as_stream;
mod clip;
mod coerce;
mod columns;
mod convert_units;
mod deduplicate;
mod derive;
mod exact;
mod functions;
#[cfg(test)]
pub(crate) mod harness;
mod hash_category;
mod history;
mod impute;
mod join;
mod join_as_of;
mod latest;
mod median;
mod moments;
mod one_hot;
mod other_stream;
pub(crate) mod reading;
mod rename;
mod require;
mod row_format;
mod select;
mod standardise;
mod units;

/// All cleansing steps.
pub static KINDS: &[&StepKind] = &[
    &aggregate::KIND,
    &as_stream::KIND,
    &clip::KIND,
    &coerce::KIND,
    &convert_units::KIND,
    &deduplicate::KIND,
    &derive::KIND,
    &hash_category::KIND,
    &impute::KIND,
    &join::KIND,
    &join_as_of::KIND,
    &latest::KIND,
    &one_hot::KIND,
    &rename::KIND,
    &require::KIND,
    &select::KIND,
    &standardise::KIND,
];

/// The stream that the steps' examples stand in: readings of sensors in rooms.
pub fn example_schema() -> SchemaRef {
    source_schema(&[
        ("sensor", DataType::Utf8),
        ("room", DataType::Utf8),
        ("temperature", DataType::Float64),
        ("humidity", DataType::Float64),
        ("count", DataType::Int64),
        ("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("ok", DataType::Boolean),
    ])
}

/// The other streams that the steps' examples may name: `weather`, what each room's window sees.
pub fn example_streams() -> BTreeMap<String, SchemaRef> {
    let weather = [("room", DataType::Utf8), ("wind", DataType::Float64), ("sky", DataType::Utf8)];
    BTreeMap::from([("weather".to_owned(), source_schema(&weather))])
}

fn source_schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields: Vec<_> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    batch::schema_of(&Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::compute::concat_batches;
    use millstream_engine::batch::{Lane, Meta};
    use serde_json::{Value, json};

    use super::harness::{Bench, Random, plan, random_rows, random_table};
    use super::*;

    /// Configurations for the properties below: each kind's example, and what else leads to other code.
    fn configurations() -> Vec<(&'static StepKind, Value)> {
        let examples = KINDS.iter().map(|kind| (*kind, yaml(kind.example)));
        let also: Vec<(&StepKind, Value)> = vec![
            (
                &aggregate::KIND,
                json!({"by": ["sensor", "room"], "at": "at", "corrections_seconds": 4,
                "window": {"hopping_seconds": 6, "every_seconds": 2}, "columns": every_function()}),
            ),
            (
                &aggregate::KIND,
                json!({"by": ["sensor"], "at": "at", "corrections_seconds": 4,
                "window": {"session_gap_seconds": 2}, "columns": every_function()}),
            ),
            (&aggregate::KIND, json!({"by": ["room"], "columns": every_function()})),
            (&aggregate::KIND, json!({"window": {"tumbling_seconds": 5}, "columns": {"n": "count()"}})),
            (&join::KIND, json!({"with": "weather", "by": ["room"], "within_seconds": 3, "kind": "left"})),
            (&latest::KIND, json!({"by": ["sensor"], "version": "count", "horizon_seconds": 9, "deleted": "not ok"})),
            (&impute::KIND, json!({"columns": ["temperature", "count"], "with": "mean", "by": ["sensor", "room"]})),
            (&impute::KIND, json!({"columns": ["temperature", "count"], "with": "median"})),
            (&impute::KIND, json!({"columns": ["sensor", "ok", "at"], "with": "last"})),
            (&impute::KIND, json!({"columns": ["temperature"], "with": {"constant": 1.5}})),
            (&standardise::KIND, json!({"columns": ["humidity"], "warm_up": 0})),
            (&deduplicate::KIND, json!({"by": ["sensor", "ok"], "within_seconds": 2})),
            (
                &join_as_of::KIND,
                json!({"with": "weather", "by": ["room"], "at": "at", "within_seconds": 3, "horizon_seconds": 4}),
            ),
            (&require::KIND, json!({"that": "100 / count > 9 and temperature < 50", "otherwise": "drop"})),
        ];
        examples.chain(also).collect()
    }

    fn every_function() -> Value {
        json!({"n": "count()", "known": "count(temperature)", "sum": "sum(count)", "mean": "mean(temperature)",
            "variance": "variance(humidity)", "deviation": "deviation(temperature)", "min": "min(temperature)", "max": "max(at)",
            "first": "first(count)", "last": "last(humidity)", "p90": "quantile(temperature, 0.9)", "rooms": "distinct(room)"})
    }

    fn yaml(text: &str) -> Value {
        use saphyr::{LoadableYamlNode, Scalar, Yaml};
        fn convert(yaml: &Yaml<'_>) -> Value {
            match yaml {
                Yaml::Value(Scalar::Null) => Value::Null,
                Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
                Yaml::Value(Scalar::Integer(number)) => json!(number),
                Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
                Yaml::Value(Scalar::String(text)) => json!(text),
                Yaml::Sequence(items) => items.iter().map(convert).collect(),
                Yaml::Mapping(entries) => {
                    let entry = |(key, value): (&Yaml<'_>, _)| (key.as_str().unwrap().to_owned(), convert(value));
                    entries.iter().map(entry).collect::<serde_json::Map<_, _>>().into()
                }
                other => panic!("examples have no {other:?}"),
            }
        }
        convert(&Yaml::load_from_str(text).unwrap()[0])
    }

    /// The rows of both ports. A cut goes through both, at a place in the canonical order, as the engine's do.
    struct Rows {
        left: RecordBatch,
        right: RecordBatch,
    }

    impl Rows {
        fn random(random: &mut Random) -> Self {
            let right = random_table(random, &example_streams()["weather"], 200);
            Self { left: random_rows(random, 200), right }
        }

        /// Cuts before each of these event times and sources.
        fn cut(&self, places: &[(i64, u32)]) -> Vec<Epoch> {
            let part = |rows: &RecordBatch, from, to| {
                let (meta, all) = (Meta::of(rows), (0..rows.num_rows()).collect::<Vec<_>>());
                let [first, end] =
                    [from, to].map(|cut| all.partition_point(|&row| (meta.time[row], meta.source[row]) < cut));
                rows.slice(first, end - first)
            };
            // The last is long after all rows.
            let cuts = [&[(i64::MIN, 0)], places, &[(1_000_000_000, 0)]].concat();
            let epoch = |cut: &[(i64, u32)]| Epoch {
                ports: [part(&self.left, cut[0], cut[1]), part(&self.right, cut[0], cut[1])],
                watermark: cut[1],
            };
            cuts.windows(2).map(epoch).collect()
        }
    }

    /// The rows of an epoch by port, and the watermark after it.
    struct Epoch {
        ports: [RecordBatch; 2],
        watermark: (i64, u32),
    }

    /// Learns an epoch; gives what came out.
    fn learn(bench: &mut Bench, epoch: &Epoch) -> RecordBatch {
        let output = bench.epoch_until(&epoch.ports[..=bench.step.others.len()], epoch.watermark);
        output.unwrap_or_else(|| RecordBatch::new_empty(bench.step.schema.clone()))
    }

    fn learn_all(bench: &mut Bench, epochs: &[Epoch]) -> RecordBatch {
        let outputs: Vec<_> = epochs.iter().map(|epoch| learn(bench, epoch)).collect();
        concat_batches(&bench.step.schema, &outputs).unwrap()
    }

    fn snapshot(bench: &mut Bench) -> Option<BTreeMap<u8, Vec<u8>>> {
        bench.state.as_mut().map(|state| state.snapshot().unwrap())
    }

    #[test]
    fn results_do_not_depend_on_how_the_rows_are_cut() {
        for (seed, (kind, config)) in (0..).zip(configurations()) {
            let mut random = Random::new(seed);
            let rows = Rows::random(&mut random);
            let mut cuts: Vec<_> = (0..20).map(|_| (random.below(220) as i64 * 1000, random.below(5) as u32)).collect();
            cuts.sort_unstable();
            let (mut one, mut many) = (Bench::new(kind, &config), Bench::new(kind, &config));
            let expected = learn_all(&mut one, &rows.cut(&[]));
            assert!(expected.num_rows() > 0, "{} gives nothing", kind.name);
            assert_eq!(learn_all(&mut many, &rows.cut(&cuts)), expected, "{} {config}, seed {seed}", kind.name);
            if kind.name != "join_as_of" {
                // That one drops what earlier epochs have made useless.
                assert_eq!(snapshot(&mut many), snapshot(&mut one), "{} {config}, seed {seed}", kind.name);
            }
        }
    }

    #[test]
    fn a_restored_state_goes_on_as_the_original() {
        for (seed, (kind, config)) in (0..).zip(configurations()) {
            let epochs = Rows::random(&mut Random::new(seed)).cut(&[(100_000, 0)]);
            let mut bench = Bench::new(kind, &config);
            learn(&mut bench, &epochs[0]);
            let mut restored = bench.restored(kind, &config);
            assert_eq!(snapshot(&mut restored), snapshot(&mut bench));
            assert_eq!(learn(&mut restored, &epochs[1]), learn(&mut bench, &epochs[1]), "{} {config}", kind.name);
        }
    }

    #[test]
    fn requests_get_the_same_columns_and_change_nothing() {
        for (seed, (kind, config)) in (0..).zip(configurations()) {
            let rows = Rows::random(&mut Random::new(seed));
            let mut bench = Bench::new(kind, &config);
            for epoch in rows.cut(&[20_000, 50_000, 90_000, 120_000].map(|time| (time, 0))) {
                let left = &epoch.ports[0];
                if bench.step.others.len() == 1 && !gives_its_own_rows(kind) {
                    bench.run(Lane::Learn, 1, &epoch.ports[1]);
                }
                // A request sees the state of before the epoch: as the epoch's first row does.
                let before = snapshot(&mut bench);
                let served = bench.run(Lane::Serve, 0, left);
                assert_eq!(snapshot(&mut bench), before, "{} {config}", kind.name);
                if gives_its_own_rows(kind) {
                    learn(&mut bench, &epoch);
                } else {
                    let (served, learned) = (served.expect("requests get rows"), bench.learn(left));
                    assert_eq!(served.slice(0, 1), learned.slice(0, 1), "{} {config}, seed {seed}", kind.name);
                }
            }
        }
    }

    /// Whether the learn lane's rows are not those that came in. These steps have tests of their own for the serve lane.
    fn gives_its_own_rows(kind: &StepKind) -> bool {
        ["aggregate", "deduplicate", "join", "latest"].contains(&kind.name)
    }

    #[test]
    fn unknown_keys_are_refused() {
        for kind in KINDS {
            let mut config = yaml(kind.example);
            config["no_such_key"] = json!([]);
            let problems = plan(kind, &config).err().unwrap_or_else(|| panic!("{} takes any key", kind.name));
            assert_eq!(problems[0].code, "bad-value", "{}", kind.name);
        }
    }

    #[test]
    fn every_kind_is_documented() {
        for kind in KINDS {
            let schema = serde_json::to_string(&(kind.schema)()).unwrap();
            assert!(schema.contains("description") || schema.contains("additionalProperties"), "{}", kind.name);
            assert!(
                kind.about.contains("\n\n") || kind.about.len() < 100,
                "{} needs one line, then details",
                kind.name
            );
        }
    }
}
