//! What classifiers by Bayes' rule share: how often each class came, and each category in it, as exact sums.

use serde::{Deserialize, Serialize};

use super::onnx::{self, Graph, Rows};
use super::sums::{Double, Number, Sums};
use super::{Example, Explanation, Names, Shape};

/// How many classes rows of this shape are in.
pub(super) fn classes(shape: Shape) -> usize {
    shape.classes.max(2)
}

/// What a class is called.
pub(super) fn class_name(names: &Names, class: usize) -> String {
    names.classes.get(class).cloned().unwrap_or_else(|| class.to_string())
}

/// The examples of each class, by weight.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Classes {
    sums: Sums,
    /// The sums as floats.
    weights: Vec<f64>,
    total: f64,
}

impl Classes {
    pub(super) fn new(classes: usize) -> Self {
        Self { sums: Sums::new(classes), weights: vec![0.0; classes], total: 0.0 }
    }

    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    /// The class that an example is in.
    pub(super) fn of(&self, example: Example) -> usize {
        (example.target.max(0.0) as usize).min(self.len() - 1)
    }

    pub(super) fn add(&mut self, class: usize, weight: Number) {
        self.sums.add(class, weight.term());
        self.weights[class] = self.sums.value(class).max(0.0);
        self.total = self.weights.iter().sum();
    }

    /// How much the examples of a class weigh: 0 where there are none.
    #[inline]
    pub(super) fn weight(&self, class: usize) -> f64 {
        self.weights[class]
    }

    /// The same with all its digits.
    pub(super) fn exact_weight(&self, class: usize) -> Double {
        self.sums.double(class)
    }

    /// How much all examples weigh.
    pub(super) fn total(&self) -> f64 {
        self.total
    }

    /// The share of a class among all examples and one more, that is of all classes alike.
    pub(super) fn prior(&self, class: usize) -> f64 {
        (self.weights[class] + 1.0 / self.len() as f64) / (self.total + 1.0)
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The shares of classes, for people.
    pub(super) fn lines(&self, names: &Names) -> impl Iterator<Item = String> {
        let share = |weight: f64| 100.0 * weight / self.total.max(f64::MIN_POSITIVE);
        self.weights.iter().enumerate().map(move |(class, weight)| {
            format!("class {}: {:.2} % of the examples", class_name(names, class), share(*weight))
        })
    }

    pub(super) fn fits(&self, classes: usize) -> bool {
        let counts = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        self.sums.len() == classes
            && self.weights.len() == classes
            && self.weights.iter().all(counts)
            && counts(&self.total)
    }
}

/// The examples of each category and class, by weight.
///
/// A category's probability in a class is its share there, plus `smoothing / n` of all `n` examples. So, by Bayes' rule,
/// the probability of a class given the category is that of the class among the category's examples and `smoothing` more,
/// of which each class has its usual share: a category that never came says nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Categories {
    /// Of each category one for each class, and one for all.
    sums: Sums,
}

impl Categories {
    pub(super) fn new(categories: usize, classes: usize) -> Self {
        Self { sums: Sums::new(categories * (classes + 1)) }
    }

    pub(super) fn add(&mut self, active: &[u32], class: usize, classes: &Classes, weight: Number) {
        for category in active {
            let first = *category as usize * (classes.len() + 1);
            self.sums.add(first + class, weight.term());
            self.sums.add(first + classes.len(), weight.term());
        }
    }

    /// Adds to what there is for each class the logarithms of its share and of the probabilities of a row's categories in it.
    #[inline]
    pub(super) fn logarithms(&self, active: &[u32], classes: &Classes, smoothing: f64, logarithms: &mut [f64]) {
        let (count, total) = (classes.len(), classes.total());
        for (class, logarithm) in logarithms.iter_mut().enumerate() {
            let mut product = Product::ONE;
            product.times(classes.prior(class));
            let weight = classes.weight(class);
            // A class without examples is like all of them together.
            let (at, weight) = if weight > 0.0 { (class, weight) } else { (count, total) };
            for category in active {
                let inside = self.sums.value(*category as usize * (count + 1) + at).max(0.0);
                product.times(inside / weight + smoothing / total);
            }
            *logarithm += product.log();
        }
    }

    /// The same for an ONNX graph: for each class, the logarithm of its share; and for each category, of its probability in each class.
    pub(super) fn logarithm_tables(&self, classes: &Classes, smoothing: f64) -> (Vec<f64>, Vec<f64>) {
        let (count, total) = (classes.len(), classes.total());
        let logarithm = |cell: usize| {
            let (category, class) = (cell / count, cell % count);
            let weight = classes.weight(class);
            let (at, weight) = if weight > 0.0 { (class, weight) } else { (count, total) };
            let inside = self.sums.value(category * (count + 1) + at).max(0.0);
            libm::log(inside / weight + smoothing / total)
        };
        let shares = (0..count).map(|class| libm::log(classes.prior(class))).collect();
        (shares, (0..self.len(classes) * count).map(logarithm).collect())
    }

