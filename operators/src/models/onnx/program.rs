//! A graph as steps over slots: compiled once, run on batch after batch.
//!
//! ```text
//! file ─► messages ─► steps in the file's order, constants computed at once ─► only those that a wanted output needs
//! ```
//! What is computed does not depend on the machine: products are chains of fused multiply-adds, functions come from `libm`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::node::{At, Inputs, Kernel, Node};
use super::operators::{self, ML, ML_VERSION_MAX, VERSION_MAX};
use super::proto;
use super::value::Data;
use super::value::{Done, ELEMENTS_MAX, Value, for_any, text};

/// The largest number of nodes.
const NODES_MAX: usize = 100_000;
/// The largest number of inputs and outputs of a graph, and of a node.
const VALUES_MAX: usize = 10_000;
/// The most numbers that nodes may read for one row, or to compute constants.
const WORK_MAX: usize = 1 << 30;
/// The most problems that are told at once.
const TOLD: usize = 10;

/// An input of a graph.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) name: String,
    /// `TensorProto.DataType`.
    pub(super) kind: i32,
    /// Its lengths, as far as they are known; `None` where nothing is said about them.
    pub(super) shape: Option<Vec<Option<usize>>>,
    pub(super) slot: u32,
}

/// What is known of the classes of a graph, from its nodes: the names that they have there.
pub(super) type Classes = BTreeSet<Vec<String>>;

/// A graph.
pub(super) struct Program {
    pub(super) inputs: Vec<Input>,
    /// The outputs' names, and where they are.
    pub(super) outputs: Vec<(String, At)>,
    pub(super) classes: Classes,
    constants: Vec<Value>,
    steps: Vec<Step>,
    slots: usize,
    /// Whether a run has shown already that it does not take for ever.
    is_tried: bool,
    /// Buffers that nobody uses now.
    idle: Mutex<Vec<Vec<Value>>>,
}

/// A node.
struct Step {
    name: String,
    kernel: Kernel,
    inputs: Vec<At>,
    /// Slots; one for each output, also for those that nobody asks for.
    outputs: Vec<u32>,
}

/// The values after a run.
pub(super) struct Seen<'a> {
    constants: &'a [Value],
    slots: &'a [Value],
}

impl<'a> Seen<'a> {
    pub(super) fn value(&self, at: At) -> Option<&'a Value> {
        match at {
            At::Constant(at) => self.constants.get(at as usize),
            At::Slot(at) => self.slots.get(at as usize),
            At::Nowhere => None,
        }
    }
}

/// A graph that is being compiled.
struct Compiler {
    versions: BTreeMap<String, i64>,
    known: BTreeMap<String, At>,
    constants: Vec<Value>,
    steps: Vec<Step>,
    slots: u32,
    /// Elements of constants so far, and how many were read to compute them.
    elements: usize,
    work: usize,
    problems: Vec<String>,
    unknown: BTreeSet<String>,
    classes: Classes,
}

/// How many elements a node reads.
fn work_of(inputs: &Inputs<'_>) -> usize {
    (0..inputs.len()).filter_map(|at| inputs.maybe(at)).map(elements).sum()
}

/// Refuses a graph that nobody waits for.
fn bounded(work: usize) -> Done {
    if work <= WORK_MAX { Ok(()) } else { Err(format!("more than {WORK_MAX} numbers are read in all")) }
}

/// How many elements a value has.
fn elements(value: &Value) -> usize {
    value.dims.elements()
}

impl Program {
    /// Compiles a model, or says all that is in the way.
    pub(super) fn new(model: proto::Model) -> Done<Self> {
        let graph = model.graph.unwrap_or_default();
        let lists = [graph.input.len(), graph.output.len()];
        let most = graph.node.iter().flat_map(|node| [node.input.len(), node.output.len()]).chain(lists).max();
        if graph.node.len() > NODES_MAX || most > Some(VALUES_MAX) {
            return Err(format!(
                "it has more than {NODES_MAX} nodes, or one of more than {VALUES_MAX} inputs or outputs"
            ));
        }
        let mut compiler = Compiler::new(&model.opset_import);
        for tensor in &graph.initializer {
            let value = Value::read(tensor);
            compiler.constant(&tensor.name, value.map_err(|why| format!("the constant `{}`: {why}", tensor.name)));
        }
        let mut inputs = Vec::new();
        // Older files list constants among the inputs, too.
        for info in graph.input.iter().filter(|info| !compiler.known.contains_key(&info.name)).collect::<Vec<_>>() {
            inputs.extend(compiler.input(info));
        }
        for node in &graph.node {
            compiler.node(node);
        }
        let mut outputs = Vec::new();
        for info in &graph.output {
            match compiler.known.get(&info.name) {
                Some(at) => outputs.push((info.name.clone(), *at)),
                None => compiler.problems.push(format!("its output `{}` comes from no node", info.name)),
            }
        }
        compiler.finish()?;
        let Compiler { constants, steps, slots, classes, .. } = compiler;
        let idle = Mutex::default();
        Ok(Self { inputs, outputs, classes, constants, steps, slots: slots as usize, is_tried: false, idle })
    }

