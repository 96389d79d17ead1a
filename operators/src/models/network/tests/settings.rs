//! What the settings of a network say that it does.

use serde_json::{Value, json};

use super::super::super::samples::Random;
use super::super::super::{Example, Learner, Matrix, Row, Shape, plan};
use super::super::optimizer::Schedule;

const SHAPE: Shape = Shape { dense: 2, active: 0, categories: 0, classes: 0 };

fn learner(kind: &str, config: impl Into<Value>, shape: Shape) -> Box<dyn Learner> {
    let design = plan(&json!({kind: config.into()})).unwrap_or_else(|problems| panic!("{problems:?}"));
    (design.make)(shape)
}

/// Numbers of which the sum is to be told.
fn sums(random: &mut Random, len: usize) -> (Matrix, Vec<Example>) {
    let (mut rows, mut examples) = (Matrix::new(SHAPE), Vec::new());
    for _ in 0..len {
        let dense = [random.normal(), random.normal()];
        rows.push(Row { dense: &dense, active: &[] });
        examples.push(Example::of(dense[0] + dense[1]));
    }
    (rows, examples)
}

fn said(learner: &dyn Learner, rows: &Matrix) -> Vec<f64> {
    let mut outputs = Vec::new();
    learner.frozen().predict(rows, &mut outputs);
    outputs
}

fn progress(learner: &dyn Learner, name: &str) -> f64 {
    learner.progress().iter().find(|(told, _)| *told == name).expect("it is told").1
}

fn error(said: &[f64], examples: &[Example]) -> f64 {
    said.iter().zip(examples).map(|(said, example)| (said - example.target).abs()).sum::<f64>() / said.len() as f64
}

#[test]
fn a_step_that_is_not_finite_is_left_out_and_told() {
    let config = json!({"training": {"mini_batch": 4, "standardise": false}});
    let mut learner = learner("neural_network_regressor", config, SHAPE);
    let mut random = Random::seeded(1);
    let (rows, mut examples) = sums(&mut random, 12);
    learner.learn(&rows, &examples[..4], &mut Vec::new());
    assert!(learner.take_happenings().is_empty());
    let before = said(&*learner, &rows);
    examples[2].target = 1e90;
    learner.learn(&rows, &examples[..6], &mut Vec::new());
    assert_eq!(said(&*learner, &rows), before);
    let happenings = learner.take_happenings();
    let [happening] = &happenings[..] else { panic!("{happenings:?}") };
    assert_eq!((happening.row, happening.kind, &happening.about["examples"]), (3, "step_refused", &json!([5, 8])));
    assert!(learner.take_happenings().is_empty(), "it is told once");
    assert_eq!((progress(&*learner, "steps"), progress(&*learner, "steps_refused")), (1.0, 1.0));
    learner.learn(&rows, &examples[6..12], &mut Vec::new());
    assert_ne!(said(&*learner, &rows), before, "it goes on");
}

#[test]
fn weights_stay_until_the_mini_batch_is_full_and_a_stopped_network_learns_no_more() {
    let config = json!({"training": {"mini_batch": 10, "stop": {"patience_steps": 20}}});
    let mut learner = learner("neural_network_regressor", config, SHAPE);
    let mut random = Random::seeded(2);
    let (rows, examples) = sums(&mut random, 10);
    let before = said(&*learner, &rows);
    learner.learn(&rows, &examples[..9], &mut Vec::new());
    assert_eq!(said(&*learner, &rows), before);
    let (last, examples_of_last) = sums(&mut random, 1);
    learner.learn(&last, &examples_of_last, &mut Vec::new());
    assert_ne!(said(&*learner, &rows), before);
    let (rows, examples) = sums(&mut random, 50_000);
    let mut outputs = Vec::new();
    learner.learn(&rows, &examples, &mut outputs);
    let steps = progress(&*learner, "steps");
    assert!(steps < 5001.0 && steps % 20.0 == 0.0, "{steps}");
    let snapshot = learner.snapshot();
    learner.learn(&rows, &examples, &mut outputs);
    assert_eq!(snapshot, learner.snapshot());
    assert!(error(&outputs, &examples) < 0.1, "what it knows, it says: {}", error(&outputs, &examples));
}

