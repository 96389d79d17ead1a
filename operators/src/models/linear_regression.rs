//! Linear regression: a number, by one of several losses.

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linear::{self, Loss, Update, with_full, with_full_update, within};
use super::onnx::{self, Graph};
use super::{Design, ModelKind, TARGET_MAX, Task, Tensor, Weights};

/// Linear regression.
pub static KIND: ModelKind = Kind {
    name: "linear_regression",
    about: "A number: a weighted sum of the features.\n\n\
            Takes features and labels of any scale as they are. Errors beyond ten standard deviations of the label \
            teach no more than those of ten, so that a wild value does little harm.",
    schema: schema_of::<Config>,
    example: "update: {adagrad: {learning_rate: 0.5}}\nloss: {quantile: {level: 0.9}}",
    plan,
};

/// Settings of linear regression.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How the weights move with each example.
    update: Update,
    /// Which errors matter how much.
    loss: Errors,
}

/// Which errors matter how much.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(transform = or_bare_name)]
enum Errors {
    /// Squared error: tells the mean.
    Squared {},
    /// Absolute error: tells the median.
    Absolute {},
    /// Pinball loss: tells a value below which a certain part of the labels is.
    Quantile {
        /// That part, from 0.001 to 0.999.
        #[serde(default = "half")]
        level: f64,
    },
    /// Huber's loss: squared for small errors, and absolute for large ones.
    Huber {
        /// The largest of the small errors, in standard deviations of the label; from 0.001 to 10.
        #[serde(default = "hubers")]
        delta: f64,
    },
    /// Poisson regression of counts: the logarithm of the mean is the weighted sum. Labels below 0 count as 0.
    Poisson {},
}

const LOSSES: &[&str] = &["absolute", "huber", "poisson", "quantile", "squared"];

fn or_bare_name(schema: &mut Schema) {
    if let Some(Value::Array(forms)) = schema.get_mut("oneOf") {
        forms.push(json!({"enum": LOSSES, "description": "With its default settings."}));
    }
}

fn half() -> f64 {
    0.5
}

/// The efficiency on normal errors is 95 % with this (Huber, 1964).
fn hubers() -> f64 {
    1.345
}

impl Default for Errors {
    fn default() -> Self {
        Self::Squared {}
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let mut value = with_full_update(value)?;
    with_full(&mut value, "loss", "unknown-loss", "loss", LOSSES)?;
    let config: Config = configuration(&value)?;
    let mut problems = millstream_engine::catalogue::Problems::default();
    problems.take_all(config.update.check());
    problems.take_all(match config.loss {
        Errors::Quantile { level } => within("loss.quantile", &[("level", level, 0.001, 0.999)]),
        Errors::Huber { delta } => within("loss.huber", &[("delta", delta, 0.001, GRADIENT_MAX)]),
        Errors::Squared {} | Errors::Absolute {} | Errors::Poisson {} => Ok(()),
    });
    problems.finish()?;
    let loss = Regression { form: Form::of(config.loss), ..Regression::default() };
    Ok(linear::design(&KIND, Task::Regression, loss, config.update, &config))
}

/// Errors beyond this many standard deviations teach no more than this.
pub(super) const GRADIENT_MAX: f64 = 10.0;

/// The running mean and standard deviation of the label: weights learn how many deviations it is from its mean,
/// so the same settings suit labels of any scale.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Standard {
    count: f64,
    pub(super) mean: f64,
    /// Sum of squared differences from the mean (Welford; West, 1979, for weights).
    squares: f64,
    pub(super) deviation: f64,
}

impl Standard {
    #[inline]
    pub(super) fn observe(&mut self, target: f64, weight: f64) {
        self.count += weight;
        let difference = target - self.mean;
        self.mean += difference * (weight / self.count);
        self.squares += weight * difference * (target - self.mean);
        self.deviation = (self.squares / self.count).sqrt();
    }

    #[inline]
    pub(super) fn back(&self, sum: f64) -> f64 {
        self.mean + self.deviation * sum
    }

    /// The target in deviations; nothing, while all targets were the same: there is nothing to tell by.
    #[inline]
    pub(super) fn of(&self, target: f64) -> Option<f64> {
        (self.deviation > 0.0).then(|| (target - self.mean) / self.deviation)
    }

