//! What a network's outputs mean, and how wrong they are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Task;
use super::super::logistic_regression::logistic;
use super::super::ranges::Ranges;

/// How wrong a classifier is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct ClassLoss {
    /// The power of the focal loss (Lin and others 2017), from 0, which is log loss, to 10: the larger, the less do rows count of which the
    /// model is sure.
    focal: f64,
    /// How much each class counts, in their order (no before yes): above 0, at most 1e6. Without it all count 1.
    class_weights: Vec<f64>,
}

/// How wrong a number is. Numbers are told in deviations, where `standardise` is on.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::models) enum NumberLoss {
    /// Half the square of the error.
    #[default]
    Squared,
    /// The absolute error.
    Absolute,
    /// Squared up to this error, then absolute (Huber 1964).
    Huber(f64),
    /// So that this share of the targets lies below what is said, above 0 and below 1 (Koenker and Bassett 1978).
    Quantile(f64),
    /// Of counts: the outputs are logarithms of their means.
    Poisson,
}

/// What the outputs are of.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::models) enum Head {
    /// The logit of yes, or those of all classes.
    Classes(ClassLoss),
    /// A number.
    Number(NumberLoss),
    /// The numbers of the row itself.
    Rebuild,
}

/// What there is to learn from the rows of a mini-batch.
pub(super) struct Lesson<'a> {
    /// How many outputs a row has.
    pub(super) width: usize,
    /// As the network takes them; for [`Head::Rebuild`].
    pub(super) numbers: &'a [f32],
    /// The index of the class, or the number, scaled.
    pub(super) targets: &'a [f64],
    pub(super) weights: &'a [f64],
}

/// A loss, as it stands in a definition.
pub(in crate::models) trait Loss: Clone + Default + Serialize {
    /// Notes what is out of range.
    fn check(&self, ranges: Ranges) -> Ranges;

    /// What outputs are of that are judged by it.
    fn head(&self) -> Head;
}

impl Loss for ClassLoss {
    fn check(&self, mut ranges: Ranges) -> Ranges {
        ranges = ranges.within("loss.focal", self.focal, 0.0, 10.0);
        for (at, weight) in self.class_weights.iter().enumerate() {
            ranges = ranges.within(&format!("loss.class_weights.{at}"), *weight, 1e-6, 1e6);
        }
        ranges
    }

    fn head(&self) -> Head {
        Head::Classes(self.clone())
    }
}

impl Loss for NumberLoss {
    fn check(&self, ranges: Ranges) -> Ranges {
        match *self {
            Self::Huber(width) => ranges.within("loss.huber", width, 1e-9, 1e9),
            Self::Quantile(level) => ranges.within("loss.quantile", level, 1e-6, 1.0 - 1e-6),
            _ => ranges,
        }
    }

    fn head(&self) -> Head {
        Head::Number(*self)
    }
}

impl ClassLoss {
    fn weight(&self, class: usize) -> f64 {
        self.class_weights.get(class).copied().unwrap_or(1.0)
    }

    /// The loss where what was has this probability, and the factor on the gradient of its logarithm, which is -1 for log loss.
    fn of(&self, probability: f64) -> (f64, f64) {
        let probability = probability.clamp(1e-30, 1.0);
        let log = libm::log(probability);
        if self.focal == 0.0 {
            return (-log, -1.0);
        }
        let rest = 1.0 - probability;
        let power = libm::pow(rest, self.focal);
        // The derivative of the power, which is not finite at a power below 1 and a rest of 0: there the logarithm is 0.
        let slope = if rest > 0.0 { self.focal * power / rest * probability * log } else { 0.0 };
        (-power * log, slope - power)
    }
}

impl NumberLoss {
    /// Whether targets are told in deviations from their mean.
    pub(super) fn scales(self) -> bool {
        self != Self::Poisson
    }