/// What came once long ago is still known, because it is learned again.
#[test]
fn replayed_rows_are_not_forgotten() {
    let errors = [Value::Null, json!({"rows": 200, "per_batch": 10})].map(|replay| {
        let training = json!({"mini_batch": 10, "optimizer": {"adamw": {"rate": 0.01}}, "replay": replay});
        let mut learner = learner("neural_network_regressor", json!({"training": training}), SHAPE);
        let mut random = Random::seeded(3);
        let halves = [-1.0, 1.0].map(|sign| {
            let (mut rows, mut examples) = (Matrix::new(SHAPE), Vec::new());
            for _ in 0..2000 {
                let dense = [sign * random.uniform(), random.normal()];
                rows.push(Row { dense: &dense, active: &[] });
                examples.push(Example::of(if sign > 0.0 { 3.0 - dense[0] } else { dense[0] }));
            }
            (rows, examples)
        });
        halves.iter().for_each(|(rows, examples)| learner.learn(rows, examples, &mut Vec::new()));
        let (rows, examples) = &halves[0];
        error(&said(&*learner, rows), examples)
    });
    println!("mean error on what came first: {} without, {} with it", errors[0], errors[1]);
    assert!(errors[1] < 0.5 * errors[0], "{errors:?}");
}

#[test]
fn each_class_has_places_among_the_replayed_rows() {
    let replay = json!({"rows": 100, "per_batch": 8, "by_class": true});
    let training = json!({"mini_batch": 8, "optimizer": {"adamw": {"rate": 0.01}}, "replay": replay});
    let shape = Shape { classes: 2, ..SHAPE };
    let mut learner = learner("neural_network", json!({"training": training}), shape);
    let mut random = Random::seeded(4);
    let (mut rows, mut examples) = (Matrix::new(shape), Vec::new());
    for at in 0..4000 {
        let class = f64::from(u8::from(at % 100 == 0));
        rows.push(Row { dense: &[4.0 * class + random.normal(), random.normal()], active: &[] });
        examples.push(Example::of(class));
    }
    learner.learn(&rows, &examples, &mut Vec::new());
    let mut rare = Matrix::new(shape);
    rare.push(Row { dense: &[4.0, 0.0], active: &[] });
    assert!(said(&*learner, &rare)[0] > 0.9, "{:?}", said(&*learner, &rare));
}

/// One category decides; others come by chance.
#[test]
fn categories_have_numbers_once_they_were_seen_often_and_until_they_are_not_seen() {
    let shape = Shape { dense: 0, active: 1, categories: 1000, classes: 0 };
    let embedding = json!({"size": 4, "seen_at_least": 3, "expire_examples": 500});
    let training = json!({"mini_batch": 10, "embedding": embedding, "optimizer": {"adagrad": {"rate": 0.1}}});
    let mut learner = learner("neural_network_regressor", json!({"training": training}), shape);
    let known = |learner: &dyn Learner| -> Vec<f64> {
        let tensors = learner.frozen().tensors();
        tensors.into_iter().find(|tensor| tensor.name == "embeddings.categories").expect("it is there").values
    };
    let learn = |learner: &mut dyn Learner, category: fn(usize) -> u32, len: usize| {
        let (mut rows, mut examples) = (Matrix::new(shape), Vec::new());
        for at in 0..len {
            let category = category(at);
            rows.push(Row { dense: &[], active: &[category] });
            examples.push(Example::of(f64::from(category % 2)));
        }
        learner.learn(&rows, &examples, &mut Vec::new());
    };
    learn(&mut *learner, |at| if at % 10 == 9 { 100 + (at / 10) as u32 } else { (at % 4) as u32 }, 400);
    assert_eq!(known(&*learner), [0.0, 1.0, 2.0, 3.0], "those that came once have none");
    let mut rows = Matrix::new(shape);
    (0..4).for_each(|category| rows.push(Row { dense: &[], active: &[category] }));
    let outputs = said(&*learner, &rows);
    assert!(outputs.iter().zip([0.0, 1.0, 0.0, 1.0]).all(|(said, wanted)| (said - wanted).abs() < 0.2), "{outputs:?}");
    learn(&mut *learner, |at| 500 + (at % 3) as u32, 1200);
    assert_eq!(known(&*learner), [500.0, 501.0, 502.0], "those that came no more have none");
    let (snapshot, mut other) = (learner.snapshot(), plan_like(&training, shape));
    other.restore(&snapshot).expect("the same network");
    for learner in [&mut *learner, &mut *other] {
        learn(learner, |at| (at % 7) as u32, 100);
    }
    assert_eq!(learner.snapshot(), other.snapshot());
}

fn plan_like(training: &Value, shape: Shape) -> Box<dyn Learner> {
    learner("neural_network_regressor", json!({"training": training}), shape)
}

