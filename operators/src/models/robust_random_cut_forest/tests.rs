//! The forest beside a naive one, and what it finds.

use serde_json::json;

use super::super::random::Random as Draws;
use super::super::samples::{Pupil, Random};
use super::super::{Example, Matrix, Shape, plan};
use super::tree::{Tree, UNIT};

const PLAIN: Shape = Shape { dense: 3, active: 0, categories: 0, classes: 0 };

/// A tree as the paper writes it: points, divided by a cut. Displacements by taking points away and counting.
enum Naive {
    Leaf(Vec<f32>, usize),
    Cut(usize, f32, Box<Naive>, Box<Naive>),
}

impl Naive {
    fn size(&self) -> usize {
        match self {
            Self::Leaf(_, count) => *count,
            Self::Cut(_, _, a, b) => a.size() + b.size(),
        }
    }

    fn points(&self) -> Vec<&Vec<f32>> {
        match self {
            Self::Leaf(point, _) => vec![point],
            Self::Cut(_, _, a, b) => [a.points(), b.points()].concat(),
        }
    }

    fn insert(self, point: &[f32], random: &mut Draws) -> Self {
        let points: Vec<Vec<f32>> = self.points().into_iter().cloned().collect();
        let low = |at: usize| points.iter().map(|p| p[at]).fold(f32::MAX, f32::min);
        let high = |at: usize| points.iter().map(|p| p[at]).fold(f32::MIN, f32::max);
        let reach = |at: usize| f64::from(high(at).max(point[at]) - low(at).min(point[at]));
        let all: f64 = (0..point.len()).map(reach).sum();
        if let Self::Leaf(same, count) = &self
            && all == 0.0
        {
            return Self::Leaf(same.clone(), count + 1);
        }
        let mut left = random.uniform() * all;
        let column = (0..point.len()).find(|at| {
            let found = left < reach(*at);
            left -= if found { 0.0 } else { reach(*at) };
            found
        });
        let column = column.expect("one of the columns");
        let cut = (f64::from(low(column).min(point[column])) + left) as f32;
        if cut < low(column) {
            return Self::Cut(column, cut, Box::new(Self::Leaf(point.to_vec(), 1)), Box::new(self));
        }
        if cut >= high(column) {
            return Self::Cut(column, cut, Box::new(self), Box::new(Self::Leaf(point.to_vec(), 1)));
        }
        match self {
            Self::Cut(column, cut, a, b) if point[column] <= cut => {
                Self::Cut(column, cut, Box::new(a.insert(point, random)), b)
            }
            Self::Cut(column, cut, a, b) => Self::Cut(column, cut, a, Box::new(b.insert(point, random))),
            leaf @ Self::Leaf(..) => leaf,
        }
    }

    fn remove(self, point: &[f32]) -> Option<Self> {
        match self {
            Self::Leaf(_, 1) => None,
            Self::Leaf(same, count) => Some(Self::Leaf(same, count - 1)),
            Self::Cut(column, cut, a, b) if point[column] <= cut => match a.remove(point) {
                Some(a) => Some(Self::Cut(column, cut, Box::new(a), b)),
                None => Some(*b),
            },
            Self::Cut(column, cut, a, b) => match b.remove(point) {
                Some(b) => Some(Self::Cut(column, cut, a, Box::new(b))),
                None => Some(*a),
            },
        }
    }

    /// Of a point in the tree.
    fn displacement(&self, point: &[f32]) -> f64 {
        match self {
            Self::Leaf(..) => 0.0,
            Self::Cut(column, cut, a, b) => {
                let (here, beside) = if point[*column] <= *cut { (a, b) } else { (b, a) };
                here.displacement(point).max(beside.size() as f64 / here.size() as f64)
            }
        }
    }
}