    /// Keeps only what some outputs need.
    pub(super) fn keep(&mut self, wanted: &[usize]) {
        let mut needed: BTreeSet<u32> = BTreeSet::new();
        let slot = |at: &At| if let At::Slot(slot) = at { Some(*slot) } else { None };
        needed.extend(wanted.iter().filter_map(|at| slot(&self.outputs[*at].1)));
        let mut steps = std::mem::take(&mut self.steps);
        steps.reverse();
        steps.retain(|step| {
            let is_needed = step.outputs.iter().any(|slot| needed.contains(slot));
            if is_needed {
                needed.extend(step.inputs.iter().filter_map(slot));
            }
            is_needed
        });
        steps.reverse();
        self.steps = steps;
        self.is_tried = true;
        // Their buffers are of what is not computed any more.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs it: fills in the inputs' slots, and shows the slots' values.
    pub(super) fn run<T>(&self, fill: impl FnOnce(&mut [Value]), see: impl FnOnce(&Seen<'_>) -> T) -> Done<T> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // The last ones are for the outputs of the node that runs.
        let mut slots = taken.unwrap_or_else(|| vec![Value::default(); self.slots]);
        fill(&mut slots);
        let outcome = self.steps(&mut slots);
        let seen = outcome.map(|()| see(&Seen { constants: &self.constants, slots: &slots }));
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(slots);
        seen
    }

    fn steps(&self, slots: &mut [Value]) -> Done {
        let (mut elements_left, mut work) = (ELEMENTS_MAX, 0);
        for step in &self.steps {
            let explain = |why: String| format!("{}: {why}", step.name);
            if !self.is_tried {
                work += work_of(&Inputs { at: &step.inputs, constants: &self.constants, slots });
                bounded(work).map_err(explain)?;
            }
            if let [only] = step.outputs[..] {
                let mut out = [std::mem::take(&mut slots[only as usize])];
                let inputs = Inputs { at: &step.inputs, constants: &self.constants, slots };
                let outcome = (step.kernel)(&inputs, &mut out);
                let [out] = out;
                slots[only as usize] = out;
                outcome.map_err(explain)?;
            } else {
                let mut out: Vec<Value> =
                    step.outputs.iter().map(|slot| std::mem::take(&mut slots[*slot as usize])).collect();
                let inputs = Inputs { at: &step.inputs, constants: &self.constants, slots };
                (step.kernel)(&inputs, &mut out).map_err(explain)?;
                step.outputs.iter().zip(out).for_each(|(slot, out)| slots[*slot as usize] = out);
            }
            for slot in &step.outputs {
                elements_left = elements_left
                    .checked_sub(elements(&slots[*slot as usize]))
                    .ok_or_else(|| explain(format!("there are more than {ELEMENTS_MAX} numbers in all")))?;
            }
        }
        Ok(())
    }

    /// How many numbers there were in the last run, over all slots.
    pub(super) fn elements(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.last().map_or(0, |slots| slots.iter().map(elements).sum())
    }

    /// How many nodes there are that are not constant.
    pub(super) fn nodes(&self) -> usize {
        self.steps.len()
    }

    /// What the nodes are, by operator.
    pub(super) fn operators(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            *counts.entry(step.name.split(' ').next().unwrap_or_default()).or_default() += 1;
        }
        counts
    }
}

impl Compiler {
    fn new(sets: &[proto::OperatorSet]) -> Self {
        let mut problems = Vec::new();
        let mut versions = BTreeMap::new();
        for set in sets {
            let domain = if set.domain == "ai.onnx" { "" } else { &set.domain };
            let most = match domain {
                "" => VERSION_MAX,
                ML => ML_VERSION_MAX,
                // Whether nodes of another set are there at all is seen there.
                _ => i64::MAX,
            };
            if !(1..=most).contains(&set.version) {
                problems
                    .push(format!("its operators are of version {} of `{domain}`, and {most} is known", set.version));
            }
            versions.insert(domain.to_owned(), set.version);
        }
        Self {
            versions,
            known: BTreeMap::new(),
            constants: Vec::new(),
            steps: Vec::new(),
            slots: 0,
            elements: 0,
            work: 0,
            problems,
            unknown: BTreeSet::new(),
            classes: Classes::new(),
        }
    }

    /// A name for a value, if nothing has it.
    fn name(&mut self, name: &str, at: At) {
        if self.known.insert(name.to_owned(), at).is_some() {
            self.problems.push(format!("there are two values `{name}`"));
        }
    }

    fn constant(&mut self, name: &str, value: Done<Value>) {
        let value = value.unwrap_or_else(|why| {
            self.problems.push(why);
            Value::default()
        });
        self.elements = self.elements.saturating_add(elements(&value));
        self.constants.push(value);
        self.name(name, At::Constant(self.constants.len() as u32 - 1));
    }

    fn slot(&mut self) -> u32 {
        self.slots += 1;
        self.slots - 1
    }

