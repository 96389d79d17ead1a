//! The networks that a definition can name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Shape;
use super::super::ranges::Ranges;
use super::graph::{Architecture, Function, Graph, Node};

/// Which network learns.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::models) enum Network {
    /// Dense layers, one after the other.
    Mlp(Layers),
    /// Cross layers, in which every column meets every other one, before dense layers (Wang and others, "DCN V2", 2021).
    Cross {
        /// How many cross layers there are, from 1 to 16.
        #[serde(default = "crosses")]
        crosses: u32,
        /// The dense layers behind them.
        #[serde(default)]
        layers: Layers,
    },
    /// A gated recurrent unit (Cho and others 2014) over the columns of numbers, which are those of some moments, the oldest first.
    Gru {
        /// How many moments there are, from 2 to 256. The columns of numbers are as many for each.
        steps: u32,
        /// How many numbers it remembers, from 1 to 4096.
        #[serde(default = "units")]
        units: u32,
        /// The dense layers behind it, which also see the categories.
        #[serde(default = "no_layers")]
        layers: Layers,
    },
    /// Causal convolutions over the same, each twice as far apart as the one before (Bai, Kolter, Koltun 2018), with residuals.
    TemporalConvolution {
        /// How many moments there are, from 2 to 256. The columns of numbers are as many for each.
        steps: u32,
        /// How many numbers each moment has between the convolutions, from 1 to 4096.
        #[serde(default = "units")]
        channels: u32,
        /// The dense layers behind them, which also see the categories.
        #[serde(default = "no_layers")]
        layers: Layers,
    },
}

/// How many weights there may be between dense layers: each costs some tens of bytes.
const WEIGHTS_MAX: f64 = 67_108_864.0;

/// Dense layers.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::models) struct Layers {
    /// The width of each, from 1 to 8192; at most 32 of them.
    hidden: Vec<u32>,
    /// What follows on each.
    activation: Function,
    /// What makes the numbers in each alike: before its activation.
    normalise: Normalise,
    /// Which share of the numbers is left out by chance while learning, from 0 to 0.95.
    dropout: f64,
    /// Whether what a layer gets is added to what it gives, where both are as wide (He and others 2016).
    residual: bool,
}

/// What makes the numbers in a layer alike.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Normalise {
    /// Nothing.
    #[default]
    None,
    /// Each row has mean 0 and deviation 1 (Ba, Kiros, Hinton 2016).
    Layer,
    /// Each column of a mini-batch has (Ioffe and Szegedy 2015).
    Batch,
}

fn crosses() -> u32 {
    2
}

fn units() -> u32 {
    32
}

fn no_layers() -> Layers {
    Layers::of(&[])
}

impl Default for Layers {
    fn default() -> Self {
        Self {
            hidden: vec![64, 64],
            activation: Function::Relu,
            normalise: Normalise::None,
            dropout: 0.0,
            residual: false,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::Mlp(Layers::default())
    }
}

impl Layers {
    /// Of these widths, with nothing else.
    pub(super) fn of(hidden: &[u32]) -> Self {
        Self { hidden: hidden.to_vec(), ..Self::default() }
    }

    pub(super) fn check(&self, path: &str, mut ranges: Ranges) -> Ranges {
        ranges = ranges.within(&format!("{path}.hidden"), self.hidden.len() as f64, 0.0, 32.0).within(
            &format!("{path}.dropout"),
            self.dropout,
            0.0,
            0.95,
        );
        for (at, width) in self.hidden.iter().enumerate() {
            ranges = ranges.within(&format!("{path}.hidden.{at}"), f64::from(*width), 1.0, 8192.0);
        }
        let weights = self.hidden.windows(2).map(|pair| f64::from(pair[0]) * f64::from(pair[1])).sum();
        ranges.within(&format!("{path}.hidden"), weights, 0.0, WEIGHTS_MAX)
    }

