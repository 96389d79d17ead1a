//! Quadratic discriminant analysis by sufficient statistics: each class has its own means, and its own spread around them.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes;
use super::discriminant::{Config, Places, Scatter};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::symmetric::{cells, due, factor, log_determinant, solve_lower};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Quadratic discriminant analysis.
pub static KIND: ModelKind = Kind {
    name: "quadratic_discriminant",
    about: "The probability of each class: its numbers follow a bell-shaped cloud of its own, with correlations, and each category has its \
            share in it, independent of all else.\n\n\
            Like `gaussian_naive_bayes`, but it sees which columns go together; like `linear_discriminant`, but borders between classes \
            are curved. An example that is taken back leaves no trace. Takes columns of any scale as they are. It costs the square of \
            the number of columns in memory and time, for each class. With more than 32 columns (of two classes), it is solved anew only when \
            the number of examples has grown by a 64th; the sums are always exact.",
    schema: schema_of::<Config>,
    example: "shrinkage: 1",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config = Config::checked(value)?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make =
        move |shape| Erased::new(Quadratic::new(shape, config), Task::Classification, shape).forgetting().boxed();
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)) })
}

/// No row is less likely in a class than at this squared distance.
const FAR: f64 = 1e100;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Quadratic {
    scatter: Scatter,
    places: Places,
    /// What follows: for each class the factor of its covariances, and the logarithm of its determinant.
    factors: Vec<f64>,
    determinants: Vec<f64>,
}

impl Quadratic {
    fn new(shape: Shape, config: Config) -> Self {
        let classes = bayes::classes(shape);
        Self {
            scatter: Scatter::new(shape, config, classes),
            places: Places::new(shape.dense, classes),
            factors: vec![0.0; classes * cells(shape.dense)],
            determinants: vec![0.0; classes],
        }
    }

    /// Factors the covariances anew, if it is time for that.
    fn refresh(&mut self) {
        let (numbers, classes) = (self.scatter.numbers, self.determinants.len());
        if numbers == 0 || !due(classes, numbers, self.scatter.examples) {
            return;
        }
        if self.scatter.classes.total() <= 0.0 {
            self.places = Places::new(numbers, classes);
            self.factors.fill(0.0);
            self.determinants.fill(0.0);
            return;
        }
        self.scatter.places(&mut self.places, &mut self.factors);
        for (matrix, determinant) in self.factors.chunks_exact_mut(cells(numbers)).zip(&mut self.determinants) {
            factor(matrix, numbers);
            *determinant = log_determinant(matrix, numbers);
        }
    }
}