    /// How many categories there are.
    pub(super) fn len(&self, classes: &Classes) -> usize {
        self.sums.len() / (classes.len() + 1)
    }

    /// The weights of each category, one for each class and one for all, category after category.
    pub(super) fn weights(&self) -> Vec<f64> {
        (0..self.sums.len()).map(|at| self.sums.value(at)).collect()
    }

    pub(super) fn fits(&self, shape: Shape) -> bool {
        shape.categories.checked_mul(classes(shape) + 1) == Some(self.sums.len())
    }
}

/// A product of positive numbers whose logarithm is wanted: one logarithm in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// In [1, 2).
    mantissa: f64,
    exponent: i64,
}

impl Product {
    pub(super) const ONE: Self = Self { mantissa: 1.0, exponent: 0 };

    /// Times a normal number above 0, below 2^1000.
    #[inline]
    pub(super) fn times(&mut self, factor: f64) {
        const EXPONENT: u64 = 0x7ff << 52;
        let bits = (self.mantissa * factor).to_bits();
        self.exponent += (bits >> 52) as i64 - 1023;
        self.mantissa = f64::from_bits(bits & !EXPONENT | 1023 << 52);
    }

    pub(super) fn log(self) -> f64 {
        libm::log(self.mantissa) + self.exponent as f64 * std::f64::consts::LN_2
    }
}

/// The same probability for all classes.
pub(super) fn uniform(outputs: &mut [f64]) {
    let classes = outputs.len().max(2);
    outputs.fill(1.0 / classes as f64);
}

/// Probabilities of classes from their logarithms, each lacking the same summand. There is one for each class.
pub(super) fn posterior(logarithms: &[f64], outputs: &mut [f64]) {
    if let [yes] = outputs {
        *yes = 1.0 / (1.0 + libm::exp(logarithms[0] - logarithms[1]));
        return;
    }
    let largest = logarithms.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let mut sum = 0.0;
    for (output, logarithm) in outputs.iter_mut().zip(logarithms) {
        *output = libm::exp(logarithm - largest);
        sum += *output;
    }
    outputs.iter_mut().for_each(|output| *output /= sum);
}

/// The same in an ONNX graph as [`uniform`].
pub(super) fn uniform_onnx(graph: &mut Graph, rows: &Rows, classes: usize) -> onnx::Edge {
    let probabilities = rows.repeat(graph, &vec![1.0 / classes as f64; classes]);
    graph.outputs(probabilities, classes)
}

/// The same in an ONNX graph as [`posterior`].
pub(super) fn posterior_onnx(graph: &mut Graph, logarithms: onnx::Edge, classes: usize) -> onnx::Edge {
    let probabilities = graph.softmax(logarithms);
    graph.outputs(probabilities, classes)
}

/// A table, its rows turned into columns.
pub(super) fn turned(table: &[f64], rows: usize) -> Vec<f64> {
    let columns = table.len() / rows.max(1);
    (0..table.len()).map(|cell| table[cell % rows * columns + cell / rows]).collect()
}

/// Explains a table of shares: for each class one for each number.
pub(super) fn explain_shares(classes: &Classes, shares: &[f64], names: &Names, mut lines: Vec<String>) -> Explanation {
    let numbers = shares.len() / classes.len();
    let seen = || (0..classes.len()).filter(|class| classes.weight(*class) > 0.0);
    let name = |at: usize| names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}"));
    let difference = |at: usize| {
        let of = |class: usize| shares[class * numbers + at];
        seen().map(of).fold(f64::NEG_INFINITY, f64::max) - seen().map(of).fold(f64::INFINITY, f64::min)
    };
    let mut order: Vec<(usize, f64)> = (0..numbers).map(|at| (at, difference(at).max(0.0))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (at, _) in &order {
        let of = |class: usize| format!("  {}: {:.6}", class_name(names, class), shares[class * numbers + at]);
        lines.push(name(*at) + &seen().map(of).collect::<String>());
    }
    Explanation { importances: order.into_iter().map(|(at, difference)| (name(at), difference)).collect(), lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_have_the_sum_of_the_logarithms() {
        let factors = [3.0, 1e-200, 7e-250, 2.5e280, 1.0, 0.125];
        let mut product = Product::ONE;
        factors.iter().for_each(|factor| product.times(*factor));
        let sum: f64 = factors.iter().map(|factor: &f64| factor.ln()).sum();
        assert!((product.log() - sum).abs() < 1e-10);
    }

    #[test]
    fn probabilities_add_up_whatever_the_logarithms() {
        let mut three = [0.0; 3];
        posterior(&[-1e15, -1e15 + 1.0, -3e15], &mut three);
        assert!((three.iter().sum::<f64>() - 1.0).abs() < 1e-15 && three[1] > 0.7, "{three:?}");
        let mut one = [0.0];
        posterior(&[-1e15, 1e15], &mut one);
        assert_eq!(one, [1.0]);
    }
}
