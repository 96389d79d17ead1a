//! A network's operations on candle's tensors: the way forward, what it leaves, and the way back.
//!
//! On a device it is the launches that cost, where networks are small. So parameters are views of one vector, nothing is copied to be
//! learned, and the way back is written down here: candle's own begins every sum with zeros, and makes a tensor of each step. What comes
//! from the processor is [`Given`] beforehand, so that both ways are nothing but launches.

use candle_core::{CpuStorage, CudaStorage, D, DType, Device as Place, InplaceOp1, Layout, Result, Tensor};

use super::super::random::Random;
use super::compute::{EPSILON, Inputs, View, mask};
use super::cuda;
use super::graph::{Function, Graph, Node, Operation};

/// What the operations of a mini-batch take from the processor, by node: numbers, embeddings, statistics of the past, masks. Tensors stay
/// where they are, and are written over by those of the next mini-batch, which has as many rows.
#[derive(Default)]
pub(super) struct Given(Vec<Option<Tensor>>);

impl Given {
    /// Takes there what rows bring; `random` draws what is dropped, while the network learns.
    pub(super) fn bring(
        &mut self,
        graph: &Graph,
        place: &Place,
        view: View<'_>,
        inputs: Inputs<'_>,
        mut random: Option<&mut Random>,
    ) -> Result<()> {
        self.0.resize(graph.nodes(), None);
        let rows = inputs.rows;
        // A GPU has no tensors without numbers, and nothing asks for them.
        for (at, operation) in graph.operations().filter(|(at, _)| graph.width(Node(*at)) > 0) {
            let (width, to) = (graph.width(Node(at)), &mut self.0[at]);
            match operation {
                Operation::Numbers => put(to, inputs.numbers, (rows, width), place)?,
                Operation::Embeddings => {
                    let mut embeddings = vec![0.0; rows * width];
                    inputs.embed(graph.embedding(), &mut embeddings);
                    put(to, &embeddings, (rows, width), place)?;
                }
                Operation::BatchNorm { statistics, .. } if random.is_none() => {
                    put(to, &view.statistics[*statistics..][..2 * width], (2, width), place)?;
                }
                Operation::Dropout { rate, .. } => {
                    if let Some(random) = &mut random {
                        let mask: Vec<f32> = mask(random, *rate, rows * width).collect();
                        put(to, &mask, (rows, width), place)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn of(&self, at: usize) -> &Tensor {
        self.0[at].as_ref().expect("it was brought")
    }
}

/// Takes numbers to a tensor: the one that is there, if there is one of as many.
pub(super) fn put(to: &mut Option<Tensor>, numbers: &[f32], shape: (usize, usize), place: &Place) -> Result<()> {
    match to {
        Some(tensor) if tensor.elem_count() == numbers.len() => tensor.inplace_op1(&Overwrite(numbers))?,
        to => *to = Some(Tensor::from_slice(numbers, shape, place)?),
    }
    Ok(())
}

struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some((start, end)), CpuStorage::F32(numbers)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("only whole tensors of floats are written over");
        };
        numbers[start..end].copy_from_slice(self.0);
        Ok(())
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        cuda::overwrite(storage, layout, self.0)
    }
}

/// Parameters, and what the way forward has computed with them.
pub(super) struct Tape {
    parameters: Vec<Tensor>,
    nodes: Vec<Option<Tensor>>,
    kept: Vec<Kept>,
    /// Means and variances of a mini-batch, side by side, each with its place among the statistics.
    pub(super) moments: Vec<(usize, Tensor)>,
}

/// What the way back needs of an operation besides what it gave.
#[derive(Clone)]
enum Kept {
    Nothing,
    /// What was multiplied by it.
    Mask(Tensor),
    /// What came in, with mean 0 and deviation 1, and the factor that made it so.
    Normal(Tensor, Tensor),
}

/// Gradients that have come back.
pub(super) struct Gradients<'a> {
    tape: &'a Tape,
    graph: &'a Graph,
    /// A row of so many ones: its product sums columns by one launch, and in a fixed order.
    ones: &'a Tensor,
    nodes: Vec<Option<Tensor>>,
    parameters: Vec<Option<Tensor>>,
}

impl Tape {
    /// Computes all nodes, of rows of which all is there, by parameters at the beginning of a vector.
    pub(super) fn forward(
        graph: &Graph,
        values: &Tensor,
        given: &Given,
        rows: usize,
        is_learning: bool,
    ) -> Result<Self> {
        let parts = graph.parameters().iter().map(|parameter| {
            let part = values.narrow(0, parameter.range.start, parameter.range.len())?;
            part.reshape(parameter.shape.as_slice())
        });
        let (parameters, nodes) = (parts.collect::<Result<_>>()?, vec![None; graph.nodes()]);
        let (kept, moments) = (vec![Kept::Nothing; graph.nodes()], Vec::new());
        let mut tape = Self { parameters, nodes, kept, moments };
        tape.compute(graph, given, rows, is_learning)?;
        Ok(tape)
    }

    pub(super) fn node(&self, node: Node) -> &Tensor {
        self.nodes[node.0].as_ref().expect("an operation comes after those that it needs")
    }

