//! Settings of models that are to be tried.

use std::cmp::Ordering;

use millstream_engine::catalogue::{Problem, StepInput};
use serde_json::{Map, Value, json};

use super::streams::Graph;
use super::{Checker, section_of};
use crate::definition::{Entry, Node};
use crate::plan::{self, Row, Trial};
use crate::report::Finding;
use crate::shape::{self, Range, Vary};

/// Trials of one sweep at most.
const TRIALS_MAX: usize = 1000;

impl Checker<'_> {
    pub(super) fn sweeps(&mut self, root: &Node, graph: &Graph, models: &[plan::Model]) -> Vec<plan::Sweep> {
        section_of(root, "sweeps").iter().filter_map(|entry| self.sweep(root, entry, graph, models)).collect()
    }

    fn sweep(&mut self, root: &Node, entry: &Entry, graph: &Graph, models: &[plan::Model]) -> Option<plan::Sweep> {
        let names: Vec<&str> = section_of(root, "models").iter().map(|entry| entry.key.as_str()).collect();
        let named = self.choose(entry, "model", "model", &names)?;
        let shape: shape::Sweep = self.read(Some(&entry.value))?;
        let model = models.iter().position(|model| model.name == names[named])?;
        let input = section_of(root, "models")[named].value.get("input")?.text()?;
        let input = graph.known.get(input)?.clone();
        let settings = match trials(&entry.key, &shape) {
            Ok(settings) => settings,
            Err(problem) => {
                self.problem(entry, problem);
                return None;
            }
        };
        let streams = graph.known.iter().map(|(name, known)| (name.clone(), known.schema.clone())).collect();
        let mut planned = Vec::new();
        for settings in settings {
            let mut config = models[model].config.clone();
            settings.iter().for_each(|(path, value)| set(&mut config, path, value.clone()));
            match (self.catalogue.model.plan)(&config, &StepInput { schema: &input.schema, streams: &streams }) {
                Ok(step) => planned.push(Trial { settings, config, step }),
                // What is wrong with one trial is most likely wrong with others: the first is told.
                Err(mut problems) => {
                    let problem = problems.swap_remove(0);
                    let set: Vec<String> = settings.iter().map(|(path, value)| format!("{path} {value}")).collect();
                    let message = format!("with {}: {}", set.join(", "), problem.message);
                    let at = entry.value.entry("vary").map_or(entry.key_span, |vary| vary.key_span);
                    let finding = Finding::error(at, problem.code, message);
                    self.find(match problem.help {
                        Some(help) => finding.help(help),
                        None => finding,
                    });
                    return None;
                }
            }
        }
        Some(plan::Sweep {
            name: entry.key.clone(),
            model,
            trials: planned,
            by: shape.by,
            halve_after: shape.halve_after,
        })
    }
}

/// What each trial sets.
fn trials(name: &str, sweep: &shape::Sweep) -> Result<Vec<Row>, Problem> {
    for (setting, vary) in &sweep.vary {
        let path = format!("vary.{}", setting.replace('.', " "));
        match vary {
            Vary::Values(values) if values.is_empty() => {
                return Err(Problem::new(&path, "too-few", format!("`{setting}` is set to nothing")));
            }
            Vary::Range(Range { from, to, log, .. })
                if from.partial_cmp(to) != Some(Ordering::Less) || (*log && *from <= 0.0) =>
            {
                let message = format!("`{setting}`: {from} to {to} is no range");
                return Err(Problem::new(&path, "out-of-range", message));
            }
            Vary::Range(_) if sweep.trials.is_none() => {
                let message = format!("`{setting}` is a range, and all of it cannot be tried");
                return Err(Problem::new(&path, "endless", message).help("say how many `trials` are drawn"));
            }
            _ => {}
        }
    }
    if let Some(count) = sweep.trials {
        let draw = |trial: usize| {
            let one = |(setting, vary): (&String, &Vary)| {
                let random = millstream_engine::state::hash(format!("{name}/{trial}/{setting}").as_bytes());
                (setting.clone(), drawn(vary, millstream_engine::state::share(random)))
            };
            sweep.vary.iter().map(one).collect()
        };
        return Ok((0..count.min(TRIALS_MAX)).map(draw).collect());
    }
    let mut all: Vec<Row> = vec![Vec::new()];
    for (setting, vary) in &sweep.vary {
        let Vary::Values(values) = vary else { continue };
        let with = |row: &Row| {
            let row = row.clone();
            values
                .iter()
                .map(move |value| row.iter().cloned().chain([(setting.clone(), value.clone())]).collect::<Row>())
        };
        if all.len() * values.len() > TRIALS_MAX {
            let message = format!("there are more than {TRIALS_MAX} combinations");
            return Err(Problem::new("vary", "too-many", message).help("say how many `trials` are drawn of them"));
        }
        all = all.iter().flat_map(with).collect();
    }
    Ok(all)
}

