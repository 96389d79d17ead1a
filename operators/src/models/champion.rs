//! One learner answers, others try to become it.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::anytime::Bets;
use super::composite::{Answer, Given, Head, Member, Members, Said};
use super::onnx::{Expressed, Graph};
use super::{Design, Example, ModelKind, Task, Tensor, probability};

/// A champion and its challengers.
pub static KIND: ModelKind = Kind {
    name: "champion",
    about: "Several learners on one stream, of which one answers, until another one is proved to be better.\n\n\
            All learn the same rows side by side; the first is the champion at the beginning. After every example, each \
            challenger's loss is compared with the champion's by a test that may be looked at as often as one likes \
            (Waudby-Smith and Ramdas, \"Estimating means of bounded random variables by betting\", 2024); who passes is \
            the champion from the next row on. Losses of classifiers are Brier scores, those of numbers absolute errors, \
            in multiples of four times the mean error so far and at most 1. The same examples have the same champion.",
    schema: schema_of::<Config>,
    example: "{of: [logistic_regression, {logistic_regression: {update: ftrl}}], alpha: 0.01}",
    plan,
};

/// Settings of a champion.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The learners, 2 to 100 of them: all classifiers, or all of numbers.
    #[schemars(with = "Vec<Member>", length(min = 2, max = 100))]
    of: Vec<Value>,
    /// The probability, over the whole stream and all challengers, that one that never was better ever becomes champion:
    /// from 1e-12 to 0.5.
    #[serde(default = "default_alpha")]
    alpha: f64,
    /// After how many examples a second test begins anew, so that a long bad past does not hide that a challenger is better
    /// now: from 100 to 1e9. The first test goes on since the last change of champion.
    #[serde(default = "default_restart_examples")]
    restart_examples: u32,
}

fn default_alpha() -> f64 {
    0.05
}

fn default_restart_examples() -> u32 {
    10_000
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let tasks = [Task::Classification, Task::Regression];
    let members = problems.take_all(Members::plan(&config.of, &tasks, KIND.name));
    let mut within = |path: &str, value: f64, low: f64, high: f64| {
        if !(low..=high).contains(&value) {
            problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {low} and {high}")));
        }
    };
    within("alpha", config.alpha, 1e-12, 0.5);
    within("restart_examples", f64::from(config.restart_examples), 100.0, 1e9);
    problems.finish()?;
    let members = members.expect("what is missing has left a problem");
    let (alpha, restart) = (config.alpha, config.restart_examples);
    let parameters = json!({"of": members.parameters(), "alpha": alpha, "restart_examples": restart});
    let head = move |members: &Members, _| -> Box<dyn super::composite::Head> {
        let task = members.designs[0].task;
        let state = State::new(members.designs.len());
        Box::new(Champion { alpha, restart: f64::from(restart), task, state })
    };
    Ok(members.design(KIND.name, parameters, head))
}

/// What there is for a challenger.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Evidence {
    /// Since the champion became it.
    long: Bets,
    /// Since the last restart.
    short: Bets,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct State {
    champion: u32,
    /// How often it changed.
    changes: u32,
    /// How often the second test restarted since then.
    restarts: u32,
    /// How many examples there were, and when the champion became it.
    examples: u64,
    since: u64,
    /// Of each member; the champion's own stays as it is.
    evidence: Vec<Evidence>,
    /// Of numbers: the mean absolute error of all members.
    scale: f64,
    /// The losses in this example, of each member.
    #[serde(skip)]
    losses: Vec<f64>,
}

impl State {
    fn new(members: usize) -> Self {
        Self {
            champion: 0,
            changes: 0,
            restarts: 0,
            examples: 0,
            since: 0,
            evidence: vec![Evidence::default(); members],
            scale: 0.0,
            losses: Vec::new(),
        }
    }
}

/// The part of the error that number `index` of infinitely many tests may take: they add up to 1.
fn part(index: u32) -> f64 {
    let index = f64::from(index) + 1.0;
    6.0 / (std::f64::consts::PI * std::f64::consts::PI) / (index * index)
}

#[derive(Clone)]
struct Champion {
    alpha: f64,
    restart: f64,
    task: Task,
    state: State,
}

impl Champion {
    /// The error that each test of a challenger may take now: the long one, and the short one.
    fn alphas(&self) -> (f64, f64) {
        let challengers = (self.state.evidence.len() - 1) as f64;
        let half = 0.5 * self.alpha * part(self.state.changes) / challengers;
        (half, half * part(self.state.restarts))
    }