    fn compute(&mut self, graph: &Graph, given: &Given, rows: usize, is_learning: bool) -> Result<()> {
        for (at, operation) in graph.operations().filter(|(at, _)| graph.width(Node(*at)) > 0) {
            let width = graph.width(Node(at));
            let parameter = |parameter: &usize| &self.parameters[*parameter];
            let node = match operation {
                Operation::Numbers | Operation::Embeddings => given.of(at).clone(),
                Operation::Zeros => Tensor::zeros((rows, width), DType::F32, self.parameters[0].device())?,
                Operation::Dense { input, bias, .. } if graph.width(*input) == 0 => {
                    parameter(bias).broadcast_as((rows, width))?.contiguous()?
                }
                Operation::Dense { input, weights, bias } => {
                    self.node(*input).matmul(parameter(weights))?.broadcast_add(parameter(bias))?
                }
                Operation::Activate { input, function } => activate(self.node(*input), *function)?,
                Operation::LayerNorm { input, gain, shift } => {
                    let input = self.node(*input);
                    let means = input.mean_keepdim(D::Minus1)?;
                    let centred = input.broadcast_sub(&means)?;
                    let variances = centred.sqr()?.mean_keepdim(D::Minus1)?;
                    let (normal, scale) = normalise(&centred, &variances)?;
                    let node = normal.broadcast_mul(parameter(gain))?.broadcast_add(parameter(shift))?;
                    self.kept[at] = Kept::Normal(normal, scale);
                    node
                }
                Operation::BatchNorm { input, gain, shift, statistics } => {
                    let input = self.node(*input);
                    let (centred, variances) = if is_learning {
                        let means = input.mean_keepdim(0)?;
                        let centred = input.broadcast_sub(&means)?;
                        let variances = centred.sqr()?.mean_keepdim(0)?;
                        self.moments.push((*statistics, Tensor::cat(&[&means, &variances], 1)?));
                        (centred, variances)
                    } else {
                        let past = given.of(at);
                        (input.broadcast_sub(&past.narrow(0, 0, 1)?)?, past.narrow(0, 1, 1)?)
                    };
                    let (normal, scale) = normalise(&centred, &variances)?;
                    let node = normal.broadcast_mul(parameter(gain))?.broadcast_add(parameter(shift))?;
                    self.kept[at] = Kept::Normal(normal, scale);
                    node
                }
                Operation::Dropout { input, .. } if is_learning => {
                    let mask = given.of(at);
                    self.kept[at] = Kept::Mask(mask.clone());
                    (self.node(*input) * mask)?
                }
                Operation::Dropout { input, .. } => self.node(*input).clone(),
                Operation::Add { left, right, factor } => {
                    (self.node(*left) + scaled(self.node(*right), f64::from(*factor))?)?
                }
                Operation::Multiply { left, right } => (self.node(*left) * self.node(*right))?,
                Operation::Concat { parts } => {
                    let parts: Vec<&Tensor> = parts.iter().map(|part| self.node(*part)).collect();
                    Tensor::cat(&parts, 1)?
                }
                Operation::Slice { input, start } => self.node(*input).narrow(1, *start, width)?.contiguous()?,
            };
            self.nodes[at] = Some(node);
        }
        Ok(())
    }

    /// From the gradient of the output to those of the parameters and of the embeddings.
    pub(super) fn back<'a>(
        &'a self,
        graph: &'a Graph,
        ones: &'a Tensor,
        output: Node,
        gradient: Tensor,
    ) -> Result<Gradients<'a>> {
        let parameters = vec![None; graph.parameters().len()];
        let mut back = Gradients { tape: self, graph, ones, nodes: vec![None; graph.nodes()], parameters };
        back.nodes[output.0] = Some(gradient);
        for (at, operation) in graph.operations().rev() {
            // That of the embeddings stays: it is asked for.
            if graph.learns(Node(at))
                && *operation != Operation::Embeddings
                && let Some(gradient) = back.nodes[at].take()
            {
                back.through(at, operation, &gradient)?;
            }
        }
        Ok(back)
    }
}

