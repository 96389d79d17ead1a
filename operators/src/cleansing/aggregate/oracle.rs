//! What stands at any time, recomputed from all rows that had come by then.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, SchemaRef, TimestampMillisecondType};
use millstream_engine::batch::{META, Meta, changing, diffs};
use serde_json::{Value, json};

use super::super::harness::{Bench, Random, random_changes, random_table, show, standing};
use super::super::{example_schema, example_streams};
use super::KIND;

const CORRECTIONS_MS: i64 = 4000;

/// A row as the oracle sees it.
#[derive(Clone)]
struct Seen {
    known: i64,
    at: i64,
    key: String,
    /// All its own columns: by them it is taken back.
    whole: String,
    temperature: Option<f64>,
    diff: i64,
}

fn seen(rows: &RecordBatch) -> Vec<Seen> {
    let column = |name: &str| rows.column_by_name(name).unwrap().clone();
    let (at, temperature) = (column("at"), column("temperature"));
    let (at, temperature) = (at.as_primitive::<TimestampMillisecondType>(), temperature.as_primitive::<Float64Type>());
    let own: Vec<&str> = rows.schema_ref().fields()[META..].iter().map(|field| field.name().as_str()).collect();
    let (whole, keys) = (show(rows, &own[..own.len().min(7)]), show(rows, &["sensor"]));
    let cells = whole.lines().skip(1).zip(keys.lines().skip(1));
    let diffs = diffs(rows).map_or_else(|| vec![1; rows.num_rows()], <[i64]>::to_vec);
    let row = |(row, (whole, key)): (usize, (&str, &str))| Seen {
        known: Meta::of(rows).time[row],
        at: at.value(row),
        key: key.to_owned(),
        whole: whole.to_owned(),
        temperature: temperature.is_valid(row).then(|| temperature.value(row)).filter(|value| value.is_finite()),
        diff: diffs[row],
    };
    cells.enumerate().filter(|(row, _)| at.is_valid(*row)).map(row).collect()
}

#[derive(Clone, Copy)]
enum Span {
    Fixed(i64, i64),
    Session(i64),
    All,
}

/// The windows that stand at `now`, each as the text of its columns.
fn expected(rows: &[Seen], span: Span, now: i64) -> BTreeMap<String, i64> {
    let known = rows.iter().filter(|row| row.known <= now);
    let mut windows: BTreeMap<(String, i64, i64), Vec<Seen>> = BTreeMap::new();
    match span {
        Span::All => {
            for row in known {
                change(windows.entry((row.key.clone(), 0, 0)).or_default(), row);
            }
        }
        Span::Fixed(length, every) => {
            for row in known {
                let newest = row.at.div_euclid(every) * every;
                let starts = (0..=length / every).map(|back| newest - back * every);
                for start in
                    starts.filter(|start| start + length > row.at && start + length + CORRECTIONS_MS > row.known)
                {
                    change(windows.entry((row.key.clone(), start, start + length)).or_default(), row);
                }
            }
        }
        Span::Session(gap) => {
            let mut keys: BTreeMap<String, Vec<(i64, i64, Vec<Seen>)>> = BTreeMap::new();
            for row in known.filter(|row| row.at + gap + CORRECTIONS_MS > row.known) {
                let sessions = keys.entry(row.key.clone()).or_default();
                let mut joined = (row.at, row.at + gap, vec![row.clone()]);
                // A session that was closed when the row came is not joined.
                let joins = |(start, end, _): &(i64, i64, Vec<Seen>)| {
                    *start < row.at + gap && *end > row.at && end + CORRECTIONS_MS > row.known
                };
                for session in sessions.extract_if(.., |session| joins(session)) {
                    joined = (joined.0.min(session.0), joined.1.max(session.1), [joined.2, session.2].concat());
                }
                sessions.push(joined);
            }
            for (key, sessions) in keys {
                windows.extend(sessions.into_iter().map(|(start, end, rows)| ((key.clone(), start, end), rows)));
            }
        }
    }
    let complete = |((key, start, end), rows): ((String, i64, i64), Vec<Seen>)| {
        let bounds = match span {
            Span::All => String::new(),
            _ => format!("{} {} ", start as f64 / 1000.0, end as f64 / 1000.0),
        };
        let stands = !rows.is_empty() && (end <= now || matches!(span, Span::All));
        stands.then(|| (format!("{key} {bounds}{}", results(&rows)), 1))
    };
    windows.into_iter().filter_map(complete).collect()
}

