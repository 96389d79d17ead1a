//! A device of its own, by candle: its tensors, and a way back over them.
//!
//! ```text
//! rows ─► given ─► forward ─► outputs ─► the processor's loss ─► its gradient ─► back ─► gradients ─► step
//!                     ▲                                           ▲                                 │
//!                     └──── state: the parameters in one vector, and behind them the moments ◄──────┘
//! ```
//! Of each mini-batch the rows go there, and the outputs and the squares of the gradient come back. Embeddings stay with the processor,
//! and only the rows that a mini-batch needs go to and fro. What mini-batches of the usual size launch is [recorded](super::recording).
//!
//! Each time that something comes back the processor waits: once forward, once back, and once more after rows that have moved the parameters. A model may be
//! learned by one thread now and another then, each of which has a stream of its own on a GPU, so nothing is under way in between.

use std::thread::ThreadId;

use candle_core::{CpuStorage, CudaStorage, DType, Device as Place, InplaceOp2, Layout, Result, Tensor};
use millstream_engine::part::Part;

use super::compute::{Compute, Failed, Inputs, Learning, View};
use super::cuda;
use super::graph::{Graph, Node};
use super::norms::remember;
use super::numbers::Numbers;
use super::optimizer::{Rule, Step};
use super::recording::Recording;
use super::tape::{Given, Tape, put};

/// The squares of so many gradients are summed on the device, and those sums on the processor, at its precision.
const BLOCK: usize = 1024;

/// Runs a network on a device.
pub(super) struct Device {
    place: Place,
    output: Node,
    /// How many parameters there are.
    len: usize,
    /// The parameters, then the moments, one kind after the other.
    state: Tensor,
    /// Zeros, as many as the gradients lack to whole blocks.
    padding: Tensor,
    /// Rows as many as the last mini-batch had, by the parameters that are learned, and any others.
    usual: Rows,
    other: Rows,
    /// By which rows the last way forward was, if there was no way back since.
    forward: Option<Forward>,
    outputs: Vec<f32>,
    gradients: Option<Tensor>,
    embeddings: Vec<f32>,
}

/// A way forward.
#[derive(Clone, Copy)]
struct Forward {
    is_usual: bool,
    is_learning: bool,
}

/// Rows that are computed together, and what is computed of them.
#[derive(Default)]
struct Rows {
    count: usize,
    given: Given,
    /// Where they are predicted, and where they are learned.
    ways: [Ways; 2],
    /// The gradient of the outputs.
    gradient: Option<Tensor>,
    /// A row of as many ones.
    ones: Option<Tensor>,
    /// The thread on which launches were recorded: the sizes that they take stay as long as it does.
    thread: Option<ThreadId>,
}