#[test]
fn the_mean_of_the_weights_answers_steadier_than_the_last_ones() {
    let spread = [0.0, 0.99].map(|average| {
        let training = json!({"mini_batch": 4, "optimizer": {"sgd": {"rate": 0.1}}, "average": average});
        let mut learner = learner("neural_network_regressor", json!({"training": training}), SHAPE);
        let mut random = Random::seeded(5);
        let (asked, _) = sums(&mut random, 1);
        let mut answers = Vec::new();
        for _ in 0..600 {
            let (rows, mut examples) = sums(&mut random, 4);
            examples.iter_mut().for_each(|example| example.target += random.normal());
            learner.learn(&rows, &examples, &mut Vec::new());
            answers.push(said(&*learner, &asked)[0]);
        }
        let late = &answers[300..];
        late.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum::<f64>()
    });
    assert!(spread[1] < 0.2 * spread[0], "{spread:?}");
}

#[test]
fn rates_follow_their_schedule() {
    let part = |config: Value, step: u64| serde_json::from_value::<Schedule>(config).expect("a schedule").part(step);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a}, wanted {b}");
    near(part(json!({}), 1), 1.0);
    near(part(json!({"warm_up_steps": 10}), 3), 0.3);
    near(part(json!({"warm_up_steps": 10}), 11), 1.0);
    let cosine = json!({"warm_up_steps": 10, "then": {"cosine": {"steps": 100, "to": 0.1}}});
    near(part(cosine.clone(), 60), 0.55);
    near(part(cosine, 1000), 0.1);
    near(part(json!({"then": {"inverse_square_root": {"from_steps": 100}}}), 400), 0.5);
    near(part(json!({"then": {"stairs": {"every_steps": 100, "factor": 0.5}}}), 250), 0.25);
}

#[test]
fn settings_out_of_range_are_refused_all_at_once() {
    let config = json!({
        "network": {"mlp": {"hidden": [8192, 8192, 8192], "dropout": 1.0}},
        "loss": {"class_weights": [1.0, 0.0]},
        "training": {"mini_batch": 0, "optimizer": {"adamw": {"rate": 0.0}}, "replay": {"rows": 0, "per_batch": 1}},
    });
    let problems = plan(&json!({"neural_network": config})).err().expect("refused");
    let mut paths: Vec<String> = problems.iter().map(|problem| problem.path.join(".")).collect();
    paths.sort_unstable();
    let wanted = ["loss.class_weights.1", "network.mlp.dropout", "network.mlp.hidden"];
    let training = ["mini_batch", "optimizer.adamw.rate", "replay.rows"].map(|name| format!("training.{name}"));
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).chain(training).collect();
    assert_eq!(paths, wanted.iter().map(|path| format!("neural_network.{path}")).collect::<Vec<_>>());
}

/// What is large of a state lies in parts, whose digests are known while they do not change.
#[test]
fn a_digest_is_that_of_the_state_whatever_was_digested_copied_or_restored_before() {
    let shape = Shape { dense: 2, active: 2, categories: 3000, classes: 2 };
    let config = json!({"training": {
        "mini_batch": 8, "average": 0.9, "optimizer": {"adamw": {"rate": 0.01}}, "stop": {"patience_steps": 60},
        "replay": {"rows": 150, "per_batch": 4, "by_class": true},
        "embedding": {"size": 3, "seen_at_least": 2, "expire_examples": 300},
    }});
    for seed in 0..4 {
        let mut random = Random::seeded(seed);
        let (mut one, mut other) =
            (learner("neural_network", config.clone(), shape), learner("neural_network", config.clone(), shape));
        let mut held = Vec::new();
        let mut told = (one.snapshot(), one.digest());
        for round in 0..150 {
            let (mut rows, mut examples) = (Matrix::new(shape), Vec::new());
            for _ in 0..random.below(20) {
                let class = random.below(2);
                // Some categories come often, some seldom, some once.
                let active = [0; 2].map(|_| (random.below(3000) % [20, 300, 3000][random.below(3)]) as u32);
                let dense = [class as f64 + random.normal(), random.normal()];
                rows.push(Row { dense: &dense, active: &active });
                examples.push(Example::of(class as f64));
            }
            one.learn(&rows, &examples, &mut Vec::new());
            other.learn(&rows, &examples, &mut Vec::new());
            if random.below(3) == 0 {
                held.push((other.frozen(), other.snapshot()));
            }
            if random.below(5) == 0 {
                let snapshot = other.snapshot();
                other = learner("neural_network", config.clone(), shape);
                other.restore(&snapshot).expect("its own state");
            }
            let now = (one.snapshot(), one.digest());
            assert_eq!(now.0 == told.0, now.1 == told.1, "seed {seed}, round {round}");
            told = now;
            if random.below(4) == 0 {
                assert_eq!((other.snapshot(), other.digest()), told, "seed {seed}, round {round}");
            }
        }
        assert!(held.iter().all(|(frozen, snapshot)| frozen.snapshot() == *snapshot), "seed {seed}: copies stay");
    }
}