    /// Fills in the losses, in [0, 1].
    fn lose(&mut self, given: &Given<'_>, row: usize, example: Example) {
        let state = &mut self.state;
        state.losses.clear();
        let members = 0..given.outputs.len();
        if self.task == Task::Classification {
            let class = example.target as usize;
            state.losses.extend(members.map(|member| brier(given.of(member, row), class)));
            return;
        }
        let error = |member| (given.of(member, row)[0] - example.target).abs().min(f64::MAX / 1e3);
        let scale = 4.0 * state.scale;
        state
            .losses
            .extend(members.clone().map(|member| if scale > 0.0 { (error(member) / scale).min(1.0) } else { 0.0 }));
        let mean = members.map(|member| error(member) / given.outputs.len() as f64).sum::<f64>();
        state.scale += (mean - state.scale) / (state.examples as f64);
    }

    /// Looks at one example, and at who is champion after it.
    fn compare(&mut self, given: &Given<'_>, row: usize, example: Example) {
        self.state.examples += 1;
        self.lose(given, row, example);
        let (long, short) = self.alphas();
        let state = &mut self.state;
        let champion = state.champion as usize;
        let mut best: Option<usize> = None;
        for member in (0..state.evidence.len()).filter(|member| *member != champion) {
            // An example that counts more than once is still one that happened.
            let gain = (state.losses[champion] - state.losses[member]) * example.weight.min(1.0);
            let evidence = &mut state.evidence[member];
            evidence.long.add(gain);
            evidence.short.add(gain);
            let better = evidence.long.refutes(long) || evidence.short.refutes(short);
            if better && best.is_none_or(|best| state.evidence[best].short.mean() < state.evidence[member].short.mean())
            {
                best = Some(member);
            }
        }
        if let Some(member) = best {
            let (changes, members) = (state.changes.saturating_add(1), state.evidence.len());
            let (examples, scale) = (state.examples, state.scale);
            let champion = member as u32;
            *state = State { champion, changes, examples, scale, since: examples, ..State::new(members) };
        } else if (state.examples - state.since) as f64 >= self.restart * (f64::from(state.restarts) + 1.0) {
            state.restarts = state.restarts.saturating_add(1);
            state.evidence.iter_mut().for_each(|evidence| evidence.short = Bets::default());
        }
    }
}

/// Half the squared distance between the probabilities and what was.
fn brier(outputs: &[f64], class: usize) -> f64 {
    if let [_] = outputs {
        let wrong = 1.0 - probability(outputs, class);
        return wrong * wrong;
    }
    let squares = outputs.iter().enumerate().map(|(at, output)| {
        let distance = output - f64::from(u8::from(at == class));
        distance * distance
    });
    (0.5 * squares.sum::<f64>()).min(1.0)
}

impl Head for Champion {
    fn learn(&mut self, given: &Given<'_>, examples: &[Example], outputs: &mut Vec<f64>) {
        outputs.clear();
        for (row, example) in examples.iter().enumerate() {
            outputs.extend_from_slice(given.of(self.state.champion as usize, row));
            if example.weight > 0.0 {
                self.compare(given, row, *example);
            }
        }
    }

    fn frozen(&self) -> Arc<dyn Answer> {
        Arc::new(self.clone())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let state: State = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        let members = self.state.evidence.len();
        let sound = |evidence: &Evidence| evidence.long.is_sound() && evidence.short.is_sound();
        if state.evidence.len() != members
            || state.champion as usize >= members
            || state.since > state.examples
            || !state.evidence.iter().all(sound)
            || !(0.0..=f64::MAX).contains(&state.scale)
        {
            return Err("it is not of such a champion".to_owned());
        }
        self.state = state;
        Ok(())
    }
}