fn change(rows: &mut Vec<Seen>, row: &Seen) {
    if row.diff > 0 {
        rows.push(row.clone());
    } else if let Some(place) = rows.iter().rposition(|other| other.whole == row.whole) {
        rows.remove(place);
    }
}

fn results(rows: &[Seen]) -> String {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.temperature).collect();
    let shown = |value: Option<f64>| value.map_or("null".to_owned(), |value| value.to_string());
    // Eighths: sums are exact however they are made.
    let sum = values.iter().sum::<f64>();
    let mean = (!values.is_empty()).then(|| sum / values.len() as f64);
    let (min, max) = (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max));
    format!("{} {} {} {} {}", shown(max), shown(mean), shown(min), rows.len(), shown(mean.map(|_| sum)))
}

fn config(window: &Value) -> Value {
    let columns = json!({"least": "min(temperature)", "greatest": "max(temperature)", "known": "mean(temperature)",
        "number": "count()", "sum": "sum(temperature)"});
    let mut config =
        json!({"by": ["sensor"], "at": "at", "corrections_seconds": CORRECTIONS_MS / 1000, "columns": columns});
    if !window.is_null() {
        config["window"] = window.clone();
    }
    config
}

/// Learns the rows in random epochs; the output as a whole.
fn learn(random: &mut Random, schema: &SchemaRef, rows: &RecordBatch, window: &Value) -> RecordBatch {
    let mut bench = Bench::over(schema, &example_streams(), &KIND, &config(window));
    let (mut outputs, mut from) = (Vec::new(), 0);
    while from < rows.num_rows() {
        let len = (1 + random.below(40)).min(rows.num_rows() - from);
        let times = Meta::of(rows).time;
        // The watermark is at most the time of the next row.
        let watermark = times.get(from + len).copied().unwrap_or(times[from + len - 1] + 1);
        outputs.extend(bench.epoch(&[rows.slice(from, len)], watermark));
        from += len;
    }
    arrow::compute::concat_batches(&bench.step.schema, &outputs).unwrap()
}

#[test]
fn what_stands_is_what_a_recomputation_gives() {
    let spans = [
        (json!({"tumbling_seconds": 5}), Span::Fixed(5000, 5000)),
        (json!({"hopping_seconds": 6, "every_seconds": 4}), Span::Fixed(6000, 4000)),
        (json!({"session_gap_seconds": 2}), Span::Session(2000)),
        (Value::Null, Span::All),
    ];
    for seed in 0..24 {
        for (window, span) in &spans {
            for changes in [false, true] {
                if changes && matches!(span, Span::Session(_)) {
                    continue;
                }
                let mut random = Random::new(seed);
                let (schema, rows) = if changes {
                    (changing(&example_schema()), random_changes(&mut random, &example_schema(), 150))
                } else {
                    (example_schema(), random_table(&mut random, &example_schema(), 150))
                };
                let output = learn(&mut random, &schema, &rows, window);
                let last = Meta::of(&rows).time[rows.num_rows() - 1];
                let seen = seen(&rows);
                for now in [last / 3, last / 2, last] {
                    let expected = expected(&seen, *span, now);
                    assert!(now < last || expected.len() > 2, "a test of nothing, seed {seed}");
                    assert_eq!(standing(&output, now), expected, "seed {seed}, {window}, changes {changes}, at {now}");
                }
            }
        }
    }
}
