//! A device of its own, by candle: its tensors, and a way back over them.
//!
//! The parameters lie there in one vector, beside the moments of the optimiser; of each mini-batch the rows go there, and the outputs and
//! the squares of the gradient come back. The loss is the processor's: a device's way back begins at the gradient of the outputs.
//! Embeddings stay with the processor, and only the rows that a mini-batch needs go to and fro.
//!
//! Each time that something comes back the processor waits: once forward, once back, and once more after rows that have moved the parameters. A model may be
//! learned by one thread now and another then, each of which has a stream of its own on a GPU, so nothing is under way in between.

use candle_core::{DType, Device as Place, Result, Tensor};
use millstream_engine::part::Part;

use super::compute::{Compute, Failed, Inputs, Learning, View};
use super::graph::{Graph, Node};
use super::norms::remember;
use super::numbers::Numbers;
use super::optimizer::{Rule, Step};
use super::tape::{Tape, keep_sizes, scaled};

/// The squares of so many gradients are summed on the device, and those sums on the processor, at its precision.
const BLOCK: usize = 1024;

/// Runs a network on a device.
pub(super) struct Device {
    place: Place,
    output: Node,
    /// How many parameters there are.
    len: usize,
    /// All parameters, and zeros up to whole blocks.
    values: Tensor,
    /// Of each kind of moment, as many.
    moments: Vec<Tensor>,
    /// Zeros, as many as the parameters lack to whole blocks.
    padding: Tensor,
    /// A row of ones, as many as the last mini-batch had rows.
    ones: Tensor,
    /// What the last way forward has left for the way back.
    tape: Option<Tape>,
    outputs: Vec<f32>,
    /// Those of the parameters, and their squares.
    gradients: Option<[Tensor; 2]>,
    embeddings: Vec<f32>,
}

impl From<candle_core::Error> for Failed {
    /// Without the trace that comes with it where `RUST_BACKTRACE` is set.
    fn from(error: candle_core::Error) -> Self {
        Self(error.to_string().lines().next().unwrap_or_default().to_owned())
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
        let (len, whole_len) = (graph.len(), blocks(graph.len()) * BLOCK);
        let whole = |numbers: &[f32]| {
            let mut numbers = numbers.to_vec();
            numbers.resize(whole_len, 0.0);
            Tensor::from_vec(numbers, whole_len, &place)
        };
        let moments = moments.chunks_exact(len.max(1)).map(whole).collect::<Result<_>>()?;
        let (values, ones) = (whole(values)?, Tensor::ones((1, 1), DType::F32, &place)?);
        let padding = Tensor::zeros(whole_len - len, DType::F32, &place)?;
        place.synchronize()?;
        Ok(Self {
            place,
            output,
            len,
            values,
            moments,
            padding,
            ones,
            tape: None,
            outputs: Vec::new(),
            gradients: None,
            embeddings: Vec::new(),
        })
    }

