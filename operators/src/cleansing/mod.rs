//! Cleansing steps. One file each; what several share is in `columns`, `functions`, `running`, `moments`, `median`, `history`, `reading`,
//! `category` and `chance`; `units`, `local_time` and `mojibake` know what is in their names.
//!
//! Everywhere, a number that is not finite (NaN, infinite) counts as missing: it never enters a state, and a step that
//! computes with it gives null in its place.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch;
use millstream_engine::catalogue::StepKind;

mod aggregate;
mod as_stream;
mod category;
mod chance;
mod channels;
mod clean_text;
mod clip;
mod coerce;
mod columns;
mod convert_units;
mod deduplicate;
mod derive;
mod detect_drift;
mod exact;
mod expect;
#[cfg(test)]
mod extremes;
mod flag_drift;
mod flag_stuck;
mod functions;
#[cfg(test)]
pub(crate) mod harness;
mod hash_category;
mod history;
mod impute;
mod interpolate;
mod join;
mod join_as_of;
mod lag;
mod latest;
mod local_time;
mod localise;
mod mark_gaps;
mod mask;
mod median;
mod mojibake;
mod moments;
mod one_hot;
mod ordinal_category;
mod other_stream;
mod outliers;
mod parse_json;
mod power_transform;
pub(crate) mod reading;
mod rename;
mod require;
mod resample;
mod rolling;
mod row_format;
mod running;
mod sample;
mod scale;
mod select;
mod split;
mod standardise;
mod target_mean;
mod units;
mod winsorise;