#[test]
fn a_tree_is_the_papers() {
    let mut random = Random::seeded(3);
    let (mut tree, mut naive, mut window) = (Tree::new(2), None::<Naive>, Vec::new());
    for row in 0..600 {
        // Few values, so that some points come again.
        let point = [random.below(6) as f32, (3.0 * random.normal()).round() as f32];
        let place = tree.place(&point, &mut Draws::new(1, row));
        let displacement = tree.displacement(place);
        tree.insert(place, &point, UNIT);
        let grown = match naive.take() {
            None => Naive::Leaf(point.to_vec(), 1),
            Some(naive) => naive.insert(&point, &mut Draws::new(1, row)),
        };
        assert!((displacement - grown.displacement(&point)).abs() < 1e-9, "row {row}");
        window.push(point);
        naive = Some(grown);
        if window.len() > 50 {
            let oldest = window.remove(0);
            tree.remove(&oldest, UNIT);
            naive = naive.and_then(|naive| naive.remove(&oldest));
        }
        let restored = Tree::of(2, &tree.cuts(), window.iter().map(|point| (point.to_vec(), UNIT))).expect("it fits");
        assert_eq!(format!("{:?}", restored.cuts()), format!("{:?}", tree.cuts()), "row {row}");
    }
}

#[test]
fn odd_rows_are_found_and_the_usual_ones_are_not() {
    let mut pupil = Pupil::new(&json!({"robust_random_cut_forest": {"trees": 20, "window": 100}}), PLAIN);
    let mut random = Random::seeded(4);
    let (mut usual, mut odd) = (0.0_f64, f64::MAX);
    for row in 0..600 {
        let mut dense = [1e6 + random.normal(), 1e-9 * random.normal(), 5.0];
        let is_odd = row > 200 && row % 50 == 0;
        if is_odd {
            dense[row / 50 % 2] = [1e6 + 12.0, -12e-9][row / 50 % 2];
        }
        let asked = pupil.predict(&dense, &[]);
        let score = pupil.learn(&dense, &[], 0.0);
        assert_eq!(asked.to_bits(), score.to_bits(), "row {row}");
        if is_odd {
            odd = odd.min(score);
        } else if row > 200 {
            usual += score / 400.0;
        }
    }
    println!("usual {usual:.3}, odd at least {odd:.3}");
    assert!(usual < 0.5 && odd > 0.7, "usual {usual}, odd at least {odd}");
}

#[test]
fn a_restored_forest_goes_on_as_the_original() {
    let shape = Shape { dense: 2, active: 2, categories: 6, classes: 0 };
    let config = json!({"robust_random_cut_forest": {"trees": 5, "window": 20}});
    let mut random = Random::seeded(5);
    let (mut learner, mut restored) = ((plan(&config).unwrap().make)(shape), (plan(&config).unwrap().make)(shape));
    let (mut matrix, mut a, mut b) = (Matrix::new(shape), Vec::new(), Vec::new());
    for row in 0..300 {
        matrix.resize(1);
        let wild = if random.below(30) == 0 { f64::MAX } else { 1e5 };
        (0..2).for_each(|at| matrix.set_dense(at, std::iter::once(wild * random.signed())));
        matrix.set_active(0, std::iter::once(random.below(3) as u32));
        matrix.set_active(1, std::iter::once(3 + random.below(3) as u32));
        let weight = [1.0, 0.001, 2.5, 1e300][if row % 40 == 0 { 3 } else { random.below(3) }];
        let example = Example { weight, ..Example::of(0.0) };
        restored.restore(&learner.snapshot()).unwrap();
        learner.learn(&matrix, &[example], &mut a);
        restored.learn(&matrix, &[example], &mut b);
        assert_eq!(a, b, "row {row}");
        assert!((0.0..=1.0).contains(&a[0]), "row {row}");
        assert_eq!(learner.snapshot(), restored.snapshot(), "row {row}");
    }
    let snapshot = learner.snapshot();
    for at in 0..snapshot.len() {
        // Whatever it does, it does not panic.
        let mut damaged = snapshot.clone();
        damaged[at] ^= 0x55;
        if restored.restore(&damaged).is_ok() {
            restored.learn(&matrix, &[Example::of(0.0)], &mut b);
        }
    }
}
