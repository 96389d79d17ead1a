//! Regret beside naive references, and the arithmetic beside the textbook's.

use serde_json::{Value, json};

use super::super::samples::Random;
use super::super::{Example, Learner, Matrix, Shape, plan};

const KINDS: [&str; 3] = ["epsilon_greedy", "linear_ucb", "thompson_sampling"];

/// A bandit that is asked and taught row by row.
struct Player {
    learner: Box<dyn Learner>,
    matrix: Matrix,
    outputs: Vec<f64>,
}

impl Player {
    fn new(model: &Value, shape: Shape) -> Self {
        Self { learner: (plan(model).unwrap().make)(shape), matrix: Matrix::new(shape), outputs: Vec::new() }
    }

    fn fill(&mut self, dense: &[f64], active: &[u32]) {
        self.matrix.resize(1);
        dense.iter().enumerate().for_each(|(at, x)| self.matrix.set_dense(at, std::iter::once(*x)));
        active.iter().enumerate().for_each(|(at, x)| self.matrix.set_active(at, std::iter::once(*x)));
    }

    fn ask(&mut self, dense: &[f64], active: &[u32]) -> Vec<f64> {
        self.fill(dense, active);
        self.learner.frozen().predict(&self.matrix, &mut self.outputs);
        self.outputs.clone()
    }

    fn tell(&mut self, dense: &[f64], active: &[u32], example: Example) -> Vec<f64> {
        self.fill(dense, active);
        self.learner.learn(&self.matrix, &[example], &mut self.outputs);
        self.outputs.clone()
    }
}

fn draw(random: &mut Random, probabilities: &[f64]) -> usize {
    let mut left = random.uniform();
    let found = probabilities.iter().position(|probability| {
        left -= probability;
        left < 0.0
    });
    found.unwrap_or(probabilities.len() - 1)
}

/// Plays in a world where each of four actions earns a linear function of the row (and noise); gives the mean regret in both halves.
fn regret(
    rows: usize,
    unit: f64,
    mut play: impl FnMut(&mut Random, &[f64], u32, &dyn Fn(usize) -> f64) -> usize,
) -> [f64; 2] {
    let (mut random, mut regrets) = (Random::seeded(17), [0.0; 2]);
    for row in 0..rows {
        let dense = [1e5 + 300.0 * random.signed(), 1e-6 * random.signed()];
        let category = random.below(3) as u32;
        let (a, b) = ((dense[0] - 1e5) / 300.0, dense[1] * 1e6);
        let earned =
            [a, -a, 0.8 * b + 0.2, if category == 1 { 0.9 } else { -0.5 }].map(|earned| unit * (50.0 + earned));
        let noise = 0.3 * unit * random.normal();
        let taken = play(&mut random, &dense, category, &|action| earned[action] + noise);
        regrets[row * 2 / rows] +=
            (earned.into_iter().fold(f64::MIN, f64::max) - earned[taken]) / unit / (rows / 2) as f64;
    }
    regrets
}

#[test]
fn regret_is_far_below_that_of_those_who_do_not_look() {
    let shape = Shape { dense: 2, active: 1, categories: 3, classes: 4 };
    // The reference: the best of the actions' mean rewards, one in ten at random; it does not look at the row.
    let (mut sums, mut counts) = ([0.0; 4], [1e-9; 4]);
    let blind = regret(3000, 1.0, |random, _, _, reward| {
        let means = [0, 1, 2, 3].map(|at| sums[at] / counts[at]);
        let best = (1..4).fold(0, |best, at| if means[at] > means[best] { at } else { best });
        let taken = if random.uniform() < 0.1 || counts.contains(&1e-9) { random.below(4) } else { best };
        sums[taken] += reward(taken);
        counts[taken] += 1.0;
        taken
    });
    for kind in KINDS {
        for unit in [1e-9, 1.0, 1e9] {
            let mut player = Player::new(&json!(kind), shape);
            let [early, late] = regret(3000, unit, |random, dense, category, reward| {
                let asked = player.ask(dense, &[category]);
                let taken = draw(random, &asked);
                let example = Example { action: taken as u32, propensity: asked[taken], ..Example::of(reward(taken)) };
                assert_eq!(player.tell(dense, &[category], example), asked, "what is learned is what was asked");
                taken
            });
            println!("{kind}, {unit:e}: regret {early:.4}, then {late:.4}; without looking {blind:?}");
            let exploration = if kind == "epsilon_greedy" { 0.1 } else { 0.0 };
            assert!(late < 0.06 + exploration && blind[1] > 0.4, "{kind}, {unit:e}: {early}, {late}");
        }
    }
}