    /// Adds them.
    pub(super) fn add(&self, graph: &mut Graph, mut node: Node) -> Node {
        for width in &self.hidden {
            let before = node;
            node = graph.dense(node, *width as usize, "hidden");
            node = match self.normalise {
                Normalise::None => node,
                Normalise::Layer => graph.layer_norm(node),
                Normalise::Batch => graph.batch_norm(node),
            };
            node = graph.activate(node, self.activation);
            if self.dropout > 0.0 {
                node = graph.dropout(node, self.dropout as f32);
            }
            if self.residual && graph.width(before) == graph.width(node) {
                node = graph.add(node, before, 1.0);
            }
        }
        node
    }
}

impl Network {
    pub(super) fn check(&self, ranges: Ranges) -> Ranges {
        match self {
            Self::Mlp(layers) => layers.check("network.mlp", ranges),
            Self::Cross { crosses, layers } => {
                let ranges = layers.check("network.cross.layers", ranges);
                ranges.within("network.cross.crosses", f64::from(*crosses), 1.0, 16.0)
            }
            Self::Gru { steps, units, layers } => layers
                .check("network.gru.layers", ranges)
                .within("network.gru.steps", f64::from(*steps), 2.0, 256.0)
                .within("network.gru.units", f64::from(*units), 1.0, 4096.0),
            Self::TemporalConvolution { steps, channels, layers } => layers
                .check("network.temporal_convolution.layers", ranges)
                .within("network.temporal_convolution.steps", f64::from(*steps), 2.0, 256.0)
                .within("network.temporal_convolution.channels", f64::from(*channels), 1.0, 4096.0),
        }
    }
}

impl Architecture for Network {
    fn build(&self, graph: &mut Graph, outputs: usize) -> Node {
        let node = match self {
            Self::Mlp(layers) => {
                let inputs = graph.inputs();
                layers.add(graph, inputs)
            }
            Self::Cross { crosses, layers } => {
                let inputs = graph.inputs();
                let width = graph.width(inputs);
                let mut node = inputs;
                for _ in 0..*crosses {
                    let mixed = graph.dense(node, width, "cross");
                    let crossed = graph.multiply(inputs, mixed);
                    node = graph.add(crossed, node, 1.0);
                }
                layers.add(graph, node)
            }
            Self::Gru { steps, units, layers } => {
                let moments = moments(graph, *steps as usize);
                let node = gru(graph, &moments, *units as usize);
                let node = beside_categories(graph, node);
                layers.add(graph, node)
            }
            Self::TemporalConvolution { steps, channels, layers } => {
                let moments = moments(graph, *steps as usize);
                let node = convolutions(graph, moments, *channels as usize);
                let node = beside_categories(graph, node);
                layers.add(graph, node)
            }
        };
        graph.output(node, outputs)
    }
}

/// The columns of each moment, the oldest first. Columns that are too few for another moment are left out.
fn moments(graph: &mut Graph, steps: usize) -> Vec<Node> {
    let numbers = graph.numbers();
    let width = graph.width(numbers) / steps;
    (0..steps).map(|step| graph.slice(numbers, step * width, width)).collect()
}

fn beside_categories(graph: &mut Graph, node: Node) -> Node {
    match graph.embeddings() {
        Some(embeddings) => graph.concat(vec![node, embeddings]),
        None => node,
    }
}

/// As `PyTorch` has it: the reset gate is applied behind the weights. It begins with zeros.
fn gru(graph: &mut Graph, moments: &[Node], units: usize) -> Node {
    let inputs = moments.first().map_or(0, |moment| graph.width(*moment));
    let mut gates = |from: &str, inputs: usize| {
        ["reset", "update", "new"].map(|gate| graph.dense_parameters(inputs, units, &format!("{gate}.{from}")))
    };
    let (of_input, of_state) = (gates("input", inputs), gates("state", units));
    let mut state = graph.zeros(units);
    for moment in moments {
        let [reset, update, new] = of_input.map(|(weights, bias)| graph.dense_of(*moment, weights, bias));
        let [old_reset, old_update, old] = of_state.map(|(weights, bias)| graph.dense_of(state, weights, bias));
        let mut gate = |new: Node, old: Node| {
            let sum = graph.add(new, old, 1.0);
            graph.activate(sum, Function::Sigmoid)
        };
        let (reset, update) = (gate(reset, old_reset), gate(update, old_update));
        let gated = graph.multiply(reset, old);
        let new = graph.add(new, gated, 1.0);
        let new = graph.activate(new, Function::Tanh);
        // (1 - update) * new + update * state.
        let difference = graph.add(state, new, -1.0);
        let kept = graph.multiply(update, difference);
        state = graph.add(new, kept, 1.0);
    }
    state
}

/// Levels of convolutions of two moments, until the last one sees the first; each with a residual. Before the first moment
/// there is nothing.
fn convolutions(graph: &mut Graph, mut moments: Vec<Node>, channels: usize) -> Node {
    let mut apart = 1;
    while apart < moments.len() {
        let inputs = graph.width(moments[0]);
        let now = graph.dense_parameters(inputs, channels, "convolution.now");
        let past = graph.dense_parameters(inputs, channels, "convolution.past");
        let through = (inputs != channels).then(|| graph.dense_parameters(inputs, channels, "convolution.through"));
        // Of these, only what the last moment is made of is computed.
        let mut next = Vec::with_capacity(moments.len());
        for (at, moment) in moments.iter().enumerate() {
            let mut node = graph.dense_of(*moment, now.0, now.1);
            if at >= apart {
                let before = graph.dense_of(moments[at - apart], past.0, past.1);
                node = graph.add(node, before, 1.0);
            }
            node = graph.activate(node, Function::Relu);
            let rest = through.map_or(*moment, |(weights, bias)| graph.dense_of(*moment, weights, bias));
            next.push(graph.add(node, rest, 1.0));
        }
        moments = next;
        apart *= 2;
    }
    moments[moments.len() - 1]
}

/// An encoder and, the other way around, a decoder.
pub(super) struct Mirror(pub(super) Layers);

impl Architecture for Mirror {
    fn build(&self, graph: &mut Graph, outputs: usize) -> Node {
        let inputs = graph.inputs();
        let node = self.0.add(graph, inputs);
        let narrower = &self.0.hidden[..self.0.hidden.len().saturating_sub(1)];
        let back = Layers { hidden: narrower.iter().rev().copied().collect(), ..self.0.clone() };
        let node = back.add(graph, node);
        graph.output(node, outputs)
    }
}

/// What a network is for rows of this shape.
pub(super) fn graph(architecture: &dyn Architecture, shape: Shape, embedding: usize, outputs: usize) -> (Graph, Node) {
    let mut graph = Graph::new(shape, embedding);
    let output = architecture.build(&mut graph, outputs);
    graph.keep_for(output);
    (graph, output)
}
