//! A device of its own, by candle: its tensors, and its gradients.
//!
//! The parameters lie there in one vector, beside the moments of the optimiser; of each mini-batch the rows go there, and the outputs and
//! one length come back. The loss is the processor's: a device's way back begins at the gradient of the outputs. Embeddings stay with the
//! processor, and only the rows that a mini-batch needs go to and fro.

use candle_core::{D, Device as Place, Result, Tensor, Var};

use super::compute::{Compute, EPSILON, Failed, Inputs, Learning, MOMENTUM, View};
use super::graph::{Function, Graph, Node, Operation};
use super::optimizer::{Rule, Step};

/// Runs a network on a device.
pub(super) struct Device {
    place: Place,
    output: Node,
    /// All parameters.
    values: Tensor,
    /// Of each kind of moment, all.
    moments: Vec<Tensor>,
    /// What the last way forward has left for the way back.
    tape: Option<Tape>,
    outputs: Vec<f32>,
    gradients: Option<Tensor>,
    embeddings: Vec<f32>,
}

struct Tape {
    parameters: Vec<Var>,
    embeddings: Option<Var>,
    output: Tensor,
}

impl From<candle_core::Error> for Failed {
    fn from(error: candle_core::Error) -> Self {
        Self(error.to_string())
    }
}

impl Device {
    /// With these parameters and moments.
    pub(super) fn new(
        place: Place,
        graph: &Graph,
        output: Node,
        values: &[f32],
        moments: &[f32],
    ) -> std::result::Result<Self, Failed> {
        let len = graph.len();
        let kinds = moments.chunks_exact(len.max(1));
        let moments = kinds.map(|kind| Tensor::from_slice(kind, len, &place)).collect::<Result<_>>()?;
        let values = Tensor::from_slice(values, len, &place)?;
        Ok(Self {
            place,
            output,
            values,
            moments,
            tape: None,
            outputs: Vec::new(),
            gradients: None,
            embeddings: Vec::new(),
        })
    }

    fn run(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
    ) -> Result<()> {
        let place = &self.place;
        let values =
            if weights.are_own { self.values.clone() } else { Tensor::from_slice(weights.values, graph.len(), place)? };
        let parts = graph.parameters().iter().map(|parameter| {
            let part = values.narrow(0, parameter.range.start, parameter.range.len())?;
            Var::from_tensor(&part.reshape(parameter.shape.as_slice())?)
        });
        let parameters = parts.collect::<Result<Vec<Var>>>()?;
        let rows = inputs.rows;
        let mut embeddings = None;
        let mut nodes: Vec<Option<Tensor>> = vec![None; graph.nodes()];
        for (at, operation) in graph.operations() {
            let width = graph.width(Node(at));
            let of = |node: &Node| nodes[node.0].as_ref().expect("an operation comes after those that it needs");
            let parameter = |parameter: &usize| parameters[*parameter].as_tensor();
            let node = match operation {
                Operation::Numbers => Tensor::from_slice(inputs.numbers, (rows, width), place)?,
                Operation::Zeros => Tensor::zeros((rows, width), candle_core::DType::F32, place)?,
                Operation::Embeddings => {
                    let mut gathered = vec![0.0; rows * width];
                    let size = graph.embedding().max(1);
                    for (to, category) in gathered.chunks_exact_mut(size).zip(inputs.active) {
                        if let Some(row) = weights.table.row(*category) {
                            to.copy_from_slice(row);
                        }
                    }
                    let var = Var::from_vec(gathered, (rows, width), place)?;
                    embeddings.insert(var).as_tensor().clone()
                }
                Operation::Dense { input, weights, bias } => {
                    let bias = parameter(bias);
                    if graph.width(*input) == 0 {
                        bias.broadcast_as((rows, width))?.contiguous()?
                    } else {
                        of(input).matmul(parameter(weights))?.broadcast_add(bias)?
                    }
                }
                Operation::Activate { input, function } => activate(of(input), *function)?,
                Operation::LayerNorm { input, gain, shift } => {
                    let centred = of(input).broadcast_sub(&of(input).mean_keepdim(D::Minus1)?)?;
                    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                    let normal = centred.broadcast_div(&(variance + f64::from(EPSILON))?.sqrt()?)?;
                    normal.broadcast_mul(parameter(gain))?.broadcast_add(parameter(shift))?
                }
                Operation::BatchNorm { input, gain, shift, statistics } => {
                    let (means, variances) = if let Some(Learning { statistics: past, .. }) = &mut learning {
                        let means = of(input).mean_keepdim(0)?;
                        let variances = of(input).broadcast_sub(&means)?.sqr()?.mean_keepdim(0)?;
                        let past = &mut past[*statistics..][..2 * width];
                        let more = rows as f32 / (rows as f32 - 1.0).max(1.0);
                        let new = Tensor::cat(&[&means, &(&variances * f64::from(more))?], 1)?;
                        for (past, new) in past.iter_mut().zip(new.flatten_all()?.to_vec1::<f32>()?) {
                            *past += MOMENTUM * (new - *past);
                        }
                        (means, variances)
                    } else {
                        let past = &weights.statistics[*statistics..][..2 * width];
                        let row = |numbers: &[f32]| Tensor::from_slice(numbers, (1, width), place);
                        (row(&past[..width])?, row(&past[width..])?)
                    };
                    let scale = (variances + f64::from(EPSILON))?.sqrt()?.recip()?;
                    let normal = of(input).broadcast_sub(&means)?.broadcast_mul(&scale)?;
                    normal.broadcast_mul(parameter(gain))?.broadcast_add(parameter(shift))?
                }
                Operation::Dropout { input, rate } => match &mut learning {
                    Some(Learning { random, .. }) => {
                        let (rate, scale) = (f64::from(*rate), 1.0 / (1.0 - rate));
                        let mask = (0..rows * width).map(|_| if random.uniform() < rate { 0.0 } else { scale });
                        (of(input) * Tensor::from_vec(mask.collect(), (rows, width), place)?)?
                    }
                    None => of(input).clone(),
                },
                Operation::Add { left, right, factor } => (of(left) + (of(right) * f64::from(*factor))?)?,
                Operation::Multiply { left, right } => (of(left) * of(right))?,
                Operation::Concat { parts } => {
                    let parts: Vec<&Tensor> = parts.iter().map(of).collect();
                    Tensor::cat(&parts, 1)?
                }
                Operation::Slice { input, start } => of(input).narrow(1, *start, width)?.contiguous()?,
            };
            nodes[at] = Some(node);
        }
        let output = nodes[self.output.0].take().expect("the output is among the operations");
        self.outputs = output.flatten_all()?.to_vec1()?;
        self.tape = Some(Tape { parameters, embeddings, output });
        Ok(())
    }

