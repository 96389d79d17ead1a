use arrow::array::{BooleanArray, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::*;
use crate::cleansing::example_schema;
use crate::cleansing::harness::{Random, random_rows};

fn plain(columns: Vec<(&str, ArrayRef)>) -> Profile {
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)));
    let rows = rows.unwrap();
    let mut profile = Profile::new(rows.schema_ref());
    profile.add_all(&rows).unwrap();
    profile
}

#[test]
fn a_table_shows_what_there_is() {
    let profile = plain(vec![
        ("temperature", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN), Some(3.25)]))),
        ("count", Arc::new(Int64Array::from(vec![Some(7), Some(7), None, Some(-1)]))),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 86_400_000, 1000, 2000]))),
        ("price", Arc::new(StringArray::from(vec![Some("1,5"), Some("N/A"), Some("20,25"), None]))),
        ("room", Arc::new(StringArray::from(vec![Some("a"), Some(" b"), Some("a"), None]))),
    ]);
    let expected = "\
4 rows

column       type       missing %  distinct                   min  1 %  median   99 %                   max    mean  deviation
temperature  float             50         2                   1.5  1.5     1.5    1.5                  3.25   2.375    1.23744
count        int               25         2                    -1   -1       7      7                     7  4.33333     4.6188
";
    let table = profile.report().table();
    let words = |text: &str| {
        text.lines().take(5).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(words(&table), words(expected));
    let line = |name: &str| {
        table.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("at"), "at timestamp 0 4 1970-01-01T00:00:00Z 1970-01-02T00:00:00Z");
    assert_eq!(
        line("price"),
        "price text 25 3 1.5 1.5 1.5 1.5 20.25 10.875 13.2583 66.67 % with a decimal comma; `N/A` 1 times"
    );
    assert_eq!(line("room"), "room text 25 2 33.33 % padded; \"a\" 2");
    let json = serde_json::to_value(profile.report()).unwrap();
    assert_eq!((&json["rows"], &json["columns"][0]["missing_share"]), (&4.into(), &0.5.into()));
    assert_eq!(json["columns"][5]["text"]["top"][0], serde_json::json!(["a", 2]));
}

/// Everything that is exact agrees however the rows are cut and to whom they go.
#[test]
fn parts_make_the_whole() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let rows = random_rows(&mut random, 400);
        let schema: SchemaRef = example_schema();
        let whole = {
            let mut whole = Profile::new(&schema);
            whole.add(&rows).unwrap();
            whole.report()
        };
        let mut parts = [Profile::new(&schema), Profile::new(&schema), Profile::new(&schema)];
        let mut from = 0;
        while from < rows.num_rows() {
            let len = (1 + random.below(60)).min(rows.num_rows() - from);
            parts[random.below(3)].add(&rows.slice(from, len)).unwrap();
            from += len;
        }
        let mut merged = Profile::new(&schema);
        for part in &parts {
            merged.merge(part);
        }
        let merged = merged.report();
        assert_eq!((merged.rows, merged.sampled), (400, 400));
        for (a, b) in whole.columns.iter().zip(&merged.columns) {
            assert_eq!((&a.name, a.min, a.max, a.distinct), (&b.name, b.min, b.max, b.distinct), "seed {seed}");
            assert!((a.missing_share - b.missing_share).abs() < 1e-12, "seed {seed}");
            let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
                (a, b) => a == b,
            };
            assert!(near(a.mean, b.mean) && near(a.deviation, b.deviation), "seed {seed}: {}", a.name);
        }
    }
}

#[test]
fn many_rows_are_sampled_and_all_are_counted() {
    let mut profile = Profile::new(&example_schema());
    let rows = random_rows(&mut Random::new(1), 1000);
    let parts: Vec<RecordBatch> = (0..100_u64)
        .map(|part| {
            let mut columns = rows.columns().to_vec();
            let offsets = (0..1000).map(|row| part * 1000 + row);
            columns[millstream_engine::batch::OFFSET] = Arc::new(arrow::array::UInt64Array::from_iter_values(offsets));
            RecordBatch::try_new(rows.schema(), columns).unwrap()
        })
        .collect();
    profile.add(&concat_batches(&rows.schema(), &parts[..20]).unwrap()).unwrap();
    parts[20..].iter().for_each(|part| profile.add(part).unwrap());
    let report = profile.report();
    assert_eq!(report.rows, 100_000);
    let rest = report.sampled - 10_000;
    assert!((1200..1600).contains(&rest), "one of 64 is 1406, not {rest}");
    let missing = rows.column_by_name("room").unwrap().null_count() as f64 / 1000.0;
    let room = report.columns.iter().find(|column| column.name == "room").unwrap();
    assert!((room.missing_share - missing).abs() < 1e-9);
}