    /// The same in an ONNX graph as [`Standard::back`].
    pub(super) fn onnx(&self, graph: &mut Graph, sum: onnx::Edge) -> onnx::Edge {
        let apart = graph.scale(sum, self.deviation);
        graph.shift(apart, self.mean)
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        vec![
            Tensor::row("label_mean", vec![self.mean]),
            Tensor::row("label_deviation", vec![self.deviation]),
            Tensor::row("label_count", vec![self.count]),
        ]
    }

    /// Takes it from others.
    fn take(&mut self, from: &mut Weights) -> Result<(), String> {
        self.mean = from.one("label_mean", -TARGET_MAX, TARGET_MAX)?;
        self.deviation = from.one("label_deviation", 0.0, TARGET_MAX)?;
        self.count = from.one("label_count", 0.0, 1e15)?;
        self.squares = self.deviation * self.deviation * self.count;
        Ok(())
    }
}

/// The derivative of a loss.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Form {
    /// The error, at most so much.
    Bounded(f64),
    /// What an error below the target counts, and one above.
    Sides(f64, f64),
    /// Of the logarithm of the mean.
    Poisson,
}

impl Form {
    fn of(errors: Errors) -> Self {
        match errors {
            Errors::Squared {} => Self::Bounded(GRADIENT_MAX),
            Errors::Huber { delta } => Self::Bounded(delta),
            // Twice the level, so that steps are as long as those of other losses.
            Errors::Absolute {} => Self::Sides(1.0, 1.0),
            Errors::Quantile { level } => Self::Sides(2.0 * level, 2.0 * (1.0 - level)),
            Errors::Poisson {} => Self::Poisson,
        }
    }
}

/// A loss of the standardised label; for Poisson, of the label divided by its mean.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Regression {
    form: Form,
    label: Standard,
}

impl Default for Regression {
    fn default() -> Self {
        Self { form: Form::of(Errors::default()), label: Standard::default() }
    }
}

/// The largest magnitude of a logarithm.
const LOG_MAX: f64 = 50.0;

impl Loss for Regression {
    const OVERSHOOTS: bool = true;

    #[inline]
    fn output(&self, sum: f64) -> f64 {
        match self.form {
            Form::Poisson => self.label.mean * libm::exp(sum.clamp(-LOG_MAX, LOG_MAX)),
            _ => self.label.back(sum),
        }
    }

    #[inline]
    fn observe(&mut self, target: f64, weight: f64) {
        self.label.observe(if matches!(self.form, Form::Poisson) { target.max(0.0) } else { target }, weight);
    }

    #[inline]
    fn gradient(&self, sum: f64, _: f64, target: f64) -> f64 {
        match self.form {
            Form::Poisson if self.label.mean == 0.0 => 0.0,
            Form::Poisson => {
                let mean = libm::exp(sum.clamp(-LOG_MAX, LOG_MAX));
                (mean - target.max(0.0) / self.label.mean).clamp(-GRADIENT_MAX, GRADIENT_MAX)
            }
            Form::Bounded(most) => self.label.of(target).map_or(0.0, |wanted| (sum - wanted).max(-most).min(most)),
            Form::Sides(below, above) => self
                .label
                .of(target)
                .map_or(0.0, |wanted| if sum < wanted { -below } else { f64::from(sum > wanted) * above }),
        }
    }