/// The way forward and the one back, which gives the gradients.
#[derive(Default)]
struct Ways {
    forward: Recording<Tape>,
    back: Recording<Tensor>,
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
        let len = graph.len();
        let state = Tensor::from_slice(&[values, moments].concat(), values.len() + moments.len(), &place)?;
        let padding = Tensor::zeros(blocks(len) * BLOCK - len, DType::F32, &place)?;
        place.synchronize()?;
        Ok(Self {
            place,
            output,
            len,
            state,
            padding,
            usual: Rows::default(),
            other: Rows::default(),
            forward: None,
            outputs: Vec::new(),
            gradients: None,
            embeddings: Vec::new(),
        })
    }

    /// The gradients of all parameters.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Result<Vec<f32>> {
        self.gradients.as_ref().expect("after the way back").narrow(0, 0, self.len)?.to_vec1()
    }

    /// Takes gradients there, as if they had come back.
    #[cfg(test)]
    pub(super) fn set_gradients(&mut self, gradients: &[f32]) -> Result<()> {
        self.gradients = Some(Tensor::from_slice(gradients, gradients.len(), &self.place)?);
        Ok(())
    }

    /// The parameters that are learned, or others.
    fn values(&self, view: View<'_>) -> Result<Tensor> {
        if view.are_own { Ok(self.state.clone()) } else { Tensor::from_slice(view.values, self.len, &self.place) }
    }

    fn run(
        &mut self,
        graph: &Graph,
        view: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
    ) -> Result<()> {
        let (is_usual, is_learning) = (view.are_own && inputs.rows == self.usual.count, learning.is_some());
        let (values, place) = (self.values(view)?, &self.place);
        if !is_usual {
            self.other = Rows { count: inputs.rows, ..Rows::default() };
        }
        let rows = if is_usual { self.usual.on_this_thread() } else { &mut self.other };
        rows.given.bring(graph, place, view, inputs, learning.as_mut().map(|learning| &mut *learning.random))?;
        let (ways, given, output) = (&mut rows.ways[usize::from(is_learning)], &rows.given, self.output);
        self.outputs = ways.forward.run(place, is_usual, || {
            let tape = Tape::forward(graph, &values, given, inputs.rows, is_learning)?;
            let back = flat([tape.node(output)].into_iter().chain(tape.moments.iter().map(|(_, moments)| moments)))?;
            Ok((tape, back))
        })?;
        let moments = self.outputs.split_off(inputs.rows * graph.width(output));
        if let (Some(Learning { statistics, .. }), Some(tape)) = (learning, ways.forward.made()) {
            let mut rest = &moments[..];
            for (at, new) in &tape.moments {
                let (new, others) = rest.split_at(new.elem_count());
                remember(new, &mut statistics[*at..][..new.len()], inputs.rows);
                rest = others;
            }
        }
        self.forward = Some(Forward { is_usual, is_learning });
        Ok(())
    }

    fn back(&mut self, graph: &Graph, gradient: &[f32]) -> Result<f64> {
        let Some(Forward { is_usual, is_learning }) = self.forward.take() else {
            candle_core::bail!("there is no way back without one forward");
        };
        if !is_usual {
            self.usual = std::mem::take(&mut self.other);
        }
        let (place, padding, output, blocks) = (&self.place, &self.padding, self.output, blocks(self.len));
        let Rows { count, ways, gradient: given, ones, .. } = &mut self.usual;
        put(given, gradient, (*count, graph.width(output)), place)?;
        let ones = match ones {
            Some(ones) => &*ones,
            ones => ones.insert(Tensor::ones((1, *count), DType::F32, place)?),
        };
        let Ways { forward, back } = &mut ways[usize::from(is_learning)];
        let (Some(tape), Some(gradient)) = (forward.made(), given) else { candle_core::bail!("there is no tape") };
        // What is recorded works on a tape that stays where it is.
        self.embeddings = back.run(place, forward.is_recorded(), || {
            let mut back = tape.back(graph, ones, output, gradient.clone())?;
            let gradients = back.of_parameters(padding)?;
            let sums = gradients.sqr()?.reshape((blocks, BLOCK))?.sum(1)?;
            let told = flat([&sums].into_iter().chain(back.of_embeddings()))?;
            Ok((gradients, told))
        })?;
        self.gradients = back.made().cloned();
        Ok(self.embeddings.drain(..blocks).map(f64::from).sum())
    }
}

impl Rows {
    /// Without what other threads have recorded.
    fn on_this_thread(&mut self) -> &mut Self {
        let thread = std::thread::current().id();
        if self.thread.replace(thread).is_some_and(|before| before != thread) {
            self.ways = Default::default();
        }
        self
    }
}

/// A step of an optimiser, along gradients that are multiplied by a factor.
struct Move<'a> {
    rule: &'a Rule,
    step: Step,
    factor: f32,
    len: usize,
}

impl InplaceOp2 for Move<'_> {
    fn name(&self) -> &'static str {
        "step"
    }

    fn cpu_fwd(&self, state: &mut CpuStorage, _: &Layout, gradients: &CpuStorage, _: &Layout) -> Result<()> {
        let (CpuStorage::F32(state), CpuStorage::F32(gradients)) = (state, gradients) else {
            candle_core::bail!("parameters and gradients are floats");
        };
        let (values, moments) = state.split_at_mut(self.len);
        let gradients: Vec<f32> = gradients[..self.len].iter().map(|gradient| gradient * self.factor).collect();
        self.rule.update(values, &gradients, moments, self.step);
        Ok(())
    }

    fn cuda_fwd(
        &self,
        state: &mut CudaStorage,
        state_layout: &Layout,
        gradients: &CudaStorage,
        gradients_layout: &Layout,
    ) -> Result<()> {
        let (state, gradients) = ((state, state_layout), (gradients, gradients_layout));
        cuda::step(state, gradients, self.len, self.rule, self.step, self.factor)
    }
}

/// How many blocks hold so many numbers and at least one zero.
fn blocks(len: usize) -> usize {
    len / BLOCK + 1
}

/// Tensors' numbers, one after the other, so that they come to the processor by one copy.
fn flat<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
    let flat = tensors.map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
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
        let Some(gradients) = self.gradients.take() else { return Err(Failed("there are no gradients".to_owned())) };
        Ok(self.state.inplace_op2(&gradients, &Move { rule, step, factor, len: self.len })?)
    }

    fn read(&mut self, values: &mut Part<Numbers>, moments: &mut Part<Numbers>) -> std::result::Result<(), Failed> {
        let mut numbers = self.state.to_vec1::<f32>()?;
        // What is there is not copied for those who share it, since nothing of it stays.
        *moments = Part::new(numbers.split_off(self.len).into());
        *values = Part::new(numbers.into());
        Ok(())
    }

    fn is_device(&self) -> bool {
        true
    }

    fn is_recorded(&self) -> bool {
        self.usual.ways.iter().any(|ways| ways.back.is_recorded())
    }
}
