//! The trees beside counts made anew of the rows, and what they find.

use serde_json::{Value, json};

use super::super::samples::{Pupil, Random};
use super::super::{Example, Matrix, Shape, plan};

const PLAIN: Shape = Shape { dense: 2, active: 0, categories: 0, classes: 0 };

fn model(settings: &Value) -> Value {
    json!({"half_space_trees": settings})
}

/// The area under the ROC curve, by counting pairs through ranks.
fn auc(scored: &[(f64, bool)]) -> f64 {
    let mut scored = scored.to_vec();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut usual, mut pairs, mut odd, mut at) = (0.0, 0.0, 0.0, 0);
    while at < scored.len() {
        let tied: Vec<_> = scored[at..].iter().take_while(|(score, _)| *score == scored[at].0).collect();
        let odd_here = tied.iter().filter(|(_, odd)| *odd).count() as f64;
        let usual_here = tied.len() as f64 - odd_here;
        pairs += odd_here * (usual + usual_here / 2.0);
        (usual, odd, at) = (usual + usual_here, odd + odd_here, at + tied.len());
    }
    pairs / (usual * odd)
}

/// Counts from all rows of the reference window, down the published cuts.
#[test]
fn scores_are_what_the_rows_of_the_last_window_say() {
    let (window, trees, height) = (40, 12, 4);
    let mut pupil = Pupil::new(&model(&json!({"trees": trees, "height": height, "window": window})), PLAIN);
    let (mut random, mut rows) = (Random::seeded(1), Vec::<[f64; 2]>::new());
    for row in 0..400 {
        let dense = [1e6 + 1e3 * random.normal(), 1e-3 * random.normal().powi(3)];
        let asked = pupil.predict(&dense, &[]);
        let mut expected = 0.0;
        if row >= 2 * window && row % window != 0 {
            // Not in the first window, whose limits are still growing while it is counted.
            let [columns, cuts, low, high] = ["columns", "thresholds", "low", "high"].map(|name| pupil.tensor(name));
            let leaf = |tree: usize, row: &[f64; 2], depth: u32| {
                (0..depth).fold(0, |part, _| {
                    let cut = tree * ((1 << height) - 1) + part;
                    let at = columns[cut] as usize;
                    2 * part + 1 + usize::from((row[at] - low[at]) / (high[at] - low[at]) >= cuts[cut])
                })
            };
            let last = &rows[(row / window - 1) * window..][..window];
            for tree in 0..trees {
                let near = |depth| {
                    last.iter().filter(|other| leaf(tree, other, depth) == leaf(tree, &dense, depth)).count() as f64
                };
                let depth = (0..height).find(|depth| near(*depth) < 0.1 * window as f64).unwrap_or(height);
                expected += ((near(depth) + 0.5).log2() + f64::from(depth)) / trees as f64;
            }
            let (all, none) = ((window as f64).log2() + f64::from(height), -1.0);
            expected = ((all - expected) / (all - none)).clamp(0.0, 1.0);
            assert!((asked - expected).abs() < 1e-9, "row {row}: {asked}, counted {expected}");
        }
        assert_eq!(pupil.learn(&dense, &[], 0.0).to_bits(), asked.to_bits(), "row {row}");
        rows.push(dense);
    }
}

#[test]
fn odd_rows_are_found_in_columns_of_any_scale() {
    let shape = Shape { dense: 3, active: 1, categories: 20, classes: 0 };
    for seed in 0..3 {
        let mut pupil = Pupil::new(&model(&json!({"seed": seed, "trees": 25})), shape);
        let (mut random, mut scored) = (Random::seeded(seed), Vec::new());
        for row in 0..4000 {
            let usual = random.normal();
            let mut dense = [1e9 + usual, 1e-9 * (usual + 0.3 * random.normal()), f64::from(row)];
            let mut category = random.below(3) as u32;
            let odd = random.below(50) == 0;
            if odd {
                dense[random.below(2)] *= 1.0 - 1e-3;
                dense[1] += 8e-9;
                category = 3 + random.below(17) as u32;
            }
            if row == 1000 {
                dense = [f64::MAX, -f64::MAX, 0.0];
            }
            let score = pupil.learn(&dense, &[category], 0.0);
            assert!((0.0..=1.0).contains(&score), "seed {seed}, row {row}: {score}");
            if row > 500 && !(1000..2000).contains(&row) {
                scored.push((score, odd));
            }
        }
        let auc = auc(&scored);
        println!("seed {seed}: {auc:.4}");
        assert!(auc > 0.95, "seed {seed}: {auc}");
    }
}