    /// The gradients of all parameters.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Result<Vec<f32>> {
        let [gradients, _] = self.gradients.as_ref().expect("after the way back");
        gradients.narrow(0, 0, self.len)?.to_vec1()
    }

    fn run(
        &mut self,
        graph: &Graph,
        view: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
    ) -> Result<()> {
        let values =
            if view.are_own { self.values.clone() } else { Tensor::from_slice(view.values, graph.len(), &self.place)? };
        let mut tape = Tape::new(graph, &values, inputs.rows, inputs.rows == self.ones.elem_count())?;
        let reborrowed = learning.as_mut().map(|Learning { random, statistics }| Learning { random, statistics });
        tape.forward(graph, &self.place, view, inputs, reborrowed)?;
        let mut back = vec![tape.node(self.output)];
        back.extend(tape.moments.iter().map(|(_, moments)| moments));
        self.outputs = bring(&back)?;
        let moments = self.outputs.split_off(inputs.rows * graph.width(self.output));
        if let Some(Learning { statistics, .. }) = learning {
            let mut rest = &moments[..];
            for (at, new) in &tape.moments {
                let (new, others) = rest.split_at(new.elem_count());
                remember(new, &mut statistics[*at..][..new.len()], inputs.rows);
                rest = others;
            }
        }
        self.tape = Some(tape);
        Ok(())
    }

    fn back(&mut self, graph: &Graph, gradient: &[f32]) -> Result<f64> {
        let Some(tape) = self.tape.take() else {
            candle_core::bail!("there is no way back without one forward");
        };
        if self.ones.elem_count() != tape.rows {
            self.ones = Tensor::ones((1, tape.rows), DType::F32, &self.place)?;
        }
        let gradient = Tensor::from_slice(gradient, (tape.rows, graph.width(self.output)), &self.place)?;
        let sizes = keep_sizes(&self.place);
        let mut back = tape.back(graph, &self.ones, self.output, gradient)?;
        let blocks = blocks(self.len);
        let gradients = back.of_parameters(&self.padding)?;
        let squares = gradients.sqr()?;
        let sums = squares.reshape((blocks, BLOCK))?.sum(1)?;
        drop(sizes);
        self.embeddings = match back.of_embeddings() {
            Some(embeddings) => bring(&[&sums, embeddings])?,
            None => bring(&[&sums])?,
        };
        self.gradients = Some([gradients, squares]);
        Ok(self.embeddings.drain(..blocks).map(f64::from).sum())
    }

    fn step(&mut self, rule: &Rule, step: Step, factor: f32) -> Result<()> {
        let Some([gradients, squares]) = self.gradients.take() else { candle_core::bail!("there are no gradients") };
        let (rate, decay, factor) = (f64::from(step.rate), f64::from(step.decay), f64::from(factor));
        let values = &self.values;
        self.values = match *rule {
            Rule::Sgd { momentum, .. } => {
                if let [kept] = &mut self.moments[..] {
                    *kept = blend([(kept, f64::from(momentum as f32)), (&gradients, factor), (values, decay)])?;
                    blend([(values, 1.0), (kept, -rate)])?
                } else {
                    blend([(values, 1.0 - rate * decay), (&gradients, -rate * factor)])?
                }
            }
            Rule::Adagrad { epsilon, .. } => {
                let gradients = blend([(&gradients, factor), (values, decay)])?;
                let kept = &mut self.moments[0];
                *kept = (&*kept + gradients.sqr()?)?;
                (values - scaled(&(gradients / kept.sqrt()?.affine(1.0, epsilon)?)?, rate)?)?
            }
            Rule::Adamw { beta1, beta2, epsilon, .. } => {
                let (length, scale) = step.corrections(beta1, beta2);
                let [first, second] = &mut self.moments[..] else { candle_core::bail!("there are no two moments") };
                *first = blend([(first, beta1), (&gradients, (1.0 - beta1) * factor)])?;
                *second = blend([(second, beta2), (&squares, (1.0 - beta2) * factor * factor)])?;
                // Not by a root that is divided by the length: a schedule may let that become 0.
                let root = second.sqrt()?.affine(f64::from(scale), epsilon)?;
                (scaled(values, 1.0 - rate * decay)? - scaled(&(&*first / root)?, f64::from(length))?)?
            }
        };
        Ok(())
    }
}

/// How many blocks hold so many numbers and at least one zero.
fn blocks(len: usize) -> usize {
    len / BLOCK + 1
}

/// The sum of tensors, each times its number.
fn blend<const N: usize>(parts: [(&Tensor, f64); N]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (tensor, factor) in parts.into_iter().filter(|(_, factor)| *factor != 0.0) {
        let part = scaled(tensor, factor)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    sum.map_or_else(|| parts[0].0.zeros_like(), Ok)
}

/// Brings tensors to the processor, all by one copy.
fn bring(tensors: &[&Tensor]) -> Result<Vec<f32>> {
    let flat = tensors.iter().map(|tensor| tensor.flatten_all()).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)?.to_vec1()
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

    fn backward(&mut self, graph: &Graph, _: View<'_>, gradient: &[f32]) -> std::result::Result<f64, Failed> {
        Ok(self.back(graph, gradient)?)
    }

    fn embeddings(&self, _: &Graph) -> &[f32] {
        &self.embeddings
    }

    fn update(
        &mut self,
        _: &mut Part<Numbers>,
        _: &mut Part<Numbers>,
        rule: &Rule,
        step: Step,
        factor: f32,
    ) -> std::result::Result<(), Failed> {
        Ok(self.step(rule, step, factor)?)
    }

    fn read(&mut self, values: &mut Part<Numbers>, moments: &mut Part<Numbers>) -> std::result::Result<(), Failed> {
        let mut all = vec![&self.values];
        all.extend(&self.moments);
        let numbers = bring(&all)?;
        let mut kinds = numbers.chunks_exact(self.values.elem_count().max(1)).map(|kind| &kind[..self.len]);
        // What is there is not copied for those who share it, since nothing of it stays.
        *values = Part::new(kinds.next().unwrap_or_default().to_vec().into());
        *moments = Part::new(kinds.flatten().copied().collect::<Vec<f32>>().into());
        Ok(())
    }

    fn is_device(&self) -> bool {
        true
    }
}