    /// The loss and its slope.
    fn of(self, output: f64, target: f64) -> (f64, f64) {
        let error = output - target;
        match self {
            Self::Squared => (0.5 * error * error, error),
            Self::Absolute => (error.abs(), if error == 0.0 { 0.0 } else { error.signum() }),
            Self::Huber(width) if error.abs() <= width => (0.5 * error * error, error),
            Self::Huber(width) => (width * (error.abs() - 0.5 * width), width * error.signum()),
            Self::Quantile(level) if error < 0.0 => (-level * error, -level),
            Self::Quantile(level) => ((1.0 - level) * error, if error > 0.0 { 1.0 - level } else { 0.0 }),
            Self::Poisson => {
                let mean = libm::exp(output.min(80.0));
                (mean - target * output, mean - target)
            }
        }
    }
}

impl Head {
    /// What such outputs tell.
    pub(super) fn task(&self) -> Task {
        match self {
            Self::Classes(_) => Task::Classification,
            Self::Number(_) => Task::Regression,
            Self::Rebuild => Task::Anomaly,
        }
    }

    /// How many outputs the network has.
    pub(super) fn width(&self, classes: usize, numbers: usize) -> usize {
        match self {
            Self::Classes(_) if classes > 2 => classes,
            Self::Classes(_) | Self::Number(_) => 1,
            Self::Rebuild => numbers.max(1),
        }
    }

    /// The mean loss of the rows, each with its weight, and its gradient.
    pub(super) fn gradient(&self, outputs: &[f32], lesson: &Lesson<'_>, gradient: &mut Vec<f32>) -> f64 {
        gradient.clear();
        let total: f64 = match self {
            Self::Classes(loss) => {
                let pairs = lesson.weights.iter().zip(lesson.targets);
                pairs.map(|(weight, target)| weight * loss.weight(*target as usize)).sum()
            }
            _ => lesson.weights.iter().sum(),
        };
        let mut sum = 0.0;
        let mut probabilities = Vec::new();
        for (row, outputs) in outputs.chunks_exact(lesson.width).enumerate() {
            let (target, weight) = (lesson.targets[row], lesson.weights[row] / total);
            match self {
                Self::Classes(loss) => {
                    let class = target as usize;
                    let weight = weight * loss.weight(class);
                    classes(outputs, &mut probabilities);
                    let (lost, factor) = loss.of(probabilities[class]);
                    sum += weight * lost;
                    // Of two, the output is the logit of the second one.
                    let first = usize::from(outputs.len() == 1);
                    let slopes = (first..).zip(&probabilities[first..]).map(|(at, probability)| {
                        (weight * factor * (f64::from(u8::from(at == class)) - probability)) as f32
                    });
                    gradient.extend(slopes);
                }
                Self::Number(loss) => {
                    let (lost, slope) = loss.of(f64::from(outputs[0]), target);
                    sum += weight * lost;
                    gradient.push((weight * slope) as f32);
                }
                Self::Rebuild => {
                    // A row without numbers is told as one zero.
                    let numbers = lesson.numbers.get(row * lesson.width..).unwrap_or(&[]);
                    let part = weight / lesson.width as f64;
                    for (output, number) in outputs.iter().zip(numbers.iter().chain(std::iter::repeat(&0.0))) {
                        let error = f64::from(*output) - f64::from(*number);
                        sum += part * error * error;
                        gradient.push((2.0 * part * error) as f32);
                    }
                }
            }
        }
        sum
    }
}

/// The probabilities of two or more classes.
pub(super) fn classes(logits: &[f32], probabilities: &mut Vec<f64>) {
    probabilities.clear();
    if let [logit] = logits {
        let yes = logistic(f64::from(*logit));
        probabilities.extend([1.0 - yes, yes]);
        return;
    }
    let most = logits.iter().fold(f32::MIN, |most, logit| most.max(*logit));
    probabilities.extend(logits.iter().map(|logit| libm::exp(f64::from(logit - most))));
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|probability| *probability /= sum);
}