    fn input(&mut self, info: &proto::ValueInfo) -> Option<Input> {
        let name = info.name.clone();
        let Some(kind) = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) else {
            self.problems.push(format!("its input `{name}` is no tensor"));
            self.name(&name, At::Nowhere);
            return None;
        };
        let slot = self.slot();
        self.name(&name, At::Slot(slot));
        let length = |dim: &proto::Dimension| dim.dim_value.and_then(|value| usize::try_from(value).ok());
        let shape = kind.shape.as_ref().map(|shape| shape.dim.iter().map(length).collect());
        Some(Input { name, kind: kind.elem_type, shape, slot })
    }

    /// Compiles a node; what is constant is computed at once.
    fn node(&mut self, proto: &proto::Node) {
        let named = |name: &str| if name.is_empty() { String::new() } else { format!(" `{name}`") };
        let name = format!(
            "{}{}",
            proto.op_type,
            named(if proto.name.is_empty() { proto.output.first().map_or("", String::as_str) } else { &proto.name })
        );
        let mut at = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            at.push(match self.known.get(input) {
                _ if input.is_empty() => At::Nowhere,
                Some(at) => *at,
                None => {
                    let message = format!("{name} takes `{input}`, which is nothing that comes before it");
                    self.problems.push(message);
                    At::Nowhere
                }
            });
        }
        if proto.output.is_empty() {
            self.problems.push(format!("{name} gives nothing"));
            return;
        }
        self.classes_of(proto, &at);
        let domain = if proto.domain == "ai.onnx" { "" } else { &proto.domain };
        let (build, version) = (operators::find(domain, &proto.op_type), self.versions.get(domain));
        let (Some(build), Some(version)) = (build, version) else {
            let set = if domain.is_empty() { String::new() } else { format!(" of {domain}") };
            self.unknown.insert(format!("{}{set}", proto.op_type));
            return self.outputs_nowhere(proto);
        };
        // What comes after something that is wrong already says nothing new.
        if !self.problems.is_empty() || !self.unknown.is_empty() {
            return self.outputs_nowhere(proto);
        }
        let node = Node { proto, version: *version, at: &at, constants: &self.constants };
        match build(&node) {
            Err(why) => {
                self.problems.push(format!("{name}: {why}"));
                self.outputs_nowhere(proto);
            }
            Ok(kernel) if at.iter().any(|at| matches!(at, At::Slot(_))) => {
                let mut outputs = Vec::with_capacity(proto.output.len());
                for output in &proto.output {
                    let slot = self.slot();
                    outputs.push(slot);
                    if !output.is_empty() {
                        self.name(output, At::Slot(slot));
                    }
                }
                self.steps.push(Step { name, kernel, inputs: at, outputs });
            }
            Ok(kernel) => {
                let mut out = vec![Value::default(); proto.output.len()];
                let inputs = Inputs { at: &at, constants: &self.constants, slots: &[] };
                self.work += work_of(&inputs);
                let outcome = bounded(self.work).and_then(|()| kernel(&inputs, &mut out));
                if let Err(why) = outcome {
                    self.problems.push(format!("{name}: {why}"));
                }
                for (output, value) in proto.output.iter().zip(out).filter(|(output, _)| !output.is_empty()) {
                    self.constant(output, Ok(value));
                }
            }
        }
        if self.elements > ELEMENTS_MAX * 4 {
            self.problems.push(format!("there are more than {} constant numbers in all", ELEMENTS_MAX * 4));
        }
    }

    fn outputs_nowhere(&mut self, proto: &proto::Node) {
        for output in proto.output.iter().filter(|output| !output.is_empty()) {
            self.known.insert(output.clone(), At::Nowhere);
        }
    }

    /// Remembers what a node calls classes.
    fn classes_of(&mut self, proto: &proto::Node, at: &[At]) {
        for attribute in &proto.attribute {
            let labels = match attribute.name.as_str() {
                "classlabels_strings" => {
                    attribute.strings.iter().filter_map(|bytes| text(bytes).ok()).map(|text| text.to_string()).collect()
                }
                "classlabels_int64s" | "classlabels_ints" => attribute.ints.iter().map(i64::to_string).collect(),
                _ => Vec::new(),
            };
            if !labels.is_empty() {
                self.classes.insert(labels);
            }
        }
        // The index of a class, by which its name is taken from a constant.
        if proto.op_type == "ArrayFeatureExtractor"
            && let Some(At::Constant(at)) = at.first()
            && let Some(value) = self.constants.get(*at as usize)
        {
            self.classes.insert(labels(value));
        }
    }

    fn finish(&mut self) -> Done {
        if !self.unknown.is_empty() {
            let names: Vec<&str> = self.unknown.iter().map(String::as_str).collect();
            self.problems.insert(0, format!("operators that are not known here: {}", names.join(", ")));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = self.problems.len().saturating_sub(TOLD);
        self.problems.truncate(TOLD);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(format!("{}{more}", self.problems.join("; ")))
    }
}

/// Elements as texts.
pub(super) fn labels(value: &Value) -> Vec<String> {
    match &value.data {
        Data::Text(values) => values.iter().map(ToString::to_string).collect(),
        _ => {
            for_any!(value, T => value.as_of::<T>().unwrap_or_default().iter().map(|label| format!("{label:?}")).collect())
        }
    }
}
