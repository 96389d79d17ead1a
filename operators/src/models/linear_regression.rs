//! Linear regression: a number.

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::linear::{self, Config, Loss};
use super::{Design, ModelKind, Task, Tensor};

/// Linear regression.
pub static KIND: ModelKind = Kind {
    name: "linear_regression",
    about: "A number: a weighted sum of the features, by squared error.\n\n\
            Takes features and labels of any scale as they are. Errors beyond ten standard deviations of the label \
            teach no more than those of ten, so that a wild value does little harm.",
    schema: schema_of::<Config>,
    example: "update: {adagrad: {learning_rate: 0.1}}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    linear::plan::<Squared>(&KIND, Task::Regression, value)
}

/// Errors beyond this many standard deviations teach no more than this.
const GRADIENT_MAX: f64 = 10.0;

/// Squared error of the standardised target: the weights learn how many standard deviations it is from its mean,
/// so the same settings suit targets of any scale.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Squared {
    count: f64,
    mean: f64,
    /// Sum of squared differences from the mean (Welford).
    squares: f64,
    deviation: f64,
}

impl Loss for Squared {
    const OVERSHOOTS: bool = true;

    #[inline]
    fn output(&self, sum: f64) -> f64 {
        self.mean + self.deviation * sum
    }

    #[inline]
    fn observe(&mut self, target: f64) {
        self.count += 1.0;
        let difference = target - self.mean;
        self.mean += difference / self.count;
        self.squares += difference * (target - self.mean);
        self.deviation = (self.squares / self.count).sqrt();
    }

    #[inline]
    fn gradient(&self, sum: f64, _: f64, target: f64) -> f64 {
        // While all targets were the same, there is nothing to tell by.
        if self.deviation == 0.0 {
            return 0.0;
        }
        (sum - (target - self.mean) / self.deviation).clamp(-GRADIENT_MAX, GRADIENT_MAX)
    }

    fn tensors(&self) -> Vec<Tensor> {
        vec![Tensor::row("label_mean", vec![self.mean]), Tensor::row("label_deviation", vec![self.deviation])]
    }
}
