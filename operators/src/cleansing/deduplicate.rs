//! `deduplicate`: one row per key and time span.

use arrow::array::{BooleanArray, RecordBatch};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, Meta, filter};
use millstream_engine::catalogue::{Kind, Planned, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::readable;

pub(super) static KIND: StepKind = Kind {
    name: "deduplicate",
    about: "Leaves out a row if its key was seen shortly before.\n\n\
            *Before* is in event time. The first row is kept, and each further one, kept or not, starts the span anew. \
            A null in the key is a value like any other. \
            Requests are never left out, and do not count as seen.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\nwithin_seconds: 60\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key.
    by: Vec<String>,
    /// How much older the earlier row may be.
    within_seconds: u32,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = readable(input.schema, &mut problems, "by", &config.by);
    problems.finish()?;
    let operator = Deduplicate { by, within_ms: i64::from(config.within_seconds) * 1000 };
    Ok(Step { schema: input.schema.clone(), others: Vec::new(), power: Power::keyed(operator) })
}

struct Deduplicate {
    by: Vec<usize>,
    within_ms: i64,
}

impl Keyed for Deduplicate {
    /// When the key was seen last.
    type State = Option<i64>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Option<i64>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        if states.lane() == Lane::Serve {
            return Ok(Some(rows.clone()));
        }
        let time = Meta::of(rows).time;
        let mut keep = vec![true; rows.num_rows()];
        for (row, (keep, now)) in keep.iter_mut().zip(time).enumerate() {
            states.update(row, |seen| {
                *keep = seen.is_none_or(|seen| now.saturating_sub(seen) > self.within_ms);
                *seen = Some(*now);
            });
        }
        if keep.iter().all(|keep| *keep) {
            return Ok(Some(rows.clone()));
        }
        Ok(Some(filter(rows, &BooleanArray::from(keep))?))
    }

    fn expired(&self, seen: &Option<i64>, watermark: i64) -> bool {
        seen.is_none_or(|seen| seen.saturating_add(self.within_ms) < watermark)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, problems, random_rows, show};

    #[test]
    fn the_first_of_a_span_is_kept() {
        check(
            &super::KIND,
            &json!({"by": ["sensor"], "within_seconds": 10}),
            "t  sensor count
             0  a      1
             5  b      2
             10 a      3
             20 a      4
             31 a      5
             31 null   6
             32 null   7",
            "t  sensor count
             0  a      1
             5  b      2
             31 a      5
             31 null   6",
        );
    }

    #[test]
    fn requests_pass() {
        let rows = "t sensor\n1 a\n1 a";
        check_serve(&super::KIND, &json!({"by": ["sensor"], "within_seconds": 10}), rows, rows);
    }

    #[test]
    fn agrees_with_a_search_through_all_earlier_rows() {
        let seed = 7;
        let rows = random_rows(&mut Random::new(seed), 400);
        let mut bench = Bench::new(&super::KIND, &json!({"by": ["sensor", "room"], "within_seconds": 4}));
        let output = bench.learn(&rows);
        let all: Vec<String> = show(&rows, &["t", "sensor", "room"]).lines().skip(1).map(str::to_owned).collect();
        let cells: Vec<(f64, &str)> =
            all.iter().map(|line| line.split_once(' ').unwrap()).map(|(t, key)| (t.parse().unwrap(), key)).collect();
        let kept = (0..cells.len())
            .filter(|&row| !cells[..row].iter().any(|(t, key)| *key == cells[row].1 && cells[row].0 - t <= 4.0))
            .map(|row| all[row].as_str());
        let kept: Vec<&str> = kept.collect();
        assert!(kept.len() > 20 && kept.len() < 380, "{} rows say little", kept.len());
        assert_eq!(show(&output, &["t", "sensor", "room"]).lines().skip(1).collect::<Vec<_>>(), kept, "seed {seed}");
    }

    #[test]
    fn an_expired_state_cannot_matter() {
        let operator = super::Deduplicate { by: vec![], within_ms: 10_000 };
        let expired = |watermark| millstream_engine::operator::Keyed::expired(&operator, &Some(5_000), watermark);
        assert!(!expired(15_000) && expired(15_001));
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(problems(&super::KIND, &json!({"by": [], "within_seconds": 1})), "by empty-list");
        assert_eq!(problems(&super::KIND, &json!({"by": ["x"], "within_seconds": 1})), "by.0 unknown-column");
        assert_eq!(problems(&super::KIND, &json!({"by": ["room"], "within_seconds": -1})), "within_seconds bad-value");
    }
}
