//! Settings and values that nobody would give: a step refuses the settings, or it rejects the rows, or it goes on with them. It never
//! panics, never fails the run, and what it keeps can be stored.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::batch::{Lane, Meta};
use millstream_engine::catalogue::StepKind;
use serde_json::Value;

use super::harness::{Bench, Random, extreme_rows, plan, twisted};
use super::tests::configurations;

const SEEDS: u64 = 60;

#[test]
fn whatever_the_settings_and_the_rows_nothing_breaks() {
    let from = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let seeds = std::env::var("MILLSTREAM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut planned = 0;
    for seed in from..from + seeds {
        for (kind, example) in configurations() {
            let settings = twisted(&mut Random::new(seed), &example);
            if plan(kind, &settings).is_ok() {
                // Told by the test harness if this panics, and only then.
                println!("seed {seed}: {} {settings}", kind.name);
                goes_on(&mut Random::new(seed), kind, &settings);
                planned += 1;
            }
        }
    }
    assert!(planned as u64 > 10 * seeds, "only {planned} can be planned, which says little");
}

fn few(random: &mut Random, schema: &SchemaRef, from_ms: i64) -> RecordBatch {
    let rows = random.below(30);
    extreme_rows(random, schema, rows, from_ms)
}

fn goes_on(random: &mut Random, kind: &StepKind, settings: &Value) {
    let mut bench = Bench::new(kind, settings);
    let mut newest = i64::MIN;
    for _ in 0..3 {
        let ports: Vec<_> = bench.ports.iter().map(|schema| few(random, schema, newest)).collect();
        newest = ports.iter().filter_map(|rows| Meta::of(rows).time.last().copied()).fold(newest, i64::max);
        bench.epoch(&ports, newest);
        let asked = few(random, &bench.ports[0], newest);
        bench.run(Lane::Serve, 0, &asked);
        if let Some(state) = &mut bench.state {
            state.sweep(30, newest);
            let stored = state.snapshot().expect("it can be stored");
            let mut restored = bench.restored(kind, settings);
            let again = restored.state.as_mut().expect("the same step").snapshot().expect("it can be stored");
            assert!(stored == again, "what was stored is another state");
        }
    }
}