/// All cleansing steps.
pub static KINDS: &[&StepKind] = &[
    &aggregate::KIND,
    &as_stream::KIND,
    &clean_text::KIND,
    &clip::KIND,
    &coerce::KIND,
    &convert_units::KIND,
    &deduplicate::KIND,
    &derive::KIND,
    &detect_drift::KIND,
    &expect::KIND,
    &flag_drift::KIND,
    &flag_stuck::KIND,
    &hash_category::KIND,
    &impute::KIND,
    &interpolate::KIND,
    &join::KIND,
    &join_as_of::KIND,
    &lag::KIND,
    &latest::KIND,
    &localise::KIND,
    &mark_gaps::KIND,
    &mask::KIND,
    &one_hot::KIND,
    &ordinal_category::KIND,
    &outliers::KIND,
    &parse_json::KIND,
    &power_transform::KIND,
    &rename::KIND,
    &require::KIND,
    &resample::KIND,
    &rolling::KIND,
    &sample::KIND,
    &scale::KIND,
    &select::KIND,
    &split::KIND,
    &standardise::KIND,
    &target_mean::KIND,
    &winsorise::KIND,
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
    pub(super) fn configurations() -> Vec<(&'static StepKind, Value)> {
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
            (&rolling::KIND, json!({"by": ["sensor"], "rows": 5, "columns": every_function()})),
            (&latest::KIND, json!({"by": ["sensor"], "version": "count", "horizon_seconds": 9, "deleted": "not ok"})),
            (&impute::KIND, json!({"columns": ["temperature", "count"], "with": "mean", "by": ["sensor", "room"]})),
            (
                &expect::KIND,
                json!({"that": "share(temperature > 20) < 0.6", "over_seconds": 7, "by": ["room"], "otherwise": "dead_letter"}),
            ),
            (
                &expect::KIND,
                json!({"that": "quantile(humidity, 0.5) between 0 and 55", "over_rows": 6, "otherwise": "dead_letter"}),
            ),
            (&impute::KIND, json!({"columns": ["temperature", "count"], "with": "median"})),
            (&impute::KIND, json!({"columns": ["sensor", "ok", "at"], "with": "last"})),
            (&impute::KIND, json!({"columns": ["temperature"], "with": {"constant": 1.5}})),
            (&standardise::KIND, json!({"columns": ["humidity"], "warm_up": 0})),
            (&deduplicate::KIND, json!({"by": ["sensor", "ok"], "within_seconds": 2})),
            (
                &join_as_of::KIND,
                json!({"with": "weather", "by": ["room"], "at": "at", "within_seconds": 3, "horizon_seconds": 4}),
            ),
            (
                &detect_drift::KIND,
                json!({"columns": ["count", "humidity"], "window": 4, "by": ["ok"], "reference": "previous"}),
            ),
            (&detect_drift::KIND, json!({"columns": ["temperature"], "window": 7, "method": "jensen_shannon"})),
            (
                &flag_drift::KIND,
                json!({"columns": ["count", "humidity"], "reference": 4, "threshold": 2, "by": ["ok"]}),
            ),
            (
                &lag::KIND,
                json!({"columns": ["count"], "rows": 2, "by": ["sensor"], "within_seconds": 30, "otherwise": "oldest"}),
            ),
            (&flag_stuck::KIND, json!({"columns": ["count"], "readings": 2, "tolerance": 5, "then": "missing"})),
            (
                &outliers::KIND,
                json!({"columns": ["count"], "method": {"z_score": {"limit": 1}}, "then": "drop", "relearn_after": 2}),
            ),
            (
                &outliers::KIND,
                json!({"columns": ["count"], "method": {"hampel": {"window": 5, "limit": 2}}, "then": "dead_letter"}),
            ),
            (
                &outliers::KIND,
                json!({"columns": ["temperature"], "method": {"range": {"min": 0, "max": 50}}, "then": "flag"}),
            ),
            (&scale::KIND, json!({"columns": ["temperature", "count"], "method": "min_max"})),
            (&scale::KIND, json!({"columns": ["temperature"], "method": "quantile", "warm_up": 0})),
            (&target_mean::KIND, json!({"target": "count", "by": ["sensor", "ok"], "prior": "temperature"})),
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
    fn a_request_gets_the_columns_that_a_record_would_and_changes_nothing() {
        for (seed, (kind, config)) in (0..).zip(configurations()) {
            let Rows { left, right } = Rows::random(&mut Random::new(seed));
            let mut bench = Bench::new(kind, &config);
            let mut fed = 0;
            for row in 0..left.num_rows() {
                let one = left.slice(row, 1);
                let order = Meta::of(&one).order(0);
                let before = (0..right.num_rows()).take_while(|&row| Meta::of(&right).order(row) < order).count();
                if bench.step.others.len() == 1 && before > fed {
                    bench.run(Lane::Learn, 1, &right.slice(fed, before - fed));
                    fed = before;
                }
                let state = (row % 8 == 0).then(|| snapshot(&mut bench));
                let served = bench.run(Lane::Serve, 0, &one);
                let refused = std::mem::take(&mut bench.rejects);
                if let Some(state) = state {
                    assert_eq!(snapshot(&mut bench), state, "{} {config}, row {row}", kind.name);
                }
                let learned = bench.learn(&one);
                if !treats_requests_otherwise(kind) {
                    let served = served.expect("requests get rows");
                    assert_eq!(served, learned, "{} {config}, seed {seed}, row {row}", kind.name);
                    assert_eq!(refused, bench.rejects, "{} {config}, seed {seed}, row {row}", kind.name);
                }
            }
        }
    }

    /// Steps that give other rows than came in, or let requests pass; they have tests of their own for the serve lane.
    fn treats_requests_otherwise(kind: &StepKind) -> bool {
        ["aggregate", "deduplicate", "interpolate", "join", "latest", "resample", "sample"].contains(&kind.name)
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
    fn repaired_values_are_counted() {
        let rows = super::harness::table(
            &example_schema(),
            "t temperature humidity count room
             1 5           1        3     hall
             2 null        NaN      9     null
             3 90          4        null  ␣hall
             4 7           5        -5    null",
        );
        let cases: Vec<(&StepKind, Value, u64)> = vec![
            (&impute::KIND, json!({"columns": ["temperature", "humidity"], "with": {"constant": 0}}), 2),
            (&impute::KIND, json!({"columns": ["temperature", "count"], "with": "mean"}), 2),
            (&impute::KIND, json!({"columns": ["humidity", "room"], "with": "last"}), 3),
            (&clip::KIND, json!({"columns": ["temperature", "count"], "min": 0, "max": 6}), 4),
            (
                &require::KIND,
                json!({"that": "temperature < 50", "otherwise": {"null": ["temperature", "humidity"]}}),
                3,
            ),
            (&coerce::KIND, json!({"columns": {"temperature": "int", "count": "int"}, "missing": [90, -5]}), 2),
            (&coerce::KIND, json!({"columns": {"room": "float"}, "otherwise": null}), 2),
            (&outliers::KIND, json!({"columns": ["temperature"], "method": {"range": {"min": 6, "max": 8}}}), 2),
            (&clean_text::KIND, json!({"columns": ["room"]}), 1),
            (&winsorise::KIND, json!({"columns": ["count"], "low": 0, "high": 0.5, "warm_up": 2}), 1),
            (&standardise::KIND, json!({"columns": ["count"]}), 0),
        ];
        for (kind, config, expected) in cases {
            let mut bench = Bench::new(kind, &config);
            bench.learn(&rows);
            assert_eq!(bench.repaired, expected, "{} {config}", kind.name);
        }
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