/// `LinUCB`, algorithm 1 of the paper: matrices inverted by Gauss and Jordan, for each row anew.
#[test]
fn linear_ucb_is_the_papers() {
    // Values of -1 and 1 in turn have mean 0 and deviation 1 after each second row; the means are those of the rows before.
    let shape = Shape { dense: 1, active: 1, categories: 2, classes: 3 };
    let mut player = Player::new(&json!({"linear_ucb": {"alpha": 0.7, "ridge": 2.0}}), shape);
    let mut random = Random::seeded(2);
    let mut a = vec![[[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0]]; 3];
    let (mut b, mut numbers, mut rewards) = (vec![[0.0; 4]; 3], Vec::new(), Vec::new());
    for row in 0..400 {
        let (number, category) = (random.normal(), random.below(2) as u32);
        let (mean, deviation) = spread(&numbers);
        let z = if deviation > 0.0 { (number - mean) / deviation } else { 0.0 };
        let x = [1.0, z.clamp(-10.0, 10.0), f64::from(category == 0), f64::from(category == 1)];
        let (average, unit) = spread(&rewards);
        let unit = if unit > 0.0 { unit } else { 1.0 };
        let bounds: Vec<f64> = (0..3)
            .map(|action| {
                let inverse = inverted(a[action]);
                let mut sums = b[action];
                sums[0] += 2.0 * average;
                let product = |y: [f64; 4]| [0, 1, 2, 3].map(|i| (0..4).map(|j| inverse[i][j] * y[j]).sum::<f64>());
                let dot = |y: [f64; 4]| (0..4).map(|i| x[i] * y[i]).sum::<f64>();
                dot(product(sums)) + 0.7 * unit * dot(product(x)).sqrt()
            })
            .collect();
        let asked = player.ask(&[number], &[category]);
        let taken = random.below(3);
        let best = (1..3).fold(0, |best, at| if bounds[at] > bounds[best] { at } else { best });
        let close = (0..3).any(|at| at != best && bounds[best] - bounds[at] < 1e-9);
        assert!(close || asked[best] == 1.0, "row {row}: {asked:?}, bounds {bounds:?}");
        let reward = z * taken as f64 + f64::from(category) + random.normal();
        player.tell(&[number], &[category], Example { action: taken as u32, ..Example::of(reward) });
        (0..4).for_each(|i| (0..4).for_each(|j| a[taken][i][j] += x[i] * x[j]));
        (0..4).for_each(|i| b[taken][i] += reward * x[i]);
        // As wild values are tamed.
        numbers.push(if deviation > 0.0 { mean + deviation * z.clamp(-10.0, 10.0) } else { number });
        rewards.push(reward);
    }
}

fn spread(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt())
}

fn inverted(mut a: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
    let mut inverse = [0, 1, 2, 3].map(|i| [0, 1, 2, 3].map(|j| f64::from(i == j)));
    for i in 0..4 {
        let pivot = a[i][i];
        (0..4).for_each(|j| (a[i][j] /= pivot, inverse[i][j] /= pivot).0);
        for k in (0..4).filter(|k| *k != i) {
            let factor = a[k][i];
            (0..4).for_each(|j| (a[k][j] -= factor * a[i][j], inverse[k][j] -= factor * inverse[i][j]).0);
        }
    }
    inverse
}