/// A value, by a number of [0, 1).
fn drawn(vary: &Vary, random: f64) -> Value {
    match vary {
        Vary::Values(values) => values[((random * values.len() as f64) as usize).min(values.len() - 1)].clone(),
        Vary::Range(Range { from, to, log, whole }) => {
            // The end of a whole range is as likely as any other of its numbers.
            let (from, to) = (*from, if *whole { to + 1.0 } else { *to });
            let value = if *log { from * (to / from).powf(random) } else { from + random * (to - from) };
            if *whole { json!(value.floor() as i64) } else { json!(value) }
        }
    }
}

/// Sets what lies at a path of keys; what is there by its kind alone (`learner: hoeffding_tree`) becomes a map.
fn set(config: &mut Value, path: &str, value: Value) {
    let mut at = config;
    for key in path.split('.') {
        if !at.is_object() {
            let mut map = Map::new();
            if at.as_str() == Some(key) {
                map.insert(key.to_owned(), json!({}));
            }
            *at = Value::Object(map);
        }
        at = &mut at[key];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: Value) -> shape::Sweep {
        serde_json::from_value(text).expect("it is a sweep")
    }

    #[test]
    fn all_combinations_are_tried_or_some_are_drawn() {
        let grid = sweep(json!({"model": "m", "vary": {"a.b": [1, 2], "c": ["x", "y", "z"]}}));
        let all = trials("s", &grid).expect("it is sound");
        assert_eq!(all.len(), 6);
        assert_eq!(all[1], [("a.b".to_owned(), json!(1)), ("c".to_owned(), json!("y"))]);
        let drawn = sweep(json!({
            "model": "m", "trials": 200,
            "vary": {"rate": {"from": 0.001, "to": 1.0, "log": true}, "depth": {"from": 1, "to": 3, "whole": true}},
        }));
        let all = trials("s", &drawn).expect("it is sound");
        assert_eq!(all, trials("s", &drawn).expect("it is sound"), "each time the same");
        let rates = all.iter().filter(|row| row[1].1.as_f64() < Some(0.0316)).count();
        assert!((70..130).contains(&rates), "half are below the middle of their sizes: {rates}");
        assert!(all.iter().all(|row| matches!(row[0].1.as_i64(), Some(1..=3))));
    }

    #[test]
    fn what_cannot_be_tried_is_refused() {
        for (vary, trials_wanted, code) in [
            (json!({"a": []}), None, "too-few"),
            (json!({"a": {"from": 2, "to": 1}}), Some(3), "out-of-range"),
            (json!({"a": {"from": 0, "to": 1, "log": true}}), Some(3), "out-of-range"),
            (json!({"a": {"from": 0, "to": 1}}), None, "endless"),
            (json!({"a": (0..40).collect::<Vec<_>>(), "b": (0..40).collect::<Vec<_>>()}), None, "too-many"),
        ] {
            let wanted = sweep(json!({"model": "m", "vary": vary, "trials": trials_wanted}));
            assert_eq!(trials("s", &wanted).expect_err("it is not sound").code, code);
        }
    }

    #[test]
    fn settings_are_set_where_they_belong() {
        for (config, path, wanted) in [
            (json!({"learner": "tree"}), "learner.tree.depth", json!({"learner": {"tree": {"depth": 7}}})),
            (
                json!({"learner": {"tree": {"leaf": "nb"}}}),
                "learner.tree.depth",
                json!({"learner": {"tree": {"leaf": "nb", "depth": 7}}}),
            ),
            (
                json!({"learner": {"lr": {"update": "ftrl"}}}),
                "learner.lr.update.sgd.rate",
                json!({"learner": {"lr": {"update": {"sgd": {"rate": 7}}}}}),
            ),
            (json!({}), "evaluate.window", json!({"evaluate": {"window": 7}})),
        ] {
            let mut config = config;
            set(&mut config, path, json!(7));
            assert_eq!(config, wanted);
        }
    }
}
