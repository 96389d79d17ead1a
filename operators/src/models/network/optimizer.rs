//! How parameters move along their gradients.

use pulp::Arch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::ranges::Ranges;

/// How the weights move with each mini-batch.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Rule {
    /// Steps along the gradient, with momentum (Sutskever and others 2013, as `PyTorch` has it).
    Sgd {
        /// The learning rate, above 0 and at most 10.
        rate: f64,
        /// How much of the last step is in the next one, from 0 to 0.9999.
        #[serde(default)]
        momentum: f64,
        /// How much weights shrink, from 0 to 1: this times the weight is added to its gradient.
        #[serde(default)]
        decay: f64,
    },
    /// Each weight's steps become smaller with the squares of its gradients (Duchi, Hazan, Singer 2011).
    Adagrad {
        /// The learning rate, above 0 and at most 10.
        rate: f64,
        /// What keeps the first steps from being too long, from 1e-12 to 1.
        #[serde(default = "adagrad_epsilon")]
        epsilon: f64,
        /// How much weights shrink, from 0 to 1: this times the weight is added to its gradient.
        #[serde(default)]
        decay: f64,
    },
    /// Adaptive moments with decoupled weight decay (Loshchilov and Hutter 2019).
    Adamw {
        /// The learning rate, above 0 and at most 10.
        rate: f64,
        /// How much of the past is in the mean of the gradients, from 0 to 0.9999.
        #[serde(default = "beta1")]
        beta1: f64,
        /// How much of the past is in the mean of their squares, from 0 to 0.999999.
        #[serde(default = "beta2")]
        beta2: f64,
        /// What keeps the first steps from being too long, from 1e-12 to 1.
        #[serde(default = "adamw_epsilon")]
        epsilon: f64,
        /// How much weights shrink with each step, in parts of the rate, from 0 to 1.
        #[serde(default = "decay")]
        decay: f64,
    },
}

fn adagrad_epsilon() -> f64 {
    1e-10
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn adamw_epsilon() -> f64 {
    1e-8
}

fn decay() -> f64 {
    0.01
}

impl Default for Rule {
    fn default() -> Self {
        Self::Adamw { rate: 0.001, beta1: beta1(), beta2: beta2(), epsilon: adamw_epsilon(), decay: decay() }
    }
}

impl Rule {
    /// Notes what is out of range.
    pub(super) fn check(&self, ranges: Ranges) -> Ranges {
        match *self {
            Self::Sgd { rate, momentum, decay } => ranges
                .within("optimizer.sgd.rate", rate, 1e-9, 10.0)
                .within("optimizer.sgd.momentum", momentum, 0.0, 0.9999)
                .within("optimizer.sgd.decay", decay, 0.0, 1.0),
            Self::Adagrad { rate, epsilon, decay } => ranges
                .within("optimizer.adagrad.rate", rate, 1e-9, 10.0)
                .within("optimizer.adagrad.epsilon", epsilon, 1e-12, 1.0)
                .within("optimizer.adagrad.decay", decay, 0.0, 1.0),
            Self::Adamw { rate, beta1, beta2, epsilon, decay } => ranges
                .within("optimizer.adamw.rate", rate, 1e-9, 10.0)
                .within("optimizer.adamw.beta1", beta1, 0.0, 0.9999)
                .within("optimizer.adamw.beta2", beta2, 0.0, 0.999_999)
                .within("optimizer.adamw.epsilon", epsilon, 1e-12, 1.0)
                .within("optimizer.adamw.decay", decay, 0.0, 1.0),
        }
    }

    pub(super) fn rate(&self) -> f64 {
        match *self {
            Self::Sgd { rate, .. } | Self::Adagrad { rate, .. } | Self::Adamw { rate, .. } => rate,
        }
    }

    /// How much weights shrink.
    pub(super) fn decay(&self) -> f32 {
        match *self {
            Self::Sgd { decay, .. } | Self::Adagrad { decay, .. } | Self::Adamw { decay, .. } => decay as f32,
        }
    }

    /// How many numbers it keeps for each weight.
    pub(super) fn moments(&self) -> usize {
        match *self {
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::Sgd { .. } | Self::Adagrad { .. } => 1,
            Self::Adamw { .. } => 2,
        }
    }

    /// Makes a step. `moments` are as many as the values for each of [`Rule::moments`], one kind after the other. Every number is its
    /// own: nothing depends on how many come together.
    pub(super) fn update(&self, values: &mut [f32], gradients: &[f32], moments: &mut [f32], step: Step) {
        let Step { rate, decay, .. } = step;
        let len = values.len();
        let arch = Arch::new();
        match *self {
            Self::Sgd { momentum: 0.0, .. } => arch.dispatch(
                #[inline(always)]
                || {
                    for (value, gradient) in values.iter_mut().zip(gradients) {
                        *value -= rate * (gradient + decay * *value);
                    }
                },
            ),
            Self::Sgd { momentum, .. } => {
                let momentum = momentum as f32;
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for ((value, gradient), kept) in values.iter_mut().zip(gradients).zip(moments) {
                            *kept = momentum * *kept + (gradient + decay * *value);
                            *value -= rate * *kept;
                        }
                    },
                );
            }
            Self::Adagrad { epsilon, .. } => {
                let epsilon = epsilon as f32;
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for ((value, gradient), kept) in values.iter_mut().zip(gradients).zip(moments) {
                            let gradient = gradient + decay * *value;
                            *kept += gradient * gradient;
                            *value -= rate * gradient / (kept.sqrt() + epsilon);
                        }
                    },
                );
            }
            Self::Adamw { beta1, beta2, epsilon, .. } => {
                let (length, scale) = step.corrections(beta1, beta2);
                let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
                let (beta1, beta2, epsilon) = (beta1 as f32, beta2 as f32, epsilon as f32);
                let shrunk = 1.0 - rate * decay;
                let (first, second) = moments.split_at_mut(len);
                arch.dispatch(
                    #[inline(always)]
                    || {
                        let kept = first.iter_mut().zip(second);
                        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradients).zip(kept) {
                            *first = beta1 * *first + rest1 * gradient;
                            *second = beta2 * *second + rest2 * (gradient * gradient);
                            *value = shrunk * *value - length * *first / (second.sqrt() * scale + epsilon);
                        }
                    },
                );
            }
        }
    }
}