#[test]
fn probabilities_are_what_they_should_be_whatever_comes() {
    let shape = Shape { dense: 70, active: 2, categories: 100, classes: 3 };
    for kind in KINDS {
        for inverse in [false, true] {
            let mut random = Random::seeded(5);
            let mut player = Player::new(&json!({kind: {"inverse_propensity": inverse, "ridge": 1e-6}}), shape);
            let third = [1.0 / 3.0; 3];
            let start = player.ask(&[0.0; 70], &[0, 50]);
            assert!(start.iter().zip(third).all(|(p, third)| (p - third).abs() < 1e-12), "{kind}: {start:?}");
            for row in 0..120 {
                let wild = |random: &mut Random| match random.below(20) {
                    0 => f64::MAX,
                    1 => -f64::MAX,
                    2 => 0.0,
                    _ => 10_f64.powi(random.below(20) as i32 - 10) * random.normal(),
                };
                let dense: Vec<f64> = (0..70).map(|_| wild(&mut random)).collect();
                let active = [random.below(50) as u32, 50 + random.below(50) as u32];
                let target = wild(&mut random).clamp(-1e100, 1e100);
                let weight = if random.below(10) == 0 { 1e300 } else { random.uniform() };
                let example = Example { target, weight, action: random.below(3) as u32, propensity: random.uniform() };
                let outputs = player.tell(&dense, &active, example);
                assert!((outputs.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{kind}, row {row}: {outputs:?}");
                assert!(outputs.iter().all(|p| (0.0..=1.0).contains(p)), "{kind}, row {row}: {outputs:?}");
                let snapshot = player.learner.snapshot();
                player.learner.restore(&snapshot).unwrap_or_else(|error| panic!("{kind}, row {row}: {error}"));
            }
        }
    }
}

#[test]
fn a_weight_is_so_many_examples() {
    let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
    for kind in ["epsilon_greedy", "linear_ucb"] {
        let (mut once, mut thrice, mut random) =
            (Player::new(&json!(kind), shape), Player::new(&json!(kind), shape), Random::seeded(6));
        for row in 0..200 {
            let dense = [random.normal(), random.normal()];
            let action = random.below(2);
            let reward = if action == 0 { dense[0] } else { -dense[0] };
            let example = Example { action: action as u32, weight: 3.0, ..Example::of(reward) };
            once.tell(&dense, &[], example);
            (0..3).for_each(|_| drop(thrice.tell(&dense, &[], Example { weight: 1.0, ..example })));
            let probe = [random.normal(), random.normal()];
            let (a, b) = (once.ask(&probe, &[]), thrice.ask(&probe, &[]));
            // The columns' means and deviations have moved in between, so at first not bit for bit.
            assert!(row < 50 || a == b || probe[0].abs() < 0.3, "{kind}, row {row}: {a:?} {b:?}");
        }
    }
}

/// With two actions, the probability is a value of the normal distribution's function.
#[test]
fn thompson_samples_as_often_as_an_action_is_better() {
    use super::Policy;
    let policy: super::super::thompson_sampling::ThompsonSampling =
        serde_json::from_value(json!({"draws": 10000})).unwrap();
    let mut outputs = [0.0; 2];
    policy.choose(1, &[1.0, 0.0], &[3.0, 4.0], &mut outputs);
    // Phi(1 / 5)
    assert!((outputs[0] - 0.5793).abs() < 0.015, "{outputs:?}");
    let again = outputs;
    policy.choose(1, &[1.0, 0.0], &[3.0, 4.0], &mut outputs);
    assert_eq!(outputs, again);
}

#[test]
#[ignore = "prints times"]
fn times() {
    for (dense, classes) in [(10, 5), (60, 5)] {
        for kind in KINDS {
            let mut player = Player::new(&json!(kind), Shape { dense, active: 0, categories: 0, classes });
            let (mut random, rows) = (Random::seeded(1), 5000);
            let xs: Vec<f64> = (0..dense).map(|_| random.normal()).collect();
            let start = millstream_engine::time::Stopwatch::start();
            for row in 0..rows {
                player.tell(&xs, &[], Example { action: row % classes as u32, ..Example::of(random.normal()) });
            }
            println!("{kind}, {dense} numbers, {classes} actions: {:.0} ns", start.seconds() * 1e9 / f64::from(rows));
        }
    }
}

/// Says what to do, by what was done and what it earned.
type Play = Box<dyn FnMut(&[(usize, f64)], &mut Random) -> usize>;

/// Two actions that earn 1 with known probabilities, told after 20 more were asked for: the regret of a player, as the mean over seeds.
fn regret_of_two(mut player: impl FnMut(u64) -> Play) -> f64 {
    const CHANCES: [f64; 2] = [0.45, 0.6];
    let (seeds, rows, delay) = (40, 2_000, 20);
    let mut regret = 0.0;
    for seed in 0..seeds {
        let (mut random, mut play, mut told) = (Random::seeded(1_000 + seed), player(seed), Vec::new());
        for row in 0..rows {
            let known: &[(usize, f64)] = &told[..(row / delay * delay).min(told.len())];
            let action = play(known, &mut random);
            told.push((action, f64::from(u8::from(random.uniform() < CHANCES[action]))));
            regret += CHANCES[1] - CHANCES[action];
        }
    }
    regret / seeds as f64
}

/// Thompson sampling as in the textbook: Gaussian beliefs about two means, of rewards whose deviation is a half.
fn reference() -> Play {
    Box::new(|known, random| {
        let draw = |action: usize, random: &mut Random| {
            let of = || known.iter().filter(|(of, _)| *of == action);
            let (count, sum) = (of().count() as f64, of().map(|(_, reward)| reward).sum::<f64>());
            let normal: f64 = (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0;
            (sum + 0.5) / (count + 1.0) + 0.5 * normal / (count + 1.0).sqrt()
        };
        usize::from(draw(1, random) > draw(0, random))
    })
}

#[test]
fn of_two_the_better_is_found_as_soon_as_by_the_reference() {
    let shape = Shape { dense: 0, active: 0, categories: 0, classes: 2 };
    let own = regret_of_two(|_| {
        let (mut player, mut seen) = (Player::new(&json!("thompson_sampling"), shape), 0);
        Box::new(move |known, random| {
            for (action, reward) in &known[seen..] {
                player.tell(&[], &[], Example { action: *action as u32, ..Example::of(*reward) });
            }
            seen = known.len();
            let probabilities = player.ask(&[], &[]);
            draw(random, &probabilities)
        })
    });
    let reference = regret_of_two(|_| reference());
    println!("regret {own:.1}, of the reference {reference:.1}");
    assert!(own < 1.2 * reference, "{own} beside {reference}");
    // By chance it is 0.075 for each of 2,000.
    assert!(reference < 60.0, "{reference}");
}