impl Answer for Champion {
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>) {
        outputs.clear();
        outputs.extend_from_slice(&given.outputs[self.state.champion as usize][..given.rows * given.width]);
    }

    fn tensors(&self) -> Vec<Tensor> {
        vec![Tensor::row("champion", vec![f64::from(self.state.champion)])]
    }

    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed {
        said.of(graph, self.state.champion as usize)
    }

    fn state(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.state).expect("numbers can be written to memory")
    }

    fn lines(&self, members: &[String]) -> Vec<String> {
        let state = &self.state;
        let champion = &members[state.champion as usize];
        let (long, short) = self.alphas();
        let mut lines = vec![format!(
            "champion {champion}, since example {} of {}; it changed {} times",
            state.since, state.examples, state.changes
        )];
        for (at, name) in members.iter().enumerate().filter(|(at, _)| *at != state.champion as usize) {
            let Evidence { long: all, short: late } = &state.evidence[at];
            lines.push(format!(
                "challenger {name}: loss less by {:+.6} on average; evidence {:.3} of {:.3}, of late {:.3} of {:.3} (logarithms)",
                all.mean(),
                all.log_capital(),
                -libm::log(long),
                late.log_capital(),
                -libm::log(short)
            ));
        }
        lines
    }

    fn share(&self, member: usize) -> f64 {
        f64::from(u8::from(member == self.state.champion as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Pupil, Random};
    use super::super::{Names, Shape};
    use super::*;

    const SHAPE: Shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };

    fn champion(pupil: &Pupil) -> f64 {
        pupil.tensor("champion")[0]
    }

    /// The first cannot learn in time, the second can; until the labels turn over, which the first follows at once.
    fn rivals() -> Value {
        json!({"champion": {"of": [
            {"logistic_regression": {"update": {"sgd": {"learning_rate": 1e-9}}}},
            {"logistic_regression": {"update": "adagrad"}},
        ]}})
    }

    #[test]
    fn who_is_better_becomes_champion_and_answers() {
        let mut random = Random::seeded(2);
        let mut pupil = Pupil::new(&rivals(), SHAPE);
        let mut rows = 0;
        while champion(&pupil) == 0.0 {
            let dense = [random.normal(), random.normal()];
            let asked = pupil.predict(&dense, &[]);
            let answered = pupil.learn(&dense, &[], f64::from(u8::from(dense[0] > dense[1])));
            assert_eq!(asked.to_bits(), answered.to_bits());
            rows += 1;
        }
        println!("after {rows}");
        assert!((10..1000).contains(&rows), "{rows}");
        assert!(pupil.predict(&[3.0, -3.0], &[]) > 0.7, "the one that has learned answers");
        let explained = pupil.learner.frozen().explain(&Names::default());
        assert!(explained.lines[0].starts_with("champion 1.logistic_regression"), "{explained:?}");
    }

    #[test]
    fn what_is_not_better_does_not_become_champion() {
        let mut changed = 0;
        for seed in 0..20 {
            let mut random = Random::seeded(seed);
            let mut pupil = Pupil::new(
                &json!({"champion": {"of": ["logistic_regression", "logistic_regression",
                {"logistic_regression": {"update": {"sgd": {"learning_rate": 1.0}}}}]}}),
                SHAPE,
            );
            for _ in 0..500 {
                pupil.learn(&[random.normal(), random.normal()], &[], random.flip(0.5));
            }
            changed += u32::from(champion(&pupil) != 0.0);
        }
        assert_eq!(changed, 0, "noise is not a reason");
    }

    #[test]
    fn numbers_of_any_unit_have_the_same_champion() {
        let run = |unit: f64| {
            let mut random = Random::seeded(2);
            let mut pupil = Pupil::new(
                &json!({"champion": {"of": [
                {"linear_regression": {"update": {"sgd": {"learning_rate": 1e-9}}}}, "linear_regression"]}}),
                SHAPE,
            );
            for row in 0..3000 {
                let dense = [random.normal(), random.normal()];
                pupil.learn(&dense, &[], unit * (dense[0] - 2.0 * dense[1]));
                if champion(&pupil) > 0.0 {
                    return row;
                }
            }
            panic!("no change");
        };
        // Powers of two, so that scaling is exact.
        assert_eq!(run(1.0), run(2_f64.powi(40)));
    }

    #[test]
    fn a_challenger_with_a_long_bad_past_is_found_when_it_has_become_better() {
        let head = |restart: f64| Champion { alpha: 0.05, restart, task: Task::Regression, state: State::new(2) };
        let changed = |mut head: Champion| {
            let mut random = Random::seeded(8);
            for row in 0..60_000 {
                let (mut a, mut b) = (random.normal().abs(), random.normal().abs());
                if row < 50_000 {
                    b *= 1.3;
                } else {
                    a *= 1.3;
                }
                let said = [vec![a], vec![b]];
                head.compare(&Given { rows: 1, outputs: &said, width: 1 }, 0, Example::of(0.0));
                if head.state.champion == 1 {
                    return row;
                }
            }
            60_000
        };
        let (soon, never) = (changed(head(2000.0)), changed(head(1e9)));
        println!("{soon}, {never}");
        assert!((50_000..55_000).contains(&soon) && never == 60_000, "{soon}, {never}");
    }

    #[test]
    fn damaged_states_are_refused() {
        let mut head = Champion { alpha: 0.05, restart: 100.0, task: Task::Regression, state: State::new(2) };
        for state in [
            State { champion: 2, ..State::new(2) },
            State::new(3),
            State { since: 1, ..State::new(2) },
            State { scale: f64::NAN, ..State::new(2) },
        ] {
            let bytes = postcard::to_stdvec(&state).expect("written");
            assert!(head.restore(&bytes).is_err(), "{state:?}");
        }
        assert!(head.restore(&[]).is_err());
        assert!(head.restore(&head.snapshot()).is_ok());
    }
}