/// One step of an optimiser.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Which it is, from 1.
    pub(super) number: u64,
    pub(super) rate: f32,
    pub(super) decay: f32,
}

impl Step {
    /// The rate of `AdamW`, and the factor on the root of the second moment: corrected for moments that begin at 0.
    pub(super) fn corrections(self, beta1: f64, beta2: f64) -> (f32, f32) {
        let rest = |beta: f64| 1.0 - libm::pow(beta, self.number as f64);
        ((f64::from(self.rate) / rest(beta1)) as f32, (1.0 / rest(beta2).sqrt()) as f32)
    }
}

/// How long steps are in the course of time.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Schedule {
    /// Over so many steps the rate grows from 0 to what it is.
    warm_up_steps: u32,
    /// What it does then.
    then: Course,
}

/// What a rate does after it has grown.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Course {
    /// It stays: what never stops learning keeps up with what changes.
    #[default]
    Constant,
    /// It falls along half a cosine (Loshchilov and Hutter 2017).
    Cosine {
        /// Over how many steps, from 1.
        steps: u32,
        /// To which part of the rate, from 0 to 1.
        to: f64,
    },
    /// It falls with the square root of the steps.
    InverseSquareRoot {
        /// From which step on, from 1.
        from_steps: u32,
    },
    /// It falls all at once, now and then.
    Stairs {
        /// After how many steps, from 1.
        every_steps: u32,
        /// By what, from 0.000001 to 1.
        factor: f64,
    },
}

impl Schedule {
    /// Notes what is out of range.
    pub(super) fn check(&self, ranges: Ranges) -> Ranges {
        match self.then {
            Course::Constant => ranges,
            Course::Cosine { steps, to } => ranges
                .within("schedule.then.cosine.steps", f64::from(steps), 1.0, 1e9)
                .within("schedule.then.cosine.to", to, 0.0, 1.0),
            Course::InverseSquareRoot { from_steps } => {
                ranges.within("schedule.then.inverse_square_root.from_steps", f64::from(from_steps), 1.0, 1e9)
            }
            Course::Stairs { every_steps, factor } => ranges
                .within("schedule.then.stairs.every_steps", f64::from(every_steps), 1.0, 1e9)
                .within("schedule.then.stairs.factor", factor, 1e-6, 1.0),
        }
    }

    /// Which part of the rate step number `step`, counted from 1, has.
    pub(super) fn part(&self, step: u64) -> f64 {
        let (step, warm_up) = (step as f64, f64::from(self.warm_up_steps));
        if step <= warm_up {
            return step / warm_up;
        }
        let since = step - warm_up;
        match self.then {
            Course::Constant => 1.0,
            Course::Cosine { steps, to } => {
                let turn = std::f64::consts::PI * (since / f64::from(steps)).min(1.0);
                to + (1.0 - to) * 0.5 * (1.0 + libm::cos(turn))
            }
            Course::InverseSquareRoot { from_steps } => (f64::from(from_steps) / since).sqrt().min(1.0),
            Course::Stairs { every_steps, factor } => libm::pow(factor, (since / f64::from(every_steps)).floor()),
        }
    }
}