    fn back(&mut self, gradient: &[f32]) -> Result<f64> {
        let Some(Tape { parameters, embeddings, output }) = self.tape.take() else {
            candle_core::bail!("there is no way back without one forward");
        };
        // What has this as its gradient is the sum of the products.
        let gradient = Tensor::from_slice(gradient, output.shape(), &self.place)?;
        let store = (output * gradient)?.sum_all()?.backward()?;
        let of = |var: &Var| match store.get(var.as_tensor()) {
            Some(gradient) => gradient.flatten_all(),
            None => var.as_tensor().zeros_like()?.detach().flatten_all(),
        };
        let gradients = Tensor::cat(&parameters.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?;
        self.embeddings = embeddings.as_ref().map_or(Ok(Vec::new()), |var| of(var)?.to_vec1())?;
        let squares = gradients.sqr()?.sum_all()?.to_scalar::<f32>()?;
        self.gradients = Some(gradients);
        Ok(f64::from(squares))
    }

    fn step(&mut self, rule: &Rule, step: Step, factor: f32) -> Result<()> {
        let Some(gradients) = self.gradients.take() else { candle_core::bail!("there are no gradients") };
        let (rate, decay) = (f64::from(step.rate), f64::from(step.decay));
        let mut gradients = if factor < 1.0 { (gradients * f64::from(factor))? } else { gradients };
        if decay > 0.0 && !matches!(rule, Rule::Adamw { .. }) {
            gradients = (gradients + (&self.values * decay)?)?;
        }
        self.values = match *rule {
            Rule::Sgd { momentum, .. } => {
                if let [kept] = &mut self.moments[..] {
                    gradients = ((&*kept * f64::from(momentum as f32))? + gradients)?;
                    *kept = gradients.clone();
                }
                (&self.values - (gradients * rate)?)?
            }
            Rule::Adagrad { epsilon, .. } => {
                let kept = &mut self.moments[0];
                *kept = (&*kept + gradients.sqr()?)?;
                (&self.values - ((gradients * rate)? / (kept.sqrt()? + epsilon)?)?)?
            }
            Rule::Adamw { beta1, beta2, epsilon, .. } => {
                let (length, scale) = step.corrections(beta1, beta2);
                let [first, second] = &mut self.moments[..] else { candle_core::bail!("there are no two moments") };
                *first = ((&*first * beta1)? + (&gradients * (1.0 - beta1))?)?;
                *second = ((&*second * beta2)? + (gradients.sqr()? * (1.0 - beta2))?)?;
                let root = second.sqrt()?.affine(f64::from(scale), epsilon)?;
                let moved = ((&*first * f64::from(length))? / root)?;
                ((&self.values * (1.0 - rate * decay))? - moved)?
            }
        };
        Ok(())
    }
}

fn activate(x: &Tensor, function: Function) -> Result<Tensor> {
    match function {
        Function::Relu => x.relu(),
        Function::Silu => x.silu(),
        Function::Gelu => x.gelu(),
        Function::Tanh => x.tanh(),
        Function::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
    }
}

impl Compute for Device {
    fn forward(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        learning: Option<Learning<'_>>,
    ) -> std::result::Result<(), Failed> {
        Ok(self.run(graph, weights, inputs, learning)?)
    }

    fn outputs(&self) -> &[f32] {
        &self.outputs
    }

    fn backward(&mut self, _: &Graph, _: View<'_>, gradient: &[f32]) -> std::result::Result<f64, Failed> {
        Ok(self.back(gradient)?)
    }

    fn embeddings(&self, _: &Graph) -> &[f32] {
        &self.embeddings
    }

    fn update(
        &mut self,
        _: &mut [f32],
        _: &mut [f32],
        rule: &Rule,
        step: Step,
        factor: f32,
    ) -> std::result::Result<(), Failed> {
        Ok(self.step(rule, step, factor)?)
    }

    fn read(&mut self, values: &mut [f32], moments: &mut [f32]) -> std::result::Result<(), Failed> {
        values.copy_from_slice(&self.values.to_vec1::<f32>()?);
        for (to, from) in moments.chunks_exact_mut(values.len().max(1)).zip(&self.moments) {
            to.copy_from_slice(&from.to_vec1::<f32>()?);
        }
        Ok(())
    }

    fn is_device(&self) -> bool {
        true
    }
}