impl Model for Quadratic {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let classes = &self.scatter.classes;
        if classes.total() <= 0.0 {
            return bayes::uniform(outputs);
        }
        let (numbers, size) = (row.dense.len(), cells(row.dense.len()));
        scratch.clear();
        scratch.resize(2 * numbers, 0.0);
        scratch.extend(self.determinants.iter().map(|determinant| -determinant));
        let (standardised, rest) = scratch.split_at_mut(numbers);
        let (apart, logarithms) = rest.split_at_mut(numbers);
        for (at, x) in row.dense.iter().enumerate() {
            standardised[at] = self.places.standardised(at, *x);
        }
        for (class, logarithm) in logarithms.iter_mut().enumerate() {
            let centre = &self.places.centres[class * numbers..][..numbers];
            for (apart, (z, centre)) in apart.iter_mut().zip(standardised.iter().zip(centre)) {
                *apart = z - centre;
            }
            solve_lower(&self.factors[class * size..][..size], apart);
            *logarithm -= 0.5 * apart.iter().map(|z| z * z).sum::<f64>().min(FAR);
        }
        self.scatter.categories.logarithms(row.active, classes, self.scatter.config.smoothing, logarithms);
        bayes::posterior(logarithms, outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.scatter.learn(row, example);
        self.refresh();
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Scatter { classes, categories, .. } = &self.scatter;
        vec![
            Tensor::row("class_weights", classes.weights().to_vec()),
            Tensor::row("means", self.places.means.clone()),
            Tensor::row("deviations", self.places.deviations.clone()),
            Tensor::table("centres", classes.len(), self.places.centres.clone()),
            Tensor::table("factors", classes.len(), self.factors.clone()),
            Tensor::row("log_determinants", self.determinants.clone()),
            Tensor::table("categories", categories.len(classes), categories.weights()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let heading = "each class's mean, in standard deviations from the mean of all; importance: the largest difference of two classes";
        let mut lines = vec![heading.to_owned()];
        lines.extend(self.scatter.classes.lines(names));
        bayes::explain_shares(&self.scatter.classes, &self.places.centres, names, lines)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let Scatter { classes, categories, config, .. } = &self.scatter;
        if classes.total() <= 0.0 {
            return Ok(bayes::uniform_onnx(graph, rows, classes.len()));
        }
        let (count, size, dense) = (classes.len(), cells(rows.shape.dense), rows.shape.dense);
        let (shares, categories) = categories.logarithm_tables(classes, config.smoothing);
        let biases: Vec<f64> = self.determinants.iter().zip(&shares).map(|(det, share)| share - det).collect();
        let mut logarithms = rows.sums(graph, None, &[], &categories, &biases);
        if let Some(numbers) = self.places.onnx(graph, rows) {
            // Of each class, the inverse of its factor, rows and columns exchanged.
            let mut inverses = Vec::with_capacity(count * dense * dense);
            for (class, at) in (0..count).flat_map(|class| (0..dense).map(move |at| (class, at))) {
                let mut column = vec![0.0; dense];
                column[at] = 1.0;
                solve_lower(&self.factors[class * size..][..size], &mut column);
                inverses.extend(column);
            }
            let centres = graph.doubles(&[count, 1, dense], &self.places.centres);
            let apart = graph.subtract(numbers, centres);
            let inverses = graph.doubles(&[count, dense, dense], &inverses);
            let solved = graph.apply("MatMul", &[apart, inverses]);
            let squares = graph.reduce("ReduceSumSquare", solved, 2, false);
            let squares = graph.at_most(squares, FAR);
            let by_row = graph.apply("Transpose", &[squares]);
            let densities = graph.scale(by_row, -0.5);
            logarithms = graph.add(logarithms, densities);
        }
        Ok(bayes::posterior_onnx(graph, logarithms, count))
    }

    fn fits(&self, shape: Shape) -> bool {
        let classes = bayes::classes(shape);
        let numbers = |numbers: &[f64], len: usize| numbers.len() == len && numbers.iter().all(|x| x.is_finite());
        self.scatter.fits(shape, classes)
            && self.places.fits(shape.dense, classes)
            && numbers(&self.factors, classes * cells(shape.dense))
            && numbers(&self.determinants, classes)
    }
}

impl Forget for Quadratic {
    fn forget(&mut self, row: Row<'_>, example: Example, _: &mut Vec<f64>) {
        self.scatter.forget(row, example);
        self.refresh();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// Two clouds around one point, one along each diagonal: no mean and no variance tells them apart.
    #[test]
    fn clouds_that_differ_in_correlation_only_are_told_apart() {
        let mut random = Random::seeded(8);
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
        let mut pupil = Pupil::new(&json!("quadratic_discriminant"), shape);
        let mut worst: f64 = 0.0;
        for row in 0..20_000 {
            let class = random.uniform() < 0.5;
            let (a, b, sign) = (random.normal(), random.normal(), if class { 1.0 } else { -1.0 });
            let x = [a, sign * 0.6 * a + 0.8 * b];
            let got = pupil.learn(&[1e6 * x[0], 2000.0 + 1e-3 * x[1]], &[], f64::from(class));
            // Covariances [[1, ±0.6], [±0.6, 1]]: the forms differ in the mixed term only, 2 * 0.6 / 0.64 each way.
            let want = 1.0 / (1.0 + (-2.0 * 0.6 / 0.64 * x[0] * x[1]).exp());
            worst = if row < 10_000 { 0.0 } else { worst.max((got - want).abs()) };
        }
        assert!(worst < 0.06, "{worst}");
    }
}