    #[inline]
    fn damping(&self, sum: f64, target: f64, gradient: f64, reach: f64) -> f64 {
        if gradient == 0.0 {
            return 1.0;
        }
        let whole = reach * gradient.abs();
        match self.form {
            Form::Poisson => {
                let wanted = libm::log(target.max(0.0) / self.label.mean).max(-LOG_MAX);
                let curve = 1.0 / (1.0 + reach * libm::exp(sum.clamp(-LOG_MAX, LOG_MAX)));
                curve.min((sum - wanted).abs() / whole)
            }
            Form::Bounded(_) => {
                let error = self.label.of(target).map_or(0.0, |wanted| (sum - wanted).abs());
                (error / gradient.abs() / (1.0 + reach)).min(1.0)
            }
            Form::Sides(..) => {
                let error = self.label.of(target).map_or(0.0, |wanted| (sum - wanted).abs());
                if whole > error { error / whole } else { 1.0 }
            }
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.label.tensors()
    }

    fn take(&mut self, weights: &mut Weights) -> Result<(), String> {
        self.label.take(weights)
    }

    fn onnx(&self, graph: &mut Graph, sum: onnx::Edge) -> onnx::Edge {
        match self.form {
            Form::Poisson => {
                let sum = graph.clamp(sum, -LOG_MAX, LOG_MAX);
                let rate = graph.apply("Exp", &[sum]);
                graph.scale(rate, self.label.mean)
            }
            _ => self.label.onnx(graph, sum),
        }
    }

    fn says(&self) -> &'static str {
        match self.form {
            Form::Poisson => ", of which the exponential is taken times the label's mean",
            _ => ", in standard deviations of the label from its mean",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::samples::{Pupil, Random};
    use super::super::{Shape, plan};

    /// What is told at x = 0 and x = 1, learned from labels of any unit.
    fn told(loss: &Value, unit: f64, mut label: impl FnMut(&mut Random, f64) -> f64) -> [f64; 2] {
        let mut random = Random::seeded(31);
        let model = json!({"linear_regression": {"loss": loss, "update": {"adagrad": {"fading": 0.0}}}});
        let mut pupil = Pupil::new(&model, Shape { dense: 1, active: 0, categories: 0, classes: 0 });
        for _ in 0..20_000 {
            let x = random.uniform();
            let target = unit * label(&mut random, x);
            pupil.learn(&[1e5 * x], &[], target);
        }
        [0.0, 1e5].map(|x| pupil.predict(&[x], &[]) / unit)
    }

    fn close(loss: &Value, told: [f64; 2], wanted: [f64; 2], within: f64) {
        println!("{loss}: {told:?}");
        let near = told.iter().zip(wanted).all(|(told, wanted)| (told - wanted).abs() < within);
        assert!(near, "{loss}: {told:?}, wanted {wanted:?}");
    }

    /// Of an exponential label with mean 1: the mean, the median, quantiles.
    #[test]
    fn each_loss_tells_what_it_is_for() {
        let skewed = |random: &mut Random, x: f64| 5.0 * x - libm::log(1.0 - random.uniform());
        for unit in [1e-6, 1.0, 1e6] {
            for (loss, constant, within) in [
                (json!("squared"), 1.0, 0.15),
                (json!("absolute"), 0.693, 0.15),
                (json!({"quantile": {"level": 0.9}}), 2.303, 0.35),
                (json!({"quantile": {"level": 0.1}}), 0.105, 0.15),
            ] {
                close(&loss, told(&loss, unit, skewed), [constant, 5.0 + constant], within);
            }
        }
    }

    #[test]
    fn huber_hardly_follows_outliers() {
        let label =
            |random: &mut Random, x: f64| 5.0 * x + if random.uniform() < 0.02 { 500.0 } else { 0.3 * random.normal() };
        // A deviation of the label is about 70.
        let loss = json!({"huber": {"delta": 0.01}});
        close(&loss, told(&loss, 1.0, label), [0.0, 5.0], 1.0);
    }

    #[test]
    fn poisson_tells_rates() {
        let label = |random: &mut Random, x: f64| {
            let (rate, mut count, mut product) = ((1.0 + 2.0 * x).exp(), 0.0, random.uniform());
            while product > (-rate).exp() {
                product *= random.uniform();
                count += 1.0;
            }
            count
        };
        close(&json!("poisson"), told(&json!("poisson"), 1.0, label), [std::f64::consts::E, 20.09], 2.0);
    }

    #[test]
    fn all_problems_are_told() {
        let both = json!({"linear_regression": {"update": {"sgd": {"l2": -1}}, "loss": {"quantile": {"level": 1}}}});
        let paths: Vec<String> = plan(&both).err().expect("problems").iter().map(|p| p.path.join(".")).collect();
        assert_eq!(paths, ["linear_regression.update.sgd.l2", "linear_regression.loss.quantile.level"]);
        let unknown = plan(&json!({"linear_regression": {"loss": "squarred"}})).err().expect("problems");
        assert_eq!((unknown[0].code, unknown[0].path.join(".").as_str()), ("unknown-loss", "linear_regression.loss"));
    }
}
