//! Cleansing steps. One file each; what several share is in `columns`, `moments`, `median`, `history`, `reading` and
//! `chance`; `units`, `local_time` and `mojibake` know what is in their names.
//!
//! Everywhere, a number that is not finite (NaN, infinite) counts as missing: it never enters a state, and a step that
//! computes with it gives null in its place.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch;
use millstream_engine::catalogue::StepKind;

mod chance;
mod clean_text;
mod clip;
mod coerce;
mod columns;
mod convert_units;
mod deduplicate;
mod derive;
#[cfg(test)]
pub(crate) mod harness;
mod hash_category;
mod history;
mod impute;
mod join_as_of;
mod local_time;
mod localise;
mod mask;
mod median;
mod mojibake;
mod moments;
mod one_hot;
mod ordinal_category;
mod power_transform;
mod reading;
mod rename;
mod require;
mod sample;
mod select;
mod split;
mod standardise;
mod units;

/// All cleansing steps.
pub static KINDS: &[&StepKind] = &[
    &clean_text::KIND,
    &clip::KIND,
    &coerce::KIND,
    &convert_units::KIND,
    &deduplicate::KIND,
    &derive::KIND,
    &hash_category::KIND,
    &impute::KIND,
    &join_as_of::KIND,
    &localise::KIND,
    &mask::KIND,
    &one_hot::KIND,
    &ordinal_category::KIND,
    &power_transform::KIND,
    &rename::KIND,
    &require::KIND,
    &sample::KIND,
    &select::KIND,
    &split::KIND,
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
    use millstream_engine::catalogue::StepInput;
    use millstream_engine::operator::{Power, Rejects};
    use serde_json::{Value, json};

    use super::harness::{Bench, Random, plan, random_rows, random_table};
    use super::*;

    /// Configurations for the properties below: each kind's example, and what else leads to other code.
    fn configurations() -> Vec<(&'static StepKind, Value)> {
        let examples = KINDS.iter().map(|kind| (*kind, yaml(kind.example)));
        let also: [(&StepKind, Value); 8] = [
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
        examples.chain(also).chain(repairs()).collect()
    }

    /// What leads to other code in steps that repair values.
    fn repairs() -> Vec<(&'static StepKind, Value)> {
        let pair = json!({"date": "at", "clock": "count", "zone_from": "room", "into": "x", "otherwise": null});
        let columns = json!({"temperature": "int", "count": "text", "ok": "int", "at": "text", "sensor": "bool"});
        vec![
            (&coerce::KIND, json!({"columns": columns, "missing": [3, "a"], "otherwise": null})),
            (&coerce::KIND, json!({"columns": {"temperature": "timestamp", "count": "bool"}, "timestamps": "s"})),
            (
                &convert_units::KIND,
                json!({"columns": {"temperature": {"unit_from": "room", "to": "ha", "from": "ac"}}}),
            ),
            (&clean_text::KIND, json!({"columns": ["room"], "case": "title", "replacements": {"A": "b", "B": null}})),
            (&localise::KIND, pair),
            (&localise::KIND, json!({"column": "at", "zone": "Europe/Oslo", "not_before": "at"})),
            (&mask::KIND, json!({"columns": {"temperature": "null", "count": {"round": 3}, "ok": {"keep_last": 1}}})),
            (&ordinal_category::KIND, json!({"column": "room", "categories": ["b", "a"]})),
            (&power_transform::KIND, json!({"columns": {"temperature": "log", "count": {"yeo_johnson": 0.5}}})),
            (&sample::KIND, json!({"share": 0.5})),
            (&split::KIND, json!({"shares": {"a": 0.5, "b": 0.5}})),
        ]
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
        fn cut(&self, places: &[(i64, u32)]) -> Vec<(RecordBatch, RecordBatch)> {
            let part = |rows: &RecordBatch, from, to| {
                let (meta, all) = (Meta::of(rows), (0..rows.num_rows()).collect::<Vec<_>>());
                let [first, end] =
                    [from, to].map(|cut| all.partition_point(|&row| (meta.time[row], meta.source[row]) < cut));
                rows.slice(first, end - first)
            };
            let cuts = [&[(i64::MIN, 0)], places, &[(i64::MAX, 0)]].concat();
            cuts.windows(2).map(|cut| (part(&self.left, cut[0], cut[1]), part(&self.right, cut[0], cut[1]))).collect()
        }
    }

    /// Learns an epoch; gives what came out.
    fn learn(bench: &mut Bench, (left, right): &(RecordBatch, RecordBatch)) -> RecordBatch {
        if !bench.step.others.is_empty() {
            assert!(bench.run(Lane::Learn, 1, right).is_none());
        }
        bench.learn(left)
    }

    fn learn_all(bench: &mut Bench, epochs: &[(RecordBatch, RecordBatch)]) -> RecordBatch {
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
            for (left, right) in rows.cut(&[20_000, 50_000, 90_000, 120_000].map(|time| (time, 0))) {
                if !bench.step.others.is_empty() {
                    bench.run(Lane::Learn, 1, &right);
                }
                // A request sees the state of before the epoch: as the epoch's first row does.
                let before = snapshot(&mut bench);
                let served = bench.serve(&left);
                assert_eq!(snapshot(&mut bench), before, "{} {config}", kind.name);
                let learned = bench.learn(&left);
                if !["deduplicate", "sample"].contains(&kind.name) {
                    assert_eq!(served.slice(0, 1), learned.slice(0, 1), "{} {config}, seed {seed}", kind.name);
                }
            }
        }
    }

    /// An export as they come: each step finds what the one before has made.
    #[test]
    fn dirty_rows_come_out_clean() {
        let steps: [(&StepKind, Value); 6] = [
            (&clean_text::KIND, json!({"columns": ["room"], "case": "lower", "replacements": {"kitchn": "kitchen"}})),
            (
                &coerce::KIND,
                json!({"columns": {"sensor": "float"}, "decimal": ",", "thousands": ".", "missing": [-200, "N/A"]}),
            ),
            (&convert_units::KIND, json!({"columns": {"sensor": "°F -> °C"}})),
            (&ordinal_category::KIND, json!({"column": "room", "categories": ["kitchen", "attic"], "unknown": null})),
            (&localise::KIND, json!({"column": "at", "zone": "Europe/Oslo", "into": "utc", "nonexistent": null})),
            (&power_transform::KIND, json!({"columns": {"count": "sqrt"}})),
        ];
        let input = "t sensor   room          count at
                     1 ␣72,5␣   ␣KITCHN␣      9     7200
                     2 N/A      attic         4     7200
                     3 -200,0   Attic         0     7200
                     4 1.832,0  garage        1     1711852200
                     5 72.5     attic         1     7200
                     6 50       Kit\u{200b}chen -4    7200";
        let mut rows = harness::table(&example_schema(), input);
        let mut dead = Vec::new();
        for (kind, config) in steps {
            let input = StepInput { schema: &rows.schema(), streams: &example_streams() };
            let step = (kind.plan)(&config, &input).unwrap_or_else(|problems| panic!("{problems:#?}"));
            let Power::Transform(operator) = step.power else { panic!("{} has state", kind.name) };
            let mut rejects = Rejects::default();
            rows = operator.apply(Lane::Learn, &rows, &mut rejects).unwrap();
            dead.extend(rejects.take().into_iter().map(|(_, reason)| reason));
        }
        let expected = "t sensor room count utc
                        1 22.5 0    3 3600
                        2 null 1    2 3600
                        3 null 1    0 3600
                        4 1000 null 1 null";
        assert_eq!(harness::show(&rows, &["t", "sensor", "room", "count", "utc"]), harness::tidy(expected));
        let expected = ["column `sensor`: `72.5` is no number", "column `count`: sqrt does not take `-4`"];
        assert_eq!(dead, expected);
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