#[test]
fn a_weight_is_so_many_rows() {
    let settings = model(&json!({"window": 16, "trees": 3, "height": 4}));
    let (mut once, mut often) = ((plan(&settings).unwrap().make)(PLAIN), (plan(&settings).unwrap().make)(PLAIN));
    let (mut matrix, mut outputs, mut random) = (Matrix::new(PLAIN), Vec::new(), Random::seeded(7));
    for row in 0..200 {
        matrix.resize(1);
        (0..2).for_each(|at| matrix.set_dense(at, std::iter::once(random.normal())));
        let times = [1, 2, 7, 150][random.below(4)];
        once.learn(&matrix, &[Example { weight: f64::from(times), ..Example::of(0.0) }], &mut outputs);
        (0..times).for_each(|_| often.learn(&matrix, &[Example::of(0.0)], &mut outputs));
        assert!(once.snapshot() == often.snapshot(), "row {row}, {times} times");
    }
    once.learn(&matrix, &[Example { weight: 1e300, ..Example::of(0.0) }], &mut outputs);
    once.restore(&once.snapshot()).expect("whatever the weight, it is sound");
}

#[test]
fn a_damaged_snapshot_is_refused_or_harmless() {
    let settings = model(&json!({"window": 5, "trees": 2, "height": 2}));
    let mut learner = (plan(&settings).unwrap().make)(PLAIN);
    let (mut matrix, mut outputs) = (Matrix::new(PLAIN), Vec::new());
    matrix.resize(12);
    learner.learn(&matrix, &[Example::of(0.0); 12], &mut outputs);
    let snapshot = learner.snapshot();
    for at in 0..snapshot.len() {
        for flip in [0x01, 0x40, 0xff] {
            let mut damaged = snapshot.clone();
            damaged[at] ^= flip;
            if learner.restore(&damaged).is_ok() {
                learner.learn(&matrix, &[Example::of(0.0); 12], &mut outputs);
                assert!(outputs.iter().all(|score| (0.0..=1.0).contains(score)), "byte {at}");
            }
        }
    }
}

#[test]
fn settings_have_ranges() {
    let problems = plan(&model(&json!({"trees": 0, "height": 16, "window": 1}))).err().expect("problems");
    let places: Vec<_> = problems.iter().map(|problem| problem.path.join(".")).collect();
    assert_eq!(places, ["half_space_trees.trees", "half_space_trees.height", "half_space_trees.window"]);
}

/// `MILLSTREAM_SHUTTLE` is the UCI Statlog (Shuttle) set as a CSV file: nine numbers, then whether the row is odd.
#[test]
#[ignore = "reads a file that has to be there"]
fn shuttle() {
    let path = std::env::var("MILLSTREAM_SHUTTLE").expect("the path of the file");
    let text = std::fs::read_to_string(path).unwrap();
    let cells = |line: &str| line.split(',').map(|cell| cell.parse().unwrap()).collect::<Vec<f64>>();
    let rows: Vec<Vec<f64>> = text.lines().skip(1).map(cells).collect();
    for kind in ["half_space_trees", "robust_random_cut_forest"] {
        for seed in 0..5 {
            let mut pupil = Pupil::new(&json!({kind: {"seed": seed}}), Shape { dense: 9, ..PLAIN });
            let start = millstream_engine::time::Stopwatch::start();
            let scored: Vec<_> = rows.iter().map(|row| (pupil.learn(&row[..9], &[], 0.0), row[9] > 0.5)).collect();
            let (time, auc) = (start.seconds() * 1e9 / rows.len() as f64, auc(&scored));
            println!("{kind}, seed {seed}: AUC {auc:.4}, {time:.0} ns, {} bytes", pupil.learner.snapshot().len());
            assert!(kind != "half_space_trees" || auc > 0.95, "seed {seed}: {auc}");
        }
    }
}