impl Gradients<'_> {
    /// Those of all parameters, one after the other, and then what fills a block.
    pub(super) fn of_parameters(&mut self, padding: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        let parameters = self.graph.parameters().iter().zip(&mut self.parameters);
        for (parameter, gradient) in parameters.filter(|(parameter, _)| !parameter.range.is_empty()) {
            parts.push(match gradient.take() {
                Some(gradient) => gradient.flatten_all()?,
                None => Tensor::zeros(parameter.range.len(), DType::F32, padding.device())?,
            });
        }
        parts.push(padding.clone());
        Tensor::cat(&parts, 0)
    }

    /// That of the embeddings, if anything came back to them.
    pub(super) fn of_embeddings(&self) -> Option<&Tensor> {
        let (at, _) = self.graph.operations().find(|(_, operation)| **operation == Operation::Embeddings)?;
        self.nodes[at].as_ref()
    }

    /// From the gradient of what an operation gave to those of what it got.
    fn through(&mut self, at: usize, operation: &Operation, out: &Tensor) -> Result<()> {
        let (tape, graph) = (self.tape, self.graph);
        match operation {
            Operation::Numbers | Operation::Zeros | Operation::Embeddings => {}
            Operation::Dense { input, weights, bias } => {
                self.sum(*bias, out)?;
                if graph.width(*input) > 0 {
                    add(&mut self.parameters[*weights], tape.node(*input).t()?.matmul(out)?)?;
                    self.to(*input, || out.matmul(&tape.parameters[*weights].t()?))?;
                }
            }
            Operation::Activate { input, function } => {
                let given = (tape.node(*input), tape.node(Node(at)));
                self.to(*input, || out * slope(given, *function)?)?;
            }
            Operation::LayerNorm { input, gain, shift } => self.normal(at, out, *input, [*gain, *shift], 1)?,
            Operation::BatchNorm { input, gain, shift, .. } => self.normal(at, out, *input, [*gain, *shift], 0)?,
            Operation::Dropout { input, .. } => match &tape.kept[at] {
                Kept::Mask(mask) => self.to(*input, || out * mask)?,
                _ => self.to(*input, || Ok(out.clone()))?,
            },
            Operation::Add { left, right, factor } => {
                self.to(*left, || Ok(out.clone()))?;
                self.to(*right, || scaled(out, f64::from(*factor)))?;
            }
            Operation::Multiply { left, right } => {
                self.to(*left, || out * tape.node(*right))?;
                self.to(*right, || out * tape.node(*left))?;
            }
            Operation::Concat { parts } => {
                let mut start = 0;
                for part in parts {
                    let width = graph.width(*part);
                    self.to(*part, || out.narrow(1, start, width)?.contiguous())?;
                    start += width;
                }
            }
            Operation::Slice { input, start } => {
                let rest = graph.width(*input) - graph.width(Node(at)) - start;
                self.to(*input, || out.pad_with_zeros(1, *start, rest))?;
            }
        }
        Ok(())
    }

    /// Through a norm over an axis, with a gain and a shift.
    fn normal(&mut self, at: usize, out: &Tensor, input: Node, [gain, shift]: [usize; 2], axis: usize) -> Result<()> {
        let Kept::Normal(normal, scale) = &self.tape.kept[at] else { unreachable!("a norm keeps what it has made") };
        self.sum(shift, out)?;
        self.sum(gain, &(out * normal)?)?;
        let gains = &self.tape.parameters[gain];
        self.to(input, || {
            let out = out.broadcast_mul(gains)?;
            let by_normal = normal.broadcast_mul(&(&out * normal)?.mean_keepdim(axis)?)?;
            (out.broadcast_sub(&out.mean_keepdim(axis)?)? - by_normal)?.broadcast_mul(scale)
        })
    }

    /// Adds the sums of the columns to the gradient of a row of parameters.
    fn sum(&mut self, parameter: usize, out: &Tensor) -> Result<()> {
        add(&mut self.parameters[parameter], self.ones.matmul(out)?)
    }

    /// Adds to the gradient of a node, where one is wanted.
    fn to(&mut self, node: Node, gradient: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if self.graph.learns(node) { add(&mut self.nodes[node.0], gradient()?) } else { Ok(()) }
    }
}

fn add(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    });
    Ok(())
}

/// A tensor times a number.
pub(super) fn scaled(tensor: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(tensor.clone()) } else { tensor.affine(factor, 0.0) }
}

/// Numbers around 0 with deviation 1, and what they were multiplied by.
fn normalise(centred: &Tensor, variances: &Tensor) -> Result<(Tensor, Tensor)> {
    let scale = variances.affine(1.0, f64::from(EPSILON))?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&scale)?, scale))
}

/// The logistic function, by the hyperbolic tangent: candle has that one.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)
}

fn activate(x: &Tensor, function: Function) -> Result<Tensor> {
    match function {
        Function::Relu => x.relu(),
        Function::Silu => x.silu(),
        Function::Gelu => x.gelu(),
        Function::Tanh => x.tanh(),
        Function::Sigmoid => sigmoid(x),
    }
}

/// The slope of a function where it got `x` and gave `y`.
fn slope((x, y): (&Tensor, &Tensor), function: Function) -> Result<Tensor> {
    match function {
        Function::Relu => y.sign(),
        Function::Silu => {
            let part = sigmoid(x)?;
            &part + (y * part.affine(-1.0, 1.0)?)?
        }
        Function::Gelu => {
            const SCALE: f64 = 0.797_884_560_802_865_4;
            const CUBE: f64 = 0.044_715;
            let square = x.sqr()?;
            let tanh = (x * square.affine(SCALE * CUBE, SCALE)?)?.tanh()?;
            let inner = (x * square.affine(3.0 * SCALE * CUBE, SCALE)?)?;
            tanh.affine(0.5, 0.5)? + (tanh.sqr()?.affine(-0.5, 0.5)? * inner)?
        }
        Function::Tanh => y.sqr()?.affine(-1.0, 1.0),
        Function::Sigmoid => y * y.affine(-1.0, 1.0)?,
    }
}
